//! The checker finds what is wrong.

use super::*;

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
