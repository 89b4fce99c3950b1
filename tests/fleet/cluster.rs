//! The state of one simulated cluster: a primary that commits one transaction a second, and replicas that follow it.
//!
//! Nothing ticks. What happened since the last look follows from the time that passed, and is worked out at the next look.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

/// A replication thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Stopped,
    Connecting,
    Running,
}

/// The default channel.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) source: SocketAddrV4,
    pub(crate) receiver: Thread,
    pub(crate) applies: bool,
}

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// Its process is gone: connections are refused.
    Dead,
    /// Its packets vanish.
    Silent,
}

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct ServerState {
    pub(crate) address: SocketAddrV4,
    /// Number in the whole fleet, which is also its server id.
    pub(crate) number: u32,
    pub(crate) health: Health,
    pub(crate) read_only: bool,
    pub(crate) super_read_only: bool,
    pub(crate) channel: Option<Channel>,
    /// The last transaction of each server, by the number of the server, as far as it is executed here.
    pub(crate) executed: BTreeMap<u32, u64>,
    /// Who holds which user lock.
    pub(crate) locks: BTreeMap<String, u64>,
    /// The last full probe.
    pub(crate) probed: Option<Instant>,
    /// How often it was probed.
    pub(crate) probes: u64,
    /// How many statements changed the server.
    pub(crate) changes: u32,
}

/// Servers that replicate from each other.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<ServerState>,
    begun: Instant,
    /// Up to which whole second transactions are counted.
    counted: u64,
    /// When a server was made writable that was not.
    pub(crate) opened: Option<(SocketAddrV4, Instant)>,
}

impl Cluster {
    /// A primary and its replicas, at these addresses.
    pub(crate) fn new(addresses: &[SocketAddrV4], first: u32) -> Self {
        let primary = addresses.first().copied();
        let servers = (first..).zip(addresses).map(|(number, address)| {
            let is_primary = Some(*address) == primary;
            ServerState {
                address: *address,
                number,
                health: Health::Well,
                read_only: !is_primary,
                super_read_only: !is_primary,
                channel: primary.filter(|_| !is_primary).map(|source| Channel {
                    source,
                    receiver: Thread::Running,
                    applies: true,
                }),
                executed: BTreeMap::from([(first, 1)]),
                locks: BTreeMap::new(),
                probed: None,
                probes: 0,
                changes: 0,
            }
        });
        Self {
            servers: servers.collect(),
            begun: Instant::now(),
            counted: 0,
            opened: None,
        }
    }

    /// Brings the cluster up to now: primaries have committed, receivers have reconnected, replicas have applied.
    pub(crate) fn advance(&mut self) {
        let now = self.begun.elapsed().as_secs();
        let passed = now.saturating_sub(self.counted);
        self.counted = now;
        for server in &mut self.servers {
            if server.health == Health::Well && !server.read_only && server.channel.is_none() {
                *server.executed.entry(server.number).or_default() += passed;
            }
        }
        // A chain is as long as the cluster at most.
        for _ in 0..self.servers.len() {
            let sources: BTreeMap<Ipv4Addr, (Health, BTreeMap<u32, u64>)> = self
                .servers
                .iter()
                .map(|server| (*server.address.ip(), (server.health, server.executed.clone())))
                .collect();
            let mut is_same = true;
            for server in &mut self.servers {
                let Some(channel) = server.channel.as_mut().filter(|_| server.health == Health::Well) else {
                    continue;
                };
                let Some((health, executed)) = sources.get(channel.source.ip()) else {
                    continue;
                };
                channel.receiver = match (channel.receiver, health) {
                    (Thread::Stopped, _) => Thread::Stopped,
                    (_, Health::Well) | (Thread::Running, Health::Silent) => Thread::Running,
                    (Thread::Connecting, Health::Silent) | (_, Health::Dead) => Thread::Connecting,
                };
                if channel.receiver != Thread::Running || !channel.applies || *health != Health::Well {
                    continue;
                }
                for (number, last) in executed {
                    let own = server.executed.entry(*number).or_default();
                    is_same &= *own >= *last;
                    *own = (*own).max(*last);
                }
            }
            if is_same {
                break;
            }
        }
    }

    /// A server by its place in the cluster.
    pub(crate) fn server(&mut self, place: usize) -> &mut ServerState {
        self.servers
            .get_mut(place)
            .expect("because a place comes from the cluster")
    }

    /// The servers that receive from this one.
    pub(crate) fn receivers(&self, source: SocketAddrV4) -> impl Iterator<Item = &ServerState> {
        self.servers.iter().filter(move |server| {
            server.health == Health::Well
                && server
                    .channel
                    .as_ref()
                    .is_some_and(|channel| channel.source == source && channel.receiver == Thread::Running)
        })
    }
}

/// The `server_uuid` of a server by its number.
pub(crate) fn uuid(number: u32) -> String {
    format!("{number:08x}-f1ee-11ee-8000-000000000000")
}

/// A GTID set as text.
pub(crate) fn gtid_set(executed: &BTreeMap<u32, u64>) -> String {
    let parts: Vec<String> = executed
        .iter()
        .filter(|(_, last)| **last > 0)
        .map(|(number, last)| format!("{}:1-{last}", uuid(*number)))
        .collect();
    parts.join(",")
}

/// Whether a GTID set as text is executed.
pub(crate) fn is_executed(set: &str, executed: &BTreeMap<u32, u64>) -> bool {
    set.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .all(|part| {
            let (source, intervals) = part.split_once(':').unwrap_or((part, ""));
            let number = source.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            let last = number
                .and_then(|number| executed.get(&number))
                .copied()
                .unwrap_or_default();
            intervals.split(':').all(|interval| {
                let end = interval.rsplit_once('-').map_or(interval, |(_, end)| end);
                end.parse::<u64>().is_ok_and(|end| end <= last)
            })
        })
}
