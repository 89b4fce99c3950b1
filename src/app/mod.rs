//! The use cases and their loops, as seven subsystems. They define the ports and read the clock. Decisions are in
//! `domain`, effects are in adapters.
//!
//! A subsystem may import the ones below it in this list and never one above: `api`, `leader`, `declarative`,
//! `recovery`, `cluster`, `observation`, `ports`. `tests/architecture.rs` holds the rule.

pub mod api;
pub mod cluster;
pub mod declarative;
pub mod filter;
pub mod group_clock;
pub mod leader;
pub mod observation;
pub mod ports;
pub mod recovery;
pub mod settings;
pub mod supervision;
