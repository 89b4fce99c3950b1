use serde_json::{Value, json};

use super::spec::MySQLCluster;
use super::{crd_yaml, document, status, superseded_by};
use crate::domain::declared::{
    DeclaredServices, DeclaredTakeover, InstanceStatus, Observer, Promotable, RecoveryPhase, RecoveryStatus, Role,
    StatusModel, fixture,
};
use crate::domain::intent::{Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{LossPolicy, OldPrimary, OnDrain, RecoveryMode, StalledPrimary};
use crate::domain::time::WallTime;

const DEFINITION: &str = include_str!("../../crds/mysqlclusters.ham4db.io.yaml");
const RELEASED: &str = include_str!("../../crds/history/v1alpha1-early/schema.yaml");
const SAMPLE: &str = include_str!("../../crds/history/v1alpha1-early/sample.yaml");

fn sample() -> Value {
    serde_yaml::from_str(SAMPLE).unwrap()
}

/// The smallest document, with `spec` merged over it.
fn minimal(spec: &Value) -> Value {
    let mut document = json!({
        "apiVersion": "ham4db.io/v1alpha1",
        "kind": "MySQLCluster",
        "metadata": {"name": "orders", "namespace": "db"},
        "spec": {"seeds": [{"host": "db1"}], "credentialsSecretRef": {"name": "orders"}},
    });
    for (field, value) in spec.as_object().unwrap() {
        document["spec"][field] = value.clone();
    }
    document
}

#[test]
fn the_definition_in_crds_is_the_one_of_the_types() {
    assert_eq!(
        crd_yaml().unwrap(),
        DEFINITION,
        "crds/mysqlclusters.ham4db.io.yaml is stale: run make crds"
    );
}

#[test]
fn the_definition_stays_small() {
    assert!(DEFINITION.len() < 40_000, "{} bytes", DEFINITION.len());
}

#[test]
fn the_definition_bounds_every_list_and_text_of_its_own_and_has_no_odd_format() {
    fn walk(path: &str, schema: &Value, found: &mut Vec<String>) {
        let kind = schema["type"].as_str().unwrap_or_default();
        let bounded = ["maxLength", "enum", "format", "pattern"]
            .iter()
            .any(|bound| schema.get(bound).is_some());
        if kind == "string" && !bounded {
            found.push(format!("{path}: no maxLength"));
        }
        if kind == "array" && schema.get("maxItems").is_none() {
            found.push(format!("{path}: no maxItems"));
        }
        if let Some(format) = schema["format"].as_str()
            && !["int32", "int64", "date-time"].contains(&format)
        {
            found.push(format!("{path}: format {format}"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            // The conditions are Kubernetes' own type.
            if name != "conditions" {
                walk(&format!("{path}.{name}"), property, found);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, found);
        }
    }
    let definition: Value = serde_yaml::from_str(DEFINITION).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    walk("spec", &schema["properties"]["spec"], &mut found);
    walk("status", &schema["properties"]["status"], &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn what_was_released_can_still_be_read() {
    assert!(RELEASED.contains("name: v1alpha1"));
    let read = document(&sample(), "default").unwrap();
    assert_eq!(read.unknown, Vec::<String>::new());
    assert!(read.status.is_some());
    assert_eq!(
        read.declared.observed_by.unwrap().cluster_uuid,
        "6f1c7f6e-7c1e-4d0a-9a53-0d8f2f6f9a10"
    );
}

#[test]
fn the_sample_names_every_field_of_the_schema() {
    fn missing(path: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let here = format!("{path}.{name}");
            let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let told: Vec<&Value> = entries.iter().filter_map(|entry| entry.get(name)).collect();
            match told.first() {
                None => found.push(here),
                Some(told) => missing(&here, property.get("items").unwrap_or(property), told, found),
            }
        }
    }
    let definition: Value = serde_yaml::from_str(RELEASED).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        missing(part, &schema["properties"][part], &sample()[part], &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn defaults_are_filled_in() {
    let read = document(&minimal(&json!({})), "default").unwrap().declared;
    let policy = &read.document;
    assert_eq!(
        policy.origin,
        Origin::Document {
            namespace: "db".to_owned(),
            name: "orders".to_owned()
        }
    );
    assert_eq!(
        policy.seeds.iter().collect::<Vec<_>>(),
        [&InstanceKey::new("db1", 3306)]
    );
    assert_eq!(
        (policy.mode, policy.loss, policy.old_primary),
        (RecoveryMode::Auto, LossPolicy::Auto, OldPrimary::Hold)
    );
    assert_eq!(
        (policy.block_millis, policy.loss_timeout_millis, policy.paused),
        (1_800_000, 60_000, false)
    );
    assert_eq!(policy.stalled, None, "the configuration decides");
}

#[test]
fn a_primary_that_is_about_to_go_is_only_shown_unless_the_document_says_otherwise() {
    let of = |recovery: Value| document(&minimal(&json!({"recovery": recovery})), "default");
    for (recovery, wanted) in [
        (json!({}), OnDrain::Observe),
        (json!({"onDrain": "Observe"}), OnDrain::Observe),
        (json!({"onDrain": "TakeOver"}), OnDrain::TakeOver),
    ] {
        assert_eq!(of(recovery).unwrap().declared.document.on_drain, wanted);
    }
    assert!(of(json!({"onDrain": "Evict"})).unwrap_err().why.contains("onDrain"));
}

#[test]
fn what_is_done_about_a_stalled_primary_is_read_where_it_is_said() {
    for (told, wanted) in [
        ("Observe", StalledPrimary::Observe),
        ("Failover", StalledPrimary::Failover),
    ] {
        let read = document(&minimal(&json!({"recovery": {"stalledPrimary": told}})), "default").unwrap();
        assert_eq!(read.declared.document.stalled, Some(wanted));
        assert_eq!(read.unknown, Vec::<String>::new());
    }
    let wrong = document(&minimal(&json!({"recovery": {"stalledPrimary": "Kill"}})), "default");
    assert!(wrong.unwrap_err().why.contains("stalledPrimary"));
}

#[test]
fn a_whole_document_is_understood() {
    let read = document(&sample(), "default").unwrap().declared;
    assert_eq!(
        (read.document.mode, read.document.loss),
        (RecoveryMode::DetectOnly, LossPolicy::AllowAfterTimeout)
    );
    assert_eq!(read.document.block_millis, 5_400_000);
    assert_eq!(read.downtime[0].until, Some(WallTime(1_795_284_000_000)));
    assert_eq!(read.downtime[1].until, None);
    assert_eq!(read.candidates[0].rule, PromotionRule::Must);
    assert_eq!(read.document.generation, 7);
    assert!(read.created.is_some());
}

#[test]
fn a_takeover_is_read() {
    let asked = json!({"takeover": {"requestID": "2026-11-21-a", "target": {"host": "db2"}, "catchUpTimeout": "1500ms", "deadline": "2026-11-21T18:00:00Z"}});
    let read = document(&minimal(&asked), "default").unwrap();
    assert_eq!(read.unknown, Vec::<String>::new());
    assert_eq!(
        read.declared.takeover,
        Some(DeclaredTakeover {
            id: "2026-11-21-a".to_owned(),
            target: Some(InstanceKey::new("db2", 3306)),
            catch_up_seconds: Some(2),
            deadline: WallTime(1_795_284_000_000),
        })
    );
    let least = json!({"takeover": {"requestID": "a", "deadline": "2026-11-21T18:00:00Z"}});
    let least = document(&minimal(&least), "default")
        .unwrap()
        .declared
        .takeover
        .unwrap();
    assert_eq!((least.target, least.catch_up_seconds), (None, None));
    for (takeover, expected) in [
        (json!({"requestID": "a"}), "missing field `deadline`"),
        (
            json!({"requestID": "a b", "deadline": "2026-11-21T18:00:00Z"}),
            "spec.takeover.requestID: `a b` is none",
        ),
        (
            json!({"requestID": "a", "deadline": "tomorrow"}),
            "spec.takeover.deadline",
        ),
        (
            json!({"requestID": "a", "deadline": "2026-11-21T18:00:00Z", "catchUpTimeout": "soon"}),
            "spec.takeover.catchUpTimeout: `soon` is no duration",
        ),
    ] {
        let fault = document(&minimal(&json!({"takeover": takeover})), "default").unwrap_err();
        assert!(fault.why.contains(expected), "{}", fault.why);
    }
}

#[test]
fn acknowledgement_and_annotation_are_read() {
    let mut value = minimal(&json!({"recovery": {"acknowledged": "1-abc"}}));
    value["metadata"]["annotations"] = json!({"ham4db.io/force-promote": "db1:3306/5-1"});
    let read = document(&value, "default").unwrap();
    assert_eq!(read.unknown, Vec::<String>::new());
    assert_eq!(read.declared.acknowledged.as_deref(), Some("1-abc"));
    assert_eq!(read.declared.force.as_deref(), Some("db1:3306/5-1"));
    let none = document(&minimal(&json!({})), "default").unwrap().declared;
    assert_eq!((none.acknowledged, none.force), (None, None));
}

#[test]
fn a_takeover_is_changed_with_its_name_only() {
    let asked = |id: &str, host: &str| -> MySQLCluster {
        let takeover =
            json!({"takeover": {"requestID": id, "target": {"host": host}, "deadline": "2026-11-21T18:00:00Z"}});
        serde_json::from_value(minimal(&takeover)).unwrap()
    };
    let without: MySQLCluster = serde_json::from_value(minimal(&json!({}))).unwrap();
    let present = asked("a", "db2");
    for allowed in [asked("a", "db2"), asked("b", "db3"), without.clone()] {
        allowed.validate_cel_update(&present).unwrap();
        present.validate_cel_update(&allowed).unwrap();
    }
    let refused = asked("a", "db3").validate_cel_update(&present).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("change requestID to ask for another takeover"),
        "{refused}"
    );
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    for (spec, expected) in [
        (
            json!({"seeds": [{"host": "db1", "port": "x"}]}),
            "spec.seeds[0].port: invalid type: string \"x\", expected i32",
        ),
        (json!({"seeds": []}), "spec.seeds: at least one seed is needed"),
        (
            json!({"primaryService": {"port": 0}}),
            "spec.primaryService.port: 0 is not within 1 to 65535",
        ),
        (
            json!({"primaryService": {"replicasName": "1st"}}),
            "spec.primaryService.replicasName: `1st` is no name of a Service: lower case letters, digits and -, a letter first, at most 63",
        ),
        (
            json!({"primaryService": {"replicasName": "orders-primary"}}),
            "spec.primaryService.replicasName: orders-primary is the name of the other Service",
        ),
        (
            json!({"seeds": [{"host": "db1", "port": 0}]}),
            "spec.seeds[0]: port 0 is not within 1 to 65535",
        ),
        (
            json!({"seeds": [{"host": "db1"}, {"host": "db1", "port": 3306}]}),
            "spec.seeds[1]: db1:3306 stands there twice",
        ),
        (
            json!({"seeds": [{"host": "a b"}]}),
            "spec.seeds[0]: host `a b` is no host name or address",
        ),
        (
            json!({"recovery": {"blockFor": "soon"}}),
            "spec.recovery.blockFor: `soon` is no duration; write it like 90s, 30m or 1h30m",
        ),
        (
            json!({"recovery": {"mode": "Sometimes"}}),
            "spec.recovery.mode: unknown variant `Sometimes`, expected one of `Auto`, `DetectOnly`, `Off`",
        ),
        (
            json!({"downtime": [{"host": "db1", "owner": "a", "reason": "b"}]}),
            "spec.downtime[0]: a downtime needs either until or indefinite: true",
        ),
        (
            json!({"candidates": [{"host": "a", "promotionRule": "Must"}, {"host": "b", "promotionRule": "Must"}]}),
            "spec.candidates: at most one candidate may have the promotion rule Must",
        ),
    ] {
        let fault = document(&minimal(&spec), "default").unwrap_err();
        assert_eq!(fault.why, expected);
        assert!(fault.origin.is_some());
    }
}

#[test]
fn names_that_are_no_names_are_refused() {
    for name in ["", "../orders", "Orders", "a/b", "a..b", "-a"] {
        let mut value = minimal(&json!({}));
        value["metadata"]["name"] = json!(name);
        assert_eq!(document(&value, "default").unwrap_err().origin, None, "{name}");
    }
}

#[test]
fn unknown_fields_are_named_and_a_status_of_another_version_is_no_obstacle() {
    let mut value = minimal(&json!({"recovery": {"mod": "Auto"}, "hooks": 1}));
    value["status"] = json!({"instances": "later"});
    let read = document(&value, "default").unwrap();
    assert_eq!(read.unknown, ["spec.hooks", "spec.recovery.mod"]);
    assert_eq!(read.status, None);
}

#[test]
fn durations_are_read() {
    for (text, millis) in [
        ("90s", 90_000),
        ("30m", 1_800_000),
        ("1h30m", 5_400_000),
        ("0s", 0),
        ("250ms", 250),
    ] {
        assert_eq!(super::read::millis(text), Ok(millis), "{text}");
    }
    for text in ["", "30", "m", "-1s", "1d", "1.5h", "1h2h3h4h5h", "1234567s", "1h "] {
        assert!(super::read::millis(text).is_err(), "{text}");
    }
}

#[test]
fn the_rules_of_the_schema_hold_here_as_on_the_server() {
    let typed = |value: Value| -> MySQLCluster { serde_json::from_value(value).unwrap() };
    typed(sample()).validate_cel().unwrap();
    let mut long = minimal(&json!({}));
    long["metadata"]["name"] = json!("a".repeat(53));
    for (value, message) in [
        (
            minimal(
                &json!({"candidates": [{"host": "a", "promotionRule": "Must"}, {"host": "b", "promotionRule": "Must"}]}),
            ),
            "at most one candidate may have the promotion rule Must",
        ),
        (
            minimal(&json!({"downtime": [{"host": "a", "owner": "o", "reason": "r"}]})),
            "a downtime needs either until or indefinite: true",
        ),
        (
            minimal(
                &json!({"downtime": [{"host": "a", "owner": "o", "reason": "r", "indefinite": true, "until": "2026-11-21T18:00:00Z"}]}),
            ),
            "a downtime needs either until or indefinite: true",
        ),
        (
            minimal(&json!({"primaryService": {"name": "a", "replicasName": "a"}})),
            "two Services need two names",
        ),
        (long, "the name of a MySQLCluster must be at most 52 characters long"),
    ] {
        let errors = typed(value).validate_cel().unwrap_err();
        assert!(errors.to_string().contains(message), "{errors}");
    }
}

#[test]
fn services_are_read_with_their_defaults() {
    let read = |spec: Value| document(&minimal(&spec), "default").unwrap().declared.services;
    assert_eq!(read(json!({})), None);
    assert_eq!(
        read(json!({"primaryService": {}})),
        Some(DeclaredServices {
            primary: "orders-primary".to_owned(),
            port: 3306,
            replicas: None
        })
    );
    assert_eq!(
        read(json!({"primaryService": {"name": "db", "port": 3310, "replicasName": "db-ro"}})),
        Some(DeclaredServices {
            primary: "db".to_owned(),
            port: 3310,
            replicas: Some("db-ro".to_owned())
        })
    );
    let mut dotted = minimal(&json!({"primaryService": {}}));
    dotted["metadata"]["name"] = json!("orders.eu");
    let dotted = document(&dotted, "default").unwrap().declared.services;
    assert_eq!(dotted.unwrap().primary, "orders-eu-primary");
}

fn observer(uuid: &str, term: u64, renewed: WallTime) -> Observer {
    Observer {
        cluster_uuid: uuid.to_owned(),
        member: "ham4db-0".to_owned(),
        term,
        renewed,
    }
}

#[test]
fn a_condition_keeps_the_time_of_its_transition() {
    let model = StatusModel::unreadable("why");
    let first = status(&model, &observer("ours", 1, fixture::NOW), None);
    let later = fixture::NOW.plus_millis(30_000);
    let second = status(&model, &observer("ours", 1, later), Some(&first));
    assert_eq!(first.conditions, second.conditions);
    assert_ne!(first.observer, second.observer);

    let mut other = model.clone();
    other.conditions[0].status = crate::domain::declared::ConditionStatus::True;
    let third = status(&other, &observer("ours", 1, later), Some(&second));
    assert_ne!(
        third.conditions[0].last_transition_time,
        first.conditions[0].last_transition_time
    );
    assert_eq!(
        third.conditions[1].last_transition_time,
        first.conditions[1].last_transition_time
    );
}

#[test]
fn long_texts_are_cut_to_what_the_schema_takes() {
    let model = StatusModel {
        problem: "ä".repeat(2_000),
        ..StatusModel::default()
    };
    let written = status(&model, &observer("ours", 1, fixture::NOW), None);
    assert_eq!(written.summary.unwrap().problem.chars().count(), 512);
}

#[test]
fn a_status_of_another_group_or_a_later_leader_is_left_alone() {
    let now = fixture::NOW;
    let written = |uuid: &str, term: u64| status(&StatusModel::default(), &observer(uuid, term, now), None);
    for (present, uuid, term, millis, superseded) in [
        (written("ours", 3), "ours", 3, 0, false),
        (written("ours", 3), "ours", 4, 0, false),
        (written("ours", 3), "ours", 2, 600_000, true),
        (written("theirs", 9), "ours", 1, 89_000, true),
        (written("theirs", 9), "ours", 1, 90_000, false),
    ] {
        let by = superseded_by(Some(&present), &observer(uuid, term, now.plus_millis(millis)));
        assert_eq!(by.is_some(), superseded, "{uuid} {term} {millis}: {by:?}");
    }
    assert_eq!(superseded_by(None, &observer("ours", 1, now)), None);
}

#[test]
fn who_could_be_promoted_and_what_would_block_a_recovery_are_written() {
    let told = |ok: bool, why: &str| InstanceStatus {
        instance: InstanceKey::new("db1", 3306),
        role: Role::Replica,
        answers: true,
        lag_seconds: None,
        read_only: Some(true),
        errant: None,
        promotion_rule: PromotionRule::Neutral,
        promotable: Some(Promotable {
            ok,
            why: why.to_owned(),
        }),
        downtime: None,
        problems: Vec::new(),
    };
    let model = StatusModel {
        instances: vec![told(true, ""), told(false, "promotion rule must_not")],
        recovery: Some(RecoveryStatus {
            uid: None,
            phase: RecoveryPhase::WouldBlock,
            failure: crate::domain::finding::Code::NoProblem,
            old_primary: InstanceKey::new("db0", 3306),
            successor: None,
            blocked_by: vec!["the document has paused: true".to_owned()],
        }),
        ..StatusModel::default()
    };
    let written = serde_json::to_value(status(&model, &observer("ours", 1, WallTime(0)), None)).unwrap();
    assert_eq!(written["instances"][0]["promotable"], json!({"ok": true}));
    assert_eq!(
        written["instances"][1]["promotable"],
        json!({"ok": false, "why": "promotion rule must_not"})
    );
    assert_eq!(written["recovery"]["phase"], "WouldBlock");
    assert_eq!(
        written["recovery"]["blockedBy"],
        json!(["the document has paused: true"])
    );
}
