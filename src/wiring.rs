//! Configuration -> pool, vault, clients, front, engine: the one file that knows everybody.

use crate::{cli, config::Config, logging};
use anyhow::Context as _;
use chrono_tz::Tz;
use domain::Failure;
use durable::{Clock, Engine};
use front::Front;
use futures_util::future::BoxFuture;
use jobs::{Settings, Tools};
use providers::{Meta, Telnyx};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Connections for work; the front has its own, so that neither starves the other.
const WORK_CONNECTIONS: u32 = 24;
/// Connections for the front, and for the verbs that need the database.
const FRONT_CONNECTIONS: u32 = 12;
/// How long a caller waits for one of them.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// Moving the simulators' clock.
const FORWARD_PATIENCE: Duration = Duration::from_secs(30);

/// The schema of everything above the engine.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// A pool that has reached its database.
pub(crate) async fn connect(url: &SecretString) -> anyhow::Result<PgPool> {
    pool(url, FRONT_CONNECTIONS).await
}

async fn pool(url: &SecretString, connections: u32) -> anyhow::Result<PgPool> {
    let options: PgConnectOptions = url.expose_secret().parse().context("DATABASE_URL is malformed")?;
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(CONNECTION_PATIENCE)
        .connect_with(options.application_name("ligne"))
        .await
        .context("the database cannot be reached")
}

/// Engine first: our tables ask its clock for their times. Any number of processes may do this at once.
pub(crate) async fn migrate(db: &PgPool) -> anyhow::Result<()> {
    durable::setup(db).await.context("the engine's schema cannot be brought up to date")?;
    MIGRATIONS.run(db).await.context("the schema cannot be brought up to date")?;
    store::events::follow_runs(db).await.context("runs cannot be followed")
}

/// `ligne serve`: the front, and unless told otherwise the workers beside it, until told to stop.
pub(crate) async fn serve(options: cli::Serve) -> anyhow::Result<()> {
    let config = Config::from_env()?;
    logging::start()?;
    let stop = until_told_to_stop()?;
    let db = connect(&config.database_url).await?;
    if !options.no_migrate {
        migrate(&db).await?;
    }
    let clock = Clock::load(&db).await.context("the installation's clock cannot be read")?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| format!("{} cannot be listened on", config.listen))?;
    info!(listen = %config.listen, "Listening on {}; webhooks are expected at {}/webhooks", config.listen, config.public_url);
    let door = front::serve(front::router(door(&config, db, clock.clone(), stop.clone())?), listener, stop.clone());
    let open = async { stopping(&stop, door.await.context("the front broke down")) };
    let work = async {
        if options.no_work {
            return Ok(());
        }
        stopping(&stop, work(&config, clock, stop.clone()).await)
    };
    let (open, work) = tokio::join!(open, work);
    info!("Stopped");
    open.and(work)
}

/// `ligne work`: workers and clock, until told to stop.
pub(crate) async fn work_alone() -> anyhow::Result<()> {
    let config = Config::from_env()?;
    logging::start()?;
    let stop = until_told_to_stop()?;
    let db = connect(&config.database_url).await?;
    let clock = Clock::load(&db).await.context("the installation's clock cannot be read")?;
    db.close().await;
    info!("Working");
    work(&config, clock, stop).await?;
    info!("Stopped");
    Ok(())
}

/// Whichever half ends, the other is told.
fn stopping<T>(stop: &CancellationToken, ended: T) -> T {
    stop.cancel();
    ended
}

async fn work(config: &Config, clock: Clock, stop: CancellationToken) -> anyhow::Result<()> {
    let db = pool(&config.database_url, WORK_CONNECTIONS).await?;
    let tools = Arc::new(tools(config, db.clone(), clock.clone())?);
    engine(db, clock, tools).run(stop).await.context("the workers broke down")
}

/// Everything that can happen by itself.
fn engine(db: PgPool, clock: Clock, tools: Arc<Tools>) -> Engine<Tools> {
    Engine::new(db, clock, tools)
        .workflow::<workflows::ProvisionLine>()
        .workflow::<workflows::ReleaseLine>()
        .workflow::<workflows::ApproveTemplate>()
        .workflow::<workflows::SpreadTemplate>()
        .workflow::<workflows::SubmitGlobals>()
        .workflow::<workflows::DeleteTemplate>()
        .workflow::<workflows::CloseMonth>()
        .workflow::<workflows::CloseTenant>()
        .job::<jobs::TakeWebhook>()
        .job::<jobs::TakeWhatsapp>()
        .job::<jobs::DeliverCallback>()
        .job::<jobs::SweepOrphans>()
        .job::<jobs::WatchInbox>()
        .job::<jobs::ForgetOld>()
        .job::<jobs::run_lane::RunLane>()
        .job::<jobs::UploadMedia>()
        .job::<jobs::FetchMedia>()
        .job::<jobs::WakeLanes>()
        .job::<jobs::ForgetMessages>()
        // second, minute, hour, day, month, weekday
        .patrol("watch_inbox", "0 * * * * *", Tz::UTC, |at| jobs::WatchInbox { at })
        .patrol("wake_lanes", "30 * * * * *", Tz::UTC, |at| jobs::WakeLanes { at })
        .every("forget_messages", "0 15 4 * * *", Tz::Africa__Casablanca, |at| jobs::ForgetMessages { at })
        .patrol("sweep_orphans", "0 17 * * * *", Tz::UTC, |at| jobs::SweepOrphans { at })
        .every("close_months", workflows::CloseMonths::CRON, workflows::CloseMonths::ZONE, |at| workflows::CloseMonths { at })
        .every("expire_charges", "0 10 4 * * *", Tz::Africa__Casablanca, |at| jobs::ExpireCharges { at })
        .every("forget_old", "0 30 3 * * *", Tz::Africa__Casablanca, |at| jobs::ForgetOld { at })
}

fn tools(config: &Config, db: PgPool, clock: Clock) -> anyhow::Result<Tools> {
    let (t, m) = (&config.telnyx, &config.meta);
    let telnyx = Telnyx::new(&t.api_url, t.api_key.clone(), &t.connection_id, &t.messaging_profile_id)
        .context("the client for Telnyx does not start")?;
    let meta = Meta::new(
        &m.graph_url,
        &m.graph_version,
        m.system_token.clone(),
        &m.app_id,
        m.app_secret.clone(),
        &m.waba_id,
        &m.business_id,
    )
    .context("the client for Meta does not start")?;
    let settings = Settings { callback_secret: config.callback_secret.clone(), seller: config.seller.clone() };
    Ok(Tools { db, clock, vault: config.vault.clone(), telnyx, meta, settings, outcomes: jobs::run_lane::Recorder::default() })
}

fn door(config: &Config, db: PgPool, clock: Clock, stop: CancellationToken) -> anyhow::Result<Front> {
    Ok(Front {
        tools: Some(Arc::new(tools(config, db.clone(), clock.clone())?)),
        db,
        clock,
        vault: config.vault.clone(),
        admin_key: config.admin_key.clone(),
        telnyx_public_key: config.telnyx.public_key,
        meta_app_secrets: vec![config.meta.app_secret.clone()],
        meta_verify_token: config.meta.verify_token.clone(),
        sandbox: if config.sandbox { Some(sandbox(&config.telnyx.api_url)?) } else { None },
        metrics: front::metrics(),
        messaging_account: config.meta.waba_id.clone(),
        limits: front::Limits::default(),
        cors_origins: config.cors_origins.clone(),
        stop,
    })
}

/// The simulators' world shares our time: its clock goes first, and what falls due there is a stop, or its webhooks would come late.
fn sandbox(telnyx_url: &str) -> anyhow::Result<front::Sandbox> {
    let control =
        reqwest::Url::parse(telnyx_url).and_then(|url| url.join("/_control/")).context("TELNYX_API_URL is malformed")?;
    let (clock, quiet) = (control.join("clock")?, control.join("settle")?);
    let http = reqwest::Client::builder().timeout(FORWARD_PATIENCE).build().context("the HTTP client does not start")?;
    let (mover, move_to) = (http.clone(), clock.clone());
    let forward = move |by: Duration| {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        let call = mover.post(move_to.clone()).json(&serde_json::json!({ "advance_us": by_us })).send();
        Box::pin(async move { outside(call).await.map(drop) }) as BoxFuture<'static, _>
    };
    let settle = move || {
        let (quiet, clock) = (http.post(quiet.clone()).send(), http.get(clock.clone()).send());
        Box::pin(async move {
            outside(quiet).await?;
            let Some(answer) = outside(clock).await? else { return Ok(None) };
            let told: serde_json::Value =
                answer.json().await.map_err(|_| Failure::transient("the simulators' clock cannot be read"))?;
            Ok(told["next_due_in_us"].as_u64().map(Duration::from_micros))
        }) as BoxFuture<'static, _>
    };
    Ok(front::Sandbox { forward: Arc::new(forward), settle: Arc::new(settle) })
}

/// The answer of the simulators' control; none from somebody else's simulator, which has no clock that would have to follow.
async fn outside(call: impl Future<Output = reqwest::Result<reqwest::Response>>) -> Result<Option<reqwest::Response>, Failure> {
    let answer = call.await.map_err(|_| Failure::transient("the simulators' clock does not answer"))?;
    match answer.status() {
        reqwest::StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => Ok(Some(answer)),
        status => Err(Failure::transient(format!("the simulators' clock answered {status}"))),
    }
}

/// Cancelled at the first SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) fn until_told_to_stop() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be waited for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be waited for")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        told.cancel();
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        std::process::exit(130);
    });
    Ok(stop)
}
