//! A provider of one's own: answers what the test says and remembers what it was asked.

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use secrecy::SecretString;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

/// What the client asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// As it came, percent signs and all.
    pub(crate) raw_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the request's body is JSON")
    }
    /// `name=value` pairs, decoded, in order.
    pub(crate) fn query(&self) -> Vec<String> {
        let url = reqwest::Url::parse(&format!("http://x/?{}", self.raw_query)).expect("a query");
        url.query_pairs().map(|(name, value)| format!("{name}={value}")).collect()
    }
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

type Script = Arc<dyn Fn(&Asked) -> Response + Send + Sync>;

pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// Answers every request by the script.
    pub(crate) async fn start(script: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let state: (Script, Arc<Mutex<Vec<Asked>>>) = (Arc::new(script), asked.clone());
        let app = Router::new().fallback(take).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, asked }
    }

    /// The same JSON to every request.
    pub(crate) async fn always(status: u16, body: Value) -> Self {
        Self::start(move |_| answer(status, &body)).await
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panicked here").clone()
    }

    pub(crate) fn only(&self) -> Asked {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "one call, one request: {asked:?}");
        asked[0].clone()
    }
}

async fn take(State((script, asked)): State<(Script, Arc<Mutex<Vec<Asked>>>)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request = Asked {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        raw_query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: to_bytes(body, usize::MAX).await.expect("the request arrives whole"),
    };
    let answer = script(&request);
    asked.lock().expect("no test panicked here").push(request);
    answer
}

pub(crate) fn answer(status: u16, body: &Value) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("content-type", "application/json")], body.to_string()).into_response()
}

pub(crate) fn with_header(mut response: Response, name: &'static str, value: &'static str) -> Response {
    response.headers_mut().insert(name, value.parse().expect("a header value"));
    response
}

pub(crate) fn bytes(status: u16, body: impl Into<Body>) -> Response {
    Response::builder().status(status).body(body.into()).expect("a response")
}

/// A provider that does what it is asked and then behaves badly on the wire: reads a request, sends `reply`, and closes, or
/// keeps the line open in silence. Answers its address and how many requests it has read.
pub(crate) async fn rude(reply: &'static str, then_close: bool) -> (String, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let read = Arc::new(Mutex::new(0));
    let count = read.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 64 * 1024];
            if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                *count.lock().expect("no test panicked here") += 1;
                let _ = stream.write_all(reply.as_bytes()).await;
            }
            if !then_close {
                open.push(stream);
            }
        }
    });
    (url, read)
}

/// An address where nobody listens.
pub(crate) fn nobody() -> (String, TcpSocket) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    (format!("http://{}", socket.local_addr().expect("bound")), socket)
}

pub(crate) fn telnyx(url: &str) -> providers::Telnyx {
    providers::Telnyx::new(&format!("{url}/v2"), SecretString::from("KEY-telnyx"), "2301234567890123456", "profile-1")
        .expect("a client")
}

pub(crate) fn meta(url: &str) -> providers::Meta {
    let secret = |text: &str| SecretString::from(text.to_owned());
    providers::Meta::new(url, "v25.0", secret("TOKEN-meta"), "app-1", secret("app-secret"), "401", "biz-1").expect("a client")
}
