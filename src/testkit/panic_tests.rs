//! Faults in ham4db itself: a panic ends one task, which begins again, and the cluster is still looked after.

use std::time::Duration;

use crate::domain::fixture::key;

use super::{Fault, Rig};

#[tokio::test(start_paused = true)]
async fn probes_that_panic_are_repeated_and_a_dead_primary_is_still_replaced() {
    let rig = Rig::started(3, 3).await;
    for _ in 0..6 {
        rig.world
            .plan(Fault::first(1, "probe", |_| panic!("a fault in a probe")));
        rig.world
            .plan(Fault::first(2, "probe", |_| panic!("a fault in a probe")));
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    assert_eq!(rig.world.writable().len(), 1);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_recovery_whose_task_panics_is_resumed() {
    for statement in ["stop_receiver", "set_writable", "follow"] {
        let rig = Rig::started(3, 3).await;
        rig.world
            .plan(Fault::first(2, statement, |_| panic!("a fault in a step")));
        rig.world
            .plan(Fault::first(3, statement, |_| panic!("a fault in a step")));
        rig.world.kill(1);
        let recoveries = rig.recovered(1).await;
        assert!(recoveries[0].is_successful(), "{statement}: {recoveries:#?}");
        let writable = rig.world.writable();
        assert!(
            writable == [key(2)] || writable == [key(3)],
            "{statement}: {writable:?}"
        );
        rig.world.assert_sound();
    }
}
