//! Stands guard over failed primaries: the moment one is back it is made read-only, then judged by its GTID set. Runs on the leader.
//!
//! The quarantine in the replicated state is a standing claim: keeping a server read-only needs no new entry, only the proof that
//! this member still leads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::OldPrimary;
use crate::domain::state::{Applied, Command, Quarantine, QuarantineState};

use crate::app::cluster::view::ClusterViews;
use crate::app::ports::{Approach, StepError, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::steps::RecoveryContext;

/// How often an absent server is dialled: it must be read-only within 0.3 s of accepting connections.
const DIAL_PACE: Duration = Duration::from_millis(100);
/// How long one dial may take.
const DIAL_DEADLINE: Duration = Duration::from_millis(500);
/// How often a held server is looked at again.
const HELD_PACE: Duration = Duration::from_secs(1);
/// How long it may take to become read-only: nobody commits there, the statement waits for nothing.
const READ_ONLY_DEADLINE: Duration = Duration::from_secs(5);

/// One task per quarantined server.
pub struct QuarantineEnforcer {
    context: RecoveryContext,
    views: ClusterViews,
    coordinator: Arc<RecoveryCoordinator>,
    tasks: Mutex<BTreeMap<String, CancellationToken>>,
    tracker: TaskTracker,
}

enum Watch {
    /// Not reached since it failed, or reached writable: to be made read-only.
    Dialling,
    /// Made read-only in its present life.
    Held,
}

impl QuarantineEnforcer {
    /// A guard that stands down until [`QuarantineEnforcer::stand`].
    pub fn new(context: RecoveryContext, views: ClusterViews, coordinator: Arc<RecoveryCoordinator>) -> Arc<Self> {
        Arc::new(Self {
            context,
            views,
            coordinator,
            tasks: Mutex::default(),
            tracker: TaskTracker::new(),
        })
    }

    /// Starts a task for every quarantined server that has none, ends those whose server left quarantine. Tasks end with `leading`.
    pub fn stand(self: &Arc<Self>, leading: &CancellationToken) {
        let state = self.views.state();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|key, task| {
            let stays = state.quarantines.contains_key(key) && !task.is_cancelled();
            if !stays {
                task.cancel();
            }
            stays
        });
        for key in state.quarantines.keys() {
            if !tasks.contains_key(key) {
                let cancel = leading.child_token();
                tasks.insert(key.clone(), cancel.clone());
                self.tracker.spawn(Arc::clone(self).watch(key.clone(), cancel));
            }
        }
    }

    async fn watch(self: Arc<Self>, key: String, cancel: CancellationToken) {
        let mut watch = Watch::Dialling;
        loop {
            let Some(recorded) = self.views.state().quarantines.get(&key).cloned() else {
                return;
            };
            let quarantine = Quarantine {
                instance: self.place(&recorded),
                ..recorded
            };
            let pace = match watch {
                Watch::Dialling => DIAL_PACE,
                Watch::Held => HELD_PACE,
            };
            let step = async {
                match watch {
                    Watch::Dialling => self.dial(&key, &quarantine).await,
                    Watch::Held => self.review(&key, &quarantine).await,
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                next = step => watch = next,
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pace) => {}
            }
        }
    }

    /// Where the server is by the last observations of its cluster: a quarantine follows the identity, not the address.
    fn place(&self, quarantine: &Quarantine) -> InstanceKey {
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

    /// The proof that this member leads now, and that the server is still quarantined in the state that this proves to be the latest.
    async fn may_hold(&self, key: &str, quarantine: &Quarantine) -> Result<(), String> {
        self.context
            .consensus
            .barrier()
            .await
            .map_err(|error| error.to_string())?;
        match self.views.state().quarantines.get(key) {
            Some(present) if present.identity == quarantine.identity => Ok(()),
            Some(_) | None => Err(String::from("it is not in quarantine any more")),
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

    /// Tries to reach the server; when it answers, makes it read-only before anything else.
    async fn dial(&self, key: &str, quarantine: &Quarantine) -> Watch {
        let instance = &quarantine.instance;
        let mut session = match self
            .context
            .executor
            .begin(&self.target(quarantine), Some(&quarantine.identity), DIAL_DEADLINE)
            .await
        {
            Ok(session) => session,
            Err(StepError::OtherIdentity { found, .. }) => {
                self.judge(
                    key,
                    quarantine,
                    QuarantineState::Unknown {
                        why: format!("at {instance} now stands {found}"),
                    },
                )
                .await;
                return Watch::Held;
            }
            Err(_) => return Watch::Dialling,
        };
        if let Err(why) = self.may_hold(key, quarantine).await {
            warn!(instance = %instance, "{instance} is back and this member may not make it read-only: {why}");
            session.end().await;
            return Watch::Dialling;
        }
        if let Err(error) = session.set_read_only(READ_ONLY_DEADLINE).await {
            warn!(instance = %instance, "{instance} is back and was not made read-only: {error}");
            return Watch::Dialling;
        }
        let killed = session.kill_clients(DIAL_DEADLINE).await.unwrap_or(0);
        info!(instance = %instance, "{instance} is back: read-only, {killed} client sessions ended (quarantined by recovery {})", quarantine.recovery);
        let facts = session.facts(DIAL_DEADLINE).await;
        session.end().await;
        match facts {
            Ok(facts) => self.compare(key, quarantine, &facts).await,
            Err(error) => {
                self.judge(key, quarantine, QuarantineState::Unknown { why: error.to_string() })
                    .await;
            }
        }
        Watch::Held
    }

    /// Looks at a held server again: gone, writable, re-attached, or to be judged anew.
    async fn review(&self, key: &str, quarantine: &Quarantine) -> Watch {
        let target = self.target(quarantine);
        let observation = self.context.prober.probe(&target, Approach::Kept, DIAL_DEADLINE).await;
        let Ok(facts) = observation.outcome else {
            return Watch::Dialling;
        };
        if facts.identity != quarantine.identity {
            self.judge(
                key,
                quarantine,
                QuarantineState::Unknown {
                    why: format!("at {} now stands {}", quarantine.instance, facts.identity),
                },
            )
            .await;
            return Watch::Held;
        }
        if facts.is_writable() {
            return Watch::Dialling;
        }
        if self.follows_the_primary(quarantine, &facts) {
            self.release(key, quarantine, "it replicates from the primary").await;
            return Watch::Held;
        }
        self.compare(key, quarantine, &facts).await;
        // On MariaDB read_only stops no account with SUPER: sessions are kept killed.
        if facts.version.flavour.is_mariadb()
            && self.may_hold(key, quarantine).await.is_ok()
            && let Ok(mut session) = self
                .context
                .executor
                .begin(&target, Some(&quarantine.identity), DIAL_DEADLINE)
                .await
        {
            match session.kill_clients(DIAL_DEADLINE).await {
                Ok(0) | Err(_) => {}
                Ok(killed) => {
                    info!(instance = %quarantine.instance, "{}: {killed} client sessions ended", quarantine.instance);
                }
            }
            session.end().await;
        }
        Watch::Held
    }

    fn primary(&self, quarantine: &Quarantine) -> Option<Instance> {
        let state = self.views.state();
        let recorded = state.clusters.get(&quarantine.cluster)?.primary.as_ref()?;
        (recorded.identity != quarantine.identity)
            .then(|| self.context.instance_cache.get(&recorded.instance))
            .flatten()
            .map(|tracked| tracked.instance)
    }

    fn follows_the_primary(&self, quarantine: &Quarantine, facts: &InstanceFacts) -> bool {
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
                .judge(
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
        let seen = self.context.prober.probe(&target, Approach::Kept, DIAL_DEADLINE).await;
        let Ok(present) = seen.outcome else {
            return self
                .judge(
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
        self.judge(key, quarantine, standing).await;
        if contained
            && let Some(view) = self.views.cluster(&quarantine.cluster)
            && view.policy.old_primary == OldPrimary::Rejoin
        {
            self.coordinator.rejoin(key, quarantine, &view).await;
        }
    }

    async fn judge(&self, key: &str, quarantine: &Quarantine, standing: QuarantineState) {
        let instance = &quarantine.instance;
        let same = |present: &Quarantine| present.standing == standing && present.instance == *instance;
        if self.views.state().quarantines.get(key).is_none_or(same) {
            return;
        }
        match &standing {
            QuarantineState::Absent => {}
            QuarantineState::Contained => {
                info!(instance = %instance, "{instance} holds nothing that the primary lacks");
            }
            QuarantineState::Errant { set } => {
                warn!(instance = %instance, "{instance} holds transactions that the primary lacks: {set}; held read-only");
            }
            QuarantineState::Unknown { why } => warn!(instance = %instance, "{instance} cannot be judged: {why}; held"),
        }
        let command = Command::Judge {
            quarantine: key.to_owned(),
            instance: instance.clone(),
            standing,
        };
        if let Err(error) = self.context.consensus.propose(command).await {
            warn!("judgement of {instance} not written: {error}");
        }
    }

    async fn release(&self, key: &str, quarantine: &Quarantine, reason: &str) {
        let command = Command::Release {
            quarantine: key.to_owned(),
            reason: reason.to_owned(),
        };
        match self.context.consensus.propose(command).await {
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => {
                info!(instance = %quarantine.instance, "{} leaves quarantine: {reason}", quarantine.instance);
            }
            Ok(Applied::Refused { why }) => warn!("release of {} refused: {why}", quarantine.instance),
            Err(error) => warn!("release of {} not written: {error}", quarantine.instance),
        }
    }
}

/// Where a returned server stands, by what it and the primary executed.
fn compare(primary: &GtidSet, returned: &GtidSet) -> QuarantineState {
    if primary.contains(returned) {
        QuarantineState::Contained
    } else {
        QuarantineState::Errant {
            set: returned.missing_from(primary),
        }
    }
}
