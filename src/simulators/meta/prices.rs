//! What Meta will bill, and what it says about it (contracts/meta-cloud-api.md 12).

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use chrono_tz::{Africa::Casablanca, Tz};
use serde_json::{Value, json};
use std::collections::BTreeMap;

use crate::world::World;

/// The accounts' time zone: days and prices change at its midnight.
const ZONE: Tz = Casablanca;
/// Micro-USD per message: marketing, utility, authentication, service.
const MOROCCO: [u32; 4] = [41_400, 23_000, 23_000, 23_000];
/// From then on; before it was one of the rest of Africa.
const MOROCCO_FROM: Option<NaiveDate> = NaiveDate::from_ymd_opt(2026, 10, 1);
const FRANCE: [u32; 4] = [85_900, 30_000, 30_000, 30_000];
const ELSEWHERE: [u32; 4] = [22_500, 4_000, 4_000, 4_000];

/// Whether anything was billed to this account.
pub(super) fn knows(world: &World, account: &str) -> bool {
    world.meta.bill.volumes.keys().any(|key| key.account == account)
}

/// What one row of the bill is about.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    account: String,
    day: NaiveDate,
    number: String,
    country: String,
    category: String,
    free: bool,
}

/// Volumes by day.
#[derive(Default)]
pub(crate) struct Bill {
    volumes: BTreeMap<Key, u64>,
}

pub(super) fn book(world: &mut World, digits: &str, country: &str, category: &str, free: bool) {
    let (account, now) = (world.config.meta.waba_id.clone(), world.now);
    let key = Key {
        account,
        day: day(now),
        number: digits.to_owned(),
        country: country.to_owned(),
        category: category.to_uppercase(),
        free,
    };
    *world.meta.bill.volumes.entry(key).or_default() += 1;
}

/// So many regular messages to Morocco more, or fewer, on the day of `at`.
pub(crate) fn restate(world: &mut World, account: &str, digits: &str, category: &str, at: DateTime<Utc>, by: i64) {
    let key = Key {
        account: account.to_owned(),
        day: day(at),
        number: digits.to_owned(),
        country: "MA".to_owned(),
        category: category.to_uppercase(),
        free: false,
    };
    let volume = world.meta.bill.volumes.entry(key).or_default();
    *volume = volume.saturating_add_signed(by);
}

pub(super) fn day(at: DateTime<Utc>) -> NaiveDate {
    at.with_timezone(&ZONE).date_naive()
}

/// Midnight, in Unix seconds. Morocco turns its clock at other hours.
fn start(day: NaiveDate) -> i64 {
    let midnight = day.and_time(NaiveTime::MIN);
    midnight.and_local_timezone(ZONE).earliest().map_or_else(|| midnight.and_utc().timestamp(), |at| at.timestamp())
}

fn rate(key: &Key) -> u32 {
    let rates = match key.country.as_str() {
        "MA" if MOROCCO_FROM.is_some_and(|from| key.day >= from) => MOROCCO,
        "FR" => FRANCE,
        _ => ELSEWHERE,
    };
    match key.category.as_str() {
        _ if key.free => 0,
        "MARKETING" => rates[0],
        "UTILITY" => rates[1],
        "AUTHENTICATION" => rates[2],
        _ => rates[3],
    }
}

/// The whole bill so far, in micro-USD.
pub(crate) fn total(world: &World) -> u64 {
    world.meta.bill.volumes.iter().map(|(key, volume)| volume * u64::from(rate(key))).sum()
}

/// The `pricing_analytics` field of an account, its bounds read from `start(…)` and `end(…)`.
pub(super) fn analytics(world: &World, account: &str, fields: &str) -> Value {
    let bound = |name: &str| -> Option<i64> {
        fields.split(&format!("{name}(")).nth(1).and_then(|rest| rest.split(')').next()).and_then(|text| text.parse().ok())
    };
    let (from, until) = (bound("start").unwrap_or(0), bound("end").unwrap_or(i64::MAX));
    let volumes = world.meta.bill.volumes.iter();
    let points: Vec<Value> = volumes
        .filter(|(key, _)| key.account == account && (from..until).contains(&start(key.day)))
        .map(|(key, volume)| {
            let cost = f64::from(rate(key)) * *volume as f64 / 1e6;
            json!({"start": start(key.day), "end": start(key.day + Days::new(1)), "phone_number": key.number, "country": key.country,
                "pricing_category": key.category, "pricing_type": if key.free { "FREE_CUSTOMER_SERVICE" } else { "REGULAR" },
                "volume": volume, "cost": cost})
        })
        .collect();
    json!({"data": [{"data_points": points}]})
}
