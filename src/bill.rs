//! `bill` and `invoice` from the terminal: the month closed, exported and compared; documents seen, printed, paid, credited.

use crate::{
    cli::{Bill, Invoice, ListInvoices},
    client::{Client, Printer, end_of},
    terminal::{Paint, at, table},
};
use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use domain::{
    billing::Period,
    money::{Units, in_words},
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const MARGIN_COLUMNS: &[&str] = &["tenant_id", "revenue", "cost", "margin", "loss", "without_cost"];
const DIFFERENCE_COLUMNS: &[&str] = &["source", "day", "category", "ours", "theirs", "class", "tolerated", "proposal"];
const INVOICE_COLUMNS: &[&str] = &["number", "kind", "tenant_id", "period", "status", "total", "issued_at", "due_at"];
const LINE_COLUMNS: &[&str] = &["description", "quantity", "unit_price", "amount"];

pub(crate) async fn bill(verb: Bill, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Bill::Close { month, wait } => {
            let month = read(&month)?;
            let answer = api.post(&format!("/v1/billing/months/{month}/close"), &json!({}), None).await?;
            if wait {
                let run = answer.pointer("/run/id").and_then(Value::as_str).context("the service's answer names no run")?;
                return end_of(&api, run, print).await;
            }
            print.one(&answer);
        }
        Bill::Export { month, out } => {
            let month = read(&month)?;
            let csv = api.get_bytes(&format!("/v1/billing/months/{month}/export.csv")).await?;
            match out {
                Some(file) => save(&file, &csv, print)?,
                None if print.json => say!("{}", json!({ "data": rows(&csv)? })),
                None => put!("{}", String::from_utf8(csv).context("the export is not text")?),
            }
        }
        Bill::Margin { month } => {
            let month = read(&month)?;
            print.list(&api.get(&format!("/v1/billing/months/{month}/margin")).await?, MARGIN_COLUMNS);
        }
        Bill::Reconcile { month } => {
            let month = read(&month)?;
            let found = api.get(&format!("/v1/billing/months/{month}/reconciliation")).await?;
            let differences = found["data"].as_array().map(Vec::as_slice).unwrap_or_default();
            if print.json || !differences.is_empty() {
                print.list(&found, DIFFERENCE_COLUMNS);
            }
            if found["balanced"] != true {
                bail!(
                    "{month} does not balance: {} differences",
                    differences.iter().filter(|row| row["tolerated"] != true).count()
                );
            }
            if !print.json {
                let tolerated = if differences.is_empty() { "nothing differs" } else { "what differs is tolerated" };
                say!("{} {month} balances: {tolerated}", print.paint.green("ok"));
            }
        }
    }
    Ok(())
}

pub(crate) async fn invoice(verb: Invoice, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Invoice::List(list) => print.list(&api.get(&listed(&list)?).await?, INVOICE_COLUMNS),
        Invoice::Show { number } => {
            let invoice = api.get(&path(&number)).await?;
            if print.json { print.one(&invoice) } else { say!("{}", sheet(&invoice, print.paint)) }
        }
        Invoice::Pdf { number, out } => {
            let pdf = api.get_bytes(&format!("{}.pdf", path(&number))).await?;
            save(&out.unwrap_or_else(|| PathBuf::from(format!("{number}.pdf"))), &pdf, print)?;
        }
        Invoice::Pay { number, amount, reference, on } => {
            let body = json!({ "amount": amount, "reference": reference, "paid_at": on });
            print.one(&api.post(&format!("{}/payments", path(&number)), &body, None).await?);
        }
        Invoice::Credit { number, amount, reason, idempotency_key } => {
            let body = json!({ "amount": amount, "reason": reason });
            let note = api.post(&format!("{}/credit-notes", path(&number)), &body, idempotency_key.as_deref()).await?;
            if print.json { print.one(&note) } else { say!("{}", sheet(&note, print.paint)) }
        }
    }
    Ok(())
}

fn read(month: &str) -> anyhow::Result<Period> {
    month.parse().with_context(|| format!("{month:?} is no month"))
}

/// What people type may hold anything.
fn path(number: &str) -> String {
    let number: String = number
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b == b'-' { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    format!("/v1/invoices/{number}")
}

fn listed(list: &ListInvoices) -> anyhow::Result<String> {
    let mut query: Vec<String> = list.page.cursor.iter().map(|cursor| format!("cursor={cursor}")).collect();
    query.extend(list.tenant.iter().map(|tenant| format!("tenant_id={tenant}")));
    if let Some(month) = &list.month {
        query.push(format!("period={}", read(month)?));
    }
    query.extend(list.status.iter().map(|status| format!("status={status}")));
    Ok(if query.is_empty() { "/v1/invoices".to_owned() } else { format!("/v1/invoices?{}", query.join("&")) })
}

fn save(file: &Path, bytes: &[u8], print: Printer) -> anyhow::Result<()> {
    std::fs::write(file, bytes).with_context(|| format!("{} cannot be written", file.display()))?;
    if print.json {
        say!("{}", json!({ "file": file, "bytes": bytes.len() }));
    } else {
        say!("{} {} bytes in {}", print.paint.green("ok"), bytes.len(), file.display());
    }
    Ok(())
}

/// The rows of a CSV file as objects.
fn rows(csv: &[u8]) -> anyhow::Result<Vec<Map<String, Value>>> {
    let mut reader = csv::Reader::from_reader(csv);
    let names = reader.headers().context("the export has no header")?.clone();
    let row = |row: csv::Result<csv::StringRecord>| {
        let row = row.context("the export is not understood")?;
        Ok(names.iter().zip(&row).map(|(name, cell)| (name.to_owned(), json!(cell))).collect())
    };
    reader.records().map(row).collect()
}

/// A document as people read it: its head, its lines, its totals, the total in words.
pub(crate) fn sheet(invoice: &Value, paint: Paint) -> String {
    let text = |name: &str| at(invoice, name).as_str().unwrap_or("-");
    let title = if invoice["kind"] == "credit_note" { format!("credit note on {}", text("corrects")) } else { "invoice".into() };
    let mut sheet = format!("{}  {title} for {}  {}", paint.bold(text("number")), text("period"), paint.status(text("status")));
    let day = |name: &str| day(text(name)).unwrap_or_else(|| text(name).to_owned());
    let due = if invoice["due_at"].is_null() { String::new() } else { format!(", due {}", day("due_at")) };
    sheet.push_str(&format!("\n{}", paint.dim(format!("issued {}{due}", day("issued_at")))));
    let lines = invoice["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    sheet.push_str(&format!("\n{}", table(LINE_COLUMNS, lines, paint)));
    let currency = text("currency");
    let vat = format!("TVA {} %", text("vat_rate").trim_end_matches(".00"));
    for (name, amount) in [("net", text("net")), (vat.as_str(), text("vat")), ("total", text("total"))] {
        sheet.push_str(&format!("\n{name:9}{amount} {currency}"));
    }
    if let Some(words) = Units::amount(text("total")).ok().and_then(|total| in_words(total).ok()) {
        sheet.push_str(&format!("\n{}", paint.dim(words)));
    }
    for note in invoice["credit_notes"].as_array().into_iter().flatten() {
        let text = |name: &str| note[name].as_str().unwrap_or("-");
        sheet.push_str(&format!("\ncredited {} {currency} by {}: {}", text("total"), text("number"), text("reason")));
    }
    sheet
}

/// Of the seller's calendar, as it is printed.
fn day(at: &str) -> Option<String> {
    let at: DateTime<Utc> = at.parse().ok()?;
    Some(at.with_timezone(&chrono_tz::Africa::Casablanca).date_naive().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_cannot_leave_its_place_in_the_address() {
        assert_eq!(path("F-2026-000001"), "/v1/invoices/F-2026-000001");
        assert_eq!(path("../keys?x"), "/v1/invoices/%2E%2E%2Fkeys%3Fx");
    }

    #[test]
    fn an_export_is_rows_with_names() {
        let rows = rows(b"number,tenant_name\r\nF-2026-000001,\"Rif, SARL\"\r\n").unwrap();
        assert_eq!(json!(rows), json!([{ "number": "F-2026-000001", "tenant_name": "Rif, SARL" }]));
    }
}
