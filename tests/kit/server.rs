//! One real database server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::netns::Host;
use super::pool::{self, Baseline};
use super::ports::PortLease;
use super::process::{Launch, Process};
use super::replication::{Flavour, ReplicaStatus};
use super::run::{Run, command, hand_over, hand_over_all, setup_script};
use super::sql::{Address, Session};
use super::wait::until;

/// How long a server may take from its start to its first answer, crash recovery included, on a busy machine.
const START: Duration = Duration::from_secs(90);
/// A socket's path may be 107 bytes long on Linux.
const SOCKET_PATH: usize = 107;

/// How a server is set up.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, each of its own name"
)]
pub(crate) struct ServerOptions {
    pub(crate) flavour: Flavour,
    /// Its number in the topology, from 1: names it `db1` and gives it its server id.
    pub(crate) number: u32,
    /// Commits wait for a replica (`AFTER_SYNC`), and it acknowledges as a replica.
    pub(crate) semi_sync: bool,
    /// Whether it is read-only after a start. A primary is not, which is what makes its return dangerous.
    pub(crate) boots_read_only: bool,
    /// It costs 200 MB and some seconds of start, so only where something is to be read from it.
    pub(crate) performance_schema: bool,
    /// A network namespace of its own, or 127.0.0.1.
    pub(crate) host: Option<Host>,
    /// It has a door for administrators that is open when it is full.
    pub(crate) reserved: bool,
    /// More options of the server, like `--general-log=ON`; the last of two with one name counts.
    pub(crate) more: Vec<String>,
}

impl ServerOptions {
    /// Whether a server with these options can serve several runs in turn.
    fn can_be_pooled(&self) -> bool {
        self.host.is_none() && !self.reserved && !self.performance_schema && self.more.is_empty()
    }
}

/// A server, running or not.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    options: ServerOptions,
    address: Address,
    launch: Launch,
    folder: PathBuf,
    socket: PathBuf,
    process: Option<Process>,
    leases: Vec<PortLease>,
    pooled: Option<Pooled>,
}

/// What is known of a server that may serve several runs. Its folder lies outside the folders of the runs.
#[derive(Debug)]
struct Pooled {
    /// The run that it serves.
    run: Option<Arc<Run>>,
    /// Its state before the run.
    baseline: Option<Baseline>,
    /// No test has stopped, killed or reconfigured its process.
    is_unmodified: AtomicBool,
}

/// Sets up the servers of a flavour in the cache, unless they are there, and returns their folder.
pub(crate) fn ensure_servers(flavour: Flavour) -> Result<PathBuf> {
    let script = setup_script("ensure.sh").to_string_lossy().into_owned();
    let status = std::process::Command::new(&script)
        .arg(flavour.name())
        .status()
        .with_context(|| format!("run {script}"))?;
    ensure!(
        status.success(),
        "{script} {} failed: see what it said above",
        flavour.name()
    );
    Ok(PathBuf::from(command(&script, &["--where", flavour.name()])?.trim()))
}

impl Server {
    /// Copies the empty data directory, starts a server on it and waits until it answers.
    pub(crate) async fn start(run: Arc<Run>, home: PathBuf, options: ServerOptions) -> Result<Self> {
        let name = format!("db{}", options.number);
        let is_pooled = run.uses_pool() && options.can_be_pooled();
        if is_pooled && let Some(server) = pool::take(&run, &options).await {
            return Ok(server);
        }
        let folder = if is_pooled {
            pool::new_folder(&name)?
        } else {
            run.subfolder(&name)?
        };
        copy_data(home.join("template"), folder.join("data")).await?;
        for attempt in 0.. {
            let mut server = Self::prepare(&run, &home, &options, &folder)?;
            if is_pooled {
                server.launch.log = folder.join("server.log");
                server.link_log(&run)?;
                server.pooled = Some(Pooled {
                    run: None,
                    baseline: None,
                    is_unmodified: AtomicBool::new(true),
                });
            }
            let mut outcome = server.start_again().await;
            if outcome.is_ok() && is_pooled {
                outcome = server.record_baseline(&run).await;
            }
            let log = fs::read_to_string(&server.launch.log)
                .unwrap_or_default()
                .to_lowercase();
            match outcome {
                Ok(()) => return Ok(server),
                // Another program took the port between the lease and the server's bind.
                Err(_) if attempt < 3 && log.contains("address already in use") => {
                    // The next attempt uses the same folder.
                    server.pooled = None;
                    fs::remove_file(&server.launch.log)?;
                }
                Err(error) => return Err(error),
            }
        }
        bail!("{name} found no free port")
    }

    fn prepare(run: &Run, home: &Path, options: &ServerOptions, folder: &Path) -> Result<Self> {
        let name = format!("db{}", options.number);
        let (address, lease) = if let Some(host) = &options.host {
            (Address::new(&host.address, 3306), None)
        } else {
            let lease = PortLease::take()?;
            (Address::new("127.0.0.1", lease.port()), Some(lease))
        };
        let socket = folder.join("sql.sock");
        let length = socket.as_os_str().len();
        ensure!(
            length <= SOCKET_PATH,
            "{} is too long for a socket: set XDG_CACHE_HOME to a shorter folder",
            socket.display()
        );
        let mut arguments = arguments(options, folder, &address);
        let mut leases: Vec<PortLease> = lease.into_iter().collect();
        if options.reserved {
            let door = PortLease::take()?;
            let port = door.port();
            arguments.extend(match options.flavour {
                Flavour::MySql => [
                    format!("--admin-address={}", address.host),
                    format!("--admin-port={port}"),
                ],
                Flavour::MariaDb => [format!("--extra-port={port}"), "--extra-max-connections=30".to_owned()],
            });
            leases.push(door);
        }
        arguments.extend(options.more.iter().cloned());
        let launch = Launch {
            name: name.clone(),
            program: home.join("run"),
            arguments,
            environment: Vec::new(),
            log: run.log(&name),
            namespace: options.host.as_ref().map(|host| host.namespace.clone()),
        };
        Ok(Self {
            name,
            options: options.clone(),
            address,
            launch,
            folder: folder.to_path_buf(),
            socket,
            process: None,
            leases,
            pooled: None,
        })
    }

    /// Empties its log and links it into the logs of the run.
    fn link_log(&self, run: &Run) -> Result<()> {
        let (log, name) = (&self.launch.log, run.log(&self.name));
        fs::File::create(log).with_context(|| format!("empty {}", log.display()))?;
        hand_over(log)?;
        fs::remove_file(&name).ok();
        fs::hard_link(log, &name).with_context(|| format!("link {}", name.display()))
    }

    /// Records its state before the run, and the run that it serves.
    async fn record_baseline(&mut self, run: &Arc<Run>) -> Result<()> {
        let mut session = self.session().await?;
        let baseline = Baseline::read(&mut session).await?;
        session.close().await;
        if let Some(pooled) = &mut self.pooled {
            (pooled.run, pooled.baseline) = (Some(Arc::clone(run)), Some(baseline));
        }
        Ok(())
    }

    /// Whether [`Server::reuse`] can set it up with these options.
    pub(super) fn matches(&self, options: &ServerOptions) -> bool {
        let own = &self.options;
        (own.flavour, own.number, own.boots_read_only) == (options.flavour, options.number, options.boots_read_only)
    }

    /// How it is set up.
    pub(super) fn options(&self) -> &ServerOptions {
        &self.options
    }

    /// Sets up a server that was reset for another run.
    pub(super) async fn reuse(&mut self, run: &Arc<Run>, options: &ServerOptions) -> Result<()> {
        self.link_log(run)?;
        self.options = options.clone();
        self.launch.arguments = arguments(options, &self.folder, &self.address);
        self.run(&options.flavour.switch_semi_sync(options.semi_sync)).await?;
        self.record_baseline(run).await
    }

    /// Brings it back to the state before its run, and checks that.
    pub(super) async fn reset(&self) -> Result<()> {
        let pooled = self.pooled.as_ref().context("the server is not pooled")?;
        let baseline = pooled.baseline.as_ref().context("its baseline was not recorded")?;
        let mut session = self.session().await?;
        baseline.restore(self.options.flavour, &mut session).await?;
        session.close().await;
        Ok(())
    }

    /// It serves no other run after this one.
    fn mark_modified(&self) {
        if let Some(pooled) = &self.pooled {
            pooled.is_unmodified.store(false, Ordering::Relaxed);
        }
    }

    /// Its name in this run, like `db1`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it is reached, which is also what it reports.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Its network namespace, if it has one.
    pub(crate) fn host(&self) -> Result<&Host> {
        self.options
            .host
            .as_ref()
            .with_context(|| format!("{} has no network namespace", self.name))
    }

    /// Its flavour.
    pub(crate) fn flavour(&self) -> Flavour {
        self.options.flavour
    }

    /// Starts it, as a supervisor would, without waiting for its first answer.
    pub(crate) fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(match &self.pooled {
            Some(_) => pool::spawn(&self.launch)?,
            None => Process::spawn(&self.launch)?,
        });
        Ok(())
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        self.answers().await
    }

    /// Waits until it answers; fails at once when it ends instead.
    async fn answers(&mut self) -> Result<()> {
        let begun = Instant::now();
        let mut ended: Option<ExitStatus> = None;
        let what = format!("{} to answer", self.name);
        let answer = until(START, &what, async || {
            ended = self.process.as_mut().map(Process::exited).transpose()?.flatten();
            if ended.is_some() {
                return Ok(Some(()));
            }
            let mut session = Session::root(&self.socket, &self.name, Duration::from_secs(2)).await?;
            session.value("SELECT 1").await?;
            session.close().await;
            Ok(Some(()))
        });
        answer.await?;
        if let Some(status) = ended {
            self.process = None;
            bail!(
                "{} ended {:.1} s after its start ({status}): see {}",
                self.name,
                begun.elapsed().as_secs_f64(),
                self.launch.log.display()
            );
        }
        Ok(())
    }

    /// From its next start on it is read-only after a start.
    pub(crate) fn set_boots_read_only(&mut self) -> Result<()> {
        self.set_boots("OFF", "ON")
    }

    /// From its next start on it is writable after a start, as a primary is whose configuration file says so.
    pub(crate) fn set_boots_writable(&mut self) -> Result<()> {
        self.set_boots("ON", "OFF")
    }

    /// Whether it is read-only after a start.
    pub(crate) fn boots_read_only(&self) -> bool {
        self.launch
            .arguments
            .iter()
            .any(|argument| argument.ends_with("read-only=ON"))
    }

    fn set_boots(&mut self, from: &str, to: &str) -> Result<()> {
        self.mark_modified();
        let (from, to) = (format!("read-only={from}"), format!("read-only={to}"));
        let mut arguments = self.launch.arguments.iter_mut();
        let argument = arguments.find(|argument| argument.ends_with(&from));
        let argument = argument.with_context(|| format!("{} is started with {to} already", self.name))?;
        *argument = argument.replace(&from, &to);
        Ok(())
    }

    /// From its next start on it has another value for an option that it was started with.
    pub(crate) fn set_option(&mut self, name: &str, value: &str) -> Result<()> {
        self.mark_modified();
        let begins = format!("--{name}=");
        let is_it = |argument: &&mut String| argument.starts_with(&begins);
        let argument = self.launch.arguments.iter_mut().rfind(is_it);
        let argument = argument.with_context(|| format!("{} is not told its {name}", self.name))?;
        *argument = format!("{begins}{value}");
        Ok(())
    }

    /// What it wrote into a file of its data directory.
    pub(crate) fn data_file(&self, name: &str) -> Result<String> {
        let file = self.socket.with_file_name("data").join(name);
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    }

    /// From its next start on it does not log what it replicates.
    pub(crate) fn stop_logging_what_it_replicates(&mut self) -> Result<()> {
        self.mark_modified();
        let is_it = |argument: &&mut String| {
            argument.starts_with("--log-replica-updates") || argument.starts_with("--log-slave-updates")
        };
        let argument = self.launch.arguments.iter_mut().find(is_it);
        let argument = argument.with_context(|| format!("{} is not told whether to log", self.name))?;
        *argument = argument.replace("=ON", "=OFF");
        Ok(())
    }

    /// Ends it, and starts another one at its address with nothing in it: what a person builds when a server cannot be saved.
    pub(crate) async fn rebuild(&mut self) -> Result<()> {
        let data = self.discard()?;
        let home = self.launch.program.parent().context("the program lies in a folder")?;
        copy_data(home.join("template"), data).await?;
        self.start_again().await
    }

    /// Ends it and removes what it stored. Returns its data directory, for the next one at its address.
    pub(crate) fn discard(&mut self) -> Result<PathBuf> {
        self.mark_modified();
        if self.process.is_some() {
            self.kill()?;
        }
        let data = self.socket.with_file_name("data");
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        // Under its old server id it would take what the first one wrote for its own, and leave it out.
        for argument in &mut self.launch.arguments {
            if let Some(number) = argument.strip_prefix("--server-id=") {
                let number: u32 = number.parse().context("a server id")?;
                *argument = format!("--server-id={}", number + 100);
            }
        }
        Ok(data)
    }

    /// A copy of its data in a folder that is not there yet, without its identity. Only MySQL can.
    pub(crate) async fn clone_data(&self, folder: &Path) -> Result<()> {
        let mut session = self.session().await?;
        let installed = "SELECT COUNT(*) FROM information_schema.plugins WHERE plugin_name = 'clone'";
        if session.value(installed).await? == "0" {
            session.run("INSTALL PLUGIN clone SONAME 'mysql_clone.so'").await?;
        }
        let copy = format!("CLONE LOCAL DATA DIRECTORY = '{}'", folder.display());
        session.run(&copy).await?;
        session.close().await;
        Ok(())
    }

    /// SIGKILL. Returns the instant just before it.
    pub(crate) fn kill(&mut self) -> Result<Instant> {
        self.mark_modified();
        let mut process = self
            .process
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        process.kill()
    }

    /// SIGSTOP: it accepts connections and says nothing.
    pub(crate) fn pause(&self) -> Result<()> {
        self.mark_modified();
        self.running()?.signal("STOP")
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) -> Result<()> {
        self.running()?.signal("CONT")
    }

    fn running(&self) -> Result<&Process> {
        self.process
            .as_ref()
            .with_context(|| format!("{} does not run", self.name))
    }

    /// Whether its process runs.
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// A session as root, over its socket.
    pub(crate) async fn session(&self) -> Result<Session> {
        Session::root(&self.socket, &self.name, Duration::from_secs(10)).await
    }

    /// Runs statements as root.
    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        let mut session = self.session().await?;
        session.run(sql).await?;
        session.close().await;
        Ok(())
    }

    /// One value, as root.
    pub(crate) async fn value(&self, sql: &str) -> Result<String> {
        let mut session = self.session().await?;
        let value = session.value(sql).await?;
        session.close().await;
        Ok(value)
    }

    /// What it has executed.
    pub(crate) async fn executed(&self) -> Result<String> {
        let mut session = self.session().await?;
        let executed = self.options.flavour.executed(&mut session).await?;
        session.close().await;
        Ok(executed)
    }

    /// The command line of a client on it, for a person.
    pub(crate) fn shell(&self) -> String {
        format!(
            "{} {} --user=root --socket={}",
            self.launch.program.display(),
            self.options.flavour.client(),
            self.socket.display()
        )
    }

    /// Waits until it has executed all of `wanted`.
    pub(crate) async fn has_executed(&self, wanted: &str, limit: Duration) -> Result<()> {
        let what = format!("{} to have executed {wanted}", self.name);
        // A session for each look: members end those of a returned primary.
        until(limit, &what, async || {
            let mut session = self.session().await?;
            let has = self.options.flavour.has_executed(&mut session, wanted).await?;
            session.close().await;
            Ok(has.then_some(()))
        })
        .await
    }

    /// What its channel says; `None` when it replicates from nobody.
    pub(crate) async fn replica_status(&self) -> Result<Option<ReplicaStatus>> {
        let mut session = self.session().await?;
        let status = self.options.flavour.replica_status(&mut session).await?;
        session.close().await;
        Ok(status)
    }

    /// Waits until it replicates from `source` with both threads.
    pub(crate) async fn follows(&self, source: &Address, limit: Duration) -> Result<()> {
        let what = format!("{} to replicate from {source}", self.name);
        // A session for each look: members end those of a returned primary.
        until(limit, &what, async || {
            let mut session = self.session().await?;
            let status = self.options.flavour.replica_status(&mut session).await?;
            session.close().await;
            if status.as_ref().is_some_and(|status| status.follows(source)) {
                Ok(Some(()))
            } else {
                bail!("{status:?}")
            }
        })
        .await
    }

    /// Whether a user without privileges may write: what the server says, not what a write shows.
    pub(crate) async fn is_read_only(&self) -> Result<bool> {
        Ok(self.value("SELECT @@GLOBAL.read_only").await? != "0")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The folder of any other server is removed with its run.
        let Some(mut pooled) = self.pooled.take() else { return };
        let runs = |process: &mut Process| matches!(process.exited(), Ok(None));
        let is_fit = pooled.is_unmodified.load(Ordering::Relaxed) && self.process.as_mut().is_some_and(runs);
        if let (true, Some(run)) = (is_fit, pooled.run.take()) {
            run.release(Self {
                name: self.name.clone(),
                options: self.options.clone(),
                address: self.address.clone(),
                launch: self.launch.clone(),
                folder: self.folder.clone(),
                socket: self.socket.clone(),
                process: self.process.take(),
                leases: std::mem::take(&mut self.leases),
                pooled: Some(pooled),
            });
            return;
        }
        let (process, leases, folder) = (
            self.process.take(),
            std::mem::take(&mut self.leases),
            self.folder.clone(),
        );
        // The end of a server takes some hundred milliseconds: the test does not wait for it.
        std::thread::spawn(move || {
            drop(process);
            drop(leases);
            fs::remove_dir_all(folder).ok();
        });
    }
}

/// The command line, without administrative ports and additional options.
fn arguments(options: &ServerOptions, folder: &Path, address: &Address) -> Vec<String> {
    let program = match options.flavour {
        Flavour::MySql => "mysqld",
        Flavour::MariaDb => "mariadbd",
    };
    let mut arguments = vec![
        program.to_owned(),
        "--no-defaults".to_owned(),
        format!("--datadir={}", folder.join("data").display()),
        format!("--socket={}", folder.join("sql.sock").display()),
        format!("--pid-file={}", folder.join("server.pid").display()),
        format!(
            "--bind-address={}",
            if options.host.is_some() { "0.0.0.0" } else { "127.0.0.1" }
        ),
        format!("--port={}", address.port),
        format!("--report-host={}", address.host),
        format!("--report-port={}", address.port),
        format!("--server-id={}", options.number),
        format!(
            "--performance-schema={}",
            if options.performance_schema { "ON" } else { "OFF" }
        ),
    ];
    arguments.extend(options.flavour.options(options.boots_read_only, options.semi_sync));
    arguments
}

/// A copy of the template, owned by the servers' user, without an identity of its own.
async fn copy_data(template: PathBuf, data: PathBuf) -> Result<()> {
    let copying = tokio::task::spawn_blocking(move || {
        command(
            "cp",
            &[
                "-a",
                "--reflink=auto",
                &template.to_string_lossy(),
                &data.to_string_lossy(),
            ],
        )?;
        // A copied auto.cnf would give two servers one uuid.
        fs::remove_file(data.join("auto.cnf")).ok();
        hand_over_all(&data)
    });
    copying.await.context("copy the data directory")?
}
