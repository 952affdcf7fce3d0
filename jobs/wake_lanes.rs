//! The net under the lanes: sends that nobody works, holds and restrictions that are over, looked for once a minute.

use crate::{
    Tools, learn_account,
    run_lane::{self, RunLane},
};
use chrono::{DateTime, Utc};
use domain::{Failure, LineId, MessageId};
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{lanes, messages};
use tracing::warn;

/// A due send that is older than this should be at work: lanes wake at once.
const STRANDED_AFTER: Duration = Duration::from_secs(30);
/// Lines of one look.
const BATCH: i64 = 1_000;

/// Every minute; `at` is the tick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WakeLanes {
    pub at: DateTime<Utc>,
}

impl Job<Tools> for WakeLanes {
    const QUEUE: &'static str = "wake_lanes";
    const CONCURRENCY: usize = 1;

    async fn run(self, tools: &Tools, _ctx: &Ctx) -> Result<(), Failure> {
        let db = &tools.db;
        for line in lanes::free_again(db, BATCH).await? {
            let mut tx = db.begin().await?;
            learn_account::resume_line(&mut tx, line).await?;
            tx.commit().await?;
        }
        for line in messages::holds_over(db, BATCH).await? {
            release_holds(tools, line).await?;
        }
        let stranded = lanes::stranded(db, STRANDED_AFTER, BATCH).await?;
        if stranded.is_empty() {
            return Ok(());
        }
        warn!("{} lanes have work and nobody at it", stranded.len());
        let mut tx = db.begin().await?;
        for line in stranded {
            let key = Some(format!("net:{line}:{}", self.at.timestamp()));
            let options = durable::Options { key, ..durable::Options::default() };
            durable::enqueue_with::<Tools, _>(&mut tx, &RunLane { line }, options).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The lane does so itself while it runs; this is for lanes that cannot.
async fn release_holds(tools: &Tools, line: LineId) -> Result<(), Failure> {
    let mut tx = tools.db.begin().await?;
    let released = messages::release_holds(&mut *tx, line).await?;
    let ids: Vec<MessageId> = released.iter().map(|(id, _)| *id).collect();
    messages::tell(&mut *tx, &ids).await?;
    // Whoever waits behind a contact's open attempt may go now, too.
    run_lane::wake(&mut tx, &[line]).await?;
    Ok(tx.commit().await?)
}
