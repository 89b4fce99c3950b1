//! The audit: what commands did to which server, in orchestrator's words where it has them. No decision rests on it.

use std::collections::BTreeSet;

use crate::domain::intent::{Intent, IntentKind, Origin, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::RecoveryKind;
use crate::domain::topology::ClusterId;

use super::apply::Change;
use super::command::{Applied, Command, Ending};
use super::record::{AuditEntry, Recovery, State};
use super::request::Request;

/// A message is cut after so many characters: what a hook or a server said may be long.
const MOST_CHARACTERS: usize = 1000;

/// Kind of the entry about a downtime that is over.
pub(crate) const END_DOWNTIME: &str = "end-downtime";
/// Kind of the entry about an instance that was forgotten.
pub(crate) const FORGET: &str = "forget";

/// What an entry says, but for its number and time.
pub(super) struct Told {
    kind: &'static str,
    instance: Option<InstanceKey>,
    cluster_name: String,
    message: String,
}

/// What the audit has to say of a command that is about to be applied to this state; `None` when it is nobody's doing (records of what
/// was seen, of members and of steps) or has records of its own (detections, hooks).
pub(super) fn tell(state: &State, command: &Command) -> Option<Told> {
    match command {
        Command::Discover { seed } => {
            let is_new = !state.seeds.contains(seed);
            is_new.then(|| about(state, "discover", &seed.instance, by(&seed.origin)))
        }
        Command::Forget { instance, .. } => Some(about(state, FORGET, instance, String::new())),
        Command::SetIntent { intent } => Some(asked(state, intent)),
        Command::EndIntent { id } => {
            let present = state.intents.get(id)?;
            let kind = match id.kind {
                // One whose time has passed was over before.
                IntentKind::Downtime if !present.wish.is_active(state.clock) => return None,
                IntentKind::Downtime => END_DOWNTIME,
                IntentKind::Candidate => "end-candidate",
            };
            Some(about(state, kind, &id.instance, by(&present.origin)))
        }
        Command::PutDocument { document } => {
            let is_new = !state.documents.contains_key(&document.origin);
            let kind = if is_new { "put-document" } else { "change-document" };
            Some(about_all(kind, document.origin.to_string()))
        }
        Command::WithdrawDocument { origin } => Some(about_all("withdraw-document", origin.to_string())),
        Command::SetGlobalRecoveries { enabled: true } => Some(about_all("enable-global-recoveries", String::new())),
        Command::SetGlobalRecoveries { enabled: false } => Some(about_all("disable-global-recoveries", String::new())),
        Command::ForceQuorum {
            survivor_name, lost, ..
        } => Some(about_all(
            "force-quorum",
            format!("{survivor_name} goes on without {}", lost.join(", ")),
        )),
        Command::Claim { claim } => {
            let message = format!(
                "{}: recovery {} by {}",
                claim.finding.code, claim.uid, claim.holder_name
            );
            let mut told = about(state, recovers(claim.plan.kind), &claim.plan.old_primary, message);
            told.cluster_name = name_of(state, &claim.plan.cluster);
            Some(told)
        }
        Command::Resume { uid, holder_name, .. } => {
            let recovery = state.recoveries.get(uid)?;
            Some(of(
                state,
                recovery,
                format!("recovery {uid} is taken over by {holder_name}"),
            ))
        }
        Command::Open { token, successor, .. } => {
            let recovery = state.recoveries.get(&token.uid)?;
            Some(of(
                state,
                recovery,
                format!("recovery {}: {successor} becomes writable", token.uid),
            ))
        }
        Command::End { token, ending } => {
            let recovery = state.recoveries.get(&token.uid)?;
            Some(of(state, recovery, format!("recovery {} {}", token.uid, ended(ending))))
        }
        Command::Release { quarantine, reason } => {
            let held = state.quarantines.get(quarantine)?;
            Some(about(state, "release-quarantine", &held.instance, reason.clone()))
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
                Some(recovery) => about(state, "acknowledge-recovery", &recovery.plan.old_primary, message),
                None => about_all("acknowledge-recovery", message),
            })
        }
        Command::Request { request } => asked_once(state, request),
        Command::CancelRequest { key, why } => Some(about_all("cancel-request", format!("{key}: {why}"))),
        Command::SettleRequest { key, why, .. } => Some(about_all("settle-request", format!("{key}: {why}"))),
        Command::Found { .. }
        | Command::AllocateMember { .. }
        | Command::Hello { .. }
        | Command::DescribeCluster { .. }
        | Command::Detect { .. }
        | Command::Record { .. }
        | Command::Judge { .. }
        | Command::HooksBegin { .. }
        | Command::HooksRan { .. }
        | Command::Block { .. } => None,
    }
}

/// What there is to say of an intent whose time has passed.
pub(super) fn expired(state: &State, intent: &Intent) -> Option<Told> {
    let is_downtime = matches!(intent.wish, Wish::Downtime { .. });
    is_downtime.then(|| about(state, END_DOWNTIME, &intent.instance, "its time has passed".to_owned()))
}

/// Whether a command changed what it is about.
pub(super) fn did_something(applied: &Applied) -> bool {
    match applied {
        Applied::Done | Applied::Claimed { .. } => true,
        Applied::Number { number } => *number > 0,
        Applied::Refused { .. } => false,
    }
}

/// Adds an entry at the state's present time.
pub(super) fn write(state: &mut State, told: Told, changes: &mut BTreeSet<Change>) {
    let id = state.audit.last_key_value().map_or(0, |(id, _)| *id) + 1;
    let entry = AuditEntry {
        id,
        at: state.clock,
        kind: told.kind.to_owned(),
        instance: told.instance,
        cluster_name: told.cluster_name,
        message: told.message.chars().take(MOST_CHARACTERS).collect(),
    };
    state.audit.insert(id, entry);
    changes.insert(Change::Audit(id));
}

fn about(state: &State, kind: &'static str, instance: &InstanceKey, message: String) -> Told {
    let cluster = state
        .clusters
        .values()
        .find(|cluster| cluster.instances.contains(instance));
    Told {
        kind,
        instance: Some(instance.clone()),
        cluster_name: cluster.map(|cluster| cluster.name.clone()).unwrap_or_default(),
        message,
    }
}

fn about_all(kind: &'static str, message: String) -> Told {
    Told {
        kind,
        instance: None,
        cluster_name: String::new(),
        message,
    }
}

fn of(state: &State, recovery: &Recovery, message: String) -> Told {
    Told {
        cluster_name: recovery.cluster_name.clone(),
        ..about(state, recovers(recovery.plan.kind), &recovery.plan.old_primary, message)
    }
}

fn name_of(state: &State, cluster: &ClusterId) -> String {
    let cluster = state.clusters.get(cluster);
    cluster.map(|cluster| cluster.name.clone()).unwrap_or_default()
}

/// Who asked, when it was not a person: nothing of the API's own.
fn by(origin: &Origin) -> String {
    match origin {
        Origin::Api => String::new(),
        Origin::Document { .. } | Origin::Recovery => format!("by {origin}"),
    }
}

fn asked(state: &State, intent: &Intent) -> Told {
    let (kind, what) = match &intent.wish {
        Wish::Downtime { owner, reason, .. } => ("begin-downtime", format!("owner: {owner}, reason: {reason}")),
        Wish::Candidate { rule, .. } => ("register-candidate", format!("promotion rule: {}", rule.as_str())),
    };
    let parts = [what, by(&intent.origin)];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    about(state, kind, &intent.instance, parts.join(", "))
}

/// A request that was recorded before is no news.
fn asked_once(state: &State, request: &Request) -> Option<Told> {
    let is_new = !state.requests.contains_key(&request.key());
    is_new.then(|| about_all("request", request.key()))
}

fn ended(ending: &Ending) -> String {
    match (&ending.successor, ending.successful) {
        (Some((successor, _)), true) => format!("is over: {successor} is the primary"),
        (None, true) => "is over".to_owned(),
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
