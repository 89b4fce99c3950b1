//! A primary dies in the middle of a large transaction, of which its replicas have received a part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::by_position::{REST, switch_off_gtids};
use crate::kit::failover::measure;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::{DATABASE, Flavour};
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::server::Server;
use crate::kit::sql::Session;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};
use crate::takeover::{asked, settled, taken_over};

/// Rows of one mebibyte in the transaction.
const ROWS: u32 = 120;
/// How many bytes of it every replica has when the primary is killed.
const RECEIVED: u64 = 15 << 20;
/// How much longer this failover may take than the one before: ten times what is required.
const LONGER: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_primary_that_dies_in_a_large_transaction_is_replaced_as_fast_as_any() -> Result<()> {
    scenario("half-mysql", |run| async move {
        dies_in_a_large_transaction(run, &Servers::of(Flavour::MySql)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_may_not_kill_applier_threads_replaces_it_as_fast() -> Result<()> {
    scenario("half-unprivileged", |run| {
        let servers = Servers {
            may_kill: false,
            ..Servers::of(Flavour::MySql)
        };
        async move { dies_in_a_large_transaction(run, &servers).await }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtids_a_primary_that_dies_in_a_large_transaction_is_replaced_as_fast_as_any() -> Result<()> {
    scenario("half-position", |run| {
        let servers = Servers {
            by_gtid: false,
            ..Servers::of(Flavour::MySql)
        };
        async move { dies_in_a_large_transaction(run, &servers).await }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_primary_that_dies_in_a_large_transaction_is_replaced_as_fast_as_any() -> Result<()> {
    scenario("half-mariadb", |run| async move {
        dies_in_a_large_transaction(run, &Servers::of(Flavour::MariaDb)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtid_channels_a_mariadb_primary_that_dies_in_a_large_transaction_is_replaced_as_fast_as_any()
-> Result<()> {
    scenario("half-mariadb-position", |run| {
        let servers = Servers {
            by_gtid: false,
            ..Servers::of(Flavour::MariaDb)
        };
        async move { dies_in_a_large_transaction(run, &servers).await }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_performance_schema_a_primary_that_dies_in_a_large_transaction_is_replaced_as_fast_as_any() -> Result<()> {
    scenario("half-performance-schema", |run| {
        let servers = Servers {
            performance_schema: true,
            ..Servers::of(Flavour::MySql)
        };
        async move { dies_in_a_large_transaction(run, &servers).await }
    })
    .await
}

/// How the servers replicate, and what members may see and do there.
struct Servers {
    flavour: Flavour,
    by_gtid: bool,
    may_kill: bool,
    performance_schema: bool,
}

impl Servers {
    fn of(flavour: Flavour) -> Self {
        Self {
            flavour,
            by_gtid: true,
            may_kill: true,
            performance_schema: false,
        }
    }
}

/// First an ordinary failover, to compare with; then the new primary dies in the middle of a transaction.
#[expect(clippy::print_stdout, reason = "what was measured")]
async fn dies_in_a_large_transaction(run: Arc<Run>, servers: &Servers) -> Result<()> {
    let Servers {
        flavour,
        by_gtid,
        may_kill,
        performance_schema,
    } = *servers;
    let shape = Shape {
        performance_schema,
        ..Shape::asynchronous(flavour, 3)
    };
    let topology = Topology::start(&run, &shape).await?;
    if performance_schema {
        let user = &topology.accounts.topology.user;
        let grant = format!("GRANT SELECT ON performance_schema.* TO '{user}'@'%'");
        topology.server(0)?.run(&grant).await?;
    }
    if !by_gtid {
        switch_off_gtids(&topology).await?;
    }
    topology
        .server(0)?
        .run(&format!(
            "CREATE TABLE {DATABASE}.big (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGBLOB)"
        ))
        .await?;
    if !may_kill {
        let user = &topology.accounts.topology.user;
        let revoke = format!("REVOKE SYSTEM_USER ON *.* FROM '{user}'@'%'");
        topology.server(0)?.run(&revoke).await?;
        topology.caught_up(0, DEADLINE).await?;
    }
    let intent = Intent::Manifests(json!({"mode": "Auto", "blockFor": "1s"}));
    let members = Members::start(&run, &topology, &intent, None).await?;
    let mut stage = Stage::begin_paced(topology, members, REST).await?;
    let ordinary = stage.fail_over(FAILOVER + FAILOVER).await?;
    stage
        .members
        .one_recovery(DEADLINE, &ordinary.from, &ordinary.to)
        .await?;
    stage.writers.progress(100, DEADLINE).await?;

    let killed = stop_in_a_transaction(&mut stage, ordinary.successor, End::Kill).await?;
    let measured = measure(&stage.topology, &stage.writers, &ordinary.to, killed, DEADLINE).await?;
    println!(
        "{flavour}, {}: writable after {:.2} s with a part of a transaction, {:.2} s without; replicas {:.2} s, {:.2} s",
        if by_gtid { "GTID" } else { "positions" },
        measured.writable_after.as_secs_f64(),
        ordinary.writable_after.as_secs_f64(),
        measured.repointed_after.as_secs_f64(),
        ordinary.repointed_after.as_secs_f64(),
    );
    ensure!(
        measured.writable_after <= ordinary.writable_after + LONGER
            && measured.repointed_after <= ordinary.repointed_after + LONGER,
        "it took {measured:?}, and {ordinary:?} without a large transaction"
    );
    let left = stage
        .topology
        .server(measured.successor)?
        .value(&format!("SELECT COUNT(*) FROM {DATABASE}.big"))
        .await?;
    ensure!(
        left == "0",
        "{left} rows of a transaction that never arrived whole are left"
    );
    stage.writers.progress(50, DEADLINE).await?;
    stage.judge(Duration::ZERO).await.map(drop)
}

/// What becomes of a primary when its replicas have a part of a transaction.
#[derive(Clone, Copy)]
enum End {
    /// It is killed.
    Kill,
    /// It lives on.
    Live,
}

/// A primary with replicas that have a part of a transaction, under members that replace nothing by themselves; when that was.
async fn in_a_transaction(run: &Arc<Run>, flavour: Flavour, how: End) -> Result<(Stage, Instant)> {
    let topology = Topology::start(run, &Shape::asynchronous(flavour, 2)).await?;
    topology
        .server(0)?
        .run(&format!(
            "CREATE TABLE {DATABASE}.big (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGBLOB)"
        ))
        .await?;
    topology.caught_up(0, DEADLINE).await?;
    let intent = Intent::Manifests(json!({"mode": "DetectOnly"}));
    let members = Members::start(run, &topology, &intent, None).await?;
    let mut stage = Stage::begin_paced(topology, members, REST).await?;
    let then = stop_in_a_transaction(&mut stage, 0, how).await?;
    Ok((stage, then))
}

async fn rows_of(stage: &Stage, index: usize) -> Result<String> {
    let statement = format!("SELECT COUNT(*) FROM {DATABASE}.big");
    stage.topology.server(index)?.value(&statement).await
}

/// A person has a primary replaced that died in the middle of a transaction.
async fn is_declared_dead(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let (stage, killed) = in_a_transaction(&run, flavour, End::Kill).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    let (code, answer) = asked(&stage, "force-master-takeover", &first, Some(&second)).await?;
    ensure!(code == 200, "{code} {answer}");
    let row = stage.writers.first_elsewhere(0, killed, DEADLINE).await?;
    ensure!(row.server == 1, "server {} was promoted", row.server);
    stage.topology.server(2)?.follows(&second, DEADLINE).await?;
    for index in [1, 2] {
        let left = rows_of(&stage, index).await?;
        ensure!(
            left == "0",
            "{left} rows of a part of a transaction are on server {index}"
        );
    }
    stage.writers.progress(50, DEADLINE).await?;
    stage.judge(Duration::ZERO).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_primary_that_died_in_a_large_transaction_is_replaced_by_force() -> Result<()> {
    scenario("half-forced-mysql", |run| is_declared_dead(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_primary_that_died_in_a_large_transaction_is_replaced_by_force() -> Result<()> {
    scenario("half-forced-mariadb", |run| is_declared_dead(run, Flavour::MariaDb)).await
}

/// A takeover begins while a large transaction is on its way to the replicas: it arrives whole or not at all.
async fn is_taken_over(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let (stage, _) = in_a_transaction(&run, flavour, End::Live).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    taken_over(&stage, "graceful-master-takeover-auto", &first, &second).await?;
    settled(&stage, 1).await?;
    stage.topology.caught_up(1, DEADLINE).await?;
    let rows = rows_of(&stage, 1).await?;
    ensure!(rows == "0" || rows == ROWS.to_string(), "{rows} rows are left");
    for index in [0, 2] {
        let others = rows_of(&stage, index).await?;
        ensure!(
            others == rows,
            "{others} rows on server {index}, {rows} on the new primary"
        );
    }
    stage.writers.progress(50, DEADLINE).await?;
    stage.judge(Duration::ZERO).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_takeover_while_a_large_transaction_arrives_leaves_no_part_of_it() -> Result<()> {
    scenario("half-takeover-mysql", |run| is_taken_over(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_takeover_while_a_large_transaction_arrives_leaves_no_part_of_it() -> Result<()> {
    scenario("half-takeover-mariadb", |run| is_taken_over(run, Flavour::MariaDb)).await
}

/// Commits a large transaction on a server, and stops the server when each replica has a part of it.
async fn stop_in_a_transaction(stage: &mut Stage, primary: usize, how: End) -> Result<Instant> {
    let flavour = stage.topology.flavour;
    let replicas: Vec<usize> = (0..stage.topology.servers.len())
        .filter(|index| *index != primary && stage.topology.servers.get(*index).is_some_and(Server::is_running))
        .collect();
    let mut sessions = Vec::new();
    for index in &replicas {
        sessions.push(stage.topology.server(*index)?.session().await?);
    }
    let mut writer = stage.topology.server(primary)?.session().await?;
    writer.run("SET SESSION binlog_format = ROW; BEGIN").await?;
    for _ in 0..ROWS {
        writer
            .run(&format!(
                "INSERT INTO {DATABASE}.big (filler) VALUES (REPEAT('x', 1048576))"
            ))
            .await?;
    }
    let mut before = Vec::new();
    for session in &mut sessions {
        before.push(relay_bytes(session, flavour).await?);
    }
    let committing = tokio::spawn(async move { writer.run_within("COMMIT", DEADLINE).await.is_ok() });
    let begun = Instant::now();
    loop {
        let mut received = u64::MAX;
        for (session, before) in sessions.iter_mut().zip(&before) {
            received = received.min(relay_bytes(session, flavour).await?.saturating_sub(*before));
        }
        if received >= RECEIVED {
            break;
        }
        ensure!(
            begun.elapsed() < DEADLINE,
            "the replicas received {received} bytes only"
        );
    }
    let killed = match how {
        End::Kill => {
            let killed = stage.topology.server_mut(primary)?.kill()?;
            committing.await.context("the task of the transaction")?;
            killed
        }
        End::Live => return Ok(Instant::now()),
    };
    for (index, session) in replicas.iter().zip(&mut sessions) {
        until(DEADLINE, "a replica to have a part only", async || {
            // One that has no channel any more was promoted already.
            let received = channel_bytes(session, flavour).await?.unwrap_or_default();
            ensure!(
                received < u64::from(ROWS) << 20,
                "server {index} received {received} bytes, so the whole transaction"
            );
            Ok(Some(()))
        })
        .await?;
    }
    Ok(killed)
}

/// The bytes of all relay logs of a replica.
async fn relay_bytes(session: &mut Session, flavour: Flavour) -> Result<u64> {
    let bytes = channel_bytes(session, flavour).await?;
    bytes.context("a replica shows no Relay_Log_Space")
}

/// The same of a server that may have no channel.
async fn channel_bytes(session: &mut Session, flavour: Flavour) -> Result<Option<u64>> {
    let statement = match flavour {
        Flavour::MySql => "SHOW REPLICA STATUS",
        Flavour::MariaDb => "SHOW SLAVE STATUS",
    };
    let rows = session.rows(statement).await?;
    let bytes = rows
        .first()
        .and_then(|row| row.get("Relay_Log_Space"))
        .cloned()
        .flatten();
    bytes.map(|bytes| bytes.parse().context("Relay_Log_Space")).transpose()
}
