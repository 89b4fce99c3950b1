//! ham4db keeps MySQL and MariaDB replication topologies writable.
//!
//! The layers, and who may use whom: `main, cli → adapter → app → domain`; see ARCHITECTURE.md. `tests/architecture.rs` holds the table.

pub mod adapter;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod resource;

#[cfg(test)]
mod testkit;
