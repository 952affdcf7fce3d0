//! One message, sent once: accepted is not delivered, and a lost answer is never repeated here (contracts/meta-cloud-api.md 7).

use super::Meta;
use crate::{
    loose::{self, words},
    wire::Call,
};
use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

words! {
    /// What an accepted template message is told at once; absent on others.
    pub enum Acceptance {
        Accepted = "accepted",
        /// Paced (6.4): do not send again, the outcome comes by webhook.
        Held = "held_for_quality_assessment",
        Paused = "paused",
    }
}

/// Whom to write to. Prefer the phone when it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Recipient<'a> {
    /// E.164 with its `+`: without it Meta puts the business number's own country code in front.
    Phone(&'a str),
    /// A business-scoped user id, `MA.48201937465520193`, exactly as received.
    User(&'a str),
}

/// An accepted message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub wamid: String,
    /// `Other("")` where Meta says nothing.
    pub acceptance: Acceptance,
    /// Digits of the phone, if the answer tells.
    pub wa_id: Option<String>,
    /// BSUID, if the answer tells.
    pub user_id: Option<String>,
}

/// Bodies of [`Meta::send`]: the frame, the recipient and one content.
pub mod body {
    use super::{Recipient, Value, json};

    /// The frame around a content: `{type: kind, kind: content}`. `attempt` is echoed by every status webhook: our only correlator.
    pub fn message(to: Recipient<'_>, kind: &str, content: Value, attempt: &str) -> Value {
        let mut body = json!({
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "type": kind,
            "biz_opaque_callback_data": attempt,
        });
        match to {
            Recipient::Phone(phone) => body["to"] = json!(phone),
            Recipient::User(user) => body["recipient"] = json!(user),
        }
        body[kind] = content;
        body
    }

    /// As an answer that quotes a message.
    #[must_use]
    pub fn quoting(mut body: Value, wamid: &str) -> Value {
        body["context"] = json!({ "message_id": wamid });
        body
    }

    /// Content of `text`; at most 4,096 characters.
    pub fn text(text: &str, preview_url: bool) -> Value {
        json!({ "body": text, "preview_url": preview_url })
    }

    /// Content of `template`: by name and language, never by id.
    pub fn template(name: &str, language: &str, components: &[Value]) -> Value {
        json!({ "name": name, "language": { "code": language }, "components": components })
    }

    /// A template's `header` or `body` component, its parameters in order, named or not.
    pub fn parameters<'v>(component: &str, values: impl IntoIterator<Item = (Option<&'v str>, &'v str)>) -> Value {
        let parameter = |(name, text): (Option<&str>, &str)| match name {
            Some(name) => json!({ "type": "text", "parameter_name": name, "text": text }),
            None => json!({ "type": "text", "text": text }),
        };
        json!({ "type": component, "parameters": values.into_iter().map(parameter).collect::<Vec<_>>() })
    }

    /// A template's button component; `sub_type` is `quick_reply` or `url`.
    pub fn button(sub_type: &str, index: usize, value: &str) -> Value {
        let parameter = match sub_type {
            "quick_reply" => json!({ "type": "payload", "payload": value }),
            _ => json!({ "type": "text", "text": value }),
        };
        json!({ "type": "button", "sub_type": sub_type, "index": index.to_string(), "parameters": [parameter] })
    }

    /// Content of `image`, `video`, `audio`, `document`, `sticker`, by id.
    pub fn media(id: &str, caption: Option<&str>, file_name: Option<&str>) -> Value {
        let mut content = json!({ "id": id });
        if let Some(caption) = caption {
            content["caption"] = json!(caption);
        }
        if let Some(file_name) = file_name {
            content["filename"] = json!(file_name);
        }
        content
    }

    /// Content of `reaction`; an empty emoji takes it back.
    pub fn reaction(wamid: &str, emoji: &str) -> Value {
        json!({ "message_id": wamid, "emoji": emoji })
    }
}

impl Meta {
    /// Sends one message once (7.1). `Unclear` if it may have gone out: keep the contact's lane closed and wait for a status
    /// webhook with the attempt (7.9). Every other failure carries a code of [`super::ERRORS`] or says that nothing was sent.
    pub async fn send(&self, number_id: &str, message: &Value) -> Result<Sent, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            messages: Vec<Message>,
            #[serde(default, deserialize_with = "loose::list")]
            contacts: Vec<Contact>,
        }
        #[derive(Deserialize)]
        struct Message {
            id: String,
            #[serde(default)]
            message_status: Acceptance,
        }
        #[derive(Deserialize)]
        struct Contact {
            #[serde(default, deserialize_with = "loose::maybe_text")]
            wa_id: Option<String>,
            #[serde(default, deserialize_with = "loose::maybe_text")]
            user_id: Option<String>,
        }
        let answer: Answer = self.get(Call::post("/{phone}/messages", &[number_id]).json(message)).await?;
        let Some(message) = answer.messages.into_iter().next() else {
            return Err(Failure::unclear("Meta accepted a message without naming it"));
        };
        let contact = answer.contacts.into_iter().next();
        let (wa_id, user_id) = contact.map_or((None, None), |contact| (contact.wa_id, contact.user_id));
        Ok(Sent { wamid: message.id, acceptance: message.message_status, wa_id, user_id })
    }

    /// Marks a received message, and those before it, as read; may be repeated (7.5). `typing` also shows that we are writing.
    pub async fn mark_read(&self, number_id: &str, wamid: &str, typing: bool) -> Result<(), Failure> {
        let mut body = json!({ "messaging_product": "whatsapp", "status": "read", "message_id": wamid });
        if typing {
            body["typing_indicator"] = json!({ "type": "text" });
        }
        self.done(Call::post("/{phone}/messages", &[number_id]).json(&body).repeatable()).await
    }

    /// Blocks or unblocks people, by phone or user id; at most 1,000, and only those who wrote in the last 24 h (3.7).
    pub async fn block(&self, number_id: &str, people: &[Recipient<'_>], blocked: bool) -> Result<(), Failure> {
        let person = |person: &Recipient<'_>| match person {
            Recipient::Phone(phone) => json!({ "user": phone }),
            Recipient::User(user) => json!({ "user_id": user }),
        };
        let body = json!({ "messaging_product": "whatsapp", "block_users": people.iter().map(person).collect::<Vec<_>>() });
        let call = if blocked {
            Call::post("/{phone}/block_users", &[number_id])
        } else {
            Call::delete("/{phone}/block_users", &[number_id])
        };
        self.call(call.json(&body).repeatable()).await.map(drop)
    }
}
