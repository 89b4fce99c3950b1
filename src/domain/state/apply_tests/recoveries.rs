use std::collections::BTreeMap;

use super::*;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::replica_state::PriorReplicaState;
use crate::domain::recovery::step::Step;

#[test]
fn a_claim_excludes_others_on_its_instances_and_in_its_cluster() {
    let mut state = two_clusters();
    claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    let why = refused(run(
        &mut state,
        2000,
        Command::Claim {
            claim: Box::new(claim("two", plan(1, 1, 3, &[3]))),
        },
    ));
    assert_eq!(
        why,
        RefusedCommand::Locked {
            instance: key(1),
            uid: "one".to_owned()
        }
    );
    let why = refused(run(
        &mut state,
        2000,
        Command::Claim {
            claim: Box::new(claim("three", plan(2, 4, 5, &[2, 4, 5]))),
        },
    ));
    assert_eq!(
        why,
        RefusedCommand::Locked {
            instance: key(2),
            uid: "one".to_owned()
        }
    );
    // Another cluster is another matter.
    claimed(&mut state, claim("four", plan(2, 4, 5, &[4, 5])));
    assert_eq!(state.recoveries.len(), 2);
}

#[test]
fn an_ended_recovery_locks_nothing() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    assert_eq!(run(&mut state, 2000, end(&token, None)), Applied::Done);
    claimed(&mut state, claim("two", plan(1, 1, 2, &[1, 2])));
}

#[test]
fn one_uid_is_claimed_once() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    run(&mut state, 2000, end(&token, None));
    let why = refused(run(
        &mut state,
        3000,
        Command::Claim {
            claim: Box::new(claim("one", plan(1, 1, 2, &[1, 2]))),
        },
    ));
    assert_eq!(why, RefusedCommand::StaleClaim("one".to_owned()));
}

#[test]
fn only_the_recorded_primary_is_replaced() {
    let mut state = two_clusters();
    let why = refused(run(
        &mut state,
        2000,
        Command::Claim {
            claim: Box::new(claim("one", plan(1, 3, 2, &[2, 3]))),
        },
    ));
    assert_eq!(why, RefusedCommand::NotPrimary(key(3)));
    let why = refused(run(
        &mut state,
        2000,
        Command::Claim {
            claim: Box::new(claim("two", plan(7, 3, 2, &[2, 3]))),
        },
    ));
    assert!(matches!(why, RefusedCommand::Unknown(_)), "{why}");
    assert!(state.recoveries.is_empty());
}

#[test]
fn every_claim_and_every_resume_raises_the_epoch_above_what_was_found() {
    let mut state = two_clusters();
    let token = claimed(
        &mut state,
        Claim {
            above: 41,
            ..claim("one", plan(1, 1, 2, &[1, 2]))
        },
    );
    assert_eq!(token.epoch, 42);
    let resume = |above| Command::Resume {
        uid: "one".to_owned(),
        holder: 2,
        holder_name: "b".to_owned(),
        above,
    };
    let Applied::Claimed { token: second } = run(&mut state, 2000, resume(0)) else {
        panic!("not resumed")
    };
    assert_eq!((second.epoch, second.holder), (43, 2));
    let Applied::Claimed { token: third } = run(&mut state, 2000, resume(99)) else {
        panic!("not resumed")
    };
    assert_eq!(third.epoch, 100);
    assert_eq!(
        (state.clusters[&cluster_id(1)].epoch, state.recoveries["one"].epoch),
        (100, 100)
    );
    // The next claim of the cluster stays above.
    run(&mut state, 3000, end(&third, None));
    assert_eq!(claimed(&mut state, claim("two", plan(1, 1, 2, &[1, 2]))).epoch, 101);
}

#[test]
fn a_resumed_recoverys_old_token_is_dead_for_every_entry() {
    let mut state = two_clusters();
    let old = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    run(
        &mut state,
        2000,
        Command::Resume {
            uid: "one".to_owned(),
            holder: 2,
            holder_name: "b".to_owned(),
            above: 0,
        },
    );
    let before = state.clone();
    let other_holder = ClaimToken {
        epoch: 2,
        ..old.clone()
    };
    for token in [&old, &other_holder] {
        for command in [
            open(token, 2),
            end(token, Some(2)),
            Command::Record {
                token: token.clone(),
                lines: ending(None).lines,
            },
        ] {
            let name = command.name();
            let why = refused(run(&mut state, 2000, command));
            assert_eq!(why, RefusedCommand::StaleClaim("one".to_owned()), "{name}");
        }
    }
    assert_eq!(state, before);
}

#[test]
fn what_is_over_is_neither_resumed_nor_ended_again() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    run(&mut state, 2000, open(&token, 2));
    run(&mut state, 2000, end(&token, Some(2)));
    let resume = Command::Resume {
        uid: "one".to_owned(),
        holder: 2,
        holder_name: "b".to_owned(),
        above: 0,
    };
    for command in [resume, end(&token, None), open(&token, 3)] {
        assert_eq!(
            refused(run(&mut state, 3000, command)),
            RefusedCommand::StaleClaim("one".to_owned())
        );
    }
    assert_eq!(state.recoveries["one"].successor(), Some(&key(2)));
}

#[test]
fn the_old_primary_is_in_quarantine_before_the_new_one_is_opened() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    assert!(state.quarantines.is_empty());
    assert_eq!(run(&mut state, 2000, open(&token, 3)), Applied::Done);
    let quarantine = &state.quarantines[&quarantine_key(&cluster_id(1), &identity(1))];
    assert_eq!(
        (&quarantine.instance, quarantine.epoch, quarantine.recovery.as_str()),
        (&key(1), token.epoch, "one")
    );
    assert_eq!(quarantine.standing, QuarantineState::Absent);
    assert_eq!(state.recoveries["one"].successor(), Some(&key(3)));
    assert_eq!(state.recoveries["one"].plan.successor, key(3));
    // Not the primary yet: it may still fail.
    assert_eq!(
        state.clusters[&cluster_id(1)].primary.as_ref().unwrap().instance,
        key(1)
    );
}

#[test]
fn the_end_makes_the_successor_the_recorded_primary() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    run(&mut state, 2000, open(&token, 2));
    run(&mut state, 3000, end(&token, Some(2)));
    let cluster = &state.clusters[&cluster_id(1)];
    let primary = cluster.primary.as_ref().unwrap();
    assert_eq!(
        (&primary.instance, &primary.identity, primary.epoch, primary.since),
        (&key(2), &identity(2), token.epoch, WallTime(3000))
    );
    assert_eq!(cluster.name, key(2).to_string());
    let recovery = &state.recoveries["one"];
    assert!(recovery.is_successful() && !recovery.is_active());
    assert_eq!(recovery.ended(), Some(WallTime(3000)));
    assert_eq!(
        recovery
            .steps
            .iter()
            .map(|step| step.message.as_str())
            .collect::<Vec<_>>(),
        ["over"]
    );
    assert!(recovery.steps[0].id > recovery.id);
}

#[test]
fn an_end_without_a_successor_changes_no_primary_and_quarantines_nobody() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    run(&mut state, 2000, end(&token, None));
    assert_eq!(
        state.clusters[&cluster_id(1)].primary.as_ref().unwrap().instance,
        key(1)
    );
    assert!(state.quarantines.is_empty());
}

#[test]
fn a_quarantined_server_that_is_promoted_leaves_quarantine() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    run(&mut state, 2000, open(&token, 2));
    run(&mut state, 3000, end(&token, Some(2)));
    let back = claimed(&mut state, claim("two", plan(1, 2, 1, &[1, 2, 3])));
    let mut again = plan(1, 2, 1, &[1, 2, 3]);
    again.old_primary_identity = Some(identity(2));
    run(
        &mut state,
        4000,
        Command::Open {
            token: back,
            successor: key(1),
            position: mysql_set("1:1-9"),
            plan: Box::new(again),
            fencing_proof: None,
        },
    );
    let held: Vec<_> = state
        .quarantines
        .values()
        .map(|quarantine| quarantine.instance.clone())
        .collect();
    assert_eq!(held, [key(2)]);
}

#[test]
fn while_a_recovery_runs_a_description_does_not_say_who_the_primary_is() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    let describe = || Command::DescribeCluster {
        id: cluster_id(1),
        instances: (1..=3).map(key).collect(),
        primary: Some((key(3), identity(3))),
        process: None,
        alias: "shop".to_owned(),
        absorbs: Vec::new(),
        document: None,
        chosen: None,
    };
    run(&mut state, 2000, describe());
    assert_eq!(
        state.clusters[&cluster_id(1)].primary.as_ref().unwrap().instance,
        key(1)
    );
    run(&mut state, 3000, end(&token, None));
    run(&mut state, 4000, describe());
    assert_eq!(
        state.clusters[&cluster_id(1)].primary.as_ref().unwrap().instance,
        key(3)
    );
    assert_eq!(state.clusters[&cluster_id(1)].alias, "shop");
}

fn kind(kind: RecoveryKind, plan: Plan) -> Plan {
    Plan { kind, ..plan }
}

#[test]
fn a_lesser_repair_gives_way_to_a_replacement_of_the_primary_and_to_nothing_else() {
    for lesser in [
        RecoveryKind::IntermediatePrimary,
        RecoveryKind::GroupMember,
        RecoveryKind::Rejoin,
    ] {
        let mut state = two_clusters();
        let moves = Plan {
            steps: vec![Step::Repoint {
                successor: key(1),
                replicas: [key(2), key(3)].into(),
            }],
            prior_states: BTreeMap::from([(
                key(2),
                PriorReplicaState {
                    stopped: true,
                    ..PriorReplicaState::default()
                },
            )]),
            ..kind(lesser, plan(1, 3, 1, &[2, 3]))
        };
        let token = claimed(&mut state, claim("lesser", moves));
        let also_lesser = kind(RecoveryKind::IntermediatePrimary, plan(1, 2, 1, &[2]));
        for locked in [also_lesser, plan(2, 4, 5, &[3, 4, 5])] {
            let why = refused(run(
                &mut state,
                2000,
                Command::Claim {
                    claim: Box::new(claim("other", locked)),
                },
            ));
            assert!(matches!(why, RefusedCommand::Locked { .. }), "{lesser:?}: {why}");
        }
        // Refused for a reason of its own, a claim ends nobody.
        refused(run(
            &mut state,
            2000,
            Command::Claim {
                claim: Box::new(claim("wrong", plan(1, 2, 3, &[2, 3]))),
            },
        ));
        assert!(state.recoveries["lesser"].is_active(), "{lesser:?}");
        let failover = claimed(&mut state, claim("failover", plan(1, 1, 2, &[1, 2, 3])));
        let ended = &state.recoveries["lesser"];
        assert!(!ended.is_active() && !ended.is_successful(), "{lesser:?}");
        assert!(
            ended.errors[0].contains("ended in favour of recovery failover"),
            "{:?}",
            ended.errors
        );
        let owed = &state.recoveries["failover"].owed;
        let wanted = if lesser == RecoveryKind::Rejoin {
            BTreeSet::new()
        } else {
            [key(3)].into()
        };
        assert_eq!(*owed, wanted, "{lesser:?}");
        assert_eq!(
            refused(run(&mut state, 3000, end(&token, None))),
            RefusedCommand::StaleClaim("lesser".to_owned())
        );
        assert!(failover.epoch > token.epoch);
        // The failover itself gives way to nobody.
        let why = refused(run(
            &mut state,
            3000,
            Command::Claim {
                claim: Box::new(claim("again", plan(1, 1, 2, &[1, 2, 3]))),
            },
        ));
        assert!(matches!(why, RefusedCommand::Locked { .. }), "{why}");
    }
}

#[test]
fn one_claim_opens_one_successor_and_ends_with_it() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    let out_of_order = |state: &mut State, command| {
        let why = refused(run(state, 2000, command));
        assert!(matches!(why, RefusedCommand::OutOfOrder(_)), "{why}");
    };
    out_of_order(&mut state, end(&token, Some(2)));
    assert_eq!(run(&mut state, 2000, open(&token, 2)), Applied::Done);
    let opened = state.recoveries["one"].clone();
    out_of_order(&mut state, open(&token, 3));
    assert_eq!(run(&mut state, 3000, open(&token, 2)), Applied::Done);
    assert_eq!(state.recoveries["one"], opened);
    out_of_order(&mut state, end(&token, Some(3)));
    out_of_order(&mut state, end(&token, None));
    assert_eq!(run(&mut state, 4000, end(&token, Some(2))), Applied::Done);
}

#[test]
fn a_repair_below_the_primary_opens_nobody_and_changes_no_primary() {
    let mut state = two_clusters();
    let moves = kind(RecoveryKind::IntermediatePrimary, plan(1, 2, 1, &[2, 3]));
    let token = claimed(&mut state, claim("one", moves));
    let why = refused(run(&mut state, 2000, open(&token, 2)));
    assert!(matches!(why, RefusedCommand::OutOfOrder(_)), "{why}");
    let mut ending = ending(Some(3));
    ending.quarantine = None;
    let ended = Command::End {
        token,
        ending: Box::new(ending),
    };
    assert_eq!(run(&mut state, 3000, ended), Applied::Done);
    assert_eq!(state.recoveries["one"].successor(), Some(&key(3)));
    let cluster = &state.clusters[&cluster_id(1)];
    assert_eq!(cluster.primary.as_ref().unwrap().instance, key(1));
    assert!(state.quarantines.is_empty());
}

#[test]
fn what_an_unfinished_recovery_needs_is_not_forgotten() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    let forget = |n| Command::Forget {
        instance: key(n),
        until: WallTime(9000),
    };
    for n in [1, 2] {
        let why = refused(run(&mut state, 2000, forget(n)));
        assert!(matches!(why, RefusedCommand::Locked { .. }), "{why}");
    }
    assert_eq!(run(&mut state, 2000, forget(3)), Applied::Done);
    run(&mut state, 2000, end(&token, None));
    assert_eq!(run(&mut state, 2000, forget(2)), Applied::Done);
}

#[test]
fn lists_are_bounded_and_the_oldest_goes_first() {
    let mut state = two_clusters();
    let address = |n: usize| crate::domain::key::InstanceKey::new(format!("host{n}"), 3306);
    for n in 0..=crate::domain::state::MAX_BLOCKED {
        state.blocked.insert(
            address(n),
            Blocked {
                instance: address(n),
                cluster_name: String::new(),
                analysis: String::new(),
                at: WallTime(i64::try_from(n).unwrap()),
                blocking_recovery: 1,
                reason: String::new(),
            },
        );
    }
    for n in 0..=crate::domain::state::MAX_FORGOTTEN + 1 {
        state
            .forgotten
            .insert(address(n), WallTime(10_000 + i64::try_from(n).unwrap()));
    }
    for n in 0..crate::domain::state::MAX_SEEDS {
        state.seeds.insert(Seed {
            instance: address(n),
            origin: Origin::Api,
        });
    }
    let discover = |n| Command::Discover {
        seed: Seed {
            instance: address(n),
            origin: Origin::Api,
        },
    };
    assert_eq!(run(&mut state, 2000, discover(1)), Applied::Done);
    let why = refused(run(&mut state, 2000, discover(crate::domain::state::MAX_SEEDS)));
    assert!(matches!(why, RefusedCommand::TooMany(_)), "{why}");
    assert!(state.blocked.len() <= crate::domain::state::MAX_BLOCKED && !state.blocked.contains_key(&address(0)));
    assert!(state.forgotten.len() <= crate::domain::state::MAX_FORGOTTEN && !state.forgotten.contains_key(&address(0)));
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    let mut ending = ending(None);
    ending.errors = vec!["no".to_owned(); crate::domain::state::MAX_ERRORS + 5];
    let ended = Command::End {
        token,
        ending: Box::new(ending),
    };
    assert_eq!(run(&mut state, 2000, ended), Applied::Done);
    assert_eq!(state.recoveries["one"].errors.len(), crate::domain::state::MAX_ERRORS);
}

#[test]
fn hooks_are_begun_by_the_holder_while_a_recovery_runs_and_by_anybody_afterwards() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("r1", plan(1, 1, 2, &[1, 2, 3])));
    let subject = |epoch| HookSubject::Recovery {
        uid: "r1".to_owned(),
        epoch,
    };
    let begin = |epoch, list| Command::HooksBegin {
        subject: subject(epoch),
        list,
    };
    let ran = |epoch, list, failure: Option<&str>| Command::HooksRan {
        subject: subject(epoch),
        run: HookRun {
            list,
            attempt: 2,
            at: WallTime(5),
            failure: failure.map(ToOwned::to_owned),
        },
        lines: vec![StepRecord {
            id: 0,
            at: WallTime(5),
            message: "asked".to_owned(),
        }],
    };
    let list = HookList::PreFailover;
    assert_eq!(
        run(&mut state, 1, begin(token.epoch, list)),
        Applied::Number { number: 1 }
    );
    // Another actor took over: the first one has no say any more.
    let resume = Command::Resume {
        uid: "r1".to_owned(),
        holder: 2,
        holder_name: "b".to_owned(),
        above: 0,
    };
    let Applied::Claimed { token: second } = run(&mut state, 1, resume) else {
        panic!("not resumed")
    };
    assert_eq!(
        refused(run(&mut state, 1, ran(token.epoch, list, None))),
        RefusedCommand::StaleClaim("r1".to_owned())
    );
    assert_eq!(
        run(&mut state, 1, begin(second.epoch, list)),
        Applied::Number { number: 2 }
    );
    assert_eq!(run(&mut state, 1, ran(second.epoch, list, None)), Applied::Done);
    assert_eq!(state.recoveries["r1"].hooks.due, []);
    assert_eq!(state.recoveries["r1"].steps.last().unwrap().message, "asked");
    // Written twice, it counts once.
    let before = state.recoveries.clone();
    assert_eq!(run(&mut state, 1, ran(second.epoch, list, Some("no"))), Applied::Done);
    assert_eq!(state.recoveries, before);
    refused(run(&mut state, 1, begin(second.epoch, list)));
    assert_eq!(run(&mut state, 1, open(&second, 2)), Applied::Done);
    // When it is over, whoever leads runs what is told afterwards, and a failure of that stands among the errors.
    let over = Command::End {
        token: second,
        ending: Box::new(Ending {
            hooks: vec![HookList::PostFailover],
            ..ending(Some(2))
        }),
    };
    assert_eq!(run(&mut state, 1, over), Applied::Done);
    let list = HookList::PostFailover;
    assert_eq!(run(&mut state, 1, begin(0, list)), Applied::Number { number: 1 });
    assert_eq!(run(&mut state, 1, ran(0, list, Some("it said no"))), Applied::Done);
    assert_eq!(state.recoveries["r1"].errors, ["it said no"]);
    assert!(state.recoveries["r1"].is_successful());
}

#[test]
fn hooks_of_a_detection_are_begun_and_ended() {
    let mut state = two_clusters();
    let list = HookList::OnFailureDetection;
    let detect = Command::RecordDetection {
        finding: Box::new(finding(1, 1)),
        member_name: "a".to_owned(),
        held_back: None,
        hooks: vec![list],
    };
    let Applied::Number { number: id } = run(&mut state, 1, detect) else {
        panic!("not detected")
    };
    let subject = HookSubject::Detection { id };
    let begin = Command::HooksBegin {
        subject: subject.clone(),
        list,
    };
    assert_eq!(run(&mut state, 1, begin.clone()), Applied::Number { number: 1 });
    let ran = Command::HooksRan {
        subject,
        run: HookRun {
            list,
            attempt: 1,
            at: WallTime(1),
            failure: None,
        },
        lines: Vec::new(),
    };
    assert_eq!(run(&mut state, 1, ran), Applied::Done);
    assert_eq!(state.detections[&id].hooks.runs.len(), 1);
    refused(run(&mut state, 1, begin));
    refused(run(
        &mut state,
        1,
        Command::HooksBegin {
            subject: HookSubject::Detection { id: 9999 },
            list,
        },
    ));
}
