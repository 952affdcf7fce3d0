//! Numbers that a provider holds for us and no line claims: listed for a person, never deleted.

use crate::Tools;
use chrono::{DateTime, Utc};
use domain::Failure;
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use store::lines;
use tracing::warn;

/// Every hour; `at` is the tick (contracts/telnyx.md 2.5, step 6).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SweepOrphans {
    pub at: DateTime<Utc>,
}

impl Job<Tools> for SweepOrphans {
    const QUEUE: &'static str = "sweep_orphans";
    const CONCURRENCY: usize = 1;

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let swept = ctx.clock.now();
        for number in tools.telnyx.numbers().await? {
            let reference = number.customer_reference.as_deref();
            note(tools, "telnyx", &number.id, &number.phone_number, reference, "paid for at Telnyx, and no line has it").await?;
        }
        lines::forget_orphans(&tools.db, "telnyx", swept).await?;
        for number in tools.meta.numbers().await? {
            let digits: String = number.display_phone_number.chars().filter(char::is_ascii_digit).collect();
            let why = "left in the account at Meta; only a person can delete it there";
            note(tools, "meta", &number.id, &format!("+{digits}"), None, why).await?;
        }
        lines::forget_orphans(&tools.db, "meta", swept).await?;
        Ok(())
    }
}

async fn note(tools: &Tools, provider: &str, id: &str, phone: &str, reference: Option<&str>, why: &str) -> Result<(), Failure> {
    if !lines::claims(&tools.db, phone).await? {
        lines::note_orphan(&tools.db, provider, id, phone, reference, why).await?;
        warn!(line.phone = phone, "Orphan at {provider}: {why}");
    }
    Ok(())
}
