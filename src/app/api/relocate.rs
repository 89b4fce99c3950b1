//! Moves replicas below another instance by Pseudo-GTID, under a claim like any other repair.

use std::sync::Arc;
use std::time::Duration;

use regex::Regex;
use tokio::time::Instant;

use crate::domain::cluster_view::ClusterView;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::planner;
use crate::domain::recovery::pseudo_gtid::{Entry, PseudoGtidPatterns};

use crate::app::api::dialed_reads::{DialedReads, within_deadline};
use crate::app::api::{ApiError, RelocationOutcome};
use crate::app::cluster::view::ClusterViews;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::observation::poller::Poller;
use crate::app::ports::LogReader;
use crate::app::ports::Target;
use crate::app::recovery::coordinator::RecoveryCoordinator;
use crate::app::recovery::log_search::{LogSearch, readable_logs};

/// How long the logs of an instance are searched for an entry that is only shown.
const SEARCH: Duration = Duration::from_secs(20);
/// How long the connection for that search may take.
const CONNECT: Duration = Duration::from_secs(2);

/// The use cases that move replicas by Pseudo-GTID.
pub struct Relocation {
    /// Reads binary logs and relay logs.
    pub logs: Arc<dyn LogReader>,
    /// How Pseudo-GTID entries are recognised; `None` when Pseudo-GTID is not configured.
    pub marks: Option<PseudoGtidPatterns>,
    /// Probes instances.
    pub poller: Arc<Poller>,
    /// Which account opens each instance.
    pub instance_cache: Arc<InstanceCache>,
    /// The views of the clusters.
    pub views: ClusterViews,
    /// Runs the repairs.
    pub coordinator: Arc<RecoveryCoordinator>,
    /// The reads from servers that run.
    pub reads: DialedReads,
}

impl Relocation {
    fn known(&self, instance: &InstanceKey) -> Result<Target, ApiError> {
        self.instance_cache
            .target(instance)
            .ok_or_else(|| ApiError::NotFound(format!("Cannot read instance: {instance}")))
    }

    async fn probe(&self, target: &Target) -> Result<InstanceFacts, ApiError> {
        match self.poller.probe_now(target).await.outcome {
            Ok(facts) => Ok(*facts),
            Err(failure) => Err(ApiError::Unavailable(format!("{}: {failure}", target.instance))),
        }
    }

    fn view_of(&self, instance: &InstanceKey) -> Result<ClusterView, ApiError> {
        self.views
            .cluster_of(instance)
            .ok_or_else(|| ApiError::NotFound(format!("{instance} belongs to no cluster")))
    }

    /// The source of an instance in the present view.
    fn source_of(&self, instance: &InstanceKey) -> Result<InstanceKey, ApiError> {
        let view = self.view_of(instance)?;
        let found = view
            .topology
            .get(instance)
            .and_then(|instance| view.topology.source_of(instance).cloned());
        found.ok_or_else(|| ApiError::Conflict(format!("{instance} has no source")))
    }

    /// The source of `source`: where a replica of `source` moves when it moves up one level.
    fn above(&self, source: &InstanceKey) -> Result<InstanceKey, ApiError> {
        self.source_of(source).map_err(|error| {
            if matches!(error, ApiError::Conflict(_)) {
                ApiError::Conflict(format!("{source} has no source: its replicas cannot move up"))
            } else {
                error
            }
        })
    }

    /// As [`Api::last_entry`](super::Api::last_entry).
    pub(super) async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError> {
        let marks = self.marks.as_ref().ok_or_else(|| {
            ApiError::Conflict(
                "Pseudo-GTID is not configured: set AutoPseudoGTID, or PseudoGTIDPattern for entries that another program writes"
                    .to_owned(),
            )
        })?;
        let target = self.known(instance)?;
        let _read = self.reads.begin(&target.instance)?;
        within_deadline(&target.instance, self.read_last_entry(&target, marks)).await
    }

    async fn read_last_entry(&self, target: &Target, marks: &PseudoGtidPatterns) -> Result<Entry, ApiError> {
        let instance = &target.instance;
        let facts = self.probe(target).await?;
        let unavailable = |error: crate::app::ports::StepError| ApiError::Unavailable(error.to_string());
        let mut source = self.logs.open(target, CONNECT).await.map_err(unavailable)?;
        let search = LogSearch {
            marks,
            end: Instant::now() + SEARCH,
        };
        let mut why_not = Vec::new();
        for (log, until) in readable_logs(&facts) {
            let found = search.last_entry(&mut *source, log, until.as_ref()).await;
            match found.map_err(unavailable)? {
                Ok(entry) => return Ok(entry),
                Err(why) => why_not.push(why.to_string()),
            }
        }
        Err(ApiError::NotFound(format!("{instance}: {}", why_not.join("; "))))
    }

    /// As [`Api::match_below`](super::Api::match_below).
    pub(super) async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError> {
        let replica = self.known(instance)?;
        let target = match target {
            Some(target) => self.known(target)?,
            None => self.known(&self.above(&self.source_of(&replica.instance)?)?)?,
        };
        self.probe(&replica).await?;
        self.probe(&target).await?;
        let view = self.view_of(&replica.instance)?;
        let plan = planner::plan_match(&replica.instance, &target.instance, &view.topology, &view.policy)
            .map_err(ApiError::Conflict)?;
        let (replica, target) = (plan.old_primary.clone(), plan.successor.clone());
        let finding = Finding {
            code: Code::NoProblem,
            instance: replica.clone(),
            cluster: view.cluster.id.clone(),
            description: format!("{replica} is to replicate from {target}, as requested"),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        let report = PlanReport {
            remarks: vec!["requested through the API".to_owned()],
            ..PlanReport::default()
        };
        let uid = self
            .coordinator
            .run_ordered_repair(view, finding, plan, report)
            .await
            .map_err(ApiError::Conflict)?;
        // The replica moved: the cache learns it from a probe.
        let moved = self.known(&replica)?;
        self.probe(&moved).await?;
        let state = self.views.state();
        let steps = state.recoveries.get(&uid).map(|recovery| recovery.steps.as_slice());
        let message = steps
            .unwrap_or_default()
            .iter()
            .rev()
            .find(|step| step.message.contains(" goes on at "));
        Ok((target, message.map(|step| step.message.clone()).unwrap_or_default()))
    }

    /// As [`Api::match_replicas`](super::Api::match_replicas).
    pub(super) async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<RelocationOutcome, ApiError> {
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
        let mut outcome = RelocationOutcome {
            target: Some(target.clone()),
            ..RelocationOutcome::default()
        };
        for replica in replicas {
            match self.match_below(&replica, Some(&target)).await {
                Ok(_) => outcome.moved.push(replica),
                Err(why) => outcome.errors.push(format!("{replica}: {why}")),
            }
        }
        Ok(outcome)
    }
}
