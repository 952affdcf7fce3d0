//! Whether the tables are there.

use sqlx::PgExecutor;

/// Ours and the engine's: what a front needs before it may be asked anything.
pub async fn is_there(db: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    // Not a checked macro: it asks about tables that may be missing.
    sqlx::query_scalar("select to_regclass('callback') is not null and to_regclass('line') is not null and to_regclass('durable.run') is not null")
        .fetch_one(db)
        .await
}
