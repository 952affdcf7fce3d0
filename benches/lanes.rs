//! How fast lanes send beside a bare client, how exactly they hold their limits, and what a backlog costs them:
//! `cargo bench --bench lanes`, or with the parts wanted: `-- send apalis limits backlog`.
//!
//! Uses `DATABASE_URL` if set (a database of its own is made there), else a private cluster with default durability. Everything
//! is measured in one run on one machine, so that the ratios mean something; the absolute numbers do not travel.
//!
//! On two cores that PostgreSQL, the lanes and the sink share, in one run: 11,403 durable sends/s beside 50,578 of the bare client
//! (0.23, aim 0.5; five runs: 0.20 to 0.23, PostgreSQL took 41 % of the machine, the lanes 25 %, the sink 17 %); one apalis task per
//! message 12,215 (0.24), without an attempt committed before its call, limits or outcomes. 99.90 % of 80/s and 99.87 % of 1,000/s
//! held for a minute, at most 80 and 1,000 in any second. With 1,000,000 queued 12,348/s beside 16,103 with 10,000 (0.77, aim 0.9):
//! the small backlog is gone before the first checkpoint, the large one lasts a minute; memory +1 MB.

mod stand;

use apalis::prelude::{BoxDynError, Data, WorkerBuilder, WorkerBuilderExt as _};
use apalis_postgres::{Config, PostgresStorage};
use stand::{Sink, Stand, line, resident_mb};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Lines that send at once.
const LINES: usize = 100;
/// Messages of each.
const EACH: usize = 1_200;
/// Calls of the bare client under way at once.
const BARE_IN_FLIGHT: usize = 256;
/// Messages sent as one apalis task each.
const TASKS: usize = 20_000;
/// How long a limit is held.
const HELD: Duration = Duration::from_secs(60);
/// Lines, people and messages of the small and of the large backlog.
const BACKLOG_LINES: usize = 20;
const BACKLOG_PEOPLE: usize = 2_500;
const BACKLOG_SMALL: usize = 10_000;
const BACKLOG_LARGE: usize = 1_000_000;

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` asks only whether it would run.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let (stand, sink) = (Stand::open().await?, Sink::start()?);
    line("what", "measured", "beside it", "ratio");
    let mut bare = 0.0;
    if wanted("send") || wanted("apalis") {
        bare = bare_client(&sink, LINES * EACH).await?;
    }
    if wanted("send") {
        commits_before_calls(&stand, &sink).await?;
        let durable = sends(&stand, &sink).await?;
        bare = (bare + bare_client(&sink, LINES * EACH).await?) / 2.0;
        line(
            &format!("{} messages over {LINES} lines, sends/s", LINES * EACH),
            &format!("{durable:.0}"),
            &format!("{bare:.0} bare, aim 0.5"),
            &format!("{:.2}", durable / bare),
        );
    }
    if wanted("apalis") {
        let tasks = one_task_each(&stand, &sink).await?;
        line(
            "one apalis task per message, sends/s",
            &format!("{tasks:.0}"),
            &format!("{bare:.0} bare"),
            &format!("{:.2}", tasks / bare),
        );
    }
    if wanted("limits") {
        held(&stand, &sink, false, 80).await?;
        held(&stand, &sink, true, 1_000).await?;
    }
    if wanted("backlog") {
        backlog(&stand, &sink).await?;
    }
    stand.close().await
}

/// A client that only sends: sends a second.
async fn bare_client(sink: &Sink, count: usize) -> anyhow::Result<f64> {
    let http = reqwest::Client::builder().pool_max_idle_per_host(BARE_IN_FLIGHT).tcp_nodelay(true).no_proxy().build()?;
    let left = Arc::new(AtomicUsize::new(count));
    let url = format!("{}/v25.0/990000001/messages", sink.url);
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..BARE_IN_FLIGHT {
        let (http, left, url) = (http.clone(), left.clone(), url.clone());
        senders.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let body = body(&format!("{}.1", Uuid::now_v7()));
                let request = http.post(&url).bearer_auth("token").header("content-type", "application/json").body(body);
                request.send().await?.error_for_status()?.bytes().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    anyhow::ensure!(sink.take().names.len() == count, "the sink missed some of the bare client's calls");
    Ok(rate)
}

/// The same bytes that a lane sends.
fn body(name: &str) -> String {
    format!(
        r#"{{"biz_opaque_callback_data":"{name}","messaging_product":"whatsapp","recipient_type":"individual","template":{{"components":[{{"parameters":[{{"parameter_name":"prenom","text":"Yassine","type":"text"}},{{"parameter_name":"poste","text":"Conseiller clientèle à Casablanca","type":"text"}}],"type":"body"}}],"language":{{"code":"fr"}},"name":"bench_invitation"}},"to":"+212610000001","type":"template"}}"#
    )
}

/// A small run in which the sink looks every attempt up before it answers.
async fn commits_before_calls(stand: &Stand, sink: &Sink) -> anyhow::Result<()> {
    stand.clear().await?;
    let (tools, lines) = (stand.tools(sink)?, stand.lines(4, 500, true).await?);
    sink.audit(Some(stand.eye.clone()));
    stand.queue(&tools.vault, &lines, 500).await?;
    stand
        .with_engine(tools, async || {
            sink.until(2_000).await;
            Ok(())
        })
        .await?;
    sink.audit(None);
    let seen = sink.take();
    line("calls before their attempt was committed", &seen.uncommitted.to_string(), &format!("of {}, aim 0", seen.looked_at), "");
    Ok(())
}

/// Until the last outcome is committed: sends a second.
async fn sends(stand: &Stand, sink: &Sink) -> anyhow::Result<f64> {
    stand.clear().await?;
    let (tools, lines) = (stand.tools(sink)?, stand.lines(LINES, 500, true).await?);
    stand.queue(&tools.vault, &lines, EACH).await?;
    sqlx::raw_sql("checkpoint").execute(&stand.db).await?;
    let rate = stand
        .with_engine(tools, async || {
            // From the first call to the last outcome: how long a program takes to start is another question.
            sink.until(1).await;
            let began = Instant::now();
            sink.until(LINES * EACH).await;
            while stand.statuses().await?.get("accepted").is_none_or(|count| *count < (LINES * EACH) as i64)
                && began.elapsed() < Duration::from_secs(120)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok((LINES * EACH) as f64 / began.elapsed().as_secs_f64())
        })
        .await?;
    let (seen, statuses) = (sink.take(), stand.statuses().await?);
    let accepted = statuses.get("accepted").copied().unwrap_or_default();
    line(
        "lost, doubled",
        &format!("{}, {}", (LINES * EACH) as i64 - accepted, seen.doubled()),
        &format!("{} at the sink", seen.names.len()),
        "",
    );
    Ok(rate)
}

/// What people do without lanes: a task per message in a queue of apalis, each making its call.
async fn one_task_each(stand: &Stand, sink: &Sink) -> anyhow::Result<f64> {
    stand.clear().await?;
    let config = Config::default().queue("bench_send").batch_size(BARE_IN_FLIGHT);
    let mut storage = PostgresStorage::<String>::new(&stand.db).with_config(config.clone()).with_pubsub();
    let tasks: Vec<String> = (0..TASKS).map(|_| format!("{}.1", Uuid::now_v7())).collect();
    for chunk in tasks.chunks(1_000) {
        apalis::prelude::TaskSink::push_bulk(&mut storage, chunk.to_vec()).await?;
    }
    let http = reqwest::Client::builder().pool_max_idle_per_host(BARE_IN_FLIGHT).tcp_nodelay(true).no_proxy().build()?;
    let url = format!("{}/v25.0/990000001/messages", sink.url);
    let backend = PostgresStorage::<String>::new(&stand.db).with_config(config).with_pubsub();
    let worker = WorkerBuilder::new("bench").backend(backend).data((http, url)).concurrency(BARE_IN_FLIGHT).build(send_one);
    let worker = tokio::spawn(worker.run());
    sink.until(TASKS).await;
    worker.abort();
    let seen = sink.take();
    anyhow::ensure!(seen.arrivals.len() > TASKS / 2, "apalis worked only {} of {TASKS} tasks", seen.arrivals.len());
    Ok(seen.rate_between(0.05, 0.95))
}

async fn send_one(name: String, tools: Data<(reqwest::Client, String)>) -> Result<(), BoxDynError> {
    let (http, url) = &*tools;
    let request = http.post(url).bearer_auth("token").header("content-type", "application/json").body(body(&name));
    request.send().await?.error_for_status()?.bytes().await?;
    Ok(())
}

/// One line at its limit for a minute, as the sink saw it.
async fn held(stand: &Stand, sink: &Sink, high: bool, level: usize) -> anyhow::Result<()> {
    stand.clear().await?;
    let seconds = usize::try_from(HELD.as_secs())?;
    let (tools, lines) = (stand.tools(sink)?, stand.lines(1, 10_000, high).await?);
    stand.queue(&tools.vault, &lines, level * (seconds + 3)).await?;
    let mut seen = stand
        .with_engine(tools, async || {
            sink.until(1).await;
            tokio::time::sleep(HELD).await;
            // The minute is over; what is left is only in the way.
            sqlx::query("update message set status = 'failed' where status = 'queued'").execute(&stand.eye).await?;
            Ok(sink.take())
        })
        .await?;
    let busiest = seen.busiest_second();
    let first = seen.arrivals[0];
    seen.arrivals.retain(|at| *at - first < HELD);
    let held = seen.arrivals.len() as f64 / (level * seconds) as f64;
    line(
        &format!("one line held at {level}/s for {seconds} s"),
        &format!("{:.2} %", held * 100.0),
        &format!("aim 99 %; most in a second {busiest}"),
        &format!("{:.2}", busiest as f64 / level as f64),
    );
    sink.take();
    Ok(())
}

/// The same lines with little and with much behind them.
async fn backlog(stand: &Stand, sink: &Sink) -> anyhow::Result<()> {
    let mut rates = Vec::new();
    for queued in [BACKLOG_SMALL, BACKLOG_LARGE, BACKLOG_SMALL] {
        stand.clear().await?;
        let (tools, lines) = (stand.tools(sink)?, stand.lines(BACKLOG_LINES, BACKLOG_PEOPLE, true).await?);
        stand.queue(&tools.vault, &lines, queued / BACKLOG_LINES).await?;
        sqlx::raw_sql("checkpoint").execute(&stand.db).await?;
        let before = resident_mb();
        let (rate, grown) = stand
            .with_engine(tools, async || {
                sink.until(BACKLOG_SMALL).await;
                let grown = resident_mb() - before;
                sqlx::query("update message set status = 'failed' where status = 'queued'").execute(&stand.eye).await?;
                Ok((sink.take().rate_between(0.1, 0.9), grown))
            })
            .await?;
        sink.take();
        rates.push(rate);
        line(&format!("{queued} queued, sends/s"), &format!("{rate:.0}"), &format!("memory {grown:+.0} MB"), "");
    }
    let small = (rates[0] + rates[2]) / 2.0;
    line(
        "1,000,000 queued beside 10,000",
        &format!("{:.0}", rates[1]),
        &format!("{small:.0}, aim 0.90"),
        &format!("{:.2}", rates[1] / small),
    );
    Ok(())
}
