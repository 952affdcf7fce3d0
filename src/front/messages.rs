//! `/v1/messages`: asked to be sent, one or ten thousand; and why one is still waiting.

use crate::{
    App,
    ask::{Body, Path, Query},
    caller::Caller,
    once::{Begun, Once},
    page::{Page, Paging},
    problem::{Code, Problem},
};
use axum::{Json, extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, Utc};
use domain::{
    MessageId, TenantId,
    limits::{RATE_HIGH, RATE_STANDARD},
    money::Units,
};
use jobs::{Queued, SentAgain, queue_messages, send_again};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::{
    messages::{self, AHEAD_COUNTED, Message, Place},
    tenants,
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Why nothing is heard of a message that Meta has taken and holds.
const HELD: &str = "Meta, which first looks at how other people take the template";
/// Messages of one batch.
const BATCH_MAX: usize = 10_000;

/// A message to send: Meta's own object beside `type` (`text`, `template`, `image`, `interactive`, ...).
#[derive(Serialize, ToSchema)]
#[schema(as = NewMessage)]
pub(crate) struct NewMessage {
    line_id: Uuid,
    /// E.164, or `recipient`.
    #[schema(example = "+212600000101")]
    to: Option<String>,
    /// A business-scoped user id, or `to`.
    recipient: Option<String>,
    /// `template`, `text`, `image`, `video`, `audio`, `document`, `sticker`, `location`, `contacts`, `reaction`, `interactive` or `read`
    r#type: String,
    /// `{"name","language","variables":{…} or […]}`
    template: Option<Value>,
    /// `{"body","preview_url"?}`
    text: Option<Value>,
    /// `{"id" or "link","caption"?}`; the id is that of an uploaded file.
    image: Option<Value>,
    video: Option<Value>,
    /// `{"id" or "link","voice"?}`
    audio: Option<Value>,
    /// `{"id" or "link","caption"?,"filename"?}`
    document: Option<Value>,
    /// `{"id" or "link"}`
    sticker: Option<Value>,
    /// `{"latitude","longitude","name"?,"address"?}`
    location: Option<Value>,
    contacts: Option<Vec<Value>>,
    /// `{"message_id","emoji"}`; an empty emoji takes it back.
    reaction: Option<Value>,
    /// Of type `button`, `list`, `cta_url`, `flow`, `location_request_message` or `request_contact_info`.
    interactive: Option<Value>,
    /// `{"message_id","typing"?}`: marks a message that was received as read.
    read: Option<Value>,
    /// Quote: `{"message_id":"wamid…"}`
    context: Option<Value>,
    /// `at_most_once` or `at_least_once`: what happens when an answer is lost for good.
    delivery: Option<String>,
    not_before: Option<DateTime<Utc>>,
    /// `{"from":"21:00","until":"08:00"}`, by the recipient's clock.
    quiet_hours: Option<Value>,
    campaign: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueuedOne {
    id: Uuid,
    status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueuedAll {
    ids: Vec<Uuid>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Batch {
    #[schema(value_type = Vec<NewMessage>)]
    messages: Vec<Value>,
}

/// Queues a message.
#[utoipa::path(post, path = "/v1/messages", tag = "messages", params(("idempotency-key" = Option<String>, Header)), request_body = NewMessage,
    responses((status = 202, body = QueuedOne)))]
pub(crate) async fn send(
    State(app): State<App>,
    caller: Caller,
    Body { asked, value }: Body<Value>,
) -> Result<Response, Problem> {
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let ids = queue(&app, &caller, &mut once, std::slice::from_ref(&value)).await?;
    let id = ids.first().copied().ok_or(Code::INTERNAL)?;
    once.answer(StatusCode::ACCEPTED, Some(&format!("/v1/messages/{id}")), &QueuedOne { id: id.0, status: "queued" }).await
}

/// Queues up to 10,000 messages, all or none; a refusal names every bad row.
#[utoipa::path(post, path = "/v1/messages/batch", tag = "messages", params(("idempotency-key" = Option<String>, Header)), request_body = Batch,
    responses((status = 202, body = QueuedAll)))]
pub(crate) async fn batch(
    State(app): State<App>,
    caller: Caller,
    Body { asked, value }: Body<Batch>,
) -> Result<Response, Problem> {
    if value.messages.is_empty() || value.messages.len() > BATCH_MAX {
        return Err(Problem::new(
            Code::BATCH_SIZE,
            format!("A batch has 1 to {BATCH_MAX} messages, this one has {}", value.messages.len()),
        ));
    }
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let ids = queue(&app, &caller, &mut once, &value.messages).await?;
    once.answer(StatusCode::ACCEPTED, None, &QueuedAll { ids: ids.into_iter().map(|id| id.0).collect() }).await
}

async fn queue(app: &App, caller: &Caller, once: &mut Once, requests: &[Value]) -> Result<Vec<MessageId>, Problem> {
    let tenant = tenants::get(&mut once.tx, own(caller)?).await?.ok_or(Code::UNKNOWN_TENANT)?;
    if tenant.status != "active" {
        return Err(Problem::new(Code::TENANT_NOT_ACTIVE, format!("The tenant is {}", tenant.status)));
    }
    match queue_messages(&mut once.tx, &app.front.vault, app.front.clock.now(), &tenant, requests).await? {
        Queued::Done(ids) => Ok(ids),
        Queued::Refused(problems) => {
            let first = problems.first().map(|p| format!("Message {}: {}", p.row, p.problem.message)).unwrap_or_default();
            Err(Problem::new(Code::MESSAGES_REFUSED, first).with("problems", json!(problems)))
        }
        Queued::NoCredit { left, wanted } => Err(no_credit(left, wanted)),
    }
}

/// The tenant of a key that must have one.
pub(crate) fn own(caller: &Caller) -> Result<TenantId, Problem> {
    caller.tenant.ok_or(Code::NEEDS_TENANT.into())
}

/// A message and, while it waits, why.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageView {
    id: Uuid,
    line_id: Uuid,
    contact_id: Uuid,
    conversation_id: Uuid,
    /// `in` or `out`
    direction: String,
    r#type: String,
    /// The Cloud API's object of the type; of a template `{"name","language","variables","text"}`; null once erased.
    content: Option<Value>,
    /// `queued`, `sending`, `unknown`, `accepted`, `held`, `sent`, `delivered`, `read`, `failed`, `parked`; `received` of inbound ones
    status: String,
    wamid: Option<String>,
    attempts: i16,
    history: Value,
    /// The limiter or gate that holds it; null if nothing does.
    waiting_for: Option<String>,
    /// Due messages of the line that go first; while queued.
    position: Option<i64>,
    /// When it is expected to go, while queued; when its policy decides, while unknown.
    eta: Option<DateTime<Utc>>,
    delivery: String,
    not_before: Option<DateTime<Utc>>,
    category: Option<String>,
    campaign: Option<String>,
    /// `{"code","message","class"}`
    error: Option<Value>,
    /// MAD, up to four places; once charged.
    price: Option<String>,
    created_at: DateTime<Utc>,
}

impl MessageView {
    pub(crate) fn new(app: &App, message: Message) -> Self {
        let content = message.content_sealed.as_deref().and_then(|sealed| {
            let plain = app.front.vault.open(&messages::content_context(message.message_id), sealed).ok()?;
            let whole: Value = serde_json::from_slice(&plain).ok()?;
            // Ours are drafts, theirs are Meta's own objects.
            if message.direction == "out" {
                whole.get("shown").or(whole.get("content")).cloned()
            } else {
                whole.get(&message.kind).cloned().or(Some(whole))
            }
        });
        let held = message.status == "held";
        Self {
            id: message.message_id.0,
            line_id: message.line_id.0,
            contact_id: message.contact_id.0,
            conversation_id: message.conversation_id,
            direction: message.direction,
            r#type: message.kind,
            content,
            status: message.status,
            wamid: message.wamid,
            attempts: message.attempts,
            history: message.history,
            waiting_for: message.waiting_for.or_else(|| held.then(|| HELD.to_owned())),
            position: None,
            eta: message.hold_until,
            delivery: message.policy,
            not_before: message.not_before,
            category: message.category,
            campaign: message.campaign,
            error: message
                .error_code
                .map(|code| json!({ "code": code, "message": message.error_text, "class": message.error_class })),
            price: message.price_units.map(|units| Units(units).to_string()),
            created_at: message.created_at,
        }
    }

    fn explain(mut self, place: &Place, due_at: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let stopped = [
            (place.tenant_status != "active").then(|| format!("the company, which is {}", place.tenant_status)),
            (place.line_status != "live").then(|| format!("its line, which is {}", place.line_status)),
            place.account_stopped.clone().map(|why| format!("the account: {why}")),
            place
                .lane_stopped
                .clone()
                .filter(|_| place.lane_stopped_until.is_none_or(|until| until > now))
                .map(|why| format!("the line: {why}")),
        ];
        let stop = stopped.into_iter().flatten().next();
        let rate = match (place.slowed_to, place.throughput.as_deref()) {
            (Some(slowed), _) => i64::from(slowed.max(1)),
            (None, Some("HIGH")) => i64::from(RATE_HIGH),
            _ => i64::from(RATE_STANDARD),
        };
        self.position = Some(place.ahead);
        if stop.is_some() {
            self.eta = place.lane_stopped_until;
            self.waiting_for = stop;
        } else if let Some(behind) = place.behind {
            self.eta = place.behind_until;
            self.waiting_for = Some(format!("message {behind} to the same contact, whose outcome is not known yet"));
        } else if let Some(status) = place.template_status.as_deref().filter(|status| *status != "APPROVED") {
            self.eta = place.template_paused_until;
            self.waiting_for = Some(format!("its template, which is {}", status.to_lowercase()));
        } else if due_at > now {
            self.eta = Some(due_at);
            self.waiting_for = self.waiting_for.or_else(|| Some("its time".to_owned()));
        } else if let Some(first) = place.after {
            self.eta = place.after_due_at.map(|at| at.max(now));
            self.waiting_for = Some(format!("message {first} to the same contact, which goes first"));
        } else {
            self.eta = Some(now + chrono::Duration::milliseconds(place.ahead * 1_000 / rate));
            let many = if place.ahead >= AHEAD_COUNTED { "more than " } else { "" };
            self.waiting_for = Some(format!("its turn: {many}{} before it at {rate} a second", place.ahead));
        }
        self
    }
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Doubt {
    Parked,
    Held,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InDoubt {
    /// `parked`: nobody knows whether it was sent, a person decides. `held`: Meta assesses its template first.
    #[param(inline)]
    status: Doubt,
}

/// Messages in doubt, the youngest first. All others are found in their conversations.
#[utoipa::path(get, path = "/v1/messages", tag = "messages", params(InDoubt, Paging), responses((status = 200, body = Page<MessageView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(InDoubt { status }): Query<InDoubt>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<MessageView>>, Problem> {
    let status = match status {
        Doubt::Parked => "parked",
        Doubt::Held => "held",
    };
    let rows = messages::in_doubt(&app.front.db, own(&caller)?, status, paging.before()?, paging.ask()).await?;
    let Page { data, next_cursor } = paging.page(rows, |message| message.message_id.0);
    Ok(Json(Page { data: data.into_iter().map(|message| MessageView::new(&app, message)).collect(), next_cursor }))
}

/// One message.
#[utoipa::path(get, path = "/v1/messages/{id}", tag = "messages", params(("id" = Uuid, Path)), responses((status = 200, body = MessageView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<MessageId>) -> Result<Json<MessageView>, Problem> {
    let db = &app.front.db;
    let message = messages::get(db, own(&caller)?, id).await?.ok_or_else(Problem::not_found)?;
    let place = if message.status == "queued" { messages::place(db, &message).await? } else { None };
    let due_at = message.due_at;
    let view = MessageView::new(&app, message);
    Ok(Json(match place {
        Some(place) => view.explain(&place, due_at, app.front.clock.now()),
        None => view,
    }))
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// Send it once more: the contact may see it twice.
    Again,
    /// Let it rest as failed.
    GiveUp,
}

#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Decision {
    decision: What,
}

/// A person's word on a parked message.
#[utoipa::path(post, path = "/v1/messages/{id}/decide", tag = "messages", params(("id" = Uuid, Path), ("idempotency-key" = Option<String>, Header)),
    request_body = Decision, responses((status = 202, body = QueuedOne)))]
pub(crate) async fn decide(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<MessageId>,
    Body { asked, value }: Body<Decision>,
) -> Result<Response, Problem> {
    let tenant = own(&caller)?;
    messages::get(&app.front.db, tenant, id).await?.ok_or_else(Problem::not_found)?;
    let mut once = match Once::begin(&app, &caller, &asked).await? {
        Begun::First(once) => once,
        Begun::Again(answer) => return Ok(answer),
    };
    let status = settle(&app, &mut once.tx, tenant, id, value.decision).await?;
    once.answer(StatusCode::ACCEPTED, None, &QueuedOne { id: id.0, status }).await
}

/// Does what a person decided; says the message's new status.
pub(crate) async fn settle(
    app: &App,
    tx: &mut durable::Tx<'_>,
    tenant: TenantId,
    id: MessageId,
    decision: What,
) -> Result<&'static str, Problem> {
    let message = messages::get(&mut **tx, tenant, id).await?.ok_or_else(Problem::not_found)?;
    let not_parked = || Problem::new(Code::MESSAGE_NOT_PARKED, format!("The message is {}", message.status));
    let status = match decision {
        What::Again => {
            let company = tenants::get(tx, tenant).await?.ok_or_else(Problem::not_found)?;
            match send_again(tx, app.front.clock.now(), &company, &message).await? {
                SentAgain::Done => "queued",
                SentAgain::NotParked => return Err(not_parked()),
                SentAgain::NoCredit { left, wanted } => return Err(no_credit(left, wanted)),
            }
        }
        What::GiveUp if messages::give_up(&mut **tx, tenant, id).await? => "failed",
        What::GiveUp => return Err(not_parked()),
    };
    messages::tell(&mut **tx, &[id]).await?;
    Ok(status)
}

fn no_credit(left: i64, wanted: i64) -> Problem {
    let detail = format!("{} MAD of credit are left this month and {} are needed", Units(left), Units(wanted));
    Problem::new(Code::CREDIT_LIMIT_REACHED, detail).with("left", Units(left).to_string())
}
