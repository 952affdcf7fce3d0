//! A batch of webhooks is found by key, whatever the planner thought of a table that was still small.
#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion here")]

use domain::Provider;
use sqlx::PgPool;
use store::inbox::{self, NewEvent};

#[sqlx::test(migrations = "../../migrations")]
async fn a_batch_never_scans_the_inbox(db: PgPool) {
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
        let waiting = inbox::next(&mut tx, Provider::Meta, 100).await.unwrap();
        assert_eq!(waiting.len(), 30);
        inbox::all_taken(&mut tx, Provider::Meta, &names, &names).await.unwrap();
        let scans: i64 =
            sqlx::query_scalar("select coalesce(sum(seq_scan), 0)::bigint from pg_stat_xact_user_tables where relname = 'inbox'")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
        assert_eq!(scans, 0, "round {round}");
        tx.commit().await.unwrap();
    }
}
