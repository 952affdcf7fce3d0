//! Jobs, cron and the clock.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod support;

use chrono::{DateTime, Timelike as _, Utc};
use domain::Failure;
use durable::{Clock, Ctx, Engine, Job, Options};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use support::{PATIENCE, Process, Wire, World, commit, prepared, settle, settle_at_last, skip};

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
struct Note {
    name: String,
}

impl Job<World> for Note {
    const QUEUE: &'static str = "note";
    const ATTEMPTS: i32 = 3;
    async fn run(self, world: &World, ctx: &Ctx) -> Result<(), Failure> {
        world.act(&format!("{} {}", self.name, ctx.attempt)).await.map(|_| ())
    }
}

#[derive(Serialize, Deserialize)]
struct Tick {
    at: DateTime<Utc>,
}

impl Job<World> for Tick {
    const QUEUE: &'static str = "tick";
    const CONCURRENCY: usize = 1;
    async fn run(self, world: &World, _: &Ctx) -> Result<(), Failure> {
        world.act(&format!("tick {}", self.at.format("%H:%M"))).await.map(|_| ())
    }
}

fn engine(db: &PgPool, clock: &Clock, world: &Arc<World>) -> Engine<World> {
    Engine::new(db.clone(), clock.clone(), world.clone()).job::<Note>()
}

async fn note(db: &PgPool, name: &str, options: Options) -> bool {
    commit(db, async |tx| durable::enqueue_with(tx, &Note { name: name.into() }, options).await).await
}

async fn jobs(db: &PgPool) -> Vec<(String, i32)> {
    sqlx::query_as("select status, attempts from apalis.jobs order by id").fetch_all(db).await.unwrap()
}

#[sqlx::test(migrations = false)]
async fn setup_runs_side_by_side_and_again(db: PgPool) {
    let (one, two, three) = tokio::join!(durable::setup(&db), durable::setup(&db), durable::setup(&db));
    one.and(two).and(three).unwrap();
    durable::setup(&db).await.unwrap();
}

#[sqlx::test(migrations = false)]
async fn a_job_is_tried_again_with_delays_and_then_dead(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    // So much later that nobody sees it come by itself; the others after the engine's own delays.
    world.fails("a 1", Failure::transient("busy").after(Duration::from_secs(600)));
    for attempt in 2..=3 {
        world.fails(&format!("a {attempt}"), Failure::transient("busy"));
    }
    world.fails("b 1", Failure::rejected("no"));
    world.fails("c 1", Failure::throttled("slowly", HOUR));
    world.fails("d 1", Failure::transient("panic"));
    let _process = Process::start(engine(&db, &clock, &world));
    for name in ["a", "b", "c", "d"] {
        note(&db, name, Options::default()).await;
    }
    settle(&db).await;
    assert_eq!((world.times("a 2"), world.times("d 1")), (0, 1));
    skip(&db, &clock, Duration::from_secs(660)).await;
    assert_eq!((world.times("a 3"), world.times("a 4"), world.times("c 1"), world.times("d 2")), (1, 0, 1, 1));
    skip(&db, &clock, HOUR).await;
    assert_eq!(world.times("c 1"), 2);
    // The dead stay to be seen, the done are gone.
    assert_eq!(jobs(&db).await, [("Killed".to_owned(), 3), ("Killed".to_owned(), 1)]);
    let dead = durable::dead::list(&db, 10).await.unwrap();
    let told: Vec<_> = dead.iter().map(|job| (job.attempts, job.error.as_ref().unwrap().why.as_str())).collect();
    assert_eq!(told, [(1, "no"), (3, "busy")]);
    assert_eq!(durable::dead::count(&db).await.unwrap(), 2);
    // Once its cause is mended, a person has it tried again, once.
    assert!(commit(&db, async |tx| durable::dead::retry(tx, &dead[0].id).await).await);
    assert!(!commit(&db, async |tx| durable::dead::retry(tx, &dead[0].id).await).await);
    settle(&db).await;
    assert_eq!((world.times("b 1"), durable::dead::count(&db).await.unwrap()), (2, 1));
}

#[sqlx::test(migrations = false)]
async fn an_unreadable_payload_is_dead_and_kills_nobody(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    note(&db, "bad", Options::default()).await;
    sqlx::query("update apalis.jobs set job = 'not JSON'").execute(&db).await.unwrap();
    note(&db, "good", Options::default()).await;
    let _process = Process::start(engine(&db, &clock, &world));
    settle(&db).await;
    assert_eq!(world.done(), ["good 1"]);
    assert_eq!(jobs(&db).await, [("Killed".to_owned(), 1)]);
}

#[sqlx::test(migrations = false)]
async fn a_key_is_one_job_and_one_that_runs_is_run_again(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    let key = || Options { key: Some("lane".into()), ..Options::default() };
    assert!(note(&db, "k", key()).await);
    assert!(!note(&db, "k", key()).await);
    let gate = world.gate("k 1");
    let _process = Process::start(engine(&db, &clock, &world));
    gate.reached().await;
    assert!(!note(&db, "k", key()).await);
    assert!(!note(&db, "k", key()).await);
    gate.open();
    gate.reached().await;
    gate.open();
    settle(&db).await;
    assert_eq!(world.times("k 1"), 2);
    world.no_gate("k 1");
    assert!(note(&db, "k", key()).await, "the key is free again");
    settle(&db).await;
    assert_eq!(world.times("k 1"), 3);
}

#[sqlx::test(migrations = false)]
async fn what_commits_after_the_keyed_job_has_looked_makes_it_look_again(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    let key = || Options { key: Some("lane".into()), ..Options::default() };
    note(&db, "k", key()).await;
    // Meets the waiting job, and commits only when that is done and gone.
    let mut late = db.begin().await.unwrap();
    assert!(!durable::enqueue_with(&mut late, &Note { name: "k".into() }, key()).await.unwrap());
    let _process = Process::start(engine(&db, &clock, &world));
    settle(&db).await;
    assert_eq!((world.times("k 1"), jobs(&db).await.len()), (1, 0));
    late.commit().await.unwrap();
    settle(&db).await;
    assert_eq!(world.times("k 1"), 2);
    let left: i64 = sqlx::query_scalar("select count(*) from durable.wanted").fetch_one(&db).await.unwrap();
    assert_eq!(left, 0);
}

#[sqlx::test(migrations = false)]
async fn priorities_go_first_and_later_ones_wait(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    for (name, priority, delay) in [("low", -1, 0), ("later", 9, 1), ("normal", 0, 0), ("high", 5, 0)] {
        let run_at = Some(clock.now() + chrono::Duration::hours(delay) - chrono::Duration::seconds(1));
        note(&db, name, Options { priority, run_at, key: None }).await;
    }
    let order: Vec<String> = sqlx::query_scalar("select convert_from(job, 'utf8')::json->>'name' from apalis.get_jobs(null, 'note', 10) with ordinality order by ordinality")
        .fetch_all(&db)
        .await
        .unwrap();
    assert_eq!(order, ["high", "normal", "low"]);
    sqlx::query("update apalis.jobs set status = 'Pending'").execute(&db).await.unwrap();
    let _process = Process::start(engine(&db, &clock, &world));
    settle(&db).await;
    assert_eq!((world.done().len(), world.times("later 1")), (3, 0));
}

#[sqlx::test(migrations = false)]
async fn a_stopped_engine_finishes_what_it_has_in_hand(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    let gate = world.gate("a 1");
    let process = Process::start(engine(&db, &clock, &world));
    note(&db, "a", Options::default()).await;
    gate.reached().await;
    gate.open();
    process.stop().await;
    assert_eq!(jobs(&db).await, []);
    let workers: i64 = sqlx::query_scalar("select count(*) from apalis.workers").fetch_one(&db).await.unwrap();
    assert_eq!(workers, 0);
}

#[sqlx::test(migrations = false)]
async fn a_tick_fires_once_over_three_engines_and_missed_ones_are_caught_up(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    // Half an hour away: however slow the machine, time reaches it only as it is moved. The hour is a round one in Casablanca, too.
    let minute = half_an_hour_away(&clock);
    let hourly = format!("0 {minute} * * * *");
    let engine = || engine(&db, &clock, &world).every("hourly", &hourly, chrono_tz::Africa::Casablanca, |at| Tick { at });
    let processes = [Process::start(engine()), Process::start(engine()), Process::start(engine())];
    wait_for_tick(&db).await;
    skip(&db, &clock, 5 * HOUR).await;
    let ticks = world.done();
    assert_eq!(ticks.len(), 5);
    assert!(ticks.iter().all(|tick| tick.ends_with(&format!(":{minute:02}"))), "{ticks:?}");
    for process in processes {
        process.stop().await;
    }
    // Nobody is there for a day.
    sqlx::query("update durable.clock set advanced_us = advanced_us + $1")
        .bind(24 * 3600 * 1_000_000_i64)
        .execute(&db)
        .await
        .unwrap();
    let _processes = [Process::start(engine()), Process::start(engine())];
    settle(&db).await;
    let ticks = world.done();
    assert_eq!(ticks.len(), 29);
    let mut each: Vec<_> = ticks[5..].to_vec();
    each.sort();
    each.dedup();
    assert_eq!(each.len(), 24);
}

#[sqlx::test(migrations = false)]
async fn of_a_patrol_s_missed_ticks_only_the_latest_fires_and_time_does_not_stop_for_it(db: PgPool) {
    let clock = prepared(&db).await;
    let world = Arc::new(World::default());
    let hourly = format!("0 {} * * * *", half_an_hour_away(&clock));
    let engine = engine(&db, &clock, &world).patrol("rounds", &hourly, chrono_tz::UTC, |at| Tick { at });
    let process = Process::start(engine);
    wait_for_tick(&db).await;
    skip(&db, &clock, Duration::from_secs(31 * 24 * 3_600)).await;
    let rounds = world.done();
    assert!((1..=2).contains(&rounds.len()), "{rounds:?}");
    let next: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select next_at from durable.tick where name = 'rounds'").fetch_one(&db).await.unwrap();
    let latest = (next - chrono::Duration::hours(1)).format("tick %H:%M").to_string();
    assert_eq!(rounds.last(), Some(&latest));
    process.stop().await;
}

/// The minute of every hour that is farthest from now.
fn half_an_hour_away(clock: &Clock) -> u32 {
    (clock.now().minute() + 30) % 60
}

/// The first engine to come up makes the schedule known.
async fn wait_for_tick(db: &PgPool) {
    while sqlx::query_scalar::<_, i64>("select count(*) from durable.tick").fetch_one(db).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
}

#[sqlx::test(migrations = false)]
async fn advancing_works_things_in_the_order_in_which_they_would_have_happened(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    let _process = Process::start(engine(&db, &clock, &world));
    for (name, hours) in [("third", 30), ("first", 1), ("second", 5), ("never", 1000)] {
        note(&db, name, Options { run_at: Some(clock.now() + chrono::Duration::hours(hours)), ..Options::default() }).await;
    }
    let before = clock.now();
    let advanced = durable::advance(&db, &clock, 31 * 24 * HOUR).await.unwrap();
    assert_eq!(world.done(), ["first 1", "second 1", "third 1"]);
    assert!(advanced.now - before >= chrono::Duration::days(31));
    assert_eq!(advanced.advanced_s, 31 * 24 * 3600);
    let earliest = clock.now();
    let sql: DateTime<Utc> = sqlx::query_scalar("select durable.now()").fetch_one(&db).await.unwrap();
    let slack = chrono::Duration::seconds(1);
    assert!(earliest - slack < sql && sql < clock.now() + slack, "one clock in SQL and here");
    let other = Clock::load(&db).await.unwrap();
    assert_eq!(other.advanced(), 31 * 24 * HOUR);
}

#[sqlx::test(migrations = false)]
async fn a_fetch_whose_answer_is_lost_gives_its_claims_back_at_once(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    note(&db, "a", Options::default()).await;
    let wire = Wire::losing(&db, r#"{"name":"a"}"#, "SELECT").await;
    let _process = Process::start(engine(&wire.pool(), &clock, &world));
    wire.lost().await;
    let claimed: i64 =
        sqlx::query_scalar("select count(*) from apalis.jobs where lock_by is not null").fetch_one(&db).await.unwrap();
    assert_eq!((claimed, world.done().len()), (1, 0));
    wire.cut();
    settle_at_last(&db, "the worker lives, so nobody else frees its claims").await;
    assert_eq!(world.done(), ["a 1"]);
}

/// Cannot even be read.
#[derive(Serialize, Deserialize)]
struct Brittle {
    #[serde(deserialize_with = "panics")]
    name: String,
}

fn panics<'d, D: serde::Deserializer<'d>>(_: D) -> Result<String, D::Error> {
    panic!("told to panic")
}

impl Job<World> for Brittle {
    const QUEUE: &'static str = "brittle";
    const CONCURRENCY: usize = 1;
    const ATTEMPTS: i32 = 1;
    async fn run(self, _: &World, _: &Ctx) -> Result<(), Failure> {
        Ok(())
    }
}

#[sqlx::test(migrations = false)]
async fn a_payload_whose_reading_panics_is_dead_and_its_hand_is_free(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    let _process = Process::start(engine(&db, &clock, &world).job::<Brittle>());
    for _ in 0..2 {
        commit(&db, async |tx| durable::enqueue(tx, &Brittle { name: "b".into() }).await).await;
    }
    settle_at_last(&db, "no hand is left on a broken job").await;
    assert_eq!(jobs(&db).await, [("Killed".to_owned(), 1), ("Killed".to_owned(), 1)]);
}

#[sqlx::test(migrations = false)]
async fn a_schedule_that_panics_stops_no_other_and_no_timer(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    let gate = world.gate("good 1");
    let engine = engine(&db, &clock, &world)
        .every("broken", "* * * * * *", chrono_tz::UTC, |_| -> Note { panic!("told to panic") })
        .every("good", "* * * * * *", chrono_tz::UTC, |_| Note { name: "good".into() });
    let _process = Process::start(engine);
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, gate.reached()).await.expect("a tick a second");
        gate.open();
    }
}

#[sqlx::test(migrations = false)]
async fn old_mail_and_dead_jobs_are_forgotten(db: PgPool) {
    let (clock, world) = (prepared(&db).await, Arc::<World>::default());
    world.fails("dead 1", Failure::rejected("no"));
    let _process = Process::start(engine(&db, &clock, &world));
    note(&db, "dead", Options::default()).await;
    commit(&db, async |tx| durable::signal_raw(tx, "word", "nobody", &serde_json::json!("hello")).await).await;
    settle(&db).await;
    let left = async || -> (i64, i64) {
        sqlx::query_as("select (select count(*) from apalis.jobs), (select count(*) from durable.mail)")
            .fetch_one(&db)
            .await
            .unwrap()
    };
    skip(&db, &clock, 29 * 24 * HOUR).await;
    assert_eq!(left().await, (1, 1));
    skip(&db, &clock, 2 * 24 * HOUR).await;
    assert_eq!(left().await, (0, 1));
    skip(&db, &clock, 60 * 24 * HOUR).await;
    assert_eq!(left().await, (0, 0));
}
