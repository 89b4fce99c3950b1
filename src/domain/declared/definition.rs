//! The `CustomResourceDefinition` that the API server serves, and the fields that documents lack because of it.
//!
//! An API server prunes the fields of a document that its definition does not have. It does so at once, also in what
//! was stored before, and under the same generation. After the next write the fields are lost. An absent field
//! therefore counts as a user's decision only when the definition has the field and the generation differs from the
//! recorded one. Otherwise the recorded value stays.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::domain::intent::{Intent, IntentDetails};
use crate::domain::state::{Command, Document, RequestKind, State};

use super::SourceContents;
use super::document::{DeclaredCandidate, DeclaredCluster, DeclaredDowntime, DeclaredTakeover};
use super::reason::Reason;
use super::status::{Condition, ConditionKind, ConditionStatus};

/// Number of fields that a message names; the rest is counted.
const NAMED: usize = 6;
/// The command that installs the definition of this version.
const APPLY: &str = "ham4db crd | kubectl apply --server-side --force-conflicts -f -";

/// State of the definition by which documents are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Definition {
    /// The definition of this version: documents are files, and nothing is pruned.
    #[default]
    Own,
    /// Not read yet.
    NotReadYet,
    /// Not readable.
    Unreadable(String),
    /// Read and compared with the definition of this version.
    Read {
        /// Fields of this version that it lacks, as paths such as `spec.recovery.mode`, without fields inside of a
        /// missing field.
        lacks: BTreeSet<String>,
        /// Fields that this version does not have.
        has_more: BTreeSet<String>,
    },
}

impl Definition {
    /// Whether the definition lacks a field: the field itself, or one that contains it.
    fn lacks_field(&self, path: &str) -> bool {
        let Self::Read { lacks, .. } = self else { return false };
        let is_it = |lacking: &String| path == lacking || path.strip_prefix(lacking.as_str()).is_some_and(is_below);
        lacks.iter().any(is_it)
    }

    /// The problem of the definition for the log; `None` when there is none or nothing is known.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Read { lacks, .. } if !lacks.is_empty() => Some(outdated_message(lacks)),
            Self::Unreadable(why) => Some(unreadable_message(why)),
            Self::Own | Self::NotReadYet | Self::Read { .. } => None,
        }
    }
}

fn is_below(rest: &str) -> bool {
    rest.starts_with('.')
}

fn outdated_message(lacks: &BTreeSet<String>) -> String {
    format!(
        "the API server serves an older definition of MySQLCluster, without {}: recorded values of these fields stay in effect and cannot be \
         changed. Apply the definition of this version: {APPLY}",
        listed(lacks.iter().map(String::as_str))
    )
}

fn unreadable_message(why: &str) -> String {
    format!("the definition that the API server serves cannot be read: {why}")
}

fn listed<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let paths: Vec<&str> = paths.collect();
    let named: Vec<&str> = paths.iter().take(NAMED).copied().collect();
    let more = paths.len() - named.len();
    if more == 0 {
        named.join(", ")
    } else {
        format!("{} and {more} more", named.join(", "))
    }
}

/// Copies the recorded value of a field into a document that lacks the field.
type RestoreField = fn(&mut DeclaredCluster, &Document, &State);

/// The fields that a document may lack, each with the function that restores its recorded value. The other fields are
/// required, or nothing is recorded from them.
const FIELDS: &[(&str, RestoreField)] = &[
    ("spec.paused", |declared, recorded, _| {
        declared.document.paused = recorded.paused;
    }),
    ("spec.recovery.mode", |declared, recorded, _| {
        declared.document.mode = recorded.mode;
    }),
    ("spec.recovery.blockFor", |declared, recorded, _| {
        declared.document.block_millis = recorded.block_millis;
    }),
    ("spec.recovery.lossPolicy", |declared, recorded, _| {
        declared.document.loss = recorded.loss;
    }),
    ("spec.recovery.lossTimeout", |declared, recorded, _| {
        declared.document.loss_timeout_millis = recorded.loss_timeout_millis;
    }),
    ("spec.recovery.oldPrimary", |declared, recorded, _| {
        declared.document.old_primary = recorded.old_primary;
    }),
    ("spec.recovery.bootReadOnly", |declared, recorded, _| {
        declared.document.boot_read_only = recorded.boot_read_only;
    }),
    ("spec.recovery.onDrain", |declared, recorded, _| {
        declared.document.on_drain = recorded.on_drain;
    }),
    ("spec.recovery.stalledPrimary", |declared, recorded, _| {
        declared.document.stalled = recorded.stalled;
    }),
    ("spec.recovery.events", |declared, recorded, _| {
        declared.document.events = recorded.events;
    }),
    ("spec.durability", |declared, recorded, _| {
        declared.document.durability = recorded.durability;
    }),
    ("spec.primaryService", |declared, recorded, _| {
        declared.services.clone_from(&recorded.services);
    }),
    ("spec.primaryService.replicasName", |declared, recorded, _| {
        if let (Some(declared_services), Some(recorded)) = (&mut declared.services, &recorded.services) {
            declared_services.replicas.clone_from(&recorded.replicas);
        }
    }),
    ("spec.downtime", |declared, recorded, state| {
        declared.downtime = intents_of(recorded, state).filter_map(downtime).collect();
    }),
    ("spec.candidates", |declared, recorded, state| {
        declared.candidates = intents_of(recorded, state).filter_map(candidate).collect();
    }),
    ("spec.takeover", |declared, recorded, state| {
        declared.takeover = takeover(recorded, state);
    }),
];

/// The paths of the fields that are recorded as absent when a document lacks them.
pub fn optional_fields() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|(path, _)| *path)
}

fn intents_of<'a>(recorded: &'a Document, state: &'a State) -> impl Iterator<Item = &'a Intent> {
    state.intents.values().filter(|intent| intent.origin == recorded.origin)
}

fn downtime(intent: &Intent) -> Option<DeclaredDowntime> {
    match &intent.details {
        IntentDetails::Downtime {
            owner, reason, until, ..
        } => Some(DeclaredDowntime {
            instance: intent.instance.clone(),
            owner: owner.clone(),
            reason: reason.clone(),
            until: *until,
        }),
        IntentDetails::Candidate { .. } => None,
    }
}

fn candidate(intent: &Intent) -> Option<DeclaredCandidate> {
    match &intent.details {
        IntentDetails::Candidate { rule, .. } => Some(DeclaredCandidate {
            instance: intent.instance.clone(),
            rule: *rule,
        }),
        IntentDetails::Downtime { .. } => None,
    }
}

/// The requested takeover that is not over yet.
fn takeover(recorded: &Document, state: &State) -> Option<DeclaredTakeover> {
    let mut open = state
        .requests
        .values()
        .filter(|request| request.origin == recorded.origin && !request.is_over());
    open.find_map(|request| match &request.what {
        RequestKind::Takeover {
            target,
            catch_up_seconds,
            deadline,
        } => Some(DeclaredTakeover {
            id: request.id.clone(),
            target: target.clone(),
            catch_up_seconds: *catch_up_seconds,
            deadline: *deadline,
        }),
        RequestKind::Force { .. } | RequestKind::Drain { .. } => None,
    })
}

/// A document in which recorded values replace pruned fields.
pub(super) struct CompletedDocument<'a> {
    /// The document.
    pub(super) declared: Cow<'a, DeclaredCluster>,
    /// The condition about the definition.
    pub(super) condition: Condition,
    /// Whether values are restored only until the definition is checked: what this generation asks for is not known
    /// yet.
    is_unsettled: bool,
}

/// Completes a document with recorded values.
pub(super) fn complete<'a>(
    declared: &'a DeclaredCluster,
    seen: &SourceContents,
    state: &State,
) -> CompletedDocument<'a> {
    let mut whole = Cow::Borrowed(declared);
    let mut lost: Vec<&'static str> = Vec::new();
    let mut is_unsettled = false;
    if let Some(recorded) = declared.recorded(state)
        && !declared.is_outdated(state)
    {
        // A file has no generation.
        let is_unchanged = declared.document.generation > 0 && declared.document.generation == recorded.generation;
        let is_unknown = seen.unchecked || seen.definition == Definition::NotReadYet;
        for (path, keep) in FIELDS.iter().filter(|(path, _)| declared.absent.contains(path)) {
            let is_unserved = seen.definition.lacks_field(path);
            if !(is_unserved || is_unknown || is_unchanged) {
                continue;
            }
            let mut kept = whole.clone().into_owned();
            keep(&mut kept, recorded, state);
            if kept != *whole {
                whole = Cow::Owned(kept);
                is_unsettled |= !is_unserved && !is_unchanged;
                if is_unchanged && !is_unserved && seen.definition != Definition::NotReadYet {
                    lost.push(path);
                }
            }
        }
    }
    CompletedDocument {
        declared: whole,
        condition: condition(&seen.definition, &lost),
        is_unsettled,
    }
}

/// Whether the served definition may hide that a document asks for Services.
pub(super) fn may_hide_services(declared: &DeclaredCluster, seen: &SourceContents) -> bool {
    let path = "spec.primaryService";
    let is_unknown = seen.unchecked || seen.definition == Definition::NotReadYet;
    declared.absent.contains(path) && (is_unknown || seen.definition.lacks_field(path))
}

/// The condition about the definition. `lost` are fields that the definition has, and that keep their recorded values.
pub(super) fn condition(definition: &Definition, lost: &[&'static str]) -> Condition {
    let condition_with =
        |status, reason, message: String| Condition::new(ConditionKind::DefinitionCurrent, status, reason, message);
    match definition {
        Definition::Read { lacks, .. } if !lacks.is_empty() => condition_with(
            ConditionStatus::False,
            Reason::OlderThanThisVersion,
            outdated_message(lacks),
        ),
        _ if !lost.is_empty() => condition_with(
            ConditionStatus::False,
            Reason::FieldsLost,
            format!(
                "{} disappeared without a change of the document, as happens under an older definition; the recorded values stay until the \
                 document changes: apply it again",
                listed(lost.iter().copied())
            ),
        ),
        Definition::Read { has_more, .. } if !has_more.is_empty() => condition_with(
            ConditionStatus::True,
            Reason::NewerThanThisVersion,
            format!(
                "the API server serves a newer definition: this version ignores {}",
                listed(has_more.iter().map(String::as_str))
            ),
        ),
        Definition::Read { .. } => condition_with(
            ConditionStatus::True,
            Reason::Current,
            "the API server serves the definition of this version".to_owned(),
        ),
        Definition::Own => condition_with(
            ConditionStatus::True,
            Reason::Current,
            "files are parsed by the definition of this version".to_owned(),
        ),
        Definition::NotReadYet => condition_with(
            ConditionStatus::Unknown,
            Reason::NotReadYet,
            "the definition that the API server serves has not been read yet".to_owned(),
        ),
        Definition::Unreadable(why) => condition_with(
            ConditionStatus::Unknown,
            Reason::DefinitionUnreadable,
            unreadable_message(why),
        ),
    }
}

/// Records the generation of a document as its last command. A recorded generation means that everything was withdrawn
/// that this generation does not ask for. The commands from `first` on belong to this document.
pub(super) fn settle_generation(
    commands: &mut Vec<Command>,
    first: usize,
    whole: &CompletedDocument<'_>,
    state: &State,
) {
    let of_it = commands.get(first..).unwrap_or_default();
    let takes_back = |command: &Command| matches!(command, Command::EndIntent { .. } | Command::CancelRequest { .. });
    let is_late = whole.is_unsettled || of_it.iter().any(takes_back);
    let put = of_it
        .iter()
        .position(|command| matches!(command, Command::PutDocument { .. }));
    let Some(at) = put.filter(|_| is_late) else {
        return;
    };
    let Command::PutDocument { document: dated } = commands.remove(first + at) else {
        return;
    };
    let mut undated = dated.clone();
    undated.generation = whole.declared.recorded(state).map_or(0, |recorded| recorded.generation);
    if state.documents.get(&undated.origin) != Some(&*undated) {
        commands.insert(first + at, Command::PutDocument { document: undated });
    }
    if !whole.is_unsettled {
        commands.push(Command::PutDocument { document: dated });
    }
}
