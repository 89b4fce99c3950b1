//! Errant transactions: shown with what is in them, and dealt with as a person asks, under a claim like any other repair.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::analysis::current_primary;
use crate::domain::errant::{Decoded, ErrantReport, Remedy, errant_of};
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::candidate::excerpt;
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::planner;

use crate::app::api::ApiError;
use crate::app::cluster::view::{ClusterView, ClusterViews};
use crate::app::observation::poller::Poller;
use crate::app::ports::{BinlogReader, Target};
use crate::app::recovery::coordinator::RecoveryCoordinator;

/// How long binary logs are read before what was found is shown.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// What handles errant transactions.
pub struct ErrantTransactions {
    /// Reads binary logs.
    pub binlogs: Arc<dyn BinlogReader>,
    /// Asks servers anew.
    pub poller: Arc<Poller>,
    /// ClusterViews of clusters.
    pub views: ClusterViews,
    /// Runs what was asked for.
    pub coordinator: Arc<RecoveryCoordinator>,
}

/// A server and the primary that it is compared with, both asked just now.
struct Pair {
    view: ClusterView,
    instance: Instance,
    primary: InstanceKey,
    errant: GtidSet,
}

impl ErrantTransactions {
    /// What only this server has, and what is in it.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when the server is in no cluster, [`ApiError::Unavailable`] when it or the primary does not answer.
    pub async fn show(&self, target: &Target) -> Result<ErrantReport, ApiError> {
        let pair = self.compare(target).await?;
        let decoded = if pair.errant.is_empty() {
            Decoded::default()
        } else {
            let read = self.binlogs.decode(target, &pair.errant, READ_DEADLINE).await;
            read.unwrap_or_else(|why| Decoded {
                incomplete: Some(why),
                ..Decoded::default()
            })
        };
        let state = self.views.state();
        let identity = pair.instance.facts.as_ref().map(|facts| &facts.identity);
        let quarantined = state
            .quarantines
            .values()
            .any(|held| held.cluster == pair.view.cluster.id && Some(&held.identity) == identity);
        Ok(ErrantReport {
            remedies: Self::remedies(&pair, quarantined),
            instance: pair.instance.key,
            primary: pair.primary,
            quarantined,
            set: pair.errant.to_string(),
            transactions: pair.errant.transaction_count(),
            decoded,
        })
    }

    fn remedies(pair: &Pair, quarantined: bool) -> Vec<String> {
        let InstanceKey { hostname, port } = &pair.instance.key;
        let mut remedies = Vec::new();
        if !pair.errant.is_empty() {
            for (remedy, route) in [
                (
                    Remedy::InjectEmpty,
                    format!(
                        "errant-inject-empty/{hostname}/{port}: empty transactions on {}; the data differ",
                        pair.primary
                    ),
                ),
                (
                    Remedy::Reset,
                    format!(
                        "errant-reset/{hostname}/{port}?confirm=data-differs: {} forgets them; the data differ",
                        pair.instance.key
                    ),
                ),
            ] {
                let planned = planner::plan_errant(&pair.instance.key, remedy, &pair.view.topology, &pair.view.policy);
                remedies.push(match planned {
                    Ok(_) => route,
                    Err(why) => format!("not {route}: {why}"),
                });
            }
        }
        if quarantined {
            remedies.push(format!(
                "errant-forget/{hostname}/{port}: lets it go as it is; nothing keeps it read-only then"
            ));
        }
        remedies
    }

    /// Deals with the errant transactions of a server. Returns the uid of the recovery that did it.
    ///
    /// # Errors
    /// [`ApiError::Conflict`] with the reason when it cannot, or must not, be done, or failed.
    pub async fn resolve(&self, target: &Target, remedy: Remedy) -> Result<String, ApiError> {
        let pair = self.compare(target).await?;
        let key = &pair.instance.key;
        let plan =
            planner::plan_errant(key, remedy, &pair.view.topology, &pair.view.policy).map_err(ApiError::Conflict)?;
        let finding = Finding {
            code: Code::ErrantTransactions,
            instance: key.clone(),
            cluster: pair.view.cluster.id.clone(),
            description: format!(
                "{key} has transactions that {} lacks: {}",
                pair.primary,
                excerpt(&pair.errant)
            ),
            evidence: Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        let report = PlanReport {
            remarks: vec!["asked for through the API".to_owned()],
            ..PlanReport::default()
        };
        self.coordinator
            .carry_out(pair.view, finding, plan, report)
            .await
            .map_err(ApiError::Conflict)
    }

    /// The server first: what it got from the primary meanwhile, the primary has then.
    async fn compare(&self, target: &Target) -> Result<Pair, ApiError> {
        let key = &target.instance;
        self.look(key, target).await?;
        let place = |view: &ClusterView| view.topology.get(key).is_some();
        let before = self
            .views
            .clusters()
            .into_iter()
            .find(place)
            .ok_or_else(|| ApiError::NotFound(format!("{key} belongs to no cluster")))?;
        let primary = current_primary(&before.topology)
            .ok_or_else(|| ApiError::Unavailable(format!("the primary of {} is unknown", before.cluster.name)))?;
        let source = self
            .look(
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
        Ok(Pair {
            view,
            instance,
            primary,
            errant,
        })
    }

    async fn look(&self, key: &InstanceKey, target: &Target) -> Result<InstanceFacts, ApiError> {
        match self.poller.look(target).await.outcome {
            Ok(facts) => Ok(*facts),
            Err(failure) => Err(ApiError::Unavailable(format!("{key}: {failure}"))),
        }
    }
}
