//! Routes with an effect.

use axum::http::StatusCode;
use ham4db::adapter::http::Options;
use ham4db::app::api::{ApiError, PrimaryChangeOutcome, RecoveryOutcome};
use ham4db::domain::intent::{Intent, IntentDetails, Origin};
use ham4db::domain::recovery::manual_request::ManualRequest;
use serde_json::{Value, json};

use crate::fixture::{NOW, document_downtime, key};
use crate::member::Member;
use crate::records::{ended, recovery};

fn ok(message: &str, details: &Value) -> Value {
    json!({"Code": "OK", "Message": message, "Details": details})
}

fn shape(port: u16) -> Value {
    json!({"Hostname": "127.0.0.1", "Port": port})
}

fn intents(member: &Member) -> Vec<Intent> {
    member.api.state.lock().unwrap().intents.values().cloned().collect()
}

#[tokio::test]
async fn discovering_refreshing_and_forgetting_answer_as_recorded() {
    let member = Member::alone();
    let discovered = member.json("/api/discover/127.0.0.1/21102").await;
    assert_eq!(discovered["Message"], "Instance discovered: 127.0.0.1:21102");
    assert_eq!(discovered["Details"]["MasterKey"], shape(21100));
    let stranger = member.json("/api/discover/127.0.0.1/21199").await;
    assert_eq!(stranger["Details"]["ClusterName"], "127.0.0.1:21199");
    let later = member.json("/api/async-discover/127.0.0.1/21102").await;
    assert_eq!(
        later,
        ok(
            "Asynchronous discovery initiated for Instance: 127.0.0.1:21102",
            &Value::Null
        )
    );
    assert_eq!(
        member.json("/api/refresh/127.0.0.1/21102").await,
        ok("Instance refreshed: 127.0.0.1:21102", &shape(21102))
    );
    assert_eq!(
        member.json("/api/forget/127.0.0.1/21102").await,
        ok("Instance forgotten: 127.0.0.1:21102", &shape(21102))
    );
    assert_eq!(
        member.json("/api/forget-cluster/shop").await["Message"],
        "Cluster forgotten: 127.0.0.1:21100"
    );
    assert_eq!(
        member.api.calls(),
        [
            "discover 127.0.0.1:21102",
            "discover 127.0.0.1:21199",
            "discover later 127.0.0.1:21102",
            "forget 127.0.0.1:21102",
            "forget cluster c1"
        ]
    );
}

#[tokio::test]
async fn a_cluster_is_split_and_merged_by_hint_and_a_refusal_is_a_conflict() {
    let member = Member::alone();
    assert_eq!(
        member.json("/api/split-cluster/127.0.0.1/21102").await,
        ok(
            "Cluster split: 127.0.0.1:21102 heads a cluster of its own",
            &Value::from("c2")
        )
    );
    let refused = member.get("/api/split-cluster/127.0.0.1/21100").await;
    assert_eq!(refused.status, 409);
    let refused = member.get("/api/merge-clusters/shop/127.0.0.1:21102").await;
    assert_eq!(refused.status, 409);
    let unknown = member.get("/api/merge-clusters/shop/nobody").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(
        member.api.calls(),
        ["split 127.0.0.1:21102", "split 127.0.0.1:21100", "merge c1 c1"]
    );
}

#[tokio::test]
async fn a_downtime_lasts_as_long_as_asked_and_ten_minutes_otherwise() {
    for (path, millis) in [
        ("begin-downtime/127.0.0.1/21102/me/disk%2Fswap", 600_000),
        ("begin-downtime/127.0.0.1/21102/me/disk%2Fswap/2d", 172_800_000),
    ] {
        let member = Member::alone();
        assert_eq!(
            member.json(&format!("/api/{path}")).await,
            ok("Downtime begun: 127.0.0.1:21102", &shape(21102))
        );
        let details = IntentDetails::Downtime {
            owner: "me".to_owned(),
            reason: "disk/swap".to_owned(),
            since: NOW,
            until: Some(NOW.plus_millis(millis)),
        };
        assert_eq!(
            intents(&member),
            [Intent {
                instance: key(21102),
                origin: Origin::Api,
                details
            }]
        );
        assert_eq!(
            member.json("/api/end-downtime/127.0.0.1/21102").await,
            ok("Downtime ended: 127.0.0.1:21102", &shape(21102))
        );
        assert!(intents(&member).is_empty());
    }
    let bad = Member::alone()
        .get("/api/begin-downtime/127.0.0.1/21102/me/why/10x")
        .await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST, "{}", bad.text);
}

#[tokio::test]
async fn ending_a_documents_downtime_is_a_conflict_that_names_the_document() {
    let member = Member::alone();
    let intent = document_downtime(21102);
    member.api.state.lock().unwrap().intents.insert(intent.id(), intent);
    let answer = member.get("/api/end-downtime/127.0.0.1/21102").await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert_eq!(
        answer.json["Message"],
        "127.0.0.1:21102 is in downtime by cr:shop/main; end it there"
    );
    member.json("/api/begin-downtime/127.0.0.1/21102/me/why").await;
    let both = member.json("/api/end-downtime/127.0.0.1/21102").await;
    assert_eq!(
        both["Message"],
        "Downtime ended: 127.0.0.1:21102; still in downtime by cr:shop/main"
    );
}

#[tokio::test]
async fn ending_a_missing_downtime_is_reported() {
    let member = Member::alone();
    assert_eq!(
        member.json("/api/end-downtime/127.0.0.1/21102").await["Message"],
        "Not in downtime: 127.0.0.1:21102"
    );
}

#[tokio::test]
async fn a_candidate_is_registered_with_the_configured_expiry() {
    let options = Options {
        candidate_expiry: Some(std::time::Duration::from_mins(1)),
        ..Options::default()
    };
    let member = Member::with_options(options);
    assert_eq!(
        member.json("/api/register-candidate/127.0.0.1/21101/prefer").await,
        ok("Registered candidate", &shape(21101))
    );
    assert_eq!(
        member.json("/api/bulk-promotion-rules").await,
        json!([{
            "Hostname": "127.0.0.1",
            "Port": 21101,
            "PromotionRule": "prefer",
            "LastSuggestedString": "",
            "PromotionRuleExpiry": "2026-11-21T08:21:24Z"
        }])
    );
}

#[tokio::test]
async fn global_recoveries_are_switched_and_checked() {
    let member = Member::alone();
    assert_eq!(
        member.json("/api/disable-global-recoveries").await,
        ok("Globally disabled recoveries", &json!("disabled"))
    );
    assert_eq!(
        member.json("/api/check-global-recoveries").await,
        ok("Global recoveries disabled", &json!("disabled"))
    );
    assert_eq!(
        member.json("/api/enable-global-recoveries").await,
        ok("Globally enabled recoveries", &json!("enabled"))
    );
    assert_eq!(
        member.json("/api/check-global-recoveries").await,
        ok("Global recoveries enabled", &json!("enabled"))
    );
}

#[tokio::test]
async fn a_manual_recovery_names_the_promoted_replica_or_the_reason() {
    let member = Member::alone();
    let refused = member.get("/api/recover/127.0.0.1/21101").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(
        refused.json,
        json!({"Code": "ERROR", "Message": "Recovery not attempted: no finding", "Details": shape(21101)})
    );
    *member.api.recovery.lock().unwrap() = Ok(RecoveryOutcome::NothingPromoted {
        uid: "u".to_owned(),
        why: "came back".to_owned(),
    });
    let nothing = member.get("/api/recover-lite/127.0.0.1/21100").await;
    assert_eq!(
        nothing.json["Message"],
        "Recovery attempted but no instance promoted (recovery u): came back"
    );
    *member.api.recovery.lock().unwrap() = Ok(RecoveryOutcome::Promoted {
        uid: "u".to_owned(),
        successor: key(21102),
    });
    let done = member.json("/api/recover/127.0.0.1/21100/127.0.0.1/21102").await;
    assert_eq!(done, ok("Recovery executed on 127.0.0.1:21100", &shape(21102)));
    assert!(member.api.calls().last().unwrap().contains("21102"));
    for (error, status) in [
        (
            ApiError::NotLeader(Some("member-2.example".to_owned())),
            StatusCode::SERVICE_UNAVAILABLE,
        ),
        (ApiError::Conflict("locked".to_owned()), StatusCode::CONFLICT),
        (
            ApiError::OutcomeUnknown("timeout".to_owned()),
            StatusCode::GATEWAY_TIMEOUT,
        ),
        (ApiError::Internal("disk".to_owned()), StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        *member.api.recovery.lock().unwrap() = Err(error.clone());
        let answer = member.get("/api/recover/127.0.0.1/21100").await;
        assert_eq!(answer.status, status, "{error}");
        assert_eq!(answer.json["Message"], error.to_string());
    }
}

#[tokio::test]
async fn errant_transactions_are_shown_and_resolved_by_both_names_of_the_routes() {
    let member = Member::alone();
    let shown = member.json("/api/errant/127.0.0.1/21101").await;
    assert_eq!(
        (&shown["transactions"], &shown["set"]),
        (&json!(2), &json!("0-21101-8..9"))
    );
    assert_eq!(shown["decoded"]["shown"][0]["file"], "bin.000007");
    let located = member.json("/api/locate-gtid-errant/127.0.0.1/21101").await;
    assert_eq!(located["Details"], json!(["bin.000007"]));
    for route in ["errant-inject-empty", "gtid-errant-inject-empty"] {
        let answer = member.json(&format!("/api/{route}/127.0.0.1/21101")).await;
        assert_eq!(
            answer["Details"],
            json!({"Hostname": "127.0.0.1", "Port": 21100}),
            "{route}"
        );
    }
    let unconfirmed = member.get("/api/errant-reset/127.0.0.1/21101").await;
    assert_eq!(unconfirmed.status, StatusCode::BAD_REQUEST);
    assert!(
        unconfirmed.text.contains("confirm=data-differs"),
        "{}",
        unconfirmed.text
    );
    for route in [
        "errant-reset/127.0.0.1/21101?confirm=data-differs",
        "gtid-errant-reset-master/127.0.0.1/21101",
    ] {
        let answer = member.json(&format!("/api/{route}")).await;
        assert_eq!(answer["Details"]["Port"], 21101, "{route}");
    }
    member.json("/api/errant-forget/127.0.0.1/21101").await;
    let injected = "resolve errant of 127.0.0.1:21101: InjectEmpty";
    let reset = "resolve errant of 127.0.0.1:21101: Reset";
    assert_eq!(
        member.api.calls(),
        [injected, injected, reset, reset, "release 127.0.0.1:21101"]
    );
    assert_eq!(
        member.get("/api/errant/127.0.0.1/9").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn every_form_of_a_change_of_the_primary_reaches_the_right_cluster_and_target() {
    let member = Member::alone();
    for path in [
        "graceful-master-takeover/shop",
        "graceful-master-takeover/127.0.0.1/21101",
        "graceful-master-takeover/shop/127.0.0.1/21102",
        "graceful-master-takeover/127.0.0.1/21101/127.0.0.1/21102",
        "graceful-master-takeover-auto/shop",
        "graceful-master-takeover-auto/127.0.0.1/21101/127.0.0.1/21102",
        "force-master-failover/shop",
        "force-master-failover/127.0.0.1/21100",
        "force-master-takeover/shop/127.0.0.1/21102",
        "force-master-takeover/127.0.0.1/21100/127.0.0.1/21102",
    ] {
        let refused = member.get(&format!("/api/{path}")).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{path}");
        assert_eq!(refused.json["Message"], "nothing suits", "{path}");
    }
    let plain = "graceful-master-takeover of c1 to";
    let auto = "graceful-master-takeover-auto starting of c1 to";
    let to = "127.0.0.1:21102";
    assert_eq!(
        member.api.calls(),
        [
            format!("{plain} any"),
            format!("{plain} any"),
            format!("{plain} {to}"),
            format!("{plain} {to}"),
            format!("{auto} any"),
            format!("{auto} {to}"),
            "force-master-failover forced of c1 to any".to_owned(),
            "force-master-failover forced of c1 to any".to_owned(),
            format!("force-master-takeover forced of c1 to {to}"),
            format!("force-master-takeover forced of c1 to {to}"),
        ]
    );
    let unknown = member.get("/api/graceful-master-takeover/nosuch").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let head = member
        .ask(axum::http::Method::HEAD, "/api/force-master-failover/shop")
        .await;
    assert_eq!(head.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_change_of_the_primary_answers_with_its_record() {
    let member = Member::alone();
    let mut takeover = recovery(7, ended(true));
    takeover.plan.manual_request = Some(ManualRequest {
        command: "graceful-master-takeover".to_owned(),
        ..ManualRequest::default()
    });
    let mut failed = recovery(8, ended(false));
    failed.errors = vec!["SuccessorLost: gone".to_owned()];
    member
        .api
        .state
        .lock()
        .unwrap()
        .recoveries
        .extend([takeover, failed].map(|recovery| (recovery.uid.clone(), recovery)));
    let over = |uid: &str| Ok(PrimaryChangeOutcome::Over { uid: uid.to_owned() });
    *member.api.change.lock().unwrap() = over("uid-7");
    let done = member.json("/api/graceful-master-takeover/shop/127.0.0.1/21102").await;
    assert_eq!(done["Message"], "graceful-master-takeover: successor promoted");
    assert_eq!(done["Details"]["SuccessorKey"], shape(21102));
    assert_eq!(
        done["Details"]["AnalysisEntry"]["CommandHint"],
        "graceful-master-takeover"
    );
    assert_eq!(done["Details"]["Type"], "MasterRecovery");
    *member.api.change.lock().unwrap() = over("uid-8");
    let failed = member.get("/api/force-master-failover/shop").await;
    assert_eq!(failed.status, StatusCode::CONFLICT);
    assert_eq!(
        failed.json["Message"],
        "Master not failed over (recovery uid-8): SuccessorLost: gone"
    );
    assert_eq!(failed.json["Details"]["UID"], "uid-8");
}

#[tokio::test]
async fn primaries_are_published_again_on_request() {
    let member = Member::alone();
    let pairs = json!([
        {"Key": "mysql/master/shop", "Value": "127.0.0.1:21100"},
        {"Key": "mysql/master/shop/port", "Value": "21100"},
    ]);
    let answer = ok("Submitted 2 masters key-value store", &pairs);
    assert_eq!(member.json("/api/submit-masters-to-kv-stores").await, answer);
    assert_eq!(member.json("/api/submit-masters-to-kv-stores/shop").await, answer);
    let id = member
        .api
        .state
        .lock()
        .unwrap()
        .clusters
        .keys()
        .next()
        .unwrap()
        .to_string();
    assert_eq!(member.api.calls(), ["submit all".to_owned(), format!("submit {id}")]);
    let unknown = member.get("/api/submit-masters-to-kv-stores/nowhere").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}
