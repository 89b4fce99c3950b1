//! Reading clusters, instances and topologies.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use ham4db::adapter::http::Options;
use ham4db::app::filter::HostnameFilters;
use ham4db::app::recovery::publication_gate::{PublicationFailure, PublicationStatus};
use ham4db::domain::discovery::{NotFollowed, NotFollowedReason};
use ham4db::domain::instance::{ProbeFailure, ThreadState};
use ham4db::domain::key::InstanceKey;
use ham4db::domain::topology::ClusterId;
use serde_json::json;

use crate::fixture::{NOW, document_downtime, gtid, key, ports, view, view_with_dead_primary};
use crate::member::Member;

/// As recorded, with 21102 in downtime.
const BRACKETS: &str = "127.0.0.1:21100     [0s,ok,10.11.19-MariaDB-0+deb12u1-log,rw,MIXED,>>]\n+ 127.0.0.1:21101   [0s,ok,10.11.19-MariaDB-0+deb12u1-log,ro,MIXED,>>,GTID]\n+ 127.0.0.1:21102   [0s,ok,10.11.19-MariaDB-0+deb12u1-log,ro,MIXED,>>,GTID,downtimed]\n  + 127.0.0.1:21103 [0s,ok,10.11.19-MariaDB-0+deb12u1-log,ro,MIXED,>>,GTID]";
const TABULATED: &str = "127.0.0.1:21100    |0s|ok|10.11.19-MariaDB-0+deb12u1-log|rw|MIXED|>>               \n+ 127.0.0.1:21101  |0s|ok|10.11.19-MariaDB-0+deb12u1-log|ro|MIXED|>>,GTID          \n+ 127.0.0.1:21102  |0s|ok|10.11.19-MariaDB-0+deb12u1-log|ro|MIXED|>>,GTID,downtimed\n  + 127.0.0.1:21103|0s|ok|10.11.19-MariaDB-0+deb12u1-log|ro|MIXED|>>,GTID          ";

fn downtimed() -> Member {
    let member = Member::alone();
    let intent = document_downtime(21102);
    member.api.state.lock().unwrap().intents.insert(intent.id(), intent);
    member
}

#[tokio::test]
async fn the_topology_is_printed_exactly_as_recorded() {
    let member = downtimed();
    for path in ["/api/topology/shop", "/api/topology/127.0.0.1/21103"] {
        let expected = json!({"Code": "OK", "Message": "Topology for cluster 127.0.0.1:21100", "Details": BRACKETS});
        assert_eq!(member.json(path).await, expected);
    }
    for path in [
        "/api/topology-tabulated/shop",
        "/api/topology-tabulated/127.0.0.1/21100",
    ] {
        assert_eq!(member.json(path).await["Details"], TABULATED);
    }
}

#[tokio::test]
async fn an_instance_shows_the_member_that_observed_it() {
    let member = Member::alone();
    let mut view = view();
    let shared = view.topology.instances.get_mut(&key(21101)).unwrap();
    shared.observed_by = Some("member3".to_owned());
    member.show(view);
    assert_eq!(
        member.json("/api/instance/127.0.0.1/21101").await["ObservedBy"],
        "member3"
    );
    assert_eq!(
        member.json("/api/instance/127.0.0.1/21100").await.get("ObservedBy"),
        None
    );
}

#[tokio::test]
async fn problems_show_in_the_topology() {
    let member = Member::alone();
    let mut view = view_with_dead_primary();
    let broken = view
        .topology
        .instances
        .get_mut(&key(21103))
        .unwrap()
        .facts
        .as_mut()
        .unwrap();
    broken.channels[0].sql = ThreadState::Stopped;
    broken.channels[0].lag_seconds = None;
    view.topology.instances.get_mut(&key(21101)).unwrap().last_checked = Some(NOW.plus_millis(-26_000));
    member.show(view);
    let text = member.json("/api/topology/shop").await["Details"]
        .as_str()
        .unwrap()
        .to_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "127.0.0.1:21100     [unknown,invalid,10.11.19-MariaDB-0+deb12u1-log,rw,MIXED,>>]"
    );
    assert!(
        lines[1].starts_with("- 127.0.0.1:21101   [0s,unchecked,"),
        "{}",
        lines[1]
    );
    assert!(
        lines[2].starts_with("- 127.0.0.1:21102   [0s,nonreplicating,"),
        "{}",
        lines[2]
    );
    assert!(
        lines[3].starts_with("  - 127.0.0.1:21103 [null,nonreplicating,"),
        "{}",
        lines[3]
    );
}

#[tokio::test]
async fn co_primaries_are_printed_once_each() {
    let member = Member::alone();
    let mut view = view();
    let back = crate::fixture::instance(21100, Some(21101));
    view.topology.instances.insert(key(21100), back);
    view.cluster.primary = None;
    member.show(view);
    let text = member.json("/api/topology/shop").await["Details"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.starts_with("127.0.0.1:21100 "), "{text}");
    assert_eq!(member.json("/api/instance/127.0.0.1/21101").await["IsCoMaster"], true);
}

#[tokio::test]
async fn a_cluster_is_found_by_name_alias_instance_or_part_of_a_host_name() {
    let member = Member::alone();
    let mut view = view();
    let other = InstanceKey::new("db-shop-7.example", 3306);
    let mut instance = crate::fixture::instance(3306, Some(21100));
    instance.key = other.clone();
    view.topology.instances.insert(other, instance);
    member.show(view);
    for hint in [
        "127.0.0.1:21100",
        "shop",
        "127.0.0.1:21103",
        "db-main",
        "db-shop-7",
        "shop-7.example:3306",
    ] {
        assert_eq!(
            member.json(&format!("/api/cluster-info/{hint}")).await["ClusterName"],
            "127.0.0.1:21100",
            "{hint}"
        );
    }
    for hint in ["nosuch", "127.0.0.1:9", "127.0.0", "0.0.1:21103"] {
        let answer = member.get(&format!("/api/cluster/{hint}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{hint}");
        assert_eq!(
            answer.json["Message"],
            format!("Unable to determine cluster name. clusterHint={hint}")
        );
    }
    assert_eq!(member.json("/api/clusters").await, json!(["127.0.0.1:21100"]));
    assert_eq!(
        member.json("/api/clusters-info").await[0]["HasAutomatedMasterRecovery"],
        true
    );
    assert_eq!(member.json("/api/clusters-info").await[0]["CountInstances"], 5);
    assert_eq!(
        member.json("/api/cluster-info/alias/shop").await["ClusterAlias"],
        "shop"
    );
    assert_eq!(
        member.get("/api/cluster-info/alias/nosuch").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn instances_are_listed_by_relation_and_by_text() {
    let member = downtimed();
    let all = [21100, 21101, 21102, 21103].into();
    for path in [
        "all-instances",
        "bulk-instances",
        "cluster/shop",
        "cluster/alias/shop",
        "cluster/instance/127.0.0.1/21103",
        "search/MariaDB",
    ] {
        assert_eq!(ports(&member.json(&format!("/api/{path}")).await), all, "{path}");
    }
    for (path, expected) in [
        ("masters", vec![21100]),
        ("instance-replicas/127.0.0.1/21100", vec![21101, 21102]),
        ("instance-replicas/127.0.0.1/21103", vec![]),
        ("search?s=21103", vec![21103]),
        ("downtimed", vec![21102]),
        ("downtimed/shop", vec![21102]),
        ("problems", vec![]),
    ] {
        assert_eq!(
            ports(&member.json(&format!("/api/{path}")).await),
            expected.into_iter().collect(),
            "{path}"
        );
    }
    assert_eq!(member.json("/api/master/shop").await["Key"]["Port"], 21100);
    let replica = member.json("/api/instance/127.0.0.1/21103").await;
    assert_eq!(
        (&replica["MasterKey"]["Port"], &replica["ReplicationDepth"]),
        (&json!(21102), &json!(2))
    );
    assert_eq!(member.json("/api/instance/db-main/3306").await["Key"]["Port"], 21100);
}

#[tokio::test]
async fn a_downtime_shows_on_the_instance() {
    let instance = downtimed().json("/api/instance/127.0.0.1/21102").await;
    assert_eq!(instance["IsDowntimed"], true);
    assert_eq!(
        (&instance["DowntimeOwner"], &instance["DowntimeReason"]),
        (&json!("ops"), &json!("disk"))
    );
    assert_eq!(instance["ElapsedDowntime"], 5_000_000_000_i64);
    assert_eq!(instance["DowntimeEndTimestamp"], "9999-12-31T23:59:59Z");
}

#[tokio::test]
async fn problems_are_named_and_leave_out_what_is_in_downtime_or_filtered() {
    let ignore = HostnameFilters::parse(&[":21103$".to_owned()]).unwrap();
    let member = Member::with_options(Options {
        problem_ignore: ignore,
        ..Options::default()
    });
    let mut view = view();
    view.topology.instances.get_mut(&key(21100)).unwrap().failure = Some(ProbeFailure::Stalled);
    view.topology
        .instances
        .get_mut(&key(21101))
        .unwrap()
        .facts
        .as_mut()
        .unwrap()
        .channels[0]
        .lag_seconds = Some(11);
    let stopped = view
        .topology
        .instances
        .get_mut(&key(21102))
        .unwrap()
        .facts
        .as_mut()
        .unwrap();
    stopped.channels[0].sql = ThreadState::Stopped;
    stopped.executed = gtid("0-21100-7,0-21102-8");
    view.topology.instances.get_mut(&key(21103)).unwrap().failure = Some(ProbeFailure::Refused);
    member.show(view);
    let problems = member.json("/api/problems/shop").await;
    let named: Vec<_> = problems
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["Key"]["Port"].as_u64().unwrap(), it["Problems"].clone()))
        .collect();
    assert_eq!(
        named,
        [
            (21100, json!(["last_check_invalid"])),
            (21101, json!(["replication_lag"])),
            (21102, json!(["not_replicating", "errant_gtid"])),
        ]
    );
    let intent = document_downtime(21101);
    member.api.state.lock().unwrap().intents.insert(intent.id(), intent);
    assert_eq!(ports(&member.json("/api/problems").await), [21100, 21102].into());
}

#[tokio::test]
async fn a_finding_shows_what_holds_its_recovery_back() {
    let member = Member::alone();
    let mut view = view_with_dead_primary();
    view.findings[0].held_back = Some(ham4db::domain::policy::HeldBack::Paused);
    member.show(view);
    for path in [
        "replication-analysis/shop",
        "replication-analysis/instance/127.0.0.1/21100",
    ] {
        let answer = member.json(&format!("/api/{path}")).await;
        assert_eq!(
            (&answer["Code"], &answer["Message"]),
            (&json!("OK"), &json!("Analysis"))
        );
        assert_eq!(answer["Details"][0]["HeldBack"], "the document has paused: true");
    }
    assert_eq!(
        member.json("/api/replication-analysis/instance/127.0.0.1/21101").await["Details"],
        json!([])
    );
}

#[tokio::test]
async fn changes_of_the_analysis_are_listed_by_instance_as_orchestrator_does() {
    let member = Member::alone();
    let answer = member.json("/api/replication-analysis-changelog").await;
    assert_eq!(
        answer[0]["AnalyzedInstanceKey"],
        json!({"Hostname": "127.0.0.1", "Port": 21100})
    );
    let changes: Vec<&str> = answer[0]["Changelog"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change.as_str().unwrap())
        .collect();
    let codes: Vec<&str> = changes
        .iter()
        .map(|change| change.split_once("Z;").unwrap().1)
        .collect();
    assert_eq!(codes, ["NoProblem", "DeadMaster"], "{changes:?}");
}

#[tokio::test]
async fn a_saved_case_reads_back() {
    let member = Member::alone();
    let answer = member.get("/api/case/shop").await;
    let case = ham4db::domain::case::Case::from_json(&answer.text).unwrap();
    assert_eq!(case.topology, view().topology);
}

#[tokio::test]
async fn explain_shows_what_a_failover_would_do() {
    let member = Member::alone();
    let told = member.json("/api/explain/shop").await;
    assert_eq!(told["ready"], true, "{told}");
    assert_eq!(told["primary"], "127.0.0.1:21100");
    assert_eq!(told["successor"], "127.0.0.1:21101");
    assert_eq!(told["replicas"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        told["steps"][0],
        "fence 127.0.0.1:21100: set super_read_only and end client sessions, if it answers"
    );
    let all = member.json("/api/explain").await;
    assert_eq!(all, json!([told]));
    assert_eq!(member.get("/api/explain/nobody").await.status, StatusCode::NOT_FOUND);

    let mut paused = view_with_dead_primary();
    paused.policy.held_back = Some(ham4db::domain::policy::HeldBack::Paused);
    paused.findings[0].held_back = Some(ham4db::domain::policy::HeldBack::Paused);
    member.show(paused);
    let told = member.json("/api/explain/127.0.0.1:21102").await;
    assert_eq!(told["ready"], false);
    assert_eq!(told["obstacles"], json!(["the document has paused: true"]));
    assert_eq!(told["findings"][0]["heldBack"], "the document has paused: true");
}

#[tokio::test]
async fn addresses_that_are_not_dialled_are_listed_with_the_entry_that_admits_them() {
    let member = Member::alone();
    assert_eq!(member.json("/api/undiscovered").await, json!([]));
    let mut shown = view();
    let named = |host: &str, reason| NotFollowed::new(&InstanceKey::new(host, 3306), reason);
    shown.topology.instances.get_mut(&key(21100)).unwrap().not_followed = vec![
        named(
            "db9.other.net",
            NotFollowedReason::NotAdmitted("db9.other.net".to_owned()),
        ),
        named(
            "127.1",
            NotFollowedReason::Malformed("a number in place of a host name".to_owned()),
        ),
    ];
    member.show(shown);
    let listed = member.json("/api/undiscovered").await;
    assert_eq!(
        listed[0],
        json!({
            "Address": "db9.other.net:3306",
            "NamedBy": {"Hostname": "127.0.0.1", "Port": 21100},
            "ClusterName": "127.0.0.1:21100",
            "Reason": "it is not named, and shares neither the domain nor the private network of a named server of the \
                       cluster; to admit it, add \"db9.other.net\" to DiscoveryAllowedHosts or discover it",
            "AllowedHostsEntry": "db9.other.net",
        })
    );
    assert_eq!(listed[1]["AllowedHostsEntry"], "");
}

#[tokio::test]
async fn the_last_results_of_publishers_are_shown_and_counted() {
    let member = Member::alone();
    assert_eq!(member.json("/api/primary-publications").await, json!([]));
    let status = |leads_to, failure: Option<&str>| PublicationStatus {
        name: "shop".to_owned(),
        leads_to,
        withdraws: true,
        failure: failure.map(|why| PublicationFailure {
            why: why.to_owned(),
            is_unanswered: true,
        }),
        round: 0,
    };
    let cluster = ClusterId("c1".to_owned());
    *member.api.publications.lock().unwrap() = BTreeMap::from([
        (
            ("Consul http://a:8500".to_owned(), cluster.clone()),
            status(None, Some("no answer")),
        ),
        (
            ("etcd http://b:2379".to_owned(), cluster),
            status(Some(key(21100)), None),
        ),
    ]);
    assert_eq!(
        member.json("/api/primary-publications").await,
        json!([
            {"Publisher": "Consul http://a:8500", "ClusterId": "c1", "Name": "shop", "Primary": null, "Error": "no answer"},
            {"Publisher": "etcd http://b:2379", "ClusterId": "c1", "Name": "shop",
             "Primary": {"Hostname": "127.0.0.1", "Port": 21100}, "Error": ""},
        ])
    );
    let metrics = member.get("/metrics").await.text;
    for line in [
        r#"ham4db_primaries_not_published{publisher="Consul http://a:8500"} 1"#,
        r#"ham4db_primaries_not_published{publisher="etcd http://b:2379"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}
