//! Requests of documents, in the simulator: executed once, refused with the reason, withdrawn, never executed again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::app::recovery::publication_gate::PublicationStatus;
use crate::domain::declared::{Publication, PublishError, PublishedAddresses, Role, ServiceTarget, WantedService};
use crate::domain::fixture::key;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::policy::BootReadOnly;
use crate::domain::state::sample::document;
use crate::domain::state::{Applied, Command, Document, Request, RequestKind, RequestOutcome, RequestProgress, State};
use crate::domain::topology::ClusterId;

use super::{CommitFault, Fault, Rig};

const HOUR_MILLIS: i64 = 3_600_000;

/// A group whose cluster belongs to the document `shop`.
async fn declared(servers: u32, members: u64) -> Rig {
    let rig = Rig::started(servers, members).await;
    put(&rig, false);
    rig.until("the document owns the cluster", |rig| {
        rig.group
            .state()
            .clusters
            .values()
            .any(|cluster| cluster.document.is_some())
    })
    .await;
    rig
}

fn put(rig: &Rig, paused: bool) {
    let document = Document {
        paused,
        boot_read_only: BootReadOnly::Off,
        durability: None,
        ..document("shop")
    };
    rig.group.commit(Command::PutDocument {
        document: Box::new(document),
    });
}

fn takeover(rig: &Rig, id: &str, target: Option<u32>) -> Request {
    let what = RequestKind::Takeover {
        target: target.map(key),
        catch_up_seconds: Some(30),
        deadline: rig.group.state().clock.plus_millis(HOUR_MILLIS),
    };
    Request::new(document("shop").origin, id.to_owned(), what)
}

fn ask(rig: &Rig, request: &Request) -> String {
    let applied = rig.group.commit(Command::Request {
        request: Box::new(request.clone()),
    });
    assert_eq!(applied, Applied::Done);
    request.key()
}

fn cancel(key: &str) -> Command {
    Command::CancelRequest {
        key: key.to_owned(),
        why: "cleared".to_owned(),
    }
}

fn end(state: &State, key: &str) -> Option<(RequestOutcome, String)> {
    match &state.requests[key].progress {
        RequestProgress::Over { outcome, why, .. } => Some((*outcome, why.clone())),
        RequestProgress::Pending | RequestProgress::Running { .. } => None,
    }
}

async fn over(rig: &Rig, key: &str) -> (RequestOutcome, String) {
    rig.until("the request is over", |rig| end(&rig.group.state(), key).is_some())
        .await;
    end(&rig.group.state(), key).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_done_once_whoever_leads_and_however_often_it_is_asked_for() {
    let rig = declared(3, 3).await;
    let request = takeover(&rig, "a", Some(3));
    let key_of = ask(&rig, &request);
    assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
    assert_eq!(rig.world.writable(), [key(3)]);
    // Somebody takes the primary back by hand, another one leads, the document is made anew and asks again.
    let back = takeover(&rig, "back", Some(1));
    let back_key = ask(&rig, &back);
    assert_eq!(over(&rig, &back_key).await.0, RequestOutcome::Succeeded);
    rig.group.elect(2);
    rig.group.commit(Command::WithdrawDocument {
        origin: document("shop").origin,
    });
    put(&rig, false);
    ask(&rig, &request);
    rig.wait(10_000).await;
    assert_eq!(rig.world.writable(), [key(1)]);
    assert_eq!(rig.recoveries().len(), 2);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_a_target_the_best_replica_takes_over_and_the_old_primary_replicates() {
    let rig = declared(4, 3).await;
    let key_of = ask(&rig, &takeover(&rig, "a", None));
    assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
    let new = rig.world.writable();
    assert!(new.len() == 1 && new[0] != key(1), "{new:?}");
    let old = rig.world.with(1, |server| server.channel.clone()).unwrap();
    assert_eq!((&old.source, old.receives, old.applies), (&new[0], true, true));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_speaks_against_a_takeover_is_its_end_and_nothing_is_touched() {
    let rig = declared(3, 3).await;
    let touched = rig.world.log().len();
    let refused = async |request: Request| {
        let key_of = ask(&rig, &request);
        let (outcome, why) = over(&rig, &key_of).await;
        assert_eq!(outcome, RequestOutcome::Refused, "{why}");
        why
    };
    let why = refused(takeover(&rig, "primary", Some(1))).await;
    assert!(why.contains("is the primary already"), "{why}");
    rig.world
        .with(3, |server| server.channel.as_mut().unwrap().applies = false);
    rig.wait(6000).await;
    let why = refused(takeover(&rig, "stopped", Some(3))).await;
    assert!(why.contains("db3:3306") && why.contains("applier thread"), "{why}");
    put(&rig, true);
    let why = refused(takeover(&rig, "paused", Some(2))).await;
    assert!(why.contains("spec.paused is true"), "{why}");
    assert_eq!(rig.world.log().len(), touched, "{:#?}", rig.world.log());
    assert!(rig.recoveries().is_empty());
    // What was refused stays refused when the reason is gone.
    put(&rig, false);
    rig.wait(5000).await;
    assert!(rig.recoveries().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_for_before_a_quorum_was_forced_waits_for_a_person() {
    let rig = declared(3, 3).await;
    rig.group.commit(Command::ForceQuorum {
        survivor: 1,
        survivor_name: "member1".to_owned(),
        lost: vec!["member2".to_owned()],
    });
    let key_of = ask(&rig, &takeover(&rig, "a", Some(3)));
    rig.wait(20_000).await;
    assert_eq!(rig.world.writable(), [key(1)], "it may have been done already");
    rig.group.commit(Command::SetGlobalRecoveries { enabled: true });
    assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
    assert_eq!(rig.world.writable(), [key(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_opens_when_the_service_leads_to_the_old_primary_no_longer() {
    for is_emptied in [true, false] {
        let rig = declared(3, 3).await;
        let (publications, led) = published("10.0.0.1:3306");
        rig.service_gate.record_outcomes(&publications, &led);
        let key_of = ask(&rig, &takeover(&rig, "a", Some(3)));
        rig.until("the old primary is read-only", |rig| rig.world.writable().is_empty())
            .await;
        rig.wait(1000).await;
        assert!(rig.world.writable().is_empty(), "it waits for the Service");
        if is_emptied {
            let (publications, led) = published("");
            rig.service_gate.record_outcomes(&publications, &led);
        }
        assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
        assert_eq!(rig.world.writable(), [key(3)]);
        let recoveries = rig.recoveries();
        let is_told = recoveries[0]
            .steps
            .iter()
            .any(|line| line.message.contains("was not emptied within 2 s"));
        assert_eq!(is_told, !is_emptied, "{recoveries:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_takeover_opens_when_the_publishers_lead_to_the_old_primary_no_longer() {
    for is_withdrawn in [true, false] {
        let rig = declared(3, 3).await;
        let publish = |leads_to: Option<InstanceKey>| {
            let status = PublicationStatus {
                name: "shop".to_owned(),
                leads_to,
                withdraws: true,
                failure: None,
                round: 0,
            };
            let of = ("ProxySQL p1:6032".to_owned(), ClusterId("c1".to_owned()));
            rig.publication_gate
                .update(|statuses| drop(statuses.insert(of, status)));
        };
        publish(Some(key(1)));
        let key_of = ask(&rig, &takeover(&rig, "a", Some(3)));
        rig.until("the old primary is read-only", |rig| rig.world.writable().is_empty())
            .await;
        rig.wait(1000).await;
        assert!(rig.world.writable().is_empty(), "it waits for ProxySQL");
        if is_withdrawn {
            publish(None);
        }
        assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
        assert_eq!(rig.world.writable(), [key(3)]);
        let recoveries = rig.recoveries();
        let text = "was not withdrawn within 2 s at ProxySQL p1:6032";
        let is_told = recoveries[0].steps.iter().any(|line| line.message.contains(text));
        assert_eq!(is_told, !is_withdrawn, "{recoveries:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_is_tried_again_does_not_wait_for_the_service_again() {
    let rig = declared(3, 3).await;
    let (publications, led) = published("10.0.0.1:3306");
    rig.service_gate.record_outcomes(&publications, &led);
    rig.world.plan(Fault::broken(3, "set_writable"));
    let key_of = ask(&rig, &takeover(&rig, "a", Some(3)));
    assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
    let recoveries = rig.recoveries();
    let lines = |part: &str| {
        let steps = recoveries[0].steps.iter();
        steps.filter(|line| line.message.contains(part)).count()
    };
    assert_eq!(
        (lines("was not emptied within 2 s"), lines("open: make ")),
        (1, 2),
        "{recoveries:#?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failover_does_not_wait_for_the_service() {
    let rig = declared(3, 3).await;
    let (publications, led) = published("10.0.0.1:3306");
    rig.service_gate.record_outcomes(&publications, &led);
    rig.world.kill(1);
    rig.until("another primary takes writes", |rig| !rig.world.writable().is_empty())
        .await;
    assert!(
        !rig.recoveries()[0]
            .steps
            .iter()
            .any(|line| line.message.contains("was not emptied"))
    );
}

/// The Service of the document's cluster has the address of this server; no address when `None`.
fn published(
    server: &str,
) -> (
    BTreeMap<Origin, Publication>,
    BTreeMap<Origin, Result<PublishedAddresses, PublishError>>,
) {
    let origin = document("shop").origin;
    let publication = Publication {
        uid: "u".to_owned(),
        cluster: Some(ClusterId("c1".to_owned())),
        epoch: 1,
        services: vec![WantedService {
            name: "shop-primary".to_owned(),
            port: 3306,
            role: Role::Primary,
            target: ServiceTarget::Unchanged,
        }],
        unusable: None,
    };
    let servers = server.parse().into_iter().collect();
    (
        BTreeMap::from([(origin.clone(), publication)]),
        BTreeMap::from([(origin, Ok(Some(servers)))]),
    )
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_runs_is_a_reason_to_refuse() {
    let rig = declared(3, 3).await;
    rig.world.plan(Fault::hang(2, "wait_applied"));
    rig.world.kill(1);
    rig.until("the failover is claimed", |rig| !rig.recoveries().is_empty())
        .await;
    let key_of = ask(&rig, &takeover(&rig, "a", Some(3)));
    let (outcome, why) = over(&rig, &key_of).await;
    assert!(
        outcome == RequestOutcome::Refused && why.contains("of this cluster is running"),
        "{outcome:?} {why}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_takeover_that_is_taken_back_while_it_runs_is_undone() {
    for statement in ["transactions", "set_read_only", "kill_clients"] {
        let rig = declared(3, 3).await;
        let request = takeover(&rig, "a", Some(2));
        let (group, key_of) = (rig.group.clone(), request.key());
        rig.world.plan(Fault::then(1, statement, {
            let key_of = key_of.clone();
            move |_| drop(group.commit(cancel(&key_of)))
        }));
        ask(&rig, &request);
        let (outcome, why) = over(&rig, &key_of).await;
        assert_eq!(outcome, RequestOutcome::Cancelled, "{statement}: {why}");
        assert_eq!(rig.world.writable(), [key(1)], "{statement}: {:#?}", rig.world.log());
        assert_eq!(
            rig.world
                .opened()
                .iter()
                .filter(|opened| **opened != key(1).to_string())
                .count(),
            0
        );
        rig.wait(5000).await;
        assert_eq!(rig.recoveries().len(), 1, "{statement}");
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_takeover_that_is_taken_back_while_the_target_catches_up_is_undone() {
    let rig = declared(3, 3).await;
    let request = takeover(&rig, "a", Some(2));
    let (group, key_of) = (rig.group.clone(), request.key());
    rig.world.plan(Fault::first(2, "wait_applied", {
        let key_of = key_of.clone();
        move |_| drop(group.commit(cancel(&key_of)))
    }));
    ask(&rig, &request);
    assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Cancelled);
    assert_eq!(rig.world.writable(), [key(1)], "{:#?}", rig.world.log());
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn after_the_open_entry_it_goes_on() {
    let rig = declared(3, 3).await;
    let request = takeover(&rig, "a", Some(2));
    let (group, key_of) = (rig.group.clone(), request.key());
    rig.world.plan(Fault::first(2, "set_writable", {
        let key_of = key_of.clone();
        move |_| {
            let late = group.commit(cancel(&key_of));
            assert!(matches!(late, Applied::Refused { .. }), "{late}");
        }
    }));
    ask(&rig, &request);
    assert_eq!(over(&rig, &key_of).await.0, RequestOutcome::Succeeded);
    assert_eq!(rig.world.writable(), [key(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_on_the_way_does_not_make_it_happen_twice() {
    for (kind, command) in CommitFault::sweep() {
        let rig = declared(3, 3).await;
        rig.group.plan(CommitFault::new(command, kind));
        let key_of = ask(&rig, &takeover(&rig, "a", Some(2)));
        let (outcome, why) = over(&rig, &key_of).await;
        let about = format!("{kind:?} at {command}: {outcome:?} {why}");
        rig.until("no recovery runs", |rig| {
            rig.recoveries().iter().all(|recovery| !recovery.is_active())
        })
        .await;
        rig.wait(5000).await;
        assert!(rig.recoveries().len() <= 1, "{about}: {:#?}", rig.recoveries());
        let wanted = if outcome == RequestOutcome::Succeeded {
            key(2)
        } else {
            key(1)
        };
        assert_eq!(rig.world.writable(), [wanted], "{about}");
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_cluster_is_never_seen_expires() {
    let rig = declared(3, 3).await;
    let what = RequestKind::Takeover {
        target: None,
        catch_up_seconds: None,
        deadline: rig.group.state().clock.plus_millis(20_000),
    };
    let key_of = ask(&rig, &Request::new(document("other").origin, "a".to_owned(), what));
    let asked = tokio::time::Instant::now();
    let (outcome, why) = over(&rig, &key_of).await;
    assert!(
        outcome == RequestOutcome::Expired && why.contains("no cluster"),
        "{outcome:?} {why}"
    );
    assert!(asked.elapsed() >= Duration::from_secs(15), "{:?}", asked.elapsed());
}

/// The incident of the primary's failure, as the status would name it.
async fn incident_of(rig: &Rig, old_primary: u32) -> String {
    let present = |rig: &Rig| {
        let state = rig.group.state();
        crate::domain::declared::incident_id::ids_of(
            &state,
            &crate::domain::topology::ClusterId("c1".to_owned()),
            &key(old_primary),
            state.clock,
        )
    };
    rig.until("the failure is on record", |rig| !present(rig).is_empty())
        .await;
    present(rig).remove(0)
}

fn force(old_primary: u32, incident: &str) -> Request {
    let what = RequestKind::Force {
        old_primary: key(old_primary),
        incident: incident.to_owned(),
    };
    Request::new(
        document("shop").origin,
        format!("{}/{incident}", key(old_primary)),
        what,
    )
}

#[tokio::test(start_paused = true)]
async fn a_forced_promotion_is_done_in_the_incident_that_it_names_and_once() {
    let rig = declared(3, 3).await;
    put(&rig, true);
    // Nothing has failed yet: no incident has this name, and a primary that takes writes is not forced away.
    let early = ask(&rig, &force(1, "1-1"));
    let (outcome, why) = over(&rig, &early).await;
    assert!(
        outcome == RequestOutcome::Refused && why.contains("takes writes"),
        "{why}"
    );

    rig.world.kill(1);
    let incident = incident_of(&rig, 1).await;
    let (outcome, why) = over(&rig, &ask(&rig, &force(1, "7-7"))).await;
    assert!(outcome == RequestOutcome::Refused && why.contains(&incident), "{why}");
    let (outcome, why) = over(&rig, &ask(&rig, &force(2, &incident))).await;
    assert!(
        outcome == RequestOutcome::Refused && why.contains("is not the primary"),
        "{why}"
    );
    assert!(rig.recoveries().is_empty(), "paused");

    let request = force(1, &incident);
    let (outcome, why) = over(&rig, &ask(&rig, &request)).await;
    assert_eq!(outcome, RequestOutcome::Succeeded, "{why}");
    let done = rig.recoveries();
    assert!(
        done.len() == 1 && done[0].plan.manual_request.as_ref().unwrap().accepts_loss,
        "{done:#?}"
    );
    let new = rig.world.writable();
    assert!(new.len() == 1 && new[0] != key(1), "{new:?}");
    // The annotation is still there when the next one fails.
    ask(&rig, &request);
    rig.world.kill(if new[0] == key(2) { 2 } else { 3 });
    rig.wait(20_000).await;
    assert_eq!(rig.recoveries().len(), 1, "{:#?}", rig.recoveries());
    rig.world.assert_sound();
}
