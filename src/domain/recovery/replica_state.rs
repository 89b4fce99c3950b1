//! The state of servers as a plan records it before a step changes it: the replication threads of a replica, and whether the old primary
//! was writable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::instance::{Channel, Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

/// How a replica was set up when a plan was made, beyond its source. The default is a replica that receives, and
/// applies at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PriorReplicaState {
    /// Its receiver thread was stopped.
    pub stopped: bool,
    /// Its configured delay, seconds.
    pub delay_seconds: u64,
}

/// What was last seen of an old primary when a plan was made. An undo makes it writable only when it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriorPrimaryState {
    /// It took writes.
    pub writable: bool,
    /// The start time of its process, as [`InstanceFacts::started`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<i64>,
}

impl PriorPrimaryState {
    /// As a server reported it last.
    pub(super) fn of(facts: &InstanceFacts) -> Self {
        Self {
            writable: facts.is_writable(),
            started: facts.started,
        }
    }

    /// As a server was last seen; `None` when it was never seen.
    pub(super) fn last_seen(topology: &Topology, key: &InstanceKey) -> Option<Self> {
        Some(Self::of(topology.get(key)?.facts.as_ref()?))
    }
}

impl PriorReplicaState {
    /// As the channel is set now; `None` for a replica that receives and applies at once.
    pub(super) fn of(channel: &Channel) -> Option<Self> {
        let state = Self {
            stopped: channel.io == ThreadState::Stopped,
            delay_seconds: channel.delay_seconds,
        };
        (state != Self::default()).then_some(state)
    }
}

/// The state of every descendant of `old_primary` that is not simply replicating.
pub(super) fn prior_states_below(
    topology: &Topology,
    old_primary: &InstanceKey,
) -> BTreeMap<InstanceKey, PriorReplicaState> {
    topology
        .descendants_of(old_primary)
        .into_iter()
        .filter_map(|replica| {
            let channel = replica.valid_facts()?.managed_channel()?;
            Some((replica.key.clone(), PriorReplicaState::of(channel)?))
        })
        .collect()
}

/// Whether the receiver thread is seen stopped.
pub(super) fn is_receiver_stopped(replica: &Instance) -> bool {
    replica
        .valid_facts()
        .and_then(InstanceFacts::managed_channel)
        .is_some_and(|channel| channel.io == ThreadState::Stopped)
}
