//! Table `media`: files given to us to be sent, and files that came with messages.

use chrono::{DateTime, Utc};
use domain::{LineId, MessageId, TenantId};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// What the vault binds a file to.
pub fn content_context(id: Uuid) -> String {
    format!("media:content:{id}")
}

/// A file, without its content.
#[derive(Debug, Clone)]
pub struct Media {
    pub media_id: Uuid,
    pub tenant_id: TenantId,
    pub line_id: LineId,
    pub message_id: Option<MessageId>,
    pub meta_media_id: Option<String>,
    pub mime_type: String,
    pub filename: Option<String>,
    pub size_bytes: Option<i64>,
    /// Hex.
    pub sha256: Option<String>,
    pub here: bool,
    pub failed: Option<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub erased_at: Option<DateTime<Utc>>,
}

macro_rules! select_media {
    ($rest:literal, $($arg:expr),*) => {
        sqlx::query_as!(
            Media,
            r#"select media_id, tenant_id as "tenant_id: TenantId", line_id as "line_id: LineId", message_id as "message_id: MessageId", meta_media_id,
                mime_type, filename, size_bytes, sha256, content_sealed is not null as "here!", failed, expires_at, created_at, erased_at
             from media "# + $rest,
            $($arg),*
        )
    };
}

pub async fn get(db: impl PgExecutor<'_>, tenant: TenantId, id: Uuid) -> sqlx::Result<Option<Media>> {
    select_media!("where tenant_id = $1 and media_id = $2", tenant.0, id).fetch_optional(db).await
}

/// These files, as far as they are the tenant's; in no order.
pub async fn these(db: impl PgExecutor<'_>, tenant: TenantId, ids: &[Uuid]) -> sqlx::Result<Vec<Media>> {
    select_media!("where tenant_id = $1 and media_id = any($2)", tenant.0, ids).fetch_all(db).await
}

/// The file itself, sealed for [`content_context`]; `None`: not here.
pub async fn content(db: impl PgExecutor<'_>, tenant: TenantId, id: Uuid) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!("select content_sealed from media where tenant_id = $1 and media_id = $2", tenant.0, id)
        .fetch_optional(db)
        .await
        .map(Option::flatten)
}

/// A file to be sent.
#[derive(Debug, Clone)]
pub struct Upload {
    pub media_id: Uuid,
    pub line_id: LineId,
    pub mime_type: String,
    pub filename: Option<String>,
    pub size_bytes: i64,
    pub sha256: String,
    pub content_sealed: Vec<u8>,
    pub expires_at: DateTime<Utc>,
}

pub async fn keep(db: impl PgExecutor<'_>, tenant: TenantId, new: &Upload) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into media (media_id, tenant_id, line_id, mime_type, filename, size_bytes, sha256, content_sealed, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        new.media_id,
        tenant.0,
        new.line_id.0,
        new.mime_type,
        new.filename,
        new.size_bytes,
        new.sha256,
        new.content_sealed,
        new.expires_at
    )
    .execute(db)
    .await
    .map(drop)
}

/// Meta's own id of a file that was uploaded.
pub async fn uploaded(db: impl PgExecutor<'_>, id: Uuid, meta_media_id: &str) -> sqlx::Result<()> {
    sqlx::query!("update media set meta_media_id = $2 where media_id = $1", id, meta_media_id).execute(db).await.map(drop)
}

/// A file that came with a message, still at Meta.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub media_id: Uuid,
    pub tenant_id: TenantId,
    pub line_id: LineId,
    pub message_id: MessageId,
    pub meta_media_id: String,
    pub mime_type: String,
    pub filename: Option<String>,
}

pub async fn arrived(tx: &mut PgConnection, new: &[Arrived]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into media (media_id, tenant_id, line_id, message_id, meta_media_id, mime_type, filename)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[])",
        &new.iter().map(|m| m.media_id).collect::<Vec<_>>(),
        &new.iter().map(|m| m.tenant_id.0).collect::<Vec<_>>(),
        &new.iter().map(|m| m.line_id.0).collect::<Vec<_>>(),
        &new.iter().map(|m| m.message_id.0).collect::<Vec<_>>(),
        &new.iter().map(|m| m.meta_media_id.clone()).collect::<Vec<_>>(),
        &new.iter().map(|m| m.mime_type.clone()).collect::<Vec<_>>(),
        &new.iter().map(|m| m.filename.clone()).collect::<Vec<_>>() as _
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Keeps a file that was fetched, unless its message was erased meanwhile.
pub async fn fetched(
    db: impl PgExecutor<'_>,
    id: Uuid,
    mime_type: &str,
    size_bytes: i64,
    sha256: &str,
    sealed: &[u8],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update media set mime_type = $2, size_bytes = $3, sha256 = $4, content_sealed = $5, failed = null where media_id = $1 and erased_at is null",
        id,
        mime_type,
        size_bytes,
        sha256,
        sealed
    )
    .execute(db)
    .await
    .map(drop)
}

/// It can never be fetched.
pub async fn lost(db: impl PgExecutor<'_>, id: Uuid, why: &str) -> sqlx::Result<()> {
    sqlx::query!("update media set failed = $2 where media_id = $1 and content_sealed is null", id, why)
        .execute(db)
        .await
        .map(drop)
}

/// Erases a file; what is erased stays so. `false`: there is none of this id.
pub async fn erase(db: impl PgExecutor<'_>, tenant: TenantId, id: Uuid) -> sqlx::Result<bool> {
    sqlx::query!(
        "update media set content_sealed = null, filename = null, erased_at = coalesce(erased_at, durable.now()) where tenant_id = $1 and media_id = $2",
        tenant.0,
        id
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Erases up to `limit` files that have expired; says how many.
pub async fn forget(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    sqlx::query!(
        "update media set content_sealed = null, filename = null, erased_at = durable.now()
         where media_id in (select media_id from media where erased_at is null and expires_at <= durable.now() order by expires_at limit $1)",
        limit
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}
