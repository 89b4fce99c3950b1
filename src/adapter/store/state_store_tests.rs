use std::collections::BTreeSet;
use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use super::super::database::Database;
use super::super::statement::{Value, statement};
use super::{BackendStore, projection};
use crate::app::ports::{AppliedMark, StateStore};
use crate::domain::fixture::NOW;
use crate::domain::intent::{Origin, PromotionRule};
use crate::domain::state::sample::{
    Sample, candidate, claim, cluster_id, document, downtime, finding, identity, key, plan,
};
use crate::domain::state::{Applied, Change, Command, Ending, Proposal, State, apply, command::COMMAND_VERSION};
use crate::domain::time::WallTime;

fn mark(position: u64) -> AppliedMark {
    AppliedMark {
        group_uuid: "g".to_owned(),
        history: "h".to_owned(),
        member: 2,
        position: format!("{{\"index\":{position}}}"),
    }
}

/// A store with the state that belongs in it.
struct Kept {
    store: BackendStore,
    state: State,
}

impl Kept {
    async fn new() -> Self {
        Self {
            store: BackendStore::open_file(Path::new(":memory:")).await.unwrap(),
            state: State::default(),
        }
    }

    async fn at(path: &Path) -> Self {
        let store = BackendStore::open_file(path).await.unwrap();
        let (state, _) = store.load().await.unwrap();
        Self { store, state }
    }

    async fn run(&mut self, at: WallTime, command: Command) -> Applied {
        let (applied, changes) = apply(
            &mut self.state,
            &Proposal {
                version: COMMAND_VERSION,
                at,
                command,
            },
        );
        self.store.write(&self.state, &changes, &mark(1)).await.unwrap();
        applied
    }

    async fn rows(&self, query: &'static str) -> Vec<Vec<String>> {
        rows(&self.store.database, query).await
    }
}

/// All values as text, NULL as `-`.
async fn rows(database: &Database, query: &'static str) -> Vec<Vec<String>> {
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => text.clone(),
    };
    let rows = database.rows(statement(query)).await.unwrap();
    rows.iter().map(|row| row.values().iter().map(text).collect()).collect()
}

/// Long sequences that touch every kind of record.
fn sequences() -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..12_u64).map(|round| round * 1000..round * 1000 + 150)
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::Meta => "meta",
        Change::Seeds => "seeds",
        Change::Forgotten(_) => "forgotten",
        Change::Cluster(_) => "cluster",
        Change::Intent(_) => "intent",
        Change::Document(_) => "document",
        Change::Recovery(_) => "recovery",
        Change::Quarantine(_) => "quarantine",
        Change::Detection(_) => "detection",
        Change::Request(_) => "request",
        Change::Blocked(_) => "blocked",
        Change::Member(_) => "member",
        Change::Audit(_) => "audit",
    }
}

#[tokio::test]
async fn what_was_written_change_by_change_is_what_is_read() {
    let mut kinds = BTreeSet::new();
    for seeds in sequences() {
        let store = BackendStore::open_file(Path::new(":memory:")).await.unwrap();
        let mut sample = Sample::default();
        for seed in seeds {
            let (command, _, changes) = sample.step(seed);
            kinds.extend(changes.iter().map(kind));
            store.write(&sample.state, &changes, &mark(seed)).await.unwrap();
            if seed % 10 == 0 {
                let (loaded, at) = store.load().await.unwrap();
                assert_eq!(loaded, sample.state, "after {command:?}");
                assert_eq!(at, mark(seed));
            }
        }
        assert_eq!(store.load().await.unwrap().0, sample.state);
    }
    // The sequences went everywhere.
    assert_eq!(kinds.len(), 13, "{kinds:?}");
}

/// The suite that runs on MySQL and MariaDB too (tests/store) has the commands of one sequence in a file.
#[test]
fn the_commands_in_the_file_of_the_suite_are_those_of_a_sequence() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/commands.jsonl");
    let mut sample = Sample::default();
    let mut kinds = BTreeSet::new();
    let mut text = String::new();
    for seed in 7000..7220_u64 {
        let (command, _, changes) = sample.step(seed);
        kinds.extend(changes.iter().map(kind));
        text.push_str(
            &serde_json::to_string(&Proposal::new(WallTime(NOW.0 + i64::try_from(seed).unwrap()), command)).unwrap(),
        );
        text.push('\n');
    }
    assert_eq!(kinds.len(), 13, "{kinds:?}");
    if std::env::var_os("HAM4DB_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&file).unwrap() == text,
        "HAM4DB_BLESS=1 writes {}",
        file.display()
    );
}

#[tokio::test]
async fn a_replacement_leaves_nothing_of_what_was_there() {
    let (mut one, mut other) = (Sample::default(), Sample::default());
    (0..200).for_each(|seed| drop(one.step(seed)));
    (5000..5100).for_each(|seed| drop(other.step(seed)));
    let store = BackendStore::open_file(Path::new(":memory:")).await.unwrap();
    store.replace(&one.state, &mark(1)).await.unwrap();
    assert_eq!(store.load().await.unwrap(), (one.state.clone(), mark(1)));
    store.replace(&other.state, &mark(2)).await.unwrap();
    assert_eq!(store.load().await.unwrap(), (other.state.clone(), mark(2)));
    let recoveries = rows(&store.database, "SELECT uid FROM topology_recovery ORDER BY uid").await;
    let wanted: Vec<Vec<String>> = other.state.recoveries.keys().map(|uid| vec![uid.clone()]).collect();
    assert_eq!(recoveries, wanted);
    store.replace(&State::default(), &mark(3)).await.unwrap();
    assert_eq!(store.load().await.unwrap().0, State::default());
    for (table, _) in projection::TABLES {
        let query = statement(format!("SELECT count(*) FROM {table}"));
        let count = store.database.rows(query).await.unwrap();
        assert_eq!(count[0].integer(0), Some(0), "{table}");
    }
}

#[tokio::test]
async fn projections_are_the_same_whether_written_change_by_change_or_at_once() {
    for seeds in sequences() {
        let (stepwise, at_once) = (
            BackendStore::open_file(Path::new(":memory:")).await.unwrap(),
            BackendStore::open_file(Path::new(":memory:")).await.unwrap(),
        );
        let mut sample = Sample::default();
        for seed in seeds {
            let (_, _, changes) = sample.step(seed);
            stepwise.write(&sample.state, &changes, &mark(1)).await.unwrap();
        }
        at_once.replace(&sample.state, &mark(1)).await.unwrap();
        for query in [
            "SELECT recovery_id, uid, hostname, in_active_period, successor_hostname, is_successful, acknowledged, lost_slaves, all_errors FROM topology_recovery ORDER BY uid",
            "SELECT recovery_step_id, recovery_uid, message FROM topology_recovery_steps ORDER BY recovery_step_id",
            "SELECT detection_id, hostname, analysis, is_actionable FROM topology_failure_detection ORDER BY detection_id",
            "SELECT hostname, analysis, blocking_recovery_id FROM blocked_topology_recovery ORDER BY hostname",
            "SELECT cluster_name, alias FROM cluster_alias ORDER BY cluster_name",
            "SELECT disable_recovery FROM global_recovery_disable",
            "SELECT hostname, port, promotion_rule FROM candidate_database_instance ORDER BY hostname",
        ] {
            assert_eq!(
                rows(&stepwise.database, query).await,
                rows(&at_once.database, query).await,
                "{query}"
            );
        }
    }
}

#[tokio::test]
async fn the_downtime_that_lasts_longest_is_shown_until_it_is_ended() {
    let mut kept = Kept::new().await;
    let cr = document("shop").origin;
    let query = "SELECT hostname, port, downtime_active, begin_timestamp, end_timestamp, owner, reason FROM database_instance_downtime";
    let hour = |n: i64| NOW.0 + n * 3_600_000;
    kept.run(
        NOW,
        Command::SetIntent {
            intent: downtime(1, Origin::Api, Some(hour(1))),
        },
    )
    .await;
    kept.run(
        NOW,
        Command::SetIntent {
            intent: downtime(1, cr.clone(), Some(hour(2))),
        },
    )
    .await;
    let shown = kept.rows(query).await;
    assert_eq!(
        shown,
        [[
            "db1",
            "3306",
            "1",
            "1970-01-01 00:00:00",
            "2027-01-15 10:00:00",
            "cr:db/shop",
            "disk"
        ]]
    );
    kept.run(
        NOW,
        Command::SetIntent {
            intent: downtime(1, Origin::Api, None),
        },
    )
    .await;
    assert_eq!(kept.rows(query).await[0][5], "api");
    kept.run(
        NOW,
        Command::EndIntent {
            id: downtime(1, Origin::Api, None).id(),
        },
    )
    .await;
    assert_eq!(kept.rows(query).await[0][5], "cr:db/shop");
    kept.run(NOW, Command::WithdrawDocument { origin: cr }).await;
    assert!(kept.rows(query).await.is_empty());
}

#[tokio::test]
async fn for_a_candidate_must_not_comes_first_then_the_document_then_the_api() {
    let cr = document("shop").origin;
    let query = "SELECT hostname, port, priority, promotion_rule FROM candidate_database_instance";
    for (api, document, shown) in [
        (PromotionRule::Prefer, PromotionRule::PreferNot, "prefer_not"),
        (PromotionRule::MustNot, PromotionRule::Prefer, "must_not"),
        (PromotionRule::Must, PromotionRule::MustNot, "must_not"),
        (PromotionRule::PreferNot, PromotionRule::Must, "must"),
    ] {
        for api_first in [true, false] {
            let mut kept = Kept::new().await;
            let mut intents = vec![candidate(2, Origin::Api, api), candidate(2, cr.clone(), document)];
            if !api_first {
                intents.reverse();
            }
            for intent in intents {
                kept.run(NOW, Command::SetIntent { intent }).await;
            }
            assert_eq!(
                kept.rows(query).await,
                [["db2", "3306", "1", shown]],
                "api {api:?}, document {document:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_switch_the_alias_the_block_and_the_detection_are_shown() {
    let mut kept = Kept::new().await;
    kept.run(NOW, Command::SetGlobalRecoveries { enabled: false }).await;
    assert_eq!(
        kept.rows("SELECT disable_recovery FROM global_recovery_disable").await,
        [["1"]]
    );
    kept.run(NOW, Command::SetGlobalRecoveries { enabled: true }).await;
    assert!(
        kept.rows("SELECT disable_recovery FROM global_recovery_disable")
            .await
            .is_empty()
    );
    for (cluster, server) in [(1, 1), (2, 4)] {
        kept.run(
            NOW.plus_millis(i64::from(cluster)),
            Command::DescribeCluster {
                id: cluster_id(cluster),
                instances: BTreeSet::from([key(server)]),
                primary: Some((key(server), identity(server))),
                process: None,
                alias: "shop".to_owned(),
                absorbs: Vec::new(),
                document: None,
                chosen: None,
            },
        )
        .await;
    }
    // An alias is unique in orchestrator's table: the older cluster keeps it.
    assert_eq!(
        kept.rows("SELECT cluster_name, alias FROM cluster_alias").await,
        [["db1:3306", "shop"]]
    );
    kept.run(
        NOW,
        Command::RecordDetection {
            finding: Box::new(finding(1, 1)),
            member_name: "a".to_owned(),
            held_back: None,
            hooks: Vec::new(),
        },
    )
    .await;
    let detections = "SELECT hostname, port, analysis, cluster_name, cluster_alias, count_affected_slaves, slave_hosts, is_actionable, \
                      processing_node_hostname FROM topology_failure_detection";
    assert_eq!(
        kept.rows(detections).await,
        [[
            "db1",
            "3306",
            "DeadMaster",
            "db1:3306",
            "shop",
            "2",
            "db2:3306,db3:3306",
            "1",
            "a"
        ]]
    );
}

/// Claims, opens and ends a recovery of cluster 1.
async fn recover(kept: &mut Kept, uid: &str) {
    kept.run(
        NOW,
        Command::DescribeCluster {
            id: cluster_id(1),
            instances: [1, 2, 3].map(key).into(),
            primary: Some((key(1), identity(1))),
            process: None,
            alias: "shop".to_owned(),
            absorbs: Vec::new(),
            document: None,
            chosen: None,
        },
    )
    .await;
    let Applied::Claimed { token } = kept
        .run(
            NOW,
            Command::Claim {
                claim: Box::new(claim(uid, plan(1, 1, 2, &[1, 2, 3]))),
            },
        )
        .await
    else {
        panic!("not claimed")
    };
    let line = |message: &str| crate::domain::state::record::StepRecord {
        id: 0,
        at: NOW,
        message: message.to_owned(),
    };
    kept.run(
        NOW,
        Command::Record {
            token: token.clone(),
            lines: vec![line("froze"), line("opened")],
        },
    )
    .await;
    kept.run(
        NOW,
        Command::Open {
            token: token.clone(),
            successor: key(2),
            position: crate::domain::fixture::mysql_set("1:1-9"),
            plan: Box::new(plan(1, 1, 2, &[1, 2, 3])),
            fencing_proof: None,
        },
    )
    .await;
    let ending = Ending {
        successful: true,
        successor: Some((key(2), identity(2))),
        quarantine: Some((key(1), identity(1))),
        lost_replicas: Vec::new(),
        lost: None,
        errors: vec!["one".to_owned(), "two".to_owned()],
        lines: vec![line("over")],
        hooks: Vec::new(),
        owes_opening: false,
    };
    kept.run(
        NOW.plus_millis(5000),
        Command::End {
            token,
            ending: Box::new(ending),
        },
    )
    .await;
}

#[tokio::test]
async fn a_recovery_is_shown_with_its_steps() {
    let mut kept = Kept::new().await;
    recover(&mut kept, "u1").await;
    let recovery = "SELECT uid, hostname, port, in_active_period, end_recovery, processing_node_hostname, successor_hostname, successor_port, analysis, \
                    cluster_name, cluster_alias, is_successful, acknowledged, participating_instances, all_errors FROM topology_recovery";
    assert_eq!(
        kept.rows(recovery).await,
        [[
            "u1",
            "db1",
            "3306",
            "0",
            "2027-01-15 08:00:05",
            "a",
            "db2",
            "3306",
            "DeadMaster",
            "db1:3306",
            "shop",
            "1",
            "0",
            "db1:3306,db2:3306,db3:3306",
            "one\ntwo"
        ]]
    );
    let steps = "SELECT recovery_uid, message FROM topology_recovery_steps ORDER BY recovery_step_id";
    assert_eq!(
        kept.rows(steps).await,
        [["u1", "froze"], ["u1", "opened"], ["u1", "over"]]
    );
    // The detection that the recovery followed from is named.
    let detection = kept.rows("SELECT detection_id FROM topology_failure_detection").await;
    assert_eq!(
        kept.rows("SELECT last_detection_id FROM topology_recovery").await,
        detection
    );
}

#[tokio::test]
async fn a_closed_file_is_opened_again_with_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    // Folders on the way are made.
    let path = folder.path().join("deep/er/ham4db.sqlite");
    let mut kept = Kept::at(&path).await;
    recover(&mut kept, "u1").await;
    let state = kept.state.clone();
    kept.store.close().await;
    let mut again = Kept::at(&path).await;
    assert_eq!(again.state, state);
    recover(&mut again, "u2").await;
    assert_eq!(again.store.load().await.unwrap(), (again.state.clone(), mark(1)));
}

#[tokio::test]
async fn a_write_that_fails_leaves_the_state_and_the_mark_of_before() {
    let mut kept = Kept::new().await;
    recover(&mut kept, "u1").await;
    let before = kept.store.load().await.unwrap();
    let dropped = statement("DROP TABLE topology_recovery_steps");
    kept.store.database.execute(dropped).await.unwrap();
    let mut state = kept.state.clone();
    let command = Command::Claim {
        claim: Box::new(claim("u2", plan(1, 2, 3, &[1, 2, 3]))),
    };
    let Applied::Claimed { token } = apply(
        &mut state,
        &Proposal {
            version: COMMAND_VERSION,
            at: NOW,
            command,
        },
    )
    .0
    else {
        panic!()
    };
    let line = crate::domain::state::record::StepRecord {
        id: 0,
        at: NOW,
        message: "x".to_owned(),
    };
    let (_, changes) = apply(
        &mut state,
        &Proposal {
            version: COMMAND_VERSION,
            at: NOW,
            command: Command::Record {
                token,
                lines: vec![line],
            },
        },
    );
    let error = kept.store.write(&state, &changes, &mark(9)).await.unwrap_err();
    assert!(error.to_string().contains("topology_recovery_steps"), "{error}");
    assert_eq!(kept.store.load().await.unwrap(), before);
}

/// The tables of an orchestrator that ran here before, with its indexes and a few rows.
const FORMER: &[&str] = &[
    "CREATE TABLE database_instance_downtime (hostname varchar(128) NOT NULL, port smallint NOT NULL, downtime_active tinyint(4) DEFAULT NULL, \
     begin_timestamp timestamp DEFAULT '', end_timestamp timestamp NULL DEFAULT NULL, owner varchar(128) NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (hostname, port))",
    "CREATE TABLE topology_recovery (recovery_id integer, hostname varchar(128) NOT NULL, port smallint NOT NULL, in_active_period tinyint NOT NULL DEFAULT 0, \
     start_active_period timestamp not null default '', end_active_period_unixtime int, end_recovery timestamp NULL DEFAULT NULL, \
     processing_node_hostname varchar(128) NOT NULL, processcing_node_token varchar(128) NOT NULL, successor_hostname varchar(128) DEFAULT NULL, \
     successor_port smallint DEFAULT NULL, analysis varchar(128) not null default '', cluster_name varchar(128) not null default '', \
     cluster_alias varchar(128) not null default '', count_affected_slaves int not null default 0, slave_hosts text not null default '', \
     is_successful tinyint not null default 0, acknowledged tinyint not null default 0, acknowledged_by varchar(128) not null default '', \
     acknowledge_comment text not null default '', participating_instances text not null default '', lost_slaves text not null default '', \
     all_errors text not null default '', acknowledged_at timestamp, last_detection_id bigint not null default 0, successor_alias varchar(128) DEFAULT NULL, \
     uid varchar(128) not null default '', PRIMARY KEY (recovery_id))",
    "CREATE UNIQUE INDEX hostname_port_active_period_uidx_topology_recovery ON topology_recovery (hostname, port, in_active_period, end_active_period_unixtime)",
    "CREATE TABLE topology_recovery_steps (recovery_step_id integer, recovery_uid varchar(128) NOT NULL, audit_at timestamp not null default '', \
     message text NOT NULL, PRIMARY KEY (recovery_step_id))",
    "CREATE TABLE topology_failure_detection (detection_id integer, hostname varchar(128) NOT NULL, port smallint NOT NULL, \
     in_active_period tinyint NOT NULL DEFAULT '0', start_active_period timestamp NOT NULL DEFAULT '', end_active_period_unixtime int NOT NULL, \
     processing_node_hostname varchar(128) NOT NULL, processcing_node_token varchar(128) NOT NULL, analysis varchar(128) NOT NULL, \
     cluster_name varchar(128) NOT NULL, cluster_alias varchar(128) NOT NULL, count_affected_slaves int NOT NULL, slave_hosts text NOT NULL, \
     is_actionable tinyint not null default 0, PRIMARY KEY (detection_id))",
    "INSERT INTO database_instance_downtime VALUES ('old', 3306, 1, '2024-01-01 00:00:00', '2024-01-02 00:00:00', 'ann', 'disk')",
    "INSERT INTO topology_recovery (recovery_id, hostname, port, end_active_period_unixtime, processing_node_hostname, processcing_node_token, uid) \
     VALUES (900, 'old', 3306, 5, 'n', 't', 'former:900')",
    "INSERT INTO topology_recovery_steps VALUES (9000, 'former:900', '2024-01-01 00:00:00', 'something')",
    "INSERT INTO topology_failure_detection VALUES (800, 'old', 3306, 0, '2024-01-01 00:00:00', 5, 'n', 't', 'DeadMaster', 'old:3306', '', 1, '', 1)",
];

#[tokio::test]
async fn a_database_that_orchestrator_used_is_opened_in_place_and_its_history_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orchestrator.sqlite");
    let former = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path).create_if_missing(true))
        .await
        .unwrap();
    for statement in FORMER {
        sqlx::query(*statement).execute(&former).await.unwrap();
    }
    former.close().await;
    let mut kept = Kept::at(&path).await;
    assert_eq!(kept.state, State::default());
    recover(&mut kept, "u1").await;
    let uids = kept.rows("SELECT uid FROM topology_recovery ORDER BY uid").await;
    assert_eq!(uids, [["former:900"], ["u1"]]);
    assert_eq!(kept.rows("SELECT count(*) FROM topology_recovery_steps").await, [["4"]]);
    // And a second time.
    kept.store.close().await;
    let again = Kept::at(&path).await;
    assert_eq!(again.state, kept.state);
    assert_eq!(again.rows("SELECT count(*) FROM topology_recovery").await, [["2"]]);
}
