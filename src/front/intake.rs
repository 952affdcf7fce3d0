//! Webhooks that arrive together commit together; each is answered after its commit.

use crate::problem::{Code, Problem};
use domain::Provider;
use durable::Tx;
use jobs::{TakeWebhook, TakeWhatsapp, Tools};
use sqlx::PgPool;
use store::inbox::{self, NewEvent};
use tokio::sync::{mpsc, oneshot};

/// Events of one transaction.
const BATCH_EVENTS: usize = 256;
/// Events that wait for a transaction; beyond it the provider is asked to come again.
const WAITING_EVENTS: usize = 4_096;

type Reply = oneshot::Sender<Result<(), Code>>;

/// The way into the inbox.
pub(crate) struct Intake(mpsc::Sender<(NewEvent, Reply)>);

impl Intake {
    /// The batcher ends with its last sender.
    pub(crate) fn start(db: PgPool) -> Self {
        let (send, receive) = mpsc::channel(WAITING_EVENTS);
        tokio::spawn(batch(db, receive));
        Self(send)
    }

    /// Returns once the event is kept (or was before) and its work is queued.
    pub(crate) async fn keep(&self, event: NewEvent) -> Result<(), Problem> {
        let (reply, kept) = oneshot::channel();
        self.0.try_send((event, reply)).map_err(|_| Problem::from(Code::OVERLOADED))?;
        kept.await.map_err(|_| Code::UNAVAILABLE)?.map_err(Problem::from)
    }
}

async fn batch(db: PgPool, mut waiting: mpsc::Receiver<(NewEvent, Reply)>) {
    let mut batch = Vec::with_capacity(BATCH_EVENTS);
    while waiting.recv_many(&mut batch, BATCH_EVENTS).await > 0 {
        let (events, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let outcome = commit(&db, &events).await;
        metrics::histogram!("webhook_batch_events").record(events.len() as f64);
        let answer = outcome.map_err(|problem| problem.code);
        for reply in replies {
            // A caller that hung up does not want to know.
            let _ = reply.send(answer);
        }
    }
}

async fn commit(db: &PgPool, events: &[NewEvent]) -> Result<(), Problem> {
    let mut tx: Tx<'_> = db.begin().await?;
    let mut whatsapp = false;
    let fresh = inbox::keep(&mut tx, events).await?;
    for place in fresh.places {
        let NewEvent { provider, event_id, .. } = &events[place];
        match provider {
            Provider::Telnyx => {
                let job = TakeWebhook { provider: *provider, event_id: event_id.clone() };
                durable::enqueue::<Tools, _>(&mut tx, &job).await?;
            }
            // Worked in order and in batches: one job takes whatever is there, until nothing is.
            Provider::Meta => whatsapp = true,
        }
    }
    if whatsapp && !fresh.worked {
        durable::enqueue::<Tools, _>(&mut tx, &TakeWhatsapp {}).await?;
    }
    tx.commit().await?;
    Ok(())
}
