//! One task for each instance: it polls the instance, sends pulses, and probes more often while a failure is suspected.
//!
//! An instance that has replicas, or is in quarantine, gets a cheap pulse about every 100 ms. A failed pulse immediately triggers a probe on
//! a new connection. When that fails too, the replicas of the instance are probed in quick succession, because they notice the loss of their
//! source within 10 to 40 ms. So a failure is detected after a pulse, not after a poll, and a dead server does not delay the probes of others.

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

use crate::app::observation::instance_cache::{InstanceCache, ObservedChanges};
use crate::app::ports::{Clock, CredentialsByOrigin, ProbeConnection, Prober, Pulse, Target};
use crate::app::settings::PollSettings;

/// While the source of a replica fails: up to which age of the failure, milliseconds, the replica is probed at which interval, milliseconds.
/// Replicas notice the failure in the first half second; later the view hardly changes.
const ALERT_INTERVALS: [(u64, u64); 3] = [(500, 20), (10_000, 100), (u64::MAX, 1000)];

/// Crawled addresses that never answered are dropped after this, milliseconds.
const PHANTOM_PATIENCE_MILLIS: u64 = 60_000;

#[derive(Debug)]
struct InstanceTask {
    probe_request: Arc<Notify>,
    cancel: CancellationToken,
}

/// Runs the tasks, and decides which instances have a task.
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
    /// A poller that has not started; see [`Poller::run`].
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

    /// Polls the instances that the state names and those that crawling finds, until cancelled.
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

    /// Probes the instances that had no account, or that refused their account.
    fn try_new_credentials(&self) {
        let keys: Vec<InstanceKey> = self.tasks().keys().cloned().collect();
        for key in keys {
            let failure = self
                .instance_cache
                .get(&key)
                .and_then(|tracked| tracked.instance.failure);
            if matches!(failure, Some(ProbeFailure::NoCredentials(_) | ProbeFailure::Denied(_))) {
                self.request_probe(&key);
            }
        }
    }

    /// Probes an instance now, on a new connection, and records the result. Starts to poll the instance when it was not polled yet.
    pub async fn probe_now(self: &Arc<Self>, target: &Target) -> Observation {
        self.start(&target.instance, &target.origin, false);
        self.probe(&target.instance, &target.origin, ProbeConnection::Fresh)
            .await
    }

    /// Makes the task of an instance probe now.
    pub fn request_probe(&self, key: &InstanceKey) {
        if let Some(task) = self.tasks().get(key) {
            task.probe_request.notify_one();
        }
    }

    /// Stops polling an instance.
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
            info!(instance = %key, "{key} was forgotten: stopped polling it");
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
        info!(instance = %key, origin = %origin, "polling {key}, known from {origin}");
        let task = InstanceTask {
            probe_request: Arc::new(Notify::new()),
            cancel: self.cancel.child_token(),
        };
        self.tracker
            .spawn(Arc::clone(self).watch(key.clone(), Arc::clone(&task.probe_request), task.cancel.clone()));
        tasks.insert(key.clone(), task);
    }

    async fn watch(self: Arc<Self>, key: InstanceKey, probe_request: Arc<Notify>, cancel: CancellationToken) {
        let mut next_poll = Instant::now();
        loop {
            let interval = self.pulse_interval(&key);
            let close_probe = async {
                match interval {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            let polled = tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep_until(next_poll) => true,
                () = probe_request.notified() => true,
                () = close_probe => false,
            };
            let Some(tracked) = self.instance_cache.get(&key) else {
                break;
            };
            let failing = tracked.failing_since.is_some();
            let approach = if failing {
                ProbeConnection::Fresh
            } else {
                ProbeConnection::Kept
            };
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
                    self.probe(&key, &tracked.origin, ProbeConnection::Fresh).await;
                    next_poll = Instant::now() + self.settings.poll;
                }
            }
        }
        self.prober.release(&key).await;
    }

    /// How soon the instance gets its next pulse or close probe, apart from its poll; `None`: neither.
    fn pulse_interval(&self, key: &InstanceKey) -> Option<Duration> {
        // A returned primary has to become read-only immediately: a server in quarantine always gets a pulse.
        let quarantined = self.is_quarantined(key);
        if let Some(age) = self.alert_age(key) {
            let interval = ALERT_INTERVALS
                .iter()
                .find(|(until, _)| age < *until)
                .map_or(1000, |(_, interval)| *interval);
            let interval = Duration::from_millis(interval);
            return Some(if quarantined {
                interval.min(self.settings.pulse)
            } else {
                interval
            });
        }
        let tracked = self.instance_cache.get(key);
        // A stopped process accepts connections until its queue is full: frequent connection attempts would make it appear dead.
        if tracked
            .as_ref()
            .is_some_and(|tracked| tracked.instance.failure == Some(ProbeFailure::Stalled))
        {
            return None;
        }
        // A server without free connections has none for a pulse, and its reserved connection is left alone.
        let facts = tracked.as_ref().and_then(|tracked| tracked.instance.valid_facts());
        if facts.is_some_and(|facts| facts.by_admin_endpoint) {
            return None;
        }
        if quarantined {
            return Some(self.settings.pulse);
        }
        if self.instance_cache.replicas_of(key).is_empty() {
            return None;
        }
        let watched = u32::try_from(self.tasks().len()).unwrap_or(u32::MAX);
        let stretched = Duration::from_secs(1) * watched / self.settings.pulses_per_second.max(1);
        Some(self.settings.pulse.max(stretched))
    }

    /// Whether an instance is in quarantine, under this or another of its addresses.
    fn is_quarantined(&self, key: &InstanceKey) -> bool {
        let state = self.state.borrow().clone();
        if state.quarantines.is_empty() {
            return false;
        }
        let addresses = self.instance_cache.aliases_of(key);
        let mut quarantines = state.quarantines.values();
        quarantines.any(|quarantine| addresses.contains(&quarantine.instance))
    }

    /// How long the source of this instance has been failing, milliseconds.
    fn alert_age(&self, key: &InstanceKey) -> Option<u64> {
        let since = *self.alerts().get(key)?;
        Some(self.clock.monotonic().millis_since(since))
    }

    /// How long a probe may take. An attempt that began before the host was reachable again does not notice that, so attempts are
    /// shorter while a server in quarantine cannot be reached.
    fn deadline(&self, key: &InstanceKey) -> Duration {
        let failure = self
            .instance_cache
            .get(key)
            .and_then(|tracked| tracked.instance.failure);
        if failure == Some(ProbeFailure::NoAnswer) && self.is_quarantined(key) {
            self.settings.probe_deadline.min(self.settings.pulse_deadline)
        } else {
            self.settings.probe_deadline
        }
    }

    async fn probe(self: &Arc<Self>, key: &InstanceKey, origin: &Origin, approach: ProbeConnection) -> Observation {
        let target = Target {
            instance: key.clone(),
            origin: origin.clone(),
        };
        let deadline = self.deadline(key);
        let begun = self.clock.monotonic();
        let observation = self.prober.probe(&target, approach, deadline).await;
        let ended = self.clock.monotonic();
        // When this process was paused, the late result proves nothing about the server.
        let patience = u64::try_from(deadline.as_millis())
            .unwrap_or(u64::MAX)
            .saturating_mul(2)
            .saturating_add(500);
        if observation.outcome.is_err() && ended.millis_since(begun) > patience {
            warn!(instance = %key, "probe of {key} took {} ms, longer than its deadline allows: discarded", ended.millis_since(begun));
            self.request_probe(key);
            return observation;
        }
        let changes = self.instance_cache.record(&observation, begun, ended);
        self.react(key, origin, &observation, changes);
        observation
    }

    fn react(
        self: &Arc<Self>,
        key: &InstanceKey,
        origin: &Origin,
        observation: &Observation,
        changes: ObservedChanges,
    ) {
        if let Some(canonical) = changes.alias_of {
            info!(instance = %key, "{key} is another address of {canonical}");
            if let Some(task) = self.tasks().remove(key) {
                task.cancel.cancel();
            }
            return;
        }
        if let Err(failure) = &observation.outcome {
            if changes.began_to_fail {
                info!(instance = %key, "{key} fails: {failure}");
            }
            self.alert(key, failure, changes.began_to_fail);
        } else if changes.changed {
            self.end_alerts(key);
        }
        // A server with a new replica gets pulses from now on, not only after its next poll.
        if let Some(source) = changes.new_source.and_then(|source| self.instance_cache.get(&source)) {
            self.request_probe(&source.instance.key);
        }
        for neighbour in changes.neighbours {
            if self.may_crawl(key, &neighbour) {
                self.start(&neighbour, origin, false);
            }
        }
    }

    /// Starts close probes of the replicas of a failing source.
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
            self.request_probe(&replica);
        }
    }

    /// Ends the close probes of replicas with a source that answers again.
    fn end_alerts(&self, changed: &InstanceKey) {
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
            debug!(instance = %changed, "ended the close probes of {} replicas", over.len());
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
            .drop_phantoms(self.clock.monotonic(), PHANTOM_PATIENCE_MILLIS)
        {
            info!(instance = %key, "stopped polling {key}: it was discovered by crawling and never answered");
            if let Some(task) = self.tasks().remove(&key) {
                task.cancel.cancel();
            }
            self.prober.release(&key).await;
        }
    }
}

/// The addresses that the state names, with the origin of their credentials: documents before the API.
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
