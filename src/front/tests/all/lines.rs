//! Orders: what is refused starts nothing and stores nothing.

use crate::service::{ADMIN, Service, order, read, tenant};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

#[sqlx::test(migrations = "../../migrations")]
async fn a_bad_order_has_its_own_code_and_starts_nothing(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let mut without_legal = tenant("Rif");
    without_legal["legal"] = json!({ "ice": "001234567000089" });
    let no_legal = service.post("/v1/tenants", ADMIN, &without_legal).await.id();
    let suspended = service.tenant("Souss").await;
    let patched =
        read(service.request(Method::PATCH, &format!("/v1/tenants/{suspended}"), ADMIN).json(&json!({ "status": "suspended" })))
            .await;
    assert_eq!(patched.json()["status"], "suspended");

    for (field, value, code) in [
        ("country", json!("XX"), "unknown_country"),
        ("country", json!("Morocco"), "unknown_country"),
        ("display_name", json!(""), "display_name_length"),
        ("display_name", json!("Atlas!!"), "display_name_format"),
        ("display_name", json!("Atlas 🚀"), "display_name_characters"),
        ("display_name", json!("WhatsApp Jobs"), "display_name_reserved"),
        ("profile", json!({ "about": "x".repeat(200) }), "profile_too_long"),
        ("profile", json!({ "email": "nobody" }), "profile_email"),
        ("profile", json!({ "colour": "red" }), "invalid_body"),
        ("profile", json!(7), "invalid_body"),
        ("callback_url", json!("ftp://host/"), "invalid_callback_url"),
        ("callback_url", json!("not an address"), "invalid_callback_url"),
        ("callback_url", json!("https://user:word@host/"), "invalid_callback_url"),
        ("logo", json!("***"), "invalid_logo"),
        ("logo", json!("aGVsbG8="), "logo_type"),
        ("language", json!("es"), "unknown_language"),
        ("introduction", json!("loud"), "invalid_body"),
        ("tenant_id", json!(Uuid::now_v7()), "unknown_tenant"),
        ("tenant_id", json!("Atlas"), "invalid_body"),
        ("tenant_id", json!(no_legal), "legal_missing"),
        ("tenant_id", json!(suspended), "tenant_not_active"),
        ("display_name", Value::Null, "invalid_body"),
    ] {
        let mut body = order(company);
        body[field] = value.clone();
        let answer = service.post("/v1/lines", ADMIN, &body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, code), "{field} {value}");
    }
    for table in ["line", "durable.run", "apalis.jobs", "idempotency", "event"] {
        assert_eq!(service.count(table).await, 0, "{table}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_order_is_shown_as_the_document_says(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let (line, run) = service.order(company).await;
    let shown = service.get(&format!("/v1/lines/{line}"), ADMIN).await.json();
    assert_eq!((&shown["status"], &shown["kind"], &shown["provision_run"]), (&json!("ordered"), &json!("virtual"), &json!(run)));

    let document = serde_json::to_value(front::openapi()).unwrap();
    let names = |value: &Value| {
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(&shown), names(&document["components"]["schemas"]["Line"]["properties"]));
    let shown = service.get(&format!("/v1/runs/{run}"), ADMIN).await.json();
    assert_eq!(names(&shown), names(&document["components"]["schemas"]["Run"]["properties"]));
    assert_eq!((&shown["workflow"], &shown["tenant_id"]), (&json!("provision_line"), &json!(company)));

    let receipt = service.get(&format!("/v1/lines/{line}/receipt"), ADMIN).await.json();
    assert_eq!(receipt, json!({ "data": [], "next_cursor": null }));
    assert_eq!(service.get("/v1/numbers/orphans", ADMIN).await.json()["data"], json!([]));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_line_is_released_once_and_one_that_is_not_live_is_undone(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let release = |line: String| read(service.request(Method::DELETE, &format!("/v1/lines/{line}"), ADMIN));
    let (line, run) = service.order(company).await;
    let undone = release(line.clone()).await;
    assert_eq!((undone.status.as_u16(), &undone.json()["run"]["id"]), (202, &json!(run)));

    let (live, _) = service.order(company).await;
    let set = |status: &'static str, line: String| {
        sqlx::query("update line set status = $1 where line_id = $2::uuid").bind(status).bind(line).execute(&service.db)
    };
    set("live", live.clone()).await.unwrap();
    let first = release(live.clone()).await;
    let second = release(live.clone()).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (202, 202));
    assert_eq!(first.json()["run"], second.json()["run"]);
    assert_ne!(first.json()["run"]["id"], json!(run));

    set("failed", live.clone()).await.unwrap();
    assert_eq!(release(live).await.code(), "line_not_releasable");
    assert_eq!(release(Uuid::now_v7().to_string()).await.code(), "not_found");
}

#[sqlx::test(migrations = "../../migrations")]
async fn runs_are_listed_filtered_and_helped(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let (_, run) = service.order(company).await;
    let found = |page: Value| page["data"].as_array().unwrap().len();
    assert_eq!(found(service.get("/v1/runs?status=running&workflow=provision_line", ADMIN).await.json()), 1);
    assert_eq!(found(service.get("/v1/runs?status=stuck", ADMIN).await.json()), 0);
    assert_eq!(service.get("/v1/runs?status=odd", ADMIN).await.code(), "bad_query");

    let act = |verb: &str, body: Value| {
        let path = format!("/v1/runs/{run}/{verb}");
        let service = &service;
        async move { service.post(&path, ADMIN, &body).await }
    };
    assert_eq!(act("retry", json!({})).await.code(), "run_not_retryable");
    assert_eq!(act("signal", json!({ "topic": "otp", "payload": {} })).await.code(), "run_not_waiting");
    // Lying down, as the engine leaves it: no activation, a topic and a key.
    sqlx::query("delete from apalis.jobs").execute(&service.db).await.unwrap();
    sqlx::query("update durable.run set status = 'waiting', awake = false, wait_topic = 'review', wait_key = 'k'")
        .execute(&service.db)
        .await
        .unwrap();
    assert_eq!(act("signal", json!({ "topic": "another" })).await.code(), "run_not_waiting");
    let told = act("signal", json!({ "topic": "review", "payload": { "good": true } })).await;
    assert_eq!(told.status, 202, "{told:?}");
    assert_eq!((told.status.as_u16(), told.headers["location"].to_str().unwrap()), (202, format!("/v1/runs/{run}").as_str()));
    assert_eq!(service.count("durable.mail where topic = 'review' and key = 'k'").await, 1);
    assert_eq!(act("cancel", json!({})).await.status, 202);
    assert_eq!(service.post(&format!("/v1/runs/{}/cancel", Uuid::now_v7()), ADMIN, &json!({})).await.code(), "not_found");
}
