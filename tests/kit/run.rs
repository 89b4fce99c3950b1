//! One run of a test, the demo or the bench: its folder under the cache, the secrets it made up, and its logs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};

use anyhow::{Context, Result, anyhow, bail};

use super::pool;
use super::server::Server;

/// The user and group of every process when root starts it; tests/setup/unprivileged.sh uses the same.
const NOBODY: u32 = 65_534;
/// How many lines of each log are shown when a run fails.
const LOG_TAIL: usize = 25;

/// The project's cache folder, found as tests/setup/tools.sh finds it.
pub(crate) fn cache() -> Result<PathBuf> {
    if let Some(cache) = std::env::var_os("CACHE").or_else(|| std::env::var_os("HAM4DB_TEST_DIR")) {
        return Ok(cache.into());
    }
    if let Some(folder) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&folder).join("ham4db"));
    }
    let home =
        std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set: where is the cache folder to be?")?;
    Ok(Path::new(&home).join(".cache/ham4db"))
}

/// A script under tests/setup.
pub(crate) fn setup_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup").join(name)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Runs a command to its end. The error has what it said.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A run: a folder `$CACHE/run/NAME-PID`, which is gone when the run is dropped. What its processes logged is kept when it failed.
#[derive(Debug)]
pub(crate) struct Run {
    name: String,
    folder: PathBuf,
    secrets: Mutex<Vec<String>>,
    succeeded: AtomicBool,
    /// It takes servers from the pool and returns its own to it.
    uses_pool: bool,
    /// Servers that it no longer needs and that can be pooled.
    released: Mutex<Vec<Server>>,
}

/// Carries out one scenario in a run of its own. When it fails, the ends of all logs are in the error and the whole logs stay in
/// `$CACHE/logs/failed/NAME`. No password may be in any log, whether it failed or not.
pub(crate) async fn scenario<T, F: Future<Output = Result<T>>>(
    name: &str,
    play: impl FnOnce(Arc<Run>) -> F,
) -> Result<T> {
    carry_out(Run::begin(name)?, play).await
}

/// The same in a run that has begun.
pub(super) async fn carry_out<T, F: Future<Output = Result<T>>>(
    run: Run,
    play: impl FnOnce(Arc<Run>) -> F,
) -> Result<T> {
    let run = Arc::new(run);
    let name = run.name();
    // On the heap, as a whole scenario is large.
    let outcome = Box::pin(play(Arc::clone(&run))).await;
    let logs = outcome.is_err().then(|| run.log_tails());
    // The cause comes before the logs: the first lines have it.
    let result = outcome
        .and_then(|result| run.assert_no_secret_in_logs().map(|()| result))
        .map_err(|error| match logs {
            Some(logs) => anyhow!(
                "scenario {name}: {error:#}; logs are kept in {}\n{logs}",
                run.kept_logs().display()
            ),
            None => error.context(format!("scenario {name}")),
        })?;
    run.succeed();
    let released = std::mem::take(&mut *run.released.lock().unwrap_or_else(PoisonError::into_inner));
    pool::give_back(released).await;
    Ok(result)
}

impl Run {
    /// Makes the folder. Folders of runs that were killed are removed first.
    pub(crate) fn begin(name: &str) -> Result<Self> {
        Self::begin_with(name, false)
    }

    /// The same for a run that takes servers from the pool and returns its own to it.
    pub(super) fn begin_with_pool(name: &str) -> Result<Self> {
        Self::begin_with(name, true)
    }

    fn begin_with(name: &str, uses_pool: bool) -> Result<Self> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // An error means that one is installed already.
            drop(rustls::crypto::ring::default_provider().install_default());
        });
        let runs = cache()?.join("run");
        fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        remove_dead_runs(&runs);
        let folder = runs.join(format!("{name}-{}", std::process::id()));
        let run = Self {
            name: name.to_owned(),
            folder,
            secrets: Mutex::default(),
            succeeded: AtomicBool::new(false),
            uses_pool,
            released: Mutex::default(),
        };
        if run.folder.exists() {
            fs::remove_dir_all(&run.folder).with_context(|| format!("remove {}", run.folder.display()))?;
        }
        run.subfolder("logs")?;
        Ok(run)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it takes servers from the pool and returns its own to it.
    pub(super) fn uses_pool(&self) -> bool {
        self.uses_pool
    }

    /// Keeps a server for the pool, until the run has succeeded.
    pub(super) fn release(&self, server: Server) {
        let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.push(server);
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder below it, owned by the user of the processes.
    pub(crate) fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        hand_over(&self.folder)?;
        hand_over(&folder)?;
        Ok(folder)
    }

    /// Where a process of that name logs. Appended to over restarts.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{process}.log"))
    }

    /// A new secret, which must not show up in any log of this run.
    pub(crate) fn secret(&self) -> String {
        // MySQL takes at most 32 characters for a replication account.
        let secret: String = format!("pw{}", uuid::Uuid::new_v4().simple())
            .chars()
            .take(30)
            .collect();
        self.secrets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(secret.clone());
        secret
    }

    /// Fails when one of the run's secrets is in a log or in a published status.
    pub(crate) fn assert_no_secret_in_logs(&self) -> Result<()> {
        let mut files = files_below(&self.folder.join("logs"));
        files.extend(files_below(&self.folder).into_iter().filter(|file| is_status(file)));
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        for file in files {
            let Ok(content) = fs::read(&file) else { continue };
            let content = String::from_utf8_lossy(&content);
            if let Some(line) = content
                .lines()
                .find(|line| secrets.iter().any(|secret| line.contains(secret.as_str())))
            {
                let masked = secrets.iter().fold(line.to_owned(), |line, secret| {
                    line.replace(secret.as_str(), "<PASSWORD>")
                });
                bail!("a password is in {}: {masked}", file.display());
            }
        }
        Ok(())
    }

    /// The run did what it should: nothing of it is to be kept.
    pub(crate) fn succeed(&self) {
        self.succeeded.store(true, Ordering::Relaxed);
    }

    /// Where the logs of a failed run are moved to.
    pub(crate) fn kept_logs(&self) -> PathBuf {
        self.folder
            .parent()
            .and_then(Path::parent)
            .unwrap_or(&self.folder)
            .join("logs/failed")
            .join(&self.name)
    }

    /// The last lines of every log.
    pub(crate) fn log_tails(&self) -> String {
        let mut tails = String::new();
        for file in files_below(&self.folder.join("logs")) {
            let content = fs::read(&file)
                .map(|content| String::from_utf8_lossy(&content).into_owned())
                .unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(LOG_TAIL)..)
                .unwrap_or_default()
                .join("\n    ");
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            tails.extend(["  ", &name, ":\n    ", &tail, "\n"]);
        }
        tails
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.succeeded.load(Ordering::Relaxed) {
            let kept = self.kept_logs();
            fs::remove_dir_all(&kept).ok();
            if let Some(parent) = kept.parent() {
                fs::create_dir_all(parent).ok();
            }
            fs::rename(self.folder.join("logs"), kept).ok();
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Gives a file or folder to the user that the processes run as.
pub(crate) fn hand_over(path: &Path) -> Result<()> {
    if is_root() {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("hand over {}", path.display()))?;
    }
    Ok(())
}

/// The same for a folder and all below it.
pub(crate) fn hand_over_all(path: &Path) -> Result<()> {
    if is_root() {
        command("chown", &["-R", &format!("{NOBODY}:{NOBODY}"), &path.to_string_lossy()])?;
    }
    Ok(())
}

fn is_status(file: &Path) -> bool {
    file.parent().is_some_and(|folder| folder.ends_with("manifests/status"))
}

/// Every file below a folder, in order of name. Data directories are left out: they are large, and hold passwords rightly.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "data") {
                files.extend(files_below(&path));
            }
        } else {
            files.push(path);
        }
    }
    files
}

/// Removes the folders `NAME-PID` whose process is gone: its children died with it.
fn remove_dead_runs(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.rsplit_once('-').and_then(|(_, pid)| pid.parse::<u32>().ok());
        if process.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}
