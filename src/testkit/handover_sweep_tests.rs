//! Every fault at every statement of a takeover: at the end there is one writable primary, soon.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fixture::key;
use crate::domain::key::InstanceKey;

use super::handover_tests::{ask, takeover};
use super::{CommitFault, Fault, Rig, World};

/// The longest time without a writable server, for any fault.
const OUTAGE: Duration = Duration::from_secs(10);
/// The same when a server accepts a statement and never answers: each statement waits for its deadline first.
const OUTAGE_WITH_SILENCE: Duration = Duration::from_secs(25);

/// Measures the longest time without a writable server.
#[derive(Clone, Default)]
struct Outage(Arc<Mutex<Duration>>);

impl Outage {
    fn watch(world: World) -> Self {
        let outage = Self::default();
        let longest = Arc::clone(&outage.0);
        tokio::spawn(async move {
            let mut since = Instant::now();
            loop {
                if world.writable().is_empty() {
                    let mut longest = longest.lock().unwrap();
                    *longest = (*longest).max(since.elapsed());
                } else {
                    since = Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        outage
    }

    fn longest(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refused,
    Broken,
    DoneAndBroken,
    Hangs,
    ServerDies,
    ServerRestarts,
    TargetDies,
    OldPrimaryDies,
    ActorLost,
    ActorLostAndTargetDies,
}

const ALL: [Trouble; 10] = [
    Trouble::Refused,
    Trouble::Broken,
    Trouble::DoneAndBroken,
    Trouble::Hangs,
    Trouble::ServerDies,
    Trouble::ServerRestarts,
    Trouble::TargetDies,
    Trouble::OldPrimaryDies,
    Trouble::ActorLost,
    Trouble::ActorLostAndTargetDies,
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
            // A primary boots as it was configured; a replica that starts is read-only.
            let boots_read_only = n != 1;
            inner.kill(&key(n));
            inner.servers.get_mut(&key(n)).unwrap().boots_read_only = boots_read_only;
            inner.start(&key(n));
        }),
        Trouble::TargetDies => Fault::then(n, statement, |inner| inner.kill(&key(2))),
        Trouble::OldPrimaryDies => Fault::then(n, statement, |inner| inner.kill(&key(1))),
        Trouble::ActorLost => Fault::then(n, statement, move |_| group.depose(1)),
        Trouble::ActorLostAndTargetDies => Fault::then(n, statement, move |inner| {
            group.depose(1);
            inner.kill(&key(2));
        }),
    }
}

/// Waits until exactly one server takes writes and no recovery runs. Checks that every running server that was not given up
/// replicates from it.
async fn ends_well(rig: &Rig, about: &str) {
    rig.until(&format!("{about}: over"), |rig| {
        rig.recoveries().iter().all(|recovery| !recovery.is_active()) && rig.world.writable().len() == 1
    })
    .await;
    rig.world.assert_sound();
    let primary: InstanceKey = rig.world.writable().remove(0);
    rig.until(&format!("{about}: the others follow {primary}"), |rig| {
        let state = rig.group.state();
        let lost: BTreeSet<InstanceKey> = rig
            .recoveries()
            .iter()
            .flat_map(|recovery| recovery.lost_replicas.iter().map(|refusal| refusal.instance.clone()))
            .chain(state.quarantines.values().map(|held| held.instance.clone()))
            .collect();
        let inner = rig.world.lock();
        inner
            .servers
            .iter()
            .filter(|(key, server)| server.up && **key != primary && !lost.contains(*key))
            .all(|(_, server)| {
                server
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

async fn run(trouble: Trouble, n: u32, statement: &'static str, after: u32) {
    let about = format!("{trouble:?} at {statement} on db{n} after {after}");
    let rig = Rig::started(4, 3).await;
    rig.world.write(1, 10);
    rig.world.plan(Fault {
        after,
        ..fault(&rig, trouble, n, statement)
    });
    let outage = Outage::watch(rig.world.clone());
    ask(&rig, Some(2), takeover(true)).await.ok();
    ends_well(&rig, &about).await;
    let allowed = if trouble == Trouble::Hangs {
        OUTAGE_WITH_SILENCE
    } else {
        OUTAGE
    };
    assert!(
        outage.longest() <= allowed,
        "{about}: nobody took writes for {:?}: {:#?}",
        outage.longest(),
        rig.world.log()
    );
}

/// The statements of a takeover without faults.
const STATEMENTS: [(u32, &str); 13] = [
    (2, "replication_account"),
    (1, "transactions"),
    (1, "set_read_only"),
    (1, "kill_clients"),
    (1, "disable_events"),
    (2, "wait_applied"),
    (2, "reset_replication"),
    (2, "set_writable"),
    (3, "follow"),
    (4, "follow"),
    (1, "attach"),
    (1, "facts"),
    (2, "facts"),
];

#[tokio::test(start_paused = true)]
async fn the_list_of_statements_of_a_takeover_is_complete() {
    let rig = Rig::started(4, 3).await;
    ask(&rig, Some(2), takeover(true)).await.unwrap();
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
async fn whatever_goes_wrong_in_a_takeover_there_is_one_primary_at_the_end() {
    for (n, statement) in STATEMENTS {
        for trouble in ALL {
            let rounds = if statement == "facts" { 3 } else { 1 };
            for after in 0..rounds {
                run(trouble, n, statement, after).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_lost_at_a_commit_of_a_takeover_leaves_one_primary() {
    for (kind, command) in CommitFault::sweep() {
        let rig = Rig::started(4, 3).await;
        rig.group.plan(CommitFault::new(command, kind));
        ask(&rig, Some(2), takeover(true)).await.ok();
        ends_well(&rig, &format!("{kind:?} at {command}")).await;
    }
}
