//! Words and files are kept as long as their tenant wants: then the contents go, and the rows that money stands on stay.

use crate::Tools;
use chrono::{DateTime, Utc};
use domain::Failure;
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{media, messages};
use tracing::info;

/// Rows of one statement: no long locks.
const BATCH: i64 = 2_000;

/// Every night; `at` is the tick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgetMessages {
    pub at: DateTime<Utc>,
}

impl Job<Tools> for ForgetMessages {
    const QUEUE: &'static str = "forget_messages";
    const CONCURRENCY: usize = 1;
    const PATIENCE: Duration = Duration::from_secs(3_600);

    async fn run(self, tools: &Tools, _ctx: &Ctx) -> Result<(), Failure> {
        let (mut words, mut files) = (0, 0);
        loop {
            let some = messages::forget(&tools.db, BATCH).await?;
            words += some;
            if some < BATCH.unsigned_abs() {
                break;
            }
        }
        loop {
            let some = media::forget(&tools.db, BATCH).await?;
            files += some;
            if some < BATCH.unsigned_abs() {
                break;
            }
        }
        info!("Erased the contents of {words} messages and {files} files");
        Ok(())
    }
}
