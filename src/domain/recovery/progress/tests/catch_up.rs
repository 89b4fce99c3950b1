//! The wanted successor is behind: it is fed first, and put back where it was when nothing comes of the recovery.

use super::*;

/// db2 is preferred, db3 received more.
fn behind() -> World {
    let instances = [db1(), cut(2, "1:1-90"), cut(3, "1:1-100")];
    let rules = [(key(2), PromotionRule::Prefer)].into();
    world_with(instances, rules)
}

/// db3, which received more, must not be promoted.
fn forbidden() -> World {
    let instances = [db1(), cut(2, "1:1-90"), cut(3, "1:1-100")];
    let rules = [(key(3), PromotionRule::MustNot)].into();
    world_with(instances, rules)
}

fn world_with(instances: impl IntoIterator<Item = Instance>, rules: BTreeMap<InstanceKey, PromotionRule>) -> World {
    let policy = Policy {
        promotion_rules: rules,
        ..Policy::default()
    };
    world_of(Code::DeadMaster, instances, policy)
}

/// db1 and db2 replicated from each other, db3, a replica of db1, received more; only db2 may be promoted.
fn ring() -> World {
    let first = replica(1, 2, "1:1-100").facts(|facts| facts.read_only = false).dead();
    let policy = Policy {
        must_promote_other_co_primary: true,
        ..Policy::default()
    };
    let instances = [first, cut(2, "1:1-90,2:1-5"), cut(3, "1:1-100,2:1-3")];
    world_of(Code::DeadCoMaster, instances, policy)
}

fn world_of(code: Code, instances: impl IntoIterator<Item = Instance>, policy: Policy) -> World {
    let mut world = World::new(instances);
    world.policy = policy;
    let finding = Finding {
        code,
        instance: key(1),
        cluster: ClusterId("c1".to_owned()),
        description: String::new(),
        evidence: Evidence::default(),
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    };
    world.plan = planner::plan(&finding, &world.tree, &world.policy, NOW).0.unwrap();
    world
}

fn is_catch_up_from(step: &Step) -> bool {
    matches!(step, Step::CatchUp { .. })
}

fn point_back() -> Undo {
    Undo::RepointBack {
        replica: key(2),
        source: key(1),
        starts: true,
    }
}

fn start(n: u32) -> Undo {
    Undo::StartReceivers {
        replicas: [key(n)].into(),
    }
}

#[test]
fn the_wanted_one_is_caught_up_and_then_promoted() {
    let mut world = behind();
    let finish = finished(world.run(|_, _, _| None));
    let commit = format!("commit db2:3306 {}", mysql_set("1:1-100"));
    assert_eq!(
        world.log,
        [
            "fence",
            "stop",
            "catch",
            "drain",
            "reconnect",
            &commit,
            "open",
            "repoint"
        ]
    );
    assert!(finish.successful && finish.lost.is_none() && finish.lost_replicas.is_empty());
    assert_eq!(world.tree.get(&key(3)).unwrap().source(), Some(&key(2)));
}

#[test]
fn the_other_co_primary_is_caught_up_and_then_promoted() {
    let mut world = ring();
    let finish = finished(world.run(|_, _, _| None));
    let commit = format!("commit db2:3306 {}", mysql_set("1:1-100,2:1-5"));
    assert_eq!(
        world.log,
        [
            "fence",
            "stop",
            "catch",
            "drain",
            "reconnect",
            &commit,
            "open",
            "repoint"
        ]
    );
    assert!(finish.successful && finish.lost.is_none() && finish.lost_replicas.is_empty());
    assert_eq!(world.writable(), ["db2"]);
    assert_eq!(world.tree.get(&key(2)).unwrap().source(), None);
    assert_eq!(world.tree.get(&key(3)).unwrap().source(), Some(&key(2)));
}

#[test]
fn when_the_other_co_primary_cannot_be_caught_up_nobody_is_promoted_and_all_is_put_back() {
    let mut world = ring();
    // It was pointed at the other one, and did not get there in time.
    let (reason, undo) = aborted(world.run(|world, step, key| {
        (is_catch_up_from(step) && *key == self::key(2)).then(|| {
            world.facts(key).channels[0].source = self::key(3);
            world.facts(key).channels[0].io = ThreadState::Stopped;
            Outcome::Failed("not within 60000 ms".to_owned())
        })
    }));
    assert!(
        reason.contains("cannot catch up from db3:3306: unknown: catching up from it failed before"),
        "{reason}"
    );
    assert_eq!(undo, [point_back(), start(3)]);
    assert!(world.writable().is_empty());
}

#[test]
fn a_co_primary_that_was_caught_up_is_pointed_back_at_a_primary_that_is_back() {
    let mut world = ring();
    let (reason, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
            world.facts(key).executed = mysql_set("1:1-100,2:1-5");
        }
        None
    }));
    assert!(reason.starts_with("came back"), "{reason}");
    assert_eq!(undo, [point_back(), start(3)]);
}

/// db2 was pointed at db3 to be fed, by an actor that is gone.
fn half_caught_up(mut world: World, io: ThreadState) -> World {
    world.facts(&key(3)).channels[0].io = ThreadState::Stopped;
    let caught_up = &mut world.facts(&key(2)).channels[0];
    (caught_up.source, caught_up.io) = (key(3), io);
    world
}

/// The next actor feeds on and promotes db2.
fn goes_on(world: impl Fn() -> World) {
    for io in [ThreadState::Running, ThreadState::Stopped] {
        let mut world = half_caught_up(world(), io);
        assert!(finished(world.run(|_, _, _| None)).successful);
        assert_eq!(world.log[..4], ["fence", "stop", "catch", "drain"]);
        assert_eq!(world.writable(), ["db2"]);
    }
}

#[test]
fn the_next_actor_goes_on_while_the_other_co_primary_is_caught_up() {
    goes_on(ring);
    // Or puts back what the one before it had done.
    let mut world = half_caught_up(ring(), ThreadState::Running);
    let (_, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Fence { .. }) {
            world.server(key).failure = None;
            world.facts(key).executed = mysql_set("1:1-100,2:1-5");
        }
        None
    }));
    assert_eq!(undo, [reopen(), point_back(), start(3)]);
}

#[test]
fn when_it_cannot_be_caught_up_the_one_that_has_all_is_promoted_and_it_follows() {
    let mut world = behind();
    // It was pointed at the other one, and did not get there in time.
    let finish = finished(world.run(|world, step, key| {
        (is_catch_up_from(step) && *key == self::key(2)).then(|| {
            world.facts(key).channels[0].source = self::key(3);
            world.facts(key).channels[0].io = ThreadState::Stopped;
            Outcome::Failed("not within 60000 ms".to_owned())
        })
    }));
    assert_eq!(finish.successor.unwrap().0, key(3));
    assert_eq!(world.log.iter().filter(|line| *line == "catch").count(), 1);
    let caught_up = world.tree.get(&key(2)).unwrap();
    assert_eq!(caught_up.source(), Some(&key(3)));
    assert_eq!(
        caught_up.channel().unwrap().io,
        ThreadState::Running,
        "it is started again"
    );
    assert!(finish.lost_replicas.is_empty());
}

#[test]
fn when_nobody_else_may_be_promoted_the_loss_policy_decides() {
    let fails = |_: &mut World, step: &Step, _: &InstanceKey| {
        is_catch_up_from(step).then(|| Outcome::Failed("not within 60000 ms".to_owned()))
    };
    let mut world = forbidden();
    let finish = finished(world.run(fails));
    assert_eq!(
        (finish.successor.unwrap().0, finish.lost),
        (key(2), Some(mysql_set("1:91-100")))
    );
    let mut world = forbidden();
    world.policy.loss = LossPolicy::Refuse;
    let (reason, undo) = aborted(world.run(fails));
    assert!(reason.contains("lossPolicy is Refuse"), "{reason}");
    assert_eq!(undo, [start_all()]);
}

#[test]
fn a_caught_up_replica_is_pointed_back_when_the_primary_is_back() {
    let mut world = behind();
    let (reason, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
        }
        None
    }));
    assert!(reason.starts_with("came back"), "{reason}");
    assert_eq!(undo, [point_back(), start(3)]);
    // It died meanwhile: what was done is undone when it can be, whatever it said last.
    let mut world = behind();
    let (_, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
            world.server(&self::key(2)).failure = Some(crate::domain::instance::ProbeFailure::Refused);
        }
        None
    }));
    assert_eq!(undo, [point_back(), start(3)]);
}

#[test]
fn what_somebody_had_stopped_is_left_stopped_when_it_is_put_back() {
    let comes_back = |world: &mut World, step: &Step, key: &InstanceKey| {
        if matches!(step, Step::Redial { .. }) {
            world.server(key).failure = None;
        }
        None
    };
    // The one that was fed.
    let rules = BTreeMap::from([(key(2), PromotionRule::Prefer)]);
    let stopped = cut(2, "1:1-90").channel(|channel| channel.io = ThreadState::Stopped);
    let mut world = world_with([db1(), stopped, cut(3, "1:1-100")], rules.clone());
    let back = Undo::RepointBack {
        replica: key(2),
        source: key(1),
        starts: false,
    };
    assert_eq!(aborted(world.run(comes_back)).1, [back, start(3)]);
    // The one that it was fed from, and one that a feeding had frozen again.
    let stopped = cut(3, "1:1-100").channel(|channel| channel.io = ThreadState::Stopped);
    let mut world = world_with([db1(), cut(2, "1:1-90"), stopped], rules);
    assert_eq!(aborted(world.run(comes_back)).1, [point_back()]);
}

#[test]
fn the_next_actor_goes_on_in_the_middle_of_a_catching_up() {
    goes_on(behind);
    // Or puts back what the one before it had done.
    let mut world = half_caught_up(behind(), ThreadState::Running);
    let (_, undo) = aborted(world.run(|world, step, key| {
        if matches!(step, Step::Fence { .. }) {
            world.server(key).failure = None;
        }
        None
    }));
    assert_eq!(undo, [reopen(), point_back(), start(3)]);
}

#[test]
fn a_catching_up_that_broke_off_is_receiver_stopped_again() {
    let mut world = forbidden();
    let mut caught_up = 0;
    let finish = finished(world.run(|world, step, key| {
        caught_up += u32::from(is_catch_up_from(step));
        (is_catch_up_from(step) && *key == self::key(2)).then(|| {
            let channel = &mut world.facts(key).channels[0];
            (channel.source, channel.io) = (self::key(3), ThreadState::Running);
            Outcome::Unknown("connection lost".to_owned())
        })
    }));
    assert_eq!(finish.successor.unwrap().0, key(2));
    assert_eq!(world.log[..5], ["fence", "stop", "catch", "stop", "drain"]);
}
