//! Workflow and Run: step, compensate, wait, sleep, fail, child runs.

use crate::{
    Clock, Tx,
    journal::{ENDED, Fenced, Journal, RecordOp, Step, StepStatus, SuspendOp, Suspended, Token, Why, json_of},
    lease::Lease,
    queue::{self, RUNS},
};
use backoff::{ExponentialBackoffBuilder, backoff::Backoff};
use chrono::{DateTime, Utc};
use domain::{Failure, Kind};
use futures_util::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::types::Json;
use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Counted tries of a step before it has failed: with the delays below about 20 minutes.
pub const STEP_ATTEMPTS: i32 = 25;
/// One try's time limit.
pub const STEP_PATIENCE: Duration = Duration::from_secs(60);
/// Delay after a step's first failed try.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// No delay is longer, unless the failure itself says so.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// How often a run whose keys are refused tries again without being told to.
pub const PERSON_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What a throttle that names no wait costs.
pub(crate) const THROTTLE_WAIT: Duration = Duration::from_secs(1);
/// A step that runs longer is shown as `running`; shorter ones are recorded at their end alone.
const SHOW_AFTER: Duration = Duration::from_secs(1);
/// Pause before a mailbox that is being written to is looked into again.
const BUSY_PAUSE: Duration = Duration::from_millis(3);

/// `Ok` goes on; `Err` leaves the workflow (suspended, failed, cancelled or out-leased). Pass it on with `?`.
pub type Flow<T> = Result<T, Halt>;

/// Why a workflow function returns early; only the engine makes and reads it.
#[derive(Debug)]
pub struct Halt(pub(crate) Cause);

#[derive(Debug)]
pub(crate) enum Cause {
    /// Lying down; somebody will wake it.
    Suspended,
    /// Undo what was done.
    Failed(Failure),
    /// An undoing run has come to the end of what is recorded.
    Unwind,
    /// Somebody else has the run, or this worker stops: leave without a trace.
    Released,
    /// Nothing but a person can help.
    Stuck(String),
}

/// A process: the struct is the input, `run` is the process. Must be deterministic between steps.
pub trait Workflow<T>: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Name as stored; never rename.
    const NAME: &'static str;
    type Output: Serialize + DeserializeOwned + Send;
    /// A second `start` with the same key returns the first run.
    fn key(&self) -> Option<String> {
        None
    }
    /// Who may see the run (opaque to the engine; Ligne stores the tenant).
    fn scope(&self) -> Option<Uuid> {
        None
    }
    fn run<'a>(self, run: &mut Run<'a>, tools: &'a T) -> impl Future<Output = Flow<Self::Output>> + Send;
}

/// A message to a run: kept in the topic's mailbox until a run takes it.
pub trait Signal: Serialize + DeserializeOwned + Send + Sync {
    /// Topic as stored; never rename.
    const TOPIC: &'static str;
}

/// A step's retry budget and time limit.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Counted tries (transient and unclear failures) before the step has failed.
    pub attempts: i32,
    /// One try's time limit; past it the outcome is unclear.
    pub patience: Duration,
    /// Delay after the first failed try; doubles from there, with jitter.
    pub first_delay: Duration,
    /// No delay is longer, unless the failure itself says so.
    pub longest_delay: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { attempts: STEP_ATTEMPTS, patience: STEP_PATIENCE, first_delay: FIRST_DELAY, longest_delay: LONGEST_DELAY }
    }
}

impl Policy {
    /// The delay after the `attempt`-th failed try (from 1), 25 % more or less.
    pub(crate) fn delay(&self, attempt: i32) -> Duration {
        // From here on the delay has long reached its limit.
        const STEADY: i32 = 30;
        let mut schedule = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.first_delay)
            .with_multiplier(2.0)
            .with_max_interval(self.longest_delay)
            .with_randomization_factor(0.25)
            .with_max_elapsed_time(None)
            .build();
        let mut delay = self.first_delay;
        for _ in 0..attempt.clamp(1, STEADY) {
            delay = schedule.next_backoff().unwrap_or(self.longest_delay);
        }
        delay
    }
}

/// Forward, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Unwinding,
}

/// The running workflow's hands.
pub struct Run<'a> {
    token: Token,
    journal: Journal,
    lease: Lease,
    clock: Clock,
    db: sqlx::PgPool,
    recorded: HashMap<String, Step>,
    named: HashMap<String, u32>,
    position: i32,
    undos: Vec<(String, BoxFuture<'a, Result<(), Failure>>)>,
    direction: Direction,
}

/// Polls the act only while the lease holds: a worker that was frozen finds it lapsed when it wakes, and what it had in hand is
/// dropped where it stood, for others may have done it since. `None`: dropped.
async fn held<F: Future>(lease: Lease, act: F) -> Option<F::Output> {
    let name = lease.name();
    let mut act = pin!(act);
    poll_fn(|cx| if lease.holds(&name) { act.as_mut().poll(cx).map(Some) } else { Poll::Ready(None) }).await
}

/// What an activation lends to its run.
pub(crate) struct Hands {
    pub(crate) journal: Journal,
    pub(crate) lease: Lease,
    pub(crate) clock: Clock,
    pub(crate) db: sqlx::PgPool,
}

/// How a try ended that is not the last.
enum Again {
    /// Counted, after the policy's delay.
    Counted(Duration),
    /// Not counted.
    Uncounted(Duration),
    /// Our keys are refused.
    Person,
}

impl<'a> Run<'a> {
    pub(crate) fn new(token: Token, hands: Hands, steps: Vec<Step>, unwinding: bool) -> Self {
        let Hands { journal, lease, clock, db } = hands;
        Self {
            token,
            journal,
            lease,
            clock,
            db,
            recorded: steps.into_iter().map(|step| (step.name.clone(), step)).collect(),
            named: HashMap::new(),
            position: 0,
            undos: Vec::new(),
            direction: if unwinding { Direction::Unwinding } else { Direction::Forward },
        }
    }

    pub fn id(&self) -> Uuid {
        self.token.run
    }

    /// Do `act` once: its answer is recorded under `name` and returned on every replay, `act` then being dropped unpolled.
    /// Transient and unclear failures retry by the durable schedule, throttles wait, refusals fail the run, dead keys call a person.
    pub async fn step<R, E>(&mut self, name: &str, act: impl Future<Output = Result<R, E>> + Send) -> Flow<R>
    where
        R: Serialize + DeserializeOwned + Send,
        E: Into<Failure>,
    {
        self.step_with(Policy::default(), name, Box::pin(act)).await
    }

    /// As `step`, with its own budget.
    pub async fn step_with<R, E>(&mut self, policy: Policy, name: &str, act: impl Future<Output = Result<R, E>> + Send) -> Flow<R>
    where
        R: Serialize + DeserializeOwned + Send,
        E: Into<Failure>,
    {
        self.attempt_with(policy, name, Box::pin(act)).await?.map_err(|refusal| Halt(Cause::Failed(refusal)))
    }

    /// As `step`, but a refusal (`Kind::Rejected`) is an answer: recorded and handed back, so the workflow may choose another way.
    pub async fn attempt<R, E>(&mut self, name: &str, act: impl Future<Output = Result<R, E>> + Send) -> Flow<Result<R, Failure>>
    where
        R: Serialize + DeserializeOwned + Send,
        E: Into<Failure>,
    {
        self.attempt_with(Policy::default(), name, Box::pin(act)).await
    }

    /// As `attempt`, with its own budget.
    pub async fn attempt_with<R, E>(
        &mut self,
        policy: Policy,
        name: &str,
        act: impl Future<Output = Result<R, E>> + Send,
    ) -> Flow<Result<R, Failure>>
    where
        R: Serialize + DeserializeOwned + Send,
        E: Into<Failure>,
    {
        let step = self.next_step(name);
        match step.status {
            StepStatus::Done => return Ok(Ok(decode(&step)?)),
            StepStatus::Failed => return refusal(step),
            _ if self.direction == Direction::Unwinding => return Err(Halt(Cause::Unwind)),
            _ => {}
        }
        // Boxed, or each layer from here to the act's poll would hold a copy of it.
        let (step, outcome) = self.try_once(step, policy.patience, Box::pin(act)).await?;
        let failure = match outcome {
            Ok(answer) => {
                self.record(Step { status: StepStatus::Done, error: None, ..step.ended(json(&answer)?, &self.clock) }).await?;
                return Ok(Ok(answer));
            }
            Err(failure) => failure,
        };
        let again = match failure.kind {
            Kind::Rejected => None,
            Kind::Transient | Kind::Unclear if step.attempts >= policy.attempts => None,
            Kind::Transient | Kind::Unclear => {
                let delay = policy.delay(step.attempts);
                Some(Again::Counted(failure.retry_after().map_or(delay, |told| told.max(delay))))
            }
            Kind::Throttled => Some(Again::Uncounted(failure.retry_after().unwrap_or(THROTTLE_WAIT))),
            Kind::Unauthorized => Some(Again::Person),
        };
        match again {
            None => {
                let step = Step { status: StepStatus::Failed, error: Some(failure), ..step.ended(None, &self.clock) };
                self.record(step.clone()).await?;
                refusal(step)
            }
            Some(again) => Err(self.try_later(step, failure, again).await),
        }
    }

    /// Stands above the act it undoes; must bear that the act never happened. Runs in reverse order when the run fails or is cancelled.
    pub fn compensate(&mut self, name: &str, undo: impl Future<Output = Result<(), Failure>> + Send + 'a) {
        self.undos.push((name.to_owned(), undo.boxed()));
    }

    /// The next signal of this topic and key, or `None` after `patience` of silence. `reason` is what `waiting_for` shows people.
    pub async fn wait<S: Signal>(&mut self, key: impl ToString, patience: Duration, reason: &str) -> Flow<Option<S>> {
        let mailbox = (S::TOPIC.to_owned(), key.to_string());
        let step = self.next_step(&format!("wait {}", S::TOPIC));
        let answer = self
            .settled(step, Some(reason.to_owned()), move |step| Why::Wait { step, mailbox: Some(mailbox.clone()), patience })
            .await?;
        let taken: Option<(S,)> = parse(&answer)?;
        Ok(taken.map(|(signal,)| signal))
    }

    pub async fn sleep(&mut self, name: &str, length: Duration) -> Flow<()> {
        let step = self.next_step(name);
        self.settled(step, Some(name.to_owned()), move |step| Why::Wait { step, mailbox: None, patience: length }).await?;
        Ok(())
    }

    /// The time, recorded: a replay sees the same.
    pub async fn now(&mut self) -> Flow<DateTime<Utc>> {
        let now = self.clock.now();
        self.step("now", async move { Ok::<_, Failure>(now) }).await
    }

    /// End the run by undoing what it did.
    pub fn fail<R>(&self, why: impl Into<Failure>) -> Flow<R> {
        Err(Halt(Cause::Failed(why.into())))
    }

    /// Start a child run, exactly once.
    pub async fn start<T: Sync, W: Workflow<T>>(&mut self, name: &str, child: &W) -> Flow<Uuid> {
        let step = self.next_step(name);
        match step.status {
            StepStatus::Done => return decode(&step),
            _ if self.direction == Direction::Unwinding => return Err(Halt(Cause::Unwind)),
            _ => self.may_act()?,
        }
        let id = Uuid::now_v7();
        // The child and its record are one transaction: there is nothing to repeat but the whole, and to wait for the database.
        let mut pause = BUSY_PAUSE;
        loop {
            match self.start_once(&step, id, child).await {
                Ok(started) => return started,
                Err(failure) if failure.kind == Kind::Rejected => return Err(Halt(Cause::Failed(failure))),
                Err(failure) => tracing::warn!(run.id = %self.token.run, "{} could not be started yet: {failure}", step.name),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FIRST_DELAY);
            self.may_act()?;
        }
    }

    async fn start_once<T: Sync, W: Workflow<T>>(&mut self, step: &Step, id: Uuid, child: &W) -> Result<Flow<Uuid>, Failure> {
        let mut tx = self.db.begin().await?;
        let fence: Option<(bool, Option<Json<Uuid>>)> = sqlx::query_as(
            "select cancel_at is not null, (select output from durable.step where step.run_id = $1 and name = $3 and status = 'done')
             from durable.run where run_id = $1 and seq = $2 for no key update",
        )
        .bind(self.token.run)
        .bind(self.token.seq)
        .bind(&step.name)
        .fetch_optional(&mut *tx)
        .await?;
        match fence {
            None => return Ok(Err(Halt(Cause::Released))),
            // By a try whose commit was not answered.
            Some((_, Some(started))) => return Ok(Ok(started.0)),
            Some((true, None)) => return Ok(Err(self.turned())),
            Some((false, None)) => {}
        }
        let child = insert(&mut tx, id, Some(self.token.run), child).await?;
        sqlx::query(
            "insert into durable.step (run_id, name, position, status, attempts, output, started_at, ended_at)
             values ($1, $2, $3, 'done', 1, $4::json, $5, $6)
             on conflict (run_id, name) do update set status = 'done', output = excluded.output",
        )
        .bind(self.token.run)
        .bind(&step.name)
        .bind(step.position)
        .bind(json_of(&child)?)
        .bind(step.started_at)
        .bind(self.clock.now())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Ok(child))
    }

    /// Wait for a child's end: its output, or why it ended otherwise.
    pub async fn join<R: DeserializeOwned>(&mut self, child: Uuid) -> Flow<Result<R, Failure>> {
        let step = self.next_step(&format!("join {child}"));
        let reason = Some(format!("run {child}"));
        let answer = self.settled(step, reason, move |step| Why::Join { step, child }).await?;
        parse(&answer)
    }

    // --- what the above stand on

    /// The name's record, or a new one; a repeated name gets ` #2`.
    fn next_step(&mut self, name: &str) -> Step {
        let times = self.named.entry(name.to_owned()).and_modify(|times| *times += 1).or_insert(1);
        let name = if *times == 1 { name.to_owned() } else { format!("{name} #{times}") };
        self.position += 1;
        let position = self.position;
        match self.recorded.remove(&name) {
            Some(step) => Step { position, ..step },
            None => Step {
                name,
                position,
                status: StepStatus::Running,
                attempts: 0,
                output: None,
                error: None,
                started_at: self.clock.now(),
                ended_at: None,
            },
        }
    }

    /// A worker that stops, or whose lease may have lapsed, begins nothing.
    fn may_act(&self) -> Flow<()> {
        if self.lease.may_act() { Ok(()) } else { Err(Halt(Cause::Released)) }
    }

    /// Polls the act under its time limit; a panic is a transient failure, silence an unclear one. Counts the try.
    async fn try_once<R, E: Into<Failure>>(
        &mut self,
        step: Step,
        patience: Duration,
        act: impl Future<Output = Result<R, E>> + Send,
    ) -> Flow<(Step, Result<R, Failure>)> {
        self.may_act()?;
        let started_at = if step.attempts == 0 { self.clock.now() } else { step.started_at };
        let step = Step { started_at, attempts: step.attempts + 1, ..step };
        let began = Instant::now();
        let act = tokio::time::timeout(patience, AssertUnwindSafe(act).catch_unwind());
        let mut act = pin!(held(self.lease.clone(), act));
        let outcome = match tokio::time::timeout(SHOW_AFTER.min(patience), &mut act).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Long enough to be looked at; the act goes on while this is written.
                let shown = self
                    .journal
                    .record
                    .ask(RecordOp { token: self.token, step: Step { status: StepStatus::Running, ..step.clone() } });
                tokio::join!(shown, act).1
            }
        };
        let outcome = match outcome.ok_or(Halt(Cause::Released))? {
            Ok(Ok(outcome)) => outcome.map_err(Into::into),
            Ok(Err(panic)) => Err(Failure::transient(format!("panicked: {}", panic_text(&*panic))).code("panic")),
            Err(_) => Err(Failure::unclear(format!("no answer within {} s", patience.as_secs())).code("timeout")),
        };
        let result = match &outcome {
            Ok(_) => "done",
            Err(failure) => kind_text(failure.kind),
        };
        metrics::histogram!("durable_step_seconds", "outcome" => result).record(began.elapsed().as_secs_f64());
        if let Err(failure) = &outcome {
            tracing::info!(run.id = %self.token.run, step = step.name, attempt = step.attempts, kind = result, "{}: {failure}", step.name);
        }
        Ok((step, outcome))
    }

    async fn try_later(&mut self, step: Step, failure: Failure, again: Again) -> Halt {
        metrics::counter!("durable_step_retries_total", "kind" => kind_text(failure.kind)).increment(1);
        let (delay, counted, status, reason) = match again {
            Again::Counted(delay) => {
                (delay, 1, "running", format!("{}: {failure}; again in {} s", step.name, delay.as_secs_f64().ceil()))
            }
            Again::Uncounted(delay) => {
                (delay, 0, "running", format!("{}: asked to wait {} s: {failure}", step.name, delay.as_secs_f64().ceil()))
            }
            Again::Person => (PERSON_PATIENCE, 0, "waiting", format!("a person: {} is refused our keys: {failure}", step.name)),
        };
        if status == "waiting" {
            tracing::error!(run.id = %self.token.run, step = step.name, "A person is needed: {failure}");
        }
        let attempts = step.attempts - 1 + counted;
        let step = Step { status: StepStatus::Retrying, attempts, error: Some(failure), output: None, ..step };
        self.park(Some(step), status, Some(delay), reason).await
    }

    pub(crate) async fn park(
        &mut self,
        step: Option<Step>,
        status: &'static str,
        delay: Option<Duration>,
        reason: String,
    ) -> Halt {
        let heed_cancel = self.direction == Direction::Forward;
        if let Some(delay) = delay {
            self.lease.due_in(delay);
        }
        let op = SuspendOp { token: self.token, heed_cancel, why: Why::Park { step, status, delay }, reason: Some(reason) };
        match self.journal.suspend.ask(op).await {
            Ok(Suspended::Cancelled) => self.turned(),
            Ok(Suspended::Lost) | Err(_) => Halt(Cause::Released),
            Ok(Suspended::Down | Suspended::Answered(_) | Suspended::Busy) => Halt(Cause::Suspended),
        }
    }

    /// The recorded answer of a wait, a sleep or a join; or lies down for it.
    async fn settled(&mut self, step: Step, reason: Option<String>, why: impl Fn(Step) -> Why) -> Flow<String> {
        if step.status == StepStatus::Done {
            return Ok(step.output.unwrap_or_else(|| "null".to_owned()));
        }
        if self.direction == Direction::Unwinding {
            return Err(Halt(Cause::Unwind));
        }
        loop {
            let why = why(step.clone());
            if let Why::Wait { patience, .. } = &why {
                self.lease.due_in(*patience);
            }
            let op = SuspendOp { token: self.token, heed_cancel: true, why, reason: reason.clone() };
            match self.journal.suspend.ask(op).await {
                Ok(Suspended::Answered(answer)) => return Ok(answer),
                Ok(Suspended::Down) => return Err(Halt(Cause::Suspended)),
                Ok(Suspended::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Ok(Suspended::Cancelled) => return Err(self.turned()),
                Ok(Suspended::Lost) => return Err(Halt(Cause::Released)),
                Err(failure) => return Err(Halt(Cause::Stuck(failure.to_string()))),
            }
        }
    }

    async fn record(&mut self, step: Step) -> Flow<()> {
        match self.journal.record.ask(RecordOp { token: self.token, step }).await {
            Ok(Fenced::Written) => Ok(()),
            Ok(Fenced::Cancelled) if self.direction == Direction::Forward => Err(self.turned()),
            Ok(Fenced::Cancelled) => Ok(()),
            Ok(Fenced::Lost) => Err(Halt(Cause::Released)),
            // The database will never take this answer.
            Err(failure) if failure.kind == Kind::Rejected => Err(Halt(Cause::Stuck(failure.to_string()))),
            Err(_) => Err(Halt(Cause::Released)),
        }
    }

    /// Cancelled while it ran: from here on it goes back.
    fn turned(&mut self) -> Halt {
        self.direction = Direction::Unwinding;
        Halt(Cause::Unwind)
    }

    pub(crate) fn unwind(&mut self) {
        self.direction = Direction::Unwinding;
    }

    /// Everything that was done, undone, last first. A refused undo parks the run as `stuck`.
    pub(crate) async fn undo_all(&mut self) -> Flow<()> {
        // Undos have no budget; their delays go on at the longest.
        let policy = Policy::default();
        while let Some((name, undo)) = self.undos.pop() {
            let step = self.next_step(&format!("undo {name}"));
            if step.status == StepStatus::Done {
                continue;
            }
            let (step, outcome) = self.try_once(step, policy.patience, undo).await?;
            let Err(failure) = outcome else {
                self.record(Step { status: StepStatus::Done, error: None, ..step.ended(None, &self.clock) }).await?;
                continue;
            };
            return Err(match failure.kind {
                Kind::Rejected => {
                    tracing::error!(run.id = %self.token.run, step = step.name, "An undo was refused, a person is needed: {failure}");
                    metrics::counter!("durable_stuck_total").increment(1);
                    let reason = format!("a person: {} was refused: {failure}", step.name);
                    let step = Step { status: StepStatus::Failed, error: Some(failure), ..step.ended(None, &self.clock) };
                    self.park(Some(step), "stuck", None, reason).await
                }
                Kind::Unauthorized => self.try_undo_later(step, failure, PERSON_PATIENCE).await,
                Kind::Throttled => {
                    let wait = failure.retry_after().unwrap_or(THROTTLE_WAIT);
                    self.try_undo_later(Step { attempts: step.attempts - 1, ..step }, failure, wait).await
                }
                Kind::Transient | Kind::Unclear => {
                    let delay = policy.delay(step.attempts);
                    let wait = failure.retry_after().map_or(delay, |told| told.max(delay));
                    self.try_undo_later(step, failure, wait).await
                }
            });
        }
        Ok(())
    }

    async fn try_undo_later(&mut self, step: Step, failure: Failure, wait: Duration) -> Halt {
        metrics::counter!("durable_step_retries_total", "kind" => kind_text(failure.kind)).increment(1);
        let reason = format!("{}: {failure}; again in {} s", step.name, wait.as_secs_f64().ceil());
        let step = Step { status: StepStatus::Retrying, error: Some(failure), ..step };
        self.park(Some(step), "undoing", Some(wait), reason).await
    }
}

impl Step {
    fn ended(self, output: Option<String>, clock: &Clock) -> Self {
        Self { output, ended_at: Some(clock.now()), ..self }
    }
}

fn json(answer: &impl Serialize) -> Flow<Option<String>> {
    json_of(answer).map(Some).map_err(|failure| Halt(Cause::Stuck(failure.to_string())))
}

fn decode<R: DeserializeOwned>(step: &Step) -> Flow<R> {
    let text = step.output.as_deref().unwrap_or("null");
    serde_json::from_str(text)
        .map_err(|error| Halt(Cause::Stuck(format!("a person: the recorded answer of {} cannot be read: {error}", step.name))))
}

fn parse<R: DeserializeOwned>(text: &str) -> Flow<R> {
    serde_json::from_str(text).map_err(|error| Halt(Cause::Stuck(format!("a person: a recorded answer cannot be read: {error}"))))
}

/// A refusal is the caller's to judge; a spent budget ends the run.
fn refusal<R>(step: Step) -> Flow<Result<R, Failure>> {
    let failure = step.error.unwrap_or_else(|| Failure::rejected(format!("{} failed", step.name)));
    match failure.kind {
        Kind::Rejected => Ok(Err(failure)),
        _ => Err(Halt(Cause::Failed(failure))),
    }
}

pub(crate) fn kind_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Transient => "transient",
        Kind::Throttled => "throttled",
        Kind::Unclear => "unclear",
        Kind::Rejected => "rejected",
        Kind::Unauthorized => "unauthorized",
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Start a run in the caller's transaction; with a key that exists, the run that has it.
pub async fn start<T: Sync, W: Workflow<T>>(tx: &mut Tx<'_>, input: &W) -> Result<Uuid, Failure> {
    insert(tx, Uuid::now_v7(), None, input).await
}

async fn insert<T: Sync, W: Workflow<T>>(tx: &mut Tx<'_>, id: Uuid, parent: Option<Uuid>, input: &W) -> Result<Uuid, Failure> {
    let key = input.key();
    let job = queue::ulid(id);
    let started: Option<Uuid> = sqlx::query_scalar(
        "with run as (
             insert into durable.run (run_id, job_id, workflow, key, scope, input, parent_id) values ($1, $2, $3, $4, $5, $6::json, $9)
             on conflict (workflow, key) where key is not null do nothing
             returning run_id
         ), job as (
             insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
             select $2, $7, convert_to('{\"run_id\":\"' || run_id || '\"}', 'utf8'), 'Pending', 0, $8, durable.now(), 0 from run
         )
         select run_id from run",
    )
    .bind(id)
    .bind(job)
    .bind(W::NAME)
    .bind(&key)
    .bind(input.scope())
    .bind(json_of(input)?)
    .bind(RUNS)
    .bind(queue::CRASHES_MAX)
    .bind(parent)
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(started) = started {
        return Ok(started);
    }
    // The key's holder was committed by somebody else after our snapshot began, if it is not in it: a statement of its own sees it.
    let first: Uuid = sqlx::query_scalar("select run_id from durable.run where workflow = $1 and key = $2")
        .bind(W::NAME)
        .bind(key)
        .fetch_one(&mut **tx)
        .await?;
    Ok(first)
}

/// As `start`, many at once and much faster; a key that is taken starts nothing.
pub async fn start_all<T: Sync, W: Workflow<T>>(tx: &mut Tx<'_>, inputs: impl IntoIterator<Item = W>) -> Result<(), Failure> {
    let (mut ids, mut jobs, mut keys, mut scopes, mut contents) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for input in inputs {
        let id = Uuid::now_v7();
        ids.push(id);
        jobs.push(queue::ulid(id));
        keys.push(input.key());
        scopes.push(input.scope());
        contents.push(json_of(&input)?);
    }
    sqlx::query(
        "with run as (
             insert into durable.run (run_id, job_id, workflow, key, scope, input)
             select run_id, job_id, $1, key, scope, input::json
             from unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::text[]) as u(run_id, job_id, key, scope, input)
             on conflict (workflow, key) where key is not null do nothing
             returning run_id, job_id
         )
         insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
         select job_id, $7, convert_to('{\"run_id\":\"' || run_id || '\"}', 'utf8'), 'Pending', 0, $8, durable.now(), 0 from run",
    )
    .bind(W::NAME)
    .bind(ids)
    .bind(jobs)
    .bind(keys)
    .bind(scopes)
    .bind(contents)
    .bind(RUNS)
    .bind(queue::CRASHES_MAX)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Leave a signal for whoever waits, or will wait, for this topic and key.
pub async fn signal<S: Signal>(tx: &mut Tx<'_>, key: impl ToString, signal: &S) -> Result<(), Failure> {
    send(tx, S::TOPIC, vec![key.to_string()], vec![json_of(signal)?]).await
}

/// As `signal`, many at once and much faster. Each mailbox is a lock until the commit, of which PostgreSQL has some thousands for
/// everybody: send thousands in several transactions.
pub async fn signal_all<S: Signal>(
    tx: &mut Tx<'_>,
    signals: impl IntoIterator<Item = (impl ToString, S)>,
) -> Result<(), Failure> {
    let (mut keys, mut contents) = (Vec::new(), Vec::new());
    for (key, signal) in signals {
        keys.push(key.to_string());
        contents.push(json_of(&signal)?);
    }
    send(tx, S::TOPIC, keys, contents).await
}

/// As `signal`, by names alone: for an operator's hand.
pub async fn signal_raw(tx: &mut Tx<'_>, topic: &str, key: &str, content: &serde_json::Value) -> Result<(), Failure> {
    if topic == ENDED {
        return Err(Failure::rejected("this topic belongs to the engine"));
    }
    send(tx, topic, vec![key.to_owned()], vec![content.to_string()]).await
}

async fn send(tx: &mut Tx<'_>, topic: &str, keys: Vec<String>, contents: Vec<String>) -> Result<(), Failure> {
    sqlx::query("select durable.signal($1, $2, $3)").bind(topic).bind(keys).bind(contents).execute(&mut **tx).await?;
    Ok(())
}

/// Ask a run to undo what it did and end as `cancelled`; `false` if it has ended or is past stopping.
/// A step in hand finishes first.
pub async fn cancel(tx: &mut Tx<'_>, run: Uuid) -> Result<bool, Failure> {
    let asked = sqlx::query(
        "update durable.run set cancel_at = durable.now(), status = 'undoing', waiting_for = null
         where run_id = $1 and ended_at is null and cancel_at is null and error is null and status in ('running', 'waiting', 'stuck')",
    )
    .bind(run)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if asked == 1 {
        sqlx::query("select durable.wake(array[$1])").bind(run).execute(&mut **tx).await?;
    }
    Ok(asked == 1)
}

/// Let a `stuck` run, one waiting for a person, or one between two tries, try again now; `false` if there is nothing to retry.
pub async fn retry(tx: &mut Tx<'_>, run: Uuid) -> Result<bool, Failure> {
    // A wait for a signal or a child is not a retry's to end.
    let woken: Vec<Uuid> = sqlx::query_scalar(
        "select unnest(durable.wake(array(
             select run_id from durable.run where run_id = $1 and not awake and ended_at is null and wait_topic is null
                 and (status = 'stuck' or exists (select from durable.step where step.run_id = $1 and step.status = 'retrying'))
         )))",
    )
    .bind(run)
    .fetch_all(&mut **tx)
    .await?;
    Ok(!woken.is_empty())
}

/// Shared with jobs: the delays of a counted failure.
pub(crate) fn default_delay(attempt: i32) -> Duration {
    Policy::default().delay(attempt)
}
