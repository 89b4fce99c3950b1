//! After a forced quorum no recovery is resumed or started until an operator enables recoveries.

use crate::domain::fixture::key;
use crate::domain::state::{Applied, Command};

use super::Rig;

fn force() -> Command {
    Command::ForceQuorum {
        survivor: 2,
        survivor_name: "member2".to_owned(),
        lost: vec!["member1".to_owned(), "member3".to_owned()],
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_waits_until_recoveries_are_enabled() {
    let rig = Rig::started(3, 3).await;
    // The leader is lost right after its claim.
    let group = rig.group.clone();
    rig.group.then("claim", move || {
        group.depose(1);
        assert_eq!(group.commit(force()), Applied::Done);
    });
    rig.world.kill(1);
    rig.until("a recovery is claimed", |rig| !rig.recoveries().is_empty())
        .await;
    rig.wait(20_000).await;
    let recovery = &rig.recoveries()[0];
    assert!(recovery.is_active(), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [], "{:#?}", rig.world.log());
    rig.group.commit(Command::SetGlobalRecoveries { enabled: true });
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    assert_eq!(rig.world.writable(), [recoveries[0].successor().unwrap().clone()]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_is_not_replaced_before() {
    let rig = Rig::started(3, 3).await;
    rig.group.commit(force());
    rig.world.kill(1);
    rig.wait(20_000).await;
    assert!(rig.recoveries().is_empty());
    rig.group.commit(Command::SetGlobalRecoveries { enabled: true });
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].epoch > 1000, "{}", recoveries[0].epoch);
    assert_ne!(rig.world.writable(), [key(1)]);
    rig.world.assert_sound();
}
