//! Statuses: kept once; where a message stands follows from all of them, whatever their order. An attempt's name settles what
//! nobody knew.

use super::{Event, Touched};
use crate::Tools;
use chrono::{DateTime, Duration, Utc};
use domain::{Failure, LineId, MessageId, limits::retry_delay_ms, message::Status};
use durable::Tx;
use providers::{
    meta::{Class, rule},
    meta_hook::StatusUpdate,
};
use rand::Rng;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};
use store::{
    charges::{self, PricedStatus},
    news::{self, Change, Known, Standing, StatusRow, Told},
};
use uuid::Uuid;

pub(super) async fn apply(
    tools: &Tools,
    tx: &mut Tx<'_>,
    updates: &[(LineId, StatusUpdate, &Event)],
    touched: &mut Touched,
) -> Result<(), Failure> {
    if updates.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = updates.iter().filter_map(|(_, update, _)| named(update)).map(|(id, _)| id.0).collect();
    let wamids: Vec<String> =
        updates.iter().flat_map(|(_, update, _)| [update.wamid.clone(), news::erased_wamid(&update.wamid)]).collect();
    let known = news::find(tx, &ids, &wamids).await?;
    let by_wamid: HashMap<&str, &Known> = known.iter().filter_map(|k| Some((k.wamid.as_deref()?, k))).collect();
    let by_id: HashMap<MessageId, &Known> = known.iter().map(|k| (k.message_id, k)).collect();

    let mut rows = Vec::new();
    for (line, update, event) in updates {
        let by_wamid = |wamid: &str| by_wamid.get(wamid);
        let found = named(update).and_then(|(id, _)| by_id.get(&id)).or_else(|| by_wamid(&update.wamid));
        let found = found.or_else(|| by_wamid(&news::erased_wamid(&update.wamid)));
        // A status speaks for the line it came in on, and for no other.
        let Some(message) = found.filter(|message| message.line_id == *line) else {
            touched.put_aside(event, &update.wamid, "no message of ours has this id");
            continue;
        };
        let Some(status) = Status::of_meta(update.status.as_str()) else {
            touched.put_aside(event, &update.wamid, "a status that we do not know");
            continue;
        };
        let error = update.errors.first();
        rows.push(StatusRow {
            message_id: message.message_id,
            // Without a name it was found by its wamid, which is that of the present attempt.
            attempt: named(update).map_or(message.attempts, |(_, number)| number),
            wamid: update.wamid.clone(),
            status: status.name().to_owned(),
            at: update.timestamp,
            code: error.map(|error| error.code.to_string()),
            detail: error.map(|error| error.details.clone().unwrap_or_else(|| error.title.clone())),
            pricing_type: update.pricing.as_ref().and_then(|pricing| pricing.pricing_type.clone()),
            pricing_category: update.pricing.as_ref().and_then(|pricing| pricing.category.clone()),
            erased: message.erased,
        });
    }
    let fresh = news::note(tx, &rows).await?;
    let priced: Vec<PricedStatus> =
        fresh.iter().filter_map(|place| Some(priced(by_id.get(&rows[*place].message_id)?, &rows[*place]))).collect();
    charges::note(tx, &priced).await?;
    let mut news_of: BTreeMap<MessageId, Vec<&StatusRow>> = BTreeMap::new();
    for place in fresh {
        news_of.entry(rows[place].message_id).or_default().push(&rows[place]);
    }
    let ids: Vec<MessageId> = news_of.keys().copied().collect();
    let mut told: HashMap<MessageId, Vec<Told>> = HashMap::new();
    for one in news::told(tx, &ids).await? {
        told.entry(one.message_id).or_default().push(one);
    }

    let now = tools.clock.now();
    let mut standings = Vec::new();
    for (id, fresh) in news_of {
        let Some(message) = by_id.get(&id) else { continue };
        let change = change(message, &fresh, told.get(&id).map_or(&[], Vec::as_slice), now);
        if let Some(change) = &change {
            touched.statuses.push(id);
            let present = Status::read(&message.status);
            // The contact's queue was closed behind this attempt, or the message goes once more.
            if matches!(present, Some(Status::Sending | Status::Unknown)) || change.status == Status::Queued.name() {
                touched.lines.push(message.line_id);
            }
        }
        standings.push(Standing { message_id: id, change });
    }
    Ok(news::stand(tx, &standings).await?)
}

/// What the money side is told.
fn priced(message: &Known, row: &StatusRow) -> PricedStatus {
    PricedStatus {
        message_id: message.message_id,
        tenant_id: message.tenant_id,
        wamid: row.wamid.clone(),
        status: row.status.clone(),
        at: row.at,
        pricing_type: row.pricing_type.clone(),
        pricing_category: row.pricing_category.clone(),
    }
}

/// Where a message stands after all that was ever told of it, in whatever order it came: who was reached stays reached; else
/// the present attempt's news counts, and of it a failure before everything else. `None`: where it stood.
fn change(message: &Known, fresh: &[&StatusRow], told: &[Told], now: DateTime<Utc>) -> Option<Change> {
    let present = Status::read(&message.status)?;
    let status = |told: &&Told| Status::read(&told.status).unwrap_or(Status::Queued);
    let reached = told.iter().filter(|told| status(told).is_billed()).max_by_key(|told| (status(told), Reverse(told.attempt)));
    if let Some(reached) = reached {
        let same = present == status(&reached) && message.wamid.as_ref() == Some(&reached.wamid);
        return (!same).then(|| plain(status(&reached), Some(reached.wamid.clone())));
    }
    let current = || told.iter().filter(|told| told.attempt == message.attempts);
    if current().any(|told| status(&told) == Status::Failed) {
        // One that is known has been acted on.
        let failure = fresh.iter().find(|row| row.attempt == message.attempts && row.status == Status::Failed.name())?;
        return Some(fail(present, message, failure, now));
    }
    let newest = current().max_by_key(status)?;
    (status(&newest) > present).then(|| plain(status(&newest), Some(newest.wamid.clone())))
}

fn plain(status: Status, wamid: Option<String>) -> Change {
    let status = status.name();
    Change { status, wamid, due_at: None, error_code: None, error_text: None, error_class: None, waiting_for: None }
}

/// A failure after acceptance is certain: it may be tried again without a doubt, where the code says that it helps.
fn fail(present: Status, message: &Known, row: &StatusRow, now: DateTime<Utc>) -> Change {
    let rule = row.code.as_deref().and_then(|code| code.parse().ok()).and_then(rule);
    let delay = match (rule.map(|rule| rule.class), message.attempts) {
        // A person has given it up.
        _ if present == Status::Failed => None,
        (Some(Class::R), tries) => {
            u32::try_from(tries).ok().and_then(|tries| retry_delay_ms(tries, rand::rng().random())).map(Duration::milliseconds)
        }
        // Throttles and pauses told late: once more after their own delay.
        (Some(Class::T), 1) => rule.and_then(|rule| rule.delay).and_then(|delay| Duration::from_std(delay).ok()),
        _ => None,
    };
    let error = Change {
        error_code: row.code.clone(),
        error_text: row.detail.clone(),
        error_class: rule.map(|rule| format!("{:?}", rule.class)),
        ..plain(Status::Failed, Some(row.kept_wamid()))
    };
    match delay {
        Some(delay) => Change {
            status: Status::Queued.name(),
            wamid: None,
            due_at: Some(now + delay),
            waiting_for: row.detail.clone(),
            ..error
        },
        None => error,
    }
}

/// The message and number of the attempt that a status names.
fn named(update: &StatusUpdate) -> Option<(MessageId, i16)> {
    let (id, number) = update.attempt.as_deref()?.split_once('.')?;
    Some((id.parse().ok()?, number.parse().ok()?))
}
