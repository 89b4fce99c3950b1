//! A replica that delays on purpose alone has the primary's last rows: it applies them at once, and gives them to the one that is
//! promoted, or is promoted itself where nobody else may be.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::server::Server;
use crate::kit::sql::Address;
use crate::kit::topology::Shape;
use crate::kit::wait::until;
use crate::kit::writers::missing;
use crate::stage::{DEADLINE, Stage};

/// Far longer than any test, seconds.
const DELAY: &str = "3600";
/// The replica that stops receiving.
const BEHIND: usize = 1;
/// The replica that delays.
const DELAYED: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_mysql_replica_gives_at_once_what_it_alone_received_and_delays_again() -> Result<()> {
    scenario("delayed-feeds-mysql", |run| feeds(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_mariadb_replica_gives_at_once_what_it_alone_received_and_delays_again() -> Result<()> {
    scenario("delayed-feeds-mariadb", |run| feeds(run, Flavour::MariaDb)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_mysql_replica_is_promoted_at_once_when_nobody_else_may_be() -> Result<()> {
    scenario("delayed-promoted-mysql", |run| promoted(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_mariadb_replica_is_promoted_at_once_when_nobody_else_may_be() -> Result<()> {
    scenario("delayed-promoted-mariadb", |run| promoted(run, Flavour::MariaDb)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_mysql_replica_that_holds_nothing_alone_follows_and_goes_on_delaying() -> Result<()> {
    scenario("delayed-follows-mysql", |run| follows(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_mariadb_replica_that_holds_nothing_alone_follows_and_goes_on_delaying() -> Result<()> {
    scenario("delayed-follows-mariadb", |run| follows(run, Flavour::MariaDb)).await
}

async fn feeds(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    hold_back(&stage, flavour).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor == BEHIND,
        "{}, which delays, was promoted",
        measured.to
    );
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    let feeder = stage.topology.server(DELAYED)?;
    feeder.follows(&measured.to, DEADLINE).await?;
    until(DEADLINE, "the replica to delay as before", async || {
        Ok((delay_of(feeder, flavour).await?.as_deref() == Some(DELAY)).then_some(()))
    })
    .await?;
    stage.writers.progress(100, DEADLINE).await?;
    // It will never have caught up: the rows are looked for on the new primary.
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    let lost = missing(&rows, topology.server(BEHIND)?).await?;
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged rows are lost",
        lost.len(),
        rows.len()
    );
    Ok(())
}

async fn promoted(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    let Address { host, port } = stage.address(BEHIND)?;
    let leader = stage.members.member(stage.members.leader().await?)?.api().clone();
    leader
        .details(&format!("register-candidate/{host}/{port}/must_not"))
        .await?;
    hold_back(&stage, flavour).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor == DELAYED,
        "{}, which must not be promoted, was",
        measured.to
    );
    let delay = delay_of(stage.topology.server(DELAYED)?, flavour).await?;
    ensure!(
        delay.is_none(),
        "the new primary replicates with a delay of {delay:?} s"
    );
    stage.end(&measured, Duration::ZERO).await
}

async fn follows(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    let delayed = stage.topology.server(DELAYED)?;
    delayed.run(&delay(flavour)).await?;
    delayed.follows(&stage.address(0)?, DEADLINE).await?;
    stage.writers.progress(200, DEADLINE).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor == BEHIND,
        "{}, which delays, was promoted",
        measured.to
    );
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    let delayed = stage.topology.server(DELAYED)?;
    delayed.follows(&measured.to, DEADLINE).await?;
    let seconds = delay_of(delayed, flavour).await?;
    ensure!(seconds.as_deref() == Some(DELAY), "it delays by {seconds:?} s");
    stage.writers.progress(100, DEADLINE).await?;
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    let lost = missing(&rows, topology.server(BEHIND)?).await?;
    ensure!(lost.is_empty(), "{} acknowledged rows are lost", lost.len());
    // What it had received and not applied came again.
    let delayed = topology.server(DELAYED)?;
    delayed.run(&no_delay(flavour)).await?;
    topology.caught_up(BEHIND, DEADLINE).await
}

/// One replica delays and acknowledges, the other one stops receiving: what is written from now on only the delayed one has, and it has
/// not applied it.
async fn hold_back(stage: &Stage, flavour: Flavour) -> Result<()> {
    let delayed = stage.topology.server(DELAYED)?;
    delayed.run(&delay(flavour)).await?;
    delayed.follows(&stage.address(0)?, DEADLINE).await?;
    let behind = stage.topology.server(BEHIND)?;
    behind.run(&flavour.thread("STOP", "IO_THREAD")).await?;
    stage.writers.progress(200, DEADLINE).await?;
    let acknowledged = stage.topology.server(0)?.executed().await?;
    for late in [delayed, behind] {
        ensure!(
            late.has_executed(&acknowledged, Duration::from_millis(100))
                .await
                .is_err(),
            "{} has applied everything: the scenario is none",
            late.name()
        );
    }
    Ok(())
}

fn delay(flavour: Flavour) -> String {
    match flavour {
        Flavour::MySql => format!("STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = {DELAY}; START REPLICA;"),
        Flavour::MariaDb => format!("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = {DELAY}; START SLAVE;"),
    }
}

fn no_delay(flavour: Flavour) -> String {
    delay(flavour).replace(DELAY, "0")
}

/// By how many seconds a server delays; `None` for one that does not replicate.
async fn delay_of(server: &Server, flavour: Flavour) -> Result<Option<String>> {
    let mut session = server.session().await?;
    let statement = match flavour {
        Flavour::MySql => "SHOW REPLICA STATUS",
        Flavour::MariaDb => "SHOW SLAVE STATUS",
    };
    let rows = session.rows(statement).await?;
    session.close().await;
    Ok(rows.first().and_then(|row| row.get("SQL_Delay").cloned().flatten()))
}
