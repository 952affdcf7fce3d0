//! What a person sees of a number besides its name (contracts/meta-cloud-api.md 4.2).

use super::Meta;
use crate::{loose, wire::Call};
use domain::Failure;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What to set; `None` keeps. Lengths: about 1-139, address 256, description 256, email 128, at most two websites of 256.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// With scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websites: Option<Vec<String>>,
    /// `PROF_SERVICES`, `RETAIL`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical: Option<String>,
    /// From [`Meta::upload`]; not a media id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_picture_handle: Option<String>,
}

/// What is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileView {
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub about: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub address: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub email: Option<String>,
    #[serde(default, deserialize_with = "loose::nullable")]
    pub websites: Vec<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub vertical: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub profile_picture_url: Option<String>,
}

impl Meta {
    pub async fn profile(&self, number_id: &str) -> Result<ProfileView, Failure> {
        #[derive(Deserialize)]
        struct Listed {
            #[serde(default, deserialize_with = "loose::nullable")]
            data: Vec<ProfileView>,
        }
        const FIELDS: &str = "about,address,description,email,websites,vertical,profile_picture_url";
        let call = Call::get("/{phone}/whatsapp_business_profile", &[number_id]).query("fields", FIELDS);
        self.get::<Listed>(call).await.map(|listed| listed.data.into_iter().next().unwrap_or_default())
    }

    /// May be repeated.
    pub async fn set_profile(&self, number_id: &str, profile: &Profile) -> Result<(), Failure> {
        let mut body = json!(profile);
        body["messaging_product"] = json!("whatsapp");
        self.done(Call::post("/{phone}/whatsapp_business_profile", &[number_id]).json(&body).repeatable()).await
    }
}
