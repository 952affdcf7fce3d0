//! Work that survives a crash: jobs, workflows, signals, timers and a clock, on one PostgreSQL.
//!
//! What it promises and what not is in this crate's README. The crate brings its own schema: call [`setup`] once at start,
//! before or after the program's own migrations (`clock.sql` may also be one of them, so that they can use `durable.now()`).

mod batch;
mod clock;
mod cron;
pub mod dead;
mod forget;
mod journal;
mod lease;
mod queue;
mod run;
pub mod runs;
mod worker;

pub use clock::{Advanced, Clock, advance, advance_with, settle};
pub use forget::RUNS_KEPT;
pub use lease::alive;
pub use queue::{Ctx, Job, Options, enqueue, enqueue_with};
pub use run::{
    FIRST_DELAY, Flow, Halt, LONGEST_DELAY, PERSON_PATIENCE, Policy, Run, STEP_ATTEMPTS, STEP_PATIENCE, Signal, Workflow, cancel,
    retry, signal, signal_all, signal_raw, start, start_all,
};
pub use worker::Engine;

use domain::Failure;
use sqlx::{Acquire, PgPool};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The caller's transaction: work commits with the rows that cause it.
pub type Tx<'c> = sqlx::Transaction<'c, sqlx::Postgres>;

/// The last migration of apalis-postgres 1.0.0; the engine changes apalis's schema, so it insists on the one it knows.
const APALIS_VERSION: i64 = 20_260_902_075_949;
/// "durable" in ASCII: processes that start together set up one after the other.
const SETUP_LOCK: i64 = 0x64_7572_6162_6c65;
const CLOCK_SQL: &str = include_str!("clock.sql");
const SCHEMA_SQL: &str = include_str!("schema.sql");

/// Brings the engine's own schema up to date (apalis and ours); safe to run any number of times, side by side.
/// Fails as `Rejected` if apalis's schema is not the version that this crate was written for.
pub async fn setup(db: &PgPool) -> Result<(), Failure> {
    let mut hasher = DefaultHasher::new();
    (CLOCK_SQL, SCHEMA_SQL).hash(&mut hasher);
    let hash = format!("{:016x}", hasher.finish());
    if is_current(db, &hash).await {
        return Ok(());
    }
    let mut conn = db.acquire().await?;
    let mut tx = conn.begin().await?;
    // Held to the end of this transaction; apalis migrates on another connection meanwhile.
    sqlx::query("select pg_advisory_xact_lock($1)").bind(SETUP_LOCK).execute(&mut *tx).await?;
    queue::setup(db).await?;
    sqlx::raw_sql(CLOCK_SQL).execute(&mut *tx).await?;
    let found = queue::version(&mut tx).await?;
    if found != Some(APALIS_VERSION) {
        return Err(Failure::rejected(format!("apalis's schema is at {found:?}, this program knows {APALIS_VERSION}")));
    }
    sqlx::raw_sql(SCHEMA_SQL).execute(&mut *tx).await?;
    sqlx::query(
        "insert into durable.version (apalis, schema_hash) values ($1, $2)
         on conflict (one) do update set apalis = excluded.apalis, schema_hash = excluded.schema_hash",
    )
    .bind(APALIS_VERSION)
    .bind(hash)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

async fn is_current(db: &PgPool, hash: &str) -> bool {
    let known: sqlx::Result<Option<bool>> = sqlx::query_scalar("select schema_hash = $1 and apalis = $2 from durable.version")
        .bind(hash)
        .bind(APALIS_VERSION)
        .fetch_optional(db)
        .await;
    // An error means that there is no such table yet; a real one shows up again at once.
    matches!(known, Ok(Some(true)))
}
