//! Warnings about the structure of a topology. They never trigger a recovery.

use std::collections::BTreeMap;

use crate::domain::finding::{Evidence, StructureWarning};
use crate::domain::instance::{Instance, InstanceFacts, Positioning};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::topology::Topology;

use super::evidence::is_downtimed;

/// The warnings for one instance, in the order of their declaration. Warnings about its own settings are left out while
/// it does not answer, since its last settings may be old.
///
/// Most are about a primary and its possible successors. Errant transactions and different GTID modes are reported for
/// any instance with replicas. `received_transactions` holds the transactions of the servers below each top.
pub(super) fn warnings(
    topology: &Topology,
    policy: &Policy,
    key: &InstanceKey,
    evidence: &Evidence,
    received_transactions: &BTreeMap<InstanceKey, ReceivedTransactions>,
) -> Vec<StructureWarning> {
    let facts = topology.get(key).and_then(Instance::valid_facts);
    let replicas: Vec<&Instance> = topology.replicas_of(key).collect();
    let mut found = Vec::new();
    if evidence.is_primary && replicas.len() > 1 {
        found.extend(successor_warnings(evidence, &replicas));
    }
    if facts.is_some_and(|facts| has_other_modes(facts, evidence)) {
        found.push(StructureWarning::DifferentGTIDModesStructureWarning);
    }
    let is_errant = |replica: &&Instance| {
        !is_downtimed(topology, policy, &replica.key)
            && !topology.is_co_primary(replica)
            && is_errant_below(topology, key, replica, received_transactions)
    };
    if replicas.iter().any(is_errant) {
        found.push(StructureWarning::ErrantGTIDStructureWarning);
    }
    if let Some(facts) = facts.filter(|_| evidence.is_primary) {
        if !facts.is_writable() {
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

fn successor_warnings(evidence: &Evidence, replicas: &[&Instance]) -> impl Iterator<Item = StructureWarning> {
    let (statement, mixed, row) = (
        evidence.statement_logging_replicas > 0,
        evidence.mixed_logging_replicas > 0,
        evidence.row_logging_replicas > 0,
    );
    let conditions = [
        (
            evidence.logging_replicas == 0,
            StructureWarning::NoLoggingReplicasStructureWarning,
        ),
        (
            !support_failover(replicas),
            StructureWarning::NoFailoverSupportStructureWarning,
        ),
        (
            statement && mixed,
            StructureWarning::StatementAndMixedLoggingReplicasStructureWarning,
        ),
        (
            statement && row,
            StructureWarning::StatementAndRowLoggingReplicasStructureWarning,
        ),
        (
            mixed && row,
            StructureWarning::MixedAndRowLoggingReplicasStructureWarning,
        ),
        (
            evidence.logging_versions.len() > 1,
            StructureWarning::MultipleMajorVersionsLoggingReplicasStructureWarning,
        ),
    ];
    conditions
        .into_iter()
        .filter(|(applies, _)| *applies)
        .map(|(_, warning)| warning)
}

/// Whether a replica has another `gtid_mode` than the source.
fn has_other_modes(facts: &InstanceFacts, evidence: &Evidence) -> bool {
    evidence.replica_gtid_modes.iter().any(|mode| *mode != facts.gtid_mode)
}

/// Whether a replica has transactions that its source lacks and that were committed below the primary. Errant
/// transactions of an intermediate primary also reach its replicas, where they are not reported again.
fn is_errant_below(
    topology: &Topology,
    source: &InstanceKey,
    replica: &Instance,
    received_transactions: &BTreeMap<InstanceKey, ReceivedTransactions>,
) -> bool {
    let of_source = || {
        topology
            .get(source)
            .and_then(|instance| instance.facts.as_ref())
            .map(InstanceFacts::received)
    };
    if let Some(below) = received_transactions.get(source) {
        return below.errant(&replica.key).is_some();
    }
    let errant = received_transactions
        .values()
        .find_map(|below| below.errant(&replica.key));
    errant.is_some_and(|errant| of_source().is_none_or(|source| !source.covers(errant)))
}

/// Whether an answering replica could be promoted and the others could replicate from it: all use MySQL's GTIDs, or all
/// MariaDB's, or all are binlog servers. True when no replica answers.
fn support_failover(replicas: &[&Instance]) -> bool {
    #[derive(PartialEq)]
    enum Kind {
        MySql,
        MariaDb,
        BinlogServer,
        PseudoGtid,
    }
    let kinds = replicas
        .iter()
        .filter_map(|replica| replica.valid_facts())
        .map(|facts| {
            let positioning = facts
                .managed_channel()
                .map_or(Positioning::FilePosition, |channel| channel.positioning);
            match positioning {
                _ if facts.is_binlog_server() => Some(Kind::BinlogServer),
                Positioning::FilePosition => facts.uses_pseudo_gtid.then_some(Kind::PseudoGtid),
                _ if facts.version.flavour.is_mariadb() => Some(Kind::MariaDb),
                Positioning::AutoPosition | Positioning::SlavePos | Positioning::CurrentPos => Some(Kind::MySql),
            }
        });
    let kinds: Vec<Option<Kind>> = kinds.collect();
    kinds.iter().all(|kind| kind.is_some() && Some(kind) == kinds.first())
}
