//! Problem documents for everything that goes wrong, the API's description, and what operators ask.

use crate::service::{ADMIN, BODY_BYTES, Service, read};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

#[sqlx::test(migrations = "../../migrations")]
async fn whatever_goes_wrong_is_a_problem_document(db: PgPool) {
    let service = Service::open(db).await;
    let post = |body: Vec<u8>, kind: &'static str| {
        let request = service.request(Method::POST, "/v1/tenants", ADMIN).body(body);
        read(if kind.is_empty() { request } else { request.header("content-type", kind) })
    };
    let deep = [b"{\"topic\":\"x\",\"payload\":".to_vec(), b"[".repeat(10_000), b"]".repeat(10_000), b"}".to_vec()].concat();
    let signal = service
        .request(Method::POST, &format!("/v1/runs/{}/signal", uuid::Uuid::now_v7()), ADMIN)
        .header("content-type", "application/json");
    for (answer, status, code) in [
        (service.get("/nothing", "").await, 404, "not_found"),
        (service.get("/v1/nothing", ADMIN).await, 404, "not_found"),
        (service.get("/v1/lines/not-an-id", ADMIN).await, 404, "not_found"),
        (service.get("/v1/lines/%FF", ADMIN).await, 404, "not_found"),
        (service.post("/v1/accounts/%00/resume", ADMIN, &json!({})).await, 404, "not_found"),
        (service.get("/v1/runs?status=%00", ADMIN).await, 400, "bad_query"),
        (service.get("/v1/lines?cursor=x", ADMIN).await, 400, "bad_cursor"),
        (read(service.request(Method::PUT, "/v1/tenants", ADMIN)).await, 405, "method_not_allowed"),
        (read(service.request(Method::GET, "/webhooks/telnyx", "")).await, 405, "method_not_allowed"),
        (post(b"{}".to_vec(), "text/plain").await, 415, "unsupported_media_type"),
        (post(b"{}".to_vec(), "").await, 415, "unsupported_media_type"),
        (post(Vec::new(), "application/json").await, 400, "malformed_json"),
        (post(b"{\"name\":\"At".to_vec(), "application/json").await, 400, "malformed_json"),
        (read(signal.body(deep)).await, 400, "malformed_json"),
        (post(b"\xff".to_vec(), "application/json").await, 400, "malformed_json"),
        (post(b"[1]".to_vec(), "application/json").await, 422, "invalid_body"),
        (post(b"{}".to_vec(), "application/json").await, 422, "invalid_body"),
        (post(vec![b' '; BODY_BYTES + 1], "application/json").await, 413, "body_too_large"),
    ] {
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{answer:?}");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    assert_eq!(service.count("tenant").await, 0);
}

/// Nothing that a caller can write anywhere is our fault, or answered with anything but a problem document.
#[sqlx::test(migrations = "../../migrations")]
async fn no_route_breaks_on_what_it_is_told(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let keys = [ADMIN.to_owned(), service.key(tenant, "recruiter").await, service.key(tenant, "finance").await];
    let document = service.get("/openapi.json", "").await.json();
    let nil = uuid::Uuid::nil().to_string();
    let bodies = [
        "",
        "{}",
        "[]",
        "null",
        "\"\\u0000\"",
        "{\"name\":null}",
        "{\"messages\":[null]}",
        "{\"line_id\":[],\"type\":{},\"to\":7}",
    ];
    let mut calls = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "patch", "delete"].into_iter().filter(|method| methods.get(method).is_some()) {
            if path == "/v1/events" {
                continue;
            }
            for id in ["x", &nil, "%00", "%ff", "..%2f..", "2026-13", "%F0%9F%98%80"] {
                let address =
                    path.split('/').map(|part| if part.starts_with('{') { id } else { part }).collect::<Vec<_>>().join("/");
                let address = format!("{address}?cursor={id}&limit={id}&status={id}&line_id={id}&phone={id}");
                for (key, body) in keys.iter().flat_map(|key| bodies.iter().map(move |body| (key, *body))) {
                    if method == "get" && !body.is_empty() {
                        continue;
                    }
                    let request = service.request(method.to_uppercase().parse().unwrap(), &address, key);
                    let answer = read(request.header("content-type", "application/json").body(body)).await;
                    calls += 1;
                    assert!(answer.status.as_u16() < 500 || path == "/readyz", "{method} {address} {body}: {answer:?}");
                    if answer.status.as_u16() >= 400 {
                        answer.code();
                    }
                }
            }
        }
    }
    assert!(calls > 1_000, "{calls}");
}

/// A refusal leaves nothing of the body on its connection, so that the next request on it is not lost.
#[sqlx::test(migrations = "../../migrations")]
async fn a_connection_outlives_a_body_that_nobody_read(db: PgPool) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let service = Service::open(db).await;
    let mut connection = tokio::net::TcpStream::connect(service.base.trim_start_matches("http://")).await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..3 {
        let head = "POST /v1/nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n";
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&vec![b'x'; 300_000]).await.unwrap();
    }
    connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    connection.read_to_end(&mut heard).await.unwrap();
    let heard = String::from_utf8(heard).unwrap();
    assert_eq!((heard.matches("404 Not Found").count(), heard.matches("200 OK").count()), (3, 1), "{heard}");
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_database_that_is_gone_is_not_the_callers_fault(db: PgPool) {
    let service = Service::open(db.clone()).await;
    db.close().await;
    let answer = service.get("/v1/tenants", ADMIN).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "unavailable"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(service.whatsapp(br#"{"object":"whatsapp_business_account","entry":[]}"#).await.code(), "unavailable");
    assert_eq!(service.get("/healthz", "").await.status, 200);
    assert_eq!(service.get("/readyz", "").await.status, 503);
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_description_is_whole(db: PgPool) {
    let service = Service::open(db).await;
    let answer = service.get("/openapi.json", "").await;
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    // Every reference leads somewhere.
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    // Every operation of the API names who may call it and what it answers; what it takes and gives has a form.
    for (path, methods) in document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/")) {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(operation["security"].is_array() && !operation["x-roles"].as_array().unwrap().is_empty(), "{what}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with('2')) && answers.contains_key("default"), "{what}");
            let told = answers.iter().filter(|(status, _)| !matches!(status.as_str(), "204"));
            for (status, answer) in told {
                assert!(answer["content"].as_object().is_some_and(|content| !content.is_empty()), "{what} {status}");
            }
            let tags = operation["tags"].as_array().unwrap();
            assert!(
                tags.iter().all(|tag| document["tags"].as_array().unwrap().iter().any(|known| known["name"] == *tag)),
                "{what}"
            );
        }
    }
    for path in ["/v1/lines", "/v1/runs/{id}/signal", "/v1/events", "/webhooks/whatsapp", "/healthz", "/metrics"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let order = &document["paths"]["/v1/lines"]["post"];
    assert_eq!((&order["security"], &order["x-roles"]), (&json!([{ "api_key": [] }]), &json!(["admin", "checkout"])));
    assert!(order["responses"]["default"]["content"]["application/problem+json"].is_object());
    assert!(document["x-problem-codes"].as_array().unwrap().iter().any(|code| code["code"] == "idempotency_key_reused"));
    let docs = service.get("/docs/", "").await;
    assert!(docs.status == 200 && docs.text.contains("swagger"), "{docs:?}");
}

#[sqlx::test(migrations = "../../migrations")]
async fn probes_and_metrics_answer(db: PgPool) {
    let service = Service::open(db).await;
    assert_eq!(service.get("/healthz", "").await.json(), json!({ "status": "ok" }));
    let alone = service.get("/readyz", "").await;
    assert_eq!((alone.status.as_u16(), alone.code().as_str()), (503, "unavailable"));
    sqlx::query("insert into apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at) values ('w', 'durable', 'durable', '', now(), now())")
        .execute(&service.db)
        .await
        .unwrap();
    assert_eq!(service.get("/readyz", "").await.json(), json!({ "status": "ready" }));
    service.get("/v1/lines/secret-looking-path", "lgn_secret").await;
    let metrics = service.get("/metrics", "").await.text;
    assert!(metrics.contains("http_requests_total{") && metrics.contains("http_request_seconds"), "{metrics}");
    assert!(!metrics.contains("lgn_secret") && !metrics.contains("secret-looking-path"));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_request_keeps_its_name(db: PgPool) {
    let service = Service::open(db).await;
    let named = read(service.request(Method::GET, "/healthz", "").header("x-request-id", "checkout-42")).await;
    assert_eq!(named.headers["x-request-id"], "checkout-42");
    let odd = read(service.request(Method::GET, "/healthz", "").header("x-request-id", "a b<c>")).await;
    assert_eq!(odd.headers["x-request-id"].len(), 32);
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_clock_stands_still_outside_a_sandbox(db: PgPool) {
    let service = Service::open(db).await;
    assert_eq!(service.get("/v1/sandbox/clock", ADMIN).await.code(), "sandbox_only");
    assert_eq!(service.post("/v1/sandbox/clock", ADMIN, &json!({ "advance_s": 60 })).await.code(), "sandbox_only");
}
