//! Requests forwarded from a follower to the leader, over sockets.

use axum::http::{Method, StatusCode};
use ham4db::app::ports::{Leadership, Peer};
use serde_json::json;

use crate::group::peer;
use crate::member::Member;

fn at(id: u64, uri: &str) -> Peer {
    Peer {
        http_uri: uri.to_owned(),
        ..peer(id)
    }
}

#[tokio::test]
async fn a_follower_returns_the_response_of_the_leader_unchanged() {
    let leader = Member::in_group(1, Some(peer(1)));
    leader.api.state.lock().unwrap().recoveries_disabled = true;
    let served = leader.serve().await;
    let follower = Member::in_group(2, Some(at(1, &served.uri)));
    assert_eq!(
        follower.json("/api/check-global-recoveries").await["Details"],
        "disabled"
    );
    assert_eq!(follower.json("/api/routed-leader-check").await, "OK");
    let done = follower
        .ask(
            Method::POST,
            "/api/begin-downtime/127.0.0.1/21102/me/disk%2Fswap%20x/1h",
        )
        .await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text);
    assert_eq!(leader.api.state.lock().unwrap().intents.len(), 1);
    assert!(
        follower.api.state.lock().unwrap().intents.is_empty(),
        "the follower did it itself"
    );
    let reason = leader.json("/api/instance/127.0.0.1/21102").await["DowntimeReason"].clone();
    assert_eq!(reason, "disk/swap x");
    let refused = follower.get("/api/instance/127.0.0.1/9").await;
    assert_eq!(
        (refused.status, &refused.json["Message"]),
        (StatusCode::NOT_FOUND, &json!("Cannot read instance: 127.0.0.1:9"))
    );
    served.stop().await;
}

#[tokio::test]
async fn health_is_never_forwarded() {
    let follower = Member::in_group(2, Some(at(1, "http://127.0.0.1:1")));
    for path in [
        "/api/health",
        "/api/raft-health",
        "/api/raft-state",
        "/api/lb-check",
        "/api/live",
        "/metrics",
    ] {
        assert_eq!(follower.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(follower.get("/api/leader-check").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_dead_leader_is_named_in_the_answer() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let follower = Member::in_group(2, Some(at(1, &format!("http://127.0.0.1:{port}"))));
    let answer = follower.get("/api/clusters").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["x-ham4db-leader"], "member-1.example");
    assert_eq!(
        answer.json["Message"],
        "the leader member-1.example cannot be reached; nothing was done"
    );
}

#[tokio::test]
async fn a_request_to_a_leader_that_disconnects_is_not_repeated() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let hung_up = tokio::spawn(async move {
        let mut connections = 0;
        // Reads the request, then closes; a second connection would be a repetition.
        while let Ok(Ok((mut stream, _))) =
            tokio::time::timeout(std::time::Duration::from_millis(700), listener.accept()).await
        {
            connections += 1;
            let mut buffer = [0_u8; 4096];
            tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
        }
        connections
    });
    let follower = Member::in_group(2, Some(at(1, &uri)));
    let answer = follower.get("/api/disable-global-recoveries").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text);
    assert_eq!(
        answer.json["Message"],
        "the leader member-1.example did not answer; the request may have taken effect"
    );
    assert_eq!(hung_up.await.unwrap(), 1);
}

#[tokio::test]
async fn without_a_leader_no_stale_answer_is_given() {
    let follower = Member::in_group(2, None);
    for path in ["/api/clusters", "/api/disable-global-recoveries"] {
        let answer = follower.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(answer.json["Message"], "member-2.example knows no leader");
        assert_eq!(answer.headers["retry-after"], "1");
    }
}

#[tokio::test]
async fn two_followers_that_consider_each_other_leader_do_not_forward_in_circles() {
    let one = Member::in_group(1, None);
    let served_one = one.serve().await;
    let two = Member::in_group(2, Some(at(1, &served_one.uri)));
    let served_two = two.serve().await;
    one.group.leadership.send_replace(Leadership {
        term: 1,
        is_leader: false,
        leader: Some(at(2, &served_two.uri)),
    });
    let answer = one.get("/api/clusters").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        answer.json["Message"],
        "member-1.example forwarded the request to member-2.example, which no longer leads"
    );
    served_one.stop().await;
    served_two.stop().await;
}
