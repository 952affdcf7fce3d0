//! The simulators, told over real HTTP.
#![allow(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod faults;
mod messages;
mod provisioning;
mod service;
mod windows;
