//! Events of the event scheduler follow the role of the primary.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::{DATABASE, Flavour};
use crate::kit::run::Run;
use crate::kit::schedule::scenario;
use crate::kit::server::Server;
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::stage::{DEADLINE, Stage};
use crate::takeover::{settled, taken_over};

/// Servers of which the first runs an event each second, has a second one enabled and a third one disabled; members that know that.
async fn set(run: &Arc<Run>, flavour: Flavour) -> Result<Stage> {
    let topology = Topology::start(run, &Shape::asynchronous(flavour, 2)).await?;
    let user = &topology.accounts.topology.user;
    let privileges = match flavour {
        Flavour::MySql => "EVENT, SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER",
        Flavour::MariaDb => "EVENT",
    };
    for index in 0..topology.servers.len() {
        topology.server(index)?.run("SET GLOBAL event_scheduler = ON").await?;
    }
    topology
        .server(0)?
        .run(&format!(
            "GRANT {privileges} ON *.* TO '{user}'@'%'; SET SESSION binlog_format = ROW; \
             CREATE TABLE {DATABASE}.ticks (id INT AUTO_INCREMENT PRIMARY KEY, server INT); \
             CREATE EVENT {DATABASE}.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO {DATABASE}.ticks (server) VALUES (@@server_id); \
             SET SESSION character_set_client = latin1; \
             CREATE EVENT {DATABASE}.`odd ``name` ON SCHEDULE EVERY 1 DAY DO SELECT 1; \
             CREATE EVENT {DATABASE}.idle ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1"
        ))
        .await?;
    topology.caught_up(0, DEADLINE).await?;
    let members = Members::start(run, &topology, &Intent::default_document(), None).await?;
    let stage = Stage::begin(topology, members).await?;
    until(DEADLINE, "the members to know the events", async || {
        let leader = stage.members.member(stage.members.leader().await?)?;
        let told = leader.api().json("explain").await?.to_string();
        Ok(told.contains("2 events that are enabled on").then_some(()))
    })
    .await?;
    Ok(stage)
}

/// Settings, and with them the events, are read again when a server has become writable.
const NEXT_LOOK: Duration = Duration::from_secs(30);

/// Status, definer and character set of an event on a server.
async fn event(server: &Server, name: &str) -> Result<String> {
    server
        .value(&format!(
            "SELECT CONCAT_WS(' ', STATUS, DEFINER, CHARACTER_SET_CLIENT) FROM information_schema.EVENTS \
             WHERE EVENT_SCHEMA = '{DATABASE}' AND EVENT_NAME = '{}'",
            name.replace('\'', "''")
        ))
        .await
}

/// How often the event has run on a server, as that server knows.
async fn ticks(stage: &Stage, seen_on: usize, of: usize) -> Result<u64> {
    let id = stage.topology.server(of)?.value("SELECT @@server_id").await?;
    let statement = format!("SELECT COUNT(*) FROM {DATABASE}.ticks WHERE server = {id}");
    Ok(stage.topology.server(seen_on)?.value(&statement).await?.parse()?)
}

/// The events of a primary, and those of its replicas.
async fn follow(stage: &Stage, primary: usize) -> Result<()> {
    until(DEADLINE, "the event to run on the new primary", async || {
        Ok((ticks(stage, primary, primary).await? > 1).then_some(()))
    })
    .await?;
    let new = stage.topology.server(primary)?;
    let (tick, odd, idle) = (
        event(new, "tick").await?,
        event(new, "odd `name").await?,
        event(new, "idle").await?,
    );
    ensure!(tick.starts_with("ENABLED root@localhost"), "tick is {tick}");
    ensure!(odd == "ENABLED root@localhost latin1", "odd is {odd}");
    ensure!(!idle.starts_with("ENABLED"), "idle is {idle}");
    for index in (0..stage.topology.servers.len()).filter(|index| *index != primary) {
        let server = stage.topology.server(index)?;
        if !server.is_running() {
            continue;
        }
        until(DEADLINE, "the event to be disabled on a replica", async || {
            let tick = event(server, "tick").await?;
            ensure!(
                tick.contains("SIDE_DISABLED root@localhost"),
                "tick is {tick} on server {index}"
            );
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

async fn after_failover(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut stage = set(&run, flavour).await?;
    let measured = stage.fail_over(DEADLINE).await?;
    follow(&stage, measured.successor).await?;
    let recovery = stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;
    let uid = text(&recovery, "/UID");
    let leader = stage.members.member(stage.members.leader().await?)?;
    let steps = leader
        .api()
        .json(&format!("audit-recovery-steps/{uid}"))
        .await?
        .to_string();
    ensure!(steps.contains("2 events enabled on"), "{steps}");
    stage.judge(Duration::ZERO).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_dead_mysql_primary_run_on_its_successor() -> Result<()> {
    scenario("events-failover-mysql", |run| after_failover(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_dead_mariadb_primary_run_on_its_successor() -> Result<()> {
    scenario("events-failover-mariadb", |run| after_failover(run, Flavour::MariaDb)).await
}

/// On `MariaDB` the event of an account with SUPER would write on the demoted server, and the takeover would fail.
async fn there_and_back(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let stage = set(&run, flavour).await?;
    let (first, second) = (stage.address(0)?, stage.address(1)?);
    for (from, to, of) in [(&first, &second, 1), (&second, &first, 0)] {
        // The second takeover knows the events from a look at the new primary after its promotion.
        known(&stage, from).await?;
        taken_over(&stage, "graceful-master-takeover-auto", from, to).await?;
        settled(&stage, of).await?;
        let before = ticks(&stage, of, 1 - of).await?;
        follow(&stage, of).await?;
        ensure!(
            ticks(&stage, 1 - of, 1 - of).await? == before,
            "the event ran on a demoted server"
        );
        stage.writers.progress(50, DEADLINE).await?;
    }
    stage.judge(Duration::ZERO).await.map(drop)
}

async fn known(stage: &Stage, primary: &Address) -> Result<()> {
    until(NEXT_LOOK, "the events to be known", async || {
        let leader = stage.members.member(stage.members.leader().await?)?;
        let told: Value = leader.api().json("explain").await?;
        let wanted = format!("2 events that are enabled on {primary}");
        Ok(told.to_string().contains(&wanted).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_mysql_primary_follow_a_takeover_there_and_back() -> Result<()> {
    scenario("events-takeover-mysql", |run| there_and_back(run, Flavour::MySql)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_a_mariadb_primary_follow_a_takeover_there_and_back() -> Result<()> {
    scenario("events-takeover-mariadb", |run| there_and_back(run, Flavour::MariaDb)).await
}
