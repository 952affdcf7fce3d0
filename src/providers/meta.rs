//! Meta: numbers, profiles, templates, messages, media and analytics of one account (contracts/meta-cloud-api.md).
//!
//! Failures follow [`ERRORS`]; answers that the field expects (a wrong code, a cap reached) are values.

mod account;
mod analytics;
mod errors;
mod media;
mod messages;
mod numbers;
mod profile;
mod templates;
mod usage;

pub use account::{Account, SubscribedApp};
pub use analytics::{AnalyticsQuery, PricingPoint};
pub use errors::{Class, ERRORS, ErrorRule, Lane, Who, code_of, rule};
pub use media::{Media, MediaLink, UploadSession};
pub use messages::{Acceptance, Recipient, Sent, body};
pub use numbers::{
    Added, CodeMethod, CodeRequested, CodeStatus, Health, HealthEntity, HealthError, NameStatus, NumberStatus, PhoneNumber,
    Quality, Sending, Throughput, Verified,
};
pub use profile::{Profile, ProfileView};
pub use templates::{NewTemplate, QualityScore, Submitted, Template, TemplateCategory, TemplateStatus};
pub use usage::{AccountUsage, Usage};

use crate::wire::{Call, Effect, Reply, Wire};
use domain::Failure;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::Sha256;
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

/// Rows asked for in one page.
const PAGE_SIZE: u32 = 100;
/// Pages read by the calls that read them all.
const PAGES_MAX: u32 = 1_000;

/// One account (today's WABA) seen through one app and token. Cheap to clone; one connection pool.
#[derive(Clone)]
pub struct Meta {
    wire: Wire,
    app: Arc<App>,
    account: Arc<Access>,
    usage: Arc<Mutex<Usage>>,
}

struct App {
    id: String,
    secret: SecretString,
    proves: bool,
}

struct Access {
    token: SecretString,
    waba_id: String,
    business_id: String,
}

impl fmt::Debug for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meta").field("token", &"***").field("waba_id", &self.account.waba_id).finish_non_exhaustive()
    }
}

impl Meta {
    /// `base_url` without the version; `token` is that of the account `waba_id` in the portfolio `business_id`.
    pub fn new(
        base_url: &str,
        version: &str,
        token: SecretString,
        app_id: impl Into<String>,
        app_secret: SecretString,
        waba_id: impl Into<String>,
        business_id: impl Into<String>,
    ) -> Result<Self, Failure> {
        let base = format!("{}/{version}", base_url.trim_end_matches('/'));
        Ok(Self {
            wire: Wire::new("meta", &base, errors::trace)?,
            app: Arc::new(App { id: app_id.into(), secret: app_secret, proves: false }),
            account: Arc::new(Access { token, waba_id: waba_id.into(), business_id: business_id.into() }),
            usage: Arc::default(),
        })
    }

    /// Send `appsecret_proof` with every call: for apps that have "Require app secret" on (1.2).
    #[must_use]
    pub fn with_proof(mut self) -> Self {
        self.app = Arc::new(App { id: self.app.id.clone(), secret: self.app.secret.clone(), proves: true });
        self
    }

    /// The same app on a customer's account. Shares connections, not the token.
    #[must_use]
    pub fn with_account(&self, waba_id: impl Into<String>, business_id: impl Into<String>, token: SecretString) -> Self {
        let account = Access { token, waba_id: waba_id.into(), business_id: business_id.into() };
        Self { account: Arc::new(account), ..self.clone() }
    }

    /// The same app and token on another account, one that is shared with us.
    #[must_use]
    pub fn on_account(&self, waba_id: impl Into<String>) -> Self {
        self.with_account(waba_id, self.business_id(), self.account.token.clone())
    }

    /// Give up on an answer sooner than the usual 30 s (180 s for files): where somebody waits, and in tests.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { wire: self.wire.with_patience(patience), ..self }
    }

    pub fn app_id(&self) -> &str {
        &self.app.id
    }
    pub fn waba_id(&self) -> &str {
        &self.account.waba_id
    }
    pub fn business_id(&self) -> &str {
        &self.account.business_id
    }

    /// How much of the call budgets was used at the last answer that told (1.4).
    pub fn usage(&self) -> Usage {
        self.usage.lock().map(|usage| usage.clone()).unwrap_or_default()
    }

    async fn call(&self, call: Call) -> Result<(Reply, Effect), Failure> {
        let effect = call.effect();
        let token = &self.account.token;
        let call = if self.app.proves { call.query("appsecret_proof", proof(&self.app.secret, token)) } else { call };
        let reply = self.wire.send(token, call).await?;
        if let Some(told) = usage::read(&reply)
            && let Ok(mut usage) = self.usage.lock()
        {
            usage.update(told);
        }
        if reply.succeeded() { Ok((reply, effect)) } else { Err(errors::sort(&reply, effect)) }
    }

    async fn get<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let (reply, effect) = self.call(call).await?;
        reply.decode(effect)
    }

    /// A call whose answer is `{"success":true}`.
    async fn done(&self, call: Call) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Done {
            #[serde(default)]
            success: Option<Value>,
        }
        let (reply, effect) = self.call(call).await?;
        match reply.decode::<Done>(effect)?.success {
            Some(Value::Bool(false)) => Err(Failure::rejected("Meta answered success: false").code("not_done")),
            _ => Ok(()),
        }
    }

    /// Every page of a cursor list; `call` makes the call anew for each.
    async fn all<T: DeserializeOwned>(&self, call: impl Fn() -> Call) -> Result<Vec<T>, Failure> {
        #[derive(Deserialize)]
        #[serde(bound = "T: DeserializeOwned")]
        struct Listed<T> {
            #[serde(default = "Vec::new")]
            data: Vec<T>,
            #[serde(default)]
            paging: Option<Paging>,
        }
        #[derive(Deserialize)]
        struct Paging {
            #[serde(default)]
            cursors: Option<Cursors>,
            #[serde(default)]
            next: Option<String>,
        }
        #[derive(Deserialize)]
        struct Cursors {
            #[serde(default)]
            after: Option<String>,
        }
        let mut rows = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut page: Listed<T> = self.get(call().query("limit", PAGE_SIZE).query_if("after", after.as_ref())).await?;
            rows.append(&mut page.data);
            let next = page.paging.filter(|paging| paging.next.is_some()).and_then(|paging| paging.cursors?.after);
            match next {
                Some(next) if after.as_ref() != Some(&next) => after = Some(next),
                _ => return Ok(rows),
            }
        }
        Err(Failure::rejected(format!("a list of Meta's is longer than {PAGES_MAX} pages")))
    }
}

/// Lower-case hex of HMAC-SHA256 over the token under the app secret (1.2).
pub fn proof(app_secret: &SecretString, token: &SecretString) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(app_secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length");
    mac.update(token.expose_secret().as_bytes());
    hex::encode(mac.finalize().into_bytes())
}
