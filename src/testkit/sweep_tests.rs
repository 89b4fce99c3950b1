//! Every statement of a recovery, and everything that can go wrong at it: whatever happens, the end is sound.

use std::collections::BTreeSet;

use crate::domain::fixture::key;
use crate::domain::key::InstanceKey;

use super::{Fault, Rig};

/// What goes wrong at a statement, beyond the actor being lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused,
    Broken,
    DoneAndBroken,
    Hangs,
    ServerDies,
    ServerRestarts,
    PrimaryReturns,
    PrimaryReturnsBehind,
    ActorLost,
    ActorLostAndPrimaryReturns,
}

const ALL: [Trouble; 10] = [
    Trouble::Refused,
    Trouble::Broken,
    Trouble::DoneAndBroken,
    Trouble::Hangs,
    Trouble::ServerDies,
    Trouble::ServerRestarts,
    Trouble::PrimaryReturns,
    Trouble::PrimaryReturnsBehind,
    Trouble::ActorLost,
    Trouble::ActorLostAndPrimaryReturns,
];

fn fault(rig: &Rig, trouble: Trouble, n: u32, statement: &'static str) -> Fault {
    let group = rig.group.clone();
    match trouble {
        Trouble::Refused => Fault::refuse(n, statement),
        Trouble::Broken => Fault::broken(n, statement),
        Trouble::DoneAndBroken => Fault::done_and_broken(n, statement),
        Trouble::Hangs => Fault::hang(n, statement),
        Trouble::ServerDies => Fault::first(n, statement, move |inner| inner.kill(&key(n))),
        Trouble::ServerRestarts => Fault::then(n, statement, move |inner| {
            inner.kill(&key(n));
            // As it should be set up: a replica that starts is read-only.
            inner.servers.get_mut(&key(n)).unwrap().boots_read_only = true;
            inner.start(&key(n));
        }),
        Trouble::PrimaryReturns | Trouble::PrimaryReturnsBehind => {
            Fault::first(n, statement, |inner| inner.start(&key(1)))
        }
        Trouble::ActorLost => Fault::then(n, statement, move |_| group.depose(1)),
        Trouble::ActorLostAndPrimaryReturns => Fault::then(n, statement, move |inner| {
            group.depose(1);
            inner.start(&key(1));
        }),
    }
}

async fn run(trouble: Trouble, n: u32, statement: &'static str, after: u32) {
    let about = format!("{trouble:?} at {statement} on db{n} after {after}");
    let rig = Rig::started(4, 3).await;
    if trouble == Trouble::PrimaryReturnsBehind {
        for n in 2..=4 {
            rig.world.receive(n, "1:101");
        }
    }
    rig.world.plan(Fault {
        after,
        ..fault(&rig, trouble, n, statement)
    });
    rig.world.kill(1);
    rig.until(&format!("{about}: over"), |rig| {
        let recoveries = rig.recoveries();
        !recoveries.is_empty() && recoveries.iter().all(|recovery| !recovery.is_active())
    })
    .await;
    rig.world.assert_sound();
    if rig
        .recoveries()
        .iter()
        .any(|recovery| recovery.errors.iter().any(|error| error.contains("SuccessorLost")))
    {
        // The entry stands and the successor is gone: from here only a person goes on, and nobody else is opened.
        assert_eq!(trouble, Trouble::ServerDies, "{about}: {:#?}", rig.world.log());
        assert!(rig.world.writable().is_empty(), "{about}: {:#?}", rig.world.log());
        return;
    }
    // Whoever was made writable by a restart is found, whoever failed is tried again.
    rig.until(&format!("{about}: one writable primary"), |rig| {
        rig.world.writable().len() == 1 && rig.recoveries().iter().all(|recovery| !recovery.is_active())
    })
    .await;
    rig.world.assert_sound();
    let opened: BTreeSet<String> = rig
        .world
        .opened()
        .into_iter()
        .filter(|opened| *opened != key(1).to_string())
        .collect();
    assert!(
        opened.len() <= 1,
        "{about}: {opened:?} were opened\n{:#?}",
        rig.world.log()
    );
    let primary: InstanceKey = rig.world.writable().remove(0);
    // Everybody who runs, and is no failed primary, receives from the primary.
    rig.until(&format!("{about}: the others follow {primary}"), |rig| {
        let lost: BTreeSet<InstanceKey> = rig
            .recoveries()
            .iter()
            .flat_map(|recovery| recovery.lost_replicas.iter().map(|refusal| refusal.instance.clone()))
            .collect();
        let inner = rig.world.lock();
        inner
            .servers
            .iter()
            .filter(|(key, server)| server.up && **key != primary && !lost.contains(*key))
            .all(|(server_key, server)| {
                *server_key == key(1)
                    || server
                        .channel
                        .as_ref()
                        .is_some_and(|link| link.source == primary && link.receives)
            })
    })
    .await;
    let recorded = rig
        .group
        .state()
        .clusters
        .values()
        .next()
        .unwrap()
        .primary
        .clone()
        .unwrap();
    assert_eq!(recorded.instance, primary, "{about}");
}

/// The statements of a recovery in which nothing goes wrong, with how often each came before.
const STATEMENTS: [(u32, &str); 11] = [
    (2, "facts"),
    (2, "stop_receiving"),
    (3, "stop_receiving"),
    (4, "stop_receiving"),
    (2, "start_applying"),
    (2, "wait_applied"),
    (2, "reset_replication"),
    (2, "set_writable"),
    (3, "follow"),
    (4, "follow"),
    (3, "facts"),
];

#[tokio::test(start_paused = true)]
async fn the_list_of_statements_is_complete() {
    let rig = Rig::started(4, 3).await;
    rig.world.kill(1);
    rig.recovered(1).await;
    let seen: BTreeSet<String> = rig
        .world
        .log()
        .iter()
        .map(|line| line.replace(":3306", "").replace(" by member1", ""))
        .collect();
    let listed: BTreeSet<String> = STATEMENTS
        .iter()
        .filter(|(_, statement)| *statement != "facts")
        .map(|(n, statement)| format!("db{n} {statement}"))
        .collect();
    assert_eq!(seen, listed);
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_at_whatever_statement_there_is_one_primary_at_the_end() {
    for (n, statement) in STATEMENTS {
        for trouble in ALL {
            let rounds = if statement == "facts" { 4 } else { 1 };
            for after in 0..rounds {
                run(trouble, n, statement, after).await;
            }
        }
    }
}
