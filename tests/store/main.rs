//! The backend on SQLite, MySQL and MariaDB: one suite for all of them, and what only a server can do.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, in its own helper functions too"
)]

mod backends;
mod deployment;
mod instances;
mod orchestrator;
#[path = "../servers_adapter/server.rs"]
mod server;
mod shared;
mod statements;
mod suite;
