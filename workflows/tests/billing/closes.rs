//! The close itself: at its hour, once, whatever fails, whoever asks, and whatever pours in meanwhile.

use crate::{Books, DAY, MINUTE, ZONE, status};
use chrono::{DateTime, Utc};
use domain::{MessageId, billing::LineKind};
use durable::{Ctx, Job};
use sqlx::{AssertSqlSafe, PgPool};
use std::{collections::BTreeSet, time::Duration};
use store::{
    invoices::{self, Walk},
    ledger::{self, Account, Currency},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use workflows::{CloseMonth, CloseMonths, CloseNow};

#[sqlx::test(migrations = false)]
async fn a_month_closes_by_itself_at_two_and_not_before(db: PgPool) {
    let books = Books::open(db).await;
    let run = books.start(books.month).await;
    assert_eq!(books.start(books.month).await, run, "asked again it is the same run");
    books.service.until_waiting_for(run, "the end of the month", MINUTE).await;
    // Real time passes while it is moved, too.
    books.skip_to(books.month.closes_at(ZONE) - chrono::Duration::minutes(10)).await;
    assert_eq!(books.documents().await, []);
    books.service.skip(Duration::from_secs(20 * 60)).await;
    assert_eq!(books.service.end_of(run, MINUTE).await, "succeeded");
    let closed: DateTime<Utc> = sqlx::query_scalar("select frozen_at from billing_period where tenant_id = $1 and month = $2")
        .bind(books.service.tenant.0)
        .bind(books.month.first_day())
        .fetch_one(&books.service.db)
        .await
        .unwrap();
    let late = closed - books.month.closes_at(ZONE);
    assert!((0..300).contains(&late.num_seconds()), "closed at {closed}");
    let documents = books.documents().await;
    assert_eq!((documents.len(), documents[0].1.as_str()), (1, "sent"));
    books.service.balance().await;
    books.service.close().await;
}

/// What fails once, wherever it is written.
const FAULTS: &str = "
    create sequence drill_hits;
    create function drill_note() returns trigger language plpgsql as $$
    begin
        insert into drill_log values (tg_table_schema || '.' || tg_table_name, tg_op);
        return null;
    end $$;
    create function drill_fail() returns trigger language plpgsql as $$
    begin
        if nextval('drill_hits') = 1 then
            raise exception 'the drill' using errcode = 'serialization_failure';
        end if;
        return null;
    end $$;
    create table drill_log (relation text, op text);";
/// Beats and schedules, which are no part of a month.
const BESIDE: &str = "('apalis.workers', 'durable.clock', 'durable.tick', 'durable.wanted', 'public.drill_log')";

async fn ddl(db: &PgPool, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db).await.unwrap();
}

/// Every table that a month's life writes to, and how, from one that is watched: a new step is drilled without anybody listing it.
async fn writes_of_a_month(books: &Books) -> BTreeSet<(String, String)> {
    let db = &books.service.db;
    // What the line's making left behind falls due in a first one.
    month_of_its_life(books).await;
    ddl(db, FAULTS.to_owned()).await;
    let on_all = |what: &str| {
        format!(
            "do $$ declare t record; begin
                for t in select schemaname, tablename from pg_tables where schemaname in ('public', 'durable', 'apalis')
                    and schemaname || '.' || tablename not in {BESIDE} loop
                    execute format('{what}', t.schemaname, t.tablename);
                end loop;
             end $$"
        )
    };
    ddl(db, on_all("create trigger drill_note after insert or update or delete on %I.%I for each statement execute function drill_note()")).await;
    month_of_its_life(books).await;
    ddl(db, on_all("drop trigger drill_note on %I.%I")).await;
    sqlx::query_as::<_, (String, String)>("select distinct relation, op from drill_log")
        .fetch_all(db)
        .await
        .unwrap()
        .into_iter()
        .collect()
}

/// One more month: closed, sent, twice reminded of, suspended, paid. Everything of it happens once.
async fn month_of_its_life(books: &Books) {
    let db = &books.service.db;
    // Months of the past may be closed at once.
    let closed: i64 = books.count("billing_period").await;
    let month = (0..closed).fold("2016-01".parse::<domain::billing::Period>().unwrap(), |month, _| month.next());
    // What fails here is what the front's caller would see: it asks again.
    let run: Uuid = loop {
        let mut tx = db.begin().await.unwrap();
        if let Ok(run) = durable::start(&mut tx, &CloseMonth { month }).await
            && tx.commit().await.is_ok()
        {
            break run;
        }
    };
    assert_eq!(books.service.end_of(run, 60 * MINUTE).await, "succeeded", "{month}");
    let invoice = invoices::of_month(db, books.service.tenant, month).await.unwrap().unwrap();
    let number = invoice.number.clone();
    let child: Uuid = sqlx::query_scalar("select run_id from durable.run where workflow = 'close_tenant' and key = $1")
        .bind(&number)
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(books.service.end_of(child, 70 * DAY).await, "succeeded", "{number}");
    assert_eq!(books.tenant_status().await, "suspended", "{number}");
    let now = books.now();
    loop {
        let mut tx = db.begin().await.unwrap();
        let paid =
            store::payments::record(&mut tx, books.service.tenant, &number, invoice.totals().total, now, &number, now).await;
        if paid.is_ok() && tx.commit().await.is_ok() {
            break;
        }
    }
    books.service.settle().await;
    assert_eq!(books.invoice(&number).await.status, "paid");
    assert_eq!(books.tenant_status().await, "active", "{number}");
    let told: Vec<(String, i64)> = [("invoice.issued", 1), ("invoice.reminder", 2), ("tenant.suspended", 1)]
        .map(|(event, times)| (event.to_owned(), times))
        .into();
    assert_eq!(books.told(&number).await, told, "{number}");
}

#[sqlx::test(migrations = false)]
async fn every_write_of_a_months_life_may_fail(db: PgPool) {
    let books = Books::open(db).await;
    let db = books.service.db.clone();
    ddl(&db, "update tenant set created_at = '2015-06-01'; update line set live_at = '2015-06-15'".to_owned()).await;
    let writes = writes_of_a_month(&books).await;
    for needed in ["public.invoice", "public.ledger_entry", "public.dunning", "durable.step", "durable.run"] {
        assert!(writes.iter().any(|(relation, _)| relation == needed), "{needed} is not among {writes:?}");
    }
    let mut unmet = Vec::new();
    for (relation, op) in &writes {
        ddl(
            &db,
            format!("alter sequence drill_hits restart; create trigger drill before {op} on {relation} for each statement execute function drill_fail()"),
        )
        .await;
        month_of_its_life(&books).await;
        let hit: bool = sqlx::query_scalar("select is_called from drill_hits").fetch_one(&db).await.unwrap();
        if !hit {
            unmet.push((relation, op));
        }
        ddl(&db, format!("drop trigger drill on {relation}")).await;
    }
    assert!(unmet.len() * 10 <= writes.len(), "{unmet:?} of {} writes were never met", writes.len());
    let months = i64::try_from(writes.len()).unwrap() + 2;
    assert_eq!(books.count("invoice").await, months, "one invoice a month");
    let mut conn = db.acquire().await.unwrap();
    let whole = invoices::verify(&mut conn).await.unwrap();
    assert!(matches!(whole, Walk::Whole { links, .. } if links as i64 == months), "{whole:?}");
    assert!(matches!(ledger::verify(&mut conn).await.unwrap(), ledger::Walk::Whole { chains: 1, .. }));
    let owed = ledger::balance(&db, books.service.tenant, Account::Receivable, Currency::Mad).await.unwrap();
    assert_eq!(owed, 0, "every invoice was paid once");
    drop(conn);
    books.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn whoever_closes_a_month_at_once_closes_it_together(db: PgPool) {
    const TENANTS: i64 = 25;
    let books = Books::open(db).await;
    let db = books.service.db.clone();
    ddl(
        &db,
        format!(
            "insert into tenant (tenant_id, name, credit_limit_units) select gen_random_uuid(), 'Tenant ' || n, 0 from generate_series(1, {TENANTS} - 1) n;
             insert into plan_price (tenant_id, valid_from, base_fee_units, price_per_message_units)
                 select tenant_id, '2015-01-01', 1000000, 1000 from tenant where name like 'Tenant %';
             insert into line (line_id, tenant_id, kind, status, country, display_name, live_at)
                 select gen_random_uuid(), tenant_id, 'own', 'live', 'MA', name, durable.now() from tenant where name like 'Tenant %'"
        ),
    )
    .await;
    books.skip_to(books.month.end(ZONE) + chrono::Duration::minutes(1)).await;
    let tick = books.month.closes_at(ZONE);
    let closes: Vec<_> = (0..12)
        .map(|n| {
            let (tools, month) = (books.service.tools.clone(), books.month);
            tokio::spawn(async move {
                if n % 2 == 0 {
                    let ctx = Ctx { clock: tools.clock.clone(), attempt: 1, stopping: CancellationToken::new() };
                    return CloseMonths { at: tick }.run(&tools, &ctx).await.unwrap();
                }
                let mut tx = tools.db.begin().await.unwrap();
                durable::start(&mut tx, &CloseMonth { month }).await.unwrap();
                durable::signal(&mut tx, month, &CloseNow {}).await.unwrap();
                tx.commit().await.unwrap();
            })
        })
        .collect();
    for close in closes {
        close.await.unwrap();
    }
    books.service.settle().await;
    assert_eq!(books.count("durable.run where workflow = 'close_month' and status = 'succeeded'").await, 1);
    assert_eq!(books.count("durable.run where workflow = 'close_tenant'").await, TENANTS);
    assert_eq!(books.count("invoice").await, TENANTS);
    assert_eq!(books.count("(select distinct tenant_id from invoice) tenants").await, TENANTS);
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(invoices::verify(&mut conn).await.unwrap(), Walk::Whole { links, .. } if links as i64 == TENANTS));
    drop(conn);
    books.service.close().await;
}

/// Outbound messages of the line, accepted and not heard of since.
async fn accepted(books: &Books, count: usize) -> Vec<MessageId> {
    let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "with c as (insert into contact (contact_id, tenant_id) values (gen_random_uuid(), $2) returning contact_id),
         v as (insert into conversation (conversation_id, tenant_id, line_id, contact_id) select gen_random_uuid(), $2, $3, contact_id from c
               returning conversation_id, contact_id)
         insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status, attempts, wamid, accepted_at)
         select id, $2, $3, contact_id, conversation_id, 'out', 'template', 'marketing', 'accepted', 1, 'wamid.' || id, durable.now()
         from v, unnest($1::uuid[]) as u(id)",
    )
    .bind(&ids)
    .bind(books.service.tenant.0)
    .bind(books.line.0)
    .execute(&books.service.db)
    .await
    .unwrap();
    ids.into_iter().map(MessageId).collect()
}

/// How many messages of the month's invoice were told in time, and how many late.
async fn told(books: &Books, number: &str) -> (i64, i64) {
    let lines = books.invoice(number).await.lines().unwrap();
    let sum = |kind| lines.iter().filter(|line| line.kind == kind).map(|line| line.quantity).sum();
    (sum(LineKind::Messages), sum(LineKind::Late))
}

#[sqlx::test(migrations = false)]
async fn webhooks_that_pour_in_while_the_month_closes_are_billed_once_each(db: PgPool) {
    const MESSAGES: usize = 300;
    let books = Books::open(db).await;
    let ids = accepted(&books, MESSAGES).await;
    books.skip_to(books.month.end(ZONE) + chrono::Duration::minutes(5)).await;
    let delivered = books.month.end(ZONE) - chrono::Duration::minutes(5);
    let run = books.start(books.month).await;
    for (batch, some) in ids.chunks(10).enumerate() {
        // Sent and delivered, doubled, in the wrong order.
        let statuses: Vec<_> = some
            .iter()
            .flat_map(|id| {
                let (wamid, attempt) = (format!("wamid.{id}"), format!("{id}.1"));
                ["delivered", "sent", "delivered"].map(|told| status(&wamid, &attempt, told, delivered))
            })
            .collect();
        books.hear(&statuses).await;
        if batch == 3 {
            let mut tx = books.service.db.begin().await.unwrap();
            durable::signal(&mut tx, books.month, &CloseNow {}).await.unwrap();
            tx.commit().await.unwrap();
        }
    }
    books.service.settle().await;
    assert_eq!(books.service.status(run).await.status, "succeeded");
    let first = invoices::of_month(&books.service.db, books.service.tenant, books.month).await.unwrap().unwrap().number;
    // One more, days later.
    let late = accepted(&books, 1).await[0];
    books.hear(&[status(&format!("wamid.{late}"), &format!("{late}.1"), "read", delivered)]).await;
    books.service.settle().await;
    let before = books.invoice(&first).await;
    let second = books.close(books.month.next()).await;
    assert_eq!(books.invoice(&first).await.body, before.body, "a closed month never changes");
    let (in_time, in_first) = told(&books, &first).await;
    let (own, in_second) = told(&books, &second).await;
    assert_eq!((in_first, own), (0, 0));
    assert!(in_second >= 1 && in_time + in_second == MESSAGES as i64 + 1, "{in_time} in time and {in_second} late");
    let lines = books.invoice(&second).await.lines().unwrap();
    let line = lines.iter().find(|line| line.kind == LineKind::Late).unwrap();
    assert_eq!(
        (line.usage_month, line.category.map(|c| c.name()), line.unit_price.to_string()),
        (Some(books.month), Some("marketing"), "0.10".into())
    );
    let unbilled = ledger::balance(&books.service.db, books.service.tenant, Account::Unbilled, Currency::Mad).await.unwrap();
    assert_eq!(unbilled, 0);

    // Everything once more, shuffled: nothing is added.
    let entries = books.count("ledger_entry").await;
    for id in ids.iter().rev().chain([&late]) {
        let (wamid, attempt) = (format!("wamid.{id}"), format!("{id}.1"));
        books.hear(&["sent", "delivered", "delivered"].map(|told| status(&wamid, &attempt, told, delivered))).await;
    }
    books.service.settle().await;
    // Of the late one it is news that it was sent and delivered, but not that it was charged.
    assert_eq!((books.count("ledger_entry").await, books.count("charge").await), (entries, MESSAGES as i64 + 1));
    assert_eq!(books.count("invoice").await, 2);
    books.service.close().await;
}
