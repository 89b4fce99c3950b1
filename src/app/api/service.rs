//! The use cases of the API for a running member.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::info;

use crate::domain::case::Case;
use crate::domain::cluster_split;
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
use crate::app::api::primaries::PrimaryPublications;
use crate::app::api::relocate::Relocation;
use crate::app::api::{
    Api, ApiError, KeyValue, PrimaryChange, PrimaryChangeOutcome, RecoveryOutcome, RelocationOutcome,
};
use crate::app::cluster::view::ClusterViews;
use crate::app::leader::cluster_registry::RecordsLock;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::observation::probe_sharing::ProbeShares;
use crate::app::observation::scheduling_delay::Lateness;
use crate::app::ports::AnalysisChange;
use crate::app::ports::{Clock, Consensus, ProposeError, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::publication_gate::PublicationStatuses;

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
    /// Held while records of clusters are changed.
    pub records: RecordsLock,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// For how long a forgotten address is not discovered again.
    pub forget_for: Duration,
    /// What is published of primaries.
    pub publications: PrimaryPublications,
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

    /// Forgets an instance. With `is_gone`, its quarantine ends too.
    async fn forget_instance(&self, instance: InstanceKey, is_gone: bool) -> Result<(), ApiError> {
        let until = self.forgotten_until();
        if is_gone {
            let gone = Command::ForgetGone {
                instance: instance.clone(),
                until,
                reason: String::from("its quarantine ended"),
            };
            match self.consensus.propose(gone.clone()).await {
                // While members are upgraded, the quarantine stays.
                Err(ProposeError::NotUnderstood(_)) => {}
                Ok(Applied::Refused { .. }) | Err(_) => return self.propose(gone).await.map(drop),
                Ok(_) => return Ok(()),
            }
        }
        self.propose(Command::Forget { instance, until }).await.map(drop)
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
    fn clusters(&self) -> Vec<Arc<ClusterView>> {
        let complete = |view: Arc<ClusterView>| {
            if view.findings.is_empty() {
                return view;
            }
            Arc::new(self.coordinator.with_last_attempts(view.as_ref().clone()))
        };
        let mut views: Vec<Arc<ClusterView>> = self.views.clusters().into_iter().map(complete).collect();
        views.sort_by(|a, b| a.cluster.name.cmp(&b.cluster.name));
        views
    }

    fn lateness(&self) -> Lateness {
        self.instance_cache.delays().lateness(self.clock.monotonic())
    }

    fn probe_shares(&self) -> ProbeShares {
        let shared = self.instance_cache.shared_probes();
        shared.map(|shared| shared.shares()).unwrap_or_default()
    }

    fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        self.views.analysis_changes()
    }

    fn state(&self) -> Arc<State> {
        self.views.state()
    }

    fn publications(&self) -> PublicationStatuses {
        self.publications.gate.statuses()
    }

    async fn submit_primaries(&self, only: Option<&ClusterId>) -> Result<Vec<KeyValue>, ApiError> {
        self.publications.submit(&self.views.state(), only).await
    }

    async fn discover(&self, instance: &InstanceKey) -> Result<Instance, ApiError> {
        let target = Target {
            instance: instance.clone(),
            origin: self.origin_of(instance),
        };
        self.poller.name(instance);
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
        let state = self.state();
        let is_held = |key: &InstanceKey| state.quarantines.values().any(|held| held.instance == *key);
        // A server in quarantine that was forgotten before is not polled.
        let instance = match self.known(instance) {
            Ok(target) => target.instance,
            Err(_) if is_held(instance) => instance.clone(),
            Err(unknown) => return Err(unknown),
        };
        let tracked = self.instance_cache.get(&instance);
        let is_absent = tracked.is_none_or(|tracked| tracked.instance.is_absent());
        let is_gone = is_held(&instance) && is_absent;
        self.forget_instance(instance, is_gone).await
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
        for instance in view.cluster.instances {
            let is_held = self.state().quarantines.values().any(|held| held.instance == instance);
            self.forget_instance(instance, is_held).await?;
        }
        Ok(())
    }

    async fn split_cluster(&self, head: &InstanceKey) -> Result<ClusterId, ApiError> {
        let _held = self.records.lock().await;
        let barrier = self.consensus.barrier().await;
        barrier.map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let views = self.views.clusters();
        let of_head = views.into_iter().find(|view| view.topology.get(head).is_some());
        let view = of_head.ok_or_else(|| ApiError::NotFound(format!("{head} belongs to no cluster")))?;
        let state = self.state();
        let half = cluster_split::half_of(&state, &view.topology, head)
            .map_err(|why| ApiError::Conflict(format!("cannot split cluster {}: {why}", view.cluster.name)))?;
        let id = ClusterId(uuid::Uuid::new_v4().to_string());
        let reason = "requested through the API";
        let command = cluster_split::command(&state, &view.topology, &half, id.clone(), reason);
        self.propose(command).await?;
        info!(
            cluster = %view.cluster.id,
            "cluster {} was split on request: {} instances below {} are cluster {id} now",
            view.cluster.name,
            half.instances.len(),
            half.head,
        );
        Ok(id)
    }

    async fn merge_clusters(&self, one: &ClusterId, other: &ClusterId) -> Result<ClusterId, ApiError> {
        let _held = self.records.lock().await;
        let barrier = self.consensus.barrier().await;
        barrier.map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let (one, other) = (self.cluster(one)?, self.cluster(other)?);
        let names = format!("{} and {}", one.cluster.name, other.cluster.name);
        let reason = "requested through the API";
        let command = cluster_split::merge(&self.state(), &one.topology, &other.topology, reason)
            .map_err(|why| ApiError::Conflict(format!("cannot merge {names}: {why}")))?;
        let Command::MergeClusters { into, .. } = &command else {
            return Err(ApiError::Internal(format!("no command merges {names}")));
        };
        let into = into.clone();
        self.propose(command).await?;
        info!(cluster = %into, "clusters {names} were merged on request: they are cluster {into} now");
        Ok(into)
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
