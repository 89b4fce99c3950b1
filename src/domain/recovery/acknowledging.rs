//! Which replicas of a semi-sync source should acknowledge.
//!
//! As in orchestrator: those that answer, are not in downtime and replicate; ranked by the priority that
//! `DetectSemiSyncEnforcedQuery` gives (higher first, 0 is never), then by promotion rule, then by address. Without the query every
//! replica that can is asked alike. Among equals one that acknowledges already comes first, so that nothing is switched for nothing.

use std::cmp::Reverse;

use crate::domain::analysis::evidence::{is_downtimed, is_replicating};
use crate::domain::instance::{Instance, SemiSync};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

/// What a problem of a probe begins with when the query for the priority failed.
pub(crate) const PRIORITY_PART: &str = "semi-sync priority query";

/// The replicas of a source, sorted by what they are to semi-sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Acknowledging {
    /// May acknowledge, the best first.
    pub(super) ranked: Vec<InstanceKey>,
    /// Are set to acknowledge and receive.
    pub(super) active: Vec<InstanceKey>,
    /// Are set to acknowledge although their priority is 0.
    pub(super) unwanted: Vec<InstanceKey>,
}

/// Looks at the direct replicas of a source.
pub(super) fn acknowledging(topology: &Topology, source: &InstanceKey, policy: &Policy) -> Acknowledging {
    let mut found = Acknowledging::default();
    let mut ranked = Vec::new();
    for replica in topology.replicas_of(source).filter(|replica| is_replicating(replica)) {
        let Some(facts) = replica.valid_facts() else { continue };
        let semi_sync = &facts.semi_sync;
        let key = &replica.key;
        if acknowledges(replica) {
            found.active.push(key.clone());
        }
        if semi_sync.priority == Some(0) {
            if semi_sync.replica_enabled {
                found.unwanted.push(key.clone());
            }
            continue;
        }
        // A priority that could not be read may be 0.
        let is_unknown = facts.problems.iter().any(|problem| problem.starts_with(PRIORITY_PART));
        let is_able = semi_sync.available || semi_sync.replica_enabled;
        if is_unknown || !is_able || is_downtimed(topology, policy, key) {
            continue;
        }
        let rule = policy.promotion_rules.get(key).copied().unwrap_or_default();
        ranked.push((Reverse(semi_sync.priority), rule, !acknowledges(replica), key.clone()));
    }
    ranked.sort();
    found.ranked = ranked.into_iter().map(|(.., key)| key).collect();
    found
}

/// Set to acknowledge, and seen to do so.
pub(super) fn acknowledges(replica: &Instance) -> bool {
    replica
        .valid_facts()
        .is_some_and(|facts| facts.semi_sync.replica_enabled && facts.semi_sync.replica_active)
}

/// How many acknowledgements a commit of this source waits for at present; `None` when it waits for none.
pub(super) fn waited_for(semi_sync: &SemiSync) -> Option<usize> {
    let count = usize::try_from(semi_sync.wait_for_count).ok()?;
    (semi_sync.source_enabled && count > 0).then_some(count)
}
