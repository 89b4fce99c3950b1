//! A server between the primary and others dies: these get another source, and the primary is left alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::by_position::{REST, has_all};
use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::pseudo_gtid::{MOVE, with_entries};
use crate::stage::{DEADLINE, Stage};

/// The second server replicates from the first, the third and the fourth from the second.
fn shape(flavour: Flavour) -> Shape {
    Shape {
        sources: vec![0, 1, 1],
        ..Shape::asynchronous(flavour, 3)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_dead_mysql_intermediate_get_another_source() -> Result<()> {
    scenario("intermediate-mysql", |run| both_move(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_dead_mariadb_intermediate_get_another_source() -> Result<()> {
    scenario("intermediate-mariadb", |run| both_move(run, Flavour::MariaDb)).await
}

async fn both_move(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = Stage::set(&run, &shape(flavour), &Intent::default_document()).await?;
    let (primary, dead) = (stage.address(0)?, stage.address(1)?);
    stage.topology.server_mut(1)?.kill()?;
    let recovery = ended(&stage).await?;
    ensure!(
        recovery.get("IsSuccessful") == Some(&Value::Bool(true)),
        "not successful: {recovery}"
    );
    ensure!(text(&recovery, "/Type") == "IntermediateMasterRecovery", "{recovery}");
    ensure!(
        recovery
            .get("LostReplicas")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty),
        "{recovery}"
    );
    // One takes the place of the dead one, the other follows it.
    let mut sources = Vec::new();
    for index in [2, 3] {
        sources.push(source(&stage, index).await?);
    }
    ensure!(
        !sources.contains(&dead.to_string()),
        "still below the dead one: {sources:?}"
    );
    ensure!(sources.contains(&primary.to_string()), "nobody went up: {sources:?}");
    stage.writers.progress(300, DEADLINE).await?;
    let recoveries = stage.members.recoveries().await?;
    ensure!(recoveries.len() == 1, "{}", Value::from(recoveries));
    let (topology, verdict, _) = stage.judge(Duration::ZERO).await?;
    topology.caught_up(0, DEADLINE).await?;
    drop(verdict);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_with_an_errant_transaction_is_left_behind_and_named() -> Result<()> {
    scenario("intermediate-errant", |run| async move {
        let flavour = Flavour::MySql;
        let topology = Topology::start(&run, &shape(flavour)).await?;
        let errant = topology.server(3)?;
        errant.run(flavour.read_only(false)).await?;
        errant
            .run("INSERT INTO ham4db_test.sampled VALUES ('errant', 1)")
            .await?;
        errant.run(flavour.read_only(true)).await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let mut stage = Stage::begin(topology, members).await?;
        let (primary, dead, lost) = (stage.address(0)?, stage.address(1)?, stage.address(3)?);
        stage.topology.server_mut(1)?.kill()?;
        let recovery = ended(&stage).await?;
        ensure!(
            recovery.get("IsSuccessful") == Some(&Value::Bool(true)),
            "not successful: {recovery}"
        );
        ensure!(key(&recovery, "/LostReplicas/0") == lost.to_string(), "{recovery}");
        stage.topology.server(2)?.follows(&primary, DEADLINE).await?;
        let source = source(&stage, 3).await?;
        ensure!(source == dead.to_string(), "the errant one was moved to {source}");
        stage.writers.progress(300, DEADLINE).await?;
        stage.judge(Duration::ZERO).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_dead_intermediate_go_to_a_sibling_of_it() -> Result<()> {
    // The second and the third replicate from the first, the others from the second.
    scenario("intermediate-sibling", |run| moved_to(run, &[0, 0, 1, 1], 2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_replica_of_a_dead_intermediate_without_siblings_goes_up() -> Result<()> {
    scenario("intermediate-up", |run| moved_to(run, &[0, 1], 0)).await
}

/// The second server dies, and those below it are moved to the one that is wanted.
async fn moved_to(run: Arc<Run>, sources: &[usize], wanted: usize) -> Result<()> {
    let shape = Shape {
        sources: sources.to_vec(),
        ..Shape::asynchronous(Flavour::MySql, sources.len())
    };
    let intent = Intent::Configuration(serde_json::json!({
        "RecoverIntermediateMasterClusterFilters": ["*"],
    }));
    let mut stage = Stage::set(&run, &shape, &intent).await?;
    // It hands out nothing more, so that whoever is to feed the others has all that they have.
    let dying = stage.topology.server(1)?;
    dying.run(&Flavour::MySql.thread("STOP", "SQL_THREAD")).await?;
    let handed_out = dying.executed().await?;
    stage
        .topology
        .server(wanted)?
        .has_executed(&handed_out, DEADLINE)
        .await?;
    let wanted = stage.address(wanted)?;
    stage.topology.server_mut(1)?.kill()?;
    let recovery = ended(&stage).await?;
    ensure!(
        recovery.get("IsSuccessful") == Some(&Value::Bool(true)),
        "not successful: {recovery}"
    );
    for (index, _) in sources.iter().enumerate().filter(|(_, source)| **source == 1) {
        stage.topology.server(index + 1)?.follows(&wanted, DEADLINE).await?;
    }
    stage.writers.progress(300, DEADLINE).await?;
    let (topology, ..) = stage.judge(Duration::ZERO).await?;
    topology.caught_up(0, DEADLINE).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_gtid_channels_leave_a_dead_mariadb_intermediate_by_gtid() -> Result<()> {
    scenario("intermediate-position", |run| async move {
        let topology = Topology::start(&run, &shape(Flavour::MariaDb)).await?;
        for (replica, source) in [(1, 0), (2, 1), (3, 1)] {
            let source = topology.server(source)?.address().clone();
            let replica = topology.server(replica)?;
            replica
                .run("STOP SLAVE; CHANGE MASTER TO MASTER_USE_GTID=no; START SLAVE;")
                .await?;
            replica.follows(&source, DEADLINE).await?;
        }
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let mut stage = Stage::begin_paced(topology, members, REST).await?;
        stage.writers.progress(50, DEADLINE).await?;
        left_by_all(&mut stage).await?;
        let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
        has_all(&topology, &rows).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_gtids_leave_a_dead_intermediate_by_pseudo_gtid() -> Result<()> {
    scenario("intermediate-pseudo-gtid", |run| async move {
        let mut stage = with_entries(&run).await?;
        let (middle, leader) = (stage.address(1)?, stage.members.leader().await?);
        for index in [2, 3] {
            let below = stage.address(index)?;
            let route = format!(
                "match-below/{}/{}/{}/{}",
                below.host, below.port, middle.host, middle.port
            );
            let (code, told) = stage.members.member(leader)?.api().get_within(&route, MOVE).await?;
            ensure!(code == 200, "{route} answers {code}: {told}");
            stage.topology.server(index)?.follows(&middle, DEADLINE).await?;
        }
        stage.writers.progress(50, DEADLINE).await?;
        left_by_all(&mut stage).await?;
        let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
        has_all(&topology, &rows).await
    })
    .await
}

/// The second server dies, and the two below it get another source.
async fn left_by_all(stage: &mut Stage) -> Result<()> {
    let dead = stage.address(1)?.to_string();
    stage.topology.server_mut(1)?.kill()?;
    until(MOVE, "both replicas to replicate from a living server", async || {
        for index in [2, 3] {
            let status = stage.topology.server(index)?.replica_status().await?;
            let moved = status
                .is_some_and(|status| status.source != dead && status.io_thread == "Yes" && status.sql_thread == "Yes");
            if !moved {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    until(DEADLINE, "the recovery of the intermediate to be over", async || {
        let recoveries = stage.members.recoveries().await?;
        let of_the_dead = recoveries.iter().find(|recovery| {
            text(recovery, "/Type") == "IntermediateMasterRecovery" && recovery.get("IsActive") == Some(&false.into())
        });
        let Some(recovery) = of_the_dead else { return Ok(None) };
        let is_whole = recovery.get("IsSuccessful") == Some(&true.into())
            && recovery
                .get("LostReplicas")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty);
        ensure!(is_whole, "{recovery}");
        Ok(Some(()))
    })
    .await?;
    stage.writers.progress(100, DEADLINE).await
}

/// The one recovery, when it is over.
async fn ended(stage: &Stage) -> Result<Value> {
    until(DEADLINE, "the recovery of the intermediate to be over", async || {
        let recoveries = stage.members.recoveries().await?;
        let over = recoveries
            .into_iter()
            .find(|recovery| recovery.get("IsActive") == Some(&Value::Bool(false)));
        Ok(over)
    })
    .await
}

/// Whom a server replicates from.
async fn source(stage: &Stage, index: usize) -> Result<String> {
    let status = stage.topology.server(index)?.replica_status().await?;
    Ok(status.map(|status| status.source).unwrap_or_default())
}
