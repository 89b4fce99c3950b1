//! Applying a command: (state, proposal) → (state, result, changed records).

use std::collections::BTreeSet;

use crate::domain::hooks::HookProgress;
use crate::domain::intent::{IntentId, IntentKind, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

use super::claims::{current, end, grant, open, quarantine_key, record, resume};
use super::command::{
    Applied, COMMAND_VERSION, Command, GroupChoice, NO_MERGE_DURING_RECOVERY, Proposal, RefusedCommand,
};
use super::record::{Cluster, Detection, Epoch, MemberId, QuarantineState, RecordedPrimary, Recovery, State};
use super::{MAX_SEEDS, bounds};
use super::{audit, clusters, hooks};

/// A record that a command changed. The store writes it when the state has it, and deletes its row otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Group, clock, numbers, switches.
    Meta,
    /// All seeds.
    Seeds,
    /// A forgotten address.
    Forgotten(InstanceKey),
    /// A cluster.
    Cluster(ClusterId),
    /// An intent.
    Intent(IntentId),
    /// A document.
    Document(Origin),
    /// A recovery.
    Recovery(String),
    /// A quarantined server.
    Quarantine(String),
    /// A detection.
    Detection(u64),
    /// A request of a document.
    Request(String),
    /// A blocked recovery.
    Blocked(InstanceKey),
    /// A member.
    Member(MemberId),
    /// An entry of the audit.
    Audit(u64),
}

/// Applies a proposal. Members that apply the same proposals in the same order have the same state.
///
/// The changes are complete and ordered: writing them, and nothing else, brings a stored copy to the new state.
pub fn apply(state: &mut State, proposal: &Proposal) -> (Applied, BTreeSet<Change>) {
    let mut changes = BTreeSet::new();
    if proposal.version > COMMAND_VERSION {
        return (
            Applied::Refused {
                why: RefusedCommand::TooNew(proposal.version),
            },
            changes,
        );
    }
    if matches!(proposal.command, Command::CorrectClock { .. }) {
        super::clock::correct(state, proposal.at, &mut changes);
    } else {
        state.clock = state.clock.max(proposal.at);
    }
    state.version = state.version.max(proposal.version);
    changes.insert(Change::Meta);
    let text = audit::draft_for_command(state, &proposal.command);
    let applied = match run(state, &proposal.command, proposal.version, &mut changes) {
        Ok(applied) => applied,
        Err(why) => Applied::Refused { why },
    };
    if let Some(text) = text.filter(|_| audit::had_effect(&applied)) {
        audit::write(state, text, &mut changes);
    }
    expire(state, &mut changes);
    (applied, changes)
}

#[expect(clippy::too_many_lines, reason = "one arm for each command")]
fn run(
    state: &mut State,
    command: &Command,
    version: u32,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let now = state.clock;
    match command {
        Command::FoundGroup { group } => match &state.group {
            Some(present) if present != group => return Err(RefusedCommand::OtherGroup(present.uuid.clone())),
            _ => state.group = Some(group.clone()),
        },
        Command::AllocateMember { name: _, above } => {
            state.last_number = state.last_number.max(*above);
            return Ok(Applied::Number {
                number: next_number(state),
            });
        }
        Command::AnnounceMember { member } => {
            state.members.insert(member.id, member.clone());
            changes.insert(Change::Member(member.id));
        }
        Command::Discover { seed } => {
            if state.seeds.len() >= MAX_SEEDS && !state.seeds.contains(seed) {
                return Err(RefusedCommand::TooMany(format!("seeds, {MAX_SEEDS}")));
            }
            state.forgotten.remove(&seed.instance);
            state.seeds.insert(seed.clone());
            changes.insert(Change::Seeds);
            changes.insert(Change::Forgotten(seed.instance.clone()));
        }
        Command::Forget { instance, until } => forget(state, instance, *until, changes)?,
        Command::DescribeCluster { id, absorbs, .. } => {
            if version >= NO_MERGE_DURING_RECOVERY && !absorbs.is_empty() {
                clusters::check_no_recovery(state, std::iter::once(id).chain(absorbs))?;
            }
            describe_cluster(state, command, changes);
        }
        Command::SplitCluster { .. } => clusters::split(state, command, changes)?,
        Command::MergeClusters {
            into,
            from,
            primary,
            reason: _,
        } => clusters::merge(state, into, from, primary.as_ref(), changes)?,
        Command::ForgetGone {
            instance,
            until,
            reason: _,
        } => {
            forget(state, instance, *until, changes)?;
            end_quarantines(state, instance, changes);
        }
        Command::RecordUnseen { unseen, seen } => record_unseen(state, unseen, seen),
        Command::SetIntent { intent } => {
            changes.insert(Change::Intent(intent.id()));
            state.intents.insert(intent.id(), intent.clone());
        }
        Command::EndIntent { id } => end_intent(state, id, changes)?,
        Command::PutDocument { document } => {
            changes.insert(Change::Document(document.origin.clone()));
            state
                .documents
                .insert(document.origin.clone(), document.as_ref().clone());
        }
        Command::WithdrawDocument { origin } => withdraw(state, origin, changes),
        Command::SetGlobalRecoveries { enabled } => {
            state.recoveries_disabled = !enabled;
            if *enabled {
                state.quorum_forced = None;
            }
        }
        Command::ForceQuorum { .. } => force_quorum(state, changes),
        Command::RecordDetection {
            finding,
            member_name,
            held_back,
            hooks,
        } => {
            let id = next_number(state);
            let (cluster_name, cluster_alias) = labels(state, &finding.cluster);
            let detection = Detection {
                id,
                finding: finding.as_ref().clone(),
                cluster_name,
                cluster_alias,
                at: now,
                member_name: member_name.clone(),
                held_back: held_back.clone(),
                recovery: None,
                successor: None,
                hooks: HookProgress::of(hooks),
            };
            state.detections.insert(id, detection);
            changes.insert(Change::Detection(id));
            return Ok(Applied::Number { number: id });
        }
        Command::Claim { claim } => return grant(state, claim, changes),
        Command::Resume {
            uid,
            holder,
            holder_name,
            above,
        } => return resume(state, uid, *holder, holder_name, *above, changes),
        Command::Open {
            token,
            successor,
            position,
            plan,
            fencing_proof,
        } => {
            open(state, token, successor, position, plan, fencing_proof.as_ref(), changes)?;
        }
        Command::Record { token, lines } => {
            current(state, token)?;
            record(state, &token.uid, lines, changes);
        }
        Command::End { token, ending } => end(state, token, ending, changes)?,
        Command::SetQuarantineStanding {
            quarantine,
            instance,
            standing,
        } => {
            let record = state
                .quarantines
                .get_mut(quarantine)
                .ok_or_else(|| RefusedCommand::Unknown(quarantine.clone()))?;
            record.instance = instance.clone();
            record.standing = standing.clone();
            // The transactions that only the returned primary has are exactly what was lost.
            if let QuarantineState::Errant { set } = standing
                && let Some(recovery) = state.recoveries.get_mut(&record.recovery)
            {
                recovery.lost = Some(set.clone());
                changes.insert(Change::Recovery(recovery.uid.clone()));
            }
            changes.insert(Change::Quarantine(quarantine.clone()));
        }
        Command::Release { quarantine, reason: _ } => {
            let released = state
                .quarantines
                .remove(quarantine)
                .ok_or_else(|| RefusedCommand::Unknown(quarantine.clone()))?;
            // In the same entry, because the primary may fail a moment later when this server is the only possible
            // successor.
            super::lost_replicas::clear_lost(state, &released.instance, changes);
            changes.insert(Change::Quarantine(quarantine.clone()));
        }
        Command::Acknowledge { uids, acknowledgement } => {
            let mut count = 0;
            for uid in uids {
                if let Some(recovery) = state.recoveries.get_mut(uid)
                    && recovery.acknowledged.is_none()
                {
                    recovery.acknowledged = Some(acknowledgement.clone());
                    changes.insert(Change::Recovery(uid.clone()));
                    count += 1;
                }
            }
            return Ok(Applied::Number { number: count });
        }
        Command::HooksBegin { subject, list } => return hooks::begin(state, subject, *list, changes),
        Command::HooksRan { subject, run, lines } => hooks::ran(state, subject, run, lines, changes)?,
        Command::Request { request } => return super::request::ask(state, request, changes),
        Command::CancelRequest { key, why } => return super::request::cancel(state, key, why, changes),
        Command::SettleRequest { key, outcome, why } => {
            return super::request::settle(state, key, *outcome, why, changes);
        }
        // Done before anything else, because the audit entry has the new time.
        Command::CorrectClock { .. } => {}
        Command::Block { blocked } => {
            changes.insert(Change::Blocked(blocked.instance.clone()));
            state.blocked.insert(blocked.instance.clone(), blocked.clone());
        }
    }
    Ok(Applied::Done)
}

/// How far numbers and epochs are raised when the majority is lost with its log: above what it may have assigned
/// unseen.
const FORCED_QUORUM_GAP: u64 = 1000;

/// Transactions of the lost members may be missing in this log. Numbers and epochs are therefore raised above theirs,
/// and recoveries stay disabled until an operator enables them.
fn force_quorum(state: &mut State, changes: &mut BTreeSet<Change>) {
    state.last_number = state.last_number.saturating_add(FORCED_QUORUM_GAP);
    for cluster in state.clusters.values_mut() {
        cluster.epoch = cluster.epoch.saturating_add(FORCED_QUORUM_GAP);
        changes.insert(Change::Cluster(cluster.id.clone()));
    }
    state.recoveries_disabled = true;
    state.quorum_forced = Some(state.clock);
}

pub(super) fn next_number(state: &mut State) -> u64 {
    state.last_number += 1;
    state.last_number
}

pub(super) fn labels(state: &State, cluster: &ClusterId) -> (String, String) {
    state.clusters.get(cluster).map_or_else(
        || (String::new(), String::new()),
        |cluster| {
            (
                cluster.name.clone(),
                if cluster.alias.is_empty() {
                    cluster.name.clone()
                } else {
                    cluster.alias.clone()
                },
            )
        },
    )
}

/// Refused while a recovery involves the server, because the recovery would lose its record.
fn forget(
    state: &mut State,
    instance: &InstanceKey,
    until: WallTime,
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    let needs = |recovery: &&Recovery| {
        let plan = &recovery.plan;
        recovery.is_active()
            && (plan.instances.contains(instance) || plan.old_primary == *instance || plan.successor == *instance)
    };
    if let Some(recovery) = state.recoveries.values().find(needs) {
        return Err(RefusedCommand::Locked {
            instance: instance.clone(),
            uid: recovery.uid.clone(),
        });
    }
    state.seeds.retain(|seed| seed.instance != *instance);
    state.forgotten.insert(instance.clone(), until);
    state.unseen.remove(instance);
    for cluster in state.clusters.values_mut() {
        if cluster.instances.remove(instance) {
            changes.insert(Change::Cluster(cluster.id.clone()));
        }
    }
    let emptied: Vec<ClusterId> = state
        .clusters
        .values()
        .filter(|cluster| cluster.instances.is_empty())
        .map(|cluster| cluster.id.clone())
        .collect();
    for id in emptied {
        state.clusters.remove(&id);
        changes.insert(Change::Cluster(id));
    }
    changes.insert(Change::Seeds);
    changes.insert(Change::Forgotten(instance.clone()));
    Ok(())
}

/// Ends the quarantines of the server at an address.
fn end_quarantines(state: &mut State, instance: &InstanceKey, changes: &mut BTreeSet<Change>) {
    let ended: Vec<String> = state
        .quarantines
        .iter()
        .filter(|(_, held)| held.instance == *instance)
        .map(|(key, _)| key.clone())
        .collect();
    for key in ended {
        state.quarantines.remove(&key);
        changes.insert(Change::Quarantine(key));
    }
}

/// Addresses that neither a cluster nor a quarantine has any more are dropped with it.
fn record_unseen(state: &mut State, unseen: &BTreeSet<InstanceKey>, seen: &BTreeSet<InstanceKey>) {
    for key in unseen {
        state.unseen.entry(key.clone()).or_insert(state.clock);
    }
    let subjects = crate::domain::unseen::subjects(state);
    state
        .unseen
        .retain(|key, _| !seen.contains(key) && subjects.contains(key));
}

fn describe_cluster(state: &mut State, command: &Command, changes: &mut BTreeSet<Change>) {
    let Command::DescribeCluster {
        id,
        instances,
        primary,
        process,
        alias,
        absorbs,
        document,
        chosen,
    } = command
    else {
        return;
    };
    let now = state.clock;
    let mut created_at = now;
    let mut epoch: Epoch = 0;
    for absorbed in absorbs {
        if let Some(cluster) = state.clusters.remove(absorbed) {
            created_at = created_at.min(cluster.created_at);
            epoch = epoch.max(cluster.epoch);
            changes.insert(Change::Cluster(absorbed.clone()));
        }
        move_to_cluster(state, absorbed, id, changes);
    }
    for cluster in state.clusters.values_mut().filter(|cluster| cluster.id != *id) {
        let before = cluster.instances.len();
        cluster.instances.retain(|key| !instances.contains(key));
        if cluster.instances.len() != before {
            changes.insert(Change::Cluster(cluster.id.clone()));
        }
    }
    let recovering = state
        .recoveries
        .values()
        .any(|recovery| recovery.is_active() && recovery.plan.cluster == *id);
    // Earlier names of the cluster.
    let known_as = labels(state, id);
    let mut replaced = None;
    let cluster = state.clusters.entry(id.clone()).or_insert_with(|| Cluster {
        id: id.clone(),
        created_at,
        name: String::new(),
        alias: String::new(),
        epoch,
        instances: BTreeSet::new(),
        primary: None,
        document: None,
        split_from: None,
    });
    cluster.created_at = cluster.created_at.min(created_at);
    cluster.epoch = cluster.epoch.max(epoch);
    cluster.instances.clone_from(instances);
    cluster.document.clone_from(document);
    if !alias.is_empty() {
        cluster.alias.clone_from(alias);
    }
    // While a recovery runs, only its own entries change the recorded primary.
    if let Some((instance, identity)) = primary
        && !recovering
    {
        let same = cluster
            .primary
            .as_mut()
            .filter(|present| present.instance == *instance && present.identity == *identity);
        match same {
            Some(present) => present.process = process.or(present.process),
            None => {
                replaced = cluster.primary.replace(RecordedPrimary {
                    instance: instance.clone(),
                    identity: identity.clone(),
                    since: now,
                    epoch: cluster.epoch,
                    opened_by: None,
                    process: *process,
                });
            }
        }
        cluster.name = instance.to_string();
    } else if cluster.name.is_empty() {
        cluster.name = instances.first().map(ToString::to_string).unwrap_or_default();
    }
    changes.insert(Change::Cluster(id.clone()));
    if let (Some(_), Some(choice), Some((successor, _))) = (replaced, chosen, primary) {
        record_group_choice(state, choice, known_as, successor, changes);
    }
}

/// Records the detection that a replication group chose another primary, in the entry that records the primary, so that
/// it is reported once.
fn record_group_choice(
    state: &mut State,
    choice: &GroupChoice,
    (cluster_name, cluster_alias): (String, String),
    successor: &InstanceKey,
    changes: &mut BTreeSet<Change>,
) {
    let id = next_number(state);
    let detection = Detection {
        id,
        finding: choice.finding.clone(),
        cluster_name,
        cluster_alias,
        at: state.clock,
        member_name: choice.member_name.clone(),
        held_back: None,
        recovery: None,
        successor: Some(successor.clone()),
        hooks: HookProgress::of(&choice.hooks),
    };
    state.detections.insert(id, detection);
    changes.insert(Change::Detection(id));
}

/// Moves recoveries and quarantines of a merged cluster to the id of the remaining cluster.
pub(super) fn move_to_cluster(state: &mut State, from: &ClusterId, to: &ClusterId, changes: &mut BTreeSet<Change>) {
    for recovery in state
        .recoveries
        .values_mut()
        .filter(|recovery| recovery.plan.cluster == *from)
    {
        recovery.plan.cluster = to.clone();
        recovery.finding.cluster = to.clone();
        changes.insert(Change::Recovery(recovery.uid.clone()));
    }
    let moved: Vec<String> = state
        .quarantines
        .iter()
        .filter(|(_, held)| held.cluster == *from)
        .map(|(key, _)| key.clone())
        .collect();
    for key in moved {
        if let Some(mut held) = state.quarantines.remove(&key) {
            changes.insert(Change::Quarantine(key));
            held.cluster = to.clone();
            let key = quarantine_key(to, &held.identity);
            changes.insert(Change::Quarantine(key.clone()));
            state.quarantines.insert(key, held);
        }
    }
}

fn end_intent(state: &mut State, id: &IntentId, changes: &mut BTreeSet<Change>) -> Result<(), RefusedCommand> {
    if state.intents.remove(id).is_some() {
        changes.insert(Change::Intent(id.clone()));
        return Ok(());
    }
    if id.origin == Origin::Api && id.kind == IntentKind::Downtime {
        // The intent of a recovery can be ended through any origin, because a recovery cannot be asked to end it.
        super::lost_replicas::clear_lost(state, &id.instance, changes);
    }
    let others = state
        .intents
        .keys()
        .find(|other| other.kind == id.kind && other.instance == id.instance);
    match others {
        Some(other) => Err(RefusedCommand::OwnedBy(other.origin.clone())),
        None => Ok(()),
    }
}

fn withdraw(state: &mut State, origin: &Origin, changes: &mut BTreeSet<Change>) {
    state.documents.remove(origin);
    changes.insert(Change::Document(origin.clone()));
    let intents: Vec<IntentId> = state
        .intents
        .keys()
        .filter(|id| id.origin == *origin)
        .cloned()
        .collect();
    for id in intents {
        state.intents.remove(&id);
        changes.insert(Change::Intent(id));
    }
    super::request::withdraw(state, origin, changes);
    for cluster in state
        .clusters
        .values_mut()
        .filter(|cluster| cluster.document.as_ref() == Some(origin))
    {
        cluster.document = None;
        changes.insert(Change::Cluster(cluster.id.clone()));
    }
}

/// Drops expired records: bounded lists, forgotten addresses, intents. Other intents stay until their origin ends them.
fn expire(state: &mut State, changes: &mut BTreeSet<Change>) {
    let now = state.clock;
    let over: Vec<InstanceKey> = state
        .forgotten
        .iter()
        .filter(|(_, until)| **until <= now)
        .map(|(key, _)| key.clone())
        .collect();
    for key in over {
        state.forgotten.remove(&key);
        changes.insert(Change::Forgotten(key));
    }
    let stale: Vec<IntentId> = state
        .intents
        .values()
        .filter(|intent| matches!(intent.origin, Origin::Api | Origin::Recovery) && !intent.details.is_active(now))
        .map(crate::domain::intent::Intent::id)
        .collect();
    for id in stale {
        if let Some(text) = state
            .intents
            .remove(&id)
            .and_then(|intent| audit::draft_for_expired(state, &intent))
        {
            audit::write(state, text, changes);
        }
        changes.insert(Change::Intent(id));
    }
    bounds::trim(state, changes);
}
