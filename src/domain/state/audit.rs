//! The audit: the actions of commands on servers, with orchestrator's names where it has them. No decision depends on
//! it.

use std::collections::BTreeSet;

use crate::domain::intent::{Intent, IntentDetails, IntentKind, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::topology::ClusterId;

use super::apply::Change;
use super::command::{Applied, Command, Ending};
use super::record::{AuditEntry, Recovery, State};
use super::request::Request;

/// Longest message, characters: output of hooks and servers may be long.
const MAX_CHARACTERS: usize = 1000;

/// Kind of the entry for the end of a downtime.
pub(crate) const END_DOWNTIME: &str = "end-downtime";
/// Kind of the entry for a forgotten instance.
pub(crate) const FORGET: &str = "forget";

/// The content of an entry without its number and time.
pub(super) struct AuditDraft {
    kind: &'static str,
    instance: Option<InstanceKey>,
    cluster_name: String,
    message: String,
}

/// The audit entry of a command that is about to be applied to this state. `None` for observations and records of
/// members and steps, which are no actions, and for detections and hooks, which have records of their own.
#[expect(clippy::too_many_lines, reason = "one arm for each command")]
pub(super) fn draft_for_command(state: &State, command: &Command) -> Option<AuditDraft> {
    match command {
        Command::Discover { seed } => {
            let is_new = !state.seeds.contains(seed);
            is_new.then(|| draft_for(state, "discover", &seed.instance, origin_note(&seed.origin)))
        }
        Command::Forget { instance, .. } => Some(draft_for(state, FORGET, instance, String::new())),
        Command::ForgetGone { instance, reason, .. } => Some(draft_for(state, FORGET, instance, reason.clone())),
        Command::SetIntent { intent } => Some(intent_draft(state, intent)),
        Command::EndIntent { id } => {
            let present = state.intents.get(id)?;
            let kind = match id.kind {
                // An expired downtime had already ended.
                IntentKind::Downtime if !present.details.is_active(state.clock) => return None,
                IntentKind::Downtime => END_DOWNTIME,
                IntentKind::Candidate => "end-candidate",
            };
            Some(draft_for(state, kind, &id.instance, origin_note(&present.origin)))
        }
        Command::PutDocument { document } => {
            let is_new = !state.documents.contains_key(&document.origin);
            let kind = if is_new { "put-document" } else { "change-document" };
            Some(draft_for_all(kind, document.origin.to_string()))
        }
        Command::WithdrawDocument { origin } => Some(draft_for_all("withdraw-document", origin.to_string())),
        Command::SetGlobalRecoveries { enabled: true } => {
            Some(draft_for_all("enable-global-recoveries", String::new()))
        }
        Command::SetGlobalRecoveries { enabled: false } => {
            Some(draft_for_all("disable-global-recoveries", String::new()))
        }
        Command::ForceQuorum {
            survivor_name, lost, ..
        } => Some(draft_for_all(
            "force-quorum",
            format!("{survivor_name} continues without {}", lost.join(", ")),
        )),
        Command::CorrectClock { ahead_millis } => Some(clock_draft(*ahead_millis)),
        Command::Claim { claim } => {
            let message = format!(
                "{}: recovery {} by {}",
                claim.finding.code, claim.uid, claim.holder_name
            );
            let mut draft = draft_for(state, recovers(claim.plan.kind), &claim.plan.old_primary, message);
            draft.cluster_name = name_of(state, &claim.plan.cluster);
            Some(draft)
        }
        Command::Resume { uid, holder_name, .. } => {
            let recovery = state.recoveries.get(uid)?;
            Some(draft_for_recovery(
                state,
                recovery,
                format!("recovery {uid} was resumed by {holder_name}"),
            ))
        }
        Command::Open { token, successor, .. } => {
            let recovery = state.recoveries.get(&token.uid)?;
            Some(draft_for_recovery(
                state,
                recovery,
                format!("recovery {}: {successor} becomes writable", token.uid),
            ))
        }
        Command::End { token, ending } => {
            let recovery = state.recoveries.get(&token.uid)?;
            Some(draft_for_recovery(
                state,
                recovery,
                format!("recovery {} {}", token.uid, ended(ending)),
            ))
        }
        Command::Release { quarantine, reason } => {
            let held = state.quarantines.get(quarantine)?;
            Some(draft_for(state, "release-quarantine", &held.instance, reason.clone()))
        }
        Command::Acknowledge { uids, acknowledgement } => {
            let message = format!(
                "{}; {}: {}",
                uids.join(", "),
                acknowledgement.by,
                acknowledgement.comment
            );
            let recovery = uids.first().and_then(|uid| state.recoveries.get(uid));
            Some(match recovery.filter(|_| uids.len() == 1) {
                Some(recovery) => draft_for(state, "acknowledge-recovery", &recovery.plan.old_primary, message),
                None => draft_for_all("acknowledge-recovery", message),
            })
        }
        Command::SplitCluster { .. } | Command::MergeClusters { .. } => clusters_draft(state, command),
        Command::Request { request } => request_draft(state, request),
        Command::CancelRequest { key, why } => Some(draft_for_all("cancel-request", format!("{key}: {why}"))),
        Command::SettleRequest { key, why, .. } => Some(draft_for_all("settle-request", format!("{key}: {why}"))),
        Command::FoundGroup { .. }
        | Command::AllocateMember { .. }
        | Command::AnnounceMember { .. }
        | Command::RecordUnseen { .. }
        | Command::DescribeCluster { .. }
        | Command::RecordDetection { .. }
        | Command::Record { .. }
        | Command::SetQuarantineStanding { .. }
        | Command::HooksBegin { .. }
        | Command::HooksRan { .. }
        | Command::Block { .. } => None,
    }
}

fn clock_draft(ahead_millis: u64) -> AuditDraft {
    let seconds = ahead_millis / 1000;
    draft_for_all(
        "correct-clock",
        format!("the recorded time was {seconds} s ahead of the clocks of the members"),
    )
}

/// The audit entry of an expired intent.
pub(super) fn draft_for_expired(state: &State, intent: &Intent) -> Option<AuditDraft> {
    let is_downtime = matches!(intent.details, IntentDetails::Downtime { .. });
    is_downtime.then(|| draft_for(state, END_DOWNTIME, &intent.instance, "the downtime expired".to_owned()))
}

/// Whether a command changed anything.
pub(super) fn had_effect(applied: &Applied) -> bool {
    match applied {
        Applied::Done | Applied::Claimed { .. } => true,
        Applied::Number { number } => *number > 0,
        Applied::Refused { .. } => false,
    }
}

/// Adds an entry with the present time of the state.
pub(super) fn write(state: &mut State, draft: AuditDraft, changes: &mut BTreeSet<Change>) {
    let id = state.audit.last_key_value().map_or(0, |(id, _)| *id) + 1;
    let entry = AuditEntry {
        id,
        at: state.clock,
        kind: draft.kind.to_owned(),
        instance: draft.instance,
        cluster_name: draft.cluster_name,
        message: draft.message.chars().take(MAX_CHARACTERS).collect(),
    };
    state.audit.insert(id, entry);
    changes.insert(Change::Audit(id));
}

fn draft_for(state: &State, kind: &'static str, instance: &InstanceKey, message: String) -> AuditDraft {
    let cluster = state
        .clusters
        .values()
        .find(|cluster| cluster.instances.contains(instance));
    AuditDraft {
        kind,
        instance: Some(instance.clone()),
        cluster_name: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
        message,
    }
}

fn draft_for_all(kind: &'static str, message: String) -> AuditDraft {
    AuditDraft {
        kind,
        instance: None,
        cluster_name: String::new(),
        message,
    }
}

fn draft_for_recovery(state: &State, recovery: &Recovery, message: String) -> AuditDraft {
    AuditDraft {
        cluster_name: recovery.cluster_name.clone(),
        ..draft_for(state, recovers(recovery.plan.kind), &recovery.plan.old_primary, message)
    }
}

fn name_of(state: &State, cluster: &ClusterId) -> String {
    let cluster = state.clusters.get(cluster);
    cluster.map(|cluster| cluster.name.clone()).unwrap_or_default()
}

/// The origin, unless the request came through the API.
fn origin_note(origin: &Origin) -> String {
    match origin {
        Origin::Api => String::new(),
        Origin::Document { .. } | Origin::Recovery => format!("by {origin}"),
    }
}

fn intent_draft(state: &State, intent: &Intent) -> AuditDraft {
    let (kind, what) = match &intent.details {
        IntentDetails::Downtime { owner, reason, .. } => {
            ("begin-downtime", format!("owner: {owner}, reason: {reason}"))
        }
        IntentDetails::Candidate { rule, .. } => ("register-candidate", format!("promotion rule: {}", rule.as_str())),
    };
    let parts = [what, origin_note(&intent.origin)];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    draft_for(state, kind, &intent.instance, parts.join(", "))
}

/// The entry of a split or a merge, which is about a cluster.
fn clusters_draft(state: &State, command: &Command) -> Option<AuditDraft> {
    if let Command::SplitCluster {
        from,
        id,
        head,
        instances,
        reason,
        ..
    } = command
    {
        let message = format!("{} instances are cluster {id} now: {reason}", instances.len());
        return Some(AuditDraft {
            cluster_name: name_of(state, from),
            ..draft_for(state, "split-cluster", head, message)
        });
    }
    let Command::MergeClusters { into, from, reason, .. } = command else {
        return None;
    };
    let message = format!("cluster {} ({from}) ended in {into}: {reason}", name_of(state, from));
    Some(AuditDraft {
        cluster_name: name_of(state, into),
        ..draft_for_all("merge-clusters", message)
    })
}

/// A request that was recorded before gets no second entry.
fn request_draft(state: &State, request: &Request) -> Option<AuditDraft> {
    let is_new = !state.requests.contains_key(&request.key());
    is_new.then(|| draft_for_all("request", request.key()))
}

fn ended(ending: &Ending) -> String {
    match (&ending.successor, ending.successful) {
        (Some((successor, _)), true) => format!("ended: {successor} is the primary"),
        (None, true) => "ended".to_owned(),
        (successor, false) => {
            let opened = successor.as_ref().map(|(key, _)| format!(" after {key} was opened"));
            let why = ending.errors.first().map(|why| format!(": {why}"));
            format!("failed{}{}", opened.unwrap_or_default(), why.unwrap_or_default())
        }
    }
}

fn recovers(kind: RecoveryKind) -> &'static str {
    match kind {
        RecoveryKind::DeadPrimary | RecoveryKind::DeadPrimaryByPosition => "recover-dead-master",
        RecoveryKind::CoPrimary => "recover-dead-co-master",
        RecoveryKind::IntermediatePrimary => "recover-dead-intermediate-master",
        RecoveryKind::GroupMember => "recover-dead-replication-group-member",
        RecoveryKind::Takeover => "graceful-master-takeover",
        RecoveryKind::SemiSync => "recover-semi-sync-master",
        RecoveryKind::NonWritablePrimary => "recover-non-writeable-master",
        RecoveryKind::ReopenPrimary => "reopen-master",
        RecoveryKind::Rejoin => "rejoin",
        RecoveryKind::ResolveErrant => "resolve-errant",
        RecoveryKind::MatchBelow => "match-below",
        RecoveryKind::BootReadOnly => "boot-read-only",
        RecoveryKind::Durability => "keep-durability",
    }
}
