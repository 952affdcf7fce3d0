//! Money in whole numbers: ledger units of 0.0001 MAD, micro-dollars, dated exchange rates, French words.
//!
//! Nothing here is a float. Rounding is half up and happens once, where a function says so; of a negative amount it is the
//! mirror image, so that a credit always undoes its charge.

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Ledger units in one centime.
pub const UNITS_PER_CENTIME: i64 = 100;
/// Ledger units in one dirham.
pub const UNITS_PER_DIRHAM: i64 = 10_000;
/// Moroccan TVA in basis points (0.01 %).
pub const VAT_BASIS_POINTS: i64 = 2_000;
/// Above this amount (in dirhams) `in_words` has no words.
pub const WORDS_MAX_DIRHAMS: i64 = 999_999_999;

/// An amount in ledger units of 0.0001 MAD. In JSON and text a decimal string with two to four places (`"0.10"`, `"0.0414"`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct Units(pub i64);

impl Units {
    pub const ZERO: Self = Self(0);

    pub fn from_centimes(centimes: i64) -> Result<Self, MoneyError> {
        centimes.checked_mul(UNITS_PER_CENTIME).map(Self).ok_or(MoneyError::TooLarge)
    }

    /// Reads an amount of exactly two places, as invoices, payments and credit notes have it.
    pub fn amount(text: &str) -> Result<Self, MoneyError> {
        let units: Self = text.parse()?;
        if units.is_whole_centimes() { Ok(units) } else { Err(MoneyError::Places { least: 2, most: 2 }) }
    }

    pub fn is_whole_centimes(self) -> bool {
        self.0 % UNITS_PER_CENTIME == 0
    }

    /// To the centime, half up. The one rounding of an invoice line.
    pub fn rounded(self) -> Result<Self, MoneyError> {
        Self::from_centimes(narrow(divide_half_up(self.0.into(), UNITS_PER_CENTIME.into()))?)
    }

    /// Quantity x unit price, exact.
    pub fn times(self, quantity: i64) -> Result<Self, MoneyError> {
        self.0.checked_mul(quantity).map(Self).ok_or(MoneyError::TooLarge)
    }

    /// This amount x `part` / `whole`, rounded once, to the centime.
    pub fn share(self, part: i64, whole: i64) -> Result<Self, MoneyError> {
        if whole <= 0 {
            return Err(MoneyError::NotANumber);
        }
        let scaled = i128::from(self.0) * i128::from(part);
        Self::from_centimes(narrow(divide_half_up(scaled, i128::from(whole) * i128::from(UNITS_PER_CENTIME)))?)
    }

    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::TooLarge)
    }

    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_sub(other.0).map(Self).ok_or(MoneyError::TooLarge)
    }

    pub fn sum(amounts: impl IntoIterator<Item = Self>) -> Result<Self, MoneyError> {
        amounts.into_iter().try_fold(Self::ZERO, Self::plus)
    }
}

/// Quantity x unit price, rounded half up to the centime: the amount of an invoice line.
pub fn line_amount(quantity: i64, unit_price: Units) -> Result<Units, MoneyError> {
    unit_price.times(quantity)?.rounded()
}

/// TVA on the net of a whole invoice, rounded once, half up.
pub fn vat(net: Units, basis_points: i64) -> Result<Units, MoneyError> {
    net.share(basis_points, 10_000)
}

/// The net that with TVA makes `total`, rounded half up to the centime.
pub fn net_of_total(total: Units, basis_points: i64) -> Result<Units, MoneyError> {
    total.share(10_000, 10_000 + basis_points)
}

/// A cost in millionths of a US dollar. In JSON and text a decimal string with two to six places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct MicroUsd(pub i64);

impl MicroUsd {
    pub const ZERO: Self = Self(0);

    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.0.checked_add(other.0).map(Self).ok_or(MoneyError::TooLarge)
    }

    pub fn times(self, quantity: i64) -> Result<Self, MoneyError> {
        self.0.checked_mul(quantity).map(Self).ok_or(MoneyError::TooLarge)
    }

    /// In dirhams at `rate`, rounded half up to the ledger unit.
    pub fn to_mad(self, rate: &ExchangeRate) -> Result<Units, MoneyError> {
        // 1e-6 USD x 1e-6 MAD/USD = 1e-12 MAD; a ledger unit is 1e-4 MAD.
        let exact = i128::from(self.0) * i128::from(rate.micro_mad_per_usd);
        narrow(divide_half_up(exact, 100_000_000)).map(Units)
    }
}

/// Dirhams for one US dollar from a day on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeRate {
    /// Millionths of a dirham for one dollar, positive: 10.05 is 10 050 000.
    pub micro_mad_per_usd: i64,
    /// First day, in the seller's time zone.
    pub valid_from: NaiveDate,
    /// Who published it.
    pub source: String,
}

impl ExchangeRate {
    /// The rate in force on `day`: the latest that began by then.
    pub fn on(rates: &[ExchangeRate], day: NaiveDate) -> Option<&ExchangeRate> {
        rates.iter().filter(|rate| rate.valid_from <= day).max_by_key(|rate| rate.valid_from)
    }
}

/// What is wrong with an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("not a decimal amount such as \"1234.50\"")]
    NotANumber,
    #[error("an amount has {least} to {most} decimal places")]
    Places { least: usize, most: usize },
    #[error("the amount is too large")]
    TooLarge,
    #[error("the amount must not be negative")]
    Negative,
}

macro_rules! decimal_text {
    ($type:ident, $places:expr) => {
        impl FromStr for $type {
            type Err = MoneyError;
            fn from_str(text: &str) -> Result<Self, MoneyError> {
                parse_decimal(text, 2, $places).map(Self)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format_decimal(self.0, $places))
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // A JSON number has been a float on its way: only strings are amounts.
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}
decimal_text!(Units, 4);
decimal_text!(MicroUsd, 6);

/// Reads `text` as a whole number of 10^-`most`: an optional `-`, digits without leading zeros, a point, `least` to `most` digits.
pub(crate) fn parse_decimal(text: &str, least: usize, most: usize) -> Result<i64, MoneyError> {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, places) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    if !digits(whole) || (whole.len() > 1 && whole.starts_with('0')) || (unsigned.contains('.') && !digits(places)) {
        return Err(MoneyError::NotANumber);
    }
    if places.len() < least || places.len() > most {
        return Err(MoneyError::Places { least, most });
    }
    // The sign goes first, or the smallest i64 could not be read back.
    let sign = if negative { "-" } else { "" };
    format!("{sign}{whole}{places:0<most$}").parse().map_err(|_| MoneyError::TooLarge)
}

/// Two decimal places, more where the amount has them.
fn format_decimal(value: i64, places: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let needed = fraction.trim_end_matches('0').len().max(2);
    format!("{sign}{whole}.{}", &fraction[..needed])
}

/// `value / divisor` to the nearest whole number, halves away from zero. `divisor` is positive.
fn divide_half_up(value: i128, divisor: i128) -> i128 {
    let magnitude = (value.abs() * 2 + divisor) / (divisor * 2);
    if value < 0 { -magnitude } else { magnitude }
}

fn narrow(value: i128) -> Result<i64, MoneyError> {
    i64::try_from(value).map_err(|_| MoneyError::TooLarge)
}

/// An invoice's total in French words: `mille deux cent trente-quatre dirhams et cinquante centimes`.
/// Whole centimes from 0 to 999 999 999.99 MAD.
pub fn in_words(amount: Units) -> Result<String, MoneyError> {
    if amount.0 < 0 {
        return Err(MoneyError::Negative);
    }
    if !amount.is_whole_centimes() {
        return Err(MoneyError::Places { least: 2, most: 2 });
    }
    let dirhams = amount.0 / UNITS_PER_DIRHAM;
    let centimes = amount.0 % UNITS_PER_DIRHAM / UNITS_PER_CENTIME;
    if dirhams > WORDS_MAX_DIRHAMS {
        return Err(MoneyError::TooLarge);
    }
    // "Million" is a noun: what it counts follows with "de" when nothing stands between.
    let of = if dirhams > 0 && dirhams % 1_000_000 == 0 { "de " } else { "" };
    let mut text = format!("{} {of}{}", number_words(dirhams), plural("dirham", dirhams));
    if centimes > 0 {
        text.push_str(&format!(" et {} {}", number_words(centimes), plural("centime", centimes)));
    }
    Ok(text)
}

fn plural(word: &str, count: i64) -> String {
    format!("{word}{}", if count > 1 { "s" } else { "" })
}

fn number_words(number: i64) -> String {
    if number == 0 {
        return "zéro".into();
    }
    let (millions, thousands, rest) = (number / 1_000_000, number / 1_000 % 1_000, number % 1_000);
    let mut parts = Vec::new();
    if millions > 0 {
        parts.push(format!("{} {}", below_thousand(millions, true), plural("million", millions)));
    }
    match thousands {
        0 => {}
        1 => parts.push("mille".into()),
        // "Mille" is a number word: cent and quatre-vingt before it stay without s.
        _ => parts.push(format!("{} mille", below_thousand(thousands, false))),
    }
    if rest > 0 {
        parts.push(below_thousand(rest, true));
    }
    parts.join(" ")
}

/// 1..=999; `last` says that no number word follows, so that `cents` and `quatre-vingts` take their s.
fn below_thousand(number: i64, last: bool) -> String {
    let (hundreds, rest) = (number / 100, number % 100);
    let s = if last && rest == 0 && hundreds > 1 { "s" } else { "" };
    let cents = match hundreds {
        0 => String::new(),
        1 => "cent".into(),
        _ => format!("{} cent{s}", below_hundred(hundreds, true)),
    };
    match (cents.is_empty(), rest) {
        (_, 0) => cents,
        (true, _) => below_hundred(rest, last),
        (false, _) => format!("{cents} {}", below_hundred(rest, last)),
    }
}

/// 1..=99.
fn below_hundred(number: i64, last: bool) -> String {
    const SMALL: [&str; 20] = [
        "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze", "douze", "treize",
        "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
    ];
    let small = |n: i64| usize::try_from(n).ok().and_then(|n| SMALL.get(n)).copied().unwrap_or_default();
    let tens = match number {
        0..20 => return small(number).into(),
        20..30 => "vingt",
        30..40 => "trente",
        40..50 => "quarante",
        50..60 => "cinquante",
        60..80 => "soixante",
        _ => "quatre-vingt",
    };
    // Soixante and quatre-vingt count on to 19.
    let rest = if number < 60 { number % 10 } else { number % 20 };
    match rest {
        0 if tens == "quatre-vingt" && last => "quatre-vingts".into(),
        0 => tens.into(),
        1 | 11 if tens != "quatre-vingt" => format!("{tens} et {}", small(rest)),
        _ => format!("{tens}-{}", small(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in
            ["", ".", "-", "1.", ".50", "1,50", " 1.50", "1.50 ", "+1.50", "1e3", "01.50", "--1.00", "1.5.0", "١.٥٠", "NaN"]
        {
            assert_eq!(text.parse::<Units>(), Err(MoneyError::NotANumber), "{text}");
        }
        for text in ["1", "1.5", "0.00001"] {
            assert_eq!(text.parse::<Units>(), Err(MoneyError::Places { least: 2, most: 4 }), "{text}");
        }
        assert_eq!("922337203685477.5808".parse::<Units>(), Err(MoneyError::TooLarge));
        assert_eq!(Units::amount("0.0414"), Err(MoneyError::Places { least: 2, most: 2 }));
        assert!(serde_json::from_str::<Units>("1.5").is_err());
    }

    #[test]
    fn amounts_print_with_two_places_and_prices_with_what_they_have() {
        for text in ["0.00", "1234.50", "0.10", "0.0414", "-0.05", "0.125"] {
            assert_eq!(text.parse::<Units>().unwrap().to_string(), text);
        }
        assert_eq!("1.5000".parse::<Units>().unwrap().to_string(), "1.50");
        assert_eq!("0.0230".parse::<MicroUsd>().unwrap(), MicroUsd(23_000));
        assert_eq!(serde_json::to_string(&Units(1_000)).unwrap(), "\"0.10\"");
    }

    #[test]
    fn halves_go_up_once_and_credits_mirror_charges() {
        assert_eq!(line_amount(1, Units(50)).unwrap(), Units(100));
        assert_eq!(line_amount(1, Units(49)).unwrap(), Units(0));
        assert_eq!(line_amount(3, Units(450)).unwrap(), Units(1_400), "13.5 centimes");
        assert_eq!(line_amount(-1, Units(50)).unwrap(), Units(-100));
        assert_eq!(vat(Units(1_200), VAT_BASIS_POINTS).unwrap(), Units(200), "2.4 centimes");
        assert_eq!(vat(Units(1_300), VAT_BASIS_POINTS).unwrap(), Units(300), "2.6 centimes");
        assert_eq!(Units(i64::MAX - 7).rounded(), Ok(Units(i64::MAX - 7)), "whole centimes already");
        assert_eq!(Units::from_centimes(i64::MAX), Err(MoneyError::TooLarge));
        assert_eq!(line_amount(i64::MAX, Units(2)), Err(MoneyError::TooLarge));
    }

    #[test]
    fn dollars_become_dirhams_at_the_rate_of_the_day() {
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let rate = |micro, from| ExchangeRate { micro_mad_per_usd: micro, valid_from: day(from), source: "test".into() };
        let rates = [rate(10_000_000, "2026-10-01"), rate(9_250_000, "2026-11-01")];
        assert_eq!(ExchangeRate::on(&rates, day("2026-09-30")), None);
        assert_eq!(ExchangeRate::on(&rates, day("2026-10-31")), Some(&rates[0]));
        assert_eq!(ExchangeRate::on(&rates, day("2026-11-01")), Some(&rates[1]));
        assert_eq!(MicroUsd(23_000).to_mad(&rates[0]).unwrap(), Units(2_300));
        assert_eq!(MicroUsd(23_000).to_mad(&rates[1]).unwrap(), Units(2_128), "0.21275 half up");
    }

    #[test]
    fn words_follow_the_rules_of_french() {
        for (amount, words) in [
            ("0.00", "zéro dirham"),
            ("0.01", "zéro dirham et un centime"),
            ("1.00", "un dirham"),
            ("21.00", "vingt et un dirhams"),
            ("71.71", "soixante et onze dirhams et soixante et onze centimes"),
            ("80.81", "quatre-vingts dirhams et quatre-vingt-un centimes"),
            ("91.99", "quatre-vingt-onze dirhams et quatre-vingt-dix-neuf centimes"),
            ("100.00", "cent dirhams"),
            ("200.00", "deux cents dirhams"),
            ("201.80", "deux cent un dirhams et quatre-vingts centimes"),
            ("1000.00", "mille dirhams"),
            ("1234.50", "mille deux cent trente-quatre dirhams et cinquante centimes"),
            ("80000.00", "quatre-vingt mille dirhams"),
            ("200000.00", "deux cent mille dirhams"),
            ("1000000.00", "un million de dirhams"),
            ("1000001.00", "un million un dirhams"),
            ("200000000.00", "deux cents millions de dirhams"),
            ("80080080.00", "quatre-vingts millions quatre-vingt mille quatre-vingts dirhams"),
        ] {
            assert_eq!(in_words(Units::amount(amount).unwrap()).unwrap(), words);
        }
        assert_eq!(in_words(Units(-100)), Err(MoneyError::Negative));
        assert_eq!(in_words(Units::amount("1000000000.00").unwrap()), Err(MoneyError::TooLarge));
        assert!(in_words(Units(1)).is_err());
    }

    /// Reads number words back, by another road than the one that wrote them.
    fn read_words(words: &str) -> i64 {
        let (mut total, mut current) = (0, 0);
        for word in words.split([' ', '-']) {
            match word.trim_end_matches('s') {
                "et" | "de" | "zéro" => {}
                "million" => total += std::mem::take(&mut current) * 1_000_000,
                "mille" => total += std::mem::take(&mut current).max(1) * 1_000,
                "cent" => current = current.max(1) * 100,
                "vingt" if current % 100 == 4 => current += 76,
                other => {
                    let known = [
                        ("un", 1),
                        ("deux", 2),
                        ("troi", 3),
                        ("quatre", 4),
                        ("cinq", 5),
                        ("six", 6),
                        ("sept", 7),
                        ("huit", 8),
                        ("neuf", 9),
                        ("dix", 10),
                        ("onze", 11),
                        ("douze", 12),
                        ("treize", 13),
                        ("quatorze", 14),
                        ("quinze", 15),
                        ("seize", 16),
                        ("vingt", 20),
                        ("trente", 30),
                        ("quarante", 40),
                        ("cinquante", 50),
                        ("soixante", 60),
                    ];
                    current += known.iter().find(|(name, _)| *name == other).map_or_else(|| panic!("{other}"), |(_, n)| *n);
                }
            }
        }
        total + current
    }

    proptest! {
        #[test]
        fn every_amount_prints_and_reads_back(units: i64, micro: i64) {
            prop_assert_eq!(Units(units).to_string().parse(), Ok(Units(units)));
            prop_assert_eq!(MicroUsd(micro).to_string().parse(), Ok(MicroUsd(micro)));
            let json = serde_json::to_string(&Units(units)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Units>(&json).unwrap(), Units(units));
        }

        #[test]
        fn reading_never_panics(text in ".*") {
            let _ = text.parse::<Units>();
        }

        #[test]
        fn rounding_is_off_by_half_a_centime_at_most(units in -1_000_000_000_000i64..1_000_000_000_000) {
            let rounded = Units(units).rounded().unwrap();
            prop_assert!(rounded.is_whole_centimes());
            prop_assert!((rounded.0 - units).abs() * 2 <= UNITS_PER_CENTIME);
            prop_assert_eq!(rounded.rounded(), Ok(rounded));
            prop_assert_eq!(Units(-units).rounded().unwrap().0, -rounded.0);
        }

        #[test]
        fn net_of_total_undoes_vat(centimes in 0i64..1_000_000_000_000) {
            let net = Units::from_centimes(centimes).unwrap();
            let total = net.plus(vat(net, VAT_BASIS_POINTS).unwrap()).unwrap();
            prop_assert_eq!(net_of_total(total, VAT_BASIS_POINTS), Ok(net));
        }

        #[test]
        fn words_say_the_number(number in 0..=WORDS_MAX_DIRHAMS) {
            prop_assert_eq!(read_words(&number_words(number)), number);
        }
    }
}
