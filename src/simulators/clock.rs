//! The simulators' own time: the machine's, moved ahead on command.

use chrono::{DateTime, TimeDelta, Utc};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Virtual clock: real time plus an offset that only grows. Clones share the offset.
#[derive(Debug, Clone)]
pub struct Clock {
    ahead_us: Arc<AtomicI64>,
    moved: watch::Sender<()>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { ahead_us: Arc::default(), moved: watch::Sender::new(()) }
    }
}

impl Clock {
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.ahead()
    }

    /// How far this clock is ahead of the machine's.
    pub fn ahead(&self) -> TimeDelta {
        TimeDelta::microseconds(self.ahead_us.load(Ordering::Acquire))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_us.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX / 4), Ordering::AcqRel);
        self.moved.send_replace(());
    }

    /// Returns once this clock has reached `at`, by waiting or by being moved.
    pub(crate) async fn reach(&self, at: DateTime<Utc>) {
        let mut moved = self.moved.subscribe();
        loop {
            let Ok(left) = (at - self.now()).to_std() else { return };
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = moved.changed() => {}
            }
        }
    }
}
