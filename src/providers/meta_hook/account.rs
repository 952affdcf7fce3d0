//! What became of templates, names, limits and people's wishes (contracts/meta-cloud-api.md 4.1, 6.5, 7.7, 10.3, 11).

use super::message::text;
use crate::{
    loose,
    meta::{QualityScore, TemplateCategory, TemplateStatus},
};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// Order by the event's `time`, ignore older; on `Reinstated` and `Unarchived` read the template anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateChange {
    pub id: String,
    pub name: String,
    /// Underscored: `en_US`.
    pub language: String,
    pub event: TemplateStatus,
    pub category: Option<TemplateCategory>,
    /// Why it was rejected; `None` also where Meta says `NONE`.
    pub reason: Option<String>,
    /// What Meta recommends instead.
    pub recommendation: Option<String>,
    /// `FIRST_PAUSE` (3 h), `SECOND_PAUSE` (6 h), `RATE_LIMITING_PAUSE`, `UNPAUSE`, `DISABLED`.
    pub pause: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateQuality {
    pub id: String,
    pub name: String,
    pub language: String,
    pub previous: QualityScore,
    pub new: QualityScore,
}

/// Impending (`correct` set) or done (`previous` set). Prices change with the category.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRecategorised {
    pub id: String,
    pub name: String,
    pub language: String,
    pub new: TemplateCategory,
    pub previous: Option<TemplateCategory>,
    /// What it will become, and when.
    pub correct: Option<TemplateCategory>,
    pub at: Option<DateTime<Utc>>,
}

/// Somebody changed the text: read the template anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateComponents {
    pub id: String,
    pub name: String,
    pub language: String,
}

/// Once approved, register the number again within 14 days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberName {
    /// Digits; there is no id here.
    pub display_phone_number: String,
    /// `APPROVED`, `DEFERRED`, `PENDING`, `REJECTED`.
    pub decision: String,
    pub requested_name: Option<String>,
    pub rejection_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberQuality {
    /// Digits; there is no id here.
    pub display_phone_number: String,
    /// `ONBOARDING`, `THROUGHPUT_UPGRADE`.
    pub event: String,
    pub current_limit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// A tier (`TIER_2K`) or a number of unique people a day; `-1` is unlimited.
    pub messaging_limit: Option<String>,
    pub max_numbers_per_business: Option<i64>,
    pub max_numbers_per_account: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountAlert {
    pub entity_type: String,
    pub entity_id: String,
    /// `CRITICAL`, `WARNING`, `INFORMATIONAL`.
    pub severity: String,
    pub alert_type: String,
    pub description: String,
}

/// A person's wish about marketing.
#[derive(Clone, PartialEq, Eq)]
pub struct UserPreference {
    pub wa_id: Option<String>,
    pub user_id: Option<String>,
    pub category: String,
    /// `stop`, `resume`, `signup`.
    pub value: String,
    pub timestamp: Option<DateTime<Utc>>,
}

/// A person's id has changed with their number.
#[derive(Clone, PartialEq, Eq)]
pub struct UserIdUpdate {
    pub wa_id: Option<String>,
    pub previous: String,
    pub current: String,
    pub timestamp: Option<DateTime<Utc>>,
}

impl std::fmt::Debug for UserPreference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserPreference").field("category", &self.category).field("value", &self.value).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for UserIdUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserIdUpdate").field("timestamp", &self.timestamp).finish_non_exhaustive()
    }
}

/// Id, name and language of the template that a value is about.
fn template(value: &Value) -> Option<(String, String, String)> {
    let field = |name: &str| text(value, name);
    let language = field("message_template_language").unwrap_or_default().replace('-', "_");
    Some((field("message_template_id")?, field("message_template_name").unwrap_or_default(), language))
}

impl TemplateChange {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let (id, name, language) = template(value)?;
        let inside = |object: &str, name: &str| value.get(object).and_then(|object| text(object, name));
        Some(Self {
            id,
            name,
            language,
            event: TemplateStatus::from(text(value, "event")?.as_str()),
            category: text(value, "message_template_category").map(|word| TemplateCategory::from(word.as_str())),
            reason: text(value, "reason").filter(|reason| !reason.eq_ignore_ascii_case("NONE")),
            recommendation: inside("rejection_info", "recommendation"),
            pause: inside("other_info", "title"),
        })
    }
}

impl TemplateQuality {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let (id, name, language) = template(value)?;
        let score = |field: &str| QualityScore::from(text(value, field).unwrap_or_default().as_str());
        Some(Self { id, name, language, previous: score("previous_quality_score"), new: score("new_quality_score") })
    }
}

impl TemplateRecategorised {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let (id, name, language) = template(value)?;
        let category = |field: &str| text(value, field).map(|word| TemplateCategory::from(word.as_str()));
        Some(Self {
            id,
            name,
            language,
            new: category("new_category")?,
            previous: category("previous_category"),
            correct: category("correct_category"),
            at: value.get("category_update_timestamp").and_then(loose::as_unix_time),
        })
    }
}

impl TemplateComponents {
    pub(super) fn read(value: &Value) -> Option<Self> {
        template(value).map(|(id, name, language)| Self { id, name, language })
    }
}

impl NumberName {
    pub(super) fn read(value: &Value) -> Option<Self> {
        Some(Self {
            display_phone_number: loose::digits(&text(value, "display_phone_number")?),
            decision: text(value, "decision")?,
            requested_name: text(value, "requested_verified_name"),
            rejection_reason: text(value, "rejection_reason").filter(|reason| !reason.eq_ignore_ascii_case("NONE")),
        })
    }
}

impl NumberQuality {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let daily = text(value, "max_daily_conversations_per_business");
        Some(Self {
            display_phone_number: loose::digits(&text(value, "display_phone_number")?),
            event: text(value, "event")?,
            current_limit: daily.or_else(|| text(value, "current_limit")),
        })
    }
}

impl Capability {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let count = |name: &str| value.get(name).and_then(loose::as_int);
        let daily = text(value, "max_daily_conversations_per_business");
        value.is_object().then(|| Self {
            messaging_limit: daily.or_else(|| text(value, "max_daily_conversation_per_phone")),
            max_numbers_per_business: count("max_phone_numbers_per_business"),
            max_numbers_per_account: count("max_phone_numbers_per_waba"),
        })
    }
}

impl AccountAlert {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let info = value.get("alert_info").unwrap_or(value);
        let told = |name: &str| text(info, name).unwrap_or_default();
        Some(Self {
            entity_type: text(value, "entity_type")?,
            entity_id: text(value, "entity_id").unwrap_or_default(),
            severity: told("alert_severity"),
            alert_type: told("alert_type"),
            description: told("alert_description"),
        })
    }
}

impl UserPreference {
    pub(super) fn read(row: &Value) -> Option<Self> {
        Some(Self {
            wa_id: text(row, "wa_id"),
            user_id: text(row, "user_id"),
            category: text(row, "category")?,
            value: text(row, "value")?,
            timestamp: row.get("timestamp").and_then(loose::as_unix_time),
        })
    }
}

impl UserIdUpdate {
    pub(super) fn read(row: &Value) -> Option<Self> {
        let ids = row.get("user_id")?;
        Some(Self {
            wa_id: text(row, "wa_id"),
            previous: text(ids, "previous")?,
            current: text(ids, "current")?,
            timestamp: row.get("timestamp").and_then(loose::as_unix_time),
        })
    }
}
