//! `/healthz`, `/readyz` and `/metrics`: for those who keep the service running.

use crate::{
    App,
    problem::{Code, Problem},
};
use axum::{Json, extract::State};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use std::{sync::OnceLock, time::Duration};
use utoipa::ToSchema;

/// Time for the database to answer a probe.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Upper bounds of latency buckets, in seconds.
const BUCKETS_S: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// This process's metrics; the first call makes them the place where all of them are counted.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder =
                PrometheusBuilder::new().set_buckets(BUCKETS_S).unwrap_or_else(|_| PrometheusBuilder::new()).build_recorder();
            let handle = recorder.handle();
            if ::metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("Metrics are counted elsewhere: /metrics stays empty");
            }
            handle
        })
        .clone()
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Requests can be worked: the database answers, has the tables, and somewhere an engine is alive.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = Health), (status = 503, description = "unavailable")))]
pub(crate) async fn readyz(State(app): State<App>) -> Result<Json<Health>, Problem> {
    let unready = |why: &'static str| Problem::new(Code::UNAVAILABLE, why);
    if app.front.stop.is_cancelled() {
        return Err(unready("The service is stopping"));
    }
    let db = &app.front.db;
    let look =
        async { Ok::<_, sqlx::Error>(if store::schema::is_there(db).await? { Some(durable::alive(db).await?) } else { None }) };
    match tokio::time::timeout(PROBE_PATIENCE, look).await {
        Ok(Ok(Some(true))) => Ok(Json(Health { status: "ready" })),
        Ok(Ok(Some(false))) => Err(unready("No engine is alive: orders would wait")),
        Ok(Ok(None)) => Err(unready("The schema is not up to date")),
        Ok(Err(_)) | Err(_) => Err(unready("The database does not answer")),
    }
}

/// Prometheus's text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn scrape(State(app): State<App>) -> String {
    app.front.metrics.run_upkeep();
    app.front.metrics.render()
}
