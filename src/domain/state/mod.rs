//! The replicated state: what every member knows alike, and the commands that change it.
//!
//! Applying a command is a pure function of state and command: no clock, no probe, no HTTP. The store writes the changed records into
//! the backend's tables in the same transaction as the log position.

pub mod apply;
#[cfg(test)]
mod apply_tests;
pub mod claims;
pub mod command;
pub mod policy;
pub mod record;
#[cfg(test)]
pub(crate) mod sample;

pub use apply::{Change, apply};
pub use command::{Applied, Claim, Command, Ending, Proposal, RefusedCommand};
pub use policy::{ClusterFilter, ClusterFilterError, PolicySettings, policy_of};
pub use record::{
    ClaimToken, Cluster, Document, Epoch, Group, MemberId, Phase, Quarantine, QuarantineState, Recovery, Seed, State,
};

/// Lines kept of one recovery: enough for any recovery that ends, bounded for one that does not.
pub const MAX_STEPS: usize = 500;
/// Ended recoveries kept.
pub const MAX_RECOVERIES: usize = 1000;
/// Detections kept.
pub const MAX_DETECTIONS: usize = 1000;

/// Intents as a list in JSON: their key is a struct.
pub(crate) mod intents_as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::domain::intent::{Intent, IntentId};

    pub(crate) fn serialize<S: Serializer>(
        intents: &BTreeMap<IntentId, Intent>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(intents.values())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<IntentId, Intent>, D::Error> {
        Ok(Vec::<Intent>::deserialize(deserializer)?
            .into_iter()
            .map(|intent| (intent.id(), intent))
            .collect())
    }
}
