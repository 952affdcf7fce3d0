//! Tables `contact` and `contact_alias` as webhooks change them, in batches: who somebody is, who has become one, what they wish.

use chrono::{DateTime, Utc};
use domain::{ContactId, TenantId};
use sqlx::PgConnection;
use uuid::Uuid;

/// A name within a tenant: `kind` and `value` are the columns of `contact_alias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub tenant_id: TenantId,
    pub kind: String,
    pub value: String,
}

/// The live names of every contact that any of these names leads to.
pub async fn named(tx: &mut PgConnection, names: &[Name]) -> sqlx::Result<Vec<(Name, ContactId)>> {
    sqlx::query!(
        r#"select a.tenant_id as "tenant_id: TenantId", a.kind, a.value, a.contact_id as "contact_id: ContactId" from contact_alias a
           where a.valid_to is null and a.contact_id in (
             select b.contact_id from unnest($1::uuid[], $2::text[], $3::text[]) as u(tenant_id, kind, value)
             join contact_alias b using (tenant_id, kind, value) where b.valid_to is null)"#,
        &names.iter().map(|n| n.tenant_id.0).collect::<Vec<_>>(),
        &names.iter().map(|n| n.kind.clone()).collect::<Vec<_>>(),
        &names.iter().map(|n| n.value.clone()).collect::<Vec<_>>()
    )
    .fetch_all(tx)
    .await
    .map(|rows| {
        let name = |tenant_id, kind, value| Name { tenant_id, kind, value };
        rows.into_iter().map(|r| (name(r.tenant_id, r.kind, r.value), r.contact_id)).collect()
    })
}

/// One changer of a tenant's names at a time; of several tenants in the order of their ids.
pub async fn lock(tx: &mut PgConnection, tenants: &[TenantId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.0).collect();
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('contact:' || id, 0))
         from (select id::text as id from unnest($1::uuid[]) as u(id) order by id offset 0) tenant",
        &ids
    )
    .execute(tx)
    .await
    .map(drop)
}

/// What a batch changes of who is who. Names end before others begin.
#[derive(Debug, Default)]
pub struct Changes {
    pub contacts: Vec<(TenantId, ContactId)>,
    pub ended: Vec<Name>,
    pub begun: Vec<(Name, ContactId)>,
}

/// Writes them all. A name that somebody else holds stays theirs.
pub async fn write(tx: &mut PgConnection, changes: &Changes) -> sqlx::Result<()> {
    let Changes { contacts, ended, begun } = changes;
    if !contacts.is_empty() {
        sqlx::query!(
            "insert into contact (tenant_id, contact_id) select * from unnest($1::uuid[], $2::uuid[])",
            &contacts.iter().map(|c| c.0.0).collect::<Vec<_>>(),
            &contacts.iter().map(|c| c.1.0).collect::<Vec<_>>()
        )
        .execute(&mut *tx)
        .await?;
    }
    if !ended.is_empty() {
        sqlx::query!(
            "update contact_alias a set valid_to = greatest(durable.now(), valid_from)
             from unnest($1::uuid[], $2::text[], $3::text[]) as u(tenant_id, kind, value)
             where a.tenant_id = u.tenant_id and a.kind = u.kind and a.value = u.value and a.valid_to is null",
            &ended.iter().map(|n| n.tenant_id.0).collect::<Vec<_>>(),
            &ended.iter().map(|n| n.kind.clone()).collect::<Vec<_>>(),
            &ended.iter().map(|n| n.value.clone()).collect::<Vec<_>>()
        )
        .execute(&mut *tx)
        .await?;
    }
    if !begun.is_empty() {
        sqlx::query!(
            "insert into contact_alias (tenant_id, kind, value, contact_id)
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[])
             on conflict (tenant_id, kind, value) where valid_to is null do nothing",
            &begun.iter().map(|b| b.0.tenant_id.0).collect::<Vec<_>>(),
            &begun.iter().map(|b| b.0.kind.clone()).collect::<Vec<_>>(),
            &begun.iter().map(|b| b.0.value.clone()).collect::<Vec<_>>(),
            &begun.iter().map(|b| b.1.0).collect::<Vec<_>>()
        )
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// Everything of `from` becomes `into`'s; where both talk on a line, the talks become one.
pub async fn merge(tx: &mut PgConnection, tenant: TenantId, from: ContactId, into: ContactId) -> sqlx::Result<()> {
    sqlx::query!("update contact_alias set contact_id = $3 where tenant_id = $1 and contact_id = $2", tenant.0, from.0, into.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "with pair as (select o.conversation_id as old_id, n.conversation_id as new_id, o.window_until, o.unread, o.message_count, o.introduced_at
             from conversation o join conversation n on n.line_id = o.line_id and n.contact_id = $3 where o.tenant_id = $1 and o.contact_id = $2),
         moved as (update message m set conversation_id = pair.new_id, contact_id = $3 from pair where m.conversation_id = pair.old_id returning 1)
         update conversation v set window_until = greatest(v.window_until, pair.window_until), unread = v.unread + pair.unread,
             message_count = v.message_count + pair.message_count, introduced_at = coalesce(v.introduced_at, pair.introduced_at)
         from pair where v.conversation_id = pair.new_id",
        tenant.0,
        from.0,
        into.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from conversation o where o.tenant_id = $1 and o.contact_id = $2
             and exists (select 1 from conversation n where n.line_id = o.line_id and n.contact_id = $3)",
        tenant.0,
        from.0,
        into.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("update message m set contact_id = $3 where m.tenant_id = $1 and m.conversation_id in (select conversation_id from conversation where contact_id = $2)", tenant.0, from.0, into.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("update conversation set contact_id = $3 where tenant_id = $1 and contact_id = $2", tenant.0, from.0, into.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!(
        "update contact n set opted_out = n.opted_out or o.opted_out, marketing_opted_out = n.marketing_opted_out or o.marketing_opted_out,
            name = coalesce(n.name, o.name), wished_at = greatest(n.wished_at, o.wished_at),
            marketing_wished_at = greatest(n.marketing_wished_at, o.marketing_wished_at), consent_source = coalesce(n.consent_source, o.consent_source), consent_at = coalesce(n.consent_at, o.consent_at)
         from contact o where n.contact_id = $2 and o.contact_id = $1",
        from.0,
        into.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("delete from contact where contact_id = $1", from.0).execute(tx).await.map(drop)
}

/// What somebody wished, by a stop word or by a preference at Meta.
#[derive(Debug, Clone)]
pub struct Wish {
    pub tenant_id: TenantId,
    pub contact_id: ContactId,
    pub out: bool,
    pub at: DateTime<Utc>,
}

/// Opts contacts out of (or back into) everything, where nothing younger is known; at most one wish of each.
pub async fn opt_out(tx: &mut PgConnection, wishes: &[Wish]) -> sqlx::Result<()> {
    if wishes.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "with heard as (
             update contact c set opted_out = w.out, wished_at = w.at
             from unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::timestamptz[]) as w(tenant_id, contact_id, out, at)
             where c.tenant_id = w.tenant_id and c.contact_id = w.contact_id and c.erased_at is null
               and (c.wished_at is null or c.wished_at <= w.at)
             returning c.contact_id, w.out)
         update conversation v set status = case when h.out then 'opted_out' else 'active' end
         from heard h where v.contact_id = h.contact_id and (v.status = 'opted_out') <> h.out",
        &wishes.iter().map(|w| w.tenant_id.0).collect::<Vec<_>>(),
        &wishes.iter().map(|w| w.contact_id.0).collect::<Vec<_>>(),
        &wishes.iter().map(|w| w.out).collect::<Vec<_>>(),
        &wishes.iter().map(|w| w.at).collect::<Vec<_>>()
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The same for marketing alone.
pub async fn opt_out_of_marketing(tx: &mut PgConnection, wishes: &[Wish]) -> sqlx::Result<()> {
    if wishes.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update contact c set marketing_opted_out = w.out, marketing_wished_at = w.at
         from unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::timestamptz[]) as w(tenant_id, contact_id, out, at)
         where c.tenant_id = w.tenant_id and c.contact_id = w.contact_id and c.erased_at is null
           and (c.marketing_wished_at is null or c.marketing_wished_at <= w.at)",
        &wishes.iter().map(|w| w.tenant_id.0).collect::<Vec<_>>(),
        &wishes.iter().map(|w| w.contact_id.0).collect::<Vec<_>>(),
        &wishes.iter().map(|w| w.out).collect::<Vec<_>>(),
        &wishes.iter().map(|w| w.at).collect::<Vec<_>>()
    )
    .execute(tx)
    .await
    .map(drop)
}
