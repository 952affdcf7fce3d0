//! Registered with Meta and back, within a budget that is counted before each call (contracts/meta-cloud-api.md 3.6).

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Failure, Kind, LineId};
use jobs::Tools;
use providers::meta::{NumberStatus, PhoneNumber};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{
    budgets::{self, Call, Spent},
    lines,
};
use uuid::Uuid;

/// The lock-out after too many calls: 72 h, not probed.
const LOCKED_OUT: &str = "133016";
const LOCK_OUT: TimeDelta = TimeDelta::hours(72);
/// CONNECTED may lag the answer by seconds.
const CONNECTS_AFTER: Duration = Duration::from_secs(2);

/// How a try to register ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Registered {
    Yes,
    /// The budget is used up, or Meta says wait.
    Later {
        until: DateTime<Utc>,
        why: String,
    },
    /// Meta wants the ownership proved again.
    VerifyFirst,
}

/// The PIN is made once, sealed and kept before Meta hears of it.
pub(crate) async fn make_pin(tools: &Tools, line: LineId) -> Result<(), Failure> {
    let sealed = tools.vault.seal_str(&lines::pin_context(line), &jobs::new_pin());
    lines::keep_pin(&tools.db, line, &sealed).await?;
    Ok(())
}

async fn pin(tools: &Tools, line: LineId) -> Result<SecretString, Failure> {
    let sealed = lines::pin(&tools.db, line).await?;
    let sealed = sealed.ok_or_else(|| Failure::rejected("the line has no PIN").code("no_pin"))?;
    let broken = |error| Failure::rejected(format!("the line's PIN does not open: {error}")).code("seal_broken");
    tools.vault.open_str(&lines::pin_context(line), &sealed).map_err(broken)
}

/// Connected, and under the name that was asked for if one was.
fn is_done(number: &PhoneNumber, name: Option<&str>) -> bool {
    number.is_connected() && name.is_none_or(|name| number.verified_name.as_deref() == Some(name))
}

/// Looks, then spends one of eight. `name`: an approved new name, which counts only once registered again.
pub(crate) async fn register(
    tools: &Tools,
    run: Uuid,
    line: LineId,
    phone: &str,
    number_id: &str,
    name: Option<&str>,
) -> Result<Registered, Failure> {
    let number = tools.meta.number(number_id).await?;
    if is_done(&number, name) || (name.is_none() && number.status == NumberStatus::Pending && number.is_pin_enabled) {
        return Ok(Registered::Yes);
    }
    let pin = pin(tools, line).await?;
    match call(tools, run, phone, Call::Register, tools.meta.register(number_id, &pin, None)).await? {
        Called::Done => Ok(Registered::Yes),
        Called::Later { until, why } => Ok(Registered::Later { until, why }),
        Called::Refused(failure) if failure.has_code("133006") => Ok(Registered::VerifyFirst),
        // Somebody set another PIN, perhaps we in an earlier life of the number: it can be replaced without being known.
        Called::Refused(failure) if failure.has_code("133005") => {
            tools.meta.set_pin(number_id, &pin).await?;
            again(tools, run, phone, number_id, &pin).await
        }
        // An earlier deregistration is half done.
        Called::Refused(failure) if failure.has_code("133000") => {
            match call(tools, run, phone, Call::Deregister, tools.meta.deregister(number_id)).await? {
                Called::Later { until, why } => Ok(Registered::Later { until, why }),
                Called::Done | Called::Refused(_) => again(tools, run, phone, number_id, &pin).await,
            }
        }
        Called::Refused(failure) => match tools.meta.number(number_id).await? {
            number if is_done(&number, name) => Ok(Registered::Yes),
            _ => Err(failure),
        },
    }
}

/// Once more, after what stood in the way was put aside.
async fn again(tools: &Tools, run: Uuid, phone: &str, number_id: &str, pin: &SecretString) -> Result<Registered, Failure> {
    match call(tools, run, phone, Call::Register, tools.meta.register(number_id, pin, None)).await? {
        Called::Done => Ok(Registered::Yes),
        Called::Later { until, why } => Ok(Registered::Later { until, why }),
        Called::Refused(failure) => Err(failure),
    }
}

/// CONNECTED, as Meta says it.
pub(crate) async fn connected(tools: &Tools, line: LineId, number_id: &str) -> Result<(), Failure> {
    let number = tools.meta.number(number_id).await?;
    if !number.is_connected() {
        return Err(
            Failure::transient(format!("the number is {} at Meta, not connected yet", number.status)).after(CONNECTS_AFTER)
        );
    }
    lines::seen(&tools.db, line, &seen(&number)).await?;
    Ok(())
}

/// What the line's row keeps of a number.
pub(crate) fn seen(number: &PhoneNumber) -> lines::Seen<'_> {
    fn told(word: &str) -> Option<&str> {
        Some(word).filter(|word| !word.is_empty())
    }
    lines::Seen {
        name_status: told(number.name_status.as_str()),
        display_name: None,
        quality: told(number.quality_rating.as_str()),
        throughput: told(number.throughput.as_str()),
    }
}

/// The undo of a registration, and the first act of a release. A number that is not connected, or not there, is deregistered.
pub(crate) async fn deregister(tools: &Tools, run: Uuid, phone: &str, number_id: &str) -> Result<(), Failure> {
    let number = match tools.meta.number(number_id).await {
        Err(failure) if failure.has_code("100.33") => return Ok(()),
        answer => answer?,
    };
    let linked = |number: &PhoneNumber| matches!(number.status, NumberStatus::Connected | NumberStatus::Pending);
    if !linked(&number) || number.is_on_biz_app {
        return Ok(());
    }
    match call(tools, run, phone, Call::Deregister, tools.meta.deregister(number_id)).await? {
        Called::Done => Ok(()),
        Called::Later { until, why } => Err(Failure::throttled(why, (until - tools.clock.now()).to_std().unwrap_or_default())),
        Called::Refused(failure) => match tools.meta.number(number_id).await? {
            number if linked(&number) => Err(failure),
            _ => Ok(()),
        },
    }
}

/// How a counted call ended.
enum Called {
    Done,
    Later { until: DateTime<Utc>, why: String },
    Refused(Failure),
}

/// Counts, then calls; keeps a lock-out that Meta tells of.
async fn call(
    tools: &Tools,
    run: Uuid,
    phone: &str,
    what: Call,
    act: impl Future<Output = Result<(), Failure>>,
) -> Result<Called, Failure> {
    let counted = match budgets::spend(&tools.db, phone, what, run).await? {
        Spent::Granted(counted) => counted,
        Spent::Until(until) => {
            let why = format!("no more {} calls to Meta for {phone} now: the budget is used up", what.as_str());
            return Ok(Called::Later { until, why });
        }
    };
    let failure = match act.await {
        Ok(()) => {
            budgets::settle(&tools.db, counted, "ok").await?;
            return Ok(Called::Done);
        }
        Err(failure) => failure,
    };
    if failure.kind == Kind::Unclear {
        return Err(failure);
    }
    let code = failure.code.clone().unwrap_or_else(|| "refused".to_owned());
    budgets::settle(&tools.db, counted, &code).await?;
    // 133008, 133009, 133015, 133016: the number must be left alone for a time. Other throttles are the account's.
    let number_wide = code.starts_with("1330");
    if failure.kind == Kind::Throttled && number_wide {
        let told = failure.retry_after().and_then(|wait| TimeDelta::from_std(wait).ok());
        let wait = if code == LOCKED_OUT { LOCK_OUT } else { told.unwrap_or(TimeDelta::hours(1)) };
        let until = budgets::lock_out(&tools.db, phone, what, wait, &code).await?;
        return Ok(Called::Later { until, why: failure.why });
    }
    if failure.kind == Kind::Rejected { Ok(Called::Refused(failure)) } else { Err(failure) }
}
