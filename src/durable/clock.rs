//! The one clock: real time plus the sandbox's offset, the same in Rust and in SQL (`durable.now()`).

use chrono::{DateTime, Utc};
use domain::Failure;
use sqlx::{PgPool, postgres::PgListener};
use std::{
    future::ready,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// NOTIFY channel: the offset has changed.
pub(crate) const CHANNEL: &str = "durable_clock";
/// How old the offset may be if a notification is lost.
const REFRESH: Duration = Duration::from_secs(2);
/// Stops of one `advance`; what is due after them waits for the next call.
const STOPS: usize = 100_000;
/// How long everything due at one instant may take to be worked.
const SETTLE_PATIENCE: Duration = Duration::from_secs(120);
/// First and longest pause between two looks at unfinished work.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(20);

/// Cheap to clone; every clone shares the offset.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    offset_us: AtomicI64,
    /// Keeps the offset fresh; ends with the last clone.
    follower: OnceLock<AbortOnDropHandle<()>>,
}

/// What `advance` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Advanced {
    /// The installation's time now.
    pub now: DateTime<Utc>,
    /// Seconds that the installation is ahead of real time.
    pub advanced_s: i64,
}

impl Clock {
    /// The clock of this database; follows every `advance` for as long as a clone of it lives.
    pub async fn load(db: &PgPool) -> Result<Self, Failure> {
        let clock = Self::default();
        clock.refresh(db).await?;
        let follower = tokio::spawn(follow(db.clone(), Arc::downgrade(&clock.0)));
        // The first and only one: the clock is a moment old.
        let _ = clock.0.follower.set(AbortOnDropHandle::new(follower));
        Ok(clock)
    }

    /// The installation's time.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::microseconds(self.0.offset_us.load(Ordering::Acquire))
    }

    /// How far the installation is ahead of real time.
    pub fn advanced(&self) -> Duration {
        Duration::from_micros(self.0.offset_us.load(Ordering::Acquire).unsigned_abs())
    }

    pub(crate) async fn refresh(&self, db: &PgPool) -> sqlx::Result<()> {
        self.set(offset(db).await?);
        Ok(())
    }

    fn set(&self, offset_us: i64) {
        // Time never goes back, whatever order the news come in.
        self.0.offset_us.fetch_max(offset_us, Ordering::AcqRel);
    }
}

/// A pool of one, outside the caller's: a listener would hold one of his for ever.
pub(crate) fn own_pool(db: &PgPool, size: u32) -> PgPool {
    sqlx::postgres::PgPoolOptions::new()
        .max_connections(size)
        .test_before_acquire(false)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(db.connect_options().as_ref().clone().options([("plan_cache_mode", "force_custom_plan")]))
}

async fn offset(db: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar("select advanced_us from durable.clock").fetch_one(db).await
}

/// Keeps the offset fresh by notification, and by asking every `REFRESH` as the net.
async fn follow(db: PgPool, shared: Weak<Shared>) {
    let ear = own_pool(&db, 2);
    let mut listener = None;
    loop {
        if listener.is_none()
            && let Ok(mut fresh) = PgListener::connect_with(&ear).await
        {
            listener = fresh.listen(CHANNEL).await.is_ok().then_some(fresh);
        }
        match &mut listener {
            Some(ready) => {
                if let Ok(Err(_)) = tokio::time::timeout(REFRESH, ready.recv()).await {
                    listener = None;
                }
            }
            None => tokio::time::sleep(REFRESH).await,
        }
        let Some(clock) = shared.upgrade().map(Clock) else { return };
        if let Err(error) = clock.refresh(&ear).await {
            tracing::debug!(%error, "The clock could not be refreshed");
        }
    }
}

/// Moves the installation's time on by `by`, stop by stop: to the next due timer, job or tick, works all of it, and so on, so
/// that things happen in the order in which they would have. Ticks of a patrol are no stops. Needs a running engine somewhere.
/// Fails as `Transient` if what is due at one stop is not worked within two minutes; the time reached by then stays.
pub async fn advance(db: &PgPool, clock: &Clock, by: Duration) -> Result<Advanced, Failure> {
    advance_with(db, clock, by, |_| ready(Ok(())), || ready(Ok(None))).await
}

/// [`advance`] together with a world outside that has a clock of its own. `forward` moves it on, just before ours; `settle` waits
/// until it is quiet and says how long until something falls due there, which is a stop like any other.
pub async fn advance_with<F, S>(
    db: &PgPool,
    clock: &Clock,
    by: Duration,
    forward: impl Fn(Duration) -> F,
    settle_outside: impl Fn() -> S,
) -> Result<Advanced, Failure>
where
    F: Future<Output = Result<(), Failure>>,
    S: Future<Output = Result<Option<Duration>, Failure>>,
{
    let by_us = i64::try_from(by.as_micros()).map_err(|_| Failure::rejected("too far to advance"))?;
    let mut reached = offset(db).await?;
    let target = reached.checked_add(by_us).ok_or_else(|| Failure::rejected("too far to advance"))?;
    for _ in 0..STOPS {
        let outside = loop {
            let outside = settle_outside().await?;
            // What we did meanwhile may have set something off outside.
            if !worked_off(db).await? {
                break outside;
            }
        };
        if reached == target {
            return Ok(Advanced { now: clock.now(), advanced_s: clock.0.offset_us.load(Ordering::Acquire) / 1_000_000 });
        }
        // The offset at which the next thing is due, never past the target.
        let next: Option<i64> = sqlx::query_scalar(
            "select ceil(extract(epoch from min(due) - clock_timestamp()) * 1000000)::bigint from (
                 select min(wake_at) as due from durable.run where wake_at is not null
                 union all select min(run_at) from apalis.jobs where status = 'Pending'
                 union all select min(next_at) from durable.tick where each_counts
             ) next",
        )
        .fetch_one(db)
        .await?;
        let outside = outside.and_then(|left| reached.checked_add(i64::try_from(left.as_micros()).ok()?));
        let stop = [next, outside, Some(target)].into_iter().flatten().min().unwrap_or(target).max(reached);
        forward(Duration::from_micros(stop.abs_diff(reached))).await?;
        reached = move_to(db, clock, stop).await?.min(target);
    }
    Err(Failure::transient(format!("too much happens in this time: {STOPS} stops")))
}

/// The offset is what it was asked to be, or more if somebody else moved it.
async fn move_to(db: &PgPool, clock: &Clock, offset_us: i64) -> Result<i64, Failure> {
    let offset_us: i64 = sqlx::query_scalar(
        "with moved as (update durable.clock set advanced_us = greatest(advanced_us, $1) returning advanced_us)
         select advanced_us from moved, pg_notify('durable_clock', '')",
    )
    .bind(offset_us)
    .fetch_one(db)
    .await?;
    clock.set(offset_us);
    Ok(offset_us)
}

/// Waits until every due job, timer and tick has been worked and nothing is in hand. Needs a running engine somewhere.
pub async fn settle(db: &PgPool) -> Result<(), Failure> {
    worked_off(db).await.map(drop)
}

/// [`settle`]; says whether there was anything to wait for.
async fn worked_off(db: &PgPool) -> Result<bool, Failure> {
    let mut waited = false;
    let until = Instant::now() + SETTLE_PATIENCE;
    let mut pause = LOOK_FIRST;
    loop {
        let unfinished: Option<String> = sqlx::query_scalar(
            "select coalesce(
                 (select 'job in hand: ' || job_type from apalis.jobs where lock_by is not null limit 1),
                 (select 'due job: ' || job_type from apalis.jobs where status = 'Pending' and run_at <= durable.now() limit 1),
                 (select 'due run: ' || run_id from durable.run where wake_at <= durable.now() limit 1),
                 (select 'wanted job: ' || queue from durable.wanted where not exists (
                     select from apalis.jobs where job_type = queue and idempotency_key = key) limit 1),
                 (select 'due tick: ' || name from durable.tick where next_at <= durable.now() limit 1))",
        )
        .fetch_one(db)
        .await?;
        let Some(unfinished) = unfinished else { return Ok(waited) };
        waited = true;
        if Instant::now() > until {
            return Err(Failure::transient(format!("still not worked after {} s: {unfinished}", SETTLE_PATIENCE.as_secs())));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_LAST);
    }
}
