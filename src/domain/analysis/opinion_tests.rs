//! What a member says of a silent or stalled suspect, and what the members agree to.

use super::*;
use crate::domain::fixture::{Adjust, NOW, key, primary, replica};
use crate::domain::instance::{Instance, ThreadState};

fn observed(instance: &Instance) -> Observation {
    let outcome = match &instance.failure {
        Some(failure) => Err(failure.clone()),
        None => Ok(Box::new(instance.facts.clone().expect("seen"))),
    };
    Observation {
        key: instance.key.clone(),
        begun: NOW,
        ended: NOW,
        micros: 300,
        outcome,
    }
}

/// db1 is the suspect; db2 and db3 are known to replicate from it, db9 is another address of it.
fn ask(failure: ProbeFailure, replicas: &[Instance], receiving: &[u32]) -> OpinionVerdict {
    let suspect = primary(1, "1:1-100").failing(failure);
    let known = SuspectHistory {
        receiving: receiving.iter().copied().map(key).collect(),
        aliases: [key(9)].into(),
    };
    let keys = replicas.iter().map(|replica| replica.key.clone()).collect();
    let observations: Vec<Observation> = replicas.iter().chain([&suspect]).map(observed).collect();
    verdict(&key(1), &keys, &observations, &known)
}

fn connected(n: u32) -> Instance {
    replica(n, 1, "1:1-100")
}

fn cut(n: u32) -> Instance {
    connected(n).cut()
}

fn name(verdict: &OpinionVerdict) -> &'static str {
    match verdict {
        OpinionVerdict::Dead => "dead",
        OpinionVerdict::Silent(_) => "silent",
        OpinionVerdict::Stalled(_) => "stalled",
        OpinionVerdict::Alive(_) => "alive",
        OpinionVerdict::Abstains(_) => "abstains",
        OpinionVerdict::Missing(_) => "missing",
    }
}

#[test]
fn a_replicas_word_counts_for_nothing_but_a_test_where_the_suspect_is_silent() {
    let unreachable = || ProbeFailure::Unreachable("no route to host".to_owned());
    let asleep = |n: u32| connected(n).channel(|channel| channel.sql = ThreadState::Stopped);
    for (wanted, failure, replicas, receiving) in [
        (
            "silent",
            ProbeFailure::NoAnswer,
            vec![connected(2), connected(3)],
            &[][..],
        ),
        ("silent", unreachable(), vec![connected(2), connected(3)], &[]),
        ("silent", ProbeFailure::NoAnswer, vec![connected(2), cut(3)], &[]),
        ("silent", ProbeFailure::NoAnswer, vec![asleep(2)], &[]),
        // Its source is written otherwise.
        ("silent", ProbeFailure::NoAnswer, vec![replica(2, 9, "1:1-100")], &[]),
        ("alive", ProbeFailure::NoAnswer, vec![replica(2, 8, "1:1-100")], &[]),
        // Something has arrived.
        ("alive", ProbeFailure::NoAnswer, vec![connected(2), connected(3)], &[3]),
        ("alive", unreachable(), vec![connected(2)], &[2]),
        ("alive", ProbeFailure::Stalled, vec![connected(2)], &[2]),
        // What arrived at one that is cut off by now is no life.
        ("dead", ProbeFailure::NoAnswer, vec![cut(2), cut(3)], &[3]),
        ("dead", ProbeFailure::NoAnswer, vec![cut(2), connected(3).dead()], &[]),
        // The host says more than nothing, so the replicas would know.
        ("alive", ProbeFailure::Refused, vec![connected(2)], &[]),
        ("alive", ProbeFailure::Lost("reset".to_owned()), vec![connected(2)], &[]),
        ("alive", ProbeFailure::Saturated, vec![cut(2)], &[]),
        ("stalled", ProbeFailure::Stalled, vec![connected(2)], &[]),
        ("stalled", ProbeFailure::Stalled, vec![cut(2)], &[]),
        ("abstains", ProbeFailure::NoAnswer, vec![connected(2).dead()], &[]),
        ("abstains", ProbeFailure::NoAnswer, vec![], &[]),
    ] {
        let told = format!("{failure:?} {receiving:?}");
        let said = ask(failure, &replicas, receiving);
        assert_eq!(name(&said), wanted, "{told}: {said:?}");
    }
}

fn opinions(verdicts: &[OpinionVerdict]) -> Vec<Opinion> {
    let opinion = |(index, verdict): (usize, &OpinionVerdict)| Opinion {
        member: u64::try_from(index).unwrap(),
        name: format!("m{index}"),
        at: NOW,
        millis: 3,
        data_center: String::new(),
        verdict: verdict.clone(),
        observations: Vec::new(),
        remembered: None,
    };
    verdicts.iter().enumerate().map(opinion).collect()
}

fn places(places: &[&str]) -> BTreeMap<u64, String> {
    (0..).zip(places.iter().map(|place| (*place).to_owned())).collect()
}

fn dead() -> OpinionVerdict {
    OpinionVerdict::Dead
}

fn silent() -> OpinionVerdict {
    OpinionVerdict::Silent("nothing arrives".to_owned())
}

fn stalled() -> OpinionVerdict {
    OpinionVerdict::Stalled("accepts and says nothing".to_owned())
}

fn missing() -> OpinionVerdict {
    OpinionVerdict::Missing("500 ms".to_owned())
}

#[test]
fn silence_allows_a_test_and_one_silent_member_makes_a_test_of_a_failover() {
    let alive = || OpinionVerdict::Alive("db2 receives".to_owned());
    let agree = |verdicts: &[OpinionVerdict]| {
        agreement(
            &opinions(verdicts),
            &places(&["", "", ""]),
            RecoveryQuorum::Majority,
            SuspectedFailure::Gone,
        )
    };
    assert_eq!(agree(&[silent(), silent(), silent()]), Ok(Agreement::Test));
    assert_eq!(agree(&[silent(), silent(), missing()]), Ok(Agreement::Test));
    assert_eq!(agree(&[dead(), dead(), silent()]), Ok(Agreement::Test));
    assert_eq!(agree(&[dead(), silent(), missing()]), Ok(Agreement::Test));
    assert!(agree(&[silent(), missing(), missing()]).is_err());
    assert_eq!(
        agree(&[silent(), silent(), alive()]).unwrap_err(),
        "seen alive by m2: db2 receives"
    );
    assert_eq!(
        agree(&[silent(), silent(), stalled()]).unwrap_err(),
        "seen alive by m2: accepts and says nothing"
    );
}

#[test]
fn a_stalled_suspect_is_a_veto_unless_that_is_what_was_asked() {
    let agree = |verdicts: &[OpinionVerdict], suspicion| {
        agreement(
            &opinions(verdicts),
            &places(&["", "", ""]),
            RecoveryQuorum::Majority,
            suspicion,
        )
    };
    let all = [stalled(), stalled(), stalled()];
    assert!(agree(&all, SuspectedFailure::Gone).is_err());
    assert_eq!(agree(&all, SuspectedFailure::Stalled), Ok(Agreement::Test));
    assert_eq!(
        agree(&[stalled(), silent(), missing()], SuspectedFailure::Stalled),
        Ok(Agreement::Test)
    );
    assert!(agree(&[stalled(), missing(), missing()], SuspectedFailure::Stalled).is_err());
    assert!(
        agree(
            &[stalled(), stalled(), OpinionVerdict::Alive("it answers".to_owned())],
            SuspectedFailure::Stalled
        )
        .is_err(),
        "an answer is a veto"
    );
}

#[test]
fn a_majority_of_data_centres_is_one_of_voters_too() {
    let agree = |verdicts: &[OpinionVerdict], where_they_are: &[&str]| {
        agreement(
            &opinions(verdicts),
            &places(where_they_are),
            RecoveryQuorum::MajorityOfDataCenters,
            SuspectedFailure::Gone,
        )
    };
    // Three of five, all in one of three places.
    let three_in_one = ["a", "a", "a", "b", "c"];
    let votes = [dead(), dead(), dead(), missing(), missing()];
    assert_eq!(
        agree(&votes, &three_in_one).unwrap_err(),
        "voters in 1 of 3 data centers see it dead, 2 are needed (m3 did not answer: 500 ms; m4 did not answer: 500 ms)"
    );
    let spread = [dead(), dead(), missing(), dead(), missing()];
    assert_eq!(agree(&spread, &three_in_one), Ok(Agreement::Failover));
    // Two places, each with one voter, are no majority of five voters.
    let two = [missing(), missing(), missing(), dead(), dead()];
    assert!(agree(&two, &three_in_one).is_err());
    // Of two data centres both are needed.
    assert!(agree(&[dead(), dead(), missing()], &["a", "a", "b"]).is_err());
    assert_eq!(
        agree(&[dead(), missing(), dead()], &["a", "a", "b"]),
        Ok(Agreement::Failover)
    );
    // Nobody was told where it is.
    assert_eq!(
        agree(&[dead(), dead(), dead()], &["", "", ""]).unwrap_err(),
        "voters in 0 of 3 data centers see it dead, 2 are needed; the data center of m0, m1, m2 is unknown and counts as one that \
         does not agree (MemberDataCenter)"
    );
    // One was not: it may be anywhere, also in a third place.
    assert_eq!(
        agree(&[dead(), dead(), missing()], &["a", "b", ""]),
        Ok(Agreement::Failover)
    );
    assert_eq!(
        agree(&[dead(), missing(), dead()], &["a", "b", ""]).unwrap_err(),
        "voters in 1 of 3 data centers see it dead, 2 are needed; the data center of m2 is unknown and counts as one that does \
         not agree (MemberDataCenter) (m1 did not answer: 500 ms)"
    );
    assert!(agree(&[dead(), dead(), dead()], &["a", "a", ""]).is_err());
    assert_eq!(
        agree(&[silent(), silent(), missing()], &["a", "b", "c"]),
        Ok(Agreement::Test)
    );
}
