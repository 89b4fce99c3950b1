//! The listener for health and metrics.

use std::time::Duration;

use axum::http::StatusCode;
use ham4db::adapter::connections::{ListenerLimits, raise_open_files};
use ham4db::adapter::http::{Options, bind, routes, serve};
use ham4db::app::ports::Health;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group::{FakeGroup, peer};
use crate::member::Member;

struct Ports {
    api: String,
    health: String,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Ports {
    async fn of(member: &Member) -> Self {
        let (api, health) = (bind("127.0.0.1:0").await.unwrap(), bind("127.0.0.1:0").await.unwrap());
        let uri = |listener: &tokio::net::TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        Self {
            api: uri(&api),
            health: uri(&health),
            task: tokio::spawn(serve(
                api,
                Some(health),
                member.context.clone(),
                ListenerLimits::default(),
                stop.clone(),
            )),
            stop,
        }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn status(base: &str, path: &str) -> StatusCode {
    reqwest::get(format!("{base}{path}")).await.unwrap().status()
}

fn in_raft(options: Options) -> Member {
    Member::new(FakeGroup::new(1, true, Some(peer(1))), options)
}

#[tokio::test]
async fn it_serves_only_the_routes_that_members_answer_themselves() {
    let member = in_raft(Options::default());
    let ports = Ports::of(&member).await;
    let routes = routes();
    for path in &routes.local {
        let path = format!("/api{}", path.replace("{code}", "404"));
        assert_eq!(status(&ports.health, &path).await, StatusCode::OK, "{path}");
        assert_eq!(status(&ports.api, &path).await, StatusCode::OK, "{path} at the API");
    }
    assert_eq!(status(&ports.health, "/metrics").await, StatusCode::OK);
    let concrete = |path: &String| {
        path.replace("{host}", "127.0.0.1")
            .replace("{port}", "21102")
            .replace(['{', '}'], "")
    };
    for path in routes.reads.iter().chain(&routes.writes).map(concrete) {
        assert_eq!(
            status(&ports.health, &format!("/api{path}")).await,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    assert!(member.api.calls().is_empty());
    *member.group.health.lock().unwrap() = Health::Unhealthy("no quorum".to_owned());
    for path in ["/api/raft-health", "/api/health"] {
        assert_eq!(
            status(&ports.health, path).await,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{path}"
        );
    }
    assert_eq!(status(&ports.health, "/api/live").await, StatusCode::OK);
    ports.end().await;
}

#[tokio::test]
async fn it_has_the_prefix_and_the_status_endpoint() {
    let member = in_raft(Options {
        url_prefix: "/db".to_owned(),
        status_endpoint: Some("/status-of-mine".to_owned()),
        ..Options::default()
    });
    let ports = Ports::of(&member).await;
    for path in ["/db/api/raft-health", "/db/metrics", "/status-of-mine"] {
        assert_eq!(status(&ports.health, path).await, StatusCode::OK, "{path}");
    }
    assert_eq!(status(&ports.health, "/api/raft-health").await, StatusCode::NOT_FOUND);
    ports.end().await;
}

#[tokio::test]
async fn both_ports_count_into_one_metric() {
    let ports = Ports::of(&in_raft(Options::default())).await;
    status(&ports.health, "/api/live").await;
    status(&ports.api, "/api/live").await;
    let metrics = reqwest::get(format!("{}/metrics", ports.health))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("ham4db_http_requests_total{route=\"/api/live\",status=\"200\"} 2"),
        "{metrics}"
    );
    ports.end().await;
}

/// The API processes as many requests as its limit allows: a probe is answered nevertheless.
#[tokio::test]
async fn a_busy_api_does_not_keep_probes_waiting() {
    let member = in_raft(Options::default());
    member.api.refresh_gate.forget_permits(1_000_000);
    let ports = Ports::of(&member).await;
    let client = reqwest::Client::new();
    let refresh = format!("{}/api/refresh/127.0.0.1/21102", ports.api);
    let waiting: Vec<_> = (0..256).map(|_| tokio::spawn(client.get(&refresh).send())).collect();
    // Until the API reports that its limit is reached.
    let deadline = Instant::now() + Duration::from_mins(1);
    while status(&ports.api, "/api/clusters").await != StatusCode::SERVICE_UNAVAILABLE {
        assert!(Instant::now() < deadline, "the API is not busy");
    }
    for path in ["/api/raft-health", "/api/live", "/api/leader-check", "/metrics"] {
        assert_eq!(status(&ports.health, path).await, StatusCode::OK, "{path}");
    }
    assert!(waiting.iter().all(|request| !request.is_finished()));
    member.api.refresh_gate.add_permits(256);
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    ports.end().await;
}

#[tokio::test]
async fn it_ends_with_the_api() {
    let member = in_raft(Options::default());
    let ports = Ports::of(&member).await;
    let (api, health) = (ports.api.clone(), ports.health.clone());
    ports.end().await;
    for base in [api, health] {
        assert!(
            reqwest::get(format!("{base}/api/live")).await.unwrap_err().is_connect(),
            "{base}"
        );
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = bind(&address).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("cannot listen at {address}")),
        "{error}"
    );
}

/// Connections that are opened and say nothing, many times as many as the API may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_flood_of_the_api_leaves_probes_and_requests_working() {
    const FLOOD: usize = 10_000;
    let files = raise_open_files();
    assert!(files > 13_000, "the flood needs open files, there are {files}");
    let ports = Ports::of(&in_raft(Options::default())).await;
    let address = ports.api.trim_start_matches("http://").to_owned();
    let mut flood = Vec::new();
    for n in 0..FLOOD {
        flood.push(tokio::net::TcpStream::connect(&address).await.unwrap());
        if n % 1000 == 999 {
            assert_eq!(
                status(&ports.health, "/api/raft-health").await,
                StatusCode::OK,
                "after {n}"
            );
            assert_eq!(status(&ports.api, "/api/live").await, StatusCode::OK, "after {n}");
            assert_eq!(status(&ports.api, "/api/clusters").await, StatusCode::OK, "after {n}");
        }
    }
    drop(flood);
    ports.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_that_never_ends_reaches_no_handler() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let member = in_raft(Options::default());
    let ports = Ports::of(&member).await;
    let mut stream = tokio::net::TcpStream::connect(ports.api.trim_start_matches("http://"))
        .await
        .unwrap();
    stream
        .write_all(b"POST /api/forget/db1/3306 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        .await
        .unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_mins(1), stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(member.api.calls().is_empty());
    ports.end().await;
}
