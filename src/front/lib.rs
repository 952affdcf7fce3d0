//! The only door: signed webhooks, triggers, events, console.

mod access_log;
mod ask;
mod billing;
mod callbacks;
mod caller;
mod clock;
mod console;
mod contacts;
mod cors;
mod dead_jobs;
mod events;
mod health;
mod hooks;
mod intake;
mod invoice_pdf;
mod keys;
mod lines;
mod media;
mod messages;
mod numbers;
mod once;
mod openapi;
mod page;
mod problem;
mod quarantine;
mod runs;
mod sockets;
mod stops;
mod templates;
mod tenants;
mod unread;

pub use health::metrics;

use axum::{Router, http::HeaderValue};
use domain::Failure;
use durable::Clock;
use futures_util::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use problem::{Code, Problem};
use providers::telnyx_hook::PublicKey;
use secrecy::SecretString;
use sqlx::PgPool;
use std::{fmt, ops::Deref, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};
use vault::Vault;

/// How long a graceful stop waits for requests in hand.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What the door needs. One connection of `db` is kept for LISTEN.
pub struct Front {
    pub db: PgPool,
    pub clock: Clock,
    pub vault: Vault,
    /// `LIGNE_ADMIN_KEY`
    pub admin_key: Option<SecretString>,
    /// `TELNYX_PUBLIC_KEY`
    pub telnyx_public_key: PublicKey,
    /// `META_APP_SECRET`; two while it is being changed.
    pub meta_app_secrets: Vec<SecretString>,
    /// `META_VERIFY_TOKEN`
    pub meta_verify_token: SecretString,
    /// `LIGNE_SANDBOX=1`: the clock may be moved, and this goes with it.
    pub sandbox: Option<Sandbox>,
    /// For what must be asked of the providers when it is asked of us: the reconciliation. `None`: it is not offered.
    pub tools: Option<Arc<jobs::Tools>>,
    /// What `/metrics` shows: [`metrics()`], once per process.
    pub metrics: PrometheusHandle,
    /// Messaging account that templates are submitted to (`META_WABA_ID`).
    pub messaging_account: String,
    pub limits: Limits,
    /// Origins whose pages may call the API from a browser; none: no page may (`LIGNE_CORS_ORIGINS`).
    pub cors_origins: Vec<HeaderValue>,
    /// Ends event streams and the background tasks; the token that [`serve`] is given.
    pub stop: CancellationToken,
}

/// The simulators' world, whose clock goes with a sandbox's.
#[derive(Clone)]
pub struct Sandbox {
    /// Moves its clock on, just before ours.
    pub forward: Arc<dyn Fn(Duration) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>,
    /// Waits until it is quiet; says how long until something falls due there.
    pub settle: Arc<dyn Fn() -> BoxFuture<'static, Result<Option<Duration>, Failure>> + Send + Sync>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sandbox")
    }
}

/// What a request may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a body to `/v1`.
    pub body_bytes: usize,
    /// Bytes of a webhook: Meta sends up to 3 MB.
    pub webhook_bytes: usize,
    /// Time for a body to arrive.
    pub body_patience: Duration,
    /// Time for a request to be answered; a stream has begun by then.
    pub patience: Duration,
    /// Event streams open at once.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 2 << 20,
            webhook_bytes: 4 << 20,
            body_patience: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            streams: 1_000,
        }
    }
}

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) front: Front,
    pub(crate) intake: intake::Intake,
    pub(crate) news: events::News,
}

impl Deref for App {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Every route. Starts the intake's batcher and the listener for news, so it needs a Tokio runtime.
pub fn router(front: Front) -> Router {
    let intake = intake::Intake::start(front.db.clone());
    let news = events::News::start(front.db.clone(), front.limits.streams, front.stop.clone());
    let cors = cors::layer(&front.cors_origins);
    let app = App(Arc::new(Shared { front, intake, news }));

    let (v1, v1_document) = v1().split_for_parts();
    let v1 = v1.route_layer(axum::middleware::from_fn_with_state(app.clone(), caller::admit));
    let (open, mut document) = open().split_for_parts();
    document.merge(v1_document);
    openapi::complete(&mut document);

    let routes = open
        .merge(v1)
        .merge(console::routes())
        .merge(openapi::routes(document))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::from(Code::METHOD_NOT_ALLOWED))
        .layer(axum::middleware::from_fn_with_state(app.clone(), access_log::around))
        .layer(axum::middleware::from_fn(unread::around))
        // Outermost: a long poll is not a slow request.
        .layer(sockets::layer(&app))
        .with_state(app);
    match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// What needs no API key.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::scrape))
        .routes(routes!(hooks::telnyx))
        .routes(routes!(hooks::whatsapp_handshake, hooks::whatsapp))
}

/// What `caller::GRANTS` guards.
fn v1() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(tenants::get, tenants::change))
        .routes(routes!(keys::create_of_tenant, keys::list_of_tenant))
        .routes(routes!(keys::revoke_of_tenant))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(lines::order, lines::list))
        .routes(routes!(lines::get, lines::release))
        .routes(routes!(lines::receipt))
        .routes(routes!(numbers::orphans))
        .routes(routes!(runs::list))
        .routes(routes!(runs::get))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::retry))
        .routes(routes!(runs::signal))
        .routes(routes!(quarantine::list))
        .routes(routes!(quarantine::replay))
        .routes(routes!(callbacks::list))
        .routes(routes!(callbacks::replay))
        .routes(routes!(dead_jobs::list))
        .routes(routes!(dead_jobs::retry))
        .routes(routes!(clock::tell, clock::advance))
        .routes(routes!(events::stream))
        .routes(routes!(templates::create, templates::list))
        .routes(routes!(templates::get, templates::edit, templates::delete))
        .routes(routes!(messages::send, messages::list))
        .routes(routes!(messages::batch))
        .routes(routes!(messages::get))
        .routes(routes!(messages::decide))
        .routes(routes!(media::upload))
        .routes(routes!(media::get, media::erase))
        .routes(routes!(media::content))
        .routes(routes!(stops::line))
        .routes(routes!(stops::account))
        .routes(routes!(contacts::conversations))
        .routes(routes!(contacts::change_conversation))
        .routes(routes!(contacts::messages))
        .routes(routes!(contacts::list))
        .routes(routes!(contacts::get, contacts::change, contacts::erase))
        .routes(routes!(contacts::export))
        .routes(routes!(billing::close))
        .routes(routes!(billing::list))
        .routes(routes!(billing::get))
        .routes(routes!(billing::credit))
        .routes(routes!(billing::pay))
        .routes(routes!(billing::margin))
        .routes(routes!(billing::reconciled))
        .routes(routes!(billing::rerated))
        .routes(routes!(billing::export))
}

/// Answers until `stop`, then finishes what is in hand.
pub async fn serve(router: Router, listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    tokio::select! {
        served = served => served,
        () = overdue => {
            tracing::warn!("Some requests did not end in time");
            Ok(())
        }
    }
}

/// The API's own description, as `/openapi.json` has it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = open().into_openapi();
    document.merge(v1().into_openapi());
    openapi::complete(&mut document);
    document
}
