//! Hooks: commands of the configuration that run on this machine.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

/// One run of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// The command, for the shell.
    pub text: String,
    /// Environment variables, in addition to those of the process.
    pub environment: BTreeMap<&'static str, String>,
    /// The content of its standard input.
    pub input: String,
    /// The longest that the command may take. After that it is killed with all processes that it started.
    pub deadline: Duration,
}

/// How a hook ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookExit {
    /// It exited with this code; 0 is success.
    Code(i32),
    /// A signal that ham4db did not send ended it.
    Signal(i32),
    /// It was killed at its deadline.
    TooSlow,
    /// It could not be started or waited for.
    NotRun(String),
}

/// The result of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookResult {
    /// How it ended.
    pub exit: HookExit,
    /// The end of its standard output and standard error, bounded.
    pub output: String,
    /// How long it ran, milliseconds.
    pub millis: u64,
}

/// Runs hooks on this machine.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs one command until it ends, at most until its deadline. Never fails: a failure is part of the result.
    async fn run(&self, call: HookCall) -> HookResult;
}
