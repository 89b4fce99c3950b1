//! The replicated state, which is the same on every member, and the commands that change it.
//!
//! Applying a command is a pure function of state and command: no clock, no probe, no HTTP. The store writes the
//! changed records into the backend's tables in the same transaction as the log position.

pub mod apply;
#[cfg(test)]
mod apply_tests;
pub(crate) mod audit;
mod bounds;
pub mod claims;
mod clock;
mod clusters;
pub mod command;
pub mod failed_repairs;
mod hooks;
mod lost_replicas;
pub mod policy;
pub mod record;
pub mod request;
#[cfg(test)]
pub(crate) mod sample;

pub use apply::{Change, apply};
pub use command::{Applied, Claim, Command, Ending, Proposal, RefusedCommand};
pub use lost_replicas::{LOST_IN_RECOVERY, lost_replicas};
pub use policy::{ClusterFilter, ClusterFilterError, PolicySettings, policy_of};
pub use record::{
    ClaimToken, Cluster, Document, Epoch, Group, MemberId, Phase, Quarantine, QuarantineState, Recovery, Seed, State,
};
pub use request::{Request, RequestKind, RequestOutcome, RequestProgress, request_key};

/// Most record lines of one recovery: enough for any recovery that ends, and a limit for one that does not.
pub const MAX_STEPS: usize = 500;
/// Most recoveries. Those that run are kept whatever their number; of those that ended, failed repairs are dropped first.
pub const MAX_RECOVERIES: usize = 1000;
/// Most audit entries.
pub const MAX_AUDIT: usize = 1000;
/// Most detections.
pub const MAX_DETECTIONS: usize = 1000;
/// Most records of blocked recoveries.
pub const MAX_BLOCKED: usize = 1000;
/// Most forgotten addresses; the one with the earliest expiry is dropped first.
pub const MAX_FORGOTTEN: usize = 10_000;
/// Most requests of documents, more than any fleet has documents; only requests that cannot be acted on again are
/// dropped.
pub const MAX_REQUESTS: usize = 10_000;
/// Most seeds, more than any fleet has clusters.
pub const MAX_SEEDS: usize = 10_000;
/// Most members, including those that left.
pub const MAX_MEMBERS: usize = 1000;
/// Most errors of one recovery: one for each replica of a large cluster.
pub const MAX_ERRORS: usize = 200;

/// Intents as a list in JSON, because their key is a struct.
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
