//! HTTP as the simulators see it: a call with its inputs, an answer, and a line that can be cut.

use axum::{
    body::{Body, Bytes},
    extract::connect_info::Connected,
    http::{HeaderMap, Method, StatusCode, header},
    response::Response,
    serve::{IncomingStream, Listener},
};
use serde_json::{Map, Value, json};
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::world::World;

/// One thing that a provider can be asked to do.
pub(crate) struct Operation {
    /// Stable name for faults, journal and drills, e.g. `telnyx.order`.
    pub(crate) name: &'static str,
    pub(crate) method: &'static str,
    /// Segments below the version; `{…}` takes any one segment.
    pub(crate) path: &'static str,
    pub(crate) act: fn(&mut World, &Call) -> Outcome,
}

impl Operation {
    /// The wildcards' values, if method and path are this operation's.
    pub(crate) fn matches(&self, method: &Method, segments: &[String]) -> Option<Vec<String>> {
        let mut args = Vec::new();
        let mut wanted = self.path.split('/');
        for segment in segments {
            match wanted.next()? {
                wild if wild.starts_with('{') => args.push(segment.clone()),
                fixed if fixed == segment => {}
                _ => return None,
            }
        }
        (wanted.next().is_none() && method.as_str() == self.method).then_some(args)
    }
}

/// A request, decoded: body fields (JSON or form) laid over the query's.
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) args: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) input: Value,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Where the caller reached us, `http://host:port`, for links in answers.
    pub(crate) base: String,
    /// The body was announced as JSON and is none.
    pub(crate) garbled: bool,
}

impl Call {
    pub(crate) fn new(uri: &axum::http::Uri, headers: HeaderMap, body: Bytes) -> Self {
        let query = pairs(uri.query().unwrap_or_default());
        let mut input: Map<String, Value> = query.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut garbled = false;
        if kind.starts_with("application/x-www-form-urlencoded") {
            input.extend(pairs(&String::from_utf8_lossy(&body)).into_iter().map(|(k, v)| (k, json!(v))));
        } else if !body.is_empty() && kind.starts_with("application/json") {
            match serde_json::from_slice(&body) {
                Ok(Value::Object(fields)) => input.extend(fields),
                _ => garbled = true,
            }
        }
        let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or("127.0.0.1");
        let base = format!("http://{host}");
        Self { operation: "", args: Vec::new(), query, input: Value::Object(input), headers, body, base, garbled }
    }

    pub(crate) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.input.get(field).and_then(Value::as_str)
    }

    /// A required text field.
    pub(crate) fn need(&self, field: &str, missing: fn(&str) -> Refusal) -> Result<&str, Refusal> {
        self.text(field).filter(|text| !text.is_empty()).ok_or_else(|| missing(field))
    }

    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `filter[name]`, or any deeper key written `a][b`.
    pub(crate) fn filter(&self, name: &str) -> Option<&str> {
        self.param(&format!("filter[{name}]")).filter(|value| !value.is_empty())
    }

    /// A list filter in any of its three spellings (contracts/telnyx.md 2.1).
    pub(crate) fn filters(&self, name: &str) -> Vec<&str> {
        let (plain, listed) = (format!("filter[{name}]"), format!("filter[{name}][]"));
        let wanted = self.query.iter().filter(|(key, _)| *key == plain || *key == listed);
        wanted.flat_map(|(_, value)| value.split(',')).filter(|value| !value.is_empty()).collect()
    }

    pub(crate) fn bearer(&self) -> Option<&str> {
        let header = self.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("OAuth "))
    }
}

/// A plain refusal in the provider's own words; each provider puts it into its envelope.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) code: u32,
    pub(crate) detail: String,
    /// Meta's `error_subcode`.
    pub(crate) subcode: Option<u32>,
    /// Telnyx's JSON pointer to the field at fault.
    pub(crate) pointer: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: u32, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), subcode: None, pointer: None }
    }
    pub(crate) fn subcode(mut self, subcode: u32) -> Self {
        self.subcode = Some(subcode);
        self
    }
    pub(crate) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }
}

pub(crate) type Outcome = Result<Answer, Refusal>;

/// What goes back over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
    pub(crate) body: Bytes,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self { status, kind: "application/json", body: body.to_string().into(), headers: Vec::new() }
    }
    pub(crate) fn bytes(kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: 200, kind, body: body.into(), headers: Vec::new() }
    }
    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// With `drip`, the body comes in pieces, one per pause.
    pub(crate) fn into_response(self, drip: Option<Duration>) -> Response {
        const PIECES: usize = 4;
        let mut response = Response::builder()
            .status(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            .header(header::CONTENT_TYPE, self.kind);
        for (name, value) in &self.headers {
            response = response.header(*name, value);
        }
        let body = match drip {
            None => Body::from(self.body),
            Some(pause) => {
                let size = self.body.len().div_ceil(PIECES).max(1);
                let pieces: Vec<Bytes> = self.body.chunks(size).map(Bytes::copy_from_slice).collect();
                Body::from_stream(futures_util::stream::unfold(pieces.into_iter(), move |mut left| async move {
                    tokio::time::sleep(pause).await;
                    left.next().map(|piece| (Ok::<_, io::Error>(piece), left))
                }))
            }
        };
        response.body(body).expect("a status, plain header names and a body always make a response")
    }
}

/// A listener whose connections can be cut in the middle of anything.
pub(crate) struct Cuttable(pub(crate) TcpListener);

/// Cuts its connection: the client sees it close without an answer.
#[derive(Clone)]
pub(crate) struct Scissors(CancellationToken);

impl Scissors {
    pub(crate) fn cut(&self) {
        self.0.cancel();
    }
}

pub(crate) struct Line {
    stream: TcpStream,
    cut: CancellationToken,
    cutting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Listener for Cuttable {
    type Io = Line;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Line, SocketAddr) {
        let (stream, from) = Listener::accept(&mut self.0).await;
        // Small answers must not wait for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let cut = CancellationToken::new();
        let cutting = Box::pin(cut.clone().cancelled_owned());
        (Line { stream, cut, cutting }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, Cuttable>> for Scissors {
    fn connect_info(stream: IncomingStream<'_, Cuttable>) -> Self {
        Self(stream.io().cut.clone())
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cutting.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Path segments, decoded.
pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|segment| !segment.is_empty()).map(|segment| decode(segment, false)).collect()
}

/// `a=b&c=d`, decoded.
pub(crate) fn pairs(encoded: &str) -> Vec<(String, String)> {
    let fields = encoded.split('&').filter(|field| !field.is_empty());
    fields.map(|field| field.split_once('=').unwrap_or((field, ""))).map(|(k, v)| (decode(k, true), decode(v, true))).collect()
}

fn decode(encoded: &str, plus_is_space: bool) -> String {
    let bytes = encoded.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| encoded.get(at + 1..at + 3)).flatten();
        match (bytes[at], escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (_, Some(byte)) => {
                plain.push(byte);
                at += 2;
            }
            (b'+', None) if plus_is_space => plain.push(b' '),
            (byte, None) => plain.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}
