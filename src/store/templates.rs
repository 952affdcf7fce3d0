//! Tables `template`, `global_template` and `template_call`: what may be said first, and what Meta thinks of it.

use chrono::{DateTime, Utc};
use domain::{TemplateId, TenantId};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// A template as the API shows it (with the tenant's own name, never Meta's).
#[derive(Debug, Clone, Serialize)]
pub struct Template {
    #[serde(rename = "id")]
    pub template_id: TemplateId,
    pub tenant_id: TenantId,
    pub name: String,
    #[serde(skip)]
    pub meta_name: String,
    #[serde(skip)]
    pub messaging_account: String,
    pub language: String,
    pub category: String,
    pub components: Value,
    pub parameter_format: String,
    pub introduces: bool,
    pub message_send_ttl_seconds: Option<i32>,
    pub status: String,
    pub reason: Option<String>,
    pub quality: Option<String>,
    pub meta_template_id: Option<String>,
    pub paused_until: Option<DateTime<Utc>>,
    pub times_sent: i64,
    pub last_used_at: Option<DateTime<Utc>>,
    pub submitted_at: Option<DateTime<Utc>>,
    pub approved_at: Option<DateTime<Utc>>,
    pub run_id: Option<Uuid>,
    pub created_at: DateTime<Utc>,
}

/// A definition to keep; it has passed `domain::template`.
#[derive(Debug, Clone)]
pub struct NewTemplate {
    pub template_id: TemplateId,
    pub tenant_id: TenantId,
    pub global_template_id: Option<Uuid>,
    pub name: String,
    pub meta_name: String,
    pub messaging_account: String,
    pub language: String,
    pub category: String,
    pub components: Value,
    pub parameter_format: String,
    pub introduces: bool,
    pub message_send_ttl_seconds: Option<i32>,
}

/// Keeps a new template; `false`: the tenant has a live one of this name and language.
pub async fn create(db: impl PgExecutor<'_>, new: &NewTemplate) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into template (template_id, tenant_id, global_template_id, name, meta_name, messaging_account, language, category, components,
            parameter_format, introduces, message_send_ttl_seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         on conflict (tenant_id, name, language) where deleted_at is null do nothing",
        new.template_id.0,
        new.tenant_id.0,
        new.global_template_id,
        new.name,
        new.meta_name,
        new.messaging_account,
        new.language,
        new.category,
        new.components,
        new.parameter_format,
        new.introduces,
        new.message_send_ttl_seconds
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

macro_rules! select_template {
    ($rest:literal, $($arg:expr),*) => {
        sqlx::query_as!(
            Template,
            r#"select t.template_id as "template_id: TemplateId", t.tenant_id as "tenant_id: TenantId", t.name, t.meta_name, t.messaging_account,
                t.language, t.category, t.components, t.parameter_format, t.introduces, t.message_send_ttl_seconds, t.status, t.reason, t.quality, t.meta_template_id,
                t.paused_until, t.times_sent, t.last_used_at, t.submitted_at, t.approved_at, t.run_id, t.created_at
             from template t "# + $rest,
            $($arg),*
        )
    };
}

/// By id, for a workflow (which already knows whose it is).
pub async fn by_id(db: impl PgExecutor<'_>, id: TemplateId) -> sqlx::Result<Option<Template>> {
    select_template!("where t.template_id = $1", id.0).fetch_optional(db).await
}

/// One template of a tenant, or of anybody (`None`: keys without a tenant).
pub async fn get(db: impl PgExecutor<'_>, tenant: Option<TenantId>, id: TemplateId) -> sqlx::Result<Option<Template>> {
    Ok(by_id(db, id).await?.filter(|template| tenant.is_none_or(|tenant| template.tenant_id == tenant)))
}

/// The live template of a name and language.
pub async fn named(db: impl PgExecutor<'_>, tenant: TenantId, name: &str, language: &str) -> sqlx::Result<Option<Template>> {
    select_template!(
        "where t.tenant_id = $1 and t.name = $2 and t.language = $3 and t.deleted_at is null",
        tenant.0,
        name,
        language
    )
    .fetch_optional(db)
    .await
}

/// A page of live templates, newest first: a tenant's, or everybody's (`None`: keys without a tenant).
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: Option<TenantId>,
    after: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<Template>> {
    select_template!(
        "where ($1::uuid is null or t.tenant_id = $1) and t.deleted_at is null and ($2::uuid is null or t.template_id < $2)
         order by t.template_id desc limit $3",
        tenant.map(|id| id.0),
        after,
        limit
    )
    .fetch_all(db)
    .await
}

/// Meta's word about a template, from a webhook, a look-up or the answer to a submission. Older news (by Meta's own time) is ignored.
#[derive(Debug, Clone, Default, Serialize, serde::Deserialize)]
pub struct News {
    pub status: Option<String>,
    pub reason: Option<String>,
    pub quality: Option<String>,
    pub category: Option<String>,
    pub meta_template_id: Option<String>,
    pub paused_until: Option<DateTime<Utc>>,
    pub at: Option<DateTime<Utc>>,
}

pub async fn learn(db: impl PgExecutor<'_>, id: TemplateId, news: &News) -> sqlx::Result<bool> {
    sqlx::query!(
        "update template set
            status = coalesce($2, status),
            reason = case when $2 is null then reason else $3 end,
            quality = coalesce($4, quality), category = coalesce($5, category), meta_template_id = coalesce($6, meta_template_id),
            paused_until = case when $2 is null then paused_until else $7 end,
            event_at = coalesce($8, event_at),
            submitted_at = case when $2 = 'PENDING' then durable.now() else submitted_at end,
            approved_at = case when $2 = 'APPROVED' then coalesce(approved_at, durable.now()) else approved_at end
         where template_id = $1 and deleted_at is null and ($8::timestamptz is null or event_at is null or event_at <= $8)",
        id.0,
        news.status,
        news.reason,
        news.quality,
        news.category,
        news.meta_template_id,
        news.paused_until,
        news.at
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// New components for a rejected, paused or approved template; it goes back to review. Returns the number of the new version.
pub async fn edit(db: impl PgExecutor<'_>, tenant: TenantId, id: TemplateId, components: &Value) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar!(
        "update template set components = $3, status = 'submitting', reason = null, version = version + 1
         where tenant_id = $1 and template_id = $2 and deleted_at is null and status in ('APPROVED', 'REJECTED', 'PAUSED', 'failed')
         returning version",
        tenant.0,
        id.0,
        components
    )
    .fetch_optional(db)
    .await
}

pub async fn set_run(db: impl PgExecutor<'_>, id: TemplateId, run: Uuid) -> sqlx::Result<()> {
    sqlx::query!("update template set run_id = $2, status = 'submitting' where template_id = $1", id.0, run)
        .execute(db)
        .await
        .map(drop)
}

pub async fn deleted(db: impl PgExecutor<'_>, id: TemplateId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update template set status = 'DELETED', deleted_at = durable.now() where template_id = $1 and deleted_at is null",
        id.0
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The template behind a webhook: by Meta's id, else by account, name and language (`en-US` and `en_US` are one).
pub async fn at_meta(
    db: impl PgExecutor<'_>,
    account: &str,
    meta_id: &str,
    meta_name: &str,
    language: &str,
) -> sqlx::Result<Option<(TemplateId, TenantId)>> {
    sqlx::query!(
        r#"select template_id as "template_id: TemplateId", tenant_id as "tenant_id: TenantId" from template
           where deleted_at is null and (meta_template_id = $2 or (messaging_account = $1 and meta_name = $3 and language = $4))
           order by (meta_template_id = $2) desc nulls last limit 1"#,
        account,
        meta_id,
        meta_name,
        language.replace('-', "_")
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|r| (r.template_id, r.tenant_id)))
}

/// Takes one of the hour's `limit` creations of an account, or says when the next one is free. Counted before the call; a repeated
/// step takes none.
pub async fn take_creation(
    tx: &mut PgConnection,
    account: &str,
    run: Uuid,
    step: i32,
    limit: i64,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('template_call:' || $1, 0))", account).execute(&mut *tx).await?;
    let window = sqlx::query!(
        r#"select count(*) as "used!", min(called_at) + interval '1 hour' as free_at, bool_or(run_id = $2 and step = $3) as mine
           from template_call where messaging_account = $1 and called_at > durable.now() - interval '1 hour'"#,
        account,
        run,
        step
    )
    .fetch_one(&mut *tx)
    .await?;
    if window.mine == Some(true) {
        return Ok(None);
    }
    if window.used >= limit {
        return Ok(window.free_at);
    }
    sqlx::query!(
        "insert into template_call (messaging_account, run_id, step) values ($1, $2, $3) on conflict do nothing",
        account,
        run,
        step
    )
    .execute(&mut *tx)
    .await?;
    Ok(None)
}

/// Counts sends of templates, once a batch.
pub async fn used(db: impl PgExecutor<'_>, ids: &[TemplateId]) -> sqlx::Result<()> {
    sqlx::query!(
        "update template t set times_sent = times_sent + u.n, last_used_at = durable.now()
         from (select id, count(*) as n from unnest($1::uuid[]) as id group by id order by id) u where t.template_id = u.id",
        &ids.iter().map(|t| t.0).collect::<Vec<_>>()
    )
    .execute(db)
    .await
    .map(drop)
}

/// Sends that wait for this template become due again (approval, reinstatement).
pub async fn wake_sends(db: impl PgExecutor<'_>, id: TemplateId) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        "with woken as (update message set due_at = greatest(durable.now(), coalesce(not_before, durable.now())), waiting_for = null
            where template_id = $1 and queued returning line_id)
         select distinct line_id as \"line_id!\" from woken",
        id.0
    )
    .fetch_all(db)
    .await
}

/// The tenant's copy of the introduction template, best in its own language.
pub async fn introduction(db: impl PgExecutor<'_>, tenant: TenantId, language: &str) -> sqlx::Result<Option<Template>> {
    select_template!(
        "join global_template g using (global_template_id)
         where t.tenant_id = $1 and g.introduction and t.deleted_at is null
           and t.status not in ('REJECTED', 'DISABLED', 'DELETED', 'PENDING_DELETION', 'ARCHIVED', 'failed')
         order by (t.language like $2 || '%') desc, t.created_at limit 1",
        tenant.0,
        language
    )
    .fetch_optional(db)
    .await
}

/// A definition for every tenant.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Global {
    pub global_template_id: Uuid,
    pub name: String,
    pub language: String,
    pub category: String,
    pub components: Value,
    pub parameter_format: String,
    /// It is the introduction sent before the first message to a contact.
    pub introduction: bool,
    pub introduces: bool,
    pub message_send_ttl_seconds: Option<i32>,
}

/// `false`: there is one of this name and language.
pub async fn create_global(db: impl PgExecutor<'_>, new: &Global) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into global_template (global_template_id, name, language, category, components, parameter_format, introduction, introduces,
            message_send_ttl_seconds)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict (name, language) do nothing",
        new.global_template_id,
        new.name,
        new.language,
        new.category,
        new.components,
        new.parameter_format,
        new.introduction,
        new.introduces,
        new.message_send_ttl_seconds
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// All definitions for every tenant, or one of them.
pub async fn globals(db: impl PgExecutor<'_>, only: Option<Uuid>) -> sqlx::Result<Vec<Global>> {
    sqlx::query_as!(
        Global,
        "select global_template_id, name, language, category, components, parameter_format, introduction, introduces, message_send_ttl_seconds
         from global_template where $1::uuid is null or global_template_id = $1 order by global_template_id",
        only
    )
    .fetch_all(db)
    .await
}

/// Tenants that have a live line: whom a new global template goes to.
pub async fn tenants_with_lines(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<TenantId>> {
    sqlx::query_scalar!(r#"select distinct tenant_id as "tenant_id: TenantId" from line where status in ('live', 'paused', 'restricted') order by 1"#)
        .fetch_all(db)
        .await
}
