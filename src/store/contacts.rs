//! Tables `contact` and `contact_alias`: the candidate, and every name the providers know them by.

use chrono::{DateTime, Utc};
use domain::{ContactId, TenantId};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};
use std::collections::HashMap;
use uuid::Uuid;

/// A name of a contact: `("phone", "+212…")`, `("bsuid", "MA.…")` or `("parent_bsuid", "MA.ENT.…")`.
pub type Alias = (&'static str, String);

/// The contacts behind these aliases, made where they are missing. Set-based: ten thousand cost three statements.
pub async fn resolve(tx: &mut PgConnection, tenant: TenantId, wanted: &[Alias]) -> sqlx::Result<HashMap<Alias, ContactId>> {
    let mut found = known(&mut *tx, tenant, wanted).await?;
    if wanted.iter().all(|alias| found.contains_key(alias)) {
        return Ok(found);
    }
    // One maker of contacts per tenant at a time; look again under the lock.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('contact:' || $1::text, 0))", tenant.0.to_string())
        .execute(&mut *tx)
        .await?;
    found = known(&mut *tx, tenant, wanted).await?;
    let mut missing: Vec<&Alias> = wanted.iter().filter(|alias| !found.contains_key(*alias)).collect();
    missing.sort();
    missing.dedup();
    let ids: Vec<Uuid> = missing.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query!("insert into contact (contact_id, tenant_id) select unnest($2::uuid[]), $1", tenant.0, &ids)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "insert into contact_alias (tenant_id, kind, value, contact_id) select $1, u.kind, u.value, u.id from unnest($2::text[], $3::text[], $4::uuid[]) as u(kind, value, id)",
        tenant.0,
        &missing.iter().map(|a| a.0.to_owned()).collect::<Vec<_>>(),
        &missing.iter().map(|a| a.1.clone()).collect::<Vec<_>>(),
        &ids
    )
    .execute(&mut *tx)
    .await?;
    found.extend(missing.into_iter().cloned().zip(ids.into_iter().map(ContactId)));
    Ok(found)
}

async fn known(db: impl PgExecutor<'_>, tenant: TenantId, wanted: &[Alias]) -> sqlx::Result<HashMap<Alias, ContactId>> {
    let rows = sqlx::query!(
        r#"select a.kind, a.value, a.contact_id as "contact_id: ContactId" from contact_alias a
           join (select distinct * from unnest($2::text[], $3::text[]) as u(kind, value)) u using (kind, value)
           where a.tenant_id = $1 and a.valid_to is null"#,
        tenant.0,
        &wanted.iter().map(|a| a.0.to_owned()).collect::<Vec<_>>(),
        &wanted.iter().map(|a| a.1.clone()).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let kind = match row.kind.as_str() {
                "phone" => "phone",
                "bsuid" => "bsuid",
                "parent_bsuid" => "parent_bsuid",
                _ => return None,
            };
            Some(((kind, row.value), row.contact_id))
        })
        .collect())
}

/// A contact as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Contact {
    #[serde(rename = "id")]
    pub contact_id: ContactId,
    pub name: Option<String>,
    pub language: Option<String>,
    pub opted_out: bool,
    pub marketing_opted_out: bool,
    /// `{"source","at"}`
    pub consent: Option<serde_json::Value>,
    pub last_contacted_at: Option<DateTime<Utc>>,
    pub last_replied_at: Option<DateTime<Utc>>,
    pub erased_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// `[{"kind","value","valid_from","valid_to"}]`
    pub identities: serde_json::Value,
}

impl Contact {
    /// What they can be written to by now: the phone if it is known, else the user id.
    pub fn address(&self) -> Option<&str> {
        let live = |kind: &str| {
            let mut names = self.identities.as_array()?.iter().rev();
            names.find(|name| name["kind"] == kind && name["valid_to"].is_null())?["value"].as_str()
        };
        live("phone").or_else(|| live("bsuid"))
    }
}

pub async fn get(db: impl PgExecutor<'_>, tenant: TenantId, id: ContactId) -> sqlx::Result<Option<Contact>> {
    these(db, tenant, &[id.0]).await.map(|mut found| found.pop())
}

/// These contacts, as far as they are the tenant's; in no order.
pub async fn these(db: impl PgExecutor<'_>, tenant: TenantId, ids: &[Uuid]) -> sqlx::Result<Vec<Contact>> {
    sqlx::query_as!(
        Contact,
        r#"select c.contact_id as "contact_id: ContactId", name, language, opted_out, marketing_opted_out,
                case when consent_at is not null then jsonb_build_object('source', consent_source, 'at', consent_at) end as consent, last_contacted_at, last_replied_at, erased_at, created_at,
                coalesce((select jsonb_agg(jsonb_build_object('kind', a.kind, 'value', a.value, 'valid_from', a.valid_from, 'valid_to', a.valid_to)
                    order by a.valid_from) from contact_alias a where a.contact_id = c.contact_id), '[]') as "identities!"
           from contact c where tenant_id = $1 and contact_id = any($2)"#,
        tenant.0,
        ids
    )
    .fetch_all(db)
    .await
}

/// A page of a tenant's contacts, the youngest first, below `before`; of one phone if it is given.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: TenantId,
    phone: Option<&str>,
    before: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "select contact_id from contact c
         where tenant_id = $1 and ($3::uuid is null or contact_id < $3)
           and ($2::text is null or contact_id in (
                select contact_id from contact_alias where tenant_id = $1 and kind = 'phone' and value = $2 and valid_to is null))
         order by contact_id desc limit $4",
        tenant.0,
        phone,
        before,
        limit
    )
    .fetch_all(db)
    .await
}

/// What `PATCH /v1/contacts/{id}` may change; `None` leaves a field as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub name: Option<String>,
    pub opted_out: Option<bool>,
    pub consent: Option<(String, DateTime<Utc>)>,
}

pub async fn change(db: impl PgExecutor<'_>, tenant: TenantId, id: ContactId, change: &Change) -> sqlx::Result<bool> {
    sqlx::query!(
        "update contact set name = coalesce($3, name), opted_out = coalesce($4, opted_out), consent_source = coalesce($5, consent_source),
            consent_at = coalesce($6, consent_at)
         where tenant_id = $1 and contact_id = $2 and erased_at is null",
        tenant.0,
        id.0,
        change.name,
        change.opted_out,
        change.consent.as_ref().map(|c| c.0.clone()),
        change.consent.as_ref().map(|c| c.1)
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Forgets the person and keeps the money: names, aliases and contents go; ids, times, prices and counts stay.
pub async fn erase(tx: &mut PgConnection, tenant: TenantId, id: ContactId) -> sqlx::Result<bool> {
    let erased = sqlx::query!(
        "update contact set name = null, language = null, consent_source = null, consent_at = null, opted_out = true, erased_at = durable.now()
         where tenant_id = $1 and contact_id = $2 and erased_at is null",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?
    .rows_affected()
        == 1;
    if !erased {
        return Ok(false);
    }
    // An event names its message's wamid.
    sqlx::query!(
        "delete from event where tenant_id = $1 and (data->>'contact_id' = ($2::uuid)::text
             or type = 'message.status' and data->>'id' in (select message_id::text from message where contact_id = $2))",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?;
    // The day's count of people stays as it is.
    sqlx::query!(
        "update portfolio_use set contact_key = 'erased.' || gen_random_uuid()
         where contact_key in (select value from contact_alias where tenant_id = $1 and contact_id = $2)",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("delete from contact_alias where tenant_id = $1 and contact_id = $2", tenant.0, id.0).execute(&mut *tx).await?;
    sqlx::query!(
        "update media set content_sealed = null, filename = null, erased_at = durable.now()
         where message_id in (select m.message_id from message m join conversation v using (conversation_id) where v.tenant_id = $1 and v.contact_id = $2)",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update message m set content_sealed = null, campaign = null, error_text = null, context_wamid = null,
            wamid = 'erased.' || encode(sha256(convert_to(m.wamid, 'UTF8')), 'hex'),
            status = case when m.status = 'queued' then 'failed' else m.status end,
            waiting_for = case when m.status = 'queued' then null else m.waiting_for end,
            error_code = case when m.status = 'queued' then 'contact_erased' else m.error_code end,
            failed_at = case when m.status = 'queued' then durable.now() else m.failed_at end
         from conversation v where v.conversation_id = m.conversation_id and v.tenant_id = $1 and v.contact_id = $2",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?;
    // A wamid spells the number (news::erased_wamid).
    sqlx::query!(
        "update message_status s set wamid = 'erased.' || encode(sha256(convert_to(s.wamid, 'UTF8')), 'hex'), detail = null
         from message m join conversation v using (conversation_id) where s.message_id = m.message_id and v.tenant_id = $1 and v.contact_id = $2",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update message_attempt a set reason = null
         from message m join conversation v using (conversation_id) where a.message_id = m.message_id and v.tenant_id = $1 and v.contact_id = $2",
        tenant.0,
        id.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("update conversation set job_reference = null, recruiter = null, status = 'archived' where tenant_id = $1 and contact_id = $2", tenant.0, id.0)
        .execute(&mut *tx)
        .await?;
    Ok(true)
}

/// What a send must know of a contact's wishes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flags {
    pub opted_out: bool,
    pub marketing_opted_out: bool,
}

pub async fn flags(db: impl PgExecutor<'_>, tenant: TenantId, ids: &[ContactId]) -> sqlx::Result<HashMap<ContactId, Flags>> {
    sqlx::query!(
        r#"select contact_id as "contact_id: ContactId", opted_out, marketing_opted_out from contact where tenant_id = $1 and contact_id = any($2)"#,
        tenant.0,
        &ids.iter().map(|id| id.0).collect::<Vec<_>>()
    )
    .fetch_all(db)
    .await
    .map(|rows| {
        let flags = |out, marketing| Flags { opted_out: out, marketing_opted_out: marketing };
        rows.into_iter().map(|r| (r.contact_id, flags(r.opted_out, r.marketing_opted_out))).collect()
    })
}
