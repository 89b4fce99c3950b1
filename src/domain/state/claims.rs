//! Claims: who may act on which instances, how far a recovery got, and whom it leaves in quarantine.

use std::collections::BTreeSet;

use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::topology::ClusterId;

use super::MAX_STEPS;
use super::apply::{Change, labels, next_number};
use super::command::{Applied, Claim, Ending, RefusedCommand};
use super::record::{
    ClaimToken, Detection, Epoch, MemberId, Phase, Quarantine, QuarantineState, RecordedPrimary, Recovery, State,
    StepRecord,
};

pub(super) fn grant(
    state: &mut State,
    claim: &Claim,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let now = state.clock;
    if state.recoveries.contains_key(&claim.uid) {
        return Err(RefusedCommand::StaleClaim(claim.uid.clone()));
    }
    for recovery in state.recoveries.values().filter(|recovery| recovery.is_active()) {
        if let Some(instance) = claim
            .plan
            .instances
            .iter()
            .find(|instance| recovery.plan.instances.contains(*instance))
        {
            return Err(RefusedCommand::Locked {
                instance: instance.clone(),
                uid: recovery.uid.clone(),
            });
        }
        if recovery.plan.cluster == claim.plan.cluster {
            return Err(RefusedCommand::Locked {
                instance: claim.plan.victim.clone(),
                uid: recovery.uid.clone(),
            });
        }
    }
    let cluster = state
        .clusters
        .get_mut(&claim.plan.cluster)
        .ok_or_else(|| RefusedCommand::Unknown(format!("cluster {}", claim.plan.cluster)))?;
    if claim.plan.kind == crate::domain::recovery::plan::RecoveryKind::DeadPrimary
        && cluster
            .primary
            .as_ref()
            .is_some_and(|primary| primary.instance != claim.plan.victim)
    {
        return Err(RefusedCommand::NotPrimary(claim.plan.victim.clone()));
    }
    cluster.epoch = cluster.epoch.max(claim.above) + 1;
    let epoch = cluster.epoch;
    changes.insert(Change::Cluster(cluster.id.clone()));
    let (cluster_name, cluster_alias) = labels(state, &claim.plan.cluster);
    let id = next_number(state);
    let recovery = Recovery {
        id,
        uid: claim.uid.clone(),
        cluster_name,
        cluster_alias,
        finding: claim.finding.clone(),
        opinions: claim.opinions.clone(),
        plan: claim.plan.clone(),
        report: claim.report.clone(),
        holder: claim.holder,
        holder_name: claim.holder_name.clone(),
        epoch,
        phase: Phase::Claimed,
        started: now,
        lost_replicas: Vec::new(),
        lost: None,
        errors: Vec::new(),
        steps: Vec::new(),
        acknowledged: None,
    };
    state.recoveries.insert(claim.uid.clone(), recovery);
    changes.insert(Change::Recovery(claim.uid.clone()));
    // The claim is the detection as well: one entry less stands between a failure and its repair.
    let detection = next_number(state);
    let record = state.recoveries.get(&claim.uid);
    let (cluster_name, cluster_alias) = record
        .map(|record| (record.cluster_name.clone(), record.cluster_alias.clone()))
        .unwrap_or_default();
    state.detections.insert(
        detection,
        Detection {
            id: detection,
            finding: claim.finding.clone(),
            cluster_name,
            cluster_alias,
            at: now,
            member_name: claim.holder_name.clone(),
            held_back: None,
            recovery: Some(claim.uid.clone()),
        },
    );
    changes.insert(Change::Detection(detection));
    let token = ClaimToken {
        uid: claim.uid.clone(),
        cluster: claim.plan.cluster.clone(),
        holder: claim.holder,
        epoch,
    };
    Ok(Applied::Claimed { token })
}

pub(super) fn resume(
    state: &mut State,
    uid: &str,
    holder: MemberId,
    holder_name: &str,
    above: Epoch,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let recovery = state
        .recoveries
        .get_mut(uid)
        .filter(|recovery| recovery.is_active())
        .ok_or_else(|| RefusedCommand::StaleClaim(uid.to_owned()))?;
    let cluster = state.clusters.get_mut(&recovery.plan.cluster);
    let present = cluster.as_ref().map_or(0, |cluster| cluster.epoch);
    let epoch = present.max(recovery.epoch).max(above) + 1;
    recovery.epoch = epoch;
    recovery.holder = holder;
    holder_name.clone_into(&mut recovery.holder_name);
    if let Some(cluster) = cluster {
        cluster.epoch = epoch;
        changes.insert(Change::Cluster(cluster.id.clone()));
    }
    changes.insert(Change::Recovery(uid.to_owned()));
    let token = ClaimToken {
        uid: uid.to_owned(),
        cluster: recovery.plan.cluster.clone(),
        holder,
        epoch,
    };
    Ok(Applied::Claimed { token })
}

/// The recovery that a token still gives the right to act on.
pub(super) fn current<'a>(state: &'a mut State, token: &ClaimToken) -> Result<&'a mut Recovery, RefusedCommand> {
    state
        .recoveries
        .get_mut(&token.uid)
        .filter(|recovery| recovery.is_active() && recovery.epoch == token.epoch && recovery.holder == token.holder)
        .ok_or_else(|| RefusedCommand::StaleClaim(token.uid.clone()))
}

pub(super) fn record(state: &mut State, uid: &str, lines: &[StepRecord], changes: &mut BTreeSet<Change>) {
    for line in lines {
        let id = next_number(state);
        if let Some(recovery) = state.recoveries.get_mut(uid)
            && recovery.steps.len() < MAX_STEPS
        {
            recovery.steps.push(StepRecord { id, ..line.clone() });
        }
    }
    changes.insert(Change::Recovery(uid.to_owned()));
}

pub(super) fn end(
    state: &mut State,
    token: &ClaimToken,
    ending: &Ending,
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    let now = state.clock;
    current(state, token)?;
    record(state, &token.uid, &ending.lines, changes);
    let recovery = current(state, token)?;
    recovery.phase = Phase::Ended {
        at: now,
        successor: ending.successor.as_ref().map(|(key, _)| key.clone()),
        successful: ending.successful,
    };
    recovery.lost_replicas.clone_from(&ending.lost_replicas);
    recovery.lost.clone_from(&ending.lost);
    recovery.errors.extend(ending.errors.iter().cloned());
    let cluster_id = recovery.plan.cluster.clone();
    if let Some((instance, identity)) = &ending.successor
        && let Some(cluster) = state.clusters.get_mut(&cluster_id)
    {
        cluster.primary = Some(RecordedPrimary {
            instance: instance.clone(),
            identity: identity.clone(),
            since: now,
            epoch: token.epoch,
        });
        cluster.name = instance.to_string();
        changes.insert(Change::Cluster(cluster_id.clone()));
        pardon(state, token, identity, changes);
    }
    if let Some((instance, identity)) = &ending.quarantine {
        quarantine(state, token, instance, identity, changes);
    }
    Ok(())
}

/// A server that is opened is no longer held, whatever it was before.
pub(super) fn pardon(state: &mut State, token: &ClaimToken, identity: &Identity, changes: &mut BTreeSet<Change>) {
    let key = quarantine_key(&token.cluster, identity);
    if state.quarantines.remove(&key).is_some() {
        changes.insert(Change::Quarantine(key));
    }
}

pub(super) fn quarantine(
    state: &mut State,
    token: &ClaimToken,
    instance: &InstanceKey,
    identity: &Identity,
    changes: &mut BTreeSet<Change>,
) {
    let key = quarantine_key(&token.cluster, identity);
    let since = state.clock;
    state.quarantines.entry(key.clone()).or_insert_with(|| Quarantine {
        identity: identity.clone(),
        instance: instance.clone(),
        cluster: token.cluster.clone(),
        recovery: token.uid.clone(),
        epoch: token.epoch,
        since,
        standing: QuarantineState::Absent,
    });
    changes.insert(Change::Quarantine(key));
}

/// The key under which a server of a cluster stands in [`State::quarantines`].
pub fn quarantine_key(cluster: &ClusterId, identity: &Identity) -> String {
    format!("{cluster}/{identity}")
}
