//! The durability policy on real servers that begin without semi-sync: it is set up, kept through a failover, and given up when nobody is
//! left to acknowledge.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::server::Server;
use crate::kit::topology::Shape;
use crate::kit::wait::until;
use crate::kit::writers::missing;
use crate::stage::{DEADLINE, FAILOVER, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durability_policy_is_kept_on_mysql() -> Result<()> {
    scenario("durability-mysql", |run| kept(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durability_policy_is_kept_on_mariadb() -> Result<()> {
    scenario("durability-mariadb", |run| kept(run, Flavour::MariaDb)).await
}

async fn kept(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let intent = Intent::Manifests(json!({
        "mode": "Auto",
        "oldPrimary": "Rejoin",
        "durability": {"mode": "SemiSync"},
    }));
    let mut stage = Stage::set(&run, &Shape::asynchronous(flavour, 3), &intent).await?;
    // One is waited for, and one more acknowledges.
    waits_for(stage.topology.server(0)?, flavour, true, 2).await?;
    stage.writers.progress(300, DEADLINE).await?;

    // The successor goes on with it, and nothing that was acknowledged is lost.
    let measured = stage.fail_over(10 * FAILOVER).await?;
    let successor = measured.successor;
    waits_for(stage.topology.server(successor)?, flavour, true, 2).await?;
    stage.writers.progress(300, DEADLINE).await?;

    // Nobody is left: commits do not wait for ever.
    let others: Vec<usize> = (1..4).filter(|index| *index != successor).collect();
    for index in &others {
        stage.topology.server_mut(*index)?.kill()?;
    }
    waits_for(stage.topology.server(successor)?, flavour, false, 0).await?;
    stage.writers.progress(300, DEADLINE).await?;
    for index in &others {
        stage.topology.server_mut(*index)?.start_again().await?;
    }
    waits_for(stage.topology.server(successor)?, flavour, true, 2).await?;

    let (topology, _, rows) = stage.judge(Duration::from_secs(5)).await?;
    let lost = missing(&rows, topology.server(successor)?).await?;
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged rows are lost",
        lost.len(),
        rows.len()
    );
    Ok(())
}

/// Waits until commits on a server wait for acknowledgements, or do not, and so many replicas are connected that give them.
async fn waits_for(server: &Server, flavour: Flavour, waits: bool, clients: u32) -> Result<()> {
    let enabled = match flavour {
        Flavour::MySql => "@@GLOBAL.rpl_semi_sync_source_enabled",
        Flavour::MariaDb => "@@GLOBAL.rpl_semi_sync_master_enabled",
    };
    let what = format!("{} to wait: {waits}, with {clients} replicas", server.name());
    let mut session = server.session().await?;
    until(2 * DEADLINE, &what, async || {
        let is_on = session.value(&format!("SELECT {enabled}")).await? == "1";
        let connected = if waits {
            flavour.semi_sync_replicas(&mut session).await?
        } else {
            0
        };
        ensure!(
            is_on == waits && connected == clients,
            "on: {is_on}, connected: {connected}"
        );
        Ok(Some(()))
    })
    .await
}
