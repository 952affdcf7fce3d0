//! Around every request: an id, a time limit, a net for panics, one line in the log and one in the metrics. No bodies, no secrets.

use crate::{
    App,
    ask::FILE_PATIENCE,
    problem::{Code, Problem},
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};
use tracing::{Instrument as _, info, info_span};
use uuid::Uuid;

const REQUEST_ID: &str = "x-request-id";
/// Longest request id taken over from the caller, in characters.
const REQUEST_ID_MAX_CHARS: usize = 64;
/// A sandbox's clock answers when all that became due is worked: a month takes a while.
const ADVANCE_PATIENCE: Duration = Duration::from_secs(900);

pub(crate) async fn around(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The route and not the path: a label per id would fill the metrics.
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = info_span!("request", http.id = %id, http.method = %method, http.route = %route);
    let patience = match route.as_str() {
        "/v1/sandbox/clock" => ADVANCE_PATIENCE,
        "/v1/media" => app.front.limits.patience + FILE_PATIENCE,
        _ => app.front.limits.patience,
    };
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match tokio::time::timeout(patience, work.instrument(span.clone())).await {
        Ok(Ok(response)) => response,
        // The panic hook has said where; the payload may hold what nobody should read.
        Ok(Err(_)) => Problem::from(Code::INTERNAL).into_response(),
        Err(_) => Problem::from(Code::TIMEOUT).into_response(),
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (status, spent) = (response.status().as_u16(), begun.elapsed());
    metrics::counter!("http_requests_total", "method" => label(&method), "route" => route.clone(), "status" => status.to_string()).increment(1);
    metrics::histogram!("http_request_seconds", "route" => route.clone()).record(spent);
    span.in_scope(|| info!(http.status = status, http.ms = spent.as_secs_f64() * 1_000.0, "{method} {route} {status}"));
    response
}

/// Any word may be a method: only known ones become labels.
fn label(method: &axum::http::Method) -> String {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if known.contains(&method.as_str()) { method.to_string() } else { "other".to_owned() }
}

fn request_id(headers: &HeaderMap) -> String {
    let told = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let fits = |id: &&str| {
        (1..=REQUEST_ID_MAX_CHARS).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    told.filter(fits).map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Front, Limits, Shared, events::News, intake::Intake};
    use axum::{Router, body::Body, routing::get};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt as _;

    /// Nothing here reaches a database.
    fn app() -> App {
        let db = sqlx::PgPool::connect_lazy("postgres://127.0.0.1:1/none").unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let front = Front {
            db: db.clone(),
            clock: durable::Clock::default(),
            vault: "k:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".parse().unwrap(),
            admin_key: None,
            telnyx_public_key: "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=".parse().unwrap(),
            meta_app_secrets: Vec::new(),
            meta_verify_token: "word".into(),
            sandbox: None,
            tools: None,
            metrics: crate::metrics(),
            messaging_account: String::new(),
            limits: Limits { patience: Duration::from_millis(20), ..Limits::default() },
            cors_origins: Vec::new(),
            stop: stop.clone(),
        };
        App(Arc::new(Shared { front, intake: Intake::start(db.clone()), news: News::start(db, 1, stop) }))
    }

    async fn code(path: &str) -> (u16, String) {
        let app = app();
        let routes = Router::new()
            .route("/panics", get(async || -> () { panic!("a secret in a panic") }))
            .route("/hangs", get(std::future::pending::<()>))
            .layer(axum::middleware::from_fn_with_state(app.clone(), around))
            .with_state(app);
        let answer = routes.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        assert!(answer.headers().contains_key(REQUEST_ID));
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(!text.contains("secret"));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        (status, document["code"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn panics_and_time_outs_are_problem_documents() {
        assert_eq!(code("/panics").await, (500, "internal".to_owned()));
        assert_eq!(code("/hangs").await, (503, "timeout".to_owned()));
    }
}
