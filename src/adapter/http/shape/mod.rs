//! The JSON that orchestrator's clients parse: names and types as in its API, with old words and misspelt names.
//!
//! The shapes decide nothing; the values come from [`crate::app::api`].

pub(super) mod analysis;
pub(super) mod audit;
pub(super) mod cluster;
pub(super) mod health;
pub(super) mod instance;
pub(super) mod opinion;
pub(super) mod recovery;
pub(super) mod undiscovered;
mod values;

pub(super) use values::{Coordinates, ENDLESS, Key, NEVER, NullBool, NullInt, key_or_empty, signed, time_text};
