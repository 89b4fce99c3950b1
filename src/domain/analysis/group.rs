//! The code of members of a replication group.
//!
//! A group repairs itself: a member is never a dead primary, and nothing is said of its semi-sync or its `read_only`. What remains is
//! the replicas outside the group that lost their source with a member, and a group of which nobody answers.

use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

use super::evidence;
use super::node::{group_of, members, representative};
use super::primary::{no_evidence_of_death, split};

/// The code of a group member, with one sentence for people.
pub(super) fn judge(topology: &Topology, key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    let name = group_of(topology, key)?;
    if evidence.last_check_valid {
        return split(topology, key);
    }
    let failure = evidence.failure.as_ref()?;
    let count = evidence.replica_count();
    let lost_replicas =
        count > 0 && evidence.receiving_replicas == 0 && no_evidence_of_death(failure, evidence).is_none();
    if lost_replicas {
        return Some((
            Code::DeadReplicationGroupMemberWithReplicas,
            format!(
                "{key}, a member of the replication group {name}, is unreachable ({failure}) and none of its {count} replicas receives"
            ),
        ));
    }
    let is_silent = members(topology, name).all(|member: &Instance| member.failure.is_some());
    (is_silent && representative(topology, key) == *key).then(|| {
        (
            Code::UnreachableMaster,
            format!("no known member of the replication group {name} answers; {key}: {failure}"),
        )
    })
}

/// What is told when the primary of a cluster is another member of the replication group that the old one belongs to; `None` when the
/// two are not members of one group. The group has chosen: there is nothing to repair.
pub fn choice(topology: &Topology, policy: &Policy, from: &InstanceKey, to: &InstanceKey) -> Option<Finding> {
    let from = topology.resolve(from);
    let name = group_of(topology, from).filter(|name| group_of(topology, to) == Some(name))?;
    let mut evidence = evidence::evidence(topology, policy, from);
    evidence.is_primary = true;
    let was = match &evidence.failure {
        Some(failure) => format!(", which is unreachable ({failure})"),
        None => String::new(),
    };
    Some(Finding {
        code: Code::GroupPrimaryChanged,
        instance: from.clone(),
        cluster: topology.cluster.clone(),
        description: format!("the replication group {name} has chosen {to} as its primary, after {from}{was}"),
        downtimed: evidence::is_downtimed(topology, policy, from),
        replicas_downtimed: false,
        structure: Vec::new(),
        evidence,
    })
}
