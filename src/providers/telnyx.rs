//! Telnyx: numbers bought, configured and released, calls answered and recorded (contracts/telnyx.md).
//!
//! Ids are strings: 19-digit ones do not fit a float. Amounts are exact. Words that Telnyx may add to are open enums.

mod billing;
mod calls;
mod errors;
mod numbers;
mod orders;

pub use billing::{Balance, ChargedNumber, ChargedService, Charges, DetailRecords};
pub use calls::{
    Answering, CallLogEntry, CallLogQuery, Delivery, DeliveryQuery, Download, Ears, Recording, RecordingQuery, SpeechModel,
};
pub use errors::{ERRORS, ErrorRule, Sort, rule};
pub use numbers::{MessagingSettings, NumberPatch, NumberStatus, OwnedNumber, Release, SmsFeatures};
pub use orders::{
    Available, Coverage, FieldType, GroupStatus, NewOrder, NumberOrder, NumberType, OrderLine, OrderStatus, Requirement,
    RequirementGroup, RequirementState, RequirementStatus, Search, SubOrder, TypeCoverage,
};

use crate::{
    loose,
    wire::{Call, Effect, Reply, Wire},
};
use domain::Failure;
use secrecy::SecretString;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, sync::Arc, time::Duration};

/// Rows asked for in one page (contracts/telnyx.md 2.1: at most 250).
const PAGE_SIZE: u32 = 250;
/// Pages read by the calls that read them all; 250,000 rows.
const PAGES_MAX: u32 = 1_000;
/// Back-off where a throttle names none.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(5);

/// A Telnyx account. Cheap to clone; one connection pool.
#[derive(Clone)]
pub struct Telnyx {
    wire: Wire,
    account: Arc<Account>,
}

struct Account {
    key: SecretString,
    connection_id: String,
    messaging_profile_id: String,
}

impl fmt::Debug for Telnyx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telnyx").field("key", &"***").field("connection_id", &self.account.connection_id).finish_non_exhaustive()
    }
}

impl Telnyx {
    /// `base_url` with its `/v2`. `connection_id` is the voice app's id; an empty `messaging_profile_id` means voice only.
    pub fn new(
        base_url: &str,
        api_key: SecretString,
        connection_id: impl Into<String>,
        messaging_profile_id: impl Into<String>,
    ) -> Result<Self, Failure> {
        let account =
            Account { key: api_key, connection_id: connection_id.into(), messaging_profile_id: messaging_profile_id.into() };
        Ok(Self {
            wire: Wire::new("telnyx", base_url, |reply| reply.header("x-request-id").map(str::to_owned))?,
            account: Arc::new(account),
        })
    }

    /// Give up on an answer sooner than the usual 30 s (180 s for files): where somebody waits, and in tests.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { wire: self.wire.with_patience(patience), ..self }
    }

    pub fn connection_id(&self) -> &str {
        &self.account.connection_id
    }

    /// `None` on a voice-only account.
    pub fn messaging_profile_id(&self) -> Option<&str> {
        Some(self.account.messaging_profile_id.as_str()).filter(|id| !id.is_empty())
    }

    async fn call(&self, call: Call) -> Result<(Reply, Effect), Failure> {
        let effect = call.effect();
        let reply = self.wire.send(&self.account.key, call).await?;
        if reply.succeeded() { Ok((reply, effect)) } else { Err(errors::sort(&reply, effect)) }
    }

    /// The `data` of an answer.
    async fn data<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        #[derive(Deserialize)]
        struct Wrapped<T> {
            data: T,
        }
        let (reply, effect) = self.call(call).await?;
        reply.decode::<Wrapped<T>>(effect).map(|wrapped| wrapped.data)
    }

    async fn page<T: DeserializeOwned>(&self, call: Call, number: u32, size: u32) -> Result<Page<T>, Failure> {
        #[derive(Deserialize)]
        #[serde(bound = "T: DeserializeOwned")]
        struct Listed<T> {
            data: Vec<T>,
            #[serde(default, deserialize_with = "loose::nullable")]
            meta: Meta,
        }
        #[derive(Deserialize, Default)]
        struct Meta {
            #[serde(default, deserialize_with = "loose::maybe_int")]
            total_pages: Option<i64>,
            #[serde(default, deserialize_with = "loose::maybe_int")]
            total_results: Option<i64>,
        }
        let (reply, effect) = self.call(call.query("page[number]", number).query("page[size]", size)).await?;
        let listed: Listed<T> = reply.decode(effect)?;
        let more = match listed.meta.total_pages {
            Some(pages) => i64::from(number) < pages,
            None => listed.data.len() == size as usize,
        };
        Ok(Page { total: listed.meta.total_results, next: more.then_some(number + 1), rows: listed.data })
    }

    /// Every page, one after the other; `call` makes the call anew for each.
    async fn all<T: DeserializeOwned>(&self, call: impl Fn() -> Call) -> Result<Vec<T>, Failure> {
        let mut rows = Vec::new();
        let mut number = 1;
        loop {
            let mut page = self.page(call(), number, PAGE_SIZE).await?;
            rows.append(&mut page.rows);
            match page.next {
                Some(next) if next <= PAGES_MAX => number = next,
                Some(_) => return Err(Failure::rejected(format!("a Telnyx list is longer than {PAGES_MAX} pages"))),
                None => return Ok(rows),
            }
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Rows in all, if Telnyx says.
    pub total: Option<i64>,
    /// The next page's number; `None` on the last.
    pub next: Option<u32>,
}
