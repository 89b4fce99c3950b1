//! ham4db keeps MySQL and MariaDB replication topologies writable.
//!
//! The layers are `main, cli → adapter → app → domain`: a layer uses only layers to its right. ARCHITECTURE.md describes them, and
//! `tests/architecture.rs` has the table of allowed imports.

pub mod adapter;
pub mod app;
pub mod cli;
pub mod client;
pub mod config;
pub mod domain;
pub mod resource;

#[cfg(test)]
mod testkit;
