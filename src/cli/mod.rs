//! The command line of `ham4db`: runs one command and returns its exit code.

mod backend;
mod consensus;
mod documents;
mod force_quorum;
mod logging;
mod membership;
mod process;
mod publishers;
mod seeds;
mod server;
mod signals;
mod subsystem_settings;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::domain::case::Case;
use crate::domain::simulate;

/// Keeps MySQL and MariaDB replication topologies writable.
#[derive(Debug, Parser)]
#[command(name = "ham4db", version, about, long_about = None, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Runs a member: probes servers, serves the API, takes part in the group, and recovers clusters while it leads.
    Server(server::ServerArguments),
    /// Makes this member the only voter of its group, after the majority is lost for good.
    ForceQuorum(force_quorum::ForceQuorumArguments),
    /// Prints findings, plan and report for a case that `GET /api/case/CLUSTER` saved.
    Simulate {
        /// File with the saved case, as JSON.
        file: PathBuf,
    },
    /// Prints the `CustomResourceDefinition` of `MySQLCluster` as YAML, for `kubectl apply --server-side -f -`.
    Crd,
    /// Prints the reference of all configuration keys as Markdown.
    ConfigReference,
}

/// Runs the command line of this process.
///
/// # Errors
/// The failure of the command, with its causes.
pub fn run() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is already installed"))?;
    match Arguments::parse().command {
        Subcommands::Server(arguments) => server::run(&arguments),
        Subcommands::ForceQuorum(arguments) => print(&force_quorum::run(&arguments)?),
        Subcommands::Simulate { file } => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let case = Case::from_json(&text).with_context(|| format!("{} is not a saved case", file.display()))?;
            print(&simulate::report(&case))
        }
        Subcommands::Crd => print(&crate::resource::crd_yaml().context("print the CustomResourceDefinition")?),
        Subcommands::ConfigReference => print(&crate::config::reference()),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // A reader such as `head` may close the pipe early: that is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to standard output"),
    }
}
