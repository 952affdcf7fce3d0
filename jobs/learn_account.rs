//! What Meta says about numbers, limits and accounts, applied: level and quality, people a day, restrictions and their end.

use crate::run_lane;
use chrono::{DateTime, Utc};
use domain::{Failure, LineId};
use durable::Tx;
use providers::meta_hook::NumberQuality;
use serde_json::Value;
use store::{
    lanes,
    lines::{self, Seen},
    quota,
};
use tracing::{info, warn};

/// Status of a line whose account may not send.
const RESTRICTED: &str = "restricted";
/// Code of an account's stop by Meta's word.
const RESTRICTION: &str = "account_restriction";

/// A number's level has changed; `false` if it is nobody's.
pub(crate) async fn number(tx: &mut Tx<'_>, account: &str, news: &NumberQuality) -> Result<bool, Failure> {
    let phone = format!("+{}", news.display_phone_number);
    let Some(line) = lines::by_phone(&mut **tx, &phone).await? else { return Ok(false) };
    let id = LineId(line.line_id);
    info!(line.phone = phone, "Meta says of a number: {}", news.event);
    if news.event == "THROUGHPUT_UPGRADE" {
        lines::seen(&mut **tx, id, &Seen { throughput: Some("HIGH"), ..Seen::default() }).await?;
        lines::tell(tx, id).await?;
    }
    if let Some(limit) = &news.current_limit {
        people_a_day(tx, account, limit).await?;
    }
    Ok(true)
}

/// How many people outside a window the account's portfolio may write to in 24 hours; sends that wait for it go on.
pub(crate) async fn people_a_day(tx: &mut Tx<'_>, account: &str, limit: &str) -> Result<(), Failure> {
    let limit = run_lane::people_a_day(limit);
    for portfolio in lines::portfolios(&mut **tx, account).await? {
        quota::set_limit(&mut **tx, &portfolio, limit).await?;
    }
    let waiting = lanes::of_account(&mut **tx, account).await?;
    go_on(tx, &waiting).await
}

/// Restrictions stop every line of the account; their end lets them go on.
pub(crate) async fn update(tx: &mut Tx<'_>, account: &str, what: &str, value: &Value, now: DateTime<Utc>) -> Result<(), Failure> {
    let ban = value["ban_info"]["waba_ban_state"].as_str().unwrap_or_default();
    match (what, ban) {
        ("ACCOUNT_RESTRICTION", _) => {
            let all = value["restriction_info"].as_array().map_or(&[][..], Vec::as_slice);
            let sends = all.iter().find(|one| {
                let kind = one["restriction_type"].as_str().unwrap_or_default();
                matches!(kind, "RESTRICTED_BIZ_INITIATED_MESSAGING" | "RESTRICTED_CUSTOMER_INITIATED_MESSAGING")
            });
            let Some(restriction) = sends else { return Ok(()) };
            let kind = restriction["restriction_type"].as_str().unwrap_or_default();
            let until = instant(&restriction["expiration"]).filter(|until| *until > now);
            restrict(tx, account, &format!("Meta restricts the account: {kind}"), until).await
        }
        ("DISABLED_UPDATE", "DISABLE") => restrict(tx, account, "Meta has disabled the account", None).await,
        ("ACCOUNT_DELETED", _) => restrict(tx, account, "the account is deleted at Meta", None).await,
        ("ACCOUNT_OFFBOARDED", _) => restrict(tx, account, "the account has left our platform", None).await,
        ("DISABLED_UPDATE", "REINSTATE") | ("ACCOUNT_RECONNECTED", _) => free(tx, account).await.map(drop),
        ("DISABLED_UPDATE" | "ACCOUNT_VIOLATION", _) => {
            warn!(meta.account = account, "Meta warns the account: {what} {ban}");
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn restrict(tx: &mut Tx<'_>, account: &str, why: &str, until: Option<DateTime<Utc>>) -> Result<(), Failure> {
    warn!(meta.account = account, "All lines of account {account} stop: {why}");
    lanes::stop_account(&mut **tx, account, RESTRICTION, why, until).await?;
    for line in lanes::of_account(&mut **tx, account).await? {
        lines::move_to(tx, line, &["live"], RESTRICTED, Some(why)).await?;
    }
    Ok(())
}

/// Nothing stops the account any more: its lines are live again, and what they have queued goes. Says whether it was stopped.
pub async fn free(tx: &mut Tx<'_>, account: &str) -> Result<bool, Failure> {
    let stopped = lanes::resume_account(&mut **tx, account).await?;
    let all = lanes::of_account(&mut **tx, account).await?;
    for line in &all {
        lines::move_to(tx, *line, &[RESTRICTED], "live", None).await?;
    }
    go_on(tx, &all).await?;
    Ok(stopped)
}

/// A line that an operator, or the end of its restriction, lets go on; says whether anything had stopped it.
pub async fn resume_line(tx: &mut Tx<'_>, line: LineId) -> Result<bool, Failure> {
    let stopped = lanes::resume(&mut **tx, line).await?;
    let restricted = lines::move_to(tx, line, &[RESTRICTED], "live", None).await?;
    go_on(tx, &[line]).await?;
    Ok(stopped || restricted)
}

async fn go_on(tx: &mut Tx<'_>, lines: &[LineId]) -> Result<(), Failure> {
    store::messages::hurry(&mut **tx, lines).await?;
    run_lane::wake(tx, lines).await
}

/// Seconds since 1970, as a number or in digits, or RFC 3339.
fn instant(value: &Value) -> Option<DateTime<Utc>> {
    let seconds = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    match seconds {
        Some(seconds) => DateTime::from_timestamp(seconds, 0),
        None => value.as_str()?.parse().ok(),
    }
}
