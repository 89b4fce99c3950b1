//! Quarantine: makes a failed primary read-only when it returns, compares its GTID set with the primary's, and lets it rejoin. Runs on
//! the leader.
//!
//! The quarantine in the replicated state is a standing claim: keeping a server read-only needs no new log entry, only the proof that
//! this member still leads.
//!
//! The poller looks at quarantined servers at the pulse rate. The enforcer has one task for each of them, which waits for a change of
//! the instance cache and connects as soon as the server answers there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::OldPrimary;
use crate::domain::state::{Applied, Command, Quarantine, QuarantineState};
use crate::domain::time::MonotonicTime;

use crate::app::cluster::view::ClusterViews;
use crate::app::ports::{ProbeConnection, StepError, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::steps::RecoveryContext;

/// The pause after a failed attempt to make an answering server read-only.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection to the server, or one probe, may take.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// How often a read-only server is reviewed.
const REVIEW_INTERVAL: Duration = Duration::from_secs(1);
/// How long the statement may take that makes the server read-only. It waits for running commits only.
const READ_ONLY_DEADLINE: Duration = Duration::from_secs(5);

/// One task per quarantined server.
pub struct QuarantineEnforcer {
    context: RecoveryContext,
    views: ClusterViews,
    coordinator: Arc<RecoveryCoordinator>,
    tasks: Mutex<BTreeMap<String, CancellationToken>>,
    /// The last failure to make each server read-only, which is logged once.
    failures: Mutex<BTreeMap<String, String>>,
    tracker: TaskTracker,
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
    /// An enforcer without tasks; see [`QuarantineEnforcer::reconcile`].
    pub fn new(context: RecoveryContext, views: ClusterViews, coordinator: Arc<RecoveryCoordinator>) -> Arc<Self> {
        Arc::new(Self {
            context,
            views,
            coordinator,
            tasks: Mutex::default(),
            failures: Mutex::default(),
            tracker: TaskTracker::new(),
        })
    }

    /// Starts a task for every quarantined server that has none, and ends the tasks of servers that left quarantine. Tasks end with
    /// `leading`.
    pub fn reconcile(self: &Arc<Self>, leading: &CancellationToken) {
        let state = self.views.state();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|key, task| {
            let stays = state.quarantines.contains_key(key) && !task.is_cancelled();
            if !stays {
                task.cancel();
                self.failures().remove(key);
            }
            stays
        });
        for key in state.quarantines.keys() {
            if !tasks.contains_key(key) {
                let cancel = leading.child_token();
                tasks.insert(key.clone(), cancel.clone());
                self.tracker.spawn(Arc::clone(self).enforce(key.clone(), cancel));
            }
        }
    }

    async fn enforce(self: Arc<Self>, key: String, cancel: CancellationToken) {
        let enforcing = async {
            let mut changes = self.context.instance_cache.changes();
            let mut enforcement = Enforcement::Pending;
            loop {
                changes.borrow_and_update();
                let Some(quarantine) = self.quarantine(&key) else {
                    return;
                };
                enforcement = match enforcement {
                    Enforcement::Pending if self.may_answer(&quarantine) => {
                        self.make_read_only(&key, &quarantine).await
                    }
                    Enforcement::Pending => Enforcement::Pending,
                    Enforcement::Done(since) => self.review(&key, &quarantine, since).await,
                };
                if matches!(enforcement, Enforcement::Pending) && self.may_answer(&quarantine) {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                tokio::select! {
                    () = self.until_it_may_be_writable(&key, &mut changes, enforcement) => enforcement = Enforcement::Pending,
                    () = tokio::time::sleep(REVIEW_INTERVAL) => {}
                }
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = enforcing => {}
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

    /// Waits until the instance cache shows that the server answers, or, when it was made read-only already, that it failed or became
    /// writable since.
    async fn until_it_may_be_writable(&self, key: &str, changes: &mut watch::Receiver<u64>, enforcement: Enforcement) {
        while changes.changed().await.is_ok() {
            let Some(quarantine) = self.quarantine(key) else {
                continue;
            };
            let may_be_writable = match enforcement {
                Enforcement::Pending => self.may_answer(&quarantine),
                Enforcement::Done(since) => self.was_lost_or_opened(&quarantine, since),
            };
            if may_be_writable {
                return;
            }
        }
        std::future::pending::<()>().await;
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
        let state = self.views.state();
        let members = state
            .clusters
            .get(&quarantine.cluster)
            .into_iter()
            .flat_map(|cluster| &cluster.instances);
        let mut seen = members
            .filter_map(|key| self.context.instance_cache.get(key))
            .map(|tracked| tracked.instance);
        let is_it = |instance: &Instance| {
            instance
                .valid_facts()
                .is_some_and(|facts| facts.identity == quarantine.identity)
        };
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

    /// Connects to the server and makes it read-only before anything else.
    async fn make_read_only(&self, key: &str, quarantine: &Quarantine) -> Enforcement {
        let instance = &quarantine.instance;
        let mut session = match self
            .context
            .executor
            .begin(&self.target(quarantine), Some(&quarantine.identity), CONNECT_DEADLINE)
            .await
        {
            Ok(session) => session,
            Err(StepError::OtherIdentity { found, .. }) => {
                self.record_standing(
                    key,
                    quarantine,
                    QuarantineState::Unknown {
                        why: format!("the address {instance} belongs to another server: {found}"),
                    },
                )
                .await;
                return self.done();
            }
            Err(_) => return Enforcement::Pending,
        };
        if let Err(why) = self.confirm_quarantine(key, quarantine).await {
            if self.is_new_failure(key, &why) {
                warn!(instance = %instance, "{instance} returned and was not made read-only, because this member may not act: {why}");
            }
            session.end().await;
            return Enforcement::Pending;
        }
        if let Err(error) = session.set_read_only(READ_ONLY_DEADLINE).await {
            if self.is_new_failure(key, &error.to_string()) {
                warn!(instance = %instance, "{instance} returned; failed to set super_read_only, will retry: {error}");
            }
            return Enforcement::Pending;
        }
        let done = self.done();
        self.failures().remove(key);
        let killed = session.kill_clients(CONNECT_DEADLINE).await.unwrap_or(0);
        info!(instance = %instance, "{instance} returned after recovery {}: set super_read_only, killed {killed} client sessions", quarantine.recovery);
        let facts = session.facts(CONNECT_DEADLINE).await;
        session.end().await;
        match facts {
            Ok(facts) => self.compare(key, quarantine, &facts).await,
            Err(error) => {
                self.record_standing(key, quarantine, QuarantineState::Unknown { why: error.to_string() })
                    .await;
            }
        }
        done
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
            return self.make_read_only(key, quarantine).await;
        }
        if self.replicates_from_primary(quarantine, &facts) {
            self.release(key, quarantine, "it replicates from the primary").await;
            return Enforcement::Done(since);
        }
        self.compare(key, quarantine, &facts).await;
        // On MariaDB, read_only does not stop an account with SUPER: its sessions are killed again and again.
        if facts.version.flavour.is_mariadb()
            && self.confirm_quarantine(key, quarantine).await.is_ok()
            && let Ok(mut session) = self
                .context
                .executor
                .begin(&target, Some(&quarantine.identity), CONNECT_DEADLINE)
                .await
        {
            match session.kill_clients(CONNECT_DEADLINE).await {
                Ok(0) | Err(_) => {}
                Ok(killed) => {
                    info!(instance = %quarantine.instance, "killed {killed} client sessions of {}, which is in quarantine", quarantine.instance);
                }
            }
            session.end().await;
        }
        Enforcement::Done(since)
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
