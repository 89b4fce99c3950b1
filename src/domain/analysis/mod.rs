//! Topology → findings: a pure function over one cluster, run when that cluster changed.
//!
//! - [`node`]: the nodes at the top of a topology, and the current primary.
//! - [`primary`], [`semi_sync`]: the codes of servers at the top.
//! - [`co_primary`], [`intermediate`], [`group`]: the codes of co-primaries, of intermediate primaries, and of members
//!   of a replication group.
//! - [`evidence`]: the counts over the direct replicas.
//! - [`partition`]: the difference between a primary that no server can reach and one that only the members cannot
//!   reach.
//! - [`structure`]: warnings about the structure of the topology.
//! - `settings`, `identity`: findings about settings, privileges and identity of single servers; most are advice and
//!   trigger nothing.
//! - `quorum`: advice about the data centers of the members.
//! - [`startup_grace`]: whether a primary may still be starting.
//! - [`opinion`]: the verdict of a member about a suspect, and the agreement of the members.
//!
//! The codes and their conditions are orchestrator's, with these exceptions:
//! - A replica *receives* when its receiver thread runs, whatever its applier thread does. Orchestrator demands both
//!   threads, and so reports `DeadMaster` for a living primary when the SQL threads of its replicas are stopped.
//! - A failure that proves life (`Stalled`, `Saturated`, access denied, ...) never makes a dead server.
//! - A failure on the side of the member does not either. Missing credentials never do. An unresolvable name (the DNS
//!   entry of a deleted pod) does only when a replica answers and no answering replica can connect to the server.
//! - A primary with several replicas of which none answers is `AllMasterReplicasNotReplicatingOrDead`; orchestrator
//!   reports nothing.
//! - A living intermediate primary to which no answering replica can connect is
//!   `AllIntermediateMasterReplicasFailingToConnectOrDead`, also when the probe failed with a failure that proves life.
//! - A co-primary that answered in part while its replicas receive is `UnreachableCoMaster`; orchestrator reports
//!   nothing.
//! - A read-only primary is a failure only when no other server is writable and no running recovery involves it.
//! - A replication group of which no member answers is `UnreachableMaster`; orchestrator reports nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Code, Evidence, Finding, StructureWarning};
use super::key::InstanceKey;
use super::policy::Policy;
use super::recovery::position::ReceivedTransactions;
use super::state::Quarantine;
use super::time::WallTime;
use super::topology::Topology;

pub mod co_primary;
pub mod evidence;
pub mod group;
pub mod identity;
pub mod intermediate;
pub mod node;
pub mod opinion;
pub mod partition;
pub mod primary;
mod quorum;
pub mod semi_sync;
mod servers;
mod settings;
pub mod startup_grace;
pub mod structure;

pub use node::{current_primary, group_primary, other_writable_tops};
pub use opinion::{Agreement, SuspectHistory, SuspectedFailure, agreement, verdict};
pub use partition::{is_mere_silence, may_be_partitioned};
pub use settings::read_only_bypass;

/// All findings of one cluster: at most one per instance, in order of precedence, then of address.
///
/// A function of its arguments alone. The result stays valid until one of the arguments other than `now` changes. Only
/// when a finding has a code with [`Code::changes_with_time`] it must be computed again as time passes. Downtimes come
/// from `policy`: the findings of an instance in downtime are shown and marked.
pub fn findings(topology: &Topology, policy: &Policy, quarantines: &[Quarantine], now: WallTime) -> Vec<Finding> {
    let inputs = AnalysisInputs::of(topology, policy, quarantines, now);
    let judged: Vec<(InstanceKey, Evidence, CodeAndDescription)> = inputs
        .subjects()
        .into_iter()
        .map(|key| {
            let evidence = evidence::evidence(topology, policy, &key);
            let judged = inputs.judge(&key, &evidence);
            (key, evidence, judged)
        })
        .collect();
    let explained: BTreeSet<InstanceKey> = judged
        .iter()
        .filter(|(_, _, judged)| {
            judged
                .as_ref()
                .is_some_and(|(code, _)| primary::explains_lost_connections(*code))
        })
        .map(|(key, _, _)| key.clone())
        .collect();
    let mut found = Vec::new();
    for (key, evidence, judged) in judged {
        let structure = inputs.warnings(&key, &evidence);
        let judged = judged
            .or_else(|| inputs.cannot_connect(&key, &evidence, &explained))
            .or_else(|| {
                let no_problem = String::from("no problem except the structure of the topology");
                (!structure.is_empty()).then_some((Code::NoProblem, no_problem))
            });
        if let Some((code, description)) = judged {
            found.push(finding(topology, policy, key, code, description, evidence, structure));
        }
    }
    found.extend(servers::findings(topology, policy));
    found.sort_by(|left, right| (left.code, &left.instance).cmp(&(right.code, &right.instance)));
    found
}

/// A code with one sentence for the operator; `None` when there is nothing to report.
type CodeAndDescription = Option<(Code, String)>;

/// A cluster with the inputs of all judgements about it.
struct AnalysisInputs<'a> {
    topology: &'a Topology,
    policy: &'a Policy,
    quarantines: Vec<&'a Quarantine>,
    now: WallTime,
    tops: BTreeSet<InstanceKey>,
    current: Option<InstanceKey>,
    /// The received transactions below each top, and below the primary of co-primaries.
    received_transactions: BTreeMap<InstanceKey, ReceivedTransactions>,
}

impl<'a> AnalysisInputs<'a> {
    fn of(topology: &'a Topology, policy: &'a Policy, quarantines: &'a [Quarantine], now: WallTime) -> Self {
        let tops = node::tops(topology);
        let current = current_primary(topology);
        let roots = tops.iter().chain(&current);
        let received_transactions = roots
            .filter(|root| topology.replicas_of(root).next().is_some())
            .map(|root| (root.clone(), ReceivedTransactions::below(topology, root)))
            .collect();
        Self {
            quarantines: quarantines
                .iter()
                .filter(|quarantine| quarantine.cluster == topology.cluster)
                .collect(),
            topology,
            policy,
            now,
            tops,
            current,
            received_transactions,
        }
    }

    /// All instances of the topology, and the tops that are only named by replicas or recorded.
    fn subjects(&self) -> BTreeSet<InstanceKey> {
        self.topology
            .instances
            .keys()
            .filter(|key| !self.has_unknown_place(key))
            .chain(&self.tops)
            .cloned()
            .collect()
    }

    /// The server never answered, no replica names it and it is not recorded, so its place in the topology is unknown.
    fn has_unknown_place(&self, key: &InstanceKey) -> bool {
        !self.tops.contains(key) && self.topology.get(key).is_none_or(|instance| instance.facts.is_none())
    }

    fn quarantine_of(&self, key: &InstanceKey) -> Option<&'a Quarantine> {
        self.quarantines
            .iter()
            .copied()
            .find(|quarantine| primary::is_quarantined_as(self.topology, key, quarantine))
    }

    fn judge(&self, key: &InstanceKey, evidence: &Evidence) -> CodeAndDescription {
        let topology = self.topology;
        if !self.tops.contains(key) {
            if node::group_of(topology, key).is_some() {
                return group::judge(topology, key, evidence);
            }
            let is_primary_of_ring = self.current.as_ref() == Some(key) && node::is_in_a_ring(topology, key);
            let as_co_primary = (evidence.is_co_primary || is_primary_of_ring)
                .then(|| co_primary::judge(key, evidence))
                .flatten();
            return as_co_primary.or_else(|| intermediate::judge(key, evidence));
        }
        if let Some(quarantine) = self.quarantine_of(key) {
            return primary::judge_quarantined(topology, key, quarantine, self.now);
        }
        if node::group_of(topology, key).is_some() {
            return group::judge(topology, key, evidence);
        }
        // A server that was never seen, beside the real primary, is not a primary. Most likely it is an intermediate
        // primary.
        let was_seen = topology.get(key).is_some_and(|instance| instance.facts.is_some());
        if !was_seen && self.current.as_ref().is_some_and(|current| current != key) {
            return intermediate::judge(key, evidence);
        }
        primary::judge(topology, self.policy, key, self.current.as_ref(), evidence, self.now)
    }

    /// The instance cannot connect to its source, and no finding about the source explains that.
    fn cannot_connect(
        &self,
        key: &InstanceKey,
        evidence: &Evidence,
        explained: &BTreeSet<InstanceKey>,
    ) -> CodeAndDescription {
        let source = self.topology.source_of(self.topology.get(key)?)?;
        if !evidence.is_failing_to_connect || explained.contains(source) {
            return None;
        }
        if evidence.is_binlog_server {
            let text = format!("the binlog server {key} cannot connect to its source {source}");
            return Some((Code::BinlogServerFailingToConnectToMaster, text));
        }
        let is_first_tier = self.current.as_ref() == Some(&node::representative(self.topology, source));
        is_first_tier.then(|| {
            let node = match node::group_of(self.topology, source) {
                Some(name) => format!("{source} of the replication group {name}"),
                None => format!("the primary {source}"),
            };
            let text = format!("{key} replicates from {node} and cannot connect to it");
            (Code::FirstTierReplicaFailingToConnectToMaster, text)
        })
    }

    /// The structure warnings for an instance with replicas, or for the primary. A quarantined old primary gets none.
    fn warnings(&self, key: &InstanceKey, evidence: &Evidence) -> Vec<StructureWarning> {
        let is_shaping = !evidence.replicas.is_empty() || self.current.as_ref() == Some(key);
        if !is_shaping {
            return Vec::new();
        }
        structure::warnings(self.topology, self.policy, key, evidence, &self.received_transactions)
    }
}

fn finding(
    topology: &Topology,
    policy: &Policy,
    instance: InstanceKey,
    code: Code,
    description: String,
    evidence: Evidence,
    structure: Vec<StructureWarning>,
) -> Finding {
    let is_downtimed = |key: &InstanceKey| evidence::is_downtimed(topology, policy, key);
    Finding {
        code,
        cluster: topology.cluster.clone(),
        description,
        structure,
        downtimed: is_downtimed(&instance),
        replicas_downtimed: code.is_about_replicas()
            && !evidence.replicas.is_empty()
            && evidence.replicas.iter().all(is_downtimed),
        evidence,
        instance,
    }
}

#[cfg(test)]
mod code_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod tests;
