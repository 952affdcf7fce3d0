//! Webhooks that nobody works: said aloud, and put back to work.

use crate::{TakeWebhook, Tools};
use chrono::{DateTime, TimeDelta, Utc};
use domain::Failure;
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use store::inbox;
use tracing::error;

/// An event this old should long be worked.
const STALLED_AFTER: TimeDelta = TimeDelta::minutes(5);
/// Put back to work at one look.
const BATCH: i64 = 500;

/// Every minute; `at` is the tick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchInbox {
    pub at: DateTime<Utc>,
}

impl Job<Tools> for WatchInbox {
    const QUEUE: &'static str = "watch_inbox";
    const CONCURRENCY: usize = 1;

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let stalled = inbox::untaken(&tools.db, ctx.clock.now() - STALLED_AFTER, BATCH).await?;
        metrics::gauge!("ligne_inbox_stalled").set(stalled.len() as f64);
        if stalled.is_empty() {
            return Ok(());
        }
        error!("{} webhooks were not worked for {} minutes", stalled.len(), STALLED_AFTER.num_minutes());
        let mut tx = tools.db.begin().await?;
        for (provider, event_id) in stalled {
            // A dead job leaves the event; the key keeps this from piling up.
            let key = Some(format!("stalled:{provider}:{event_id}:{}", self.at.timestamp() / STALLED_AFTER.num_seconds()));
            let options = durable::Options { key, ..durable::Options::default() };
            durable::enqueue_with(&mut tx, &TakeWebhook { provider, event_id }, options).await?;
        }
        Ok(tx.commit().await?)
    }
}
