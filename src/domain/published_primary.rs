//! What other systems are given about primaries: which server is the primary of each cluster, as keys and values or as the writer
//! of a proxy.
//!
//! A pure function of the committed state. Of what is observed, only one thing counts: a successor is published once it was seen
//! writable. The epoch of the cluster is published beside it and is the fence: what was written for a higher epoch is never
//! replaced by what belongs to a lower one.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Cluster, Epoch, Phase, State};
use crate::domain::topology::ClusterId;

/// The longest name under which a cluster is published; the column of the internal table has 255 characters for the whole key.
const MAX_NAME: usize = 128;

/// Where the clients of a cluster are to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishedTarget {
    /// This server is the primary.
    Primary(InstanceKey),
    /// This primary is being replaced, and no other server takes writes yet.
    Replacing(InstanceKey),
}

/// One cluster as it is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPrimary {
    /// The cluster.
    pub cluster: ClusterId,
    /// The name under which it is published: its alias, or the cluster name when it has none.
    pub name: String,
    /// The epoch of the cluster.
    pub epoch: Epoch,
    /// Where its clients are to connect.
    pub target: PublishedTarget,
    /// All its instances.
    pub instances: BTreeSet<InstanceKey>,
}

/// Why a cluster is not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPublished {
    /// No primary was recorded.
    #[error("no primary is recorded")]
    NoPrimary,
    /// An older cluster has the same name.
    #[error("the older cluster {by} is published as {name}; give one of them another alias")]
    NameTaken {
        /// The name.
        name: String,
        /// The id of the older cluster.
        by: ClusterId,
    },
    /// The name cannot be a part of a key.
    #[error(
        "`{0}` cannot be a part of a key: it is longer than 128 characters, or has a `/` or a control character; give it another alias"
    )]
    UnusableName(String),
}

/// All clusters: what is published of them, or why nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedPrimaries {
    /// The published clusters.
    pub published: BTreeMap<ClusterId, PublishedPrimary>,
    /// The other clusters.
    pub left_out: BTreeMap<ClusterId, NotPublished>,
}

/// What is published of the clusters of a state. `is_seen_writable` tells whether a server was seen to take writes since it was
/// chosen as a successor.
///
/// Of two clusters with the same name the older one is published, also while its primary is not known: the name never changes
/// hands because of a failure.
pub fn published_primaries(
    state: &State,
    is_seen_writable: impl Fn(&InstanceKey, &Identity) -> bool,
) -> PublishedPrimaries {
    let mut clusters: Vec<&Cluster> = state.clusters.values().collect();
    clusters.sort_by_key(|cluster| (cluster.created_at, &cluster.id));
    let mut holders: BTreeMap<&str, &ClusterId> = BTreeMap::new();
    let mut all = PublishedPrimaries::default();
    for cluster in clusters {
        let name = published_name(cluster);
        let held_by = holders.get(name).copied();
        let is_usable = is_usable_name(name);
        if held_by.is_none() && is_usable {
            holders.insert(name, &cluster.id);
        }
        let result = match (held_by, target(state, cluster, &is_seen_writable)) {
            _ if !is_usable => Err(NotPublished::UnusableName(shortened(name))),
            (Some(by), _) => Err(NotPublished::NameTaken {
                name: name.to_owned(),
                by: by.clone(),
            }),
            (None, None) => Err(NotPublished::NoPrimary),
            (None, Some(target)) => Ok(target),
        };
        match result {
            Ok(target) => {
                let primary = PublishedPrimary {
                    cluster: cluster.id.clone(),
                    name: name.to_owned(),
                    epoch: cluster.epoch,
                    target,
                    instances: cluster.instances.clone(),
                };
                all.published.insert(cluster.id.clone(), primary);
            }
            Err(why) => {
                all.left_out.insert(cluster.id.clone(), why);
            }
        }
    }
    all
}

/// The name under which a cluster is published, as in orchestrator.
pub fn published_name(cluster: &Cluster) -> &str {
    if cluster.alias.is_empty() {
        &cluster.name
    } else {
        &cluster.alias
    }
}

fn is_usable_name(name: &str) -> bool {
    let is_path = name == "." || name == ".." || name.contains('/');
    !name.is_empty() && !is_path && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control)
}

fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect()
}

fn target(
    state: &State,
    cluster: &Cluster,
    is_seen_writable: impl Fn(&InstanceKey, &Identity) -> bool,
) -> Option<PublishedTarget> {
    let mut recoveries = state.recoveries.values();
    let replacing = recoveries.find(|recovery| {
        recovery.is_active() && recovery.plan.cluster == cluster.id && recovery.plan.kind.replaces_primary()
    });
    if let Some(recovery) = replacing {
        if let Phase::Opened { successor, .. } = &recovery.phase
            && is_seen_writable(successor, &recovery.plan.successor_identity)
        {
            return Some(PublishedTarget::Primary(successor.clone()));
        }
        return Some(PublishedTarget::Replacing(recovery.plan.old_primary.clone()));
    }
    let recorded = cluster.primary.as_ref()?;
    let is_held = state
        .quarantines
        .values()
        .any(|quarantine| quarantine.cluster == cluster.id && quarantine.identity == recorded.identity);
    Some(if is_held {
        PublishedTarget::Replacing(recorded.instance.clone())
    } else {
        PublishedTarget::Primary(recorded.instance.clone())
    })
}

/// The successors that were opened and are published once they are seen writable.
pub fn opened_successors(state: &State) -> impl Iterator<Item = (&InstanceKey, &Identity)> {
    state.recoveries.values().filter_map(|recovery| match &recovery.phase {
        Phase::Opened { successor, .. } if recovery.plan.kind.replaces_primary() => {
            Some((successor, &recovery.plan.successor_identity))
        }
        Phase::Opened { .. } | Phase::Claimed | Phase::Ended { .. } => None,
    })
}

/// The addresses of a host name; a family without an address is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostAddresses {
    /// The lowest IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The lowest IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl FromIterator<IpAddr> for HostAddresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut found = Self::default();
        for address in addresses {
            match address.to_canonical() {
                IpAddr::V4(v4) => found.v4 = Some(found.v4.map_or(v4, |lowest| lowest.min(v4))),
                IpAddr::V6(v6) => found.v6 = Some(found.v6.map_or(v6, |lowest| lowest.min(v6))),
            }
        }
        found
    }
}

/// The prefix of all keys (`KVClusterMasterPrefix`), which ends in `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPrefix(String);

impl Default for KeyPrefix {
    fn default() -> Self {
        Self::new("mysql/master")
    }
}

impl KeyPrefix {
    /// Reads the configured value: slashes at its end become one, as in orchestrator.
    pub fn new(text: &str) -> Self {
        Self(format!("{}/", text.trim_end_matches('/')))
    }

    /// The text, with `/` at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of the address `host:port` of a cluster; its other keys are below it.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// The key of the [`EpochRecord`].
    pub fn epoch_key(&self, name: &str) -> String {
        format!("{}{name}/epoch", self.0)
    }

    /// The keys of all pairs of a cluster, without the epoch.
    pub fn keys(&self, name: &str) -> BTreeSet<String> {
        let key = self.key(name);
        let below = ["hostname", "port", "ipv4", "ipv6"].map(|part| format!("{key}/{part}"));
        below.into_iter().chain([key]).collect()
    }

    /// The name of the cluster with this epoch key.
    pub fn name_of_epoch_key<'a>(&self, key: &'a str) -> Option<&'a str> {
        let name = key.strip_prefix(&self.0)?.strip_suffix("/epoch")?;
        is_usable_name(name).then_some(name)
    }
}

/// The pairs of a cluster with this primary. While the addresses of its host are unknown there are no pairs for them; a family
/// without an address has an empty value, as in orchestrator.
pub fn pairs(
    prefix: &KeyPrefix,
    name: &str,
    primary: &InstanceKey,
    addresses: Option<&HostAddresses>,
) -> BTreeMap<String, String> {
    let key = prefix.key(name);
    let mut pairs = BTreeMap::from([
        (format!("{key}/hostname"), primary.hostname.clone()),
        (format!("{key}/port"), primary.port.to_string()),
        (key.clone(), primary.to_string()),
    ]);
    if let Some(addresses) = addresses {
        let text = |address: Option<String>| address.unwrap_or_default();
        pairs.insert(format!("{key}/ipv4"), text(addresses.v4.map(|ip| ip.to_string())));
        pairs.insert(format!("{key}/ipv6"), text(addresses.v6.map(|ip| ip.to_string())));
    }
    pairs
}

/// The value beside the pairs: for which cluster, by which group and with which epoch they were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Uuid of the group of members.
    pub group: String,
    /// Id of the cluster.
    pub cluster: String,
    /// Epoch of the cluster.
    pub epoch: Epoch,
}

impl EpochRecord {
    /// The text of the value.
    pub fn to_value(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a value; `None` for a text that is no such record.
    pub fn parse(value: &str) -> Option<Self> {
        serde_json::from_str(value).ok()
    }
}

/// What has to be done so that a store has what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvDecision {
    /// Nothing.
    Unchanged,
    /// These keys are written and these are deleted, on the condition that the epoch record is still the one that was read.
    Write {
        /// The pairs to write, without the epoch record.
        set: BTreeMap<String, String>,
        /// The keys to delete.
        remove: BTreeSet<String>,
    },
    /// The pairs were written with a higher epoch.
    Superseded(Epoch),
    /// The pairs belong to another group of members.
    OtherGroup(String),
}

/// Compares the pairs of one cluster in a store with the wanted ones. `present` has the pairs and the epoch record as far as they
/// exist. No wanted pairs: the present ones are deleted, and the epoch record stays as the fence.
pub fn compare_pairs(
    prefix: &KeyPrefix,
    name: &str,
    record: &EpochRecord,
    wanted: &BTreeMap<String, String>,
    present: &BTreeMap<String, String>,
) -> KvDecision {
    let stored = present.get(&prefix.epoch_key(name));
    let before = stored.and_then(|value| EpochRecord::parse(value));
    if let Some(before) = &before {
        if before.group != record.group {
            return KvDecision::OtherGroup(before.group.clone());
        }
        if before.cluster == record.cluster && before.epoch > record.epoch {
            return KvDecision::Superseded(before.epoch);
        }
    }
    let set: BTreeMap<String, String> = wanted
        .iter()
        .filter(|(key, value)| present.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let surplus = |key: &String| present.contains_key(key) && !wanted.contains_key(key);
    let remove: BTreeSet<String> = prefix.keys(name).into_iter().filter(surplus).collect();
    if set.is_empty() && remove.is_empty() && before.as_ref() == Some(record) {
        KvDecision::Unchanged
    } else {
        KvDecision::Write { set, remove }
    }
}

/// The names under which this group wrote pairs that nothing is published for any more: the cluster has another name now, or is
/// gone. `records` are the epoch records of the store by name. The pairs of a cluster that is only left out are kept.
pub fn leftovers(
    group: &str,
    all: &PublishedPrimaries,
    records: &BTreeMap<String, EpochRecord>,
) -> BTreeMap<String, EpochRecord> {
    let names: BTreeSet<&str> = all.published.values().map(|primary| primary.name.as_str()).collect();
    let is_left = |name: &str, record: &EpochRecord| {
        let cluster = ClusterId(record.cluster.clone());
        record.group == group && !names.contains(name) && !all.left_out.contains_key(&cluster)
    };
    records
        .iter()
        .filter(|(name, record)| is_left(name, record))
        .map(|(name, record)| (name.clone(), record.clone()))
        .collect()
}

#[cfg(test)]
#[path = "published_primary_tests.rs"]
mod tests;
