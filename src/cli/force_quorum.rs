//! `ham4db force-quorum`: requests that the member on this machine continues without a majority that is lost for good.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;

use crate::adapter::clock::SystemClock;
use crate::adapter::raft::ForceRequest;
use crate::app::ports::Clock as _;
use crate::config::{self, Environment};

/// The longest that the member may take to answer: it queries all other members first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Run this command on the member that is to continue, while `ham4db server` runs there. The member checks that the named members do not
/// answer. It refuses when one of them answers, when a majority is reachable, or when another member has a later log. Otherwise it becomes
/// the only voter, and all other members join it again with empty logs. Entries that only the lost members had committed are gone, so
/// recoveries stay disabled until an operator enables them.
///
/// A named member that returns with its log is removed from the group, unless a majority of the lost members meets first. Make sure that
/// they are gone, or start them one by one.
#[derive(Debug, Args)]
pub(super) struct ForceQuorumArguments {
    /// Configuration file of the member, as for `server`.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// All members that are lost for good: their names as in `raft-peers`, separated by commas.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', required = true)]
    lost: Vec<String>,
}

/// Returns the answer of the member.
///
/// # Errors
/// When the member refuses, or does not answer.
pub(super) fn run(arguments: &ForceQuorumArguments) -> anyhow::Result<String> {
    let paths = super::subsystem_settings::configuration_files(&arguments.config);
    let settings = config::load(&paths, &Environment::of_process())?;
    let raft = settings
        .raft
        .context("RaftEnabled is false: a single member has no quorum")?;
    let lost: BTreeSet<String> = arguments.lost.iter().map(|name| name.trim().to_owned()).collect();
    let request = ForceRequest::new(SystemClock::default().wall(), lost);
    request.put(&raft.data_dir).context("RaftDataDir")?;
    let until = Instant::now() + ANSWER_DEADLINE;
    while Instant::now() < until {
        if let Some(answer) = request.answer(&raft.data_dir).context("RaftDataDir")? {
            anyhow::ensure!(answer.done, "refused: {}", answer.what);
            return Ok(format!("{}\n", answer.what));
        }
        thread::sleep(POLL_INTERVAL);
    }
    request.withdraw(&raft.data_dir).context("RaftDataDir")?;
    anyhow::bail!(
        "no answer within {} s; the request was withdrawn. Check that `ham4db server` runs here with RaftDataDir {}",
        ANSWER_DEADLINE.as_secs(),
        raft.data_dir.display()
    )
}
