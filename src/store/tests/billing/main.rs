//! The money side against PostgreSQL: charges, ledger, credit, invoices, payments.
#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion here")]

mod months;
mod properties;

use chrono::{DateTime, Duration, NaiveDate, Utc};
use domain::{
    LineId, MessageId, TenantId,
    billing::{BillingError, Period},
    legal::Legal,
    money::Units,
    rates::{read_exchange_rates, read_markets, read_rates},
    seller::Seller,
};
use proptest::{
    prelude::*,
    strategy::{Strategy, ValueTree},
    test_runner::{Config, TestRunner},
};
use sqlx::PgPool;
use std::collections::BTreeSet;
use store::{
    charges::{self, PricedStatus},
    credit,
    invoices::{self, Credit, Issued, Refused, Walk},
    ledger::{self, Account, Currency},
    payments,
    rates::{self, Table},
    tenants::{self, Contact, PlanPrice, Tenant},
};
use uuid::Uuid;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn month(text: &str) -> Period {
    text.parse().unwrap()
}

/// A tenant with a live line and messages to charge.
struct Books {
    db: PgPool,
    tenant: TenantId,
    line: LineId,
    contact: Uuid,
    conversation: Uuid,
}

impl Books {
    async fn open(db: &PgPool) -> Self {
        Self::with(db, |_| ()).await
    }

    async fn with(db: &PgPool, change: impl FnOnce(&mut Tenant)) -> Self {
        let id = TenantId(Uuid::now_v7());
        let mut tenant = Tenant {
            id,
            name: "Atlas Emploi".into(),
            legal: Legal::default(),
            contact: Contact::default(),
            billing_email: None,
            billing_mode: "platform".into(),
            credit_limit_units: 10_000_000,
            status: "active".into(),
            language: "fr".into(),
            time_zone: "Africa/Casablanca".into(),
            retention_months: 24,
            created_at: at("2026-09-01T00:00:00Z"),
            prices: vec![PlanPrice {
                plan: "basic".into(),
                valid_from: NaiveDate::from_ymd_opt(2026, 9, 1).unwrap(),
                base_fee_units: 2_000_000,
                price_per_message_units: 1_000,
                number_rent_units: 0,
            }],
        };
        change(&mut tenant);
        let mut tx = db.begin().await.unwrap();
        tenants::create(&mut tx, &tenant).await.unwrap();
        tx.commit().await.unwrap();
        let (line, contact, conversation) = (LineId(Uuid::now_v7()), Uuid::now_v7(), Uuid::now_v7());
        sqlx::query("insert into line (line_id, tenant_id, kind, status, country, display_name, live_at) values ($1, $2, 'virtual', 'live', 'MA', 'Atlas', '2026-09-15T12:00:00Z')")
            .bind(line.0).bind(id.0).execute(db).await.unwrap();
        sqlx::query("insert into contact (contact_id, tenant_id) values ($1, $2)")
            .bind(contact)
            .bind(id.0)
            .execute(db)
            .await
            .unwrap();
        sqlx::query("insert into contact_alias (tenant_id, kind, value, contact_id) values ($1, 'phone', $2, $3)")
            .bind(id.0)
            .bind("+212600000001")
            .bind(contact)
            .execute(db)
            .await
            .unwrap();
        sqlx::query("insert into conversation (conversation_id, tenant_id, line_id, contact_id) values ($1, $2, $3, $4)")
            .bind(conversation)
            .bind(id.0)
            .bind(line.0)
            .bind(contact)
            .execute(db)
            .await
            .unwrap();
        Self { db: db.clone(), tenant: id, line, contact, conversation }
    }

    async fn message(&self, status: &str, reserved: i64) -> MessageId {
        let id = MessageId(Uuid::now_v7());
        sqlx::query(
            "insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status, reserved_units)
             values ($1, $2, $3, $4, $5, 'out', 'template', 'utility', $6, $7)",
        )
        .bind(id.0).bind(self.tenant.0).bind(self.line.0).bind(self.contact).bind(self.conversation).bind(status).bind(reserved)
        .execute(&self.db).await.unwrap();
        id
    }

    fn news(&self, message: MessageId, status: &str, when: &str) -> PricedStatus {
        PricedStatus {
            message_id: message,
            tenant_id: self.tenant,
            wamid: format!("wamid.{message}"),
            status: status.into(),
            at: at(when),
            pricing_type: Some("regular".into()),
            pricing_category: Some("utility".into()),
        }
    }

    async fn note(&self, news: &[PricedStatus]) {
        let mut tx = self.db.begin().await.unwrap();
        charges::note(&mut tx, news).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// One message that was delivered then.
    async fn deliver(&self, when: &str) -> PricedStatus {
        let message = self.message("accepted", 0).await;
        let news = self.news(message, "delivered", when);
        self.note(std::slice::from_ref(&news)).await;
        news
    }

    async fn close(&self, of: &str, now: &str) -> Vec<Issued> {
        let mut tx = self.db.begin().await.unwrap();
        let issued = invoices::close(&mut tx, month(of), &[self.tenant], &Seller::demo(), at(now)).await.unwrap();
        tx.commit().await.unwrap();
        issued
    }

    async fn balance(&self, account: Account) -> i64 {
        ledger::balance(&self.db, self.tenant, account, Currency::Mad).await.unwrap()
    }

    /// Everything that money depends on, but for the number of entries that led there.
    async fn standing(&self) -> (Vec<String>, Vec<(String, i64)>) {
        let charges = sqlx::query_scalar::<_, String>(
            "select concat_ws(' ', encode(wamid_hash, 'hex'), state, category, pricing_type, happened_at, price_units, cost_micro, usage_month, billing_month)
             from charge where tenant_id = $1 order by wamid_hash",
        )
        .bind(self.tenant.0).fetch_all(&self.db).await.unwrap();
        let accounts = sqlx::query_as(
            "select account || currency, sum(amount)::bigint from ledger_posting where tenant_id = $1 group by 1 having sum(amount) <> 0 order by 1",
        )
        .bind(self.tenant.0).fetch_all(&self.db).await.unwrap();
        (charges, accounts)
    }
}

async fn load_cards(db: &PgPool) {
    let file = |name: &str| std::fs::read_to_string(format!("../../fixtures/rates/{name}.csv")).unwrap();
    let mut tx = db.begin().await.unwrap();
    for table in [
        Table::Rates(read_rates(&file("meta")).unwrap()),
        Table::Markets(read_markets(&file("markets")).unwrap()),
        Table::Exchange(read_exchange_rates(&file("exchange")).unwrap()),
    ] {
        assert!(rates::load(&mut tx, &table).await.unwrap() > 0);
        assert_eq!(rates::load(&mut tx, &table).await.unwrap(), 0, "loaded again it changes nothing");
    }
    tx.commit().await.unwrap();
}

#[sqlx::test(migrations = "../../migrations")]
async fn webhooks_twice_in_any_order_come_to_the_same_money(db: PgPool) {
    load_cards(&db).await;
    let books = Books::open(&db).await;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let one = (
        prop::sample::select(vec!["sent", "delivered", "read", "failed"]),
        0_i64..4_000,
        prop::sample::select(vec![None, Some("regular"), Some("free_customer_service"), Some("unheard_of")]),
    );
    let story = prop::collection::vec(prop::collection::vec(one, 1..5), 1..4);
    for _ in 0..40 {
        let told = story.new_tree(&mut runner).unwrap().current();
        let mut news = Vec::new();
        for statuses in told {
            let message = books.message("accepted", 1_000).await;
            for (status, minutes, pricing) in statuses {
                let mut one = books.news(message, status, "2026-10-30T00:00:00Z");
                one.at += Duration::minutes(minutes);
                one.pricing_type = pricing.map(str::to_owned);
                news.push(one);
            }
        }
        let shuffle = Just(news.clone()).prop_shuffle();
        let mut standings = Vec::new();
        for _ in 0..3 {
            let order = shuffle.new_tree(&mut runner).unwrap().current();
            for some in order.chunks(2) {
                books.note(some).await;
            }
            standings.push(books.standing().await);
            let entries: i64 = sqlx::query_scalar("select count(*) from ledger_entry").fetch_one(&db).await.unwrap();
            books.note(&order).await;
            let again: i64 = sqlx::query_scalar("select count(*) from ledger_entry").fetch_one(&db).await.unwrap();
            assert_eq!((books.standing().await, entries), (standings.last().unwrap().clone(), again), "{order:#?}");
            // The same story once more from nothing.
            let told: Vec<_> = news.iter().map(|n| charges::wamid_hash(&n.wamid)).collect();
            let undo = sqlx::query("delete from charge where wamid_hash = any($1)").bind(&told);
            undo.execute(&db).await.unwrap();
            let mut tx = db.begin().await.unwrap();
            sqlx::query("set local session_replication_role = replica").execute(&mut *tx).await.unwrap();
            for table in ["ledger_posting", "ledger_entry", "ledger_head", "credit_delta"] {
                sqlx::query(sqlx::AssertSqlSafe(format!("delete from {table}"))).execute(&mut *tx).await.unwrap();
            }
            tx.commit().await.unwrap();
        }
        assert!(standings.windows(2).all(|pair| pair[0] == pair[1]), "{news:#?} {standings:#?}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_entry_that_does_not_balance_or_changes_is_refused_by_the_database(db: PgPool) {
    let books = Books::open(&db).await;
    books.deliver("2026-10-05T10:00:00Z").await;
    let refused = async |sql: &'static str| {
        let error = sqlx::query(sql).execute(&db).await.unwrap_err();
        error.as_database_error().unwrap().message().to_owned()
    };
    assert_eq!(
        refused("insert into ledger_posting (tenant_id, seq, account, currency, amount) select tenant_id, seq, 'cash', 'MAD', 5 from ledger_entry").await,
        "a ledger entry does not balance"
    );
    assert_eq!(refused("update ledger_entry set kind = 'x'").await, "ledger_entry is append-only");
    assert_eq!(refused("delete from ledger_posting").await, "ledger_posting is append-only");
    assert_eq!(refused("truncate ledger_entry, ledger_posting").await, "ledger_entry is append-only");
}

#[sqlx::test(migrations = "../../migrations")]
async fn two_cards_in_one_month_are_right_on_both_sides_of_midnight(db: PgPool) {
    load_cards(&db).await;
    let books = Books::open(&db).await;
    // Morocco is at UTC+1: its October begins at 23:00 UTC.
    books.deliver("2026-09-30T22:59:59Z").await;
    books.deliver("2026-09-30T23:00:00Z").await;
    let costs: Vec<(String, i64, i64)> =
        sqlx::query_as("select market, cost_micro, cost_units from charge order by happened_at").fetch_all(&db).await.unwrap();
    assert_eq!(costs, [("rest_of_africa".into(), 4_000, 370), ("morocco".into(), 23_000, 2_116)]);
    let usd = ledger::balance(&db, books.tenant, Account::MetaPayable, Currency::Usd).await.unwrap();
    assert_eq!(usd, -27_000);
    let mut conn = db.acquire().await.unwrap();
    let mut dearer = rates::card(&mut conn, None).await.unwrap();
    dearer.rates.iter_mut().for_each(|rate| rate.price_micro *= 2);
    let other = rates::compare(&mut conn, month("2026-10"), &dearer, None).await.unwrap();
    assert_eq!((other[0].then_micro, other[0].other_micro), (23_000, 46_000));
    let before = rates::compare(&mut conn, month("2026-10"), &dearer, "2026-09-15".parse().ok()).await.unwrap();
    assert_eq!((before[0].then_micro, before[0].other_micro), (23_000, 8_000), "as if it had been September");
    assert_eq!(
        ledger::balance(&db, books.tenant, Account::MetaPayable, Currency::Usd).await.unwrap(),
        usd,
        "nothing was touched"
    );
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_came_before_its_card_is_priced_once_the_card_is_there(db: PgPool) {
    let books = Books::open(&db).await;
    books.deliver("2026-09-30T22:59:59Z").await;
    books.deliver("2026-10-05T10:00:00Z").await;
    let usd = async || ledger::balance(&db, books.tenant, Account::MetaCost, Currency::Usd).await.unwrap();
    assert_eq!((charges::price_waiting(&db).await.unwrap(), usd().await), (0, 0), "there is no card yet");
    load_cards(&db).await;
    assert_eq!((charges::price_waiting(&db).await.unwrap(), usd().await), (2, 27_000));
    assert_eq!((charges::price_waiting(&db).await.unwrap(), usd().await), (0, 27_000), "and only once");
    let costs: Vec<(i64, i64, i64)> = sqlx::query_as(
        "select c.cost_micro, c.cost_units, m.cost_micro from charge c join message m using (message_id) order by c.happened_at",
    )
    .fetch_all(&db)
    .await
    .unwrap();
    assert_eq!(costs, [(4_000, 370, 4_000), (23_000, 2_116, 23_000)]);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_card_that_contradicts_the_loaded_one_is_refused_whole(db: PgPool) {
    load_cards(&db).await;
    let count = async || sqlx::query_scalar::<_, i64>("select count(*) from exchange_rate").fetch_one(&db).await.unwrap();
    let before = count().await;
    let other =
        read_exchange_rates("from,to,rate,valid_from,source\nUSD,MAD,9.99,2026-10-01,x\nUSD,MAD,9.98,2027-01-01,x\n").unwrap();
    let mut tx = db.begin().await.unwrap();
    let refused = rates::load(&mut tx, &Table::Exchange(other)).await;
    assert!(matches!(refused, Err(rates::Refused::Rows(errors)) if errors[0].code == "overlap"));
    tx.rollback().await.unwrap();
    assert_eq!(count().await, before);
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_nothing_confirms_is_reversed_after_32_days_and_its_credit_is_free(db: PgPool) {
    let books = Books::open(&db).await;
    let message = books.message("sent", 1_000).await;
    books.note(&[books.news(message, "sent", "2026-10-01T10:00:00Z")]).await;
    assert_eq!(books.balance(Account::Pending).await, 1_000);
    let expire = async |now: &str| {
        let mut tx = db.begin().await.unwrap();
        let count = charges::expire(&mut tx, at(now)).await.unwrap();
        tx.commit().await.unwrap();
        count
    };
    assert_eq!(expire("2026-11-02T09:00:00Z").await, 0);
    assert_eq!(expire("2026-11-02T11:00:00Z").await, 1);
    assert_eq!(books.balance(Account::Pending).await, 0);
    let reserved = credit::usage(&db, books.tenant, month("2026-10")).await.unwrap().reserved;
    assert_eq!(reserved, -1_000, "the message's reservation was given back");
    // Late but true: it was delivered after all.
    books.note(&[books.news(message, "delivered", "2026-11-03T10:00:00Z")]).await;
    assert_eq!(books.balance(Account::Unbilled).await, 1_000);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_burst_cannot_overshoot_the_limit_by_one(db: PgPool) {
    let books = Books::with(&db, |tenant| tenant.credit_limit_units = 100_000).await;
    let now = at("2026-10-05T10:00:00Z");
    let asks = (0..40).map(|n| {
        let (db, tenant) = (db.clone(), books.tenant);
        tokio::spawn(async move {
            let wanted = 1_000 * (n % 7 + 1);
            let mut tx = db.begin().await.unwrap();
            let answer = credit::reserve(&mut tx, tenant, now, wanted).await.unwrap();
            // Some change their mind.
            if n % 5 == 0 {
                tx.rollback().await.unwrap()
            } else {
                tx.commit().await.unwrap()
            }
            (answer, if n % 5 == 0 { 0 } else { wanted })
        })
    });
    let (mut reserved, mut warned, mut refused) = (0, BTreeSet::new(), 0);
    for ask in asks.collect::<Vec<_>>() {
        match ask.await.unwrap() {
            (Ok(warning), kept) => {
                reserved += kept;
                warned.extend(warning.filter(|_| kept > 0).map(|warning| warning.percent));
            }
            (Err(_), _) => refused += 1,
        }
    }
    assert!(refused > 0 && (93_001..=100_000).contains(&reserved), "{reserved} reserved, {refused} refused");
    assert!(warned.contains(&80), "{warned:?}");
    assert_eq!(credit::usage(&db, books.tenant, Period::of(now, chrono_tz::UTC)).await.unwrap().reserved, reserved);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_reservation_becomes_a_charge_or_comes_back(db: PgPool) {
    let books = Books::with(&db, |tenant| tenant.credit_limit_units = 3_000).await;
    let reserve = async |units: i64| {
        let mut tx = db.begin().await.unwrap();
        let answer = credit::reserve(&mut tx, books.tenant, at("2026-10-05T10:00:00Z"), units).await.unwrap();
        tx.commit().await.unwrap();
        answer.map(drop).map_err(|no| no.left)
    };
    assert_eq!(reserve(3_000).await, Ok(()));
    assert_eq!(reserve(1_000).await, Err(0));
    let messages =
        [books.message("accepted", 1_000).await, books.message("accepted", 1_000).await, books.message("unknown", 1_000).await];
    sqlx::query("update message set status = 'failed' where message_id = $1").bind(messages[0].0).execute(&db).await.unwrap();
    assert_eq!(reserve(2_000).await, Err(1_000));
    sqlx::query("update message set status = 'parked' where message_id = $1").bind(messages[2].0).execute(&db).await.unwrap();
    books.note(&[books.news(messages[1], "delivered", "2026-10-05T11:00:00Z")]).await;
    let usage = credit::usage(&db, books.tenant, month("2026-10")).await.unwrap();
    assert_eq!((usage.charged, usage.reserved), (1_000, 0));
    assert_eq!(reserve(2_001).await, Err(2_000));
    assert_eq!(reserve(2_000).await, Ok(()));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_month_is_added_up_once_and_what_comes_later_is_late(db: PgPool) {
    let books = Books::open(&db).await;
    for day in 1..=3 {
        books.deliver(&format!("2026-10-0{day}T10:00:00Z")).await;
    }
    let message = books.message("accepted", 0).await;
    let mut free = books.news(message, "delivered", "2026-10-04T10:00:00Z");
    (free.pricing_type, free.pricing_category) = (Some("free_customer_service".into()), Some("service".into()));
    books.note(&[free]).await;
    let issued = books.close("2026-10", "2026-11-01T01:00:00Z").await;
    assert_eq!(issued[0].number, "F-2026-000001");
    assert_eq!(books.close("2026-10", "2026-11-01T02:00:00Z").await, []);
    let invoice = invoices::get(&db, None, "F-2026-000001").await.unwrap().unwrap();
    let lines: Vec<_> = invoice
        .lines()
        .unwrap()
        .into_iter()
        .map(|line| (line.kind, line.quantity, line.unit_price.to_string(), line.amount.to_string()))
        .collect();
    use domain::billing::LineKind::{BaseFee, Late, Messages};
    let line = |kind, quantity, price: &str, amount: &str| (kind, quantity, price.to_owned(), amount.to_owned());
    assert_eq!(
        lines,
        [line(BaseFee, 1, "200.00", "200.00"), line(Messages, 3, "0.10", "0.30"), line(Messages, 1, "0.00", "0.00")]
    );
    assert_eq!(invoice.totals().total, "240.36".parse().unwrap());
    assert_eq!(books.balance(Account::Unbilled).await, 0);
    assert_eq!(books.balance(Account::Receivable).await, 2_403_600);

    // Told again, or told otherwise: the closed month stays as it is. Told late: the next invoice says so.
    books.deliver("2026-10-31T22:59:00Z").await;
    books.deliver("2026-11-02T10:00:00Z").await;
    books.close("2026-11", "2026-12-01T01:00:00Z").await;
    let invoice = invoices::get(&db, None, "F-2026-000002").await.unwrap().unwrap();
    let late = invoice.lines().unwrap().into_iter().find(|line| line.kind == Late).unwrap();
    assert_eq!((late.quantity, late.usage_month), (1, Some(month("2026-10"))));
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_first_month_is_pro_rata_and_a_tenant_without_a_line_gets_no_invoice(db: PgPool) {
    let books = Books::with(&db, |tenant| tenant.prices[0].number_rent_units = 300_000).await;
    let empty = Books::open(&db).await;
    sqlx::query("update line set live_at = null where tenant_id = $1").bind(empty.tenant.0).execute(&db).await.unwrap();
    books.close("2026-09", "2026-10-01T01:00:00Z").await;
    assert_eq!(empty.close("2026-09", "2026-10-01T01:00:00Z").await, []);
    let invoice = invoices::of_month(&db, books.tenant, month("2026-09")).await.unwrap().unwrap();
    let amounts: Vec<_> = invoice.lines().unwrap().iter().map(|line| line.amount.to_string()).collect();
    assert_eq!(amounts, ["106.67", "16.00"], "16 of 30 days");
}

#[sqlx::test(migrations = "../../migrations")]
async fn closes_side_by_side_leave_no_gap_and_no_second_invoice(db: PgPool) {
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(Books::open(&db).await);
    }
    let closes = (0..6).map(|n| {
        let db = db.clone();
        let tenants: Vec<TenantId> = all.iter().map(|books| books.tenant).skip(n % 3).collect();
        tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            let issued =
                invoices::close(&mut tx, month("2026-10"), &tenants, &Seller::demo(), at("2026-11-01T01:00:00Z")).await.unwrap();
            // The second one dies before it commits.
            if n == 1 {
                drop(tx)
            } else {
                tx.commit().await.unwrap()
            }
            (n != 1).then_some(issued)
        })
    });
    let mut numbers = BTreeSet::new();
    for close in closes.collect::<Vec<_>>() {
        numbers.extend(close.await.unwrap().into_iter().flatten().map(|issued| issued.number));
    }
    let expected: BTreeSet<String> = (1..=8).map(|n| format!("F-2026-00000{n}")).collect();
    assert_eq!(numbers, expected);
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(invoices::verify(&mut conn).await.unwrap(), Walk::Whole { links: 8, .. }));
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_issued_invoice_never_changes(db: PgPool) {
    let books = Books::open(&db).await;
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    for sql in [
        "update invoice set net_units = 0, vat_units = 0, total_units = 0",
        "update invoice set number = 'F-2026-000009'",
        "update invoice set body = '{}'",
        "update invoice set body = jsonb_set(body, '{lines,0,quantity}', '2')",
        "delete from invoice",
        "truncate invoice cascade",
    ] {
        let error = sqlx::query(sql).execute(&db).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23001"), "{sql}: {error}");
    }
    let id = invoices::of_month(&db, books.tenant, month("2026-10")).await.unwrap().unwrap().invoice_id;
    assert!(invoices::sent(&db, id, at("2026-11-01T02:00:00Z")).await.unwrap());
}

#[sqlx::test(migrations = "../../migrations")]
async fn credit_notes_and_payments_never_pass_the_total(db: PgPool) {
    let books = Books::open(&db).await;
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    let now = at("2026-11-10T10:00:00Z");
    let credit = async |amount: &str| {
        let mut tx = db.begin().await.unwrap();
        let issued =
            invoices::credit(&mut tx, books.tenant, "F-2026-000001", Credit::Amount(amount.parse().unwrap()), "geste", now).await;
        if issued.is_ok() {
            tx.commit().await.unwrap()
        }
        issued.map(|issued| issued.number)
    };
    let pay = async |amount: &str, reference: &str| {
        let mut tx = db.begin().await.unwrap();
        let paid = payments::record(&mut tx, books.tenant, "F-2026-000001", amount.parse().unwrap(), now, reference, now).await;
        if paid.is_ok() {
            tx.commit().await.unwrap()
        }
        paid.map(|paid| Units(paid.amount_units).to_string())
    };
    assert!(matches!(credit("240.01").await, Err(Refused::Billing(BillingError::CreditTooLarge { .. }))));
    assert!(matches!(credit("-1.00").await, Err(Refused::Billing(BillingError::CreditNotPositive))));
    assert_eq!(credit("40.00").await.unwrap(), "A-2026-000001");
    assert!(matches!(pay("200.01", "V1").await, Err(Refused::TooMuch { left: Units(2_000_000) })));
    assert_eq!(pay("150.00", "V1").await.unwrap(), "150.00");
    assert_eq!(pay("150.00", "V1").await.unwrap(), "150.00", "told twice it is one payment");
    assert!(matches!(pay("1.00", "V1").await, Err(Refused::OtherPayment)));

    let invoice = invoices::get(&db, None, "F-2026-000001").await.unwrap().unwrap();
    let mut tx = db.begin().await.unwrap();
    assert!(payments::suspend(&mut tx, &invoice, now).await.unwrap());
    tx.commit().await.unwrap();
    let status = async || sqlx::query_scalar::<_, String>("select status from tenant").fetch_one(&db).await.unwrap();
    assert_eq!(status().await, "suspended");
    assert_eq!(pay("50.00", "V2").await.unwrap(), "50.00");
    assert_eq!(status().await, "active", "paid, it sends again");
    assert_eq!(invoices::get(&db, None, "F-2026-000001").await.unwrap().unwrap().status, "paid");
    assert_eq!(books.balance(Account::Receivable).await, 0);
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(invoices::verify(&mut conn).await.unwrap(), Walk::Whole { links: 2, .. }));
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_first_broken_link_is_named(db: PgPool) {
    let books = Books::open(&db).await;
    for day in 1..=4 {
        books.deliver(&format!("2026-10-0{day}T10:00:00Z")).await;
    }
    for (of, now) in
        [("2026-10", "2026-11-01T01:00:00Z"), ("2026-11", "2026-12-01T01:00:00Z"), ("2026-12", "2027-01-01T01:00:00Z")]
    {
        books.close(of, now).await;
    }
    let mut conn = db.acquire().await.unwrap();
    assert_eq!(ledger::verify(&mut conn).await.unwrap(), ledger::Walk::Whole { chains: 1, links: 7 });
    // Issued in January, numbered in January's year.
    let last = invoices::of_month(&db, books.tenant, month("2026-12")).await.unwrap().unwrap();
    assert_eq!(last.number, "F-2027-000001");

    let forge = async |sql: &'static str| {
        let mut tx = db.begin().await.unwrap();
        sqlx::query("set local session_replication_role = replica").execute(&mut *tx).await.unwrap();
        sqlx::query(sql).execute(&mut *tx).await.unwrap();
        let found = (ledger::verify(&mut tx).await.unwrap(), invoices::verify(&mut tx).await.unwrap());
        tx.rollback().await.unwrap();
        let seq = match found.0 {
            ledger::Walk::Broken { seq, .. } => Some(seq),
            ledger::Walk::Whole { .. } => None,
        };
        let number = match found.1 {
            Walk::Broken { place, .. } => Some(place),
            Walk::Whole { .. } => None,
        };
        (seq, number)
    };
    assert_eq!(forge("update ledger_posting set amount = amount * 2 where seq = 3").await, (Some(3), None));
    assert_eq!(forge("update ledger_entry set body = jsonb_set(body, '{detail}', '{}') where seq = 2").await, (Some(2), None));
    assert_eq!(forge("delete from ledger_entry where seq = 4").await, (Some(4), None));
    assert_eq!(forge("delete from ledger_entry where seq = 7").await, (Some(7), None), "cut off at the end");
    assert_eq!(
        forge("update invoice set total_units = total_units + 100, net_units = net_units + 100 where seq = 2").await,
        (None, Some(2))
    );
    assert_eq!(
        forge("update invoice set body = jsonb_set(body, '{lines,0,amount}', '\"0.00\"') where seq = 1").await,
        (None, Some(1))
    );
    assert_eq!(forge("delete from invoice where seq = 2").await, (None, Some(2)));
}
