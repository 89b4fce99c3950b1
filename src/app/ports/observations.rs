//! What members that share the probes send to each other.
//!
//! A member asks every other member again and again for what it observed. The answer is held back for a moment, unless there is
//! something urgent, and carries ages: monotonic times mean nothing in another process.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::instance::ProbeFailure;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::probe_assignment::AssignmentVersion;
use crate::domain::state::MemberId;

/// The most observations in one answer.
pub const MAX_OBSERVATIONS: usize = 2000;
/// The most bytes of observations in one answer, apart from the first one.
pub const MAX_OBSERVATION_BYTES: usize = 1024 * 1024;
/// The most instances in an assignment.
pub const MAX_ASSIGNED: usize = 100_000;

/// A request for the observations of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservationRequest {
    /// The stream of the member that was received so far; 0: none.
    pub stream: u64,
    /// The version of that stream up to which everything was received; 0: send all.
    pub after: u64,
    /// The first transfer of the stream is not complete: observations that were not sent yet are to be sent with all fields.
    #[serde(default)]
    pub is_filling: bool,
    /// The assignment that the asking member has.
    #[serde(default)]
    pub assignment: Option<AssignmentVersion>,
}

/// The answer: what changed since the requested version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservationUpdate {
    /// The stream. Another one than the requested one begins anew: the member was started again.
    pub stream: u64,
    /// The version up to which everything was sent.
    pub version: u64,
    /// The stream begins with this answer: what was received before does not count any more.
    pub is_whole: bool,
    /// More is to be sent than fits into one answer.
    pub has_more: bool,
    /// For how long the answer was held back, milliseconds, rounded down.
    pub held_millis: u64,
    /// The observations, in the order of their versions.
    pub observations: Vec<SharedObservation>,
    /// The size of the answer as it was received, bytes.
    #[serde(skip)]
    pub received_bytes: u64,
    /// From the leader: the assignment that holds now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment: Option<AssignmentOffer>,
}

/// The assignment that a leader confirms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignmentOffer {
    /// Its version.
    pub version: AssignmentVersion,
    /// The instances of each member; `None` when the asking member has this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<BTreeMap<MemberId, Vec<InstanceKey>>>,
}

/// One observation of the member that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedObservation {
    /// The probed address.
    pub key: InstanceKey,
    /// The origin of the account that was used.
    pub account: Origin,
    /// How long ago the probe began when the answer was made, milliseconds, rounded up.
    pub begun_millis_ago: u64,
    /// How long ago it ended, milliseconds, rounded up.
    pub ended_millis_ago: u64,
    /// How long it took, microseconds.
    pub micros: u64,
    /// What it showed.
    pub outcome: SharedOutcome,
}

/// What a shared probe or pulse showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SharedOutcome {
    /// The server answered.
    #[serde(rename_all = "camelCase")]
    Facts {
        /// All fields of the facts are in `set`. Otherwise only those that changed since the requested version.
        is_complete: bool,
        /// Fields of the facts.
        set: Map<String, Value>,
        /// Fields that the facts no longer have.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<String>,
    },
    /// The probe failed.
    Failed(ProbeFailure),
    /// A pulse failed, or an open connection broke. The probe that decides is not over yet.
    Doubted,
}

/// Answers the requests of other members for observations. `app` implements it, the consensus adapter calls it.
#[async_trait]
pub trait ObservationSource: Send + Sync {
    /// What changed since the requested version, at the latest after a fraction of a second.
    async fn observations(&self, request: ObservationRequest) -> ObservationUpdate;
}
