//! A replica that delays on purpose alone received something: it applies at once, and delays again when nothing comes
//! of the recovery.

use super::*;
use crate::domain::instance::Positioning;

/// db3 delays, and alone received the last transactions.
fn delayed() -> World {
    let holds_back = cut(3, "1:1-90")
        .received("1:91-100")
        .channel(|channel| channel.delay_seconds = 3600);
    World::new([db1(), cut(2, "1:1-95"), holds_back])
}

fn delay() -> Undo {
    Undo::Delay {
        replica: key(3),
        seconds: 3600,
    }
}

fn comes_back(world: &mut World, step: &Step, key: &InstanceKey) -> Option<Outcome> {
    if matches!(step, Step::Redial { .. }) {
        world.server(key).failure = None;
    }
    None
}

#[test]
fn the_other_one_is_caught_up_from_it_and_it_delays_again_as_soon_as_it_follows() {
    let mut world = delayed();
    let mut lifted = Vec::new();
    let finish = finished(world.run(|world, step, key| {
        if matches!(step, Step::Repoint { .. }) {
            lifted.push(lifted_delays(&world.plan, &world.tree));
            world.facts(key).channels[0].delay_seconds = 3600;
        }
        None
    }));
    assert!(
        finish.lost_replicas.is_empty() && finish.errors.is_empty(),
        "{finish:?}"
    );
    assert_eq!((finish.successor.unwrap().0, finish.lost), (key(2), None));
    assert_eq!(lifted, [[(key(3), 3600)].into()]);
    assert!(lifted_delays(&world.plan, &world.tree).is_empty());
}

#[test]
fn what_cannot_be_put_back_is_tried_again_and_then_told() {
    let mut world = delayed();
    let finish = finished(world.run(|_, _, _| None));
    assert!(finish.successful && finish.lost_replicas.is_empty(), "{finish:?}");
    let repoints = world.log.iter().filter(|step| *step == "repoint").count();
    assert_eq!(repoints, REPOINT_TRIES);
    let told = "the delay of db3:3306 (3600 s) was removed and could not be set again";
    assert_eq!(finish.errors, [told]);
    // The successor is lost after it was fed.
    let mut world = delayed();
    let finish = finished(world.run(|world, step, successor| {
        matches!(step, Step::Open { .. }).then(|| {
            world.server(successor).failure = Some(crate::domain::instance::ProbeFailure::Refused);
            Outcome::NoAnswer("connection refused".to_owned())
        })
    }));
    assert!(!finish.successful);
    assert_eq!(finish.errors[1..], [told]);
}

#[test]
fn an_abort_lets_it_delay_again() {
    let mut world = delayed();
    let (reason, undo) = aborted(world.run(comes_back));
    assert!(reason.starts_with("came back"), "{reason}");
    let back = Undo::RepointBack {
        replica: key(2),
        source: key(1),
        starts: true,
    };
    let start = Undo::StartReceivers {
        replicas: [key(3)].into(),
    };
    assert_eq!(undo, [back, delay(), start]);
    // It died meanwhile.
    let mut world = delayed();
    let (_, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Redial { .. }) {
            world.server(&self::key(3)).failure = Some(crate::domain::instance::ProbeFailure::Refused);
        }
        comes_back(world, step, key)
    }));
    assert!(undo.contains(&delay()), "{undo:?}");
    // Nothing was lifted: nothing is put back.
    let mut world = delayed();
    let (_, undo) = aborted(
        world.run(|_, step, _| matches!(step, Step::Fence { .. }).then(|| Outcome::Failed("access denied".to_owned()))),
    );
    assert!(!undo.contains(&delay()), "{undo:?}");
}

#[test]
fn the_next_actor_lets_it_finish_before_it_chooses_and_puts_its_delay_back() {
    let half = || {
        let mut world = delayed();
        let channel = &mut world.facts(&key(3)).channels[0];
        (channel.delay_seconds, channel.positioning, channel.io) = (0, Positioning::FilePosition, ThreadState::Stopped);
        channel.retrieved = None;
        world
    };
    let finishes = |world: &mut World, step: &Step, key: &InstanceKey| {
        if matches!(step, Step::ApplyAll { .. }) {
            let facts = world.facts(key);
            facts.executed = mysql_set("1:1-100");
            facts.channels[0].positioning = Positioning::AutoPosition;
        }
    };
    let mut world = half();
    let finish = finished(world.run(|world, step, key| {
        finishes(world, step, key);
        if matches!(step, Step::Repoint { .. }) {
            world.facts(key).channels[0].delay_seconds = 3600;
        }
        None
    }));
    assert_eq!((finish.successor.unwrap().0, finish.lost), (key(2), None));
    assert!(finish.errors.is_empty(), "{:?}", finish.errors);
    assert_eq!(world.log[..4], ["fence", "stop", "drain", "catch"]);
    let mut world = half();
    let (_, undo) = aborted(world.run(|world, step, key| {
        finishes(world, step, key);
        comes_back(world, step, key)
    }));
    assert!(undo.contains(&delay()), "{undo:?}");
}
