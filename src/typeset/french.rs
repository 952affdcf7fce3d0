//! Amounts, quantities and dates as they stand on French paper.

use chrono::{Datelike, NaiveDate};
use domain::{billing::Period, money::Units};

/// Between groups of three digits: narrow, and no place to break a line.
const GAP: char = '\u{202F}';

const MONTHS: [&str; 12] =
    ["janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"];

/// `1 234,50`; up to four places for a unit price.
pub(crate) fn amount(units: Units) -> String {
    let text = units.to_string();
    let (whole, places) = text.split_once('.').unwrap_or((&text, "00"));
    format!("{},{places}", grouped(whole))
}

/// `12 345`
pub(crate) fn quantity(number: i64) -> String {
    grouped(&number.to_string())
}

/// `1er novembre 2026`
pub(crate) fn day(date: NaiveDate) -> String {
    format!("{} {} {}", ordinal(date), month(date), date.year())
}

/// `1er au 31 octobre 2026`
pub(crate) fn days(period: Period) -> String {
    format!("{} au {}", ordinal(period.first_day()), day(period.last_day()))
}

fn ordinal(date: NaiveDate) -> String {
    match date.day() {
        1 => "1er".into(),
        day => day.to_string(),
    }
}

fn month(date: NaiveDate) -> &'static str {
    MONTHS.get(date.month0() as usize).copied().unwrap_or_default()
}

fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(GAP);
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_dates_are_french() {
        let shown = |text: &str| amount(text.parse().unwrap()).replace(GAP, " ");
        assert_eq!(shown("0.00"), "0,00");
        assert_eq!(shown("-1234567.50"), "-1 234 567,50");
        assert_eq!(shown("0.0414"), "0,0414");
        assert_eq!(shown("999.99"), "999,99");
        assert_eq!(quantity(-123).replace(GAP, " "), "-123");
        assert_eq!(quantity(1_000_000).replace(GAP, " "), "1 000 000");
        assert_eq!(day("2026-08-01".parse().unwrap()), "1er août 2026");
        assert_eq!(days("2028-02".parse().unwrap()), "1er au 29 février 2028");
    }
}
