//! The definition and its rules, as the API server takes them.

use serde_json::{Value, json};

use super::server::{Server, document, history, namespace};

#[tokio::test]
async fn the_definition_is_accepted_without_warnings_and_shows_its_columns() {
    let server = Server::bare();
    let said = server.apply_definition();
    assert!(!said.contains("Warning"), "{said}");
    let again = server.apply_definition();
    assert!(!again.contains("Warning"), "{again}");
    let client = server.client().await;
    let namespace = namespace(&client).await;
    let said = server.kubectl(
        &["apply", "--server-side"],
        Some(&document(&namespace, "orders", &json!({}))),
    );
    assert!(said.ok && !said.text.contains("Warning"), "{}", said.text);
    let table = server.kubectl(&["get", "h4c", "-n", &namespace], None);
    let heading: Vec<&str> = table
        .text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(
        heading,
        ["NAME", "READY", "PRIMARY", "INSTANCES", "LAG", "PROBLEM", "SEEN", "AGE"]
    );
    let category = server.kubectl(&["get", "ham4db", "-n", &namespace, "-o", "name"], None);
    assert_eq!(category.text.trim(), "mysqlcluster.ham4db.io/orders");
    let filled = server.kubectl(&["get", "h4c", "orders", "-n", &namespace, "-o", "json"], None);
    let filled: Value = serde_json::from_str(&filled.text).unwrap();
    assert_eq!(
        filled["spec"]["recovery"],
        json!({"mode": "Auto", "blockFor": "30m", "lossTimeout": "60s", "oldPrimary": "Hold", "onDrain": "Observe", "bootReadOnly": "Advise"})
    );
}

#[tokio::test]
async fn what_the_rules_forbid_is_refused_with_the_message() {
    let server = Server::shared();
    let namespace = namespace(&server.client().await).await;
    let long = "a".repeat(53);
    for (name, spec, message) in [
        (
            "a",
            json!({"candidates": [{"host": "a", "promotionRule": "Must"}, {"host": "b", "promotionRule": "Must"}]}),
            "at most one candidate may have the promotion rule Must",
        ),
        (
            "a",
            json!({"downtime": [{"host": "a", "owner": "o", "reason": "r"}]}),
            "a downtime needs either until or indefinite: true",
        ),
        (
            "a",
            json!({"downtime": [{"host": "a", "owner": "o", "reason": "r", "indefinite": true, "until": "2026-11-21T18:00:00Z"}]}),
            "a downtime needs either until or indefinite: true",
        ),
        (
            &long,
            json!({}),
            "the name of a MySQLCluster must be at most 52 characters long",
        ),
        ("a", json!({"seeds": []}), "spec.seeds"),
        (
            "a",
            json!({"seeds": [{"host": "db1", "port": 70000}]}),
            "should be less than or equal to 65535",
        ),
        (
            "a",
            json!({"seeds": [{"host": "db1"}, {"host": "db1", "port": 3306}]}),
            "Duplicate value",
        ),
        (
            "a",
            json!({"recovery": {"mode": "Sometimes"}}),
            "Unsupported value: \"Sometimes\"",
        ),
        ("a", json!({"recovery": {"blockFor": "soon"}}), "spec.recovery.blockFor"),
        ("a", json!({"takeover": {"requestID": "x"}}), "spec.takeover.deadline"),
        (
            "a",
            json!({"primaryService": {"name": "db", "replicasName": "db"}}),
            "two Services need two names",
        ),
        (
            "a",
            json!({"primaryService": {"name": "my.db"}}),
            "spec.primaryService.name",
        ),
        (
            "a",
            json!({"takeover": {"requestID": "a b", "deadline": "2036-11-21T18:00:00Z"}}),
            "spec.takeover.requestID",
        ),
        (
            "a",
            json!({"recovery": {"mod": "Auto"}}),
            "unknown field \"spec.recovery.mod\"",
        ),
    ] {
        let said = server.kubectl(&["create"], Some(&document(&namespace, name, &spec)));
        assert!(
            !said.ok && said.text.contains(message),
            "wanted `{message}`, got: {}",
            said.text
        );
    }
}

#[tokio::test]
async fn everything_can_be_switched_off() {
    let server = Server::shared();
    let namespace = namespace(&server.client().await).await;
    // Without quotes in the definition, kubectl sends the API server a boolean.
    let off = json!({"tls": {"mode": "Off"}, "recovery": {"mode": "Off", "bootReadOnly": "Off"}});
    let said = server.kubectl(&["create"], Some(&document(&namespace, "orders", &off)));
    assert!(said.ok && !said.text.contains("Warning"), "{}", said.text);
}

#[tokio::test]
async fn a_takeover_is_changed_with_its_name_only() {
    let server = Server::shared();
    let namespace = namespace(&server.client().await).await;
    let takeover =
        |id: &str, host: &str| json!({"requestID": id, "target": {"host": host}, "deadline": "2036-11-21T18:00:00Z"});
    let create = document(&namespace, "orders", &json!({"takeover": takeover("a", "db2")}));
    let said = server.kubectl(&["create"], Some(&create));
    assert!(said.ok && !said.text.contains("Warning"), "{}", said.text);
    let patch = |change: Value| {
        let change = json!({"spec": {"takeover": change}}).to_string();
        server.kubectl(
            &[
                "patch",
                "h4c",
                "orders",
                "-n",
                &namespace,
                "--type=merge",
                "-p",
                &change,
            ],
            None,
        )
    };
    let refused = patch(json!({"target": {"host": "db3"}}));
    assert!(
        !refused.ok && refused.text.contains("change requestID to ask for another takeover"),
        "{}",
        refused.text
    );
    let refused = patch(json!({"deadline": "2037-11-21T18:00:00Z"}));
    assert!(!refused.ok, "{}", refused.text);
    for change in [
        takeover("a", "db2"),
        takeover("b", "db3"),
        json!(null),
        takeover("c", "db2"),
    ] {
        let said = patch(change.clone());
        assert!(said.ok, "{change}: {}", said.text);
    }
}

#[tokio::test]
async fn two_people_may_each_own_a_downtime() {
    let server = Server::shared();
    let namespace = namespace(&server.client().await).await;
    let said = server.kubectl(
        &["apply", "--server-side"],
        Some(&document(&namespace, "orders", &json!({}))),
    );
    assert!(said.ok, "{}", said.text);
    for (person, host) in [("alice", "db1"), ("bob", "db2")] {
        let mut entry = document(&namespace, "orders", &json!({}));
        entry["spec"] = json!({"downtime": [{"host": host, "owner": person, "reason": "r", "indefinite": true}]});
        let said = server.kubectl(&["apply", "--server-side", "--field-manager", person], Some(&entry));
        assert!(said.ok, "{}", said.text);
    }
    let merged = server.kubectl(&["get", "h4c", "orders", "-n", &namespace, "-o", "json"], None);
    let merged: Value = serde_json::from_str(&merged.text).unwrap();
    assert_eq!(merged["spec"]["downtime"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_sample_stored_under_each_released_definition_can_still_be_changed() {
    let server = Server::bare();
    for release in std::fs::read_dir(history()).unwrap() {
        let release = release.unwrap().path();
        let schema = release.join("schema.yaml");
        let said = server.kubectl(
            &[
                "apply",
                "--server-side",
                "--force-conflicts",
                "-f",
                schema.to_str().unwrap(),
            ],
            None,
        );
        assert!(said.ok, "{}", said.text);
        let wait = [
            "wait",
            "--for=condition=Established",
            "--timeout=20s",
            "crd/mysqlclusters.ham4db.io",
        ];
        assert!(server.kubectl(&wait, None).ok);
        let mut sample: Value =
            serde_yaml::from_str(&std::fs::read_to_string(release.join("sample.yaml")).unwrap()).unwrap();
        let namespace = namespace(&server.client().await).await;
        sample["metadata"] = json!({"name": "orders", "namespace": namespace});
        let stored = server.kubectl(&["apply", "--server-side"], Some(&sample));
        assert!(stored.ok && !stored.text.contains("Warning"), "{}", stored.text);
        let status = server.kubectl(&["apply", "--server-side", "--subresource=status"], Some(&sample));
        assert!(status.ok, "{}", status.text);
        server.apply_definition();
        for change in [
            r#"{"spec":{"paused":true}}"#,
            r#"{"spec":{"recovery":{"mode":"Auto"}}}"#,
        ] {
            let said = server.kubectl(
                &["patch", "h4c", "orders", "-n", &namespace, "--type=merge", "-p", change],
                None,
            );
            assert!(said.ok, "{}", said.text);
        }
        let patch = r#"{"status":{"summary":{"problem":"changed"}}}"#;
        let said = server.kubectl(
            &[
                "patch",
                "h4c",
                "orders",
                "-n",
                &namespace,
                "--subresource=status",
                "--type=merge",
                "-p",
                patch,
            ],
            None,
        );
        assert!(said.ok, "{}", said.text);
    }
}
