//! `/_control`: time, faults, scenes and books, for people and for tests in other processes.

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

use crate::{
    books::{Books, MessageBooks},
    config::HookUrls,
    faults::{FaultPlan, HookPlan, Profile, ScenePlan},
    journal::Entry,
    meta::{numbers, templates, users},
    telnyx,
    world::Stage,
};

type Shared = State<Arc<Stage>>;

/// The control API, the same on both listeners.
pub(crate) fn routes(stage: Arc<Stage>) -> Router {
    let routes = Router::new()
        .route("/", get(index))
        .route("/clock", get(clock).post(advance))
        .route("/settle", post(settle))
        .route("/profile", post(profile))
        .route("/faults", get(plans).post(fault).delete(clear))
        .route("/scenes", post(scene))
        .route("/webhooks", get(webhooks).post(hook_fault))
        .route("/hooks", post(hooks))
        .route("/operations", get(operations))
        .route("/journal", get(journal))
        .route("/books", get(books))
        .route("/agenda", get(agenda))
        .route("/codes/{number}", get(code))
        .route("/call", post(call))
        .route("/sms", post(sms))
        .route("/orders/{id}/{verdict}", post(judge_order))
        .route("/numbers/{id}/name/{verdict}", post(judge_name))
        .route("/numbers/{id}", delete(forget_number))
        .route("/numbers/{id}/throughput/{level}", post(raise))
        .route("/templates/{id}/{event}", post(judge_template))
        .route("/inbound", post(inbound))
        .route("/people/{phone}", post(person))
        .route("/announce", post(announce))
        .route("/messages", get(messages))
        .route("/account", post(account));
    Router::new().nest("/_control", routes).with_state(stage)
}

async fn index() -> Json<Value> {
    let calls = [
        "GET clock",
        "POST clock {advance_s,advance_us}",
        "POST settle",
        "POST profile",
        "GET|POST|DELETE faults",
        "POST scenes",
        "GET|POST webhooks",
        "POST hooks",
        "GET operations",
        "GET journal?operation=",
        "GET books",
        "GET agenda",
        "GET codes/{number}",
        "POST call {to,text}",
        "POST sms {to,from,text}",
        "POST orders/{id}/approve|reject",
        "POST numbers/{id}/name/approve|reject",
        "DELETE numbers/{id}",
        "POST numbers/{id}/throughput/HIGH|STANDARD",
        "POST templates/{id}/APPROVED|REJECTED|PAUSED|DISABLED|REINSTATED|GREEN|YELLOW|RED|UTILITY",
        "POST inbound {number,from,text|message}",
        "POST people/{phone} {number,username|preference|new_phone}",
        "POST announce {field,value}",
        "GET messages",
        "POST account {funded,restricted,number_cap,balance_cents,signup_code}",
    ];
    Json(json!({"under": "/_control/", "calls": calls}))
}

async fn clock(State(stage): Shared) -> Json<Value> {
    let now = stage.clock.now();
    let next =
        stage.look(|world| world.agenda().first().map(|(due, _)| (*due - now).num_microseconds().unwrap_or(i64::MAX).max(0)));
    Json(json!({"now": now, "advanced_s": stage.clock.ahead().num_seconds(), "next_due_in_us": next}))
}

#[derive(Deserialize)]
struct Advance {
    #[serde(default)]
    advance_s: u64,
    #[serde(default)]
    advance_us: u64,
}

async fn advance(State(stage): Shared, Json(step): Json<Advance>) -> Json<Value> {
    stage.advance(Duration::from_secs(step.advance_s) + Duration::from_micros(step.advance_us));
    clock(State(stage)).await
}

async fn settle(State(stage): Shared) -> StatusCode {
    stage.settle().await;
    StatusCode::NO_CONTENT
}

async fn profile(State(stage): Shared, Json(profile): Json<Profile>) -> StatusCode {
    stage.act(|world| world.faults.be(profile));
    StatusCode::NO_CONTENT
}

async fn plans(State(stage): Shared) -> Json<Value> {
    let (faults, scenes, webhooks) = stage.look(|world| world.faults.waiting());
    Json(json!({"faults": faults, "scenes": scenes, "webhooks": webhooks}))
}

async fn fault(State(stage): Shared, Json(plan): Json<FaultPlan>) -> StatusCode {
    stage.act(|world| world.faults.plan(plan));
    StatusCode::NO_CONTENT
}

async fn clear(State(stage): Shared) -> StatusCode {
    stage.act(|world| world.faults.clear());
    StatusCode::NO_CONTENT
}

async fn scene(State(stage): Shared, Json(plan): Json<ScenePlan>) -> StatusCode {
    stage.act(|world| world.faults.stage(plan));
    StatusCode::NO_CONTENT
}

async fn hook_fault(State(stage): Shared, Json(plan): Json<HookPlan>) -> StatusCode {
    stage.act(|world| world.faults.plan_hook(plan));
    StatusCode::NO_CONTENT
}

async fn webhooks(State(stage): Shared) -> Json<Value> {
    let sent = stage.look(|world| {
        let row = |record: &crate::hooks::Record| {
            json!({"at": record.at, "event": record.event, "url": record.url, "attempt": record.attempt, "status": record.status})
        };
        world.hooks.records.iter().map(row).collect::<Vec<_>>()
    });
    Json(json!({"data": sent}))
}

/// The URLs that are named; the others stay.
#[derive(Deserialize)]
struct Hooks {
    /// A service's base URL: sets all four.
    service: Option<String>,
    #[serde(flatten)]
    urls: HookUrls,
}

async fn hooks(State(stage): Shared, Json(hooks): Json<Hooks>) -> StatusCode {
    let urls = hooks.service.as_deref().map_or(hooks.urls, HookUrls::of_service);
    stage.aim(urls);
    StatusCode::NO_CONTENT
}

async fn operations() -> Json<Vec<&'static str>> {
    Json(crate::operations())
}

#[derive(Deserialize)]
struct Wanted {
    operation: Option<String>,
    #[serde(default)]
    since: u64,
}

async fn journal(State(stage): Shared, Query(wanted): Query<Wanted>) -> Json<Vec<Entry>> {
    let fits =
        |entry: &&Entry| entry.seq >= wanted.since && wanted.operation.as_deref().is_none_or(|name| entry.operation == name);
    Json(stage.look(|world| world.journal.entries().filter(fits).cloned().collect()))
}

async fn books(State(stage): Shared) -> Json<Books> {
    Json(stage.look(Books::of))
}

async fn agenda(State(stage): Shared) -> Json<Value> {
    let items = stage.look(|world| world.agenda());
    Json(items.into_iter().map(|(due, label)| json!({"due": due, "what": label})).collect())
}

/// By digits, with or without `+`, or by Meta's id.
async fn code(State(stage): Shared, Path(number): Path<String>) -> Response {
    match stage.look(|world| world.code_of(&number)) {
        Some(code) => Json(json!({"code": code})).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Deserialize)]
struct Stranger {
    to: String,
    #[serde(default)]
    from: Option<String>,
    text: String,
}

async fn call(State(stage): Shared, Json(stranger): Json<Stranger>) -> StatusCode {
    stage.act(|world| world.call_number(&stranger.to, stranger.from.as_deref(), &stranger.text));
    StatusCode::NO_CONTENT
}

async fn sms(State(stage): Shared, Json(stranger): Json<Stranger>) -> StatusCode {
    let from = stranger.from.as_deref().unwrap_or("WhatsApp");
    stage.act(|world| telnyx::text_to(world, &stranger.to, from, &stranger.text));
    StatusCode::NO_CONTENT
}

async fn judge_order(State(stage): Shared, Path((id, verdict)): Path<(String, String)>) -> StatusCode {
    stage.act(|world| telnyx::decide(world, &id, verdict == "approve"));
    StatusCode::NO_CONTENT
}

async fn judge_name(State(stage): Shared, Path((id, verdict)): Path<(String, String)>) -> StatusCode {
    stage.act(|world| numbers::decide_name(world, &id, verdict == "approve"));
    StatusCode::NO_CONTENT
}

async fn forget_number(State(stage): Shared, Path(id): Path<String>) -> StatusCode {
    stage.act(|world| world.meta.forget(&id));
    StatusCode::NO_CONTENT
}

async fn raise(State(stage): Shared, Path((id, level)): Path<(String, String)>) -> StatusCode {
    stage.act(|world| numbers::raise(world, &id, level == "HIGH"));
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Verdict {
    reason: Option<String>,
}

async fn judge_template(
    State(stage): Shared,
    Path((id, event)): Path<(String, String)>,
    Query(verdict): Query<Verdict>,
) -> StatusCode {
    let reason = verdict.reason.as_deref().unwrap_or("INVALID_FORMAT");
    stage.act(|world| match event.as_str() {
        "GREEN" | "YELLOW" | "RED" => templates::rate(world, &id, &event),
        "MARKETING" | "UTILITY" => templates::recategorise(world, &id, &event),
        event => templates::decide(world, &id, event, reason),
    });
    StatusCode::NO_CONTENT
}

/// A message from a person: a text, or a whole message without its frame.
#[derive(Deserialize)]
struct Inbound {
    number: String,
    from: String,
    text: Option<String>,
    message: Option<Value>,
}

async fn inbound(State(stage): Shared, Json(inbound): Json<Inbound>) -> Response {
    let text = inbound.text.unwrap_or_default();
    let content = inbound.message.unwrap_or_else(|| json!({"type": "text", "text": {"body": text}}));
    match stage.act(|world| users::write(world, &inbound.number, &inbound.from, content)) {
        Some(id) => Json(json!({"id": id})).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// What a person does: hides the phone behind a username, stops or resumes marketing, changes the phone.
#[derive(Deserialize)]
struct Person {
    number: String,
    username: Option<String>,
    preference: Option<String>,
    new_phone: Option<String>,
}

async fn person(State(stage): Shared, Path(phone): Path<String>, Json(person): Json<Person>) -> StatusCode {
    stage.act(|world| {
        if let Some(username) = person.username {
            users::hide(world, &phone, Some(username).filter(|name| !name.is_empty()));
        }
        if let Some(wish) = person.preference {
            users::prefer(world, &person.number, &phone, &wish);
        }
        if let Some(new) = person.new_phone {
            users::renumber(world, &person.number, &phone, &new);
        }
    });
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    number: String,
    field: String,
    value: Value,
}

async fn announce(State(stage): Shared, Json(change): Json<Change>) -> StatusCode {
    stage.act(|world| world.meta_change(change.number.trim_start_matches('+'), &change.field, change.value));
    StatusCode::NO_CONTENT
}

async fn messages(State(stage): Shared) -> Json<MessageBooks> {
    Json(stage.look(MessageBooks::of))
}

#[derive(Deserialize)]
struct Account {
    funded: Option<bool>,
    restricted: Option<bool>,
    number_cap: Option<usize>,
    balance_cents: Option<i64>,
    /// A code as Embedded Signup's browser side would hand out.
    signup_code: Option<String>,
}

async fn account(State(stage): Shared, Json(change): Json<Account>) -> StatusCode {
    /// A signup code lives this long (contracts/meta-cloud-api.md 5.1).
    const CODE_LASTS: TimeDelta = TimeDelta::seconds(30);
    stage.act(|world| {
        world.meta.funded = change.funded.unwrap_or(world.meta.funded);
        world.meta.restricted = change.restricted.unwrap_or(world.meta.restricted);
        world.meta.cap = change.number_cap.unwrap_or(world.meta.cap);
        world.telnyx.balance = change.balance_cents.map_or(world.telnyx.balance, |cents| cents * 100);
        let until = world.now + CODE_LASTS;
        world.meta.signup_codes.extend(change.signup_code.map(|code| (code, until)));
    });
    StatusCode::NO_CONTENT
}
