//! How statements are planned, where that must not be left to what PostgreSQL knows of its tables.

/// For the rest of the transaction everything is found by key, row by row. For many keys the planner would rather read whole
/// tables; and a plan that was made while a table was small, and kept, would go on doing so until the next ANALYZE.
pub async fn by_key(tx: &mut sqlx::PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "select set_config('enable_seqscan', 'off', true) as scan, set_config('enable_bitmapscan', 'off', true) as bitmap,
                set_config('enable_hashjoin', 'off', true) as hash, set_config('enable_mergejoin', 'off', true) as merge,
                set_config('jit', 'off', true) as jit"
    )
    .fetch_one(tx)
    .await
    .map(drop)
}
