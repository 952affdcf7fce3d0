//! The verbs, as clap reads them. What each does is in the file of its name.

use crate::config;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use uuid::Uuid;

/// WhatsApp lines for companies: bought, registered, live and billed without anyone touching anything.
#[derive(Debug, Parser)]
#[command(name = "ligne", version, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    /// Print JSON, and nothing else, on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Everything on this machine, with nothing configured: order three lines, show what happens, prove that the books balance
    Demo(Demo),
    /// HTTP front, workers and clock in one process
    #[command(after_help = config::table())]
    Serve(Serve),
    /// Workers and clock only: any number of processes on one PostgreSQL
    #[command(after_help = config::table())]
    Work,
    /// Bring the schema up to date
    Migrate,
    /// The two provider simulators alone, with a control API for faults
    Simulate(Simulate),
    /// Client companies
    #[command(subcommand)]
    Tenant(Tenant),
    /// API keys
    #[command(subcommand)]
    Key(Key),
    /// WhatsApp lines
    #[command(subcommand)]
    Line(Line),
    /// Templates: what may be said first
    #[command(subcommand)]
    Template(Template),
    /// Messages: sent, one or many; why one waits
    #[command(subcommand)]
    Message(Message),
    /// The month: close it, export it for accounting, see what it earned, compare it with the providers
    #[command(subcommand)]
    Bill(Bill),
    /// Invoices and credit notes: seen, printed, paid, credited
    #[command(subcommand)]
    Invoice(Invoice),
    /// Runs of workflows: what happens, why it waits, and the means to help it
    #[command(subcommand)]
    Run(Run),
    /// The sandbox clock: tell it, or move it
    #[command(subcommand)]
    Clock(Clock),
    /// Keys of the secrets at rest
    #[command(subcommand)]
    Vault(Vault),
    /// What providers charge: load cards and exchange rates, or rate a past month against another card
    #[command(subcommand)]
    Rates(Rates),
    /// Check the purchase receipts, every ledger and the invoices; fails at the first link that was changed, removed or added
    Verify,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rates {
    /// Add the rows of a CSV file, or of all in a directory: all of them or none
    Load { path: PathBuf },
    /// What a month (2026-10) would have cost under other cards; nothing is written
    Compare { month: String, path: PathBuf },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave everything up and print the console's address
    #[arg(long)]
    pub(crate) stay: bool,
    /// Do not kill the service half-way
    #[arg(long)]
    pub(crate) no_kill: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The front alone: others do the work
    #[arg(long)]
    pub(crate) no_work: bool,
    /// Do not touch the schema: `ligne migrate` has run
    #[arg(long)]
    pub(crate) no_migrate: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub(crate) listen: SocketAddr,
    /// Where the simulated providers send their webhooks: the service's public address
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub(crate) webhooks: String,
    /// The number that all chance comes from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Misbehave as the field does: lost answers, throttles, wrong codes, declined names
    #[arg(long)]
    pub(crate) hostile: bool,
}

/// Where one page of a list begins.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// The `next_cursor` of the page before
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// All companies
    List(Page),
    /// One company
    Show { id: Uuid },
    /// A new company
    Create(CreateTenant),
}

#[derive(Debug, Args)]
pub(crate) struct CreateTenant {
    /// Name of the company
    pub(crate) name: String,
    /// Identifiant commun de l'entreprise: 15 digits
    #[arg(long)]
    pub(crate) ice: String,
    /// Identifiant fiscal
    #[arg(long = "if", value_name = "IF")]
    pub(crate) fiscal_id: String,
    /// Registre du commerce
    #[arg(long)]
    pub(crate) rc: String,
    /// Registered address
    #[arg(long)]
    pub(crate) address: String,
    /// Base fee in MAD a month
    #[arg(long, default_value = "200.00")]
    pub(crate) base_fee: String,
    /// Price of a delivered message in MAD
    #[arg(long, default_value = "0.10")]
    pub(crate) price_per_message: String,
    /// What a month may cost at most, in MAD
    #[arg(long, default_value = "1000.00")]
    pub(crate) credit_limit: String,
    /// fr, ar or en
    #[arg(long, default_value = "fr")]
    pub(crate) language: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Keys, without their secret part
    List {
        /// Only those of this company
        #[arg(long)]
        tenant: Option<Uuid>,
        #[command(flatten)]
        page: Page,
    },
    /// A new key, shown this once
    Create {
        /// What it may do
        #[arg(long, value_enum)]
        role: Role,
        /// The company that it opens; a recruiter's key needs one
        #[arg(long)]
        tenant: Option<Uuid>,
    },
    /// End a key, at once and for good
    Revoke { id: Uuid },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Role {
    Checkout,
    Recruiter,
    Finance,
    Admin,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Checkout => "checkout",
            Self::Recruiter => "recruiter",
            Self::Finance => "finance",
            Self::Admin => "admin",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Line {
    /// All lines
    List(Page),
    /// One line
    Show { id: Uuid },
    /// What was bought for it, link by link
    Receipt { id: Uuid },
    /// Order a line for a company
    Create(CreateLine),
    /// Give the number back
    Release { id: Uuid },
}

#[derive(Debug, Args)]
pub(crate) struct CreateLine {
    /// The company
    #[arg(long)]
    pub(crate) tenant: Uuid,
    /// Name shown on WhatsApp
    #[arg(long)]
    pub(crate) display_name: String,
    /// ISO code of the country
    #[arg(long, default_value = "MA")]
    pub(crate) country: String,
    /// The business profile, as JSON: about, address, description, email, vertical, websites
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) profile: String,
    /// Told, signed, when the line is live or undone
    #[arg(long, value_name = "URL")]
    pub(crate) callback_url: Option<String>,
    /// The same key is the same order; default: a new one
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Follow the run to its end
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// All templates of the company
    List(Page),
    /// One template
    Show { id: Uuid },
    /// Submit a template for review
    Create {
        /// The body of POST /v1/templates, as JSON
        file: PathBuf,
        /// Follow the review to its end
        #[arg(long)]
        wait: bool,
    },
    /// Delete a template, at Meta too
    Delete {
        id: Uuid,
        /// Follow the run to its end
        #[arg(long)]
        wait: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Message {
    /// Send one message
    Send(SendMessage),
    /// Send a template to everybody in a CSV file: the column "to" is whom, every other one a variable
    Batch {
        file: PathBuf,
        /// The line that sends
        #[arg(long)]
        line: Uuid,
        /// Name of the template
        #[arg(long)]
        template: String,
        #[arg(long, default_value = "fr")]
        language: String,
        /// Noted with every message
        #[arg(long)]
        campaign: Option<String>,
        /// The same key is the same campaign; default: a new one
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Messages of a conversation, or those in doubt: parked (a person decides) or held by Meta
    List {
        /// The conversation
        #[arg(long, conflicts_with = "status")]
        conversation: Option<Uuid>,
        /// parked or held
        #[arg(long, default_value = "parked")]
        status: String,
        #[command(flatten)]
        page: Page,
    },
    /// One message: where it stands, why it waits, its position and when it is expected to go
    Show { id: Uuid },
    /// A person's word on a parked message, of which nobody knows whether it was sent
    Decide {
        id: Uuid,
        #[arg(value_enum)]
        verdict: Verdict,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Verdict {
    /// Send it once more: the contact may see it twice
    Again,
    /// Let it rest as failed
    GiveUp,
}

#[derive(Debug, Args)]
pub(crate) struct SendMessage {
    /// The line that sends
    #[arg(long)]
    pub(crate) line: Uuid,
    /// A phone number in E.164, or a business-scoped user id
    #[arg(long)]
    pub(crate) to: String,
    /// A plain text; the contact must have written within 24 hours
    #[arg(long, group = "said")]
    pub(crate) text: Option<String>,
    /// Name of a template
    #[arg(long, group = "said")]
    pub(crate) template: Option<String>,
    #[arg(long, default_value = "fr")]
    pub(crate) language: String,
    /// A variable of the template, once for each
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) variables: Vec<(String, String)>,
    /// Any other message as JSON: "type", and the Cloud API's object of that name
    #[arg(long, value_name = "JSON", group = "said")]
    pub(crate) body: Option<String>,
    /// The same key is the same message; default: a new one
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bill {
    /// Close a month that is over: at most one invoice a company, and the month never changes again
    Close {
        /// Such as 2026-10
        month: String,
        /// Follow the run until every company is closed
        #[arg(long)]
        wait: bool,
    },
    /// A month's documents for accounting: CSV, one row a line
    Export {
        /// Such as 2026-10
        month: String,
        /// Where to write it; default: standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// What each company's month brought in and what it cost; a plan that loses money is flagged
    Margin {
        /// Such as 2026-10
        month: String,
    },
    /// Our month beside Meta's and Telnyx's own accounts; fails if more than the tolerance differs
    Reconcile {
        /// Such as 2026-10
        month: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Invoice {
    /// Invoices and credit notes, the youngest first
    List(ListInvoices),
    /// One document with its lines
    Show {
        /// Such as F-2026-000001
        number: String,
    },
    /// Write a document as PDF
    Pdf {
        /// Such as F-2026-000001
        number: String,
        /// Where to write it; default: its number in this directory
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Record money that came in
    Pay {
        /// Such as F-2026-000001
        number: String,
        /// In MAD, such as 240.00; never above what is left to pay
        amount: String,
        /// The bank's; the same reference again is the same payment
        #[arg(long)]
        reference: String,
        /// Day on which it came, such as 2026-11-05; default: now
        #[arg(long, value_name = "DAY")]
        on: Option<String>,
    },
    /// Take back a part of an invoice, or all that is left of it, by a credit note
    Credit {
        /// Such as F-2026-000001
        number: String,
        /// In MAD and with TVA, such as 24.00
        amount: String,
        /// Printed on the credit note
        #[arg(long)]
        reason: String,
        /// The same key is the same credit note; default: a new one
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListInvoices {
    #[command(flatten)]
    pub(crate) page: Page,
    /// Only those of this company
    #[arg(long)]
    pub(crate) tenant: Option<Uuid>,
    /// Only those of this month, such as 2026-10
    #[arg(long)]
    pub(crate) month: Option<String>,
    /// Only those in this state: final, sent, paid, overdue
    #[arg(long)]
    pub(crate) status: Option<String>,
}

/// `prenom=Salma`
fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a variable looks like prenom=Salma")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Run {
    /// All runs, the youngest first
    List(ListRuns),
    /// One run with its steps
    Show {
        id: Uuid,
        /// Follow it to its end
        #[arg(long)]
        wait: bool,
    },
    /// Undo what it did
    Cancel { id: Uuid },
    /// Let a stuck run, or one that waits for a person, try again
    Retry { id: Uuid },
    /// Answer what it waits for
    Signal {
        id: Uuid,
        /// Topic, as `waiting_for` names it
        topic: String,
        /// The answer, as JSON
        #[arg(default_value = "{}")]
        payload: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListRuns {
    #[command(flatten)]
    pub(crate) page: Page,
    /// Only those in this state: running, waiting, succeeded, undoing, undone, stuck, cancelled
    #[arg(long)]
    pub(crate) status: Option<String>,
    /// Only of this workflow, such as provision_line
    #[arg(long)]
    pub(crate) workflow: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Clock {
    /// The installation's time
    Show,
    /// Move it on; timers fire in the order in which they would have
    Advance {
        /// Such as 90s, 10m, 36h or 31d
        #[arg(value_parser = duration)]
        by: Duration,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vault {
    /// A new random key for LIGNE_VAULT_KEYS
    Key {
        /// Its name, such as the month
        id: String,
    },
    /// Seal everything at rest again with the first key; safe while the service runs
    Rotate,
}

/// `31d`, `2h30m`, `90s`: whole numbers with units, the longest first or not.
fn duration(text: &str) -> Result<Duration, String> {
    const SHAPE: &str = "a length of time looks like 90s, 10m, 36h, 31d or 2h30m";
    let mut total = 0_u64;
    let mut rest = text;
    if rest.is_empty() {
        return Err(SHAPE.into());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| SHAPE)?;
        let seconds = match after.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(SHAPE.into()),
        };
        total = number.checked_mul(seconds).and_then(|s| total.checked_add(s)).ok_or(SHAPE)?;
        rest = &after[1..];
    }
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_verbs_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        assert_eq!(duration("31d"), Ok(Duration::from_secs(2_678_400)));
        assert_eq!(duration("2h30m"), Ok(Duration::from_secs(9_000)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "d", "10", "10x", "-1d", "1 d", "999999999999999999d", "1d2"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
