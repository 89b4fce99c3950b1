//! The replica that is wanted received less than another one: it is fed first, and nothing that was acknowledged is lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::sql::Address;
use crate::kit::topology::Shape;
use crate::stage::{DEADLINE, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_mysql_replica_that_is_behind_is_fed_and_promoted() -> Result<()> {
    scenario("fed-prefer-mysql", |run| fed(run, Flavour::MySql, 1, "prefer")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_mariadb_replica_that_is_behind_is_fed_and_promoted() -> Result<()> {
    scenario("fed-prefer-mariadb", |run| fed(run, Flavour::MariaDb, 1, "prefer")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_replica_that_must_not_be_promoted_gives_what_it_alone_received() -> Result<()> {
    scenario("fed-must-not-mysql", |run| fed(run, Flavour::MySql, 2, "must_not")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_replica_that_must_not_be_promoted_gives_what_it_alone_received() -> Result<()> {
    scenario("fed-must-not-mariadb", |run| fed(run, Flavour::MariaDb, 2, "must_not")).await
}

/// The first replica stops receiving; the second one acknowledges on, and has rows that nobody else has when the primary dies. The
/// rule on one of the two speaks for the first one.
async fn fed(run: Arc<Run>, flavour: Flavour, ruled: usize, rule: &str) -> Result<()> {
    let wanted = 1;
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    let Address { host, port } = stage.address(ruled)?;
    let leader = stage.members.member(stage.members.leader().await?)?.api().clone();
    leader
        .details(&format!("register-candidate/{host}/{port}/{rule}"))
        .await?;
    stage
        .topology
        .server(wanted)?
        .run(&flavour.thread("STOP", "IO_THREAD"))
        .await?;
    stage.writers.progress(200, DEADLINE).await?;
    let acknowledged = stage.topology.server(0)?.executed().await?;
    ensure!(
        stage
            .topology
            .server(wanted)?
            .has_executed(&acknowledged, Duration::from_millis(100))
            .await
            .is_err(),
        "the wanted one is not behind: the scenario is none"
    );
    // How long it takes depends on how much it lacks.
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor == wanted,
        "{}, which the rule speaks against, was promoted",
        measured.to
    );
    stage.end(&measured, Duration::ZERO).await
}
