//! Warnings about the shape of a topology. They never trigger anything.

use crate::domain::finding::{Evidence, StructureWarning};
use crate::domain::instance::{Instance, InstanceFacts, Positioning};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::position::Holdings;
use crate::domain::topology::Topology;

use super::evidence::is_downtimed;

/// The warnings for a top, in the order in which they are declared. What rests on the top's own settings is left out while it does
/// not answer: its last settings are no news.
pub(super) fn warnings(
    topology: &Topology,
    policy: &Policy,
    key: &InstanceKey,
    evidence: &Evidence,
) -> Vec<StructureWarning> {
    let replicas: Vec<&Instance> = topology.replicas_of(key).collect();
    let mut found = Vec::new();
    if replicas.len() > 1 && evidence.logging_replicas == 0 {
        found.push(StructureWarning::NoLoggingReplicasStructureWarning);
    }
    if replicas.len() > 1 && !replicate_by_one_kind_of_gtid(&replicas) {
        found.push(StructureWarning::NoFailoverSupportStructureWarning);
    }
    let holdings = Holdings::below(topology, key);
    let is_errant =
        |replica: &&Instance| !is_downtimed(topology, policy, &replica.key) && holdings.errant(&replica.key).is_some();
    if replicas.iter().any(is_errant) {
        found.push(StructureWarning::ErrantGTIDStructureWarning);
    }
    if let Some(facts) = topology.get(key).and_then(Instance::valid_facts) {
        if !facts.is_writable() && !replicas.is_empty() {
            found.push(StructureWarning::NoWriteableMasterStructureWarning);
        }
        let semi_sync = &facts.semi_sync;
        let is_short = semi_sync.wait_for_count > 0 && semi_sync.clients < semi_sync.wait_for_count;
        if semi_sync.source_enabled && !semi_sync.source_active && is_short {
            found.push(StructureWarning::NotEnoughValidSemiSyncReplicasStructureWarning);
        }
    }
    found
}

/// Whether all answering replicas use GTIDs, all of MySQL's kind or all of MariaDB's. Without an answer there is nothing to warn of.
fn replicate_by_one_kind_of_gtid(replicas: &[&Instance]) -> bool {
    let kinds = replicas
        .iter()
        .filter_map(|replica| replica.valid_facts())
        .map(|facts| {
            match facts
                .managed_channel()
                .map_or(Positioning::FilePosition, |channel| channel.positioning)
            {
                Positioning::FilePosition => None,
                Positioning::AutoPosition | Positioning::SlavePos | Positioning::CurrentPos => Some(is_mariadb(facts)),
            }
        });
    let mut first = None;
    for kind in kinds {
        let Some(kind) = kind else { return false };
        if *first.get_or_insert(kind) != kind {
            return false;
        }
    }
    true
}

fn is_mariadb(facts: &InstanceFacts) -> bool {
    facts.version.flavour.is_mariadb()
}
