//! `make demo`: kills a primary under four writers and shows how ham4db repairs the topology.
//!
//! The demo starts three database servers and three members in the cache folder, all of them unprivileged, and removes them at its end.
//! The figures of the last line are measured by the writers and by queries to the servers, not by ham4db.
//! `tests/setup/record-demo.py` makes the picture in README.md from what is printed here.

#![expect(clippy::print_stdout, reason = "the output is what the demo is for")]

#[path = "../kit/mod.rs"]
#[expect(dead_code, reason = "the tests and the bench use other parts of the shared kit")]
mod kit;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use kit::failover::{Measured, count_lost, kill_primary};
use kit::http::text;
use kit::members::{Intent, Members};
use kit::replication::Flavour;
use kit::run::{Run, scenario};
use kit::topology::{Shape, Topology};
use kit::wait::until;
use kit::writers::Writers;

/// The number of concurrent writers, which write without a pause.
const WRITERS: usize = 4;
/// The number of rows to be acknowledged before the kill, and again after the failover.
const ROWS: usize = 1_000;
/// The deadline of each step. A step that is only slow does not fail the demo: its time is printed.
const DEADLINE: Duration = Duration::from_mins(1);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    match main_or_stopped().await {
        Ok(true) => ExitCode::SUCCESS,
        // The exit code that a shell reports for a program interrupted by SIGINT.
        Ok(false) => ExitCode::from(130),
        Err(error) => {
            println!("\ndemo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns false when the demo was stopped before its end.
async fn main_or_stopped() -> Result<bool> {
    let flavour = Flavour::from_environment()?;
    tokio::select! {
        // The demo itself waits for the same signal at its end, so its branch is polled first.
        biased;
        played = scenario("demo", |run| play(run, flavour)) => played.map(|()| true),
        stopped = stopped() => stopped.map(|()| false),
    }
}

/// Waits for Ctrl-C or SIGTERM.
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
        "starting three {flavour} servers with semi-sync replication in {}",
        run.folder().display()
    ));
    let mut topology = Topology::start(&run, &Shape::star(flavour, 2)).await?;
    let version = topology.server(0)?.value("SELECT VERSION()").await?;
    say(&format!(
        "version {version}: one primary and two replicas are running; starting three ham4db members"
    ));
    let members = Members::start(&run, &topology, &Intent::default_document(), None).await?;
    let leader = members.member(members.leader().await?)?;
    let primary = topology.server(0)?.address().clone();
    say(&format!(
        "{} is the leader of the group and has discovered the topology:\n\n{}\n",
        leader.name(),
        members.topology_text(&primary).await?
    ));

    let writers = Writers::start(&topology, WRITERS)?;
    writers.progress(ROWS, DEADLINE).await?;
    say(&format!(
        "{WRITERS} writers have {} acknowledged rows; sending SIGKILL to the primary, {primary}",
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
        "the leader's record of the recovery, with the seconds since the kill:\n\n{}\n",
        recorded(&members, &measured).await?
    ));
    say(&format!(
        "the writers have {rows} acknowledged rows; the topology after the failover:\n\n{after}\n"
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

/// What the leader recorded about the failover: the finding, then one line for each step.
async fn recorded(members: &Members, measured: &Measured) -> Result<String> {
    let recovery = members.one_recovery(DEADLINE, &measured.from, &measured.to).await?;
    let leader = members.member(members.leader().await?)?;
    let path = format!("audit-recovery-steps/{}", text(&recovery, "/UID"));
    let steps = leader.api().json(&path).await?;
    // The entries carry the wall clock, and the demo has the monotonic moment of the kill.
    let killed = jiff::Timestamp::now().as_millisecond() - i64::try_from(measured.killed.elapsed().as_millis())?;
    let mut lines = vec![format!(
        "   {}: {}",
        text(&recovery, "/AnalysisEntry/Analysis"),
        text(&recovery, "/AnalysisEntry/Description")
    )];
    for step in steps.as_array().into_iter().flatten() {
        let at = step.get("AtMilliseconds").and_then(Value::as_i64);
        let after = u64::try_from(at.unwrap_or(killed) - killed).unwrap_or_default();
        lines.push(format!(
            "   {:.2} s  {}",
            Duration::from_millis(after).as_secs_f64(),
            text(step, "/Message")
        ));
    }
    Ok(lines.join("\n"))
}

fn print_invitation(members: &Members, leader: usize, topology: &Topology, primary: &str) -> Result<()> {
    let apis: Vec<String> = members
        .list
        .iter()
        .map(|member| format!("http://{}/api", member.address()))
        .collect();
    let client = kit::member::program()?.with_file_name("ham4db-client");
    println!("\nThe servers and the members run until Ctrl-C. The members:");
    for (member, api) in members.list.iter().zip(&apis) {
        println!(
            "  {}  {api}  documents and their status are in {}",
            member.name(),
            member.manifests().display()
        );
    }
    println!("Commands to try:");
    println!("  export HAM4DB_API='{}'", apis.join(" "));
    println!("  export HAM4DB_API_TOKEN={}", kit::http::WRITE_TOKEN);
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
