//! Topology → findings: a pure function over one cluster, run when that cluster changed.
//!
//! - [`primary`]: who the primary is, and the codes of the primary family.
//! - [`evidence`]: what was counted over the direct replicas.
//! - [`structure`]: warnings about the shape of the topology.
//! - [`opinion`]: what a member answers when it is asked about a suspect, and when the members agree.
//!
//! The codes are orchestrator's, and so are their conditions, but for these:
//! - A replica *receives* when its receiving thread runs, whatever the applying thread does. Orchestrator wants both threads, and so
//!   reports `DeadMaster` for a living primary whose replicas have their SQL threads stopped.
//! - A failure that proves life (`Stalled`, `Saturated`, access denied, ...) is never a dead primary.
//! - A failure that is about ourselves is none either: missing credentials never; an unresolvable name (the DNS entry of a pod that
//!   is gone) only when a replica answers and every one that answers cannot connect to the primary either.
//! - A primary without a single answering replica among several is `AllMasterReplicasNotReplicatingOrDead`; orchestrator says nothing.

use std::collections::BTreeSet;

use super::finding::{Code, Finding};
use super::key::InstanceKey;
use super::policy::Policy;
use super::state::Quarantine;
use super::time::Wall;
use super::topology::Topology;

pub mod evidence;
pub mod opinion;
pub mod primary;
pub mod structure;

pub use opinion::{agreement, verdict};
pub use primary::{current_primary, other_writable_tops};

/// All findings of one cluster: at most one per instance, in order of precedence, then of address.
///
/// `now` decides nothing in the primary family yet; it is part of the signature because findings are a function of time too.
/// Downtimes come from `policy`: an instance in downtime has its findings shown, marked as such.
pub fn findings(topology: &Topology, policy: &Policy, quarantines: &[Quarantine], now: Wall) -> Vec<Finding> {
    let quarantines: Vec<&Quarantine> = quarantines
        .iter()
        .filter(|quarantine| quarantine.cluster == topology.cluster)
        .collect();
    let current = current_primary(topology);
    let mut found = Vec::new();
    let mut explained = BTreeSet::new();
    for key in primary::tops(topology) {
        let evidence = evidence::evidence(topology, policy, &key);
        let structure = structure::warnings(topology, policy, &key, &evidence);
        let judged = match quarantines
            .iter()
            .find(|quarantine| primary::is_quarantined_as(topology, &key, quarantine))
        {
            Some(quarantine) => primary::judge_quarantined(topology, &key, quarantine, now),
            None => primary::judge(topology, &key, current.as_ref(), &evidence),
        };
        let (code, description) = match judged {
            Some(judged) => judged,
            None if structure.is_empty() || current.as_ref() != Some(&key) => continue,
            None => (
                Code::NoProblem,
                String::from("no problem but the shape of the topology"),
            ),
        };
        if primary::explains_lost_connections(code) {
            explained.insert(key.clone());
        }
        found.push(finding(topology, policy, key, code, description, evidence, structure));
    }
    for instance in topology.instances.values() {
        let Some(source) = topology.source_of(instance) else {
            continue;
        };
        let is_first_tier = current.as_ref() == Some(source) && !explained.contains(source);
        let evidence = evidence::evidence(topology, policy, &instance.key);
        if is_first_tier && evidence.is_failing_to_connect {
            let description = format!(
                "{} replicates from the primary {source} and cannot connect to it",
                instance.key
            );
            let code = Code::FirstTierReplicaFailingToConnectToMaster;
            found.push(finding(
                topology,
                policy,
                instance.key.clone(),
                code,
                description,
                evidence,
                Vec::new(),
            ));
        }
    }
    found.sort_by(|left, right| (left.code, &left.instance).cmp(&(right.code, &right.instance)));
    found
}

fn finding(
    topology: &Topology,
    policy: &Policy,
    instance: InstanceKey,
    code: Code,
    description: String,
    evidence: super::finding::Evidence,
    structure: Vec<super::finding::StructureWarning>,
) -> Finding {
    let is_downtimed = |key: &InstanceKey| evidence::is_downtimed(topology, policy, key);
    Finding {
        code,
        cluster: topology.cluster.clone(),
        description,
        structure,
        downtimed: is_downtimed(&instance),
        replicas_downtimed: !evidence.replicas.is_empty() && evidence.replicas.iter().all(is_downtimed),
        evidence,
        instance,
    }
}

#[cfg(test)]
mod tests;
