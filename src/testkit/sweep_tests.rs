//! Every fault at every statement of a recovery: the resulting topology is always sound.

use std::collections::BTreeSet;

use crate::domain::fixture::{key, mysql_set};
use crate::domain::key::InstanceKey;

use super::world::Inner;
use super::{Fault, Rig};

/// The faults at a statement, beyond the loss of the actor.
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
    PrimaryReturnsReadOnly,
    ActorLost,
    ActorLostAndPrimaryReturns,
    ActorLostAndPrimaryReturnsReadOnly,
}

const ALL: [Trouble; 12] = [
    Trouble::Refused,
    Trouble::Broken,
    Trouble::DoneAndBroken,
    Trouble::Hangs,
    Trouble::ServerDies,
    Trouble::ServerRestarts,
    Trouble::PrimaryReturns,
    Trouble::PrimaryReturnsBehind,
    Trouble::PrimaryReturnsReadOnly,
    Trouble::ActorLost,
    Trouble::ActorLostAndPrimaryReturns,
    Trouble::ActorLostAndPrimaryReturnsReadOnly,
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
        Trouble::PrimaryReturnsReadOnly => Fault::first(n, statement, start_read_only),
        Trouble::ActorLost => Fault::then(n, statement, move |_| group.depose(1)),
        Trouble::ActorLostAndPrimaryReturns => Fault::then(n, statement, move |inner| {
            group.depose(1);
            inner.start(&key(1));
        }),
        Trouble::ActorLostAndPrimaryReturnsReadOnly => Fault::then(n, statement, move |inner| {
            group.depose(1);
            start_read_only(inner);
        }),
    }
}

/// The primary is back, and read-only as its configuration says.
fn start_read_only(inner: &mut Inner) {
    inner.servers.get_mut(&key(1)).unwrap().boots_read_only = true;
    inner.start(&key(1));
}

/// The topology when the primary dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// All replicas have the same transactions.
    Equal,
    /// db2, in the primary's data centre, is behind db3, which is elsewhere: db2 catches up from db3.
    Feeding,
    /// The primary and db2 replicate from each other.
    CoPrimaries,
    /// The same, only db2 may be promoted, and db2 is behind db3: it catches up from db3.
    CoPrimaryFeeding,
    /// Only db3, a delayed replica, received the last transactions, and has not applied them.
    Delayed,
}

impl Scene {
    async fn rig(self) -> Rig {
        let mut rig = Rig::new(4, 3);
        if matches!(self, Self::CoPrimaries | Self::CoPrimaryFeeding) {
            rig.world.lock().follow(&key(1), &key(2));
            rig.policy.must_promote_other_co_primary = self == Self::CoPrimaryFeeding;
        }
        for n in 1..=4 {
            let place = if self == Self::Feeding && n > 2 { "b" } else { "a" };
            rig.world.with(n, |server| {
                server.facts.data_center = place.to_owned();
                if let Some(link) = server.channel.as_mut().filter(|_| self == Self::Delayed && n == 3) {
                    link.delay_seconds = DELAY;
                }
            });
        }
        for id in 1..=3 {
            rig.start(id);
        }
        rig.settled().await;
        rig
    }

    /// The primary dies.
    fn kill(self, rig: &Rig) {
        if self.catches_up_others() {
            // Written in the primary's last moment, when only db3 still received.
            let receive = |n: u32, on: bool| {
                rig.world
                    .with(n, |server| server.channel.as_mut().unwrap().receives = on);
            };
            receive(2, false);
            receive(4, false);
            rig.world.write(1, 3);
            rig.world.kill(1);
            receive(2, true);
            receive(4, true);
        } else {
            rig.world.kill(1);
        }
    }

    fn statements(self) -> &'static [(u32, &'static str)] {
        match self {
            Self::Equal | Self::CoPrimaries => &STATEMENTS,
            Self::Feeding | Self::CoPrimaryFeeding => &FEEDING_STATEMENTS,
            Self::Delayed => &DELAYED_STATEMENTS,
        }
    }

    /// db2 catches up from db3.
    fn catches_up_others(self) -> bool {
        matches!(self, Self::Feeding | Self::CoPrimaryFeeding | Self::Delayed)
    }
}

async fn run(scene: Scene, trouble: Trouble, n: u32, statement: &'static str, after: u32) {
    let about = format!("{scene:?}: {trouble:?} at {statement} on db{n} after {after}");
    let rig = scene.rig().await;
    if trouble == Trouble::PrimaryReturnsBehind {
        for n in 2..=4 {
            rig.world.receive(n, "1:110");
        }
    }
    rig.world.plan(Fault {
        after,
        ..fault(&rig, trouble, n, statement)
    });
    scene.kill(&rig);
    rig.until(&format!("{about}: over"), |rig| {
        let recoveries = rig.recoveries();
        !recoveries.is_empty() && recoveries.iter().all(|recovery| !recovery.is_active())
    })
    .await;
    rig.world.assert_sound();
    // Where the committed successor is gone, another one follows it; otherwise the committed one stays.
    let lost: BTreeSet<String> = rig
        .recoveries()
        .iter()
        .filter(|recovery| recovery.errors.iter().any(|error| error.contains("SuccessorLost")))
        .filter_map(|recovery| Some(recovery.successor()?.to_string()))
        .collect();
    assert!(
        lost.is_empty() || trouble == Trouble::ServerDies,
        "{about}: {:#?}",
        rig.world.log()
    );
    if scene == Scene::CoPrimaryFeeding && lost.is_empty() && !rig.world.with(2, |server| server.up) {
        // Nobody else may be promoted: it is waited for.
        assert_eq!(rig.world.writable(), [], "{about}");
        rig.world.with(2, |server| server.boots_read_only = true);
        rig.world.start(2);
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
        .filter(|opened| *opened != key(1).to_string() && !lost.contains(opened))
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
    if scene.catches_up_others() {
        nothing_is_lost_untold(&rig, &primary, &about);
    }
    if scene == Scene::Delayed {
        delays_as_before(&rig, &primary, &about).await;
    }
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

/// Asserts that the primary has what only db3 received, unless a recovery reports it as lost.
fn nothing_is_lost_untold(rig: &Rig, primary: &InstanceKey, about: &str) {
    let is_there = rig.world.lock().servers[primary]
        .executed
        .contains(&mysql_set("1:1-103"));
    let is_told = rig.recoveries().iter().any(|recovery| recovery.lost.is_some());
    assert!(is_there || is_told, "{about}: {:#?}", rig.world.log());
}

/// Asserts that db3 is delayed as before, by GTID, unless it is the primary, gone, or a recovery reports otherwise.
async fn delays_as_before(rig: &Rig, primary: &InstanceKey, about: &str) {
    rig.until(&format!("{about}: db3 delays as before"), |rig| {
        let is_told = rig.recoveries().iter().any(|recovery| {
            let mut errors = recovery.errors.iter();
            errors.any(|error| error.contains("db3:3306 delayed by") || error.contains("not undone: db3:3306"))
                || recovery.lost_replicas.iter().any(|refusal| refusal.instance == key(3))
        });
        let inner = rig.world.lock();
        let server = &inner.servers[&key(3)];
        let delays = server
            .channel
            .as_ref()
            .is_some_and(|link| link.delay_seconds == DELAY && !link.is_off_gtid && link.applies);
        *primary == key(3) || !server.up || is_told || delays
    })
    .await;
}

/// The statements of a recovery without faults, each with the number of its earlier occurrences.
const STATEMENTS: [(u32, &str); 11] = [
    (2, "facts"),
    (2, "stop_receiver"),
    (3, "stop_receiver"),
    (4, "stop_receiver"),
    (2, "start_applier"),
    (2, "wait_applied"),
    (2, "reset_replication"),
    (2, "set_writable"),
    (3, "follow"),
    (4, "follow"),
    (3, "facts"),
];

/// The same where the successor catches up first.
const FEEDING_STATEMENTS: [(u32, &str); 15] = [
    (2, "facts"),
    (3, "facts"),
    (2, "stop_receiver"),
    (3, "stop_receiver"),
    (4, "stop_receiver"),
    (3, "start_applier"),
    (3, "wait_applied"),
    (2, "follow"),
    (2, "start_applier"),
    (2, "wait_applied"),
    (2, "reset_replication"),
    (2, "set_writable"),
    (3, "follow"),
    (4, "follow"),
    (4, "facts"),
];

/// The delay of db3 in seconds in [`Scene::Delayed`].
const DELAY: u64 = 3600;

/// The same where the replica that it catches up from is delayed.
const DELAYED_STATEMENTS: [(u32, &str); 16] = [
    (2, "facts"),
    (3, "facts"),
    (2, "stop_receiver"),
    (3, "stop_receiver"),
    (4, "stop_receiver"),
    (3, "apply_without_delay"),
    (3, "wait_applied"),
    (3, "delay_by"),
    (2, "follow"),
    (2, "start_applier"),
    (2, "wait_applied"),
    (2, "reset_replication"),
    (2, "set_writable"),
    (3, "follow"),
    (4, "follow"),
    (4, "facts"),
];

/// The limit for the occurrences of a statement in a recovery without faults.
fn rounds(scene: Scene, n: u32, statement: &str) -> u32 {
    match (scene, statement) {
        (_, "facts") => 4,
        (scene, "stop_receiver" | "wait_applied") if n == 2 && scene.catches_up_others() => 2,
        (Scene::Delayed, "delay_by") => 2,
        _ => 1,
    }
}

async fn statements_seen(scene: Scene) -> BTreeSet<String> {
    let rig = scene.rig().await;
    scene.kill(&rig);
    rig.recovered(1).await;
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world
        .log()
        .iter()
        .map(|line| line.replace(":3306", "").replace(" by member1", ""))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_lists_of_statements_are_complete() {
    for scene in [
        Scene::Equal,
        Scene::Feeding,
        Scene::CoPrimaries,
        Scene::CoPrimaryFeeding,
        Scene::Delayed,
    ] {
        let listed: BTreeSet<String> = scene
            .statements()
            .iter()
            .filter(|(_, statement)| *statement != "facts")
            .map(|(n, statement)| format!("db{n} {statement}"))
            .collect();
        assert_eq!(statements_seen(scene).await, listed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_the_catch_up_source_received_is_on_the_new_primary() {
    for scene in [Scene::Feeding, Scene::CoPrimaryFeeding, Scene::Delayed] {
        let rig = scene.rig().await;
        scene.kill(&rig);
        let recovery = rig.recovered(1).await.remove(0);
        assert!(recovery.is_successful(), "{recovery:#?}");
        assert_eq!((recovery.successor(), &recovery.lost), (Some(&key(2)), &None));
        for n in 2..=4 {
            rig.world
                .with(n, |server| assert!(server.executed.contains(&mysql_set("1:1-103"))));
        }
        if scene == Scene::Delayed {
            let delay = rig
                .world
                .with(3, |server| server.channel.as_ref().unwrap().delay_seconds);
            assert_eq!(delay, DELAY);
        }
        rig.world.assert_sound();
    }
}

async fn sweep(scene: Scene) {
    for (n, statement) in scene.statements() {
        for trouble in ALL {
            for after in 0..rounds(scene, *n, statement) {
                run(scene, trouble, *n, statement, after).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_at_whatever_statement_there_is_one_primary_at_the_end() {
    sweep(Scene::Equal).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_while_the_successor_is_caught_up_there_is_one_primary_at_the_end() {
    sweep(Scene::Feeding).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_with_co_primaries_there_is_one_primary_at_the_end() {
    sweep(Scene::CoPrimaries).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_while_the_other_co_primary_is_caught_up_there_is_one_primary_at_the_end() {
    sweep(Scene::CoPrimaryFeeding).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_while_one_that_delays_gives_what_it_has_there_is_one_primary_at_the_end() {
    sweep(Scene::Delayed).await;
}
