//! Money that was only pencilled in: charges that nothing confirmed for 32 days are reversed, and their credit is free again.

use crate::Tools;
use chrono::{DateTime, Utc};
use domain::Failure;
use durable::{Ctx, Job};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{charges, credit};
use tracing::info;

/// Every night; `at` is the tick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpireCharges {
    pub at: DateTime<Utc>,
}

impl Job<Tools> for ExpireCharges {
    const QUEUE: &'static str = "expire_charges";
    const CONCURRENCY: usize = 1;
    const PATIENCE: Duration = Duration::from_secs(600);

    async fn run(self, tools: &Tools, _ctx: &Ctx) -> Result<(), Failure> {
        let mut reversed = 0;
        loop {
            let mut tx = tools.db.begin().await?;
            let some = charges::expire(&mut tx, self.at).await?;
            tx.commit().await?;
            if some == 0 {
                break;
            }
            reversed += some;
        }
        // A card may have been loaded since.
        let priced = charges::price_waiting(&tools.db).await?;
        if priced > 0 {
            info!("Priced {priced} charges that had come before their rates");
        }
        let mut tx = tools.db.begin().await?;
        let freed = credit::release_lost(&mut tx, self.at).await?;
        tx.commit().await?;
        if reversed > 0 || freed > 0 {
            info!("Reversed {reversed} charges that were never confirmed, and freed {freed} reservations");
        }
        Ok(())
    }
}
