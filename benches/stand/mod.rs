//! What the benches of messaging stand on: a database with live lines, and a sink that answers like Meta, only faster.
#![allow(dead_code, reason = "each bench uses its own part of it")]

use axum::{Router, body::Bytes, extract::State, response::IntoResponse as _, routing::post, serve::ListenerExt as _};
use chrono::Utc;
use cluster::{Cluster, Options};
use domain::{
    ContactId, LineId, MessageId, TemplateId, TenantId,
    message::{Delivery, Draft, Type},
};
use durable::{Clock, Engine};
use jobs::{Settings, Tools, run_lane::RunLane};
use providers::{Meta, Telnyx};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use store::messages::{self, NewMessage, content_context};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Messages queued by one statement.
const QUEUED_AT_ONCE: usize = 5_000;
/// Connections of the workers, as in the program.
const WORK_CONNECTIONS: u32 = 24;
pub(crate) const VAULT_KEY: &str = "bench:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
pub(crate) const APP_SECRET: &str = "bench-secret";
/// Between two looks at the sink or the database.
const LOOK: Duration = Duration::from_millis(20);

/// A database of its own, dropped at the end.
pub(crate) struct Stand {
    pub(crate) db: PgPool,
    pub(crate) clock: Clock,
    pub(crate) tenant: TenantId,
    template: TemplateId,
    /// For looks from outside: the workers may be using all of theirs.
    pub(crate) eye: PgPool,
    admin: PgPool,
    name: String,
    _cluster: Option<Cluster>,
}

impl Stand {
    /// On the server of `DATABASE_URL`, else on a private one with PostgreSQL's own durability.
    pub(crate) async fn open() -> anyhow::Result<Self> {
        // Refused only if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = match std::env::var("DATABASE_URL") {
            Ok(_) => None,
            Err(_) => {
                let options =
                    Options::ephemeral().set("min_wal_size", "2GB").set("max_wal_size", "8GB").set("shared_buffers", "512MB");
                Some(tokio::task::spawn_blocking(|| Cluster::start(options)).await?.map_err(anyhow::Error::msg)?)
            }
        };
        let url = cluster.as_ref().map_or_else(|| std::env::var("DATABASE_URL").unwrap_or_default(), Cluster::url);
        let admin = PgPoolOptions::new().max_connections(2).connect(&url).await?;
        let name = format!("bench_{}", Uuid::now_v7().simple());
        sqlx::raw_sql(AssertSqlSafe(format!("create database {name}"))).execute(&admin).await?;
        let options = admin.connect_options().as_ref().clone().database(&name);
        let db = PgPoolOptions::new().max_connections(WORK_CONNECTIONS).connect_with(options.clone()).await?;
        let eye = PgPoolOptions::new().max_connections(2).connect_with(options).await?;
        durable::setup(&db).await?;
        sqlx::migrate!("./migrations").run(&db).await?;
        prime_wal(&db).await?;
        let (tenant, template) = (TenantId(Uuid::now_v7()), TemplateId(Uuid::now_v7()));
        sqlx::query("insert into tenant (tenant_id, name, credit_limit_units) values ($1, 'Bench', 1000000000)")
            .bind(tenant.0)
            .execute(&db)
            .await?;
        sqlx::query("insert into portfolio (portfolio, messaging_limit, told_at) values ('bench', null, durable.now())")
            .execute(&db)
            .await?;
        sqlx::query(
            "insert into template (template_id, tenant_id, name, meta_name, messaging_account, language, category, components, parameter_format, status)
             values ($1, $2, 'invitation', 'bench_invitation', 'bench', 'fr', 'MARKETING', '[]', 'NAMED', 'APPROVED')",
        )
        .bind(template.0)
        .bind(tenant.0)
        .execute(&db)
        .await?;
        Ok(Self { clock: Clock::load(&db).await?, db, tenant, template, eye, admin, name, _cluster: cluster })
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.db.close().await;
        self.eye.close().await;
        sqlx::raw_sql(AssertSqlSafe(format!("drop database {} with (force)", self.name))).execute(&self.admin).await?;
        Ok(())
    }

    /// Everything but the schema, the tenant and the template is gone.
    pub(crate) async fn clear(&self) -> anyhow::Result<()> {
        sqlx::raw_sql("truncate message, conversation, contact, contact_alias, lane, event, inbox, quarantine, apalis.jobs cascade; delete from line; checkpoint")
            .execute(&self.db)
            .await?;
        Ok(())
    }

    /// Live lines that may send `HIGH` or standard, each in conversation with `contacts` people.
    pub(crate) async fn lines(&self, lines: usize, contacts: usize, high: bool) -> anyhow::Result<Vec<Line>> {
        let ids: Vec<Uuid> = (0..lines).map(|_| Uuid::now_v7()).collect();
        sqlx::query(
            "insert into line (line_id, tenant_id, kind, status, country, display_name, introduction, phone, phone_number_id, messaging_account,
                portfolio, throughput)
             select id, $2, 'virtual', 'live', 'MA', 'Bench', 'off', '+2125' || (10000000 + place), (990000000 + place)::text, 'bench', 'bench', $3
             from unnest($1::uuid[]) with ordinality as u(id, place)",
        )
        .bind(&ids)
        .bind(self.tenant.0)
        .bind(if high { "HIGH" } else { "STANDARD" })
        .execute(&self.db)
        .await?;
        sqlx::query(
            "with new as (insert into contact (contact_id, tenant_id) select gen_random_uuid(), $1 from generate_series(1, $2) returning contact_id)
             insert into contact_alias (tenant_id, kind, value, contact_id)
             select $1, 'phone', '+2126' || (10000000 + row_number() over ()), contact_id from new",
        )
        .bind(self.tenant.0)
        .bind(i32::try_from(contacts)?)
        .execute(&self.db)
        .await?;
        let talks: Vec<(Uuid, Uuid, Uuid)> = sqlx::query_as(
            "insert into conversation (conversation_id, tenant_id, line_id, contact_id, introduced_at)
             select gen_random_uuid(), $1, line_id, contact_id, durable.now() from line cross join contact returning line_id, contact_id, conversation_id",
        )
        .bind(self.tenant.0)
        .fetch_all(&self.db)
        .await?;
        let mut found: HashMap<Uuid, Vec<(ContactId, Uuid)>> = HashMap::new();
        for (line, contact, talk) in talks {
            found.entry(line).or_default().push((ContactId(contact), talk));
        }
        sqlx::raw_sql("analyze").execute(&self.db).await?;
        Ok(ids.into_iter().map(|id| Line { id: LineId(id), talks: found.remove(&id).unwrap_or_default() }).collect())
    }

    /// Queues so many messages on each line, mixed as campaigns of many tenants would be, and wakes the lanes.
    pub(crate) async fn queue(&self, vault: &vault::Vault, lines: &[Line], each: usize) -> anyhow::Result<()> {
        let draft = Draft {
            recipient: None,
            kind: Type::Template,
            content: json!({"name": "bench_invitation", "language": {"code": "fr"}, "components": [{"type": "body", "parameters": [
                {"type": "text", "parameter_name": "prenom", "text": "Yassine"},
                {"type": "text", "parameter_name": "poste", "text": "Conseiller clientèle à Casablanca"}]}]}),
            reply_to: None,
            delivery: Delivery::AtMostOnce,
        };
        let content = serde_json::to_vec(&draft)?;
        let due_at = self.clock.now();
        let all = (0..each).flat_map(|place| lines.iter().map(move |line| (line, line.talks[place % line.talks.len()])));
        let mut all = all.peekable();
        while all.peek().is_some() {
            let new: Vec<NewMessage> = all
                .by_ref()
                .take(QUEUED_AT_ONCE)
                .map(|(line, (contact_id, conversation_id))| {
                    let message_id = MessageId(Uuid::now_v7());
                    NewMessage {
                        message_id,
                        line_id: line.id,
                        contact_id,
                        conversation_id,
                        kind: "template".to_owned(),
                        content_sealed: vault.seal(&content_context(message_id), &content),
                        template_id: Some(self.template),
                        category: "marketing".to_owned(),
                        policy: "at_most_once".to_owned(),
                        priority: 0,
                        not_before: None,
                        due_at,
                        waiting_for: None,
                        context_wamid: None,
                        reserved_units: 0,
                        campaign: None,
                    }
                })
                .collect();
            messages::queue(&self.db, self.tenant, &new).await?;
        }
        let mut tx = self.db.begin().await?;
        jobs::run_lane::wake(&mut tx, &lines.iter().map(|line| line.id).collect::<Vec<_>>()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Messages by status.
    pub(crate) async fn statuses(&self) -> anyhow::Result<HashMap<String, i64>> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select status, count(*) from message group by status").fetch_all(&self.eye).await?;
        Ok(rows.into_iter().collect())
    }

    /// The number of every line at Meta.
    pub(crate) fn tools(&self, sink: &Sink) -> anyhow::Result<Arc<Tools>> {
        let telnyx = Telnyx::new("http://127.0.0.1:1/v2", "KEY".into(), "1", "1")?;
        let meta = Meta::new(&sink.url, "v25.0", "token".into(), "1", APP_SECRET.into(), "bench", "bench")?;
        Ok(Arc::new(Tools {
            db: self.db.clone(),
            clock: self.clock.clone(),
            vault: VAULT_KEY.parse()?,
            telnyx,
            meta,
            settings: Settings {
                callback_secret: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".into(),
                seller: domain::seller::Seller::demo(),
            },
            outcomes: jobs::run_lane::Recorder::default(),
        }))
    }

    /// Runs the lanes' workers while `work` lasts.
    pub(crate) async fn with_engine<R>(
        &self,
        tools: Arc<Tools>,
        work: impl AsyncFnOnce() -> anyhow::Result<R>,
    ) -> anyhow::Result<R> {
        let stop = CancellationToken::new();
        let engine = Engine::new(self.db.clone(), self.clock.clone(), tools).job::<RunLane>().job::<jobs::TakeWhatsapp>();
        let engine = tokio::spawn(engine.run(stop.clone()));
        let result = work().await;
        stop.cancel();
        engine.await??;
        result
    }
}

/// A line and whom it talks to.
pub(crate) struct Line {
    pub(crate) id: LineId,
    pub(crate) talks: Vec<(ContactId, Uuid)>,
}

/// What has come in.
#[derive(Default)]
pub(crate) struct Seen {
    /// How often each callback name came.
    pub(crate) names: HashMap<Box<[u8]>, u32>,
    pub(crate) arrivals: Vec<Instant>,
    /// Calls whose attempt was not committed when they came, of those that were looked at.
    pub(crate) uncommitted: usize,
    pub(crate) looked_at: usize,
}

/// A server on a thread of its own that accepts every message.
pub(crate) struct Sink {
    pub(crate) url: String,
    seen: Arc<Mutex<Seen>>,
    /// Looks every call's attempt up before it answers.
    audit: Arc<Mutex<Option<PgPool>>>,
}

#[derive(Clone)]
struct Desk {
    seen: Arc<Mutex<Seen>>,
    audit: Arc<Mutex<Option<PgPool>>>,
}

impl Sink {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let audit: Arc<Mutex<Option<PgPool>>> = Arc::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{}", listener.local_addr()?);
        let desk = Desk { seen: seen.clone(), audit: audit.clone() };
        std::thread::Builder::new().name("sink".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
                let routes = Router::new().route("/{version}/{number}/messages", post(accept)).with_state(desk);
                axum::serve(listener, routes).await.expect("it serves");
            });
        })?;
        Ok(Self { url, seen, audit })
    }

    /// From now on every call is looked up in the database before it is answered.
    pub(crate) fn audit(&self, db: Option<PgPool>) {
        *self.audit.lock().expect("no panic holds it") = db;
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().expect("no panic holds it").arrivals.len()
    }

    /// What came in since the last time.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().expect("no panic holds it"))
    }

    /// Returns once so many have come in, or nothing has for five seconds.
    pub(crate) async fn until(&self, count: usize) {
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let now = self.count();
            if now >= count || moved.elapsed() > Duration::from_secs(5) && now == last {
                return;
            }
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Seen {
    pub(crate) fn doubled(&self) -> usize {
        self.names.values().filter(|times| **times > 1).count()
    }

    /// The most in any second.
    pub(crate) fn busiest_second(&self) -> usize {
        let (mut first, mut most) = (0, 0);
        for (place, at) in self.arrivals.iter().enumerate() {
            while *at - self.arrivals[first] >= Duration::from_secs(1) {
                first += 1;
            }
            most = most.max(place - first + 1);
        }
        most
    }

    /// A second between two shares of all arrivals: without the start and the end.
    pub(crate) fn rate_between(&self, from: f64, until: f64) -> f64 {
        let place = |share: f64| ((self.arrivals.len() - 1) as f64 * share) as usize;
        let (first, last) = (place(from), place(until));
        (last - first) as f64 / (self.arrivals[last] - self.arrivals[first]).as_secs_f64()
    }
}

async fn accept(State(desk): State<Desk>, body: Bytes) -> axum::response::Response {
    let now = Instant::now();
    let name = callback(&body).unwrap_or_default();
    let wamid = {
        let mut seen = desk.seen.lock().expect("no panic holds it");
        seen.arrivals.push(now);
        *seen.names.entry(name.into()).or_default() += 1;
        format!("wamid.{}", Uuid::now_v7().simple())
    };
    let audit = desk.audit.lock().expect("no panic holds it").clone();
    if let Some(db) = audit {
        let committed = is_committed(&db, name).await;
        let mut seen = desk.seen.lock().expect("no panic holds it");
        seen.looked_at += 1;
        seen.uncommitted += usize::from(!committed);
    }
    let answer = format!(
        r#"{{"messaging_product":"whatsapp","contacts":[{{"input":"1","wa_id":"1"}}],"messages":[{{"id":"{wamid}","message_status":"accepted"}}]}}"#
    );
    ([(axum::http::header::CONTENT_TYPE, "application/json")], answer).into_response()
}

/// The attempt's name, without reading the rest.
fn callback(body: &[u8]) -> Option<&[u8]> {
    const FIELD: &[u8] = b"\"biz_opaque_callback_data\":\"";
    let begin = body.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let end = begin + body[begin..].iter().position(|byte| *byte == b'"')?;
    Some(&body[begin..end])
}

async fn is_committed(db: &PgPool, name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    let Some((id, number)) = name.split_once('.') else { return false };
    let (Ok(id), Ok(number)) = (id.parse::<Uuid>(), number.parse::<i16>()) else { return false };
    let row: sqlx::Result<Option<(String, i16)>> =
        sqlx::query_as("select status, attempts from message where message_id = $1").bind(id).fetch_optional(db).await;
    matches!(row, Ok(Some((status, attempts))) if status == "sending" && attempts == number)
}

/// Resident memory of this process, in MB.
pub(crate) fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

/// Fills the log once and recycles its files: a fresh cluster zeroes each new one as it goes and commits many times slower.
async fn prime_wal(db: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("create table prime (filler text); alter table prime alter filler set storage external").execute(db).await?;
    for _ in 0..12 {
        sqlx::raw_sql("insert into prime select repeat(md5(i::text), 250) from generate_series(1, 12000) i").execute(db).await?;
    }
    sqlx::raw_sql("drop table prime; checkpoint").execute(db).await?;
    Ok(())
}

pub(crate) fn line(what: &str, measured: &str, beside: &str, ratio: &str) {
    println!("{:<9} {what:<48} {measured:>22} {beside:>30} {ratio:>8}", Utc::now().format("%H:%M:%S"));
}
