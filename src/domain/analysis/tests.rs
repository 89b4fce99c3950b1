use proptest::prelude::*;

use super::*;
use crate::domain::finding::{Opinion, OpinionVerdict, StructureWarning};
use crate::domain::fixture::{Adjust, NOW, key, mysql_set, primary, replica, topology, uuid};
use crate::domain::instance::{Identity, Instance, Observation, ProbeFailure, ThreadError, ThreadState};
use crate::domain::policy::{HeldBack, RecoveryQuorum};
use crate::domain::state::QuarantineState;

fn policy() -> Policy {
    Policy {
        reasonable_lag_seconds: 10,
        ..Policy::default()
    }
}

fn codes(topology: &Topology) -> Vec<(Code, String)> {
    findings(topology, &policy(), &[], NOW)
        .into_iter()
        .map(|finding| (finding.code, finding.instance.hostname))
        .collect()
}

/// The only code, which is about db1.
#[track_caller]
fn assert_code(code: Option<Code>, instances: impl IntoIterator<Item = Instance>) {
    let wanted: Vec<(Code, String)> = code.into_iter().map(|code| (code, "db1".to_owned())).collect();
    let found: Vec<_> = codes(&topology(instances))
        .into_iter()
        .filter(|(code, _)| *code != Code::FirstTierReplicaFailingToConnectToMaster)
        .collect();
    assert_eq!(found, wanted);
}

fn db1() -> Instance {
    primary(1, "1:1-100")
}

fn stopped(replica: Instance) -> Instance {
    replica.channel(|channel| (channel.io, channel.sql) = (ThreadState::Stopped, ThreadState::Stopped))
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    assert_code(None, [db1(), replica(2, 1, "1:1-100"), replica(3, 1, "1:1-99")]);
    assert_code(None, [db1()]);
}

#[test]
fn the_dead_codes_count_the_replicas() {
    let (cut, gone) = (|n| replica(n, 1, "1:1-100").cut(), |n| replica(n, 1, "1:1-100").dead());
    assert_code(Some(Code::DeadMasterWithoutReplicas), [db1().dead()]);
    assert_code(Some(Code::DeadMaster), [db1().dead(), cut(2)]);
    assert_code(Some(Code::DeadMaster), [db1().dead(), cut(2), cut(3)]);
    assert_code(
        Some(Code::DeadMaster),
        [db1().dead(), stopped(replica(2, 1, "1:1-100")), cut(3)],
    );
    assert_code(Some(Code::DeadMasterAndSomeReplicas), [db1().dead(), cut(2), gone(3)]);
    assert_code(Some(Code::DeadMasterAndReplicas), [db1().dead(), gone(2), gone(3)]);
}

#[test]
fn one_receiving_replica_is_enough_to_be_only_unreachable() {
    let sql_stopped = replica(2, 1, "1:1-100").channel(|channel| {
        channel.sql = ThreadState::Stopped;
        channel.lag_seconds = None;
    });
    let cut = replica(3, 1, "1:1-100").cut();
    assert_code(
        Some(Code::UnreachableMaster),
        [db1().dead(), sql_stopped.clone(), cut.clone()],
    );
    // What a stopped or full server says of itself is more than what its replicas say.
    for (failure, code) in [
        (ProbeFailure::Stalled, Code::StalledPrimary),
        (ProbeFailure::Saturated, Code::SaturatedPrimary),
    ] {
        assert_code(Some(code), [db1().failing(failure), sql_stopped.clone(), cut.clone()]);
    }
}

#[test]
fn what_an_unreachable_replica_said_last_does_not_count() {
    assert_code(
        Some(Code::DeadMasterAndReplicas),
        [db1().dead(), replica(2, 1, "1:1-100").dead()],
    );
}

#[test]
fn lag_counts_beyond_the_configured_delay_and_only_when_all_lag() {
    let lagging = |n, lag, delay| {
        replica(n, 1, "1:1-100").channel(|channel| (channel.lag_seconds, channel.delay_seconds) = (Some(lag), delay))
    };
    assert_code(
        Some(Code::UnreachableMasterWithLaggingReplicas),
        [db1().dead(), lagging(2, 11, 0), lagging(3, 3611, 3600)],
    );
    assert_code(
        Some(Code::UnreachableMaster),
        [db1().dead(), lagging(2, 11, 0), lagging(3, 10, 0)],
    );
    assert_code(Some(Code::UnreachableMaster), [db1().dead(), lagging(2, 3605, 3600)]);
}

#[test]
fn a_failure_that_proves_life_is_never_a_dead_primary() {
    let server = ProbeFailure::Server {
        number: 1053,
        message: "shutdown in progress".to_owned(),
    };
    for (failure, code) in [
        (ProbeFailure::Stalled, Code::StalledPrimary),
        (ProbeFailure::Saturated, Code::SaturatedPrimary),
        (ProbeFailure::Denied("user".to_owned()), Code::UnreachableMaster),
        (server, Code::UnreachableMaster),
        (ProbeFailure::Unreadable("x".to_owned()), Code::UnreachableMaster),
    ] {
        assert_code(
            Some(code),
            [db1().failing(failure.clone()), replica(2, 1, "1:1-100").cut()],
        );
        assert_code(
            Some(code),
            [db1().failing(failure.clone()), replica(2, 1, "1:1-100").dead()],
        );
        assert_code(Some(code), [db1().failing(failure)]);
    }
}

#[test]
fn our_own_trouble_is_not_the_primarys_death_unless_the_name_is_gone_for_its_replicas_too() {
    let name = || ProbeFailure::Name("db1".to_owned());
    let cut = || replica(2, 1, "1:1-100").cut();
    assert_code(
        Some(Code::UnreachableMaster),
        [db1().failing(ProbeFailure::NoCredentials("none".to_owned())), cut()],
    );
    assert_code(Some(Code::DeadMaster), [db1().failing(name()), cut()]);
    assert_code(
        Some(Code::DeadMasterAndSomeReplicas),
        [db1().failing(name()), cut(), replica(3, 1, "1:1-100").dead()],
    );
    assert_code(
        Some(Code::UnreachableMaster),
        [db1().failing(name()), cut(), stopped(replica(3, 1, "1:1-100"))],
    );
    assert_code(
        Some(Code::UnreachableMaster),
        [db1().failing(name()), replica(2, 1, "1:1-100").dead()],
    );
}

#[test]
fn a_partial_answer_is_a_sign_of_life() {
    let mut partial = db1().dead();
    partial.partial = true;
    assert_code(Some(Code::UnreachableMaster), [partial, replica(2, 1, "1:1-100").cut()]);
}

#[test]
fn a_primary_that_was_not_asked_yet_is_not_dead() {
    assert_code(None, [Instance::unseen(key(1)), replica(2, 1, "1:1-100").cut()]);
}

#[test]
fn a_primary_that_was_never_seen_is_dead_by_its_replicas_word() {
    assert_code(
        Some(Code::DeadMaster),
        [Instance::unseen(key(1)).dead(), replica(2, 1, "1:1-100").cut()],
    );
    let mut unrecorded = topology([Instance::unseen(key(1)).dead(), replica(2, 1, "1:1-100").cut()]);
    unrecorded.recorded_primary = None;
    assert_eq!(codes(&unrecorded).first(), Some(&(Code::DeadMaster, "db1".to_owned())));
}

#[test]
fn a_server_that_was_never_seen_beside_the_primary_stands_in_the_middle() {
    let tree = topology([
        db1(),
        replica(4, 1, "1:1-100"),
        Instance::unseen(key(2)).dead(),
        replica(3, 2, "1:1-100").cut(),
    ]);
    assert_eq!(current_primary(&tree), Some(key(1)));
    let code = Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect;
    assert_eq!(codes(&tree), [(code, "db2".to_owned())]);
}

#[test]
fn the_codes_of_a_reachable_primary_count_the_replicas() {
    let gone = |n| replica(n, 1, "1:1-100").dead();
    let idle = |n| stopped(replica(n, 1, "1:1-100"));
    assert_code(Some(Code::MasterSingleReplicaNotReplicating), [db1(), idle(2)]);
    assert_code(Some(Code::MasterSingleReplicaDead), [db1(), gone(2)]);
    assert_code(Some(Code::AllMasterReplicasNotReplicating), [db1(), idle(2), idle(3)]);
    assert_code(
        Some(Code::AllMasterReplicasNotReplicatingOrDead),
        [db1(), idle(2), gone(3)],
    );
    assert_code(
        Some(Code::AllMasterReplicasNotReplicatingOrDead),
        [db1(), gone(2), gone(3)],
    );
    assert_code(None, [db1(), idle(2), replica(3, 1, "1:1-100")]);
}

#[test]
fn a_replica_that_cannot_connect_to_a_living_primary_is_shown_itself() {
    let tree = topology([db1(), replica(2, 1, "1:1-100"), replica(3, 1, "1:1-90").cut()]);
    assert_eq!(
        codes(&tree),
        [(Code::FirstTierReplicaFailingToConnectToMaster, "db3".to_owned())]
    );
    let dead = topology([db1().dead(), replica(2, 1, "1:1-100").cut()]);
    assert_eq!(codes(&dead), [(Code::DeadMaster, "db1".to_owned())]);
}

#[test]
fn two_writable_tops_are_split_and_none_of_them_is_dead() {
    let tree = topology([db1(), replica(2, 1, "1:1-100"), primary(3, "1:1-90,3:1-5")]);
    assert_eq!(
        codes(&tree),
        [
            (Code::SplitPrimary, "db1".to_owned()),
            (Code::SplitPrimary, "db3".to_owned())
        ]
    );
    let held = topology([
        db1(),
        replica(2, 1, "1:1-100"),
        primary(3, "1:1-90").facts(|facts| facts.read_only = true),
    ]);
    assert_eq!(codes(&held), []);
}

fn quarantine(n: u32, standing: QuarantineState) -> Quarantine {
    Quarantine {
        identity: Identity::ServerUuid(uuid(n)),
        instance: key(n),
        cluster: crate::domain::topology::ClusterId("c1".to_owned()),
        recovery: "r1".to_owned(),
        epoch: 3,
        since: NOW.plus_millis(-5000),
        standing,
    }
}

#[test]
fn a_quarantined_primary_is_reported_when_it_is_back_and_not_before() {
    let tree = |old: Instance| topology([db1(), replica(2, 1, "1:1-100"), old]);
    let quarantines = [quarantine(
        3,
        QuarantineState::Errant {
            set: mysql_set("3:9-12"),
        },
    )];
    let found = |topology: &Topology| findings(topology, &policy(), &quarantines, NOW);
    assert_eq!(found(&tree(primary(3, "3:1-12").dead())), []);
    let back = found(&tree(primary(3, "3:1-12").facts(|facts| facts.read_only = true)));
    assert_eq!(back.len(), 1);
    assert_eq!(
        (back[0].code, &back[0].instance),
        (Code::QuarantinedPrimaryReturned, &key(3))
    );
    assert!(
        back[0].description.contains(":9-12") && back[0].description.contains("read-only"),
        "{}",
        back[0].description
    );
    let writable = found(&tree(primary(3, "3:1-12")));
    let codes: Vec<Code> = writable.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::SplitPrimary, Code::QuarantinedPrimaryReturned]);
}

#[test]
fn downtime_marks_the_finding_and_keeps_it() {
    let mut policy = policy();
    let downtime = || HeldBack::Downtimed {
        owner: "ops".to_owned(),
        reason: "disk".to_owned(),
        until: None,
    };
    policy.downtimes.insert(key(1), downtime());
    let mut tree = topology([db1().dead(), replica(2, 1, "1:1-100").cut()]);
    let found = findings(&tree, &policy, &[], NOW);
    assert_eq!(
        (found[0].code, found[0].downtimed, found[0].replicas_downtimed),
        (Code::DeadMaster, true, false)
    );
    tree.aliases
        .insert(crate::domain::key::InstanceKey::new("alias", 3306), key(2));
    policy.downtimes = [(crate::domain::key::InstanceKey::new("alias", 3306), downtime())].into();
    let found = findings(&tree, &policy, &[], NOW);
    assert_eq!(
        (
            found[0].downtimed,
            found[0].replicas_downtimed,
            found[0].evidence.downtimed_replicas
        ),
        (false, false, 1),
        "a dead primary is not about its replicas"
    );
    let stopped = topology([db1(), stopped(replica(2, 1, "1:1-100"))]);
    policy.downtimes = [(key(2), downtime())].into();
    let found = findings(&stopped, &policy, &[], NOW);
    assert_eq!(
        (found[0].code, found[0].replicas_downtimed, found[0].is_skippable()),
        (Code::MasterSingleReplicaNotReplicating, false, false)
    );
    let gone = topology([db1(), replica(2, 1, "1:1-100").dead()]);
    let found = findings(&gone, &policy, &[], NOW);
    assert_eq!(
        (found[0].code, found[0].replicas_downtimed, found[0].is_skippable()),
        (Code::MasterSingleReplicaDead, true, true)
    );
}

#[test]
fn shape_warnings_come_with_the_primary() {
    let warnings = |instances: Vec<Instance>| -> Vec<StructureWarning> {
        let found = findings(&topology(instances), &policy(), &[], NOW);
        assert!(
            found
                .iter()
                .all(|finding| finding.code == Code::NoProblem && finding.instance == key(1)),
            "{found:?}"
        );
        found.into_iter().flat_map(|finding| finding.structure).collect()
    };
    let silent = |n| replica(n, 1, "1:1-100").facts(|facts| facts.log_replica_updates = false);
    assert_eq!(
        warnings(vec![db1(), silent(2), silent(3)]),
        [StructureWarning::NoLoggingReplicasStructureWarning]
    );
    let by_file = replica(3, 1, "1:1-100")
        .channel(|channel| channel.positioning = crate::domain::instance::Positioning::FilePosition);
    assert_eq!(
        warnings(vec![db1(), replica(2, 1, "1:1-100"), by_file]),
        [StructureWarning::NoFailoverSupportStructureWarning]
    );
    assert_eq!(
        warnings(vec![db1(), replica(2, 1, "1:1-100,2:1")]),
        [StructureWarning::ErrantGTIDStructureWarning]
    );
    let read_only = db1().facts(|facts| facts.read_only = true);
    assert_eq!(
        warnings(vec![read_only, replica(2, 1, "1:1")]),
        [StructureWarning::NoWriteableMasterStructureWarning]
    );
    let short = db1().facts(|facts| (facts.semi_sync.source_enabled, facts.semi_sync.wait_for_count) = (true, 1));
    assert_eq!(
        warnings(vec![short, replica(2, 1, "1:1")]),
        [StructureWarning::NotEnoughValidSemiSyncReplicasStructureWarning]
    );
}

// === opinions ===

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

fn ask(instances: &[Instance]) -> OpinionVerdict {
    let replicas = instances
        .iter()
        .map(|instance| instance.key.clone())
        .filter(|replica| *replica != key(1))
        .collect();
    let observations: Vec<Observation> = instances.iter().map(observed).collect();
    verdict(&key(1), &replicas, &observations, &SuspectHistory::default())
}

#[test]
fn a_member_says_dead_only_with_a_replica_at_hand() {
    let cut = || replica(2, 1, "1:1-100").cut();
    assert_eq!(ask(&[db1().dead(), cut()]), OpinionVerdict::Dead);
    assert_eq!(
        ask(&[db1().dead(), cut(), replica(3, 1, "1:1").dead()]),
        OpinionVerdict::Dead
    );
    assert_eq!(
        ask(&[db1().failing(ProbeFailure::Name("db1".to_owned())), cut()]),
        OpinionVerdict::Dead
    );
    // One below another replica receives from there, which says nothing of the suspect.
    assert_eq!(ask(&[db1().dead(), cut(), replica(3, 2, "1:1")]), OpinionVerdict::Dead);
    for alive in [
        vec![db1(), cut()],
        vec![db1().failing(ProbeFailure::Saturated), cut()],
        vec![
            db1().dead(),
            cut(),
            replica(3, 1, "1:1").channel(|channel| channel.sql = ThreadState::Stopped),
        ],
        vec![db1().dead(), cut(), replica(3, 9, "1:1")],
    ] {
        assert!(matches!(ask(&alive), OpinionVerdict::Alive(_)), "{:?}", ask(&alive));
    }
    for blind in [
        vec![db1().dead()],
        vec![db1().dead(), replica(2, 1, "1:1").dead()],
        vec![db1().failing(ProbeFailure::NoCredentials("none".to_owned())), cut()],
        vec![
            db1().failing(ProbeFailure::Name("db1".to_owned())),
            stopped(replica(2, 1, "1:1")),
        ],
        vec![cut()],
    ] {
        assert!(matches!(ask(&blind), OpinionVerdict::Abstains(_)), "{:?}", ask(&blind));
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

fn agreed(opinions: &[Opinion], voters: u64, quorum: RecoveryQuorum) -> Result<Agreement, String> {
    let voters = (0..voters).map(|member| (member, String::new())).collect();
    agreement(opinions, &voters, quorum, SuspectedFailure::Gone)
}

#[test]
fn a_majority_of_all_voters_must_say_dead_and_nobody_alive() {
    let dead = || OpinionVerdict::Dead;
    let alive = || OpinionVerdict::Alive("db2 receives".to_owned());
    let missing = || OpinionVerdict::Missing("500 ms".to_owned());
    let abstains = || OpinionVerdict::Abstains("blind".to_owned());
    let agree = |verdicts: &[OpinionVerdict], count| agreed(&opinions(verdicts), count, RecoveryQuorum::Majority);
    assert_eq!(agree(&[dead(), dead(), missing()], 3), Ok(Agreement::Failover));
    assert_eq!(agree(&[dead()], 1), Ok(Agreement::Failover));
    assert_eq!(
        agree(&[dead(), dead()], 4).unwrap_err(),
        "2 of 4 voters see it dead, 3 are needed"
    );
    assert!(
        agree(&[dead(), missing(), abstains()], 3)
            .unwrap_err()
            .contains("m1 did not answer: 500 ms; m2 abstains: blind")
    );
    assert_eq!(
        agree(&[dead(), dead(), alive()], 3).unwrap_err(),
        "seen alive by m2: db2 receives"
    );
    assert!(agree(&[], 0).is_err());
    let twice = [opinions(&[dead()]), opinions(&[dead()])].concat();
    assert!(
        agreed(&twice, 3, RecoveryQuorum::Majority).is_err(),
        "one member counts once"
    );
    let alone = |verdicts: &[OpinionVerdict]| agreed(&opinions(verdicts), 3, RecoveryQuorum::Leader);
    assert_eq!(alone(&[dead()]), Ok(Agreement::Failover));
    assert!(alone(&[dead(), alive()]).is_err());
    assert!(alone(&[abstains()]).is_err());
}

// === properties ===

fn any_failure() -> impl Strategy<Value = Option<ProbeFailure>> {
    prop_oneof![
        3 => Just(None),
        2 => Just(Some(ProbeFailure::Refused)),
        1 => Just(Some(ProbeFailure::NoAnswer)),
        1 => Just(Some(ProbeFailure::Stalled)),
        1 => Just(Some(ProbeFailure::Name("x".to_owned()))),
        1 => Just(Some(ProbeFailure::NoCredentials("x".to_owned()))),
    ]
}

fn any_thread() -> impl Strategy<Value = ThreadState> {
    prop_oneof![
        Just(ThreadState::Running),
        Just(ThreadState::Stopped),
        Just(ThreadState::Connecting)
    ]
}

prop_compose! {
    fn any_topology()(
        head in any_failure(),
        known in any::<bool>(),
        replicas in prop::collection::vec((any_failure(), any_thread(), any_thread(), 1_u32..4, any::<bool>()), 0..5),
    ) -> Topology {
        let mut first = if known { db1() } else { Instance::unseen(key(1)) };
        first.failure = head;
        let rest = (2_u32..).zip(replicas).map(|(n, (failure, io, sql, source, erring))| {
            let mut replica = replica(n, if source < n { source } else { 1 }, "1:1-100").channel(|channel| {
                (channel.io, channel.sql) = (io, sql);
                if erring {
                    channel.io_error = ThreadError { number: 2013, message: String::new() };
                }
            });
            replica.failure = failure;
            replica
        });
        topology(std::iter::once(first).chain(rest))
    }
}

proptest! {
    #[test]
    fn a_primary_is_never_called_dead_while_a_replica_receives_or_it_may_live(tree in any_topology()) {
        let receives = tree.replicas_of(&key(1)).any(|replica| replica.valid_facts().is_some() && replica.channel().is_some_and(|channel| channel.io == ThreadState::Running));
        let first = tree.get(&key(1)).unwrap();
        let lives = first.failure.as_ref().is_none_or(|failure| failure.proves_life() || matches!(failure, ProbeFailure::NoCredentials(_)));
        for finding in findings(&tree, &policy(), &[], NOW) {
            let says_dead = matches!(
                finding.code,
                Code::DeadMaster | Code::DeadMasterAndReplicas | Code::DeadMasterAndSomeReplicas | Code::DeadMasterWithoutReplicas
            );
            prop_assert!(!(says_dead && finding.instance == key(1) && (receives || lives)), "{finding:?}");
            prop_assert!(!(finding.code.is_actionable() && finding.evidence.valid_replicas == 0));
        }
    }

    #[test]
    fn an_unreachable_primary_is_never_silent(tree in any_topology()) {
        let failed = tree.get(&key(1)).unwrap().failure.is_some();
        let found = findings(&tree, &policy(), &[], NOW);
        prop_assert!(!failed || found.iter().any(|finding| finding.instance == key(1) && finding.code != Code::NoProblem));
    }
}
