//! Telnyx has news: signature, envelope, and what each event says (contracts/telnyx.md 5.4, 7.2, 8, 9).

use crate::{
    loose,
    signature::{KeyError, ParseError, SignatureError},
    telnyx::{Download, OrderStatus},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, str::FromStr};

pub const SIGNATURE_HEADER: &str = "telnyx-signature-ed25519";
pub const TIMESTAMP_HEADER: &str = "telnyx-timestamp";
/// How far a timestamp may lie from now, either way, in seconds.
pub const TOLERANCE_S: u64 = 300;

/// The account's key, as the portal shows it: base64 of 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyError)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError)?;
        if key.is_weak() { Err(KeyError) } else { Ok(Self(key)) }
    }
}

/// Ed25519 over `timestamp|raw body`, then the timestamp against `now` (9). The headers are passed as received.
pub fn verify(
    key: &PublicKey,
    signature: Option<&str>,
    timestamp: Option<&str>,
    raw: &[u8],
    now: DateTime<Utc>,
) -> Result<(), SignatureError> {
    let (signature, timestamp) = signature.zip(timestamp).ok_or(SignatureError::Missing)?;
    let bytes = BASE64_STANDARD.decode(signature).map_err(|_| SignatureError::Malformed)?;
    let signature = Signature::from_slice(&bytes).map_err(|_| SignatureError::Malformed)?;
    let signed = [timestamp.as_bytes(), b"|", raw].concat();
    key.0.verify_strict(&signed, &signature).map_err(|_| SignatureError::Mismatch)?;
    let at: i64 = timestamp.parse().map_err(|_| SignatureError::Malformed)?;
    if at.abs_diff(now.timestamp()) > TOLERANCE_S { Err(SignatureError::Stale) } else { Ok(()) }
}

/// One event, as kept: key on `id`, order by `occurred_at`. `payload` is what Telnyx sent.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct TelnyxEvent {
    pub id: String,
    pub event_type: String,
    pub occurred_at: Option<DateTime<Utc>>,
    /// Counts deliveries, from 1; `None` if not told.
    pub attempt: Option<i64>,
    pub payload: Value,
}

impl fmt::Debug for TelnyxEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TelnyxEvent")
            .field("id", &self.id)
            .field("event_type", &self.event_type)
            .field("payload", &"***")
            .finish_non_exhaustive()
    }
}

/// The envelope of a verified body.
pub fn parse(raw: &[u8]) -> Result<TelnyxEvent, ParseError> {
    parse_value(serde_json::from_slice(raw).map_err(|_| ParseError("is not JSON"))?)
}

/// As [`parse`]; takes format v2, and what v1, the call log and webhook deliveries make of it.
pub fn parse_value(mut body: Value) -> Result<TelnyxEvent, ParseError> {
    let attempt = body.pointer("/meta/attempt").and_then(loose::as_int);
    const NESTS: [&str; 3] = ["/data", "/metadata/event", "/event"];
    let nest = NESTS.iter().find(|nest| body.pointer(nest).is_some_and(Value::is_object));
    let mut event = nest.and_then(|nest| body.pointer_mut(nest)).map(Value::take).unwrap_or(body);
    let text = |name| event.get(name).and_then(loose::as_text).filter(|text| !text.is_empty());
    let id = text("id").ok_or(ParseError("has no event id"))?;
    let event_type = text("event_type").or_else(|| text("name")).ok_or(ParseError("has no event type"))?;
    let occurred_at = ["occurred_at", "created_at", "event_timestamp"].iter().find_map(|name| loose::as_time(event.get(name)?));
    let payload = match event.get_mut("payload") {
        Some(payload) if payload.is_object() => payload.take(),
        _ => event,
    };
    Ok(TelnyxEvent { id, event_type, occurred_at, attempt, payload })
}

/// What an event says. Unknown ones, and known ones of an unexpected shape, are `Unknown`: keep them and answer 200.
#[derive(Clone, PartialEq)]
pub enum TelnyxNews {
    /// Someone calls: answer or reject at once.
    CallInitiated(Call),
    CallAnswered(Call),
    Transcription(Transcription),
    Dtmf {
        call: Call,
        digit: String,
    },
    GatherEnded {
        call: Call,
        digits: String,
        status: String,
    },
    Hangup {
        call: Call,
        cause: String,
        source: String,
    },
    RecordingSaved(RecordingSaved),
    RecordingTranscribed(RecordingTranscribed),
    RecordingFailed {
        call: Call,
        reason: String,
    },
    CallCost(CallCost),
    /// A text message came in.
    Message(TextMessage),
    /// Read `status`: the event's name does not tell how the order went.
    Order(OrderNews),
    Unknown,
}

/// A call, as far as the event tells. Events after the first carry no numbers: map by `call_leg_id`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    #[serde(default, deserialize_with = "loose::text")]
    pub call_control_id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub call_leg_id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub call_session_id: String,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub connection_id: Option<String>,
    /// Decoded; null until our first command set it.
    #[serde(default, deserialize_with = "client_state")]
    pub client_state: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub from: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub to: Option<String>,
    /// `incoming` or `outgoing`.
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub direction: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub state: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_time")]
    pub start_time: Option<DateTime<Utc>>,
}

impl Call {
    pub fn is_incoming(&self) -> bool {
        self.direction.as_deref() == Some("incoming")
    }
}

/// What is not base64 of text was not set by us.
fn client_state<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let encoded = loose::maybe_text(from)?;
    Ok(encoded.and_then(|encoded| String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()))
}

/// Words heard on a live call. An interim is replaced by the next and by its final.
#[derive(Clone, PartialEq)]
pub struct Transcription {
    pub call: Call,
    pub transcript: String,
    /// `None`: not told; treat as final of little trust.
    pub is_final: Option<bool>,
    /// Never decide on it alone.
    pub confidence: Option<f64>,
}

#[derive(Clone, PartialEq)]
pub struct RecordingSaved {
    pub call: Call,
    pub recording_id: Option<String>,
    /// Dead after ten minutes: then ask [`crate::Telnyx::recording`].
    pub urls: Download,
    pub ended_at: Option<DateTime<Utc>>,
}

#[derive(Clone, PartialEq)]
pub struct RecordingTranscribed {
    pub call: Call,
    pub recording_id: Option<String>,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallCost {
    pub call: Call,
    /// Millionths; `None` if unreadable.
    pub total_micros: Option<i64>,
    pub currency: Option<String>,
    pub billed_s: Option<i64>,
}

#[derive(Clone, PartialEq)]
pub struct TextMessage {
    pub id: String,
    /// E.164, a short code or a name.
    pub from: String,
    /// E.164; a message may name several.
    pub to: Vec<String>,
    pub text: String,
    pub received_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderNews {
    pub order_id: String,
    pub status: OrderStatus,
    pub customer_reference: Option<String>,
    pub requirements_met: bool,
}

/// What was heard, read or recorded may be a code.
macro_rules! sealed_debug {
    ($($name:ident($($field:ident),*)),* $(,)?) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}
sealed_debug! { Transcription(call, is_final), RecordingSaved(call, recording_id), RecordingTranscribed(call, recording_id), TextMessage(id, to) }

impl fmt::Debug for TelnyxNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallInitiated(call) => f.debug_tuple("CallInitiated").field(call).finish(),
            Self::CallAnswered(call) => f.debug_tuple("CallAnswered").field(call).finish(),
            Self::Transcription(heard) => heard.fmt(f),
            Self::Dtmf { call, .. } => f.debug_tuple("Dtmf").field(call).finish(),
            Self::GatherEnded { call, .. } => f.debug_tuple("GatherEnded").field(call).finish(),
            Self::Hangup { call, cause, .. } => f.debug_tuple("Hangup").field(call).field(cause).finish(),
            Self::RecordingSaved(saved) => saved.fmt(f),
            Self::RecordingTranscribed(heard) => heard.fmt(f),
            Self::RecordingFailed { call, reason } => f.debug_tuple("RecordingFailed").field(call).field(reason).finish(),
            Self::CallCost(cost) => cost.fmt(f),
            Self::Message(message) => message.fmt(f),
            Self::Order(order) => order.fmt(f),
            Self::Unknown => f.write_str("Unknown"),
        }
    }
}

impl TelnyxEvent {
    pub fn news(&self) -> TelnyxNews {
        self.known().unwrap_or(TelnyxNews::Unknown)
    }

    fn known(&self) -> Option<TelnyxNews> {
        let text = |name: &str| self.payload.get(name).and_then(loose::as_text);
        let time = |name: &str| self.payload.get(name).and_then(loose::as_time);
        let call = || Call::deserialize(&self.payload).ok();
        Some(match self.event_type.as_str() {
            "call.initiated" => TelnyxNews::CallInitiated(call()?),
            "call.answered" => TelnyxNews::CallAnswered(call()?),
            "call.transcription" => {
                let heard = self.payload.get("transcription_data")?;
                let confidence = heard.get("confidence");
                TelnyxNews::Transcription(Transcription {
                    call: call()?,
                    transcript: heard.get("transcript").and_then(loose::as_text)?,
                    is_final: heard.get("is_final").and_then(Value::as_bool),
                    confidence: confidence.and_then(|c| c.as_f64().or_else(|| c.as_str()?.parse().ok())),
                })
            }
            "call.dtmf.received" => TelnyxNews::Dtmf { call: call()?, digit: text("digit")? },
            "call.gather.ended" => TelnyxNews::GatherEnded {
                call: call()?,
                digits: text("digits").unwrap_or_default(),
                status: text("status").unwrap_or_default(),
            },
            "call.hangup" => TelnyxNews::Hangup {
                call: call()?,
                cause: text("hangup_cause").unwrap_or_default(),
                source: text("hangup_source").unwrap_or_default(),
            },
            "call.recording.saved" => {
                let urls = |name| self.payload.get(name).and_then(|urls| Download::deserialize(urls).ok());
                let private = urls("recording_urls").filter(|urls: &Download| urls.best().is_some());
                TelnyxNews::RecordingSaved(RecordingSaved {
                    call: call()?,
                    recording_id: text("recording_id"),
                    urls: private.or_else(|| urls("public_recording_urls")).unwrap_or_default(),
                    ended_at: time("recording_ended_at"),
                })
            }
            "call.recording.transcription.saved" => TelnyxNews::RecordingTranscribed(RecordingTranscribed {
                call: call()?,
                recording_id: text("recording_id"),
                text: text("transcription_text")?,
            }),
            "call.recording.error" => TelnyxNews::RecordingFailed { call: call()?, reason: text("reason").unwrap_or_default() },
            "call.cost" => TelnyxNews::CallCost(CallCost {
                call: call()?,
                total_micros: text("total_cost").and_then(|cost| loose::micros(&cost)),
                currency: self.payload.pointer("/cost_parts/0/currency").and_then(loose::as_text),
                billed_s: self.payload.get("billed_duration_secs").and_then(loose::as_int),
            }),
            "message.received" => {
                let recipients = self.payload.get("to").and_then(Value::as_array)?;
                TelnyxNews::Message(TextMessage {
                    id: text("id")?,
                    from: self.payload.pointer("/from/phone_number").and_then(loose::as_text).unwrap_or_default(),
                    to: recipients.iter().filter_map(|to| loose::as_text(to.get("phone_number").unwrap_or(to))).collect(),
                    text: text("text").unwrap_or_default(),
                    received_at: time("received_at"),
                })
            }
            order if order.starts_with("number_order") => TelnyxNews::Order(OrderNews {
                order_id: text("id")?,
                status: OrderStatus::from(text("status")?.as_str()),
                customer_reference: text("customer_reference").filter(|reference| !reference.is_empty()),
                requirements_met: self.payload.get("requirements_met").and_then(Value::as_bool).unwrap_or(false),
            }),
            _ => return None,
        })
    }
}
