//! A document that names the servers of another one, in the simulator: it changes neither their account nor their owner nor their policy.

use std::collections::BTreeSet;

use crate::domain::fixture::key;
use crate::domain::intent::{Intent, IntentDetails, Origin, PromotionRule};
use crate::domain::policy::RecoveryMode;
use crate::domain::state::sample::document;
use crate::domain::state::{Command, Document, State};
use crate::domain::time::WallTime;

use super::Rig;

fn put(rig: &Rig, name: &str, created: i64, seeds: &[u32], paused: bool) {
    let document = Document {
        paused,
        created: WallTime(created),
        seeds: seeds.iter().copied().map(key).collect(),
        boot_read_only: crate::domain::policy::BootReadOnly::Off,
        durability: None,
        mode: RecoveryMode::Auto,
        ..document(name)
    };
    rig.group.commit(Command::PutDocument {
        document: Box::new(document),
    });
}

fn owner(rig: &Rig) -> Option<Origin> {
    let state = rig.group.state();
    state
        .clusters
        .values()
        .next()
        .and_then(|cluster| cluster.document.clone())
}

/// The accounts in use, on all members.
fn accounts(rig: &Rig) -> BTreeSet<Origin> {
    let caches = rig.members.values().map(|member| &member.instance_cache);
    let of = |n: u32| caches.clone().filter_map(move |cache| cache.tracked_origin(&key(n)));
    (1..=3).flat_map(of).collect()
}

async fn owned(rig: &Rig, name: &str) {
    rig.until("the document owns the cluster, by its account", |rig| {
        owner(rig) == Some(document(name).origin) && accounts(rig) == BTreeSet::from([document(name).origin])
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_intruders_wrong_password_does_not_blind_ham4db_to_anothers_servers() {
    // An earlier and a later name, an older and a younger document, an account that is refused and one that works.
    for name in ["aaa", "zzz"] {
        for created in [1, 99] {
            for refused in [true, false] {
                let rig = Rig::started(3, 3).await;
                put(&rig, "orders", 50, &[1], false);
                owned(&rig, "orders").await;
                if refused {
                    rig.world.lock().refused_accounts.insert(document(name).origin);
                }
                put(&rig, name, created, &[1, 2, 3], true);
                rig.group.commit(Command::SetIntent {
                    intent: Intent {
                        instance: key(2),
                        origin: document(name).origin,
                        details: IntentDetails::Candidate {
                            rule: PromotionRule::MustNot,
                            until: None,
                        },
                    },
                });
                rig.wait(70_000).await;
                owned(&rig, "orders").await;
                // Its policy says paused and excludes the successor.
                rig.world.kill(1);
                let recovery = rig.recovered(1).await.remove(0);
                assert!(recovery.is_successful(), "{name} {created} {refused}: {recovery:#?}");
                assert_eq!(recovery.successor(), Some(&key(2)));
                owned(&rig, "orders").await;
                rig.world.assert_sound();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_without_a_working_account_owns_nothing_and_the_next_one_does() {
    let rig = Rig::started(3, 1).await;
    rig.world.lock().refused_accounts.insert(document("broken").origin);
    put(&rig, "broken", 1, &[1], true);
    rig.wait(30_000).await;
    assert_eq!(owner(&rig), None);
    assert_eq!(
        accounts(&rig),
        BTreeSet::from([Origin::Api]),
        "the account that works stays"
    );
    put(&rig, "works", 50, &[2], false);
    owned(&rig, "works").await;
    // Mended too late: the cluster has an owner.
    rig.world.lock().refused_accounts.clear();
    rig.wait(70_000).await;
    owned(&rig, "works").await;
    // When that one is withdrawn, the other one takes over.
    rig.group.commit(Command::WithdrawDocument {
        origin: document("works").origin,
    });
    owned(&rig, "broken").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_first_document_is_refused_is_polled_by_the_next_one() {
    let rig = Rig::started(3, 1).await;
    rig.world
        .lock()
        .refused_accounts
        .extend([document("broken").origin, Origin::Api]);
    put(&rig, "broken", 1, &[1], false);
    put(&rig, "works", 2, &[1], false);
    owned(&rig, "works").await;
}

#[tokio::test(start_paused = true)]
async fn servers_that_an_intruder_named_first_are_found_from_the_owners_seed() {
    let mut rig = Rig::new(3, 1);
    rig.group = super::group::Group::new(1, State::default());
    rig.world.lock().refused_accounts.insert(document("aaa").origin);
    put(&rig, "aaa", 1, &[1, 2, 3], true);
    rig.start(1);
    rig.wait(5000).await;
    put(&rig, "orders", 50, &[1], false);
    owned(&rig, "orders").await;
    rig.until("all three are recorded", |rig| {
        let state = rig.group.state();
        let mut clusters = state.clusters.values();
        clusters.next().is_some_and(|cluster| cluster.instances.len() == 3) && clusters.next().is_none()
    })
    .await;
}
