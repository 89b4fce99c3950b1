//! The open connections of a listener, and which of them gives way to a new one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::limits::ConnectionLimits;

/// The open connections of one listener.
pub(super) struct Registry {
    limits: ConnectionLimits,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    last: u64,
    open: BTreeMap<u64, Entry>,
    per_address: BTreeMap<IpAddr, usize>,
}

struct Entry {
    address: IpAddr,
    close: CancellationToken,
    /// Requests in progress, with the transfer of their responses.
    requests: u32,
    /// Whether a request on it succeeded.
    proven: bool,
    /// Since when it has no request.
    idle_since: Instant,
}

fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one address: one client usually has a whole /64 of IPv6.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Registry {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            table: Arc::default(),
        }
    }

    /// Admits a connection. At a limit, an idle connection is closed for it: one from the same address at the limit of an address,
    /// otherwise one from the address with the most connections. Without an idle one the new connection is refused. The second value is
    /// whether one was closed.
    pub(super) fn admit(&self, address: IpAddr) -> (Option<Connection>, bool) {
        let address = network_of(address);
        let mut table = locked(&self.table);
        let of_address = table.per_address.get(&address).copied().unwrap_or_default();
        let closed = if of_address >= self.limits.per_address {
            table.close_idle_of(address)
        } else if table.open.len() >= self.limits.total {
            table.close_idle_of_busiest_address()
        } else {
            return (Some(self.insert(&mut table, address)), false);
        };
        (closed.then(|| self.insert(&mut table, address)), closed)
    }

    /// Closes an idle connection, if there is one: the process has no file descriptor left.
    pub(super) fn close_one(&self) {
        locked(&self.table).close_idle_of_busiest_address();
    }

    fn insert(&self, table: &mut Table, address: IpAddr) -> Connection {
        table.last += 1;
        let (id, close) = (table.last, CancellationToken::new());
        let entry = Entry {
            address,
            close: close.clone(),
            requests: 0,
            proven: false,
            idle_since: Instant::now(),
        };
        table.open.insert(id, entry);
        *table.per_address.entry(address).or_default() += 1;
        Connection {
            id,
            close,
            table: Arc::clone(&self.table),
        }
    }
}

impl Table {
    fn remove(&mut self, id: u64) {
        let Some(entry) = self.open.remove(&id) else { return };
        if let Some(count) = self.per_address.get_mut(&entry.address) {
            *count -= 1;
            if *count == 0 {
                self.per_address.remove(&entry.address);
            }
        }
    }

    /// Closes the connection of an address that is without a request for the longest time, first those that never had a successful one.
    fn close_idle_of(&mut self, address: IpAddr) -> bool {
        let idle = self
            .open
            .iter()
            .filter(|(_, entry)| entry.address == address && entry.requests == 0);
        let Some(id) = idle
            .min_by_key(|(_, entry)| (entry.proven, entry.idle_since))
            .map(|(id, _)| *id)
        else {
            return false;
        };
        if let Some(entry) = self.open.get(&id) {
            entry.close.cancel();
        }
        self.remove(id);
        true
    }

    fn close_idle_of_busiest_address(&mut self) -> bool {
        let mut addresses: Vec<(usize, IpAddr)> = self
            .per_address
            .iter()
            .map(|(address, count)| (*count, *address))
            .collect();
        addresses.sort_unstable_by(|a, b| b.cmp(a));
        addresses.into_iter().any(|(_, address)| self.close_idle_of(address))
    }
}

/// An open connection; dropped when it ends.
pub(super) struct Connection {
    id: u64,
    close: CancellationToken,
    table: Arc<Mutex<Table>>,
}

impl Connection {
    /// Waits until the connection has to give way.
    pub(super) fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.close.cancelled()
    }

    /// Counts a request until the guard is dropped. A connection with a request does not give way.
    pub(super) fn begin_request(self: &Arc<Self>) -> RequestGuard {
        if let Some(entry) = locked(&self.table).open.get_mut(&self.id) {
            entry.requests += 1;
        }
        RequestGuard(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        locked(&self.table).remove(self.id);
    }
}

/// A request in progress.
pub(super) struct RequestGuard(Arc<Connection>);

impl RequestGuard {
    /// The request succeeded: connections without such a request give way first.
    pub(super) fn prove(&self) {
        if let Some(entry) = locked(&self.0.table).open.get_mut(&self.0.id) {
            entry.proven = true;
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        if let Some(entry) = locked(&self.0.table).open.get_mut(&self.0.id) {
            entry.requests = entry.requests.saturating_sub(1);
            entry.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn registry(total: usize, per_address: usize) -> Registry {
        Registry::new(ConnectionLimits {
            total,
            per_address,
            head_deadline: Duration::from_secs(1),
        })
    }

    fn from(registry: &Registry, last: u8) -> Option<Arc<Connection>> {
        registry.admit(IpAddr::from([10, 0, 0, last])).0.map(Arc::new)
    }

    fn is_closed(connection: &Connection) -> bool {
        connection.close.is_cancelled()
    }

    #[test]
    fn at_the_limit_of_an_address_its_longest_idle_connection_gives_way() {
        let registry = registry(10, 3);
        let open: Vec<_> = (0..3).map(|_| from(&registry, 1).unwrap()).collect();
        let other = from(&registry, 2).unwrap();
        drop(open[0].begin_request());
        let new = from(&registry, 1).unwrap();
        assert!(is_closed(&open[1]), "open[0] had a request since then");
        assert!(!is_closed(&open[0]) && !is_closed(&open[2]) && !is_closed(&other) && !is_closed(&new));
    }

    #[test]
    fn a_connection_with_a_request_never_gives_way() {
        let registry = registry(2, 2);
        let open: Vec<_> = (0..2).map(|_| from(&registry, 1).unwrap()).collect();
        let requests: Vec<_> = open.iter().map(Connection::begin_request).collect();
        assert!(from(&registry, 1).is_none());
        assert!(from(&registry, 2).is_none());
        assert!(open.iter().all(|connection| !is_closed(connection)));
        drop(requests);
        assert!(from(&registry, 2).is_some());
    }

    #[test]
    fn at_the_total_limit_the_address_with_the_most_connections_gives_way() {
        let registry = registry(4, 3);
        let few = from(&registry, 1).unwrap();
        let many: Vec<_> = (0..3).map(|_| from(&registry, 2).unwrap()).collect();
        let new = from(&registry, 3);
        assert!(new.is_some() && is_closed(&many[0]) && !is_closed(&few));
    }

    #[test]
    fn connections_without_a_successful_request_give_way_first() {
        let registry = registry(10, 2);
        let peer = from(&registry, 1).unwrap();
        peer.begin_request().prove();
        let silent = from(&registry, 1).unwrap();
        drop(silent.begin_request());
        let new = from(&registry, 1);
        assert!(new.is_some() && is_closed(&silent) && !is_closed(&peer));
    }

    #[test]
    fn what_ended_does_not_count() {
        let registry = registry(2, 2);
        for _ in 0..10 {
            let pair = (from(&registry, 1).unwrap(), from(&registry, 1).unwrap());
            assert!(!is_closed(&pair.0) && !is_closed(&pair.1));
        }
        assert!(locked(&registry.table).per_address.is_empty());
    }

    #[test]
    fn a_64_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4() {
        let parse = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(parse("2001:db8:1:2::1"), parse("2001:db8:1:2:ffff::9"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:10.0.0.1"), parse("10.0.0.1"));
    }
}
