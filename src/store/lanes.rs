//! Table `lane`: the right to send for a line. A token fences every write of a holder that was frozen and comes back.

use chrono::{DateTime, Utc};
use domain::{ContactId, LineId};
use sqlx::PgExecutor;
use std::time::Duration;

/// A lease taken: its token is named by every write.
#[derive(Debug, Clone)]
pub struct Taken {
    pub token: i64,
    pub slowed_to: Option<i32>,
    pub stopped_reason: Option<String>,
    pub stopped_until: Option<DateTime<Utc>>,
    /// So many sends may still count at the provider until then; without a number, as many as the line may send.
    pub counting: Option<i32>,
    pub counting_until: Option<DateTime<Utc>>,
    /// Contacts that were sent to often, and when nothing will be owed for it any more.
    pub pairs: Vec<ContactId>,
    pub pairs_full_at: Vec<DateTime<Utc>>,
    /// A holder was lost before then: what it sent to whom is told by the messages alone.
    pub look_back_until: Option<DateTime<Utc>>,
}

/// Takes the lane if nobody holds it. Its former holder, if any, can write nothing from here on. If that was lost, its sends may
/// arrive until `arrives_within` after its lease, and matter to its contacts for `pair_memory`.
pub async fn take(
    db: impl PgExecutor<'_>,
    line: LineId,
    holder: &str,
    lease: Duration,
    arrives_within: Duration,
    pair_memory: Duration,
) -> sqlx::Result<Option<Taken>> {
    sqlx::query_as!(
        Taken,
        r#"insert into lane (line_id, token, holder, lease_until, awake) values ($1, 1, $2, durable.now() + make_interval(secs => $3), true)
           on conflict (line_id) do update set token = lane.token + 1, holder = excluded.holder, lease_until = excluded.lease_until, awake = true,
                counting = case when lane.lease_until is null then lane.counting end,
                counting_until = case when lane.lease_until is null then lane.counting_until else lane.lease_until + $4::interval end,
                pairs = case when lane.lease_until is null then lane.pairs else '{}' end,
                pairs_full_at = case when lane.lease_until is null then lane.pairs_full_at else '{}' end,
                look_back_until = case when lane.lease_until is null then lane.look_back_until else lane.lease_until + $5::interval end
           where lane.lease_until is null or lane.lease_until <= durable.now()
           returning token, slowed_to, stopped_reason, stopped_until, counting, counting_until, pairs as "pairs: Vec<ContactId>", pairs_full_at,
                look_back_until"#,
        line.0,
        holder,
        lease.as_secs_f64(),
        arrives_within as _,
        pair_memory as _
    )
    .fetch_optional(db)
    .await
}

/// What a holder leaves to the next.
#[derive(Debug, Clone, Default)]
pub struct Left {
    pub counting: i32,
    pub counting_until: Option<DateTime<Utc>>,
    pub pairs: Vec<(ContactId, DateTime<Utc>)>,
}

/// Prolongs the lease; `false`: it is lost, stop at once.
pub async fn renew(db: impl PgExecutor<'_>, line: LineId, token: i64, lease: Duration) -> sqlx::Result<bool> {
    sqlx::query!(
        "update lane set lease_until = durable.now() + make_interval(secs => $3) where line_id = $1 and token = $2 and lease_until > durable.now()",
        line.0,
        token,
        lease.as_secs_f64()
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Gives the lane back. `awake`: a job of it is still queued. Locks the row, so that a message queued meanwhile is either seen by
/// the holder before or finds the lane asleep.
pub async fn release(db: impl PgExecutor<'_>, line: LineId, token: i64, awake: bool, left: &Left) -> sqlx::Result<bool> {
    sqlx::query!(
        "update lane set lease_until = null, holder = null, awake = $3, counting = $4, counting_until = $5, pairs = $6, pairs_full_at = $7
         where line_id = $1 and token = $2",
        line.0,
        token,
        awake,
        left.counting,
        left.counting_until,
        &left.pairs.iter().map(|(contact, _)| contact.0).collect::<Vec<_>>(),
        &left.pairs.iter().map(|(_, full_at)| *full_at).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Lets the lease run out now, as if its holder were lost: nothing is known of what it sent.
pub async fn break_off(db: impl PgExecutor<'_>, line: LineId, token: i64) -> sqlx::Result<bool> {
    sqlx::query!(
        "update lane set lease_until = least(lease_until, durable.now()), holder = null where line_id = $1 and token = $2",
        line.0,
        token
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Remembers the pace that Meta's 130429 taught us; `None` is the number's own level.
pub async fn pace(db: impl PgExecutor<'_>, line: LineId, token: i64, per_s: Option<i32>) -> sqlx::Result<bool> {
    sqlx::query!("update lane set slowed_to = $3 where line_id = $1 and token = $2", line.0, token, per_s)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Stops the lane until a time, or until somebody resumes it.
pub async fn stop(db: impl PgExecutor<'_>, line: LineId, reason: &str, until: Option<DateTime<Utc>>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into lane (line_id, stopped_reason, stopped_until) values ($1, $2, $3)
         on conflict (line_id) do update set stopped_reason = excluded.stopped_reason, stopped_until = excluded.stopped_until",
        line.0,
        reason,
        until
    )
    .execute(db)
    .await
    .map(drop)
}

/// Lets a stopped lane go on; `false` if it was not stopped.
pub async fn resume(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update lane set stopped_reason = null, stopped_until = null where line_id = $1 and stopped_reason is not null",
        line.0
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Locks the lane's row for a decision about its sleep; `false`: the lease is lost.
pub async fn lock(db: impl PgExecutor<'_>, line: LineId, token: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!("select token from lane where line_id = $1 for update", line.0)
        .fetch_optional(db)
        .await
        .map(|found| found == Some(token))
}

/// Marks these lanes awake; returns those that slept and need a job, in the caller's transaction.
pub async fn wake(db: impl PgExecutor<'_>, lines: &[LineId]) -> sqlx::Result<Vec<LineId>> {
    sqlx::query_scalar!(
        r#"insert into lane (line_id, awake) select distinct id, true from unnest($1::uuid[]) as id order by id
           on conflict (line_id) do update set awake = true where not lane.awake
           returning line_id as "line_id: LineId""#,
        &lines.iter().map(|l| l.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await
}

/// What the holder must know of its line.
#[derive(Debug, Clone)]
pub struct Sender {
    pub tenant_id: domain::TenantId,
    pub status: String,
    pub phone_number_id: Option<String>,
    pub messaging_account: Option<String>,
    pub portfolio: Option<String>,
    pub token_sealed: Option<Vec<u8>>,
    pub throughput: Option<String>,
    pub tenant_status: String,
    pub billing_mode: String,
    /// A stop of the whole account, if one holds now.
    pub account_stop: Option<String>,
    pub account_stop_until: Option<DateTime<Utc>>,
}

pub async fn sender(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Option<Sender>> {
    sqlx::query_as!(
        Sender,
        r#"select l.tenant_id as "tenant_id: domain::TenantId", l.status, l.phone_number_id, l.messaging_account, l.portfolio, l.token_sealed,
                l.throughput, t.status as tenant_status, t.billing_mode,
                s.reason as "account_stop?", s.until as "account_stop_until?"
           from line l join tenant t using (tenant_id)
           left join account_stop s on s.messaging_account = l.messaging_account and (s.until is null or s.until > durable.now())
           where l.line_id = $1"#,
        line.0
    )
    .fetch_optional(db)
    .await
}

/// Stops every line of a messaging account (131042 and its kin).
pub async fn stop_account(
    db: impl PgExecutor<'_>,
    account: &str,
    code: &str,
    reason: &str,
    until: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into account_stop (messaging_account, code, reason, until) values ($1, $2, $3, $4)
         on conflict (messaging_account) do update set code = excluded.code, reason = excluded.reason, until = excluded.until",
        account,
        code,
        reason,
        until
    )
    .execute(db)
    .await
    .map(drop)
}

/// Lets an account send again; `false` if nothing stopped it.
pub async fn resume_account(db: impl PgExecutor<'_>, account: &str) -> sqlx::Result<bool> {
    sqlx::query!("delete from account_stop where messaging_account = $1", account)
        .execute(db)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Whether any line of ours was ever on this account.
pub async fn is_known(db: impl PgExecutor<'_>, account: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select 1 from line where messaging_account = $1) as "known!""#, account)
        .fetch_one(db)
        .await
}

/// The lines of an account that can send, or could but for a restriction.
pub async fn of_account(db: impl PgExecutor<'_>, account: &str) -> sqlx::Result<Vec<LineId>> {
    sqlx::query_scalar!(
        r#"select line_id as "line_id: LineId" from line where messaging_account = $1 and status in ('live', 'paused', 'restricted') order by line_id"#,
        account
    )
    .fetch_all(db)
    .await
}

/// Restricted lines whose account nothing stops any more.
pub async fn free_again(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<LineId>> {
    sqlx::query_scalar!(
        r#"select l.line_id as "line_id: LineId" from line l
           where l.status = 'restricted' and not exists (
             select 1 from account_stop s where s.messaging_account = l.messaging_account and (s.until is null or s.until > durable.now()))
           limit $1"#,
        limit
    )
    .fetch_all(db)
    .await
}

/// Live lines with sends due for longer than `patience`, or left under way, that nobody holds and nothing stops.
pub async fn stranded(db: impl PgExecutor<'_>, patience: Duration, limit: i64) -> sqlx::Result<Vec<LineId>> {
    sqlx::query_scalar!(
        r#"select l.line_id as "line_id: LineId" from line l join tenant t using (tenant_id) left join lane a using (line_id)
           where l.status = 'live' and t.status = 'active'
             and (a.lease_until is null or a.lease_until <= durable.now())
             and (a.stopped_reason is null or a.stopped_until <= durable.now())
             and not exists (select 1 from account_stop s
                 where s.messaging_account = l.messaging_account and (s.until is null or s.until > durable.now()))
             and (exists (select 1 from message m where m.line_id = l.line_id and m.unsettled and m.status = 'sending' and m.direction = 'out')
               or exists (select 1 from unnest(array[2, 1, 0]::smallint[]) as p(priority) cross join lateral (
                 select 1 from message m where m.line_id = l.line_id and m.queued and m.direction = 'out' and m.priority = p.priority
                   and m.due_at <= durable.now() - make_interval(secs => $1) limit 1) d))
           limit $2"#,
        patience.as_secs_f64(),
        limit
    )
    .fetch_all(db)
    .await
}

/// How a line's sending stands, for people.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Sends a second that Meta's 130429 taught us; `None` is the number's own level.
    pub slowed_to: Option<i32>,
    /// Why nothing is sent: the line's own stop, or its account's.
    pub stopped: Option<String>,
    pub stopped_until: Option<DateTime<Utc>>,
    /// A stop of the whole messaging account.
    pub account_stop: Option<String>,
    pub account_stop_until: Option<DateTime<Utc>>,
}

pub async fn standing(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Standing> {
    sqlx::query_as!(
        Standing,
        r#"select slowed_to as "slowed_to?", stopped_reason as "stopped?", stopped_until as "stopped_until?",
                s.reason as "account_stop?", s.until as "account_stop_until?"
           from line l left join lane using (line_id)
           left join account_stop s on s.messaging_account = l.messaging_account and (s.until is null or s.until > durable.now())
           where l.line_id = $1"#,
        line.0
    )
    .fetch_optional(db)
    .await
    .map(Option::unwrap_or_default)
}

/// What keeps one of many lines from sending, and how many of its messages are parked.
#[derive(Debug, Clone)]
pub struct StopOf {
    pub line_id: uuid::Uuid,
    pub why: Option<String>,
    pub parked: i64,
}

pub async fn stops(db: impl PgExecutor<'_>, lines: &[uuid::Uuid]) -> sqlx::Result<Vec<StopOf>> {
    sqlx::query_as!(
        StopOf,
        r#"select l.line_id, coalesce(s.reason, a.stopped_reason) as why,
                (select count(*) from message m where m.tenant_id = l.tenant_id and m.line_id = l.line_id
                    and m.in_doubt and m.status = 'parked') as "parked!"
           from line l
           left join lane a on a.line_id = l.line_id and (a.stopped_until is null or a.stopped_until > durable.now())
           left join account_stop s on s.messaging_account = l.messaging_account and (s.until is null or s.until > durable.now())
           where l.line_id = any($1)"#,
        lines
    )
    .fetch_all(db)
    .await
}

/// Outgoing messages of a line that have not come to their end, by status, with the age of the oldest.
pub async fn unfinished(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Vec<Unfinished>> {
    sqlx::query_as!(
        Unfinished,
        // Each part has an index of its own.
        r#"select status as "status!", count(*) as "messages!", min(created_at) as "oldest!" from (
               select status, created_at from message where line_id = $1 and direction = 'out' and queued
               union all select status, created_at from message where line_id = $1 and direction = 'out' and unsettled
               union all select status, created_at from message
                    where tenant_id = (select tenant_id from line where line_id = $1) and line_id = $1 and direction = 'out'
                      and in_doubt) open
           group by status order by status"#,
        line.0
    )
    .fetch_all(db)
    .await
}

#[derive(Debug, Clone)]
pub struct Unfinished {
    pub status: String,
    pub messages: i64,
    pub oldest: DateTime<Utc>,
}

/// The oldest outgoing messages of a line that wait for a person.
pub async fn parked(db: impl PgExecutor<'_>, line: LineId, limit: i64) -> sqlx::Result<Vec<Parked>> {
    sqlx::query_as!(
        Parked,
        "select message_id, tenant_id, created_at, attempts, coalesce(waiting_for, error_text) as why from message
         where tenant_id = (select tenant_id from line where line_id = $1) and line_id = $1 and direction = 'out'
           and in_doubt and status = 'parked' order by message_id limit $2",
        line.0,
        limit
    )
    .fetch_all(db)
    .await
}

#[derive(Debug, Clone)]
pub struct Parked {
    pub message_id: uuid::Uuid,
    pub tenant_id: uuid::Uuid,
    pub created_at: DateTime<Utc>,
    pub attempts: i16,
    pub why: Option<String>,
}

/// Whose message it is.
pub async fn of_message(db: impl PgExecutor<'_>, message: domain::MessageId) -> sqlx::Result<Option<(LineId, domain::TenantId)>> {
    sqlx::query!(
        r#"select line_id as "line_id: LineId", tenant_id as "tenant_id: domain::TenantId" from message where message_id = $1"#,
        message.0
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (row.line_id, row.tenant_id)))
}
