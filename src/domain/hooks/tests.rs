//! Lists, ledger, every placeholder and variable, and that no value is read as shell text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use proptest::prelude::*;

use super::invocation::PLACEHOLDERS;
use super::progress::PendingHookList;
use super::*;
use crate::domain::finding::Evidence;
use crate::domain::fixture::{NOW, key, mysql_set};
use crate::domain::instance::BinlogCoordinates;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::refusal::{Refusal, RefusalReason};
use crate::domain::state::record::Detection;
use crate::domain::state::sample::{claim, plan};
use crate::domain::state::{Applied, Cluster, Command, Phase, Proposal, Recovery, apply};

/// An ended recovery with a value of its own in every place.
fn recovery() -> Recovery {
    let plan = plan(1, 1, 2, &[1, 2, 3]);
    let cluster = Cluster {
        id: plan.cluster.clone(),
        created_at: NOW,
        name: "db1:3306".to_owned(),
        alias: "my shop".to_owned(),
        epoch: 4,
        instances: BTreeSet::new(),
        primary: None,
        document: None,
        split_from: None,
    };
    let mut state = State {
        clusters: BTreeMap::from([(cluster.id.clone(), cluster)]),
        ..State::default()
    };
    let proposal = Proposal {
        version: 1,
        at: NOW,
        command: Command::Claim {
            claim: Box::new(claim("u1", plan)),
        },
    };
    let (applied, _) = apply(&mut state, &proposal);
    assert!(matches!(applied, Applied::Claimed { .. }), "{applied}");
    let mut recovery = state.recoveries.remove("u1").unwrap();
    recovery.finding.description = "it's dead; $(reboot)".to_owned();
    recovery.finding.evidence = Evidence {
        is_primary: true,
        replicas: vec![key(2), key(3)],
        ..Evidence::default()
    };
    recovery.phase = Phase::Ended {
        at: NOW,
        successor: Some(key(2)),
        successful: true,
    };
    recovery.lost_replicas = vec![Refusal {
        instance: key(3),
        reason: RefusalReason::NoGtid,
    }];
    recovery.lost = Some(mysql_set("1:10-11"));
    recovery
}

fn orders() -> &'static Origin {
    static ORDERS: LazyLock<Origin> = LazyLock::new(|| Origin::Document {
        namespace: "shop".to_owned(),
        name: "orders".to_owned(),
    });
    &ORDERS
}

fn invocation(recovery: &Recovery) -> HookInvocation<'_> {
    HookInvocation {
        list: HookList::PostMasterFailover,
        attempt: 2,
        subject: SubjectRecord::Recovery(recovery),
        member: "member1:10008",
        auto: AutoRecovery {
            primary: true,
            intermediate: false,
        },
        origin: Some(orders()),
        successor_coordinates: Some(BinlogCoordinates {
            file: "bin.000007".to_owned(),
            position: 680,
        }),
    }
}

#[test]
fn what_a_group_has_chosen_is_told_as_a_failover_is() {
    let detection = Detection {
        successor: Some(key(2)),
        ..detection()
    };
    let recovery = recovery();
    let told = HookInvocation {
        subject: SubjectRecord::Detection(&detection),
        ..invocation(&recovery)
    };
    let variables = told.variables();
    assert_eq!(variables["ORC_SUCCESSOR_HOST"], "db2");
    assert_eq!(variables["ORC_IS_SUCCESSFUL"], "true");
    assert_eq!(variables["ORC_SUCCESSOR_BINLOG_COORDINATES"], "bin.000007:680");
    assert!(AFTER_GROUP_CHOICE.iter().all(|list| !list.may_veto()));
}

fn detection() -> Detection {
    Detection {
        id: 9,
        finding: recovery().finding,
        cluster_name: "db1:3306".to_owned(),
        cluster_alias: "my shop".to_owned(),
        at: NOW,
        member_name: "member1".to_owned(),
        held_back: None,
        recovery: None,
        successor: None,
        hooks: HookProgress::default(),
    }
}

// === lists ===

#[test]
fn every_list_is_a_key_of_orchestrator_and_only_those_that_are_waited_for_may_veto() {
    for list in HookList::ALL {
        assert!(list.key().ends_with("Processes"), "{list}");
        assert_eq!(
            list.may_veto(),
            ["Pre", "Fencing"].iter().any(|start| list.key().starts_with(start)),
            "{list}"
        );
    }
    let distinct: BTreeSet<&str> = HookList::ALL.iter().map(|list| list.key()).collect();
    assert_eq!(distinct.len(), HookList::ALL.len());
}

#[test]
fn what_stands_before_a_recovery_may_veto_and_what_stands_after_it_may_not() {
    for kind in [
        RecoveryKind::DeadPrimary,
        RecoveryKind::DeadPrimaryByPosition,
        RecoveryKind::IntermediatePrimary,
        RecoveryKind::GroupMember,
        RecoveryKind::Rejoin,
    ] {
        let lists = lists_of(kind);
        assert!(lists.before.iter().all(|list| list.may_veto()), "{kind:?}");
        assert!(
            lists.succeeded.iter().chain(lists.failed).all(|list| !list.may_veto()),
            "{kind:?}"
        );
    }
}

#[test]
fn the_ending_decides_which_lists_run() {
    let kind = RecoveryKind::DeadPrimary;
    let agreed = HookProgress::default();
    assert_eq!(
        lists_after(kind, &agreed, true),
        [HookList::PostMasterFailover, HookList::PostFailover]
    );
    assert_eq!(lists_after(kind, &agreed, false), [HookList::PostUnsuccessfulFailover]);
    let mut vetoed = HookProgress::of(&[HookList::PreFailover]);
    vetoed.finish(run(HookList::PreFailover, Some("no")));
    assert_eq!(lists_after(kind, &vetoed, false), []);
    assert_eq!(lists_after(RecoveryKind::Rejoin, &agreed, true), []);
    for kind in [RecoveryKind::IntermediatePrimary, RecoveryKind::GroupMember] {
        assert_eq!(
            lists_after(kind, &agreed, true),
            [HookList::PostIntermediateMasterFailover, HookList::PostFailover]
        );
    }
}

// === ledger ===

fn run(list: HookList, failure: Option<&str>) -> HookRun {
    HookRun {
        list,
        attempt: 1,
        at: NOW,
        failure: failure.map(ToOwned::to_owned),
    }
}

#[test]
fn a_list_is_due_until_it_has_run_and_each_begin_is_another_attempt() {
    let mut progress = HookProgress::of(&[HookList::PostMasterFailover, HookList::PostFailover]);
    assert_eq!(progress.next_in_order(), Some(HookList::PostMasterFailover));
    assert_eq!(progress.begin(HookList::PostMasterFailover), Some(1));
    assert_eq!(progress.begin(HookList::PostMasterFailover), Some(2));
    assert_eq!(progress.begin(HookList::PreFailover), None);
    assert!(progress.finish(run(HookList::PostMasterFailover, None)));
    assert!(!progress.finish(run(HookList::PostMasterFailover, Some("late"))));
    assert_eq!(progress.runs, [run(HookList::PostMasterFailover, None)]);
    // What has run does not become due again.
    progress.add(&[HookList::PostMasterFailover, HookList::PostFailover]);
    assert_eq!(
        progress.due,
        [PendingHookList {
            list: HookList::PostFailover,
            attempts: 0
        }]
    );
    progress.replace_pending(&[HookList::PostUnsuccessfulFailover]);
    assert_eq!(progress.next_in_order(), Some(HookList::PostUnsuccessfulFailover));
}

#[test]
fn a_failure_is_a_veto_only_beforehand() {
    let mut progress = HookProgress::of(&HookList::ALL);
    assert!(progress.finish(run(HookList::PostFailover, Some("no"))));
    assert!(progress.finish(run(HookList::OnFailureDetection, Some("no"))));
    assert_eq!(progress.veto(), None);
    assert!(progress.finish(run(HookList::PreFailover, Some("no"))));
    assert_eq!(progress.veto().unwrap().list, HookList::PreFailover);
}

#[test]
fn records_from_before_there_were_hooks_are_read() {
    let mut recovery = serde_json::to_value(recovery()).unwrap();
    recovery.as_object_mut().unwrap().remove("hooks").unwrap();
    let read: Recovery = serde_json::from_value(recovery).unwrap();
    assert_eq!(read.hooks, HookProgress::default());
    let mut claim = serde_json::to_value(claim("u1", plan(1, 1, 2, &[1, 2]))).unwrap();
    claim.as_object_mut().unwrap().remove("hooks").unwrap();
    let read: crate::domain::state::Claim = serde_json::from_value(claim).unwrap();
    assert_eq!(read.hooks, []);
}

// === news ===

#[test]
fn a_failure_is_reported_once_in_a_while() {
    let hour = 3_600_000;
    let later = |millis| NOW.plus_millis(millis);
    let mut state = State::default();
    let finding = detection().finding;
    assert!(is_detection_hook_due(&state, &finding, hour, NOW));
    state.detections.insert(
        9,
        Detection {
            hooks: HookProgress::of(&[HookList::OnFailureDetection]),
            ..detection()
        },
    );
    assert!(!is_detection_hook_due(&state, &finding, hour, later(1000)));
    assert!(is_detection_hook_due(&state, &finding, hour, later(3_600_000)));
    // Another instance, or a failure of the other sort.
    let elsewhere = Finding {
        instance: key(7),
        ..finding.clone()
    };
    assert!(is_detection_hook_due(&state, &elsewhere, hour, later(1000)));
    let unreachable = Finding {
        code: Code::UnreachableMaster,
        ..finding.clone()
    };
    assert!(is_detection_hook_due(&state, &unreachable, hour, later(1000)));
    // A detection that nobody was told of hides nothing.
    state.detections.insert(9, detection());
    assert!(is_detection_hook_due(&state, &finding, hour, later(1000)));
    // The list ran, or runs, beside the recovery that followed. A failed command is not repeated.
    let mut recovery = recovery();
    recovery.hooks = HookProgress::of(&[HookList::OnFailureDetection]);
    state.recoveries.insert("u1".to_owned(), recovery.clone());
    state.detections.insert(
        9,
        Detection {
            recovery: Some("u1".to_owned()),
            ..detection()
        },
    );
    assert!(!is_detection_hook_due(&state, &finding, hour, later(1000)));
    recovery.hooks.finish(run(HookList::OnFailureDetection, Some("no")));
    state.recoveries.insert("u1".to_owned(), recovery);
    assert!(!is_detection_hook_due(&state, &finding, hour, later(1000)));
    // Advice is no failure.
    let advice = Finding {
        code: Code::UnsafeSettings,
        ..finding
    };
    assert!(!is_detection_hook_due(&State::default(), &advice, hour, NOW));
}

// === what a command is told ===

#[test]
fn every_placeholder_and_variable_has_its_value() {
    let recovery = recovery();
    let variables = invocation(&recovery).variables();
    for (name, value) in [
        ("failureType", "DeadMaster"),
        ("instanceType", "master"),
        ("isMaster", "true"),
        ("isCoMaster", "false"),
        ("failureDescription", "it's dead; $(reboot)"),
        ("command", ""),
        ("failedHost", "db1"),
        ("failedPort", "3306"),
        ("failureCluster", "db1:3306"),
        ("failureClusterAlias", "my shop"),
        ("failureClusterDomain", ""),
        ("countSlaves", "2"),
        ("countReplicas", "2"),
        ("isDowntimed", "false"),
        ("autoMasterRecovery", "true"),
        ("autoIntermediateMasterRecovery", "false"),
        ("orchestratorHost", "member1"),
        ("recoveryUID", "u1"),
        ("isSuccessful", "true"),
        ("lostSlaves", "db3:3306"),
        ("lostReplicas", "db3:3306"),
        ("countLostReplicas", "1"),
        ("slaveHosts", "db2:3306,db3:3306"),
        ("replicaHosts", "db2:3306,db3:3306"),
        ("successorHost", "db2"),
        ("successorPort", "3306"),
        ("successorBinlogCoordinates", "bin.000007:680"),
        ("successorAlias", ""),
    ] {
        let variable = invocation::variable_of(name).unwrap();
        assert_eq!(variables[variable], value, "{name}");
    }
    for (name, value) in [
        ("HAM4DB_HOOK", "PostMasterFailoverProcesses"),
        ("HAM4DB_ATTEMPT", "2"),
        ("HAM4DB_MEMBER", "member1:10008"),
        ("HAM4DB_PHASE", "Ended"),
        ("HAM4DB_RESOURCE", "shop/orders"),
        ("HAM4DB_FAILED", "db1:3306"),
        ("HAM4DB_RECOVERY_UID", "u1"),
        ("HAM4DB_EPOCH", "5"),
        ("HAM4DB_KIND", "DeadPrimary"),
        ("HAM4DB_SUCCESSOR", "db2:3306"),
        ("HAM4DB_PLANNED_SUCCESSOR", "db2:3306"),
        ("HAM4DB_COUNT_LOST_REPLICAS", "1"),
        ("HAM4DB_DETECTION_ID", ""),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
    assert_eq!(variables["HAM4DB_RECOVERY_ID"], recovery.id.to_string());
    assert_eq!(variables["HAM4DB_CLUSTER_ID"], recovery.plan.cluster.to_string());
    assert_eq!(
        variables["HAM4DB_LOST_GTID_SET"],
        recovery.lost.as_ref().unwrap().to_string()
    );
    let known: BTreeSet<&str> = variables.keys().copied().collect();
    assert!(PLACEHOLDERS.iter().all(|(_, variable)| known.contains(variable)));
}

#[test]
fn nobody_is_named_as_successor_before_there_is_one() {
    let mut recovery = recovery();
    recovery.phase = Phase::Claimed;
    let before = HookInvocation {
        list: HookList::PreFailover,
        ..invocation(&recovery)
    };
    let variables = before.variables();
    for name in [
        "ORC_SUCCESSOR_HOST",
        "ORC_SUCCESSOR_PORT",
        "ORC_SUCCESSOR_BINLOG_COORDINATES",
        "HAM4DB_SUCCESSOR",
    ] {
        assert_eq!(variables[name], "", "{name}");
    }
    assert_eq!(variables["ORC_IS_SUCCESSFUL"], "false");
    assert_eq!(variables["HAM4DB_PHASE"], "Claimed");
    assert_eq!(
        render("swap {successorHost} {failedHost}", &variables).text,
        "swap \"${ORC_SUCCESSOR_HOST}\" db1"
    );
    // A person has named the one to be promoted.
    let takeover = HookInvocation {
        list: HookList::PreGracefulTakeover,
        ..invocation(&recovery)
    };
    assert_eq!(takeover.variables()["ORC_SUCCESSOR_HOST"], "db2");
}

#[test]
fn a_detection_is_told_without_a_recovery() {
    let detection = detection();
    let recovery = recovery();
    let told = HookInvocation {
        list: HookList::OnFailureDetection,
        attempt: 1,
        subject: SubjectRecord::Detection(&detection),
        ..invocation(&recovery)
    };
    let variables = told.variables();
    assert_eq!(variables["ORC_RECOVERY_UID"], "");
    assert_eq!(variables["HAM4DB_EPOCH"], "");
    assert_eq!(variables["HAM4DB_DETECTION_ID"], "9");
    assert_eq!(variables["ORC_FAILURE_CLUSTER_ALIAS"], "my shop");
    let document = told.document();
    assert!(document["recovery"].is_null());
    assert_eq!(
        (&document["detection"]["id"], &document["phase"]),
        (&9.into(), &"Detected".into())
    );
}

#[test]
fn the_document_has_what_the_variables_have_and_more() {
    let recovery = recovery();
    let document = invocation(&recovery).document();
    for (path, value) in [
        ("/version", serde_json::json!(1)),
        ("/hook", "PostMasterFailoverProcesses".into()),
        ("/attempt", 2.into()),
        ("/member", "member1:10008".into()),
        ("/phase", "Ended".into()),
        ("/cluster/name", "db1:3306".into()),
        ("/cluster/alias", "my shop".into()),
        ("/cluster/resource", "shop/orders".into()),
        ("/finding/code", "DeadMaster".into()),
        ("/finding/evidence/replicas/1", "db3:3306".into()),
        ("/recovery/uid", "u1".into()),
        ("/recovery/kind", "DeadPrimary".into()),
        ("/recovery/epoch", 5.into()),
        ("/recovery/successful", true.into()),
        ("/recovery/plan/victim", "db1:3306".into()),
        ("/recovery/lostReplicas/0/instance", "db3:3306".into()),
        ("/successor", "db2:3306".into()),
    ] {
        assert_eq!(document.pointer(path), Some(&value), "{path} of {document:#}");
    }
    assert_eq!(document["cluster"]["id"], recovery.plan.cluster.to_string());
    assert!(!document["recovery"]["lostGtidSet"].is_null());
}

#[test]
fn values_stay_within_what_a_program_can_be_started_with() {
    let mut recovery = recovery();
    recovery.finding.description = "ä".repeat(100_000);
    recovery.finding.evidence.replicas = (0..10_000).map(|n| InstanceKey::new(format!("db{n}"), 3306)).collect();
    recovery.cluster_alias = "a\0b".to_owned();
    let variables = invocation(&recovery).variables();
    assert!(variables.values().all(|value| value.len() <= 32 * 1024));
    assert!(variables["ORC_FAILURE_DESCRIPTION"].len() > 32 * 1024 - 4);
    assert_eq!(variables["ORC_COUNT_REPLICAS"], "10000");
    assert_eq!(variables["ORC_FAILURE_CLUSTER_ALIAS"], "ab");
}

#[test]
fn the_kinds_of_instances_have_orchestrators_names() {
    let mut recovery = recovery();
    for (is_primary, is_co_primary, name) in [
        (true, false, "master"),
        (true, true, "co-master"),
        (false, false, "intermediate-master"),
    ] {
        recovery.finding.evidence.is_primary = is_primary;
        recovery.finding.evidence.is_co_primary = is_co_primary;
        assert_eq!(invocation(&recovery).variables()["ORC_INSTANCE_TYPE"], name);
    }
}

// === templates ===

fn rendered(command: &str) -> String {
    let variables = BTreeMap::from([
        ("ORC_FAILED_HOST", "db1.example".to_owned()),
        ("ORC_FAILURE_CLUSTER_ALIAS", "it's; $(x)".to_owned()),
        ("ORC_SUCCESSOR_HOST", String::new()),
    ]);
    render(command, &variables).text
}

#[test]
fn values_are_pasted_where_they_are_plain_and_referred_to_where_they_are_not() {
    for (command, text) in [
        ("notify {failedHost}", "notify db1.example"),
        (
            "notify '{failedHost}' \"{failedHost}\"",
            "notify 'db1.example' \"db1.example\"",
        ),
        (
            "notify {failureClusterAlias}",
            "notify \"${ORC_FAILURE_CLUSTER_ALIAS}\"",
        ),
        (
            "notify \"a {failureClusterAlias}\"",
            "notify \"a ${ORC_FAILURE_CLUSTER_ALIAS}\"",
        ),
        (
            "notify 'a {failureClusterAlias} b'",
            "notify 'a '\"${ORC_FAILURE_CLUSTER_ALIAS}\"' b'",
        ),
        (
            "notify $'a\\'{failureClusterAlias}'",
            "notify $'a\\''\"${ORC_FAILURE_CLUSTER_ALIAS}\"$''",
        ),
        (
            "echo \"it's {failureClusterAlias}\"",
            "echo \"it's ${ORC_FAILURE_CLUSTER_ALIAS}\"",
        ),
        (
            "echo \\' {failureClusterAlias}",
            "echo \\' \"${ORC_FAILURE_CLUSTER_ALIAS}\"",
        ),
        (
            "echo \"$(x '{failureClusterAlias}')\"",
            "echo \"$(x ''\"${ORC_FAILURE_CLUSTER_ALIAS}\"'')\"",
        ),
        (
            "echo \"$(x) {failureClusterAlias}\"",
            "echo \"$(x) ${ORC_FAILURE_CLUSTER_ALIAS}\"",
        ),
        (
            "echo `x {failureClusterAlias}`",
            "echo `x \"${ORC_FAILURE_CLUSTER_ALIAS}\"`",
        ),
        (
            "# don't\necho {failureClusterAlias}",
            "# don't\necho \"${ORC_FAILURE_CLUSTER_ALIAS}\"",
        ),
        ("x {successorHost} y", "x \"${ORC_SUCCESSOR_HOST}\" y"),
        ("x '{successorHost}'", "x ''\"${ORC_SUCCESSOR_HOST}\"''"),
        // The shell's own, and what nobody knows.
        ("x ${failedHost} {unknown} {} {", "x ${failedHost} {unknown} {} {"),
        ("awk '{print $1}'", "awk '{print $1}'"),
        ("", ""),
    ] {
        assert_eq!(rendered(command), text, "{command}");
    }
}

#[test]
fn a_trailing_ampersand_is_taken_off_and_noted() {
    for (command, text, detached) in [
        ("page &", "page", true),
        ("page&", "page", true),
        ("  page  ", "page", false),
        ("a && b", "a && b", false),
        ("a &&", "a &&", false),
        ("echo \\&", "echo \\&", false),
        ("a & b", "a & b", false),
    ] {
        let rendered = render(command, &BTreeMap::new());
        assert_eq!(
            (rendered.text.as_str(), rendered.detached),
            (text, detached),
            "{command}"
        );
    }
}

proptest! {
    /// Whatever a value holds, only characters without a meaning to a shell get into the text.
    #[test]
    fn no_value_gets_into_the_text_unless_it_is_plain(value in ".{0,12}", before in "[ a'\"`$(\\\\#{]{0,6}") {
        let variables = BTreeMap::from([("ORC_FAILURE_CLUSTER_ALIAS", value.clone())]);
        let command = format!("{before} {{failureClusterAlias}}");
        let with_value = render(&command, &variables).text;
        let plain = !value.is_empty()
            && value.chars().all(|c| c.is_ascii_alphanumeric() || "_.:,/@%+-".contains(c));
        if !plain {
            let none = BTreeMap::from([("ORC_FAILURE_CLUSTER_ALIAS", "\u{1}".to_owned())]);
            prop_assert_eq!(with_value, render(&command, &none).text);
        }
    }

    /// Without a known placeholder a command is left as it stands.
    #[test]
    fn commands_without_placeholders_are_left_alone(command in "[ a-c'\"`$(){}\\\\#;|]{0,24}") {
        prop_assert_eq!(render(&command, &BTreeMap::new()).text, command.trim());
    }
}
