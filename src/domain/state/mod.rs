//! The replicated state: what every member knows alike, and the commands that change it.
//!
//! Applying a command is a pure function of state and command: no clock, no probe, no HTTP. The store writes the changed records into
//! the backend's tables in the same transaction as the log position.

pub mod apply;
#[cfg(test)]
mod apply_tests;
pub(crate) mod audit;
mod bounds;
pub mod claims;
pub mod command;
mod hooks;
mod lost;
pub mod policy;
pub mod record;
pub mod request;
#[cfg(test)]
pub(crate) mod sample;

pub use apply::{Change, apply};
pub use command::{Applied, Claim, Command, Ending, Proposal, RefusedCommand};
pub use lost::{LOST_IN_RECOVERY, lost};
pub use policy::{ClusterFilter, ClusterFilterError, PolicySettings, policy_of};
pub use record::{
    ClaimToken, Cluster, Document, Epoch, Group, MemberId, Phase, Quarantine, QuarantineState, Recovery, Seed, State,
};
pub use request::{Request, RequestKind, RequestOutcome, RequestStanding, request_key};

/// Lines kept of one recovery: enough for any recovery that ends, bounded for one that does not.
pub const MAX_STEPS: usize = 500;
/// Ended recoveries kept.
pub const MAX_RECOVERIES: usize = 1000;
/// Entries of the audit kept.
pub const MAX_AUDIT: usize = 1000;
/// Detections kept.
pub const MAX_DETECTIONS: usize = 1000;
/// Refused recoveries kept.
pub const MAX_BLOCKED: usize = 1000;
/// Forgotten addresses kept; the one whose time comes first is discovered again.
pub const MAX_FORGOTTEN: usize = 10_000;
/// Requests of documents kept, more than any fleet has documents; only those whose time is over are forgotten.
pub const MAX_REQUESTS: usize = 10_000;
/// Seeds accepted, more than any fleet has clusters.
pub const MAX_SEEDS: usize = 10_000;
/// Members remembered, those that left included.
pub const MAX_MEMBERS: usize = 1000;
/// Errors kept of one recovery: one for each replica of a large cluster.
pub const MAX_ERRORS: usize = 200;

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
