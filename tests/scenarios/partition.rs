//! The network is cut, silently, between hosts in network namespaces (root or sudo).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kit::members::Intent;
use crate::kit::netns::{Net, cut, heal};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::topology::Shape;
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// How long it is watched that nothing is done.
const WATCHED: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_its_peers_is_unhealthy_and_does_nothing() -> Result<()> {
    scenario_alone("cut-leader", |run| member_cut_off(run, true)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_from_its_peers_is_unhealthy_and_does_nothing() -> Result<()> {
    scenario_alone("cut-follower", |run| member_cut_off(run, false)).await
}

/// It still reaches every server, and sees the primary die like the others, who repair it.
async fn member_cut_off(run: Arc<Run>, leader: bool) -> Result<()> {
    let net = Net::create()?;
    let mut stage = Stage::set_in(&run, &Shape::star(Flavour::MySql, 2), &Intent::default_document(), &net).await?;
    let before = stage.members.leader().await?;
    let alone = if leader {
        before
    } else {
        (before + 1) % stage.members.list.len()
    };
    let others: Vec<usize> = (0..stage.members.list.len()).filter(|index| *index != alone).collect();
    for other in &others {
        cut(
            stage.members.member(alone)?.host()?,
            stage.members.member(*other)?.host()?,
        )?;
    }
    let api = stage.members.member(alone)?.api().clone();
    until(DEADLINE, "raft-health of the lone member to be 500", async || {
        Ok((api.get("raft-health").await?.0 == 500).then_some(()))
    })
    .await?;
    stage.members.healthy(&others).await?;
    let now = stage.members.leader().await?;
    ensure!(now != alone, "the member that is cut off leads");

    let measured = stage.fail_over(FAILOVER).await?;
    throughout(Duration::from_secs(3), async || {
        let (health, leads) = (api.get("raft-health").await?.0, api.get("leader-check").await?.0);
        ensure!(
            health == 500 && leads != 200,
            "cut off, it answers raft-health {health} and leader-check {leads}"
        );
        Ok(())
    })
    .await?;
    for other in &others {
        heal(
            stage.members.member(alone)?.host()?,
            stage.members.member(*other)?.host()?,
        )?;
    }
    stage.members.healthy(&[alone]).await?;
    stage.end(&measured, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_only_the_members_do_not_reach_is_shown_and_left_alone() -> Result<()> {
    scenario_alone("cut-primary", |run| primary_cut_off(run, false)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_receive_and_do_not_apply_are_proof_enough_that_it_lives() -> Result<()> {
    scenario_alone("cut-primary-sql-stopped", |run| primary_cut_off(run, true)).await
}

/// Users and replicas reach the primary: a failover would be the outage.
async fn primary_cut_off(run: Arc<Run>, appliers_stopped: bool) -> Result<()> {
    let net = Net::create()?;
    let flavour = Flavour::MySql;
    let stage = Stage::set_in(&run, &Shape::star(flavour, 2), &Intent::default_document(), &net).await?;
    if appliers_stopped {
        for index in [1, 2] {
            stage
                .topology
                .server(index)?
                .run(&flavour.thread("STOP", "SQL_THREAD"))
                .await?;
        }
    }
    for member in &stage.members.list {
        cut(member.host()?, stage.topology.server(0)?.host()?)?;
    }
    let primary = stage.address(0)?;
    let shown = until(DEADLINE, "a finding about the primary", async || {
        let findings = stage.members.findings(&primary).await?;
        Ok(findings.iter().any(|code| code.contains("Master")).then_some(findings))
    })
    .await?;
    ensure!(
        !shown.iter().any(|code| code.starts_with("Dead")),
        "a primary whose replicas receive is called dead: {shown:?}"
    );
    let rows = stage.writers.count();
    stage.nothing_is_done(WATCHED).await?;
    ensure!(stage.writers.count() > rows, "the primary takes no rows any more");

    for member in &stage.members.list {
        heal(member.host()?, stage.topology.server(0)?.host()?)?;
    }
    until(DEADLINE, "the finding to go away", async || {
        let findings = stage.members.findings(&primary).await?;
        Ok((!findings.iter().any(|code| code.starts_with("Unreachable"))).then_some(()))
    })
    .await?;
    stage.nothing_is_done(Duration::from_secs(1)).await?;
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    ensure!(
        rows.iter().all(|row| row.server == 0),
        "another server than the primary took a row"
    );
    ensure!(
        !topology.server(0)?.is_read_only().await?,
        "the primary was made read-only"
    );
    Ok(())
}
