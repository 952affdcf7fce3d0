//! A month ends: every tenant is closed at 02:00 on the 1st of its own time zone, or when finance says so, exactly once.

use crate::CloseTenant;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use domain::{Failure, TenantId, billing::Period, seller::Seller};
use durable::{Ctx, Flow, Job, Policy, Run, Signal, Tx, Workflow};
use jobs::Tools;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::invoices::{self, Issued, Open};
use tracing::info;

/// Tenants whose months are closed in one transaction.
const CLOSED_AT_ONCE: usize = 1_000;
/// Where the month is counted when there is no tenant to ask.
const HOME: Tz = chrono_tz::Africa::Casablanca;
/// Adding up a thousand tenants' months.
const CLOSING: Policy = Policy {
    attempts: 1_000,
    patience: Duration::from_secs(600),
    first_delay: Duration::from_secs(1),
    longest_delay: Duration::from_secs(300),
};
/// A tick on the 28th starts the month's run and one on the 1st makes sure of it: both lie within this of the month.
const TICK_LAG_DAYS: i64 = 5;

/// One run per month; asked again, it is the same run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseMonth {
    pub month: Period,
}

/// Finance does not wait for 02:00: whatever month has ended is closed now. Key: the month.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CloseNow {}

impl Signal for CloseNow {
    const TOPIC: &'static str = "close_now";
}

/// What became of the month.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MonthClosed {
    pub month: Period,
    pub tenants: usize,
    pub invoices: usize,
}

/// What one step has closed.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Closed {
    tenants: usize,
    invoices: usize,
}

impl Workflow<Tools> for CloseMonth {
    const NAME: &'static str = "close_month";
    type Output = MonthClosed;

    fn key(&self) -> Option<String> {
        Some(self.month.to_string())
    }

    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<MonthClosed> {
        let month = self.month;
        let mut closed = MonthClosed { month, tenants: 0, invoices: 0 };
        let mut told = false;
        while let Some(at) = run.step("next closing", next_closing(tools, month, told)).await? {
            if let Ok(patience) = (at - run.now().await?).to_std()
                && !patience.is_zero()
            {
                told |= run.wait::<CloseNow>(month, patience, "the end of the month").await?.is_some();
            }
            let some = run.step_with(CLOSING, "close", close(tools, month, told)).await?;
            closed.tenants += some.tenants;
            closed.invoices += some.invoices;
        }
        Ok(closed)
    }
}

/// When the first of those still open may be closed; `None` once nobody is left and the month is over.
async fn next_closing(tools: &Tools, month: Period, told: bool) -> Result<Option<DateTime<Utc>>, Failure> {
    let open = open(tools, month).await?;
    let first = open.iter().map(|tenant| closes_at(tenant, month, told)).min();
    // Tenants may still come until the month has ended.
    Ok(first.or_else(|| Some(month.end(HOME)).filter(|end| *end > tools.clock.now())))
}

fn closes_at(tenant: &Open, month: Period, told: bool) -> DateTime<Utc> {
    if told { month.end(tenant.zone) } else { month.closes_at(tenant.zone) }
}

async fn open(tools: &Tools, month: Period) -> Result<Vec<Open>, Failure> {
    let open = invoices::open(&tools.db, month).await?;
    Ok(open.into_iter().filter(|tenant| tenant.created_at < month.end(tenant.zone)).collect())
}

/// Closes everybody whose time has come. Each batch commits its invoices together with the runs that see to them, so a crash
/// in between repeats nothing and forgets nothing.
async fn close(tools: &Tools, month: Period, told: bool) -> Result<Closed, Failure> {
    let now = tools.clock.now();
    let due: Vec<TenantId> = open(tools, month)
        .await?
        .into_iter()
        .filter(|tenant| closes_at(tenant, month, told) <= now)
        .map(|tenant| tenant.id)
        .collect();
    let mut closed = Closed::default();
    for batch in due.chunks(CLOSED_AT_ONCE) {
        let mut tx = tools.db.begin().await?;
        let issued = close_tenants(&mut tx, month, batch, &tools.settings.seller, now).await?;
        tx.commit().await?;
        closed.tenants += batch.len();
        closed.invoices += issued.len();
        info!("Closed {month} for {} tenants with {} invoices", batch.len(), issued.len());
    }
    Ok(closed)
}

/// Their invoices, and the runs that see to them, in the caller's transaction.
pub async fn close_tenants(
    tx: &mut Tx<'_>,
    month: Period,
    tenants: &[TenantId],
    seller: &Seller,
    now: DateTime<Utc>,
) -> Result<Vec<Issued>, Failure> {
    let issued = invoices::close(tx, month, tenants, seller, now).await.map_err(refused)?;
    let children = issued.iter().map(|issued| CloseTenant {
        tenant: issued.tenant,
        month,
        invoice: issued.invoice,
        number: issued.number.clone(),
    });
    durable::start_all::<Tools, _>(tx, children).await?;
    Ok(issued)
}

pub(crate) fn refused(refused: invoices::Refused) -> Failure {
    match refused {
        invoices::Refused::Database(error) => error.into(),
        other => Failure::rejected(other.to_string()).code("not_invoiced"),
    }
}

/// The clock's part: starts the run of the month that is about to end, or has just ended. `at` is the tick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloseMonths {
    pub at: DateTime<Utc>,
}

impl CloseMonths {
    /// 02:00 on the 28th and on the 1st, in Morocco.
    pub const CRON: &'static str = "0 0 2 1,28 * *";
    pub const ZONE: Tz = HOME;
}

impl Job<Tools> for CloseMonths {
    const QUEUE: &'static str = "close_months";
    const CONCURRENCY: usize = 1;

    async fn run(self, tools: &Tools, _ctx: &Ctx) -> Result<(), Failure> {
        let day = self.at.with_timezone(&HOME).date_naive() - chrono::Duration::days(TICK_LAG_DAYS);
        let mut tx = tools.db.begin().await?;
        durable::start::<Tools, _>(&mut tx, &CloseMonth { month: Period::of_day(day) }).await?;
        Ok(tx.commit().await?)
    }
}
