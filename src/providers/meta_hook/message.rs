//! A message from a person (contracts/meta-cloud-api.md 10.4).

use super::{HookError, rows};
use crate::loose;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::fmt;

/// A received message. `from` and `from_user_id` may each be missing, but not both.
#[derive(Clone, PartialEq)]
pub struct InboundMessage {
    pub id: String,
    pub timestamp: DateTime<Utc>,
    /// Digits of the phone, where we may see it.
    pub from: Option<String>,
    /// BSUID, exactly as sent.
    pub from_user_id: Option<String>,
    pub from_parent_user_id: Option<String>,
    /// Meta's word for the type, also of unknown ones.
    pub kind: String,
    pub content: Content,
    pub context: Option<Context>,
    /// It came through an ad or a page: a free entry point.
    pub referral: Option<Value>,
    /// Who wrote, as the delivery names them.
    pub contact: Option<Contact>,
}

impl fmt::Debug for InboundMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundMessage").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq)]
pub enum Content {
    Text(String),
    /// `image`, `video`, `audio`, `document`, `sticker`.
    Media(MediaRef),
    Location {
        latitude: f64,
        longitude: f64,
        name: Option<String>,
        address: Option<String>,
    },
    /// Shared contacts, as sent. `phone` is the number that answers our request for it.
    Contacts {
        contacts: Value,
        phone: Option<String>,
    },
    /// A tap on a template's quick reply.
    Button {
        payload: String,
        text: String,
    },
    Interactive(Reply),
    /// No emoji: taken back.
    Reaction {
        message_id: String,
        emoji: Option<String>,
    },
    System(SystemNotice),
    /// The user changed an earlier message.
    Edit(Value),
    /// The user deleted an earlier message.
    Revoke(Value),
    Unsupported(Vec<HookError>),
    /// A type unknown when this was written, as sent.
    Other(Value),
}

#[derive(Clone, PartialEq)]
pub enum Reply {
    Button {
        id: String,
        title: String,
    },
    List {
        id: String,
        title: String,
    },
    /// A flow's answer, read from its string.
    Flow {
        name: String,
        response: Value,
    },
    Other(Value),
}

#[derive(Clone, PartialEq, Eq)]
pub struct MediaRef {
    /// Valid for seven days.
    pub id: String,
    pub mime_type: String,
    /// Base64, as webhooks have it.
    pub sha256: String,
    pub caption: Option<String>,
    pub filename: Option<String>,
    /// A recorded voice message.
    pub voice: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub from: Option<String>,
    /// The quoted message.
    pub id: Option<String>,
    pub forwarded: bool,
}

/// The user's number or id has changed.
#[derive(Clone, PartialEq, Eq)]
pub struct SystemNotice {
    /// `user_changed_number`, `user_changed_user_id`, `customer_identity_changed`.
    pub kind: String,
    pub wa_id: Option<String>,
    pub user_id: Option<String>,
    pub parent_user_id: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Contact {
    pub name: Option<String>,
    pub username: Option<String>,
    pub wa_id: Option<String>,
    pub user_id: Option<String>,
    pub parent_user_id: Option<String>,
}

/// What people write, and who they are, is nobody's log line.
macro_rules! private_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(***)"))
            }
        }
    )*};
}
private_debug!(Content, Reply, MediaRef, SystemNotice, Contact);

impl InboundMessage {
    pub(super) fn read(message: &Value, contacts: &[Value]) -> Option<Self> {
        let text = |name: &str| text(message, name);
        let kind = text("type").unwrap_or_default();
        Some(Self {
            id: text("id")?,
            timestamp: message.get("timestamp").and_then(loose::as_unix_time)?,
            from: text("from"),
            from_user_id: text("from_user_id"),
            from_parent_user_id: text("from_parent_user_id"),
            content: content(&kind, message).unwrap_or_else(|| Content::Other(message.get(&kind).cloned().unwrap_or_default())),
            context: message.get("context").filter(|context| context.is_object()).map(|context| Context {
                from: self::text(context, "from"),
                id: self::text(context, "id"),
                forwarded: flag(context, "forwarded") || flag(context, "frequently_forwarded"),
            }),
            referral: message.get("referral").cloned(),
            contact: contacts.iter().find(|contact| is_of(contact, message)).map(Contact::read),
            kind,
        })
    }

    /// Whether it opens the 24-hour window: what a person wrote or tapped, not what happened to them (7.6).
    pub fn opens_window(&self) -> bool {
        !matches!(self.content, Content::System(_) | Content::Edit(_) | Content::Revoke(_) | Content::Reaction { .. })
    }

    /// The words that a stop word could be among.
    pub fn words(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) | Content::Button { text, .. } => Some(text),
            Content::Interactive(Reply::Button { title, .. } | Reply::List { title, .. }) => Some(title),
            _ => None,
        }
    }
}

fn content(kind: &str, message: &Value) -> Option<Content> {
    let body = message.get(kind).unwrap_or(&Value::Null);
    let text = |name: &str| text(body, name);
    Some(match kind {
        "text" => Content::Text(text("body")?),
        "image" | "video" | "audio" | "document" | "sticker" => Content::Media(MediaRef {
            id: text("id")?,
            mime_type: text("mime_type").unwrap_or_default(),
            sha256: text("sha256").unwrap_or_default(),
            caption: text("caption"),
            filename: text("filename"),
            voice: flag(body, "voice"),
        }),
        "location" => Content::Location {
            latitude: body.get("latitude")?.as_f64()?,
            longitude: body.get("longitude")?.as_f64()?,
            name: text("name"),
            address: text("address"),
        },
        "contacts" => {
            let asked =
                body.as_array()?.iter().find(|contact| self::text(contact, "origin").as_deref() == Some("contact_request"));
            let phone = asked.and_then(|contact| self::text(rows(contact, "phones").first()?, "wa_id"));
            Content::Contacts { contacts: body.clone(), phone }
        }
        "button" => Content::Button { payload: text("payload").unwrap_or_default(), text: text("text").unwrap_or_default() },
        "interactive" => Content::Interactive(reply(body)),
        "reaction" => {
            Content::Reaction { message_id: text("message_id")?, emoji: text("emoji").filter(|emoji| !emoji.is_empty()) }
        }
        "system" => Content::System(SystemNotice {
            kind: text("type").unwrap_or_default(),
            wa_id: text("wa_id"),
            user_id: text("user_id"),
            parent_user_id: text("parent_user_id"),
        }),
        "edit" => Content::Edit(body.clone()),
        "revoke" => Content::Revoke(body.clone()),
        "unsupported" | "unknown" => Content::Unsupported(rows(message, "errors").iter().filter_map(HookError::read).collect()),
        _ => return None,
    })
}

fn reply(body: &Value) -> Reply {
    let kind = text(body, "type").unwrap_or_default();
    let chosen = body.get(&kind).unwrap_or(&Value::Null);
    let field = |name| text(chosen, name).unwrap_or_default();
    match kind.as_str() {
        "button_reply" => Reply::Button { id: field("id"), title: field("title") },
        "list_reply" => Reply::List { id: field("id"), title: field("title") },
        "nfm_reply" => {
            let response = field("response_json");
            Reply::Flow { name: field("name"), response: serde_json::from_str(&response).unwrap_or(Value::String(response)) }
        }
        _ => Reply::Other(body.clone()),
    }
}

impl Contact {
    fn read(contact: &Value) -> Self {
        let profile = contact.get("profile").unwrap_or(&Value::Null);
        Self {
            name: text(profile, "name"),
            username: text(profile, "username"),
            wa_id: text(contact, "wa_id"),
            user_id: text(contact, "user_id"),
            parent_user_id: text(contact, "parent_user_id"),
        }
    }

    pub(super) fn of(row: &Value, contacts: &[Value]) -> Option<Self> {
        contacts.iter().find(|contact| is_of(contact, row)).map(Self::read)
    }
}

/// Whether a contact is the person of a message or status: by id, never by position.
pub(super) fn is_of(contact: &Value, row: &Value) -> bool {
    const PHONES: [&str; 3] = ["from", "recipient_id", "wa_id"];
    const USERS: [&str; 3] = ["from_user_id", "recipient_user_id", "user_id"];
    let same = |name: &str, others: [&str; 3]| {
        text(contact, name).is_some_and(|id| others.iter().any(|other| text(row, other).as_ref() == Some(&id)))
    };
    same("wa_id", PHONES) || same("user_id", USERS)
}

pub(super) fn text(of: &Value, name: &str) -> Option<String> {
    of.get(name).and_then(loose::as_text)
}

fn flag(of: &Value, name: &str) -> bool {
    of.get(name).and_then(Value::as_bool).unwrap_or(false)
}
