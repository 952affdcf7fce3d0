//! Webhooks from the door to the ledger: in any order and any number of times the same rows, in a few statements, and what cannot be
//! worked holds nothing else up.

use crate::service::{Service, VAULT_KEY};
use domain::{
    LineId, MessageId, Provider, TenantId,
    rates::{read_exchange_rates, read_markets, read_rates},
};
use durable::{Ctx, Job as _};
use jobs::{Settings, TakeWhatsapp, Tools};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use store::{
    inbox::{self, NewEvent},
    ledger::{self, Walk},
    rates::{self, Table},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// 2026-10-31 23:00 in Morocco, an hour before the month ends; a story's events are a minute apart.
const EPOCH: i64 = 1_793_484_000;

/// A company with live lines and messages that were accepted.
struct Company {
    tenant: TenantId,
    lines: [LineId; 2],
    /// Ids, numbers at Meta and wamids of the company end with this.
    mark: String,
}

impl Company {
    async fn open(service: &Service, mark: &str) -> Self {
        let tenant = service.tenant("Atlas").await.into();
        let company = Self { tenant, lines: [(); 2].map(|()| LineId(Uuid::now_v7())), mark: mark.to_owned() };
        for (place, line) in company.lines.iter().enumerate() {
            sqlx::query(
                "insert into line (line_id, tenant_id, kind, status, country, display_name, phone_number_id, messaging_account)
                 values ($1, $2, 'virtual', 'live', 'MA', 'Atlas', $3, '1')",
            )
            .bind(line.0)
            .bind(tenant.0)
            .bind(company.number(place))
            .execute(&service.db)
            .await
            .unwrap();
        }
        company
    }

    fn number(&self, line: usize) -> String {
        format!("{line}00{}", self.mark)
    }

    fn wamid(&self, name: &str) -> String {
        format!("wamid.{name}.{}", self.mark)
    }

    /// So many messages to somebody of their own each, in the middle of their only attempt.
    async fn sent(&self, db: &PgPool, count: usize) -> Vec<MessageId> {
        let mut ids = Vec::new();
        for place in 0..count {
            let (id, contact, talk) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
            sqlx::query(
                "with c as (insert into contact (contact_id, tenant_id) values ($2, $4)),
                 a as (insert into contact_alias (tenant_id, kind, value, contact_id) values ($4, 'phone', '+2126' || $6, $2)),
                 v as (insert into conversation (conversation_id, tenant_id, line_id, contact_id) values ($3, $4, $5, $2))
                 insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status, attempts)
                 values ($1, $4, $5, $2, $3, 'out', 'template', 'marketing', 'unknown', 1)",
            )
            .bind(id)
            .bind(contact)
            .bind(talk)
            .bind(self.tenant.0)
            .bind(self.lines[place % 2].0)
            .bind((10_000_000 + place).to_string())
            .execute(db)
            .await
            .unwrap();
            ids.push(MessageId(id));
        }
        ids
    }

    fn status(&self, place: usize, id: MessageId, status: &str, minute: i64, pricing: &str) -> (usize, Value) {
        let mut told = json!({"id": self.wamid(&format!("out{place}")), "status": status, "timestamp": (EPOCH + 60 * minute).to_string(),
            "recipient_id": "212600000001", "biz_opaque_callback_data": format!("{id}.1")});
        match status {
            "failed" => told["errors"] = json!([{"code": 131_026, "title": "Undeliverable"}]),
            _ => told["pricing"] = json!({"billable": true, "pricing_model": "PMP", "type": pricing, "category": "marketing"}),
        }
        (place % 2, json!({ "statuses": [told] }))
    }

    /// Words of a person; of some the phone is seen, of some the user id, of some both.
    fn words(&self, name: &str, person: usize, line: usize, minute: i64, words: &str) -> (usize, Value) {
        let (phone, user) = (format!("2127000000{person:02}"), format!("MA.7{person:09}"));
        let mut message = json!({"id": self.wamid(name), "timestamp": (EPOCH + 60 * minute).to_string(), "type": "text", "text": {"body": words}});
        let mut contact = json!({"profile": {"name": format!("Person {person}")}});
        if person % 3 != 1 {
            (message["from"], contact["wa_id"]) = (json!(phone), json!(phone));
        }
        if !person.is_multiple_of(3) {
            (message["from_user_id"], contact["user_id"]) = (json!(user), json!(user));
        }
        (line, json!({ "contacts": [contact], "messages": [message] }))
    }

    fn preference(&self, person: usize, minute: i64, value: &str) -> (usize, Value) {
        (
            0,
            json!({"user_preferences": [{"wa_id": format!("2127000000{person:02}"), "category": "marketing_messages", "value": value,
            "timestamp": EPOCH + 60 * minute}]}),
        )
    }

    /// One delivery of several events, each for the number that it is about.
    fn delivery(&self, events: &[(usize, Value)], nonce: u64) -> Vec<u8> {
        let change = |(line, value): &(usize, Value)| {
            let field = if value.get("user_preferences").is_some() { "user_preferences" } else { "messages" };
            let mut value = value.clone();
            value["messaging_product"] = json!("whatsapp");
            value["metadata"] = json!({"display_phone_number": "212520000000", "phone_number_id": self.number(*line)});
            json!({ "field": field, "value": value })
        };
        let changes: Vec<Value> = events.iter().map(change).collect();
        json!({"object": "whatsapp_business_account", "nonce": nonce, "entry": [{ "id": "1", "changes": changes }]})
            .to_string()
            .into_bytes()
    }

    /// Every row that webhooks may change, without what is of the company's own: ids, its mark, when we heard of it.
    async fn rows(&self, service: &Service) -> Value {
        let rows: Value = sqlx::query_scalar(
            "select jsonb_build_object(
                'messages', (select jsonb_agg(jsonb_build_array(replace(wamid, $2, ''), direction, type, category, status, attempts, hold_until, error_code,
                    price_units, cost_micro, reserved_units, accepted_at, sent_at, delivered_at, read_at, failed_at) order by wamid) from message where tenant_id = $1),
                'statuses', (select jsonb_agg(jsonb_build_array(replace(s.wamid, $2, ''), s.attempt, s.status, s.at, s.code, s.pricing_type, s.pricing_category)
                    order by s.wamid, s.status, s.at) from message_status s join message using (message_id) where tenant_id = $1),
                'people', (select jsonb_agg(jsonb_build_array(name, opted_out, wished_at, marketing_opted_out, marketing_wished_at, last_replied_at,
                    (select jsonb_agg(jsonb_build_array(kind, value, valid_to is null) order by kind, value) from contact_alias a where a.contact_id = c.contact_id),
                    (select jsonb_agg(jsonb_build_array(phone_number_id like '0%', v.status, unread, message_count, window_until, last_message_at, last_message_from)
                        order by phone_number_id) from conversation v join line using (line_id) where v.contact_id = c.contact_id))
                    order by (select min(value) from contact_alias a where a.contact_id = c.contact_id)) from contact c where tenant_id = $1),
                'charges', (select jsonb_agg(row order by row) from (select jsonb_build_array(state, category, pricing_type, country, sent_at, failed_at, happened_at,
                    price_units, market, rate_valid_from, cost_micro, cost_units, usage_month, billing_month) as row from charge where tenant_id = $1) charges),
                'ledger', (select jsonb_object_agg(account || ' ' || currency, sum) from (select account, currency, sum(amount) from ledger_posting
                    where tenant_id = $1 group by 1, 2) balance),
                'told', (select jsonb_agg(wamid order by wamid) from (select replace(data ->> 'wamid', $2, '') as wamid from event
                    where tenant_id = $1 and type = 'message.received') told))",
        )
        .bind(self.tenant.0)
        .bind(&self.mark)
        .fetch_one(&service.db)
        .await
        .unwrap();
        rows
    }
}

/// What jobs work with; the providers are never called.
fn tools(db: PgPool) -> Tools {
    let nowhere = "http://127.0.0.1:1";
    Tools {
        db,
        clock: durable::Clock::default(),
        vault: VAULT_KEY.parse().unwrap(),
        telnyx: providers::Telnyx::new(nowhere, "KEY".into(), "1", "1").unwrap(),
        meta: providers::Meta::new(nowhere, "v25.0", "token".into(), "1", "secret".into(), "1", "1").unwrap(),
        settings: Settings {
            callback_secret: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".into(),
            seller: domain::seller::Seller::demo(),
        },
        outcomes: jobs::run_lane::Recorder::default(),
    }
}

async fn take(tools: &Tools) {
    let ctx = Ctx { clock: tools.clock.clone(), attempt: 1, stopping: CancellationToken::new() };
    TakeWhatsapp {}.run(tools, &ctx).await.unwrap();
}

async fn load_rates(db: &PgPool) {
    let mut tx = db.begin().await.unwrap();
    for table in [
        Table::Rates(read_rates(include_str!("../../../../fixtures/rates/meta.csv")).unwrap()),
        Table::Markets(read_markets(include_str!("../../../../fixtures/rates/markets.csv")).unwrap()),
        Table::Exchange(read_exchange_rates(include_str!("../../../../fixtures/rates/exchange.csv")).unwrap()),
    ] {
        rates::load(&mut tx, &table).await.unwrap();
    }
    tx.commit().await.unwrap();
}

/// Sends and replies of some hours, over the end of a month.
fn story(company: &Company, sent: &[MessageId]) -> Vec<(usize, Value)> {
    let mut story = Vec::new();
    for (place, id) in sent.iter().enumerate() {
        let free = if place % 4 == 3 { "free_customer_service" } else { "regular" };
        let minute = 20 * place as i64;
        story.push(company.status(place, *id, "sent", minute, "regular"));
        match place % 5 {
            0 => story.push(company.status(place, *id, "failed", minute + 1, free)),
            1 => story.push(company.status(place, *id, "read", minute + 3, free)),
            2 => {}
            _ => {
                story.push(company.status(place, *id, "delivered", minute + 2, free));
                story.push(company.status(place, *id, "read", minute + 3, free));
            }
        }
    }
    for person in 0..9 {
        for line in 0..2 {
            let at = 7 * person as i64 + 2 * line as i64;
            story.push(company.words(&format!("in{person}.{line}"), person, line, at, "Bonjour"));
        }
    }
    story.push(company.words("stop0", 0, 0, 100, "STOP"));
    story.push(company.words("start0", 0, 1, 200, "START"));
    story.push(company.words("start3", 3, 0, 100, "start"));
    story.push(company.words("stop3", 3, 1, 200, "Stop"));
    story.push(company.preference(2, 100, "stop"));
    story.push(company.preference(5, 100, "stop"));
    story.push(company.preference(5, 200, "resume"));
    story
}

#[sqlx::test(migrations = "../../migrations")]
async fn every_webhook_twice_and_shuffled_leaves_the_same_rows_and_the_same_ledger(db: PgPool) {
    let service = Service::open(db.clone()).await;
    load_rates(&db).await;
    let tools = tools(db.clone());
    let mut first = None;
    for seed in 0..6_u64 {
        let company = Company::open(&service, &format!("70{seed}")).await;
        let sent = company.sent(&db, 15).await;
        let mut events = story(&company, &sent);
        let mut chance = StdRng::seed_from_u64(seed);
        let mut deliveries = Vec::new();
        if seed == 0 {
            deliveries.extend(events.iter().map(|event| company.delivery(std::slice::from_ref(event), 0)));
        }
        // Everything twice, in batches of any size, and some deliveries once more as they are.
        for round in 0..if seed == 0 { 0 } else { 2 } {
            events.shuffle(&mut chance);
            let mut rest = events.as_slice();
            while !rest.is_empty() {
                let (batch, later) = rest.split_at(chance.random_range(1..=rest.len().min(9)));
                deliveries.push(company.delivery(batch, round));
                rest = later;
            }
        }
        if seed > 0 {
            deliveries.extend(deliveries.iter().step_by(3).cloned().collect::<Vec<_>>());
            deliveries.shuffle(&mut chance);
        }
        for delivery in &deliveries {
            assert_eq!(service.whatsapp(delivery).await.status, 200);
            if chance.random_range(0..4) == 0 {
                take(&tools).await;
            }
        }
        take(&tools).await;
        let rows = company.rows(&service).await;
        let first = first.get_or_insert_with(|| rows.clone());
        for part in rows.as_object().unwrap().keys() {
            assert_eq!(rows[part], first[part], "{part} of seed {seed}");
        }
        // Of fifteen three failed, three were never delivered, and two of the others were free.
        assert_eq!(rows["told"].as_array().unwrap().len(), 22);
        assert_eq!(rows["charges"].as_array().unwrap().len(), 15);
        assert_eq!(rows["ledger"]["unbilled MAD"], 7 * 1_000);
        assert_eq!(rows["ledger"]["pending MAD"], 3 * 1_000);
        assert!(rows["ledger"]["meta_cost USD"].as_i64().unwrap() > 0, "{}", rows["ledger"]);
    }
    let mut conn = db.acquire().await.unwrap();
    assert!(matches!(ledger::verify(&mut conn).await.unwrap(), Walk::Whole { chains: 6, .. }));
    assert_eq!(service.count("quarantine").await, 0);
    assert_eq!(service.count("inbox where taken_at is null").await, 0);
}

#[sqlx::test(migrations = "../../migrations")]
async fn what_cannot_be_worked_is_put_aside_and_holds_nothing_up(db: PgPool) {
    let service = Service::open(db.clone()).await;
    let tools = tools(db.clone());
    let company = Company::open(&service, "1").await;
    for n in 0..20 {
        // PostgreSQL has no place for a NUL.
        let name = if n % 8 == 5 { format!("in{n}\0") } else { format!("in{n}") };
        let event = company.words(&name, n % 4, 0, n as i64, "Bonjour");
        assert_eq!(service.whatsapp(&company.delivery(&[event], n as u64)).await.status, 200);
    }
    take(&tools).await;
    assert_eq!(service.count("message where direction = 'in'").await, 18);
    assert_eq!(service.count("event where type = 'message.received'").await, 18);
    assert_eq!(service.count("quarantine").await, 2);
    // Those are kept whole, for a person.
    assert_eq!(service.count("quarantine join inbox using (provider, event_id) where body_sealed is not null").await, 2);
    assert_eq!(service.count("inbox where taken_at is null").await, 0);
    // In the order of arrival.
    let order: Vec<String> = sqlx::query_scalar("select wamid from message order by seq").fetch_all(&db).await.unwrap();
    let expected: Vec<String> = (0..20).filter(|n| n % 8 != 5).map(|n| company.wamid(&format!("in{n}"))).collect();
    assert_eq!(order, expected);
}

#[sqlx::test(migrations = "../../migrations")]
async fn webhooks_that_are_kept_together_keep_their_order(db: PgPool) {
    durable::setup(&db).await.unwrap();
    let names: Vec<String> = (0..50).rev().map(|n| format!("event-{n:02}")).collect();
    let event = |name: &String| NewEvent {
        provider: Provider::Meta,
        event_id: name.clone(),
        kind: "messages".into(),
        body_sealed: vec![0],
    };
    let mut tx = db.begin().await.unwrap();
    inbox::keep(&mut tx, &names.iter().map(event).collect::<Vec<_>>()).await.unwrap();
    let kept = inbox::next(&mut tx, Provider::Meta, 100).await.unwrap();
    assert_eq!(kept.into_iter().map(|kept| kept.event_id).collect::<Vec<_>>(), names);
}

/// However many events: the statements are the same.
#[sqlx::test(migrations = "../../migrations")]
async fn a_thousand_events_cost_as_many_statements_as_ten(db: PgPool) {
    let service = Service::open(db.clone()).await;
    load_rates(&db).await;
    let (counted, statements) = counted(&db).await;
    let tools = tools(counted);
    let mut costs = Vec::new();
    // The first time types are looked up.
    for (round, count) in [4, 4, 340].into_iter().enumerate() {
        let company = Company::open(&service, &format!("8{round}")).await;
        let sent = company.sent(&db, count).await;
        let mut statuses = Vec::new();
        for (place, id) in sent.iter().enumerate() {
            for (minute, status) in ["sent", "delivered", "read"].into_iter().enumerate() {
                statuses.push(company.status(place, *id, status, minute as i64, "regular"));
            }
        }
        let replies: Vec<_> = (0..count).map(|n| company.words(&format!("in{n}"), n, n % 2, n as i64, "STOP")).collect();
        let mut cost = Vec::new();
        for events in [statuses, replies] {
            for (nonce, part) in events.chunks(events.len().div_ceil(4)).enumerate() {
                assert_eq!(service.whatsapp(&company.delivery(part, nonce as u64)).await.status, 200);
            }
            let before = statements.load(Ordering::SeqCst);
            take(&tools).await;
            cost.push(statements.load(Ordering::SeqCst) - before);
        }
        let tenant = company.tenant.0;
        assert_eq!(service.count(&format!("charge where state = 'final' and tenant_id = '{tenant}'")).await, count as i64);
        assert_eq!(service.count(&format!("message where direction = 'in' and tenant_id = '{tenant}'")).await, count as i64);
        costs.push(cost);
    }
    assert_eq!(costs[1], costs[2]);
    assert!(costs[2].iter().all(|cost| (10..60).contains(cost)), "{costs:?}");
}

/// A way to the same database on which statements are counted as they pass.
async fn counted(db: &PgPool) -> (PgPool, Arc<AtomicUsize>) {
    let options: PgConnectOptions = db.connect_options().as_ref().clone();
    let server = (options.get_host().to_owned(), options.get_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let statements = Arc::new(AtomicUsize::new(0));
    let counter = statements.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server.clone()).await.unwrap();
            let (mut said, mut hears) = client.into_split();
            let (mut answers, mut asks) = server.into_split();
            let counter = counter.clone();
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
            tokio::spawn(async move {
                // A type and a length, or of the very first message the length alone.
                for head in [4].into_iter().chain(std::iter::repeat(5)) {
                    let mut message = vec![0; head];
                    if said.read_exact(&mut message).await.is_err() {
                        return;
                    }
                    let length = u32::from_be_bytes(*message.last_chunk().unwrap());
                    message.resize(head - 4 + length as usize, 0);
                    said.read_exact(&mut message[head..]).await.unwrap();
                    counter.fetch_add(usize::from(head == 5 && matches!(message[0], b'E' | b'Q')), Ordering::SeqCst);
                    asks.write_all(&message).await.unwrap();
                }
            });
        }
    });
    let options = options.host("127.0.0.1").port(port).ssl_mode(PgSslMode::Disable);
    (PgPoolOptions::new().max_connections(2).connect_with(options).await.unwrap(), statements)
}
