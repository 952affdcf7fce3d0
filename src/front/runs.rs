//! `/v1/runs`: every execution of a workflow, why it waits, and the means to help it.

use crate::{
    App,
    ask::{Asked, Body, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use domain::Failure;
use durable::{
    Tx,
    runs::{self, RunView as Run, StepView as Step},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// States of a run, as `?status=` takes them.
pub(crate) const STATES: [&str; 7] = ["running", "waiting", "succeeded", "undoing", "undone", "stuck", "cancelled"];

/// Why something failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Failure)]
pub(crate) struct FailureView {
    /// `transient`, `throttled`, `unclear`, `rejected` or `unauthorized`
    pub(crate) kind: String,
    pub(crate) code: Option<String>,
    pub(crate) why: String,
}

impl From<Failure> for FailureView {
    fn from(Failure { kind, code, why, .. }: Failure) -> Self {
        let kind = match kind {
            domain::Kind::Transient => "transient",
            domain::Kind::Throttled => "throttled",
            domain::Kind::Unclear => "unclear",
            domain::Kind::Rejected => "rejected",
            domain::Kind::Unauthorized => "unauthorized",
        };
        Self { kind: kind.to_owned(), code, why }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
pub(crate) struct StepView {
    pub(crate) name: String,
    /// `running`, `retrying`, `waiting`, `done`, `failed` or `abandoned`
    pub(crate) status: String,
    pub(crate) attempts: i32,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) error: Option<FailureView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Run)]
pub(crate) struct RunView {
    pub(crate) id: Uuid,
    pub(crate) workflow: String,
    pub(crate) tenant_id: Option<Uuid>,
    /// `running`, `waiting`, `succeeded`, `undoing`, `undone`, `stuck` or `cancelled`
    pub(crate) status: String,
    /// Why it does not go on, for people.
    pub(crate) waiting_for: Option<String>,
    pub(crate) steps: Vec<StepView>,
    pub(crate) output: Option<Value>,
    pub(crate) error: Option<FailureView>,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        let step = |step: Step| {
            let Step { name, status, attempts, started_at, ended_at, error } = step;
            StepView { name, status, attempts, started_at, ended_at, error: error.map(FailureView::from) }
        };
        Self {
            id: run.id,
            workflow: run.workflow,
            tenant_id: run.scope,
            status: run.status,
            waiting_for: run.waiting_for,
            steps: run.steps.into_iter().map(step).collect(),
            output: run.output,
            error: run.error.map(FailureView::from),
            started_at: run.created_at,
            ended_at: run.ended_at,
        }
    }
}

/// Which runs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// `running`, `waiting`, `succeeded`, `undoing`, `undone`, `stuck` or `cancelled`
    pub(crate) status: Option<String>,
    /// Such as `provision_line`
    pub(crate) workflow: Option<String>,
}

/// Runs, the youngest first; a tenant's key sees its own.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(Paging, Filter), responses((status = 200, body = Page<RunView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(paging): Query<Paging>,
    Query(filter): Query<Filter>,
) -> Result<Json<Page<RunView>>, Problem> {
    page(&app, &caller, &paging, filter).await.map(Json)
}

pub(crate) async fn page(app: &App, caller: &Caller, paging: &Paging, filter: Filter) -> Result<Page<RunView>, Problem> {
    let Filter { status, workflow } = filter;
    if let Some(status) = &status
        && !STATES.contains(&status.as_str())
    {
        return Err(Problem::new(Code::BAD_QUERY, format!("status is one of {}", STATES.join(", "))));
    }
    let filter =
        runs::Filter { scope: caller.tenant.map(|id| id.0), status, workflow, before: paging.before()?, limit: paging.ask() };
    let rows = runs::list(&app.front.db, &filter).await?.data;
    Ok(paging.page(rows.into_iter().map(RunView::from).collect(), |run| run.id))
}

/// One run with its steps.
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "runs", params(("id" = Uuid, Path)), responses((status = 200, body = RunView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<Uuid>) -> Result<Json<RunView>, Problem> {
    one(&app, &caller, id).await.map(Json)
}

pub(crate) async fn one(app: &App, caller: &Caller, id: Uuid) -> Result<RunView, Problem> {
    let run = runs::get(&app.front.db, id, caller.tenant.map(|id| id.0)).await?;
    run.map(RunView::from).ok_or_else(Problem::not_found)
}

/// What was asked of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    run: RunRef,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RunRef {
    pub(crate) id: Uuid,
}

/// Undoes what the run did.
#[utoipa::path(post, path = "/v1/runs/{id}/cancel", tag = "runs", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 202, body = Accepted)))]
pub(crate) async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    asked: Asked,
) -> Result<Response, Problem> {
    act(&app, &caller, id, &asked, Act::Cancel).await
}

/// Lets a stuck run, or one that waits for a person, try again now.
#[utoipa::path(post, path = "/v1/runs/{id}/retry", tag = "runs", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    responses((status = 202, body = Accepted)))]
pub(crate) async fn retry(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    asked: Asked,
) -> Result<Response, Problem> {
    act(&app, &caller, id, &asked, Act::Retry).await
}

/// An answer to what a run waits for.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NewSignal {
    /// Topic that the run waits for.
    topic: String,
    #[serde(default)]
    payload: Value,
}

/// Answers what the run waits for.
#[utoipa::path(post, path = "/v1/runs/{id}/signal", tag = "runs", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = NewSignal, responses((status = 202, body = Accepted)))]
pub(crate) async fn signal(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    body: Body<NewSignal>,
) -> Result<Response, Problem> {
    let NewSignal { topic, payload } = body.value;
    act(&app, &caller, id, &body.asked, Act::Signal(topic, payload)).await
}

pub(crate) enum Act {
    Cancel,
    Retry,
    /// Topic and content.
    Signal(String, Value),
}

async fn act(app: &App, caller: &Caller, id: Uuid, asked: &Asked, act: Act) -> Result<Response, Problem> {
    one(app, caller, id).await?;
    let mut once = match Once::begin(app, caller, asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    perform(&mut once.tx, id, act).await?;
    once.answer(StatusCode::ACCEPTED, Some(&format!("/v1/runs/{id}")), &Accepted { run: RunRef { id } }).await
}

pub(crate) async fn perform(tx: &mut Tx<'_>, id: Uuid, act: Act) -> Result<(), Problem> {
    let (done, refusal) = match act {
        Act::Cancel => (durable::cancel(tx, id).await?, Code::RUN_NOT_CANCELLABLE),
        Act::Retry => (durable::retry(tx, id).await?, Code::RUN_NOT_RETRYABLE),
        Act::Signal(topic, content) => {
            let waits = runs::waits_for(&mut **tx, id).await?;
            let key = waits.filter(|(waited, _)| *waited == topic).map(|(_, key)| key);
            if let Some(key) = &key {
                durable::signal_raw(tx, &topic, key, &content).await?;
            }
            (key.is_some(), Code::RUN_NOT_WAITING)
        }
    };
    if done { Ok(()) } else { Err(refusal.into()) }
}
