//! Runs one member over a simulated fleet and measures it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::kit::http::Api;
use super::kit::member::Member;
use super::kit::ports::PortLease;
use super::kit::run::{Run, scenario};
use super::kit::sql::Address;
use super::kit::wait::until;
use super::server::{CLUSTER, Fleet};

/// The group that is measured.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// How many members it has; 1: a member without a group.
    pub(crate) members: usize,
    /// Its `ProbeSharing`.
    pub(crate) sharing: String,
}

/// The poll interval of the member: its default.
const POLL: Duration = Duration::from_secs(5);
/// A server counts as looked at when its last probe is at most this old: the interval, and a tenth for the probe itself.
const LOOKED_AT: Duration = Duration::from_millis(5500);
/// How long the member is watched while nothing happens, and how often it is looked at meanwhile.
const WATCHED: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One request to the API comes with every so many looks.
const LOOKS_PER_REQUEST: u32 = 5;
/// How long the whole fleet may take until it is discovered.
const DISCOVERY: Duration = Duration::from_mins(10);
/// How long a failover is waited for.
const FAILOVER: Duration = Duration::from_mins(2);
/// How many primaries are killed one by one, and how many at once.
const ONE_BY_ONE: usize = 3;
const AT_ONCE: usize = 10;
/// How long the member is watched after the last failover, for recoveries that come late.
const AFTERWARDS: Duration = Duration::from_secs(15);
/// How long one request of this program may take.
const REQUEST: Duration = Duration::from_mins(1);

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    members: usize,
    sharing: String,
    servers: usize,
    silent: usize,
    discovered: Duration,
    cores: f64,
    resident: u64,
    looked_at: Vec<f64>,
    /// How often each server was probed per poll interval.
    probes: f64,
    /// What each member received from the others, bytes per second, and observations per second.
    received: (f64, f64),
    one: Vec<Option<Duration>>,
    ten: Vec<Option<Duration>>,
    cluster: Vec<Duration>,
    all: Vec<Duration>,
    false_failures: usize,
    wrong_recoveries: usize,
}

/// The head of the table.
pub(crate) const HEAD: &str = "servers  silent  members      sharing  discovered  cores  resident  looked at in 5 s  probes    received  \
                               one killed  ten at once  GET cluster/X  \
                               GET all-instances  false     wrong\n\
                               \x20                                              s  each      MB  mean (lowest)     per poll  kB/s each  \
                               s, slowest  s, slowest   ms, slowest    \
                               ms, slowest        failures  recoveries";

impl Measured {
    /// One line of the table.
    pub(crate) fn line(&self) -> String {
        let count = |values: &[f64]| u32::try_from(values.len()).map_or(1.0, f64::from).max(1.0);
        let mean = self.looked_at.iter().sum::<f64>() / count(&self.looked_at);
        let lowest = self.looked_at.iter().copied().fold(1.0, f64::min);
        format!(
            "{:>7}  {:>6}  {:>7}  {:>11}  {:>10.1}  {:>5.2}  {:>8}  {:>16}  {:>8.2}  {:>9}  {:>10}  {:>11}  {:>13}  {:>17}  {:>8}  {:>10}",
            self.servers,
            self.silent,
            self.members,
            self.sharing,
            self.discovered.as_secs_f64(),
            self.cores,
            self.resident / 1_000_000,
            format!("{:.1} % ({:.1} %)", mean * 100.0, lowest * 100.0),
            self.probes,
            format!("{:.1}", self.received.0 / 1000.0),
            slowest(&self.one),
            slowest(&self.ten),
            millis(&self.cluster),
            millis(&self.all),
            self.false_failures,
            self.wrong_recoveries
        )
    }

    /// How large what the members send each other is, per observation; [`None`] without shared probes.
    pub(crate) fn exchange(&self) -> Option<String> {
        let (bytes, observations) = self.received;
        (observations > 0.0).then(|| {
            format!(
                "each member receives {observations:.0} observations a second, {:.0} bytes each with what goes around them",
                bytes / observations
            )
        })
    }

    /// Whether everything is as it has to be: no failure that was none, no recovery of a cluster that was well, every dead primary
    /// replaced.
    pub(crate) fn is_sound(&self) -> bool {
        let replaced = self.one.iter().chain(&self.ten).all(Option::is_some);
        self.false_failures == 0 && self.wrong_recoveries == 0 && replaced
    }
}

/// The slowest time in seconds, and how many never came.
fn slowest(times: &[Option<Duration>]) -> String {
    let never = times.iter().filter(|time| time.is_none()).count();
    let slowest = times.iter().flatten().max();
    let slowest = slowest.map_or_else(String::new, |time| format!("{:.2}", time.as_secs_f64()));
    if never == 0 {
        slowest
    } else {
        format!("{slowest} {never} never")
    }
}

fn millis(times: &[Duration]) -> String {
    let slowest = times.iter().max();
    slowest.map_or_else(
        || String::from("-"),
        |time| format!("{:.0}", time.as_secs_f64() * 1000.0),
    )
}

/// Starts a fleet of `servers` and the members, and measures. `silent` of the servers vanish before primaries are killed.
pub(crate) async fn measure(servers: usize, silent: usize, group: &Group) -> Result<Measured> {
    scenario(&format!("fleet-{servers}"), |run| play(run, servers, silent, group)).await
}

async fn play(run: Arc<Run>, servers: usize, silent: usize, group: &Group) -> Result<Measured> {
    let port = PortLease::take()?;
    let fleet = Fleet::start(servers, port.port())?;
    let silent_clusters = silent.div_ceil(CLUSTER);
    ensure!(
        fleet.clusters() >= silent_clusters + ONE_BY_ONE + AT_ONCE,
        "too few servers: {} clusters of {CLUSTER} are needed",
        silent_clusters + ONE_BY_ONE + AT_ONCE
    );
    let mut leases = Vec::new();
    let mut lease = || -> Result<Address> {
        let port = PortLease::take()?;
        let address = Address::new("127.0.0.1", port.port());
        leases.push(port);
        Ok(address)
    };
    let places: Vec<(Address, Address)> = (0..group.members)
        .map(|_| Ok((lease()?, lease()?)))
        .collect::<Result<_>>()?;
    let nodes: Vec<String> = places.iter().map(|(_, raft)| raft.to_string()).collect();
    let mut members = Vec::new();
    for (number, (address, raft)) in (1..).zip(&places) {
        let mut keys = configuration(&fleet, address)?;
        if let (true, Some(keys)) = (group.members > 1, keys.as_object_mut()) {
            let of_group = json!({
                "RaftEnabled": true,
                "RaftBind": raft.to_string(),
                "RaftAdvertise": raft.to_string(),
                "RaftNodes": nodes,
                "ProbeSharing": group.sharing,
            });
            keys.extend(of_group.as_object().cloned().unwrap_or_default());
        }
        members.push(Member::prepare(
            &run,
            &format!("member{number}"),
            address,
            None,
            keys,
            None,
        )?);
    }
    let begun = Instant::now();
    for member in &mut members {
        member.launch()?;
    }
    for member in &mut members {
        member.serves().await?;
    }
    let api = members.first().context("there is no member")?.api().clone();
    discover(&api, &fleet).await?;
    if group.members > 1 && group.sharing != "off" {
        is_shared(&members).await?;
    }
    let mut measured = Measured {
        members: group.members,
        sharing: group.sharing.clone(),
        servers: fleet.len(),
        silent: silent_clusters * CLUSTER,
        discovered: begun.elapsed(),
        ..Measured::default()
    };
    watch(&members, &fleet, &mut measured, WATCHED).await?;
    // The last clusters vanish.
    for cluster in fleet.clusters() - silent_clusters..fleet.clusters() {
        fleet.silence(cluster).await?;
    }
    for cluster in 0..ONE_BY_ONE {
        measured.one.extend(replaced(&fleet, cluster..=cluster).await?);
    }
    measured
        .ten
        .extend(replaced(&fleet, ONE_BY_ONE..=ONE_BY_ONE + AT_ONCE - 1).await?);
    watch(&members, &fleet, &mut Measured::default(), AFTERWARDS).await?;
    measured.wrong_recoveries = fleet.changed_though_well();
    for member in &members {
        let log = std::fs::read_to_string(run.log(member.name())).context("read the log of a member")?;
        measured.false_failures += log.lines().filter(|line| is_false_failure(line, &fleet)).count();
    }
    drop(leases);
    Ok(measured)
}

fn configuration(fleet: &Fleet, address: &Address) -> Result<Value> {
    let seeds: Vec<String> = (0..fleet.clusters())
        .map(|cluster| Ok(fleet.primary(cluster)?.to_string()))
        .collect::<Result<_>>()?;
    Ok(json!({
        "ListenAddress": address.to_string(),
        "BackendDB": "sqlite",
        "DiscoverySeeds": seeds,
        "InstancePollSeconds": POLL.as_secs(),
        "MySQLTopologyUser": "ham4db",
        "MySQLTopologyPassword": "simulated servers take any",
        "MySQLHostnameResolveMethod": "",
        "HostnameResolveMethod": "none",
        "RecoverMasterClusterFilters": ["*"],
    }))
}

/// Waits until every server was probed and every cluster is recorded.
async fn discover(api: &Api, fleet: &Fleet) -> Result<()> {
    until(DISCOVERY, "the whole fleet to be probed", async || {
        let (probed, well) = fleet.probed_within(Duration::MAX);
        ensure!(probed == well, "{probed} of {well} servers are probed");
        Ok(Some(()))
    })
    .await?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    until(DISCOVERY, "all clusters to be recorded", async || {
        // A look costs the member something.
        looks.tick().await;
        let (_, body) = api.get_within("clusters", REQUEST).await?;
        let clusters: Vec<String> = serde_json::from_str(&body)?;
        ensure!(
            clusters.len() == fleet.clusters(),
            "{} clusters are recorded",
            clusters.len()
        );
        Ok(Some(()))
    })
    .await
}

/// Waits until every member shows the shares of all members.
async fn is_shared(members: &[Member]) -> Result<()> {
    for member in members {
        until(DISCOVERY, "the probes to be shared", async || {
            let health = member.api().details("health").await?;
            let shares = health.get("ProbedInstances").and_then(Value::as_object);
            let count = shares.map_or(0, serde_json::Map::len);
            ensure!(count == members.len(), "{} shows {count} shares", member.name());
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

/// What the members received from each other so far: bytes and observations, of all members together.
async fn received(members: &[Member]) -> Result<(f64, f64)> {
    let (mut bytes, mut observations) = (0.0, 0.0);
    for member in members {
        let metrics = member.metrics().await?;
        let value = |name: &str| -> f64 {
            let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
            lines.filter_map(|rest| rest.trim().parse::<f64>().ok()).sum()
        };
        bytes += value("ham4db_observation_bytes_received_total ");
        observations += value("ham4db_observations_received_total ");
    }
    Ok((bytes, observations))
}

fn cpu_seconds(members: &[Member]) -> Result<f64> {
    members.iter().map(|member| member.process()?.cpu_seconds()).sum()
}

/// Watches the members for a while, in which nothing happens.
async fn watch(members: &[Member], fleet: &Fleet, measured: &mut Measured, duration: Duration) -> Result<()> {
    let name = fleet.primary(fleet.clusters() / 2)?;
    let first = members.first().context("there is no member")?;
    let count = u32::try_from(members.len()).map_or(1.0, f64::from);
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let (bytes, observations) = received(members).await?;
    let (begun, before, probes) = (Instant::now(), cpu_seconds(members)?, fleet.probes());
    let mut number = 0_u32;
    while begun.elapsed() < duration {
        looks.tick().await;
        let (probed, well) = fleet.probed_within(LOOKED_AT);
        measured.looked_at.push(share(probed, well));
        number += 1;
        if number.is_multiple_of(LOOKS_PER_REQUEST) {
            measured
                .cluster
                .push(timed(first.api(), &format!("cluster/{name}")).await?);
            measured.all.push(timed(first.api(), "all-instances").await?);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    measured.cores = (cpu_seconds(members)? - before) / seconds / count;
    let probed = u32::try_from(fleet.probes() - probes).map_or(f64::NAN, f64::from);
    let servers = u32::try_from(fleet.len()).map_or(f64::NAN, f64::from);
    measured.probes = probed / servers / (seconds / POLL.as_secs_f64());
    let (bytes_now, observations_now) = received(members).await?;
    measured.received = (
        (bytes_now - bytes) / seconds / count,
        (observations_now - observations) / seconds / count,
    );
    for member in members {
        measured.resident = measured.resident.max(member.process()?.resident_bytes()?);
    }
    Ok(())
}

async fn timed(api: &Api, path: &str) -> Result<Duration> {
    let begun = Instant::now();
    let (code, body) = api.get_within(path, REQUEST).await?;
    ensure!(code == 200, "GET {path} answers {code}: {body}");
    Ok(begun.elapsed())
}

fn share(part: usize, whole: usize) -> f64 {
    let number = |count: usize| u32::try_from(count).map_or(f64::NAN, f64::from);
    number(part) / number(whole.max(1))
}

/// Kills the primaries of these clusters together. Returns for each when another server was made writable.
async fn replaced(fleet: &Fleet, clusters: std::ops::RangeInclusive<usize>) -> Result<Vec<Option<Duration>>> {
    let mut killed = Vec::new();
    for cluster in clusters {
        killed.push((cluster, fleet.kill_primary(cluster).await?));
    }
    // A primary that is not replaced in time is part of the result.
    let waited = until(FAILOVER, "all killed primaries to be replaced", async || {
        let all = killed.iter().all(|(cluster, _)| fleet.opened(*cluster).is_some());
        Ok(all.then_some(()))
    });
    drop(waited.await);
    let after = |(cluster, at): &(usize, Instant)| Some(fleet.opened(*cluster)?.duration_since(*at));
    Ok(killed.iter().map(after).collect())
}

/// Whether a line of the log says of a server that is well that it fails.
fn is_false_failure(line: &str, fleet: &Fleet) -> bool {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return false;
    };
    let message = line.get("message").and_then(Value::as_str).unwrap_or_default();
    let instance = line.get("instance").and_then(Value::as_str).unwrap_or_default();
    message.starts_with(&format!("{instance} fails: ")) && fleet.is_well(instance)
}
