//! Table `idempotency`: the first answer to a request, kept in the transaction that did its work.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// What was answered the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// SHA-256 of the request.
    pub request_hash: [u8; 32],
    pub status: i16,
    pub location: Option<String>,
    /// Sealed for [`context`].
    pub body_sealed: Vec<u8>,
}

/// What an answer's seal is bound to.
pub fn context(scope: Uuid, key: &str) -> String {
    format!("idempotency:body:{scope}/{key}")
}

/// What is known of a key.
#[derive(Debug)]
pub enum Standing {
    /// Nobody has used it; it is ours until the transaction ends.
    Ours,
    /// Another request holds it at this moment.
    InFlight,
    Answered(Answer),
}

/// Claims the key for this transaction. There is no claim that a crash could leave behind: it is a lock, gone with the connection.
pub async fn claim(tx: &mut PgConnection, scope: Uuid, key: &str) -> sqlx::Result<Standing> {
    let name = context(scope, key);
    let free = sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock(hashtextextended($1, 0)) as "free!""#, name)
        .fetch_one(&mut *tx)
        .await?;
    if !free {
        return Ok(Standing::InFlight);
    }
    // A statement of its own, so that it sees what the last holder has committed.
    let row = sqlx::query!(
        "select request_hash, status, location, body_sealed from idempotency where scope = $1 and key = $2",
        scope,
        key
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(Standing::Ours) };
    let request_hash = row.request_hash.try_into().map_err(|_| sqlx::Error::Decode("a request hash has 32 bytes".into()))?;
    Ok(Standing::Answered(Answer { request_hash, status: row.status, location: row.location, body_sealed: row.body_sealed }))
}

/// Keeps the answer; commits with the work.
pub async fn keep(tx: impl PgExecutor<'_>, scope: Uuid, key: &str, answer: &Answer) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into idempotency (scope, key, request_hash, status, location, body_sealed) values ($1, $2, $3, $4, $5, $6)",
        scope,
        key,
        answer.request_hash.as_slice(),
        answer.status,
        answer.location,
        answer.body_sealed
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Drops up to `limit` answers from before `time`; says how many.
pub async fn forget(db: impl PgExecutor<'_>, time: DateTime<Utc>, limit: i64) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from idempotency where (scope, key) in (select scope, key from idempotency where created_at < $1 order by created_at limit $2)",
        time,
        limit
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}
