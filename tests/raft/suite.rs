//! The tests of openraft for a log store and a state machine, and tests of what they do not cover.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use ham4db::adapter::raft::log_store::{LogOwner, LogStore};
use ham4db::adapter::raft::state_machine::{BackendError, BackendWriteFailure, StateMachine, StateOwner};
use ham4db::adapter::raft::types::{Entry, LogId, TypeConfig};
use ham4db::domain::intent::Origin;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::state::command::COMMAND_VERSION;
use ham4db::domain::state::{Command, Proposal, Seed, State};
use ham4db::domain::time::WallTime;
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::store::MemoryStore;

fn owner() -> StateOwner {
    StateOwner {
        cluster_uuid: "uuid-a".to_owned(),
        history: "history-a".to_owned(),
        member: 1,
    }
}

async fn machine(store: &MemoryStore, log: &LogStore, owner: StateOwner) -> Result<StateMachine, BackendError> {
    watched_machine(store, log, owner, BackendWriteFailure::default()).await
}

async fn watched_machine(
    store: &MemoryStore,
    log: &LogStore,
    owner: StateOwner,
    failure: BackendWriteFailure,
) -> Result<StateMachine, BackendError> {
    let (publish, _) = watch::channel(Arc::default());
    let retry_limit = Duration::from_secs(1);
    StateMachine::open(
        Arc::new(store.clone()),
        log.clone(),
        owner,
        publish,
        retry_limit,
        failure,
    )
    .await
}

async fn log(directory: &TempDir) -> LogStore {
    LogStore::open(directory.path(), Duration::MAX).await.unwrap()
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let log = log(&directory).await;
        let machine = machine(&MemoryStore::default(), &log, owner()).await.unwrap();
        Ok((directory, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

fn proposal(version: u32, port: u16) -> Proposal {
    let seed = Seed {
        instance: InstanceKey::new("db", port),
        origin: Origin::Api,
    };
    Proposal {
        version,
        at: WallTime(1_000),
        command: Command::Discover { seed },
    }
}

fn entry(index: u64, version: u32) -> Entry {
    let port = u16::try_from(3000 + index).unwrap();
    Entry::new(
        LogId::new_term_index(1, index),
        EntryPayload::Normal(proposal(version, port)),
    )
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) -> std::io::Result<()> {
    machine
        .apply(stream::iter(entries.into_iter().map(|entry| Ok((entry, None)))))
        .await
}

#[tokio::test]
async fn command_of_a_newer_program_stops_the_member_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let mut machine = machine(&store, &log(&directory).await, owner()).await.unwrap();
    let error = apply(
        &mut machine,
        vec![entry(1, COMMAND_VERSION), entry(2, COMMAND_VERSION + 6)],
    )
    .await
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "entry 2: a command has version {}, this program understands up to {COMMAND_VERSION}: upgrade ham4db on this member",
            COMMAND_VERSION + 6
        )
    );
    let (state, _) = store.content().await;
    assert_eq!(state.seeds.len(), 1, "what came before it is applied and stored");
    assert_eq!(machine.applied_state().await.unwrap().0.unwrap().index(), 1);
}

#[tokio::test]
async fn entry_of_an_unknown_shape_is_named_when_the_log_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = log(&directory).await;
    let newer = COMMAND_VERSION + 1;
    let text = serde_json::to_string(&entry(1, newer))
        .unwrap()
        .replace("\"discover\"", "\"fly\"");
    assert!(
        text.contains("\"fly\"") && text.contains(&format!("\"version\":{newer}")),
        "{text}"
    );
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("raft.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("INSERT INTO raft_log (idx, entry) VALUES (1, ?)")
        .bind(text)
        .execute(&pool)
        .await
        .unwrap();
    let mut reader = log.get_log_reader().await;
    let error = openraft::RaftLogReader::try_get_log_entries(&mut reader, 1..2)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&format!("a command has version {newer}")),
        "{error}"
    );
}

#[tokio::test]
async fn state_and_position_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let log = log(&directory).await;
    let mut first = machine(&store, &log, owner()).await.unwrap();
    apply(&mut first, (1..=700).map(|index| entry(index, 1)).collect())
        .await
        .unwrap();
    let mut second = machine(&store, &log, owner()).await.unwrap();
    assert_eq!(
        second.applied_state().await.unwrap(),
        first.applied_state().await.unwrap()
    );
    assert_eq!(store.content().await.0.seeds.len(), 700);
    assert_eq!(store.replaced(), 0, "nothing was written anew");
}

#[tokio::test]
async fn backend_of_another_member_or_history_is_emptied() {
    for other in [
        StateOwner { member: 2, ..owner() },
        StateOwner {
            history: "history-b".to_owned(),
            ..owner()
        },
    ] {
        let directory = tempfile::tempdir().unwrap();
        let store = MemoryStore::default();
        let log = log(&directory).await;
        let mut before = machine(&store, &log, other).await.unwrap();
        apply(&mut before, vec![entry(1, 1)]).await.unwrap();
        let mut after = machine(&store, &log, owner()).await.unwrap();
        assert_eq!(after.applied_state().await.unwrap().0, None);
        let (state, mark) = store.content().await;
        assert_eq!(
            (state, mark.member, mark.history.as_str()),
            (State::default(), 1, "history-a")
        );
    }
}

#[tokio::test]
async fn backend_of_another_group_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::of_group("uuid-b");
    let error = machine(&store, &log(&directory).await, owner()).await.err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("the backend belongs to group uuid-b, this member to group uuid-a"),
        "{error}"
    );
    assert_eq!(store.replaced(), 0);
}

#[tokio::test]
async fn backend_that_fails_for_a_while_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = MemoryStore::default();
    let mut machine = machine(&store, &log(&directory).await, owner()).await.unwrap();
    store.fail(true);
    let healed = store.clone();
    let (applied, ()) = tokio::join!(apply(&mut machine, vec![entry(1, 1)]), async move {
        tokio::time::sleep(Duration::from_millis(120)).await;
        healed.fail(false);
    });
    applied.unwrap();
    assert_eq!(store.content().await.0.seeds.len(), 1);
    store.fail(true);
    let error = apply(&mut machine, vec![entry(2, 1)]).await.unwrap_err();
    assert!(error.to_string().contains("told to fail"), "{error}");
    assert_eq!(
        machine.applied_state().await.unwrap().0.unwrap().index(),
        1,
        "what is not stored is not applied"
    );
}

#[tokio::test]
async fn a_write_without_an_answer_counts_as_failed_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (store, failure) = (MemoryStore::default(), BackendWriteFailure::default());
    let log = log(&directory).await;
    let mut machine = watched_machine(&store, &log, owner(), failure.clone()).await.unwrap();
    let hanging = store.hang().await;
    let (applied, why) = tokio::join!(apply(&mut machine, vec![entry(1, 1)]), async {
        let begun = std::time::Instant::now();
        let why = loop {
            if let Some((_, why)) = failure.since() {
                break why;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the backend hangs and is not reported"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        drop(hanging);
        why
    });
    applied.unwrap();
    assert_eq!(why, "backend memory: write the state: no answer for 1 s");
    assert_eq!(failure.since(), None, "it answered");
    assert_eq!(store.content().await.0.seeds.len(), 1);
}

#[tokio::test]
async fn snapshot_of_a_newer_program_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let mut machine = machine(&MemoryStore::default(), &log(&directory).await, owner())
        .await
        .unwrap();
    apply(&mut machine, vec![entry(1, 1)]).await.unwrap();
    let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let newer = String::from_utf8(snapshot.snapshot)
        .unwrap()
        .replacen("\"version\":1", "\"version\":9", 1);
    let error = machine
        .install_snapshot(&snapshot.meta, newer.into_bytes())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "a snapshot has version 9, this program understands up to {COMMAND_VERSION}: upgrade ham4db on this member"
        )
    );
}

#[tokio::test]
async fn log_carries_one_stamp_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let log = log(&directory).await;
    let stamp = LogOwner {
        cluster_uuid: "uuid-a".to_owned(),
        member: 1,
    };
    log.put_owner(&stamp).await.unwrap();
    log.put_owner(&stamp).await.unwrap();
    let error = log
        .put_owner(&LogOwner {
            member: 2,
            ..stamp.clone()
        })
        .await
        .unwrap_err();
    assert!(error.to_string().contains("holds the log of member 1"), "{error}");
    assert_eq!(log.owner().await.unwrap(), Some(stamp));
}
