//! Table `quarantine`: events that belong to nobody we know, until somebody replays them.

use chrono::{DateTime, Utc};
use domain::Provider;
use sqlx::PgExecutor;
use uuid::Uuid;

#[derive(Debug, Clone)]
pub struct Quarantined {
    pub id: Uuid,
    /// `telnyx` or `meta`.
    pub provider: String,
    pub event_id: String,
    /// The event's kind as the inbox has it.
    pub kind: String,
    /// What could not be placed, such as a phone_number_id.
    pub subject: String,
    pub reason: String,
    pub created_at: DateTime<Utc>,
    pub replayed_at: Option<DateTime<Utc>>,
}

/// Puts an event aside, once per subject; a replay that fails to place it again lists it again.
pub async fn put(db: impl PgExecutor<'_>, provider: Provider, event_id: &str, subject: &str, reason: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into quarantine (quarantine_id, provider, event_id, subject, reason) values ($1, $2, $3, $4, $5)
         on conflict (provider, event_id, subject) do update set reason = excluded.reason, replayed_at = null",
        Uuid::now_v7(),
        provider.as_str(),
        event_id,
        subject,
        reason
    )
    .execute(db)
    .await
    .map(drop)
}

/// Part of an event that cannot be placed.
#[derive(Debug, Clone)]
pub struct Aside {
    pub event_id: String,
    pub subject: String,
    pub reason: String,
}

/// [`put`] for many, in one statement.
pub async fn put_all(db: impl PgExecutor<'_>, provider: Provider, asides: &[Aside]) -> sqlx::Result<()> {
    if asides.is_empty() {
        return Ok(());
    }
    let mut asides: Vec<&Aside> = asides.iter().collect();
    asides.sort_by_key(|aside| (&aside.event_id, &aside.subject));
    asides.dedup_by_key(|aside| (&aside.event_id, &aside.subject));
    sqlx::query!(
        "insert into quarantine (quarantine_id, provider, event_id, subject, reason)
         select u.id, $1, u.event_id, u.subject, u.reason from unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) as u(id, event_id, subject, reason)
         on conflict (provider, event_id, subject) do update set reason = excluded.reason, replayed_at = null",
        provider.as_str(),
        &asides.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &asides.iter().map(|aside| aside.event_id.clone()).collect::<Vec<_>>(),
        &asides.iter().map(|aside| aside.subject.clone()).collect::<Vec<_>>(),
        &asides.iter().map(|aside| aside.reason.clone()).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(drop)
}

/// A page, the youngest first, below `before`; without those already replayed, unless asked for.
pub async fn list(
    db: impl PgExecutor<'_>,
    replayed_too: bool,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Quarantined>> {
    sqlx::query_as!(
        Quarantined,
        r#"select quarantine_id as id, provider, event_id, inbox.kind, subject, reason, created_at, replayed_at
           from quarantine join inbox using (provider, event_id)
           where ($1 or replayed_at is null) and ($2::uuid is null or quarantine_id < $2)
           order by quarantine_id desc limit $3"#,
        replayed_too,
        before,
        limit
    )
    .fetch_all(db)
    .await
}

/// Notes that the event goes back to work; `None` if there is no such entry. The caller enqueues the work.
pub async fn replay(db: impl PgExecutor<'_>, id: Uuid) -> sqlx::Result<Option<Quarantined>> {
    sqlx::query_as!(
        Quarantined,
        r#"update quarantine set replayed_at = durable.now() from inbox
           where quarantine_id = $1 and inbox.provider = quarantine.provider and inbox.event_id = quarantine.event_id
           returning quarantine_id as id, quarantine.provider, quarantine.event_id, inbox.kind, subject, reason, created_at, replayed_at"#,
        id
    )
    .fetch_optional(db)
    .await
}
