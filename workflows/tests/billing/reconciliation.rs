//! Our month beside the providers' own: nothing to say when nothing is wrong, else every difference with its class and its rows.

use crate::{Books, ZONE, status};
use chrono::Datelike as _;
use domain::{LineId, billing::LineKind};
use jobs::reconcile::{Class, Difference, Reconciliation, reconcile};
use serde_json::{Value, json};
use simulators::{ChargeKind, Config, Fault, HookFault, HookPlan, MetaAccount};
use sqlx::PgPool;
use std::collections::BTreeMap;
use store::{payments, reconciliation};
use uuid::Uuid;

impl Books {
    async fn reconcile(&self) -> Reconciliation {
        reconcile(&self.service.tools, self.month).await.unwrap()
    }

    async fn number(&self) -> String {
        self.service.line(self.line).await.phone.unwrap()
    }

    fn account(&self) -> String {
        self.service.sims.config().meta.waba_id.clone()
    }

    /// The only difference, and whether the month is balanced all the same.
    async fn difference(&self) -> (Difference, bool) {
        let mut found = self.reconcile().await;
        assert_eq!((found.data.len(), found.unasked.len()), (1, 0), "{found:#?}");
        (found.data.remove(0), found.balanced)
    }

    fn messages_of(difference: &Difference) -> Vec<&Value> {
        difference.rows.iter().filter(|row| row.get("message_id").is_some()).collect()
    }
}

fn today(books: &Books) -> chrono::NaiveDate {
    books.now().with_timezone(&ZONE).date_naive()
}

#[sqlx::test(migrations = false)]
async fn what_meta_counts_otherwise_is_missing_here_or_there_or_late(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    books.invitations(8).await;
    let clean = books.reconcile().await;
    assert_eq!((clean.data, clean.balanced), (vec![], true), "with both providers");

    let (account, number) = (books.account(), books.number().await);
    let restate = |by| books.service.sims.restate(&account, &number, "MARKETING", books.now(), by);
    restate(3);
    let (missing, balanced) = books.difference().await;
    assert_eq!((missing.class, missing.tolerated, balanced), (Class::MissingHere, false, false));
    assert_eq!((&missing.ours, &missing.theirs, missing.line_id), (&json!(8), &json!(11), Some(books.line)));
    assert_eq!((missing.source.as_str(), missing.category.as_str(), missing.day), ("meta", "marketing", today(&books)));
    assert!(missing.rows.iter().any(|row| row["volume"] == 11), "what they told: {missing:?}");
    assert_eq!(Books::messages_of(&missing).len(), 8, "what we know");
    assert!(missing.proposal.contains("replay the webhooks") && missing.proposal.contains('3'), "{}", missing.proposal);

    restate(-5);
    let (missing, balanced) = books.difference().await;
    assert_eq!((missing.class, missing.tolerated, balanced), (Class::MissingThere, false, false));
    assert_eq!((&missing.ours, &missing.theirs), (&json!(8), &json!(6)));
    assert!(missing.proposal.contains("ask Meta about 2"), "{}", missing.proposal);

    // Two are counted on the day beside it, of the same month.
    let beside = if today(&books).day() == 1 { 1 } else { -1 };
    books.service.sims.restate(&account, &number, "MARKETING", books.now() + chrono::Duration::days(beside), 2);
    let found = books.reconcile().await;
    let classes: Vec<_> = found.data.iter().map(|one| (one.class, one.tolerated)).collect();
    assert_eq!((classes, found.balanced), (vec![(Class::Late, true), (Class::Late, true)], true));
    books.service.close().await;
}

/// The delivery is told when the month is closed: it stands on the next invoice, and here as late.
#[sqlx::test(migrations = false)]
async fn a_webhook_that_was_lost_is_missing_and_told_after_the_close_it_is_late(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    books.invitations(4).await;
    books.service.sims.hook_fault(HookPlan { event: "messages".into(), fault: HookFault::Drop, times: 100, only: None });
    let lost = books.send(&[books.invite("+212600000500")]).await[0];
    books.service.settle().await;
    let at = books.now();
    books.service.sims.clear_plans();
    assert_eq!(books.message(lost).await.status, "accepted");
    let (missing, balanced) = books.difference().await;
    assert_eq!((missing.class, balanced, &missing.ours, &missing.theirs), (Class::MissingHere, false, &json!(4), &json!(5)));

    let first = books.close(books.month).await;
    let wamid = books.message(lost).await.wamid.unwrap();
    books.hear(&[status(&wamid, &format!("{lost}.1"), "delivered", at)]).await;
    books.service.settle().await;
    let (late, balanced) = books.difference().await;
    assert_eq!((late.class, late.tolerated, balanced), (Class::Late, true, true));
    assert_eq!((&late.ours, &late.theirs), (&json!(4), &json!(5)), "invoiced, and counted by Meta");
    assert_eq!(Books::messages_of(&late)[0], &json!({ "message_id": lost.0, "late": true }), "{late:?}");
    let messages =
        |lines: Vec<domain::billing::Line>, kind| lines.iter().filter(|l| l.kind == kind).map(|l| l.quantity).sum::<i64>();
    assert_eq!(messages(books.invoice(&first).await.lines().unwrap(), LineKind::Messages), 4);
    let second = books.close(books.month.next()).await;
    assert_eq!(messages(books.invoice(&second).await.lines().unwrap(), LineKind::Late), 1);
    books.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn another_rate_card_than_metas_is_a_difference_of_price(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    books.load_cards(|card| card.replace("0.0414", "0.0400")).await;
    let ids = books.invitations(5).await;
    let (price, balanced) = books.difference().await;
    assert_eq!((price.class, price.tolerated, balanced), (Class::Price, false, false));
    assert_eq!((price.ours, price.theirs), (json!("0.20"), json!("0.207")), "dollars");
    assert!(price.proposal.contains("rate card"), "{}", price.proposal);
    assert_eq!(price.rows.iter().filter(|row| ids.iter().any(|id| row["message_id"] == json!(id.0))).count(), 5);
    books.service.close().await;
}

/// A line on an account of the tenant's own, with messages that were delivered there.
async fn own_account(books: &Books, account: &str, messages: usize) -> LineId {
    let (line, now) = (LineId(Uuid::now_v7()), books.now());
    let token = books.service.tools.vault.seal_str(&format!("line:token:{line}"), &books.service.sims.config().meta.system_token);
    sqlx::query(
        "insert into line (line_id, tenant_id, kind, status, country, display_name, phone, phone_number_id, messaging_account, portfolio, live_at, token_sealed)
         values ($1, $2, 'own', 'live', 'MA', 'Atlas', '+212537000001', '5001', $3, '6001', $4, $5)",
    )
    .bind(line.0)
    .bind(books.service.tenant.0)
    .bind(account)
    .bind(now)
    .bind(token)
    .execute(&books.service.db)
    .await
    .unwrap();
    for _ in 0..messages {
        let id = domain::MessageId(Uuid::now_v7());
        sqlx::query(
            "with c as (insert into contact (contact_id, tenant_id) values (gen_random_uuid(), $2) returning contact_id),
             v as (insert into conversation (conversation_id, tenant_id, line_id, contact_id) select gen_random_uuid(), $2, $3, contact_id from c
                   returning conversation_id, contact_id)
             insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status)
             select $1, $2, $3, contact_id, conversation_id, 'out', 'template', 'utility', 'delivered' from v",
        )
        .bind(id.0)
        .bind(books.service.tenant.0)
        .bind(line.0)
        .execute(&books.service.db)
        .await
        .unwrap();
        let news = store::charges::PricedStatus {
            message_id: id,
            tenant_id: books.service.tenant,
            wamid: format!("wamid.{id}"),
            status: "delivered".into(),
            at: now,
            pricing_type: Some("regular".into()),
            pricing_category: Some("utility".into()),
        };
        let mut tx = books.service.db.begin().await.unwrap();
        store::charges::note(&mut tx, &[news]).await.unwrap();
        tx.commit().await.unwrap();
    }
    line
}

#[sqlx::test(migrations = false)]
async fn the_accounts_of_tenants_who_pay_us_are_compared_too(db: PgPool) {
    let books = Books::open(db).await;
    let line = own_account(&books, "499000000000001", 6).await;
    let restate = |by| books.service.sims.restate("499000000000001", "+212537000001", "UTILITY", books.now(), by);
    restate(6);
    let clean = books.reconcile().await;
    assert_eq!((clean.data, clean.balanced, clean.unasked), (vec![], true, vec![]));
    let asked = books.service.sims.journal().iter().filter(|entry| entry.operation == "meta.account").count();
    assert!(asked >= 2, "both accounts were asked: {asked}");
    restate(-2);
    let (missing, balanced) = books.difference().await;
    assert_eq!((missing.class, missing.line_id, balanced), (Class::MissingThere, Some(line), false));

    // An account that does not let us in is told of, and the rest is compared.
    let refuse = Fault::Refuse { status: 0, code: 100 };
    books.service.sims.fault(simulators::FaultPlan {
        operation: "meta.account".into(),
        fault: refuse,
        skip: 1,
        times: 1,
        only: None,
    });
    let found = books.reconcile().await;
    books.service.sims.clear_plans();
    assert_eq!((found.unasked, found.balanced), (vec!["499000000000001".to_owned()], false));

    // Who pays Meta itself is Meta's business.
    sqlx::query("update tenant set billing_mode = 'direct'").execute(&books.service.db).await.unwrap();
    let found = books.reconcile().await;
    assert_eq!((found.data, found.balanced), (vec![], true));
    books.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn what_telnyx_charges_is_an_orphan_a_ghost_or_another_price(db: PgPool) {
    let books = Books::open(db).await;
    assert!(books.reconcile().await.balanced);
    let number = books.number().await;
    let surcharge = |phone: &str, cost| books.service.sims.surcharge(phone, ChargeKind::Monthly, cost);
    // Only the days of the first month: not documented, and tolerated.
    surcharge(&number, -15_000);
    let (price, balanced) = books.difference().await;
    assert_eq!(
        (price.source.as_str(), price.category.as_str(), price.class, price.tolerated),
        ("telnyx", "MRC", Class::Price, true)
    );
    assert!(balanced && price.proposal.contains("not whole"), "{price:?}");
    // More than we were told.
    surcharge(&number, 25_000);
    let (price, balanced) = books.difference().await;
    assert_eq!((price.class, price.tolerated, balanced, price.line_id), (Class::Price, false, false, Some(books.line)));
    assert!(price.proposal.contains("has changed") && !price.rows.is_empty(), "{price:?}");
    surcharge(&number, -10_000);
    assert_eq!(books.reconcile().await.data, []);

    surcharge("+212520009999", 45_000);
    let (orphan, balanced) = books.difference().await;
    assert_eq!((orphan.class, orphan.line_id, balanced), (Class::MissingHere, None, false));
    assert!(orphan.proposal.contains("+212520009999") && orphan.rows.len() == 1, "{orphan:?}");
    surcharge("+212520009999", -45_000);

    sqlx::query(
        "insert into line (line_id, tenant_id, kind, status, country, display_name, phone, monthly_cost_micro, setup_cost_micro, cost_currency, bought_at)
         values (gen_random_uuid(), $1, 'virtual', 'bought', 'MA', 'Atlas', '+212520008888', 4500000, 0, 'USD', durable.now())",
    )
    .bind(books.service.tenant.0)
    .execute(&books.service.db)
    .await
    .unwrap();
    let found = books.reconcile().await;
    let ghost: Vec<_> = found.data.iter().filter(|one| one.class == Class::MissingThere).collect();
    assert_eq!((ghost.len(), found.balanced), (1, false), "{found:#?}");
    assert!(ghost[0].proposal.contains("+212520008888"), "{:?}", ghost[0]);
    books.service.close().await;
}

/// The thousand free service messages of a number and month, here three.
#[sqlx::test(migrations = false)]
async fn each_number_has_its_own_free_service_messages_each_month(db: PgPool) {
    let meta = MetaAccount { free_service_messages: 3, ..MetaAccount::default() };
    let mut books = Books::open_with(db, Config { meta, ..Config::default() }).await;
    let (second, run) = books.service.order_line("MA").await;
    assert_eq!(books.service.end_of(run, crate::MINUTE * 30).await, "succeeded");
    let lines = [books.line, second];
    for month in 0..2 {
        for (place, line) in lines.iter().enumerate() {
            let number = books.service.line(*line).await.phone.unwrap();
            for n in 0..5 {
                let person = format!("+2126000{month}{place}00{n}");
                books.service.sims.write(&number, &person, json!({"type": "text", "text": {"body": "oui"}})).unwrap();
                books.service.settle().await;
                books.send(&[json!({"line_id": line, "to": person, "type": "text", "text": {"body": "Merci"}})]).await;
                books.service.settle().await;
            }
        }
        let free: Vec<(Uuid, i64)> = sqlx::query_as(
            "select line_id, count(*) from charge where pricing_type = 'free_customer_service' and price_units = 0 and cost_micro = 0
                and usage_month = $1 group by 1",
        )
        .bind(books.month.first_day())
        .fetch_all(&books.service.db)
        .await
        .unwrap();
        let free: BTreeMap<Uuid, i64> = free.into_iter().collect();
        assert_eq!(free, lines.iter().map(|line| (line.0, 3)).collect(), "three of five are free for each number");
        let number = books.close(books.month).await;
        let found = books.reconcile().await;
        assert_eq!((found.data, found.balanced), (vec![], true));
        let lines: Vec<_> = books
            .invoice(&number)
            .await
            .lines()
            .unwrap()
            .into_iter()
            .filter(|line| line.kind == LineKind::Messages)
            .map(|line| (line.category.map(|c| c.name()), line.quantity, line.unit_price.to_string(), line.amount.to_string()))
            .collect();
        let service = |quantity, price: &str, amount: &str| (Some("service"), quantity, price.to_owned(), amount.to_owned());
        assert_eq!(lines, [service(6, "0.00", "0.00"), service(4, "0.10", "0.40")], "free ones are listed at zero");
        books.month = books.month.next();
    }
    books.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_plan_that_loses_money_shows(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    // A marketing message costs 0.0414 USD, about 0.38 MAD, and brings 0.10.
    sqlx::query("update plan_price set base_fee_units = 0").execute(&books.service.db).await.unwrap();
    books.invitations(10).await;
    let margin = async || reconciliation::margin(&books.service.db, books.month).await.unwrap().remove(0);
    let open = margin().await;
    assert_eq!((open.revenue_units, open.without_cost), (10_000, 0), "what was delivered so far");
    assert!(open.cost_units > open.revenue_units, "{open:?}");
    let number = books.close(books.month).await;
    let closed = margin().await;
    assert_eq!((closed.revenue_units, closed.cost_units), (open.revenue_units, open.cost_units));
    // Taken back, it brought nothing.
    let mut tx = books.service.db.begin().await.unwrap();
    let invoice = books.invoice(&number).await;
    let all = store::invoices::Credit::Amount(invoice.totals().total);
    store::invoices::credit(&mut tx, books.service.tenant, &number, all, "geste", books.now()).await.unwrap();
    assert_eq!(payments::left_to_pay(&mut tx, &invoice).await.unwrap(), domain::money::Units::ZERO);
    tx.commit().await.unwrap();
    assert_eq!(margin().await.revenue_units, 0);
    books.service.close().await;
}
