//! The demo ends: the month is over, the clock closes it, an invoice is issued and paid, and the providers' accounts say the same.

use crate::{
    bill,
    books::{self, Entry},
    progress::Screen,
    stage::Stage,
    terminal::length,
    verify,
};
use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use domain::{LineId, billing::Period};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Past the hour at which months are closed.
const MARGIN: Duration = Duration::from_secs(60);
/// From the tick to the last invoice on its way, in real time.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// Plays it for the company of a line that has sent; answers what is told with `--json`.
pub(crate) async fn perform(stage: &Stage, screen: &Screen, line: LineId) -> anyhow::Result<Value> {
    let api = &stage.api;
    let line = api.get(&format!("/v1/lines/{line}")).await?;
    let tenant = api.get(&format!("/v1/tenants/{}", text(&line, "tenant_id")?)).await?;
    let (id, zone) = (text(&tenant, "id")?, text(&tenant, "time_zone")?.parse::<Tz>().context("the company's time zone")?);
    screen.heading("The month ends");
    let now: DateTime<Utc> =
        text(&api.get("/v1/sandbox/clock").await?, "now")?.parse().context("the sandbox's clock is not understood")?;
    let month = Period::of(now, zone);
    let closes_at = month.closes_at(zone);
    let by = (closes_at - now).to_std().unwrap_or_default() + MARGIN;
    let begun = Instant::now();
    stage.advance(by).await.context("the sandbox's clock does not move")?;
    let local = closes_at.with_timezone(&zone).format("%Y-%m-%d %H:%M");
    screen.fact("clock", &format!("moved on by {}, past {local} in {zone}", length(by)), "");
    let documents = issued(stage, month, &id).await?;
    let run = &api.get("/v1/runs?workflow=close_month&status=succeeded").await?["data"][0]["id"];
    screen.fact(
        "closed",
        &format!("{month}, by the clock's own tick: {} invoices", documents.len()),
        &format!("{}, run {}", length(begun.elapsed()), run.as_str().unwrap_or("-")),
    );

    let invoice = documents.iter().find(|invoice| invoice["tenant_id"] == tenant["id"]).context("there is no invoice")?;
    let number = text(invoice, "number")?;
    screen.heading(&format!("The invoice of {}", tenant["name"].as_str().unwrap_or("-")));
    for row in bill::sheet(invoice, screen.paint).lines() {
        screen.say(format!("  {row}"));
    }
    let pdf = stage.directory.join(format!("{number}.pdf"));
    let pages = api.get_bytes(&format!("/v1/invoices/{number}.pdf")).await?;
    ensure!(pages.starts_with(b"%PDF-"), "{number} is not printed");
    std::fs::write(&pdf, &pages).with_context(|| format!("{} cannot be written", pdf.display()))?;
    screen.say("");
    screen.fact("PDF", &pdf.display().to_string(), &format!("{} kB", pages.len() / 1_000));
    let payment = json!({ "amount": invoice["total"], "reference": "VIR-2026-0001" });
    let paid = api.post(&format!("/v1/invoices/{number}/payments"), &payment, None).await.context("it cannot be paid")?;
    screen.fact(
        "payment",
        &format!("{} MAD, reference VIR-2026-0001", paid["amount"].as_str().unwrap_or("-")),
        &format!("the invoice is {}", paid["status"].as_str().unwrap_or("-")),
    );
    let mut wrong = Vec::new();
    if paid["status"] != "paid" {
        wrong.push(format!("{number} is paid and does not say so"));
    }

    screen.heading(&format!("{month} beside the providers"));
    let entries = compare(stage, &documents).await?;
    screen.say(books::show(&entries, screen.paint));
    if !books::balanced(&entries) {
        wrong.push("the month's books do not balance".to_owned());
    }
    let differences = api.get(&format!("/v1/billing/months/{month}/reconciliation")).await?;
    let rows = differences["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    for row in rows {
        let text = |name: &str| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned);
        let what =
            format!("{} {} {}: {} here, {} there", text("source"), text("day"), text("category"), text("ours"), text("theirs"));
        screen.fact(&text("class"), &what, &text("proposal"));
    }
    if differences["balanced"] != true || !rows.is_empty() {
        wrong.push(format!("the reconciliation finds {} differences", rows.len()));
    }
    screen.say("");
    screen.fact(
        "reconciliation",
        &format!("{} differences", rows.len()),
        "by day, number and category at Meta, by number at Telnyx",
    );
    let margins = api.get(&format!("/v1/billing/months/{month}/margin")).await?;
    let margin = margins["data"].as_array().into_iter().flatten().find(|row| row["tenant_id"] == tenant["id"]);
    let margin = margin.context("the company's month has no margin")?;
    let mad = |name: &str| margin[name].as_str().unwrap_or("-");
    screen.fact(
        "margin",
        &format!("{} MAD", mad("margin")),
        &format!("{} came in, {} went to Meta and Telnyx", mad("revenue"), mad("cost")),
    );
    let walked = verify::walk(&stage.db).await?;
    for (place, words) in walked.words().iter().enumerate() {
        screen.fact(if place == 0 { "ligne verify" } else { "" }, words, "");
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    screen.say(format!("  {}", screen.paint.green("the month is closed, invoiced, paid and reconciled to zero")));
    Ok(json!({ "month": month, "invoices": documents, "pdf": pdf, "payment": paid, "books": books::to_json(&entries),
        "reconciliation": differences, "margin": margin, "verify": walked.to_json() }))
}

/// The month's invoices, once the clock's run has closed it and all of them are on their way.
async fn issued(stage: &Stage, month: Period, tenant: &str) -> anyhow::Result<Vec<Value>> {
    let begun = Instant::now();
    loop {
        let listed = stage.api.get(&format!("/v1/invoices?period={month}")).await?;
        let found = listed["data"].as_array().cloned().unwrap_or_default();
        let sent = !found.is_empty() && found.iter().all(|invoice| invoice["status"] == "sent");
        if sent && found.iter().any(|invoice| invoice["tenant_id"] == tenant) {
            return Ok(found);
        }
        ensure!(begun.elapsed() < PATIENCE, "{month} was not closed in time: {listed}");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// What was billed and what it cost beside what the providers counted and took.
async fn compare(stage: &Stage, documents: &[Value]) -> anyhow::Result<Vec<Entry>> {
    let lines = documents.iter().flat_map(|invoice| invoice["lines"].as_array().into_iter().flatten());
    let billed: u64 = lines.filter(|line| line["kind"] == "messages").filter_map(|line| line["quantity"].as_u64()).sum();
    let (meta_micro, telnyx_micro): (i64, i64) = sqlx::query_as(
        "select (select coalesce(sum(amount), 0)::bigint from ledger_posting where account = 'meta_cost' and currency = 'USD'),
                (select coalesce(sum(coalesce(upfront_micro, 0) + coalesce(monthly_micro, 0)), 0)::bigint from purchase where outcome in ('owned', 'released'))",
    )
    .fetch_one(&stage.db)
    .await
    .context("the ledger cannot be read")?;
    let (messages, numbers) = (stage.simulators.message_books(), books::Side::theirs(&stage.simulators.books()));
    // Who reads at once is told as read alone.
    let arrived = messages.accepted - messages.statuses.get("failed").copied().unwrap_or_default();
    Ok(vec![
        Entry::equal("messages billed", billed, arrived),
        Entry::usd("Meta's bill, USD", meta_micro, messages.cost.try_into().unwrap_or(i64::MAX)),
        Entry::usd("Telnyx's bill, USD", telnyx_micro, numbers.spent_micro_usd),
    ])
}

fn text(value: &Value, name: &str) -> anyhow::Result<String> {
    value[name].as_str().map(str::to_owned).with_context(|| format!("the service's answer has no {name}: {value}"))
}
