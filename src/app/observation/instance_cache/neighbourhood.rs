//! The servers around one server: those of its cluster.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::key::InstanceKey;

use super::{InstanceCache, Neighbourhood};

impl InstanceCache {
    /// The number of polled addresses.
    pub fn len(&self) -> usize {
        self.lock().tracked.len()
    }

    /// Whether nothing is polled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The servers that are linked to `from` by replication, by a replication group, or by a record.
    pub fn neighbourhood<'a>(
        &self,
        from: &InstanceKey,
        recorded: impl IntoIterator<Item = &'a BTreeSet<InstanceKey>>,
    ) -> Neighbourhood {
        let inner = self.lock();
        let canonical = |key| inner.aliases.get(key).unwrap_or(key);
        let mut links: BTreeMap<&InstanceKey, Vec<&InstanceKey>> = BTreeMap::new();
        let mut link = |one, other| {
            links.entry(one).or_default().push(other);
            links.entry(other).or_default().push(one);
        };
        for tracked in inner.tracked.values() {
            let instance = &tracked.instance;
            if let Some(source) = instance.source() {
                link(&instance.key, canonical(source));
            }
            let group = instance.facts.as_ref().and_then(|facts| facts.group.as_ref());
            for peer in group.into_iter().flat_map(|group| &group.members) {
                link(&instance.key, canonical(&peer.key));
            }
        }
        for cluster in recorded {
            let mut members = cluster.iter().map(canonical);
            if let Some(first) = members.next() {
                members.for_each(|member| link(first, member));
            }
        }
        let from = canonical(from);
        let mut found = BTreeSet::from([from.clone()]);
        let mut waiting = vec![from];
        while let Some(key) = waiting.pop() {
            for next in links.get(key).into_iter().flatten() {
                if found.insert((*next).clone()) {
                    waiting.push(next);
                }
            }
        }
        let reached = |key: &InstanceKey| {
            let instance = &inner.tracked.get(key)?.instance;
            key.hostname
                .parse()
                .ok()
                .or_else(|| instance.facts.as_ref().and_then(|facts| facts.peer))
        };
        let addresses = found.iter().filter_map(reached).collect();
        let others: Vec<InstanceKey> = inner
            .aliases
            .iter()
            .filter(|(_, canonical)| found.contains(*canonical))
            .map(|(alias, _)| alias.clone())
            .collect();
        found.extend(others);
        Neighbourhood {
            servers: found,
            addresses,
        }
    }
}
