use super::*;
use crate::domain::fixture::{key, primary, replica, topology};
use crate::domain::state::Seed;
use crate::domain::state::sample::document;
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

fn named(name: &str, created: i64, seed: u32) -> Document {
    Document {
        created: WallTime(created),
        seeds: BTreeSet::from([key(seed)]),
        ..document(name)
    }
}

fn origin(name: &str) -> Origin {
    document(name).origin
}

fn cluster(instances: &[u32], document: Option<&str>) -> Cluster {
    Cluster {
        id: ClusterId("c1".to_owned()),
        created_at: WallTime(1),
        name: key(1).to_string(),
        alias: String::new(),
        epoch: 0,
        instances: instances.iter().copied().map(key).collect(),
        primary: None,
        document: document.map(origin),
        split_from: None,
    }
}

fn state(clusters: &[Cluster], documents: &[Document]) -> State {
    State {
        clusters: clusters.iter().map(|one| (one.id.clone(), one.clone())).collect(),
        documents: documents.iter().map(|one| (one.origin.clone(), one.clone())).collect(),
        ..State::default()
    }
}

/// Three servers, each with the account of the document that last logged in there.
fn logged_in(accounts: &[(u32, &str)]) -> Topology {
    let mut all = topology([primary(1, ""), replica(2, 1, ""), replica(3, 1, "")]);
    for (n, name) in accounts {
        all.instances.get_mut(&key(*n)).unwrap().account = Some(origin(name));
    }
    all
}

#[test]
fn a_document_owns_what_its_account_has_logged_in_to() {
    let state = state(
        &[],
        &[named("young", 30, 1), named("old", 20, 3), named("elsewhere", 10, 9)],
    );
    assert_eq!(owner(&state, &logged_in(&[])), None, "a name is not enough");
    assert_eq!(owner(&state, &logged_in(&[(1, "young")])), Some(origin("young")));
    assert_eq!(
        owner(&state, &logged_in(&[(1, "old")])),
        None,
        "it names another server"
    );
    let both = logged_in(&[(1, "young"), (3, "old")]);
    assert_eq!(owner(&state, &both), Some(origin("old")), "the oldest of them");
}

#[test]
fn no_document_takes_a_cluster_from_its_owner() {
    // An earlier and a later name, an older and a younger document, each with an account that works.
    for (intruder, created) in [("aaa", 1), ("aaa", 99), ("zzz", 1), ("zzz", 99)] {
        let state = state(
            &[cluster(&[1, 2, 3], Some("orders"))],
            &[named("orders", 50, 1), named(intruder, created, 2)],
        );
        let topology = logged_in(&[(1, "orders"), (2, intruder)]);
        assert_eq!(owner(&state, &topology), Some(origin("orders")));
        for n in 1..=3 {
            assert_eq!(
                accounts(&state)[&key(n)],
                AccountChoice::Owner(origin("orders")),
                "{intruder} {created}"
            );
        }
    }
}

#[test]
fn an_owner_that_is_gone_or_names_other_servers_owns_no_longer() {
    let topology = logged_in(&[(2, "next")]);
    for documents in [
        vec![named("next", 50, 2)],
        vec![named("orders", 1, 9), named("next", 50, 2)],
    ] {
        let state = state(&[cluster(&[1, 2, 3], Some("orders"))], &documents);
        assert_eq!(owner(&state, &topology), Some(origin("next")));
    }
}

#[test]
fn without_an_owner_the_oldest_document_is_tried_first_and_the_configuration_last() {
    let mut state = state(
        &[cluster(&[1, 2], None)],
        &[named("young", 30, 1), named("old", 20, 1), named("alone", 1, 7)],
    );
    state.seeds.insert(Seed {
        instance: key(1),
        origin: Origin::Api,
    });
    state.seeds.insert(Seed {
        instance: key(8),
        origin: Origin::Api,
    });
    let all = accounts(&state);
    let candidates = |n: u32| match &all[&key(n)] {
        AccountChoice::Candidates(candidates) => candidates.clone(),
        AccountChoice::Owner(owner) => panic!("{owner} owns it"),
    };
    assert_eq!(candidates(1), [origin("old"), origin("young"), Origin::Api]);
    assert_eq!(candidates(2), [Origin::Api]);
    assert_eq!(candidates(7), [origin("alone")]);
    assert_eq!(candidates(8), [Origin::Api]);
    state.forgotten.insert(key(1), WallTime(5));
    assert!(!accounts(&state).contains_key(&key(1)));
}

#[test]
fn the_account_in_use_stays_until_another_one_has_logged_in() {
    let choice = AccountChoice::Candidates(vec![origin("old"), origin("young"), Origin::Api]);
    assert_eq!(choice.account(None, None), Some(&origin("old")));
    assert_eq!(choice.account(Some(&Origin::Api), None), Some(&Origin::Api));
    assert_eq!(choice.account(Some(&origin("gone")), None), Some(&origin("old")));
    let adopted = origin("gone");
    assert_eq!(choice.account(Some(&adopted), Some(&adopted)), Some(&adopted));
    let denied = ProbeFailure::Denied(String::new());
    let silent = ProbeFailure::NoAnswer;
    let names = |present: &Origin, failure: Option<&ProbeFailure>| {
        let others = choice.alternatives(present, failure);
        others.into_iter().map(ToString::to_string).collect::<Vec<String>>()
    };
    assert_eq!(names(&Origin::Api, None), ["cr:db/old", "cr:db/young"]);
    assert_eq!(names(&origin("old"), None), Vec::<String>::new());
    assert_eq!(names(&origin("old"), Some(&denied)), ["cr:db/young", "api"]);
    assert_eq!(names(&origin("old"), Some(&silent)), Vec::<String>::new());
    let owned = AccountChoice::Owner(origin("old"));
    assert_eq!(
        owned.account(Some(&origin("young")), Some(&origin("young"))),
        Some(&origin("old"))
    );
    assert!(owned.alternatives(&origin("old"), Some(&denied)).is_empty());
}

#[test]
fn the_half_that_keeps_the_id_keeps_its_document_when_every_seed_is_in_the_other_half() {
    let kept = cluster(&[1, 2], Some("orders"));
    let apart = Cluster {
        id: ClusterId("c2".to_owned()),
        created_at: WallTime(2),
        split_from: Some(kept.id.clone()),
        ..cluster(&[3], None)
    };
    let of = |id: &ClusterId, seeds: &[(u32, &str)]| {
        let mut topology = logged_in(seeds);
        topology.cluster = id.clone();
        let is_apart = id != &kept.id;
        topology.instances.retain(|own, _| (*own == key(3)) == is_apart);
        topology
    };
    let split = state(&[kept.clone(), apart.clone()], &[named("orders", 50, 3)]);
    assert_eq!(owner(&split, &of(&kept.id, &[(1, "orders")])), Some(origin("orders")));
    assert_eq!(
        owner(&split, &of(&apart.id, &[(3, "orders")])),
        None,
        "it owns the other one"
    );
    // A document whose seeds a person moved to another cluster leaves this one.
    let elsewhere = Cluster {
        split_from: None,
        ..apart.clone()
    };
    let moved = state(&[kept.clone(), elsewhere], &[named("orders", 50, 3)]);
    assert_eq!(owner(&moved, &of(&kept.id, &[(1, "orders")])), None);
    // Another document may take the half that was split off.
    let second = state(
        &[kept.clone(), apart.clone()],
        &[named("orders", 50, 3), named("second", 60, 3)],
    );
    assert_eq!(owner(&second, &of(&apart.id, &[(3, "second")])), Some(origin("second")));
    assert_eq!(owner(&second, &of(&kept.id, &[(1, "orders")])), Some(origin("orders")));
}
