//! An invoice that nobody pays: reminded of twice, then sends stop, until it is settled; the line stays.

use crate::{Books, DAY};
use sqlx::PgPool;
use std::time::Duration;
use store::invoices::{self, Credit};

async fn dunned(books: &Books) -> Vec<String> {
    sqlx::query_scalar("select step from dunning order by at").fetch_all(&books.service.db).await.unwrap()
}

#[sqlx::test(migrations = false)]
async fn reminders_then_no_more_sends_until_the_last_centime_is_settled(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    let number = books.close(books.month).await;
    let hour = Duration::from_secs(3_600);
    for (wait, steps, status) in [
        (30 * DAY - hour, &[][..], "active"),
        (2 * hour, &["reminder_1"], "active"),
        (10 * DAY, &["reminder_1", "reminder_2"], "active"),
        (10 * DAY, &["reminder_1", "reminder_2", "suspended"], "suspended"),
        (90 * DAY, &["reminder_1", "reminder_2", "suspended"], "suspended"),
    ] {
        books.service.skip(wait).await;
        assert_eq!(
            (dunned(&books).await, books.tenant_status().await),
            (steps.iter().map(ToString::to_string).collect(), status.into())
        );
    }
    assert_eq!(books.invoice(&number).await.status, "overdue");
    let told: Vec<(String, i64)> =
        [("invoice.issued", 1), ("invoice.reminder", 2), ("tenant.suspended", 1)].map(|(event, n)| (event.to_owned(), n)).into();
    assert_eq!(books.told(&number).await, told);
    // Only a person gives a line back.
    assert_eq!(books.service.line(books.line).await.status, "live");
    assert_eq!((books.service.books().owned.len(), books.count("durable.run where workflow = 'release_line'").await), (1, 0));
    // What was queued before stays where it is.
    books.send(&[books.invite("+212600000901")]).await;
    books.service.skip(Duration::from_secs(300)).await;
    assert_eq!(books.service.sims.message_books().accepted, 0, "a suspended tenant sends nothing");

    // A part, a credit note for another, and the rest.
    let total = books.invoice(&number).await.totals().total;
    books.pay(&number, "1.00".parse().unwrap(), "V1").await;
    let mut tx = books.service.db.begin().await.unwrap();
    let amount = Credit::Amount("2.40".parse().unwrap());
    invoices::credit(&mut tx, books.service.tenant, &number, amount, "geste", books.now()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((books.tenant_status().await.as_str(), books.invoice(&number).await.status.as_str()), ("suspended", "overdue"));
    let rest = total.minus("3.40".parse().unwrap()).unwrap();
    books.pay(&number, rest, "V2").await;
    assert_eq!((books.tenant_status().await.as_str(), books.invoice(&number).await.status.as_str()), ("active", "paid"));
    assert_eq!(dunned(&books).await.last().map(String::as_str), Some("resumed"));
    books.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_paid_invoice_is_not_reminded_of_and_two_unpaid_ones_both_hold(db: PgPool) {
    let books = Books::open(db).await;
    let first = books.close(books.month).await;
    let second = books.close(books.month.next()).await;
    let third = books.close(books.month.next().next()).await;
    let total = books.invoice(&third).await.totals().total;
    books.pay(&third, total, "V3").await;
    books.service.skip(120 * DAY).await;
    assert_eq!(books.tenant_status().await, "suspended");
    assert_eq!(books.told(&third).await, [("invoice.issued".to_owned(), 1)]);
    for (number, after) in [(&first, "suspended"), (&second, "active")] {
        let total = books.invoice(number).await.totals().total;
        books.pay(number, total, "V").await;
        assert_eq!(books.tenant_status().await, after, "{number} is paid");
    }
    books.service.settle().await;
    let open = books.count("durable.run where workflow in ('close_month', 'close_tenant') and status <> 'succeeded'").await;
    assert_eq!(open, 0);
    books.service.close().await;
}

/// Suspended by a person and not for an invoice: a payment does not undo it.
#[sqlx::test(migrations = false)]
async fn who_was_suspended_by_a_person_stays_so(db: PgPool) {
    let books = Books::open(db).await;
    let number = books.close(books.month).await;
    sqlx::query("update tenant set status = 'suspended'").execute(&books.service.db).await.unwrap();
    let total = books.invoice(&number).await.totals().total;
    books.pay(&number, total, "V1").await;
    assert_eq!((books.tenant_status().await.as_str(), books.invoice(&number).await.status.as_str()), ("suspended", "paid"));
    books.service.close().await;
}
