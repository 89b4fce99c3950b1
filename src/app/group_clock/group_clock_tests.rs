use std::sync::Mutex;

use super::*;

const NOW: i64 = 1_700_000_000_000;
const HOURS_3: i64 = 3 * 3_600_000;
const LIMIT: u64 = 5000;

/// A clock that a test sets.
struct HandClock(Mutex<(i64, u64)>);

impl HandClock {
    fn pass(&self, millis: u64) {
        let mut hands = self.0.lock().unwrap();
        hands.0 += i64::try_from(millis).unwrap();
        hands.1 += millis * 1000;
    }

    fn jump(&self, millis: i64) {
        self.0.lock().unwrap().0 += millis;
    }
}

impl Clock for HandClock {
    fn wall(&self) -> WallTime {
        WallTime(self.0.lock().unwrap().0)
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(self.0.lock().unwrap().1)
    }
}

fn clock() -> (Arc<HandClock>, GroupClock) {
    let own = Arc::new(HandClock(Mutex::new((NOW, 1))));
    let group = GroupClock::new(Arc::<HandClock>::clone(&own), LIMIT);
    (own, group)
}

fn readings(times: &[i64]) -> Vec<ClockReading> {
    let members = (1..).zip(times);
    members
        .map(|(member, at)| ClockReading {
            member,
            name: format!("m{member}"),
            at: WallTime(*at),
            uncertainty_millis: 1,
        })
        .collect()
}

#[test]
fn a_member_that_is_three_hours_ahead_uses_the_time_of_the_others() {
    let (own, clock) = clock();
    own.jump(HOURS_3);
    clock.expect_comparison();
    assert!(!clock.comparison().agreed, "nothing is compared yet");
    clock.compare(&readings(&[NOW + HOURS_3, NOW, NOW + 3]), 3, WallTime(NOW - 100));
    assert_eq!(clock.wall(), WallTime(NOW + 3));
    own.pass(1500);
    assert_eq!(clock.wall(), WallTime(NOW + 1503));
    let comparison = clock.comparison();
    assert!(comparison.agreed);
    let skewed: Vec<String> = comparison.skewed().map(|offset| offset.name.clone()).collect();
    assert_eq!(skewed, ["m1"]);
}

#[test]
fn a_jump_between_two_comparisons_changes_nothing_until_a_majority_has_made_it() {
    let (own, clock) = clock();
    clock.compare(&readings(&[NOW, NOW, NOW]), 3, WallTime(0));
    own.pass(400);
    own.jump(HOURS_3);
    assert_eq!(clock.wall(), WallTime(NOW + 400));
    clock.compare(&readings(&[NOW + 400 + HOURS_3, NOW + 400, NOW + 400]), 3, WallTime(0));
    assert_eq!(clock.wall(), WallTime(NOW + 400));
    let late = NOW + 400 + HOURS_3;
    clock.compare(&readings(&[late, late, NOW + 400]), 3, WallTime(0));
    assert_eq!(clock.wall(), WallTime(late), "the machines were suspended together");
}

#[test]
fn two_members_that_disagree_keep_the_time_that_they_had() {
    let (own, clock) = clock();
    clock.compare(&readings(&[NOW, NOW]), 2, WallTime(0));
    own.pass(1000);
    own.jump(HOURS_3);
    clock.compare(&readings(&[NOW + 1000 + HOURS_3, NOW + 1000]), 2, WallTime(0));
    assert_eq!(clock.wall(), WallTime(NOW + 1000));
    own.pass(AGREED_FOR_MILLIS);
    assert!(!clock.comparison().agreed, "neither of them is a majority");
}

#[test]
fn a_small_difference_is_left_alone() {
    let (_, clock) = clock();
    clock.compare(&readings(&[NOW, NOW + 300, NOW + 300]), 3, WallTime(0));
    assert_eq!(clock.wall(), WallTime(NOW));
    assert_eq!(clock.comparison().skewed().count(), 0);
}

#[test]
fn the_clock_of_a_silent_member_stays_known_and_that_of_a_removed_one_does_not() {
    let (_, clock) = clock();
    clock.compare(&readings(&[NOW, NOW, NOW + HOURS_3]), 3, WallTime(0));
    clock.compare(&readings(&[NOW, NOW]), 3, WallTime(0));
    assert_eq!(clock.comparison().skewed().count(), 1);
    clock.retain_members(|member| member != 3);
    assert_eq!(clock.comparison().skewed().count(), 0);
}

#[test]
fn a_jump_of_the_only_clock_is_noticed() {
    let at = |wall: i64, mono: u64| (WallTime(wall), MonotonicTime(mono * 1000));
    assert_eq!(jump(at(NOW, 10), at(NOW + 1000, 1010), LIMIT), None);
    assert_eq!(jump(at(NOW, 10), at(NOW + 1000 + HOURS_3, 1010), LIMIT), Some(HOURS_3));
    assert_eq!(jump(at(NOW, 10), at(NOW + 1000 - HOURS_3, 1010), LIMIT), Some(-HOURS_3));
}
