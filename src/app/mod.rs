//! The use cases and their loops. They define the ports and own the time; decisions are in `domain`, effects in adapters.

pub mod api;
pub mod changelog;
pub mod claim;
pub mod declare;
mod desk;
pub mod documents;
mod drive;
pub mod errant;
mod failpoint;
pub mod filter;
pub mod hands;
pub mod hooks;
pub mod keeper;
pub mod leader;
pub mod observatory;
pub mod opinions;
pub mod picture;
pub mod ports;
pub mod quarantine;
mod queue;
pub mod reattach;
pub mod recover;
mod refresh;
pub mod service;
pub mod settings;
mod status_pace;
pub mod watch;
