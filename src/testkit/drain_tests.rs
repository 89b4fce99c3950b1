//! Primaries in pods that are about to end, in the simulator: which server takes over, what is refused, and failovers meanwhile.

use std::sync::Arc;

use crate::domain::declared::SourceContents;
use crate::domain::declared::pods::{Node, Pod, Pods, WatchState};
use crate::domain::fixture::key;
use crate::domain::intent::Origin;
use crate::domain::policy::{BootReadOnly, OnDrain};
use crate::domain::state::sample::document;
use crate::domain::state::{
    Applied, Command, Document, Recovery, Request, RequestKind, RequestOutcome, RequestProgress,
};

use super::Rig;

fn origin() -> Origin {
    document("shop").origin
}

fn put(rig: &Rig, on_drain: OnDrain, paused: bool) {
    let document = Document {
        on_drain,
        paused,
        boot_read_only: BootReadOnly::Off,
        durability: None,
        ..document("shop")
    };
    rig.group.commit(Command::PutDocument {
        document: Box::new(document),
    });
}

/// A group whose cluster belongs to the document `shop`, with each server in a pod on a node of its own.
async fn in_pods(servers: u32) -> Rig {
    let rig = Rig::started(servers, 3).await;
    for n in 1..=servers {
        let ip = [192, 0, 2, u8::try_from(n).unwrap()].into();
        rig.world.with(n, |server| server.facts.peer = Some(ip));
    }
    put(&rig, OnDrain::TakeOver, false);
    rig.until("the document owns the cluster", |rig| {
        let state = rig.group.state();
        state.clusters.values().any(|cluster| cluster.document.is_some())
    })
    .await;
    leave(&rig, servers, &[], &[]);
    rig.wait(6000).await;
    rig
}

/// Publishes the pods: those of some servers are on cordoned nodes, those of others are being deleted.
fn leave(rig: &Rig, servers: u32, cordoned: &[u32], deleted: &[u32]) {
    let Origin::Document { namespace, .. } = origin() else {
        panic!("a document has a namespace");
    };
    let mut pods = Pods::with_watch_states(WatchState::Current, WatchState::Current);
    for n in 1..=servers {
        let node = Node {
            is_cordoned: cordoned.contains(&n),
            ..Node::default()
        };
        pods.put_node(format!("n{n}"), node);
        pods.put(Pod {
            namespace: namespace.clone(),
            name: format!("db-{n}"),
            uid: format!("uid-{n}"),
            addresses: [[192, 0, 2, u8::try_from(n).unwrap()].into()].into(),
            node: format!("n{n}"),
            is_deleted: deleted.contains(&n),
            ..Pod::default()
        });
    }
    rig.documents.send_replace(Arc::new(SourceContents {
        pods: Arc::new(pods),
        ..SourceContents::default()
    }));
}

/// Records a handover of a server, and waits for its end.
async fn hand_over(rig: &Rig, id: &str, primary: u32) -> (RequestOutcome, String) {
    let what = RequestKind::Drain {
        primary: key(primary),
        reason: "pod is leaving".to_owned(),
        deadline: rig.group.state().clock.plus_millis(30_000),
    };
    let request = Request::new(origin(), id.to_owned(), what);
    let key_of = request.key();
    let applied = rig.group.commit(Command::Request {
        request: Box::new(request),
    });
    assert_eq!(applied, Applied::Done);
    let end = |rig: &Rig| match &rig.group.state().requests[&key_of].progress {
        RequestProgress::Over { outcome, why, .. } => Some((*outcome, why.clone())),
        RequestProgress::Pending | RequestProgress::Running { .. } => None,
    };
    rig.until("the request is over", |rig| end(rig).is_some()).await;
    end(rig).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_takes_over_whoever_leads_meanwhile() {
    let rig = in_pods(4).await;
    leave(&rig, 4, &[1, 2, 3], &[]);
    rig.group.elect(2);
    let (outcome, why) = hand_over(&rig, "a", 1).await;
    assert_eq!(outcome, RequestOutcome::Succeeded, "{why}");
    assert_eq!(rig.world.writable(), [key(4)], "by address it would have been another");
    assert_eq!(rig.recoveries().len(), 1);
    // The old primary replicates until it goes.
    let old = rig.world.with(1, |server| server.channel.clone()).unwrap();
    assert_eq!((&old.source, old.receives, old.applies), (&key(4), true, true));
    // Requested again under another id, it is no longer the primary.
    let (outcome, why) = hand_over(&rig, "b", 1).await;
    assert!(
        outcome == RequestOutcome::Refused && why.contains("is no longer the primary"),
        "{why}"
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_speaks_against_a_handover_is_its_end_and_nothing_is_touched() {
    let rig = in_pods(3).await;
    let touched = rig.world.log().len();
    let refused = async |id: &str, told: &str| {
        let (outcome, why) = hand_over(&rig, id, 1).await;
        assert!(
            outcome == RequestOutcome::Refused && why.contains(told),
            "{outcome:?} {why}"
        );
    };
    refused("stays", "no longer about to terminate").await;
    leave(&rig, 3, &[1, 2, 3], &[]);
    refused("all", "no replica runs longer than the primary").await;
    leave(&rig, 3, &[1], &[]);
    put(&rig, OnDrain::TakeOver, true);
    refused("paused", "spec.paused is true").await;
    put(&rig, OnDrain::Observe, false);
    refused("observed", "onDrain is not TakeOver").await;
    put(&rig, OnDrain::TakeOver, false);
    // The one that stays cannot take over, and the other one goes as soon.
    leave(&rig, 3, &[1, 2], &[]);
    rig.world
        .with(3, |server| server.channel.as_mut().unwrap().applies = false);
    rig.wait(6000).await;
    refused(
        "stopped",
        "only db2:3306 could take over, and its pod is about to terminate as well",
    )
    .await;
    assert_eq!(rig.world.log().len(), touched, "{:#?}", rig.world.log());
    assert!(rig.recoveries().is_empty());
    assert_eq!(rig.world.writable(), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_hands_over_to_one_on_a_cordoned_node() {
    let rig = in_pods(3).await;
    leave(&rig, 3, &[1, 2, 3], &[1, 2]);
    let (outcome, why) = hand_over(&rig, "a", 1).await;
    assert_eq!(outcome, RequestOutcome::Succeeded, "{why}");
    assert_eq!(rig.world.writable(), [key(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_failover_prefers_who_stays_and_is_never_refused_for_it() {
    for (cordoned, deleted, wanted) in [
        (&[2_u32][..], &[][..], 3),
        (&[2, 3], &[2], 3),
        (&[2, 3], &[3], 2),
        (&[1, 2, 3], &[], 2),
        (&[], &[1, 2, 3], 2),
    ] {
        let rig = in_pods(3).await;
        leave(&rig, 3, cordoned, deleted);
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(recoveries[0].is_successful(), "{:?}", recoveries[0].errors);
        assert_eq!(rig.world.writable(), [key(wanted)], "{cordoned:?} {deleted:?}");
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_while_it_is_asked_to_hand_over_is_replaced_by_a_failover() {
    let rig = in_pods(3).await;
    leave(&rig, 3, &[], &[1]);
    rig.world.kill(1);
    let (outcome, why) = hand_over(&rig, "a", 1).await;
    assert_ne!(outcome, RequestOutcome::Succeeded, "{why}");
    let recoveries = rig.recovered(1).await;
    assert!(recoveries.iter().any(Recovery::is_successful));
    assert_eq!(rig.world.writable().len(), 1);
    assert_ne!(rig.world.writable(), [key(1)]);
    rig.world.assert_sound();
}
