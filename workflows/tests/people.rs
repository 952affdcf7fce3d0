//! What is kept of people and what is not; and what every company says alike.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a test an unwrap is an assertion, and an id is anything")]

mod service;

use domain::{ContactId, LineId, MessageId, TenantId};
use jobs::{Queued, queue_messages};
use serde_json::{Value, json};
use service::Service;
use sqlx::{AssertSqlSafe, PgPool};
use std::time::Duration;
use store::{contacts, templates, tenants};
use uuid::Uuid;
use workflows::SpreadTemplate;

const MINUTE: Duration = Duration::from_secs(60);

async fn live_line(service: &Service) -> LineId {
    let (line, run) = service.order_line("MA").await;
    assert_eq!(service.end_of(run, 30 * MINUTE).await, "succeeded");
    line
}

async fn send(service: &Service, message: Value) -> MessageId {
    let mut tx = service.db.begin().await.unwrap();
    let tenant = tenants::get(&mut tx, service.tenant).await.unwrap().unwrap();
    let now = service.tools.clock.now();
    let Queued::Done(ids) = queue_messages(&mut tx, &service.tools.vault, now, &tenant, &[message]).await.unwrap() else {
        panic!("refused")
    };
    tx.commit().await.unwrap();
    service.settle().await;
    ids[0]
}

/// Every row of every table as text, with what is binary in hex.
async fn dump(db: &PgPool) -> Vec<(String, String)> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select quote_ident(table_schema) || '.' || quote_ident(table_name) from information_schema.tables
         where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut all = Vec::new();
    for table in tables {
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(format!("select t::text from {table} t"))).fetch_all(db).await.unwrap();
        all.extend(rows.into_iter().map(|row| (table.clone(), row)));
    }
    all
}

/// Tables in which a word stands, plainly, in hex or in the base64 that a wamid is.
fn tables_with(dump: &[(String, String)], word: &str) -> Vec<String> {
    let in_hex = hex::encode(word);
    let stands = |row: &str| row.contains(word) || row.contains(&in_hex);
    let mut tables: Vec<String> = dump.iter().filter(|(_, row)| stands(row)).map(|(table, _)| table.clone()).collect();
    tables.dedup();
    tables
}

#[sqlx::test(migrations = false)]
async fn nothing_of_an_erased_person_is_left_in_any_table(db: PgPool) {
    let service = Service::open(db).await;
    let line = live_line(&service).await;
    let number = service.line(line).await.phone.unwrap();
    let person = "+212600000777";
    let (theirs, ours) = ("Je cherche un poste de caissier", "Parfait, venez lundi au 12 rue Tarik");
    let received = service.sims.write(&number, person, json!({ "type": "text", "text": { "body": theirs } })).unwrap();
    let photo = service.sims.receive_media("image/png", b"\x89PNG\r\n\x1A\n their face".to_vec());
    let image = json!({ "type": "image", "image": { "id": photo, "mime_type": "image/png", "caption": "Mon portrait" } });
    service.sims.write(&number, person, image).unwrap();
    service.settle().await;
    let sent = send(&service, json!({ "line_id": line, "to": person, "type": "text", "text": { "body": ours } })).await;
    let message = store::messages::get(&service.db, service.tenant, sent).await.unwrap().unwrap();
    assert!(matches!(message.status.as_str(), "delivered" | "read"), "{}", message.status);
    let wamid = message.wamid.unwrap();
    let id = message.contact_id;
    contacts::change(
        &service.db,
        service.tenant,
        id,
        &contacts::Change { name: Some("Salma Benali".into()), consent: None, ..contacts::Change::default() },
    )
    .await
    .unwrap();
    let contact = contacts::get(&service.db, service.tenant, id).await.unwrap().unwrap();
    let bsuid = contact.identities.as_array().unwrap().iter().find(|name| name["kind"] == "bsuid").unwrap()["value"].clone();
    let bsuid = bsuid.as_str().unwrap().to_owned();

    // The words are sealed from the start; the person is known by name and address.
    let before = dump(&service.db).await;
    for words in [theirs, ours, "Mon portrait", "their face"] {
        assert_eq!(tables_with(&before, words), [""; 0], "{words}");
    }
    let known = [person, &bsuid, "Salma Benali", &wamid, &received];
    for word in known {
        assert!(!tables_with(&before, word).is_empty(), "{word} is not found, so the test would not find it later");
    }
    let billed: (i64, i64) = money(&service, id).await;

    let mut tx = service.db.begin().await.unwrap();
    assert!(contacts::erase(&mut tx, service.tenant, id).await.unwrap());
    tx.commit().await.unwrap();
    let after = dump(&service.db).await;
    for word in known {
        assert_eq!(tables_with(&after, word), [""; 0], "{word}");
    }
    let sealed: i64 = sqlx::query_scalar(
        "select (select count(*) from message where contact_id = $1 and content_sealed is not null)
              + (select count(*) from media where content_sealed is not null)
              + (select count(*) from inbox where body_sealed is not null and provider = 'meta' and kind = 'messages')",
    )
    .bind(id.0)
    .fetch_one(&service.db)
    .await
    .unwrap();
    assert_eq!(sealed, 0, "words that a key would still open");
    // The money stays, without the person.
    assert_eq!(money(&service, id).await, billed);
    assert_eq!(billed.0, 1);

    // News that comes late brings nothing back.
    service.sims.prefer(&number, person, "stop");
    service.skip(MINUTE).await;
    for word in [&wamid, &received] {
        assert_eq!(tables_with(&dump(&service.db).await, word), [""; 0], "{word}");
    }
    service.close().await;
}

/// Charges of a contact's messages: how many, and how much.
async fn money(service: &Service, contact: ContactId) -> (i64, i64) {
    sqlx::query_as(
        "select count(*), coalesce(sum(price_units), 0)::bigint from charge where message_id in (select message_id from message where contact_id = $1)",
    )
    .bind(contact.0)
    .fetch_one(&service.db)
    .await
    .unwrap()
}

#[sqlx::test(migrations = false)]
async fn old_words_go_when_their_company_wants_them_gone(db: PgPool) {
    let service = Service::open(db).await;
    let line = live_line(&service).await;
    let number = service.line(line).await.phone.unwrap();
    service.sims.write(&number, "+212600000778", json!({ "type": "text", "text": { "body": "Bonjour" } })).unwrap();
    service.settle().await;
    let mut tx = service.db.begin().await.unwrap();
    let mut tenant = tenants::lock(&mut tx, service.tenant).await.unwrap().unwrap();
    tenant.retention_months = 2;
    assert!(tenants::update(&mut *tx, &tenant).await.unwrap());
    tx.commit().await.unwrap();
    let kept = async || -> i64 {
        let job = jobs::ForgetMessages { at: service.tools.clock.now() };
        let mut tx = service.db.begin().await.unwrap();
        durable::enqueue(&mut tx, &job).await.unwrap();
        tx.commit().await.unwrap();
        service.settle().await;
        let count = sqlx::query_scalar("select count(*) from message where content_sealed is not null");
        count.fetch_one(&service.db).await.unwrap()
    };
    service.skip(50 * 24 * 60 * MINUTE).await;
    assert_eq!(kept().await, 1);
    service.skip(14 * 24 * 60 * MINUTE).await;
    assert_eq!(kept().await, 0);
    let rows: i64 = sqlx::query_scalar("select count(*) from message").fetch_one(&service.db).await.unwrap();
    assert_eq!(rows, 1);
    service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_global_template_goes_to_every_company_and_to_those_that_come_later(db: PgPool) {
    let mut service = Service::open(db).await;
    live_line(&service).await;
    let global = templates::Global {
        global_template_id: Uuid::now_v7(),
        name: "presentation".to_owned(),
        language: "fr".to_owned(),
        category: "UTILITY".to_owned(),
        components: json!([{ "type": "BODY", "text": "Bonjour, {{sender}} vous écrit pour {{company}} au sujet de votre candidature.",
            "example": { "body_text_named_params": [{ "param_name": "sender", "example": "Atlas" }, { "param_name": "company", "example": "Rif" }] } }]),
        parameter_format: "NAMED".to_owned(),
        introduction: true,
        introduces: true,
        message_send_ttl_seconds: Some(43_200),
    };
    let mut tx = service.db.begin().await.unwrap();
    assert!(templates::create_global(&mut *tx, &global).await.unwrap());
    let spread = durable::start(&mut tx, &SpreadTemplate { global_template: global.global_template_id }).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(service.end_of(spread, 30 * MINUTE).await, "succeeded");
    let first = service.tenant;
    service.skip(10 * MINUTE).await;

    let later = TenantId(Uuid::now_v7());
    sqlx::query("insert into tenant (tenant_id, name, credit_limit_units) values ($1, 'Rif Emploi', 10000000)")
        .bind(later.0)
        .execute(&service.db)
        .await
        .unwrap();
    service.tenant = later;
    live_line(&service).await;
    service.skip(10 * MINUTE).await;

    for tenant in [first, later] {
        let copy = templates::named(&service.db, tenant, "presentation", "fr").await.unwrap().unwrap();
        assert_eq!((copy.status.as_str(), copy.message_send_ttl_seconds), ("APPROVED", Some(43_200)), "{copy:?}");
        let at_meta = service.tools.meta.find_template(&copy.meta_name, "fr").await.unwrap().unwrap();
        assert_eq!((Some(at_meta.id), at_meta.components), (copy.meta_template_id, copy.components));
        let introduction = templates::introduction(&service.db, tenant, "fr").await.unwrap().unwrap();
        assert_eq!(introduction.template_id, copy.template_id);
    }
    service.close().await;
}
