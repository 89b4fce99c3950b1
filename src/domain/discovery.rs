//! Which addresses that servers name are dialled: the form of an address, and whether a person, the configuration or a
//! named server of the cluster stands for it.
//!
//! Any account with `REPLICATION SLAVE` can register an address of its choice (`report_host`), and whatever is dialled
//! is sent an account. So an address that only a server names is not dialled unless it is admitted.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::instance::Instance;
use super::key::InstanceKey;

/// Longest host name: what `CHANGE REPLICATION SOURCE TO` and DNS accept.
const MAX_HOST: usize = 255;
/// Longest label of a host name (RFC 1035).
const MAX_LABEL: usize = 63;
/// Longest part of a malformed address that is shown.
const MAX_SHOWN: usize = 80;

/// Second-level names below which a country's registry assigns names: the domain has three labels there (`example.co.uk`).
const REGISTRY_LABELS: [&str; 12] = [
    "ac", "co", "com", "edu", "gob", "gov", "ltd", "net", "ne", "or", "org", "plc",
];
/// Domains in which everyone can get a name, so that a common domain proves nothing. Not complete.
const OPEN_DOMAINS: [&str; 8] = [
    "amazonaws.com",
    "azure.com",
    "cloudapp.net",
    "windows.net",
    "googleusercontent.com",
    "duckdns.org",
    "ddns.net",
    "no-ip.org",
];

/// A network: an address and the number of leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of this prefix length around an address.
    fn around(address: IpAddr, prefix: u8) -> Self {
        Self {
            address: masked(address, prefix),
            prefix,
        }
    }

    /// Reads `address/prefix`, or an address alone. `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address = plain(address.parse().ok()?);
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        (prefix <= longest).then(|| Self::around(address, prefix))
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = plain(address);
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An IPv4 address that is written as an IPv6 address is that IPv4 address.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// The private network of an address; `None` for an address that is routed on the Internet.
///
/// IPv4: the /16 of a private address (RFC 1918, and 198.18.0.0/15, which is set aside for tests of devices), or
/// 127.0.0.0/8. IPv6: the /48 of a unique local address, or the loopback address.
fn private_network(address: IpAddr) -> Option<Network> {
    let address = plain(address);
    let prefix = match address {
        IpAddr::V4(v4) if v4.is_loopback() => 8,
        IpAddr::V4(v4) if v4.is_private() || matches!(v4.octets(), [198, 18 | 19, _, _]) => 16,
        IpAddr::V6(v6) if v6.is_loopback() => 128,
        IpAddr::V6(v6) if v6.is_unique_local() => 48,
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Some(Network::around(address, prefix))
}

/// Host names without difference of case and without the dot at the end.
fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The domain that a host name shares with others: the last two labels; below a country's registry the last three; of a
/// Service of Kubernetes its namespace (`ns.svc.cluster.local`), since the last two labels are those of the whole
/// Kubernetes cluster. `None` for an address, for a name without a dot, and where everyone can get a name.
fn domain_of(host: &str) -> Option<String> {
    if host.parse::<IpAddr>().is_ok() {
        return None;
    }
    let is_below = |open: &str| {
        host.strip_suffix(open)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if OPEN_DOMAINS.iter().any(|open| is_below(open)) {
        return None;
    }
    let labels: Vec<&str> = host.split('.').collect();
    let of_namespace = labels
        .iter()
        .enumerate()
        .skip(2)
        .find(|(_, label)| matches!(**label, "svc" | "pod"))
        .and_then(|(at, _)| labels.get(at - 1..));
    if let Some(namespace) = of_namespace {
        let namespace = namespace.join(".");
        // The short form of the names, and the default of the long one, which no registry assigns.
        let short = namespace.strip_suffix(".cluster.local");
        return Some(short.map_or_else(|| namespace.clone(), ToOwned::to_owned));
    }
    let count = match labels.as_slice() {
        [.., second, top] if top.len() == 2 && REGISTRY_LABELS.contains(second) => 3,
        _ => 2,
    };
    let start = labels.len().checked_sub(count)?;
    Some(labels.get(start..)?.join("."))
}

fn is_bare(host: &str) -> bool {
    !host.is_empty() && !host.contains('.') && host.parse::<IpAddr>().is_err()
}

/// A name of the machine itself.
fn is_localhost(host: &str) -> bool {
    host == "ip6-localhost" || host == "ip6-loopback" || host.split('.').any(|label| label == "localhost")
}

/// One entry of `DiscoveryAllowedHosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AllowedHost {
    /// An address or a network. It admits addresses, never names: the owner of a name may change what it resolves to.
    Network(Network),
    /// A host name in which `*` stands for any characters. It has to match the whole name.
    Name(String),
}

impl AllowedHost {
    fn admits(&self, host: &str) -> bool {
        match self {
            Self::Network(network) => host.parse().is_ok_and(|address| network.contains(address)),
            Self::Name(pattern) => matches_whole(pattern, host),
        }
    }
}

/// Whether a text matches a pattern in which `*` stands for any characters, none included.
fn matches_whole(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    let mut text = text;
    for part in parts {
        match text.find(part).and_then(|at| text.get(at + part.len()..)) {
            Some(after) => text = after,
            None => return false,
        }
    }
    text.ends_with(tail)
}

/// `DiscoveryAllowedHosts` and `DiscoveryAllowedHostsOnly`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    entries: Vec<AllowedHost>,
    /// Nothing but the entries admits an address.
    only: bool,
}

/// An entry of `DiscoveryAllowedHosts` that is neither a host pattern nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host name (`*` stands for any characters) nor an address nor a network (10.1.0.0/16)")]
pub struct InvalidAllowedHost(pub String);

impl AllowedHosts {
    /// Reads the entries. Empty entries are ignored. An entry that begins with a dot means all names that end with it.
    ///
    /// # Errors
    /// The first entry that cannot be read.
    pub fn parse(texts: &[String], only: bool) -> Result<Self, InvalidAllowedHost> {
        let entries = texts
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
            .map(|text| {
                if let Some(network) = Network::parse(text.trim_start_matches('[').trim_end_matches(']')) {
                    return Ok(AllowedHost::Network(network));
                }
                let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.*".contains(c));
                // A single `*` is the way to admit everything; `*.*` or digits alone are a mistake.
                let names_something = text == "*" || text.chars().any(|c| c.is_ascii_alphabetic());
                if !is_name || !names_something {
                    return Err(InvalidAllowedHost(text.to_owned()));
                }
                let name = normal(text);
                Ok(AllowedHost::Name(if name.starts_with('.') {
                    format!("*{name}")
                } else {
                    name
                }))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { entries, only })
    }
}

/// What the named servers of a cluster stand for.
///
/// A server is named by a person: as a seed, in a document, or in an authenticated request to discover it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedServers {
    /// Their host names, and the names that they report of themselves.
    names: BTreeSet<String>,
    /// Their addresses.
    addresses: BTreeSet<IpAddr>,
}

impl NamedServers {
    /// Adds a named server, with what is known of it and what its name resolves to.
    pub fn add(&mut self, key: &InstanceKey, instance: Option<&Instance>, resolved: &[IpAddr]) {
        self.add_host(&key.hostname);
        self.addresses.extend(resolved.iter().copied().map(plain));
        if let Some(facts) = instance.and_then(|instance| instance.facts.as_ref()) {
            // What a named server reports of itself is as good as its name: it has the account anyway.
            self.add_host(&facts.hostname);
            if let Some(reported) = &facts.reported {
                self.add_host(&reported.hostname);
            }
            self.addresses.extend(facts.peer.map(plain));
        }
    }

    fn add_host(&mut self, host: &str) {
        let host = normal(host);
        if let Ok(address) = host.parse::<IpAddr>() {
            self.addresses.insert(plain(address));
        } else if !host.is_empty() && !is_localhost(&host) {
            self.names.insert(host);
        }
    }

    fn has_loopback(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_loopback)
    }
}

/// Why an address that a server names is not dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NotFollowedReason {
    /// It is not the address of a server.
    Malformed(String),
    /// No person named it, and nothing admits it. With the entry for `DiscoveryAllowedHosts` that would.
    NotAdmitted(String),
    /// The server that names it names too many addresses that have not answered yet.
    TooManyOfServer,
    /// Too many servers are watched.
    TooMany,
}

impl fmt::Display for NotFollowedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "it is not the address of a server: {why}"),
            Self::NotAdmitted(entry) => write!(
                f,
                "it is not named, and shares neither the domain nor the private network of a named server of the \
                 cluster; to admit it, add \"{entry}\" to DiscoveryAllowedHosts or discover it"
            ),
            Self::TooManyOfServer => write!(
                f,
                "the server names more than {MAX_UNANSWERED_OF_SERVER} addresses that have not answered yet"
            ),
            Self::TooMany => f.write_str("DiscoveryMaxInstances is reached"),
        }
    }
}

/// An address that a server names and that is not dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotFollowed {
    /// The address as the server names it; a long one is cut.
    pub address: String,
    /// Why it is not dialled.
    pub reason: NotFollowedReason,
}

impl NotFollowed {
    /// An address with the reason.
    pub fn new(address: &InstanceKey, reason: NotFollowedReason) -> Self {
        Self {
            address: address
                .to_string()
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_SHOWN)
                .collect(),
            reason,
        }
    }
}

impl fmt::Display for NotFollowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.reason)
    }
}

/// Most addresses that one server named, that are dialled, and that have not answered yet. What answers makes room.
pub const MAX_UNANSWERED_OF_SERVER: usize = 100;
/// Most addresses of one server in [`Instance::not_followed`].
pub const MAX_REPORTED: usize = 100;

/// Whether an address has the form of a server's address.
///
/// # Errors
/// What is wrong with it.
pub fn check_form(key: &InstanceKey) -> Result<(), String> {
    let host = &key.hostname;
    if key.port == 0 {
        return Err(String::from("port 0"));
    }
    if host.is_empty() || host.len() > MAX_HOST {
        return Err(format!("a host name of {} characters", host.len()));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = plain(address);
        let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        return if address.is_unspecified() || address.is_multicast() || is_broadcast {
            Err(String::from("not the address of one host"))
        } else {
            Ok(())
        };
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && !label.starts_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if !host.split('.').all(is_label) {
        return Err(String::from("not a host name"));
    }
    // The C library reads `127.1`, `134744072` and `0x8080808` as addresses.
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.chars().all(|c| c.is_ascii_digit()) || last.to_ascii_lowercase().starts_with("0x");
    if is_number {
        return Err(String::from("a number in place of a host name"));
    }
    Ok(())
}

/// Whether an address that a server of the cluster names may be dialled.
///
/// A name is judged by itself and never by what it resolves to: its owner may change that after the judgement. The other way round, the domain of a named server is trusted, wherever its names resolve to. `watched` are
/// the addresses at which servers of the cluster are dialled already.
///
/// # Errors
/// The reason, with the entry of `DiscoveryAllowedHosts` that would admit it.
pub fn admit(
    candidate: &InstanceKey,
    named: &NamedServers,
    watched: &BTreeSet<IpAddr>,
    allowed: &AllowedHosts,
) -> Result<(), NotFollowedReason> {
    check_form(candidate).map_err(NotFollowedReason::Malformed)?;
    let host = normal(&candidate.hostname);
    if allowed.entries.iter().any(|entry| entry.admits(&host)) || (!allowed.only && shares(&host, named, watched)) {
        return Ok(());
    }
    Err(NotFollowedReason::NotAdmitted(host))
}

/// Whether a host shares domain or private network with a named server, or is the host of a server that is dialled.
fn shares(host: &str, named: &NamedServers, watched: &BTreeSet<IpAddr>) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = plain(address);
        let is_known = named.addresses.contains(&address) || watched.contains(&address);
        let networks = || named.addresses.iter().copied().filter_map(private_network);
        return is_known || networks().any(|network| network.contains(address));
    }
    if is_localhost(host) {
        return named.has_loopback();
    }
    if is_bare(host) {
        // What it resolves to is decided by this machine's own files and search list.
        return named.names.iter().any(|name| is_bare(name));
    }
    let domain = domain_of(host);
    named.names.contains(host) || (domain.is_some() && named.names.iter().any(|name| domain_of(name) == domain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{Adjust, primary};

    fn at(host: &str) -> InstanceKey {
        InstanceKey::new(host, 3306)
    }

    fn named(hosts: &[&str]) -> NamedServers {
        let mut named = NamedServers::default();
        for host in hosts {
            named.add(&at(host), None, &[]);
        }
        named
    }

    fn allowed(texts: &[&str]) -> AllowedHosts {
        AllowedHosts::parse(&texts.iter().map(ToString::to_string).collect::<Vec<_>>(), false).unwrap()
    }

    fn is_admitted(candidate: &str, named: &NamedServers, allowed: &AllowedHosts) -> bool {
        admit(&at(candidate), named, &BTreeSet::new(), allowed).is_ok()
    }

    #[test]
    fn a_stranger_that_an_account_with_replication_slave_registers_is_not_dialled() {
        let none = AllowedHosts::default();
        for (seed, candidate, admitted) in [
            ("db1.example.com", "db2.example.com", true),
            ("db1.example.com", "DB2.Example.com.", true),
            ("db1.example.com", "a.b.example.com", true),
            ("db1.example.com", "db1.example.com", true),
            ("db1.example.com", "db2.evil.net", false),
            ("db1.example.com", "example.com.evil.net", false),
            ("db1.example.com", "notexample.com", false),
            ("db1.example.com", "203.0.113.9", false),
            ("db1.example.com", "10.0.0.9", false),
            // A country's registry, and domains of everyone.
            ("db1.example.co.uk", "db2.example.co.uk", true),
            ("db1.example.co.uk", "db2.evil.co.uk", false),
            ("a.compute-1.amazonaws.com", "evil.compute-1.amazonaws.com", false),
            ("a.compute-1.amazonaws.com", "a.compute-1.amazonaws.com", true),
            // Names without a dot.
            ("db1", "db2", true),
            ("db1.example.com", "db2", false),
            ("db1", "db2.example.com", false),
            ("db1", "localhost", false),
            ("10.1.2.3", "db2", false),
            // Networks.
            ("10.1.2.3", "10.1.200.9", true),
            ("10.1.2.3", "::ffff:10.1.200.9", true),
            ("10.1.2.3", "10.2.0.1", false),
            ("192.168.3.1", "192.168.77.1", true),
            ("172.16.0.1", "172.17.0.1", false),
            ("198.18.64.11", "198.18.64.12", true),
            ("127.0.0.1", "127.9.9.9", true),
            ("127.0.0.1", "localhost", true),
            ("127.0.0.1", "10.0.0.1", false),
            ("203.0.113.5", "203.0.113.5", true),
            ("203.0.113.5", "203.0.113.6", false),
            ("fd12:3456:789a::1", "fd12:3456:789a:ffff::2", true),
            ("fd12:3456:789a::1", "fd12:3456:789b::2", false),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            assert_eq!(
                is_admitted(candidate, &named(&[seed]), &none),
                admitted,
                "{seed} {candidate}"
            );
        }
    }

    #[test]
    fn a_namespace_of_kubernetes_is_a_domain_and_its_cluster_is_none() {
        let none = AllowedHosts::default();
        let shop = named(&["db-0.db.shop.svc.cluster.local"]);
        for (candidate, admitted) in [
            ("db-1.db.shop.svc.cluster.local", true),
            ("other.shop.svc.cluster.local", true),
            ("10-244-1-9.shop.pod.cluster.local", false),
            ("db-1.db.evil.svc.cluster.local", false),
            ("db-1.db.shop.svc.evil.net", false),
            ("shop.evil.svc.cluster.local", false),
        ] {
            assert_eq!(is_admitted(candidate, &shop, &none), admitted, "{candidate}");
        }
        let short = named(&["db-0.db.shop.svc"]);
        assert!(is_admitted("db-1.db.shop.svc", &short, &none));
        assert!(is_admitted("db-1.db.shop.svc.cluster.local", &short, &none));
        assert!(!is_admitted("db-1.db.shop.svc.evil.net", &short, &none));
    }

    #[test]
    fn a_named_server_stands_for_what_it_reports_of_itself_and_for_where_it_is() {
        let instance = primary(1, "1:1").facts(|facts| {
            facts.hostname = "db1".to_owned();
            facts.reported = Some(at("db1.prod.example.com"));
            facts.peer = Some("10.7.0.1".parse().unwrap());
        });
        let mut named = NamedServers::default();
        named.add(&at("203.0.113.1"), Some(&instance), &["192.168.1.1".parse().unwrap()]);
        let none = AllowedHosts::default();
        for host in ["db2", "db2.prod.example.com", "10.7.9.9", "192.168.200.1"] {
            assert!(is_admitted(host, &named, &none), "{host}");
        }
        // A server that is dialled already may be named by its address.
        let watched = BTreeSet::from(["198.51.100.7".parse().unwrap()]);
        assert_eq!(admit(&at("198.51.100.7"), &named, &watched, &none), Ok(()));
        assert!(admit(&at("198.51.100.8"), &named, &watched, &none).is_err());
    }

    #[test]
    fn the_reported_entry_admits_what_was_refused() {
        let nobody = NamedServers::default();
        for host in ["db9.other.net", "203.0.113.9", "Replica_1", "2001:db8::9"] {
            let refused = admit(&at(host), &nobody, &BTreeSet::new(), &AllowedHosts::default()).unwrap_err();
            let NotFollowedReason::NotAdmitted(entry) = refused else {
                panic!("{refused}");
            };
            assert!(is_admitted(host, &nobody, &allowed(&[&entry])), "{entry}");
        }
    }

    #[test]
    fn a_pattern_matches_a_whole_host_and_a_network_no_name() {
        let nobody = NamedServers::default();
        for (entry, host, admitted) in [
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "a.example.com.evil.net", false),
            (".example.com", "a.example.com", true),
            ("db*.example.com", "db7.example.com", true),
            ("db*-*.example.com", "db7-x.example.com", true),
            ("db*-*.example.com", "db7.example.com", false),
            ("*", "anything.example.net", true),
            ("10.1.0.0/16", "10.1.255.1", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "db1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
        ] {
            assert_eq!(
                is_admitted(host, &nobody, &allowed(&[entry])),
                admitted,
                "{entry} {host}"
            );
        }
        for wrong in ["^db", "10.0.0.0/33", "10.0.0", "db1:3306", "a b", "*.*"] {
            assert!(AllowedHosts::parse(&[wrong.to_owned()], false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_list_admits_when_it_is_asked_to() {
        let only = AllowedHosts::parse(&["db2.example.com".to_owned()], true).unwrap();
        let seed = named(&["db1.example.com"]);
        assert!(is_admitted("db2.example.com", &seed, &only));
        assert!(!is_admitted("db3.example.com", &seed, &only));
    }

    #[test]
    fn what_has_not_the_form_of_an_address_is_not_dialled() {
        let all = allowed(&["*", "0.0.0.0/0", "::/0"]);
        let long = "a".repeat(64);
        for host in [
            "",
            "a b",
            "a/b",
            "//db1",
            "a..b",
            "-a",
            "a\n",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "127.1",
            "134744072",
            "0x8080808",
            "1.2.3.4.5",
            "fe80::1%eth0",
            "db1;x",
            &long,
            &"a.".repeat(200),
        ] {
            let refused = admit(&at(host), &named(&["db1"]), &BTreeSet::new(), &all);
            assert!(
                matches!(refused, Err(NotFollowedReason::Malformed(_))),
                "{host}: {refused:?}"
            );
        }
        assert_eq!(check_form(&InstanceKey::new("db1", 0)), Err("port 0".to_owned()));
        for host in [
            "db1",
            "db_1.example.com",
            "1-2-3.example.com",
            "fd00::1",
            "3com.example",
        ] {
            assert_eq!(check_form(&at(host)), Ok(()), "{host}");
        }
    }
}
