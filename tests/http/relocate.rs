//! Moves of replicas by Pseudo-GTID.

use axum::http::StatusCode;
use serde_json::json;

use crate::fixture::ENTRY;
use crate::member::Member;

#[tokio::test]
async fn the_last_entry_is_shown_with_its_position() {
    let member = Member::alone();
    let found = member.json("/api/last-pseudo-gtid/127.0.0.1/21101").await;
    assert_eq!(
        (&found["Details"], &found["Message"]),
        (&json!(ENTRY), &json!("bin.000007:680"))
    );
    let none = member.get("/api/last-pseudo-gtid/127.0.0.1/21103").await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    assert!(none.text.contains("no entry"), "{}", none.text);
}

#[tokio::test]
async fn a_replica_is_moved_below_another_server_and_the_message_has_the_position() {
    let member = Member::alone();
    for route in ["match", "match-below"] {
        let answer = member
            .json(&format!("/api/{route}/127.0.0.1/21103/127.0.0.1/21100"))
            .await;
        assert_eq!(answer["Details"]["Key"]["Port"], 21103, "{answer}");
        assert!(answer["Message"].as_str().unwrap().contains("bin.000009:4"), "{answer}");
    }
    let up = member.json("/api/match-up/127.0.0.1/21103").await;
    assert!(
        up["Message"].as_str().unwrap().contains("below 127.0.0.1:21100"),
        "{up}"
    );
    let refused = member.get("/api/match-below/127.0.0.1/21103/127.0.0.1/21101").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("ahead of the target"), "{}", refused.text);
    let unknown = member.get("/api/match-below/127.0.0.1/21103/127.0.0.1/9").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn all_replicas_of_a_server_move_by_both_names_and_failures_are_reported() {
    let member = Member::alone();
    for route in [
        "match-slaves/127.0.0.1/21102/127.0.0.1/21100",
        "match-replicas/127.0.0.1/21102/127.0.0.1/21100",
        "match-up-slaves/127.0.0.1/21102",
        "match-up-replicas/127.0.0.1/21102",
    ] {
        let answer = member.json(&format!("/api/{route}")).await;
        assert_eq!(answer["Details"]["Port"], 21100, "{route}");
        let message = answer["Message"].as_str().unwrap();
        assert!(
            message.starts_with("Matched 1 replicas") && message.contains("1 errors"),
            "{message}"
        );
    }
    let nobody = member.get("/api/match-up-replicas/127.0.0.1/21102?pattern=x").await;
    assert_eq!(nobody.status, StatusCode::CONFLICT);
    assert!(nobody.text.contains("it does not answer"), "{}", nobody.text);
}
