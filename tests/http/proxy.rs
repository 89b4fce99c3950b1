//! Requests forwarded from a follower to the leader, over sockets.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use futures::StreamExt as _;
use ham4db::adapter::http::routes;
use ham4db::app::ports::{Leadership, Peer};
use serde_json::json;

use crate::group::peer;
use crate::member::{Answer, Member};

/// A client of its own for each request.
fn reqwest_client() -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().unwrap()
}

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
async fn health_raft_and_metrics_are_never_forwarded() {
    // Whatever is forwarded fails: nothing listens there.
    let follower = Member::in_group(2, Some(at(1, "http://127.0.0.1:1")));
    let mut paths: Vec<String> = routes().local.iter().map(|path| format!("/api{path}")).collect();
    assert!(paths.len() > 10, "{paths:?}");
    paths.push("/metrics".to_owned());
    for path in paths {
        let answer = follower.get(&path.replace("{code}", "503")).await;
        let expected = match path.as_str() {
            "/api/leader-check" => StatusCode::NOT_FOUND,
            "/api/leader-check/{code}" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::OK,
        };
        assert_eq!(answer.status, expected, "{path}: {}", answer.text);
        assert_eq!(answer.headers["x-ham4db-member"], "member-2.example", "{path}");
    }
    for path in routes().reads.iter().chain(&routes().writes) {
        let answer = follower.get(&format!("/api{}", path.replace(['{', '}'], ""))).await;
        assert_eq!(
            answer.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{path}: {}",
            answer.text
        );
        assert_eq!(answer.headers["x-ham4db-leader"], "member-1.example", "{path}");
    }
}

#[tokio::test]
async fn an_answer_names_the_member_that_gave_it() {
    let leader = Member::in_group(1, Some(peer(1)));
    let served = leader.serve().await;
    let follower = Member::in_group(2, Some(at(1, &served.uri)));
    for (member, path, name) in [
        (&leader, "/api/clusters", "member-1.example"),
        (&follower, "/api/clusters", "member-1.example"),
        (&follower, "/api/instance/127.0.0.1/9", "member-1.example"),
        (&follower, "/api/raft-health", "member-2.example"),
        (&follower, "/api/nosuch", "member-2.example"),
    ] {
        assert_eq!(member.get(path).await.headers["x-ham4db-member"], name, "{path}");
    }
    served.stop().await;
}

/// A leader of which each request is answered by `router`.
async fn leader_that_answers(router: Router) -> (Peer, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (at(1, &uri), task)
}

#[tokio::test]
async fn a_large_answer_is_passed_on_in_pieces_and_never_held() {
    const PIECE: usize = 1 << 16;
    const PIECES: usize = 4096;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let endless = move || {
        let sent = Arc::clone(&counted);
        let pieces = futures::stream::iter(0..PIECES).map(move |_| {
            sent.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Bytes::from(vec![b'x'; PIECE]))
        });
        std::future::ready(Body::from_stream(pieces))
    };
    let (leader, task) = leader_that_answers(Router::new().route("/api/clusters", get(endless))).await;
    let follower = Member::in_group(2, Some(leader));
    let served = follower.serve().await;
    let mut answer = reqwest_client()
        .get(format!("{}/api/clusters", served.uri))
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer.chunk().await.unwrap().unwrap()[0],
        b'x',
        "it begins before the leader has sent all"
    );
    // As the client does not read, the leader stops sending once what lies between is full: sockets and a buffer of each process.
    let mut before = usize::MAX;
    while before != sent.load(Ordering::SeqCst) {
        before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        before < PIECES / 4,
        "{} MB were sent to a client that does not read",
        (before * PIECE) >> 20
    );
    let mut length = PIECE;
    while let Some(piece) = answer.chunk().await.unwrap() {
        length += piece.len();
    }
    assert!(length >= PIECE * PIECES, "{length}");
    task.abort();
    drop(answer);
    served.stop().await;
}

#[tokio::test]
async fn a_body_is_forwarded_up_to_the_limit_and_refused_beyond_it() {
    let length = |body: Bytes| std::future::ready(axum::Json(body.len()));
    let route = Router::new().route("/api/errant/127.0.0.1/1", post(length));
    let (leader, task) = leader_that_answers(route).await;
    let follower = Member::in_group(2, Some(leader));
    let served = follower.serve().await;
    for (size, status, text) in [(0, 200, "0"), (65_536, 200, "65536"), (65_537, 413, "")] {
        let url = format!("{}/api/errant/127.0.0.1/1", served.uri);
        let answer = reqwest_client().post(url).body(vec![b'x'; size]).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{size}");
        let answered = answer.text().await.unwrap();
        assert!(text.is_empty() || answered == text, "{size}: {answered}");
    }
    task.abort();
    served.stop().await;
}

#[tokio::test]
async fn a_takeover_of_ten_minutes_is_waited_for() {
    // The client asks the follower in process, so that time can jump over the wait while only the leader's answer is missing.
    let finish = Arc::new(tokio::sync::Notify::new());
    let (asked, finished) = (Arc::new(tokio::sync::Notify::new()), Arc::clone(&finish));
    let arrived = Arc::clone(&asked);
    let slow = move || {
        let (arrived, finished) = (Arc::clone(&arrived), Arc::clone(&finished));
        async move {
            arrived.notify_one();
            finished.notified().await;
            axum::Json("done")
        }
    };
    let (leader, task) = leader_that_answers(Router::new().route("/api/graceful-master-takeover/c1", get(slow))).await;
    let follower = Member::in_group(2, Some(leader));
    let request = follower.get("/api/graceful-master-takeover/c1");
    let wait = async {
        asked.notified().await;
        tokio::time::pause();
        for _ in 0..59 {
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        tokio::time::resume();
        finish.notify_one();
    };
    let (answer, ()) = tokio::join!(request, wait);
    assert_eq!(
        (answer.status, &answer.json),
        (StatusCode::OK, &json!("done")),
        "{}",
        answer.text
    );
    task.abort();
}

/// A follower whose leader is asked for `path`, stays silent, and is replaced: its answer, and how long it took.
async fn with_a_leader_that_is_replaced(path: &'static str) -> (Answer, Duration) {
    let asked = Arc::new(tokio::sync::Notify::new());
    let arrived = Arc::clone(&asked);
    let silent = move || {
        arrived.notify_one();
        std::future::pending::<&'static str>()
    };
    let (leader, task) = leader_that_answers(Router::new().route(path, get(silent))).await;
    let follower = Member::in_group(2, Some(leader));
    let change = async {
        asked.notified().await;
        follower.group.leadership.send_replace(Leadership {
            term: 2,
            is_leader: false,
            leader: Some(at(3, "http://127.0.0.1:1")),
        });
        Instant::now()
    };
    let (answer, since) = tokio::join!(follower.get(path), change);
    task.abort();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text);
    (answer, since.elapsed())
}

#[tokio::test]
async fn a_leader_that_was_replaced_is_not_waited_for_long() {
    let (read, after) = with_a_leader_that_is_replaced("/api/clusters").await;
    assert_eq!(
        read.json["Message"],
        "member-1.example stopped leading and did not answer"
    );
    assert!(after >= Duration::from_millis(200), "{after:?}");
    let (change, after) = with_a_leader_that_is_replaced("/api/disable-global-recoveries").await;
    assert_eq!(
        change.json["Message"],
        "member-1.example stopped leading and did not answer; the request may have taken effect"
    );
    assert!(after >= Duration::from_secs(2), "{after:?}");
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
        assert_eq!(answer.headers["x-ham4db-leader"], "unknown");
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

#[tokio::test]
async fn an_address_of_the_leader_that_leads_back_here_is_no_loop() {
    let follower = Member::in_group(2, None);
    let served = follower.serve().await;
    // As with an `HTTPAdvertise` that is the address of a proxy, or of another member.
    follower.group.leadership.send_replace(Leadership {
        term: 1,
        is_leader: false,
        leader: Some(at(1, &served.uri)),
    });
    let answer = follower.get("/api/disable-global-recoveries").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    assert_eq!(
        answer.json["Message"],
        "member-2.example forwarded the request to member-2.example, which no longer leads"
    );
    assert!(follower.api.calls().is_empty());
    served.stop().await;
}
