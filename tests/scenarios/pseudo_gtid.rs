//! Failovers of topologies without GTIDs whose relay logs tell nothing: by Pseudo-GTID.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::by_position::{REST, has_all, switch_off_gtids};
use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::{scenario, scenario_alone};
use crate::kit::server::Server;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};

/// How long a move may take: MySQL stops an applier that has half a transaction only after a minute (error log MY-010584).
pub(crate) const MOVE: Duration = Duration::from_secs(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_gtids_and_relay_logs_the_replica_that_is_behind_goes_on_by_pseudo_gtid_where_it_was() -> Result<()> {
    scenario("pseudo-gtid", one_behind).await
}

/// The first replica stops receiving after an entry came through, rows are written on, and the others throw away the relay logs that
/// would tell its place. The primary dies: the first replica is found in the successor's binary log by the entry and what follows it.
async fn one_behind(run: Arc<Run>) -> Result<()> {
    let mut stage = with_entries(&run).await?;
    let behind = stage.topology.server(1)?;
    behind.run(&Flavour::MySql.thread("STOP", "IO_THREAD")).await?;
    stage.writers.progress(200, DEADLINE).await?;
    for index in [2, 3] {
        let server = stage.topology.server(index)?;
        let before = relay_log(server, "SHOW REPLICA STATUS", "Relay_Log_File").await?;
        // A file is removed when the applying thread has gone on to the next one. Without LOCAL it would be a transaction of its own.
        until(DEADLINE, "the older relay logs to be removed", async || {
            server.run("FLUSH LOCAL RELAY LOGS").await?;
            stage.writers.progress(20, DEADLINE).await?;
            let first = relay_log(server, "SHOW RELAYLOG EVENTS LIMIT 1", "Log_name").await?;
            Ok((first > before + 1).then_some(()))
        })
        .await?;
    }
    let measured = stage.fail_over(DEADLINE).await?;
    ensure!(
        measured.successor != 1,
        "{}, which was behind, was promoted",
        measured.to
    );
    stage.writers.progress(50, DEADLINE).await?;
    let recovery = stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    let lost = recovery.get("LostReplicas").and_then(Value::as_array);
    ensure!(lost.is_none_or(Vec::is_empty), "replicas were left behind: {recovery}");
    let leader = stage.members.member(stage.members.leader().await?)?;
    let steps = leader
        .api()
        .json(&format!("audit-recovery-steps/{}", text(&recovery, "/UID")))
        .await?;
    ensure!(
        steps.to_string().contains("by Pseudo-GTID: 127.0.0.1"),
        "its place was not found by Pseudo-GTID: {steps}"
    );
    let written_on = stage.topology.server(measured.successor)?;
    let before = entries(written_on).await?;
    until(DEADLINE, "an entry of the new primary's", async || {
        Ok((entries(written_on).await? > before).then_some(()))
    })
    .await?;
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    has_all(&topology, &rows).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_without_gtids_are_put_below_each_other_and_up_again_while_rows_are_written() -> Result<()> {
    scenario_alone("pseudo-gtid-moves", moved_about).await
}

/// The first replica goes below the second, and up again; then the third goes below the first, and all of the first's replicas go up.
async fn moved_about(run: Arc<Run>) -> Result<()> {
    let stage = with_entries(&run).await?;
    let path = |index: usize| -> Result<String> {
        let address = stage.address(index)?;
        Ok(format!("{}/{}", address.host, address.port))
    };
    let api = stage.members.member(stage.members.leader().await?)?.api();
    let entry = api.json(&format!("last-pseudo-gtid/{}", path(2)?)).await?;
    ensure!(
        text(&entry, "/Details").starts_with("drop view if exists `_pseudo_gtid_`.`_asc:"),
        "no entry: {entry}"
    );
    let moves = [
        (format!("match-below/{}/{}", path(1)?, path(2)?), 1, 2),
        (format!("match-up/{}", path(1)?), 1, 0),
        (format!("match-below/{}/{}", path(3)?, path(1)?), 3, 1),
        (format!("match-up-replicas/{}", path(1)?), 3, 0),
    ];
    for (route, replica, source) in moves {
        let (code, told) = api.get_within(&route, MOVE).await?;
        ensure!(code == 200, "{route} answers {code}: {told}");
        let source = stage.address(source)?;
        stage.topology.server(replica)?.follows(&source, DEADLINE).await?;
        stage.writers.progress(50, DEADLINE).await?;
    }
    // A primary cannot be moved, and neither can a replica go below its own.
    for route in [
        format!("match-below/{}/{}", path(0)?, path(1)?),
        format!("match-up/{}", path(1)?),
    ] {
        let (code, told) = api.get_within(&route, DEADLINE).await?;
        ensure!(code == 409, "{route} answers {code}: {told}");
    }
    let (topology, _, rows) = stage.judge(Duration::ZERO).await?;
    has_all(&topology, &rows).await
}

/// A primary with three replicas, none with GTIDs, writers at work, and an entry in every replica's binary log.
pub(crate) async fn with_entries(run: &Arc<Run>) -> Result<Stage> {
    let topology = Topology::start(run, &Shape::star(Flavour::MySql, 3)).await?;
    let grant = format!(
        "GRANT DROP ON `_pseudo_gtid_`.* TO '{}'@'%'",
        topology.accounts.topology.user
    );
    topology.server(0)?.run(&grant).await?;
    switch_off_gtids(&topology).await?;
    let intent = Intent::Configuration(json!({"AutoPseudoGTID": true, "BinlogEventsChunkSize": 500,
        "RecoverIntermediateMasterClusterFilters": ["*"]}));
    let members = Members::start(run, &topology, &intent, None).await?;
    let stage = Stage::begin_paced(topology, members, REST).await?;
    for server in stage.topology.servers.iter().skip(1) {
        until(DEADLINE, "an entry in a replica's binary log", async || {
            Ok((entries(server).await? > 0).then_some(()))
        })
        .await?;
    }
    stage.writers.progress(50, DEADLINE).await?;
    Ok(stage)
}

/// The number of the relay log that an answer names.
async fn relay_log(server: &Server, question: &str, column: &str) -> Result<u32> {
    let mut session = server.session().await?;
    let rows = session.rows(question).await?;
    session.close().await;
    let file = rows.first().and_then(|row| row.get(column)).cloned().flatten();
    let file = file.with_context(|| format!("{question} names no relay log"))?;
    let (_, number) = file.rsplit_once('.').context("a relay log without a number")?;
    number.parse().with_context(|| format!("the number of {file}"))
}

/// The entries in a server's newest binary log.
async fn entries(server: &Server) -> Result<usize> {
    let mut session = server.session().await?;
    let files = session.rows("SHOW BINARY LOGS").await?;
    let newest = files.last().and_then(|row| row.get("Log_name")).cloned().flatten();
    let newest = newest.context("there is no binary log")?;
    let events = session.rows(&format!("SHOW BINLOG EVENTS IN '{newest}'")).await?;
    session.close().await;
    let is_entry = |info: &String| info.contains("_pseudo_gtid_") && info.starts_with("drop view");
    Ok(events
        .iter()
        .filter(|row| row.get("Info").cloned().flatten().as_ref().is_some_and(is_entry))
        .count())
}
