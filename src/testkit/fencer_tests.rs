//! Fencing hooks: they are called when nothing else proves that the old primary takes no writes, and their success is required
//! then.

use crate::domain::hooks::HookList;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::settings::Accounts;

use super::{Rig, Script};

async fn rig(members: u64) -> Rig {
    let mut rig = Rig::new(3, members);
    rig.hook_settings.lists = [(HookList::Fencing, vec!["fence".to_owned()])].into();
    rig.policy.fences_outside = true;
    for id in 1..=members {
        rig.start(id);
    }
    rig.settled().await;
    rig
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_does_not_answer_is_fenced_from_outside_before_another_one_is_opened() {
    let rig = rig(3).await;
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.fencing_proof, Some(FencingProof::FencedOutside));
    let ran = rig.hooks.ran();
    assert_eq!(ran.len(), 1);
    let told = |name: &str| ran[0].variables[name].clone();
    assert_eq!(
        (told("HAM4DB_FAILED"), told("HAM4DB_EPOCH"), told("HAM4DB_HOOK")),
        ("db1:3306".to_owned(), "1".to_owned(), "FencingProcesses".to_owned())
    );
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_the_fencers_success_nobody_is_opened_and_the_replicas_are_put_back() {
    let rig = rig(3).await;
    rig.hooks.plan(
        "fence",
        Script {
            code: 3,
            ..Script::good()
        },
    );
    rig.world.kill(1);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(!recovery.is_successful() && recovery.successor().is_none());
    assert!(
        recovery.errors[0].contains("nothing proves that db1:3306 takes no writes")
            && recovery.errors[0].contains("exited with 3"),
        "{:?}",
        recovery.errors
    );
    assert_eq!(recovery.fencing_proof, None);
    for n in [2, 3] {
        assert!(rig.world.with(n, |server| server.channel.as_ref().unwrap().receives));
    }
    // It is asked again with the next recovery.
    let recoveries = rig.recovered(2).await;
    assert_eq!(recoveries[1].fencing_proof, Some(FencingProof::FencedOutside));
    rig.world.assert_sound();
}

/// db1 is back at the moment of the claim, so that the fence reaches it, and it lacks what its replicas received. These accounts can write
/// there despite `read_only`.
async fn returns_behind(past_read_only: Option<Accounts>) -> Rig {
    let rig = rig(3).await;
    rig.world.with(1, |server| {
        server.lacks_super_read_only = true;
        server.past_read_only = past_read_only;
    });
    for n in [2, 3] {
        rig.world.receive(n, "1:110");
    }
    let world = rig.world.clone();
    rig.group.then("claim", move || world.start(1));
    rig.world.kill(1);
    rig
}

#[tokio::test(start_paused = true)]
async fn read_only_that_accounts_bypass_or_may_bypass_is_no_fence_and_the_fencer_is_called() {
    let app = Accounts {
        count: 1,
        names: vec!["app@%".to_owned()],
    };
    for (past_read_only, calls) in [(Some(Accounts::default()), 0), (Some(app), 1), (None, 1)] {
        let rig = returns_behind(past_read_only.clone()).await;
        let recovery = rig.recovered(1).await.remove(0);
        assert!(recovery.is_successful(), "{recovery:#?}");
        assert_eq!(rig.hooks.ran().len(), calls, "{past_read_only:?}");
        let proof = if calls == 0 {
            FencingProof::OldPrimaryReadOnly { bypass: None }
        } else {
            FencingProof::FencedOutside
        };
        assert_eq!(recovery.fencing_proof, Some(proof), "{past_read_only:?}");
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_fencer_that_fails_for_a_primary_that_accounts_can_write_on_leaves_it_the_primary() {
    let rig = returns_behind(None).await;
    let script = Script {
        code: 3,
        ..Script::good()
    };
    rig.hooks.plan("fence", script);
    let recovery = rig.recovered(1).await.remove(0);
    assert!(recovery.errors[0].contains("nothing proves that db1:3306 takes no writes"));
    assert_eq!(recovery.fencing_proof, None);
}
