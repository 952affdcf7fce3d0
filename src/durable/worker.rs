//! Registry, activation, timekeeping: everything that works, in one process.

use crate::{
    Clock, Job, Workflow,
    batch::Batcher,
    clock,
    cron::{self, Every},
    forget::{self, RUNS_KEPT},
    journal::{ClaimOp, Claimed, EndOp, Fenced, Journal},
    lease::{self, Lease},
    queue::{self, Ack, AckOp, CRASHES_MAX, Claim, Handler, Outcome, Queue, RUNS},
    run::{Cause, Flow, Halt, Hands, Run, panic_text},
};
use chrono::{DateTime, Utc};
use domain::{Failure, Kind};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use sqlx::{PgPool, postgres::PgListener};
use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

/// Runs that advance at once in one process.
const RUN_CONCURRENCY: usize = 1024;
/// Connections that the engine keeps for itself, beside the caller's pool: journal, fetch, beat, timers, ear.
const CONNECTIONS: u32 = 8;
/// The net under the notifications, and the pace of timers that were set elsewhere.
const POLL: Duration = Duration::from_secs(1);
/// Runs woken by one statement.
const WAKE_MAX: i32 = 1000;
/// How long what is in hand may take to finish once the engine is told to stop.
const DRAIN: Duration = Duration::from_secs(25);
/// Between two rounds of measuring.
const ROUND: Duration = Duration::from_secs(15);
/// Queue depth is counted no further.
const DEPTH_MAX: i64 = 10_000;

/// Lets a typed workflow advance as one among many.
trait Process<T>: Send + Sync {
    /// The output as JSON text.
    fn advance<'r, 'a: 'r>(&self, input: &'r str, run: &'r mut Run<'a>, tools: &'a T) -> BoxFuture<'r, Flow<String>>;
}

struct Typed<W>(std::marker::PhantomData<fn() -> W>);

impl<T: Send + Sync + 'static, W: Workflow<T>> Process<T> for Typed<W> {
    fn advance<'r, 'a: 'r>(&self, input: &'r str, run: &'r mut Run<'a>, tools: &'a T) -> BoxFuture<'r, Flow<String>> {
        async move {
            let workflow: W = serde_json::from_str(input)
                .map_err(|error| Halt(Cause::Stuck(format!("a person: the input of {} cannot be read: {error}", W::NAME))))?;
            let output = workflow.run(run, tools).await?;
            serde_json::to_string(&output)
                .map_err(|error| Halt(Cause::Stuck(format!("a person: the output is not JSON: {error}"))))
        }
        .boxed()
    }
}

/// Builds a queue's handler once the engine's insides exist.
type MakeHandler<T> = Box<dyn FnOnce(Arc<T>, Clock, Batcher<Ack>, Lease) -> Handler + Send>;

struct JobQueue<T> {
    name: &'static str,
    concurrency: usize,
    make: MakeHandler<T>,
}

/// Everything that works: register, then run until told to stop.
pub struct Engine<T> {
    db: PgPool,
    clock: Clock,
    tools: Arc<T>,
    processes: HashMap<&'static str, Box<dyn Process<T>>>,
    queues: Vec<JobQueue<T>>,
    schedules: Vec<Result<Every, Failure>>,
    runs_kept: Duration,
}

impl<T: Send + Sync + 'static> Engine<T> {
    pub fn new(db: PgPool, clock: Clock, tools: Arc<T>) -> Self {
        Self { db, clock, tools, processes: HashMap::new(), queues: Vec::new(), schedules: Vec::new(), runs_kept: RUNS_KEPT }
    }

    /// How long an ended run stays to be seen; [`RUNS_KEPT`] unless it is said.
    #[must_use]
    pub fn keep_runs(self, runs_kept: Duration) -> Self {
        Self { runs_kept, ..self }
    }

    #[must_use]
    pub fn workflow<W: Workflow<T>>(mut self) -> Self {
        self.processes.insert(W::NAME, Box::new(Typed::<W>(std::marker::PhantomData)));
        self
    }

    #[must_use]
    pub fn job<J: Job<T>>(mut self) -> Self {
        if self.queues.iter().all(|queue| queue.name != J::QUEUE) {
            let make: MakeHandler<T> = Box::new(|tools, clock, acks, lease| queue::handler::<T, J>(tools, clock, acks, lease));
            self.queues.push(JobQueue { name: J::QUEUE, concurrency: J::CONCURRENCY.max(1), make });
        }
        self
    }

    /// At every tick of `cron` (six fields, in `zone`), enqueue `make(tick)` once over all processes; ticks missed while down are
    /// caught up. `run` fails as `Rejected` if `cron` is no schedule.
    #[must_use]
    pub fn every<J: Job<T>>(self, name: &'static str, cron: &str, zone: chrono_tz::Tz, make: fn(DateTime<Utc>) -> J) -> Self {
        self.schedule(name, cron, zone, make, true)
    }

    /// As [`Self::every`], for a look around that need not be made up for: of the ticks missed while down, or jumped over by
    /// [`crate::advance`], only the latest is enqueued.
    #[must_use]
    pub fn patrol<J: Job<T>>(self, name: &'static str, cron: &str, zone: chrono_tz::Tz, make: fn(DateTime<Utc>) -> J) -> Self {
        self.schedule(name, cron, zone, make, false)
    }

    fn schedule<J: Job<T>>(
        self,
        name: &'static str,
        cron: &str,
        zone: chrono_tz::Tz,
        make: fn(DateTime<Utc>) -> J,
        each_counts: bool,
    ) -> Self {
        let mut engine = self.job::<J>();
        engine.schedules.push(Every::parse(cron).map(|schedule| Every {
            name,
            cron: cron.to_owned(),
            schedule,
            zone,
            queue: J::QUEUE,
            attempts: J::ATTEMPTS,
            each_counts,
            payload: Arc::new(move |tick| crate::journal::json_of(&make(tick))),
        }));
        engine
    }

    /// Work until `stop`; what is in hand finishes (a run: its step), what is only fetched goes back. Dropping the future
    /// stops everything at once, like a crash.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { db, clock, tools, processes, queues, schedules, runs_kept } = self;
        let schedules = schedules.into_iter().collect::<Result<Vec<_>, _>>()?;
        let own = clock::own_pool(&db, CONNECTIONS);
        let lease = Lease::new(stop.clone());
        lease.beat(&own).await?;
        cron::register(&own, &schedules).await?;
        forget::register(&own).await?;

        // Owned by this future: dropping it aborts them all.
        let mut background = JoinSet::new();
        let journal = Journal::spawn(&own, &mut background);
        let acks = Batcher::<Ack>::spawn(own.clone(), &mut background);
        let runs = Arc::new(Runs {
            db,
            clock: clock.clone(),
            tools: tools.clone(),
            processes,
            journal,
            acks: acks.clone(),
            lease: lease.clone(),
        });
        let mut bells = HashMap::new();
        let mut workers = FuturesUnordered::new();
        let activation: Handler = Arc::new(move |claim| runs.clone().activate(claim).boxed());
        let all = queues
            .into_iter()
            .map(|queue| (queue.name, queue.concurrency, (queue.make)(tools.clone(), clock.clone(), acks.clone(), lease.clone())))
            .chain([(RUNS, RUN_CONCURRENCY, activation)]);
        for (name, concurrency, handler) in all {
            let bell = Arc::new(Notify::new());
            bells.insert(name, bell.clone());
            workers.push(queue::work(Queue { name, concurrency, bell, handler }, own.clone(), lease.clone()));
        }
        let queues: Vec<&'static str> = bells.keys().copied().collect();
        for bell in [TIME, HOUSE] {
            bells.insert(bell, Arc::new(Notify::new()));
        }
        let bells = Arc::new(bells);
        background.spawn(lease.clone().keep(own.clone()));
        background.spawn(listen(own.clone(), clock.clone(), bells.clone()));
        background.spawn(keep_time(own.clone(), lease.clone(), schedules, queues.clone(), bells.clone()));
        background.spawn(keep_house(own.clone(), runs_kept, bells.clone()));
        background.spawn(measure(own.clone(), queues));

        let drained = async {
            while let Some(worked) = workers.next().await {
                worked?;
            }
            Ok(())
        };
        let outcome = tokio::select! {
            biased;
            outcome = drained => outcome,
            () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => {
                tracing::warn!("Work in hand did not finish within {} s and is left to others", DRAIN.as_secs());
                Ok(())
            }
            // A part that just ends had nobody left to work for.
            Some(Err(broken)) = background.join_next() => Err(Failure::transient(format!("a part of the engine broke: {broken}"))),
        };
        // Nobody works any more before others may take over.
        drop(workers);
        lease.resign(&own).await?;
        drop(background);
        own.close().await;
        outcome
    }
}

/// What every activation shares.
struct Runs<T> {
    db: PgPool,
    clock: Clock,
    tools: Arc<T>,
    processes: HashMap<&'static str, Box<dyn Process<T>>>,
    journal: Journal,
    acks: Batcher<Ack>,
    lease: Lease,
}

impl<T: Send + Sync + 'static> Runs<T> {
    /// Takes one run from where it stands to where it must wait, or to its end.
    async fn activate(self: Arc<Self>, claim: Claim) {
        #[derive(serde::Deserialize)]
        struct Activation {
            run_id: Uuid,
        }
        let Ok(Activation { run_id }) = serde_json::from_slice(&claim.payload) else {
            self.acknowledge(&claim, Outcome::Dead(Failure::rejected("an activation without a run"))).await;
            return;
        };
        let op = ClaimOp { run: run_id, claim: claim.id.clone() };
        match self.journal.claim.ask(op).await {
            Ok(Some(claimed)) => {
                let span = tracing::info_span!("run", run.id = %run_id, run.workflow = claimed.workflow);
                let began = Instant::now();
                let left = self.advance(&claim, claimed).instrument(span).await;
                metrics::histogram!("durable_activation_seconds").record(began.elapsed().as_secs_f64());
                if let Left::Released = left {
                    self.acknowledge(&claim, Outcome::Released).await;
                }
            }
            // Not ours any more, or a run that needs none: in the first case the fence makes this a no-op.
            Ok(None) => self.acknowledge(&claim, Outcome::Done).await,
            Err(failure) => tracing::warn!(run.id = %run_id, "A run could not be claimed: {failure}"),
        }
    }

    async fn acknowledge(&self, claim: &Claim, outcome: Outcome) {
        let op = AckOp { claim: claim.id.clone(), queue: RUNS, outcome };
        if let Err(failure) = self.acks.ask(op).await {
            tracing::warn!(job = claim.id.job, "An activation could not be given back: {failure}");
        }
    }

    async fn advance(&self, claim: &Claim, claimed: Claimed) -> Left {
        let Claimed { token, workflow, input, status, error, cancelled, steps } = claimed;
        let hands =
            Hands { journal: self.journal.clone(), lease: self.lease.clone(), clock: self.clock.clone(), db: self.db.clone() };
        let unwinding = status == "undoing" || cancelled;
        let mut run = Run::new(token, hands, steps, unwinding);
        let Some(process) = self.processes.get(workflow.as_str()) else {
            return self.stick(&mut run, format!("a person: this program knows no workflow {workflow}")).await;
        };
        if claim.attempts >= CRASHES_MAX {
            return self.stick(&mut run, format!("a person: {} workers died with this run in hand", claim.attempts)).await;
        }
        let outcome = AssertUnwindSafe(process.advance(&input, &mut run, &self.tools)).catch_unwind().await;
        let halt = match outcome {
            Ok(Ok(output)) if !unwinding => {
                let end = EndOp { token, heed_cancel: true, status: "succeeded", output: Some(output), error: None };
                match self.journal.end.ask(end).await {
                    Ok(Fenced::Written) => {
                        metrics::counter!("durable_runs_total", "workflow" => workflow.clone(), "status" => "succeeded")
                            .increment(1);
                        return Left::Done;
                    }
                    Ok(Fenced::Cancelled) => Cause::Unwind,
                    Ok(Fenced::Lost) => Cause::Released,
                    Err(failure) => Cause::Stuck(format!("a person: the output cannot be stored: {failure}")),
                }
            }
            // Cancelled after its last step: it had not ended yet, so it goes back.
            Ok(Ok(_)) => Cause::Unwind,
            Ok(Err(Halt(cause))) => cause,
            Err(panic) => Cause::Stuck(format!("a person: the workflow panicked: {}", panic_text(&*panic))),
        };
        let failure = match halt {
            Cause::Suspended => return Left::Done,
            Cause::Released => return Left::Released,
            Cause::Stuck(reason) => return self.stick(&mut run, reason).await,
            Cause::Failed(failure) => Some(failure),
            Cause::Unwind => None,
        };
        self.undo(&mut run, &workflow, token, error, failure, cancelled).await
    }

    async fn undo(
        &self,
        run: &mut Run<'_>,
        workflow: &str,
        token: crate::journal::Token,
        known: Option<Failure>,
        failure: Option<Failure>,
        cancelled: bool,
    ) -> Left {
        run.unwind();
        if let (None, Some(failure)) = (&known, &failure) {
            tracing::info!(kind = ?failure.kind, "{workflow} failed and is undone: {failure}");
        }
        let error = failure.clone().filter(|_| !cancelled);
        let turn = EndOp { token, heed_cancel: false, status: "undoing", output: None, error };
        match self.journal.end.ask(turn).await {
            Ok(Fenced::Written | Fenced::Cancelled) => {}
            Ok(Fenced::Lost) | Err(_) => return Left::Released,
        }
        match AssertUnwindSafe(run.undo_all()).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(Halt(Cause::Suspended))) => return Left::Done,
            Ok(Err(Halt(Cause::Stuck(reason)))) => return self.stick(run, reason).await,
            Ok(Err(_)) => return Left::Released,
            Err(panic) => return self.stick(run, format!("a person: undoing panicked: {}", panic_text(&*panic))).await,
        }
        let status = if known.is_some() || (failure.is_some() && !cancelled) { "undone" } else { "cancelled" };
        let end = EndOp { token, heed_cancel: false, status, output: None, error: None };
        match self.journal.end.ask(end).await {
            Ok(Fenced::Written | Fenced::Cancelled) => {
                metrics::counter!("durable_runs_total", "workflow" => workflow.to_owned(), "status" => status).increment(1);
                Left::Done
            }
            Ok(Fenced::Lost) => Left::Released,
            Err(failure) if failure.kind == Kind::Rejected => self.stick(run, format!("a person: {failure}")).await,
            Err(_) => Left::Released,
        }
    }

    /// Parks the run until a person has done something about it.
    async fn stick(&self, run: &mut Run<'_>, reason: String) -> Left {
        tracing::error!("Run {} is stuck: {reason}", run.id());
        metrics::counter!("durable_stuck_total").increment(1);
        run.unwind();
        match run.park(None, "stuck", None, reason).await {
            Halt(Cause::Suspended) => Left::Done,
            _ => Left::Released,
        }
    }
}

/// How an activation ended.
enum Left {
    /// Its job is gone with it.
    Done,
    /// Its job goes back, if it is still ours.
    Released,
}

/// Rings the bells that notifications are for. After a lost connection everything is rung once.
async fn listen(db: PgPool, clock: Clock, bells: Bells) {
    loop {
        if let Err(error) = hear(&db, &clock, &bells).await {
            tracing::warn!(%error, "Notifications are not heard; polling goes on");
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn hear(db: &PgPool, clock: &Clock, bells: &Bells) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(db).await?;
    listener.listen_all(["durable_job", clock::CHANNEL]).await?;
    clock.refresh(db).await?;
    bells.values().for_each(|bell| bell.notify_one());
    loop {
        // `None`: the connection was lost and is there again.
        match listener.try_recv().await? {
            Some(notification) if notification.channel() == clock::CHANNEL => {
                clock.refresh(db).await?;
                ring(bells, TIME);
                ring(bells, RUNS);
            }
            Some(notification) => ring(bells, notification.payload()),
            None => bells.values().for_each(|bell| bell.notify_one()),
        }
    }
}

/// The timekeeper's own bell, and the house-keeper's.
const TIME: &str = "durable.time";
const HOUSE: &str = "durable.house";

type Bells = Arc<HashMap<&'static str, Arc<Notify>>>;

fn ring(bells: &Bells, name: &str) {
    if let Some(bell) = bells.get(name) {
        bell.notify_one();
    }
}

/// Wakes due runs, enqueues due ticks, rings for due jobs, takes over from the dead: once a second, and whenever something is
/// known to fall due.
async fn keep_time(db: PgPool, lease: Lease, schedules: Vec<Every>, queues: Vec<&'static str>, bells: Bells) {
    let moved = bells.get(TIME).cloned().unwrap_or_default();
    loop {
        // Each for itself: what goes wrong with one stops none of the others.
        for (what, looked) in [
            ("due runs", wake_due(&db).await),
            ("due ticks", tick(&db, &schedules, &bells).await),
            ("jobs wanted again", queue::push_wanted(&db).await),
            ("lapsed leases", lease::sweep(&db).await.map_err(Failure::from)),
            ("due jobs", ring_for_due(&db, &queues, &bells).await),
        ] {
            if let Err(failure) = looked {
                tracing::warn!("Looking for {what} failed: {failure}");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = lease.due() => {}
            () = moved.notified() => {}
        }
    }
}

async fn wake_due(db: &PgPool) -> Result<(), Failure> {
    while sqlx::query_scalar::<_, i32>("select durable.wake_due($1)").bind(WAKE_MAX).fetch_one(db).await? == WAKE_MAX {}
    Ok(())
}

async fn tick(db: &PgPool, schedules: &[Every], bells: &Bells) -> Result<(), Failure> {
    loop {
        let due = cron::due(db).await?;
        if due.iter().any(|name| name == forget::CURSOR) {
            ring(bells, HOUSE);
        }
        if cron::tick(db, schedules, &due).await == 0 {
            return Ok(());
        }
    }
}

async fn ring_for_due(db: &PgPool, queues: &[&'static str], bells: &Bells) -> Result<(), Failure> {
    queue::due(db, queues).await?.iter().for_each(|queue| ring(bells, queue));
    Ok(())
}

async fn keep_house(db: PgPool, runs_kept: Duration, bells: Bells) {
    let bell = bells.get(HOUSE).cloned().unwrap_or_default();
    loop {
        bell.notified().await;
        while forget::forget(&db, runs_kept).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "What is old could not be forgotten");
            false
        }) {}
    }
}

async fn measure(db: PgPool, queues: Vec<&'static str>) {
    loop {
        match queue::depths(&db, &queues, DEPTH_MAX).await {
            Ok(depths) => {
                for (queue, depth) in depths {
                    metrics::gauge!("durable_queue_depth", "queue" => queue).set(depth as f64);
                }
            }
            Err(error) => tracing::warn!(%error, "The queues could not be measured"),
        }
        tokio::time::sleep(ROUND).await;
    }
}
