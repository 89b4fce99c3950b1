//! Keeps the records of clusters current: creates, merges and splits them, and records the primary. Runs on the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::domain::analysis::group;
use crate::domain::cluster_split::{self, Division, SplitDwell};
use crate::domain::cluster_view::ClusterView;
use crate::domain::grouping;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::ownership;
use crate::domain::recovery::left_behind;
use crate::domain::state::command::GroupChoice;
use crate::domain::state::{Applied, Command, State};
use crate::domain::topology::{ClusterId, Topology};

use crate::app::cluster::groups::Group;
use crate::app::cluster::view::ClusterViews;
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

/// Held while records are compared with what is seen and proposed: a record that is made from a view before a split
/// would undo the split. Clones share the lock.
#[derive(Clone, Debug, Default)]
pub struct RecordsLock(Arc<Mutex<()>>);

impl RecordsLock {
    /// Waits until no other task of this member changes records of clusters.
    pub async fn lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.lock().await
    }
}

/// What one pass over the records leaves for the next one.
#[derive(Debug, Default)]
pub struct DescribedGroups {
    /// The groups with records that were found up to date with `state`, each by its first address.
    groups: BTreeMap<InstanceKey, Arc<Group>>,
    state: Arc<State>,
    /// For how long clusters look like two.
    dwell: SplitDwell,
}

/// Brings the records of all clusters up to date. A command is proposed only when something differs. A group that did
/// not change since the same state is not compared with its record again.
pub async fn update_cluster_records(
    views: &ClusterViews,
    aliases: &ClusterAliases,
    hooks: &HookRunner,
    consensus: &Arc<dyn Consensus>,
    lock: &RecordsLock,
    described: &mut DescribedGroups,
) {
    let _held = lock.lock().await;
    let state = views.state();
    let groups = views.groups();
    let present: BTreeSet<ClusterId> = groups.iter().map(|group| group.topology.cluster.clone()).collect();
    described.dwell.keep(&present);
    let known = std::mem::take(&mut described.groups);
    let is_same_state = Arc::ptr_eq(&described.state, &state);
    described.state = Arc::clone(&state);
    for group in groups.iter() {
        let Some(first) = group.grouping.instances.first() else {
            continue;
        };
        if is_same_state && known.get(first).is_some_and(|known| Arc::ptr_eq(known, group)) {
            described.groups.insert(first.clone(), Arc::clone(group));
            continue;
        }
        let Group { grouping, topology, .. } = group.as_ref();
        let mut topology = Topology {
            taken: views.now(),
            ..topology.clone()
        };
        // A cluster that looks like two is looked at again, whether anything changes or not: it becomes two with time.
        let mut may_divide = false;
        if grouping.recorded.len() == 1 {
            match split_when_divided(&state, &topology, &mut described.dwell, consensus).await {
                SplitCheck::One => {}
                SplitCheck::Divided => may_divide = true,
                SplitCheck::Proposed => continue,
            }
        }
        if grouping.recorded.is_empty() {
            topology.cluster = ClusterId(uuid::Uuid::new_v4().to_string());
        }
        let alias = match ownership::owner(&state, &topology) {
            Some(Origin::Document { name, .. }) => name,
            Some(Origin::Api | Origin::Recovery) | None => aliases.of(&topology.cluster_name),
        };
        let Some(mut command) = grouping::describe(&state, grouping, &topology, &alias) else {
            if !may_divide {
                described.groups.insert(first.clone(), Arc::clone(group));
            }
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

/// What the check of a cluster for a division led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SplitCheck {
    /// It is one cluster.
    One,
    /// It has several writable primaries, and stays one for now.
    Divided,
    /// Commands that split it were proposed.
    Proposed,
}

/// Makes clusters of the halves of a cluster that has become several.
async fn split_when_divided(
    state: &State,
    topology: &Topology,
    dwell: &mut SplitDwell,
    consensus: &Arc<dyn Consensus>,
) -> SplitCheck {
    let cluster = &topology.cluster;
    let halves = match cluster_split::division(state, topology, topology.taken) {
        Division::One => {
            dwell.forget(cluster);
            return SplitCheck::One;
        }
        Division::Held { why } => {
            if dwell.hold(cluster, &why) {
                info!(%cluster, "cluster {} has several writable primaries and stays one: {why}", topology.cluster_name);
            }
            return SplitCheck::Divided;
        }
        Division::Halves(halves) => halves,
    };
    if !dwell.is_ripe(topology, &halves, topology.taken) {
        return SplitCheck::Divided;
    }
    dwell.forget(cluster);
    for half in &halves.apart {
        let id = ClusterId(uuid::Uuid::new_v4().to_string());
        let reason = format!(
            "{} replicas work below {} by themselves",
            half.instances.len() - 1,
            half.head
        );
        let command = cluster_split::command(state, topology, half, id.clone(), &reason);
        match consensus.propose(command).await {
            Ok(Applied::Refused { why }) => warn!("split of a cluster refused: {why}"),
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => info!(
                %cluster,
                "cluster {} was split: {} instances with the primary {} are cluster {id} now",
                topology.cluster_name,
                half.instances.len(),
                half.head,
            ),
            Err(ProposeError::NotUnderstood(_)) => return SplitCheck::Divided,
            Err(error) => {
                warn!("failed to split a cluster, will retry: {error}");
                return SplitCheck::Proposed;
            }
        }
    }
    SplitCheck::Proposed
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
    clusters: &[Arc<ClusterView>],
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
