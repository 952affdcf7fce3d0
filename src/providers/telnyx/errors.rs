//! What Telnyx's error codes mean for us, as data (contracts/telnyx.md 2.2-2.4).

use super::THROTTLE_DEFAULT;
use crate::{
    loose,
    wire::{Effect, Reply},
};
use domain::Failure;
use serde::Deserialize;

/// How a code is acted on; it becomes a [`domain::Kind`] with the call's own nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// The answer is no.
    Refused,
    /// It did not happen; the same again later may work.
    Again,
    /// It may have happened: unclear for a call that must not be repeated blindly, else transient.
    Doubt,
    /// Too fast.
    Slow,
    /// Our key, account or funds: a person must act.
    Operator,
}

/// One documented code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorRule {
    pub code: &'static str,
    pub sort: Sort,
    pub meaning: &'static str,
}

/// The rule of a code, if it is documented.
pub fn rule(code: &str) -> Option<&'static ErrorRule> {
    ERRORS.iter().find(|rule| rule.code == code)
}

const fn row(code: &'static str, sort: Sort, meaning: &'static str) -> ErrorRule {
    ErrorRule { code, sort, meaning }
}

/// contracts/telnyx.md 2.3. Code 10011 means "too fast" only with status 429.
pub const ERRORS: &[ErrorRule] = &[
    row("10001", Sort::Again, "the number is not active yet"),
    row("10002", Sort::Refused, "the phone number is malformed"),
    row("10004", Sort::Refused, "a required parameter is missing"),
    row("10005", Sort::Refused, "there is no such resource"),
    row("10006", Sort::Refused, "the resource id is malformed"),
    row("10007", Sort::Doubt, "unexpected error at Telnyx"),
    row("10008", Sort::Doubt, "Telnyx timed out"),
    row("10009", Sort::Operator, "authentication failed"),
    row("10010", Sort::Operator, "the key has no permission for this"),
    row("10012", Sort::Refused, "the resource exists already"),
    row("10015", Sort::Refused, "bad request"),
    row("10016", Sort::Refused, "the phone number is not in E.164 form"),
    row("10021", Sort::Refused, "the resource is still in use"),
    row("10027", Sort::Refused, "the request cannot be processed"),
    row("10035", Sort::Again, "the resource is locked"),
    row("10036", Sort::Again, "the resource is being processed"),
    row("10037", Sort::Doubt, "Telnyx is unavailable"),
    row("10038", Sort::Operator, "the account's level is too low"),
    row("10039", Sort::Operator, "the limit of the account's level is reached"),
    row("20001", Sort::Operator, "the API key is missing"),
    row("20002", Sort::Operator, "the API key is malformed"),
    row("20003", Sort::Operator, "the API key is unknown"),
    row("20006", Sort::Operator, "the API key has expired"),
    row("20008", Sort::Operator, "the API key was revoked"),
    row("20012", Sort::Operator, "the account is inactive"),
    row("20013", Sort::Operator, "the account is blocked"),
    row("20014", Sort::Operator, "the account is not verified"),
    row("20015", Sort::Operator, "the feature is off for this account"),
    row("20016", Sort::Operator, "the account needs level 1"),
    row("20017", Sort::Operator, "the account needs level 2"),
    row("20100", Sort::Operator, "the account has too little money"),
    row("40312", Sort::Refused, "the messaging profile is disabled"),
    row("40314", Sort::Refused, "messaging is off for the account"),
    row("40323", Sort::Refused, "messaging could not be enabled on the number"),
    row("85000", Sort::Refused, "the number was not searched for before it was ordered"),
    row("85001", Sort::Refused, "the number is no longer available"),
    row("85002", Sort::Refused, "the number is not in this order"),
    row("85003", Sort::Refused, "the requirements are met already"),
    row("85004", Sort::Refused, "the connection id is wrong"),
    row("85005", Sort::Refused, "the messaging profile id is wrong"),
    row("85006", Sort::Refused, "the number is reserved already"),
    row("85007", Sort::Slow, "too many active reservations"),
    row("85008", Sort::Refused, "the reservation cannot be extended again"),
    row("90015", Sort::Refused, "the call id is wrong"),
    row("90017", Sort::Refused, "the client state is not base64"),
    row("90018", Sort::Refused, "the call has ended"),
    row("90020", Sort::Again, "the call has no audio yet"),
    row("90034", Sort::Again, "the call is not answered yet"),
    row("90053", Sort::Refused, "recording with a timeout is impossible while transcribing"),
    row("90054", Sort::Refused, "transcription is on already"),
    row("90055", Sort::Refused, "transcription cannot be stopped"),
    row("90102", Sort::Refused, "only inbound calls can be answered"),
];

#[derive(Deserialize)]
struct Envelope {
    #[serde(default, deserialize_with = "loose::list")]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default, deserialize_with = "loose::text")]
    code: String,
    #[serde(default, deserialize_with = "loose::text")]
    title: String,
    #[serde(default, deserialize_with = "loose::text")]
    detail: String,
    #[serde(default, deserialize_with = "loose::text")]
    description: String,
}

/// The thing asked for does not exist.
pub(super) fn is_missing(failure: &Failure) -> bool {
    failure.has_code("10005") || failure.has_code("404")
}

/// A refusal as a failure: by documented code first, by status second.
pub(crate) fn sort(reply: &Reply, effect: Effect) -> Failure {
    const TOO_MANY: u16 = 429;
    let entries = serde_json::from_slice::<Envelope>(&reply.body).map(|envelope| envelope.errors).unwrap_or_default();
    let entry = entries.iter().find(|entry| rule(&entry.code).is_some()).or(entries.first());
    let by_code = entry.and_then(|entry| rule(&entry.code)).map(|rule| rule.sort);
    let sort = if reply.status == TOO_MANY { Sort::Slow } else { by_code.unwrap_or_else(|| by_status(reply.status)) };
    let why = match entry {
        Some(entry) => {
            let detail = if entry.detail.is_empty() { &entry.description } else { &entry.detail };
            [entry.title.as_str(), detail.as_str()].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(": ")
        }
        None => String::new(),
    };
    let why = if why.is_empty() { format!("Telnyx answered {}", reply.status) } else { format!("Telnyx: {why}") };
    let mut failure = match sort {
        Sort::Refused => Failure::rejected(why),
        Sort::Again => Failure::transient(why),
        Sort::Doubt => effect.in_doubt(why),
        Sort::Slow => Failure::throttled(why, THROTTLE_DEFAULT),
        Sort::Operator => Failure::unauthorized(why),
    };
    if !matches!(sort, Sort::Refused | Sort::Operator)
        && let Some(wait) = reply.wait()
    {
        failure = failure.after(wait);
    }
    match entry {
        Some(entry) if !entry.code.is_empty() => failure.code(&entry.code),
        _ => failure.code(reply.status.to_string()),
    }
}

fn by_status(status: u16) -> Sort {
    match status {
        401..=403 => Sort::Operator,
        408 | 500.. => Sort::Doubt,
        _ => Sort::Refused,
    }
}
