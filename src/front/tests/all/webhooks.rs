//! Webhooks: believed by signature alone, kept once, answered after the commit; what is not believed leaves no trace.

use crate::service::{ADMIN, Service, VERIFY_TOKEN, WEBHOOK_BYTES, read, sign_meta, sign_telnyx};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

fn call(id: &str) -> Vec<u8> {
    let event = json!({ "data": { "record_type": "event", "event_type": "call.initiated", "id": id, "occurred_at": "2026-11-01T10:00:00Z",
        "payload": { "call_leg_id": "leg" } }, "meta": { "attempt": 1 } });
    serde_json::to_vec(&event).unwrap()
}

fn message(number: &str) -> Vec<u8> {
    // As Meta writes it: what is not ASCII is escaped.
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"1","changes":[{{"field":"messages","value":{{"messaging_product":"whatsapp","metadata":{{"phone_number_id":"{number}"}},"messages":[{{"id":"wamid.A","from":"212600000001","timestamp":"1795000000","type":"text","text":{{"body":"\u00e0 demain"}}}}]}}}}]}}]}}"#
    )
    .into_bytes()
}

async fn nothing_is_kept(service: &Service) {
    for table in ["inbox", "quarantine", "apalis.jobs"] {
        assert_eq!(service.count(table).await, 0, "{table}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_event_is_kept_once_sealed_with_its_work(db: PgPool) {
    let service = Service::open(db).await;
    let id = Uuid::now_v7().to_string();
    for _ in 0..3 {
        assert_eq!(service.telnyx(&call(&id)).await.status, 200);
    }
    for _ in 0..3 {
        assert_eq!(service.whatsapp(&message("555")).await.status, 200);
    }
    assert_eq!((service.count("inbox").await, service.count("apalis.jobs").await), (2, 2));
    let bodies: Vec<(String, String, String, Vec<u8>)> =
        sqlx::query_as("select provider, event_id, kind, body_sealed from inbox order by provider")
            .fetch_all(&service.db)
            .await
            .unwrap();
    let vault: vault::Vault = crate::service::VAULT_KEY.parse().unwrap();
    for ((provider, event_id, kind, sealed), (name, expected, raw)) in
        bodies.iter().zip([("meta", "messages", message("555")), ("telnyx", "call.initiated", call(&id))])
    {
        assert_eq!((provider.as_str(), kind.as_str()), (name, expected));
        // The raw bytes, to the last one.
        assert_eq!(*vault.open(&format!("inbox:body:{provider}:{event_id}"), sealed).unwrap(), raw);
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn events_that_come_together_are_all_kept(db: PgPool) {
    let service = Service::open(db).await;
    let ids: Vec<_> = (0..200).map(|_| Uuid::now_v7().to_string()).collect();
    let bodies: Vec<_> = ids.iter().chain(&ids).map(|id| call(id)).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| service.telnyx(body))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((service.count("inbox").await, service.count("apalis.jobs").await), (200, 200));
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_is_not_signed_right_leaves_no_trace(db: PgPool) {
    let service = Service::open(db).await;
    let now = durable::Clock::default().now().timestamp();
    let at = now.to_string();
    let body = call("1");
    let good = sign_telnyx(&body, &at);
    let long_ago = (now - 301).to_string();
    for (name, request) in [
        ("none", service.request(Method::POST, "/webhooks/telnyx", "").body(body.clone())),
        ("not base64", service.telnyx_at(&body, &at, "****")),
        ("of another body", service.telnyx_at(&body, &at, &sign_telnyx(b"{}", &at))),
        ("of another time", service.telnyx_at(&body, &(now + 1).to_string(), &good)),
        ("truncated body", service.telnyx_at(&body[..body.len() - 1], &at, &good)),
        ("too old", service.telnyx_at(&body, &long_ago, &sign_telnyx(&body, &long_ago))),
    ] {
        let answer = read(request).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (401, "bad_signature"), "{name}");
    }
    let body = message("555");
    let rewritten = serde_json::to_vec(&serde_json::from_slice::<Value>(&body).unwrap()).unwrap();
    for (name, signature, body) in [
        ("none", String::new(), &body),
        ("no scheme", sign_meta(&body).replace("sha256=", ""), &body),
        ("of another body", sign_meta(b"{}"), &body),
        ("parsed and written again", sign_meta(&body), &rewritten),
    ] {
        let request = service.request(Method::POST, "/webhooks/whatsapp", "").header("x-hub-signature-256", signature);
        assert_eq!(read(request.body(body.clone())).await.code(), "bad_signature", "{name}");
    }
    nothing_is_kept(&service).await;
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_is_signed_and_still_no_event_leaves_no_trace(db: PgPool) {
    let service = Service::open(db).await;
    let whole = call("1");
    let deep = [b"[".repeat(50_000), b"]".repeat(50_000)].concat();
    let large = [b"\"".to_vec(), b"x".repeat(WEBHOOK_BYTES), b"\"".to_vec()].concat();
    for (body, status, code) in [
        (&b""[..], 400, "malformed_json"),
        (&whole[..whole.len() / 2], 400, "malformed_json"),
        (&b"\xff\xfe{}"[..], 400, "malformed_json"),
        (&deep[..], 400, "malformed_json"),
        (&large[..], 413, "body_too_large"),
        (&b"[]"[..], 422, "not_an_event"),
        (&b"{\"hello\":1}"[..], 422, "not_an_event"),
        (&b"null"[..], 422, "not_an_event"),
    ] {
        for answer in [service.telnyx(body).await, service.whatsapp(body).await] {
            assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{:?}", &body[..body.len().min(40)]);
        }
    }
    assert_eq!(service.telnyx(&call(&"9".repeat(500))).await.code(), "not_an_event");
    assert_eq!(service.telnyx(&call("a\0b")).await.code(), "not_an_event");
    nothing_is_kept(&service).await;
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_body_that_breaks_off_or_crawls_is_refused(db: PgPool) {
    let service = Service::impatient(db, std::time::Duration::from_secs(2)).await;
    let address = service.base.trim_start_matches("http://");
    for half_close in [true, false] {
        let mut wire = tokio::net::TcpStream::connect(address).await.unwrap();
        wire.write_all(b"POST /webhooks/telnyx HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{\"data\"")
            .await
            .unwrap();
        if half_close {
            wire.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        wire.read_to_string(&mut answer).await.unwrap();
        // A client that went away may hear nothing; one that waits is told.
        assert!(half_close || answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(half_close || answer.contains("body_too_slow"), "{answer}");
    }
    nothing_is_kept(&service).await;
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_handshake_wants_the_word(db: PgPool) {
    let service = Service::open(db).await;
    let ask = |query: String| read(service.request(Method::GET, &format!("/webhooks/whatsapp?{query}"), ""));
    let good = ask(format!("hub.mode=subscribe&hub.challenge=1158&hub.verify_token={}", VERIFY_TOKEN.replace(' ', "%20"))).await;
    assert_eq!((good.status.as_u16(), good.text.as_str()), (200, "1158"));
    assert!(good.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    for query in ["hub.mode=subscribe&hub.challenge=1&hub.verify_token=no", "hub.challenge=1", ""] {
        assert_eq!(ask(query.to_owned()).await.code(), "bad_verify_token");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_unknown_number_is_answered_200_and_its_event_can_be_replayed(db: PgPool) {
    let service = Service::open(db).await;
    assert_eq!(service.whatsapp(&message("nobody's")).await.status, 200);
    let event_id: String = sqlx::query_scalar("select event_id from inbox").fetch_one(&service.db).await.unwrap();
    // As the job that takes it does when it finds no line.
    sqlx::query("delete from apalis.jobs").execute(&service.db).await.unwrap();
    store::inbox::taken(&service.db, domain::Provider::Meta, &event_id).await.unwrap();
    for _ in 0..2 {
        store::quarantine::put(&service.db, domain::Provider::Meta, &event_id, "nobody's", "no line has this number")
            .await
            .unwrap();
    }
    let listed = service.get("/v1/quarantine", ADMIN).await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!((&listed["data"][0]["subject"], &listed["data"][0]["kind"]), (&json!("nobody's"), &json!("messages")));
    let id = listed["data"][0]["id"].as_str().unwrap();
    let replayed = service.post(&format!("/v1/quarantine/{id}/replay"), ADMIN, &json!({})).await;
    assert_eq!(replayed.status, 202, "{replayed:?}");
    assert_eq!(service.count("apalis.jobs").await, 1);
    assert_eq!(service.count("inbox where taken_at is null").await, 1);
    assert_eq!(service.get("/v1/quarantine", ADMIN).await.json()["data"], json!([]));
    assert_eq!(service.get("/v1/quarantine?replayed=true", ADMIN).await.json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(service.post(&format!("/v1/quarantine/{}/replay", Uuid::now_v7()), ADMIN, &json!({})).await.code(), "not_found");
}
