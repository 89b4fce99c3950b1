//! Caches the relevant fields of pods and nodes, and writes the labels of pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod as KubePod, Taint as KubeTaint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::domain::declared::pods::{CORDON_TAINT, Node, Pod, Pods, Taint, Toleration, WatchState};
use crate::domain::declared::{LabelError, PodLabel};
use crate::domain::intent::Origin;
use crate::domain::time::WallTime;
use crate::resource;

use super::RequestError;
use super::list_watch::ObjectChange;

/// Label of a pod: the name of the document that its server belongs to.
const CLUSTER_LABEL: &str = "ham4db.io/cluster";
/// Label of a pod: the role of its server.
const ROLE_LABEL: &str = "ham4db.io/role";
/// Field selector for running pods: a pod keeps its address after its containers ended, and another pod may have that address by
/// then.
pub(super) const RUNNING: &str = "status.phase=Running";

/// The watches of pods and nodes, beside those of documents and Secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodWatches {
    /// Watch pods and nodes, to detect pods that are about to end.
    pub drains: bool,
    /// Watch pods, to label them with the roles of their servers.
    pub role_labels: bool,
}

/// The pods and nodes that were read.
#[derive(Default)]
pub(super) struct PodsAndNodes {
    pod_watches: PodWatches,
    /// For each scope its namespace (`None` means all namespaces) and the state of its watch.
    scopes: Vec<(Option<String>, WatchState)>,
    known: Arc<Pods>,
}

impl PodsAndNodes {
    /// Creates an empty cache.
    pub(super) fn new(pod_watches: PodWatches, scopes: Vec<Option<String>>) -> Self {
        let mut this = Self {
            pod_watches,
            scopes: scopes.into_iter().map(|scope| (scope, WatchState::Stale)).collect(),
            known: Arc::default(),
        };
        this.update_pods_state();
        if pod_watches.drains {
            Arc::make_mut(&mut this.known).nodes = WatchState::Stale;
        }
        this
    }

    /// The known pods and nodes.
    pub(super) fn known(&self) -> Arc<Pods> {
        Arc::clone(&self.known)
    }

    /// Sets the state of the pods to the worst state of all scopes.
    fn update_pods_state(&mut self) {
        if !self.pod_watches.drains && !self.pod_watches.role_labels {
            return;
        }
        let mut all = self.scopes.iter().map(|(_, watch_state)| watch_state);
        let worst = all
            .clone()
            .find(|watch_state| matches!(watch_state, WatchState::Forbidden(_)));
        let worst = worst.or_else(|| all.find(|watch_state| **watch_state != WatchState::Current));
        let watch_state = worst.unwrap_or(&WatchState::Current);
        if self.known.pods != *watch_state {
            Arc::make_mut(&mut self.known).pods = watch_state.clone();
        }
    }

    /// Applies a change of the pods of a scope. Returns a warning for the log.
    pub(super) fn apply_pods(&mut self, number: usize, change: ObjectChange<KubePod>) -> Option<String> {
        let verbs = if self.pod_watches.role_labels {
            "get, list, watch, patch"
        } else {
            "get, list, watch"
        };
        let (scope, watch_state) = self.scopes.get_mut(number)?;
        let mut warning = None;
        match change {
            ObjectChange::Listed(pods) => {
                let pods: Vec<Pod> = pods.iter().map(pod_of).collect();
                let there: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
                let is_of_it = |pod: &&Pod| scope.as_ref().is_none_or(|namespace| pod.namespace == *namespace);
                let gone = self
                    .known
                    .all()
                    .filter(is_of_it)
                    .filter(|pod| !there.contains(&pod.uid));
                let gone: Vec<String> = gone.map(|pod| pod.uid.clone()).collect();
                *watch_state = WatchState::Current;
                for uid in gone {
                    Arc::make_mut(&mut self.known).remove(&uid);
                }
                for pod in pods {
                    Arc::make_mut(&mut self.known).put(pod);
                }
            }
            ObjectChange::Applied(pod) => {
                let pod = pod_of(&pod);
                // Most changes of a pod concern other fields. For those the shared copy is not cloned.
                if self.known.get(&pod.uid) != Some(&pod) {
                    Arc::make_mut(&mut self.known).put(pod);
                }
            }
            ObjectChange::Deleted(pod) => {
                Arc::make_mut(&mut self.known).remove(&pod.uid().unwrap_or_default());
            }
            ObjectChange::Broken(request_error) => {
                let role = scope.as_ref().map_or_else(
                    || "a ClusterRole".to_owned(),
                    |namespace| format!("a Role in namespace {namespace}"),
                );
                warning = mark_unreadable(watch_state, &request_error, &role, "pods", verbs);
            }
        }
        self.update_pods_state();
        warning
    }

    /// Applies a change of the nodes. Returns a warning for the log.
    pub(super) fn apply_nodes(&mut self, change: ObjectChange<KubeNode>) -> Option<String> {
        let known = &mut self.known;
        match change {
            ObjectChange::Listed(nodes) => {
                let known = Arc::make_mut(known);
                let there: BTreeSet<String> = nodes.iter().map(KubeNode::name_any).collect();
                let gone: Vec<String> = known
                    .node_names()
                    .filter(|name| !there.contains(*name))
                    .cloned()
                    .collect();
                for name in gone {
                    known.remove_node(&name);
                }
                for node in nodes {
                    known.put_node(node.name_any(), node_of(&node));
                }
                known.nodes = WatchState::Current;
            }
            ObjectChange::Applied(node) => {
                let (name, node) = (node.name_any(), node_of(&node));
                // Nodes report their health all the time. For those changes the shared copy is not cloned.
                if known.node(&name) != Some(&node) {
                    Arc::make_mut(known).put_node(name, node);
                }
            }
            ObjectChange::Deleted(node) => {
                Arc::make_mut(known).remove_node(&node.name_any());
            }
            ObjectChange::Broken(request_error) => {
                let watch_state = &mut Arc::make_mut(known).nodes;
                return mark_unreadable(
                    watch_state,
                    &request_error,
                    "a ClusterRole",
                    "nodes",
                    "get, list, watch",
                );
            }
        }
        None
    }
}

/// Marks the known state as outdated. Returns a warning when a permission is missing, unless it was missing before.
fn mark_unreadable(
    watch_state: &mut WatchState,
    request_error: &RequestError,
    role: &str,
    what: &str,
    verbs: &str,
) -> Option<String> {
    if !request_error.is_forbidden() {
        *watch_state = WatchState::Stale;
        return None;
    }
    let why = format!(
        "RBAC refuses to read {what}: set drain.enabled or podRoleLabels.enabled of the chart, or apply {role} with apiGroups: [''], \
         resources: [{what}], verbs: [{verbs}], bound to ham4db's service account ({})",
        request_error.why
    );
    let is_new = !matches!(watch_state, WatchState::Forbidden(_));
    *watch_state = WatchState::Forbidden(why.clone());
    is_new.then_some(why)
}

/// The relevant fields of a pod.
fn pod_of(pod: &KubePod) -> Pod {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let single = status.and_then(|status| status.pod_ip.as_ref());
    let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    let disruption = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True");
    let is_on_node = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let ports = ports
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect();
    Pod {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        addresses: all
            .map(|ip| &ip.ip)
            .chain(single)
            .filter_map(|ip| ip.parse::<core::net::IpAddr>().ok())
            .map(|ip| ip.to_canonical())
            .collect(),
        ports_on_node: is_on_node.then_some(ports),
        node: spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        is_deleted: pod.metadata.deletion_timestamp.is_some(),
        disruption: disruption.map(|condition| condition.reason.clone().unwrap_or_default()),
        tolerations: spec
            .and_then(|spec| spec.tolerations.as_ref())
            .into_iter()
            .flatten()
            .map(|toleration| Toleration {
                key: toleration.key.clone().unwrap_or_default(),
                value: (toleration.operator.as_deref() != Some("Exists"))
                    .then(|| toleration.value.clone().unwrap_or_default()),
                effect: toleration.effect.clone().unwrap_or_default(),
                is_limited: toleration.toleration_seconds.is_some(),
            })
            .collect(),
        labelled_cluster: pod.labels().get(CLUSTER_LABEL).cloned(),
        labelled_role: pod.labels().get(ROLE_LABEL).cloned(),
    }
}

/// The relevant fields of a node.
fn node_of(node: &KubeNode) -> Node {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let added = |at: &Option<Time>| at.as_ref().map(|at| WallTime(at.0.as_millisecond()));
    let is_of_cordon = |taint: &&KubeTaint| taint.key == CORDON_TAINT;
    let cordon = taints.iter().find(is_of_cordon);
    Node {
        is_cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
        cordoned: cordon.and_then(|taint| added(&taint.time_added)),
        taints: taints
            .iter()
            .filter(|taint| !is_of_cordon(taint))
            .map(|taint| Taint {
                key: taint.key.clone(),
                value: taint.value.clone().unwrap_or_default(),
                effect: taint.effect.clone(),
                added: added(&taint.time_added),
            })
            .collect(),
    }
}

/// Writes the labels of one pod.
///
/// # Errors
/// When the pod is gone, RBAC refuses, or the request fails.
pub(super) async fn label(client: &Client, origin: &Origin, label: &PodLabel) -> Result<(), LabelError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(LabelError::Unsupported);
    };
    let pods: Api<KubePod> = Api::namespaced(client.clone(), namespace);
    // With the uid in the patch, the API server refuses to change another pod of the same name.
    let patch = json!({"metadata": {
        "uid": label.uid,
        "labels": {
            CLUSTER_LABEL: label.role.map(|_| name),
            ROLE_LABEL: label.role.map(crate::domain::declared::PodRole::as_str),
        },
    }});
    let parameters = PatchParams {
        field_manager: Some(resource::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let Err(error) = pods
        .patch_metadata(&label.pod, &parameters, &Patch::Merge(&patch))
        .await
    else {
        return Ok(());
    };
    let request_error = RequestError::from(&error);
    Err(match request_error.code {
        // The API server reports another uid as a conflict, or as a change of an immutable field.
        Some(404 | 409 | 422) => LabelError::Gone,
        Some(403) => LabelError::Forbidden(format!(
            "RBAC refuses to label pods: set podRoleLabels.enabled of the chart, or apply a Role in namespace {namespace} with apiGroups: \
             [''], resources: [pods], verbs: [get, list, watch, patch], bound to ham4db's service account ({})",
            request_error.why
        )),
        Some(_) | None => LabelError::Failed(format!("pod {namespace}/{}: {}", label.pod, request_error.why)),
    })
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
