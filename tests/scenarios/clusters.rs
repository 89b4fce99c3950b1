//! Which servers are one cluster: a cluster that a person splits, and data that flow in from another cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::kit::channels::{also_replicate, still_replicates};
use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::{throughout, until};
use crate::stage::{DEADLINE, Stage};

/// How long a split may take to be recorded.
const SPLIT: Duration = Duration::from_secs(15);

/// The clusters that the leader shows, each as its name and the number of its instances, ordered by name.
async fn clusters(members: &Members) -> Result<Vec<(String, u64)>> {
    let leader = members.member(members.leader().await?)?;
    let infos = leader.api().json("clusters-info").await?;
    let of = |info: &Value| {
        let count = info.get("CountInstances").and_then(Value::as_u64).unwrap_or_default();
        (text(info, "/ClusterName").to_owned(), count)
    };
    let mut all: Vec<(String, u64)> = infos.as_array().into_iter().flatten().map(of).collect();
    all.sort();
    Ok(all)
}

fn expected(clusters: &[(&Address, u64)]) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = clusters
        .iter()
        .map(|(name, count)| (name.to_string(), *count))
        .collect();
    all.sort();
    all
}

async fn settle_as(members: &Members, limit: Duration, wanted: &[(&Address, u64)]) -> Result<()> {
    let wanted = expected(wanted);
    until(limit, &format!("the clusters {wanted:?}"), async || {
        let seen = clusters(members).await?;
        ensure!(seen == wanted, "the clusters are {seen:?}");
        Ok(Some(()))
    })
    .await
}

#[expect(clippy::print_stdout, reason = "what was measured")]
async fn is_split(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut topology = Topology::start(&run, &Shape::asynchronous(flavour, 3)).await?;
    let members = Members::start(&run, &topology, &Intent::Configuration(json!({})), None).await?;
    let address = |index: usize| Ok::<Address, anyhow::Error>(topology.server(index)?.address().clone());
    let (first, second) = (address(0)?, address(2)?);
    settle_as(&members, DEADLINE, &[(&first, 4)]).await?;
    let (head, replica) = (topology.server(2)?, topology.server(3)?);
    head.run(flavour.detach()).await?;
    head.run(flavour.read_only(false)).await?;
    replica.run(flavour.detach()).await?;
    replica
        .run(&flavour.attach(&second, &topology.accounts.replication))
        .await?;
    replica.follows(&second, DEADLINE).await?;
    let since = Instant::now();
    settle_as(&members, SPLIT, &[(&first, 2), (&second, 2)]).await?;
    println!("{flavour}: split after {:.1} s", since.elapsed().as_secs_f64());
    let audit = members.member(members.leader().await?)?.api().json("audit").await?;
    let is_split = |entry: &Value| text(entry, "/AuditType") == "split-cluster";
    ensure!(
        audit.as_array().into_iter().flatten().any(is_split),
        "no entry: {audit}"
    );
    // Each of the two is repaired.
    topology.server_mut(0)?.kill()?;
    topology.server_mut(2)?.kill()?;
    for index in [1, 3] {
        let server = topology.server(index)?;
        until(DEADLINE, &format!("{} to be promoted", server.name()), async || {
            Ok((!server.is_read_only().await?).then_some(()))
        })
        .await?;
    }
    until(DEADLINE, "two successful recoveries", async || {
        let recoveries = members.recoveries().await?;
        let is_done = |it: &&Value| it.get("IsSuccessful").and_then(Value::as_bool) == Some(true);
        ensure!(
            recoveries.iter().filter(is_done).count() == 2,
            "{}",
            Value::from(recoveries)
        );
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_cluster_that_a_person_splits_is_two_and_each_is_repaired() -> Result<()> {
    scenario("split-mysql", |run| is_split(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_cluster_that_a_person_splits_is_two_and_each_is_repaired() -> Result<()> {
    scenario("split-mariadb", |run| is_split(run, Flavour::MariaDb)).await
}

async fn has_a_second_channel(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut topology = Topology::start(&run, &Shape::asynchronous(flavour, 3)).await?;
    // The last server is the primary of another cluster.
    let other = topology.servers.pop().context("no fourth server")?;
    other.run(flavour.detach()).await?;
    other.run(flavour.read_only(false)).await?;
    also_replicate(flavour, topology.server(1)?, &other, &topology.accounts.replication).await?;
    other.run("CREATE DATABASE of_the_other_cluster").await?;
    until(DEADLINE, "the second channel to replicate", async || {
        still_replicates(flavour, topology.server(1)?, other.address()).await?;
        let sql = "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'of_the_other_cluster'";
        Ok((topology.server(1)?.value(sql).await? == "1").then_some(()))
    })
    .await?;
    let members = Members::start(&run, &topology, &Intent::Configuration(json!({})), None).await?;
    let first = topology.server(0)?.address().clone();
    settle_as(&members, DEADLINE, &[(&first, 3), (other.address(), 1)]).await?;
    let mut stage = Stage::begin(topology, members).await?;
    // The one with the second channel has all that the other one has.
    let behind = stage.topology.server(2)?;
    behind.run(&flavour.thread("STOP", "IO_THREAD")).await?;
    stage.writers.progress(50, DEADLINE).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(measured.successor == 1, "{} was promoted", measured.to);
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    let wanted = [(&measured.to, 3), (other.address(), 1)];
    settle_as(&stage.members, DEADLINE, &wanted).await?;
    throughout(Duration::from_secs(5), async || {
        let seen = clusters(&stage.members).await?;
        ensure!(seen == expected(&wanted), "the clusters are {seen:?}");
        still_replicates(flavour, stage.topology.server(1)?, other.address()).await?;
        ensure!(!other.is_read_only().await?, "the other primary is read-only");
        Ok(())
    })
    .await?;
    let leader = stage.members.member(stage.members.leader().await?)?;
    let primary = leader.api().json(&format!("master/{}", measured.from)).await?;
    ensure!(key(&primary, "/Key") == measured.to.to_string(), "{primary}");
    let recoveries = stage.members.recoveries().await?;
    ensure!(recoveries.len() == 1, "{}", Value::from(recoveries));
    // And it goes on from there.
    other.run("CREATE DATABASE also_of_the_other_cluster").await?;
    stage.writers.progress(100, DEADLINE).await?;
    stage.judge(Duration::ZERO).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_successor_with_a_second_channel_does_not_pull_two_clusters_into_one() -> Result<()> {
    scenario("channel-mysql", |run| has_a_second_channel(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_successor_with_a_second_connection_does_not_pull_two_clusters_into_one() -> Result<()> {
    scenario("channel-mariadb", |run| has_a_second_channel(run, Flavour::MariaDb)).await
}
