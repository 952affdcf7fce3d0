//! Meta in small: one app, one portfolio, one account, many numbers (contracts/meta-cloud-api.md).

mod account;
pub(crate) mod media;
pub(crate) mod messages;
pub(crate) mod numbers;
pub(crate) mod prices;
mod profile;
pub(crate) mod templates;
pub(crate) mod users;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

use crate::{
    Config,
    hooks::ascii,
    wire::{Answer, Call, Operation, Outcome, Refusal},
    world::World,
};
pub(crate) use numbers::Number;

/// Changes in one webhook, at most (contracts/meta-cloud-api.md 10.1).
const BATCH: usize = 1_000;

/// Meta's whole state.
pub(crate) struct Meta {
    pub(crate) numbers: BTreeMap<String, Number>,
    by_digits: HashMap<String, String>,
    pub(crate) subscribed: bool,
    /// A callback of the account's own, in place of the app's.
    waba_callback: Option<String>,
    uploads: HashMap<String, profile::Upload>,
    handles: HashMap<String, usize>,
    pub(crate) funded: bool,
    pub(crate) cap: usize,
    /// Tokens beside the system token: business tokens from Embedded Signup.
    pub(crate) tokens: Vec<String>,
    /// Codes of Embedded Signup that still work, with the moment they die.
    pub(crate) signup_codes: HashMap<String, DateTime<Utc>>,
    pub(crate) restricted: bool,
    pub(crate) templates: BTreeMap<String, templates::Template>,
    template_calls: Vec<DateTime<Utc>>,
    /// Names of deleted templates, and until when they stay locked.
    locked_names: HashMap<String, DateTime<Utc>>,
    media: HashMap<String, media::Media>,
    pub(crate) traffic: messages::Traffic,
    users: users::Users,
    bill: prices::Bill,
    /// Changes that wait to be sent together, with the URL they go to.
    pending: Vec<(String, Vec<String>, Value)>,
    traces: u64,
}

impl Meta {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            numbers: BTreeMap::new(),
            by_digits: HashMap::new(),
            subscribed: config.meta.subscribed,
            waba_callback: None,
            uploads: HashMap::new(),
            handles: HashMap::new(),
            funded: true,
            cap: config.meta.number_cap,
            tokens: Vec::new(),
            signup_codes: HashMap::new(),
            restricted: false,
            templates: BTreeMap::new(),
            template_calls: Vec::new(),
            locked_names: HashMap::new(),
            media: HashMap::new(),
            traffic: messages::Traffic::default(),
            users: users::Users::default(),
            bill: prices::Bill::default(),
            pending: Vec::new(),
            traces: 0,
        }
    }

    pub(crate) fn by_digits(&self, digits: &str) -> Option<&Number> {
        self.by_digits.get(digits).and_then(|id| self.numbers.get(id))
    }

    pub(crate) fn is_registered(&self, digits: &str) -> bool {
        self.by_digits(digits).is_some_and(Number::is_connected)
    }

    /// Takes a number off the account, as a person can in Meta's console.
    pub(crate) fn forget(&mut self, id: &str) {
        if let Some(number) = self.numbers.remove(id) {
            self.by_digits.remove(&number.digits);
        }
    }

    /// Id and display name of a number.
    pub(crate) fn names_of(&self, digits: &str) -> Vec<String> {
        self.by_digits(digits).map_or_else(Vec::new, |number| vec![number.id.clone(), number.name.clone()])
    }
}

/// Every call that this Meta takes.
pub(crate) fn operations() -> impl Iterator<Item = &'static Operation> {
    [
        numbers::OPERATIONS,
        profile::OPERATIONS,
        templates::OPERATIONS,
        media::OPERATIONS,
        messages::OPERATIONS,
        account::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}

/// Whether an operation on a bare id fits what the id is.
pub(crate) fn fits(world: &World, operation: &Operation, args: &[String]) -> bool {
    let id = args.first().map_or("", String::as_str);
    match operation.path {
        "{waba}" => id == world.config.meta.waba_id || prices::knows(world, id),
        "{upload}" => id.starts_with("upload:"),
        "{template}" => world.meta.templates.contains_key(id),
        "{media}" => world.meta.media.contains_key(id),
        _ => true,
    }
}

/// The bearer must be a token that we issued; some calls bring the app's secret instead.
pub(crate) fn authorise(world: &World, call: &Call) -> Result<(), Refusal> {
    let account = &world.config.meta;
    let app_token = format!("{}|{}", account.app_id, account.app_secret);
    let known = |token: &str| {
        token == account.system_token || token == app_token || world.meta.tokens.iter().any(|issued| issued == token)
    };
    let token = call.bearer().or_else(|| call.param("access_token"));
    if call.operation == "meta.token" || token.is_some_and(known) {
        return Ok(());
    }
    Err(Refusal::new(401, 190, "Invalid OAuth access token."))
}

/// What plans and the journal may know of a call.
pub(crate) fn about(world: &World, call: &Call) -> Vec<String> {
    let mut about = call.args.clone();
    let fields = ["verified_name", "new_display_name", "code_method", "to", "recipient", "biz_opaque_callback_data", "name"];
    about.extend(fields.into_iter().filter_map(|field| call.text(field)).map(str::to_owned));
    let digits = match call.operation {
        "meta.number_add" => numbers::digits_of(call),
        _ => world.meta.numbers.get(call.arg(0)).map(|number| number.digits.clone()),
    };
    about.extend(digits.map(|digits| world.aliases(&digits)).into_iter().flatten());
    about
}

/// The error envelope of contracts/meta-cloud-api.md 1.3.
pub(crate) fn refuse(world: &mut World, refusal: &Refusal) -> Answer {
    world.meta.traces += 1;
    let kind = if refusal.subcode == Some(33) { "GraphMethodException" } else { "OAuthException" };
    let code = refusal.code;
    let transient = matches!(code, 1 | 2 | 4 | 80007 | 131_000 | 131_016 | 131_057);
    let mut error = json!({"message": format!("(#{code}) {}", refusal.detail), "type": kind, "code": code, "is_transient": transient,
        "fbtrace_id": format!("Asim{:08x}", world.meta.traces)});
    if let Some(subcode) = refusal.subcode {
        error["error_subcode"] = json!(subcode);
    }
    // Now and then the details are missing.
    if !world.meta.traces.is_multiple_of(3) && code > 1_000 {
        error["error_data"] = json!({"messaging_product": "whatsapp", "details": refusal.detail});
    }
    Answer { body: ascii(&json!({"error": error})).into(), ..Answer::json(refusal.status, &Value::Null) }
}

/// What a planned refusal without a status uses.
pub(crate) fn usual_status(code: u32) -> u16 {
    match code {
        0 | 190 => 401,
        1 | 100 => 400,
        2 | 131_016 => 503,
        131_000 | 131_057 => 500,
        10 | 200..=299 | 368 => 403,
        _ => 400,
    }
}

fn missing(field: &str) -> Refusal {
    Refusal::new(400, 100, format!("The parameter {field} is required."))
}

/// Unknown, or not ours to see: Meta does not tell which.
fn unknown(id: &str) -> Refusal {
    Refusal::new(400, 100, format!("Unsupported request. Object with ID '{id}' does not exist or is out of reach.")).subcode(33)
}

fn answer(body: &Value) -> Outcome {
    Ok(Answer { body: ascii(body).into(), ..Answer::json(200, &Value::Null) })
}

fn success() -> Outcome {
    answer(&json!({"success": true}))
}

fn waba(world: &World, call: &Call) -> Result<(), Refusal> {
    if call.arg(0) == world.config.meta.waba_id { Ok(()) } else { Err(unknown(call.arg(0))) }
}

/// The wanted fields of an object; `defaults` if none were named. Unknown names are left out, `id` is always there.
fn select(call: &Call, full: &Value, defaults: &[&str]) -> Value {
    let named = call.text("fields").map(split_fields).unwrap_or_default();
    let wanted: Vec<String> = if named.is_empty() { defaults.iter().map(ToString::to_string).collect() } else { named };
    let mut shown = json!({"id": full["id"]});
    for name in wanted {
        if let Some(value) = full.get(&name).filter(|value| !value.is_null()) {
            shown[name] = value.clone();
        }
    }
    shown
}

/// `a,b{c,d},e.f(x)` as `a`, `b`, `e`.
fn split_fields(fields: &str) -> Vec<String> {
    let (mut names, mut name, mut depth) = (Vec::new(), String::new(), 0);
    for letter in fields.chars() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut name)),
            letter if depth == 0 && !letter.is_whitespace() => name.push(letter),
            _ => {}
        }
    }
    names.push(name);
    names.into_iter().map(|name| name.split('.').next().unwrap_or_default().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// One page of a list, with cursors (contracts/meta-cloud-api.md 6.2).
fn page(call: &Call, items: Vec<Value>) -> Value {
    const LIMIT: usize = 25;
    let limit = call.text("limit").and_then(|text| text.parse().ok()).unwrap_or(LIMIT).max(1);
    let from = call.text("after").and_then(|cursor| cursor.strip_prefix('c')).and_then(|at| at.parse().ok()).unwrap_or(0);
    let total = items.len();
    let shown: Vec<Value> = items.into_iter().skip(from).take(limit).collect();
    let until = from + shown.len();
    let mut paging = json!({"cursors": {"before": format!("c{from}"), "after": format!("c{until}")}});
    if until < total {
        paging["next"] = json!(format!("{}/?after=c{until}", call.base));
    }
    json!({"data": shown, "paging": paging})
}

impl World {
    /// A change of some field, sent together with what else happens within the batch's time.
    pub(crate) fn meta_change(&mut self, digits: &str, field: &str, value: Value) {
        if !self.meta.subscribed {
            return;
        }
        let number = self.meta.by_digits(digits).and_then(|number| number.callback.clone());
        let url = number.or_else(|| self.meta.waba_callback.clone()).unwrap_or_else(|| self.config.hooks.meta.clone());
        let about = self.aliases(digits);
        self.meta.pending.push((url, about, json!({"field": field, "value": value})));
        if self.meta.pending.len() == 1 {
            self.after("webhook batch", self.config.delays.batch_ms, Self::send_batch);
        }
    }

    fn send_batch(&mut self) {
        let mut pending = std::mem::take(&mut self.meta.pending);
        if self.faults.is_hostile() {
            rand::seq::SliceRandom::shuffle(pending.as_mut_slice(), &mut self.dice);
        }
        let mut batches: Vec<(String, Vec<String>, Vec<Value>)> = Vec::new();
        for (url, about, change) in pending {
            match batches.iter_mut().find(|(known, _, changes)| *known == url && changes.len() < BATCH) {
                Some((_, all, changes)) => {
                    all.extend(about);
                    changes.push(change);
                }
                None => batches.push((url, about, vec![change])),
            }
        }
        let waba = self.config.meta.waba_id.clone();
        for (url, about, changes) in batches {
            let event = changes[0]["field"].as_str().unwrap_or_default().to_owned();
            let mut entry = json!({"id": waba, "changes": changes});
            if event != "messages" {
                entry["time"] = json!(self.now.timestamp());
            }
            self.meta_event(&url, &about, &event, json!({"object": "whatsapp_business_account", "entry": [entry]}));
        }
    }
}
