//! The codes of servers at the top.

use crate::domain::finding::{Code, Evidence};
use crate::domain::instance::{Instance, InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::state::{Quarantine, QuarantineState};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::node::{other_writable_tops, writable_tops};
use super::semi_sync;

/// Whether the server at this address is the quarantined one. Its identity decides; the address decides only while no
/// identity was seen.
pub(super) fn is_quarantined_as(topology: &Topology, key: &InstanceKey, quarantine: &Quarantine) -> bool {
    match topology.get(key).and_then(|instance| instance.facts.as_ref()) {
        Some(facts) => facts.identity == quarantine.identity,
        None => topology.resolve(&quarantine.instance) == key && topology.recorded_primary.as_ref() != Some(key),
    }
}

/// The code of a quarantined server that answers again; `None` when it is in the expected state.
pub(super) fn judge_quarantined(
    topology: &Topology,
    key: &InstanceKey,
    quarantine: &Quarantine,
    now: WallTime,
) -> Option<(Code, String)> {
    let facts = topology.get(key)?.valid_facts()?;
    let writable = if facts.is_writable() { "writable" } else { "read-only" };
    let standing = match &quarantine.standing {
        QuarantineState::Absent => "its transactions are not compared yet".to_owned(),
        QuarantineState::Contained => "it holds no transactions that the new primary lacks".to_owned(),
        QuarantineState::Errant { set } => format!("it has errant transactions: {}", excerpt(set)),
        QuarantineState::Unknown { why } => format!("its transactions are unknown: {why}"),
    };
    let seconds = now.millis_since(quarantine.since) / 1000;
    Some((
        Code::QuarantinedPrimaryReturned,
        format!(
            "{key}, the primary until recovery {} {seconds} s ago, answers again and is {writable}; {standing}",
            quarantine.recovery
        ),
    ))
}

/// The code of a top with one sentence for the operator; `None` when there is nothing to report.
pub(super) fn judge(
    topology: &Topology,
    policy: &Policy,
    key: &InstanceKey,
    current: Option<&InstanceKey>,
    evidence: &Evidence,
    now: WallTime,
) -> Option<(Code, String)> {
    if !evidence.last_check_valid {
        // The first probe may have been interrupted before any answer: a server that was not probed yet is not dead.
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
            "{} servers of the cluster are writable primaries: {list}. No recovery of the cluster runs until then: make \
             all but the right one read-only and attach them to it as replicas",
            writable.len()
        ),
    ))
}

/// The primary answers, is writable, and commits nothing.
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

/// The primary has no free connection except on its admin endpoint.
fn full(instance: &Instance, current: Option<&InstanceKey>, evidence: &Evidence) -> Option<(Code, String)> {
    let key = &instance.key;
    let is_full = current == Some(key) && instance.valid_facts().is_some_and(|facts| facts.by_admin_endpoint);
    is_full.then(|| {
        let text = format!(
            "{key} has no free connection and was probed through its admin endpoint; {}",
            receivers(evidence)
        );
        (Code::SaturatedPrimary, text)
    })
}

/// How many replicas report that they receive.
fn receivers(evidence: &Evidence) -> String {
    match evidence.receiving_replicas {
        0 => "no replica receives from it".to_owned(),
        1 => "1 replica reports that it receives from it".to_owned(),
        more => format!("{more} replicas report that they receive from it"),
    }
}

/// The primary is read-only, and that counts as a failure: it restarted read-only after ham4db had made it writable, or
/// its replicas replicate and the configuration calls that a failure. A primary that a running recovery involves may be
/// read-only for a while. Beside another writable server it should stay read-only.
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
        let text = if booted {
            format!("{key} restarted read-only although it is the recorded primary")
        } else {
            format!(
                "{key} is read-only, and {} of its {} replicas replicate from it",
                evidence.replicating_replicas,
                evidence.replica_count()
            )
        };
        (Code::NoWriteableMasterStructureWarning, text)
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
        let text = format!("{key} is unreachable ({failure}), but {receiving} of {count} replicas receive from it");
        return if all_lag(evidence) {
            (
                Code::UnreachableMasterWithLaggingReplicas,
                format!("{text}, and all of them lag"),
            )
        } else {
            (Code::UnreachableMaster, text)
        };
    }
    if let Some(alive) = sign_of_life(key, failure, evidence) {
        return alive;
    }
    let text = format!("{key} is unreachable ({failure})");
    match (count, valid) {
        (0, _) => (Code::DeadMasterWithoutReplicas, format!("{text} and has no replicas")),
        (1, 0) => (
            Code::DeadMasterAndReplicas,
            format!("{text} and its only replica does not answer"),
        ),
        (_, 0) => (
            Code::DeadMasterAndReplicas,
            format!("{text} and none of its {count} replicas answers"),
        ),
        (1, _) => (
            Code::DeadMaster,
            format!("{text} and its only replica does not receive"),
        ),
        (_, valid) if valid == count => (
            Code::DeadMaster,
            format!("{text} and none of its {count} replicas receives"),
        ),
        (_, valid) => (
            Code::DeadMasterAndSomeReplicas,
            format!("{text}; {valid} of its {count} replicas answer and none of these receives"),
        ),
    }
}

/// All replicas lag, and not all of them because of a configured delay.
pub(super) fn all_lag(evidence: &Evidence) -> bool {
    evidence.lagging_replicas == evidence.replica_count() && evidence.delayed_replicas < evidence.replica_count()
}

/// A stalled or saturated server has a finding of its own, whatever its replicas report: the replicas of a stalled one
/// report that they receive until their `replica_net_timeout`.
fn stalled_or_saturated(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> Option<(Code, String)> {
    let (code, text) = if *failure == ProbeFailure::Stalled {
        (Code::StalledPrimary, "accepts connections and does not answer")
    } else if *failure == ProbeFailure::Saturated {
        (Code::SaturatedPrimary, "has no free connection")
    } else {
        return None;
    };
    let replicas = receivers(evidence);
    let stall = evidence
        .commit_stall
        .as_ref()
        .map_or_else(String::new, |stall| format!("; {stall}"));
    Some((code, format!("{key} {text}; {replicas}{stall}")))
}

/// The finding for a failure that is no evidence of a dead server although no replica receives.
fn sign_of_life(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> Option<(Code, String)> {
    doubt_about_death(failure, evidence).map(|doubt| {
        (
            Code::UnreachableMaster,
            format!("{key} could not be probed ({failure}): {doubt}"),
        )
    })
}

/// Why a failure does not prove that the server is dead although no replica receives from it; `None` when it does.
pub(super) fn doubt_about_death(failure: &ProbeFailure, evidence: &Evidence) -> Option<&'static str> {
    match failure {
        ProbeFailure::Stalled
        | ProbeFailure::Saturated
        | ProbeFailure::Denied(_)
        | ProbeFailure::Server { .. }
        | ProbeFailure::Unreadable(_) => Some("it is alive"),
        ProbeFailure::NoCredentials(_) => Some("that proves nothing about the server"),
        ProbeFailure::Name(_) => {
            // A name that no member can resolve: the server is also lost for its replicas.
            let replicas_confirm =
                evidence.valid_replicas > 0 && evidence.replicas_failing_to_connect == evidence.valid_replicas;
            (!replicas_confirm).then_some("that proves nothing about the server while its replicas can connect")
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
    let text = format!("{key} is reachable");
    Some(match (count, valid) {
        (1, 0) => (
            Code::MasterSingleReplicaDead,
            format!("{text} and its only replica is not"),
        ),
        (1, _) => (
            Code::MasterSingleReplicaNotReplicating,
            format!("{text} and its only replica does not replicate"),
        ),
        (_, valid) if valid == count => (
            Code::AllMasterReplicasNotReplicating,
            format!("{text} and none of its {count} replicas replicates"),
        ),
        (_, valid) => (
            Code::AllMasterReplicasNotReplicatingOrDead,
            format!("{text}; of its {count} replicas {valid} answer and none replicates"),
        ),
    })
}

/// Whether a finding on a source explains why its replicas cannot connect to it.
pub(super) fn explains_lost_connections(code: Code) -> bool {
    match code {
        Code::DeadMasterWithoutReplicas
        | Code::DeadMaster
        | Code::DeadMasterAndReplicas
        | Code::DeadMasterAndSomeReplicas
        | Code::StalledPrimary
        | Code::SaturatedPrimary
        | Code::DeadCoMaster
        | Code::DeadCoMasterAndSomeReplicas
        | Code::DeadIntermediateMasterAndReplicas
        | Code::DeadReplicationGroupMemberWithReplicas => true,
        Code::SuccessorLost
        | Code::UnreachableMasterWithLaggingReplicas
        | Code::UnreachableMaster
        | Code::SplitPrimary
        | Code::AnotherController
        | Code::DuplicateIdentity
        | Code::LockedSemiSyncMaster
        | Code::LockedSemiSyncMasterHypothesis
        | Code::MasterWithTooManySemiSyncReplicas
        | Code::NoWriteableMasterStructureWarning
        | Code::MasterSingleReplicaNotReplicating
        | Code::MasterSingleReplicaDead
        | Code::AllMasterReplicasNotReplicating
        | Code::AllMasterReplicasNotReplicatingOrDead
        | Code::UnreachableCoMaster
        | Code::AllCoMasterReplicasNotReplicating
        | Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect
        | Code::DeadIntermediateMasterWithSingleReplica
        | Code::DeadIntermediateMaster
        | Code::DeadIntermediateMasterAndSomeReplicas
        | Code::UnreachableIntermediateMasterWithLaggingReplicas
        | Code::UnreachableIntermediateMaster
        | Code::AllIntermediateMasterReplicasFailingToConnectOrDead
        | Code::AllIntermediateMasterReplicasNotReplicating
        | Code::BinlogServerFailingToConnectToMaster
        | Code::FirstTierReplicaFailingToConnectToMaster
        | Code::QuarantinedPrimaryReturned
        | Code::LostReplicaReturned
        | Code::ErrantTransactions
        | Code::MissingReplicationCredentials
        | Code::MissingPrivileges
        | Code::FenceIneffective
        | Code::BootsWritable
        | Code::UnsafeSettings
        | Code::DurabilityNotKept
        | Code::QuorumInOneDataCenter
        | Code::UndiscoveredServers
        | Code::UnverifiedServers
        | Code::GroupPrimaryChanged
        | Code::NoProblem => false,
    }
}
