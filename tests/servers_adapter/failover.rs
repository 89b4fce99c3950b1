//! A failover and the way back, step by step, as a recovery would do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ham4db::app::ports::{Executor as _, ProbeConnection, StepError};
use ham4db::domain::gtid::GtidSet;
use ham4db::domain::instance::{ConnectedReplica, Identity, InstanceFacts, Positioning, ThreadState};
use tokio::task::JoinSet;

use crate::server::{ADMIN, REPLICATION, Server, Software};
use crate::watched::{LONG, Poller, account, target};

const REPORTING: &[&str] = &["--report-host=127.0.0.1"];

/// A primary with one table, and a replica that follows it, both semi-sync.
pub(crate) async fn pair(poller: &Poller, software: Software) -> (Server, Server) {
    let (primary, replica) = tokio::join!(
        Server::start(software, 101, REPORTING),
        Server::start(software, 102, REPORTING)
    );
    primary
        .run("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)")
        .await;
    let mut session = poller.session(&replica).await;
    session.set_read_only(LONG).await.unwrap();
    session
        .follow(&primary.key, Some(&account(REPLICATION)), LONG)
        .await
        .unwrap();
    session.end().await;
    caught_up(poller, &primary, &replica).await;
    (primary, replica)
}

async fn caught_up(poller: &Poller, source: &Server, replica: &Server) -> InstanceFacts {
    let wanted = poller.facts(source).await.executed;
    poller
        .facts_when(replica, "it replicates all", |facts| {
            let channel = facts.managed_channel();
            channel.is_some_and(|channel| channel.io == ThreadState::Running && channel.sql == ThreadState::Running)
                && facts.executed.contains(&wanted)
        })
        .await
}

/// A replica that has caught up says for up to a second that it lags.
async fn without_lag(poller: &Poller, replica: &Server) -> InstanceFacts {
    poller
        .facts_when(replica, "it lags no more", |facts| {
            let channel = facts.managed_channel();
            channel.is_some_and(|channel| channel.lag_seconds == Some(0))
        })
        .await
}

/// Inserts rows by the thousands number.
pub(crate) async fn insert(server: &Server, from: u32, count: u32) {
    let rows: Vec<String> = (from..from + count)
        .map(|id| format!("INSERT INTO d.t VALUES ({id})"))
        .collect();
    server.run(&rows.join("; ")).await;
}

/// Leaves the replica with five received transactions that are not applied, and the primary dead.
async fn leave_five_unapplied(poller: &Poller, primary: &mut Server, replica: &Server, from: u32) -> GtidSet {
    replica
        .run(if replica.software == Software::MySql {
            "STOP REPLICA SQL_THREAD"
        } else {
            "STOP SLAVE SQL_THREAD"
        })
        .await;
    insert(primary, from, 5).await;
    let written = poller.facts(primary).await.executed;
    let facts = poller
        .facts_when(replica, "it received the five", |facts| {
            facts.received().contains(&written)
        })
        .await;
    assert!(!facts.executed.contains(&written));
    assert_eq!(facts.received().subtract(&facts.executed).transaction_count(), 5);
    primary.kill();
    written
}

fn expect_primary(facts: &InstanceFacts, replica: &Server) {
    assert!(facts.channels.is_empty() && facts.is_writable() && facts.log_bin && facts.log_replica_updates);
    assert_eq!(facts.server_id, 101);
    assert_eq!(facts.binlog_format, "ROW");
    assert_eq!(facts.binlog_row_image, "FULL");
    assert!(
        facts
            .binlog
            .as_ref()
            .is_some_and(|end| end.file.starts_with("binlog.") && end.position > 0)
    );
    assert_eq!(
        facts.replicas,
        [ConnectedReplica {
            key: replica.key.clone(),
            reported: true
        }]
    );
    assert!(!facts.executed.is_empty() && facts.executed == facts.executed.originating_at(&facts.identity.origin()));
    assert_eq!(facts.problems, [] as [String; 0]);
}

fn expect_replica(facts: &InstanceFacts, replica: &Server, primary: &Server, positioning: Positioning) {
    assert!(!facts.is_writable());
    assert_eq!(facts.reported.as_ref(), Some(&replica.key));
    let channel = facts.managed_channel().expect("because it follows");
    assert_eq!(facts.channels.len(), 1);
    assert_eq!(channel.source, primary.key);
    assert_eq!(channel.source_server_id, primary.id);
    assert_eq!(channel.user, REPLICATION);
    assert_eq!(channel.positioning, positioning);
    assert_eq!(channel.lag_seconds, Some(0));
    assert_eq!((channel.io_error.number, channel.sql_error.number), (0, 0));
    assert!(channel.is_receiving() && !channel.filtered && !channel.tls);
    assert!(channel.read.position > 0 && !channel.exec.file.is_empty());
    assert!(channel.relay.position > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mysql_failover_by_steps_loses_nothing_and_takes_the_old_primary_back() {
    let poller = Poller::new();
    let (mut primary, replica) = pair(&poller, Software::MySql).await;

    // Facts.
    let facts = poller.facts(&primary).await;
    expect_primary(&facts, &replica);
    let uuid = primary.value("SELECT @@server_uuid").await;
    assert_eq!(facts.identity, Identity::ServerUuid(uuid.clone()));
    assert_eq!((facts.gtid_mode.as_str(), facts.super_read_only), ("ON", Some(false)));
    assert!(facts.semi_sync.available && !facts.semi_sync.source_enabled);
    let facts = without_lag(&poller, &replica).await;
    expect_replica(&facts, &replica, &primary, Positioning::AutoPosition);
    assert_eq!(facts.super_read_only, Some(true));
    assert_eq!(facts.managed_channel().unwrap().source_uuid, Some(uuid));
    assert!(facts.managed_channel().unwrap().get_source_public_key);
    assert!(facts.replication_credentials_available);

    // Semi-sync, seen from both ends.
    primary
        .run("SET GLOBAL rpl_semi_sync_source_enabled = 1, GLOBAL rpl_semi_sync_source_timeout = 20000")
        .await;
    replica
        .run("SET GLOBAL rpl_semi_sync_replica_enabled = 1; STOP REPLICA IO_THREAD; START REPLICA IO_THREAD")
        .await;
    let semi_sync = poller
        .facts_when(&primary, "it has a semi-sync replica", |facts| {
            facts.semi_sync.clients == 1
        })
        .await
        .semi_sync;
    assert!(semi_sync.source_enabled && semi_sync.source_active && semi_sync.after_sync && semi_sync.wait_no_replica);
    assert_eq!((semi_sync.timeout_millis, semi_sync.wait_for_count), (20000, 1));
    let semi_sync = poller
        .facts_when(&replica, "it acknowledges", |facts| facts.semi_sync.replica_active)
        .await
        .semi_sync;
    assert!(semi_sync.replica_enabled && !semi_sync.source_enabled);

    // An errant transaction is the replica's own.
    replica
        .run("SET GLOBAL super_read_only = 0; CREATE DATABASE errant; SET GLOBAL super_read_only = 1")
        .await;
    let (source, facts) = (poller.facts(&primary).await, poller.facts(&replica).await);
    let errant = facts.executed.subtract(&source.executed);
    assert_eq!(errant.transaction_count(), 1);
    assert_eq!(errant, errant.originating_at(&facts.identity.origin()));

    // The primary dies with five transactions in the replica's relay log.
    let written = leave_five_unapplied(&poller, &mut primary, &replica, 100).await;
    let mut session = poller.session(&replica).await;
    session.stop_receiver(LONG).await.unwrap();
    let refused = session.wait_applied(&written, LONG).await.unwrap_err();
    assert!(
        matches!(&refused, StepError::Refused { number: 0, message, .. } if message == "the applier is stopped"),
        "{refused}"
    );
    let facts = session.facts(LONG).await.unwrap();
    assert_eq!(facts.managed_channel().unwrap().io, ThreadState::Stopped);
    session.start_applier(LONG).await.unwrap();
    session.wait_applied(&facts.received(), LONG).await.unwrap();
    session.reset_replication(LONG).await.unwrap();
    session.set_semi_sync_source(true, LONG).await.unwrap();
    session.set_writable(LONG).await.unwrap();
    let facts = session.facts(LONG).await.unwrap();
    assert!(facts.channels.is_empty() && facts.is_writable() && facts.super_read_only == Some(false));
    assert!(facts.semi_sync.source_enabled);
    assert!(facts.executed.contains(&written));
    session.set_semi_sync_source(false, LONG).await.unwrap();
    session.end().await;
    assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "5");
    insert(&replica, 200, 3).await;

    // The old one comes back and follows.
    primary.start_again().await;
    let mut session = poller.session(&primary).await;
    session.set_read_only(LONG).await.unwrap();
    session
        .follow(&replica.key, Some(&account(REPLICATION)), LONG)
        .await
        .unwrap();
    session.end().await;
    let facts = caught_up(&poller, &replica, &primary).await;
    assert!(!facts.is_writable());
    assert_eq!(primary.value("SELECT COUNT(*) FROM d.t").await, "8");

    // Pointed elsewhere while its applier is stopped, it keeps what it received and its account.
    primary.run("STOP REPLICA SQL_THREAD").await;
    insert(&replica, 300, 2).await;
    let mut session = poller.session(&primary).await;
    session.follow(&replica.key, None, LONG).await.unwrap();
    let slow = session
        .wait_applied(&written.union(&gtid_of(&facts, "1-999")), Duration::from_millis(200))
        .await
        .unwrap_err();
    assert!(matches!(slow, StepError::TooSlow { millis: 200, .. }), "{slow}");
    session.end().await;
    let facts = caught_up(&poller, &replica, &primary).await;
    let channel = facts.managed_channel().unwrap();
    assert_eq!(
        (channel.user.as_str(), channel.positioning),
        (REPLICATION, Positioning::AutoPosition)
    );
}

/// Transactions of this server that never were.
fn gtid_of(facts: &InstanceFacts, numbers: &str) -> GtidSet {
    GtidSet::parse(facts.version.flavour, &format!("{}:{numbers}", facts.identity)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mariadb_failover_by_steps_rescues_the_relay_log_and_takes_the_old_primary_back() {
    let poller = Poller::new();
    let (mut primary, replica) = pair(&poller, Software::MariaDb).await;

    // Facts.
    let facts = poller.facts(&primary).await;
    expect_primary(&facts, &replica);
    assert_eq!(
        (&facts.identity, facts.super_read_only),
        (&Identity::ServerId(101), None)
    );
    let facts = without_lag(&poller, &replica).await;
    expect_replica(&facts, &replica, &primary, Positioning::SlavePos);
    assert_eq!(facts.executed, poller.facts(&primary).await.executed);
    primary.run("SET GLOBAL rpl_semi_sync_master_enabled = 1").await;
    replica
        .run("SET GLOBAL rpl_semi_sync_slave_enabled = 1; STOP SLAVE IO_THREAD; START SLAVE IO_THREAD")
        .await;
    let semi_sync = poller
        .facts_when(&primary, "it has a semi-sync replica", |facts| {
            facts.semi_sync.clients == 1
        })
        .await
        .semi_sync;
    assert!(semi_sync.available && semi_sync.source_active && semi_sync.wait_for_count == 1);
    poller
        .facts_when(&replica, "it acknowledges", |facts| facts.semi_sync.replica_active)
        .await;

    // Both threads stopped with something left, the source alive: it goes on by GTID and has lost nothing.
    replica.run("STOP SLAVE SQL_THREAD").await;
    insert(&primary, 100, 5).await;
    let written = poller.facts(&primary).await.executed;
    poller
        .facts_when(&replica, "it received the five", |facts| {
            facts.received().contains(&written)
        })
        .await;
    let mut session = poller.session(&replica).await;
    session.stop_receiver(LONG).await.unwrap();
    session.start_receiver(LONG).await.unwrap();
    session.end().await;
    let facts = caught_up(&poller, &primary, &replica).await;
    assert_eq!(facts.managed_channel().unwrap().positioning, Positioning::SlavePos);
    assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "5");

    // The same with the source dead: a plain start would delete the five.
    let written = leave_five_unapplied(&poller, &mut primary, &replica, 200).await;
    let mut session = poller.session(&replica).await;
    session.stop_receiver(LONG).await.unwrap();
    let received = session.facts(LONG).await.unwrap().received();
    assert!(received.contains(&written));
    session.start_applier(LONG).await.unwrap();
    session.wait_applied(&received, LONG).await.unwrap();
    session.reset_replication(LONG).await.unwrap();
    // MariaDB tells a transaction as soon as it is in the binary log, a moment before its rows are seen.
    assert_eq!(replica.value("SELECT COUNT(*) FROM d.t").await, "10");
    session.set_semi_sync_source(true, LONG).await.unwrap();
    session.set_writable(LONG).await.unwrap();
    let facts = session.facts(LONG).await.unwrap();
    assert!(facts.channels.is_empty() && facts.is_writable() && facts.semi_sync.source_enabled);
    assert!(facts.executed.contains(&written));
    session.set_semi_sync_source(false, LONG).await.unwrap();
    session.end().await;
    insert(&replica, 300, 3).await;

    // The old primary wrote all it has itself, and follows from there.
    primary.start_again().await;
    let mut session = poller.session(&primary).await;
    session.set_read_only(LONG).await.unwrap();
    session
        .follow(&replica.key, Some(&account(REPLICATION)), LONG)
        .await
        .unwrap();
    session.end().await;
    let facts = caught_up(&poller, &replica, &primary).await;
    assert!(!facts.is_writable());
    assert_eq!(primary.value("SELECT COUNT(*) FROM d.t").await, "13");

    // Pointed elsewhere with both threads stopped and something left.
    primary.run("STOP SLAVE SQL_THREAD").await;
    insert(&replica, 400, 5).await;
    let written = poller.facts(&replica).await.executed;
    poller
        .facts_when(&primary, "it received the five", |facts| {
            facts.received().contains(&written)
        })
        .await;
    primary.run("STOP SLAVE IO_THREAD").await;
    let mut session = poller.session(&primary).await;
    session.follow(&replica.key, None, LONG).await.unwrap();
    session.end().await;
    let facts = caught_up(&poller, &replica, &primary).await;
    let channel = facts.managed_channel().unwrap();
    assert_eq!(
        (channel.user.as_str(), channel.positioning),
        (REPLICATION, Positioning::SlavePos)
    );
    assert_eq!(primary.value("SELECT COUNT(*) FROM d.t").await, "18");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_mariadb_primary_with_a_transaction_of_its_own_stops_instead_of_skipping() {
    let poller = Poller::new();
    let (mut primary, replica) = pair(&poller, Software::MariaDb).await;
    // The replica is cut off, so the primary's last transaction dies with it.
    let mut session = poller.session(&replica).await;
    session.stop_receiver(LONG).await.unwrap();
    let received = session.facts(LONG).await.unwrap().received();
    insert(&primary, 1, 1).await;
    let lost = poller.facts(&primary).await.executed;
    primary.kill();
    session.wait_applied(&received, LONG).await.unwrap();
    session.reset_replication(LONG).await.unwrap();
    session.set_writable(LONG).await.unwrap();
    session.end().await;
    insert(&replica, 10, 2).await;

    primary.start_again().await;
    let (old, new) = (poller.facts(&primary).await, poller.facts(&replica).await);
    let errant = old.executed.subtract(&new.executed);
    assert_eq!((errant.transaction_count(), &old.executed), (1, &lost));
    assert_eq!(errant, errant.originating_at(&old.identity.origin()));
    let mut session = poller.session(&primary).await;
    session
        .follow(&replica.key, Some(&account(REPLICATION)), LONG)
        .await
        .unwrap();
    session.end().await;
    let facts = poller
        .facts_when(&primary, "it was refused", |facts| {
            facts
                .managed_channel()
                .is_some_and(|channel| channel.io_error.number != 0)
        })
        .await;
    assert_eq!(facts.managed_channel().unwrap().io_error.number, 1236);
    assert_eq!(primary.value("SELECT COUNT(*) FROM d.t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_report_no_address_are_known_by_their_connections() {
    let poller = Poller::new();
    for (software, options) in [
        (Software::MariaDb, &[][..]),
        (Software::MySql, &[][..]),
        (Software::MySql, &["--performance-schema=ON", "--report-host="][..]),
    ] {
        let (primary, replica) = tokio::join!(Server::start(software, 1, options), Server::start(software, 2, options));
        let mut session = poller.session(&replica).await;
        session
            .follow(&primary.key, Some(&account(REPLICATION)), LONG)
            .await
            .unwrap();
        session.end().await;
        let facts = poller
            .facts_when(&primary, "it sees a replica", |facts| !facts.replicas.is_empty())
            .await;
        let seen = match software {
            // The source fills in where the connection comes from, beside the port that the replica tells.
            Software::MariaDb => ConnectedReplica {
                key: replica.key.clone(),
                reported: true,
            },
            Software::MySql => ConnectedReplica {
                key: primary.key.clone(),
                reported: false,
            },
        };
        assert_eq!(facts.replicas, [seen], "{software:?} {options:?}");
        assert!(facts.reported.is_none());
        let fresh = poller.try_facts(&primary, ProbeConnection::Fresh, LONG).await.unwrap();
        assert_eq!(fresh.replicas, facts.replicas);
        let lost = poller
            .executor
            .begin(&target(&replica), Some(&facts.identity), LONG)
            .await
            .err()
            .unwrap();
        assert!(matches!(lost, StepError::OtherIdentity { .. }), "{lost}");
    }
}

/// MySQL: `STOP REPLICA` waits for a worker that holds a part of a transaction, and a killed session goes on waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_hangs_in_stop_replica_is_taken_over() {
    let poller = Poller::new();
    let (primary, replica) = pair(&poller, Software::MySql).await;
    replica.run("SET GLOBAL read_only = 0").await;
    let mut blocker = replica.connect(ADMIN).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT * FROM d.t WHERE id = 7 FOR UPDATE")
        .execute(&mut blocker)
        .await
        .unwrap();
    insert(&primary, 7, 1).await;
    let mut session = poller.session(&replica).await;
    session.stop_receiver(LONG).await.unwrap();
    let hanging = session.reset_replication(Duration::from_secs(1)).await;
    assert!(matches!(hanging, Err(StepError::OutcomeUnknown { .. })), "{hanging:?}");
    let mut next = poller.session(&replica).await;
    let facts = next.facts(LONG).await.unwrap();
    assert_eq!(facts.managed_channel().unwrap().sql, ThreadState::Stopped);
    next.reset_replication(LONG).await.unwrap();
    assert!(next.facts(LONG).await.unwrap().channels.is_empty());
    next.end().await;
}

/// MySQL: a commit that waits for acknowledgements outlives its session, and clients that connect again and again are always among the
/// sessions. A primary stayed writable for more than 30 s because of that after it had been cut off.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_connect_again_and_again_do_not_keep_a_server_with_hanging_commits_writable() {
    let poller = Poller::new();
    let server = Arc::new(Server::start(Software::MySql, 1, &[]).await);
    server
        .run("CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY)")
        .await;
    server
        .run("CREATE USER client IDENTIFIED BY 'pass''word'; GRANT ALL ON d.* TO client")
        .await;
    server
        .run(
            "SET GLOBAL rpl_semi_sync_source_timeout = 1000000000; SET GLOBAL rpl_semi_sync_source_wait_no_replica = ON; \
             SET GLOBAL rpl_semi_sync_source_enabled = ON",
        )
        .await;
    let acknowledged = Arc::new(AtomicU32::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (server, acknowledged) = (Arc::clone(&server), Arc::clone(&acknowledged));
        clients.spawn(async move {
            loop {
                let Ok(mut connection) = server.connect("client").await else {
                    continue;
                };
                let inserted = sqlx::raw_sql("INSERT INTO d.t VALUES ()")
                    .execute(&mut connection)
                    .await;
                if inserted.is_ok() {
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
    }
    poller
        .facts_when(&server, "its commits wait", |facts| facts.semi_sync.wait_sessions > 0)
        .await;
    let mut session = poller.session(&server).await;
    let mut beside = poller
        .executor
        .begin_beside(&target(&server), None, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    let free = async {
        let begun = Instant::now();
        loop {
            beside.kill_clients(Duration::from_millis(300)).await.ok();
            if beside.disconnect_clients(Duration::from_secs(2)).await.unwrap() {
                break beside.set_semi_sync_source(false, LONG).await.unwrap();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "there is always a new client"
            );
        }
    };
    let (fenced, ()) = tokio::join!(session.set_read_only(Duration::from_secs(20)), free);
    fenced.unwrap_or_else(|error| panic!("{error}"));
    clients.shutdown().await;
    assert_eq!(server.value("SELECT @@super_read_only").await, "1");
    assert_eq!(
        acknowledged.load(Ordering::SeqCst),
        0,
        "a client took a commit for acknowledged"
    );
}
