//! What falls into which month, at which price, on which invoice.

use crate::{Books, at, month};
use domain::{
    TenantId,
    billing::{Line, LineKind, Period},
    money::Units,
    seller::Seller,
};
use sqlx::PgPool;
use store::{
    invoices::{self, Credit},
    tenants::{PlanPrice, Tenant},
};

fn price(from: &str, base_fee_units: i64, price_per_message_units: i64) -> PlanPrice {
    PlanPrice {
        plan: "basic".into(),
        valid_from: from.parse().unwrap(),
        base_fee_units,
        price_per_message_units,
        number_rent_units: 0,
    }
}

fn line(kind: LineKind, quantity: i64, unit_price: &str, amount: &str) -> (LineKind, i64, String, String) {
    (kind, quantity, unit_price.to_owned(), amount.to_owned())
}

impl Books {
    async fn lines(&self, of: &str) -> Vec<Line> {
        let invoice = invoices::of_month(&self.db, self.tenant, month(of)).await.unwrap();
        invoice.map_or_else(Vec::new, |invoice| invoice.lines().unwrap())
    }

    async fn figures(&self, of: &str) -> Vec<(LineKind, i64, String, String)> {
        let lines = self.lines(of).await.into_iter();
        lines.map(|line| (line.kind, line.quantity, line.unit_price.to_string(), line.amount.to_string())).collect()
    }

    /// Messages and late messages on the invoice of a month.
    async fn messages(&self, of: &str) -> i64 {
        let lines = self.lines(of).await.into_iter();
        lines.filter(|line| matches!(line.kind, LineKind::Messages | LineKind::Late)).map(|line| line.quantity).sum()
    }

    async fn live_since(&self, when: &str) {
        let live = sqlx::query("update line set live_at = $2 where tenant_id = $1").bind(self.tenant.0).bind(at(when));
        live.execute(&self.db).await.unwrap();
    }

    /// Sells at this price from 2020 on, for nothing a month.
    fn cheap(tenant: &mut Tenant) {
        tenant.created_at = at("2020-01-01T00:00:00Z");
        tenant.prices = vec![price("2020-01-01", 0, 1_000)];
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_is_told_late_carries_its_month_its_category_and_the_price_of_its_day(db: PgPool) {
    let books = Books::with(&db, |tenant| {
        tenant.prices = vec![price("2026-09-01", 2_000_000, 1_000), price("2026-11-01", 2_000_000, 1_250)]
    })
    .await;
    books.deliver("2026-10-05T10:00:00Z").await;
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    for (when, category) in
        [("2026-10-31T22:59:59Z", "marketing"), ("2026-10-20T10:00:00Z", "utility"), ("2026-10-31T23:00:00Z", "utility")]
    {
        let mut news = books.news(books.message("accepted", 0).await, "delivered", when);
        news.pricing_category = Some(category.into());
        // Twice is once, also when it is late.
        books.note(&[news.clone(), news.clone()]).await;
        books.note(&[news]).await;
    }
    assert_eq!(books.messages("2026-10").await, 1, "a closed month stays as it is");
    books.close("2026-11", "2026-12-01T01:00:00Z").await;
    let told: Vec<_> = books
        .lines("2026-11")
        .await
        .into_iter()
        .map(|line| {
            let category = line.category.map(|category| category.name().to_owned()).unwrap_or_default();
            (line.kind, category, line.usage_month.map(|month| month.to_string()), line.quantity, line.unit_price.to_string())
        })
        .collect();
    let october = || Some("2026-10".to_owned());
    assert_eq!(
        told,
        [
            (LineKind::BaseFee, String::new(), None, 1, "200.00".into()),
            (LineKind::Messages, "utility".into(), None, 1, "0.125".into()),
            (LineKind::Late, "marketing".into(), october(), 1, "0.10".into()),
            (LineKind::Late, "utility".into(), october(), 1, "0.10".into()),
        ]
    );
    assert_eq!(books.balance(store::ledger::Account::Unbilled).await, 0);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_price_that_changes_in_the_month_holds_from_midnight_of_its_day(db: PgPool) {
    let books = Books::with(&db, |tenant| {
        tenant.prices = vec![price("2026-09-01", 2_000_000, 1_000), price("2026-10-11", 3_100_000, 2_500)]
    })
    .await;
    books.deliver("2026-10-10T22:59:59Z").await;
    books.deliver("2026-10-10T23:00:00Z").await;
    books.deliver("2026-10-31T22:59:59Z").await;
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    let mut figures = books.figures("2026-10").await;
    figures.sort();
    assert_eq!(
        figures,
        [
            line(LineKind::BaseFee, 1, "210.00", "210.00"),
            line(LineKind::BaseFee, 1, "64.52", "64.52"),
            line(LineKind::Messages, 1, "0.10", "0.10"),
            line(LineKind::Messages, 2, "0.25", "0.50"),
        ],
        "10 days of 31 at 200.00 and 21 at 310.00"
    );
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_clock_of_ramadan_moves_the_ends_of_months(db: PgPool) {
    // In 2026 Morocco was at UTC from 15 February to 22 March, else an hour ahead.
    let books = Books::with(&db, Books::cheap).await;
    books.live_since("2026-01-01T12:00:00Z").await;
    for (when, _) in [
        ("2026-01-31T22:59:59Z", "January"),
        ("2026-01-31T23:00:00Z", "February"),
        ("2026-02-28T23:59:59Z", "February"),
        ("2026-03-01T00:00:00Z", "March"),
        ("2026-03-22T01:59:59Z", "March"),
        ("2026-03-31T22:59:59Z", "March"),
        ("2026-03-31T23:00:00Z", "April"),
    ] {
        books.deliver(when).await;
    }
    for (of, now, messages) in [
        ("2026-01", "2026-02-01T01:00:00Z", 1),
        ("2026-02", "2026-03-01T02:00:00Z", 2),
        ("2026-03", "2026-04-01T01:00:00Z", 3),
        ("2026-04", "2026-05-01T01:00:00Z", 1),
    ] {
        let closes = month(of).closes_at(chrono_tz::Africa::Casablanca);
        assert_eq!(closes, at(now), "two in the morning of the 1st after {of}");
        books.close(of, now).await;
        assert_eq!(books.messages(of).await, messages, "{of}");
        assert!(books.lines(of).await.iter().all(|line| line.kind != LineKind::Late), "{of}");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_tenant_abroad_has_the_months_of_its_own_zone(db: PgPool) {
    // Paris turns its clock back on 25 October 2026: its October ends at 23:00 UTC, its September at 22:00.
    let books = Books::with(&db, |tenant| {
        Books::cheap(tenant);
        tenant.time_zone = "Europe/Paris".into();
    })
    .await;
    for when in ["2026-09-30T21:59:59Z", "2026-09-30T22:00:00Z", "2026-10-31T22:59:59Z", "2026-10-31T23:00:00Z"] {
        books.deliver(when).await;
    }
    books.close("2026-09", "2026-10-01T00:00:00Z").await;
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    assert_eq!((books.messages("2026-09").await, books.messages("2026-10").await), (1, 2));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_leap_february_has_29_days(db: PgPool) {
    let books = Books::with(&db, |tenant| tenant.prices[0].number_rent_units = 100_000).await;
    books.live_since("2028-02-29T12:00:00Z").await;
    books.close("2028-02", "2028-03-01T02:00:00Z").await;
    let figures = books.figures("2028-02").await;
    assert_eq!(
        figures,
        [line(LineKind::BaseFee, 1, "6.90", "6.90"), line(LineKind::NumberRent, 1, "0.34", "0.34")],
        "1 of 29 days"
    );
    let common = Books::open(&db).await;
    common.live_since("2027-02-28T12:00:00Z").await;
    common.close("2027-02", "2027-03-01T02:00:00Z").await;
    assert_eq!(common.figures("2027-02").await, [line(LineKind::BaseFee, 1, "7.14", "7.14")], "1 of 28 days");
}

#[sqlx::test(migrations = "../../migrations")]
async fn the_last_day_of_a_month_counts_and_the_next_month_is_whole(db: PgPool) {
    let books = Books::open(&db).await;
    // 31 October 23:30 in Casablanca.
    books.live_since("2026-10-31T22:30:00Z").await;
    for (of, now) in
        [("2026-09", "2026-10-01T01:00:00Z"), ("2026-10", "2026-11-01T01:00:00Z"), ("2026-11", "2026-12-01T01:00:00Z")]
    {
        books.close(of, now).await;
    }
    assert_eq!(books.lines("2026-09").await, [], "not live yet: no invoice");
    assert_eq!(books.figures("2026-10").await, [line(LineKind::BaseFee, 1, "6.45", "6.45")], "1 of 31 days");
    assert_eq!(books.figures("2026-11").await, [line(LineKind::BaseFee, 1, "200.00", "200.00")]);
}

#[sqlx::test(migrations = "../../migrations")]
async fn each_calendar_year_of_issue_has_its_own_series(db: PgPool) {
    let all = [Books::open(&db).await, Books::open(&db).await];
    let tenants: Vec<TenantId> = all.iter().map(|books| books.tenant).collect();
    let close = async |of: &str, now: &str| {
        let mut tx = db.begin().await.unwrap();
        let issued = invoices::close(&mut tx, month(of), &tenants, &Seller::demo(), at(now)).await.unwrap();
        tx.commit().await.unwrap();
        issued.into_iter().map(|issued| issued.number).collect::<Vec<_>>()
    };
    assert_eq!(close("2026-11", "2026-12-01T01:00:00Z").await, ["F-2026-000001", "F-2026-000002"]);
    // In Casablanca it is the new year for half an hour.
    assert_eq!(close("2026-12", "2026-12-31T23:30:00Z").await, ["F-2027-000001", "F-2027-000002"]);
    for (of, now, number) in
        [("F-2026-000001", "2027-01-05T10:00:00Z", "A-2027-000001"), ("F-2027-000002", "2028-01-05T10:00:00Z", "A-2028-000001")]
    {
        let invoice = invoices::get(&db, None, of).await.unwrap().unwrap();
        let mut tx = db.begin().await.unwrap();
        let amount = Credit::Amount("1.00".parse().unwrap());
        let issued = invoices::credit(&mut tx, invoice.tenant_id, of, amount, "geste", at(now)).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(issued.number, number);
    }
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(invoices::verify(&mut conn).await.unwrap(), invoices::Walk::Whole { links: 6, .. }));
}

#[sqlx::test(migrations = "../../migrations")]
async fn who_pays_meta_itself_owes_the_base_fee_only(db: PgPool) {
    let books = Books::with(&db, |tenant| {
        tenant.billing_mode = "direct".into();
        tenant.prices[0].number_rent_units = 300_000;
    })
    .await;
    books.deliver("2026-10-05T10:00:00Z").await;
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    assert_eq!(books.figures("2026-10").await, [line(LineKind::BaseFee, 1, "200.00", "200.00")]);
    let charges: i64 = sqlx::query_scalar("select count(*) from charge").fetch_one(&db).await.unwrap();
    assert_eq!(charges, 0);
}

/// An adjustment larger than the invoice waits; what fits is taken, once.
#[sqlx::test(migrations = "../../migrations")]
async fn an_adjustment_stands_on_one_invoice_and_never_turns_it_into_a_debt(db: PgPool) {
    let books = Books::open(&db).await;
    for (amount, why) in [("-150.00", "geste"), ("-120.00", "panne"), ("30.00", "formation")] {
        invoices::adjust(&db, books.tenant, amount.parse::<Units>().unwrap(), why).await.unwrap();
    }
    books.close("2026-10", "2026-11-01T01:00:00Z").await;
    books.close("2026-11", "2026-12-01T01:00:00Z").await;
    books.close("2026-12", "2027-01-01T01:00:00Z").await;
    let net = async |of: Period| {
        let invoice = invoices::of_month(&db, books.tenant, of).await.unwrap().unwrap();
        invoice.totals().net.to_string()
    };
    assert_eq!(net(month("2026-10")).await, "80.00", "200 - 150 + 30; the other waits");
    assert_eq!(net(month("2026-11")).await, "80.00", "200 - 120");
    assert_eq!(net(month("2026-12")).await, "200.00");
}
