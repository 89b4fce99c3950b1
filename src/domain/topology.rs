//! An immutable, ordered representation of one cluster: its instances and which of them replicate from which.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::instance::{Identity, Instance};
use super::key::InstanceKey;
use super::time::WallTime;

/// Stable id of a cluster, assigned once. The name of the primary is only a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The instances of one cluster as they were observed at one moment. Every decision is a function of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topology {
    /// Id of the cluster.
    pub cluster: ClusterId,
    /// `host:port` of the primary, or of the last known one.
    pub cluster_name: String,
    /// Alias of the cluster; its name when it has no alias.
    #[serde(default)]
    pub cluster_alias: String,
    /// The primary in the replicated state, if there is one: the server that was opened or seen as primary last.
    #[serde(default)]
    pub recorded_primary: Option<InstanceKey>,
    /// When the topology was made.
    pub taken: WallTime,
    /// The instances by address.
    pub instances: BTreeMap<InstanceKey, Instance>,
    /// Other addresses of the same servers, each with the address that `instances` has.
    #[serde(default)]
    pub aliases: BTreeMap<InstanceKey, InstanceKey>,
}

impl Topology {
    /// The address under which `instances` holds a server.
    pub fn resolve<'a>(&'a self, key: &'a InstanceKey) -> &'a InstanceKey {
        self.aliases.get(key).unwrap_or(key)
    }

    /// The instance at an address, which may be one of its other addresses.
    pub fn get(&self, key: &InstanceKey) -> Option<&Instance> {
        self.instances.get(self.resolve(key))
    }

    /// The resolved address of the source of an instance, whether or not that server is known.
    pub fn source_of<'a>(&'a self, instance: &'a Instance) -> Option<&'a InstanceKey> {
        instance.source().map(|source| self.resolve(source))
    }

    /// The `server_uuid`s of an instance and its sources up to the top, the top first, separated by commas; each once. Servers without
    /// one are left out.
    pub fn ancestry_of(&self, instance: &Instance) -> String {
        let mut line = vec![instance];
        let mut current = instance;
        while let Some(source) = self.source_of(current).and_then(|key| self.instances.get(key)) {
            if line.iter().any(|member| member.key == source.key) {
                break;
            }
            line.push(source);
            current = source;
        }
        let uuid = |member: &&Instance| match member.facts.as_ref().map(|facts| &facts.identity) {
            Some(Identity::ServerUuid(uuid)) => Some(uuid.clone()),
            Some(Identity::ServerId(_)) | None => None,
        };
        line.iter().rev().filter_map(uuid).collect::<Vec<_>>().join(",")
    }

    /// The direct replicas of an address by their last facts, valid or not, ordered by address.
    pub fn replicas_of<'a>(&'a self, key: &'a InstanceKey) -> impl Iterator<Item = &'a Instance> + 'a {
        let key = self.resolve(key);
        self.instances
            .values()
            .filter(move |instance| instance.key != *key && self.source_of(instance) == Some(key))
    }

    /// All replicas below an address, direct ones first, each once.
    pub fn descendants_of<'a>(&'a self, key: &'a InstanceKey) -> Vec<&'a Instance> {
        let top = self.resolve(key);
        self.walk_down(top, BTreeSet::from([top]))
    }

    /// All replicas below an address that can be reached without passing through `barrier`, direct ones first, each
    /// once. Two co-primaries are below each other, and so are all replicas of either of them.
    pub fn descendants_beside<'a>(&'a self, key: &'a InstanceKey, barrier: &'a InstanceKey) -> Vec<&'a Instance> {
        let top = self.resolve(key);
        self.walk_down(top, BTreeSet::from([top, self.resolve(barrier)]))
    }

    fn walk_down<'a>(&'a self, top: &'a InstanceKey, mut seen: BTreeSet<&'a InstanceKey>) -> Vec<&'a Instance> {
        let mut below: BTreeMap<&InstanceKey, Vec<&Instance>> = BTreeMap::new();
        for instance in self.instances.values() {
            if let Some(source) = self.source_of(instance) {
                below.entry(source).or_default().push(instance);
            }
        }
        let mut found: Vec<&Instance> = Vec::new();
        let mut level: Vec<&InstanceKey> = vec![top];
        while !level.is_empty() {
            let mut next = Vec::new();
            for replica in level.iter().filter_map(|parent| below.get(parent)).flatten() {
                if seen.insert(&replica.key) {
                    next.push(&replica.key);
                    found.push(replica);
                }
            }
            level = next;
        }
        found
    }

    /// Replication hops from an instance to the top; 0 for an instance without a source and for one with a source that is not
    /// in the topology. A loop (co-primaries) ends the count.
    pub fn depth_of(&self, instance: &Instance) -> u32 {
        let mut seen = BTreeSet::from([&instance.key]);
        let mut depth = 0;
        let mut current = instance;
        while let Some(source) = self.source_of(current).and_then(|key| self.instances.get(key)) {
            if !seen.insert(&source.key) {
                break;
            }
            depth += 1;
            current = source;
        }
        depth
    }

    /// Whether two instances replicate from each other.
    pub fn is_co_primary(&self, instance: &Instance) -> bool {
        self.source_of(instance)
            .and_then(|key| self.instances.get(key))
            .is_some_and(|source| source.key != instance.key && self.source_of(source) == Some(&instance.key))
    }

    /// Whether an instance replicates from itself through others: it is one of two co-primaries or part of a longer
    /// ring. A co-primary that was lost while it caught up from another server forms a ring of three with that server.
    pub fn is_in_ring(&self, instance: &Instance) -> bool {
        self.source_of(instance).is_some_and(|source| {
            self.descendants_of(&instance.key)
                .iter()
                .any(|below| below.key == *source)
        })
    }

    /// Whether an instance is at the top: it has no source.
    pub fn is_primary(&self, instance: &Instance) -> bool {
        instance.facts.is_some() && instance.source().is_none()
    }

    /// The instances at the top of the topology, known or only named by replicas, ordered by address.
    pub fn tops(&self) -> BTreeSet<InstanceKey> {
        self.instances
            .values()
            .map(|instance| match self.source_of(instance) {
                Some(source) if !self.instances.contains_key(source) => source.clone(),
                Some(_) | None => instance.key.clone(),
            })
            .filter(|key| {
                self.instances
                    .get(key)
                    .is_none_or(|instance| instance.source().is_none())
            })
            .collect()
    }

    /// The instance with this identity by its last facts.
    pub fn by_identity(&self, identity: &Identity) -> Option<&Instance> {
        self.instances
            .values()
            .find(|instance| instance.facts.as_ref().is_some_and(|facts| facts.identity == *identity))
    }
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
