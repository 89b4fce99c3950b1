//! What holds of any topology.

use proptest::prelude::*;

use super::*;
use crate::domain::analysis::findings;

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct Sample {
    source: u32,
    executed: u32,
    received: u32,
    gap: bool,
    errant: u32,
    failed: bool,
    log: bool,
    rule: u8,
    delay: bool,
}

fn any_sample() -> impl Strategy<Value = Sample> {
    let flags = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.2),
    );
    (
        1_u32..5,
        1_u32..12,
        0_u32..6,
        prop_oneof![3 => Just(0_u32), 1 => 1_u32..3],
        0_u8..6,
        flags,
    )
        .prop_map(
            |(source, executed, received, errant, rule, (gap, failed, log, delay))| Sample {
                source,
                executed,
                received,
                gap,
                errant,
                failed,
                log,
                rule,
                delay,
            },
        )
}

fn rule_of(sample: &Sample) -> PromotionRule {
    match sample.rule {
        0 => PromotionRule::MustNot,
        1 => PromotionRule::Prefer,
        2 => PromotionRule::PreferNot,
        _ => PromotionRule::Neutral,
    }
}

/// A dead primary (seen or not) and replicas of all kinds.
fn tree_of(samples: &[Sample], known: bool) -> (Topology, Policy) {
    let mut instances = vec![if known {
        primary(1, "1:1-9").dead()
    } else {
        Instance::unseen(key(1)).dead()
    }];
    let mut policy = Policy::default();
    for (n, sample) in (2_u32..).zip(samples) {
        let executed = if sample.gap {
            format!("1:1-{}:20", sample.executed)
        } else {
            format!("1:1-{}", sample.executed)
        };
        let executed = if sample.errant > 0 {
            format!("{executed},{n}:1-{}", sample.errant)
        } else {
            executed
        };
        let source = if sample.source < n { sample.source } else { 1 };
        let mut replica = replica(n, source, &executed)
            .cut()
            .received(&format!("1:1-{}", sample.executed + sample.received))
            .facts(|facts| facts.log_bin = sample.log)
            .channel(|channel| channel.delay_seconds = u64::from(sample.delay) * 60);
        if sample.failed {
            replica = replica.dead();
        }
        policy.promotion_rules.insert(key(n), rule_of(sample));
        instances.push(replica);
    }
    (topology(instances), policy)
}

fn any_loss() -> impl Strategy<Value = LossPolicy> {
    prop_oneof![Just(LossPolicy::Allow), Just(LossPolicy::Refuse)]
}

fn position(tree: &Topology, replica: &InstanceKey) -> GtidSet {
    ReceivedTransactions::below(tree, &key(1))
        .get(replica)
        .unwrap()
        .position
        .clone()
}

proptest! {
    #[test]
    fn every_plan_is_sound_and_promotes_nobody_forbidden(
        samples in prop::collection::vec(any_sample(), 1..6), known in any::<bool>(), loss in any_loss(),
    ) {
        let (tree, mut policy) = tree_of(&samples, known);
        policy.loss = loss;
        let (made, report) = plan(&dead_primary(), &tree, &policy, NOW);
        prop_assert_eq!(made.is_some(), report.no_plan.is_none());
        let Some(made) = made else { return Ok(()) };
        prop_assert_eq!(lint(&made, &tree), Vec::<String>::new());
        let successor = tree.get(&made.successor).unwrap();
        prop_assert!(successor.is_valid() && successor.facts.as_ref().unwrap().log_bin);
        prop_assert_ne!(policy.promotion_rules[&made.successor], PromotionRule::MustNot);
        prop_assert!(loss == LossPolicy::Allow || made.lost.is_none());
        prop_assert_eq!(report.refused.len(), samples.len() - 1);
    }

    #[test]
    fn nobody_who_could_have_been_promoted_holds_strictly_more(
        samples in prop::collection::vec(any_sample(), 1..6), known in any::<bool>(),
    ) {
        let (tree, policy) = tree_of(&samples, known);
        let (Some(made), _) = plan(&dead_primary(), &tree, &policy, NOW) else { return Ok(()) };
        let received_transactions = ReceivedTransactions::below(&tree, &key(1));
        for (n, sample) in (2_u32..).zip(&samples) {
            let is_eligible = !sample.failed && sample.log && sample.rule != 0 && received_transactions.errant(&key(n)).is_none();
            let is_ahead = position(&tree, &key(n)).compare(&made.position) == Some(std::cmp::Ordering::Greater);
            prop_assert!(!(is_eligible && is_ahead), "db{n} is ahead of {}", made.successor);
        }
    }

    #[test]
    fn what_is_known_and_not_promoted_is_declared_lost(
        samples in prop::collection::vec(any_sample(), 1..6), known in any::<bool>(),
    ) {
        let (tree, policy) = tree_of(&samples, known);
        let (Some(made), _) = plan(&dead_primary(), &tree, &policy, NOW) else { return Ok(()) };
        for n in (2_u32..).take(samples.len()) {
            let missing = position(&tree, &key(n)).subtract(&made.position);
            prop_assert!(missing.is_empty() || made.lost.as_ref().is_some_and(|lost| lost.contains(&missing)));
        }
    }

    #[test]
    fn the_order_in_which_servers_were_seen_does_not_matter(samples in prop::collection::vec(any_sample(), 1..6)) {
        let (tree, policy) = tree_of(&samples, true);
        let again: Topology = serde_json::from_str(&serde_json::to_string(&tree).unwrap()).unwrap();
        prop_assert_eq!(plan(&dead_primary(), &tree, &policy, NOW), plan(&dead_primary(), &again, &policy, NOW));
        prop_assert_eq!(findings(&tree, &policy, &[], NOW), findings(&again, &policy, &[], NOW));
    }
}
