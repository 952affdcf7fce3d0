//! How much of Meta's call budgets is used, as its headers tell (contracts/meta-cloud-api.md 1.4).

use crate::{loose, wire::Reply};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// Percentages of budgets: 100 is throttled. Headers are missing on light use, so zero may mean "not told".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// The app's, the fullest of its three counters.
    pub app_percent: u32,
    /// By account id.
    pub accounts: BTreeMap<String, AccountUsage>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountUsage {
    /// The fullest of the counters.
    pub percent: u32,
    /// How long until calls are possible again; zero if they are.
    pub regain: Duration,
}

impl Usage {
    pub(super) fn update(&mut self, told: Usage) {
        self.app_percent = told.app_percent;
        self.accounts.extend(told.accounts);
    }
}

/// `None` if the answer carries neither header.
pub(super) fn read(reply: &Reply) -> Option<Usage> {
    let header = |name| serde_json::from_str::<Value>(reply.header(name)?).ok();
    let app = header("x-app-usage");
    let business = header("x-business-use-case-usage");
    if app.is_none() && business.is_none() {
        return None;
    }
    let mut usage = Usage { app_percent: app.as_ref().map_or(0, percent), accounts: BTreeMap::new() };
    for (account, rows) in business.as_ref().and_then(Value::as_object).into_iter().flatten() {
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        let minutes = rows.iter().filter_map(|row| loose::as_int(row.get("estimated_time_to_regain_access")?)).max().unwrap_or(0);
        let row = AccountUsage {
            percent: rows.iter().map(percent).max().unwrap_or(0),
            regain: Duration::from_secs(60 * u64::try_from(minutes).unwrap_or(0)),
        };
        usage.accounts.insert(account.clone(), row);
    }
    Some(usage)
}

fn percent(row: &Value) -> u32 {
    const COUNTERS: [&str; 3] = ["call_count", "total_cputime", "total_time"];
    let counters = COUNTERS.iter().filter_map(|name| loose::as_int(row.get(name)?)).max().unwrap_or(0);
    u32::try_from(counters).unwrap_or(0)
}

/// The longest wait that the answer's usage headers ask for.
pub(super) fn regain(reply: &Reply) -> Option<Duration> {
    read(reply)?.accounts.values().map(|account| account.regain).max().filter(|wait| !wait.is_zero())
}
