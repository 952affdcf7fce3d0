//! The code that Meta speaks or texts to a number of ours: calls answered, words heard, six digits passed on, sealed, to their run.
//!
//! Follows contracts/telnyx.md 7.5 and 8: answer at once, say nothing, collect everything said on the leg, decide when one code is
//! confirmed or the call is over. Somebody is listened to only while a run has an open request for that number.

use crate::{OtpArrived, Tools};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Failure, Kind,
    otp::{self, Code, Finding, Heard, Source},
};
use providers::telnyx::{Answering, Ears, Recording, RecordingQuery, SpeechModel};
use secrecy::SecretString;
use std::time::Duration;
use store::calls::{self, CallLeg, CodeRequest};
use tracing::{info, warn};
use uuid::Uuid;

/// After the hang-up the last words may still be under way.
pub const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(3);
/// Our clock and the provider's may differ by this much when what was missed is looked for.
pub const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(2);

/// What a code's seal is bound to on its way to the run.
fn context(request: Uuid) -> String {
    format!("signal:otp_arrived:{request}")
}

/// A code as a signal may carry it.
fn seal(tools: &Tools, request: Uuid, code: &Code) -> OtpArrived {
    OtpArrived { request, sealed: hex::encode(tools.vault.seal_str(&context(request), code.expose())) }
}

/// The code in a signal.
pub fn open(tools: &Tools, arrived: &OtpArrived) -> Result<SecretString, Failure> {
    let unreadable = |_| Failure::rejected("a sealed code cannot be opened").code("seal_broken");
    let sealed = hex::decode(&arrived.sealed).map_err(|_| Failure::rejected("a sealed code is not hex").code("seal_broken"))?;
    tools.vault.open_str(&context(arrived.request), &sealed).map_err(unreadable)
}

/// Telnyx ignores a command whose id it has seen: derived, so that a job's second try is the same command.
fn command(leg: &str, what: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("ligne:{what}:{leg}").as_bytes())
}

/// `fr`, `en_US` and `ar` as the ears spell them.
fn ears_language(language: &str) -> &str {
    language.split(['_', '-']).next().unwrap_or(language)
}

/// A call rings.
#[derive(Debug, Clone)]
pub struct Ringing<'a> {
    pub call_leg_id: &'a str,
    pub call_control_id: &'a str,
    /// E.164 of the called number.
    pub to: &'a str,
}

/// Answered at once, recorded and transcribed, if a run awaits a code on that number; else turned away.
pub async fn ring(tools: &Tools, call: &Ringing<'_>, at: DateTime<Utc>) -> Result<(), Failure> {
    let Some(request) = calls::open_for(&tools.db, call.to).await? else {
        info!(line.phone = call.to, "Turned a call away: nobody awaits a code");
        return tools.telnyx.reject(call.call_control_id, command(call.call_leg_id, "reject")).await;
    };
    let leg = CallLeg {
        call_leg_id: call.call_leg_id.to_owned(),
        call_control_id: call.call_control_id.to_owned(),
        code_request_id: request.code_request_id,
        started_at: at,
        ended_at: None,
    };
    calls::answer(&tools.db, &leg).await?;
    let how = Answering {
        client_state: request.code_request_id.to_string(),
        ears: Some(Ears::google(ears_language(&request.language))),
        record: true,
    };
    match tools.telnyx.answer(call.call_control_id, command(call.call_leg_id, "answer"), &how).await {
        Ok(()) => info!(line.phone = call.to, run.id = %request.run_id, "Answered the call with the code"),
        // Over, or answered already: nothing more can be done on this call.
        Err(failure) if failure.kind == Kind::Rejected => warn!(line.phone = call.to, "The call was not answered: {failure}"),
        Err(failure) => return Err(failure),
    }
    decide(tools, call.call_leg_id).await
}

/// Something was said on a call.
pub async fn hear(tools: &Tools, event_id: &str, call_leg_id: &str, heard: &Heard) -> Result<(), Failure> {
    calls::hear(&tools.db, &tools.vault, event_id, call_leg_id, heard).await?;
    decide(tools, call_leg_id).await
}

/// A call is over. `false`: come again after [`LAST_WORDS_PATIENCE`], when what was heard once will do.
pub async fn hung_up(tools: &Tools, call_leg_id: &str) -> Result<bool, Failure> {
    calls::ended(&tools.db, call_leg_id, tools.clock.now()).await?;
    decide(tools, call_leg_id).await?;
    let Some(leg) = calls::leg(&tools.db, call_leg_id).await? else { return Ok(true) };
    Ok(over(tools, &leg) || calls::has_passed(&tools.db, leg.code_request_id).await?)
}

/// The call has ended, and its last words have had their time.
fn over(tools: &Tools, leg: &CallLeg) -> bool {
    leg.ended_at.is_some_and(|ended| tools.clock.now() >= ended + LAST_WORDS_PATIENCE)
}

/// Passes the code on if what was heard so far is enough, and hangs up.
pub async fn decide(tools: &Tools, call_leg_id: &str) -> Result<(), Failure> {
    let Some(leg) = calls::leg(&tools.db, call_leg_id).await? else { return Ok(()) };
    let Some(request) = calls::request(&tools.db, leg.code_request_id).await? else { return Ok(()) };
    if request.closed_at.is_some() {
        return Ok(());
    }
    let code = match otp::find(&calls::heard(&tools.db, &tools.vault, call_leg_id).await?) {
        Finding::Confirmed(code) => code,
        Finding::Once(code) if over(tools, &leg) => code,
        Finding::Once(_) | Finding::Nothing | Finding::Ambiguous => return Ok(()),
    };
    if pass_on(tools, &request, &code, false).await? && leg.ended_at.is_none() {
        tools.telnyx.hangup(&leg.call_control_id, command(call_leg_id, "hangup")).await?;
    }
    Ok(())
}

/// The recording of a call can be fetched: heard a second time if the first was not enough, deleted if nobody waits any more.
pub async fn recorded(tools: &Tools, call_leg_id: &str) -> Result<(), Failure> {
    let Some(leg) = calls::leg(&tools.db, call_leg_id).await? else { return Ok(()) };
    let Some(request) = calls::request(&tools.db, leg.code_request_id).await? else { return Ok(()) };
    if request.closed_at.is_some() || request.until <= tools.clock.now() {
        return forget_recordings(tools, call_leg_id).await;
    }
    if calls::has_passed(&tools.db, request.code_request_id).await? {
        // Kept for a second opinion until the code has proved right; closing the request deletes it.
        return Ok(());
    }
    let query = RecordingQuery { call_leg_id: Some(call_leg_id.to_owned()), ..RecordingQuery::default() };
    for recording in tools.telnyx.recordings(&query).await? {
        listen_again(tools, &request, call_leg_id, &recording, false).await?;
    }
    Ok(())
}

/// A text message to a number of ours. `false`: no code in it, or nobody awaits one.
pub async fn text(tools: &Tools, to: &str, body: &str) -> Result<bool, Failure> {
    let Some(request) = calls::open_for(&tools.db, to).await? else { return Ok(false) };
    match otp::find_in_text(body) {
        Some(code) => pass_on(tools, &request, &code, false).await,
        None => Ok(false),
    }
}

/// Once per request and code: the signal and the note of it commit together.
async fn pass_on(tools: &Tools, request: &CodeRequest, code: &Code, run_wide: bool) -> Result<bool, Failure> {
    let mut tx = tools.db.begin().await?;
    if !calls::pass(&mut tx, &tools.vault, request.code_request_id, code, run_wide).await? {
        return Ok(false);
    }
    durable::signal(&mut tx, &request.phone, &seal(tools, request.code_request_id, code)).await?;
    tx.commit().await?;
    info!(line.phone = %request.phone, run.id = %request.run_id, "Heard a code and passed it on");
    Ok(true)
}

/// A second engine on the whole recording: in the language that was asked for, then in whatever it takes it for.
async fn listen_again(
    tools: &Tools,
    request: &CodeRequest,
    call_leg_id: &str,
    recording: &Recording,
    run_wide: bool,
) -> Result<bool, Failure> {
    let Some(link) = recording.download_urls.best() else { return Ok(false) };
    let sound = tools.telnyx.download_recording(link).await?;
    for language in [Some(ears_language(&request.language)), None] {
        let text = tools.telnyx.transcribe(sound.clone(), SpeechModel::Whisper, language).await?;
        let heard = Heard { at: tools.clock.now(), text, is_final: Some(true), source: Source::Recording };
        let id = format!("{}:whisper:{}", recording.id, language.unwrap_or("any"));
        calls::hear(&tools.db, &tools.vault, &id, call_leg_id, &heard).await?;
        // The call is over: whatever was heard without a rival counts.
        let finding = otp::find(&calls::heard(&tools.db, &tools.vault, call_leg_id).await?);
        if let Some(code) = finding.code()
            && pass_on(tools, request, &code, run_wide).await?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Nobody told us of a code: look through what Telnyx kept, webhooks that never came and recordings. Says whether one was passed on.
pub async fn recover(tools: &Tools, request: Uuid) -> Result<bool, Failure> {
    let Some(request) = calls::request(&tools.db, request).await? else { return Ok(false) };
    let since = Some(request.since - CLOCK_SKEW);
    for missed in crate::take_webhook::missed(tools, &request.phone, since).await? {
        match missed {
            crate::take_webhook::Missed::Text(body) => {
                if let Some(code) = otp::find_in_text(&body)
                    && pass_on(tools, &request, &code, true).await?
                {
                    return Ok(true);
                }
            }
            crate::take_webhook::Missed::Said { event_id, call_leg_id, heard } => {
                calls::hear(&tools.db, &tools.vault, &event_id, &call_leg_id, &heard).await?;
            }
        }
    }
    for leg in calls::legs(&tools.db, request.code_request_id).await? {
        let finding = otp::find(&calls::heard(&tools.db, &tools.vault, &leg.call_leg_id).await?);
        if let Some(code) = finding.code()
            && pass_on(tools, &request, &code, true).await?
        {
            return Ok(true);
        }
        let query = RecordingQuery { call_leg_id: Some(leg.call_leg_id.clone()), ..RecordingQuery::default() };
        for recording in tools.telnyx.recordings(&query).await? {
            if listen_again(tools, &request, &leg.call_leg_id, &recording, true).await? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Nobody is listened to for this run any more, and the sound of its codes is deleted. May be repeated.
pub async fn close(tools: &Tools, run: Uuid) -> Result<(), Failure> {
    calls::close(&tools.db, run).await?;
    for request in calls::of_run(&tools.db, run).await? {
        for leg in calls::legs(&tools.db, request.code_request_id).await? {
            forget_recordings(tools, &leg.call_leg_id).await?;
        }
    }
    Ok(())
}

async fn forget_recordings(tools: &Tools, call_leg_id: &str) -> Result<(), Failure> {
    let query = RecordingQuery { call_leg_id: Some(call_leg_id.to_owned()), ..RecordingQuery::default() };
    for recording in tools.telnyx.recordings(&query).await? {
        tools.telnyx.delete_recording(&recording.id).await?;
    }
    Ok(())
}
