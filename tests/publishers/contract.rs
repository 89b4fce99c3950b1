//! What every key-value store has to do as a publisher. The store is read and changed by a client of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use ham4db::app::ports::publisher::{PrimaryPublication, PrimaryPublisher, PublicationChange};
use ham4db::domain::declared::PublishError;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::published_primary::{HostAddresses, PublishedPrimaries, PublishedPrimary, PublishedTarget};
use ham4db::domain::topology::ClusterId;

/// A store as a client of its own sees it.
#[async_trait]
pub(crate) trait Store: Send + Sync {
    /// All keys with their values.
    async fn all(&self) -> BTreeMap<String, String>;

    /// Writes a key.
    async fn put(&self, key: &str, value: &str);

    /// Deletes a key.
    async fn delete(&self, key: &str);
}

pub(crate) fn publication(primary: &str, epoch: u64) -> PrimaryPublication {
    let address: std::net::IpAddr = "10.1.2.3".parse().unwrap();
    PrimaryPublication {
        group: "group-1".to_owned(),
        cluster: ClusterId("cluster-1".to_owned()),
        name: "shop".to_owned(),
        epoch,
        primary: InstanceKey::new(primary, 3306),
        addresses: Some([address].into_iter().collect::<HostAddresses>()),
        instances: ["db1", "db2", "db3"].map(|host| InstanceKey::new(host, 3306)).into(),
    }
}

/// The pairs that the contract expects for a primary.
pub(crate) fn pairs(name: &str, primary: &str) -> BTreeMap<String, String> {
    [
        (String::new(), format!("{primary}:3306")),
        ("/hostname".to_owned(), primary.to_owned()),
        ("/port".to_owned(), "3306".to_owned()),
        ("/ipv4".to_owned(), "10.1.2.3".to_owned()),
        ("/ipv6".to_owned(), String::new()),
    ]
    .into_iter()
    .map(|(part, value)| (format!("mysql/master/{name}{part}"), value))
    .collect()
}

async fn pairs_of(store: &dyn Store, name: &str) -> BTreeMap<String, String> {
    let mut all = store.all().await;
    let below = format!("mysql/master/{name}/");
    let epoch = format!("{below}epoch");
    all.retain(|key, _| (key.starts_with(&below) || *key == format!("mysql/master/{name}")) && *key != epoch);
    all
}

fn all_published(name: &str) -> PublishedPrimaries {
    let primary = PublishedPrimary {
        cluster: ClusterId("cluster-1".to_owned()),
        name: name.to_owned(),
        epoch: 9,
        target: PublishedTarget::Primary(InstanceKey::new("db1", 3306)),
        instances: BTreeSet::new(),
    };
    PublishedPrimaries {
        published: BTreeMap::from([(primary.cluster.clone(), primary)]),
        left_out: BTreeMap::new(),
    }
}

/// Goes through everything, on an empty store.
pub(crate) async fn holds(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    first_and_again(publisher, store).await;
    drift(publisher, store).await;
    fence(publisher, store).await;
    withdrawal(publisher, store).await;
    concurrent_leaders(publisher, store).await;
    other_groups(publisher, store).await;
    leftovers(publisher, store).await;
}

async fn first_and_again(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    // Orchestrator was here before.
    store.put("mysql/master/shop", "db7:3306").await;
    store.put("mysql/master/shop/hostname", "db7").await;
    let first = publisher.publish(&publication("db1", 3)).await;
    assert_eq!(first, Ok(PublicationChange::Written));
    assert_eq!(pairs_of(store, "shop").await, pairs("shop", "db1"));
    let epoch = store.all().await["mysql/master/shop/epoch"].clone();
    assert!(epoch.contains(r#""epoch":3"#) && epoch.contains("cluster-1"), "{epoch}");
    assert_eq!(
        publisher.publish(&publication("db1", 3)).await,
        Ok(PublicationChange::None)
    );
}

async fn drift(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    store.put("mysql/master/shop", "db9:3306").await;
    store.delete("mysql/master/shop/port").await;
    store.put("mysql/master/shopping/hostname", "theirs").await;
    let repaired = publisher.publish(&publication("db1", 3)).await;
    assert_eq!(repaired, Ok(PublicationChange::Written));
    assert_eq!(pairs_of(store, "shop").await, pairs("shop", "db1"));
    assert_eq!(store.all().await["mysql/master/shopping/hostname"], "theirs");
}

async fn fence(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    assert_eq!(
        publisher.publish(&publication("db2", 5)).await,
        Ok(PublicationChange::Written)
    );
    for is_withdrawal in [false, true] {
        let late = publication("db1", 4);
        let late = if is_withdrawal {
            publisher.withdraw(&late).await
        } else {
            publisher.publish(&late).await
        };
        assert!(matches!(late, Err(PublishError::Superseded(_))), "{late:?}");
        assert_eq!(pairs_of(store, "shop").await, pairs("shop", "db2"));
    }
}

async fn withdrawal(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    assert_eq!(
        publisher.withdraw(&publication("db2", 6)).await,
        Ok(PublicationChange::Written)
    );
    assert!(
        pairs_of(store, "shop").await.is_empty(),
        "{:?}",
        pairs_of(store, "shop").await
    );
    assert_eq!(
        publisher.withdraw(&publication("db2", 6)).await,
        Ok(PublicationChange::None)
    );
    let late = publisher.publish(&publication("db2", 5)).await;
    assert!(matches!(late, Err(PublishError::Superseded(_))), "{late:?}");
    assert_eq!(
        publisher.publish(&publication("db3", 6)).await,
        Ok(PublicationChange::Written)
    );
    assert_eq!(pairs_of(store, "shop").await, pairs("shop", "db3"));
}

/// Two leaders that write at the same time: the higher epoch is there at the end, whatever happened in between.
async fn concurrent_leaders(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    for round in 0..30 {
        let (low, high) = (10 + 2 * round, 11 + 2 * round);
        let (former, present) = tokio::join!(
            tokio::spawn({
                let publisher = Arc::clone(publisher);
                async move { publisher.publish(&publication("db1", low)).await }
            }),
            tokio::spawn({
                let publisher = Arc::clone(publisher);
                async move { publisher.publish(&publication("db2", high)).await }
            }),
        );
        let former = former.unwrap();
        assert!(
            matches!(
                former,
                Ok(_) | Err(PublishError::Superseded(_) | PublishError::Unanswered(_))
            ),
            "{former:?}"
        );
        present.unwrap().unwrap();
        assert_eq!(pairs_of(store, "shop").await, pairs("shop", "db2"), "round {round}");
    }
}

async fn other_groups(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    let other = PrimaryPublication {
        group: "group-2".to_owned(),
        ..publication("db1", 99)
    };
    let refused = publisher.publish(&other).await;
    assert!(matches!(refused, Err(PublishError::NameTaken(_))), "{refused:?}");
    assert_eq!(pairs_of(store, "shop").await, pairs("shop", "db2"));
}

async fn leftovers(publisher: &Arc<dyn PrimaryPublisher>, store: &dyn Store) {
    let renamed = PrimaryPublication {
        name: "store".to_owned(),
        ..publication("db1", 100)
    };
    publisher.publish(&renamed).await.unwrap();
    let removed = publisher.remove_leftovers("group-1", &all_published("store")).await;
    assert_eq!(removed, Ok(vec!["shop".to_owned()]));
    assert!(pairs_of(store, "shop").await.is_empty());
    assert!(!store.all().await.contains_key("mysql/master/shop/epoch"));
    assert_eq!(pairs_of(store, "store").await, pairs("store", "db1"));
    assert_eq!(store.all().await["mysql/master/shopping/hostname"], "theirs");
    let again = publisher.remove_leftovers("group-1", &all_published("store")).await;
    assert_eq!(again, Ok(Vec::new()));
}
