//! Compares the definition of this version with the one that an API server serves, and fits a status into the latter.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;

use crate::domain::declared::Definition;

use super::KIND;

/// Path of the served schema of the resource below `/openapi/v3/`. Every account may read it.
pub const OPENAPI_PATH: &str = "apis/ham4db.io/v1alpha1";

/// The parts of a document that are specific to this resource.
const PARTS: [&str; 2] = ["spec", "status"];

/// The schema of this version.
static OWN: LazyLock<Value> = LazyLock::new(|| {
    let definition = super::crd_yaml().expect("a test compares it with the file in crds/");
    let definition: Value = serde_yaml::from_str(&definition).expect("it was just written");
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema");
    schema.cloned().unwrap_or_default()
});

/// The schema of the resource in an `OpenAPI` document of its group; `None` where it has none.
pub fn served(openapi: &Value) -> Option<&Value> {
    let mut schemas = openapi.pointer("/components/schemas")?.as_object()?.values();
    schemas.find(|schema| {
        let kinds = schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        kinds.is_some_and(|kinds| {
            kinds
                .iter()
                .any(|kind| kind.get("kind").is_some_and(|kind| kind == KIND))
        })
    })
}

/// Compares a schema that is served with that of this version.
pub fn compare(served: &Value) -> Definition {
    let (mut lacks, mut has_more) = (BTreeSet::new(), BTreeSet::new());
    for part in PARTS {
        let (own, there) = (property(&OWN, part), property(served, part));
        match (own, there) {
            (Some(own), Some(there)) => {
                missing(part, own, there, &mut lacks);
                missing(part, there, own, &mut has_more);
            }
            // One without fields of its own keeps everything, if it keeps anything.
            (Some(_), None) if !keeps_all(served) => drop(lacks.insert(part.to_owned())),
            (_, _) => {}
        }
    }
    Definition::Read { lacks, has_more }
}

/// Whether a document sets nothing at a path such as `spec.recovery.mode`: there is no value, or the default that the API server fills
/// in, which it also does for a field that it hid before.
pub fn says_nothing(document: &Value, path: &str) -> bool {
    let there = path.split('.').try_fold(document, |value, name| value.get(name));
    let usual = path
        .split('.')
        .try_fold(&*OWN, property)
        .and_then(|schema| schema.get("default"));
    // What is recorded of the mode depends on more than the document: whether another group looks after the cluster.
    there.is_none_or(|there| there.is_null() || (Some(there) == usual && path != "spec.recovery.mode"))
}

fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    schema.get("properties")?.get(name)
}

fn keeps_all(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

/// The fields of `wanted` that `there` lacks; of nested ones the outermost.
fn missing(path: &str, wanted: &Value, there: &Value, found: &mut BTreeSet<String>) {
    if keeps_all(there) {
        return;
    }
    let fields = wanted.get("properties").and_then(Value::as_object);
    for (name, field) in fields.into_iter().flatten() {
        let here = format!("{path}.{name}");
        match property(there, name) {
            Some(there) => missing(&here, field, there, found),
            None => drop(found.insert(here)),
        }
    }
    if let (Some(wanted), Some(there)) = (wanted.get("items"), there.get("items")) {
        missing(&format!("{path}[]"), wanted, there, found);
    }
}

/// Fits a status into a served schema: the API server refuses a server-side apply with a field that the schema lacks, and every write
/// with a value that it does not allow. What does not fit is left out, as a whole where a part of it would be misleading.
pub fn fit_status(status: &mut Value, served: &Value) {
    let Some(schema) = property(served, "status").filter(|schema| !keeps_all(schema)) else {
        return;
    };
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, value| property(schema, name).is_some_and(|schema| fit(value, schema)));
    }
}

/// Whether a value can be kept, without what has no place in it.
fn fit(value: &mut Value, schema: &Value) -> bool {
    if keeps_all(schema) {
        return true;
    }
    let bound = |name: &str| {
        let bound = schema.get(name).and_then(Value::as_u64);
        bound.map_or(usize::MAX, |bound| usize::try_from(bound).unwrap_or(usize::MAX))
    };
    if let Value::String(text) = value
        && let Some((end, _)) = text.char_indices().nth(bound("maxLength"))
    {
        text.truncate(end);
    }
    match value {
        Value::Object(fields) => {
            let Some(known) = schema.get("properties").and_then(Value::as_object) else {
                return true;
            };
            fields.retain(|name, _| known.contains_key(name));
            let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
            let mut required = required.filter_map(Value::as_str);
            fields
                .iter_mut()
                .all(|(name, value)| known.get(name).is_none_or(|schema| fit(value, schema)))
                && required.all(|name| fields.contains_key(name))
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.retain_mut(|item| fit(item, schema));
            }
            items.truncate(bound("maxItems"));
            true
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let allowed = schema.get("enum").and_then(Value::as_array);
            allowed.is_none_or(|allowed| allowed.contains(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RELEASED: &str = include_str!("../../crds/history/v1alpha1-early/schema.yaml");

    fn released() -> Value {
        let definition: Value = serde_yaml::from_str(RELEASED).unwrap();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    fn read(definition: Definition) -> (Vec<String>, Vec<String>) {
        let Definition::Read { lacks, has_more } = definition else {
            panic!("{definition:?}")
        };
        (lacks.into_iter().collect(), has_more.into_iter().collect())
    }

    #[test]
    fn the_definition_of_this_version_is_current() {
        assert_eq!(read(compare(&OWN)), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_an_older_one_lacks_and_a_newer_one_has_is_named_by_its_path() {
        let (lacks, has_more) = read(compare(&released()));
        for path in [
            "spec.durability",
            "spec.primaryService",
            "spec.recovery.acknowledged",
            "spec.takeover",
            "status.takeover",
        ] {
            assert!(lacks.contains(&path.to_owned()), "{path} is not in {lacks:?}");
        }
        assert!(lacks.contains(&"status.instances[].promotable".to_owned()), "{lacks:?}");
        assert!(
            !lacks.iter().any(|path| path.starts_with("spec.takeover.")),
            "{lacks:?}"
        );
        assert_eq!(has_more, Vec::<String>::new());

        let mut newer = OWN.clone();
        newer["properties"]["spec"]["properties"]["recovery"]["properties"]["mood"] = json!({"type": "string"});
        assert_eq!(
            read(compare(&newer)),
            (Vec::new(), vec!["spec.recovery.mood".to_owned()])
        );
    }

    #[test]
    fn a_definition_that_keeps_everything_lacks_nothing() {
        let lax = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(read(compare(&lax)), (Vec::new(), Vec::new()));
        let (lacks, _) = read(compare(&json!({"type": "object"})));
        assert_eq!(lacks, ["spec", "status"]);
    }

    #[test]
    fn a_default_says_nothing_and_the_mode_always_something() {
        let document = json!({"spec": {"paused": false, "downtime": [], "takeover": null,
            "recovery": {"mode": "Auto", "bootReadOnly": "Advise", "oldPrimary": "Rejoin", "blockFor": "30m"}}});
        for (path, expected) in [
            ("spec.paused", true),
            ("spec.downtime", true),
            ("spec.takeover", true),
            ("spec.primaryService.replicasName", true),
            ("spec.recovery.bootReadOnly", true),
            ("spec.recovery.blockFor", true),
            ("spec.recovery.oldPrimary", false),
            ("spec.recovery.mode", false),
        ] {
            assert_eq!(says_nothing(&document, path), expected, "{path}");
        }
    }

    #[test]
    fn the_schema_of_the_resource_is_found_among_those_of_its_group() {
        let kind = |kind: &str| json!([{"group": "ham4db.io", "kind": kind, "version": "v1alpha1"}]);
        let openapi = json!({"components": {"schemas": {
            "a": {"x-kubernetes-group-version-kind": kind("MySQLClusterList")},
            "b": {"x-kubernetes-group-version-kind": kind("MySQLCluster"), "type": "object"},
            "c": {"type": "string"},
        }}});
        assert_eq!(served(&openapi).unwrap()["type"], "object");
        assert_eq!(served(&json!({"components": {}})), None);
    }

    #[test]
    fn a_status_loses_what_an_older_definition_does_not_take_and_nothing_else() {
        let mut status = json!({
            "observedGeneration": 3,
            "summary": {"primary": "a:3306", "instances": "1/1", "lag": "", "problem": "ä".repeat(600)},
            "instances": [{"host": "a", "port": 3306, "role": "Primary", "promotionRule": "Neutral", "promotable": {"ok": true}}],
            "recovery": {"phase": "WouldBlock", "failure": "NoProblem", "victim": "a:3306"},
            "takeover": {"requestID": "a", "phase": "Pending", "message": ""},
            "conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "", "lastTransitionTime": "2026-11-22T00:00:00Z"}],
        });
        let before = status.clone();
        fit_status(&mut status, &released());
        assert_eq!(status["observedGeneration"], 3);
        assert_eq!(status["summary"]["problem"].as_str().unwrap().chars().count(), 512);
        assert_eq!(
            status["instances"],
            json!([{"host": "a", "port": 3306, "role": "Primary", "promotionRule": "Neutral"}])
        );
        assert_eq!(status["conditions"], before["conditions"]);
        assert_eq!(status.get("takeover"), None);
        assert_eq!(status.get("recovery"), None, "another phase would be another word");

        let mut whole = before.clone();
        whole["summary"]["problem"] = json!("p");
        let expected = whole.clone();
        fit_status(&mut whole, &OWN);
        assert_eq!(whole, expected);
    }

    #[test]
    fn what_lacks_a_required_field_is_left_out() {
        let schema = json!({"properties": {"status": {"properties": {"list": {"type": "array", "maxItems": 2, "items": {
            "properties": {"host": {"type": "string"}, "kind": {"enum": ["a"]}}, "required": ["host"]}}}}}});
        let mut status =
            json!({"list": [{"host": "1"}, {"kind": "a"}, {"host": "2", "kind": "b"}, {"host": "3"}, {"host": "4"}]});
        fit_status(&mut status, &schema);
        assert_eq!(status, json!({"list": [{"host": "1"}, {"host": "3"}]}));
    }
}
