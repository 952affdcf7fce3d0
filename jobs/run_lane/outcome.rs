//! One call, and what its answer means for the message and for those behind it.

use crate::{Tools, upload_media};
use chrono::{DateTime, Duration, Utc};
use domain::{
    Failure, Kind, LineId,
    limits::retry_delay_ms,
    message::{Draft, Recipient, Type, render},
};
use providers::{
    Meta,
    meta::{Acceptance, Class, Lane, Sent, code_of, rule},
};
use rand::Rng;
use store::messages::{Due, Outcome, content_context};

/// How long a message rests whose throttle names no time.
const THROTTLED: Duration = Duration::minutes(15);
/// How long a message waits for an operator, a customer or a webhook; whoever resumes its lane wakes it sooner.
const UNTIL_RESUMED: Duration = Duration::days(30);
/// A marketing message that Meta's own limit refused is tried once more, a day later.
const MARKETING_TRIES: i16 = 2;

pub(super) enum Answer {
    Accepted(Sent),
    /// A read mark was taken; nothing else will be heard of it.
    Marked,
    Failed(Failure),
    /// A file of the message had to be uploaded first, which took its time: nothing was sent, and all is ready now.
    NotYet,
    /// The content could not be opened: the call was not made.
    Unreadable(String),
}

/// What an answer means beyond its own message.
pub(super) enum Effect {
    None,
    SlowLine,
    SlowPair,
    StopLine(String, Option<DateTime<Utc>>),
    /// Code, reason, until.
    StopAccount(String, String, Option<DateTime<Utc>>),
}

/// The name of an attempt, echoed by every status webhook of it.
pub(crate) fn attempt_name(due: &Due) -> String {
    format!("{}.{}", due.message_id, due.attempts + 1)
}

/// Makes the one call of this attempt.
pub(super) async fn send(tools: &Tools, meta: Meta, line: LineId, number: Option<String>, due: Due) -> (Due, Answer) {
    let Some(number) = number else {
        return (due, Answer::Failed(Failure::transient("the line has no number at Meta").code("133010")));
    };
    let mut draft = match open(tools, &due) {
        Ok(draft) => draft,
        Err(why) => return (due, Answer::Unreadable(why)),
    };
    let result = if draft.kind == Type::Read {
        let wamid = draft.content["message_id"].as_str().unwrap_or_default();
        meta.mark_read(&number, wamid, draft.content["typing"] == true).await.map(|()| Answer::Marked)
    } else {
        // The address of this moment: people change their numbers while messages wait.
        let phone = due.phone.as_deref().and_then(|phone| phone.parse().ok());
        let bsuid = due.bsuid.as_deref().and_then(|bsuid| bsuid.parse().ok());
        if phone.is_none() && bsuid.is_none() {
            return (due, Answer::Unreadable("the contact has no usable address".to_owned()));
        }
        draft.recipient = Some(Recipient { phone, bsuid });
        let mut body = render(&draft, &attempt_name(&due), None);
        match upload_media::resolve(tools, &meta, &number, due.tenant_id, line, &mut body).await {
            Ok(true) => Ok(Answer::NotYet),
            Ok(false) => meta.send(&number, &body).await.map(Answer::Accepted),
            // Nothing was sent yet: whatever was unclear of a file is no doubt about the message.
            Err(failure) if failure.kind == Kind::Unclear => Err(Failure::transient(failure.why)),
            Err(failure) => Err(failure),
        }
    };
    (due, result.unwrap_or_else(Answer::Failed))
}

/// The content as it was queued: a draft without its address, its template already filled.
fn open(tools: &Tools, due: &Due) -> Result<Draft, String> {
    let sealed = due.content_sealed.as_deref().ok_or("the content was erased")?;
    let plain = tools.vault.open(&content_context(due.message_id), sealed).map_err(|error| error.to_string())?;
    serde_json::from_slice(&plain).map_err(|error| format!("the content cannot be read: {error}"))
}

/// A committed attempt whose call was never made: queued as it was, and not counted.
pub(super) fn never_called(due: &Due, now: DateTime<Utc>) -> Outcome {
    Outcome { due_at: Some(now), counts: false, ..plain(due, "queued") }
}

/// Sorts an answer by Meta's table (contracts/meta-cloud-api.md 8).
pub(super) fn sort(due: &Due, answer: Answer, now: DateTime<Utc>) -> (Outcome, Effect) {
    match answer {
        Answer::Accepted(sent) => {
            let status = if sent.acceptance == Acceptance::Held { "held" } else { "accepted" };
            (Outcome { wamid: Some(sent.wamid), ..plain(due, status) }, Effect::None)
        }
        Answer::Marked => (plain(due, "accepted"), Effect::None),
        Answer::Unreadable(why) => {
            (told(due, "failed", &Failure::rejected(why).code("content_unreadable"), Some("D")), Effect::None)
        }
        Answer::NotYet => (never_called(due, now), Effect::None),
        Answer::Failed(failure) => failed(due, &failure, now),
    }
}

fn failed(due: &Due, failure: &Failure, now: DateTime<Utc>) -> (Outcome, Effect) {
    if failure.kind == Kind::Unclear {
        let hold_until = now + super::HOLD;
        let outcome = Outcome {
            hold_until: Some(hold_until),
            waiting_for: Some("a status that tells whether the lost attempt was sent".to_owned()),
            ..told(due, "unknown", failure, None)
        };
        return (outcome, Effect::None);
    }
    let told_wait = failure.retry_after().and_then(|wait| Duration::from_std(wait).ok());
    let Some(rule) = code_of(failure).and_then(rule) else {
        return match failure.kind {
            Kind::Transient => (again_or_fail(due, failure, told_wait, now), Effect::None),
            Kind::Throttled => (throttled(due, failure, told_wait.unwrap_or(THROTTLED), now), Effect::SlowLine),
            Kind::Unauthorized => {
                let outcome = wait(due, failure, now + UNTIL_RESUMED, "A");
                (outcome, Effect::StopLine(failure.why.clone(), None))
            }
            Kind::Rejected | Kind::Unclear => (told(due, "failed", failure, Some("X")), Effect::None),
        };
    };
    let code = rule.code.to_string();
    let delay = told_wait.or_else(|| rule.delay.and_then(|delay| Duration::from_std(delay).ok()));
    match (rule.class, rule.lane) {
        (Class::R, _) => (again_or_fail(due, failure, told_wait, now), Effect::None),
        (Class::T, Lane::Number) if rule.code == 130_429 => {
            (throttled(due, failure, delay.unwrap_or(THROTTLED), now), Effect::SlowLine)
        }
        (Class::T, Lane::Pair) => (throttled(due, failure, delay.unwrap_or(THROTTLED), now), Effect::SlowPair),
        (Class::T, Lane::ContactMarketing) if due.attempts + 1 < MARKETING_TRIES => {
            (wait(due, failure, now + delay.unwrap_or(Duration::days(1)), "T"), Effect::None)
        }
        (Class::T, Lane::ContactMarketing) => (told(due, "failed", failure, Some("T")), Effect::None),
        (Class::T, lane) => {
            let until = now + delay.unwrap_or(THROTTLED);
            let effect = match lane {
                Lane::Account | Lane::App => Effect::StopAccount(code, rule.meaning.to_owned(), Some(until)),
                _ => Effect::StopLine(rule.meaning.to_owned(), Some(until)),
            };
            (throttled(due, failure, until - now, now), effect)
        }
        (Class::W, Lane::Template) => (wait(due, failure, now + UNTIL_RESUMED, "W"), Effect::None),
        (class @ (Class::W | Class::A), lane) => {
            let outcome = Outcome { counts: false, ..wait(due, failure, now, if class == Class::W { "W" } else { "A" }) };
            let effect = match lane {
                Lane::Account | Lane::App => Effect::StopAccount(code, rule.meaning.to_owned(), None),
                _ => Effect::StopLine(rule.meaning.to_owned(), None),
            };
            (outcome, effect)
        }
        (Class::S, _) => (told(due, "failed", failure, Some("S")), Effect::None),
        (Class::X, _) => (told(due, "failed", failure, Some("X")), Effect::None),
        (Class::D, _) => {
            tracing::error!(message.id = %due.message_id, code, "Meta calls our request wrong: {failure}");
            (told(due, "failed", failure, Some("D")), Effect::None)
        }
    }
}

fn again_or_fail(due: &Due, failure: &Failure, told: Option<Duration>, now: DateTime<Utc>) -> Outcome {
    let tried = u32::try_from(due.attempts + 1).unwrap_or(u32::MAX);
    match retry_delay_ms(tried, rand::rng().random()) {
        Some(delay) => {
            let delay = told.unwrap_or_default().max(Duration::milliseconds(delay));
            wait(due, failure, now + delay, "R")
        }
        None => told_failed(due, failure),
    }
}

fn told_failed(due: &Due, failure: &Failure) -> Outcome {
    told(due, "failed", failure, Some("R"))
}

fn throttled(due: &Due, failure: &Failure, delay: Duration, now: DateTime<Utc>) -> Outcome {
    Outcome { counts: false, ..wait(due, failure, now + delay, "T") }
}

/// Queued again, until a time and with a reason.
fn wait(due: &Due, failure: &Failure, until: DateTime<Utc>, class: &str) -> Outcome {
    Outcome { due_at: Some(until), waiting_for: Some(failure.to_string()), ..told(due, "queued", failure, Some(class)) }
}

fn told(due: &Due, status: &'static str, failure: &Failure, class: Option<&str>) -> Outcome {
    Outcome {
        error_code: failure.code.clone(),
        error_text: Some(failure.why.clone()),
        error_class: class.map(str::to_owned),
        ..plain(due, status)
    }
}

fn plain(due: &Due, status: &'static str) -> Outcome {
    Outcome {
        message_id: due.message_id,
        attempt: due.attempts + 1,
        status,
        wamid: None,
        due_at: None,
        hold_until: None,
        waiting_for: None,
        error_code: None,
        error_text: None,
        error_class: None,
        counts: true,
    }
}
