//! Claims: the right to act on a set of instances, the phases of a recovery, and the quarantine that it leaves.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::gtid::GtidSet;
use crate::domain::hooks::HookProgress;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::step::Step;
use crate::domain::topology::ClusterId;

use super::MAX_STEPS;
use super::apply::{Change, labels, next_number};
use super::bounds::add_errors;
use super::clusters::in_present_cluster;
use super::command::{Applied, Claim, Ending, KEEP_RECENT_REPLACEMENTS, RefusedCommand};
use super::failed_repairs::failures_before;
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
    let ended = preempted_recoveries(state, &claim.plan)?;
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
    // When no member saw the old primary, its record still has its identity; without that it could not be quarantined.
    let mut plan = claim.plan.clone();
    if plan.old_primary_identity.is_none() && plan.kind.replaces_primary() {
        let recorded = cluster.primary.as_ref();
        plan.old_primary_identity = recorded
            .filter(|primary| primary.instance == plan.old_primary)
            .map(|primary| primary.identity.clone());
    }
    // A quarantined server must not be opened, whatever a delayed member assumes.
    let held = quarantine_key(&claim.plan.cluster, &claim.plan.successor_identity);
    if claim.plan.kind == RecoveryKind::ReopenPrimary && state.quarantines.contains_key(&held) {
        return Err(RefusedCommand::NotPrimary(claim.plan.old_primary.clone()));
    }
    cluster.epoch = cluster.epoch.max(claim.above) + 1;
    let epoch = cluster.epoch;
    changes.insert(Change::Cluster(cluster.id.clone()));
    let mut owed = BTreeSet::new();
    for uid in ended {
        owed.extend(preempt(state, &uid, &claim.uid, changes));
    }
    let (cluster_name, cluster_alias) = labels(state, &claim.plan.cluster);
    let failed_before = if state.version >= KEEP_RECENT_REPLACEMENTS {
        failures_before(state, &claim.plan)
    } else {
        0
    };
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
        hooks: HookProgress::of(&claim.hooks),
        failed_before,
        owed,
    };
    state.recoveries.insert(claim.uid.clone(), recovery);
    super::request::begin(state, &claim.plan, &claim.uid, changes);
    changes.insert(Change::Recovery(claim.uid.clone()));
    // The claim is also the detection: one entry less delays the repair of a failure.
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
            hooks: HookProgress::default(),
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

/// A server that is read-only on purpose is not opened by a repair.
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

/// The running recoveries that a claim of this plan ends. An error when one is running that it cannot end.
fn preempted_recoveries(state: &State, plan: &Plan) -> Result<Vec<String>, RefusedCommand> {
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

/// Replicas that a recovery stops before it moves them, without those that were stopped before.
fn may_have_stopped(plan: &Plan) -> Vec<InstanceKey> {
    let stops = stops_replicas_before_move(plan.kind);
    let had_stopped = |key: &InstanceKey| plan.prior_states.get(key).is_some_and(|prior| prior.stopped);
    let moved = plan.steps.iter().filter(|_| stops).filter_map(Step::new_source);
    moved
        .flat_map(|(_, replicas)| replicas)
        .filter(|key| !had_stopped(key))
        .cloned()
        .collect()
}

/// Whether a recovery of this kind stops replicas before it moves them.
fn stops_replicas_before_move(kind: RecoveryKind) -> bool {
    match kind {
        RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember | RecoveryKind::MatchBelow => true,
        RecoveryKind::DeadPrimary
        | RecoveryKind::DeadPrimaryByPosition
        | RecoveryKind::CoPrimary
        | RecoveryKind::Rejoin
        | RecoveryKind::ResolveErrant
        | RecoveryKind::Takeover
        | RecoveryKind::SemiSync
        | RecoveryKind::NonWritablePrimary
        | RecoveryKind::BootReadOnly
        | RecoveryKind::ReopenPrimary
        | RecoveryKind::Durability => false,
    }
}

/// How the error of a recovery begins that ended in favour of another one.
const IN_FAVOUR_OF: &str = "ended in favour of recovery ";

/// Whether a recovery ended in favour of a replacement of the primary. It did not fail.
pub(super) fn gave_way(recovery: &Recovery) -> bool {
    recovery.errors.iter().any(|error| error.starts_with(IN_FAVOUR_OF))
}

/// Ends a recovery in favour of another one. Its actor finds its claim invalid at the next confirmation. The actor of
/// the other recovery kills its sessions server by server before it acts there. Returns the replicas that it may have
/// stopped.
fn preempt(state: &mut State, uid: &str, to: &str, changes: &mut BTreeSet<Change>) -> Vec<InstanceKey> {
    let now = state.clock;
    let recovery = state.recoveries.get(uid);
    let owed = recovery.map_or_else(Vec::new, |recovery| may_have_stopped(&recovery.plan));
    if let Some(recovery) = state.recoveries.get_mut(uid) {
        recovery.phase = Phase::Ended {
            at: now,
            successor: None,
            successful: false,
        };
        add_errors(recovery, [format!("{IN_FAVOUR_OF}{to}, which replaces the primary")]);
        // The hooks of the other recovery report what follows.
        recovery.hooks.replace_pending(&[]);
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

/// The recovery for which a token is still the current claim.
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

/// Records the successor before it is opened. From here on two primaries are possible, so the old primary is in
/// quarantine before the new one is opened. Another successor under the same claim is refused, because the first one
/// may be writable already.
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
    // A merge may have moved the recovery to another cluster since the plan was made.
    let token = &in_present_cluster(state, token);
    let keeps_cluster = state.version >= super::command::NO_MERGE_DURING_RECOVERY;
    let recovery = current(state, token)?;
    let uid = &token.uid;
    if !recovery.plan.kind.opens_a_server() {
        return Err(RefusedCommand::OutOfOrder(format!("recovery {uid} opens no successor")));
    }
    match &recovery.phase {
        Phase::Opened { successor: present, .. } if present == successor => return Ok(()),
        Phase::Opened { successor: present, .. } => {
            return Err(RefusedCommand::OutOfOrder(format!(
                "recovery {uid} has already opened {present}"
            )));
        }
        Phase::Claimed | Phase::Ended { .. } => {}
    }
    recovery.phase = Phase::Opened {
        successor: successor.clone(),
        position: position.clone(),
        at: now,
    };
    let cluster = recovery.plan.cluster.clone();
    recovery.plan = plan.clone();
    if keeps_cluster {
        recovery.plan.cluster = cluster;
    }
    recovery.fencing_proof = fencing_proof.cloned();
    changes.insert(Change::Recovery(token.uid.clone()));
    // In a takeover the old primary is proved read-only, and is needed as a replica.
    if plan.kind != RecoveryKind::Takeover
        && let Some(identity) = &plan.old_primary_identity
    {
        quarantine(state, token, &plan.old_primary, identity, changes);
    }
    release_opened_server(state, token, &plan.successor_identity, changes);
    Ok(())
}

/// The new primary is the server of the Open entry, and there is none without that entry.
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
    let text = |key: Option<&InstanceKey>| key.map_or_else(|| "no server".to_owned(), ToString::to_string);
    Err(RefusedCommand::OutOfOrder(format!(
        "recovery {} has opened {} and would end with {} as primary",
        recovery.uid,
        text(opened),
        text(ended)
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
    let token = &in_present_cluster(state, token);
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
    recovery.hooks.replace_pending(&ending.hooks);
    let cluster_id = recovery.plan.cluster.clone();
    let old_primary = recovery.plan.old_primary.clone();
    let replaces_primary = recovery.plan.kind.replaces_primary();
    let opens_again = recovery.plan.kind == RecoveryKind::NonWritablePrimary;
    if ending.successful && recovery.plan.kind == RecoveryKind::Rejoin {
        let attached = recovery.plan.old_primary.clone();
        super::lost_replicas::clear_lost(state, &attached, changes);
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
        release_opened_server(state, token, identity, changes);
    }
    let is_recorded = |primary: &RecordedPrimary| primary.instance == old_primary;
    if ending.owes_opening
        && let Some(cluster) = state.clusters.get_mut(&cluster_id)
        && let Some(primary) = cluster.primary.as_mut().filter(|primary| is_recorded(primary))
    {
        // The record is that of a server that was opened and never seen writable since: when it answers and is
        // read-only, it is opened.
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
        super::lost_replicas::mark_lost(state, [instance], now, changes);
    }
    if let Some((successor, _)) = &ending.successor {
        let left = ending.lost_replicas.iter().map(|refusal| &refusal.instance);
        super::lost_replicas::mark_lost(state, left, now, changes);
        super::lost_replicas::clear_lost(state, successor, changes);
    }
    Ok(())
}

/// Ends the quarantine of a server that is opened.
pub(super) fn release_opened_server(
    state: &mut State,
    token: &ClaimToken,
    identity: &Identity,
    changes: &mut BTreeSet<Change>,
) {
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

/// The key of a quarantined server of a cluster in [`State::quarantines`].
pub fn quarantine_key(cluster: &ClusterId, identity: &Identity) -> String {
    format!("{cluster}/{identity}")
}
