use std::sync::Mutex;

use super::*;
use crate::domain::published_primary::{PublishedPrimary, PublishedTarget};
use crate::domain::state::sample::{cluster_id, key};

/// A store in memory that counts versions as the real ones do.
#[derive(Default)]
struct MemoryStore {
    values: Mutex<BTreeMap<String, (String, u64)>>,
    writes: Mutex<u64>,
    /// Another writer changes the epoch before each write, as long as this is not 0.
    disturbances: Mutex<u64>,
}

impl MemoryStore {
    fn put(&self, key: &str, value: &str) {
        let version = {
            let mut writes = self.writes.lock().unwrap();
            *writes += 1;
            *writes
        };
        let mut values = self.values.lock().unwrap();
        values.insert(key.to_owned(), (value.to_owned(), version));
    }

    fn get(&self, key: &str) -> Option<String> {
        self.values.lock().unwrap().get(key).map(|(value, _)| value.clone())
    }

    fn version(&self, key: &str) -> Version {
        self.values.lock().unwrap().get(key).map(|(_, version)| *version)
    }
}

#[async_trait]
impl KvStore for MemoryStore {
    async fn read(&self, keys: &BTreeSet<String>, epoch_key: &str) -> Result<Stored, PublishError> {
        let values = keys.iter().map(String::as_str).chain([epoch_key]);
        Ok(Stored {
            values: values
                .filter_map(|key| Some((key.to_owned(), self.get(key)?)))
                .collect(),
            version: self.version(epoch_key),
        })
    }

    async fn write(&self, write: &GuardedWrite) -> Result<WriteResult, PublishError> {
        let is_disturbed = {
            let mut left = self.disturbances.lock().unwrap();
            let is_disturbed = *left > 0;
            *left = left.saturating_sub(1);
            is_disturbed
        };
        if is_disturbed {
            let value = self.get(&write.epoch_key).unwrap_or_default();
            self.put(&write.epoch_key, &value);
        }
        if self.version(&write.epoch_key) != write.version {
            return Ok(WriteResult::Conflict);
        }
        for (key, value) in &write.set {
            self.put(key, value);
        }
        for key in &write.remove {
            self.values.lock().unwrap().remove(key);
        }
        match &write.epoch_value {
            Some(value) => self.put(&write.epoch_key, value),
            None => drop(self.values.lock().unwrap().remove(&write.epoch_key)),
        }
        Ok(WriteResult::Done)
    }

    async fn epochs(&self, prefix: &str) -> Result<BTreeMap<String, String>, PublishError> {
        let values = self.values.lock().unwrap();
        let below = values
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.ends_with("/epoch"));
        Ok(below.map(|(key, (value, _))| (key.clone(), value.clone())).collect())
    }
}

fn publication(primary: u32, epoch: u64) -> PrimaryPublication {
    PrimaryPublication {
        group: "group".to_owned(),
        cluster: cluster_id(1),
        name: "shop".to_owned(),
        epoch,
        primary: key(primary),
        addresses: None,
        instances: [1, 2, 3].map(key).into(),
    }
}

async fn publish(store: &MemoryStore, primary: u32, epoch: u64) -> Result<PublicationChange, PublishError> {
    write_pairs(store, &PairOptions::default(), &publication(primary, epoch), false).await
}

#[tokio::test]
async fn only_what_differs_is_written() {
    let store = MemoryStore::default();
    assert_eq!(publish(&store, 1, 4).await, Ok(PublicationChange::Written));
    assert_eq!(store.get("mysql/master/shop").as_deref(), Some("db1:3306"));
    assert_eq!(publish(&store, 1, 4).await, Ok(PublicationChange::None));
    let before = store.version("mysql/master/shop/port");
    store.put("mysql/master/shop", "db9:3306");
    assert_eq!(publish(&store, 1, 4).await, Ok(PublicationChange::Written));
    assert_eq!(store.get("mysql/master/shop").as_deref(), Some("db1:3306"));
    assert_eq!(store.version("mysql/master/shop/port"), before, "it had not drifted");
}

#[tokio::test]
async fn a_lower_epoch_and_another_group_write_nothing() {
    let store = MemoryStore::default();
    publish(&store, 2, 5).await.unwrap();
    let late = publish(&store, 1, 4).await;
    assert!(matches!(late, Err(PublishError::Superseded(_))), "{late:?}");
    let other = PrimaryPublication {
        group: "other".to_owned(),
        ..publication(1, 9)
    };
    let other = write_pairs(&store, &PairOptions::default(), &other, false).await;
    assert!(matches!(other, Err(PublishError::NameTaken(_))), "{other:?}");
    assert_eq!(store.get("mysql/master/shop").as_deref(), Some("db2:3306"));
}

#[tokio::test]
async fn a_write_after_another_one_is_decided_anew_and_not_for_ever() {
    let store = MemoryStore::default();
    publish(&store, 1, 4).await.unwrap();
    *store.disturbances.lock().unwrap() = 2;
    assert_eq!(publish(&store, 2, 5).await, Ok(PublicationChange::Written));
    *store.disturbances.lock().unwrap() = 3;
    let disturbed = publish(&store, 3, 6).await;
    assert!(matches!(disturbed, Err(PublishError::Unanswered(_))), "{disturbed:?}");
    assert_eq!(store.get("mysql/master/shop").as_deref(), Some("db2:3306"));
}

#[tokio::test]
async fn a_withdrawal_leaves_the_epoch_as_the_fence() {
    let store = MemoryStore::default();
    publish(&store, 1, 4).await.unwrap();
    let withdrawn = write_pairs(&store, &PairOptions::default(), &publication(1, 5), true).await;
    assert_eq!(withdrawn, Ok(PublicationChange::Written));
    assert_eq!(store.values.lock().unwrap().len(), 1);
    assert!(matches!(publish(&store, 1, 4).await, Err(PublishError::Superseded(_))));
    assert_eq!(publish(&store, 2, 5).await, Ok(PublicationChange::Written));
}

#[tokio::test]
async fn the_pairs_of_a_former_name_are_removed() {
    let store = MemoryStore::default();
    publish(&store, 1, 4).await.unwrap();
    let renamed = PrimaryPublication {
        name: "store".to_owned(),
        ..publication(1, 4)
    };
    write_pairs(&store, &PairOptions::default(), &renamed, false)
        .await
        .unwrap();
    store.put("mysql/master/shop2/hostname", "theirs");
    let published = PublishedPrimary {
        cluster: cluster_id(1),
        name: "store".to_owned(),
        epoch: 4,
        target: PublishedTarget::Primary(key(1)),
        instances: BTreeSet::new(),
    };
    let all = PublishedPrimaries {
        published: BTreeMap::from([(cluster_id(1), published)]),
        left_out: BTreeMap::new(),
    };
    let removed = remove_leftovers(&store, &PairOptions::default(), "group", &all).await;
    assert_eq!(removed.unwrap(), ["shop"]);
    let left: Vec<String> = store.values.lock().unwrap().keys().cloned().collect();
    assert!(
        left.iter()
            .all(|key| key.starts_with("mysql/master/store") || key.starts_with("mysql/master/shop2"))
    );
    assert_eq!(left.len(), 5, "{left:?}");
}
