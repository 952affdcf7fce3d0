//! What webhooks say about messages, applied to `message`, `message_status` and `conversation` in batches.

use crate::charges;
use chrono::{DateTime, Utc};
use domain::{ContactId, LineId, MessageId, TenantId};
use sqlx::{PgConnection, PgExecutor};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// The lines behind Meta's number ids; ids that are nobody's are missing from the map.
pub async fn lines(db: impl PgExecutor<'_>, numbers: &[String]) -> sqlx::Result<HashMap<String, (LineId, TenantId)>> {
    sqlx::query!(
        r#"select phone_number_id as "number!", line_id as "line_id: LineId", tenant_id as "tenant_id: TenantId" from line
           where phone_number_id = any($1) and status not in ('released', 'failed')"#,
        numbers
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|r| (r.number, (r.line_id, r.tenant_id))).collect())
}

/// An outbound message that news may be about, locked.
#[derive(Debug, Clone)]
pub struct Known {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub line_id: LineId,
    pub phone_number_id: Option<String>,
    pub status: String,
    pub attempts: i16,
    pub wamid: Option<String>,
    /// Its person asked to be forgotten.
    pub erased: bool,
}

/// A wamid as it is kept once its person is erased: still the only one of its kind, and no longer anybody's number.
pub fn erased_wamid(wamid: &str) -> String {
    format!("erased.{}", hex::encode(charges::wamid_hash(wamid)))
}

/// Which of these wamids are known of people who were erased.
pub async fn of_erased(tx: &mut PgConnection, wamids: &[String]) -> sqlx::Result<HashSet<String>> {
    let kept: HashMap<String, &String> = wamids.iter().map(|wamid| (erased_wamid(wamid), wamid)).collect();
    let found = sqlx::query_scalar!(
        r#"select wamid as "wamid!" from message where wamid = any($1)"#,
        &kept.keys().cloned().collect::<Vec<_>>()
    )
    .fetch_all(tx)
    .await?;
    Ok(found.iter().filter_map(|wamid| kept.get(wamid).copied().cloned()).collect())
}

/// Locks the messages of these ids or wamids, in the order of their ids, so that two workers never wait for each other in a ring.
pub async fn find(tx: &mut PgConnection, ids: &[Uuid], wamids: &[String]) -> sqlx::Result<Vec<Known>> {
    sqlx::query_as!(
        Known,
        r#"select m.message_id as "message_id: MessageId", m.tenant_id as "tenant_id: TenantId", m.line_id as "line_id: LineId", l.phone_number_id,
                m.status, m.attempts, m.wamid,
                exists (select from contact c where c.contact_id = m.contact_id and c.erased_at is not null) as "erased!"
           from message m join line l using (line_id)
           where m.message_id in (select unnest($1::uuid[]) union select message_id from message where wamid = any($2)) and m.direction = 'out'
           order by m.message_id for update of m"#,
        ids,
        wamids
    )
    .fetch_all(tx)
    .await
}

/// One piece of news as Meta told it.
#[derive(Debug, Clone)]
pub struct StatusRow {
    pub message_id: MessageId,
    /// The attempt that it is about, and Meta's id of what that attempt sent.
    pub attempt: i16,
    pub wamid: String,
    pub status: String,
    pub at: DateTime<Utc>,
    pub code: Option<String>,
    pub detail: Option<String>,
    pub pricing_type: Option<String>,
    pub pricing_category: Option<String>,
    /// Its person was: what is kept of the wamid is [`StatusRow::kept_wamid`].
    pub erased: bool,
}

impl StatusRow {
    pub fn kept_wamid(&self) -> String {
        if self.erased { erased_wamid(&self.wamid) } else { self.wamid.clone() }
    }
}

/// Keeps each piece of news once; says which of them (places) are new.
pub async fn note(tx: &mut PgConnection, rows: &[StatusRow]) -> sqlx::Result<Vec<usize>> {
    sqlx::query!(
        r#"with news as (select * from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
                $9::text[]) with ordinality as u(message_id, attempt, wamid, status, at, code, detail, pricing_type, pricing_category, place)),
           kept as (insert into message_status (message_id, attempt, wamid, status, at, code, detail, pricing_type, pricing_category)
                select message_id, attempt, wamid, status, at, code, detail, pricing_type, pricing_category from news
                order by message_id, attempt, status, at
                on conflict do nothing returning message_id, attempt, status, at)
           select min(place) as "place!" from news join kept using (message_id, attempt, status, at) group by message_id, attempt, status, at"#,
        &rows.iter().map(|r| r.message_id.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.attempt).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.kept_wamid()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.status.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.at).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.code.clone()).collect::<Vec<_>>() as _,
        &rows.iter().map(|r| r.detail.clone()).collect::<Vec<_>>() as _,
        &rows.iter().map(|r| r.pricing_type.clone()).collect::<Vec<_>>() as _,
        &rows.iter().map(|r| r.pricing_category.clone()).collect::<Vec<_>>() as _
    )
    .fetch_all(tx)
    .await
    .map(|rows| rows.into_iter().filter_map(|r| usize::try_from(r.place - 1).ok()).collect())
}

/// What is known of a message's attempts, one entry per attempt and status.
#[derive(Debug, Clone)]
pub struct Told {
    pub message_id: MessageId,
    pub attempt: i16,
    pub status: String,
    pub wamid: String,
}

/// All that these messages were ever told.
pub async fn told(tx: &mut PgConnection, messages: &[MessageId]) -> sqlx::Result<Vec<Told>> {
    sqlx::query_as!(
        Told,
        r#"select message_id as "message_id: MessageId", attempt, status, min(wamid) as "wamid!" from message_status where message_id = any($1)
           group by message_id, attempt, status order by message_id, attempt, status"#,
        &messages.iter().map(|m| m.0).collect::<Vec<_>>()
    )
    .fetch_all(tx)
    .await
}

/// Where a message stands after its news.
#[derive(Debug, Clone)]
pub struct Standing {
    pub message_id: MessageId,
    /// Without: only the times of its statuses are put right.
    pub change: Option<Change>,
}

#[derive(Debug, Clone)]
pub struct Change {
    pub status: &'static str,
    pub wamid: Option<String>,
    pub due_at: Option<DateTime<Utc>>,
    pub error_code: Option<String>,
    pub error_text: Option<String>,
    pub error_class: Option<String>,
    pub waiting_for: Option<String>,
}

/// Writes the standings; the times of each status are the earliest that `message_status` knows. Who was reached has no error.
pub async fn stand(tx: &mut PgConnection, rows: &[Standing]) -> sqlx::Result<()> {
    let text = |of: fn(&Change) -> Option<String>| rows.iter().map(|r| r.change.as_ref().and_then(of)).collect::<Vec<_>>();
    sqlx::query!(
        r#"update message m set
                status = coalesce(n.status, m.status), wamid = case when n.status is null then m.wamid else n.wamid end,
                due_at = coalesce(n.due_at, m.due_at),
                hold_until = case when n.status is null then m.hold_until end, waiting_for = case when n.status is null then m.waiting_for else n.waiting_for end,
                error_code = case when n.status in ('delivered', 'read') then null else coalesce(n.code, m.error_code) end,
                error_text = case when n.status in ('delivered', 'read') then null else coalesce(n.reason, m.error_text) end,
                error_class = case when n.status in ('delivered', 'read') then null else coalesce(n.class, m.error_class) end,
                accepted_at = least(m.accepted_at, t.first_at), sent_at = t.sent_at, delivered_at = t.delivered_at, read_at = t.read_at,
                failed_at = case when coalesce(n.status, m.status) = 'failed' then coalesce(t.failed_at, m.failed_at) end
           from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[])
                as n(message_id, status, wamid, due_at, code, reason, class, waiting_for)
           cross join lateral (
                select min(at) as first_at, min(at) filter (where s.status = 'sent') as sent_at, min(at) filter (where s.status = 'delivered') as delivered_at,
                       min(at) filter (where s.status = 'read') as read_at, min(at) filter (where s.status = 'failed') as failed_at
                from message_status s where s.message_id = n.message_id) t
           where m.message_id = n.message_id"#,
        &rows.iter().map(|r| r.message_id.0).collect::<Vec<_>>(),
        &text(|c| Some(c.status.to_owned())) as _,
        &text(|c| c.wamid.clone()) as _,
        &rows.iter().map(|r| r.change.as_ref().and_then(|c| c.due_at)).collect::<Vec<_>>() as _,
        &text(|c| c.error_code.clone()) as _,
        &text(|c| c.error_text.clone()) as _,
        &text(|c| c.error_class.clone()) as _,
        &text(|c| c.waiting_for.clone()) as _
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A message from a contact.
#[derive(Debug, Clone)]
pub struct Received {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub line_id: LineId,
    pub contact_id: ContactId,
    pub conversation_id: Uuid,
    pub kind: String,
    /// The message as Meta sent it, sealed for [`crate::messages::content_context`].
    pub content_sealed: Vec<u8>,
    pub wamid: String,
    pub context_wamid: Option<String>,
    pub at: DateTime<Utc>,
    pub window_until: Option<DateTime<Utc>>,
    /// As their profile shows it.
    pub name: Option<String>,
}

/// Keeps each received message once; moves its conversation (window, counts, last word) and its contact (last reply, and the
/// name, if none is known). One statement. Says which (ids) are new.
pub async fn receive(tx: &mut PgConnection, rows: &[Received]) -> sqlx::Result<Vec<MessageId>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar!(
        r#"with told as materialized (
             select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::bytea[], $8::text[], $9::text[],
                $10::timestamptz[], $11::timestamptz[], $12::text[]) with ordinality
                as u(id, tenant_id, line_id, contact_id, conversation_id, kind, content, wamid, context_wamid, at, window_until, name, place)),
           new as (
             insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, content_sealed, category, status,
                wamid, context_wamid, created_at)
             select id, tenant_id, line_id, contact_id, conversation_id, 'in', kind, content, 'service', 'received', wamid, context_wamid, at
             from told order by place
             on conflict (wamid) where wamid is not null do nothing
             returning message_id),
           fresh as (select told.* from told join new on new.message_id = told.id),
           talks as (
             update conversation v set
                window_until = greatest(v.window_until, n.window_until), unread = v.unread + n.count, message_count = v.message_count + n.count,
                last_message_at = greatest(v.last_message_at, n.at),
                last_message_from = case when v.last_message_at is null or n.at >= v.last_message_at then 'contact' else v.last_message_from end,
                status = case when v.status in ('closed', 'archived') then 'active' else v.status end
             from (select conversation_id, max(window_until) as window_until, max(at) as at, count(*)::integer as count from fresh group by 1) n
             where v.conversation_id = n.conversation_id),
           people as (
             update contact c set last_replied_at = greatest(c.last_replied_at, n.at),
                name = case when c.erased_at is null then coalesce(c.name, n.name) end
             from (select contact_id, max(at) as at, (array_agg(name order by place) filter (where name is not null))[1] as name from fresh group by 1) n
             where c.contact_id = n.contact_id)
           select id as "id!: MessageId" from fresh order by place"#,
        &rows.iter().map(|r| r.message_id.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.tenant_id.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.line_id.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.contact_id.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.conversation_id).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.kind.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.content_sealed.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.wamid.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.context_wamid.clone()).collect::<Vec<_>>() as _,
        &rows.iter().map(|r| r.at).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.window_until).collect::<Vec<_>>() as _,
        &rows.iter().map(|r| r.name.clone()).collect::<Vec<_>>() as _
    )
    .fetch_all(tx)
    .await
}

/// Tells the tenants of received messages (`message.received`), in the same transaction; the reader adds the content, which is sealed.
pub async fn tell(tx: &mut PgConnection, messages: &[MessageId]) -> sqlx::Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    // The table's triggers tell the readers.
    sqlx::query!(
        r#"insert into event (tenant_id, type, data)
           select m.tenant_id, 'message.received', jsonb_build_object('id', m.message_id, 'line_id', m.line_id, 'conversation_id', m.conversation_id,
              'contact_id', m.contact_id, 'type', m.type, 'status', m.status, 'wamid', m.wamid, 'received_at', m.created_at)
           from message m where m.message_id = any($1) order by m.seq"#,
        &messages.iter().map(|m| m.0).collect::<Vec<_>>()
    )
    .execute(tx)
    .await
    .map(drop)
}
