//! The checker finds what is wrong, and no plan claims a proof that it does not have.

use proptest::prelude::*;

use super::*;
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::loss_evidence::LossEvidence;
use crate::domain::recovery::planner::choose_again_with;

#[test]
fn unsound_plans_are_told_apart() {
    let tree = topology([db1(), cut(2, "1:1-100"), cut(3, "1:1-90")]);
    let sound = planned(&tree, &Policy::default()).0.unwrap();
    let broken = |change: &dyn Fn(&mut Plan)| {
        let mut plan = sound.clone();
        change(&mut plan);
        lint(&plan, &tree).join("; ")
    };
    for (wanted, change) in [
        (
            "which the plan does not claim",
            (&|plan: &mut Plan| plan.instances = [key(1), key(2)].into()) as &dyn Fn(&mut Plan),
        ),
        ("open must not come before stop receivers", &|plan| {
            plan.steps.swap(0, 4);
        }),
        ("the step reconnect is missing", &|plan| {
            plan.steps.retain(|step| !matches!(step, Step::Redial { .. }));
        }),
        ("the receiver of db3:3306 is not stopped", &|plan| {
            plan.steps[1] = Step::StopReceivers {
                replicas: [key(2)].into(),
            }
        }),
        ("the plan does not declare that", &|plan| {
            plan.position = mysql_set("1:1-50");
        }),
        ("does not hold the position", &|plan| {
            plan.position = mysql_set("1:1-200");
        }),
        ("neither follows nor is left behind", &|plan| plan.steps.truncate(5)),
        ("db2:3306 is among the followers", &|plan| {
            plan.steps[5] = Step::Repoint {
                successor: key(2),
                replicas: [key(2), key(3)].into(),
            };
        }),
        ("is not about the successor", &|plan| {
            plan.steps[4] = Step::Open { successor: key(3) }
        }),
        ("would succeed itself", &|plan| plan.successor = key(1)),
        ("is 00000002", &|plan| {
            plan.successor_identity = Identity::ServerUuid(uuid(9));
        }),
    ] {
        let told = broken(change);
        assert!(told.contains(wanted), "wanted `{wanted}` in `{told}`");
    }
    let worse = Plan {
        successor: key(3),
        successor_identity: Identity::ServerUuid(uuid(3)),
        ..sound.clone()
    };
    assert!(!lint(&worse, &tree).is_empty());
    let split = topology([db1(), cut(2, "1:1-100"), cut(3, "1:1-90"), primary(4, "1:1")]);
    assert!(lint(&sound, &split).join("; ").contains("opening db2:3306 makes two"));
}

/// A replica of a primary that waits for acknowledgements.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct Acknowledger {
    /// It is set to acknowledge.
    is_set: bool,
    /// It acknowledged the last confirmed transaction, if it is set to.
    has_acknowledged: bool,
    is_dead: bool,
    /// Its receiver could be stopped.
    is_stopped: bool,
    may_be_promoted: bool,
}

fn any_acknowledger() -> impl Strategy<Value = Acknowledger> {
    let likely = || prop::bool::weighted(0.8);
    (likely(), any::<bool>(), prop::bool::weighted(0.3), likely(), likely()).prop_map(
        |(is_set, has_acknowledged, is_dead, is_stopped, may_be_promoted)| Acknowledger {
            is_set,
            has_acknowledged,
            is_dead,
            is_stopped,
            may_be_promoted,
        },
    )
}

proptest! {
    /// Transaction 101 was confirmed after the last look at the primary: as many replicas as it waits for have it. What
    /// the dead ones among them have, nobody sees.
    #[test]
    fn none_is_never_said_unless_fewer_than_w_acknowledgers_are_uncompared(
        replicas in prop::collection::vec(any_acknowledger(), 1..6),
        wait_for in 1_u32..4,
        hidden in 0_u32..2,
        is_allowed in any::<bool>(),
    ) {
        let is_confirmed_by = |replica: &&Acknowledger| replica.is_set && replica.has_acknowledged;
        let set: u32 = replicas.iter().map(|replica| u32::from(replica.is_set)).sum();
        let confirming: u32 = replicas.iter().filter(is_confirmed_by).map(|_| 1).sum::<u32>() + hidden;
        let mut servers = vec![super::loss::promising(wait_for, set + hidden)];
        let policy = Policy {
            loss: if is_allowed { LossPolicy::Allow } else { LossPolicy::Auto },
            ..Policy::default()
        };
        let mut stopped = BTreeSet::new();
        for (n, replica) in (2_u32..).zip(&replicas) {
            let has_it = is_confirmed_by(&replica) && !replica.is_dead;
            let instance = super::loss::acknowledging(n)
                .facts(|facts| {
                    facts.semi_sync.replica_enabled = replica.is_set;
                    facts.log_bin = replica.may_be_promoted;
                })
                .received(if has_it { "1:1-101" } else { "1:1-100" });
            if replica.is_stopped && !replica.is_dead {
                stopped.insert(key(n));
            }
            servers.push(if replica.is_dead { instance.dead() } else { instance });
        }
        let tree = topology(servers);
        let (first, _) = plan(&dead_primary(), &tree, &policy, NOW);
        let Some(first) = first else { return Ok(()) };
        prop_assert_eq!(lint(&first, &tree), Vec::<String>::new());
        let inputs = ChoiceInputs { receivers_stopped: Some(stopped.clone()), ..ChoiceInputs::at(NOW) };
        let second = choose_again_with(&first, &tree, &policy, inputs).ok();
        let everybody: BTreeSet<InstanceKey> = (2_u32..).zip(&replicas).filter(|(_, replica)| !replica.is_dead).map(|(n, _)| key(n)).collect();
        for (made, compared) in [(Some(first), &everybody), (second, &stopped)] {
            let Some(made) = made else { continue };
            let uncompared: u32 = (2_u32..)
                .zip(&replicas)
                .filter(|(n, replica)| replica.is_set && !compared.contains(&key(*n)))
                .map(|_| 1)
                .sum::<u32>() + hidden;
            let is_proved = matches!(made.loss_evidence, Some(LossEvidence::Acknowledged { .. }));
            prop_assert!(!is_proved || uncompared < wait_for, "{uncompared} uncompared, {wait_for} waited for: {made:?}");
            if is_proved && made.lost.is_none() && confirming >= wait_for {
                prop_assert!(made.position.contains(&mysql_set("1:101")), "{made:?}");
            }
            // Under the promise nothing is opened without the proof.
            prop_assert!(is_proved || is_allowed, "{made:?}");
        }
    }
}
