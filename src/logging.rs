//! What the program says about itself: for people on a terminal, JSON otherwise; `RUST_LOG` decides how much.

use std::io::{IsTerminal as _, stderr};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What is logged when `RUST_LOG` is silent.
const DEFAULT: &str = "info,sqlx=warn,apalis=warn,hyper=warn,tower_http=warn";

/// Once, at the start of the verbs that run for long. Logs go to standard error.
pub(crate) fn start() -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(wanted) if !wanted.is_empty() => {
            EnvFilter::try_new(&wanted).map_err(|error| anyhow::anyhow!("RUST_LOG is not understood: {error}"))?
        }
        _ => EnvFilter::new(DEFAULT),
    };
    let registry = tracing_subscriber::registry().with(filter);
    if stderr().is_terminal() {
        registry.with(fmt::layer().with_writer(stderr).with_target(false)).try_init()
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(stderr)).try_init()
    }
    .map_err(|error| anyhow::anyhow!("logging does not start: {error}"))
}
