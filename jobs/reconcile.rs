//! Our books beside the providers': every difference of a month, classified, with the rows behind it.
//!
//! contracts/meta-cloud-api.md 12.3, contracts/telnyx.md 10.

use crate::Tools;
use chrono::{DateTime, Duration, NaiveDate, Utc};
use chrono_tz::Tz;
use domain::{Failure, LineId, billing::Period, failure::Kind, money::MicroUsd, rates::Category};
use futures_util::{StreamExt as _, stream};
use providers::{
    Meta,
    meta::{AnalyticsQuery, PricingPoint},
    telnyx::Charges,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use store::{
    rates,
    reconciliation::{self, Account, Delivered, Held},
};
use tracing::warn;

/// Meta's counts are approximate: up to this many of a hundred may differ for a day, number and category.
const TOLERANCE_PERCENT: i64 = 1;
/// Messaging accounts that Meta is asked about side by side.
const ACCOUNTS_AT_ONCE: usize = 8;

/// Why the two sides differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Told after its month was closed, so that it stands on a later invoice; or counted on the day beside it.
    Late,
    /// They have it, we do not.
    MissingHere,
    /// We have it, they do not.
    MissingThere,
    /// Both have it, at another price.
    Price,
}

/// One difference. Of Meta `ours` and `theirs` are messages, or dollars where the price differs; of Telnyx they are dollars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// `meta` or `telnyx`.
    pub source: String,
    /// Of the account's calendar; of Telnyx the first of the month.
    pub day: NaiveDate,
    pub line_id: Option<LineId>,
    pub category: String,
    pub ours: Value,
    pub theirs: Value,
    pub class: Class,
    /// Small enough to be theirs to round, or known and undocumented: it does not unbalance the month.
    pub tolerated: bool,
    /// Of ours the messages, of theirs what they told.
    pub rows: Vec<Value>,
    /// What would put it right, in words.
    pub proposal: String,
}

/// A month's differences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reconciliation {
    pub data: Vec<Difference>,
    /// Every account answered, and nothing but what is tolerated differs.
    pub balanced: bool,
    /// Messaging accounts that Meta does not let us see.
    pub unasked: Vec<String>,
}

/// Asks both providers and compares. Nothing is written: what to do about a difference is for a person.
pub async fn reconcile(tools: &Tools, month: Period) -> Result<Reconciliation, Failure> {
    let zones = rates::zones(&tools.db).await?;
    let accounts = reconciliation::accounts(&tools.db, tools.meta.waba_id()).await?;
    let asked = stream::iter(accounts).map(|account| {
        let zone = zones.get(&account.messaging_account).copied().unwrap_or(chrono_tz::Africa::Casablanca);
        with_account(tools, month, zone, account)
    });
    let (mut data, mut unasked) = (Vec::new(), Vec::new());
    for answer in asked.buffered(ACCOUNTS_AT_ONCE).collect::<Vec<_>>().await {
        match answer? {
            Ok(found) => data.extend(found),
            Err(account) => unasked.push(account),
        }
    }
    let held = reconciliation::held(&tools.db, month).await?;
    let charges = tools.telnyx.charges(month.first_day(), month.next().first_day()).await?;
    data.extend(with_telnyx(&held, &charges, month));
    let balanced = unasked.is_empty() && data.iter().all(|difference| difference.tolerated);
    Ok(Reconciliation { data, balanced, unasked })
}

/// One account's month beside ours; its name, if Meta does not let us see it.
async fn with_account(
    tools: &Tools,
    month: Period,
    zone: Tz,
    account: Account,
) -> Result<Result<Vec<Difference>, String>, Failure> {
    let own = account.messaging_account == tools.meta.waba_id();
    let span = AnalyticsQuery { start: month.start(zone), end: month.end(zone), phone_numbers: Vec::new() };
    let theirs = match access(tools, &account)?.pricing_analytics(&span).await {
        Ok(theirs) => theirs,
        Err(failure) if !own && matches!(failure.kind, Kind::Unauthorized | Kind::Rejected) => {
            warn!(account = account.messaging_account, "An account cannot be reconciled: {failure}");
            return Ok(Err(account.messaging_account));
        }
        Err(failure) => return Err(failure),
    };
    let mut db = tools.db.acquire().await?;
    let ours = reconciliation::delivered(&mut *db, &account.messaging_account, month, zone).await?;
    let numbers = reconciliation::lines_by_number(&mut db, &account.messaging_account).await?.into_iter().collect();
    let mut data = with_meta(&ours, &theirs, &numbers, zone);
    for difference in &mut data {
        let Some(line) = difference.line_id else { continue };
        let from = domain::billing::local(zone, difference.day.and_time(chrono::NaiveTime::MIN));
        let until = domain::billing::local(zone, (difference.day + Duration::days(1)).and_time(chrono::NaiveTime::MIN));
        let messages = reconciliation::evidence(&mut *db, line, &difference.category, from, until).await?;
        difference.rows.extend(messages.into_iter().map(|(message, late)| json!({ "message_id": message, "late": late })));
    }
    Ok(Ok(data))
}

/// Meta on this account: with our token, or with the account's own.
fn access(tools: &Tools, account: &Account) -> Result<Meta, Failure> {
    if account.messaging_account == tools.meta.waba_id() {
        return Ok(tools.meta.clone());
    }
    let (Some(sealed), Some(line)) = (&account.token_sealed, account.line_id) else {
        return Ok(tools.meta.on_account(&account.messaging_account));
    };
    let token = tools.vault.open_str(&format!("line:token:{line}"), sealed);
    let token = token.map_err(|error| Failure::unauthorized(error.to_string()))?;
    Ok(tools.meta.with_account(&account.messaging_account, account.portfolio.clone().unwrap_or_default(), token))
}

/// A day, a number of theirs or a line of ours, a category.
type Key = (NaiveDate, String, String);

#[derive(Default)]
struct Pair {
    line: Option<LineId>,
    ours: i64,
    theirs: i64,
    late: i64,
    our_cost: i64,
    /// None where Meta tells no cost (a partner's credit line).
    their_cost: Option<i64>,
    points: Vec<Value>,
}

fn with_meta(ours: &[Delivered], theirs: &[PricingPoint], numbers: &HashMap<String, LineId>, zone: Tz) -> Vec<Difference> {
    let mut pairs: BTreeMap<Key, Pair> = BTreeMap::new();
    for row in ours {
        let digits = row.phone.as_deref().unwrap_or_default().trim_start_matches('+').to_owned();
        let pair = pairs.entry((row.day, digits, row.category.clone())).or_default();
        pair.line = Some(row.line_id);
        pair.ours += row.volume;
        pair.late += row.late;
        pair.our_cost += row.cost_micro;
    }
    for point in theirs.iter().filter(|point| point.volume > 0) {
        let day = day(point.start, zone);
        let digits = point.phone_number.as_deref().unwrap_or_default().trim_start_matches('+').to_owned();
        let told = point.pricing_category.as_deref().unwrap_or("unknown");
        let category = Category::read(told).map_or_else(|| told.to_lowercase(), |category| category.name().to_owned());
        let pair = pairs.entry((day, digits.clone(), category)).or_default();
        pair.line = pair.line.or_else(|| numbers.get(&digits).copied());
        pair.theirs += point.volume;
        if let Some(cost) = point.cost_micros {
            *pair.their_cost.get_or_insert(0) += cost;
        }
        pair.points.push(json!(point));
    }
    let gaps: BTreeMap<Key, i64> = pairs.iter().map(|(key, pair)| (key.clone(), pair.ours - pair.theirs)).collect();
    let beside = |(day, number, category): &Key, gap: i64| {
        [-1, 1].iter().any(|days| gaps.get(&(*day + Duration::days(*days), number.clone(), category.clone())) == Some(&-gap))
    };
    let mut found = Vec::new();
    for (key, pair) in &pairs {
        let gap = pair.ours - pair.theirs;
        let difference = |ours: Value, theirs: Value, class: Class, tolerated: bool, proposal: String| Difference {
            source: "meta".into(),
            day: key.0,
            line_id: pair.line,
            category: key.2.clone(),
            ours,
            theirs,
            class,
            tolerated,
            rows: pair.points.clone(),
            proposal,
        };
        if gap != 0 {
            let class = match gap {
                _ if beside(key, gap) => Class::Late,
                1.. => Class::MissingThere,
                _ => Class::MissingHere,
            };
            let proposal = match class {
                Class::Late => "none: the day beside it has the same difference the other way round".to_owned(),
                Class::MissingHere => format!("replay the webhooks of the day: {} deliveries were not told", -gap),
                _ => format!("ask Meta about {gap} deliveries that it does not count"),
            };
            let tolerated = class == Class::Late || within(gap, pair.ours.max(pair.theirs));
            found.push(difference(json!(pair.ours), json!(pair.theirs), class, tolerated, proposal));
        } else if let Some(cost) = pair.their_cost.filter(|cost| *cost != pair.our_cost) {
            let tolerated = within(cost - pair.our_cost, cost.max(pair.our_cost));
            let proposal = "load the rate card that Meta charges by, and compare the month with it".to_owned();
            found.push(difference(json!(MicroUsd(pair.our_cost)), json!(MicroUsd(cost)), Class::Price, tolerated, proposal));
        }
        if gap == 0 && pair.late > 0 {
            let proposal = "none: they stand on the next invoice, marked late".to_owned();
            found.push(difference(json!(pair.ours - pair.late), json!(pair.theirs), Class::Late, true, proposal));
        }
    }
    found
}

fn within(gap: i64, whole: i64) -> bool {
    gap.abs() * 100 <= whole * TOLERANCE_PERCENT
}

fn day(at: DateTime<Utc>, zone: Tz) -> NaiveDate {
    at.with_timezone(&zone).date_naive()
}

fn with_telnyx(held: &[Held], charges: &Charges, month: Period) -> Vec<Difference> {
    let mut theirs: BTreeMap<&str, (i64, i64, Vec<Value>)> = BTreeMap::new();
    for number in &charges.numbers {
        let (monthly, once, rows) = theirs.entry(&number.phone_number).or_default();
        for service in &number.services {
            *(if service.recurring { &mut *monthly } else { &mut *once }) += service.cost.micros;
            rows.push(json!({ "name": service.name, "cost": service.cost.micros, "recurring": service.recurring }));
        }
    }
    let mut ours: BTreeMap<&str, Vec<&Held>> = BTreeMap::new();
    for number in held {
        ours.entry(&number.phone).or_default().push(number);
    }
    let first = month.first_day();
    let phones: BTreeSet<&str> = ours.keys().chain(theirs.keys()).copied().collect();
    let mut found = Vec::new();
    for phone in phones {
        let known = ours.get(phone).map_or(&[][..], Vec::as_slice);
        let (monthly, once, rows) = theirs.get(phone).cloned().unwrap_or_default();
        let begun = known.iter().any(|held| month.contains(held.bought_at, Tz::UTC));
        let over = known.iter().any(|held| held.ended_at.is_some());
        let our_monthly: i64 = known.iter().filter_map(|held| held.monthly_micro).sum();
        let our_once: i64 =
            known.iter().filter(|held| month.contains(held.bought_at, Tz::UTC)).filter_map(|held| held.setup_micro).sum();
        let billed = theirs.contains_key(phone);
        for (category, ours, theirs) in [("MRC", our_monthly, monthly), ("OTC", our_once, once)] {
            if ours == theirs {
                continue;
            }
            let class = match (known.is_empty(), billed) {
                (true, _) => Class::MissingHere,
                (false, false) => Class::MissingThere,
                (false, true) => Class::Price,
            };
            // What a number costs in its first and last month is not documented.
            let pro_rata = class == Class::Price && category == "MRC" && theirs <= ours && (begun || over);
            let proposal = match class {
                Class::MissingHere => {
                    format!("{phone} is billed and no line of ours: look at the orphans, give it back or claim it")
                }
                Class::MissingThere => {
                    format!("{phone} is a line of ours and is not billed: ask Telnyx whether it is still held")
                }
                Class::Price if pro_rata => "none: a month that was not whole".to_owned(),
                _ => format!("the price of {phone} has changed: set its costs to what Telnyx charges"),
            };
            found.push(Difference {
                source: "telnyx".into(),
                day: first,
                line_id: known.last().map(|held| held.line_id),
                category: category.into(),
                ours: json!(MicroUsd(ours)),
                theirs: json!(MicroUsd(theirs)),
                class,
                tolerated: pro_rata,
                rows: rows.clone(),
                proposal,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use providers::{
        Price,
        telnyx::{ChargedNumber, ChargedService},
    };
    use uuid::Uuid;

    fn delivered(day: &str, volume: i64, cost_micro: i64) -> Delivered {
        Delivered {
            day: day.parse().unwrap(),
            line_id: LineId(Uuid::from_u128(1)),
            phone: Some("+212520000001".into()),
            category: "utility".into(),
            volume,
            late: 0,
            cost_micro,
        }
    }

    fn point(start: &str, volume: i64, cost_micros: Option<i64>) -> PricingPoint {
        let start: DateTime<Utc> = start.parse().unwrap();
        PricingPoint {
            start,
            end: start + Duration::days(1),
            phone_number: Some("212520000001".into()),
            country: Some("MA".into()),
            pricing_type: Some("REGULAR".into()),
            pricing_category: Some("UTILITY".into()),
            tier: None,
            volume,
            cost_micros,
        }
    }

    fn classes(ours: &[Delivered], theirs: &[PricingPoint]) -> Vec<(String, Class, bool)> {
        let numbers = HashMap::from([("212520000001".to_owned(), LineId(Uuid::from_u128(1)))]);
        let found = with_meta(ours, theirs, &numbers, chrono_tz::Africa::Casablanca);
        found.into_iter().map(|one| (one.day.to_string(), one.class, one.tolerated)).collect()
    }

    #[test]
    fn a_count_that_differs_is_missing_on_one_side_or_counted_a_day_beside() {
        let one = |day: &str, class, tolerated| (day.to_owned(), class, tolerated);
        let midnight = "2026-10-04T23:00:00Z";
        assert_eq!(classes(&[delivered("2026-10-05", 3, 0)], &[point(midnight, 3, None)]), []);
        assert_eq!(classes(&[delivered("2026-10-05", 3, 0)], &[]), [one("2026-10-05", Class::MissingThere, false)]);
        assert_eq!(classes(&[], &[point(midnight, 3, None)]), [one("2026-10-05", Class::MissingHere, false)]);
        assert_eq!(
            classes(&[delivered("2026-10-05", 200, 0)], &[point(midnight, 199, None)]),
            [one("2026-10-05", Class::MissingThere, true)],
            "less than a hundredth"
        );
        let next = "2026-10-05T23:00:00Z";
        assert_eq!(
            classes(
                &[delivered("2026-10-05", 5, 0), delivered("2026-10-06", 4, 0)],
                &[point(midnight, 4, None), point(next, 5, None)]
            ),
            [one("2026-10-05", Class::Late, true), one("2026-10-06", Class::Late, true)]
        );
        assert_eq!(
            classes(&[delivered("2026-10-05", 3, 69_000)], &[point(midnight, 3, Some(12_000))]),
            [one("2026-10-05", Class::Price, false)]
        );
    }

    #[test]
    fn a_number_is_an_orphan_a_ghost_or_dearer_and_the_first_month_is_tolerated() {
        let held = |phone: &str, bought: &str| Held {
            line_id: LineId(Uuid::from_u128(2)),
            phone: phone.into(),
            monthly_micro: Some(4_500_000),
            setup_micro: Some(1_000_000),
            bought_at: bought.parse().unwrap(),
            ended_at: None,
        };
        let billed = |phone: &str, cost: &str| ChargedNumber {
            phone_number: phone.into(),
            charge_type: "local".into(),
            services: vec![ChargedService { name: "DID".into(), cost: Price::parse(cost, "USD").unwrap(), recurring: true }],
        };
        let charges = Charges {
            currency: "USD".into(),
            numbers: vec![billed("+212520000001", "4.50"), billed("+212520000002", "5.00"), billed("+212520000004", "4.50")],
        };
        let old = "2026-09-01T00:00:00Z";
        let found = with_telnyx(
            &[held("+212520000001", old), held("+212520000002", old), held("+212520000003", old)],
            &charges,
            "2026-10".parse().unwrap(),
        );
        let classes: Vec<_> = found.iter().map(|one| (one.class, one.tolerated)).collect();
        assert_eq!(classes, [(Class::Price, false), (Class::MissingThere, false), (Class::MissingHere, false)]);
        let first = Charges { currency: "USD".into(), numbers: vec![billed("+212520000001", "2.10")] };
        let found = with_telnyx(&[held("+212520000001", "2026-10-18T00:00:00Z")], &first, "2026-10".parse().unwrap());
        let classes: Vec<_> = found.iter().map(|one| (one.category.as_str(), one.class, one.tolerated)).collect();
        assert_eq!(classes, [("MRC", Class::Price, true), ("OTC", Class::Price, false)]);
    }
}
