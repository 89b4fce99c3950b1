//! Pods and nodes: what matters of them, and the labels that tell what the servers in pods are.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod as KubePod, Taint as KubeTaint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::domain::declared::pods::{CORDON_TAINT, Node, Pod, Pods, Sight, Taint, Toleration};
use crate::domain::declared::{LabelError, PodLabel};
use crate::domain::intent::Origin;
use crate::domain::time::WallTime;
use crate::resource;

use super::Refusal;
use super::follow::Change;

/// The document that the server in a pod belongs to, by name.
const CLUSTER_LABEL: &str = "ham4db.io/cluster";
/// What it is.
const ROLE_LABEL: &str = "ham4db.io/role";
/// Pods whose containers are over keep an address that another one may have by now.
pub(super) const RUNNING: &str = "status.phase=Running";

/// What is watched beside documents and Secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follows {
    /// Nodes, and pods: which of them are about to go.
    pub drains: bool,
    /// Pods: what their labels say.
    pub role_labels: bool,
}

/// What was read of pods and nodes.
#[derive(Default)]
pub(super) struct PodsAndNodes {
    follows: Follows,
    /// By scope: its namespace, where it has one, and how far its pods are known.
    scopes: Vec<(Option<String>, Sight)>,
    known: Arc<Pods>,
}

impl PodsAndNodes {
    /// Nothing read yet.
    pub(super) fn new(follows: Follows, scopes: Vec<Option<String>>) -> Self {
        let mut this = Self {
            follows,
            scopes: scopes.into_iter().map(|scope| (scope, Sight::Stale)).collect(),
            known: Arc::default(),
        };
        this.see();
        if follows.drains {
            Arc::make_mut(&mut this.known).nodes = Sight::Stale;
        }
        this
    }

    /// What is known now.
    pub(super) fn known(&self) -> Arc<Pods> {
        Arc::clone(&self.known)
    }

    /// The worst of all scopes.
    fn see(&mut self) {
        if !self.follows.drains && !self.follows.role_labels {
            return;
        }
        let mut all = self.scopes.iter().map(|(_, sight)| sight);
        let worst = all.clone().find(|sight| matches!(sight, Sight::Forbidden(_)));
        let worst = worst.or_else(|| all.find(|sight| **sight != Sight::Current));
        let sight = worst.unwrap_or(&Sight::Current);
        if self.known.pods != *sight {
            Arc::make_mut(&mut self.known).pods = sight.clone();
        }
    }

    /// Takes in what happened to the pods of a scope. Says what a person should know.
    pub(super) fn absorb_pods(&mut self, number: usize, change: Change<KubePod>) -> Option<String> {
        let verbs = if self.follows.role_labels {
            "get, list, watch, patch"
        } else {
            "get, list, watch"
        };
        let (scope, sight) = self.scopes.get_mut(number)?;
        let mut warning = None;
        match change {
            Change::Listed(pods) => {
                let pods: Vec<Pod> = pods.iter().map(distilled).collect();
                let there: BTreeSet<&String> = pods.iter().map(|pod| &pod.uid).collect();
                let is_of_it = |pod: &&Pod| scope.as_ref().is_none_or(|namespace| pod.namespace == *namespace);
                let gone = self
                    .known
                    .all()
                    .filter(is_of_it)
                    .filter(|pod| !there.contains(&pod.uid));
                let gone: Vec<String> = gone.map(|pod| pod.uid.clone()).collect();
                *sight = Sight::Current;
                for uid in gone {
                    Arc::make_mut(&mut self.known).remove(&uid);
                }
                for pod in pods {
                    Arc::make_mut(&mut self.known).put(pod);
                }
            }
            Change::Applied(pod) => {
                let pod = distilled(&pod);
                // Most changes of a pod are about nothing that matters here: what others hold of it is not copied for those.
                if self.known.get(&pod.uid) != Some(&pod) {
                    Arc::make_mut(&mut self.known).put(pod);
                }
            }
            Change::Deleted(pod) => {
                Arc::make_mut(&mut self.known).remove(&pod.uid().unwrap_or_default());
            }
            Change::Broken(refusal) => {
                let place = scope.as_ref().map_or_else(
                    || "a ClusterRole".to_owned(),
                    |namespace| format!("a Role in namespace {namespace}"),
                );
                warning = lose(sight, &refusal, &place, "pods", verbs);
            }
        }
        self.see();
        warning
    }

    /// The same for nodes.
    pub(super) fn absorb_nodes(&mut self, change: Change<KubeNode>) -> Option<String> {
        let known = &mut self.known;
        match change {
            Change::Listed(nodes) => {
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
                    known.put_node(node.name_any(), distilled_node(&node));
                }
                known.nodes = Sight::Current;
            }
            Change::Applied(node) => {
                let (name, node) = (node.name_any(), distilled_node(&node));
                // Nodes tell of their health all the time.
                if known.node(&name) != Some(&node) {
                    Arc::make_mut(known).put_node(name, node);
                }
            }
            Change::Deleted(node) => {
                Arc::make_mut(known).remove_node(&node.name_any());
            }
            Change::Broken(refusal) => {
                let sight = &mut Arc::make_mut(known).nodes;
                return lose(sight, &refusal, "a ClusterRole", "nodes", "get, list, watch");
            }
        }
        None
    }
}

/// What is known may be old from now on. Says once which permission is missing, if one is.
fn lose(sight: &mut Sight, refusal: &Refusal, place: &str, what: &str, verbs: &str) -> Option<String> {
    if !refusal.is_forbidden() {
        *sight = Sight::Stale;
        return None;
    }
    let why = format!(
        "{what} may not be read: set drain.enabled or podRoleLabels.enabled of the chart, or apply {place} with apiGroups: [''], \
         resources: [{what}], verbs: [{verbs}], bound to ham4db's service account ({})",
        refusal.why
    );
    let is_news = !matches!(sight, Sight::Forbidden(_));
    *sight = Sight::Forbidden(why.clone());
    is_news.then_some(why)
}

fn distilled(pod: &KubePod) -> Pod {
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

fn distilled_node(node: &KubeNode) -> Node {
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
pub(super) async fn label(client: &Client, origin: &Origin, label: &PodLabel) -> Result<(), LabelError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(LabelError::Unsupported);
    };
    let pods: Api<KubePod> = Api::namespaced(client.clone(), namespace);
    // With the uid, a patch of another pod under this name is refused.
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
    let refusal = Refusal::from(&error);
    Err(match refusal.code {
        // Another uid is a conflict, or an attempt to change what cannot be changed.
        Some(404 | 409 | 422) => LabelError::Gone,
        Some(403) => LabelError::Forbidden(format!(
            "pods may not be labelled: set podRoleLabels.enabled of the chart, or apply a Role in namespace {namespace} with apiGroups: \
             [''], resources: [pods], verbs: [get, list, watch, patch], bound to ham4db's service account ({})",
            refusal.why
        )),
        Some(_) | None => LabelError::Failed(format!("pod {namespace}/{}: {}", label.pod, refusal.why)),
    })
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
