//! One task per instance: polls it, feels its pulse, and looks closely while something is suspected.
//!
//! An instance that has replicas, or is in quarantine, gets a cheap pulse about every 100 ms. A failed pulse triggers at once a fresh
//! connection attempt; when that fails too, its replicas are probed in quick succession, for they notice the loss of their source
//! within 10 to 40 ms. So a failure is seen after a pulse, not after a poll, and a dead server costs the others nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::domain::instance::{Observation, ProbeFailure};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::state::State;
use crate::domain::time::MonotonicTime;

use crate::app::observation::instance_cache::{InstanceCache, Noticed};
use crate::app::ports::{Approach, Clock, CredentialsByOrigin, Prober, Pulse, Target};
use crate::app::settings::PollSettings;

/// While the source of a replica fails: how close together the replica is probed, by how long the failure lasts. The first half
/// second is when replicas notice; later the view hardly changes.
const ALERT_PACE: [(u64, u64); 3] = [(500, 20), (10_000, 100), (u64::MAX, 1000)];

/// Crawled addresses that never answered are dropped after this, milliseconds.
const PHANTOM_PATIENCE: u64 = 60_000;

#[derive(Debug)]
struct InstanceTask {
    poke: Arc<Notify>,
    cancel: CancellationToken,
}

/// Runs the tasks, and decides which instances have one.
pub struct Poller {
    instance_cache: Arc<InstanceCache>,
    prober: Arc<dyn Prober>,
    clock: Arc<dyn Clock>,
    settings: PollSettings,
    state: watch::Receiver<Arc<State>>,
    credentials: watch::Receiver<CredentialsByOrigin>,
    tasks: Mutex<BTreeMap<InstanceKey, InstanceTask>>,
    alerts: Mutex<BTreeMap<InstanceKey, MonotonicTime>>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Poller {
    /// A watcher that has not started; see [`Poller::run`].
    pub fn new(
        instance_cache: Arc<InstanceCache>,
        prober: Arc<dyn Prober>,
        clock: Arc<dyn Clock>,
        settings: PollSettings,
        state: watch::Receiver<Arc<State>>,
        credentials: watch::Receiver<CredentialsByOrigin>,
        cancel: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            instance_cache,
            prober,
            clock,
            settings,
            state,
            credentials,
            tasks: Mutex::default(),
            alerts: Mutex::default(),
            tracker: TaskTracker::new(),
            cancel,
        })
    }

    /// Watches what the state names and what crawling finds, until cancelled.
    pub async fn run(self: Arc<Self>) {
        let mut state = self.state.clone();
        let mut credentials = self.credentials.clone();
        let mut sweep = tokio::time::interval(Duration::from_secs(10));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let current = state.borrow_and_update().clone();
            self.follow(&current);
            tokio::select! {
                () = self.cancel.cancelled() => break,
                changed = state.changed() => if changed.is_err() { break },
                Ok(()) = credentials.changed() => {
                    credentials.mark_unchanged();
                    self.try_new_credentials();
                }
                _ = sweep.tick() => self.drop_phantoms().await,
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Asks those at once that were waiting for an account, or refused the one they were given.
    fn try_new_credentials(&self) {
        let keys: Vec<InstanceKey> = self.tasks().keys().cloned().collect();
        for key in keys {
            let failure = self
                .instance_cache
                .get(&key)
                .and_then(|tracked| tracked.instance.failure);
            if matches!(failure, Some(ProbeFailure::NoCredentials(_) | ProbeFailure::Denied(_))) {
                self.poke(&key);
            }
        }
    }

    /// Probes an instance now, on a fresh connection, and takes the result in. Tracks it when it was not watched yet.
    pub async fn look(self: &Arc<Self>, target: &Target) -> Observation {
        self.start(&target.instance, &target.origin, false);
        self.probe(&target.instance, &target.origin, Approach::Fresh).await
    }

    /// Asks the task of an instance to probe now.
    pub fn poke(&self, key: &InstanceKey) {
        if let Some(task) = self.tasks().get(key) {
            task.poke.notify_one();
        }
    }

    /// Stops watching an instance.
    pub async fn forget(&self, key: &InstanceKey) {
        if let Some(task) = self.tasks().remove(key) {
            task.cancel.cancel();
        }
        self.instance_cache.untrack(key);
        self.prober.release(key).await;
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, InstanceTask>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alerts(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, MonotonicTime>> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, state: &State) {
        for (key, origin) in wanted(state) {
            self.start(&key, &origin, true);
        }
        let gone: Vec<InstanceKey> = state
            .forgotten
            .keys()
            .filter(|key| self.tasks().contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            info!(instance = %key, "forgotten: {key} is no longer watched");
            if let Some(task) = self.tasks().remove(&key) {
                task.cancel.cancel();
            }
            self.instance_cache.untrack(&key);
        }
    }

    fn start(self: &Arc<Self>, key: &InstanceKey, origin: &Origin, wanted: bool) {
        if self.cancel.is_cancelled() {
            return;
        }
        let new = self.instance_cache.track(key, origin, wanted, self.clock.monotonic());
        let mut tasks = self.tasks();
        if !new || tasks.contains_key(key) {
            return;
        }
        info!(instance = %key, origin = %origin, "watching {key} (asked for by {origin})");
        let task = InstanceTask {
            poke: Arc::new(Notify::new()),
            cancel: self.cancel.child_token(),
        };
        self.tracker
            .spawn(Arc::clone(self).watch(key.clone(), Arc::clone(&task.poke), task.cancel.clone()));
        tasks.insert(key.clone(), task);
    }

    async fn watch(self: Arc<Self>, key: InstanceKey, poke: Arc<Notify>, cancel: CancellationToken) {
        let mut next_poll = Instant::now();
        loop {
            let pace = self.pace(&key);
            let close_look = async {
                match pace {
                    Some(pace) => tokio::time::sleep(pace).await,
                    None => std::future::pending().await,
                }
            };
            let polled = tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep_until(next_poll) => true,
                () = poke.notified() => true,
                () = close_look => false,
            };
            let Some(tracked) = self.instance_cache.get(&key) else {
                break;
            };
            let failing = tracked.failing_since.is_some();
            let approach = if failing { Approach::Fresh } else { Approach::Kept };
            if polled || failing || self.alert_age(&key).is_some() {
                self.probe(&key, &tracked.origin, approach).await;
                next_poll = Instant::now() + self.settings.poll;
            } else {
                let target = Target {
                    instance: key.clone(),
                    origin: tracked.origin.clone(),
                };
                if let Pulse::Doubt(why) = self.prober.pulse(&target, self.settings.pulse_deadline).await {
                    debug!(instance = %key, "no pulse from {key}: {why}");
                    self.probe(&key, &tracked.origin, Approach::Fresh).await;
                    next_poll = Instant::now() + self.settings.poll;
                }
            }
        }
        self.prober.release(&key).await;
    }

    /// How soon the instance is looked at again, apart from its poll.
    fn pace(&self, key: &InstanceKey) -> Option<Duration> {
        if let Some(age) = self.alert_age(key) {
            let pace = ALERT_PACE
                .iter()
                .find(|(until, _)| age < *until)
                .map_or(1000, |(_, pace)| *pace);
            return Some(Duration::from_millis(pace));
        }
        let tracked = self.instance_cache.get(key);
        // A stopped process accepts connections until its queue is full: dialling it often would make it look dead.
        if tracked
            .as_ref()
            .is_some_and(|tracked| tracked.instance.failure == Some(ProbeFailure::Stalled))
        {
            return None;
        }
        // One that is full has no connection for a pulse, and its reserved one is not worn out.
        let facts = tracked.as_ref().and_then(|tracked| tracked.instance.valid_facts());
        if facts.is_some_and(|facts| facts.by_admin_endpoint) {
            return None;
        }
        let quarantined = self
            .state
            .borrow()
            .quarantines
            .values()
            .any(|quarantine| quarantine.instance == *key);
        if !quarantined && self.instance_cache.replicas_of(key).is_empty() {
            return None;
        }
        let watched = u32::try_from(self.tasks().len()).unwrap_or(u32::MAX);
        let stretched = Duration::from_secs(1) * watched / self.settings.pulses_per_second.max(1);
        Some(self.settings.pulse.max(stretched))
    }

    /// For how long the source of this instance has been failing, milliseconds.
    fn alert_age(&self, key: &InstanceKey) -> Option<u64> {
        let since = *self.alerts().get(key)?;
        Some(self.clock.monotonic().millis_since(since))
    }

    async fn probe(self: &Arc<Self>, key: &InstanceKey, origin: &Origin, approach: Approach) -> Observation {
        let target = Target {
            instance: key.clone(),
            origin: origin.clone(),
        };
        let deadline = self.settings.probe_deadline;
        let begun = self.clock.monotonic();
        let observation = self.prober.probe(&target, approach, deadline).await;
        let ended = self.clock.monotonic();
        // A tick that came late (the process was paused) says nothing about the server.
        let patience = u64::try_from(deadline.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_mul(2)
            .saturating_add(500);
        if observation.outcome.is_err() && ended.millis_since(begun) > patience {
            warn!(instance = %key, "probe of {key} took {} ms, longer than its deadline allows: discarded", ended.millis_since(begun));
            self.poke(key);
            return observation;
        }
        let noticed = self.instance_cache.record(&observation, begun, ended);
        self.react(key, origin, &observation, noticed);
        observation
    }

    fn react(self: &Arc<Self>, key: &InstanceKey, origin: &Origin, observation: &Observation, noticed: Noticed) {
        if let Some(canonical) = noticed.alias_of {
            info!(instance = %key, "{key} is another address of {canonical}");
            if let Some(task) = self.tasks().remove(key) {
                task.cancel.cancel();
            }
            return;
        }
        if let Err(failure) = &observation.outcome {
            if noticed.began_to_fail {
                info!(instance = %key, "{key} fails: {failure}");
            }
            self.alert(key, failure, noticed.began_to_fail);
        } else if noticed.changed {
            self.calm(key);
        }
        // A server that has a replica from now on is pulsed from now on, not from its next poll on.
        if let Some(source) = noticed.new_source.and_then(|source| self.instance_cache.get(&source)) {
            self.poke(&source.instance.key);
        }
        for neighbour in noticed.neighbours {
            if self.may_crawl(key, &neighbour) {
                self.start(&neighbour, origin, false);
            }
        }
    }

    /// Looks closely at the replicas of a failing source.
    fn alert(&self, source: &InstanceKey, failure: &ProbeFailure, fresh: bool) {
        if !failure.is_about_the_server() && !fresh {
            return;
        }
        let now = self.clock.monotonic();
        let mut woken = Vec::new();
        {
            let mut alerts = self.alerts();
            for replica in self.instance_cache.replicas_of(source) {
                if !alerts.contains_key(&replica) {
                    alerts.insert(replica.clone(), now);
                    woken.push(replica);
                }
            }
        }
        for replica in woken {
            self.poke(&replica);
        }
    }

    /// Ends the close look at replicas whose source is fine again.
    fn calm(&self, changed: &InstanceKey) {
        let mut over = vec![];
        for replica in self.alerts().keys() {
            let source = self
                .instance_cache
                .get(replica)
                .and_then(|tracked| tracked.instance.source().cloned());
            let failing = source
                .and_then(|source| self.instance_cache.get(&source))
                .is_some_and(|source| source.failing_since.is_some());
            if !failing {
                over.push(replica.clone());
            }
        }
        if !over.is_empty() {
            debug!(instance = %changed, "the close look at {} replicas ends", over.len());
        }
        let mut alerts = self.alerts();
        for replica in over {
            alerts.remove(&replica);
        }
    }

    fn may_crawl(&self, from: &InstanceKey, key: &InstanceKey) -> bool {
        if key.hostname.is_empty()
            || key.hostname.starts_with("//")
            || self.state.borrow().forgotten.contains_key(key)
            || self.settings.ignore.matches(key)
        {
            return false;
        }
        let is_source = self
            .instance_cache
            .get(from)
            .and_then(|tracked| tracked.instance.source().cloned())
            .as_ref()
            == Some(key);
        let filters = if is_source {
            &self.settings.ignore_sources
        } else {
            &self.settings.ignore_replicas
        };
        !filters.matches(key)
    }

    async fn drop_phantoms(&self) {
        for key in self
            .instance_cache
            .drop_phantoms(self.clock.monotonic(), PHANTOM_PATIENCE)
        {
            info!(instance = %key, "{key} never answered and nobody asked for it: no longer watched");
            if let Some(task) = self.tasks().remove(&key) {
                task.cancel.cancel();
            }
            self.prober.release(&key).await;
        }
    }
}

/// The addresses that the state asks for, with whose credentials: documents before the API.
fn wanted(state: &State) -> BTreeMap<InstanceKey, Origin> {
    let mut wanted: BTreeMap<InstanceKey, Origin> = BTreeMap::new();
    let forgotten: BTreeSet<&InstanceKey> = state.forgotten.keys().collect();
    for document in state.documents.values() {
        for seed in &document.seeds {
            wanted.entry(seed.clone()).or_insert_with(|| document.origin.clone());
        }
    }
    for cluster in state.clusters.values() {
        let origin = cluster.document.clone().unwrap_or(Origin::Api);
        for key in &cluster.instances {
            wanted.entry(key.clone()).or_insert_with(|| origin.clone());
        }
    }
    for seed in &state.seeds {
        wanted
            .entry(seed.instance.clone())
            .or_insert_with(|| seed.origin.clone());
    }
    wanted.retain(|key, _| !forgotten.contains(key));
    wanted
}

#[cfg(test)]
#[path = "poller_tests.rs"]
mod tests;
