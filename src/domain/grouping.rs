//! Which instances belong to one cluster, and what the state records of that cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::{Instance, is_same_process};
use super::intent::Origin;
use super::key::InstanceKey;
use super::state::{Cluster, Command, State};
use super::topology::{ClusterId, Topology};

/// Instances that belong together: linked by replication, in one replication group, or recorded as one cluster. Only
/// commands split clusters, so a failed primary stays with the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// The recorded clusters that the instances belong to, oldest first. Several are merged; none is a new cluster.
    pub recorded: Vec<ClusterId>,
    /// The instances.
    pub instances: BTreeSet<InstanceKey>,
}

/// Groups instances. Deterministic: groups are ordered by their first address.
pub fn group(
    instances: &BTreeMap<InstanceKey, Instance>,
    aliases: &BTreeMap<InstanceKey, InstanceKey>,
    clusters: &BTreeMap<ClusterId, Cluster>,
) -> Vec<Grouping> {
    let resolve = |key: &InstanceKey| aliases.get(key).unwrap_or(key).clone();
    let mut neighbours: BTreeMap<InstanceKey, BTreeSet<InstanceKey>> =
        instances.keys().map(|key| (key.clone(), BTreeSet::new())).collect();
    let mut link = |a: &InstanceKey, b: &InstanceKey| {
        if instances.contains_key(a) && instances.contains_key(b) {
            neighbours.entry(a.clone()).or_default().insert(b.clone());
            neighbours.entry(b.clone()).or_default().insert(a.clone());
        }
    };
    for instance in instances.values() {
        if let Some(source) = instance.source() {
            link(&instance.key, &resolve(source));
        }
    }
    let mut group_of: BTreeMap<&str, &InstanceKey> = BTreeMap::new();
    for instance in instances.values() {
        let facts = instance.facts.as_ref().filter(|facts| facts.is_group_member());
        let Some(facts) = facts else { continue };
        let first = group_of.entry(&facts.group_name).or_insert(&instance.key);
        link(first, &instance.key);
        for peer in facts.group.iter().flat_map(|group| &group.members) {
            link(&instance.key, &resolve(&peer.key));
        }
    }
    for cluster in clusters.values() {
        let mut members = cluster
            .instances
            .iter()
            .map(&resolve)
            .filter(|key| instances.contains_key(key));
        if let Some(first) = members.next() {
            for member in members {
                link(&first, &member);
            }
        }
    }
    let mut groups = Vec::new();
    let mut done: BTreeSet<InstanceKey> = BTreeSet::new();
    for start in instances.keys() {
        if done.contains(start) {
            continue;
        }
        let mut found = BTreeSet::from([start.clone()]);
        let mut waiting = vec![start.clone()];
        while let Some(key) = waiting.pop() {
            for neighbour in neighbours.get(&key).into_iter().flatten() {
                if found.insert(neighbour.clone()) {
                    waiting.push(neighbour.clone());
                }
            }
        }
        done.extend(found.iter().cloned());
        let mut recorded: Vec<&Cluster> = clusters
            .values()
            .filter(|cluster| cluster.instances.iter().any(|key| found.contains(&resolve(key))))
            .collect();
        recorded.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        groups.push(Grouping {
            recorded: recorded.into_iter().map(|cluster| cluster.id.clone()).collect(),
            instances: found,
        });
    }
    groups
}

/// The document that owns a cluster: the oldest of those with a seed in it; ties are broken by name.
pub fn owner(state: &State, topology: &Topology) -> Option<Origin> {
    state
        .documents
        .values()
        .filter(|document| {
            document
                .seeds
                .iter()
                .any(|seed| topology.instances.contains_key(topology.resolve(seed)))
        })
        .min_by_key(|document| (document.created, document.origin.clone()))
        .map(|document| document.origin.clone())
}

/// The members of a cluster: instances that answered once or that a replica names as its source, and recorded instances
/// that are not probed at the moment. An address from discovery that never answered is not recorded.
fn members(state: &State, grouping: &Grouping, topology: &Topology) -> BTreeSet<InstanceKey> {
    let sources: BTreeSet<&InstanceKey> = topology
        .instances
        .values()
        .filter_map(|instance| topology.source_of(instance))
        .collect();
    let recorded = || {
        grouping
            .recorded
            .iter()
            .filter_map(|id| state.clusters.get(id))
            .flat_map(|cluster| &cluster.instances)
    };
    let stays = |instance: &&Instance| {
        instance.facts.is_some()
            || sources.contains(&instance.key)
            || recorded().any(|key| topology.resolve(key) == &instance.key)
    };
    let watched = topology
        .instances
        .values()
        .filter(stays)
        .map(|instance| instance.key.clone());
    let away = recorded()
        .filter(|key| !topology.instances.contains_key(topology.resolve(key)))
        .cloned();
    watched.chain(away).collect()
}

/// The primary of the only writable node, or `None` when there is no such node or more than one. Where several members
/// of a node are writable, the recorded one is taken, otherwise the first by address.
fn writable_node<'a>(
    topology: &Topology,
    writable: &[&'a Instance],
    recorded: Option<&InstanceKey>,
) -> Option<&'a Instance> {
    let first = writable.first()?;
    let is_one = writable
        .iter()
        .all(|instance| instance.key == first.key || are_one_node(topology, &instance.key, &first.key));
    let of_recorded = || {
        let recorded = topology.resolve(recorded?);
        writable.iter().find(|instance| instance.key == *recorded)
    };
    is_one.then(|| *of_recorded().unwrap_or(first))
}

/// Whether two servers are members of one replication group, or co-primaries of each other.
fn are_one_node(topology: &Topology, one: &InstanceKey, other: &InstanceKey) -> bool {
    let (one, other) = (topology.resolve(one), topology.resolve(other));
    let group = |key| super::analysis::node::group_of(topology, key);
    let replicates = |from: &InstanceKey, to: &InstanceKey| {
        topology.get(from).and_then(|instance| topology.source_of(instance)) == Some(to)
    };
    group(one).is_some_and(|name| group(other) == Some(name)) || (replicates(one, other) && replicates(other, one))
}

/// The command that updates the record of a cluster, or `None` when the record is up to date.
///
/// The primary is recorded only when exactly one node answers and is writable, is not in quarantine, and no replica
/// still follows the recorded primary: while the primary is dead its record stays. A node is a server at the top, a
/// replication group, or a pair of co-primaries. A group and a pair are recorded under another primary as soon as they
/// have one.
pub fn describe(state: &State, grouping: &Grouping, topology: &Topology, alias: &str) -> Option<Command> {
    let recorded = grouping.recorded.first().and_then(|id| state.clusters.get(id));
    let seen = |instance: &&Instance| instance.facts.is_some();
    if recorded.is_none() && !topology.instances.values().any(|instance| seen(&instance)) {
        return None;
    }
    let quarantined = |instance: &Instance| {
        state.quarantines.values().any(|quarantine| {
            quarantine.cluster == topology.cluster
                && instance
                    .facts
                    .as_ref()
                    .is_some_and(|facts| facts.identity == quarantine.identity)
        })
    };
    let writable: Vec<&Instance> = topology
        .instances
        .values()
        .filter(|instance| {
            (topology.is_primary(instance) || topology.is_co_primary(instance))
                && !quarantined(instance)
                && instance
                    .valid_facts()
                    .is_some_and(super::instance::InstanceFacts::is_writable)
        })
        .collect();
    let present = recorded.and_then(|cluster| cluster.primary.as_ref());
    let only = writable_node(topology, &writable, present.map(|primary| &primary.instance));
    let still_followed = present.is_some_and(|primary| {
        topology.replicas_of(&primary.instance).any(Instance::is_valid)
            && only.is_none_or(|top| {
                top.key != *topology.resolve(&primary.instance) && !are_one_node(topology, &top.key, &primary.instance)
            })
    });
    // The records of the cluster itself name its primary.
    let recovering = state
        .recoveries
        .values()
        .any(|recovery| recovery.is_active() && recovery.plan.cluster == topology.cluster);
    let primary = only.filter(|_| !still_followed && !recovering).and_then(|top| {
        top.facts
            .as_ref()
            .map(|facts| (top.key.clone(), facts.identity.clone()))
    });
    let process = only
        .filter(|_| primary.is_some())
        .and_then(|top| top.valid_facts()?.started);
    let document = owner(state, topology);
    let members = members(state, grouping, topology);
    let unchanged = recorded.is_some_and(|cluster| {
        grouping.recorded.len() == 1
            && cluster.instances == members
            && cluster.document == document
            && (alias.is_empty() || cluster.alias == alias)
            && match (&primary, &cluster.primary) {
                (None, _) => true,
                (Some((key, identity)), Some(present)) => {
                    present.instance == *key
                        && present.identity == *identity
                        && (process.is_none() || is_same_process(process, present.process))
                }
                (Some(_), None) => false,
            }
    });
    if unchanged {
        return None;
    }
    Some(Command::DescribeCluster {
        id: topology.cluster.clone(),
        instances: members,
        primary,
        process,
        alias: alias.to_owned(),
        absorbs: grouping.recorded.iter().skip(1).cloned().collect(),
        document,
        chosen: None,
    })
}

#[cfg(test)]
#[path = "grouping_tests.rs"]
mod tests;
