//! The failed primary comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kit::http::text;
use crate::kit::members::{Intent, Members};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::sampler::Sampler;
use crate::kit::schedule::{scenario, scenario_alone};
use crate::kit::sql::Address;
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::Writers;
use crate::stage::{DEADLINE, FAILOVER, Stage};

/// When the supervisor starts it again.
const SUPERVISOR: Duration = Duration::from_secs(1);
/// How long it may accept writes: ten times the budget of 0.3 s.
pub(crate) const READ_ONLY: Duration = Duration::from_secs(3);

/// What the members report as the transactions that only one server has.
pub(crate) async fn reported_errant(members: &Members, instance: &Address) -> Result<String> {
    let leader = members.member(members.leader().await?)?;
    let Address { host, port } = instance;
    let shown = leader.api().json(&format!("instance/{host}/{port}")).await?;
    Ok(text(&shown, "/GtidErrant").replace(char::is_whitespace, ""))
}

/// What the servers say: the transactions of one that the other does not have. MySQL computes it.
pub(crate) async fn actual_errant(topology: &Topology, old: usize, new: usize) -> Result<String> {
    let (old, new) = (topology.server(old)?, topology.server(new)?);
    let theirs = new.executed().await?;
    old.value(&format!(
        "SELECT REPLACE(GTID_SUBTRACT(@@GLOBAL.gtid_executed, '{theirs}'), '\\n', '')"
    ))
    .await
}

/// How many transactions a MySQL GTID set has.
pub(crate) fn transactions(set: &str) -> u64 {
    let interval = |part: &str| -> u64 {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) => last - first + 1,
            // The uuid or a tag.
            _ => 0,
        }
    };
    set.split(',')
        .flat_map(|source| source.split(':').skip(1))
        .map(interval)
        .sum()
}

#[test]
fn transactions_are_counted() {
    let uuid = "6724c72a-e59b-11f1-bde2-02fc00000001";
    assert_eq!(transactions(""), 0);
    assert_eq!(transactions(&format!("{uuid}:5")), 1);
    assert_eq!(transactions(&format!("{uuid}:1-3:7:tag:1-2,{uuid}:9-10")), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_a_supervisor_restarts_is_made_read_only_at_once_and_what_it_took_is_reported() -> Result<()> {
    scenario_alone("returned-hold", returned).await
}

async fn returned(run: Arc<Run>) -> Result<()> {
    let mut stage = Stage::set(&run, &Shape::star(Flavour::MySql, 2), &Intent::default_document()).await?;
    let old = stage.address(0)?;
    let measured = stage.fail_over(FAILOVER).await?;
    // The supervisor's pause counts from the kill; the failover may have taken longer.
    tokio::time::sleep_until((measured.killed + SUPERVISOR).into()).await;
    let started = Instant::now();
    stage.topology.server_mut(0)?.start_again().await?;
    until(DEADLINE, "the returned primary to be read-only", async || {
        Ok(stage.topology.server(0)?.is_read_only().await?.then_some(()))
    })
    .await?;

    // What it holds alone is what it had committed and nobody had acknowledged, and what users wrote before it was read-only.
    until(DEADLINE, "the errant transactions to be reported exactly", async || {
        let (reported, actual) = (
            reported_errant(&stage.members, &old).await?,
            actual_errant(&stage.topology, 0, measured.successor).await?,
        );
        ensure!(reported == actual, "reported are '{reported}', there are '{actual}'");
        Ok(Some(()))
    })
    .await?;
    let errant = actual_errant(&stage.topology, 0, measured.successor).await?;
    let held = stage.topology.server(0)?.replica_status().await?;
    ensure!(held.is_none(), "the policy is Hold, and it replicates: {held:?}");
    stage.writers.progress(100, DEADLINE).await?;
    stage
        .members
        .one_recovery(DEADLINE, &measured.from, &measured.to)
        .await?;

    let (topology, verdict, _) = stage.judge(READ_ONLY).await?;
    let (accepted, lasted) = verdict.accepted(0, started);
    ensure!(lasted <= READ_ONLY, "it took writes for {lasted:?}");
    ensure!(
        u64::try_from(accepted)? <= transactions(&errant),
        "it took {accepted} rows, and '{errant}' is reported"
    );
    ensure!(
        verdict
            .read_only_after(0, started)
            .is_some_and(|after| after <= READ_ONLY),
        "it never refused a write"
    );
    ensure!(topology.server(0)?.is_read_only().await?, "it is writable again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_returns_with_nothing_of_its_own_is_attached_again_when_the_policy_says_so() -> Result<()> {
    scenario("returned-rejoin", |run| async move {
        let mut topology = Topology::start(&run, &Shape::star(Flavour::MySql, 2)).await?;
        let intent = Intent::Manifests(json!({"mode": "Auto", "oldPrimary": "Rejoin"}));
        let members = Members::start(&run, &topology, &intent, None).await?;
        // Nobody writes at the moment of the kill, so nothing is in doubt.
        let writers = Writers::start(&topology, 2)?;
        writers.progress(100, DEADLINE).await?;
        writers.stop().await;
        topology.caught_up(0, DEADLINE).await?;
        topology.server_mut(0)?.set_boots_read_only()?;
        let killed = topology.server_mut(0)?.kill()?;
        let mut stage = Stage::begin(topology, members).await?;
        let measured = stage.await_failover(killed, DEADLINE).await?;
        stage.topology.server_mut(0)?.start_again().await?;
        stage.topology.server(0)?.follows(&measured.to, DEADLINE).await?;
        stage.end(&measured, Duration::ZERO).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_mysql_primary_is_read_only_soon_whenever_it_is_restarted() -> Result<()> {
    scenario("returned-restarts-mysql", |run| {
        restarts(run, Shape::asynchronous(Flavour::MySql, 2))
    })
    .await
}

/// Its clients' commits wait for acknowledgements that nobody gives, and a statement that makes it read-only waits for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_semi_sync_primary_is_read_only_soon_whenever_it_is_restarted() -> Result<()> {
    scenario("returned-restarts-semi-sync", |run| {
        restarts(run, Shape::star(Flavour::MySql, 2))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_mariadb_primary_is_read_only_soon_whenever_it_is_restarted() -> Result<()> {
    scenario("returned-restarts-mariadb", |run| {
        restarts(run, Shape::asynchronous(Flavour::MariaDb, 2))
    })
    .await
}

/// How often a held server is killed and started again.
const RESTARTS: u32 = 10;
/// How often a write is tried meanwhile.
const SAMPLED_EVERY: Duration = Duration::from_millis(5);

/// The policy is Hold. The kills fall into all phases of what the members do once a second.
#[expect(clippy::print_stdout, reason = "what was measured")]
async fn restarts(run: Arc<Run>, shape: Shape) -> Result<()> {
    let topology = Topology::start(&run, &shape).await?;
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    let sampler = Sampler::start_every(SAMPLED_EVERY, &topology, &members);
    let writers = Writers::start(&topology, 2)?;
    writers.progress(100, DEADLINE).await?;
    let mut stage = Stage {
        topology,
        members,
        writers,
        sampler,
    };
    stage.fail_over(DEADLINE).await?;
    stage.topology.server_mut(0)?.start_again().await?;
    until(DEADLINE, "the returned primary to be read-only", async || {
        Ok(stage.topology.server(0)?.is_read_only().await?.then_some(()))
    })
    .await?;
    let mut open_for = Vec::new();
    for round in 0..RESTARTS {
        // Not a wait for anything: it moves the kill to another phase of each second.
        tokio::time::sleep(Duration::from_millis(u64::from(round * 370 % 1000))).await;
        stage.topology.server_mut(0)?.kill()?;
        let started = Instant::now();
        stage.topology.server_mut(0)?.launch()?;
        let lasted = until(DEADLINE, "the held primary to refuse a write", async || {
            Ok(stage.sampler.open_for(0, started))
        })
        .await?;
        open_for.push(lasted);
    }
    let longest = open_for.iter().max().copied().unwrap_or_default();
    println!("a held primary was open after its restarts for {open_for:.0?}, at most {longest:.0?}");
    ensure!(longest <= READ_ONLY, "it was open for {longest:.0?}: {open_for:.0?}");
    let (topology, _, _) = stage.judge(READ_ONLY).await?;
    ensure!(topology.server(0)?.is_read_only().await?, "it is writable again");
    Ok(())
}

/// A replica that was never failed over from is no failed primary: it comes back as what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_and_returns_changes_nothing() -> Result<()> {
    scenario("returned-replica", |run| async move {
        let mut topology = Topology::start(&run, &Shape::star(Flavour::MariaDb, 2)).await?;
        let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
        let sampler = Sampler::start(&topology, &members);
        let writers = Writers::start(&topology, 2)?;
        writers.progress(100, DEADLINE).await?;
        topology.server_mut(2)?.kill()?;
        writers.progress(100, DEADLINE).await?;
        topology.server_mut(2)?.start_again().await?;
        topology
            .server(2)?
            .follows(topology.server(0)?.address(), DEADLINE)
            .await?;
        ensure!(members.recoveries().await?.is_empty(), "a recovery was begun");
        let rows = writers.stop().await;
        sampler.stop().await.assert_invariants(Duration::ZERO)?;
        topology.caught_up(0, DEADLINE).await?;
        ensure!(
            rows.iter().all(|row| row.server == 0),
            "another server than the primary took a row"
        );
        Ok(())
    })
    .await
}
