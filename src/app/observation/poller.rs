//! One task for each instance: it polls the instance, sends pulses, and probes more often while a failure is suspected.
//!
//! An instance that has replicas, or is in quarantine, gets a cheap pulse about every 100 ms, and at once when its connection is closed. A
//! failed pulse immediately triggers a probe on a new connection. When that fails too, the replicas of the instance are probed in quick succession, because they notice the loss of their
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
use crate::domain::ownership;
use crate::domain::state::State;
use crate::domain::state::record::RecordedPrimary;
use crate::domain::time::MonotonicTime;

use crate::app::observation::account_trials::AccountTrials;
use crate::app::observation::alias_checks::{self, AliasChecks};
use crate::app::observation::crawl::Crawl;
use crate::app::observation::dial_slots::{DialSlot, DialSlots, FIRST_DIALS, Place, ROUTINE_DIALS};
use crate::app::observation::instance_cache::{CachedInstance, InstanceCache, ObservedChanges};
use crate::app::ports::{Clock, CredentialsByOrigin, ProbeConnection, Prober, Pulse, Target};
use crate::app::settings::PollSettings;
use crate::app::supervision;

mod aliases;
mod neighbours;
mod sharing;

/// While the source of a replica fails: up to which age of the failure, milliseconds, the replica is probed at which interval, milliseconds.
/// Replicas notice the failure in the first half second; later the view hardly changes.
const ALERT_INTERVALS: [(u64, u64); 3] = [(500, 20), (10_000, 100), (u64::MAX, 1000)];

/// While a source fails and none of its replicas answers, the source is probed at this interval, and its replicas at the poll interval: a
/// silent data centre gets no more attempts than needed to notice that it returns.
const SILENT_INTERVAL: Duration = Duration::from_secs(1);

/// A failed attempt shows something about the server only when this process did not delay it for more than two thirds of the deadline. When
/// it did, the next attempt gets twice the time, up to this many times the deadline.
const MAX_STRETCH: u32 = 4;
const LEAST_SHARE: u64 = 3;

/// With at least so many servers their polls are spread over the interval.
const SPREAD_FROM: usize = 20;

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
    account_trials: AccountTrials,
    crawl: Crawl,
    alias_checks: AliasChecks,
    /// Instances that another member reports as failing: the next probe is on a new connection.
    suspects: Mutex<BTreeSet<InstanceKey>>,
    /// How much longer than usual the next attempt may take, for instances with a discarded attempt.
    stretched: Mutex<BTreeMap<InstanceKey, u32>>,
    /// Of attempts to servers that are known to fail, or that have not answered yet.
    routine_dials: Arc<DialSlots>,
    /// Of attempts to servers that have just become silent.
    first_dials: Arc<DialSlots>,
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
            account_trials: AccountTrials::default(),
            crawl: Crawl::default(),
            alias_checks: AliasChecks::default(),
            suspects: Mutex::default(),
            stretched: Mutex::default(),
            routine_dials: DialSlots::new(ROUTINE_DIALS),
            first_dials: DialSlots::new(FIRST_DIALS),
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
        let mut alias_checks = tokio::time::interval(alias_checks::INTERVAL);
        alias_checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = state.borrow().clone();
        let this = Arc::clone(&self);
        self.tracker.spawn(async move {
            let delays = this.instance_cache.delays();
            delays.measure(this.clock.as_ref(), this.cancel.clone()).await;
        });
        let mut followed: Option<Arc<State>> = None;
        loop {
            let current = state.borrow_and_update().clone();
            if followed
                .as_ref()
                .is_none_or(|followed| names_others(followed, &current))
            {
                self.follow(&current);
                self.try_other_accounts(&current);
            }
            self.probe_changed_clusters(&before, &current);
            before = Arc::clone(&current);
            followed = Some(current);
            tokio::select! {
                () = self.cancel.cancelled() => break,
                changed = state.changed() => if changed.is_err() { break },
                Ok(()) = credentials.changed() => {
                    credentials.mark_unchanged();
                    self.try_new_credentials();
                    self.account_trials.forget();
                    followed = None;
                }
                _ = sweep.tick() => {
                    self.drop_phantoms().await;
                    followed = None;
                    let alerts: Vec<InstanceKey> = self.alerts().keys().cloned().collect();
                    self.end_alerts_of(alerts);
                }
                _ = alias_checks.tick() => self.check_all_aliases(),
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Probes the instances of every cluster that has another primary now. What they were seen replicating from has changed, and the next
    /// failure is judged by it.
    fn probe_changed_clusters(&self, before: &State, current: &State) {
        for (id, cluster) in &current.clusters {
            let known = before.clusters.get(id).and_then(|cluster| cluster.primary.as_ref());
            let is_another = |primary: &RecordedPrimary| known.is_some_and(|known| known.identity != primary.identity);
            if cluster.primary.as_ref().is_some_and(is_another) {
                cluster.instances.iter().for_each(|key| self.request_probe(key));
            }
        }
    }

    /// Probes the instances that had no account, or that refused their account.
    fn try_new_credentials(&self) {
        let keys: Vec<InstanceKey> = self.tasks().keys().cloned().collect();
        for key in keys {
            let is_refused = |tracked: &CachedInstance| {
                let failure = &tracked.instance.failure;
                matches!(failure, Some(ProbeFailure::NoCredentials(_) | ProbeFailure::Denied(_)))
            };
            if self.instance_cache.read(&key, is_refused) == Some(true) {
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
        self.crawl.forget(key);
        self.prober.release(key).await;
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, InstanceTask>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alerts(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, MonotonicTime>> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, state: &State) {
        for (key, choice) in ownership::accounts(state) {
            let present = self.instance_cache.tracked_origin(&key);
            let adopted = self.instance_cache.adopted_origin(&key);
            let Some(origin) = choice.account(present.as_ref(), adopted.as_ref()) else {
                continue;
            };
            self.start(&key, origin, true);
            if self.instance_cache.set_origin(&key, origin) {
                info!(instance = %key, origin = %origin, "polling {key} with the account of {origin}");
                self.request_probe(&key);
            }
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
            self.crawl.forget(&key);
        }
    }

    /// Logs in with the accounts that may have to replace the one in use: a document owns nothing before its account has logged in, and
    /// until then the account in use stays.
    fn try_other_accounts(self: &Arc<Self>, state: &State) {
        let now = self.clock.monotonic();
        for (key, choice) in ownership::accounts(state) {
            let Some(tracked) = self
                .instance_cache
                .get(&key)
                .filter(|tracked| tracked.instance.key == key)
            else {
                continue;
            };
            if tracked.instance.last_checked.is_none() {
                continue;
            }
            let others = choice.alternatives(&tracked.origin, tracked.instance.failure.as_ref());
            let due = others
                .into_iter()
                .filter(|origin| self.account_trials.begin(&key, origin, now));
            let due: Vec<Origin> = due.cloned().collect();
            if !due.is_empty() {
                self.tracker.spawn(Arc::clone(self).try_accounts(key, due));
            }
        }
    }

    /// Logs in to an address that refuses the account that it is polled with, with the account of a server that names the address.
    fn try_account_of_neighbour(self: &Arc<Self>, key: &InstanceKey, origin: &Origin) {
        if self.account_trials.begin(key, origin, self.clock.monotonic()) {
            self.instance_cache.adopt(key, origin);
            self.tracker
                .spawn(Arc::clone(self).try_accounts(key.clone(), vec![origin.clone()]));
        }
    }

    async fn try_accounts(self: Arc<Self>, key: InstanceKey, origins: Vec<Origin>) {
        for origin in origins {
            let target = Target {
                instance: key.clone(),
                origin: origin.clone(),
            };
            let probe = self
                .prober
                .probe(&target, ProbeConnection::Fresh, self.settings.probe_deadline);
            let observation = tokio::select! {
                () = self.cancel.cancelled() => return,
                observation = probe => observation,
            };
            match observation.outcome {
                Ok(_) => {
                    // The account that the state calls for now: it may have changed meanwhile.
                    let state = self.state.borrow().clone();
                    let choice = ownership::accounts(&state).remove(&key);
                    let adopted = self.instance_cache.adopted_origin(&key);
                    let account = choice
                        .as_ref()
                        .map(|choice| choice.account(Some(&origin), adopted.as_ref()));
                    if account.is_none_or(|account| account == Some(&origin))
                        && self.instance_cache.set_origin(&key, &origin)
                    {
                        info!(instance = %key, origin = %origin, "polling {key} with the account of {origin}");
                        self.request_probe(&key);
                    }
                    return;
                }
                Err(failure) => {
                    let failure = failure.to_string();
                    if self.account_trials.is_news(&key, &origin, &failure) {
                        warn!(instance = %key, origin = %origin, "the account of {origin} cannot log in to {key}, which keeps its present account: {failure}");
                    }
                }
            }
        }
    }

    fn start(self: &Arc<Self>, key: &InstanceKey, origin: &Origin, wanted: bool) {
        if self.cancel.is_cancelled() {
            return;
        }
        if wanted {
            self.crawl.settle(key);
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
        let (this, probe_request, cancel) = (Arc::clone(self), Arc::clone(&task.probe_request), task.cancel.clone());
        let watched = key.clone();
        self.tracker.spawn(async move {
            let watch = || Arc::clone(&this).watch(watched.clone(), Arc::clone(&probe_request), cancel.clone());
            supervision::keep_running(&format!("the polling of {watched}"), &cancel, watch).await;
        });
        tasks.insert(key.clone(), task);
    }

    async fn watch(self: Arc<Self>, key: InstanceKey, probe_request: Arc<Notify>, cancel: CancellationToken) {
        let mut next_poll = Instant::now();
        let mut is_spread = false;
        let mut was_own = true;
        // After a closed connection, the next one is given the usual interval: a server that closes them all is not dialled without pause.
        let mut was_disconnected = false;
        let mut duties = self.instance_cache.shared_probes().map(|shared| shared.duties());
        loop {
            if let Some(duties) = &mut duties {
                duties.mark_unchanged();
            }
            let is_own = self.is_own(&key);
            let interval = if is_own { self.pulse_interval(&key) } else { None };
            if is_own && !was_own {
                // Pulses begin with a probe: until now another member would have noticed a failure.
                next_poll = if interval.is_some() {
                    Instant::now()
                } else {
                    Instant::now() + self.until_old(&key, Duration::ZERO)
                };
            } else if !is_own {
                // Idle connections of several members would be a load too, and the server may close them.
                self.prober.release(&key).await;
                next_poll = Instant::now() + self.until_old(&key, sharing::GRACE);
            }
            was_own = is_own;
            let close_probe = async {
                let Some(interval) = interval else {
                    return std::future::pending().await;
                };
                tokio::select! {
                    () = tokio::time::sleep(interval) => was_disconnected = false,
                    () = self.prober.disconnected(&key), if !was_disconnected => was_disconnected = true,
                }
            };
            let polled = tokio::select! {
                () = cancel.cancelled() => break,
                // Another member may have probed it meanwhile.
                () = tokio::time::sleep_until(next_poll) => {
                    if !is_own && !self.until_old(&key, sharing::GRACE).is_zero() {
                        continue;
                    }
                    true
                }
                () = probe_request.notified() => true,
                () = close_probe => false,
                () = sharing::changed(&mut duties) => continue,
            };
            let is_suspect = self.suspects().remove(&key);
            let known = self.instance_cache.read(&key, |tracked| {
                let is_new = tracked.instance.last_checked.is_none();
                (tracked.origin.clone(), tracked.failing_since.is_some(), is_new)
            });
            let Some((origin, failing, is_new)) = known else {
                break;
            };
            let approach = if failing || is_suspect {
                ProbeConnection::Fresh
            } else {
                ProbeConnection::Kept
            };
            if polled || failing || self.alert_age(&key).is_some() {
                let dials = failing || is_new;
                let slot = tokio::select! {
                    () = cancel.cancelled() => break,
                    slot = self.slot(&key, &origin, dials.then_some(&self.routine_dials)) => slot,
                };
                self.probe(&key, &origin, approach).await;
                drop(slot);
                // All servers are polled when the process starts. From then on the polls of many servers are spread over the interval.
                let is_first = !std::mem::replace(&mut is_spread, true);
                let share = if is_first && self.instance_cache.len() >= SPREAD_FROM {
                    spread(&key)
                } else {
                    1.0
                };
                next_poll = Instant::now() + self.settings.poll.mul_f64(share);
            } else {
                let target = Target {
                    instance: key.clone(),
                    origin: origin.clone(),
                };
                let begun = Instant::now();
                if let Pulse::Doubt(why) = self.prober.pulse(&target, self.settings.pulse_deadline).await {
                    debug!(instance = %key, "no pulse from {key}: {why}");
                    if let Some(shared) = self.instance_cache.shared_probes() {
                        shared.put_doubt(&key, &origin);
                    }
                    // A connection that broke was answered, and so is an attempt, within moments.
                    let is_silent = begun.elapsed() >= self.settings.pulse_deadline;
                    let slot = tokio::select! {
                        () = cancel.cancelled() => break,
                        slot = self.slot(&key, &origin, is_silent.then_some(&self.first_dials)) => slot,
                    };
                    self.probe(&key, &origin, ProbeConnection::Fresh).await;
                    drop(slot);
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
        let known = self.instance_cache.read(key, |tracked| {
            let is_stalled = tracked.instance.failure == Some(ProbeFailure::Stalled);
            let facts = tracked.instance.valid_facts();
            let by_admin_endpoint = facts.is_some_and(|facts| facts.by_admin_endpoint);
            (tracked.failing_since.is_some(), is_stalled, by_admin_endpoint)
        });
        let (failing, is_stalled, by_admin_endpoint) = known.unwrap_or_default();
        let (has_replicas, has_answering_replicas) = self.instance_cache.has_replicas(key);
        // A replica that fails itself notices nothing of its source.
        let alert_age = self.alert_age(key).filter(|_| !failing || has_answering_replicas);
        if let Some(age) = alert_age {
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
        // A server without free connections has none for a pulse, and its reserved connection is left alone. One that is in quarantine may
        // restart, and is looked at less often.
        if by_admin_endpoint {
            return quarantined.then_some(self.settings.pulse * 3);
        }
        // Also one that stalls: whether it appears stopped or dead does not matter any more, and it may restart.
        if quarantined {
            return Some(self.settings.pulse);
        }
        // A stopped process accepts connections until its queue is full: frequent connection attempts would make it appear dead.
        if is_stalled {
            return None;
        }
        if !has_replicas {
            return None;
        }
        let watched = u32::try_from(self.tasks().len()).unwrap_or(u32::MAX);
        let stretched = Duration::from_secs(1) * watched / self.settings.pulses_per_second.max(1);
        let pulse = self.settings.pulse.max(stretched);
        Some(if failing && !has_answering_replicas {
            pulse.max(SILENT_INTERVAL)
        } else {
            pulse
        })
    }

    /// Waits for the turn of an attempt. A server in quarantine needs none.
    async fn slot(&self, key: &InstanceKey, origin: &Origin, of: Option<&Arc<DialSlots>>) -> Option<DialSlot> {
        let of = of.filter(|_| !self.is_quarantined(key))?;
        of.acquire(self.place(key, origin)).await
    }

    /// Where a server is: the servers of one place share slots for attempts.
    fn place(&self, key: &InstanceKey, origin: &Origin) -> Place {
        let data_center = |tracked: &CachedInstance| {
            let facts = tracked.instance.facts.as_ref();
            facts.map(|facts| facts.data_center.clone()).unwrap_or_default()
        };
        let data_center = self.instance_cache.read(key, data_center);
        (origin.clone(), data_center.unwrap_or_default())
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
        let is_silent = |tracked: &CachedInstance| tracked.instance.failure == Some(ProbeFailure::NoAnswer);
        let usual = if self.instance_cache.read(key, is_silent) == Some(true) && self.is_quarantined(key) {
            self.settings.probe_deadline.min(self.settings.pulse_deadline)
        } else {
            self.settings.probe_deadline
        };
        usual * self.stretched().get(key).copied().unwrap_or(1)
    }

    fn stretched(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, u32>> {
        self.stretched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a failure shows nothing about the server because this process was late: it was paused, or its tasks waited for a processor.
    /// The next attempt gets more time then. An answer of the server or of the network counts, however late it was read.
    fn was_late(&self, key: &InstanceKey, failure: &ProbeFailure, begun: MonotonicTime, ended: MonotonicTime) -> bool {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let took = ended.millis_since(begun);
        let delayed = self.instance_cache.delays().delayed_since(begun, ended);
        let least = millis(self.settings.probe_deadline.min(self.settings.pulse_deadline)) / LEAST_SHARE;
        let was_delayed = failure.is_silence() && delayed > 0 && took.saturating_sub(delayed) < least;
        // When this process was paused, the late result proves nothing about the server.
        let was_paused = took > millis(self.deadline(key)).saturating_mul(2).saturating_add(500);
        if was_paused {
            warn!(instance = %key, "probe of {key} took {took} ms, longer than its deadline allows: discarded");
        } else if was_delayed {
            debug!(instance = %key, "{failure}, but this process was late by {delayed} of {took} ms: discarded the probe of {key}");
        }
        if was_paused || was_delayed {
            self.instance_cache.delays().count_discarded_probe();
            let mut stretched = self.stretched();
            let stretch = stretched.get(key).copied().unwrap_or(1);
            stretched.insert(key.clone(), (stretch * 2).min(MAX_STRETCH));
        }
        was_paused || was_delayed
    }

    async fn probe(self: &Arc<Self>, key: &InstanceKey, origin: &Origin, approach: ProbeConnection) -> Observation {
        let target = Target {
            instance: key.clone(),
            origin: origin.clone(),
        };
        let deadline = self.deadline(key);
        let _attempt = self.crawl.attempt(key).await;
        let begun = self.clock.monotonic();
        let observation = self.prober.probe(&target, approach, deadline).await;
        let ended = self.clock.monotonic();
        if let Err(failure) = &observation.outcome
            && self.was_late(key, failure, begun, ended)
        {
            self.request_probe(key);
            return observation;
        }
        self.stretched().remove(key);
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
            self.crawl.settle(key);
            return;
        }
        self.doubt_aliases(key, observation, &changes);
        if let Err(failure) = &observation.outcome {
            if changes.began_to_fail {
                info!(instance = %key, "{key} fails: {failure}");
            }
            self.alert(key, failure, changes.began_to_fail);
        } else if changes.changed {
            self.end_alerts(key);
        }
        if changes.returned {
            // Its replicas may have been unreachable with it, and are polled seldom meanwhile.
            for replica in self.instance_cache.replicas_of(key) {
                let is_failing = |tracked: &CachedInstance| tracked.failing_since.is_some();
                if self.instance_cache.read(&replica, is_failing) == Some(true) {
                    self.request_probe(&replica);
                }
            }
        }
        // A server with a new replica gets pulses from now on, not only after its next poll.
        let new_source = changes.new_source.and_then(|source| {
            self.instance_cache
                .read(&source, |tracked| tracked.instance.key.clone())
        });
        if let Some(source) = new_source {
            self.request_probe(&source);
        }
        if observation.outcome.is_ok() {
            self.crawl.settle(key);
            self.follow_neighbours(key, origin, changes.neighbours);
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

    /// Ends the close probes of replicas with a source that answers again: an instance that changed may be such a source, or a replica that
    /// has another source now.
    fn end_alerts(&self, changed: &InstanceKey) {
        if self.alerts().is_empty() {
            return;
        }
        let mut replicas = self.instance_cache.replicas_of(changed);
        replicas.push(changed.clone());
        self.end_alerts_of(replicas);
    }

    fn end_alerts_of(&self, replicas: Vec<InstanceKey>) {
        for replica in replicas {
            if !self.alerts().contains_key(&replica) {
                continue;
            }
            let source = self
                .instance_cache
                .read(&replica, |tracked| tracked.instance.source().cloned());
            let is_failing = |source: &InstanceKey| {
                let failing = self
                    .instance_cache
                    .read(source, |tracked| tracked.failing_since.is_some());
                failing == Some(true)
            };
            if !source.flatten().as_ref().is_some_and(is_failing) {
                self.alerts().remove(&replica);
            }
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
        let is_source = |tracked: &CachedInstance| tracked.instance.source() == Some(key);
        let is_source = self.instance_cache.read(from, is_source) == Some(true);
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
            self.crawl.pause(&key, self.clock.monotonic());
            self.prober.release(&key).await;
        }
        let watched = self.instance_cache.keys();
        self.crawl.tidy(&watched, self.clock.monotonic());
    }
}

/// Whether a state may name other addresses than the one before.
fn names_others(before: &State, now: &State) -> bool {
    let are_same_clusters = before.clusters.len() == now.clusters.len()
        && before
            .clusters
            .values()
            .zip(now.clusters.values())
            .all(|(before, now)| before.instances == now.instances && before.document == now.document);
    !are_same_clusters
        || before.documents != now.documents
        || before.seeds != now.seeds
        || before.forgotten != now.forgotten
}

/// A share of the poll interval that is always the same for an instance and differs between instances.
fn spread(key: &InstanceKey) -> f64 {
    // FNV-1a.
    let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
    let hashed = key.to_string().bytes().fold(2_166_136_261, hash);
    f64::from(hashed % 1000 + 1) / 1000.0
}

#[cfg(test)]
#[path = "poller_tests.rs"]
mod tests;
