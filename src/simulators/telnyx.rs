//! Telnyx in small: what it owns, how it refuses, and which calls it takes (contracts/telnyx.md).

mod billing;
mod numbers;
mod orders;
mod regulation;
mod texts;
mod voice;

use chrono::{DateTime, TimeDelta, Utc};
use ed25519_dalek::SigningKey;
use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    Bodies, Config,
    wire::{Answer, Call, Operation, Outcome, Refusal},
    world::{World, fixed_uuid},
};
pub use billing::{Charge, Kind as ChargeKind};
pub(crate) use numbers::Number;
pub(crate) use orders::{Order, decide};
pub(crate) use texts::text_to;
pub(crate) use voice::ring;

/// How long a found number may be ordered.
const SEARCH_LASTS: TimeDelta = TimeDelta::hours(1);
/// Page sizes (contracts/telnyx.md 2.1).
const PAGE_SIZE: usize = 20;
const PAGE_SIZE_MAX: usize = 250;

/// Telnyx's whole state.
pub(crate) struct Telnyx {
    pub(crate) key: SigningKey,
    organization: String,
    /// In units of 0.0001 USD.
    pub(crate) balance: i64,
    /// Numbers shown by a search, and until when they may be ordered.
    found: HashMap<String, DateTime<Utc>>,
    cursor: u64,
    taken: HashSet<String>,
    reservations: Vec<Value>,
    pub(crate) orders: Vec<Order>,
    /// By id; a number bought again after its release is another record.
    pub(crate) numbers: BTreeMap<String, Number>,
    /// The newest record of each E.164 number.
    by_phone: HashMap<String, String>,
    groups: BTreeMap<String, Value>,
    documents: BTreeMap<String, Value>,
    addresses: BTreeMap<String, Value>,
    apps: BTreeMap<String, Value>,
    profiles: BTreeMap<String, Value>,
    pub(crate) calls: HashMap<String, voice::PhoneCall>,
    recordings: BTreeMap<String, voice::Recording>,
    call_events: Vec<Value>,
    pub(crate) messages: BTreeMap<String, Value>,
    details: Vec<Value>,
    pub(crate) charges: Vec<Charge>,
    /// Calls and texts that reached nobody: number inactive or nothing attached.
    pub(crate) unheard: u64,
    /// Numbers given back while still registered on WhatsApp.
    pub(crate) released_registered: BTreeSet<String>,
}

impl Telnyx {
    pub(crate) fn new(config: &Config, dice: &mut StdRng, now: DateTime<Utc>) -> Self {
        let account = &config.telnyx;
        let app = voice::app(&account.connection_id, "otp-capture", &config.hooks.telnyx_voice, now);
        let profile = texts::profile(&account.messaging_profile_id, "otp-capture", &config.hooks.telnyx_messages, now);
        Self {
            key: SigningKey::from_bytes(&dice.random()),
            organization: fixed_uuid("organization"),
            balance: account.balance_cents * 100,
            found: HashMap::new(),
            cursor: 0,
            taken: HashSet::new(),
            reservations: Vec::new(),
            orders: Vec::new(),
            numbers: BTreeMap::new(),
            by_phone: HashMap::new(),
            groups: BTreeMap::new(),
            documents: BTreeMap::new(),
            addresses: BTreeMap::new(),
            apps: BTreeMap::from([(account.connection_id.clone(), app)]),
            profiles: BTreeMap::from([(account.messaging_profile_id.clone(), profile)]),
            calls: HashMap::new(),
            recordings: BTreeMap::new(),
            call_events: Vec::new(),
            messages: BTreeMap::new(),
            details: Vec::new(),
            charges: Vec::new(),
            unheard: 0,
            released_registered: BTreeSet::new(),
        }
    }

    /// Points the configured voice app and messaging profile at new URLs.
    pub(crate) fn aim(&mut self, config: &Config) {
        if let Some(app) = self.apps.get_mut(&config.telnyx.connection_id) {
            app["webhook_event_url"] = json!(config.hooks.telnyx_voice);
        }
        if let Some(profile) = self.profiles.get_mut(&config.telnyx.messaging_profile_id) {
            profile["webhook_url"] = json!(config.hooks.telnyx_messages);
        }
    }

    /// The record of a number that we hold now.
    pub(crate) fn held(&self, phone: &str) -> Option<&Number> {
        self.by_phone.get(phone).and_then(|id| self.numbers.get(id)).filter(|number| number.status != "deleted")
    }

    fn held_mut(&mut self, phone: &str) -> Option<&mut Number> {
        let id = self.by_phone.get(phone)?;
        self.numbers.get_mut(id).filter(|number| number.status != "deleted")
    }

    pub(crate) fn reference_of(&self, phone: &str) -> Option<String> {
        let order = self.orders.iter().rev().find(|order| order.phone == phone)?;
        order.reference.clone()
    }
}

/// Every call that this Telnyx takes.
pub(crate) fn operations() -> impl Iterator<Item = &'static Operation> {
    [numbers::OPERATIONS, orders::OPERATIONS, regulation::OPERATIONS, voice::OPERATIONS, texts::OPERATIONS, billing::OPERATIONS]
        .into_iter()
        .flatten()
}

/// The key must be ours; the download of a recording needs none.
pub(crate) fn authorise(world: &World, call: &Call) -> Result<(), Refusal> {
    if call.operation == "telnyx.recording_download" || call.bearer() == Some(&world.config.telnyx.api_key) {
        return Ok(());
    }
    Err(Refusal::new(401, 10009, "The API key is missing or unknown."))
}

/// What plans and the journal may know of a call.
pub(crate) fn about(world: &World, call: &Call) -> Vec<String> {
    let mut about: Vec<String> = call.args.clone();
    let fields = ["customer_reference", "phone_number", "connection_id"];
    about.extend(fields.into_iter().filter_map(|field| call.text(field)).map(str::to_owned));
    let filters = ["customer_reference", "phone_number", "country_code", "call_leg_id"];
    about.extend(filters.into_iter().filter_map(|name| call.filter(name)).map(str::to_owned));
    let ordered = call.input.get("phone_numbers").and_then(Value::as_array).into_iter().flatten();
    about.extend(ordered.filter_map(|line| line["phone_number"].as_str()).map(str::to_owned));
    let mut more = Vec::new();
    for what in &about {
        let order = world.telnyx.orders.iter().find(|order| order.id == *what || order.sub_id == *what || order.line_id == *what);
        let phone = world.telnyx.numbers.get(what).map(|number| number.phone.clone());
        let phone = phone.or_else(|| order.map(|order| order.phone.clone()));
        let phone = phone.or_else(|| world.telnyx.calls.get(what).map(|call| call.to.clone()));
        let phone = phone.or_else(|| world.telnyx.recordings.get(what).map(|recording| recording.to.clone()));
        more.extend(phone.map(|phone| world.aliases(phone.trim_start_matches('+'))).into_iter().flatten());
    }
    more.retain(|what| !about.contains(what));
    about.extend(more);
    about
}

/// The error envelope of contracts/telnyx.md 2.2.
pub(crate) fn refuse(refusal: &Refusal) -> Answer {
    let code = refusal.code.to_string();
    let url = format!("https://developers.telnyx.com/docs/overview/errors/{code}");
    let mut error = json!({"code": code, "title": title(refusal.code), "detail": refusal.detail, "meta": {"url": url}});
    if let Some(pointer) = &refusal.pointer {
        error["source"] = json!({"pointer": pointer});
    }
    Answer::json(refusal.status, &json!({"errors": [error]}))
}

fn title(code: u32) -> &'static str {
    match code {
        10001 => "Inactive phone number",
        10002 | 10016 => "Invalid phone number",
        10004 => "Missing required parameter",
        10005 => "Resource not found",
        10006 => "Invalid resource id",
        10007..=10008 | 10037 => "Unexpected error",
        10009 | 20001..=20009 => "Authentication failed",
        10010 | 10038 | 10039 => "Authorization failed",
        10011 => "Too many requests",
        10015 => "Bad request",
        20100 => "Insufficient funds",
        85000 => "Phone number was not searched for",
        85001 => "Phone numbers not available",
        85004 => "Invalid connection id",
        85005 => "Invalid messaging profile id",
        85006 => "Phone number already reserved",
        90015 => "Invalid call control id",
        90018 => "Call has already ended",
        90020 => "Audio has not started",
        90034 => "Call has not been answered yet",
        90053 | 90054 => "Transcription conflict",
        _ => "Unprocessable request",
    }
}

/// What a planned refusal without a status uses.
pub(crate) fn usual_status(code: u32) -> u16 {
    match code {
        10005 | 10006 => 404,
        10007 => 500,
        10008 | 10037 => 503,
        10009 | 20001..=20009 => 401,
        10010 | 10038 | 10039 | 20012..=20017 => 403,
        10011 => 429,
        _ => 422,
    }
}

pub(crate) fn missing(field: &str) -> Refusal {
    Refusal::new(422, 10004, format!("{field} is required.")).at(format!("/{field}"))
}

fn not_found(what: &str) -> Refusal {
    Refusal::new(404, 10005, format!("No {what} with this id."))
}

/// `{"data": …}` in the configured body profile.
fn data(world: &World, body: Value) -> Outcome {
    Ok(Answer::json(200, &json!({"data": shaped(world, body)})))
}

/// Strict bodies leave out what is null; lifelike ones carry the nulls that were captured.
fn shaped(world: &World, mut body: Value) -> Value {
    if world.config.bodies == Bodies::Strict {
        without_nulls(&mut body);
    }
    body
}

fn without_nulls(body: &mut Value) {
    /// Fields that the published schema wants even when they are null.
    const NULLABLE: [&str; 2] = ["external_pin", "mms"];
    match body {
        Value::Object(fields) => {
            fields.retain(|name, value| !value.is_null() || NULLABLE.contains(&name.as_str()));
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// One page of a list, with its meta.
fn page(world: &World, call: &Call, items: Vec<Value>) -> Outcome {
    let number = |name: &str| call.param(name).and_then(|value| value.parse::<usize>().ok());
    let size = number("page[size]").unwrap_or(PAGE_SIZE).clamp(1, PAGE_SIZE_MAX);
    let at = number("page[number]").unwrap_or(1).max(1);
    let total = items.len();
    let shown: Vec<Value> = items.into_iter().skip((at - 1) * size).take(size).map(|item| shaped(world, item)).collect();
    let meta = json!({"page_number": at, "page_size": size, "total_pages": total.div_ceil(size).max(1), "total_results": total});
    Ok(Answer::json(200, &json!({"data": shown, "meta": meta})))
}

/// `4.50` from units of 0.0001 USD.
fn dollars(amount: i64) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    let (whole, part) = (amount.abs() / 10_000, amount.abs() % 10_000);
    if part % 100 == 0 { format!("{sign}{whole}.{:02}", part / 100) } else { format!("{sign}{whole}.{part:04}") }
}
