//! What webhooks and people tell a waiting run. Each only says "look": the workflow asks the provider before it believes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An order has news. Key: our `customer_reference`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrderSettled {
    pub order_id: String,
    pub status: String,
}

impl durable::Signal for OrderSettled {
    const TOPIC: &'static str = "order_settled";
}

/// A code came in. Key: the number in E.164.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtpArrived {
    /// The request that was open when it came; good for no other.
    pub request: Uuid,
    /// The code, sealed as `crate::capture` does, in hex.
    pub sealed: String,
}

impl durable::Signal for OtpArrived {
    const TOPIC: &'static str = "otp_arrived";
}

/// Meta has reviewed a display name, or a person proposes another. Key: the number in E.164.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NameReviewed {
    /// Meta's word: `APPROVED`, `REJECTED`, `DEFERRED`, `PENDING`.
    pub decision: Option<String>,
    pub reason: Option<String>,
    /// From a person: ask for this name instead.
    pub display_name: Option<String>,
}

impl durable::Signal for NameReviewed {
    const TOPIC: &'static str = "name_reviewed";
}

/// Something that a line waits for may have changed; `{}` from a person means "try now". Key: the line's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookAgain {
    pub note: Option<String>,
}

impl durable::Signal for LookAgain {
    const TOPIC: &'static str = "look_again";
}

/// Meta has said something about a template. Key: the template's id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateReviewed {
    pub note: Option<String>,
}

impl durable::Signal for TemplateReviewed {
    const TOPIC: &'static str = "template_reviewed";
}
