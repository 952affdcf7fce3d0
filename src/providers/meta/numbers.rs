//! Numbers at Meta: added, proved ours by a code, registered, renamed (contracts/meta-cloud-api.md 3, 4.1).

use super::{Meta, errors};
use crate::{
    loose::{self, words},
    wire::{Body, Call},
};
use domain::Failure;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Everything that the contract documents on a number.
const FIELDS: &str = "id,display_phone_number,verified_name,quality_rating,status,code_verification_status,name_status,\
    new_display_name,new_name_status,throughput,whatsapp_business_manager_messaging_limit,platform_type,is_pin_enabled,\
    is_on_biz_app,is_official_business_account,account_mode,last_onboarded_time,country_code,country_dial_code,webhook_configuration";

words! {
    /// Only a connected number can send.
    pub enum NumberStatus {
        Connected = "CONNECTED",
        Pending = "PENDING",
        Disconnected = "DISCONNECTED",
        Flagged = "FLAGGED",
        Restricted = "RESTRICTED",
        RateLimited = "RATE_LIMITED",
        Banned = "BANNED",
        Migrated = "MIGRATED",
        Deleted = "DELETED",
        Unverified = "UNVERIFIED",
    }
    /// Only a verified number can register.
    pub enum CodeStatus {
        Verified = "VERIFIED",
        NotVerified = "NOT_VERIFIED",
        Unverified = "UNVERIFIED",
        Expired = "EXPIRED",
    }
    /// `Expired` and `None` cannot register.
    pub enum NameStatus {
        Approved = "APPROVED",
        AvailableWithoutReview = "AVAILABLE_WITHOUT_REVIEW",
        PendingReview = "PENDING_REVIEW",
        Declined = "DECLINED",
        Expired = "EXPIRED",
        None = "NONE",
    }
    pub enum Quality {
        Green = "GREEN",
        Yellow = "YELLOW",
        Red = "RED",
        NotAvailable = "NA",
        Unknown = "UNKNOWN",
    }
    /// 80 messages a second, or 1,000.
    pub enum Throughput {
        Standard = "STANDARD",
        High = "HIGH",
        NotApplicable = "NOT_APPLICABLE",
    }
    pub enum Sending {
        Available = "AVAILABLE",
        Limited = "LIMITED",
        Blocked = "BLOCKED",
    }
}

impl NameStatus {
    /// Good enough to register and to go live.
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Approved | Self::AvailableWithoutReview)
    }
}

/// A number, as its node tells (3.3). Beta fields may be absent and are then `Other("")`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhoneNumber {
    #[serde(deserialize_with = "loose::text")]
    pub id: String,
    /// As Meta prints it: with or without `+`, spaces and dashes. Compare digits.
    #[serde(default, deserialize_with = "loose::text")]
    pub display_phone_number: String,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub verified_name: Option<String>,
    #[serde(default)]
    pub status: NumberStatus,
    #[serde(default)]
    pub code_verification_status: CodeStatus,
    #[serde(default)]
    pub name_status: NameStatus,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub new_display_name: Option<String>,
    #[serde(default)]
    pub new_name_status: NameStatus,
    #[serde(default)]
    pub quality_rating: Quality,
    #[serde(default, deserialize_with = "level")]
    pub throughput: Throughput,
    /// The portfolio's: `TIER_250`, `TIER_2K`, `TIER_10K`, `TIER_100K`, `TIER_UNLIMITED`.
    #[serde(default, rename = "whatsapp_business_manager_messaging_limit", deserialize_with = "loose::maybe_text")]
    pub messaging_limit: Option<String>,
    /// `CLOUD_API` once registered.
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub platform_type: Option<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub is_pin_enabled: bool,
    /// A coexistence number: never register or deregister it.
    #[serde(default, deserialize_with = "loose::nullable")]
    pub is_on_biz_app: bool,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub is_official_business_account: bool,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub account_mode: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub last_onboarded_time: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub country_code: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub country_dial_code: Option<String>,
    #[serde(default)]
    pub webhook_configuration: Option<Value>,
}

impl PhoneNumber {
    pub fn is_verified(&self) -> bool {
        self.code_verification_status == CodeStatus::Verified
    }
    pub fn is_connected(&self) -> bool {
        self.status == NumberStatus::Connected
    }
}

/// Meta gives `{"level":"STANDARD"}`; we keep the word.
fn level<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Throughput, D::Error> {
    let value = Value::deserialize(from)?;
    let word = value.get("level").unwrap_or(&value).as_str().unwrap_or_default();
    Ok(Throughput::from(word))
}

/// Whether messages can be sent, and which entity stands in the way (3.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    #[serde(default)]
    pub can_send_message: Sending,
    #[serde(default, deserialize_with = "loose::list")]
    pub entities: Vec<HealthEntity>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthEntity {
    /// `PHONE_NUMBER`, `WABA`, `BUSINESS`, `APP`, `MESSAGE_TEMPLATE`.
    #[serde(default, deserialize_with = "loose::text")]
    pub entity_type: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub id: String,
    #[serde(default)]
    pub can_send_message: Sending,
    #[serde(default, deserialize_with = "loose::list")]
    pub errors: Vec<HealthError>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub additional_info: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthError {
    #[serde(default, deserialize_with = "loose::maybe_int")]
    pub error_code: Option<i64>,
    #[serde(default, deserialize_with = "loose::text")]
    pub error_description: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub possible_solution: String,
}

impl Health {
    /// One line for a person: who blocks and why; `None` if nothing does.
    pub fn trouble(&self) -> Option<String> {
        if self.can_send_message == Sending::Available {
            return None;
        }
        let blocked = self.entities.iter().filter(|entity| entity.can_send_message != Sending::Available);
        let line = |entity: &HealthEntity| {
            let errors: Vec<_> = entity.errors.iter().map(|error| error.error_description.as_str()).collect();
            format!("{} {}: {}", entity.entity_type, entity.can_send_message, errors.join(", "))
        };
        Some(blocked.map(line).collect::<Vec<_>>().join("; "))
    }
}

/// How adding a number ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Added {
    /// Its phone_number_id, new or adopted.
    Number(String),
    /// The portfolio may register no more numbers: a person must act.
    CapReached,
    /// The number lives on WhatsApp elsewhere: it is of no use to us.
    OnWhatsApp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeMethod {
    Sms,
    Voice,
}

impl CodeMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sms => "SMS",
            Self::Voice => "VOICE",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeRequested {
    Sent,
    /// 136024: verified already, or asked too often. [`Meta::number`] tells which.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    Yes,
    /// Wrong or expired. After three, ask for a fresh one.
    Wrong,
}

impl Meta {
    /// Every number of the account.
    pub async fn numbers(&self) -> Result<Vec<PhoneNumber>, Failure> {
        self.all(|| Call::get("/{waba}/phone_numbers", &[self.waba_id()]).query("fields", FIELDS)).await
    }

    /// The account's number with these digits, however Meta prints it.
    pub async fn find_number(&self, phone: &str) -> Result<Option<PhoneNumber>, Failure> {
        let digits = loose::digits(phone);
        Ok(self.numbers().await?.into_iter().find(|number| loose::digits(&number.display_phone_number) == digits))
    }

    /// Adds a number (3.2): `cc` and `national` in digits. `Unclear` if the answer was lost; [`Meta::add_or_adopt`] looks first.
    pub async fn add_number(&self, cc: &str, national: &str, verified_name: &str) -> Result<Added, Failure> {
        #[derive(Deserialize)]
        struct New {
            #[serde(deserialize_with = "loose::text")]
            id: String,
        }
        let body = json!({ "cc": cc, "phone_number": national, "verified_name": verified_name });
        let call = Call::post("/{waba}/phone_numbers", &[self.waba_id()]).json(&body);
        match self.get::<New>(call).await {
            Ok(new) => Ok(Added::Number(new.id)),
            Err(failure) if errors::is_number_cap(&failure) => Ok(Added::CapReached),
            Err(failure) if on_whatsapp(&failure) => Ok(Added::OnWhatsApp),
            Err(failure) => Err(failure),
        }
    }

    /// The number if the account has it, else added. May be repeated after an unclear answer.
    pub async fn add_or_adopt(&self, cc: &str, national: &str, verified_name: &str) -> Result<Added, Failure> {
        let found = self.find_number(&format!("{cc}{national}")).await?;
        match found {
            Some(number) => Ok(Added::Number(number.id)),
            None => self.add_number(cc, national, verified_name).await,
        }
    }

    /// A number with every documented field. One that does not exist, or is not ours, is refused with code `100.33`.
    pub async fn number(&self, id: &str) -> Result<PhoneNumber, Failure> {
        self.get(Call::get("/{phone}", &[id]).query("fields", FIELDS)).await
    }

    /// The readiness gate after registration (3.3).
    pub async fn health(&self, number_id: &str) -> Result<Health, Failure> {
        #[derive(Deserialize)]
        struct Node {
            #[serde(default, deserialize_with = "loose::nullable")]
            health_status: Health,
        }
        self.get::<Node>(Call::get("/{phone}", &[number_id]).query("fields", "health_status"))
            .await
            .map(|node| node.health_status)
    }

    /// Has Meta call or text a code (3.4). `language` as `fr`, `ar`, `en_US`. At most one a minute; an older code dies.
    pub async fn request_code(&self, number_id: &str, method: CodeMethod, language: &str) -> Result<CodeRequested, Failure> {
        let call =
            Call::post("/{phone}/request_code", &[number_id]).query("code_method", method.as_str()).query("language", language);
        match self.done(call).await {
            Ok(()) => Ok(CodeRequested::Sent),
            Err(failure) if failure.has_code("136024") => Ok(CodeRequested::Refused),
            Err(failure) => Err(failure),
        }
    }

    /// Proves ownership with six digits (3.5). The code travels in the body, where no log sees it. A wrong code is an answer.
    pub async fn verify_code(&self, number_id: &str, code: &SecretString) -> Result<Verified, Failure> {
        let digits = loose::digits(code.expose_secret());
        let call = Call::post("/{phone}/verify_code", &[number_id]).body(Body::Form(vec![("code", digits)]));
        match self.done(call).await {
            Ok(()) => Ok(Verified::Yes),
            Err(failure) if failure.has_code("136025") => Ok(Verified::Wrong),
            Err(failure) => Err(without(code, failure)),
        }
    }

    /// Connects the number and sets its PIN, or proves the one it has (3.6). Each call, also a failed one, spends one of ten in 72 h:
    /// read [`Meta::number`] first. Refusals carry 133000 (deregister first), 133005 (PIN differs), 133006 (verify first);
    /// throttles 133008, 133009, 133015 and 133016 their wait.
    pub async fn register(&self, number_id: &str, pin: &SecretString, region: Option<&str>) -> Result<(), Failure> {
        let mut body = json!({ "messaging_product": "whatsapp", "pin": pin.expose_secret() });
        if let Some(region) = region {
            body["data_localization_region"] = json!(region);
        }
        self.done(Call::post("/{phone}/register", &[number_id]).json(&body)).await.map_err(|failure| without(pin, failure))
    }

    /// Disconnects the number; has its own ten in 72 h (3.7).
    pub async fn deregister(&self, number_id: &str) -> Result<(), Failure> {
        self.done(Call::post("/{phone}/deregister", &[number_id])).await
    }

    /// Changes the PIN without knowing the old one (3.7).
    pub async fn set_pin(&self, number_id: &str, pin: &SecretString) -> Result<(), Failure> {
        let call = Call::post("/{phone}", &[number_id]).json(&json!({ "pin": pin.expose_secret() })).repeatable();
        self.done(call).await.map_err(|failure| without(pin, failure))
    }

    /// Asks for another display name (4.1): reviewed, then to be registered again within 14 days. At most 10 in 30 days.
    pub async fn request_display_name(&self, number_id: &str, name: &str) -> Result<(), Failure> {
        self.done(Call::post("/{phone}", &[number_id]).query("new_display_name", name)).await
    }
}

/// A refusal may quote what it refuses; ours are stored and shown.
fn without(secret: &SecretString, mut failure: Failure) -> Failure {
    if !secret.expose_secret().is_empty() {
        failure.why = failure.why.replace(secret.expose_secret(), "***");
    }
    failure
}

/// There is no code of its own for it: 100 (or an unknown one) with words that say so.
fn on_whatsapp(failure: &Failure) -> bool {
    let why = failure.why.to_ascii_lowercase();
    super::code_of(failure) == Some(100) && why.contains("already") && (why.contains("whatsapp") || why.contains("registered"))
}
