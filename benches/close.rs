//! How long a month takes to close beside one SQL aggregate over the same rows: `cargo bench --bench close`.
//!
//! A thousand tenants, a million charges, some of them free, some late. The close is the step of `close_month`: it freezes, adds
//! up, numbers, chains and books every invoice and starts the run that sees to it, in one transaction, committed (documents are
//! typeset when they are asked for: `--bench pdf`). Uses `DATABASE_URL` if set (a database of its own is made there), else a
//! private cluster.
//!
//! On two cores: 259 ms beside 185 ms for the aggregate over the rows (1.40 times, aim under 2) and 53 ms over the index alone; memory
//! grew by 4 MB after the first close.

use chrono::{DateTime, Utc};
use cluster::{Cluster, Options};
use domain::{TenantId, billing::Period, seller::Seller};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use std::time::{Duration, Instant};
use uuid::Uuid;

const TENANTS: i32 = 1_000;
const CHARGES: i32 = 1_000_000;
/// Times each side is measured, one after the other; the median counts.
const ROUNDS: usize = 5;
/// What the month brought in and what it cost, if somebody only asked the database: reads the rows.
const OVER_ROWS: &str = "select count(*), sum(units), sum(cost) from (
    select tenant_id, usage_month, category, price_units, count(*) * price_units as units, sum(cost_units) as cost
    from charge where billing_month = '2026-10-01' and state = 'final' group by 1, 2, 3, 4) groups";
/// Without the cost it reads the index that the close has, and no row.
const OVER_INDEX: &str = "select count(*), sum(units) from (
    select tenant_id, usage_month, category, price_units, count(*) * price_units as units
    from charge where billing_month = '2026-10-01' and state = 'final' group by 1, 2, 3, 4) groups";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo test --benches` asks only whether it would run.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    let cluster = match std::env::var("DATABASE_URL") {
        Ok(_) => None,
        Err(_) => {
            let options = Options::ephemeral().set("shared_buffers", "512MB").set("max_wal_size", "8GB");
            Some(tokio::task::spawn_blocking(|| Cluster::start(options)).await?.map_err(anyhow::Error::msg)?)
        }
    };
    let url = cluster.as_ref().map_or_else(|| std::env::var("DATABASE_URL").unwrap_or_default(), Cluster::url);
    let admin = PgPoolOptions::new().max_connections(2).connect(&url).await?;
    let name = format!("bench_{}", Uuid::now_v7().simple());
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&admin).await?;
    let db =
        PgPoolOptions::new().max_connections(4).connect_with(admin.connect_options().as_ref().clone().database(&name)).await?;
    let measured = measure(&db).await;
    db.close().await;
    sqlx::raw_sql(AssertSqlSafe(format!("drop database {name} with (force)"))).execute(&admin).await?;
    measured
}

async fn measure(db: &PgPool) -> anyhow::Result<()> {
    durable::setup(db).await?;
    sqlx::migrate!("./migrations").run(db).await?;
    fill(db).await?;
    let tenants: Vec<TenantId> =
        sqlx::query_scalar::<_, Uuid>("select tenant_id from tenant").fetch_all(db).await?.into_iter().map(TenantId).collect();
    let (month, now): (Period, DateTime<Utc>) = ("2026-10".parse()?, "2026-11-01T01:00:00Z".parse()?);

    let (mut over_rows, mut over_index, mut closes) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = 0.0;
    for round in 1..=ROUNDS {
        for (aggregate, times) in [(OVER_ROWS, &mut over_rows), (OVER_INDEX, &mut over_index)] {
            let began = Instant::now();
            sqlx::query(aggregate).execute(db).await?;
            times.push(began.elapsed());
        }
        let began = Instant::now();
        let mut tx = db.begin().await?;
        let issued =
            workflows::close_tenants(&mut tx, month, &tenants, &Seller::demo(), now).await.map_err(anyhow::Error::msg)?;
        assert_eq!(issued.len(), tenants.len());
        // Only the last one may stay: a month closes once.
        if round < ROUNDS {
            tx.rollback().await?
        } else {
            tx.commit().await?
        }
        closes.push(began.elapsed());
        if round == 1 {
            before = resident_mb();
        }
    }
    let grown = resident_mb() - before;
    let (billed, charged): (i64, i64) = sqlx::query_as(
        "select (select sum(quantity)::bigint from invoice_line where kind in ('messages', 'late')), (select count(*) from charge)",
    )
    .fetch_one(db)
    .await?;
    assert_eq!(billed, charged);
    let walk = store::invoices::verify(&mut *db.acquire().await?).await?;
    let close = median(closes);
    println!(
        "the month of {TENANTS} tenants and {CHARGES} charges closed: {close:.0} ms; memory grew by {grown:.1} MB after the first"
    );
    for (what, times) in [("the rows", over_rows), ("the index alone", over_index)] {
        let aggregate = median(times);
        println!("one aggregate over {what}: {aggregate:.0} ms, the close takes {:.2} times that", close / aggregate);
    }
    println!("{walk:?}");
    Ok(())
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Resident memory of this process, in MB.
fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

async fn fill(db: &PgPool) -> anyhow::Result<()> {
    for (statement, count) in [
        ("insert into tenant (tenant_id, name, credit_limit_units) select gen_random_uuid(), 'Tenant ' || n, 10000000 from generate_series(1, $1) n", TENANTS),
        ("insert into plan_price (tenant_id, valid_from, base_fee_units, price_per_message_units) select tenant_id, '2026-01-01', 2000000, 1000 from tenant limit $1", TENANTS),
        (
            "insert into line (line_id, tenant_id, kind, status, country, display_name, live_at)
             select gen_random_uuid(), tenant_id, 'own', 'live', 'MA', name, '2026-02-01' from tenant limit $1",
            TENANTS,
        ),
        // The months of all tenants lie mixed, in the order of time; every tenth message is free, every fiftieth late.
        (
            "with numbered as (select line_id, tenant_id, row_number() over () as place, count(*) over () as lines from line)
             insert into charge (wamid_hash, tenant_id, line_id, message_id, state, category, pricing_type, pricing_rank, country, happened_at, price_units,
                cost_micro, cost_units, usage_month, billing_month, noted_at)
             select sha256(('wamid.' || n)::bytea), l.tenant_id, l.line_id, gen_random_uuid(), 'final', (array['marketing', 'utility', 'service'])[nth % 3 + 1],
                case when nth % 10 = 0 then 'free_customer_service' else 'regular' end, 3, 'MA', '2026-10-01'::timestamptz + n * interval '2.5 seconds',
                case when nth % 10 = 0 then 0 else 1000 end, 23000, 2116, case when nth % 50 = 0 then '2026-09-01' else '2026-10-01' end::date,
                '2026-10-01', '2026-10-01'
             from generate_series(1, $1) n join numbered l on l.place = n % l.lines + 1, lateral (select n / l.lines as nth) nth order by n",
            CHARGES,
        ),
    ] {
        sqlx::query(statement).bind(count).execute(db).await?;
    }
    sqlx::raw_sql("vacuum analyze").execute(db).await?;
    Ok(())
}
