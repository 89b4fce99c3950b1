use super::*;
use crate::domain::instance::{BinlogCoordinates, Positioning};

/// A replica of a server without GTIDs that received, and applied, up to a position.
fn plain(n: u32, position: u64) -> Instance {
    let at = BinlogCoordinates {
        file: "binlog.000007".to_owned(),
        position,
    };
    cut(n, "")
        .facts(|facts| {
            facts.gtid_mode = "OFF".to_owned();
            facts.binlog = Some(at.clone());
        })
        .channel(|channel| {
            channel.positioning = Positioning::FilePosition;
            channel.read = at.clone();
            channel.exec = at.clone();
        })
}

fn world() -> World {
    let dead = primary(1, "").facts(|facts| facts.gtid_mode = "OFF".to_owned()).dead();
    World::new([dead, plain(2, 900), plain(3, 900)])
}

#[test]
fn the_one_that_received_most_is_opened_and_the_other_one_follows() {
    let mut world = world();
    let end = world.run(|_, _, _| None);
    assert!(
        matches!(&end, NextAction::Finish(finish) if finish.successful),
        "{end:?}"
    );
    assert_eq!(world.writable(), ["db2"]);
    assert_eq!(world.facts(&key(3)).channels[0].source, key(2));
}

#[test]
fn a_replica_that_comes_after_the_claim_is_not_touched_however_much_it_has() {
    let mut world = world();
    let late = plain(4, 2000);
    world.tree.instances.insert(key(4), late.clone());
    let mut touched = BTreeSet::new();
    let end = world.run(|_, _, key| {
        touched.insert(key.clone());
        None
    });
    assert!(
        matches!(&end, NextAction::Finish(finish) if finish.successful),
        "{end:?}"
    );
    assert_eq!(world.writable(), ["db2"]);
    assert!(!touched.contains(&key(4)), "{touched:?}");
    assert_eq!(world.tree.get(&key(4)), Some(&late));
    assert!(!world.plan.instances.contains(&key(4)));
}
