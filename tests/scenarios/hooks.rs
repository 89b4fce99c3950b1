//! The user's commands around a failover: called in order and told everything, and heeded when they say no.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::text;
use crate::kit::members::Intent;
use crate::kit::replication::Flavour;
use crate::kit::schedule::scenario;
use crate::kit::topology::Shape;
use crate::kit::wait::until;
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// An alias that would do harm if a shell read it.
const ALIAS: &str = "it's $(touch injected); touch \"injected\"";

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .map(ToOwned::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_are_called_in_order_and_told_what_happened() -> Result<()> {
    scenario("hooks", |run| async move {
        let folder = run.subfolder("told")?;
        let (calls, told, documents) = (folder.join("calls"), folder.join("told"), folder.join("documents"));
        let call = |list: &str| {
            format!(
                "cd '{}' && echo {list} '{{failureType}}' {{failedHost}}:{{failedPort}} [{{successorHost}}:{{successorPort}}] \
                 {{isSuccessful}} \"$HAM4DB_ATTEMPT\" >> calls && echo '{{failureClusterAlias}}' {{failureClusterAlias}} \
                 \"{{failureClusterAlias}}\" \"$ORC_FAILURE_CLUSTER_ALIAS\" >> told && cat >> documents && echo >> documents",
                folder.display()
            )
        };
        let mut keys = json!({ "ClusterNameToAlias": { ".": ALIAS } });
        for list in ["OnFailureDetection", "PreFailover", "PostMasterFailover", "PostFailover", "PostUnsuccessfulFailover"] {
            keys[format!("{list}Processes")] = json!([call(list)]);
        }
        {
            // It runs at the same time as the next list, so it does not write to the file of documents.
            let command = call("OnFailureDetection");
            let (without, _) = command.split_once(" && cat").context("a command that stores its document")?;
            keys["OnFailureDetectionProcesses"] = json!([without]);
        }
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::Configuration(keys)).await?;
        let measured = stage.fail_over(DEADLINE).await?;
        let recovery = stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        until(DEADLINE, "all lists to have been run", async || {
            let calls = lines(&calls);
            ensure!(calls.len() >= 4, "so far {calls:?}");
            Ok(Some(()))
        })
        .await?;
        let (from, to) = (&measured.from, &measured.to);
        // The list of the detection runs beside the others.
        let at_detection = format!("OnFailureDetection DeadMaster {from} [:] false 1");
        let mut called = lines(&calls);
        ensure!(
            called.iter().filter(|line| **line == at_detection).count() == 1,
            "called: {called:?}"
        );
        called.retain(|line| *line != at_detection);
        ensure!(
            called
                == [
                    format!("PreFailover DeadMaster {from} [:] false 1"),
                    format!("PostMasterFailover DeadMaster {from} [{to}] true 1"),
                    format!("PostFailover DeadMaster {from} [{to}] true 1"),
                ],
            "called: {called:?}"
        );
        // However it is quoted, the alias is a text and no command.
        let same = [ALIAS; 4].join(" ");
        ensure!(
            lines(&told).iter().all(|line| *line == same),
            "told: {:?}",
            lines(&told)
        );
        ensure!(!folder.join("injected").exists(), "the alias was run");
        let last: Value = until(DEADLINE, "the last document", async || {
            let documents = lines(&documents);
            Ok(documents.get(2).and_then(|line| serde_json::from_str(line).ok()))
        })
        .await?;
        let uid = text(&recovery, "/UID");
        ensure!(
            text(&last, "/recovery/uid") == uid && text(&last, "/successor") == to.to_string(),
            "the last document is {last}"
        );
        // The lines of those that ran after the end come into the record too.
        until(DEADLINE, "all hooks in the record", async || {
            let leader = stage.members.member(stage.members.leader().await?)?;
            let steps = leader.api().json(&format!("audit-recovery-steps/{uid}")).await?;
            let told = |list: &str| {
                let begins = format!("{list}Processes 1 of 1: done in ");
                steps
                    .as_array()
                    .is_some_and(|steps| steps.iter().any(|step| text(step, "/Message").starts_with(&begins)))
            };
            ensure!(
                ["OnFailureDetection", "PreFailover", "PostMasterFailover", "PostFailover"].into_iter().all(told),
                "{steps}"
            );
            Ok(Some(()))
        })
        .await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hook_that_says_no_leaves_everything_untouched_until_it_says_yes() -> Result<()> {
    scenario("hook-veto", |run| async move {
        let flavour = Flavour::MySql;
        let folder = run.subfolder("told")?;
        let keys = json!({
            "RecoveryPeriodBlockSeconds": 3,
            "PreFailoverProcesses": [format!("test -e '{}/yes' || {{ echo not today; exit 9; }}", folder.display())],
        });
        let mut stage = Stage::set(&run, &Shape::star(flavour, 2), &Intent::Configuration(keys)).await?;
        let killed = stage.topology.server_mut(0)?.kill()?;
        // Asked twice, and both times nothing is done.
        until(DEADLINE, "two vetoed recoveries", async || {
            let recoveries = stage.members.recoveries().await?;
            let errors: Vec<&str> = recoveries
                .iter()
                .map(|recovery| text(recovery, "/AllErrors/0"))
                .collect();
            ensure!(
                errors
                    .iter()
                    .filter(|error| **error == "PreFailoverProcesses 1 of 1: exited with 9: not today")
                    .count()
                    >= 2,
                "the errors are {errors:?}"
            );
            Ok(Some(()))
        })
        .await?;
        for index in [1, 2] {
            let server = stage.topology.server(index)?;
            let mut session = server.session().await?;
            let status = flavour
                .replica_status(&mut session)
                .await?
                .with_context(|| format!("{} is no replica any more", server.name()))?;
            ensure!(
                status.source == stage.address(0)?.to_string()
                    && status.io_thread != "No"
                    && status.sql_thread == "Yes",
                "{}: {status:?}",
                server.name()
            );
            ensure!(server.is_read_only().await?, "{} is writable", server.name());
        }
        fs::write(folder.join("yes"), "")?;
        let measured = stage.await_failover(killed, DEADLINE).await?;
        let successful = |recoveries: &[Value]| {
            recoveries
                .iter()
                .filter(|recovery| recovery.get("IsSuccessful").and_then(Value::as_bool) == Some(true))
                .count()
        };
        until(DEADLINE, "one successful recovery", async || {
            let recoveries = stage.members.recoveries().await?;
            ensure!(successful(&recoveries) == 1, "{}", Value::from(recoveries));
            Ok(Some(()))
        })
        .await?;
        let (topology, verdict, rows) = stage.judge(Duration::ZERO).await?;
        topology.caught_up(measured.successor, DEADLINE).await?;
        let lost = crate::kit::writers::missing(&rows, topology.server(measured.successor)?).await?;
        ensure!(lost.is_empty(), "{} acknowledged rows are lost", lost.len());
        let (accepted, _) = verdict.accepted(measured.successor, measured.killed);
        ensure!(accepted > 0, "the sampler never wrote on the new primary");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detection_hook_that_never_ends_does_not_delay_the_failover() -> Result<()> {
    scenario("hook-endless", |run| async move {
        let folder = run.subfolder("told")?;
        let keys = json!({
            "OnFailureDetectionProcesses": ["sleep 3600"],
            "OnFailureDetectionProcessesTimeoutSeconds": 5,
            "PostFailoverProcesses": [format!("touch '{}/after'", folder.display())],
        });
        let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::Configuration(keys)).await?;
        let measured = stage.fail_over(FAILOVER).await?;
        // The list after the recovery does not wait for it either, and its own deadline ends it.
        let recovery = stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        let uid = text(&recovery, "/UID");
        let ended = "OnFailureDetectionProcesses 1 of 1: ended, not done within the 5 s of the list";
        until(DEADLINE, "the end of the detection hook in the record", async || {
            let leader = stage.members.member(stage.members.leader().await?)?;
            let steps = leader.api().json(&format!("audit-recovery-steps/{uid}")).await?;
            let at = |message: &str| {
                steps.as_array().and_then(|steps| {
                    steps
                        .iter()
                        .position(|step| text(step, "/Message").starts_with(message))
                })
            };
            let Some(end) = at(ended) else { return Ok(None) };
            ensure!(
                at("PostFailoverProcesses 1 of 1: done in ").is_some_and(|after| after < end),
                "the list after the recovery waited: {steps}"
            );
            Ok(Some(()))
        })
        .await?;
        ensure!(folder.join("after").exists(), "the list after the recovery did not run");
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}
