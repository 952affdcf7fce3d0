//! Idempotency-Key: the work once, the first answer again.

use crate::service::{ADMIN, Answer, Service, order, read, tenant};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

async fn post(service: &Service, path: &str, body: &Value, key: &str) -> Answer {
    read(service.request(Method::POST, path, ADMIN).json(body).header("idempotency-key", key)).await
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_same_request_again_gets_the_first_answer(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let first = post(&service, "/v1/lines", &order(company), "order-1").await;
    assert_eq!(first.status, 202);
    assert_eq!(first.headers["location"].to_str().unwrap(), format!("/v1/runs/{}", first.json()["run"]["id"].as_str().unwrap()));
    let again = post(&service, "/v1/lines", &order(company), "order-1").await;
    assert_eq!((again.status, &again.text, &again.headers["location"]), (first.status, &first.text, &first.headers["location"]));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert!(first.headers.get("idempotent-replayed").is_none());
    assert_eq!((service.count("line").await, service.count("durable.run").await), (1, 1));
    // Without a key it is another order.
    service.order(company).await;
    assert_eq!(service.count("line").await, 2);
}

#[sqlx::test(migrations = "../../migrations")]
async fn another_body_or_route_with_the_key_is_refused(db: PgPool) {
    let service = Service::open(db).await;
    let first = post(&service, "/v1/tenants", &tenant("Atlas"), "k").await;
    assert_eq!(first.status, 201);
    let other_body = post(&service, "/v1/tenants", &tenant("Rif"), "k").await;
    assert_eq!((other_body.status.as_u16(), other_body.code().as_str()), (409, "idempotency_key_reused"));
    let other_route = post(&service, &format!("/v1/tenants/{}/keys", first.id()), &json!({ "role": "recruiter" }), "k").await;
    assert_eq!(other_route.code(), "idempotency_key_reused");
    assert_eq!((service.count("tenant").await, service.count("api_key").await), (1, 0));
    for bad in ["", " ", &"k".repeat(256)] {
        assert_eq!(post(&service, "/v1/tenants", &tenant("Rif"), bad).await.code(), "bad_idempotency_key");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_refusal_binds_nothing(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let mut bad = order(company);
    bad["country"] = json!("XX");
    assert_eq!(post(&service, "/v1/lines", &bad, "k").await.code(), "unknown_country");
    assert_eq!(post(&service, "/v1/lines", &order(company), "k").await.status, 202);
}

#[sqlx::test(migrations = "../../migrations")]
async fn of_many_at_once_one_does_the_work(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let body = order(company);
    let answers = futures_util::future::join_all((0..12).map(|_| post(&service, "/v1/lines", &body, "order-1"))).await;
    let mut lines: Vec<_> = Vec::new();
    for answer in answers {
        if answer.status == 409 {
            assert_eq!(answer.code(), "idempotency_key_in_flight");
        } else {
            assert_eq!(answer.status, 202, "{answer:?}");
            lines.push(answer.json()["line"]["id"].to_string());
        }
    }
    lines.dedup();
    assert_eq!(lines.len(), 1);
    assert_eq!((service.count("line").await, service.count("durable.run").await), (1, 1));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_key_in_flight_is_told_and_left_by_a_crash(db: PgPool) {
    let service = Service::open(db).await;
    let mut holder = service.db.begin().await.unwrap();
    let standing = store::idempotency::claim(&mut holder, uuid::Uuid::nil(), "k").await.unwrap();
    assert!(matches!(standing, store::idempotency::Standing::Ours));
    let meanwhile = post(&service, "/v1/tenants", &tenant("Atlas"), "k").await;
    assert_eq!((meanwhile.status.as_u16(), meanwhile.code().as_str()), (409, "idempotency_key_in_flight"));
    // The first worker dies with its transaction: nothing stays behind.
    holder.rollback().await.unwrap();
    assert_eq!(post(&service, "/v1/tenants", &tenant("Atlas"), "k").await.status, 201);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_kept_answer_is_sealed(db: PgPool) {
    let service = Service::open(db).await;
    let first = post(&service, "/v1/keys", &json!({ "role": "checkout" }), "k").await;
    let secret = first.json()["key"].as_str().unwrap().to_owned();
    let kept: Vec<u8> = sqlx::query_scalar("select body_sealed from idempotency").fetch_one(&service.db).await.unwrap();
    assert!(!kept.windows(secret.len()).any(|window| window == secret.as_bytes()));
    assert_eq!(post(&service, "/v1/keys", &json!({ "role": "checkout" }), "k").await.text, first.text);
    assert_eq!(service.count("api_key").await, 1);
}

#[sqlx::test(migrations = "../../migrations")]
async fn companies_do_not_meet_in_a_key(db: PgPool) {
    let service = Service::open(db).await;
    let scopes = [service.tenant("Atlas").await, service.tenant("Rif").await];
    let mut tx = service.db.begin().await.unwrap();
    for scope in scopes {
        assert!(matches!(store::idempotency::claim(&mut tx, scope, "k").await.unwrap(), store::idempotency::Standing::Ours));
    }
}
