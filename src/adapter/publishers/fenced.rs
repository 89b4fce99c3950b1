//! Pairs in a key-value store, with the epoch of the cluster beside them as the fence. The stores differ in how they read, and in
//! how they write on the condition that the epoch did not change since it was read.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::app::ports::publisher::{PrimaryPublication, PublicationChange};
use crate::domain::declared::PublishError;
use crate::domain::published_primary::{EpochRecord, KvDecision, PublishedPrimaries, compare_pairs, leftovers, pairs};

use super::PairOptions;

/// How often a write is tried when its condition fails.
const TRIES: usize = 3;

/// The version of a key, as its store counts it; `None`: the key does not exist.
pub(super) type Version = Option<u64>;

/// What a store has for one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// The values of the keys that exist.
    pub(super) values: BTreeMap<String, String>,
    /// The version of the key of the epoch.
    pub(super) version: Version,
}

/// A write for one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuardedWrite {
    /// The key of the epoch.
    pub(super) epoch_key: String,
    /// The version that it must still have.
    pub(super) version: Version,
    /// Its new value; `None`: it is deleted.
    pub(super) epoch_value: Option<String>,
    /// The keys to write.
    pub(super) set: BTreeMap<String, String>,
    /// The keys to delete.
    pub(super) remove: BTreeSet<String>,
}

/// Whether the condition of a write held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteResult {
    /// Everything is written.
    Done,
    /// The key of the epoch has another version; at most a part of the keys is written.
    Conflict,
}

/// A key-value store.
#[async_trait]
pub(super) trait KvStore: Send + Sync {
    /// Reads the keys and the key of the epoch, as they are now, and not from a member of the store that is behind. Where that takes
    /// several reads, the epoch is read first: a write in between then changes the version on which the next write depends.
    async fn read(&self, keys: &BTreeSet<String>, epoch_key: &str) -> Result<Stored, PublishError>;

    /// Writes on the condition that the key of the epoch has the version.
    async fn write(&self, write: &GuardedWrite) -> Result<WriteResult, PublishError>;

    /// The values of all keys below the prefix that end in `/epoch`.
    async fn epochs(&self, prefix: &str) -> Result<BTreeMap<String, String>, PublishError>;
}

/// Makes the pairs of a cluster those of `publication`, or removes them.
pub(super) async fn write_pairs(
    store: &dyn KvStore,
    options: &PairOptions,
    publication: &PrimaryPublication,
    is_withdrawal: bool,
) -> Result<PublicationChange, PublishError> {
    let (prefix, name) = (&options.prefix, publication.name.as_str());
    let wanted = if is_withdrawal {
        BTreeMap::new()
    } else {
        pairs(prefix, name, &publication.primary, publication.addresses.as_ref())
    };
    let record = EpochRecord {
        group: publication.group.clone(),
        cluster: publication.cluster.to_string(),
        epoch: publication.epoch,
    };
    let epoch_key = prefix.epoch_key(name);
    for _ in 0..TRIES {
        let stored = store.read(&prefix.keys(name), &epoch_key).await?;
        let (set, remove) = match compare_pairs(prefix, name, &record, &wanted, &stored.values) {
            KvDecision::Unchanged => return Ok(PublicationChange::None),
            KvDecision::Superseded(epoch) => {
                return Err(PublishError::Superseded(format!(
                    "{epoch_key} has the epoch {epoch}, and this member knows only {}: another leader is ahead",
                    record.epoch
                )));
            }
            KvDecision::OtherGroup(other) => {
                return Err(PublishError::NameTaken(format!(
                    "{epoch_key} belongs to the group {other}, this is {}: set another KVClusterMasterPrefix or alias, or delete \
                     the key",
                    record.group
                )));
            }
            KvDecision::Write { set, remove } => (set, remove),
        };
        let write = GuardedWrite {
            epoch_key: epoch_key.clone(),
            version: stored.version,
            epoch_value: Some(record.to_value()),
            set,
            remove,
        };
        if store.write(&write).await? == WriteResult::Done {
            return Ok(PublicationChange::Written);
        }
    }
    Err(PublishError::Unanswered(format!(
        "{epoch_key} was changed by another writer during {TRIES} attempts"
    )))
}

/// Removes the pairs of names that no cluster of this group has any more.
pub(super) async fn remove_leftovers(
    store: &dyn KvStore,
    options: &PairOptions,
    group: &str,
    all: &PublishedPrimaries,
) -> Result<Vec<String>, PublishError> {
    let prefix = &options.prefix;
    let epochs = store.epochs(prefix.as_str()).await?;
    let records = epochs.iter().filter_map(|(key, value)| {
        let name = prefix.name_of_epoch_key(key)?;
        Some((name.to_owned(), EpochRecord::parse(value)?))
    });
    let mut removed = Vec::new();
    for (name, record) in leftovers(group, all, &records.collect()) {
        let epoch_key = prefix.epoch_key(&name);
        let stored = store.read(&prefix.keys(&name), &epoch_key).await?;
        let is_same = stored
            .values
            .get(&epoch_key)
            .and_then(|value| EpochRecord::parse(value))
            == Some(record);
        if !is_same {
            continue;
        }
        let write = GuardedWrite {
            remove: stored.values.into_keys().filter(|key| *key != epoch_key).collect(),
            epoch_key,
            version: stored.version,
            epoch_value: None,
            set: BTreeMap::new(),
        };
        if store.write(&write).await? == WriteResult::Done {
            removed.push(name);
        }
    }
    Ok(removed)
}

#[cfg(test)]
#[path = "fenced_tests.rs"]
mod tests;
