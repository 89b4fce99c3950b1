//! The MySQL adapter against real servers: MySQL and MariaDB, a primary and a replica each.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may stop at the first surprise, in its own helper functions too"
)]

mod delays;
mod failover;
mod failures;
mod gtid_oracle;
mod recorded;
mod server;
mod settings;
mod watched;
