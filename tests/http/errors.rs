//! Status codes and envelopes of refused requests.

use axum::http::{Method, StatusCode};
use ham4db::adapter::http::Options;
use serde_json::json;

use crate::member::Member;

#[tokio::test]
async fn bad_input_is_400_and_the_unknown_404_in_the_envelope() {
    let member = Member::alone();
    for (path, status, message) in [
        ("instance/127.0.0.1/abc", StatusCode::BAD_REQUEST, "Invalid port: abc"),
        ("instance/127.0.0.1/0", StatusCode::BAD_REQUEST, "Invalid port: 0"),
        (
            "instance/127.0.0.1/9",
            StatusCode::NOT_FOUND,
            "Cannot read instance: 127.0.0.1:9",
        ),
        (
            "instance/127.0.0/21100",
            StatusCode::NOT_FOUND,
            "Cannot read instance: 127.0.0:21100",
        ),
        (
            "refresh/127.0.0.1/9",
            StatusCode::NOT_FOUND,
            "Cannot read instance: 127.0.0.1:9",
        ),
        (
            "begin-downtime/127.0.0.1/9/me/why",
            StatusCode::NOT_FOUND,
            "Cannot read instance: 127.0.0.1:9",
        ),
        (
            "register-candidate/127.0.0.1/21101/best",
            StatusCode::BAD_REQUEST,
            "Invalid promotion rule: best; one of must, prefer, neutral, prefer_not, must_not",
        ),
        (
            "discover/127.0.0.1/9",
            StatusCode::SERVICE_UNAVAILABLE,
            "127.0.0.1:9: connection refused",
        ),
        ("nosuch", StatusCode::NOT_FOUND, "no such route: /api/nosuch"),
        (
            "raft-state",
            StatusCode::INTERNAL_SERVER_ERROR,
            "raft-state: not running with raft setup",
        ),
        (
            "raft-health",
            StatusCode::INTERNAL_SERVER_ERROR,
            "raft-health: not running with raft setup",
        ),
    ] {
        let answer = member.get(&format!("/api/{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert_eq!(
            answer.json,
            json!({"Code": "ERROR", "Message": message, "Details": null}),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_read_only_member_refuses_changes() {
    let member = Member::with_options(Options {
        read_only: true,
        ..Options::default()
    });
    let answer = member.get("/api/disable-global-recoveries").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.json["Message"].as_str().unwrap().starts_with("Unauthorized"));
    assert_eq!(member.json("/api/check-global-recoveries").await["Details"], "enabled");
}

#[tokio::test]
async fn changes_go_by_get_and_post_and_never_by_head() {
    let member = Member::alone();
    let head = member.ask(Method::HEAD, "/api/disable-global-recoveries").await;
    assert_eq!(head.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(!member.api.state.lock().unwrap().recoveries_disabled);
    assert_eq!(
        member.ask(Method::POST, "/api/disable-global-recoveries").await.status,
        StatusCode::OK
    );
    assert!(member.api.state.lock().unwrap().recoveries_disabled);
    assert_eq!(member.ask(Method::HEAD, "/api/clusters").await.status, StatusCode::OK);
    assert_eq!(
        member.ask(Method::DELETE, "/api/clusters").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn everything_is_below_the_prefix_except_the_status_endpoint() {
    let options = Options {
        url_prefix: "/db".to_owned(),
        status_endpoint: Some("/status-of-mine".to_owned()),
        ..Options::default()
    };
    let member = Member::with_options(options);
    assert_eq!(member.get("/db/api/clusters").await.status, StatusCode::OK);
    assert_eq!(member.get("/db/metrics").await.status, StatusCode::OK);
    assert_eq!(member.get("/status-of-mine").await.status, StatusCode::OK);
    assert_eq!(member.get("/api/clusters").await.status, StatusCode::NOT_FOUND);
}
