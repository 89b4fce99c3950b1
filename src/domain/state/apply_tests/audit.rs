//! The audit says what was done, and nothing when nothing was.

use super::*;
use crate::domain::intent::PromotionRule;
use crate::domain::state::record::AuditEntry;
use crate::domain::state::sample::candidate;

/// Kind, server, cluster and message of the entries, in order.
fn told(state: &State) -> Vec<[String; 4]> {
    let text = |entry: &AuditEntry| {
        [
            entry.kind.clone(),
            entry.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            entry.cluster_name.clone(),
            entry.message.clone(),
        ]
    };
    state.audit.values().map(text).collect()
}

fn entry(kind: &str, instance: &str, cluster: &str, message: &str) -> [String; 4] {
    [kind, instance, cluster, message].map(str::to_owned)
}

fn discover(n: u32) -> Command {
    let seed = Seed {
        instance: key(n),
        origin: Origin::Api,
    };
    Command::Discover { seed }
}

#[test]
fn what_people_and_documents_ask_for_is_told_once() {
    let mut state = two_clusters();
    let before = state.audit.len();
    assert_eq!(before, 0, "what was seen is nobody's doing");
    run(&mut state, 200, discover(2));
    run(&mut state, 201, discover(2));
    let intent = downtime(2, Origin::Api, None);
    run(&mut state, 202, Command::SetIntent { intent: intent.clone() });
    run(&mut state, 203, Command::EndIntent { id: intent.id() });
    run(&mut state, 204, Command::EndIntent { id: intent.id() });
    let details = candidate(9, Origin::Api, PromotionRule::Prefer);
    run(&mut state, 205, Command::SetIntent { intent: details });
    run(&mut state, 206, Command::SetGlobalRecoveries { enabled: false });
    run(&mut state, 207, Command::SetGlobalRecoveries { enabled: true });
    let until = WallTime(9000);
    run(
        &mut state,
        208,
        Command::Forget {
            instance: key(2),
            until,
        },
    );
    let names: Vec<[String; 4]> = told(&state)
        .into_iter()
        .map(|[kind, instance, cluster, _]| [kind, instance, cluster, String::new()])
        .collect();
    assert_eq!(
        names,
        [
            entry("discover", "db2:3306", "db1:3306", ""),
            entry("begin-downtime", "db2:3306", "db1:3306", ""),
            entry("end-downtime", "db2:3306", "db1:3306", ""),
            entry("register-candidate", "db9:3306", "", ""),
            entry("disable-global-recoveries", "", "", ""),
            entry("enable-global-recoveries", "", "", ""),
            entry("forget", "db2:3306", "db1:3306", ""),
        ]
    );
    let messages = told(&state);
    assert!(messages[1][3].starts_with("owner: "), "{:?}", messages[1]);
    assert_eq!(messages[3][3], "promotion rule: prefer");
    assert_eq!(
        state
            .audit
            .values()
            .map(|entry| (entry.id, entry.at.0))
            .collect::<Vec<_>>(),
        [(1, 200), (2, 202), (3, 203), (4, 205), (5, 206), (6, 207), (7, 208)]
    );
}

#[test]
fn a_recovery_is_told_from_its_claim_to_its_end_and_a_refused_one_not() {
    let mut state = two_clusters();
    let token = claimed(&mut state, claim("r1", plan(1, 1, 2, &[1, 2, 3])));
    let again = Command::Claim {
        claim: Box::new(claim("r2", plan(1, 1, 2, &[1, 2, 3]))),
    };
    refused(run(&mut state, 1001, again));
    let failed = Ending {
        successful: false,
        successor: None,
        quarantine: None,
        lost_replicas: Vec::new(),
        lost: None,
        errors: vec!["nobody can be frozen".to_owned()],
        lines: Vec::new(),
        hooks: Vec::new(),
        owes_opening: false,
    };
    let end = Command::End {
        token,
        ending: Box::new(failed),
    };
    run(&mut state, 1002, end.clone());
    refused(run(&mut state, 1003, end));
    let acknowledge = Command::Acknowledge {
        uids: vec!["r1".to_owned()],
        acknowledgement: Acknowledgement {
            at: WallTime(1004),
            by: "ann".to_owned(),
            comment: "seen".to_owned(),
        },
    };
    run(&mut state, 1004, acknowledge.clone());
    run(&mut state, 1005, acknowledge);
    let told = told(&state);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0][3].starts_with("DeadMaster: recovery r1 by "), "{:?}", told[0]);
    assert_eq!(
        told[1],
        entry(
            "recover-dead-master",
            "db1:3306",
            "db1:3306",
            "recovery r1 failed: nobody can be frozen"
        )
    );
    assert_eq!(
        told[2],
        entry("acknowledge-recovery", "db1:3306", "db1:3306", "r1; ann: seen")
    );
}

#[test]
fn the_oldest_entries_make_room_and_numbers_go_on() {
    let mut state = State::default();
    let mut gone = BTreeSet::new();
    for turn in 0..i64::try_from(MAX_AUDIT).unwrap() + 5 {
        let enabled = turn % 2 == 0;
        let proposal = Proposal::new(WallTime(turn), Command::SetGlobalRecoveries { enabled });
        let (_, changes) = apply(&mut state, &proposal);
        for change in changes {
            if let Change::Audit(id) = change
                && !state.audit.contains_key(&id)
            {
                gone.insert(id);
            }
        }
    }
    assert_eq!(state.audit.len(), MAX_AUDIT);
    assert_eq!(gone, (1..=5).collect());
    assert_eq!(state.audit.last_key_value().unwrap().0, &(MAX_AUDIT as u64 + 5));
}

#[test]
fn a_long_message_is_cut() {
    let mut state = two_clusters();
    let mut intent = downtime(2, Origin::Api, None);
    if let crate::domain::intent::IntentDetails::Downtime { reason, .. } = &mut intent.details {
        *reason = "ä".repeat(5000);
    }
    run(&mut state, 1, Command::SetIntent { intent });
    assert_eq!(state.audit[&1].message.chars().count(), 1000);
}
