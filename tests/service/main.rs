//! Told against the real program: its processes are started, killed, frozen and starved of their database.
//!
//! One binary, so that it links once. Each test has a database, simulators and processes of its own; the database server is
//! that of `DATABASE_URL`, except where a test must stop it.

mod billing;
mod books;
mod campaign;
mod chaos;
mod clock;
mod commands;
mod configuration;
mod crashes;
mod database;
mod installation;
#[path = "../../src/process.rs"]
#[allow(dead_code, reason = "shared with the program, which uses the rest")]
mod process;
