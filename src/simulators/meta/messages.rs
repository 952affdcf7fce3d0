//! Messages: checked in Meta's order, limited, accepted, and told by status (contracts/meta-cloud-api.md 7, 8 and 10).

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use rand::Rng;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};

use super::{
    answer,
    numbers::known,
    prices, success,
    users::{self, Address},
};
use crate::{
    faults::Scene,
    wire::{Call, Operation, Outcome, Refusal},
    world::World,
};

pub(super) const OPERATIONS: &[Operation] =
    &[Operation { name: "meta.send", method: "POST", path: "{phone}/messages", act: send }];

/// The pair limit: a bucket of 45, refilled by one per 6 s. The slack forgives what the wire does to the sender's rhythm.
const PAIR_BURST: f64 = 45.0;
const PAIR_REFILL_MS: f64 = 6_000.0;
const PAIR_SLACK: f64 = 0.1;
/// A number's limit counts arrivals in a moving second: that is what the books tell as the fullest one. Refused is what is above the
/// limit within a little less. A sender who counts from release to answer keeps the second whatever network, load and kills do to
/// his rhythm, but for what he leaves out on purpose: an answer's own time, at most twice what the quickest call took beyond 2 ms
/// (docs/decisions/0003-lanes.md). That is nothing on a quick machine, and these 50 ms are reached only where no call takes less
/// than 27. More would hide a sender who is really too fast: four sends of eighty.
const SECOND: TimeDelta = TimeDelta::seconds(1);
const REFUSED_WITHIN: TimeDelta = TimeDelta::milliseconds(950);
/// Length limits.
const TEXT_MAX: usize = 4_096;
const CALLBACK_MAX: usize = 512;
/// The customer service window.
pub(super) const WINDOW: TimeDelta = TimeDelta::hours(24);
/// Chance per mille that a delivered message is read, and that a message is read at once, without `delivered`.
const READ: u32 = 500;
const READ_AT_ONCE: u32 = 50;

/// An accepted message.
#[derive(Debug, Clone)]
struct Sent {
    from: String,
    to: Address,
    callback: Option<String>,
    /// `service` or the template's, in lower case.
    category: String,
    kind: &'static str,
}

/// A pair's bucket.
struct Pair {
    tokens: f64,
    at: DateTime<Utc>,
}

/// A number's sends of the last second, all and those that passed, and the most there ever were.
#[derive(Default)]
pub(crate) struct Pace {
    asked: VecDeque<DateTime<Utc>>,
    passed: VecDeque<DateTime<Utc>>,
    pub(crate) peak: u32,
}

/// What was sent, and how fast.
#[derive(Default)]
pub(crate) struct Traffic {
    pairs: HashMap<(String, String), Pair>,
    /// By number id.
    pub(crate) paces: HashMap<String, Pace>,
    pub(crate) accepted: u64,
    pub(crate) per_recipient: HashMap<String, u32>,
    pub(crate) per_callback: HashMap<String, u32>,
    pub(crate) statuses: HashMap<&'static str, u64>,
    pub(crate) refused_pair: u64,
    pub(crate) refused_throughput: u64,
    /// Users outside a window, with the time of the last template.
    reached: HashMap<String, DateTime<Utc>>,
    pub(crate) most_reached: usize,
    /// Free service messages per number and month.
    free: HashMap<(String, String), u32>,
    /// Ids of inbound messages, for read marks.
    pub(crate) inbound: HashSet<String>,
}

fn invalid(code: u32, why: &str) -> Refusal {
    Refusal::new(400, code, why)
}

fn send(world: &mut World, call: &Call) -> Outcome {
    let number = known(world, call)?;
    if !number.is_connected() {
        return Err(invalid(133_010, "The number is not registered."));
    }
    let (id, digits, cc) = (number.id.clone(), number.digits.clone(), number.country_code().to_owned());
    let limit = number.per_second();
    if call.text("messaging_product") != Some("whatsapp") {
        return Err(invalid(100, "messaging_product is whatsapp."));
    }
    if call.text("status") == Some("read") {
        let known = call.text("message_id").is_some_and(|id| world.meta.traffic.inbound.contains(id));
        return if known { success() } else { Err(invalid(131_009, "No such message to mark as read.")) };
    }
    let callback = call.text("biz_opaque_callback_data").map(str::to_owned);
    if callback.as_ref().is_some_and(|data| data.chars().count() > CALLBACK_MAX) {
        return Err(invalid(131_009, "biz_opaque_callback_data is too long."));
    }
    let to = recipient(world, call, &cc)?;
    if to.phone.as_ref() == Some(&digits) {
        return Err(invalid(131_021, "Sender and recipient are the same."));
    }
    let kind = check_content(world, call)?;
    let category = if kind == "template" { check_template(world, &call.input["template"])? } else { "service".to_owned() };
    take_pair(world, &digits, &to)?;
    take_throughput(world, &id, limit)?;

    let wamid = wamid(world, to.phone.as_deref().unwrap_or(&to.user));
    let traffic = &mut world.meta.traffic;
    traffic.accepted += 1;
    *traffic.per_recipient.entry(to.user.clone()).or_default() += 1;
    if let Some(data) = &callback {
        *traffic.per_callback.entry(data.clone()).or_default() += 1;
    }
    let input = call.text("to").or_else(|| call.text("recipient")).unwrap_or_default();
    let contact = match &to.phone {
        Some(phone) => json!({"input": input, "wa_id": phone}),
        None => json!({"input": input, "user_id": to.user}),
    };
    let mut message = json!({"id": wamid});
    if kind == "template" {
        message["message_status"] = json!("accepted");
    }
    let sent = Sent { from: digits, to, callback, category, kind };
    let delay = world.config.delays.status_ms;
    world.after("message goes out", delay, move |world| go_out(world, wamid, sent));
    answer(&json!({"messaging_product": "whatsapp", "contacts": [contact], "messages": [message]}))
}

/// Whom a send means. Without `+` the business's own country code is put in front (contracts/meta-cloud-api.md 7.1).
fn recipient(world: &mut World, call: &Call, cc: &str) -> Result<Address, Refusal> {
    if let Some(to) = call.text("to").filter(|to| !to.is_empty()) {
        let plain: String = to.chars().filter(|letter| !matches!(letter, ' ' | '-' | '(' | ')')).collect();
        let digits = match plain.strip_prefix('+') {
            Some(digits) => digits.to_owned(),
            None if plain.starts_with(cc) => plain,
            None => format!("{cc}{plain}"),
        };
        if !(7..=15).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid(131_009, "to is a phone number."));
        }
        return Ok(users::by_phone(world, &digits));
    }
    match call.text("recipient").filter(|id| !id.is_empty()) {
        Some(id) if users::is_bsuid(id) => Ok(users::by_bsuid(id)),
        Some(_) => Err(invalid(131_009, "recipient is a business-scoped user id.")),
        None => Err(invalid(131_008, "to or recipient is required.")),
    }
}

/// The type of the message, if its content is right.
fn check_content(world: &World, call: &Call) -> Result<&'static str, Refusal> {
    const KINDS: [&str; 11] =
        ["text", "template", "image", "video", "audio", "document", "sticker", "location", "contacts", "reaction", "interactive"];
    let kind = call.text("type").unwrap_or("text");
    let kind =
        KINDS.into_iter().find(|known| *known == kind).ok_or_else(|| invalid(131_051, "This message type is not supported."))?;
    let body = &call.input[kind];
    let need = |fine: bool, what: &str| if fine { Ok(()) } else { Err(invalid(131_008, what)) };
    let right = |fine: bool, what: &str| if fine { Ok(()) } else { Err(invalid(131_009, what)) };
    match kind {
        "text" => {
            let text = body["body"].as_str().unwrap_or_default();
            need(!text.is_empty(), "text.body is required.")?;
            right(text.chars().count() <= TEXT_MAX, "text.body is too long.")?;
        }
        "template" => {
            need(
                body["name"].is_string() && body["language"]["code"].is_string(),
                "template.name and language.code are required.",
            )?;
        }
        "image" | "video" | "audio" | "document" | "sticker" => {
            let (id, link) = (body["id"].as_str(), body["link"].as_str());
            need(id.is_some() != link.is_some(), "A medium has an id or a link.")?;
            right(id.is_none_or(|id| world.meta.media.contains_key(id)), "The medium's id is unknown.")?;
            right(link.is_none_or(|link| link.starts_with("http")), "The medium's link is no URL.")?;
        }
        "location" => {
            need(body["latitude"].is_number() && body["longitude"].is_number(), "A location has latitude and longitude.")?
        }
        "contacts" => {
            let cards = body.as_array().map_or(&[][..], Vec::as_slice);
            need(
                !cards.is_empty() && cards.iter().all(|card| card["name"]["formatted_name"].is_string()),
                "Contacts have names.",
            )?;
        }
        "reaction" => need(body["message_id"].is_string() && body["emoji"].is_string(), "A reaction has message_id and emoji.")?,
        "interactive" => {
            let (action, form) = (&body["action"], body["type"].as_str().unwrap_or_default());
            need(action.is_object() && body["body"]["text"].is_string(), "interactive has type, body and action.")?;
            let short = |text: &Value, longest: usize| text.as_str().is_some_and(|t| (1..=longest).contains(&t.chars().count()));
            let buttons = action["buttons"].as_array().map_or(&[][..], Vec::as_slice);
            let rows =
                action["sections"].as_array().into_iter().flatten().flat_map(|s| s["rows"].as_array().into_iter().flatten());
            let rows: Vec<&Value> = rows.collect();
            let fine = match form {
                "button" => (1..=3).contains(&buttons.len()) && buttons.iter().all(|button| short(&button["reply"]["title"], 20)),
                "list" => {
                    short(&action["button"], 20)
                        && (1..=10).contains(&rows.len())
                        && rows.iter().all(|row| short(&row["title"], 24))
                }
                "cta_url" => short(&action["parameters"]["display_text"], 20),
                "flow" => action["parameters"].is_object(),
                "location_request_message" | "request_contact_info" => true,
                _ => false,
            };
            right(fine, "The interactive content is not valid.")?;
        }
        _ => return Err(invalid(131_051, "This message type is not supported.")),
    }
    Ok(kind)
}

/// The template's category, if it may be sent with these parameters.
fn check_template(world: &World, asked: &Value) -> Result<String, Refusal> {
    let (name, language) = (&asked["name"], &asked["language"]["code"]);
    let mut known = world.meta.templates.values();
    let template = known.find(|template| *name == template.name.as_str() && *language == template.language.as_str());
    let template = template.ok_or_else(|| Refusal::new(404, 132_001, "There is no such template in this language."))?;
    match template.status {
        "APPROVED" => {}
        "PAUSED" => return Err(invalid(132_015, "The template is paused.")),
        "DISABLED" => return Err(invalid(132_016, "The template is disabled.")),
        _ => return Err(Refusal::new(404, 132_001, "The template is not approved.")),
    }
    if template.category == "AUTHENTICATION" {
        return Ok(template.category.to_lowercase());
    }
    for part in ["header", "body"] {
        let wanted = template.variables(part);
        let given = asked["components"].as_array().into_iter().flatten();
        let mut given = given.filter(|component| component["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case(part)));
        let parameters = given.next().and_then(|component| component["parameters"].as_array()).map_or(&[][..], Vec::as_slice);
        let texts: Vec<&Value> = parameters
            .iter()
            .filter(|p| !matches!(p["type"].as_str(), Some("image" | "video" | "document" | "location")))
            .collect();
        if texts.len() != wanted.len() {
            return Err(invalid(132_000, "The number of parameters is not the template's."));
        }
        let named = texts.iter().filter(|p| p["parameter_name"].as_str().is_some_and(|name| wanted.contains(name))).count();
        if template.named && named != wanted.len() || !template.named && texts.iter().any(|p| p["parameter_name"].is_string()) {
            return Err(invalid(132_012, "The parameters' format is not the template's."));
        }
        let broken = |text: &str| text.is_empty() || text.contains(['\n', '\t']) || text.contains("     ");
        if texts.iter().any(|parameter| parameter["text"].as_str().is_some_and(broken)) {
            return Err(invalid(132_018, "A parameter's text is not valid."));
        }
    }
    Ok(template.category.to_lowercase())
}

fn take_pair(world: &mut World, from: &str, to: &Address) -> Result<(), Refusal> {
    let now = world.now;
    let traffic = &mut world.meta.traffic;
    let pair = traffic.pairs.entry((from.to_owned(), to.user.clone())).or_insert(Pair { tokens: PAIR_BURST, at: now });
    let waited = (now - pair.at).num_milliseconds() as f64;
    pair.tokens = (pair.tokens + waited / PAIR_REFILL_MS).min(PAIR_BURST);
    pair.at = now;
    if pair.tokens + PAIR_SLACK < 1.0 {
        traffic.refused_pair += 1;
        return Err(invalid(131_056, "Too many messages from this number to this user."));
    }
    pair.tokens -= 1.0;
    Ok(())
}

fn take_throughput(world: &mut World, id: &str, limit: usize) -> Result<(), Refusal> {
    let now = world.now;
    let traffic = &mut world.meta.traffic;
    let pace = traffic.paces.entry(id.to_owned()).or_default();
    pace.peak = pace.peak.max(u32::try_from(arrive(&mut pace.asked, now, SECOND)).unwrap_or(u32::MAX));
    if arrive(&mut pace.passed, now, REFUSED_WITHIN) > limit {
        pace.passed.pop_back();
        traffic.refused_throughput += 1;
        return Err(invalid(130_429, "The number's throughput is reached."));
    }
    Ok(())
}

/// How many arrivals there are within `window`, with this one.
fn arrive(arrivals: &mut VecDeque<DateTime<Utc>>, now: DateTime<Utc>, window: TimeDelta) -> usize {
    while arrivals.front().is_some_and(|at| now - *at >= window) {
        arrivals.pop_front();
    }
    arrivals.push_back(now);
    arrivals.len()
}

/// A message's id as Meta makes them: base64 over the person's number, or user id, and something random.
pub(super) fn wamid(world: &mut World, person: &str) -> String {
    let mut bytes = vec![0x1c, 0x18, u8::try_from(person.len()).unwrap_or(u8::MAX)];
    bytes.extend(person.bytes());
    bytes.extend([0x15, 0x02, 0x00, 0x11, 0x18, 0x12]);
    bytes.extend(world.uuid().replace('-', "").to_uppercase().bytes().take(18));
    bytes.push(0);
    format!("wamid.{}", BASE64_STANDARD.encode(bytes))
}

/// What the late checks find wrong, if anything.
fn late_trouble(world: &mut World, sent: &Sent) -> Option<u32> {
    let mut about = world.aliases(&sent.from);
    about.extend(sent.to.phone.iter().map(|phone| format!("+{phone}")));
    about.push(sent.to.user.clone());
    about.extend(sent.callback.clone());
    let planned = world.faults.scene(&about, |scene| match scene {
        Scene::MessageFails { code } => Some(*code),
        _ => None,
    });
    if planned.is_some() {
        return planned;
    }
    if world.happens(&[], Scene::MessageFails { code: 131_026 }) {
        return Some(131_026);
    }
    let open = users::window_open(world, &sent.from, &sent.to.user);
    if sent.category == "service" && !open {
        return Some(131_047);
    }
    if !users::exists(world, &sent.to) {
        return Some(131_026);
    }
    if sent.category == "marketing" && users::stopped(world, &sent.to.user) {
        return Some(131_050);
    }
    if !world.meta.funded {
        return Some(131_042);
    }
    if sent.category != "service" && !open {
        let now = world.now;
        let tier = world.config.meta.tier;
        let traffic = &mut world.meta.traffic;
        if traffic.reached.len() >= tier {
            traffic.reached.retain(|_, at| now - *at < WINDOW);
        }
        if traffic.reached.len() >= tier && !traffic.reached.contains_key(&sent.to.user) {
            return Some(131_048);
        }
        traffic.reached.insert(sent.to.user.clone(), now);
        traffic.most_reached = traffic.most_reached.max(traffic.reached.len());
    }
    None
}

fn go_out(world: &mut World, wamid: String, sent: Sent) {
    if let Some(code) = late_trouble(world, &sent) {
        return tell(world, &wamid, &sent, "failed", None, Some(code));
    }
    let month = prices::day(world.now).format("%Y-%m").to_string();
    let free = sent.category == "service" && {
        let used = world.meta.traffic.free.entry((sent.from.clone(), month)).or_default();
        *used += 1;
        *used <= world.config.meta.free_service_messages
    };
    let kind = if free { "free_customer_service" } else { "regular" };
    let pricing = json!({"billable": !free, "pricing_model": "PMP", "type": kind, "category": sent.category});
    tell(world, &wamid, &sent, "sent", Some(&pricing), None);
    let roll = world.dice.random_range(0..1000);
    let delay = world.config.delays.status_ms;
    world.after("message arrives", delay, move |world| {
        // Billed on delivery.
        prices::book(world, &sent.from, &sent.to.country, &sent.category, free);
        if roll < READ_AT_ONCE {
            return tell(world, &wamid, &sent, "read", Some(&pricing), None);
        }
        tell(world, &wamid, &sent, "delivered", Some(&pricing), None);
        if roll < READ && sent.kind != "reaction" {
            world.after("message is read", delay, move |world| tell(world, &wamid, &sent, "read", None, None));
        }
    });
}

fn tell(world: &mut World, wamid: &str, sent: &Sent, status: &'static str, pricing: Option<&Value>, failure: Option<u32>) {
    *world.meta.traffic.statuses.entry(status).or_default() += 1;
    let mut told = json!({"id": wamid, "status": status, "timestamp": world.now.timestamp().to_string()});
    if let Some(phone) = &sent.to.phone {
        told["recipient_id"] = json!(phone);
    }
    if failure.is_none() || sent.to.phone.is_none() {
        told["recipient_user_id"] = json!(sent.to.user);
    }
    if let Some(data) = &sent.callback {
        told["biz_opaque_callback_data"] = json!(data);
    }
    if let Some(pricing) = pricing {
        told["pricing"] = pricing.clone();
    }
    if let Some(code) = failure {
        let title = failure_title(code);
        told["errors"] = json!([{"code": code, "title": title, "message": title, "error_data": {"details": title},
            "href": "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/"}]);
    }
    let mut value = frame(world, &sent.from);
    value["statuses"] = json!([told]);
    if failure.is_none() {
        value["contacts"] = json!([users::contact(world, &sent.to)]);
    }
    world.meta_change(&sent.from, "messages", value);
}

fn failure_title(code: u32) -> &'static str {
    match code {
        131_026 => "Message undeliverable",
        131_042 => "Business eligibility payment issue",
        131_047 => "Re-engagement message",
        131_048 => "Spam rate limit hit",
        131_049 => "Not delivered to keep the ecosystem healthy",
        131_050 => "User has stopped marketing messages",
        132_015 => "Template is paused",
        _ => "Something went wrong",
    }
}

/// `messaging_product` and `metadata` of a number.
pub(super) fn frame(world: &World, digits: &str) -> Value {
    let id = world.meta.by_digits(digits).map(|number| number.id.clone());
    json!({"messaging_product": "whatsapp", "metadata": {"display_phone_number": digits, "phone_number_id": id}})
}
