//! Messages as the API takes and shows them: why each waits, what a person decides, what a contact is.

use crate::service::{ADMIN, Service, read};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

/// A live line that nobody works, and an approved template.
struct Talk {
    service: Service,
    tenant: Uuid,
    key: String,
    line: String,
}

impl Talk {
    async fn open(db: PgPool) -> Self {
        let service = Service::open(db).await;
        let tenant = service.tenant("Atlas").await;
        let key = service.key(tenant, "recruiter").await;
        let (line, _) = service.order(tenant).await;
        let talk = Self { service, tenant, key, line };
        talk.change("line set status = 'live', messaging_account = '100', introduction = 'off'").await;
        let template = json!({ "tenant_id": tenant, "name": "invitation", "language": "fr", "category": "MARKETING", "parameter_format": "NAMED",
            "message_send_ttl_seconds": null, "components": [{ "type": "BODY", "text": "Bonjour {{prenom}}, un poste vous attend à Casablanca.",
            "example": { "body_text_named_params": [{ "param_name": "prenom", "example": "Salma" }] } }] });
        let made = talk.service.post("/v1/templates", ADMIN, &template).await;
        assert_eq!(made.status, 202, "{made:?}");
        talk.change("template set status = 'APPROVED'").await;
        talk
    }

    async fn change(&self, what: &str) {
        sqlx::query(AssertSqlSafe(format!("update {what}"))).execute(&self.service.db).await.unwrap();
    }

    fn invite(&self, to: &str) -> Value {
        json!({ "line_id": self.line, "to": to, "type": "template",
            "template": { "name": "invitation", "language": "fr", "variables": { "prenom": "Yassine" } } })
    }

    async fn send(&self, message: &Value) -> String {
        let answer = self.service.post("/v1/messages", &self.key, message).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.headers["location"], format!("/v1/messages/{}", answer.id()));
        answer.id()
    }

    async fn show(&self, id: &str) -> Value {
        self.service.get(&format!("/v1/messages/{id}"), &self.key).await.json()
    }

    /// Why a message waits, and whether it is known until when.
    async fn waits(&self, id: &str) -> (String, bool) {
        let shown = self.show(id).await;
        (shown["waiting_for"].as_str().unwrap_or_default().to_owned(), shown["eta"].is_string())
    }

    async fn decide(&self, id: &str, decision: &str) -> crate::service::Answer {
        self.service.post(&format!("/v1/messages/{id}/decide"), &self.key, &json!({ "decision": decision })).await
    }

    async fn reserved(&self) -> Value {
        self.service.get(&format!("/v1/tenants/{}", self.tenant), ADMIN).await.json()["usage"]["reserved"].clone()
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn every_message_that_waits_says_why(db: PgPool) {
    let talk = Talk::open(db).await;
    let first = talk.send(&talk.invite("+212600000101")).await;
    let second = talk.send(&talk.invite("+212600000102")).await;
    let shown = talk.show(&second).await;
    assert_eq!((&shown["position"], &shown["waiting_for"]), (&json!(1), &json!("its turn: 1 before it at 80 a second")));
    assert!(shown["eta"].is_string());

    // Its own time, and the recipient's night.
    let mut later = talk.invite("+212600000103");
    later["not_before"] = json!(durable::Clock::default().now() + chrono::TimeDelta::days(2));
    let later = talk.send(&later).await;
    assert_eq!(talk.waits(&later).await, ("the time it is scheduled for".to_owned(), true));
    let mut night = talk.invite("+212600000104");
    night["quiet_hours"] = json!({ "from": "00:00", "until": "23:59" });
    let night = talk.send(&night).await;
    assert_eq!(talk.waits(&night).await, ("the end of quiet hours".to_owned(), true));

    // What a lane notes: the pair's limit, the portfolio's.
    for reason in ["the limit of messages to one contact", "the portfolio's limit of 250 new people in 24 hours"] {
        let held = [(second.parse().unwrap(), durable::Clock::default().now() + chrono::TimeDelta::hours(1), reason.to_owned())];
        store::messages::defer(&talk.service.db, &held).await.unwrap();
        assert_eq!(talk.waits(&second).await, (reason.to_owned(), true));
    }
    talk.change("message set due_at = durable.now(), waiting_for = null").await;

    // Others of the same contact: one that goes first, one whose outcome is unknown.
    let third = talk.send(&talk.invite("+212600000101")).await;
    assert_eq!(talk.waits(&third).await, (format!("message {first} to the same contact, which goes first"), true));
    talk.change(&format!(
        "message set status = 'unknown', hold_until = durable.now() + interval '5 minutes' where message_id = '{first}'"
    ))
    .await;
    assert_eq!(talk.waits(&third).await, (format!("message {first} to the same contact, whose outcome is not known yet"), true));
    assert!(talk.show(&first).await["eta"].is_string());

    // The template, with the end of its pause if Meta told one.
    talk.change("template set status = 'PAUSED', paused_until = durable.now() + interval '3 hours'").await;
    assert_eq!(talk.waits(&second).await, ("its template, which is paused".to_owned(), true));
    talk.change("template set paused_until = null").await;
    assert_eq!(talk.waits(&second).await, ("its template, which is paused".to_owned(), false));
    talk.change("template set status = 'APPROVED'").await;

    // Slowed down, stopped, unpaid, not live, suspended: the widest reason is told.
    talk.change("lane set slowed_to = 5").await;
    assert!(talk.waits(&second).await.0.ends_with("at 5 a second"));
    store::lanes::stop(&talk.service.db, talk.line.parse().unwrap(), "Meta limits the number", None).await.unwrap();
    assert_eq!(talk.waits(&second).await, ("the line: Meta limits the number".to_owned(), false));
    store::lanes::stop_account(&talk.service.db, "100", "131042", "no payment method", None).await.unwrap();
    assert_eq!(talk.waits(&second).await, ("the account: no payment method".to_owned(), false));
    talk.change("line set status = 'restricted'").await;
    assert_eq!(talk.waits(&second).await, ("its line, which is restricted".to_owned(), false));
    talk.change("tenant set status = 'suspended'").await;
    assert_eq!(talk.waits(&second).await, ("the company, which is suspended".to_owned(), false));

    talk.change(&format!("message set status = 'held' where message_id = '{second}'")).await;
    assert!(talk.waits(&second).await.0.starts_with("Meta, which first looks"));
    talk.change(&format!("message set status = 'delivered' where message_id = '{second}'")).await;
    assert_eq!(talk.waits(&second).await, (String::new(), false));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_parked_message_is_sent_again_within_the_credit_only(db: PgPool) {
    let talk = Talk::open(db).await;
    let id = talk.send(&talk.invite("+212600000101")).await;
    assert_eq!(talk.decide(&id, "again").await.code(), "message_not_parked");
    assert_eq!(talk.reserved().await, "0.10");
    let park = format!("message set status = 'parked' where message_id = '{id}'");
    talk.change(&park).await;
    assert_eq!(talk.reserved().await, "0.00");
    let parked = talk.service.get("/v1/messages?status=parked", &talk.key).await.json();
    assert_eq!((&parked["data"][0]["id"], parked["data"].as_array().unwrap().len()), (&json!(id), 1));
    assert_eq!(talk.service.get("/v1/messages?status=held", &talk.key).await.json()["data"], json!([]));
    assert_eq!(talk.service.get("/v1/messages", &talk.key).await.code(), "bad_query");

    talk.change("tenant set credit_limit_units = 999").await;
    let refused = talk.decide(&id, "again").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (402, "credit_limit_reached"));
    assert_eq!((&talk.show(&id).await["status"], talk.reserved().await), (&json!("parked"), json!("0.00")));

    talk.change("tenant set credit_limit_units = 1000").await;
    let again = talk.decide(&id, "again").await;
    assert_eq!((again.status.as_u16(), &again.json()["status"]), (202, &json!("queued")));
    assert_eq!((&talk.show(&id).await["status"], talk.reserved().await), (&json!("queued"), json!("0.10")));
    // All of it is taken.
    assert_eq!(talk.service.post("/v1/messages", &talk.key, &talk.invite("+212600000102")).await.code(), "credit_limit_reached");

    talk.change(&park).await;
    assert_eq!(talk.decide(&id, "give_up").await.json()["status"], "failed");
    let failed = talk.show(&id).await;
    assert_eq!(
        (&failed["status"], &failed["error"]["code"], talk.reserved().await),
        (&json!("failed"), &json!("given_up"), json!("0.00"))
    );
    assert_eq!(failed["history"].as_array().unwrap().last().unwrap()["status"], "failed");
    assert_eq!(talk.decide(&id, "give_up").await.code(), "message_not_parked");
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_template_is_shown_by_the_companys_own_name(db: PgPool) {
    let talk = Talk::open(db).await;
    let id = talk.send(&talk.invite("+212600000101")).await;
    assert_eq!(
        talk.show(&id).await["content"],
        json!({ "name": "invitation", "language": "fr", "variables": { "prenom": "Yassine" },
            "text": "Bonjour Yassine, un poste vous attend à Casablanca." })
    );
    // An admin key sees and changes every company's; others see nothing of it.
    let listed = talk.service.get("/v1/templates", ADMIN).await.json();
    assert_eq!((&listed["data"][0]["name"], &listed["data"][0]["tenant_id"]), (&json!("invitation"), &json!(talk.tenant)));
    let path = format!("/v1/templates/{}", listed["data"][0]["id"].as_str().unwrap());
    assert_eq!(talk.service.get(&path, ADMIN).await.json()["status"], "APPROVED");
    let stranger = talk.service.key(talk.service.tenant("Rif").await, "recruiter").await;
    assert_eq!(talk.service.get(&path, &stranger).await.code(), "not_found");
    assert_eq!(read(talk.service.request(Method::DELETE, &path, &stranger)).await.code(), "not_found");
    assert_eq!(read(talk.service.request(Method::DELETE, &path, ADMIN)).await.status, 202);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_contact_is_found_by_its_number_and_says_what_it_agreed_to(db: PgPool) {
    let talk = Talk::open(db).await;
    for phone in ["+212600000101", "+212600000102"] {
        talk.send(&talk.invite(phone)).await;
    }
    let all = talk.service.get("/v1/contacts?limit=1", &talk.key).await.json();
    assert!(all["next_cursor"].is_string(), "{all}");
    let found = talk.service.get("/v1/contacts?phone=%2B212600000101", &talk.key).await.json();
    assert_eq!(
        (found["data"].as_array().unwrap().len(), &found["data"][0]["identities"][0]["value"]),
        (1, &json!("+212600000101"))
    );
    assert_eq!(talk.service.get("/v1/contacts?phone=0600", &talk.key).await.code(), "phone_invalid");
    let path = format!("/v1/contacts/{}", found["data"][0]["id"].as_str().unwrap());
    assert_eq!(found["data"][0]["consent"], Value::Null);
    let consent = json!({ "source": "form", "at": "2026-11-01T08:00:00+00:00" });
    let patch = |body: Value| read(talk.service.request(Method::PATCH, &path, &talk.key).json(&body));
    let changed = patch(json!({ "name": "Salma", "consent": consent, "opted_out": true })).await.json();
    assert_eq!((&changed["name"], &changed["consent"], &changed["opted_out"]), (&json!("Salma"), &consent, &json!(true)));
    assert_eq!(patch(json!({ "name": "x".repeat(201) })).await.code(), "invalid_name");
    let refused = talk.service.post("/v1/messages", &talk.key, &talk.invite("+212600000101")).await.json();
    assert_eq!(refused["problems"][0]["code"], "opted_out");
    let stranger = talk.service.key(talk.service.tenant("Rif").await, "recruiter").await;
    assert_eq!(talk.service.get("/v1/contacts", &stranger).await.json()["data"], json!([]));
}
