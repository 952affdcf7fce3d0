//! Whatever happens in whatever order: entries balance, lines are the sums of their parts, nothing is billed twice or never.

use crate::{Books, at, month};
use chrono::{DateTime, Duration, Utc};
use domain::{
    TenantId,
    billing::{LineKind, Period},
    money::Units,
    seller::Seller,
};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use sqlx::PgPool;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use store::{
    charges::{self, PricedStatus},
    credit,
    invoices::{self, Credit, Invoice},
    ledger::{self, Account},
    payments,
};
use tokio::sync::Barrier;

/// Stories told to one database, each to a tenant of its own.
const STORIES: usize = 24;
/// The first month, and how many are closed one after the other.
const FIRST: &str = "2026-09";
const MONTHS: i64 = 4;

/// A piece of news about one of a story's messages, told so many minutes after the first month began, and heard some time later.
#[derive(Debug, Clone)]
struct Told {
    message: usize,
    status: &'static str,
    category: &'static str,
    pricing: Option<&'static str>,
    minute: i64,
    heard_minute: i64,
}

#[derive(Debug, Clone)]
struct Story {
    /// Ledger units a message: up to four places.
    price: i64,
    told: Vec<Told>,
    /// Parts of each invoice, in percent, that are credited and paid.
    credited: Vec<i64>,
    paid: Vec<i64>,
}

fn story() -> impl Strategy<Value = Story> {
    let minutes = MONTHS * 30 * 24 * 60;
    let told = (
        0_usize..12,
        prop::sample::select(vec!["sent", "delivered", "read", "failed"]),
        prop::sample::select(vec!["marketing", "utility", "service"]),
        prop::sample::select(vec![None, Some("regular"), Some("free_customer_service"), Some("free_entry_point")]),
        0..minutes,
        0_i64..45 * 24 * 60,
    )
        .prop_map(|(message, status, category, pricing, minute, later)| Told {
            message,
            status,
            category,
            pricing,
            minute,
            heard_minute: minute + later,
        });
    let parts = || prop::collection::vec(0_i64..=100, MONTHS as usize);
    (1_i64..30_000, prop::collection::vec(told, 1..40), parts(), parts()).prop_map(|(price, told, credited, paid)| Story {
        price,
        told,
        credited,
        paid,
    })
}

impl Books {
    async fn invoice(&self, of: Period) -> Option<Invoice> {
        invoices::of_month(&self.db, self.tenant, of).await.unwrap()
    }

    /// Takes back and pays a part of an invoice.
    async fn settle_some(&self, invoice: &Invoice, credited: i64, paid: i64, now: DateTime<Utc>) {
        let part = |whole: i64, percent: i64| Units(whole / 100 * percent / 100 * 100);
        let mut tx = self.db.begin().await.unwrap();
        let note = part(invoice.total_units, credited);
        if note > Units::ZERO {
            invoices::credit(&mut tx, self.tenant, &invoice.number, Credit::Amount(note), "geste", now).await.unwrap();
        }
        let left = payments::left_to_pay(&mut tx, invoice).await.unwrap();
        let payment = part(left.0, paid);
        if payment > Units::ZERO {
            payments::record(&mut tx, self.tenant, &invoice.number, payment, now, "virement", now).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    /// Every line beside the charges that it stands for, exactly; says how many messages are invoiced.
    async fn lines_are_sums(&self, of: Period) -> i64 {
        let parts: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(
            "select case when usage_month < billing_month then to_char(usage_month, 'YYYY-MM') else '' end, category, price_units, count(*),
                sum(price_units)::bigint
             from charge where tenant_id = $1 and billing_month = $2 and state = 'final' group by 1, 2, 3",
        )
        .bind(self.tenant.0)
        .bind(of.first_day())
        .fetch_all(&self.db)
        .await
        .unwrap();
        let mut parts: BTreeMap<(String, String, i64), (i64, i64)> =
            parts.into_iter().map(|(late, category, price, count, sum)| ((late, category, price), (count, sum))).collect();
        let Some(invoice) = self.invoice(of).await else {
            assert_eq!(parts, BTreeMap::new(), "{of} has messages and no invoice");
            return 0;
        };
        let (mut net, mut messages) = (0, 0);
        for line in invoice.lines().unwrap() {
            net += line.amount.0;
            if !matches!(line.kind, LineKind::Messages | LineKind::Late) {
                continue;
            }
            let late = line.usage_month.map(|month| month.to_string()).unwrap_or_default();
            let category = line.category.unwrap().name().to_owned();
            let (count, sum) = parts.remove(&(late, category, line.unit_price.0)).unwrap();
            assert_eq!((line.quantity, line.quantity * line.unit_price.0), (count, sum));
            // Half up to the centime, once.
            assert_eq!(line.amount.0, (sum + 50) / 100 * 100, "{line:?}");
            messages += count;
        }
        assert_eq!(parts, BTreeMap::new(), "messages of {of} that are on no line");
        let vat = (net / 100 * 20 + 50) / 100 * 100;
        assert_eq!((invoice.net_units, invoice.vat_units, invoice.total_units), (net, vat, net + vat), "{of}");
        messages
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn entries_balance_lines_are_sums_and_nothing_is_billed_twice_or_never(db: PgPool) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let first = month(FIRST).start(chrono_tz::Africa::Casablanca);
    for _ in 0..STORIES {
        let story = story().new_tree(&mut runner).unwrap().current();
        let books = Books::with(&db, |tenant| tenant.prices[0].price_per_message_units = story.price).await;
        let mut messages = Vec::new();
        for _ in 0..12 {
            messages.push(books.message("accepted", 0).await);
        }
        let mut told: Vec<(i64, PricedStatus)> = story
            .told
            .iter()
            .map(|told| {
                let news = PricedStatus {
                    at: first + Duration::minutes(told.minute),
                    pricing_type: told.pricing.map(str::to_owned),
                    pricing_category: Some(told.category.to_owned()),
                    ..books.news(messages[told.message], told.status, "2026-09-01T00:00:00Z")
                };
                (told.heard_minute, news)
            })
            .collect();
        told.sort_by_key(|(heard, _)| *heard);
        let (mut of, mut closed) = (month(FIRST), 0);
        let mut waiting = told.iter().peekable();
        // One month more than news can be told of: nothing may be left over.
        while closed < MONTHS + 3 {
            let closes = of.closes_at(chrono_tz::Africa::Casablanca);
            while let Some((_, news)) = waiting.next_if(|(heard, _)| first + Duration::minutes(*heard) < closes) {
                books.note(std::slice::from_ref(news)).await;
            }
            let mut tx = db.begin().await.unwrap();
            charges::expire(&mut tx, closes).await.unwrap();
            invoices::close(&mut tx, of, &[books.tenant], &Seller::demo(), closes).await.unwrap();
            tx.commit().await.unwrap();
            if let (Some(invoice), Ok(n)) = (books.invoice(of).await, usize::try_from(closed))
                && n < story.credited.len()
            {
                books.settle_some(&invoice, story.credited[n], story.paid[n], closes).await;
            }
            (of, closed) = (of.next(), closed + 1);
        }
        assert!(waiting.next().is_none(), "all was told");

        let before = (books.standing().await, money(&db, books.tenant).await);
        let mut invoiced = 0;
        let mut month = month(FIRST);
        while month < of {
            invoiced += books.lines_are_sums(month).await;
            month = month.next();
        }
        let delivered: i64 = sqlx::query_scalar("select count(*) from charge where tenant_id = $1 and state = 'final'")
            .bind(books.tenant.0)
            .fetch_one(&db)
            .await
            .unwrap();
        let distinct: std::collections::BTreeSet<usize> =
            story.told.iter().filter(|told| matches!(told.status, "delivered" | "read")).map(|told| told.message).collect();
        assert_eq!((invoiced, delivered), (distinct.len() as i64, distinct.len() as i64), "{story:#?}");
        assert_eq!(books.balance(Account::Unbilled).await, 0, "{story:#?}");
        assert_eq!(books.balance(Account::Pending).await, 0, "{story:#?}");
        let used: i64 = sqlx::query_scalar(
            "select coalesce(sum(charged_units), 0)::bigint from credit_delta where tenant_id = $1 and month is not null",
        )
        .bind(books.tenant.0)
        .fetch_one(&db)
        .await
        .unwrap();
        assert_eq!(used, -books.balance(Account::MessageRevenue).await, "credit and ledger charge the same");

        // The whole story twice more, in any order: not a row differs, not an entry is added.
        let news: Vec<PricedStatus> = told.into_iter().map(|(_, news)| news).collect();
        let twice = Just([news.clone(), news].concat()).prop_shuffle().new_tree(&mut runner).unwrap().current();
        for some in twice.chunks(7) {
            books.note(some).await;
        }
        assert_eq!((books.standing().await, money(&db, books.tenant).await), before, "{story:#?}");
    }
    let unbalanced: i64 = sqlx::query_scalar(
        "select count(*) from (select from ledger_posting group by tenant_id, seq, currency having sum(amount) <> 0) wrong",
    )
    .fetch_one(&db)
    .await
    .unwrap();
    assert_eq!(unbalanced, 0);
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(ledger::verify(&mut conn).await.unwrap(), ledger::Walk::Whole { chains: STORIES, .. }));
    assert!(matches!(invoices::verify(&mut conn).await.unwrap(), invoices::Walk::Whole { .. }));
}

/// Invoices as they were hashed, their state, and the length of the ledger.
async fn money(db: &PgPool, tenant: TenantId) -> (Vec<String>, i64) {
    let invoices =
        sqlx::query_scalar("select number || status || encode(hash, 'hex') from invoice where tenant_id = $1 order by seq")
            .bind(tenant.0)
            .fetch_all(db)
            .await
            .unwrap();
    let entries = sqlx::query_scalar("select count(*) from ledger_entry where tenant_id = $1").bind(tenant.0).fetch_one(db).await;
    (invoices, entries.unwrap())
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_month_that_closes_while_webhooks_pour_in_bills_each_message_once(db: PgPool) {
    const MESSAGES: usize = 400;
    const HEARERS: usize = 4;
    for round in 0..3 {
        let books = Arc::new(Books::open(&db).await);
        let mut news = Vec::new();
        for n in 0..MESSAGES {
            let message = books.message("accepted", 1_000).await;
            let when = at("2026-10-31T22:00:00Z") + Duration::seconds(n as i64 * 9);
            news.push(PricedStatus { at: when, ..books.news(message, "delivered", "2026-10-31T22:00:00Z") });
        }
        let (heard, start) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(HEARERS + 1)));
        // Everybody hears everything, each in an order of its own.
        let hearers = (0..HEARERS).map(|hearer| {
            let (books, heard, start, mut news) = (books.clone(), heard.clone(), start.clone(), news.clone());
            tokio::spawn(async move {
                news.rotate_left(hearer * MESSAGES / HEARERS);
                start.wait().await;
                for some in news.chunks(10) {
                    books.note(some).await;
                    heard.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let hearers: Vec<_> = hearers.collect();
        start.wait().await;
        // In the middle of it, at another place in every round.
        while heard.load(Ordering::Relaxed) < 5 + round * 10 {
            tokio::task::yield_now().await;
        }
        let close = async |of: &str, now: &str| {
            let mut tx = db.begin().await.unwrap();
            invoices::close(&mut tx, month(of), &[books.tenant], &Seller::demo(), at(now)).await.unwrap();
            tx.commit().await.unwrap();
        };
        close("2026-10", "2026-11-01T01:00:00Z").await;
        for hearer in hearers {
            hearer.await.unwrap();
        }
        close("2026-11", "2026-12-01T01:00:00Z").await;
        let (october, november) = (books.lines_are_sums(month("2026-10")).await, books.lines_are_sums(month("2026-11")).await);
        assert_eq!(october + november, MESSAGES as i64, "{october} in time and {november} late");
        assert!(november > 0, "the close came before the last of them");
        assert_eq!(books.balance(Account::Unbilled).await, 0);
        let usage = credit::usage(&db, books.tenant, month("2026-10")).await.unwrap();
        // The last hour and the first seconds of November are in it.
        let october_units: i64 =
            sqlx::query_scalar("select sum(price_units)::bigint from charge where tenant_id = $1 and usage_month = '2026-10-01'")
                .bind(books.tenant.0)
                .fetch_one(&db)
                .await
                .unwrap();
        assert_eq!(usage.charged, october_units, "counted for the month in which they were delivered");
    }
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(ledger::verify(&mut conn).await.unwrap(), ledger::Walk::Whole { chains: 3, .. }));
    assert!(matches!(invoices::verify(&mut conn).await.unwrap(), invoices::Walk::Whole { links: 6, .. }));
}
