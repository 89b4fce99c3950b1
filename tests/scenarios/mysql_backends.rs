//! Members of a raft group with a private MySQL or MariaDB backend each.

#![expect(clippy::print_stdout, reason = "the times are for a person who measures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::kit::backends::Backends;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// How long it may take until another member leads when the backend of the leader does not answer: a second until that is noticed, half
/// a second until it hands over, and ten times the budget of an election.
const NEXT_LEADER: Duration = Duration::from_secs(22);
/// Two on MySQL, one on MariaDB: members of one group may have different backends.
const FLAVOURS: [Flavour; 3] = [Flavour::MySql, Flavour::MariaDb, Flavour::MySql];

async fn begin(run: &Arc<Run>) -> Result<(Stage, Backends)> {
    let topology = Topology::start(run, &Shape::star(Flavour::MySql, 2)).await?;
    let mut members = Members::prepare(run, &topology, &Intent::default_document(), None)?;
    let backends = Backends::start(run, &mut members, &FLAVOURS).await?;
    members.launch_all().await?;
    members.knows(&topology).await?;
    Ok((Stage::begin(topology, members).await?, backends))
}

/// Another member leads than this one, and it is not healthy.
async fn hands_over(stage: &Stage, from: usize, since: Instant) -> Result<usize> {
    let next = until(NEXT_LEADER, "another member to lead", async || {
        Ok(stage.members.leader_now().await?.filter(|leader| *leader != from))
    })
    .await?;
    println!(
        "another member led {:.2} s after the backend failed",
        since.elapsed().as_secs_f64()
    );
    let (code, why) = stage.members.member(from)?.api().get("raft-health").await?;
    ensure!(
        code != 200 && why.contains("the backend takes no writes"),
        "the member without a backend answers {code}: {why}"
    );
    Ok(next)
}

/// All backends have the same records at the same position of the log.
async fn all_agree(backends: &Backends) -> Result<()> {
    until(DEADLINE, "the backends to have the same records", async || {
        let first = backends.content(0).await?;
        for index in 1..FLAVOURS.len() {
            if backends.content(index).await?.1 != first.1 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_mysql_backend_dies_hands_over_and_returns_with_it() -> Result<()> {
    scenario_alone("mysql-backend-dies", |run| async move {
        let (mut stage, mut backends) = begin(&run).await?;
        let leader = stage.members.leader().await?;
        let dead = backends.server_mut(leader)?.kill()?;
        hands_over(&stage, leader, dead).await?;
        let measured = stage.fail_over(FAILOVER).await?;
        println!(
            "failover with a dead backend: {:.2} s",
            measured.writable_after.as_secs_f64()
        );
        backends.server_mut(leader)?.start_again().await?;
        stage.members.healthy(&[0, 1, 2]).await?;
        all_agree(&backends).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_mysql_backend_hangs_hands_over_and_returns_with_it() -> Result<()> {
    scenario_alone("mysql-backend-hangs", |run| async move {
        let (mut stage, backends) = begin(&run).await?;
        let leader = stage.members.leader().await?;
        let hung = Instant::now();
        backends.server(leader)?.pause()?;
        // Nothing is written while nothing happens: the failover itself meets the backend that hangs, in the worst case.
        let measured = stage.fail_over(NEXT_LEADER + FAILOVER).await?;
        println!(
            "failover with a hanging backend: {:.2} s",
            measured.writable_after.as_secs_f64()
        );
        hands_over(&stage, leader, hung).await?;
        backends.server(leader)?.resume()?;
        stage.members.healthy(&[0, 1, 2]).await?;
        all_agree(&backends).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_newly_provisioned_mysql_backend_fills_it_again() -> Result<()> {
    scenario_alone("mysql-backend-emptied", |run| async move {
        let (mut stage, backends) = begin(&run).await?;
        let follower = (stage.members.leader().await? + 1) % FLAVOURS.len();
        let member = stage.members.member_mut(follower)?;
        member.kill()?;
        backends.empty(follower).await?;
        member.launch()?;
        member.serves().await?;
        stage.members.healthy(&[0, 1, 2]).await?;
        all_agree(&backends).await?;
        let measured = stage.fail_over(FAILOVER).await?;
        all_agree(&backends).await.context("after the failover")?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}
