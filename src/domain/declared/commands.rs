//! The commands for documents that were read, and for documents that are gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::Instance;
use crate::domain::intent::{Intent, IntentDetails, IntentId, Origin};
use crate::domain::key::InstanceKey;
use crate::domain::state::{Cluster, Command, State};
use crate::domain::time::WallTime;

use super::document::DeclaredCluster;
use super::requests;
use super::{ClusterView, Completeness, HOLD_MILLIS, Reconciliation, SourceContents};

/// Adds the commands for one document that was read.
pub(super) fn of_document(
    answer: &mut Reconciliation,
    completeness: Completeness,
    declared: &DeclaredCluster,
    state: &State,
    views: &[ClusterView],
    now: WallTime,
) {
    let origin = &declared.document.origin;
    if declared.is_outdated(state) {
        answer.warnings.push(format!(
            "{origin}: generation {} was read and a newer one is recorded: this member's view of the document is delayed, nothing is changed",
            declared.document.generation
        ));
        return;
    }
    if let Some(owner) = declared.foreign_owner(state, now) {
        answer.warnings.push(format!(
            "{origin}: OwnedByAnotherGroup: group {owner} writes its status, so this group only observes it"
        ));
    }
    let other_owner = other_owner(declared, state, views);
    if let Some(owner) = other_owner {
        answer.warnings.push(format!(
            "{origin}: names a cluster that document {owner} owns; only that document is in effect"
        ));
    }
    let requested_intents = if other_owner.is_some() {
        Vec::new()
    } else {
        declared.requested_intents(now)
    };
    let (set, end) = intents(declared, requested_intents, state, now);
    let mut wanted = declared.wanted_record(state, now);
    let is_stale = completeness == Completeness::Stale;
    if is_stale && (!end.is_empty() || requests::has_others_open(declared, state)) {
        // A stale view withdraws nothing, so the generation is not recorded as settled either.
        wanted.generation = declared.recorded(state).map_or(0, |recorded| recorded.generation);
    }
    if !is_stale && let Some(recorded) = state.documents.get(origin) {
        let withdrawn = recorded.seeds.difference(&wanted.seeds);
        answer
            .commands
            .extend(withdrawn.flat_map(|seed| forget_withdrawn(seed, state, views)));
    }
    if state.documents.get(origin) != Some(&wanted) {
        answer.commands.push(Command::PutDocument {
            document: Box::new(wanted),
        });
    }
    answer.commands.extend(set);
    if !is_stale {
        answer.commands.extend(end);
    }
}

/// For how long a withdrawn server is not discovered again, milliseconds: three polls by default.
const FORGET_MILLIS: i64 = 15_000;

/// A seed that a document no longer names, and that is in quarantine and does not answer, is gone for good.
fn forget_withdrawn(seed: &InstanceKey, state: &State, views: &[ClusterView]) -> Vec<Command> {
    let held = state.quarantines.values().filter(|held| {
        let Some(view) = views.iter().find(|view| view.cluster.id == held.cluster) else {
            return false;
        };
        let is_it = held.instance == *seed || *view.topology.resolve(seed) == held.instance;
        is_it && view.topology.get(&held.instance).is_none_or(Instance::is_absent)
    });
    held.map(|held| Command::ForgetGone {
        instance: held.instance.clone(),
        until: state.clock.plus_millis(FORGET_MILLIS),
        reason: String::from("it was withdrawn from its document"),
    })
    .collect()
}

/// The document that owns the cluster of this document's seeds, when this document owns none.
pub(super) fn other_owner<'a>(
    declared: &DeclaredCluster,
    state: &'a State,
    views: &[ClusterView],
) -> Option<&'a Origin> {
    let origin = &declared.document.origin;
    // A seed may be another address of a recorded server: the topology resolves it.
    let has = |cluster: &Cluster, seed: &InstanceKey| {
        let mut shown = views.iter().filter(|view| view.cluster.id == cluster.id);
        cluster.instances.contains(seed) || shown.any(|view| view.topology.get(seed).is_some())
    };
    let named = || {
        let seeds = &declared.document.seeds;
        let clusters = state.clusters.values();
        clusters.filter(|cluster| seeds.iter().any(|seed| has(cluster, seed)))
    };
    if named().any(|cluster| cluster.document.as_ref() == Some(origin)) {
        return None;
    }
    named().find_map(|cluster| {
        cluster
            .document
            .as_ref()
            .filter(|owner| *owner != origin && state.documents.contains_key(owner))
    })
}

/// Adds the commands for intents that the document has and the state lacks, and for those that the state has and the
/// document lacks.
fn intents(
    declared: &DeclaredCluster,
    requested_intents: Vec<(InstanceKey, IntentDetails)>,
    state: &State,
    now: WallTime,
) -> (Vec<Command>, Vec<Command>) {
    let origin = &declared.document.origin;
    let mut set = Vec::new();
    let mut wanted: BTreeSet<IntentId> = BTreeSet::new();
    for (instance, details) in requested_intents {
        let id = IntentId {
            kind: details.kind(),
            instance: instance.clone(),
            origin: origin.clone(),
        };
        let present = state.intents.get(&id);
        if present.is_none_or(|present| !same_details(&present.details, &details)) {
            set.push(Command::SetIntent {
                intent: Intent {
                    instance,
                    origin: origin.clone(),
                    details,
                },
            });
        }
        wanted.insert(id);
    }
    // An expired downtime stays recorded until its entry is removed from the document. It has no effect, and two
    // different clocks would otherwise end and set it in turn.
    let listed: BTreeSet<IntentId> = declared
        .downtime
        .iter()
        .map(|entry| IntentId {
            kind: crate::domain::intent::IntentKind::Downtime,
            instance: entry.instance.clone(),
            origin: origin.clone(),
        })
        .collect();
    let unwanted = state.intents.iter().filter(|(id, intent)| {
        let is_over = listed.contains(id) && !intent.details.is_active(now);
        id.origin == *origin && !wanted.contains(id) && !is_over
    });
    let end = unwanted.map(|(id, _)| Command::EndIntent { id: id.clone() });
    (set, end.collect())
}

/// Whether two intents are equal except for the start time, which the state keeps from the first record.
fn same_details(present: &IntentDetails, wanted: &IntentDetails) -> bool {
    match (present, wanted) {
        (
            IntentDetails::Downtime {
                owner,
                reason,
                until,
                since: _,
            },
            IntentDetails::Downtime {
                owner: wanted_owner,
                reason: wanted_reason,
                until: wanted_until,
                since: _,
            },
        ) => owner == wanted_owner && reason == wanted_reason && until == wanted_until,
        (IntentDetails::Candidate { .. }, IntentDetails::Candidate { .. }) => present == wanted,
        (IntentDetails::Downtime { .. }, IntentDetails::Candidate { .. })
        | (IntentDetails::Candidate { .. }, IntentDetails::Downtime { .. }) => false,
    }
}

/// Adds the commands for documents that are gone.
///
/// The deletion of one document is taken as a deletion. When two or more documents of one namespace are gone and none
/// is left, a namespace, a mount or a permission may have been removed by mistake, so nothing is withdrawn for
/// [`HOLD_MILLIS`].
pub(super) fn withdrawals(
    answer: &mut Reconciliation,
    seen: &SourceContents,
    state: &State,
    vanished: &BTreeMap<Origin, WallTime>,
    now: WallTime,
) {
    let is_there = |origin: &Origin| {
        seen.unreadable.contains_key(origin)
            || seen
                .documents
                .iter()
                .any(|declared| declared.document.origin == *origin)
    };
    let recorded: BTreeSet<&Origin> = state
        .documents
        .keys()
        .chain(state.intents.keys().map(|id| &id.origin))
        .filter(|origin| matches!(origin, Origin::Document { .. }))
        .collect();
    let mut gone: BTreeMap<&str, Vec<&Origin>> = BTreeMap::new();
    for origin in recorded.into_iter().filter(|origin| !is_there(origin)) {
        if let Origin::Document { namespace, .. } = origin {
            gone.entry(namespace).or_default().push(origin);
        }
    }
    if seen.completeness != Completeness::Complete {
        // The absence is neither confirmed nor refuted, so a hold that began continues.
        answer.vanished = vanished
            .iter()
            .filter(|(origin, _)| !is_there(origin))
            .map(|(origin, since)| (origin.clone(), *since))
            .collect();
        return;
    }
    for (namespace, origins) in gone {
        let is_empty = !seen
            .unreadable
            .keys()
            .chain(seen.documents.iter().map(|declared| &declared.document.origin))
            .any(|origin| matches!(origin, Origin::Document { namespace: other, .. } if other == namespace));
        let hold = is_empty && (origins.len() > 1 || origins.iter().any(|origin| vanished.contains_key(*origin)));
        let mut waiting = Vec::new();
        for origin in origins {
            let since = vanished.get(origin).copied().unwrap_or(now);
            if hold && now.millis_since(since) < HOLD_MILLIS {
                answer.vanished.insert(origin.clone(), since);
                waiting.push(origin.to_string());
            } else {
                answer
                    .commands
                    .push(Command::WithdrawDocument { origin: origin.clone() });
            }
        }
        if !waiting.is_empty() {
            answer.warnings.push(format!(
                "all documents of namespace {namespace} disappeared at once ({}): their settings stay in effect for {} minutes in case of a mistake",
                waiting.join(", "),
                HOLD_MILLIS / 60_000
            ));
        }
    }
}
