//! The front over real HTTP, on a database of its own per test.
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod access;
mod billing;
mod console;
mod cors;
mod documents;
mod idempotency;
mod intake;
mod lines;
mod media;
mod messages;
mod service;
mod sockets;
mod stream;
mod tenants;
mod webhooks;
