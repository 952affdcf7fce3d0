//! What a recruiter asks to be sent, checked whole and queued whole: one bad row and nothing is queued.

use crate::{call_back, run_lane};
use chrono::{DateTime, Utc};
use domain::{
    ContactId, Failure, LineId, MessageId, TenantId,
    media::{MediaKind, kind_of, visit},
    message::{self, Delivery, Draft, Type},
    money::Units,
    problem::Problem,
    quiet_hours::{QuietHours, zone_of},
    template::{self, Template},
};
use durable::Tx;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use store::{
    contacts::{self, Alias},
    conversations::{self, Standing},
    credit, lines, media,
    messages::{self, NewMessage, content_context},
    templates,
    tenants::Tenant,
};
use uuid::Uuid;
use vault::Vault;

/// Replies, introductions before them, and read marks.
const PRIORITY_REPLY: i16 = 2;
/// A template sent alone.
const PRIORITY_ORDINARY: i16 = 1;
/// A batch.
const PRIORITY_BULK: i16 = 0;
/// How far ahead a send may be scheduled.
const AHEAD_MAX: chrono::Duration = chrono::Duration::days(90);

/// What is wrong with one row of the request.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RowProblem {
    /// Place in the batch, from 0.
    pub row: usize,
    #[serde(flatten)]
    pub problem: Problem,
}

/// Either everything was queued, or nothing and this is why.
pub enum Queued {
    Done(Vec<MessageId>),
    Refused(Vec<RowProblem>),
    /// The tenant's month has no room for all of them: ledger units left and wanted.
    NoCredit {
        left: i64,
        wanted: i64,
    },
}

/// What became of a parked message that a person sends again.
pub enum SentAgain {
    Done,
    NotParked,
    /// Ledger units.
    NoCredit {
        left: i64,
        wanted: i64,
    },
}

/// A request read so far.
struct Row {
    draft: Draft,
    line: LineId,
    not_before: Option<DateTime<Utc>>,
    quiet_hours: Option<QuietHours>,
    campaign: Option<String>,
    alias: Option<Alias>,
}

/// A template ready to be filled.
struct Ready {
    row: templates::Template,
    rules: Template,
}

impl Ready {
    /// What people are shown of a send: the tenant's own name, its values, and the body as the contact reads it.
    fn shown(&self, variables: &Value, filled: &template::Filled) -> Value {
        json!({ "name": self.row.name, "language": self.row.language, "variables": variables, "text": filled.body })
    }
}

/// Queues `requests` (bodies of `POST /v1/messages`) in the caller's transaction, in their order.
pub async fn queue_messages(
    tx: &mut Tx<'_>,
    vault: &Vault,
    now: DateTime<Utc>,
    tenant: &Tenant,
    requests: &[Value],
) -> Result<Queued, Failure> {
    let bulk = requests.len() > 1;
    let mut problems = Vec::new();
    let mut rows = Vec::new();
    for (place, request) in requests.iter().enumerate() {
        match read(request, now) {
            Ok(row) => rows.push((place, row)),
            Err(found) => problems.extend(found.into_iter().map(|problem| RowProblem { row: place, problem })),
        }
    }
    let lines = live_lines(tx, tenant.id, &rows, &mut problems).await?;
    let templates = usable_templates(tx, tenant.id, &rows, &mut problems).await?;
    check_files(tx, tenant.id, now, &rows, &templates, &mut problems).await?;
    if !problems.is_empty() {
        return Ok(refused(problems));
    }

    let aliases: Vec<Alias> = rows.iter().filter_map(|(_, row)| row.alias.clone()).collect();
    let people = contacts::resolve(tx, tenant.id, &aliases).await?;
    let flags = contacts::flags(&mut **tx, tenant.id, &people.values().copied().collect::<Vec<_>>()).await?;
    let mut talks: HashMap<(LineId, ContactId), Standing> = HashMap::new();
    for line in lines.keys() {
        let of_line: Vec<ContactId> = rows
            .iter()
            .filter(|(_, row)| row.line == *line)
            .filter_map(|(_, row)| people.get(row.alias.as_ref()?).copied())
            .collect();
        talks.extend(conversations::open(&mut **tx, tenant.id, *line, &of_line).await?.into_iter().map(|(c, s)| ((*line, c), s)));
    }
    let introduction = introduction(tx, tenant).await?;
    let mut introduced = HashSet::new();
    let mut new: Vec<NewMessage> = Vec::new();
    let mut ids = Vec::new();
    for (place, row) in rows {
        let mut refuse = |problem| problems.push(RowProblem { row: place, problem });
        let (contact, talk) = match &row.alias {
            Some(alias) => {
                let contact = people.get(alias).copied();
                let Some((contact, talk)) = contact.and_then(|contact| Some((contact, talks.get(&(row.line, contact))?.clone())))
                else {
                    refuse(Problem::new("to", "recipient_unknown", "the recipient could not be resolved"));
                    continue;
                };
                (contact, talk)
            }
            None => match conversations::of_inbound(
                &mut **tx,
                tenant.id,
                row.line,
                row.draft.content["message_id"].as_str().unwrap_or_default(),
            )
            .await?
            {
                Some(found) => found,
                None => {
                    refuse(Problem::new("message_id", "message_unknown", "no message with this id was received on this line"));
                    continue;
                }
            },
        };
        let flag = flags.get(&contact).copied().unwrap_or_default();
        if flag.opted_out && row.draft.kind != Type::Read {
            refuse(Problem::new("to", "opted_out", "this contact does not want messages"));
            continue;
        }
        let window = talk.window_until.map(|until| until.timestamp_millis());
        if !message::may_send(row.draft.kind, window, now.timestamp_millis()) {
            refuse(Problem::new("type", "window_closed", "the contact has not written within 24 hours: send a template"));
            continue;
        }
        let mut draft = row.draft;
        let mut used = None;
        let mut shown = None;
        if draft.kind == Type::Template {
            let Some(ready) = named_template(&draft).and_then(|name| templates.get(&name)) else { continue };
            if flag.marketing_opted_out && ready.row.category == "MARKETING" {
                refuse(Problem::new("to", "marketing_opted_out", "this contact does not want marketing"));
                continue;
            }
            match ready.rules.fill(&draft.content["variables"]) {
                Ok(filled) => {
                    shown = Some(ready.shown(&draft.content["variables"], &filled));
                    draft.content = ready.rules.send(&ready.row.meta_name, &filled);
                }
                Err(found) => {
                    found.into_iter().for_each(&mut refuse);
                    continue;
                }
            }
            used = Some(ready);
        }
        let priority = match (draft.kind, bulk) {
            (Type::Template, true) => PRIORITY_BULK,
            (Type::Template, false) => PRIORITY_ORDINARY,
            _ => PRIORITY_REPLY,
        };
        let phone = draft.recipient.as_ref().and_then(|recipient| recipient.phone.clone());
        let bsuid = draft.recipient.as_ref().and_then(|recipient| recipient.bsuid.clone());
        let earliest = row.not_before.unwrap_or(now).max(now);
        let due_at = row.quiet_hours.map_or(earliest, |quiet| {
            let fallback = tenant.time_zone.parse().unwrap_or(chrono_tz::Africa::Casablanca);
            quiet.next_allowed(earliest, zone_of(phone.as_ref(), bsuid.as_ref(), fallback))
        });
        let frame = Frame {
            line: row.line,
            contact,
            conversation: talk.conversation_id,
            priority,
            due_at,
            campaign: row.campaign.clone(),
        };

        let wants = lines.get(&row.line).is_some_and(|line| line.kind == "virtual" && line.introduction == "auto");
        let says_so = draft.kind == Type::Read || used.is_some_and(|ready| ready.row.introduces);
        if let Some(ready) = introduction
            .as_ref()
            .filter(|_| wants && !says_so && talk.introduced_at.is_none() && introduced.insert(talk.conversation_id))
        {
            let variables = introduction_variables(&ready.rules, tenant, lines.get(&row.line));
            match ready.rules.fill(&variables) {
                Ok(filled) => {
                    let content = ready.rules.send(&ready.row.meta_name, &filled);
                    let draft =
                        Draft { recipient: None, kind: Type::Template, content, reply_to: None, delivery: Delivery::AtMostOnce };
                    let shown = ready.shown(&variables, &filled);
                    new.push(frame.message(vault, &draft, Some((&ready.row, shown)), None));
                }
                Err(found) => tracing::error!(tenant.id = %tenant.id, "The introduction template cannot be filled: {:?}", found),
            }
        }
        draft.recipient = None;
        let waiting_for = (due_at > now)
            .then(|| if due_at > earliest { "the end of quiet hours" } else { "the time it is scheduled for" }.to_owned());
        let template = used.map(|ready| &ready.row).zip(shown);
        let mut message = frame.message(vault, &draft, template, waiting_for);
        message.not_before = (due_at > now).then_some(due_at);
        ids.push(message.message_id);
        new.push(message);
    }
    if !problems.is_empty() {
        return Ok(refused(problems));
    }
    let price = price(now, tenant);
    let mut wanted = 0_i64;
    // Read marks are no messages.
    for message in new.iter_mut().filter(|message| message.kind != Type::Read.name()) {
        message.reserved_units = price;
        wanted = wanted.saturating_add(price);
    }
    if let Some(left) = reserve(tx, now, tenant.id, wanted).await? {
        return Ok(Queued::NoCredit { left, wanted });
    }
    messages::queue(&mut **tx, tenant.id, &new).await?;
    conversations::sent(
        tx,
        &new.iter().map(|m| m.conversation_id).collect::<Vec<_>>(),
        &introduced.into_iter().collect::<Vec<_>>(),
    )
    .await?;
    templates::used(&mut **tx, &new.iter().filter_map(|m| m.template_id).collect::<Vec<_>>()).await?;
    run_lane::wake(tx, &lines.keys().copied().collect::<Vec<_>>()).await?;
    Ok(Queued::Done(ids))
}

/// Sends a parked message once more, within the month's room: where its first attempt arrived after all, that was paid for too.
pub async fn send_again(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    tenant: &Tenant,
    parked: &messages::Message,
) -> Result<SentAgain, Failure> {
    let price = if parked.kind == Type::Read.name() { 0 } else { price(now, tenant) };
    if let Some(left) = reserve(tx, now, tenant.id, price).await? {
        return Ok(SentAgain::NoCredit { left, wanted: price });
    }
    if !messages::send_again(&mut **tx, tenant.id, parked.message_id, price).await? {
        return Ok(SentAgain::NotParked);
    }
    run_lane::wake(tx, &[parked.line_id]).await?;
    Ok(SentAgain::Done)
}

/// The day's price of a message. A tenant that pays Meta itself has none here.
fn price(now: DateTime<Utc>, tenant: &Tenant) -> i64 {
    let day = now.with_timezone(&store::charges::zone(tenant)).date_naive();
    let price = tenant.price_on(day).map_or(0, |price| price.price_per_message_units);
    if tenant.billing_mode == "platform" { price } else { 0 }
}

/// Takes `wanted` out of the month's room, or says what is left of it.
async fn reserve(tx: &mut Tx<'_>, now: DateTime<Utc>, tenant: TenantId, wanted: i64) -> Result<Option<i64>, Failure> {
    if wanted == 0 {
        return Ok(None);
    }
    match credit::reserve(tx, tenant, now, wanted).await? {
        Ok(None) => Ok(None),
        Ok(Some(warning)) => warn_of_limit(tx, tenant, now, &warning).await.map(|()| None),
        Err(credit::NoCredit { left }) => Ok(Some(left)),
    }
}

/// Tells every address that this tenant's orders gave.
async fn warn_of_limit(tx: &mut Tx<'_>, tenant: TenantId, now: DateTime<Utc>, warning: &credit::Warning) -> Result<(), Failure> {
    let data = json!({ "tenant_id": tenant.0, "month": warning.month, "percent": warning.percent,
        "used": Units(warning.used), "credit_limit": Units(warning.limit) });
    for url in credit::addresses(&mut **tx, tenant).await? {
        call_back(tx, tenant, &url, "credit.warning", now, &data).await?;
    }
    Ok(())
}

fn refused(mut problems: Vec<RowProblem>) -> Queued {
    problems.sort_by_key(|problem| problem.row);
    Queued::Refused(problems)
}

/// What all messages of one row share.
struct Frame {
    line: LineId,
    contact: ContactId,
    conversation: Uuid,
    priority: i16,
    due_at: DateTime<Utc>,
    campaign: Option<String>,
}

impl Frame {
    fn message(
        &self,
        vault: &Vault,
        draft: &Draft,
        template: Option<(&templates::Template, Value)>,
        waiting_for: Option<String>,
    ) -> NewMessage {
        let message_id = MessageId(Uuid::now_v7());
        let mut content = json!(draft);
        let (template, shown) = template.unzip();
        if let Some(shown) = shown {
            content["shown"] = shown;
        }
        let category = template.map_or_else(|| "service".to_owned(), |template| template.category.to_lowercase());
        NewMessage {
            message_id,
            line_id: self.line,
            contact_id: self.contact,
            conversation_id: self.conversation,
            kind: draft.kind.name().to_owned(),
            content_sealed: vault.seal(&content_context(message_id), content.to_string().as_bytes()),
            template_id: template.map(|template| template.template_id),
            category,
            policy: match draft.delivery {
                Delivery::AtMostOnce => "at_most_once",
                Delivery::AtLeastOnce => "at_least_once",
            }
            .to_owned(),
            priority: self.priority,
            not_before: None,
            due_at: self.due_at,
            waiting_for,
            context_wamid: draft.reply_to.clone(),
            reserved_units: 0,
            campaign: self.campaign.clone(),
        }
    }
}

fn read(request: &Value, now: DateTime<Utc>) -> Result<Row, Vec<Problem>> {
    let mut problems = Vec::new();
    let line = match request.get("line_id").and_then(Value::as_str).map(str::parse::<LineId>) {
        Some(Ok(line)) => Some(line),
        Some(Err(_)) => {
            problems.push(Problem::new("line_id", "line_unknown", "line_id is not the id of a line"));
            None
        }
        None => {
            problems.push(Problem::new("line_id", "required", "line_id is missing"));
            None
        }
    };
    let not_before = match request.get("not_before").filter(|value| !value.is_null()) {
        None => None,
        Some(value) => match value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|at| at.to_utc()) {
            Some(at) if at - now <= AHEAD_MAX => Some(at),
            Some(_) => {
                problems.push(Problem::new("not_before", "too_far_ahead", "a send can be scheduled 90 days ahead"));
                None
            }
            None => {
                problems.push(Problem::new(
                    "not_before",
                    "invalid_time",
                    "not_before is a time such as 2026-11-24T10:00:00+01:00",
                ));
                None
            }
        },
    };
    let quiet_hours = match request.get("quiet_hours").filter(|value| !value.is_null()) {
        None => None,
        Some(value) => match quiet(value) {
            Some(hours) => Some(hours),
            None => {
                problems.push(Problem::new(
                    "quiet_hours",
                    "invalid_value",
                    "quiet_hours is {\"from\":\"21:00\",\"until\":\"08:00\"}",
                ));
                None
            }
        },
    };
    let campaign = request.get("campaign").and_then(Value::as_str).map(str::to_owned);
    match message::parse(request) {
        Ok(draft) if problems.is_empty() => {
            let alias = draft.recipient.as_ref().and_then(|recipient| match (&recipient.phone, &recipient.bsuid) {
                (Some(phone), _) => Some(("phone", phone.as_str().to_owned())),
                (None, Some(bsuid)) => Some(("bsuid", bsuid.as_str().to_owned())),
                (None, None) => None,
            });
            line.map(|line| Row { draft, line, not_before, quiet_hours, campaign, alias }).ok_or(problems)
        }
        Ok(_) => Err(problems),
        Err(found) => {
            problems.extend(found);
            Err(problems)
        }
    }
}

fn quiet(value: &Value) -> Option<QuietHours> {
    let time = |name: &str| chrono::NaiveTime::parse_from_str(value.get(name)?.as_str()?, "%H:%M").ok();
    Some(QuietHours { from: time("from")?, until: time("until")? })
}

async fn live_lines(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    rows: &[(usize, Row)],
    problems: &mut Vec<RowProblem>,
) -> Result<HashMap<LineId, lines::Line>, Failure> {
    let mut found = HashMap::new();
    let mut wanted: BTreeMap<LineId, usize> = BTreeMap::new();
    for (place, row) in rows {
        wanted.entry(row.line).or_insert(*place);
    }
    for (line, place) in wanted {
        let problem = match lines::get(&mut **tx, tenant, line).await? {
            Some(there) if there.status == "live" || there.status == "paused" || there.status == "restricted" => {
                found.insert(line, there);
                continue;
            }
            Some(there) => Problem::new("line_id", "line_not_live", format!("the line is {}", there.status)),
            None => Problem::new("line_id", "line_unknown", "there is no such line"),
        };
        problems.push(RowProblem { row: place, problem });
    }
    Ok(found)
}

/// Files that messages name by id are ours, of the line, of the right kind and still here.
async fn check_files(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    now: DateTime<Utc>,
    rows: &[(usize, Row)],
    templates: &HashMap<Name, Ready>,
    problems: &mut Vec<RowProblem>,
) -> Result<(), Failure> {
    let mut named: Vec<(usize, LineId, MediaKind, String)> = Vec::new();
    for (place, row) in rows {
        let template =
            named_template(&row.draft).and_then(|name| templates.get(&name)).filter(|ready| ready.rules.takes_a_file());
        let filled = template.and_then(|ready| ready.rules.fill(&row.draft.content["variables"]).ok());
        let mut whole = match filled {
            Some(filled) => Value::Array(filled.components),
            None => json!({ row.draft.kind.name(): row.draft.content }),
        };
        visit(&mut whole, &mut |kind, id| named.push((*place, row.line, kind, id.as_str().unwrap_or_default().to_owned())));
    }
    if named.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = named.iter().filter_map(|(.., id)| id.parse().ok()).collect();
    let files: HashMap<Uuid, media::Media> =
        media::these(&mut **tx, tenant, &ids).await?.into_iter().map(|file| (file.media_id, file)).collect();
    for (row, line, kind, id) in named {
        let file = id.parse::<Uuid>().ok().and_then(|id| files.get(&id)).filter(|file| file.message_id.is_none());
        let (code, why) = match file {
            None => ("media_unknown", format!("there is no uploaded file {id}")),
            Some(file) if file.line_id != line => ("media_of_other_line", format!("the file {id} was uploaded for another line")),
            Some(file) if !file.here || file.expires_at.is_some_and(|until| until <= now) => {
                ("media_expired", format!("the file {id} is no longer kept"))
            }
            Some(file) if kind_of(&file.mime_type) != Some(kind) => {
                ("media_kind", format!("a file of type {} cannot be sent as {}", file.mime_type, kind.name()))
            }
            Some(_) => continue,
        };
        problems.push(RowProblem { row, problem: Problem::new(format!("{}.id", kind.name()), code, why) });
    }
    Ok(())
}

type Name = (String, String);

fn named_template(draft: &Draft) -> Option<Name> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let language = text(&draft.content["language"]).or_else(|| text(&draft.content["language"]["code"]))?;
    Some((text(&draft.content["name"])?, language.replace('-', "_")))
}

async fn usable_templates(
    tx: &mut Tx<'_>,
    tenant: TenantId,
    rows: &[(usize, Row)],
    problems: &mut Vec<RowProblem>,
) -> Result<HashMap<Name, Ready>, Failure> {
    let mut found: HashMap<Name, Ready> = HashMap::new();
    let mut missing: HashMap<Name, Problem> = HashMap::new();
    for (place, row) in rows.iter().filter(|(_, row)| row.draft.kind == Type::Template) {
        let Some(name) = named_template(&row.draft) else { continue };
        if found.contains_key(&name) {
            continue;
        }
        if !missing.contains_key(&name) {
            match look_up(tx, tenant, &name).await? {
                Ok(ready) => {
                    found.insert(name, ready);
                    continue;
                }
                Err(problem) => {
                    missing.insert(name.clone(), problem);
                }
            }
        }
        problems.extend(missing.get(&name).map(|problem| RowProblem { row: *place, problem: problem.clone() }));
    }
    Ok(found)
}

async fn look_up(tx: &mut Tx<'_>, tenant: TenantId, (name, language): &Name) -> Result<Result<Ready, Problem>, Failure> {
    let Some(row) = templates::named(&mut **tx, tenant, name, language).await? else {
        return Ok(Err(Problem::new("template", "template_unknown", format!("there is no template {name} in {language}"))));
    };
    if matches!(row.status.as_str(), "REJECTED" | "DISABLED" | "DELETED" | "PENDING_DELETION" | "ARCHIVED" | "failed") {
        return Ok(Err(Problem::new(
            "template",
            "template_unusable",
            format!("the template {name} is {}", row.status.to_lowercase()),
        )));
    }
    Ok(ready(row).map_err(|why| Problem::new("template", "template_unusable", why)))
}

fn ready(row: templates::Template) -> Result<Ready, String> {
    let request = json!({"name": row.name, "language": row.language, "category": row.category, "parameter_format": row.parameter_format,
        "components": row.components, "introduces": row.introduces});
    match template::parse(&request) {
        Ok(rules) => Ok(Ready { row, rules }),
        Err(problems) => Err(problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; ")),
    }
}

/// The tenant's copy of the introduction, in its language if there is one.
async fn introduction(tx: &mut Tx<'_>, tenant: &Tenant) -> Result<Option<Ready>, Failure> {
    let Some(row) = templates::introduction(&mut **tx, tenant.id, &tenant.language).await? else { return Ok(None) };
    Ok(ready(row).ok())
}

/// Who writes, for which company, through which platform: by name where the template names them, else in this order.
fn introduction_variables(rules: &Template, tenant: &Tenant, line: Option<&lines::Line>) -> Value {
    let sender = line.map_or(tenant.name.as_str(), |line| line.display_name.as_str());
    let values = [("sender", sender), ("company", tenant.name.as_str()), ("platform", "Ligne")];
    let wanted = rules.variables();
    if wanted.iter().all(|variable| values.iter().any(|(name, _)| *name == variable.key)) {
        let given = wanted.iter().filter_map(|variable| values.iter().find(|(name, _)| *name == variable.key));
        return Value::Object(given.map(|(name, value)| ((*name).to_owned(), json!(value))).collect());
    }
    json!(values.iter().take(wanted.len()).map(|(_, value)| value).collect::<Vec<_>>())
}
