//! Table `callback`: what we tell the programs that ordered something, until they have heard it.

use chrono::{DateTime, Utc};
use domain::TenantId;
use sqlx::PgExecutor;
use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct Callback {
    /// Also the `webhook-id` of the convention: the same on every try.
    pub id: Uuid,
    pub tenant: TenantId,
    pub url: String,
    /// Event type, such as `line.status`.
    pub event: String,
    /// The exact bytes that are signed and sent.
    pub body: String,
    pub attempts: i32,
    /// When it is tried next; `None`: delivered, or given up.
    pub next_at: Option<DateTime<Utc>>,
    /// HTTP status of the last try, if there was an answer.
    pub last_status: Option<i16>,
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    /// First try since it was made or last replayed.
    pub first_tried_at: Option<DateTime<Utc>>,
    pub delivered_at: Option<DateTime<Utc>>,
}

impl Callback {
    /// `pending`, `delivered` or `failed` (three days without an answer we could take for a yes).
    pub fn status(&self) -> &'static str {
        match (self.delivered_at, self.next_at) {
            (Some(_), _) => "delivered",
            (None, Some(_)) => "pending",
            (None, None) => "failed",
        }
    }
}

/// A new callback; the caller enqueues its delivery in the same transaction.
pub async fn add(tx: impl PgExecutor<'_>, tenant: TenantId, url: &str, event: &str, body: &str) -> sqlx::Result<Uuid> {
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into callback (callback_id, tenant_id, url, type, body) values ($1, $2, $3, $4, $5)",
        id,
        tenant.0,
        url,
        event,
        body
    )
    .execute(tx)
    .await
    .map(|_| id)
}

pub async fn get(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Callback>> {
    sqlx::query_as!(
        Callback,
        r#"select callback_id as id, tenant_id as "tenant: TenantId", url, type as event, body, attempts, next_at, last_status, last_error,
               created_at, first_tried_at, delivered_at
           from callback where callback_id = $1"#,
        id
    )
    .fetch_optional(db)
    .await
}

/// A page of one tenant's callbacks (`None`: of all), the youngest first, below `before`.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: Option<TenantId>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Callback>> {
    sqlx::query_as!(
        Callback,
        r#"select callback_id as id, tenant_id as "tenant: TenantId", url, type as event, body, attempts, next_at, last_status, last_error,
               created_at, first_tried_at, delivered_at
           from callback where ($1::uuid is null or tenant_id = $1) and ($2::uuid is null or callback_id < $2)
           order by callback_id desc limit $3"#,
        tenant.map(|id| id.0),
        before,
        limit
    )
    .fetch_all(db)
    .await
}

/// It was heard.
pub async fn delivered(db: impl PgExecutor<'_>, id: Uuid, status: i16) -> sqlx::Result<bool> {
    sqlx::query!(
        "update callback set delivered_at = durable.now(), next_at = null, attempts = attempts + 1, last_status = $2, last_error = null,
             first_tried_at = coalesce(first_tried_at, durable.now())
         where callback_id = $1 and delivered_at is null",
        id,
        status
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// It was not heard: tried again at `next_at`, or given up if that is `None`.
pub async fn missed(
    db: impl PgExecutor<'_>,
    id: Uuid,
    status: Option<i16>,
    error: &str,
    next_at: Option<DateTime<Utc>>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update callback set attempts = attempts + 1, last_status = $2, last_error = $3, next_at = $4,
             first_tried_at = coalesce(first_tried_at, durable.now())
         where callback_id = $1 and delivered_at is null",
        id,
        status,
        error,
        next_at
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Due now once more, delivered or not, with three days ahead; `None` if there is no such callback. The caller enqueues the delivery.
pub async fn replay(db: impl PgExecutor<'_>, id: Uuid, tenant: Option<TenantId>) -> sqlx::Result<Option<Callback>> {
    sqlx::query_as!(
        Callback,
        r#"update callback set next_at = durable.now(), delivered_at = null, first_tried_at = null
           where callback_id = $1 and ($2::uuid is null or tenant_id = $2)
           returning callback_id as id, tenant_id as "tenant: TenantId", url, type as event, body, attempts, next_at, last_status, last_error,
               created_at, first_tried_at, delivered_at"#,
        id,
        tenant.map(|id| id.0)
    )
    .fetch_optional(db)
    .await
}
