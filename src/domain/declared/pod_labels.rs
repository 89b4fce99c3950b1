//! The roles of servers as labels of the pods that they run in.
//!
//! A projection like the Services, by the same word on who the primary is. Losing sight of a server takes no label away: the primary keeps
//! its own until another one is opened, or it says itself that it is read-only while it is being replaced.

use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::state::State;

use super::document::DeclaredCluster;
use super::endpoints::{self, Lead};
use super::pods::{Pod, Pods, Sight};
use super::status::{InstanceStatus, Role, StatusModel};
use super::{ClusterView, Reading, Reconciliation, Seen};

/// What the server in a pod is, as its label tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodRole {
    /// The primary, which was seen to take writes.
    Primary,
    /// A replica.
    Replica,
    /// It has transactions that the primary lacks.
    Errant,
    /// Neither: it is being replaced, is kept read-only, or replicates from nobody.
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

/// The labels of one pod as they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLabel {
    /// Its name.
    pub pod: String,
    /// Its uid: another pod of that name is left alone.
    pub uid: String,
    /// The role; `None`: it has no such labels.
    pub role: Option<PodRole>,
    /// Nobody else is called primary before this is written, or the pod is gone.
    pub ends_primary: bool,
}

/// Why a label was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The source of the documents has no pods, or is not to label them.
    #[error("pods are not labelled here")]
    Unsupported,
    /// The pod is gone: there is nothing to write.
    #[error("the pod is gone")]
    Gone,
    /// It may not be written.
    #[error("{0}")]
    Forbidden(String),
    /// It failed and is worth another attempt.
    #[error("{0}")]
    Failed(String),
}

/// The labels of a document's pods that are not as they must be. What takes `primary` away comes first, what gives it last.
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
    let Some((view, cluster)) = seen.filter(|_| pods.pods == Sight::Current) else {
        return Vec::new();
    };
    let led = match endpoints::primary(view, cluster, state) {
        Lead::AsItIs => None,
        Lead::To(led) => Some(led),
    };
    let leads_to = |instance: &Instance| {
        let ip = instance.facts.as_ref().and_then(|facts| facts.peer);
        let is_it = |at: &core::net::SocketAddr| ip.map(|ip| ip.to_canonical()) == Some(at.ip());
        led.as_ref()
            .is_some_and(|led| led.iter().any(|at| is_it(at) && at.port() == instance.key.port))
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
            // Who is the primary is not known better than the label says.
            _ if was_primary && led.is_none() => None,
            // What does not answer may have given its address to another pod.
            Some((instance, status)) if instance.is_valid() => role_of(status),
            _ => None,
        };
        // Somebody else is the primary, or nobody is.
        let role = role.or((was_primary && led.is_some()).then_some(PodRole::Unknown));
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

/// The role of a server that answers and is not the one that takes writes; `None`: what its label says stays.
fn role_of(status: &InstanceStatus) -> Option<PodRole> {
    if status.errant.is_some() {
        return Some(PodRole::Errant);
    }
    match status.role {
        Role::Replica => Some(PodRole::Replica),
        Role::Quarantined | Role::Detached | Role::Unknown => Some(PodRole::Unknown),
        // It answered and was not proved: read-only for a moment, perhaps.
        Role::Primary => None,
    }
}

/// The labels of documents that are gone and withdrawn.
pub(super) fn of_withdrawn(answer: &mut Reconciliation, seen: &Seen, state: &State) {
    if seen.reading != Reading::Complete || seen.pods.pods != Sight::Current {
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
