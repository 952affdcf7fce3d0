//! Cron: a cursor per schedule, so that every tick is enqueued once over all processes, and none is lost while all are down.

use crate::{
    Tx,
    queue::{self, Options},
    run::panic_text,
};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use cron::Schedule;
use domain::Failure;
use sqlx::{PgPool, Row};
use std::{str::FromStr, sync::Arc};

/// Ticks of one schedule that are enqueued in one transaction.
const TICKS_AT_ONCE: usize = 100;

/// One schedule of this program.
#[derive(Clone)]
pub(crate) struct Every {
    pub(crate) name: &'static str,
    pub(crate) cron: String,
    pub(crate) schedule: Schedule,
    pub(crate) zone: Tz,
    pub(crate) queue: &'static str,
    pub(crate) attempts: i32,
    /// Whether missed ticks are caught up one by one; if not, the latest stands for all of them.
    pub(crate) each_counts: bool,
    /// The payload for a tick.
    pub(crate) payload: Arc<dyn Fn(DateTime<Utc>) -> Result<String, Failure> + Send + Sync>,
}

impl Every {
    pub(crate) fn parse(cron: &str) -> Result<Schedule, Failure> {
        Schedule::from_str(cron).map_err(|error| Failure::rejected(format!("\"{cron}\" is no schedule: {error}")))
    }

    /// The ticks after `from`, in UTC; endless for all practical schedules.
    fn after(&self, from: DateTime<Utc>) -> impl Iterator<Item = DateTime<Utc>> {
        self.schedule.after(&from.with_timezone(&self.zone)).map(|tick| tick.with_timezone(&Utc))
    }

    /// The job of this tick; a panic in its making is that schedule's trouble alone.
    fn payload_at(&self, tick: DateTime<Utc>) -> Result<String, Failure> {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.payload)(tick)))
            .unwrap_or_else(|panic| Err(Failure::rejected(format!("panicked: {}", panic_text(&*panic)))))
    }

    /// The last tick after `from` and up to `now`.
    fn latest(&self, from: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let later = (now + chrono::Duration::seconds(1)).with_timezone(&self.zone);
        let back = self.schedule.after(&later).rev().map(|tick| tick.with_timezone(&Utc));
        back.take_while(|tick| *tick > from).find(|tick| *tick <= now)
    }
}

/// Makes every schedule known. A new one, or one whose expression has changed, begins with its first tick from now on.
pub(crate) async fn register(db: &PgPool, schedules: &[Every]) -> Result<(), Failure> {
    for every in schedules {
        let now: DateTime<Utc> = sqlx::query_scalar("select durable.now()").fetch_one(db).await?;
        let Some(next) = every.after(now).next() else {
            return Err(Failure::rejected(format!("schedule {} never comes", every.name)));
        };
        sqlx::query(
            "insert into durable.tick (name, cron, zone, next_at, each_counts) values ($1, $2, $3, $4, $5)
             on conflict (name) do update set cron = excluded.cron, zone = excluded.zone, each_counts = excluded.each_counts,
                 next_at = case when (tick.cron, tick.zone) = (excluded.cron, excluded.zone) then tick.next_at else excluded.next_at end
             where (tick.cron, tick.zone, tick.each_counts) is distinct from (excluded.cron, excluded.zone, excluded.each_counts)",
        )
        .bind(every.name)
        .bind(&every.cron)
        .bind(every.zone.name())
        .bind(next)
        .bind(every.each_counts)
        .execute(db)
        .await?;
    }
    Ok(())
}

/// The cursors that are due, of this program's schedules and others.
pub(crate) async fn due(db: &PgPool) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("select name from durable.tick where next_at <= durable.now()").fetch_all(db).await
}

/// Enqueues every tick of these due schedules that nobody has enqueued yet; says how many. A schedule that fails stops no other.
pub(crate) async fn tick(db: &PgPool, schedules: &[Every], due: &[String]) -> usize {
    let mut ticks = 0;
    for every in schedules.iter().filter(|every| due.iter().any(|name| name == every.name)) {
        let ticked = async {
            let mut tx = db.begin().await?;
            let ticks = tick_one(&mut tx, every).await?;
            tx.commit().await?;
            Ok::<_, Failure>(ticks)
        };
        match ticked.await {
            Ok(some) => ticks += some,
            Err(failure) => tracing::error!("Schedule {} could not be kept: {failure}", every.name),
        }
    }
    ticks
}

/// The cursor moves in the transaction that enqueues: whoever holds its row is the only one who asks what is missing. A program
/// that knows the schedule otherwise than the last one that came up leaves it alone.
async fn tick_one(tx: &mut Tx<'_>, every: &Every) -> Result<usize, Failure> {
    let cursor = sqlx::query(
        "select next_at, durable.now() as now from durable.tick
         where name = $1 and cron = $2 and zone = $3 and next_at <= durable.now() for update skip locked",
    )
    .bind(every.name)
    .bind(&every.cron)
    .bind(every.zone.name())
    .fetch_optional(&mut **tx)
    .await?;
    let Some(cursor) = cursor else { return Ok(0) };
    let now: DateTime<Utc> = cursor.try_get("now")?;
    let mut next = Some(cursor.try_get::<DateTime<Utc>, _>("next_at")?);
    let mut ticks = 0;
    if !every.each_counts {
        next = next.map(|first| every.latest(first, now).unwrap_or(first));
    }
    while let Some(at) = next
        && at <= now
        && ticks < TICKS_AT_ONCE
    {
        let key = Some(format!("{}@{}", every.name, at.to_rfc3339()));
        queue::push(tx, every.queue, every.attempts, every.payload_at(at)?, Options { key, run_at: Some(at), priority: 0 })
            .await?;
        next = every.after(at).next();
        ticks += 1;
    }
    // A schedule of one year's dates may end; its cursor then rests beyond every clock.
    sqlx::query("update durable.tick set next_at = coalesce($2, 'infinity') where name = $1")
        .bind(every.name)
        .bind(next)
        .execute(&mut **tx)
        .await?;
    metrics::counter!("durable_ticks_total", "schedule" => every.name).increment(ticks as u64);
    Ok(ticks)
}
