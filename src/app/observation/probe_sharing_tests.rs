use serde_json::{Map, json};

use super::*;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{MAX_OBSERVATIONS, SharedObservation, SharedOutcome};
use crate::domain::fixture::{NOW, key, primary};
use crate::domain::instance::Observation;
use crate::testkit::PausedClock;

fn group(me: MemberId, leader: MemberId, term: u64) -> SharingGroup {
    SharingGroup {
        me,
        names: [1, 2].map(|id| (id, format!("member{id}"))).into_iter().collect(),
        is_possible: true,
        is_leader: me == leader,
        term,
    }
}

fn instances(count: u32) -> BTreeMap<InstanceKey, String> {
    (1..=count).map(|n| (key(n), String::new())).collect()
}

/// Member 1, which leads and has all instances as long as it does not hear member 2.
fn leader(count: u32) -> Arc<SharedProbes> {
    let probes = SharedProbes::new(ProbeSharing::RoundRobin, Arc::new(PausedClock::new()));
    probes.follow(group(1, 1, 3), BTreeSet::new());
    probes.lead(instances(count), &BTreeMap::new());
    probes
}

fn follower() -> Arc<SharedProbes> {
    let probes = SharedProbes::new(ProbeSharing::RoundRobin, Arc::new(PausedClock::new()));
    probes.follow(group(2, 1, 3), BTreeSet::new());
    probes
}

fn put(probes: &SharedProbes, n: u32, executed: &str) {
    let facts = primary(n, executed).facts.unwrap();
    let now = probes.clock.monotonic();
    probes.put_own(&key(n), &Origin::Api, (now, now, 900), Ok(&facts));
}

/// One request of `to`, answered by `from`.
async fn exchange(from: &SharedProbes, to: &SharedProbes) -> (ObservationUpdate, Vec<ReceivedObservation>) {
    let request = to.request_to(1);
    let begun = to.clock.monotonic();
    let update = from.observations(request).await;
    let received = to.accept(1, update.clone(), begun, |_| true);
    (update, received)
}

fn executed(received: &ReceivedObservation) -> String {
    let facts = received.observation.as_ref().unwrap().outcome.as_ref().unwrap();
    facts.executed.to_string()
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_sent_again() {
    let (leader, follower) = (leader(2), follower());
    put(&leader, 1, "1:1-100");
    put(&leader, 2, "2:1-5");
    let (first, received) = exchange(&leader, &follower).await;
    assert!(first.is_whole && received.len() == 2);
    put(&leader, 1, "1:1-101");
    let (second, received) = exchange(&leader, &follower).await;
    assert!(!second.is_whole && received.len() == 1);
    assert!(executed(&received[0]).ends_with(":1-101"));
    let SharedOutcome::Facts {
        is_complete,
        set,
        removed,
    } = &second.observations[0].outcome
    else {
        panic!("{second:?}");
    };
    assert!(!is_complete && removed.is_empty());
    assert_eq!(set.keys().collect::<Vec<_>>(), ["executed"]);
    // What did not change is renewed.
    put(&leader, 1, "1:1-101");
    let (third, received) = exchange(&leader, &follower).await;
    assert!(executed(&received[0]).ends_with(":1-101"));
    assert!(matches!(&third.observations[0].outcome, SharedOutcome::Facts { set, .. } if set.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_gone_is_removed() {
    let (leader, follower) = (leader(1), follower());
    let mut facts = primary(1, "1:1").facts.unwrap();
    facts.by_admin_endpoint = true;
    let now = leader.clock.monotonic();
    leader.put_own(&key(1), &Origin::Api, (now, now, 1), Ok(&facts));
    exchange(&leader, &follower).await;
    facts.by_admin_endpoint = false;
    leader.put_own(&key(1), &Origin::Api, (now, now, 1), Ok(&facts));
    let (_, received) = exchange(&leader, &follower).await;
    let read = received[0].observation.as_ref().unwrap().outcome.as_ref().unwrap();
    assert!(!read.by_admin_endpoint);
}

#[tokio::test(start_paused = true)]
async fn a_missed_version_makes_the_receiver_ask_for_everything() {
    let (leader, follower) = (leader(2), follower());
    put(&leader, 1, "1:1-100");
    exchange(&leader, &follower).await;
    put(&leader, 1, "1:1-101");
    // The receiver has lost what the changes refer to.
    follower.lock().incoming.get_mut(&1).unwrap().retain(|_| false);
    let (_, received) = exchange(&leader, &follower).await;
    assert!(received.is_empty());
    let (update, received) = exchange(&leader, &follower).await;
    assert!(update.is_whole && executed(&received[0]).ends_with(":1-101"));
    // The sender was started again: the former version means nothing.
    let restarted = self::leader(2);
    restarted.lock().outgoing = OutgoingStream::new(77);
    put(&restarted, 2, "2:1-7");
    let (update, received) = exchange(&restarted, &follower).await;
    assert!(update.is_whole && update.stream == 77 && received[0].key == key(2));
}

#[tokio::test(start_paused = true)]
async fn a_large_share_comes_in_parts_and_is_complete() {
    let count = u32::try_from(MAX_OBSERVATIONS).unwrap() + 500;
    let (leader, follower) = (leader(count), follower());
    for n in 1..=count {
        put(&leader, n, "1:1-100");
    }
    let mut seen = BTreeSet::new();
    for part in 0.. {
        let (update, received) = exchange(&leader, &follower).await;
        assert!(update.observations.len() <= MAX_OBSERVATIONS && part < 20);
        seen.extend(received.into_iter().map(|received| received.key));
        // Meanwhile the first ones are observed again.
        put(&leader, 1, "1:1-200");
        if !update.has_more {
            break;
        }
    }
    assert_eq!(seen.len(), usize::try_from(count).unwrap());
    let (_, received) = exchange(&leader, &follower).await;
    assert_eq!(received.len(), 1, "the transfer is over, and nothing begins anew");
}

#[tokio::test(start_paused = true)]
async fn ages_contain_the_time_on_the_way_and_not_the_time_that_an_answer_was_held_back() {
    let (leader, follower) = (leader(1), follower());
    put(&leader, 1, "1:1-100");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request = follower.request_to(1);
    let begun = follower.clock.monotonic();
    let update = leader.observations(request).await;
    tokio::time::sleep(Duration::from_millis(40)).await;
    let received = follower.accept(1, update, begun, |_| true);
    let age = follower.clock.monotonic().millis_since(received[0].begun);
    assert!((345..=350).contains(&age), "{age}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_sent_at_once_and_other_changes_with_the_next_answer() {
    let (leader, follower) = (leader(1), follower());
    put(&leader, 1, "1:1-100");
    exchange(&leader, &follower).await;
    let begun = Instant::now();
    put(&leader, 1, "1:1-101");
    exchange(&leader, &follower).await;
    assert_eq!(begun.elapsed(), HOLD);
    for report in [true, false] {
        let begun = Instant::now();
        let reporting = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if report {
                leader.put_doubt(&key(1), &Origin::Api);
            } else {
                let now = leader.clock.monotonic();
                leader.put_own(&key(1), &Origin::Api, (now, now, 1), Err(&ProbeFailure::Refused));
            }
        };
        let ((), (_, received)) = tokio::join!(reporting, exchange(&leader, &follower));
        assert!(begun.elapsed() < Duration::from_millis(60), "{:?}", begun.elapsed());
        assert!(received[0].observation.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_assignment_holds_as_long_as_its_leader_confirms_it() {
    let (leader, follower) = (leader(3), follower());
    assert!(follower.is_own(&key(1)), "nothing is assigned yet");
    exchange(&leader, &follower).await;
    assert!(
        !follower.is_own(&key(1)) && follower.is_own(&key(9)),
        "an unknown one is everybody's"
    );
    assert_eq!(follower.assigned(&key(1)), Some(1));
    tokio::time::sleep(Duration::from_millis(1400)).await;
    assert!(!follower.is_own(&key(1)));
    // The member is silent for too long; later the assignment itself is too old.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(follower.is_own(&key(1)) && follower.shares().is_active);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(follower.is_own(&key(1)) && !follower.shares().is_active);
}

#[tokio::test(start_paused = true)]
async fn an_assignment_of_an_earlier_term_is_refused() {
    let (leader, follower) = (leader(3), follower());
    follower.follow(group(2, 1, 4), BTreeSet::new());
    exchange(&leader, &follower).await;
    assert_eq!(follower.assigned(&key(1)), None);
    leader.follow(group(1, 1, 4), BTreeSet::new());
    leader.lead(instances(3), &BTreeMap::new());
    exchange(&leader, &follower).await;
    assert_eq!(follower.assigned(&key(1)), Some(1));
    // A member that does not lead any more offers none.
    leader.follow(group(1, 2, 5), BTreeSet::new());
    let (update, _) = exchange(&leader, &follower).await;
    assert_eq!(update.assignment, None);
    assert!(leader.is_own(&key(1)) && leader.is_own(&key(9)));
}

#[tokio::test(start_paused = true)]
async fn the_leader_uses_nothing_of_others_where_it_acts() {
    let (leader, follower) = (leader(3), follower());
    exchange(&leader, &follower).await;
    for probes in [&leader, &follower] {
        let mut group = probes.lock().group.clone();
        group.term = 3;
        probes.follow(group, BTreeSet::from([key(2)]));
    }
    assert!(!leader.may_use(&key(2)) && leader.may_use(&key(1)));
    assert!(follower.may_use(&key(2)));
}

fn hostile(key: InstanceKey, outcome: SharedOutcome) -> SharedObservation {
    SharedObservation {
        key,
        account: Origin::Api,
        begun_millis_ago: 3,
        ended_millis_ago: 2,
        micros: u64::MAX,
        outcome,
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_left_out() {
    let follower = follower();
    let facts = |set: Map<String, serde_json::Value>, is_complete| SharedOutcome::Facts {
        is_complete,
        set,
        removed: vec!["identity".to_owned(); 3],
    };
    let whole = |observations: Vec<SharedObservation>| ObservationUpdate {
        stream: 5,
        version: u64::MAX,
        is_whole: true,
        held_millis: u64::MAX,
        observations,
        ..ObservationUpdate::default()
    };
    let odd = Map::from_iter([("identity".to_owned(), json!({"serverUuid": 7}))]);
    let begun = follower.clock.monotonic();
    let unreadable = whole(vec![hostile(key(1), facts(odd.clone(), true))]);
    assert!(follower.accept(1, unreadable, begun, |_| true).is_empty());
    let unknown = whole(vec![hostile(key(1), SharedOutcome::Doubted)]);
    assert!(follower.accept(1, unknown, begun, |_| false).is_empty());
    let baseless = whole(vec![hostile(key(4), facts(odd, false))]);
    assert!(follower.accept(1, baseless, begun, |_| true).is_empty());
    assert_eq!(follower.request_to(1).after, 0, "everything is asked for");
    let endless = whole(vec![hostile(key(1), SharedOutcome::Doubted); MAX_OBSERVATIONS + 1]);
    assert!(follower.accept(1, endless, begun, |_| true).is_empty());
    let mut old = hostile(key(1), SharedOutcome::Doubted);
    (old.begun_millis_ago, old.ended_millis_ago) = (u64::MAX, u64::MAX);
    let mut reversed = hostile(key(2), SharedOutcome::Doubted);
    reversed.ended_millis_ago = 9;
    assert!(
        follower
            .accept(1, whole(vec![old, reversed]), begun, |_| true)
            .is_empty()
    );
    let right = whole(vec![hostile(key(3), SharedOutcome::Doubted)]);
    assert_eq!(follower.accept(1, right, begun, |_| true).len(), 1);
    // Too many instances.
    let offer = |count: u32| ObservationUpdate {
        assignment: Some(AssignmentOffer {
            version: AssignmentVersion {
                term: 3,
                number: u64::MAX,
            },
            shares: Some(BTreeMap::from([(
                1,
                (0..count)
                    .map(|n| InstanceKey::new("db", u16::try_from(n % 60_000).unwrap()))
                    .collect(),
            )])),
        }),
        ..ObservationUpdate::default()
    };
    follower.accept(1, offer(u32::try_from(MAX_ASSIGNED).unwrap() + 1), begun, |_| true);
    assert_eq!(follower.assigned(&InstanceKey::new("db", 5)), None);
    follower.accept(1, offer(10), begun, |_| true);
    assert_eq!(follower.assigned(&InstanceKey::new("db", 5)), Some(1));
}

#[test]
fn recording_and_receiving_do_not_wait_for_each_other() {
    let probes = leader(1);
    let cache = Arc::new(InstanceCache::default().with_shared_probes(Arc::clone(&probes)));
    cache.track(&key(1), &Origin::Api, true, MonotonicTime(1));
    let (done, ended) = std::sync::mpsc::channel();
    let recording = {
        let (cache, done) = (Arc::clone(&cache), done.clone());
        std::thread::spawn(move || {
            for begun in 1..3000 {
                let observation = Observation {
                    key: key(1),
                    begun: NOW,
                    ended: NOW,
                    micros: 1,
                    outcome: Ok(Box::new(primary(1, "1:1").facts.unwrap())),
                };
                cache.record(&observation, MonotonicTime(begun), MonotonicTime(begun));
            }
            done.send(()).unwrap();
        })
    };
    let receiving = std::thread::spawn(move || {
        for version in 1..3000 {
            let update = ObservationUpdate {
                stream: 5,
                version,
                is_whole: true,
                observations: vec![hostile(key(1), SharedOutcome::Doubted)],
                ..ObservationUpdate::default()
            };
            probes.accept(2, update, MonotonicTime(1), |key| cache.tracked_origin(key).is_some());
            probes.note_report(&key(1), 2);
            probes.review_reports(|key, _| cache.tracked_origin(key).is_some());
        }
        done.send(()).unwrap();
    });
    for _ in 0..2 {
        ended
            .recv_timeout(Duration::from_mins(1))
            .expect("the two do not hold what the other waits for");
    }
    recording.join().unwrap();
    receiving.join().unwrap();
}
