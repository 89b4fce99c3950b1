//! The latest observation of every polled instance, in memory, and the other addresses of each instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use regex::Regex;
use tokio::sync::watch;

use crate::domain::analysis::partition;
use crate::domain::commit_stall::CommitStall;
use crate::domain::instance::{Identity, Instance, InstanceFacts, Observation, ProbeFailure, is_same_process};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::{MonotonicTime, WallTime};

use crate::app::ports::Target;

/// An instance as this member polls it.
#[derive(Clone, Debug)]
pub struct CachedInstance {
    /// Its latest observed state.
    pub instance: Instance,
    /// The origin of the credentials for it.
    pub origin: Origin,
    /// Whether a seed, a document or a recorded cluster names it. A crawled address is dropped when it never answers.
    pub wanted: bool,
    /// Since when it is polled.
    pub since: MonotonicTime,
    /// When the probe that gave the latest state began.
    pub begun: Option<MonotonicTime>,
    /// Since when probes fail; `None` while they succeed.
    pub failing_since: Option<MonotonicTime>,
    /// Grows whenever the state differs from the one before, apart from passed time. No two instances have the same revision.
    pub revision: u64,
    /// When the probe that gave the latest facts began.
    pub facts_begun: Option<MonotonicTime>,
    /// It received something from its source after this time: the beginning of the last probe that showed it without.
    pub received_after: Option<MonotonicTime>,
    /// Since when every probe showed commits that wait for acknowledgements while the binary log did not move. One probe proves nothing: on
    /// a busy semi-sync primary some commit waits almost always.
    pub commits_wait_since: Option<WallTime>,
}

/// All instances at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The instances.
    pub instances: BTreeMap<InstanceKey, Instance>,
    /// Their other addresses, each with the address under which the instance is polled.
    pub aliases: BTreeMap<InstanceKey, InstanceKey>,
    /// The revision of each instance, see [`CachedInstance::revision`].
    pub revisions: BTreeMap<InstanceKey, u64>,
}

/// What one observation changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedChanges {
    /// Something that a decision could depend on changed.
    pub changed: bool,
    /// The instance answered before this observation and does not now.
    pub began_to_fail: bool,
    /// The new source, when the instance did not replicate from it before.
    pub new_source: Option<InstanceKey>,
    /// Servers that the instance names and that are not polled yet.
    pub neighbours: BTreeSet<InstanceKey>,
    /// The address belongs to a server that is polled under this other address: it needs no task.
    pub alias_of: Option<InstanceKey>,
}

#[derive(Debug, Default)]
struct Inner {
    tracked: BTreeMap<InstanceKey, CachedInstance>,
    aliases: BTreeMap<InstanceKey, InstanceKey>,
    revision: u64,
}

/// The latest observations of this member. Reads are cheap. Subscribers are notified when something changed that a decision could depend on.
#[derive(Debug, Default)]
pub struct InstanceCache {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    location_patterns: LocationPatterns,
    before: BTreeMap<InstanceKey, WallTime>,
}

/// Patterns that derive the location of a server from its host name: the first group is the value. What the server itself reports wins.
#[derive(Clone, Debug, Default)]
pub struct LocationPatterns {
    /// `DataCenterPattern`.
    pub data_center: Option<Regex>,
    /// `RegionPattern`.
    pub region: Option<Regex>,
    /// `PhysicalEnvironmentPattern`.
    pub environment: Option<Regex>,
}

impl LocationPatterns {
    fn complete(&self, key: &InstanceKey, facts: &mut InstanceFacts) {
        let captured = |pattern: &Option<Regex>| -> Option<String> {
            pattern
                .as_ref()?
                .captures(&key.hostname)?
                .get(1)
                .map(|group| group.as_str().to_owned())
        };
        for (pattern, place) in [
            (&self.data_center, &mut facts.data_center),
            (&self.region, &mut facts.region),
            (&self.environment, &mut facts.environment),
        ] {
            if place.is_empty()
                && let Some(value) = captured(pattern)
            {
                *place = value;
            }
        }
    }
}

impl InstanceCache {
    /// An empty cache with these location patterns.
    pub fn new(location_patterns: LocationPatterns) -> Self {
        Self {
            location_patterns,
            ..Self::default()
        }
    }

    /// The same, with the times at which earlier processes of this member last observed each primary. Rules about the last answer of a
    /// primary (the time that it has to return, whether it ever answered) then do not start again with each start of a member.
    #[must_use]
    pub fn with_last_seen(mut self, before: impl IntoIterator<Item = (InstanceKey, WallTime)>) -> Self {
        self.before = before.into_iter().collect();
        self
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address and account for a polled address; `None` when it is not polled.
    pub fn target(&self, instance: &InstanceKey) -> Option<Target> {
        let tracked = self.get(instance)?;
        Some(Target {
            instance: tracked.instance.key,
            origin: tracked.origin,
        })
    }

    /// A counter that changes with every relevant change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Notifies all subscribers of [`InstanceCache::changes`].
    pub fn notify_changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Adds an address. Returns whether it is new. A wanted address stays wanted. The first origin stays, unless a document follows the API.
    pub fn track(&self, key: &InstanceKey, origin: &Origin, wanted: bool, now: MonotonicTime) -> bool {
        let mut inner = self.lock();
        if inner.aliases.contains_key(key) {
            return false;
        }
        if let Some(tracked) = inner.tracked.get_mut(key) {
            tracked.wanted |= wanted;
            if wanted && matches!(origin, Origin::Document { .. }) {
                tracked.origin = origin.clone();
            }
            return false;
        }
        inner.revision += 1;
        let revision = inner.revision;
        inner.tracked.insert(
            key.clone(),
            CachedInstance {
                instance: Instance {
                    last_seen: self.before.get(key).copied(),
                    ..Instance::unseen(key.clone())
                },
                origin: origin.clone(),
                wanted,
                since: now,
                begun: None,
                failing_since: None,
                revision,
                facts_begun: None,
                received_after: None,
                commits_wait_since: None,
            },
        );
        true
    }

    /// Removes an address and its aliases.
    pub fn untrack(&self, key: &InstanceKey) {
        let mut inner = self.lock();
        inner.tracked.remove(key);
        inner
            .aliases
            .retain(|alias, canonical| alias != key && canonical != key);
        drop(inner);
        self.notify_changed();
    }

    /// The polled addresses.
    pub fn keys(&self) -> BTreeSet<InstanceKey> {
        self.lock().tracked.keys().cloned().collect()
    }

    /// One polled instance, by this or another of its addresses.
    pub fn get(&self, key: &InstanceKey) -> Option<CachedInstance> {
        let inner = self.lock();
        let key = inner.aliases.get(key).unwrap_or(key);
        inner.tracked.get(key).cloned()
    }

    /// All instances and aliases, consistent with each other.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            instances: inner
                .tracked
                .iter()
                .map(|(key, tracked)| (key.clone(), tracked.instance.clone()))
                .collect(),
            aliases: inner.aliases.clone(),
            revisions: inner
                .tracked
                .iter()
                .map(|(key, tracked)| (key.clone(), tracked.revision))
                .collect(),
        }
    }

    /// Records which other controller controls a server. Returns whether that changed.
    pub fn set_other_controller(&self, key: &InstanceKey, controller: Option<String>) -> bool {
        self.set(key, |instance| &mut instance.another_controller, controller)
    }

    /// Records why a primary commits nothing; `None` when it commits. Returns whether that changed.
    pub fn set_commit_stall(&self, key: &InstanceKey, stall: Option<CommitStall>) -> bool {
        self.set(key, |instance| &mut instance.commit_stall, stall)
    }

    fn set<T: PartialEq>(&self, key: &InstanceKey, field: impl FnOnce(&mut Instance) -> &mut T, value: T) -> bool {
        let mut inner = self.lock();
        let revision = inner.revision + 1;
        let Some(tracked) = inner.tracked.get_mut(key) else {
            return false;
        };
        let present = field(&mut tracked.instance);
        let is_news = *present != value;
        if is_news {
            *present = value;
            tracked.revision = revision;
            inner.revision = revision;
        }
        drop(inner);
        if is_news {
            self.notify_changed();
        }
        is_news
    }

    /// The replicas of an address, by their last answers.
    pub fn replicas_of(&self, key: &InstanceKey) -> Vec<InstanceKey> {
        let inner = self.lock();
        let resolve = |key: &InstanceKey| inner.aliases.get(key).unwrap_or(key).clone();
        let key = resolve(key);
        inner
            .tracked
            .values()
            .filter(|tracked| tracked.instance.source().is_some_and(|source| resolve(source) == key))
            .map(|tracked| tracked.instance.key.clone())
            .collect()
    }

    /// All addresses of a polled instance, this one included.
    pub fn aliases_of(&self, key: &InstanceKey) -> BTreeSet<InstanceKey> {
        let inner = self.lock();
        let canonical = inner.aliases.get(key).unwrap_or(key).clone();
        inner
            .aliases
            .iter()
            .filter(|(_, target)| **target == canonical)
            .map(|(alias, _)| alias.clone())
            .chain([canonical.clone()])
            .collect()
    }

    /// Records an observation. An observation that began before the latest known one is ignored.
    pub fn record(&self, observation: &Observation, begun: MonotonicTime, ended: MonotonicTime) -> ObservedChanges {
        let mut inner = self.lock();
        let Some(tracked) = inner.tracked.get(&observation.key) else {
            return ObservedChanges::default();
        };
        if tracked.begun.is_some_and(|latest| latest > begun) {
            return ObservedChanges::default();
        }
        if let Ok(facts) = &observation.outcome
            && let Some(canonical) = same_server(&inner.tracked, &observation.key, facts, observation.ended)
        {
            let wanted = tracked.wanted;
            inner.tracked.remove(&observation.key);
            // Aliases of the server that had this address before are unknown addresses now; crawling finds them again.
            inner.aliases.retain(|_, target| *target != observation.key);
            inner.aliases.insert(observation.key.clone(), canonical.clone());
            if let Some(present) = inner.tracked.get_mut(&canonical) {
                present.wanted |= wanted;
            }
            drop(inner);
            self.notify_changed();
            return ObservedChanges {
                changed: true,
                alias_of: Some(canonical),
                ..ObservedChanges::default()
            };
        }
        let known: BTreeSet<InstanceKey> = inner.tracked.keys().chain(inner.aliases.keys()).cloned().collect();
        let is_full_queue = observation.outcome == Err(ProbeFailure::NoAnswer)
            && tracked.instance.failure == Some(ProbeFailure::Stalled)
            && !is_lost_to_its_replicas(&inner, &observation.key);
        let stalled = is_full_queue.then(|| Observation {
            outcome: Err(ProbeFailure::Stalled),
            ..observation.clone()
        });
        inner.revision += 1;
        let revision = inner.revision;
        let Some(tracked) = inner.tracked.get_mut(&observation.key) else {
            return ObservedChanges::default();
        };
        let observation = stalled.as_ref().unwrap_or(observation);
        let (changes, is_new_state) = apply(tracked, observation, begun, ended, &known, &self.location_patterns);
        if is_new_state {
            tracked.revision = revision;
        }
        drop(inner);
        if changes.changed {
            self.notify_changed();
        }
        changes
    }

    /// Removes the crawled addresses that have not answered for `patience_millis` since they were added. Returns them.
    pub fn drop_phantoms(&self, now: MonotonicTime, patience_millis: u64) -> Vec<InstanceKey> {
        let mut inner = self.lock();
        let sources: BTreeSet<InstanceKey> = inner
            .tracked
            .values()
            .filter_map(|tracked| tracked.instance.source().cloned())
            .collect();
        let phantoms: Vec<InstanceKey> = inner
            .tracked
            .values()
            .filter(|tracked| {
                !tracked.wanted
                    && tracked.instance.facts.is_none()
                    && now.millis_since(tracked.since) > patience_millis
                    && !sources.contains(&tracked.instance.key)
            })
            .map(|tracked| tracked.instance.key.clone())
            .collect();
        for key in &phantoms {
            inner.tracked.remove(key);
        }
        phantoms
    }
}

/// Applies an observation. Returns what changed, and whether the state is new in any respect. Lag counts for the latter only: findings
/// depend on it, but no subscriber has to react at once.
fn apply(
    tracked: &mut CachedInstance,
    observation: &Observation,
    begun: MonotonicTime,
    ended: MonotonicTime,
    known: &BTreeSet<InstanceKey>,
    location_patterns: &LocationPatterns,
) -> (ObservedChanges, bool) {
    let mut changes = ObservedChanges::default();
    let mut is_new_state;
    let instance = &mut tracked.instance;
    let first = instance.last_checked.is_none();
    tracked.begun = Some(begun);
    instance.last_checked = Some(observation.ended);
    match &observation.outcome {
        Ok(read) => {
            let mut facts = read.as_ref().clone();
            location_patterns.complete(&observation.key, &mut facts);
            carry_over_settings(instance, &mut facts, observation.ended);
            let is_back = first || instance.failure.is_some();
            changes.changed = is_back || instance.facts.as_ref().is_none_or(|before| differs(before, &facts));
            is_new_state = changes.changed || instance.facts.as_ref().is_none_or(|before| lag_differs(before, &facts));
            let named = facts
                .replicas
                .iter()
                .map(|replica| &replica.key)
                .chain(facts.channels.iter().map(|channel| &channel.source))
                .chain(
                    facts
                        .group
                        .iter()
                        .flat_map(|group| &group.members)
                        .map(|peer| &peer.key),
                );
            changes.neighbours = named.filter(|key| !known.contains(*key)).cloned().collect();
            instance.last_seen = Some(observation.ended);
            instance.failure = None;
            instance.partial = !facts.problems.is_empty();
            let before = instance.source().cloned();
            let has_moved = instance
                .facts
                .as_ref()
                .is_none_or(|before| facts.committed_since(before));
            if facts.binlog.is_none() {
                instance.binlog_unmoved_since = None;
            } else if has_moved || instance.binlog_unmoved_since.is_none() {
                instance.binlog_unmoved_since = Some(observation.ended);
            }
            let waits = facts.semi_sync.wait_sessions > 0;
            let awaited_since = tracked.commits_wait_since.filter(|_| waits && !has_moved);
            tracked.commits_wait_since = awaited_since.or_else(|| waits.then_some(observation.ended));
            if instance.acks_awaited_since != awaited_since {
                instance.acks_awaited_since = awaited_since;
                (changes.changed, is_new_state) = (true, true);
            }
            let has_reopened = instance
                .facts
                .as_ref()
                .is_some_and(|before| !before.is_writable() && !is_same_process(before.started, facts.started));
            instance.reopened_by_start = facts.is_writable() && (has_reopened || instance.reopened_by_start);
            let has_received_since = match (instance.channel(), facts.managed_channel()) {
                (Some(before), Some(now)) => partition::has_received_since(before, now),
                (None, _) | (_, None) => false,
            };
            if has_received_since {
                tracked.received_after = tracked.facts_begun;
            }
            tracked.facts_begun = Some(begun);
            instance.facts = Some(facts);
            changes.new_source = instance
                .source()
                .filter(|source| before.as_ref() != Some(*source))
                .cloned();
            instance.latency_micros = observation.micros;
            tracked.failing_since = None;
        }
        Err(failure) => {
            changes.began_to_fail = tracked.failing_since.is_none();
            changes.changed = first || instance.failure.as_ref() != Some(failure);
            is_new_state = changes.changed || instance.partial;
            instance.failure = Some(failure.clone());
            instance.partial = false;
            if tracked.failing_since.is_none() {
                tracked.failing_since = Some(ended);
            }
        }
    }
    (changes, is_new_state)
}

fn lag_differs(before: &InstanceFacts, after: &InstanceFacts) -> bool {
    let lags = |facts: &InstanceFacts| -> Vec<Option<u64>> {
        facts.channels.iter().map(|channel| channel.lag_seconds).collect()
    };
    lags(before) != lags(after)
}

/// Whether all answering replicas of a server, at least one, cannot reach it.
///
/// A stopped process accepts connections until its queue is full. From then on it resembles a host that is gone. A stopped process counts
/// as stopped until something else is proved: by a failure other than silence, or by replicas that get no answer to their connection
/// attempts either (error 2003).
fn is_lost_to_its_replicas(inner: &Inner, key: &InstanceKey) -> bool {
    let is_source = |source: &InstanceKey| inner.aliases.get(source).unwrap_or(source) == key;
    let mut replicas = inner
        .tracked
        .values()
        .filter_map(|tracked| tracked.instance.valid_facts()?.managed_channel())
        .filter(|channel| is_source(&channel.source))
        .peekable();
    replicas.peek().is_some()
        && replicas.all(|channel| channel.is_failing_to_connect() && channel.io_error.number == 2003)
}

/// Two start times that are closer than this, milliseconds, are the same start: uptimes are whole seconds.
const SAME_START_MILLIS: u64 = 2000;

/// Carries over settings that this probe did not read, as long as the server process is the same.
fn carry_over_settings(known: &Instance, facts: &mut InstanceFacts, seen: WallTime) {
    let Some(before) = known.facts.as_ref().filter(|_| facts.settings.is_none()) else {
        return;
    };
    let uptime = i64::try_from(facts.uptime_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    let started = seen.plus_millis(-uptime);
    let is_same = known.started().is_some_and(|then| {
        started.millis_since(then).max(then.millis_since(started)) <= SAME_START_MILLIS
            && before.identity == facts.identity
    });
    if is_same {
        facts.settings.clone_from(&before.settings);
    }
}

/// Whether facts differ in what a decision could depend on. Passed time and lag do not count.
fn differs(before: &InstanceFacts, after: &InstanceFacts) -> bool {
    let plain = |facts: &InstanceFacts| {
        let mut facts = facts.clone();
        facts.uptime_seconds = 0;
        facts.semi_sync.wait_sessions = 0;
        for channel in &mut facts.channels {
            channel.lag_seconds = None;
            channel.heartbeats = None;
        }
        facts
    };
    plain(before) != plain(after)
}

/// The address under which the same server is already polled. Two live addresses with one identity are the same server only when host
/// name, server id, reported address, data directory and start time agree as well: a copied data directory has the identity but not the
/// rest.
fn same_server(
    tracked: &BTreeMap<InstanceKey, CachedInstance>,
    key: &InstanceKey,
    facts: &InstanceFacts,
    seen: WallTime,
) -> Option<InstanceKey> {
    let started =
        |facts: &InstanceFacts, seen: WallTime| seen.0 / 1000 - i64::try_from(facts.uptime_seconds).unwrap_or(i64::MAX);
    tracked
        .values()
        .filter(|other| other.instance.key != *key && other.instance.is_valid())
        .find(|other| {
            let (Some(theirs), Some(then)) = (&other.instance.facts, other.instance.last_seen) else {
                return false;
            };
            let alike = theirs.identity == facts.identity
                && theirs.hostname == facts.hostname
                && theirs.server_id == facts.server_id
                && theirs.reported == facts.reported
                && theirs.data_directory == facts.data_directory
                && (started(theirs, then) - started(facts, seen)).abs() <= 2;
            // A MariaDB identity is a server_id: without a reported address, two servers of two topologies have equal facts.
            alike && (matches!(facts.identity, Identity::ServerUuid(_)) || facts.reported.is_some())
        })
        .map(|other| other.instance.key.clone())
}

#[cfg(test)]
#[path = "instance_cache_tests.rs"]
mod tests;
