//! The nodes at the top of a cluster, and its primary.
//!
//! A *node* is what can be writable as one unit: a server, or a whole replication group. A group is represented by one
//! member, its primary where that is known. Co-primaries replicate from each other, so by their own facts no server of
//! such a cluster is at the top.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::group_replication::{GroupMember, GroupRole, GroupState};
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::topology::Topology;

/// The known tops of a topology: by their own last facts, because replicas name them as source, or because they are
/// recorded as primary. An address that was never probed successfully and that no replica names is left out, since its
/// place is unknown. Members of a group of which one replicates from a server outside the group are not tops either.
pub fn tops(topology: &Topology) -> BTreeSet<InstanceKey> {
    let recorded = recorded_primary(topology);
    topology
        .tops()
        .into_iter()
        .filter(|key| {
            let is_known = topology.get(key).is_some_and(|instance| instance.facts.is_some());
            is_known || recorded == Some(key) || topology.replicas_of(key).next().is_some()
        })
        .filter(|key| match group_of(topology, key) {
            Some(name) => members(topology, name).all(|member| is_outside(topology, member)),
            None => true,
        })
        .collect()
}

/// The member has no source, or replicates from a member of its own group.
fn is_outside(topology: &Topology, member: &Instance) -> bool {
    topology.source_of(member).is_none_or(|source| {
        group_of(topology, source).is_some_and(|name| group_of(topology, &member.key) == Some(name))
    })
}

/// The replication group that a server belongs to by its last facts.
pub fn group_of<'a>(topology: &'a Topology, key: &InstanceKey) -> Option<&'a str> {
    topology
        .get(key)
        .and_then(|instance| instance.facts.as_ref())
        .filter(|facts| facts.is_group_member())
        .map(|facts| facts.group_name.as_str())
}

/// The known members of a group, ordered by address.
pub fn members<'a>(topology: &'a Topology, name: &'a str) -> impl Iterator<Item = &'a Instance> + 'a {
    topology.instances.values().filter(move |instance| {
        instance
            .facts
            .as_ref()
            .is_some_and(|facts| facts.is_group_member() && facts.group_name == name)
    })
}

/// The primary of a group as its answering members report it: first a member that reports itself as primary, then the
/// reports of the others. In multi-primary mode the recorded primary of the cluster if it is one of the primaries,
/// otherwise the first by address. `None` when no member reports one.
pub fn group_primary<'a>(topology: &'a Topology, name: &'a str) -> Option<&'a InstanceKey> {
    let by_their_word = |instance: &Instance| {
        instance
            .valid_facts()
            .and_then(|facts| facts.group.as_ref())
            .is_some_and(GroupMember::is_online_primary)
    };
    let own: BTreeSet<&InstanceKey> = members(topology, name)
        .filter(|instance| by_their_word(instance))
        .map(|instance| &instance.key)
        .collect();
    let told: BTreeSet<&InstanceKey> = if own.is_empty() {
        members(topology, name)
            .filter_map(|instance| instance.valid_facts()?.group.as_ref())
            .filter(|group| group.state == GroupState::Online)
            .flat_map(|group| &group.members)
            .filter(|peer| peer.role == GroupRole::Primary)
            .map(|peer| {
                let by_uuid = topology.by_identity(&crate::domain::instance::Identity::ServerUuid(peer.uuid.clone()));
                by_uuid.map_or_else(|| topology.resolve(&peer.key), |instance| &instance.key)
            })
            .collect()
    } else {
        own
    };
    recorded_primary(topology)
        .filter(|recorded| told.contains(recorded))
        .or_else(|| told.first().copied())
}

/// The nodes at the top, each with the address that represents it and its members.
fn nodes(topology: &Topology) -> BTreeMap<InstanceKey, BTreeSet<InstanceKey>> {
    let mut nodes: BTreeMap<InstanceKey, BTreeSet<InstanceKey>> = BTreeMap::new();
    for key in tops(topology) {
        let stands_for_it = representative(topology, &key);
        nodes.entry(stands_for_it).or_default().insert(key);
    }
    nodes
}

/// The address that represents the node of a server. For a server outside a group it is its own. For a group it is the
/// primary; when no member reports one, the recorded primary of the cluster if it is a member; otherwise the first
/// member.
pub fn representative(topology: &Topology, key: &InstanceKey) -> InstanceKey {
    let key = topology.resolve(key);
    let Some(name) = group_of(topology, key) else {
        return key.clone();
    };
    let first = || members(topology, name).map(|member| &member.key).next();
    let recorded = || recorded_primary(topology).filter(|recorded| group_of(topology, recorded) == Some(name));
    group_primary(topology, name)
        .or_else(recorded)
        .or_else(first)
        .unwrap_or(key)
        .clone()
}

/// The primary of a cluster, dead or alive, or `None` when the topology does not show one.
///
/// The recorded primary while it is at the top and nothing indicates another one; otherwise the only top; otherwise the
/// only top that has replicas. When there is no top: of a ring the recorded one, otherwise the only writable
/// co-primary. A dead intermediate server that is only known because replicas name it (all members restarted) is
/// therefore not taken for a dead primary while the recorded primary is there.
pub fn current_primary(topology: &Topology) -> Option<InstanceKey> {
    let nodes = nodes(topology);
    let has_replicas = |members: &BTreeSet<InstanceKey>| {
        members
            .iter()
            .any(|member| topology.replicas_of(member).next().is_some())
    };
    let answers = |members: &BTreeSet<InstanceKey>| members.iter().any(|member| is_valid(topology, member));
    let recorded = recorded_primary(topology).map(|recorded| representative(topology, recorded));
    if let Some((recorded, members)) = recorded.and_then(|recorded| nodes.get_key_value(&recorded)) {
        let has_rival = nodes
            .iter()
            .any(|(key, members)| key != recorded && has_replicas(members) && answers(members));
        let is_deserted = !answers(members) && !has_replicas(members) && has_rival;
        if !is_deserted {
            return Some(recorded.clone());
        }
    }
    let co_primaries = co_primaries(topology);
    if let Some(recorded) = recorded_primary(topology).filter(|recorded| co_primaries.contains(recorded)) {
        return Some(recorded.clone());
    }
    if let Some(recorded) =
        recorded_primary(topology).filter(|recorded| nodes.is_empty() && is_in_a_ring(topology, recorded))
    {
        return Some(recorded.clone());
    }
    only(nodes.keys())
        .or_else(|| {
            only(
                nodes
                    .iter()
                    .filter(|(_, members)| has_replicas(members))
                    .map(|(key, _)| key),
            )
        })
        .or_else(|| {
            let is_writable = |key: &&&InstanceKey| {
                topology
                    .get(key)
                    .and_then(Instance::valid_facts)
                    .is_some_and(InstanceFacts::is_writable)
            };
            only(co_primaries.iter().filter(is_writable)).copied()
        })
        .cloned()
}

/// Whether a server is the primary of its ring: it replicates from itself through several others, and none of them
/// takes writes. A co-primary that was lost while it caught up from another server forms a ring of three with that
/// server. Where other servers of the ring take writes too, the loss of one loses nothing.
pub(super) fn is_in_a_ring(topology: &Topology, key: &InstanceKey) -> bool {
    let is_in_ring = topology.get(key).is_some_and(|instance| topology.is_in_ring(instance));
    let is_writable = |instance: &Instance| instance.valid_facts().is_some_and(InstanceFacts::is_writable);
    let mut others = topology.instances.values().filter(|instance| instance.key != *key);
    is_in_ring && !others.any(is_writable)
}

/// The servers that replicate from each other, in pairs.
pub fn co_primaries(topology: &Topology) -> BTreeSet<&InstanceKey> {
    topology
        .instances
        .values()
        .filter(|instance| topology.is_co_primary(instance))
        .map(|instance| &instance.key)
        .collect()
}

/// Reachable writable nodes at the top other than `than`: a promotion below `than` while there is one would make two
/// writable primaries.
pub fn other_writable_tops(topology: &Topology, than: &InstanceKey) -> BTreeSet<InstanceKey> {
    let than = representative(topology, than);
    writable_tops(topology).into_iter().filter(|key| *key != than).collect()
}

/// Reachable writable nodes at the top. A group is one node, however many of its members take writes.
pub fn writable_tops(topology: &Topology) -> BTreeSet<InstanceKey> {
    let is_writable = |key: &InstanceKey| {
        topology
            .get(key)
            .and_then(Instance::valid_facts)
            .is_some_and(InstanceFacts::is_writable)
    };
    nodes(topology)
        .into_iter()
        .filter(|(_, members)| members.iter().any(is_writable))
        .map(|(key, _)| key)
        .collect()
}

/// The address of the recorded primary in the topology.
pub(super) fn recorded_primary(topology: &Topology) -> Option<&InstanceKey> {
    topology.recorded_primary.as_ref().map(|key| topology.resolve(key))
}

fn is_valid(topology: &Topology, key: &InstanceKey) -> bool {
    topology.get(key).is_some_and(Instance::is_valid)
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}
