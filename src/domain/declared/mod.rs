//! The reconcile of documents: from documents and replicated state it computes the missing commands and the statuses.
//!
//! Pure and level-triggered: the same documents and the same state give the same result, and once its commands are
//! applied there are none left. Nothing here waits for a server. Every source of documents (API server, folder)
//! delivers a [`SourceContents`].

mod commands;
mod conditions;
mod definition;
mod document;
pub mod drain;
mod endpoints;
mod events;
pub mod incident_id;
mod pod_labels;
pub mod pods;
mod reason;
mod requests;
mod status;
mod status_builder;

#[cfg(test)]
mod definition_tests;
#[cfg(test)]
mod endpoints_tests;
#[cfg(test)]
mod event_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use definition::{Definition, optional_fields};
pub use document::{
    DeclaredCandidate, DeclaredCluster, DeclaredDowntime, DeclaredTakeover, ObservedBy, SecretState, Tls,
};
pub use endpoints::{DeclaredServices, Publication, PublishError, PublishedAddresses, ServiceTarget, WantedService};
pub use events::{ClusterEvent, EventReason};
pub use pod_labels::{LabelError, PodLabel, PodRole};
pub use reason::Reason;
pub use requests::FORCE_ANNOTATION;
pub use status::{
    Condition, ConditionKind, ConditionStatus, DowntimeEnd, DowntimeOrigin, DowntimePhase, DowntimeStatus, ForcePhase,
    ForceStatus, InstanceStatus, LastRecovery, Observer, PrimaryStatus, Promotable, RecoveryPhase, RecoveryStatus,
    Role, StatusModel, TakeoverPhase, TakeoverStatus,
};

use self::pods::Pods;
use crate::domain::cluster_view::ClusterView;
use crate::domain::intent::Origin;
use crate::domain::state::{Command, State};
use crate::domain::time::WallTime;

/// How long the absence of all documents of a namespace is not acted on. This leaves time to notice that a namespace, a
/// folder or a permission was removed by mistake.
pub const HOLD_MILLIS: u64 = 10 * 60 * 1000;

/// How long a renewal time of another group in a status keeps this group from acting on the document.
pub const FOREIGN_MILLIS: u64 = 90 * 1000;

/// How complete and current the contents of a source are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completeness {
    /// Nothing was read yet, or the last attempt failed: present documents may be old, and absent ones may exist.
    #[default]
    Stale,
    /// The documents are current, and there may be others.
    Partial,
    /// These are all documents, and they are current.
    Complete,
}

/// What a source of documents delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceContents {
    /// How complete and current it is.
    pub completeness: Completeness,
    /// Documents that could be parsed.
    pub documents: Vec<DeclaredCluster>,
    /// Documents that exist and cannot be parsed, with the reason. What they last asked for stays.
    pub unreadable: BTreeMap<Origin, String>,
    /// The pods of the servers, and their nodes.
    pub pods: Arc<Pods>,
    /// The definition by which the documents are served.
    pub definition: Definition,
    /// Whether the definition was not checked since documents changed: absent fields may have been pruned by another
    /// definition.
    pub unchecked: bool,
}

/// The result of a reconcile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// Commands that bring the state in line with the documents, in order; empty when none is needed.
    pub commands: Vec<Command>,
    /// The status of every document, where this group may write it.
    pub statuses: BTreeMap<Origin, StatusModel>,
    /// Events of the clusters of documents: recent transitions and lasting problems.
    pub events: BTreeMap<Origin, Vec<ClusterEvent>>,
    /// The Services of every document that this group may act on.
    pub publications: BTreeMap<Origin, Publication>,
    /// Pod labels that must change, by document, in the order of the writes.
    pub pod_labels: BTreeMap<Origin, Vec<PodLabel>>,
    /// Documents that are absent and not withdrawn yet, with the time when that was first seen. The next reconcile
    /// takes this as an argument.
    pub vanished: BTreeMap<Origin, WallTime>,
    /// Warnings for the operator. The text stays the same as long as the cause lasts.
    pub warnings: Vec<String>,
}

/// Compares documents with the state.
///
/// `vanished` comes from the last result. It is empty on a new leader, which only makes the hold longer.
pub fn reconcile(
    seen: &SourceContents,
    state: &State,
    views: &[ClusterView],
    vanished: &BTreeMap<Origin, WallTime>,
    now: WallTime,
) -> Reconciliation {
    let mut answer = Reconciliation::default();
    let mut documents: Vec<definition::CompletedDocument<'_>> = seen
        .documents
        .iter()
        .map(|declared| definition::complete(declared, seen, state))
        .collect();
    // Of documents that are new at the same time the oldest is recorded first, so that its account is tried first.
    documents.sort_by_key(|whole| {
        (
            whole.declared.created.unwrap_or(now),
            whole.declared.document.origin.clone(),
        )
    });
    for whole in &documents {
        let (first, declared) = (answer.commands.len(), &whole.declared);
        commands::of_document(&mut answer, seen.completeness, declared, state, views, now);
        requests::of_document(&mut answer, seen.completeness, declared, state, views, now);
        drain::of_document(&mut answer, seen, declared, state, views, now);
        definition::settle_generation(&mut answer.commands, first, whole, state);
    }
    commands::withdrawals(&mut answer, seen, state, vanished, now);
    for definition::CompletedDocument {
        declared, condition, ..
    } in &documents
    {
        if declared.foreign_owner(state, now).is_none() {
            let (mut status, view) = status_builder::status(declared, state, views, now);
            drain::add_to_status(&mut status, seen, declared, state, view, now);
            status.set_condition(condition.clone());
            let events = events::of(declared, state, &status, view, now);
            // A delayed view may lack the document's Services, and an outdated definition may hide them.
            let is_unsure = seen.completeness == Completeness::Stale || definition::may_hide_services(declared, seen);
            let may_be_asked = is_unsure && declared.services.is_none();
            if !may_be_asked && !declared.is_outdated(state) {
                let publication = endpoints::of(declared, state, &status, view);
                let labels = pod_labels::of(declared, &seen.pods, state, &status, view);
                answer.pod_labels.insert(declared.document.origin.clone(), labels);
                let origin = declared.document.origin.clone();
                answer.publications.insert(origin, publication);
            }
            answer.events.insert(declared.document.origin.clone(), events);
            answer.statuses.insert(declared.document.origin.clone(), status);
        }
    }
    pod_labels::of_withdrawn(&mut answer, seen, state);
    for (origin, why) in &seen.unreadable {
        let mut status = StatusModel::unreadable(why);
        status.set_condition(definition::condition(&seen.definition, &[]));
        answer.statuses.insert(origin.clone(), status);
    }
    answer
}
