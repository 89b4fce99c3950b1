//! Pods and nodes, as far as they matter here: which pod an instance runs in, and whether that pod is about to go.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use crate::domain::instance::Instance;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Leaving;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// How far what is known of pods, or of nodes, can be relied on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sight {
    /// They are not watched.
    #[default]
    Off,
    /// Nothing was read yet, or the last attempt failed: what is known may be old.
    Stale,
    /// They may not be read, with what would help.
    Forbidden(String),
    /// They are as they are now.
    Current,
}

/// A running pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a pod that is made anew under its name has another one.
    pub uid: String,
    /// All its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The ports that its containers declare, when it shares the addresses of its node: what else listens there is in no pod, or in
    /// another one. `None`: its addresses are its own.
    pub ports_on_node: Option<BTreeSet<u16>>,
    /// Where it runs.
    pub node: String,
    /// It has a deletionTimestamp.
    pub is_deleted: bool,
    /// The reason of its condition `DisruptionTarget`, when that is true: it was evicted or preempted and is deleted next.
    pub disruption: Option<String>,
    /// Which taints do not drive it away.
    pub tolerations: Vec<Toleration>,
    /// The document that its labels name.
    pub labelled_cluster: Option<String>,
    /// The role that its labels tell.
    pub labelled_role: Option<String>,
}

/// A taint that a pod endures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    /// Of which key; empty: of every key.
    pub key: String,
    /// With which value; `None`: with every value.
    pub value: Option<String>,
    /// With which effect; empty: with every effect.
    pub effect: String,
    /// Only for a while: then it goes all the same.
    pub is_limited: bool,
}

/// What makes a node lose its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `spec.unschedulable`: it was cordoned, which is how a drain begins.
    pub is_cordoned: bool,
    /// When, as its taint says.
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
    /// What it does to pods that do not tolerate it.
    pub effect: String,
    /// Since when.
    pub added: Option<WallTime>,
}

/// The taint that `spec.unschedulable` brings along.
pub const CORDON_TAINT: &str = "node.kubernetes.io/unschedulable";
/// Taints by which Kubernetes says how a node is, and not what shall become of it: a primary on a node whose kubelet is silent may be
/// well, and if it is not, that is seen at the primary itself. If the pods are driven away in the end, they are deleted.
const HEALTH: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Taints with which autoscalers begin to empty a node. They only keep new pods away; the evictions follow one by one.
const SCALED_DOWN: [&str; 2] = ["ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted"];

/// That a pod is about to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// How soon.
    pub leaving: Leaving,
    /// Why, for people.
    pub why: String,
    /// Which time: the same for as long as the same wish lasts, whoever looks.
    pub occasion: String,
}

/// The running pods and the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// How far the pods can be relied on.
    pub pods: Sight,
    /// How far the nodes can be relied on.
    pub nodes: Sight,
    by_uid: BTreeMap<String, Pod>,
    at: BTreeMap<(String, IpAddr), BTreeSet<String>>,
    node: BTreeMap<String, Node>,
}

impl Pods {
    /// Nobody yet, in a view that can be relied on so far.
    pub fn in_sight(pods: Sight, nodes: Sight) -> Self {
        Self {
            pods,
            nodes,
            ..Self::default()
        }
    }

    /// Takes in a pod as it is now. Says whether that is news.
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

    /// Forgets a pod that is gone or does not run any more. Says whether it was known.
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

    /// Takes in a node as it is now. Says whether that is news.
    pub fn put_node(&mut self, name: String, node: Node) -> bool {
        self.node.insert(name, node.clone()) != Some(node)
    }

    /// Forgets a node. Says whether it was known.
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

    /// The pod of a namespace that a server runs in, by the address at which the connection ended on which the server told who it is.
    /// `None` also when several could be meant.
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

    /// Whether a pod is about to go.
    pub fn departure(&self, pod: &Pod) -> Option<Departure> {
        let leaving = |leaving, why: String, occasion: String| Departure {
            leaving,
            why: format!("pod {} is leaving: {why}", pod.name),
            occasion,
        };
        // An eviction sets the condition and deletes a moment later: one occasion.
        if pod.is_deleted {
            return Some(leaving(
                Leaving::WithItsPod,
                "it is being deleted".to_owned(),
                "d".to_owned(),
            ));
        }
        if let Some(reason) = &pod.disruption {
            let why = format!("it is about to be deleted ({reason})");
            return Some(leaving(Leaving::WithItsPod, why, "d".to_owned()));
        }
        let (name, node) = (&pod.node, self.node.get(&pod.node)?);
        let since = |at: Option<WallTime>| at.map_or_else(String::new, |at| at.0.div_euclid(1000).to_string());
        if node.is_cordoned {
            let why = format!("its node {name} is cordoned");
            return Some(leaving(Leaving::WithItsNode, why, format!("c{}", since(node.cordoned))));
        }
        let taint = node.taints.iter().find(|taint| drives_away(taint, &pod.tolerations))?;
        let why = format!("its node {name} has the taint {}:{}", taint.key, taint.effect);
        Some(leaving(Leaving::WithItsNode, why, format!("t{}", since(taint.added))))
    }

    /// The servers of a document's cluster that are about to go.
    pub fn leaving(&self, document: &Origin, topology: &Topology) -> BTreeMap<InstanceKey, Leaving> {
        let Origin::Document { namespace, .. } = document else {
            return BTreeMap::new();
        };
        let leaving = |instance: &Instance| {
            let departure = self.departure(self.of(namespace, instance)?)?;
            Some((instance.key.clone(), departure.leaving))
        };
        topology.instances.values().filter_map(leaving).collect()
    }
}

/// Whether a taint is a wish that pods go, and these tolerations are no reason to stay for good.
fn drives_away(taint: &Taint, tolerations: &[Toleration]) -> bool {
    if SCALED_DOWN.contains(&taint.key.as_str()) {
        return true;
    }
    let endures = |toleration: &Toleration| {
        (toleration.key.is_empty() || toleration.key == taint.key)
            && (toleration.effect.is_empty() || toleration.effect == taint.effect)
            && toleration.value.as_ref().is_none_or(|value| *value == taint.value)
            && !toleration.is_limited
    };
    taint.effect == "NoExecute" && !HEALTH.contains(&taint.key.as_str()) && !tolerations.iter().any(endures)
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
