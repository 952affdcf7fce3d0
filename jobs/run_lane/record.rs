//! What sends came to, of all lanes of a process: recorded together, each lane answered after the commit.

use domain::{Failure, Kind};
use sqlx::PgPool;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use store::{
    messages::{self, Outcome},
    plans,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

/// Outcomes of one statement: as many as have come, or so many.
const BATCH_MAX: usize = 500;
/// How long others are waited for while there are fewer than this.
const GATHER: Duration = Duration::from_millis(10);
const GATHER_UNTIL: usize = 200;
/// Statements under way at once.
const WRITERS: usize = 2;
/// Pause before a failed write is tried again, and how often that is done.
const AGAIN: Duration = Duration::from_millis(200);
const TRIES: usize = 100;

struct Told {
    outcomes: Vec<Outcome>,
    reply: oneshot::Sender<Result<(), Failure>>,
}

/// One per process; writes while anybody tells it something.
#[derive(Default)]
pub struct Recorder(OnceLock<mpsc::UnboundedSender<Told>>);

impl Recorder {
    /// Recorded and committed when this returns. Bounded by its callers: each waits for its answer.
    pub(super) fn record(
        &self,
        db: &PgPool,
        outcomes: Vec<Outcome>,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let (reply, recorded) = oneshot::channel();
        let sender = self.0.get_or_init(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            tokio::spawn(write_all(db.clone(), receiver));
            sender
        });
        let sent = outcomes.is_empty() || sender.send(Told { outcomes, reply }).is_ok();
        async move {
            match recorded.await {
                Ok(recorded) => recorded,
                // Nothing was to be kept.
                Err(_) if sent => Ok(()),
                Err(_) => Err(Failure::transient("the recorder of outcomes has stopped")),
            }
        }
    }
}

async fn write_all(db: PgPool, mut told: mpsc::UnboundedReceiver<Told>) {
    let writers = Arc::new(Semaphore::new(WRITERS));
    loop {
        let writer = writers.clone().acquire_owned().await.expect("it is never closed");
        let Some(first) = told.recv().await else { return };
        let mut count = first.outcomes.len();
        let mut batch = vec![first];
        let until = Instant::now() + GATHER;
        while count < BATCH_MAX {
            let more = if count < GATHER_UNTIL {
                tokio::time::timeout_at(until, told.recv()).await.ok().flatten()
            } else {
                told.try_recv().ok()
            };
            let Some(more) = more else { break };
            count += more.outcomes.len();
            batch.push(more);
        }
        let db = db.clone();
        tokio::spawn(async move {
            write(&db, batch).await;
            drop(writer);
        });
    }
}

async fn write(db: &PgPool, batch: Vec<Told>) {
    let (groups, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|told| (told.outcomes, told.reply)).unzip();
    match persist(db, groups.concat()).await {
        // One lane's words are refused, and with them the batch: each for itself.
        Err(failure) if failure.kind != Kind::Transient && groups.len() > 1 => {
            for (group, reply) in groups.into_iter().zip(replies) {
                let _ = reply.send(persist(db, group).await);
            }
        }
        recorded => {
            for reply in replies {
                // Nobody waits any more: the lane was stopped.
                let _ = reply.send(recorded.clone());
            }
        }
    }
}

/// Does not give up while the database is away: an answer known and not kept is an answer lost.
async fn persist(db: &PgPool, mut outcomes: Vec<Outcome>) -> Result<(), Failure> {
    // In the order in which webhooks lock them, or the two would wait for each other.
    outcomes.sort_by_key(|outcome| outcome.message_id);
    let mut tries = 0;
    loop {
        match settle(db, &outcomes).await.map_err(Failure::from) {
            Err(failure) if tries < TRIES && failure.kind == Kind::Transient => {
                tries += 1;
                tracing::warn!(%failure, "Outcomes of {} sends wait for the database", outcomes.len());
                tokio::time::sleep(AGAIN).await;
            }
            ended => return ended,
        }
    }
}

async fn settle(db: &PgPool, outcomes: &[Outcome]) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    plans::by_key(&mut tx).await?;
    messages::settle(&mut *tx, outcomes).await?;
    tx.commit().await
}
