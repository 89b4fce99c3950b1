//! A process of a run: unprivileged, with a log, and dead when the test is, whatever ends the test.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::run::{command, hand_over, is_root, setup_script};
use super::wait::until;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Names it in errors.
    pub(crate) name: String,
    /// The program, as an absolute path.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Where its output goes, appended.
    pub(crate) log: PathBuf,
    /// The network namespace to start it in.
    pub(crate) namespace: Option<String>,
}

/// A running process, and the leader of a process group. Dropping it kills the group.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    /// The process that counts: another than the child only where sudo stands between.
    pid: u32,
}

impl Process {
    /// Starts it. Must be called on a thread that lives as long as the test (the kernel kills the child when the thread that started
    /// it ends), so not in `spawn_blocking`.
    pub(crate) fn spawn(launch: &Launch) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(&launch.log);
        let log = log.with_context(|| format!("open {}", launch.log.display()))?;
        hand_over(&launch.log)?;
        let pid_file = launch.log.with_extension("pid");
        let by_sudo = launch.namespace.is_some() && !is_root();
        let mut words: Vec<String> = Vec::new();
        let mut say = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
        if by_sudo {
            say(&["sudo", "-n"]);
        }
        if let Some(namespace) = &launch.namespace {
            say(&["ip", "netns", "exec", namespace]);
        }
        if by_sudo {
            let me = fs::metadata("/proc/self").context("look at /proc/self")?;
            let (user, group) = (me.uid().to_string(), me.gid().to_string());
            say(&[
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &group,
                "--clear-groups",
                "--",
                "sh",
                "-c",
            ]);
            say(&["echo $$ >\"$0\" && exec \"$@\"", &pid_file.to_string_lossy(), "env"]);
            for (name, value) in &launch.environment {
                say(&[&format!("{name}={value}")]);
            }
        } else {
            say(&[&setup_script("unprivileged.sh").to_string_lossy()]);
        }
        // After the change of user, which would clear it.
        say(&[
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            &launch.program.to_string_lossy(),
        ]);
        words.extend(launch.arguments.iter().cloned());
        let (first, rest) = words.split_first().expect("because setpriv is among the words");

        let mut process = Command::new(first);
        process
            .args(rest)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = launch.program.parent() {
            process.env("HAM4DB_EXPOSE", folder);
        }
        process.current_dir("/").stdin(Stdio::null()).process_group(0);
        process.stdout(clone_of(&log)?).stderr(clone_of(&log)?);
        let child = process
            .spawn()
            .with_context(|| format!("start {}: {first}", launch.name))?;
        let pid = if by_sudo { read_pid(&pid_file)? } else { child.id() };
        Ok(Self {
            name: launch.name.clone(),
            child,
            pid,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// SIGKILL. Returns the instant just before the signal; the process is gone when this returns.
    pub(crate) fn kill(&mut self) -> Result<Instant> {
        let before = Instant::now();
        if self.pid == self.child.id() {
            self.child.kill().with_context(|| format!("kill {}", self.name))?;
        } else {
            self.signal("KILL")?;
        }
        self.child.wait().with_context(|| format!("reap {}", self.name))?;
        Ok(before)
    }

    /// Sends a signal by its name without SIG: `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        command("kill", &[&format!("-{signal}"), &self.pid.to_string()])
            .with_context(|| format!("signal {}", self.name))?;
        Ok(())
    }

    /// How it ended, if it did.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("look at {}", self.name))
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        until(limit, &what, async || self.exited()).await
    }

    /// Processor time used so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .with_context(|| format!("read the stat of {}", self.name))?;
        // The name in brackets may hold anything, so the fields are counted from its end: utime is the 14th of all, stime the 15th.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().collect())
            .unwrap_or_default();
        let Some([utime, stime]) = fields.get(11..13) else {
            bail!("unexpected stat of {}: {stat}", self.name)
        };
        let ticks: u32 = utime.parse::<u32>()? + stime.parse::<u32>()?;
        // USER_HZ is 100 on every Linux that Rust's servers run on: it is part of the kernel's interface.
        Ok(f64::from(ticks) / 100.0)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("read the status of {}", self.name))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS in the status")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.pid != self.child.id() {
            command("kill", &["-KILL", &self.pid.to_string()]).ok();
        }
        // A stopped process dies of SIGKILL, too.
        command("kill", &["-KILL", "--", &format!("-{}", self.child.id())]).ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn clone_of(log: &File) -> Result<File> {
    log.try_clone().context("share the log file")
}

/// The process id that the shell below sudo wrote.
fn read_pid(file: &Path) -> Result<u32> {
    let begun = Instant::now();
    loop {
        if let Ok(Ok(pid)) = fs::read_to_string(file).map(|content| content.trim().parse()) {
            return Ok(pid);
        }
        if begun.elapsed() > Duration::from_secs(10) {
            bail!("no process id in {} after 10 s: does `sudo -n` work?", file.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
