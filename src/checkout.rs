//! A sales checkout in small: it waits for signed callbacks and checks them as a stranger would.

use anyhow::Context as _;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

/// A callback whose timestamp is further off is refused (Standard Webhooks).
const TOLERANCE_S: u64 = 300;

/// A callback that was heard and is genuine.
#[derive(Debug, Clone)]
pub(crate) struct Callback {
    pub(crate) id: String,
    pub(crate) body: Value,
}

/// Listens on a loopback port until dropped.
pub(crate) struct Checkout {
    address: String,
    heard: Arc<Heard>,
    server: JoinHandle<()>,
}

struct Heard {
    secret: Vec<u8>,
    /// How far the service's clock is ahead of ours, when a sandbox has moved it.
    check_time: bool,
    genuine: Mutex<Vec<Callback>>,
    refused: Mutex<Vec<String>>,
    news: Notify,
}

impl Checkout {
    /// `secret` is `whsec_` and base64. With `check_time` a stale timestamp is refused.
    pub(crate) async fn open(secret: &str, check_time: bool) -> anyhow::Result<Self> {
        let secret = secret
            .strip_prefix("whsec_")
            .and_then(|key| STANDARD.decode(key).ok())
            .context("the callback secret is malformed")?;
        let heard =
            Arc::new(Heard { secret, check_time, genuine: Mutex::default(), refused: Mutex::default(), news: Notify::new() });
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the checkout finds no port")?;
        let address = format!("http://{}", listener.local_addr()?);
        let router = Router::new().route("/ligne", post(hear)).with_state(Arc::clone(&heard));
        let server = tokio::spawn(async move {
            // It ends with the task; a listener that breaks shows as callbacks that never come.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, heard, server })
    }

    /// Where callbacks are to be sent.
    pub(crate) fn url(&self) -> String {
        format!("{}/ligne", self.address)
    }

    /// The first genuine callback that `fits`, waiting for it at most `patience`.
    pub(crate) async fn expect(&self, fits: impl Fn(&Callback) -> bool, patience: Duration) -> Option<Callback> {
        tokio::time::timeout(patience, async {
            loop {
                let news = self.heard.news.notified();
                if let Some(callback) = self.heard.lock(&self.heard.genuine).iter().find(|callback| fits(callback)) {
                    return callback.clone();
                }
                news.await;
            }
        })
        .await
        .ok()
    }

    /// Why callbacks were refused, if any were.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.heard.lock(&self.heard.refused).clone()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Heard {
    fn lock<'a, T>(&self, of: &'a Mutex<T>) -> std::sync::MutexGuard<'a, T> {
        of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, headers: &HeaderMap, body: &[u8]) -> Result<Callback, &'static str> {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(timestamp), Some(signatures)) =
            (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"))
        else {
            return Err("a header is missing");
        };
        let sent: u64 = timestamp.parse().map_err(|_| "the timestamp is no number")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        if self.check_time && now.abs_diff(sent) > TOLERANCE_S {
            return Err("the timestamp is stale");
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).map_err(|_| "the secret is unusable")?;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        let genuine = signatures
            .split(' ')
            .filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok())
            .any(|signature| mac.clone().verify_slice(&signature).is_ok());
        if !genuine {
            return Err("the signature is wrong");
        }
        let body = serde_json::from_slice(body).map_err(|_| "the body is not JSON")?;
        Ok(Callback { id: id.to_owned(), body })
    }
}

async fn hear(State(heard): State<Arc<Heard>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    match heard.check(&headers, &body) {
        Ok(callback) => {
            let mut genuine = heard.lock(&heard.genuine);
            // A callback may come twice; its id tells.
            if !genuine.iter().any(|known| known.id == callback.id) {
                genuine.push(callback);
            }
            drop(genuine);
            heard.news.notify_waiters();
            StatusCode::NO_CONTENT
        }
        Err(why) => {
            heard.lock(&heard.refused).push(why.to_owned());
            StatusCode::BAD_REQUEST
        }
    }
}
