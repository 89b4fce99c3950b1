//! Health and leadership, as load balancers and readiness probes request them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use ham4db::adapter::http::Options;
use ham4db::app::observation::probe_sharing::ProbeShares;
use ham4db::app::observation::scheduling_delay::Lateness;
use ham4db::app::ports::{Clock, Health, Leadership, Unconfirmed};
use ham4db::domain::clock_skew::{ClockComparison, ClockOffset};
use ham4db::domain::intent::Origin;
use ham4db::domain::time::{MonotonicTime, WallTime};
use serde_json::json;

use crate::fixture::StoppedClock;
use crate::group::{FakeGroup, peer};
use crate::member::Member;

#[tokio::test]
async fn a_leader_that_is_asked_hands_over_and_names_the_next_one() {
    let member = Member::in_group(1, Some(peer(1)));
    assert_eq!(member.json("/api/leader-check").await, "OK");
    let answer = member.json("/api/reelect").await;
    assert_eq!(answer["Message"], "Set re-elections");
    assert_eq!(answer["Details"], "member-2.example");
    assert_eq!(member.get("/api/leader-check").await.status, 404);

    let answer = Member::alone().get("/api/reelect").await;
    assert_eq!(answer.status, 500);
    assert!(answer.text.contains("no other member took over"), "{}", answer.text);
}

#[tokio::test]
async fn constant_routes_answer_ok() {
    let member = Member::in_group(2, None);
    for path in ["lb-check", "_ping", "live"] {
        assert_eq!(member.json(&format!("/api/{path}")).await, "OK", "{path}");
    }
}

#[tokio::test]
async fn only_a_leader_that_a_quorum_confirms_passes_the_leader_check() {
    let leader = Member::in_group(1, Some(peer(1)));
    assert_eq!(leader.json("/api/leader-check").await, "OK");
    assert_eq!(leader.json("/api/leader-check/503").await, "OK");
    assert_eq!(
        leader.group.barriers.load(Ordering::SeqCst),
        2,
        "every check asks the quorum"
    );
    *leader.group.quorum.lock().unwrap() = Err(Unconfirmed::NoQuorum("cut off".to_owned()));
    let follower = Member::in_group(2, Some(peer(1)));
    for member in [&leader, &follower] {
        for (path, status) in [
            ("", 404),
            ("/503", 503),
            ("/0", 404),
            ("/100", 404),
            ("/-1", 404),
            ("/abc", 404),
            ("/1000", 404),
        ] {
            let answer = member.get(&format!("/api/leader-check{path}")).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json),
                (status, &json!("Not leader")),
                "{path}"
            );
        }
    }
    assert_eq!(
        follower.group.barriers.load(Ordering::SeqCst),
        0,
        "who does not lead asks nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_check_without_an_answer_of_the_quorum_ends_in_time() {
    let member = Member::in_group(1, Some(peer(1)));
    member.group.barrier_gate.forget_permits(1_000_000);
    let begun = tokio::time::Instant::now();
    assert_eq!(member.get("/api/leader-check").await.status, StatusCode::NOT_FOUND);
    assert_eq!(begun.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_proof_counts_only_for_callers_that_waited_for_it() {
    let member = Member::in_group(1, Some(peer(1)));
    member.group.barrier_gate.forget_permits(1_000_000);
    let first = async { member.get("/api/leader-check").await.status };
    let others = async {
        // The first proof is running; these callers must wait for one that begins after their request.
        while member.group.barriers.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = async { member.get("/api/leader-check").await.status };
        let third = async { member.get("/api/leader-check").await.status };
        let release = async {
            member.group.barrier_gate.add_permits(1);
            while member.group.barriers.load(Ordering::SeqCst) == 1 {
                tokio::task::yield_now().await;
            }
            // Leadership is lost after the first proof and before the second one.
            *member.group.quorum.lock().unwrap() = Err(Unconfirmed::NoQuorum("deposed".to_owned()));
            member.group.barrier_gate.add_permits(10);
        };
        let (second, third, ()) = tokio::join!(second, third, release);
        (second, third)
    };
    let (first, (second, third)) = tokio::join!(first, others);
    assert_eq!(first, StatusCode::OK);
    assert_eq!(
        (second, third),
        (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
        "the earlier proof was not theirs"
    );
    assert_eq!(
        member.group.barriers.load(Ordering::SeqCst),
        2,
        "those who waited together share a proof"
    );
}

#[tokio::test]
async fn raft_health_has_a_reason() {
    let member = Member::in_group(2, Some(peer(1)));
    assert_eq!(member.json("/api/raft-health").await, "healthy");
    *member.group.health.lock().unwrap() = Health::Unhealthy("joining".to_owned());
    let answer = member.get("/api/raft-health").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.json["Message"], "unhealthy: joining");
    let health = member.get("/api/health").await;
    assert_eq!(health.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        (&health.json["Details"]["Healthy"], &health.json["Details"]["Error"]),
        (&json!(false), &json!("joining"))
    );
}

#[tokio::test]
async fn an_overloaded_member_says_so_in_its_status_and_metrics() {
    let member = Member::alone();
    assert_eq!(member.json("/api/status").await["Details"].get("Overload"), None);
    *member.api.lateness.lock().unwrap() = Lateness {
        worst_millis: 640,
        percent: 71,
        is_overloaded: true,
        discarded_probes: 12,
    };
    let overload = member.json("/api/status").await["Details"]["Overload"].clone();
    let text = overload.as_str().unwrap();
    assert!(
        text.contains("wait for 71 % of the time, up to 640 ms; 12 failed probes"),
        "{text}"
    );
    let metrics = member.get("/metrics").await.text;
    for line in [
        "ham4db_overloaded 1",
        "ham4db_scheduling_delay_seconds 0.64",
        "ham4db_probes_discarded_total 12",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn shared_probes_are_shown_in_status_and_metrics() {
    let member = Member::in_group(2, Some(peer(1)));
    assert_eq!(member.json("/api/status").await["Details"].get("ProbedInstances"), None);
    assert!(member.get("/metrics").await.text.contains("\nham4db_probes_shared 0\n"));
    *member.api.probe_shares.lock().unwrap() = ProbeShares {
        is_active: true,
        by_member: BTreeMap::from([("m1".to_owned(), 3), ("m2".to_owned(), 0)]),
        received: 40,
        received_bytes: 12_000,
    };
    let shares = member.json("/api/status").await["Details"]["ProbedInstances"].clone();
    assert_eq!(shares, json!({"m1": 3, "m2": 0}));
    let metrics = member.get("/metrics").await.text;
    for line in [
        "ham4db_probes_shared 1",
        "ham4db_instances_probed{member=\"m1\"} 3",
        "ham4db_instances_probed{member=\"m2\"} 0",
        "ham4db_observations_received_total 40",
        "ham4db_observation_bytes_received_total 12000",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn the_group_is_shown_as_this_member_knows_it() {
    let member = Member::in_group(2, Some(peer(1)));
    assert_eq!(member.json("/api/raft-state").await, "Follower");
    assert_eq!(member.json("/api/raft-leader").await, "member-1.example:10008");
    let peers = json!([
        "member-1.example:10008",
        "member-2.example:10008",
        "member-3.example:10008"
    ]);
    assert_eq!(member.json("/api/raft-peers").await, peers);
    assert_eq!(
        member.json("/api/raft-status").await,
        json!({
            "RaftBind": "",
            "RaftAdvertise": "member-2.example:10008",
            "State": "Follower",
            "Healthy": true,
            "IsPartOfQuorum": true,
            "Leader": "member-1.example:10008",
            "LeaderURI": "http://member-1.example:3000",
            "Peers": peers
        })
    );
    let health = member.json("/api/status").await["Details"].clone();
    assert_eq!(
        (&health["IsActiveNode"], &health["ActiveNode"]["Hostname"]),
        (&json!(false), &json!("member-1.example"))
    );
    assert_eq!(
        health["RaftHealthyMembers"],
        json!(["member-2.example:10008", "member-1.example:10008"])
    );
    member.group.leadership.send_replace(Leadership {
        term: 2,
        is_leader: false,
        leader: None,
    });
    assert_eq!(member.json("/api/raft-state").await, "Candidate");
    assert_eq!(member.json("/api/raft-leader").await, "");
}

/// A clock of a group in which member 3 is three hours ahead.
struct GroupTime;

impl Clock for GroupTime {
    fn wall(&self) -> WallTime {
        StoppedClock.wall()
    }

    fn monotonic(&self) -> MonotonicTime {
        StoppedClock.monotonic()
    }

    fn comparison(&self) -> ClockComparison {
        let offset = |member, millis| ClockOffset {
            member,
            name: format!("member-{member}.example"),
            millis,
            uncertainty_millis: 1,
        };
        ClockComparison {
            offsets: vec![offset(1, -250), offset(3, 10_800_500)],
            ..ClockComparison::default()
        }
    }
}

#[tokio::test]
async fn wrong_clock_of_a_member_is_shown() {
    let group = FakeGroup::new(1, true, Some(peer(1)));
    let member = Member::with_clock(group, Options::default(), Arc::new(GroupTime));
    assert_eq!(
        member.json("/api/status").await["Details"]["Clocks"],
        json!([
            {"Member": "member-1.example", "OffsetSeconds": -0.25},
            {
                "Member": "member-3.example",
                "OffsetSeconds": 10800.5,
                "Problem": "ClockSkew: the clock of member member-3.example is 10800.500 s ahead of the majority's"
            }
        ])
    );
    let metrics = member.get("/metrics").await.text;
    assert!(
        metrics.contains("ham4db_clock_skew_seconds{member=\"member-3.example\"} 10800.5"),
        "{metrics}"
    );
}

#[tokio::test]
async fn metrics_count_clusters_instances_and_findings() {
    let member = Member::in_group(1, Some(peer(1)));
    member.show(crate::fixture::view_with_dead_primary());
    assert_eq!(member.get("/api/nosuch").await.status, StatusCode::NOT_FOUND);
    let text = member.get("/metrics").await.text;
    for line in [
        "ham4db_instances{cluster=\"127.0.0.1:21100\"} 4",
        "ham4db_instances_unreachable{cluster=\"127.0.0.1:21100\"} 1",
        "ham4db_findings{cluster=\"127.0.0.1:21100\",code=\"DeadMaster\"} 1",
        "ham4db_failover_ready{cluster=\"127.0.0.1:21100\"} 1",
        "ham4db_failover_obstacles{cluster=\"127.0.0.1:21100\"} 0",
        "ham4db_replication_lag_seconds{cluster=\"127.0.0.1:21100\",server=\"127.0.0.1:21101\"} 0",
        concat!("ham4db_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "ham4db_leader 1",
        "ham4db_healthy 1",
        "ham4db_recoveries_enabled 1",
        "ham4db_http_requests_total{route=\"none\",status=\"404\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("ham4db_last_promotion_seconds{"), "{text}");
    let recovery = crate::records::recovery(2, crate::records::ended(true));
    member
        .api
        .state
        .lock()
        .unwrap()
        .recoveries
        .insert("uid-2".to_owned(), recovery);
    let text = member.get("/metrics").await.text;
    assert!(
        text.contains("ham4db_last_promotion_seconds{cluster=\"127.0.0.1:21100\"} 30.0\n"),
        "{text}"
    );
    // A server in a requested downtime does not count. A server that a recovery left behind does.
    let mut downtime = crate::fixture::document_downtime(21100);
    downtime.origin = Origin::Recovery;
    member.api.state.lock().unwrap().intents.insert(downtime.id(), downtime);
    let text = member.get("/metrics").await.text;
    assert!(
        text.contains("ham4db_instances_unreachable{cluster=\"127.0.0.1:21100\"} 1\n"),
        "{text}"
    );
    let downtime = crate::fixture::document_downtime(21100);
    member.api.state.lock().unwrap().intents.insert(downtime.id(), downtime);
    let text = member.get("/metrics").await.text;
    assert!(
        text.contains("ham4db_instances_unreachable{cluster=\"127.0.0.1:21100\"} 0\n"),
        "{text}"
    );
    assert!(!text.contains("ham4db_findings{"), "{text}");
}
