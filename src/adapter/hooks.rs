//! The port `Hooks`: runs the configured commands as processes on this machine.
//!
//! Each command is a process group of its own, so that its deadline kills all processes that it started. Processes that remain after the
//! command exited by itself keep running: a script may start them on purpose.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::app::ports::{HookCall, HookExit, HookResult, Hooks};

/// The default shell, as in orchestrator.
pub const DEFAULT_SHELL: &str = "bash";
/// Replaces the default shell where it is not installed: small images have no bash.
const FALLBACK_SHELL: &str = "sh";
/// How much of the end of the output of a command is kept, bytes. Errors are usually at the end.
const KEPT_OUTPUT: usize = 8 * 1024;
/// How long the output is read after the command exited: a process that it started may keep the pipe open.
const OUTPUT_DRAIN_DEADLINE: Duration = Duration::from_millis(200);

/// Runs commands in a shell.
#[derive(Clone, Debug)]
pub struct ShellHooks {
    shell: String,
    hidden: BTreeSet<String>,
}

impl ShellHooks {
    /// `shell` must support `-c`. Commands get the environment of this process without the variables in `hidden`, which contain
    /// passwords.
    pub fn new(shell: &str, hidden: BTreeSet<String>) -> Self {
        Self {
            shell: shell.to_owned(),
            hidden,
        }
    }

    fn spawn(&self, shell: &str, call: &HookCall) -> std::io::Result<Child> {
        let mut command = Command::new(shell);
        command
            .arg("-c")
            .arg(&call.text)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        for name in &self.hidden {
            command.env_remove(name);
        }
        command.envs(&call.environment).spawn()
    }

    fn start(&self, call: &HookCall) -> std::io::Result<Child> {
        match self.spawn(&self.shell, call) {
            Err(error) if error.kind() == ErrorKind::NotFound && self.shell == DEFAULT_SHELL => {
                self.spawn(FALLBACK_SHELL, call)
            }
            started => started,
        }
    }
}

#[async_trait]
impl Hooks for ShellHooks {
    async fn run(&self, call: HookCall) -> HookResult {
        let begun = Instant::now();
        let ended = |exit, output| HookResult {
            exit,
            output,
            millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let mut child = match self.start(&call) {
            Ok(child) => child,
            Err(error) => return ended(HookExit::NotRun(format!("{}: {error}", self.shell)), String::new()),
        };
        let mut group = ProcessGroup::of(&child);
        let tail = OutputTail::default();
        let readers = [
            child.stdout.take().map(|pipe| tokio::spawn(tail.clone().read(pipe))),
            child.stderr.take().map(|pipe| tokio::spawn(tail.clone().read(pipe))),
        ];
        let writer = child.stdin.take().map(|mut pipe| {
            tokio::spawn(async move {
                // A command need not read its input.
                if let Err(error) = pipe.write_all(call.input.as_bytes()).await {
                    debug!("a hook did not read its input: {error}");
                }
            })
        });
        let exit = match timeout(call.deadline, child.wait()).await {
            Ok(Ok(status)) => {
                group.release();
                exit_of(status)
            }
            Ok(Err(error)) => {
                group.kill();
                HookExit::NotRun(error.to_string())
            }
            Err(_) => {
                group.kill();
                // The process was killed; this only collects its exit status.
                if let Err(error) = child.wait().await {
                    warn!("failed to wait for a hook that was killed: {error}");
                }
                HookExit::TooSlow
            }
        };
        let rest = Instant::now();
        for mut reader in readers.into_iter().flatten() {
            if timeout(OUTPUT_DRAIN_DEADLINE.saturating_sub(rest.elapsed()), &mut reader)
                .await
                .is_err()
            {
                reader.abort();
            }
        }
        if let Some(writer) = writer {
            writer.abort();
        }
        ended(exit, tail.text())
    }
}

fn exit_of(status: ExitStatus) -> HookExit {
    match (status.code(), status.signal()) {
        (Some(code), _) => HookExit::Code(code),
        (None, Some(signal)) => HookExit::Signal(signal),
        (None, None) => HookExit::NotRun(status.to_string()),
    }
}

/// The process group of a command. When it is dropped before the command exited, it kills the group: the result is no longer needed.
struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The command exited: its process id may be reused, so the group must not be killed.
    fn release(&mut self) {
        self.0 = None;
    }

    fn kill(&mut self) {
        if let Some(pid) = self.0.take()
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            debug!(
                "failed to kill process group {pid} of a hook: {error}",
                pid = pid.as_raw_nonzero()
            );
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of the output on both streams.
#[derive(Clone, Default)]
struct OutputTail(Arc<Mutex<Vec<u8>>>);

impl OutputTail {
    /// Reads to the end, so that output never blocks the command, and keeps the last bytes.
    async fn read(self, mut pipe: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; KEPT_OUTPUT];
        loop {
            match pipe.read(&mut chunk).await {
                Ok(count) if count > 0 => self.add(chunk.get(..count).unwrap_or_default()),
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(bytes);
        let surplus = kept.len().saturating_sub(KEPT_OUTPUT);
        kept.drain(..surplus);
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}

#[cfg(test)]
#[path = "hooks_tests.rs"]
mod tests;
