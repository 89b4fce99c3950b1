//! One real database server.

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::netns::Host;
use super::ports::PortLease;
use super::process::{Launch, Process};
use super::replication::{Flavour, ReplicaStatus};
use super::run::{Run, command, hand_over_all, setup_script};
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

/// A server, running or not.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    flavour: Flavour,
    address: Address,
    host: Option<Host>,
    launch: Launch,
    socket: PathBuf,
    process: Option<Process>,
    _leases: Vec<PortLease>,
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
        let folder = run.subfolder(&name)?;
        let data = folder.join("data");
        copy_data(home.join("template"), data.clone()).await?;
        for attempt in 0.. {
            let mut server = Self::prepare(&run, &home, &options, &name)?;
            let outcome = server.start_again().await;
            let log = fs::read_to_string(&server.launch.log)
                .unwrap_or_default()
                .to_lowercase();
            match outcome {
                Ok(()) => return Ok(server),
                // Another program took the port between the lease and the server's bind.
                Err(_) if attempt < 3 && log.contains("address already in use") => fs::remove_file(&server.launch.log)?,
                Err(error) => return Err(error),
            }
        }
        bail!("{name} found no free port")
    }

    fn prepare(run: &Run, home: &std::path::Path, options: &ServerOptions, name: &str) -> Result<Self> {
        let folder = run.subfolder(name)?;
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
        let program = match options.flavour {
            Flavour::MySql => "mysqld",
            Flavour::MariaDb => "mariadbd",
        };
        let mut arguments = vec![
            program.to_owned(),
            "--no-defaults".to_owned(),
            format!("--datadir={}", folder.join("data").display()),
            format!("--socket={}", socket.display()),
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
            name: name.to_owned(),
            program: home.join("run"),
            arguments,
            environment: Vec::new(),
            log: run.log(name),
            namespace: options.host.as_ref().map(|host| host.namespace.clone()),
        };
        Ok(Self {
            name: name.to_owned(),
            flavour: options.flavour,
            address,
            host: options.host.clone(),
            launch,
            socket,
            process: None,
            _leases: leases,
        })
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
        self.host
            .as_ref()
            .with_context(|| format!("{} has no network namespace", self.name))
    }

    /// Its flavour.
    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Starts it, as a supervisor would, without waiting for its first answer.
    pub(crate) fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} runs already", self.name);
        self.process = Some(Process::spawn(&self.launch)?);
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
        let argument = self
            .launch
            .arguments
            .iter_mut()
            .find(|argument| argument.contains("read-only=OFF"));
        let argument = argument.with_context(|| format!("{} is read-only after a start already", self.name))?;
        *argument = argument.replace("=OFF", "=ON");
        Ok(())
    }

    /// From its next start on it has another value for an option that it was started with.
    pub(crate) fn set_option(&mut self, name: &str, value: &str) -> Result<()> {
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
        if self.process.is_some() {
            self.kill()?;
        }
        let data = self.socket.with_file_name("data");
        fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        let home = self.launch.program.parent().context("the program lies in a folder")?;
        copy_data(home.join("template"), data).await?;
        // Under its old server id it would take what the first one wrote for its own, and leave it out.
        for argument in &mut self.launch.arguments {
            if let Some(number) = argument.strip_prefix("--server-id=") {
                let number: u32 = number.parse().context("a server id")?;
                *argument = format!("--server-id={}", number + 100);
            }
        }
        self.start_again().await
    }

    /// SIGKILL. Returns the instant just before it.
    pub(crate) fn kill(&mut self) -> Result<Instant> {
        let mut process = self
            .process
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        process.kill()
    }

    /// SIGSTOP: it accepts connections and says nothing.
    pub(crate) fn pause(&self) -> Result<()> {
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
        let executed = self.flavour.executed(&mut session).await?;
        session.close().await;
        Ok(executed)
    }

    /// The command line of a client on it, for a person.
    pub(crate) fn shell(&self) -> String {
        format!(
            "{} {} --user=root --socket={}",
            self.launch.program.display(),
            self.flavour.client(),
            self.socket.display()
        )
    }

    /// Waits until it has executed all of `wanted`.
    pub(crate) async fn has_executed(&self, wanted: &str, limit: Duration) -> Result<()> {
        let mut session = self.session().await?;
        let what = format!("{} to have executed {wanted}", self.name);
        until(limit, &what, async || {
            Ok(self.flavour.has_executed(&mut session, wanted).await?.then_some(()))
        })
        .await?;
        session.close().await;
        Ok(())
    }

    /// What its channel says; `None` when it replicates from nobody.
    pub(crate) async fn replica_status(&self) -> Result<Option<ReplicaStatus>> {
        let mut session = self.session().await?;
        let status = self.flavour.replica_status(&mut session).await?;
        session.close().await;
        Ok(status)
    }

    /// Waits until it replicates from `source` with both threads.
    pub(crate) async fn follows(&self, source: &Address, limit: Duration) -> Result<()> {
        let mut session = self.session().await?;
        let what = format!("{} to replicate from {source}", self.name);
        until(limit, &what, async || {
            let status = self.flavour.replica_status(&mut session).await?;
            if status.as_ref().is_some_and(|status| status.follows(source)) {
                Ok(Some(()))
            } else {
                bail!("{status:?}")
            }
        })
        .await?;
        session.close().await;
        Ok(())
    }

    /// Whether a user without privileges may write: what the server says, not what a write shows.
    pub(crate) async fn is_read_only(&self) -> Result<bool> {
        Ok(self.value("SELECT @@GLOBAL.read_only").await? != "0")
    }
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
