//! `ligne simulate`: Telnyx and Meta alone, for a service of one's own.

use crate::{cli, client::Printer, logging, wiring};
use anyhow::Context as _;
use serde_json::{Map, Value};
use simulators::{Config, HookUrls, Profile, Simulators};
use std::net::SocketAddr;

pub(crate) async fn perform(options: cli::Simulate, print: Printer) -> anyhow::Result<()> {
    logging::start()?;
    let stop = wiring::until_told_to_stop()?;
    let telnyx_listen = options.listen;
    // A free port stays a free port; a chosen one has Meta beside it.
    let port =
        if telnyx_listen.port() == 0 { 0 } else { telnyx_listen.port().checked_add(1).context("no port is left for Meta")? };
    let config = Config {
        telnyx_listen,
        meta_listen: SocketAddr::new(telnyx_listen.ip(), port),
        seed: options.seed,
        profile: if options.hostile { Profile::Hostile { seed: options.seed } } else { Profile::Smooth },
        hooks: HookUrls::of_service(&options.webhooks),
        ..Config::default()
    };
    let simulators =
        Simulators::start(config).await.with_context(|| format!("{telnyx_listen} and the port after it are not free"))?;
    let environment = simulators.environment();
    if print.json {
        let all: Map<_, _> = environment.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        say!("{}", Value::Object(all));
    } else {
        for (name, value) in environment {
            say!("{name}={value}");
        }
        eprintln!("{}", print.paint.dim(format!("control: {}  (Ctrl-C ends it)", simulators.control_url())));
    }
    stop.cancelled().await;
    simulators.stop().await;
    Ok(())
}
