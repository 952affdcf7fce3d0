//! What the demo is played on: a database, both providers, and the service as a process of its own.

use crate::{
    client::Client,
    process::{Environment, Process, free_port},
    wiring,
};
use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster::{Cluster, Options};
use secrecy::{ExposeSecret as _, SecretString};
use simulators::{Config, Delays, Simulators};
use sqlx::PgPool;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use vault::Vault;

/// From start to ready, schema included.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// From SIGTERM to the end.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How often a starting service is asked.
const READY_PERIOD: Duration = Duration::from_millis(50);
/// Lines of the service's log that an error shows.
const LOG_LINES: usize = 12;

/// A world slow enough to be watched.
const DELAYS: Delays = Delays {
    order_ms: 1_500,
    number_ms: 300,
    papers_ms: 3_600_000,
    call_ms: 1_200,
    utterance_ms: 400,
    recording_ms: 300,
    connect_ms: 700,
    name_review_ms: 800,
    template_review_ms: 800,
    status_ms: 50,
    batch_ms: 10,
    hook_retry_ms: 1_000,
};

/// The database, from wherever it comes.
pub(crate) struct Database {
    pub(crate) url: SecretString,
    pub(crate) origin: String,
    cluster: Option<Cluster>,
    /// On a server that was given to us: a database of our own, dropped at the end.
    own: Option<(SecretString, String)>,
}

impl Database {
    /// A new database on the server of `DATABASE_URL`, or a private PostgreSQL.
    pub(crate) async fn open(given: Option<String>) -> anyhow::Result<Self> {
        let Some(given) = given else { return Self::private().await };
        let name = format!("ligne_demo_{}", hex::encode(rand::random::<[u8; 4]>()));
        let admin: SecretString = given.into();
        let db = wiring::connect(&admin).await?;
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
            .execute(&db)
            .await
            .context("DATABASE_URL lets the demo make no database of its own; unset it for a private PostgreSQL")?;
        db.close().await;
        let mut url = reqwest::Url::parse(admin.expose_secret()).context("DATABASE_URL is malformed")?;
        url.set_path(&name);
        let origin = format!("database {name} on the server of DATABASE_URL");
        Ok(Self { url: String::from(url).into(), origin, cluster: None, own: Some((admin, name)) })
    }

    async fn private() -> anyhow::Result<Self> {
        let started = tokio::task::spawn_blocking(|| Cluster::start(Options::ephemeral())).await?;
        let cluster = started.map_err(anyhow::Error::msg).context("no private PostgreSQL can be started")?;
        let db = wiring::connect(&cluster.url().into()).await?;
        sqlx::query("create database ligne").execute(&db).await?;
        let version: String = sqlx::query_scalar("show server_version").fetch_one(&db).await?;
        db.close().await;
        let version = version.split(' ').next().unwrap_or_default();
        let origin = format!("{version}, private, port {}", cluster.port());
        Ok(Self { url: cluster.url_of("ligne").into(), origin, cluster: Some(cluster), own: None })
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        if let Some((admin, name)) = self.own {
            let db = wiring::connect(&admin).await?;
            sqlx::query(sqlx::AssertSqlSafe(format!("drop database if exists {name} with (force)"))).execute(&db).await?;
        }
        if let Some(mut cluster) = self.cluster {
            tokio::task::spawn_blocking(move || cluster.stop()).await?.map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }
}

/// Everything of one demo.
pub(crate) struct Stage {
    pub(crate) database: Database,
    pub(crate) db: PgPool,
    pub(crate) simulators: Simulators,
    pub(crate) api: Client,
    pub(crate) admin_key: String,
    pub(crate) callback_secret: String,
    service: Option<Process>,
    environment: Environment,
    /// The service's log while it plays, and what the play leaves behind.
    pub(crate) directory: PathBuf,
}

impl Stage {
    /// Both simulators up, the service configured and not yet started.
    pub(crate) async fn set(database: Database) -> anyhow::Result<Self> {
        let simulators = Simulators::start(Config { delays: DELAYS, seed: rand::random(), ..Config::default() })
            .await
            .context("the simulators do not start")?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let base = format!("http://{listen}");
        simulators.serve_hooks_to(&base);
        let admin_key = format!("lgn_{}", hex::encode(rand::random::<[u8; 32]>()));
        let callback_secret = format!("whsec_{}", STANDARD.encode(rand::random::<[u8; 32]>()));
        let mut environment: Environment =
            simulators.environment().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let ours = [
            ("DATABASE_URL", database.url.expose_secret().to_owned()),
            ("LIGNE_LISTEN", listen),
            ("LIGNE_PUBLIC_URL", base.clone()),
            ("LIGNE_VAULT_KEYS", Vault::new_key("demo")?.expose_secret().to_owned()),
            ("LIGNE_ADMIN_KEY", admin_key.clone()),
            ("LIGNE_CALLBACK_SECRET", callback_secret.clone()),
            ("LIGNE_SANDBOX", "1".to_owned()),
        ];
        environment.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        let directory = std::env::temp_dir().join(format!("ligne-demo-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let db = wiring::connect(&database.url).await?;
        let api = Client::new(base, admin_key.clone().into())?;
        Ok(Self { database, db, simulators, api, admin_key, callback_secret, service: None, environment, directory })
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.directory.join("service.log")
    }

    /// Starts the service, the first time or again; returns its process id and how long it took until it was ready.
    pub(crate) async fn start_service(&mut self) -> anyhow::Result<(u32, Duration)> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let begun = Instant::now();
        let mut service =
            Process::start(&program, &["serve"], &self.environment, &self.log()).context("the service does not start")?;
        loop {
            if self.api.is_ready().await {
                let pid = service.pid();
                self.service = Some(service);
                return Ok((pid, begun.elapsed()));
            }
            if let Some(status) = service.ended()? {
                bail!("the service ended with {status}:\n{}", tail(&self.log()));
            }
            if begun.elapsed() > START_PATIENCE {
                bail!("the service was not ready in time:\n{}", tail(&self.log()));
            }
            tokio::time::sleep(READY_PERIOD).await;
        }
    }

    /// `kill -9`; returns the process id.
    pub(crate) async fn kill_service(&mut self) -> anyhow::Result<u32> {
        let service = self.service.take().context("there is no service to kill")?;
        let pid = service.pid();
        service.kill().await.context("the service cannot be killed")?;
        Ok(pid)
    }

    /// An error if the service has ended by itself.
    pub(crate) fn check_service(&mut self) -> anyhow::Result<()> {
        match self.service.as_mut().map(Process::ended).transpose()?.flatten() {
            Some(status) => bail!("the service ended with {status}:\n{}", tail(&self.log())),
            None => Ok(()),
        }
    }

    /// Moves the time of the installation and of its world.
    pub(crate) async fn advance(&self, by: Duration) -> anyhow::Result<()> {
        self.api.advance(by).await.map(drop)
    }

    /// Takes everything down; the log stays if it is worth reading.
    pub(crate) async fn close(mut self, keep_log: bool) -> anyhow::Result<()> {
        if let Some(service) = self.service.take() {
            service.stop(STOP_PATIENCE).await.context("the service does not stop")?;
        }
        let log = self.log();
        self.simulators.stop().await;
        self.db.close().await;
        self.database.close().await?;
        if !keep_log {
            // Left behind at worst: it is in the directory for such things. What else is in there was written to be kept.
            let _ = std::fs::remove_file(log);
            let _ = std::fs::remove_dir(&self.directory);
        }
        Ok(())
    }
}

/// The end of a log, for an error.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
