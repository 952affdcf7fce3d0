//! A provider has news: check it, keep it once, pass it on, answer. The work happens elsewhere.

use crate::{
    App,
    ask::{Query, read_body},
    problem::{Code, Problem},
};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use chrono::DateTime;
use domain::Provider;
use providers::{SignatureError, meta_hook, telnyx_hook};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use store::inbox::{self, NewEvent};
use utoipa::IntoParams;

/// Longest event id that we keep, in characters; Telnyx's have 36.
const EVENT_ID_MAX_CHARS: usize = 128;
/// Longest event type.
const KIND_MAX_CHARS: usize = 128;

/// Events of Telnyx: calls, texts, orders.
#[utoipa::path(post, path = "/webhooks/telnyx", tag = "webhooks", request_body(content = Value, content_type = "application/json"),
    params(("telnyx-signature-ed25519" = String, Header), ("telnyx-timestamp" = String, Header)),
    responses((status = 200, description = "Kept, now or before"), (status = 401, description = "bad_signature; nothing is kept")))]
pub(crate) async fn telnyx(State(app): State<App>, headers: HeaderMap, request: Request) -> Result<StatusCode, Problem> {
    let limits = &app.front.limits;
    let raw = read_body(request, limits.webhook_bytes, limits.body_patience).await?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (signature, timestamp) = (header(telnyx_hook::SIGNATURE_HEADER), header(telnyx_hook::TIMESTAMP_HEADER));
    let mut now = app.front.clock.now();
    if app.front.sandbox.is_some() {
        // While time is moved the simulators are ahead of us: there the signature alone counts.
        now = timestamp.and_then(|text| DateTime::from_timestamp(text.parse().ok()?, 0)).unwrap_or(now);
    }
    telnyx_hook::verify(&app.front.telnyx_public_key, signature, timestamp, &raw, now)
        .map_err(|error| refused(Provider::Telnyx, error))?;
    json(&raw)?;
    let event = telnyx_hook::parse(&raw).map_err(|error| Problem::new(Code::NOT_AN_EVENT, error.to_string()))?;
    if event.id.chars().count() > EVENT_ID_MAX_CHARS || event.id.contains(char::is_control) {
        return Err(Problem::new(Code::NOT_AN_EVENT, "The event's id is too long, or no text"));
    }
    keep(&app, Provider::Telnyx, event.id, &event.event_type, &raw).await
}

/// What Meta asks before it subscribes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Handshake {
    #[serde(rename = "hub.mode")]
    mode: Option<String>,
    #[serde(rename = "hub.verify_token")]
    verify_token: Option<String>,
    #[serde(rename = "hub.challenge")]
    challenge: Option<String>,
}

/// The handshake of a webhook subscription at Meta.
#[utoipa::path(get, path = "/webhooks/whatsapp", tag = "webhooks", params(Handshake),
    responses((status = 200, description = "The challenge", body = String, content_type = "text/plain"),
        (status = 403, description = "bad_verify_token")))]
pub(crate) async fn whatsapp_handshake(State(app): State<App>, Query(asked): Query<Handshake>) -> Result<String, Problem> {
    let Handshake { mode, verify_token, challenge } = &asked;
    let expected = &app.front.meta_verify_token;
    meta_hook::handshake(mode.as_deref(), verify_token.as_deref(), challenge.as_deref(), expected)
        .map(str::to_owned)
        .ok_or(Code::BAD_VERIFY_TOKEN.into())
}

/// Events of Meta: messages, statuses, templates, numbers. An unknown number is no error: the event is quarantined later.
#[utoipa::path(post, path = "/webhooks/whatsapp", tag = "webhooks", request_body(content = Value, content_type = "application/json"),
    params(("x-hub-signature-256" = String, Header)),
    responses((status = 200, description = "Kept, now or before"), (status = 401, description = "bad_signature; nothing is kept")))]
pub(crate) async fn whatsapp(State(app): State<App>, headers: HeaderMap, request: Request) -> Result<StatusCode, Problem> {
    let limits = &app.front.limits;
    let raw = read_body(request, limits.webhook_bytes, limits.body_patience).await?;
    let signature = headers.get(meta_hook::SIGNATURE_HEADER).and_then(|value| value.to_str().ok());
    meta_hook::verify(&app.front.meta_app_secrets, signature, &raw).map_err(|error| refused(Provider::Meta, error))?;
    let kind = field(&raw)?;
    // Meta names no event: the same bytes are the same news.
    keep(&app, Provider::Meta, hex::encode(Sha256::digest(&raw)), kind.as_deref().unwrap_or("unknown"), &raw).await
}

/// What the door looks at; the rest is for whoever works it.
#[derive(Deserialize)]
struct Delivery<'r> {
    #[serde(borrow, rename = "object")]
    _object: Cow<'r, str>,
    #[serde(borrow)]
    entry: Vec<Entry<'r>>,
}

#[derive(Deserialize)]
struct Entry<'r> {
    #[serde(borrow)]
    changes: Vec<Change<'r>>,
}

#[derive(Deserialize)]
struct Change<'r> {
    #[serde(borrow)]
    field: Cow<'r, str>,
}

/// The first field of a delivery; `None`: it has an unusual shape and is kept all the same.
fn field(raw: &[u8]) -> Result<Option<Cow<'_, str>>, Problem> {
    if let Ok(Delivery { entry, .. }) = serde_json::from_slice(raw) {
        return Ok(entry.into_iter().flat_map(|entry| entry.changes).next().map(|change| change.field));
    }
    let body = json(raw)?;
    if !body.get("entry").is_some_and(Value::is_array) || !body.get("object").is_some_and(Value::is_string) {
        return Err(Code::NOT_AN_EVENT.into());
    }
    Ok(None)
}

async fn keep(app: &App, provider: Provider, event_id: String, kind: &str, raw: &[u8]) -> Result<StatusCode, Problem> {
    let body_sealed = app.front.vault.seal(&inbox::context(provider, &event_id), raw);
    let kind = kind.chars().filter(|c| !c.is_control()).take(KIND_MAX_CHARS).collect();
    app.intake.keep(NewEvent { provider, event_id, kind, body_sealed }).await?;
    metrics::counter!("webhooks_total", "provider" => provider.as_str()).increment(1);
    Ok(StatusCode::OK)
}

/// JSON of any shape.
fn json(raw: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(raw).map_err(|error| {
        // The place only: the words around it may be a code.
        Problem::new(Code::MALFORMED_JSON, format!("The body is not JSON, line {} column {}", error.line(), error.column()))
    })
}

fn refused(provider: Provider, error: SignatureError) -> Problem {
    metrics::counter!("webhooks_refused_total", "provider" => provider.as_str()).increment(1);
    tracing::warn!(%provider, "A webhook was refused: {error}");
    Problem::new(Code::BAD_SIGNATURE, error.to_string())
}
