//! Errant transactions: shows them with their content, and resolves them on request, under a claim like any other repair.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::analysis::current_primary;
use crate::domain::cluster_view::ClusterView;
use crate::domain::errant::{DecodedTransactions, ErrantReport, Remedy, errant_of};
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::planner;
use crate::domain::recovery::refusal::excerpt;

use crate::app::api::ApiError;
use crate::app::api::dialed_reads::{DialedRead, DialedReads, within_deadline};
use crate::app::cluster::view::ClusterViews;
use crate::app::observation::poller::Poller;
use crate::app::ports::{BinlogReader, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;

/// How long binary logs are read before the result so far is shown.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// The use cases about errant transactions.
pub struct ErrantTransactions {
    /// Reads binary logs.
    pub binlogs: Arc<dyn BinlogReader>,
    /// Probes instances.
    pub poller: Arc<Poller>,
    /// The views of the clusters.
    pub views: ClusterViews,
    /// Runs the repairs.
    pub coordinator: Arc<RecoveryCoordinator>,
    /// The reads from servers that run.
    pub reads: DialedReads,
}

/// An instance compared with the primary of its cluster, both probed just now.
struct Comparison {
    view: ClusterView,
    instance: Instance,
    primary: InstanceKey,
    errant: GtidSet,
}

impl ErrantTransactions {
    /// The transactions that only this instance has, with their content.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the instance is in no cluster, [`ApiError::Unavailable`] when it or the primary does not answer,
    /// [`ApiError::Busy`] while another request reads from one of them.
    pub async fn show(&self, target: &Target) -> Result<ErrantReport, ApiError> {
        let mut read = self.reads.begin(&target.instance)?;
        within_deadline(&target.instance, self.read(target, &mut read)).await
    }

    async fn read(&self, target: &Target, read: &mut DialedRead) -> Result<ErrantReport, ApiError> {
        let comparison = self.compare(target, Some(read)).await?;
        let decoded = if comparison.errant.is_empty() {
            DecodedTransactions::default()
        } else {
            let read = self.binlogs.decode(target, &comparison.errant, READ_DEADLINE).await;
            read.unwrap_or_else(|why| DecodedTransactions {
                incomplete: Some(why),
                ..DecodedTransactions::default()
            })
        };
        let state = self.views.state();
        let identity = comparison.instance.facts.as_ref().map(|facts| &facts.identity);
        let quarantined = state
            .quarantines
            .values()
            .any(|held| held.cluster == comparison.view.cluster.id && Some(&held.identity) == identity);
        Ok(ErrantReport {
            remedies: Self::remedies(&comparison, quarantined),
            instance: comparison.instance.key,
            primary: comparison.primary,
            quarantined,
            set: comparison.errant.to_string(),
            transactions: comparison.errant.transaction_count(),
            decoded,
        })
    }

    fn remedies(comparison: &Comparison, quarantined: bool) -> Vec<String> {
        let InstanceKey { hostname, port } = &comparison.instance.key;
        let mut remedies = Vec::new();
        if !comparison.errant.is_empty() {
            for (remedy, route) in [
                (
                    Remedy::InjectEmpty,
                    format!(
                        "errant-inject-empty/{hostname}/{port}: empty transactions on {}; the data differ",
                        comparison.primary
                    ),
                ),
                (
                    Remedy::Reset,
                    format!(
                        "errant-reset/{hostname}/{port}?confirm=data-differs: removes them from the GTID sets of {}; the data differ",
                        comparison.instance.key
                    ),
                ),
            ] {
                let planned = planner::plan_errant(
                    &comparison.instance.key,
                    remedy,
                    &comparison.view.topology,
                    &comparison.view.policy,
                );
                remedies.push(match planned {
                    Ok(_) => route,
                    Err(why) => format!("not {route}: {why}"),
                });
            }
        }
        if quarantined {
            remedies.push(format!(
                "errant-forget/{hostname}/{port}: releases it as it is; it is no longer kept read-only"
            ));
        }
        remedies
    }

    /// Applies a remedy to the errant transactions of an instance. Returns the uid of the recovery that did it.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] with the reason when the remedy is refused or failed.
    pub async fn resolve(&self, target: &Target, remedy: Remedy) -> Result<String, ApiError> {
        let comparison = self.compare(target, None).await?;
        let key = &comparison.instance.key;
        let plan = planner::plan_errant(key, remedy, &comparison.view.topology, &comparison.view.policy)
            .map_err(ApiError::Conflict)?;
        let finding = Finding {
            code: Code::ErrantTransactions,
            instance: key.clone(),
            cluster: comparison.view.cluster.id.clone(),
            description: format!(
                "{key} has transactions that {} lacks: {}",
                comparison.primary,
                excerpt(&comparison.errant)
            ),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        let report = PlanReport {
            remarks: vec!["requested through the API".to_owned()],
            ..PlanReport::default()
        };
        self.coordinator
            .run_ordered_repair(comparison.view, finding, plan, report)
            .await
            .map_err(ApiError::Conflict)
    }

    /// Probes the instance before the primary: what the instance received from the primary up to then, the primary has.
    async fn compare(&self, target: &Target, read: Option<&mut DialedRead>) -> Result<Comparison, ApiError> {
        let key = &target.instance;
        self.probe(key, target).await?;
        let before = self
            .views
            .cluster_of(key)
            .ok_or_else(|| ApiError::NotFound(format!("{key} belongs to no cluster")))?;
        let primary = current_primary(&before.topology)
            .ok_or_else(|| ApiError::Unavailable(format!("the primary of {} is unknown", before.cluster.name)))?;
        if let Some(read) = read {
            read.also(&primary)?;
        }
        let source = self
            .probe(
                &primary,
                &Target {
                    instance: primary.clone(),
                    origin: target.origin.clone(),
                },
            )
            .await?;
        let view = self
            .views
            .cluster(&before.cluster.id)
            .ok_or_else(|| ApiError::NotFound(format!("{key} belongs to no cluster")))?;
        let instance = view
            .topology
            .get(key)
            .cloned()
            .ok_or_else(|| ApiError::NotFound(format!("{key} belongs to no cluster")))?;
        let own = instance
            .valid_facts()
            .ok_or_else(|| ApiError::Unavailable(format!("{key} does not answer")))?;
        let errant = errant_of(own, &source);
        Ok(Comparison {
            view,
            instance,
            primary,
            errant,
        })
    }

    async fn probe(&self, key: &InstanceKey, target: &Target) -> Result<InstanceFacts, ApiError> {
        match self.poller.probe_now(target).await.outcome {
            Ok(facts) => Ok(*facts),
            Err(failure) => Err(ApiError::Unavailable(format!("{key}: {failure}"))),
        }
    }
}
