//! Reading runs: one, or a page of them, as the API shows them (spec.md 4).

use crate::journal::failure_of;
use chrono::{DateTime, Utc};
use domain::Failure;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgExecutor, PgPool, Row, postgres::PgRow, types::Json};
use std::collections::HashMap;
use uuid::Uuid;

/// A page is never longer.
pub const PAGE_MAX: i64 = 500;

/// One execution of a workflow.
#[derive(Debug, Clone, Serialize)]
pub struct RunView {
    pub id: Uuid,
    pub workflow: String,
    /// `running`, `waiting`, `succeeded`, `undoing`, `undone`, `stuck` or `cancelled`.
    pub status: String,
    /// Why it does not go on, for people.
    pub waiting_for: Option<String>,
    /// In the order in which the workflow came to them.
    pub steps: Vec<StepView>,
    pub output: Option<Value>,
    pub error: Option<Failure>,
    pub scope: Option<Uuid>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// What it was started with; not part of the API's shape.
    #[serde(skip)]
    pub input: Value,
}

#[derive(Debug, Clone, Serialize)]
pub struct StepView {
    pub name: String,
    /// `running`, `retrying`, `waiting`, `done`, `failed` or `abandoned`.
    pub status: String,
    pub attempts: i32,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error: Option<Failure>,
}

impl RunView {
    /// It will never change again.
    pub fn ended(&self) -> bool {
        self.ended_at.is_some()
    }
}

/// Which runs to list; `None` means any.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub scope: Option<Uuid>,
    pub status: Option<String>,
    pub workflow: Option<String>,
    /// Only runs older than this one: the last page's `next_cursor`.
    pub before: Option<Uuid>,
    /// Page length, 1 to `PAGE_MAX`; 0 means 50.
    pub limit: i64,
}

/// Newest first.
#[derive(Debug, Clone, Serialize)]
pub struct Page {
    pub data: Vec<RunView>,
    pub next_cursor: Option<Uuid>,
}

const COLUMNS: &str = "run_id, workflow, status, waiting_for, input, output, error::text as error, scope, created_at, ended_at";

/// How many runs are stuck, and how many wait for one of these topics.
pub async fn stalled(db: &PgPool, topics: &[&str]) -> Result<(i64, i64), Failure> {
    let row = sqlx::query(
        "select count(*) filter (where status = 'stuck'), count(*) filter (where status = 'waiting' and wait_topic = any($1))
         from durable.run where status in ('waiting', 'stuck')",
    );
    let row = row.bind(topics).fetch_one(db).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// One run with its steps; with a `scope`, only if it has that scope.
pub async fn get(db: &PgPool, run: Uuid, scope: Option<Uuid>) -> Result<Option<RunView>, Failure> {
    let query = format!("select {COLUMNS} from durable.run where run_id = $1 and ($2::uuid is null or scope = $2)");
    let row = sqlx::query(sqlx::AssertSqlSafe(query)).bind(run).bind(scope).fetch_optional(db).await?;
    let Some(row) = row else { return Ok(None) };
    let mut view = view(&row)?;
    view.steps = steps(db, &[run]).await?.remove(&run).unwrap_or_default();
    Ok(Some(view))
}

pub async fn list(db: &PgPool, filter: &Filter) -> Result<Page, Failure> {
    let limit = if filter.limit <= 0 { 50 } else { filter.limit.min(PAGE_MAX) };
    let query = format!(
        "select {COLUMNS} from durable.run
         where ($1::uuid is null or scope = $1) and ($2::text is null or status = $2) and ($3::text is null or workflow = $3)
           and ($4::uuid is null or run_id < $4)
         order by run_id desc limit $5"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(query))
        .bind(filter.scope)
        .bind(&filter.status)
        .bind(&filter.workflow)
        .bind(filter.before)
        .bind(limit + 1)
        .fetch_all(db)
        .await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > wanted;
    let mut data = rows.iter().take(wanted).map(view).collect::<sqlx::Result<Vec<_>>>()?;
    let ids: Vec<Uuid> = data.iter().map(|run| run.id).collect();
    let mut steps = steps(db, &ids).await?;
    for run in &mut data {
        run.steps = steps.remove(&run.id).unwrap_or_default();
    }
    Ok(Page { next_cursor: if more { ids.last().copied() } else { None }, data })
}

fn view(row: &PgRow) -> sqlx::Result<RunView> {
    Ok(RunView {
        id: row.try_get("run_id")?,
        workflow: row.try_get("workflow")?,
        status: row.try_get("status")?,
        waiting_for: row.try_get("waiting_for")?,
        steps: Vec::new(),
        output: row.try_get::<Option<Json<Value>>, _>("output")?.map(|json| json.0),
        error: row.try_get::<Option<String>, _>("error")?.map(failure_of),
        scope: row.try_get("scope")?,
        created_at: row.try_get("created_at")?,
        ended_at: row.try_get("ended_at")?,
        input: row.try_get::<Json<Value>, _>("input")?.0,
    })
}

async fn steps(db: impl PgExecutor<'_>, runs: &[Uuid]) -> sqlx::Result<HashMap<Uuid, Vec<StepView>>> {
    let rows = sqlx::query(
        "select run_id, name, status, attempts, started_at, ended_at, error::text as error from durable.step
         where run_id = any($1) order by run_id, position",
    )
    .bind(runs)
    .fetch_all(db)
    .await?;
    let mut steps: HashMap<Uuid, Vec<StepView>> = HashMap::new();
    for row in rows {
        steps.entry(row.try_get("run_id")?).or_default().push(StepView {
            name: row.try_get("name")?,
            status: row.try_get("status")?,
            attempts: row.try_get("attempts")?,
            started_at: row.try_get("started_at")?,
            ended_at: row.try_get("ended_at")?,
            error: row.try_get::<Option<String>, _>("error")?.map(failure_of),
        });
    }
    Ok(steps)
}

/// Topic and key of the signal that a run lies down for, if it does.
pub async fn waits_for(db: impl PgExecutor<'_>, run: Uuid) -> Result<Option<(String, String)>, Failure> {
    let row = sqlx::query_as(
        "select wait_topic, wait_key from durable.run where run_id = $1 and wait_topic is not null and wait_key is not null",
    );
    Ok(row.bind(run).fetch_optional(db).await?)
}
