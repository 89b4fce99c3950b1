//! When one recorded cluster has become two: a replica was made a primary of its own, and servers replicate from it.
//!
//! Two writable primaries in one recorded cluster are either two clusters, or the split brain that ham4db must hold.
//! They are two clusters only when everything speaks for it ([`division`]): each half has its own writable primary with
//! at least one replica, every server of both halves was read just now and replicates, nothing that one half wrote is
//! missing at its own primary, and no recovery explains the second primary. A writable server without a replica is no
//! half: a failed primary that returns looks the same. The command `split-cluster` separates it ([`half_of`]).

use std::collections::{BTreeMap, BTreeSet};

use super::analysis::node::{group_of, writable_tops};
use super::gtid::GtidSet;
use super::instance::{Identity, Instance, InstanceFacts, ThreadState};
use super::key::InstanceKey;
use super::state::{Cluster, Command, Recovery, State, lost_replicas};
use super::time::WallTime;
use super::topology::{ClusterId, Topology};

/// For how long after the replacement of a primary, milliseconds, a second primary may come from it, unless the
/// recovery was acknowledged.
pub const RECENT_MILLIS: u64 = 10 * 60 * 1000;

/// How long the halves must look the same, milliseconds, before they become clusters.
pub const DWELL_MILLIS: u64 = 6_000;

/// Servers of a recorded cluster that replicate by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// The server that heads them.
    pub head: InstanceKey,
    /// Its identity; `None` when it was never seen.
    pub identity: Option<Identity>,
    /// Start time of its process, when it is known.
    pub process: Option<i64>,
    /// Whether it answers and is writable, so that it is the primary of the half.
    pub is_writable: bool,
    /// All servers of the half.
    pub instances: BTreeSet<InstanceKey>,
}

impl Half {
    fn of(topology: &Topology, head: &InstanceKey, instances: BTreeSet<InstanceKey>) -> Self {
        let instance = topology.get(head);
        let facts = instance.and_then(|instance| instance.facts.as_ref());
        Self {
            head: head.clone(),
            identity: facts.map(|facts| facts.identity.clone()),
            process: facts.and_then(|facts| facts.started),
            is_writable: instance
                .and_then(Instance::valid_facts)
                .is_some_and(InstanceFacts::is_writable),
            instances,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.head == other.head && self.identity == other.identity && self.instances == other.instances
    }
}

/// Whether a recorded cluster is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Division {
    /// It is, as far as anything shows.
    One,
    /// It has a second half with a writable primary and stays one.
    Held {
        /// The rule that keeps it one.
        why: String,
    },
    /// Some halves are clusters of their own.
    Halves(Halves),
}

/// A recorded cluster that has become several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halves {
    /// The half of the recorded primary, which keeps the id. Servers of no half stay with it.
    pub kept: Half,
    /// The halves that become clusters, by the address of their primary.
    pub apart: Vec<Half>,
}

impl Halves {
    fn all(&self) -> impl Iterator<Item = &Half> {
        std::iter::once(&self.kept).chain(&self.apart)
    }

    fn are_same(&self, other: &Self) -> bool {
        self.apart.len() == other.apart.len() && self.all().zip(other.all()).all(|(one, other)| one.is_same(other))
    }
}

/// The servers that are linked by replication or by a replication group, each set ordered by address. The record of the
/// cluster links nothing here.
fn components(topology: &Topology) -> Vec<BTreeSet<InstanceKey>> {
    let unrecorded = State::default();
    super::grouping::group(&topology.instances, &topology.aliases, &unrecorded)
        .into_iter()
        .map(|group| group.instances)
        .collect()
}

/// Decides whether a recorded cluster has become several.
pub fn division(state: &State, topology: &Topology, now: WallTime) -> Division {
    let takes_writes = |instance: &&Instance| {
        let facts = instance.valid_facts();
        facts.is_some_and(InstanceFacts::is_writable) && topology.is_primary(instance)
    };
    if topology.instances.values().filter(takes_writes).nth(1).is_none() {
        return Division::One;
    }
    let Some(recorded) = state
        .clusters
        .get(&topology.cluster)
        .and_then(|cluster| cluster.primary.as_ref())
    else {
        return Division::One;
    };
    let primary = topology.resolve(&recorded.instance);
    let mut rest = components(topology);
    let Some(at) = rest.iter().position(|component| component.contains(primary)) else {
        return Division::One;
    };
    let kept = rest.swap_remove(at);
    let mut halves: Vec<Half> = rest
        .into_iter()
        .filter_map(|part| writable_half(topology, part))
        .collect();
    if halves.is_empty() {
        return Division::One;
    }
    halves.sort_by(|one, other| one.head.cmp(&other.head));
    let held = |why: String| Division::Held { why };
    let own = Half::of(topology, primary, kept);
    if own.identity.as_ref() != Some(&recorded.identity) {
        return held(format!("{primary} is not the server that is recorded as the primary"));
    }
    if let Some(why) = explained_by_recovery(state, &topology.cluster, now) {
        return held(why);
    }
    if let Some(why) = unhealthy(state, topology, &own) {
        return held(why);
    }
    let (apart, reasons): (Vec<_>, Vec<_>) = halves
        .into_iter()
        .map(|half| (unhealthy(state, topology, &half), half))
        .partition(|(why, _)| why.is_none());
    if apart.is_empty() {
        return held(reasons.into_iter().find_map(|(why, _)| why).unwrap_or_default());
    }
    Division::Halves(Halves {
        kept: own,
        apart: apart.into_iter().map(|(_, half)| half).collect(),
    })
}

/// The half that these servers form, when exactly one of them is at the top, answers, and is writable.
fn writable_half(topology: &Topology, instances: BTreeSet<InstanceKey>) -> Option<Half> {
    let mut tops = instances
        .iter()
        .filter(|key| topology.get(key).is_some_and(|instance| topology.is_primary(instance)));
    let (Some(head), None) = (tops.next().cloned(), tops.next()) else {
        return None;
    };
    Some(Half::of(topology, &head, instances)).filter(|half| half.is_writable)
}

/// The recovery that may be the reason for a second primary.
fn explained_by_recovery(state: &State, cluster: &ClusterId, now: WallTime) -> Option<String> {
    let of_cluster = |recovery: &&Recovery| recovery.plan.cluster == *cluster;
    let mut recoveries = state.recoveries.values().filter(of_cluster);
    recoveries.find_map(|recovery| {
        let is_recent = |ended: WallTime| {
            recovery.plan.kind.replaces_primary()
                && recovery.acknowledged.is_none()
                && now.millis_since(ended) < RECENT_MILLIS
        };
        match recovery.ended() {
            None => Some(format!("recovery {} of the cluster runs", recovery.uid)),
            Some(ended) if is_recent(ended) => Some(format!(
                "recovery {} replaced the primary less than {} minutes ago and is not acknowledged",
                recovery.uid,
                RECENT_MILLIS / 60_000
            )),
            Some(_) => None,
        }
    })
}

/// Why the servers of a half are not a cluster that works by itself.
fn unhealthy(state: &State, topology: &Topology, half: &Half) -> Option<String> {
    let head = &half.head;
    if !half.is_writable {
        return Some(format!("{head} is not seen writable"));
    }
    if half.instances.len() < 2 {
        return Some(format!("nothing replicates from {head}"));
    }
    let facts = topology.get(head).and_then(Instance::valid_facts)?;
    half.instances.iter().find_map(|key| {
        let instance = topology.get(key)?;
        let Some(own) = instance.valid_facts() else {
            return Some(format!("{key} does not answer"));
        };
        let is_held = state
            .quarantines
            .values()
            .any(|held| held.cluster == topology.cluster && held.identity == own.identity);
        if is_held {
            return Some(format!("{key} is in quarantine"));
        }
        if lost_replicas(state).any(|(lost, _)| topology.resolve(lost) == key) {
            return Some(format!("{key} was left behind by a recovery"));
        }
        if key == head {
            return None;
        }
        if own.is_group_member() && group_of(topology, head) == Some(own.group_name.as_str()) {
            return None;
        }
        let replicates = own
            .managed_channel()
            .is_some_and(|channel| channel.is_receiving() && channel.sql == ThreadState::Running);
        if !replicates {
            return Some(format!("{key} does not replicate"));
        }
        let errant = foreign(&own.received(), facts);
        (!errant.is_empty()).then(|| format!("{key} has transactions that {head} lacks: {errant}"))
    })
}

/// What a replica has and its primary lacks, without what the primary may have committed since it was read.
fn foreign(received: &GtidSet, primary: &InstanceFacts) -> GtidSet {
    let missing = received.missing_from(&primary.executed);
    missing.subtract(&missing.originating_at(&primary.identity.origin()))
}

/// The part of a cluster that a server heads: itself and all that replicates below it. This is what the command
/// `split-cluster` separates.
///
/// # Errors
/// The rule that forbids it.
pub fn half_of(state: &State, topology: &Topology, head: &InstanceKey) -> Result<Half, String> {
    let head = topology.resolve(head);
    let Some(instance) = topology.get(head) else {
        return Err(format!("{head} is not a server of cluster {}", topology.cluster_name));
    };
    let recorded = topology.recorded_primary.as_ref().map(|key| topology.resolve(key));
    if recorded == Some(head) {
        return Err(format!(
            "{head} is the recorded primary of cluster {}; name the server that heads the other half",
            topology.cluster_name
        ));
    }
    if instance.facts.is_none() {
        return Err(format!(
            "{head} was never read, so nothing shows what replicates from it"
        ));
    }
    if let Some(source) = instance.source() {
        return Err(format!(
            "{head} replicates from {source}; end its replication first (STOP REPLICA, RESET REPLICA ALL)"
        ));
    }
    let part = components(topology).into_iter().find(|part| part.contains(head));
    let part = part.unwrap_or_else(|| BTreeSet::from([head.clone()]));
    if let Some(recorded) = recorded.filter(|recorded| part.contains(recorded)) {
        return Err(format!("{head} and the recorded primary {recorded} replicate together"));
    }
    if part.len() == topology.instances.len() {
        return Err(format!("{head} and what replicates from it are the whole cluster"));
    }
    let held = state.quarantines.values().find(|held| {
        held.cluster == topology.cluster
            && (part.contains(topology.resolve(&held.instance))
                || topology
                    .by_identity(&held.identity)
                    .is_some_and(|it| part.contains(&it.key)))
    });
    if let Some(held) = held {
        return Err(format!(
            "{} is in quarantine after recovery {}; release it first (release-quarantine)",
            held.instance, held.recovery
        ));
    }
    Ok(Half::of(topology, head, part))
}

/// The command that makes a cluster of a half.
pub fn command(state: &State, topology: &Topology, half: &Half, id: ClusterId, reason: &str) -> Command {
    let instances = topology.instances.iter();
    let own = Topology {
        cluster: id.clone(),
        cluster_name: half.head.to_string(),
        cluster_alias: String::new(),
        recorded_primary: None,
        instances: instances
            .filter(|(key, _)| half.instances.contains(*key))
            .map(|(key, instance)| (key.clone(), instance.clone()))
            .collect(),
        ..topology.clone()
    };
    Command::SplitCluster {
        from: topology.cluster.clone(),
        id,
        head: half.head.clone(),
        primary: half.identity.clone().filter(|_| half.is_writable),
        process: half.process.filter(|_| half.is_writable),
        instances: half.instances.clone(),
        alias: String::new(),
        document: super::ownership::owner(state, &own),
        reason: reason.to_owned(),
    }
}

/// The command that merges two clusters: the older one remains.
///
/// # Errors
/// The rule that forbids it.
pub fn merge(state: &State, one: &Topology, other: &Topology, reason: &str) -> Result<Command, String> {
    let record = |topology: &Topology| {
        let record = state.clusters.get(&topology.cluster);
        record.ok_or_else(|| format!("cluster {} is not recorded", topology.cluster))
    };
    let (one_record, other_record) = (record(one)?, record(other)?);
    if one_record.id == other_record.id {
        return Err(format!("{} is one cluster", one.cluster_name));
    }
    let ids = [&one_record.id, &other_record.id];
    let is_about_them = |recovery: &&Recovery| recovery.is_active() && ids.contains(&&recovery.plan.cluster);
    if let Some(recovery) = state.recoveries.values().find(is_about_them) {
        return Err(format!("recovery {} of {} runs", recovery.uid, recovery.cluster_name));
    }
    for (topology, record) in [(one, one_record), (other, other_record)] {
        let primary = record.primary.as_ref().map(|primary| &primary.instance);
        let silent = primary.filter(|key| !topology.get(key).is_some_and(Instance::is_valid));
        if let Some(silent) = silent {
            return Err(format!(
                "{silent}, the primary of {}, does not answer, so it may be writable",
                topology.cluster_name
            ));
        }
    }
    let writable: Vec<InstanceKey> = writable_tops(one).into_iter().chain(writable_tops(other)).collect();
    if let [first, second, ..] = writable.as_slice() {
        return Err(format!(
            "{first} and {second} are both writable primaries; make one of them read-only first"
        ));
    }
    let primary = writable.first().and_then(|key| {
        let instance = one.get(key).or_else(|| other.get(key))?;
        Some((key.clone(), instance.facts.as_ref()?.identity.clone()))
    });
    let age = |cluster: &Cluster| (cluster.created_at, cluster.id.clone());
    let (into, from) = if age(one_record) <= age(other_record) {
        (one_record, other_record)
    } else {
        (other_record, one_record)
    };
    Ok(Command::MergeClusters {
        into: into.id.clone(),
        from: from.id.clone(),
        primary,
        reason: reason.to_owned(),
    })
}

/// How long halves have looked the same, in the memory of the leader.
#[derive(Clone, Debug, Default)]
pub struct SplitDwell {
    seen: BTreeMap<ClusterId, Seen>,
}

#[derive(Clone, Debug)]
enum Seen {
    Halves { halves: Halves, since: WallTime },
    Held { why: String },
}

impl SplitDwell {
    /// Whether the halves of a cluster have looked the same for long enough, each of their servers read again
    /// meanwhile.
    pub fn is_ripe(&mut self, topology: &Topology, halves: &Halves, now: WallTime) -> bool {
        let since = match self.seen.get(&topology.cluster) {
            Some(Seen::Halves { halves: before, since }) if before.are_same(halves) => *since,
            Some(Seen::Halves { .. } | Seen::Held { .. }) | None => {
                let halves = halves.clone();
                let seen = Seen::Halves { halves, since: now };
                self.seen.insert(topology.cluster.clone(), seen);
                return false;
            }
        };
        let was_read_again = |key: &InstanceKey| {
            let last_seen = topology.get(key).and_then(|instance| instance.last_seen);
            last_seen.is_some_and(|last| last > since)
        };
        now.millis_since(since) >= DWELL_MILLIS && halves.all().flat_map(|half| &half.instances).all(was_read_again)
    }

    /// Notes that a cluster with a second half stays one; returns whether the reason is new.
    pub fn hold(&mut self, cluster: &ClusterId, why: &str) -> bool {
        let is_new = !matches!(self.seen.get(cluster), Some(Seen::Held { why: before }) if before == why);
        let why = why.to_owned();
        self.seen.insert(cluster.clone(), Seen::Held { why });
        is_new
    }

    /// Forgets a cluster that is one.
    pub fn forget(&mut self, cluster: &ClusterId) {
        self.seen.remove(cluster);
    }

    /// Forgets all clusters but these.
    pub fn keep(&mut self, clusters: &BTreeSet<ClusterId>) {
        self.seen.retain(|id, _| clusters.contains(id));
    }
}

#[cfg(test)]
#[path = "cluster_split_tests.rs"]
mod tests;
