//! The groups of instances that belong together, kept from one view to the next.
//!
//! With thousands of servers some answer is recorded every few milliseconds. So a view copies only the instances about which something was
//! recorded since the last view, and groups instances again only when a link between them or the replicated state is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::grouping::{self, Grouping};
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::state::State;
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use crate::app::observation::instance_cache::{InstanceCache, Snapshot};

/// When anything changed, instances are grouped again at the latest after this, milliseconds, whatever the grouping depends on.
const REGROUP_MILLIS: u64 = 1000;

/// Instances that form one topology, whether the cluster is recorded or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The instances, and the records of the clusters that they belong to.
    pub grouping: Grouping,
    /// Their topology, with the id of the oldest record; with an empty id when there is no record. It was taken when the last of the
    /// instances changed.
    pub topology: Topology,
    /// The revision of each instance.
    pub revisions: BTreeMap<InstanceKey, u64>,
}

/// All groups at one time, with the state that their records are taken from.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    pub(super) state: Arc<State>,
    pub(super) groups: Arc<Vec<Arc<Group>>>,
}

/// What the links of an instance to others follow from.
#[derive(Debug, PartialEq, Eq)]
struct Links {
    source: Option<InstanceKey>,
    group: Option<(String, BTreeSet<InstanceKey>)>,
}

impl Links {
    fn of(instance: &Instance) -> Self {
        let facts = instance.facts.as_ref().filter(|facts| facts.is_group_member());
        let group = facts.map(|facts| {
            let peers = facts.group.iter().flat_map(|group| &group.members);
            (facts.group_name.clone(), peers.map(|peer| peer.key.clone()).collect())
        });
        Self {
            source: instance.source().cloned(),
            group,
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    snapshot: Snapshot,
    links: BTreeMap<InstanceKey, Links>,
    aliases_of: BTreeMap<InstanceKey, Vec<InstanceKey>>,
    /// The index in `groups` of the group of each instance.
    group_of: BTreeMap<InstanceKey, usize>,
    grouped_at: WallTime,
    current: Option<Groups>,
    groupings: u64,
}

/// The last groups, and what they were made from.
#[derive(Debug, Default)]
pub(super) struct GroupCache {
    known: Mutex<Known>,
}

impl GroupCache {
    /// The groups of the present observations and of `state`.
    pub(super) fn current(&self, instance_cache: &InstanceCache, state: Arc<State>, now: WallTime) -> Groups {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.update(instance_cache, state, now)
    }

    /// How often instances were grouped, for tests.
    pub(super) fn groupings(&self) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).groupings
    }
}

impl Known {
    fn update(&mut self, instance_cache: &InstanceCache, state: Arc<State>, now: WallTime) -> Groups {
        let (changed, has_others) = instance_cache.refresh(&mut self.snapshot);
        let is_relinked = self.update_links(&changed, has_others);
        let current = self.current.take().unwrap_or_default();
        let is_first = current.groups.is_empty();
        let is_other_state = is_first || !Arc::ptr_eq(&current.state, &state);
        let is_due = !changed.is_empty() && now.millis_since(self.grouped_at) >= REGROUP_MILLIS;
        let groups = if is_relinked || has_others || is_other_state || is_due {
            self.regroup(&current, &state, &changed, has_others, now)
        } else {
            let indices: BTreeSet<usize> = changed
                .iter()
                .filter_map(|key| self.group_of.get(key).copied())
                .collect();
            let mut groups = current.groups;
            if !indices.is_empty() {
                let mut updated = groups.as_ref().clone();
                for index in indices {
                    if let Some(group) = updated.get_mut(index) {
                        *group = Arc::new(self.group(group.grouping.clone(), &state, now));
                    }
                }
                groups = Arc::new(updated);
            }
            groups
        };
        let current = Groups { state, groups };
        self.current = Some(current.clone());
        current
    }

    /// Returns whether a link is another one than before.
    fn update_links(&mut self, changed: &BTreeSet<InstanceKey>, has_others: bool) -> bool {
        let mut is_relinked = false;
        for key in changed {
            let links = self.snapshot.instances.get(key).map(Links::of);
            if let Some(links) = links.filter(|links| self.links.get(key) != Some(links)) {
                self.links.insert(key.clone(), links);
                is_relinked = true;
            }
        }
        if has_others {
            let instances = &self.snapshot.instances;
            self.links.retain(|key, _| instances.contains_key(key));
            self.aliases_of.clear();
            for (alias, canonical) in &self.snapshot.aliases {
                let aliases = self.aliases_of.entry(canonical.clone()).or_default();
                aliases.push(alias.clone());
            }
        }
        is_relinked
    }

    fn regroup(
        &mut self,
        before: &Groups,
        state: &State,
        changed: &BTreeSet<InstanceKey>,
        has_others: bool,
        now: WallTime,
    ) -> Arc<Vec<Arc<Group>>> {
        self.groupings += 1;
        self.grouped_at = now;
        let groupings = grouping::group(&self.snapshot.instances, &self.snapshot.aliases, state);
        let known: BTreeMap<&InstanceKey, &Arc<Group>> = before
            .groups
            .iter()
            .filter_map(|group| Some((group.grouping.instances.first()?, group)))
            .collect();
        let is_same = |group: &Group, grouping: &Grouping| {
            !has_others
                && group.grouping == *grouping
                && !grouping.instances.iter().any(|key| changed.contains(key))
                && grouping.recorded.first().and_then(|id| state.clusters.get(id))
                    == grouping.recorded.first().and_then(|id| before.state.clusters.get(id))
        };
        let groups = groupings.into_iter().map(|grouping| {
            let kept = grouping.instances.first().and_then(|first| known.get(first));
            match kept.filter(|group| is_same(group, &grouping)) {
                Some(group) => Arc::clone(group),
                None => Arc::new(self.group(grouping, state, now)),
            }
        });
        let groups: Vec<Arc<Group>> = groups.collect();
        let places = groups.iter().enumerate().flat_map(|(index, group)| {
            let instances = group.grouping.instances.iter();
            instances.map(move |key| (key.clone(), index))
        });
        self.group_of = places.collect();
        Arc::new(groups)
    }

    fn group(&self, grouping: Grouping, state: &State, now: WallTime) -> Group {
        let Snapshot {
            instances, revisions, ..
        } = &self.snapshot;
        let record = grouping.recorded.first().and_then(|id| state.clusters.get(id));
        let members = grouping
            .instances
            .iter()
            .filter_map(|key| instances.get(key).map(|instance| (key.clone(), instance.clone())));
        let aliases = grouping.instances.iter().flat_map(|canonical| {
            let aliases = self.aliases_of.get(canonical).into_iter().flatten();
            aliases.map(|alias| (alias.clone(), canonical.clone()))
        });
        let mut topology = Topology {
            cluster: record.map_or_else(|| ClusterId(String::new()), |cluster| cluster.id.clone()),
            cluster_name: record.map(|cluster| cluster.name.clone()).unwrap_or_default(),
            cluster_alias: record.map(|cluster| cluster.alias.clone()).unwrap_or_default(),
            recorded_primary: record
                .and_then(|cluster| cluster.primary.as_ref())
                .map(|primary| primary.instance.clone()),
            taken: now,
            instances: members.collect(),
            aliases: aliases.collect(),
        };
        if let Some(primary) = record.and_then(|cluster| cluster.primary.as_ref()) {
            grouping::forget_source_of_opened_primary(&mut topology, primary);
        }
        let revisions = grouping
            .instances
            .iter()
            .filter_map(|key| Some((key.clone(), *revisions.get(key)?)))
            .collect();
        Group {
            grouping,
            topology,
            revisions,
        }
    }
}
