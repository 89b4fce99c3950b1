//! Keeps the records of clusters current: creates and merges them, and records the primary. Runs on the leader.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::analysis::group;
use crate::domain::cluster_view::ClusterView;
use crate::domain::grouping;
use crate::domain::intent::Origin;
use crate::domain::recovery::left_behind;
use crate::domain::state::command::GroupChoice;
use crate::domain::state::{Applied, Command, State};
use crate::domain::topology::ClusterId;

use crate::app::cluster::view::{ClusterViews, Group};
use crate::app::ports::{Consensus, ProposeError};
use crate::app::recovery::hooks::HookRunner;

/// Aliases by pattern on the name of a cluster (`ClusterNameToAlias`). The first match counts.
#[derive(Clone, Debug, Default)]
pub struct ClusterAliases(pub Vec<(regex::Regex, String)>);

impl ClusterAliases {
    /// The alias of a cluster name, or an empty string.
    pub fn of(&self, name: &str) -> String {
        self.0
            .iter()
            .find(|(pattern, _)| pattern.is_match(name))
            .map(|(_, alias)| alias.clone())
            .unwrap_or_default()
    }
}

/// Brings the records of all clusters up to date. A command is proposed only when something differs.
pub async fn update_cluster_records(
    views: &ClusterViews,
    aliases: &ClusterAliases,
    hooks: &HookRunner,
    consensus: &Arc<dyn Consensus>,
) {
    let state = views.state();
    for Group { grouping, mut topology } in views.groups() {
        if grouping.recorded.is_empty() {
            topology.cluster = ClusterId(uuid::Uuid::new_v4().to_string());
        }
        let alias = match grouping::owner(&state, &topology) {
            Some(Origin::Document { name, .. }) => name,
            Some(Origin::Api | Origin::Recovery) | None => aliases.of(&topology.cluster_name),
        };
        let Some(mut command) = grouping::describe(&state, &grouping, &topology, &alias) else {
            continue;
        };
        note_group_choice(&mut command, &state, views, hooks, consensus);
        let description = if let Command::DescribeCluster {
            id,
            instances,
            primary,
            absorbs,
            ..
        } = &command
        {
            let primary = primary
                .as_ref()
                .map_or_else(|| String::from("not seen"), |(key, _)| key.to_string());
            let merged = if absorbs.is_empty() { "" } else { ", merged" };
            format!(
                "cluster {id} recorded: {} instances, primary {primary}{merged}",
                instances.len()
            )
        } else {
            String::from("cluster recorded")
        };
        match consensus.propose(command).await {
            Ok(Applied::Refused { why }) => warn!("record of a cluster refused: {why}"),
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => info!("{description}"),
            Err(ProposeError::NotUnderstood(_)) => {}
            Err(error) => {
                warn!("failed to record a cluster, will retry: {error}");
                return;
            }
        }
    }
}

/// When a replication group has chosen another primary, adds that to the record of the primary.
fn note_group_choice(
    command: &mut Command,
    state: &State,
    views: &ClusterViews,
    hooks: &HookRunner,
    consensus: &Arc<dyn Consensus>,
) {
    let Command::DescribeCluster {
        id,
        primary: Some((to, _)),
        chosen,
        ..
    } = command
    else {
        return;
    };
    let before = state.clusters.get(id).and_then(|cluster| cluster.primary.as_ref());
    let Some(before) = before.filter(|before| before.instance != *to) else {
        return;
    };
    let Some(view) = views.cluster(id) else { return };
    if let Some(finding) = group::choice(&view.topology, &view.policy, &before.instance, to) {
        info!(cluster = %id, "{}", finding.description);
        *chosen = Some(Box::new(GroupChoice {
            finding,
            member_name: consensus.me().name,
            hooks: hooks.after_group_choice(),
        }));
    }
}

/// Ends the downtimes of servers that recoveries left behind and that replicate again.
pub async fn end_downtimes_of_recovered_replicas(
    views: &ClusterViews,
    clusters: &[ClusterView],
    consensus: &Arc<dyn Consensus>,
) {
    let state = views.state();
    let topologies: Vec<_> = clusters.iter().map(|view| &view.topology).collect();
    for id in left_behind::ended_downtimes(&state, &topologies) {
        let instance = id.instance.clone();
        match consensus.propose(Command::EndIntent { id }).await {
            Ok(_) => info!(instance = %instance, "{instance} replicates again: ended its downtime after a recovery"),
            Err(error) => {
                warn!("failed to end the downtime of {instance}, will retry: {error}");
                return;
            }
        }
    }
}
