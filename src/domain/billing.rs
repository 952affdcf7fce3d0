//! The month: its bounds in a time zone, pro rata, what a message costs, an invoice's lines and totals, its numbers, credits.
//!
//! spec.md 4 "Money, settled"; contracts/meta-cloud-api.md 12.

use crate::{
    money::{MoneyError, Units, VAT_BASIS_POINTS, line_amount, net_of_total, vat},
    rates::{Category, Rate, rate_at},
};
use chrono::{DateTime, Datelike, Duration, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// Free service messages of a business number in a calendar month (contracts/meta-cloud-api.md 12.1).
pub const FREE_SERVICE_MESSAGES: u32 = 1_000;
/// Hour of the 1st, in the tenant's time zone, at which a month is closed.
pub const CLOSE_HOUR: u32 = 2;
/// A provisional charge that no `delivered` confirms is reversed after this many days.
pub const PROVISIONAL_DAYS: i64 = 32;

/// A calendar month: `2026-10`. Its bounds depend on the time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    /// The 1st.
    first: NaiveDate,
}

impl Period {
    /// The month of an instant, by the calendar of `zone`.
    pub fn of(at: DateTime<Utc>, zone: Tz) -> Self {
        Self::of_day(at.with_timezone(&zone).date_naive())
    }

    pub fn of_day(day: NaiveDate) -> Self {
        Self { first: day.with_day(1).unwrap_or(day) }
    }

    pub fn first_day(self) -> NaiveDate {
        self.first
    }

    pub fn last_day(self) -> NaiveDate {
        self.next().first - Duration::days(1)
    }

    pub fn days(self) -> i64 {
        (self.next().first - self.first).num_days()
    }

    #[must_use]
    pub fn next(self) -> Self {
        // Day 1 plus 31 days is always in the next month.
        Self::of_day(self.first + Duration::days(31))
    }

    #[must_use]
    pub fn previous(self) -> Self {
        Self::of_day(self.first - Duration::days(1))
    }

    /// Midnight of the 1st.
    pub fn start(self, zone: Tz) -> DateTime<Utc> {
        local(zone, self.first.and_time(NaiveTime::MIN))
    }

    /// Midnight after the last day: exclusive.
    pub fn end(self, zone: Tz) -> DateTime<Utc> {
        self.next().start(zone)
    }

    pub fn contains(self, at: DateTime<Utc>, zone: Tz) -> bool {
        self.start(zone) <= at && at < self.end(zone)
    }

    /// When the month is closed by itself: 02:00 on the 1st of the next.
    pub fn closes_at(self, zone: Tz) -> DateTime<Utc> {
        let midnight = self.next().first.and_time(NaiveTime::MIN);
        local(zone, midnight + Duration::hours(CLOSE_HOUR.into())).max(self.end(zone))
    }
}

impl FromStr for Period {
    type Err = BillingError;
    fn from_str(text: &str) -> Result<Self, BillingError> {
        let shape = text.len() == 7 && text.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
        let first = NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok();
        first.filter(|first| shape && first.year() >= 2000).map(|first| Self { first }).ok_or(BillingError::Period)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

/// The instant of a local time. One that comes twice is taken the first time; one that is skipped, when the clock has
/// moved over it (Morocco turns its clock around Ramadan, mostly at 02:00 and 03:00).
pub fn local(zone: Tz, time: NaiveDateTime) -> DateTime<Utc> {
    // No zone skips more than a day.
    (0..=24 * 4)
        .find_map(|quarters| match zone.from_local_datetime(&(time + Duration::minutes(15 * quarters))) {
            LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at.to_utc()),
            LocalResult::None => None,
        })
        .unwrap_or_else(|| time.and_utc())
}

/// A monthly fee for the days from `from` to `until` (both included; none is open) over the days of the month, rounded
/// once, half up, to the centime. The whole month is the whole fee; a day outside it counts nothing.
pub fn pro_rata(fee: Units, period: Period, from: NaiveDate, until: Option<NaiveDate>) -> Result<Units, MoneyError> {
    fee.share(days_charged(period, from, until), period.days())
}

/// How many days of the period lie within `from..=until`.
pub fn days_charged(period: Period, from: NaiveDate, until: Option<NaiveDate>) -> i64 {
    let first = from.max(period.first_day());
    let last = until.unwrap_or(NaiveDate::MAX).min(period.last_day());
    ((last - first).num_days() + 1).max(0)
}

/// What the webhook says about a message's price (contracts/meta-cloud-api.md 12.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PricingType {
    Regular,
    FreeCustomerService,
    FreeEntryPoint,
}

impl PricingType {
    /// In any case. An unknown type is none: the charge stays pending until somebody looks.
    pub fn read(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        [Self::Regular, Self::FreeCustomerService, Self::FreeEntryPoint].into_iter().find(|t| t.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::FreeCustomerService => "free_customer_service",
            Self::FreeEntryPoint => "free_entry_point",
        }
    }

    pub fn is_free(self) -> bool {
        self != Self::Regular
    }
}

/// A message's cost at Meta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rated<'a> {
    /// Costs the row's price.
    Charge(&'a Rate),
    /// Costs nothing; `counts` says whether it uses up the number's free service messages.
    Free { counts: bool },
    /// No pricing yet (or an unknown one): keep it pending until `delivered` or `read`, expire it after `PROVISIONAL_DAYS`.
    Pending,
    /// Billable, but no row is in force: a rate card is missing.
    NoRate,
}

/// What a delivered message costs: the webhook's `pricing.type` decides what was free, the card of the instant the rest.
/// `zone` is the messaging account's time zone, at whose midnight prices change.
pub fn rate<'a>(
    rates: &'a [Rate],
    pricing: Option<PricingType>,
    category: Option<Category>,
    market: &str,
    currency: &str,
    at: DateTime<Utc>,
    zone: Tz,
) -> Rated<'a> {
    match (pricing, category) {
        (Some(PricingType::FreeEntryPoint), _) => Rated::Free { counts: false },
        (Some(PricingType::FreeCustomerService), category) => {
            Rated::Free { counts: matches!(category, None | Some(Category::Service)) }
        }
        (Some(PricingType::Regular), Some(category)) => {
            rate_at(rates, market, category, currency, at, zone).map_or(Rated::NoRate, Rated::Charge)
        }
        (Some(PricingType::Regular), None) | (None, _) => Rated::Pending,
    }
}

/// Free service messages that a number still has this month: an estimate before the send, for quotes and warnings.
pub fn allowance_left(used: u32) -> u32 {
    FREE_SERVICE_MESSAGES.saturating_sub(used)
}

/// What an invoice line is for; the order is that of the invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineKind {
    BaseFee,
    NumberRent,
    Messages,
    Late,
    Adjustment,
}

/// Something to invoice: one delivered message, or many of one kind and price.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Usage {
    pub kind: LineKind,
    pub category: Option<Category>,
    /// Only of late lines: the month in which it was delivered.
    pub usage_month: Option<Period>,
    pub unit_price: Units,
    pub quantity: i64,
}

/// A line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub kind: LineKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<Category>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_month: Option<Period>,
    /// In French, as printed.
    pub description: String,
    pub quantity: i64,
    pub unit_price: Units,
    /// Quantity x unit price, rounded half up to the centime.
    pub amount: Units,
}

/// Adds up usage into lines: one for each kind, category, month and unit price, in the order of the invoice. Lines without
/// quantity are left out; lines at zero price stay, so that the reader sees what was free.
pub fn lines(usage: impl IntoIterator<Item = Usage>) -> Result<Vec<Line>, MoneyError> {
    let mut groups: BTreeMap<(LineKind, Option<Period>, Option<Category>, Units), i64> = BTreeMap::new();
    for part in usage {
        let key = (part.kind, part.usage_month, part.category, part.unit_price);
        let quantity = groups.entry(key).or_default();
        *quantity = quantity.checked_add(part.quantity).ok_or(MoneyError::TooLarge)?;
    }
    let lines = groups.into_iter().filter(|(_, quantity)| *quantity != 0);
    lines
        .map(|((kind, usage_month, category, unit_price), quantity)| {
            let amount = line_amount(quantity, unit_price)?;
            let description = describe(kind, category, usage_month);
            Ok(Line { kind, category, usage_month, description, quantity, unit_price, amount })
        })
        .collect()
}

/// A line's words on the invoice, in French.
pub fn describe(kind: LineKind, category: Option<Category>, usage_month: Option<Period>) -> String {
    let messages = match category {
        Some(Category::Marketing | Category::MarketingLite) => "Messages marketing",
        Some(Category::Utility) => "Messages utilitaires",
        Some(Category::Authentication | Category::AuthenticationInternational) => "Messages d'authentification",
        Some(Category::Service) => "Messages de service",
        None => "Messages",
    };
    match (kind, usage_month) {
        (LineKind::BaseFee, _) => "Abonnement mensuel".into(),
        (LineKind::NumberRent, _) => "Location de numéro".into(),
        (LineKind::Messages, _) => messages.into(),
        (LineKind::Late, Some(month)) => format!("{messages}, remis en {month}"),
        (LineKind::Late, None) => format!("{messages}, mois antérieur"),
        (LineKind::Adjustment, _) => "Régularisation".into(),
    }
}

/// Net, TVA and total; all whole centimes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub net: Units,
    pub vat: Units,
    pub total: Units,
}

impl Totals {
    /// Net is the sum of the lines, TVA 20 % of it rounded once, total the two together.
    pub fn of(lines: &[Line]) -> Result<Self, MoneyError> {
        Self::of_net(Units::sum(lines.iter().map(|line| line.amount))?)
    }

    pub fn of_net(net: Units) -> Result<Self, MoneyError> {
        let vat = vat(net, VAT_BASIS_POINTS)?;
        Ok(Self { net, vat, total: net.plus(vat)? })
    }

    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        Ok(Self { net: self.net.minus(other.net)?, vat: self.vat.minus(other.vat)?, total: self.total.minus(other.total)? })
    }
}

/// What an amount with TVA takes back of an invoice of which `left` is left. The last credit takes exactly the rest, so
/// that an invoice credited in full is zero in net, TVA and total.
pub fn credit_amount(left: Totals, amount: Units) -> Result<Totals, BillingError> {
    checked_credit(left, amount)?;
    let exact = net_of_total(amount, VAT_BASIS_POINTS)?;
    // Never more net than is left, and never so little that the TVA were more than is left.
    let net = exact.max(amount.minus(left.vat)?).min(left.net).min(amount);
    Ok(Totals { net, vat: amount.minus(net)?, total: amount })
}

/// What credited lines take back. TVA is 20 % of their net, but never more than is left of it.
pub fn credit_lines(left: Totals, lines: &[Line]) -> Result<Totals, BillingError> {
    let totals = Totals::of(lines)?;
    if totals.net > left.net {
        return Err(BillingError::CreditTooLarge { left: left.total });
    }
    let vat = if totals.net == left.net { left.vat } else { totals.vat.min(left.vat) };
    let total = totals.net.plus(vat)?;
    checked_credit(left, total)?;
    Ok(Totals { net: totals.net, vat, total })
}

fn checked_credit(left: Totals, amount: Units) -> Result<(), BillingError> {
    if amount <= Units::ZERO || !amount.is_whole_centimes() {
        return Err(BillingError::CreditNotPositive);
    }
    if amount > left.total {
        return Err(BillingError::CreditTooLarge { left: left.total });
    }
    Ok(())
}

/// The two series of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Series {
    Invoice,
    CreditNote,
}

impl Series {
    pub fn letter(self) -> char {
        match self {
            Self::Invoice => 'F',
            Self::CreditNote => 'A',
        }
    }
}

/// `F-2026-000001`, `A-2026-000001`: gapless within a series and the calendar year of issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InvoiceNumber {
    pub series: Series,
    pub year: i32,
    /// From 1.
    pub sequence: i64,
}

impl fmt::Display for InvoiceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:04}-{:06}", self.series.letter(), self.year, self.sequence)
    }
}

impl FromStr for InvoiceNumber {
    type Err = BillingError;
    fn from_str(text: &str) -> Result<Self, BillingError> {
        let mut parts = text.splitn(3, '-');
        let series = match parts.next() {
            Some("F") => Series::Invoice,
            Some("A") => Series::CreditNote,
            _ => return Err(BillingError::Number),
        };
        let (year, sequence) = parts.next().zip(parts.next()).ok_or(BillingError::Number)?;
        let number = year.parse().ok().zip(sequence.parse().ok());
        let number = number.map(|(year, sequence)| Self { series, year, sequence });
        // Only the spelling that we print.
        number.filter(|number| number.sequence > 0 && number.to_string() == text).ok_or(BillingError::Number)
    }
}

macro_rules! text_json {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
text_json!(Period, InvoiceNumber);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BillingError {
    #[error("not a month such as 2026-10")]
    Period,
    #[error("not an invoice number such as F-2026-000001")]
    Number,
    #[error("a credit is a positive amount in whole centimes")]
    CreditNotPositive,
    #[error("the credit is above what is left of the invoice ({left} MAD)")]
    CreditTooLarge { left: Units },
    #[error(transparent)]
    Money(#[from] MoneyError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono_tz::{Africa::Casablanca, TZ_VARIANTS};
    use proptest::prelude::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }
    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }
    fn month(text: &str) -> Period {
        text.parse().unwrap()
    }
    fn mad(text: &str) -> Units {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_no_month_or_number_is_refused() {
        for text in
            ["", "2026", "2026-13", "2026-00", "2026-1", "26-10", "2026-10-01", "2026/10", "1026-10", "+026-10", " 2026-10"]
        {
            assert_eq!(text.parse::<Period>(), Err(BillingError::Period), "{text}");
        }
        for text in ["", "F", "F-2026", "F-2026-1", "X-2026-000001", "F-2026-000000", "F-2026-+00001", "F-2026--00001"] {
            assert_eq!(text.parse::<InvoiceNumber>(), Err(BillingError::Number), "{text}");
        }
        assert_eq!("A-2026-1000000".parse::<InvoiceNumber>().unwrap().sequence, 1_000_000);
    }

    #[test]
    fn a_month_in_casablanca_follows_its_clock() {
        let october = month("2026-10");
        assert_eq!(october.start(Casablanca), at("2026-09-30T23:00:00Z"));
        assert_eq!(october.closes_at(Casablanca), at("2026-11-01T01:00:00Z"));
        assert!(october.contains(at("2026-10-31T22:59:59.999Z"), Casablanca));
        assert!(!october.contains(at("2026-10-31T23:00:00Z"), Casablanca));
        // During Ramadan Morocco is on UTC: March 2025 begins an hour later by UTC, and is as long as ever.
        let march = month("2025-03");
        assert_eq!(march.start(Casablanca), at("2025-03-01T00:00:00Z"));
        assert_eq!(march.end(Casablanca), at("2025-04-01T00:00:00Z"));
        let february = month("2025-02");
        assert_eq!(february.end(Casablanca) - february.start(Casablanca), Duration::hours(28 * 24 + 1));
    }

    #[test]
    fn a_local_time_that_never_was_or_was_twice_is_one_instant() {
        // Paris leaps from 02:00 to 03:00, and in autumn says 02:30 twice.
        let paris = chrono_tz::Europe::Paris;
        let time = |text: &str| text.parse::<NaiveDateTime>().unwrap();
        assert_eq!(local(paris, time("2026-03-29T02:30:00")), at("2026-03-29T01:00:00Z"));
        assert_eq!(local(paris, time("2026-10-25T02:30:00")), at("2026-10-25T00:30:00Z"));
    }

    #[test]
    fn pro_rata_counts_the_first_day_and_knows_february() {
        let fee = mad("200.00");
        let share = |period, from| pro_rata(fee, month(period), day(from), None).unwrap();
        assert_eq!(share("2026-10", "2026-10-01"), fee);
        assert_eq!(share("2026-10", "2026-09-15"), fee);
        assert_eq!(share("2026-10", "2026-10-31"), mad("6.45"));
        assert_eq!(share("2026-10", "2026-11-01"), Units::ZERO);
        assert_eq!(share("2027-02", "2027-02-15"), mad("100.00"));
        assert_eq!(share("2028-02", "2028-02-15"), mad("103.45"), "15 of 29 days");
        assert_eq!(pro_rata(fee, month("2026-11"), day("2026-11-10"), Some(day("2026-11-12"))).unwrap(), mad("20.00"));
        assert_eq!(days_charged(month("2026-11"), day("2026-11-10"), Some(day("2026-11-09"))), 0);
    }

    #[test]
    fn the_webhook_decides_what_was_free() {
        let row = |price_micro, from| Rate {
            market: "morocco".into(),
            category: Category::Service,
            currency: "USD".into(),
            price_micro,
            valid_from: day(from),
            valid_to: None,
            source: "test".into(),
        };
        let rates = [row(0, "2026-01-01"), row(23_000, "2026-10-01")];
        let rated = |pricing, category, at| rate(&rates, pricing, category, "morocco", "USD", at, Casablanca);
        let (before, after) = (at("2026-09-30T22:59:59Z"), at("2026-09-30T23:00:00Z"));
        assert_eq!(rated(Some(PricingType::Regular), Some(Category::Service), before), Rated::Charge(&rates[0]));
        assert_eq!(rated(Some(PricingType::Regular), Some(Category::Service), after), Rated::Charge(&rates[1]));
        assert_eq!(rated(Some(PricingType::Regular), Some(Category::Marketing), after), Rated::NoRate);
        assert_eq!(
            rated(PricingType::read("FREE_CUSTOMER_SERVICE"), Some(Category::Service), after),
            Rated::Free { counts: true }
        );
        assert_eq!(rated(PricingType::read("free_entry_point"), None, after), Rated::Free { counts: false });
        assert_eq!(rated(PricingType::read("surprise"), Some(Category::Service), after), Rated::Pending);
        assert_eq!((allowance_left(0), allowance_left(999), allowance_left(1_001)), (1_000, 1, 0));
    }

    #[test]
    fn an_invoice_adds_up() {
        let messages = |category, unit_price: &str, quantity| Usage {
            kind: LineKind::Messages,
            category: Some(category),
            usage_month: None,
            unit_price: mad(unit_price),
            quantity,
        };
        let fee = Usage { kind: LineKind::BaseFee, category: None, usage_month: None, unit_price: mad("200.00"), quantity: 1 };
        let late = Usage { kind: LineKind::Late, usage_month: Some(month("2026-09")), ..messages(Category::Utility, "0.10", 3) };
        let usage = [
            late,
            messages(Category::Utility, "0.1050", 1),
            messages(Category::Utility, "0.1050", 2),
            messages(Category::Service, "0.00", 7),
            messages(Category::Marketing, "0.50", 0),
            fee,
        ];
        let lines = lines(usage).unwrap();
        let shown: Vec<_> = lines.iter().map(|l| (l.description.as_str(), l.quantity, l.amount.to_string())).collect();
        assert_eq!(
            shown,
            [
                ("Abonnement mensuel", 1, "200.00".into()),
                ("Messages utilitaires", 3, "0.32".into()),
                ("Messages de service", 7, "0.00".into()),
                ("Messages utilitaires, remis en 2026-09", 3, "0.30".into()),
            ]
        );
        let totals = Totals::of(&lines).unwrap();
        assert_eq!(totals, Totals { net: mad("200.62"), vat: mad("40.12"), total: mad("240.74") });
    }

    #[test]
    fn a_credit_is_positive_and_never_above_what_is_left() {
        let left = Totals::of_net(mad("100.00")).unwrap();
        assert_eq!(credit_amount(left, Units::ZERO), Err(BillingError::CreditNotPositive));
        assert_eq!(credit_amount(left, mad("-1.00")), Err(BillingError::CreditNotPositive));
        assert_eq!(credit_amount(left, mad("1.005")), Err(BillingError::CreditNotPositive));
        assert_eq!(credit_amount(left, mad("120.01")), Err(BillingError::CreditTooLarge { left: mad("120.00") }));
        assert_eq!(credit_amount(left, mad("12.00")).unwrap(), Totals::of_net(mad("10.00")).unwrap());
        let line = |amount: &str| Line {
            kind: LineKind::Adjustment,
            category: None,
            usage_month: None,
            description: "x".into(),
            quantity: 1,
            unit_price: mad(amount),
            amount: mad(amount),
        };
        assert_eq!(credit_lines(left, &[line("60.00"), line("40.00")]).unwrap(), left);
        assert!(credit_lines(left, &[line("100.01")]).is_err());
        assert!(credit_lines(left, &[]).is_err());
    }

    fn period() -> impl Strategy<Value = Period> {
        (2020i32..2060, 1u32..=12).prop_map(|(y, m)| Period::of_day(NaiveDate::from_ymd_opt(y, m, 1).unwrap()))
    }

    fn usage() -> impl Strategy<Value = Vec<Usage>> {
        let kind = prop::sample::select(vec![LineKind::BaseFee, LineKind::Messages, LineKind::Late]);
        let part = (kind, prop::sample::select(Category::ALL.to_vec()), 0i64..5, 0i64..1_000);
        prop::collection::vec(part, 0..40).prop_map(|parts| {
            let part = |(kind, category, price, quantity)| Usage {
                kind,
                category: Some(category),
                usage_month: None,
                unit_price: Units(price * 333),
                quantity,
            };
            parts.into_iter().map(part).collect()
        })
    }

    proptest! {
        #[test]
        fn every_instant_is_in_one_month_of_every_zone(seconds in 1_577_836_800i64..2_840_140_800, zone in prop::sample::select(TZ_VARIANTS.to_vec())) {
            let instant = DateTime::from_timestamp(seconds, 0).unwrap();
            let period = Period::of(instant, zone);
            prop_assert!(period.contains(instant, zone), "{period} {zone} {instant}");
            prop_assert_eq!(period.end(zone), period.next().start(zone));
            prop_assert_eq!(period.next().previous(), period);
            prop_assert!(period.closes_at(zone) >= period.end(zone));
        }

        #[test]
        fn months_and_numbers_print_and_read_back(period in period(), sequence in 1i64..10_000_000) {
            prop_assert_eq!(period.to_string().parse(), Ok(period));
            let number = InvoiceNumber { series: Series::CreditNote, year: period.first_day().year(), sequence };
            prop_assert_eq!(number.to_string().parse(), Ok(number));
        }

        #[test]
        fn a_pro_rata_and_its_rest_make_the_fee(centimes in 0i64..100_000_000, period in period(), split in 1u64..28) {
            let fee = Units::from_centimes(centimes).unwrap();
            let from = period.first_day() + chrono::Days::new(split);
            let first = pro_rata(fee, period, period.first_day(), Some(from - Duration::days(1))).unwrap();
            let rest = pro_rata(fee, period, from, None).unwrap();
            prop_assert!((first.plus(rest).unwrap().0 - fee.0).abs() <= 100, "off by a centime at most");
            prop_assert!(first <= fee && rest <= fee);
        }

        #[test]
        fn lines_lose_nothing_whatever_the_order((usage, shuffled) in usage().prop_flat_map(|u| (Just(u.clone()), Just(u).prop_shuffle()))) {
            let made = lines(usage.clone()).unwrap();
            prop_assert_eq!(&made, &lines(shuffled).unwrap());
            prop_assert_eq!(made.iter().map(|l| l.quantity).sum::<i64>(), usage.iter().map(|u| u.quantity).sum::<i64>());
            let exact: i64 = usage.iter().map(|u| u.unit_price.0 * u.quantity).sum();
            let totals = Totals::of(&made).unwrap();
            prop_assert!((totals.net.0 - exact).abs() * 2 <= 100 * made.len() as i64, "half a centime a line");
            for line in &made {
                prop_assert_eq!(line.amount, line.unit_price.times(line.quantity).unwrap().rounded().unwrap());
            }
            prop_assert_eq!(totals.total, totals.net.plus(totals.vat).unwrap());
            prop_assert!((totals.vat.0 * 5 - totals.net.0).abs() * 2 <= 500);
        }

        #[test]
        fn credits_together_are_the_invoice_to_the_centime(centimes in 1i64..10_000_000, cuts in prop::collection::vec(1i64..5_000_000, 0..12)) {
            let invoice = Totals::of_net(Units::from_centimes(centimes).unwrap()).unwrap();
            let mut left = invoice;
            for cut in cuts {
                let amount = Units::from_centimes(cut).unwrap();
                match credit_amount(left, amount) {
                    Ok(credit) => {
                        prop_assert_eq!(credit.net.plus(credit.vat).unwrap(), amount);
                        prop_assert!(credit.net >= Units::ZERO && credit.vat >= Units::ZERO);
                        left = left.minus(credit).unwrap();
                    }
                    Err(error) => {
                        prop_assert_eq!(error, BillingError::CreditTooLarge { left: left.total });
                        prop_assert!(amount > left.total);
                    }
                }
                prop_assert!(left.net >= Units::ZERO && left.vat >= Units::ZERO);
            }
            if left.total > Units::ZERO {
                let rest = credit_amount(left, left.total).unwrap();
                prop_assert_eq!(left.minus(rest).unwrap(), Totals::default());
            }
        }
    }
}
