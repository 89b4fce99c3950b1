//! Which document owns a cluster, and which account is used for an address.
//!
//! A document rules its own cluster only. It may name any address as a seed; so a name alone gives it nothing. It comes to own a cluster
//! that no other document owns, once its account has logged in to one of its seeds there, and it owns that cluster as long as it exists
//! and has a seed in it, or in a part that was split off it, however old other documents are.

use std::collections::{BTreeMap, BTreeSet};

use super::instance::ProbeFailure;
use super::intent::Origin;
use super::key::InstanceKey;
use super::state::{Cluster, Document, State};
use super::topology::{ClusterId, Topology};

/// The accounts that may be used for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountChoice {
    /// That of the document that owns the cluster of the address, and no other.
    Owner(Origin),
    /// No document owns the address: the accounts of the documents that name it, oldest document first, then that of the
    /// configuration when the address is known from there. Not empty.
    Candidates(Vec<Origin>),
}

impl AccountChoice {
    /// The account to use, given the one in use: that one stays while it is a candidate, or while it is `adopted`: a server that is polled
    /// with it names this address, and it has logged in here where the candidates were refused.
    pub fn account<'a>(&'a self, present: Option<&'a Origin>, adopted: Option<&Origin>) -> Option<&'a Origin> {
        match self {
            Self::Owner(owner) => Some(owner),
            Self::Candidates(candidates) => present
                .filter(|present| candidates.contains(present) || adopted == Some(*present))
                .or_else(|| candidates.first()),
        }
    }

    /// The accounts that are worth a login beside the one in use, in order. While that one works, these are the candidates before it.
    /// When the server refused it, or it is not known, these are all others.
    pub fn alternatives(&self, present: &Origin, failure: Option<&ProbeFailure>) -> Vec<&Origin> {
        let Self::Candidates(candidates) = self else {
            return Vec::new();
        };
        match failure {
            None => candidates
                .iter()
                .take_while(|candidate| *candidate != present)
                .collect(),
            Some(ProbeFailure::Denied(_) | ProbeFailure::NoCredentials(_)) => {
                candidates.iter().filter(|candidate| *candidate != present).collect()
            }
            Some(_) => Vec::new(),
        }
    }
}

/// The addresses that the state names, with the accounts that may be used for them. Forgotten addresses are left out.
pub fn accounts(state: &State) -> BTreeMap<InstanceKey, AccountChoice> {
    let mut owners: BTreeMap<&InstanceKey, &Origin> = BTreeMap::new();
    let mut candidates: BTreeMap<&InstanceKey, Vec<Origin>> = BTreeMap::new();
    for document in oldest_first(state) {
        for seed in &document.seeds {
            candidates.entry(seed).or_default().push(document.origin.clone());
        }
    }
    for cluster in state.clusters.values() {
        let owner = cluster
            .document
            .as_ref()
            .filter(|owner| state.documents.contains_key(owner));
        for key in &cluster.instances {
            match owner {
                Some(owner) => {
                    owners.insert(key, owner);
                }
                None => candidates.entry(key).or_default().push(Origin::Api),
            }
        }
    }
    for seed in &state.seeds {
        let of_seed = candidates.entry(&seed.instance).or_default();
        if !of_seed.contains(&seed.origin) {
            of_seed.push(seed.origin.clone());
        }
    }
    let named: BTreeSet<&InstanceKey> = owners.keys().chain(candidates.keys()).copied().collect();
    let choice = |key: &InstanceKey| match owners.get(key) {
        Some(owner) => AccountChoice::Owner((*owner).clone()),
        None => AccountChoice::Candidates(candidates.get(key).cloned().unwrap_or_default()),
    };
    named
        .into_iter()
        .filter(|key| !state.forgotten.contains_key(*key))
        .map(|key| (key.clone(), choice(key)))
        .collect()
}

fn oldest_first(state: &State) -> Vec<&Document> {
    let mut documents: Vec<&Document> = state.documents.values().collect();
    documents.sort_by_key(|document| (document.created, &document.origin));
    documents
}

/// The document that owns a cluster: the recorded owner while it exists and has a seed in the cluster, or in a part that was split off it;
/// otherwise the oldest document with an account that has logged in to one of its seeds there. Ties are broken by name. A document owns one
/// cluster, of several with its seeds the oldest: after a split that is the one that kept its id, also when all seeds are in the other one.
pub fn owner(state: &State, topology: &Topology) -> Option<Origin> {
    let recorded = state.clusters.get(&topology.cluster);
    let is_older = |other: &Cluster| {
        other.id != topology.cluster
            && recorded.is_none_or(|recorded| (other.created_at, &other.id) < (recorded.created_at, &recorded.id))
    };
    let owns_an_older_one = |document: &Document| {
        state.clusters.values().any(|other| {
            is_older(other)
                && other.document.as_ref() == Some(&document.origin)
                && (document.seeds.iter().any(|seed| other.instances.contains(seed))
                    || is_split_from(state, &topology.cluster, &other.id))
        })
    };
    let has_seed = |document: &&Document| {
        let mut seeds = document.seeds.iter();
        seeds.any(|seed| topology.get(seed).is_some() || is_in_part_of(state, seed, &topology.cluster))
    };
    let present = recorded
        .and_then(|cluster| state.documents.get(cluster.document.as_ref()?))
        .filter(has_seed)
        .filter(|document| !owns_an_older_one(document));
    if let Some(document) = present {
        return Some(document.origin.clone());
    }
    let has_logged_in = |document: &&Document| {
        let mut seeds = document.seeds.iter();
        seeds.any(|seed| {
            topology
                .get(seed)
                .is_some_and(|instance| instance.account.as_ref() == Some(&document.origin))
        })
    };
    oldest_first(state)
        .into_iter()
        .filter(has_logged_in)
        .find(|document| !owns_an_older_one(document))
        .map(|document| document.origin.clone())
}

/// Whether an address is in a cluster that was split off another one.
fn is_in_part_of(state: &State, key: &InstanceKey, whole: &ClusterId) -> bool {
    let mut holders = state
        .clusters
        .values()
        .filter(|cluster| cluster.instances.contains(key));
    holders.any(|cluster| is_split_from(state, &cluster.id, whole))
}

/// Whether a cluster was split off another one, directly or not.
fn is_split_from(state: &State, part: &ClusterId, whole: &ClusterId) -> bool {
    let mut seen = BTreeSet::new();
    let mut at = part;
    while let Some(from) = state.clusters.get(at).and_then(|cluster| cluster.split_from.as_ref()) {
        if from == whole {
            return true;
        }
        if !seen.insert(from) {
            return false;
        }
        at = from;
    }
    false
}

#[cfg(test)]
#[path = "ownership_tests.rs"]
mod tests;
