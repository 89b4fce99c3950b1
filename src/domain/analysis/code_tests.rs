use super::*;
use crate::domain::finding::StructureWarning;
use crate::domain::fixture::{Adjust, NOW, key, mariadb_replica, primary, replica, topology};
use crate::domain::instance::{Instance, Positioning, ProbeFailure, SemiSync, ThreadState};
use crate::domain::version::ServerVersion;

pub(super) fn policy() -> Policy {
    Policy {
        reasonable_lag_seconds: 10,
        locked_semi_sync_millis: 10_000,
        ..Policy::default()
    }
}

fn found(policy: &Policy, topology: &Topology) -> Vec<(Code, String)> {
    findings(topology, policy, &[], NOW)
        .into_iter()
        .map(|finding| (finding.code, finding.instance.hostname))
        .collect()
}

/// The findings of a healthy primary db1 with the healthy replica db2, and these.
fn beside(instances: impl IntoIterator<Item = Instance>) -> Vec<(Code, String)> {
    let healthy = [primary(1, "1:1-100"), replica(2, 1, "1:1-100")];
    found(&policy(), &topology(healthy.into_iter().chain(instances)))
}

fn about(code: Code, n: u32) -> Vec<(Code, String)> {
    vec![(code, format!("db{n}"))]
}

fn below(n: u32, source: u32) -> Instance {
    replica(n, source, "1:1-100")
}

fn stopped(replica: Instance) -> Instance {
    replica.channel(|channel| (channel.io, channel.sql) = (ThreadState::Stopped, ThreadState::Stopped))
}

fn applier_stopped(replica: Instance) -> Instance {
    replica.channel(|channel| channel.sql = ThreadState::Stopped)
}

fn lagging(replica: Instance) -> Instance {
    replica.channel(|channel| channel.lag_seconds = Some(100))
}

// === in the middle ===

#[test]
fn the_dead_codes_of_an_intermediate_count_its_replicas() {
    let dead = || below(3, 1).dead();
    let with = |replicas: Vec<Instance>| beside(std::iter::once(dead()).chain(replicas));
    assert_eq!(with(vec![]), [], "without replicas nothing hangs on it");
    assert_eq!(
        with(vec![below(4, 3).cut()]),
        about(Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect, 3)
    );
    assert_eq!(
        with(vec![stopped(below(4, 3))]),
        about(Code::DeadIntermediateMasterWithSingleReplica, 3)
    );
    assert_eq!(
        with(vec![below(4, 3).cut(), stopped(below(5, 3))]),
        about(Code::DeadIntermediateMaster, 3)
    );
    assert_eq!(
        with(vec![below(4, 3).cut(), below(5, 3).dead()]),
        about(Code::DeadIntermediateMasterAndSomeReplicas, 3)
    );
    for gone in [vec![below(4, 3).dead()], vec![below(4, 3).dead(), below(5, 3).dead()]] {
        assert_eq!(with(gone), about(Code::DeadIntermediateMasterAndReplicas, 3));
    }
}

#[test]
fn an_intermediate_that_serves_a_replica_is_only_unreachable() {
    let with = |replicas: Vec<Instance>| beside(std::iter::once(below(3, 1).dead()).chain(replicas));
    assert_eq!(
        with(vec![applier_stopped(below(4, 3)), below(5, 3).cut()]),
        about(Code::UnreachableIntermediateMaster, 3)
    );
    assert_eq!(
        with(vec![lagging(below(4, 3)), lagging(below(5, 3))]),
        about(Code::UnreachableIntermediateMasterWithLaggingReplicas, 3)
    );
}

#[test]
fn an_intermediate_that_lives_is_never_dead() {
    let failing = |failure: ProbeFailure| beside([below(3, 1).failing(failure), below(4, 3).cut(), below(5, 3).cut()]);
    let denied = || ProbeFailure::Denied("user".to_owned());
    for lives in [ProbeFailure::Stalled, ProbeFailure::Saturated, denied()] {
        assert_eq!(
            failing(lives),
            about(Code::AllIntermediateMasterReplicasFailingToConnectOrDead, 3)
        );
    }
    assert_eq!(
        failing(ProbeFailure::NoCredentials("none".to_owned())),
        about(Code::UnreachableIntermediateMaster, 3)
    );
    assert_eq!(
        beside([below(3, 1).failing(denied()), below(4, 3).cut()]),
        about(Code::UnreachableIntermediateMaster, 3)
    );
}

#[test]
fn the_codes_of_a_reachable_intermediate_count_its_replicas() {
    let with = |replicas: Vec<Instance>| beside(std::iter::once(below(3, 1)).chain(replicas));
    assert_eq!(
        with(vec![below(4, 3).cut(), below(5, 3).dead()]),
        about(Code::AllIntermediateMasterReplicasFailingToConnectOrDead, 3)
    );
    for idle in [
        vec![stopped(below(4, 3))],
        vec![below(4, 3).cut()],
        vec![below(4, 3).cut(), stopped(below(5, 3))],
        vec![applier_stopped(below(4, 3)), below(5, 3).dead()],
    ] {
        assert_eq!(with(idle), about(Code::AllIntermediateMasterReplicasNotReplicating, 3));
    }
    assert_eq!(with(vec![below(4, 3).dead()]), []);
    assert_eq!(with(vec![below(4, 3), below(5, 3).cut()]), []);
}

#[test]
fn an_intermediate_that_was_not_asked_yet_is_not_dead() {
    let mut silent = below(3, 1);
    silent.facts = None;
    assert_eq!(beside([silent, below(4, 3).cut()]), []);
}

#[test]
fn a_binlog_server_that_cannot_connect_is_shown_as_such() {
    let maxscale = |instance: Instance| {
        instance.facts(|facts| facts.version = ServerVersion::parse("9.7.4-maxscale-23.08", "").unwrap())
    };
    assert_eq!(
        beside([maxscale(below(3, 1).cut())]),
        [
            (Code::BinlogServerFailingToConnectToMaster, "db3".to_owned()),
            (Code::NoProblem, "db1".to_owned())
        ],
        "and its source has replicas of two kinds"
    );
    assert_eq!(
        beside([below(3, 1), maxscale(below(4, 3).cut()), below(5, 3)]),
        about(Code::BinlogServerFailingToConnectToMaster, 4),
        "in any place"
    );
    let dead = topology([primary(1, "1:1-100").dead(), maxscale(below(2, 1).cut())]);
    assert_eq!(found(&policy(), &dead), about(Code::DeadMaster, 1));
}

#[test]
fn only_direct_replicas_of_the_primary_are_of_the_first_tier() {
    assert_eq!(
        beside([below(3, 1).cut(), below(4, 2).cut(), below(5, 2)]),
        about(Code::FirstTierReplicaFailingToConnectToMaster, 3)
    );
}

// === co-primaries ===

fn writable(instance: Instance) -> Instance {
    instance.facts(|facts| facts.read_only = false)
}

/// db1, writable, and db2 replicate from each other.
fn ring(change: impl Fn(Instance) -> Instance, others: Vec<Instance>) -> Topology {
    topology([change(writable(below(1, 2)))].into_iter().chain(others))
}

#[test]
fn the_codes_of_a_co_primary() {
    let codes = |change: fn(Instance) -> Instance, others| found(&policy(), &ring(change, others));
    let same = |instance| instance;
    let first = |change: fn(Instance) -> Instance, others| codes(change, others).into_iter().next();
    let db1 = |code| Some((code, "db1".to_owned()));
    assert_eq!(codes(same, vec![below(2, 1)]), []);
    assert_eq!(
        codes(Adjust::dead, vec![below(2, 1).cut()]),
        [
            (Code::DeadCoMaster, "db1".to_owned()),
            (Code::AllCoMasterReplicasNotReplicating, "db2".to_owned())
        ],
        "the other one lost its replica"
    );
    assert_eq!(
        codes(Adjust::dead, vec![below(2, 1).cut(), below(3, 2)]),
        about(Code::DeadCoMaster, 1)
    );
    assert_eq!(
        first(Adjust::dead, vec![below(2, 1).cut(), below(3, 1).dead()]),
        db1(Code::DeadCoMasterAndSomeReplicas)
    );
    assert_eq!(
        first(Adjust::dead, vec![applier_stopped(below(2, 1)), below(3, 1).cut()]),
        db1(Code::UnreachableCoMaster)
    );
    let denied = |instance: Instance| instance.failing(ProbeFailure::Denied("user".to_owned()));
    assert_eq!(first(denied, vec![below(2, 1).cut()]), db1(Code::UnreachableCoMaster));
    assert_eq!(
        codes(same, vec![stopped(below(2, 1))]),
        about(Code::AllCoMasterReplicasNotReplicating, 1)
    );
    let all_dead = codes(Adjust::dead, vec![below(2, 1).dead()]);
    assert_eq!(
        all_dead,
        [
            (Code::DeadIntermediateMasterAndReplicas, "db1".to_owned()),
            (Code::DeadIntermediateMasterAndReplicas, "db2".to_owned())
        ],
        "as in orchestrator"
    );
}

#[test]
fn the_primary_of_a_ring_of_three_is_a_co_primary() {
    // db2, the other co-primary, was pointed at db3 to be fed when it was lost; now it is back.
    let ring = |other: Instance| {
        let first = replica(1, 2, "1:1-100").facts(|facts| facts.read_only = false).dead();
        let mut tree = topology([first, other, replica(3, 1, "1:1-100").cut()]);
        tree.recorded_primary = Some(key(1));
        tree
    };
    let codes_of_first = |tree: &Topology| {
        let found = findings(tree, &Policy::default(), &[], NOW);
        let of_first = found.iter().filter(|finding| finding.instance == key(1));
        of_first.map(|finding| finding.code).collect::<Vec<_>>()
    };
    let tree = ring(replica(2, 3, "1:1-100"));
    assert_eq!(current_primary(&tree), Some(key(1)));
    assert_eq!(codes_of_first(&tree), [Code::DeadCoMaster]);
    // Where another one takes writes there is no single primary.
    let tree = ring(replica(2, 3, "1:1-100").facts(|facts| facts.read_only = false));
    assert_eq!(current_primary(&tree), None);
    assert_eq!(
        codes_of_first(&tree),
        [Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect]
    );
}

#[test]
fn two_writable_co_primaries_are_shown_and_not_split() {
    let tree = topology([writable(below(1, 2)), writable(below(2, 1)), below(3, 1)]);
    assert_eq!(found(&policy(), &tree), []);
    assert_eq!(current_primary(&tree), Some(key(1)), "the recorded one");
    let mut unrecorded = tree.clone();
    unrecorded.recorded_primary = None;
    assert_eq!(current_primary(&unrecorded), None, "nothing tells which");
    unrecorded = topology([below(1, 2), writable(below(2, 1)), below(3, 1)]);
    unrecorded.recorded_primary = None;
    assert_eq!(current_primary(&unrecorded), Some(key(2)), "the writable one");
}

// === semi-sync, read-only ===

fn waiting(clients: u32, wanted: u32, still_millis: Option<i64>) -> Instance {
    let mut instance = primary(1, "1:1-100").facts(|facts| {
        facts.semi_sync = SemiSync {
            available: true,
            source_enabled: true,
            source_active: true,
            wait_for_count: wanted,
            clients,
            ..SemiSync::default()
        };
    });
    instance.binlog_unmoved_since = still_millis.map(|millis| NOW.plus_millis(-millis));
    instance
}

#[test]
fn a_primary_that_waits_for_missing_replicas_is_locked_when_its_log_stands_still() {
    let with = |primary| found(&policy(), &topology([primary, below(2, 1)]));
    assert_eq!(with(waiting(1, 1, Some(60_000))), []);
    assert_eq!(
        with(waiting(0, 1, Some(9_999))),
        about(Code::LockedSemiSyncMasterHypothesis, 1)
    );
    assert_eq!(
        with(waiting(0, 1, None)),
        about(Code::LockedSemiSyncMasterHypothesis, 1)
    );
    assert_eq!(with(waiting(0, 1, Some(10_000))), about(Code::LockedSemiSyncMaster, 1));
    for unlocked in [
        waiting(0, 0, Some(60_000)),
        waiting(0, 1, Some(60_000)).facts(|facts| facts.semi_sync.source_enabled = false),
    ] {
        assert_eq!(with(unlocked), []);
    }
    let fallen_back = waiting(0, 1, Some(60_000)).facts(|facts| facts.semi_sync.source_active = false);
    assert_eq!(with(fallen_back), about(Code::NoProblem, 1), "a warning at most");
    assert_eq!(
        with(waiting(0, 1, Some(60_000)).dead()).first().map(|(code, _)| *code),
        Some(Code::UnreachableMaster),
        "what it said last is old"
    );
}

#[test]
fn a_primary_whose_replicas_are_connected_and_acknowledge_nothing_is_locked_after_a_while() {
    let with = |awaited_millis: Option<i64>| {
        let mut primary = waiting(1, 1, Some(60_000)).facts(|facts| facts.semi_sync.wait_sessions = 2);
        primary.acks_awaited_since = awaited_millis.map(|millis| NOW.plus_millis(-millis));
        found(&policy(), &topology([primary, below(2, 1)]))
    };
    assert_eq!(with(None), [], "one commit that waits at one look is nothing");
    assert_eq!(with(Some(9_999)), about(Code::LockedSemiSyncMasterHypothesis, 1));
    assert_eq!(with(Some(10_000)), about(Code::LockedSemiSyncMaster, 1));
}

#[test]
fn too_many_semi_sync_replicas_are_a_failure_where_the_number_is_to_be_exact() {
    let tree = topology([waiting(2, 1, None), below(2, 1)]);
    assert_eq!(found(&policy(), &tree), []);
    let exact = Policy {
        enforce_exact_semi_sync: true,
        ..policy()
    };
    assert_eq!(found(&exact, &tree), about(Code::MasterWithTooManySemiSyncReplicas, 1));
    assert_eq!(found(&exact, &topology([waiting(1, 1, None), below(2, 1)])), []);
}

#[test]
fn a_read_only_primary_is_a_failure_only_where_that_is_asked_for_and_nothing_else_is_at_work() {
    let read_only = || primary(1, "1:1-100").facts(|facts| facts.read_only = true);
    let tree = topology([read_only(), below(2, 1)]);
    assert_eq!(found(&policy(), &tree), about(Code::NoProblem, 1));
    let wanted = Policy {
        recover_non_writable_primary: true,
        ..policy()
    };
    assert_eq!(found(&wanted, &tree), about(Code::NoWriteableMasterStructureWarning, 1));
    let in_recovery = Policy {
        in_recovery: [key(1)].into(),
        ..wanted.clone()
    };
    assert_eq!(found(&in_recovery, &tree), about(Code::NoProblem, 1));
    let beside_another = topology([read_only(), below(2, 1), primary(3, "1:1-100")]);
    assert_eq!(found(&wanted, &beside_another), about(Code::NoProblem, 1));
    let idle = topology([read_only(), stopped(below(2, 1))]);
    assert_eq!(found(&wanted, &idle), about(Code::MasterSingleReplicaNotReplicating, 1));
}

// === the shape ===

#[track_caller]
fn assert_warnings(n: u32, instances: Vec<Instance>, wanted: &[StructureWarning]) {
    let found = findings(&topology(instances), &policy(), &[], NOW);
    let about: Vec<_> = found.iter().filter(|finding| finding.instance == key(n)).collect();
    let structure: Vec<StructureWarning> = about.iter().flat_map(|finding| finding.structure.clone()).collect();
    assert_eq!(structure, wanted, "{found:?}");
    assert!(found.iter().all(|finding| finding.code == Code::NoProblem), "{found:?}");
}

fn logging(n: u32, format: &str) -> Instance {
    below(n, 1).facts(|facts| format.clone_into(&mut facts.binlog_format))
}

#[test]
fn replicas_of_which_one_cannot_follow_the_other_are_warned_of() {
    use StructureWarning as W;
    let db1 = || primary(1, "1:1-100");
    for (formats, warning) in [
        (
            ["STATEMENT", "MIXED"],
            W::StatementAndMixedLoggingReplicasStructureWarning,
        ),
        (["STATEMENT", "ROW"], W::StatementAndRowLoggingReplicasStructureWarning),
        (["MIXED", "row"], W::MixedAndRowLoggingReplicasStructureWarning),
    ] {
        let [one, other] = formats;
        assert_warnings(1, vec![db1(), logging(2, one), logging(3, other)], &[warning]);
    }
    let silent = logging(3, "STATEMENT").facts(|facts| facts.log_replica_updates = false);
    assert_warnings(1, vec![db1(), logging(2, "ROW"), silent], &[]);
    let older = below(3, 1).facts(|facts| facts.version = ServerVersion::parse("8.4.8", "").unwrap());
    assert_warnings(
        1,
        vec![db1(), below(2, 1), older.clone()],
        &[W::MultipleMajorVersionsLoggingReplicasStructureWarning],
    );
    assert_warnings(1, vec![db1(), older], &[]);
}

#[test]
fn binlog_servers_together_support_failover_and_among_others_they_do_not() {
    let binlog_server = |n| {
        below(n, 1)
            .channel(|channel| channel.positioning = Positioning::FilePosition)
            .facts(|facts| {
                facts.version = ServerVersion::parse("10.11.0-maxscale-23.08", "").unwrap();
                facts.gtid_mode = "ON".to_owned();
            })
    };
    let db1 = || primary(1, "1:1-100");
    assert_warnings(1, vec![db1(), binlog_server(2), binlog_server(3)], &[]);
    let mixed = findings(&topology([db1(), binlog_server(2), below(3, 1)]), &policy(), &[], NOW);
    assert!(
        mixed[0]
            .structure
            .contains(&StructureWarning::NoFailoverSupportStructureWarning)
    );
    let flavours = findings(
        &topology([db1(), mariadb_replica(2, 1, "0-1-5"), below(3, 1)]),
        &policy(),
        &[],
        NOW,
    );
    assert!(
        flavours[0]
            .structure
            .contains(&StructureWarning::NoFailoverSupportStructureWarning)
    );
}

#[test]
fn another_gtid_mode_is_warned_of_at_any_source() {
    let permissive = |n, source| below(n, source).facts(|facts| facts.gtid_mode = "ON_PERMISSIVE".to_owned());
    let warning = [StructureWarning::DifferentGTIDModesStructureWarning];
    assert_warnings(1, vec![primary(1, "1:1-100"), permissive(2, 1)], &warning);
    assert_warnings(2, vec![primary(1, "1:1-100"), below(2, 1), permissive(3, 2)], &warning);
}

#[test]
fn errant_transactions_are_warned_of_where_they_are_news() {
    let db1 = || primary(1, "1:1-100");
    let warning = [StructureWarning::ErrantGTIDStructureWarning];
    let below_errant = vec![db1(), replica(2, 1, "1:1-100,2:1"), replica(3, 2, "1:1-100,2:1")];
    assert_warnings(1, below_errant.clone(), &warning);
    assert_warnings(2, below_errant, &[]);
    let leaf_errant = vec![db1(), below(2, 1), replica(3, 2, "1:1-100,3:1")];
    assert_warnings(2, leaf_errant.clone(), &warning);
    assert_warnings(1, leaf_errant, &[]);
}

#[test]
fn a_lone_read_only_primary_is_warned_of() {
    let lone = primary(1, "1:1-100").facts(|facts| facts.read_only = true);
    assert_warnings(1, vec![lone], &[StructureWarning::NoWriteableMasterStructureWarning]);
}
