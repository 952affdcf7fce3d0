//! The end of a line: deregistered, its number given back, its costs kept.

use crate::{
    line::{purchase, registration, tell_checkout, until},
    provision_line::leave,
};
use chrono::{DateTime, Days, Utc};
use domain::{Failure, LineId, TenantId};
use durable::{Flow, Policy, Run, Workflow};
use jobs::{LookAgain, Tools};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::lines;
use uuid::Uuid;

/// A release is only ever finished: its steps try for months before they give up.
const STUBBORN: Policy = Policy {
    attempts: 5_000,
    patience: Duration::from_secs(60),
    first_delay: Duration::from_secs(1),
    longest_delay: Duration::from_secs(1_800),
};
/// How long a number that cannot be given back (a deletion lock) waits for a person.
const UNLOCK_PATIENCE: Duration = Duration::from_secs(90 * 24 * 3_600);
/// The longest span of one list of charges (contracts/telnyx.md 10).
const CHARGES_DAYS: u64 = 31;

/// Asked again for the same line, it is the same run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseLine {
    pub line: LineId,
    pub tenant: TenantId,
}

/// What is released.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    phone: String,
    phone_number_id: Option<String>,
    provision_run: Option<Uuid>,
    bought_at: Option<DateTime<Utc>>,
}

impl Workflow<Tools> for ReleaseLine {
    const NAME: &'static str = "release_line";
    type Output = ();

    fn key(&self) -> Option<String> {
        Some(self.line.to_string())
    }
    fn scope(&self) -> Option<Uuid> {
        Some(self.tenant.0)
    }

    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<()> {
        let Self { line, tenant } = self;
        let id = run.id();
        let Some(held) = run.step("begin", begin(tools, line, tenant, id)).await? else { return Ok(()) };

        // First, or the number's next owner would receive its codes. The account keeps our subscription: other lines live there.
        if let Some(number_id) = &held.phone_number_id {
            run.step_with(STUBBORN, "deregister", registration::deregister(tools, id, &held.phone, number_id)).await?;
            run.step_with(STUBBORN, "leave the account", leave(tools, held.phone.clone())).await?;
        }
        let costs = run.attempt("final costs", costs(tools, &held)).await?;
        until::<LookAgain, _, _>(run, tools, line, "release number", &line.to_string(), UNLOCK_PATIENCE, |_| {
            purchase::release(tools, held.provision_run, &held.phone)
        })
        .await?;
        run.step_with(STUBBORN, "end the line", end(tools, line, costs.ok())).await
    }
}

/// `None`: it has ended before.
async fn begin(tools: &Tools, line: LineId, tenant: TenantId, run: Uuid) -> Result<Option<Held>, Failure> {
    let mut tx = tools.db.begin().await?;
    lines::releasing(&mut tx, line, run).await?;
    tx.commit().await?;
    let row = lines::get(&tools.db, tenant, line).await?;
    let row = row.ok_or_else(|| Failure::rejected("there is no such line").code("no_line"))?;
    match (row.status.as_str(), row.phone) {
        ("released" | "failed", _) => Ok(None),
        ("releasing", Some(phone)) => Ok(Some(Held {
            phone,
            phone_number_id: row.phone_number_id,
            provision_run: row.provision_run,
            bought_at: row.bought_at,
        })),
        (status, _) => Err(Failure::rejected(format!("the line is {status}: cancel its run instead")).code("still_being_built")),
    }
}

/// What Telnyx has charged for the number so far, in millionths.
async fn costs(tools: &Tools, held: &Held) -> Result<i64, Failure> {
    let today = tools.clock.now().date_naive();
    let mut from = held.bought_at.map_or(today, |bought| bought.date_naive());
    let end = today + Days::new(1);
    let mut micros = 0;
    while from < end {
        let until = (from + Days::new(CHARGES_DAYS)).min(end);
        let charges = tools.telnyx.charges(from, until).await?;
        let ours = charges.numbers.iter().filter(|number| number.phone_number == held.phone);
        micros += ours.flat_map(|number| &number.services).map(|service| service.cost.micros).sum::<i64>();
        from = until;
    }
    Ok(micros)
}

async fn end(tools: &Tools, line: LineId, costs: Option<i64>) -> Result<(), Failure> {
    let mut tx = tools.db.begin().await?;
    if lines::released(&mut tx, line, costs).await? {
        tell_checkout(&mut tx, tools, line).await?;
    }
    Ok(tx.commit().await?)
}
