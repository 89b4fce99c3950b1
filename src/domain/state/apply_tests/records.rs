use super::*;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::plan::Plan;

#[test]
fn a_merge_keeps_the_older_mint_the_higher_epoch_and_what_was_under_way() {
    let mut state = two_clusters();
    let token = claimed(
        &mut state,
        Claim {
            above: 9,
            ..claim("one", plan(2, 4, 5, &[4, 5, 6]))
        },
    );
    run(
        &mut state,
        2000,
        Command::Open {
            token,
            successor: key(5),
            position: mysql_set("4:1"),
            plan: Box::new(plan(2, 4, 5, &[4, 5, 6])),
            fencing_proof: None,
        },
    );
    // Since version 4 this merge waits for the end of the recovery.
    run_as(
        1,
        &mut state,
        3000,
        Command::DescribeCluster {
            id: cluster_id(1),
            instances: (1..=6).map(key).collect(),
            primary: None,
            process: None,
            alias: String::new(),
            absorbs: vec![cluster_id(2)],
            document: None,
            chosen: None,
        },
    );
    assert_eq!(state.clusters.keys().collect::<Vec<_>>(), [&cluster_id(1)]);
    let cluster = &state.clusters[&cluster_id(1)];
    assert_eq!((cluster.created_at, cluster.instances.len()), (WallTime(100), 6));
    assert!(cluster.epoch >= 10, "{}", cluster.epoch);
    assert_eq!(state.recoveries["one"].plan.cluster, cluster_id(1));
    assert_eq!(
        state
            .quarantines
            .iter()
            .map(|(key, quarantine)| (key.clone(), quarantine.cluster.clone()))
            .collect::<Vec<_>>(),
        [(quarantine_key(&cluster_id(1), &identity(4)), cluster_id(1))]
    );
    // And it can be taken over and ended there.
    let resume = Command::Resume {
        uid: "one".to_owned(),
        holder: 2,
        holder_name: "b".to_owned(),
        above: 0,
    };
    let Applied::Claimed { token } = run(&mut state, 4000, resume) else {
        panic!("not resumed")
    };
    assert_eq!(token.cluster, cluster_id(1));
    assert_eq!(run(&mut state, 5000, end(&token, Some(5))), Applied::Done);
}

#[test]
fn an_instance_belongs_to_one_cluster() {
    let mut state = two_clusters();
    run(
        &mut state,
        2000,
        Command::DescribeCluster {
            id: cluster_id(1),
            instances: [1, 2, 3, 6].map(key).into(),
            primary: None,
            process: None,
            alias: String::new(),
            absorbs: Vec::new(),
            document: None,
            chosen: None,
        },
    );
    assert_eq!(state.clusters[&cluster_id(2)].instances, [4, 5].map(key).into());
}

#[test]
fn a_primary_that_its_group_has_chosen_is_told_once_with_the_entry_that_records_it() {
    let mut state = two_clusters();
    let chosen = GroupChoice {
        finding: finding(1, 1),
        member_name: "a".to_owned(),
        hooks: vec![HookList::PostMasterFailover],
    };
    let describe = |chosen: Option<GroupChoice>| Command::DescribeCluster {
        id: cluster_id(1),
        instances: [1, 2, 3].map(key).into(),
        primary: Some((key(2), identity(2))),
        process: None,
        alias: String::new(),
        absorbs: Vec::new(),
        document: None,
        chosen: chosen.map(Box::new),
    };
    for _ in 0..2 {
        run(&mut state, 2000, describe(Some(chosen.clone())));
    }
    let told: Vec<_> = state.detections.values().collect();
    let [detection] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(detection.successor, Some(key(2)));
    assert_eq!(detection.cluster_name, key(1).to_string(), "the name it had");
    assert_eq!(detection.hooks.next_in_order(), Some(HookList::PostMasterFailover));
    // While a recovery has the cluster, its own entries say who the primary is.
    claimed(&mut state, claim("one", plan(1, 2, 3, &[1, 2, 3])));
    let back = Command::DescribeCluster {
        id: cluster_id(1),
        instances: [1, 2, 3].map(key).into(),
        primary: Some((key(1), identity(1))),
        process: None,
        alias: String::new(),
        absorbs: Vec::new(),
        document: None,
        chosen: Some(Box::new(chosen)),
    };
    run(&mut state, 3000, back);
    assert_eq!(
        state.clusters[&cluster_id(1)].primary.as_ref().unwrap().instance,
        key(2)
    );
    let with_successor = state
        .detections
        .values()
        .filter(|detection| detection.successor.is_some());
    assert_eq!(with_successor.count(), 1);
}

#[test]
fn intents_of_several_origins_stand_side_by_side_and_each_ends_its_own() {
    let mut state = State::default();
    let cr = Origin::Document {
        namespace: "db".to_owned(),
        name: "shop".to_owned(),
    };
    let id = |origin: &Origin| IntentId {
        kind: IntentKind::Downtime,
        instance: key(1),
        origin: origin.clone(),
    };
    for origin in [&Origin::Api, &cr] {
        run(
            &mut state,
            1000,
            Command::SetIntent {
                intent: downtime(1, origin.clone(), None),
            },
        );
    }
    assert_eq!(state.intents.len(), 2);
    assert_eq!(
        run(&mut state, 1000, Command::EndIntent { id: id(&Origin::Api) }),
        Applied::Done
    );
    let why = refused(run(&mut state, 1000, Command::EndIntent { id: id(&Origin::Api) }));
    assert_eq!(why, RefusedCommand::OwnedBy(cr.clone()));
    assert_eq!(run(&mut state, 1000, Command::EndIntent { id: id(&cr) }), Applied::Done);
    // What nobody asked for is ended already.
    assert_eq!(run(&mut state, 1000, Command::EndIntent { id: id(&cr) }), Applied::Done);
}

#[test]
fn a_withdrawn_document_takes_its_intents_and_nobody_elses_along() {
    let mut state = two_clusters();
    let (shop, other) = (document("shop"), document("other"));
    for document in [&shop, &other] {
        run(
            &mut state,
            1000,
            Command::PutDocument {
                document: Box::new(document.clone()),
            },
        );
        run(
            &mut state,
            1000,
            Command::SetIntent {
                intent: downtime(1, document.origin.clone(), None),
            },
        );
    }
    run(
        &mut state,
        1000,
        Command::SetIntent {
            intent: downtime(1, Origin::Api, None),
        },
    );
    state.clusters.get_mut(&cluster_id(1)).unwrap().document = Some(shop.origin.clone());
    let clusters = state.clusters.len();
    run(
        &mut state,
        1000,
        Command::WithdrawDocument {
            origin: shop.origin.clone(),
        },
    );
    assert_eq!(state.documents.keys().collect::<Vec<_>>(), [&other.origin]);
    let origins: BTreeSet<&Origin> = state.intents.values().map(|intent| &intent.origin).collect();
    assert_eq!(origins, BTreeSet::from([&Origin::Api, &other.origin]));
    assert_eq!(
        (state.clusters.len(), state.clusters[&cluster_id(1)].document.as_ref()),
        (clusters, None)
    );
}

#[test]
fn a_forgotten_address_leaves_seeds_and_cluster_until_its_time_is_over() {
    let mut state = two_clusters();
    run(
        &mut state,
        1000,
        Command::Discover {
            seed: Seed {
                instance: key(3),
                origin: Origin::Api,
            },
        },
    );
    run(
        &mut state,
        1000,
        Command::Forget {
            instance: key(3),
            until: WallTime(5000),
        },
    );
    assert!(state.seeds.is_empty());
    assert_eq!(state.clusters[&cluster_id(1)].instances, [1, 2].map(key).into());
    assert_eq!(state.forgotten.get(&key(3)), Some(&WallTime(5000)));
    run(&mut state, 4999, Command::SetGlobalRecoveries { enabled: true });
    assert!(state.forgotten.contains_key(&key(3)));
    run(&mut state, 5000, Command::SetGlobalRecoveries { enabled: true });
    assert!(state.forgotten.is_empty());
    // Whoever asks for it again gets it before.
    run(
        &mut state,
        6000,
        Command::Forget {
            instance: key(3),
            until: WallTime(9000),
        },
    );
    run(
        &mut state,
        6000,
        Command::Discover {
            seed: Seed {
                instance: key(3),
                origin: Origin::Api,
            },
        },
    );
    assert!(state.forgotten.is_empty() && state.seeds.len() == 1);
}

#[test]
fn a_cluster_of_which_everything_is_forgotten_ends() {
    let mut state = two_clusters();
    for n in 1..=3 {
        run(
            &mut state,
            1000,
            Command::Forget {
                instance: key(n),
                until: WallTime(5000),
            },
        );
    }
    assert_eq!(state.clusters.keys().collect::<Vec<_>>(), [&cluster_id(2)]);
}

#[test]
fn the_clock_is_the_maximum_of_all_times() {
    let mut state = State::default();
    for (at, clock) in [(500, 500), (300, 500), (700, 700), (-5, 700)] {
        run(&mut state, at, Command::SetGlobalRecoveries { enabled: true });
        assert_eq!(state.clock, WallTime(clock));
    }
}

#[test]
fn a_command_of_a_newer_version_changes_nothing_at_all() {
    let mut state = two_clusters();
    let before = state.clone();
    let command = Command::SetGlobalRecoveries { enabled: false };
    let (applied, changes) = apply(
        &mut state,
        &Proposal {
            version: COMMAND_VERSION + 1,
            at: WallTime(i64::MAX),
            command,
        },
    );
    assert_eq!(refused(applied), RefusedCommand::TooNew(COMMAND_VERSION + 1));
    assert_eq!((state, changes.len()), (before, 0));
}

#[test]
fn a_group_is_named_once() {
    let mut state = State::default();
    let group = |uuid: &str| Group {
        uuid: uuid.to_owned(),
        history: "h".to_owned(),
    };
    assert_eq!(
        run(&mut state, 1, Command::FoundGroup { group: group("a") }),
        Applied::Done
    );
    assert_eq!(
        run(&mut state, 1, Command::FoundGroup { group: group("a") }),
        Applied::Done
    );
    assert_eq!(
        refused(run(&mut state, 1, Command::FoundGroup { group: group("b") })),
        RefusedCommand::OtherGroup("a".to_owned())
    );
}

#[test]
fn member_numbers_are_never_given_twice() {
    let mut state = State::default();
    let mut given = BTreeSet::new();
    for above in [3, 0, 2, 50, 0] {
        let Applied::Number { number } = run(
            &mut state,
            1,
            Command::AllocateMember {
                name: "m".to_owned(),
                above,
            },
        ) else {
            panic!()
        };
        assert!(number > above && given.insert(number), "{number} above {above}");
    }
}

#[test]
fn an_acknowledgement_counts_what_it_is_the_first_for() {
    let mut state = two_clusters();
    claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2])));
    let word = |by: &str| Acknowledgement {
        at: WallTime(7),
        by: by.to_owned(),
        comment: "seen".to_owned(),
    };
    let acknowledge = |by| Command::Acknowledge {
        uids: vec!["one".to_owned(), "none".to_owned()],
        acknowledgement: word(by),
    };
    assert_eq!(run(&mut state, 1, acknowledge("ann")), Applied::Number { number: 1 });
    assert_eq!(run(&mut state, 1, acknowledge("bob")), Applied::Number { number: 0 });
    assert_eq!(state.recoveries["one"].acknowledged, Some(word("ann")));
}

#[test]
fn lists_are_bounded_and_what_runs_is_never_dropped() {
    let mut state = two_clusters();
    let running = claimed(&mut state, claim("running", plan(2, 4, 5, &[4, 5])));
    for round in 0..MAX_RECOVERIES + 5 {
        let token = claimed(&mut state, claim(&format!("r{round}"), plan(1, 1, 2, &[1, 2])));
        run(&mut state, 1, end(&token, None));
        run(
            &mut state,
            1,
            Command::RecordDetection {
                finding: Box::new(finding(1, 1)),
                member_name: "m".to_owned(),
                held_back: None,
                hooks: Vec::new(),
            },
        );
    }
    assert_eq!(state.recoveries.len(), MAX_RECOVERIES);
    assert!(state.recoveries.contains_key("running"));
    assert!(!state.recoveries.contains_key("r0"));
    assert!(state.detections.len() <= MAX_DETECTIONS);
    let newest: Vec<&Detection> = state.detections.values().collect();
    assert!(newest.windows(2).all(|pair| pair[0].id < pair[1].id));
    let lines: Vec<StepRecord> = (0..MAX_STEPS + 50)
        .map(|n| StepRecord {
            id: 0,
            at: WallTime(1),
            message: n.to_string(),
        })
        .collect();
    run(&mut state, 1, Command::Record { token: running, lines });
    assert_eq!(state.recoveries["running"].steps.len(), MAX_STEPS);
    assert_eq!(state.recoveries["running"].steps[0].message, "0");
}

#[test]
fn judging_and_releasing_want_a_quarantine() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    run(&mut state, 2000, open(&token, 2));
    let held = quarantine_key(&cluster_id(1), &identity(1));
    let judge = |quarantine: &str| Command::SetQuarantineStanding {
        quarantine: quarantine.to_owned(),
        instance: key(9),
        standing: QuarantineState::Contained,
    };
    let release = |quarantine: &str| Command::Release {
        quarantine: quarantine.to_owned(),
        reason: String::new(),
    };
    assert_eq!(run(&mut state, 1, judge(&held)), Applied::Done);
    assert_eq!(
        (&state.quarantines[&held].instance, &state.quarantines[&held].standing),
        (&key(9), &QuarantineState::Contained)
    );
    assert_eq!(run(&mut state, 1, release(&held)), Applied::Done);
    assert_eq!(
        refused(run(&mut state, 1, judge(&held))),
        RefusedCommand::Unknown(held.clone())
    );
    assert_eq!(
        refused(run(&mut state, 1, release(&held))),
        RefusedCommand::Unknown(held)
    );
}

#[test]
fn an_expired_wish_of_the_api_is_dropped_and_a_documents_stays_until_it_is_withdrawn() {
    let mut state = State::default();
    let cr = document("shop").origin;
    for origin in [Origin::Api, cr.clone()] {
        run(
            &mut state,
            1000,
            Command::SetIntent {
                intent: downtime(1, origin, Some(2000)),
            },
        );
    }
    run(&mut state, 2000, Command::SetGlobalRecoveries { enabled: true });
    assert_eq!(
        state.intents.values().map(|intent| &intent.origin).collect::<Vec<_>>(),
        [&cr]
    );
}

#[test]
fn small_records_are_kept() {
    let mut state = State::default();
    let member = MemberRecord {
        id: 3,
        name: "c".to_owned(),
        understands: 1,
        data_center: "west".to_owned(),
    };
    run(&mut state, 1, Command::AnnounceMember { member: member.clone() });
    let blocked = Blocked {
        instance: key(1),
        cluster_name: "x".to_owned(),
        analysis: "DeadMaster".to_owned(),
        at: WallTime(3),
        blocking_recovery: 7,
        reason: String::new(),
    };
    run(
        &mut state,
        1,
        Command::Block {
            blocked: blocked.clone(),
        },
    );
    run(&mut state, 1, Command::SetGlobalRecoveries { enabled: false });
    assert_eq!(
        (&state.members[&3], &state.blocked[&key(1)], state.recoveries_disabled),
        (&member, &blocked, true)
    );
}

#[test]
fn a_forced_quorum_leaps_over_what_was_given_out_unseen_and_waits_for_a_person() {
    let mut state = two_clusters();
    let (number, epoch) = (state.last_number, state.clusters[&cluster_id(1)].epoch);
    let forced = Command::ForceQuorum {
        survivor: 1,
        survivor_name: "a".to_owned(),
        lost: vec!["b".to_owned(), "c".to_owned()],
    };
    run(&mut state, 700, forced);
    assert_eq!(state.last_number, number + 1000);
    assert_eq!(state.clusters[&cluster_id(1)].epoch, epoch + 1000);
    assert!(state.recoveries_disabled);
    assert_eq!(state.quorum_forced, Some(WallTime(700)));
    run(&mut state, 701, Command::SetGlobalRecoveries { enabled: false });
    assert_eq!(
        state.quorum_forced,
        Some(WallTime(700)),
        "nobody has said that all is well"
    );
    run(&mut state, 702, Command::SetGlobalRecoveries { enabled: true });
    assert_eq!((state.recoveries_disabled, state.quorum_forced), (false, None));
}

#[test]
fn a_clock_that_jumped_ahead_in_old_state_heals() {
    const HOURS_3: i64 = 3 * 3_600_000;
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("r1", plan(1, 1, 2, &[1, 2, 3])));
    // A leader whose clock is three hours ahead ends the recovery and begins a downtime of ten minutes.
    let ahead = 2000 + HOURS_3;
    let end = Command::End {
        token,
        ending: Box::new(super::super::Ending {
            successful: false,
            successor: None,
            quarantine: None,
            lost_replicas: Vec::new(),
            lost: None,
            errors: Vec::new(),
            lines: Vec::new(),
            hooks: Vec::new(),
            owes_opening: false,
        }),
    };
    assert_eq!(run(&mut state, ahead, end), Applied::Done);
    let mut ten_minutes = downtime(3, Origin::Api, Some(ahead + 600_000));
    if let crate::domain::intent::IntentDetails::Downtime { since, .. } = &mut ten_minutes.details {
        *since = WallTime(ahead);
    }
    let set = Command::SetIntent {
        intent: ten_minutes.clone(),
    };
    assert_eq!(run(&mut state, ahead, set), Applied::Done);
    // Without the correction the state stays three hours ahead.
    run(&mut state, 3000, Command::SetGlobalRecoveries { enabled: true });
    assert_eq!(state.clock, WallTime(ahead));

    let correct = Command::CorrectClock { ahead_millis: 0 };
    assert_eq!(correct.since(), 4);
    assert_eq!(run(&mut state, 3000, correct), Applied::Done);
    assert_eq!(state.clock, WallTime(3000));
    assert_eq!(
        state.recoveries["r1"].ended(),
        Some(WallTime(3000)),
        "a block begins now, not in three hours"
    );
    assert_eq!(
        state.recoveries["r1"].started,
        WallTime(1000),
        "what was recorded rightly stays"
    );
    run(
        &mut state,
        3000 + 599_999,
        Command::SetGlobalRecoveries { enabled: true },
    );
    assert!(
        state.intents.contains_key(&ten_minutes.id()),
        "the downtime keeps its length"
    );
    run(
        &mut state,
        3000 + 600_000,
        Command::SetGlobalRecoveries { enabled: true },
    );
    assert!(!state.intents.contains_key(&ten_minutes.id()));
    let kinds: Vec<&str> = state.audit.values().map(|entry| entry.kind.as_str()).collect();
    assert!(kinds.contains(&"correct-clock"), "{kinds:?}");
}

fn merge_of_two() -> Command {
    Command::DescribeCluster {
        id: cluster_id(1),
        instances: (1..=6).map(key).collect(),
        primary: None,
        process: None,
        alias: String::new(),
        absorbs: vec![cluster_id(2)],
        document: None,
        chosen: None,
    }
}

#[test]
fn no_cluster_absorbs_another_while_a_recovery_of_either_runs() {
    for (cluster, old_primary) in [(1, 1), (2, 4)] {
        let mut state = two_clusters();
        let plan = plan(cluster, old_primary, old_primary + 1, &[old_primary, old_primary + 1]);
        let token = claimed(&mut state, claim("one", plan));
        let by_request = Command::MergeClusters {
            into: cluster_id(1),
            from: cluster_id(2),
            primary: None,
            reason: "why".to_owned(),
        };
        assert_eq!(merge_of_two().since(), 4);
        for merge in [merge_of_two(), by_request] {
            let why = refused(run(&mut state, 2000, merge));
            let uid = "one".to_owned();
            assert_eq!(
                why,
                RefusedCommand::Locked {
                    instance: key(old_primary),
                    uid
                }
            );
            assert_eq!(state.clusters.len(), 2);
        }
        run(&mut state, 3000, end(&token, None));
        assert_eq!(run(&mut state, 4000, merge_of_two()), Applied::Done);
        assert_eq!(state.clusters.len(), 1);
    }
}

#[test]
fn an_opened_recovery_stays_in_the_cluster_that_a_concurrent_merge_gave_it() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(2, 4, 5, &[4, 5, 6])));
    // A leader of an earlier version merged meanwhile.
    assert_eq!(run_as(1, &mut state, 2000, merge_of_two()), Applied::Done);
    let opened = run(
        &mut state,
        3000,
        Command::Open {
            token: token.clone(),
            successor: key(5),
            position: mysql_set("4:1"),
            plan: Box::new(plan(2, 4, 5, &[4, 5, 6])),
            fencing_proof: None,
        },
    );
    assert_eq!(opened, Applied::Done);
    assert_eq!(state.recoveries["one"].plan.cluster, cluster_id(1));
    let key_of_old = quarantine_key(&cluster_id(1), &identity(4));
    assert_eq!(state.quarantines.keys().collect::<Vec<_>>(), [&key_of_old]);
    assert_eq!(run(&mut state, 4000, end(&token, Some(5))), Applied::Done);
    assert_eq!(
        state.clusters[&cluster_id(1)].primary.as_ref().unwrap().instance,
        key(5)
    );
    assert!(state.quarantines.contains_key(&key_of_old));
    assert!(state.quarantines.values().all(|held| held.cluster == cluster_id(1)));
}

#[test]
fn a_split_leaves_recoveries_and_quarantines_with_the_older_cluster() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("one", plan(1, 1, 2, &[1, 2, 3])));
    let split = |head: u32, servers: &[u32]| Command::SplitCluster {
        from: cluster_id(1),
        id: cluster_id(9),
        head: key(head),
        primary: Some(identity(head)),
        process: None,
        instances: servers.iter().copied().map(key).collect(),
        alias: String::new(),
        document: None,
        reason: "why".to_owned(),
    };
    let why = refused(run(&mut state, 2000, split(3, &[3])));
    assert!(matches!(why, RefusedCommand::Locked { .. }), "{why}");
    assert_eq!(run(&mut state, 3000, end(&token, None)), Applied::Done);
    // The recorded primary, the whole cluster, and a head of nothing.
    for (head, servers) in [(1, vec![1, 2]), (3, vec![1, 2, 3]), (4, vec![4])] {
        let why = refused(run(&mut state, 4000, split(head, &servers)));
        assert!(matches!(why, RefusedCommand::OutOfOrder(_)), "{why}");
    }
    let before = state.clusters[&cluster_id(1)].clone();
    // Server 4 is recorded in another cluster and stays there.
    assert_eq!(run(&mut state, 5000, split(3, &[3, 4])), Applied::Done);
    let new = &state.clusters[&cluster_id(9)];
    assert_eq!(new.instances, [key(3)].into());
    assert_eq!((new.epoch, new.created_at), (before.epoch, WallTime(5000)));
    let old = &state.clusters[&cluster_id(1)];
    assert_eq!((old.created_at, &old.primary), (before.created_at, &before.primary));
    assert_eq!(state.recoveries["one"].plan.cluster, cluster_id(1));
    assert!(state.quarantines.values().all(|held| held.cluster == cluster_id(1)));
    let kinds: Vec<&str> = state.audit.values().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "split-cluster").count(), 1);
}

/// A failover of the first cluster, and then so many failed repairs in the second one, all by entries of this version.
fn after_failed_repairs(version: u32, repairs: usize) -> State {
    let mut state = two_clusters();
    state.version = version;
    let claimed = |state: &mut State, uid: &str, plan: Plan| {
        let claim = Box::new(claim(uid, plan));
        let applied = run_as(version, state, 1000, Command::Claim { claim });
        let Applied::Claimed { token } = applied else {
            panic!("{applied}")
        };
        token
    };
    let token = claimed(&mut state, "failover", plan(1, 1, 2, &[1, 2, 3]));
    assert_eq!(run_as(version, &mut state, 1000, open(&token, 2)), Applied::Done);
    assert_eq!(run_as(version, &mut state, 1000, end(&token, Some(2))), Applied::Done);
    for round in 0..repairs {
        let repair = Plan {
            kind: RecoveryKind::IntermediatePrimary,
            ..plan(2, 5, 4, &[5, 6])
        };
        let token = claimed(&mut state, &format!("r{round}"), repair);
        assert_eq!(run_as(version, &mut state, 1000, end(&token, None)), Applied::Done);
    }
    state
}

#[test]
fn failed_repairs_never_push_the_replacement_of_a_primary_out_of_the_records() {
    let repairs = MAX_RECOVERIES + 20;
    let state = after_failed_repairs(COMMAND_VERSION, repairs);
    assert_eq!(state.recoveries.len(), MAX_RECOVERIES);
    assert!(state.recoveries.contains_key("failover"));
    let last = &state.recoveries[&format!("r{}", repairs - 1)];
    assert_eq!(
        usize::try_from(last.failed_before).unwrap(),
        repairs - 1,
        "what was dropped is still counted"
    );
    assert!(!state.recoveries.contains_key("r0"));
}

#[test]
fn while_a_member_may_be_older_every_member_drops_the_oldest_record() {
    let state = after_failed_repairs(3, MAX_RECOVERIES + 20);
    assert_eq!(state.recoveries.len(), MAX_RECOVERIES);
    assert!(!state.recoveries.contains_key("failover"));
    assert!(state.recoveries.values().all(|recovery| recovery.failed_before == 0));
}

#[test]
fn of_other_records_the_oldest_is_dropped_and_an_acknowledged_replacement_is_one_of_them() {
    let mut state = after_failed_repairs(COMMAND_VERSION, 1);
    let acknowledgement = Acknowledgement {
        at: WallTime(1000),
        by: "ann".to_owned(),
        comment: "seen".to_owned(),
    };
    let uids = vec!["failover".to_owned()];
    run(&mut state, 1000, Command::Acknowledge { uids, acknowledgement });
    for round in 0..MAX_RECOVERIES {
        let moves = Plan {
            kind: RecoveryKind::IntermediatePrimary,
            ..plan(2, 6, 4, &[5, 6])
        };
        let token = claimed(&mut state, claim(&format!("s{round}"), moves));
        let ending = Box::new(Ending {
            successful: true,
            ..ending(None)
        });
        assert_eq!(run(&mut state, 1000, Command::End { token, ending }), Applied::Done);
    }
    for dropped in ["failover", "r0"] {
        assert!(!state.recoveries.contains_key(dropped), "{dropped}");
    }
    assert!(state.recoveries.contains_key("s0"));
}
