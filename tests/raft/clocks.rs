//! Members whose clocks are wrong: they do not move the time of the group.

use std::sync::atomic::Ordering;

use ham4db::app::group_clock::correct_state_clock;
use ham4db::app::ports::{Clock, Consensus as _};
use ham4db::domain::time::WallTime;

use crate::harness::{Group, SystemClock, until};

const HOURS_3: i64 = 3 * 3_600_000;
/// Longer than any pause of a busy machine, far below the offset of the wrong clocks.
const NEAR: i64 = 60_000;

fn real_now() -> WallTime {
    SystemClock::default().wall()
}

fn is_real(at: WallTime) -> bool {
    (at.0 - real_now().0).abs() < NEAR
}

fn state_clock(group: &Group, index: usize) -> WallTime {
    group.nodes[index].member().state().borrow().clock
}

fn clock(group: &Group, index: usize) -> &dyn Clock {
    group.nodes[index].clock.as_ref().unwrap().as_ref()
}

fn skewed(group: &Group, index: usize) -> Vec<(String, i64)> {
    let comparison = clock(group, index).comparison();
    comparison
        .skewed()
        .map(|offset| (offset.name.clone(), offset.millis / NEAR))
        .collect()
}

fn set(group: &Group, index: usize, millis: i64) {
    group.nodes[index].clock_wrong_by.store(millis, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn founder_that_is_three_hours_ahead_does_not_move_the_clock_of_the_group() {
    // Each of them founds the group or leads later, depending on the elections.
    let group = Group::running_with(3, |group| set(group, 0, HOURS_3)).await;
    let seeds = group.commit(3).await;
    group.all_have(seeds).await;
    for index in 0..3 {
        assert!(is_real(state_clock(&group, index)), "{:?}", state_clock(&group, index));
    }
    for index in 0..3 {
        until("each member reports the skew, the wrong one too", || {
            skewed(&group, index) == [("a".to_owned(), HOURS_3 / NEAR)]
        })
        .await;
        assert!(is_real(clock(&group, index).wall()));
    }
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_whose_clock_jumps_keeps_working_with_the_majoritys_time() {
    for jump in [HOURS_3, -HOURS_3] {
        let group = Group::running(3).await;
        group.commit(1).await;
        let leader = group.leader().await;
        set(&group, leader, jump);
        let before = state_clock(&group, leader);
        let seeds = group.commit(3).await;
        group.all_have(seeds).await;
        for index in 0..3 {
            let at = state_clock(&group, index);
            assert!(is_real(at) && at >= before, "after a jump of {jump}: {at:?}");
        }
        let name = group.nodes[leader].name.clone();
        until("the jump is reported", || {
            skewed(&group, leader).iter().any(|(member, _)| *member == name)
        })
        .await;
        assert!(group.nodes[leader].leads(), "a wrong clock costs no leadership");
        set(&group, leader, 0);
        until("the report ends", || skewed(&group, leader).is_empty()).await;
        group.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_that_ran_ahead_is_set_back_once_the_clocks_agree() {
    // All clocks are wrong together: a state like one that a leader of an earlier version has left.
    let group = Group::running_with(3, |group| (0..3).for_each(|index| set(group, index, HOURS_3))).await;
    group.commit(1).await;
    let leader = group.leader().await;
    assert!(!is_real(state_clock(&group, leader)));
    for index in 0..3 {
        set(&group, index, 0);
    }
    until("the members follow their clocks", || {
        let clock = clock(&group, leader);
        is_real(clock.wall()) && clock.comparison().agreed
    })
    .await;
    let seeds = group.commit(1).await;
    group.all_have(seeds).await;
    assert!(
        !is_real(state_clock(&group, leader)),
        "a usual command sets nothing back"
    );
    let leader = group.leader().await;
    correct_state_clock(clock(&group, leader), group.nodes[leader].member().as_ref()).await;
    for index in 0..3 {
        until("the clock of the state is right", || {
            is_real(state_clock(&group, index))
        })
        .await;
    }
    group.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_not_set_back_by_a_member_that_no_majority_agrees_with() {
    let group = Group::running(2).await;
    group.commit(1).await;
    let leader = group.leader().await;
    set(&group, leader, -HOURS_3);
    let name = group.nodes[leader].name.clone();
    until("the skew is known", || {
        skewed(&group, leader).iter().any(|(member, _)| *member == name)
    })
    .await;
    let before = state_clock(&group, leader);
    correct_state_clock(clock(&group, leader), group.nodes[leader].member().as_ref()).await;
    group.commit(1).await;
    assert!(state_clock(&group, leader) >= before);
    assert!(is_real(state_clock(&group, leader)));
    group.shutdown().await;
}
