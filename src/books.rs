//! Our books beside the providers': what was bought, what is owned, what it cost, what was asked of Meta.

use crate::terminal::Paint;
use anyhow::Context as _;
use serde_json::{Value, json};
use simulators::{Books, ChargeKind};
use sqlx::PgPool;
use std::collections::BTreeSet;

/// One side's account of the same world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Side {
    /// Numbers that are owned now, in E.164.
    pub(crate) owned: BTreeSet<String>,
    /// Numbers that were ever bought, in E.164.
    pub(crate) bought: BTreeSet<String>,
    /// Purchases: more of them than numbers bought means one was paid twice.
    pub(crate) purchases: u64,
    /// What buying them cost, in millionths of a US dollar.
    pub(crate) spent_micro_usd: i64,
    /// Numbers that answer on WhatsApp, in E.164.
    pub(crate) connected: BTreeSet<String>,
    /// Calls that Meta counts.
    pub(crate) register_calls: u64,
    pub(crate) code_requests: u64,
}

impl Side {
    /// What our tables say.
    pub(crate) async fn ours(db: &PgPool) -> anyhow::Result<Self> {
        let (owned, bought, purchases, spent_micro_usd): (Vec<String>, Vec<String>, i64, i64) = sqlx::query_as(
            "select coalesce(array_agg(phone) filter (where outcome = 'owned'), '{}'), coalesce(array_agg(phone), '{}'), count(*),
                coalesce(sum(coalesce(upfront_micro, 0) + coalesce(monthly_micro, 0)), 0)::bigint
             from purchase where outcome in ('owned', 'released')",
        )
        .fetch_one(db)
        .await
        .context("the purchases cannot be read")?;
        let connected: Vec<String> = sqlx::query_scalar("select phone from line where status = 'live' and phone is not null")
            .fetch_all(db)
            .await
            .context("the lines cannot be read")?;
        let (register_calls, code_requests): (i64, i64) = sqlx::query_as(
            "select count(*) filter (where call = 'register'), count(*) filter (where call = 'request_code') from number_call",
        )
        .fetch_one(db)
        .await
        .context("the budgets cannot be read")?;
        Ok(Self {
            owned: owned.into_iter().collect(),
            bought: bought.into_iter().collect(),
            purchases: purchases.unsigned_abs(),
            spent_micro_usd,
            connected: connected.into_iter().collect(),
            register_calls: register_calls.unsigned_abs(),
            code_requests: code_requests.unsigned_abs(),
        })
    }

    /// What the providers would testify.
    pub(crate) fn theirs(books: &Books) -> Self {
        let bought: Vec<&str> =
            books.orders.values().flatten().filter(|order| order.status == "success").map(|order| order.phone.as_str()).collect();
        let spent: i64 = books
            .charges
            .iter()
            .filter(|charge| charge.kind != ChargeKind::Call)
            .map(|charge| charge.cost * MICRO_PER_CHARGE_UNIT)
            .sum();
        Self {
            owned: books.owned.iter().map(|number| number.phone.clone()).collect(),
            purchases: u64::try_from(bought.len()).unwrap_or(u64::MAX),
            bought: bought.into_iter().map(str::to_owned).collect(),
            spent_micro_usd: spent,
            connected: books
                .numbers
                .iter()
                .filter(|(_, number)| number.registered)
                .map(|(digits, _)| format!("+{digits}"))
                .collect(),
            register_calls: books.numbers.values().map(|number| number.register_calls.len() as u64).sum(),
            code_requests: books.numbers.values().map(|number| number.code_requests.len() as u64).sum(),
        }
    }
}

/// The simulators charge in units of 0.0001 USD.
const MICRO_PER_CHARGE_UNIT: i64 = 100;

/// A line of the comparison.
#[derive(Debug)]
pub(crate) struct Entry {
    what: &'static str,
    ours: String,
    theirs: String,
    balanced: bool,
}

impl Entry {
    /// A count that must be the same on both sides.
    pub(crate) fn equal(what: &'static str, ours: u64, theirs: u64) -> Self {
        Self { what, ours: ours.to_string(), theirs: theirs.to_string(), balanced: ours == theirs }
    }

    /// An amount, in millionths of a dollar, that must be the same on both sides.
    pub(crate) fn usd(what: &'static str, ours: i64, theirs: i64) -> Self {
        Self { what, ours: usd(ours), theirs: usd(theirs), balanced: ours == theirs }
    }
}

/// Both sides, line by line.
pub(crate) fn compare(ours: &Side, theirs: &Side) -> Vec<Entry> {
    let entry = |what, ours: &dyn ToString, theirs: &dyn ToString, balanced| Entry {
        what,
        ours: ours.to_string(),
        theirs: theirs.to_string(),
        balanced,
    };
    // We count these before the call goes out, so that a call that was lost on its way counts with us alone.
    let within = |what, ours: u64, theirs: u64| entry(what, &ours, &theirs, theirs <= ours);
    vec![
        entry("numbers bought", &ours.bought.len(), &theirs.bought.len(), ours.bought == theirs.bought),
        entry("purchases paid", &ours.purchases, &theirs.purchases, ours.purchases == theirs.purchases),
        Entry::usd("money spent, USD", ours.spent_micro_usd, theirs.spent_micro_usd),
        entry("numbers owned now", &ours.owned.len(), &theirs.owned.len(), ours.owned == theirs.owned),
        entry("live on WhatsApp", &ours.connected.len(), &theirs.connected.len(), ours.connected == theirs.connected),
        within("register calls", ours.register_calls, theirs.register_calls),
        within("code requests", ours.code_requests, theirs.code_requests),
    ]
}

pub(crate) fn balanced(entries: &[Entry]) -> bool {
    entries.iter().all(|entry| entry.balanced)
}

pub(crate) fn show(entries: &[Entry], paint: Paint) -> String {
    let mut text = format!("  {}", paint.dim(format!("{:20}{:>10}{:>10}", "", "ours", "theirs")));
    for Entry { what, ours, theirs, balanced } in entries {
        let mark = if *balanced { paint.green("ok") } else { paint.red("NOT EQUAL") };
        text.push_str(&format!("\n  {what:20}{ours:>10}{theirs:>10}  {mark}"));
    }
    text
}

pub(crate) fn to_json(entries: &[Entry]) -> Value {
    let entries: Vec<_> = entries
        .iter()
        .map(|Entry { what, ours, theirs, balanced }| json!({ "what": what, "ours": ours, "theirs": theirs, "balanced": balanced }))
        .collect();
    json!(entries)
}

fn usd(micro: i64) -> String {
    let cents = (micro + 5_000) / 10_000;
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_line() -> Side {
        let phone = BTreeSet::from(["+212520000001".to_owned()]);
        Side {
            owned: phone.clone(),
            bought: phone,
            purchases: 1,
            spent_micro_usd: 2_000_000,
            register_calls: 1,
            code_requests: 1,
            ..Side::default()
        }
    }

    #[test]
    fn a_second_purchase_of_the_same_number_does_not_balance() {
        assert!(balanced(&compare(&one_line(), &one_line())));
        assert!(!balanced(&compare(&one_line(), &Side { purchases: 2, ..one_line() })));
    }

    #[test]
    fn a_call_lost_on_its_way_balances_and_one_that_we_did_not_count_does_not() {
        assert!(balanced(&compare(&Side { register_calls: 2, ..one_line() }, &one_line())));
        assert!(!balanced(&compare(&one_line(), &Side { register_calls: 2, ..one_line() })));
    }
}
