//! The one reconcile: what documents ask for, held against the replicated state, gives commands that are missing and a status.
//!
//! Pure and level-triggered: the same documents and the same state give the same answer, and once its commands are applied there are
//! none left. Nothing here waits for a server. Every source of documents (API server, directory) ends in a [`Seen`].

mod commands;
mod conditions;
mod definition;
mod document;
pub mod drain;
mod endpoints;
mod events;
pub mod incident;
mod pod_labels;
pub mod pods;
mod reason;
mod requests;
mod status;
mod view;

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
    DeclaredCandidate, DeclaredCluster, DeclaredDowntime, DeclaredTakeover, ObservedBy, SecretStanding, Tls,
};
pub use endpoints::{DeclaredServices, Lead, LeadsTo, Publication, PublishError, WantedService};
pub use events::{ClusterEvent, EventReason};
pub use pod_labels::{LabelError, PodLabel, PodRole};
pub use reason::Reason;
pub use requests::FORCE_ANNOTATION;
pub use status::{
    Condition, ConditionKind, DowntimeAsker, DowntimeEnd, DowntimePhase, DowntimeStatus, ForcePhase, ForceStatus,
    InstanceStatus, LastRecovery, Observer, PrimaryStatus, Promotable, RecoveryPhase, RecoveryStatus, Role,
    StatusModel, TakeoverPhase, TakeoverStatus, Truth,
};

use self::pods::Pods;
use crate::domain::finding::Finding;
use crate::domain::intent::Origin;
use crate::domain::policy::Policy;
use crate::domain::state::{Cluster, Command, State};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// How long all documents of a namespace may be gone before that is believed: time to notice that a namespace, a folder or a
/// permission went by mistake.
pub const HOLD_MILLIS: u64 = 10 * 60 * 1000;

/// How long another group's sign of life in a status keeps this one from acting on the document.
pub const FOREIGN_MILLIS: u64 = 90 * 1000;

/// How far what was read can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Nothing was read yet, or the last attempt failed: what is there may be old, and what is absent may be there.
    #[default]
    Stale,
    /// The documents are as they are now, and there may be others.
    Partial,
    /// These are all documents, as they are now.
    Complete,
}

/// What a source of documents saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How far it can be relied on.
    pub reading: Reading,
    /// Documents that could be read.
    pub documents: Vec<DeclaredCluster>,
    /// Documents that are there and cannot be read, with the reason: what they last asked for stays.
    pub unreadable: BTreeMap<Origin, String>,
    /// The pods that servers may run in, and their nodes.
    pub pods: Arc<Pods>,
    /// The definition by which they are served.
    pub definition: Definition,
    /// It was not looked at since documents changed: what they lack may have been cut away by another one.
    pub unchecked: bool,
}

/// A cluster as this member sees it now.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Its record.
    pub cluster: Cluster,
    /// Its instances.
    pub topology: Topology,
    /// What may be done to it.
    pub policy: Policy,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Why a recovery that a finding calls for does not run; empty when none is called for.
    pub held_back: Vec<String>,
}

/// What a reconcile answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// What is missing in the state, in order; empty when nothing is.
    pub commands: Vec<Command>,
    /// The status of every document that this group may write one for.
    pub statuses: BTreeMap<Origin, StatusModel>,
    /// What happened to the clusters of documents a short while ago, or lasts.
    pub notices: BTreeMap<Origin, Vec<ClusterEvent>>,
    /// The Services of every document that this group may act on.
    pub publications: BTreeMap<Origin, Publication>,
    /// Labels of pods that are not as they must be, by the document that they are about, in the order in which they are put right.
    pub pod_labels: BTreeMap<Origin, Vec<PodLabel>>,
    /// Documents that are gone and held, with the moment when that was seen first: the next reconcile wants it back.
    pub vanished: BTreeMap<Origin, WallTime>,
    /// What a person should know; the same words as long as it lasts.
    pub warnings: Vec<String>,
}

/// Holds documents against the state.
///
/// `vanished` is what the last answer gave; empty on a new leader, which only makes the hold longer.
pub fn reconcile(
    seen: &Seen,
    state: &State,
    views: &[ClusterView],
    vanished: &BTreeMap<Origin, WallTime>,
    now: WallTime,
) -> Reconciliation {
    let mut answer = Reconciliation::default();
    let documents: Vec<definition::Whole<'_>> = seen
        .documents
        .iter()
        .map(|declared| definition::complete(declared, seen, state))
        .collect();
    for whole in &documents {
        let (first, declared) = (answer.commands.len(), &whole.declared);
        commands::of_document(&mut answer, seen.reading, declared, state, views, now);
        requests::of_document(&mut answer, seen.reading, declared, state, views, now);
        drain::of_document(&mut answer, seen, declared, state, views, now);
        definition::date(&mut answer.commands, first, whole, state);
    }
    commands::withdrawals(&mut answer, seen, state, vanished, now);
    for definition::Whole {
        declared, condition, ..
    } in &documents
    {
        if declared.foreign_owner(state, now).is_none() {
            let (mut status, view) = view::status(declared, state, views, now);
            drain::tell(&mut status, seen, declared, state, view, now);
            status.say(condition.clone());
            let notices = events::of(declared, state, &status, view, now);
            // A view that lags behind does not know what is asked for, and an old one not that nothing is.
            let is_unsure = seen.reading == Reading::Stale || definition::may_hide_services(declared, seen);
            let may_be_asked = is_unsure && declared.services.is_none();
            if !may_be_asked && !declared.is_outdated(state) {
                let publication = endpoints::of(declared, state, &status, view);
                let labels = pod_labels::of(declared, &seen.pods, state, &status, view);
                answer.pod_labels.insert(declared.document.origin.clone(), labels);
                let origin = declared.document.origin.clone();
                answer.publications.insert(origin, publication);
            }
            answer.notices.insert(declared.document.origin.clone(), notices);
            answer.statuses.insert(declared.document.origin.clone(), status);
        }
    }
    pod_labels::of_withdrawn(&mut answer, seen, state);
    for (origin, why) in &seen.unreadable {
        let mut status = StatusModel::unreadable(why);
        status.say(definition::condition(&seen.definition, &[]));
        answer.statuses.insert(origin.clone(), status);
    }
    answer
}
