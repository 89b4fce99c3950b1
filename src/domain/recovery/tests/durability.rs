//! What the durability policy wants of a primary and its replicas. db1 is the primary.

use super::*;
use crate::domain::commit_stall::{CommitStall, Obstacle};
use crate::domain::policy::{Durability, DurabilityMode};
use crate::domain::recovery::next_action::NextAction;
use crate::domain::recovery::planner::plan_durability;
use crate::domain::recovery::progress::next;
use crate::domain::recovery::semi_sync::{SourceTerms, target_of_successor};
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::state::Phase;

fn policy(mode: DurabilityMode, count: u32, strict: bool) -> Policy {
    Policy {
        durability: Durability { mode, count, strict },
        ..Policy::default()
    }
}

fn semi_sync(count: u32) -> Policy {
    policy(DurabilityMode::SemiSync, count, false)
}

fn source() -> Instance {
    primary(1, "1:1-100").facts(|facts| {
        facts.semi_sync.available = true;
        facts.data_center = "one".to_owned();
    })
}

/// Set as the policy wants it, for so many.
fn waiting_for(count: u32) -> Instance {
    source().facts(|facts| {
        let semi_sync = &mut facts.semi_sync;
        semi_sync.source_enabled = true;
        semi_sync.source_active = true;
        semi_sync.wait_for_count = count;
        semi_sync.wait_no_replica = true;
        semi_sync.after_sync = true;
        semi_sync.timeout_millis = u64::from(u32::MAX);
    })
}

fn stuck(count: u32) -> Instance {
    let mut primary = waiting_for(count).facts(|facts| facts.semi_sync.wait_sessions = 1);
    primary.acks_awaited_since = Some(NOW.plus_millis(-10_000));
    primary
}

fn able(n: u32) -> Instance {
    replica(n, 1, "1:1-100").facts(|facts| facts.semi_sync.available = true)
}

fn on(n: u32) -> Instance {
    able(n).facts(|facts| {
        facts.semi_sync.replica_enabled = true;
        facts.semi_sync.replica_active = true;
    })
}

fn at(place: &str, instance: Instance) -> Instance {
    instance.facts(|facts| facts.data_center = place.to_owned())
}

fn keys(servers: &[u32]) -> BTreeSet<InstanceKey> {
    servers.iter().map(|n| key(*n)).collect()
}

fn acknowledge(servers: &[u32], on: bool) -> Step {
    Step::Acknowledge {
        replicas: keys(servers),
        on,
    }
}

fn wait_for(server: u32, wait_for: u32) -> Step {
    Step::SetSemiSyncSource {
        servers: keys(&[server]),
        terms: SourceTerms { wait_for },
    }
}

#[track_caller]
fn steps(policy: &Policy, instances: impl IntoIterator<Item = Instance>) -> Vec<Step> {
    let mut tree = topology(instances);
    tree.recorded_primary = Some(key(1));
    let Some(plan) = plan_durability(&tree, policy, NOW).unwrap() else {
        return Vec::new();
    };
    assert_eq!(lint(&plan, &tree), Vec::<String>::new());
    plan.steps
}

#[test]
fn without_a_policy_semi_sync_is_left_as_it_is() {
    assert_eq!(steps(&Policy::default(), [source(), able(2), on(3)]), []);
}

#[test]
fn replicas_acknowledge_before_the_primary_waits_for_them() {
    let fresh = [source(), able(2), able(3), able(4)];
    assert_eq!(
        steps(&semi_sync(1), fresh),
        [acknowledge(&[2, 3], true), wait_for(1, 1)]
    );
    // One more than is waited for, and those that do it already first.
    assert_eq!(steps(&semi_sync(1), [waiting_for(1), able(2), on(3), on(4)]), []);
    let one = [waiting_for(1), able(2), on(3)];
    assert_eq!(steps(&semi_sync(1), one), [acknowledge(&[2], true)]);
    let more = [waiting_for(1), on(2), on(3), able(4)];
    assert_eq!(steps(&semi_sync(2), more), [acknowledge(&[4], true), wait_for(1, 2)]);
}

#[test]
fn no_more_are_waited_for_than_can_acknowledge_unless_the_policy_is_strict() {
    let small = || [source(), able(2)];
    assert_eq!(steps(&semi_sync(2), small()), [acknowledge(&[2], true), wait_for(1, 1)]);
    let strict = policy(DurabilityMode::SemiSync, 2, true);
    assert_eq!(steps(&strict, small()), [acknowledge(&[2], true), wait_for(1, 2)]);
    assert_eq!(steps(&semi_sync(1), [source()]), [], "nobody is there to wait for");
    let mariadb = [mariadb_primary(1, "0-1-9").facts(|facts| facts.semi_sync.available = true)];
    let replicas = [2, 3, 4].map(|n| mariadb_replica(n, 1, "0-1-9").facts(|facts| facts.semi_sync.available = true));
    assert_eq!(
        steps(&semi_sync(2), mariadb.into_iter().chain(replicas)),
        [acknowledge(&[2, 3], true), wait_for(1, 1)],
        "MariaDB waits for one"
    );
}

#[test]
fn a_primary_waits_for_fewer_only_when_its_commits_wait_in_vain() {
    let gone = |primary| [primary, on(2).dead()];
    assert_eq!(
        steps(&semi_sync(1), gone(waiting_for(1))),
        [],
        "it may be back in a moment"
    );
    assert_eq!(steps(&semi_sync(1), gone(stuck(1))), [wait_for(1, 0)]);
    let strict = policy(DurabilityMode::SemiSync, 1, true);
    assert_eq!(steps(&strict, gone(stuck(1))), [], "the policy wants it to wait");
    assert_eq!(steps(&semi_sync(2), [stuck(2), on(2), on(3).dead()]), [wait_for(1, 1)]);
    assert_eq!(
        steps(&semi_sync(1), [stuck(1), on(2).dead(), able(3)]),
        [acknowledge(&[3], true)],
        "another one comes first"
    );
    let again = source().facts(|facts| facts.semi_sync.wait_for_count = 1);
    assert_eq!(steps(&semi_sync(1), [again, on(2)]), [wait_for(1, 1)], "it is back");
}

#[test]
fn across_data_centres_those_of_the_primarys_own_do_not_acknowledge() {
    let across = policy(DurabilityMode::CrossDataCenter, 1, false);
    let tree = [
        source(),
        at("one", on(2)),
        at("two", able(3)),
        at("three", able(4)),
        at("", able(5)),
    ];
    assert_eq!(
        steps(&across, tree),
        [acknowledge(&[3, 4], true), wait_for(1, 1), acknowledge(&[2], false)]
    );
    // Nobody is switched off while no other is there.
    let alone = [waiting_for(1), at("one", on(2))];
    assert_eq!(steps(&across, alone), []);
    let mut tree = topology([at("", source()), at("two", able(2))]);
    tree.recorded_primary = Some(key(1));
    assert!(
        plan_durability(&tree, &across, NOW)
            .unwrap_err()
            .contains("data centre")
    );
}

#[test]
fn replicas_that_would_wait_themselves_are_told_not_to() {
    let waits = on(2).facts(|facts| {
        facts.semi_sync.source_enabled = true;
        facts.semi_sync.wait_no_replica = true;
    });
    assert_eq!(steps(&semi_sync(1), [waiting_for(1), waits, on(3)]), [wait_for(2, 0)]);
}

#[test]
fn without_the_plugin_nothing_is_done_and_it_is_said() {
    let mut tree = topology([primary(1, "1:1-100"), able(2)]);
    tree.recorded_primary = Some(key(1));
    assert!(
        plan_durability(&tree, &semi_sync(1), NOW)
            .unwrap_err()
            .contains("plugins")
    );
    let found = crate::domain::analysis::findings(&tree, &semi_sync(1), &[], NOW);
    let told = found
        .iter()
        .find(|finding| finding.code == Code::DurabilityNotKept)
        .unwrap();
    assert_eq!(told.instance, key(1));
    assert!(
        told.description.contains("INSTALL PLUGIN rpl_semi_sync_source"),
        "{}",
        told.description
    );
}

#[test]
fn a_successor_waits_for_those_that_will_follow_it_and_are_set_to() {
    let tree = topology([waiting_for(1).dead(), on(2), on(3), able(4), able(5)]);
    let followers = keys(&[3, 4, 5]);
    let of = |policy: &Policy, only_set| target_of_successor(&tree, &key(2), &followers, policy, only_set);
    assert_eq!(of(&Policy::default(), false), None);
    let (terms, acknowledging) = of(&semi_sync(1), false).unwrap();
    assert_eq!((terms.wait_for, acknowledging), (1, keys(&[3, 4])));
    let (terms, acknowledging) = of(&semi_sync(2), true).unwrap();
    assert_eq!((terms.wait_for, acknowledging), (1, keys(&[3])));
    let strict = policy(DurabilityMode::SemiSync, 2, true);
    assert_eq!(of(&strict, true).unwrap().0.wait_for, 2);
    let nobody = target_of_successor(&tree, &key(2), &BTreeSet::new(), &semi_sync(1), false);
    assert_eq!(nobody.unwrap().0.wait_for, 0);
}

#[test]
fn a_primary_is_not_made_to_wait_for_replicas_that_refused() {
    let tree = {
        let mut tree = topology([source(), able(2), able(3), able(4)]);
        tree.recorded_primary = Some(key(1));
        tree
    };
    let policy = semi_sync(2);
    let plan = plan_durability(&tree, &policy, NOW).unwrap().unwrap();
    assert_eq!(plan.steps, [acknowledge(&[2, 3, 4], true), wait_for(1, 2)]);
    let step = |done: &[StepResult]| next(&plan, &Phase::Claimed, done, &tree, &policy, NOW);
    let result = |step: Step, outcomes: &[(u32, bool)]| StepResult {
        step,
        outcomes: outcomes
            .iter()
            .map(|(n, done)| {
                let outcome = if *done {
                    Outcome::Done
                } else {
                    Outcome::Failed("no".to_owned())
                };
                (key(*n), outcome)
            })
            .collect(),
    };
    let mut done = vec![result(
        acknowledge(&[2, 3, 4], true),
        &[(2, true), (3, false), (4, false)],
    )];
    assert_eq!(step(&done), NextAction::Run(acknowledge(&[3, 4], true)));
    done.push(result(acknowledge(&[3, 4], true), &[(3, false), (4, false)]));
    assert_eq!(step(&done), NextAction::Run(wait_for(1, 1)));
    done.push(result(wait_for(1, 1), &[(1, true)]));
    let NextAction::Finish(finish) = step(&done) else {
        panic!("not over")
    };
    assert!(!finish.successful && finish.errors.len() == 2, "{:?}", finish.errors);
}

/// Its disk stalls: a lower number would confirm the commits that wait, and then it is replaced.
#[test]
fn commits_that_wait_on_a_stalled_primary_are_not_released_by_a_lower_number() {
    let lowered = [stuck(2), on(2)];
    assert_eq!(steps(&semi_sync(2), lowered), [wait_for(1, 1)]);
    let mut stalled = stuck(2);
    stalled.commit_stall = Some(CommitStall {
        obstacle: Obstacle::Commit,
        state: String::new(),
        sessions: 3,
        seconds: 9,
    });
    assert_eq!(steps(&semi_sync(2), [stalled.clone(), on(2)]), []);
    let mut tree = topology([stuck(2), on(2)]);
    tree.recorded_primary = Some(key(1));
    let plan = plan_durability(&tree, &semi_sync(2), NOW).unwrap().unwrap();
    tree.instances.insert(key(1), stalled);
    assert!(lint(&plan, &tree).join("; ").contains("would be confirmed"));
}
