use super::*;
use crate::domain::declared::fixture::{key, origin, view};

fn pod(name: &str, ip: &str) -> Pod {
    Pod {
        namespace: "db".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        addresses: BTreeSet::from([ip.parse().unwrap()]),
        node: "n2".to_owned(),
        ..Pod::default()
    }
}

fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: "v".to_owned(),
        effect: effect.to_owned(),
        added: Some(WallTime(1_800_000_000_500)),
    }
}

fn toleration(key: &str, value: Option<&str>, effect: &str, is_limited: bool) -> Toleration {
    Toleration {
        key: key.to_owned(),
        value: value.map(ToOwned::to_owned),
        effect: effect.to_owned(),
        is_limited,
    }
}

/// What is told of a pod on a node.
fn termination(pod: Pod, node: Node) -> Option<(TerminationStage, String, String)> {
    let mut pods = Pods::default();
    pods.put_node("n2".to_owned(), node);
    let shown = pod.clone();
    pods.put(pod);
    pods.termination(&shown)
        .map(|termination| (termination.stage, termination.why, termination.occurrence))
}

#[test]
fn a_pod_that_is_deleted_or_disrupted_is_leaving_and_one_of_these_is_one_occasion() {
    let orders = pod("orders-0", "192.0.2.1");
    assert_eq!(termination(orders.clone(), Node::default()), None);
    let (leaving, why, occurrence) = termination(
        Pod {
            disruption: Some("EvictionByEvictionAPI".to_owned()),
            ..orders.clone()
        },
        Node::default(),
    )
    .unwrap();
    assert_eq!(leaving, TerminationStage::PodTerminating);
    assert_eq!(
        why,
        "pod orders-0 is about to terminate: it is about to be deleted (EvictionByEvictionAPI)"
    );
    let deleted = termination(
        Pod {
            is_deleted: true,
            disruption: Some("EvictionByEvictionAPI".to_owned()),
            ..orders
        },
        Node {
            is_cordoned: true,
            ..Node::default()
        },
    );
    let deleted = deleted.unwrap();
    assert_eq!((deleted.0, &deleted.2), (TerminationStage::PodTerminating, &occurrence));
    assert_eq!(deleted.1, "pod orders-0 is about to terminate: it is being deleted");
}

#[test]
fn a_cordoned_node_takes_its_pods_along_and_each_cordon_is_an_occasion() {
    let cordoned = |at| Node {
        is_cordoned: true,
        cordoned: at,
        taints: Vec::new(),
    };
    let of = |at| termination(pod("orders-0", "192.0.2.1"), cordoned(at)).unwrap();
    let (leaving, why, occurrence) = of(Some(WallTime(1_800_000_000_999)));
    assert_eq!(leaving, TerminationStage::NodeDraining);
    assert_eq!(why, "pod orders-0 is about to terminate: its node n2 is cordoned");
    assert_eq!(occurrence, "c1800000000");
    assert_ne!(of(Some(WallTime(1_800_000_060_000))).2, occurrence);
    assert_eq!(of(None).2, "c");
    // Of a node that is not known nothing is concluded.
    let stranger = Pod {
        node: "elsewhere".to_owned(),
        ..pod("orders-0", "192.0.2.1")
    };
    assert_eq!(termination(stranger, cordoned(None)), None);
}

#[test]
fn taints_that_drive_pods_away_count_unless_they_are_endured_for_good() {
    type Case = (&'static str, &'static str, Vec<Toleration>, bool);
    let table: Vec<Case> = vec![
        ("node.kubernetes.io/out-of-service", "NoExecute", vec![], true),
        ("example.com/maintenance", "NoExecute", vec![], true),
        ("example.com/maintenance", "NoSchedule", vec![], false),
        ("example.com/maintenance", "PreferNoSchedule", vec![], false),
        // The node's health is no wish, and a silent kubelet no failure of the primary.
        ("node.kubernetes.io/not-ready", "NoExecute", vec![], false),
        ("node.kubernetes.io/unreachable", "NoExecute", vec![], false),
        ("ToBeDeletedByClusterAutoscaler", "NoSchedule", vec![], true),
        (
            "DeletionCandidateOfClusterAutoscaler",
            "PreferNoSchedule",
            vec![],
            false,
        ),
        ("karpenter.sh/disrupted", "NoSchedule", vec![], true),
        (
            "a",
            "NoExecute",
            vec![toleration("a", Some("v"), "NoExecute", false)],
            false,
        ),
        ("a", "NoExecute", vec![toleration("a", Some("v"), "", false)], false),
        ("a", "NoExecute", vec![toleration("a", None, "", false)], false),
        ("a", "NoExecute", vec![toleration("", None, "", false)], false),
        ("a", "NoExecute", vec![toleration("a", Some("w"), "", false)], true),
        ("a", "NoExecute", vec![toleration("b", None, "", false)], true),
        ("a", "NoExecute", vec![toleration("a", None, "NoSchedule", false)], true),
        ("a", "NoExecute", vec![toleration("a", None, "", true)], true),
    ];
    for (key, effect, tolerations, wanted) in table {
        let told = format!("{key}:{effect} {tolerations:?}");
        let node = Node {
            taints: vec![taint("other", "NoSchedule"), taint(key, effect)],
            ..Node::default()
        };
        let pod = Pod {
            tolerations,
            ..pod("orders-0", "192.0.2.1")
        };
        let termination = termination(pod, node);
        assert_eq!(termination.is_some(), wanted, "{told}");
        if let Some((leaving, why, occurrence)) = termination {
            assert_eq!(
                (leaving, occurrence.as_str()),
                (TerminationStage::NodeDraining, "t1800000000"),
                "{told}"
            );
            assert!(why.contains(&format!("the taint {key}:{effect}")), "{why}");
        }
    }
}

#[test]
fn the_pod_of_a_server_is_the_one_at_the_address_that_proved_who_it_is() {
    let view = view(Some(origin("db", "orders")));
    let mut server = view.topology.get(&key("a")).unwrap().clone();
    let at = |server: &mut Instance, ip: &str| server.facts.as_mut().unwrap().peer = Some(ip.parse().unwrap());
    let mut pods = Pods::default();
    assert!(pods.put(pod("orders-0", "192.0.2.1")));
    assert!(!pods.put(pod("orders-0", "192.0.2.1")), "no news");
    let name = |pods: &Pods, server: &Instance| pods.of("db", server).map(|pod| pod.name.clone());
    assert_eq!(name(&pods, &server), None, "no connection told who it is");
    at(&mut server, "192.0.2.1");
    assert_eq!(name(&pods, &server).as_deref(), Some("orders-0"));
    assert_eq!(
        pods.of("shop", &server),
        None,
        "another namespace's pod is somebody else's"
    );
    at(&mut server, "::ffff:192.0.2.1");
    assert_eq!(name(&pods, &server).as_deref(), Some("orders-0"));
    at(&mut server, "192.0.2.9");
    assert_eq!(name(&pods, &server), None);
    // The second address counts as well, and an address that a pod had does not.
    let moved = Pod {
        addresses: BTreeSet::from(["2001:db8::1".parse().unwrap(), "192.0.2.9".parse().unwrap()]),
        ..pod("orders-0", "192.0.2.1")
    };
    pods.put(moved);
    assert_eq!(name(&pods, &server).as_deref(), Some("orders-0"));
    at(&mut server, "192.0.2.1");
    assert_eq!(name(&pods, &server), None);
    // Two at one address: neither.
    pods.put(pod("orders-1", "192.0.2.1"));
    assert_eq!(name(&pods, &server).as_deref(), Some("orders-1"));
    pods.put(pod("orders-2", "192.0.2.1"));
    assert_eq!(name(&pods, &server), None);
    assert!(pods.remove("uid-orders-1") && !pods.remove("uid-orders-1"));
    assert_eq!(name(&pods, &server).as_deref(), Some("orders-2"));
}

#[test]
fn a_pod_on_the_addresses_of_its_node_is_told_by_its_ports() {
    let view = view(Some(origin("db", "orders")));
    let mut server = view.topology.get(&key("a")).unwrap().clone();
    server.facts.as_mut().unwrap().peer = Some("192.0.2.1".parse().unwrap());
    let shares = |name: &str, ports: &[u16]| Pod {
        ports_on_node: Some(ports.iter().copied().collect()),
        ..pod(name, "192.0.2.1")
    };
    let mut pods = Pods::default();
    pods.put(shares("proxy", &[]));
    pods.put(shares("other", &[3307]));
    assert_eq!(pods.of("db", &server), None, "a server of the node itself, perhaps");
    pods.put(shares("orders-0", &[33060, 3306]));
    assert_eq!(pods.of("db", &server).unwrap().name, "orders-0");
}
