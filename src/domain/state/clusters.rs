//! Splitting and merging clusters.

use std::collections::BTreeSet;

use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::topology::ClusterId;

use super::apply::{Change, move_to_cluster};
use super::claims::quarantine_key;
use super::command::{Command, RefusedCommand};
use super::record::{ClaimToken, Cluster, RecordedPrimary, State};

/// Refuses while a recovery of one of these clusters runs: its plan is about the cluster as it was.
pub(super) fn check_no_recovery<'a>(
    state: &State,
    clusters: impl IntoIterator<Item = &'a ClusterId>,
) -> Result<(), RefusedCommand> {
    let clusters: BTreeSet<&ClusterId> = clusters.into_iter().collect();
    let running = state
        .recoveries
        .values()
        .find(|recovery| recovery.is_active() && clusters.contains(&recovery.plan.cluster));
    match running {
        Some(recovery) => Err(RefusedCommand::Locked {
            instance: recovery.plan.old_primary.clone(),
            uid: recovery.uid.clone(),
        }),
        None => Ok(()),
    }
}

fn unknown(cluster: &ClusterId) -> RefusedCommand {
    RefusedCommand::Unknown(format!("cluster {cluster}"))
}

/// Applies [`Command::SplitCluster`]. The epoch of the new cluster is that of the old one, above which its servers were
/// never claimed.
pub(super) fn split(
    state: &mut State,
    command: &Command,
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    let Command::SplitCluster {
        from,
        id,
        head,
        primary,
        process,
        instances,
        alias,
        document,
        reason: _,
    } = command
    else {
        return Ok(());
    };
    check_no_recovery(state, [from])?;
    if state.clusters.contains_key(id) {
        return Err(RefusedCommand::OutOfOrder(format!("cluster {id} exists already")));
    }
    let now = state.clock;
    let is_held = primary
        .as_ref()
        .is_some_and(|identity| state.quarantines.contains_key(&quarantine_key(from, identity)));
    let cluster = state.clusters.get_mut(from).ok_or_else(|| unknown(from))?;
    let moved: BTreeSet<InstanceKey> = instances.intersection(&cluster.instances).cloned().collect();
    let takes_primary = |recorded: &RecordedPrimary| moved.contains(&recorded.instance);
    if !moved.contains(head) || moved.len() == cluster.instances.len() {
        return Err(RefusedCommand::OutOfOrder(format!(
            "{head} does not head a part of cluster {}",
            cluster.name
        )));
    }
    if is_held || cluster.primary.as_ref().is_some_and(takes_primary) {
        return Err(RefusedCommand::OutOfOrder(format!(
            "the recorded primary of cluster {} and servers in quarantine stay in it",
            cluster.name
        )));
    }
    cluster.instances.retain(|key| !moved.contains(key));
    let epoch = cluster.epoch;
    let recorded = primary.as_ref().map(|identity| RecordedPrimary {
        instance: head.clone(),
        identity: identity.clone(),
        since: now,
        epoch,
        opened_by: None,
        process: *process,
    });
    let new = Cluster {
        id: id.clone(),
        created_at: now,
        name: head.to_string(),
        alias: alias.clone(),
        epoch,
        instances: moved,
        primary: recorded,
        document: document.clone(),
        split_from: Some(from.clone()),
    };
    changes.insert(Change::Cluster(from.clone()));
    changes.insert(Change::Cluster(id.clone()));
    state.clusters.insert(id.clone(), new);
    Ok(())
}

/// Merges a cluster into another one. Recoveries and quarantines move with it.
pub(super) fn merge(
    state: &mut State,
    into: &ClusterId,
    from: &ClusterId,
    primary: Option<&(InstanceKey, Identity)>,
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    if into == from {
        return Err(RefusedCommand::OutOfOrder(format!("{into} is one cluster")));
    }
    check_no_recovery(state, [into, from])?;
    if !state.clusters.contains_key(into) {
        return Err(unknown(into));
    }
    let absorbed = state.clusters.remove(from).ok_or_else(|| unknown(from))?;
    let now = state.clock;
    if let Some(cluster) = state.clusters.get_mut(into) {
        cluster.created_at = cluster.created_at.min(absorbed.created_at);
        cluster.epoch = cluster.epoch.max(absorbed.epoch);
        cluster.instances.extend(absorbed.instances);
        let is_other = |(instance, _): &&(InstanceKey, Identity)| {
            let recorded = cluster.primary.as_ref();
            recorded.is_none_or(|recorded| recorded.instance != *instance)
        };
        if let Some((instance, identity)) = primary.filter(is_other) {
            cluster.name = instance.to_string();
            cluster.primary = Some(RecordedPrimary {
                instance: instance.clone(),
                identity: identity.clone(),
                since: now,
                epoch: cluster.epoch,
                opened_by: None,
                process: None,
            });
        }
    }
    move_to_cluster(state, from, into, changes);
    changes.insert(Change::Cluster(from.clone()));
    changes.insert(Change::Cluster(into.clone()));
    Ok(())
}

/// The token of a recovery in the cluster that it belongs to now: a merge may have moved it since the claim was granted.
/// In states from before merges took part in versions it is the token as it was granted.
pub(super) fn in_present_cluster(state: &State, token: &ClaimToken) -> ClaimToken {
    let present = state.recoveries.get(&token.uid).map(|recovery| &recovery.plan.cluster);
    let present = present.filter(|_| state.version >= super::command::NO_MERGE_DURING_RECOVERY);
    ClaimToken {
        cluster: present.unwrap_or(&token.cluster).clone(),
        ..token.clone()
    }
}
