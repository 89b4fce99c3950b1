//! `make fleet SERVERS="1000 3000"`: one member over a simulated fleet, with its real binary. Prints a table with what it uses, how well
//! it keeps up, how fast it replaces killed primaries, and what it took for failures and recovered although nothing failed.
//!
//! The servers are simulated in this process: they speak the MySQL protocol on loopback addresses (127.20.0.1 and following, one port),
//! answer the statements of probes and failovers as MySQL 9.7 does, commit a transaction a second, and fail on command. Five form a
//! cluster. They measure ham4db and not a failover on a real server: that is `make bench`.
//!
//! MEMBERS: so many members form a group (default: 1, without a group), with SHARING as their `ProbeSharing` (default: off).
//!
//! SERVERS: sizes, separated by spaces (default: 1000). SILENT: so many of the servers vanish, connections and packets, before primaries
//! are killed. `HAM4DB_BIN_DIR`: a folder with another binary, as of the release build.

#![expect(clippy::print_stdout, reason = "a measurement is there to be read")]

#[path = "../kit/mod.rs"]
#[expect(
    dead_code,
    reason = "the kit is shared with the tests and the demo, which use other parts of it"
)]
mod kit;

mod cluster;
mod measure;
mod server;
mod statements;
mod wire;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use kit::program::{number, run_until_stopped};
use measure::Group;

/// How many servers unless SERVERS says otherwise.
const SERVERS: &str = "1000";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    run_until_stopped("fleet", measure_all()).await
}

async fn measure_all() -> Result<()> {
    let sizes = std::env::var("SERVERS").ok().filter(|sizes| !sizes.trim().is_empty());
    let sizes: Vec<usize> = sizes
        .as_deref()
        .unwrap_or(SERVERS)
        .split_whitespace()
        .map(|size| size.parse().with_context(|| format!("SERVERS: {size} is no number")))
        .collect::<Result<_>>()?;
    let silent = usize::try_from(number("SILENT")?.unwrap_or_default())?;
    let cores = std::thread::available_parallelism().context("count the cores")?;
    let group = Group {
        members: usize::try_from(number("MEMBERS")?.unwrap_or(1))?.max(1),
        sharing: std::env::var("SHARING")
            .ok()
            .filter(|sharing| !sharing.is_empty())
            .unwrap_or_else(|| String::from("off")),
    };
    println!(
        "{} member(s), {cores} cores, which the simulated servers share\n\n{}",
        group.members,
        measure::HEAD
    );
    let mut is_sound = true;
    for size in sizes {
        let measured = measure::measure(size, silent, &group).await?;
        is_sound &= measured.is_sound();
        println!("{}", measured.line());
        if let Some(exchange) = measured.exchange() {
            println!("{exchange}");
        }
    }
    ensure!(
        is_sound,
        "see the table: something well was taken for failed, or a dead primary was not replaced"
    );
    Ok(())
}
