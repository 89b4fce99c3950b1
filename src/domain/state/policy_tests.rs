use std::collections::BTreeSet;

use super::*;
use crate::domain::finding::{Code, Evidence, Finding};
use crate::domain::fixture::{Adjust, NOW, key, primary, replica, topology, uuid};
use crate::domain::hooks::{HookList, HookProgress, HookRun};
use crate::domain::instance::{Identity, Instance};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::state::Phase;
use crate::domain::state::record::{Acknowledgement, Quarantine, QuarantineState, RecordedPrimary};
use crate::domain::topology::ClusterId;

fn cluster() -> Cluster {
    Cluster {
        id: ClusterId("c1".to_owned()),
        created_at: NOW,
        name: "db1:3306".to_owned(),
        alias: "shop".to_owned(),
        epoch: 1,
        instances: BTreeSet::new(),
        primary: None,
        document: None,
        split_from: None,
    }
}

fn tree() -> Topology {
    let reported = replica(3, 1, "").facts(|facts| facts.reported = Some(InstanceKey::new("three", 3306)));
    let mut tree = topology([primary(1, ""), replica(2, 1, ""), reported]);
    tree.aliases.insert(InstanceKey::new("two", 3306), key(2));
    tree
}

fn origin(name: &str) -> Origin {
    Origin::Document {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn document() -> Document {
    Document {
        origin: origin("shop"),
        uid: String::new(),
        created: NOW,
        generation: 1,
        seeds: BTreeSet::new(),
        credentials_secret: String::new(),
        paused: false,
        mode: RecoveryMode::Auto,
        block_millis: 60_000,
        loss: LossPolicy::Refuse,
        loss_timeout_millis: 0,
        old_primary: OldPrimary::Rejoin,
        boot_read_only: crate::domain::policy::BootReadOnly::Off,
        stalled: None,
        events: None,
        on_drain: crate::domain::policy::OnDrain::Observe,
        durability: None,
        services: None,
    }
}

#[test]
fn a_document_says_what_is_done_about_a_stalled_primary_and_else_the_configuration() {
    use crate::domain::policy::StalledPrimary::{Failover, Observe};
    for (asked, configured, wanted) in [
        (None, Observe, Observe),
        (None, Failover, Failover),
        (Some(Observe), Failover, Observe),
        (Some(Failover), Observe, Failover),
    ] {
        let settings = PolicySettings {
            stalled: configured,
            ..settings(&[])
        };
        let document = Document {
            stalled: asked,
            ..document()
        };
        let cluster = Cluster {
            document: Some(document.origin.clone()),
            ..cluster()
        };
        let state = State {
            documents: [(document.origin.clone(), document)].into(),
            ..State::default()
        };
        let policy = policy_of(&state, &cluster, &settings, &tree(), NOW);
        assert_eq!(policy.stalled, wanted, "{asked:?} {configured:?}");
    }
}

fn settings(filters: &[&str]) -> PolicySettings {
    let filters = filters
        .iter()
        .filter_map(|filter| ClusterFilter::parse(filter).unwrap());
    PolicySettings {
        recover_primary_filters: filters.collect(),
        ..PolicySettings::default()
    }
}

fn recovery(uid: &str, phase: Phase) -> Recovery {
    let identity = Identity::ServerUuid(uuid(2));
    let finding = Finding {
        code: Code::DeadMaster,
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        description: String::new(),
        evidence: Evidence::default(),
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    };
    let plan = Plan {
        kind: RecoveryKind::DeadPrimary,
        code: Code::DeadMaster,
        cluster: ClusterId("c1".to_owned()),
        old_primary: key(1),
        old_primary_identity: None,
        successor: key(2),
        successor_identity: identity,
        position: crate::domain::fixture::mysql_set(""),
        instances: BTreeSet::new(),
        lost_replicas: Vec::new(),
        lost: None,
        loss_evidence: None,
        steps: Vec::new(),
        sources: std::collections::BTreeMap::new(),
        prior_states: std::collections::BTreeMap::new(),
        old_primary_state: None,
        events: None,
        commits_nothing: false,
        remembered: None,
        manual_request: None,
    };
    Recovery {
        id: 1,
        uid: uid.to_owned(),
        cluster_name: String::new(),
        cluster_alias: String::new(),
        finding,
        opinions: Vec::new(),
        plan,
        report: PlanReport::default(),
        holder: 1,
        holder_name: String::new(),
        epoch: 1,
        phase,
        started: NOW,
        lost_replicas: Vec::new(),
        lost: None,
        errors: Vec::new(),
        steps: Vec::new(),
        fencing_proof: None,
        acknowledged: None,
        hooks: HookProgress::default(),
        failed_before: 0,
        owed: BTreeSet::new(),
    }
}

fn ended(uid: &str, promoted: bool) -> Recovery {
    recovery(
        uid,
        Phase::Ended {
            at: NOW,
            successor: promoted.then(|| key(2)),
            successful: promoted,
        },
    )
}

fn with(recoveries: impl IntoIterator<Item = Recovery>) -> State {
    let recoveries = recoveries
        .into_iter()
        .map(|recovery| (recovery.uid.clone(), recovery))
        .collect();
    State {
        recoveries,
        ..State::default()
    }
}

fn hold(state: &State, cluster: &Cluster, settings: &PolicySettings, later: i64) -> Option<HeldBack> {
    policy_of(state, cluster, settings, &tree(), NOW.plus_millis(later)).held_back
}

#[test]
fn filters_match_as_in_orchestrator() {
    for (filter, wanted) in [
        ("*", true),
        ("db1:3306", true),
        ("^db[0-9]+", true),
        ("b1", true),
        ("db2", false),
        ("shop", true),
        ("alias=shop", true),
        ("alias=sho", false),
        ("alias~=^sh", true),
        ("alias~=^ho", false),
        ("", false),
    ] {
        let matches = ClusterFilter::parse(filter)
            .unwrap()
            .is_some_and(|filter| filter.matches("db1:3306", "shop"));
        assert_eq!(matches, wanted, "{filter}");
    }
    assert!(
        ClusterFilter::parse("alias=db1:3306")
            .unwrap()
            .unwrap()
            .matches("db1:3306", "")
    );
    assert!(
        ClusterFilter::parse("alias~=(")
            .unwrap_err()
            .to_string()
            .starts_with("cluster filter `alias~=(` is not a valid pattern")
    );
}

#[test]
fn without_a_document_the_filters_decide_and_the_default_is_none() {
    let state = State::default();
    assert_eq!(
        hold(&state, &cluster(), &settings(&[]), 0),
        Some(HeldBack::NoFilterMatches)
    );
    assert_eq!(
        hold(&state, &cluster(), &settings(&["other"]), 0),
        Some(HeldBack::NoFilterMatches)
    );
    assert_eq!(hold(&state, &cluster(), &settings(&["other", "alias=shop"]), 0), None);
    // A document that is withdrawn decides nothing any more.
    let orphan = Cluster {
        document: Some(origin("gone")),
        ..cluster()
    };
    assert_eq!(
        hold(&state, &orphan, &settings(&[]), 0),
        Some(HeldBack::NoFilterMatches)
    );
}

#[test]
fn the_switch_comes_before_the_document_and_the_document_before_recoveries() {
    let owned = Cluster {
        document: Some(origin("shop")),
        ..cluster()
    };
    let mut state = with([recovery("r1", Phase::Claimed)]);
    state.recoveries_disabled = true;
    state.documents.insert(
        origin("shop"),
        Document {
            paused: true,
            mode: RecoveryMode::DetectOnly,
            ..document()
        },
    );
    let hold = |state: &State| hold(state, &owned, &settings(&[]), 0);
    assert_eq!(hold(&state), Some(HeldBack::GloballyDisabled));
    state.recoveries_disabled = false;
    assert_eq!(hold(&state), Some(HeldBack::Paused));
    state.documents.insert(
        origin("shop"),
        Document {
            mode: RecoveryMode::DetectOnly,
            ..document()
        },
    );
    assert_eq!(hold(&state), Some(HeldBack::Mode(RecoveryMode::DetectOnly)));
    state.documents.insert(origin("shop"), document());
    assert_eq!(hold(&state), Some(HeldBack::RecoveryRuns { uid: "r1".to_owned() }));
    state.recoveries.clear();
    assert_eq!(hold(&state), None);
    let policy = policy_of(&state, &owned, &settings(&[]), &tree(), NOW);
    assert_eq!(
        (policy.loss, policy.old_primary, policy.block_millis),
        (LossPolicy::Refuse, OldPrimary::Rejoin, 60_000)
    );
}

#[test]
fn a_recovery_blocks_the_next_one_from_its_end_until_it_is_acknowledged() {
    let settings = PolicySettings {
        block_millis: 1000,
        ..settings(&["*"])
    };
    let hold = |state: &State, later| hold(state, &cluster(), &settings, later);
    let state = with([ended("r1", true)]);
    let blocked = HeldBack::RecentRecovery {
        uid: "r1".to_owned(),
        until: NOW.plus_millis(1000),
    };
    assert_eq!(hold(&state, 999), Some(blocked));
    assert_eq!(hold(&state, 1000), None);
    let mut seen = ended("r1", true);
    seen.acknowledged = Some(Acknowledgement {
        at: NOW,
        by: "ops".to_owned(),
        comment: "seen".to_owned(),
    });
    assert_eq!(hold(&with([seen]), 0), None);
    let mut elsewhere = ended("r1", true);
    elsewhere.plan.cluster = ClusterId("c2".to_owned());
    assert_eq!(hold(&with([elsewhere]), 0), None);
    let mut rejoin = ended("r1", true);
    rejoin.plan.kind = RecoveryKind::Rejoin;
    assert_eq!(hold(&with([rejoin]), 0), None);
}

#[test]
fn semi_sync_counts_as_changed_at_the_end_of_each_recovery_and_while_one_switches_it() {
    let changed = |recoveries: Vec<Recovery>| {
        let now = NOW.plus_millis(100);
        policy_of(&with(recoveries), &cluster(), &settings(&["*"]), &tree(), now).acks_changed_at
    };
    assert_eq!(changed(Vec::new()), None);
    assert_eq!(changed(vec![ended("r1", true)]), Some(NOW));
    let mut failover = recovery("r2", Phase::Claimed);
    assert_eq!(changed(vec![ended("r1", true), failover.clone()]), Some(NOW));
    failover.plan.kind = RecoveryKind::Durability;
    assert_eq!(changed(vec![ended("r1", true), failover]), Some(NOW.plus_millis(100)));
}

#[test]
fn a_recovery_that_promoted_nobody_blocks_only_shortly() {
    let settings = settings(&["*"]);
    let state = with([ended("r1", false)]);
    assert!(matches!(
        hold(&state, &cluster(), &settings, 29_999),
        Some(HeldBack::RecentRecovery { .. })
    ));
    assert_eq!(hold(&state, &cluster(), &settings, 30_000), None);
    assert!(hold(&with([ended("r1", true)]), &cluster(), &settings, 30_000).is_some());
}

#[test]
fn a_recovery_that_a_hook_stopped_blocks_with_what_the_hook_said() {
    let mut stopped = ended("r1", false);
    stopped.hooks = HookProgress::of(&[HookList::PreFailover]);
    stopped.hooks.finish(HookRun {
        list: HookList::PreFailover,
        attempt: 1,
        at: NOW,
        failure: Some("not today".to_owned()),
    });
    let state = with([stopped]);
    let held_back = hold(&state, &cluster(), &settings(&["*"]), 1000).unwrap();
    assert_eq!(held_back.to_string(), "a hook vetoed recovery r1: not today");
    assert_eq!(hold(&state, &cluster(), &settings(&["*"]), 30_000), None);
}

fn intent(instance: InstanceKey, origin: Origin, details: IntentDetails) -> Intent {
    Intent {
        instance,
        origin,
        details,
    }
}

fn downtime(owner: &str, until: Option<WallTime>) -> IntentDetails {
    IntentDetails::Downtime {
        owner: owner.to_owned(),
        reason: "disk".to_owned(),
        since: NOW,
        until,
    }
}

fn asked(intents: impl IntoIterator<Item = Intent>) -> Policy {
    let intents = intents.into_iter().map(|intent| (intent.id(), intent)).collect();
    let cluster = Cluster {
        document: Some(origin("shop")),
        ..cluster()
    };
    policy_of(
        &State {
            intents,
            ..State::default()
        },
        &cluster,
        &settings(&["*"]),
        &tree(),
        NOW,
    )
}

#[test]
fn a_document_sets_neither_downtimes_nor_promotion_rules_in_the_cluster_of_another_one() {
    let policy = asked([
        intent(key(2), origin("intruder"), downtime("cr", None)),
        intent(
            key(3),
            origin("intruder"),
            IntentDetails::Candidate {
                rule: PromotionRule::MustNot,
                until: None,
            },
        ),
    ]);
    assert!(
        policy.downtimes.is_empty() && policy.promotion_rules.is_empty(),
        "{policy:?}"
    );
}

#[test]
fn the_longest_active_downtime_counts_for_the_instance_that_is_meant() {
    let later = |millis| Some(NOW.plus_millis(millis));
    let policy = asked([
        intent(key(2), Origin::Api, downtime("api", later(500))),
        intent(
            InstanceKey::new("two", 3306),
            origin("shop"),
            downtime("cr", later(900)),
        ),
        intent(InstanceKey::new("three", 3306), Origin::Api, downtime("api", None)),
        intent(key(3), origin("shop"), downtime("cr", later(900))),
        intent(key(1), Origin::Api, downtime("api", later(0))),
        intent(InstanceKey::new("elsewhere", 3306), Origin::Api, downtime("api", None)),
    ]);
    let told: Vec<(String, String)> = policy
        .downtimes
        .iter()
        .map(|(key, held)| (key.hostname.clone(), held.to_string()))
        .collect();
    let wanted = [("db2", "in downtime by cr: disk"), ("db3", "in downtime by api: disk")];
    assert_eq!(told, wanted.map(|(host, held)| (host.to_owned(), held.to_owned())));
}

#[test]
fn of_promotion_rules_must_not_counts_first_then_the_documents() {
    let rule = |rule| IntentDetails::Candidate { rule, until: None };
    let policy = asked([
        intent(key(1), Origin::Api, rule(PromotionRule::MustNot)),
        intent(key(1), origin("shop"), rule(PromotionRule::Prefer)),
        intent(key(2), Origin::Api, rule(PromotionRule::Prefer)),
        intent(key(2), origin("shop"), rule(PromotionRule::PreferNot)),
        intent(
            key(3),
            Origin::Api,
            IntentDetails::Candidate {
                rule: PromotionRule::Must,
                until: Some(NOW),
            },
        ),
    ]);
    assert_eq!(
        policy.promotion_rules,
        [(key(1), PromotionRule::MustNot), (key(2), PromotionRule::PreferNot)].into()
    );
}

#[test]
fn hosts_that_a_pattern_ignores_are_not_promoted() {
    let settings = PolicySettings {
        promotion_ignore: vec![Regex::new("^db[23]:").unwrap()],
        ..settings(&["*"])
    };
    let policy = policy_of(&State::default(), &cluster(), &settings, &tree(), NOW);
    assert_eq!(policy.promotion_ignored, [key(2), key(3)]);
}

fn recorded(opened_by: Option<&str>, process: Option<i64>) -> Cluster {
    Cluster {
        primary: Some(RecordedPrimary {
            instance: key(1),
            identity: Identity::ServerUuid(uuid(1)),
            since: NOW,
            epoch: 1,
            opened_by: opened_by.map(str::to_owned),
            process,
        }),
        ..cluster()
    }
}

fn started(at: i64) -> Topology {
    topology([
        primary(1, "").facts(|facts| {
            facts.read_only = true;
            facts.started = Some(at);
        }),
        replica(2, 1, ""),
    ])
}

fn booted(cluster: &Cluster, tree: &Topology) -> Option<InstanceKey> {
    policy_of(&State::default(), cluster, &PolicySettings::default(), tree, NOW).booted_read_only
}

#[test]
fn a_primary_that_ham4db_opened_and_whose_process_is_new_came_back_read_only() {
    assert_eq!(booted(&recorded(Some("u"), Some(1000)), &started(1010)), Some(key(1)));
    // It never was seen to take writes since it was opened.
    assert_eq!(booted(&recorded(Some("u"), None), &started(1000)), Some(key(1)));
    // The same process, told a second apart: somebody made it read-only.
    assert_eq!(booted(&recorded(Some("u"), Some(1000)), &started(1001)), None);
    // A person opened it.
    assert_eq!(booted(&recorded(None, Some(1000)), &started(1010)), None);
    let other = recorded(Some("u"), Some(1000));
    let changes: [fn(Instance) -> Instance; 4] = [
        |it| it.facts(|facts| facts.read_only = false),
        |it| it.facts(|facts| facts.started = None),
        |it| it.facts(|facts| facts.identity = Identity::ServerUuid(uuid(9))),
        Adjust::dead,
    ];
    for change in changes {
        let mut tree = started(1010);
        let it = tree.instances.remove(&key(1)).unwrap();
        tree.instances.insert(key(1), change(it));
        assert_eq!(booted(&other, &tree), None);
    }
}

#[test]
fn servers_in_quarantine_are_known_by_who_they_are() {
    let held = |n| Quarantine {
        identity: Identity::ServerUuid(uuid(n)),
        instance: key(n),
        cluster: ClusterId("c1".to_owned()),
        recovery: "u".to_owned(),
        epoch: 1,
        since: NOW,
        standing: QuarantineState::Absent,
    };
    let state = State {
        quarantines: [("a".to_owned(), held(2)), ("b".to_owned(), held(9))].into(),
        ..State::default()
    };
    let policy = policy_of(&state, &cluster(), &PolicySettings::default(), &tree(), NOW);
    assert_eq!(policy.quarantined, [key(2)].into());
}

#[test]
fn a_repair_that_failed_is_blocked_for_longer_each_time_and_says_how_often_it_failed() {
    let failed = |uid: &str, id: u64| {
        let mut repair = ended(uid, false);
        repair.id = id;
        repair.plan.kind = RecoveryKind::SemiSync;
        repair
    };
    let blocks = |repairs: Vec<Recovery>, later| {
        let now = NOW.plus_millis(later);
        policy_of(&with(repairs), &cluster(), &settings(&["*"]), &tree(), now).repair_blocks
    };
    assert!(blocks(vec![failed("r1", 1)], 5000).is_empty());
    let twice = vec![failed("r1", 1), failed("r2", 2)];
    let block = blocks(twice.clone(), 9999).remove(0);
    assert_eq!(
        block.held_back(),
        HeldBack::RepairFailed {
            uid: "r2".to_owned(),
            failures: 2,
            until: NOW.plus_millis(10_000),
        }
    );
    // Members of earlier versions read what a detection records.
    assert!(matches!(block.held_back().as_recorded(), HeldBack::Waits(text) if text.contains("failed 2 times")));
    assert!(blocks(twice, 10_000).is_empty());
}
