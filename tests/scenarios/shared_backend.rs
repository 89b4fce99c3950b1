//! Members without raft that share one MySQL or MariaDB backend.

#![expect(clippy::print_stdout, reason = "the times are for a person who measures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kit::backends::Backends;
use crate::kit::http::key;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// A leader is replaced three to four seconds after its last renewal, and a loaded machine may be late.
const NEXT_LEADER: Duration = Duration::from_secs(15);

async fn begin(run: &Arc<Run>, flavour: Flavour) -> Result<(Stage, Backends)> {
    let topology = Topology::start(run, &Shape::star(Flavour::MySql, 2)).await?;
    let mut members = Members::prepare(run, &topology, &Intent::default_document(), None)?;
    let backends = Backends::start_shared(run, &mut members, flavour).await?;
    members.launch_all().await?;
    members.knows(&topology).await?;
    Ok((Stage::begin(topology, members).await?, backends))
}

/// Waits until another member leads than this one.
async fn next_leader(stage: &Stage, than: usize, since: Instant) -> Result<usize> {
    let next = until(NEXT_LEADER, "another member to lead", async || {
        Ok(stage.members.leader_now().await?.filter(|leader| *leader != than))
    })
    .await?;
    println!("another member led after {:.2} s", since.elapsed().as_secs_f64());
    Ok(next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_is_replaced_after_the_leader_of_a_shared_backend_died() -> Result<()> {
    scenario_alone("shared-backend-leader", |run| async move {
        let (mut stage, _backends) = begin(&run, Flavour::MySql).await?;
        let leader = stage.members.leader().await?;
        let dead = Instant::now();
        stage.members.member_mut(leader)?.kill()?;
        // The primary too: nothing leads at that moment.
        let measured = stage.fail_over(NEXT_LEADER + FAILOVER).await?;
        println!(
            "failover with its leader: {:.2} s",
            measured.writable_after.as_secs_f64()
        );
        next_leader(&stage, leader, dead).await?;
        stage.members.member_mut(leader)?.launch()?;
        stage.members.member_mut(leader)?.serves().await?;
        stage.members.healthy(&[0, 1, 2]).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_through_any_member_of_a_shared_backend_is_done_by_the_leader() -> Result<()> {
    scenario_alone("shared-backend-takeover", |run| async move {
        let (stage, _backends) = begin(&run, Flavour::MariaDb).await?;
        let (from, to) = (stage.address(0)?, stage.address(1)?);
        let other = (stage.members.leader().await? + 1) % 3;
        let member = stage.members.member(other)?;
        let path = format!(
            "graceful-master-takeover-auto/{}/{}/{}/{}",
            from.host, from.port, to.host, to.port
        );
        let (code, answer) = member.api().get_within(&path, Duration::from_mins(1)).await?;
        ensure!(code == 200, "{path} answers {code}: {answer}");
        let answer: Value = serde_json::from_str(&answer)?;
        let details = answer.get("Details").context("no details")?;
        ensure!(key(details, "/SuccessorKey") == to.to_string(), "{answer}");
        for index in 0..3 {
            let member = stage.members.member(index)?;
            until(DEADLINE, "every member to show the new primary", async || {
                let shown = member.api().json(&format!("instance/{}/{}", to.host, to.port)).await?;
                Ok((shown.get("ReadOnly") == Some(&Value::from(false))).then_some(()))
            })
            .await?;
        }
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_their_shared_backend_members_do_nothing_and_say_so_and_go_on_with_it() -> Result<()> {
    scenario_alone("shared-backend-gone", |run| async move {
        let (mut stage, mut backends) = begin(&run, Flavour::MySql).await?;
        backends.server_mut(0)?.kill()?;
        for index in 0..3 {
            let member = stage.members.member(index)?;
            until(DEADLINE, "a member without a backend to say so", async || {
                let (code, why) = member.api().get("health").await?;
                Ok((code == 500 && why.contains("the backend takes no writes")).then_some(()))
            })
            .await?;
        }
        ensure!(
            stage.members.leader_now().await?.is_none(),
            "a member leads without a backend"
        );
        let killed = stage.topology.server_mut(0)?.kill()?;
        let replica = stage.topology.server(1)?;
        throughout(Duration::from_secs(5), async || {
            ensure!(
                replica.value("SELECT @@read_only").await? == "1",
                "a replica was made writable without a backend"
            );
            Ok(())
        })
        .await?;
        backends.server_mut(0)?.start_again().await?;
        let measured = stage.await_failover(killed, Duration::from_mins(1)).await?;
        stage.members.healthy(&[0, 1, 2]).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}
