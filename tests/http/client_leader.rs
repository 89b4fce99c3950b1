//! How the client finds the leader: behind a proxy, among all members, with some of them dead, and while the leader changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use ham4db::app::ports::{Leadership, Peer};
use serde_json::json;
use tokio::net::TcpListener;

use crate::client::client;
use crate::group::peer;
use crate::member::Member;

const DISCOVER: [&str; 4] = ["-c", "discover", "-i", "127.0.0.1:21101"];

/// An address at which nothing listens.
async fn nothing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A server with these routes, and its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    uri
}

/// An address that accepts connections and never answers. It is silent as long as the listener is kept.
async fn silence() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

#[tokio::test]
async fn a_proxy_alone_is_used_as_it_is_and_the_member_behind_it_is_shown() {
    let leader = Member::in_group(1, Some(peer(1)));
    let at_leader = leader.serve().await;
    // A proxy that passes the one route on, and knows no leader at the first two requests.
    let asked = Arc::new(AtomicUsize::new(0));
    let (count, behind) = (Arc::clone(&asked), at_leader.uri.clone());
    let pass = move || {
        let (number, url) = (
            count.fetch_add(1, Ordering::SeqCst),
            format!("{behind}/api/discover/127.0.0.1/21101"),
        );
        async move {
            if number < 2 {
                let body = axum::Json(json!({"Code": "ERROR", "Message": "no leader here"}));
                return (StatusCode::SERVICE_UNAVAILABLE, [("x-ham4db-leader", "unknown")], body).into_response();
            }
            let answer = reqwest::Client::builder()
                .no_proxy()
                .build()
                .unwrap()
                .get(url)
                .send()
                .await
                .unwrap();
            let member = answer.headers()["x-ham4db-member"].to_str().unwrap().to_owned();
            ([("x-ham4db-member", member)], answer.text().await.unwrap()).into_response()
        }
    };
    let proxy = serve(Router::new().route("/api/discover/127.0.0.1/21101", get(pass))).await;
    let mut words = DISCOVER.to_vec();
    words.push("--debug");
    let ran = client(&proxy, &words).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "127.0.0.1:21101\n"), "{}", ran.err);
    assert_eq!(
        (asked.load(Ordering::SeqCst), leader.api.calls().len()),
        (3, 1),
        "a change is repeated while there is no leader, and done once"
    );
    for part in [
        format!("debug: {proxy}/api is used: it is the only endpoint"),
        format!("debug: {proxy}/api answered 503"),
        format!("debug: {proxy}/api answered 200"),
        ", by member member-1.example\n".to_owned(),
    ] {
        assert!(ran.err.contains(&part), "{part} is not in {}", ran.err);
    }
    let quiet = client(&proxy, &["-c", "which-api"]).await;
    assert_eq!((quiet.out, quiet.err), (format!("{proxy}/api\n"), String::new()));
    at_leader.stop().await;
}

#[tokio::test]
async fn a_change_that_a_server_refuses_with_503_is_not_repeated() {
    let member = Member::alone();
    let served = member.serve().await;
    let ran = client(&served.uri, &["-c", "discover", "-i", "127.0.0.1:9"]).await;
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.err.contains("127.0.0.1:9: connection refused"), "{}", ran.err);
    assert_eq!(member.api.calls().len(), 1, "the server, not the leader, is missing");
    served.stop().await;
}

#[tokio::test]
async fn among_all_members_the_leader_is_found_at_once_though_some_are_dead_or_silent() {
    let leader = Member::in_group(1, Some(peer(1)));
    let follower = Member::in_group(2, Some(peer(1)));
    let (at_leader, at_follower) = (leader.serve().await, follower.serve().await);
    let (dead, (silent, _kept)) = (nothing().await, silence().await);
    for endpoints in [
        format!("{} {}", at_leader.uri, at_follower.uri),
        format!("{silent} {dead} {} {}/api/", at_follower.uri, at_leader.uri),
    ] {
        let begun = Instant::now();
        let ran = client(&endpoints, &["-c", "which-api", "--debug"]).await;
        assert_eq!(
            (ran.code, ran.out),
            (0, format!("{}/api\n", at_leader.uri)),
            "{}",
            ran.err
        );
        assert!(
            ran.err
                .contains(&format!("{}/api is used: its leader-check answers 200", at_leader.uri)),
            "{}",
            ran.err
        );
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "the silent one was waited for"
        );
        let done = leader.api.calls().len();
        let ran = client(&endpoints, &DISCOVER).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert_eq!((leader.api.calls().len(), follower.api.calls().len()), (done + 1, 0));
    }
    at_leader.stop().await;
    at_follower.stop().await;
}

#[tokio::test]
async fn a_leader_that_the_client_does_not_reach_is_reached_through_another_member() {
    let leader = Member::in_group(1, Some(peer(1)));
    let at_leader = leader.serve().await;
    let reached = Peer {
        http_uri: at_leader.uri.clone(),
        ..peer(1)
    };
    let follower = Member::in_group(2, Some(reached));
    let at_follower = follower.serve().await;
    let endpoints = format!("{} {}", nothing().await, at_follower.uri);
    let mut words = DISCOVER.to_vec();
    words.push("--debug");
    let ran = client(&endpoints, &words).await;
    assert_eq!((ran.code, leader.api.calls().len()), (0, 1), "{}", ran.err);
    assert!(
        ran.err.contains("is used: its routed-leader-check answers 200")
            && ran.err.contains("by member member-1.example"),
        "{}",
        ran.err
    );
    at_leader.stop().await;
    at_follower.stop().await;
}

#[tokio::test]
async fn without_a_leader_the_error_names_each_member_and_why() {
    let follower = Member::in_group(2, None);
    let at_follower = follower.serve().await;
    let (dead, (silent, _kept)) = (nothing().await, silence().await);
    let with_password = dead.replace("http://", "http://me:secret@");
    let endpoints = format!("{} {with_password} {silent}", at_follower.uri);
    let begun = Instant::now();
    let ran = client(&endpoints, &["-c", "clusters"]).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    for part in [
        format!(
            "Cannot determine leader from {}/api {dead}/api {silent}/api (",
            at_follower.uri
        ),
        format!(
            "{}/api: it does not lead, 503: member-2.example knows no leader",
            at_follower.uri
        ),
        format!("{silent}/api: no answer within 1 s"),
    ] {
        assert!(ran.err.contains(&part), "{part} is not in {}", ran.err);
    }
    assert!(ran.err.to_lowercase().contains("connection refused"), "{}", ran.err);
    assert!(!ran.err.contains("secret"), "{}", ran.err);
    at_follower.stop().await;
}

#[tokio::test]
async fn a_leader_elected_while_the_client_looks_for_one_is_used() {
    let member = Member::in_group(1, None);
    let served = member.serve().await;
    let endpoints = format!("{} {}", nothing().await, served.uri);
    let elect = async {
        // Once the client has asked in vain.
        while member.group.barriers.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(350)).await;
            member.group.leadership.send_replace(Leadership {
                term: 2,
                is_leader: true,
                leader: Some(peer(1)),
            });
        }
    };
    let (ran, ()) = tokio::join!(client(&endpoints, &DISCOVER), elect);
    assert_eq!((ran.code, member.api.calls().len()), (0, 1), "{}", ran.err);
    served.stop().await;
}

#[tokio::test]
async fn a_leader_that_changes_between_two_calls_is_followed() {
    let (one, two) = (Member::in_group(1, Some(peer(1))), Member::in_group(2, Some(peer(1))));
    let (at_one, at_two) = (one.serve().await, two.serve().await);
    let endpoints = format!("{} {}", at_one.uri, at_two.uri);
    assert_eq!(client(&endpoints, &DISCOVER).await.code, 0);
    for (member, leads) in [(&one, false), (&two, true)] {
        member.group.leadership.send_replace(Leadership {
            term: 2,
            is_leader: leads,
            leader: Some(peer(2)),
        });
    }
    assert_eq!(client(&endpoints, &DISCOVER).await.code, 0);
    assert_eq!((one.api.calls().len(), two.api.calls().len()), (1, 1));
    at_one.stop().await;
    at_two.stop().await;
}

#[tokio::test]
async fn a_leader_that_dies_between_check_and_request_is_replaced_and_both_are_named() {
    // It answers one leader-check and is gone.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dying = format!("http://{}", listener.local_addr().unwrap());
    let two = Member::in_group(2, Some(peer(1)));
    let at_two = two.serve().await;
    let die = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0_u8; 4096];
        tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.unwrap();
        drop(listener);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\"OK\"";
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        drop(stream);
        two.group.leadership.send_replace(Leadership {
            term: 2,
            is_leader: true,
            leader: Some(peer(2)),
        });
    };
    let endpoints = format!("{dying} {}", at_two.uri);
    let mut words = DISCOVER.to_vec();
    words.push("--debug");
    let (ran, ()) = tokio::join!(client(&endpoints, &words), die);
    assert_eq!((ran.code, two.api.calls().len()), (0, 1), "{}", ran.err);
    assert!(ran.err.contains(&format!("cannot access {dying}/api")), "{}", ran.err);
    assert!(ran.err.contains("by member member-2.example"), "{}", ran.err);
    at_two.stop().await;
}
