//! What became of a message that we sent (contracts/meta-cloud-api.md 10.5).

use super::message::{Contact, text};
use crate::loose::{self, words};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

words! {
    pub enum Status {
        Sent = "sent",
        Delivered = "delivered",
        Read = "read",
        Played = "played",
        Failed = "failed",
    }
}

impl Status {
    /// Sent 1 < delivered 2 < read 3 < played 4; never go back. `None` for a failure, which counts only from below delivered.
    pub fn rank(&self) -> Option<u8> {
        match self {
            Self::Sent => Some(1),
            Self::Delivered => Some(2),
            Self::Read => Some(3),
            Self::Played => Some(4),
            Self::Failed | Self::Other(_) => None,
        }
    }
}

/// One step of a message's way, late, doubled or out of order.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusUpdate {
    pub wamid: String,
    pub status: Status,
    pub timestamp: DateTime<Utc>,
    /// Digits of the phone it was sent to.
    pub recipient_id: Option<String>,
    /// BSUID.
    pub recipient_user_id: Option<String>,
    pub recipient_parent_user_id: Option<String>,
    /// `biz_opaque_callback_data`: the attempt that sent it.
    pub attempt: Option<String>,
    pub pricing: Option<Pricing>,
    pub errors: Vec<HookError>,
    pub contact: Option<Contact>,
}

/// On `sent` and on one of `delivered` and `read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pricing {
    /// Will go away: derive it from type and category.
    pub billable: Option<bool>,
    pub model: Option<String>,
    /// `regular`, `free_customer_service`, `free_entry_point`.
    pub pricing_type: Option<String>,
    /// `marketing`, `utility`, `authentication`, `authentication-international`, `service`, ...; `-` and `_` mean the same.
    pub category: Option<String>,
}

/// An error in a webhook; its code is one of [`crate::meta::ERRORS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookError {
    pub code: i64,
    pub title: String,
    pub details: Option<String>,
}

impl HookError {
    pub(super) fn read(error: &Value) -> Option<Self> {
        Some(Self {
            code: error.get("code").and_then(loose::as_int)?,
            title: text(error, "title").or_else(|| text(error, "message")).unwrap_or_default(),
            details: match error.get("error_data") {
                Some(Value::String(details)) => Some(details.clone()),
                data => data.and_then(|data| text(data, "details")),
            },
        })
    }
}

impl StatusUpdate {
    pub(super) fn read(status: &Value, contacts: &[Value]) -> Option<Self> {
        let field = |name: &str| text(status, name);
        Some(Self {
            wamid: field("id")?,
            status: Status::from(field("status")?.as_str()),
            timestamp: status.get("timestamp").and_then(loose::as_unix_time)?,
            recipient_id: field("recipient_id"),
            recipient_user_id: field("recipient_user_id"),
            recipient_parent_user_id: field("recipient_parent_user_id"),
            attempt: field("biz_opaque_callback_data"),
            pricing: status.get("pricing").filter(|pricing| pricing.is_object()).map(|pricing| Pricing {
                billable: pricing.get("billable").and_then(Value::as_bool),
                model: text(pricing, "pricing_model"),
                pricing_type: text(pricing, "type"),
                category: text(pricing, "category"),
            }),
            errors: status.get("errors").and_then(Value::as_array).into_iter().flatten().filter_map(HookError::read).collect(),
            contact: Contact::of(status, contacts),
        })
    }
}
