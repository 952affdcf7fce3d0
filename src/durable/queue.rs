//! Jobs: enqueue in your transaction, retry with back-off, snooze; the only file that names apalis types.
//!
//! apalis keeps the schema, the dequeue function (ours by `schema.sql`), the worker runtime and its layers. Ours are the fetch
//! (NOTIFY and a net, never more than there are free hands), the fenced and batched acknowledgement, and the lease.

use crate::{
    Clock, Tx,
    batch::Write,
    journal::json_of,
    lease::Lease,
    run::{default_delay, panic_text},
};
use apalis_core::{
    backend::{Backend, BackendConfig, finalize::Ephemeral},
    task::{Task, builder::TaskBuilder, task_id::TaskId},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_postgres::PostgresStorage;
use chrono::{DateTime, Utc};
use domain::{Failure, Kind};
use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Acquire, PgConnection, PgPool, Row};
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

/// The queue of activations, one row per run that is awake.
pub(crate) const RUNS: &str = "durable.run";
/// Workers that one activation may take down with it before its run is parked.
pub(crate) const CRASHES_MAX: i32 = 50;
/// Rows that one fetch takes at most.
const FETCH_MAX: usize = 512;
/// Pause after a fetch that failed.
const FETCH_PAUSE: Duration = Duration::from_millis(500);
/// How often a job whose keys are refused tries again.
const PERSON_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What a throttle that names no wait costs.
const THROTTLE_WAIT: Duration = Duration::from_secs(1);

/// One unit of work: the struct is the payload, `run` is the work.
pub trait Job<T>: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Queue name as stored; never rename.
    const QUEUE: &'static str;
    /// How many run at once in one process.
    const CONCURRENCY: usize = 8;
    /// Attempts before the job is dead.
    const ATTEMPTS: i32 = 25;
    /// One attempt's time limit.
    const PATIENCE: Duration = Duration::from_secs(60);
    fn run(self, tools: &T, ctx: &Ctx) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// What a running job is told about itself.
#[derive(Debug, Clone)]
pub struct Ctx {
    pub clock: Clock,
    /// From 1; snoozes and throttles do not count.
    pub attempt: i32,
    /// Cancelled when the engine is told to stop: a long job hands back what it has not begun.
    pub stopping: CancellationToken,
}

impl Ctx {
    /// Run this job again after `wait`, without counting an attempt (return it as the job's error).
    pub fn snooze(&self, wait: Duration) -> Failure {
        Failure::throttled("snoozed", wait)
    }
}

/// When and how a job is queued.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// At most one job per queue and key exists; a second enqueue makes none. If that one has begun by the time the second's
    /// transaction commits, it runs once more, since it may already have looked past the cause (then as soon as it is done, and
    /// in rare races a second later). The key is free again when the job is done or dead.
    pub key: Option<String>,
    pub run_at: Option<DateTime<Utc>>,
    /// Higher first.
    pub priority: i32,
}

pub async fn enqueue<T, J: Job<T>>(tx: &mut Tx<'_>, job: &J) -> Result<(), Failure> {
    enqueue_with(tx, job, Options::default()).await.map(|_| ())
}

/// Says whether a job was queued (`false`: the key is already there).
pub async fn enqueue_with<T, J: Job<T>>(tx: &mut Tx<'_>, job: &J, options: Options) -> Result<bool, Failure> {
    push(tx, J::QUEUE, J::ATTEMPTS, json_of(job)?, options).await
}

pub(crate) async fn push(
    tx: &mut Tx<'_>,
    queue: &str,
    attempts: i32,
    payload: String,
    options: Options,
) -> Result<bool, Failure> {
    let wanted = sqlx::query(
        "with queued as (
             insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key)
             values ($1, $2, $3, 'Pending', 0, $4, coalesce($5, durable.now()), $6, $7) on conflict do nothing returning id
         )
         insert into durable.wanted (queue, key, payload, max_attempts) select $2, $7, $3, $4 where not exists (select from queued)",
    )
    .bind(ulid(Uuid::now_v7()))
    .bind(queue)
    .bind(payload.into_bytes())
    .bind(attempts)
    .bind(options.run_at)
    .bind(options.priority)
    .bind(options.key)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    Ok(wanted == 0)
}

/// apalis spells its ids as ULIDs: 26 digits of Crockford's base 32.
pub(crate) fn ulid(id: Uuid) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = id.as_u128();
    (0..26).rev().map(|place| char::from(DIGITS[usize::from((bits >> (5 * place)) as u8 & 31)])).collect()
}

pub(crate) async fn setup(db: &PgPool) -> Result<(), Failure> {
    PostgresStorage::<()>::setup(db).await.map_err(|error| Failure::transient(format!("apalis's migrations: {error}")))
}

/// The last migration of apalis's that this database has seen.
pub(crate) async fn version(tx: &mut Tx<'_>) -> Result<Option<i64>, Failure> {
    let version =
        sqlx::query_scalar("select max(version) from apalis._sqlx_migrations where success").fetch_one(&mut **tx).await?;
    Ok(version)
}

// --- fetch

/// A job's row, the name that it was fetched under and when: who fetches it again, even under the same name, has another claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClaimId {
    pub(crate) job: String,
    pub(crate) worker: Arc<str>,
    pub(crate) at: DateTime<Utc>,
}

impl ClaimId {
    /// As three arrays, one per column.
    pub(crate) fn columns<'c>(claims: impl Iterator<Item = &'c Self>) -> (Vec<&'c str>, Vec<&'c str>, Vec<DateTime<Utc>>) {
        let (mut jobs, mut workers, mut ats) = (vec![], vec![], vec![]);
        for claim in claims {
            jobs.push(claim.job.as_str());
            workers.push(&*claim.worker);
            ats.push(claim.at);
        }
        (jobs, workers, ats)
    }
}

/// A job in hand.
pub(crate) struct Claim {
    pub(crate) id: ClaimId,
    pub(crate) payload: Vec<u8>,
    /// Counted so far, orphanings included.
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
    /// A free hand, taken until the work is over.
    _hand: OwnedSemaphorePermit,
    _held: Held,
}

/// What this process has in hand of one queue: a claim says so as long as it lives.
type InHand = Arc<Mutex<HashSet<ClaimId>>>;

struct Held {
    id: ClaimId,
    all: InHand,
}

impl Held {
    fn new(id: ClaimId, all: &InHand) -> Self {
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Self { id, all: all.clone() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

pub(crate) type Handler = Arc<dyn Fn(Claim) -> BoxFuture<'static, ()> + Send + Sync>;

/// One queue as this process works it.
pub(crate) struct Queue {
    pub(crate) name: &'static str,
    pub(crate) concurrency: usize,
    /// Rung when there may be something due.
    pub(crate) bell: Arc<Notify>,
    pub(crate) handler: Handler,
}

/// apalis's view of the fetch loop: a stream of claims that never fails.
struct Source(mpsc::UnboundedReceiver<Claim>);

impl Backend for Source {
    type Task = Task<Claim>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Option<Result<Task<Claim>, Infallible>>> {
        self.0.poll_recv(cx).map(|claim| {
            claim.map(|claim| {
                let id = TaskId::from_string(claim.id.job.clone());
                Ok(TaskBuilder::new(claim).task_id(id).build())
            })
        })
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Source {
    type Args = Claim;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = tower::layer::util::Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        tower::layer::util::Identity::new()
    }
}

/// Works one queue until the lease's owner stops, then until what is in hand is finished. Dropping it aborts what is in hand.
pub(crate) fn work(queue: Queue, db: PgPool, lease: Lease) -> BoxFuture<'static, Result<(), Failure>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let Queue { name, concurrency, bell, handler } = queue;
    // A task of its own per job, so that jobs share the cores; aborted with the worker.
    let spawn = move |claim: Claim| isolated(name, AbortOnDropHandle::new(tokio::spawn(handler(claim))));
    // Boxed here and not inside the async block: the compiler cannot prove apalis's future `Send` there.
    let mut events = WorkerBuilder::new(name).backend(Source(receiver)).build(spawn).stream().boxed();
    async move {
        // It ends once told to stop and all is worked. The worker does not: when its source ends, apalis waits for a stop.
        let mut fetching = AbortOnDropHandle::new(tokio::spawn(fetch(name, concurrency, bell, db, lease, sender)));
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => drop(event.map_err(|error| Failure::transient(format!("apalis's worker: {error}")))?),
                    None => return Ok(()),
                },
                _ = &mut fetching => return Ok(()),
            }
        }
    }
    .boxed()
}

fn isolated(queue: &'static str, work: AbortOnDropHandle<()>) -> BoxFuture<'static, ()> {
    async move {
        if let Err(error) = work.await {
            tracing::error!(queue, %error, "A job's task broke");
        }
    }
    .boxed()
}

async fn fetch(
    name: &'static str,
    concurrency: usize,
    bell: Arc<Notify>,
    db: PgPool,
    lease: Lease,
    sender: mpsc::UnboundedSender<Claim>,
) {
    let hands = Arc::new(Semaphore::new(concurrency));
    let in_hand = InHand::default();
    // A fetch whose answer was lost may have claimed: until that is undone, nothing more is fetched.
    let mut unclear = false;
    let stopping = lease.stopping().clone();
    while let Some(Ok(first)) = stopping.run_until_cancelled(hands.clone().acquire_owned()).await {
        // Nothing is claimed that could not be begun: neither more than there are hands, nor without a lease.
        let mut free = vec![first];
        while free.len() < FETCH_MAX
            && let Ok(hand) = hands.clone().try_acquire_owned()
        {
            free.push(hand);
        }
        let wanted = free.len();
        let claimed = async {
            if unclear {
                give_back(&db, name, &lease, &in_hand).await?;
            }
            if lease.may_act() { claim(&db, name, &lease, &mut free, &in_hand).await } else { Ok(Vec::new()) }
        };
        match claimed.await {
            Ok(claims) => {
                unclear = false;
                let full = claims.len() == wanted;
                for claim in claims {
                    // The receiver is gone only if the worker is, and everything with it.
                    let _ = sender.send(claim);
                }
                drop(free);
                if !full && stopping.run_until_cancelled(bell.notified()).await.is_none() {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(queue = name, %error, "Jobs could not be fetched");
                unclear = true;
                if stopping.run_until_cancelled(tokio::time::sleep(FETCH_PAUSE)).await.is_none() {
                    break;
                }
            }
        }
    }
    // What is in hand is finished first: every job holds its hand until then.
    let _idle = hands.acquire_many(u32::try_from(concurrency).unwrap_or(u32::MAX)).await;
}

/// Puts back what is claimed in our name and not in our hands: the answer to that claim was lost. Only the fetch loop claims, so
/// nothing can be on its way.
async fn give_back(db: &PgPool, queue: &str, lease: &Lease, in_hand: &InHand) -> sqlx::Result<()> {
    let held: Vec<ClaimId> = in_hand.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
    let (jobs, _, ats) = ClaimId::columns(held.iter());
    let back = sqlx::query(
        "update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null
         where job_type = $1 and lock_by = $2 and (id, lock_at) not in (select * from unnest($3::text[], $4::timestamptz[]))",
    )
    .bind(queue)
    .bind(&*lease.name())
    .bind(jobs)
    .bind(ats)
    .execute(db)
    .await?
    .rows_affected();
    if back > 0 {
        tracing::warn!(queue, jobs = back, "Jobs were claimed by a fetch whose answer was lost; they are free again");
    }
    Ok(())
}

async fn claim(
    db: &PgPool,
    queue: &str,
    lease: &Lease,
    hands: &mut Vec<OwnedSemaphorePermit>,
    in_hand: &InHand,
) -> sqlx::Result<Vec<Claim>> {
    let worker = lease.name();
    let rows = sqlx::query("select id, job, attempts, max_attempts, lock_at from apalis.get_jobs($1, $2, $3)")
        .bind(&*worker)
        .bind(queue)
        .bind(i32::try_from(hands.len()).unwrap_or(i32::MAX))
        .fetch_all(db)
        .await?;
    let mut claims = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(hand) = hands.pop() else { break };
        let id = ClaimId { job: row.try_get(0)?, worker: worker.clone(), at: row.try_get(4)? };
        claims.push(Claim {
            _held: Held::new(id.clone(), in_hand),
            id,
            payload: row.try_get(1)?,
            attempts: row.try_get(2)?,
            max_attempts: row.try_get(3)?,
            _hand: hand,
        });
    }
    Ok(claims)
}

// --- work and acknowledge

/// A queue's handler for jobs of type `J`.
pub(crate) fn handler<T: Send + Sync + 'static, J: Job<T>>(
    tools: Arc<T>,
    clock: Clock,
    acks: crate::batch::Batcher<Ack>,
    lease: Lease,
) -> Handler {
    Arc::new(move |claim| {
        let (tools, clock, acks, lease) = (tools.clone(), clock.clone(), acks.clone(), lease.clone());
        async move {
            let ctx = Ctx { clock, attempt: claim.attempts + 1, stopping: lease.stopping().clone() };
            let outcome = attempt::<T, J>(&tools, &ctx, &claim).await;
            if let Outcome::Again { delay, .. } = &outcome {
                lease.due_in(*delay);
            }
            let op = AckOp { claim: claim.id.clone(), queue: J::QUEUE, outcome };
            if let Err(failure) = acks.ask(op).await {
                tracing::error!(job = claim.id.job, queue = J::QUEUE, "A job could not be acknowledged: {failure}");
            }
        }
        .boxed()
    })
}

async fn attempt<T: Send + Sync + 'static, J: Job<T>>(tools: &T, ctx: &Ctx, claim: &Claim) -> Outcome {
    if claim.attempts >= claim.max_attempts {
        return Outcome::Dead(Failure::rejected(format!("given up after {} attempts", claim.attempts)));
    }
    let began = Instant::now();
    // Reading may panic too.
    let work = async {
        let job: J = serde_json::from_slice(&claim.payload)
            .map_err(|error| Failure::rejected(format!("the payload cannot be read: {error}")).code("payload"))?;
        job.run(tools, ctx).await
    };
    let outcome = tokio::time::timeout(J::PATIENCE, AssertUnwindSafe(work).catch_unwind()).await;
    metrics::histogram!("durable_job_seconds", "queue" => J::QUEUE).record(began.elapsed().as_secs_f64());
    let failure = match outcome {
        Ok(Ok(Ok(()))) => return Outcome::Done,
        Ok(Ok(Err(failure))) => failure,
        Ok(Err(panic)) => Failure::transient(format!("panicked: {}", panic_text(&*panic))).code("panic"),
        Err(_) => Failure::unclear(format!("not done within {} s", J::PATIENCE.as_secs())).code("timeout"),
    };
    match failure.kind {
        Kind::Throttled => Outcome::Again { delay: failure.retry_after().unwrap_or(THROTTLE_WAIT), counted: 0, failure },
        Kind::Unauthorized => Outcome::Again { delay: PERSON_PATIENCE, counted: 0, failure },
        Kind::Rejected => Outcome::Dead(failure),
        Kind::Transient | Kind::Unclear if ctx.attempt >= claim.max_attempts => Outcome::Dead(failure),
        Kind::Transient | Kind::Unclear => {
            let delay = default_delay(ctx.attempt);
            Outcome::Again { delay: failure.retry_after().map_or(delay, |told| told.max(delay)), counted: 1, failure }
        }
    }
}

/// What becomes of a job's row.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It goes (unless the job was wanted again meanwhile).
    Done,
    Again {
        delay: Duration,
        counted: i32,
        failure: Failure,
    },
    /// It stays for people to see, and frees its key.
    Dead(Failure),
    /// Handed back untouched.
    Released,
}

impl Outcome {
    fn text(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Again { counted: 0, .. } => "snoozed",
            Self::Again { .. } => "retried",
            Self::Dead(_) => "dead",
            Self::Released => "released",
        }
    }
}

pub(crate) struct Ack;

pub(crate) struct AckOp {
    /// The fence: only who fetched the job, and not again since, may say what became of it.
    pub(crate) claim: ClaimId,
    pub(crate) queue: &'static str,
    pub(crate) outcome: Outcome,
}

impl Write for Ack {
    type Op = AckOp;
    type Answer = ();

    async fn write(conn: &mut PgConnection, ops: &[AckOp]) -> Result<Vec<()>, Failure> {
        let mut tx = conn.begin().await?;
        let (done, rest): (Vec<_>, Vec<_>) = ops.iter().partition(|op| matches!(op.outcome, Outcome::Done));
        if !done.is_empty() {
            finish(&mut tx, &done).await?;
        }
        if !rest.is_empty() {
            put_back(&mut tx, &rest).await?;
        }
        tx.commit().await?;
        for op in ops {
            metrics::counter!("durable_jobs_total", "queue" => op.queue, "outcome" => op.outcome.text()).increment(1);
            match &op.outcome {
                Outcome::Dead(failure) => {
                    tracing::error!(job = op.claim.job, queue = op.queue, "Job of {} is dead: {failure}", op.queue)
                }
                Outcome::Again { failure, counted: 1, .. } => {
                    tracing::info!(job = op.claim.job, queue = op.queue, "Job of {} will be tried again: {failure}", op.queue);
                }
                Outcome::Again { failure, .. } if failure.kind == Kind::Unauthorized => {
                    tracing::error!(job = op.claim.job, queue = op.queue, "A person is needed: {failure}");
                }
                _ => {}
            }
        }
        Ok(vec![(); ops.len()])
    }
}

async fn finish(tx: &mut PgConnection, done: &[&AckOp]) -> Result<(), Failure> {
    let (jobs, workers, ats) = ClaimId::columns(done.iter().map(|op| &op.claim));
    let gone = sqlx::query(
        "delete from apalis.jobs using unnest($1::text[], $2::text[], $3::timestamptz[]) as op (id, worker, at)
         where jobs.id = op.id and jobs.lock_by = op.worker and jobs.lock_at = op.at and not exists (
             select from durable.wanted where queue = jobs.job_type and key = jobs.idempotency_key)",
    )
    .bind(&jobs)
    .bind(&workers)
    .bind(&ats)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if usize::try_from(gone) == Ok(done.len()) {
        return Ok(());
    }
    // What is still ours was wanted again since it was claimed.
    sqlx::query(
        "with again as (
             update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, attempts = 0, run_at = durable.now()
             from unnest($1::text[], $2::text[], $3::timestamptz[]) as op (id, worker, at)
             where jobs.id = op.id and jobs.lock_by = op.worker and jobs.lock_at = op.at returning jobs.job_type
         )
         select pg_notify('durable_job', job_type) from (select distinct job_type from again) queue",
    )
    .bind(jobs)
    .bind(workers)
    .bind(ats)
    .execute(tx)
    .await?;
    Ok(())
}

async fn put_back(tx: &mut PgConnection, rest: &[&AckOp]) -> Result<(), Failure> {
    let (jobs, workers, ats) = ClaimId::columns(rest.iter().map(|op| &op.claim));
    let (mut dead, mut delays, mut counts, mut errors) = (vec![], vec![], vec![], vec![]);
    for op in rest {
        let (is_dead, delay, counted, failure) = match &op.outcome {
            Outcome::Again { delay, counted, failure } => (false, *delay, *counted, Some(failure)),
            Outcome::Dead(failure) => (true, Duration::ZERO, 1, Some(failure)),
            Outcome::Released | Outcome::Done => (false, Duration::ZERO, 0, None),
        };
        dead.push(is_dead);
        delays.push(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX / 2));
        counts.push(counted);
        // jsonb knows no NUL.
        errors.push(failure.map(|failure| json_of(failure).map(|text| text.replace("\\u0000", ""))).transpose()?);
    }
    sqlx::query(
        "with put as (
             update apalis.jobs set
                 status = case when op.dead then 'Killed' else 'Pending' end,
                 attempts = jobs.attempts + op.counted,
                 run_at = case when op.dead then jobs.run_at when op.delay_us = 0 then durable.now()
                     else durable.now() + op.delay_us * interval '1 microsecond' end,
                 done_at = case when op.dead then durable.now() end,
                 idempotency_key = case when not op.dead then jobs.idempotency_key end,
                 last_result = case when op.error is null then jobs.last_result else json_build_object('Err', op.error::json)::jsonb end,
                 lock_by = null, lock_at = null
             from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[], $5::int8[], $6::int4[], $7::text[])
                 as op (id, worker, at, dead, delay_us, counted, error)
             where jobs.id = op.id and jobs.lock_by = op.worker and jobs.lock_at = op.at
             returning jobs.job_type, op.delay_us = 0 and not op.dead as due
         )
         select pg_notify('durable_job', job_type) from (select distinct job_type from put where due) queue",
    )
    .bind(jobs)
    .bind(workers)
    .bind(ats)
    .bind(dead)
    .bind(delays)
    .bind(counts)
    .bind(errors)
    .execute(tx)
    .await?;
    Ok(())
}

/// Queues what was wanted too late for the job that was there.
pub(crate) async fn push_wanted(db: &PgPool) -> Result<(), Failure> {
    let mut tx = db.begin().await?;
    let wanted = sqlx::query(
        "delete from durable.wanted where not exists (
             select from apalis.jobs where job_type = wanted.queue and idempotency_key = wanted.key)
         returning queue, key, payload, max_attempts",
    )
    .fetch_all(&mut *tx)
    .await?;
    for row in &wanted {
        let options = Options { key: row.try_get("key")?, ..Options::default() };
        // A payload is JSON, which is UTF-8.
        let payload = String::from_utf8_lossy(row.try_get("payload")?).into_owned();
        push(&mut tx, row.try_get("queue")?, row.try_get("max_attempts")?, payload, options).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The queues among `names` that have something due.
pub(crate) async fn due(db: &PgPool, names: &[&'static str]) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select queue from unnest($1::text[]) as queue where exists (
             select from apalis.jobs where job_type = queue and status = 'Pending' and run_at <= durable.now())",
    )
    .bind(names)
    .fetch_all(db)
    .await
}

/// Waiting jobs by queue, counted up to `most` each.
pub(crate) async fn depths(db: &PgPool, names: &[&'static str], most: i64) -> sqlx::Result<HashMap<String, i64>> {
    let rows = sqlx::query(
        "select queue, (select count(*) from (select from apalis.jobs where job_type = queue and status = 'Pending' limit $2) waiting)
         from unnest($1::text[]) as queue",
    )
    .bind(names)
    .bind(most)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
