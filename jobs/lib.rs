//! One file, one unit of work; and the tools that jobs and workflows are given.

pub mod capture;
mod deliver_callback;
mod expire_charges;
mod fetch_media;
mod forget_messages;
mod forget_old;
mod learn_account;
mod learn_template;
mod pin;
mod queue_messages;
pub mod reconcile;
pub mod run_lane;
mod signals;
mod sweep_orphans;
mod take_webhook;
mod take_whatsapp;
mod upload_media;
mod wake_lanes;
mod watch_inbox;

pub use deliver_callback::{DeliverCallback, call_back};
pub use expire_charges::ExpireCharges;
pub use fetch_media::FetchMedia;
pub use forget_messages::ForgetMessages;
pub use forget_old::ForgetOld;
pub use learn_account::{free as free_account, resume_line};
pub use learn_template::learn_template;
pub use pin::new_pin;
pub use queue_messages::{Queued, RowProblem, SentAgain, queue_messages, send_again};
pub use signals::{LookAgain, NameReviewed, OrderSettled, OtpArrived, TemplateReviewed};
pub use sweep_orphans::SweepOrphans;
pub use take_webhook::TakeWebhook;
pub use take_whatsapp::TakeWhatsapp;
pub use upload_media::UploadMedia;
pub use wake_lanes::WakeLanes;
pub use watch_inbox::WatchInbox;

use domain::seller::Seller;
use durable::Clock;
use providers::{Meta, Telnyx};
use secrecy::SecretString;
use sqlx::PgPool;
use vault::Vault;

/// What every job and workflow works with. One per process.
pub struct Tools {
    pub db: PgPool,
    pub clock: Clock,
    pub vault: Vault,
    pub telnyx: Telnyx,
    /// On our own account, which virtual lines join.
    pub meta: Meta,
    pub settings: Settings,
    /// Keeps what sends came to, of all lanes together.
    pub outcomes: run_lane::Recorder,
}

/// What is neither a client nor a key.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Signs outgoing callbacks: `whsec_` and base64 (`LIGNE_CALLBACK_SECRET`).
    pub callback_secret: SecretString,
    /// Who issues the invoices (`LIGNE_SELLER`).
    pub seller: Seller,
}
