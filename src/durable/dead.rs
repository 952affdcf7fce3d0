//! Jobs that were given up: they stay to be seen, and may be tried again once their cause is mended.

use crate::{Tx, journal::failure_of};
use chrono::{DateTime, Utc};
use domain::Failure;
use sqlx::{PgExecutor, Row};

/// A job that has no attempt left, or was refused.
#[derive(Debug, Clone)]
pub struct DeadJob {
    pub id: String,
    pub queue: String,
    /// As JSON; what is no JSON as its text.
    pub payload: serde_json::Value,
    pub attempts: i32,
    pub error: Option<Failure>,
    pub died_at: DateTime<Utc>,
}

/// The youngest first.
pub async fn list(db: impl PgExecutor<'_>, limit: i64) -> Result<Vec<DeadJob>, Failure> {
    let rows = sqlx::query(
        "select id, job_type, job, attempts, (last_result -> 'Err')::text as error, coalesce(done_at, run_at) as died_at
         from apalis.jobs where status = 'Killed' order by id desc limit $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await?;
    let jobs = rows.iter().map(|row| {
        let payload: &[u8] = row.try_get("job")?;
        Ok(DeadJob {
            id: row.try_get("id")?,
            queue: row.try_get("job_type")?,
            payload: serde_json::from_slice(payload).unwrap_or_else(|_| String::from_utf8_lossy(payload).into()),
            attempts: row.try_get("attempts")?,
            error: row.try_get::<Option<String>, _>("error")?.map(failure_of),
            died_at: row.try_get("died_at")?,
        })
    });
    Ok(jobs.collect::<sqlx::Result<_>>()?)
}

pub async fn count(db: impl PgExecutor<'_>) -> Result<i64, Failure> {
    Ok(sqlx::query_scalar("select count(*) from apalis.jobs where status = 'Killed'").fetch_one(db).await?)
}

/// Queues it again with all its attempts, but without its key, which may have been taken since; `false`: no such job is dead.
pub async fn retry(tx: &mut Tx<'_>, id: &str) -> Result<bool, Failure> {
    let revived = sqlx::query(
        "with revived as (
             update apalis.jobs set status = 'Pending', attempts = 0, run_at = durable.now(), done_at = null
             where id = $1 and status = 'Killed' returning job_type
         )
         select pg_notify('durable_job', job_type) from revived",
    );
    Ok(revived.bind(id).fetch_optional(&mut **tx).await?.is_some())
}
