//! Whole groups in one process: members on loopback ports, with links that can be cut and disks that can be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use ham4db::adapter::raft::{
    BootstrapObserver, BootstrapStep, LinkFilter, MemberDependencies, RaftMember, RaftSettings, Resolve, StartError,
    Timings, WantedMember,
};
use ham4db::app::group_clock::GroupClock;
use ham4db::app::ports::{BootstrapMarker, Clock, Consensus, Health, ObservationSource, OpinionSource, Peer, Question};
use ham4db::domain::clock_skew::DEFAULT_LIMIT_MILLIS;
use ham4db::domain::finding::{Opinion, OpinionVerdict};
use ham4db::domain::intent::Origin;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::state::{Applied, Command, Seed};
use ham4db::domain::time::{MonotonicTime, WallTime};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::store::MemoryStore;

/// Deadline for waits, long enough for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A command that adds a seed.
pub fn seed(number: u64) -> Command {
    let instance = InstanceKey::new(format!("db{number}"), 3306);
    Command::Discover {
        seed: Seed {
            instance,
            origin: Origin::Api,
        },
    }
}

/// Waits until `look` returns a value.
pub async fn eventually<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "not within {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || std::future::ready(holds().then_some(()))).await;
}

/// The clocks of this machine; the wall clock may be wrong by a number of milliseconds.
pub struct SystemClock(Instant, Arc<AtomicI64>);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now(), Arc::default())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        WallTime(i64::try_from(since.as_millis()).unwrap()).plus_millis(self.1.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }
}

/// Reports under its own name that the suspect is dead.
struct Witness(String);

#[async_trait]
impl OpinionSource for Witness {
    async fn opinion(&self, question: Question) -> Opinion {
        assert!(question.millis > 0);
        Opinion {
            member: 0,
            name: self.0.clone(),
            at: WallTime(1),
            millis: 1,
            data_center: String::new(),
            verdict: OpinionVerdict::Dead,
            observations: Vec::new(),
            remembered: None,
        }
    }
}

/// The cut links, by names of sender and receiver.
#[derive(Clone, Default)]
pub struct Cuts(Arc<RwLock<BTreeSet<(String, String)>>>);

impl LinkFilter for Cuts {
    fn passes(&self, from: &str, to: &str) -> bool {
        !self.0.read().unwrap().contains(&(from.to_owned(), to.to_owned()))
    }
}

/// A DNS whose records change.
#[derive(Clone, Default)]
pub struct Dns(Arc<RwLock<BTreeMap<String, IpAddr>>>);

#[async_trait]
impl Resolve for Dns {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<SocketAddr>> {
        let found = self.0.read().unwrap().get(host).copied();
        found
            .map(|ip| vec![SocketAddr::new(ip, 0)])
            .ok_or_else(|| std::io::Error::other(format!("no such name: {host}")))
    }
}

/// Halts a member when it first passes a step.
#[derive(Debug)]
pub struct HaltAt(Mutex<Option<BootstrapStep>>);

impl HaltAt {
    pub fn step(step: BootstrapStep) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(step))))
    }

    pub fn was_reached(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

impl BootstrapObserver for HaltAt {
    fn passed(&self, step: &BootstrapStep) -> bool {
        let mut wanted = self.0.lock().unwrap();
        let reached = wanted.as_ref() == Some(step);
        if reached {
            *wanted = None;
        }
        !reached
    }
}

/// A marker object in memory.
#[derive(Default)]
pub struct MemoryMarker(Mutex<Option<String>>);

#[async_trait]
impl BootstrapMarker for MemoryMarker {
    async fn create_or_read(&self, content: &str) -> std::io::Result<String> {
        Ok(self.0.lock().unwrap().get_or_insert_with(|| content.to_owned()).clone())
    }
}

/// One member: what survives its process, and the process.
pub struct Node {
    pub name: String,
    pub address: SocketAddr,
    pub directory: TempDir,
    pub store: MemoryStore,
    pub wanted: watch::Sender<Vec<WantedMember>>,
    pub running: Option<Arc<RaftMember>>,
    /// Command version that it reports, if it differs from that of the program.
    pub understands: Option<u32>,
    /// What answers requests for its observations.
    pub observations: Option<Arc<dyn ObservationSource>>,
    /// By how many milliseconds its clock is ahead.
    pub clock_wrong_by: Arc<AtomicI64>,
    /// The clock that the running member uses.
    pub clock: Option<Arc<GroupClock>>,
    /// The data center that it reports.
    pub data_center: String,
    /// The host name by which peers know it, if not its address.
    host: Option<String>,
    api: SocketAddr,
    _api_server: tokio::task::JoinHandle<()>,
    listener: Option<TcpListener>,
}

impl Node {
    pub fn member(&self) -> &Arc<RaftMember> {
        self.running.as_ref().expect("the member runs")
    }

    pub fn id(&self) -> u64 {
        self.member().me().id
    }

    pub fn leads(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|member| member.leadership().borrow().is_leader)
    }

    pub fn health(&self) -> Result<(), String> {
        match self.member().health() {
            Health::Healthy => Ok(()),
            Health::Unhealthy(why) => Err(why),
        }
    }

    pub fn seeds(&self) -> usize {
        self.member().state().borrow().seeds.len()
    }

    fn advertised(&self) -> String {
        self.host.as_ref().map_or_else(
            || self.address.to_string(),
            |host| format!("{host}:{}", self.address.port()),
        )
    }

    fn as_wanted(&self) -> WantedMember {
        WantedMember {
            name: self.name.clone(),
            raft_address: self.advertised(),
            http_uri: format!("http://{}", self.api),
        }
    }
}

/// The members of a group, founded or not.
pub struct Group {
    pub nodes: Vec<Node>,
    pub cuts: Cuts,
    pub timings: Timings,
    pub key: Option<String>,
    pub marker: Option<Arc<MemoryMarker>>,
    dns: Option<Dns>,
    founders: usize,
    proposed: AtomicU64,
}

impl Group {
    /// Members a, b, c ... with bound ports; none is running.
    pub async fn prepare(size: usize) -> Self {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            rustls::crypto::ring::default_provider()
                .install_default()
                .expect("no other provider is installed");
            if std::env::var_os("RUST_LOG").is_some() {
                tracing_subscriber::fmt()
                    .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                    .with_test_writer()
                    .init();
            }
        });
        let mut group = Self {
            nodes: Vec::new(),
            cuts: Cuts::default(),
            timings: Timings::default(),
            key: None,
            marker: None,
            dns: None,
            founders: size,
            proposed: AtomicU64::new(0),
        };
        for index in 0..size {
            group
                .add(&format!("{}", char::from(b'a' + u8::try_from(index).unwrap())))
                .await;
        }
        group.want_all();
        group
    }

    /// Adds a node that is on no list yet.
    pub async fn add(&mut self, name: &str) {
        self.add_at(name, TcpListener::bind("127.0.0.1:0").await.unwrap()).await;
    }

    async fn add_at(&mut self, name: &str, listener: TcpListener) {
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, api_address) = (listener.local_addr().unwrap(), api.local_addr().unwrap());
        let router = axum::Router::new().route("/api/live", axum::routing::get(|| async { "\"OK\"" }));
        self.nodes.push(Node {
            name: name.to_owned(),
            address,
            directory: tempfile::tempdir().unwrap(),
            store: MemoryStore::default(),
            wanted: watch::Sender::new(Vec::new()),
            running: None,
            understands: None,
            observations: None,
            clock_wrong_by: Arc::default(),
            clock: None,
            data_center: String::new(),
            host: None,
            api: api_address,
            _api_server: tokio::spawn(async move { axum::serve(api, router).await.unwrap() }),
            listener: Some(listener),
        });
    }

    /// Pods of a StatefulSet: known by name, with different addresses and the same port.
    pub async fn stateful_set(size: usize) -> Self {
        let mut group = Self::prepare(0).await;
        group.founders = size;
        group.dns = Some(Dns::default());
        for _ in 0..size {
            group.add_pod().await;
        }
        group.want_all();
        group
    }

    /// The next ordinal.
    pub async fn add_pod(&mut self) {
        let ordinal = self.nodes.len();
        let port = self.nodes.first().map_or(0, |node| node.address.port());
        let ip = IpAddr::from([127, 0, 0, 11 + u8::try_from(ordinal).unwrap()]);
        let name = format!("ham4db-{ordinal}");
        self.add_at(&name, TcpListener::bind((ip, port)).await.unwrap()).await;
        self.nodes[ordinal].host = Some(format!("{name}.ham4db-peers.test.svc"));
        self.point_name(ordinal);
    }

    /// Lets the name of a pod resolve to the present address of the pod.
    pub fn point_name(&self, index: usize) {
        let node = &self.nodes[index];
        let records = self.dns.as_ref().expect("a StatefulSet has a DNS");
        records
            .0
            .write()
            .unwrap()
            .insert(node.host.clone().expect("a pod has a host name"), node.address.ip());
    }

    /// Puts all nodes on the lists of all members.
    pub fn want_all(&self) {
        self.want(&self.nodes.iter().map(Node::as_wanted).collect::<Vec<_>>());
    }

    /// Sets the list of all members.
    pub fn want(&self, list: &[WantedMember]) {
        for node in &self.nodes {
            node.wanted.send_replace(list.to_vec());
        }
    }

    /// The list entries of some nodes.
    pub fn entries(&self, indices: &[usize]) -> Vec<WantedMember> {
        indices.iter().map(|index| self.nodes[*index].as_wanted()).collect()
    }

    pub async fn try_start(&mut self, index: usize, observer: Option<Arc<HaltAt>>) -> Result<(), StartError> {
        let founders = self.nodes.iter().take(self.founders).map(Node::as_wanted).collect();
        let node = &mut self.nodes[index];
        let listener = match node.listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(node.address).await.unwrap(),
        };
        let settings = RaftSettings {
            name: node.name.clone(),
            raft_address: node.advertised(),
            http_uri: format!("http://{}", node.api),
            data_dir: node.directory.path().join("raft"),
            founders,
            data_center: node.data_center.clone(),
            group_key: self.key.clone().map(Into::into),
            timings: self.timings.clone(),
        };
        let own_clock = Arc::new(SystemClock(Instant::now(), node.clock_wrong_by.clone()));
        let clock = Arc::new(GroupClock::new(own_clock, DEFAULT_LIMIT_MILLIS));
        node.clock = Some(clock.clone());
        let mut around = MemberDependencies::new(
            Arc::new(node.store.clone()),
            Arc::new(Witness(node.name.clone())),
            clock,
            node.wanted.subscribe(),
        );
        around.observations = node.observations.clone();
        around.links = Arc::new(self.cuts.clone());
        around.understands = node.understands.unwrap_or(around.understands);
        if let Some(dns) = &self.dns {
            around.resolver = Arc::new(dns.clone());
        }
        around.marker = self.marker.clone().map(|marker| marker as Arc<dyn BootstrapMarker>);
        if let Some(observer) = observer {
            around.observer = observer;
        }
        node.running = Some(RaftMember::start(settings, around, listener).await?);
        Ok(())
    }

    pub async fn start(&mut self, index: usize) {
        self.try_start(index, None).await.unwrap();
    }

    pub async fn stop(&mut self, index: usize) {
        self.nodes[index]
            .running
            .take()
            .expect("the member runs")
            .shutdown()
            .await;
    }

    /// Removes the disk and the backend of a stopped member.
    pub fn lose_disk(&mut self, index: usize) {
        assert!(self.nodes[index].running.is_none());
        self.nodes[index].directory = tempfile::tempdir().unwrap();
        self.nodes[index].store = MemoryStore::default();
    }

    /// A group with healthy members.
    pub async fn running(size: usize) -> Self {
        Self::running_with(size, |_| {}).await
    }

    pub async fn running_with(size: usize, arrange: impl FnOnce(&mut Self)) -> Self {
        let mut group = Self::prepare(size).await;
        arrange(&mut group);
        for index in 0..size {
            group.start(index).await;
        }
        group.healthy().await;
        group
    }

    /// Waits until all running members are healthy voters.
    pub async fn healthy(&self) {
        for node in self.nodes.iter().filter(|node| node.running.is_some()) {
            let until = Instant::now() + PATIENCE;
            while let Err(why) = node.health() {
                assert!(Instant::now() < until, "{} is not healthy: {why}", node.name);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Waits for a leader among some members.
    pub async fn leader_among(&self, indices: &[usize]) -> usize {
        eventually("a leader", || async {
            for index in indices {
                if self.nodes[*index].leads() && self.nodes[*index].member().barrier().await.is_ok() {
                    return Some(*index);
                }
            }
            None
        })
        .await
    }

    pub async fn leader(&self) -> usize {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.leader_among(&all).await
    }

    /// Cuts or restores all links of a member.
    pub fn isolate(&self, index: usize, cut: bool) {
        let name = &self.nodes[index].name;
        let mut cuts = self.cuts.0.write().unwrap();
        for other in self.nodes.iter().map(|node| &node.name).filter(|other| *other != name) {
            for link in [(name.clone(), other.clone()), (other.clone(), name.clone())] {
                if cut {
                    cuts.insert(link)
                } else {
                    cuts.remove(&link)
                };
            }
        }
    }

    /// A command that adds one more seed.
    pub fn next_seed(&self) -> Command {
        seed(self.proposed.fetch_add(1, Ordering::SeqCst))
    }

    /// Commits seeds at the leader, and returns the number of seeds.
    pub async fn commit(&self, count: usize) -> usize {
        for _ in 0..count {
            let command = self.next_seed();
            eventually("a commit", || async {
                for node in self.nodes.iter().filter(|node| node.leads()) {
                    if node.member().propose(command.clone()).await == Ok(Applied::Done) {
                        return Some(());
                    }
                }
                None
            })
            .await;
        }
        usize::try_from(self.proposed.load(Ordering::SeqCst)).unwrap()
    }

    /// Waits until all running members have this many seeds.
    pub async fn all_have(&self, seeds: usize) {
        for node in self.nodes.iter().filter(|node| node.running.is_some()) {
            until(&format!("{} has {seeds} seeds", node.name), || node.seeds() == seeds).await;
        }
    }

    /// The committed voters as the leader knows them.
    pub async fn voters(&self) -> Vec<Peer> {
        let leader = self.leader().await;
        self.nodes[leader]
            .member()
            .peers()
            .into_iter()
            .filter(|peer| peer.voter)
            .collect()
    }

    pub async fn shutdown(mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].running.is_some() {
                self.stop(index).await;
            }
        }
    }
}
