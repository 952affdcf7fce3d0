//! The HTTP API from the terminal: `tenant`, `key`, `line`, `run` and `clock`. The server decides everything.

use crate::{
    cli::{Clock, CreateLine, CreateTenant, Key, Line, Page, Run, Tenant},
    config,
    terminal::{Paint, at, length, sheet, table},
};
use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::{fmt, time::Duration};
use uuid::Uuid;

/// One call, its answer read to the end.
const CALL_PATIENCE: Duration = Duration::from_secs(30);
/// Moving the clock answers when all that became due is worked; a month's accounts are read from the providers.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// Whether it is ready, it must say at once.
const READY_PATIENCE: Duration = Duration::from_secs(2);
/// How often a run that is followed is asked for.
const FOLLOW_PERIOD: Duration = Duration::from_millis(250);

/// A connection to one installation with one key.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: SecretString,
}

/// A problem document, in one sentence.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, code, detail } = self;
        if code.is_empty() {
            write!(f, "the service answered {status}")
        } else {
            write!(f, "{detail} ({code}, {})", status.as_u16())
        }
    }
}

impl std::error::Error for Problem {}

impl Client {
    pub(crate) fn new(base: impl Into<String>, key: SecretString) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().build().context("the HTTP client does not start")?;
        Ok(Self { http, base: base.into().trim_end_matches('/').to_owned(), key })
    }

    /// `LIGNE_URL`, else `http://LIGNE_LISTEN`; `LIGNE_API_KEY`, else `LIGNE_ADMIN_KEY`.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        let base = config::environment("LIGNE_URL")
            .or_else(|| config::environment("LIGNE_LISTEN").map(|listen| format!("http://{listen}")))
            .unwrap_or_else(|| "http://127.0.0.1:8080".into());
        let key = config::environment("LIGNE_API_KEY")
            .or_else(|| config::environment("LIGNE_ADMIN_KEY"))
            .context("no API key: set LIGNE_API_KEY or LIGNE_ADMIN_KEY")?;
        Self::new(base, key.into())
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Whether the service is up and reaches its database.
    pub(crate) async fn is_ready(&self) -> bool {
        let asked = self.http.get(format!("{}/readyz", self.base)).timeout(READY_PATIENCE).send().await;
        asked.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None, None).await
    }

    /// The company's events as they happen: an answer that does not end.
    pub(crate) async fn events(&self) -> anyhow::Result<reqwest::Response> {
        let asked = self.http.get(format!("{}/v1/events", self.base)).bearer_auth(self.key.expose_secret()).send().await?;
        Ok(asked.error_for_status()?)
    }

    /// With `Idempotency-Key`: `key`, or a new one.
    pub(crate) async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> anyhow::Result<Value> {
        let key = key.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        self.call(Method::POST, path, Some(body), Some(&key)).await
    }

    /// Moves the sandbox's clock; answers when all that became due is worked.
    pub(crate) async fn advance(&self, by: Duration) -> anyhow::Result<Value> {
        self.post(CLOCK, &json!({ "advance_s": by.as_secs() }), None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None, Some(&Uuid::new_v4().to_string())).await
    }

    /// An answer that is not JSON.
    pub(crate) async fn get_bytes(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.send(Method::GET, path, None, None).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Value> {
        let answer = self.send(method, path, body, idempotency_key).await?;
        Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Vec<u8>> {
        let patience = if path == CLOCK || path.starts_with(BILLING) { LONG_PATIENCE } else { CALL_PATIENCE };
        let mut request =
            self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.key.expose_secret()).timeout(patience);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.map_err(|error| {
            let why = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
            anyhow::Error::new(error).context(format!("the service at {} {why}", self.base))
        })?;
        let status = answer.status();
        let answer = answer.bytes().await.with_context(|| format!("the answer of {} broke off", self.base))?;
        if status.is_success() {
            return Ok(answer.into());
        }
        let body: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let detail = if text("detail").is_empty() { text("title") } else { text("detail") };
        Err(Problem { status, code: text("code"), detail: detail.trim_end_matches('.').to_owned() }.into())
    }

    /// The run once it has ended; `look` sees every state on the way.
    pub(crate) async fn follow(&self, run: &str, mut look: impl FnMut(&Value)) -> anyhow::Result<Value> {
        loop {
            let state = self.get(&format!("/v1/runs/{run}")).await?;
            look(&state);
            if has_ended(&state) {
                return Ok(state);
            }
            tokio::time::sleep(FOLLOW_PERIOD).await;
        }
    }
}

/// Whether nothing more will happen to this run by itself.
pub(crate) fn has_ended(run: &Value) -> bool {
    matches!(run["status"].as_str(), Some("succeeded" | "undone" | "stuck" | "cancelled"))
}

/// Prints answers: as they came with `--json`, else for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    pub(crate) json: bool,
    pub(crate) paint: Paint,
}

impl Printer {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, paint: Paint::stdout() }
    }

    pub(crate) fn list(self, page: &Value, columns: &[&str]) {
        if self.json {
            return say!("{page}");
        }
        let rows = page["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        say!("{}", table(columns, rows, self.paint));
        if let Some(cursor) = page["next_cursor"].as_str() {
            say!("{}", self.paint.dim(format!("more: --cursor {cursor}")));
        }
    }

    pub(crate) fn one(self, resource: &Value) {
        if self.json { say!("{resource}") } else { say!("{}", sheet(resource, self.paint)) }
    }

    fn run(self, run: &Value) {
        if self.json {
            return say!("{run}");
        }
        let paint = self.paint;
        let text = |path| at(run, path).as_str().unwrap_or("-");
        say!("{}  {}  {}", paint.bold(text("id")), text("workflow"), paint.status(text("status")));
        if let Some(reason) = reason(run) {
            say!("waiting for {reason}");
        }
        say!("{}", table(&["name", "status", "attempts", "started_at", "ended_at", "error"], steps(run), paint));
        if !run["error"].is_null() {
            say!("{} {}", paint.red("error:"), sentence(&run["error"]));
        }
    }
}

pub(crate) fn steps(run: &Value) -> &[Value] {
    run["steps"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a step did something, as opposed to looking at the clock.
pub(crate) fn is_work(step: &Value) -> bool {
    step["name"].as_str().is_some_and(|name| name != "now" && !name.starts_with("now #"))
}

/// What `waiting_for` says, whether it is a text or an object with a reason.
pub(crate) fn reason(run: &Value) -> Option<String> {
    match &run["waiting_for"] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other["reason"].as_str().map_or_else(|| other.to_string(), str::to_owned)),
    }
}

/// An error of a run or a step, whether it is a text or a failure with words and a code.
pub(crate) fn sentence(error: &Value) -> String {
    match error {
        Value::String(text) => text.clone(),
        other => {
            let words = other["why"].as_str().or(other["detail"].as_str()).map_or_else(|| other.to_string(), str::to_owned);
            other["code"].as_str().map_or(words.clone(), |code| format!("{words} ({code})"))
        }
    }
}

fn with_page(path: &str, page: &Page) -> String {
    page.cursor.as_ref().map_or_else(|| path.to_owned(), |cursor| format!("{path}?cursor={cursor}"))
}

const TENANT_COLUMNS: &[&str] = &["id", "name", "status", "plan.base_fee", "plan.price_per_message", "credit_limit", "language"];

pub(crate) async fn tenant(verb: Tenant, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Tenant::List(page) => print.list(&api.get(&with_page("/v1/tenants", &page)).await?, TENANT_COLUMNS),
        Tenant::Show { id } => print.one(&api.get(&format!("/v1/tenants/{id}")).await?),
        Tenant::Create(create) => print.one(&api.post("/v1/tenants", &tenant_body(&create), None).await?),
    }
    Ok(())
}

fn tenant_body(create: &CreateTenant) -> Value {
    json!({
        "name": create.name,
        "legal": { "ice": create.ice, "if": create.fiscal_id, "rc": create.rc, "address": create.address },
        "plan": { "base_fee": create.base_fee, "price_per_message": create.price_per_message },
        "credit_limit": create.credit_limit,
        "language": create.language,
    })
}

const KEY_COLUMNS: &[&str] = &["id", "role", "tenant_id", "hint", "created_at", "revoked_at"];

pub(crate) async fn key(verb: Key, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Key::List { tenant, page } => print.list(&api.get(&with_page(&keys_of(tenant), &page)).await?, KEY_COLUMNS),
        Key::Create { role, tenant } => print.one(&api.post(&keys_of(tenant), &json!({ "role": role.name() }), None).await?),
        Key::Revoke { id } => print.one(&api.delete(&format!("/v1/keys/{id}")).await?),
    }
    Ok(())
}

fn keys_of(tenant: Option<Uuid>) -> String {
    tenant.map_or_else(|| "/v1/keys".to_owned(), |tenant| format!("/v1/tenants/{tenant}/keys"))
}

const LINE_COLUMNS: &[&str] = &["id", "tenant_id", "kind", "status", "phone", "phone_number_id", "quality"];

const RECEIPT_COLUMNS: &[&str] = &["seq", "record.kind", "hash", "record.detail"];

pub(crate) async fn line(verb: Line, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Line::List(page) => print.list(&api.get(&with_page("/v1/lines", &page)).await?, LINE_COLUMNS),
        Line::Show { id } => print.one(&api.get(&format!("/v1/lines/{id}")).await?),
        Line::Receipt { id } => print.list(&api.get(&format!("/v1/lines/{id}/receipt")).await?, RECEIPT_COLUMNS),
        Line::Create(create) => {
            let answer = api.post("/v1/lines", &line_body(&create)?, create.idempotency_key.as_deref()).await?;
            if create.wait {
                let run = answer["run"]["id"].as_str().context("the service's answer names no run")?.to_owned();
                return end_of(&api, &run, print).await;
            }
            print.one(&answer);
        }
        Line::Release { id } => print.one(&api.delete(&format!("/v1/lines/{id}")).await?),
    }
    Ok(())
}

fn line_body(create: &CreateLine) -> anyhow::Result<Value> {
    let profile: Value = serde_json::from_str(&create.profile).context("--profile is not JSON")?;
    let mut body = json!({
        "tenant_id": create.tenant,
        "country": create.country,
        "display_name": create.display_name,
        "profile": profile,
    });
    if let Some(url) = &create.callback_url {
        body["callback_url"] = json!(url);
    }
    Ok(body)
}

const RUN_COLUMNS: &[&str] = &["id", "workflow", "status", "waiting_for", "started_at"];

pub(crate) async fn run(verb: Run, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Run::List(list) => {
            let mut query: Vec<String> = list.page.cursor.iter().map(|cursor| format!("cursor={cursor}")).collect();
            query.extend(list.status.iter().map(|status| format!("status={status}")));
            query.extend(list.workflow.iter().map(|workflow| format!("workflow={workflow}")));
            let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
            print.list(&api.get(&format!("/v1/runs{query}")).await?, RUN_COLUMNS);
        }
        Run::Show { id, wait: true } => return end_of(&api, &id.to_string(), print).await,
        Run::Show { id, wait: false } => print.run(&api.get(&format!("/v1/runs/{id}")).await?),
        Run::Cancel { id } => print.one(&api.post(&format!("/v1/runs/{id}/cancel"), &json!({}), None).await?),
        Run::Retry { id } => print.one(&api.post(&format!("/v1/runs/{id}/retry"), &json!({}), None).await?),
        Run::Signal { id, topic, payload } => {
            let payload: Value = serde_json::from_str(&payload).context("the answer is not JSON")?;
            print.one(&api.post(&format!("/v1/runs/{id}/signal"), &json!({ "topic": topic, "payload": payload }), None).await?);
        }
    }
    Ok(())
}

/// Follow the run; anything but success is an error of the command.
pub(crate) async fn end_of(api: &Client, run: &str, print: Printer) -> anyhow::Result<()> {
    let mut seen = 0;
    let end = api
        .follow(run, |state| {
            let done: Vec<_> = steps(state).iter().filter(|step| !step["ended_at"].is_null()).collect();
            for step in done.iter().skip(seen).filter(|_| !print.json) {
                eprintln!(
                    "{}  {}",
                    print.paint.status(step["status"].as_str().unwrap_or("-")),
                    step["name"].as_str().unwrap_or("-")
                );
            }
            seen = seen.max(done.len());
        })
        .await?;
    print.run(&end);
    match end["status"].as_str() {
        Some("succeeded") => Ok(()),
        other => bail!("the run ended {}", other.unwrap_or("without a state")),
    }
}

const CLOCK: &str = "/v1/sandbox/clock";
const BILLING: &str = "/v1/billing/";

pub(crate) async fn clock(verb: Clock, print: Printer) -> anyhow::Result<()> {
    let api = Client::from_env()?;
    match verb {
        Clock::Show => print.one(&api.get(CLOCK).await?),
        Clock::Advance { by } => {
            print.one(&api.advance(by).await?);
            if !print.json {
                eprintln!("moved by {}", length(by));
            }
        }
    }
    Ok(())
}
