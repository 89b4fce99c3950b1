//! What the programs for a person share: their end, and numbers from the environment.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the work of a program until it is over, or SIGINT or SIGTERM comes. A failure is told with the program's name.
#[expect(clippy::print_stdout, reason = "the program's own output")]
pub(crate) async fn run_until_stopped(name: &str, work: impl Future<Output = Result<()>>) -> ExitCode {
    let outcome = tokio::select! {
        done = work => done.map(|()| ExitCode::SUCCESS),
        // As a shell says of a program that was interrupted.
        stopped = stopped() => stopped.map(|()| ExitCode::from(130)),
    };
    outcome.unwrap_or_else(|error| {
        println!("\n{name} failed: {error:#}");
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

/// A number from the environment; `None` when it is not set, or empty.
pub(crate) fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            let number = text.parse().with_context(|| format!("{name}={text} is no number"))?;
            Ok(Some(number))
        }
        _ => Ok(None),
    }
}
