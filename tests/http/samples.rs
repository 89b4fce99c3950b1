//! Names and types of every shape against answers recorded from orchestrator.

use serde_json::Value;

use crate::fixture::view_with_dead_primary;
use crate::member::Member;
use crate::records::with_records;

/// Fields that ham4db adds to those of orchestrator.
const OURS: [&str; 7] = [
    "AtMilliseconds",
    "HeldBack",
    "LostTransactions",
    "Loss",
    "Fencing",
    "Epoch",
    "Opinions",
];

fn sample(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Collects where two values differ in fields or types. `null` matches everything: both sides use it for a missing value.
fn compare(path: &str, recorded: &Value, ours: &Value, differences: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(recorded), Value::Object(ours)) => {
            for (name, value) in recorded {
                match ours.get(name) {
                    Some(own) => compare(&format!("{path}.{name}"), value, own, differences),
                    None => differences.push(format!("{path}.{name} is missing")),
                }
            }
            let added = ours
                .keys()
                .filter(|name| !recorded.contains_key(*name) && !OURS.contains(&name.as_str()));
            differences.extend(added.map(|name| format!("{path}.{name} is not in the sample")));
        }
        (Value::Array(recorded), Value::Array(ours)) => {
            if let (Some(recorded), Some(own)) = (recorded.first(), ours.first()) {
                compare(&format!("{path}[0]"), recorded, own, differences);
            }
        }
        _ if kind(recorded) != kind(ours) => {
            differences.push(format!("{path}: {} in the sample, {} here", kind(recorded), kind(ours)));
        }
        _ => {}
    }
}

fn same_shape(name: &str, recorded: &str, ours: &Value) {
    let mut differences = Vec::new();
    compare(name, &sample(recorded), ours, &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn an_instance_has_every_field_of_the_recorded_one() {
    let member = Member::alone();
    let replica = member.json("/api/instance/127.0.0.1/21102").await;
    same_shape("instance", include_str!("samples/instance.json"), &replica);
}

#[tokio::test]
async fn the_values_of_the_recorded_primary_come_out_again() {
    let member = Member::alone();
    let ours = member.json("/api/instance/127.0.0.1/21100").await;
    let recorded = sample(include_str!("samples/instance.json"));
    // What differs and why: replicas seen (none in the fixture), GTIDs (shown for MariaDB here), orchestrator's own resolving, and a
    // latency in whole microseconds.
    let different = [
        "SlaveHosts",
        "Replicas",
        "ExecutedGtidSet",
        "UnresolvedHostname",
        "LastDiscoveryLatency",
    ];
    for (name, value) in recorded.as_object().unwrap() {
        if !different.contains(&name.as_str()) {
            assert_eq!(&ours[name], value, "{name}");
        }
    }
    assert_eq!(ours["LastDiscoveryLatency"], 23_540_000);
}

#[tokio::test]
async fn an_analysis_has_every_field_of_the_recorded_one() {
    let member = Member::alone();
    member.show(view_with_dead_primary());
    let ours = &member.json("/api/replication-analysis").await["Details"][0];
    same_shape("analysis", include_str!("samples/analysis.json"), ours);
    let recorded = sample(include_str!("samples/analysis.json"));
    for name in [
        "AnalyzedInstanceKey",
        "AnalyzedInstanceBinlogCoordinates",
        "IsMaster",
        "LastCheckValid",
        "CountReplicas",
        "CountValidReplicas",
        "CountValidReplicatingReplicas",
        "CountReplicasFailingToConnectToMaster",
        "Analysis",
        "StructureAnalysis",
        "MariaDBGTIDImmediateTopology",
        "OracleGTIDImmediateTopology",
        "CountLoggingReplicas",
        "CountMixedBasedLoggingReplicas",
        "CountDistinctMajorVersionsLoggingReplicas",
        "ProcessingNodeHostname",
        "GTIDMode",
    ] {
        assert_eq!(ours[name], recorded[name], "{name}");
    }
    // Orchestrator left it false even for what it then acted on.
    assert_eq!(ours["IsActionableRecovery"], true);
}

#[tokio::test]
async fn clusters_recoveries_steps_and_detections_have_the_recorded_fields() {
    let member = with_records();
    same_shape(
        "cluster",
        include_str!("samples/cluster-info.json"),
        &member.json("/api/cluster-info/shop").await,
    );
    same_shape(
        "recovery",
        include_str!("samples/recovery.json"),
        &member.json("/api/audit-recovery").await[0],
    );
    same_shape(
        "step",
        include_str!("samples/recovery-step.json"),
        &member.json("/api/audit-recovery-steps/uid-2").await[0],
    );
    same_shape(
        "detection",
        include_str!("samples/detection.json"),
        &member.json("/api/audit-failure-detection").await[0],
    );
    same_shape(
        "health",
        include_str!("samples/health.json"),
        &member.json("/api/health").await,
    );
    same_shape(
        "filters",
        include_str!("samples/recovery-filters.json"),
        &member.json("/api/automated-recovery-filters").await["Details"],
    );
}
