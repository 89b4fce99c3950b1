//! A semi-sync primary that waits for replicas which nobody is, and one that has too many of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_mysql_primary_gets_another_acknowledging_replica() -> Result<()> {
    scenario("semi-sync-locked-mysql", |run| locked(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_mariadb_primary_gets_another_acknowledging_replica() -> Result<()> {
    scenario("semi-sync-locked-mariadb", |run| locked(run, Flavour::MariaDb)).await
}

/// Its only acknowledging replica dies; the other one could acknowledge, and does not yet. Several commits wait, and the other one has
/// received the first of them already: on MariaDB the second holds the lock of the binary log, so that nothing can follow it.
async fn locked(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let intent = Intent::Configuration(json!({
        "RecoverLockedSemiSyncMaster": true,
        "ReasonableLockedSemiSyncMasterSeconds": 2,
    }));
    let mut topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    topology
        .server(2)?
        .run(&format!(
            "{}; {}; {}",
            acknowledge(flavour, false),
            flavour.thread("STOP", "IO_THREAD"),
            flavour.thread("START", "IO_THREAD")
        ))
        .await?;
    clients(&topology, 1).await?;
    let members = Members::start(&run, &topology, &intent, None).await?;
    members.knows(&topology).await?;
    topology.server_mut(1)?.kill()?;
    let mut commits = Vec::new();
    for number in 1..=4 {
        let mut session = topology.server(0)?.session().await?;
        let row = format!("INSERT INTO ham4db_test.written VALUES (9, {number}, 'waited')");
        commits.push(tokio::spawn(
            async move { session.run_within(&row, 3 * DEADLINE).await },
        ));
    }
    let recovery = repair(&members).await?;
    ensure!(recovery.get("IsSuccessful") == Some(&Value::Bool(true)), "{recovery}");
    ensure!(
        text(&recovery, "/AnalysisEntry/Analysis") == "LockedSemiSyncMaster",
        "{recovery}"
    );
    for commit in commits {
        commit.await.context("wait for the commit")??;
    }
    clients(&topology, 1).await?;
    topology.server(0)?.run("CREATE DATABASE after_it").await?;
    let written = topology.server(0)?.executed().await?;
    topology.server(2)?.has_executed(&written, DEADLINE).await?;
    let primary = topology.server(0)?.address().clone();
    topology.server(2)?.follows(&primary, DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_acknowledging_mysql_replicas_one_stays() -> Result<()> {
    scenario("semi-sync-surplus-mysql", |run| surplus(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_acknowledging_mariadb_replicas_one_stays() -> Result<()> {
    scenario("semi-sync-surplus-mariadb", |run| surplus(run, Flavour::MariaDb)).await
}

/// Both replicas acknowledge, and the primary waits for one.
async fn surplus(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let intent = Intent::Configuration(json!({"EnforceExactSemiSyncReplicas": true}));
    let stage = Stage::set(&run, &Shape::star(flavour, 2), &intent).await?;
    let recovery = repair(&stage.members).await?;
    ensure!(recovery.get("IsSuccessful") == Some(&Value::Bool(true)), "{recovery}");
    ensure!(
        text(&recovery, "/AnalysisEntry/Analysis") == "MasterWithTooManySemiSyncReplicas",
        "{recovery}"
    );
    clients(&stage.topology, 1).await?;
    stage.writers.progress(300, DEADLINE).await?;
    stage.judge(Duration::ZERO).await?;
    Ok(())
}

fn acknowledge(flavour: Flavour, on: bool) -> String {
    let variable = match flavour {
        Flavour::MySql => "rpl_semi_sync_replica_enabled",
        Flavour::MariaDb => "rpl_semi_sync_slave_enabled",
    };
    format!("SET GLOBAL {variable} = {}", if on { "ON" } else { "OFF" })
}

/// Waits until so many acknowledging replicas are connected to the primary.
async fn clients(topology: &Topology, wanted: u32) -> Result<()> {
    let primary = topology.server(0)?;
    let mut session = primary.session().await?;
    until(DEADLINE, &format!("{wanted} acknowledging replicas"), async || {
        let connected = topology.flavour.semi_sync_replicas(&mut session).await?;
        ensure!(connected == wanted, "{connected} are connected");
        Ok(Some(()))
    })
    .await
}

/// The first repair, when it is over.
async fn repair(members: &Members) -> Result<Value> {
    until(DEADLINE, "the repair of semi-sync to be over", async || {
        let recoveries = members.recoveries().await?;
        let over = |recovery: &Value| recovery.get("IsActive") == Some(&Value::Bool(false));
        Ok(recoveries
            .into_iter()
            .find(|recovery| text(recovery, "/Type") == "SemiSyncMasterRecovery" && over(recovery)))
    })
    .await
}
