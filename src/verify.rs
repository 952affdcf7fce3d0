//! `ligne verify`: walks the purchase receipts, every tenant's ledger and the invoices, and names the first link of each that
//! was changed, removed or added.

use crate::{client::Printer, config, wiring};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::{
    invoices, ledger,
    purchases::{self, Chain},
};

pub(crate) async fn perform(print: Printer) -> anyhow::Result<()> {
    let db = wiring::connect(&config::database_url()?).await?;
    let walked = walk(&db).await?;
    if print.json {
        say!("{}", walked.to_json());
    } else {
        for words in walked.words() {
            say!("{} {words}", print.paint.green("ok"));
        }
    }
    Ok(())
}

/// What holds. Written down elsewhere, the last hashes keep a chain's end from being cut off unseen.
pub(crate) struct Walked {
    receipts: (usize, Option<String>),
    ledger: (usize, usize),
    invoices: (usize, Option<String>),
}

/// Walks every chain; the error names the first broken link of each.
pub(crate) async fn walk(db: &PgPool) -> anyhow::Result<Walked> {
    let (receipts, ledger, invoices) = (receipts(db).await, ledger(db).await, invoices(db).await);
    let broken: Vec<String> = [receipts.as_ref().err(), ledger.as_ref().err(), invoices.as_ref().err()]
        .into_iter()
        .flatten()
        .map(|e| format!("{e:#}"))
        .collect();
    if !broken.is_empty() {
        bail!("{}", broken.join("; "));
    }
    Ok(Walked { receipts: receipts?, ledger: ledger?, invoices: invoices? })
}

impl Walked {
    pub(crate) fn words(&self) -> [String; 3] {
        let last = |hash: &Option<String>| hash.as_deref().unwrap_or("none").to_owned();
        [
            format!("{} links of purchase receipts hold, the last is {}", self.receipts.0, last(&self.receipts.1)),
            format!("{} entries of {} ledgers hold, and balance", self.ledger.1, self.ledger.0),
            format!("{} invoices and credit notes hold, without a gap, the last is {}", self.invoices.0, last(&self.invoices.1)),
        ]
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "receipts": { "links": self.receipts.0, "last": self.receipts.1 },
            "ledger": { "chains": self.ledger.0, "links": self.ledger.1 },
            "invoices": { "links": self.invoices.0, "last": self.invoices.1 } })
    }
}

/// How many links hold, and the hash of the last; an error if one does not.
pub(crate) async fn receipts(db: &PgPool) -> anyhow::Result<(usize, Option<String>)> {
    match purchases::verify_chain(db).await.context("the purchase receipts cannot be read")? {
        Chain::Whole { links, last } => Ok((links, last)),
        Chain::Broken { seq } => bail!("the chain of purchase receipts is broken at link {seq}"),
    }
}

/// How many tenants' chains hold, and how many entries they have; an error if one does not.
async fn ledger(db: &PgPool) -> anyhow::Result<(usize, usize)> {
    let mut db = db.acquire().await.context("the database cannot be reached")?;
    match ledger::verify(&mut db).await.context("the ledger cannot be read")? {
        ledger::Walk::Whole { chains, links } => Ok((chains, links)),
        ledger::Walk::Broken { tenant_id, seq } => bail!("the ledger of tenant {tenant_id} is broken at entry {seq}"),
    }
}

/// How many documents hold, and the hash of the last; an error if one does not, or a number is missing.
async fn invoices(db: &PgPool) -> anyhow::Result<(usize, Option<String>)> {
    let mut db = db.acquire().await.context("the database cannot be reached")?;
    match invoices::verify(&mut db).await.context("the invoices cannot be read")? {
        invoices::Walk::Whole { links, last } => Ok((links, last)),
        invoices::Walk::Broken { place, number: Some(number) } => {
            bail!("the chain of invoices is broken at {number}, document {place}")
        }
        invoices::Walk::Broken { place, number: None } => bail!("the chain of invoices is broken: document {place} is missing"),
    }
}
