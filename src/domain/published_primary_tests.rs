use super::*;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::record::RecordedPrimary;
use crate::domain::state::sample::{self, cluster_id, identity, key};
use crate::domain::state::{Claim, ClaimToken, Command, Group, Proposal, apply};
use crate::domain::time::WallTime;

fn cluster(n: u32, alias: &str, created: i64, primary: Option<u32>) -> Cluster {
    Cluster {
        id: cluster_id(n),
        created_at: WallTime(created),
        name: format!("db{n}:3306"),
        alias: alias.to_owned(),
        epoch: 3,
        instances: BTreeSet::from([key(n)]),
        primary: primary.map(|primary| RecordedPrimary {
            instance: key(primary),
            identity: identity(primary),
            since: WallTime(created),
            epoch: 2,
            opened_by: None,
            process: None,
        }),
        document: None,
        split_from: None,
    }
}

fn state_of(clusters: impl IntoIterator<Item = Cluster>) -> State {
    State {
        clusters: clusters
            .into_iter()
            .map(|cluster| (cluster.id.clone(), cluster))
            .collect(),
        group: Some(Group {
            uuid: "group".to_owned(),
            history: "h".to_owned(),
        }),
        clock: WallTime(1000),
        ..State::default()
    }
}

fn run(state: &mut State, command: Command) {
    let version = crate::domain::state::command::COMMAND_VERSION;
    let at = WallTime(state.clock.0 + 1);
    let proposal = Proposal { version, at, command };
    let (applied, _) = apply(state, &proposal);
    assert!(!format!("{applied:?}").contains("Refused"), "{applied:?}");
}

/// A state in which the primary of cluster 1 is being replaced by `db2`.
fn replacing(kind: RecoveryKind) -> (State, Claim) {
    let mut all = cluster(1, "shop", 1, Some(1));
    all.instances = [1, 2, 3].map(key).into();
    let mut state = state_of([all]);
    let mut plan = sample::plan(1, 1, 2, &[1, 2, 3]);
    plan.kind = kind;
    let claim = Claim {
        hooks: Vec::new(),
        ..sample::claim("r1", plan)
    };
    run(
        &mut state,
        Command::Claim {
            claim: Box::new(claim.clone()),
        },
    );
    (state, claim)
}

fn token(state: &State) -> ClaimToken {
    ClaimToken {
        uid: "r1".to_owned(),
        cluster: cluster_id(1),
        holder: 1,
        epoch: state.clusters[&cluster_id(1)].epoch,
    }
}

fn never(_: &InstanceKey, _: &Identity) -> bool {
    false
}

fn target_of(state: &State, is_seen_writable: bool) -> PublishedTarget {
    let all = published_primaries(state, |_, _| is_seen_writable);
    all.published[&cluster_id(1)].target.clone()
}

#[test]
fn the_recorded_primary_is_published_under_alias_or_name() {
    let state = state_of([cluster(1, "shop", 1, Some(1)), cluster(2, "", 2, Some(2))]);
    let all = published_primaries(&state, never);
    let names: Vec<_> = all
        .published
        .values()
        .map(|primary| (primary.name.as_str(), primary.epoch, primary.target.clone()))
        .collect();
    assert_eq!(
        names,
        [
            ("shop", 3, PublishedTarget::Primary(key(1))),
            ("db2:3306", 3, PublishedTarget::Primary(key(2)))
        ]
    );
    assert!(all.left_out.is_empty());
}

#[test]
fn of_two_clusters_with_one_name_the_older_is_published_even_without_a_primary() {
    for primary_of_the_older in [Some(1), None] {
        let older = cluster(1, "shop", 1, primary_of_the_older);
        let state = state_of([older, cluster(2, "shop", 2, Some(2))]);
        let all = published_primaries(&state, never);
        assert_eq!(
            all.published.contains_key(&cluster_id(1)),
            primary_of_the_older.is_some()
        );
        assert!(!all.published.contains_key(&cluster_id(2)));
        assert_eq!(
            all.left_out[&cluster_id(2)],
            NotPublished::NameTaken {
                name: "shop".to_owned(),
                by: cluster_id(1)
            }
        );
    }
}

#[test]
fn nothing_is_published_without_a_primary_or_a_usable_name() {
    let long = "x".repeat(129);
    for alias in ["a/b", "..", "a\nb", long.as_str()] {
        let all = published_primaries(&state_of([cluster(1, alias, 1, Some(1))]), never);
        assert!(all.published.is_empty(), "{alias}");
        assert!(matches!(all.left_out[&cluster_id(1)], NotPublished::UnusableName(_)));
    }
    let all = published_primaries(&state_of([cluster(1, "shop", 1, None)]), never);
    assert_eq!(all.left_out[&cluster_id(1)], NotPublished::NoPrimary);
}

#[test]
fn a_successor_is_published_once_it_was_opened_and_seen_writable() {
    let (mut state, claim) = replacing(RecoveryKind::DeadPrimary);
    assert_eq!(
        target_of(&state, true),
        PublishedTarget::Replacing(key(1)),
        "only claimed"
    );
    let token = token(&state);
    let open = Command::Open {
        token,
        successor: key(2),
        position: claim.plan.position.clone(),
        plan: Box::new(claim.plan),
        fencing_proof: None,
    };
    run(&mut state, open);
    assert_eq!(
        target_of(&state, false),
        PublishedTarget::Replacing(key(1)),
        "not seen writable"
    );
    assert_eq!(target_of(&state, true), PublishedTarget::Primary(key(2)));
    assert_eq!(opened_successors(&state).collect::<Vec<_>>(), [(&key(2), &identity(2))]);
}

#[test]
fn a_claim_raises_the_published_epoch() {
    let (state, _) = replacing(RecoveryKind::Takeover);
    let all = published_primaries(&state, never);
    assert!(all.published[&cluster_id(1)].epoch > 3);
}

#[test]
fn a_repair_that_keeps_the_primary_changes_nothing() {
    let (mut state, _) = replacing(RecoveryKind::DeadPrimary);
    for recovery in state.recoveries.values_mut() {
        recovery.plan.kind = RecoveryKind::SemiSync;
    }
    assert_eq!(target_of(&state, false), PublishedTarget::Primary(key(1)));
}

#[test]
fn the_pairs_are_those_of_orchestrator() {
    let prefix = KeyPrefix::new("mysql/master");
    let addresses: HostAddresses = ["10.0.0.9", "10.0.0.2", "fd00::1"]
        .map(|text| text.parse::<IpAddr>().unwrap())
        .into_iter()
        .collect();
    let all = pairs(&prefix, "shop", &InstanceKey::new("db1", 3306), Some(&addresses));
    let lines: Vec<String> = all.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        lines,
        [
            "mysql/master/shop=db1:3306",
            "mysql/master/shop/hostname=db1",
            "mysql/master/shop/ipv4=10.0.0.2",
            "mysql/master/shop/ipv6=fd00::1",
            "mysql/master/shop/port=3306",
        ]
    );
    assert_eq!(all.keys().cloned().collect::<BTreeSet<_>>(), prefix.keys("shop"));
    let unknown = pairs(&prefix, "shop", &InstanceKey::new("db1", 3306), None);
    assert_eq!(unknown.len(), 3, "an unknown address is not written as none");
    let none = pairs(
        &prefix,
        "shop",
        &InstanceKey::new("db1", 3306),
        Some(&HostAddresses::default()),
    );
    assert_eq!(none["mysql/master/shop/ipv6"], "");
}

#[test]
fn the_prefix_ends_in_one_slash() {
    for (text, prefix) in [("x///", "x/"), ("/", "/"), ("", "/"), ("mysql/master", "mysql/master/")] {
        assert_eq!(KeyPrefix::new(text).as_str(), prefix);
    }
    let prefix = KeyPrefix::default();
    assert_eq!(prefix.name_of_epoch_key("mysql/master/shop/epoch"), Some("shop"));
    for other in [
        "mysql/master/shop",
        "mysql/master/a/b/epoch",
        "x/shop/epoch",
        "mysql/master//epoch",
    ] {
        assert_eq!(prefix.name_of_epoch_key(other), None, "{other}");
    }
}

fn record(epoch: Epoch) -> EpochRecord {
    EpochRecord {
        group: "group".to_owned(),
        cluster: "c1".to_owned(),
        epoch,
    }
}

/// The decision for `db1` with epoch 7, when the store has `before` and the pairs of `stored`.
fn decide(before: Option<&str>, stored: u32) -> KvDecision {
    let prefix = KeyPrefix::default();
    let mut present = pairs(&prefix, "shop", &key(stored), Some(&HostAddresses::default()));
    present.extend(before.map(|value| (prefix.epoch_key("shop"), value.to_owned())));
    let wanted = pairs(&prefix, "shop", &key(1), Some(&HostAddresses::default()));
    compare_pairs(&prefix, "shop", &record(7), &wanted, &present)
}

#[test]
fn a_higher_epoch_of_the_same_cluster_is_never_replaced() {
    for stored in [1, 2] {
        assert_eq!(decide(Some(&record(8).to_value()), stored), KvDecision::Superseded(8));
    }
    assert_eq!(decide(Some(&record(7).to_value()), 1), KvDecision::Unchanged);
    let drifted = decide(Some(&record(7).to_value()), 2);
    assert!(
        matches!(&drifted, KvDecision::Write { set, .. } if set.len() == 2),
        "{drifted:?}"
    );
}

#[test]
fn a_lower_a_missing_and_an_unreadable_epoch_are_replaced() {
    for before in [Some(record(6).to_value()), None, Some("junk".to_owned())] {
        let decision = decide(before.as_deref(), 1);
        let nothing_but_epoch = KvDecision::Write {
            set: BTreeMap::new(),
            remove: BTreeSet::new(),
        };
        assert_eq!(decision, nothing_but_epoch, "{before:?}");
    }
    let other_cluster = EpochRecord {
        cluster: "c0".to_owned(),
        ..record(99)
    };
    assert!(matches!(
        decide(Some(&other_cluster.to_value()), 2),
        KvDecision::Write { .. }
    ));
}

#[test]
fn the_pairs_of_another_group_are_left_alone() {
    let foreign = EpochRecord {
        group: "other".to_owned(),
        ..record(1)
    };
    assert_eq!(
        decide(Some(&foreign.to_value()), 2),
        KvDecision::OtherGroup("other".to_owned())
    );
}

#[test]
fn a_withdrawal_deletes_the_pairs_and_keeps_the_epoch() {
    let prefix = KeyPrefix::default();
    let mut present = pairs(&prefix, "shop", &key(1), None);
    present.insert(prefix.epoch_key("shop"), record(6).to_value());
    let decision = compare_pairs(&prefix, "shop", &record(7), &BTreeMap::new(), &present);
    let KvDecision::Write { set, remove } = decision else {
        panic!("{decision:?}");
    };
    assert!(set.is_empty());
    assert_eq!(remove.len(), 3);
    assert!(!remove.contains(&prefix.epoch_key("shop")));
}

#[test]
fn an_address_that_became_unknown_is_deleted() {
    let prefix = KeyPrefix::default();
    let mut present = pairs(&prefix, "shop", &key(1), Some(&HostAddresses::default()));
    present.insert(prefix.epoch_key("shop"), record(7).to_value());
    let wanted = pairs(&prefix, "shop", &key(1), None);
    let decision = compare_pairs(&prefix, "shop", &record(7), &wanted, &present);
    assert!(matches!(decision, KvDecision::Write { set, remove } if set.is_empty() && remove.len() == 2));
}

#[test]
fn pairs_under_a_former_name_are_left_over() {
    let state = state_of([cluster(1, "shop", 1, Some(1)), cluster(2, "bank", 2, None)]);
    let all = published_primaries(&state, never);
    let of = |cluster: &str, group: &str| EpochRecord {
        group: group.to_owned(),
        cluster: cluster.to_owned(),
        epoch: 1,
    };
    let records = BTreeMap::from([
        ("shop".to_owned(), of("c1", "group")),
        ("db1:3306".to_owned(), of("c1", "group")),
        ("gone".to_owned(), of("c9", "group")),
        ("bank".to_owned(), of("c2", "group")),
        ("theirs".to_owned(), of("c9", "other")),
    ]);
    let left: Vec<_> = leftovers("group", &all, &records).into_keys().collect();
    assert_eq!(left, ["db1:3306", "gone"]);
}
