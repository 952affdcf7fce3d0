//! A batch of webhooks is found by key, whatever the planner thought of a table that was still small.
#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion here")]

use domain::Provider;
use sqlx::PgPool;
use store::inbox::{self, NewEvent};

#[sqlx::test(migrations = "../../migrations")]
async fn a_batch_reads_nothing_of_the_inbox_but_itself(db: PgPool) {
    durable::setup(&db).await.unwrap();
    let mut connection = db.acquire().await.unwrap();
    // More than once, as a connection does: plans are made while there is next to nothing, and kept.
    for round in 0..8 {
        let names: Vec<String> = (0..30).map(|n| format!("event-{round}-{n}")).collect();
        let event = |name: &String| NewEvent {
            provider: Provider::Meta,
            event_id: name.clone(),
            kind: "messages".to_owned(),
            body_sealed: vec![0; 700],
        };
        inbox::keep(&mut connection, &names.iter().map(event).collect::<Vec<_>>()).await.unwrap();
        let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
        let before = reads(&mut tx).await;
        let waiting = inbox::next(&mut tx, Provider::Meta, 100).await.unwrap();
        assert_eq!(waiting.len(), 30);
        inbox::all_taken(&mut tx, Provider::Meta, &names, &names).await.unwrap();
        let after = reads(&mut tx).await;
        // Those that wait, and each of them by its key.
        assert_eq!((after.0 - before.0, after.1 - before.1), (0, 2 * 30), "round {round}");
        tx.commit().await.unwrap();
    }
}

/// Scans of the inbox, and rows of it that were found by an index.
async fn reads(tx: &mut sqlx::PgConnection) -> (i64, i64) {
    let counted = "select coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
        from pg_stat_xact_user_tables where relname = 'inbox'";
    sqlx::query_as(counted).fetch_one(tx).await.unwrap()
}
