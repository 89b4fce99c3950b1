//! The code of members of a replication group.
//!
//! A group repairs itself: a member is never a dead primary, and its semi-sync and `read_only` are not judged. What
//! remains are replicas outside the group that lost their source with a member, and a group of which no member answers.

use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::topology::Topology;

use super::evidence;
use super::node::{group_of, members, representative};
use super::primary::{doubt_about_death, split};

/// The code of a group member with one sentence for the operator.
pub(super) fn judge(topology: &Topology, key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    let name = group_of(topology, key)?;
    if evidence.last_check_valid {
        return split(topology, key);
    }
    let failure = evidence.failure.as_ref()?;
    let count = evidence.replica_count();
    let lost_replicas = count > 0 && evidence.receiving_replicas == 0 && doubt_about_death(failure, evidence).is_none();
    if lost_replicas {
        return Some((
            Code::DeadReplicationGroupMemberWithReplicas,
            format!(
                "{key}, a member of the replication group {name}, is unreachable ({failure}) and none of its {count} replicas receives"
            ),
        ));
    }
    let none_answers = members(topology, name).all(|member: &Instance| member.failure.is_some());
    (none_answers && representative(topology, key) == *key).then(|| {
        (
            Code::UnreachableMaster,
            format!("no known member of the replication group {name} answers; {key}: {failure}"),
        )
    })
}

/// The finding for a primary that changed because its replication group chose another member; `None` when the two
/// servers are not members of one group. There is nothing to repair.
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
