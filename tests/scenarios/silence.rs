//! Primaries that say nothing, or not enough: packets that vanish, a stopped process, no connection left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::kit::members::Intent;
use crate::kit::netns::{Net, cut, heal};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::server::Server;
use crate::kit::topology::Shape;
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, Stage};

/// How long a failover may take when the old primary's packets vanish. The budget is 5 s on an idle machine.
const SILENT_FAILOVER: Duration = Duration::from_secs(20);
/// How long a process is stopped: long enough for callers to fill its queue.
const STOPPED: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_primary_whose_packets_vanish_is_replaced_though_its_replicas_say_yes() -> Result<()> {
    scenario_alone("silent-mysql", |run| vanishes(run, Flavour::MySql, 2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_primary_whose_packets_vanish_is_replaced_though_its_replicas_say_yes() -> Result<()> {
    scenario_alone("silent-mariadb", |run| vanishes(run, Flavour::MariaDb, 2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_with_a_single_replica() -> Result<()> {
    scenario_alone("silent-single", |run| vanishes(run, Flavour::MariaDb, 1)).await
}

/// Nobody is told anything: members and replicas go on waiting for the primary, at default settings for a minute.
#[expect(clippy::print_stdout, reason = "the time is for a person who measures")]
async fn vanishes(run: Arc<Run>, flavour: Flavour, replicas: usize) -> Result<()> {
    let net = Net::create()?;
    let shape = Shape::asynchronous(flavour, replicas);
    let stage = Stage::set_in(&run, &shape, &Intent::default_document(), &net).await?;
    let (primary, old) = (stage.topology.server(0)?.host()?.clone(), stage.address(0)?);
    let since = Instant::now();
    for member in &stage.members.list {
        cut(member.host()?, &primary)?;
    }
    for index in 1..=replicas {
        cut(stage.topology.server(index)?.host()?, &primary)?;
    }
    let successor = until(SILENT_FAILOVER, "a replica to become writable", async || {
        for index in 1..=replicas {
            if !stage.topology.server(index)?.is_read_only().await? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    })
    .await?;
    println!(
        "{flavour:?}, {replicas} replicas: writable {:.2} s after the packets began to vanish",
        since.elapsed().as_secs_f64()
    );
    let new = stage.address(successor)?;
    for index in (1..=replicas).filter(|index| *index != successor) {
        stage.topology.server(index)?.follows(&new, DEADLINE).await?;
    }
    let recovery = stage.members.one_recovery(DEADLINE, &old, &new).await?;
    ensure!(
        recovery.to_string().contains("\"silent\""),
        "no member said that it is silent: {recovery}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_that_still_reaches_its_primary_keeps_it_though_nothing_is_written() -> Result<()> {
    scenario_alone("silent-not-for-all", one_is_connected).await
}

/// The members do not reach the primary, one replica does not either, and the one that would be promoted does.
async fn one_is_connected(run: Arc<Run>) -> Result<()> {
    let net = Net::create()?;
    let flavour = Flavour::MySql;
    let shape = Shape::asynchronous(flavour, 2);
    let stage = Stage::set_in(&run, &shape, &Intent::default_document(), &net).await?;
    let (primary, address) = (stage.topology.server(0)?.host()?.clone(), stage.address(0)?);
    let Stage {
        topology,
        members,
        writers,
        sampler,
    } = stage;
    // Whatever arrived would be proof.
    writers.stop().await;
    sampler.stop().await;
    for index in [1, 2] {
        let executed = topology.server(0)?.executed().await?;
        topology.server(index)?.has_executed(&executed, DEADLINE).await?;
    }
    let cut_off = topology.server(2)?.host()?;
    for member in &members.list {
        cut(member.host()?, &primary)?;
    }
    cut(cut_off, &primary)?;
    let tested = until(DEADLINE, "a recovery that is given up", async || {
        let recoveries = members.recoveries().await?;
        Ok(recoveries
            .into_iter()
            .find(|recovery| recovery.get("IsActive") == Some(&Value::Bool(false))))
    })
    .await?;
    ensure!(
        tested.to_string().contains("has reached"),
        "it was given up for another reason: {tested}"
    );
    topology.server(1)?.follows(&address, DEADLINE).await?;
    throughout(Duration::from_secs(3), async || {
        for index in [1, 2] {
            let server = topology.server(index)?;
            ensure!(server.is_read_only().await?, "{} was opened", server.address());
            let status = server.replica_status().await?;
            ensure!(
                status
                    .as_ref()
                    .is_some_and(|status| status.io_thread != "No" && status.sql_thread == "Yes"),
                "{} was left with stopped threads: {status:?}",
                server.address()
            );
        }
        Ok(())
    })
    .await?;
    for member in &members.list {
        heal(member.host()?, &primary)?;
    }
    heal(cut_off, &primary)?;
    ensure!(!topology.server(0)?.is_read_only().await?, "the primary was fenced");
    until(DEADLINE, "the finding to go away", async || {
        Ok(members.findings(&address).await?.is_empty().then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_is_stalled_for_as_long_as_it_is_stopped() -> Result<()> {
    scenario_alone("stalled", stopped).await
}

/// Writers and sampler dial it all the time, so its queue is full after some seconds.
async fn stopped(run: Arc<Run>) -> Result<()> {
    let shape = Shape::asynchronous(Flavour::MariaDb, 2);
    let stage = Stage::set(&run, &shape, &Intent::default_document()).await?;
    let primary = stage.address(0)?;
    stage.topology.server(0)?.pause()?;
    until(DEADLINE, "StalledPrimary to be found", async || {
        let found = stage.members.findings(&primary).await?;
        Ok((found == ["StalledPrimary"]).then_some(()))
    })
    .await?;
    throughout(STOPPED, async || {
        let found = stage.members.findings(&primary).await?;
        ensure!(found == ["StalledPrimary"], "a stopped process is called {found:?}");
        Ok(())
    })
    .await?;
    stage.nothing_is_done(Duration::from_millis(100)).await?;
    stage.topology.server(0)?.resume()?;
    until(DEADLINE, "the finding to go away", async || {
        Ok(stage.members.findings(&primary).await?.is_empty().then_some(()))
    })
    .await?;
    let rows = stage.writers.count();
    stage.writers.progress(100, DEADLINE).await?;
    ensure!(stage.writers.count() > rows, "it takes no rows any more");
    stage.judge(Duration::ZERO).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_without_a_free_connection_is_saturated_and_left_alone() -> Result<()> {
    scenario_alone("saturated", saturated).await
}

async fn saturated(run: Arc<Run>) -> Result<()> {
    let shape = Shape::asynchronous(Flavour::MySql, 2);
    let stage = Stage::set(&run, &shape, &Intent::default_document()).await?;
    let (primary, server) = (stage.address(0)?, stage.topology.server(0)?);
    let mut root = server.session().await?;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(server.session().await?);
    }
    let usual = root.value("SELECT @@GLOBAL.max_connections").await?;
    root.run("SET GLOBAL max_connections = 10").await?;
    end_sessions_of(server, &mut root, &stage.topology.accounts.topology.user).await?;
    until(DEADLINE, "SaturatedPrimary to be found", async || {
        let found = stage.members.findings(&primary).await?;
        ensure!(found == ["SaturatedPrimary"], "found is {found:?}");
        Ok(Some(()))
    })
    .await?;
    stage.nothing_is_done(Duration::from_secs(3)).await?;
    root.run(&format!("SET GLOBAL max_connections = {usual}")).await?;
    drop(idle);
    until(DEADLINE, "the finding to go away", async || {
        Ok(stage.members.findings(&primary).await?.is_empty().then_some(()))
    })
    .await?;
    stage.writers.progress(100, DEADLINE).await?;
    stage.judge(Duration::ZERO).await.map(drop)
}

/// Ends the connections of an account.
async fn end_sessions_of(server: &Server, root: &mut crate::kit::sql::Session, user: &str) -> Result<()> {
    let rows = root
        .rows(&format!(
            "SELECT ID FROM information_schema.processlist WHERE USER = '{user}'"
        ))
        .await?;
    ensure!(!rows.is_empty(), "{user} has no session on {}", server.address());
    for row in rows {
        if let Some(Some(id)) = row.get("ID") {
            // It may have ended meanwhile.
            root.run(&format!("KILL {id}")).await.ok();
        }
    }
    Ok(())
}
