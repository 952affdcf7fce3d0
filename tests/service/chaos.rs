//! A campaign in a hostile world, with workers killed all the time and the database once: nothing twice, nothing lost, nothing
//! too fast.

use crate::{
    books,
    campaign::Company,
    installation::{Installation, Pace},
    process::Process,
};
use cluster::{Cluster, Options};
use simulators::{Config, Fault, FaultPlan, Hostility, MetaAccount, Profile};
use sqlx::{Connection as _, PgConnection};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const LINES: usize = 20;
/// Messages of each line, one of every ten to the same person; `LIGNE_CHAOS_EACH=1000` makes 20,000 of all.
const EACH: usize = 200;
/// Messages of one request.
const BATCH: usize = 1_000;
/// Workers at any time.
const WORKERS: usize = 2;
/// A worker is killed so often, as long as there is much to send.
const KILL_PERIOD: Duration = Duration::from_secs(3);
/// After so many kills the database goes down, too.
const DATABASE_DOWN_AFTER: usize = 4;
/// Kills that a campaign must have borne.
const KILLS: usize = 8;
/// Time is moved by less than a lost attempt is held for its status.
const PACE: Pace = Pace { still: Duration::from_secs(2), step: Duration::from_secs(61), patience: Duration::from_secs(900) };
/// Sends a second of an ordinary number.
const RATE: u32 = 80;

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_survives_kills_a_hostile_world_and_a_database_crash() {
    let each = std::env::var("LIGNE_CHAOS_EACH").map_or(EACH, |each| each.parse().expect("messages of each line"));
    let all = LINES * each;
    let options = Options::fast();
    let mut cluster = tokio::task::spawn_blocking(|| Cluster::start(options)).await.expect("a thread").expect("a PostgreSQL");
    let mut admin = PgConnection::connect(&cluster.url()).await.expect("the private PostgreSQL");
    sqlx::query("create database ligne").execute(&mut admin).await.expect("a database");
    drop(admin);
    // A throttle of the account (429) rests all its lines for a minute or more: three of those are planned below instead.
    let hostility = Hostility { throttle: 0, hang_ms: 3_000, ..Hostility::default() };
    let config = Config { hostility, meta: MetaAccount { subscribed: true, ..MetaAccount::default() }, ..Config::default() };
    let installation = Installation::open_on(config, &cluster.url_of("ligne")).await;
    let front = installation.front().await;
    let mut workers: Vec<Process> = (0..WORKERS).map(|_| installation.workers()).collect();
    let company = Company::open(&installation, LINES, PACE).await;
    let template = company.submit("invitation").await;
    company.approved(&template, PACE).await;

    installation.simulators.be(Profile::Hostile { seed: 11 });
    for skip in [all / 8, all / 3, all / 2] {
        installation.simulators.fault(FaultPlan {
            operation: "meta.send".into(),
            fault: Fault::Throttle { headers: true, retry_after_s: 60 },
            skip: u32::try_from(skip).expect("a number of calls"),
            times: 1,
            only: None,
        });
    }
    let begun = Instant::now();
    queue(&company, each).await;
    let mut kills = 0;
    loop {
        tokio::time::sleep(KILL_PERIOD).await;
        let left = statuses(&installation).await.map(|now| now.get("queued").copied().unwrap_or(0));
        // Some wait for their turn with one person, which is a matter of time alone.
        if kills >= KILLS && left.is_some_and(|left| left < all as i64 / 10) {
            break;
        }
        workers.remove(0).kill().await.expect("kill -9");
        workers.push(installation.workers());
        kills += 1;
        if kills == DATABASE_DOWN_AFTER {
            cluster = tokio::task::spawn_blocking(move || {
                cluster.stop_immediately().expect("it stops");
                cluster.restart().expect("it starts again");
                cluster
            })
            .await
            .expect("restarted");
        }
        // A throttle rests the account: time must go on, or there is nothing to interrupt.
        if resting(&installation).await {
            installation.advance(PACE.step).await;
        }
        assert!(begun.elapsed() < PACE.patience, "{left:?} messages are still to be sent after {kills} kills");
    }
    println!("{} messages, {kills} kills in {:?}", all, begun.elapsed());
    installation.until(PACE, async || statuses(&installation).await, ended).await;
    println!("all ended after {:?}", begun.elapsed());

    let ends = books::messages(&installation, all).await;
    let told = installation.simulators.message_books();
    println!("{ends:?}, {} accepted, at most {:?} a second", told.accepted, told.peak_per_second.values().max());
    let done: usize = ["delivered", "read", "failed"].iter().filter_map(|status| ends.get(*status)).sum();
    assert!(done * 10 > all * 9, "a hostile world is not a hopeless one: {ends:?}");
    assert_eq!((told.refused_pair, told.refused_throughput), (0, 0), "Meta had to refuse for speed");
    let peak = told.peak_per_second.values().copied().max().unwrap_or(0);
    assert!(peak <= RATE, "a number sent {peak} in a second");
    drop((front, workers));
    installation.close().await;
    drop(cluster);
}

async fn queue(company: &Company<'_>, each: usize) {
    let all: Vec<_> = (0..LINES * each)
        .map(|place| {
            let (line, place) = (place % LINES, place / LINES);
            // Somebody gets more than the 45 that may go at once.
            let person = if place % 10 == 0 { 0 } else { place };
            let delivery = if place % 10 == 5 { "at_least_once" } else { "at_most_once" };
            company.invitation(line, "invitation", &format!("+2126{line:02}{person:06}"), delivery)
        })
        .collect();
    for batch in all.chunks(BATCH) {
        company.send(batch).await;
    }
}

/// The account is throttled.
async fn resting(installation: &Installation) -> bool {
    let stops = "select exists (select from account_stop where until is null or until > durable.now())";
    sqlx::query_scalar(stops).fetch_one(&installation.db).await.unwrap_or(false)
}

/// Messages by status; `None` while the database is away.
async fn statuses(installation: &Installation) -> Option<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as("select status, count(*) from message where direction = 'out' group by status")
        .fetch_all(&installation.db)
        .await
        .ok()?;
    Some(rows.into_iter().collect())
}

/// Nothing more will come of any: what was sent has been told to the end.
fn ended(statuses: &BTreeMap<String, i64>) -> bool {
    statuses.keys().all(|status| matches!(status.as_str(), "delivered" | "read" | "failed" | "parked"))
}
