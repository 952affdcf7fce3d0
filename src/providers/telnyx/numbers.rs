//! Numbers we own: found, configured, released (contracts/telnyx.md 6).

use super::{NumberType, Page, Telnyx, errors};
use crate::{
    loose::{self, words},
    wire::Call,
};
use chrono::{DateTime, Utc};
use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::json;

words! {
    pub enum NumberStatus {
        PurchasePending = "purchase-pending",
        PurchaseFailed = "purchase-failed",
        RequirementInfoPending = "requirement-info-pending",
        RequirementInfoUnderReview = "requirement-info-under-review",
        RequirementInfoException = "requirement-info-exception",
        ProvisionPending = "provision-pending",
        Active = "active",
        Deleted = "deleted",
        EmergencyOnly = "emergency-only",
        PortPending = "port-pending",
        PortFailed = "port-failed",
        PortOutPending = "port-out-pending",
        PortedOut = "ported-out",
    }
}

impl NumberStatus {
    /// Still ours and paid for, or about to be.
    pub fn is_held(&self) -> bool {
        !matches!(self, Self::Deleted | Self::PurchaseFailed | Self::PortedOut)
    }
}

/// A number on our account. There is no price here: keep that of the search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedNumber {
    /// A decimal string beyond 2^53; not the id of the order line.
    #[serde(deserialize_with = "loose::text")]
    pub id: String,
    /// E.164.
    pub phone_number: String,
    #[serde(default)]
    pub status: NumberStatus,
    #[serde(default, deserialize_with = "loose::text")]
    pub country_iso_alpha2: String,
    #[serde(default)]
    pub phone_number_type: NumberType,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub tags: Vec<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub customer_reference: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub connection_id: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub messaging_profile_id: Option<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub call_forwarding_enabled: bool,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub inbound_call_screening: Option<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub deletion_lock_enabled: bool,
    #[serde(default, deserialize_with = "loose::maybe_time")]
    pub purchased_at: Option<DateTime<Utc>>,
}

/// What to change on a number; `None` keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_reference: Option<String>,
    /// Replaces the list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub billing_group_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessagingSettings {
    #[serde(deserialize_with = "loose::text")]
    pub id: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub phone_number: String,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub messaging_profile_id: Option<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub features: Features,
}

impl MessagingSettings {
    /// `None`: the number carries no SMS at all.
    pub fn sms(&self) -> Option<&SmsFeatures> {
        self.features.sms.as_ref()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    #[serde(default)]
    pub sms: Option<SmsFeatures>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmsFeatures {
    #[serde(default, deserialize_with = "loose::nullable")]
    pub domestic_two_way: bool,
    /// `false` is a warning: Meta's text may come from abroad.
    #[serde(default, deserialize_with = "loose::nullable")]
    pub international_inbound: bool,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub international_outbound: bool,
}

/// How a release ended; both are an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    Released,
    /// Telnyx knows no such number: released before, or never ours. Confirm with [`Telnyx::find_number`].
    NotFound,
}

impl Telnyx {
    /// The number we hold with this E.164 form (6.1): digits are filtered on, the number compared exactly. Deleted ones do not count.
    pub async fn find_number(&self, phone_number: &str) -> Result<Option<OwnedNumber>, Failure> {
        let digits = loose::digits(phone_number);
        let call = || Call::get("/phone_numbers", &[]).query("filter[phone_number]", &digits);
        let found: Vec<OwnedNumber> = self.all(call).await?;
        let exact = |number: &OwnedNumber| loose::digits(&number.phone_number) == digits && number.status.is_held();
        Ok(found.into_iter().find(exact))
    }

    /// Numbers held under our reference (6.1).
    pub async fn numbers_by_reference(&self, customer_reference: &str) -> Result<Vec<OwnedNumber>, Failure> {
        let call = || Call::get("/phone_numbers", &[]).query("filter[customer_reference]", customer_reference);
        let mut numbers: Vec<OwnedNumber> = self.all(call).await?;
        numbers.retain(|n| n.customer_reference.as_deref() == Some(customer_reference) && n.status.is_held());
        Ok(numbers)
    }

    pub async fn number(&self, id: &str) -> Result<OwnedNumber, Failure> {
        self.data(Call::get("/phone_numbers/{id}", &[id])).await
    }

    /// One page of all numbers, deleted ones among them; pages count from 1.
    pub async fn numbers_page(&self, page: u32) -> Result<Page<OwnedNumber>, Failure> {
        self.page(Call::get("/phone_numbers", &[]).query("sort", "purchased_at"), page, super::PAGE_SIZE).await
    }

    /// Every number we hold: what the orphan sweep compares with the lines.
    pub async fn numbers(&self) -> Result<Vec<OwnedNumber>, Failure> {
        let call = || Call::get("/phone_numbers", &[]).query("sort", "purchased_at");
        let mut numbers: Vec<OwnedNumber> = self.all(call).await?;
        numbers.retain(|number| number.status.is_held());
        Ok(numbers)
    }

    /// (6.2)
    pub async fn patch_number(&self, id: &str, patch: &NumberPatch) -> Result<OwnedNumber, Failure> {
        self.data(Call::patch("/phone_numbers/{id}", &[id]).json(&json!(patch))).await
    }

    /// Our messaging profile on the number; with `None` of one configured, detaches (6.2).
    pub async fn patch_messaging(&self, id: &str) -> Result<MessagingSettings, Failure> {
        let body = json!({ "messaging_profile_id": self.messaging_profile_id().unwrap_or_default() });
        self.data(Call::patch("/phone_numbers/{id}/messaging", &[id]).json(&body)).await
    }

    /// Calls come to our voice app unscreened and are forwarded nowhere (6.2).
    pub async fn patch_voice(&self, id: &str) -> Result<(), Failure> {
        let body = json!({
            "call_forwarding": { "call_forwarding_enabled": false, "forwards_to": "" },
            "inbound_call_screening": "disabled",
        });
        self.call(Call::patch("/phone_numbers/{id}/voice", &[id]).json(&body)).await.map(drop)
    }

    /// Gives the number back (6.3). Deregister it at Meta first, or its next owner receives our codes.
    pub async fn delete_number(&self, id: &str) -> Result<Release, Failure> {
        match self.call(Call::delete("/phone_numbers/{id}", &[id])).await {
            Ok(_) => Ok(Release::Released),
            Err(failure) if errors::is_missing(&failure) => Ok(Release::NotFound),
            Err(failure) => Err(failure),
        }
    }
}
