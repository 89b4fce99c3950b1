//! Files that the binary of 0.2.0 wrote: the new version opens them, reads all of them, and writes records back under
//! the same names, so that a member of 0.2.0 can still read what the new version writes during a rolling upgrade.
//!
//! `files/0.2.0.tar.xz` holds the data directory of the leader of three members after two failovers, two takeovers,
//! downtimes, candidates and acknowledgements. Its log begins behind a snapshot at entry 5000, and continues with a
//! takeover and a failover.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ham4db::adapter::credentials_cache::CredentialsCache;
use ham4db::adapter::raft::identity::{self, DirectoryState, IdentityPhase};
use ham4db::adapter::raft::log_store::LogStore;
use ham4db::adapter::store::BackendStore;
use ham4db::app::ports::{Consensus as _, StateStore as _};
use ham4db::domain::intent::Origin;
use ham4db::domain::state::{Command as StateCommand, State};
use ham4db::resource::MySQLClusterStatus;
use openraft::entry::RaftEntry as _;
use openraft::{EntryPayload, RaftLogReader as _};
use secrecy::ExposeSecret as _;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

use crate::harness::{Group, until};

/// The entries that the log of these files holds.
const ENTRIES: std::ops::RangeInclusive<u64> = 4022..=5243;
/// Which recoveries were recorded: the kind, by time.
const RECOVERIES: [&str; 4] = ["DeadPrimary", "Takeover", "Takeover", "DeadPrimary"];

fn unpacked() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft/files/0.2.0.tar.xz");
    let status = Command::new("tar")
        .arg("-xJf")
        .arg(&archive)
        .arg("-C")
        .arg(directory.path())
        .status()
        .unwrap();
    assert!(status.success(), "tar cannot unpack {}", archive.display());
    directory
}

fn kinds(state: &State) -> Vec<String> {
    let mut recoveries: Vec<_> = state.recoveries.values().collect();
    recoveries.sort_by_key(|recovery| recovery.started);
    let kinds = recoveries.iter().map(|recovery| format!("{:?}", recovery.plan.kind));
    kinds.collect()
}

#[tokio::test]
async fn the_member_is_recognised() {
    let files = unpacked();
    let DirectoryState::Member(identity) = identity::examine(files.path()).await.unwrap() else {
        panic!("the files belong to a member");
    };
    assert_eq!(identity.member, Some(1));
    assert_eq!(identity.phase, IdentityPhase::Member);
    assert_eq!(identity.founders.len(), 3);
}

#[tokio::test]
async fn every_entry_of_the_log_is_read() {
    let files = unpacked();
    let mut log = LogStore::open(files.path(), Duration::MAX).await.unwrap();
    let entries = log.try_get_log_entries(ENTRIES).await.unwrap();
    assert_eq!(entries.first().unwrap().index(), *ENTRIES.start());
    assert_eq!(entries.last().unwrap().index(), *ENTRIES.end());
    assert_eq!(entries.len(), ENTRIES.count());
    let commands: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(proposal) => Some(&proposal.command),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        })
        .collect();
    let count = |is: fn(&StateCommand) -> bool| commands.iter().filter(|command| is(command)).count();
    assert_eq!(count(|command| matches!(command, StateCommand::Claim { .. })), 2);
    assert_eq!(count(|command| matches!(command, StateCommand::Open { .. })), 2);
}

#[tokio::test]
async fn the_backend_is_read_and_written_back_under_the_same_names() {
    let files = unpacked();
    let path = files.path().join("ham4db.sqlite");
    let store = BackendStore::open_file(&path).await.unwrap();
    let (state, mark) = store.load().await.unwrap();
    assert_eq!(kinds(&state), RECOVERIES);
    assert_eq!(mark.member, 1);
    let before = rows(&path).await;
    store.close().await;

    let again = files.path().join("again.sqlite");
    let store = BackendStore::open_file(&again).await.unwrap();
    store.replace(&state, &mark).await.unwrap();
    let after = rows(&again).await;
    store.close().await;
    assert_eq!(before.len(), after.len());
    for (id, body) in &before {
        assert_eq!(Some(body), after.get(id), "{id:?} changed its form");
    }
}

/// All records, by kind and id, as JSON.
async fn rows(path: &Path) -> BTreeMap<(String, String), serde_json::Value> {
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(path))
        .await
        .unwrap();
    let rows = sqlx::query("SELECT kind, id, body FROM ham4db_object WHERE kind <> 'audit'")
        .fetch_all(&pool)
        .await
        .unwrap();
    pool.close().await;
    rows.iter()
        .map(|row| {
            let body: String = row.get("body");
            ((row.get("kind"), row.get("id")), serde_json::from_str(&body).unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_backend_is_rebuilt_from_the_snapshot_and_the_log() {
    let files = unpacked();
    let expected = {
        let store = BackendStore::open_file(&files.path().join("ham4db.sqlite"))
            .await
            .unwrap();
        let (state, _) = store.load().await.unwrap();
        store.close().await;
        state
    };
    let mut group = Group::prepare(1).await;
    let data = group.nodes[0].directory.path().join("raft");
    std::fs::create_dir_all(&data).unwrap();
    for name in ["raft.db", "identity.json"] {
        std::fs::copy(files.path().join(name), data.join(name)).unwrap();
    }
    let identity = identity::MemberIdentity::load(&data).unwrap().unwrap();
    group.nodes[0].name.clone_from(&identity.founders[&1].name);
    group.want_all();
    group.start(0).await;
    until("the snapshot and the log are applied", || {
        kinds(&group.nodes[0].member().state().borrow()) == RECOVERIES
    })
    .await;
    let state = group.nodes[0].member().state().borrow().clone();
    assert_eq!(state.recoveries, expected.recoveries);
    assert_eq!(state.quarantines, expected.quarantines);
    assert_eq!(state.clusters, expected.clusters);
    group.shutdown().await;
}

#[test]
fn the_last_known_accounts_are_read() {
    let files = unpacked();
    let known = CredentialsCache::in_directory(files.path()).load();
    let origin: Origin = "cr:default/orders".parse().unwrap();
    let account = &known[&origin].topology;
    assert_eq!(account.user, "ham4db");
    assert!(!account.password.expose_secret().is_empty());
}

#[test]
fn the_status_of_the_document_is_read() {
    let files = unpacked();
    let text = std::fs::read_to_string(files.path().join("default.orders.yaml")).unwrap();
    let document: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    let status: MySQLClusterStatus = serde_yaml::from_value(document["status"].clone()).unwrap();
    let recovery = status.last_recovery.expect("there were recoveries");
    assert!(!recovery.old_primary.is_empty());
}
