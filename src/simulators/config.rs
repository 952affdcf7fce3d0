//! Who the simulated accounts belong to, where their webhooks go, and how fast the world moves.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

use crate::faults::{Hostility, Profile};

/// Everything that can be chosen before the start. The default suits tests: free ports, smooth, fast.
#[derive(Debug, Clone)]
pub struct Config {
    pub telnyx_listen: SocketAddr,
    pub meta_listen: SocketAddr,
    /// Makes ids, codes and keys the same in every run that makes the same calls.
    pub seed: u64,
    pub profile: Profile,
    pub hostility: Hostility,
    pub bodies: Bodies,
    pub delays: Delays,
    pub hooks: HookUrls,
    pub telnyx: TelnyxAccount,
    pub meta: MetaAccount,
}

impl Default for Config {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            telnyx_listen: any,
            meta_listen: any,
            seed: 1,
            profile: Profile::Smooth,
            hostility: Hostility::default(),
            bodies: Bodies::Lifelike,
            delays: Delays::default(),
            hooks: HookUrls::default(),
            telnyx: TelnyxAccount::default(),
            meta: MetaAccount::default(),
        }
    }
}

/// How Telnyx writes what it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bodies {
    /// Left out, as the published schema wants it.
    Strict,
    /// As `null`, as captured from the real service.
    Lifelike,
}

/// Waits, in milliseconds of virtual time.
#[derive(Debug, Clone, Copy)]
pub struct Delays {
    /// From order to its end.
    pub order_ms: u64,
    /// From the order's success to the number's appearance.
    pub number_ms: u64,
    /// Review of documents.
    pub papers_ms: u64,
    /// From a code request to the call or text.
    pub call_ms: u64,
    pub utterance_ms: u64,
    /// From hang-up to the saved recording.
    pub recording_ms: u64,
    /// From registration to CONNECTED.
    pub connect_ms: u64,
    pub name_review_ms: u64,
    pub template_review_ms: u64,
    /// Between a message's acceptance and `sent`, and again to `delivered` and `read`.
    pub status_ms: u64,
    /// Meta changes within this time share a webhook.
    pub batch_ms: u64,
    /// First gap between webhook tries; it doubles.
    pub hook_retry_ms: u64,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            order_ms: 200,
            number_ms: 50,
            papers_ms: 3_600_000,
            call_ms: 100,
            utterance_ms: 50,
            recording_ms: 50,
            connect_ms: 100,
            name_review_ms: 300,
            template_review_ms: 300,
            status_ms: 50,
            batch_ms: 10,
            hook_retry_ms: 1_000,
        }
    }
}

/// Where webhooks go; nothing is sent to an empty URL.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookUrls {
    pub telnyx_voice: String,
    pub telnyx_messages: String,
    pub telnyx_orders: String,
    pub meta: String,
}

impl HookUrls {
    /// The two routes of a service, from its base URL.
    pub fn of_service(base: &str) -> Self {
        let base = base.trim_end_matches('/');
        let telnyx = format!("{base}/webhooks/telnyx");
        Self {
            telnyx_voice: telnyx.clone(),
            telnyx_messages: telnyx.clone(),
            telnyx_orders: telnyx,
            meta: format!("{base}/webhooks/whatsapp"),
        }
    }
}

/// The account at Telnyx. The status fields choose between what is reported of the real service.
#[derive(Debug, Clone)]
pub struct TelnyxAccount {
    pub api_key: String,
    /// The voice app that exists from the start.
    pub connection_id: String,
    pub messaging_profile_id: String,
    pub balance_cents: i64,
    /// HTTP status of 85001: 409 or 422.
    pub taken_status: u16,
    /// HTTP status of 20100: 402, 403 or 422.
    pub poor_status: u16,
    /// Tries per webhook.
    pub webhook_tries: u32,
    /// Our own base URL, for links; set at the start.
    pub(crate) url: String,
}

impl Default for TelnyxAccount {
    fn default() -> Self {
        Self {
            api_key: "KEY_simulated".into(),
            connection_id: "2301234567890123456".into(),
            messaging_profile_id: "16fd2706-8baf-433b-82eb-8c7fada847da".into(),
            balance_cents: 1_000_000,
            taken_status: 422,
            poor_status: 422,
            webhook_tries: 3,
            url: String::new(),
        }
    }
}

/// The app, the portfolio and the account at Meta.
#[derive(Debug, Clone)]
pub struct MetaAccount {
    pub app_id: String,
    pub app_secret: String,
    pub verify_token: String,
    pub system_token: String,
    pub business_id: String,
    pub waba_id: String,
    /// Numbers that the portfolio may hold. The real ones are 2 and 20; tests need more.
    pub number_cap: usize,
    /// Code requests for one number closer than this are refused, in seconds.
    pub code_gap_s: u32,
    /// Whether the app is subscribed from the start.
    pub subscribed: bool,
    /// Users that the portfolio may write to in 24 hours, outside their windows. The real tiers are 250 to 100,000 and none.
    pub tier: usize,
    /// Free service messages of a number in a month.
    pub free_service_messages: u32,
}

impl MetaAccount {
    pub(crate) fn tier_name(&self) -> &'static str {
        match self.tier {
            0..=250 => "TIER_250",
            251..=2_000 => "TIER_2K",
            2_001..=10_000 => "TIER_10K",
            10_001..=100_000 => "TIER_100K",
            _ => "TIER_UNLIMITED",
        }
    }

    pub(crate) fn code_gap(&self) -> TimeDelta {
        TimeDelta::seconds(self.code_gap_s.into())
    }
}

impl Default for MetaAccount {
    fn default() -> Self {
        Self {
            app_id: "610000000000001".into(),
            app_secret: "simulated-app-secret".into(),
            verify_token: "simulated-verify-token".into(),
            system_token: "EAAsimulatedSystemToken".into(),
            business_id: "710000000000001".into(),
            waba_id: "401122334455667".into(),
            number_cap: 10_000,
            code_gap_s: 50,
            subscribed: false,
            tier: 100_000,
            free_service_messages: 1_000,
        }
    }
}
