//! Nouns and rules of Ligne: no I/O, no clock, no chance.

pub mod billing;
pub mod display_name;
pub mod failure;
pub mod hash_chain;
pub mod id;
pub mod identity;
pub mod invalid;
pub mod legal;
pub mod limits;
pub mod media;
pub mod message;
pub mod money;
pub mod otp;
pub mod phone;
pub mod problem;
pub mod profile;
pub mod provider;
pub mod quiet_hours;
pub mod rates;
pub mod seller;
pub mod stopword;
pub mod template;

pub use failure::{Failure, Kind};
pub use id::{ContactId, InvoiceId, KeyId, LineId, MessageId, TemplateId, TenantId};
pub use invalid::Invalid;
pub use phone::{Country, Language, Phone};
pub use profile::Profile;
pub use provider::Provider;
