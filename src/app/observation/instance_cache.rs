//! What this member sees: the latest of every watched instance, in memory, and who else it goes by.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use regex::Regex;
use tokio::sync::watch;

use crate::domain::analysis::silence;
use crate::domain::commit_stall::CommitStall;
use crate::domain::instance::{Identity, Instance, InstanceFacts, Observation, ProbeFailure, is_same_process};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::{MonotonicTime, WallTime};

use crate::app::ports::Target;

/// An instance as this member watches it.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// Its latest state.
    pub instance: Instance,
    /// Whose credentials open it.
    pub origin: Origin,
    /// Named by a person, a document or a recorded cluster; crawled ones are dropped when they never answer.
    pub wanted: bool,
    /// Since when it is watched.
    pub since: MonotonicTime,
    /// When the attempt that gave the latest state began.
    pub begun: Option<MonotonicTime>,
    /// Since when attempts have been failing; `None` while they succeed.
    pub failing_since: Option<MonotonicTime>,
    /// Grows whenever it tells something else than before, time that passed apart; of all instances no two have the same.
    pub revision: u64,
    /// When the attempt that gave the latest facts began.
    pub facts_begun: Option<MonotonicTime>,
    /// Something has arrived from its source after this moment: the beginning of the last look at which it had not.
    pub received_after: Option<MonotonicTime>,
    /// Since when commits of it were seen to wait for acknowledgements at every look, its binary log where it was. One look tells
    /// nothing: on a busy semi-sync primary some commit waits at almost every moment.
    pub commits_wait_since: Option<WallTime>,
}

/// All instances at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The instances.
    pub instances: BTreeMap<InstanceKey, Instance>,
    /// Their other addresses.
    pub aliases: BTreeMap<InstanceKey, InstanceKey>,
    /// See [`Tracked::revision`].
    pub revisions: BTreeMap<InstanceKey, u64>,
}

/// What one observation changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Something that a decision could depend on changed.
    pub changed: bool,
    /// The instance was fine before this observation and is not now.
    pub began_to_fail: bool,
    /// It replicates from this one now, and did not before.
    pub new_source: Option<InstanceKey>,
    /// Other servers that the instance names and that are not watched yet.
    pub neighbours: BTreeSet<InstanceKey>,
    /// The address turned out to be another one of a server watched under this address: stop watching it.
    pub alias_of: Option<InstanceKey>,
}

#[derive(Debug, Default)]
struct Inner {
    tracked: BTreeMap<InstanceKey, Tracked>,
    aliases: BTreeMap<InstanceKey, InstanceKey>,
    revision: u64,
}

/// The latest observations of this member. Cheap to read; a watch tells when something changed that a decision could depend on.
#[derive(Debug, Default)]
pub struct InstanceCache {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    places: Places,
    before: BTreeMap<InstanceKey, WallTime>,
}

/// Where a server is, by its host name: patterns whose first group is the value. What the server itself says wins.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `DataCenterPattern`.
    pub data_center: Option<Regex>,
    /// `RegionPattern`.
    pub region: Option<Regex>,
    /// `PhysicalEnvironmentPattern`.
    pub environment: Option<Regex>,
}

impl Places {
    fn complete(&self, key: &InstanceKey, facts: &mut InstanceFacts) {
        let told = |pattern: &Option<Regex>| -> Option<String> {
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
                && let Some(value) = told(pattern)
            {
                *place = value;
            }
        }
    }
}

impl InstanceCache {
    /// An instance cache that has seen nothing and knows places by these patterns.
    pub fn new(places: Places) -> Self {
        Self {
            places,
            ..Self::default()
        }
    }

    /// The same, which knows when earlier processes of this member saw a primary last: what is asked of its last answer (a time to come
    /// back, whether it was up at all) does not begin anew with each start of a member.
    #[must_use]
    pub fn seen_before(mut self, before: impl IntoIterator<Item = (InstanceKey, WallTime)>) -> Self {
        self.before = before.into_iter().collect();
        self
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a watched address is asked; `None` for one that is not watched.
    pub fn target(&self, instance: &InstanceKey) -> Option<Target> {
        let tracked = self.get(instance)?;
        Some(Target {
            instance: tracked.instance.key,
            origin: tracked.origin,
        })
    }

    /// Counts changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Wakes everyone who looks at changes.
    pub fn touch(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Watches an address from now on. Returns whether it is new. A wanted one stays wanted; the first origin stays unless a document
    /// comes after the API.
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
            Tracked {
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

    /// Stops watching an address and forgets its aliases.
    pub fn untrack(&self, key: &InstanceKey) {
        let mut inner = self.lock();
        inner.tracked.remove(key);
        inner
            .aliases
            .retain(|alias, canonical| alias != key && canonical != key);
        drop(inner);
        self.touch();
    }

    /// The addresses that are watched.
    pub fn keys(&self) -> BTreeSet<InstanceKey> {
        self.lock().tracked.keys().cloned().collect()
    }

    /// One watched instance, by this or another of its addresses.
    pub fn get(&self, key: &InstanceKey) -> Option<Tracked> {
        let inner = self.lock();
        let key = inner.aliases.get(key).unwrap_or(key);
        inner.tracked.get(key).cloned()
    }

    /// All instances and aliases, as one consistent view.
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

    /// Notes who else controls a server. Returns whether that is news.
    pub fn note_controller(&self, key: &InstanceKey, controller: Option<String>) -> bool {
        self.note(key, |instance| &mut instance.another_controller, controller)
    }

    /// Notes why a primary commits nothing, or that it does. Returns whether that is news.
    pub fn note_commit_stall(&self, key: &InstanceKey, stall: Option<CommitStall>) -> bool {
        self.note(key, |instance| &mut instance.commit_stall, stall)
    }

    fn note<T: PartialEq>(&self, key: &InstanceKey, of: impl FnOnce(&mut Instance) -> &mut T, value: T) -> bool {
        let mut inner = self.lock();
        let revision = inner.revision + 1;
        let Some(tracked) = inner.tracked.get_mut(key) else {
            return false;
        };
        let noted = of(&mut tracked.instance);
        let is_news = *noted != value;
        if is_news {
            *noted = value;
            tracked.revision = revision;
            inner.revision = revision;
        }
        drop(inner);
        if is_news {
            self.touch();
        }
        is_news
    }

    /// Replicas of an address by their last word.
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

    /// The other addresses of a watched instance.
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

    /// Takes in an observation; one that began before the latest known one is ignored.
    pub fn record(&self, observation: &Observation, begun: MonotonicTime, ended: MonotonicTime) -> Noticed {
        let mut inner = self.lock();
        let Some(tracked) = inner.tracked.get(&observation.key) else {
            return Noticed::default();
        };
        if tracked.begun.is_some_and(|latest| latest > begun) {
            return Noticed::default();
        }
        if let Ok(facts) = &observation.outcome
            && let Some(canonical) = same_server(&inner.tracked, &observation.key, facts, observation.ended)
        {
            let wanted = tracked.wanted;
            inner.tracked.remove(&observation.key);
            // What was another address of the server that stood here before is an address of nobody known: it is found anew.
            inner.aliases.retain(|_, target| *target != observation.key);
            inner.aliases.insert(observation.key.clone(), canonical.clone());
            if let Some(present) = inner.tracked.get_mut(&canonical) {
                present.wanted |= wanted;
            }
            drop(inner);
            self.touch();
            return Noticed {
                changed: true,
                alias_of: Some(canonical),
                ..Noticed::default()
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
            return Noticed::default();
        };
        let observation = stalled.as_ref().unwrap_or(observation);
        let (noticed, tells_anew) = take_in(tracked, observation, begun, ended, &known, &self.places);
        if tells_anew {
            tracked.revision = revision;
        }
        drop(inner);
        if noticed.changed {
            self.touch();
        }
        noticed
    }

    /// Drops crawled addresses that never answered for `patience_millis`. Returns them.
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

/// Takes an observation in. Says what is to be noticed, and whether anything is told that was not told before: lag counts there, because
/// findings do depend on it, however little anybody has to hurry.
fn take_in(
    tracked: &mut Tracked,
    observation: &Observation,
    begun: MonotonicTime,
    ended: MonotonicTime,
    known: &BTreeSet<InstanceKey>,
    places: &Places,
) -> (Noticed, bool) {
    let mut noticed = Noticed::default();
    let mut tells_anew;
    let instance = &mut tracked.instance;
    let first = instance.last_checked.is_none();
    tracked.begun = Some(begun);
    instance.last_checked = Some(observation.ended);
    match &observation.outcome {
        Ok(told) => {
            let mut facts = told.as_ref().clone();
            places.complete(&observation.key, &mut facts);
            keep_settings(instance, &mut facts, observation.ended);
            let is_back = first || instance.failure.is_some();
            noticed.changed = is_back || instance.facts.as_ref().is_none_or(|before| differs(before, &facts));
            tells_anew = noticed.changed || instance.facts.as_ref().is_none_or(|before| lag_differs(before, &facts));
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
            noticed.neighbours = named.filter(|key| !known.contains(*key)).cloned().collect();
            instance.last_seen = Some(observation.ended);
            instance.failure = None;
            instance.partial = !facts.problems.is_empty();
            let before = instance.source().cloned();
            let has_moved = instance.facts.as_ref().is_none_or(|before| facts.went_on_since(before));
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
                (noticed.changed, tells_anew) = (true, true);
            }
            let has_reopened = instance
                .facts
                .as_ref()
                .is_some_and(|before| !before.is_writable() && !is_same_process(before.started, facts.started));
            instance.reopened_by_start = facts.is_writable() && (has_reopened || instance.reopened_by_start);
            let has_arrived = match (instance.channel(), facts.managed_channel()) {
                (Some(before), Some(now)) => silence::has_arrived(before, now),
                (None, _) | (_, None) => false,
            };
            if has_arrived {
                tracked.received_after = tracked.facts_begun;
            }
            tracked.facts_begun = Some(begun);
            instance.facts = Some(facts);
            noticed.new_source = instance
                .source()
                .filter(|source| before.as_ref() != Some(*source))
                .cloned();
            instance.latency_micros = observation.micros;
            tracked.failing_since = None;
        }
        Err(failure) => {
            noticed.began_to_fail = tracked.failing_since.is_none();
            noticed.changed = first || instance.failure.as_ref() != Some(failure);
            tells_anew = noticed.changed || instance.partial;
            instance.failure = Some(failure.clone());
            instance.partial = false;
            if tracked.failing_since.is_none() {
                tracked.failing_since = Some(ended);
            }
        }
    }
    (noticed, tells_anew)
}

fn lag_differs(before: &InstanceFacts, after: &InstanceFacts) -> bool {
    let lags = |facts: &InstanceFacts| -> Vec<Option<u64>> {
        facts.channels.iter().map(|channel| channel.lag_seconds).collect()
    };
    lags(before) != lags(after)
}

/// Whether all answering replicas of a server, at least one, were told that it cannot be reached.
///
/// A stopped process accepts connections until its queue is full; from then on it looks like a host that is gone. What was stopped
/// counts as stopped until something else is proved: by another failure than silence, or by replicas that get no answer to their
/// connection attempts either (2003).
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

/// Two starts that lie so close together, milliseconds, are one: uptimes are whole seconds.
const SAME_START_MILLIS: u64 = 2000;

/// What was not read this time is what it was, as long as the process is the same.
fn keep_settings(known: &Instance, facts: &mut InstanceFacts, seen: WallTime) {
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

/// Whether facts differ in what a decision could depend on: time that passed and lag are no news.
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

/// The address under which the same server is already watched. Two live addresses with one identity are the same server only when
/// host name, server id, reported address, data directory and start time agree as well: a copied data directory has the identity and not the rest.
fn same_server(
    tracked: &BTreeMap<InstanceKey, Tracked>,
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
            // A MariaDB identity is a server_id: without a reported address, two servers of two topologies look alike.
            alike && (matches!(facts.identity, Identity::ServerUuid(_)) || facts.reported.is_some())
        })
        .map(|other| other.instance.key.clone())
}

#[cfg(test)]
#[path = "instance_cache_tests.rs"]
mod tests;
