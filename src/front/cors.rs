//! Which pages may call us from a browser: dashboards of the configured origins, with their key and never with a cookie.

use axum::http::{HeaderName, HeaderValue, Method, header};
use std::time::Duration;
use tower_http::cors::CorsLayer;

/// How long a browser remembers what it was allowed.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// `None`: only pages of our own.
pub(crate) fn layer(origins: &[HeaderValue]) -> Option<CorsLayer> {
    (!origins.is_empty()).then(|| {
        let named = HeaderName::from_static;
        CorsLayer::new()
            .allow_origin(origins.to_vec())
            .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
            .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, named("idempotency-key"), named("last-event-id")])
            .expose_headers([header::LOCATION, header::RETRY_AFTER, named("x-request-id")])
            .max_age(REMEMBERED)
    })
}
