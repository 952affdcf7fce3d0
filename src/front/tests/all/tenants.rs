//! Companies: what is refused is not stored, and prices are dated.

use crate::service::{ADMIN, Service, read, tenant};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

#[sqlx::test(migrations = "../../migrations")]
async fn a_company_is_shown_as_it_was_made(db: PgPool) {
    let service = Service::open(db).await;
    let mut body = tenant("Atlas");
    body["contact"] = json!({ "name": "Salma", "email": "salma@atlas.example", "phone": "+212 600 000001" });
    body["billing_mode"] = json!("direct");
    let made = service.post("/v1/tenants", ADMIN, &body).await;
    assert_eq!(made.status, 201);
    assert_eq!(made.headers["location"].to_str().unwrap(), format!("/v1/tenants/{}", made.id()));
    let shown = service.get(&format!("/v1/tenants/{}", made.id()), ADMIN).await.json();
    assert_eq!(shown, made.json());
    assert_eq!(shown["legal"], body["legal"]);
    assert_eq!(shown["plan"]["base_fee"], "200.00");
    assert_eq!((&shown["plan"]["price_per_message"], &shown["credit_limit"]), (&json!("0.10"), &json!("1000.00")));
    assert_eq!(
        (&shown["status"], &shown["time_zone"], &shown["billing_mode"]),
        (&json!("active"), &json!("Africa/Casablanca"), &json!("direct"))
    );
    assert_eq!(shown["contact"]["phone"], "+212600000001");
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_bad_company_is_not_stored(db: PgPool) {
    let service = Service::open(db).await;
    for (path, value, code) in [
        ("/name", json!(" "), "invalid_name"),
        ("/name", json!("a\u{0}b"), "invalid_body"),
        ("/name", json!("x".repeat(201)), "invalid_name"),
        ("/legal/ice", json!("123"), "legal_ice"),
        ("/legal/rc", json!("B1"), "legal_rc"),
        ("/plan/base_fee", json!("-1.00"), "invalid_amount"),
        ("/plan/base_fee", json!("2000000000.00"), "invalid_amount"),
        ("/plan/price_per_message", json!("0.12345"), "invalid_body"),
        ("/plan/price_per_message", json!("a lot"), "invalid_body"),
        ("/credit_limit", json!("99999999999999999999.00"), "invalid_body"),
        ("/language", json!("es"), "unknown_language"),
    ] {
        let mut body = tenant("Atlas");
        *body.pointer_mut(path).unwrap() = value;
        let answer = service.post("/v1/tenants", ADMIN, &body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, code), "{path}: {body}");
    }
    for (name, value, code) in [
        ("time_zone", json!("Mars/Olympus"), "invalid_time_zone"),
        ("billing_email", json!("nobody"), "invalid_email"),
        ("billing_mode", json!("barter"), "invalid_body"),
    ] {
        let mut body = tenant("Atlas");
        body[name] = value;
        assert_eq!(service.post("/v1/tenants", ADMIN, &body).await.code(), code, "{name}");
    }
    assert_eq!(service.count("tenant").await, 0);
}

#[sqlx::test(migrations = "../../migrations")]
async fn prices_change_from_today_on_and_a_company_does_not_change_its_own(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let patch = |key: String, body: Value| {
        let request = service.request(Method::PATCH, &format!("/v1/tenants/{company}"), &key).json(&body);
        read(request)
    };
    let later =
        patch(ADMIN.into(), json!({ "plan": { "price_per_message": "0.0950", "valid_from": "2999-01-01" } })).await.json();
    assert_eq!((&later["plan"]["price_per_message"], later["prices"].as_array().unwrap().len()), (&json!("0.10"), 2));
    assert_eq!((&later["prices"][1]["price_per_message"], &later["prices"][1]["base_fee"]), (&json!("0.095"), &json!("200.00")));
    let past =
        patch(ADMIN.into(), json!({ "credit_limit": "5.00", "plan": { "base_fee": "1.00", "valid_from": "2020-01-01" } })).await;
    assert_eq!(past.code(), "price_in_the_past");
    let now =
        patch(ADMIN.into(), json!({ "plan": { "name": "pro", "base_fee": "300.00" }, "legal": { "rc": "77" } })).await.json();
    assert_eq!(
        (&now["plan"]["name"], &now["plan"]["base_fee"], &now["credit_limit"]),
        (&json!("pro"), &json!("300.00"), &json!("1000.00"))
    );
    assert_eq!((&now["legal"]["rc"], &now["legal"]["if"]), (&json!("77"), &json!("12345678")));

    assert_eq!(now["retention_months"], 24);
    assert_eq!(patch(ADMIN.into(), json!({ "retention_months": 6 })).await.json()["retention_months"], 6);
    for months in [0, 121] {
        assert_eq!(patch(ADMIN.into(), json!({ "retention_months": months })).await.code(), "invalid_retention");
    }

    let own = service.key(company, "finance").await;
    assert_eq!(patch(own, json!({ "credit_limit": "9.00" })).await.code(), "role_not_allowed");
    let operator =
        service.post("/v1/keys", ADMIN, &json!({ "role": "finance" })).await.json()["key"].as_str().unwrap().to_owned();
    assert_eq!(patch(operator, json!({ "credit_limit": "9.00" })).await.json()["credit_limit"], "9.00");
    assert_eq!(
        read(service.request(Method::PATCH, &format!("/v1/tenants/{}", Uuid::now_v7()), ADMIN).json(&json!({}))).await.code(),
        "not_found"
    );
}

#[sqlx::test(migrations = "../../migrations")]
async fn pages_show_every_row_once(db: PgPool) {
    let service = Service::open(db).await;
    let mut made = Vec::new();
    for n in 0..7 {
        made.push(service.tenant(&format!("Company {n}")).await.to_string());
    }
    made.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = service.get(&format!("/v1/tenants?limit=3{cursor}"), ADMIN).await.json();
        let rows = page["data"].as_array().unwrap();
        assert!(rows.len() <= 3);
        seen.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, made);
    assert_eq!(service.get("/v1/tenants?cursor=odd", ADMIN).await.code(), "bad_cursor");
    assert_eq!(service.get("/v1/tenants?limit=many", ADMIN).await.code(), "bad_query");
    assert_eq!(service.get("/v1/runs?workflow=%00", ADMIN).await.code(), "bad_query");
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_callback_is_listed_and_sent_again(db: PgPool) {
    let service = Service::open(db).await;
    let company = service.tenant("Atlas").await;
    let id = store::callbacks::add(&service.db, company.into(), "http://127.0.0.1:9/", "line.status", "{}").await.unwrap();
    store::callbacks::missed(&service.db, id, Some(500), "refused", None).await.unwrap();
    let listed = service.get("/v1/callbacks", ADMIN).await.json();
    assert_eq!((&listed["data"][0]["status"], &listed["data"][0]["attempts"]), (&json!("failed"), &json!(1)));
    let replayed = service.post(&format!("/v1/callbacks/{id}/replay"), ADMIN, &json!({})).await;
    assert_eq!((replayed.status.as_u16(), &replayed.json()["status"]), (202, &json!("pending")));
    assert_eq!(service.count("apalis.jobs").await, 1);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_job_that_was_given_up_is_listed_and_tried_again(db: PgPool) {
    let service = Service::open(db).await;
    sqlx::query(
        "insert into apalis.jobs (id, job_type, job, status, attempts, last_result, done_at)
         values ('7', 'fetch_media', '{\"media\":1}', 'Killed', 25, '{\"Err\":{\"kind\":\"rejected\",\"why\":\"gone\"}}', now())",
    )
    .execute(&service.db)
    .await
    .unwrap();
    let job = &service.get("/v1/jobs", ADMIN).await.json()["data"][0];
    assert_eq!((&job["queue"], &job["payload"], &job["attempts"]), (&json!("fetch_media"), &json!({ "media": 1 }), &json!(25)));
    assert!(job["error"].as_str().unwrap().contains("gone"), "{job}");
    assert_eq!(service.post("/v1/jobs/7/retry", ADMIN, &json!({})).await.status, 202);
    assert_eq!(service.count("apalis.jobs where status = 'Pending' and attempts = 0").await, 1);
    assert_eq!(service.get("/v1/jobs", ADMIN).await.json()["data"], json!([]));
    assert_eq!(service.post("/v1/jobs/7/retry", ADMIN, &json!({})).await.code(), "not_found");
}
