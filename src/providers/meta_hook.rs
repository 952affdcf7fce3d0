//! Meta has news: handshake, signature, batches taken apart into single events, and what each says (contracts/meta-cloud-api.md 10, 11).

mod account;
mod message;
mod status;

pub use account::{
    AccountAlert, Capability, NumberName, NumberQuality, TemplateChange, TemplateComponents, TemplateQuality,
    TemplateRecategorised, UserIdUpdate, UserPreference,
};
pub use message::{Contact, Content, Context, InboundMessage, MediaRef, Reply, SystemNotice};
pub use status::{HookError, Pricing, Status, StatusUpdate};

use crate::{
    loose,
    signature::{ParseError, SignatureError},
};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

pub const SIGNATURE_HEADER: &str = "x-hub-signature-256";
/// What Meta calls the object of these webhooks.
pub const OBJECT: &str = "whatsapp_business_account";

/// `X-Hub-Signature-256` over the raw bytes, in constant time (10.1). Several secrets during a rotation; any may match.
pub fn verify(secrets: &[SecretString], signature: Option<&str>, raw: &[u8]) -> Result<(), SignatureError> {
    let signature = signature.ok_or(SignatureError::Missing)?;
    let told = hex::decode(signature.strip_prefix("sha256=").ok_or(SignatureError::Malformed)?)
        .map_err(|_| SignatureError::Malformed)?;
    let matches = |secret: &SecretString| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(raw);
        mac.verify_slice(&told).is_ok()
    };
    if secrets.iter().any(matches) { Ok(()) } else { Err(SignatureError::Mismatch) }
}

/// The subscription's handshake: the challenge to answer as bare text, or `None` for a 403.
pub fn handshake<'q>(
    mode: Option<&str>,
    token: Option<&str>,
    challenge: Option<&'q str>,
    expected: &SecretString,
) -> Option<&'q str> {
    let known = bool::from(token?.as_bytes().ct_eq(expected.expose_secret().as_bytes()));
    if mode == Some("subscribe") && known { challenge } else { None }
}

/// One event: a message, a status, a change. `value` is as Meta sent it, cut down to this event, and can be kept and read later.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct MetaEvent {
    /// The messaging account (WABA) that the entry names.
    pub account: String,
    /// Of the entry; only on management fields.
    pub time: Option<DateTime<Utc>>,
    pub field: String,
    pub value: Value,
}

impl fmt::Debug for MetaEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetaEvent")
            .field("account", &self.account)
            .field("field", &self.field)
            .field("value", &"***")
            .finish_non_exhaustive()
    }
}

/// The lists that a change may carry; each row is an event of its own.
const LISTS: [&str; 5] = ["messages", "statuses", "errors", "user_preferences", "user_id_update"];

/// Takes a verified body apart (10.2), in the order of the body. A body with nothing in it is no error.
pub fn parse(raw: &[u8]) -> Result<Vec<MetaEvent>, ParseError> {
    let body: Value = serde_json::from_slice(raw).map_err(|_| ParseError("is not JSON"))?;
    if !body.is_object() {
        return Err(ParseError("is not an object"));
    }
    if body.get("object").and_then(Value::as_str) != Some(OBJECT) {
        return Err(ParseError("is not about a WhatsApp account"));
    }
    let mut events = Vec::new();
    for entry in rows(&body, "entry") {
        let account = entry.get("id").and_then(loose::as_text).unwrap_or_default();
        let time = entry.get("time").and_then(loose::as_unix_time);
        for change in rows(entry, "changes") {
            let field = change.get("field").and_then(loose::as_text).unwrap_or_default();
            let value = change.get("value").unwrap_or(&Value::Null);
            split(value, |value| events.push(MetaEvent { account: account.clone(), time, field: field.clone(), value }));
        }
    }
    Ok(events)
}

fn rows<'v>(of: &'v Value, name: &str) -> &'v [Value] {
    of.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn split(value: &Value, mut push: impl FnMut(Value)) {
    let count: usize = LISTS.iter().map(|list| rows(value, list).len()).sum();
    if count <= 1 {
        return push(value.clone());
    }
    let fields = value.as_object().into_iter().flatten();
    let frame: serde_json::Map<_, _> = fields
        .filter(|(name, _)| !LISTS.contains(&name.as_str()) && *name != "contacts")
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    for list in LISTS {
        for row in rows(value, list) {
            let mut one = frame.clone();
            let contacts: Vec<_> =
                rows(value, "contacts").iter().filter(|contact| message::is_of(contact, row)).cloned().collect();
            if !contacts.is_empty() {
                one.insert("contacts".to_owned(), json!(contacts));
            }
            one.insert(list.to_owned(), json!([row]));
            push(Value::Object(one));
        }
    }
}

/// What an event says. Unknown fields, and known ones of an unexpected shape, are `Unknown`: keep them and answer 200.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaNews {
    Message(Box<InboundMessage>),
    Status(Box<StatusUpdate>),
    /// Trouble of the account or number, with no message.
    Errors(Vec<HookError>),
    Template(TemplateChange),
    TemplateQuality(TemplateQuality),
    TemplateRecategorised(TemplateRecategorised),
    TemplateComponents(TemplateComponents),
    NumberName(NumberName),
    NumberQuality(NumberQuality),
    Capability(Capability),
    /// `ACCOUNT_RESTRICTION`, `DISABLED_UPDATE`, `PARTNER_REMOVED`, ...; the rest is in the event's value.
    AccountUpdate {
        event: String,
    },
    AccountReview {
        decision: String,
    },
    AccountAlert(AccountAlert),
    /// A PIN was changed or reset.
    Security {
        display_phone_number: String,
        event: String,
    },
    Preference(UserPreference),
    UserId(UserIdUpdate),
    Unknown,
}

impl MetaEvent {
    /// Where to route: the number that a message or status belongs to.
    pub fn phone_number_id(&self) -> Option<String> {
        self.value.pointer("/metadata/phone_number_id").and_then(loose::as_text)
    }

    /// Digits of the number, as far as the event names one.
    pub fn display_phone_number(&self) -> Option<String> {
        let printed = self.value.pointer("/metadata/display_phone_number").or_else(|| self.value.get("display_phone_number"))?;
        loose::as_text(printed).map(|printed| loose::digits(&printed))
    }

    /// The same for every delivery of the same event (10.2).
    pub fn key(&self) -> String {
        let text = |of: &Value, name: &str| of.get(name).and_then(loose::as_text).unwrap_or_default();
        if let [message] = rows(&self.value, "messages") {
            return format!("message:{}", text(message, "id"));
        }
        if let [status] = rows(&self.value, "statuses") {
            let to = ["recipient_participant_id", "recipient_id", "recipient_user_id"]
                .iter()
                .map(|name| text(status, name))
                .find(|to| !to.is_empty());
            return format!("status:{}:{}:{}", text(status, "id"), text(status, "status"), to.unwrap_or_default());
        }
        let time = self.time.map(|time| time.timestamp()).unwrap_or_default();
        if self.field == "message_template_status_update" {
            let value = &self.value;
            return format!("template:{}:{}:{time}", text(value, "message_template_id"), text(value, "event"));
        }
        let hash = Sha256::digest(format!("{}|{time}|{}", self.field, self.value));
        format!("{}:{}:{}", self.field, self.account, hex::encode(hash))
    }

    pub fn news(&self) -> MetaNews {
        self.known().unwrap_or(MetaNews::Unknown)
    }

    fn known(&self) -> Option<MetaNews> {
        let value = &self.value;
        let text = |name: &str| value.get(name).and_then(loose::as_text);
        Some(match self.field.as_str() {
            "messages" => {
                if let [message, ..] = rows(value, "messages") {
                    MetaNews::Message(Box::new(InboundMessage::read(message, rows(value, "contacts"))?))
                } else if let [status, ..] = rows(value, "statuses") {
                    MetaNews::Status(Box::new(StatusUpdate::read(status, rows(value, "contacts"))?))
                } else {
                    let errors: Vec<HookError> = rows(value, "errors").iter().filter_map(HookError::read).collect();
                    if errors.is_empty() {
                        return None;
                    }
                    MetaNews::Errors(errors)
                }
            }
            "message_template_status_update" => MetaNews::Template(TemplateChange::read(value)?),
            "message_template_quality_update" => MetaNews::TemplateQuality(TemplateQuality::read(value)?),
            "template_category_update" => MetaNews::TemplateRecategorised(TemplateRecategorised::read(value)?),
            "message_template_components_update" => MetaNews::TemplateComponents(TemplateComponents::read(value)?),
            "phone_number_name_update" => MetaNews::NumberName(NumberName::read(value)?),
            "phone_number_quality_update" => MetaNews::NumberQuality(NumberQuality::read(value)?),
            "business_capability_update" => MetaNews::Capability(Capability::read(value)?),
            "account_update" => MetaNews::AccountUpdate { event: text("event")? },
            "account_review_update" => MetaNews::AccountReview { decision: text("decision")? },
            "account_alerts" => MetaNews::AccountAlert(AccountAlert::read(value)?),
            "security" => MetaNews::Security {
                display_phone_number: self.display_phone_number().unwrap_or_default(),
                event: text("event").unwrap_or_default(),
            },
            "user_preferences" => MetaNews::Preference(UserPreference::read(rows(value, "user_preferences").first()?)?),
            "user_id_update" => MetaNews::UserId(UserIdUpdate::read(rows(value, "user_id_update").first()?)?),
            _ => return None,
        })
    }
}
