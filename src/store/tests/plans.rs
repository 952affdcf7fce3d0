//! A batch is found by key, whatever the planner thought of a table that was still small.
#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion here")]

use domain::{LineId, MessageId, Provider};
use sqlx::PgPool;
use std::time::Duration;
use store::{
    inbox::{self, NewEvent},
    lanes, messages, plans,
};
use uuid::Uuid;

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
        let before = reads(&mut tx, "inbox").await;
        let waiting = inbox::next(&mut tx, Provider::Meta, 100).await.unwrap();
        assert_eq!(waiting.len(), 30);
        inbox::all_taken(&mut tx, Provider::Meta, &names, &names).await.unwrap();
        let after = reads(&mut tx, "inbox").await;
        // Those that wait, and each of them by its key.
        assert_eq!((after.0 - before.0, after.1 - before.1), (0, 2 * 30), "round {round}");
        tx.commit().await.unwrap();
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn attempts_read_nothing_of_the_messages_but_themselves(db: PgPool) {
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
    let (tenant, line, contact, talk) = (ids[0], LineId(ids[1]), ids[2], ids[3]);
    for statement in [
        format!("insert into tenant (tenant_id, name, credit_limit_units) values ('{tenant}', 'Atlas', 0)"),
        format!(
            "insert into line (line_id, tenant_id, kind, status, country, display_name) values ('{}', '{tenant}', 'own', 'live', 'MA', 'Atlas')",
            line.0
        ),
        format!("insert into contact (contact_id, tenant_id) values ('{contact}', '{tenant}')"),
        format!(
            "insert into conversation (conversation_id, tenant_id, line_id, contact_id) values ('{talk}', '{tenant}', '{}', '{contact}')",
            line.0
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&db).await.unwrap();
    }
    let hour = Duration::from_secs(3_600);
    let token = lanes::take(&db, line, "holder", hour, hour, hour).await.unwrap().unwrap().token;
    let mut connection = db.acquire().await.unwrap();
    for round in 0..8 {
        let batch: Vec<MessageId> = sqlx::query_scalar(
            "insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, status)
             select gen_random_uuid(), $1, $2, $3, $4, 'out', 'text', 'queued' from generate_series(1, 30) returning message_id",
        )
        .bind(tenant)
        .bind(line.0)
        .bind(contact)
        .bind(talk)
        .fetch_all(&mut *connection)
        .await
        .unwrap()
        .into_iter()
        .map(MessageId)
        .collect();
        let mut tx = sqlx::Connection::begin(&mut *connection).await.unwrap();
        plans::by_key(&mut tx).await.unwrap();
        let before = reads(&mut tx, "message").await;
        let gone = MessageId(Uuid::now_v7());
        let asked: Vec<MessageId> = batch.iter().copied().chain([gone]).collect();
        let ours = messages::attempt(&mut *tx, line, token, &asked).await.unwrap();
        assert_eq!(ours.len(), 30);
        let after = reads(&mut tx, "message").await;
        assert_eq!((after.0 - before.0, after.1 - before.1), (0, 30), "round {round}");
        assert_eq!(messages::attempt(&mut *tx, line, token, &batch).await.unwrap(), [], "none is queued any more");
        tx.commit().await.unwrap();
    }
}

/// Scans of a table, and rows of it that were found by an index.
async fn reads(tx: &mut sqlx::PgConnection, table: &str) -> (i64, i64) {
    let counted = "select coalesce(sum(seq_scan), 0)::bigint, coalesce(sum(idx_tup_fetch), 0)::bigint
        from pg_stat_xact_user_tables where relname = $1";
    sqlx::query_as(counted).bind(table).fetch_one(tx).await.unwrap()
}
