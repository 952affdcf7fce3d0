//! Pages of the configured origins may call from a browser, others may not; without configuration none may.

use crate::service::Service;
use reqwest::{Method, header::HeaderMap};
use sqlx::PgPool;

const PAGE: &str = "https://dash.example";
const STRANGER: &str = "https://dash.example.evil.example";
const SOCKET: &str = "/socket.io/?EIO=4&transport=polling";

/// What a browser asks before it sends a key.
async fn preflight(service: &Service, path: &str, origin: &str, method: &str) -> HeaderMap {
    let ask = service.request(Method::OPTIONS, path, "").header("origin", origin).header("access-control-request-method", method);
    let asked = ask.header("access-control-request-headers", "authorization,content-type,idempotency-key,last-event-id");
    asked.send().await.unwrap().headers().clone()
}

async fn answered(service: &Service, path: &str, key: &str, origin: &str) -> HeaderMap {
    let answer = service.request(Method::GET, path, key).header("origin", origin).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.headers().clone()
}

fn allowed(headers: &HeaderMap) -> Option<&str> {
    headers.get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

#[sqlx::test(migrations = "../../migrations")]
async fn pages_of_the_configured_origins_may_listen_and_call(db: PgPool) {
    let closed = Service::open(db.clone()).await;
    let open = Service::open_to(db, &["https://other.example", PAGE]).await;
    let tenant = open.tenant("Atlas").await;
    let key = open.key(tenant, "recruiter").await;
    for (path, method) in
        [("/v1/events", "GET"), (SOCKET, "GET"), (SOCKET, "POST"), ("/v1/messages", "POST"), ("/v1/contacts/1", "PATCH")]
    {
        let told = preflight(&open, path, PAGE, method).await;
        assert_eq!(allowed(&told), Some(PAGE), "{path}");
        let list = |name: &str| told[name].to_str().unwrap().to_lowercase();
        assert!(list("access-control-allow-methods").contains(&method.to_lowercase()), "{path}");
        for header in ["authorization", "content-type", "idempotency-key", "last-event-id"] {
            assert!(list("access-control-allow-headers").contains(header), "{header}");
        }
        // A key is shown, never a cookie.
        assert!(!told.contains_key("access-control-allow-credentials"), "{path}");
        assert_eq!(allowed(&preflight(&open, path, STRANGER, method).await), None, "{path}");
        assert_eq!(allowed(&preflight(&closed, path, PAGE, method).await), None, "{path}");
    }
    for path in ["/v1/events", SOCKET, "/v1/conversations"] {
        let told = answered(&open, path, &key, PAGE).await;
        assert_eq!(allowed(&told), Some(PAGE), "{path}");
        // A cache must not give one origin's answer to another.
        assert!(told["vary"].to_str().unwrap().to_lowercase().contains("origin"), "{path}");
        assert_eq!(allowed(&answered(&open, path, &key, STRANGER).await), None, "{path}");
        assert_eq!(allowed(&answered(&closed, path, &key, PAGE).await), None, "{path}");
    }
}
