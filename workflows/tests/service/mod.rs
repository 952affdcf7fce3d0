//! Engine, tools and simulators in one process, on a database of their own; webhooks come in as the front takes them in.
#![allow(dead_code, reason = "every test program uses its own part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "an unwrap is an assertion here, and a test makes its own ids"
)]

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use domain::{LineId, Provider, TenantId};
use durable::{Clock, Engine, runs::RunView};
use jobs::{DeliverCallback, ForgetOld, Settings, SweepOrphans, TakeWebhook, Tools};
use providers::{Meta, Telnyx};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use simulators::{Books, CodeRequest, Config, Fault, FaultPlan, Scene, ScenePlan, Simulators};
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use store::{
    inbox,
    lines::{self, Line, NewLine},
    purchases::{self, Chain},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use workflows::{ProvisionLine, ReleaseLine};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const VAULT_KEY: &str = "test:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// Connections for the work of one test, and how long somebody may have to wait for one: a test is not the place to find that a
/// machine is busy.
const CONNECTIONS: u32 = 8;
const CONNECTION_PATIENCE: Duration = Duration::from_secs(300);
/// Virtual time between looks at a run in which things happen.
const TICK: Duration = Duration::from_secs(5);

pub(crate) struct Service {
    pub(crate) db: PgPool,
    pub(crate) sims: Simulators,
    pub(crate) tools: Arc<Tools>,
    pub(crate) tenant: TenantId,
    callbacks: Arc<Mutex<Vec<Value>>>,
    base: String,
    stop: CancellationToken,
    engine: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Door {
    tools: Arc<Tools>,
    callbacks: Arc<Mutex<Vec<Value>>>,
}

impl Service {
    pub(crate) async fn open(db: PgPool) -> Self {
        Self::open_with(db, Config::default()).await
    }

    pub(crate) async fn open_with(db: PgPool, config: Config) -> Self {
        // Of the test's own: sqlx lets all tests of a process share twenty, and some here take more than their share.
        let own =
            PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(CONNECTION_PATIENCE).test_before_acquire(false);
        let db = own.connect_lazy_with(db.connect_options().as_ref().clone());
        durable::setup(&db).await.unwrap();
        sqlx::migrate!("../migrations").run(&db).await.unwrap();
        let sims = Simulators::start(config).await.unwrap();
        let (telnyx, meta) = (&sims.config().telnyx, &sims.config().meta);
        let clock = Clock::load(&db).await.unwrap();
        let tools = Arc::new(Tools {
            db: db.clone(),
            clock: clock.clone(),
            vault: VAULT_KEY.parse().unwrap(),
            telnyx: Telnyx::new(
                &sims.telnyx_url(),
                telnyx.api_key.clone().into(),
                telnyx.connection_id.clone(),
                telnyx.messaging_profile_id.clone(),
            )
            .unwrap(),
            meta: Meta::new(
                &sims.meta_url(),
                "v25.0",
                meta.system_token.clone().into(),
                meta.app_id.clone(),
                meta.app_secret.clone().into(),
                meta.waba_id.clone(),
                meta.business_id.clone(),
            )
            .unwrap(),
            settings: Settings { callback_secret: SECRET.into(), seller: domain::seller::Seller::demo() },
            outcomes: jobs::run_lane::Recorder::default(),
        });
        let callbacks = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let door = Door { tools: tools.clone(), callbacks: callbacks.clone() };
        let routes = Router::new()
            .route("/webhooks/telnyx", post(telnyx_hook))
            .route("/webhooks/whatsapp", post(meta_hook))
            .route("/checkout", post(checkout))
            .with_state(door);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        sims.serve_hooks_to(&base);

        let stop = CancellationToken::new();
        let engine = Engine::new(db.clone(), clock, tools.clone())
            .workflow::<ProvisionLine>()
            .workflow::<ReleaseLine>()
            .workflow::<workflows::CloseMonth>()
            .workflow::<workflows::CloseTenant>()
            .workflow::<workflows::ApproveTemplate>()
            .workflow::<workflows::DeleteTemplate>()
            .workflow::<workflows::SpreadTemplate>()
            .workflow::<workflows::SubmitGlobals>()
            .job::<TakeWebhook>()
            .job::<jobs::TakeWhatsapp>()
            .job::<jobs::run_lane::RunLane>()
            .job::<jobs::UploadMedia>()
            .job::<jobs::FetchMedia>()
            .job::<jobs::WakeLanes>()
            .job::<jobs::ForgetMessages>()
            .job::<DeliverCallback>()
            .job::<SweepOrphans>()
            .job::<ForgetOld>();
        let stopped = stop.clone();
        let engine = tokio::spawn(async move { engine.run(stopped).await.unwrap() });
        let tenant = TenantId(Uuid::now_v7());
        sqlx::query("insert into tenant (tenant_id, name, credit_limit_units) values ($1, 'Atlas Emploi', 10000000)")
            .bind(tenant.0)
            .execute(&db)
            .await
            .unwrap();
        Self { db, sims, tools, tenant, callbacks, base, stop, engine: Some(engine) }
    }

    /// A line ordered as the front orders it: row and run in one transaction.
    pub(crate) async fn order_line(&self, country: &str) -> (LineId, Uuid) {
        self.order_line_with(country, |_| ()).await
    }

    /// Ordered after `plan` has planned what will happen to this run, by its order's reference at the providers.
    pub(crate) async fn order_line_with(&self, country: &str, plan: impl FnOnce(&str)) -> (LineId, Uuid) {
        let line = LineId(Uuid::now_v7());
        let mut tx = self.db.begin().await.unwrap();
        let new = NewLine {
            line_id: line,
            country: country.to_owned(),
            language: "fr".to_owned(),
            display_name: "Atlas Emploi".to_owned(),
            profile: json!({"about": "Recrutement à Casablanca", "vertical": "PROF_SERVICES"}),
            logo: Some((b"\x89PNG\r\n\x1a\n a small picture".to_vec(), "image/png".to_owned())),
            callback_url: Some(format!("{}/checkout", self.base)),
            introduction: "auto".to_owned(),
        };
        lines::create(&mut *tx, self.tenant, &new).await.unwrap();
        let run = durable::start(&mut tx, &ProvisionLine { line, tenant: self.tenant }).await.unwrap();
        plan(&format!("ligne-{run}"));
        tx.commit().await.unwrap();
        (line, run)
    }

    pub(crate) async fn release_line(&self, line: LineId) -> Uuid {
        let mut tx = self.db.begin().await.unwrap();
        let run = durable::start(&mut tx, &ReleaseLine { line, tenant: self.tenant }).await.unwrap();
        tx.commit().await.unwrap();
        run
    }

    pub(crate) fn scene(&self, scene: Scene, times: u32) {
        self.sims.scene(ScenePlan { scene, times, only: None });
    }

    pub(crate) fn fault(&self, operation: &str, fault: Fault, times: u32) {
        self.sims.fault(FaultPlan { operation: operation.to_owned(), fault, skip: 0, times, only: None });
    }

    /// Works everything that is due, on both sides, until neither has anything left.
    pub(crate) async fn settle(&self) {
        let mut seen = u64::MAX;
        loop {
            self.sims.settle().await;
            durable::settle(&self.db).await.unwrap();
            let calls = self.sims.books().calls.values().sum::<u64>();
            if calls == seen {
                return;
            }
            seen = calls;
        }
    }

    /// Moves everybody's clock; the world outside first, so that it is never behind.
    pub(crate) async fn skip(&self, by: Duration) {
        self.settle().await;
        self.sims.advance(by);
        self.settle().await;
        durable::advance(&self.db, &self.tools.clock, by).await.unwrap();
        self.settle().await;
    }

    pub(crate) async fn status(&self, run: Uuid) -> RunView {
        durable::runs::get(&self.db, run, None).await.unwrap().unwrap()
    }

    /// How the run ended: `succeeded`, or its status and why. Time moves on while it has not, at most `patience` of it.
    pub(crate) async fn end_of(&self, run: Uuid, patience: Duration) -> String {
        let ended = |view: &RunView| view.ended() || view.status == "stuck";
        let view = self.until(run, patience, ended).await;
        match view.error {
            Some(error) => format!("{}: {}", view.status, error.why),
            None => view.status,
        }
    }

    /// Moves time until the run waits with a reason that contains these words.
    pub(crate) async fn until_waiting_for(&self, run: Uuid, words: &str, patience: Duration) {
        self.until(run, patience, |view| view.waiting_for.as_deref().is_some_and(|reason| reason.contains(words))).await;
    }

    /// Time moves in small steps while things happen, in ever longer ones while nothing does, and never past the moment at
    /// which something of ours falls due: so both clocks agree whenever we act.
    async fn until(&self, run: Uuid, patience: Duration, done: impl Fn(&RunView) -> bool) -> RunView {
        let (mut left, mut tick, mut steps) = (patience, TICK, 0);
        loop {
            self.settle().await;
            let view = self.status(run).await;
            if done(&view) {
                // What it caused as it came to this is worked, too.
                self.settle().await;
                return view;
            }
            let (status, reason) = (&view.status, &view.waiting_for);
            assert!(!left.is_zero() && !view.ended(), "{status}, waiting for {reason:?}, {:?}; {:#?}", view.error, view.steps);
            tick = if view.steps.len() == steps { tick * 2 } else { TICK };
            steps = view.steps.len();
            let by = self.next_due().await.min(tick).min(left);
            left -= by;
            self.skip(by).await;
        }
    }

    /// How long until one of our runs or jobs falls due.
    async fn next_due(&self) -> Duration {
        let due: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from min(due) - durable.now())::float8 from (
                 select min(wake_at) as due from durable.run
                 union all select min(run_at) from apalis.jobs where status = 'Pending') next",
        )
        .fetch_one(&self.db)
        .await
        .unwrap();
        due.map_or(Duration::MAX, |seconds| Duration::from_secs_f64(seconds.max(0.0)) + Duration::from_millis(1))
    }

    pub(crate) async fn line(&self, line: LineId) -> Line {
        lines::get(&self.db, self.tenant, line).await.unwrap().unwrap()
    }

    pub(crate) fn books(&self) -> Books {
        self.sims.books()
    }

    /// Statuses that the checkout was told, in order.
    pub(crate) fn told(&self) -> Vec<String> {
        self.callbacks.lock().unwrap().iter().map(|body| body["data"]["status"].as_str().unwrap().to_owned()).collect()
    }

    /// What every test ends with: both sides' books say the same, and the receipts are whole.
    pub(crate) async fn balance(&self) {
        self.settle().await;
        let books = self.books();
        assert!(books.released_registered.is_empty(), "given back while registered: {:?}", books.released_registered);
        let mut held: Vec<String> = books.owned.iter().map(|number| number.phone.clone()).collect();
        let claimed = lines::list(&self.db, None, None, 100).await.unwrap().into_iter();
        let claimed = claimed.filter(|line| !matches!(line.status.as_str(), "failed" | "released"));
        let mut claimed: Vec<String> = claimed.filter_map(|line| line.phone).collect();
        held.sort();
        claimed.sort();
        assert_eq!(held, claimed, "numbers that we pay for, and those that lines have");
        let receipts: i64 = sqlx::query_scalar("select count(*) from receipt").fetch_one(&self.db).await.unwrap();
        match purchases::verify_chain(&self.db).await.unwrap() {
            Chain::Whole { links, .. } => assert_eq!(i64::try_from(links).unwrap(), receipts),
            Chain::Broken { seq } => panic!("the receipt chain is broken at {seq}"),
        }
        let open: i64 = sqlx::query_scalar("select count(*) from purchase where outcome in ('open', 'ordered')")
            .fetch_one(&self.db)
            .await
            .unwrap();
        assert_eq!(open, 0, "purchases nobody settled");
        for number in books.numbers.values() {
            assert!(number.register_calls.len() <= 8, "more than eight registrations");
            let asked = &number.code_requests;
            for (more, seconds) in [(1, 60), (3, 3_600), (5, 86_400)] {
                let spread = |asked: &[CodeRequest]| (asked[more].at - asked[0].at).num_seconds() >= seconds;
                assert!(asked.windows(more + 1).all(spread), "codes asked for too fast: {asked:?}");
            }
        }
        let listening: i64 =
            sqlx::query_scalar("select count(*) from code_request where closed_at is null").fetch_one(&self.db).await.unwrap();
        assert_eq!(listening, 0, "somebody is still listened to");
    }

    pub(crate) async fn close(mut self) {
        // Nothing is in hand: it may go at once.
        if let Some(engine) = self.engine.take() {
            engine.abort();
            let _ = engine.await;
        }
        self.db.close().await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn telnyx_hook(State(door): State<Door>, body: Bytes) -> StatusCode {
    let event = providers::telnyx_hook::parse(&body).unwrap();
    keep(&door.tools, Provider::Telnyx, event.id, &body).await
}

async fn meta_hook(State(door): State<Door>, body: Bytes) -> StatusCode {
    keep(&door.tools, Provider::Meta, hex::encode(Sha256::digest(&body)), &body).await
}

async fn checkout(State(door): State<Door>, body: Bytes) -> StatusCode {
    door.callbacks.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    StatusCode::NO_CONTENT
}

async fn keep(tools: &Tools, provider: Provider, event_id: String, body: &[u8]) -> StatusCode {
    let Ok(mut tx) = tools.db.begin().await else { return StatusCode::SERVICE_UNAVAILABLE };
    let body_sealed = tools.vault.seal(&inbox::context(provider, &event_id), body);
    let event = inbox::NewEvent { provider, event_id: event_id.clone(), kind: "test".to_owned(), body_sealed };
    if !inbox::keep(&mut tx, &[event]).await.unwrap().places.is_empty() {
        match provider {
            Provider::Telnyx => durable::enqueue(&mut tx, &TakeWebhook { provider, event_id }).await.unwrap(),
            Provider::Meta => durable::enqueue(&mut tx, &jobs::TakeWhatsapp {}).await.unwrap(),
        };
    }
    tx.commit().await.unwrap();
    StatusCode::OK
}
