//! Table `event`: what a tenant's keys are told live, written with the change itself.
//!
//! Ids are given out before they commit, so a reader stops at the tail: the id up to which nothing can appear any more. A cursor
//! then never passes an event that commits late, over any number of writers and readers. NOTIFY wakes readers and names the
//! tenant only.

use chrono::{DateTime, Utc};
use domain::TenantId;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

/// Channel on which the tenant's id is told when it has news.
pub const CHANNEL: &str = "ligne_event";

#[derive(Debug, Clone)]
pub struct Event {
    /// Its place in the stream; what `Last-Event-ID` carries.
    pub id: i64,
    /// `line.status`, `run.status`, `message.received`, ...
    pub kind: String,
    pub data: Value,
    pub occurred_at: DateTime<Utc>,
}

/// Tells `tenant` of a change, in the change's own transaction. `data` is the resource as its GET shows it.
pub async fn append(tx: &mut PgConnection, tenant: TenantId, kind: &str, data: &Value) -> sqlx::Result<()> {
    append_all(tx, &[(tenant, kind, data.clone())]).await
}

/// [`append`] for many, in one statement.
pub async fn append_all(tx: &mut PgConnection, events: &[(TenantId, &str, Value)]) -> sqlx::Result<()> {
    let tenants: Vec<_> = events.iter().map(|(tenant, ..)| tenant.0).collect();
    let kinds: Vec<_> = events.iter().map(|(_, kind, _)| (*kind).to_owned()).collect();
    let data: Vec<_> = events.iter().map(|(.., data)| data.clone()).collect();
    // The table's triggers hold the tail back and tell the readers.
    sqlx::query!(
        "insert into event (tenant_id, type, data)
         select tenant_id, type, data from unnest($1::uuid[], $2::text[], $3::jsonb[]) with ordinality as new (tenant_id, type, data, place)
         order by place",
        &tenants,
        &kinds,
        &data
    )
    .execute(tx)
    .await
    .map(drop)
}

/// How far the stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The last id given out, perhaps to a transaction that is still open.
    pub head: i64,
    /// Up to here everything is there that ever will be.
    pub tail: i64,
}

/// To be asked before the events are read.
pub async fn reach(db: impl PgExecutor<'_>) -> sqlx::Result<Reach> {
    sqlx::query_as!(Reach, r#"select head as "head!", tail as "tail!" from event_tail()"#).fetch_one(db).await
}

/// A tenant's events after `cursor` up to `tail`, in order.
pub async fn between(db: impl PgExecutor<'_>, tenant: TenantId, cursor: i64, tail: i64, limit: i64) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Event,
        "select event_id as id, type as kind, data, occurred_at from event
         where tenant_id = $1 and event_id > $2 and event_id <= $3 order by event_id limit $4",
        tenant.0,
        cursor,
        tail,
        limit
    )
    .fetch_all(db)
    .await
}

/// Drops up to `limit` events from before `time`; says how many.
pub async fn forget(db: impl PgExecutor<'_>, time: DateTime<Utc>, limit: i64) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from event where event_id in (select event_id from event where occurred_at < $1 order by occurred_at limit $2)",
        time,
        limit
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// Makes every change of a run's status an event of its tenant, in the run's own transaction. Once the engine's schema and ours
/// are there; any number of times. The data are the run as `GET /v1/runs/{id}` shows it.
pub async fn follow_runs(db: &sqlx::PgPool) -> sqlx::Result<()> {
    sqlx::raw_sql(FOLLOW_RUNS).execute(db).await.map(drop)
}

/// A deferred trigger: at commit it sees the steps that the same transaction records.
const FOLLOW_RUNS: &str = "
begin;
select pg_advisory_xact_lock(hashtextextended('ligne.follow_runs', 0));
create or replace function tell_run() returns trigger language plpgsql as $$
begin
    insert into event (tenant_id, type, data) select run.scope, 'run.status', json_build_object(
        'id', run.run_id, 'workflow', run.workflow, 'tenant_id', run.scope, 'status', new.status, 'waiting_for', new.waiting_for,
        'steps', (select coalesce(json_agg(json_build_object('name', name, 'status', status, 'attempts', attempts,
                      'started_at', started_at, 'ended_at', ended_at, 'error', tell_failure(error)) order by position), '[]')
                  from durable.step where step.run_id = run.run_id),
        'output', run.output, 'error', tell_failure(run.error), 'started_at', run.created_at, 'ended_at', run.ended_at)
    from durable.run where run_id = new.run_id;
    return null;
end $$;
create or replace function tell_failure(failure json) returns json language sql immutable as $$
    select case when failure is null then null
        else json_build_object('kind', failure->'kind', 'code', failure->'code', 'why', failure->'why') end
$$;
do $$ begin
    if not exists (select from pg_trigger where tgname = 'run_started' and tgrelid = 'durable.run'::regclass) then
        create constraint trigger run_started after insert on durable.run deferrable initially deferred
            for each row when (new.scope is not null) execute function tell_run();
        create constraint trigger run_changed after update of status on durable.run deferrable initially deferred
            for each row when (new.scope is not null and new.status is distinct from old.status) execute function tell_run();
    end if;
end $$;
commit;
";
