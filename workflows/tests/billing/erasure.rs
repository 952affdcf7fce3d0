//! A person is forgotten; what was charged for writing to them stays, and is never charged again.

use crate::{Books, status};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use domain::{ContactId, MessageId};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use store::contacts;

const PHONE: &str = "212600000077";

/// Rows that hold this text in any column, by table; bytes are looked through as they are.
async fn traces(books: &Books, text: &str) -> Vec<(String, i64)> {
    let tables: Vec<String> = sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public' order by 1")
        .fetch_all(&books.service.db)
        .await
        .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let count = format!("select count(*) from {table} t where t::text like $1 or t::text like $2");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count))
            .bind(format!("%{text}%"))
            .bind(format!("%{}%", hex::encode(text)))
            .fetch_one(&books.service.db)
            .await
            .unwrap();
        if count > 0 {
            found.push((table, count));
        }
    }
    found
}

async fn contact_of(books: &Books, message: MessageId) -> ContactId {
    sqlx::query_scalar("select contact_id from message where message_id = $1")
        .bind(message.0)
        .fetch_one(&books.service.db)
        .await
        .map(ContactId)
        .unwrap()
}

#[sqlx::test(migrations = false)]
async fn the_money_stays_and_the_person_goes(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    let phone = format!("+{PHONE}");
    // One that was delivered, one that is still on its way, and one received.
    let charged = books.send(&[books.invite(&phone)]).await[0];
    books.service.settle().await;
    let number = books.service.line(books.line).await.phone.unwrap();
    let received = books.service.sims.write(&number, &phone, json!({"type": "text", "text": {"body": "oui"}})).unwrap();
    books.service.settle().await;
    let contact = contact_of(&books, charged).await;
    let wamid = books.message(charged).await.wamid.unwrap();
    let spelt = BASE64_STANDARD.encode(PHONE);
    assert!(wamid.contains(&spelt) && received.contains(&spelt), "a wamid spells the number: {wamid}");
    assert!(traces(&books, &spelt).await.iter().any(|(table, _)| table == "message"), "there is something to forget");
    let charges = "charge where state = 'final' and price_units = 1000";
    assert_eq!(books.count(charges).await, 1);

    let mut tx = books.service.db.begin().await.unwrap();
    assert!(contacts::erase(&mut tx, books.service.tenant, contact).await.unwrap());
    tx.commit().await.unwrap();
    // What was told to the tenant, and what came in, are kept for days and then forgotten as a whole.
    let kept_for_days = ["event", "inbox", "callback", "idempotency", "portfolio_use"];
    for trace in [PHONE, &spelt] {
        let found = traces(&books, trace).await;
        assert!(found.iter().all(|(table, _)| kept_for_days.contains(&table.as_str())), "{trace} is left in {found:?}");
    }
    assert_eq!(books.count(charges).await, 1, "the money stays");

    // Told again, by name and without one, it is the same charge; told on, the message goes on.
    let (people, messages) = (books.count("contact").await, books.count("message").await);
    let attempt = format!("{charged}.1");
    books.hear(&[status(&wamid, &attempt, "read", books.now() + chrono::Duration::minutes(1))]).await;
    let mut nameless = status(&wamid, &attempt, "delivered", books.now() + chrono::Duration::minutes(2));
    nameless.as_object_mut().unwrap().remove("biz_opaque_callback_data");
    books.hear(&[nameless]).await;
    books.service.settle().await;
    assert_eq!(books.message(charged).await.status, "read");
    assert_eq!((books.count("charge").await, books.count(charges).await), (1, 1), "one charge per wamid, ever");
    assert_eq!(books.count("quarantine").await, 0, "it was known");
    // The person's own message, told again in another delivery, brings nobody back.
    let line = books.service.line(books.line).await;
    books
        .hear_value(json!({"messaging_product": "whatsapp", "metadata": {"display_phone_number": line.phone, "phone_number_id": line.phone_number_id},
            "contacts": [{"wa_id": PHONE, "profile": {"name": "Yassine"}}],
            "messages": [{"id": received, "from": PHONE, "timestamp": books.now().timestamp().to_string(), "type": "text", "text": {"body": "oui"}}]}))
        .await;
    books.service.settle().await;
    assert_eq!((books.count("contact").await, books.count("message").await), (people, messages));
    for trace in [PHONE, &spelt] {
        let found = traces(&books, trace).await;
        assert!(found.iter().all(|(table, _)| kept_for_days.contains(&table.as_str())), "{trace} came back in {found:?}");
    }
    // The invoice is whole, and nobody's number is on it.
    let invoice = books.close(books.month).await;
    let body = books.invoice(&invoice).await.body.to_string();
    assert!(body.contains("\"messages\"") && !body.contains(PHONE) && !body.contains(&spelt), "{body}");
    books.service.close().await;
}
