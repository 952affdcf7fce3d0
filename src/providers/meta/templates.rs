//! Templates: submitted, found again, edited, deleted (contracts/meta-cloud-api.md 6).

use super::{Meta, errors};
use crate::{
    loose::{self, words},
    wire::Call,
};
use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const FIELDS: &str = "id,name,language,status,category,previous_category,sub_category,components,parameter_format,\
    rejected_reason,quality_score,message_send_ttl_seconds";

/// As met in the field; no document names it.
const NOTHING_TO_DELETE: &str = "100.2593002";

words! {
    /// Only an approved template can be sent.
    pub enum TemplateStatus {
        Pending = "PENDING",
        Approved = "APPROVED",
        Rejected = "REJECTED",
        Paused = "PAUSED",
        Disabled = "DISABLED",
        InAppeal = "IN_APPEAL",
        LimitExceeded = "LIMIT_EXCEEDED",
        PendingDeletion = "PENDING_DELETION",
        Deleted = "DELETED",
        Archived = "ARCHIVED",
        /// Only in webhooks; can still be sent.
        Flagged = "FLAGGED",
        /// Only in webhooks: read it anew.
        Reinstated = "REINSTATED",
        /// Only in webhooks: cannot be edited.
        Locked = "LOCKED",
        /// Only in webhooks: read it anew.
        Unarchived = "UNARCHIVED",
    }
    pub enum TemplateCategory {
        Marketing = "MARKETING",
        Utility = "UTILITY",
        Authentication = "AUTHENTICATION",
    }
    pub enum QualityScore {
        Green = "GREEN",
        Yellow = "YELLOW",
        Red = "RED",
        Unknown = "UNKNOWN",
    }
}

/// A template to submit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NewTemplate {
    /// `[a-z0-9_]`, at most 512; unique per language.
    pub name: String,
    /// `fr`, `ar`, `en_US`.
    pub language: String,
    pub category: TemplateCategory,
    /// `NAMED` or `POSITIONAL`.
    pub parameter_format: String,
    /// Meta's own component JSON.
    pub components: Value,
    #[serde(default)]
    pub allow_category_change: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_send_ttl_seconds: Option<i64>,
}

/// What a submission answers: it may be approved at once, and in another category if that was allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submitted {
    #[serde(deserialize_with = "loose::text")]
    pub id: String,
    #[serde(default)]
    pub status: TemplateStatus,
    #[serde(default)]
    pub category: TemplateCategory,
}

/// A template as Meta has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    #[serde(deserialize_with = "loose::text")]
    pub id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub name: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub language: String,
    #[serde(default)]
    pub status: TemplateStatus,
    #[serde(default)]
    pub category: TemplateCategory,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub previous_category: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub parameter_format: Option<String>,
    /// `None` also where Meta says `NONE`.
    #[serde(default, deserialize_with = "reason")]
    pub rejected_reason: Option<String>,
    #[serde(default, rename = "quality_score", deserialize_with = "score")]
    pub quality: QualityScore,
    #[serde(default)]
    pub components: Value,
    #[serde(default, deserialize_with = "loose::maybe_int")]
    pub message_send_ttl_seconds: Option<i64>,
}

fn reason<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(loose::maybe_text(from)?.filter(|reason| !reason.eq_ignore_ascii_case("NONE")))
}

/// Meta gives `{"score":"GREEN"}`; we keep the word.
fn score<'de, D: serde::Deserializer<'de>>(from: D) -> Result<QualityScore, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(QualityScore::from(value.get("score").unwrap_or(&value).as_str().unwrap_or_default()))
}

/// `en-US` and `en_US` are the same language.
pub(crate) fn same_language(one: &str, other: &str) -> bool {
    one.replace('-', "_").eq_ignore_ascii_case(&other.replace('-', "_"))
}

impl Meta {
    /// Submits a template (6.1). `Unclear` if the answer was lost; [`Meta::submit_or_adopt`] looks first. Refusals carry the
    /// component's subcode: `100.2388072`.
    pub async fn create_template(&self, template: &NewTemplate) -> Result<Submitted, Failure> {
        self.get(Call::post("/{waba}/message_templates", &[self.waba_id()]).json(&json!(template))).await
    }

    /// The template of this name and language if the account has it, else submitted. May be repeated after an unclear answer.
    pub async fn submit_or_adopt(&self, template: &NewTemplate) -> Result<Submitted, Failure> {
        match self.find_template(&template.name, &template.language).await? {
            Some(found) => Ok(Submitted { id: found.id, status: found.status, category: found.category }),
            None => self.create_template(template).await,
        }
    }

    /// Exactly this name and language. One that is deleted does not count.
    pub async fn find_template(&self, name: &str, language: &str) -> Result<Option<Template>, Failure> {
        let call = || Call::get("/{waba}/message_templates", &[self.waba_id()]).query("fields", FIELDS).query("name", name);
        let found: Vec<Template> = self.all(call).await?;
        let wanted = |template: &Template| {
            template.name == name && same_language(&template.language, language) && template.status != TemplateStatus::Deleted
        };
        Ok(found.into_iter().find(wanted))
    }

    /// Every template of the account.
    pub async fn templates(&self) -> Result<Vec<Template>, Failure> {
        self.all(|| Call::get("/{waba}/message_templates", &[self.waba_id()]).query("fields", FIELDS)).await
    }

    pub async fn template(&self, id: &str) -> Result<Template, Failure> {
        self.get(Call::get("/{template}", &[id]).query("fields", FIELDS)).await
    }

    /// Replaces all components and goes back to review (6.2). Only approved (once a day, 10 in 30 days), rejected or paused ones.
    pub async fn edit_template(&self, id: &str, components: &Value) -> Result<(), Failure> {
        self.done(Call::post("/{template}", &[id]).json(&json!({ "components": components }))).await
    }

    /// Deletes one language of a template. One that is gone is success; the name of an approved one is blocked for 30 days.
    pub async fn delete_template(&self, id: &str, name: &str) -> Result<(), Failure> {
        let call = Call::delete("/{waba}/message_templates", &[self.waba_id()]).query("hsm_id", id).query("name", name);
        match self.done(call).await {
            Err(failure) if errors::is_missing(&failure) || failure.has_code(NOTHING_TO_DELETE) => Ok(()),
            answer => answer,
        }
    }

    pub async fn unpause_template(&self, id: &str) -> Result<(), Failure> {
        self.done(Call::post("/{template}/unpause", &[id]).repeatable()).await
    }
}
