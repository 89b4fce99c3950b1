//! The write token: routes with effects require it, other routes do not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use base64::Engine as _;
use ham4db::adapter::http::{Options, WriteAccess, routes};
use ham4db::app::api::write_tokens::WriteTokens;
use ham4db::app::ports::{Leadership, Peer};
use tokio_util::sync::CancellationToken;

use crate::fixture::FakeApi;
use crate::group::{FakeGroup, peer};
use crate::member::{Answer, Member};

const TOKEN: &str = "a-token-of-the-test";

fn guarded() -> Options {
    let tokens = WriteTokens::parse(&format!("another-one\n{TOKEN}\n")).unwrap();
    Options {
        write_access: Some(WriteAccess::new(PathBuf::from("/etc/ham4db/api-token"), tokens)),
        ..Options::default()
    }
}

fn member() -> Member {
    Member::with_options(guarded())
}

fn bearer() -> String {
    format!("Bearer {TOKEN}")
}

fn basic(user: &str, password: &str) -> String {
    let both = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {both}")
}

/// A path that a client could request, with the names of the fixture.
fn filled(path: &str) -> String {
    let part = |part: &str| match part {
        "{host}" | "{below_host}" | "{candidate_host}" | "{target_host}" => "127.0.0.1".to_owned(),
        "{port}" => "21102".to_owned(),
        "{below_port}" | "{candidate_port}" | "{target_port}" => "21101".to_owned(),
        "{hint}" | "{other}" | "{alias}" | "{name}" => "shop".to_owned(),
        "{owner}" | "{reason}" | "{text}" => "me".to_owned(),
        "{duration}" => "1h".to_owned(),
        "{rule}" => "prefer".to_owned(),
        "{code}" => "503".to_owned(),
        "{id}" | "{uid}" | "{page}" => "0".to_owned(),
        other => {
            assert!(!other.starts_with('{'), "{path}: what is {other}?");
            other.to_owned()
        }
    };
    let parts: Vec<String> = path.split('/').map(part).collect();
    format!("/api{}?comment=why", parts.join("/"))
}

/// Everything that a change could alter.
fn traces(api: &FakeApi) -> String {
    format!("{:?} {:?}", api.calls(), api.state.lock().unwrap())
}

fn assert_refused(answer: &Answer, path: &str) {
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}: {}", answer.text);
    assert_eq!(answer.json["Code"], "ERROR", "{path}");
    let message = answer.json["Message"].as_str().unwrap();
    for part in [
        "APIWriteTokenFile (/etc/ham4db/api-token)",
        "Authorization: Bearer",
        "basic authentication",
    ] {
        assert!(message.contains(part), "{path}: {message}");
    }
    assert!(!answer.text.contains(TOKEN));
    let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(
        challenges,
        ["Bearer realm=\"ham4db\""],
        "a browser would ask for a password and store it"
    );
}

#[test]
fn each_route_is_in_one_list() {
    let routes = routes();
    assert!(routes.local.len() > 10 && routes.reads.len() > 50 && routes.writes.len() > 40);
    let all: Vec<&String> = routes.local.iter().chain(&routes.reads).chain(&routes.writes).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[tokio::test]
async fn each_change_is_refused_without_a_token_and_executed_with_one() {
    let (refused, allowed) = (member(), member());
    let before = traces(&refused.api);
    for path in &routes().writes {
        let asked = filled(path);
        for method in [Method::GET, Method::POST, Method::PUT] {
            for authorization in [None, Some("Bearer another-token"), Some("Bearer"), Some(TOKEN)] {
                assert_refused(&refused.send(method.clone(), &asked, authorization, &[]).await, path);
            }
            let wrong = basic(TOKEN, "a-password");
            assert_refused(&refused.send(method.clone(), &asked, Some(&wrong), &[]).await, path);
            assert_eq!(traces(&refused.api), before, "{path} had an effect");
        }
        // With a token the handler decides: most changes succeed, some do not with this fixture.
        for authorization in [bearer(), basic("anybody", TOKEN), basic("", TOKEN)] {
            let answer = allowed.send(Method::GET, &asked, Some(&authorization), &[]).await;
            assert!(
                !matches!(
                    answer.status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED
                ),
                "{path}: {}",
                answer.text
            );
            // A path without a route would prove nothing.
            assert!(!answer.text.contains("no such route"), "{path}");
        }
    }
    let done = allowed
        .send(Method::POST, "/api/disable-global-recoveries", Some(&bearer()), &[])
        .await;
    assert_eq!(done.status, StatusCode::OK, "{}", done.text);
    assert!(allowed.api.state.lock().unwrap().recoveries_disabled);
}

#[tokio::test]
async fn each_read_and_each_route_of_health_is_open_and_changes_nothing() {
    let routes = routes();
    let member = Member::new(FakeGroup::new(1, true, Some(peer(1))), guarded());
    let before = traces(&member.api);
    for path in routes.local.iter().chain(&routes.reads) {
        for method in [Method::GET, Method::POST] {
            for authorization in [None, Some("Bearer another-token")] {
                let answer = member.send(method.clone(), &filled(path), authorization, &[]).await;
                assert!(
                    !matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
                    "{method} {path}: {}",
                    answer.text
                );
            }
        }
        assert_eq!(traces(&member.api), before, "{path} had an effect and is open");
    }
    assert_eq!(member.get("/metrics").await.status, StatusCode::OK);
}

#[tokio::test]
async fn options_and_head_have_no_effect() {
    let (open, guarded) = (Member::alone(), member());
    for member in [&open, &guarded] {
        let options = member.ask(Method::OPTIONS, "/api/disable-global-recoveries").await;
        assert_eq!(options.status, StatusCode::NO_CONTENT);
        assert_eq!(options.headers["allow"], "GET, POST, OPTIONS");
        // No header may let a page of another site read the response.
        assert!(!options.headers.contains_key("access-control-allow-origin"));
    }
    let path = "/api/disable-global-recoveries";
    let head = guarded.ask(Method::HEAD, path).await;
    assert_eq!(head.status, StatusCode::UNAUTHORIZED);
    let head = guarded.send(Method::HEAD, path, Some(&bearer()), &[]).await;
    assert_eq!(
        (head.status, &head.headers["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, POST, OPTIONS".parse().unwrap())
    );
    assert!(!guarded.api.state.lock().unwrap().recoveries_disabled);
}

/// The marks by which a browser is known; over plain HTTP it sends no `Sec-Fetch-Site`.
const BROWSERS: [(&str, &str); 5] = [
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0",
    ),
    ("sec-fetch-site", "same-origin"),
    ("sec-ch-ua", "\"Chromium\";v=\"140\""),
    ("origin", "http://intranet.example.com"),
    ("referer", "http://intranet.example.com/page"),
];

#[tokio::test]
async fn browser_changes_nothing_by_get_whatever_it_sends() {
    for member in [member(), Member::with_options(Options::default())] {
        let before = traces(&member.api);
        for path in &routes().writes {
            let path = filled(path);
            for mark in BROWSERS {
                for authorization in [None, Some(basic("me", TOKEN)), Some(bearer())] {
                    let ours = ("x-ham4db-request", "1");
                    let get = member
                        .send(Method::GET, &path, authorization.as_deref(), &[mark, ours])
                        .await;
                    // A form of another page.
                    let form = member
                        .send(Method::POST, &path, authorization.as_deref(), &[mark])
                        .await;
                    for answer in [get, form] {
                        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {mark:?}: {}", answer.text);
                        assert!(!answer.headers.contains_key("www-authenticate"));
                    }
                }
            }
        }
        assert_eq!(traces(&member.api), before);
    }
}

#[tokio::test]
async fn browser_changes_something_by_post_with_the_header_and_a_token() {
    let member = member();
    let path = "/api/disable-global-recoveries";
    let headers = [BROWSERS[0], BROWSERS[1], ("x-ham4db-request", "1")];
    let refused = member.send(Method::POST, path, None, &headers).await;
    assert_refused(&refused, path);
    for authorization in [bearer(), basic("me", TOKEN)] {
        let answer = member.send(Method::POST, path, Some(&authorization), &headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }
    // Reading by a browser is not restricted.
    let read = member.send(Method::GET, "/api/clusters", None, &[BROWSERS[0]]).await;
    assert_eq!(read.status, StatusCode::OK);
}

#[tokio::test]
async fn a_token_does_not_open_a_read_only_member() {
    let member = Member::with_options(Options {
        read_only: true,
        ..guarded()
    });
    let answer = member
        .send(Method::GET, "/api/disable-global-recoveries", Some(&bearer()), &[])
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_follower_forwards_the_token_and_returns_the_refusal() {
    let leader = Member::new(FakeGroup::new(1, true, Some(peer(1))), guarded());
    let served = leader.serve().await;
    // The leader decides, whatever the configuration of the follower.
    for options in [Options::default(), guarded()] {
        let follower = Member::new(FakeGroup::new(2, true, None), options);
        follower.group.leadership.send_replace(Leadership {
            term: 1,
            is_leader: false,
            leader: Some(Peer {
                http_uri: served.uri.clone(),
                ..peer(1)
            }),
        });
        let path = "/api/begin-downtime/127.0.0.1/21102/me/why/1h";
        assert_refused(&follower.get(path).await, path);
        assert!(leader.api.state.lock().unwrap().intents.is_empty());
        for authorization in [bearer(), basic("me", TOKEN)] {
            let done = follower.send(Method::GET, path, Some(&authorization), &[]).await;
            assert_eq!(done.status, StatusCode::OK, "{}", done.text);
            assert_eq!(leader.api.state.lock().unwrap().intents.len(), 1);
            leader.api.state.lock().unwrap().intents.clear();
        }
        assert_eq!(follower.get("/api/clusters").await.status, StatusCode::OK);
    }
    served.stop().await;
}

/// Repeats the request until the response has this status.
async fn becomes(member: &Member, authorization: &str, status: StatusCode) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let answer = member
            .send(Method::GET, "/api/enable-global-recoveries", Some(authorization), &[])
            .await;
        if answer.status == status {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{authorization}: still {}",
            answer.status
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

#[tokio::test]
async fn tokens_are_rotated_without_a_gap_and_the_last_good_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    replace(&file, "old\n");
    let access = WriteAccess::new(file.clone(), WriteTokens::parse("old").unwrap());
    let stop = CancellationToken::new();
    let following = tokio::spawn(Arc::clone(&access).follow(Duration::from_millis(5), stop.clone()));
    let member = Member::with_options(Options {
        write_access: Some(access),
        ..Options::default()
    });
    let asks = |token: &str| format!("Bearer {token}");
    becomes(&member, &asks("old"), StatusCode::OK).await;
    replace(&file, "new\nold\n");
    becomes(&member, &asks("new"), StatusCode::OK).await;
    becomes(&member, &asks("old"), StatusCode::OK).await;
    replace(&file, "new\n");
    becomes(&member, &asks("old"), StatusCode::UNAUTHORIZED).await;
    // An invalid file in between changes nothing: `new` stays valid until the next valid file is read.
    for bad in ["\n", "two words\n"] {
        replace(&file, bad);
        becomes(&member, &asks("new"), StatusCode::OK).await;
    }
    std::fs::remove_file(&file).unwrap();
    becomes(&member, &asks("new"), StatusCode::OK).await;
    replace(&file, "newer\n");
    becomes(&member, &asks("newer"), StatusCode::OK).await;
    becomes(&member, &asks("new"), StatusCode::UNAUTHORIZED).await;
    stop.cancel();
    following.await.unwrap();
}

#[test]
fn debug_shows_no_token() {
    assert!(!format!("{:?}", guarded()).contains(TOKEN));
}
