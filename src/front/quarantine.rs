//! `/v1/quarantine`: webhooks that belong to nobody we know; replayed when they do.

use crate::{
    App,
    ask::{Asked, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use domain::Provider;
use durable::Tx;
use jobs::{TakeWebhook, Tools};
use serde::{Deserialize, Serialize};
use store::{
    inbox,
    quarantine::{self, Quarantined},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QuarantinedEvent)]
pub(crate) struct QuarantinedView {
    pub(crate) id: Uuid,
    /// `telnyx` or `meta`
    pub(crate) provider: String,
    pub(crate) event_id: String,
    pub(crate) kind: String,
    /// What could not be placed.
    pub(crate) subject: String,
    pub(crate) reason: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) replayed_at: Option<DateTime<Utc>>,
}

impl From<Quarantined> for QuarantinedView {
    fn from(event: Quarantined) -> Self {
        let Quarantined { id, provider, event_id, kind, subject, reason, created_at, replayed_at } = event;
        Self { id, provider, event_id, kind, subject, reason, created_at, replayed_at }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// With those already replayed.
    #[serde(default)]
    replayed: bool,
}

/// Events set aside, the youngest first.
#[utoipa::path(get, path = "/v1/quarantine", tag = "operations", params(Paging, Filter), responses((status = 200, body = Page<QuarantinedView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(paging): Query<Paging>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<QuarantinedView>>, Problem> {
    let rows = quarantine::list(&app.front.db, filter.replayed, paging.before()?, paging.ask()).await?;
    Ok(Json(paging.page(rows.into_iter().map(QuarantinedView::from).collect(), |event| event.id)))
}

/// Works an event once more; it comes back here if it still belongs to nobody.
#[utoipa::path(post, path = "/v1/quarantine/{id}/replay", tag = "operations",
    params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)), responses((status = 202, body = QuarantinedView)))]
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
    let event = again(&mut once.tx, id).await?;
    once.answer(StatusCode::ACCEPTED, None, &event).await
}

pub(crate) async fn again(tx: &mut Tx<'_>, id: Uuid) -> Result<QuarantinedView, Problem> {
    let event = quarantine::replay(&mut **tx, id).await?.ok_or_else(Problem::not_found)?;
    let provider =
        [Provider::Telnyx, Provider::Meta].into_iter().find(|one| one.as_str() == event.provider).ok_or(Code::INTERNAL)?;
    inbox::untake(&mut **tx, provider, &event.event_id).await?;
    durable::enqueue::<Tools, _>(tx, &TakeWebhook { provider, event_id: event.event_id.clone() }).await?;
    Ok(event.into())
}
