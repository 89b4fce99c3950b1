//! The definition of the resource that the API server serves, and what documents lack because of it.
//!
//! An API server shows a document without the fields that its definition does not have: at once, in what was stored before as well, and
//! under the same generation. After the next write they are gone for good. So an absent field is a person's word only where the definition
//! has it and the generation is another one than when it was recorded; otherwise what is recorded stays.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::domain::intent::{Intent, Wish};
use crate::domain::state::{Command, Document, RequestKind, State};

use super::Seen;
use super::document::{DeclaredCandidate, DeclaredCluster, DeclaredDowntime, DeclaredTakeover};
use super::reason::Reason;
use super::status::{Condition, ConditionKind, Truth};

/// Fields that a message names; the rest is counted.
const NAMED: usize = 6;
/// What brings the definition of this version.
const APPLY: &str = "ham4db crd | kubectl apply --server-side --force-conflicts -f -";

/// What is known of the definition by which documents are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Definition {
    /// Nobody cuts anything away: documents are files.
    #[default]
    Own,
    /// It was not looked at yet.
    NotReadYet,
    /// It cannot be looked at.
    Unreadable(String),
    /// It was read, and compared with the one of this version.
    Read {
        /// Fields of this version that it lacks, as paths such as `spec.recovery.mode`; only the first of those inside of each other.
        lacks: BTreeSet<String>,
        /// Fields that this version does not know.
        has_more: BTreeSet<String>,
    },
}

impl Definition {
    /// Whether a field is not served: it, or one that it is inside of.
    fn lacks_field(&self, path: &str) -> bool {
        let Self::Read { lacks, .. } = self else { return false };
        let is_it = |lacking: &String| path == lacking || path.strip_prefix(lacking.as_str()).is_some_and(is_below);
        lacks.iter().any(is_it)
    }

    /// What is wrong with it, for the log; `None` while all is well or nothing is known.
    pub fn complaint(&self) -> Option<String> {
        match self {
            Self::Read { lacks, .. } if !lacks.is_empty() => Some(older(lacks)),
            Self::Unreadable(why) => Some(unreadable(why)),
            Self::Own | Self::NotReadYet | Self::Read { .. } => None,
        }
    }
}

fn is_below(rest: &str) -> bool {
    rest.starts_with('.')
}

fn older(lacks: &BTreeSet<String>) -> String {
    format!(
        "the API server serves an older definition of MySQLCluster, without {}: what was recorded from such fields stays, and nobody can \
         set them. Apply the one of this version: {APPLY}",
        listed(lacks.iter().map(String::as_str))
    )
}

fn unreadable(why: &str) -> String {
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

/// Puts what is recorded from a field into a document that lacks it.
type Keep = fn(&mut DeclaredCluster, &Document, &State);

/// The fields that a document may lack, and how what was recorded from them stays. Without the others no document can be read, or they
/// leave nothing behind.
const FIELDS: &[(&str, Keep)] = &[
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
    ("spec.durability", |declared, recorded, _| {
        declared.document.durability = recorded.durability;
    }),
    ("spec.primaryService", |declared, recorded, _| {
        declared.services.clone_from(&recorded.services);
    }),
    ("spec.primaryService.replicasName", |declared, recorded, _| {
        if let (Some(asked), Some(recorded)) = (&mut declared.services, &recorded.services) {
            asked.replicas.clone_from(&recorded.replicas);
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

/// The paths of the fields whose absence in a document is to be told.
pub fn optional_fields() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|(path, _)| *path)
}

fn intents_of<'a>(recorded: &'a Document, state: &'a State) -> impl Iterator<Item = &'a Intent> {
    state.intents.values().filter(|intent| intent.origin == recorded.origin)
}

fn downtime(intent: &Intent) -> Option<DeclaredDowntime> {
    match &intent.wish {
        Wish::Downtime {
            owner, reason, until, ..
        } => Some(DeclaredDowntime {
            instance: intent.instance.clone(),
            owner: owner.clone(),
            reason: reason.clone(),
            until: *until,
        }),
        Wish::Candidate { .. } => None,
    }
}

fn candidate(intent: &Intent) -> Option<DeclaredCandidate> {
    match &intent.wish {
        Wish::Candidate { rule, .. } => Some(DeclaredCandidate {
            instance: intent.instance.clone(),
            rule: *rule,
        }),
        Wish::Downtime { .. } => None,
    }
}

/// The takeover that is asked for and not handled yet.
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

/// A document with what is recorded in place of what it lacks by no person's word.
pub(super) struct Whole<'a> {
    /// It.
    pub(super) declared: Cow<'a, DeclaredCluster>,
    /// What there is to say of the definition.
    pub(super) condition: Condition,
    /// Something is kept only until the definition was looked at: what this generation asks for is not known yet.
    is_unsettled: bool,
}

/// Completes a document.
pub(super) fn complete<'a>(declared: &'a DeclaredCluster, seen: &Seen, state: &State) -> Whole<'a> {
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
    Whole {
        declared: whole,
        condition: condition(&seen.definition, &lost),
        is_unsettled,
    }
}

/// Whether a document that asks for no Services may do so behind the definition that is served.
pub(super) fn may_hide_services(declared: &DeclaredCluster, seen: &Seen) -> bool {
    let path = "spec.primaryService";
    let is_unknown = seen.unchecked || seen.definition == Definition::NotReadYet;
    declared.absent.contains(path) && (is_unknown || seen.definition.lacks_field(path))
}

/// What is said of the definition; `lost` are fields that it has, and that are kept.
pub(super) fn condition(definition: &Definition, lost: &[&'static str]) -> Condition {
    let told =
        |truth, reason, message: String| Condition::new(ConditionKind::DefinitionCurrent, truth, reason, message);
    match definition {
        Definition::Read { lacks, .. } if !lacks.is_empty() => {
            told(Truth::False, Reason::OlderThanThisVersion, older(lacks))
        }
        _ if !lost.is_empty() => told(
            Truth::False,
            Reason::FieldsLost,
            format!(
                "{} went away without a change of the document, as happens under an older definition; what was recorded stays until the \
                 document is changed: apply it again",
                listed(lost.iter().copied())
            ),
        ),
        Definition::Read { has_more, .. } if !has_more.is_empty() => told(
            Truth::True,
            Reason::NewerThanThisVersion,
            format!(
                "the API server serves a newer definition: {} mean nothing to this version",
                listed(has_more.iter().map(String::as_str))
            ),
        ),
        Definition::Read { .. } => told(
            Truth::True,
            Reason::Current,
            "the API server serves the definition of this version".to_owned(),
        ),
        Definition::Own => told(
            Truth::True,
            Reason::Current,
            "a file is read by the definition of this version".to_owned(),
        ),
        Definition::NotReadYet => told(
            Truth::Unknown,
            Reason::NotReadYet,
            "the definition that the API server serves was not read yet".to_owned(),
        ),
        Definition::Unreadable(why) => told(Truth::Unknown, Reason::DefinitionUnreadable, unreadable(why)),
    }
}

/// Makes the generation of a document the last thing that is recorded of it: where it stands, everything was taken back that this
/// generation does not ask for. `commands` from `first` on are those of this document.
pub(super) fn date(commands: &mut Vec<Command>, first: usize, whole: &Whole<'_>, state: &State) {
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
