//! The port `Hooks`: commands of the configuration as processes of this machine.
//!
//! Each command is a process group of its own, so that its deadline ends all that it began. What it leaves running after it has ended
//! by itself is left alone: a script may start something on purpose.

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

use crate::app::ports::{HookCall, HookEnd, HookExit, Hooks};

/// The shell when none is configured, as in orchestrator.
pub const USUAL_SHELL: &str = "bash";
/// What stands in for it where it is not installed: small images have no bash.
const PLAIN_SHELL: &str = "sh";
/// How much of a command's output is kept, bytes: the end of it, where errors stand.
const KEPT_OUTPUT: usize = 8 * 1024;
/// How long the rest of the output is read for after the command has ended: something that it left running may hold the pipe open.
const REST_OF_OUTPUT: Duration = Duration::from_millis(200);

/// Runs commands through a shell.
#[derive(Clone, Debug)]
pub struct ShellHooks {
    shell: String,
    hidden: BTreeSet<String>,
}

impl ShellHooks {
    /// `shell` understands `-c`. Commands get the environment of this process without the variables in `hidden`: those that carry
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
            Err(error) if error.kind() == ErrorKind::NotFound && self.shell == USUAL_SHELL => {
                self.spawn(PLAIN_SHELL, call)
            }
            started => started,
        }
    }
}

#[async_trait]
impl Hooks for ShellHooks {
    async fn run(&self, call: HookCall) -> HookEnd {
        let begun = Instant::now();
        let ended = |exit, output| HookEnd {
            exit,
            output,
            millis: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let mut child = match self.start(&call) {
            Ok(child) => child,
            Err(error) => return ended(HookExit::NotRun(format!("{}: {error}", self.shell)), String::new()),
        };
        let mut group = Group::of(&child);
        let tail = Tail::default();
        let readers = [
            child.stdout.take().map(|pipe| tokio::spawn(tail.clone().read(pipe))),
            child.stderr.take().map(|pipe| tokio::spawn(tail.clone().read(pipe))),
        ];
        let writer = child.stdin.take().map(|mut pipe| {
            tokio::spawn(async move {
                // A command that does not read its input closes it: that is its right.
                if let Err(error) = pipe.write_all(call.input.as_bytes()).await {
                    debug!("a hook did not read its input: {error}");
                }
            })
        });
        let exit = match timeout(call.deadline, child.wait()).await {
            Ok(Ok(status)) => {
                group.let_go();
                exit_of(status)
            }
            Ok(Err(error)) => {
                group.kill();
                HookExit::NotRun(error.to_string())
            }
            Err(_) => {
                group.kill();
                // It was killed; this only takes it off the table of processes.
                if let Err(error) = child.wait().await {
                    warn!("a hook that was ended cannot be awaited: {error}");
                }
                HookExit::TooSlow
            }
        };
        let rest = Instant::now();
        for mut reader in readers.into_iter().flatten() {
            if timeout(REST_OF_OUTPUT.saturating_sub(rest.elapsed()), &mut reader)
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

/// The process group of a command. Dropped before the command has ended, it ends it: nobody waits for its answer any more.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The command has ended; its number may soon be another's.
    fn let_go(&mut self) {
        self.0 = None;
    }

    fn kill(&mut self) {
        if let Some(pid) = self.0.take()
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            debug!(
                "process group {pid} of a hook was not ended: {error}",
                pid = pid.as_raw_nonzero()
            );
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what was written to both outputs.
#[derive(Clone, Default)]
struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Reads to the end, so that a command is never held up by its own output, and keeps the last of it.
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
