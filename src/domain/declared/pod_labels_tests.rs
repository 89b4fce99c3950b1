use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::domain::declared::fixture::{document, origin, seen, state_with, view};
use crate::domain::declared::reconcile;
use crate::domain::declared::tests::later;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::state::sample::{claim, plan};
use crate::domain::state::{Command, Phase, Proposal, apply};
use crate::domain::version::Flavour;

fn key(host: &str) -> InstanceKey {
    InstanceKey::new(host, 3306)
}

/// `a`, `b` and `c` in pods `pod-a` to `pod-c`, without labels.
struct Scene {
    view: ClusterView,
    state: State,
    pods: Pods,
}

impl Scene {
    fn new() -> Self {
        let mut view = view(Some(origin("db", "orders")));
        let mut pods = Pods::with_watch_states(WatchState::Current, WatchState::Off);
        for (instance, n) in view.topology.instances.values_mut().zip(1_u8..) {
            let ip = [192, 0, 2, n].into();
            instance.facts.as_mut().unwrap().peer = Some(ip);
            pods.put(Pod {
                namespace: "db".to_owned(),
                name: format!("pod-{}", instance.key.hostname),
                uid: format!("uid-{}", instance.key.hostname),
                addresses: [ip].into(),
                ..Pod::default()
            });
        }
        Self {
            state: state_with(&view),
            view,
            pods,
        }
    }

    fn facts(&mut self, host: &str) -> &mut InstanceFacts {
        let instance = self.view.topology.instances.get_mut(&key(host)).unwrap();
        instance.facts.as_mut().unwrap()
    }

    fn fails(&mut self, host: &str) {
        let instance = self.view.topology.instances.get_mut(&key(host)).unwrap();
        instance.failure = Some(ProbeFailure::Refused);
    }

    fn wrong(&self) -> Vec<PodLabel> {
        let all = SourceContents {
            pods: Arc::new(self.pods.clone()),
            ..seen(vec![document("db", "orders")])
        };
        let shown = std::slice::from_ref(&self.view);
        let answer = reconcile(&all, &self.state, shown, &BTreeMap::new(), later(9));
        answer
            .pod_labels
            .get(&origin("db", "orders"))
            .cloned()
            .unwrap_or_default()
    }

    /// What is wrong, shortly, in the order in which it is put right.
    fn told(&self) -> Vec<String> {
        let told = |label: &PodLabel| {
            let role = label.role.map_or("none", PodRole::as_str);
            format!("{} {role}", label.pod)
        };
        self.wrong().iter().map(told).collect()
    }

    /// Writes what is wrong, as the watch will show it. Says what that was.
    fn put_right(&mut self) -> Vec<String> {
        let told = self.told();
        for label in self.wrong() {
            let mut pod = self.pods.get(&label.uid).unwrap().clone();
            pod.labelled_role = label.role.map(|role| role.as_str().to_owned());
            pod.labelled_cluster = label.role.map(|_| "orders".to_owned());
            self.pods.put(pod);
        }
        assert_eq!(self.told(), [""; 0], "put right is right");
        told
    }
}

#[test]
fn each_pod_is_told_once_what_its_server_is() {
    let mut scene = Scene::new();
    assert_eq!(scene.put_right(), ["pod-b replica", "pod-c replica", "pod-a primary"]);
    // Somebody changed one.
    let mut pod = scene.pods.get("uid-b").unwrap().clone();
    pod.labelled_role = Some("primary".to_owned());
    scene.pods.put(pod);
    assert_eq!(scene.put_right(), ["pod-b replica"]);
    // A pod that was made anew has another uid and no labels.
    let mut pod = scene.pods.get("uid-c").unwrap().clone();
    scene.pods.remove("uid-c");
    pod.uid = "uid-c-anew".to_owned();
    (pod.labelled_role, pod.labelled_cluster) = (None, None);
    scene.pods.put(pod);
    let wrong = scene.wrong();
    assert_eq!((wrong.len(), wrong[0].uid.as_str()), (1, "uid-c-anew"));
}

#[test]
fn losing_sight_takes_no_label_away() {
    let mut scene = Scene::new();
    scene.put_right();
    scene.fails("a");
    scene.fails("b");
    assert_eq!(scene.told(), [""; 0]);
    // Nor does a primary that is read-only for a moment lose it.
    let mut scene = Scene::new();
    scene.put_right();
    scene.facts("a").read_only = true;
    assert_eq!(scene.told(), [""; 0]);
    // And without a view that can be relied on, nothing is written.
    let mut scene = Scene::new();
    for sight in [
        WatchState::Off,
        WatchState::Stale,
        WatchState::Forbidden("x".to_owned()),
    ] {
        scene.pods.pods = sight;
        assert_eq!(scene.told(), [""; 0]);
    }
}

#[test]
fn the_old_primary_loses_its_label_before_the_new_one_has_it() {
    let mut scene = Scene::new();
    scene.put_right();
    scene.fails("a");
    let claimed = crate::domain::recovery::plan::Plan {
        cluster: scene.view.cluster.id.clone(),
        old_primary: key("a"),
        old_primary_identity: Some(scene.facts("a").identity.clone()),
        successor: key("b"),
        successor_identity: scene.facts("b").identity.clone(),
        instances: [key("a"), key("b")].into(),
        ..plan(1, 1, 2, &[])
    };
    let command = Command::Claim {
        claim: Box::new(claim("r1", claimed)),
    };
    let applied = apply(&mut scene.state, &Proposal::new(later(1), command)).0;
    assert!(applied.to_string().starts_with("claimed"), "{applied}");
    assert_eq!(scene.told(), [""; 0], "nobody else is opened yet");
    for recovery in scene.state.recoveries.values_mut() {
        recovery.phase = Phase::Opened {
            successor: key("b"),
            position: GtidSet::empty(Flavour::MySql),
            at: later(2),
        };
    }
    assert_eq!(scene.put_right(), ["pod-a unknown"]);
    scene.facts("b").read_only = false;
    assert_eq!(scene.put_right(), ["pod-b primary"]);
    // At once, when it was not seen between.
    let mut at_once = Scene::new();
    at_once.put_right();
    at_once.fails("a");
    at_once.state = scene.state.clone();
    at_once.facts("b").read_only = false;
    let wrong = at_once.wrong();
    assert_eq!(at_once.told(), ["pod-a unknown", "pod-b primary"]);
    assert!(wrong[0].ends_primary && !wrong[1].ends_primary);
}

#[test]
fn errant_and_detached_servers_are_told_apart_from_replicas() {
    let mut scene = Scene::new();
    let own = format!(
        "{}:1-100,5e11fa47-71ca-11e1-9e33-c80aa9429562:1",
        crate::domain::declared::fixture::A
    );
    scene.facts("c").executed = GtidSet::parse(Flavour::MySql, &own).unwrap();
    scene.facts("b").channels.clear();
    assert_eq!(scene.put_right(), ["pod-b unknown", "pod-c errant", "pod-a primary"]);
}

#[test]
fn pods_of_other_documents_and_namespaces_are_left_alone() {
    let mut scene = Scene::new();
    scene.put_right();
    let pod = |name: &str, namespace: &str, cluster: &str| Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        labelled_cluster: Some(cluster.to_owned()),
        labelled_role: Some("primary".to_owned()),
        ..Pod::default()
    };
    scene.pods.put(pod("elsewhere", "shop", "orders"));
    scene.pods.put(pod("billing-0", "db", "billing"));
    assert_eq!(scene.told(), [""; 0]);
    // One that calls itself the primary of this one, and is not.
    scene.pods.put(pod("orders-9", "db", "orders"));
    assert_eq!(scene.told(), ["orders-9 unknown"]);
}

#[test]
fn the_labels_of_a_document_that_is_gone_are_removed_once_it_is_withdrawn() {
    let mut scene = Scene::new();
    scene.put_right();
    let mut all = SourceContents {
        pods: Arc::new(scene.pods.clone()),
        ..seen(Vec::new())
    };
    let of = |all: &SourceContents, state: &State| {
        let answer = reconcile(all, state, &[], &BTreeMap::new(), later(9));
        answer.pod_labels.get(&origin("db", "orders")).map_or(0, |labels| {
            assert!(labels.iter().all(|label| label.role.is_none()));
            labels.len()
        })
    };
    assert_eq!(of(&all, &scene.state), 3);
    // Held, or not known to be gone: they stay.
    let mut held = scene.state.clone();
    held.documents
        .insert(origin("db", "orders"), document("db", "orders").document);
    assert_eq!(of(&all, &held), 0);
    all.unreadable.insert(origin("db", "orders"), "x".to_owned());
    assert_eq!(of(&all, &scene.state), 0);
    all.unreadable.clear();
    all.completeness = Completeness::Stale;
    assert_eq!(of(&all, &scene.state), 0);
}
