//! `/v1/lines`: ordered, shown, given back. The work is two workflows.

use crate::{
    App,
    ask::{Asked, Body, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
    runs::RunRef,
};
use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use domain::{Country, Language, LineId, Profile, TenantId, display_name::DisplayName, profile::Logo};
use jobs::Tools;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{
    lines::{self, Line, NewLine},
    purchases, tenants,
};
use utoipa::ToSchema;
use uuid::Uuid;
use workflows::{ProvisionLine, ReleaseLine};

/// Longest callback address, in bytes.
const CALLBACK_URL_MAX_BYTES: usize = 2_048;

/// What WhatsApp shows about the company: Meta's own fields.
#[derive(Serialize, ToSchema)]
#[schema(as = Profile)]
struct ProfileView {
    about: Option<String>,
    address: Option<String>,
    description: Option<String>,
    email: Option<String>,
    websites: Option<Vec<String>>,
    /// Such as `PROF_SERVICES`.
    vertical: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Introduction {
    /// The first message to a contact is preceded by the introduction template.
    Auto,
    Off,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewOrder {
    tenant_id: Uuid,
    /// ISO 3166 alpha-2
    #[schema(example = "MA")]
    country: String,
    #[schema(example = "Atlas Recrutement")]
    display_name: String,
    #[serde(default)]
    #[schema(value_type = ProfileView)]
    profile: Profile,
    /// PNG or JPEG in base64.
    logo: Option<String>,
    /// Told, signed, when the line is live or undone.
    callback_url: Option<String>,
    /// `fr`, `ar` or `en`: the language of the code; the tenant's unless said.
    language: Option<String>,
    introduction: Option<Introduction>,
}

/// A line.
#[derive(Serialize, ToSchema)]
#[schema(as = Line)]
pub(crate) struct LineView {
    id: Uuid,
    tenant_id: Uuid,
    /// `virtual` or `own`
    kind: String,
    /// `ordered`, `bought`, `linked`, `verified`, `registered`, `live`, `paused`, `restricted`, `releasing`, `released` or `failed`
    status: String,
    /// What it waits for, or why it ended.
    reason: Option<String>,
    country: String,
    language: String,
    display_name: String,
    /// Meta's word for the review of the name.
    name_status: Option<String>,
    profile: ProfileView,
    callback_url: Option<String>,
    /// `auto` or `off`
    introduction: String,
    /// E.164
    phone: Option<String>,
    phone_number_id: Option<String>,
    messaging_account: Option<String>,
    portfolio: Option<String>,
    waac_id: Option<String>,
    quality: Option<String>,
    throughput: Option<String>,
    /// Millionths of `cost_currency`.
    setup_cost_micro: Option<i64>,
    monthly_cost_micro: Option<i64>,
    final_cost_micro: Option<i64>,
    cost_currency: Option<String>,
    provision_run: Option<Uuid>,
    release_run: Option<Uuid>,
    created_at: DateTime<Utc>,
    bought_at: Option<DateTime<Utc>>,
    live_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LineRef {
    id: Uuid,
    status: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Begins {
    line: LineRef,
    run: RunRef,
}

/// Orders a line; follow the run.
#[utoipa::path(post, path = "/v1/lines", tag = "lines", params(("idempotency-key" = Option<String>, Header)), request_body = NewOrder,
    responses((status = 202, body = Begins)))]
pub(crate) async fn order(
    State(app): State<App>,
    caller: Caller,
    Body { asked, value: order }: Body<NewOrder>,
) -> Result<Response, Problem> {
    let tenant_id = TenantId(order.tenant_id);
    caller.must_see(tenant_id)?;
    let country = Country::parse(&order.country)?;
    let display_name = DisplayName::parse(&order.display_name)?;
    let profile = order.profile.validated()?;
    let logo = order.logo.as_deref().map(logo).transpose()?;
    let callback_url = order.callback_url.map(callback_url).transpose()?;
    let language = order.language.as_deref().map(Language::parse).transpose()?;

    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let tenant = tenants::lock(&mut once.tx, tenant_id).await?.ok_or(Code::UNKNOWN_TENANT)?;
    if tenant.status != "active" {
        return Err(Problem::new(Code::TENANT_NOT_ACTIVE, format!("The tenant is {}", tenant.status)));
    }
    tenant.legal.complete()?;
    let language = match language {
        Some(language) => language,
        None => Language::parse(&tenant.language)?,
    };
    let new = NewLine {
        line_id: LineId(Uuid::now_v7()),
        country: country.iso2().to_owned(),
        language: language.meta_locale().to_owned(),
        display_name: display_name.as_str().to_owned(),
        profile: serde_json::to_value(&profile).map_err(|_| Code::INVALID_BODY)?,
        logo,
        callback_url,
        introduction: match order.introduction {
            Some(Introduction::Off) => "off".to_owned(),
            Some(Introduction::Auto) | None => "auto".to_owned(),
        },
    };
    lines::create(&mut *once.tx, tenant_id, &new).await?;
    let run = durable::start::<Tools, _>(&mut once.tx, &ProvisionLine { line: new.line_id, tenant: tenant_id }).await?;
    lines::begun(&mut *once.tx, new.line_id, run).await?;
    tracing::info!(line.id = %new.line_id, run.id = %run, tenant.id = %tenant_id, "A line was ordered");
    begins(once, new.line_id.0, "ordered", run).await
}

async fn begins(once: Once, line: Uuid, status: &str, run: Uuid) -> Result<Response, Problem> {
    let body = Begins { line: LineRef { id: line, status: status.to_owned() }, run: RunRef { id: run } };
    once.answer(StatusCode::ACCEPTED, Some(&format!("/v1/runs/{run}")), &body).await
}

/// Lines, the youngest first; a tenant's key sees its own.
#[utoipa::path(get, path = "/v1/lines", tag = "lines", params(Paging), responses((status = 200, body = Page<LineView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Line>>, Problem> {
    page(&app, &caller, &paging).await.map(Json)
}

pub(crate) async fn page(app: &App, caller: &Caller, paging: &Paging) -> Result<Page<Line>, Problem> {
    let rows = lines::list(&app.front.db, caller.tenant, paging.before()?.map(LineId), paging.ask()).await?;
    Ok(paging.page(rows, |line| line.line_id))
}

/// One line.
#[utoipa::path(get, path = "/v1/lines/{id}", tag = "lines", params(("id" = Uuid, Path)), responses((status = 200, body = LineView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<LineId>) -> Result<Json<Line>, Problem> {
    one(&app, &caller, id).await.map(Json)
}

pub(crate) async fn one(app: &App, caller: &Caller, id: LineId) -> Result<Line, Problem> {
    let line = match caller.tenant {
        Some(tenant) => lines::get(&app.front.db, tenant, id).await?,
        None => lines::get_any(&app.front.db, id).await?,
    };
    line.ok_or_else(Problem::not_found)
}

/// Gives a line back. One that is not live yet is undone instead, by its own run.
#[utoipa::path(delete, path = "/v1/lines/{id}", tag = "lines", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 202, body = Begins)))]
pub(crate) async fn release(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<LineId>,
    asked: Asked,
) -> Result<Response, Problem> {
    one(&app, &caller, id).await?;
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let line = lines::get_any(&mut *once.tx, id).await?.ok_or_else(Problem::not_found)?;
    let run = match line.status.as_str() {
        // Asked again, it is the same run.
        "live" | "paused" | "restricted" | "releasing" | "released" => {
            durable::start::<Tools, _>(&mut once.tx, &ReleaseLine { line: id, tenant: TenantId(line.tenant_id) }).await?
        }
        status => match line.provision_run {
            Some(run) if status != "failed" && durable::cancel(&mut once.tx, run).await? => run,
            _ => return Err(Problem::new(Code::LINE_NOT_RELEASABLE, format!("The line is {status}"))),
        },
    };
    begins(once, id.0, &line.status, run).await
}

/// One link of the chain that proves what was bought.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Link {
    seq: i64,
    purchase_id: Uuid,
    /// `{"purchase_id","kind","at_us","detail"}`
    record: Value,
    /// SHA-256 in hex, over the hash before and this record.
    hash: String,
}

/// What was meant, called, answered and settled for the line's number: each hash covers the one before.
#[utoipa::path(get, path = "/v1/lines/{id}/receipt", tag = "lines", params(("id" = Uuid, Path)), responses((status = 200, body = Page<Link>)))]
pub(crate) async fn receipt(State(app): State<App>, caller: Caller, Path(id): Path<LineId>) -> Result<Json<Page<Link>>, Problem> {
    one(&app, &caller, id).await?;
    let links = purchases::receipts(&app.front.db, id).await?.into_iter();
    let link = |purchases::Receipt { seq, purchase_id, record, hash }| Link { seq, purchase_id, record, hash };
    Ok(Json(Page { data: links.map(link).collect(), next_cursor: None }))
}

fn logo(base64: &str) -> Result<(Vec<u8>, String), Problem> {
    let logo = Logo::new(BASE64_STANDARD.decode(base64).map_err(|_| Code::INVALID_LOGO)?)?;
    Ok((logo.bytes().to_vec(), logo.content_type().to_owned()))
}

fn callback_url(text: String) -> Result<String, Problem> {
    let refused = |why: &'static str| Err(Problem::new(Code::INVALID_CALLBACK_URL, why).with("field", "callback_url"));
    if text.len() > CALLBACK_URL_MAX_BYTES {
        return refused("A callback address has at most 2,048 bytes");
    }
    let Ok(uri) = text.parse::<Uri>() else { return refused("The callback address is not an address") };
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().unwrap_or_default().is_empty() || authority.contains('@')
    {
        return refused("A callback address starts with https:// or http://, and holds no password");
    }
    Ok(text)
}
