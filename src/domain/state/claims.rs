//! Claims: who may act on which instances, how far a recovery got, and whom it leaves in quarantine.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::gtid::GtidSet;
use crate::domain::hooks::HookLedger;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::plan::{Plan, RecoveryKind, Step};
use crate::domain::topology::ClusterId;

use super::MAX_STEPS;
use super::apply::{Change, labels, next_number};
use super::bounds::add_errors;
use super::command::{Applied, Claim, Ending, RefusedCommand};
use super::record::{
    ClaimToken, Cluster, Detection, Epoch, MemberId, Phase, Quarantine, QuarantineState, RecordedPrimary, Recovery,
    State, StepRecord,
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
    super::request::check_claim(state, &claim.plan)?;
    let ended = in_the_way(state, &claim.plan)?;
    let cluster = state
        .clusters
        .get_mut(&claim.plan.cluster)
        .ok_or_else(|| RefusedCommand::Unknown(format!("cluster {}", claim.plan.cluster)))?;
    let is_other = |primary: &RecordedPrimary| primary.instance != claim.plan.old_primary;
    if claim.plan.kind.opens_a_server() && cluster.primary.as_ref().is_some_and(is_other) {
        return Err(RefusedCommand::NotPrimary(claim.plan.old_primary.clone()));
    }
    if claim.plan.kind == RecoveryKind::NonWritablePrimary && !may_open(cluster, &state.quarantines, &claim.plan) {
        return Err(RefusedCommand::NotPrimary(claim.plan.old_primary.clone()));
    }
    // When nobody saw the old primary, its record still says who it is; without that it could not be quarantined.
    let mut plan = claim.plan.clone();
    if plan.old_primary_identity.is_none() && plan.kind.replaces_primary() {
        let recorded = cluster.primary.as_ref();
        plan.old_primary_identity = recorded
            .filter(|primary| primary.instance == plan.old_primary)
            .map(|primary| primary.identity.clone());
    }
    // Whoever is held must not be opened, whatever a member that lags behind believes.
    let held = quarantine_key(&claim.plan.cluster, &claim.plan.successor_identity);
    if claim.plan.kind == RecoveryKind::ReopenPrimary && state.quarantines.contains_key(&held) {
        return Err(RefusedCommand::NotPrimary(claim.plan.old_primary.clone()));
    }
    cluster.epoch = cluster.epoch.max(claim.above) + 1;
    let epoch = cluster.epoch;
    changes.insert(Change::Cluster(cluster.id.clone()));
    let mut owed = BTreeSet::new();
    for uid in ended {
        owed.extend(give_way(state, &uid, &claim.uid, changes));
    }
    let (cluster_name, cluster_alias) = labels(state, &claim.plan.cluster);
    let id = next_number(state);
    let recovery = Recovery {
        id,
        uid: claim.uid.clone(),
        cluster_name,
        cluster_alias,
        finding: claim.finding.clone(),
        opinions: claim.opinions.clone(),
        plan,
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
        fencing_proof: None,
        acknowledged: None,
        hooks: HookLedger::of(&claim.hooks),
        owed,
    };
    state.recoveries.insert(claim.uid.clone(), recovery);
    super::request::begin(state, &claim.plan, &claim.uid, changes);
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
            successor: None,
            hooks: HookLedger::default(),
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

/// What is kept read-only on purpose is not opened by a repair.
fn may_open(cluster: &Cluster, quarantines: &BTreeMap<String, Quarantine>, plan: &Plan) -> bool {
    let old_primary = plan.old_primary_identity.as_ref();
    let is_recorded = cluster
        .primary
        .as_ref()
        .is_some_and(|primary| Some(&primary.identity) == old_primary);
    let is_held =
        old_primary.is_some_and(|identity| quarantines.contains_key(&quarantine_key(&plan.cluster, identity)));
    is_recorded && !is_held
}

/// The running recoveries that a claim of this plan ends; none may be there that it cannot end.
fn in_the_way(state: &State, plan: &Plan) -> Result<Vec<String>, RefusedCommand> {
    let mut ended = Vec::new();
    for recovery in state.recoveries.values().filter(|recovery| recovery.is_active()) {
        let shared = plan
            .instances
            .iter()
            .find(|instance| recovery.plan.instances.contains(*instance));
        let is_same_cluster = recovery.plan.cluster == plan.cluster;
        let Some(instance) = shared.or(is_same_cluster.then_some(&plan.old_primary)) else {
            continue;
        };
        if !is_same_cluster || !plan.kind.replaces_primary() || !recovery.plan.kind.gives_way() {
            return Err(RefusedCommand::Locked {
                instance: instance.clone(),
                uid: recovery.uid.clone(),
            });
        }
        ended.push(recovery.uid.clone());
    }
    Ok(ended)
}

/// Replicas that a recovery stops before it moves them, without those that somebody had stopped before.
fn may_have_stopped(plan: &Plan) -> Vec<InstanceKey> {
    let stops = matches!(
        plan.kind,
        RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember | RecoveryKind::MatchBelow
    );
    let had_stopped = |key: &InstanceKey| plan.prior_states.get(key).is_some_and(|manner| manner.stopped);
    let moved = plan.steps.iter().filter(|_| stops).filter_map(Step::points);
    moved
        .flat_map(|(_, replicas)| replicas)
        .filter(|key| !had_stopped(key))
        .cloned()
        .collect()
}

/// Ends a recovery in favour of another one. Its actor finds its claim gone at the next proof, and its sessions are ended by the other
/// actor's, server by server, before anything is done there. Returns whom it may have stopped.
fn give_way(state: &mut State, uid: &str, to: &str, changes: &mut BTreeSet<Change>) -> Vec<InstanceKey> {
    let now = state.clock;
    let recovery = state.recoveries.get(uid);
    let owed = recovery.map_or_else(Vec::new, |recovery| may_have_stopped(&recovery.plan));
    if let Some(recovery) = state.recoveries.get_mut(uid) {
        recovery.phase = Phase::Ended {
            at: now,
            successor: None,
            successful: false,
        };
        add_errors(
            recovery,
            [format!("gave way to recovery {to}, which replaces the primary")],
        );
        // The other one's hooks tell what follows.
        recovery.hooks.close_with(&[]);
        changes.insert(Change::Recovery(uid.to_owned()));
    }
    owed
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

/// Notes whom a recovery opens, before it does. From here two primaries are possible: the old one is in quarantine before the new one
/// is opened. Another successor under the same claim is refused: the first one may be writable already.
pub(super) fn open(
    state: &mut State,
    token: &ClaimToken,
    successor: &InstanceKey,
    position: &GtidSet,
    plan: &Plan,
    fencing_proof: Option<&FencingProof>,
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    let now = state.clock;
    current(state, token)?;
    super::request::check_open(state, plan)?;
    let recovery = current(state, token)?;
    let uid = &token.uid;
    if !recovery.plan.kind.opens_a_server() {
        return Err(RefusedCommand::OutOfOrder(format!("recovery {uid} opens nobody")));
    }
    match &recovery.phase {
        Phase::Opened { successor: present, .. } if present == successor => return Ok(()),
        Phase::Opened { successor: present, .. } => {
            return Err(RefusedCommand::OutOfOrder(format!(
                "recovery {uid} has opened {present}"
            )));
        }
        Phase::Claimed | Phase::Ended { .. } => {}
    }
    recovery.phase = Phase::Opened {
        successor: successor.clone(),
        position: position.clone(),
        at: now,
    };
    recovery.plan = plan.clone();
    recovery.fencing_proof = fencing_proof.cloned();
    changes.insert(Change::Recovery(token.uid.clone()));
    // In a takeover the old primary is known to be read-only by its own word, and is needed as a replica.
    if plan.kind != RecoveryKind::Takeover
        && let Some(identity) = &plan.old_primary_identity
    {
        quarantine(state, token, &plan.old_primary, identity, changes);
    }
    pardon(state, token, &plan.successor_identity, changes);
    Ok(())
}

/// A new primary is the one of the Open entry, and there is none without it.
fn check_end(recovery: &Recovery, ending: &Ending) -> Result<(), RefusedCommand> {
    if !recovery.plan.kind.replaces_primary() {
        return Ok(());
    }
    let ended = ending.successor.as_ref().map(|(key, _)| key);
    let opened = match &recovery.phase {
        Phase::Opened { successor, .. } => Some(successor),
        Phase::Claimed | Phase::Ended { .. } => None,
    };
    if ended == opened {
        return Ok(());
    }
    let told = |key: Option<&InstanceKey>| key.map_or_else(|| "nobody".to_owned(), ToString::to_string);
    Err(RefusedCommand::OutOfOrder(format!(
        "recovery {} has opened {} and would end with {} as primary",
        recovery.uid,
        told(opened),
        told(ended)
    )))
}

pub(super) fn end(
    state: &mut State,
    token: &ClaimToken,
    ending: &Ending,
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    let now = state.clock;
    let running = current(state, token)?.clone();
    check_end(&running, ending)?;
    super::request::finish(state, &running, ending, changes);
    record(state, &token.uid, &ending.lines, changes);
    let recovery = current(state, token)?;
    recovery.phase = Phase::Ended {
        at: now,
        successor: ending.successor.as_ref().map(|(key, _)| key.clone()),
        successful: ending.successful,
    };
    recovery.lost_replicas.clone_from(&ending.lost_replicas);
    recovery.lost.clone_from(&ending.lost);
    add_errors(recovery, ending.errors.iter().cloned());
    recovery.hooks.close_with(&ending.hooks);
    let cluster_id = recovery.plan.cluster.clone();
    let old_primary = recovery.plan.old_primary.clone();
    let replaces_primary = recovery.plan.kind.replaces_primary();
    let opens_again = recovery.plan.kind == RecoveryKind::NonWritablePrimary;
    if ending.successful && recovery.plan.kind == RecoveryKind::Rejoin {
        let attached = recovery.plan.old_primary.clone();
        super::lost::regain(state, &attached, changes);
    }
    if let Some((instance, identity)) = &ending.successor
        && replaces_primary
        && let Some(cluster) = state.clusters.get_mut(&cluster_id)
    {
        cluster.primary = Some(RecordedPrimary {
            instance: instance.clone(),
            identity: identity.clone(),
            since: now,
            epoch: token.epoch,
            opened_by: Some(token.uid.clone()),
            process: None,
        });
        cluster.name = instance.to_string();
        changes.insert(Change::Cluster(cluster_id.clone()));
        pardon(state, token, identity, changes);
    }
    let is_recorded = |primary: &RecordedPrimary| primary.instance == old_primary;
    if ending.owes_opening
        && let Some(cluster) = state.clusters.get_mut(&cluster_id)
        && let Some(primary) = cluster.primary.as_mut().filter(|primary| is_recorded(primary))
    {
        // As if it had been opened and never been seen to take writes since: when it is back and takes none, it is opened.
        primary.opened_by = Some(token.uid.clone());
        primary.process = None;
        changes.insert(Change::Cluster(cluster_id.clone()));
    }
    if opens_again
        && ending.successful
        && let Some(cluster) = state.clusters.get_mut(&cluster_id)
        && let Some(primary) = &mut cluster.primary
    {
        primary.opened_by = Some(token.uid.clone());
        primary.process = None;
        changes.insert(Change::Cluster(cluster_id.clone()));
    }
    if let Some((instance, identity)) = &ending.quarantine {
        quarantine(state, token, instance, identity, changes);
        super::lost::lose(state, [instance], now, changes);
    }
    if let Some((successor, _)) = &ending.successor {
        let left = ending.lost_replicas.iter().map(|refusal| &refusal.instance);
        super::lost::lose(state, left, now, changes);
        super::lost::regain(state, successor, changes);
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
