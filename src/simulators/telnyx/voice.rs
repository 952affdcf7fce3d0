//! Inbound calls: events, commands, recordings, transcripts (contracts/telnyx.md 7).

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::collections::HashSet;

use super::{
    billing::{Charge, Kind},
    data, missing, not_found, page,
};
use crate::{
    speech::{self, Language, Utterance},
    wire::{Answer, Call, Operation, Outcome, Refusal},
    world::{World, iso},
};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { name: "telnyx.app_create", method: "POST", path: "call_control_applications", act: create_app },
    Operation { name: "telnyx.apps", method: "GET", path: "call_control_applications", act: apps },
    Operation { name: "telnyx.app", method: "GET", path: "call_control_applications/{id}", act: show_app },
    Operation { name: "telnyx.app_update", method: "PATCH", path: "call_control_applications/{id}", act: update_app },
    Operation { name: "telnyx.answer", method: "POST", path: "calls/{call}/actions/answer", act: answer },
    Operation { name: "telnyx.reject", method: "POST", path: "calls/{call}/actions/reject", act: reject },
    Operation { name: "telnyx.hangup", method: "POST", path: "calls/{call}/actions/hangup", act: hangup },
    Operation {
        name: "telnyx.transcription_start",
        method: "POST",
        path: "calls/{call}/actions/transcription_start",
        act: transcription_start,
    },
    Operation {
        name: "telnyx.transcription_stop",
        method: "POST",
        path: "calls/{call}/actions/transcription_stop",
        act: transcription_stop,
    },
    Operation { name: "telnyx.record_start", method: "POST", path: "calls/{call}/actions/record_start", act: record_start },
    Operation { name: "telnyx.record_stop", method: "POST", path: "calls/{call}/actions/record_stop", act: record_stop },
    Operation { name: "telnyx.send_dtmf", method: "POST", path: "calls/{call}/actions/send_dtmf", act: send_dtmf },
    Operation { name: "telnyx.call", method: "GET", path: "calls/{call}", act: show_call },
    Operation { name: "telnyx.recordings", method: "GET", path: "recordings", act: recordings },
    Operation { name: "telnyx.recording", method: "GET", path: "recordings/{id}", act: recording },
    Operation { name: "telnyx.recording_delete", method: "DELETE", path: "recordings/{id}", act: delete_recording },
    Operation { name: "telnyx.recording_download", method: "GET", path: "storage/{id}", act: download },
    Operation { name: "telnyx.recording_transcripts", method: "GET", path: "recording_transcriptions", act: transcripts },
    Operation { name: "telnyx.transcribe", method: "POST", path: "ai/audio/transcriptions", act: transcribe },
];

/// A link to a recording works this long.
const LINK_LASTS: TimeDelta = TimeDelta::minutes(10);
/// The caller gives up ringing.
const RING_PATIENCE_MS: u64 = 30_000;
/// Without `first_command_timeout_secs`.
const FIRST_COMMAND_S: u64 = 30;
/// Price of a call, in units of 0.0001 USD.
const CALL_COST: i64 = 35;

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ringing,
    Answered,
    Ended,
}

/// One inbound call.
pub(crate) struct PhoneCall {
    control: String,
    leg: String,
    session: String,
    from: String,
    pub(crate) to: String,
    app: String,
    phase: Phase,
    started: DateTime<Utc>,
    answered: Option<DateTime<Utc>>,
    ended: Option<DateTime<Utc>>,
    client_state: Option<String>,
    /// What the caller says, in order.
    script: Vec<Utterance>,
    language: Language,
    /// What was said while we listened.
    heard: Vec<String>,
    /// Whether transcription runs, and with interim results.
    listening: Option<bool>,
    recording: Option<String>,
    commands: HashSet<String>,
    /// Recorded or not, no transcription event is sent.
    deaf: bool,
}

/// A kept recording.
pub(crate) struct Recording {
    id: String,
    leg: String,
    session: String,
    control: String,
    app: String,
    from: String,
    pub(crate) to: String,
    text: String,
    started: DateTime<Utc>,
    ended: DateTime<Utc>,
}

pub(super) fn app(id: &str, name: &str, url: &str, now: DateTime<Utc>) -> Value {
    json!({
        "id": id, "record_type": "call_control_application", "application_name": name, "active": true, "webhook_event_url": url,
        "webhook_event_failover_url": "", "webhook_api_version": "2", "webhook_timeout_secs": 5, "first_command_timeout": true,
        "first_command_timeout_secs": 20, "call_cost_in_webhooks": true, "anchorsite_override": "Latency", "dtmf_type": "RFC 2833",
        "inbound": {"channel_limit": 50}, "outbound": {}, "created_at": iso(now), "updated_at": iso(now),
    })
}

fn create_app(world: &mut World, call: &Call) -> Outcome {
    let name = call.need("application_name", missing)?;
    let url = call.need("webhook_event_url", missing)?;
    let id = format!("23{}", world.digits(17));
    let mut body = app(&id, name, url, world.now);
    // The default is the old format, a well-known trap.
    body["webhook_api_version"] = json!(call.text("webhook_api_version").unwrap_or("1"));
    world.telnyx.apps.insert(id, body.clone());
    Ok(Answer::json(201, &json!({"data": body})))
}

fn apps(world: &mut World, call: &Call) -> Outcome {
    let apps = world.telnyx.apps.values().cloned().collect();
    page(world, call, apps)
}

fn show_app(world: &mut World, call: &Call) -> Outcome {
    let app = world.telnyx.apps.get(call.arg(0)).cloned().ok_or_else(|| not_found("application"))?;
    data(world, app)
}

fn update_app(world: &mut World, call: &Call) -> Outcome {
    let app = world.telnyx.apps.get_mut(call.arg(0)).ok_or_else(|| not_found("application"))?;
    for (name, value) in call.input.as_object().into_iter().flatten() {
        app[name] = value.clone();
    }
    let app = app.clone();
    data(world, app)
}

/// Somebody calls one of our numbers. Nothing happens unless it is active and has a voice app.
pub(crate) fn ring(world: &mut World, to: &str, from: &str, script: Vec<Utterance>, language: Language, deaf: bool) {
    let number = world.telnyx.held(to).filter(|number| number.status == "active");
    let app = number.and_then(|number| number.connection.clone()).filter(|id| world.telnyx.apps.contains_key(id));
    let Some(app) = app else {
        world.telnyx.unheard += 1;
        return;
    };
    let control = format!("v3:{}", world.uuid().replace('-', ""));
    let call = PhoneCall {
        control: control.clone(),
        leg: world.uuid(),
        session: world.uuid(),
        from: from.to_owned(),
        to: to.to_owned(),
        app: app.clone(),
        phase: Phase::Ringing,
        started: world.now,
        answered: None,
        ended: None,
        client_state: None,
        script,
        language,
        heard: Vec::new(),
        listening: None,
        recording: None,
        commands: HashSet::new(),
        deaf,
    };
    world.telnyx.calls.insert(control.clone(), call);
    let start = iso(world.now);
    event(
        world,
        &control,
        "call.initiated",
        json!({"from": from, "to": to, "direction": "incoming", "state": "parked", "start_time": start, "caller_id_name": from}),
    );
    let settings = &world.telnyx.apps[&app];
    if settings["first_command_timeout"] == true {
        let patience = settings["first_command_timeout_secs"].as_u64().unwrap_or(FIRST_COMMAND_S) * 1_000;
        let control = control.clone();
        world.timer("first command", patience, move |world| {
            if phase(world, &control) == Some(Phase::Ringing) {
                finish(world, &control, "timeout", "unknown");
            }
        });
    }
    world.timer("caller gives up", RING_PATIENCE_MS, move |world| {
        if phase(world, &control) == Some(Phase::Ringing) {
            finish(world, &control, "originator_cancel", "caller");
        }
    });
}

fn phase(world: &World, control: &str) -> Option<Phase> {
    world.telnyx.calls.get(control).map(|call| call.phase)
}

/// Sends an event of a call, and keeps it for `/call_events`.
fn event(world: &mut World, control: &str, name: &str, more: Value) {
    let Some(call) = world.telnyx.calls.get(control) else { return };
    let mut payload = json!({"call_control_id": call.control, "call_leg_id": call.leg, "call_session_id": call.session,
        "connection_id": call.app, "client_state": call.client_state});
    if let (Some(payload), Value::Object(more)) = (payload.as_object_mut(), more) {
        payload.extend(more);
    }
    let payload = super::shaped(world, payload);
    let call = &world.telnyx.calls[control];
    let (leg, session, to) = (call.leg.clone(), call.session.clone(), call.to.clone());
    let settings = &world.telnyx.apps[&call.app];
    let url = settings["webhook_event_url"].as_str().unwrap_or_default().to_owned();
    let kept = json!({"record_type": "call_event", "call_leg_id": leg, "call_session_id": session, "event_timestamp": iso(world.now),
        "name": name, "type": "webhook", "metadata": {"event": {"event_type": name, "occurred_at": iso(world.now), "payload": payload}}});
    // The old format is what an app gets that asked for none.
    let old = (settings["webhook_api_version"] == "1").then(|| kept.clone());
    world.telnyx.call_events.push(kept);
    let mut about = world.aliases(to.trim_start_matches('+'));
    about.push(leg);
    if let Some(old) = old {
        return world.telnyx_body(&url, &about, name, old);
    }
    world.telnyx_event(&url, &about, name, payload);
}

/// The next utterance, or the end of what the caller had to say.
fn speak(world: &mut World, control: &str, at: usize) {
    let gap = world.config.delays.utterance_ms;
    let Some(call) = world.telnyx.calls.get_mut(control).filter(|call| call.phase == Phase::Answered) else { return };
    let Some(said) = call.script.get(at).cloned() else { return finish(world, control, "normal_clearing", "caller") };
    if !said.partial {
        call.heard.push(said.text.clone());
    }
    let sent = call.listening.is_some_and(|interim| interim || !said.partial) && !call.deaf;
    if sent {
        let confidence = if said.partial { 0.0 } else { 0.93 };
        let transcript = json!({"transcript": said.text, "is_final": !said.partial, "confidence": confidence, "transcription_track": "inbound"});
        event(world, control, "call.transcription", json!({"transcription_data": transcript}));
    }
    let control = control.to_owned();
    world.after("utterance", gap, move |world| speak(world, &control, at + 1));
}

/// The call ends; its recording and its cost follow.
fn finish(world: &mut World, control: &str, cause: &str, source: &str) {
    let now = world.now;
    let Some(call) = world.telnyx.calls.get_mut(control).filter(|call| call.phase != Phase::Ended) else { return };
    call.phase = Phase::Ended;
    call.ended = Some(now);
    let (from, to, start, answered) = (call.from.clone(), call.to.clone(), call.started, call.answered);
    let ended = json!({"from": from, "to": to, "hangup_cause": cause, "hangup_source": source, "sip_hangup_cause": "200",
        "start_time": iso(start), "end_time": iso(now), "state": "hangup"});
    event(world, control, "call.hangup", ended);
    if let Some(answered) = answered {
        let seconds = (now - answered).num_seconds().max(1);
        world.charge(Charge { at: now, phone: to.clone(), kind: Kind::Call, cost: CALL_COST });
        let (leg, cost) = (world.telnyx.calls[control].leg.clone(), super::dollars(CALL_COST));
        world.telnyx.details.push(
            json!({"record_type": "call-control", "id": leg, "cli": from, "cld": to, "direction": "inbound",
            "started_at": iso(start), "answered_at": iso(answered), "finished_at": iso(now), "call_sec": seconds, "cost": cost,
            "currency": "USD"}),
        );
        let part = json!({"call_part": "inbound", "rate": cost, "cost": cost, "currency": "USD", "billed_duration_secs": 60});
        event(
            world,
            control,
            "call.cost",
            json!({"total_cost": cost, "billed_duration_secs": 60, "cost_parts": [part], "status": "success"}),
        );
    }
    let (delay, control) = (world.config.delays.recording_ms, control.to_owned());
    world.after("recording is saved", delay, move |world| save(world, &control));
}

fn save(world: &mut World, control: &str) {
    let now = world.now;
    let Some(call) = world.telnyx.calls.get_mut(control) else { return };
    let Some(id) = call.recording.take() else { return };
    let recording = Recording {
        id: id.clone(),
        leg: call.leg.clone(),
        session: call.session.clone(),
        control: control.to_owned(),
        app: call.app.clone(),
        from: call.from.clone(),
        to: call.to.clone(),
        text: call.heard.join(" "),
        started: call.answered.unwrap_or(call.started),
        ended: call.ended.unwrap_or(now),
    };
    let saved = json!({"channels": "single", "format": "wav", "recording_id": id, "recording_started_at": iso(recording.started),
        "recording_ended_at": iso(recording.ended), "recording_urls": {"wav": link(world, &id)}, "public_recording_urls": {}});
    world.telnyx.recordings.insert(id, recording);
    event(world, control, "call.recording.saved", saved);
}

/// A link that dies; anybody may follow it until then.
fn link(world: &World, id: &str) -> String {
    format!("{}/storage/{id}?expires={}", world.config.telnyx.url, (world.now + LINK_LASTS).timestamp())
}

/// A call that can still be commanded, unless the very command was seen before.
enum Target {
    Fresh,
    Repeated,
}

fn target(world: &mut World, call: &Call) -> Result<Target, Refusal> {
    let control = call.arg(0);
    let ended = || Refusal::new(422, 90018, "The call has ended.");
    let live = world.telnyx.calls.get_mut(control).ok_or_else(|| Refusal::new(422, 90015, "No call with this id."))?;
    if let Some(id) = call.text("command_id")
        && !live.commands.insert(id.to_owned())
    {
        return Ok(Target::Repeated);
    }
    if live.phase == Phase::Ended {
        return Err(ended());
    }
    if let Some(state) = call.text("client_state") {
        if base64::Engine::decode(&base64::prelude::BASE64_STANDARD, state).is_err() {
            return Err(Refusal::new(422, 90017, "client_state is not base64."));
        }
        live.client_state = Some(state.to_owned());
    }
    Ok(Target::Fresh)
}

/// Runs a command on a live call; a repeated one is a quiet success.
fn command(world: &mut World, call: &Call, act: impl FnOnce(&mut PhoneCall) -> Result<Value, Refusal>) -> Outcome {
    if matches!(target(world, call)?, Target::Repeated) {
        return data(world, json!({"result": "ok"}));
    }
    let live = world.telnyx.calls.get_mut(call.arg(0)).expect("the target was found a moment ago");
    let result = act(live)?;
    let (leg, session) = (live.leg.clone(), live.session.clone());
    let name = call.operation.trim_start_matches("telnyx.");
    let kept = json!({"record_type": "call_event", "call_leg_id": leg, "call_session_id": session, "event_timestamp": iso(world.now),
        "name": name, "type": "command", "metadata": {}});
    world.telnyx.call_events.push(kept);
    data(world, result)
}

/// Whether an engine hears anything of this language, and with interim results.
fn hears(config: &Value, language: Language) -> Option<bool> {
    let engine = config["transcription_engine"].as_str().unwrap_or("Google");
    let tracks = config["transcription_tracks"].as_str().unwrap_or("inbound");
    let deaf = (engine == "Deepgram" && language == Language::Arabic) || tracks == "outbound";
    let interim = engine != "Telnyx" && config["transcription_engine_config"]["interim_results"] == true;
    (!deaf).then_some(interim)
}

fn check_engine(config: &Value) -> Result<(), Refusal> {
    let settings = &config["transcription_engine_config"];
    if settings.is_object() && settings["transcription_engine"] != config["transcription_engine"] {
        return Err(Refusal::new(422, 10015, "transcription_engine_config must repeat transcription_engine."));
    }
    Ok(())
}

fn answer(world: &mut World, call: &Call) -> Outcome {
    let config = &call.input["transcription_config"];
    check_engine(config)?;
    let (now, recording) = (world.now, world.uuid());
    let records = call.text("record") == Some("record-from-answer");
    let mut fresh = false;
    let done = command(world, call, |live| {
        if live.phase != Phase::Ringing {
            return Err(Refusal::new(422, 10015, "The call has been answered."));
        }
        fresh = true;
        live.phase = Phase::Answered;
        live.answered = Some(now);
        live.recording = records.then_some(recording.clone());
        if call.input["transcription"] == true {
            live.listening = hears(config, live.language);
        }
        Ok(if records { json!({"result": "ok", "recording_id": recording}) } else { json!({"result": "ok"}) })
    })?;
    if fresh {
        let control = call.arg(0).to_owned();
        let live = &world.telnyx.calls[&control];
        let body = json!({"from": live.from, "to": live.to, "direction": "incoming", "state": "answered", "start_time": iso(live.started)});
        event(world, &control, "call.answered", body);
        let gap = world.config.delays.utterance_ms;
        world.after("utterance", gap, move |world| speak(world, &control, 0));
    }
    Ok(done)
}

fn reject(world: &mut World, call: &Call) -> Outcome {
    let cause = match call.need("cause", missing)? {
        "USER_BUSY" => "user_busy",
        "CALL_REJECTED" => "call_rejected",
        _ => return Err(Refusal::new(422, 10015, "cause is CALL_REJECTED or USER_BUSY.").at("/cause")),
    };
    let done = command(world, call, |live| match live.phase {
        Phase::Ringing => Ok(json!({"result": "ok"})),
        _ => Err(Refusal::new(422, 10015, "The call has been answered.")),
    })?;
    finish(world, call.arg(0), cause, "callee");
    Ok(done)
}

fn hangup(world: &mut World, call: &Call) -> Outcome {
    let done = command(world, call, |_| Ok(json!({"result": "ok"})))?;
    finish(world, call.arg(0), "normal_clearing", "callee");
    Ok(done)
}

fn transcription_start(world: &mut World, call: &Call) -> Outcome {
    check_engine(&call.input)?;
    command(world, call, |live| {
        if live.phase == Phase::Ringing {
            return Err(Refusal::new(422, 90034, "The call is not answered yet."));
        }
        if live.listening.is_some() {
            return Err(Refusal::new(422, 90054, "Transcription is already on."));
        }
        live.listening = hears(&call.input, live.language);
        Ok(json!({"result": "ok"}))
    })
}

fn transcription_stop(world: &mut World, call: &Call) -> Outcome {
    command(world, call, |live| {
        live.listening = None;
        Ok(json!({"result": "ok"}))
    })
}

fn record_start(world: &mut World, call: &Call) -> Outcome {
    call.need("format", missing)?;
    call.need("channels", missing)?;
    let id = world.uuid();
    command(world, call, |live| {
        if live.phase == Phase::Ringing {
            return Err(Refusal::new(422, 90020, "There is no audio yet."));
        }
        if live.listening.is_some() && call.input["timeout_secs"].as_u64().is_some_and(|seconds| seconds > 0) {
            return Err(Refusal::new(422, 90053, "No timeout_secs while transcribing."));
        }
        live.recording.get_or_insert(id);
        Ok(json!({"result": "ok"}))
    })
}

fn record_stop(world: &mut World, call: &Call) -> Outcome {
    let done = command(world, call, |_| Ok(json!({"result": "ok"})))?;
    save(world, call.arg(0));
    Ok(done)
}

fn send_dtmf(world: &mut World, call: &Call) -> Outcome {
    call.need("digits", missing)?;
    command(world, call, |_| Ok(json!({"result": "ok"})))
}

fn show_call(world: &mut World, call: &Call) -> Outcome {
    let live = world.telnyx.calls.get(call.arg(0)).ok_or_else(|| not_found("call"))?;
    let until = live.ended.unwrap_or(world.now);
    let seconds = live.answered.map_or(0, |from| (until - from).num_seconds());
    let body = json!({"record_type": "call", "call_control_id": live.control, "call_leg_id": live.leg, "call_session_id": live.session,
        "is_alive": live.phase != Phase::Ended, "call_duration": seconds, "start_time": iso(live.started),
        "end_time": live.ended.map(iso), "client_state": live.client_state});
    data(world, body)
}

fn recording_json(world: &World, recording: &Recording) -> Value {
    json!({
        "id": recording.id, "record_type": "recording", "call_control_id": recording.control, "call_leg_id": recording.leg,
        "call_session_id": recording.session, "connection_id": recording.app, "from": recording.from, "to": recording.to,
        "channels": "single", "source": "call", "status": "completed",
        "duration_millis": (recording.ended - recording.started).num_milliseconds(),
        "recording_started_at": iso(recording.started), "recording_ended_at": iso(recording.ended),
        "created_at": iso(recording.ended), "updated_at": iso(recording.ended), "download_urls": {"wav": link(world, &recording.id)},
    })
}

fn recordings(world: &mut World, call: &Call) -> Outcome {
    let fits = |recording: &&Recording| {
        call.filter("call_leg_id").is_none_or(|id| recording.leg == id)
            && call.filter("call_session_id").is_none_or(|id| recording.session == id)
            && call.filter("call_control_id").is_none_or(|id| recording.control == id)
            && call.filter("connection_id").is_none_or(|id| recording.app == id)
            && call.filter("from").is_none_or(|phone| recording.from == phone)
            && call.filter("to").is_none_or(|phone| recording.to == phone)
            && call.filter("created_at][gte").is_none_or(|since| iso(recording.ended).as_str() >= since)
            && call.filter("created_at][lte").is_none_or(|until| iso(recording.ended).as_str() <= until)
    };
    let mut found: Vec<&Recording> = world.telnyx.recordings.values().filter(fits).collect();
    found.sort_by_key(|recording| std::cmp::Reverse(recording.ended));
    let found = found.into_iter().map(|recording| recording_json(world, recording)).collect();
    page(world, call, found)
}

fn recording(world: &mut World, call: &Call) -> Outcome {
    let recording = world.telnyx.recordings.get(call.arg(0)).ok_or_else(|| not_found("recording"))?;
    data(world, recording_json(world, recording))
}

fn delete_recording(world: &mut World, call: &Call) -> Outcome {
    let recording = world.telnyx.recordings.get(call.arg(0)).ok_or_else(|| not_found("recording"))?;
    let body = recording_json(world, recording);
    world.telnyx.recordings.remove(call.arg(0));
    data(world, body)
}

fn download(world: &mut World, call: &Call) -> Outcome {
    let expires = call.param("expires").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if world.now.timestamp() > expires || !world.telnyx.recordings.contains_key(call.arg(0)) {
        return Ok(Answer { status: 403, ..Answer::bytes("application/xml", "<Error><Code>AccessDenied</Code></Error>") });
    }
    Ok(Answer::bytes("audio/wav", speech::wav(call.arg(0))))
}

fn transcripts(world: &mut World, call: &Call) -> Outcome {
    let fits = |recording: &&Recording| call.filter("recording_id").is_none_or(|id| recording.id == id);
    let row = |recording: &Recording| {
        json!({"id": recording.id, "record_type": "recording_transcription", "recording_id": recording.id, "status": "completed",
            "transcription_text": recording.text, "duration_millis": (recording.ended - recording.started).num_milliseconds(),
            "created_at": iso(recording.ended), "updated_at": iso(recording.ended)})
    };
    let rows: Vec<Value> = world.telnyx.recordings.values().filter(fits).map(row).collect();
    Ok(Answer::json(200, &json!({"data": rows, "meta": {"cursors": {"after": "", "before": ""}}})))
}

/// Recognises its own recordings: by the id in the file's comment, or in the link.
fn transcribe(world: &mut World, call: &Call) -> Outcome {
    let url = call.text("file_url").unwrap_or_default();
    let holds = |id: &str| url.contains(id) || call.body.windows(id.len()).any(|bytes| bytes == id.as_bytes());
    let text = world.telnyx.recordings.values().find(|recording| holds(&recording.id)).map(|recording| recording.text.clone());
    Ok(Answer::json(200, &json!({"text": text.unwrap_or_default()})))
}
