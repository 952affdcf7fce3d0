//! What a due message may do: go, wait, or never go. Every reason is a sentence that people read.

use chrono::{DateTime, Duration, Utc};
use domain::limits::{ARRIVES_WITHIN_US, PairBucket};
use providers::meta::PhoneNumber;
use store::messages::Due;

/// How long a message waits whose template has no known end of its pause; its approval wakes it sooner.
const UNTIL_WOKEN: Duration = Duration::days(30);
/// How soon a full portfolio is looked at again.
pub(super) const ASK_QUOTA_AGAIN: Duration = Duration::minutes(5);

pub(super) enum Verdict {
    Go,
    Hold(DateTime<Utc>, String),
    Refuse(&'static str, String),
}

/// Consent, reachability, window and template, in the order in which Meta would refuse.
pub(super) fn judge(message: &Due, now: DateTime<Utc>) -> Verdict {
    if message.opted_out {
        return Verdict::Refuse("opted_out", "the contact does not want messages".to_owned());
    }
    if message.marketing_opted_out && message.category.as_deref() == Some("marketing") {
        return Verdict::Refuse("marketing_opted_out", "the contact does not want marketing".to_owned());
    }
    if message.content_sealed.is_none() {
        return Verdict::Refuse("content_erased", "the content was erased".to_owned());
    }
    if message.phone.is_none() && message.bsuid.is_none() {
        return Verdict::Refuse("contact_unreachable", "no phone and no user id is known for the contact".to_owned());
    }
    match (message.template_id, message.template_status.as_deref()) {
        (Some(_), Some("APPROVED")) => Verdict::Go,
        (Some(_), Some(gone @ ("REJECTED" | "DISABLED" | "DELETED" | "PENDING_DELETION" | "ARCHIVED" | "failed"))) => {
            Verdict::Refuse("template_unusable", format!("the template is {}", gone.to_lowercase()))
        }
        (Some(_), status) => {
            let status = status.unwrap_or("unknown").to_lowercase();
            Verdict::Hold(now + UNTIL_WOKEN, format!("its template, which is {status}"))
        }
        // A read mark belongs to a message we received and needs no window.
        (None, _) if message.kind == "read" => Verdict::Go,
        (None, _) if message.window_until.is_some_and(|until| until > now) => Verdict::Go,
        (None, _) => {
            Verdict::Refuse("window_closed", "24 hours have passed since the contact last wrote: send a template".to_owned())
        }
    }
}

/// Whom the portfolio counts: the user id if known, for it is what Meta counts by; else the phone.
pub(super) fn key(message: &Due) -> Option<String> {
    message.bsuid.clone().or_else(|| message.phone.clone())
}

/// A pair's bucket as its own rows tell it after any hand-over: of each attempt it is known when it was committed, and by when at
/// the latest it arrived.
pub(super) fn bucket(recent: &[DateTime<Utc>]) -> PairBucket {
    let mut bucket = PairBucket::full();
    for at in recent {
        let arrived_ms = at.timestamp_millis() + ARRIVES_WITHIN_US / 1_000;
        // A send that the bucket would have refused was sent all the same: it counts when it may.
        if let Err(later) = bucket.take(arrived_ms) {
            let _ = bucket.take(later);
        }
    }
    bucket
}

pub(super) fn tier(number: &PhoneNumber) -> Option<i32> {
    people_a_day(number.messaging_limit.as_deref().unwrap_or_default())
}

/// `TIER_2K`, or a plain number, as a number of people; `None`: no limit. A tier we do not know is taken for the smallest.
pub(crate) fn people_a_day(limit: &str) -> Option<i32> {
    match limit.trim_start_matches("TIER_") {
        "UNLIMITED" | "-1" => None,
        "2K" => Some(2_000),
        "10K" => Some(10_000),
        "100K" => Some(100_000),
        number => Some(number.parse().ok().filter(|people| *people > 0).unwrap_or(250)),
    }
}
