//! `/v1/keys` and `/v1/tenants/{id}/keys`: made, listed and revoked by an admin. A key's secret is shown once.

use crate::{
    App,
    ask::{Body, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SubsecRound as _, Utc};
use domain::{KeyId, TenantId};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use store::{
    keys::{self, Key, Role},
    tenants,
};
use utoipa::ToSchema;
use uuid::Uuid;

/// 256 bits.
const SECRET_BYTES: usize = 32;
const PREFIX: &str = "lgn_";
/// Characters of a key that are kept readable.
const HINT_CHARS: usize = PREFIX.len() + 4;

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewKey {
    /// `checkout`, `recruiter`, `finance` or `admin`
    #[schema(value_type = String)]
    role: Role,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyView {
    id: Uuid,
    #[schema(value_type = String)]
    role: Role,
    /// Null: of the installation.
    tenant_id: Option<Uuid>,
    /// The first characters of the key.
    hint: String,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
}

impl From<Key> for KeyView {
    fn from(key: Key) -> Self {
        let Key { id, hint, role, tenant, created_at, revoked_at } = key;
        Self { id: id.0, role, tenant_id: tenant.map(|id| id.0), hint, created_at, revoked_at }
    }
}

/// A key that was just made.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadeKey {
    /// Shown this once.
    key: String,
    #[serde(flatten)]
    view: KeyView,
}

/// A key for a company's people. Checkout and admin keys belong to the installation, whichever company they were asked for.
#[utoipa::path(post, path = "/v1/tenants/{id}/keys", tag = "keys", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = NewKey, responses((status = 201, body = MadeKey)))]
pub(crate) async fn create_of_tenant(
    State(app): State<App>,
    caller: Caller,
    Path(tenant): Path<TenantId>,
    body: Body<NewKey>,
) -> Result<Response, Problem> {
    tenants::get(&mut *app.front.db.acquire().await?, tenant).await?.ok_or_else(Problem::not_found)?;
    let owner = matches!(body.value.role, Role::Recruiter | Role::Finance).then_some(tenant);
    make(&app, &caller, body, owner).await
}

/// A key of the installation: checkout, finance or admin.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", params(("idempotency-key" = Option<String>, Header)),
    request_body = NewKey, responses((status = 201, body = MadeKey)))]
pub(crate) async fn create(State(app): State<App>, caller: Caller, body: Body<NewKey>) -> Result<Response, Problem> {
    if body.value.role == Role::Recruiter {
        return Err(Code::ROLE_NEEDS_TENANT.into());
    }
    make(&app, &caller, body, None).await
}

async fn make(
    app: &App,
    caller: &Caller,
    Body { asked, value: NewKey { role } }: Body<NewKey>,
    tenant: Option<TenantId>,
) -> Result<Response, Problem> {
    let mut once = match Once::begin(app, caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let mut secret = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut secret);
    let secret = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
    let key = Key {
        id: KeyId(Uuid::now_v7()),
        hint: secret.chars().take(HINT_CHARS).collect(),
        role,
        tenant,
        // As precise as what is stored.
        created_at: app.front.clock.now().trunc_subsecs(6),
        revoked_at: None,
    };
    keys::create(&mut *once.tx, &key, &keys::hash(&secret)).await?;
    tracing::info!(key.id = %key.id, key.role = %role, "Made an API key");
    once.answer(StatusCode::CREATED, None, &MadeKey { key: secret, view: key.into() }).await
}

/// A company's keys, the youngest first, without their secrets.
#[utoipa::path(get, path = "/v1/tenants/{id}/keys", tag = "keys", params(("id" = Uuid, Path), Paging), responses((status = 200, body = Page<KeyView>)))]
pub(crate) async fn list_of_tenant(
    State(app): State<App>,
    Path(tenant): Path<TenantId>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<KeyView>>, Problem> {
    tenants::get(&mut *app.front.db.acquire().await?, tenant).await?.ok_or_else(Problem::not_found)?;
    page(&app, Some(tenant), &paging).await
}

/// All keys, the youngest first, without their secrets.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", params(Paging), responses((status = 200, body = Page<KeyView>)))]
pub(crate) async fn list(State(app): State<App>, Query(paging): Query<Paging>) -> Result<Json<Page<KeyView>>, Problem> {
    page(&app, None, &paging).await
}

async fn page(app: &App, tenant: Option<TenantId>, paging: &Paging) -> Result<Json<Page<KeyView>>, Problem> {
    let rows = keys::list(&app.front.db, tenant, paging.before()?, paging.ask()).await?;
    Ok(Json(paging.page(rows.into_iter().map(KeyView::from).collect(), |key| key.id)))
}

/// Ends a company's key, at once and for good.
#[utoipa::path(delete, path = "/v1/tenants/{id}/keys/{key_id}", tag = "keys", params(("id" = Uuid, Path), ("key_id" = Uuid, Path)),
    responses((status = 200, body = KeyView)))]
pub(crate) async fn revoke_of_tenant(
    State(app): State<App>,
    Path((tenant, key)): Path<(TenantId, KeyId)>,
) -> Result<Json<KeyView>, Problem> {
    end(&app, key, Some(tenant)).await
}

/// Ends a key, at once and for good.
#[utoipa::path(delete, path = "/v1/keys/{key_id}", tag = "keys", params(("key_id" = Uuid, Path)), responses((status = 200, body = KeyView)))]
pub(crate) async fn revoke(State(app): State<App>, Path(key): Path<KeyId>) -> Result<Json<KeyView>, Problem> {
    end(&app, key, None).await
}

async fn end(app: &App, key: KeyId, tenant: Option<TenantId>) -> Result<Json<KeyView>, Problem> {
    let key = keys::revoke(&app.front.db, key, tenant).await?.ok_or_else(Problem::not_found)?;
    tracing::info!(key.id = %key.id, "Revoked an API key");
    Ok(Json(key.into()))
}
