//! Places by Pseudo-GTID.

use async_trait::async_trait;
use axum::http::StatusCode;
use ham4db::app::api::ApiError;
use ham4db::app::api::relocate::{Placed, Relocate};
use ham4db::domain::instance::BinlogCoordinates;
use ham4db::domain::key::InstanceKey;
use ham4db::domain::recovery::pseudo_gtid::Entry;
use serde_json::json;

use crate::fixture::{FakeApi, key};
use crate::member::Member;

const ENTRY: &str = "drop view if exists `_pseudo_gtid_`.`_asc:5a5aa70e:00000011:c7b8154ff5c3c6d8`";

#[async_trait]
impl Relocate for FakeApi {
    async fn last_entry(&self, instance: &InstanceKey) -> Result<Entry, ApiError> {
        if instance.port == 21103 {
            return Err(ApiError::NotFound(format!("{instance}: no entry")));
        }
        Ok(Entry {
            text: ENTRY.to_owned(),
            at: BinlogCoordinates {
                file: "bin.000007".to_owned(),
                position: 680,
            },
        })
    }

    async fn match_below(
        &self,
        instance: &InstanceKey,
        target: Option<&InstanceKey>,
    ) -> Result<(InstanceKey, String), ApiError> {
        self.calls
            .lock()
            .unwrap()
            .push(format!("match {instance} below {target:?}"));
        match target {
            Some(target) if target.port == 21101 => Err(ApiError::Conflict("it is ahead of the target".to_owned())),
            Some(target) => Ok((target.clone(), "goes on at bin.000009:4".to_owned())),
            None => Ok((key(21100), "goes on at bin.000009:4".to_owned())),
        }
    }

    async fn match_replicas(
        &self,
        source: &InstanceKey,
        target: Option<&InstanceKey>,
        pattern: Option<&str>,
    ) -> Result<Placed, ApiError> {
        let moved = if pattern.is_some() {
            Vec::new()
        } else {
            vec![key(21103)]
        };
        self.calls
            .lock()
            .unwrap()
            .push(format!("match replicas of {source} below {target:?} {pattern:?}"));
        Ok(Placed {
            target: Some(target.cloned().unwrap_or_else(|| key(21100))),
            moved,
            errors: vec!["127.0.0.1:21104: it does not answer".to_owned()],
        })
    }
}

#[tokio::test]
async fn the_last_entry_is_told_with_its_place() {
    let member = Member::alone();
    let found = member.json("/api/last-pseudo-gtid/127.0.0.1/21101").await;
    assert_eq!(
        (&found["Details"], &found["Message"]),
        (&json!(ENTRY), &json!("bin.000007:680"))
    );
    let none = member.get("/api/last-pseudo-gtid/127.0.0.1/21103").await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    assert!(none.text.contains("no entry"), "{}", none.text);
}

#[tokio::test]
async fn a_replica_is_put_below_another_server_and_the_message_has_the_place() {
    let member = Member::alone();
    for route in ["match", "match-below"] {
        let answer = member
            .json(&format!("/api/{route}/127.0.0.1/21103/127.0.0.1/21100"))
            .await;
        assert_eq!(answer["Details"]["Key"]["Port"], 21103, "{answer}");
        assert!(answer["Message"].as_str().unwrap().contains("bin.000009:4"), "{answer}");
    }
    let up = member.json("/api/match-up/127.0.0.1/21103").await;
    assert!(
        up["Message"].as_str().unwrap().contains("below 127.0.0.1:21100"),
        "{up}"
    );
    let refused = member.get("/api/match-below/127.0.0.1/21103/127.0.0.1/21101").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text.contains("ahead of the target"), "{}", refused.text);
    let unknown = member.get("/api/match-below/127.0.0.1/21103/127.0.0.1/9").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn all_replicas_of_a_server_move_by_both_names_and_what_could_not_is_told() {
    let member = Member::alone();
    for route in [
        "match-slaves/127.0.0.1/21102/127.0.0.1/21100",
        "match-replicas/127.0.0.1/21102/127.0.0.1/21100",
        "match-up-slaves/127.0.0.1/21102",
        "match-up-replicas/127.0.0.1/21102",
    ] {
        let answer = member.json(&format!("/api/{route}")).await;
        assert_eq!(answer["Details"]["Port"], 21100, "{route}");
        let message = answer["Message"].as_str().unwrap();
        assert!(
            message.starts_with("Matched 1 replicas") && message.contains("1 errors"),
            "{message}"
        );
    }
    let nobody = member.get("/api/match-up-replicas/127.0.0.1/21102?pattern=x").await;
    assert_eq!(nobody.status, StatusCode::CONFLICT);
    assert!(nobody.text.contains("it does not answer"), "{}", nobody.text);
}
