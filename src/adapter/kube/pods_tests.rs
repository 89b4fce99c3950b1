use serde_json::{Value, json};

use super::*;
use crate::domain::policy::TerminationStage;

const BOTH: PodWatches = PodWatches {
    drains: true,
    role_labels: true,
};

fn pod(namespace: &str, name: &str, change: &Value) -> KubePod {
    let mut pod = json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {"nodeName": "n1", "containers": [{"name": "mysql", "ports": [{"containerPort": 3306}]}]},
        "status": {"phase": "Running", "podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]},
    });
    for (part, fields) in change.as_object().into_iter().flatten() {
        for (field, value) in fields.as_object().into_iter().flatten() {
            pod[part][field] = value.clone();
        }
    }
    serde_json::from_value(pod).unwrap()
}

fn node(name: &str, spec: &Value) -> KubeNode {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn request_error(code: Option<u16>) -> RequestError {
    RequestError {
        why: "no".to_owned(),
        code,
    }
}

fn names(known: &Pods) -> Vec<String> {
    known
        .all()
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect()
}

#[test]
fn what_matters_of_a_pod_is_kept() {
    let kept = pod_of(&pod(
        "db",
        "orders-0",
        &json!({
            "metadata": {"labels": {"ham4db.io/cluster": "orders", "ham4db.io/role": "primary"}},
            "spec": {"tolerations": [
                {"operator": "Exists", "effect": "NoExecute", "key": "a", "tolerationSeconds": 300},
                {"key": "b", "value": "v"},
                {"operator": "Exists"},
            ]},
        }),
    ));
    let addresses: Vec<String> = kept.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "2001:db8::1"]);
    assert_eq!((kept.ports_on_node, kept.node.as_str()), (None, "n1"));
    assert!(!kept.is_deleted && kept.disruption.is_none());
    assert_eq!(kept.labelled_cluster.as_deref(), Some("orders"));
    assert_eq!(kept.labelled_role.as_deref(), Some("primary"));
    let told: Vec<(String, Option<String>, bool)> = kept
        .tolerations
        .into_iter()
        .map(|toleration| (toleration.key, toleration.value, toleration.is_limited))
        .collect();
    let wanted = [("a", None, true), ("b", Some("v"), false), ("", None, false)];
    let wanted = wanted.map(|(key, value, limited)| (key.to_owned(), value.map(ToOwned::to_owned), limited));
    assert_eq!(told, wanted);
    let going = pod_of(&pod(
        "db",
        "orders-0",
        &json!({
            "metadata": {"deletionTimestamp": "2026-11-21T17:00:00Z"},
            "spec": {"hostNetwork": true},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"},
            ]},
        }),
    ));
    assert!(going.is_deleted);
    assert_eq!(going.disruption.as_deref(), Some("EvictionByEvictionAPI"));
    assert_eq!(going.ports_on_node, Some(BTreeSet::from([3306])));
    let over = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "False"}]}});
    assert_eq!(pod_of(&pod("db", "orders-0", &over)).disruption, None);
}

#[test]
fn a_node_tells_of_its_cordon_and_of_its_other_taints() {
    let spec = json!({"unschedulable": true, "taints": [
        {"key": CORDON_TAINT, "effect": "NoSchedule", "timeAdded": "2027-01-15T08:00:00Z"},
        {"key": "a", "value": "v", "effect": "NoExecute"},
    ]});
    let kept = node_of(&node("n1", &spec));
    assert_eq!(
        (kept.is_cordoned, kept.cordoned),
        (true, Some(WallTime(1_800_000_000_000)))
    );
    assert_eq!(kept.taints.len(), 1);
    let taint = &kept.taints[0];
    assert_eq!(
        (taint.key.as_str(), taint.value.as_str(), taint.effect.as_str()),
        ("a", "v", "NoExecute")
    );
    assert_eq!(node_of(&node("n1", &json!({}))), Node::default());
}

#[test]
fn lists_replace_what_is_known_of_their_scope_alone() {
    let mut all = PodsAndNodes::new(BOTH, vec![Some("db".to_owned()), Some("shop".to_owned())]);
    assert_eq!(
        (&all.known().pods, &all.known().nodes),
        (&WatchState::Stale, &WatchState::Stale)
    );
    let none = json!({});
    all.apply_pods(
        0,
        ObjectChange::Listed(vec![pod("db", "a", &none), pod("db", "b", &none)]),
    );
    assert_eq!(all.known().pods, WatchState::Stale, "the other scope was not read yet");
    all.apply_pods(1, ObjectChange::Listed(vec![pod("shop", "c", &none)]));
    assert_eq!(all.known().pods, WatchState::Current);
    all.apply_pods(0, ObjectChange::Listed(vec![pod("db", "b", &none)]));
    assert_eq!(names(&all.known()), ["db/b", "shop/c"]);
    all.apply_pods(0, ObjectChange::Applied(pod("db", "d", &none)));
    all.apply_pods(1, ObjectChange::Deleted(pod("shop", "c", &none)));
    assert_eq!(names(&all.known()), ["db/b", "db/d"]);
    all.apply_nodes(ObjectChange::Listed(vec![
        node("n1", &json!({"unschedulable": true})),
        node("n2", &none),
    ]));
    assert_eq!(all.known().nodes, WatchState::Current);
    let of_b = |all: &PodsAndNodes| {
        let known = all.known();
        known
            .termination(known.get("uid-b").unwrap())
            .map(|termination| termination.stage)
    };
    assert_eq!(of_b(&all), Some(TerminationStage::NodeDraining));
    all.apply_nodes(ObjectChange::Applied(node("n1", &none)));
    assert_eq!(of_b(&all), None);
    all.apply_nodes(ObjectChange::Deleted(node("n2", &none)));
    assert_eq!(all.known().node_names().count(), 1);
}

#[test]
fn a_change_of_something_else_copies_nothing() {
    let mut all = PodsAndNodes::new(BOTH, vec![None]);
    let none = json!({});
    all.apply_pods(0, ObjectChange::Listed(vec![pod("db", "a", &none)]));
    all.apply_nodes(ObjectChange::Listed(vec![node("n1", &none)]));
    let before = all.known();
    all.apply_pods(
        0,
        ObjectChange::Applied(pod("db", "a", &json!({"metadata": {"resourceVersion": "2"}}))),
    );
    all.apply_nodes(ObjectChange::Applied(node("n1", &json!({"podCIDR": "10.0.0.0/24"}))));
    assert!(Arc::ptr_eq(&before, &all.known()));
}

#[test]
fn what_cannot_be_read_stays_known_and_a_missing_permission_is_told_once_with_its_role() {
    let mut all = PodsAndNodes::new(BOTH, vec![Some("db".to_owned())]);
    let none = json!({});
    all.apply_pods(0, ObjectChange::Listed(vec![pod("db", "a", &none)]));
    all.apply_nodes(ObjectChange::Listed(vec![node("n1", &none)]));
    assert_eq!(all.apply_pods(0, ObjectChange::Broken(request_error(None))), None);
    assert_eq!(all.known().pods, WatchState::Stale);
    assert_eq!(names(&all.known()), ["db/a"]);
    let told = all
        .apply_pods(0, ObjectChange::Broken(request_error(Some(403))))
        .unwrap();
    assert!(
        told.contains("a Role in namespace db") && told.contains("verbs: [get, list, watch, patch]"),
        "{told}"
    );
    assert_eq!(all.apply_pods(0, ObjectChange::Broken(request_error(Some(403)))), None);
    assert_eq!(all.known().pods, WatchState::Forbidden(told));
    let told = all.apply_nodes(ObjectChange::Broken(request_error(Some(403)))).unwrap();
    assert!(told.contains("a ClusterRole") && told.contains("[nodes]"), "{told}");
    all.apply_pods(0, ObjectChange::Listed(vec![pod("db", "a", &none)]));
    all.apply_nodes(ObjectChange::Listed(vec![node("n1", &none)]));
    assert_eq!(
        (&all.known().pods, &all.known().nodes),
        (&WatchState::Current, &WatchState::Current)
    );
    // Without drains, no more than reading is asked for, and nodes are not missed.
    let labels = PodWatches {
        drains: false,
        role_labels: true,
    };
    assert_eq!(PodsAndNodes::new(labels, vec![None]).known().nodes, WatchState::Off);
    assert_eq!(
        PodsAndNodes::new(PodWatches::default(), vec![None]).known().pods,
        WatchState::Off
    );
}
