//! `/console`: the operator's pages. What happens, why it waits, and the buttons that help.

mod html;
mod session;

use crate::{
    App,
    ask::{Path, Query, read_body},
    callbacks, dead_jobs, lines,
    messages::{self, What},
    numbers::OrphanView,
    page::Paging,
    problem::{Code, Problem},
    quarantine,
    runs::{self, Act, Filter, RunView, STATES},
};
use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Redirect, Response},
    routing::{get, post},
};
use domain::{LineId, MessageId, billing::Period, money::Units};
use html::{Html, Text, badge, html, maybe, maybe_time, table, time};
use serde::{Deserialize, de::DeserializeOwned};
use session::Session;
use std::fmt::Display;
use store::{lanes, lines::Line};
use uuid::Uuid;

/// Bytes of a form.
const FORM_MAX_BYTES: usize = 64 << 10;
/// A run that works is looked at again after this many seconds.
const REFRESH_S: u32 = 3;
/// The overview looks again after this many seconds.
const OVERVIEW_REFRESH_S: u32 = 30;
/// Characters of a receipt's hash; the rest shows under the pointer.
const HASH_SHOWN: usize = 16;
/// Parked messages on a line's page.
const PARKED_SHOWN: i64 = 50;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/console", get(overview))
        .route("/console/companies", get(companies))
        .route("/console/style.css", get(style))
        .route("/console/login", get(login).post(log_in))
        .route("/console/logout", post(log_out))
        .route("/console/runs", get(all_runs))
        .route("/console/runs/{id}", get(one_run))
        .route("/console/runs/{id}/cancel", post(cancel))
        .route("/console/runs/{id}/retry", post(retry))
        .route("/console/runs/{id}/signal", post(signal))
        .route("/console/lines", get(all_lines))
        .route("/console/lines/{id}", get(one_line))
        .route("/console/lines/{id}/resume", post(resume_line))
        .route("/console/lines/{id}/resume-account", post(resume_account))
        .route("/console/messages/{id}/again", post(send_again))
        .route("/console/messages/{id}/give-up", post(give_up))
        .route("/console/quarantine", get(set_aside))
        .route("/console/quarantine/{id}/replay", post(replay_event))
        .route("/console/callbacks", get(all_callbacks))
        .route("/console/callbacks/{id}/replay", post(replay_callback))
        .route("/console/jobs", get(all_dead_jobs))
        .route("/console/jobs/{id}/retry", post(retry_job))
        .route("/console/orphans", get(orphans))
        .route_layer(axum::middleware::map_response(guard))
}

/// Nothing of these pages runs scripts, is framed, kept or sent elsewhere.
async fn guard(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What went wrong, as a page.
pub(crate) struct Trouble(Problem);

impl<T: Into<Problem>> From<T> for Trouble {
    fn from(problem: T) -> Self {
        Self(problem.into())
    }
}

impl axum::response::IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let Problem { code: Code { status, .. }, detail, .. } = &self.0;
        let status = *status;
        if status == Code::NO_KEY.status {
            return Redirect::to("/console/login").into_response();
        }
        let body = html!("<h1>{}</h1><p class=lead>{}</p><p><a href=/console>Back</a>", status, Text(detail));
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, page("Trouble", None, "", &body)).into_response()
    }
}

type Answer = Result<Response, Trouble>;

impl FromRequestParts<App> for Session {
    type Rejection = Trouble;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Trouble> {
        session::find(app, &parts.headers).await?.ok_or_else(|| Code::NO_KEY.into())
    }
}

/// A form that a page of this session has sent.
struct Form<T>(T);

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
}

impl<T: DeserializeOwned> FromRequest<App> for Form<T> {
    type Rejection = Trouble;
    async fn from_request(request: Request, app: &App) -> Result<Self, Trouble> {
        let session = session::find(app, request.headers()).await?.ok_or(Code::NO_KEY)?;
        let body = read_body(request, FORM_MAX_BYTES, app.front.limits.body_patience).await?;
        let Token { token } = fields(&body)?;
        if !session.made(&token) {
            return Err(Code::ROLE_NOT_ALLOWED.into());
        }
        Ok(Self(fields(&body)?))
    }
}

fn fields<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    let query = std::str::from_utf8(body).ok().and_then(|text| format!("/?{text}").parse().ok());
    let query = query.as_ref().and_then(|uri| axum::extract::Query::try_from_uri(uri).ok());
    query.map(|query| query.0).ok_or_else(|| Code::INVALID_BODY.into())
}

async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")];
    (headers, include_str!("console/style.css")).into_response()
}

async fn login() -> Response {
    login_page("")
}

fn login_page(trouble: &str) -> Response {
    let trouble = if trouble.is_empty() { Html::default() } else { html!("<p class=\"note bad\">{}</p>", Text(trouble)) };
    let body = html!(
        "<div class=login><h1>Ligne</h1><p class=lead>The operator's console</p>{trouble}<form method=post action=/console/login>\
         <input type=password name=key placeholder=\"Admin key, lgn_…\" aria-label=\"Admin key\" autocomplete=current-password required autofocus>\
         <button class=primary>Log in</button></form></div>"
    );
    page("Log in", None, "", &body)
}

#[derive(Deserialize)]
struct Login {
    key: String,
}

async fn log_in(State(app): State<App>, headers: HeaderMap, request: Request) -> Answer {
    let body = read_body(request, FORM_MAX_BYTES, app.front.limits.body_patience).await?;
    let Login { key } = fields(&body)?;
    match session::open(&app, &headers, key.trim()).await? {
        Some(cookie) => Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/console")).into_response()),
        None => Ok((StatusCode::UNAUTHORIZED, login_page("This key does not open the console.")).into_response()),
    }
}

async fn log_out(Form(Token { .. }): Form<Token>) -> Response {
    ([(header::SET_COOKIE, session::close())], Redirect::to("/console/login")).into_response()
}

/// What wants a person, and where.
async fn overview(State(app): State<App>, session: Session) -> Answer {
    let db = &app.front.db;
    let (stuck, asked) = durable::runs::stalled(db, &["look_again", "name_reviewed"]).await?;
    let dead = durable::dead::count(db).await?;
    let troubles = store::troubles::now(db).await?;
    let told = [
        (stuck, "stuck runs: an undo was refused", "/console/runs?status=stuck", "bad"),
        (troubles.accounts, "stopped messaging accounts: none of their lines sends", "/console/lines", "bad"),
        (troubles.lanes, "stopped lines", "/console/lines", "bad"),
        (troubles.lines, "paused or restricted lines", "/console/lines", "bad"),
        (troubles.parked, "parked messages: nobody knows whether they were sent", "/console/lines", "bad"),
        (dead, "jobs that were given up", "/console/jobs", "bad"),
        (asked, "runs that wait for a review, a paper or a name", "/console/runs?status=waiting", "warn"),
        (troubles.orphans, "numbers that are paid for and no line claims", "/console/orphans", "warn"),
        (troubles.quarantined, "webhooks without an owner", "/console/quarantine", "warn"),
        (troubles.unheard, "callbacks that were given up", "/console/callbacks", "warn"),
        (troubles.short_of_credit, "companies with 80 % of the month's credit used", "/console/companies", "warn"),
        (troubles.suspended, "suspended companies", "/console/companies", "quiet"),
        (troubles.templates, "templates that Meta has paused or disabled", "/console/companies", "quiet"),
        (troubles.held, "messages that Meta holds to assess their template", "/console/lines", "quiet"),
    ];
    let rows: Vec<_> = told
        .iter()
        .filter(|(count, ..)| *count > 0)
        .map(|(count, what, path, class)| {
            html!("<td><span class=\"badge {class}\">{count}</span><td><a href=\"{path}\">{what}</a>")
        })
        .collect();
    let list = table(&["how many", "what"], &rows, "Nothing wants you. Sleep well.");
    let body = html!("<h1>Now</h1><p class=lead>What wants a person, the most urgent first.</p>{list}");
    let mut answer = page("Now", Some(&session), "/console", &body);
    answer.headers_mut().insert(header::REFRESH, HeaderValue::from(OVERVIEW_REFRESH_S));
    Ok(answer)
}

async fn companies(State(app): State<App>, session: Session, Query(paging): Query<Paging>) -> Answer {
    let mut db = app.front.db.acquire().await?;
    let rows = store::tenants::list(&mut db, None, paging.before()?, paging.ask()).await?;
    let found = paging.page(rows, |tenant| tenant.id.0);
    let mut rows = Vec::new();
    for tenant in &found.data {
        let month = Period::of(app.front.clock.now(), store::charges::zone(tenant));
        let used = store::credit::usage(&mut *db, tenant.id, month).await?;
        let spent = used.charged + used.reserved;
        let full = spent.saturating_mul(100).checked_div(tenant.credit_limit_units).unwrap_or(100);
        let class = if full >= 100 {
            "bad"
        } else if full >= 80 {
            "warn"
        } else {
            "quiet"
        };
        rows.push(html!(
            "<td>{}<br><span class=id>{}</span><td>{}<td>{}<td>{}<td>{}<td>{}<td><span class=\"badge {class}\">{full} %</span><td>{}",
            Text(&tenant.name),
            tenant.id,
            badge(&tenant.status),
            Text(&tenant.billing_mode),
            Units(used.charged),
            Units(used.reserved),
            Units(tenant.credit_limit_units),
            time(tenant.created_at)
        ));
    }
    let columns = ["company", "status", "billing", "charged", "reserved", "limit", "used", "since"];
    let body = html!(
        "<h1>Companies</h1><p class=lead>What each has used of this month's credit, net MAD.</p>{}{}",
        table(&columns, &rows, "No company has come yet."),
        next("/console/companies", found.next_cursor.as_deref(), "")
    );
    Ok(page("Companies", Some(&session), "/console/companies", &body))
}

async fn all_runs(
    State(app): State<App>,
    session: Session,
    Query(paging): Query<Paging>,
    Query(filter): Query<Filter>,
) -> Answer {
    let chosen = filter.status.clone();
    let more = filter.workflow.as_ref().map(|workflow| format!("&workflow={}", encoded(workflow))).unwrap_or_default();
    let found = runs::page(&app, &session.caller, &paging, filter).await?;
    let mut body = html!("<h1>Runs</h1><p class=lead>Every execution of a workflow, the youngest first.</p><div class=filters>");
    body.add(format_args!("<a href=/console/runs{}>all</a>", if chosen.is_none() { " aria-current=true" } else { "" }));
    for state in STATES {
        let current = if chosen.as_deref() == Some(state) { " aria-current=true" } else { "" };
        body.add(format_args!("<a href=\"/console/runs?status={state}{more}\"{current}>{state}</a>"));
    }
    body.add(format_args!("</div>"));
    let tenants: Vec<_> = found.data.iter().filter_map(|run| run.tenant_id).collect();
    let names = store::tenants::names(&app.front.db, &tenants).await?;
    let rows: Vec<_> = found
        .data
        .iter()
        .map(|run| {
            let RunView { id, workflow, status, waiting_for, error, started_at, ended_at, .. } = run;
            let company = names.iter().find(|(tenant, _)| Some(*tenant) == run.tenant_id).map(|(_, name)| name.as_str());
            let why = waiting_for.as_deref().or(error.as_ref().map(|error| error.why.as_str()));
            html!(
                "<td><a class=id href=/console/runs/{id}>{}</a><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                short(*id),
                Text(workflow),
                maybe(company),
                badge(status),
                maybe(why),
                time(*started_at),
                maybe_time(*ended_at)
            )
        })
        .collect();
    body.add(format_args!(
        "{}",
        table(&["run", "workflow", "company", "status", "why", "started", "ended"], &rows, "No runs here.")
    ));
    let status = chosen.map(|status| format!("&status={}", encoded(&status))).unwrap_or_default();
    body.add(format_args!("{}", next("/console/runs", found.next_cursor.as_deref(), &format!("{status}{more}"))));
    Ok(page("Runs", Some(&session), "/console/runs", &body))
}

async fn one_run(State(app): State<App>, session: Session, Path(id): Path<Uuid>) -> Answer {
    let run = runs::one(&app, &session.caller, id).await?;
    let waits = durable::runs::waits_for(&app.front.db, id).await?;
    let mut body = html!("<h1>{} {}</h1><p class=lead><code>{id}</code></p>", Text(&run.workflow), badge(&run.status));
    if let Some(reason) = &run.waiting_for {
        body.add(format_args!("<p class=\"note warn\">Waiting: {}</p>", Text(reason)));
    }
    if let Some(error) = &run.error {
        let code = error.code.as_ref().map(|code| html!(" <code>{}</code>", Text(code))).unwrap_or_default();
        body.add(format_args!("<p class=\"note bad\">{}{code}</p>", Text(&error.why)));
    }
    let mut acts = Html::default();
    if run.ended_at.is_none() {
        if matches!(run.status.as_str(), "stuck" | "waiting" | "undoing") {
            acts.add(format_args!("{}", button(&session, &format!("/console/runs/{id}/retry"), "Try again now", "primary")));
        }
        if !matches!(run.status.as_str(), "undoing" | "stuck") {
            acts.add(format_args!("{}", button(&session, &format!("/console/runs/{id}/cancel"), "Cancel and undo", "danger")));
        }
        if let Some((topic, words, example)) = waits.as_ref().and_then(|(topic, _)| answer_to(topic)) {
            acts.add(format_args!(
                "<form class=act method=post action=/console/runs/{id}/signal>{}<input type=hidden name=topic value=\"{topic}\">",
                hidden(&session),
            ));
            if let Some(example) = example {
                let example = Text(example);
                acts.add(format_args!("<input class=answer name=payload value=\"{example}\" aria-label=\"Answer as JSON\">"));
            } else {
                acts.add(format_args!("<input type=hidden name=payload value=\"{{}}\">"));
            }
            acts.add(format_args!("<button>{words}</button></form>"));
        }
    }
    body.add(format_args!("<div class=acts>{acts}</div>"));
    body.add(format_args!("<dl><dt>Started<dd>{}<dt>Ended<dd>{}", time(run.started_at), maybe_time(run.ended_at)));
    if let Some(tenant) = run.tenant_id {
        let names = store::tenants::names(&app.front.db, &[tenant]).await?;
        let name = names.first().map(|(_, name)| name.as_str());
        body.add(format_args!("<dt>Company<dd>{} <span class=id>{tenant}</span>", maybe(name)));
    }
    let input = durable::runs::get(&app.front.db, id, None).await?.map(|run| run.input).unwrap_or_default();
    if let Some(line) = input["line"].as_str().and_then(|line| line.parse::<Uuid>().ok()) {
        body.add(format_args!("<dt>Line<dd><a class=id href=/console/lines/{line}>{line}</a>"));
    }
    body.add(format_args!("</dl><h2>Steps</h2>"));
    let rows: Vec<_> = run
        .steps
        .iter()
        // A look at the clock is recorded like a step, and tells nobody anything.
        .filter(|step| step.name != "now" && !step.name.starts_with("now #"))
        .map(|step| {
            html!(
                "<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                Text(&step.name),
                badge(&step.status),
                step.attempts,
                time(step.started_at),
                maybe(step.ended_at.map(|ended| length(ended - step.started_at)).as_deref()),
                maybe(step.error.as_ref().map(|error| error.why.as_str()))
            )
        })
        .collect();
    body.add(format_args!("{}", table(&["step", "status", "tries", "started", "took", "error"], &rows, "No step has begun.")));
    if let Some(output) = &run.output {
        body.add(format_args!("<h2>Output</h2><pre>{}</pre>", Text(format!("{output:#}"))));
    }
    let mut answer = page("Run", Some(&session), "/console/runs", &body);
    // Not while somebody may be typing an answer.
    if run.ended_at.is_none() && waits.is_none() {
        answer.headers_mut().insert(header::REFRESH, HeaderValue::from(REFRESH_S));
    }
    Ok(answer)
}

/// What a person may answer: the topic, the button's words, and what to write if anything. The others only providers can.
fn answer_to(topic: &str) -> Option<(&'static str, &'static str, Option<&'static str>)> {
    match topic {
        "look_again" => Some(("look_again", "It is done: look again", None)),
        "name_reviewed" => Some(("name_reviewed", "Propose this name", Some(r#"{"display_name": ""}"#))),
        "template_reviewed" => Some(("template_reviewed", "Look again", None)),
        _ => None,
    }
}

async fn cancel(State(app): State<App>, Path(id): Path<Uuid>, Form(Token { .. }): Form<Token>) -> Answer {
    act(&app, id, Act::Cancel).await
}

async fn retry(State(app): State<App>, Path(id): Path<Uuid>, Form(Token { .. }): Form<Token>) -> Answer {
    act(&app, id, Act::Retry).await
}

#[derive(Deserialize)]
struct Signal {
    topic: String,
    payload: String,
}

async fn signal(State(app): State<App>, Path(id): Path<Uuid>, Form(Signal { topic, payload }): Form<Signal>) -> Answer {
    let payload = serde_json::from_str(&payload).map_err(|_| Code::MALFORMED_JSON)?;
    act(&app, id, Act::Signal(topic, payload)).await
}

async fn act(app: &App, id: Uuid, act: Act) -> Answer {
    let mut tx = app.front.db.begin().await?;
    runs::perform(&mut tx, id, act).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/console/runs/{id}")).into_response())
}

async fn all_lines(State(app): State<App>, session: Session, Query(paging): Query<Paging>) -> Answer {
    let found = lines::page(&app, &session.caller, &paging).await?;
    let tenants: Vec<_> = found.data.iter().map(|line| line.tenant_id).collect();
    let names = store::tenants::names(&app.front.db, &tenants).await?;
    let name = |id: Uuid| names.iter().find(|(tenant, _)| *tenant == id).map(|(_, name)| name.as_str());
    let ids: Vec<_> = found.data.iter().map(|line| line.line_id).collect();
    let stops = lanes::stops(&app.front.db, &ids).await?;
    let rows: Vec<_> = found
        .data
        .iter()
        .map(|line| {
            let stop = stops.iter().find(|stop| stop.line_id == line.line_id);
            let parked = stop.map(|stop| stop.parked).filter(|parked| *parked > 0);
            let why = line.reason.as_deref().or(stop.and_then(|stop| stop.why.as_deref()));
            html!(
                "<td><a href=/console/lines/{}>{}</a><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                line.line_id,
                Text(&line.display_name),
                maybe(name(line.tenant_id)),
                maybe(line.phone.as_deref()),
                badge(&line.status),
                maybe(why),
                maybe(parked.map(|parked| parked.to_string()).as_deref()),
                maybe(line.quality.as_deref()),
                time(line.created_at)
            )
        })
        .collect();
    let columns = ["line", "company", "number", "status", "why", "parked", "quality", "ordered"];
    let list = table(&columns, &rows, "No line has been ordered yet.");
    let body = html!(
        "<h1>Lines</h1><p class=lead>Every WhatsApp line, the youngest first.</p>{list}{}",
        next("/console/lines", found.next_cursor.as_deref(), "")
    );
    Ok(page("Lines", Some(&session), "/console/lines", &body))
}

async fn one_line(State(app): State<App>, session: Session, Path(id): Path<LineId>) -> Answer {
    let line: Line = lines::one(&app, &session.caller, id).await?;
    let receipts = store::purchases::receipts(&app.front.db, id).await?;
    let mut body = html!("<h1>{} {}</h1><p class=lead><code>{id}</code></p>", Text(&line.display_name), badge(&line.status));
    if let Some(reason) = &line.reason {
        body.add(format_args!("<p class=\"note warn\">{}</p>", Text(reason)));
    }
    body.add(format_args!("<dl>"));
    let facts = [
        ("Number", line.phone.as_deref()),
        ("Phone number id", line.phone_number_id.as_deref()),
        ("Messaging account", line.messaging_account.as_deref()),
        ("Portfolio", line.portfolio.as_deref()),
        ("Country", Some(line.country.as_str())),
        ("Review of the name", line.name_status.as_deref()),
        ("Quality", line.quality.as_deref()),
        ("Throughput", line.throughput.as_deref()),
        ("Introduction", Some(line.introduction.as_str())),
        ("Callback", line.callback_url.as_deref()),
    ];
    for (name, value) in facts {
        body.add(format_args!("<dt>{name}<dd>{}", maybe(value)));
    }
    for (name, run) in [("Provisioned by", line.provision_run), ("Released by", line.release_run)] {
        if let Some(run) = run {
            body.add(format_args!("<dt>{name}<dd><a class=id href=/console/runs/{run}>{run}</a>"));
        }
    }
    body.add(format_args!("</dl>"));
    sending(&app, &session, &line, &mut body).await?;
    body.add(format_args!("<h2>Purchase receipt</h2>"));
    let rows: Vec<_> = receipts
        .iter()
        .map(|link| {
            let kind = link.record["kind"].as_str().unwrap_or_default();
            html!(
                "<td>{}<td>{}<td>{}<td class=id title=\"{}\">{}",
                link.seq,
                Text(kind),
                Text(told(&link.record["detail"])),
                Text(&link.hash),
                Text(link.hash.chars().take(HASH_SHOWN).collect::<String>())
            )
        })
        .collect();
    body.add(format_args!("{}", table(&["link", "kind", "detail", "hash"], &rows, "Nothing was bought for this line.")));
    Ok(page("Line", Some(&session), "/console/lines", &body))
}

/// What the line has to send, and what keeps it from sending.
async fn sending(app: &App, session: &Session, line: &Line, body: &mut Html) -> Result<(), Trouble> {
    let (db, id) = (&app.front.db, LineId(line.line_id));
    let standing = lanes::standing(db, id).await?;
    let waiting = lanes::unfinished(db, id).await?;
    let parked = if waiting.iter().any(|group| group.status == "parked") {
        lanes::parked(db, id, PARKED_SHOWN).await?
    } else {
        Vec::new()
    };
    body.add(format_args!("<h2>Sending</h2>"));
    for (what, why, until) in [
        ("This line", &standing.stopped, standing.stopped_until),
        ("The whole messaging account", &standing.account_stop, standing.account_stop_until),
    ] {
        if let Some(why) = why {
            let until = until.map_or_else(|| html!("until somebody resumes it"), |until| html!("until {}", time(until)));
            body.add(format_args!("<p class=\"note bad\">{what} sends nothing {until}: {}</p>", Text(why)));
        }
    }
    if let Some(per_s) = standing.slowed_to {
        body.add(format_args!("<p class=\"note warn\">Meta has slowed the number down to {per_s} messages a second.</p>"));
    }
    let mut acts = Html::default();
    if standing.stopped.is_some() || line.status == "restricted" {
        acts.add(format_args!(
            "{}",
            button(session, &format!("/console/lines/{id}/resume"), "Let the line send again", "primary")
        ));
    }
    if standing.account_stop.is_some() {
        let path = format!("/console/lines/{id}/resume-account");
        acts.add(format_args!("{}", button(session, &path, "Let the account send again", "danger")));
    }
    body.add(format_args!("<div class=acts>{acts}</div>"));
    let rows: Vec<_> = waiting
        .iter()
        .map(|group| html!("<td>{}<td>{}<td>{}", badge(&group.status), group.messages, time(group.oldest)))
        .collect();
    body.add(format_args!("{}", table(&["status", "messages", "oldest"], &rows, "Nothing waits to be sent.")));
    if parked.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = parked
        .iter()
        .map(|message| {
            let decide = |decision: &str| format!("/console/messages/{}/{decision}", message.message_id);
            html!(
                "<td class=id>{}<td>{}<td>{}<td>{}<td><div class=pair>{}{}</div>",
                message.message_id,
                time(message.created_at),
                message.attempts,
                maybe(message.why.as_deref()),
                button(session, &decide("again"), "Send again", ""),
                button(session, &decide("give-up"), "Give up", "danger")
            )
        })
        .collect();
    body.add(format_args!(
        "<h2>Parked</h2><p class=lead>Nobody knows whether these were sent. Sent again, a person may get one twice.</p>{}",
        table(&["message", "queued", "tries", "why", ""], &rows, "")
    ));
    Ok(())
}

async fn resume_line(State(app): State<App>, Path(id): Path<LineId>, Form(Token { .. }): Form<Token>) -> Answer {
    let mut tx = app.front.db.begin().await?;
    jobs::resume_line(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Redirect::to(&format!("/console/lines/{id}")).into_response())
}

async fn resume_account(State(app): State<App>, Path(id): Path<LineId>, Form(Token { .. }): Form<Token>) -> Answer {
    let line = store::lines::get_any(&app.front.db, id).await?.ok_or_else(Problem::not_found)?;
    if let Some(account) = &line.messaging_account {
        let mut tx = app.front.db.begin().await?;
        jobs::free_account(&mut tx, account).await?;
        tx.commit().await?;
    }
    Ok(Redirect::to(&format!("/console/lines/{id}")).into_response())
}

async fn send_again(State(app): State<App>, Path(id): Path<MessageId>, Form(Token { .. }): Form<Token>) -> Answer {
    decide(&app, id, What::Again).await
}

async fn give_up(State(app): State<App>, Path(id): Path<MessageId>, Form(Token { .. }): Form<Token>) -> Answer {
    decide(&app, id, What::GiveUp).await
}

async fn decide(app: &App, id: MessageId, decision: What) -> Answer {
    let (line, tenant) = lanes::of_message(&app.front.db, id).await?.ok_or_else(Problem::not_found)?;
    let mut tx = app.front.db.begin().await?;
    match messages::settle(app, &mut tx, tenant, id, decision).await {
        Ok(_) => tx.commit().await?,
        // Somebody was faster, or a status has come meanwhile.
        Err(problem) if problem.code == Code::MESSAGE_NOT_PARKED => {}
        Err(problem) => return Err(problem.into()),
    }
    Ok(Redirect::to(&format!("/console/lines/{line}")).into_response())
}

/// An object's fields in words; what is missing is left out.
fn told(detail: &serde_json::Value) -> String {
    let Some(fields) = detail.as_object() else { return detail.to_string() };
    let word = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let told = fields.iter().filter(|(_, value)| !value.is_null());
    told.map(|(name, value)| format!("{} {}", name.replace('_', " "), word(value))).collect::<Vec<_>>().join(" · ")
}

/// A length of time as people say it.
fn length(span: chrono::TimeDelta) -> String {
    match span.num_seconds() {
        0..10 => format!("{:.1} s", span.num_milliseconds().max(0) as f64 / 1_000.0),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

async fn set_aside(State(app): State<App>, session: Session, Query(paging): Query<Paging>) -> Answer {
    let rows = store::quarantine::list(&app.front.db, false, paging.before()?, paging.ask()).await?;
    let found = paging.page(rows, |event| event.id);
    let rows: Vec<_> = found
        .data
        .iter()
        .map(|event| {
            html!(
                "<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                time(event.created_at),
                Text(&event.provider),
                Text(&event.kind),
                Text(&event.subject),
                Text(&event.reason),
                button(&session, &format!("/console/quarantine/{}/replay", event.id), "Replay", "")
            )
        })
        .collect();
    let list = table(&["came", "provider", "kind", "about", "why", ""], &rows, "Every event has found its owner.");
    let body = html!(
        "<h1>Quarantine</h1><p class=lead>Webhooks about numbers that no line of ours has. Replay them when one does.</p>{list}{}",
        next("/console/quarantine", found.next_cursor.as_deref(), "")
    );
    Ok(page("Quarantine", Some(&session), "/console/quarantine", &body))
}

async fn replay_event(State(app): State<App>, Path(id): Path<Uuid>, Form(Token { .. }): Form<Token>) -> Answer {
    let mut tx = app.front.db.begin().await?;
    quarantine::again(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Redirect::to("/console/quarantine").into_response())
}

async fn all_callbacks(State(app): State<App>, session: Session, Query(paging): Query<Paging>) -> Answer {
    let rows = store::callbacks::list(&app.front.db, None, paging.before()?, paging.ask()).await?;
    let found = paging.page(rows, |callback| callback.id);
    let rows: Vec<_> = found
        .data
        .iter()
        .map(|callback| {
            html!(
                "<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}",
                time(callback.created_at),
                Text(&callback.event),
                Text(&callback.url),
                badge(callback.status()),
                callback.attempts,
                maybe(callback.last_error.as_deref()),
                maybe_time(callback.next_at),
                button(&session, &format!("/console/callbacks/{}/replay", callback.id), "Send again", "")
            )
        })
        .collect();
    let columns = ["made", "event", "to", "status", "tries", "last error", "next try", ""];
    let list = table(&columns, &rows, "Nobody has asked to be told.");
    let body = html!(
        "<h1>Callbacks</h1><p class=lead>What we told the programs that ordered something.</p>{list}{}",
        next("/console/callbacks", found.next_cursor.as_deref(), "")
    );
    Ok(page("Callbacks", Some(&session), "/console/callbacks", &body))
}

async fn replay_callback(State(app): State<App>, Path(id): Path<Uuid>, Form(Token { .. }): Form<Token>) -> Answer {
    let mut tx = app.front.db.begin().await?;
    callbacks::again(&mut tx, id, None).await?;
    tx.commit().await?;
    Ok(Redirect::to("/console/callbacks").into_response())
}

async fn all_dead_jobs(State(app): State<App>, session: Session) -> Answer {
    let rows: Vec<_> = dead_jobs::list_all(&app)
        .await?
        .iter()
        .map(|job| {
            html!(
                "<td>{}<td>{}<td><code>{}</code><td>{}<td>{}<td>{}",
                time(job.died_at),
                Text(&job.queue),
                Text(&job.payload),
                job.attempts,
                maybe(job.error.as_deref()),
                button(&session, &format!("/console/jobs/{}/retry", job.id), "Try again", "")
            )
        })
        .collect();
    let list = table(&["given up", "job", "about", "tries", "why", ""], &rows, "Every job was done.");
    let body = html!(
        "<h1>Jobs</h1><p class=lead>Work that was refused or failed at every try. Mend the cause, then try it again; after 30 days it \
         is forgotten.</p>{list}"
    );
    Ok(page("Jobs", Some(&session), "/console/jobs", &body))
}

async fn retry_job(State(app): State<App>, Path(id): Path<String>, Form(Token { .. }): Form<Token>) -> Answer {
    let mut tx = app.front.db.begin().await?;
    dead_jobs::again(&mut tx, &id).await?;
    tx.commit().await?;
    Ok(Redirect::to("/console/jobs").into_response())
}

async fn orphans(State(app): State<App>, session: Session) -> Answer {
    let rows = store::lines::orphans(&app.front.db).await?.into_iter().map(OrphanView::from);
    let rows: Vec<_> = rows
        .map(|orphan| {
            html!(
                "<td>{}<td>{}<td class=id>{}<td>{}<td>{}<td>{}",
                Text(&orphan.phone),
                Text(&orphan.provider),
                Text(&orphan.number_id),
                Text(&orphan.why),
                time(orphan.first_seen_at),
                time(orphan.last_seen_at)
            )
        })
        .collect();
    let list = table(
        &["number", "provider", "id", "why", "first seen", "last seen"],
        &rows,
        "Every number that we own belongs to a line.",
    );
    let body =
        html!("<h1>Orphans</h1><p class=lead>Numbers that we own and no line claims. Nothing is deleted by itself.</p>{list}");
    Ok(page("Orphans", Some(&session), "/console/orphans", &body))
}

/// The frame around every page.
fn page(title: &str, session: Option<&Session>, here: &str, body: &Html) -> Response {
    let mut out = html!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width, initial-scale=1\">\
         <title>{} – Ligne</title><link rel=stylesheet href=/console/style.css></head><body>",
        Text(title)
    );
    if let Some(session) = session {
        out.add(format_args!("<header><div><a class=brand href=/console>Ligne</a><nav>"));
        for (name, path) in [
            ("Now", "/console"),
            ("Runs", "/console/runs"),
            ("Companies", "/console/companies"),
            ("Lines", "/console/lines"),
            ("Quarantine", "/console/quarantine"),
            ("Callbacks", "/console/callbacks"),
            ("Jobs", "/console/jobs"),
            ("Orphans", "/console/orphans"),
        ] {
            let current = if path == here { " aria-current=page" } else { "" };
            out.add(format_args!("<a href={path}{current}>{name}</a>"));
        }
        out.add(format_args!("</nav>{}</div></header>", button(session, "/console/logout", "Log out", "")));
    }
    out.add(format_args!("<main>{body}</main></body></html>"));
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], out.0).into_response()
}

fn hidden(session: &Session) -> Html {
    html!("<input type=hidden name=token value={}>", session.token)
}

fn button(session: &Session, action: &str, words: &str, class: &str) -> Html {
    html!(
        "<form class=act method=post action=\"{action}\">{}<button class=\"{class}\">{}</button></form>",
        hidden(session),
        Text(words)
    )
}

/// The link to the next page, if there is one.
fn next(path: &str, cursor: Option<&str>, more: &str) -> Html {
    cursor.map(|cursor| html!("<p class=more><a href=\"{path}?cursor={cursor}{more}\">Older</a>")).unwrap_or_default()
}

/// The part of an id that differs between neighbours, at the end, is enough for the eye.
fn short(id: Uuid) -> impl Display {
    let text = id.to_string();
    text.get(24..).unwrap_or_default().to_owned()
}

/// For a query in a link.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
