//! An asynchronous primary acknowledged what no replica received, and dies: what was seen of it counts, also when the members that saw
//! it were restarted, and `lossPolicy` decides. A primary that waits for a replica dies together with it: what is lost is unknown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::{key, text};
use crate::kit::members::Intent;
use crate::kit::netns::{Net, cut};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::{scenario, scenario_alone};
use crate::kit::sql::Address;
use crate::kit::topology::Shape;
use crate::kit::wait::{throughout, until};
use crate::kit::writers::missing;
use crate::returned::{READ_ONLY, actual_errant};
use crate::stage::{DEADLINE, Stage};

/// What `lossTimeout` is in the scenario that waits for it. Counted from the last answer of the primary.
const LOSS_TIMEOUT: Duration = Duration::from_secs(8);
/// For so long after the kill it is certainly not over.
const BEFORE_TIMEOUT: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_members_remember_what_the_dead_primary_had_and_refuse_to_lose_it() -> Result<()> {
    scenario("loss-refused", |run| async move {
        let (mut stage, replicated) = begin(&run, json!({"mode": "Auto", "lossPolicy": "Refuse"})).await?;
        kill_while_members_are_down(&mut stage).await?;
        let told = refusal(&stage, "lossPolicy is Refuse").await?;
        stage.nothing_is_done(Duration::from_secs(3)).await?;

        // The old primary is the only one that has it, and is let be.
        stage.topology.server_mut(0)?.start_again().await?;
        let set = set_of(&told)?;
        let server = stage.topology.server(0)?;
        ensure!(
            server
                .value(&format!("SELECT GTID_SUBSET('{set}', '{replicated}')"))
                .await?
                == "0"
                && server
                    .value(&format!("SELECT GTID_SUBSET('{set}', @@GLOBAL.gtid_executed)"))
                    .await?
                    == "1",
            "'{set}' is refused to be lost; the replicas have '{replicated}'"
        );
        stage.writers.progress(100, DEADLINE).await?;
        stage.nothing_is_done(Duration::from_secs(1)).await?;
        let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
        let lost = missing(&rows, topology.server(0)?).await?;
        ensure!(lost.is_empty(), "{} rows are lost, and nobody was promoted", lost.len());
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_members_report_what_they_remember_as_lost_when_that_is_allowed() -> Result<()> {
    scenario("loss-allowed", |run| async move {
        let (mut stage, replicated) = begin(&run, json!({"mode": "Auto", "lossPolicy": "Allow"})).await?;
        let killed = kill_while_members_are_down(&mut stage).await?;
        let measured = stage.await_failover(killed, DEADLINE).await?;
        let recovery = stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        let is_told = |status: &Value| !text(status, "/lastRecovery/lostGTIDSet").is_empty();
        let status = stage
            .members
            .status(DEADLINE, "a status that tells what was lost", is_told)
            .await?;
        let lost = text(&status, "/lastRecovery/lostGTIDSet");
        ensure!(
            text(&recovery, "/LostTransactions") == lost,
            "the record and the status differ: {recovery}"
        );
        let proof = text(&status, "/lastRecovery/fencing");
        ensure!(
            proof.starts_with("none") && text(&recovery, "/Fencing") == proof,
            "an asynchronous primary that does not answer was opened against with the proof '{proof}'"
        );
        stage.topology.server_mut(0)?.start_again().await?;
        until(DEADLINE, "the returned primary to be made read-only", async || {
            Ok(stage.topology.server(0)?.is_read_only().await?.then_some(()))
        })
        .await?;
        let really = actual_errant(&stage.topology, 0, measured.successor).await?;
        let server = stage.topology.server(0)?;
        ensure!(
            server
                .value(&format!("SELECT GTID_SUBSET('{lost}', '{really}')"))
                .await?
                == "1"
                && server
                    .value(&format!("SELECT GTID_SUBSET('{lost}', '{replicated}')"))
                    .await?
                    == "0",
            "'{lost}' is reported as lost, '{really}' is"
        );
        stage.judge(READ_ONLY).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_accepted_when_the_old_primary_had_its_time_to_come_back() -> Result<()> {
    scenario("loss-after-timeout", |run| async move {
        let timeout = format!("{}s", LOSS_TIMEOUT.as_secs());
        let recovery = json!({"mode": "Auto", "lossPolicy": "AllowAfterTimeout", "lossTimeout": timeout});
        let (mut stage, _) = begin(&run, recovery).await?;
        let killed = stage.topology.server_mut(0)?.kill()?;
        refusal(&stage, "lossTimeout").await?;
        stage
            .nothing_is_done(BEFORE_TIMEOUT.saturating_sub(killed.elapsed()))
            .await?;
        let measured = stage.await_failover(killed, DEADLINE).await?;
        let recovery = stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        ensure!(
            measured.writable_after >= BEFORE_TIMEOUT && !text(&recovery, "/LostTransactions").is_empty(),
            "{} after {:?}: {recovery}",
            measured.to,
            measured.writable_after
        );
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

/// From now on no replica receives, and the members have seen rows that no replica has. Returns what the replicas have, too.
async fn begin(run: &Arc<Run>, recovery: Value) -> Result<(Stage, String)> {
    let flavour = Flavour::MySql;
    let stage = Stage::set(run, &Shape::asynchronous(flavour, 2), &Intent::Manifests(recovery)).await?;
    for index in [1, 2] {
        stage
            .topology
            .server(index)?
            .run(&flavour.thread("STOP", "IO_THREAD"))
            .await?;
    }
    let written = stage.topology.server(0)?.executed().await?;
    stage.writers.progress(100, DEADLINE).await?;
    let Address { host, port } = stage.address(0)?;
    until(DEADLINE, "the leader to have seen what no replica has", async || {
        let leader = stage.members.member(stage.members.leader().await?)?;
        let shown = leader.api().json(&format!("instance/{host}/{port}")).await?;
        let seen = text(&shown, "/ExecutedGtidSet").replace(char::is_whitespace, "");
        ensure!(!seen.is_empty(), "the instance is shown without what it executed");
        let question = format!("SELECT GTID_SUBSET('{seen}', '{written}')");
        Ok((stage.topology.server(1)?.value(&question).await? == "0").then_some(()))
    })
    .await?;
    let first = stage.topology.server(1)?.executed().await?;
    let second = stage.topology.server(2)?.executed().await?;
    Ok((stage, format!("{first},{second}")))
}

/// All members end in order; the primary is killed while none runs; and new processes begin, which never saw it.
async fn kill_while_members_are_down(stage: &mut Stage) -> Result<Instant> {
    for member in &mut stage.members.list {
        member.terminate(DEADLINE).await?;
    }
    let killed = stage.topology.server_mut(0)?.kill()?;
    stage.members.launch_all().await?;
    Ok(killed)
}

/// The rule that holds the failover back, as the analysis shows it.
async fn refusal(stage: &Stage, rule: &str) -> Result<String> {
    let failed = stage.address(0)?.to_string();
    until(DEADLINE, &format!("the rule {rule} to be shown"), async || {
        let leader = stage.members.member(stage.members.leader().await?)?;
        let details = leader.api().details("replication-analysis").await?;
        let findings = details.as_array().into_iter().flatten();
        let about = findings.filter(|finding| key(finding, "/AnalyzedInstanceKey") == failed);
        let told: Vec<&str> = about.map(|finding| text(finding, "/HeldBack")).collect();
        ensure!(told.iter().any(|why| why.contains(rule)), "shown is {told:?}");
        Ok(told.into_iter().find(|why| why.contains(rule)).map(ToOwned::to_owned))
    })
    .await
}

/// The GTID set at the end of a refusal.
fn set_of(told: &str) -> Result<&str> {
    let (_, set) = told.rsplit_once(": ").with_context(|| format!("no set in '{told}'"))?;
    ensure!(!set.is_empty() && !set.ends_with('…'), "no set in '{told}'");
    Ok(set)
}

/// How long the third server receives nothing before the other two die.
const CUT: Duration = Duration::from_millis(1200);

/// The primary promised that no confirmed row is lost, and dies together with the only replica that has the last ones. The third server
/// was opened at once, 183 of 587 acknowledged rows were not on it, and the record named no loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_only_a_dead_replica_acknowledged_hold_the_failover_back_until_it_is_forced() -> Result<()> {
    scenario_alone("loss-unknown-forced", |run| async move {
        let net = Net::create()?;
        let (stage, killed) = acknowledging_replica_dies(&run, json!({"mode": "Auto"}), &net).await?;
        let told = refusal(&stage, "would be lost").await?;
        ensure!(told.contains("promised"), "held back by: {told}");
        throughout(Duration::from_secs(5), async || {
            ensure!(
                stage.sampler.accepted_since(2, killed) == 0,
                "the third server was opened: {}",
                Value::from(stage.members.recoveries().await?)
            );
            Ok(())
        })
        .await?;
        let leader = stage.members.member(stage.members.leader().await?)?;
        let blocked = leader.api().json("blocked-recoveries").await?;
        ensure!(
            blocked.to_string().contains("would be lost")
                && blocked.pointer("/0/BlockingRecoveryId") == Some(&Value::from(0)),
            "blocked are {blocked}"
        );
        let explained = leader.api().json("explain").await?.to_string();
        ensure!(explained.contains("would be lost"), "explained: {explained}");

        let failed = stage.address(0)?;
        let path = format!("force-master-failover/{}/{}", failed.host, failed.port);
        let (code, body) = leader.api().get_within(&path, DEADLINE).await?;
        ensure!(code == 200, "{path}: {code} {body}");
        opened_with_unknown_loss(&stage).await?;
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_loss_is_accepted_after_the_timeout_and_recorded_as_unknown() -> Result<()> {
    scenario_alone("loss-unknown-after-timeout", |run| async move {
        let net = Net::create()?;
        let timeout = format!("{}s", LOSS_TIMEOUT.as_secs());
        let recovery =
            json!({"mode": "Auto", "lossPolicy": "AllowAfterTimeout", "lossTimeout": timeout, "blockFor": "1s"});
        let (stage, killed) = acknowledging_replica_dies(&run, recovery, &net).await?;
        throughout(BEFORE_TIMEOUT.saturating_sub(killed.elapsed()), async || {
            ensure!(
                stage.sampler.accepted_since(2, killed) == 0,
                "the third server was opened before lossTimeout"
            );
            Ok(())
        })
        .await?;
        opened_with_unknown_loss(&stage).await?;
        ensure!(killed.elapsed() >= BEFORE_TIMEOUT, "after {:?}", killed.elapsed());
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

/// Semi-sync for one replica. The third server is cut from the primary, the second acknowledges alone, and both die.
async fn acknowledging_replica_dies(run: &Arc<Run>, recovery: Value, net: &Net) -> Result<(Stage, Instant)> {
    let mut stage = Stage::set_in(run, &Shape::star(Flavour::MySql, 2), &Intent::Manifests(recovery), net).await?;
    cut(stage.topology.server(0)?.host()?, stage.topology.server(2)?.host()?)?;
    let begun = Instant::now();
    let before = stage.writers.count();
    until(DEADLINE, "rows that only one replica acknowledges", async || {
        Ok((begun.elapsed() >= CUT && stage.writers.count() > before).then_some(()))
    })
    .await?;
    // The replica first: a member that sees the primary die while that replica still answers begins a failover to it.
    stage.topology.server_mut(1)?.kill()?;
    let killed = stage.topology.server_mut(0)?.kill()?;
    // The end of the connection did not get through the cut either: the receiver would notice it after replica_net_timeout.
    for verb in ["STOP", "START"] {
        let receiver = Flavour::MySql.thread(verb, "IO_THREAD");
        stage.topology.server(2)?.run(&receiver).await?;
    }
    Ok((stage, killed))
}

/// The third server is the primary, and neither record nor status says that nothing is lost.
async fn opened_with_unknown_loss(stage: &Stage) -> Result<()> {
    let successor = stage.address(2)?.to_string();
    let recovery = until(DEADLINE, "the third server to be opened", async || {
        let recoveries = stage.members.recoveries().await?;
        Ok(recoveries.into_iter().find(|recovery| {
            key(recovery, "/SuccessorKey") == successor && recovery.get("IsActive") == Some(&Value::Bool(false))
        }))
    })
    .await?;
    let loss = text(&recovery, "/Loss");
    ensure!(
        loss.starts_with("unknown, at least"),
        "the loss is '{loss}': {recovery}"
    );
    let is_told = |status: &Value| text(status, "/lastRecovery/loss").starts_with("unknown, at least");
    stage
        .members
        .status(DEADLINE, "a status that tells that the loss is unknown", is_told)
        .await?;
    Ok(())
}
