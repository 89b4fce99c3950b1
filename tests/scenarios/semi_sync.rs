//! A semi-sync primary that has more acknowledging replicas than it waits for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::{Run, scenario};
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};

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

/// The one repair, when it is over.
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
