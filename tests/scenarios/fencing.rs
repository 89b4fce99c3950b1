//! The user's own fencer, and the epoch in the user's own table.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
async fn nobody_is_opened_on_mysql_before_the_fencer_says_so_and_the_epoch_is_written_then() -> Result<()> {
    scenario("fencer-mysql", |run| fenced(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_opened_on_mariadb_before_the_fencer_says_so_and_the_epoch_is_written_then() -> Result<()> {
    scenario("fencer-mariadb", |run| fenced(run, Flavour::MariaDb)).await
}

/// The primary is asynchronous, so when it does not answer nothing proves that it takes no writes.
async fn fenced(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let folder = run.subfolder("fencer")?;
    let (allowed, calls) = (folder.join("allowed"), folder.join("calls"));
    let fencer = format!(
        "echo \"$HAM4DB_FAILED $HAM4DB_EPOCH\" >> '{}'; test -e '{}'",
        calls.display(),
        allowed.display()
    );
    let topology = Topology::start(&run, &Shape::asynchronous(flavour, 2)).await?;
    let primary = topology.server(0)?;
    primary
        .run(
            "CREATE TABLE ham4db_test.epoch (cluster VARCHAR(64) PRIMARY KEY, epoch BIGINT UNSIGNED NOT NULL, \
             primary_address VARCHAR(300) NOT NULL, recovery VARCHAR(128) NOT NULL)",
        )
        .await?;
    primary
        .run(&format!(
            "GRANT SELECT, INSERT, UPDATE ON ham4db_test.epoch TO '{}'@'%'",
            topology.accounts.topology.user
        ))
        .await?;
    // A recovery that the fencer stopped blocks the next one for so long.
    let keys =
        json!({"FencingProcesses": [fencer], "EpochTable": "ham4db_test.epoch", "RecoveryPeriodBlockSeconds": 2});
    let members = Members::start(&run, &topology, &Intent::Configuration(keys), None).await?;
    let mut stage = Stage::begin(topology, members).await?;
    let from = stage.address(0)?;

    let killed = stage.topology.server_mut(0)?.kill()?;
    until(DEADLINE, "a recovery that ended because of the fencer", async || {
        let recoveries = stage.members.recoveries().await?;
        let told = recoveries.iter().map(|recovery| recovery["AllErrors"].to_string());
        ensure!(
            told.into_iter().any(|errors| errors.contains("nothing proves")),
            "{}",
            Value::from(recoveries)
        );
        Ok(Some(()))
    })
    .await?;
    nobody_takes_writes(&stage, killed)?;

    fs::write(&allowed, "").context("allow it")?;
    let measured = stage.await_failover(killed, DEADLINE).await?;
    let recovery: Value = until(DEADLINE, "the record of the failover", async || {
        let recoveries = stage.members.recoveries().await?;
        Ok(recoveries
            .into_iter()
            .find(|recovery| recovery["IsSuccessful"] == Value::Bool(true)))
    })
    .await?;
    ensure!(
        text(&recovery, "/Fencing").contains("FencingProcesses"),
        "the proof is '{}'",
        text(&recovery, "/Fencing")
    );
    let epoch = recovery.get("Epoch").context("the recovery shows no epoch")?;
    let asked = fs::read_to_string(&calls).context("read what the fencer was told")?;
    ensure!(
        asked.lines().last() == Some(format!("{from} {epoch}").as_str()) && asked.lines().count() >= 2,
        "the fencer was told '{asked}', the epoch is {epoch}"
    );
    let row = "SELECT CONCAT(epoch, ' ', primary_address) FROM ham4db_test.epoch";
    let wanted = format!("{epoch} {}", measured.to);
    for server in [1, 2] {
        until(DEADLINE, "the epoch on the new primary and its replica", async || {
            let found = stage.topology.server(server)?.value(row).await?;
            ensure!(found == wanted, "the row is '{found}', wanted is '{wanted}'");
            Ok(Some(()))
        })
        .await?;
    }
    stage.judge(Duration::ZERO).await.map(drop)
}

fn nobody_takes_writes(stage: &Stage, since: Instant) -> Result<()> {
    for index in [1, 2] {
        ensure!(
            stage.sampler.accepted_since(index, since) == 0,
            "{} accepts writes without the fencer's word",
            stage.address(index)?
        );
    }
    Ok(())
}
