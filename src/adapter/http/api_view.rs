//! One moment of everything, from which an answer is made: who asks twice within one answer sees the same.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::app::api::{ApiCluster, ApiError};
use crate::domain::explain::{self, Explanation};
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::intent::{Intent, Origin, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::position::ReceivedTransactions;
use crate::domain::state::{QuarantineState, State};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};

use super::context::{AppContext, Options};
use super::shape::instance::InstanceShape;

/// The clusters, the state and the clock at one moment.
pub(super) struct ApiView<'a> {
    pub(super) views: Arc<Vec<ApiCluster>>,
    pub(super) state: Arc<State>,
    pub(super) now: WallTime,
    pub(super) options: &'a Options,
    received_transactions: OnceLock<BTreeMap<ClusterId, Vec<ReceivedTransactions>>>,
}

impl<'a> ApiView<'a> {
    /// This moment.
    pub(super) fn now(app: &'a AppContext) -> Self {
        Self {
            views: app.api.clusters(),
            state: app.api.state(),
            now: app.clock.wall(),
            options: &app.options,
            received_transactions: OnceLock::new(),
        }
    }

    /// The downtime that counts for an instance now: of several the one that lasts longest.
    pub(super) fn downtime_of(&self, topology: &Topology, key: &InstanceKey) -> Option<&Wish> {
        self.state
            .intents
            .values()
            .filter(|intent| topology.resolve(&intent.instance) == key && intent.wish.is_active(self.now))
            .map(|intent| &intent.wish)
            .filter(|wish| matches!(wish, Wish::Downtime { .. }))
            .max_by_key(|wish| match wish {
                Wish::Downtime { until, .. } => until.unwrap_or(WallTime(i64::MAX)),
                Wish::Candidate { .. } => WallTime(i64::MIN),
            })
    }

    /// Whether a person or a document put an instance into downtime: they know of it, and want to be woken for the others. What a recovery
    /// left behind is for somebody to look at.
    pub(super) fn is_set_aside(&self, topology: &Topology, key: &InstanceKey) -> bool {
        let by_somebody = |intent: &&Intent| intent.origin != Origin::Recovery && intent.wish.is_active(self.now);
        self.state.intents.values().filter(by_somebody).any(|intent| {
            matches!(intent.wish, Wish::Downtime { .. }) && topology.resolve(&intent.instance) == topology.resolve(key)
        })
    }

    /// The errant transactions of an instance: of a failed primary as it was judged on its return, of others as the analysis and the
    /// planner see them. What the servers below each top hold is compared once for a scene, and only when somebody asks.
    pub(super) fn errant(&self, cluster: &ClusterId, key: &InstanceKey) -> Option<&GtidSet> {
        let held = self
            .state
            .quarantines
            .values()
            .find(|held| held.cluster == *cluster && held.instance == *key);
        if let Some(QuarantineState::Errant { set }) = held.map(|held| &held.standing) {
            return Some(set);
        }
        let compare = |view: &ApiCluster| {
            view.topology
                .tops()
                .iter()
                .map(|top| ReceivedTransactions::below(&view.topology, top))
                .collect()
        };
        let all = self.received_transactions.get_or_init(|| {
            self.views
                .iter()
                .map(|view| (view.topology.cluster.clone(), compare(view)))
                .collect()
        });
        all.get(cluster)?
            .iter()
            .find_map(|received_transactions| received_transactions.errant(key))
    }

    /// All instances with their cluster, in the order of clusters and addresses.
    pub(super) fn instances(&self) -> impl Iterator<Item = (&ApiCluster, &Instance)> {
        self.views
            .iter()
            .flat_map(|view| view.topology.instances.values().map(move |instance| (view, instance)))
    }

    /// Shapes of those instances that `wanted` takes.
    pub(super) fn shapes(&self, wanted: impl Fn(&ApiCluster, &Instance, &InstanceShape) -> bool) -> Vec<InstanceShape> {
        self.instances()
            .filter_map(|(view, instance)| {
                let shape = InstanceShape::of(self, view, instance);
                wanted(view, instance, &shape).then_some(shape)
            })
            .collect()
    }

    /// Finds an instance by its address, one of its other addresses, or a part of the host name that only one instance has.
    ///
    /// Parts are not tried for numeric addresses: `10.0.0.1` is a part of `10.0.0.12` and means another server.
    pub(super) fn find_instance(&self, key: &InstanceKey) -> Result<(&ApiCluster, &Instance), ApiError> {
        let exact = self
            .views
            .iter()
            .find_map(|view| view.topology.get(key).map(|instance| (view, instance)));
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

    /// Finds a cluster by a hint: its name, its alias, the address of an instance, a part of a host name that one instance has.
    pub(super) fn find_cluster(&self, hint: &str) -> Result<&ApiCluster, ApiError> {
        let by = |matches: &dyn Fn(&ApiCluster) -> bool| self.views.iter().find(|view| matches(view));
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

    /// What would be done if the primary of a cluster died now.
    pub(super) fn explain(&self, view: &ApiCluster) -> Explanation {
        let findings = view
            .findings
            .iter()
            .map(|judged| (&judged.finding, judged.held_back.as_ref()));
        explain::explain(&view.topology, &view.policy, findings, self.now)
    }

    /// Finds a cluster by its alias alone.
    pub(super) fn find_alias(&self, alias: &str) -> Result<&ApiCluster, ApiError> {
        self.views
            .iter()
            .find(|view| view.cluster.alias == alias || (view.cluster.alias.is_empty() && view.cluster.name == alias))
            .ok_or_else(|| ApiError::NotFound(format!("No cluster found for alias {alias}")))
    }

    /// The primary of a cluster: the recorded one, or the only top.
    pub(super) fn primary_of(view: &ApiCluster) -> Option<&Instance> {
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
