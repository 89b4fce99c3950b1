//! Who the primary of a cluster is, and the codes of the primary family.

use std::collections::BTreeSet;

use crate::domain::finding::{Code, Evidence};
use crate::domain::instance::{Instance, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::candidate::excerpt;
use crate::domain::state::{Quarantine, QuarantineState};
use crate::domain::time::Wall;
use crate::domain::topology::Topology;

/// The tops of a topology that are known to be tops: by their own last word, because replicas name them, or because they are
/// recorded as primary. An address that was never asked and that nobody names is left out: nothing is known of its place.
pub fn tops(topology: &Topology) -> BTreeSet<InstanceKey> {
    let recorded = recorded_primary(topology);
    topology
        .tops()
        .into_iter()
        .filter(|key| {
            let is_known = topology.get(key).is_some_and(|instance| instance.facts.is_some());
            is_known || recorded == Some(key) || topology.replicas_of(key).next().is_some()
        })
        .collect()
}

/// The primary of a cluster, dead or alive, or `None` when the picture does not tell.
///
/// The recorded one, as long as it still stands at the top and nothing speaks for another one; otherwise the only top, otherwise
/// the only top that has replicas. So a dead server in the middle of the tree of which nothing is known but its replicas' word (all
/// members restarted) is not taken for a dead primary while the recorded one is there.
pub fn current_primary(topology: &Topology) -> Option<InstanceKey> {
    let tops = tops(topology);
    let has_replicas = |key: &&InstanceKey| topology.replicas_of(key).next().is_some();
    if let Some(recorded) = recorded_primary(topology).filter(|key| tops.contains(*key)) {
        let has_rival = tops
            .iter()
            .filter(|key| *key != recorded)
            .any(|key| has_replicas(&key) && is_valid(topology, key));
        let is_deserted = !is_valid(topology, recorded) && !has_replicas(&recorded) && has_rival;
        if !is_deserted {
            return Some(recorded.clone());
        }
    }
    only(tops.iter())
        .or_else(|| only(tops.iter().filter(has_replicas)))
        .cloned()
}

/// Reachable writable servers at the top other than this one: promoting below it while there is one makes two writable primaries.
pub fn other_writable_tops(topology: &Topology, than: &InstanceKey) -> BTreeSet<InstanceKey> {
    let than = topology.resolve(than);
    writable_tops(topology).into_iter().filter(|key| key != than).collect()
}

/// Reachable writable servers at the top.
fn writable_tops(topology: &Topology) -> BTreeSet<InstanceKey> {
    let is_writable = |key: &InstanceKey| {
        topology
            .get(key)
            .and_then(Instance::valid_facts)
            .is_some_and(|facts| facts.is_writable() && facts.group_name.is_empty())
    };
    tops(topology).into_iter().filter(is_writable).collect()
}

fn recorded_primary(topology: &Topology) -> Option<&InstanceKey> {
    topology.recorded_primary.as_ref().map(|key| topology.resolve(key))
}

fn is_valid(topology: &Topology, key: &InstanceKey) -> bool {
    topology.get(key).is_some_and(Instance::is_valid)
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

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
    now: Wall,
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
    key: &InstanceKey,
    current: Option<&InstanceKey>,
    evidence: &Evidence,
) -> Option<(Code, String)> {
    if evidence.last_check_valid {
        let writable = writable_tops(topology);
        if writable.contains(key) && writable.len() > 1 {
            let list = writable.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Some((
                Code::SplitPrimary,
                format!(
                    "{} servers of the cluster are writable primaries: {list}",
                    writable.len()
                ),
            ));
        }
        return judge_reachable(key, evidence);
    }
    // The last attempt may have been interrupted before it told anything: not asked yet is not dead.
    let failure = evidence.failure.as_ref()?;
    // A server of which nothing was ever seen, beside the real primary, is no primary: most likely it stands in the middle.
    let was_seen = topology.get(key).is_some_and(|instance| instance.facts.is_some());
    if !was_seen && current.is_some_and(|current| current != key) {
        return None;
    }
    Some(judge_unreachable(key, failure, evidence))
}

fn judge_unreachable(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> (Code, String) {
    let count = evidence.replicas.len();
    let valid = usize::try_from(evidence.valid_replicas).unwrap_or(usize::MAX);
    let lagging = usize::try_from(evidence.lagging_replicas).unwrap_or(usize::MAX);
    let delayed = usize::try_from(evidence.delayed_replicas).unwrap_or(usize::MAX);
    let receiving = evidence.receiving_replicas;
    if receiving > 0 {
        let told = format!("{key} is unreachable ({failure}), but {receiving} of {count} replicas receive from it");
        return if lagging == count && delayed < count {
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

/// The finding for a failure that is no evidence of death although no replica receives.
fn sign_of_life(key: &InstanceKey, failure: &ProbeFailure, evidence: &Evidence) -> Option<(Code, String)> {
    let doubt = match failure {
        ProbeFailure::Stalled => {
            return Some((
                Code::StalledPrimary,
                format!("{key} accepts connections and does not answer; no replica receives from it"),
            ));
        }
        ProbeFailure::Saturated => {
            return Some((
                Code::SaturatedPrimary,
                format!("{key} has no connection left; no replica receives from it"),
            ));
        }
        ProbeFailure::Denied(_) | ProbeFailure::Server { .. } | ProbeFailure::Unreadable(_) => "it is alive",
        ProbeFailure::NoCredentials(_) => "that says nothing about the server",
        ProbeFailure::Name(_) => {
            // A name that nobody can resolve any more: the server is gone for its replicas too.
            let replicas_confirm =
                evidence.valid_replicas > 0 && evidence.replicas_failing_to_connect == evidence.valid_replicas;
            if replicas_confirm {
                return None;
            }
            "that says nothing about the server while its replicas do not fail to connect"
        }
        ProbeFailure::Refused | ProbeFailure::Lost(_) | ProbeFailure::NoAnswer | ProbeFailure::Unreachable(_) => {
            if !evidence.last_check_partial {
                return None;
            }
            "it answered in part"
        }
    };
    Some((
        Code::UnreachableMaster,
        format!("{key} could not be asked ({failure}): {doubt}"),
    ))
}

fn judge_reachable(key: &InstanceKey, evidence: &Evidence) -> Option<(Code, String)> {
    let count = evidence.replicas.len();
    let valid = usize::try_from(evidence.valid_replicas).unwrap_or(usize::MAX);
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

/// Whether a finding on the primary already says why replicas cannot connect to it.
pub(super) fn explains_lost_connections(code: Code) -> bool {
    matches!(
        code,
        Code::DeadMasterWithoutReplicas
            | Code::DeadMaster
            | Code::DeadMasterAndReplicas
            | Code::DeadMasterAndSomeReplicas
            | Code::StalledPrimary
            | Code::SaturatedPrimary
    )
}
