//! `make demo`: a primary is killed under four writers, and ham4db repairs the topology.
//!
//! Three database servers and three members are started in the cache folder, everything unprivileged, and nothing is left of them. What
//! the last line says was measured by the writers and by asking the servers.

#![expect(clippy::print_stdout, reason = "a demo is there to be read")]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the tests and the bench, which use other parts of it"
)]
mod kit;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

use kit::failover::{count_lost, kill_primary};
use kit::members::{Intent, Members};
use kit::replication::Flavour;
use kit::run::{Run, scenario};
use kit::topology::{Shape, Topology};
use kit::wait::until;
use kit::writers::Writers;

/// How many write at the same time, without pausing.
const WRITERS: usize = 4;
/// How many rows are acknowledged before the kill and after the failover.
const ROWS: usize = 1_000;
/// When a step took longer than this, the demo failed. Being slow is printed, not failed.
const DEADLINE: Duration = Duration::from_mins(1);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match main_or_stopped().await {
        Ok(true) => ExitCode::SUCCESS,
        // As a shell says of a program that was interrupted.
        Ok(false) => ExitCode::from(130),
        Err(error) => {
            println!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False when it was stopped before its end.
async fn main_or_stopped() -> Result<bool> {
    let flavour = Flavour::from_environment()?;
    tokio::select! {
        // At its end the demo itself waits for the same signal, and is asked first.
        biased;
        played = scenario("demo", |run| play(run, flavour)) => played.map(|()| true),
        stopped = stopped() => stopped.map(|()| false),
    }
}

/// Ctrl-C, or SIGTERM.
async fn stopped() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("listen for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

async fn play(run: Arc<Run>, flavour: Flavour) -> Result<()> {
    let begun = Instant::now();
    let say = |text: &str| println!("{:5.1} s  {text}", begun.elapsed().as_secs_f64());
    say(&format!(
        "starting three {flavour} servers with semi-sync, in {}",
        run.folder().display()
    ));
    let mut topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    let version = topology.server(0)?.value("SELECT VERSION()").await?;
    say(&format!(
        "version {version}: one primary, two replicas; starting three members, who learn of them by a document"
    ));
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    let leader = members.member(members.leader().await?)?;
    let primary = topology.server(0)?.address().clone();
    say(&format!(
        "{} leads, and knows the topology:\n\n{}\n",
        leader.name(),
        members.topology_text(&primary).await?
    ));

    let writers = Writers::start(&topology, WRITERS)?;
    writers.progress(ROWS, DEADLINE).await?;
    say(&format!(
        "{WRITERS} writers, {} rows acknowledged; now SIGKILL to the primary, {primary}",
        writers.count()
    ));
    let measured = kill_primary(&mut topology, &writers, DEADLINE).await?;
    writers.progress(ROWS, DEADLINE).await?;
    let (lost, rows) = count_lost(&topology, writers, measured.successor).await?;
    let after = until(DEADLINE, "the leader to show the new topology", async || {
        let text = members.topology_text(&measured.to).await?;
        Ok(text.starts_with(&measured.to.to_string()).then_some(text))
    })
    .await?;
    say(&format!(
        "{rows} rows acknowledged in all; the topology now:\n\n{after}\n"
    ));

    let keep =
        std::env::var("KEEP").is_ok_and(|keep| !matches!(keep.as_str(), "" | "0")) || std::io::stdin().is_terminal();
    println!("{}", measured.line(lost));
    ensure!(
        lost == 0,
        "{lost} of {rows} acknowledged rows are not on the new primary {}",
        measured.to
    );
    if keep {
        let leader = members.leader().await?;
        print_invitation(&members, leader, &topology, &measured.to.to_string())?;
        stopped().await?;
        println!("\nstopping");
    }
    Ok(())
}

fn print_invitation(members: &Members, leader: usize, topology: &Topology, primary: &str) -> Result<()> {
    let apis: Vec<String> = members
        .list
        .iter()
        .map(|member| format!("http://{}/api", member.address()))
        .collect();
    let client = kit::member::program()?.with_file_name("ham4db-client");
    println!("\nEverything is left running until Ctrl-C. The members:");
    for (member, api) in members.list.iter().zip(&apis) {
        println!(
            "  {}  {api}  documents and their status in {}",
            member.name(),
            member.manifests().display()
        );
    }
    println!("Worth trying:");
    println!("  export HAM4DB_API='{}'", apis.join(" "));
    println!("  {} -c topology -i {primary}", client.display());
    println!("  {} -c replication-analysis", client.display());
    let first = apis.first().context("there are members")?;
    println!("  curl -s {first}/audit-recovery");
    println!("  cat {}/status/*.yaml", members.member(leader)?.manifests().display());
    for server in topology.servers.iter().filter(|server| server.is_running()) {
        println!("  {}", server.shell());
    }
    Ok(())
}
