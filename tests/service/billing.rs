//! The month with real processes: killed at every write, closed by many at once, caught up after an outage; and what is refused.

use crate::installation::{END_PATIENCE, Installation, eventually};
use crate::process::Process;
use chrono::{DateTime, Utc};
use domain::{LineId, MessageId, TenantId, billing::Period};
use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use simulators::Config;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::{collections::BTreeSet, time::Duration};
use store::charges::{self, PricedStatus};
use uuid::Uuid;

const SHARDS: usize = 4;
const TENANTS: usize = 3;
/// For a process to start and come to its place.
const REACH_PATIENCE: Duration = Duration::from_secs(120);
/// For a month to be closed by whoever takes over.
const CLOSE_PATIENCE: Duration = Duration::from_secs(600);
/// The first month that a drill closes: the past may be closed at once.
const FIRST: &str = "2016-01";
const DRILL_LOCK: i64 = 4_711;
/// Beats, schedules and what moves of itself; what only a race between two causes writes; the log.
const BESIDE: &str = "('apalis.workers', 'durable.clock', 'durable.tick', 'durable.wanted', 'public.drill_log')";

/// Companies with a line that is live since 2015, at 200.00 a month and 0.10 a message.
async fn companies(installation: &Installation) -> Vec<(TenantId, LineId)> {
    let mut companies = Vec::new();
    for n in 0..TENANTS {
        let company = json!({ "name": format!("Agence {n}"), "credit_limit": "1000.00", "language": "fr",
            "legal": { "ice": "001234567000089", "if": "12345678", "rc": "98765", "address": "12, rue Tarik, Casablanca" },
            "plan": { "base_fee": "200.00", "price_per_message": "0.10" } });
        let (status, tenant) = installation.call(Method::POST, "/v1/tenants", Some(&company)).await;
        assert_eq!(status, StatusCode::CREATED, "{tenant}");
        let id: Uuid = tenant["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let line = Uuid::now_v7();
        let made = format!(
            "update tenant set created_at = '2015-06-01' where tenant_id = '{id}';
             update plan_price set valid_from = '2015-06-01' where tenant_id = '{id}';
             insert into line (line_id, tenant_id, kind, status, country, display_name, live_at)
                 values ('{line}', '{id}', 'own', 'live', 'MA', 'Agence', '2015-06-15')"
        );
        sqlx::raw_sql(AssertSqlSafe(made)).execute(&installation.db).await.expect("a live line");
        companies.push((TenantId(id), LineId(line)));
    }
    companies
}

/// One message of each company that was delivered then.
async fn deliver(installation: &Installation, companies: &[(TenantId, LineId)], at: DateTime<Utc>) {
    for (tenant, line) in companies {
        let id = MessageId(Uuid::now_v7());
        sqlx::query(
            "with c as (insert into contact (contact_id, tenant_id) values (gen_random_uuid(), $2) returning contact_id),
             v as (insert into conversation (conversation_id, tenant_id, line_id, contact_id) select gen_random_uuid(), $2, $3, contact_id from c
                   returning conversation_id, contact_id)
             insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status)
             select $1, $2, $3, contact_id, conversation_id, 'out', 'template', 'utility', 'delivered' from v",
        )
        .bind(id.0)
        .bind(tenant.0)
        .bind(line.0)
        .execute(&installation.db)
        .await
        .expect("a message");
        let news = PricedStatus {
            message_id: id,
            tenant_id: *tenant,
            wamid: format!("wamid.{id}"),
            status: "delivered".into(),
            at,
            pricing_type: Some("regular".into()),
            pricing_category: Some("utility".into()),
        };
        let mut tx = installation.db.begin().await.expect("a transaction");
        charges::note(&mut tx, &[news]).await.expect("a charge");
        tx.commit().await.expect("a charge");
    }
}

async fn count(installation: &Installation, what: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {what}"))).fetch_one(&installation.db).await.expect("a count")
}

async fn ask_to_close(installation: &Installation, month: Period) {
    let (status, answer) = installation.call(Method::POST, &format!("/v1/billing/months/{month}/close"), Some(&json!({}))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
}

/// Waits until the month is closed and every invoice of it is sent.
async fn closed(installation: &Installation, month: Period) {
    let done = format!(
        "(select where (select count(*) from invoice where month = '{0}' and status = 'sent') = {TENANTS}
            and exists (select from durable.run where workflow = 'close_month' and key = '{month}' and status = 'succeeded')) done",
        month.first_day()
    );
    let look = || async { (count(installation, &done).await == 1).then_some(()) };
    eventually(CLOSE_PATIENCE, look).await.unwrap_or_else(|| panic!("{month} is not closed"));
}

/// One invoice for each company and month, of the same amount, numbered without a gap, in whole chains.
async fn whole(installation: &Installation, months: usize, net: &str) {
    let invoices = i64::try_from(months * TENANTS).expect("a count");
    assert_eq!(count(installation, "invoice").await, invoices);
    assert_eq!(count(installation, "(select distinct tenant_id, month from invoice) pairs").await, invoices);
    let units: domain::money::Units = net.parse().expect("an amount");
    assert_eq!(count(installation, &format!("invoice where net_units <> {}", units.0)).await, 0, "all invoices say {net}");
    let unbilled: i64 =
        sqlx::query_scalar("select coalesce(sum(amount), 0)::bigint from ledger_posting where account = 'unbilled'")
            .fetch_one(&installation.db)
            .await
            .expect("a balance");
    assert_eq!(unbilled, 0, "everything delivered is on an invoice");
    let verified = installation.json(&["verify"]).await;
    assert_eq!(verified["invoices"]["links"], invoices, "{verified}");
}

/// A trigger that stands still, and one that takes notes.
const DRILL: &str = "
    create sequence drill_hits;
    create table drill_log (relation text, op text);
    create function drill_note() returns trigger language plpgsql as $$
    begin
        insert into drill_log values (tg_table_schema || '.' || tg_table_name, tg_op);
        return null;
    end $$;
    create function drill_stop() returns trigger language plpgsql as $$
    begin
        if nextval('drill_hits') = 1 then
            perform pg_advisory_xact_lock(4711);
        end if;
        return null;
    end $$;";

async fn ddl(installation: &Installation, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&installation.db).await.expect("a statement of the drill");
}

/// Every table that a worker writes to while it closes a month, and how.
async fn writes_of_a_close() -> BTreeSet<(String, String)> {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let companies = companies(&installation).await;
    let month: Period = FIRST.parse().expect("a month");
    deliver(&installation, &companies, month.start(chrono_tz::UTC) + chrono::Duration::days(5)).await;
    ask_to_close(&installation, month).await;
    let notes = format!(
        "do $$ declare t record; begin
            for t in select schemaname, tablename from pg_tables where schemaname in ('public', 'durable', 'apalis')
                and schemaname || '.' || tablename not in {BESIDE} loop
                execute format('create trigger drill_note after insert or update or delete on %I.%I for each statement execute function drill_note()',
                    t.schemaname, t.tablename);
            end loop;
         end $$"
    );
    ddl(&installation, DRILL.to_owned()).await;
    ddl(&installation, notes).await;
    let worker = installation.workers();
    closed(&installation, month).await;
    let mut writes: BTreeSet<(String, String)> = sqlx::query_as("select distinct relation, op from drill_log")
        .fetch_all(&installation.db)
        .await
        .expect("the notes")
        .into_iter()
        .collect();
    // What is old is forgotten now and then, whether a month is closed or not.
    writes.retain(|(relation, op)| op != "DELETE" || !["durable.run", "durable.step"].contains(&relation.as_str()));
    drop((front, worker));
    installation.close().await;
    writes
}

/// Where the process dies at a write.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Nothing of the transaction happens.
    Before,
    /// The statement goes through, and nobody hears of it.
    Unheard,
}

type Drill = (String, String, Moment);

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_write_a_month_is_billed_once() {
    let writes = writes_of_a_close().await;
    for needed in ["public.billing_period", "public.invoice", "public.ledger_entry", "durable.step", "durable.run"] {
        assert!(writes.iter().any(|(relation, _)| relation == needed), "{needed} is not among {writes:?}");
    }
    let drills: Vec<Drill> = writes
        .into_iter()
        .flat_map(|(relation, op)| [Moment::Before, Moment::Unheard].map(|moment| (relation.clone(), op.clone(), moment)))
        .collect();
    let unmet = join_all((0..SHARDS).map(|shard| killed(drills.iter().skip(shard).step_by(SHARDS).cloned().collect()))).await;
    let unmet = unmet.concat();
    println!("{} of {} writes were not met: {unmet:?}", unmet.len(), drills.len());
    assert!(unmet.len() * 10 <= drills.len(), "of {} writes these were not met: {unmet:?}", drills.len());
}

/// One month and one death per drill. Says which writes were not met.
async fn killed(drills: Vec<Drill>) -> Vec<Drill> {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let companies = companies(&installation).await;
    ddl(&installation, DRILL.to_owned()).await;
    let mut guard = PgConnection::connect(&installation.environment["DATABASE_URL"]).await.expect("a connection");
    let (mut unmet, mut month): (Vec<Drill>, Period) = (Vec::new(), FIRST.parse().expect("a month"));
    for (relation, op, moment) in &drills {
        deliver(&installation, &companies, month.start(chrono_tz::UTC) + chrono::Duration::days(5)).await;
        ask_to_close(&installation, month).await;
        sqlx::query("select pg_advisory_lock($1)").bind(DRILL_LOCK).execute(&mut guard).await.expect("the lock");
        ddl(
            &installation,
            format!("alter sequence drill_hits restart; create trigger drill before {op} on {relation} for each statement execute function drill_stop()"),
        )
        .await;
        let doomed: Process = installation.workers();
        let there = || async {
            (count(&installation, "pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())").await > 0).then_some(())
        };
        if eventually(REACH_PATIENCE, there).await.is_none() {
            unmet.push((relation.clone(), op.clone(), *moment));
        }
        doomed.kill().await.expect("kill -9");
        if matches!(moment, Moment::Before) {
            let blocked = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and not granted
                and database = (select oid from pg_database where datname = current_database())";
            sqlx::query(blocked).execute(&installation.db).await.expect("the backend ends");
        }
        sqlx::query("select pg_advisory_unlock($1)").bind(DRILL_LOCK).execute(&mut guard).await.expect("the lock");
        ddl(&installation, format!("drop trigger drill on {relation}")).await;
        let heir = installation.workers();
        closed(&installation, month).await;
        assert_eq!(
            count(&installation, &format!("invoice where month = '{}'", month.first_day())).await,
            TENANTS as i64,
            "{relation} {op} {moment:?}"
        );
        heir.kill().await.expect("kill -9");
        month = month.next();
    }
    whole(&installation, drills.len(), "200.10").await;
    drop((front, guard));
    installation.close().await;
    unmet
}

/// Time passes, and no process of ours is there to see it.
async fn outage(installation: &Installation, by: Duration) {
    installation.simulators.advance(by);
    let by_us = i64::try_from(by.as_micros()).expect("a time");
    sqlx::query("with moved as (update durable.clock set advanced_us = advanced_us + $1 returning 1) select pg_notify('durable_clock', '') from moved")
        .bind(by_us)
        .execute(&installation.db)
        .await
        .expect("the clock");
}

async fn now(installation: &Installation) -> DateTime<Utc> {
    sqlx::query_scalar("select durable.now()").fetch_one(&installation.db).await.expect("the time")
}

#[tokio::test(flavor = "multi_thread")]
async fn months_that_ended_in_an_outage_are_closed_once_by_whoever_comes_back() {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let companies = companies(&installation).await;
    sqlx::raw_sql("update tenant set created_at = durable.now(); update line set live_at = date_trunc('month', durable.now()) - interval '1 day'")
        .execute(&installation.db)
        .await
        .expect("live since the month began");
    // Whoever works first makes the schedules known.
    let first = installation.workers();
    installation.ready().await;
    let known = || async { (count(&installation, "durable.tick where name = 'close_months'").await == 1).then_some(()) };
    eventually(REACH_PATIENCE, known).await.expect("the schedule");
    first.kill().await.expect("kill -9");

    let zone = chrono_tz::Africa::Casablanca;
    let month = Period::of(now(&installation).await, zone);
    deliver(&installation, &companies, now(&installation).await).await;
    let left = |at: DateTime<Utc>, now: DateTime<Utc>| (at - now).to_std().expect("in the future");
    outage(&installation, left(month.closes_at(zone) + chrono::Duration::hours(9), now(&installation).await)).await;
    // Three come back at once, and finance asks at the same moment, twice.
    let mut workers = vec![installation.workers(), installation.workers(), installation.workers()];
    let asked = async || {
        // The front hears of the time within a second.
        let over = || async {
            let path = format!("/v1/billing/months/{month}/close");
            (installation.call(Method::POST, &path, Some(&json!({}))).await.0 == StatusCode::ACCEPTED).then_some(())
        };
        eventually(CLOSE_PATIENCE, over).await.expect("the month is over");
    };
    tokio::join!(asked(), asked());
    closed(&installation, month).await;

    // Two more months without anybody, and nobody asks.
    for worker in workers.drain(..) {
        worker.kill().await.expect("kill -9");
    }
    let (second, third) = (month.next(), month.next().next());
    outage(&installation, left(third.closes_at(zone) + chrono::Duration::hours(3), now(&installation).await)).await;
    let workers = [installation.workers(), installation.workers()];
    closed(&installation, second).await;
    closed(&installation, third).await;
    for month in [month, second, third] {
        assert_eq!(
            count(&installation, &format!("durable.run where workflow = 'close_month' and key = '{month}'")).await,
            1,
            "{month}"
        );
    }
    assert_eq!(count(&installation, "invoice").await, 3 * TENANTS as i64);
    assert_eq!(count(&installation, "(select distinct tenant_id, month from invoice) pairs").await, 3 * TENANTS as i64);
    let verified = installation.json(&["verify"]).await;
    assert_eq!(verified["invoices"]["links"], 3 * TENANTS, "{verified}");
    drop((front, workers));
    installation.close().await;
}

/// Rows of every table of money.
async fn written(installation: &Installation) -> Vec<i64> {
    let mut rows = Vec::new();
    for table in ["invoice", "ledger_entry", "payment", "billing_period", "rate", "market_of", "exchange_rate", "durable.run"] {
        rows.push(count(installation, table).await);
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_is_refused_with_a_reason_and_writes_nothing() {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let companies = companies(&installation).await;
    let worker = installation.workers();
    let past: Period = FIRST.parse().expect("a month");
    ask_to_close(&installation, past).await;
    closed(&installation, past).await;
    let (_, key) = installation.call(Method::POST, "/v1/keys", Some(&json!({ "role": "finance" }))).await;
    let finance = key["key"].as_str().expect("a key").to_owned();
    let number: String = sqlx::query_scalar("select number from invoice order by seq limit 1")
        .fetch_one(&installation.db)
        .await
        .expect("a number");
    let directory = tempdir();
    let file = |name: &str, csv: &str| {
        let path = directory.join(name);
        std::fs::write(&path, csv).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    // One price for every category that a market needs.
    let card = |market: &str, price: &str, from: &str, to: &str| {
        let rows = ["marketing", "utility", "authentication", "service"]
            .map(|category| format!("{market},{category},USD,{price},{from},{to},card\n"));
        rows.concat()
    };
    let csv = |rows: String| format!("market,category,currency,price,valid_from,valid_to,source\n{rows}");
    let loaded = installation
        .ligne(&["rates", "load", &file("first.csv", &csv(card("tunisia", "0.0230", "2026-10-01", "2027-01-01")))])
        .await;
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));

    let before = written(&installation).await;
    let this = Period::of(now(&installation).await, chrono_tz::Africa::Casablanca);
    let credit = format!("/v1/invoices/{number}/credit-notes");
    let pay = format!("/v1/invoices/{number}/payments");
    for (path, body, status, code) in [
        (format!("/v1/billing/months/{this}/close"), json!({}), 409, "month_not_over"),
        ("/v1/billing/months/2026-13/close".to_owned(), json!({}), 422, "invalid_month"),
        ("/v1/billing/months/october/close".to_owned(), json!({}), 422, "invalid_month"),
        (credit.clone(), json!({ "amount": "-1.00", "reason": "x" }), 422, "invalid_amount"),
        (credit.clone(), json!({ "amount": "0.00", "reason": "x" }), 422, "invalid_amount"),
        (credit.clone(), json!({ "amount": "240.01", "reason": "x" }), 422, "credit_too_large"),
        (credit.clone(), json!({ "amount": "92233720368547758.08", "reason": "x" }), 422, "invalid_amount"),
        (credit.clone(), json!({ "amount": "1e6", "reason": "x" }), 422, "invalid_amount"),
        (
            credit.clone(),
            json!({ "lines": [{ "description": "x", "quantity": -1, "unit_price": "1.00" }] }),
            422,
            "invalid_amount",
        ),
        (
            credit.clone(),
            json!({ "lines": [{ "description": "x", "quantity": 9_223_372_036_854_775_807_i64, "unit_price": "2.00" }] }),
            422,
            "invalid_amount",
        ),
        (pay.clone(), json!({ "amount": "-1.00", "reference": "V" }), 422, "invalid_amount"),
        (pay.clone(), json!({ "amount": "240.01", "reference": "V" }), 422, "payment_too_large"),
        ("/v1/invoices/F-2016-999999/credit-notes".to_owned(), json!({ "amount": "1.00", "reason": "x" }), 404, "not_found"),
        ("/v1/invoices/F-2016-999999/payments".to_owned(), json!({ "amount": "1.00", "reference": "V" }), 404, "not_found"),
    ] {
        let (told, answer) = installation.call_as(&finance, Method::POST, &path, Some(&body)).await;
        assert_eq!((told.as_u16(), answer["code"].as_str()), (status, Some(code)), "{path} {body}: {answer}");
        assert!(answer["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{answer}");
    }
    let stranger = Uuid::now_v7();
    let (status, answer) = installation.call(Method::GET, &format!("/v1/tenants/{stranger}"), None).await;
    assert_eq!((status, answer["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")), "an unknown tenant");
    let (status, answer) = installation.call_as(&finance, Method::GET, &format!("/v1/invoices?tenant_id={stranger}"), None).await;
    assert_eq!((status, &answer["data"]), (StatusCode::OK, &json!([])), "has no invoices");
    // A closed month is no error, it just stays closed: the same run.
    let again = async || {
        installation.call_as(&finance, Method::POST, &format!("/v1/billing/months/{past}/close"), Some(&json!({}))).await
    };
    let (first, second) = (again().await, again().await);
    assert_eq!((first.0, &first.1["run"]), (StatusCode::ACCEPTED, &second.1["run"]));

    for (rows, code) in [
        (card("tunisia", "0.0250", "2026-12-01", ""), "overlap"),
        (card("tunisia", "0.0250", "2027-02-01", ""), "gap"),
        (card("tunisia", "0.0999", "2026-10-01", "2027-01-01"), "overlap"),
        (card("libya", "-0.0250", "2026-10-01", ""), "bad_value"),
        // Good rows do not save a file.
        (card("libya", "0.0250", "2026-10-01", "") + &card("tunisia", "0.0250", "2027-02-01", ""), "gap"),
    ] {
        let refused = installation.ligne(&["rates", "load", &file("next.csv", &csv(rows.clone()))]).await;
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(&format!("({code})")), "{rows}: {told}");
    }
    assert_eq!(written(&installation).await, before, "nothing was written");
    assert_eq!(companies.len(), TENANTS);
    std::fs::remove_dir_all(&directory).expect("a directory");
    drop((front, worker));
    installation.close().await;
}

fn tempdir() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("ligne-rates-{}", Uuid::now_v7()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_first_broken_link_of_every_chain() {
    let installation = Installation::open(Config::default()).await;
    let front = installation.front().await;
    let worker = installation.workers();
    let order = installation.order().await;
    let ends = installation.end_of(&[order], Duration::from_secs(7), END_PATIENCE).await;
    assert_eq!(ends, ["succeeded"]);
    let companies = companies(&installation).await;
    let mut month: Period = FIRST.parse().expect("a month");
    for _ in 0..2 {
        deliver(&installation, &companies, month.start(chrono_tz::UTC) + chrono::Duration::days(5)).await;
        ask_to_close(&installation, month).await;
        closed(&installation, month).await;
        month = month.next();
    }
    drop(worker);
    let whole: Value = installation.json(&["verify"]).await;
    assert_eq!(whole["invoices"]["links"], 2 * TENANTS, "{whole}");
    let tenant = companies[0].0;
    let (number, place): (String, i64) = sqlx::query_as("select number, seq from invoice order by seq offset 2 limit 1")
        .fetch_one(&installation.db)
        .await
        .expect("an invoice");
    for (what, forged, mended, named) in [
        (
            "an amount of the ledger",
            format!("update ledger_posting set amount = amount * 2 where tenant_id = '{tenant}' and seq = 2"),
            format!("update ledger_posting set amount = amount / 2 where tenant_id = '{tenant}' and seq = 2"),
            format!("the ledger of tenant {tenant} is broken at entry 2"),
        ),
        (
            "words of an invoice",
            format!("update invoice set body = jsonb_set(body, '{{buyer,name}}', '\"Autre\"') where seq = {place}"),
            format!(
                "update invoice i set body = jsonb_set(body, '{{buyer,name}}', to_jsonb(t.name)) from tenant t where t.tenant_id = i.tenant_id and seq = {place}"
            ),
            format!("the chain of invoices is broken at {number}, document {place}"),
        ),
        (
            "a receipt",
            "update receipt set record = jsonb_set(record, '{forged}', 'true') where seq = 2".to_owned(),
            "update receipt set record = record - 'forged' where seq = 2".to_owned(),
            "the chain of purchase receipts is broken at link 2".to_owned(),
        ),
    ] {
        forge(&installation, &forged).await;
        let found = installation.ligne(&["verify"]).await;
        let told = String::from_utf8_lossy(&found.stderr).into_owned();
        assert!(!found.status.success() && told.contains(&named), "{what}: {told}");
        forge(&installation, &mended).await;
        assert!(installation.ligne(&["verify"]).await.status.success(), "{what} is mended");
    }
    drop(front);
    installation.close().await;
}

/// As somebody who owns the database and switches its triggers off.
async fn forge(installation: &Installation, sql: &str) {
    let mut tx = installation.db.begin().await.expect("a transaction");
    sqlx::query("set local session_replication_role = replica").execute(&mut *tx).await.expect("no triggers");
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await.expect("a forgery");
    assert!(done.rows_affected() >= 1, "{sql}");
    tx.commit().await.expect("a forgery");
}
