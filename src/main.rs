//! One program, many verbs.
// `say!` bears a reader who has seen enough; `println!` panics.
#![deny(clippy::print_stdout)]

#[macro_use]
mod terminal;

mod bill;
mod books;
mod checkout;
mod cli;
mod client;
mod config;
mod demo;
mod demo_campaign;
mod demo_month;
mod logging;
mod process;
mod progress;
mod rates;
mod rotate;
mod simulate;
mod stage;
mod talk;
mod verify;
mod wiring;

use clap::Parser as _;
use cli::{Cli, Vault, Verb};
use client::Printer;
use std::process::ExitCode;
use terminal::Paint;

/// A workflow is one future with all its steps in it, and unoptimised builds keep every copy: they pass Tokio's 2 MiB.
const STACK_BYTES: usize = 16 * 1024 * 1024;

fn main() -> ExitCode {
    // Before any thread: it writes to the environment.
    let dotenv = dotenvy::dotenv();
    let cli = Cli::parse();
    if let Err(error) = dotenv
        && !error.not_found()
    {
        return refuse(&anyhow::Error::new(error).context("the file .env cannot be read"));
    }
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return refuse(&anyhow::anyhow!("another TLS provider is already installed"));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&anyhow::Error::new(error).context("the runtime does not start")),
    };
    match runtime.block_on(perform(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

async fn perform(cli: Cli) -> anyhow::Result<()> {
    let print = Printer::new(cli.json);
    match cli.verb {
        Verb::Tenant(verb) => client::tenant(verb, print).await,
        Verb::Key(verb) => client::key(verb, print).await,
        Verb::Line(verb) => client::line(verb, print).await,
        Verb::Template(verb) => talk::template(verb, print).await,
        Verb::Message(verb) => talk::message(verb, print).await,
        Verb::Bill(verb) => bill::bill(verb, print).await,
        Verb::Invoice(verb) => bill::invoice(verb, print).await,
        Verb::Run(verb) => client::run(verb, print).await,
        Verb::Clock(verb) => client::clock(verb, print).await,
        Verb::Vault(Vault::Key { id }) => rotate::new_key(&id),
        Verb::Vault(Vault::Rotate) => rotate::rotate(print).await,
        Verb::Migrate => {
            let db = wiring::connect(&config::database_url()?).await?;
            wiring::migrate(&db).await
        }
        Verb::Demo(options) => demo::perform(options, cli.json).await,
        Verb::Serve(options) => wiring::serve(options).await,
        Verb::Work => wiring::work_alone().await,
        Verb::Simulate(options) => simulate::perform(options, print).await,
        Verb::Rates(verb) => rates::perform(verb, print).await,
        Verb::Verify => verify::perform(print).await,
    }
}

/// One sentence with its causes, and a code that is not zero.
fn refuse(error: &anyhow::Error) -> ExitCode {
    eprintln!("{} {error:#}", Paint::stderr().red("error:"));
    ExitCode::FAILURE
}
