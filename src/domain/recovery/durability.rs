//! Who is to acknowledge commits, and how many a commit is to wait for, under the durability policy of a cluster.
//!
//! Those that acknowledge already come first (`acknowledging`). One more than a commit waits for is asked, so
//! that the loss of one stops nobody.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::analysis::evidence::is_downtimed;
use crate::domain::instance::{Instance, InstanceFacts, SemiSync};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{Durability, DurabilityMode, Policy};
use crate::domain::topology::Topology;

use super::acknowledging::{acknowledges, acknowledging};

/// How commits of a semi-sync source wait: for acknowledgements of so many replicas, whoever is connected and as good as for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceTerms {
    /// How many; 0: semi-sync is off.
    pub wait_for: u32,
}

impl fmt::Display for SourceTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wait_for {
            0 => f.write_str("commits wait for nobody"),
            1 => f.write_str("commits wait for 1 replica"),
            count => write!(f, "commits wait for {count} replicas"),
        }
    }
}

/// Acknowledging replicas beyond those that a commit waits for.
const SPARE: usize = 1;

/// A source that gives up waiting earlier than this, milliseconds, is not set as the policy wants it: a day.
const AS_GOOD_AS_FOR_EVER: u64 = 86_400_000;

/// What the policy wants of a source and its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Acknowledge, or are to.
    pub(super) on: BTreeSet<InstanceKey>,
    /// Of these, those that do not yet.
    pub(super) enable: BTreeSet<InstanceKey>,
    /// Are not to acknowledge, and do.
    pub(super) disable: BTreeSet<InstanceKey>,
    /// How many a commit is to wait for: no more than acknowledge, unless the policy is strict. 0: for none.
    pub(super) wait_for: u32,
}

/// What the policy wants of a living source.
///
/// # Errors
/// What is not known and has to be.
pub(super) fn wanted(topology: &Topology, source: &Instance, policy: &Policy) -> Result<Wanted, String> {
    let durability = policy.durability;
    let facts = source
        .valid_facts()
        .ok_or_else(|| format!("{} does not answer", source.key))?;
    let present = acknowledging(topology, &source.key, policy);
    let is_fit = fitting(durability, facts, &source.key)?;
    let fits = |key: &&InstanceKey| topology.get(key).and_then(Instance::valid_facts).is_some_and(&is_fit);
    let count = count(durability, facts);
    let mut ranked: Vec<&InstanceKey> = present.ranked.iter().filter(fits).collect();
    // Nobody is switched while as many acknowledge as are needed, however they rank.
    ranked.sort_by_key(|key| !present.active.contains(key));
    let on: BTreeSet<InstanceKey> = ranked.iter().take(count + SPARE).map(|key| (*key).clone()).collect();
    let is_active = |key: &&InstanceKey| present.active.contains(*key);
    let enable = on.iter().filter(|key| !is_active(key)).cloned().collect();
    let misfits = present.active.iter().filter(|key| !fits(key));
    let disable = misfits.chain(&present.unwanted).cloned().collect();
    Ok(Wanted {
        wait_for: wait_for(durability, count, on.len()),
        on,
        enable,
        disable,
    })
}

/// What a source is to be set to that is about to be opened, and who of those that will follow it is to acknowledge. `only_set`: nobody
/// is switched when it is pointed at the source, so only those count that acknowledge as they are set.
pub fn wanted_of_successor(
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
    let is_fit = fitting(durability, facts, successor).ok()?;
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
    let count = count(durability, facts);
    let mut able: Vec<&InstanceKey> = followers.iter().filter(may_acknowledge).collect();
    let is_set = |key: &InstanceKey| {
        let facts = topology.get(key).and_then(|instance| instance.facts.as_ref());
        facts.is_some_and(|facts| facts.semi_sync.replica_enabled)
    };
    able.sort_by_key(|key| !is_set(key));
    let on: BTreeSet<InstanceKey> = able.into_iter().take(count + SPARE).cloned().collect();
    let wait_for = wait_for(durability, count, on.len());
    Some((SourceTerms { wait_for }, on))
}

/// Whether a source is set as it is to be.
pub(super) fn is_set(semi_sync: &SemiSync, wait_for: u32) -> bool {
    if wait_for == 0 {
        return !semi_sync.source_enabled;
    }
    semi_sync.source_enabled
        && semi_sync.wait_for_count == wait_for
        && semi_sync.wait_no_replica
        && semi_sync.after_sync
        && semi_sync.timeout_millis >= AS_GOOD_AS_FOR_EVER
}

/// Those of another data centre, where the policy asks for it.
fn fitting(
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

/// How many the policy wants a commit to wait for. MariaDB waits for one and cannot be told otherwise.
fn count(durability: Durability, source: &InstanceFacts) -> usize {
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

/// Replicas, of whomever, that would wait for acknowledgements themselves: their appliers could hang.
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
pub(super) fn acknowledging_of(topology: &Topology, keys: &BTreeSet<InstanceKey>) -> usize {
    let is_active = |key: &&InstanceKey| topology.get(key).is_some_and(acknowledges);
    keys.iter().filter(is_active).count()
}
