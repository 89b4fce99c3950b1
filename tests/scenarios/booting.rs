//! A server that was promoted ends, and starts again as its configuration says: read-only.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::kit::http::text;
use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::Shape;
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, Stage};

/// How many seconds a server runs before it ends.
const OLD_ENOUGH: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_mysql_server_that_starts_read_only_takes_writes_again() -> Result<()> {
    scenario("boots-read-only-mysql", |run| starts_read_only(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_mariadb_server_that_starts_read_only_takes_writes_again() -> Result<()> {
    scenario("boots-read-only-mariadb", |run| starts_read_only(run, Flavour::MariaDb)).await
}

/// The old primary stays away, so nobody else could be promoted.
async fn starts_read_only(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let shape = Shape::asynchronous(flavour, 1);
    let mut stage = Stage::set(&run, &shape, &Intent::default_document()).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    stage.writers.progress(100, DEADLINE).await?;
    old_enough(&stage, 1).await?;
    stage.topology.server_mut(1)?.kill()?;
    stage.topology.server_mut(1)?.start_again().await?;
    let repair = until(DEADLINE, "the repair of the read-only primary", async || {
        let recoveries = stage.members.recoveries().await?;
        let is_it = |recovery: &Value| text(recovery, "/Type") == "NonWriteableMasterRecovery";
        Ok(recoveries
            .into_iter()
            .find(|recovery| is_it(recovery) && recovery.get("IsActive") == Some(&Value::Bool(false))))
    })
    .await?;
    ensure!(
        repair.get("IsSuccessful") == Some(&Value::Bool(true)),
        "not successful: {repair}"
    );
    stage.writers.progress(100, DEADLINE).await?;
    ensure!(explained(&stage).await?.is_empty(), "something is left to say");

    // The same server, and now a person's word.
    stage.topology.server(1)?.run(flavour.read_only(true)).await?;
    until(DEADLINE, "explain to name it", async || {
        let told = explained(&stage).await?;
        Ok(told.contains("RecoverNonWriteableMaster is not set").then_some(()))
    })
    .await?;
    throughout(Duration::from_secs(5), async || {
        let read_only = stage.topology.server(1)?.is_read_only().await?;
        ensure!(read_only, "it was made writable against a person's word");
        Ok(())
    })
    .await?;
    let recoveries = stage.members.recoveries().await?;
    ensure!(recoveries.len() == 2, "{}", Value::from(recoveries));
    stage.judge(Duration::ZERO).await?;
    Ok(())
}

/// Processes are told apart by when they began, in whole seconds: here one would end before it is old enough.
pub(crate) async fn old_enough(stage: &Stage, index: usize) -> Result<()> {
    let schema = match stage.topology.flavour {
        Flavour::MySql => "performance_schema",
        Flavour::MariaDb => "information_schema",
    };
    let uptime = format!("SELECT VARIABLE_VALUE FROM {schema}.global_status WHERE VARIABLE_NAME = 'Uptime'");
    until(DEADLINE, "the server to have run for some seconds", async || {
        let uptime = stage.topology.server(index)?.value(&uptime).await?;
        Ok((uptime.parse::<u64>()? >= OLD_ENOUGH).then_some(()))
    })
    .await
}

/// What `explain` says about the primary's being read-only.
async fn explained(stage: &Stage) -> Result<String> {
    let leader = stage.members.member(stage.members.leader().await?)?;
    let told = leader.api().json(&format!("explain/{}", stage.address(1)?)).await?;
    let obstacles = told.get("obstacles").and_then(Value::as_array).into_iter().flatten();
    let named = obstacles
        .filter_map(Value::as_str)
        .filter(|obstacle| obstacle.contains("is read-only"));
    Ok(named.collect::<Vec<_>>().join("; "))
}
