//! Processes that die or freeze in the middle of the work.

use crate::{
    books,
    campaign::Company,
    installation::{END_PATIENCE, Installation, Order, Pace, STOP_PATIENCE, eventually, eventually_each},
    process::Process,
};
use futures_util::future::join_all;
use simulators::{Config, Entry, Fault, FaultPlan, HookFault, HookPlan};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Installations side by side: a kill costs the time of a lease, and they wait for theirs together.
const SHARDS: usize = 6;
const CAMPAIGN_SHARDS: usize = 6;
const SUBMISSION: &str = "meta.template_create";
/// No answer comes in the time that anybody waits, in milliseconds.
const FOR_EVER_MS: u64 = 3_600_000;
/// For an order to come to a call of its provisioning.
const REACH_PATIENCE: Duration = Duration::from_secs(120);
/// How often the moment for a kill is looked for: it is short.
const STRIKE_PERIOD: Duration = Duration::from_millis(1);
/// For another worker to go on: a lease of five seconds, a beat, and a busy machine; less than any step or call may take.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(25);
/// Nothing happens for this long: then it is time that is missing.
const STILL: Duration = Duration::from_secs(7);
/// Time is moved by what Meta's review may take, and by less than an attempt is held for its status.
const PACE: Pace = Pace { still: Duration::from_secs(2), step: Duration::from_secs(61), patience: END_PATIENCE };

/// Where in a call the process dies.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The provider has heard the call and done nothing yet.
    Before,
    /// It is done, and its answer is on its way.
    During,
    /// The answer has arrived; perhaps it is being written down.
    After,
}

/// One death: at this moment of the next call of this operation.
type Drill = (&'static str, Moment);

/// Every moment of every call.
fn drills(calls: BTreeSet<&'static str>) -> Vec<Drill> {
    let moments = [Moment::Before, Moment::During, Moment::After];
    calls.into_iter().flat_map(|call| moments.map(|moment| (call, moment))).collect()
}

/// Each shard takes its part of the drills; what they met must be nearly all.
async fn share<F: Future<Output = usize>>(shards: usize, drills: Vec<Drill>, work: impl Fn(Vec<Drill>) -> F) {
    let parts = (0..shards).map(|shard| work(drills.iter().skip(shard).step_by(shards).copied().collect()));
    let hit: usize = join_all(parts).await.into_iter().sum();
    println!("{hit} of {} kills met their call", drills.len());
    assert!(hit * 10 >= drills.len() * 9, "only {hit} of {} calls were met: {drills:?}", drills.len());
}

/// A death that is planned.
struct Strike {
    drill: Drill,
    /// Calls of the operation that had been answered before.
    answered: usize,
}

impl Strike {
    fn plan(installation: &Installation, drill: Drill) -> Self {
        let fault = match drill.1 {
            Moment::Before => Some(Fault::Hang { ms: FOR_EVER_MS }),
            Moment::During => Some(Fault::HangAfter { ms: FOR_EVER_MS }),
            Moment::After => None,
        };
        if let Some(fault) = fault {
            installation.simulators.fault(FaultPlan { operation: drill.0.into(), fault, skip: 0, times: 1, only: None });
        }
        Self { drill, answered: answered(installation, drill.0) }
    }

    /// Kills the worker when the moment has come and starts another. Says whether it came.
    async fn land(self, installation: &Installation, worker: Process) -> (Process, bool) {
        let (operation, moment) = self.drill;
        let come = || async {
            let come = match moment {
                Moment::Before => hanging(installation, operation, false),
                Moment::During => hanging(installation, operation, true),
                Moment::After => answered(installation, operation) > self.answered,
            };
            come.then_some(())
        };
        let hit = eventually_each(STRIKE_PERIOD, REACH_PATIENCE, come).await.is_some();
        worker.kill().await.expect("kill -9");
        installation.simulators.clear_plans();
        (installation.workers(), hit)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_during_and_after_every_call_it_buys_exactly_once() {
    let (provisioning, release) = calls_of_a_smooth_life().await;
    assert!(provisioning.len() >= 12, "a provisioning makes more calls than {provisioning:?}");
    assert!(release.contains("telnyx.release") && release.contains("meta.deregister"), "{release:?}");
    let back = drills(release);
    share(SHARDS, drills(provisioning), kill_at_birth).await;
    share(SHARDS, back, kill_at_the_end).await;
}

/// The operations at both providers that a line's provisioning and its release need, in the simulators' words.
async fn calls_of_a_smooth_life() -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let installation = Installation::open(Config::default()).await;
    let processes = (installation.front().await, installation.workers());
    let order = installation.order().await;
    assert_eq!(installation.end_of(std::slice::from_ref(&order), STILL, END_PATIENCE).await, ["succeeded"]);
    let provisioning = installation.simulators.journal();
    let release = installation.release(&order).await;
    assert_eq!(installation.end_of(&[release], STILL, END_PATIENCE).await, ["succeeded"]);
    let release = installation.simulators.journal().split_off(provisioning.len());
    drop(processes);
    installation.close().await;
    let operations = |calls: Vec<Entry>| calls.into_iter().map(|call| call.operation).collect();
    (operations(provisioning), operations(release))
}

/// One order and one death per drill; earlier orders are still on their way and are hit as well. Says how many met their call.
async fn kill_at_birth(drills: Vec<Drill>) -> usize {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let mut worker = installation.workers();
    let (mut orders, mut hits) = (Vec::new(), 0);
    for drill in drills {
        let strike = Strike::plan(&installation, drill);
        orders.push(installation.order().await);
        let (next, hit) = strike.land(&installation, worker).await;
        worker = next;
        hits += usize::from(hit);
    }
    let ends = installation.end_of(&orders, STILL, END_PATIENCE).await;
    assert!(ends.iter().all(|end| end == "succeeded"), "{ends:?}");
    books::balance(&installation, &orders).await;
    drop((front, worker));
    installation.close().await;
    hits
}

/// One live line and one death per drill, on its way back.
async fn kill_at_the_end(drills: Vec<Drill>) -> usize {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let mut worker = installation.workers();
    let mut orders = Vec::new();
    for _ in &drills {
        orders.push(installation.order().await);
    }
    let ends = installation.end_of(&orders, STILL, END_PATIENCE).await;
    assert!(ends.iter().all(|end| end == "succeeded"), "{ends:?}");
    let (mut releases, mut hits) = (Vec::new(), 0);
    for (order, drill) in orders.iter().zip(drills) {
        let strike = Strike::plan(&installation, drill);
        releases.push(installation.release(order).await);
        let (next, hit) = strike.land(&installation, worker).await;
        worker = next;
        hits += usize::from(hit);
    }
    let ends = installation.end_of(&releases, STILL, END_PATIENCE).await;
    assert!(ends.iter().all(|end| end == "succeeded"), "{ends:?}");
    books::balance(&installation, &orders).await;
    assert!(installation.simulators.books().is_empty_handed(), "all were given back");
    drop((front, worker));
    installation.close().await;
    hits
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_during_and_after_every_call_of_template_and_send_it_sends_once_or_says_why_not() {
    let calls = calls_of_a_campaign().await;
    assert!([SUBMISSION, "meta.templates", "meta.send"].iter().all(|call| calls.contains(call)), "{calls:?}");
    share(CAMPAIGN_SHARDS, drills(calls), kill_in_a_campaign).await;
}

/// The worst that is no death: the answer to the submission is lost (unless that call has troubles of its own), and nobody tells
/// of its review.
fn trouble(installation: &Installation, operation: &str) {
    if operation != SUBMISSION {
        installation.simulators.fault_next(SUBMISSION, Fault::LoseAnswer);
    }
    let review = "message_template_status_update".to_owned();
    installation.simulators.hook_fault(HookPlan { event: review, fault: HookFault::Drop, times: 0, only: None });
}

async fn calls_of_a_campaign() -> BTreeSet<&'static str> {
    let installation = Installation::open(Config::default()).await;
    let processes = (installation.front().await, installation.workers());
    let company = Company::open(&installation, 1, PACE).await;
    let before = installation.simulators.journal().len();
    trouble(&installation, "");
    campaign(&installation, &company, 0).await;
    let calls = installation.simulators.journal()[before..].iter().map(|entry| entry.operation).collect();
    drop(processes);
    installation.close().await;
    calls
}

/// A template that is approved, and two messages that use it: one that is sent at most once, one at least once.
async fn campaign(installation: &Installation, company: &Company<'_>, number: usize) {
    let name = format!("essai_{number}");
    let template = company.submit(&name).await;
    company.approved(&template, PACE).await;
    let invitation = |to: usize, delivery: &str| company.invitation(0, &name, &format!("+2126000{number:02}{to:03}"), delivery);
    company.send(&[invitation(1, "at_most_once"), invitation(2, "at_least_once")]).await;
    let open = async || {
        sqlx::query_as::<_, (i64, i64)>(
            "select count(*) filter (where status not in ('delivered', 'read', 'failed', 'parked')), sum(attempts) from message
             where direction = 'out'",
        )
        .fetch_one(&installation.db)
        .await
        .ok()
    };
    installation.until(PACE, open, |(open, _)| *open == 0).await;
}

/// One campaign and one death per drill.
async fn kill_in_a_campaign(drills: Vec<Drill>) -> usize {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let mut worker = installation.workers();
    let company = Company::open(&installation, 1, PACE).await;
    let (sent, mut hits) = (2 * drills.len(), 0);
    for (number, drill) in drills.into_iter().enumerate() {
        let strike = Strike::plan(&installation, drill);
        trouble(&installation, drill.0);
        let (_, (next, hit)) = tokio::join!(campaign(&installation, &company, number), strike.land(&installation, worker));
        worker = next;
        hits += usize::from(hit);
        let created = |entry: &&Entry| entry.operation == SUBMISSION && entry.acted;
        let created = installation.simulators.journal().iter().filter(created).count();
        assert_eq!(created, number + 1, "{drill:?}: templates that Meta made");
    }
    let ends = books::messages(&installation, sent).await;
    println!("{ends:?}");
    assert!(!ends.contains_key("failed"), "{ends:?}");
    // Only the one that nobody may repeat can be left, and only if its call was heard and not obeyed.
    assert!(ends.get("parked").is_none_or(|parked| *parked <= 1), "{ends:?}");
    books::balance(&installation, &company.lines).await;
    drop((front, worker));
    installation.close().await;
    hits
}

/// Calls of this operation that took effect and were answered.
fn answered(installation: &Installation, operation: &str) -> usize {
    installation.simulators.journal().iter().filter(|entry| entry.operation == operation && entry.outcome == "ok").count()
}

/// Whether a call of this operation has had no answer, and has or has not taken effect.
fn hanging(installation: &Installation, operation: &str, acted: bool) -> bool {
    let journal = installation.simulators.journal();
    journal.iter().any(|entry| entry.operation == operation && entry.outcome == "open" && entry.acted == acted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_past_its_lease_writes_nothing_when_it_wakes() {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let frozen = installation.workers();
    // The number is bought, and the answer will come to a process that does not run.
    installation.simulators.fault_next("telnyx.order", Fault::HangAfter { ms: FOR_EVER_MS });
    let order = installation.order().await;
    let open = || async { hanging(&installation, "telnyx.order", true).then_some(()) };
    eventually(REACH_PATIENCE, open).await.expect("the order is placed");
    frozen.signal("STOP").await.expect("SIGSTOP");

    let other = installation.workers();
    let orders = [order];
    assert_eq!(installation.end_of(&orders, STILL, END_PATIENCE).await, ["succeeded"]);
    other.stop(STOP_PATIENCE).await.expect("it stops");
    let (before, calls) = (written(&installation).await, acts(&installation));

    installation.simulators.advance(Duration::from_millis(FOR_EVER_MS));
    frozen.signal("CONT").await.expect("SIGCONT");
    // Told to stop, it finishes what it believes to have in hand; once it is gone it can write nothing more.
    frozen.stop(STOP_PATIENCE).await.expect("it stops");
    assert_eq!(written(&installation).await, before, "the frozen worker wrote");
    assert_eq!(acts(&installation), calls, "the frozen worker acted");
    books::balance(&installation, &orders).await;
    drop(front);
    installation.close().await;
}

/// A fingerprint of everything that a run writes.
async fn written(installation: &Installation) -> Vec<(String, Option<String>)> {
    let mut tables = Vec::new();
    for table in ["durable.run", "durable.step", "purchase", "receipt", "number_call", "line"] {
        let fingerprint = format!("select md5(string_agg(row::text, ';' order by row::text)) from {table} as row");
        let row: Option<String> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(fingerprint)).fetch_one(&installation.db).await.expect("a fingerprint");
        tables.push((table.to_owned(), row));
    }
    tables
}

/// Calls that changed something at a provider.
fn acts(installation: &Installation) -> usize {
    let changing =
        ["telnyx.order", "telnyx.release", "meta.number_add", "meta.request_code", "meta.verify_code", "meta.register"];
    installation.simulators.journal().iter().filter(|entry| entry.acted && changing.contains(&entry.operation)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_runs_go_on_elsewhere_within_seconds() {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let doomed = installation.workers();
    installation.simulators.fault_next("telnyx.order", Fault::HangAfter { ms: FOR_EVER_MS });
    let order: Order = installation.order().await;
    let open = || async { hanging(&installation, "telnyx.order", true).then_some(()) };
    eventually(REACH_PATIENCE, open).await.expect("the order is placed");
    let other = installation.workers();
    // It is up: the time of its start is not the time of taking over.
    let beating = async || {
        let workers = sqlx::query_scalar::<_, i64>("select count(*) from apalis.workers").fetch_one(&installation.db);
        (workers.await.ok()? == 2).then_some(())
    };
    eventually(REACH_PATIENCE, beating).await.expect("two workers");
    let calls = installation.simulators.journal().len();
    doomed.kill().await.expect("kill -9");
    let killed = Instant::now();
    // No clock is moved here, and its call hangs: another call is proof that somebody went on.
    let went_on = || async { (installation.simulators.journal().len() > calls).then_some(()) };
    eventually(TAKE_OVER_PATIENCE, went_on).await.expect("the run goes on elsewhere");
    println!("it went on after {:?}", killed.elapsed());
    assert_eq!(installation.end_of(std::slice::from_ref(&order), STILL, END_PATIENCE).await, ["succeeded"]);
    books::balance(&installation, &[order]).await;
    drop((front, other));
    installation.close().await;
}
