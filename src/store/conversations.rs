//! Table `conversation`: one line, one contact, and where the talk stands.

use chrono::{DateTime, Utc};
use domain::{ContactId, LineId, TenantId};
use serde::Serialize;
use sqlx::PgExecutor;
use std::collections::HashMap;
use uuid::Uuid;

/// A conversation's standing, as a send needs it.
#[derive(Debug, Clone)]
pub struct Standing {
    pub conversation_id: Uuid,
    pub window_until: Option<DateTime<Utc>>,
    pub introduced_at: Option<DateTime<Utc>>,
}

/// The conversations of a line with these contacts, opened where missing, in one statement.
pub async fn open(
    db: impl PgExecutor<'_>,
    tenant: TenantId,
    line: LineId,
    contacts: &[ContactId],
) -> sqlx::Result<HashMap<ContactId, Standing>> {
    let mut ids: Vec<Uuid> = contacts.iter().map(|c| c.0).collect();
    ids.sort();
    ids.dedup();
    let new: Vec<Uuid> = ids.iter().map(|_| Uuid::now_v7()).collect();
    // The no-op update makes `returning` speak of rows that were there already.
    let rows = sqlx::query!(
        r#"insert into conversation (conversation_id, tenant_id, line_id, contact_id)
           select u.id, $1, $2, u.contact_id from unnest($3::uuid[], $4::uuid[]) as u(id, contact_id) order by u.contact_id
           on conflict (line_id, contact_id) do update set tenant_id = conversation.tenant_id
           returning conversation_id, contact_id as "contact_id: ContactId", window_until, introduced_at"#,
        tenant.0,
        line.0,
        &new,
        &ids
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| {
            (
                r.contact_id,
                Standing { conversation_id: r.conversation_id, window_until: r.window_until, introduced_at: r.introduced_at },
            )
        })
        .collect())
}

/// The conversations of these people with these lines, opened where missing, in one statement; locked in the order of their key.
pub async fn with(
    db: impl PgExecutor<'_>,
    pairs: &[(TenantId, LineId, ContactId)],
) -> sqlx::Result<HashMap<(LineId, ContactId), Uuid>> {
    let mut pairs: Vec<_> = pairs.iter().collect();
    pairs.sort_unstable_by_key(|(_, line, contact)| (line.0, contact.0));
    pairs.dedup();
    if pairs.is_empty() {
        return Ok(HashMap::new());
    }
    // Whoever opens the same one meanwhile is waited for: the no-op update makes `returning` speak of theirs.
    let rows = sqlx::query!(
        r#"with wanted as materialized (
             select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) as u(conversation_id, tenant_id, line_id, contact_id)),
           there as materialized (
             select v.conversation_id, v.line_id, v.contact_id from wanted w join conversation v using (line_id, contact_id)
             order by v.line_id, v.contact_id for no key update of v),
           made as (
             insert into conversation (conversation_id, tenant_id, line_id, contact_id, status)
             select w.conversation_id, w.tenant_id, w.line_id, w.contact_id, case when c.opted_out then 'opted_out' else 'active' end from wanted w join contact c using (contact_id)
             where not exists (select from there t where t.line_id = w.line_id and t.contact_id = w.contact_id)
             order by w.line_id, w.contact_id
             on conflict (line_id, contact_id) do update set tenant_id = conversation.tenant_id
             returning conversation_id, line_id, contact_id)
           select conversation_id as "id!", line_id as "line_id!: LineId", contact_id as "contact_id!: ContactId" from there
           union all select conversation_id, line_id, contact_id from made"#,
        &pairs.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &pairs.iter().map(|pair| pair.0.0).collect::<Vec<_>>(),
        &pairs.iter().map(|pair| pair.1.0).collect::<Vec<_>>(),
        &pairs.iter().map(|pair| pair.2.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|r| ((r.line_id, r.contact_id), r.id)).collect())
}

/// A conversation as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Conversation {
    #[serde(rename = "id")]
    pub conversation_id: Uuid,
    pub line_id: LineId,
    pub contact_id: ContactId,
    pub status: String,
    pub stage: String,
    pub job_reference: Option<String>,
    pub recruiter: Option<String>,
    pub window_until: Option<DateTime<Utc>>,
    pub unread: i32,
    pub message_count: i32,
    pub last_message_at: Option<DateTime<Utc>>,
    pub last_message_from: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// A page of a tenant's conversations, by id downwards (newest first), below `after`.
pub async fn list(db: impl PgExecutor<'_>, tenant: TenantId, after: Option<Uuid>, limit: i64) -> sqlx::Result<Vec<Conversation>> {
    sqlx::query_as!(
        Conversation,
        r#"select conversation_id, line_id as "line_id: LineId", contact_id as "contact_id: ContactId", status, stage, job_reference, recruiter,
                window_until, unread, message_count, last_message_at, last_message_from, created_at
           from conversation where tenant_id = $1 and ($2::uuid is null or conversation_id < $2) order by conversation_id desc limit $3"#,
        tenant.0,
        after,
        limit
    )
    .fetch_all(db)
    .await
}

pub async fn get(db: impl PgExecutor<'_>, tenant: TenantId, id: Uuid) -> sqlx::Result<Option<Conversation>> {
    sqlx::query_as!(
        Conversation,
        r#"select conversation_id, line_id as "line_id: LineId", contact_id as "contact_id: ContactId", status, stage, job_reference, recruiter,
                window_until, unread, message_count, last_message_at, last_message_from, created_at
           from conversation where tenant_id = $1 and conversation_id = $2"#,
        tenant.0,
        id
    )
    .fetch_optional(db)
    .await
}

/// The conversation of a message that we received on this line.
pub async fn of_inbound(
    db: impl PgExecutor<'_>,
    tenant: TenantId,
    line: LineId,
    wamid: &str,
) -> sqlx::Result<Option<(ContactId, Standing)>> {
    sqlx::query!(
        r#"select v.contact_id as "contact_id: ContactId", v.conversation_id, v.window_until, v.introduced_at
           from message m join conversation v using (conversation_id)
           where m.tenant_id = $1 and m.line_id = $2 and m.wamid = $3 and m.direction = 'in'"#,
        tenant.0,
        line.0,
        wamid
    )
    .fetch_optional(db)
    .await
    .map(|row| {
        row.map(|r| {
            (
                r.contact_id,
                Standing { conversation_id: r.conversation_id, window_until: r.window_until, introduced_at: r.introduced_at },
            )
        })
    })
}

/// Counts what was queued (one entry a message), and notes who has been introduced.
pub async fn sent(tx: &mut sqlx::PgConnection, messages: &[Uuid], introduced: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!(
        "update conversation v set message_count = v.message_count + n.count, last_message_at = durable.now(), last_message_from = 'us',
            introduced_at = case when v.conversation_id = any($2) then durable.now() else v.introduced_at end
         from (select id, count(*)::integer as count from unnest($1::uuid[]) as id group by id order by id) n where v.conversation_id = n.id",
        messages,
        introduced
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update contact c set last_contacted_at = durable.now() from conversation v where v.conversation_id = any($1) and c.contact_id = v.contact_id",
        messages
    )
    .execute(tx)
    .await
    .map(drop)
}

/// What recruiters may note; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub stage: Option<&'static str>,
    pub status: Option<&'static str>,
    pub job_reference: Option<String>,
    pub recruiter: Option<String>,
    pub seen: bool,
}

pub async fn change(db: impl PgExecutor<'_>, tenant: TenantId, id: Uuid, change: &Change) -> sqlx::Result<bool> {
    sqlx::query!(
        "update conversation set stage = coalesce($3, stage), status = case when status = 'opted_out' then status else coalesce($4, status) end,
            job_reference = coalesce($5, job_reference), recruiter = coalesce($6, recruiter), unread = case when $7 then 0 else unread end
         where tenant_id = $1 and conversation_id = $2",
        tenant.0,
        id,
        change.stage,
        change.status,
        change.job_reference,
        change.recruiter,
        change.seen
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub async fn of_contact(db: impl PgExecutor<'_>, tenant: TenantId, contact: ContactId) -> sqlx::Result<Vec<Conversation>> {
    sqlx::query_as!(
        Conversation,
        r#"select conversation_id, line_id as "line_id: LineId", contact_id as "contact_id: ContactId", status, stage, job_reference, recruiter,
                window_until, unread, message_count, last_message_at, last_message_from, created_at
           from conversation where tenant_id = $1 and contact_id = $2 order by conversation_id"#,
        tenant.0,
        contact.0
    )
    .fetch_all(db)
    .await
}
