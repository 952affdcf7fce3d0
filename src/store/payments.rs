//! Tables `payment` and `dunning`: what came in, and what was done when it did not.

use crate::{
    invoices::{self, Invoice, Refused},
    ledger::{self, Account, Currency, Entry},
};
use chrono::{DateTime, Utc};
use domain::{InvoiceId, TenantId, money::Units};
use serde_json::json;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// Money that came in for an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub payment_id: Uuid,
    pub invoice_id: InvoiceId,
    pub amount_units: i64,
    pub paid_at: DateTime<Utc>,
    /// The bank's; one of them is recorded once.
    pub reference: String,
}

/// Records a payment of whole centimes, never above what is left to pay. The same reference again is the same payment.
pub async fn record(
    tx: &mut PgConnection,
    tenant: TenantId,
    number: &str,
    amount: Units,
    paid_at: DateTime<Utc>,
    reference: &str,
    now: DateTime<Utc>,
) -> Result<Payment, Refused> {
    ledger::lock(tx, &[tenant]).await?;
    let invoice = invoices::get(&mut *tx, Some(tenant), number).await?.ok_or(Refused::Unknown)?;
    if invoice.kind != "invoice" {
        return Err(Refused::NotAnInvoice);
    }
    if let Some(same) = of_invoice(&mut *tx, invoice.invoice_id).await?.into_iter().find(|payment| payment.reference == reference)
    {
        return if same.amount_units == amount.0 { Ok(same) } else { Err(Refused::OtherPayment) };
    }
    let left = left_to_pay(tx, &invoice).await?;
    if amount > left {
        return Err(Refused::TooMuch { left });
    }
    let payment = Payment {
        payment_id: Uuid::now_v7(),
        invoice_id: invoice.invoice_id,
        amount_units: amount.0,
        paid_at,
        reference: reference.to_owned(),
    };
    sqlx::query!(
        "insert into payment (payment_id, invoice_id, tenant_id, amount_units, paid_at, reference) values ($1, $2, $3, $4, $5, $6)",
        payment.payment_id,
        invoice.invoice_id.0,
        tenant.0,
        amount.0,
        paid_at,
        reference
    )
    .execute(&mut *tx)
    .await?;
    let detail = json!({ "number": number, "payment_id": payment.payment_id, "reference": reference });
    let entry = Entry::new(tenant, "payment", detail).transfer(Account::Cash, Account::Receivable, Currency::Mad, amount.0);
    ledger::append(tx, &[entry]).await?;
    settle(tx, &invoice, now).await?;
    Ok(payment)
}

/// The total less credit notes and payments.
pub async fn left_to_pay(tx: &mut PgConnection, invoice: &Invoice) -> Result<Units, Refused> {
    let credited = invoices::left_to_credit(&mut *tx, invoice).await?.total;
    let paid = of_invoice(&mut *tx, invoice.invoice_id).await?.iter().map(|payment| payment.amount_units).sum::<i64>();
    Ok(credited.minus(Units(paid)).map_err(domain::billing::BillingError::from)?.max(Units::ZERO))
}

/// An invoice of which nothing is left is paid, and a tenant that was suspended for it may send again.
pub(crate) async fn settle(tx: &mut PgConnection, invoice: &Invoice, now: DateTime<Utc>) -> Result<(), Refused> {
    if left_to_pay(tx, invoice).await? > Units::ZERO || !invoices::paid(&mut *tx, invoice.invoice_id, now).await? {
        return Ok(());
    }
    resume(tx, invoice.tenant_id, now).await?;
    Ok(())
}

pub async fn of_invoice(db: impl PgExecutor<'_>, invoice: InvoiceId) -> sqlx::Result<Vec<Payment>> {
    sqlx::query_as!(
        Payment,
        r#"select payment_id, invoice_id as "invoice_id: InvoiceId", amount_units, paid_at, reference from payment
           where invoice_id = $1 order by paid_at, payment_id"#,
        invoice.0
    )
    .fetch_all(db)
    .await
}

/// Notes a step (`overdue`, `reminder_1`, `reminder_2`, `suspended`) once; `false`: it was done.
pub async fn dun(db: impl PgExecutor<'_>, invoice: InvoiceId, step: &str, now: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query!("insert into dunning (invoice_id, step, at) values ($1, $2, $3) on conflict do nothing", invoice.0, step, now)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Stops a tenant's sends for an unpaid invoice. Its lines stay: only a person gives them back.
pub async fn suspend(tx: &mut PgConnection, invoice: &Invoice, now: DateTime<Utc>) -> sqlx::Result<bool> {
    // With the chain's row held no payment slips in between.
    ledger::lock(tx, &[invoice.tenant_id]).await?;
    let unpaid =
        sqlx::query_scalar!(r#"select status <> 'paid' as "unpaid!" from invoice where invoice_id = $1"#, invoice.invoice_id.0)
            .fetch_one(&mut *tx)
            .await?;
    if !unpaid || !dun(&mut *tx, invoice.invoice_id, "suspended", now).await? {
        return Ok(false);
    }
    sqlx::query!(
        "update tenant set status = 'suspended', updated_at = $2 where tenant_id = $1 and status = 'active'",
        invoice.tenant_id.0,
        now
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Sends go on once no invoice that stopped them is unpaid. Who was suspended for another reason stays so.
async fn resume(tx: &mut PgConnection, tenant: TenantId, now: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "with told as (select i.invoice_id, i.status from invoice i join dunning d using (invoice_id)
             where i.tenant_id = $1 and d.step = 'suspended'
               and not exists (select from dunning r where r.invoice_id = i.invoice_id and r.step = 'resumed')),
         resumed as (insert into dunning (invoice_id, step, at)
             select invoice_id, 'resumed', $2 from told where not exists (select from told where status <> 'paid') on conflict do nothing returning 1)
         update tenant set status = 'active', updated_at = $2
         where tenant_id = $1 and status = 'suspended' and exists (select from resumed)",
        tenant.0,
        now
    )
    .execute(tx)
    .await
    .map(drop)
}
