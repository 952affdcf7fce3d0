//! Meta's error codes as data: what each means, what stops, for how long, and who must act (contracts/meta-cloud-api.md 8).

use super::usage;
use crate::{
    loose,
    wire::{Effect, Reply},
};
use domain::Failure;
use serde_json::Value;
use std::time::Duration;

/// What may be done about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Retry with back-off.
    R,
    /// Throttle: stop the lane, then resume.
    T,
    /// Wait until something outside changes, then queue again.
    W,
    /// Other content or another channel.
    S,
    /// Final for this message.
    X,
    /// Our defect.
    D,
    /// Stop the lane; an operator must act.
    A,
}

/// What a code stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Only the call or message itself.
    Itself,
    App,
    Token,
    Tenant,
    /// The messaging account (WABA).
    Account,
    Number,
    /// One number and one contact.
    Pair,
    /// One contact, everything.
    Contact,
    /// One contact, marketing only.
    ContactMarketing,
    Country,
    Template,
    Flow,
}

/// Who must act before it works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// Time alone.
    Nobody,
    Developer,
    Operator,
    /// The client company: pays, consents, appeals.
    Customer,
    /// Whoever wrote the template or the message.
    Author,
    /// A person at the phone.
    Human,
}

/// One documented code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRule {
    pub code: i64,
    pub class: Class,
    /// First wait; `None` where no time of waiting helps, or the usual back-off applies.
    pub delay: Option<Duration>,
    pub lane: Lane,
    pub who: Who,
    pub meaning: &'static str,
}

/// The rule of a code, if it is documented. 200-299 share one.
pub fn rule(code: i64) -> Option<&'static ErrorRule> {
    const PERMISSIONS: ErrorRule = row(299, Class::A, None, Lane::Tenant, Who::Operator, "a permission is missing");
    match ERRORS.binary_search_by_key(&code, |rule| rule.code) {
        Ok(at) => ERRORS.get(at),
        Err(_) if (200..300).contains(&code) => Some(&PERMISSIONS),
        Err(_) => None,
    }
}

/// The code of a failure from Meta, without its subcode.
pub fn code_of(failure: &Failure) -> Option<i64> {
    failure.code.as_deref()?.split('.').next()?.parse().ok()
}

const fn row(code: i64, class: Class, delay: Option<Duration>, lane: Lane, who: Who, meaning: &'static str) -> ErrorRule {
    ErrorRule { code, class, delay, lane, who, meaning }
}

const fn s(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}
const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The lock-out after more than ten registrations in 72 h (3.6): do not probe.
const REGISTER_LOCK: Option<Duration> = s(72 * HOUR);

/// Sorted by code. Classes `T` and `R` carry their first delay where the contract names one.
pub const ERRORS: &[ErrorRule] = {
    use Class::*;
    use Lane::*;
    use Who::{Author, Customer, Developer, Human, Nobody, Operator};
    &[
        row(0, A, None, Token, Operator, "Meta cannot authenticate the token"),
        row(1, R, s(1), Itself, Developer, "unknown error, or a request Meta does not understand"),
        row(2, R, s(1), Itself, Nobody, "Meta is down or overloaded"),
        row(3, A, None, Token, Operator, "the app lacks a capability"),
        row(4, T, s(15 * MINUTE), App, Nobody, "the app's call budget is used up"),
        row(10, A, None, Tenant, Operator, "permission denied"),
        row(33, A, None, Number, Operator, "the number is deleted or its id is wrong"),
        row(100, D, None, Itself, Developer, "a parameter is wrong"),
        row(190, A, None, Token, Customer, "the token has expired or was revoked"),
        row(200, A, None, Tenant, Operator, "a permission or token is missing"),
        row(368, A, None, Account, Customer, "the account is blocked for breaking a policy"),
        row(80007, T, s(15 * MINUTE), Account, Nobody, "the account's management budget is used up"),
        row(80008, T, s(15 * MINUTE), Account, Nobody, "too many templates were created"),
        row(130403, X, None, Contact, Operator, "we have blocked this user"),
        row(130429, T, s(1), Number, Nobody, "the number's throughput is used up"),
        row(130472, X, None, ContactMarketing, Nobody, "the user is in one of Meta's experiments"),
        row(130497, X, None, Country, Operator, "the account may not write to this country"),
        row(130501, D, None, Itself, Developer, "the message type is not allowed in groups"),
        row(131000, R, s(1), Itself, Operator, "unknown failure at Meta"),
        row(131005, A, None, Tenant, Operator, "a permission is missing"),
        row(131008, D, None, Itself, Developer, "a required parameter is missing"),
        row(131009, D, None, Itself, Developer, "a parameter's value is invalid"),
        row(131016, R, s(1), Itself, Nobody, "the service is unavailable"),
        row(131021, X, None, Itself, Nobody, "sender and recipient are the same"),
        row(
            131026,
            S,
            s(DAY),
            Contact,
            Nobody,
            "the message cannot be delivered: not on WhatsApp, an old app, or terms not accepted",
        ),
        row(131030, A, None, Number, Operator, "the recipient is not on the test number's list"),
        row(131031, A, None, Account, Customer, "the account is locked, or the data does not match"),
        row(131037, W, None, Number, Operator, "the number has no approved name yet"),
        row(131042, W, None, Account, Customer, "the account cannot pay"),
        row(131045, W, None, Number, Operator, "the number is not registered properly"),
        row(131047, S, None, Contact, Nobody, "more than 24 hours since the user last wrote: send a template"),
        row(131048, T, s(4 * HOUR), Number, Operator, "the number is restricted as spam"),
        row(131049, T, s(DAY), ContactMarketing, Nobody, "Meta's own limit on marketing to this user"),
        row(131050, X, None, ContactMarketing, Nobody, "the user stopped marketing messages"),
        row(131051, D, None, Itself, Developer, "the message type is not supported"),
        row(131052, X, None, Itself, Human, "the user's file could not be fetched"),
        row(131053, S, None, Itself, Author, "the file could not be uploaded or has a wrong type"),
        row(131055, D, None, Itself, Developer, "this interface takes marketing only"),
        row(131056, T, s(1), Pair, Nobody, "too many messages to the same contact"),
        row(131057, R, s(15), Number, Nobody, "the number is under maintenance"),
        row(131062, S, None, Itself, Nobody, "this message needs a phone number instead of a user id"),
        row(131063, A, None, Account, Operator, "marketing is switched off for the account"),
        row(131064, W, None, Account, Author, "limited for wrongly classified templates"),
        row(132000, D, None, Template, Developer, "the number of parameters differs from the template's"),
        row(132001, W, None, Template, Operator, "no such template in this language, or not approved"),
        row(132005, D, None, Itself, Developer, "the text is too long once filled in"),
        row(132007, X, None, Template, Author, "the content breaks a policy"),
        row(132008, D, None, Itself, Developer, "a parameter has the wrong form"),
        row(132012, D, None, Itself, Developer, "a parameter has the wrong form"),
        row(132015, W, None, Template, Author, "the template is paused"),
        row(132016, X, None, Template, Author, "the template is disabled for good"),
        row(132018, D, None, Itself, Developer, "the template's parameters are not valid"),
        row(132068, W, None, Flow, Developer, "the flow is blocked"),
        row(132069, T, s(HOUR), Flow, Developer, "the flow is throttled"),
        row(133000, W, None, Number, Nobody, "an earlier deregistration is half done: deregister, then register"),
        row(133004, R, s(1), Number, Nobody, "the registration server is unavailable"),
        row(133005, W, None, Number, Operator, "the PIN differs"),
        row(133006, W, None, Number, Human, "the number must be verified before it is registered"),
        row(133008, T, s(HOUR), Number, Nobody, "too many guesses of the PIN"),
        row(133009, T, s(5 * MINUTE), Number, Nobody, "the PIN was tried too fast"),
        row(133010, W, None, Number, Operator, "the number is not registered"),
        row(133015, T, s(5 * MINUTE), Number, Nobody, "the number was just deleted and is not yet free"),
        row(133016, T, REGISTER_LOCK, Number, Operator, "too many registrations: locked for 72 hours"),
        row(134011, A, None, Account, Operator, "the payment terms are not accepted"),
        row(134100, D, None, Itself, Developer, "this interface takes marketing templates only"),
        row(134101, T, s(10 * MINUTE), Template, Nobody, "the template is still being copied"),
        row(134102, A, None, Template, Operator, "the template cannot be used on this interface"),
        row(135000, D, None, Itself, Developer, "a parameter is wrong"),
        row(136024, W, None, Number, Human, "no code was sent: verified already, or asked too often"),
        row(136025, W, None, Number, Human, "the code was not accepted"),
        row(137000, X, None, Contact, Human, "the user's identity has changed"),
        row(139100, X, None, Itself, Operator, "the block list could not be changed"),
        row(139101, X, None, Itself, Operator, "the block list is full"),
        row(139102, R, s(1), Itself, Nobody, "the block list was changed by somebody else"),
        row(139103, R, s(1), Itself, Nobody, "the block list failed at Meta"),
        row(147001, A, None, Number, Operator, "the business username was refused"),
        row(147002, A, None, Number, Operator, "the business username was refused"),
        row(147003, A, None, Number, Operator, "the business username was refused"),
        row(147004, A, None, Number, Operator, "the business username was refused"),
        row(147005, A, None, Number, Operator, "the business username was refused"),
        row(2388012, A, None, Number, Operator, "the number cannot be moved"),
        row(2388091, A, None, Number, Operator, "ownership cannot be proved this way"),
        row(2388093, A, None, Number, Operator, "ownership cannot be proved this way"),
        row(2388103, A, None, Number, Operator, "the number cannot be moved"),
        row(2494100, R, s(MINUTE), Number, Nobody, "the number is under maintenance"),
        row(2593107, A, None, Number, Operator, "the app's history can be fetched only once"),
        row(2593108, A, None, Number, Operator, "the app's history must be fetched within a day"),
    ]
};

/// Code 100 with this subcode: the object does not exist, or we have no rights on it.
pub(super) fn is_missing(failure: &Failure) -> bool {
    failure.has_code("100.33") || failure.has_code("803") || failure.has_code("http_404")
}

/// The portfolio may register no more numbers (3.2).
pub(super) fn is_number_cap(failure: &Failure) -> bool {
    failure.code.as_deref().is_some_and(|code| code.ends_with(".1349175"))
}

/// The registration lock-out: no header shortens it, and nobody probes it.
const LOCKED_OUT: i64 = 133016;

/// The parts of an error body that decide.
struct Told {
    code: i64,
    subcode: Option<i64>,
    is_transient: bool,
    text: String,
}

fn told(body: &Value) -> Option<Told> {
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(body);
    let code = loose::as_int(error.get("code")?)?;
    let text = |name| error.get(name).and_then(loose::as_text);
    let details = match error.get("error_data") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(data) => data.get("details").and_then(loose::as_text),
        None => None,
    };
    // "(#131056) Pair limit" repeats the code, and details often repeat the message.
    let plain = |text: String| {
        text.split_once("(#").and_then(|(_, rest)| rest.split_once(") ")).map_or(text.clone(), |(_, t)| t.to_owned())
    };
    let mut texts = Vec::new();
    for text in [text("message").map(plain), details, text("error_user_msg")].into_iter().flatten() {
        if !text.is_empty() && !texts.contains(&text) {
            texts.push(text);
        }
    }
    Some(Told {
        code,
        subcode: error.get("error_subcode").and_then(loose::as_int).filter(|subcode| *subcode != 0),
        is_transient: error.get("is_transient").and_then(Value::as_bool).unwrap_or(false),
        text: texts.join("; "),
    })
}

/// A refusal as a failure. The code decides, never the status (0.15); a body without a code is in doubt from 500 on.
/// `Failure.code` is Meta's code; for the general codes 100 and 200 with a subcode, `"100.2388299"`.
pub(crate) fn sort(reply: &Reply, effect: Effect) -> Failure {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let Some(told) = told(&body) else { return without_code(reply, effect) };
    let rule = rule(told.code);
    let class = match rule {
        Some(rule) => rule.class,
        None if told.is_transient || reply.status >= 500 => Class::R,
        None => Class::X,
    };
    // A transient refusal of a documented code stays what it is, unless waiting is the only thing it lacks.
    let class = if told.is_transient && matches!(class, Class::X | Class::D) { Class::R } else { class };
    let asked = reply.wait().or_else(|| usage::regain(reply));
    let meaning = rule.map(|rule| rule.meaning);
    let why = match (meaning, told.text.as_str()) {
        (Some(meaning), "") => format!("Meta: {meaning}"),
        (Some(meaning), text) => format!("Meta: {meaning} ({text})"),
        (None, "") => format!("Meta answered {} with code {}", reply.status, told.code),
        (None, text) => format!("Meta: {text}"),
    };
    let failure = match class {
        Class::R => {
            let failure = Failure::transient(why);
            match asked.or_else(|| rule.and_then(|rule| rule.delay)) {
                Some(wait) => failure.after(wait),
                None => failure,
            }
        }
        Class::T => {
            let named = rule.and_then(|rule| rule.delay).unwrap_or(THROTTLE_DEFAULT);
            Failure::throttled(why, asked.filter(|_| told.code != LOCKED_OUT).unwrap_or(named))
        }
        Class::A => Failure::unauthorized(why),
        Class::W | Class::S | Class::X | Class::D => Failure::rejected(why),
    };
    failure.code(match (told.code, told.subcode) {
        (100 | 200, Some(subcode)) => format!("{}.{subcode}", told.code),
        (code, _) => code.to_string(),
    })
}

/// For throttles that name no time.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(MINUTE);

fn without_code(reply: &Reply, effect: Effect) -> Failure {
    let why = format!("Meta answered {} without an error code", reply.status);
    let failure = match reply.status {
        401 => Failure::unauthorized(why),
        429 => Failure::throttled(why, THROTTLE_DEFAULT),
        408 | 500.. => effect.in_doubt(why),
        _ => Failure::rejected(why),
    };
    let failure = match reply.wait() {
        Some(wait) if matches!(reply.status, 429 | 500..) => failure.after(wait),
        _ => failure,
    };
    failure.code(format!("http_{}", reply.status))
}

/// Meta's id of an exchange, for its support.
pub(super) fn trace(reply: &Reply) -> Option<String> {
    let header = || reply.header("x-fb-trace-id").or_else(|| reply.header("x-fb-request-id")).map(str::to_owned);
    if reply.succeeded() {
        return header();
    }
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    body.get("error")?.get("fbtrace_id").and_then(loose::as_text).or_else(header)
}
