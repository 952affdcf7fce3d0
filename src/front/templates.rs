//! `/v1/templates`: what may be said first; submitted, reviewed, edited, deleted.

use crate::{
    App,
    ask::{Asked, Body, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
    runs::RunRef,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use domain::{
    TemplateId, TenantId,
    template::{self as rules, meta_name},
};
use jobs::Tools;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::templates::{self, NewTemplate, Template};
use utoipa::ToSchema;
use uuid::Uuid;
use workflows::{ApproveTemplate, DeleteTemplate, SpreadTemplate};

/// Meta's own component JSON with a name of the tenant's own.
#[derive(Serialize, ToSchema)]
#[schema(as = NewTemplate)]
struct NewTemplateView {
    /// Of an admin key, unless the template is `global`.
    tenant_id: Option<Uuid>,
    #[schema(example = "entretien_confirmation")]
    name: String,
    #[schema(example = "fr")]
    language: String,
    /// `MARKETING`, `UTILITY` or `AUTHENTICATION`
    category: String,
    /// `NAMED` or `POSITIONAL`
    parameter_format: Option<String>,
    components: Vec<Value>,
    /// It says itself who writes: no introduction goes before it.
    introduces: Option<bool>,
    /// How long Meta tries to deliver; not for `MARKETING`.
    message_send_ttl_seconds: Option<i32>,
    /// Of an admin key: a copy goes to every tenant, also to new ones.
    global: Option<bool>,
    /// With `global`: this is the introduction.
    introduction: Option<bool>,
}

/// A template.
#[derive(Serialize, ToSchema)]
#[schema(as = Template)]
pub(crate) struct TemplateView {
    id: Uuid,
    tenant_id: Uuid,
    name: String,
    language: String,
    category: String,
    components: Value,
    parameter_format: String,
    introduces: bool,
    message_send_ttl_seconds: Option<i32>,
    /// Meta's word (`PENDING`, `APPROVED`, `REJECTED`, `PAUSED`, `DISABLED`, ...), or `draft`, `submitting`, `failed`.
    status: String,
    reason: Option<String>,
    quality: Option<String>,
    meta_template_id: Option<String>,
    paused_until: Option<DateTime<Utc>>,
    times_sent: i64,
    last_used_at: Option<DateTime<Utc>>,
    submitted_at: Option<DateTime<Utc>>,
    approved_at: Option<DateTime<Utc>>,
    run_id: Option<Uuid>,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TemplateRef {
    id: Uuid,
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Submitted {
    template: TemplateRef,
    run: RunRef,
}

/// Checks and submits a template.
#[utoipa::path(post, path = "/v1/templates", tag = "templates", params(("idempotency-key" = Option<String>, Header)), request_body = NewTemplateView,
    responses((status = 202, body = Submitted)))]
pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Body { asked, value }: Body<Value>,
) -> Result<Response, Problem> {
    let checked = check(&value)?;
    let global = value.get("global").and_then(Value::as_bool).unwrap_or_default();
    let tenant = match (caller.tenant, global) {
        (None, true) => None,
        (Some(tenant), false) => Some(tenant),
        (None, false) => Some(TenantId(tenant_of(&value)?)),
        (Some(_), true) => return Err(Problem::new(Code::ROLE_NOT_ALLOWED, "Only an admin key makes global templates")),
    };
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let id = Uuid::now_v7();
    let components = Value::Array(checked.components.clone());
    let message_send_ttl_seconds = checked.message_send_ttl_seconds.and_then(|seconds| i32::try_from(seconds).ok());
    let taken = || Problem::new(Code::TEMPLATE_EXISTS, format!("There is a template {} in {}", checked.name, checked.language));
    let run = match tenant {
        None => {
            let introduction = value.get("introduction").and_then(Value::as_bool).unwrap_or_default();
            let new = templates::Global {
                global_template_id: id,
                name: checked.name.clone(),
                language: checked.language.clone(),
                category: checked.category.name().to_owned(),
                components,
                parameter_format: checked.parameter_format.name().to_owned(),
                introduction,
                introduces: checked.introduces || introduction,
                message_send_ttl_seconds,
            };
            if !templates::create_global(&mut *once.tx, &new).await? {
                return Err(taken());
            }
            durable::start::<Tools, _>(&mut once.tx, &SpreadTemplate { global_template: id }).await?
        }
        Some(tenant) => {
            store::tenants::get(&mut once.tx, tenant).await?.ok_or(Code::UNKNOWN_TENANT)?;
            let new = NewTemplate {
                template_id: TemplateId(id),
                tenant_id: tenant,
                global_template_id: None,
                name: checked.name.clone(),
                meta_name: meta_name(tenant, &checked.name),
                messaging_account: app.front.messaging_account.clone(),
                language: checked.language.clone(),
                category: checked.category.name().to_owned(),
                components,
                parameter_format: checked.parameter_format.name().to_owned(),
                introduces: checked.introduces,
                message_send_ttl_seconds,
            };
            if !templates::create(&mut *once.tx, &new).await? {
                return Err(taken());
            }
            submit(&mut once, tenant, TemplateId(id), 1).await?
        }
    };
    answer(once, id, run).await
}

fn check(value: &Value) -> Result<rules::Template, Problem> {
    rules::parse(value).map_err(|problems| {
        let first = problems.first().map(|p| format!("{}: {}", p.component, p.message)).unwrap_or_default();
        Problem::new(Code::TEMPLATE_INVALID, first).with("problems", json!(problems))
    })
}

fn tenant_of(value: &Value) -> Result<Uuid, Problem> {
    let tenant = value.get("tenant_id").and_then(Value::as_str).and_then(|text| text.parse().ok());
    tenant.ok_or_else(|| Problem::new(Code::NEEDS_TENANT, "An admin key names a tenant_id, or says \"global\": true"))
}

async fn submit(once: &mut Once, tenant: TenantId, template: TemplateId, version: i32) -> Result<Uuid, Problem> {
    let run = durable::start::<Tools, _>(&mut once.tx, &ApproveTemplate { template, tenant, version }).await?;
    templates::set_run(&mut *once.tx, template, run).await?;
    Ok(run)
}

async fn answer(once: Once, id: Uuid, run: Uuid) -> Result<Response, Problem> {
    let body = Submitted { template: TemplateRef { id, status: "submitting" }, run: RunRef { id: run } };
    once.answer(StatusCode::ACCEPTED, Some(&format!("/v1/runs/{run}")), &body).await
}

/// Templates, the youngest first; a tenant's key sees its own.
#[utoipa::path(get, path = "/v1/templates", tag = "templates", params(Paging), responses((status = 200, body = Page<TemplateView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Template>>, Problem> {
    let rows = templates::list(&app.front.db, caller.tenant, paging.before()?, paging.ask()).await?;
    Ok(Json(paging.page(rows, |template| template.template_id.0)))
}

/// One template.
#[utoipa::path(get, path = "/v1/templates/{id}", tag = "templates", params(("id" = Uuid, Path)), responses((status = 200, body = TemplateView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<TemplateId>) -> Result<Json<Template>, Problem> {
    one(&app, &caller, id).await.map(Json)
}

async fn one(app: &App, caller: &Caller, id: TemplateId) -> Result<Template, Problem> {
    templates::get(&app.front.db, caller.tenant, id).await?.ok_or_else(Problem::not_found)
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Edit {
    components: Vec<Value>,
}

/// Replaces the components of an approved, rejected or paused template; it is reviewed again.
#[utoipa::path(patch, path = "/v1/templates/{id}", tag = "templates", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = Edit, responses((status = 202, body = Submitted)))]
pub(crate) async fn edit(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TemplateId>,
    Body { asked, value }: Body<Edit>,
) -> Result<Response, Problem> {
    let present = one(&app, &caller, id).await?;
    let checked = check(&json!({"name": present.name, "language": present.language, "category": present.category,
        "parameter_format": present.parameter_format, "components": value.components, "introduces": present.introduces}))?;
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let Some(version) = templates::edit(&mut *once.tx, present.tenant_id, id, &Value::Array(checked.components)).await? else {
        return Err(Problem::new(Code::TEMPLATE_NOT_EDITABLE, format!("The template is {}", present.status)));
    };
    let run = submit(&mut once, present.tenant_id, id, version).await?;
    answer(once, id.0, run).await
}

/// Deletes a template, here and at Meta.
#[utoipa::path(delete, path = "/v1/templates/{id}", tag = "templates", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 202, body = Submitted)))]
pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TemplateId>,
    asked: Asked,
) -> Result<Response, Problem> {
    let present = one(&app, &caller, id).await?;
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let run = durable::start::<Tools, _>(&mut once.tx, &DeleteTemplate { template: id, tenant: present.tenant_id }).await?;
    answer(once, id.0, run).await
}
