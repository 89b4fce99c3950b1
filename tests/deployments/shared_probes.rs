//! The members share the probes: how often servers are probed, counted by the servers; how long a failover takes; and a data centre that
//! is cut off with the primary and the leader in it.

#![expect(clippy::print_stdout, reason = "the times are for a person who measures")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::members::{Intent, Members};
use crate::kit::netns::{Host, Net, cut, heal};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario_alone;
use crate::kit::server::Server;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// How long probes are counted.
const COUNTED: Duration = Duration::from_secs(20);
/// The poll interval of the members of tests.
const POLL: Duration = Duration::from_secs(1);
/// How long a failover may take after a data centre was cut off: the others elect a leader first, and the primary is silent.
const CUT_OFF: Duration = Duration::from_secs(15);
/// How long the old primary may take writes after the cut ended.
const READ_ONLY: Duration = Duration::from_secs(3);

/// The number of full probes that a server counted: each contains this statement once.
async fn probes(server: &Server) -> Result<u64> {
    let mut session = server.session().await?;
    let rows = session
        .rows("SHOW GLOBAL STATUS LIKE 'Com_show_replica_status'")
        .await?;
    session.close().await;
    let value = rows.first().and_then(|row| row.get("Value").cloned().flatten());
    let value = value.with_context(|| format!("{} does not count SHOW REPLICA STATUS", server.name()))?;
    Ok(value.parse()?)
}

fn modes(members: usize, mode: &str) -> Vec<Value> {
    vec![json!({ "ProbeSharing": mode }); members]
}

/// Waits until every member shows that the probes are shared among as many members.
async fn shared(members: &Members) -> Result<()> {
    for member in &members.list {
        until(
            DEADLINE,
            &format!("{} to share the probes", member.name()),
            async || {
                let health = member.api().details("health").await?;
                let shares = health.get("ProbedInstances").and_then(Value::as_object);
                let shares = shares.context("no shares are shown")?;
                ensure!(shares.len() == members.list.len(), "{shares:?}");
                Ok(Some(()))
            },
        )
        .await?;
    }
    Ok(())
}

/// How many full probes each server got per poll interval.
async fn probes_per_poll(topology: &Topology) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut before = Vec::new();
    for server in &topology.servers {
        before.push(probes(server).await?);
    }
    tokio::time::sleep(COUNTED).await;
    let polls = begun.elapsed().as_secs_f64() / POLL.as_secs_f64();
    let mut counted = Vec::new();
    for (server, before) in topology.servers.iter().zip(before) {
        let count = u32::try_from(probes(server).await? - before)?;
        counted.push(f64::from(count) / polls);
    }
    Ok(counted)
}

async fn counted(run: Arc<Run>, members: usize) -> Result<()> {
    let topology = Topology::start(&run, &Shape::star(Flavour::MySql, 2)).await?;
    let intent = Intent::Configuration(json!({}));
    let group = Members::start_each(&run, &topology, &intent, None, &modes(members, "off")).await?;
    let off = probes_per_poll(&topology).await?;
    drop(group);
    let keys = modes(members, "round-robin");
    let group = Members::prepare_each("sharing", &run, &topology, &intent, None, &keys)?;
    let group = started(group, &topology).await?;
    shared(&group).await?;
    let on = probes_per_poll(&topology).await?;
    println!("{members} members: probes of each server per poll: off {off:.2?}, round-robin {on:.2?}");
    let expected = f64::from(u32::try_from(members)?);
    ensure!(
        off.iter()
            .all(|count| (expected * 0.7..=expected * 1.2).contains(count)),
        "without sharing {members} members probe each server once per poll: {off:?}"
    );
    ensure!(
        on.iter().all(|count| (0.7..=1.3).contains(count)),
        "with sharing each server is probed once per poll: {on:?}"
    );
    Ok(())
}

async fn started(mut members: Members, topology: &Topology) -> Result<Members> {
    members.launch_all().await?;
    members.knows(topology).await?;
    Ok(members)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_probe_each_server_once_per_poll() -> Result<()> {
    scenario_alone("shared-probes-3", |run| counted(run, 3)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_probe_each_server_once_per_poll() -> Result<()> {
    scenario_alone("shared-probes-5", |run| counted(run, 5)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_while_the_probes_are_shared() -> Result<()> {
    scenario_alone("shared-probes-failover", |run| async move {
        for mode in ["off", "round-robin"] {
            let topology = Topology::start(&run, &Shape::star(Flavour::MySql, 2)).await?;
            let intent = Intent::Configuration(json!({}));
            let group = Members::prepare_each(mode, &run, &topology, &intent, None, &modes(3, mode))?;
            let group = started(group, &topology).await?;
            if mode != "off" {
                shared(&group).await?;
            }
            let mut stage = Stage::begin(topology, group).await?;
            let measured = stage.fail_over(FAILOVER).await?;
            println!("ProbeSharing {mode}: {}", measured.line(0));
            stage.end(&measured, Duration::ZERO).await?;
        }
        Ok(())
    })
    .await
}

/// Five members and three servers in three data centres: members 1 and 2 with the primary in `a`, 3 and 4 in `b`, 5 in `c`.
const PLACES: [&str; 5] = ["a", "a", "b", "b", "c"];

async fn five_members(run: &Arc<Run>, mode: &str, net: &Net) -> Result<Stage> {
    let topology = Topology::start_in(run, &Shape::star(Flavour::MySql, 2), net).await?;
    let ids: Vec<String> = {
        let mut ids = Vec::new();
        for server in &topology.servers {
            ids.push(server.value("SELECT @@server_id").await?);
        }
        ids
    };
    let place = format!("SELECT ELT(FIELD(@@server_id, {}), 'a', 'b', 'c')", ids.join(", "));
    let keys: Vec<Value> = PLACES
        .iter()
        .map(|data_center| {
            json!({
                "ProbeSharing": mode,
                "MemberDataCenter": data_center,
                "DetectDataCenterQuery": place,
                "RecoveryQuorum": "MajorityOfDataCenters",
            })
        })
        .collect();
    let intent = Intent::Configuration(json!({}));
    let mut members = Members::start_each(run, &topology, &intent, Some(net), &keys).await?;
    members.make_leader(0).await?;
    members.knows(&topology).await?;
    if mode != "off" {
        shared(&members).await?;
    }
    Stage::begin(topology, members).await
}

/// The hosts of one data centre and those of the others.
fn sides(stage: &Stage) -> Result<(Vec<Host>, Vec<Host>)> {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (member, place) in stage.members.list.iter().zip(PLACES) {
        let side = if place == "a" { &mut inside } else { &mut outside };
        side.push(member.host()?.clone());
    }
    for (index, server) in stage.topology.servers.iter().enumerate() {
        let side = if index == 0 { &mut inside } else { &mut outside };
        side.push(server.host()?.clone());
    }
    Ok((inside, outside))
}

async fn cut_off(run: Arc<Run>, mode: &str) -> Result<()> {
    let net = Net::create()?;
    let stage = five_members(&run, mode, &net).await?;
    let (inside, outside) = sides(&stage)?;
    // The clients are outside too. While commits wait on the old primary, clients that come back again and again can keep it from
    // becoming read-only: that is another scenario.
    let (machine, primary) = (net.machine(), stage.topology.server(0)?.host()?.clone());
    let begun = Instant::now();
    machine.cut(&primary)?;
    for (one, other) in inside
        .iter()
        .flat_map(|one| outside.iter().map(move |other| (one, other)))
    {
        cut(one, other)?;
    }
    let cut_took = begun.elapsed();
    let measured = stage.await_failover(begun, CUT_OFF).await?;
    let leader = stage.members.leader().await?;
    ensure!(leader > 1, "a member that is cut off leads");
    stage.writers.progress(100, DEADLINE).await?;
    let healed = Instant::now();
    for (one, other) in inside
        .iter()
        .flat_map(|one| outside.iter().map(move |other| (one, other)))
    {
        heal(one, other)?;
    }
    until(DEADLINE, "the old primary to be read-only", async || {
        Ok(stage.topology.server(0)?.is_read_only().await?.then_some(()))
    })
    .await?;
    let fenced = healed.elapsed();
    machine.heal(&primary)?;
    stage.members.healthy(&[0, 1, 2, 3, 4]).await?;
    println!(
        "ProbeSharing {mode}, five members in three data centres, one cut off (within {:.2} s) with the primary and the leader: writable \
         after {:.2} s, replicas repointed after {:.2} s; healed, the old primary was read-only after {:.2} s",
        cut_took.as_secs_f64(),
        measured.writable_after.as_secs_f64(),
        measured.repointed_after.as_secs_f64(),
        fenced.as_secs_f64()
    );
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    let (topology, verdict, _) = stage.judge(READ_ONLY).await?;
    let (_, lasted) = verdict.accepted(0, healed);
    ensure!(lasted <= READ_ONLY, "the old primary took writes for {lasted:?}");
    ensure!(topology.server(0)?.is_read_only().await?, "it is writable again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_centre_is_cut_off_with_the_primary_and_the_leader() -> Result<()> {
    scenario_alone("cut-data-centre", |run| cut_off(run, "off")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_centre_is_cut_off_while_the_probes_are_shared() -> Result<()> {
    scenario_alone("cut-data-centre-shared", |run| cut_off(run, "data-center")).await
}
