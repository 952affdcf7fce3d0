//! Send what a line has queued, at exactly the rate its number may: the lane's holder is its only sender.
//!
//! Meta counts per number, so the number owns the queue and one worker at a time holds its lease. Every attempt is committed
//! before its call, and what became of it is committed together with other lanes' outcomes; three things go on at once: the next
//! batch is claimed and committed, the present one is sent as the limiter allows, and outcomes are recorded.

mod gate;
mod outcome;
mod record;

use crate::Tools;
use chrono::{DateTime, Utc};
use domain::{
    ContactId, Failure, LineId, MessageId,
    limits::{
        ARRIVES_WITHIN_US, Counting, LineLimiter, PAIR_BURST, PAIR_REFILL_MS, PairBucket, RATE_HIGH, RATE_STANDARD, Ticket,
    },
};
use durable::{Ctx, Job};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use gate::Verdict;
pub(crate) use gate::people_a_day;
use outcome::Effect;
use providers::Meta;
pub use record::Recorder;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};
use store::{
    lanes::{self, Left, Sender},
    messages::{self, Due, Outcome},
    plans,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, MissedTickBehavior},
};
use uuid::Uuid;

/// How long a lease lasts; a lost holder's lane goes on this much later.
const LEASE: Duration = Duration::from_secs(6);
/// How often the lease is renewed and the line's own standing read again.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// One activation works this long, then lets the next one begin: a lane is never held by one task for ever.
const SLICE: Duration = Duration::from_secs(300);
/// Messages claimed at once, at the most.
const BATCH_MAX: usize = 500;
/// Messages whose attempt is committed ahead of their turn, in seconds of the line's rate.
const AHEAD_S: f64 = 0.3;
/// Calls under way at once on one line.
const IN_FLIGHT_MAX: usize = 256;
/// Calls under way at once in this process; lanes take turns beyond it.
static CALLS: Semaphore = Semaphore::const_new(512);
/// While calls are under way and nothing else is ready, the queue is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A call without an answer is taken to have arrived this long after it was released.
const ARRIVES_WITHIN: Duration = Duration::from_micros(ARRIVES_WITHIN_US.unsigned_abs());
/// How far back a pair's sends matter: the time its bucket needs to fill.
const PAIR_MEMORY: Duration = Duration::from_millis((PAIR_BURST * PAIR_REFILL_MS) as u64);
/// Pairs remembered before those that owe nothing are forgotten.
const PAIRS_MAX: usize = 50_000;
/// How long the outcome of a lost answer is waited for before the message's policy decides.
pub const HOLD: Duration = Duration::from_secs(300);
/// Pause before a lane that broke off is taken up again.
const AGAIN: Duration = Duration::from_secs(1);

/// Enqueued by whoever queues a message and finds the lane asleep ([`wake`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunLane {
    pub line: LineId,
}

impl Job<Tools> for RunLane {
    const QUEUE: &'static str = "run_lane";
    const CONCURRENCY: usize = 128;
    /// It never dies: nobody would wake the lane again.
    const ATTEMPTS: i32 = i32::MAX;
    const PATIENCE: Duration = Duration::from_secs(600);

    async fn run(self, tools: &Tools, ctx: &Ctx) -> Result<(), Failure> {
        let begun = Instant::now();
        let holder = Uuid::now_v7().to_string();
        let taken = lanes::take(&tools.db, self.line, &holder, LEASE, ARRIVES_WITHIN, PAIR_MEMORY).await?;
        let Some(taken) = taken else {
            // Its holder may be dead: look again when the lease is over.
            return Err(ctx.snooze(LEASE));
        };
        let outcome = async {
            let Some(sender) = lanes::sender(&tools.db, self.line).await? else { return Ok(()) };
            let mut lane = Lane::new(tools, self.line, sender, &taken, begun + LEASE)?;
            let lost = messages::disown(&tools.db, self.line, tools.clock.now() + HOLD).await?;
            messages::tell(&tools.db, &lost).await?;
            lane.work(ctx).await
        };
        if let Err(failure) = outcome.await {
            tracing::warn!(line.id = %self.line, "The lane of {} breaks off: {failure}", self.line);
            // It may be taken up at once; where this fails, too, the lease runs out.
            let _ = lanes::break_off(&tools.db, self.line, taken.token).await;
            return Err(ctx.snooze(AGAIN));
        }
        Ok(())
    }
}

/// Makes sure that somebody works these lanes, in the transaction that gave them work.
pub async fn wake(tx: &mut durable::Tx<'_>, lines: &[LineId]) -> Result<(), Failure> {
    for line in lanes::wake(&mut **tx, lines).await? {
        durable::enqueue::<Tools, _>(tx, &RunLane { line }).await?;
    }
    Ok(())
}

struct Lane<'a> {
    tools: &'a Tools,
    line: LineId,
    token: i64,
    /// Nothing is sent after this: somebody else may have taken the lane.
    lease_ends: Instant,
    meta: Meta,
    sender: Sender,
    limiter: LineLimiter,
    /// The limiter's clock: the installation's time, moved on by the machine's own, which nobody sets.
    begun: (DateTime<Utc>, Duration, Instant),
    /// The pace that the lane's row tells.
    told_pace: Option<u32>,
    /// Contacts that are owed something; of the others nothing was sent lately.
    pairs: HashMap<ContactId, PairBucket>,
    /// Until then the messages tell what a lost holder sent to whom.
    look_back_until: Option<DateTime<Utc>>,
    /// Why nothing more may be sent now, if so.
    stopped: Option<Stop>,
}

/// Why a lane rests, and until when if that is known.
#[derive(Debug, Clone)]
struct Stop {
    reason: String,
    until: Option<DateTime<Utc>>,
}

/// What a claim has come to: who may go, who is held until when, who may never go.
#[derive(Default)]
struct Claim {
    go: Vec<Due>,
    held: Vec<(MessageId, DateTime<Utc>, String)>,
    refused: Vec<(MessageId, &'static str, String)>,
}

/// A call that has ended, when, and its place in the limiter.
type Called = (Due, outcome::Answer, Instant, Ticket);
/// Heads of the queue, and whether there may be more.
type Found = Result<(Vec<Due>, bool), Failure>;
/// The claimed, and which of them are committed.
type Committed = (Vec<Due>, Result<HashSet<MessageId>, Failure>);
/// Work of the database goes on by itself: a lane that waits for a connection must not keep another that it does not poll.
type Task<T> = BoxFuture<'static, T>;

fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let work = tokio::spawn(work);
    async { work.await.expect("a task of a lane neither panics nor is aborted") }.boxed()
}

/// What is going on at once. Whatever ends the work, nothing in here may be dropped: it is settled by [`Lane::wind_up`].
#[derive(Default)]
struct Hands<'a> {
    fetching: Option<Task<Found>>,
    /// The claimed, and which of them are committed.
    committing: Option<Task<Committed>>,
    /// Committed and not yet called.
    ready: VecDeque<Due>,
    flying: FuturesUnordered<BoxFuture<'a, Called>>,
    done: Vec<Outcome>,
    recording: Option<Task<Result<(), Failure>>>,
    /// A place among the calls of this process.
    place: Option<SemaphorePermit<'static>>,
}

impl Hands<'_> {
    /// Nothing is sent, or waits to be.
    fn idle(&self) -> bool {
        self.ready.is_empty() && self.flying.is_empty() && self.done.is_empty()
    }

    fn quiet(&self) -> bool {
        self.fetching.is_none() && self.committing.is_none() && self.recording.is_none()
    }
}

/// Why the next call does not start.
enum Wait {
    /// There is none.
    Nothing,
    /// The limiter, until then.
    Until(Instant),
    /// Other lanes' calls.
    Place,
}

impl<'a> Lane<'a> {
    fn new(tools: &'a Tools, line: LineId, sender: Sender, taken: &lanes::Taken, lease_ends: Instant) -> Result<Self, Failure> {
        let (now, begun) = (tools.clock.now(), Instant::now());
        let slowed = taken.slowed_to.and_then(|rate| u32::try_from(rate).ok());
        let level = level(&sender);
        let before = Counting {
            sends: taken.counting.map_or(level, |sends| sends.try_into().unwrap_or(level)),
            until_us: taken.counting_until.map_or(i64::MIN, |until| until.timestamp_micros()),
        };
        let limiter = LineLimiter::resumed(level, slowed, before, now.timestamp_micros());
        let stopped = match (&taken.stopped_reason, taken.stopped_until) {
            (Some(reason), until) if until.is_none_or(|until| until > now) => Some(Stop { reason: reason.clone(), until }),
            _ => None,
        };
        let buckets = taken.pairs_full_at.iter().map(|at| PairBucket::until(at.timestamp_millis()));
        let mut lane = Self {
            tools,
            line,
            token: taken.token,
            lease_ends,
            meta: access(tools, &sender, line)?,
            sender,
            limiter,
            begun: (now, tools.clock.advanced(), begun),
            told_pace: slowed,
            pairs: taken.pairs.iter().copied().zip(buckets).collect(),
            look_back_until: taken.look_back_until,
            stopped,
        };
        lane.look_at_sender();
        Ok(lane)
    }

    /// Sends until the queue is empty, the line is stopped, the slice is over or the lease is lost.
    async fn work(&mut self, ctx: &Ctx) -> Result<(), Failure> {
        let mut hands = Hands::default();
        let ended = self.send_all(&mut hands, ctx).await;
        if ended.is_err() {
            self.wind_up(hands).await;
        }
        ended
    }

    async fn send_all(&mut self, hands: &mut Hands<'a>, ctx: &Ctx) -> Result<(), Failure> {
        let tools = self.tools;
        let ends = Instant::now() + SLICE;
        let mut renew = tokio::time::interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The last look, at this time, found all there was. Contacts whose attempt has ended may have more: the next look finds it,
        // and not each outcome causes one.
        let mut exhausted: Option<Instant> = None;
        loop {
            let draining = self.stopped.is_some() || ctx.stopping.is_cancelled() || Instant::now() >= ends;
            if draining {
                let now = tools.clock.now();
                hands.done.extend(hands.ready.drain(..).map(|due| outcome::never_called(&due, now)));
            }
            let wait = self.launch(hands);
            if hands.idle() && hands.quiet() && (exhausted.is_some() || draining) && self.finish(draining).await? {
                return Ok(());
            }
            let ahead = (f64::from(self.limiter.rate()) * AHEAD_S).ceil() as usize;
            let wanting = match exhausted {
                None => hands.ready.len() < ahead.div_ceil(2).max(1),
                Some(at) => hands.ready.is_empty() && (hands.idle() || at.elapsed() >= LOOK_AGAIN),
            };
            if wanting && !draining && hands.fetching.is_none() && hands.committing.is_none() {
                let limit = i64::try_from(ahead.clamp(1, BATCH_MAX)).unwrap_or(1);
                let line = self.line;
                let (db, look_back) = (tools.db.clone(), self.look_back());
                hands.fetching = Some(spawn(async move {
                    let due = messages::due(&db, line, limit, look_back).await?;
                    let more = i64::try_from(due.len()).is_ok_and(|found| found == limit);
                    Ok((due, more))
                }));
            }
            if hands.recording.is_none() && !hands.done.is_empty() {
                let outcomes = std::mem::take(&mut hands.done);
                hands.recording = Some(tools.outcomes.record(&tools.db, outcomes).boxed());
            }
            let next_send = if let Wait::Until(at) = wait { Some(at) } else { None };
            let looking = hands.fetching.is_some() || hands.committing.is_some();
            let look_at = exhausted.filter(|_| !draining && !looking && hands.ready.is_empty()).map(|at| at + LOOK_AGAIN);
            let alarm = [next_send, look_at].into_iter().flatten().min();
            tokio::select! {
                due = maybe(&mut hands.fetching) => {
                    hands.fetching = None;
                    let (due, more) = due?;
                    exhausted = (!more).then(Instant::now);
                    if !due.is_empty() {
                        let claim = self.gate(due).await?;
                        hands.committing = Some(spawn(commit(tools.db.clone(), self.line, self.token, claim)));
                    }
                }
                (claimed, committed) = maybe(&mut hands.committing) => {
                    hands.committing = None;
                    match committed {
                        Ok(ours) => hands.ready.extend(claimed.into_iter().filter(|due| ours.contains(&due.message_id))),
                        Err(failure) => {
                            // Where the commit took place all the same, nothing was called.
                            let now = tools.clock.now();
                            hands.done.extend(claimed.iter().map(|due| outcome::never_called(due, now)));
                            return Err(failure);
                        }
                    }
                }
                recorded = maybe(&mut hands.recording) => {
                    hands.recording = None;
                    recorded?;
                }
                Some(called) = hands.flying.next(), if !hands.flying.is_empty() => {
                    self.land(hands, called).await?;
                    while let Some(Some(called)) = hands.flying.next().now_or_never() {
                        self.land(hands, called).await?;
                    }
                }
                place = CALLS.acquire(), if matches!(wait, Wait::Place) => hands.place = place.ok(),
                () = tokio::time::sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {}
                () = ctx.stopping.cancelled(), if !draining => {}
                _ = renew.tick() => self.renew().await?,
            }
        }
    }

    /// Takes a call's end into account.
    async fn land(&mut self, hands: &mut Hands<'a>, (due, answer, ended, ticket): Called) -> Result<(), Failure> {
        if let outcome::Answer::NotYet = answer {
            self.limiter.unsent(ticket);
            hands.ready.push_front(due);
            return Ok(());
        }
        self.limiter.answered(ticket, self.limiter_us(ended));
        let (outcome, effect) = self.learn(&due, answer);
        hands.done.push(outcome);
        self.heed(effect).await
    }

    /// Keeps the lease, and looks at what others may have changed.
    async fn renew(&mut self) -> Result<(), Failure> {
        let db = &self.tools.db;
        let lease_ends = Instant::now() + LEASE;
        if !lanes::renew(db, self.line, self.token, LEASE).await? {
            return Err(Failure::transient("the lease of the lane is lost"));
        }
        self.lease_ends = lease_ends;
        if self.limiter.slowed_to() != self.told_pace {
            self.tell_pace().await?;
        }
        if let Some(sender) = lanes::sender(db, self.line).await? {
            self.sender = sender;
            self.look_at_sender();
        }
        Ok(())
    }

    /// After a failure or a lost lease: waits for the answers of what was called, gives back what was not, and records both.
    async fn wind_up(&mut self, mut hands: Hands<'a>) {
        let now = self.tools.clock.now();
        if let Some(committing) = hands.committing.take() {
            hands.ready.extend(committing.await.0);
        }
        while let Some(called) = hands.flying.next().await {
            if let Err(failure) = self.land(&mut hands, called).await {
                tracing::warn!(line.id = %self.line, "What an answer means for the lane could not be kept: {failure}");
            }
        }
        hands.done.extend(hands.ready.drain(..).map(|due| outcome::never_called(&due, now)));
        let before = match hands.recording.take() {
            Some(recording) => recording.await,
            None => Ok(()),
        };
        if let Err(failure) = before.and(self.tools.outcomes.record(&self.tools.db, hands.done).await) {
            tracing::error!(line.id = %self.line, "Outcomes of sends could not be kept: {failure}");
        }
    }

    /// Starts every call that the limits allow now; says what the next one waits for.
    fn launch(&mut self, hands: &mut Hands<'a>) -> Wait {
        while !hands.ready.is_empty() && hands.flying.len() < IN_FLIGHT_MAX {
            let now = Instant::now();
            if now >= self.lease_ends {
                return Wait::Nothing;
            }
            let now_us = self.limiter_us(now);
            let free_us = self.limiter.next_us(now_us);
            if free_us > now_us {
                return Wait::Until(now + Duration::from_micros((free_us - now_us).unsigned_abs()));
            }
            let Some(place) = hands.place.take().or_else(|| CALLS.try_acquire().ok()) else { return Wait::Place };
            let Ok(ticket) = self.limiter.take(now_us) else { return Wait::Until(now) };
            let Some(due) = hands.ready.pop_front() else { return Wait::Nothing };
            let call = outcome::send(self.tools, self.meta.clone(), self.line, self.sender.phone_number_id.clone(), due);
            hands.flying.push(
                call.map(move |(due, answer)| {
                    drop(place);
                    (due, answer, Instant::now(), ticket)
                })
                .boxed(),
            );
        }
        Wait::Nothing
    }

    /// What a claimed message may do now; takes the pairs' and the portfolio's places for those that may go.
    async fn gate(&mut self, due: Vec<Due>) -> Result<Claim, Failure> {
        let now = self.tools.clock.now();
        if self.pairs.len() > PAIRS_MAX {
            self.pairs.retain(|_, bucket| !bucket.is_full(now.timestamp_millis()));
        }
        let mut claim = Claim::default();
        for message in due {
            match gate::judge(&message, now) {
                Verdict::Go => claim.go.push(message),
                Verdict::Hold(until, why) => claim.held.push((message.message_id, until, why)),
                Verdict::Refuse(code, why) => claim.refused.push((message.message_id, code, why)),
            }
        }
        self.reserve_portfolio(&mut claim, now).await?;
        let pairs = &mut self.pairs;
        let held = &mut claim.held;
        claim.go.retain(|message| {
            let bucket = pairs.entry(message.contact_id).or_insert_with(|| gate::bucket(&message.recent));
            match bucket.take(now.timestamp_millis()) {
                Ok(()) => true,
                Err(at) => {
                    let at = DateTime::from_timestamp_millis(at).unwrap_or(now);
                    held.push((
                        message.message_id,
                        at,
                        "the limit of messages to one contact (45 at once, then one every 6 s)".to_owned(),
                    ));
                    false
                }
            }
        });
        Ok(claim)
    }

    /// Templates to people outside a window count against the portfolio's limit of people in 24 hours.
    async fn reserve_portfolio(&mut self, claim: &mut Claim, now: DateTime<Utc>) -> Result<(), Failure> {
        let Some(portfolio) = self.sender.portfolio.clone() else { return Ok(()) };
        let counted = |message: &Due| message.template_id.is_some() && message.window_until.is_none_or(|until| until <= now);
        let people: Vec<String> = claim.go.iter().filter(|m| counted(m)).filter_map(gate::key).collect();
        if people.is_empty() {
            return Ok(());
        }
        let limit = match store::quota::limit(&self.tools.db, &portfolio).await? {
            Some(limit) => limit,
            None => self.ask_limit(&portfolio).await?,
        };
        let Some(limit) = limit else { return Ok(()) };
        let mut tx = self.tools.db.begin().await?;
        let reserved = store::quota::reserve(&mut tx, &portfolio, self.sender.tenant_id, i64::from(limit), &people).await?;
        tx.commit().await?;
        let free_at = reserved.next_free_at.unwrap_or(now + gate::ASK_QUOTA_AGAIN).max(now + gate::ASK_QUOTA_AGAIN);
        let held = &mut claim.held;
        claim.go.retain(|message| {
            let allowed = !counted(message) || gate::key(message).is_some_and(|key| reserved.allowed.contains(&key));
            if !allowed {
                held.push((message.message_id, free_at, format!("the portfolio's limit of {limit} new people in 24 hours")));
            }
            allowed
        });
        Ok(())
    }

    async fn ask_limit(&self, portfolio: &str) -> Result<Option<i32>, Failure> {
        let Some(number) = &self.sender.phone_number_id else { return Ok(None) };
        let limit = gate::tier(&self.meta.number(number).await?);
        store::quota::set_limit(&self.tools.db, portfolio, limit).await?;
        Ok(limit)
    }

    /// What an answer means for the message and for the limits; what it means for the lane is still to be heeded.
    fn learn(&mut self, due: &Due, answer: outcome::Answer) -> (Outcome, Effect) {
        let now = self.tools.clock.now();
        let (mut outcome, effect) = outcome::sort(due, answer, now);
        let pair = self.pairs.entry(due.contact_id).or_insert_with(|| gate::bucket(&due.recent));
        pair.answered(now.timestamp_millis());
        match &effect {
            Effect::None => pair.accepted(),
            Effect::SlowLine => {
                let rests_until = self.limiter.slow_down(self.limiter_us(Instant::now()));
                outcome.due_at = DateTime::from_timestamp_micros(rests_until);
            }
            Effect::SlowPair => outcome.due_at = DateTime::from_timestamp_millis(pair.slow_down(now.timestamp_millis())),
            Effect::StopLine(reason, until) | Effect::StopAccount(_, reason, until) => {
                self.stopped = Some(Stop { reason: reason.clone(), until: *until });
            }
        }
        (outcome, effect)
    }

    /// Keeps what an answer means beyond its message.
    async fn heed(&mut self, effect: Effect) -> Result<(), Failure> {
        let db = &self.tools.db;
        match effect {
            Effect::None | Effect::SlowPair => {}
            Effect::SlowLine => self.tell_pace().await?,
            Effect::StopLine(reason, until) => {
                lanes::stop(db, self.line, &reason, until).await?;
                tracing::warn!(line.id = %self.line, reason, "The lane of {} stops: {reason}", self.line);
            }
            Effect::StopAccount(code, reason, until) => {
                if let Some(account) = &self.sender.messaging_account {
                    lanes::stop_account(db, account, &code, &reason, until).await?;
                    tracing::warn!(account, code, "All sends of account {account} stop: {reason}");
                }
            }
        }
        Ok(())
    }

    async fn tell_pace(&mut self) -> Result<(), Failure> {
        let pace = self.limiter.slowed_to();
        lanes::pace(&self.tools.db, self.line, self.token, pace.and_then(|rate| i32::try_from(rate).ok())).await?;
        self.told_pace = pace;
        Ok(())
    }

    /// The line's own standing may have changed: its level, its status, its account.
    fn look_at_sender(&mut self) {
        self.limiter.set_level(level(&self.sender));
        if self.sender.status != "live" {
            self.stopped = Some(Stop { reason: format!("the line is {}", self.sender.status), until: None });
        } else if self.sender.tenant_status != "active" {
            self.stopped = Some(Stop { reason: format!("the company is {}", self.sender.tenant_status), until: None });
        } else if let Some(reason) = &self.sender.account_stop {
            self.stopped = Some(Stop { reason: reason.clone(), until: self.sender.account_stop_until });
        }
    }

    /// Gives the lane back if there is nothing to do now. Under the lane's row lock: a message queued meanwhile is seen here, or
    /// finds the lane asleep and enqueues a job.
    async fn finish(&mut self, draining: bool) -> Result<bool, Failure> {
        let mut tx = self.tools.db.begin().await?;
        if !lanes::lock(&mut *tx, self.line, self.token).await? {
            return Ok(true);
        }
        let released = messages::release_holds(&mut *tx, self.line).await?;
        let ids: Vec<MessageId> = released.iter().map(|(id, _)| *id).collect();
        messages::tell(&mut *tx, &ids).await?;
        let stop = self.stopped.as_ref();
        let more = released.iter().any(|(_, status)| status == "queued")
            || (stop.is_none() && !messages::due(&mut *tx, self.line, 1, None).await?.is_empty());
        if more && !draining {
            tx.commit().await?;
            return Ok(false);
        }
        let goes_on = more && stop.is_none();
        let next = match stop {
            _ if goes_on => None,
            None => messages::next_due(&mut *tx, self.line).await?,
            // Whoever lifts a stop without an end wakes the lane; the ends of holds come all the same.
            Some(stop) => [stop.until, messages::next_hold(&mut *tx, self.line).await?].into_iter().flatten().min(),
        };
        if let Some(stop) = stop {
            tracing::info!(line.id = %self.line, until = ?next, "The lane of {} rests: {}", self.line, stop.reason);
        }
        if goes_on {
            durable::enqueue::<Tools, _>(&mut tx, &RunLane { line: self.line }).await?;
        } else if let Some(run_at) = next {
            // One job for one instant, however often the lane comes by before it.
            let key = Some(format!("{}@{}", self.line, run_at.timestamp_millis()));
            let options = durable::Options { run_at: Some(run_at), key, ..durable::Options::default() };
            durable::enqueue_with::<Tools, _>(&mut tx, &RunLane { line: self.line }, options).await?;
        }
        lanes::release(&mut *tx, self.line, self.token, goes_on, &self.left()).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// What the next holder must know.
    fn left(&self) -> Left {
        let now_ms = self.tools.clock.now().timestamp_millis();
        let Counting { sends, until_us } = self.limiter.counting();
        let owed = self.pairs.iter().filter(|(_, bucket)| !bucket.is_full(now_ms));
        Left {
            counting: i32::try_from(sends).unwrap_or(i32::MAX),
            counting_until: (sends > 0).then(|| DateTime::from_timestamp_micros(until_us)).flatten(),
            pairs: owed
                .filter_map(|(contact, bucket)| Some((*contact, DateTime::from_timestamp_millis(bucket.full_at_ms())?)))
                .collect(),
        }
    }

    fn look_back(&self) -> Option<Duration> {
        let now = self.tools.clock.now();
        self.look_back_until.is_some_and(|until| until > now).then_some(PAIR_MEMORY)
    }

    /// An instant as the limiter counts.
    fn limiter_us(&self, at: Instant) -> i64 {
        let (now, advanced, begun) = self.begun;
        let passed = at.saturating_duration_since(begun) + self.tools.clock.advanced().saturating_sub(advanced);
        now.timestamp_micros().saturating_add(i64::try_from(passed.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Meta as this line sees it: our own account, or the tenant's with its own token.
pub(crate) fn access(tools: &Tools, sender: &Sender, line: LineId) -> Result<Meta, Failure> {
    match (&sender.token_sealed, &sender.messaging_account) {
        (Some(sealed), Some(account)) => {
            let token = tools
                .vault
                .open_str(&format!("line:token:{line}"), sealed)
                .map_err(|error| Failure::unauthorized(error.to_string()))?;
            Ok(tools.meta.with_account(account, sender.portfolio.clone().unwrap_or_default(), token))
        }
        _ => Ok(tools.meta.clone()),
    }
}

/// Sends a second that the number may do.
fn level(sender: &Sender) -> u32 {
    if sender.throughput.as_deref() == Some("HIGH") { RATE_HIGH } else { RATE_STANDARD }
}

/// Commits a claim: attempts of those that go, and why the others do not. Returns those that were to go, and who of them may.
async fn commit(db: PgPool, line: LineId, token: i64, claim: Claim) -> Committed {
    let ids: Vec<MessageId> = claim.go.iter().map(|message| message.message_id).collect();
    let committed = async {
        let mut tx = db.begin().await?;
        plans::by_key(&mut tx).await?;
        if !claim.held.is_empty() {
            messages::defer(&mut *tx, &claim.held).await?;
        }
        if !claim.refused.is_empty() {
            messages::refuse(&mut *tx, &claim.refused).await?;
            messages::tell(&mut *tx, &claim.refused.iter().map(|r| r.0).collect::<Vec<_>>()).await?;
        }
        let ours = if ids.is_empty() { Vec::new() } else { messages::attempt(&mut *tx, line, token, &ids).await? };
        tx.commit().await?;
        Ok(ours.into_iter().collect())
    };
    let committed = committed.await;
    (claim.go, committed)
}

/// Waits for a future that may not be there.
async fn maybe<T>(slot: &mut Option<Task<T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
