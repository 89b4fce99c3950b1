use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::adapter::store::BackendStore;
use crate::app::ports::{AppliedMark, StateStore as _};
use crate::domain::key::InstanceKey;
use crate::domain::state::Change;
use crate::domain::topology::ClusterId;
use crate::testkit::state_of;

async fn rows(store: &BackendStore) -> BTreeMap<String, String> {
    let query = statement("SELECT store_key, store_value FROM kv_store ORDER BY store_key");
    let rows = store.database.rows(query).await.unwrap();
    rows.iter().map(|row| (row.text(0), row.text(1))).collect()
}

#[tokio::test]
async fn the_table_follows_the_recorded_primary() {
    let store = BackendStore::open_file(Path::new(":memory:")).await.unwrap();
    let cluster = ClusterId("c1".to_owned());
    let changes = BTreeSet::from([Change::Cluster(cluster.clone())]);
    let mut state = state_of(2);
    store.write(&state, &changes, &AppliedMark::default()).await.unwrap();
    let first = rows(&store).await;
    assert_eq!(first["mysql/master/shop"], "db1:3306");
    assert_eq!(first["mysql/master/shop/hostname"], "db1");
    assert_eq!(first.len(), 3, "{first:?}");
    let known = state.clusters.get_mut(&cluster).unwrap();
    known.primary.as_mut().unwrap().instance = InstanceKey::new("10.0.0.7", 3307);
    store.write(&state, &changes, &AppliedMark::default()).await.unwrap();
    let second = rows(&store).await;
    assert_eq!(second["mysql/master/shop"], "10.0.0.7:3307");
    assert_eq!(second["mysql/master/shop/ipv4"], "10.0.0.7");
    assert_eq!(second["mysql/master/shop/ipv6"], "");
    state.clusters.clear();
    store.write(&state, &changes, &AppliedMark::default()).await.unwrap();
    assert!(rows(&store).await.is_empty());
}
