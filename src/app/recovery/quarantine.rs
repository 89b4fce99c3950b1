//! Quarantine: makes a failed primary read-only when it returns, compares its GTID set with the primary's, and lets it rejoin. Runs on
//! the leader.
//!
//! The quarantine in the replicated state is a standing claim: keeping a server read-only needs no new log entry, only the proof that
//! this member still leads.
//!
//! The enforcer has one task for each quarantined server. While the server is down, the task dials it itself and does not wait for a probe:
//! the first connection that a restarted server accepts makes it read-only. Once it is read-only, the task waits for what the pulses of the
//! poller show. A broken connection, a failed probe, and a probe that shows the server writable each end that wait and a review in progress.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{EventsPolicy, OldPrimary};
use crate::domain::state::{Applied, Command, Quarantine, QuarantineState};
use crate::domain::time::MonotonicTime;

use crate::app::cluster::view::ClusterViews;
use crate::app::ports::{ProbeConnection, StepError, StepSession, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::fence::{KilledCommits, fence_with_hanging_commits};
use crate::app::recovery::steps::RecoveryContext;
use crate::app::supervision;

/// The pause after a failed attempt to make an answering server read-only.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a server refused a connection. It may accept the next one, and is writable from then on.
const DIAL_PAUSE: Duration = Duration::from_millis(25);
/// How long a connection to the server, or one probe, may take.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// The same for a server that refused connections. While it starts, it accepts them before it serves them, and the first one that it serves
/// is the one that has waited.
const DIAL_DEADLINE: Duration = Duration::from_secs(2);
/// How often a read-only server is reviewed.
const REVIEW_INTERVAL: Duration = Duration::from_secs(1);
/// How often killed client sessions of one server are logged, milliseconds.
const REPORT_KILLED_MILLIS: u64 = 60_000;
/// How long the statement may take that makes the server read-only. It waits for running commits only.
const READ_ONLY_DEADLINE: Duration = Duration::from_secs(5);
/// How long disabling its events may take.
const EVENTS_DEADLINE: Duration = Duration::from_secs(2);

/// One task per quarantined server.
pub struct QuarantineEnforcer {
    context: RecoveryContext,
    views: ClusterViews,
    coordinator: Arc<RecoveryCoordinator>,
    tasks: Mutex<BTreeMap<String, CancellationToken>>,
    /// The last failure to make each server read-only, which is logged once.
    failures: Mutex<BTreeMap<String, String>>,
    /// Of each server the killed client sessions that were not reported yet, and when the last were.
    killed: Mutex<BTreeMap<String, (u64, Option<MonotonicTime>)>>,
    tracker: TaskTracker,
}

/// Why there is no session on a quarantined server.
enum NotConnected {
    /// The server, or what answers at its address.
    Failed(StepError),
    /// This member may not act.
    Unconfirmed(String),
}

/// What was done about a quarantined server.
#[derive(Clone, Copy)]
enum Enforcement {
    /// It did not answer since it failed, or it may be writable: it has to be made read-only.
    Pending,
    /// It was made read-only at this time.
    Done(MonotonicTime),
}

impl QuarantineEnforcer {
    /// An enforcer without tasks; `reconcile` starts them.
    pub fn new(context: RecoveryContext, views: ClusterViews, coordinator: Arc<RecoveryCoordinator>) -> Arc<Self> {
        Arc::new(Self {
            context,
            views,
            coordinator,
            tasks: Mutex::default(),
            failures: Mutex::default(),
            killed: Mutex::default(),
            tracker: TaskTracker::new(),
        })
    }

    /// Keeps a task for every quarantined server until this future is dropped. Tasks end with `leading`. It waits for nothing but the state,
    /// so that a server that fails over now is watched however busy the leader is.
    pub async fn run(self: &Arc<Self>, leading: &CancellationToken) {
        let mut state = self.context.consensus.state();
        loop {
            state.borrow_and_update();
            self.reconcile(leading);
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Starts a task for every quarantined server that has none, and ends the tasks of servers that left quarantine.
    fn reconcile(self: &Arc<Self>, leading: &CancellationToken) {
        let state = self.views.state();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|key, task| {
            let stays = state.quarantines.contains_key(key) && !task.is_cancelled();
            if !stays {
                task.cancel();
                self.failures().remove(key);
                self.killed.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            }
            stays
        });
        for key in state.quarantines.keys() {
            if !tasks.contains_key(key) {
                let cancel = leading.child_token();
                tasks.insert(key.clone(), cancel.clone());
                let (this, key) = (Arc::clone(self), key.clone());
                self.tracker.spawn(async move {
                    let enforce = || Arc::clone(&this).enforce(key.clone(), cancel.clone());
                    supervision::keep_running(&format!("quarantine {key}"), &cancel, enforce).await;
                });
            }
        }
    }

    async fn enforce(self: Arc<Self>, key: String, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.keep_read_only(&key) => {}
        }
    }

    /// Returns when the server has left quarantine.
    async fn keep_read_only(&self, key: &str) {
        let mut changes = self.context.instance_cache.changes();
        let mut enforcement = Enforcement::Pending;
        loop {
            changes.borrow_and_update();
            let Some(quarantine) = self.quarantine(key) else {
                return;
            };
            match enforcement {
                Enforcement::Pending => {
                    enforcement = self.make_read_only(key, &quarantine).await;
                    if matches!(enforcement, Enforcement::Pending) {
                        tokio::select! {
                            () = self.until_it_answers(&quarantine, &mut changes) => {}
                            () = tokio::time::sleep(self.pause(&quarantine)) => {}
                        }
                    }
                }
                Enforcement::Done(since) => {
                    // A review takes as long as its slowest server, and no restart of this one waits for that.
                    let reviewed = async {
                        let reviewed = self.review(key, &quarantine, since).await;
                        if matches!(reviewed, Enforcement::Done(_)) {
                            tokio::time::sleep(REVIEW_INTERVAL).await;
                        }
                        reviewed
                    };
                    enforcement = tokio::select! {
                        () = self.until_lost_or_opened(&quarantine, &mut changes, since) => Enforcement::Pending,
                        reviewed = reviewed => reviewed,
                    };
                }
            }
        }
    }

    /// How long the next attempt to connect waits unless the instance cache shows before that the server answers.
    fn pause(&self, quarantine: &Quarantine) -> Duration {
        if self.may_answer(quarantine) {
            return RETRY_PAUSE;
        }
        let tracked = self.context.instance_cache.get(&quarantine.instance);
        match tracked.and_then(|tracked| tracked.instance.failure) {
            Some(ProbeFailure::Refused | ProbeFailure::Lost(_)) => DIAL_PAUSE,
            // Each attempt takes until its deadline already.
            Some(ProbeFailure::NoAnswer) => RETRY_PAUSE,
            Some(
                ProbeFailure::Unreachable(_)
                | ProbeFailure::Name(_)
                | ProbeFailure::Stalled
                | ProbeFailure::Saturated
                | ProbeFailure::Denied(_)
                | ProbeFailure::NoCredentials(_)
                | ProbeFailure::Server { .. }
                | ProbeFailure::Unreadable(_),
            )
            | None => REVIEW_INTERVAL,
        }
    }

    /// The quarantine as recorded, with the present address of its server.
    fn quarantine(&self, key: &str) -> Option<Quarantine> {
        let recorded = self.views.state().quarantines.get(key).cloned()?;
        Some(Quarantine {
            instance: self.address(&recorded),
            ..recorded
        })
    }

    /// Whether a connection to the server may succeed: it answers, or the failure of its probe proves that it is alive. A server that
    /// the poller does not watch, because it was forgotten, is still in quarantine.
    fn may_answer(&self, quarantine: &Quarantine) -> bool {
        let Some(tracked) = self.context.instance_cache.get(&quarantine.instance) else {
            return true;
        };
        match &tracked.instance.failure {
            None => tracked.instance.last_checked.is_some(),
            Some(failure) => failure.proves_life(),
        }
    }

    /// Waits until the instance cache shows that the server answers, which it does not show now.
    async fn until_it_answers(&self, quarantine: &Quarantine, changes: &mut watch::Receiver<u64>) {
        let answered_before = self.may_answer(quarantine);
        while changes.changed().await.is_ok() {
            if !answered_before && self.may_answer(quarantine) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Waits until the instance cache shows that the server failed, or is writable, after it was made read-only.
    async fn until_lost_or_opened(
        &self,
        quarantine: &Quarantine,
        changes: &mut watch::Receiver<u64>,
        since: MonotonicTime,
    ) {
        while !self.was_lost_or_opened(quarantine, since) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the server has failed, or was seen writable, after it was made read-only.
    fn was_lost_or_opened(&self, quarantine: &Quarantine, since: MonotonicTime) -> bool {
        let Some(tracked) = self.context.instance_cache.get(&quarantine.instance) else {
            return false;
        };
        let has_failed = tracked.failing_since.is_some_and(|failed| failed > since);
        let is_open = tracked.facts_begun.is_some_and(|begun| begun > since)
            && tracked
                .instance
                .valid_facts()
                .is_some_and(|facts| facts.is_writable() && facts.identity == quarantine.identity);
        has_failed || is_open
    }

    /// The address of the server by the last observations of its cluster: a quarantine follows the identity, not the
    /// address.
    fn address(&self, quarantine: &Quarantine) -> InstanceKey {
        let is_it = |instance: &Instance| {
            instance
                .valid_facts()
                .is_some_and(|facts| facts.identity == quarantine.identity)
        };
        let recorded = self.context.instance_cache.get(&quarantine.instance);
        if let Some(tracked) = recorded.filter(|tracked| is_it(&tracked.instance)) {
            return tracked.instance.key;
        }
        let state = self.views.state();
        let members = state
            .clusters
            .get(&quarantine.cluster)
            .into_iter()
            .flat_map(|cluster| &cluster.instances);
        let mut seen = members
            .filter_map(|key| self.context.instance_cache.get(key))
            .map(|tracked| tracked.instance);
        seen.find(is_it)
            .map_or_else(|| quarantine.instance.clone(), |instance| instance.key)
    }

    /// Proves that this member leads now, and that the server is still in quarantine in the latest state.
    async fn confirm_quarantine(&self, key: &str, quarantine: &Quarantine) -> Result<(), String> {
        self.context
            .consensus
            .barrier()
            .await
            .map_err(|error| error.to_string())?;
        match self.views.state().quarantines.get(key) {
            Some(present) if present.identity == quarantine.identity => Ok(()),
            Some(_) | None => Err(String::from("it is no longer in quarantine")),
        }
    }

    fn target(&self, quarantine: &Quarantine) -> Target {
        let origin = self
            .context
            .instance_cache
            .get(&quarantine.instance)
            .map(|tracked| tracked.origin);
        let document = self
            .views
            .state()
            .clusters
            .get(&quarantine.cluster)
            .and_then(|cluster| cluster.document.clone());
        Target {
            instance: quarantine.instance.clone(),
            origin: origin.or(document).unwrap_or(crate::domain::intent::Origin::Api),
        }
    }

    /// How long one attempt to connect may take. An attempt that began while packets were dropped does not notice that the host is back.
    fn dial_deadline(&self, quarantine: &Quarantine) -> Duration {
        let tracked = self.context.instance_cache.get(&quarantine.instance);
        let failure = tracked.and_then(|tracked| tracked.instance.failure);
        if matches!(failure, Some(ProbeFailure::Refused | ProbeFailure::Lost(_))) {
            DIAL_DEADLINE
        } else {
            CONNECT_DEADLINE
        }
    }

    /// Connects to the server. The session of another actor that holds the step lock is killed, after the proof that this member may
    /// act.
    async fn connect(&self, key: &str, quarantine: &Quarantine) -> Result<Box<dyn StepSession>, NotConnected> {
        let target = self.target(quarantine);
        let identity = Some(&quarantine.identity);
        let executor = &self.context.executor;
        let opened = match executor
            .begin_if_free(&target, identity, self.dial_deadline(quarantine))
            .await
        {
            Err(StepError::LockHeld(_)) => {
                self.confirm_quarantine(key, quarantine)
                    .await
                    .map_err(NotConnected::Unconfirmed)?;
                executor.begin(&target, identity, CONNECT_DEADLINE).await
            }
            opened => opened,
        };
        let session = opened.map_err(NotConnected::Failed)?;
        match self.confirm_quarantine(key, quarantine).await {
            Ok(()) => Ok(session),
            Err(why) => {
                session.end().await;
                Err(NotConnected::Unconfirmed(why))
            }
        }
    }

    /// Connects to the server and makes it read-only before anything else.
    async fn make_read_only(&self, key: &str, quarantine: &Quarantine) -> Enforcement {
        let instance = &quarantine.instance;
        let mut session = match self.connect(key, quarantine).await {
            Ok(session) => session,
            Err(NotConnected::Failed(StepError::OtherIdentity { found, .. })) => {
                let why = format!("the address {instance} belongs to another server: {found}");
                self.record_standing(key, quarantine, QuarantineState::Unknown { why })
                    .await;
                return self.done();
            }
            Err(NotConnected::Failed(_)) => return Enforcement::Pending,
            Err(NotConnected::Unconfirmed(why)) => {
                if self.is_new_failure(key, &why) {
                    warn!(instance = %instance, "{instance} returned and was not made read-only, because this member may not act: {why}");
                }
                return Enforcement::Pending;
            }
        };
        // What is seen after this time proves that the statement has lost its effect.
        let done = self.done();
        let (target, executor) = (self.target(quarantine), self.context.executor.as_ref());
        let identity = Some(&quarantine.identity);
        // Commits of the time before it was cut off may wait for acknowledgements that never come.
        let fenced = fence_with_hanging_commits(
            executor,
            &mut session,
            &target,
            identity,
            KilledCommits::Complete,
            READ_ONLY_DEADLINE,
        )
        .await;
        let ended = match fenced {
            Ok(ended) => ended,
            Err(error) => {
                if self.is_new_failure(key, &error.to_string()) {
                    warn!(instance = %instance, "{instance} returned; failed to set super_read_only, will retry: {error}");
                }
                session.end().await;
                return Enforcement::Pending;
            }
        };
        self.failures().remove(key);
        let events = self.disable_events(&mut session, quarantine).await;
        info!(instance = %instance, "{instance} returned after recovery {}: set super_read_only, killed {ended} client sessions{events}", quarantine.recovery);
        session.end().await;
        done
    }

    /// Disables the events of a server that was made read-only, where it would run them all the same: what they write would be
    /// errant. Returns a remark for the log.
    async fn disable_events(&self, session: &mut Box<dyn StepSession>, quarantine: &Quarantine) -> String {
        let view = self.views.cluster(&quarantine.cluster);
        if view.is_some_and(|view| view.policy.events == EventsPolicy::Leave) {
            return String::new();
        }
        match session.disable_events(EVENTS_DEADLINE).await {
            Ok(events) if events.is_empty() => String::new(),
            Ok(events) => format!(", disabled {} events", events.len()),
            Err(error) => format!("; events of accounts that bypass read_only may still write: {error}"),
        }
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_new_failure(&self, key: &str, why: &str) -> bool {
        self.failures().insert(key.to_owned(), why.to_owned()).as_deref() != Some(why)
    }

    fn done(&self) -> Enforcement {
        Enforcement::Done(self.context.clock.monotonic())
    }

    /// Probes a server that was made read-only: it may be gone, writable, or a replica again; otherwise its GTID set
    /// is compared again.
    async fn review(&self, key: &str, quarantine: &Quarantine, since: MonotonicTime) -> Enforcement {
        let target = self.target(quarantine);
        let observation = self
            .context
            .prober
            .probe(&target, ProbeConnection::Kept, CONNECT_DEADLINE)
            .await;
        let Ok(facts) = observation.outcome else {
            return Enforcement::Pending;
        };
        if facts.identity != quarantine.identity {
            self.record_standing(
                key,
                quarantine,
                QuarantineState::Unknown {
                    why: format!(
                        "the address {} belongs to another server: {}",
                        quarantine.instance, facts.identity
                    ),
                },
            )
            .await;
            return Enforcement::Done(since);
        }
        if facts.is_writable() {
            return Enforcement::Pending;
        }
        if self.replicates_from_primary(quarantine, &facts) {
            self.release(key, quarantine, "it replicates from the primary").await;
            return Enforcement::Done(since);
        }
        self.compare(key, quarantine, &facts).await;
        // On MariaDB, read_only does not stop an account with SUPER: its sessions are killed again and again.
        if facts.version.flavour.is_mariadb()
            && let Ok(mut session) = self.connect(key, quarantine).await
        {
            match session.kill_clients(CONNECT_DEADLINE).await {
                Ok(0) | Err(_) => {}
                Ok(killed) => self.report_killed(key, quarantine, u64::from(killed)),
            }
            session.end().await;
        }
        Enforcement::Done(since)
    }

    /// Logs sessions that were killed: at once, and while clients connect again and again at most once a minute.
    fn report_killed(&self, key: &str, quarantine: &Quarantine, killed: u64) {
        let now = self.context.clock.monotonic();
        let mut reports = self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        let (unreported, reported) = reports.entry(key.to_owned()).or_default();
        *unreported += killed;
        if reported.is_some_and(|last| now.millis_since(last) < REPORT_KILLED_MILLIS) {
            return;
        }
        let killed = std::mem::take(unreported);
        *reported = Some(now);
        info!(instance = %quarantine.instance, "killed {killed} client sessions of {}, which is in quarantine", quarantine.instance);
    }

    fn primary(&self, quarantine: &Quarantine) -> Option<Instance> {
        let state = self.views.state();
        let recorded = state.clusters.get(&quarantine.cluster)?.primary.as_ref()?;
        (recorded.identity != quarantine.identity)
            .then(|| self.context.instance_cache.get(&recorded.instance))
            .flatten()
            .map(|tracked| tracked.instance)
    }

    fn replicates_from_primary(&self, quarantine: &Quarantine, facts: &InstanceFacts) -> bool {
        let Some(primary) = self.primary(quarantine) else {
            return false;
        };
        facts.managed_channel().is_some_and(|channel| {
            channel.is_receiving()
                && self
                    .context
                    .instance_cache
                    .get(&channel.source)
                    .is_some_and(|source| source.instance.key == primary.key)
        })
    }

    async fn compare(&self, key: &str, quarantine: &Quarantine, facts: &InstanceFacts) {
        let Some(primary) = self.primary(quarantine) else {
            return self
                .record_standing(
                    key,
                    quarantine,
                    QuarantineState::Unknown {
                        why: String::from("the cluster has no primary to compare with"),
                    },
                )
                .await;
        };
        let target = Target {
            instance: primary.key.clone(),
            ..self.target(quarantine)
        };
        let seen = self
            .context
            .prober
            .probe(&target, ProbeConnection::Kept, CONNECT_DEADLINE)
            .await;
        let Ok(present) = seen.outcome else {
            return self
                .record_standing(
                    key,
                    quarantine,
                    QuarantineState::Unknown {
                        why: format!("primary {} does not answer", primary.key),
                    },
                )
                .await;
        };
        let standing = compare(&present.executed, &facts.executed);
        let contained = standing == QuarantineState::Contained;
        self.record_standing(key, quarantine, standing).await;
        if contained
            && let Some(view) = self.views.cluster(&quarantine.cluster)
            && view.policy.old_primary == OldPrimary::Rejoin
        {
            self.coordinator.rejoin(key, quarantine, &view).await;
        }
    }

    async fn record_standing(&self, key: &str, quarantine: &Quarantine, standing: QuarantineState) {
        let instance = &quarantine.instance;
        let same = |present: &Quarantine| present.standing == standing && present.instance == *instance;
        if self.views.state().quarantines.get(key).is_none_or(same) {
            return;
        }
        match &standing {
            QuarantineState::Absent => {}
            QuarantineState::Contained => {
                info!(instance = %instance, "{instance} holds no transaction that the primary lacks");
            }
            QuarantineState::Errant { set } => {
                warn!(instance = %instance, "{instance} holds transactions that the primary lacks: {set}; it stays read-only");
            }
            QuarantineState::Unknown { why } => {
                warn!(instance = %instance, "cannot compare {instance} with the primary: {why}; it stays read-only");
            }
        }
        let command = Command::SetQuarantineStanding {
            quarantine: key.to_owned(),
            instance: instance.clone(),
            standing,
        };
        if let Err(error) = self.context.consensus.propose(command).await {
            warn!("failed to record the quarantine of {instance}: {error}");
        }
    }

    async fn release(&self, key: &str, quarantine: &Quarantine, reason: &str) {
        let command = Command::Release {
            quarantine: key.to_owned(),
            reason: reason.to_owned(),
        };
        match self.context.consensus.propose(command).await {
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => {
                info!(instance = %quarantine.instance, "released {} from quarantine: {reason}", quarantine.instance);
            }
            Ok(Applied::Refused { why }) => warn!("refused to release {} from quarantine: {why}", quarantine.instance),
            Err(error) => warn!("failed to release {} from quarantine: {error}", quarantine.instance),
        }
    }
}

/// The result of the comparison of the GTID sets that the returned server and the primary executed.
fn compare(primary: &GtidSet, returned: &GtidSet) -> QuarantineState {
    if primary.contains(returned) {
        QuarantineState::Contained
    } else {
        QuarantineState::Errant {
            set: returned.missing_from(primary),
        }
    }
}
