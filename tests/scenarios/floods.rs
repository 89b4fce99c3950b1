//! Thousands of connections that say nothing: the members go on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::net::TcpStream;

use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::topology::{Shape, Topology};
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// Connections to all APIs together.
const FLOOD: usize = 10_000;
/// The pause of a writer after each row.
const REST: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_flood_of_the_apis_does_not_delay_a_failover() -> Result<()> {
    scenario("half-open-flood", flood).await
}

async fn flood(run: Arc<Run>) -> Result<()> {
    let files = ham4db::adapter::connections::raise_open_files();
    ensure!(files > 12_000, "the flood needs open files, there are {files}");
    let topology = Topology::start(&run, &Shape::star(Flavour::MySql, 2)).await?;
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    // The replicas must not lag behind when the primary dies: a failover waits until they have applied everything.
    let mut stage = Stage::begin_paced(topology, members, REST).await?;
    let leader = stage.members.leader().await?;
    let mut open = Vec::with_capacity(FLOOD);
    for number in 0..FLOOD {
        let address = stage.members.member(number % 3)?.address().to_string();
        open.push(TcpStream::connect(&address).await?);
    }
    stage.members.healthy(&[0, 1, 2]).await?;
    let measured = stage.fail_over(FAILOVER).await?;
    ensure!(stage.members.leader().await? == leader, "the flood cost the leader");
    stage.members.healthy(&[0, 1, 2]).await?;
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    drop(open);
    stage.end(&measured, Duration::ZERO).await
}
