//! Failovers of topologies without GTIDs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::server::Server;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::{Acknowledged, missing};
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// How long a writer rests after each row.
pub(crate) const REST: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtids_the_mysql_replica_that_received_most_is_promoted_and_one_behind_goes_on_where_it_was()
-> Result<()> {
    scenario_alone("position-mysql", |run| one_behind(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtid_channels_the_mariadb_replica_that_received_most_is_promoted() -> Result<()> {
    scenario_alone("position-mariadb", |run| one_behind(run, Flavour::MariaDb)).await
}

/// The first replica stops receiving, rows are written on, and the primary dies: the second replica is promoted, the third, which may
/// have received as much or less, and the first, which lacks rows, get from it just what they lack.
async fn one_behind(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let topology = Topology::start(&run, &Shape::star(flavour, 3)).await?;
    switch_off_gtids(&topology).await?;
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    let mut stage = Stage::begin_paced(topology, members, REST).await?;
    stage.writers.progress(50, DEADLINE).await?;
    stage
        .topology
        .server(1)?
        .run(&flavour.thread("STOP", "IO_THREAD"))
        .await?;
    stage.writers.progress(200, DEADLINE).await?;
    let measured = stage.fail_over(FAILOVER + FAILOVER).await?;
    ensure!(
        measured.successor != 1,
        "{}, which was behind, was promoted",
        measured.to
    );
    stage.writers.progress(50, DEADLINE).await?;
    let recovery = stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    ensure!(
        recovery.get("RecoveryType").and_then(|kind| kind.as_str()) == Some("MasterRecoveryPosition"),
        "it was another kind of recovery: {recovery}"
    );
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    has_all(&topology, &rows).await
}

/// Every server that runs has every acknowledged row, once: a row twice would have stopped a replica with a duplicate key.
pub(crate) async fn has_all(topology: &Topology, rows: &[Acknowledged]) -> Result<()> {
    for server in topology.servers.iter().filter(|server| server.is_running()) {
        until(
            DEADLINE,
            &format!("{} to have every acknowledged row", server.name()),
            async || {
                let lost = missing(rows, server).await?;
                ensure!(lost.is_empty(), "{} of {} rows are missing", lost.len(), rows.len());
                Ok(Some(()))
            },
        )
        .await?;
    }
    Ok(())
}

/// File and position of the end of a server's binary log.
pub(crate) async fn end_of_log(server: &Server, flavour: Flavour) -> Result<(String, String)> {
    let statement = match flavour {
        Flavour::MySql => "SHOW BINARY LOG STATUS",
        Flavour::MariaDb => "SHOW MASTER STATUS",
    };
    let mut session = server.session().await?;
    let status = session.rows(statement).await?;
    session.close().await;
    let column = |name: &str| -> Result<String> {
        let value = status.first().and_then(|row| row.get(name)).cloned().flatten();
        value.with_context(|| format!("{} tells no {name}", server.name()))
    };
    Ok((column("File")?, column("Position")?))
}

/// Channels by file and position, and on MySQL anonymous transactions, on a topology that is idle.
pub(crate) async fn switch_off_gtids(topology: &Topology) -> Result<()> {
    let replicas = || topology.servers.iter().skip(1);
    let primary = topology.server(0)?;
    if topology.flavour == Flavour::MariaDb {
        for replica in replicas() {
            replica
                .run("STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID=no; START SLAVE;")
                .await?;
        }
    } else {
        for mode in ["ON_PERMISSIVE", "OFF_PERMISSIVE"] {
            for server in &topology.servers {
                server.run(&format!("SET GLOBAL gtid_mode={mode}")).await?;
            }
        }
        let (file, position) = end_of_log(primary, topology.flavour).await?;
        for replica in replicas() {
            replica
                .run(&format!(
                    "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION=0, SOURCE_LOG_FILE='{file}', \
                     SOURCE_LOG_POS={position}; START REPLICA;"
                ))
                .await?;
        }
        for server in &topology.servers {
            server.run("SET GLOBAL gtid_mode=OFF").await?;
        }
    }
    for replica in replicas() {
        replica.follows(primary.address(), DEADLINE).await?;
    }
    Ok(())
}
