//! Numbers: added, proved by a code, registered, renamed, deregistered (contracts/meta-cloud-api.md 3 and 4.1).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{answer, missing, page, select, success, unknown, waba};
use crate::{
    faults::Scene,
    speech::{self, Language},
    telnyx,
    wire::{Call, Operation, Outcome, Refusal},
    world::World,
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "meta.number_add", method: "POST", path: "{waba}/phone_numbers", act: add },
    Operation { name: "meta.numbers", method: "GET", path: "{waba}/phone_numbers", act: list },
    Operation { name: "meta.request_code", method: "POST", path: "{phone}/request_code", act: request_code },
    Operation { name: "meta.verify_code", method: "POST", path: "{phone}/verify_code", act: verify_code },
    Operation { name: "meta.register", method: "POST", path: "{phone}/register", act: register },
    Operation { name: "meta.deregister", method: "POST", path: "{phone}/deregister", act: deregister },
    Operation { name: "meta.settings", method: "POST", path: "{phone}/settings", act: settings },
];

/// Register and deregister calls in a moving window, each, and the lock beyond.
const CALLS_PER_WINDOW: usize = 10;
const WINDOW: TimeDelta = TimeDelta::hours(72);
/// A code is good this long.
const CODE_LASTS: TimeDelta = TimeDelta::minutes(10);
/// Wrong guesses until a code is void, and wrong PINs until there is a wait.
const GUESSES: u32 = 3;
const PIN_GUESSES: u32 = 5;
/// Code requests accepted per day.
const CODES_PER_DAY: usize = 6;
/// Display name changes per 30 days, and how long an approved name waits for its registration.
const RENAMES: usize = 10;
const RENAME_LASTS: TimeDelta = TimeDelta::days(14);

/// A number of the account.
#[derive(Debug, Clone)]
pub(crate) struct Number {
    pub(crate) id: String,
    pub(crate) digits: String,
    cc: String,
    pub(crate) name: String,
    pub(crate) name_status: &'static str,
    pub(crate) new_name: Option<String>,
    new_name_status: &'static str,
    new_name_until: Option<DateTime<Utc>>,
    renames: Vec<DateTime<Utc>>,
    verified: bool,
    pub(crate) status: &'static str,
    pub(crate) pin: Option<String>,
    wrong_pins: u32,
    pub(crate) quality: &'static str,
    pub(crate) throughput: &'static str,
    pub(crate) register_calls: Vec<DateTime<Utc>>,
    pub(crate) deregister_calls: Vec<DateTime<Utc>>,
    locked_until: Option<DateTime<Utc>>,
    pub(crate) code: Option<Code>,
    /// When, by what, and whether it was accepted.
    pub(crate) code_requests: Vec<(DateTime<Utc>, String, bool)>,
    wrong_codes: u32,
    pub(super) profile: Value,
    /// The number's own callback.
    pub(super) callback: Option<String>,
    onboarded: Option<DateTime<Utc>>,
}

/// The code that verifies; after [`Scene::WrongCode`] another one was said.
#[derive(Debug, Clone)]
pub(crate) struct Code {
    pub(crate) value: String,
    until: DateTime<Utc>,
}

impl Number {
    pub(crate) fn is_connected(&self) -> bool {
        self.status == "CONNECTED"
    }

    pub(super) fn country_code(&self) -> &str {
        &self.cc
    }

    /// Messages per second that it may send.
    pub(super) fn per_second(&self) -> usize {
        if self.throughput == "HIGH" { 1_000 } else { 80 }
    }

    fn display(&self) -> String {
        let rest = &self.digits[self.cc.len()..];
        let (head, tail) = rest.split_at(rest.len().min(3));
        format!("+{} {head}-{tail}", self.cc)
    }

    fn json(&self, world: &World) -> Value {
        let registered = matches!(self.status, "CONNECTED" | "PENDING");
        json!({
            "id": self.id, "display_phone_number": self.display(), "verified_name": self.name, "quality_rating": self.quality,
            "code_verification_status": if self.verified { "VERIFIED" } else { "NOT_VERIFIED" }, "status": self.status,
            "name_status": self.name_status, "new_display_name": self.new_name,
            "new_name_status": self.new_name.as_ref().map(|_| self.new_name_status), "throughput": {"level": self.throughput},
            "whatsapp_business_manager_messaging_limit": world.config.meta.tier_name(), "account_mode": "LIVE", "is_official_business_account": false,
            "platform_type": if registered { "CLOUD_API" } else { "NOT_APPLICABLE" }, "is_pin_enabled": self.pin.is_some(),
            "is_on_biz_app": false, "country_dial_code": self.cc, "health_status": self.health(world),
            "last_onboarded_time": self.onboarded.map(|at| at.format("%Y-%m-%dT%H:%M:%S+0000").to_string()),
            "webhook_configuration": {"application": world.config.hooks.meta, "phone_number": self.callback},
        })
    }

    fn health(&self, world: &World) -> Value {
        let mut number = json!({"entity_type": "PHONE_NUMBER", "id": self.id, "can_send_message": "AVAILABLE"});
        if !self.is_connected() {
            number["can_send_message"] = json!("BLOCKED");
            number["errors"] = json!([{"error_code": 141_000, "error_description": "The number is not registered.",
                "possible_solution": "Register the number."}]);
        }
        let account = super::account::health(world);
        let blocked = [&number, &account].iter().any(|entity| entity["can_send_message"] == "BLOCKED");
        let business = json!({"entity_type": "BUSINESS", "id": world.config.meta.business_id, "can_send_message": "AVAILABLE"});
        let app = json!({"entity_type": "APP", "id": world.config.meta.app_id, "can_send_message": "AVAILABLE"});
        json!({"can_send_message": if blocked { "BLOCKED" } else { "AVAILABLE" }, "entities": [number, account, business, app]})
    }
}

/// The digits that an add call means: with or without the country code.
pub(super) fn digits_of(call: &Call) -> Option<String> {
    let cc = call.text("cc")?;
    let phone = call.text("phone_number")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits(cc) && digits(phone) && !phone.starts_with('0') && (7..=15).contains(&phone.len());
    plain.then(|| if phone.starts_with(cc) && phone.len() > 9 { phone.to_owned() } else { format!("{cc}{phone}") })
}

fn add(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    call.need("cc", missing)?;
    call.need("phone_number", missing)?;
    let name = call.need("verified_name", missing)?.trim().to_owned();
    let digits = digits_of(call).ok_or_else(|| Refusal::new(400, 100, "cc and phone_number are digits."))?;
    if !(2..=75).contains(&name.chars().count()) {
        return Err(Refusal::new(400, 100, "verified_name has 2 to 75 characters."));
    }
    if world.meta.restricted {
        return Err(Refusal::new(403, 131_031, "The account is locked."));
    }
    let mut about = world.aliases(&digits);
    about.push(name.clone());
    let elsewhere = || Refusal::new(400, 100, "The phone number is already registered with WhatsApp Business.");
    if world.meta.by_digits.contains_key(&digits) || world.happens(&about, Scene::OnWhatsApp) {
        return Err(elsewhere());
    }
    if world.meta.numbers.len() >= world.meta.cap || world.happens(&about, Scene::NumberCap) {
        return Err(Refusal::new(403, 200, "The portfolio has reached its number of phone numbers.").subcode(1_349_175));
    }
    let id = format!("5{}", world.digits(14));
    let number = Number {
        id: id.clone(),
        digits: digits.clone(),
        cc: call.text("cc").unwrap_or_default().to_owned(),
        name,
        name_status: "PENDING_REVIEW",
        new_name: None,
        new_name_status: "NONE",
        new_name_until: None,
        renames: Vec::new(),
        verified: false,
        status: "UNVERIFIED",
        pin: None,
        wrong_pins: 0,
        quality: "NA",
        throughput: "NOT_APPLICABLE",
        register_calls: Vec::new(),
        deregister_calls: Vec::new(),
        locked_until: None,
        code: None,
        code_requests: Vec::new(),
        wrong_codes: 0,
        profile: json!({"messaging_product": "whatsapp"}),
        callback: None,
        onboarded: None,
    };
    world.meta.numbers.insert(id.clone(), number);
    world.meta.by_digits.insert(digits, id.clone());
    let (delay, reviewed) = (world.config.delays.name_review_ms, id.clone());
    world.after("display name review", delay, move |world| {
        let Some(number) = world.meta.numbers.get(&reviewed) else { return };
        let mut about = world.aliases(&number.digits.clone());
        about.push(number.name.clone());
        let approve = !world.happens(&about, Scene::NameDeclined);
        decide_name(world, &reviewed, approve);
    });
    answer(&json!({"id": id}))
}

/// The review's word on a display name, by itself or through the control API.
pub(crate) fn decide_name(world: &mut World, id: &str, approve: bool) {
    let now = world.now;
    let Some(number) = world.meta.numbers.get_mut(id) else { return };
    let verdict = if approve { "APPROVED" } else { "DECLINED" };
    let asked = match &number.new_name {
        Some(name) => {
            number.new_name_status = verdict;
            number.new_name_until = Some(now + RENAME_LASTS);
            name.clone()
        }
        None => {
            number.name_status = verdict;
            number.name.clone()
        }
    };
    let digits = number.digits.clone();
    let reason = if approve { Value::Null } else { json!("NAME_NOT_CONSISTENT") };
    let decision = if approve { "APPROVED" } else { "REJECTED" };
    let value = json!({"display_phone_number": digits, "decision": decision, "requested_verified_name": asked, "rejection_reason": reason});
    world.meta_change(&digits, "phone_number_name_update", value);
}

/// What a list or a look at a number shows when no fields are named.
const DEFAULTS: [&str; 5] = ["id", "display_phone_number", "verified_name", "quality_rating", "code_verification_status"];

fn list(world: &mut World, call: &Call) -> Outcome {
    waba(world, call)?;
    let numbers = world.meta.numbers.values().map(|number| select(call, &number.json(world), &DEFAULTS)).collect();
    answer(&page(call, numbers))
}

pub(super) fn show(world: &mut World, call: &Call) -> Outcome {
    let number = world.meta.numbers.get(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))?;
    answer(&select(call, &number.json(world), &DEFAULTS))
}

pub(super) fn known<'w>(world: &'w mut World, call: &Call) -> Result<&'w mut Number, Refusal> {
    world.meta.numbers.get_mut(call.arg(0)).ok_or_else(|| unknown(call.arg(0)))
}

fn request_code(world: &mut World, call: &Call) -> Outcome {
    let (now, gap) = (world.now, world.config.meta.code_gap());
    let method = call.need("code_method", missing)?.to_owned();
    let language = Language::of(call.need("language", missing)?);
    if method != "SMS" && method != "VOICE" {
        return Err(Refusal::new(400, 100, "code_method is SMS or VOICE."));
    }
    let (value, wrong) = (world.digits(6), world.digits(6));
    let number = known(world, call)?;
    let accepted = number.code_requests.iter().filter(|request| request.2);
    let too_soon = accepted.clone().any(|request| now - request.0 < gap);
    let too_many = accepted.filter(|request| now - request.0 < TimeDelta::hours(24)).count() >= CODES_PER_DAY;
    let refused = if number.verified {
        Some("The number is already verified.")
    } else if too_soon || too_many {
        Some("Codes were asked for too often. Try again later.")
    } else {
        None
    };
    number.code_requests.push((now, method.clone(), refused.is_none()));
    if let Some(why) = refused {
        return Err(Refusal::new(400, 136_024, why));
    }
    let digits = number.digits.clone();
    let about = world.aliases(&digits);
    let said = if world.happens(&about, Scene::WrongCode) { wrong } else { value.clone() };
    let number = known(world, call)?;
    number.wrong_codes = 0;
    number.code = Some(Code { value, until: now + CODE_LASTS });
    if world.happens(&about, Scene::NobodyCalls) {
        return success();
    }
    let texts = method == "SMS" || world.happens(&about, Scene::TextInstead);
    let delay = world.config.delays.call_ms;
    world.after("code goes out", delay, move |world| send_code(world, &digits, &said, texts, language));
    success()
}

fn send_code(world: &mut World, digits: &str, code: &str, texts: bool, language: Language) {
    /// Whom the call seems to come from.
    const CALLER: &str = "+16505550199";
    let phone = format!("+{digits}");
    if texts {
        return telnyx::text_to(world, &phone, "WhatsApp", &speech::texted(code, language));
    }
    let about = world.aliases(digits);
    let style = world.faults.scene(&about, |scene| match scene {
        Scene::Speak { style } => Some(*style),
        _ => None,
    });
    let mut script = speech::spoken(code, language, style, &mut world.dice);
    if world.happens(&about, Scene::CallCutShort) {
        script.truncate(script.len().saturating_sub(2).max(1));
        if let Some(last) = script.last_mut() {
            let words = last.text.split(' ').count();
            last.text = last.text.split(' ').take(words.saturating_sub(4)).collect::<Vec<_>>().join(" ");
        }
    }
    let deaf = world.happens(&about, Scene::NoTranscript);
    telnyx::ring(world, &phone, CALLER, script, language, deaf);
}

fn verify_code(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    // Numbers arrive as JSON numbers, too.
    let code = match &call.input["code"] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(missing("code")),
    };
    let number = known(world, call)?;
    if number.verified {
        return success();
    }
    let wrong = |why: &str| Refusal::new(400, 136_025, why);
    match &number.code {
        Some(pending) if number.wrong_codes >= GUESSES || pending.until < now => return Err(wrong("The code has expired.")),
        Some(pending) if pending.value == code => {}
        _ => {
            number.wrong_codes += 1;
            return Err(wrong("The code is not right."));
        }
    }
    number.verified = true;
    number.code = None;
    number.status = "DISCONNECTED";
    success()
}

/// Counts a call in its window; beyond ten the number is locked for 72 hours.
fn spend(calls: &mut Vec<DateTime<Utc>>, locked: &mut Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), Refusal> {
    let refusal = || Refusal::new(400, 133_016, "Too many registrations or deregistrations of this number. Try again later.");
    if locked.is_some_and(|until| until > now) {
        return Err(refusal());
    }
    calls.push(now);
    if calls.iter().filter(|at| now - **at < WINDOW).count() > CALLS_PER_WINDOW {
        *locked = Some(now + WINDOW);
        return Err(refusal());
    }
    Ok(())
}

fn register(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let digits = known(world, call)?.digits.clone();
    let about = world.aliases(&digits);
    if world.happens(&about, Scene::RegisterLocked) {
        known(world, call)?.locked_until = Some(now + WINDOW);
    }
    let number = known(world, call)?;
    spend(&mut number.register_calls, &mut number.locked_until, now)?;
    let pin = call.text("pin").filter(|pin| pin.len() == 6 && pin.bytes().all(|b| b.is_ascii_digit()));
    let pin = pin.ok_or_else(|| Refusal::new(400, 100, "pin has six digits."))?;
    if call.text("messaging_product") != Some("whatsapp") {
        return Err(missing("messaging_product"));
    }
    if !number.verified {
        return Err(Refusal::new(400, 133_006, "The number is not verified yet."));
    }
    if matches!(number.name_status, "EXPIRED" | "NONE") {
        return Err(Refusal::new(400, 100, "The display name cannot be registered."));
    }
    if number.wrong_pins >= PIN_GUESSES {
        return Err(Refusal::new(400, 133_008, "Too many wrong PINs."));
    }
    if number.pin.as_ref().is_some_and(|known| known != pin) {
        number.wrong_pins += 1;
        return Err(Refusal::new(400, 133_005, "The PIN is not right."));
    }
    number.wrong_pins = 0;
    number.pin = Some(pin.to_owned());
    if number.new_name_status == "APPROVED" && number.new_name_until.is_some_and(|until| until > now) {
        number.name = number.new_name.take().unwrap_or_default();
        number.name_status = "APPROVED";
        number.new_name_status = "NONE";
    }
    if !number.is_connected() {
        number.status = "PENDING";
        let (id, delay) = (number.id.clone(), world.config.delays.connect_ms);
        world.after("number connects", delay, move |world| connect(world, &id));
    }
    success()
}

fn connect(world: &mut World, id: &str) {
    let now = world.now;
    let Some(number) = world.meta.numbers.get_mut(id).filter(|number| number.status == "PENDING") else { return };
    number.status = "CONNECTED";
    number.quality = "GREEN";
    number.throughput = "STANDARD";
    number.onboarded = Some(now);
    let digits = number.digits.clone();
    world.meta_change(
        &digits,
        "phone_number_quality_update",
        json!({"display_phone_number": digits, "event": "ONBOARDING",
        "max_daily_conversations_per_business": world.config.meta.tier_name()}),
    );
}

fn deregister(world: &mut World, call: &Call) -> Outcome {
    let now = world.now;
    let number = known(world, call)?;
    spend(&mut number.deregister_calls, &mut number.locked_until, now)?;
    if !matches!(number.status, "CONNECTED" | "PENDING") {
        return Err(Refusal::new(400, 100, "The number is not linked."));
    }
    number.status = "DISCONNECTED";
    number.throughput = "NOT_APPLICABLE";
    success()
}

/// A number's throughput is raised, or lowered again.
pub(crate) fn raise(world: &mut World, id: &str, high: bool) {
    let Some(number) = world.meta.numbers.get_mut(id) else { return };
    number.throughput = if high { "HIGH" } else { "STANDARD" };
    let digits = number.digits.clone();
    if high {
        let value = json!({"display_phone_number": digits, "event": "THROUGHPUT_UPGRADE", "max_daily_conversations_per_business": "TIER_UNLIMITED"});
        world.meta_change(&digits, "phone_number_quality_update", value);
    }
}

fn settings(world: &mut World, call: &Call) -> Outcome {
    known(world, call)?;
    success()
}

/// `POST /{phone}`: PIN, display name or callback.
pub(super) fn update(world: &mut World, call: &Call) -> Outcome {
    let (now, delay) = (world.now, world.config.delays.name_review_ms);
    let number = known(world, call)?;
    if let Some(pin) = call.text("pin") {
        if pin.len() != 6 || !pin.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refusal::new(400, 100, "pin has six digits."));
        }
        number.pin = Some(pin.to_owned());
        number.wrong_pins = 0;
    }
    if let Some(callback) = call.input["webhook_configuration"]["override_callback_uri"].as_str() {
        number.callback = Some(callback.to_owned()).filter(|url| !url.is_empty());
    }
    let Some(name) = call.text("new_display_name") else { return success() };
    number.renames.retain(|at| now - *at < TimeDelta::days(30));
    if number.renames.len() >= RENAMES {
        return Err(Refusal::new(400, 100, "The display name was changed too often."));
    }
    number.renames.push(now);
    number.new_name = Some(name.to_owned());
    number.new_name_status = "PENDING_REVIEW";
    let (id, name) = (number.id.clone(), name.to_owned());
    world.after("display name review", delay, move |world| {
        if world.meta.numbers.get(&id).is_none_or(|number| number.new_name.as_ref() != Some(&name)) {
            return;
        }
        let mut about = world.aliases(&world.meta.numbers[&id].digits.clone());
        about.push(name);
        let approve = !world.happens(&about, Scene::NameDeclined);
        decide_name(world, &id, approve);
    });
    success()
}
