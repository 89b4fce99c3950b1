use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::domain::declared::fixture::{NOW, document, key, origin, seen, state_with, view};
use crate::domain::declared::pods::Node;
use crate::domain::declared::status::TakeoverPhase;
use crate::domain::declared::tests::{later, names, of, settle};
use crate::domain::declared::{DeclaredTakeover, EventReason, reconcile};
use crate::domain::instance::ProbeFailure;
use crate::domain::state::{Proposal, apply, command::COMMAND_VERSION};

/// `a`, `b` and `c` in pods `orders-0` to `orders-2` at 192.0.2.1 to 3 on nodes `n1` to `n3`, and a document that wants handovers.
struct Scene {
    view: ClusterView,
    state: State,
    declared: DeclaredCluster,
    pods: Pods,
}

impl Scene {
    fn new() -> Self {
        let mut view = view(Some(origin("db", "orders")));
        let mut pods = Pods::with_watch_states(WatchState::Current, WatchState::Current);
        for (instance, n) in view.topology.instances.values_mut().zip(1_u8..) {
            let ip = [192, 0, 2, n].into();
            instance.facts.as_mut().unwrap().peer = Some(ip);
            pods.put_node(format!("n{n}"), Node::default());
            pods.put(Pod {
                namespace: "db".to_owned(),
                name: format!("orders-{}", n - 1),
                uid: format!("3e11fa47-71ca-11e1-9e33-c80aa942956{n}"),
                addresses: [ip].into(),
                node: format!("n{n}"),
                ..Pod::default()
            });
        }
        let mut declared = document("db", "orders");
        declared.document.on_drain = OnDrain::TakeOver;
        Self {
            state: state_with(&view),
            view,
            declared,
            pods,
        }
    }

    fn cordon(&mut self, n: u8, is_cordoned: bool) {
        let node = Node {
            is_cordoned,
            cordoned: is_cordoned.then_some(NOW),
            ..Node::default()
        };
        self.pods.put_node(format!("n{n}"), node);
    }

    fn delete(&mut self, n: u8) {
        let uid = format!("3e11fa47-71ca-11e1-9e33-c80aa942956{n}");
        let mut pod = self.pods.get(&uid).unwrap().clone();
        pod.is_deleted = true;
        self.pods.put(pod);
    }

    /// Reconciles, applies, and shows that nothing is left.
    fn settle(&mut self, at: i64) -> Reconciliation {
        self.view.policy.terminating = self
            .pods
            .terminating_instances(&origin("db", "orders"), &self.view.topology);
        let all = SourceContents {
            pods: Arc::new(self.pods.clone()),
            ..seen(vec![self.declared.clone()])
        };
        settle(&all, &mut self.state, std::slice::from_ref(&self.view), later(at))
    }

    /// What is asked for or taken back, as names of commands.
    fn asks(&mut self, at: i64) -> Vec<&'static str> {
        let mut names = names(&self.settle(at));
        names.retain(|name| *name != "put-document");
        names
    }

    fn propose(&mut self, at: i64, command: Command) {
        let proposal = Proposal {
            version: COMMAND_VERSION,
            at: later(at),
            command,
        };
        apply(&mut self.state, &proposal);
    }

    fn refuse(&mut self, at: i64, id: &str) {
        let settled = Command::SettleRequest {
            key: format!("cr:db/orders drain {id}"),
            outcome: RequestOutcome::Refused,
            why: "all lag".to_owned(),
        };
        self.propose(at, settled);
    }

    fn problems(&mut self, at: i64) -> Vec<String> {
        let answer = self.settle(at);
        let status = of(&answer, "orders");
        let primary = status.instances.iter().find(|it| it.role == Role::Primary);
        primary.unwrap().problems.clone()
    }

    fn ids(&self) -> Vec<String> {
        self.state.requests.values().map(|request| request.id.clone()).collect()
    }
}

const CORDONED: &str = "drain-3e11fa47-71ca-11e1-9e33-c80aa9429561-c1800000000-";
const DELETED: &str = "drain-3e11fa47-71ca-11e1-9e33-c80aa9429561-d-";

#[test]
fn a_primary_whose_node_is_cordoned_is_asked_to_hand_over_once() {
    let mut scene = Scene::new();
    assert_eq!(scene.asks(0), [""; 0]);
    scene.cordon(1, true);
    assert_eq!(scene.asks(1), ["request"]);
    assert_eq!(scene.asks(2), [""; 0]);
    let request = scene.state.requests.values().next().unwrap().clone();
    assert_eq!(request.id, format!("{CORDONED}1"));
    assert!(request.id.len() <= 64, "what a status can hold");
    let why = "pod orders-0 is about to terminate: its node n1 is cordoned".to_owned();
    assert_eq!(
        request.what,
        RequestKind::Drain {
            primary: key("a"),
            reason: why.clone(),
            deadline: later(1 + 30_000),
        }
    );
    // It shows like a takeover that was asked for, with the reason.
    let answer = scene.settle(3);
    let takeover = of(&answer, "orders").takeover.clone().unwrap();
    assert_eq!((takeover.phase, &takeover.id), (TakeoverPhase::Pending, &request.id));
    assert!(takeover.message.starts_with(&why), "{}", takeover.message);
    // Of another leader, with a view that it just got, nothing is asked again.
    let again = Scene {
        state: scene.state.clone(),
        ..Scene::new()
    };
    let mut again = again;
    again.cordon(1, true);
    assert_eq!(again.asks(4), [""; 0]);
}

#[test]
fn a_pod_that_is_deleted_after_the_cordon_is_another_occasion_and_its_own_replicas_are_not() {
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.asks(0);
    scene.refuse(10, &format!("{CORDONED}1"));
    assert_eq!(scene.asks(20), [""; 0], "a pause comes first");
    scene.delete(1);
    assert_eq!(scene.asks(30), ["request"]);
    assert!(scene.ids().contains(&format!("{DELETED}1")));
    // Replicas that leave are nobody's business but the choice's.
    let mut others = Scene::new();
    others.cordon(2, true);
    others.delete(3);
    assert_eq!(others.asks(0), [""; 0]);
    assert_eq!(others.view.policy.terminating.len(), 2);
}

#[test]
fn what_was_refused_is_asked_for_again_after_growing_pauses_and_a_bounded_number_of_times() {
    let mut scene = Scene::new();
    scene.cordon(1, true);
    let mut at = 0;
    for (number, pause) in [5, 10, 20, 40, 80, 160, 300].into_iter().enumerate() {
        assert_eq!(scene.asks(at), ["request"], "attempt {}", number + 1);
        scene.refuse(at, &format!("{CORDONED}{}", number + 1));
        at += pause * 1000;
        assert_eq!(scene.asks(at - 1), [""; 0], "pause {}", number + 1);
    }
    assert_eq!(scene.asks(at), ["request"]);
    scene.refuse(at, &format!("{CORDONED}8"));
    assert_eq!(scene.asks(at + 3_600_000), [""; 0]);
    let problems = scene.problems(at + 3_600_000);
    assert!(
        problems[0].contains("no takeover is started: the takeover was tried 8 times"),
        "{problems:?}"
    );
    // Another cordon of the same node is another occasion.
    let node = Node {
        is_cordoned: true,
        cordoned: Some(later(at + 3_600_000)),
        ..Node::default()
    };
    scene.pods.put_node("n1".to_owned(), node);
    assert_eq!(scene.asks(at + 3_600_001), ["request"]);
}

#[test]
fn one_that_handed_over_and_was_made_primary_again_by_somebody_stays_it() {
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.asks(0);
    for request in scene.state.requests.values_mut() {
        request.progress = RequestProgress::Over {
            outcome: RequestOutcome::Succeeded,
            why: String::new(),
            at: later(1),
            uid: Some("r1".to_owned()),
        };
    }
    assert_eq!(scene.asks(3_600_000), [""; 0]);
}

#[test]
fn what_the_document_says_holds_it_back_and_takes_back_what_was_not_begun() {
    type Case = (&'static str, fn(&mut Scene), &'static str);
    let table: [Case; 6] = [
        (
            "observe",
            |scene| scene.declared.document.on_drain = OnDrain::Observe,
            "onDrain",
        ),
        ("paused", |scene| scene.declared.document.paused = true, "spec.paused"),
        (
            "mode",
            |scene| scene.declared.document.mode = RecoveryMode::DetectOnly,
            "DetectOnly",
        ),
        ("off", |scene| scene.declared.document.mode = RecoveryMode::Off, "Off"),
        (
            "switch",
            |scene| scene.state.recoveries_disabled = true,
            "globally disabled",
        ),
        ("uncordoned", |scene| scene.cordon(1, false), ""),
    ];
    for (name, change, told) in table {
        let mut scene = Scene::new();
        change(&mut scene);
        if name != "uncordoned" {
            scene.cordon(1, true);
            assert_eq!(scene.asks(0), [""; 0], "{name}");
            let problems = scene.problems(0);
            assert!(
                problems[0].contains("its node n1 is cordoned") && problems[0].contains(told),
                "{name}: {problems:?}"
            );
        }
        let mut scene = Scene::new();
        scene.cordon(1, true);
        assert_eq!(scene.asks(0), ["request"], "{name}");
        change(&mut scene);
        assert_eq!(scene.asks(1), ["cancel-request"], "{name}");
        // What runs goes to its end.
        let mut scene = Scene::new();
        scene.cordon(1, true);
        scene.asks(0);
        for request in scene.state.requests.values_mut() {
            request.progress = RequestProgress::Running {
                uid: "r1".to_owned(),
                cancelled: false,
            };
        }
        change(&mut scene);
        assert_eq!(scene.asks(1), [""; 0], "{name}");
    }
}

#[test]
fn a_downtime_of_the_primary_and_whatever_runs_hold_it_back() {
    let downtime = HeldBack::Downtimed {
        owner: "alice".to_owned(),
        reason: "disk swap".to_owned(),
        until: None,
    };
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.view.policy.downtimes = BTreeMap::from([(key("a"), downtime)]);
    assert_eq!(scene.asks(0), [""; 0]);
    assert!(scene.problems(0)[0].contains("disk swap"));
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.view.policy.held_back_living = Some(HeldBack::RecoveryRuns { uid: "r1".to_owned() });
    assert_eq!(scene.asks(0), [""; 0]);
    // A recent failover does not: the next thing to happen would be another one.
    scene.view.policy.held_back_living = None;
    scene.view.policy.held_back = Some(HeldBack::RecentRecovery {
        uid: "r1".to_owned(),
        until: later(60_000),
    });
    assert_eq!(scene.asks(1), ["request"]);
}

#[test]
fn to_a_replica_that_goes_as_soon_nothing_is_handed_over() {
    let mut scene = Scene::new();
    for n in 1..=3 {
        scene.cordon(n, true);
    }
    assert_eq!(scene.asks(0), [""; 0]);
    let problems = scene.problems(0);
    assert!(
        problems[0].contains("no replica runs longer than the primary"),
        "{problems:?}"
    );
    // Before a pod that is deleted now, one on a cordoned node is better.
    scene.delete(1);
    assert_eq!(scene.asks(1), ["request"]);
    let check = |successor: &str, policy: &Policy| check_successor(policy, &key("a"), &key(successor)).is_ok();
    assert!(check("b", &scene.view.policy));
    scene.delete(2);
    scene.settle(2);
    assert!(!check("b", &scene.view.policy) && check("c", &scene.view.policy));
    // Nor to one that does not answer.
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.cordon(2, true);
    scene.view.topology.instances.get_mut(&key("c")).unwrap().failure = Some(ProbeFailure::Refused);
    assert_eq!(scene.asks(0), [""; 0]);
}

#[test]
fn nothing_is_concluded_from_what_cannot_be_read_now() {
    for (pods, nodes) in [
        (WatchState::Stale, WatchState::Current),
        (WatchState::Current, WatchState::Stale),
        (WatchState::Current, WatchState::Off),
        (WatchState::Off, WatchState::Off),
        (WatchState::Current, WatchState::Forbidden("x".to_owned())),
    ] {
        let mut scene = Scene::new();
        scene.cordon(1, true);
        (scene.pods.pods, scene.pods.nodes) = (pods.clone(), nodes.clone());
        assert_eq!(scene.asks(0), [""; 0], "{pods:?} {nodes:?}");
        // Nor is anything taken back.
        (scene.pods.pods, scene.pods.nodes) = (WatchState::Current, WatchState::Current);
        assert_eq!(scene.asks(1), ["request"]);
        scene.cordon(1, false);
        (scene.pods.pods, scene.pods.nodes) = (pods.clone(), nodes.clone());
        assert_eq!(scene.asks(2), [""; 0], "{pods:?} {nodes:?}");
    }
    // A deletion is known without the nodes.
    let mut scene = Scene::new();
    scene.delete(1);
    scene.pods.nodes = WatchState::Stale;
    assert_eq!(scene.asks(0), ["request"]);
    // A primary that does not answer is the failover's.
    let mut scene = Scene::new();
    scene.delete(1);
    scene.view.topology.instances.get_mut(&key("a")).unwrap().failure = Some(ProbeFailure::Refused);
    assert_eq!(scene.asks(0), [""; 0]);
}

#[test]
fn a_document_that_wants_it_is_told_when_nothing_can_be_seen_and_others_are_not() {
    for (pods, nodes, told) in [
        (WatchState::Off, WatchState::Off, "drain.enabled"),
        (WatchState::Current, WatchState::Off, "drain.enabled"),
        (
            WatchState::Forbidden("apply a Role".to_owned()),
            WatchState::Current,
            "apply a Role",
        ),
        (
            WatchState::Current,
            WatchState::Forbidden("apply a ClusterRole".to_owned()),
            "apply a ClusterRole",
        ),
    ] {
        let mut scene = Scene::new();
        (scene.pods.pods, scene.pods.nodes) = (pods, nodes);
        let problems = scene.problems(0);
        assert!(problems.len() == 1 && problems[0].contains(told), "{problems:?}");
        scene.declared.document.on_drain = OnDrain::Observe;
        assert_eq!(scene.problems(1), [""; 0]);
    }
    // A moment without the API server is not worth a word, and a primary in no pod neither.
    let mut scene = Scene::new();
    scene.pods.pods = WatchState::Stale;
    assert_eq!(scene.problems(0), [""; 0]);
    let mut scene = Scene::new();
    let facts = scene.view.topology.instances.get_mut(&key("a")).unwrap().facts.as_mut();
    facts.unwrap().peer = Some([198, 51, 100, 1].into());
    assert_eq!(scene.problems(0), [""; 0]);
}

#[test]
fn what_the_document_asks_for_and_handovers_do_not_meet() {
    let mut scene = Scene::new();
    scene.declared.takeover = Some(DeclaredTakeover {
        id: format!("{CORDONED}1"),
        target: Some(key("b")),
        catch_up_seconds: None,
        deadline: later(3_600_000),
    });
    scene.cordon(1, true);
    assert_eq!(scene.asks(0), ["request"], "what the document asks for comes first");
    assert!(
        scene
            .state
            .requests
            .contains_key(&format!("cr:db/orders takeover {CORDONED}1"))
    );
    let settled = Command::SettleRequest {
        key: format!("cr:db/orders takeover {CORDONED}1"),
        outcome: RequestOutcome::Refused,
        why: "it lags".to_owned(),
    };
    scene.propose(1, settled);
    assert_eq!(scene.asks(2), ["request"]);
    assert_eq!(scene.state.requests.len(), 2);
    // The one that is later is shown, and the document's own again once it asks for another.
    let answer = scene.settle(3);
    assert!(
        of(&answer, "orders")
            .takeover
            .as_ref()
            .unwrap()
            .message
            .contains("orders-0")
    );
    scene.declared.takeover = Some(DeclaredTakeover {
        id: "next".to_owned(),
        target: None,
        catch_up_seconds: None,
        deadline: later(3_600_000),
    });
    scene.asks(4);
    let answer = scene.settle(5);
    assert_eq!(of(&answer, "orders").takeover.as_ref().unwrap().id, "next");
    // Neither takes the other back.
    scene.declared.takeover = None;
    assert_eq!(scene.asks(6), ["cancel-request"]);
    let open: Vec<&Request> = scene
        .state
        .requests
        .values()
        .filter(|request| !request.is_over())
        .collect();
    assert!(
        open.len() == 1 && matches!(open[0].what, RequestKind::Drain { .. }),
        "{open:?}"
    );
}

#[test]
fn events_tell_why() {
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.asks(0);
    scene.refuse(1, &format!("{CORDONED}1"));
    let answer = scene.settle(2);
    let told = &answer.events[&origin("db", "orders")];
    let refused = told
        .iter()
        .find(|it| it.reason == EventReason::TakeoverRefused)
        .unwrap();
    assert_eq!(
        refused.note,
        format!("request {CORDONED}1 (pod orders-0 is about to terminate: its node n1 is cordoned): all lag")
    );
}

#[test]
fn it_is_judged_again_when_it_is_begun() {
    let mut scene = Scene::new();
    scene.cordon(1, true);
    scene.asks(0);
    let request = scene.state.requests.values().next().unwrap().clone();
    let judged = |scene: &Scene, change: fn(&mut State, &mut ClusterView)| {
        let (mut state, mut view) = (scene.state.clone(), scene.view.clone());
        change(&mut state, &mut view);
        check(&state, &request, &view.topology, &view.policy)
    };
    assert_eq!(judged(&scene, |_, _| {}), Ok(()));
    let why = judged(&scene, |state, _| state.recoveries_disabled = true).unwrap_err();
    assert!(why.contains("globally disabled"), "{why}");
    let why = judged(&scene, |state, _| state.documents.clear()).unwrap_err();
    assert!(why.contains("document was deleted"), "{why}");
    let why = judged(&scene, |_, view| view.policy.terminating.clear()).unwrap_err();
    assert!(why.contains("no longer about to terminate"), "{why}");
    let why = judged(&scene, |_, view| {
        view.topology.recorded_primary = Some(key("b"));
        let facts = |view: &mut ClusterView, host: &str| -> Option<()> {
            let facts = view.topology.instances.get_mut(&key(host))?.facts.as_mut()?;
            facts.read_only = host != "b";
            facts.channels.clear();
            Some(())
        };
        facts(view, "a").unwrap();
        facts(view, "b").unwrap();
    })
    .unwrap_err();
    assert!(why.contains("a:3306 is no longer the primary"), "{why}");
    let all = seen(vec![scene.declared.clone()]);
    let again = reconcile(&all, &scene.state, &[], &BTreeMap::new(), later(1));
    assert_eq!(
        names(&again),
        [""; 0],
        "a leader that sees no cluster yet takes nothing back"
    );
}
