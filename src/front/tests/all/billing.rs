//! The money's routes: what may not be is refused with its own code, and writes nothing.

use crate::service::{ADMIN, Service};
use chrono::{DateTime, Utc};
use domain::{TenantId, billing::Period, seller::Seller};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// Gives the tenant a live line and closes its October 2026: the invoice's number.
pub(crate) async fn billed(service: &Service, tenant: Uuid) -> String {
    sqlx::query(
        "insert into line (line_id, tenant_id, kind, status, country, display_name, live_at) values ($1, $2, 'own', 'live', 'MA', 'Atlas', '2026-09-01')",
    )
    .bind(Uuid::now_v7())
    .bind(tenant)
    .execute(&service.db)
    .await
    .unwrap();
    let mut tx = service.db.begin().await.unwrap();
    let now: DateTime<Utc> = "2026-11-01T01:00:00Z".parse().unwrap();
    let october: Period = "2026-10".parse().unwrap();
    let issued = store::invoices::close(&mut tx, october, &[TenantId(tenant)], &Seller::demo(), now).await.unwrap();
    tx.commit().await.unwrap();
    issued[0].number.clone()
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_invoice_is_shown_credited_paid_and_exported(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas, \"Emploi\"").await;
    billed(&service, tenant).await;
    let finance = service.post("/v1/keys", ADMIN, &json!({ "role": "finance" })).await.json()["key"].as_str().unwrap().to_owned();
    let own = service.key(tenant, "finance").await;

    let shown = service.get("/v1/invoices/F-2026-000001", &own).await;
    let invoice = shown.json();
    for (field, value) in [
        ("kind", json!("invoice")),
        ("period", json!("2026-10")),
        ("status", json!("final")),
        ("net", json!("200.00")),
        ("vat", json!("40.00")),
        ("total", json!("240.00")),
        ("currency", json!("MAD")),
        ("previous_hash", Value::Null),
        ("credit_notes", json!([])),
    ] {
        assert_eq!(invoice[field], value, "{field}");
    }
    assert_eq!(invoice["lines"][0]["kind"], "base_fee");
    let pdf = service.get("/v1/invoices/F-2026-000001.pdf", &own).await;
    assert_eq!((pdf.status.as_u16(), pdf.headers["content-type"].to_str().unwrap()), (200, "application/pdf"));

    let credit = async |body: Value| service.post("/v1/invoices/F-2026-000001/credit-notes", &finance, &body).await;
    for (body, code) in [
        (json!({ "amount": "240.01", "reason": "x" }), "credit_too_large"),
        (json!({ "amount": "-1.00", "reason": "x" }), "invalid_amount"),
        (json!({ "amount": "1.005", "reason": "x" }), "invalid_amount"),
        (json!({ "amount": "99999999999999999999.00", "reason": "x" }), "invalid_amount"),
        (json!({ "reason": "x" }), "invalid_body"),
        (json!({ "lines": [{ "description": "x", "quantity": 3, "unit_price": "100.00" }] }), "credit_too_large"),
    ] {
        let answer = credit(body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, code), "{body}");
    }
    let note = credit(json!({ "amount": "24.00", "reason": "geste commercial" })).await;
    assert_eq!((note.status.as_u16(), note.json()["number"].as_str().unwrap()), (201, "A-2026-000001"));
    let of_note =
        service.post("/v1/invoices/A-2026-000001/credit-notes", &finance, &json!({ "amount": "1.00", "reason": "x" })).await;
    assert_eq!(of_note.code(), "not_an_invoice");
    let mine = service.post("/v1/invoices/F-2026-000001/credit-notes", &own, &json!({ "amount": "1.00", "reason": "x" })).await;
    assert_eq!(mine.status, 403, "nobody credits itself");

    let pay = async |amount: &str, reference: &str| {
        let body = json!({ "amount": amount, "paid_at": "2026-11-05", "reference": reference });
        service.post("/v1/invoices/F-2026-000001/payments", &finance, &body).await
    };
    assert_eq!(pay("216.01", "V1").await.code(), "payment_too_large");
    assert_eq!(pay("0.00", "V1").await.code(), "invalid_amount");
    assert_eq!(pay("16.00", "V1").await.json()["left"], "200.00");
    assert_eq!(pay("17.00", "V1").await.code(), "payment_reference_reused");
    assert_eq!(pay("200.00", "V2").await.json()["status"], "paid");

    let listed = service.get("/v1/invoices?limit=1", &own).await.json();
    assert_eq!(listed["data"][0]["number"], "A-2026-000001", "the youngest first");
    let next = service.get(&format!("/v1/invoices?cursor={}", listed["next_cursor"].as_str().unwrap()), &own).await.json();
    assert_eq!((next["data"][0]["number"].as_str(), next["next_cursor"].is_null()), (Some("F-2026-000001"), true));
    assert_eq!(next["data"][0]["credit_notes"][0]["number"], "A-2026-000001");

    let csv = service.get("/v1/billing/months/2026-10/export.csv", &finance).await.text;
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows.len(), 3, "{csv}");
    assert!(
        rows[1].starts_with("F-2026-000001,invoice,") && rows[1].contains(",\"Atlas, \"\"Emploi\"\"\",001234567000089,2026-10,"),
        "{csv}"
    );
    assert!(rows[1].ends_with(",base_fee,,1,200.00,200.00,200.00,40.00,240.00"), "{csv}");
    let rerated = service.get("/v1/billing/months/2026-10/rerated?card_of=2026-09-01", &finance).await.json();
    assert_eq!(rerated, json!({ "data": [], "next_cursor": null }), "nothing was sent");
    assert_eq!(service.get("/v1/billing/months/2026-10/rerated?card_of=soon", &finance).await.status, 400);
    let margin = service.get("/v1/billing/months/2026-10/margin", &finance).await.json();
    assert_eq!(
        margin["data"][0],
        json!({ "tenant_id": tenant, "revenue": "180.00", "cost": "0.00", "margin": "180.00", "currency": "MAD", "loss": false, "without_cost": 0 })
    );
}

#[sqlx::test(migrations = "../../migrations")]
async fn another_companys_money_does_not_exist(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    billed(&service, tenant).await;
    let other = service.tenant("Rif").await;
    let key = service.key(other, "finance").await;
    for path in ["/v1/invoices/F-2026-000001", "/v1/invoices/F-2026-000001.pdf", "/v1/invoices/F-2026-000009"] {
        assert_eq!(service.get(path, &key).await.status, 404, "{path}");
    }
    let body = json!({ "amount": "1.00", "reason": "x", "reference": "x" });
    for path in ["/v1/invoices/F-2026-000001/credit-notes", "/v1/invoices/F-2026-000001/payments"] {
        assert_eq!(service.post(path, &key, &body).await.status, 404, "{path}");
    }
    assert_eq!(service.get("/v1/invoices", &key).await.json()["data"], json!([]));
    assert_eq!(service.get("/v1/billing/months/2026-10/export.csv", &key).await.text.lines().count(), 1);
    for what in ["margin", "reconciliation", "rerated"] {
        assert_eq!(service.get(&format!("/v1/billing/months/2026-10/{what}"), &key).await.status, 403, "{what}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_month_is_closed_when_it_is_over_and_only_once(db: PgPool) {
    let service = Service::open(db).await;
    service.tenant("Atlas").await;
    let close = async |month: &str| service.post(&format!("/v1/billing/months/{month}/close"), ADMIN, &json!({})).await;
    let now = Period::of(durable::Clock::default().now(), chrono_tz::Africa::Casablanca);
    let early = close(&now.to_string()).await;
    assert_eq!((early.status.as_u16(), early.code().as_str()), (409, "month_not_over"));
    assert_eq!(close("2026-13").await.code(), "invalid_month");
    assert_eq!(service.count("durable.run").await, 0);
    let last = now.previous().to_string();
    let (first, again) = (close(&last).await, close(&last).await);
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202));
    assert_eq!(first.json()["run"], again.json()["run"]);
    assert_eq!(service.count("durable.run").await, 1);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_company_sees_what_it_has_used(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let mut tx = service.db.begin().await.unwrap();
    store::credit::reserve(&mut tx, TenantId(tenant), durable::Clock::default().now(), 25_000).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let usage = service.get(&format!("/v1/tenants/{tenant}"), ADMIN).await.json()["usage"].clone();
    assert_eq!((&usage["charged"], &usage["reserved"], &usage["left"]), (&json!("0.00"), &json!("2.50"), &json!("997.50")));
}
