//! Simulated servers: their transactions, their sources, and the statements that they executed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::app::ports::OpenTransaction;
use crate::domain::fixture::{key, mysql_set, primary, replica, uuid};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{
    Channel, ConnectedReplica, Identity, InstanceFacts, Positioning, ProbeFailure, SemiSync, ThreadError, ThreadState,
};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::scheduled_events::EnabledEvents;
use crate::domain::settings::{Accounts, Boot, ServerSettings};
use crate::domain::state::MemberId;
use crate::domain::version::ServerVersion;

use super::fault::Fault;

/// How members reach a server. Replicas reach it while its process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The server answers.
    Answers,
    /// The members' packets are dropped.
    Dropped,
    /// The server accepts connections and does not answer.
    Stalls,
}

/// One server.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the server by itself")]
pub(crate) struct Server {
    /// Another server, which is not of the cluster, has this address.
    pub(crate) is_stranger: bool,
    /// The process runs.
    pub(crate) up: bool,
    pub(crate) reach: Reach,
    /// Packets between this server and these are dropped.
    pub(crate) cut_from: BTreeSet<InstanceKey>,
    /// The number of starts of the process. Connections of an earlier start are gone.
    pub(crate) life: u64,
    /// The time of the last start.
    pub(crate) started: Instant,
    pub(crate) boots_read_only: bool,
    /// Read-only since its start: no statement changed `read_only`.
    pub(crate) read_only_since_boot: bool,
    pub(crate) read_only: bool,
    /// Its version has no `super_read_only`.
    pub(crate) lacks_super_read_only: bool,
    /// The accounts that `read_only` does not stop there; `None`: they are not known.
    pub(crate) past_read_only: Option<Accounts>,
    /// What it shows of its enabled events.
    pub(crate) events: Option<EnabledEvents>,
    /// What it shows of backups.
    pub(crate) backup_lock: Option<bool>,
    /// The applier thread applies nothing.
    pub(crate) applier_hangs: bool,
    pub(crate) executed: GtidSet,
    pub(crate) channel: Option<Link>,
    /// Channels beside the managed one; nothing flows through them.
    pub(crate) other_channels: Vec<Channel>,
    /// The session that holds the step lock.
    pub(crate) lock: Option<u64>,
    pub(crate) facts: InstanceFacts,
    /// Open transactions of clients.
    pub(crate) transactions: Vec<OpenTransaction>,
    /// Addresses that clients registered as replicas, whatever is there.
    pub(crate) registered: BTreeSet<InstanceKey>,
}

/// The replication channel of a replica.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a state of the channel by itself")]
pub(crate) struct Link {
    pub(crate) source: InstanceKey,
    pub(crate) receives: bool,
    pub(crate) applies: bool,
    pub(crate) received: GtidSet,
    /// The receiver thread waits on a connection that is lost, and has not detected it.
    pub(crate) is_stale: bool,
    /// The configured delay of the applier thread. It is longer than any test.
    pub(crate) delay_seconds: u64,
    /// The applier thread uses relay log coordinates, with GTID off.
    pub(crate) is_off_gtid: bool,
    like: Channel,
}

/// The inside of a [`World`].
pub(crate) struct Inner {
    pub(crate) servers: BTreeMap<InstanceKey, Server>,
    /// Other addresses, each with the server to which it leads.
    pub(crate) addresses: BTreeMap<InstanceKey, InstanceKey>,
    /// Every statement that had an effect, as `SERVER STATEMENT by MEMBER`.
    pub(crate) log: Vec<String>,
    /// Violations of the invariants.
    pub(crate) violations: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    /// The sessions that were ended because they held the step lock: the server, the member that ended it, the session.
    pub(crate) killed_holders: Vec<(InstanceKey, String, u64)>,
    pub(crate) last_session: u64,
    pub(crate) last_write: u64,
    /// Relay logs do not contain what was applied, so they determine no positions.
    pub(crate) relay_logs_are_gone: bool,
    /// Origins of accounts that every server refuses.
    pub(crate) refused_accounts: BTreeSet<Origin>,
    /// Members whose packets to a server are dropped.
    pub(crate) dropped_of: BTreeSet<(MemberId, InstanceKey)>,
    /// Every probe and pulse, in order.
    pub(crate) looks: Vec<Look>,
}

/// A probe or a pulse of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) member: MemberId,
    pub(crate) server: InstanceKey,
    pub(crate) is_pulse: bool,
    pub(crate) at: Instant,
}

/// All servers; cheap to clone.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inner>>);

impl World {
    /// `db1` is a writable primary with transactions 1 to 100, `db2` to `dbN` replicate from it and have all of them.
    pub(crate) fn of_primary_and_replicas(servers: u32) -> Self {
        let mut all = BTreeMap::new();
        for n in 1..=servers {
            let instance = if n == 1 {
                primary(1, "1:1-100")
            } else {
                replica(n, 1, "1:1-100")
            };
            let facts = instance.facts.unwrap();
            let channel = facts.channels.first().map(|channel| Link {
                source: channel.source.clone(),
                receives: true,
                applies: true,
                received: facts.executed.clone(),
                is_stale: false,
                delay_seconds: 0,
                is_off_gtid: false,
                like: channel.clone(),
            });
            let server = Server {
                is_stranger: false,
                up: true,
                reach: Reach::Answers,
                cut_from: BTreeSet::new(),
                life: 1,
                started: Instant::now(),
                boots_read_only: false,
                read_only_since_boot: false,
                read_only: facts.read_only,
                lacks_super_read_only: false,
                past_read_only: None,
                events: None,
                backup_lock: None,
                applier_hangs: false,
                executed: facts.executed.clone(),
                channel,
                other_channels: Vec::new(),
                lock: None,
                facts,
                transactions: Vec::new(),
                registered: BTreeSet::new(),
            };
            all.insert(key(n), server);
        }
        let inner = Inner {
            servers: all,
            addresses: BTreeMap::new(),
            log: Vec::new(),
            violations: Vec::new(),
            faults: Vec::new(),
            killed_holders: Vec::new(),
            last_session: 0,
            last_write: 100,
            relay_logs_are_gone: false,
            refused_accounts: BTreeSet::new(),
            dropped_of: BTreeSet::new(),
            looks: Vec::new(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Panics of members are simulated too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes one server.
    pub(crate) fn with<T>(&self, n: u32, change: impl FnOnce(&mut Server) -> T) -> T {
        change(self.lock().servers.get_mut(&key(n)).unwrap())
    }

    /// Lets another address lead to a server.
    pub(crate) fn lead(&self, address: u32, to: u32) {
        self.lock().addresses.insert(key(address), key(to));
    }

    /// Stops the process of a server.
    pub(crate) fn kill(&self, n: u32) {
        self.lock().kill(&key(n));
    }

    /// Drops packets between a replica and its source. Neither detects it.
    pub(crate) fn cut(&self, replica: u32, source: u32) {
        self.with(replica, |server| {
            server.cut_from.insert(key(source));
            if let Some(link) = server.channel.as_mut().filter(|link| link.receives) {
                link.is_stale = true;
            }
        });
    }

    /// Starts the process of a server again.
    pub(crate) fn start(&self, n: u32) {
        self.lock().start(&key(n));
    }

    /// Clients write so many transactions to a server.
    pub(crate) fn write(&self, n: u32, transactions: u64) {
        let mut inner = self.lock();
        let (first, last) = (inner.last_write + 1, inner.last_write + transactions);
        inner.last_write = last;
        let server = inner.servers.get_mut(&key(n)).unwrap();
        assert!(server.up && !server.read_only, "db{n} takes no writes");
        server.executed = server.executed.union(&mysql_set(&format!("{n}:{first}-{last}")));
        inner.settle();
    }

    /// The receiver thread of the replica receives these transactions. They are not applied.
    pub(crate) fn receive(&self, n: u32, set: &str) {
        self.with(n, |server| {
            let link = server.channel.as_mut().unwrap();
            link.received = link.received.union(&mysql_set(set));
        });
    }

    /// Plans a fault, which occurs once.
    pub(crate) fn plan(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// The probes and pulses since a moment.
    pub(crate) fn looks_since(&self, since: Instant) -> Vec<Look> {
        let inner = self.lock();
        inner.looks.iter().filter(|look| look.at >= since).cloned().collect()
    }

    /// Servers that run and take writes.
    pub(crate) fn writable(&self) -> Vec<InstanceKey> {
        self.lock().writable()
    }

    /// The statements that reached a server.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// The servers that were made writable, in order, once per statement.
    pub(crate) fn opened(&self) -> Vec<String> {
        self.log()
            .iter()
            .filter(|line| line.contains(" set_writable "))
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    }

    /// Asserts that no invariant was violated.
    pub(crate) fn assert_sound(&self) {
        let inner = self.lock();
        assert_eq!(inner.violations, Vec::<String>::new(), "{:#?}", inner.log);
    }
}

impl Inner {
    pub(crate) fn kill(&mut self, key: &InstanceKey) {
        let server = self.servers.get_mut(key).unwrap();
        server.up = false;
        server.lock = None;
    }

    pub(crate) fn start(&mut self, key: &InstanceKey) {
        let server = self.servers.get_mut(key).unwrap();
        assert!(!server.up, "{key} runs");
        server.up = true;
        server.life += 1;
        server.started = Instant::now();
        server.read_only = server.boots_read_only;
        server.read_only_since_boot = server.boots_read_only;
        self.settle();
    }

    pub(crate) fn writable(&self) -> Vec<InstanceKey> {
        self.servers
            .iter()
            .filter(|(_, server)| server.up && !server.read_only)
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Advances replication to the present time.
    pub(crate) fn settle(&mut self) {
        // As many rounds as the longest chain has hops.
        for _ in 0..self.servers.len() {
            let holds: BTreeMap<InstanceKey, GtidSet> = self
                .servers
                .iter()
                .filter(|(_, server)| server.up)
                .map(|(key, server)| (key.clone(), server.executed.clone()))
                .collect();
            for server in self.servers.values_mut().filter(|server| server.up) {
                let (hangs, cut_from) = (server.applier_hangs, server.cut_from.clone());
                let Some(link) = &mut server.channel else { continue };
                if link.receives
                    && !cut_from.contains(&link.source)
                    && let Some(set) = holds.get(&link.source)
                {
                    link.received = link.received.union(set);
                }
                if link.applies && !hangs && link.delay_seconds == 0 {
                    server.executed = server.executed.union(&link.received);
                }
            }
        }
    }

    /// The facts that a server reports.
    pub(crate) fn facts(&self, key: &InstanceKey) -> InstanceFacts {
        let server = &self.servers[key];
        let at = |key: &InstanceKey| self.addresses.get(key).unwrap_or(key).clone();
        let is_up = |key: &InstanceKey| self.servers.get(&at(key)).is_some_and(|server| server.up);
        let replicas = self
            .servers
            .iter()
            .filter(|(_, other)| {
                other.up
                    && other
                        .channel
                        .as_ref()
                        .is_some_and(|link| at(&link.source) == *key && link.receives)
            })
            .map(|(key, _)| key)
            .chain(&server.registered)
            .map(|key| ConnectedReplica {
                key: key.clone(),
                reported: true,
            });
        let channel = server.channel.as_ref().map(|link| {
            let connected = (is_up(&link.source) && !server.cut_from.contains(&link.source)) || link.is_stale;
            let (io, io_error) = match (link.receives, connected) {
                (false, _) => (ThreadState::Stopped, ThreadError::default()),
                (true, true) => (ThreadState::Running, ThreadError::default()),
                (true, false) => (
                    ThreadState::Connecting,
                    ThreadError {
                        number: 2003,
                        message: "cannot connect".to_owned(),
                    },
                ),
            };
            Channel {
                source: link.source.clone(),
                source_uuid: self
                    .servers
                    .get(&at(&link.source))
                    .and_then(|source| match &source.facts.identity {
                        Identity::ServerUuid(uuid) => Some(uuid.clone()),
                        Identity::ServerId(_) => None,
                    }),
                io,
                io_error,
                sql: if link.applies {
                    ThreadState::Running
                } else {
                    ThreadState::Stopped
                },
                retrieved: Some(link.received.clone()),
                delay_seconds: link.delay_seconds,
                positioning: if link.is_off_gtid {
                    Positioning::FilePosition
                } else {
                    link.like.positioning
                },
                ..link.like.clone()
            }
        });
        let acknowledging = self.servers.values().filter(|other| {
            let follows = |link: &Link| link.source == *key && link.receives;
            other.up && other.channel.as_ref().is_some_and(follows) && other.facts.semi_sync.replica_active
        });
        let semi_sync = SemiSync {
            clients: u32::try_from(acknowledging.count()).unwrap(),
            ..server.facts.semi_sync.clone()
        };
        let facts = InstanceFacts {
            semi_sync,
            read_only: server.read_only,
            super_read_only: Some(server.read_only),
            version: if server.lacks_super_read_only {
                ServerVersion::parse("5.6.51", "MySQL").unwrap()
            } else {
                server.facts.version.clone()
            },
            executed: server.executed.clone(),
            channels: channel
                .into_iter()
                .chain(server.other_channels.iter().cloned())
                .collect(),
            replicas: replicas.collect(),
            uptime_seconds: 1000 * server.life + server.started.elapsed().as_secs(),
            started: i64::try_from(1000 * server.life).ok(),
            settings: Some(ServerSettings {
                boot: if server.boots_read_only {
                    Boot::ReadOnly
                } else {
                    Boot::Writable
                },
                read_only_since_boot: Some(server.read_only_since_boot),
                past_read_only: server.past_read_only.clone(),
                events: server.events.clone(),
                backup_lock: server.backup_lock,
                ..ServerSettings::default()
            }),
            ..server.facts.clone()
        };
        self.by_position(key, facts)
    }

    /// Why a member does not reach a server, if it does not.
    pub(crate) fn unreached(&self, key: &InstanceKey) -> Option<ProbeFailure> {
        match self.servers.get(key) {
            None => Some(ProbeFailure::Name("no such host".to_owned())),
            Some(server) if server.reach == Reach::Dropped => Some(ProbeFailure::NoAnswer),
            Some(server) if !server.up => Some(ProbeFailure::Refused),
            Some(server) if server.reach == Reach::Stalls => Some(ProbeFailure::Stalled),
            Some(_) => None,
        }
    }

    /// Ends all packet loss of a replica. Surviving connections continue.
    pub(crate) fn heal(&mut self, replica: &InstanceKey) {
        let server = self.servers.get_mut(replica).unwrap();
        server.cut_from.clear();
        if let Some(link) = &mut server.channel {
            link.is_stale = false;
        }
        self.settle();
    }

    /// The received transactions of a replica count as acknowledged: waiting commits of its source complete.
    pub(crate) fn let_go_of_commits(&mut self, replica: &InstanceKey) {
        let link = self.servers[replica].channel.as_ref().unwrap();
        let source = link.source.clone();
        let source = self.servers.get_mut(&source).unwrap();
        source.facts.semi_sync.wait_sessions = 0;
    }

    /// Points the channel at a source and starts it.
    pub(crate) fn follow(&mut self, key: &InstanceKey, source: &InstanceKey) {
        let like = self
            .servers
            .values()
            .find_map(|server| server.channel.as_ref().map(|link| link.like.clone()));
        let like = like.unwrap_or_else(|| replica(2, 1, "").facts.unwrap().channels.remove(0));
        let server = self.servers.get_mut(key).unwrap();
        let received = server.executed.clone();
        let before = server.channel.take();
        server.channel = Some(Link {
            source: source.clone(),
            receives: true,
            applies: true,
            received,
            is_stale: false,
            delay_seconds: before.map_or(0, |link| link.delay_seconds),
            is_off_gtid: false,
            like,
        });
        self.settle();
    }

    /// Another server, with another identity and nothing in it, takes the address.
    pub(crate) fn replace(&mut self, key: &InstanceKey, n: u32) {
        let server = self.servers.get_mut(key).unwrap();
        server.up = true;
        server.life += 1;
        server.started = Instant::now();
        server.read_only = false;
        server.channel = None;
        server.facts.identity = Identity::ServerUuid(uuid(n));
        server.facts.server_id = n;
        server.is_stranger = true;
        server.executed = mysql_set(&format!("{n}:1-3"));
    }
}
