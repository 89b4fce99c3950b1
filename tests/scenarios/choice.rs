//! Who is promoted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::stage::{DEADLINE, FAILOVER, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_equal_mysql_replicas_one_is_promoted_and_the_other_follows() -> Result<()> {
    scenario("equal-mysql", |run| {
        equal_replicas(run, Flavour::MySql, Intent::default_document())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_equal_mariadb_replicas_one_is_promoted_and_the_other_follows() -> Result<()> {
    scenario("equal-mariadb", |run| {
        equal_replicas(run, Flavour::MariaDb, Intent::default_document())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orchestrators_configuration_alone_is_enough_for_a_failover() -> Result<()> {
    let intent = Intent::Configuration(serde_json::json!({}));
    scenario("equal-configuration", |run| equal_replicas(run, Flavour::MySql, intent)).await
}

async fn equal_replicas(run: Arc<Run>, flavour: Flavour, intent: Intent) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &intent).await?;
    let measured = stage.fail_over(FAILOVER).await?;
    stage.end(&measured, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_mysql_replica_is_not_promoted_when_it_is_behind() -> Result<()> {
    scenario("behind-mysql-1", |run| one_behind(run, Flavour::MySql, 1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_mysql_replica_is_not_promoted_when_it_is_behind() -> Result<()> {
    scenario("behind-mysql-2", |run| one_behind(run, Flavour::MySql, 2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_mariadb_replica_is_not_promoted_when_it_is_behind() -> Result<()> {
    scenario("behind-mariadb-1", |run| one_behind(run, Flavour::MariaDb, 1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_mariadb_replica_is_not_promoted_when_it_is_behind() -> Result<()> {
    scenario("behind-mariadb-2", |run| one_behind(run, Flavour::MariaDb, 2)).await
}

/// A replica stops receiving; the other one acknowledges on. Whatever its place, name and port, the one that has all is promoted, and
/// the other gets from it what it lacks.
async fn one_behind(run: Arc<Run>, flavour: Flavour, behind: usize) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    stage
        .topology
        .server(behind)?
        .run(&flavour.thread("STOP", "IO_THREAD"))
        .await?;
    stage.writers.progress(200, DEADLINE).await?;
    let measured = stage.fail_over(FAILOVER).await?;
    ensure!(
        measured.successor == 3 - behind,
        "{}, which was behind, was promoted",
        measured.to
    );
    stage.end(&measured, Duration::ZERO).await
}

/// The one that has not applied yet what it received has all the same received more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_ranked_by_what_it_received_not_by_what_it_applied() -> Result<()> {
    scenario("received-mysql", |run| async move {
        let flavour = Flavour::MySql;
        let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
        let (full, behind) = (stage.topology.server(1)?, stage.topology.server(2)?);
        // Its applier waits for this lock while its receiver goes on and acknowledges.
        let mut lock = full.session().await?;
        lock.run("LOCK TABLES ham4db_test.written READ").await?;
        stage.writers.progress(100, DEADLINE).await?;
        // The lock held up what was written after it, and either replica may have been the one that acknowledged that: only what the
        // other one has applied of it counts.
        let written = stage.topology.server(0)?.executed().await?;
        behind.has_executed(&written, DEADLINE).await?;
        behind.run(&flavour.thread("STOP", "IO_THREAD")).await?;
        stage.writers.progress(100, DEADLINE).await?;
        ensure!(
            full.has_executed(&written, Duration::from_millis(100)).await.is_err(),
            "the lock held nobody up"
        );

        let killed = stage.topology.server_mut(0)?.kill()?;
        // Now at the latest it is one that has applied less and received more.
        lock.close().await;
        let measured = stage.await_failover(killed, FAILOVER + FAILOVER).await?;
        ensure!(
            measured.successor == 1,
            "{}, which had received less, was promoted",
            measured.to
        );
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_replica_is_not_promoted_when_it_has_an_errant_transaction() -> Result<()> {
    scenario("errant-1", |run| errant(run, 1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_replica_is_not_promoted_when_it_has_an_errant_transaction() -> Result<()> {
    scenario("errant-2", |run| errant(run, 2)).await
}

/// A replica has a transaction that no other server has: it has "more", and must not be chosen for it.
async fn errant(run: Arc<Run>, errant: usize) -> Result<()> {
    let flavour = Flavour::MySql;
    let topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    let replica = topology.server(errant)?;
    replica.run(flavour.read_only(false)).await?;
    replica
        .run("INSERT INTO ham4db_test.sampled VALUES ('errant', 1)")
        .await?;
    replica.run(flavour.read_only(true)).await?;
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    let mut stage = Stage::begin(topology, members).await?;
    // It must not hold more of the primary's last writes than the other one: then it is rightly left behind.
    stage.topology.server(errant)?.run("STOP REPLICA IO_THREAD").await?;
    let measured = stage.fail_over(FAILOVER).await?;
    ensure!(
        measured.successor == 3 - errant,
        "{}, which has an errant transaction, was promoted",
        measured.to
    );
    stage.end(&measured, Duration::ZERO).await
}
