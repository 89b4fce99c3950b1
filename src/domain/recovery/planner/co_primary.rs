//! Two servers that replicate from each other, of which one is the cluster's primary: when that one dies, the other
//! one takes over.
//!
//! It is a failover like any other, except that the other co-primary may be the only one that may be promoted, and
//! first catches up from a replica that received more; it may take writes already; and what it wrote itself is never
//! errant ([`super::super::position`]), since the dead one replicated from it.

use crate::domain::finding::Code;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::topology::Topology;

/// The code for the failure of a primary, by its position in the topology.
pub(super) fn death_of(topology: &Topology, primary: &InstanceKey) -> Code {
    let is_one_of_two = topology
        .get(primary)
        .is_some_and(|instance| topology.is_co_primary(instance));
    if is_one_of_two {
        Code::DeadCoMaster
    } else {
        Code::DeadMaster
    }
}

/// The kind of failover that a code calls for.
pub(super) fn kind_for(code: Code) -> RecoveryKind {
    match RecoveryKind::for_code(code) {
        Some(RecoveryKind::CoPrimary) => RecoveryKind::CoPrimary,
        _ => RecoveryKind::DeadPrimary,
    }
}

/// The other co-primary, where no other server may be promoted: by configuration, or because it takes writes already.
pub(super) fn only_successor(topology: &Topology, old_primary: &InstanceKey, policy: &Policy) -> Option<InstanceKey> {
    let other = topology.get(old_primary).and_then(|dead| topology.source_of(dead))?;
    let takes_writes = topology
        .get(other)
        .and_then(Instance::valid_facts)
        .is_some_and(InstanceFacts::is_writable);
    (policy.must_promote_other_co_primary || takes_writes).then(|| other.clone())
}
