//! Keeps the records of clusters up to date: mints, merges, notes the primary. Runs on the leader.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::analysis::group;
use crate::domain::grouping;
use crate::domain::intent::Origin;
use crate::domain::recovery::lost;
use crate::domain::state::command::GroupChoice;
use crate::domain::state::{Applied, Command, State};
use crate::domain::topology::ClusterId;

use crate::app::cluster::view::{ClusterView, ClusterViews, Group};
use crate::app::ports::{Consensus, ProposeError};
use crate::app::recovery::hooks::HookRunner;

/// Aliases by pattern on the cluster's name (`ClusterNameToAlias`); the first match counts.
#[derive(Clone, Debug, Default)]
pub struct Aliases(pub Vec<(regex::Regex, String)>);

impl Aliases {
    /// The alias of a cluster name, or an empty text.
    pub fn of(&self, name: &str) -> String {
        self.0
            .iter()
            .find(|(pattern, _)| pattern.is_match(name))
            .map(|(_, alias)| alias.clone())
            .unwrap_or_default()
    }
}

/// Brings the records of all groups up to date. Each command is proposed only when something differs.
pub async fn keep_records(views: &ClusterViews, aliases: &Aliases, hooks: &HookRunner, consensus: &Arc<dyn Consensus>) {
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
        tell_choice(&mut command, &state, views, hooks, consensus);
        let told = if let Command::DescribeCluster {
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
            format!("cluster {id}: {} instances, primary {primary}{merged}", instances.len())
        } else {
            String::from("a cluster")
        };
        match consensus.propose(command).await {
            Ok(Applied::Refused { why }) => warn!("cluster record refused: {why}"),
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => info!("{told}"),
            Err(ProposeError::NotUnderstood(_)) => {}
            Err(error) => {
                warn!("cluster record not written: {error}");
                return;
            }
        }
    }
}

/// Adds to the record of another primary that its replication group has chosen it, when that is so.
fn tell_choice(
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

/// Ends the downtimes of servers that recoveries left behind and that are well again.
pub async fn end_downtimes(views: &ClusterViews, clusters: &[ClusterView], consensus: &Arc<dyn Consensus>) {
    let state = views.state();
    let topologies: Vec<_> = clusters.iter().map(|view| &view.topology).collect();
    for id in lost::over(&state, &topologies) {
        let instance = id.instance.clone();
        match consensus.propose(Command::EndIntent { id }).await {
            Ok(_) => info!(instance = %instance, "{instance} is well again: its downtime after a recovery is over"),
            Err(error) => {
                warn!("the end of a downtime of {instance} was not written: {error}");
                return;
            }
        }
    }
}
