//! How fast the durable engine is beside the database it stands on: `cargo bench --bench engine`.
//!
//! Uses `DATABASE_URL` if set (a database of its own is made there), else a private cluster with default durability. Everything
//! is measured in one run on one machine, so that the ratios mean something; the absolute numbers do not travel. The last ones
//! are in src/durable/README.md.

use cluster::{Cluster, Options};
use domain::Failure;
use durable::{Clock, Ctx, Engine, Flow, Job, Run, Signal, Workflow};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Connections of the baseline.
const BASELINE_CONNECTIONS: usize = 16;
/// How long rates are measured that need no fixed amount of work.
const WINDOW: Duration = Duration::from_secs(5);
const STEPS: usize = 5;
const WORKFLOWS: usize = 20_000;
const SIGNALLED: usize = 10_000;
const PARKED: usize = 100_000;
const LATENCY_JOBS: usize = 1_000;
const WAKES: usize = 300;

/// What the workflows and jobs report to.
#[derive(Default)]
struct Meter {
    ended: AtomicUsize,
    target: AtomicUsize,
    reached: Notify,
    latencies: Mutex<Vec<Duration>>,
    origin: Mutex<Option<Instant>>,
}

impl Meter {
    fn expect(&self, target: usize) {
        self.ended.store(0, Ordering::SeqCst);
        self.target.store(target, Ordering::SeqCst);
    }
    fn one_more(&self) {
        if self.ended.fetch_add(1, Ordering::SeqCst) + 1 == self.target.load(Ordering::SeqCst) {
            self.reached.notify_one();
        }
    }
    fn since_origin(&self) -> Duration {
        self.origin.lock().expect("no panic holds it").get_or_insert_with(Instant::now).elapsed()
    }
    fn took(&self, since: Duration) {
        self.latencies.lock().expect("no panic holds it").push(self.since_origin().saturating_sub(since));
    }
    fn percentiles(&self) -> (Duration, Duration) {
        let mut all = std::mem::take(&mut *self.latencies.lock().expect("no panic holds it"));
        all.sort();
        (all[all.len() / 2], all[all.len() * 99 / 100])
    }
}

#[derive(Serialize, Deserialize)]
struct FiveSteps {}

impl Workflow<Meter> for FiveSteps {
    const NAME: &'static str = "five_steps";
    type Output = usize;
    async fn run<'a>(self, run: &mut Run<'a>, meter: &'a Meter) -> Flow<usize> {
        let mut sum = 0;
        for i in 0..STEPS {
            sum += run.step("step", async move { Ok::<_, Failure>(i) }).await?;
        }
        meter.one_more();
        Ok(sum)
    }
}

#[derive(Serialize, Deserialize)]
struct Go {
    /// Since the meter's origin.
    sent: Duration,
}

impl Signal for Go {
    const TOPIC: &'static str = "go";
}

#[derive(Serialize, Deserialize)]
struct Parked {
    key: usize,
}

impl Workflow<Meter> for Parked {
    const NAME: &'static str = "parked";
    type Output = ();
    async fn run<'a>(self, run: &mut Run<'a>, meter: &'a Meter) -> Flow<()> {
        let go = run.wait::<Go>(self.key, Duration::from_secs(30 * 24 * 3600), "the signal").await?;
        meter.took(go.map_or(Duration::ZERO, |go| go.sent));
        meter.one_more();
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Stamp {
    sent: Duration,
}

impl Job<Meter> for Stamp {
    const QUEUE: &'static str = "stamp";
    async fn run(self, meter: &Meter, _: &Ctx) -> Result<(), Failure> {
        meter.took(self.sent);
        meter.one_more();
        Ok(())
    }
}

struct Bench {
    db: PgPool,
    clock: Clock,
    meter: Arc<Meter>,
}

impl Bench {
    async fn with_engine<R>(&self, work: impl AsyncFnOnce() -> anyhow::Result<R>) -> anyhow::Result<R> {
        let stop = CancellationToken::new();
        let engine = Engine::new(self.db.clone(), self.clock.clone(), self.meter.clone())
            .workflow::<FiveSteps>()
            .workflow::<Parked>()
            .job::<Stamp>();
        let engine = tokio::spawn(engine.run(stop.clone()));
        let result = work().await;
        stop.cancel();
        engine.await??;
        result
    }

    /// Claim-and-complete, one row per transaction, on a lean table: rows per second.
    async fn baseline(&self) -> anyhow::Result<f64> {
        sqlx::raw_sql(
            "drop table if exists lean; create table lean (id bigint primary key, done boolean not null default false, payload text not null);
             insert into lean select i, false, 'payload' from generate_series(1, 200000) i;
             create index on lean (id) where not done; analyze lean; checkpoint",
        )
        .execute(&self.db)
        .await?;
        let done = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..BASELINE_CONNECTIONS {
            let (db, done) = (self.db.clone(), done.clone());
            tasks.spawn(async move {
                let mut conn = db.acquire().await?;
                while began.elapsed() < WINDOW {
                    sqlx::query(
                        "update lean set done = true
                         where id = (select id from lean where not done order by id limit 1 for update skip locked)",
                    )
                    .execute(&mut *conn)
                    .await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64())
    }

    async fn steps(&self) -> anyhow::Result<f64> {
        self.start_all(WORKFLOWS, |_| FiveSteps {}).await?;
        sqlx::raw_sql("checkpoint").execute(&self.db).await?;
        self.meter.expect(WORKFLOWS);
        let began = Instant::now();
        self.with_engine(async || {
            self.meter.reached.notified().await;
            Ok(())
        })
        .await?;
        Ok((WORKFLOWS * STEPS) as f64 / began.elapsed().as_secs_f64())
    }

    async fn start_all<W: Workflow<Meter>>(&self, count: usize, make: impl Fn(usize) -> W) -> anyhow::Result<()> {
        let mut tx = self.db.begin().await?;
        for i in 0..count {
            durable::start(&mut tx, &make(i)).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn park(&self, from: usize, count: usize) -> anyhow::Result<()> {
        self.start_all(count, |i| Parked { key: from + i }).await?;
        durable::settle(&self.db).await?;
        Ok(())
    }

    /// Parks and signals; runs resumed and ended per second, from the first signal on.
    async fn resumes(&self) -> anyhow::Result<f64> {
        self.with_engine(async || {
            self.park(0, SIGNALLED).await?;
            sqlx::raw_sql("checkpoint").execute(&self.db).await?;
            self.meter.expect(SIGNALLED);
            let sent = self.meter.since_origin();
            let began = Instant::now();
            let mut senders = JoinSet::new();
            for part in 0..8 {
                let db = self.db.clone();
                senders.spawn(async move {
                    let keys: Vec<usize> = (part..SIGNALLED).step_by(8).collect();
                    for chunk in keys.chunks(125) {
                        let mut tx = db.begin().await?;
                        durable::signal_all(&mut tx, chunk.iter().map(|key| (key, Go { sent }))).await?;
                        tx.commit().await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = senders.join_next().await {
                ended??;
            }
            self.meter.reached.notified().await;
            Ok(SIGNALLED as f64 / began.elapsed().as_secs_f64())
        })
        .await
    }

    /// From before the insert to the job's first line, 200 a second.
    async fn latency(&self) -> anyhow::Result<(Duration, Duration)> {
        self.with_engine(async || {
            self.meter.percentiles_reset();
            self.meter.expect(LATENCY_JOBS);
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            for _ in 0..LATENCY_JOBS {
                pace.tick().await;
                let sent = self.meter.since_origin();
                let mut tx = self.db.begin().await?;
                durable::enqueue(&mut tx, &Stamp { sent }).await?;
                tx.commit().await?;
            }
            self.meter.reached.notified().await;
            Ok(self.meter.percentiles())
        })
        .await
    }

    /// The floor of the above: insert, NOTIFY, claim, on two bare connections.
    async fn latency_floor(&self) -> anyhow::Result<(Duration, Duration)> {
        sqlx::raw_sql(
            "drop table if exists floor; create table floor (id bigint generated always as identity primary key, sent bigint)",
        )
        .execute(&self.db)
        .await?;
        self.meter.percentiles_reset();
        let mut listener = sqlx::postgres::PgListener::connect_with(&self.db).await?;
        listener.listen("floor").await?;
        let mut claimer = self.db.acquire().await?;
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        for _ in 0..LATENCY_JOBS {
            pace.tick().await;
            let sent = self.meter.since_origin();
            sqlx::query("with put as (insert into floor (sent) values (0)) select pg_notify('floor', '')")
                .execute(&self.db)
                .await?;
            listener.recv().await?;
            sqlx::query("delete from floor where id = (select id from floor limit 1 for update skip locked)")
                .execute(&mut *claimer)
                .await?;
            self.meter.took(sent);
        }
        Ok(self.meter.percentiles())
    }

    /// Transactions per second and CPU share (of one core, this process and the server) while nothing happens.
    async fn idle(&self) -> anyhow::Result<(f64, f64)> {
        for sql in ["vacuum analyze durable.run", "vacuum analyze durable.step", "vacuum analyze apalis.jobs", "checkpoint"] {
            sqlx::raw_sql(sql).execute(&self.db).await?;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (before, cpu) = (self.transactions().await?, cpu_seconds());
        tokio::time::sleep(WINDOW).await;
        let seconds = WINDOW.as_secs_f64();
        Ok(((self.transactions().await? - before) as f64 / seconds, (cpu_seconds() - cpu) / seconds))
    }

    async fn transactions(&self) -> anyhow::Result<i64> {
        sqlx::query("select pg_stat_clear_snapshot()").execute(&self.db).await?;
        let sum =
            sqlx::query_scalar("select xact_commit + xact_rollback from pg_stat_database where datname = current_database()");
        Ok(sum.fetch_one(&self.db).await?)
    }

    async fn wakes(&self) -> anyhow::Result<(Duration, Duration)> {
        self.meter.percentiles_reset();
        for i in 0..WAKES {
            self.meter.expect(1);
            let sent = self.meter.since_origin();
            let mut tx = self.db.begin().await?;
            durable::signal(&mut tx, 1_000_000 + i * (PARKED / WAKES), &Go { sent }).await?;
            tx.commit().await?;
            self.meter.reached.notified().await;
        }
        Ok(self.meter.percentiles())
    }
}

impl Meter {
    fn percentiles_reset(&self) {
        self.latencies.lock().expect("no panic holds it").clear();
    }
}

/// CPU seconds of this process and of every process named postgres; 100 ticks a second on Linux.
fn cpu_seconds() -> f64 {
    let of = |dir: std::path::PathBuf| -> Option<f64> {
        let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        let own = dir.file_name()?.to_str()? == std::process::id().to_string();
        if !own && !name.ends_with("(postgres") {
            return None;
        }
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
    };
    std::fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| of(entry.path())).sum()
}

fn line(what: &str, measured: &str, beside: &str, ratio: &str) {
    println!("{what:<44} {measured:>22} {beside:>28} {ratio:>10}");
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` asks only whether it would run.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let cluster = match std::env::var("DATABASE_URL") {
        Ok(_) => None,
        Err(_) => {
            let options =
                Options::ephemeral().set("min_wal_size", "2GB").set("max_wal_size", "8GB").set("shared_buffers", "512MB");
            Some(Cluster::start(options).map_err(anyhow::Error::msg)?)
        }
    };
    let url = cluster.as_ref().map_or_else(|| std::env::var("DATABASE_URL").unwrap_or_default(), Cluster::url);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure(&url))
}

async fn measure(url: &str) -> anyhow::Result<()> {
    let name = format!("bench_{}", std::process::id());
    let admin = PgPool::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&admin).await?;
    let options = admin.connect_options().as_ref().clone().database(&name);
    let db = PgPoolOptions::new().max_connections(24).test_before_acquire(false).connect_with(options).await?;
    durable::setup(&db).await?;
    prime_wal(&db).await?;
    let bench = Bench { clock: Clock::load(&db).await?, db: db.clone(), meter: Arc::default() };

    line("what", "engine", "beside it", "ratio");
    let baseline = bench.baseline().await?;
    let steps = bench.steps().await?;
    let again = bench.baseline().await?;
    let baseline = (baseline + again) / 2.0;
    line(
        "5-step workflows, steps/s",
        &format!("{steps:.0}"),
        &format!("{baseline:.0} bare claims/s"),
        &format!("{:.2}", steps / baseline),
    );
    let resumes = bench.resumes().await?;
    line("10,000 signalled runs, resumed/s", &format!("{resumes:.0}"), "aim 10000", &format!("{:.2}", resumes / 10_000.0));
    let (floor50, floor99) = bench.latency_floor().await?;
    let (p50, p99) = bench.latency().await?;
    line(
        "enqueue to start, p50",
        &ms(p50),
        &format!("{} floor, aim 2 ms", ms(floor50)),
        &format!("{:.2}", p50.as_secs_f64() / floor50.as_secs_f64()),
    );
    line(
        "enqueue to start, p99",
        &ms(p99),
        &format!("{} floor, aim 10 ms", ms(floor99)),
        &format!("{:.2}", p99.as_secs_f64() / floor99.as_secs_f64()),
    );
    bench
        .with_engine(async || {
            let (idle_queries, idle_cpu) = bench.idle().await?;
            bench.park(1_000_000, PARKED).await?;
            let (queries, cpu) = bench.idle().await?;
            line(
                "100,000 waiting, transactions/s",
                &format!("{queries:.1}"),
                &format!("{idle_queries:.1} with none"),
                &format!("{:.2}", queries / idle_queries),
            );
            line(
                "100,000 waiting, CPU of one core",
                &format!("{:.1} %", cpu * 100.0),
                &format!("{:.1} % with none", idle_cpu * 100.0),
                "",
            );
            let (p50, p99) = bench.wakes().await?;
            line("waking one of 100,000, p50", &ms(p50), "", "");
            line("waking one of 100,000, p99", &ms(p99), "aim 50 ms", "");
            Ok(())
        })
        .await?;
    drop(bench);
    db.close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("drop database {name} with (force)"))).execute(&admin).await?;
    Ok(())
}

/// Fills the log once and recycles its files: a fresh cluster zeroes each new one as it goes and commits many times slower.
async fn prime_wal(db: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("create table prime (filler text); alter table prime alter filler set storage external").execute(db).await?;
    for _ in 0..12 {
        sqlx::raw_sql("insert into prime select repeat(md5(i::text), 250) from generate_series(1, 12000) i").execute(db).await?;
    }
    sqlx::raw_sql("drop table prime; checkpoint").execute(db).await?;
    Ok(())
}
