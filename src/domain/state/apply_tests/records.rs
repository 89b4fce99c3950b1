use super::*;

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
    run(
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
    assert_eq!(detection.hooks.next_due(), Some(HookList::PostMasterFailover));
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
