//! The month, told against both simulators: closed once whatever fails, compared with what the providers charge, and paid or dunned.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a test an unwrap is an assertion, and an id is anything")]

mod closes;
mod credit;
mod dunning;
mod erasure;
mod reconciliation;
#[path = "../service/mod.rs"]
mod service;

use chrono::{DateTime, Utc};
use domain::{LineId, MessageId, Provider, TemplateId, billing::Period, rates};
use jobs::{Queued, TakeWhatsapp, Tools, queue_messages};
use serde_json::{Value, json};
use service::Service;
use simulators::Config;
use sqlx::PgPool;
use std::time::Duration;
use store::{inbox, invoices, messages, payments, rates::Table, templates, tenants};
use uuid::Uuid;
use workflows::{ApproveTemplate, CloseMonth};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3_600);
const ZONE: chrono_tz::Tz = chrono_tz::Africa::Casablanca;
const TEMPLATE: &str = "invitation";

/// A tenant with a live line, a plan of 200.00 a month and 0.10 a message, and the rate cards.
struct Books {
    service: Service,
    line: LineId,
    month: Period,
}

impl Books {
    async fn open(db: PgPool) -> Self {
        Self::open_with(db, Config::default()).await
    }

    async fn open_with(db: PgPool, config: Config) -> Self {
        let service = Service::open_with(db, config).await;
        let (line, run) = service.order_line("MA").await;
        assert_eq!(service.end_of(run, 30 * MINUTE).await, "succeeded");
        sqlx::query(
            "insert into plan_price (tenant_id, valid_from, base_fee_units, price_per_message_units) values ($1, '2015-01-01', 2000000, 1000)",
        )
        .bind(service.tenant.0)
        .execute(&service.db)
        .await
        .unwrap();
        let month = Period::of(service.tools.clock.now(), ZONE);
        let books = Self { service, line, month };
        books.load_cards(|card| card).await;
        books
    }

    /// Loads Meta's rate card, changed, with markets and exchange rates.
    async fn load_cards(&self, change: impl Fn(String) -> String) {
        let file = |name: &str| std::fs::read_to_string(format!("../fixtures/rates/{name}.csv")).unwrap();
        let mut tx = self.service.db.begin().await.unwrap();
        sqlx::query("delete from rate").execute(&mut *tx).await.unwrap();
        for table in [
            Table::Rates(rates::read_rates(&change(file("meta"))).unwrap()),
            Table::Markets(rates::read_markets(&file("markets")).unwrap()),
            Table::Exchange(rates::read_exchange_rates(&file("exchange")).unwrap()),
        ] {
            store::rates::load(&mut tx, &table).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    fn now(&self) -> DateTime<Utc> {
        self.service.tools.clock.now()
    }

    async fn count(&self, what: &'static str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {what}"))).fetch_one(&self.service.db).await.unwrap()
    }

    async fn start(&self, month: Period) -> Uuid {
        let mut tx = self.service.db.begin().await.unwrap();
        let run = durable::start(&mut tx, &CloseMonth { month }).await.unwrap();
        tx.commit().await.unwrap();
        run
    }

    async fn skip_to(&self, at: DateTime<Utc>) {
        self.service.skip((at - self.now()).to_std().unwrap_or_default()).await;
    }

    /// Waits until the month is closed by itself; the invoice's number.
    async fn close(&self, month: Period) -> String {
        let run = self.start(month).await;
        self.skip_to(month.closes_at(ZONE) + chrono::Duration::seconds(1)).await;
        assert_eq!(self.service.end_of(run, MINUTE).await, "succeeded");
        invoices::of_month(&self.service.db, self.service.tenant, month).await.unwrap().unwrap().number
    }

    async fn invoice(&self, number: &str) -> invoices::Invoice {
        invoices::get(&self.service.db, None, number).await.unwrap().unwrap()
    }

    /// Number and status of every document, the oldest first.
    async fn documents(&self) -> Vec<(String, String)> {
        sqlx::query_as("select number, status from invoice order by seq").fetch_all(&self.service.db).await.unwrap()
    }

    async fn tenant_status(&self) -> String {
        sqlx::query_scalar("select status from tenant where tenant_id = $1")
            .bind(self.service.tenant.0)
            .fetch_one(&self.service.db)
            .await
            .unwrap()
    }

    /// A payment as the front records it.
    async fn pay(&self, number: &str, amount: domain::money::Units, reference: &str) {
        let mut tx = self.service.db.begin().await.unwrap();
        payments::record(&mut tx, self.service.tenant, number, amount, self.now(), reference, self.now()).await.unwrap();
        if invoices::get(&mut *tx, None, number).await.unwrap().unwrap().status == "paid" {
            durable::signal(&mut tx, number, &workflows::InvoicePaid {}).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// Events that the checkout was called back with, with how often.
    async fn told(&self, number: &str) -> Vec<(String, i64)> {
        sqlx::query_as("select type, count(*) from callback where body::jsonb #>> '{data,number}' = $1 group by 1 order by 1")
            .bind(number)
            .fetch_all(&self.service.db)
            .await
            .unwrap()
    }

    async fn template(&self) {
        let id = TemplateId(Uuid::now_v7());
        let tenant = self.service.tenant;
        let new = templates::NewTemplate {
            template_id: id,
            tenant_id: tenant,
            global_template_id: None,
            name: TEMPLATE.to_owned(),
            meta_name: domain::template::meta_name(tenant, TEMPLATE),
            messaging_account: self.service.sims.config().meta.waba_id.clone(),
            language: "fr".to_owned(),
            category: "MARKETING".to_owned(),
            components: json!([{"type": "BODY", "text": "Bonjour {{prenom}}, un poste vous attend à Casablanca cette semaine.",
                "example": {"body_text_named_params": [{"param_name": "prenom", "example": "Salma"}]}}]),
            parameter_format: "NAMED".to_owned(),
            introduces: true,
            message_send_ttl_seconds: None,
        };
        let mut tx = self.service.db.begin().await.unwrap();
        assert!(templates::create(&mut *tx, &new).await.unwrap());
        let run = durable::start(&mut tx, &ApproveTemplate { template: id, tenant, version: 1 }).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(self.service.end_of(run, 60 * MINUTE).await, "succeeded");
    }

    fn invite(&self, to: &str) -> Value {
        json!({"line_id": self.line, "to": to, "type": "template",
            "template": {"name": TEMPLATE, "language": "fr", "variables": {"prenom": "Yassine"}}})
    }

    /// As the front queues it: committed if it was done.
    async fn queue(&self, requests: &[Value]) -> Queued {
        let mut tx = self.service.db.begin().await.unwrap();
        let tenant = tenants::get(&mut tx, self.service.tenant).await.unwrap().unwrap();
        let queued = queue_messages(&mut tx, &self.service.tools.vault, self.now(), &tenant, requests).await.unwrap();
        match queued {
            Queued::Done(_) => tx.commit().await.unwrap(),
            _ => tx.rollback().await.unwrap(),
        }
        queued
    }

    async fn send(&self, requests: &[Value]) -> Vec<MessageId> {
        match self.queue(requests).await {
            Queued::Done(ids) => ids,
            Queued::Refused(problems) => panic!("refused: {problems:?}"),
            Queued::NoCredit { left, wanted } => panic!("{left} left of {wanted}"),
        }
    }

    /// So many invitations, delivered.
    async fn invitations(&self, count: usize) -> Vec<MessageId> {
        let requests: Vec<Value> = (0..count).map(|n| self.invite(&format!("+21260000{n:04}"))).collect();
        let ids = self.send(&requests).await;
        self.service.settle().await;
        ids
    }

    async fn message(&self, id: MessageId) -> messages::Message {
        messages::get(&self.service.db, self.service.tenant, id).await.unwrap().unwrap()
    }

    /// A webhook of Meta's with these statuses, taken in as the front takes it in.
    async fn hear(&self, statuses: &[Value]) {
        let line = self.service.line(self.line).await;
        self.hear_value(json!({"messaging_product": "whatsapp", "statuses": statuses,
            "metadata": {"display_phone_number": line.phone, "phone_number_id": line.phone_number_id}}))
            .await;
    }

    async fn hear_value(&self, value: Value) {
        let line = self.service.line(self.line).await;
        let changes = json!([{"field": "messages", "value": value}]);
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": line.messaging_account, "changes": changes}]});
        let event_id = Uuid::now_v7().to_string();
        let body_sealed = self.service.tools.vault.seal(&inbox::context(Provider::Meta, &event_id), body.to_string().as_bytes());
        let mut tx = self.service.db.begin().await.unwrap();
        let event = inbox::NewEvent { provider: Provider::Meta, event_id, kind: "messages".to_owned(), body_sealed };
        inbox::keep(&mut tx, &[event]).await.unwrap();
        durable::enqueue::<Tools, _>(&mut tx, &TakeWhatsapp {}).await.unwrap();
        tx.commit().await.unwrap();
    }
}

/// A status as Meta tells it.
fn status(wamid: &str, attempt: &str, status: &str, at: DateTime<Utc>) -> Value {
    json!({"id": wamid, "status": status, "timestamp": at.timestamp().to_string(), "recipient_id": "212600000001",
        "biz_opaque_callback_data": attempt, "pricing": {"billable": true, "pricing_model": "PMP", "type": "regular", "category": "marketing"}})
}
