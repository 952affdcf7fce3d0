//! A provider has news, kept in the inbox: open it and pass it to whom it concerns.

use crate::{LookAgain, NameReviewed, OrderSettled, TakeWhatsapp, Tools, capture, learn_account, learn_template};
use chrono::{DateTime, Utc};
use domain::{
    Failure, Provider,
    otp::{Heard, Source},
};
use durable::{Ctx, Job, Tx};
use providers::{
    MetaEvent, MetaNews, TelnyxEvent, TelnyxNews,
    telnyx::DeliveryQuery,
    telnyx_hook::{self, Transcription},
};
use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;
use std::time::Duration;
use store::{inbox, lines, quarantine};
use tracing::{info, warn};

/// The front enqueues it in the transaction that keeps the event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakeWebhook {
    pub provider: Provider,
    /// The inbox row's own id (Telnyx: `data.id`; Meta: hash of the body).
    pub event_id: String,
}

impl Job<Tools> for TakeWebhook {
    const QUEUE: &'static str = "take_webhook";
    const CONCURRENCY: usize = 32;
    const PATIENCE: Duration = Duration::from_secs(120);

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let Self { provider, event_id } = &self;
        if *provider == Provider::Meta {
            // Worked in order, with whatever else is there.
            return TakeWhatsapp {}.run(tools, ctx).await;
        }
        let Some(kept) = inbox::get(&tools.db, *provider, event_id).await? else { return Ok(()) };
        if kept.taken_at.is_some() {
            return Ok(());
        }
        let body = tools
            .vault
            .open(&inbox::context(*provider, event_id), &kept.body_sealed)
            .map_err(|error| Failure::rejected(format!("the body of a webhook does not open: {error}")))?;
        match telnyx_hook::parse(&body) {
            Ok(event) => telnyx(tools, ctx, &event).await?,
            Err(error) => aside(&tools.db, *provider, event_id, &kept.kind, &error.to_string()).await?,
        }
        inbox::taken(&tools.db, *provider, event_id).await?;
        Ok(())
    }
}

async fn aside(db: impl PgExecutor<'_>, provider: Provider, event_id: &str, subject: &str, reason: &str) -> Result<(), Failure> {
    warn!(inbox.event = event_id, "Put an event of {provider} aside: {reason}");
    Ok(quarantine::put(db, provider, event_id, subject, reason).await?)
}

async fn telnyx(tools: &Tools, ctx: &Ctx, event: &TelnyxEvent) -> Result<(), Failure> {
    let at = event.occurred_at.unwrap_or_else(|| ctx.clock.now());
    match event.news() {
        TelnyxNews::CallInitiated(call) if call.is_incoming() => {
            let to = call.to.as_deref().unwrap_or_default();
            let ringing = capture::Ringing { call_leg_id: &call.call_leg_id, call_control_id: &call.call_control_id, to };
            capture::ring(tools, &ringing, at).await?;
            known_number(tools, &event.id, to).await
        }
        TelnyxNews::Transcription(Transcription { call, transcript, is_final, .. }) => {
            let heard = Heard { at, text: transcript, is_final, source: Source::Live };
            capture::hear(tools, &event.id, &call.call_leg_id, &heard).await
        }
        TelnyxNews::Hangup { call, .. } => {
            // By our clock, and at the first try: the job comes again once the last words have had their time.
            if capture::hung_up(tools, &call.call_leg_id).await? { Ok(()) } else { Err(ctx.snooze(capture::LAST_WORDS_PATIENCE)) }
        }
        TelnyxNews::RecordingSaved(saved) => capture::recorded(tools, &saved.call.call_leg_id).await,
        TelnyxNews::Message(message) => {
            for to in &message.to {
                capture::text(tools, to, &message.text).await?;
                known_number(tools, &event.id, to).await?;
            }
            Ok(())
        }
        TelnyxNews::Order(order) => {
            let Some(reference) = order.customer_reference else {
                return aside(&tools.db, Provider::Telnyx, &event.id, &order.order_id, "an order without our reference").await;
            };
            let mut tx = tools.db.begin().await?;
            let news = OrderSettled { order_id: order.order_id, status: order.status.as_str().to_owned() };
            durable::signal(&mut tx, reference, &news).await?;
            Ok(tx.commit().await?)
        }
        _ => Ok(()),
    }
}

/// Calls and texts to a number that no line and no purchase of ours knows are listed for a person.
async fn known_number(tools: &Tools, event_id: &str, phone: &str) -> Result<(), Failure> {
    if lines::claims(&tools.db, phone).await? {
        return Ok(());
    }
    aside(&tools.db, Provider::Telnyx, event_id, phone, "no line has this number").await
}

/// Within the transaction that takes the event: a second connection could be one that waits for this very transaction.
pub(crate) async fn meta(tools: &Tools, tx: &mut Tx<'_>, event_id: &str, event: &MetaEvent) -> Result<(), Failure> {
    match event.news() {
        MetaNews::NumberName(name) => {
            let phone = format!("+{}", digits(&name.display_phone_number));
            if lines::by_phone(&mut **tx, &phone).await?.is_none() {
                return aside(&mut **tx, Provider::Meta, event_id, &phone, "no line has this number").await;
            }
            info!(line.phone = phone, "Meta reviewed a display name: {}", name.decision);
            let news = NameReviewed { decision: Some(name.decision), reason: name.rejection_reason, display_name: None };
            durable::signal(tx, phone, &news).await
        }
        MetaNews::Capability(capability) => {
            let cap = capability.max_numbers_per_business.or(capability.max_numbers_per_account);
            let at = event.time.unwrap_or_else(|| tools.clock.now());
            if let Some(cap) = cap.and_then(|cap| i32::try_from(cap).ok()) {
                lines::note_number_cap(&mut **tx, &event.account, cap, at).await?;
            }
            if let Some(limit) = &capability.messaging_limit {
                learn_account::people_a_day(tx, &event.account, limit).await?;
            }
            wake_waiting(tx, &event.account).await
        }
        MetaNews::AccountUpdate { event: what } => {
            info!(meta.account = event.account, "Meta changed the account: {what}");
            learn_account::update(tx, &event.account, &what, &event.value, tools.clock.now()).await?;
            wake_waiting(tx, &event.account).await
        }
        MetaNews::Template(_) | MetaNews::TemplateQuality(_) | MetaNews::TemplateRecategorised(_) => {
            if learn_template::take(tx, event).await? {
                return Ok(());
            }
            aside(&mut **tx, Provider::Meta, event_id, &event.account, "no template of ours has this name").await
        }
        MetaNews::NumberQuality(news) => {
            if learn_account::number(tx, &event.account, &news).await? {
                return Ok(());
            }
            aside(&mut **tx, Provider::Meta, event_id, &news.display_phone_number, "no line has this number").await
        }
        _ => Ok(()),
    }
}

/// Lines that wait for room on the account, or for its health, look again.
async fn wake_waiting(tx: &mut Tx<'_>, account: &str) -> Result<(), Failure> {
    for line in lines::in_the_making(&mut **tx, account).await? {
        durable::signal(tx, line, &LookAgain::default()).await?;
    }
    Ok(())
}

fn digits(printed: &str) -> String {
    printed.chars().filter(char::is_ascii_digit).collect()
}

/// An event that Telnyx kept, whether or not it reached us.
pub(crate) enum Missed {
    Text(String),
    Said { event_id: String, call_leg_id: String, heard: Heard },
}

/// What was texted and said to a number since then, from the log of webhook deliveries, oldest first.
pub(crate) async fn missed(tools: &Tools, phone: &str, since: Option<DateTime<Utc>>) -> Result<Vec<Missed>, Failure> {
    let mut missed = Vec::new();
    for event_type in ["message.received", "call.transcription"] {
        // Transcripts name no number: their leg decides whose they are.
        let contains = (event_type == "message.received").then(|| digits(phone));
        let query = DeliveryQuery { event_type: Some(event_type.to_owned()), failed: false, contains, since };
        for delivery in tools.telnyx.webhook_deliveries(&query).await? {
            let Ok(event) = telnyx_hook::parse_value(delivery.webhook) else { continue };
            let at = event.occurred_at.or(delivery.started_at).unwrap_or_else(|| tools.clock.now());
            match event.news() {
                TelnyxNews::Message(message) if message.to.iter().any(|to| to == phone) => {
                    missed.push((at, Missed::Text(message.text)))
                }
                TelnyxNews::Transcription(said) => {
                    let heard = Heard { at, text: said.transcript, is_final: said.is_final, source: Source::Live };
                    missed.push((at, Missed::Said { event_id: event.id, call_leg_id: said.call.call_leg_id, heard }));
                }
                _ => {}
            }
        }
    }
    missed.sort_by_key(|(at, _)| *at);
    Ok(missed.into_iter().map(|(_, missed)| missed).collect())
}
