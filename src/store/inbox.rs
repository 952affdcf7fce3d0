//! Table `inbox`: every webhook of a provider, kept once before it is answered.

use chrono::{DateTime, Utc};
use domain::Provider;
use sqlx::{PgConnection, PgExecutor};

/// A worker that says nothing for so long within its transaction is frozen. Milliseconds.
const FROZEN_AFTER_MS: u32 = 15_000;

/// An event to keep. `event_id`: Telnyx's `data.id`; for Meta, which names none, the SHA-256 of the body in hex.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub provider: Provider,
    pub event_id: String,
    /// The provider's event type, or the first field of a Meta batch.
    pub kind: String,
    /// Raw bytes, sealed for [`context`].
    pub body_sealed: Vec<u8>,
}

/// What a body's seal is bound to.
pub fn context(provider: Provider, event_id: &str) -> String {
    format!("inbox:body:{provider}:{event_id}")
}

/// What was kept.
#[derive(Debug, Default)]
pub struct Fresh {
    /// Places of those not seen before.
    pub places: Vec<usize>,
    /// Somebody is at work on Meta's events who will see these, too: there is no work to queue for them.
    pub worked: bool,
}

/// Keeps those not seen before, in one statement; their times keep the order in which they came.
///
/// Whoever works Meta's events ends only after everybody has committed who found them at it ([`is_done`]).
pub async fn keep(tx: &mut PgConnection, events: &[NewEvent]) -> sqlx::Result<Fresh> {
    let providers: Vec<_> = events.iter().map(|event| event.provider.as_str().to_owned()).collect();
    let ids: Vec<_> = events.iter().map(|event| event.event_id.clone()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.clone()).collect();
    let bodies: Vec<_> = events.iter().map(|event| event.body_sealed.clone()).collect();
    // In the order of the key: two fronts that keep the same events must not lock each other out.
    let new = sqlx::query!(
        r#"with clock as materialized (
             select durable.now() as now, not pg_try_advisory_xact_lock_shared(hashtextextended('inbox:meta', 0)) as worked
             from (select pg_advisory_xact_lock_shared(hashtextextended('inbox end:meta', 0)) offset 0) before_the_end)
           insert into inbox (provider, event_id, received_at, kind, body_sealed)
           select provider, event_id, now + place * interval '1 microsecond', kind, body_sealed
           from unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) with ordinality as new (provider, event_id, kind, body_sealed, place), clock
           order by provider, event_id, place
           on conflict do nothing returning provider, event_id, (select worked from clock) as "worked!""#,
        &providers,
        &ids,
        &kinds,
        &bodies
    )
    .fetch_all(tx)
    .await?;
    let worked = new.iter().all(|row| row.worked);
    let new: std::collections::HashSet<_> = new.iter().map(|row| (row.provider.as_str(), row.event_id.as_str())).collect();
    let mut seen = std::collections::HashSet::new();
    let is_new = |place: &usize| {
        let key = (events[*place].provider.as_str(), events[*place].event_id.as_str());
        new.contains(&key) && seen.insert(key)
    };
    Ok(Fresh { places: (0..events.len()).filter(is_new).collect(), worked })
}

#[derive(Debug, Clone)]
pub struct Kept {
    pub kind: String,
    pub body_sealed: Vec<u8>,
    pub received_at: DateTime<Utc>,
    pub taken_at: Option<DateTime<Utc>>,
}

pub async fn get(db: impl PgExecutor<'_>, provider: Provider, event_id: &str) -> sqlx::Result<Option<Kept>> {
    sqlx::query_as!(
        Kept,
        r#"select kind, body_sealed as "body_sealed!", received_at, taken_at from inbox
           where provider = $1 and event_id = $2 and body_sealed is not null"#,
        provider.as_str(),
        event_id
    )
    .fetch_optional(db)
    .await
}

/// Notes that the event was worked; `false` if it had been.
pub async fn taken(db: impl PgExecutor<'_>, provider: Provider, event_id: &str) -> sqlx::Result<bool> {
    sqlx::query!(
        "update inbox set taken_at = durable.now() where provider = $1 and event_id = $2 and taken_at is null",
        provider.as_str(),
        event_id
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Events from before `time` that nobody has worked, oldest first.
pub async fn untaken(db: impl PgExecutor<'_>, time: DateTime<Utc>, limit: i64) -> sqlx::Result<Vec<(Provider, String)>> {
    let rows = sqlx::query!(
        "select provider, event_id from inbox where taken_at is null and received_at < $1 order by received_at limit $2",
        time,
        limit
    )
    .fetch_all(db)
    .await?;
    let known = |row: &str| [Provider::Telnyx, Provider::Meta].into_iter().find(|provider| provider.as_str() == row);
    Ok(rows.into_iter().filter_map(|row| Some((known(&row.provider)?, row.event_id))).collect())
}

/// Lets a taken event be worked again.
pub async fn untake(db: impl PgExecutor<'_>, provider: Provider, event_id: &str) -> sqlx::Result<bool> {
    sqlx::query!("update inbox set taken_at = null where provider = $1 and event_id = $2", provider.as_str(), event_id)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Drops up to `limit` worked events from before `time`, except those in quarantine that nobody has replayed.
pub async fn forget(db: impl PgExecutor<'_>, time: DateTime<Utc>, limit: i64) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from inbox where (provider, event_id) in (
             select provider, event_id from inbox where received_at < $1 and taken_at is not null
               and not exists (select from quarantine where quarantine.provider = inbox.provider
                                and quarantine.event_id = inbox.event_id and replayed_at is null)
             order by received_at limit $2)",
        time,
        limit
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// An event that waits for its turn.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub event_id: String,
    pub kind: String,
    pub body_sealed: Vec<u8>,
}

/// The oldest untaken events of a provider, in the order of arrival. The caller's transaction is the only one at work on this
/// provider until it ends: whoever comes meanwhile waits, and then sees what is left. One that is frozen meanwhile loses its
/// connection, and with it the transaction.
pub async fn next(tx: &mut PgConnection, provider: Provider, limit: i64) -> sqlx::Result<Vec<Waiting>> {
    // As `plans::by_key`, except that lists of the program's own may be joined as suits them.
    sqlx::query!(
        r#"select set_config('idle_in_transaction_session_timeout', $2, true) as patience, set_config('enable_seqscan', 'off', true) as by_key,
                set_config('enable_bitmapscan', 'off', true) as in_order,
                set_config('jit', 'off', true) as interpreted, pg_advisory_xact_lock(hashtextextended('inbox:' || $1, 0))"#,
        provider.as_str(),
        FROZEN_AFTER_MS.to_string()
    )
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query_as!(
        Waiting,
        r#"select event_id, kind, body_sealed as "body_sealed!" from inbox
           where provider = $1 and taken_at is null and body_sealed is not null order by received_at, event_id limit $2"#,
        provider.as_str(),
        limit
    )
    .fetch_all(tx)
    .await
}

/// Nothing is left, nor is there anybody still to commit who found us at work ([`keep`]). The caller is
/// at work ([`next`]), and ends its transaction now.
pub async fn is_done(tx: &mut PgConnection, provider: Provider) -> sqlx::Result<bool> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('inbox end:' || $1, 0))", provider.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query_scalar!(
        r#"select not exists (select from inbox where provider = $1 and taken_at is null and body_sealed is not null) as "done!""#,
        provider.as_str()
    )
    .fetch_one(tx)
    .await
}

/// [`taken`] for many, found by their places: for many keys at once the planner would read all of a provider's, while it believes
/// that there are few, and go on with that plan. Those that are `spent` are kept elsewhere, message by message: their bodies go,
/// unless they are in quarantine.
pub async fn all_taken(tx: &mut PgConnection, provider: Provider, events: &[String], spent: &[String]) -> sqlx::Result<()> {
    sqlx::query!(
        "update inbox i set taken_at = durable.now(), body_sealed = case
            when event_id = any($3) and not exists (select from quarantine q
                where q.provider = i.provider and q.event_id = i.event_id and q.replayed_at is null) then null
            else body_sealed end
         where ctid = any(array(
             select (select ctid from inbox where provider = $1 and event_id = e.id) from unnest($2::text[]) as e(id)))",
        provider.as_str(),
        events,
        spent
    )
    .execute(tx)
    .await
    .map(drop)
}
