//! What the choice of a successor takes into account beyond topology and policy.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::gtid::GtidSet;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::refusal::RefusalReason;
use crate::domain::time::WallTime;

/// What a choice takes into account beyond view and policy.
#[derive(Clone, Debug, Default)]
pub struct ChoiceInputs {
    /// Servers that are no candidates now (their receiver runs, they could not apply); what they hold still counts as known.
    pub excluded: BTreeMap<InstanceKey, RefusalReason>,
    /// Pairs of a successor and a replica from which it failed to catch up.
    pub not_caught_up: BTreeSet<(InstanceKey, InstanceKey)>,
    /// Replicas that this recovery has pointed at another one; they need a new source as the old primary's own do.
    pub moved: BTreeSet<InstanceKey>,
    /// Replicas that delayed on purpose when this recovery was planned, by so many seconds: it may have lifted their
    /// delay since.
    pub delays: BTreeMap<InstanceKey, u64>,
    /// What the members remember of the old primary's transactions.
    pub remembered: Option<GtidSet>,
    /// The replicas with stopped receivers: their positions no longer move. `None` before any receiver is stopped: then
    /// each one that answers counts.
    pub receivers_stopped: Option<BTreeSet<InstanceKey>>,
    /// The old primary confirmed that it is read-only, and its transactions were read after that.
    pub is_old_primary_read: bool,
    /// The old primary is a successor that was chosen and never seen open
    /// ([`Code::SuccessorLost`](crate::domain::finding::Code::SuccessorLost)).
    pub succeeds_lost_successor: bool,
    /// The server that is chosen before all others that would hold as much, after it caught up where that is needed.
    pub preferred: Option<PreferredSuccessor>,
    /// Now.
    pub now: WallTime,
}

/// A server that is promoted before all others that would hold as much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreferredSuccessor {
    /// The server.
    pub instance: InstanceKey,
    /// Why it is preferred.
    pub why: PreferenceReason,
}

/// Why a server is preferred to all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreferenceReason {
    /// A manual request named it.
    Named,
    /// The failed primary and it replicate from each other.
    CoPrimary,
}

impl std::fmt::Display for PreferenceReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Named => "was named",
            Self::CoPrimary => "is the other co-primary",
        })
    }
}

impl ChoiceInputs {
    /// Nothing but the time.
    pub fn at(now: WallTime) -> Self {
        Self { now, ..Self::default() }
    }

    /// Whether this server is preferred to all others.
    pub(super) fn prefers(&self, key: &InstanceKey) -> bool {
        self.preferred
            .as_ref()
            .is_some_and(|preferred| preferred.instance == *key)
    }
}
