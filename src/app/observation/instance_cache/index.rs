//! What is looked up of all instances at every probe, without a walk over all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::{Identity, Instance};
use crate::domain::key::InstanceKey;

/// Instances by their source, by their identity, and in the order in which something of them was recorded. An entry may be out of date: the
/// reader compares it with the instance. No instance is missing.
#[derive(Debug, Default)]
pub(super) struct InstanceIndex {
    by_source: BTreeMap<InstanceKey, BTreeSet<InstanceKey>>,
    by_identity: BTreeMap<Identity, BTreeSet<InstanceKey>>,
    by_touch: BTreeMap<u64, InstanceKey>,
    last_touch: u64,
}

impl InstanceIndex {
    /// Puts an instance at the end of the order. `before` is its place. Returns its new place.
    pub(super) fn touch(&mut self, key: &InstanceKey, before: u64) -> u64 {
        self.last_touch += 1;
        // The place of an instance that was removed and polled again belongs to another entry, or to none.
        if self.by_touch.get(&before) == Some(key) {
            self.by_touch.remove(&before);
        }
        self.by_touch.insert(self.last_touch, key.clone());
        self.last_touch
    }

    /// The end of the order.
    pub(super) fn last_touch(&self) -> u64 {
        self.last_touch
    }

    /// The instances behind a place in the order.
    pub(super) fn touched_after(&self, place: u64) -> impl Iterator<Item = &InstanceKey> {
        self.by_touch.range(place + 1..).map(|(_, key)| key)
    }

    /// Records the source of an instance, as the instance names it.
    pub(super) fn set_source(&mut self, key: &InstanceKey, before: Option<&InstanceKey>, after: Option<&InstanceKey>) {
        set(&mut self.by_source, key, before, after);
    }

    /// The instances that name this source.
    pub(super) fn replicas_of(&self, source: &InstanceKey) -> impl Iterator<Item = &InstanceKey> {
        self.by_source.get(source).into_iter().flatten()
    }

    /// Records the identity of an instance.
    pub(super) fn set_identity(&mut self, key: &InstanceKey, before: Option<&Identity>, after: Option<&Identity>) {
        set(&mut self.by_identity, key, before, after);
    }

    /// The instances with this identity.
    pub(super) fn with_identity(&self, identity: &Identity) -> impl Iterator<Item = &InstanceKey> {
        self.by_identity.get(identity).into_iter().flatten()
    }

    /// Removes what is known of an instance that is no longer polled. `touched` is its place in the order.
    pub(super) fn remove(&mut self, key: &InstanceKey, instance: &Instance, touched: u64) {
        set(&mut self.by_source, key, instance.source(), None);
        let identity = instance.facts.as_ref().map(|facts| &facts.identity);
        set(&mut self.by_identity, key, identity, None);
        self.by_touch.remove(&touched);
    }
}

fn set<K: Clone + Ord>(
    map: &mut BTreeMap<K, BTreeSet<InstanceKey>>,
    key: &InstanceKey,
    before: Option<&K>,
    after: Option<&K>,
) {
    if let Some(before) = before.filter(|before| Some(*before) != after)
        && let Some(instances) = map.get_mut(before)
    {
        instances.remove(key);
        if instances.is_empty() {
            map.remove(before);
        }
    }
    if let Some(after) = after
        && !map.get(after).is_some_and(|instances| instances.contains(key))
    {
        map.entry(after.clone()).or_default().insert(key.clone());
    }
}
