//! The kit, held to what the scenarios rely on: it must see a loss, two writable servers and a leaked password where there are some.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::kit::netns::{Net, cut, heal};
use crate::kit::replication::Flavour;
use crate::kit::run::Run;
use crate::kit::sampler::Sampler;
use crate::kit::schedule::{scenario, scenario_alone};
use crate::kit::sql::{Address, Session, refusal};
use crate::kit::timeline::{Outcome, Sample, overlaps, windows};
use crate::kit::topology::{Shape, Topology};
use crate::kit::wait::until;
use crate::kit::writers::{Writers, missing};

const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn two_targets_that_say_yes_between_each_other_are_an_overlap() {
    let begun = Instant::now();
    let sample = |target, at: u64, outcome| {
        let sent = begun + Duration::from_millis(at);
        Sample {
            target,
            sent,
            answered: sent + Duration::from_millis(1),
            outcome,
        }
    };
    let handed_over = [
        sample(0, 0, Outcome::Yes),
        sample(0, 20, Outcome::Yes),
        sample(0, 40, Outcome::No("1290".into())),
        sample(1, 30, Outcome::No("1290".into())),
        sample(1, 50, Outcome::Yes),
        sample(1, 70, Outcome::Yes),
        // Not seen to be otherwise before it, yet writable only before the other was.
        sample(0, 90, Outcome::Unreachable),
    ];
    assert_eq!(windows(&handed_over).len(), 2);
    assert!(overlaps(&windows(&handed_over)).is_empty());

    let both = [
        sample(0, 0, Outcome::Yes),
        sample(1, 10, Outcome::Yes),
        sample(1, 30, Outcome::Yes),
        sample(0, 40, Outcome::Yes),
    ];
    let seen = overlaps(&windows(&both));
    assert_eq!(
        seen.first().map(|overlap| overlap.lasted),
        Some(Duration::from_millis(19)),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_in_a_log_is_found_and_not_repeated() -> Result<()> {
    let run = Run::begin("kit-secrets")?;
    let secret = run.secret();
    fs::write(
        run.log("member1"),
        format!("all well\nconnecting as u/{secret} to db1\n"),
    )?;
    let error = run
        .assert_no_secret_in_logs()
        .err()
        .context("the password was not found")?
        .to_string();
    ensure!(error.contains("u/<PASSWORD>") && !error.contains(&secret), "{error}");
    run.succeed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mysql_failover_by_hand_is_measured() -> Result<()> {
    scenario(
        "kit-mysql",
        |run| async move { failover_by_hand(run, Flavour::MySql).await },
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_failover_by_hand_is_measured() -> Result<()> {
    scenario("kit-mariadb", |run| async move {
        failover_by_hand(run, Flavour::MariaDb).await
    })
    .await
}

/// Kills the primary and promotes a replica in the right way: nothing is lost, and never two are writable. Then makes a replica writable
/// under it, which must be seen.
async fn failover_by_hand(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let mut topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    let sampler = Sampler::start_on(&topology, Vec::new());
    let writers = Writers::start(&topology, 4)?;
    writers.progress(500, DEADLINE).await?;

    let killed = topology.server_mut(0)?.kill()?;
    // Rank by what was received: both replicas apply all they have, then the one that has more is promoted.
    for index in [1, 2] {
        let server = topology.server(index)?;
        server.run(&flavour.thread("STOP", "IO_THREAD")).await?;
    }
    let mut sessions = [
        topology.server(1)?.session().await?,
        topology.server(2)?.session().await?,
    ];
    let executed = until(DEADLINE, "the relay logs to be applied", async || {
        let [one, other] = &mut sessions;
        let statement =
            "SELECT COUNT(*) FROM information_schema.processlist WHERE state LIKE '%has read all relay log%'";
        if one.value(statement).await? == "0" || other.value(statement).await? == "0" {
            return Ok(None);
        }
        Ok(Some([flavour.executed(one).await?, flavour.executed(other).await?]))
    })
    .await?;
    let [_, theirs] = &executed;
    let [one, _] = &mut sessions;
    let (new, rest) = if flavour.has_executed(one, theirs).await? {
        (1, 2)
    } else {
        (2, 1)
    };
    let (promoted, replica) = (topology.server(new)?, topology.server(rest)?);
    promoted.run(flavour.detach()).await?;
    promoted.run(flavour.read_only(false)).await?;
    replica.run(flavour.detach()).await?;
    replica
        .run(&flavour.attach(promoted.address(), &topology.accounts.replication))
        .await?;
    let first = writers.first_elsewhere(0, killed, DEADLINE).await?;
    ensure!(first.server == new, "written on {} instead of {new}", first.server);
    replica.follows(promoted.address(), DEADLINE).await?;
    writers.progress(200, DEADLINE).await?;

    let verdict = sampler.stop().await;
    verdict.assert_invariants(Duration::ZERO)?;
    let rows = writers.stop().await;
    topology.caught_up(new, DEADLINE).await?;
    let lost = missing(&rows, promoted).await?;
    ensure!(lost.is_empty(), "{} of {} rows lost: {lost:?}", lost.len(), rows.len());

    // A loss is a loss: take a row away from the server and it is missed.
    promoted
        .run("DELETE FROM ham4db_test.written ORDER BY writer, number LIMIT 3")
        .await?;
    ensure!(
        missing(&rows, promoted).await?.len() == 3,
        "three rows were taken away and not missed"
    );

    // Two writable servers are seen, and the bound is applied.
    let sampler = Sampler::start_on(&topology, Vec::new());
    replica.run(flavour.read_only(false)).await?;
    let since = Instant::now();
    until(DEADLINE, "writes on both", async || {
        Ok((sampler.accepted_since(new, since) > 10 && sampler.accepted_since(rest, since) > 10).then_some(()))
    })
    .await?;
    let verdict = sampler.stop().await;
    ensure!(
        verdict.assert_never_two_writable(Duration::ZERO).is_err(),
        "two writable servers were not seen"
    );
    verdict.assert_never_two_writable(DEADLINE)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_refuses_and_a_paused_server_does_not_answer() -> Result<()> {
    scenario_alone("kit-states", |run| async move {
        let topology = Topology::start(&run, &Shape::chain(Flavour::MariaDb, 2)).await?;
        let (account, replica) = (&topology.accounts.sampler, topology.server(2)?);
        let limit = Duration::from_millis(500);
        let mut session = Session::connect(replica.address(), account, limit).await?;
        let refused = session
            .run("INSERT INTO ham4db_test.sampled VALUES ('x', 1)")
            .await
            .err()
            .context("a replica took a row")?;
        ensure!(refusal(&refused) == Some(1290), "{refused:#}");
        replica.pause()?;
        ensure!(
            Session::connect(replica.address(), account, limit).await.is_err(),
            "a stopped process let us in"
        );
        replica.resume()?;
        Session::connect(replica.address(), account, DEADLINE).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_silent_and_heals() -> Result<()> {
    scenario_alone("kit-cut", |run| async move {
        let net = Net::create()?;
        let topology = Topology::start_in(&run, &Shape::asynchronous(Flavour::MariaDb, 1), &net).await?;
        let (primary, replica) = (topology.server(0)?, topology.server(1)?);
        let (one, other) = (primary.host()?, replica.host()?);
        cut(one, other)?;
        primary.run("INSERT INTO ham4db_test.sampled VALUES ('cut', 1)").await?;
        let wanted = primary.executed().await?;
        // The machine itself still reaches both.
        let account = &topology.accounts.sampler;
        for server in &topology.servers {
            Session::connect(server.address(), account, DEADLINE).await?;
        }
        ensure!(
            replica.has_executed(&wanted, Duration::from_secs(1)).await.is_err(),
            "the row came through the cut"
        );
        let status = replica.replica_status().await?.context("no channel")?;
        ensure!(status.io_thread == "Yes", "the replica was told of the cut: {status:?}");
        heal(one, other)?;
        replica.has_executed(&wanted, DEADLINE).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_mysql_server_shows_nothing_of_an_earlier_test() -> Result<()> {
    pooled(Flavour::MySql, "kit-pool-mysql").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooled_mariadb_server_shows_nothing_of_an_earlier_test() -> Result<()> {
    pooled(Flavour::MariaDb, "kit-pool-mariadb").await
}

/// A test leaves on a server all that a test can leave. The next one gets the same server without it, and after a kill a new one.
async fn pooled(flavour: Flavour, name: &str) -> Result<()> {
    let (address, executed, mut foreign) = scenario(name, |run| async move {
        let topology = second_primary(&run, flavour).await?;
        let server = topology.server(0)?;
        let executed = server.executed().await?;
        let foreign = Session::connect(server.address(), &topology.accounts.sampler, DEADLINE).await?;
        server
            .run(
                "CREATE DATABASE left_behind; CREATE USER left_behind; CREATE TABLE left_behind.rows_of_it (id INT PRIMARY KEY); \
                 SET GLOBAL max_connections = 77; SET GLOBAL read_only = ON",
            )
            .await?;
        let source = Address::new("127.0.0.1", 1);
        server
            .run(&flavour.attach(&source, &topology.accounts.replication))
            .await?;
        Ok((server.address().clone(), executed, foreign))
    })
    .await?;

    let killed = scenario(name, |run| async move {
        let mut topology = second_primary(&run, flavour).await?;
        let server = topology.server(0)?;
        ensure!(*server.address() == address, "the server was not reset, but replaced");
        ensure!(foreign.run("SELECT 1").await.is_err(), "a session survived the reset");
        ensure!(
            server.executed().await? == executed,
            "its transactions are {} instead of {executed}",
            server.executed().await?
        );
        for (what, wanted) in [
            (
                "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = 'left_behind'",
                "0",
            ),
            ("SELECT COUNT(*) FROM mysql.user WHERE User = 'left_behind'", "0"),
            ("SELECT COUNT(*) FROM ham4db_test.written", "0"),
            ("SELECT @@GLOBAL.max_connections", "200"),
            ("SELECT @@GLOBAL.read_only", "0"),
        ] {
            let found = server.value(what).await?;
            ensure!(found == wanted, "{what}: {found}");
        }
        ensure!(
            server.replica_status().await?.is_none(),
            "its channel survived the reset"
        );
        topology.server_mut(0)?.kill()?;
        topology.server_mut(0)?.start_again().await?;
        topology.server(0)?.value("SELECT @@GLOBAL.datadir").await
    })
    .await?;

    scenario(name, |run| async move {
        let topology = second_primary(&run, flavour).await?;
        let folder = topology.server(0)?.value("SELECT @@GLOBAL.datadir").await?;
        ensure!(killed != folder, "a server that was killed was pooled");
        Ok(())
    })
    .await
}

/// A server that is number 2 and a primary, as no other scenario has one: the pool cannot confuse it with another.
async fn second_primary(run: &Arc<Run>, flavour: Flavour) -> Result<Topology> {
    let mut topologies = Topology::start_fleet(run, &Shape::asynchronous(flavour, 0), 2).await?;
    topologies.pop().context("two topologies were started")
}
