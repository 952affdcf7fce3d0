//! What providers charge, as dated data: rate cards, a country's market, exchange rates, number prices; read and checked.
//!
//! Files are CSV (RFC 4180) with a header; see `fixtures/rates/`. A row holds from its `valid_from`, midnight in the
//! account's time zone, until its `valid_to` (exclusive, may be empty) or the next row of its kind. Rows that overlap, or
//! leave days without a price in between, are refused before anything is written.

use crate::money::{ExchangeRate, MicroUsd, parse_decimal};
use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Rows of one file; a full card of Meta has about 1 000.
pub const ROWS_MAX: usize = 100_000;
/// Categories that every market has a price for.
const CATEGORIES_NEEDED: [Category; 3] = [Category::Marketing, Category::Utility, Category::Authentication];
/// Meta's billing currencies (contracts/meta-cloud-api.md 12.1); there is no MAD.
const CURRENCIES: [&str; 16] =
    ["USD", "AED", "ARS", "AUD", "BRL", "CLP", "COP", "EUR", "GBP", "IDR", "INR", "MXN", "MYR", "PEN", "SAR", "SGD"];

/// Meta's pricing categories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    Marketing,
    Utility,
    Authentication,
    AuthenticationInternational,
    Service,
    MarketingLite,
}

impl Category {
    pub const ALL: [Self; 6] = [
        Self::Marketing,
        Self::Utility,
        Self::Authentication,
        Self::AuthenticationInternational,
        Self::Service,
        Self::MarketingLite,
    ];

    /// In any case, with hyphen or underscore, as webhooks and analytics differ. None for categories that we do not know.
    pub fn read(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase().replace('-', "_");
        Self::ALL.into_iter().find(|category| category.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Marketing => "marketing",
            Self::Utility => "utility",
            Self::Authentication => "authentication",
            Self::AuthenticationInternational => "authentication_international",
            Self::Service => "service",
            Self::MarketingLite => "marketing_lite",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A price of one delivered message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// `morocco`, `rest_of_africa`: lower case with underscores.
    pub market: String,
    pub category: Category,
    pub currency: String,
    /// Millionths of the currency's unit.
    pub price_micro: i64,
    pub valid_from: NaiveDate,
    /// Exclusive; none until the next row.
    pub valid_to: Option<NaiveDate>,
    pub source: String,
}

/// From when a country belongs to a market.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarketOf {
    /// ISO 3166 alpha-2.
    pub country: String,
    pub market: String,
    pub valid_from: NaiveDate,
    pub valid_to: Option<NaiveDate>,
    pub source: String,
}

/// What a number costs at Telnyx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberPrice {
    /// ISO 3166 alpha-2.
    pub country: String,
    /// `local`, `mobile`, `national`, `toll_free`.
    pub number_type: String,
    pub monthly: MicroUsd,
    pub upfront: MicroUsd,
    pub valid_from: NaiveDate,
    pub valid_to: Option<NaiveDate>,
    pub source: String,
}

/// Something wrong with a file. `line` counts the header as 1; 0 means the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct RateError {
    pub line: usize,
    /// `bad_header`, `bad_row`, `bad_value`, `overlap`, `gap`, `missing_category`, `too_many_rows`.
    pub code: &'static str,
    pub message: String,
}

/// Reads `market,category,currency,price,valid_from,source` with an optional `valid_to`. All errors at once.
pub fn read_rates(csv: &str) -> Result<Vec<Rate>, Vec<RateError>> {
    let columns = ["market", "category", "currency", "price", "valid_from", "source"];
    let rows = read(csv, &columns, |row| {
        let category = row.text("category")?;
        let currency = row.text("currency")?.to_ascii_uppercase();
        if !CURRENCIES.contains(&currency.as_str()) {
            return Err(format!("{currency:?} is not one of Meta's billing currencies"));
        }
        Ok(Rate {
            market: row.key("market")?,
            category: Category::read(category).ok_or_else(|| format!("{category:?} is not a pricing category"))?,
            currency,
            price_micro: row.price("price")?,
            valid_from: row.date("valid_from")?,
            valid_to: row.end()?,
            source: row.text("source")?.to_owned(),
        })
    })?;
    check_rates(&rows).map(|()| rows.into_iter().map(|(_, rate)| rate).collect())
}

/// Checks a card that grows: the rows already loaded and the new ones together. New rows come after the old (line 0).
pub fn join_rates(loaded: &[Rate], new: &[Rate]) -> Result<Vec<Rate>, Vec<RateError>> {
    // A file loaded again changes nothing.
    let fresh = new.iter().filter(|rate| !loaded.contains(rate));
    let rows: Vec<(usize, Rate)> = loaded.iter().chain(fresh).map(|rate| (0, rate.clone())).collect();
    check_rates(&rows).map(|()| rows.into_iter().map(|(_, rate)| rate).collect())
}

fn check_rates(rows: &[(usize, Rate)]) -> Result<(), Vec<RateError>> {
    let name = |rate: &Rate| format!("{} {} in {}", rate.market, rate.category, rate.currency);
    let mut errors = spans(rows, name, |rate| (rate.valid_from, rate.valid_to));
    let mut markets: BTreeMap<(&str, &str), (usize, Vec<Category>)> = BTreeMap::new();
    for (line, rate) in rows {
        let market = markets.entry((&rate.market, &rate.currency)).or_insert((*line, Vec::new()));
        market.1.push(rate.category);
    }
    for ((market, currency), (line, categories)) in markets {
        for needed in CATEGORIES_NEEDED.iter().filter(|needed| !categories.contains(needed)) {
            let message = format!("{market} in {currency} has no price for {needed}");
            errors.push(RateError { line, code: "missing_category", message });
        }
    }
    finish(errors)
}

/// Reads `country,market,valid_from,source` with an optional `valid_to`.
pub fn read_markets(csv: &str) -> Result<Vec<MarketOf>, Vec<RateError>> {
    let rows = read(csv, &["country", "market", "valid_from", "source"], |row| {
        Ok(MarketOf {
            country: row.country()?,
            market: row.key("market")?,
            valid_from: row.date("valid_from")?,
            valid_to: row.end()?,
            source: row.text("source")?.to_owned(),
        })
    })?;
    finish(spans(&rows, |row| row.country.clone(), |row| (row.valid_from, row.valid_to)))?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Reads `from,to,rate,valid_from,source`: dirhams for one dollar (`USD,MAD,9.9500,2026-10-01,…`).
pub fn read_exchange_rates(csv: &str) -> Result<Vec<ExchangeRate>, Vec<RateError>> {
    let rows = read(csv, &["from", "to", "rate", "valid_from", "source"], |row| {
        match (row.text("from")?, row.text("to")?) {
            ("USD", "MAD") => {}
            (from, to) => return Err(format!("{from} to {to}: exchange rates are USD to MAD")),
        }
        let micro_mad_per_usd = row.price("rate")?;
        if micro_mad_per_usd == 0 {
            return Err("rate must be above zero".into());
        }
        Ok(ExchangeRate { micro_mad_per_usd, valid_from: row.date("valid_from")?, source: row.text("source")?.to_owned() })
    })?;
    finish(spans(&rows, |_| "USD to MAD".into(), |row| (row.valid_from, None)))?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Reads `country,number_type,monthly,upfront,currency,valid_from,source` in USD, with an optional `valid_to`.
pub fn read_number_prices(csv: &str) -> Result<Vec<NumberPrice>, Vec<RateError>> {
    let columns = ["country", "number_type", "monthly", "upfront", "currency", "valid_from", "source"];
    let rows = read(csv, &columns, |row| {
        if row.text("currency")? != "USD" {
            return Err("number prices are in USD".into());
        }
        Ok(NumberPrice {
            country: row.country()?,
            number_type: row.key("number_type")?,
            monthly: MicroUsd(row.price("monthly")?),
            upfront: MicroUsd(row.price("upfront")?),
            valid_from: row.date("valid_from")?,
            valid_to: row.end()?,
            source: row.text("source")?.to_owned(),
        })
    })?;
    let name = |row: &NumberPrice| format!("{} {}", row.country, row.number_type);
    finish(spans(&rows, name, |row| (row.valid_from, row.valid_to)))?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The price in force at an instant: the latest row that began by that day in the account's time zone, unless it ended.
pub fn rate_at<'a>(
    rates: &'a [Rate],
    market: &str,
    category: Category,
    currency: &str,
    at: DateTime<Utc>,
    zone: Tz,
) -> Option<&'a Rate> {
    let day = at.with_timezone(&zone).date_naive();
    let same = |rate: &&Rate| rate.market == market && rate.category == category && rate.currency == currency;
    let latest = rates.iter().filter(same).filter(|rate| rate.valid_from <= day).max_by_key(|rate| rate.valid_from)?;
    latest.valid_to.is_none_or(|end| day < end).then_some(latest)
}

/// The market of a country at an instant, by the account's calendar.
pub fn market_at<'a>(markets: &'a [MarketOf], country: &str, at: DateTime<Utc>, zone: Tz) -> Option<&'a str> {
    let day = at.with_timezone(&zone).date_naive();
    let begun = markets.iter().filter(|row| row.country == country && row.valid_from <= day);
    let latest = begun.max_by_key(|row| row.valid_from)?;
    latest.valid_to.is_none_or(|end| day < end).then_some(latest.market.as_str())
}

/// Rows of one name must follow each other: none begins before the last has ended, and none later.
fn spans<T>(
    rows: &[(usize, T)],
    name: impl Fn(&T) -> String,
    span: impl Fn(&T) -> (NaiveDate, Option<NaiveDate>),
) -> Vec<RateError> {
    let mut named: BTreeMap<String, Vec<(NaiveDate, Option<NaiveDate>, usize)>> = BTreeMap::new();
    for (line, row) in rows {
        let (from, to) = span(row);
        named.entry(name(row)).or_default().push((from, to, *line));
    }
    let mut errors = Vec::new();
    for (name, mut spans) in named {
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let ((first, end, earlier), (next, _, line)) = (pair[0], pair[1]);
            let at = if earlier > 0 { format!(" (line {earlier})") } else { String::new() };
            if first == next || end.is_some_and(|end| end > next) {
                let message = format!("{name} from {next} overlaps the price from {first}{at}");
                errors.push(RateError { line, code: "overlap", message });
            } else if let Some(end) = end.filter(|end| *end < next) {
                let message = format!("{name} has no price from {end} until {next}");
                errors.push(RateError { line, code: "gap", message });
            }
        }
    }
    errors
}

fn finish(mut errors: Vec<RateError>) -> Result<(), Vec<RateError>> {
    errors.sort_by_key(|error| error.line);
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// One row, by column name.
struct Row<'a> {
    header: &'a [String],
    cells: &'a [String],
}

impl Row<'_> {
    fn cell(&self, column: &str) -> &str {
        let at = self.header.iter().position(|name| name == column);
        at.and_then(|at| self.cells.get(at)).map(|cell| cell.trim()).unwrap_or_default()
    }

    fn text(&self, column: &str) -> Result<&str, String> {
        let cell = self.cell(column);
        if cell.is_empty() { Err(format!("{column} is empty")) } else { Ok(cell) }
    }

    /// Lower case, words joined by underscores: `Rest of Africa` is `rest_of_africa`.
    fn key(&self, column: &str) -> Result<String, String> {
        let text = self.text(column)?;
        Ok(text.to_lowercase().split([' ', '-', '_']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_"))
    }

    fn country(&self) -> Result<String, String> {
        let code = self.text("country")?;
        let sound = code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
        if sound { Ok(code.to_owned()) } else { Err(format!("{code:?} is not an ISO 3166 alpha-2 code")) }
    }

    fn price(&self, column: &str) -> Result<i64, String> {
        let text = self.text(column)?;
        match parse_decimal(text, 0, 6) {
            Ok(price) if price >= 0 => Ok(price),
            Ok(_) => Err(format!("{column} is negative")),
            Err(error) => Err(format!("{column} {text:?}: {error}")),
        }
    }

    fn date(&self, column: &str) -> Result<NaiveDate, String> {
        let text = self.text(column)?;
        NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| format!("{column} {text:?} is not a date such as 2026-10-01"))
    }

    fn end(&self) -> Result<Option<NaiveDate>, String> {
        if self.cell("valid_to").is_empty() {
            return Ok(None);
        }
        let (from, to) = (self.date("valid_from")?, self.date("valid_to")?);
        if to > from { Ok(Some(to)) } else { Err(format!("valid_to {to} is not after valid_from {from}")) }
    }
}

fn read<T>(csv: &str, columns: &[&str], take: impl Fn(Row<'_>) -> Result<T, String>) -> Result<Vec<(usize, T)>, Vec<RateError>> {
    let error = |line, code, message: String| RateError { line, code, message };
    let mut records = records(csv.trim_start_matches('\u{feff}'))
        .map_err(|line| vec![error(line, "bad_row", "a quoted cell is not closed, or goes on after its quote".into())])?;
    if records.is_empty() {
        return Err(vec![error(0, "bad_header", "the file is empty".into())]);
    }
    let header: Vec<String> = records.remove(0).1.iter().map(|name| name.trim().to_lowercase()).collect();
    let missing: Vec<&str> = columns.iter().copied().filter(|name| !header.iter().any(|h| h == name)).collect();
    let unknown: Vec<&str> = header.iter().map(String::as_str).filter(|h| !columns.contains(h) && *h != "valid_to").collect();
    if !missing.is_empty() || !unknown.is_empty() {
        let message = format!("missing columns [{}], unknown columns [{}]", missing.join(", "), unknown.join(", "));
        return Err(vec![error(1, "bad_header", message)]);
    }
    if records.len() > ROWS_MAX {
        return Err(vec![error(0, "too_many_rows", format!("{} rows, of {ROWS_MAX} allowed", records.len()))]);
    }
    if records.is_empty() {
        return Err(vec![error(0, "bad_row", "the file has no rows".into())]);
    }
    let mut rows = Vec::new();
    let mut errors = Vec::new();
    for (line, cells) in records {
        if cells.len() != header.len() {
            errors.push(error(line, "bad_row", format!("{} cells under {} columns", cells.len(), header.len())));
            continue;
        }
        match take(Row { header: &header, cells: &cells }) {
            Ok(row) => rows.push((line, row)),
            Err(message) => errors.push(error(line, "bad_value", message)),
        }
    }
    if errors.is_empty() { Ok(rows) } else { Err(errors) }
}

/// Splits CSV into records with the line on which each begins. Empty lines are skipped. `Err` is the line of a bad quote.
fn records(csv: &str) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let mut records = Vec::new();
    let (mut line, mut begun) = (1, 1);
    let (mut cells, mut cell, mut quoted, mut closed) = (Vec::new(), String::new(), false, false);
    let mut letters = csv.chars().peekable();
    while let Some(letter) = letters.next() {
        line += usize::from(letter == '\n');
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                cell.push('"');
            }
            '"' if quoted => (quoted, closed) = (false, true),
            _ if quoted => cell.push(letter),
            '"' if cell.is_empty() && !closed => quoted = true,
            ',' => {
                cells.push(std::mem::take(&mut cell));
                closed = false;
            }
            '\n' => {
                cells.push(std::mem::take(&mut cell));
                closed = false;
                let record = std::mem::take(&mut cells);
                if record.iter().any(|cell| !cell.trim().is_empty()) {
                    records.push((begun, record));
                }
                begun = line;
            }
            '\r' if matches!(letters.peek(), None | Some('\n')) => {}
            _ if closed => return Err(line),
            _ => cell.push(letter),
        }
    }
    if quoted {
        return Err(begun);
    }
    if !cell.is_empty() || !cells.is_empty() || closed {
        cells.push(cell);
        records.push((begun, cells));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &str = "market,category,currency,price,valid_from,valid_to,source\n";

    fn errors(rows: &str) -> Vec<(usize, &'static str)> {
        read_rates(&format!("{HEADER}{rows}")).err().unwrap_or_default().into_iter().map(|e| (e.line, e.code)).collect()
    }

    fn rest(market: &str) -> String {
        ["utility", "authentication"].map(|c| format!("{market},{c},USD,0.004,2026-01-01,,t\n")).concat()
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        assert_eq!(read_rates("").unwrap_err()[0].code, "bad_header");
        assert_eq!(read_rates("market,price\n").unwrap_err()[0].code, "bad_header");
        assert_eq!(read_rates(HEADER).unwrap_err()[0].code, "bad_row");
        let rows = "a,marketing,USD,0.02,2026-01-01,,t\na,marketing,MAD,0.02,2026-02-01,,t\na,poke,USD,1,2026-03-01,,t\n\
            a,utility,USD,-1,2026-01-01,,t\na,utility,USD,0.0000001,2026-01-01,,t\na,utility,USD,1,2026-13-01,,t\n\
            a,utility,USD,1,2026-02-01,2026-01-01,t\na,utility,USD\n\"a,utility";
        assert_eq!(errors(rows)[0].1, "bad_row", "an open quote stops the reading");
        let rows = rows.rsplit_once('\n').unwrap().0;
        let codes = [3, 4, 5, 6, 7, 8].map(|line| (line, "bad_value"));
        assert_eq!(errors(rows), [&codes[..], &[(9, "bad_row")]].concat());
    }

    #[test]
    fn overlaps_gaps_and_holes_are_refused() {
        let fine = format!("a,marketing,USD,1,2026-01-01,2026-04-01,t\na,marketing,USD,2,2026-04-01,,t\n{}", rest("a"));
        assert_eq!(errors(&fine), []);
        let overlap = format!("a,marketing,USD,1,2026-01-01,2026-04-02,t\na,marketing,USD,2,2026-04-01,,t\n{}", rest("a"));
        assert_eq!(errors(&overlap), [(3, "overlap")]);
        let twice = format!("a,marketing,USD,1,2026-01-01,,t\na,marketing,USD,2,2026-01-01,,t\n{}", rest("a"));
        assert_eq!(errors(&twice), [(3, "overlap")]);
        let gap = format!("a,marketing,USD,1,2026-01-01,2026-03-01,t\na,marketing,USD,2,2026-04-01,,t\n{}", rest("a"));
        assert_eq!(errors(&gap), [(3, "gap")]);
        assert_eq!(errors(&rest("a")), [(2, "missing_category")]);
    }

    #[test]
    fn a_card_loaded_again_changes_nothing_and_a_changed_one_is_refused() {
        let card = read_rates(&format!("{HEADER}a,marketing,USD,1,2026-01-01,,t\n{}", rest("a"))).unwrap();
        assert_eq!(join_rates(&card, &card).unwrap(), card);
        let mut changed = card.clone();
        changed[0].price_micro += 1;
        assert_eq!(join_rates(&card, &changed).unwrap_err()[0].code, "overlap");
    }

    #[test]
    fn quotes_and_line_ends_are_read_as_rfc_4180_has_them() {
        let read = records("a,\"b, \"\"c\"\"\r\nd\"\r\n\n,\n\"\",x").unwrap();
        let expected = [(1, vec!["a".to_owned(), "b, \"c\"\r\nd".into()]), (5, vec![String::new(), "x".into()])];
        assert_eq!(read, expected);
        assert_eq!(records("a\n\"b\"c\n"), Err(2));
    }

    fn fixture(name: &str) -> String {
        std::fs::read_to_string(format!("{}/../../fixtures/rates/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn morocco_moves_on_the_1st_of_october_at_the_accounts_midnight() {
        let (rates, markets) = (read_rates(&fixture("meta.csv")).unwrap(), read_markets(&fixture("markets.csv")).unwrap());
        let zone = chrono_tz::Africa::Casablanca;
        let price = |category, at: &str| {
            let at: DateTime<Utc> = at.parse().unwrap();
            let market = market_at(&markets, "MA", at, zone).unwrap();
            rate_at(&rates, market, category, "USD", at, zone).unwrap().price_micro
        };
        // Casablanca is an hour ahead of UTC in autumn.
        let (before, after) = ("2026-09-30T22:59:59Z", "2026-09-30T23:00:00Z");
        for (category, old, new) in [
            (Category::Marketing, 22_500, 41_400),
            (Category::Utility, 4_000, 23_000),
            (Category::Authentication, 4_000, 23_000),
            (Category::Service, 0, 23_000),
        ] {
            assert_eq!((price(category, before), price(category, after)), (old, new), "{category}");
        }
        assert_eq!(price(Category::AuthenticationInternational, after), 81_100);
        let at = after.parse().unwrap();
        assert_eq!(rate_at(&rates, "france", Category::Marketing, "USD", at, zone).unwrap().price_micro, 85_900);
        assert_eq!(rate_at(&rates, "rest_of_africa", Category::Service, "USD", at, zone).unwrap().price_micro, 4_000);
        assert_eq!(rate_at(&rates, "morocco", Category::Utility, "EUR", at, zone), None);
    }

    #[test]
    fn the_other_fixtures_are_sound() {
        let exchange = read_exchange_rates(&fixture("exchange.csv")).unwrap();
        assert!(exchange.iter().all(|rate| (8_000_000..12_000_000).contains(&rate.micro_mad_per_usd)));
        let numbers = read_number_prices(&fixture("telnyx.csv")).unwrap();
        assert!(numbers.iter().any(|price| price.country == "MA"));
    }

    proptest! {
        #[test]
        fn nothing_read_panics(text in "[a-z0-9,\"\r\n.-]{0,80}") {
            let _ = read_rates(&text);
            let _ = read_rates(&format!("{HEADER}{text}"));
        }

        #[test]
        fn written_cells_read_back(rows in prop::collection::vec(prop::collection::vec("[a-z,\"\n é]{1,6}", 2..4), 1..6)) {
            let mark = |cell: &String| format!("x{cell}");
            let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(mark).collect()).collect();
            let quote = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let csv: String = rows.iter().map(|row| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\r\n").collect();
            let read: Vec<Vec<String>> = records(&csv).unwrap().into_iter().map(|(_, cells)| cells).collect();
            prop_assert_eq!(read, rows);
        }

        #[test]
        fn each_day_has_the_price_that_began_last(starts in prop::collection::btree_set(0u64..300, 1..8), day in 0u64..400) {
            let first = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
            let rates: Vec<Rate> = starts.iter().map(|start| Rate {
                market: "a".into(), category: Category::Utility, currency: "USD".into(), price_micro: i64::try_from(*start).unwrap(),
                valid_from: first + chrono::Days::new(*start), valid_to: None, source: "t".into(),
            }).collect();
            let at = (first + chrono::Days::new(day)).and_hms_opt(12, 0, 0).unwrap().and_utc();
            let found = rate_at(&rates, "a", Category::Utility, "USD", at, Tz::UTC).map(|rate| rate.valid_from);
            let expected = starts.iter().rfind(|start| **start <= day).map(|start| first + chrono::Days::new(*start));
            prop_assert_eq!(found, expected);
        }
    }
}
