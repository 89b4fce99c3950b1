//! The leader dies, too.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// Leader and primary killed together: what the issue allows, and twice the budget.
const TOGETHER: Duration = Duration::from_secs(5);
/// Ten times the budget for members that are started while the primary is dead already.
const FROM_START: Duration = Duration::from_secs(30);
/// The member that dies on purpose.
const FIRST: usize = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_and_primary_killed_together_is_one_failover() -> Result<()> {
    scenario("leader-and-primary", |run| async move {
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::default_document()).await?;
        let leader = stage.members.leader().await?;
        stage.members.member_mut(leader)?.kill()?;
        let measured = stage.fail_over(TOGETHER).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_right_after_the_promotion_statement_is_finished_for() -> Result<()> {
    scenario("dies-after-open-statement", |run| dies_at(run, "after-open-statement")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_after_its_claim_is_finished_for() -> Result<()> {
    scenario("dies-after-claim", |run| dies_at(run, "after-claim")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_with_the_replicas_frozen_is_finished_for() -> Result<()> {
    scenario("dies-after-stop-receivers", |run| dies_at(run, "after-stop-receivers")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_before_it_records_the_successor_is_finished_for() -> Result<()> {
    scenario("dies-before-open-entry", |run| dies_at(run, "before-open-entry")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_after_it_recorded_the_successor_is_finished_for() -> Result<()> {
    scenario("dies-after-open-entry", |run| dies_at(run, "after-open-entry")).await
}

/// The leader ends itself at a point of the recovery. The next one finishes the same recovery: one in the records, one primary.
async fn dies_at(run: Arc<Run>, point: &str) -> Result<()> {
    let topology = Topology::start(&run, &Shape::star(Flavour::MySql, 2)).await?;
    let mut members = Members::prepare(&run, &topology, &Intent::default_document(), None)?;
    members
        .member_mut(FIRST)?
        .set_environment("HAM4DB_FAILPOINT", Some(&format!("{point}=abort")));
    members.launch_all().await?;
    members.knows(&topology).await?;
    members.make_leader(FIRST).await?;
    members.knows(&topology).await?;
    let mut stage = Stage::begin(topology, members).await?;
    let killed = stage.topology.server_mut(0)?.kill()?;
    stage.members.member_mut(FIRST)?.ends(DEADLINE).await?;
    let measured = stage.await_failover(killed, FAILOVER + TOGETHER).await?;
    ensure!(stage.members.leader().await? != FIRST, "the dead member leads");
    stage.end(&measured, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_started_while_the_primary_is_dead_repair_it_on_their_first_full_view() -> Result<()> {
    scenario("members-restarted", |run| async move {
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::default_document()).await?;
        for member in &mut stage.members.list {
            member.kill()?;
        }
        let killed = stage.topology.server_mut(0)?.kill()?;
        stage.members.launch_all().await?;
        let measured = stage.await_failover(killed, FROM_START).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}
