//! Observations of servers: what was written is what is read, in orchestrator's columns and whole, on each kind of backend.

use std::collections::BTreeSet;

use ham4db::app::ports::{InstanceStore as _, RecordedInstance};
use ham4db::domain::instance::{Instance, InstanceFacts};
use ham4db::domain::key::InstanceKey;
use ham4db::domain::time::WallTime;
use serde_json::json;

use crate::backends::Backend;

/// Seconds since 1970.
const SEEN: i64 = 1_800_000_000;

fn key(n: u16) -> InstanceKey {
    InstanceKey::new(format!("db{n}.example"), 3306)
}

/// A replica of db1, as a probe shows it.
pub(crate) fn replica(n: u16) -> RecordedInstance {
    let facts: InstanceFacts = serde_json::from_value(json!({
        "identity": {"serverUuid": format!("{n:08}-0000-0000-0000-000000000000")},
        "version": {"flavour": "MySQL", "major": 9, "minor": 7, "patch": 4, "text": "9.7.4"},
        "serverId": n,
        "readOnly": true,
        "logBin": true,
        "binlog": {"file": "binlog.000007", "position": 4_294_967_999_u64},
        "gtidMode": "ON",
        "executed": {"mysql": format!("{n:08}-0000-0000-0000-000000000000:1-5")},
        "purged": {"mysql": ""},
        "dataCenter": "east",
        "channels": [{
            "source": "db1.example:3306",
            "io": "Running", "sql": "Stopped", "user": "repl", "positioning": "AutoPosition",
            "read": {"file": "binlog.000003", "position": 99},
            "sqlError": {"number": 1062, "message": "Duplicate entry 'x'; it's \\ a \"quote\" ?"},
        }],
        "replicas": [{"key": "db9.example:3307", "reported": true}],
    }))
    .unwrap();
    RecordedInstance {
        instance: Instance {
            facts: Some(facts),
            last_seen: Some(WallTime(SEEN * 1000)),
            last_checked: Some(WallTime(SEEN * 1000 + 1999)),
            latency_micros: 1500,
            ..Instance::unseen(key(n))
        },
        cluster_name: "db1.example:3306".to_owned(),
        cluster_alias: "shop".to_owned(),
        source: Some(key(1)),
        depth: 1,
        is_co_primary: false,
        ancestry: "a,b".to_owned(),
        errant: String::new(),
    }
}

fn instances(recorded: &[RecordedInstance]) -> Vec<Instance> {
    let mut instances: Vec<Instance> = recorded.iter().map(|recorded| recorded.instance.clone()).collect();
    instances.sort_by(|one, other| one.key.cmp(&other.key));
    instances
}

#[tokio::test]
async fn observations_come_back_whole_and_in_the_columns_of_orchestrator() {
    for backend in Backend::all("instances").await {
        // More than one statement and more than one transaction.
        let mut all: Vec<RecordedInstance> = (2..=160).map(replica).collect();
        all.push(RecordedInstance {
            instance: Instance::unseen(key(1)),
            source: None,
            ..replica(1)
        });
        backend.store.save_instances(&all, 70).await.unwrap();
        let mut loaded = backend.store.load_instances().await.unwrap();
        loaded.sort_by(|one, other| one.key.cmp(&other.key));
        assert_eq!(loaded, instances(&all), "{}", backend.name);

        let row = "SELECT server_id, version, major_version, read_only, binary_log_file, binary_log_pos, master_host, master_port, \
                   slave_io_running, slave_sql_running, replication_sql_thread_state, master_log_file, read_master_log_pos, \
                   last_sql_error, executed_gtid_set, num_slave_hosts, slave_hosts, cluster_name, suggested_cluster_alias, \
                   replication_depth, last_discovery_latency, data_center, has_replication_credentials \
                   FROM database_instance WHERE hostname = 'db7.example'";
        let wanted = [
            "7",
            "9.7.4",
            "9.7",
            "1",
            "binlog.000007",
            "4294967999",
            "db1.example",
            "3306",
            "1",
            "0",
            "0",
            "binlog.000003",
            "99",
            "Duplicate entry 'x'; it's \\ a \"quote\" ?",
            "00000007-0000-0000-0000-000000000000:1-5",
            "1",
            r#"[{"Hostname":"db9.example","Port":3307}]"#,
            "db1.example:3306",
            "shop",
            "1",
            "1500000",
            "east",
            "1",
        ];
        assert_eq!(backend.rows(row).await, [wanted], "{}", backend.name);
        let seconds = if backend.name == "SQLite" {
            "CAST(strftime('%s', last_seen) AS INTEGER), CAST(strftime('%s', last_checked) AS INTEGER)"
        } else {
            "UNIX_TIMESTAMP(last_seen), UNIX_TIMESTAMP(last_checked)"
        };
        let times = format!("SELECT {seconds} FROM database_instance WHERE hostname = 'db7.example'");
        let wanted = [SEEN.to_string(), (SEEN + 1).to_string()];
        assert_eq!(backend.rows(&times).await, [wanted], "{}", backend.name);
        let unseen = "SELECT count(*) FROM database_instance WHERE hostname = 'db1.example' AND last_seen IS NULL";
        assert_eq!(backend.rows(unseen).await, [["1"]], "{}", backend.name);
    }
}

#[tokio::test]
async fn an_observation_replaces_the_one_before_and_ends_with_its_server() {
    for backend in Backend::all("instances_replaced").await {
        let (first, other) = (replica(2), replica(3));
        backend
            .store
            .save_instances(&[first, other.clone()], 100)
            .await
            .unwrap();
        let mut later = replica(2);
        later.instance.latency_micros = 9;
        backend
            .store
            .save_instances(std::slice::from_ref(&later), 100)
            .await
            .unwrap();
        assert_eq!(
            backend.store.load_instances().await.unwrap(),
            instances(&[later, other.clone()]),
            "{}",
            backend.name
        );
        let of_orchestrator = "INSERT INTO database_instance (hostname, port, server_id, version, binlog_format, log_bin, log_slave_updates, \
                               binary_log_file, binary_log_pos, master_host, master_port, slave_sql_running, slave_io_running, master_log_file, \
                               read_master_log_pos, relay_master_log_file, exec_master_log_pos, num_slave_hosts, slave_hosts, cluster_name, \
                               last_checked, last_sql_error, last_io_error, executed_gtid_set, gtid_purged, gtid_errant, ancestry_uuid, \
                               replication_group_members) \
                               VALUES ('theirs.example', 3306, 1, '8.0', 'ROW', 1, 1, '', 0, '', 0, 0, 0, '', 0, '', 0, 0, '[]', 'c', \
                               '2026-01-01 00:00:00', '', '', '', '', '', '', '[]')";
        backend.run(of_orchestrator).await;
        backend.store.retain_instances(&BTreeSet::from([key(3)])).await.unwrap();
        assert_eq!(backend.store.load_instances().await.unwrap(), instances(&[other]));
        let left = backend
            .rows("SELECT hostname FROM database_instance ORDER BY hostname")
            .await;
        assert_eq!(left, [["db3.example"], ["theirs.example"]], "{}", backend.name);
    }
}

/// What a server says of itself has any length, and a database that was orchestrator's may lack columns of a later version.
#[tokio::test]
async fn values_that_are_too_long_and_columns_that_are_missing_stop_no_write() {
    for backend in Backend::all("instances_hostile").await {
        let mut hostile = replica(2);
        if let Some(facts) = &mut hostile.instance.facts {
            facts.version.text = "9.7.4-".to_owned() + &"\u{e4}".repeat(500);
            facts.data_center = "x".repeat(5_000);
            facts.uptime_seconds = u64::MAX;
            facts.binlog_format = "\u{1f980}".repeat(40);
            facts.channels[0].delay_seconds = u64::MAX;
            facts.channels[0].sql_error.message = "\u{e4}".repeat(70_000);
        }
        hostile.depth = 7_000;
        let mut nameless = replica(3);
        nameless.instance.key = InstanceKey::new("n".repeat(200), 3306);
        backend
            .run("ALTER TABLE database_instance DROP COLUMN ancestry_uuid")
            .await;
        let all = [hostile, nameless];
        backend.store.save_instances(&all, 100).await.unwrap();
        assert_eq!(
            backend.store.load_instances().await.unwrap(),
            instances(&all),
            "{}",
            backend.name
        );
        // A name that does not fit is in our own table only.
        let row = "SELECT hostname, replication_depth, data_center FROM database_instance";
        let wanted = ["db2.example".to_owned(), "255".to_owned(), "x".repeat(32)];
        assert_eq!(backend.rows(row).await, [wanted], "{}", backend.name);
    }
}
