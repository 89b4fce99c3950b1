//! The HTTP API, the client and the configuration, each against fakes with a fixed topology: the four MariaDB servers of the recorded
//! samples in `samples/`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails where it stands"
)]

mod access;
mod audit;
mod client;
mod client_leader;
mod config;
mod errors;
mod fixture;
mod group;
mod health_port;
mod leadership;
mod member;
mod proxy;
mod reading;
mod records;
mod relocate;
mod samples;
mod writing;
