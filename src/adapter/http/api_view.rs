//! A consistent view of clusters, state and clock. One answer is made from one view.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::app::api::ApiError;
use crate::domain::cluster_view::ClusterView;
use crate::domain::explain::{self, Explanation};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::intent::{Intent, IntentDetails, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::state::{QuarantineState, State};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use super::context::{AppContext, Options};

/// The received transactions of one cluster, compared at the first call.
type ReceivedOfCluster = (Arc<ClusterView>, OnceLock<Vec<ReceivedTransactions>>);

/// The clusters, the replicated state and the time at one moment.
pub(super) struct ApiView<'a> {
    pub(super) views: Vec<Arc<ClusterView>>,
    pub(super) state: Arc<State>,
    pub(super) now: WallTime,
    pub(super) options: &'a Options,
    remembered: &'a BTreeMap<InstanceKey, Instance>,
    received_transactions: OnceLock<BTreeMap<ClusterId, ReceivedOfCluster>>,
}

impl<'a> ApiView<'a> {
    /// The view of this moment.
    pub(super) fn now(app: &'a AppContext) -> Self {
        Self {
            views: app.api.clusters(),
            state: app.api.state(),
            now: app.clock.wall(),
            options: &app.options,
            remembered: &app.remembered,
            received_transactions: OnceLock::new(),
        }
    }

    /// The instance with the facts that an earlier process of this member saw, when nothing was seen since then.
    pub(super) fn with_remembered_facts<'i>(&self, instance: &'i Instance) -> Cow<'i, Instance> {
        instance.with_facts_of(self.remembered.get(&instance.key))
    }

    /// The active downtime of an instance. Of several, the one that ends last.
    pub(super) fn downtime_of(&self, topology: &Topology, key: &InstanceKey) -> Option<&IntentDetails> {
        self.state
            .intents
            .values()
            .filter(|intent| topology.resolve(&intent.instance) == key && intent.details.is_active(self.now))
            .map(|intent| &intent.details)
            .filter(|details| matches!(details, IntentDetails::Downtime { .. }))
            .max_by_key(|details| match details {
                IntentDetails::Downtime { until, .. } => until.unwrap_or(WallTime(i64::MAX)),
                IntentDetails::Candidate { .. } => WallTime(i64::MIN),
            })
    }

    /// Whether a person or a document put an instance into downtime. Alerts leave such an instance out. A downtime that a recovery set
    /// does not count: an operator has to look at a replica that was left behind.
    pub(super) fn is_in_requested_downtime(&self, topology: &Topology, key: &InstanceKey) -> bool {
        let is_requested = |intent: &&Intent| intent.origin != Origin::Recovery && intent.details.is_active(self.now);
        self.state.intents.values().filter(is_requested).any(|intent| {
            matches!(intent.details, IntentDetails::Downtime { .. })
                && topology.resolve(&intent.instance) == topology.resolve(key)
        })
    }

    /// The errant transactions of an instance. For a failed primary they are those found when it returned; for others, those that the
    /// analysis and the planner see. The received transactions of a cluster are compared once, at the first call.
    pub(super) fn errant(&self, cluster: &ClusterId, key: &InstanceKey) -> Option<&GtidSet> {
        let held = self
            .state
            .quarantines
            .values()
            .find(|held| held.cluster == *cluster && held.instance == *key);
        if let Some(QuarantineState::Errant { set }) = held.map(|held| &held.standing) {
            return Some(set);
        }
        let compare = |view: &ClusterView| {
            view.topology
                .tops()
                .iter()
                .map(|top| ReceivedTransactions::below(&view.topology, top))
                .collect()
        };
        let all = self.received_transactions.get_or_init(|| {
            self.views
                .iter()
                .map(|view| (view.topology.cluster.clone(), (Arc::clone(view), OnceLock::new())))
                .collect()
        });
        let (view, received_transactions) = all.get(cluster)?;
        received_transactions
            .get_or_init(|| compare(view))
            .iter()
            .find_map(|received_transactions| received_transactions.errant(key))
    }

    /// All instances with their cluster, in the order of clusters and addresses.
    pub(super) fn instances(&self) -> impl Iterator<Item = (&ClusterView, &Instance)> {
        self.views.iter().flat_map(|view| {
            view.topology
                .instances
                .values()
                .map(move |instance| (view.as_ref(), instance))
        })
    }

    /// Finds an instance by its address, by one of its aliases, or by a part of the host name that is unique.
    ///
    /// Numeric addresses must match as a whole: `10.0.0.1` is a part of `10.0.0.12` and means another server.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when no instance or more than one matches.
    pub(super) fn find_instance(&self, key: &InstanceKey) -> Result<(&ClusterView, &Instance), ApiError> {
        let exact = self
            .views
            .iter()
            .find_map(|view| view.topology.get(key).map(|instance| (view.as_ref(), instance)));
        if let Some(found) = exact {
            return Ok(found);
        }
        let unknown = || ApiError::NotFound(format!("Cannot read instance: {key}"));
        let is_numeric = key.hostname.chars().all(|c| c.is_ascii_digit() || c == '.') || key.hostname.contains(':');
        if is_numeric {
            return Err(unknown());
        }
        let mut like = self
            .instances()
            .filter(|(_, instance)| instance.key.port == key.port && instance.key.hostname.contains(&key.hostname));
        match (like.next(), like.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(unknown()),
        }
    }

    /// Finds a cluster by a hint: its name, its alias, its id, the address of an instance, or a unique part of a host name.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] without a hint, [`ApiError::NotFound`] when no cluster matches.
    pub(super) fn find_cluster(&self, hint: &str) -> Result<&ClusterView, ApiError> {
        let by = |matches: &dyn Fn(&ClusterView) -> bool| self.views.iter().map(Arc::as_ref).find(|view| matches(view));
        if hint.is_empty() {
            return Err(ApiError::BadRequest(
                "Unable to determine cluster name: no hint given".to_owned(),
            ));
        }
        by(&|view| view.cluster.name == hint)
            .or_else(|| by(&|view| view.cluster.alias == hint))
            .or_else(|| by(&|view| view.cluster.id.0 == hint))
            .or_else(|| {
                let key = InstanceKey::parse(hint, self.options.default_port).ok()?;
                self.find_instance(&key).ok().map(|(view, _)| view)
            })
            .ok_or_else(|| ApiError::NotFound(format!("Unable to determine cluster name. clusterHint={hint}")))
    }

    /// What a failover would do if the primary of a cluster failed now.
    pub(super) fn explain(&self, view: &ClusterView) -> Explanation {
        let findings = view
            .findings
            .iter()
            .map(|judged| (&judged.finding, judged.held_back.as_ref()));
        explain::explain(&view.topology, &view.policy, findings, self.now)
    }

    /// Finds a cluster by its alias alone.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when no cluster has the alias.
    pub(super) fn find_alias(&self, alias: &str) -> Result<&ClusterView, ApiError> {
        self.views
            .iter()
            .map(Arc::as_ref)
            .find(|view| view.cluster.alias == alias || (view.cluster.alias.is_empty() && view.cluster.name == alias))
            .ok_or_else(|| ApiError::NotFound(format!("No cluster found for alias {alias}")))
    }

    /// The primary of a cluster: the recorded one, otherwise the only instance without a source.
    pub(super) fn primary_of(view: &ClusterView) -> Option<&Instance> {
        let recorded = view
            .cluster
            .primary
            .as_ref()
            .and_then(|primary| view.topology.get(&primary.instance));
        recorded.or_else(|| {
            let tops = view.topology.tops();
            let mut known = tops.iter().filter_map(|key| view.topology.get(key));
            match (known.next(), known.next()) {
                (Some(only), None) => Some(only),
                _ => None,
            }
        })
    }
}
