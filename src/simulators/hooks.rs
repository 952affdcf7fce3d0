//! Webhooks: signed at the moment of sending, retried, and disturbed on command.

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use ed25519_dalek::Signer;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{fmt::Write, sync::Arc, time::Duration};

use crate::{
    faults::HookFault,
    world::{Stage, World, iso},
};

/// How long a receiver may take (real time), per contracts/telnyx.md 9 and what Meta grants.
const TELNYX_PATIENCE: Duration = Duration::from_secs(2);
const META_PATIENCE: Duration = Duration::from_secs(10);
/// Meta tries for seven days.
const META_TRIES_FOR: TimeDelta = TimeDelta::days(7);
/// A stale signature's age, beyond the tolerance of 300 s.
const STALE_BY: TimeDelta = TimeDelta::minutes(10);
/// Delivery records kept.
const RECORDS: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Telnyx,
    Meta,
}

/// One webhook on its way.
#[derive(Debug, Clone)]
pub(crate) struct Hook {
    sender: Sender,
    pub(crate) url: String,
    /// Telnyx's event type, Meta's field.
    pub(crate) event: String,
    body: Value,
    attempt: u32,
    first_tried: DateTime<Utc>,
    /// This try never arrives.
    lost: bool,
    bad_signature: bool,
    stale: bool,
    id: String,
}

/// What was sent, for `/webhook_deliveries` and the control API.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) sender: Sender,
    pub(crate) at: DateTime<Utc>,
    pub(crate) event: String,
    pub(crate) url: String,
    pub(crate) attempt: u32,
    /// What the receiver answered; none for no answer.
    pub(crate) status: Option<u16>,
    pub(crate) body: Value,
}

/// Webhooks waiting to start, under way and done.
#[derive(Default)]
pub(crate) struct Hooks {
    outgoing: Vec<Hook>,
    under_way: usize,
    pub(crate) records: std::collections::VecDeque<Record>,
}

impl Hooks {
    pub(crate) fn take_outgoing(&mut self) -> Vec<Hook> {
        std::mem::take(&mut self.outgoing)
    }
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }
    fn start(&mut self, hook: Hook) {
        self.under_way += 1;
        self.outgoing.push(hook);
    }
}

impl World {
    /// A Telnyx event to a URL, `about` naming what plans may single out. Nothing is sent to an empty URL.
    pub(crate) fn telnyx_event(&mut self, url: &str, about: &[String], event: &str, payload: Value) {
        if url.is_empty() {
            return;
        }
        let id = self.uuid();
        let data =
            json!({"record_type": "event", "event_type": event, "id": id, "occurred_at": iso(self.now), "payload": payload});
        let body = json!({"data": data, "meta": {"attempt": 1, "delivered_to": url}});
        self.post(Sender::Telnyx, url, event, body, about);
    }

    /// A Telnyx event in a shape of its own.
    pub(crate) fn telnyx_body(&mut self, url: &str, about: &[String], event: &str, body: Value) {
        if !url.is_empty() {
            self.post(Sender::Telnyx, url, event, body, about);
        }
    }

    /// A whole Meta envelope; `event` is its first field.
    pub(crate) fn meta_event(&mut self, url: &str, about: &[String], event: &str, body: Value) {
        if !url.is_empty() {
            self.post(Sender::Meta, url, event, body, about);
        }
    }

    fn post(&mut self, sender: Sender, url: &str, event: &str, body: Value, about: &[String]) {
        let id = self.uuid();
        let (url, event) = (url.to_owned(), event.to_owned());
        let first_tried = self.now;
        let mut hook =
            Hook { sender, url, event, body, attempt: 1, first_tried, lost: false, bad_signature: false, stale: false, id };
        let lost = if sender == Sender::Meta { HookFault::Lose } else { HookFault::Drop };
        match self.faults.for_hook(&hook.event, about, lost) {
            Some(HookFault::Drop) => return,
            Some(HookFault::Lose) => hook.lost = true,
            Some(HookFault::Late { ms }) => return self.after("late webhook", ms, move |world| world.hooks.start(hook)),
            Some(HookFault::Duplicate) => self.hooks.start(hook.clone()),
            Some(HookFault::BadSignature) => hook.bad_signature = true,
            Some(HookFault::Stale) => hook.stale = true,
            None => {}
        }
        self.hooks.start(hook);
    }

    fn hook_done(&mut self, mut hook: Hook, status: Option<u16>) {
        self.hooks.under_way -= 1;
        if self.hooks.records.len() == RECORDS {
            self.hooks.records.pop_front();
        }
        self.hooks.records.push_back(Record {
            id: hook.id.clone(),
            sender: hook.sender,
            at: self.now,
            event: hook.event.clone(),
            url: hook.url.clone(),
            attempt: hook.attempt,
            status,
            // Meta's hold up to a thousand updates each, and nobody can ask for them.
            body: if hook.sender == Sender::Telnyx { hook.body.clone() } else { Value::Null },
        });
        if status == Some(200) {
            return;
        }
        let Some(gap_ms) = self.gap_after(&hook) else { return };
        hook.attempt += 1;
        hook.lost = hook.sender == Sender::Meta && self.faults.loses_hook();
        hook.bad_signature = false;
        hook.stale = false;
        if let Some(attempt) = hook.body.pointer_mut("/meta/attempt") {
            *attempt = json!(hook.attempt);
        }
        let again = move |world: &mut World| world.hooks.start(hook);
        // At once is soon enough to be waited for.
        if gap_ms == 0 { self.after("webhook retry", gap_ms, again) } else { self.timer("webhook retry", gap_ms, again) }
    }

    /// Milliseconds until the next try, if there is one.
    fn gap_after(&self, hook: &Hook) -> Option<u64> {
        let delays = &self.config.delays;
        match hook.sender {
            Sender::Telnyx => {
                (hook.attempt < self.config.telnyx.webhook_tries).then(|| delays.hook_retry_ms << (hook.attempt - 1))
            }
            Sender::Meta if self.now - hook.first_tried > META_TRIES_FOR => None,
            // At once, then ever slower, up to six hours.
            Sender::Meta if hook.attempt == 1 => Some(0),
            Sender::Meta => Some((delays.hook_retry_ms << hook.attempt.min(20)).min(6 * 3_600_000)),
        }
    }
}

/// One try, and its record.
pub(crate) async fn deliver(stage: Arc<Stage>, hook: Hook) {
    let status = tokio::select! {
        status = async { if hook.lost { None } else { attempt(&stage, &hook).await } } => status,
        () = stage.closing.cancelled() => None,
    };
    if !stage.closing.is_cancelled() {
        stage.act(|world| world.hook_done(hook, status));
    }
}

async fn attempt(stage: &Stage, hook: &Hook) -> Option<u16> {
    let _slot = stage.hook_slots.acquire().await.ok()?;
    let post = stage.http.post(&hook.url).header("content-type", "application/json");
    let post = match hook.sender {
        Sender::Telnyx => {
            let body = hook.body.to_string();
            let signed_at = stage.clock.now() - if hook.stale { STALE_BY } else { TimeDelta::zero() };
            let stamp = signed_at.timestamp().to_string();
            let signed = format!("{stamp}|{body}{}", if hook.bad_signature { "?" } else { "" });
            let signature = stage.look(|world| world.telnyx.key.sign(signed.as_bytes()));
            post.timeout(TELNYX_PATIENCE)
                .header("user-agent", "telnyx-webhooks")
                .header("telnyx-timestamp", stamp)
                .header("telnyx-signature-ed25519", BASE64_STANDARD.encode(signature.to_bytes()))
                .body(body)
        }
        Sender::Meta => {
            let body = ascii(&hook.body);
            let secret = stage.look(|world| world.config.meta.app_secret.clone());
            let signature = hmac_hex(&secret, body.as_bytes(), hook.bad_signature);
            post.timeout(META_PATIENCE)
                .header("user-agent", "facebookexternalua")
                .header("x-hub-signature-256", format!("sha256={signature}"))
                .body(body)
        }
    };
    post.send().await.ok().map(|answer| answer.status().as_u16())
}

/// The verification GET of contracts/meta-cloud-api.md 10.1.
pub(crate) async fn handshake(http: &reqwest::Client, url: &str, verify_token: &str) -> bool {
    const CHALLENGE: &str = "1158201444";
    let query = [("hub.mode", "subscribe"), ("hub.challenge", CHALLENGE), ("hub.verify_token", verify_token)];
    match http.get(url).query(&query).timeout(META_PATIENCE).send().await {
        Ok(answer) if answer.status() == 200 => answer.text().await.is_ok_and(|text| text == CHALLENGE),
        _ => false,
    }
}

fn hmac_hex(secret: &str, body: &[u8], spoil: bool) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    if spoil {
        mac.update(b"?");
    }
    hex::encode(mac.finalize().into_bytes())
}

/// JSON as Meta writes it: all beyond ASCII as `\uxxxx`, lower case (contracts/meta-cloud-api.md 10.1).
pub(crate) fn ascii(body: &Value) -> String {
    let plain = body.to_string();
    let mut escaped = String::with_capacity(plain.len());
    let mut units = [0u16; 2];
    for letter in plain.chars() {
        if letter.is_ascii() {
            escaped.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut units) {
                write!(escaped, "\\u{unit:04x}").expect("writing to a String cannot fail");
            }
        }
    }
    escaped
}
