//! A database of orchestrator on MySQL, opened in place.

use ham4db::adapter::store::{BackendAddress, BackendStore, Deployment};
use ham4db::app::ports::StateStore as _;
use ham4db::domain::state::{State, apply};

use crate::backends::{Backend, address, shared};
use crate::server::Software;
use crate::suite::{mark, proposals};

/// Some of its tables as it makes them on MySQL: ids are unsigned, and counted by the server.
const TABLES: &str = "
    CREATE TABLE topology_recovery (recovery_id bigint unsigned NOT NULL AUTO_INCREMENT, hostname varchar(128) NOT NULL,
      port smallint unsigned NOT NULL, in_active_period tinyint unsigned NOT NULL DEFAULT 0,
      start_active_period timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, end_active_period_unixtime int unsigned DEFAULT NULL,
      end_recovery timestamp NULL DEFAULT NULL, processing_node_hostname varchar(128) CHARACTER SET ascii NOT NULL,
      processcing_node_token varchar(128) NOT NULL, successor_hostname varchar(128) DEFAULT NULL,
      successor_port smallint unsigned DEFAULT NULL, analysis varchar(128) CHARACTER SET ascii NOT NULL DEFAULT '',
      cluster_name varchar(128) CHARACTER SET ascii NOT NULL DEFAULT '', cluster_alias varchar(128) CHARACTER SET ascii NOT NULL DEFAULT '',
      count_affected_slaves int unsigned NOT NULL DEFAULT 0, slave_hosts text CHARACTER SET ascii NOT NULL,
      is_successful tinyint unsigned NOT NULL DEFAULT 0, acknowledged tinyint unsigned NOT NULL DEFAULT 0,
      acknowledged_by varchar(128) NOT NULL DEFAULT '', acknowledge_comment text NOT NULL, participating_instances text NOT NULL,
      lost_slaves text NOT NULL, all_errors text NOT NULL, acknowledged_at timestamp NULL DEFAULT NULL,
      last_detection_id bigint unsigned NOT NULL DEFAULT 0, successor_alias varchar(128) DEFAULT NULL, uid varchar(128) NOT NULL DEFAULT '',
      PRIMARY KEY (recovery_id),
      UNIQUE KEY hostname_port_active_period_uidx_topology_recovery (hostname, port, in_active_period, end_active_period_unixtime));
    CREATE TABLE topology_recovery_steps (recovery_step_id bigint unsigned NOT NULL AUTO_INCREMENT, recovery_uid varchar(128) NOT NULL,
      audit_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, message text NOT NULL, PRIMARY KEY (recovery_step_id));
    CREATE TABLE audit (audit_id bigint unsigned NOT NULL AUTO_INCREMENT, audit_timestamp timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
      audit_type varchar(128) NOT NULL, hostname varchar(128) NOT NULL DEFAULT '', port smallint unsigned NOT NULL, message text NOT NULL,
      cluster_name varchar(128) NOT NULL DEFAULT '', PRIMARY KEY (audit_id));
    CREATE TABLE host_agent (hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, token varchar(128) NOT NULL,
      PRIMARY KEY (hostname));
    INSERT INTO topology_recovery (recovery_id, hostname, port, end_active_period_unixtime, processing_node_hostname,
      processcing_node_token, slave_hosts, acknowledge_comment, participating_instances, lost_slaves, all_errors, uid)
      VALUES (900, 'old', 3306, 5, 'n', 't', '', '', '', '', '', 'former:900');
    INSERT INTO topology_recovery_steps VALUES (9000, 'former:900', '2024-01-01 00:00:00', 'something');
    INSERT INTO audit VALUES (7, '2024-01-01 00:00:00', 'forget', 'db7', 3306, 'gone', '');
    INSERT INTO host_agent VALUES ('agent', 3002, 'secret')";

#[tokio::test]
async fn a_database_that_orchestrator_used_is_opened_in_place_and_its_history_stays() {
    for software in [Software::MySql, Software::MariaDb] {
        let server = shared(software).await;
        server
            .run("DROP DATABASE IF EXISTS orchestrator; CREATE DATABASE orchestrator")
            .await;
        server.run(&format!("USE orchestrator; {TABLES}")).await;
        let address = BackendAddress::MySql(address(&server, "orchestrator"));
        let store = BackendStore::open(&address, Deployment::default()).await.unwrap();
        let mut state = State::default();
        for proposal in proposals() {
            let (_, changes) = apply(&mut state, &proposal);
            store.write(&state, &changes, &mark(1)).await.unwrap();
        }
        assert!(!state.recoveries.is_empty());
        store.close().await;
        let again = BackendStore::open(&address, Deployment::default()).await.unwrap();
        assert!(again.load().await.unwrap().0 == state);
        again.replace(&state, &mark(2)).await.unwrap();
        let backend = |query: &str| format!("SELECT ({query})");
        for (query, wanted) in [
            (
                "SELECT uid FROM orchestrator.topology_recovery WHERE recovery_id = 900",
                "former:900".to_owned(),
            ),
            (
                "SELECT message FROM orchestrator.topology_recovery_steps WHERE recovery_step_id = 9000",
                "something".to_owned(),
            ),
            (
                "SELECT message FROM orchestrator.audit WHERE audit_id = 7",
                "gone".to_owned(),
            ),
            ("SELECT token FROM orchestrator.host_agent", "secret".to_owned()),
            (
                "SELECT count(*) FROM orchestrator.topology_recovery WHERE recovery_id > 900",
                state.recoveries.len().to_string(),
            ),
            // What orchestrator itself inserts next gets an id of its own.
            (
                "SELECT count(*) FROM orchestrator.topology_recovery WHERE recovery_id < 900",
                "0".to_owned(),
            ),
        ] {
            assert_eq!(server.value(&backend(query)).await, wanted, "{software:?}: {query}");
        }
    }
}

#[tokio::test]
async fn a_text_that_is_longer_than_its_column_of_orchestrator_is_cut_off_there_and_whole_in_the_state() {
    for backend in Backend::all("long_texts").await {
        let mut state = State::default();
        for proposal in proposals() {
            apply(&mut state, &proposal);
        }
        for cluster in state.clusters.values_mut() {
            cluster.alias = format!("{}-{}", "x".repeat(300), cluster.id.0);
        }
        backend.store.replace(&state, &mark(1)).await.unwrap();
        assert!(backend.store.load().await.unwrap().0 == state, "{}", backend.name);
    }
}
