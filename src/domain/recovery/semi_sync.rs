//! Semi-sync replication: which replicas acknowledge the commits of a source, which should, and how many a commit waits for.
//!
//! As in orchestrator, a replica may acknowledge when it answers, is not in downtime and replicates. Replicas rank by
//! the priority that `DetectSemiSyncEnforcedQuery` gives (higher first, 0 is never), then by promotion rule, then by
//! address. Without the query all priorities are equal. Among equals a replica that acknowledges already comes first,
//! so that nothing is switched without need.
//!
//! Under a durability policy, replicas that acknowledge already come first, and one more than a commit waits for is
//! asked, so that the loss of one blocks no commit.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::analysis::evidence::{is_downtimed, is_replicating};
use crate::domain::instance::{Instance, InstanceFacts, SemiSync};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{Durability, DurabilityMode, Policy};
use crate::domain::topology::Topology;

/// What a problem of a probe begins with when the query for the priority failed.
pub(crate) const PRIORITY_PART: &str = "semi-sync priority query";

/// The replicas of a source, by their part in semi-sync.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SemiSyncReplicas {
    /// May acknowledge, the best first.
    pub(super) ranked: Vec<InstanceKey>,
    /// Are set to acknowledge and receive.
    pub(super) active: Vec<InstanceKey>,
    /// Are set to acknowledge although their priority is 0.
    pub(super) unwanted: Vec<InstanceKey>,
}

/// The direct replicas of a source.
pub(super) fn semi_sync_replicas(topology: &Topology, source: &InstanceKey, policy: &Policy) -> SemiSyncReplicas {
    let mut found = SemiSyncReplicas::default();
    let mut ranked = Vec::new();
    for replica in topology.replicas_of(source).filter(|replica| is_replicating(replica)) {
        let Some(facts) = replica.valid_facts() else { continue };
        let semi_sync = &facts.semi_sync;
        let key = &replica.key;
        if acknowledges(replica) {
            found.active.push(key.clone());
        }
        if semi_sync.priority == Some(0) {
            if semi_sync.replica_enabled {
                found.unwanted.push(key.clone());
            }
            continue;
        }
        // A priority that could not be read may be 0.
        let is_unknown = facts.problems.iter().any(|problem| problem.starts_with(PRIORITY_PART));
        let is_able = semi_sync.available || semi_sync.replica_enabled;
        if is_unknown || !is_able || is_downtimed(topology, policy, key) {
            continue;
        }
        let rule = policy.promotion_rules.get(key).copied().unwrap_or_default();
        ranked.push((Reverse(semi_sync.priority), rule, !acknowledges(replica), key.clone()));
    }
    ranked.sort();
    found.ranked = ranked.into_iter().map(|(.., key)| key).collect();
    found
}

/// Set to acknowledge, and seen to do so.
pub(super) fn acknowledges(replica: &Instance) -> bool {
    replica
        .valid_facts()
        .is_some_and(|facts| facts.semi_sync.replica_enabled && facts.semi_sync.replica_active)
}

/// How many acknowledgements a commit of this source waits for now; `None` when it waits for none.
pub(super) fn acknowledgements_awaited(semi_sync: &SemiSync) -> Option<usize> {
    let count = usize::try_from(semi_sync.wait_for_count).ok()?;
    (semi_sync.source_enabled && count > 0).then_some(count)
}

/// How commits of a semi-sync source wait: for acknowledgements of so many replicas, however many are connected,
/// without a practical timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceTerms {
    /// How many; 0: semi-sync is off.
    pub wait_for: u32,
}

impl fmt::Display for SourceTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wait_for {
            0 => f.write_str("commits wait for no replica"),
            1 => f.write_str("commits wait for 1 replica"),
            count => write!(f, "commits wait for {count} replicas"),
        }
    }
}

/// Acknowledging replicas beyond those that a commit waits for.
const SPARE_REPLICAS: usize = 1;

/// A source with a shorter semi-sync timeout, milliseconds, is not set as the policy asks: a day.
const MIN_TIMEOUT_MILLIS: u64 = 86_400_000;

/// The semi-sync settings that the durability policy asks of a source and its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SemiSyncTarget {
    /// Acknowledge, or are to.
    pub(super) acknowledging: BTreeSet<InstanceKey>,
    /// Of these, those that do not yet.
    pub(super) enable: BTreeSet<InstanceKey>,
    /// Are not to acknowledge, and do.
    pub(super) disable: BTreeSet<InstanceKey>,
    /// How many a commit is to wait for: no more than acknowledge, unless the policy is strict. 0: for none.
    pub(super) wait_for: u32,
}

/// The settings that the policy asks of a source that answers.
///
/// # Errors
/// What is not known and has to be.
pub(super) fn durability_target(
    topology: &Topology,
    source: &Instance,
    policy: &Policy,
) -> Result<SemiSyncTarget, String> {
    let durability = policy.durability;
    let facts = source
        .valid_facts()
        .ok_or_else(|| format!("{} does not answer", source.key))?;
    let present = semi_sync_replicas(topology, &source.key, policy);
    let is_fit = location_filter(durability, facts, &source.key)?;
    let fits = |key: &&InstanceKey| topology.get(key).and_then(Instance::valid_facts).is_some_and(&is_fit);
    let count = required_acknowledgements(durability, facts);
    let mut ranked: Vec<&InstanceKey> = present.ranked.iter().filter(fits).collect();
    // No replica is switched while as many acknowledge as are needed, whatever their rank.
    ranked.sort_by_key(|key| !present.active.contains(key));
    let on: BTreeSet<InstanceKey> = ranked
        .iter()
        .take(count + SPARE_REPLICAS)
        .map(|key| (*key).clone())
        .collect();
    let is_active = |key: &&InstanceKey| present.active.contains(*key);
    let enable = on.iter().filter(|key| !is_active(key)).cloned().collect();
    let misfits = present.active.iter().filter(|key| !fits(key));
    let disable = misfits.chain(&present.unwanted).cloned().collect();
    Ok(SemiSyncTarget {
        wait_for: wait_for(durability, count, on.len()),
        acknowledging: on,
        enable,
        disable,
    })
}

/// The settings of a source that is about to be opened, and which of its future replicas are to acknowledge. With
/// `only_set` no replica is switched when it is pointed at the source, so only those count that are set to
/// acknowledge.
pub fn target_of_successor(
    topology: &Topology,
    successor: &InstanceKey,
    followers: &BTreeSet<InstanceKey>,
    policy: &Policy,
    only_set: bool,
) -> Option<(SourceTerms, BTreeSet<InstanceKey>)> {
    let durability = policy.durability;
    if durability.mode == DurabilityMode::None {
        return None;
    }
    let facts = topology.get(successor).and_then(Instance::valid_facts)?;
    if !facts.semi_sync.available {
        return None;
    }
    let is_fit = location_filter(durability, facts, successor).ok()?;
    let may_acknowledge = |key: &&InstanceKey| {
        let facts = topology.get(key).and_then(Instance::valid_facts);
        facts.is_some_and(|facts| {
            let semi_sync = &facts.semi_sync;
            is_fit(facts)
                && semi_sync.available
                && semi_sync.priority != Some(0)
                && (!only_set || semi_sync.replica_enabled)
                && !is_downtimed(topology, policy, key)
        })
    };
    let count = required_acknowledgements(durability, facts);
    let mut able: Vec<&InstanceKey> = followers.iter().filter(may_acknowledge).collect();
    let is_set = |key: &InstanceKey| {
        let facts = topology.get(key).and_then(|instance| instance.facts.as_ref());
        facts.is_some_and(|facts| facts.semi_sync.replica_enabled)
    };
    able.sort_by_key(|key| !is_set(key));
    let on: BTreeSet<InstanceKey> = able.into_iter().take(count + SPARE_REPLICAS).cloned().collect();
    let wait_for = wait_for(durability, count, on.len());
    Some((SourceTerms { wait_for }, on))
}

/// Whether a source is set as it should be.
pub(super) fn is_source_set(semi_sync: &SemiSync, wait_for: u32) -> bool {
    if wait_for == 0 {
        return !semi_sync.source_enabled;
    }
    semi_sync.source_enabled
        && semi_sync.wait_for_count == wait_for
        && semi_sync.wait_no_replica
        && semi_sync.after_sync
        && semi_sync.timeout_millis >= MIN_TIMEOUT_MILLIS
}

/// Which replicas count: those in another data centre, where the policy asks for it.
fn location_filter(
    durability: Durability,
    source: &InstanceFacts,
    key: &InstanceKey,
) -> Result<impl Fn(&InstanceFacts) -> bool + use<>, String> {
    let elsewhere = durability.mode == DurabilityMode::CrossDataCenter;
    let home = source.data_center.clone();
    if elsewhere && home.is_empty() {
        return Err(format!(
            "the data centre of {key} is not known (DataCenterPattern, DetectDataCenterQuery)"
        ));
    }
    Ok(move |facts: &InstanceFacts| !elsewhere || (!facts.data_center.is_empty() && facts.data_center != home))
}

/// How many replicas the policy asks a commit to wait for. MariaDB always waits for one.
fn required_acknowledgements(durability: Durability, source: &InstanceFacts) -> usize {
    let most = if source.version.flavour.is_mariadb() {
        1
    } else {
        usize::MAX
    };
    usize::try_from(durability.count).unwrap_or(usize::MAX).clamp(1, most)
}

fn wait_for(durability: Durability, count: usize, present: usize) -> u32 {
    let number = if durability.strict { count } else { count.min(present) };
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Replicas of any source that would wait for acknowledgements themselves: their appliers could hang.
pub(super) fn waiting_replicas(topology: &Topology, primary: &InstanceKey) -> BTreeSet<InstanceKey> {
    let waits = |replica: &&Instance| {
        replica.key != *primary
            && replica.channel().is_some()
            && replica.valid_facts().is_some_and(|facts| {
                facts.group_name.is_empty() && facts.semi_sync.source_enabled && facts.semi_sync.wait_no_replica
            })
    };
    topology
        .instances
        .values()
        .filter(waits)
        .map(|replica| replica.key.clone())
        .collect()
}

/// How many of these acknowledge now.
pub(super) fn count_acknowledging(topology: &Topology, keys: &BTreeSet<InstanceKey>) -> usize {
    let is_active = |key: &&InstanceKey| topology.get(key).is_some_and(acknowledges);
    keys.iter().filter(is_active).count()
}
