//! A person asks for another primary: takeovers under writers, refused, undone, finished by another leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::booting::old_enough;
use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::replication::{DATABASE, Flavour};
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::missing;
use crate::stage::{DEADLINE, Stage};

/// How long nobody may take writes, whatever dies in a takeover.
const OUTAGE: Duration = Duration::from_secs(10);
/// The member that dies on purpose.
const FIRST: usize = 0;

/// What the leader answers to a change of the primary of the cluster of `of`. It goes on by itself, while the stage is changed.
async fn asking(
    stage: &Stage,
    command: &str,
    of: &Address,
    target: Option<&Address>,
) -> Result<JoinHandle<Result<(u16, Value)>>> {
    let leader = stage.members.member(stage.members.leader().await?)?;
    let target = target.map_or_else(String::new, |target| format!("/{}/{}", target.host, target.port));
    let path = format!("{command}/{}/{}{target}", of.host, of.port);
    let api = leader.api().clone();
    Ok(tokio::spawn(async move {
        let (code, body) = api.get_within(&path, Duration::from_mins(1)).await?;
        let answer = serde_json::from_str(&body).with_context(|| format!("{path} answers no JSON: {body}"))?;
        Ok((code, answer))
    }))
}

/// The same, answered.
pub(crate) async fn asked(
    stage: &Stage,
    command: &str,
    of: &Address,
    target: Option<&Address>,
) -> Result<(u16, Value)> {
    asking(stage, command, of, target).await?.await?
}

/// The same, done.
pub(crate) async fn taken_over(stage: &Stage, command: &str, of: &Address, target: &Address) -> Result<Value> {
    let (code, answer) = asked(stage, command, of, Some(target)).await?;
    ensure!(code == 200, "{command} answers {code}: {answer}");
    let details = answer.get("Details").cloned().unwrap_or_default();
    ensure!(
        key(&details, "/SuccessorKey") == target.to_string(),
        "the successor is not {target}: {answer}"
    );
    ensure!(text(&details, "/AnalysisEntry/CommandHint") == command, "{answer}");
    Ok(details)
}

/// Waits until the members show a server as primary, and the other ones as its replicas.
pub(crate) async fn settled(stage: &Stage, primary: usize) -> Result<()> {
    let address = stage.address(primary)?;
    for index in (0..stage.topology.servers.len()).filter(|index| *index != primary) {
        stage.topology.server(index)?.follows(&address, DEADLINE).await?;
    }
    let others = stage.topology.servers.len() - 1;
    until(DEADLINE, "the members to see everybody follow", async || {
        let leader = stage.members.member(stage.members.leader().await?)?;
        let Address { host, port } = &address;
        let replicas = leader.api().json(&format!("instance-replicas/{host}/{port}")).await?;
        let replicates = |replica: &&Value| {
            ["ReplicationIOThreadRuning", "ReplicationSQLThreadRuning"]
                .iter()
                .all(|thread| replica.get(*thread).and_then(Value::as_bool) == Some(true))
        };
        let seen = replicas.as_array().into_iter().flatten().filter(replicates).count();
        Ok((seen == others).then_some(()))
    })
    .await
}

async fn there_and_back(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    taken_over(&stage, "graceful-master-takeover-auto", &first, &second).await?;
    stage.writers.progress(200, DEADLINE).await?;
    settled(&stage, 1).await?;
    // Nothing stands in the way of another one: neither a block nor a quarantine.
    taken_over(&stage, "graceful-master-takeover-auto", &second, &first).await?;
    stage.writers.progress(200, DEADLINE).await?;
    settled(&stage, 0).await?;
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    topology.caught_up(0, DEADLINE).await?;
    for index in 0..topology.servers.len() {
        let lost = missing(&rows, topology.server(index)?).await?;
        ensure!(
            lost.is_empty(),
            "{} of {} acknowledged rows are missing on server {index}, the first: {:?}",
            lost.len(),
            rows.len(),
            lost.first()
        );
    }
    ensure!(
        rows.iter().any(|row| row.server == 1),
        "the second server never took a row"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_takeover_there_and_back_under_writers_loses_no_row() -> Result<()> {
    scenario("takeover-mysql", |run| there_and_back(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_takeover_there_and_back_under_writers_loses_no_row() -> Result<()> {
    scenario("takeover-mariadb", |run| there_and_back(run, Flavour::MariaDb)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_is_refused_with_the_reason_and_the_plain_form_leaves_the_old_primary_stopped() -> Result<()> {
    scenario("takeover-refused", |run| async move {
        let flavour = Flavour::MySql;
        let stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
        let (first, second, third) = (stage.address(0)?, stage.address(1)?, stage.address(2)?);
        let plain = "graceful-master-takeover";
        let (code, answer) = asked(&stage, plain, &first, None).await?;
        ensure!(
            code == 409 && text(&answer, "/Message").contains("has 2 replicas"),
            "{code} {answer}"
        );
        let applier = stage.topology.server(1)?;
        applier.run(&flavour.thread("STOP", "SQL_THREAD")).await?;
        let (code, answer) = asked(&stage, plain, &first, Some(&second)).await?;
        let message = text(&answer, "/Message");
        ensure!(
            code == 409 && message.contains(&second.to_string()) && message.contains("applier thread"),
            "{code} {answer}"
        );
        ensure!(stage.members.recoveries().await?.is_empty(), "a recovery was begun");
        applier.run(&flavour.thread("START", "SQL_THREAD")).await?;

        let details = taken_over(&stage, plain, &first, &third).await?;
        ensure!(
            details.get("IsSuccessful").and_then(Value::as_bool) == Some(true),
            "{details}"
        );
        let old = stage
            .topology
            .server(0)?
            .replica_status()
            .await?
            .context("the old primary has no channel")?;
        ensure!(
            old.source == third.to_string() && old.io_thread == "No" && old.sql_thread == "No",
            "{old:?}"
        );
        stage.writers.progress(100, DEADLINE).await?;
        stage.topology.server(0)?.run(&flavour.thread("START", "")).await?;
        settled(&stage, 2).await?;
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

/// Waits until users can write on a server again, and says how long nobody could.
async fn writable_again(stage: &Stage, index: usize, since: Instant) -> Result<Duration> {
    until(DEADLINE, "the old primary to take writes again", async || {
        Ok((stage.sampler.accepted_since(index, since) > 0).then(|| since.elapsed()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_while_it_is_waited_for_leaves_the_old_primary_writable() -> Result<()> {
    scenario("takeover-target-dies", |run| async move {
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::default_document()).await?;
        let (first, second) = (stage.address(0)?, stage.address(1)?);
        // Its applier waits for this lock, which is not that of a backup: no takeover begins beside one.
        let mut lock = stage.topology.server(1)?.session().await?;
        lock.run(&format!("LOCK TABLES {DATABASE}.written READ")).await?;
        let answer = asking(&stage, "graceful-master-takeover-auto", &first, Some(&second)).await?;
        until(DEADLINE, "the old primary to be read-only", async || {
            ensure!(!answer.is_finished(), "it was answered before the target died");
            Ok(stage.topology.server(0)?.is_read_only().await?.then_some(()))
        })
        .await?;
        let killed = stage.topology.server_mut(1)?.kill()?;
        let answer = answer.await??;
        lock.close().await;
        ensure!(answer.0 == 409, "{answer:?}");
        ensure!(
            text(&answer.1, "/Message").contains("no successor promoted"),
            "{answer:?}"
        );
        let outage = writable_again(&stage, 0, killed).await?;
        ensure!(outage <= OUTAGE, "nobody could write for {outage:?}");
        stage.writers.progress(100, DEADLINE).await?;
        let (_, _, rows) = stage.judge(Duration::ZERO).await?;
        ensure!(rows.iter().all(|row| row.server == 0), "another server took a row");
        Ok(())
    })
    .await
}

/// A takeover in which the leader ends itself at a point; the stage afterwards, and when that was.
async fn leader_dies_at(run: &Arc<Run>, point: &str) -> Result<(Stage, Instant)> {
    let topology = Topology::start(run, &Shape::star(Flavour::MySql, 2)).await?;
    let mut members = Members::prepare(run, &topology, &Intent::default_document(), None)?;
    members
        .member_mut(FIRST)?
        .set_environment("HAM4DB_FAILPOINT", Some(&format!("{point}=abort")));
    members.launch_all().await?;
    members.knows(&topology).await?;
    members.make_leader(FIRST).await?;
    members.knows(&topology).await?;
    let mut stage = Stage::begin(topology, members).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    let asked = asked(&stage, "graceful-master-takeover-auto", &first, Some(&second)).await;
    ensure!(asked.is_err(), "the leader answered: {asked:?}");
    stage.members.member_mut(FIRST)?.ends(DEADLINE).await?;
    Ok((stage, Instant::now()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_with_the_primary_read_only_is_undone_by_the_next_one() -> Result<()> {
    scenario("takeover-undone", |run| async move {
        let (stage, died) = leader_dies_at(&run, "after-demote").await?;
        let outage = writable_again(&stage, 0, died).await?;
        ensure!(outage <= OUTAGE, "nobody could write for {outage:?}");
        until(DEADLINE, "the takeover to be recorded as undone", async || {
            let recoveries = stage.members.recoveries().await?;
            let over = recoveries.iter().all(|recovery| {
                recovery.get("IsActive").and_then(Value::as_bool) == Some(false)
                    && recovery.get("IsSuccessful").and_then(Value::as_bool) == Some(false)
            });
            Ok((recoveries.len() == 1 && over).then_some(()))
        })
        .await?;
        stage.writers.progress(100, DEADLINE).await?;
        let (_, _, rows) = stage.judge(Duration::ZERO).await?;
        ensure!(rows.iter().all(|row| row.server == 0), "another server took a row");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_dies_after_it_recorded_the_new_primary_is_finished_for() -> Result<()> {
    scenario("takeover-finished", |run| async move {
        let (stage, died) = leader_dies_at(&run, "after-open-entry").await?;
        let outage = writable_again(&stage, 1, died).await?;
        ensure!(outage <= OUTAGE, "nobody could write for {outage:?}");
        settled(&stage, 1).await?;
        stage
            .members
            .one_recovery(DEADLINE, &stage.address(0)?, &stage.address(1)?)
            .await?;
        stage.writers.progress(100, DEADLINE).await?;
        let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
        topology.caught_up(1, DEADLINE).await?;
        let lost = missing(&rows, topology.server(1)?).await?;
        ensure!(lost.is_empty(), "{} of {} rows are lost", lost.len(), rows.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_mysql_primary_that_starts_again_writable_is_made_read_only() -> Result<()> {
    scenario("takeover-restart-mysql", |run| starts_writable(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_mariadb_primary_that_starts_again_writable_is_made_read_only() -> Result<()> {
    scenario("takeover-restart-mariadb", |run| starts_writable(run, Flavour::MariaDb)).await
}

/// It handed over and is a replica; its configuration has not heard of that.
async fn starts_writable(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::default_document()).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    taken_over(&stage, "graceful-master-takeover-auto", &first, &second).await?;
    settled(&stage, 1).await?;
    ensure!(
        stage.topology.server(0)?.is_read_only().await?,
        "it was not made read-only"
    );
    old_enough(&stage, 0).await?;
    stage.topology.server_mut(0)?.kill()?;
    stage.topology.server_mut(0)?.start_again().await?;
    until(DEADLINE, "the restarted replica to be read-only", async || {
        Ok(stage.topology.server(0)?.is_read_only().await?.then_some(()))
    })
    .await?;
    until(DEADLINE, "the record of it", async || {
        let recoveries = stage.members.recoveries().await?;
        let is_it = |recovery: &Value| {
            text(recovery, "/Type") == "BootReadOnly"
                && key(recovery, "/AnalysisEntry/AnalyzedInstanceKey") == first.to_string()
                && recovery.get("IsSuccessful") == Some(&Value::Bool(true))
        };
        ensure!(recoveries.iter().any(is_it), "{}", Value::from(recoveries));
        Ok(Some(()))
    })
    .await?;
    ensure!(
        !stage.topology.server(1)?.is_read_only().await?,
        "the primary was touched"
    );
    Ok(())
}
