//! Which instances belong to one cluster, and what the state records of that cluster.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::{Instance, is_same_process};
use super::intent::Origin;
use super::key::InstanceKey;
use super::ownership;
use super::state::record::RecordedPrimary;
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

/// Groups instances. Deterministic: groups are ordered by their first address. The time grows with the number of
/// instances and recorded addresses, not with their product.
///
/// Recorded clusters stay apart while a recovery of either runs, whatever links them, so that a recovery sees its own
/// cluster until it ends. A replica that was attached to a server of another cluster belongs to that cluster.
pub fn group(
    instances: &BTreeMap<InstanceKey, Instance>,
    aliases: &BTreeMap<InstanceKey, InstanceKey>,
    state: &State,
) -> Vec<Grouping> {
    let mut sets = Sets::new(instances, aliases);
    let mut records = Records::new(&sets, state);
    let sources: Vec<Option<usize>> = instances
        .values()
        .map(|instance| sets.find(instance.source()?))
        .collect();
    records.drop_moved(&sets, &sources);
    for (id, places) in &records.places {
        let document = state.clusters.get(*id).and_then(|cluster| cluster.document.as_ref());
        if let Some(owner) = document.filter(|owner| state.documents.contains_key(owner)) {
            for place in places {
                sets.set_owner(*place, owner);
            }
        }
    }
    for places in records.places.values() {
        if let Some((first, others)) = places.split_first() {
            for other in others {
                sets.join(*first, *other);
            }
        }
    }
    let mut group_of: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, instance) in instances.values().enumerate() {
        let source = sources.get(place).copied().flatten();
        let facts = instance.facts.as_ref().filter(|facts| facts.is_group_member());
        let first = facts.map(|facts| *group_of.entry(&facts.group_name).or_insert(place));
        let peers = facts.and_then(|facts| facts.group.as_ref());
        let peers = peers.into_iter().flat_map(|group| &group.members);
        let peers: Vec<usize> = peers.filter_map(|peer| sets.find(&peer.key)).collect();
        for other in source.into_iter().chain(first).chain(peers) {
            if !records.are_kept_apart(place, other) && !sets.have_other_owners(place, other) {
                sets.join(place, other);
            }
        }
    }
    let mut groups: BTreeMap<usize, (Vec<&Cluster>, BTreeSet<InstanceKey>)> = BTreeMap::new();
    for (place, key) in instances.keys().enumerate() {
        let (_, members) = groups.entry(sets.first_of(place)).or_default();
        members.insert(key.clone());
    }
    for (id, places) in &records.places {
        let first = places.first().map(|place| sets.first_of(*place));
        if let Some((recorded, _)) = first.and_then(|first| groups.get_mut(&first)) {
            recorded.extend(state.clusters.get(id));
        }
    }
    groups
        .into_values()
        .map(|(mut recorded, instances)| {
            recorded.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            Grouping {
                recorded: recorded.into_iter().map(|cluster| cluster.id.clone()).collect(),
                instances,
            }
        })
        .collect()
}

/// Which watched instances are recorded in which cluster, by their place.
struct Records<'a> {
    state: &'a State,
    places: BTreeMap<&'a ClusterId, Vec<usize>>,
    cluster_of: BTreeMap<usize, &'a ClusterId>,
    recovering: BTreeSet<&'a ClusterId>,
}

impl<'a> Records<'a> {
    fn new(sets: &Sets<'_>, state: &'a State) -> Self {
        let place = |cluster: &'a Cluster| {
            let places = cluster.instances.iter().filter_map(|key| sets.find(key)).collect();
            (&cluster.id, places)
        };
        let places: BTreeMap<&ClusterId, Vec<usize>> = state.clusters.values().map(place).collect();
        let of = |(id, places): (&&'a ClusterId, &Vec<usize>)| {
            let id: &'a ClusterId = id;
            places.iter().map(|place| (*place, id)).collect::<Vec<_>>()
        };
        let cluster_of = places.iter().flat_map(of).collect();
        Self {
            state,
            places,
            cluster_of,
            recovering: in_recovery(state),
        }
    }

    /// Whether two servers are recorded in different clusters and a recovery of either cluster runs.
    fn are_kept_apart(&self, one: usize, other: usize) -> bool {
        match (self.cluster_of.get(&one), self.cluster_of.get(&other)) {
            (Some(one), Some(other)) => {
                one != other && (self.recovering.contains(one) || self.recovering.contains(other))
            }
            (_, None) | (None, _) => false,
        }
    }

    /// Leaves out the replicas that were attached to a server of another cluster, while the primary of their recorded
    /// cluster replicates from nothing: the replica has moved, and the clusters are still two. A cluster without a
    /// recorded primary was hardly seen yet and is merged.
    fn drop_moved(&mut self, sets: &Sets<'_>, sources: &[Option<usize>]) {
        let primary_of = |id: &ClusterId| self.state.clusters.get(id)?.primary.as_ref();
        let source_of = |place: usize| sources.get(place).copied().flatten();
        let has_moved = |place: usize, from: &ClusterId| {
            let Some(source) = source_of(place).filter(|source| !self.are_kept_apart(place, *source)) else {
                return false;
            };
            let Some(to) = self.cluster_of.get(&source).filter(|to| **to != from) else {
                return false;
            };
            let primary = primary_of(from).and_then(|primary| sets.find(&primary.instance));
            let primary_stays = primary.is_some_and(|primary| {
                primary != place && self.cluster_of.get(&primary) == Some(&from) && source_of(primary).is_none()
            });
            primary_stays && primary_of(to).is_some()
        };
        let moved: BTreeSet<usize> = self
            .cluster_of
            .iter()
            .filter(|(place, from)| has_moved(**place, from))
            .map(|(place, _)| *place)
            .collect();
        for places in self.places.values_mut() {
            places.retain(|place| !moved.contains(place));
        }
        self.cluster_of.retain(|place, _| !moved.contains(place));
    }
}

/// The clusters in which a recovery runs.
fn in_recovery(state: &State) -> BTreeSet<&ClusterId> {
    let active = state.recoveries.values().filter(|recovery| recovery.is_active());
    active.map(|recovery| &recovery.plan.cluster).collect()
}

/// Disjoint sets of instances, by their place in the order of addresses. The first instance stands for its set.
struct Sets<'a> {
    places: BTreeMap<&'a InstanceKey, usize>,
    aliases: &'a BTreeMap<InstanceKey, InstanceKey>,
    parents: Vec<usize>,
    /// The document that owns the set of the first instance.
    owners: BTreeMap<usize, &'a Origin>,
}

impl<'a> Sets<'a> {
    fn new(instances: &'a BTreeMap<InstanceKey, Instance>, aliases: &'a BTreeMap<InstanceKey, InstanceKey>) -> Self {
        Self {
            places: instances.keys().enumerate().map(|(place, key)| (key, place)).collect(),
            aliases,
            parents: (0..instances.len()).collect(),
            owners: BTreeMap::new(),
        }
    }

    /// Records the owner of a single instance.
    fn set_owner(&mut self, place: usize, owner: &'a Origin) {
        self.owners.insert(place, owner);
    }

    /// Whether different documents own the sets of two instances: a document rules its own cluster only, so no link merges them.
    fn have_other_owners(&mut self, one: usize, other: usize) -> bool {
        let (one, other) = (self.first_of(one), self.first_of(other));
        match (self.owners.get(&one), self.owners.get(&other)) {
            (Some(one), Some(other)) => one != other,
            (_, None) | (None, _) => false,
        }
    }

    /// The place of an instance, by any of its addresses; `None` when it is not watched.
    fn find(&self, key: &InstanceKey) -> Option<usize> {
        self.places.get(self.aliases.get(key).unwrap_or(key)).copied()
    }

    fn first_of(&mut self, place: usize) -> usize {
        let mut first = place;
        while let Some(parent) = self.parents.get(first).copied().filter(|parent| *parent != first) {
            first = parent;
        }
        // Later walks are short.
        let mut at = place;
        while let Some(slot) = self.parents.get_mut(at).filter(|_| at != first) {
            at = std::mem::replace(slot, first);
        }
        first
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first_of(one), self.first_of(other));
        if let Some(slot) = self.parents.get_mut(one.max(other)) {
            *slot = one.min(other);
        }
        if let Some(owner) = self.owners.get(&one.max(other)).copied() {
            self.owners.entry(one.min(other)).or_insert(owner);
        }
    }
}

/// The members of a cluster: instances that answered once or that a replica names as its source, and recorded instances
/// that are not probed at the moment. An address from discovery that never answered is not recorded, nor is a forgotten
/// one, which may still be polled for a moment.
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
    watched
        .chain(away)
        .filter(|key| !state.forgotten.contains_key(key))
        .collect()
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
/// still follows the recorded primary: while the primary is dead its record stays. Clusters are not merged while a
/// recovery of one of them runs. A node is a server at the top, a
/// replication group, or a pair of co-primaries. A group and a pair are recorded under another primary as soon as they
/// have one.
pub fn describe(state: &State, grouping: &Grouping, topology: &Topology, alias: &str) -> Option<Command> {
    let recorded = grouping.recorded.first().and_then(|id| state.clusters.get(id));
    let merges = grouping.recorded.len() > 1;
    if merges && grouping.recorded.iter().any(|id| in_recovery(state).contains(id)) {
        return None;
    }
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
    let document = ownership::owner(state, topology);
    let members = members(state, grouping, topology);
    if members.is_empty() {
        return None;
    }
    let unchanged = recorded.is_some_and(|cluster| {
        !merges
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

/// A primary that ham4db opened and that failed before it was seen as such: its last facts are those of the replica that it was. Without
/// this, a server that it replicated from, and that was made its replica, appears to be its co-primary.
pub fn forget_source_of_opened_primary(topology: &mut Topology, primary: &RecordedPrimary) {
    let key = topology.resolve(&primary.instance).clone();
    let is_before = |instance: &Instance| instance.last_seen.is_some_and(|seen| seen < primary.since);
    if let Some(instance) = topology.instances.get_mut(&key)
        && primary.opened_by.is_some()
        && !instance.is_valid()
        && is_before(instance)
        && let Some(facts) = instance
            .facts
            .as_mut()
            .filter(|facts| facts.identity == primary.identity)
    {
        facts.channels.clear();
        facts.read_only = false;
        facts.super_read_only = facts.super_read_only.map(|_| false);
    }
}

#[cfg(test)]
#[path = "grouping_tests.rs"]
mod tests;
