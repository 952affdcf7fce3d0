//! The one place that speaks HTTP to a provider: one call, one try, one honest account of how it ended.

use bytes::{Bytes, BytesMut};
use domain::Failure;
use reqwest::{
    Client, Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    multipart::Form,
};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    sync::Once,
    time::{Duration, Instant},
};
use tracing::{Instrument, debug, field, info_span};

/// Patience for TCP and TLS; shorter than [`ANSWER_TIMEOUT`], so that a dead host is known to have heard nothing.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Patience for a whole call, body included.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Patience for files up and down.
pub(crate) const FILE_TIMEOUT: Duration = Duration::from_secs(180);
/// Idle connections are dropped before servers and balancers usually drop theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// A shared HTTP/2 connection that has died is noticed between calls, not by all calls on it.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections kept per host where HTTP/2 cannot share one.
const IDLE_CONNECTIONS: usize = 512;
/// Largest JSON answer read, in bytes.
pub(crate) const JSON_LIMIT: usize = 8 * 1024 * 1024;
/// Largest file read, in bytes: the largest document that WhatsApp carries.
pub(crate) const FILE_LIMIT: usize = 100 * 1024 * 1024;
const USER_AGENT: &str = concat!("ligne/", env!("CARGO_PKG_VERSION"));

/// What repeating a call does, and so what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Changes nothing: a lost answer is transient.
    Read,
    /// Changes something, and the same again changes nothing more: a lost answer is transient.
    Repeatable,
    /// Must not be repeated blindly: a lost answer is unclear.
    Once,
}

impl Effect {
    /// The failure of a call that may have been carried out.
    pub(crate) fn in_doubt(self, why: impl Into<String>) -> Failure {
        match self {
            Effect::Read | Effect::Repeatable => Failure::transient(why),
            Effect::Once => Failure::unclear(why),
        }
    }
}

pub(crate) enum Body {
    None,
    /// Serialised already.
    Json(Bytes),
    Form(Vec<(&'static str, String)>),
    Bytes(Bytes),
    /// Built once: a call is tried once.
    Multipart(Form),
}

/// One call, as data.
pub(crate) struct Call {
    method: Method,
    /// Path with `{placeholders}`: what logs show instead of the path.
    template: &'static str,
    target: Target,
    query: Vec<(String, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Body,
    effect: Effect,
    authorized: bool,
    timeout: Duration,
    limit: usize,
}

enum Target {
    /// Values of the template's placeholders, in order.
    Path(Vec<String>),
    Url(String),
}

impl Call {
    fn new(method: Method, template: &'static str, ids: &[&str], effect: Effect) -> Self {
        Self {
            method,
            template,
            target: Target::Path(ids.iter().map(|id| (*id).to_owned()).collect()),
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::None,
            effect,
            authorized: true,
            timeout: ANSWER_TIMEOUT,
            limit: JSON_LIMIT,
        }
    }
    pub(crate) fn get(template: &'static str, ids: &[&str]) -> Self {
        Self::new(Method::GET, template, ids, Effect::Read)
    }
    /// A POST must not be repeated blindly, unless [`Call::repeatable`] says otherwise.
    pub(crate) fn post(template: &'static str, ids: &[&str]) -> Self {
        Self::new(Method::POST, template, ids, Effect::Once)
    }
    pub(crate) fn patch(template: &'static str, ids: &[&str]) -> Self {
        Self::new(Method::PATCH, template, ids, Effect::Repeatable)
    }
    pub(crate) fn delete(template: &'static str, ids: &[&str]) -> Self {
        Self::new(Method::DELETE, template, ids, Effect::Repeatable)
    }
    /// A file behind an address that the provider gave us. The key goes along only if `authorized`.
    pub(crate) fn download(template: &'static str, url: &str, authorized: bool) -> Self {
        let mut call = Self::new(Method::GET, template, &[], Effect::Read).file();
        call.target = Target::Url(url.to_owned());
        call.authorized = authorized;
        call
    }
    pub(crate) fn repeatable(mut self) -> Self {
        self.effect = Effect::Repeatable;
        self
    }
    pub(crate) fn query(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.query.push((name.into(), value.to_string()));
        self
    }
    pub(crate) fn query_if(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = Body::Json(body.to_string().into());
        self
    }
    pub(crate) fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
    /// Patience and size of a file.
    pub(crate) fn file(mut self) -> Self {
        self.timeout = FILE_TIMEOUT;
        self.limit = FILE_LIMIT;
        self
    }
    pub(crate) fn effect(&self) -> Effect {
        self.effect
    }
}

/// An answer of any status, read whole.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
    /// The body of a success; one that cannot be read leaves the call in doubt.
    pub(crate) fn decode<T: DeserializeOwned>(&self, effect: Effect) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|e| effect.in_doubt(format!("the answer could not be read: {} at byte {}", kind_of(&e), e.column())))
    }
    /// How long the provider asks us to wait: `retry-after-ms`, `retry-after` (seconds or a date), else `x-ratelimit-reset`
    /// (seconds to go, or an epoch when 10^9 or more). Dates are measured against the answer's own `date`.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let date = || http_date(self.header("date")?);
        let until = |then: i64| date().map(|now| Duration::from_secs(u64::try_from(then - now).unwrap_or(0)));
        if let Some(ms) = self.header("retry-after-ms").and_then(|ms| ms.trim().parse().ok()) {
            return Some(Duration::from_millis(ms));
        }
        if let Some(after) = self.header("retry-after") {
            return match after.trim().parse() {
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => http_date(after).and_then(until),
            };
        }
        const EPOCH_FROM: i64 = 1_000_000_000;
        let reset: i64 = self.header("x-ratelimit-reset")?.trim().parse().ok()?;
        if reset < EPOCH_FROM { u64::try_from(reset).ok().map(Duration::from_secs) } else { until(reset) }
    }
}

fn kind_of(error: &serde_json::Error) -> &'static str {
    // serde's own words quote the body, which may hold a secret.
    match error.classify() {
        serde_json::error::Category::Io => "broken off",
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Data => "not the expected shape",
        serde_json::error::Category::Eof => "cut short",
    }
}

/// Unix seconds of an HTTP date.
fn http_date(text: &str) -> Option<i64> {
    chrono::DateTime::parse_from_rfc2822(text.trim()).ok().map(|date| date.timestamp())
}

/// A connection pool to one provider. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Wire {
    http: Client,
    base: Url,
    provider: &'static str,
    trace: fn(&Reply) -> Option<String>,
    /// No call waits longer, whatever its own patience.
    patience: Duration,
}

impl Wire {
    /// `base` may have a path (`/v2`); it needs a host and `http` or `https`.
    /// `trace` finds the provider's own id of an exchange, which its support asks for.
    pub(crate) fn new(provider: &'static str, base: &str, trace: fn(&Reply) -> Option<String>) -> Result<Self, Failure> {
        static TLS: Once = Once::new();
        TLS.call_once(|| {
            // Refused only if the program has installed one already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let base = Url::parse(base).map_err(|e| Failure::rejected(format!("{provider}'s base URL: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(Failure::rejected(format!("{provider}'s base URL is neither http nor https")));
        }
        let mut http = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never());
        if base.scheme() == "http" && is_loopback(&base) {
            // A simulator on this machine: no proxy, and no need for the system's certificates, which may be missing.
            http = http.no_proxy().tls_certs_only([]);
        }
        let http = http.build().map_err(|e| Failure::rejected(format!("{provider}: no HTTP client: {}", chain(&e))))?;
        Ok(Self { http, base, provider, trace, patience: FILE_TIMEOUT })
    }

    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// One try. `Err` is the transport's; every status is an `Ok`.
    pub(crate) async fn send(&self, key: &SecretString, call: Call) -> Result<Reply, Failure> {
        let span = info_span!(
            "provider_call",
            provider = self.provider,
            method = %call.method,
            path = call.template,
            status = field::Empty,
            duration_ms = field::Empty,
            trace = field::Empty,
        );
        let begun = Instant::now();
        let answer = self.exchange(key, call).instrument(span.clone()).await;
        span.record("duration_ms", u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        span.in_scope(|| match &answer {
            Ok(reply) => {
                span.record("status", reply.status);
                if let Some(trace) = (self.trace)(reply) {
                    span.record("trace", trace);
                }
                debug!("{} answered {}", self.provider, reply.status);
            }
            Err(failure) => debug!("{} did not answer: {failure}", self.provider),
        });
        answer
    }

    async fn exchange(&self, key: &SecretString, call: Call) -> Result<Reply, Failure> {
        let url = self.url(&call)?;
        let effect = call.effect;
        let mut request = self.http.request(call.method, url).timeout(call.timeout.min(self.patience));
        if call.authorized {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()))
                .map_err(|_| Failure::unauthorized(format!("{}'s key has characters that no header may have", self.provider)))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        request = match call.body {
            Body::None => request,
            Body::Json(json) => request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(json),
            Body::Form(fields) => request.form(&fields),
            Body::Bytes(bytes) => request.body(bytes),
            Body::Multipart(form) => request.multipart(form),
        };
        let request = request.build().map_err(|e| Failure::rejected(format!("the request could not be built: {}", chain(&e))))?;
        let mut response = self.http.execute(request).await.map_err(|e| self.lost(e, effect))?;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.lost(e, effect))? {
            if body.len() + chunk.len() > call.limit {
                let why = format!("{}'s answer is larger than {} bytes", self.provider, call.limit);
                return Err(if effect == Effect::Once { Failure::unclear(why) } else { Failure::rejected(why) });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, headers, body: body.freeze() })
    }

    /// Refused or unreachable before anything was sent: it did not happen. Anything later may have.
    fn lost(&self, error: reqwest::Error, effect: Effect) -> Failure {
        if error.is_connect() {
            return Failure::transient(format!("{} could not be reached: {}", self.provider, chain(&error.without_url())));
        }
        let what = if error.is_timeout() { "did not answer in time" } else { "broke off" };
        effect.in_doubt(format!("{} {what}: {}", self.provider, chain(&error.without_url())))
    }

    fn url(&self, call: &Call) -> Result<Url, Failure> {
        let mut url = match &call.target {
            Target::Url(url) => self.checked(url)?,
            Target::Path(ids) => {
                let mut url = self.base.clone();
                let mut ids = ids.iter();
                let mut path = url.path_segments_mut().expect("checked in new: the base can be one");
                path.pop_if_empty();
                for segment in call.template.split('/').filter(|s| !s.is_empty()) {
                    let segment = if segment.starts_with('{') {
                        ids.next().expect("a call names as many ids as its template").as_str()
                    } else {
                        segment
                    };
                    if matches!(segment, "" | "." | "..") {
                        return Err(Failure::rejected(format!("an id is missing for {}", call.template)));
                    }
                    path.push(segment);
                }
                drop(path);
                url
            }
        };
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    /// An address from an answer may lead to HTTPS or back to the provider, nowhere else.
    fn checked(&self, url: &str) -> Result<Url, Failure> {
        let url = Url::parse(url).map_err(|e| Failure::rejected(format!("{} gave a bad address: {e}", self.provider)))?;
        if url.scheme() == "https" || url.origin() == self.base.origin() {
            Ok(url)
        } else {
            Err(Failure::rejected(format!("{} gave an address that is not safe to follow", self.provider)))
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        line = format!("{line}: {cause}");
        next = cause.source();
    }
    line
}
