//! Live events: in order, resumable, of one company, over any number of fronts.

use crate::service::{ADMIN, Service};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::time::Duration;
use store::events;
use uuid::Uuid;

/// Somebody writes to a line of the tenant: what a worker does with the webhook.
pub(crate) async fn reply(service: &Service, tenant: Uuid, line: &str, phone: &str, words: &str) -> Uuid {
    let vault: vault::Vault = crate::service::VAULT_KEY.parse().unwrap();
    let (tenant, line) = (tenant.into(), line.parse().unwrap());
    let mut tx = service.db.begin().await.unwrap();
    let alias = ("phone", phone.to_owned());
    let contact = store::contacts::resolve(&mut tx, tenant, std::slice::from_ref(&alias)).await.unwrap()[&alias];
    let talk = store::conversations::open(&mut *tx, tenant, line, &[contact]).await.unwrap()[&contact].conversation_id;
    let message_id = domain::MessageId(Uuid::now_v7());
    let raw = json!({ "type": "text", "text": { "body": words } }).to_string();
    let received = store::news::Received {
        message_id,
        tenant_id: tenant,
        line_id: line,
        contact_id: contact,
        conversation_id: talk,
        kind: "text".into(),
        content_sealed: vault.seal(&store::messages::content_context(message_id), raw.as_bytes()),
        wamid: format!("wamid.{message_id}"),
        context_wamid: None,
        at: durable::Clock::default().now(),
        window_until: None,
        name: None,
    };
    let new = store::news::receive(&mut tx, &[received]).await.unwrap();
    store::news::tell(&mut tx, &new).await.unwrap();
    tx.commit().await.unwrap();
    message_id.0
}

/// Longer than any event takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a stream looks at its table by itself.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

struct Stream {
    answer: Response,
    text: String,
}

impl Stream {
    async fn open(service: &Service, key: &str, last: Option<&str>) -> Self {
        let mut request = service.request(Method::GET, "/v1/events", key);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next event's `id:`, `event:` and data.
    async fn next(&mut self) -> (String, String, Value) {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n").map(|(block, rest)| (block.to_owned(), rest.to_owned()))
            {
                self.text = rest;
                let field =
                    |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(|text| text.trim().to_owned());
                if let Some(data) = field("data:") {
                    return (field("id:").unwrap(), field("event:").unwrap(), serde_json::from_str(&data).unwrap());
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answer.chunk()).await.expect("an event in time").unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.expect("an open stream")).unwrap());
        }
    }
}

pub(crate) async fn tell(service: &Service, tenant: Uuid, n: i64) {
    let mut tx = service.db.begin().await.unwrap();
    events::append(&mut tx, tenant.into(), "line.status", &json!({ "n": n })).await.unwrap();
    tx.commit().await.unwrap();
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_event_is_told_live_by_every_front_and_to_its_company_alone(db: PgPool) {
    let service = Service::open(db.clone()).await;
    let second = Service::beside(db).await;
    let (own, other) = (service.tenant("Atlas").await, service.tenant("Rif").await);
    tell(&service, own, 0).await;
    let (key, their_key) = (service.key(own, "recruiter").await, service.key(other, "recruiter").await);
    let mut here = Stream::open(&service, &key, None).await;
    let mut there = Stream::open(&second, &key, None).await;
    let mut theirs = Stream::open(&second, &their_key, None).await;
    tell(&service, own, 1).await;
    tell(&service, other, 2).await;
    tell(&service, own, 3).await;
    for stream in [&mut here, &mut there] {
        for n in [1, 3] {
            let (id, kind, event) = stream.next().await;
            assert_eq!((kind.as_str(), &event["data"], &event["id"]), ("line.status", &json!({ "n": n }), &json!(id)));
            assert_eq!((&event["type"], &event["tenant_id"]), (&json!("line.status"), &json!(own)));
            assert!(event["occurred_at"].is_string());
        }
    }
    assert_eq!(theirs.next().await.2["data"], json!({ "n": 2 }));
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_stream_goes_on_after_the_last_event_seen(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let mut stream = Stream::open(&service, &key, None).await;
    for n in 0..300 {
        tell(&service, tenant, n).await;
    }
    let mut last = String::new();
    for n in 0..100 {
        let (id, _, event) = stream.next().await;
        assert_eq!(event["data"]["n"], n);
        last = id;
    }
    drop(stream);
    let mut resumed = Stream::open(&service, &key, Some(&last)).await;
    for n in 100..300 {
        assert_eq!(resumed.next().await.2["data"]["n"], n);
    }
    for bad in ["x", "-1", "1-1", "99999999999999999999"] {
        assert_eq!(service.get(&format!("/v1/events?last_event_id={bad}"), &key).await.code(), "bad_last_event_id");
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn an_event_that_commits_late_is_not_passed_by(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let mut stream = Stream::open(&service, &key, None).await;
    let mut slow = service.db.begin().await.unwrap();
    events::append(&mut slow, tenant.into(), "line.status", &json!({ "n": 1 })).await.unwrap();
    // Has the higher number and is there first.
    tell(&service, tenant, 2).await;
    let reach = events::reach(&service.db).await.unwrap();
    assert_eq!((reach.head, reach.tail), (2, 0));
    slow.commit().await.unwrap();
    for n in [1, 2] {
        assert_eq!(stream.next().await.2["data"]["n"], n);
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_run_tells_its_status_as_its_get_shows_it(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let mut stream = Stream::open(&service, &key, None).await;
    let (_, run) = service.order(tenant).await;
    let (_, kind, event) = stream.next().await;
    assert_eq!((kind.as_str(), &event["data"]["status"]), ("run.status", &json!("running")));
    let error = json!({ "kind": "rejected", "code": "85001", "why": "no", "retry_after_ms": 5 });
    let mut tx = service.db.begin().await.unwrap();
    sqlx::query("update durable.run set status = 'undone', ended_at = durable.now(), error = $1")
        .bind(&error)
        .execute(&mut *tx)
        .await
        .unwrap();
    // Recorded after the status and in the same transaction: told all the same.
    sqlx::query("insert into durable.step (run_id, name, position, status, attempts, started_at, error) values ($1::uuid, 'buy', 1, 'failed', 2, durable.now(), $2)")
        .bind(&run)
        .bind(&error)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let (.., event) = stream.next().await;
    let mut shown = service.get(&format!("/v1/runs/{run}"), ADMIN).await.json();
    let mut told = event["data"].clone();
    assert_eq!((&told["status"], &told["steps"][0]["error"]["code"]), (&json!("undone"), &json!("85001")));
    // The same instants, written by two hands.
    for path in ["/started_at", "/ended_at", "/steps/0/started_at"] {
        for value in [&mut shown, &mut told] {
            let at = value.pointer_mut(path).unwrap();
            let time: chrono::DateTime<chrono::Utc> = at.as_str().unwrap().parse().unwrap();
            *at = json!(time);
        }
    }
    assert_eq!(told, shown);
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_reply_is_told_whole_though_its_event_holds_no_word_of_it(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let (line, _) = service.order(tenant).await;
    let mut stream = Stream::open(&service, &key, None).await;
    let id = reply(&service, tenant, &line, "+212600000101", "Oui, demain").await;
    let (_, kind, event) = stream.next().await;
    let told = &event["data"];
    assert_eq!((kind.as_str(), &told["id"]), ("message.received", &json!(id)));
    assert_eq!((&told["from"], &told["content"]), (&json!("+212600000101"), &json!({ "body": "Oui, demain" })));
    assert_eq!((&told["contact"]["id"], &told["contact"]["opted_out"]), (&told["contact_id"], &json!(false)));
    let shown = service.get(&format!("/v1/messages/{id}"), &key).await.json();
    for (name, value) in shown.as_object().unwrap() {
        assert_eq!(&told[name], value, "{name}");
    }
    let kept: Value =
        sqlx::query_scalar("select data from event where type = 'message.received'").fetch_one(&service.db).await.unwrap();
    assert!(!kept.to_string().contains("demain"), "{kept}");
    // Each event tells the status of its own time.
    sqlx::query("update message set direction = 'out', status = 'sent'").execute(&service.db).await.unwrap();
    for status in ["sent", "delivered"] {
        let mut tx = service.db.begin().await.unwrap();
        sqlx::query("update message set status = $1").bind(status).execute(&mut *tx).await.unwrap();
        store::messages::tell(&mut *tx, &[id.into()]).await.unwrap();
        tx.commit().await.unwrap();
    }
    for status in ["sent", "delivered"] {
        let (_, kind, event) = stream.next().await;
        assert_eq!((kind.as_str(), &event["data"]["status"]), ("message.status", &json!(status)));
        assert_eq!((&event["data"]["id"], &event["data"]["delivery"]), (&json!(id), &json!("at_most_once")));
    }
}

#[sqlx::test(migrations = "../../migrations")]
async fn no_foreign_transaction_delays_a_stream(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let mut stream = Stream::open(&service, &key, None).await;
    let mut foreign = service.db.begin().await.unwrap();
    // It has a transaction id, so that every later one is younger.
    sqlx::query("create table foreign_work ()").execute(&mut *foreign).await.unwrap();
    let mut delays = Vec::new();
    for n in 0..20 {
        tell(&service, tenant, n).await;
        let told = std::time::Instant::now();
        assert_eq!(stream.next().await.2["data"]["n"], n);
        delays.push(told.elapsed());
    }
    // Who hears from the look around alone hears each just after one, and so a whole period late.
    delays.sort();
    assert!(delays[10] < LOOK_PERIOD / 2, "{delays:?}");
    foreign.rollback().await.unwrap();
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_stream_needs_a_company(db: PgPool) {
    let service = Service::open(db).await;
    assert_eq!(service.get("/v1/events", ADMIN).await.code(), "needs_tenant");
}

#[sqlx::test(migrations = "../../migrations")]
async fn a_stop_ends_streams_and_finishes_what_is_in_hand(db: PgPool) {
    let service = Service::open(db).await;
    let tenant = service.tenant("Atlas").await;
    let key = service.key(tenant, "recruiter").await;
    let mut stream = Stream::open(&service, &key, None).await;
    let (http, base) = (service.http.clone(), service.base.clone());
    drop(service);
    let end = tokio::time::timeout(PATIENCE, stream.answer.chunk()).await.expect("an end in time").unwrap();
    assert_eq!(end, None);
    // The port is given back.
    drop(stream);
    while http.get(format!("{base}/healthz")).send().await.is_ok() {
        tokio::task::yield_now().await;
    }
}
