//! Hosts of a test: network namespaces on a bridge of their own, whose links can be cut so that packets vanish without a word, as they
//! do behind a broken switch. Needs root or sudo; a test that needs it fails without.
//!
//! Addresses are out of 198.18.64.0/20, which is set aside for tests of network devices and belongs to nobody; tests/cluster uses other
//! parts of it. The bridge lies in a namespace too, so no firewall rule of the machine reaches it.

use std::fs::{self, File};
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::{Context, Result, bail, ensure};

use super::run::{cache, command, is_root};

/// How many nets can be at a time: as many as /24 networks fit into the /20.
const NETS: u8 = 16;
/// The neighbour's link address that no host has: what is sent there is lost.
const NOWHERE: &str = "02:00:00:00:00:01";

/// A host: a network namespace with one address.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// The namespace.
    pub(crate) namespace: String,
    /// Its IPv4 address.
    pub(crate) address: String,
}

/// The machine itself, where tests, their writers and their sampler run: its end of a net.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    device: String,
    address: String,
}

/// A bridge and the hosts on it. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Net {
    /// `h4t0`, ...: begins every name.
    prefix: String,
    network: u8,
    hosts: Mutex<u8>,
    _lock: File,
}

impl Net {
    /// A net that nobody uses. What a killed run left of it is removed first.
    pub(crate) fn create() -> Result<Self> {
        let folder = cache()?.join("locks");
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        for index in 0..NETS {
            let lock = File::create(folder.join(format!("net-{index}"))).context("create the lock of a net")?;
            if lock.try_lock().is_err() {
                continue;
            }
            let net = Self {
                prefix: format!("h4t{index}"),
                network: 64 + index,
                hosts: Mutex::new(0),
                _lock: lock,
            };
            net.remove().context("remove what is left of an earlier run")?;
            net.build()
                .context("network namespaces need root or sudo, iproute2 and a kernel that allows them")?;
            return Ok(net);
        }
        bail!("all {NETS} nets are in use")
    }

    fn build(&self) -> Result<()> {
        let hub = format!("{}-hub", self.prefix);
        ip(&["netns", "add", &hub])?;
        ip(&[
            "-n",
            &hub,
            "link",
            "add",
            "bridge",
            "type",
            "bridge",
            "forward_delay",
            "0",
        ])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        // The machine's own end: tests and members in namespaces reach each other through it.
        let (end, address) = (format!("{}host", self.prefix), format!("198.18.{}.1/24", self.network));
        ip(&[
            "link", "add", &end, "type", "veth", "peer", "name", "host", "netns", &hub,
        ])?;
        ip(&["-n", &hub, "link", "set", "host", "master", "bridge", "up"])?;
        ip(&["address", "add", &address, "dev", &end])?;
        ip(&["link", "set", &end, "up"])
    }

    /// A new host.
    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        let number = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            *hosts += 1;
            *hosts
        };
        let hub = format!("{}-hub", self.prefix);
        let host = Host {
            namespace: format!("{}-{name}", self.prefix),
            address: format!("198.18.{}.{}", self.network, 10 + number),
        };
        let port = format!("port{number}");
        ip(&["netns", "add", &host.namespace])?;
        ip(&[
            "-n",
            &hub,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &host.namespace,
        ])?;
        ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
        ip(&["-n", &host.namespace, "link", "set", "lo", "up"])?;
        ip(&[
            "-n",
            &host.namespace,
            "address",
            "add",
            &format!("{}/24", host.address),
            "dev",
            "eth0",
        ])?;
        ip(&["-n", &host.namespace, "link", "set", "eth0", "up"])?;
        Ok(host)
    }

    /// An address of the net that no host has.
    pub(crate) fn spare_address(&self) -> String {
        format!("198.18.{}.250", self.network)
    }

    /// The machine as a host of the net.
    pub(crate) fn machine(&self) -> Machine {
        Machine {
            device: format!("{}host", self.prefix),
            address: format!("198.18.{}.1", self.network),
        }
    }

    /// Gives a host one more address.
    pub(crate) fn give(&self, host: &Host, address: &str) -> Result<()> {
        self.change_address("add", host, address)
    }

    /// Takes an address that was given.
    pub(crate) fn take(&self, host: &Host, address: &str) -> Result<()> {
        self.change_address("delete", host, address)
    }

    /// All hosts learn again where each address is, as they do from the announcement of an address that moved.
    pub(crate) fn announce(&self) -> Result<()> {
        let mine = format!("{}-", self.prefix);
        for line in ip_says(&["netns", "list"])?.lines() {
            let namespace = line.split_whitespace().next().filter(|name| name.starts_with(&mine));
            if let Some(namespace) = namespace {
                ip(&["-n", namespace, "neighbour", "flush", "all"])?;
            }
        }
        Ok(())
    }

    fn change_address(&self, action: &str, host: &Host, address: &str) -> Result<()> {
        ensure!(
            host.namespace.starts_with(&self.prefix),
            "{} is of another net",
            host.namespace
        );
        let address = format!("{address}/24");
        ip(&["-n", &host.namespace, "address", action, &address, "dev", "eth0"])
    }

    /// Removes every namespace and device of this net, and ends what runs in them.
    fn remove(&self) -> Result<()> {
        let mine = format!("{}-", self.prefix);
        for line in ip_says(&["netns", "list"])?.lines() {
            let Some(namespace) = line.split_whitespace().next().filter(|name| name.starts_with(&mine)) else {
                continue;
            };
            for pid in ip_says(&["netns", "pids", namespace])?.split_whitespace() {
                // It may have ended meanwhile.
                privileged("kill", &["-KILL", pid]).ok();
            }
            ip(&["netns", "delete", namespace])?;
        }
        let end = format!("{}host", self.prefix);
        if fs::exists(format!("/sys/class/net/{end}")).unwrap_or(false) {
            // The kernel removes it by itself some moments after its peer's namespace is gone.
            ip(&["link", "delete", &end]).ok();
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.remove().ok();
    }
}

/// An address of this machine that is neither loopback nor private: of 203.0.113.0/24, which is for documentation.
#[derive(Debug)]
pub(crate) struct LocalAddress {
    pub(crate) address: String,
}

impl LocalAddress {
    /// An address that nobody has.
    pub(crate) fn create() -> Result<Self> {
        let address = format!("203.0.113.{}", 1 + std::process::id() % 250);
        let on_loopback = format!("{address}/32");
        // A killed run may have left it.
        ip(&["address", "delete", &on_loopback, "dev", "lo"]).ok();
        ip(&["address", "add", &on_loopback, "dev", "lo"]).context("addresses need root or sudo, and iproute2")?;
        Ok(Self { address })
    }
}

impl Drop for LocalAddress {
    fn drop(&mut self) {
        ip(&["address", "delete", &format!("{}/32", self.address), "dev", "lo"]).ok();
    }
}

/// From now on nothing that one sends reaches the other, in both directions. Connections are not told.
pub(crate) fn cut(one: &Host, other: &Host) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        ip(&[
            "-n",
            &from.namespace,
            "neighbour",
            "replace",
            &to.address,
            "lladdr",
            NOWHERE,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])?;
    }
    Ok(())
}

/// Ends a cut.
pub(crate) fn heal(one: &Host, other: &Host) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        ip(&["-n", &from.namespace, "neighbour", "delete", &to.address, "dev", "eth0"])?;
    }
    Ok(())
}

impl Machine {
    /// Its address in the net.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The same as [`cut`] between a host and this machine.
    pub(crate) fn cut(&self, host: &Host) -> Result<()> {
        let lost = ["lladdr", NOWHERE, "nud", "permanent"];
        let (there, here) = self.neighbours("replace", host);
        ip(&[&there[..], &lost[..]].concat())?;
        ip(&[&here[..], &lost[..]].concat())
    }

    /// Ends such a cut.
    pub(crate) fn heal(&self, host: &Host) -> Result<()> {
        let (there, here) = self.neighbours("delete", host);
        ip(&there)?;
        ip(&here)
    }

    /// What is said in the host of the machine, and on the machine of the host.
    fn neighbours<'a>(&'a self, verb: &'a str, host: &'a Host) -> ([&'a str; 7], [&'a str; 5]) {
        (
            ["-n", &host.namespace, "neighbour", verb, &self.address, "dev", "eth0"],
            ["neighbour", verb, &host.address, "dev", &self.device],
        )
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    ip_says(arguments).map(drop)
}

fn ip_says(arguments: &[&str]) -> Result<String> {
    privileged("ip", arguments)
}

/// Runs a command as root.
pub(super) fn privileged(program: &str, arguments: &[&str]) -> Result<String> {
    if is_root() {
        return command(program, arguments);
    }
    let words: Vec<&str> = ["-n", program].into_iter().chain(arguments.iter().copied()).collect();
    command("sudo", &words)
}
