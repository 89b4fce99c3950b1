//! Commands of the operator that run on this machine.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

/// A command of the configuration, ready to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// For the shell.
    pub text: String,
    /// Variables beside the process's own.
    pub environment: BTreeMap<&'static str, String>,
    /// What stands on its standard input.
    pub input: String,
    /// How long it may take; then it ends with everything that it began.
    pub deadline: Duration,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookExit {
    /// By itself, with this code; 0 is success.
    Code(i32),
    /// By a signal that somebody else sent.
    Signal(i32),
    /// It was ended at its deadline.
    TooSlow,
    /// It could not be started, or not be followed.
    NotRun(String),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookEnd {
    /// How it ended.
    pub exit: HookExit,
    /// The end of what it wrote to both its outputs, bounded.
    pub output: String,
    /// How many milliseconds it took.
    pub millis: u64,
}

/// Runs commands of the configuration on this machine.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs one command to its end, at the latest to its deadline. Never fails: the failure is part of the answer.
    async fn run(&self, call: HookCall) -> HookEnd;
}
