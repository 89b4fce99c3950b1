//! Pods and nodes: which pod an instance runs in, and whether that pod is about to terminate.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::TerminationStage;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// How current the known pods or nodes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchState {
    /// They are not watched.
    #[default]
    Off,
    /// Nothing was read yet, or the last attempt failed: known objects may be old.
    Stale,
    /// The permission to read them is missing; the text names the missing rule.
    Forbidden(String),
    /// They are current.
    Current,
}

/// A running pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Uid of the pod: a recreated pod of the same name has another one.
    pub uid: String,
    /// All its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The ports of its containers when it uses the host network: other ports of that address belong to other pods or
    /// to none. `None` when its addresses are its own.
    pub ports_on_node: Option<BTreeSet<u16>>,
    /// Name of its node.
    pub node: String,
    /// Whether it has a deletionTimestamp.
    pub is_deleted: bool,
    /// The reason of its condition `DisruptionTarget` when that is true: the pod was evicted or preempted and is
    /// deleted next.
    pub disruption: Option<String>,
    /// Its tolerations.
    pub tolerations: Vec<Toleration>,
    /// The document that its labels name.
    pub labelled_cluster: Option<String>,
    /// The role that its label has.
    pub labelled_role: Option<String>,
}

/// A toleration of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    /// Key of the taint; empty for every key.
    pub key: String,
    /// Value of the taint; `None` for every value.
    pub value: Option<String>,
    /// Effect of the taint; empty for every effect.
    pub effect: String,
    /// Whether the pod tolerates the taint only for a limited time.
    pub is_limited: bool,
}

/// What can make a node lose its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `spec.unschedulable`: the node was cordoned, which is the first step of a drain.
    pub is_cordoned: bool,
    /// When it was cordoned, by the time of the taint.
    pub cordoned: Option<WallTime>,
    /// Its other taints.
    pub taints: Vec<Taint>,
}

/// A taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value; often empty.
    pub value: String,
    /// Its effect on pods without a toleration.
    pub effect: String,
    /// When it was added.
    pub added: Option<WallTime>,
}

/// The taint that comes with `spec.unschedulable`.
pub const CORDON_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Taints that describe the state of a node and are no decision to empty it. A primary on a node with a silent kubelet
/// may be healthy, and if not, the probes of the primary show it. If the pods are evicted in the end, they are deleted.
const NODE_HEALTH_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Taints with which autoscalers start to empty a node. They only keep new pods away; the evictions follow one by one.
const AUTOSCALER_TAINTS: [&str; 2] = ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"];

/// The pending termination of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTermination {
    /// How soon the pod terminates.
    pub stage: TerminationStage,
    /// The reason, for the operator.
    pub why: String,
    /// Id of the occurrence, which stays the same as long as the same cause lasts, on every member.
    pub occurrence: String,
}

/// The running pods and the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// How current the pods are.
    pub pods: WatchState,
    /// How current the nodes are.
    pub nodes: WatchState,
    by_uid: BTreeMap<String, Pod>,
    at: BTreeMap<(String, IpAddr), BTreeSet<String>>,
    node: BTreeMap<String, Node>,
}

impl Pods {
    /// An empty collection with these watch states.
    pub fn with_watch_states(pods: WatchState, nodes: WatchState) -> Self {
        Self {
            pods,
            nodes,
            ..Self::default()
        }
    }

    /// Adds or replaces a pod. Returns whether anything changed.
    pub fn put(&mut self, pod: Pod) -> bool {
        if self.by_uid.get(&pod.uid) == Some(&pod) {
            return false;
        }
        self.remove(&pod.uid);
        for address in &pod.addresses {
            let here = self.at.entry((pod.namespace.clone(), *address)).or_default();
            here.insert(pod.uid.clone());
        }
        self.by_uid.insert(pod.uid.clone(), pod);
        true
    }

    /// Removes a pod that is gone or no longer runs. Returns whether it was known.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(pod) = self.by_uid.remove(uid) else {
            return false;
        };
        for address in pod.addresses {
            let place = (pod.namespace.clone(), address);
            if let Some(here) = self.at.get_mut(&place) {
                here.remove(uid);
                if here.is_empty() {
                    self.at.remove(&place);
                }
            }
        }
        true
    }

    /// Adds or replaces a node. Returns whether anything changed.
    pub fn put_node(&mut self, name: String, node: Node) -> bool {
        self.node.insert(name, node.clone()) != Some(node)
    }

    /// Removes a node. Returns whether it was known.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.node.remove(name).is_some()
    }

    /// All pods.
    pub fn all(&self) -> impl Iterator<Item = &Pod> {
        self.by_uid.values()
    }

    /// A pod by its uid.
    pub fn get(&self, uid: &str) -> Option<&Pod> {
        self.by_uid.get(uid)
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.node.get(name)
    }

    /// The names of all nodes.
    pub fn node_names(&self) -> impl Iterator<Item = &String> {
        self.node.keys()
    }

    /// The pod of a namespace that a server runs in, by the peer address of the connection on which the server reported
    /// its identity. `None` also when several pods match.
    pub fn of(&self, namespace: &str, instance: &Instance) -> Option<&Pod> {
        let address = instance.facts.as_ref()?.peer?.to_canonical();
        let here = self.at.get(&(namespace.to_owned(), address))?;
        let mut fitting = here.iter().filter_map(|uid| self.by_uid.get(uid)).filter(|pod| {
            let ports = pod.ports_on_node.as_ref();
            ports.is_none_or(|ports| ports.contains(&instance.key.port))
        });
        let pod = fitting.next()?;
        fitting.next().is_none().then_some(pod)
    }

    /// The pending termination of a pod, if it is about to terminate.
    pub fn termination(&self, pod: &Pod) -> Option<PodTermination> {
        let termination = |stage, why: String, occurrence: String| PodTermination {
            stage,
            why: format!("pod {} is about to terminate: {why}", pod.name),
            occurrence,
        };
        // An eviction sets the condition and deletes the pod a moment later: both are one occurrence.
        if pod.is_deleted {
            return Some(termination(
                TerminationStage::PodTerminating,
                "it is being deleted".to_owned(),
                "d".to_owned(),
            ));
        }
        if let Some(reason) = &pod.disruption {
            let why = format!("it is about to be deleted ({reason})");
            return Some(termination(TerminationStage::PodTerminating, why, "d".to_owned()));
        }
        let (name, node) = (&pod.node, self.node.get(&pod.node)?);
        let since = |at: Option<WallTime>| at.map_or_else(String::new, |at| at.0.div_euclid(1000).to_string());
        if node.is_cordoned {
            let why = format!("its node {name} is cordoned");
            return Some(termination(
                TerminationStage::NodeDraining,
                why,
                format!("c{}", since(node.cordoned)),
            ));
        }
        let taint = node.taints.iter().find(|taint| drives_away(taint, &pod.tolerations))?;
        let why = format!("its node {name} has the taint {}:{}", taint.key, taint.effect);
        Some(termination(
            TerminationStage::NodeDraining,
            why,
            format!("t{}", since(taint.added)),
        ))
    }

    /// The servers of a document's cluster that run in pods which are about to terminate.
    pub fn terminating_instances(
        &self,
        document: &Origin,
        topology: &Topology,
    ) -> BTreeMap<InstanceKey, TerminationStage> {
        let Origin::Document { namespace, .. } = document else {
            return BTreeMap::new();
        };
        let terminating = |instance: &Instance| {
            let termination = self.termination(self.of(namespace, instance)?)?;
            Some((instance.key.clone(), termination.stage))
        };
        topology.instances.values().filter_map(terminating).collect()
    }
}

/// Whether a taint evicts pods, and these tolerations do not tolerate it without a time limit.
fn drives_away(taint: &Taint, tolerations: &[Toleration]) -> bool {
    if AUTOSCALER_TAINTS.contains(&taint.key.as_str()) {
        return true;
    }
    let endures = |toleration: &Toleration| {
        (toleration.key.is_empty() || toleration.key == taint.key)
            && (toleration.effect.is_empty() || toleration.effect == taint.effect)
            && toleration.value.as_ref().is_none_or(|value| *value == taint.value)
            && !toleration.is_limited
    };
    taint.effect == "NoExecute" && !NODE_HEALTH_TAINTS.contains(&taint.key.as_str()) && !tolerations.iter().any(endures)
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
