//! The codes of servers at the top.

use crate::domain::finding::{Code, Evidence};
use crate::domain::instance::{Instance, InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::candidate::excerpt;
use crate::domain::state::{Quarantine, QuarantineState};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::node::{other_writable_tops, writable_tops};
use super::semi_sync;

/// Whether the server at this address is the quarantined one. Its identity decides; the address only while no identity was seen.
pub(super) fn is_quarantined_as(topology: &Topology, key: &InstanceKey, quarantine: &Quarantine) -> bool {
    match topology.get(key).and_then(|instance| instance.facts.as_ref()) {
        Some(facts) => facts.identity == quarantine.identity,
        None => topology.resolve(&quarantine.instance) == key && topology.recorded_primary.as_ref() != Some(key),
    }
}

/// The code of a quarantined server: it is back, or it is where it is expected to be and there is nothing to say.
pub(super) fn judge_quarantined(
    topology: &Topology,
    key: &InstanceKey,
    quarantine: &Quarantine,
    now: WallTime,
) -> Option<(Code, String)> {
    let facts = topology.get(key)?.valid_facts()?;
    let writable = if facts.is_writable() { "writable" } else { "read-only" };
    let standing = match &quarantine.standing {
        QuarantineState::Absent => "what it holds was not compared yet".to_owned(),
        QuarantineState::Contained => "it holds nothing that the new primary lacks".to_owned(),
        QuarantineState::Errant { set } => format!("it holds transactions of its own: {}", excerpt(set)),
        QuarantineState::Unknown { why } => format!("what it holds is unknown: {why}"),
    };
    let seconds = now.millis_since(quarantine.since) / 1000;
    Some((
        Code::QuarantinedPrimaryReturned,
        format!(
            "{key}, primary until recovery {} {seconds} s ago, is back, {writable}; {standing}",
            quarantine.recovery
        ),
    ))
}

/// The code of a top, with one sentence for people; `None` when there is nothing to report.
pub(super) fn judge(
    topology: &Topology,
    policy: &Policy,
    key: &InstanceKey,
    current: Option<&InstanceKey>,
    evidence: &Evidence,
    now: WallTime,
) -> Option<(Code, String)> {
    if !evidence.last_check_valid {
        // The last attempt may have been interrupted before it told anything: not asked yet is not dead.
        let failure = evidence.failure.as_ref()?;
        return Some(judge_unreachable(key, failure, evidence));
    }
    let instance = topology.get(key)?;
    split(topology, key)
        .or_else(|| semi_sync::judge(instance, policy, now))
        .or_else(|| commits_nothing(instance, current))
        .or_else(|| non_writable(topology, policy, instance, current, evidence))
        .or_else(|| full(instance, current, evidence))
        .or_else(|| judge_reachable(key, evidence))
}

/// More than one server at the top takes writes.
pub(super) fn split(topology: &Topology, key: &InstanceKey) -> Option<(Code, String)> {
    let writable = writable_tops(topology);
    if !writable.contains(key) || writable.len() < 2 {
        return None;
    }
    let list = writable.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Some((
        Code::SplitPrimary,
        format!(
            "{} servers of the cluster are writable primaries: {list}. No recovery of the cluster runs while that is so: make \
             all but the right one read-only, and the others its replicas",
            writable.len()
        ),
    ))
}

/// The primary answers, takes writes, and commits none of them.
fn commits_nothing(instance: &Instance, current: Option<&InstanceKey>) -> Option<(Code, String)> {
    let key = &instance.key;
    let stall = instance.commit_stall.as_ref()?;
    let takes_writes = instance.valid_facts().is_some_and(InstanceFacts::is_writable);
    (current == Some(key) && takes_writes).then(|| {
        (
            Code::StalledPrimary,
            format!("{key} answers and commits nothing: {stall}"),
        )
    })
}

/// The primary has no connection left but the one that it keeps for administrators.
fn full(instance: &Instance, current: Option<&InstanceKey>, evidence: &Evidence) -> Option<(Code, String)> {
    let key = &instance.key;
    let is_full = current == Some(key) && instance.valid_facts().is_some_and(|facts| facts.by_admin_endpoint);
    is_full.then(|| {
        let told = format!(
            "{key} has no connection left, and was asked through the one that it keeps for administrators; {}",
            receivers(evidence)
        );
        (Code::SaturatedPrimary, told)
    })
}

/// How many replicas say that they receive.
fn receivers(evidence: &Evidence) -> String {
    match evidence.receiving_replicas {
        0 => "no replica receives from it".to_owned(),
        1 => "1 replica says that it receives from it".to_owned(),
        more => format!("{more} replicas say that they receive from it"),
    }
}

/// The primary is read-only, and that counts as a failure: it came back so after ham4db had made it writable, or its replicas replicate
/// and the configuration calls it one. What a running recovery has in its hands may well be read-only for a while; and beside another
/// writable server it had better be.
fn non_writable(
    topology: &Topology,
    policy: &Policy,
    instance: &Instance,
    current: Option<&InstanceKey>,
    evidence: &Evidence,
) -> Option<(Code, String)> {
    let key = &instance.key;
    let booted = policy.booted_read_only.as_ref() == Some(key);
    let applies = (booted || (policy.recover_non_writable_primary && evidence.replicating_replicas > 0))
        && current == Some(key)
        && instance.valid_facts().is_some_and(|facts| !facts.is_writable())
        && !policy.in_recovery.iter().any(|held| topology.resolve(held) == key)
        && other_writable_tops(topology, key).is_empty();
    applies.then(|| {
        let told = if booted {
            format!("{key} is back and read-only, although it was to be the writable primary")
        } else {
            format!(
                "{key} is read-only, and {} of its {} replicas replicate from it",
                evidence.replicating_replicas,
                evidence.replica_count()
            )
        };
        (Code::NoWriteableMasterStructureWarning, told)
    })
}

fn judge_unreachable(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> (Code, String) {
    let count = evidence.replica_count();
    let valid = evidence.valid_replicas;
    let receiving = evidence.receiving_replicas;
    if let Some(own) = stalled_or_saturated(key, failure, evidence) {
        return own;
    }
    if receiving > 0 {
        let told = format!("{key} is unreachable ({failure}), but {receiving} of {count} replicas receive from it");
        return if all_lag(evidence) {
            (
                Code::UnreachableMasterWithLaggingReplicas,
                format!("{told}, and all of them lag"),
            )
        } else {
            (Code::UnreachableMaster, told)
        };
    }
    if let Some(alive) = sign_of_life(key, failure, evidence) {
        return alive;
    }
    let told = format!("{key} is unreachable ({failure})");
    match (count, valid) {
        (0, _) => (Code::DeadMasterWithoutReplicas, format!("{told} and has no replicas")),
        (1, 0) => (
            Code::DeadMasterAndReplicas,
            format!("{told} and its only replica does not answer"),
        ),
        (_, 0) => (
            Code::DeadMasterAndReplicas,
            format!("{told} and none of its {count} replicas answers"),
        ),
        (1, _) => (
            Code::DeadMaster,
            format!("{told} and its only replica does not receive"),
        ),
        (_, valid) if valid == count => (
            Code::DeadMaster,
            format!("{told} and none of its {count} replicas receives"),
        ),
        (_, valid) => (
            Code::DeadMasterAndSomeReplicas,
            format!("{told}; {valid} of its {count} replicas answer and none of these receives"),
        ),
    }
}

/// All replicas lag, and not all of them on purpose.
pub(super) fn all_lag(evidence: &Evidence) -> bool {
    evidence.lagging_replicas == evidence.replica_count() && evidence.delayed_replicas < evidence.replica_count()
}

/// A stopped process and one that is full have findings of their own, whatever replicas say: those of a stopped one go on saying that
/// they receive until their `replica_net_timeout`.
fn stalled_or_saturated(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> Option<(Code, String)> {
    let (code, told) = if *failure == ProbeFailure::Stalled {
        (Code::StalledPrimary, "accepts connections and does not answer")
    } else if *failure == ProbeFailure::Saturated {
        (Code::SaturatedPrimary, "has no connection left")
    } else {
        return None;
    };
    let replicas = receivers(evidence);
    let stall = evidence
        .commit_stall
        .as_ref()
        .map_or_else(String::new, |stall| format!("; {stall}"));
    Some((code, format!("{key} {told}; {replicas}{stall}")))
}

/// The finding for a failure that is no evidence of death although no replica receives.
fn sign_of_life(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> Option<(Code, String)> {
    no_evidence_of_death(failure, evidence).map(|doubt| {
        (
            Code::UnreachableMaster,
            format!("{key} could not be asked ({failure}): {doubt}"),
        )
    })
}

/// Why a failure does not show that the server is dead, although no replica receives from it; `None` when it does.
pub(super) fn no_evidence_of_death(failure: &ProbeFailure, evidence: &Evidence) -> Option<&'static str> {
    match failure {
        ProbeFailure::Stalled
        | ProbeFailure::Saturated
        | ProbeFailure::Denied(_)
        | ProbeFailure::Server { .. }
        | ProbeFailure::Unreadable(_) => Some("it is alive"),
        ProbeFailure::NoCredentials(_) => Some("that says nothing about the server"),
        ProbeFailure::Name(_) => {
            // A name that nobody can resolve any more: the server is gone for its replicas too.
            let replicas_confirm =
                evidence.valid_replicas > 0 && evidence.replicas_failing_to_connect == evidence.valid_replicas;
            (!replicas_confirm)
                .then_some("that says nothing about the server while its replicas do not fail to connect")
        }
        ProbeFailure::Refused | ProbeFailure::Lost(_) | ProbeFailure::NoAnswer | ProbeFailure::Unreachable(_) => {
            evidence.last_check_partial.then_some("it answered in part")
        }
    }
}

fn judge_reachable(key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    let count = evidence.replica_count();
    let valid = evidence.valid_replicas;
    if count == 0 || evidence.replicating_replicas > 0 {
        return None;
    }
    let told = format!("{key} is reachable");
    Some(match (count, valid) {
        (1, 0) => (
            Code::MasterSingleReplicaDead,
            format!("{told} and its only replica is not"),
        ),
        (1, _) => (
            Code::MasterSingleReplicaNotReplicating,
            format!("{told} and its only replica does not replicate"),
        ),
        (_, valid) if valid == count => (
            Code::AllMasterReplicasNotReplicating,
            format!("{told} and none of its {count} replicas replicates"),
        ),
        (_, valid) => (
            Code::AllMasterReplicasNotReplicatingOrDead,
            format!("{told}; of its {count} replicas {valid} answer and none replicates"),
        ),
    })
}

/// Whether a finding on a source already says why its replicas cannot connect to it.
pub(super) fn explains_lost_connections(code: Code) -> bool {
    matches!(
        code,
        Code::DeadMasterWithoutReplicas
            | Code::DeadMaster
            | Code::DeadMasterAndReplicas
            | Code::DeadMasterAndSomeReplicas
            | Code::StalledPrimary
            | Code::SaturatedPrimary
            | Code::DeadCoMaster
            | Code::DeadCoMasterAndSomeReplicas
            | Code::DeadIntermediateMasterAndReplicas
            | Code::DeadReplicationGroupMemberWithReplicas
    )
}
