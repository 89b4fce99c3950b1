//! The codes of co-primaries: two servers that replicate from each other.

use crate::domain::finding::{Code, Evidence};
use crate::domain::key::InstanceKey;

use super::primary::doubt_about_death;

/// The code of a co-primary with one sentence for the operator. When there is none, the codes of intermediate primaries
/// still apply, as in orchestrator.
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
    let text = format!("co-primary {key} is unreachable ({failure})");
    if evidence.receiving_replicas > 0 {
        return Some((
            Code::UnreachableCoMaster,
            format!(
                "{text}, but {} of {count} replicas receive from it",
                evidence.receiving_replicas
            ),
        ));
    }
    if let Some(doubt) = doubt_about_death(failure, evidence) {
        return Some((Code::UnreachableCoMaster, format!("{text}: {doubt}")));
    }
    match valid {
        0 => None,
        valid if valid == count => Some((
            Code::DeadCoMaster,
            format!("{text} and none of its {count} replicas receives"),
        )),
        valid => Some((
            Code::DeadCoMasterAndSomeReplicas,
            format!("{text}; {valid} of its {count} replicas answer and none of these receives"),
        )),
    }
}
