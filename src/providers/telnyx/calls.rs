//! Calls answered and listened to, recordings, and what recovers a missed webhook (contracts/telnyx.md 7-9).

use super::{Telnyx, errors};
use crate::{
    loose,
    telnyx_hook::{self, TelnyxEvent},
    wire::{Body, Call},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::Failure;
use reqwest::multipart::{Form, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// A recording stops by itself after this long, in seconds: Meta's call is far shorter.
const RECORD_MAX_S: u32 = 120;

/// The live engine of a call. Two cannot listen to one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ears {
    /// `Google` reads en, fr and ar; Deepgram no Arabic (7.3).
    pub engine: String,
    /// `fr`, `ar`, `en`: the language that Meta was asked to speak.
    pub language: String,
}

impl Ears {
    pub fn google(language: impl Into<String>) -> Self {
        Self { engine: "Google".to_owned(), language: language.into() }
    }
    fn config(&self) -> Value {
        json!({
            "transcription_engine": self.engine,
            "transcription_tracks": "inbound",
            "transcription_engine_config": {
                "transcription_engine": self.engine,
                "language": self.language,
                "interim_results": true,
            },
        })
    }
}

/// How a call is answered: at once, silently, recorded from its first moment and transcribed as it is spoken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answering {
    /// Echoed on later events of the call; encoded here.
    pub client_state: String,
    pub ears: Option<Ears>,
    pub record: bool,
}

/// A finished recording. Its links die after ten minutes: ask anew.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    pub id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub call_leg_id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub call_session_id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub status: String,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub download_urls: Download,
    #[serde(default, deserialize_with = "loose::maybe_int")]
    pub duration_millis: Option<i64>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A link is as good as the recording, and that holds the code.
        f.debug_struct("Recording")
            .field("id", &self.id)
            .field("status", &self.status)
            .field("download_urls", &"***")
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub wav: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub mp3: Option<String>,
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Download {
    /// The better of the two.
    pub fn best(&self) -> Option<&str> {
        self.wav.as_deref().or(self.mp3.as_deref())
    }
}

/// Which recordings; at least one should be set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordingQuery {
    pub call_leg_id: Option<String>,
    pub call_session_id: Option<String>,
    /// E.164 of the called number.
    pub to: Option<String>,
    pub since: Option<DateTime<Utc>>,
}

/// The engine of a recording's second hearing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeechModel {
    Whisper,
    Nova3,
}

impl SpeechModel {
    fn name(self) -> &'static str {
        match self {
            Self::Whisper => "openai/whisper-large-v3-turbo",
            Self::Nova3 => "deepgram/nova-3",
        }
    }
}

/// Which entries of the call log. Without leg or session only the last 24 hours are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallLogQuery {
    pub call_leg_id: Option<String>,
    pub call_session_id: Option<String>,
    pub to: Option<String>,
    pub since: Option<DateTime<Utc>>,
}

/// One event or command of a call, in its own shape.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct CallLogEntry {
    #[serde(default, deserialize_with = "loose::text")]
    pub name: String,
    /// `command` or `webhook`.
    #[serde(default, rename = "type", deserialize_with = "loose::text")]
    pub entry_type: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub call_leg_id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub call_session_id: String,
    #[serde(default, deserialize_with = "loose::maybe_time")]
    pub event_timestamp: Option<DateTime<Utc>>,
    /// The raw event; see [`CallLogEntry::event`].
    #[serde(default)]
    pub metadata: Value,
}

impl CallLogEntry {
    /// The entry as the webhook it was or would have been. Where the log keeps no event id, the id is made of leg, name and time:
    /// always the same, but not the webhook's.
    pub fn event(&self) -> TelnyxEvent {
        let kept = self.metadata.get("event").filter(|event| event.is_object()).unwrap_or(&self.metadata);
        telnyx_hook::parse_value(kept.clone()).unwrap_or_else(|_| {
            let time = self.event_timestamp.map(stamp).unwrap_or_default();
            TelnyxEvent {
                id: format!("log:{}:{}:{time}", self.call_leg_id, self.name),
                event_type: self.name.clone(),
                occurred_at: self.event_timestamp,
                attempt: None,
                payload: kept.get("payload").unwrap_or(kept).clone(),
            }
        })
    }
}

impl std::fmt::Debug for CallLogEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallLogEntry").field("name", &self.name).field("call_leg_id", &self.call_leg_id).finish_non_exhaustive()
    }
}

/// Which webhook deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// `message.received`, `call.transcription`, ...
    pub event_type: Option<String>,
    /// Only those that never arrived.
    pub failed: bool,
    /// Text that the body contains, such as a number.
    pub contains: Option<String>,
    pub since: Option<DateTime<Utc>>,
}

/// What Telnyx tried to deliver. `webhook` is the original body: parse it with [`crate::telnyx_hook::parse_value`].
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    #[serde(default, deserialize_with = "loose::text")]
    pub id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub status: String,
    #[serde(default, deserialize_with = "loose::maybe_time")]
    pub started_at: Option<DateTime<Utc>>,
    #[serde(default)]
    pub webhook: Value,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("id", &self.id).field("status", &self.status).finish_non_exhaustive()
    }
}

fn stamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl Telnyx {
    /// Answers an inbound call (7.3). Telnyx ignores a repeated `command_id`, so the same command may be sent again.
    pub async fn answer(&self, call_control_id: &str, command_id: Uuid, how: &Answering) -> Result<(), Failure> {
        let mut body = json!({ "client_state": BASE64_STANDARD.encode(&how.client_state) });
        if how.record {
            body["record"] = json!("record-from-answer");
            body["record_format"] = json!("wav");
            body["record_channels"] = json!("single");
            body["record_track"] = json!("inbound");
            body["record_max_length"] = json!(RECORD_MAX_S);
        }
        if let Some(ears) = &how.ears {
            body["transcription"] = json!(true);
            body["transcription_config"] = ears.config();
        }
        self.command("/calls/{call}/actions/answer", call_control_id, command_id, body).await
    }

    /// Listens to an answered call (7.3); listening already is success.
    pub async fn transcription_start(&self, call_control_id: &str, command_id: Uuid, ears: &Ears) -> Result<(), Failure> {
        match self.command("/calls/{call}/actions/transcription_start", call_control_id, command_id, ears.config()).await {
            Err(failure) if failure.has_code("90054") => Ok(()),
            answer => answer,
        }
    }

    /// Ends a call; one that has ended is success.
    pub async fn hangup(&self, call_control_id: &str, command_id: Uuid) -> Result<(), Failure> {
        Self::over(self.command("/calls/{call}/actions/hangup", call_control_id, command_id, json!({})).await)
    }

    /// Turns an unanswered call away; one that has ended is success.
    pub async fn reject(&self, call_control_id: &str, command_id: Uuid) -> Result<(), Failure> {
        let body = json!({ "cause": "CALL_REJECTED" });
        Self::over(self.command("/calls/{call}/actions/reject", call_control_id, command_id, body).await)
    }

    fn over(answer: Result<(), Failure>) -> Result<(), Failure> {
        match answer {
            Err(failure) if failure.has_code("90018") || failure.has_code("90015") => Ok(()),
            answer => answer,
        }
    }

    async fn command(
        &self,
        template: &'static str,
        call_control_id: &str,
        command_id: Uuid,
        mut body: Value,
    ) -> Result<(), Failure> {
        body["command_id"] = json!(command_id);
        self.call(Call::post(template, &[call_control_id]).repeatable().json(&body)).await.map(drop)
    }

    /// Finished recordings (7.4).
    pub async fn recordings(&self, query: &RecordingQuery) -> Result<Vec<Recording>, Failure> {
        self.all(|| {
            Call::get("/recordings", &[])
                .query_if("filter[call_leg_id]", query.call_leg_id.as_ref())
                .query_if("filter[call_session_id]", query.call_session_id.as_ref())
                .query_if("filter[to]", query.to.as_ref())
                .query_if("filter[created_at][gte]", query.since.map(stamp))
        })
        .await
    }

    /// With fresh links.
    pub async fn recording(&self, id: &str) -> Result<Recording, Failure> {
        self.data(Call::get("/recordings/{id}", &[id])).await
    }

    /// For good; a recording holds a secret once its code was spoken. One that is gone is success.
    pub async fn delete_recording(&self, id: &str) -> Result<(), Failure> {
        match self.call(Call::delete("/recordings/{id}", &[id])).await {
            Err(failure) if errors::is_missing(&failure) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// The sound itself, from a link of [`Recording`] or of the webhook. The link carries its own permission: our key is not sent.
    pub async fn download_recording(&self, url: &str) -> Result<Bytes, Failure> {
        self.call(Call::download("(recording)", url, false)).await.map(|(reply, _)| reply.body)
    }

    /// A second hearing of a recording (7.4); `language` as in [`Ears`], `None` to let the engine find out. `wav` is the sound's bytes.
    pub async fn transcribe(&self, sound: Bytes, model: SpeechModel, language: Option<&str>) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Heard {
            #[serde(default, deserialize_with = "loose::text")]
            text: String,
        }
        let (file_name, mime) = if sound.starts_with(b"RIFF") { ("call.wav", "audio/wav") } else { ("call.mp3", "audio/mpeg") };
        let part = Part::stream(sound).file_name(file_name).mime_str(mime).expect("both are media types");
        let mut form = Form::new().text("model", model.name()).part("file", part);
        if let Some(language) = language {
            form = form.text("language", language.to_owned());
        }
        let call = Call::post("/ai/audio/transcriptions", &[]).repeatable().file().body(Body::Multipart(form));
        let (reply, effect) = self.call(call).await?;
        reply.decode::<Heard>(effect).map(|heard| heard.text)
    }

    /// What happened on a call, webhook or not (7.4).
    pub async fn call_events(&self, query: &CallLogQuery) -> Result<Vec<CallLogEntry>, Failure> {
        self.all(|| {
            Call::get("/call_events", &[])
                .query_if("filter[leg_id]", query.call_leg_id.as_ref())
                .query_if("filter[application_session_id]", query.call_session_id.as_ref())
                .query_if("filter[to]", query.to.as_ref())
                .query_if("filter[occurred_at][gte]", query.since.map(stamp))
        })
        .await
    }

    /// Webhooks that Telnyx sent or tried to send, bodies included: the only way back to a missed text message (8).
    pub async fn webhook_deliveries(&self, query: &DeliveryQuery) -> Result<Vec<Delivery>, Failure> {
        self.all(|| {
            Call::get("/webhook_deliveries", &[])
                .query_if("filter[event_type]", query.event_type.as_ref())
                .query_if("filter[status][eq]", query.failed.then_some("failed"))
                .query_if("filter[webhook][contains]", query.contains.as_ref())
                .query_if("filter[started_at][gte]", query.since.map(stamp))
        })
        .await
    }
}
