//! `make bench`: failovers on fresh servers of both flavours with their phases, what the members do when the leader dies, what a probe
//! costs, and a fleet of 150 servers. Prints each time beside the project's budgets and beside the settings that the times depend on;
//! nothing here fails for being slow.
//!
//! A failover is timed by a writer, as a user would see it, on a machine that does nothing else. FLAVOUR=mysql|mariadb does one
//! flavour, FAILOVERS=N another number, PARTITION=N other silent partitions (0: none; they need root or sudo), SERVERS=N another fleet
//! (0: none).

#![expect(clippy::print_stdout, reason = "a bench is there to be read")]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the tests and the demo, which use other parts of it"
)]
mod kit;

mod cost;
mod fleet;
mod phases;
mod round;
mod times;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use kit::program::{number, run_until_stopped};
use kit::replication::Flavour;
use kit::run::{cache, command};
use phases::PhaseTable;
use times::Times;

/// How many failovers unless FAILOVERS says otherwise.
const FAILOVERS: usize = 30;
/// How many servers the fleet has unless SERVERS says otherwise.
const SERVERS: usize = 150;
/// How often the primary's packets vanish unless PARTITION says otherwise.
const PARTITIONS: usize = 5;
/// How many times leader and primary are killed together, and members are started while the primary is dead.
const RARER: usize = 3;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    run_until_stopped("bench", measure()).await
}

async fn measure() -> Result<()> {
    let folder = cache()?;
    let file_system = command("stat", &["--file-system", "--format=%T", &folder.to_string_lossy()])?
        .trim()
        .to_owned();
    ensure!(
        !matches!(file_system.as_str(), "tmpfs" | "ramfs"),
        "{} lies on {file_system}, where fsync costs nothing: what is measured there is no failover. Set XDG_CACHE_HOME to a disk",
        folder.display()
    );
    let flavours = match std::env::var("FLAVOUR").as_deref() {
        Ok("both" | "") | Err(_) => vec![Flavour::MySql, Flavour::MariaDb],
        Ok(_) => vec![Flavour::from_environment()?],
    };
    let (failovers, servers) = (times("FAILOVERS", FAILOVERS)?, times("SERVERS", SERVERS)?);
    let partitions = times("PARTITION", PARTITIONS)?;
    let cores = std::thread::available_parallelism().context("count the cores")?;
    println!("3 members on SQLite, {cores} cores, file system {file_system}");
    for flavour in &flavours {
        if failovers > 0 {
            of_flavour(*flavour, failovers).await?;
        }
        if partitions > 0 {
            silent_partitions(*flavour, partitions).await?;
        }
    }
    if servers > 0 {
        println!("\n{servers} MariaDB servers in clusters of three are started, which takes some minutes");
        let fleet = fleet::watch("bench-fleet", Flavour::MariaDb, servers).await?;
        println!("{}", fleet.lines());
    }
    Ok(())
}

/// The primary's packets vanish, again and again.
async fn silent_partitions(flavour: Flavour, partitions: usize) -> Result<()> {
    println!(
        "\n{flavour}, 1 primary and 2 replicas, asynchronous, each server and member on a host of its own, defaults"
    );
    let mut writable = Times::default();
    for number in 1..=partitions {
        let took = round::silent(&format!("bench-silent-{number}"), flavour).await?;
        println!("{number:3}  packets vanish, writable after {:.2} s", took.as_secs_f64());
        writable.add(took);
    }
    println!("\n{}", head(flavour));
    println!(
        "{}",
        writable.row("primary's packets vanish -> writable successor", "5")
    );
    Ok(())
}

/// The head of a table.
fn head(flavour: Flavour) -> String {
    format!(
        "{:54} {:>8} {:>8} {:>8} {:>8}   budget",
        format!("{flavour}: seconds"),
        "median",
        "90 %",
        "max",
        "times"
    )
}

/// How often something is done: as the environment says, or else so often.
fn times(name: &str, otherwise: usize) -> Result<usize> {
    number(name)?.map_or(Ok(otherwise), |wanted| {
        usize::try_from(wanted).with_context(|| format!("{name}={wanted} is too much"))
    })
}

/// Failovers of one flavour, with a table at the end.
async fn of_flavour(flavour: Flavour, failovers: usize) -> Result<()> {
    println!("\n{flavour}, 1 primary and 2 replicas with semi-sync");
    let (mut writable, mut repointed, mut started, mut returned, mut leader) = (
        Times::default(),
        Times::default(),
        Times::default(),
        Times::default(),
        Times::default(),
    );
    let mut phases = PhaseTable::default();
    for number in 1..=failovers {
        let round = round::play(&format!("bench-{number}"), flavour).await?;
        if number == 1 {
            println!(
                "{}; raft log: SQLite, synchronous={}\n",
                round.settings,
                raft_synchronous()?
            );
        }
        println!("{number:3}  {}", round.line());
        writable.add(round.measured.writable_after);
        repointed.add(
            round
                .measured
                .repointed_after
                .saturating_sub(round.measured.writable_after),
        );
        started.add(round.started);
        returned.add(round.read_only_after);
        leader.add(round.leader_after);
        phases.add(&round.phases);
        ensure!(round.lost == 0, "{} acknowledged rows were lost", round.lost);
    }
    let (mut together, mut from_start) = (Times::default(), Times::default());
    for number in 1..=RARER.min(failovers) {
        together.add(round::with_leader(&format!("bench-leader-{number}"), flavour).await?);
        from_start.add(round::from_start(&format!("bench-start-{number}"), flavour).await?);
    }

    println!("\n{}", head(flavour));
    println!(
        "{}",
        writable.row("primary killed -> writable successor", "median 0.30, max 0.6")
    );
    println!("{}", phases.rows());
    println!("{}", repointed.row("replicas repointed after that", "0.1"));
    println!("{}", returned.row("returned primary answers -> read-only", "0.3"));
    println!("{}", leader.row("leader killed -> another one healthy", "2"));
    println!("{}", together.row("leader and primary killed -> writable", "2.5"));
    println!("{}", from_start.row("members started, primary dead -> writable", "3"));
    println!("{}", started.row("members started -> serving", "1"));
    let cost = cost::of_a_probe("bench-cost", flavour).await?;
    println!("\n{}", cost.lines());
    Ok(())
}

/// How the members' raft log is synchronised. SQLite keeps this with the connection, so it shows nowhere but in the source.
fn raft_synchronous() -> Result<&'static str> {
    let source = include_str!("../../src/adapter/raft/log_store.rs");
    let mode = source
        .split_once("SqliteSynchronous::")
        .and_then(|(_, rest)| rest.split_once(')'));
    mode.map(|(mode, _)| mode)
        .context("the source of the raft log names no synchronous mode")
}
