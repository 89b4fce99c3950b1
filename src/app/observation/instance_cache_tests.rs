use super::*;
use crate::domain::fixture::{Adjust, NOW, key, mariadb_primary, primary, replica};
use crate::domain::instance::ProbeFailure;
use crate::domain::time::WallTime;

const MS: u64 = 1000;

fn saw(instance: &Instance, at: u32) -> Observation {
    Observation {
        key: instance.key.clone(),
        begun: NOW,
        ended: NOW,
        micros: 1,
        outcome: instance
            .failure
            .clone()
            .map_or_else(|| Ok(Box::new(instance.facts.clone().unwrap())), Err),
    }
    .at(at)
}

trait At {
    fn at(self, n: u32) -> Self;
}

impl At for Observation {
    fn at(self, n: u32) -> Self {
        Self { key: key(n), ..self }
    }
}

fn watching(servers: &[u32]) -> InstanceCache {
    let instance_cache = InstanceCache::default();
    for n in servers {
        assert!(instance_cache.track(&key(*n), &Origin::Api, true, MonotonicTime(1)));
    }
    instance_cache
}

fn record(instance_cache: &InstanceCache, observation: &Observation, millis: u64) -> ObservedChanges {
    instance_cache.record(
        observation,
        MonotonicTime(millis * MS),
        MonotonicTime(millis * MS + 500),
    )
}

#[test]
fn an_observation_that_began_earlier_is_ignored_however_late_it_ends() {
    let instance_cache = watching(&[1]);
    record(&instance_cache, &saw(&primary(1, "1:1-9"), 1), 100);
    let late = saw(&primary(1, "1:1-5").dead(), 1);
    let noticed = instance_cache.record(&late, MonotonicTime(50 * MS), MonotonicTime(900 * MS));
    assert_eq!(noticed, ObservedChanges::default());
    let tracked = instance_cache.get(&key(1)).unwrap();
    assert!(tracked.instance.is_valid() && tracked.failing_since.is_none());
}

#[test]
fn what_an_earlier_process_saw_last_counts_until_it_is_seen_again() {
    let before = NOW.plus_millis(-5_000);
    let instance_cache = InstanceCache::default().with_last_seen([(key(1), before)]);
    instance_cache.track(&key(1), &Origin::Api, true, MonotonicTime(1));
    instance_cache.track(&key(2), &Origin::Api, true, MonotonicTime(1));
    record(&instance_cache, &saw(&primary(1, "").dead(), 1), 100);
    let seen = |n| {
        let instance = instance_cache.get(&key(n)).unwrap().instance;
        (instance.last_seen, instance.is_valid())
    };
    assert_eq!(seen(1), (Some(before), false));
    assert_eq!(seen(2), (None, false));
    record(&instance_cache, &saw(&primary(1, ""), 1), 200);
    assert_eq!(seen(1), (Some(NOW), true));
}

#[test]
fn what_is_not_watched_is_not_recorded() {
    let instance_cache = watching(&[1]);
    assert_eq!(
        record(&instance_cache, &saw(&primary(2, ""), 2), 1),
        ObservedChanges::default()
    );
    assert!(instance_cache.get(&key(2)).is_none());
}

#[test]
fn a_failure_is_told_once_and_counts_from_its_beginning() {
    let instance_cache = watching(&[1]);
    let up = saw(&primary(1, "1:1-9"), 1);
    let down = saw(&primary(1, "").dead(), 1);
    assert!(record(&instance_cache, &up, 100).changed);
    let first = record(&instance_cache, &down, 200);
    assert!(first.changed && first.began_to_fail);
    let second = record(&instance_cache, &down, 300);
    assert!(!second.changed && !second.began_to_fail);
    let other = record(
        &instance_cache,
        &saw(&primary(1, "").failing(ProbeFailure::NoAnswer), 1),
        400,
    );
    assert!(other.changed && !other.began_to_fail);
    assert_eq!(
        instance_cache.get(&key(1)).unwrap().failing_since,
        Some(MonotonicTime(200 * MS + 500))
    );
    assert!(record(&instance_cache, &up, 500).changed);
    assert_eq!(instance_cache.get(&key(1)).unwrap().failing_since, None);
}

#[test]
fn an_attempt_that_failed_altogether_is_no_partial_answer() {
    let instance_cache = watching(&[1]);
    let partial = primary(1, "1:1-9").facts(|facts| facts.problems = vec!["replicas: denied".to_owned()]);
    record(&instance_cache, &saw(&partial, 1), 100);
    assert!(instance_cache.get(&key(1)).unwrap().instance.partial);
    record(&instance_cache, &saw(&primary(1, "").dead(), 1), 200);
    assert!(!instance_cache.get(&key(1)).unwrap().instance.partial);
}

#[test]
fn time_that_passes_is_no_news_and_what_a_decision_depends_on_is() {
    let instance_cache = watching(&[2]);
    let base = || replica(2, 1, "1:1-9");
    record(&instance_cache, &saw(&base(), 2), 100);
    let later = base()
        .facts(|facts| facts.uptime_seconds += 5)
        .channel(|channel| channel.lag_seconds = Some(3));
    assert!(!record(&instance_cache, &saw(&later, 2), 200).changed);
    for (millis, news) in [
        (300, replica(2, 1, "1:1-10")),
        (400, base().cut()),
        (500, base().facts(|facts| facts.read_only = false)),
    ] {
        assert!(record(&instance_cache, &saw(&news, 2), millis).changed, "{news:?}");
    }
}

#[test]
fn changes_wake_whoever_waits() {
    let instance_cache = watching(&[1]);
    let mut changes = instance_cache.changes();
    changes.borrow_and_update();
    record(&instance_cache, &saw(&primary(1, "1:1"), 1), 1);
    assert!(changes.has_changed().unwrap());
    changes.borrow_and_update();
    record(&instance_cache, &saw(&primary(1, "1:1"), 1), 2);
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn neighbours_are_those_named_and_not_watched() {
    let instance_cache = watching(&[2, 3]);
    let noticed = record(&instance_cache, &saw(&replica(2, 1, ""), 2), 1);
    assert_eq!(noticed.neighbours, BTreeSet::from([key(1)]));
    instance_cache.track(&key(1), &Origin::Api, false, MonotonicTime(1));
    let with_replicas = primary(1, "").facts(|facts| {
        facts.replicas = [2, 4]
            .map(|n| crate::domain::instance::ConnectedReplica {
                key: key(n),
                reported: true,
            })
            .into();
    });
    assert_eq!(
        record(&instance_cache, &saw(&with_replicas, 1), 2).neighbours,
        BTreeSet::from([key(4)])
    );
}

#[test]
fn a_new_source_is_told_once() {
    let instance_cache = watching(&[2]);
    assert_eq!(
        record(&instance_cache, &saw(&replica(2, 1, ""), 2), 1).new_source,
        Some(key(1))
    );
    assert_eq!(record(&instance_cache, &saw(&replica(2, 1, ""), 2), 2).new_source, None);
    assert_eq!(
        record(&instance_cache, &saw(&replica(2, 3, ""), 2), 3).new_source,
        Some(key(3))
    );
    assert_eq!(instance_cache.replicas_of(&key(3)), [key(2)]);
}

#[test]
fn one_server_at_two_addresses_is_watched_at_one() {
    let instance_cache = watching(&[1, 7]);
    record(&instance_cache, &saw(&primary(1, "1:1-9"), 1), 100);
    let noticed = record(&instance_cache, &saw(&primary(1, "1:1-9"), 7), 200);
    assert_eq!(noticed.alias_of, Some(key(1)));
    assert_eq!(instance_cache.keys(), BTreeSet::from([key(1)]));
    assert_eq!(instance_cache.get(&key(7)).unwrap().instance.key, key(1));
    assert_eq!(instance_cache.snapshot().aliases, BTreeMap::from([(key(7), key(1))]));
    // It is not watched again, and its replicas are the server's.
    assert!(!instance_cache.track(&key(7), &Origin::Api, true, MonotonicTime(1)));
    instance_cache.track(&key(2), &Origin::Api, false, MonotonicTime(1));
    record(&instance_cache, &saw(&replica(2, 7, ""), 2), 300);
    assert_eq!(instance_cache.replicas_of(&key(1)), [key(2)]);
    instance_cache.untrack(&key(1));
    assert!(instance_cache.track(&key(7), &Origin::Api, true, MonotonicTime(1)));
}

#[test]
fn a_copied_data_directory_is_another_server() {
    let instance_cache = watching(&[1, 7]);
    record(&instance_cache, &saw(&primary(1, "1:1-9"), 1), 100);
    let copies: [fn(&mut InstanceFacts); 3] = [
        |facts| facts.hostname = "db7".to_owned(),
        |facts| facts.server_id = 7,
        |facts| facts.uptime_seconds = 5,
    ];
    for (at, copied) in (200..).zip(copies) {
        let noticed = record(&instance_cache, &saw(&primary(1, "1:1-9").facts(copied), 7), at);
        assert_eq!(noticed.alias_of, None);
    }
    assert_eq!(instance_cache.keys().len(), 2);
}

#[test]
fn two_mariadb_servers_of_one_number_are_two_unless_they_report_one_address() {
    let instance_cache = watching(&[1, 7]);
    record(&instance_cache, &saw(&mariadb_primary(1, "0-1-9"), 1), 100);
    assert_eq!(
        record(&instance_cache, &saw(&mariadb_primary(1, "0-1-9"), 7), 200).alias_of,
        None
    );
    let reports = |instance: Instance| instance.facts(|facts| facts.reported = Some(key(1)));
    let instance_cache = watching(&[1, 7]);
    record(&instance_cache, &saw(&reports(mariadb_primary(1, "0-1-9")), 1), 100);
    assert_eq!(
        record(&instance_cache, &saw(&reports(mariadb_primary(1, "0-1-9")), 7), 200).alias_of,
        Some(key(1))
    );
}

#[test]
fn an_address_that_moves_to_another_server_leaves_no_address_dangling() {
    // 5 is a name that stands for the primary, watched first; so 1 is another address of it.
    let instance_cache = watching(&[5, 1, 2]);
    record(&instance_cache, &saw(&primary(1, "1:1-9"), 5), 100);
    record(&instance_cache, &saw(&replica(2, 5, "1:1-9"), 2), 100);
    assert_eq!(
        record(&instance_cache, &saw(&primary(1, "1:1-9"), 1), 200).alias_of,
        Some(key(5))
    );
    // The name moves to server 2.
    assert_eq!(
        record(&instance_cache, &saw(&replica(2, 5, "1:1-9"), 5), 300).alias_of,
        Some(key(2))
    );
    assert_eq!(instance_cache.get(&key(5)).unwrap().instance.key, key(2));
    assert!(
        instance_cache.track(&key(1), &Origin::Api, true, MonotonicTime(1)),
        "server 1 is lost"
    );
}

#[test]
fn what_was_crawled_and_never_answered_is_dropped_and_nothing_else() {
    let instance_cache = watching(&[1, 2]);
    for n in 3..=5 {
        instance_cache.track(&key(n), &Origin::Api, false, MonotonicTime(1));
    }
    record(&instance_cache, &saw(&replica(2, 3, ""), 2), 1);
    record(&instance_cache, &saw(&primary(4, ""), 4), 1);
    record(&instance_cache, &saw(&primary(5, "").dead(), 5), 1);
    assert!(
        instance_cache
            .drop_phantoms(MonotonicTime(60_000 * MS), 60_000)
            .is_empty()
    );
    // 1 was asked for, 3 is somebody's source, 4 has answered.
    assert_eq!(
        instance_cache.drop_phantoms(MonotonicTime(60_002 * MS), 60_000),
        [key(5)]
    );
    assert_eq!(instance_cache.keys(), [1, 2, 3, 4].map(key).into());
}

#[test]
fn whose_account_is_used_changes_by_decision_only_and_is_known_of_the_last_answer() {
    let instance_cache = watching(&[1]);
    let document = Origin::Document {
        namespace: "db".to_owned(),
        name: "shop".to_owned(),
    };
    for wanted in [false, true] {
        assert!(!instance_cache.track(&key(1), &document, wanted, MonotonicTime(1)));
        assert_eq!(instance_cache.tracked_origin(&key(1)), Some(Origin::Api));
    }
    let account = |instance_cache: &InstanceCache| instance_cache.get(&key(1)).unwrap().instance.account;
    assert_eq!(account(&instance_cache), None);
    record(&instance_cache, &saw(&primary(1, ""), 1), 1);
    assert_eq!(account(&instance_cache), Some(Origin::Api));
    assert!(instance_cache.set_origin(&key(1), &document));
    assert!(!instance_cache.set_origin(&key(1), &document));
    assert!(!instance_cache.set_origin(&key(9), &document));
    assert_eq!(account(&instance_cache), Some(Origin::Api), "it did not answer since");
    record(&instance_cache, &saw(&primary(1, ""), 1), 2);
    assert_eq!(account(&instance_cache), Some(document));
}

#[test]
fn the_time_of_the_last_answer_stays_when_attempts_fail() {
    let instance_cache = watching(&[1]);
    record(&instance_cache, &saw(&primary(1, ""), 1), 1);
    let failed = Observation {
        ended: WallTime(NOW.0 + 5000),
        ..saw(&primary(1, "").dead(), 1)
    };
    record(&instance_cache, &failed, 2);
    let instance = instance_cache.get(&key(1)).unwrap().instance;
    assert_eq!(
        (instance.last_seen, instance.last_checked),
        (Some(NOW), Some(WallTime(NOW.0 + 5000)))
    );
    assert!(instance.facts.is_some() && !instance.is_valid());
}

#[test]
fn a_binary_log_stands_still_from_when_it_was_first_seen_where_it_is() {
    let instance_cache = watching(&[1]);
    let see = |position: Option<u64>, seconds: i64| {
        let instance = primary(1, "1:1-9").facts(|facts| {
            facts.binlog = position.map(|position| crate::domain::instance::BinlogCoordinates {
                file: "bin.000001".to_owned(),
                position,
            });
        });
        let at = NOW.plus_millis(seconds * 1000);
        let observation = Observation {
            ended: at,
            ..saw(&instance, 1)
        };
        record(&instance_cache, &observation, u64::try_from(seconds).unwrap() * 1000);
        let tracked = instance_cache.get(&key(1)).unwrap();
        tracked
            .instance
            .binlog_unmoved_since
            .map(|since| since.millis_since(NOW) / 1000)
    };
    assert_eq!(see(Some(100), 1), Some(1));
    assert_eq!(see(Some(100), 5), Some(1));
    record(&instance_cache, &saw(&primary(1, "").dead(), 1), 6000);
    assert_eq!(see(Some(100), 7), Some(1), "a failed probe tells nothing of the log");
    assert_eq!(see(Some(101), 9), Some(9));
    assert_eq!(see(None, 10), None);
    assert_eq!(see(Some(101), 11), Some(11));
}

#[test]
fn commits_wait_in_vain_when_two_looks_see_them_wait_and_the_log_where_it_is() {
    let instance_cache = watching(&[1]);
    let see = |position: u64, waiting: u32, seconds: i64| {
        let instance = primary(1, "1:1-9").facts(|facts| {
            facts.semi_sync.wait_sessions = waiting;
            facts.binlog = Some(crate::domain::instance::BinlogCoordinates {
                file: "bin.000001".to_owned(),
                position,
            });
        });
        let observation = Observation {
            ended: NOW.plus_millis(seconds * 1000),
            ..saw(&instance, 1)
        };
        record(&instance_cache, &observation, u64::try_from(seconds).unwrap() * 1000);
        let tracked = instance_cache.get(&key(1)).unwrap();
        let since = tracked.instance.acks_awaited_since;
        since.map(|since| since.millis_since(NOW) / 1000)
    };
    assert_eq!(
        see(100, 1, 1),
        None,
        "a busy source has a commit that waits at any moment"
    );
    assert_eq!(see(200, 1, 2), None, "the log moved: another one");
    assert_eq!(see(200, 3, 4), Some(2));
    assert_eq!(see(200, 1, 5), Some(2));
    assert_eq!(see(200, 0, 6), None);
    assert_eq!(see(200, 1, 7), None);
    assert_eq!(see(200, 1, 8), Some(7));
    assert_eq!(see(300, 1, 9), None);
}

#[test]
fn clients_that_try_again_at_a_semi_sync_source_are_no_commits_that_get_through() {
    let instance_cache = watching(&[1]);
    let see = |executed: &str, position: u64, seconds: i64| {
        let instance = primary(1, executed).facts(|facts| {
            facts.semi_sync.source_enabled = true;
            facts.semi_sync.wait_sessions = 1;
            facts.binlog = Some(crate::domain::instance::BinlogCoordinates {
                file: "bin.000001".to_owned(),
                position,
            });
        });
        let observation = Observation {
            ended: NOW.plus_millis(seconds * 1000),
            ..saw(&instance, 1)
        };
        record(&instance_cache, &observation, u64::try_from(seconds).unwrap() * 1000);
        let tracked = instance_cache.get(&key(1)).unwrap().instance;
        let told = |since: Option<WallTime>| since.map(|since| since.millis_since(NOW) / 1000);
        (told(tracked.binlog_unmoved_since), told(tracked.acks_awaited_since))
    };
    assert_eq!(see("1:1-9", 100, 1), (Some(1), None));
    assert_eq!(see("1:1-9", 200, 2), (Some(1), Some(1)));
    assert_eq!(see("1:1-9", 300, 3), (Some(1), Some(1)));
    assert_eq!(see("1:1-10", 400, 4), (Some(4), None));
}

#[test]
fn a_server_that_was_read_only_and_starts_writable_is_told_from_one_that_a_person_opens() {
    let instance_cache = watching(&[2]);
    let see = |read_only: bool, started: i64, seconds: i64| {
        let instance = replica(2, 1, "1:1-9").facts(|facts| {
            facts.read_only = read_only;
            facts.started = Some(started);
        });
        let observation = Observation {
            ended: NOW.plus_millis(seconds * 1000),
            ..saw(&instance, 2)
        };
        record(&instance_cache, &observation, u64::try_from(seconds).unwrap() * 1000);
        instance_cache.get(&key(2)).unwrap().instance.reopened_by_start
    };
    assert!(!see(false, 100, 1), "nobody knows what it was before");
    assert!(!see(true, 100, 2));
    assert!(!see(false, 100, 3), "a person's statement");
    assert!(!see(true, 100, 4));
    assert!(see(false, 200, 5));
    assert!(see(false, 200, 6), "until it is read-only");
    assert!(!see(true, 200, 7));
    assert!(!see(false, 200, 8));
    assert!(!see(false, 300, 9), "it was writable before");
}

#[test]
fn a_replica_that_starts_writable_twice_within_two_seconds_is_seen_to_have_restarted() {
    let instance_cache = watching(&[2]);
    let see = |read_only: bool, started: i64, seconds: i64| {
        let instance = replica(2, 1, "1:1-9").facts(|facts| {
            facts.read_only = read_only;
            facts.started = Some(started);
        });
        let observation = Observation {
            ended: NOW.plus_millis(seconds * 1000),
            ..saw(&instance, 2)
        };
        record(&instance_cache, &observation, u64::try_from(seconds).unwrap() * 1000);
        instance_cache.get(&key(2)).unwrap().instance.reopened_by_start
    };
    let fails = |failure: ProbeFailure, seconds: u64| {
        let observation = Observation {
            outcome: Err(failure),
            ..saw(&replica(2, 1, "1:1-9"), 2)
        };
        record(&instance_cache, &observation, seconds * 1000);
    };
    assert!(!see(true, 100, 1));
    fails(ProbeFailure::NoAnswer, 2);
    assert!(!see(false, 102, 3), "only the network failed");
    assert!(!see(true, 102, 4));
    fails(ProbeFailure::Refused, 5);
    fails(ProbeFailure::Lost("the server closed the connection".to_owned()), 6);
    assert!(see(false, 104, 7));
    assert!(!see(true, 104, 8));
    assert!(!see(false, 104, 9), "a person's statement");
}
