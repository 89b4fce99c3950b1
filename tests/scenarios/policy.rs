//! What people decided beforehand: downtime, and how much may be lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::schedule::{scenario, scenario_alone};
use crate::kit::sql::Address;
use crate::kit::topology::Shape;
use crate::kit::wait::until;
use crate::kit::writers::missing;
use crate::returned::{READ_ONLY, actual_errant, reported_errant, transactions};
use crate::stage::{DEADLINE, FAILOVER, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_downtimed_primary_is_not_failed_over_until_the_downtime_ends() -> Result<()> {
    scenario_alone("downtime", |run| async move {
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::default_document()).await?;
        let Address { host, port } = stage.address(0)?;
        let leader = stage.members.member(stage.members.leader().await?)?.api().clone();
        leader
            .details(&format!("begin-downtime/{host}/{port}/tester/maintenance/1h"))
            .await?;
        let killed = stage.topology.server_mut(0)?.kill()?;
        until(DEADLINE, "the dead primary to be shown", async || {
            let findings = stage.members.findings(&stage.address(0)?).await?;
            Ok(findings.iter().any(|code| code.starts_with("DeadMaster")).then_some(()))
        })
        .await?;
        stage.nothing_is_done(Duration::from_secs(5)).await?;
        let ended = Instant::now();
        leader.details(&format!("end-downtime/{host}/{port}")).await?;
        let measured = stage.await_failover(killed, DEADLINE).await?;
        let took = (killed + measured.writable_after).saturating_duration_since(ended);
        ensure!(took <= FAILOVER, "writable {took:?} after the downtime ended");
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_asynchronous_primary_takes_into_its_grave_is_reported_exactly() -> Result<()> {
    scenario("asynchronous-loss", |run| async move {
        let flavour = Flavour::MySql;
        let mut stage = Stage::set(&run, &Shape::asynchronous(flavour, 2), &Intent::default_document()).await?;
        for index in [1, 2] {
            stage
                .topology
                .server(index)?
                .run(&flavour.thread("STOP", "IO_THREAD"))
                .await?;
        }
        // From now on no replica has the rows. The members have seen some of them, and others they will not have seen.
        let replicated = stage.topology.server(1)?.executed().await?;
        let Address { host, port } = stage.address(0)?;
        until(
            DEADLINE,
            "the members to have seen rows that no replica has",
            async || {
                let leader = stage.members.member(stage.members.leader().await?)?;
                let shown = leader.api().json(&format!("instance/{host}/{port}")).await?;
                let seen = text(&shown, "/ExecutedGtidSet").replace(char::is_whitespace, "");
                ensure!(!seen.is_empty(), "the instance is shown without what it executed");
                let question = format!("SELECT GTID_SUBSET('{seen}', '{replicated}')");
                Ok((stage.topology.server(1)?.value(&question).await? == "0").then_some(()))
            },
        )
        .await?;
        stage.writers.progress(200, DEADLINE).await?;
        let measured = stage.fail_over(DEADLINE).await?;
        stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;

        // Nobody can know how many before it is back: what was committed between the last look and the kill, only it can tell.
        stage.topology.server_mut(0)?.start_again().await?;
        let old = stage.address(0)?;
        until(DEADLINE, "the loss to be reported exactly", async || {
            ensure!(
                stage.topology.server(0)?.is_read_only().await?,
                "the returned primary is writable"
            );
            let (reported, actual) = (
                reported_errant(&stage.members, &old).await?,
                actual_errant(&stage.topology, 0, measured.successor).await?,
            );
            ensure!(
                !actual.is_empty() && reported == actual,
                "reported are '{reported}', there are '{actual}'"
            );
            Ok(Some(()))
        })
        .await?;
        let lost_set = recorded_loss(&stage.members).await?;
        let errant = actual_errant(&stage.topology, 0, measured.successor).await?;
        let (topology, verdict, rows) = stage.judge(READ_ONLY).await?;
        let lost = missing(&rows, topology.server(measured.successor)?).await?;
        ensure!(
            lost.len() >= 200,
            "only {} rows are lost: the scenario was none",
            lost.len()
        );
        ensure!(
            lost.iter().all(|row| row.server == 0),
            "a row that the new primary acknowledged is lost"
        );
        // Every lost row is one transaction of the reported set; the rest of the set are the sampler's rows, before and after.
        ensure!(
            u64::try_from(lost.len())? <= transactions(&errant),
            "{} rows are lost, reported are '{errant}'",
            lost.len()
        );
        ensure!(
            verdict.accepted(0, measured.killed).1 <= READ_ONLY,
            "the returned primary took writes for too long"
        );
        let outside = topology
            .server(0)?
            .value(&format!("SELECT GTID_SUBTRACT('{lost_set}', '{errant}')"))
            .await?;
        ensure!(
            outside.is_empty(),
            "the recovery recorded '{lost_set}' as lost; '{outside}' of it is not"
        );
        Ok(())
    })
    .await
}

/// `status.lastRecovery.lostGTIDSet` of the document.
async fn recorded_loss(members: &Members) -> Result<String> {
    let is_told = |status: &Value| !text(status, "/lastRecovery/lostGTIDSet").is_empty();
    let status = members
        .status(DEADLINE, "a status that tells what was lost", is_told)
        .await?;
    Ok(text(&status, "/lastRecovery/lostGTIDSet").replace(char::is_whitespace, ""))
}
