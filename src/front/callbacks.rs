//! `/v1/callbacks`: what we told the programs that ordered something, and whether they heard.

use crate::{
    App,
    ask::{Asked, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::Problem,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use domain::TenantId;
use durable::Tx;
use jobs::{DeliverCallback, Tools};
use serde::Serialize;
use store::callbacks::{self, Callback};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Callback)]
pub(crate) struct CallbackView {
    /// Its `webhook-id`.
    pub(crate) id: Uuid,
    pub(crate) tenant_id: Uuid,
    pub(crate) url: String,
    pub(crate) r#type: String,
    /// `pending`, `delivered` or `failed`
    pub(crate) status: String,
    pub(crate) attempts: i32,
    pub(crate) next_at: Option<DateTime<Utc>>,
    /// HTTP status of the last try.
    pub(crate) last_status: Option<i16>,
    pub(crate) last_error: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) delivered_at: Option<DateTime<Utc>>,
}

impl From<Callback> for CallbackView {
    fn from(callback: Callback) -> Self {
        Self {
            status: callback.status().to_owned(),
            id: callback.id,
            tenant_id: callback.tenant.0,
            url: callback.url,
            r#type: callback.event,
            attempts: callback.attempts,
            next_at: callback.next_at,
            last_status: callback.last_status,
            last_error: callback.last_error,
            created_at: callback.created_at,
            delivered_at: callback.delivered_at,
        }
    }
}

/// Callbacks, the youngest first.
#[utoipa::path(get, path = "/v1/callbacks", tag = "operations", params(Paging), responses((status = 200, body = Page<CallbackView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<CallbackView>>, Problem> {
    let rows = callbacks::list(&app.front.db, caller.tenant, paging.before()?, paging.ask()).await?;
    Ok(Json(paging.page(rows.into_iter().map(CallbackView::from).collect(), |callback| callback.id)))
}

/// Sends a callback once more, with three days of tries ahead.
#[utoipa::path(post, path = "/v1/callbacks/{id}/replay", tag = "operations",
    params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)), responses((status = 202, body = CallbackView)))]
pub(crate) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    asked: Asked,
) -> Result<Response, Problem> {
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let callback = again(&mut once.tx, id, caller.tenant).await?;
    once.answer(StatusCode::ACCEPTED, None, &callback).await
}

pub(crate) async fn again(tx: &mut Tx<'_>, id: Uuid, tenant: Option<TenantId>) -> Result<CallbackView, Problem> {
    let callback = callbacks::replay(&mut **tx, id, tenant).await?.ok_or_else(Problem::not_found)?;
    durable::enqueue::<Tools, _>(tx, &DeliverCallback { callback: id }).await?;
    Ok(callback.into())
}
