//! The code of members of a replication group.
//!
//! A group repairs itself: a member is never a dead primary, and nothing is said of its semi-sync or its `read_only`. What remains is
//! the replicas outside the group that lost their source with a member, and a group of which nobody answers.

use crate::domain::finding::{Code, Evidence};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

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
