//! The codes of intermediate primaries: servers that replicate and have replicas.

use crate::domain::finding::{Code, Evidence};
use crate::domain::instance::ProbeFailure;
use crate::domain::key::InstanceKey;

use super::primary::{all_lag, doubt_about_death};

/// The code of an intermediate primary with one sentence for the operator; `None` when there is nothing to report, or
/// no replica.
pub(super) fn judge(key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    if evidence.replicas.is_empty() {
        return None;
    }
    if evidence.last_check_valid {
        return judge_reachable(key, evidence);
    }
    // A server that was not probed yet is not dead.
    let failure = evidence.failure.as_ref()?;
    Some(judge_unreachable(key, failure, evidence))
}

fn judge_unreachable(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> (Code, String) {
    let (count, valid) = (evidence.replica_count(), evidence.valid_replicas);
    let text = format!("{key} is unreachable ({failure})");
    if evidence.receiving_replicas > 0 {
        let text = format!(
            "{text}, but {} of {count} replicas receive from it",
            evidence.receiving_replicas
        );
        return if all_lag(evidence) {
            (
                Code::UnreachableIntermediateMasterWithLaggingReplicas,
                format!("{text}, and all of them lag"),
            )
        } else {
            (Code::UnreachableIntermediateMaster, text)
        };
    }
    if let Some(doubt) = doubt_about_death(failure, evidence) {
        // It is alive and serves no replica: for its replicas that is the same as a server that only they cannot reach.
        if failure.proves_life() && all_fail_to_connect(evidence) {
            return (
                Code::AllIntermediateMasterReplicasFailingToConnectOrDead,
                format!("{text}, and no answering replica of {count} can connect to it"),
            );
        }
        return (Code::UnreachableIntermediateMaster, format!("{text}: {doubt}"));
    }
    match (count, valid) {
        (1, 0) => (
            Code::DeadIntermediateMasterAndReplicas,
            format!("{text} and its only replica does not answer"),
        ),
        (_, 0) => (
            Code::DeadIntermediateMasterAndReplicas,
            format!("{text} and none of its {count} replicas answers"),
        ),
        (1, _) if evidence.replicas_failing_to_connect == 1 => (
            Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect,
            format!("{text} and its only replica cannot connect to it"),
        ),
        (1, _) => (
            Code::DeadIntermediateMasterWithSingleReplica,
            format!("{text} and its only replica does not receive"),
        ),
        (_, valid) if valid == count => (
            Code::DeadIntermediateMaster,
            format!("{text} and none of its {count} replicas receives"),
        ),
        (_, valid) => (
            Code::DeadIntermediateMasterAndSomeReplicas,
            format!("{text}; {valid} of its {count} replicas answer and none of these receives"),
        ),
    }
}

fn judge_reachable(key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    let (count, valid) = (evidence.replica_count(), evidence.valid_replicas);
    if evidence.replicating_replicas > 0 {
        return None;
    }
    let text = format!("{key} is reachable");
    if all_fail_to_connect(evidence) && evidence.receiving_replicas == 0 {
        return Some((
            Code::AllIntermediateMasterReplicasFailingToConnectOrDead,
            format!("{text}, and of its {count} replicas {valid} answer and none of these can connect to it"),
        ));
    }
    (valid > 0).then(|| {
        (
            Code::AllIntermediateMasterReplicasNotReplicating,
            format!("{text}, and of its {count} replicas {valid} answer and none replicates"),
        )
    })
}

/// There are several replicas, and every answering one fails to connect.
fn all_fail_to_connect(evidence: &Evidence) -> bool {
    evidence.replica_count() > 1
        && evidence.replicas_failing_to_connect > 0
        && evidence.replicas_failing_to_connect == evidence.valid_replicas
}
