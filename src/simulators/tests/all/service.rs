//! A small service of its own: takes webhooks, verifies them with its own code, and talks to both simulators.

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use base64::{Engine, prelude::BASE64_STANDARD};
use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use simulators::{Config, Simulators};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// Longer than anything takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// A webhook as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) route: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) raw: Bytes,
    pub(crate) body: Value,
}

impl Seen {
    /// Telnyx's event type.
    pub(crate) fn event(&self) -> &str {
        self.body["data"]["event_type"].as_str().unwrap_or_default()
    }
    pub(crate) fn payload(&self) -> &Value {
        &self.body["data"]["payload"]
    }
}

#[derive(Default)]
struct Inbox {
    seen: Mutex<Vec<Seen>>,
    /// Statuses to answer with before 200 is the answer again.
    refusals: Mutex<VecDeque<u16>>,
    arrived: watch::Sender<usize>,
}

pub(crate) struct Service {
    pub(crate) sims: Simulators,
    inbox: Arc<Inbox>,
    http: reqwest::Client,
}

impl Service {
    pub(crate) async fn open() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let inbox = Arc::new(Inbox::default());
        let take = |route: &'static str| {
            post(move |State(inbox): State<Arc<Inbox>>, headers: HeaderMap, raw: Bytes| async move {
                let body = serde_json::from_slice(&raw).expect("webhooks are JSON");
                inbox.seen.lock().unwrap().push(Seen { route, headers, raw, body });
                inbox.arrived.send_modify(|count| *count += 1);
                let status = inbox.refusals.lock().unwrap().pop_front().unwrap_or(200);
                StatusCode::from_u16(status).unwrap()
            })
        };
        let routes = Router::new()
            .route("/webhooks/telnyx", take("telnyx"))
            .route("/webhooks/whatsapp", take("whatsapp"))
            .with_state(Arc::clone(&inbox));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let sims = Simulators::start(config).await.unwrap();
        sims.serve_hooks_to(&base);
        Self { sims, inbox, http: reqwest::Client::new() }
    }

    /// The next webhooks are answered with these.
    pub(crate) fn refuse_hooks(&self, statuses: &[u16]) {
        self.inbox.refusals.lock().unwrap().extend(statuses);
    }

    pub(crate) fn hooks(&self) -> Vec<Seen> {
        self.inbox.seen.lock().unwrap().clone()
    }

    /// The first webhook that fits, waited for.
    pub(crate) async fn hook(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        let mut arrived = self.inbox.arrived.subscribe();
        let search = async {
            loop {
                arrived.borrow_and_update();
                if let Some(seen) = self.hooks().into_iter().find(&fits) {
                    return seen;
                }
                arrived.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no {what}: {:#?}", self.hooks()))
    }

    pub(crate) async fn event(&self, name: &str) -> Seen {
        self.hook(name, |seen| seen.event() == name).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, Value), reqwest::Error> {
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    pub(crate) async fn try_telnyx(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value), reqwest::Error> {
        let url = format!("{}/{path}", self.sims.telnyx_url());
        let mut request =
            self.http.request(method.parse::<Method>().unwrap(), url).bearer_auth(&self.sims.config().telnyx.api_key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    pub(crate) async fn telnyx(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.try_telnyx(method, path, (!body.is_null()).then_some(body)).await.unwrap()
    }

    pub(crate) async fn try_meta(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value), reqwest::Error> {
        let url = format!("{}/v25.0/{path}", self.sims.meta_url());
        let mut request =
            self.http.request(method.parse::<Method>().unwrap(), url).bearer_auth(&self.sims.config().meta.system_token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        self.send(request).await
    }

    pub(crate) async fn meta(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.try_meta(method, path, (!body.is_null()).then_some(body)).await.unwrap()
    }

    pub(crate) async fn control(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = self.http.request(method.parse::<Method>().unwrap(), format!("{}/{path}", self.sims.control_url()));
        self.send(if body.is_null() { request } else { request.json(&body) }).await.unwrap()
    }

    pub(crate) fn waba(&self) -> &str {
        &self.sims.config().meta.waba_id
    }

    /// A number that a search shows.
    pub(crate) async fn find(&self, country: &str) -> String {
        let path = format!("available_phone_numbers?filter[country_code]={country}&filter[features][]=voice&filter[limit]=1");
        let (status, found) = self.telnyx("GET", &path, Value::Null).await;
        assert_eq!(status, 200, "{found}");
        found["data"][0]["phone_number"].as_str().expect("a number").to_owned()
    }

    pub(crate) async fn order(&self, phone: &str, reference: &str) -> (u16, Value) {
        let account = &self.sims.config().telnyx;
        let body = json!({"phone_numbers": [{"phone_number": phone}], "customer_reference": reference,
            "connection_id": account.connection_id, "messaging_profile_id": account.messaging_profile_id});
        self.telnyx("POST", "number_orders", body).await
    }

    /// An active number with voice and messages attached.
    pub(crate) async fn buy(&self, reference: &str) -> String {
        let phone = self.find("MA").await;
        let (status, body) = self.order(&phone, reference).await;
        assert_eq!(status, 200, "{body}");
        self.sims.settle().await;
        phone
    }

    /// Adds a number to the account at Meta; its id.
    pub(crate) async fn add(&self, phone: &str, name: &str) -> String {
        let body = json!({"cc": &phone[1..4], "phone_number": &phone[4..], "verified_name": name});
        let (status, added) = self.meta("POST", &format!("{}/phone_numbers", self.waba()), body).await;
        assert_eq!(status, 200, "{added}");
        added["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn ask_code(&self, id: &str, method: &str, language: &str) -> (u16, Value) {
        self.meta("POST", &format!("{id}/request_code?code_method={method}&language={language}"), Value::Null).await
    }

    /// Answers a ringing call with recording and transcription, as the contract advises.
    pub(crate) async fn pick_up(&self, control: &str, language: &str) -> (u16, Value) {
        let config = json!({"transcription_engine": "Google", "transcription_tracks": "inbound", "transcription_engine_config":
            {"transcription_engine": "Google", "language": language, "interim_results": true}});
        let body = json!({"command_id": control, "record": "record-from-answer", "record_format": "wav", "transcription": true,
            "transcription_config": config});
        self.telnyx("POST", &format!("calls/{control}/actions/answer"), body).await
    }

    /// A verified number, from search to code.
    pub(crate) async fn verified(&self, reference: &str) -> (String, String) {
        let phone = self.buy(reference).await;
        let id = self.add(&phone, "Atlas Recrutement").await;
        assert_eq!(self.ask_code(&id, "SMS", "fr").await.0, 200);
        let code = self.sims.code_of(&id).expect("a code is open");
        let (status, body) = self.meta("POST", &format!("{id}/verify_code"), json!({"code": code})).await;
        assert_eq!(status, 200, "{body}");
        (phone, id)
    }

    pub(crate) async fn register(&self, id: &str) -> (u16, Value) {
        self.meta("POST", &format!("{id}/register"), json!({"messaging_product": "whatsapp", "pin": "482913"})).await
    }

    /// A number that can send.
    pub(crate) async fn live(&self, reference: &str) -> (String, String) {
        let (phone, id) = self.verified(reference).await;
        assert_eq!(self.register(&id).await.0, 200);
        self.meta("POST", &format!("{}/subscribed_apps", self.waba()), json!({})).await;
        self.sims.settle().await;
        (phone, id)
    }

    /// Whether Telnyx's key signed timestamp and bytes.
    pub(crate) fn telnyx_signed(&self, seen: &Seen) -> bool {
        let header = |name: &str| seen.headers[name].to_str().unwrap().to_owned();
        let key: [u8; 32] = BASE64_STANDARD.decode(self.sims.telnyx_public_key()).unwrap().try_into().unwrap();
        let signature = BASE64_STANDARD.decode(header("telnyx-signature-ed25519")).unwrap();
        let mut signed = format!("{}|", header("telnyx-timestamp")).into_bytes();
        signed.extend_from_slice(&seen.raw);
        VerifyingKey::from_bytes(&key).unwrap().verify(&signed, &Signature::from_slice(&signature).unwrap()).is_ok()
    }

    /// Whether the app secret signed these bytes.
    pub(crate) fn meta_signed(&self, seen: &Seen, raw: &[u8]) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.sims.config().meta.app_secret.as_bytes()).unwrap();
        mac.update(raw);
        let expected = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
        seen.headers["x-hub-signature-256"] == expected
    }
}
