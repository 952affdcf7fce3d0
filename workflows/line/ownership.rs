//! A number proved ours: a code asked for, heard and given back, within the budgets (contracts/meta-cloud-api.md 3.4, 3.5).

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Failure, Kind, LineId};
use durable::{Flow, Run};
use jobs::{OtpArrived, Tools, capture};
use providers::meta::{CodeMethod, CodeRequested, Verified};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::{
    budgets::{self, Call, Spent},
    calls,
};
use uuid::Uuid;

/// How long a call or text may take to come.
pub const OTP_PATIENCE: Duration = Duration::from_secs(180);
/// Requests for one number before it is given back: a day's budget.
pub const CODE_REQUESTS: u32 = 5;
/// Wrong codes before a fresh one is asked for.
pub const WRONG_CODES: u32 = 3;
/// "Typically 10 minutes"; afterwards nobody is listened to.
const CODE_LIFE: TimeDelta = TimeDelta::minutes(10);
/// A code that was just found is in the mailbox already.
const FOUND_PATIENCE: Duration = Duration::from_secs(5);
/// 136024 for a number that is not verified means "asked too often", by somebody.
const ASKED_TOO_OFTEN: TimeDelta = TimeDelta::hours(3);

/// The number whose ownership is proved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'c> {
    pub(crate) line: LineId,
    pub(crate) phone: &'c str,
    pub(crate) number_id: &'c str,
    /// `fr`, `ar`, `en_US`.
    pub(crate) language: &'c str,
    /// Whether it can get texts.
    pub(crate) sms: bool,
}

/// Ask until a right code arrives: by voice, by text, by voice again.
pub(crate) async fn prove(run: &mut Run<'_>, tools: &Tools, claim: Claim<'_>) -> Flow<()> {
    let methods: &[CodeMethod] = if claim.sms { &[CodeMethod::Voice, CodeMethod::Sms] } else { &[CodeMethod::Voice] };
    'rounds: for (round, method) in (0..CODE_REQUESTS).zip(methods.iter().cycle()) {
        let request = Uuid::new_v5(&run.id(), format!("code {round} of {}", claim.phone).as_bytes());
        loop {
            match run.step("request code", ask(tools, run.id(), request, claim, *method)).await? {
                Asked::Sent => break,
                Asked::Verified => return Ok(()),
                Asked::Refused => continue 'rounds,
                Asked::Later { until } => {
                    let now = run.now().await?;
                    run.sleep("code budget", (until - now).to_std().unwrap_or_default()).await?;
                }
            }
        }
        if listen(run, tools, claim, request, *method).await? {
            return Ok(());
        }
    }
    run.fail(Failure::rejected("no right code by voice or by text").code("no_code"))
}

/// Until the code of this request has proved right (`true`), or there is none to be had.
async fn listen(run: &mut Run<'_>, tools: &Tools, claim: Claim<'_>, request: Uuid, method: CodeMethod) -> Flow<bool> {
    let reason = match method {
        CodeMethod::Voice => "a call with Meta's code",
        CodeMethod::Sms => "a text with Meta's code",
    };
    let mut wrong = 0;
    let mut patience = OTP_PATIENCE;
    loop {
        let arrived = run.wait::<OtpArrived>(claim.phone, patience, reason).await?;
        match arrived {
            // Meant for a request that is over.
            Some(arrived) if arrived.request != request => continue,
            Some(arrived) => match run.step("verify code", verify(tools, run.id(), claim, &arrived)).await? {
                Verified::Yes => return Ok(true),
                Verified::Wrong => wrong += 1,
            },
            None if patience == FOUND_PATIENCE => return Ok(false),
            None => {}
        }
        // Silence, or something was misheard: what did Telnyx keep?
        if wrong >= WRONG_CODES || !run.step("recover code", capture::recover(tools, request)).await? {
            return Ok(false);
        }
        patience = FOUND_PATIENCE;
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    Sent,
    /// Nothing is to be proved any more.
    Verified,
    /// Asked too often, by whomever: the budget is shut for hours, then comes the other method.
    Refused,
    Later {
        until: DateTime<Utc>,
    },
}

/// Looks, spends, listens, and only then asks. A repeated ask whose first answer was lost is not made: a second code voids the first.
async fn ask(tools: &Tools, run: Uuid, request: Uuid, claim: Claim<'_>, method: CodeMethod) -> Result<Asked, Failure> {
    if tools.meta.number(claim.number_id).await?.is_verified() {
        return Ok(Asked::Verified);
    }
    if calls::request(&tools.db, request).await?.is_some() {
        return Ok(Asked::Sent);
    }
    let counted = match budgets::spend(&tools.db, claim.phone, Call::RequestCode, run).await? {
        Spent::Granted(counted) => counted,
        Spent::Until(until) => return Ok(Asked::Later { until }),
    };
    let mut tx = tools.db.begin().await?;
    let word = match method {
        CodeMethod::Voice => "voice",
        CodeMethod::Sms => "sms",
    };
    let new = calls::NewRequest {
        code_request_id: request,
        run_id: run,
        line_id: claim.line,
        phone: claim.phone,
        method: word,
        language: claim.language,
    };
    calls::open(&mut tx, &new, CODE_LIFE).await?;
    tx.commit().await?;
    match tools.meta.request_code(claim.number_id, method, claim.language).await {
        Ok(CodeRequested::Sent) => {
            budgets::settle(&tools.db, counted, "ok").await?;
            Ok(Asked::Sent)
        }
        Ok(CodeRequested::Refused) => {
            budgets::settle(&tools.db, counted, "136024").await?;
            calls::withdraw(&tools.db, request).await?;
            if tools.meta.number(claim.number_id).await?.is_verified() {
                return Ok(Asked::Verified);
            }
            budgets::lock_out(&tools.db, claim.phone, Call::RequestCode, ASKED_TOO_OFTEN, "136024").await?;
            Ok(Asked::Refused)
        }
        // It may ring all the same: listen, and ask for no second code meanwhile.
        Err(failure) if failure.kind == Kind::Unclear => Ok(Asked::Sent),
        Err(failure) => {
            budgets::settle(&tools.db, counted, failure.code.as_deref().unwrap_or("refused")).await?;
            calls::withdraw(&tools.db, request).await?;
            Err(failure)
        }
    }
}

/// Gives the code to Meta, after a look: it may have been given already.
async fn verify(tools: &Tools, run: Uuid, claim: Claim<'_>, arrived: &OtpArrived) -> Result<Verified, Failure> {
    if tools.meta.number(claim.number_id).await?.is_verified() {
        return Ok(Verified::Yes);
    }
    let counted = match budgets::spend(&tools.db, claim.phone, Call::VerifyCode, run).await? {
        Spent::Granted(counted) => counted,
        Spent::Until(until) => {
            let wait = (until - tools.clock.now()).to_std().unwrap_or_default();
            return Err(Failure::throttled("too many codes were tried on this number", wait));
        }
    };
    let code = capture::open(tools, arrived)?;
    let answer = tools.meta.verify_code(claim.number_id, &code).await;
    let outcome = match &answer {
        Ok(Verified::Yes) => "ok",
        Ok(Verified::Wrong) => "wrong",
        Err(failure) => failure.code.as_deref().unwrap_or("unclear"),
    };
    budgets::settle(&tools.db, counted, outcome).await?;
    answer
}
