//! The primary and another server replicate from each other.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::by_position::{REST, end_of_log, has_all, switch_off_gtids};
use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_mysql_primary_dies_its_co_primary_takes_over() -> Result<()> {
    scenario("co-primary-mysql", |run| primary_dies(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_mariadb_primary_dies_its_co_primary_takes_over() -> Result<()> {
    scenario("co-primary-mariadb", |run| primary_dies(run, Flavour::MariaDb)).await
}

/// Two servers in a ring, the second read-only now and once the primary, and more replicas.
async fn stage(run: &Arc<Run>, flavour: Flavour, sources: Vec<usize>) -> Result<Stage> {
    let shape = Shape {
        sources,
        ..Shape::asynchronous(flavour, 2)
    };
    let topology = Topology::start(run, &shape).await?;
    let (first, second) = (topology.server(0)?, topology.server(1)?);
    let account = &topology.accounts.replication;
    first.run(&flavour.attach(second.address(), account)).await?;
    first.follows(second.address(), DEADLINE).await?;
    // Its own transactions are all over the ring, and errant to nobody.
    second.run(flavour.read_only(false)).await?;
    second.run("CREATE DATABASE written_by_the_other_one").await?;
    second.run(flavour.read_only(true)).await?;
    let own = second.executed().await?;
    for server in &topology.servers {
        server.has_executed(&own, DEADLINE).await?;
    }
    let members = Members::start(run, &topology, &Intent::default_document(), None).await?;
    members.knows(&topology).await?;
    Stage::begin(topology, members).await
}

async fn primary_dies(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = stage(&run, flavour, vec![0, 0]).await?;
    // It must not hold more of the primary's last writes than the co-primary, which would be fed from it first.
    stage
        .topology
        .server(2)?
        .run(&flavour.thread("STOP", "IO_THREAD"))
        .await?;
    stage.writers.progress(50, DEADLINE).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor == 1,
        "{} was promoted, not the co-primary",
        measured.to
    );
    let recovery = stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    ensure!(text(&recovery, "/Type") == "CoMasterRecovery", "{recovery}");
    stage.topology.server(2)?.follows(&measured.to, DEADLINE).await?;
    ensure!(
        stage.topology.server(1)?.replica_status().await?.is_none(),
        "the new primary still replicates from the dead one"
    );
    stage.writers.progress(300, DEADLINE).await?;
    stage.judge(Duration::ZERO).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_co_primary_that_is_behind_is_fed_from_a_replica_and_takes_over() -> Result<()> {
    scenario("co-primary-fed-mysql", |run| is_fed(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_co_primary_that_is_behind_is_fed_from_a_replica_and_takes_over() -> Result<()> {
    scenario("co-primary-fed-mariadb", |run| is_fed(run, Flavour::MariaDb)).await
}

/// The other co-primary stops receiving, and the replica alone has the primary's last rows.
async fn is_fed(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = stage(&run, flavour, vec![0, 0]).await?;
    let (first, second) = (stage.topology.server(0)?, stage.topology.server(1)?);
    second.run(&flavour.thread("STOP", "IO_THREAD")).await?;
    stage.writers.progress(200, DEADLINE).await?;
    let written = first.executed().await?;
    ensure!(
        second.has_executed(&written, Duration::from_millis(100)).await.is_err(),
        "the co-primary is not behind: the scenario is none"
    );
    stage.topology.server(2)?.has_executed(&written, DEADLINE).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor == 1,
        "{} was promoted, not the co-primary",
        measured.to
    );
    stage.topology.server(1)?.has_executed(&written, DEADLINE).await?;
    let recovery = stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    ensure!(text(&recovery, "/Type") == "CoMasterRecovery", "{recovery}");
    let leader = stage.members.member(stage.members.leader().await?)?;
    let steps = leader
        .api()
        .json(&format!("audit-recovery-steps/{}", text(&recovery, "/UID")))
        .await?;
    ensure!(
        steps.to_string().contains("catch up: "),
        "no replica caught up: {steps}"
    );
    stage.topology.server(2)?.follows(&measured.to, DEADLINE).await?;
    ensure!(
        stage.topology.server(1)?.replica_status().await?.is_none(),
        "the new primary still replicates from somebody"
    );
    stage.writers.progress(300, DEADLINE).await?;
    stage.judge(Duration::ZERO).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_other_one_dies_its_replica_moves_and_the_primary_stays() -> Result<()> {
    scenario("co-primary-passive", |run| async move {
        let mut stage = stage(&run, Flavour::MySql, vec![0, 1]).await?;
        let primary = stage.address(0)?;
        stage.topology.server_mut(1)?.kill()?;
        stage.topology.server(2)?.follows(&primary, DEADLINE).await?;
        let recoveries = until(DEADLINE, "the recovery to be over", async || {
            let recoveries = stage.members.recoveries().await?;
            let is_over = |recovery: &Value| recovery.get("IsActive") == Some(&Value::Bool(false));
            Ok((!recoveries.is_empty() && recoveries.iter().all(is_over)).then_some(recoveries))
        })
        .await?;
        ensure!(
            matches!(recoveries.as_slice(), [only] if text(only, "/Type") == "IntermediateMasterRecovery"),
            "{}",
            Value::from(recoveries)
        );
        stage.writers.progress(300, DEADLINE).await?;
        stage.judge(Duration::ZERO).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtids_a_mysql_co_primary_takes_over_and_the_replica_of_the_dead_one_goes_on_where_it_was() -> Result<()>
{
    scenario("co-primary-position-mysql", |run| {
        dies_without_gtids(run, Flavour::MySql)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtid_channels_a_mariadb_co_primary_takes_over_with_the_replica_of_the_dead_one() -> Result<()> {
    scenario("co-primary-position-mariadb", |run| {
        dies_without_gtids(run, Flavour::MariaDb)
    })
    .await
}

/// The ring by file and position. The replica of the primary stops receiving a while before that dies.
async fn dies_without_gtids(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    switch_off_gtids(&topology).await?;
    let (first, second) = (topology.server(0)?, topology.server(1)?);
    let end = end_of_log(second, flavour).await?;
    let account = &topology.accounts.replication;
    first.run(&flavour.attach_at(second.address(), account, &end)).await?;
    first.follows(second.address(), DEADLINE).await?;
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    members.knows(&topology).await?;
    let mut stage = Stage::begin_paced(topology, members, REST).await?;
    stage.writers.progress(50, DEADLINE).await?;
    stage
        .topology
        .server(2)?
        .run(&flavour.thread("STOP", "IO_THREAD"))
        .await?;
    stage.writers.progress(100, DEADLINE).await?;
    let measured = stage.fail_over(FAILOVER + FAILOVER).await?;
    ensure!(
        measured.successor == 1,
        "{} was promoted, not the co-primary",
        measured.to
    );
    let recovery = stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    ensure!(
        text(&recovery, "/RecoveryType") == "MasterRecoveryPosition" && text(&recovery, "/Type") == "CoMasterRecovery",
        "it was another kind of recovery: {recovery}"
    );
    ensure!(
        stage.topology.server(1)?.replica_status().await?.is_none(),
        "the new primary still replicates from the dead one"
    );
    stage.topology.server(2)?.follows(&measured.to, DEADLINE).await?;
    stage.writers.progress(100, DEADLINE).await?;
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    has_all(&topology, &rows).await
}
