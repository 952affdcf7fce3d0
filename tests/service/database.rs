//! The database goes away in the middle of the work.

use crate::{
    books,
    installation::{Installation, eventually},
};
use cluster::{Cluster, Options};
use simulators::{Config, MetaAccount, Profile};
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;

/// Lines in flight.
const LINES: usize = 50;
/// Two connections a second are ended.
const TERMINATE_PERIOD: Duration = Duration::from_millis(500);
/// For so many rounds.
const TERMINATE_ROUNDS: usize = 20;
/// Nothing happens for this long: then it is time that is missing.
const STILL: Duration = Duration::from_millis(1_500);
/// For all of them to end, the clock being moved where only time is missing.
const END_PATIENCE: Duration = Duration::from_secs(900);

#[tokio::test(flavor = "multi_thread")]
async fn with_a_hostile_world_and_a_failing_database_every_line_is_live_or_undone() {
    let mut cluster = start(Options::ephemeral()).await;
    let admin = cluster.url();
    let mut connection = PgConnection::connect(&admin).await.expect("the private PostgreSQL");
    sqlx::query("create database ligne").execute(&mut connection).await.expect("a database");
    let config = Config {
        profile: Profile::Hostile { seed: 7 },
        meta: MetaAccount { subscribed: true, ..MetaAccount::default() },
        ..Config::default()
    };
    let installation = Installation::open_on(config, &cluster.url_of("ligne")).await;
    let (front, workers, more) = (installation.front().await, installation.workers(), installation.workers());
    let mut orders = Vec::new();
    for _ in 0..LINES {
        orders.push(installation.order().await);
    }
    in_flight(&installation).await;

    // Some connection of the service, every half second.
    let mut terminated = 0;
    for _ in 0..TERMINATE_ROUNDS {
        let one = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = 'ligne' and pid <> pg_backend_pid() order by random() limit 1";
        terminated += sqlx::query(one).execute(&mut connection).await.expect("a connection is ended").rows_affected();
        tokio::time::sleep(TERMINATE_PERIOD).await;
    }
    assert_eq!(terminated, TERMINATE_ROUNDS as u64, "connections that were ended");
    let open: i64 = sqlx::query_scalar("select count(*) from durable.run where ended_at is null")
        .fetch_one(&installation.db)
        .await
        .expect("the runs");
    assert!(open > 0, "nothing is in flight any more when the database stops");
    // And then all of it, without a goodbye.
    drop(connection);
    cluster = tokio::task::spawn_blocking(move || {
        cluster.stop_immediately().expect("it stops");
        cluster.restart().expect("it starts again");
        cluster
    })
    .await
    .expect("restarted");

    let ends = installation.end_of(&orders, STILL, END_PATIENCE).await;
    let live = ends.iter().filter(|end| *end == "succeeded").count();
    let undone = ends.iter().filter(|end| *end == "undone").count();
    assert_eq!(live + undone, LINES, "{ends:?}");
    assert!(live > 0, "a hostile world is not a hopeless one");
    books::balance(&installation, &orders).await;
    drop((front, workers, more));
    installation.close().await;
    drop(cluster);
}

/// The work has begun, and has not ended.
async fn in_flight(installation: &Installation) {
    let begun = || async {
        let steps: i64 = sqlx::query_scalar("select count(*) from durable.step").fetch_one(&installation.db).await.ok()?;
        (steps > LINES as i64).then_some(())
    };
    eventually(Duration::from_secs(180), begun).await.expect("the work begins");
}

/// One that keeps what it has committed through a crash: not a fast one.
async fn start(options: Options) -> Cluster {
    tokio::task::spawn_blocking(|| Cluster::start(options)).await.expect("a thread").expect("a private PostgreSQL")
}
