//! `ligne rates`: loads rate cards, markets, exchange rates and number prices; rates a past month once more against another card.

use crate::{cli, client::Printer, config, wiring};
use anyhow::{Context as _, bail};
use domain::{
    billing::Period,
    money::MicroUsd,
    rates::{RateError, read_exchange_rates, read_markets, read_number_prices, read_rates},
};
use serde_json::json;
use sqlx::PgPool;
use std::{
    fs,
    path::{Path, PathBuf},
};
use store::{
    charges,
    rates::{self, Card, Refused, Table},
};

const EXAMPLES: [(&str, &str); 4] = [
    ("exchange.csv", include_str!("../fixtures/rates/exchange.csv")),
    ("markets.csv", include_str!("../fixtures/rates/markets.csv")),
    ("meta.csv", include_str!("../fixtures/rates/meta.csv")),
    ("telnyx.csv", include_str!("../fixtures/rates/telnyx.csv")),
];

pub(crate) async fn perform(verb: cli::Rates, print: Printer) -> anyhow::Result<()> {
    match verb {
        cli::Rates::Load { path } => load(&path, print).await,
        cli::Rates::Compare { month, path } => compare(&month, &path, print).await,
    }
}

async fn load(path: &Path, print: Printer) -> anyhow::Result<()> {
    let tables = read(path)?;
    let db = wiring::connect(&config::database_url()?).await?;
    let (added, priced) = write(&db, &tables).await?;
    if print.json {
        say!("{}", json!({ "files": tables.len(), "rows_added": added, "charges_priced": priced }));
    } else {
        say!("{} {added} rows added from {} files", print.paint.green("ok"), tables.len());
        if priced > 0 {
            say!("{} {priced} messages that were delivered before have their cost now", print.paint.green("ok"));
        }
    }
    Ok(())
}

/// All files or none of them; then what was delivered before its rates were here gets its cost. Says how many rows and charges.
async fn write(db: &PgPool, tables: &[(PathBuf, Table)]) -> anyhow::Result<(u64, usize)> {
    let mut tx = db.begin().await.context("the database cannot be reached")?;
    let mut added = 0;
    for (file, table) in tables {
        added += match rates::load(&mut tx, table).await {
            Ok(added) => added,
            Err(Refused::Rows(errors)) => return Err(refused(file, &errors)),
            Err(Refused::Database(error)) => return Err(error).context("the rates cannot be written"),
        };
    }
    tx.commit().await.context("the rates cannot be written")?;
    let priced = charges::price_waiting(db).await.context("the rates are loaded, the charges before them cannot be priced")?;
    Ok((added, priced))
}

/// The cards that come with the program, for the demo. Says how many rows they have.
pub(crate) async fn load_examples(db: &PgPool) -> anyhow::Result<u64> {
    let tables = EXAMPLES.iter().map(|(name, csv)| parse(Path::new(name), csv).map(|table| (PathBuf::from(name), table)));
    let (added, _) = write(db, &tables.collect::<anyhow::Result<Vec<_>>>()?).await?;
    Ok(added)
}

/// What the month would have cost under the cards at `path`; what they do not tell is taken from those loaded.
async fn compare(month: &str, path: &Path, print: Printer) -> anyhow::Result<()> {
    let month: Period = month.parse().context("the month is not understood")?;
    let tables = read(path)?;
    let db = wiring::connect(&config::database_url()?).await?;
    let mut db = db.acquire().await.context("the database cannot be reached")?;
    let mut card: Card = rates::card(&mut db, None).await.context("the rates cannot be read")?;
    for (_, table) in tables {
        match table {
            Table::Rates(rates) => card.rates = rates,
            Table::Markets(markets) => card.markets = markets,
            Table::Exchange(exchange) => card.exchange = exchange,
            Table::Numbers(_) => {}
        }
    }
    let rows = rates::compare(&mut db, month, &card, None).await.context("the month cannot be rated")?;
    if print.json {
        say!("{}", json!({ "data": rows }));
        return Ok(());
    }
    for row in rows {
        let (then, other) = (MicroUsd(row.then_micro), MicroUsd(row.other_micro));
        let difference = MicroUsd(row.other_micro - row.then_micro);
        let lacking = if row.without_price > 0 { format!(", {} without a price", row.without_price) } else { String::new() };
        say!(
            "{} {}: {} messages, {then} USD then, {other} USD under this card, difference {difference}{lacking}",
            row.tenant_id,
            row.category,
            row.messages
        );
    }
    Ok(())
}

/// A file, or every `.csv` of a directory; what a file holds is told by its header.
fn read(path: &Path) -> anyhow::Result<Vec<(PathBuf, Table)>> {
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("{} cannot be read", path.display()))? {
            let file = entry.context("the directory cannot be read")?.path();
            if file.extension().is_some_and(|ending| ending == "csv") {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    if files.is_empty() {
        bail!("{} holds no .csv file", path.display());
    }
    files.into_iter().map(|file| table(&file).map(|table| (file, table))).collect()
}

fn table(file: &Path) -> anyhow::Result<Table> {
    let csv = fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    parse(file, &csv)
}

fn parse(file: &Path, csv: &str) -> anyhow::Result<Table> {
    let header = csv.trim_start_matches('\u{feff}').lines().next().unwrap_or_default().to_lowercase();
    let has = |column: &str| header.split(',').any(|name| name.trim().trim_matches('"') == column);
    let table = if has("rate") {
        read_exchange_rates(csv).map(Table::Exchange)
    } else if has("number_type") {
        read_number_prices(csv).map(Table::Numbers)
    } else if has("country") {
        read_markets(csv).map(Table::Markets)
    } else {
        read_rates(csv).map(Table::Rates)
    };
    table.map_err(|errors| refused(file, &errors))
}

fn refused(file: &Path, errors: &[RateError]) -> anyhow::Error {
    let lines: Vec<String> = errors.iter().map(|error| format!("  {error} ({})", error.code)).collect();
    anyhow::anyhow!("{} is refused, nothing was written:\n{}", file.display(), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_known_by_its_header() {
        let tables = read(Path::new("fixtures/rates")).unwrap();
        let kinds: Vec<_> = tables
            .iter()
            .map(|(file, table)| {
                let kind = match table {
                    Table::Rates(_) => "rates",
                    Table::Markets(_) => "markets",
                    Table::Exchange(_) => "exchange",
                    Table::Numbers(_) => "numbers",
                };
                (file.file_name().unwrap().to_str().unwrap(), kind)
            })
            .collect();
        assert_eq!(
            kinds,
            [("exchange.csv", "exchange"), ("markets.csv", "markets"), ("meta.csv", "rates"), ("telnyx.csv", "numbers")]
        );
    }
}
