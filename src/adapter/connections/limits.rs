//! How many connections a listener has, derived from how many files the process may open.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How long the head of a request may take, also the first byte of the next one on an idle connection. Not an interval at which clients
/// usually repeat their requests: a connection that is closed just then would fail one of them.
const HEAD_DEADLINE: Duration = Duration::from_secs(20);
/// The most connections of each listener: (in total, from one address).
const API: (usize, usize) = (1024, 512);
const HEALTH: (usize, usize) = (256, 128);
const PEERS: (usize, usize) = (256, 128);
/// The fewest: a listener works even where hardly any files may be opened.
const FEWEST: usize = 16;
/// Fewer open files than this are reported at the start: every managed server needs some, too.
const FILES_WANTED: u64 = 8192;

/// The bounds of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections.
    pub total: usize,
    /// Open connections from one IPv4 address, or from one /64 of IPv6.
    pub per_address: usize,
    /// How long the head of a request may take.
    pub head_deadline: Duration,
}

/// The bounds of all listeners. Each has its own, so that none can use up the connections of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// `ListenAddress`.
    pub api: ConnectionLimits,
    /// `HealthListenAddress`.
    pub health: ConnectionLimits,
    /// `RaftBind`.
    pub peers: ConnectionLimits,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self::for_open_files(FILES_WANTED)
    }
}

impl ListenerLimits {
    /// The bounds for a process that may open so many files. All listeners together use at most three eighths of them.
    pub fn for_open_files(files: u64) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let of = |(total, per_address): (usize, usize), share: usize| {
            let total = total.min(files / share).max(FEWEST);
            ConnectionLimits {
                total,
                per_address: per_address.min(total / 2),
                head_deadline: HEAD_DEADLINE,
            }
        };
        Self {
            api: of(API, 4),
            health: of(HEALTH, 16),
            peers: of(PEERS, 16),
        }
    }
}

/// Raises the soft limit of open files to the hard limit. Returns how many files this process may open.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|soft| soft < hard) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!("failed to raise the limit of open files to {hard}: {error}");
        }
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < FILES_WANTED {
        tracing::warn!(
            "this process may open only {files} files: raise the limit (LimitNOFILE of systemd, ulimit -n) to {FILES_WANTED} or more"
        );
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_listeners_together_stay_below_the_limit_of_open_files() {
        for files in [256, 1024, 4096, 65_536, u64::MAX] {
            let limits = ListenerLimits::for_open_files(files);
            let sum = limits.api.total + limits.health.total + limits.peers.total;
            assert!(u64::try_from(sum).unwrap() <= files / 8 * 3, "{files}: {sum}");
        }
        assert_eq!(ListenerLimits::default().api.total, 1024);
    }
}
