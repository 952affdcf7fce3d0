//! One front on a loopback port, and the keys to it.

use ed25519_dalek::{Signer as _, SigningKey};
use front::{Front, Limits};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::PgPool;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub(crate) const ADMIN: &str = "lgn_bootstrap-key-of-at-least-32-characters";
pub(crate) const APP_SECRET: &str = "secret of the app";
pub(crate) const VERIFY_TOKEN: &str = "the word";
pub(crate) const VAULT_KEY: &str = "test:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub(crate) const BODY_BYTES: usize = 64 << 10;
pub(crate) const WEBHOOK_BYTES: usize = 128 << 10;
/// For a body to arrive, and for an answer: long, for a test is not the place to find that a machine is busy.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct Service {
    pub(crate) db: PgPool,
    pub(crate) base: String,
    pub(crate) http: reqwest::Client,
    _stop: DropGuard,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap_or_else(|| panic!("no id: {self:?}")).to_owned()
    }
    /// The code of a problem document, which must be one.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16());
        assert!(["type", "title", "detail"].iter().all(|name| document[name].is_string()), "{self:?}");
        document["code"].as_str().unwrap().to_owned()
    }
}

impl Service {
    pub(crate) async fn open(db: PgPool) -> Self {
        durable::setup(&db).await.unwrap();
        store::events::follow_runs(&db).await.unwrap();
        Self::beside(db).await
    }

    /// One more front on the same database.
    pub(crate) async fn beside(db: PgPool) -> Self {
        Self::open_to(db, &[]).await
    }

    /// One that pages of these origins may call.
    pub(crate) async fn open_to(db: PgPool, origins: &[&'static str]) -> Self {
        Self::with_patience(db, origins, PATIENCE).await
    }

    /// One that waits only so long for a body.
    pub(crate) async fn impatient(db: PgPool, body_patience: Duration) -> Self {
        durable::setup(&db).await.unwrap();
        Self::with_patience(db, &[], body_patience).await
    }

    async fn with_patience(db: PgPool, origins: &[&'static str], body_patience: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stop = CancellationToken::new();
        let front = Front {
            db: db.clone(),
            clock: durable::Clock::load(&db).await.unwrap(),
            vault: VAULT_KEY.parse().unwrap(),
            admin_key: Some(ADMIN.into()),
            telnyx_public_key: public_key(),
            meta_app_secrets: vec!["the next secret".into(), APP_SECRET.into()],
            meta_verify_token: VERIFY_TOKEN.into(),
            sandbox: None,
            tools: None,
            metrics: front::metrics(),
            messaging_account: "100".into(),
            limits: Limits {
                body_bytes: BODY_BYTES,
                webhook_bytes: WEBHOOK_BYTES,
                body_patience,
                patience: PATIENCE,
                ..Limits::default()
            },
            cors_origins: origins.iter().copied().map(HeaderValue::from_static).collect(),
            stop: stop.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(front::serve(front::router(front), listener, stop.clone()));
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { db, base, http, _stop: stop.drop_guard() }
    }

    pub(crate) fn request(&self, method: Method, path: &str, key: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        if key.is_empty() { request } else { request.bearer_auth(key) }
    }
    pub(crate) async fn get(&self, path: &str, key: &str) -> Answer {
        read(self.request(Method::GET, path, key)).await
    }
    pub(crate) async fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        read(self.request(Method::POST, path, key).json(body)).await
    }

    pub(crate) async fn tenant(&self, name: &str) -> Uuid {
        let answer = self.post("/v1/tenants", ADMIN, &tenant(name)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.id().parse().unwrap()
    }
    pub(crate) async fn key(&self, tenant: Uuid, role: &str) -> String {
        let answer = self.post(&format!("/v1/tenants/{tenant}/keys"), ADMIN, &json!({ "role": role })).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["key"].as_str().unwrap().to_owned()
    }
    /// Line and run.
    pub(crate) async fn order(&self, tenant: Uuid) -> (String, String) {
        let answer = self.post("/v1/lines", ADMIN, &order(tenant)).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let told = answer.json();
        let text = |path| told.pointer(path).and_then(Value::as_str).unwrap().to_owned();
        (text("/line/id"), text("/run/id"))
    }
    /// How many rows, in a table of ours or of the engine.
    pub(crate) async fn count(&self, table: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {table}"))).fetch_one(&self.db).await.unwrap()
    }

    pub(crate) async fn telnyx(&self, body: &[u8]) -> Answer {
        let at = durable::Clock::default().now().timestamp().to_string();
        read(self.telnyx_at(body, &at, &sign_telnyx(body, &at))).await
    }
    pub(crate) fn telnyx_at(&self, body: &[u8], at: &str, signature: &str) -> reqwest::RequestBuilder {
        self.request(Method::POST, "/webhooks/telnyx", "")
            .header("telnyx-signature-ed25519", signature)
            .header("telnyx-timestamp", at)
            .body(body.to_vec())
    }
    pub(crate) async fn whatsapp(&self, body: &[u8]) -> Answer {
        let request = self.request(Method::POST, "/webhooks/whatsapp", "").header("x-hub-signature-256", sign_meta(body));
        read(request.body(body.to_vec())).await
    }
}

pub(crate) async fn read(request: reqwest::RequestBuilder) -> Answer {
    let answer = request.send().await.unwrap();
    Answer { status: answer.status(), headers: answer.headers().clone(), text: answer.text().await.unwrap() }
}

pub(crate) fn tenant(name: &str) -> Value {
    json!({
        "name": name,
        "legal": { "ice": "001234567000089", "if": "12345678", "rc": "4321", "address": "1, rue des Essais, Casablanca" },
        "plan": { "base_fee": "200.00", "price_per_message": "0.10" },
        "credit_limit": "1000.00",
        "language": "fr",
    })
}

pub(crate) fn order(tenant: Uuid) -> Value {
    json!({ "tenant_id": tenant, "country": "MA", "display_name": "Atlas Emploi", "profile": { "about": "On recrute" } })
}

fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn public_key() -> providers::telnyx_hook::PublicKey {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(signing_key().verifying_key().as_bytes()).parse().unwrap()
}

pub(crate) fn sign_telnyx(body: &[u8], at: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(signing_key().sign(&[at.as_bytes(), b"|", body].concat()).to_bytes())
}

pub(crate) fn sign_meta(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(APP_SECRET.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}
