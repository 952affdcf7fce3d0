//! Workflows: replay, retry, undo, signals, deadlines, children, cancel.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use chrono::{DateTime, Utc};
use domain::{Failure, Kind};
use durable::{Clock, Engine, Flow, Run, Signal, Workflow};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection, PgPool};
use std::{sync::Arc, time::Duration};
use support::{Process, Wire, World, commit, get, prepared, settle, settle_at_last, skip, steps, until};
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3600);

/// Buys, tells somebody, waits for a word, registers.
#[derive(Serialize, Deserialize, Default)]
struct Order {
    name: String,
    key: Option<String>,
    scope: Option<Uuid>,
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Word {
    text: String,
}

impl Signal for Word {
    const TOPIC: &'static str = "word";
}

impl Workflow<World> for Order {
    const NAME: &'static str = "order";
    type Output = String;
    fn key(&self) -> Option<String> {
        self.key.clone()
    }
    fn scope(&self) -> Option<Uuid> {
        self.scope
    }
    async fn run<'a>(self, run: &mut Run<'a>, world: &'a World) -> Flow<String> {
        run.compensate("release", world.undo("release"));
        let bought = run.step("buy", world.act("buy")).await?;
        run.compensate("unlink", world.undo("unlink"));
        run.step("link", world.act("link")).await?;
        let word = run.wait::<Word>(&self.name, HOUR, "somebody to say the word").await?;
        let Some(word) = word else { return run.fail(Failure::rejected("nobody said a word")) };
        run.step("register", world.act("register")).await?;
        Ok(format!("{bought} {}", word.text))
    }
}

struct Test {
    db: PgPool,
    clock: Clock,
    world: Arc<World>,
}

impl Test {
    async fn new(db: PgPool) -> Self {
        let clock = prepared(&db).await;
        Self { db, clock, world: Arc::default() }
    }
    fn engine(&self) -> Engine<World> {
        Engine::new(self.db.clone(), self.clock.clone(), self.world.clone())
            .workflow::<Order>()
            .workflow::<Parent>()
            .workflow::<Twice>()
            .workflow::<Choose>()
            .workflow::<Clockwork>()
            .workflow::<Brittle>()
    }
    /// As this, over a wire.
    fn over(&self, wire: &Wire) -> Process {
        Process::start(Self { db: wire.pool(), clock: self.clock.clone(), world: self.world.clone() }.engine())
    }
    fn process(&self) -> Process {
        Process::start(self.engine())
    }
    async fn order(&self, name: &str) -> Uuid {
        self.start(&Order { name: name.into(), ..Order::default() }).await
    }
    async fn start<W: Workflow<World>>(&self, input: &W) -> Uuid {
        commit(&self.db, async |tx| durable::start(tx, input).await).await
    }
    async fn say(&self, key: &str, text: &str) {
        commit(&self.db, async |tx| durable::signal(tx, key, &Word { text: text.into() }).await).await;
    }
    async fn status(&self, run: Uuid) -> String {
        get(&self.db, run).await.status
    }
}

#[sqlx::test(migrations = false)]
async fn a_run_does_each_act_once_and_its_answers_are_replayed(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    let waiting = get(&test.db, run).await;
    assert_eq!((waiting.status.as_str(), waiting.waiting_for.as_deref()), ("waiting", Some("somebody to say the word")));
    test.say("a", "go").await;
    settle(&test.db).await;
    let ended = get(&test.db, run).await;
    assert_eq!((ended.status.as_str(), ended.output), ("succeeded", Some("1 go".into())));
    assert_eq!(test.world.done(), ["buy", "link", "register"]);
    assert_eq!(steps(&test.db, run).await, ["buy done 1", "link done 1", "wait word done 0", "register done 1"]);
}

#[sqlx::test(migrations = false)]
async fn a_signal_before_the_wait_is_kept_and_taken_once(db: PgPool) {
    let test = Test::new(db).await;
    test.say("a", "early").await;
    let _process = test.process();
    let (first, second) = (test.order("a").await, test.order("a").await);
    settle(&test.db).await;
    let mut statuses = [test.status(first).await, test.status(second).await];
    statuses.sort();
    assert_eq!(statuses, ["succeeded", "waiting"]);
}

#[sqlx::test(migrations = false)]
async fn a_crash_between_act_and_record_repeats_the_act_and_records_it_once(db: PgPool) {
    let test = Test::new(db).await;
    let gate = test.world.gate("buy");
    let process = test.process();
    let run = test.order("a").await;
    gate.reached().await;
    process.crash().await;
    test.world.no_gate("buy");
    support::lapse_all(&test.db).await;
    let _process = test.process();
    settle(&test.db).await;
    assert_eq!(test.world.times("buy"), 2);
    assert_eq!(steps(&test.db, run).await, ["buy done 1", "link done 1", "wait word waiting 0"]);
    test.say("a", "go").await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, run).await.output, Some("2 go".into()));
}

#[sqlx::test(migrations = false)]
async fn a_killed_workers_runs_go_on_elsewhere_within_ten_seconds(db: PgPool) {
    let test = Test::new(db).await;
    let gate = test.world.gate("link");
    let first = test.process();
    let run = test.order("a").await;
    gate.reached().await;
    let _second = test.process();
    let workers =
        async || -> i64 { sqlx::query_scalar("select count(*) from apalis.workers").fetch_one(&test.db).await.unwrap() };
    until(async || workers().await == 2).await;
    first.crash().await;
    let crashed = std::time::Instant::now();
    gate.reached().await;
    assert!(crashed.elapsed() < Duration::from_secs(10), "took {:?}", crashed.elapsed());
    gate.open();
    settle(&test.db).await;
    assert_eq!(steps(&test.db, run).await, ["buy done 1", "link done 1", "wait word waiting 0"]);
}

#[sqlx::test(migrations = false)]
async fn a_frozen_worker_that_comes_back_writes_nothing(db: PgPool) {
    let test = Test::new(db).await;
    let gate = test.world.gate("buy");
    let frozen = test.process();
    let run = test.order("a").await;
    gate.reached().await;
    // What others do meanwhile: declare it dead, claim its run.
    sqlx::query("update durable.run set seq = seq + 1 where run_id = $1").bind(run).execute(&test.db).await.unwrap();
    gate.open();
    // Its act ends, the record is refused, and it may not go on to the next step.
    frozen.stop().await;
    assert_eq!((test.world.times("buy"), test.world.times("link")), (1, 0));
    assert_eq!(steps(&test.db, run).await, [""; 0]);
    test.world.no_gate("buy");
    let _second = test.process();
    settle(&test.db).await;
    assert_eq!(steps(&test.db, run).await, ["buy done 1", "link done 1", "wait word waiting 0"]);
    assert_eq!(get(&test.db, run).await.steps[0].attempts, 1);
}

#[sqlx::test(migrations = false)]
async fn many_runs_are_signalled_at_once(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let mut runs = Vec::new();
    for i in 0..300 {
        runs.push(test.order(&i.to_string()).await);
    }
    settle(&test.db).await;
    let words = (0..300).map(|i| (i, Word { text: i.to_string() }));
    commit(&test.db, async |tx| durable::signal_all(tx, words).await).await;
    settle(&test.db).await;
    for (i, run) in runs.into_iter().enumerate() {
        assert!(get(&test.db, run).await.output.unwrap().as_str().unwrap().ends_with(&format!(" {i}")));
    }
}

#[sqlx::test(migrations = false)]
async fn silence_is_an_answer_and_the_run_is_undone_last_first(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    // To the second it is written down; what is looked at is looked at long before and after, for real time passes, too.
    let (asked, wakes): (DateTime<Utc>, DateTime<Utc>) = sqlx::query_as(
        "select started_at, wake_at from durable.run join durable.step using (run_id) where run_id = $1 and name = 'wait word'",
    )
    .bind(run)
    .fetch_one(&test.db)
    .await
    .unwrap();
    assert!((3_599..3_660).contains(&(wakes - asked).num_seconds()), "from {asked} to {wakes}");
    skip(&test.db, &test.clock, HOUR / 2).await;
    assert_eq!(test.status(run).await, "waiting");
    skip(&test.db, &test.clock, HOUR / 2).await;
    let ended = get(&test.db, run).await;
    assert_eq!((ended.status.as_str(), ended.error.unwrap().why.as_str()), ("undone", "nobody said a word"));
    assert_eq!(test.world.done(), ["buy", "link", "unlink", "release"]);
}

#[sqlx::test(migrations = false)]
async fn a_deadline_is_kept_over_restarts(db: PgPool) {
    let test = Test::new(db).await;
    let process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    skip(&test.db, &test.clock, HOUR / 2).await;
    let wake = "select wake_at from durable.run where run_id = $1";
    let before: DateTime<Utc> = sqlx::query_scalar(wake).bind(run).fetch_one(&test.db).await.unwrap();
    // A word for somebody else's order wakes this run by hand: it must lie down to the same hour.
    process.stop().await;
    let _process = test.process();
    sqlx::query("select durable.wake(array[$1])").bind(run).execute(&test.db).await.unwrap();
    settle(&test.db).await;
    let after: DateTime<Utc> = sqlx::query_scalar(wake).bind(run).fetch_one(&test.db).await.unwrap();
    assert_eq!(before, after);
    skip(&test.db, &test.clock, HOUR / 2).await;
    assert_eq!(test.status(run).await, "undone");
}

#[sqlx::test(migrations = false)]
async fn transient_and_unclear_failures_are_counted_and_throttles_are_not(db: PgPool) {
    let test = Test::new(db).await;
    test.world.fails("buy", Failure::transient("busy").after(Duration::from_secs(60)));
    test.world.fails("buy", Failure::throttled("slowly", Duration::from_secs(300)));
    test.world.fails("buy", Failure::unclear("no answer"));
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    let between = get(&test.db, run).await;
    assert_eq!(
        (between.status.as_str(), between.steps[0].status.as_str(), between.steps[0].attempts),
        ("running", "retrying", 1)
    );
    assert!(between.waiting_for.unwrap().starts_with("buy: busy; again in"));
    skip(&test.db, &test.clock, Duration::from_secs(65)).await;
    assert_eq!((test.world.times("buy"), steps(&test.db, run).await[0].as_str()), (2, "buy retrying 1"));
    skip(&test.db, &test.clock, Duration::from_secs(295)).await;
    skip(&test.db, &test.clock, Duration::from_secs(10)).await;
    assert_eq!((test.world.times("buy"), steps(&test.db, run).await[0].as_str()), (4, "buy done 3"));
}

#[sqlx::test(migrations = false)]
async fn a_spent_budget_is_a_failure(db: PgPool) {
    let test = Test::new(db).await;
    test.world.fails_times(durable::STEP_ATTEMPTS as usize, "link", &Failure::transient("down"));
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    skip(&test.db, &test.clock, 2 * HOUR).await;
    assert_eq!(test.world.times("link"), durable::STEP_ATTEMPTS as usize);
    assert_eq!(test.status(run).await, "undone");
    assert_eq!(test.world.times("release"), 1);
}

#[sqlx::test(migrations = false)]
async fn a_panicking_step_is_tried_again_and_its_worker_lives(db: PgPool) {
    let test = Test::new(db).await;
    // So often that it takes the engine's own delays a minute: nobody is too late to see it wait.
    test.world.fails_times(6, "buy", &Failure::transient("panic"));
    let process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    process.stop().await;
    assert!(get(&test.db, run).await.waiting_for.unwrap().contains("panicked: told to panic"));
    let _process = test.process();
    skip(&test.db, &test.clock, Duration::from_secs(300)).await;
    assert_eq!(steps(&test.db, run).await[0], "buy done 7");
}

#[sqlx::test(migrations = false)]
async fn refused_keys_call_a_person_and_retry_goes_on(db: PgPool) {
    let test = Test::new(db).await;
    test.world.fails_times(2, "buy", &Failure::unauthorized("bad key"));
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    let waiting = get(&test.db, run).await;
    assert_eq!(waiting.status, "waiting");
    assert!(waiting.waiting_for.unwrap().starts_with("a person: buy"));
    assert!(commit(&test.db, async |tx| durable::retry(tx, run).await).await);
    settle(&test.db).await;
    assert_eq!((test.world.times("buy"), test.status(run).await.as_str()), (2, "waiting"));
    skip(&test.db, &test.clock, durable::PERSON_PATIENCE).await;
    assert_eq!(steps(&test.db, run).await[0], "buy done 1");
    // Now it waits for a word, which a retry is not.
    assert!(!commit(&test.db, async |tx| durable::retry(tx, run).await).await);
}

#[sqlx::test(migrations = false)]
async fn a_refused_undo_is_stuck_until_somebody_retries(db: PgPool) {
    let test = Test::new(db).await;
    test.world.fails("link", Failure::rejected("no"));
    test.world.fails("unlink", Failure::transient("later").after(Duration::from_secs(60)));
    test.world.fails("unlink", Failure::rejected("never"));
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    assert_eq!(test.status(run).await, "undoing");
    skip(&test.db, &test.clock, Duration::from_secs(65)).await;
    let stuck = get(&test.db, run).await;
    assert_eq!(
        (stuck.status.as_str(), stuck.waiting_for.as_deref()),
        ("stuck", Some("a person: undo unlink was refused: never"))
    );
    assert_eq!(stuck.error.unwrap().why, "no");
    assert_eq!(test.world.times("release"), 0);
    assert!(!commit(&test.db, async |tx| durable::cancel(tx, run).await).await);
    assert!(commit(&test.db, async |tx| durable::retry(tx, run).await).await);
    settle(&test.db).await;
    assert_eq!(test.status(run).await, "undone");
    assert_eq!(test.world.done(), ["buy", "link", "unlink", "unlink", "unlink", "release"]);
    assert!(!commit(&test.db, async |tx| durable::retry(tx, run).await).await);
}

#[sqlx::test(migrations = false)]
async fn cancel_undoes_a_waiting_run_a_retrying_one_and_one_in_the_middle_of_a_step(db: PgPool) {
    let test = Test::new(db).await;
    test.world.fails("buy", Failure::transient("busy").after(HOUR));
    let process = test.process();
    let retrying = test.order("r").await;
    settle(&test.db).await;
    let waiting = test.order("w").await;
    settle(&test.db).await;
    for run in [retrying, waiting] {
        assert!(commit(&test.db, async |tx| durable::cancel(tx, run).await).await);
        assert!(!commit(&test.db, async |tx| durable::cancel(tx, run).await).await);
    }
    settle(&test.db).await;
    assert_eq!(test.status(retrying).await, "cancelled");
    assert_eq!(steps(&test.db, retrying).await, ["buy abandoned 1", "undo release done 1"]);
    assert_eq!(test.status(waiting).await, "cancelled");
    assert_eq!(
        steps(&test.db, waiting).await,
        ["buy done 1", "link done 1", "wait word abandoned 0", "undo unlink done 1", "undo release done 1"]
    );
    let gate = test.world.gate("link");
    let midst = test.order("m").await;
    gate.reached().await;
    assert!(commit(&test.db, async |tx| durable::cancel(tx, midst).await).await);
    gate.open();
    settle(&test.db).await;
    assert_eq!(test.status(midst).await, "cancelled");
    assert_eq!(steps(&test.db, midst).await, ["buy done 1", "link done 1", "undo unlink done 1", "undo release done 1"]);
    // Never begun.
    process.stop().await;
    let unborn = test.order("u").await;
    assert!(commit(&test.db, async |tx| durable::cancel(tx, unborn).await).await);
    let _process = test.process();
    settle(&test.db).await;
    assert_eq!(
        (test.status(unborn).await.as_str(), steps(&test.db, unborn).await),
        ("cancelled", vec!["undo release done 1".to_owned()])
    );
    assert!(!commit(&test.db, async |tx| durable::cancel(tx, unborn).await).await);
}

#[sqlx::test(migrations = false)]
async fn a_keyed_start_is_one_run_and_a_scope_hides_it(db: PgPool) {
    let test = Test::new(db).await;
    let mine = Uuid::now_v7();
    let input = Order { name: "k".into(), key: Some("order 7".into()), scope: Some(mine) };
    let first = test.start(&input).await;
    let again = test.start(&input).await;
    assert_eq!(first, again);
    let mut together = Vec::new();
    for _ in 0..4 {
        let db = test.db.clone();
        together.push(tokio::spawn(async move {
            let input = Order { key: Some("order 8".into()), ..Order::default() };
            commit(&db, async |tx| durable::start(tx, &input).await).await
        }));
    }
    let mut ids = std::collections::HashSet::new();
    for one in together {
        ids.insert(one.await.unwrap());
    }
    assert_eq!(ids.len(), 1);
    assert!(durable::runs::get(&test.db, first, Some(mine)).await.unwrap().is_some());
    assert!(durable::runs::get(&test.db, first, Some(Uuid::now_v7())).await.unwrap().is_none());
    let all = durable::runs::list(&test.db, &durable::runs::Filter { limit: 1, ..Default::default() }).await.unwrap();
    let rest = durable::runs::Filter { before: all.next_cursor, scope: Some(mine), ..Default::default() };
    let rest = durable::runs::list(&test.db, &rest).await.unwrap();
    assert_eq!((all.data.len(), rest.data.len(), rest.next_cursor), (1, 1, None));
    assert_eq!(rest.data[0].id, first);
}

/// Starts a child, waits for its end.
#[derive(Serialize, Deserialize)]
struct Parent {
    child: String,
}

impl Workflow<World> for Parent {
    const NAME: &'static str = "parent";
    type Output = String;
    async fn run<'a>(self, run: &mut Run<'a>, world: &'a World) -> Flow<String> {
        let child = run.start("child", &Order { name: self.child, ..Order::default() }).await?;
        run.step("after", world.act("after")).await?;
        match run.join::<String>(child).await? {
            Ok(output) => Ok(output),
            Err(failure) => run.fail(failure),
        }
    }
}

#[sqlx::test(migrations = false)]
async fn a_child_is_started_exactly_once_and_its_end_is_heard(db: PgPool) {
    let test = Test::new(db).await;
    let gate = test.world.gate("after");
    let process = test.process();
    let good = test.start(&Parent { child: "good".into() }).await;
    gate.reached().await;
    // The child at rest: an act of its own that the crash cut off would be done again.
    until(async || {
        let resting = "select count(*) from durable.run where workflow = 'order' and status = 'waiting'";
        sqlx::query_scalar::<_, i64>(resting).fetch_one(&test.db).await.unwrap() == 1
    })
    .await;
    process.crash().await;
    test.world.no_gate("after");
    support::lapse_all(&test.db).await;
    let _process = test.process();
    settle(&test.db).await;
    let bad = test.start(&Parent { child: "bad".into() }).await;
    settle(&test.db).await;
    assert_eq!((test.status(good).await.as_str(), test.world.times("buy")), ("waiting", 2));
    test.say("good", "yes").await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, good).await.output, Some("1 yes".into()));
    skip(&test.db, &test.clock, HOUR).await;
    let bad = get(&test.db, bad).await;
    assert_eq!((bad.status.as_str(), bad.error.unwrap().why.as_str()), ("undone", "nobody said a word"));
    let children: i64 =
        sqlx::query_scalar("select count(*) from durable.run where workflow = 'order'").fetch_one(&test.db).await.unwrap();
    assert_eq!(children, 2);
}

/// The same names again and again.
#[derive(Serialize, Deserialize)]
struct Twice {}

impl Workflow<World> for Twice {
    const NAME: &'static str = "twice";
    type Output = Vec<u32>;
    async fn run<'a>(self, run: &mut Run<'a>, world: &'a World) -> Flow<Vec<u32>> {
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(run.step("same", world.act("same")).await?);
            run.sleep("pause", HOUR).await?;
        }
        Ok(answers)
    }
}

#[sqlx::test(migrations = false)]
async fn repeated_names_are_numbered_and_sleeps_end_on_time(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.start(&Twice {}).await;
    settle(&test.db).await;
    skip(&test.db, &test.clock, 2 * HOUR + HOUR / 2).await;
    assert_eq!(test.world.times("same"), 3);
    skip(&test.db, &test.clock, HOUR).await;
    assert_eq!(get(&test.db, run).await.output, Some(serde_json::json!([1, 2, 3])));
    let names: Vec<String> = get(&test.db, run).await.steps.into_iter().map(|step| step.name).collect();
    assert_eq!(names, ["same", "pause", "same #2", "pause #2", "same #3", "pause #3"]);
}

/// A refusal is an answer here.
#[derive(Serialize, Deserialize)]
struct Choose {}

impl Workflow<World> for Choose {
    const NAME: &'static str = "choose";
    type Output = String;
    async fn run<'a>(self, run: &mut Run<'a>, world: &'a World) -> Flow<String> {
        let first = run.attempt("first", world.act("first")).await?;
        run.sleep("pause", HOUR).await?;
        match first {
            Ok(_) => Ok("first".into()),
            Err(failure) => run.step("second", world.act("second")).await.map(|_| format!("second: {}", failure.why)),
        }
    }
}

#[sqlx::test(migrations = false)]
async fn an_attempts_refusal_is_recorded_and_replayed(db: PgPool) {
    let test = Test::new(db).await;
    test.world.fails("first", Failure::new(Kind::Rejected, "taken"));
    let _process = test.process();
    let run = test.start(&Choose {}).await;
    skip(&test.db, &test.clock, HOUR * 2).await;
    assert_eq!(get(&test.db, run).await.output, Some("second: taken".into()));
    assert_eq!(test.world.times("first"), 1);
}

/// Asks for the time twice.
#[derive(Serialize, Deserialize)]
struct Clockwork {}

impl Workflow<World> for Clockwork {
    const NAME: &'static str = "clockwork";
    type Output = i64;
    async fn run<'a>(self, run: &mut Run<'a>, _: &'a World) -> Flow<i64> {
        let before = run.now().await?;
        run.sleep("night", 8 * HOUR).await?;
        Ok((run.now().await? - before).num_hours())
    }
}

#[sqlx::test(migrations = false)]
async fn time_is_recorded_and_follows_the_sandbox(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.start(&Clockwork {}).await;
    settle(&test.db).await;
    skip(&test.db, &test.clock, 24 * HOUR).await;
    assert_eq!(get(&test.db, run).await.output, Some(8.into()));
}

#[sqlx::test(migrations = false)]
async fn unknown_workflows_and_unreadable_inputs_are_parked_and_can_be_retried(db: PgPool) {
    let test = Test::new(db).await;
    let stranger = Engine::new(test.db.clone(), test.clock.clone(), test.world.clone()).workflow::<Twice>();
    let process = Process::start(stranger);
    let run = test.order("a").await;
    let garbled = test.start(&Twice {}).await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, run).await.waiting_for.as_deref(), Some("a person: this program knows no workflow order"));
    assert_eq!((test.status(run).await.as_str(), test.world.done().len()), ("stuck", 1));
    process.stop().await;
    sqlx::query("update durable.run set input = '[1]' where run_id = $1").bind(garbled).execute(&test.db).await.unwrap();
    skip_without_engine(&test, garbled).await;
    let _process = test.process();
    settle(&test.db).await;
    let parked = get(&test.db, garbled).await;
    assert_eq!(parked.status, "stuck");
    assert!(parked.waiting_for.unwrap().starts_with("a person: the input of twice cannot be read"));
    assert!(commit(&test.db, async |tx| durable::retry(tx, run).await).await);
    settle(&test.db).await;
    assert_eq!(test.status(run).await, "waiting");
}

async fn skip_without_engine(test: &Test, run: Uuid) {
    sqlx::query("select durable.wake(array[$1])").bind(run).execute(&test.db).await.unwrap();
}

#[sqlx::test(migrations = false)]
async fn an_operator_signals_by_names_alone(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    let word = serde_json::json!({"text": "by hand"});
    commit(&test.db, async |tx| durable::signal_raw(tx, "word", "a", &word).await).await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, run).await.output, Some("1 by hand".into()));
}

#[sqlx::test(migrations = false)]
async fn rolled_back_starts_and_signals_never_were(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.order("a").await;
    settle(&test.db).await;
    let mut tx = test.db.begin().await.unwrap();
    durable::start(&mut tx, &Twice {}).await.unwrap();
    durable::signal(&mut tx, "a", &Word { text: "no".into() }).await.unwrap();
    tx.rollback().await.unwrap();
    settle(&test.db).await;
    assert_eq!((test.status(run).await.as_str(), test.world.times("same")), ("waiting", 0));
}

#[sqlx::test(migrations = false)]
async fn every_run_ends_though_connections_die_all_the_time(db: PgPool) {
    const RUNS: usize = 200;
    let test = Test::new(db).await;
    let _processes = [test.process(), test.process()];
    let mut runs = Vec::new();
    for i in 0..RUNS {
        runs.push(test.order(&i.to_string()).await);
    }
    // The killer's own connection is the one that lives.
    let mut killer = PgConnection::connect_with(&test.db.connect_options()).await.unwrap();
    let killer = tokio::spawn(async move {
        let mut killed = 0;
        while killed <= 40 {
            killed += sqlx::query_scalar::<_, i64>(
                // It returns when they are gone: none dies of this when all is over.
                "select count(pg_terminate_backend(pid, 60000)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
            )
            .fetch_one(&mut killer)
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    for i in 0..RUNS {
        // The sender's own connection dies too: he asks again, as everybody must.
        loop {
            let sent = async {
                let mut tx = test.db.begin().await?;
                let known: bool = sqlx::query_scalar("select exists(select from durable.mail where key = $1) or exists(select from durable.step join durable.run using (run_id) where name = 'wait word' and step.status = 'done' and input->>'name' = $1)")
                    .bind(i.to_string())
                    .fetch_one(&mut *tx)
                    .await?;
                if !known {
                    durable::signal(&mut tx, i, &Word { text: "go".into() }).await?;
                }
                tx.commit().await?;
                Ok::<_, Failure>(())
            };
            if sent.await.is_ok() {
                break;
            }
        }
    }
    killer.await.unwrap();
    settle(&test.db).await;
    for run in runs {
        assert_eq!(test.status(run).await, "succeeded");
        assert_eq!(steps(&test.db, run).await.len(), 4);
    }
}

#[sqlx::test(migrations = false)]
async fn of_two_signals_at_once_the_first_is_the_answer_and_the_second_stays(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let first = test.order("a").await;
    settle(&test.db).await;
    let words = ["one", "two", "three"].map(|text| ("a", Word { text: text.into() }));
    commit(&test.db, async |tx| durable::signal_all(tx, words).await).await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, first).await.output, Some("1 one".into()));
    let second = test.order("a").await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, second).await.output, Some("2 two".into()));
    let left: i64 = sqlx::query_scalar("select count(*) from durable.mail").fetch_one(&test.db).await.unwrap();
    assert_eq!(left, 1);
}

#[sqlx::test(migrations = false)]
async fn two_who_wait_for_one_mailbox_get_a_signal_each(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let waiting = [test.order("a").await, test.order("a").await, test.order("a").await];
    settle(&test.db).await;
    let words = ["one", "two"].map(|text| ("a", Word { text: text.into() }));
    commit(&test.db, async |tx| durable::signal_all(tx, words).await).await;
    settle(&test.db).await;
    let mut statuses = Vec::new();
    for run in waiting {
        statuses.push(test.status(run).await);
    }
    statuses.sort();
    assert_eq!(statuses, ["succeeded", "succeeded", "waiting"]);
    test.say("a", "three").await;
    settle(&test.db).await;
    for run in waiting {
        assert_eq!(test.status(run).await, "succeeded");
    }
}

#[sqlx::test(migrations = false)]
async fn a_child_whose_commit_is_not_answered_is_started_once(db: PgPool) {
    let test = Test::new(db).await;
    let run = test.start(&Parent { child: "c".into() }).await;
    // The record of the child, which is in the child's transaction.
    let wire = Wire::losing(&test.db, "'done', 1, $4::json", "COMMIT").await;
    let _process = test.over(&wire);
    wire.lost().await;
    wire.cut();
    settle(&test.db).await;
    assert_eq!((test.status(run).await.as_str(), test.world.times("buy")), ("waiting", 1));
    test.say("c", "go").await;
    settle(&test.db).await;
    assert_eq!(get(&test.db, run).await.output, Some("1 go".into()));
}

#[sqlx::test(migrations = false)]
async fn who_does_not_hear_that_his_run_lies_down_takes_it_from_nobody(db: PgPool) {
    let test = Test::new(db).await;
    let run = test.order("a").await;
    let wire = Wire::losing(&test.db, "wait word", "COMMIT").await;
    let _process = test.over(&wire);
    wire.lost().await;
    // It lies down, wakes, and is in the same worker's hands again, before that worker hears that its first hold is over.
    let gate = test.world.gate("register");
    test.say("a", "go").await;
    gate.reached().await;
    wire.cut();
    // The journal's hand for lying down is the one that was cut: when this has come through, it has asked again.
    let other = test.order("b").await;
    until(async || test.status(other).await == "waiting").await;
    let held: i64 =
        sqlx::query_scalar("select count(*) from apalis.jobs where lock_by is not null").fetch_one(&test.db).await.unwrap();
    assert_eq!(held, 1);
    gate.open();
    settle(&test.db).await;
    assert_eq!((test.status(run).await.as_str(), test.world.times("register")), ("succeeded", 1));
}

#[sqlx::test(migrations = false)]
async fn a_mailbox_that_the_database_cannot_index_is_its_own_runs_trouble(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    // Too long for a page of an index, and without anything to compress.
    let name: String = (0..300).map(|_| Uuid::new_v4().simple().to_string()).collect();
    let (long, short) = (test.order(&name).await, test.order("short").await);
    settle_at_last(&test.db, "the others go on").await;
    assert_eq!((test.status(long).await.as_str(), test.status(short).await.as_str()), ("stuck", "waiting"));
    assert!(get(&test.db, long).await.waiting_for.unwrap().contains("index row"));
}

#[sqlx::test(migrations = false)]
async fn a_recorded_failure_that_cannot_be_read_stops_no_other_run(db: PgPool) {
    let test = Test::new(db).await;
    let process = test.process();
    let (odd, good) = (test.order("odd").await, test.order("good").await);
    settle(&test.db).await;
    process.stop().await;
    sqlx::query("update durable.run set error = '{\"odd\": 1}' where run_id = $1").bind(odd).execute(&test.db).await.unwrap();
    test.say("odd", "go").await;
    test.say("good", "go").await;
    let _process = test.process();
    settle_at_last(&test.db, "the others go on").await;
    assert_eq!((test.status(odd).await.as_str(), test.status(good).await.as_str()), ("undone", "succeeded"));
}

/// Its input cannot even be read.
#[derive(Serialize, Deserialize)]
struct Brittle {
    #[serde(deserialize_with = "panics")]
    name: String,
}

fn panics<'d, D: serde::Deserializer<'d>>(_: D) -> Result<String, D::Error> {
    panic!("told to panic")
}

impl Workflow<World> for Brittle {
    const NAME: &'static str = "brittle";
    type Output = ();
    async fn run<'a>(self, _: &mut Run<'a>, _: &'a World) -> Flow<()> {
        Ok(())
    }
}

#[sqlx::test(migrations = false)]
async fn an_input_whose_reading_panics_is_stuck(db: PgPool) {
    let test = Test::new(db).await;
    let _process = test.process();
    let run = test.start(&Brittle { name: "b".into() }).await;
    settle_at_last(&test.db, "nobody holds on to it").await;
    let run = get(&test.db, run).await;
    assert_eq!(
        (run.status.as_str(), run.waiting_for.as_deref()),
        ("stuck", Some("a person: the workflow panicked: told to panic"))
    );
}

#[sqlx::test(migrations = false)]
async fn ended_runs_are_forgotten_children_after_their_parents_and_keys_never(db: PgPool) {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let test = Test::new(db).await;
    let _process = Process::start(test.engine().keep_runs(10 * DAY));
    let keyed = Order { name: "k".into(), key: Some("order 7".into()), ..Order::default() };
    let (plain, keyed_run, parent) =
        (test.order("p").await, test.start(&keyed).await, test.start(&Parent { child: "c".into() }).await);
    settle(&test.db).await;
    // The parent is called to a person, and does not hear its child's end.
    sqlx::query("update durable.run set status = 'stuck', wait_topic = null, wait_key = null where run_id = $1")
        .bind(parent)
        .execute(&test.db)
        .await
        .unwrap();
    for name in ["p", "k", "c"] {
        test.say(name, "go").await;
    }
    settle(&test.db).await;
    let runs = async || -> Vec<String> {
        sqlx::query_scalar("select status || ' ' || coalesce(key, workflow) from durable.run order by created_at, run_id")
            .fetch_all(&test.db)
            .await
            .unwrap()
    };
    let all = ["succeeded order", "succeeded order 7", "stuck parent", "succeeded order"];
    skip(&test.db, &test.clock, 9 * DAY).await;
    assert_eq!(runs().await, all);
    skip(&test.db, &test.clock, 2 * DAY).await;
    assert_eq!(runs().await, all[1..]);
    let left: i64 = sqlx::query_scalar("select count(*) from durable.step where run_id = any($1)")
        .bind([plain, keyed_run])
        .fetch_one(&test.db)
        .await
        .unwrap();
    assert_eq!((left, test.start(&keyed).await), (0, keyed_run));
    // The parent's child is there as long as the parent may ask for it.
    assert!(commit(&test.db, async |tx| durable::retry(tx, parent).await).await);
    settle(&test.db).await;
    assert_eq!(test.status(parent).await, "succeeded");
    skip(&test.db, &test.clock, 9 * DAY).await;
    assert_eq!(runs().await.len(), 3);
    skip(&test.db, &test.clock, 2 * DAY).await;
    assert_eq!(runs().await, ["succeeded order 7"]);
}
