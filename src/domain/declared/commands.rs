//! What the state lacks of the documents, and what it has of documents that are gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::intent::{Intent, IntentId, Origin, Wish};
use crate::domain::key::InstanceKey;
use crate::domain::state::{Cluster, Command, State};
use crate::domain::time::WallTime;

use super::document::DeclaredCluster;
use super::requests;
use super::{ClusterView, HOLD_MILLIS, Reading, Reconciliation, Seen};

/// The commands for one document that was read.
pub(super) fn of_document(
    answer: &mut Reconciliation,
    reading: Reading,
    declared: &DeclaredCluster,
    state: &State,
    views: &[ClusterView],
    now: WallTime,
) {
    let origin = &declared.document.origin;
    if declared.is_outdated(state) {
        answer.warnings.push(format!(
            "{origin}: generation {} was read and a newer one is recorded: this member's view of the document lags, nothing is changed",
            declared.document.generation
        ));
        return;
    }
    if let Some(owner) = declared.foreign_owner(state, now) {
        answer.warnings.push(format!(
            "{origin}: OwnedByAnotherGroup: group {owner} writes its status, so it is only observed"
        ));
    }
    let older = older_document(declared, state, views);
    if let Some(winner) = older {
        answer.warnings.push(format!(
            "{origin}: names a cluster that the older document {winner} owns; only that one counts"
        ));
    }
    let wishes = if older.is_some() {
        Vec::new()
    } else {
        declared.wishes(now)
    };
    let (set, end) = intents(declared, wishes, state, now);
    let mut wanted = declared.wanted_record(state, now);
    let is_stale = reading == Reading::Stale;
    if is_stale && (!end.is_empty() || requests::has_others_open(declared, state)) {
        // Nothing is taken back by a reading that may be old, so its generation is not settled either.
        wanted.generation = declared.recorded(state).map_or(0, |recorded| recorded.generation);
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

/// The older document that owns the cluster which this one names, when this one owns none.
pub(super) fn older_document<'a>(
    declared: &DeclaredCluster,
    state: &'a State,
    views: &[ClusterView],
) -> Option<&'a Origin> {
    let origin = &declared.document.origin;
    // A seed may be another name of a server that is recorded: the view knows it.
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

/// The commands for what a document wishes and the state lacks, and for what the state has and the document does not wish.
fn intents(
    declared: &DeclaredCluster,
    wishes: Vec<(InstanceKey, Wish)>,
    state: &State,
    now: WallTime,
) -> (Vec<Command>, Vec<Command>) {
    let origin = &declared.document.origin;
    let mut set = Vec::new();
    let mut wanted: BTreeSet<IntentId> = BTreeSet::new();
    for (instance, wish) in wishes {
        let id = IntentId {
            kind: wish.kind(),
            instance: instance.clone(),
            origin: origin.clone(),
        };
        let present = state.intents.get(&id);
        if present.is_none_or(|present| !same_wish(&present.wish, &wish)) {
            set.push(Command::SetIntent {
                intent: Intent {
                    instance,
                    origin: origin.clone(),
                    wish,
                },
            });
        }
        wanted.insert(id);
    }
    // One whose time has passed stays recorded until its entry goes: it counts for nothing, and two clocks that differ would
    // otherwise end and set it in turn.
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
        let is_over = listed.contains(id) && !intent.wish.is_active(now);
        id.origin == *origin && !wanted.contains(id) && !is_over
    });
    let end = unwanted.map(|(id, _)| Command::EndIntent { id: id.clone() });
    (set, end.collect())
}

/// The same but for when it began, which the state keeps from the first time.
fn same_wish(present: &Wish, wanted: &Wish) -> bool {
    match (present, wanted) {
        (
            Wish::Downtime {
                owner,
                reason,
                until,
                since: _,
            },
            Wish::Downtime {
                owner: wanted_owner,
                reason: wanted_reason,
                until: wanted_until,
                since: _,
            },
        ) => owner == wanted_owner && reason == wanted_reason && until == wanted_until,
        (Wish::Candidate { .. }, Wish::Candidate { .. }) => present == wanted,
        (Wish::Downtime { .. }, Wish::Candidate { .. }) | (Wish::Candidate { .. }, Wish::Downtime { .. }) => false,
    }
}

/// The commands for documents that are gone.
///
/// A deletion of one document is a deletion. That two or more documents of one namespace are gone and none is left looks the same as
/// a namespace, a mount or a permission that went by mistake, so it is held for [`HOLD_MILLIS`].
pub(super) fn withdrawals(
    answer: &mut Reconciliation,
    seen: &Seen,
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
    if seen.reading != Reading::Complete {
        // Neither believed nor forgotten: a hold that began goes on.
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
                "all documents of namespace {namespace} are gone at once ({}): what they ask for stays for {} minutes, in case that is a mistake",
                waiting.join(", "),
                HOLD_MILLIS / 60_000
            ));
        }
    }
}
