//! The codes of co-primaries: two servers that replicate from each other.

use crate::domain::finding::{Code, Evidence};
use crate::domain::key::InstanceKey;

use super::primary::no_evidence_of_death;

/// The code of a co-primary, with one sentence for people. What is not said here may still be said of it as of any server in the
/// middle of a topology, as in orchestrator.
pub(super) fn judge(key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    let (count, valid) = (evidence.replica_count(), evidence.valid_replicas);
    if count == 0 {
        return None;
    }
    if evidence.last_check_valid {
        return (evidence.replicating_replicas == 0).then(|| {
            (
                Code::AllCoMasterReplicasNotReplicating,
                format!("co-primary {key} is reachable, and none of its {count} replicas replicates"),
            )
        });
    }
    let failure = evidence.failure.as_ref()?;
    let told = format!("co-primary {key} is unreachable ({failure})");
    if evidence.receiving_replicas > 0 {
        return Some((
            Code::UnreachableCoMaster,
            format!(
                "{told}, but {} of {count} replicas receive from it",
                evidence.receiving_replicas
            ),
        ));
    }
    if let Some(doubt) = no_evidence_of_death(failure, evidence) {
        return Some((Code::UnreachableCoMaster, format!("{told}: {doubt}")));
    }
    match valid {
        0 => None,
        valid if valid == count => Some((
            Code::DeadCoMaster,
            format!("{told} and none of its {count} replicas receives"),
        )),
        valid => Some((
            Code::DeadCoMasterAndSomeReplicas,
            format!("{told}; {valid} of its {count} replicas answer and none of these receives"),
        )),
    }
}
