//! How many webhooks a front keeps beside a bare handler with the same insert, and how soon they are answered and told while
//! workers work them: `cargo bench --bench intake`, or with the parts wanted: `-- rate live`.
//!
//! Uses `DATABASE_URL` if set (a database of its own is made there), else a private cluster with default durability. Everything
//! is measured in one run on one machine, so that the ratios mean something; the absolute numbers do not travel.
//!
//! On two cores that the sender of the load, the listeners, the front, the workers and PostgreSQL share: 15,648 webhooks/s kept
//! beside 30,630 (0.51, aim 0.7). At 1,000/s with workers running, p50 and p99: the 200 after 2.4 and 7.2 ms (aim 50), a reply on
//! its company's streams after 26 and 61 ms (aim 100); nothing lost, doubled or put aside.

mod stand;

use anyhow::Context as _;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use domain::{
    KeyId, MessageId, Provider, TenantId,
    rates::{read_exchange_rates, read_markets, read_rates},
};
use front::{Front, Limits};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::{PgPool, postgres::PgPoolOptions};
use stand::{APP_SECRET, Sink, Stand, line};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use store::{
    inbox::{self, NewEvent},
    keys::{self, Key, Role},
    rates::{self, Table},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Webhooks of one measurement of the rate, and those under way at once.
const KEPT: usize = 20_000;
const IN_FLIGHT: usize = 64;
/// Connections of a front, and events of one insert, as in the program.
const FRONT_CONNECTIONS: u32 = 12;
const BATCH_EVENTS: usize = 256;
/// The open loop.
const PER_SECOND: usize = 1_000;
const SECONDS: usize = 30;
/// One webhook of so many comes twice.
const DOUBLED: usize = 97;
/// Companies, their lines, and the people of each company.
const TENANTS: usize = 4;
const LINES_EACH: usize = 2;
const PEOPLE_EACH: usize = 1_000;
/// One reply of so many is from somebody new.
const STRANGERS: usize = 5;
/// How many messages later its next status comes: 0.4 s.
const STATUS_LAG: usize = 100;
/// Patience for what is still to be worked or told when the last webhook is answered.
const TAIL: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` asks only whether it would run.
    if std::env::args().any(|arg| arg == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> anyhow::Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let stand = Stand::open().await?;
    line("what", "measured", "beside it", "ratio");
    if wanted("rate") {
        rate(&stand).await?;
    }
    if wanted("live") {
        live(&stand).await?;
    }
    stand.close().await
}

// --- the rate

async fn rate(stand: &Stand) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let (ours, bare) = (door(stand, &stop).await?, bare_door(stand, &stop).await?);
    let (mut kept, mut beside) = (0.0, 0.0);
    for round in 0..2 {
        beside += post_all(stand, &bare, "bare", round).await? / 2.0;
        kept += post_all(stand, &ours, "ours", round).await? / 2.0;
    }
    stop.cancel();
    line("webhooks kept/s", &format!("{kept:.0}"), &format!("{beside:.0} bare, aim 0.7"), &format!("{:.2}", kept / beside));
    Ok(())
}

/// Webhooks a second, `IN_FLIGHT` at once; every one of them is in the inbox then.
async fn post_all(stand: &Stand, url: &str, name: &str, round: usize) -> anyhow::Result<f64> {
    sqlx::raw_sql("truncate inbox, quarantine, apalis.jobs; checkpoint").execute(&stand.db).await?;
    let http = client()?;
    let hooks: Arc<Vec<Hook>> =
        Arc::new((0..KEPT).map(|n| Hook::new(&text("990000001", &format!("wamid.{name}{round}-{n}"), n, 0))).collect());
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (http, hooks, next, url) = (http.clone(), hooks.clone(), next.clone(), url.to_owned());
        senders.spawn(async move {
            while let Some(hook) = hooks.get(next.fetch_add(1, Ordering::Relaxed)) {
                hook.post(&http, &url).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    let rate = KEPT as f64 / began.elapsed().as_secs_f64();
    let count: i64 = sqlx::query_scalar("select count(*) from inbox").fetch_one(&stand.eye).await?;
    anyhow::ensure!(count == KEPT as i64, "{count} of {KEPT} webhooks were kept");
    Ok(rate)
}

type Waiting = (NewEvent, oneshot::Sender<bool>);

/// The same insert in the same batches, each answered after its commit, and nothing else.
async fn bare_door(stand: &Stand, stop: &CancellationToken) -> anyhow::Result<String> {
    let (sender, mut waiting) = mpsc::channel::<Waiting>(4_096);
    let db = pool(stand).await?;
    tokio::spawn(async move {
        let mut batch = Vec::with_capacity(BATCH_EVENTS);
        while waiting.recv_many(&mut batch, BATCH_EVENTS).await > 0 {
            let (events, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            let kept = async { inbox::keep(&mut *db.acquire().await?, &events).await }.await.is_ok();
            for reply in replies {
                let _ = reply.send(kept);
            }
        }
    });
    let keep = async |State(sender): State<mpsc::Sender<Waiting>>, body: Bytes| {
        let event_id = Uuid::now_v7().simple().to_string();
        let event = NewEvent { provider: Provider::Meta, event_id, kind: "messages".to_owned(), body_sealed: body.to_vec() };
        let (reply, kept) = oneshot::channel();
        match sender.send((event, reply)).await {
            Ok(()) if kept.await == Ok(true) => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/webhooks/whatsapp", listener.local_addr()?);
    let routes = Router::new().route("/webhooks/whatsapp", post(keep)).with_state(sender);
    tokio::spawn(front::serve(routes, listener, stop.clone()));
    Ok(url)
}

/// Our front with its own connections; returns where webhooks go.
async fn door(stand: &Stand, stop: &CancellationToken) -> anyhow::Result<String> {
    let front = Front {
        db: pool(stand).await?,
        clock: stand.clock.clone(),
        vault: stand::VAULT_KEY.parse()?,
        admin_key: None,
        telnyx_public_key: "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".parse()?,
        meta_app_secrets: vec![APP_SECRET.into()],
        meta_verify_token: "word".into(),
        sandbox: None,
        tools: None,
        metrics: front::metrics(),
        messaging_account: "bench".to_owned(),
        limits: Limits::default(),
        cors_origins: Vec::new(),
        stop: stop.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/webhooks/whatsapp", listener.local_addr()?);
    tokio::spawn(front::serve(front::router(front), listener, stop.clone()));
    Ok(url)
}

async fn pool(stand: &Stand) -> anyhow::Result<PgPool> {
    let options = stand.db.connect_options().as_ref().clone();
    Ok(PgPoolOptions::new().max_connections(FRONT_CONNECTIONS).connect_with(options).await?)
}

fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().pool_max_idle_per_host(1_024).tcp_nodelay(true).no_proxy().build()?)
}

// --- webhooks

/// A signed body.
#[derive(Clone)]
struct Hook {
    body: Bytes,
    signature: String,
}

impl Hook {
    fn new(body: &Value) -> Self {
        let body = body.to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(APP_SECRET.as_bytes()).expect("any length");
        mac.update(body.as_bytes());
        Self { signature: format!("sha256={}", hex::encode(mac.finalize().into_bytes())), body: body.into() }
    }

    async fn post(&self, http: &reqwest::Client, url: &str) -> anyhow::Result<()> {
        let request = http.post(url).header("content-type", "application/json").header("x-hub-signature-256", &self.signature);
        request.body(self.body.clone()).send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }
}

fn change(number: &str, mut value: Value) -> Value {
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({"display_phone_number": "212510000001", "phone_number_id": number});
    json!({"object": "whatsapp_business_account", "entry": [{"id": "bench", "changes": [{"field": "messages", "value": value}]}]})
}

fn text(number: &str, wamid: &str, person: usize, at: i64) -> Value {
    let (phone, user) = (phone(person), format!("MA.9{person:09}"));
    change(
        number,
        json!({
            "contacts": [{"profile": {"name": format!("Candidate {person}")}, "wa_id": phone, "user_id": user}],
            "messages": [{"id": wamid, "from": phone, "from_user_id": user, "timestamp": at.to_string(), "type": "text",
                "text": {"body": "Bonjour, je suis disponible demain matin pour l'entretien."}}]}),
    )
}

fn status(number: &str, sent: &Sent, status: &str, at: i64) -> Value {
    change(
        number,
        json!({"statuses": [{"id": sent.wamid, "status": status, "timestamp": at.to_string(), "recipient_id": sent.to,
            "biz_opaque_callback_data": format!("{}.1", sent.id),
            "pricing": {"billable": true, "pricing_model": "PMP", "type": "regular", "category": "marketing"}}]}),
    )
}

/// Digits, as Meta has them.
fn phone(person: usize) -> String {
    format!("2126{:08}", 10_000_000 + person)
}

// --- the open loop

struct Company {
    tenant: TenantId,
    key: String,
    /// Lines with their numbers at Meta.
    lines: Vec<(Uuid, String)>,
}

/// A message that was accepted and of which Meta has told nothing yet.
struct Sent {
    id: MessageId,
    number: String,
    wamid: String,
    to: String,
}

/// A webhook, and the name of its event.
struct Due {
    hook: Hook,
    told: String,
    /// A status may be overtaken by the next one; a reply and the last status are told in any case.
    must: bool,
}

type Seen = Arc<Mutex<HashMap<String, Vec<Instant>>>>;

async fn live(stand: &Stand) -> anyhow::Result<()> {
    sqlx::raw_sql("truncate inbox, quarantine, apalis.jobs").execute(&stand.db).await?;
    let companies = companies(stand).await?;
    let count = PER_SECOND * SECONDS;
    let sent = sent(stand, &companies, count / 4).await?;
    let due = due(stand, &companies, &sent, count);
    sqlx::raw_sql("analyze; checkpoint").execute(&stand.db).await?;

    let (sink, stop) = (Sink::start()?, CancellationToken::new());
    let url = door(stand, &stop).await?;
    let seen = Seen::default();
    let mut streams = JoinSet::new();
    for company in &companies {
        let base = url.trim_end_matches("/webhooks/whatsapp");
        let stream = client()?.get(format!("{base}/v1/events")).bearer_auth(&company.key).send().await?.error_for_status()?;
        streams.spawn(listen(stream, seen.clone()));
    }
    let measured = stand
        .with_engine(stand.tools(&sink)?, async || {
            let posted = post_at_pace(&url, &due).await?;
            let ended = Instant::now();
            let left: i64 = sqlx::query_scalar("select count(*) from inbox where taken_at is null").fetch_one(&stand.eye).await?;
            until(stand, "select count(*) = 0 from inbox where taken_at is null").await?;
            let drained = ended.elapsed();
            let musts = || {
                let seen = seen.lock().expect("no panic holds it");
                due.iter().all(|due| !due.must || seen.contains_key(&due.told))
            };
            while !musts() && ended.elapsed() < TAIL {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok((posted, left, drained))
        })
        .await;
    stop.cancel();
    streams.shutdown().await;
    let (posted, left, drained) = measured?;
    report(&due, &posted, &seen, left, drained);
    count_up(stand, &due, &sent).await
}

/// Each at its own moment, whatever became of those before it: (that moment, the answer's).
async fn post_at_pace(url: &str, due: &[Due]) -> anyhow::Result<Vec<(Instant, Instant)>> {
    let http = client()?;
    let began = Instant::now() + Duration::from_millis(200);
    let mut posts = JoinSet::new();
    for (place, due) in due.iter().enumerate() {
        let at = began + Duration::from_secs_f64(place as f64 / PER_SECOND as f64);
        tokio::time::sleep_until(at.into()).await;
        let (http, url, hook) = (http.clone(), url.to_owned(), due.hook.clone());
        posts.spawn(async move {
            hook.post(&http, &url).await?;
            let answered = Instant::now();
            if place % DOUBLED == 0 {
                hook.post(&http, &url).await?;
            }
            anyhow::Ok((place, at, answered))
        });
    }
    let mut answers = vec![None; due.len()];
    while let Some(ended) = posts.join_next().await {
        let (place, at, answered) = ended??;
        answers[place] = Some((at, answered));
    }
    answers.into_iter().collect::<Option<_>>().context("a webhook was not posted")
}

/// Notes when each event came.
async fn listen(mut stream: reqwest::Response, seen: Seen) -> anyhow::Result<()> {
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().await? {
        let now = Instant::now();
        text.push_str(std::str::from_utf8(&chunk)?);
        while let Some(end) = text.find("\n\n") {
            let block: String = text.drain(..end + 2).collect();
            let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
            let event: Value = serde_json::from_str(data)?;
            let field = |path| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let name = format!("{} {}", field("/data/wamid"), field("/data/status"));
            seen.lock().expect("no panic holds it").entry(name).or_default().push(now);
        }
    }
    Ok(())
}

fn report(due: &[Due], posted: &[(Instant, Instant)], seen: &Seen, left: i64, drained: Duration) {
    let mut answers: Vec<Duration> = posted.iter().map(|(at, answered)| *answered - *at).collect();
    let spread = |of: &mut Vec<Duration>| {
        of.sort_unstable();
        let ms = |share: f64| of[((of.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
        format!("{:.1} / {:.1} / {:.1} ms", ms(0.5), ms(0.99), ms(1.0))
    };
    line(&format!("{PER_SECOND} webhooks/s for {SECONDS} s: 200"), &spread(&mut answers), "p50 / p99 (aim 50) / max", "");
    let seen = seen.lock().expect("no panic holds it");
    for (what, suffix, aim) in
        [("reply -> SSE", " received", "p50 / p99 (aim 100) / max"), ("delivered -> SSE", " delivered", "")]
    {
        let mut delays: Vec<Duration> = due
            .iter()
            .zip(posted)
            .filter_map(|(due, (at, _))| {
                let times = seen.get(&due.told).filter(|_| due.told.ends_with(suffix))?;
                Some(times.first()?.duration_since(*at))
            })
            .collect();
        line(what, &spread(&mut delays), aim, "");
    }
    line(
        "webhooks left when the last was answered",
        &left.to_string(),
        &format!("worked {:.0} ms later", drained.as_secs_f64() * 1_000.0),
        "",
    );
    let lost = due.iter().filter(|due| due.must && !seen.contains_key(&due.told)).count();
    let doubled = seen.values().filter(|times| times.len() > 1).count();
    line("events lost, doubled", &format!("{lost}, {doubled}"), &format!("{} told", seen.len()), "");
}

/// Nothing is lost and nothing is there twice.
async fn count_up(stand: &Stand, due: &[Due], sent: &[Sent]) -> anyhow::Result<()> {
    let count = async |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&stand.eye).await;
    let replies = due.len() - 3 * sent.len();
    for (what, found, expected) in [
        ("webhooks kept", count("select count(*) from inbox").await?, due.len()),
        ("webhooks put aside", count("select count(*) from quarantine").await?, 0),
        ("messages received", count("select count(*) from message where direction = 'in'").await?, replies),
        ("counted in their conversations", count("select coalesce(sum(unread), 0)::bigint from conversation").await?, replies),
        ("statuses kept", count("select count(*) from message_status").await?, 3 * sent.len()),
        ("messages that were read", count("select count(*) from message where status = 'read'").await?, sent.len()),
        ("messages charged", count("select count(*) from charge where state = 'final' and cost_micro > 0").await?, sent.len()),
        (
            "charged units in the ledger",
            count("select coalesce(sum(amount), 0)::bigint from ledger_posting where account = 'unbilled' and currency = 'MAD'")
                .await?,
            sent.len() * 1_000,
        ),
    ] {
        line(what, &found.to_string(), &format!("of {expected}"), if found == expected as i64 { "" } else { "WRONG" });
    }
    Ok(())
}

async fn until(stand: &Stand, done: &'static str) -> anyhow::Result<()> {
    let began = Instant::now();
    while !sqlx::query_scalar::<_, bool>(done).fetch_one(&stand.eye).await? && began.elapsed() < TAIL {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Every fourth is a reply, the others tell `sent`, `delivered` and `read` of one message after the other.
fn due(stand: &Stand, companies: &[Company], sent: &[Sent], count: usize) -> Vec<Due> {
    let now = stand.clock.now().timestamp();
    let mut due = Vec::with_capacity(count);
    for turn in 0..sent.len() + 2 * STATUS_LAG {
        if let Some((company, n)) = (turn < sent.len()).then(|| (&companies[turn % TENANTS], turn / TENANTS)) {
            let number = &company.lines[n % LINES_EACH].1;
            let person = if n % STRANGERS == 0 { PEOPLE_EACH + n } else { n % PEOPLE_EACH };
            let wamid = format!("wamid.reply{turn}");
            let told = format!("{wamid} received");
            due.push(Due { hook: Hook::new(&text(number, &wamid, person, now)), told, must: true });
        }
        for (lag, word) in [(0, "sent"), (STATUS_LAG, "delivered"), (2 * STATUS_LAG, "read")] {
            let Some(sent) = turn.checked_sub(lag).and_then(|place| sent.get(place)) else { continue };
            let at = now + (lag / STATUS_LAG) as i64;
            let told = format!("{} {word}", sent.wamid);
            due.push(Due { hook: Hook::new(&status(&sent.number, sent, word, at)), told, must: word == "read" });
        }
    }
    due
}

/// Companies that pay per message, each with lines, people, and a key to its events.
async fn companies(stand: &Stand) -> anyhow::Result<Vec<Company>> {
    let mut tx = stand.db.begin().await?;
    let mut companies = Vec::new();
    for place in 0..TENANTS {
        let (tenant, secret) = (TenantId(Uuid::now_v7()), format!("lgn_{}", Uuid::now_v7().simple()));
        sqlx::query(
            "with t as (insert into tenant (tenant_id, name, credit_limit_units) values ($1, 'Bench', 1000000000))
             insert into plan_price (tenant_id, valid_from, base_fee_units, price_per_message_units) values ($1, '2026-01-01', 2000000, 1000)",
        )
        .bind(tenant.0)
        .execute(&mut *tx)
        .await?;
        let key = Key {
            id: KeyId(Uuid::now_v7()),
            hint: "bench".to_owned(),
            role: Role::Recruiter,
            tenant: Some(tenant),
            created_at: stand.clock.now(),
            revoked_at: None,
        };
        keys::create(&mut *tx, &key, &keys::hash(&secret)).await?;
        let mut lines = Vec::new();
        for line in 0..LINES_EACH {
            let (id, number) = (Uuid::now_v7(), format!("98000{:04}", place * LINES_EACH + line));
            sqlx::query(
                "insert into line (line_id, tenant_id, kind, status, country, display_name, introduction, phone, phone_number_id, messaging_account, portfolio)
                 values ($1, $2, 'virtual', 'live', 'MA', 'Bench', 'off', '+2125' || (20000000 + $3), $4, 'bench', 'bench')",
            )
            .bind(id)
            .bind(tenant.0)
            .bind(i32::try_from(place * LINES_EACH + line)?)
            .bind(&number)
            .execute(&mut *tx)
            .await?;
            lines.push((id, number));
        }
        sqlx::query(
            "with new as (insert into contact (contact_id, tenant_id) select gen_random_uuid(), $1 from generate_series(1, $2) returning contact_id)
             insert into contact_alias (tenant_id, kind, value, contact_id)
             select $1, 'phone', '+2126' || (10000000 + row_number() over () - 1), contact_id from new",
        )
        .bind(tenant.0)
        .bind(i32::try_from(PEOPLE_EACH)?)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "insert into conversation (conversation_id, tenant_id, line_id, contact_id, introduced_at)
             select gen_random_uuid(), $1, line_id, contact_id, durable.now() from line join contact using (tenant_id) where tenant_id = $1",
        )
        .bind(tenant.0)
        .execute(&mut *tx)
        .await?;
        companies.push(Company { tenant, key: secret, lines });
    }
    for table in cards()? {
        rates::load(&mut tx, &table).await.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
    }
    tx.commit().await?;
    Ok(companies)
}

/// The rate cards of the demo.
fn cards() -> anyhow::Result<[Table; 3]> {
    let told = |wrong| anyhow::anyhow!("{wrong:?}");
    Ok([
        Table::Rates(read_rates(include_str!("../fixtures/rates/meta.csv")).map_err(told)?),
        Table::Markets(read_markets(include_str!("../fixtures/rates/markets.csv")).map_err(told)?),
        Table::Exchange(read_exchange_rates(include_str!("../fixtures/rates/exchange.csv")).map_err(told)?),
    ])
}

/// Messages of these companies, as they stand after the calls that sent them.
async fn sent(stand: &Stand, companies: &[Company], count: usize) -> anyhow::Result<Vec<Sent>> {
    let mut sent = Vec::new();
    for company in companies {
        for (line, number) in &company.lines {
            let rows: Vec<(Uuid, String, String)> = sqlx::query_as(
                "insert into message (message_id, tenant_id, line_id, contact_id, conversation_id, direction, type, category, status, attempts,
                    attempted_at, accepted_at, wamid)
                 select id, $1, $2, contact_id, conversation_id, 'out', 'template', 'marketing', 'accepted', 1, durable.now(), durable.now(),
                    'wamid.' || id
                 from (select gen_random_uuid() as id, n from generate_series(0, $3 - 1) n) new
                 join (select contact_id, conversation_id, row_number() over (order by contact_id) - 1 as place from conversation where line_id = $2) v
                   on v.place = new.n % $4
                 returning message_id, wamid, (select value from contact_alias a where a.contact_id = message.contact_id and kind = 'phone')",
            )
            .bind(company.tenant.0)
            .bind(line)
            .bind(i32::try_from(count / TENANTS / LINES_EACH)?)
            .bind(i32::try_from(PEOPLE_EACH)?)
            .fetch_all(&stand.db)
            .await?;
            let ours = |(id, wamid, to): (Uuid, String, String)| Sent { id: MessageId(id), number: number.clone(), wamid, to };
            sent.extend(rows.into_iter().map(ours));
        }
    }
    // All lines at once, as campaigns run.
    sent.sort_by_key(|sent| sent.id.0);
    Ok(sent)
}
