//! This worker's right to act: a name in `apalis.workers`, beaten every second, void five seconds after the last beat.

use sqlx::PgPool;
use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Age of the last beat at which others take over. In real time: a sandbox's advance costs nobody his lease.
pub(crate) const LEASE: Duration = Duration::from_secs(5);
/// Between two beats.
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// `worker_type` of our rows, which apalis's own recovery therefore leaves alone.
pub(crate) const WORKER_TYPE: &str = "durable";

/// Whether any engine works on this database: one has beaten within its lease.
pub async fn alive(db: impl sqlx::PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from apalis.workers where worker_type = $1 and last_seen > clock_timestamp() - make_interval(secs => $2))")
        .bind(WORKER_TYPE)
        .bind(LEASE.as_secs_f64())
        .fetch_one(db)
        .await
}

/// Cheap to clone; every clone is the same worker.
#[derive(Clone)]
pub(crate) struct Lease(Arc<Inner>);

struct Inner {
    name: RwLock<Arc<str>>,
    /// When the last beat that landed was sent.
    beat: Mutex<Option<Instant>>,
    stopping: CancellationToken,
    /// The next due time that this process knows of, for timers shorter than the poll.
    due: Mutex<Option<Instant>>,
    due_changed: Notify,
}

impl Lease {
    pub(crate) fn new(stopping: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            name: RwLock::new(new_name()),
            beat: Mutex::new(None),
            stopping,
            due: Mutex::new(None),
            due_changed: Notify::new(),
        }))
    }

    /// The name to claim under. A new one after every lapse, so that what was claimed before stays lost.
    pub(crate) fn name(&self) -> Arc<str> {
        self.0.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether an act may begin: nobody can have taken over yet, and we are not leaving.
    pub(crate) fn may_act(&self) -> bool {
        !self.0.stopping.is_cancelled() && self.is_fresh()
    }

    /// Whether an act that was begun under `name` may go on: nobody can have taken over.
    pub(crate) fn holds(&self, name: &str) -> bool {
        self.is_fresh() && *self.name() == *name
    }

    fn is_fresh(&self) -> bool {
        let beat = *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner);
        beat.is_some_and(|beat| beat.elapsed() < LEASE)
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// Something falls due in `delay`: look then, if that is before the next poll anyway.
    pub(crate) fn due_in(&self, delay: Duration) {
        if delay > BEAT {
            return;
        }
        let at = Instant::now() + delay;
        let mut due = self.0.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.is_none_or(|due| at < due) {
            *due = Some(at);
            self.0.due_changed.notify_one();
        }
    }

    /// Resolves at the next known due time.
    pub(crate) async fn due(&self) {
        loop {
            let due = *self.0.due.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = self.0.due_changed.notified();
            match due {
                None => changed.await,
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at.into()) => {
                        *self.0.due.lock().unwrap_or_else(PoisonError::into_inner) = None;
                        return;
                    }
                },
            }
        }
    }

    /// Registers, then beats until dropped.
    pub(crate) async fn keep(self, db: PgPool) {
        let mut beats = tokio::time::interval(BEAT);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            if let Err(error) = self.beat(&db).await {
                tracing::warn!(%error, "The worker's heartbeat did not land");
            }
        }
    }

    pub(crate) async fn beat(&self, db: &PgPool) -> sqlx::Result<()> {
        let sent = Instant::now();
        let name = self.name();
        let beaten = sqlx::query("update apalis.workers set last_seen = clock_timestamp() where id = $1")
            .bind(&*name)
            .execute(db)
            .await?
            .rows_affected();
        if beaten == 0 {
            // Never registered, or declared dead by a sweep: what we held is no longer ours.
            let name = new_name();
            sqlx::query(
                "insert into apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
                 values ($1, $2, 'durable', '', clock_timestamp(), clock_timestamp())",
            )
            .bind(&*name)
            .bind(WORKER_TYPE)
            .execute(db)
            .await?;
            *self.0.name.write().unwrap_or_else(PoisonError::into_inner) = name;
        }
        *self.0.beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        Ok(())
    }

    /// Gives back what is still held and signs off.
    pub(crate) async fn resign(&self, db: &PgPool) -> sqlx::Result<()> {
        free(db, &[self.name().to_string()], 0).await
    }
}

fn new_name() -> Arc<str> {
    format!("durable-{}", Uuid::new_v4()).into()
}

/// Frees what workers held whose lease has lapsed, and strikes them off.
pub(crate) async fn sweep(db: &PgPool) -> sqlx::Result<()> {
    let lease_s = i32::try_from(LEASE.as_secs()).unwrap_or(i32::MAX);
    let lapsed: Vec<String> = sqlx::query_scalar(
        "select id from apalis.workers where worker_type = $1 and last_seen < clock_timestamp() - make_interval(secs => $2)",
    )
    .bind(WORKER_TYPE)
    .bind(f64::from(lease_s))
    .fetch_all(db)
    .await?;
    if !lapsed.is_empty() {
        free(db, &lapsed, 1).await?;
        tracing::warn!(workers = lapsed.len(), "Workers whose lease had lapsed were struck off; their work goes on elsewhere");
    }
    Ok(())
}

/// The worker's row goes first: a beat that comes too late finds none and knows. Orphaned jobs count an attempt, for it may have
/// been the job that killed the worker.
async fn free(db: &PgPool, names: &[String], counted: i32) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query("select id from apalis.workers where id = any($1) order by id for update").bind(names).execute(&mut *tx).await?;
    sqlx::query(
        "with freed as (
             update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, attempts = attempts + $2
             where lock_by = any($1) returning job_type
         )
         select pg_notify('durable_job', job_type) from (select distinct job_type from freed) queue",
    )
    .bind(names)
    .bind(counted)
    .execute(&mut *tx)
    .await?;
    sqlx::query("delete from apalis.workers where id = any($1)").bind(names).execute(&mut *tx).await?;
    tx.commit().await
}
