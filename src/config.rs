//! Every knob: read once from the environment and `.env`, all problems told together, printed by `ligne serve --help`.

use axum::http::HeaderValue;
use domain::seller::Seller;
use providers::telnyx_hook::PublicKey;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use std::{fmt, net::SocketAddr};
use vault::Vault;

/// One line of the table that `ligne serve --help` prints.
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) default: Option<&'static str>,
    pub(crate) meaning: &'static str,
}

const fn needed(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default: None, meaning }
}
const fn with_default(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default: Some(default), meaning }
}

/// All of them, in the order in which an operator fills them in. An empty default means "may stay empty".
pub(crate) const VARIABLES: &[Variable] = &[
    needed("DATABASE_URL", "PostgreSQL 15 or later: postgres://user:password@host/database"),
    with_default("LIGNE_LISTEN", "127.0.0.1:8080", "address and port to listen on"),
    with_default(
        "LIGNE_PUBLIC_URL",
        "",
        "where the providers reach us; default http://LIGNE_LISTEN if the providers are on this machine",
    ),
    needed(
        "LIGNE_VAULT_KEYS",
        "256-bit keys as id:base64,id:base64; the first seals, any opens (`ligne vault key ID` makes one)",
    ),
    with_default(
        "LIGNE_ADMIN_KEY",
        "",
        "bootstrap admin API key, lgn_ and at least 32 characters; empty once other admin keys exist",
    ),
    needed("LIGNE_CALLBACK_SECRET", "signs outgoing callbacks: whsec_ and base64 of at least 24 bytes"),
    with_default(
        "LIGNE_SELLER",
        "",
        "who issues the invoices, as JSON (docs/billing.md); in the sandbox somebody who does not exist, else needed",
    ),
    with_default(
        "LIGNE_CORS_ORIGINS",
        "",
        "origins of dashboards whose pages may call the API, its event stream and Socket.IO: https://a.example,https://b.example",
    ),
    with_default("LIGNE_SANDBOX", "0", "1 lets `ligne clock` move time; only with both providers on this machine"),
    with_default("META_GRAPH_URL", "https://graph.facebook.com", "base address of the Graph API"),
    with_default("META_GRAPH_VERSION", "v25.0", "its version"),
    needed("META_APP_ID", "our Meta app"),
    needed("META_APP_SECRET", "its secret: checks the signature of /webhooks/whatsapp"),
    needed("META_VERIFY_TOKEN", "the word that Meta's webhook handshake must say"),
    needed("META_SYSTEM_TOKEN", "token of the system user"),
    needed("META_BUSINESS_ID", "our business portfolio"),
    needed("META_WABA_ID", "our WhatsApp Business account, which virtual lines join"),
    with_default("TELNYX_API_URL", "https://api.telnyx.com/v2", "base address of Telnyx"),
    needed("TELNYX_API_KEY", "API v2 key"),
    needed("TELNYX_PUBLIC_KEY", "base64 Ed25519 key: checks the signature of /webhooks/telnyx"),
    needed("TELNYX_CONNECTION_ID", "voice application that answers the calls with codes"),
    with_default("TELNYX_MESSAGING_PROFILE_ID", "", "messaging profile that receives the texts with codes; empty: voice only"),
];

/// A callback secret shorter than this is refused (Standard Webhooks: 24 to 64 bytes).
const CALLBACK_SECRET_MIN_BYTES: usize = 24;
/// An admin key shorter than this is refused.
const ADMIN_KEY_MIN_CHARS: usize = 32;

/// What `serve` and `work` run on.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) database_url: SecretString,
    pub(crate) listen: SocketAddr,
    /// Without a trailing slash.
    pub(crate) public_url: String,
    pub(crate) vault: Vault,
    pub(crate) admin_key: Option<SecretString>,
    pub(crate) callback_secret: SecretString,
    pub(crate) seller: Seller,
    pub(crate) cors_origins: Vec<HeaderValue>,
    pub(crate) sandbox: bool,
    pub(crate) meta: Meta,
    pub(crate) telnyx: Telnyx,
}

#[derive(Debug)]
pub(crate) struct Meta {
    /// Without a trailing slash.
    pub(crate) graph_url: String,
    pub(crate) graph_version: String,
    pub(crate) app_id: String,
    pub(crate) app_secret: SecretString,
    pub(crate) verify_token: SecretString,
    pub(crate) system_token: SecretString,
    pub(crate) business_id: String,
    pub(crate) waba_id: String,
}

#[derive(Debug)]
pub(crate) struct Telnyx {
    /// Without a trailing slash.
    pub(crate) api_url: String,
    pub(crate) api_key: SecretString,
    pub(crate) public_key: PublicKey,
    pub(crate) connection_id: String,
    pub(crate) messaging_profile_id: String,
}

/// Everything that is wrong, each in one sentence. Never holds the value of a secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "the configuration is not usable: {one}"),
            many => {
                write!(f, "the configuration is not usable, {} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// From the process's environment (`.env` has been read into it by then).
    pub(crate) fn from_env() -> Result<Self, Problems> {
        Self::read(&environment)
    }

    /// From any source of names and values.
    pub(crate) fn read(source: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        let mut read = Reader { source, problems: Vec::new() };
        let database_url = read.database_url();
        let listen = read.parsed::<SocketAddr>("LIGNE_LISTEN", "an address and a port, such as 127.0.0.1:8080");
        let vault = read.vault();
        let admin_key = read.admin_key();
        let callback_secret = read.callback_secret();
        let cors_origins = read.origins("LIGNE_CORS_ORIGINS");
        let sandbox = read.flag("LIGNE_SANDBOX");
        let seller = read.seller(sandbox);
        let graph_url = read.provider_url("META_GRAPH_URL");
        let api_url = read.provider_url("TELNYX_API_URL");
        let loopback = [&graph_url, &api_url].into_iter().all(|url| url.as_ref().is_some_and(is_loopback));
        if sandbox && !loopback {
            read.problem("LIGNE_SANDBOX=1 is refused: META_GRAPH_URL and TELNYX_API_URL must both be on this machine");
        }
        let public_url = read.public_url(listen, loopback);
        let meta = Meta {
            graph_url: plain(graph_url),
            graph_version: read.graph_version(),
            app_id: read.text("META_APP_ID"),
            app_secret: read.secret("META_APP_SECRET"),
            verify_token: read.secret("META_VERIFY_TOKEN"),
            system_token: read.secret("META_SYSTEM_TOKEN"),
            business_id: read.text("META_BUSINESS_ID"),
            waba_id: read.text("META_WABA_ID"),
        };
        let (api_url, api_key, public_key) = (plain(api_url), read.secret("TELNYX_API_KEY"), read.public_key());
        let (connection_id, messaging_profile_id) = (read.text("TELNYX_CONNECTION_ID"), read.text("TELNYX_MESSAGING_PROFILE_ID"));
        match (read.problems.is_empty(), listen, vault, public_key, seller) {
            (true, Some(listen), Some(vault), Some(public_key), Some(seller)) => {
                let telnyx = Telnyx { api_url, api_key, public_key, connection_id, messaging_profile_id };
                Ok(Self {
                    database_url,
                    listen,
                    public_url,
                    vault,
                    admin_key,
                    callback_secret,
                    seller,
                    cors_origins,
                    sandbox,
                    meta,
                    telnyx,
                })
            }
            _ => Err(Problems(read.problems)),
        }
    }
}

/// For the verbs that need the database alone.
pub(crate) fn database_url() -> Result<SecretString, Problems> {
    let mut read = Reader { source: &environment, problems: Vec::new() };
    let url = read.database_url();
    if read.problems.is_empty() { Ok(url) } else { Err(Problems(read.problems)) }
}

/// For the verbs that need the database and the keys.
pub(crate) fn database_and_vault() -> Result<(SecretString, Vault), Problems> {
    let mut read = Reader { source: &environment, problems: Vec::new() };
    let url = read.database_url();
    match (read.vault(), read.problems.is_empty()) {
        (Some(vault), true) => Ok((url, vault)),
        _ => Err(Problems(read.problems)),
    }
}

/// A variable that is set and not empty.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The table that `ligne serve --help` ends with.
pub(crate) fn table() -> String {
    let width = VARIABLES.iter().map(|v| v.name.len()).max().unwrap_or_default();
    let mut text = String::from("Environment (and .env), checked once at start:\n");
    for Variable { name, default, meaning } in VARIABLES {
        text.push_str(&format!("  {name:width$}  {meaning}"));
        match default {
            Some("") => text.push_str(" [optional]"),
            Some(default) => text.push_str(&format!(" [default: {default}]")),
            None => {}
        }
        text.push('\n');
    }
    text.push_str(&format!("  {:width$}  what is logged, as tracing filters understand it [default: info]\n", "RUST_LOG"));
    text
}

/// Collects problems instead of stopping at the first.
struct Reader<'a> {
    source: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, sentence: impl Into<String>) {
        self.problems.push(sentence.into());
    }

    /// What is set, else the default, else a problem and an empty text.
    fn text(&mut self, name: &'static str) -> String {
        let variable = VARIABLES.iter().find(|v| v.name == name);
        debug_assert!(variable.is_some(), "{name} is not in the table");
        match ((self.source)(name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty()), variable) {
            (Some(value), _) => value,
            (None, Some(Variable { default: Some(default), .. })) => (*default).to_owned(),
            (None, variable) => {
                self.problem(format!("{name} is not set ({})", variable.map_or("", |v| v.meaning)));
                String::new()
            }
        }
    }

    fn secret(&mut self, name: &'static str) -> SecretString {
        self.text(name).into()
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &'static str, shape: &str) -> Option<T> {
        let text = self.text(name);
        let value = text.parse().ok();
        if value.is_none() && !text.is_empty() {
            self.problem(format!("{name} is {text:?}, not {shape}"));
        }
        value
    }

    fn flag(&mut self, name: &'static str) -> bool {
        match self.text(name).as_str() {
            "1" | "true" => true,
            "0" | "false" => false,
            other => {
                self.problem(format!("{name} is {other:?}, not 0 or 1"));
                false
            }
        }
    }

    fn database_url(&mut self) -> SecretString {
        let url = self.text("DATABASE_URL");
        let postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        let usable = postgres && url.parse::<sqlx::postgres::PgConnectOptions>().is_ok();
        if !url.is_empty() && !usable {
            self.problem("DATABASE_URL is not of the form postgres://user:password@host/database");
        }
        url.into()
    }

    fn vault(&mut self) -> Option<Vault> {
        let keys = self.text("LIGNE_VAULT_KEYS");
        if keys.is_empty() {
            return None;
        }
        Vault::from_keys(&keys).map_err(|error| self.problem(format!("LIGNE_VAULT_KEYS: {error}"))).ok()
    }

    fn admin_key(&mut self) -> Option<SecretString> {
        let key = self.text("LIGNE_ADMIN_KEY");
        if key.is_empty() {
            return None;
        }
        if !key.starts_with("lgn_") || key.len() < ADMIN_KEY_MIN_CHARS {
            self.problem(format!("LIGNE_ADMIN_KEY must start with lgn_ and have at least {ADMIN_KEY_MIN_CHARS} characters"));
        }
        Some(key.into())
    }

    fn callback_secret(&mut self) -> SecretString {
        let secret = self.secret("LIGNE_CALLBACK_SECRET");
        let long_enough = secret
            .expose_secret()
            .strip_prefix("whsec_")
            .and_then(decode)
            .is_some_and(|bytes| bytes.len() >= CALLBACK_SECRET_MIN_BYTES);
        if !secret.expose_secret().is_empty() && !long_enough {
            self.problem(format!(
                "LIGNE_CALLBACK_SECRET must be whsec_ and the base64 of at least {CALLBACK_SECRET_MIN_BYTES} bytes"
            ));
        }
        secret
    }

    fn seller(&mut self, sandbox: bool) -> Option<Seller> {
        let json = self.text("LIGNE_SELLER");
        match (json.is_empty(), sandbox) {
            (true, true) => Some(Seller::demo()),
            (true, false) => {
                self.problem("LIGNE_SELLER is not set (who issues the invoices, as JSON: docs/billing.md)");
                None
            }
            (false, _) => json.parse().map_err(|wrong| self.problem(format!("LIGNE_SELLER: {wrong}"))).ok(),
        }
    }

    fn public_key(&mut self) -> Option<PublicKey> {
        self.parsed("TELNYX_PUBLIC_KEY", "the base64 of a 32-byte Ed25519 key")
    }

    fn graph_version(&mut self) -> String {
        let version = self.text("META_GRAPH_VERSION");
        let known = version.strip_prefix('v').and_then(|v| v.split_once('.')).is_some_and(|(major, minor)| {
            [major, minor].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        });
        if !known {
            self.problem(format!("META_GRAPH_VERSION is {version:?}, not of the form v25.0"));
        }
        version
    }

    /// Tokens travel in these calls: plain http only inside the machine.
    fn provider_url(&mut self, name: &'static str) -> Option<Url> {
        let url = self.http_url(name)?;
        if url.scheme() != "https" && !is_loopback(&url) {
            self.problem(format!("{name} must be https unless it is on this machine"));
        }
        Some(url)
    }

    fn http_url(&mut self, name: &'static str) -> Option<Url> {
        let url = self.parsed::<Url>(name, "an http or https address")?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            self.problem(format!("{name} must be an http or https address"));
            return None;
        }
        Some(url)
    }

    /// As browsers spell them.
    fn origins(&mut self, name: &'static str) -> Vec<HeaderValue> {
        let text = self.text(name);
        let mut origins = Vec::new();
        for origin in text.split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
            let url = origin.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let spelt = url.map(|url| url.origin().ascii_serialization());
            match spelt.filter(|spelt| *spelt == origin.trim_end_matches('/').to_lowercase()).and_then(|spelt| spelt.parse().ok())
            {
                Some(origin) => origins.push(origin),
                None => self.problem(format!("{name}: {origin:?} is not an origin such as https://dashboard.example")),
            }
        }
        origins
    }

    fn public_url(&mut self, listen: Option<SocketAddr>, loopback: bool) -> String {
        match (self.text("LIGNE_PUBLIC_URL").is_empty(), listen) {
            (false, _) => plain(self.http_url("LIGNE_PUBLIC_URL")),
            (true, Some(listen)) if loopback => format!("http://{listen}"),
            (true, _) => {
                self.problem("LIGNE_PUBLIC_URL is not set (where the providers reach us, such as https://hooks.example.net)");
                String::new()
            }
        }
    }
}

fn plain(url: Option<Url>) -> String {
    url.map(|url| url.as_str().trim_end_matches('/').to_owned()).unwrap_or_default()
}

fn is_loopback(url: &Url) -> bool {
    // `Url` normalises: an IPv6 host comes in brackets, a name in lower case.
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn decode(base64: &str) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.decode(base64).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

    /// The base point: a valid key that is nobody's.
    const POINT: &str = "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=";

    const SELLER: &str =
        r#"{"name":"Exemple SARL","legal":{"ice":"001234567000089","if":"12345678","rc":"1","address":"Rabat"}}"#;

    fn usable() -> HashMap<&'static str, String> {
        HashMap::from([
            ("DATABASE_URL", "postgres://ligne:secret@db.example.net/ligne".into()),
            ("LIGNE_PUBLIC_URL", "https://hooks.example.net/".into()),
            ("LIGNE_VAULT_KEYS", format!("k1:{KEY}")),
            ("LIGNE_ADMIN_KEY", "lgn_0123456789abcdef0123456789abcdef".into()),
            ("LIGNE_CALLBACK_SECRET", format!("whsec_{KEY}")),
            ("LIGNE_SELLER", SELLER.into()),
            ("META_APP_ID", "1".into()),
            ("META_APP_SECRET", "app secret".into()),
            ("META_VERIFY_TOKEN", "word".into()),
            ("META_SYSTEM_TOKEN", "token".into()),
            ("META_BUSINESS_ID", "2".into()),
            ("META_WABA_ID", "3".into()),
            ("TELNYX_API_KEY", "KEY".into()),
            ("TELNYX_PUBLIC_KEY", POINT.into()),
            ("TELNYX_CONNECTION_ID", "4".into()),
            ("TELNYX_MESSAGING_PROFILE_ID", "5".into()),
        ])
    }

    fn read(values: &HashMap<&'static str, String>) -> Result<Config, Problems> {
        Config::read(&|name| values.get(name).cloned())
    }

    fn problems(changes: &[(&'static str, &str)]) -> Vec<String> {
        let mut values = usable();
        for (name, value) in changes {
            values.insert(name, (*value).into());
        }
        read(&values).err().map(|problems| problems.0).unwrap_or_default()
    }

    #[test]
    fn defaults_fill_what_is_not_set() {
        let config = read(&usable()).expect("usable");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.public_url, "https://hooks.example.net");
        assert_eq!(config.meta.graph_url, "https://graph.facebook.com");
        assert_eq!(config.telnyx.api_url, "https://api.telnyx.com/v2");
        assert!(!config.sandbox);
    }

    #[test]
    fn every_problem_is_told_at_once_and_by_name() {
        let told = read(&HashMap::new()).expect_err("empty").0;
        for Variable { name, default, .. } in VARIABLES {
            if default.is_none() {
                assert!(told.iter().any(|problem| problem.starts_with(&format!("{name} is not set"))), "{name}: {told:?}");
            }
        }
    }

    #[test]
    fn the_example_holds_every_variable_and_no_other() {
        let example = include_str!("../.env.example");
        let named: Vec<_> = example
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            .collect();
        let known: Vec<_> = VARIABLES.iter().map(|variable| variable.name).collect();
        assert_eq!(named, known);
    }

    #[test]
    fn invoices_have_a_seller_and_the_sandbox_one_who_does_not_exist() {
        assert_eq!(read(&usable()).expect("usable").seller.name, "Exemple SARL");
        assert_eq!(problems(&[("LIGNE_SELLER", "")]).len(), 1);
        assert_eq!(problems(&[("LIGNE_SELLER", "{}")]).len(), 1);
        let mut values = usable();
        values.remove("LIGNE_SELLER");
        values.extend([
            ("LIGNE_SANDBOX", "1".into()),
            ("META_GRAPH_URL", "http://127.0.0.1:9".into()),
            ("TELNYX_API_URL", "http://127.0.0.1:9/v2".into()),
        ]);
        assert_eq!(read(&values).expect("sandbox").seller, Seller::demo());
    }

    #[test]
    fn pages_of_named_origins_alone_may_call() {
        let mut values = usable();
        assert!(read(&values).expect("usable").cors_origins.is_empty());
        values.insert("LIGNE_CORS_ORIGINS", "https://Dash.example, http://localhost:5173/,".into());
        assert_eq!(read(&values).expect("usable").cors_origins, ["https://dash.example", "http://localhost:5173"]);
        for wrong in ["*", "dash.example", "https://dash.example/page", "ftp://dash.example", "null"] {
            let told = problems(&[("LIGNE_CORS_ORIGINS", wrong)]);
            assert_eq!(told, [format!("LIGNE_CORS_ORIGINS: {wrong:?} is not an origin such as https://dashboard.example")]);
        }
    }

    #[test]
    fn no_key_means_no_start() {
        let mut values = usable();
        values.remove("LIGNE_VAULT_KEYS");
        let told = read(&values).expect_err("no key").0;
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("LIGNE_VAULT_KEYS is not set"));
    }

    #[test]
    fn the_sandbox_needs_both_providers_on_this_machine() {
        assert_eq!(problems(&[("LIGNE_SANDBOX", "1")]).len(), 1);
        assert_eq!(problems(&[("LIGNE_SANDBOX", "1"), ("META_GRAPH_URL", "http://127.0.0.1:9")]).len(), 1);
        let here = [("LIGNE_SANDBOX", "1"), ("META_GRAPH_URL", "http://127.0.0.1:9"), ("TELNYX_API_URL", "http://[::1]:9/v2")];
        assert_eq!(problems(&here), Vec::<String>::new());
        // A name that only begins like the loopback's is not the loopback.
        assert_eq!(
            problems(&[
                ("LIGNE_SANDBOX", "1"),
                ("META_GRAPH_URL", "https://127.0.0.1.example.net"),
                ("TELNYX_API_URL", "http://localhost:9")
            ])
            .len(),
            1
        );
    }

    #[test]
    fn tokens_never_travel_in_clear_text() {
        assert_eq!(
            problems(&[("TELNYX_API_URL", "http://api.telnyx.example")]),
            ["TELNYX_API_URL must be https unless it is on this machine"]
        );
    }

    #[test]
    fn malformed_values_are_named_and_secrets_are_not_repeated() {
        let told = problems(&[
            ("LIGNE_LISTEN", "here"),
            ("LIGNE_VAULT_KEYS", "k1:c2hvcnQ="),
            ("LIGNE_CALLBACK_SECRET", "whsec_c2hvcnQ="),
            ("LIGNE_ADMIN_KEY", "hunter2"),
            ("TELNYX_PUBLIC_KEY", "bm90IG9uZQ=="),
            ("META_GRAPH_VERSION", "25"),
            ("LIGNE_SANDBOX", "maybe"),
            ("DATABASE_URL", "mysql://root:hunter2@localhost"),
        ]);
        assert_eq!(told.len(), 8, "{told:?}");
        assert!(told.iter().all(|problem| !problem.contains("hunter2") && !problem.contains("c2hvcnQ")), "{told:?}");
    }
}
