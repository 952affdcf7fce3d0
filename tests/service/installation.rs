//! One installation for one test: a database, both providers, and as many processes as it takes.

use crate::process::{Environment, Process, free_port};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use simulators::{Config, Simulators};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, postgres::PgPoolOptions};
use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ligne");
/// From start to ready, schema included, on a busy machine.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(180);
/// For an answer of the front: long, for a test is not the place to find that a machine is busy.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// How far time is moved when it is time that is missing; both worlds stop at whatever falls due on the way.
const CLOCK_STEP: Duration = Duration::from_secs(600);
/// Moving the clock answers when all that became due is worked.
const ADVANCE_PATIENCE: Duration = Duration::from_secs(600);
/// For orders to end, on any machine.
pub(crate) const END_PATIENCE: Duration = Duration::from_secs(600);
/// For a process that was told to stop: it finishes what it has in hand.
pub(crate) const STOP_PATIENCE: Duration = Duration::from_secs(120);
/// Lines of each log that a failed test shows, and letters of each.
const LOG_LINES: usize = 60;
const LOG_WIDTH: usize = 400;
/// How often something outside of this process is looked at.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// Everything of one test. Processes are dropped, and so killed, before the rest.
pub(crate) struct Installation {
    pub(crate) simulators: Simulators,
    pub(crate) db: PgPool,
    pub(crate) environment: Environment,
    directory: Directory,
    base: String,
    http: reqwest::Client,
    admin_key: String,
    orders: AtomicU32,
}

/// How long a test waits for other processes, and when it moves time on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Nothing has changed for this long: then it is time that is missing.
    pub(crate) still: Duration,
    /// How far it is moved then.
    pub(crate) step: Duration,
    /// All is as wanted by then.
    pub(crate) patience: Duration,
}

/// An order that was placed.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) line: String,
    pub(crate) run: String,
}

impl Installation {
    /// On the server of `DATABASE_URL`, in a new database with the schema up to date.
    pub(crate) async fn open(config: Config) -> Self {
        Self::open_on(config, &new_database().await).await
    }

    /// On a database that exists and is empty.
    pub(crate) async fn open_on(config: Config, database: &str) -> Self {
        let simulators = Simulators::start(config).await.expect("simulators");
        let listen = format!("127.0.0.1:{}", free_port().expect("a port"));
        let base = format!("http://{listen}");
        simulators.serve_hooks_to(&base);
        let directory = Directory::new();
        let admin_key = format!("lgn_{}", hex::encode(rand::random::<[u8; 32]>()));
        let mut environment: Environment =
            simulators.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let ours = [
            ("DATABASE_URL", database.to_owned()),
            ("LIGNE_LISTEN", listen),
            ("LIGNE_PUBLIC_URL", base.clone()),
            ("LIGNE_VAULT_KEYS", format!("test:{}", STANDARD.encode(rand::random::<[u8; 32]>()))),
            ("LIGNE_ADMIN_KEY", admin_key.clone()),
            ("LIGNE_CALLBACK_SECRET", format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()))),
            ("LIGNE_SANDBOX", "1".to_owned()),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        let db = PgPoolOptions::new().max_connections(4).connect_lazy(database).expect("a database address");
        let installation = Self {
            simulators,
            db,
            environment,
            directory,
            base,
            http: reqwest::Client::builder().timeout(ANSWER_PATIENCE).build().expect("an HTTP client"),
            admin_key,
            orders: AtomicU32::new(0),
        };
        let migrated = installation.ligne(&["migrate"]).await;
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        installation
    }

    /// A process of the program that lives on; its log is `<verb>.log` in the installation's directory.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        let log = self.directory.0.join(format!("{}.log", arguments[0]));
        Process::start(Path::new(PROGRAM), arguments, &self.environment, &log).expect("the program starts")
    }

    /// Front alone, answering. Nobody works for it yet.
    pub(crate) async fn front(&self) -> Process {
        let front = self.spawn(&["serve", "--no-work", "--no-migrate"]);
        self.answers("/healthz").await;
        front
    }

    /// Workers alone.
    pub(crate) fn workers(&self) -> Process {
        self.spawn(&["work"])
    }

    /// Front up and somebody there who works.
    pub(crate) async fn ready(&self) {
        self.answers("/readyz").await;
    }

    async fn answers(&self, path: &str) {
        let answers = || async {
            let asked = self.http.get(format!("{}{path}", self.base)).send().await;
            asked.is_ok_and(|answer| answer.status().is_success()).then_some(())
        };
        eventually(START_PATIENCE, answers).await.unwrap_or_else(|| panic!("{path} is not well"));
    }

    /// Runs a verb to its end with the installation's environment.
    pub(crate) async fn ligne(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(arguments).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path))).envs(&self.environment);
        command.env("LIGNE_URL", &self.base).current_dir(&self.directory.0).output().await.expect("the program runs")
    }

    /// The answer of a verb with `--json`.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().copied().chain(["--json"]).collect();
        let output = self.ligne(&arguments).await;
        assert!(output.status.success(), "ligne {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stdout)))
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        self.call_as(&self.admin_key, method, path, body).await
    }

    pub(crate) async fn call_as(&self, key: &str, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(key);
        if let Some(body) = body {
            request = request.json(body).header("idempotency-key", uuid::Uuid::new_v4().to_string());
        }
        let answer = request.send().await.expect("the front answers");
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// A POST with an idempotency key of the test's own, which may take as long as the clock's move does.
    pub(crate) async fn post(&self, path: &str, body: &Value, idempotency_key: &str) -> (StatusCode, Value) {
        let request = self.http.request(Method::POST, format!("{}{path}", self.base)).bearer_auth(&self.admin_key);
        let request = request.json(body).header("idempotency-key", idempotency_key).timeout(ADVANCE_PATIENCE);
        let answer = request.send().await.expect("the front answers");
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// A company and its order, each with names of its own.
    pub(crate) async fn order(&self) -> Order {
        let number = self.orders.fetch_add(1, Ordering::Relaxed) + 1;
        self.order_as(&format!("Agence {number}")).await
    }

    pub(crate) async fn order_as(&self, name: &str) -> Order {
        let company = json!({
            "name": name,
            "legal": { "ice": "001234567000089", "if": "12345678", "rc": "98765", "address": "12, rue Tarik, Casablanca" },
            "plan": { "base_fee": "200.00", "price_per_message": "0.10" },
            "credit_limit": "1000.00",
            "language": "fr",
        });
        let (status, tenant) = self.call(Method::POST, "/v1/tenants", Some(&company)).await;
        assert_eq!(status, StatusCode::CREATED, "{tenant}");
        let order =
            json!({ "tenant_id": tenant["id"], "country": "MA", "display_name": name, "profile": { "about": "Recrutement" } });
        let (status, answer) = self.call(Method::POST, "/v1/lines", Some(&order)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        let text = |pointer| answer.pointer(pointer).and_then(Value::as_str).expect("ids in the answer").to_owned();
        Order { line: text("/line/id"), run: text("/run/id") }
    }

    /// Ends a line; the run that does it.
    pub(crate) async fn release(&self, order: &Order) -> Order {
        let (status, answer) = self.call(Method::DELETE, &format!("/v1/lines/{}", order.line), None).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        let run = answer.pointer("/run/id").and_then(Value::as_str).unwrap_or_else(|| panic!("no run in {answer}"));
        Order { run: run.to_owned(), ..order.clone() }
    }

    /// The run as the API shows it; `None` while the front cannot answer.
    pub(crate) async fn run(&self, order: &Order) -> Option<Value> {
        let url = format!("{}/v1/runs/{}", self.base, order.run);
        let answer = self.http.get(url).bearer_auth(&self.admin_key).send().await.ok()?;
        if answer.status().is_success() { answer.json().await.ok() } else { None }
    }

    pub(crate) async fn line(&self, order: &Order) -> Value {
        let (status, line) = self.call(Method::GET, &format!("/v1/lines/{}", order.line), None).await;
        assert_eq!(status, StatusCode::OK, "{line}");
        line
    }

    /// How the runs ended: `succeeded`, `undone`, ... Time is moved on whenever nothing else happens for `still`.
    pub(crate) async fn end_of(&self, orders: &[Order], still: Duration, patience: Duration) -> Vec<String> {
        let ids: Vec<uuid::Uuid> = orders.iter().map(|order| order.run.parse().expect("a run's id")).collect();
        let pace = Pace { still, step: CLOCK_STEP, patience };
        self.until(pace, async || self.progress(&ids).await.ok(), |(open, _)| *open == 0).await;
        let mut ends = Vec::new();
        for order in orders {
            let run = self.run(order).await.expect("the run");
            ends.push(run["status"].as_str().expect("a state").to_owned());
        }
        ends
    }

    /// Looks until what it sees is as wanted, and moves time on whenever nothing changes. A look sees nothing while the database
    /// is away.
    pub(crate) async fn until<S: PartialEq + Debug>(
        &self,
        pace: Pace,
        look: impl AsyncFn() -> Option<S>,
        wanted: impl Fn(&S) -> bool,
    ) -> S {
        let begun = Instant::now();
        let (mut seen, mut moved) = (None, Instant::now());
        loop {
            if let Some(now) = look().await {
                if wanted(&now) {
                    return now;
                }
                if seen.as_ref() != Some(&now) {
                    (seen, moved) = (Some(now), Instant::now());
                }
            }
            if moved.elapsed() > pace.still {
                self.advance(pace.step).await;
                moved = Instant::now();
            }
            if begun.elapsed() > pace.patience {
                panic!("it is still {seen:?} after {:?}:\n{}", pace.patience, self.unfinished().await);
            }
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    /// What has not ended, for a test that failed.
    async fn unfinished(&self) -> String {
        let what: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', 'run', workflow, run_id, status, waiting_for, 'awake', awake, wake_at - durable.now())
             from durable.run where ended_at is null
             union all
             select concat_ws(' ', 'job', job_type, status, attempts, lock_by, lock_at - clock_timestamp()) from apalis.jobs
             where lock_by is not null or run_at <= durable.now()
             limit 100",
        )
        .fetch_all(&self.db)
        .await
        .unwrap_or_else(|error| vec![error.to_string()]);
        what.join("\n")
    }

    /// Runs that have not ended, and steps that have. Tries do not count: what is only tried again may be waiting for time.
    async fn progress(&self, runs: &[uuid::Uuid]) -> sqlx::Result<(i64, i64)> {
        sqlx::query_as(
            "select count(*) filter (where status in ('running', 'waiting', 'undoing')),
                (select count(*) from durable.step where run_id = any($1) and status in ('done', 'failed'))
             from durable.run where run_id = any($1)",
        )
        .bind(runs)
        .fetch_one(&self.db)
        .await
    }

    /// Moves the time of the installation and of the providers. Needs workers; says whether it got there.
    pub(crate) async fn advance(&self, by: Duration) -> bool {
        let asked = self
            .http
            .post(format!("{}/v1/sandbox/clock", self.base))
            .bearer_auth(&self.admin_key)
            .header("idempotency-key", uuid::Uuid::new_v4().to_string())
            .timeout(ADVANCE_PATIENCE)
            .json(&json!({ "advance_s": by.as_secs() }));
        asked.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// After a test that went well: nothing is left behind.
    pub(crate) async fn close(self) {
        self.simulators.stop().await;
        self.db.close().await;
        if let Some(name) = self.environment["DATABASE_URL"].rsplit('/').next().filter(|name| name.starts_with("ligne_process_"))
            && let Some(mut admin) = server().await
        {
            // What stays behind is found by its name.
            let _ = sqlx::query(AssertSqlSafe(format!("drop database if exists {name} with (force)"))).execute(&mut admin).await;
        }
    }
}

/// Looks until there is an answer, for things that happen in other processes.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(patience: Duration, look: impl Fn() -> F) -> Option<T> {
    eventually_each(LOOK_PERIOD, patience, look).await
}

/// [`eventually`], looking so often.
pub(crate) async fn eventually_each<T, F: Future<Output = Option<T>>>(
    period: Duration,
    patience: Duration,
    look: impl Fn() -> F,
) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if begun.elapsed() > patience {
            return None;
        }
        tokio::time::sleep(period).await;
    }
}

/// A directory of the test's own, without a `.env` above it. Removed at its end; a test that failed shows the logs in it first.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ligne-process-{}", hex::encode(rand::random::<[u8; 6]>())));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    /// The end of each log.
    fn logs(&self) -> String {
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten().map(|file| file.path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let end = |path: PathBuf| {
            let text =
                std::fs::read(&path).map_or_else(|error| error.to_string(), |text| String::from_utf8_lossy(&text).into_owned());
            let lines: Vec<String> = text.lines().map(|line| line.chars().take(LOG_WIDTH).collect()).collect();
            let name = path.file_name().unwrap_or_default().display().to_string();
            format!("the end of {name}:\n{}\n", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
        };
        logs.map(end).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        // What stays behind is found by its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn server_url() -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::env::var("DATABASE_URL").expect("DATABASE_URL names the server for tests")
}

async fn server() -> Option<PgConnection> {
    PgConnection::connect(&server_url()).await.ok()
}

/// An empty database on the server of `DATABASE_URL`; its address.
pub(crate) async fn new_database() -> String {
    let name = format!("ligne_process_{}", hex::encode(rand::random::<[u8; 6]>()));
    let mut server = server().await.expect("the server of DATABASE_URL");
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut server).await.expect("a database");
    let mut url = reqwest::Url::parse(&server_url()).expect("DATABASE_URL is an address");
    url.set_path(&name);
    url.into()
}
