//! Records of detections and recoveries: order, pages, filters, acknowledgement.

use axum::http::StatusCode;
use ham4db::domain::gtid::GtidSet;
use ham4db::domain::instance::Identity;
use ham4db::domain::recovery::kind::RecoveryKind;
use ham4db::domain::recovery::plan::{Plan, PlanReport};
use ham4db::domain::state::record::{Blocked, Detection, StepRecord};
use ham4db::domain::state::{Phase, Recovery};
use ham4db::domain::topology::ClusterId;
use serde_json::{Value, json};

use crate::fixture::{NOW, dead_primary, gtid, key};
use crate::member::Member;

pub(crate) fn recovery(id: u64, phase: Phase) -> Recovery {
    let plan = Plan {
        kind: RecoveryKind::DeadPrimary,
        code: ham4db::domain::finding::Code::DeadMaster,
        cluster: ClusterId("c1".to_owned()),
        old_primary: key(21100),
        old_primary_identity: Some(Identity::ServerId(21100)),
        successor: key(21102),
        successor_identity: Identity::ServerId(21102),
        position: gtid("0-21100-7"),
        instances: [key(21100), key(21101), key(21102)].into(),
        lost_replicas: Vec::new(),
        lost: None::<GtidSet>,
        loss_evidence: None,
        steps: Vec::new(),
        sources: std::collections::BTreeMap::new(),
        prior_states: std::collections::BTreeMap::new(),
        old_primary_state: None,
        events: None,
        commits_nothing: false,
        remembered: None,
        manual_request: None,
    };
    Recovery {
        id,
        uid: format!("uid-{id}"),
        cluster_name: "127.0.0.1:21100".to_owned(),
        cluster_alias: "shop".to_owned(),
        finding: dead_primary(),
        opinions: Vec::new(),
        plan,
        report: PlanReport::default(),
        holder: 1,
        holder_name: "member-1.example".to_owned(),
        epoch: 2,
        phase,
        started: NOW.plus_millis(-60_000),
        lost_replicas: Vec::new(),
        lost: Some(gtid("0-21100-9")),
        errors: vec!["one thing".to_owned()],
        steps: vec![StepRecord {
            id: 5,
            at: NOW,
            message: "fence 127.0.0.1:21100".to_owned(),
        }],
        fencing_proof: None,
        acknowledged: None,
        hooks: ham4db::domain::hooks::HookProgress::default(),
        failed_before: 0,
        owed: std::collections::BTreeSet::new(),
    }
}

pub(crate) fn ended(successful: bool) -> Phase {
    Phase::Ended {
        at: NOW.plus_millis(-30_000),
        successor: Some(key(21102)),
        successful,
    }
}

/// A member that knows a detection, an ended recovery (uid-2) and a block.
pub(crate) fn with_records() -> Member {
    let member = Member::alone();
    {
        let mut state = member.api.state.lock().unwrap();
        state.recoveries.insert("uid-2".to_owned(), recovery(2, ended(true)));
        let detection = Detection {
            id: 1,
            finding: dead_primary(),
            cluster_name: "127.0.0.1:21100".to_owned(),
            cluster_alias: "shop".to_owned(),
            at: NOW.plus_millis(-61_000),
            member_name: "member-1.example".to_owned(),
            held_back: None,
            recovery: Some("uid-2".to_owned()),
            successor: None,
            hooks: ham4db::domain::hooks::HookProgress::default(),
        };
        state.detections.insert(1, detection);
        let blocked = Blocked {
            instance: key(21102),
            cluster_name: "127.0.0.1:21100".to_owned(),
            analysis: "DeadMaster".to_owned(),
            at: NOW,
            blocking_recovery: 2,
            reason: String::new(),
        };
        state.blocked.insert(key(21102), blocked);
    }
    member
}

fn uids(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|recovery| recovery["UID"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_recovery_shows_how_it_ended_and_what_was_lost() {
    let member = with_records();
    let recovery = &member.json("/api/audit-recovery/uid/uid-2").await[0];
    assert_eq!(
        recovery["SuccessorKey"],
        json!({"Hostname": "127.0.0.1", "Port": 21102})
    );
    assert_eq!(recovery["IsSuccessful"], true);
    assert_eq!(recovery["IsActive"], false);
    assert_eq!(recovery["RecoveryStartTimestamp"], "2026-11-21T08:19:24Z");
    assert_eq!(recovery["RecoveryEndTimestamp"], "2026-11-21T08:19:54Z");
    assert_eq!(recovery["AllErrors"], json!(["one thing"]));
    assert_eq!(recovery["LastDetectionId"], 1);
    assert_eq!(recovery["LostTransactions"], "0-21100-9");
    assert_eq!(recovery["AnalysisEntry"]["Analysis"], "DeadMaster");
    assert_eq!(recovery["ParticipatingInstanceKeys"].as_array().unwrap().len(), 3);
    let detection = &member.json("/api/audit-failure-detection/id/1").await[0];
    assert_eq!(detection["RelatedRecoveryId"], 2);
    assert_eq!(detection["AnalysisEntry"]["StartActivePeriod"], "2026-11-21T08:19:23Z");
    assert_eq!(
        member.json("/api/blocked-recoveries").await,
        json!([{
            "FailedInstanceKey": {"Hostname": "127.0.0.1", "Port": 21102},
            "ClusterName": "127.0.0.1:21100",
            "Analysis": "DeadMaster",
            "LastBlockedTimestamp": "2026-11-21T08:20:24Z",
            "BlockingRecoveryId": 2
        }])
    );
}

#[tokio::test]
async fn the_latest_recoveries_come_first_twenty_on_a_page() {
    let member = Member::alone();
    for id in 1..=25 {
        member
            .api
            .state
            .lock()
            .unwrap()
            .recoveries
            .insert(format!("uid-{id}"), recovery(id, ended(true)));
    }
    let first = member.json("/api/audit-recovery").await;
    assert_eq!((uids(&first).len(), uids(&first)[0]), (20, "uid-25"));
    let second = member.json("/api/audit-recovery/1").await;
    assert_eq!(uids(&second), ["uid-5", "uid-4", "uid-3", "uid-2", "uid-1"]);
    assert_eq!(
        uids(&member.json("/api/audit-recovery/cluster/127.0.0.1:21100/1").await).len(),
        5
    );
    assert_eq!(uids(&member.json("/api/audit-recovery/alias/shop/1").await).len(), 5);
    assert_eq!(uids(&member.json("/api/audit-recovery/id/7").await), ["uid-7"]);
    assert_eq!(
        member.get("/api/audit-recovery/abc").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn running_and_recent_recoveries_are_listed_separately() {
    let member = with_records();
    member
        .api
        .state
        .lock()
        .unwrap()
        .recoveries
        .insert("uid-3".to_owned(), recovery(3, Phase::Claimed));
    assert_eq!(
        uids(&member.json("/api/active-cluster-recovery/127.0.0.1:21100").await),
        ["uid-3"]
    );
    assert_eq!(
        uids(
            &member
                .json("/api/recently-active-cluster-recovery/127.0.0.1:21100")
                .await
        ),
        ["uid-3", "uid-2"]
    );
    assert_eq!(
        uids(
            &member
                .json("/api/recently-active-instance-recovery/127.0.0.1/21100")
                .await
        ),
        ["uid-3", "uid-2"]
    );
    let mut view = crate::fixture::view();
    view.policy.block_millis = 10_000;
    member.show(view);
    assert_eq!(
        uids(
            &member
                .json("/api/recently-active-cluster-recovery/127.0.0.1:21100")
                .await
        ),
        ["uid-3"]
    );
}

#[tokio::test]
async fn an_acknowledgement_needs_a_comment_and_then_filters() {
    let routes = [
        ("ack-recovery/cluster/shop", json!("127.0.0.1:21100")),
        ("ack-recovery/cluster/alias/shop", json!("shop")),
        (
            "ack-recovery/instance/127.0.0.1/21100",
            json!({"Hostname": "127.0.0.1", "Port": 21100}),
        ),
        ("ack-recovery/2", json!("2")),
        ("ack-recovery/uid/uid-2", json!("uid-2")),
        ("ack-all-recoveries", json!("seen it")),
    ];
    for (route, details) in routes {
        let member = with_records();
        let refused = member.get(&format!("/api/{route}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{route}");
        assert_eq!(
            refused.json,
            json!({"Code": "ERROR", "Message": "No acknowledge comment given", "Details": null}),
            "{route}"
        );
        assert_eq!(
            uids(&member.json("/api/audit-recovery?unacknowledged=true").await),
            ["uid-2"],
            "{route}"
        );
        let done = member.json(&format!("/api/{route}?comment=seen%20it")).await;
        assert_eq!((&done["Code"], &done["Details"]), (&json!("OK"), &details), "{route}");
        let record = &member.json("/api/audit-recovery").await[0];
        assert_eq!(
            (&record["Acknowledged"], &record["AcknowledgedComment"]),
            (&json!(true), &json!("seen it")),
            "{route}"
        );
        assert!(
            uids(&member.json("/api/audit-recovery?unacknowledged=true").await).is_empty(),
            "{route}"
        );
    }
    let unknown = with_records().get("/api/ack-recovery/99?comment=x").await;
    assert_eq!(
        (unknown.status, &unknown.json["Message"]),
        (StatusCode::NOT_FOUND, &json!("No recovery 99"))
    );
}
