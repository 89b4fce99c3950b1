//! Members whose clocks are wrong by hours: downtimes, blocks and deadlines keep their meaning.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::fixture::{NOW, key};
use crate::domain::intent::{Intent, IntentDetails, Origin};
use crate::domain::state::Command;

use super::Rig;

const HOURS_3: i64 = 3 * 3_600_000;

fn downtime(since: i64, until: i64) -> Command {
    Command::SetIntent {
        intent: Intent {
            instance: key(1),
            origin: Origin::Api,
            details: IntentDetails::Downtime {
                owner: "ann".to_owned(),
                reason: "disk".to_owned(),
                since: NOW.plus_millis(since),
                until: Some(NOW.plus_millis(until)),
            },
        },
    }
}

/// Three servers and three members; the clock of the leader is wrong.
async fn led_by_a_clock_ahead_by(millis: i64) -> Rig {
    let mut rig = Rig::new(3, 3);
    rig.group.set_clock_ahead(1, millis);
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig
}

#[tokio::test(start_paused = true)]
async fn leader_three_hours_ahead_does_not_end_a_downtime() {
    let rig = led_by_a_clock_ahead_by(HOURS_3).await;
    rig.group.commit(downtime(0, 60_000));
    rig.world.kill(1);
    let killed = Instant::now();
    rig.wait(30_000).await;
    assert!(rig.recoveries().is_empty(), "{:#?}", rig.recoveries());
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    assert!(killed.elapsed() > Duration::from_secs(50), "{:?}", killed.elapsed());
    assert!(rig.group.state().clock < NOW.plus_millis(600_000));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn leader_three_hours_behind_does_not_prolong_a_downtime_or_a_block() {
    let mut rig = Rig::new(4, 3);
    rig.policy.block_millis = 30_000;
    rig.group.set_clock_ahead(1, -HOURS_3);
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.group.commit(downtime(0, 20_000));
    rig.world.kill(1);
    let first = rig.recovered(1).await;
    assert!(first[0].is_successful(), "{first:#?}");
    let successor = first[0].successor().unwrap().clone();
    let number = (1..=4).find(|n| key(*n) == successor).unwrap();
    rig.world.kill(number);
    let both = rig.recovered(2).await;
    assert!(both[1].is_successful(), "{both:#?}");
    let block = both[1].started.millis_since(first[0].ended().unwrap());
    assert!((29_000..60_000).contains(&block), "the block lasted {block} ms");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn state_that_an_earlier_leader_left_three_hours_ahead_is_set_back() {
    let rig = Rig::started(3, 3).await;
    rig.group.commit_late(HOURS_3, downtime(HOURS_3, HOURS_3 + 40_000));
    assert!(rig.group.state().clock >= NOW.plus_millis(HOURS_3));
    rig.until("the clock is set back", |rig| {
        rig.group.state().clock < NOW.plus_millis(600_000)
    })
    .await;
    rig.world.kill(1);
    rig.wait(20_000).await;
    assert!(rig.recoveries().is_empty(), "the downtime lasts");
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    let audit = rig.group.state();
    assert!(audit.audit.values().any(|entry| entry.kind == "correct-clock"));
    rig.world.assert_sound();
}
