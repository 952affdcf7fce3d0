//! The simulators' own time: the machine's, moved ahead and held on command.

use chrono::{DateTime, TimeDelta, Utc};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Virtual clock: real time plus an offset, so that it never goes back. Clones share it.
#[derive(Debug, Clone)]
pub struct Clock {
    ahead_us: Arc<AtomicI64>,
    /// The real moment since which it stands still.
    held: Arc<Mutex<Option<DateTime<Utc>>>>,
    moved: watch::Sender<()>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { ahead_us: Arc::default(), held: Arc::default(), moved: watch::Sender::new(()) }
    }
}

impl Clock {
    pub fn now(&self) -> DateTime<Utc> {
        self.held().unwrap_or_else(Utc::now) + self.ahead()
    }

    fn held(&self) -> MutexGuard<'_, Option<DateTime<Utc>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on time passes only as it is moved.
    pub(crate) fn hold(&self) {
        self.held().get_or_insert_with(Utc::now);
    }

    /// Time passes by itself again, from where it stands.
    pub(crate) fn go_on(&self) {
        let mut held = self.held();
        if let Some(since) = held.take() {
            let stood = (Utc::now() - since).num_microseconds().unwrap_or(0);
            self.ahead_us.fetch_sub(stood, Ordering::AcqRel);
        }
        drop(held);
        self.moved.send_replace(());
    }

    /// How far this clock is ahead of the machine's.
    pub fn ahead(&self) -> TimeDelta {
        TimeDelta::microseconds(self.ahead_us.load(Ordering::Acquire))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.ahead_us.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX / 4), Ordering::AcqRel);
        self.moved.send_replace(());
    }

    /// Returns once this clock has reached `at`, by waiting or by being moved. While it is held, only by being moved.
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
