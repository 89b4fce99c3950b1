//! Locks of whole servers: a table lock that holds up a demotion, and the lock of a backup on a successor.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kit::members::{Intent, Members};
use crate::kit::replication::{DATABASE, Flavour};
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};
use crate::takeover::asked;

/// Servers that show their locks to the members.
async fn showing_locks(run: &Arc<Run>, shape: &Shape) -> Result<Topology> {
    let shape = Shape {
        performance_schema: true,
        ..shape.clone()
    };
    let topology = Topology::start(run, &shape).await?;
    let user = &topology.accounts.topology.user;
    topology
        .server(0)?
        .run(&format!("GRANT SELECT ON performance_schema.* TO '{user}'@'%'"))
        .await?;
    topology.caught_up(0, DEADLINE).await?;
    Ok(topology)
}

async fn held_up(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let shape = Shape::asynchronous(flavour, 2);
    let topology = match flavour {
        Flavour::MySql => showing_locks(&run, &shape).await?,
        Flavour::MariaDb => Topology::start(&run, &shape).await?,
    };
    topology
        .server(0)?
        .run(&format!("CREATE TABLE {DATABASE}.report (id INT PRIMARY KEY)"))
        .await?;
    let intent = Intent::Configuration(json!({
        "RecoverMasterClusterFilters": ["*"],
        "TakeoverLongTransactions": "Refuse",
        "TakeoverLockWaitSeconds": 2,
    }));
    let members = Members::start(&run, &topology, &intent, None).await?;
    let stage = Stage::begin(topology, members).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    let mut holder = stage.topology.server(0)?.session().await?;
    let id = holder.value("SELECT CONNECTION_ID()").await?;
    holder.run(&format!("LOCK TABLES {DATABASE}.report WRITE")).await?;
    let (code, answer) = asked(&stage, "graceful-master-takeover-auto", &first, Some(&second)).await?;
    ensure!(code == 409, "{code} {answer}");
    let recoveries = stage.members.recoveries().await?;
    let errors = recoveries.first().and_then(|recovery| recovery.get("AllErrors"));
    let told = format!("{errors:?}");
    ensure!(
        told.contains(&format!("session {id} of root@localhost")) && told.contains("1205"),
        "session {id} is not named: {told}"
    );
    // The statement that waited has no effect later.
    stage.writers.progress(100, DEADLINE).await?;
    holder.run("UNLOCK TABLES").await?;
    holder.close().await;
    stage.writers.progress(100, DEADLINE).await?;
    ensure!(
        !stage.topology.server(0)?.is_read_only().await?,
        "it became read-only later"
    );
    let (_, _, rows) = stage.judge(Duration::ZERO).await?;
    ensure!(rows.iter().all(|row| row.server == 0), "another server took a row");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_takeover_that_waits_for_a_table_lock_is_undone_and_names_its_session() -> Result<()> {
    scenario("lock-wait-mysql", |run| held_up(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_takeover_that_waits_for_a_table_lock_is_undone_and_names_sessions() -> Result<()> {
    scenario("lock-wait-mariadb", |run| held_up(run, Flavour::MariaDb)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_on_which_a_backup_holds_its_lock_is_promoted_last() -> Result<()> {
    scenario("backup-last", |run| async move {
        let topology = showing_locks(&run, &Shape::asynchronous(Flavour::MySql, 2)).await?;
        let mut backup = topology.server(1)?.session().await?;
        backup.run("LOCK INSTANCE FOR BACKUP").await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let mut stage = Stage::begin(topology, members).await?;
        until(DEADLINE, "explain to say that a backup holds its lock", async || {
            let leader = stage.members.member(stage.members.leader().await?)?;
            let told = leader.api().json("explain").await?.to_string();
            Ok(told.contains("a backup holds its lock").then_some(()))
        })
        .await?;
        let killed = stage.topology.server_mut(0)?.kill()?;
        let from = stage.address(0)?;
        let first = stage.writers.first_elsewhere(0, killed, DEADLINE).await?;
        ensure!(first.server == 2, "server {} was promoted", first.server);
        // It cannot be moved while the backup runs.
        backup.run("UNLOCK INSTANCE").await?;
        backup.close().await;
        let to = stage.address(2)?;
        stage.members.one_recovery(DEADLINE, &from, &to).await?;
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_is_promoted_although_a_backup_holds_its_lock() -> Result<()> {
    scenario("backup-only", |run| async move {
        let topology = showing_locks(&run, &Shape::asynchronous(Flavour::MySql, 1)).await?;
        let mut backup = topology.server(1)?.session().await?;
        backup.run("LOCK INSTANCE FOR BACKUP").await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let mut stage = Stage::begin(topology, members).await?;
        let measured = stage.fail_over(DEADLINE).await?;
        ensure!(backup.run("SELECT 1").await.is_err(), "the backup was not ended");
        stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}
