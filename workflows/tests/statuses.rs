//! Every order of news about a message, with every repeat, ends in the same row.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "in a test an unwrap is an assertion, and an id is anything")]

mod service;

use domain::{LineId, MessageId, Provider};
use durable::{Ctx, Job};
use jobs::TakeWhatsapp;
use serde_json::{Value, json};
use service::Service;
use sqlx::PgPool;
use std::collections::BTreeMap;
use store::{
    inbox,
    messages::{self, Outcome},
    news::{self, Change, Standing},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Unix time of the first status; each status has its own second.
const EPOCH: i64 = 1_795_000_000;
/// A failure that is final, and one that may be tried again.
const UNDELIVERABLE: u32 = 131_026;
const TROUBLE: u32 = 131_016;

/// Something that happens to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum News {
    /// The answer to the call of this attempt.
    Answer(i16),
    /// A status of this attempt, with the code of a failure.
    Status(i16, &'static str, u32),
}

use News::{Answer, Status};

/// Messages with a line of their own, and webhooks for them.
struct Table {
    service: Service,
    line: LineId,
    deliveries: std::cell::Cell<u32>,
}

impl Table {
    async fn open(db: PgPool) -> Self {
        let service = Service::open(db).await;
        let line = LineId(Uuid::now_v7());
        let table = Self { service, line, deliveries: std::cell::Cell::new(0) };
        table.line(line, "1001").await;
        table
    }

    async fn line(&self, line: LineId, number: &str) {
        sqlx::query(
            "insert into line (line_id, tenant_id, kind, status, country, display_name, phone, phone_number_id, messaging_account)
             values ($1, $2, 'virtual', 'live', 'MA', 'Atlas', '+21252000' || $3, $3, '1')",
        )
        .bind(line.0)
        .bind(self.service.tenant.0)
        .bind(number)
        .execute(&self.service.db)
        .await
        .unwrap();
    }

    /// A message in the middle of this attempt.
    async fn message(&self, status: &str, attempts: i16) -> MessageId {
        let id = MessageId(Uuid::now_v7());
        sqlx::query(
            "with c as (insert into contact (contact_id, tenant_id) values (gen_random_uuid(), $2) returning contact_id),
             v as (insert into conversation (conversation_id, tenant_id, line_id, contact_id) select gen_random_uuid(), $2, $3, contact_id from c
                   returning conversation_id, contact_id)
             insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status, attempts, hold_until)
             select $1, $2, $3, contact_id, conversation_id, 'out', 'template', 'marketing', $4, $5,
                 case when $4 = 'unknown' then durable.now() + interval '5 minutes' end from v",
        )
        .bind(id.0)
        .bind(self.service.tenant.0)
        .bind(self.line.0)
        .bind(status)
        .bind(attempts)
        .execute(&self.service.db)
        .await
        .unwrap();
        id
    }

    async fn happen(&self, id: MessageId, news: News) {
        match news {
            Answer(attempt) => self.answer(id, attempt).await,
            Status(..) => self.deliver("1001", id, news).await,
        }
    }

    async fn answer(&self, id: MessageId, attempt: i16) {
        let outcome = Outcome {
            message_id: id,
            attempt,
            status: "accepted",
            wamid: Some(wamid(id, attempt)),
            due_at: None,
            hold_until: None,
            waiting_for: None,
            error_code: None,
            error_text: None,
            error_class: None,
            counts: true,
        };
        messages::settle(&self.service.db, &[outcome]).await.unwrap();
    }

    /// A webhook of its own for each; nobody works it yet.
    async fn deliver(&self, number: &str, id: MessageId, news: News) {
        let Status(attempt, status, code) = news else { return };
        let place = ["sent", "delivered", "read", "failed"].iter().position(|known| *known == status).unwrap();
        let mut told = json!({"id": wamid(id, attempt), "status": status, "recipient_id": "212600000001",
            "timestamp": (EPOCH + i64::from(attempt) * 10 + place as i64).to_string(), "biz_opaque_callback_data": format!("{id}.{attempt}")});
        if status == "failed" {
            told["errors"] = json!([{"code": code, "title": "It failed", "error_data": {"details": "It failed"}}]);
        } else {
            told["pricing"] = json!({"billable": true, "pricing_model": "PMP", "type": "regular", "category": "marketing"});
        }
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": {
            "messaging_product": "whatsapp", "metadata": {"display_phone_number": "212520001001", "phone_number_id": number},
            "statuses": [told]}}]}]});
        self.deliveries.set(self.deliveries.get() + 1);
        let event_id = format!("delivery-{:06}", self.deliveries.get());
        let body_sealed = self.service.tools.vault.seal(&inbox::context(Provider::Meta, &event_id), body.to_string().as_bytes());
        let mut tx = self.service.db.begin().await.unwrap();
        let event = inbox::NewEvent { provider: Provider::Meta, event_id, kind: "messages".to_owned(), body_sealed };
        inbox::keep(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Works what was delivered.
    async fn take(&self) {
        let ctx = Ctx { clock: self.service.tools.clock.clone(), attempt: 1, stopping: CancellationToken::new() };
        TakeWhatsapp {}.run(&self.service.tools, &ctx).await.unwrap();
    }

    /// Everything of a message's row that news may change, its own ids and the moment of a retry aside.
    async fn row(&self, id: MessageId) -> Value {
        sqlx::query_scalar(
            "select jsonb_build_object('status', status, 'attempts', attempts, 'wamid', replace(wamid, message_id::text, ''), 'hold', hold_until,
                'code', error_code, 'text', error_text, 'class', error_class, 'waiting', waiting_for, 'accepted', accepted_at, 'sent', sent_at,
                'delivered', delivered_at, 'read', read_at, 'failed', failed_at) from message where message_id = $1",
        )
        .bind(id.0)
        .fetch_one(&self.service.db)
        .await
        .unwrap()
    }

    /// One message for each order, all told side by side; `repeat` tells everything once more at the end, in the other direction.
    async fn ends(&self, status: &str, attempts: i16, orders: &[Vec<News>]) -> Vec<Value> {
        let mut told = Vec::new();
        for (place, order) in orders.iter().enumerate() {
            let mut order = order.clone();
            match place % 3 {
                0 => order.extend(order.clone().into_iter().rev()),
                1 => order = order.into_iter().flat_map(|news| [news, news]).collect(),
                _ => {}
            }
            told.push((self.message(status, attempts).await, order));
        }
        for step in 0.. {
            let now: Vec<_> = told.iter().filter_map(|(id, order)| Some((*id, *order.get(step)?))).collect();
            if now.is_empty() {
                break;
            }
            for (id, news) in now {
                self.happen(id, news).await;
            }
            // Some batches hold two pieces of news about the same message.
            if step % 3 != 1 {
                self.take().await;
            }
        }
        self.take().await;
        let mut rows = Vec::new();
        for (id, _) in told {
            rows.push(self.row(id).await);
        }
        rows
    }

    /// Every order of these ends the same; says how.
    async fn same(&self, status: &str, attempts: i16, news: &[News]) -> Value {
        let orders = permutations(news);
        let rows = self.ends(status, attempts, &orders).await;
        for (row, order) in rows.iter().zip(&orders) {
            assert_eq!(row, &rows[0], "{order:?} from {status}, beside {:?}", orders[0]);
        }
        rows[0].clone()
    }

    async fn close(self) {
        let untaken: i64 =
            sqlx::query_scalar("select count(*) from inbox where taken_at is null").fetch_one(&self.service.db).await.unwrap();
        assert_eq!(untaken, 0);
        self.service.close().await;
    }
}

fn wamid(id: MessageId, attempt: i16) -> String {
    format!("wamid.{id}.{attempt}")
}

fn permutations<T: Clone>(of: &[T]) -> Vec<Vec<T>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, first) in of.iter().enumerate() {
        let rest = [&of[..place], &of[place + 1..]].concat();
        all.extend(permutations(&rest).into_iter().map(|tail| [vec![first.clone()], tail].concat()));
    }
    all
}

fn subsets<T: Clone>(of: &[T]) -> Vec<Vec<T>> {
    (1..1_usize << of.len())
        .map(|bits| of.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, one)| one.clone()).collect())
        .collect()
}

#[sqlx::test(migrations = false)]
async fn every_order_of_every_set_of_statuses_ends_in_the_same_row(db: PgPool) {
    let table = Table::open(db).await;
    for code in [UNDELIVERABLE, TROUBLE] {
        let news = [Status(1, "sent", 0), Status(1, "delivered", 0), Status(1, "read", 0), Status(1, "failed", code)];
        for set in subsets(&news) {
            let row = table.same("unknown", 1, &set).await;
            let has = |status: &str| set.iter().any(|news| matches!(news, Status(_, told, _) if *told == status));
            let expected = match () {
                () if has("read") => "read",
                () if has("delivered") => "delivered",
                () if has("failed") && code == TROUBLE => "queued",
                () if has("failed") => "failed",
                () => "sent",
            };
            assert_eq!((&row["status"], &row["hold"]), (&json!(expected), &Value::Null), "{set:?}");
            assert_eq!(row["code"].is_null(), !matches!(expected, "failed" | "queued"), "{set:?}: {row}");
        }
    }
    table.close().await;
}

#[sqlx::test(migrations = false)]
async fn from_acceptance_on_a_status_touches_no_index(db: PgPool) {
    let table = Table::open(db).await;
    let id = table.message("sending", 1).await;
    table.answer(id, 1).await;
    let mut tx = table.service.db.begin().await.unwrap();
    for status in ["sent", "delivered", "read"] {
        let wamid = Some(wamid(id, 1));
        let change =
            Change { status, wamid, due_at: None, error_code: None, error_text: None, error_class: None, waiting_for: None };
        news::stand(&mut tx, &[Standing { message_id: id, change: Some(change) }]).await.unwrap();
    }
    let (changed, hot): (i64, i64) =
        sqlx::query_as("select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relname = 'message'")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
    assert_eq!((changed, hot), (3, 3), "changes of rows, and those that no index heard of");
    tx.commit().await.unwrap();
    table.close().await;
}

#[sqlx::test(migrations = false)]
async fn statuses_may_overtake_the_answer_to_the_send(db: PgPool) {
    let table = Table::open(db).await;
    for code in [UNDELIVERABLE, TROUBLE] {
        let news = [Status(1, "sent", 0), Status(1, "delivered", 0), Status(1, "failed", code)];
        for mut set in subsets(&news) {
            set.push(Answer(1));
            let row = table.same("sending", 1, &set).await;
            assert_ne!(row["status"], "sending", "{set:?}");
            assert_ne!(row["status"], "accepted", "{set:?}");
        }
    }
    table.close().await;
}

#[sqlx::test(migrations = false)]
async fn news_of_an_old_attempt_does_not_speak_for_the_new_one(db: PgPool) {
    let table = Table::open(db).await;
    let old = [Status(1, "sent", 0), Status(1, "failed", TROUBLE)];
    for (new, expected) in [
        (vec![], "sending"),
        (vec![Answer(2)], "accepted"),
        (vec![Answer(2), Status(2, "sent", 0)], "sent"),
        (vec![Status(2, "delivered", 0), Answer(2)], "delivered"),
        (vec![Status(2, "failed", UNDELIVERABLE)], "failed"),
    ] {
        let row = table.same("sending", 2, &[old.to_vec(), new.clone()].concat()).await;
        assert_eq!(row["status"], expected, "{new:?}");
        if !new.is_empty() {
            assert_eq!(row["wamid"], "wamid..2", "{new:?}");
        }
    }
    // The hold of the second attempt stays, or nobody would ever release it.
    let row = table.ends("unknown", 2, &[old.to_vec()]).await.remove(0);
    assert!(row["status"] == "unknown" && !row["hold"].is_null(), "{row}");
    // A first attempt that reached its reader after all is what counts, and what is charged.
    let late = [Status(1, "delivered", 0), Answer(2), Status(2, "sent", 0), Status(2, "failed", UNDELIVERABLE)];
    let row = table.same("sending", 2, &late).await;
    assert_eq!((&row["status"], &row["wamid"], &row["code"]), (&json!("delivered"), &json!("wamid..1"), &Value::Null));
    table.close().await;
}

#[sqlx::test(migrations = false)]
async fn a_status_on_the_wrong_line_is_put_aside(db: PgPool) {
    let table = Table::open(db).await;
    table.line(LineId(Uuid::now_v7()), "1002").await;
    let id = table.message("unknown", 1).await;
    let before = table.row(id).await;
    table.deliver("1002", id, Status(1, "delivered", 0)).await;
    table.deliver("9999", id, Status(1, "read", 0)).await;
    table.take().await;
    assert_eq!(table.row(id).await, before);
    let aside: BTreeMap<String, i64> = sqlx::query_as::<_, (String, i64)>("select reason, count(*) from quarantine group by 1")
        .fetch_all(&table.service.db)
        .await
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(aside.values().sum::<i64>(), 2, "{aside:?}");
    table.close().await;
}
