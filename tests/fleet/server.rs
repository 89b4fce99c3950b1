//! Simulated servers on loopback addresses, and what can be done to them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, Health};
use super::statements::{self, VERSION};
use super::wire::{self, Answer, Packets};

/// How many servers a cluster has.
pub(crate) const CLUSTER: usize = 5;
/// The servers are 127.20.0.1 and the following addresses, all with the same port.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 20, 0, 1);
/// How often a connection that waits for a user lock tries to take it.
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// `COM_QUIT`, `COM_INIT_DB`, `COM_QUERY`, `COM_PING`.
const QUIT: u8 = 1;
const INIT_DB: u8 = 2;
const QUERY: u8 = 3;
const PING: u8 = 14;

/// One server of the fleet: its cluster and its place in it.
struct Server {
    address: SocketAddrV4,
    cluster: Arc<Mutex<Cluster>>,
    place: usize,
    /// Ends its connections.
    life: CancellationToken,
    /// Accepts its connections.
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// The open connections by id, so that they can be killed.
    connections: Mutex<BTreeMap<u64, CancellationToken>>,
    next_connection: AtomicU64,
    /// What makes its packets vanish: a listener with a full queue.
    full_queue: Mutex<Option<(TcpListener, Vec<TcpStream>)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
            let ends = self.life.child_token();
            locked(&self.connections).insert(id, ends.clone());
            let server = Arc::clone(&self);
            tokio::spawn(async move {
                tokio::select! {
                    () = ends.cancelled() => {}
                    // An error is the end of the connection.
                    result = server.connection(stream, id) => drop(result),
                }
                locked(&server.connections).remove(&id);
                let mut cluster = locked(&server.cluster);
                let held = &mut cluster.server(server.place).locks;
                held.retain(|_, holder| *holder != id);
            });
        }
    }

    async fn connection(&self, stream: TcpStream, id: u64) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let (from, mut to) = stream.into_split();
        let mut from = BufReader::with_capacity(1024, from);
        let mut greeting = Packets::new(0, true);
        greeting.greeting(VERSION, id);
        to.write_all(greeting.bytes()).await?;
        let (sequence, login) = wire::read(&mut from).await?;
        let no_eof = wire::expects_no_eof(&login);
        let mut welcome = Packets::new(sequence.wrapping_add(1), no_eof);
        welcome.answer(&Answer::Done, false);
        to.write_all(welcome.bytes()).await?;
        loop {
            let (_, command) = wire::read(&mut from).await?;
            if locked(&self.cluster).server(self.place).health == Health::Silent {
                std::future::pending::<()>().await;
            }
            let mut packets = Packets::new(1, no_eof);
            match command.split_first() {
                Some((&QUERY, text)) => {
                    let text = String::from_utf8_lossy(text);
                    self.query(&mut packets, &text, id).await;
                }
                Some((&PING | &INIT_DB, _)) => packets.answer(&Answer::Done, false),
                Some((&QUIT, _)) | None => return Ok(()),
                Some(_) => packets.answer(&Answer::Error(1047, "Unknown command".to_owned()), false),
            }
            to.write_all(packets.bytes()).await?;
        }
    }

    async fn query(&self, packets: &mut Packets, text: &str, id: u64) {
        let statements = wire::statements(text);
        for (number, statement) in (1..).zip(&statements) {
            let answer = self.statement(statement, id).await;
            let has_failed = matches!(answer, Answer::Error(..));
            packets.answer(&answer, number < statements.len() && !has_failed);
            if has_failed {
                return;
            }
        }
    }

    async fn statement(&self, statement: &str, id: u64) -> Answer {
        if let Some(rest) = statement.strip_prefix("SELECT GET_LOCK('") {
            let (name, seconds) = rest.split_once("', ").unwrap_or((rest, "0"));
            let seconds = seconds.trim_end_matches(')').parse().unwrap_or_default();
            return self.get_lock(name, Duration::from_secs(seconds), id).await;
        }
        if let Some(victim) = statement.strip_prefix("KILL CONNECTION ") {
            let killed = victim.trim().parse().ok();
            let killed = killed.and_then(|victim: u64| locked(&self.connections).remove(&victim));
            return match killed {
                Some(connection) => {
                    connection.cancel();
                    Answer::Done
                }
                None => Answer::Error(1094, format!("Unknown thread id: {victim}")),
            };
        }
        let mut cluster = locked(&self.cluster);
        cluster.advance();
        statements::answer(&mut cluster, self.place, id, statement)
    }

    async fn get_lock(&self, name: &str, patience: Duration, id: u64) -> Answer {
        let begun = Instant::now();
        loop {
            let taken = statements::take_lock(locked(&self.cluster).server(self.place), name, id);
            if taken || begun.elapsed() >= patience {
                return Answer::value("GET_LOCK", Some(if taken { "1" } else { "0" }.into()));
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    async fn stop_listening(&self) {
        let accepting = locked(&self.accepting).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // It was cancelled just now.
            drop(accepting.await);
        }
    }

    fn set_health(&self, health: Health) {
        let mut cluster = locked(&self.cluster);
        cluster.advance();
        cluster.server(self.place).health = health;
        cluster.advance();
    }
}

/// All simulated servers.
pub(crate) struct Fleet {
    servers: Vec<Arc<Server>>,
    clusters: Vec<Arc<Mutex<Cluster>>>,
}

impl Fleet {
    /// Starts `count` servers, rounded up to whole clusters, which listen on this port.
    pub(crate) fn start(count: usize, port: u16) -> Result<Self> {
        let (mut servers, mut clusters) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(CLUSTER) {
            let first = u32::try_from(first)?;
            let addresses: Vec<SocketAddrV4> = (first..)
                .take(CLUSTER)
                .map(|number| SocketAddrV4::new(Ipv4Addr::from(u32::from(FIRST) + number), port))
                .collect();
            let cluster = Arc::new(Mutex::new(Cluster::new(&addresses, first + 1)));
            for (place, address) in addresses.into_iter().enumerate() {
                let server = Arc::new(Server {
                    address,
                    cluster: Arc::clone(&cluster),
                    place,
                    life: CancellationToken::new(),
                    accepting: Mutex::default(),
                    connections: Mutex::default(),
                    next_connection: AtomicU64::new(8),
                    full_queue: Mutex::default(),
                });
                let accepting = tokio::spawn(Arc::clone(&server).serve(listen(address, 128)?));
                *locked(&server.accepting) = Some(accepting);
                servers.push(server);
            }
            clusters.push(cluster);
        }
        Ok(Self { servers, clusters })
    }

    /// How many servers there are.
    pub(crate) fn len(&self) -> usize {
        self.servers.len()
    }

    /// How many clusters there are.
    pub(crate) fn clusters(&self) -> usize {
        self.clusters.len()
    }

    /// The address of the first primary of a cluster.
    pub(crate) fn primary(&self, cluster: usize) -> Result<SocketAddrV4> {
        let server = self
            .servers
            .get(cluster * CLUSTER)
            .context("there is no such cluster")?;
        Ok(server.address)
    }

    /// Ends the process of the first primary of a cluster. Returns the instant just before.
    pub(crate) async fn kill_primary(&self, cluster: usize) -> Result<Instant> {
        let server = self
            .servers
            .get(cluster * CLUSTER)
            .context("there is no such cluster")?;
        let before = Instant::now();
        server.life.cancel();
        server.stop_listening().await;
        server.set_health(Health::Dead);
        Ok(before)
    }

    /// Makes the packets of all servers of a cluster vanish.
    pub(crate) async fn silence(&self, cluster: usize) -> Result<()> {
        for server in self.servers.iter().skip(cluster * CLUSTER).take(CLUSTER) {
            server.set_health(Health::Silent);
            // The open connections stay and are not answered. Another listener that accepts nothing takes the place of this one.
            server.stop_listening().await;
            let listener = listen(server.address, 1)?;
            let mut streams = Vec::new();
            // With a queue of one the kernel holds two connections, and drops every further attempt to connect.
            for _ in 0..2 {
                streams.push(TcpStream::connect(server.address).await?);
            }
            *locked(&server.full_queue) = Some((listener, streams));
        }
        Ok(())
    }

    /// When a server of the cluster was made writable that was not before.
    pub(crate) fn opened(&self, cluster: usize) -> Option<Instant> {
        let cluster = self.clusters.get(cluster)?;
        locked(cluster).opened.map(|(_, at)| at)
    }

    /// Whether a server at this address is well, and its cluster was never touched by a failure.
    pub(crate) fn is_well(&self, address: &str) -> bool {
        let found = self.servers.iter().find(|server| server.address.to_string() == address);
        found.is_some_and(|server| locked(&server.cluster).server(server.place).health == Health::Well)
    }

    /// The clusters that were changed although all their servers are well.
    pub(crate) fn changed_though_well(&self) -> usize {
        let is_changed = |cluster: &&Arc<Mutex<Cluster>>| {
            let cluster = locked(cluster);
            let servers = || cluster.servers.iter();
            servers().all(|server| server.health == Health::Well) && servers().any(|server| server.changes > 0)
        };
        self.clusters.iter().filter(is_changed).count()
    }

    /// How many probes all servers got.
    pub(crate) fn probes(&self) -> u64 {
        let of =
            |cluster: &Arc<Mutex<Cluster>>| locked(cluster).servers.iter().map(|server| server.probes).sum::<u64>();
        self.clusters.iter().map(of).sum()
    }

    /// How many of the servers that are well were probed within this time, and how many are well.
    pub(crate) fn probed_within(&self, limit: Duration) -> (usize, usize) {
        let (mut probed, mut well) = (0, 0);
        for cluster in &self.clusters {
            for server in &locked(cluster).servers {
                if server.health == Health::Well {
                    well += 1;
                    probed += usize::from(server.probed.is_some_and(|at| at.elapsed() <= limit));
                }
            }
        }
        (probed, well)
    }
}

fn listen(address: SocketAddrV4, queue: u32) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.into()).with_context(|| format!("bind {address}"))?;
    socket.listen(queue).with_context(|| format!("listen on {address}"))
}
