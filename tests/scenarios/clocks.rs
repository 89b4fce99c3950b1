//! A member whose clock is wrong: it keeps leading with the majority's time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// The member whose clock is wrong.
const WRONG: usize = 0;
/// Three hours ahead.
const AHEAD_MILLIS: &str = "10800000";
/// A downtime that ends while the test runs.
const DOWNTIME: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_three_hours_ahead_moves_no_deadline() -> Result<()> {
    scenario("clock-ahead", clock_ahead).await
}

async fn clock_ahead(run: Arc<Run>) -> Result<()> {
    let topology = Topology::start(&run, &Shape::star(Flavour::MySql, 2)).await?;
    let mut members = Members::prepare(&run, &topology, &Intent::default_document(), None)?;
    members
        .member_mut(WRONG)?
        .set_environment("HAM4DB_CLOCK_OFFSET_MILLIS", Some(AHEAD_MILLIS));
    members.launch_all().await?;
    members.knows(&topology).await?;
    members.make_leader(WRONG).await?;
    members.knows(&topology).await?;
    for index in 0..members.list.len() {
        is_reported(&members, index).await?;
    }
    // Recorded by the wrong clock. Its next leader has a right one: for that leader the downtime would last three hours.
    let primary = topology.server(0)?.address().clone();
    let Address { host, port } = &primary;
    let path = format!("begin-downtime/{host}/{port}/test/clock/{}s", DOWNTIME.as_secs());
    members.member(WRONG)?.api().details(&path).await?;
    let begun = tokio::time::Instant::now();
    members.member_mut(WRONG)?.terminate(Duration::from_secs(20)).await?;
    members.leader().await?;
    let member = members.member_mut(WRONG)?;
    member.launch()?;
    member.serves().await?;
    members.healthy(&[0, 1, 2]).await?;
    let mut stage = Stage::begin(topology, members).await?;
    let killed = stage.topology.server_mut(0)?.kill()?;
    tokio::time::sleep_until(begun + DOWNTIME).await;
    let measured = stage
        .await_failover(killed, DOWNTIME + FAILOVER + Duration::from_secs(2))
        .await?;
    stage.end(&measured, Duration::ZERO).await
}

/// Waits until a member reports whose clock is wrong.
async fn is_reported(members: &Members, index: usize) -> Result<()> {
    let wrong = format!("http://{}", members.member(WRONG)?.address());
    let member = members.member(index)?;
    until(DEADLINE, "the report of the wrong clock", async || {
        let health = member.api().details("health").await?;
        let clocks = health
            .pointer("/Clocks")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let problems: Vec<&Value> = clocks.iter().filter(|clock| clock.get("Problem").is_some()).collect();
        let Some(clock) = problems.first() else { return Ok(None) };
        ensure!(problems.len() == 1, "more than one clock is reported: {problems:?}");
        ensure!(text(clock, "/Problem").starts_with("ClockSkew: "), "{clock}");
        let offset = clock
            .get("OffsetSeconds")
            .and_then(Value::as_f64)
            .context("no offset")?;
        ensure!((10_790.0..10_810.0).contains(&offset), "{wrong} is {offset} s ahead");
        Ok(Some(()))
    })
    .await
}
