//! Primaries that answer and commit nothing: behind a lock of a person's, and on a full disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::kit::http::{key, text};
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::sql::Address;
use crate::kit::tiny_disk::TinyDisk;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};

/// A server that waits for space on a disk looks again once a minute.
const SPACE_SEEN: Duration = Duration::from_mins(3);
/// Enough for the accounts and some thousand rows.
const DISK_MEGABYTES: u32 = 24;

/// Waits until the only finding about the primary is that it is stalled, and says so in these words.
async fn is_stalled(members: &Members, primary: &Address, words: &str) -> Result<()> {
    until(DEADLINE, &format!("StalledPrimary: {words}"), async || {
        let leader = members.member(members.leader().await?)?;
        let details = leader.api().details("replication-analysis").await?;
        let about = |finding: &&Value| {
            key(finding, "/AnalyzedInstanceKey") == primary.to_string()
                && text(finding, "/Analysis") == "StalledPrimary"
        };
        let told = details.as_array().into_iter().flatten().find(about);
        let told = told.map(|finding| text(finding, "/Description").to_owned());
        ensure!(
            told.as_ref().is_some_and(|told| told.contains(words)),
            "told is {told:?}"
        );
        Ok(Some(()))
    })
    .await
}

async fn is_well(members: &Members, primary: &Address, limit: Duration) -> Result<()> {
    until(limit, "the finding to go away", async || {
        let found = members.findings(primary).await?;
        ensure!(found.is_empty(), "found is {found:?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_primary_behind_a_lock_on_all_writes_is_stalled_and_left_alone() -> Result<()> {
    scenario("commits-lock-mysql", |run| locked(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_primary_behind_a_lock_on_all_writes_is_stalled_and_left_alone() -> Result<()> {
    scenario("commits-lock-mariadb", |run| locked(run, Flavour::MariaDb)).await
}

async fn locked(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let intent = Intent::Configuration(
        json!({ "StalledCommitSeconds": 3, "StalledPrimary": "Failover", "StalledPrimarySeconds": 3 }),
    );
    let stage = Stage::set(&run, &Shape::asynchronous(flavour, 2), &intent).await?;
    let primary = stage.address(0)?;
    let mut person = stage.topology.server(0)?.session().await?;
    person.run("FLUSH TABLES WITH READ LOCK").await?;
    is_stalled(
        &stage.members,
        &primary,
        "an operator or a backup holds a lock on all writes",
    )
    .await?;
    // Whatever the policy says of stalled primaries: this one answers, and commits when the lock is given back.
    stage.nothing_is_done(Duration::from_secs(6)).await?;
    person.run("UNLOCK TABLES").await?;
    is_well(&stage.members, &primary, DEADLINE).await?;
    stage.writers.progress(100, DEADLINE).await?;
    stage.judge(Duration::ZERO).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_primary_whose_disk_is_full_is_stalled_until_there_is_space() -> Result<()> {
    scenario("commits-disk-mysql", |run| async move {
        let disk = TinyDisk::mount(&run.subfolder("tiny")?, DISK_MEGABYTES)?;
        let shape = Shape {
            first: vec![format!("--log-bin={}", disk.folder().join("binlog").display())],
            ..Shape::asynchronous(Flavour::MySql, 2)
        };
        let intent = Intent::Configuration(json!({ "StalledCommitSeconds": 3 }));
        let stage = Stage::set(&run, &shape, &intent).await?;
        let primary = stage.address(0)?;
        disk.fill()?;
        // The probes do not get through: they wait behind the commits for the end of the binary log.
        is_stalled(&stage.members, &primary, "its storage is full").await?;
        stage.nothing_is_done(Duration::from_secs(5)).await?;
        disk.free()?;
        is_well(&stage.members, &primary, SPACE_SEEN).await?;
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_primary_whose_disk_is_full_is_found_by_the_canary_though_nobody_writes() -> Result<()> {
    scenario("commits-disk-mariadb", |run| async move {
        let disk = TinyDisk::mount(&run.subfolder("tiny")?, DISK_MEGABYTES)?;
        let shape = Shape {
            first: vec![format!("--log-bin={}", disk.folder().join("binlog").display())],
            ..Shape::asynchronous(Flavour::MariaDb, 1)
        };
        let topology = Topology::start(&run, &shape).await?;
        let server = topology.server(0)?;
        server
            .run(&format!(
                "CREATE TABLE ham4db_test.canary (cluster VARCHAR(64) PRIMARY KEY, written_at BIGINT NOT NULL); \
                 GRANT SELECT, INSERT, UPDATE ON ham4db_test.canary TO '{}'@'%'",
                topology.accounts.topology.user
            ))
            .await?;
        let intent = Intent::Configuration(json!({ "StalledCommitSeconds": 5, "StallCanary": "ham4db_test.canary" }));
        let members = Members::start(&run, &topology, &intent, None).await?;
        let primary = server.address().clone();
        let written = async || server.value("SELECT MAX(written_at) FROM ham4db_test.canary").await;
        let first = until(DEADLINE, "a canary row", async || {
            let at = written().await?;
            Ok((!at.is_empty()).then_some(at))
        })
        .await?;
        until(DEADLINE, "a later canary row", async || {
            Ok((written().await? > first).then_some(()))
        })
        .await?;
        disk.fill()?;
        until(
            DEADLINE,
            "StalledPrimary by the canary or what it waits for",
            async || {
                let found = members.findings(&primary).await?;
                ensure!(found == ["StalledPrimary"], "found is {found:?}");
                Ok(Some(()))
            },
        )
        .await?;
        disk.free()?;
        is_well(&members, &primary, SPACE_SEEN).await?;
        let recoveries = members.recoveries().await?;
        ensure!(recoveries.is_empty(), "{}", Value::from(recoveries));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_policy_a_mariadb_primary_whose_disk_is_full_is_fenced_and_replaced() -> Result<()> {
    scenario("commits-replaced-mariadb", |run| async move {
        let disk = TinyDisk::mount(&run.subfolder("tiny")?, DISK_MEGABYTES)?;
        let shape = Shape {
            first: vec![format!("--log-bin={}", disk.folder().join("binlog").display())],
            ..Shape::asynchronous(Flavour::MariaDb, 2)
        };
        let intent = Intent::Configuration(
            json!({ "StalledCommitSeconds": 3, "StalledPrimary": "Failover", "StalledPrimarySeconds": 8 }),
        );
        let stage = Stage::set(&run, &shape, &intent).await?;
        let filled = Instant::now();
        disk.fill()?;
        let measured = stage.await_failover(filled, DEADLINE).await?;
        let recovery = stage
            .members
            .one_recovery(DEADLINE, &measured.from, &measured.to)
            .await?;
        ensure!(
            text(&recovery, "/Fencing").starts_with("the old primary confirmed that it is read-only"),
            "{recovery}"
        );
        disk.free()?;
        stage.writers.progress(100, DEADLINE).await?;
        stage.judge(Duration::ZERO).await.map(drop)
    })
    .await
}
