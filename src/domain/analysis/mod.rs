//! Topology → findings: a pure function over one cluster, run when that cluster changed.
//!
//! - [`node`]: who stands at the top, and who the primary is.
//! - [`primary`], [`semi_sync`]: the codes of servers at the top.
//! - [`co_primary`], [`intermediate`], [`group`]: those of co-primaries, of servers in the middle, of members of a replication group.
//! - [`evidence`]: what was counted over the direct replicas.
//! - [`silence`]: what tells a primary that is cut off from everybody from one that only we do not reach.
//! - [`structure`]: warnings about the shape of the topology.
//! - `settings`, `identity`: what a server's own settings, rights and identity say; advice that triggers nothing.
//! - `quorum`: where the members are that would have to agree; advice too.
//! - [`startup`]: whether a primary is perhaps still starting.
//! - [`opinion`]: what a member answers when it is asked about a suspect, and when the members agree.
//!
//! The codes are orchestrator's, and so are their conditions, but for these:
//! - A replica *receives* when its receiving thread runs, whatever the applying thread does. Orchestrator wants both threads, and so
//!   reports `DeadMaster` for a living primary whose replicas have their SQL threads stopped.
//! - A failure that proves life (`Stalled`, `Saturated`, access denied, ...) is never a dead server.
//! - A failure that is about ourselves is none either: missing credentials never; an unresolvable name (the DNS entry of a pod that
//!   is gone) only when a replica answers and every one that answers cannot connect to the server either.
//! - A primary without a single answering replica among several is `AllMasterReplicasNotReplicatingOrDead`; orchestrator says nothing.
//! - An intermediate primary that lives and that none of its answering replicas can connect to is
//!   `AllIntermediateMasterReplicasFailingToConnectOrDead` for a failure that proves life as well.
//! - A co-primary that answered in part and whose replicas receive is `UnreachableCoMaster`; orchestrator says nothing.
//! - A read-only primary is a failure only beside no other writable server, and not while a recovery has it in its hands.
//! - A replication group of which no member answers is `UnreachableMaster`; orchestrator says nothing.

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
pub mod primary;
mod quorum;
pub mod semi_sync;
mod servers;
mod settings;
pub mod silence;
pub mod startup;
pub mod structure;

pub use node::{current_primary, group_primary, other_writable_tops};
pub use opinion::{Agreement, OpinionContext, Suspicion, agreement, verdict};
pub use silence::is_silent;

/// All findings of one cluster: at most one per instance, in order of precedence, then of address.
///
/// A function of its arguments alone. They may be kept and shown again until one of the arguments changes, `now` apart; only when one
/// of them says [`Code::changes_with_time`] they have to be made anew. Downtimes come from `policy`: an instance in downtime has its
/// findings shown, marked as such.
pub fn findings(topology: &Topology, policy: &Policy, quarantines: &[Quarantine], now: WallTime) -> Vec<Finding> {
    let inputs = AnalysisInputs::of(topology, policy, quarantines, now);
    let judged: Vec<(InstanceKey, Evidence, Assessment)> = inputs
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
                let no_problem = String::from("no problem but the shape of the topology");
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

/// A code with one sentence for people, or nothing to report.
type Assessment = Option<(Code, String)>;

/// A cluster with what all judgements about it need.
struct AnalysisInputs<'a> {
    topology: &'a Topology,
    policy: &'a Policy,
    quarantines: Vec<&'a Quarantine>,
    now: WallTime,
    tops: BTreeSet<InstanceKey>,
    current: Option<InstanceKey>,
    /// What the servers below each top hold, and below the primary of co-primaries.
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

    /// Everybody in the view, and those at the top that are only named or recorded.
    fn subjects(&self) -> BTreeSet<InstanceKey> {
        self.topology
            .instances
            .keys()
            .filter(|key| !self.is_unplaced(key))
            .chain(&self.tops)
            .cloned()
            .collect()
    }

    /// Never asked with success, named by nobody and not recorded: nothing is known of its place.
    fn is_unplaced(&self, key: &InstanceKey) -> bool {
        !self.tops.contains(key) && self.topology.get(key).is_none_or(|instance| instance.facts.is_none())
    }

    fn quarantine_of(&self, key: &InstanceKey) -> Option<&'a Quarantine> {
        self.quarantines
            .iter()
            .copied()
            .find(|quarantine| primary::is_quarantined_as(self.topology, key, quarantine))
    }

    fn judge(&self, key: &InstanceKey, evidence: &Evidence) -> Assessment {
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
        // A server of which nothing was ever seen, beside the real primary, is no primary: most likely it stands in the middle.
        let was_seen = topology.get(key).is_some_and(|instance| instance.facts.is_some());
        if !was_seen && self.current.as_ref().is_some_and(|current| current != key) {
            return intermediate::judge(key, evidence);
        }
        primary::judge(topology, self.policy, key, self.current.as_ref(), evidence, self.now)
    }

    /// It cannot connect to its source, and no finding about the source says why.
    fn cannot_connect(&self, key: &InstanceKey, evidence: &Evidence, explained: &BTreeSet<InstanceKey>) -> Assessment {
        let source = self.topology.source_of(self.topology.get(key)?)?;
        if !evidence.is_failing_to_connect || explained.contains(source) {
            return None;
        }
        if evidence.is_binlog_server {
            let told = format!("the binlog server {key} cannot connect to its source {source}");
            return Some((Code::BinlogServerFailingToConnectToMaster, told));
        }
        let is_first_tier = self.current.as_ref() == Some(&node::representative(self.topology, source));
        is_first_tier.then(|| {
            let node = match node::group_of(self.topology, source) {
                Some(name) => format!("{source} of the replication group {name}"),
                None => format!("the primary {source}"),
            };
            let told = format!("{key} replicates from {node} and cannot connect to it");
            (Code::FirstTierReplicaFailingToConnectToMaster, told)
        })
    }

    /// The warnings for an instance with replicas, or for the primary. The old primary in quarantine is no part of the shape.
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
