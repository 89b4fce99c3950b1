//! The roles of servers as labels of their pods.
//!
//! A projection like the Services, with the same proof of the primary. A server that does not answer keeps its label:
//! the primary keeps its own until another one is opened, or until it reports that it is read-only while it is being
//! replaced.

use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::state::State;

use super::document::DeclaredCluster;
use super::endpoints::{self, ServiceTarget};
use super::pods::{Pod, Pods, WatchState};
use super::status::{InstanceStatus, Role, StatusModel};
use super::{ClusterView, Completeness, Reconciliation, SourceContents};

/// The role of the server in a pod, as the label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodRole {
    /// The primary, which was seen writable.
    Primary,
    /// A replica.
    Replica,
    /// A server with transactions that the primary lacks.
    Errant,
    /// None of these: it is being replaced, is kept read-only, or has no source.
    Unknown,
}

impl PodRole {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Errant => "errant",
            Self::Unknown => "unknown",
        }
    }
}

/// The labels of one pod in their desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLabel {
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod: another pod of that name is not labelled.
    pub uid: String,
    /// The role; `None` when the pod must not have these labels.
    pub role: Option<PodRole>,
    /// Whether no other pod may be labelled primary before this label is written or the pod is gone.
    pub ends_primary: bool,
}

/// Why a label was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The source of the documents has no pods, or labels are disabled.
    #[error("labels of pods are not supported here")]
    Unsupported,
    /// The pod no longer exists.
    #[error("the pod no longer exists")]
    Gone,
    /// The permission to write labels is missing.
    #[error("{0}")]
    Forbidden(String),
    /// The write failed and can be retried.
    #[error("{0}")]
    Failed(String),
}

/// The labels of a document's pods that must change. Labels that remove the role primary come first, the label that
/// assigns it last.
pub(super) fn of(
    declared: &DeclaredCluster,
    pods: &Pods,
    state: &State,
    model: &StatusModel,
    view: Option<&ClusterView>,
) -> Vec<PodLabel> {
    let Origin::Document { namespace, name } = &declared.document.origin else {
        return Vec::new();
    };
    let seen = view.and_then(|view| Some((view, state.clusters.get(&view.cluster.id)?)));
    let Some((view, cluster)) = seen.filter(|_| pods.pods == WatchState::Current) else {
        return Vec::new();
    };
    let published = match endpoints::primary(view, cluster, state) {
        ServiceTarget::Unchanged => None,
        ServiceTarget::Addresses(published) => Some(published),
    };
    let leads_to = |instance: &Instance| {
        let ip = instance.facts.as_ref().and_then(|facts| facts.peer);
        let is_it = |at: &core::net::SocketAddr| ip.map(|ip| ip.to_canonical()) == Some(at.ip());
        published
            .as_ref()
            .is_some_and(|published| published.iter().any(|at| is_it(at) && at.port() == instance.key.port))
    };
    let mut wrong = Vec::new();
    for pod in pods.all().filter(|pod| pod.namespace == *namespace) {
        let is_ours = pod.labelled_cluster.as_ref() == Some(name);
        let was_primary = is_ours && pod.labelled_role.as_deref() == Some(PodRole::Primary.as_str());
        let mut inside = model.instances.iter().filter_map(|status| {
            let instance = view.topology.get(&status.instance)?;
            let is_in_it = pods.of(namespace, instance).is_some_and(|there| there.uid == pod.uid);
            is_in_it.then_some((instance, status))
        });
        let role = match inside.next() {
            Some((instance, _)) if leads_to(instance) => Some(PodRole::Primary),
            // The primary is not known better than by the label.
            _ if was_primary && published.is_none() => None,
            // The address of a server that does not answer may belong to another pod by now.
            Some((instance, status)) if instance.is_valid() => role_of(status),
            _ => None,
        };
        // Another server is the primary, or none is.
        let role = role.or((was_primary && published.is_some()).then_some(PodRole::Unknown));
        if let Some(role) = role
            && !(is_ours && pod.labelled_role.as_deref() == Some(role.as_str()))
        {
            wrong.push(label(pod, Some(role), was_primary));
        }
    }
    wrong.sort_by_key(|label| (!label.ends_primary, label.role == Some(PodRole::Primary)));
    wrong
}

fn label(pod: &Pod, role: Option<PodRole>, ends_primary: bool) -> PodLabel {
    PodLabel {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        role,
        ends_primary,
    }
}

/// The role of a server that answers and is not the proved primary; `None` when its label stays.
fn role_of(status: &InstanceStatus) -> Option<PodRole> {
    if status.errant.is_some() {
        return Some(PodRole::Errant);
    }
    match status.role {
        Role::Replica => Some(PodRole::Replica),
        Role::Quarantined | Role::Detached | Role::Unknown => Some(PodRole::Unknown),
        // The recorded primary answered without proof that it is writable: it may be read-only for a moment.
        Role::Primary => None,
    }
}

/// The labels of documents that are gone and withdrawn.
pub(super) fn of_withdrawn(answer: &mut Reconciliation, seen: &SourceContents, state: &State) {
    if seen.completeness != Completeness::Complete || seen.pods.pods != WatchState::Current {
        return;
    }
    for pod in seen.pods.all() {
        let (Some(name), Some(_)) = (&pod.labelled_cluster, &pod.labelled_role) else {
            continue;
        };
        let origin = Origin::Document {
            namespace: pod.namespace.clone(),
            name: name.clone(),
        };
        let is_there = seen.unreadable.contains_key(&origin)
            || state.documents.contains_key(&origin)
            || seen.documents.iter().any(|declared| declared.document.origin == origin);
        if !is_there {
            answer
                .pod_labels
                .entry(origin)
                .or_default()
                .push(label(pod, None, false));
        }
    }
}

#[cfg(test)]
#[path = "pod_labels_tests.rs"]
mod tests;
