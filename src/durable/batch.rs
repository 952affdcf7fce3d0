//! Group commit: what is asked for at the same moment is written in one transaction, and answered after its commit.

use domain::{Failure, Kind};
use sqlx::{PgConnection, PgPool};
use std::{future::Future, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// Longest batch.
const BATCH_MAX: usize = 1024;
/// Pause before a batch that the database refused for its own reasons is written again; it grows to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);

/// One kind of write: one statement, or a transaction of its own. Must bear being repeated: a commit whose answer is lost is
/// written again.
pub(crate) trait Write: Send + Sync + 'static {
    type Op: Send + Sync;
    type Answer: Send;
    /// Exactly one answer per op, in order.
    fn write(conn: &mut PgConnection, ops: &[Self::Op]) -> impl Future<Output = Result<Vec<Self::Answer>, Failure>> + Send;
}

struct Asked<W: Write> {
    op: W::Op,
    reply: oneshot::Sender<Result<W::Answer, Failure>>,
}

pub(crate) struct Batcher<W: Write>(mpsc::UnboundedSender<Asked<W>>);

impl<W: Write> Clone for Batcher<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Write> Batcher<W> {
    /// Bounded by its callers: each waits for its answer.
    pub(crate) fn spawn(db: PgPool, tasks: &mut JoinSet<()>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        tasks.spawn(work::<W>(db, receiver));
        Self(sender)
    }

    /// Written and committed, or refused for what it says; waits out every trouble of the database itself.
    pub(crate) async fn ask(&self, op: W::Op) -> Result<W::Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        let gone = || Failure::transient("the engine has stopped");
        self.0.send(Asked { op, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

async fn work<W: Write>(db: PgPool, mut asked: mpsc::UnboundedReceiver<Asked<W>>) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let (ops, replies): (Vec<_>, Vec<_>) = waiting.drain(..).map(|asked| (asked.op, asked.reply)).unzip();
        match persist::<W>(&db, &ops).await {
            Ok(answers) => {
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // Nobody waits any more: the asker was stopped.
                    let _ = reply.send(Ok(answer));
                }
            }
            // One op's data is refused, and with it the batch: each for itself.
            Err(_) if ops.len() > 1 => {
                for (op, reply) in ops.into_iter().zip(replies) {
                    let answer = persist::<W>(&db, std::slice::from_ref(&op)).await;
                    let _ = reply.send(answer.map(|mut one| one.remove(0)));
                }
            }
            Err(failure) => {
                for reply in replies {
                    let _ = reply.send(Err(failure.clone()));
                }
            }
        }
    }
}

/// Writes until it lands; only data that the database will never take is an error.
async fn persist<W: Write>(db: &PgPool, ops: &[W::Op]) -> Result<Vec<W::Answer>, Failure> {
    let mut pause = PAUSE_FIRST;
    loop {
        let failure = match once::<W>(db, ops).await {
            Ok(answers) => return Ok(answers),
            Err(failure) if failure.kind == Kind::Rejected => return Err(failure),
            Err(failure) => failure,
        };
        tracing::warn!(%failure, ops = ops.len(), "The journal could not be written; again in {} ms", pause.as_millis());
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}

async fn once<W: Write>(db: &PgPool, ops: &[W::Op]) -> Result<Vec<W::Answer>, Failure> {
    W::write(&mut *db.acquire().await?, ops).await
}
