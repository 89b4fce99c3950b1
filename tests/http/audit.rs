//! The audit: order, pages, servers, age.

use axum::http::StatusCode;
use ham4db::adapter::http::Options;
use ham4db::domain::state::record::AuditEntry;
use serde_json::{Value, json};

use crate::fixture::{NOW, key};
use crate::member::Member;

/// A member whose audit has this many entries, a minute apart, the last one now: of 21100 and 21101 in turn.
fn member_with(entries: u64, options: Options) -> Member {
    let member = Member::with_options(options);
    let mut state = member.api.state.lock().unwrap();
    for id in 1..=entries {
        let entry = AuditEntry {
            id,
            at: NOW.plus_millis(-60_000 * i64::try_from(entries - id).unwrap()),
            kind: "begin-downtime".to_owned(),
            instance: Some(key(if id % 2 == 0 { 21100 } else { 21101 })),
            cluster_name: "127.0.0.1:21100".to_owned(),
            message: format!("number {id}"),
        };
        state.audit.insert(id, entry);
    }
    drop(state);
    member
}

fn ids(answer: &Value) -> Vec<u64> {
    let list = answer.as_array().unwrap();
    list.iter().map(|entry| entry["AuditId"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn entries_have_orchestrators_shape_and_the_latest_comes_first() {
    let member = member_with(2, Options::default());
    let all = AuditEntry {
        id: 3,
        at: NOW,
        kind: "disable-global-recoveries".to_owned(),
        instance: None,
        cluster_name: String::new(),
        message: String::new(),
    };
    member.api.state.lock().unwrap().audit.insert(3, all);
    let answer = member.json("/api/audit").await;
    assert_eq!(ids(&answer), [3, 2, 1]);
    let time = answer[0]["AuditTimestamp"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    assert_eq!(
        answer[0],
        json!({
            "AuditId": 3, "AuditTimestamp": time, "AuditType": "disable-global-recoveries",
            "AuditInstanceKey": {"Hostname": "", "Port": 0}, "Message": ""
        })
    );
    assert_eq!(
        (
            &answer[1]["AuditType"],
            &answer[1]["AuditInstanceKey"],
            &answer[1]["Message"]
        ),
        (
            &json!("begin-downtime"),
            &json!({"Hostname": "127.0.0.1", "Port": 21100}),
            &json!("number 2")
        )
    );
}

#[tokio::test]
async fn twenty_are_on_a_page_of_all_or_of_one_server() {
    let member = member_with(50, Options::default());
    let page = |path: &'static str| {
        let member = &member;
        async move { ids(&member.json(path).await) }
    };
    assert_eq!(page("/api/audit").await, (31..=50).rev().collect::<Vec<_>>());
    assert_eq!(page("/api/audit/0").await, page("/api/audit").await);
    assert_eq!(page("/api/audit/2").await, (1..=10).rev().collect::<Vec<_>>());
    assert_eq!(page("/api/audit/3").await, Vec::<u64>::new());
    let of_one: Vec<u64> = (1..=50).rev().filter(|id| id % 2 == 0).collect();
    assert_eq!(page("/api/audit/instance/127.0.0.1/21100").await, of_one[..20]);
    assert_eq!(page("/api/audit/instance/127.0.0.1/21100/1").await, of_one[20..]);
    assert_eq!(page("/api/audit/instance/127.0.0.1/29999").await, Vec::<u64>::new());
    for path in [
        "/api/audit/x",
        "/api/audit/instance/127.0.0.1/x",
        "/api/audit/instance/127.0.0.1/21100/x",
    ] {
        assert_eq!(member.get(path).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

#[tokio::test]
async fn what_is_too_old_is_not_shown() {
    let options = Options {
        audit_for: std::time::Duration::from_mins(5),
        ..Options::default()
    };
    let member = member_with(10, options);
    assert_eq!(ids(&member.json("/api/audit").await), [10, 9, 8, 7, 6, 5]);
}
