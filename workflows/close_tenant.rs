//! An invoice's life after its number: sent, reminded of, and if nobody pays, sends are suspended; a line is only given back by
//! a person.

use crate::close_month::refused;
use chrono::{DateTime, Utc};
use domain::{Failure, InvoiceId, TenantId, billing::Period, money::Units};
use durable::{Flow, Run, Signal, Tx, Workflow};
use jobs::Tools;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use store::{
    credit,
    invoices::{self, Invoice},
    payments,
};
use tracing::info;
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// After the due day: the first reminder at once, a second one, and the end of patience.
const SECOND_REMINDER_AFTER: Duration = DAY.saturating_mul(10);
const SUSPENDED_AFTER: Duration = DAY.saturating_mul(10);

/// One run per invoice.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseTenant {
    pub tenant: TenantId,
    pub month: Period,
    pub invoice: InvoiceId,
    pub number: String,
}

/// Nothing of it is left to pay. Key: the invoice's number.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct InvoicePaid {}

impl Signal for InvoicePaid {
    const TOPIC: &'static str = "invoice_paid";
}

/// How the run ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InvoiceSettled {
    pub number: String,
    /// `paid`, or `overdue` with sends suspended.
    pub status: String,
}

impl Workflow<Tools> for CloseTenant {
    const NAME: &'static str = "close_tenant";
    type Output = InvoiceSettled;

    fn key(&self) -> Option<String> {
        Some(self.number.clone())
    }
    fn scope(&self) -> Option<Uuid> {
        Some(self.tenant.0)
    }

    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<InvoiceSettled> {
        let Self { invoice, number, .. } = self;
        let settled = |status: &str| InvoiceSettled { number: number.clone(), status: status.to_owned() };
        let due = run.step("send", send(tools, invoice)).await?;
        let mut patience = (due - run.now().await?).to_std().unwrap_or_default();
        for (step, next) in
            [("reminder_1", Some(SECOND_REMINDER_AFTER)), ("reminder_2", Some(SUSPENDED_AFTER)), ("suspended", None)]
        {
            run.wait::<InvoicePaid>(&number, patience, "payment").await?;
            if run.step(step, chase(tools, invoice, step)).await? {
                return Ok(settled("paid"));
            }
            patience = next.unwrap_or_default();
        }
        Ok(settled("overdue"))
    }
}

/// Sent once; says when it is due.
async fn send(tools: &Tools, id: InvoiceId) -> Result<DateTime<Utc>, Failure> {
    let now = tools.clock.now();
    let mut tx = tools.db.begin().await?;
    let invoice = get(&mut tx, id).await?;
    if invoice.total_units == 0 {
        invoices::paid(&mut *tx, id, now).await?;
    } else if invoices::sent(&mut *tx, id, now).await? {
        tell(&mut tx, tools, id, "invoice.issued").await?;
    }
    tx.commit().await?;
    Ok(invoice.due_at.unwrap_or(now))
}

/// Does what is due about an unpaid invoice, once; `true`: it is paid.
async fn chase(tools: &Tools, id: InvoiceId, step: &'static str) -> Result<bool, Failure> {
    let now = tools.clock.now();
    let mut tx = tools.db.begin().await?;
    let invoice = get(&mut tx, id).await?;
    if payments::left_to_pay(&mut tx, &invoice).await.map_err(refused)? == Units::ZERO {
        return Ok(true);
    }
    invoices::overdue(&mut *tx, id).await?;
    let done = match step {
        "suspended" => payments::suspend(&mut tx, &invoice, now).await?,
        _ => payments::dun(&mut *tx, id, step, now).await?,
    };
    if done {
        let event = if step == "suspended" { "tenant.suspended" } else { "invoice.reminder" };
        tell(&mut tx, tools, id, event).await?;
        info!(tenant.id = %invoice.tenant_id, "Invoice {} is not paid: {step}", invoice.number);
    }
    tx.commit().await?;
    Ok(false)
}

async fn get(tx: &mut Tx<'_>, id: InvoiceId) -> Result<Invoice, Failure> {
    invoices::by_id(&mut **tx, id).await?.ok_or_else(|| Failure::rejected("there is no such invoice").code("no_invoice"))
}

/// To every address that the tenant's orders gave, in the transaction of what it tells.
async fn tell(tx: &mut Tx<'_>, tools: &Tools, id: InvoiceId, event: &str) -> Result<(), Failure> {
    let invoice = get(tx, id).await?;
    let data = json!({ "number": invoice.number, "tenant_id": invoice.tenant_id, "period": Period::of_day(invoice.month), "status": invoice.status,
        "issued_at": invoice.issued_at, "due_at": invoice.due_at, "total": Units(invoice.total_units), "currency": "MAD" });
    for url in credit::addresses(&mut **tx, invoice.tenant_id).await? {
        jobs::call_back(tx, invoice.tenant_id, &url, event, tools.clock.now(), &data).await?;
    }
    Ok(())
}
