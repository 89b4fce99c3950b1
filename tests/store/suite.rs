//! What is written is what is read, on each kind of backend.

use std::collections::BTreeSet;
use std::path::Path;

use ham4db::app::ports::{
    AnalysisChange, AppliedMark, ChangeStore as _, Position, PositionStore as _, StateStore as _,
};
use ham4db::domain::finding::Code;
use ham4db::domain::gtid::GtidSet;
use ham4db::domain::instance::Identity;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::state::{Change, Proposal, State, apply};
use ham4db::domain::time::WallTime;

use crate::backends::Backend;

/// The projected tables, without times.
const PROJECTIONS: [&str; 8] = [
    "SELECT recovery_id, uid, hostname, port, in_active_period, successor_hostname, successor_port, analysis, is_successful, acknowledged, \
     acknowledged_by, acknowledge_comment, participating_instances, lost_slaves, all_errors, last_detection_id FROM topology_recovery ORDER BY uid",
    "SELECT recovery_step_id, recovery_uid, message FROM topology_recovery_steps ORDER BY recovery_step_id",
    "SELECT detection_id, hostname, analysis, cluster_name, slave_hosts, is_actionable FROM topology_failure_detection ORDER BY detection_id",
    "SELECT hostname, port, cluster_name, analysis, blocking_recovery_id FROM blocked_topology_recovery ORDER BY hostname, port",
    "SELECT cluster_name, alias FROM cluster_alias ORDER BY cluster_name",
    "SELECT disable_recovery FROM global_recovery_disable",
    "SELECT hostname, port, priority, promotion_rule FROM candidate_database_instance ORDER BY hostname, port",
    "SELECT audit_id, audit_type, hostname, port, message, cluster_name FROM audit ORDER BY audit_id",
];

/// The projected times, in seconds since 1970. The first one that a timestamp of MySQL holds is 1.
const TIMES: [(&str, &str); 4] = [
    (
        "SELECT MAX(CAST(strftime('%s', start_active_period) AS INTEGER), 1), MAX(CAST(strftime('%s', end_recovery) AS INTEGER), 1) FROM topology_recovery ORDER BY uid",
        "SELECT UNIX_TIMESTAMP(start_active_period), UNIX_TIMESTAMP(end_recovery) FROM topology_recovery ORDER BY uid",
    ),
    (
        "SELECT MAX(CAST(strftime('%s', audit_at) AS INTEGER), 1) FROM topology_recovery_steps ORDER BY recovery_step_id",
        "SELECT UNIX_TIMESTAMP(audit_at) FROM topology_recovery_steps ORDER BY recovery_step_id",
    ),
    (
        "SELECT MAX(CAST(strftime('%s', start_active_period) AS INTEGER), 1) FROM topology_failure_detection ORDER BY detection_id",
        "SELECT UNIX_TIMESTAMP(start_active_period) FROM topology_failure_detection ORDER BY detection_id",
    ),
    (
        "SELECT MAX(CAST(strftime('%s', audit_timestamp) AS INTEGER), 1) FROM audit ORDER BY audit_id",
        "SELECT UNIX_TIMESTAMP(audit_timestamp) FROM audit ORDER BY audit_id",
    ),
];

pub(crate) fn proposals() -> Vec<Proposal> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/commands.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn mark(position: usize) -> AppliedMark {
    AppliedMark {
        group_uuid: "g".to_owned(),
        history: "h".to_owned(),
        member: 2,
        position: format!("{{\"index\":{position}}}"),
    }
}

#[tokio::test]
async fn what_was_written_command_by_command_is_what_is_read() {
    for backend in Backend::all("by_command").await {
        let mut state = State::default();
        for (index, proposal) in proposals().iter().enumerate() {
            let (_, changes) = apply(&mut state, proposal);
            backend.store.write(&state, &changes, &mark(index)).await.unwrap();
            if index % 20 == 0 {
                let loaded = backend.store.load().await.unwrap();
                assert!(
                    loaded == (state.clone(), mark(index)),
                    "{}, after {:?}",
                    backend.name,
                    proposal.command
                );
            }
        }
        let opened = backend.again(ham4db::adapter::store::Deployment::Skip).await.unwrap();
        assert!(opened.load().await.unwrap().0 == state, "{}", backend.name);
    }
}

#[tokio::test]
async fn projections_have_the_same_rows_on_each_backend() {
    let backends = Backend::all("projections").await;
    let mut state = State::default();
    for proposal in proposals() {
        let (_, changes) = apply(&mut state, &proposal);
        for backend in &backends {
            backend.store.write(&state, &changes, &mark(1)).await.unwrap();
        }
    }
    let [sqlite, others @ ..] = backends.as_slice() else {
        panic!()
    };
    for other in others {
        let mut count = 0;
        for query in PROJECTIONS {
            let wanted = sqlite.rows(query).await;
            count += wanted.len();
            assert_eq!(other.rows(query).await, wanted, "{}: {query}", other.name);
        }
        for (in_sqlite, in_mysql) in TIMES {
            assert_eq!(
                other.rows(in_mysql).await,
                sqlite.rows(in_sqlite).await,
                "{}: {in_mysql}",
                other.name
            );
        }
        assert!(count > 50, "{count} rows prove little");
    }
}

#[tokio::test]
async fn a_replacement_leaves_nothing_of_what_was_there() {
    for backend in Backend::all("replacement").await {
        let (mut one, mut other) = (State::default(), State::default());
        for proposal in proposals() {
            apply(&mut one, &proposal);
        }
        for proposal in proposals().iter().rev().take(60) {
            apply(&mut other, proposal);
        }
        backend.store.replace(&one, &mark(1)).await.unwrap();
        assert!(
            backend.store.load().await.unwrap() == (one, mark(1)),
            "{}",
            backend.name
        );
        backend.store.replace(&other, &mark(2)).await.unwrap();
        assert!(
            backend.store.load().await.unwrap() == (other, mark(2)),
            "{}",
            backend.name
        );
        backend.store.replace(&State::default(), &mark(3)).await.unwrap();
        for table in [
            "ham4db_object",
            "ham4db_intent",
            "topology_recovery",
            "topology_recovery_steps",
            "audit",
        ] {
            let count = backend.rows(&format!("SELECT count(*) FROM {table}")).await;
            assert_eq!(count, [["0"]], "{}: {table}", backend.name);
        }
    }
}

#[tokio::test]
async fn a_write_that_fails_leaves_the_state_and_the_mark_of_before() {
    for backend in Backend::all("failing").await {
        let mut state = State::default();
        for proposal in proposals() {
            apply(&mut state, &proposal);
        }
        backend.store.replace(&state, &mark(1)).await.unwrap();
        backend.run("ALTER TABLE topology_recovery_steps RENAME TO moved").await;
        let all = state.recoveries.keys().cloned().map(Change::Recovery);
        let changes: BTreeSet<Change> = [Change::Meta].into_iter().chain(all).collect();
        let mut later = state.clone();
        later.recoveries_disabled = !state.recoveries_disabled;
        let error = backend.store.write(&later, &changes, &mark(9)).await.unwrap_err();
        assert!(error.to_string().contains("topology_recovery_steps"), "{error}");
        assert!(
            backend.store.load().await.unwrap() == (state, mark(1)),
            "{}",
            backend.name
        );
        // And the next one succeeds, on a sound connection.
        backend.run("ALTER TABLE moved RENAME TO topology_recovery_steps").await;
        backend.store.write(&later, &changes, &mark(9)).await.unwrap();
        assert!(
            backend.store.load().await.unwrap() == (later, mark(9)),
            "{}",
            backend.name
        );
    }
}

#[tokio::test]
async fn two_members_on_one_backend_are_refused() {
    for backend in Backend::all("two_members").await {
        backend.store.replace(&State::default(), &mark(1)).await.unwrap();
        let other = AppliedMark { member: 3, ..mark(2) };
        let error = backend
            .store
            .write(&State::default(), &BTreeSet::new(), &other)
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("member 2 writes to it, and this is member 3"),
            "{error}"
        );
        assert_eq!(backend.store.load().await.unwrap().1, mark(1));
        // A member that takes it over empties it first.
        backend.store.replace(&State::default(), &other).await.unwrap();
        backend
            .store
            .write(&State::default(), &BTreeSet::new(), &other)
            .await
            .unwrap();
        assert!(
            backend
                .store
                .write(&State::default(), &BTreeSet::new(), &mark(3))
                .await
                .is_err()
        );
    }
}

#[tokio::test]
async fn positions_and_changes_of_the_analysis_come_back() {
    let key = |host: &str| InstanceKey::new(host.to_owned(), 3306);
    let at = |seconds: i64| WallTime(1_800_000_000_000 + seconds * 1000);
    let change = |host: &str, seconds: i64, code: Code| (key(host), AnalysisChange { at: at(seconds), code });
    for backend in Backend::all("observed").await {
        let position = |host: &str, set: &str| Position {
            instance: key(host),
            identity: Identity::ServerUuid("00000000-0000-0000-0000-00000000000a".parse().unwrap()),
            executed: serde_json::from_value::<GtidSet>(serde_json::json!({"mysql": set})).unwrap(),
            at: at(1),
        };
        let set = "00000000-0000-0000-0000-00000000000a:1-5";
        let first = position("db1", set);
        backend
            .store
            .save_positions(&[first.clone(), position("db2", set)])
            .await
            .unwrap();
        backend
            .store
            .save_positions(std::slice::from_ref(&first))
            .await
            .unwrap();
        assert_eq!(
            backend.store.load_positions().await.unwrap().len(),
            2,
            "{}",
            backend.name
        );
        let changes = [
            change("db1", 0, Code::NoProblem),
            change("db2", 0, Code::NoProblem),
            change("db1", 10, Code::DeadMaster),
        ];
        backend.store.add_changes(&changes[..2]).await.unwrap();
        backend.store.add_changes(&changes[2..]).await.unwrap();
        assert_eq!(backend.store.load_changes().await.unwrap(), changes, "{}", backend.name);
        backend.store.purge_changes(at(5)).await.unwrap();
        assert_eq!(
            backend.store.load_changes().await.unwrap(),
            changes[1..],
            "{}",
            backend.name
        );
    }
}
