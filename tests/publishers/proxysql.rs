//! ProxySQL.

use std::collections::BTreeMap;

use ham4db::adapter::publishers::{Hostgroups, PreFailoverAction, ProxySqlOptions, ProxySqlPublisher};
use ham4db::app::ports::publisher::{PrimaryPublisher as _, PublicationChange};
use ham4db::domain::declared::PublishError;
use ham4db::domain::key::InstanceKey;

use super::certificates::Certificates;
use super::contract::publication;
use super::proxysql_admin::ProxySqlAdmin;

const RUNTIME: &str = "runtime_mysql_servers";

fn options(admin: &ProxySqlAdmin) -> ProxySqlOptions {
    let groups = Hostgroups {
        writer: 10,
        reader: Some(20),
    };
    ProxySqlOptions {
        admin: InstanceKey::new("127.0.0.1", admin.port),
        user: "radmin".to_owned(),
        password: "secret".to_owned().into(),
        tls: None,
        clusters: BTreeMap::from([("shop".to_owned(), groups)]),
        others: None,
        action: PreFailoverAction::OfflineSoft,
    }
}

/// A ProxySQL with `db1` as the writer, and `db2` and `db3` as readers; a second cluster has the hostgroups 30 and 40.
async fn proxysql() -> (ProxySqlAdmin, ProxySqlPublisher) {
    let admin = ProxySqlAdmin::start("radmin", "secret", None).await;
    admin
        .execute(
            "INSERT INTO mysql_servers (hostgroup_id, hostname, max_connections) VALUES (10, 'db1', 500), (20, 'db2', 200), \
             (20, 'db3', 200), (30, 'other1', 100), (40, 'other2', 100)",
        )
        .await;
    admin
        .execute("INSERT INTO runtime_mysql_servers SELECT * FROM mysql_servers")
        .await;
    let publisher = ProxySqlPublisher::new(options(&admin));
    (admin, publisher)
}

#[tokio::test]
async fn what_is_as_wanted_is_not_written() {
    let (admin, publisher) = proxysql().await;
    assert_eq!(
        publisher.publish(&publication("db1", 1)).await,
        Ok(PublicationChange::None)
    );
    assert!(admin.changes().is_empty(), "{:?}", admin.changes());
}

#[tokio::test]
async fn a_takeover_drains_the_old_primary_and_switches() {
    let (admin, publisher) = proxysql().await;
    assert_eq!(
        publisher.withdraw(&publication("db1", 2)).await,
        Ok(PublicationChange::Written)
    );
    assert_eq!(admin.servers(RUNTIME).await[0], "10 db1 OFFLINE_SOFT 1");
    assert_eq!(
        publisher.withdraw(&publication("db1", 2)).await,
        Ok(PublicationChange::None)
    );
    assert_eq!(
        publisher.publish(&publication("db2", 2)).await,
        Ok(PublicationChange::Written)
    );
    let expected = [
        "10 db2 ONLINE 1",
        "20 db1 ONLINE 1",
        "20 db3 ONLINE 1",
        "30 other1 ONLINE 1",
        "40 other2 ONLINE 1",
    ];
    for table in [RUNTIME, "mysql_servers", "disk_mysql_servers"] {
        assert_eq!(admin.servers(table).await, expected, "{table}");
    }
    assert_eq!(
        publisher.publish(&publication("db2", 2)).await,
        Ok(PublicationChange::None)
    );
}

#[tokio::test]
async fn an_undone_takeover_makes_the_old_primary_the_writer_again() {
    for action in [PreFailoverAction::OfflineSoft, PreFailoverAction::WeightZero] {
        let (admin, _) = proxysql().await;
        let publisher = ProxySqlPublisher::new(ProxySqlOptions {
            action,
            ..options(&admin)
        });
        publisher.withdraw(&publication("db1", 2)).await.unwrap();
        assert_ne!(admin.servers(RUNTIME).await[0], "10 db1 ONLINE 1");
        assert_eq!(
            publisher.publish(&publication("db1", 2)).await,
            Ok(PublicationChange::Written)
        );
        assert_eq!(admin.servers(RUNTIME).await[0], "10 db1 ONLINE 1");
    }
}

#[tokio::test]
async fn without_an_action_nothing_is_withdrawn() {
    let (admin, _) = proxysql().await;
    let publisher = ProxySqlPublisher::new(ProxySqlOptions {
        action: PreFailoverAction::None,
        ..options(&admin)
    });
    assert!(!publisher.withdraws());
    assert_eq!(
        publisher.withdraw(&publication("db1", 2)).await,
        Ok(PublicationChange::None)
    );
    assert!(admin.changes().is_empty());
}

#[tokio::test]
async fn drift_at_run_time_is_repaired() {
    let (admin, publisher) = proxysql().await;
    admin
        .execute("UPDATE runtime_mysql_servers SET status='OFFLINE_HARD' WHERE hostname='db1'")
        .await;
    assert_eq!(
        publisher.publish(&publication("db1", 1)).await,
        Ok(PublicationChange::Written)
    );
    assert_eq!(admin.servers(RUNTIME).await[0], "10 db1 ONLINE 1");
}

#[tokio::test]
async fn what_the_read_only_monitor_moved_is_kept() {
    let (admin, publisher) = proxysql().await;
    admin
        .execute(
            "INSERT INTO mysql_replication_hostgroups (writer_hostgroup, reader_hostgroup) VALUES (10, 20), (30, 40)",
        )
        .await;
    // ProxySQL saw db2 writable before ham4db published it, and moved the servers of the other cluster, at run time only.
    admin
        .execute(
            "UPDATE runtime_mysql_servers SET hostgroup_id=10 WHERE hostname='db2'; \
             UPDATE runtime_mysql_servers SET status='SHUNNED' WHERE hostname='db1'; \
             UPDATE runtime_mysql_servers SET hostgroup_id=hostgroup_id+100 WHERE hostname LIKE 'other%'; \
             UPDATE runtime_mysql_servers SET hostgroup_id=170-hostgroup_id WHERE hostname LIKE 'other%'",
        )
        .await;
    assert_eq!(
        publisher.publish(&publication("db2", 2)).await,
        Ok(PublicationChange::Written)
    );
    assert_eq!(
        admin.servers(RUNTIME).await,
        [
            "10 db2 ONLINE 1",
            "20 db1 ONLINE 1",
            "20 db3 ONLINE 1",
            "30 other2 ONLINE 1",
            "40 other1 ONLINE 1"
        ]
    );
}

#[tokio::test]
async fn a_primary_that_proxysql_does_not_know_is_added() {
    let (admin, publisher) = proxysql().await;
    admin
        .execute(
            "DELETE FROM mysql_servers WHERE hostname='db3'; DELETE FROM runtime_mysql_servers WHERE hostname='db3'",
        )
        .await;
    publisher.publish(&publication("db3", 2)).await.unwrap();
    assert_eq!(
        admin.servers(RUNTIME).await[..2],
        ["10 db3 ONLINE 1", "20 db1 ONLINE 1"]
    );
}

#[tokio::test]
async fn a_writer_of_another_cluster_is_reported_and_left() {
    let (admin, publisher) = proxysql().await;
    admin
        .execute("INSERT INTO mysql_servers (hostgroup_id, hostname) VALUES (10, 'stranger')")
        .await;
    let failed = publisher.publish(&publication("db2", 2)).await.unwrap_err();
    assert!(
        matches!(&failed, PublishError::Refused(why) if why.contains("stranger")),
        "{failed:?}"
    );
    assert_eq!(
        admin.servers(RUNTIME).await[..2],
        ["10 db2 ONLINE 1", "10 stranger ONLINE 1"],
        "the switch is done"
    );
}

#[tokio::test]
async fn clusters_without_hostgroups_are_not_published() {
    let (admin, publisher) = proxysql().await;
    let mut other = publication("db1", 1);
    other.name = "bank".to_owned();
    assert_eq!(publisher.publish(&other).await, Ok(PublicationChange::None));
    assert_eq!(publisher.withdraw(&other).await, Ok(PublicationChange::None));
    assert!(admin.changes().is_empty());
}

#[tokio::test]
async fn a_wrong_password_and_a_closed_port_are_told_apart() {
    let (admin, _) = proxysql().await;
    let wrong = ProxySqlPublisher::new(ProxySqlOptions {
        password: "wrong".to_owned().into(),
        ..options(&admin)
    });
    let refused = wrong.publish(&publication("db1", 1)).await;
    assert!(matches!(refused, Err(PublishError::Forbidden(_))), "{refused:?}");
    let mut closed = options(&admin);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    closed.admin.port = listener.local_addr().unwrap().port();
    drop(listener);
    let closed = ProxySqlPublisher::new(closed).publish(&publication("db1", 1)).await;
    assert!(matches!(closed, Err(PublishError::Unanswered(_))), "{closed:?}");
}

#[tokio::test]
async fn a_certificate_is_verified() {
    let certificates = Certificates::make();
    let admin = ProxySqlAdmin::start("radmin", "secret", Some(&certificates)).await;
    let with = |ca| {
        ProxySqlPublisher::new(ProxySqlOptions {
            tls: Some(ca),
            ..options(&admin)
        })
    };
    let unknown = with(None).publish(&publication("db1", 1)).await;
    assert!(unknown.is_err(), "{unknown:?}");
    assert!(admin.changes().is_empty());
    let trusted = with(Some(certificates.authority()))
        .publish(&publication("db1", 1))
        .await;
    assert_eq!(trusted, Ok(PublicationChange::Written));
    assert_eq!(admin.servers(RUNTIME).await, ["10 db1 ONLINE 1"]);
}
