//! Follows the addresses that servers name: which of them are dialled, and what is reported of the others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::warn;

use crate::domain::discovery::{
    MAX_REPORTED, MAX_UNANSWERED_OF_SERVER, NamedServers, NotFollowed, NotFollowedReason, admit,
};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::state::State;

use crate::app::observation::dns_cache;

use super::Poller;

impl Poller {
    /// A person asks for an address by an authenticated request: it is dialled, and stands for its cluster.
    pub fn name(&self, key: &InstanceKey) {
        self.crawl.name(key);
    }

    /// Starts to poll the servers that a server names and that are not polled yet, as far as they are admitted and there
    /// is room for them. Records and logs the others.
    pub(super) fn follow_neighbours(
        self: &Arc<Self>,
        from: &InstanceKey,
        origin: &Origin,
        neighbours: BTreeSet<InstanceKey>,
    ) {
        let now = self.clock.monotonic();
        let mut not_followed = Vec::new();
        // Only needed for addresses that were not judged lately.
        let mut known = None;
        for key in neighbours {
            if !self.may_crawl(from, &key) {
                continue;
            }
            let refusal = self.crawl.kept().refusal(from, &key, now);
            let refusal = refusal.or_else(|| {
                let (named, watched) = known.get_or_insert_with(|| self.known_of_cluster(from));
                let refusal = admit(&key, named, watched, &self.settings.allowed).err();
                if let Some(reason) = &refusal {
                    self.crawl.kept().refuse(from, &key, reason, now);
                }
                refusal
            });
            let is_paused = || self.crawl.kept().paused.get(&key).is_some_and(|until| *until > now);
            let refusal = match refusal {
                Some(reason) => Some(reason),
                None if is_paused() => continue,
                None => self.no_room(from),
            };
            match refusal {
                None if self.instance_cache.tracked_origin(&key).is_some() => {
                    self.try_account_of_neighbour(&key, origin);
                }
                None => {
                    self.crawl.kept().unanswered.insert(key.clone(), from.clone());
                    self.start(&key, origin, false);
                }
                Some(reason) => {
                    let is_news = self.crawl.kept().is_news(&key);
                    let entry = NotFollowed::new(&key, reason);
                    if is_news {
                        warn!(instance = %from, "{from} names an address that is not dialled: {entry}");
                    }
                    if not_followed.len() < MAX_REPORTED {
                        not_followed.push(entry);
                    }
                }
            }
        }
        self.instance_cache.set_not_followed(from, not_followed);
    }

    /// Why no further address that this server names is dialled now; `None` when there is room.
    fn no_room(&self, from: &InstanceKey) -> Option<NotFollowedReason> {
        if self.instance_cache.len() >= self.settings.max_instances {
            return Some(NotFollowedReason::TooMany);
        }
        let of_server = self.crawl.kept().unanswered.values().filter(|by| *by == from).count();
        (of_server >= MAX_UNANSWERED_OF_SERVER).then_some(NotFollowedReason::TooManyOfServer)
    }

    /// The named servers of the cluster of a server, and the addresses at which its servers are dialled.
    ///
    /// A cluster in which no server is named any more has its recorded members in their place.
    fn known_of_cluster(&self, from: &InstanceKey) -> (NamedServers, BTreeSet<IpAddr>) {
        let state = self.state.borrow().clone();
        let recorded = state.clusters.values().map(|cluster| &cluster.instances);
        let around = self.instance_cache.neighbourhood(from, recorded);
        let requested = self.crawl.kept().named.clone();
        let mut keys: BTreeSet<InstanceKey> = named_in(&state)
            .chain(&requested)
            .filter(|key| around.servers.contains(*key))
            .cloned()
            .collect();
        // The seeds of one document are servers of one cluster, whether they answer or not.
        let origin = self.instance_cache.read(from, |tracked| tracked.origin.clone());
        // A document of another cluster names nothing here.
        let mut clusters = state.clusters.values();
        let owner = clusters
            .find(|cluster| cluster.instances.contains(from))
            .and_then(|cluster| cluster.document.as_ref());
        for document in state.documents.values() {
            let is_about_it = match owner {
                Some(owner) => document.origin == *owner,
                None => {
                    origin.as_ref() == Some(&document.origin)
                        || document.seeds.iter().any(|seed| around.servers.contains(seed))
                }
            };
            if is_about_it {
                keys.extend(document.seeds.iter().cloned());
            }
        }
        if keys.is_empty() {
            let recorded = state.clusters.values().flat_map(|cluster| &cluster.instances);
            keys.extend(recorded.filter(|key| around.servers.contains(*key)).cloned());
        }
        if keys.is_empty() {
            keys.insert(from.clone());
        }
        let mut named = NamedServers::default();
        for key in &keys {
            let resolved = dns_cache::last_known(&key.hostname);
            let polled = self
                .instance_cache
                .read(key, |tracked| named.add(key, Some(&tracked.instance), &resolved));
            if polled.is_none() {
                named.add(key, None, &resolved);
            }
        }
        (named, around.addresses)
    }
}

/// The addresses that a person named.
fn named_in(state: &State) -> impl Iterator<Item = &InstanceKey> {
    let seeds = state.seeds.iter().map(|seed| &seed.instance);
    let documents = state.documents.values().flat_map(|document| &document.seeds);
    seeds.chain(documents)
}
