//! A real HAProxy in front of members, with the example files of `deploy/haproxy`, and a watch on which servers it counts as up.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::ports::PortLease;
use super::process::{Launch, Process};
use super::run::{Run, command, hand_over};
use super::sql::Address;
use super::tools::find_tool;
use super::wait::until;

/// The example files: the second one is an addition to the first one.
pub(crate) const FILES: [&str; 2] = ["haproxy.cfg", "leader-503.cfg"];
/// Their backends that lead to the leader only, and the one of all healthy members.
pub(crate) const LEADER_BACKENDS: [&str; 2] = ["ham4db_leader_members", "ham4db_leader_503_members"];
pub(crate) const HEALTHY_BACKEND: &str = "ham4db_healthy_members";
/// How long HAProxy may take to start, and to find out which members are up.
const READY: Duration = Duration::from_secs(30);
/// How often it is asked which servers are up.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long it may take to answer that.
const ANSWER: Duration = Duration::from_secs(10);

/// The path of an example file.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/haproxy").join(name)
}

/// `haproxy -c` on files, in this order. The error has what it says.
pub(crate) fn check(files: &[PathBuf]) -> Result<()> {
    let program = find_tool("haproxy")?;
    let mut arguments = vec!["-c".to_owned()];
    for file in files {
        arguments.extend(["-f".to_owned(), file.to_string_lossy().into_owned()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    command(&program.to_string_lossy(), &arguments).map(drop)
}

/// HAProxy, running on this machine. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct HaProxy {
    socket: PathBuf,
    /// Its frontends: to the leader, to all healthy members, and to the leader by `/503`.
    pub(crate) leader: Address,
    pub(crate) members: Address,
    pub(crate) leader_503: Address,
    process: Process,
    _leases: Vec<PortLease>,
}

impl HaProxy {
    /// Starts it with the example files, in which only addresses are replaced, and waits until it knows the leader.
    pub(crate) async fn start(run: &Run, members: &[Address]) -> Result<Self> {
        let folder = run.subfolder("haproxy")?;
        let socket = folder.join("admin.sock");
        let leases = [PortLease::take()?, PortLease::take()?, PortLease::take()?];
        let fronts = leases.each_ref().map(|lease| Address::new("127.0.0.1", lease.port()));
        let mut files = Vec::new();
        for name in FILES {
            let mut text = fs::read_to_string(example(name)).with_context(|| format!("read {name}"))?;
            let mut replace = |from: &str, to: &str| text = text.replace(from, to);
            for (number, member) in (1..).zip(members) {
                replace(&format!("ham4db-{number}.example.com:3000"), &member.to_string());
            }
            for (port, front) in (3100..).zip(&fronts) {
                replace(&format!("bind :{port}"), &format!("bind {front}"));
            }
            replace("/run/haproxy/admin.sock", &socket.to_string_lossy());
            replace("log /dev/log local0", "log stdout format raw local0");
            ensure!(
                !text.contains("example.com"),
                "{name} has more servers than there are members"
            );
            let file = folder.join(name);
            fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            hand_over(&file)?;
            files.push(file);
        }
        check(&files)?;
        let mut arguments = vec!["-db".to_owned()];
        for file in &files {
            arguments.extend(["-f".to_owned(), file.to_string_lossy().into_owned()]);
        }
        let process = Process::spawn(&Launch {
            name: "haproxy".to_owned(),
            program: find_tool("haproxy")?,
            arguments,
            environment: Vec::new(),
            log: run.log("haproxy"),
            namespace: None,
        })?;
        let [leader, members, leader_503] = fronts;
        let mut proxy = Self {
            socket,
            leader,
            members,
            leader_503,
            process,
            _leases: leases.into(),
        };
        proxy.settles().await?;
        Ok(proxy)
    }

    /// Waits until every member is healthy and one leads, as it sees them.
    pub(crate) async fn settles(&mut self) -> Result<()> {
        until(
            READY,
            "HAProxy to know the leader and three healthy members",
            async || {
                if let Some(status) = self.process.exited()? {
                    bail!("HAProxy ended with {status}");
                }
                let up = up_at(&self.socket).await?;
                let of = |backend: &str| up.iter().filter(|(name, _)| name == backend).count();
                let counts = [of(LEADER_BACKENDS[0]), of(LEADER_BACKENDS[1]), of(HEALTHY_BACKEND)];
                ensure!(counts == [1, 1, 3], "up: {up:?}");
                Ok(Some(()))
            },
        )
        .await
    }

    /// Begins to watch which servers are up.
    pub(crate) fn watch(&self) -> UpWatch {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (socket, shared) = (self.socket.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                let up = up_at(&socket).await;
                shared.lock().unwrap_or_else(PoisonError::into_inner).add(up);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        UpWatch { seen, task }
    }
}

/// What `show stat` says: (backend, server) of each server that gets requests.
async fn up_at(socket: &Path) -> Result<Vec<(String, String)>> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(b"show stat\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(ANSWER, asked)
        .await
        .context("HAProxy does not answer at its socket")?
        .with_context(|| format!("ask {}", socket.display()))?;
    let mut lines = answer.lines();
    let header: Vec<&str> = lines
        .next()
        .and_then(|line| line.strip_prefix("# "))
        .with_context(|| format!("no header in {answer:?}"))?
        .split(',')
        .collect();
    let column = |name: &str| {
        header
            .iter()
            .position(|field| *field == name)
            .context("a column is missing")
    };
    let (backend, server, status) = (column("pxname")?, column("svname")?, column("status")?);
    let mut up = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default();
        if matches!(field(server), "FRONTEND" | "BACKEND") {
            continue;
        }
        // `UP`, `UP 1/3` while it goes down, `NOLB` while it keeps its sessions, `no check`: all but these get requests.
        if !(field(status).starts_with("DOWN") || field(status).starts_with("MAINT")) {
            up.push((field(backend).to_owned(), field(server).to_owned()));
        }
    }
    Ok(up)
}

#[derive(Debug, Default)]
struct Seen {
    looks: usize,
    failure: Option<String>,
    several: Option<String>,
    changes: Vec<(Instant, Vec<String>)>,
}

impl Seen {
    fn add(&mut self, up: Result<Vec<(String, String)>>) {
        let up = match up {
            Ok(up) => up,
            Err(error) => {
                self.failure.get_or_insert(format!("{error:#}"));
                return;
            }
        };
        self.looks += 1;
        let of = |backend: &str| -> Vec<String> {
            let servers = up.iter().filter(|(name, _)| name == backend);
            servers.map(|(_, server)| server.clone()).collect()
        };
        for backend in LEADER_BACKENDS {
            let servers = of(backend);
            if servers.len() > 1 {
                self.several.get_or_insert(format!("{servers:?} of {backend}"));
            }
        }
        let leaders = of(LEADER_BACKENDS[0]);
        if self.changes.last().is_none_or(|(_, last)| *last != leaders) {
            self.changes.push((Instant::now(), leaders));
        }
    }
}

/// A running watch. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct UpWatch {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// When which servers of the first backend were up.
pub(crate) type UpChange = (Instant, Vec<String>);

impl UpWatch {
    /// Ends it. It fails when two servers were up under leader-check at the same moment. Returns how often it looked, and when which
    /// servers of the first backend were up.
    pub(crate) fn end(self) -> Result<(usize, Vec<UpChange>)> {
        self.task.abort();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = std::mem::take(&mut *seen);
        if let Some(several) = seen.several {
            bail!("two servers were up under leader-check at the same moment: {several}");
        }
        if let Some(failure) = seen.failure {
            bail!("the watch on HAProxy failed: {failure}");
        }
        Ok((seen.looks, seen.changes))
    }
}

impl Drop for UpWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
