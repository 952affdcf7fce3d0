//! Table `message`: what was said, and the queue of what is to be said. One attempt is one row change committed before its call.

use chrono::{DateTime, Utc};
use domain::{ContactId, LineId, MessageId, TemplateId, TenantId};
use serde_json::{Value, json};
use sqlx::PgExecutor;
use uuid::Uuid;

/// A message to queue; everything that can be refused has been checked.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub message_id: MessageId,
    pub line_id: LineId,
    pub contact_id: ContactId,
    pub conversation_id: Uuid,
    pub kind: String,
    /// Cloud API body without its address, sealed under [`content_context`].
    pub content_sealed: Vec<u8>,
    pub template_id: Option<TemplateId>,
    pub category: String,
    pub policy: String,
    /// 2 introductions and replies, 1 ordinary, 0 bulk.
    pub priority: i16,
    pub not_before: Option<DateTime<Utc>>,
    pub due_at: DateTime<Utc>,
    pub waiting_for: Option<String>,
    pub context_wamid: Option<String>,
    pub reserved_units: i64,
    pub campaign: Option<String>,
}

/// What the vault binds a message's content to.
pub fn content_context(id: MessageId) -> String {
    format!("message:content:{id}")
}

/// Queues all of them, in order, in one statement.
pub async fn queue(db: impl PgExecutor<'_>, tenant: TenantId, new: &[NewMessage]) -> sqlx::Result<u64> {
    sqlx::query!(
        r#"insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, content_sealed, template_id, category,
                policy, priority, status, not_before, due_at, waiting_for, context_wamid, reserved_units, campaign)
           select u.message_id, $1, u.line_id, u.contact_id, u.conversation_id, 'out', u.kind, u.content, u.template_id, u.category,
                u.policy, u.priority, 'queued', u.not_before, u.due_at, u.waiting_for, u.context_wamid, u.reserved, u.campaign
           from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bytea[], $8::uuid[], $9::text[], $10::text[], $11::smallint[],
                $12::timestamptz[], $13::timestamptz[], $14::text[], $15::text[], $16::bigint[], $17::text[])
                with ordinality as u(message_id, line_id, contact_id, conversation_id, kind, content, template_id, category, policy, priority,
                     not_before, due_at, waiting_for, context_wamid, reserved, campaign, place)
           order by u.place"#,
        tenant.0,
        &new.iter().map(|m| m.message_id.0).collect::<Vec<_>>(),
        &new.iter().map(|m| m.line_id.0).collect::<Vec<_>>(),
        &new.iter().map(|m| m.contact_id.0).collect::<Vec<_>>(),
        &new.iter().map(|m| m.conversation_id).collect::<Vec<_>>(),
        &new.iter().map(|m| m.kind.clone()).collect::<Vec<_>>(),
        &new.iter().map(|m| m.content_sealed.clone()).collect::<Vec<_>>(),
        &new.iter().map(|m| m.template_id.map(|t| t.0)).collect::<Vec<_>>() as _,
        &new.iter().map(|m| m.category.clone()).collect::<Vec<_>>(),
        &new.iter().map(|m| m.policy.clone()).collect::<Vec<_>>(),
        &new.iter().map(|m| m.priority).collect::<Vec<_>>(),
        &new.iter().map(|m| m.not_before).collect::<Vec<_>>() as _,
        &new.iter().map(|m| m.due_at).collect::<Vec<_>>(),
        &new.iter().map(|m| m.waiting_for.clone()).collect::<Vec<_>>() as _,
        &new.iter().map(|m| m.context_wamid.clone()).collect::<Vec<_>>() as _,
        &new.iter().map(|m| m.reserved_units).collect::<Vec<_>>(),
        &new.iter().map(|m| m.campaign.clone()).collect::<Vec<_>>() as _,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// A message at the head of its contact's queue, due now.
#[derive(Debug, Clone)]
pub struct Due {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub contact_id: ContactId,
    pub kind: String,
    pub content_sealed: Option<Vec<u8>>,
    pub template_id: Option<TemplateId>,
    pub template_status: Option<String>,
    pub category: Option<String>,
    pub attempts: i16,
    pub window_until: Option<DateTime<Utc>>,
    pub opted_out: bool,
    pub marketing_opted_out: bool,
    pub phone: Option<String>,
    pub bsuid: Option<String>,
    /// When this contact was sent to within the time looked back, oldest first.
    pub recent: Vec<DateTime<Utc>>,
}

/// The next heads of a line's queue: strictly in order for each contact inside a priority, nothing behind an unsettled attempt.
/// `look_back`: how far back a contact's sends are looked for, if they must be.
///
/// Each priority is its own index range, so that rows that are not due cost nothing. Right after a large batch there are no
/// statistics, so nothing is left to the planner: `coalesce` around each look keeps it a look by index per candidate (an
/// anti-join would read the whole queue for each) and keeps the candidates coming in the order of their index.
pub async fn due(
    db: impl PgExecutor<'_>,
    line: LineId,
    limit: i64,
    look_back: Option<std::time::Duration>,
) -> sqlx::Result<Vec<Due>> {
    sqlx::query_as!(
        Due,
        r#"with clock as materialized (select durable.now() as now)
           select m.message_id as "message_id: MessageId", m.tenant_id as "tenant_id: TenantId", m.contact_id as "contact_id: ContactId",
                m.type as kind, m.content_sealed, m.template_id as "template_id: TemplateId",
                t.status as "template_status?", m.category, m.attempts, v.window_until, c.opted_out, c.marketing_opted_out,
                (select value from contact_alias a where a.contact_id = m.contact_id and a.kind = 'phone' and a.valid_to is null limit 1) as phone,
                (select value from contact_alias a where a.contact_id = m.contact_id and a.kind = 'bsuid' and a.valid_to is null limit 1) as bsuid,
                case when $3::interval is null then '{}' else array(select h.at from (
                    select attempted_at as at from message
                    where conversation_id = m.conversation_id and attempted_at > (select now from clock) - $3::interval
                    union all
                    select a.ended_at from message_attempt a
                    where a.message_id = m.message_id and a.ended_at > (select now from clock) - $3::interval) h
                    order by h.at) end as "recent!"
           from unnest(array[2, 1, 0]::smallint[]) with ordinality as p(priority, place)
           cross join lateral (
                select q.* from message q
                where q.line_id = $1 and q.queued and q.direction = 'out' and q.priority = p.priority and q.due_at <= (select now from clock)
                  and coalesce((select false from message o where o.line_id = q.line_id and o.contact_id = q.contact_id and o.direction = 'out'
                        and o.unsettled limit 1), true)
                  and q.seq = (select o.seq from message o where o.line_id = q.line_id and o.contact_id = q.contact_id and o.direction = 'out'
                        and o.queued and (o.not_before is null or o.not_before <= (select now from clock))
                        order by o.priority desc, o.seq limit 1)
                order by q.due_at, q.seq limit $2) m
           join contact c on c.contact_id = m.contact_id
           join conversation v on v.conversation_id = m.conversation_id
           left join template t on t.template_id = m.template_id
           order by p.place, m.due_at, m.seq limit $2"#,
        line.0,
        limit,
        look_back as _
    )
    .fetch_all(db)
    .await
}

/// Commits the attempts of a batch before any call is made. Returns who may be sent: those still queued, if the lane is still ours.
pub async fn attempt(db: impl PgExecutor<'_>, line: LineId, token: i64, batch: &[MessageId]) -> sqlx::Result<Vec<MessageId>> {
    sqlx::query_scalar!(
        r#"with clock as materialized (select durable.now() as now),
           ours as (select 1 from lane where line_id = $1 and token = $2 and lease_until > (select now from clock) for share)
           update message m set status = 'sending', attempts = m.attempts + 1, attempted_at = (select now from clock), waiting_for = null
           where m.message_id = any($3::uuid[]) and m.status = 'queued' and exists (select 1 from ours)
           returning m.message_id as "message_id: MessageId""#,
        line.0,
        token,
        &batch.iter().map(|m| m.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await
}

/// What one attempt came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub message_id: MessageId,
    /// The attempt's number, which fences the write.
    pub attempt: i16,
    pub status: &'static str,
    pub wamid: Option<String>,
    pub due_at: Option<DateTime<Utc>>,
    pub hold_until: Option<DateTime<Utc>>,
    pub waiting_for: Option<String>,
    pub error_code: Option<String>,
    pub error_text: Option<String>,
    pub error_class: Option<String>,
    /// False: the call was never made or the provider asked to slow down, so the attempt is not counted.
    pub counts: bool,
}

/// Records the outcomes of a batch and tells the tenants of them, in one statement. A status webhook may have been faster: it wins
/// and has told its own, and only the wamid is filled in.
pub async fn settle(db: impl PgExecutor<'_>, outcomes: &[Outcome]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"with clock as materialized (select durable.now() as now),
           news as (
                select * from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::boolean[], $12::jsonb[])
                     as u(message_id, attempt, status, wamid, due_at, hold_until, waiting_for, code, reason, class, counts, data)),
           told as (
                insert into message_attempt (message_id, number, outcome, code, reason)
                select message_id, attempt, case when status = 'unknown' then 'unclear' when not counts then 'throttled' else 'refused' end, code, reason
                from news where status <> 'accepted' and status <> 'held'
                on conflict do nothing),
           changed as (
                update message m set
                     status = case when m.status in ('sending', 'unknown') then n.status else m.status end,
                     wamid = case when m.status in ('sending', 'unknown') then coalesce(n.wamid, m.wamid) else coalesce(m.wamid, n.wamid) end,
                     due_at = coalesce(n.due_at, m.due_at),
                     hold_until = n.hold_until,
                     waiting_for = n.waiting_for,
                     attempts = m.attempts - case when n.counts then 0 else 1 end,
                     error_code = coalesce(n.code, m.error_code), error_text = coalesce(n.reason, m.error_text), error_class = coalesce(n.class, m.error_class),
                     accepted_at = case when n.wamid is not null then least(m.accepted_at, (select now from clock)) else m.accepted_at end,
                     failed_at = case when n.status = 'failed' and m.status in ('sending', 'unknown') then (select now from clock) else m.failed_at end
                from news n
                where m.message_id = n.message_id and m.attempts = n.attempt
                  and (m.status in ('sending', 'unknown') or (n.wamid is not null and m.wamid is null and m.status <> 'queued'))
                returning m.tenant_id, n.data, m.status = n.status as ours)
           insert into event (tenant_id, type, data, occurred_at)
           select tenant_id, 'message.status', data, (select now from clock) from changed where ours"#,
        &outcomes.iter().map(|o| o.message_id.0).collect::<Vec<_>>(),
        &outcomes.iter().map(|o| o.attempt).collect::<Vec<_>>(),
        &outcomes.iter().map(|o| o.status.to_owned()).collect::<Vec<_>>(),
        &outcomes.iter().map(|o| o.wamid.clone()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.due_at).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.hold_until).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.waiting_for.clone()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.error_code.clone()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.error_text.clone()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.error_class.clone()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|o| o.counts).collect::<Vec<_>>(),
        &outcomes.iter().map(Outcome::event).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(drop)
}

impl Outcome {
    /// What the event of this change says; the reader adds the rest of the message.
    fn event(&self) -> Value {
        json!({
            "id": self.message_id.0, "status": self.status, "wamid": self.wamid, "waiting_for": self.waiting_for,
            "attempts": self.attempt - i16::from(!self.counts),
            "error": self.error_code.as_ref().map(|code| json!({ "code": code, "message": self.error_text })),
        })
    }
}

/// Ends queued messages that may never be sent (opt-out, window closed, template gone): (message, code, sentence).
pub async fn refuse(db: impl PgExecutor<'_>, refused: &[(MessageId, &'static str, String)]) -> sqlx::Result<()> {
    sqlx::query!(
        "update message m set status = 'failed', error_code = u.code, error_text = u.why, error_class = 'X', failed_at = durable.now(), waiting_for = null,
            reserved_units = 0
         from unnest($1::uuid[], $2::text[], $3::text[]) as u(message_id, code, why)
         where m.message_id = u.message_id and m.status = 'queued'",
        &refused.iter().map(|r| r.0.0).collect::<Vec<_>>(),
        &refused.iter().map(|r| r.1.to_owned()).collect::<Vec<_>>(),
        &refused.iter().map(|r| r.2.clone()).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(drop)
}

/// Puts messages that a limit or gate holds back to a later time, with the reason people will read.
pub async fn defer(db: impl PgExecutor<'_>, held: &[(MessageId, DateTime<Utc>, String)]) -> sqlx::Result<()> {
    sqlx::query!(
        "update message m set due_at = u.due_at, waiting_for = u.why
         from unnest($1::uuid[], $2::timestamptz[], $3::text[]) as u(message_id, due_at, why)
         where m.message_id = u.message_id and m.status = 'queued'",
        &held.iter().map(|h| h.0.0).collect::<Vec<_>>(),
        &held.iter().map(|h| h.1).collect::<Vec<_>>(),
        &held.iter().map(|h| h.2.clone()).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(drop)
}

/// When the line's queue next has something to do that is not due yet: a message's time, or the end of a hold.
pub async fn next_due(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"select least(
             (select min(n.due_at) from unnest(array[2, 1, 0]::smallint[]) as p(priority)
              cross join lateral (select due_at from message
                where line_id = $1 and queued and direction = 'out' and priority = p.priority and due_at > durable.now()
                order by due_at, seq limit 1) n),
             (select min(hold_until) from message where line_id = $1 and unsettled and status = 'unknown' and direction = 'out')) as due"#,
        line.0
    )
    .fetch_one(db)
    .await
}

/// When the first hold of the line ends.
pub async fn next_hold(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "select min(hold_until) from message where line_id = $1 and unsettled and status = 'unknown' and direction = 'out'",
        line.0
    )
    .fetch_one(db)
    .await
}

/// After a hand-over: whatever the lost holder had in flight may or may not have been sent.
pub async fn disown(db: impl PgExecutor<'_>, line: LineId, hold_until: DateTime<Utc>) -> sqlx::Result<Vec<MessageId>> {
    sqlx::query_scalar!(
        r#"update message set status = 'unknown', hold_until = $2, waiting_for = 'the outcome of an attempt whose worker was lost'
           where line_id = $1 and unsettled and status = 'sending' and direction = 'out' returning message_id as "message_id: MessageId""#,
        line.0,
        hold_until
    )
    .fetch_all(db)
    .await
}

/// Unknown outcomes whose hold is over: the policy decides. Returns (parked, queued again).
pub async fn release_holds(db: impl PgExecutor<'_>, line: LineId) -> sqlx::Result<Vec<(MessageId, String)>> {
    sqlx::query!(
        r#"update message set
                status = case when policy = 'at_least_once' and attempts < 2 then 'queued' else 'parked' end,
                due_at = durable.now(), hold_until = null,
                waiting_for = case when policy = 'at_least_once' and attempts < 2 then null
                    else 'a person: nobody knows whether this was sent' end
           where line_id = $1 and unsettled and status = 'unknown' and hold_until <= durable.now() and direction = 'out'
           returning message_id as "message_id: MessageId", status"#,
        line.0
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|r| (r.message_id, r.status)).collect())
}

/// Tells the tenants of these messages' standing (`message.status`), in the change's own transaction.
pub async fn tell(db: impl PgExecutor<'_>, messages: &[MessageId]) -> sqlx::Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"with clock as materialized (select durable.now() as now)
           insert into event (tenant_id, type, data, occurred_at)
           select m.tenant_id, 'message.status', jsonb_build_object('id', m.message_id, 'status', m.status, 'wamid', m.wamid, 'attempts', m.attempts,
                'waiting_for', m.waiting_for,
                'error', case when m.error_code is not null then jsonb_build_object('code', m.error_code, 'message', m.error_text) end),
                (select now from clock)
           from message m where m.message_id = any($1) order by m.seq"#,
        &messages.iter().map(|m| m.0).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(drop)
}

/// A message as the API shows it; its content is sealed and added by the caller.
#[derive(Debug, Clone)]
pub struct Message {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub line_id: LineId,
    pub contact_id: ContactId,
    pub conversation_id: Uuid,
    pub seq: i64,
    pub direction: String,
    pub kind: String,
    pub content_sealed: Option<Vec<u8>>,
    pub template_id: Option<TemplateId>,
    pub category: Option<String>,
    pub policy: String,
    pub priority: i16,
    pub status: String,
    pub due_at: DateTime<Utc>,
    pub not_before: Option<DateTime<Utc>>,
    pub waiting_for: Option<String>,
    /// Until when an unclear outcome is waited for.
    pub hold_until: Option<DateTime<Utc>>,
    pub attempts: i16,
    pub wamid: Option<String>,
    pub error_code: Option<String>,
    pub error_text: Option<String>,
    pub error_class: Option<String>,
    pub price_units: Option<i64>,
    pub campaign: Option<String>,
    pub created_at: DateTime<Utc>,
    pub accepted_at: Option<DateTime<Utc>>,
    /// `[{"status","at","code"?}]`, by time; within a second, as Meta tells it, in the order in which things happen.
    pub history: serde_json::Value,
}

macro_rules! select_message {
    ($rest:literal, $($arg:expr),*) => {
        sqlx::query_as!(
            Message,
            r#"select m.message_id as "message_id: MessageId", m.tenant_id as "tenant_id: TenantId", m.line_id as "line_id: LineId",
                m.contact_id as "contact_id: ContactId", m.conversation_id, m.seq, m.direction, m.type as kind, m.content_sealed,
                m.template_id as "template_id: TemplateId", m.category, m.policy, m.priority, m.status, m.due_at, m.not_before, m.waiting_for, m.hold_until,
                m.attempts, m.wamid, m.error_code, m.error_text, m.error_class, m.price_units, m.campaign, m.created_at, m.accepted_at,
                coalesce((select jsonb_agg(jsonb_strip_nulls(h.entry) order by h.place > 0, date_trunc('second', h.at), h.place, h.at) from (
                    select m.created_at as at, 0 as place,
                        jsonb_build_object('status', case when m.direction = 'out' then 'queued' else 'received' end, 'at', m.created_at) as entry
                    union all select m.accepted_at, 2, jsonb_build_object('status', 'accepted', 'at', m.accepted_at)
                        where m.accepted_at is not null and m.direction = 'out'
                    union all select a.ended_at, 1, jsonb_build_object('status', a.outcome, 'at', a.ended_at, 'attempt', a.number, 'code', a.code)
                        from message_attempt a where a.message_id = m.message_id
                    union all select s.at, coalesce(array_position(array['sent', 'delivered', 'read'], s.status), 4) + 2,
                            jsonb_build_object('status', s.status, 'at', s.at, 'code', s.code)
                        from message_status s where s.message_id = m.message_id
                    union all select m.failed_at, 6, jsonb_build_object('status', 'failed', 'at', m.failed_at, 'code', m.error_code)
                        where m.failed_at is not null and m.status = 'failed'
                          and not exists (select from message_status s where s.message_id = m.message_id and s.status = 'failed')) h), '[]') as "history!"
             from message m "# + $rest,
            $($arg),*
        )
    };
}

pub async fn get(db: impl PgExecutor<'_>, tenant: TenantId, id: MessageId) -> sqlx::Result<Option<Message>> {
    select_message!("where m.tenant_id = $1 and m.message_id = $2", tenant.0, id.0).fetch_optional(db).await
}

/// These messages, for events that name them.
pub async fn these(db: impl PgExecutor<'_>, tenant: TenantId, ids: &[Uuid]) -> sqlx::Result<Vec<Message>> {
    select_message!("where m.tenant_id = $1 and m.message_id = any($2)", tenant.0, ids).fetch_all(db).await
}

/// A page of a tenant's messages that are `parked` or `held`, newest first, below `before`.
pub async fn in_doubt(
    db: impl PgExecutor<'_>,
    tenant: TenantId,
    status: &str,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Message>> {
    select_message!(
        "where m.tenant_id = $1 and m.in_doubt and m.status = $2 and ($3::uuid is null or m.message_id < $3)
         order by m.message_id desc limit $4",
        tenant.0,
        status,
        before,
        limit
    )
    .fetch_all(db)
    .await
}

/// A page of a conversation, newest first, below `before`.
pub async fn of_conversation(
    db: impl PgExecutor<'_>,
    tenant: TenantId,
    conversation: Uuid,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Message>> {
    select_message!(
        "where m.tenant_id = $1 and m.conversation_id = $2
            and ($3::uuid is null or m.seq < (select b.seq from message b where b.message_id = $3 and b.tenant_id = $1))
         order by m.seq desc limit $4",
        tenant.0,
        conversation,
        before,
        limit
    )
    .fetch_all(db)
    .await
}

/// Where a queued message stands in its line: how many due ones go before it (counted up to a limit), and what stops the line.
#[derive(Debug, Clone)]
pub struct Place {
    pub ahead: i64,
    pub lane_stopped: Option<String>,
    pub lane_stopped_until: Option<DateTime<Utc>>,
    pub account_stopped: Option<String>,
    pub slowed_to: Option<i32>,
    pub throughput: Option<String>,
    pub line_status: String,
    pub tenant_status: String,
    /// A message to the same contact whose outcome is not known yet.
    pub behind: Option<Uuid>,
    /// When its policy decides.
    pub behind_until: Option<DateTime<Utc>>,
    /// A message to the same contact that goes first, and when it is due.
    pub after: Option<Uuid>,
    pub after_due_at: Option<DateTime<Utc>>,
    pub template_status: Option<String>,
    pub template_paused_until: Option<DateTime<Utc>>,
}

/// Most messages counted before one.
pub const AHEAD_COUNTED: i64 = 100_000;

pub async fn place(db: impl PgExecutor<'_>, message: &Message) -> sqlx::Result<Option<Place>> {
    sqlx::query_as!(
        Place,
        r#"select (select count(*) from (select 1 from message q where q.line_id = $1 and q.queued and q.direction = 'out' and q.due_at <= durable.now()
                    and (q.priority > $3 or (q.priority = $3 and (q.due_at, q.seq) < ($4, $5))) limit $6) n) as "ahead!",
                a.stopped_reason as "lane_stopped?", a.stopped_until as "lane_stopped_until?",
                (select reason from account_stop s where s.messaging_account = l.messaging_account and (s.until is null or s.until > durable.now())) as account_stopped,
                a.slowed_to as "slowed_to?", l.throughput, l.status as line_status, t.status as tenant_status,
                b.message_id as "behind?", b.hold_until as "behind_until?",
                f.message_id as "after?", f.due_at as "after_due_at?", p.status as "template_status?", p.paused_until as "template_paused_until?"
           from line l join tenant t using (tenant_id) left join lane a using (line_id) left join template p on p.template_id = $8
           left join lateral (select o.message_id, o.hold_until from message o where o.line_id = $1 and o.contact_id = $7 and o.direction = 'out'
                and o.message_id <> $2 and o.unsettled limit 1) b on true
           left join lateral (select o.message_id, o.due_at from message o where o.line_id = $1 and o.contact_id = $7 and o.direction = 'out'
                and o.queued and (o.priority > $3 or o.priority = $3 and o.seq < $5)
                and (o.not_before is null or o.not_before <= durable.now()) order by o.priority desc, o.seq limit 1) f on true
           where l.line_id = $1"#,
        message.line_id.0,
        message.message_id.0,
        message.priority,
        message.due_at,
        message.seq,
        AHEAD_COUNTED,
        message.contact_id.0,
        message.template_id.map(|id| id.0)
    )
    .fetch_optional(db)
    .await
}

/// A parked message is queued once more, with its price reserved. `false`: it is not parked.
pub async fn send_again(db: impl PgExecutor<'_>, tenant: TenantId, id: MessageId, reserved_units: i64) -> sqlx::Result<bool> {
    sqlx::query!(
        "update message set status = 'queued', due_at = durable.now(), waiting_for = null, reserved_units = $3
         where tenant_id = $1 and message_id = $2 and status = 'parked'",
        tenant.0,
        id.0,
        reserved_units
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// A parked message rests as failed. `false`: it is not parked.
pub async fn give_up(db: impl PgExecutor<'_>, tenant: TenantId, id: MessageId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update message set status = 'failed', waiting_for = null, failed_at = durable.now(), error_code = 'given_up', error_text = 'a person gave it up'
         where tenant_id = $1 and message_id = $2 and status = 'parked'",
        tenant.0,
        id.0
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Lines with holds that are over.
pub async fn holds_over(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<LineId>> {
    sqlx::query_scalar!(
        r#"select distinct line_id as "line_id: LineId" from message
           where unsettled and status = 'unknown' and direction = 'out' and hold_until <= durable.now() limit $1"#,
        limit
    )
    .fetch_all(db)
    .await
}

/// What waits for a throttle, a stop or a quota of these lines is due at once; what waits for its own time, or because Meta spares
/// its recipient, is not. Whatever still may not go is held again by its gate.
pub async fn hurry(db: impl PgExecutor<'_>, lines: &[LineId]) -> sqlx::Result<u64> {
    sqlx::query!(
        "update message set due_at = durable.now(), waiting_for = null
         where line_id = any($1) and queued and direction = 'out' and due_at > durable.now()
           and (not_before is null or not_before <= durable.now())
           and error_class is distinct from 'R' and error_code is distinct from '131049'",
        &lines.iter().map(|line| line.0).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// Erases the contents of up to `limit` messages that are older than their tenant keeps them, and their files; says how many
/// messages. What is still to be sent stays whole.
pub async fn forget(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    sqlx::query_scalar!(
        r#"with old as (
             select m.message_id from message m join tenant t using (tenant_id)
             where m.created_at < durable.now() - interval '1 month' and m.created_at < durable.now() - make_interval(months => t.retention_months)
               and m.content_sealed is not null and m.status not in ('queued', 'sending', 'unknown', 'parked') limit $1),
           files as (
             update media f set content_sealed = null, filename = null, erased_at = durable.now() from old
             where f.message_id = old.message_id and f.erased_at is null),
           gone as (
             update message m set content_sealed = null, campaign = null from old where m.message_id = old.message_id returning 1)
           select count(*) as "count!" from gone"#,
        limit
    )
    .fetch_one(db)
    .await
    .map(i64::unsigned_abs)
}
