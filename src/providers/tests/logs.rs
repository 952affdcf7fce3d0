//! What the clients write to the log. Alone in its process: whether a call site is heard at all is decided once for every
//! thread, by the first that reaches it, and a test beside this one would decide it is not.

use axum::{Json, Router, http::StatusCode};
use providers::meta::{Recipient, body};
use secrecy::SecretString;
use serde_json::json;
use std::sync::{Arc, Mutex};

/// Everything that any crate logs, down to the finest level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_log_holds_a_token_a_code_a_pin_or_a_body() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the only test of this process");
    let error = json!({"error": {"code": 131009, "message": "482913 is bad, said the body", "fbtrace_id": "AbcTrace"}});
    let app = Router::new().fallback(async move || (StatusCode::BAD_REQUEST, Json(error)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let secret = |text: &str| SecretString::from(text.to_owned());
    let meta = providers::Meta::new(&url, "v25.0", secret("TOKEN-meta"), "app-1", secret("app-secret"), "401", "biz-1").unwrap();
    let meta = meta.with_proof();
    let message = body::message(Recipient::Phone("+212600000101"), "text", body::text("Bonjour", false), "attempt-1");
    let _ = meta.register("512", &secret("482913"), None).await;
    let _ = meta.verify_code("512", &secret("123830")).await;
    let _ = meta.send("512", &message).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for told in ["provider_call", "/{phone}/register", "POST", "status=400", "AbcTrace", "duration_ms="] {
        assert!(log.contains(told), "{told} in {log}");
    }
    for secret in ["TOKEN-meta", "482913", "123830", "Bonjour", "+212600000101", "said the body", "app-secret"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
