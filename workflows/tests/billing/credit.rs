//! The month's credit: exact under a burst, warned of once, and given back by a raised limit.

use crate::Books;
use domain::money::Units;
use jobs::{Queued, queue_messages};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::{credit, tenants};

/// Messages that one batch may have.
const BATCH: usize = 1_000;

impl Books {
    async fn limit(&self, limit: &str) {
        let mut tx = self.service.db.begin().await.unwrap();
        let mut tenant = tenants::get(&mut tx, self.service.tenant).await.unwrap().unwrap();
        tenant.credit_limit_units = limit.parse::<Units>().unwrap().0;
        tenants::update(&mut *tx, &tenant).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// So many invitations for next month: they are reserved for, and wait.
    fn batch(&self, from: usize, count: usize) -> Vec<Value> {
        let then = self.now() + chrono::Duration::days(20);
        (from..from + count)
            .map(|n| {
                let mut invite = self.invite(&format!("+21261{n:07}"));
                invite["not_before"] = json!(then);
                invite
            })
            .collect()
    }

    async fn reserved(&self) -> String {
        let usage = credit::usage(&self.service.db, self.service.tenant, self.month).await.unwrap();
        Units(usage.charged + usage.reserved).to_string()
    }

    /// Percentages that were called back, with how often.
    async fn warned(&self) -> Vec<(i64, i64)> {
        sqlx::query_as("select (body::jsonb #>> '{data,percent}')::bigint, count(*) from callback where type = 'credit.warning' group by 1 order by 1")
            .fetch_all(&self.service.db)
            .await
            .unwrap()
    }
}

#[sqlx::test(migrations = false)]
async fn a_burst_of_ten_thousand_does_not_overshoot_by_one(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    books.limit("1000.00").await;
    let batches = (0..13).map(|n| {
        let (db, tools, tenant) = (books.service.db.clone(), books.service.tools.clone(), books.service.tenant);
        // The last one is of a size that would fit where a whole batch does not.
        let requests = books.batch(n * BATCH, if n == 12 { BATCH / 2 } else { BATCH });
        tokio::spawn(async move {
            let mut tx = db.begin().await.unwrap();
            let tenant = tenants::get(&mut tx, tenant).await.unwrap().unwrap();
            match queue_messages(&mut tx, &tools.vault, tools.clock.now(), &tenant, &requests).await.unwrap() {
                Queued::Done(ids) => {
                    tx.commit().await.unwrap();
                    ids.len()
                }
                Queued::NoCredit { .. } => 0,
                Queued::Refused(problems) => panic!("{problems:?}"),
            }
        })
    });
    let mut queued = 0;
    for batch in batches.collect::<Vec<_>>() {
        queued += batch.await.unwrap();
    }
    // 12,500 were asked for; fill what is left one by one.
    assert!(queued == 10 * BATCH || queued == 9 * BATCH + BATCH / 2, "{queued} were queued");
    assert_eq!(books.count("message where status = 'queued'").await, queued as i64);
    books.send(&books.batch(20 * BATCH, 10 * BATCH - queued)[..]).await;
    assert!(matches!(books.queue(&books.batch(30 * BATCH, 1)).await, Queued::NoCredit { left: 0, wanted: 1_000 }));
    assert_eq!(books.reserved().await, "1000.00");
    assert_eq!(books.warned().await, [(80, 1), (100, 1)]);
    books.service.close().await;
}

#[sqlx::test(migrations = false)]
async fn warned_at_80_and_100_percent_once_each_and_anew_for_a_raised_limit(db: PgPool) {
    let books = Books::open(db).await;
    books.template().await;
    // Nine and a half messages: the tenth never fits.
    books.limit("0.95").await;
    for (sent, warned) in [(7, &[][..]), (8, &[(80, 1)][..]), (9, &[(80, 1), (100, 1)][..])] {
        let already = books.count("message").await;
        books.send(&books.batch(sent, sent - usize::try_from(already).unwrap())).await;
        assert_eq!(books.warned().await, warned, "{sent} messages");
    }
    assert!(matches!(books.queue(&books.batch(50, 1)).await, Queued::NoCredit { left: 500, wanted: 1_000 }));
    // What is given back may be spent again, without a second warning.
    sqlx::query("update message set status = 'failed' where message_id = (select min(message_id::text)::uuid from message)")
        .execute(&books.service.db)
        .await
        .unwrap();
    books.send(&books.batch(60, 1)).await;
    assert_eq!(books.warned().await, [(80, 1), (100, 1)]);
    books.limit("2.00").await;
    books.send(&books.batch(70, 6)).await;
    assert_eq!(books.warned().await, [(80, 1), (100, 1)], "15 of 20");
    books.send(&books.batch(80, 1)).await;
    assert_eq!(books.warned().await, [(80, 2), (100, 1)], "16 of 20");
    books.send(&books.batch(90, 4)).await;
    assert_eq!(books.warned().await, [(80, 2), (100, 2)]);
    books.limit("1.00").await;
    assert!(matches!(books.queue(&books.batch(100, 1)).await, Queued::NoCredit { left: 0, .. }), "a lowered limit holds at once");
    books.service.close().await;
}
