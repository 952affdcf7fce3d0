//! Clients and webhook types for Telnyx and Meta: what they really send, sorted into what may be done about it.

mod loose;
pub mod meta;
pub mod meta_hook;
mod signature;
pub mod telnyx;
pub mod telnyx_hook;
mod wire;

pub use loose::Price;
pub use meta::Meta;
pub use meta_hook::{MetaEvent, MetaNews};
pub use signature::{KeyError, ParseError, SignatureError};
pub use telnyx::Telnyx;
pub use telnyx_hook::{TelnyxEvent, TelnyxNews};
