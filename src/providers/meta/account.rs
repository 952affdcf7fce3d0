//! The account itself: who hears its webhooks, who pays, what it may do (contracts/meta-cloud-api.md 5.2, 7.8, 13).

use super::Meta;
use crate::{loose, wire::Call};
use domain::Failure;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The messaging account (today's WABA).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    #[serde(deserialize_with = "loose::text")]
    pub id: String,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub name: Option<String>,
    /// Absent: the account cannot pay, and so cannot send.
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub primary_funding_id: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub currency: Option<String>,
    /// Meta's number of a time zone.
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub timezone_id: Option<String>,
    #[serde(default, deserialize_with = "loose::maybe_text")]
    pub account_review_status: Option<String>,
    #[serde(default)]
    pub owner_business_info: Option<Value>,
}

/// An app that hears the account's webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribedApp {
    pub id: String,
    pub name: String,
    pub override_callback_uri: Option<String>,
}

impl Meta {
    pub async fn account(&self) -> Result<Account, Failure> {
        const FIELDS: &str = "id,name,primary_funding_id,currency,timezone_id,account_review_status,owner_business_info";
        self.get(Call::get("/{waba}", &[self.waba_id()]).query("fields", FIELDS)).await
    }

    pub async fn subscribed_apps(&self) -> Result<Vec<SubscribedApp>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(default)]
            whatsapp_business_api_data: Option<App>,
            #[serde(default, deserialize_with = "loose::maybe_text")]
            override_callback_uri: Option<String>,
        }
        #[derive(Deserialize)]
        struct App {
            #[serde(default, deserialize_with = "loose::text")]
            id: String,
            #[serde(default, deserialize_with = "loose::text")]
            name: String,
        }
        let rows: Vec<Row> = self.all(|| Call::get("/{waba}/subscribed_apps", &[self.waba_id()])).await?;
        let app = |row: Row| {
            let app = row.whatsapp_business_api_data?;
            Some(SubscribedApp { id: app.id, name: app.name, override_callback_uri: row.override_callback_uri })
        };
        Ok(rows.into_iter().filter_map(app).collect())
    }

    /// Our app hears the account. **Without a callback an override is cleared**: always pass the same. May be repeated.
    pub async fn subscribe(&self, callback: Option<(&str, &SecretString)>) -> Result<(), Failure> {
        let call = Call::post("/{waba}/subscribed_apps", &[self.waba_id()]).repeatable();
        self.done(match callback {
            Some((uri, token)) => call.json(&json!({ "override_callback_uri": uri, "verify_token": token.expose_secret() })),
            None => call,
        })
        .await
    }

    pub async fn unsubscribe(&self) -> Result<(), Failure> {
        self.done(Call::delete("/{waba}/subscribed_apps", &[self.waba_id()])).await
    }

    /// The portfolio's messaging limit (3.3, 7.8), as any of its numbers tells it: `TIER_250` ... `TIER_UNLIMITED`; `None` if Meta does not say.
    pub async fn messaging_limit(&self, number_id: &str) -> Result<Option<String>, Failure> {
        #[derive(Deserialize)]
        struct Node {
            #[serde(default, rename = "whatsapp_business_manager_messaging_limit", deserialize_with = "loose::maybe_text")]
            limit: Option<String>,
        }
        let call = Call::get("/{phone}", &[number_id]).query("fields", "whatsapp_business_manager_messaging_limit");
        self.get::<Node>(call).await.map(|node| node.limit)
    }
}
