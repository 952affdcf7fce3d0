//! `/v1/contacts` and `/v1/conversations`: who was talked to, and what was said.

use crate::{
    App,
    ask::{Body, Path, Query},
    caller::Caller,
    messages::{MessageView, own},
    page::{Page, Paging},
    problem::{Code, Problem},
};
use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use domain::{ContactId, Phone};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cmp::Reverse;
use store::{
    contacts::{self, Contact},
    conversations::{self, Conversation},
    messages,
    people::{self, Wish},
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// A candidate.
#[derive(Serialize, ToSchema)]
#[schema(as = Contact)]
pub(crate) struct ContactView {
    id: Uuid,
    name: Option<String>,
    language: Option<String>,
    /// Blocks everything.
    opted_out: bool,
    /// Blocks marketing only.
    marketing_opted_out: bool,
    consent: Option<Consent>,
    last_contacted_at: Option<DateTime<Utc>>,
    last_replied_at: Option<DateTime<Utc>>,
    erased_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    /// `[{"kind","value","valid_from","valid_to"}]`
    identities: Value,
}

/// A conversation.
#[derive(Serialize, ToSchema)]
#[schema(as = Conversation)]
pub(crate) struct ConversationView {
    id: Uuid,
    line_id: Uuid,
    contact_id: Uuid,
    /// `active`, `closed`, `archived` or `opted_out`
    status: String,
    /// `initial_contact`, `screening`, `interview_scheduled`, `offer_sent`, `hired` or `rejected`
    stage: String,
    job_reference: Option<String>,
    recruiter: Option<String>,
    /// Free-form messages may be sent until then.
    window_until: Option<DateTime<Utc>>,
    unread: i32,
    message_count: i32,
    last_message_at: Option<DateTime<Utc>>,
    /// `us` or `contact`
    last_message_from: Option<String>,
    created_at: DateTime<Utc>,
}

/// Conversations, the youngest first.
#[utoipa::path(get, path = "/v1/conversations", tag = "contacts", params(Paging), responses((status = 200, body = Page<ConversationView>)))]
pub(crate) async fn conversations(
    State(app): State<App>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Conversation>>, Problem> {
    let rows = conversations::list(&app.front.db, own(&caller)?, paging.before()?, paging.ask()).await?;
    Ok(Json(paging.page(rows, |conversation| conversation.conversation_id)))
}

/// What recruiters note on a conversation.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ConversationChange {
    stage: Option<Stage>,
    status: Option<Status>,
    job_reference: Option<String>,
    recruiter: Option<String>,
    /// True: everything received has been seen.
    seen: Option<bool>,
}

#[derive(Debug, Deserialize, ToSchema, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Stage {
    InitialContact,
    Screening,
    InterviewScheduled,
    OfferSent,
    Hired,
    Rejected,
}

#[derive(Debug, Deserialize, ToSchema, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Status {
    Active,
    Closed,
    Archived,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::InitialContact => "initial_contact",
            Self::Screening => "screening",
            Self::InterviewScheduled => "interview_scheduled",
            Self::OfferSent => "offer_sent",
            Self::Hired => "hired",
            Self::Rejected => "rejected",
        }
    }
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Closed => "closed",
            Self::Archived => "archived",
        }
    }
}

/// Notes where a conversation stands.
#[utoipa::path(patch, path = "/v1/conversations/{id}", tag = "contacts", params(("id" = Uuid, Path)), request_body = ConversationChange,
    responses((status = 200, body = ConversationView)))]
pub(crate) async fn change_conversation(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Body { value, .. }: Body<ConversationChange>,
) -> Result<Json<Conversation>, Problem> {
    let tenant = own(&caller)?;
    note("job_reference", value.job_reference.as_deref())?;
    note("recruiter", value.recruiter.as_deref())?;
    let change = conversations::Change {
        stage: value.stage.map(Stage::name),
        status: value.status.map(Status::name),
        job_reference: value.job_reference,
        recruiter: value.recruiter,
        seen: value.seen.unwrap_or_default(),
    };
    conversations::change(&app.front.db, tenant, id, &change).await?;
    conversations::get(&app.front.db, tenant, id).await?.map(Json).ok_or_else(Problem::not_found)
}

/// Messages of a conversation, the youngest first.
#[utoipa::path(get, path = "/v1/conversations/{id}/messages", tag = "contacts", params(("id" = Uuid, Path), Paging),
    responses((status = 200, body = Page<MessageView>)))]
pub(crate) async fn messages(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<MessageView>>, Problem> {
    let tenant = own(&caller)?;
    conversations::get(&app.front.db, tenant, id).await?.ok_or_else(Problem::not_found)?;
    let rows = messages::of_conversation(&app.front.db, tenant, id, paging.before()?, paging.ask()).await?;
    let Page { data, next_cursor } = paging.page(rows, |message| message.message_id.0);
    Ok(Json(Page { data: data.into_iter().map(|message| MessageView::new(&app, message)).collect(), next_cursor }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Only whoever has this number now, in E.164.
    phone: Option<String>,
}

/// Contacts, the youngest first.
#[utoipa::path(get, path = "/v1/contacts", tag = "contacts", params(Filter, Paging), responses((status = 200, body = Page<ContactView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Query(filter): Query<Filter>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Contact>>, Problem> {
    let (tenant, db) = (own(&caller)?, &app.front.db);
    let phone = filter.phone.as_deref().map(Phone::parse).transpose()?;
    let phone = phone.as_ref().map(Phone::as_str);
    let Page { data: ids, next_cursor } =
        paging.page(contacts::list(db, tenant, phone, paging.before()?, paging.ask()).await?, |id| *id);
    let mut data = contacts::these(db, tenant, &ids).await?;
    data.sort_by_key(|contact| Reverse(contact.contact_id.0));
    Ok(Json(Page { data, next_cursor }))
}

/// One contact.
#[utoipa::path(get, path = "/v1/contacts/{id}", tag = "contacts", params(("id" = Uuid, Path)), responses((status = 200, body = ContactView)))]
pub(crate) async fn get(State(app): State<App>, caller: Caller, Path(id): Path<ContactId>) -> Result<Json<Contact>, Problem> {
    contacts::get(&app.front.db, own(&caller)?, id).await?.map(Json).ok_or_else(Problem::not_found)
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Consent {
    /// Where the person agreed.
    source: String,
    at: DateTime<Utc>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct ContactChange {
    name: Option<String>,
    opted_out: Option<bool>,
    consent: Option<Consent>,
}

/// Notes a name, a wish or a consent.
#[utoipa::path(patch, path = "/v1/contacts/{id}", tag = "contacts", params(("id" = Uuid, Path)), request_body = ContactChange,
    responses((status = 200, body = ContactView)))]
pub(crate) async fn change(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<ContactId>,
    Body { value, .. }: Body<ContactChange>,
) -> Result<Json<Contact>, Problem> {
    let tenant = own(&caller)?;
    note("name", value.name.as_deref())?;
    note("consent.source", value.consent.as_ref().map(|consent| consent.source.as_str()))?;
    let mut tx = app.front.db.begin().await?;
    let change =
        contacts::Change { name: value.name, consent: value.consent.map(|c| (c.source, c.at)), ..contacts::Change::default() };
    contacts::change(&mut *tx, tenant, id, &change).await?;
    if let Some(out) = value.opted_out {
        let wish = Wish { tenant_id: tenant, contact_id: id, out, at: app.front.clock.now() };
        people::opt_out(&mut tx, &[wish]).await?;
    }
    let contact = contacts::get(&mut *tx, tenant, id).await?.ok_or_else(Problem::not_found)?;
    tx.commit().await?;
    Ok(Json(contact))
}

/// Longest name or note, in characters.
const NOTE_MAX_CHARS: usize = 200;

fn note(field: &'static str, text: Option<&str>) -> Result<(), Problem> {
    if text.is_none_or(|text| text.chars().count() <= NOTE_MAX_CHARS && !text.contains(char::is_control)) {
        return Ok(());
    }
    let detail = format!("{field} has up to {NOTE_MAX_CHARS} characters in one line");
    Err(Problem::new(Code::INVALID_NAME, detail).with("field", field))
}

/// Everything we hold on a person.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Export {
    #[schema(value_type = ContactView)]
    contact: Contact,
    #[schema(value_type = Vec<ConversationView>)]
    conversations: Vec<Conversation>,
    messages: Vec<MessageView>,
}

/// Most messages of one export.
const EXPORT_MAX: i64 = 100_000;

/// What we hold on a person, whole: for the person who asks.
#[utoipa::path(get, path = "/v1/contacts/{id}/export", tag = "contacts", params(("id" = Uuid, Path)), responses((status = 200, body = Export)))]
pub(crate) async fn export(State(app): State<App>, caller: Caller, Path(id): Path<ContactId>) -> Result<Json<Export>, Problem> {
    let (tenant, db) = (own(&caller)?, &app.front.db);
    let contact = contacts::get(db, tenant, id).await?.ok_or_else(Problem::not_found)?;
    let conversations = conversations::of_contact(db, tenant, id).await?;
    let mut said = Vec::new();
    for conversation in &conversations {
        let rows = messages::of_conversation(db, tenant, conversation.conversation_id, None, EXPORT_MAX).await?;
        said.extend(rows.into_iter().map(|message| MessageView::new(&app, message)));
    }
    Ok(Json(Export { contact, conversations, messages: said }))
}

/// Erases the person: names, addresses and contents go, the money rows stay without them.
#[utoipa::path(delete, path = "/v1/contacts/{id}", tag = "contacts", params(("id" = Uuid, Path)), responses((status = 204, description = "Erased, now or before")))]
pub(crate) async fn erase(State(app): State<App>, caller: Caller, Path(id): Path<ContactId>) -> Result<StatusCode, Problem> {
    let tenant = own(&caller)?;
    let mut tx = app.front.db.begin().await?;
    contacts::get(&mut *tx, tenant, id).await?.ok_or_else(Problem::not_found)?;
    contacts::erase(&mut tx, tenant, id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
