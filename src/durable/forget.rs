//! What need not be remembered is forgotten, in small batches: ended runs, unread mail, dead jobs.

use crate::Tx;
use sqlx::PgPool;
use std::time::Duration;

/// How long an ended run stays to be seen, unless the program says otherwise.
pub const RUNS_KEPT: Duration = days(90);
/// A signal that nobody has taken for so long was for nobody.
const MAIL_KEPT: Duration = days(90);
/// How long a dead job stays to be seen.
const DEAD_JOBS_KEPT: Duration = days(30);
/// Rows of one transaction: no long locks.
const BATCH: i64 = 500;
/// The cursor of all this among the cron ticks: once an hour over all processes, by the one clock.
pub(crate) const CURSOR: &str = "durable.forget";

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 3600)
}

/// Makes the cursor known; the first round is due at once.
pub(crate) async fn register(db: &PgPool) -> sqlx::Result<()> {
    sqlx::query(
        "insert into durable.tick (name, cron, zone, next_at, each_counts) values ($1, '', '', durable.now(), false)
         on conflict do nothing",
    )
    .bind(CURSOR)
    .execute(db)
    .await?;
    Ok(())
}

/// One batch, if a round is due and nobody else is at it; says whether there may be more.
pub(crate) async fn forget(db: &PgPool, runs_kept: Duration) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let due = sqlx::query("select from durable.tick where name = $1 and next_at <= durable.now() for update skip locked")
        .bind(CURSOR)
        .fetch_optional(&mut *tx)
        .await?;
    if due.is_none() {
        return Ok(false);
    }
    let (runs, mail, jobs) = (runs(&mut tx, runs_kept).await?, mail(&mut tx).await?, dead_jobs(&mut tx).await?);
    // What has just gone may have been all that kept others: the round is over when there is nothing left.
    let more = runs + mail + jobs > 0;
    if !more {
        sqlx::query("update durable.tick set next_at = durable.now() + interval '1 hour' where name = $1")
            .bind(CURSOR)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    if more {
        tracing::info!("Forgot {runs} ended runs, {mail} signals that nobody took and {jobs} dead jobs");
    }
    Ok(more)
}

/// Journals of ended runs, children's after their parents'. A run with a key stays behind without its input and its steps: the
/// key means once, not once in a while.
async fn runs(tx: &mut Tx<'_>, kept: Duration) -> sqlx::Result<u64> {
    let forgotten = sqlx::query(
        "with old as (
             select run_id, key from durable.run
             where ended_at < durable.now() - make_interval(secs => $1) and forgotten_at is null and not exists (
                 select from durable.run parent where parent.run_id = run.parent_id and parent.forgotten_at is null)
             order by ended_at limit $2 for update skip locked
         ), steps as (
             delete from durable.step using old where step.run_id = old.run_id
         ), keyed as (
             update durable.run set forgotten_at = durable.now(), input = 'null' from old
             where run.run_id = old.run_id and old.key is not null
         ), others as (
             delete from durable.run using old where run.run_id = old.run_id and old.key is null
         )
         select from old",
    );
    Ok(forgotten.bind(kept.as_secs_f64()).bind(BATCH).fetch_all(&mut **tx).await?.len() as u64)
}

async fn mail(tx: &mut Tx<'_>) -> sqlx::Result<u64> {
    let unread = sqlx::query(
        "delete from durable.mail where ctid = any(array(
             select ctid from durable.mail where sent_at < durable.now() - make_interval(secs => $1) limit $2 for update skip locked))",
    );
    Ok(unread.bind(MAIL_KEPT.as_secs_f64()).bind(BATCH).execute(&mut **tx).await?.rows_affected())
}

async fn dead_jobs(tx: &mut Tx<'_>) -> sqlx::Result<u64> {
    let dead = sqlx::query(
        "delete from apalis.jobs where id = any(array(
             select id from apalis.jobs where status = 'Killed' and done_at < durable.now() - make_interval(secs => $1)
             limit $2 for update skip locked))",
    );
    Ok(dead.bind(DEAD_JOBS_KEPT.as_secs_f64()).bind(BATCH).execute(&mut **tx).await?.rows_affected())
}
