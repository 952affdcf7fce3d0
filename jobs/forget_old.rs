//! What need not be kept is not kept: webhook bodies, words heard, old answers, old events. Ended runs are the engine's to forget.

use crate::Tools;
use chrono::{DateTime, TimeDelta, Utc};
use domain::Failure;
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use store::{calls, events, idempotency, inbox};
use tracing::info;

/// Raw webhooks: longer than any provider repeats them.
const INBOX_KEPT: TimeDelta = TimeDelta::days(30);
/// What was said on a call; the code in it lives ten minutes.
const HEARD_KEPT: TimeDelta = TimeDelta::days(1);
/// A request may be repeated with its key for this long.
const ANSWERS_KEPT: TimeDelta = TimeDelta::days(7);
/// `Last-Event-ID` reaches this far back.
const EVENTS_KEPT: TimeDelta = TimeDelta::days(30);
/// Rows of one statement: no long locks.
const BATCH: i64 = 5_000;

/// Every night; `at` is the tick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgetOld {
    pub at: DateTime<Utc>,
}

impl Job<Tools> for ForgetOld {
    const QUEUE: &'static str = "forget_old";
    const CONCURRENCY: usize = 1;
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let (db, now) = (&tools.db, ctx.clock.now());
        let heard = calls::forget(db, HEARD_KEPT).await?;
        let webhooks = all(|| inbox::forget(db, now - INBOX_KEPT, BATCH)).await?;
        let answers = all(|| idempotency::forget(db, now - ANSWERS_KEPT, BATCH)).await?;
        let events = all(|| events::forget(db, now - EVENTS_KEPT, BATCH)).await?;
        info!("Forgot {heard} words heard, {webhooks} webhooks, {answers} answers and {events} events");
        Ok(())
    }
}

/// Batch after batch until one comes back short.
async fn all<F: Future<Output = sqlx::Result<u64>>>(batch: impl Fn() -> F) -> sqlx::Result<u64> {
    let mut gone = 0;
    loop {
        let some = batch().await?;
        gone += some;
        if some < BATCH.unsigned_abs() {
            return Ok(gone);
        }
    }
}
