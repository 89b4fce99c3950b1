//! `ClusterInfo`.

use serde::Serialize;

use crate::app::api::ApiCluster;

/// One cluster in a line.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::adapter::http) struct ClusterInfo {
    pub(in crate::adapter::http) cluster_name: String,
    pub(in crate::adapter::http) cluster_alias: String,
    pub(in crate::adapter::http) cluster_domain: String,
    pub(in crate::adapter::http) count_instances: usize,
    pub(in crate::adapter::http) heuristic_lag: u64,
    pub(in crate::adapter::http) has_automated_master_recovery: bool,
    pub(in crate::adapter::http) has_automated_intermediate_master_recovery: bool,
}

impl ClusterInfo {
    /// The cluster as it is now. The lag is the largest one of the replicas that answer.
    pub(in crate::adapter::http) fn of(view: &ApiCluster) -> Self {
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
            // No recovery of intermediate sources exists in this version, whatever the filters say.
            has_automated_intermediate_master_recovery: false,
        }
    }

    /// A cluster of which only the labels are known any more.
    pub(in crate::adapter::http) fn labelled(name: &str, alias: &str) -> Self {
        Self {
            cluster_name: name.to_owned(),
            cluster_alias: alias_or_name(alias, name),
            ..Self::default()
        }
    }
}

/// The alias, or the name when none was given.
pub(in crate::adapter::http) fn alias_or_name(alias: &str, name: &str) -> String {
    if alias.is_empty() {
        name.to_owned()
    } else {
        alias.to_owned()
    }
}
