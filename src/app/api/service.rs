//! The use cases of the API for a running member.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::case::Case;
use crate::domain::cluster_view::ClusterView;
use crate::domain::errant::{ErrantReport, Remedy};
use crate::domain::instance::Instance;
use crate::domain::intent::{Intent, IntentId, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::pseudo_gtid::Entry;
use crate::domain::state::record::Acknowledgement;
use crate::domain::state::{Applied, Command, Recovery, RefusedCommand, Seed, State};
use crate::domain::topology::ClusterId;

use crate::app::api::errant::ErrantTransactions;
use crate::app::api::relocate::Relocation;
use crate::app::api::{Api, ApiError, PrimaryChange, PrimaryChangeOutcome, RecoveryOutcome, RelocationOutcome};
use crate::app::cluster::view::ClusterViews;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::ports::AnalysisChange;
use crate::app::ports::{Clock, Consensus, ProposeError, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;

/// How long a request waits for the end of a recovery, which another member may have to finish.
const OVER_DEADLINE: Duration = Duration::from_secs(90);

/// Implements [`Api`] with the loops of this member.
pub struct ApiService {
    /// Proposes commands.
    pub consensus: Arc<dyn Consensus>,
    /// The last observation of each instance.
    pub instance_cache: Arc<InstanceCache>,
    /// Probes instances.
    pub poller: Arc<Poller>,
    /// The views of the clusters.
    pub views: ClusterViews,
    /// Runs recoveries.
    pub coordinator: Arc<RecoveryCoordinator>,
    /// Shows and resolves errant transactions.
    pub errants: ErrantTransactions,
    /// Moves replicas by Pseudo-GTID.
    pub relocation: Relocation,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// For how long a forgotten address is not discovered again.
    pub forget_for: Duration,
}

impl ApiService {
    async fn propose(&self, command: Command) -> Result<Applied, ApiError> {
        match self.consensus.propose(command).await {
            Ok(Applied::Refused {
                why: RefusedCommand::Unknown(what),
            }) => Err(ApiError::NotFound(format!("{what} is unknown"))),
            Ok(Applied::Refused { why }) => Err(ApiError::Conflict(why.to_string())),
            Ok(applied) => Ok(applied),
            Err(ProposeError::NotLeader(peer)) => Err(ApiError::NotLeader(peer.map(|peer| peer.name))),
            Err(ProposeError::NoQuorum(why) | ProposeError::NotUnderstood(why)) => Err(ApiError::Unavailable(why)),
            Err(ProposeError::OutcomeUnknown(why)) => Err(ApiError::OutcomeUnknown(why)),
            Err(ProposeError::Stopped(why)) => Err(ApiError::Internal(why)),
        }
    }

    fn known(&self, instance: &InstanceKey) -> Result<Target, ApiError> {
        self.instance_cache
            .target(instance)
            .ok_or_else(|| ApiError::NotFound(format!("Cannot read instance: {instance}")))
    }

    async fn probe(&self, target: &Target) -> Result<Instance, ApiError> {
        let observation = self.poller.probe_now(target).await;
        match observation.outcome {
            Err(failure) => Err(ApiError::Unavailable(format!("{}: {failure}", target.instance))),
            Ok(_) => self
                .instance_cache
                .get(&target.instance)
                .map(|tracked| tracked.instance)
                .ok_or_else(|| ApiError::Internal(format!("{} answered and is not polled", target.instance))),
        }
    }

    fn cluster(&self, id: &ClusterId) -> Result<ClusterView, ApiError> {
        self.views
            .cluster(id)
            .ok_or_else(|| ApiError::NotFound(format!("cluster {id} is unknown")))
    }

    /// Waits until a recovery is over, on whichever member it ends.
    async fn wait_until_over(&self, uid: &str) -> Result<Recovery, ApiError> {
        let mut state = self.consensus.state();
        let over = async {
            loop {
                let recovery = state.borrow_and_update().recoveries.get(uid).cloned();
                match recovery {
                    Some(recovery) if !recovery.is_active() => return Ok(recovery),
                    Some(_) => {}
                    None => return Err(ApiError::Internal(format!("recovery {uid} is not in the records"))),
                }
                if state.changed().await.is_err() {
                    return Err(ApiError::Internal(String::from("this member is stopping")));
                }
            }
        };
        tokio::time::timeout(OVER_DEADLINE, over).await.unwrap_or_else(|_| {
            Err(ApiError::OutcomeUnknown(format!(
                "recovery {uid} is not over yet; audit-recovery shows how it ends"
            )))
        })
    }

    fn forgotten_until(&self) -> crate::domain::time::WallTime {
        self.clock
            .wall()
            .plus_millis(i64::try_from(self.forget_for.as_millis()).unwrap_or(i64::MAX))
    }

    /// The origin of the credentials for an address, which may not be polled yet.
    fn origin_of(&self, instance: &InstanceKey) -> Origin {
        self.instance_cache
            .get(instance)
            .map_or(Origin::Api, |tracked| tracked.origin)
    }
}

#[async_trait]
impl Api for ApiService {
    fn clusters(&self) -> Arc<Vec<ClusterView>> {
        let mut views: Vec<ClusterView> = self
            .views
            .clusters()
            .into_iter()
            .map(|view| self.coordinator.with_last_attempts(view))
            .collect();
        views.sort_by(|a, b| a.cluster.name.cmp(&b.cluster.name));
        Arc::new(views)
    }

    fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        self.views.analysis_changes()
    }

    fn state(&self) -> Arc<State> {
        self.views.state()
    }

    async fn discover(&self, instance: &InstanceKey) -> Result<Instance, ApiError> {
        let target = Target {
            instance: instance.clone(),
            origin: self.origin_of(instance),
        };
        let found = self.probe(&target).await;
        if found.is_err()
            && !self
                .state()
                .clusters
                .values()
                .any(|cluster| cluster.instances.contains(instance))
        {
            self.poller.forget(instance).await;
        }
        let found = found?;
        self.propose(Command::Discover {
            seed: Seed {
                instance: instance.clone(),
                origin: target.origin,
            },
        })
        .await?;
        Ok(found)
    }

    async fn discover_later(&self, instance: &InstanceKey) -> Result<(), ApiError> {
        let origin = self.origin_of(instance);
        self.propose(Command::Discover {
            seed: Seed {
                instance: instance.clone(),
                origin,
            },
        })
        .await
        .map(drop)
    }

    async fn refresh(&self, instance: &InstanceKey) -> Result<Instance, ApiError> {
        let target = self.known(instance)?;
        self.probe(&target).await
    }

    async fn forget(&self, instance: &InstanceKey) -> Result<(), ApiError> {
        let target = self.known(instance)?;
        self.propose(Command::Forget {
            instance: target.instance,
            until: self.forgotten_until(),
        })
        .await
        .map(drop)
    }

    async fn release_quarantine(&self, instance: &InstanceKey) -> Result<(), ApiError> {
        let state = self.state();
        let held = self
            .instance_cache
            .get(instance)
            .map_or_else(|| instance.clone(), |tracked| tracked.instance.key);
        let key = state
            .quarantines
            .iter()
            .find(|(_, quarantine)| quarantine.instance == held)
            .map(|(key, _)| key.clone());
        let quarantine = key.ok_or_else(|| ApiError::NotFound(format!("{instance} is not in quarantine")))?;
        self.propose(Command::Release {
            quarantine,
            reason: String::from("released through the API"),
        })
        .await
        .map(drop)
    }

    async fn errant(&self, instance: &InstanceKey) -> Result<ErrantReport, ApiError> {
        let target = self.known(instance)?;
        self.errants.show(&target).await
    }

    async fn resolve_errant(&self, instance: &InstanceKey, remedy: Remedy) -> Result<String, ApiError> {
        let target = self.known(instance)?;
        self.errants.resolve(&target, remedy).await
    }

    async fn forget_cluster(&self, cluster: &ClusterId) -> Result<(), ApiError> {
        let view = self.cluster(cluster)?;
        let until = self.forgotten_until();
        for instance in view.cluster.instances {
            self.propose(Command::Forget { instance, until }).await?;
        }
        Ok(())
    }

    async fn set_intent(&self, intent: Intent) -> Result<(), ApiError> {
        self.propose(Command::SetIntent { intent }).await.map(drop)
    }

    async fn end_intent(&self, id: IntentId) -> Result<(), ApiError> {
        match self.consensus.propose(Command::EndIntent { id: id.clone() }).await {
            Ok(Applied::Refused {
                why: RefusedCommand::OwnedBy(owner),
            }) => Err(ApiError::OwnedBy {
                instance: id.instance,
                what: match id.kind {
                    crate::domain::intent::IntentKind::Downtime => "in downtime",
                    crate::domain::intent::IntentKind::Candidate => "a candidate",
                },
                owner,
            }),
            Ok(_) => Ok(()),
            Err(_) => self.propose(Command::EndIntent { id }).await.map(drop),
        }
    }

    async fn set_global_recoveries(&self, enabled: bool) -> Result<(), ApiError> {
        self.propose(Command::SetGlobalRecoveries { enabled }).await.map(drop)
    }

    async fn acknowledge(&self, uids: Vec<String>, by: &str, comment: &str) -> Result<u64, ApiError> {
        let acknowledgement = Acknowledgement {
            at: self.clock.wall(),
            by: by.to_owned(),
            comment: comment.to_owned(),
        };
        match self.propose(Command::Acknowledge { uids, acknowledgement }).await? {
            Applied::Number { number } => Ok(number),
            Applied::Done | Applied::Claimed { .. } | Applied::Refused { .. } => Ok(0),
        }
    }

    async fn recover(
        &self,
        instance: &InstanceKey,
        candidate: Option<&InstanceKey>,
        skips_hooks: bool,
    ) -> Result<RecoveryOutcome, ApiError> {
        let target = self.known(instance)?;
        let view = self
            .views
            .clusters()
            .into_iter()
            .find(|view| view.topology.instances.contains_key(&target.instance))
            .ok_or_else(|| ApiError::NotFound(format!("{instance} belongs to no cluster")))?;
        let order = ManualRequest {
            command: String::from(if skips_hooks { "recover-lite" } else { "recover" }),
            skips_hooks,
            ..ManualRequest::default()
        };
        let recovered = self
            .coordinator
            .recover_now(&view, &target.instance, candidate, order)
            .await;
        let uid = match recovered {
            Ok(uid) => uid,
            Err(HeldBack::NotActionable) => {
                return Ok(RecoveryOutcome::NotAttempted {
                    why: String::from("no finding on the instance has a recovery"),
                });
            }
            Err(why) => return Ok(RecoveryOutcome::NotAttempted { why: why.to_string() }),
        };
        let recovery = self.wait_until_over(&uid).await?;
        Ok(match recovery.successor() {
            Some(successor) => RecoveryOutcome::Promoted {
                uid,
                successor: successor.clone(),
            },
            None => RecoveryOutcome::NothingPromoted {
                uid,
                why: recovery.errors.join("; "),
            },
        })
    }

    async fn change_primary(&self, request: PrimaryChange) -> Result<PrimaryChangeOutcome, ApiError> {
        self.consensus
            .barrier()
            .await
            .map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let PrimaryChange { cluster, target, order } = request;
        match self.coordinator.replace_primary(&cluster, target.as_ref(), order).await {
            Ok(uid) => {
                self.wait_until_over(&uid).await?;
                Ok(PrimaryChangeOutcome::Over { uid })
            }
            Err(HeldBack::Refused(why)) => Ok(PrimaryChangeOutcome::Refused { why }),
            Err(why) => Ok(PrimaryChangeOutcome::Refused { why: why.to_string() }),
        }
    }

    fn save_case(&self, cluster: &ClusterId) -> Result<Case, ApiError> {
        let view = self.cluster(cluster)?;
        let state = self.state();
        let quarantines = state
            .quarantines
            .values()
            .filter(|quarantine| quarantine.cluster == *cluster)
            .cloned()
            .collect();
        Ok(Case {
            about: format!("cluster {} as observed", view.cluster.name),
            topology: view.topology,
            policy: view.policy,
            quarantines,
            now: self.clock.wall(),
            finding: None,
        })
    }
    async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError> {
        self.relocation.last_entry(instance).await
    }

    async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError> {
        self.relocation.match_below(instance, target).await
    }

    async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<RelocationOutcome, ApiError> {
        self.relocation.match_replicas(source, target, pattern).await
    }
}
