use super::*;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::state::sample::{claim, cluster_id, document, identity, key, plan, takeover_request};
use crate::domain::state::{Claim, Command, Proposal, apply};

const NOW: i64 = 1_000_000;
const HOUR: i64 = 3_600_000;

fn run(state: &mut State, at: i64, command: Command) -> Applied {
    apply(state, &Proposal::new(WallTime(at), command)).0
}

/// A cluster of three with a request for a takeover that ends in an hour.
fn asked() -> (State, String) {
    let mut state = State::default();
    let described = Command::DescribeCluster {
        id: cluster_id(1),
        instances: (1..=3).map(key).collect(),
        primary: Some((key(1), identity(1))),
        process: None,
        alias: String::new(),
        absorbs: Vec::new(),
        document: Some(document("shop").origin),
        chosen: None,
    };
    run(&mut state, NOW, described);
    let request = takeover_request(1, NOW + HOUR);
    let key = request.key();
    ask_for(&mut state, NOW, request);
    (state, key)
}

fn ask_for(state: &mut State, at: i64, request: Request) -> Applied {
    let request = Box::new(request);
    run(state, at, Command::Request { request })
}

fn claim_for(key: &str, uid: &str) -> Claim {
    let mut plan = plan(1, 1, 2, &[1, 2, 3]);
    plan.kind = RecoveryKind::Takeover;
    plan.manual_request = Some(ManualRequest {
        request: Some(key.to_owned()),
        ..ManualRequest::default()
    });
    claim(uid, plan)
}

fn begin(state: &mut State, at: i64, key: &str, uid: &str) -> Applied {
    let claim = Box::new(claim_for(key, uid));
    run(state, at, Command::Claim { claim })
}

fn token(applied: Applied) -> crate::domain::state::ClaimToken {
    let Applied::Claimed { token } = applied else {
        panic!("{applied}");
    };
    token
}

fn open(state: &mut State, token: &crate::domain::state::ClaimToken) -> Applied {
    let plan = state.recoveries[&token.uid].plan.clone();
    run(
        state,
        NOW + 20,
        Command::Open {
            token: token.clone(),
            successor: plan.successor.clone(),
            position: plan.position.clone(),
            plan: Box::new(plan),
            fencing_proof: None,
        },
    )
}

fn end(state: &mut State, token: &crate::domain::state::ClaimToken, opened: bool, errors: &[&str]) -> Applied {
    let ending = Ending {
        successful: opened,
        successor: opened.then(|| (key(2), identity(2))),
        quarantine: None,
        lost_replicas: Vec::new(),
        lost: None,
        errors: errors.iter().map(|error| (*error).to_owned()).collect(),
        lines: Vec::new(),
        hooks: Vec::new(),
        owes_opening: false,
    };
    run(
        state,
        NOW + 30,
        Command::End {
            token: token.clone(),
            ending: Box::new(ending),
        },
    )
}

fn outcome(state: &State, key: &str) -> Option<RequestOutcome> {
    match &state.requests[key].progress {
        RequestProgress::Over { outcome, .. } => Some(*outcome),
        RequestProgress::Pending | RequestProgress::Running { .. } => None,
    }
}

#[test]
fn the_deadline_decides_what_becomes_of_a_request_that_is_first_seen() {
    for (ahead, wanted) in [
        (-1, Some(RequestOutcome::Expired)),
        (0, Some(RequestOutcome::Expired)),
        (1, None),
        (24 * HOUR, None),
        (24 * HOUR + 1, Some(RequestOutcome::Refused)),
    ] {
        let mut state = State::default();
        let request = takeover_request(1, NOW + ahead);
        ask_for(&mut state, NOW, request.clone());
        assert_eq!(outcome(&state, &request.key()), wanted, "{ahead}");
        assert_eq!(state.requests[&request.key()].seen, WallTime(NOW));
    }
}

#[test]
fn a_request_is_acted_on_once() {
    let (mut state, key) = asked();
    let first = token(begin(&mut state, NOW + 10, &key, "one"));
    let request = &state.requests[&key];
    assert_eq!(
        (request.begun, request.recovery()),
        (Some(WallTime(NOW + 10)), Some("one"))
    );
    assert!(matches!(open(&mut state, &first), Applied::Done));
    assert!(matches!(end(&mut state, &first, true, &[]), Applied::Done));
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Succeeded));
    // The same again, whatever it says now; and a claim for it.
    let before = state.requests.clone();
    ask_for(&mut state, NOW + 40, takeover_request(1, NOW + 5 * HOUR));
    assert_eq!(state.requests, before);
    let refused = begin(&mut state, NOW + 41, &key, "two");
    assert!(refused.to_string().contains("was handled before"), "{refused}");
    assert!(!state.recoveries.contains_key("two"));
}

#[test]
fn a_claim_after_the_deadline_is_refused() {
    let (mut state, key) = asked();
    let refused = begin(&mut state, NOW + HOUR, &key, "one");
    assert!(refused.to_string().contains("deadline"), "{refused}");
    assert_eq!(outcome(&state, &key), None, "the leader settles it");
}

#[test]
fn what_was_not_done_ends_with_its_reason() {
    let (mut state, key) = asked();
    let first = token(begin(&mut state, NOW + 10, &key, "one"));
    end(&mut state, &first, false, &["db2 does not answer", "not undone"]);
    let RequestProgress::Over { outcome, why, uid, at } = &state.requests[&key].progress else {
        panic!("{state:?}");
    };
    assert_eq!(
        (*outcome, uid.as_deref(), *at),
        (RequestOutcome::Failed, Some("one"), WallTime(NOW + 30))
    );
    assert_eq!(why, "db2 does not answer; not undone");
}

#[test]
fn a_request_is_taken_back_until_its_opening_is_committed() {
    let cancel = |state: &mut State, key: &str| {
        let command = Command::CancelRequest {
            key: key.to_owned(),
            why: "spec.takeover was cleared".to_owned(),
        };
        run(state, NOW + 15, command)
    };
    let (mut state, key) = asked();
    cancel(&mut state, &key);
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Cancelled));
    assert!(begin(&mut state, NOW + 16, &key, "one").to_string().contains("handled"));

    let (mut state, key) = asked();
    let first = token(begin(&mut state, NOW + 10, &key, "one"));
    assert!(matches!(cancel(&mut state, &key), Applied::Done));
    assert_eq!(outcome(&state, &key), None, "it is undone first");
    assert!(is_cancelled(&state, &state.recoveries["one"].plan));
    let refused = open(&mut state, &first);
    assert!(refused.to_string().contains("was cancelled"), "{refused}");
    end(&mut state, &first, false, &["taken back"]);
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Cancelled));

    let (mut state, key) = asked();
    let first = token(begin(&mut state, NOW + 10, &key, "one"));
    open(&mut state, &first);
    let late = cancel(&mut state, &key);
    assert!(late.to_string().contains("can no longer be cancelled"), "{late}");
    end(&mut state, &first, true, &[]);
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Succeeded));
}

#[test]
fn a_document_that_goes_takes_its_request_back_and_does_not_ask_again_when_it_is_made_anew() {
    let (mut state, key) = asked();
    let origin = document("shop").origin;
    run(&mut state, NOW + 10, Command::WithdrawDocument { origin });
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Cancelled));
    ask_for(&mut state, NOW + 20, takeover_request(1, NOW + HOUR));
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Cancelled));
}

#[test]
fn only_a_pending_request_is_settled() {
    let (mut state, key) = asked();
    let settle = |state: &mut State| {
        let command = Command::SettleRequest {
            key: key.clone(),
            outcome: RequestOutcome::Refused,
            why: "it is behind".to_owned(),
        };
        run(state, NOW + 5, command)
    };
    assert!(matches!(settle(&mut state), Applied::Done));
    assert_eq!(outcome(&state, &key), Some(RequestOutcome::Refused));
    assert!(matches!(settle(&mut state), Applied::Refused { .. }));
}

#[test]
fn only_requests_whose_time_is_over_make_room() {
    let mut state = State::default();
    for number in 0..u32::try_from(MAX_REQUESTS).unwrap() {
        let request = takeover_request(number, NOW + HOUR);
        state.requests.insert(
            request.key(),
            Request {
                seen: WallTime(NOW + i64::from(number)),
                ..request
            },
        );
    }
    let one_more = takeover_request(99_999, NOW + 3 * HOUR);
    let refused = ask_for(&mut state, NOW, one_more.clone());
    assert!(refused.to_string().contains("too many: requests"), "{refused}");
    let oldest = takeover_request(7, 0).key();
    state
        .requests
        .get_mut(&oldest)
        .unwrap()
        .end(RequestOutcome::Succeeded, "", WallTime(NOW));
    assert!(
        matches!(ask_for(&mut state, NOW, one_more.clone()), Applied::Refused { .. }),
        "it might come again"
    );
    assert!(matches!(
        ask_for(&mut state, NOW + HOUR, one_more.clone()),
        Applied::Done
    ));
    assert!(!state.requests.contains_key(&oldest) && state.requests.contains_key(&one_more.key()));
    assert_eq!(state.requests.len(), MAX_REQUESTS);
}

#[test]
fn a_record_from_before_a_field_was_kept_is_read() {
    let text = r#"{"origin": "cr:db/shop", "id": "a", "what": {"kind": "Takeover", "deadline": 5}, "standing": {"standing": "Pending"}}"#;
    let request = serde_json::from_str::<Request>(
        &text
            .replace("\"Takeover\"", "\"takeover\"")
            .replace("\"Pending\"", "\"pending\""),
    );
    assert_eq!(request.unwrap().key(), "cr:db/shop takeover a");
}
