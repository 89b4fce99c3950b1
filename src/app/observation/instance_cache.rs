//! The latest observation of every polled instance, in memory, and the other addresses of each instance.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex::Regex;
use tokio::sync::watch;

use crate::domain::analysis::partition;
use crate::domain::commit_stall::CommitStall;
use crate::domain::discovery::NotFollowed;
use crate::domain::instance::{Identity, Instance, InstanceFacts, Observation, ProbeFailure, is_same_process};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::time::{MonotonicTime, WallTime};

use crate::app::observation::probe_sharing::{ReceivedObservation, SharedProbes};
use crate::app::observation::scheduling_delay::SchedulingDelays;
use crate::app::ports::Target;

mod aliases;
mod index;
mod neighbourhood;

use index::InstanceIndex;

impl CachedInstance {
    /// Keeps what only an own probe shows.
    fn note_own_look(&mut self, observation: &Observation) {
        self.instance.observed_by = None;
        if let Ok(facts) = &observation.outcome {
            self.own_look = Some(OwnLook {
                identity: facts.identity.clone(),
                started: facts.started,
                peer: facts.peer,
                is_unverified: facts.is_unverified,
            });
        }
    }
}

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
    /// Connections were refused since the latest facts were read: the process that gave them has ended.
    pub was_refused: bool,
    /// Grows whenever the state differs from the one before, apart from passed time. No two instances have the same revision.
    pub revision: u64,
    /// When the probe that gave the latest facts began.
    pub facts_begun: Option<MonotonicTime>,
    /// It received something from its source after this time: the beginning of the last probe that showed it without.
    pub received_after: Option<MonotonicTime>,
    /// Since when every probe showed commits that wait for acknowledgements while the binary log did not move. One probe proves nothing: on
    /// a busy semi-sync primary some commit waits almost always.
    pub commits_wait_since: Option<WallTime>,
    /// An account that may be used here although nothing names the address with it.
    pub adopted: Option<Origin>,
    /// What only a probe of this member shows, of the server process that it saw last.
    own_look: Option<OwnLook>,
    /// Grows whenever anything of the instance is recorded, also when only time passed.
    touched: u64,
}

/// What a probe of this member shows and one of another member does not.
#[derive(Clone, Debug)]
struct OwnLook {
    identity: Identity,
    started: Option<i64>,
    peer: Option<IpAddr>,
    is_unverified: bool,
}

/// What became of an observation of another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedRecord {
    /// It is the latest state of the instance.
    Recorded(ObservedChanges),
    /// It shows a server process that this member has not probed itself, and is not used.
    NeedsOwnLook,
    /// It is not used: it is older than what is known, was made with another account, or this member sees the server fail.
    Unused,
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
    touched: u64,
}

/// What one observation changed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a subscriber reacts to"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedChanges {
    /// Something that a decision could depend on changed.
    pub changed: bool,
    /// The instance answered before this observation and does not now.
    pub began_to_fail: bool,
    /// The instance failed before this observation and answers now.
    pub returned: bool,
    /// The new source, when the instance did not replicate from it before.
    pub new_source: Option<InstanceKey>,
    /// Servers that the instance names and that are not polled yet.
    pub neighbours: BTreeSet<InstanceKey>,
    /// The address belongs to a server that is polled under this other address: it needs no task.
    pub alias_of: Option<InstanceKey>,
    /// Another process than before answers, or another server.
    pub restarted: bool,
}

/// The polled servers of one cluster, recorded or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbourhood {
    /// Their addresses, other addresses included.
    pub servers: BTreeSet<InstanceKey>,
    /// The IP addresses at which they were reached.
    pub addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
struct Inner {
    tracked: BTreeMap<InstanceKey, CachedInstance>,
    aliases: BTreeMap<InstanceKey, InstanceKey>,
    revision: u64,
    index: InstanceIndex,
}

impl Inner {
    /// Notes that something of an instance was recorded.
    fn touch(&mut self, key: &InstanceKey) {
        if let Some(tracked) = self.tracked.get_mut(key) {
            tracked.touched = self.index.touch(key, tracked.touched);
        }
    }

    /// Removes an instance.
    fn remove(&mut self, key: &InstanceKey) {
        if let Some(tracked) = self.tracked.remove(key) {
            self.index.remove(key, &tracked.instance, tracked.touched);
        }
    }

    /// All addresses of the instance that is polled at `canonical`.
    fn addresses<'a>(&'a self, canonical: &'a InstanceKey) -> impl Iterator<Item = &'a InstanceKey> {
        let aliases = self.aliases.iter().filter(move |(_, target)| *target == canonical);
        aliases.map(|(alias, _)| alias).chain([canonical])
    }

    /// The replicas of an address, by their last answers.
    fn replicas_of<'a>(&'a self, key: &'a InstanceKey) -> impl Iterator<Item = &'a CachedInstance> {
        let canonical = self.aliases.get(key).unwrap_or(key);
        self.addresses(canonical)
            .flat_map(|address| self.index.replicas_of(address).map(move |replica| (address, replica)))
            .filter_map(|(address, replica)| {
                let tracked = self.tracked.get(replica)?;
                (tracked.instance.source() == Some(address)).then_some(tracked)
            })
    }

    /// Leaves the servers that are polled already out of the named ones.
    fn drop_known_neighbours(&self, observed: &InstanceKey, changes: &mut ObservedChanges) {
        // An address that refuses the account that it is polled with may be a server of this cluster, named by a document of another.
        let origin = self.tracked.get(observed).map(|tracked| &tracked.origin);
        let is_refused = |other: &CachedInstance| {
            Some(&other.origin) != origin
                && matches!(
                    other.instance.failure,
                    Some(ProbeFailure::Denied(_) | ProbeFailure::NoCredentials(_))
                )
        };
        let is_known = |key: &InstanceKey| {
            self.tracked.get(key).is_some_and(|other| !is_refused(other)) || self.aliases.contains_key(key)
        };
        changes.neighbours.retain(|key| !is_known(key));
    }
}

/// The latest observations of this member. Reads are cheap. Subscribers are notified when something changed that a decision could depend on.
#[derive(Debug, Default)]
pub struct InstanceCache {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    location_patterns: LocationPatterns,
    before: BTreeMap<InstanceKey, WallTime>,
    delays: SchedulingDelays,
    shared_probes: Option<Arc<SharedProbes>>,
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

    /// The same, with probes that the members of the group share.
    #[must_use]
    pub fn with_shared_probes(mut self, shared_probes: Arc<SharedProbes>) -> Self {
        self.shared_probes = Some(shared_probes);
        self
    }

    /// The probes that the members of the group share; `None`: every member probes everything.
    pub fn shared_probes(&self) -> Option<&Arc<SharedProbes>> {
        self.shared_probes.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How late this member observes.
    pub fn delays(&self) -> &SchedulingDelays {
        &self.delays
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

    /// Adds an address. Returns whether it is new. A wanted address stays wanted. The first origin stays, see
    /// [`InstanceCache::set_origin`].
    pub fn track(&self, key: &InstanceKey, origin: &Origin, wanted: bool, now: MonotonicTime) -> bool {
        let mut inner = self.lock();
        if inner.aliases.contains_key(key) {
            return false;
        }
        if let Some(tracked) = inner.tracked.get_mut(key) {
            tracked.wanted |= wanted;
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
                was_refused: false,
                revision,
                facts_begun: None,
                received_after: None,
                commits_wait_since: None,
                adopted: None,
                own_look: None,
                touched: 0,
            },
        );
        inner.touch(key);
        true
    }

    /// The origin of the account that is used for a polled address; `None` when it is not polled, or is another address of a polled one.
    pub fn tracked_origin(&self, key: &InstanceKey) -> Option<Origin> {
        self.lock().tracked.get(key).map(|tracked| tracked.origin.clone())
    }

    /// The origin of an account that was adopted for a polled address ([`InstanceCache::adopt`]).
    pub fn adopted_origin(&self, key: &InstanceKey) -> Option<Origin> {
        self.lock().tracked.get(key).and_then(|tracked| tracked.adopted.clone())
    }

    /// Marks an account as one that may be used for a polled address although nothing names the address with it.
    pub fn adopt(&self, key: &InstanceKey, origin: &Origin) {
        if let Some(tracked) = self.lock().tracked.get_mut(key) {
            tracked.adopted = Some(origin.clone());
        }
    }

    /// Sets the origin of the account that is used for a polled address. Returns whether that changed.
    pub fn set_origin(&self, key: &InstanceKey, origin: &Origin) -> bool {
        let mut inner = self.lock();
        let tracked = inner.tracked.get_mut(key).filter(|tracked| tracked.origin != *origin);
        let is_news = tracked.is_some();
        if let Some(tracked) = tracked {
            tracked.origin = origin.clone();
        }
        is_news
    }

    /// Removes an address and its aliases.
    pub fn untrack(&self, key: &InstanceKey) {
        let mut inner = self.lock();
        inner.remove(key);
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

    /// What `read` returns for one polled instance, by this or another of its addresses. Unlike [`InstanceCache::get`] it copies nothing.
    /// `read` must not call the cache.
    pub fn read<T>(&self, key: &InstanceKey, read: impl FnOnce(&CachedInstance) -> T) -> Option<T> {
        let inner = self.lock();
        let key = inner.aliases.get(key).unwrap_or(key);
        inner.tracked.get(key).map(read)
    }

    /// All instances and aliases, consistent with each other.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.refresh(&mut snapshot);
        snapshot
    }

    /// Brings a snapshot of this cache up to date. The time grows with what was recorded since it was taken. Returns the instances that are
    /// not as they were, and whether aliases or the set of instances are others.
    pub fn refresh(&self, snapshot: &mut Snapshot) -> (BTreeSet<InstanceKey>, bool) {
        let inner = self.lock();
        let mut changed = BTreeSet::new();
        let mut has_others = inner.aliases != snapshot.aliases;
        if has_others {
            snapshot.aliases.clone_from(&inner.aliases);
        }
        for key in inner.index.touched_after(snapshot.touched) {
            if let Some(tracked) = inner.tracked.get(key) {
                let known = snapshot.instances.insert(key.clone(), tracked.instance.clone());
                snapshot.revisions.insert(key.clone(), tracked.revision);
                has_others |= known.is_none();
                changed.insert(key.clone());
            }
        }
        snapshot.touched = inner.index.last_touch();
        if snapshot.instances.len() != inner.tracked.len() {
            has_others = true;
            snapshot.instances.retain(|key, _| inner.tracked.contains_key(key));
            snapshot.revisions.retain(|key, _| inner.tracked.contains_key(key));
        }
        (changed, has_others)
    }

    /// Records which other controller controls a server. Returns whether that changed.
    pub fn set_other_controller(&self, key: &InstanceKey, controller: Option<String>) -> bool {
        self.set(key, |instance| &mut instance.another_controller, controller)
    }

    /// Records why a primary commits nothing; `None` when it commits. Returns whether that changed.
    pub fn set_commit_stall(&self, key: &InstanceKey, stall: Option<CommitStall>) -> bool {
        self.set(key, |instance| &mut instance.commit_stall, stall)
    }

    /// Records which addresses that a server names are not dialled. Returns whether that changed.
    pub fn set_not_followed(&self, key: &InstanceKey, not_followed: Vec<NotFollowed>) -> bool {
        self.set(key, |instance| &mut instance.not_followed, not_followed)
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
            inner.touch(key);
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
        let replicas: BTreeSet<&InstanceKey> = inner.replicas_of(key).map(|replica| &replica.instance.key).collect();
        replicas.into_iter().cloned().collect()
    }

    /// Whether an address has replicas, by their last answers, and whether one of them answers.
    pub fn has_replicas(&self, key: &InstanceKey) -> (bool, bool) {
        let inner = self.lock();
        let answers = |replica: &CachedInstance| replica.failing_since.is_none();
        let has_replicas = inner.replicas_of(key).next().is_some();
        (has_replicas, inner.replicas_of(key).any(answers))
    }

    /// All addresses of a polled instance, this one included.
    pub fn aliases_of(&self, key: &InstanceKey) -> BTreeSet<InstanceKey> {
        let inner = self.lock();
        let canonical = inner.aliases.get(key).unwrap_or(key);
        inner.addresses(canonical).cloned().collect()
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
            && let Some(canonical) = same_server(&inner, &observation.key, facts, observation.ended)
        {
            let wanted = tracked.wanted;
            inner.remove(&observation.key);
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
        let links = |tracked: &CachedInstance| {
            let identity = tracked.instance.facts.as_ref().map(|facts| facts.identity.clone());
            (tracked.instance.source().cloned(), identity)
        };
        let before = links(tracked);
        let (mut changes, is_new_state) = apply(tracked, observation, begun, ended, &self.location_patterns);
        tracked.note_own_look(observation);
        if is_new_state {
            tracked.revision = revision;
        }
        let after = links(tracked);
        self.share(tracked, observation, begun, ended);
        inner
            .index
            .set_source(&observation.key, before.0.as_ref(), after.0.as_ref());
        inner
            .index
            .set_identity(&observation.key, before.1.as_ref(), after.1.as_ref());
        inner.touch(&observation.key);
        inner.drop_known_neighbours(&observation.key, &mut changes);
        drop(inner);
        if changes.changed {
            self.notify_changed();
        }
        changes
    }

    /// Gives an own observation to the other members.
    fn share(&self, tracked: &CachedInstance, observation: &Observation, begun: MonotonicTime, ended: MonotonicTime) {
        let Some(shared_probes) = &self.shared_probes else {
            return;
        };
        let instance = &tracked.instance;
        let outcome = match (&observation.outcome, &instance.facts) {
            (Ok(_), Some(facts)) => Ok(facts),
            (Ok(_), None) => return,
            (Err(failure), _) => Err(failure),
        };
        let times = (begun, ended, observation.micros);
        shared_probes.put_own(&instance.key, &tracked.origin, times, outcome);
    }

    /// Records what another member observed. Only successes are recorded: a failure is a reason to look. Nothing is recorded of a server
    /// process that this member has not probed itself once, and of a server that does not answer this member.
    pub fn record_shared(&self, received: &ReceivedObservation, from: &str) -> SharedRecord {
        let Some(observation) = &received.observation else {
            return SharedRecord::Unused;
        };
        let Ok(read) = &observation.outcome else {
            return SharedRecord::Unused;
        };
        let mut inner = self.lock();
        inner.revision += 1;
        let revision = inner.revision;
        let Some(tracked) = inner.tracked.get_mut(&received.key) else {
            return SharedRecord::Unused;
        };
        let is_usable = tracked.origin == received.account
            && tracked.failing_since.is_none()
            && tracked.begun.is_none_or(|latest| latest < received.begun);
        if !is_usable {
            return SharedRecord::Unused;
        }
        let same_process = |own: &&OwnLook| own.identity == read.identity && is_same_process(own.started, read.started);
        let Some(own) = tracked.own_look.as_ref().filter(same_process) else {
            return SharedRecord::NeedsOwnLook;
        };
        let mut observation = observation.clone();
        if let Ok(facts) = &mut observation.outcome {
            facts.peer = own.peer;
            facts.is_unverified = own.is_unverified;
        }
        let source = tracked.instance.source().cloned();
        let (mut changes, is_new_state) = apply(
            tracked,
            &observation,
            received.begun,
            received.ended,
            &self.location_patterns,
        );
        if tracked.instance.observed_by.as_deref() != Some(from) {
            tracked.instance.observed_by = Some(from.to_owned());
        }
        if is_new_state {
            tracked.revision = revision;
        }
        // The identity is that of the own probe.
        let new_source = tracked.instance.source().cloned();
        inner
            .index
            .set_source(&received.key, source.as_ref(), new_source.as_ref());
        inner.touch(&received.key);
        inner.drop_known_neighbours(&received.key, &mut changes);
        drop(inner);
        if changes.changed {
            self.notify_changed();
        }
        SharedRecord::Recorded(changes)
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
            inner.remove(key);
        }
        phantoms
    }
}

/// Applies an observation. Returns what changed, with all servers that the instance names as neighbours, and whether the state is new in any respect. Lag counts for the latter only: findings
/// depend on it, but no subscriber has to react at once.
fn apply(
    tracked: &mut CachedInstance,
    observation: &Observation,
    begun: MonotonicTime,
    ended: MonotonicTime,
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
            let is_other_account = instance.account.as_ref() != Some(&tracked.origin);
            instance.account = Some(tracked.origin.clone());
            changes.returned = instance.failure.is_some();
            changes.changed =
                is_back || is_other_account || instance.facts.as_ref().is_none_or(|before| differs(before, &facts));
            changes.restarted = instance.facts.as_ref().is_some_and(|before| {
                before.identity != facts.identity || !is_same_process(before.started, facts.started)
            });
            is_new_state = changes.changed || instance.facts.as_ref().is_none_or(|before| lag_differs(before, &facts));
            let named = facts
                .replicas
                .iter()
                .map(|replica| &replica.key)
                .chain(
                    facts
                        .channels
                        .iter()
                        .chain(&facts.other_channels)
                        .map(|channel| &channel.source),
                )
                .chain(
                    facts
                        .group
                        .iter()
                        .flat_map(|group| &group.members)
                        .map(|peer| &peer.key),
                );
            changes.neighbours = named.cloned().collect();
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
            // Start times are whole seconds, so a server that starts twice within two of them is told by its refusals in between.
            let was_refused = std::mem::take(&mut tracked.was_refused);
            let has_reopened = instance.facts.as_ref().is_some_and(|before| {
                !before.is_writable() && (was_refused || !is_same_process(before.started, facts.started))
            });
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
            tracked.was_refused |= *failure == ProbeFailure::Refused;
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
    let mut replicas = inner
        .replicas_of(key)
        .filter_map(|replica| replica.instance.valid_facts()?.managed_channel())
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
        for channel in facts.channels.iter_mut().chain(&mut facts.other_channels) {
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
fn same_server(inner: &Inner, key: &InstanceKey, facts: &InstanceFacts, seen: WallTime) -> Option<InstanceKey> {
    let started =
        |facts: &InstanceFacts, seen: WallTime| seen.0 / 1000 - i64::try_from(facts.uptime_seconds).unwrap_or(i64::MAX);
    inner
        .index
        .with_identity(&facts.identity)
        .filter_map(|other| inner.tracked.get(other))
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
