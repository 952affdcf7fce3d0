//! The clients against a provider written here: real HTTP, every way it can end.

mod failures;
mod meta;
mod server;
mod telnyx;
