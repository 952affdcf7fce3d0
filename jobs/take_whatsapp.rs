//! What WhatsApp says, worked in the order of arrival and in batches: statuses, messages, and everything about accounts.
//!
//! One transaction works one batch of the inbox: it is applied and marked as taken together, so a crash repeats it whole and
//! changes nothing twice.

mod messages;
mod people;
mod statuses;

use crate::{Tools, run_lane, take_webhook};
use domain::{Failure, Kind, LineId, MessageId, Provider, TenantId};
use durable::{Ctx, Job, Tx};
use futures_util::FutureExt as _;
use providers::{MetaEvent, MetaNews, meta_hook};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, panic::AssertUnwindSafe, time::Duration};
use store::{
    inbox::{self, Waiting},
    news,
    quarantine::{self, Aside},
};
use tokio::time::Instant;
use tracing::warn;

/// Deliveries worked in one transaction.
const BATCH: usize = 256;
/// Events worked in one transaction, unless a single delivery holds more.
const BATCH_EVENTS: usize = 2_000;
/// Two that waited for each other: the batch is worked again at once, so often.
const DEADLOCKS_MAX: usize = 5;

/// One activation works this long, then lets the next one begin.
const SLICE: Duration = Duration::from_secs(60);

/// Enqueued with deliveries that the front keeps, unless one is at work that will see them ([`inbox::keep`]).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TakeWhatsapp {}

impl Job<Tools> for TakeWhatsapp {
    const QUEUE: &'static str = "take_whatsapp";
    /// One works, one waits for it to end and takes what came meanwhile.
    const CONCURRENCY: usize = 2;
    const PATIENCE: Duration = Duration::from_secs(300);

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let (begun, mut limit, mut deadlocks) = (Instant::now(), BATCH, 0);
        loop {
            if begun.elapsed() > SLICE || ctx.stopping.is_cancelled() {
                return Err(ctx.snooze(Duration::ZERO));
            }
            let mut tx = tools.db.begin().await?;
            let waiting = inbox::next(&mut tx, Provider::Meta, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
            if waiting.is_empty() {
                let done = inbox::is_done(&mut tx, Provider::Meta).await?;
                tx.rollback().await?;
                if done {
                    return Ok(());
                }
                continue;
            }
            let worked = match AssertUnwindSafe(batch(tools, &mut tx, &waiting)).catch_unwind().await {
                Ok(Ok(())) => tx.commit().await.map_err(Failure::from),
                Ok(Err(failure)) => Err(failure),
                // The panic hook has said where; the payload may hold what nobody should read.
                Err(_) => Err(Failure::rejected("it panicked")),
            };
            match worked {
                Ok(()) => limit = (limit * 2).min(BATCH),
                // One of them cannot be worked: find it by halves and put it aside, the others go on.
                Err(failure) if failure.kind == Kind::Rejected => match waiting.as_slice() {
                    [poison] => set_aside(tools, poison, &failure).await?,
                    many => limit = many.len().div_ceil(2),
                },
                Err(failure) if failure.code.as_deref() == Some(DEADLOCK) && deadlocks < DEADLOCKS_MAX => deadlocks += 1,
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// PostgreSQL ended the transaction for another's sake.
const DEADLOCK: &str = "sql_40P01";

/// One event with the delivery it came in.
pub(crate) struct Event {
    delivery: String,
    event: MetaEvent,
}

/// What a batch has touched; told, woken and put aside at its end.
#[derive(Default)]
struct Touched {
    statuses: Vec<MessageId>,
    received: Vec<MessageId>,
    lines: Vec<LineId>,
    aside: Vec<Aside>,
    /// Deliveries that hold more than messages and their statuses: echoes, accounts, fields that we do not know.
    evidence: HashSet<String>,
}

impl Touched {
    fn put_aside(&mut self, event: &Event, subject: &str, reason: &str) {
        self.aside.push(Aside { event_id: event.delivery.clone(), subject: subject.to_owned(), reason: reason.to_owned() });
    }
}

/// Works these deliveries, or the first of them if they hold much.
async fn batch(tools: &Tools, tx: &mut Tx<'_>, waiting: &[Waiting]) -> Result<(), Failure> {
    let mut touched = Touched::default();
    let (mut events, mut ids) = (Vec::new(), Vec::new());
    for delivery in waiting {
        let opened = tools.vault.open(&inbox::context(Provider::Meta, &delivery.event_id), &delivery.body_sealed);
        let parsed =
            opened.map_err(|error| error.to_string()).and_then(|body| meta_hook::parse(&body).map_err(|error| error.to_string()));
        match parsed {
            Ok(parsed) if !ids.is_empty() && events.len() + parsed.len() > BATCH_EVENTS => break,
            Ok(parsed) => events.extend(parsed.into_iter().map(|event| Event { delivery: delivery.event_id.clone(), event })),
            Err(reason) => {
                touched.aside.push(Aside { event_id: delivery.event_id.clone(), subject: delivery.kind.clone(), reason });
            }
        }
        ids.push(delivery.event_id.clone());
    }
    apply(tools, tx, &events, &mut touched).await?;
    quarantine::put_all(&mut **tx, Provider::Meta, &touched.aside).await?;
    let spent: Vec<String> = ids.iter().filter(|id| !touched.evidence.contains(*id)).cloned().collect();
    inbox::all_taken(tx, Provider::Meta, &ids, &spent).await?;
    // Last of all: readers of events wait for whoever has begun to tell.
    news::tell(tx, &touched.received).await?;
    if !touched.statuses.is_empty() {
        store::messages::tell(&mut **tx, &touched.statuses).await?;
    }
    Ok(())
}

async fn set_aside(tools: &Tools, delivery: &Waiting, failure: &Failure) -> Result<(), Failure> {
    warn!(inbox.event = delivery.event_id, "Put a delivery of Meta aside: {failure}");
    let mut tx = tools.db.begin().await?;
    quarantine::put(&mut *tx, Provider::Meta, &delivery.event_id, &delivery.kind, &failure.to_string()).await?;
    inbox::all_taken(&mut tx, Provider::Meta, std::slice::from_ref(&delivery.event_id), &[]).await?;
    Ok(tx.commit().await?)
}

async fn apply(tools: &Tools, tx: &mut Tx<'_>, events: &[Event], touched: &mut Touched) -> Result<(), Failure> {
    let mut numbers: Vec<String> = events.iter().filter_map(|e| e.event.phone_number_id()).collect();
    if events.is_empty() {
        return Ok(());
    }
    numbers.sort();
    numbers.dedup();
    let lines = news::lines(&mut **tx, &numbers).await?;
    let mut about_statuses = Vec::new();
    let mut about_messages: Vec<messages::Inbound<'_>> = Vec::new();
    let mut about_people: Vec<(TenantId, MetaNews)> = Vec::new();
    for event in events {
        let number = event.event.phone_number_id();
        let line = number.as_ref().and_then(|number| lines.get(number));
        match (event.event.news(), line) {
            (MetaNews::Status(status), Some((line, _))) => about_statuses.push((*line, *status, event)),
            (MetaNews::Message(message), Some((line, tenant))) => about_messages.push((*tenant, *line, message, event)),
            (news @ (MetaNews::Preference(_) | MetaNews::UserId(_)), Some((_, tenant))) => {
                touched.evidence.insert(event.delivery.clone());
                about_people.push((*tenant, news));
            }
            (
                MetaNews::Status(_) | MetaNews::Message(_) | MetaNews::Preference(_) | MetaNews::UserId(_) | MetaNews::Errors(_),
                None,
            ) => touched.put_aside(event, number.as_ref().unwrap_or(&event.event.account), "no line of ours has this number"),
            (MetaNews::Errors(errors), Some((line, _))) => {
                touched.evidence.insert(event.delivery.clone());
                for error in errors {
                    warn!(line.id = %line, error.code, "Meta reports trouble of a line: {}", error.title);
                }
            }
            _ => {
                touched.evidence.insert(event.delivery.clone());
                take_webhook::meta(tools, tx, &event.delivery, &event.event).await?;
            }
        }
    }
    // People first: a message of this batch may come from a new name.
    people::apply(tools, tx, &about_people).await?;
    messages::apply(tools, tx, &about_messages, touched).await?;
    statuses::apply(tools, tx, &about_statuses, touched).await?;
    run_lane::wake(tx, &touched.lines).await
}
