//! `ClusterInfo`.

use crate::domain::cluster_view::ClusterView;
use serde::Serialize;

/// Summary of one cluster.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ClusterInfo {
    pub(crate) cluster_name: String,
    pub(crate) cluster_alias: String,
    pub(crate) cluster_domain: String,
    pub(crate) count_instances: usize,
    pub(crate) heuristic_lag: u64,
    pub(crate) has_automated_master_recovery: bool,
    pub(crate) has_automated_intermediate_master_recovery: bool,
}

impl ClusterInfo {
    /// The cluster now. The lag is the largest lag of the replicas that answer.
    pub(crate) fn of(view: &ClusterView) -> Self {
        let lag = |instance: &crate::domain::instance::Instance| {
            instance
                .is_valid()
                .then(|| instance.channel().and_then(|channel| channel.lag_seconds))
                .flatten()
        };
        Self {
            cluster_name: view.cluster.name.clone(),
            cluster_alias: alias_or_name(&view.cluster.alias, &view.cluster.name),
            cluster_domain: String::new(),
            count_instances: view.topology.instances.len(),
            heuristic_lag: view
                .topology
                .instances
                .values()
                .filter_map(lag)
                .max()
                .unwrap_or_default(),
            has_automated_master_recovery: view.automated_recovery,
            // This version has no recovery of intermediate primaries, whatever the filters are.
            has_automated_intermediate_master_recovery: false,
        }
    }

    /// A cluster of which only the labels are known.
    pub(crate) fn labelled(name: &str, alias: &str) -> Self {
        Self {
            cluster_name: name.to_owned(),
            cluster_alias: alias_or_name(alias, name),
            ..Self::default()
        }
    }
}

/// The alias, or the name when there is no alias.
pub(crate) fn alias_or_name(alias: &str, name: &str) -> String {
    if alias.is_empty() {
        name.to_owned()
    } else {
        alias.to_owned()
    }
}
