//! `/v1/jobs`: work that was given up, and may be tried again when its cause is mended.

use crate::{
    App,
    ask::{Asked, Path},
    caller::Caller,
    once::{Begun, Once},
    page::Page,
    problem::Problem,
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use durable::{
    Tx,
    dead::{self, DeadJob},
};
use serde::Serialize;
use utoipa::ToSchema;

/// The youngest are shown; there are hardly ever more.
const SHOWN: i64 = 500;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadJob)]
pub(crate) struct DeadJobView {
    pub(crate) id: String,
    /// What kind of work it is, such as `deliver_callback`.
    pub(crate) queue: String,
    /// What it is about.
    pub(crate) payload: serde_json::Value,
    pub(crate) attempts: i32,
    /// Why it was given up.
    pub(crate) error: Option<String>,
    pub(crate) died_at: DateTime<Utc>,
}

impl From<DeadJob> for DeadJobView {
    fn from(job: DeadJob) -> Self {
        let DeadJob { id, queue, payload, attempts, error, died_at } = job;
        Self { id, queue, payload, attempts, error: error.map(|error| error.to_string()), died_at }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RetriedJob {
    id: String,
}

/// Jobs that were given up in the last 30 days, the youngest first, at most 500.
#[utoipa::path(get, path = "/v1/jobs", tag = "operations", responses((status = 200, body = Page<DeadJobView>)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Json<Page<DeadJobView>>, Problem> {
    Ok(Json(Page { data: list_all(&app).await?, next_cursor: None }))
}

pub(crate) async fn list_all(app: &App) -> Result<Vec<DeadJobView>, Problem> {
    Ok(dead::list(&app.front.db, SHOWN).await?.into_iter().map(DeadJobView::from).collect())
}

/// Tries a job again that was given up, with all its attempts.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "operations",
    params(("id" = String, Path), ("idempotency-key" = Option<String>, Header)), responses((status = 202, body = RetriedJob)))]
pub(crate) async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    asked: Asked,
) -> Result<Response, Problem> {
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    again(&mut once.tx, &id).await?;
    once.answer(StatusCode::ACCEPTED, None, &RetriedJob { id }).await
}

pub(crate) async fn again(tx: &mut Tx<'_>, id: &str) -> Result<(), Problem> {
    if dead::retry(tx, id).await? { Ok(()) } else { Err(Problem::not_found()) }
}
