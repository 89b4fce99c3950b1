//! `ham4db force-quorum`: asks the member that runs here to go on without a majority that is lost for good.

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

/// How long the member gets to answer: it asks all others first.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// To be called on the member that is to go on, while `ham4db server` runs there. It looks whether the named members are lost, refuses when
/// one of them answers, when a majority is there, or when another member has a later log, and otherwise becomes the only voter. All others
/// join it again with empty logs. What only the lost members had committed is gone, so recoveries are disabled until somebody has looked.
///
/// A member that was named and comes back with its log is told that it is none any more, as long as it does not meet a majority of the lost
/// ones first: make sure that they are gone, or start them one by one.
#[derive(Debug, Args)]
pub(super) struct ForceQuorumArguments {
    /// Configuration file of the member, as for `server`.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// The members that are lost for good, all of them: names as `raft-peers` shows them, with commas between.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', required = true)]
    lost: Vec<String>,
}

/// What the member answered.
///
/// # Errors
/// When the member refuses, or does not answer.
pub(super) fn run(arguments: &ForceQuorumArguments) -> anyhow::Result<String> {
    let paths = super::parts::configuration_files(&arguments.config);
    let settings = config::load(&paths, &Environment::of_process())?;
    let raft = settings
        .raft
        .context("RaftEnabled is off: a single member has no quorum to lose")?;
    let lost: BTreeSet<String> = arguments.lost.iter().map(|name| name.trim().to_owned()).collect();
    let request = ForceRequest::new(SystemClock::default().wall(), lost);
    request.put(&raft.data_dir).context("RaftDataDir")?;
    let until = Instant::now() + ANSWER_DEADLINE;
    while Instant::now() < until {
        if let Some(answer) = request.answer(&raft.data_dir).context("RaftDataDir")? {
            anyhow::ensure!(answer.done, "refused: {}", answer.what);
            return Ok(format!("{}\n", answer.what));
        }
        thread::sleep(LOOK_EVERY);
    }
    request.withdraw(&raft.data_dir).context("RaftDataDir")?;
    anyhow::bail!(
        "no answer within {} s, and the request was withdrawn: does `ham4db server` run here, with RaftDataDir {}?",
        ANSWER_DEADLINE.as_secs(),
        raft.data_dir.display()
    )
}
