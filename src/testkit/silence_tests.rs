//! A primary that sends no packets: which evidence is needed for a failover, and when nothing is done.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::commit_stall::{CommitStall, Obstacle};
use crate::domain::finding::{Code, OpinionVerdict};
use crate::domain::fixture::key;
use crate::domain::hooks::HookList;
use crate::domain::instance::ProbeFailure;
use crate::domain::policy::StalledPrimary;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::state::Recovery;

use super::{Fault, Reach, Rig, Script};

/// Neither the members nor these replicas reach the primary.
fn cut_off(rig: &Rig, replicas: impl IntoIterator<Item = u32>) {
    rig.world.with(1, |server| server.reach = Reach::Dropped);
    for replica in replicas {
        rig.world.cut(replica, 1);
    }
}

fn receives(rig: &Rig, n: u32) -> bool {
    rig.world
        .with(n, |server| server.channel.as_ref().is_some_and(|link| link.receives))
}

fn only(recoveries: Vec<Recovery>) -> Recovery {
    assert_eq!(recoveries.len(), 1, "{recoveries:#?}");
    recoveries.into_iter().next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_primary_cut_off_from_everybody_is_replaced_within_five_seconds() {
    for (servers, members) in [(3, 3), (2, 3), (4, 1)] {
        let rig = Rig::started(servers, members).await;
        rig.world.write(1, 5);
        rig.wait(1000).await;
        cut_off(&rig, 2..=servers);
        let begun = Instant::now();
        let recovery = only(rig.recovered(1).await);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(recovery.is_successful(), "{recovery:#?}");
        assert_eq!(recovery.finding.code, Code::UnreachableMaster);
        assert_eq!(recovery.successor(), Some(&key(2)));
        assert_eq!(rig.world.opened(), ["db2:3306"]);
        let silent = recovery
            .opinions
            .iter()
            .filter(|opinion| matches!(opinion.verdict, OpinionVerdict::Silent(_)));
        assert_eq!(silent.count() as u64, members);
        for replica in 3..=servers {
            assert!(receives(&rig, replica));
        }
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn one_replica_that_reaches_it_keeps_it_whichever_that_is() {
    for connected in [2, 3, 4] {
        let rig = Rig::started(4, 3).await;
        cut_off(&rig, (2..=4).filter(|replica| *replica != connected));
        rig.wait(25_000).await;
        let recovery = only(rig.recoveries());
        assert!(!recovery.is_successful() && recovery.successor().is_none());
        let told = format!("db{connected}:3306 has reached db1:3306 again");
        assert!(
            recovery.errors.iter().any(|error| error.contains(&told)),
            "{recovery:#?}"
        );
        assert_eq!(rig.world.opened(), Vec::<String>::new());
        assert!((2..=4).all(|replica| receives(&rig, replica)));
        assert!(!rig.world.with(1, |server| server.read_only));
        // It is not tried again and again.
        rig.wait(60_000).await;
        assert!(rig.recoveries().len() <= 4, "{}", rig.recoveries().len());
        assert_eq!(rig.world.opened(), Vec::<String>::new());
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_test_holds_back_the_next_test_and_no_failover_of_a_primary_that_dies() {
    for refuses in [true, false] {
        let rig = Rig::started(4, 3).await;
        cut_off(&rig, [2, 3]);
        assert!(!only(rig.recovered(1).await).is_successful());
        rig.wait(5000).await;
        assert_eq!(rig.recoveries().len(), 1, "the next test waits");
        // Whether it refuses, or is silent as before and its last replica has lost it too: it is seen dead.
        if refuses {
            rig.world.with(1, |server| server.reach = Reach::Answers);
        }
        let died = Instant::now();
        rig.world.kill(1);
        let recoveries = rig.recovered(2).await;
        assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
        assert!(recoveries[1].is_successful(), "{:#?}", recoveries[1]);
        assert_eq!(recoveries[1].finding.code, Code::DeadMaster);
        assert_eq!(rig.world.opened(), ["db2:3306"]);
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrives_at_a_replica_is_proof_enough_and_nothing_is_touched() {
    let rig = Rig::started(3, 3).await;
    cut_off(&rig, [2]);
    for _ in 0..100 {
        rig.world.write(1, 1);
        rig.wait(100).await;
    }
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
    let held_back = rig.members[&1].coordinator.held_back(&key(1)).unwrap().to_string();
    assert!(held_back.contains("db3:3306 receives from db1:3306"), "{held_back}");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_reaches_it_or_knows_it_stalled_is_a_veto() {
    for verdict in [
        OpinionVerdict::Alive("it answers me".to_owned()),
        OpinionVerdict::Stalled("it accepts connections".to_owned()),
    ] {
        let rig = Rig::started(3, 3).await;
        rig.group.says(3, verdict);
        cut_off(&rig, [2, 3]);
        rig.wait(5000).await;
        assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_minority_that_sees_it_silent_does_not_even_ask_the_replicas_to_prove_it() {
    let rig = Rig::started(3, 3).await;
    for member in [2, 3] {
        rig.group.says(member, OpinionVerdict::Abstains("blind".to_owned()));
    }
    cut_off(&rig, [2, 3]);
    rig.wait(5000).await;
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_next_leader_begins_the_test_again() {
    for (n, statement) in [
        (2, "stop_receiver"),
        (3, "start_receiver"),
        (2, "start_receiver"),
        (3, "stop_receiver"),
    ] {
        for heals in [false, true] {
            let rig = Rig::started(3, 3).await;
            let group = rig.group.clone();
            rig.world.plan(Fault::then(n, statement, move |inner| {
                group.depose(1);
                if heals {
                    inner.servers.get_mut(&key(1)).unwrap().reach = Reach::Answers;
                    inner.heal(&key(2));
                    inner.heal(&key(3));
                }
            }));
            cut_off(&rig, [2, 3]);
            let recovery = only(rig.recovered(1).await);
            assert_eq!(recovery.is_successful(), !heals, "{statement} on db{n}: {recovery:#?}");
            if heals {
                assert_eq!(rig.world.writable(), [key(1)]);
                assert!(receives(&rig, 2) && receives(&rig, 3));
            } else {
                assert_eq!(rig.world.opened(), ["db2:3306"]);
                assert!(receives(&rig, 3));
            }
            rig.world.assert_sound();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_that_opens_again_before_the_opening_ends_it() {
    let rig = Rig::started(3, 3).await;
    // The second stop of the receiver thread is the step that stops receivers.
    let mut heals = Fault::first(3, "stop_receiver", |inner| {
        inner.servers.get_mut(&key(1)).unwrap().reach = Reach::Answers;
        inner.heal(&key(2));
        inner.heal(&key(3));
    });
    heals.after = 1;
    rig.world.plan(heals);
    cut_off(&rig, [2, 3]);
    let recovery = only(rig.recovered(1).await);
    assert!(!recovery.is_successful(), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(1)]);
    assert!(receives(&rig, 2) && receives(&rig, 3));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn what_was_stalled_stays_stalled_when_its_queue_is_full() {
    let rig = Rig::started(3, 3).await;
    rig.world.with(1, |server| server.reach = Reach::Stalls);
    rig.wait(3000).await;
    rig.world.with(1, |server| server.reach = Reach::Dropped);
    rig.wait(60_000).await;
    for member in rig.members.values() {
        let failure = member.instance_cache.get(&key(1)).unwrap().instance.failure;
        assert_eq!(failure, Some(ProbeFailure::Stalled));
    }
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
    // It goes on.
    rig.world.with(1, |server| server.reach = Reach::Answers);
    rig.until("it answers", |rig| {
        rig.members
            .values()
            .all(|member| member.instance_cache.get(&key(1)).unwrap().instance.is_valid())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_stalled_and_refuses_is_dead() {
    let rig = Rig::started(3, 3).await;
    rig.world.with(1, |server| server.reach = Reach::Stalls);
    rig.wait(3000).await;
    rig.world.with(1, |server| server.reach = Reach::Answers);
    rig.world.kill(1);
    let recovery = only(rig.recovered(1).await);
    assert_eq!(recovery.successor(), Some(&key(2)), "{recovery:#?}");
    rig.world.assert_sound();
}

/// A group that replaces a stalled primary after ten seconds; it is stalled from now on.
async fn stalled(cut: &[u32]) -> Rig {
    let mut rig = Rig::new(3, 3);
    rig.policy.stalled = StalledPrimary::Failover;
    rig.policy.stalled_timeout_millis = 10_000;
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.wait(1000).await;
    rig.world.with(1, |server| server.reach = Reach::Stalls);
    for replica in cut {
        rig.world.cut(*replica, 1);
    }
    rig
}

#[tokio::test(start_paused = true)]
async fn by_policy_a_primary_that_stays_stalled_is_replaced_after_a_while() {
    let rig = stalled(&[2, 3]).await;
    rig.wait(9000).await;
    assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0));
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.finding.code, Code::StalledPrimary);
    assert_eq!(rig.world.opened(), ["db2:3306"]);
    // It goes on, and is writable until it is seen.
    rig.world.with(1, |server| server.reach = Reach::Answers);
    rig.until("it is read-only", |rig| rig.world.writable() == [key(2)])
        .await;
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_primary_from_which_a_replica_receives_stays_whatever_the_policy() {
    let rig = stalled(&[2]).await;
    rig.wait(30_000).await;
    let recovery = only(rig.recoveries());
    assert!(!recovery.is_successful(), "{recovery:#?}");
    assert!(receives(&rig, 2) && receives(&rig, 3));
    assert_eq!(rig.world.opened(), Vec::<String>::new());
}

// === a primary that answers and commits nothing ===

/// A group with this policy, which sees that db1 has committed nothing for so long.
async fn commits_nothing(policy: StalledPrimary, obstacle: Obstacle, seconds: u64, fencer: bool) -> Rig {
    let mut rig = Rig::new(3, 3);
    rig.policy.stalled = policy;
    rig.policy.stalled_timeout_millis = 10_000;
    if fencer {
        rig.policy.fences_outside = true;
        rig.hook_settings.lists = [(HookList::Fencing, vec!["fence".to_owned()])].into();
    }
    for id in 1..=3 {
        rig.start(id);
    }
    rig.settled().await;
    rig.wait(1000).await;
    let stall = CommitStall {
        obstacle,
        state: "waiting for handler commit".to_owned(),
        sessions: 2,
        seconds,
    };
    for member in rig.members.values() {
        member.instance_cache.set_commit_stall(&key(1), Some(stall.clone()));
    }
    rig
}

/// What blocks the statement for all tries of one recovery.
fn blocks_read_only(rig: &Rig) {
    for _ in 0..30 {
        rig.world.plan(Fault::blocked(1, "set_read_only"));
    }
}

#[tokio::test(start_paused = true)]
async fn by_policy_a_primary_that_commits_nothing_is_fenced_and_replaced() {
    let rig = commits_nothing(StalledPrimary::Failover, Obstacle::Commit, 12, false).await;
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(recovery.finding.code, Code::StalledPrimary);
    assert_eq!(
        recovery.fencing_proof,
        Some(FencingProof::OldPrimaryReadOnly { bypass: None })
    );
    let loss = recovery.loss().unwrap();
    assert!(loss.starts_with("none: the old primary is read-only"), "{loss}");
    assert_eq!(rig.world.writable(), [key(2)]);
    assert_eq!(rig.world.opened(), ["db2:3306"]);
    let log = rig.world.log();
    let at = |statement: &str| log.iter().position(|line| line.starts_with(statement)).unwrap();
    assert!(at("db1:3306 set_read_only") < at("db1:3306 kill_clients"), "{log:?}");
    assert!(at("db1:3306 kill_clients") < at("db2:3306 set_writable"), "{log:?}");
    assert!(receives(&rig, 3));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn commits_that_block_the_fence_are_ended_with_their_sessions() {
    let rig = commits_nothing(StalledPrimary::Failover, Obstacle::DiskSpace, 12, false).await;
    rig.world.plan(Fault::blocked(1, "set_read_only"));
    let recovery = only(rig.recovered(1).await);
    assert!(recovery.is_successful(), "{recovery:#?}");
    assert_eq!(rig.world.writable(), [key(2)]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn without_a_proof_that_it_is_fenced_it_stays_the_primary_and_takes_writes_again() {
    let rig = commits_nothing(StalledPrimary::Failover, Obstacle::Commit, 12, false).await;
    blocks_read_only(&rig);
    let recovery = only(rig.recovered(1).await);
    assert!(!recovery.is_successful(), "{recovery:#?}");
    let why = "db1:3306 answers and commits nothing, and nothing proves that it takes no more writes: ";
    assert!(recovery.errors[0].starts_with(why), "{:?}", recovery.errors);
    assert!(recovery.errors[0].ends_with("end the server, or set FencingProcesses"));
    assert_eq!(rig.world.writable(), [key(1)]);
    assert!(receives(&rig, 2) && receives(&rig, 3));
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_fencer_replaces_the_proof_that_it_does_not_give_and_its_failure_ends_it() {
    for succeeds in [true, false] {
        let rig = commits_nothing(StalledPrimary::Failover, Obstacle::Commit, 12, true).await;
        blocks_read_only(&rig);
        if !succeeds {
            let code = 3;
            rig.hooks.plan("fence", Script { code, ..Script::good() });
        }
        let recovery = only(rig.recovered(1).await);
        assert_eq!(recovery.is_successful(), succeeds, "{recovery:#?}");
        let wanted = succeeds.then_some(FencingProof::FencedOutside);
        assert_eq!(recovery.fencing_proof, wanted);
        let opened = rig.world.opened().contains(&"db2:3306".to_owned());
        assert_eq!(opened, succeeds);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_leader_fences_it_again_before_anything_is_opened() {
    for statement in ["set_read_only", "kill_clients"] {
        let rig = commits_nothing(StalledPrimary::Failover, Obstacle::Commit, 12, false).await;
        let group = rig.group.clone();
        rig.world.plan(Fault::then(1, statement, move |_| group.depose(1)));
        let recovery = only(rig.recovered(1).await);
        assert!(recovery.is_successful(), "{statement}: {recovery:#?}");
        let fences = rig.world.log();
        let fences = fences
            .iter()
            .filter(|line| line.starts_with("db1:3306 set_read_only by member2"));
        assert!(fences.count() > 0, "{statement}");
        assert_eq!(rig.world.writable(), [key(2)]);
        rig.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_commits_nothing_stays_unless_the_policy_and_the_time_say_otherwise() {
    use StalledPrimary::{Failover, Observe};
    for (policy, obstacle, seconds, wanted) in [
        (Observe, Obstacle::Commit, 99, "no recovery exists for this finding"),
        (Failover, Obstacle::Commit, 9, "committed nothing for 10 s"),
        (Failover, Obstacle::GlobalLock, 99, "no failover follows a lock"),
    ] {
        let rig = commits_nothing(policy, obstacle, seconds, false).await;
        rig.wait(5000).await;
        assert_eq!((rig.recoveries().len(), rig.world.log().len()), (0, 0), "{obstacle:?}");
        let findings = rig.view_of(1).findings;
        let about = findings
            .iter()
            .find(|judged| judged.finding.code == Code::StalledPrimary);
        let told = about.and_then(|judged| judged.held_back.as_ref()).unwrap().to_string();
        assert!(told.contains(wanted), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_commits_nothing_and_answers_no_more_at_the_fence_is_given_up() {
    let rig = commits_nothing(StalledPrimary::Failover, Obstacle::Commit, 12, false).await;
    rig.world.with(1, |server| server.reach = Reach::Stalls);
    let recovery = only(rig.recovered(1).await);
    assert!(!recovery.is_successful(), "{recovery:#?}");
    assert!(
        recovery.errors[0].starts_with("db1:3306 no longer answers, and is judged anew"),
        "{:?}",
        recovery.errors
    );
    assert_eq!(rig.world.opened(), Vec::<String>::new());
    rig.world.assert_sound();
}
