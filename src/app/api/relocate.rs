//! Replicas that a person puts below another server by Pseudo-GTID, under a claim like any other repair.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use regex::Regex;
use tokio::time::Instant;

use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::planner;
use crate::domain::recovery::pseudo_gtid::{Entry, Marks};

use crate::app::api::ApiError;
use crate::app::api::service::Service;
use crate::app::cluster::view::{ClusterView, ClusterViews};
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::ports::LogReader;
use crate::app::ports::Target;
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::log_search::{Search, logs_of};

/// How long a server's logs are searched for an entry that is only to be shown.
const SEARCH: Duration = Duration::from_secs(20);
/// How long a connection for that may take.
const CONNECT: Duration = Duration::from_secs(2);

/// What became of several replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The server that they are below now.
    pub target: Option<InstanceKey>,
    /// Those that were put there.
    pub moved: Vec<InstanceKey>,
    /// Why each other one was not.
    pub errors: Vec<String>,
}

/// What the API offers about places by Pseudo-GTID.
#[async_trait]
pub trait Relocate: Send + Sync {
    /// The last Pseudo-GTID entry that a server has.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the server is unknown or has none, [`ApiError::Unavailable`] when it does not answer.
    async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError>;

    /// Puts a replica below `target`; without one, below its source's source. Returns the target, and how its place was found.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] with the reason when it cannot, or must not, be done, or failed; then it replicates from where it did.
    async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError>;

    /// The same, one after the other, for all replicas of `source` whose address matches the pattern.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when a server is unknown; what fails for one replica stands in the answer.
    async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<Placed, ApiError>;
}

/// Implements [`Relocate`].
pub struct Relocation {
    /// Reads logs.
    pub logs: Arc<dyn LogReader>,
    /// What entries look like, when there are any.
    pub marks: Option<Marks>,
    /// Asks servers anew.
    pub poller: Arc<Poller>,
    /// Whose accounts open servers.
    pub instance_cache: Arc<InstanceCache>,
    /// ClusterViews of clusters.
    pub views: ClusterViews,
    /// Runs what was asked for.
    pub coordinator: Arc<RecoveryCoordinator>,
}

impl Relocation {
    fn known(&self, instance: &InstanceKey) -> Result<Target, ApiError> {
        self.instance_cache
            .target(instance)
            .ok_or_else(|| ApiError::NotFound(format!("Cannot read instance: {instance}")))
    }

    async fn look(&self, target: &Target) -> Result<InstanceFacts, ApiError> {
        match self.poller.look(target).await.outcome {
            Ok(facts) => Ok(*facts),
            Err(failure) => Err(ApiError::Unavailable(format!("{}: {failure}", target.instance))),
        }
    }

    fn view_of(&self, instance: &InstanceKey) -> Result<ClusterView, ApiError> {
        self.views
            .clusters()
            .into_iter()
            .find(|view| view.topology.get(instance).is_some())
            .ok_or_else(|| ApiError::NotFound(format!("{instance} belongs to no cluster")))
    }

    /// The source of a server by the last view.
    fn source_of(&self, instance: &InstanceKey) -> Result<InstanceKey, ApiError> {
        let view = self.view_of(instance)?;
        let found = view
            .topology
            .get(instance)
            .and_then(|instance| view.topology.source_of(instance).cloned());
        found.ok_or_else(|| ApiError::Conflict(format!("{instance} has no source")))
    }

    /// Where a replica of a replica goes one up.
    fn above(&self, source: &InstanceKey) -> Result<InstanceKey, ApiError> {
        self.source_of(source).map_err(|error| {
            if matches!(error, ApiError::Conflict(_)) {
                ApiError::Conflict(format!("{source} has no source: nothing is above it to go on from"))
            } else {
                error
            }
        })
    }
}

#[async_trait]
impl Relocate for Relocation {
    async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError> {
        let marks = self.marks.as_ref().ok_or_else(|| {
            ApiError::Conflict(
                "Pseudo-GTID is not configured: set AutoPseudoGTID, or PseudoGTIDPattern for the entries of others"
                    .to_owned(),
            )
        })?;
        let target = self.known(instance)?;
        let facts = self.look(&target).await?;
        let unavailable = |error: crate::app::ports::StepError| ApiError::Unavailable(error.to_string());
        let mut source = self.logs.open(&target, CONNECT).await.map_err(unavailable)?;
        let search = Search {
            marks,
            end: Instant::now() + SEARCH,
        };
        let mut why_not = Vec::new();
        for (log, until) in logs_of(&facts) {
            let found = search.last_entry(&mut *source, log, until.as_ref()).await;
            match found.map_err(unavailable)? {
                Ok(entry) => return Ok(entry),
                Err(why) => why_not.push(why.to_string()),
            }
        }
        Err(ApiError::NotFound(format!("{instance}: {}", why_not.join("; "))))
    }

    async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError> {
        let replica = self.known(instance)?;
        let target = match target {
            Some(target) => self.known(target)?,
            None => self.known(&self.above(&self.source_of(&replica.instance)?)?)?,
        };
        self.look(&replica).await?;
        self.look(&target).await?;
        let view = self.view_of(&replica.instance)?;
        let plan = planner::plan_match(&replica.instance, &target.instance, &view.topology, &view.policy)
            .map_err(ApiError::Conflict)?;
        let (replica, target) = (plan.old_primary.clone(), plan.successor.clone());
        let finding = Finding {
            code: Code::NoProblem,
            instance: replica.clone(),
            cluster: view.cluster.id.clone(),
            description: format!("{replica} is to replicate from {target}: asked for"),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        let report = PlanReport {
            remarks: vec!["asked for through the API".to_owned()],
            ..PlanReport::default()
        };
        let uid = self
            .coordinator
            .carry_out(view, finding, plan, report)
            .await
            .map_err(ApiError::Conflict)?;
        // Nobody else may know yet that it moved.
        let moved = self.known(&replica)?;
        self.look(&moved).await?;
        let state = self.views.state();
        let steps = state.recoveries.get(&uid).map(|recovery| recovery.steps.as_slice());
        let told = steps
            .unwrap_or_default()
            .iter()
            .rev()
            .find(|step| step.message.contains(" goes on at "));
        Ok((target, told.map(|step| step.message.clone()).unwrap_or_default()))
    }

    async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<Placed, ApiError> {
        let pattern = pattern
            .filter(|pattern| !pattern.is_empty())
            .map(Regex::new)
            .transpose()
            .map_err(|error| ApiError::BadRequest(format!("pattern: {error}")))?;
        let source = self.known(source)?.instance;
        let target = match target {
            Some(target) => self.known(target)?.instance,
            None => self.above(&source)?,
        };
        let view = self.view_of(&source)?;
        let replicas: Vec<InstanceKey> = view
            .topology
            .replicas_of(&source)
            .map(|replica| replica.key.clone())
            .filter(|key| *key != target)
            .filter(|key| {
                pattern
                    .as_ref()
                    .is_none_or(|pattern| pattern.is_match(&key.to_string()))
            })
            .collect();
        let mut placed = Placed {
            target: Some(target.clone()),
            ..Placed::default()
        };
        for replica in replicas {
            match self.match_below(&replica, Some(&target)).await {
                Ok(_) => placed.moved.push(replica),
                Err(why) => placed.errors.push(format!("{replica}: {why}")),
            }
        }
        Ok(placed)
    }
}

#[async_trait]
impl Relocate for Service {
    async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError> {
        self.placing.last_entry(instance).await
    }

    async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError> {
        self.placing.match_below(instance, target).await
    }

    async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<Placed, ApiError> {
        self.placing.match_replicas(source, target, pattern).await
    }
}
