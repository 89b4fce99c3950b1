//! `make bench`: ten failovers on fresh servers, what the members do when the leader dies, and what a probe costs. Prints each time beside
//! the project's budgets and beside the settings that the times depend on; nothing here fails for being slow.
//!
//! A failover is timed by a writer, as a user would see it, on a machine that does nothing else. FAILOVERS=N does another number.

#![expect(clippy::print_stdout, reason = "a bench is there to be read")]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the tests and the demo, which use other parts of it"
)]
mod kit;

mod cost;
mod round;
mod times;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

use kit::replication::Flavour;
use kit::run::{cache, command};
use times::Times;

/// How many failovers unless FAILOVERS says otherwise.
const FAILOVERS: usize = 10;
/// How many times leader and primary are killed together, and members are started while the primary is dead.
const RARER: usize = 3;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        measured = measure() => measured.map(|()| ExitCode::SUCCESS),
        // As a shell says of a program that was interrupted.
        stopped = stopped() => stopped.map(|()| ExitCode::from(130)),
    };
    outcome.unwrap_or_else(|error| {
        println!("\nbench failed: {error:#}");
        ExitCode::FAILURE
    })
}

async fn stopped() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

async fn measure() -> Result<()> {
    let flavour = Flavour::from_environment()?;
    let folder = cache()?;
    let file_system = command("stat", &["--file-system", "--format=%T", &folder.to_string_lossy()])?
        .trim()
        .to_owned();
    ensure!(
        !matches!(file_system.as_str(), "tmpfs" | "ramfs"),
        "{} lies on {file_system}, where fsync costs nothing: what is measured there is no failover. Set XDG_CACHE_HOME to a disk",
        folder.display()
    );
    let wanted = match std::env::var("FAILOVERS") {
        Ok(number) => number
            .parse()
            .with_context(|| format!("FAILOVERS={number} is no number"))?,
        Err(_) => FAILOVERS,
    };
    let cores = std::thread::available_parallelism().context("count the cores")?;
    println!(
        "{flavour}, 1 primary and 2 replicas with semi-sync, 3 members on SQLite, {cores} cores, file system {file_system}"
    );

    let (mut writable, mut repointed, mut started, mut returned, mut leader) = (
        Times::default(),
        Times::default(),
        Times::default(),
        Times::default(),
        Times::default(),
    );
    for number in 1..=wanted {
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
        ensure!(round.lost == 0, "{} acknowledged rows were lost", round.lost);
    }
    let (mut together, mut from_start) = (Times::default(), Times::default());
    for number in 1..=RARER {
        together.add(round::with_leader(&format!("bench-leader-{number}"), flavour).await?);
        from_start.add(round::from_start(&format!("bench-start-{number}"), flavour).await?);
    }

    println!(
        "\n{:54} {:>8} {:>8} {:>8}   budget",
        "seconds", "median", "max", "times"
    );
    println!(
        "{}",
        writable.row("primary killed -> writable successor", "median 0.30, p99 0.6")
    );
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
