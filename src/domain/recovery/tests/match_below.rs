use super::*;
use crate::domain::recovery::planner::plan_match;

fn plain(n: u32, source: u32) -> Instance {
    replica(n, source, "")
        .facts(|facts| facts.gtid_mode = "OFF".to_owned())
        .channel(|channel| channel.positioning = Positioning::FilePosition)
}

fn policy() -> Policy {
    Policy {
        pseudo_gtid: true,
        ..Policy::default()
    }
}

fn tree(change: impl FnOnce(Instance) -> Instance, of_target: impl FnOnce(Instance) -> Instance) -> Topology {
    topology([primary(1, ""), of_target(plain(2, 1)), change(plain(3, 1)), plain(4, 3)])
}

#[test]
fn a_replica_can_be_put_below_a_sibling() {
    let tree = tree(|it| it, |it| it);
    let made = plan_match(&key(3), &key(2), &tree, &policy()).unwrap();
    assert_eq!(lint(&made, &tree), Vec::<String>::new());
    assert_eq!(made.instances, BTreeSet::from([key(2), key(3)]));
    assert!(!made.kind.replaces_primary());
}

#[test]
fn what_speaks_against_it_is_told_before_anything_is_touched() {
    let why = |tree: &Topology, to: u32| plan_match(&key(3), &key(to), tree, &policy()).unwrap_err();
    let same = |it: Instance| it;
    assert!(why(&tree(same, same), 3).contains("itself"));
    assert!(why(&tree(same, same), 4).contains("replicates from"));
    assert!(why(&tree(same, same), 9).contains("not in this cluster"));
    let by_gtid = |it: Instance| it.channel(|channel| channel.positioning = Positioning::AutoPosition);
    assert!(why(&tree(by_gtid, same), 2).contains("by GTID"));
    let delayed = |it: Instance| it.channel(|channel| channel.delay_seconds = 60);
    assert!(why(&tree(delayed, same), 2).contains("delayed"));
    let silent = |it: Instance| it.facts(|facts| facts.log_replica_updates = false);
    assert!(why(&tree(same, silent), 2).contains("log_replica_updates"));
    let filtered = |it: Instance| it.channel(|channel| channel.filtered = true);
    assert!(why(&tree(same, filtered), 2).contains("filters"));
    assert!(why(&tree(same, |it: Instance| it.dead()), 2).contains("does not answer"));
    let off = plan_match(&key(3), &key(2), &tree(same, same), &Policy::default());
    assert!(off.unwrap_err().contains("AutoPseudoGTID"));
}
