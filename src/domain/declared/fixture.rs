//! A small cluster for tests: a primary `a`, replicas `b` and `c`, and a document for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Channel, Identity, Instance, InstanceFacts, ThreadState};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Cluster, Document, Group, State, record::RecordedPrimary};
use crate::domain::time::WallTime;
use crate::domain::topology::{ClusterId, Topology};
use crate::domain::version::Flavour;

use super::{ClusterView, Completeness, DeclaredCluster, SecretState, SourceContents, Tls};

pub(crate) const NOW: WallTime = WallTime(1_800_000_000_000);
pub(crate) const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
pub(crate) const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

pub(crate) fn key(host: &str) -> InstanceKey {
    InstanceKey::new(host, 3306)
}

pub(crate) fn origin(namespace: &str, name: &str) -> Origin {
    Origin::Document {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// A document with the seed `a`.
pub(crate) fn document(namespace: &str, name: &str) -> DeclaredCluster {
    DeclaredCluster {
        document: Document {
            origin: origin(namespace, name),
            uid: format!("uid-{name}"),
            created: WallTime::default(),
            generation: 1,
            seeds: BTreeSet::from([key("a")]),
            credentials_secret: "secret".to_owned(),
            paused: false,
            mode: crate::domain::policy::RecoveryMode::Auto,
            block_millis: 1_800_000,
            loss: crate::domain::policy::LossPolicy::Allow,
            loss_timeout_millis: 60_000,
            events: None,
            old_primary: crate::domain::policy::OldPrimary::Hold,
            boot_read_only: crate::domain::policy::BootReadOnly::Advise,
            stalled: None,
            on_drain: crate::domain::policy::OnDrain::Observe,
            durability: None,
            services: None,
        },
        created: Some(WallTime(NOW.0 - 1_000_000)),
        downtime: Vec::new(),
        candidates: Vec::new(),
        takeover: None,
        acknowledged: None,
        force: None,
        services: None,
        tls: Tls::Off,
        secret: SecretState::Read,
        absent: BTreeSet::new(),
        observed_by: None,
    }
}

pub(crate) fn seen(documents: Vec<DeclaredCluster>) -> SourceContents {
    SourceContents {
        completeness: Completeness::Complete,
        documents,
        ..SourceContents::default()
    }
}

/// A state with a group and nothing else.
pub(crate) fn state() -> State {
    State {
        group: Some(Group {
            uuid: "ours".to_owned(),
            history: "h".to_owned(),
        }),
        clock: NOW,
        ..State::default()
    }
}

fn facts(uuid: &str, read_only: bool, executed: &str) -> InstanceFacts {
    serde_json::from_value(serde_json::json!({
        "identity": {"serverUuid": uuid},
        "serverId": 1,
        "version": {"flavour": "MySQL", "major": 9, "minor": 7, "patch": 0, "text": "9.7.0"},
        "logBin": true,
        "readOnly": read_only,
        "executed": GtidSet::parse(Flavour::MySql, executed).unwrap(),
        "purged": GtidSet::empty(Flavour::MySql),
    }))
    .unwrap()
}

fn instance(host: &str, facts: InstanceFacts) -> Instance {
    Instance {
        facts: Some(facts),
        last_seen: Some(NOW),
        last_checked: Some(NOW),
        ..Instance::unseen(key(host))
    }
}

fn replica(host: &str, uuid: &str, executed: &str) -> Instance {
    let mut facts = facts(uuid, true, executed);
    let channel: Channel = serde_json::from_value(serde_json::json!({"source": "a:3306"})).unwrap();
    facts.channels = vec![Channel {
        io: ThreadState::Running,
        sql: ThreadState::Running,
        lag_seconds: Some(2),
        ..channel
    }];
    instance(host, facts)
}

/// A cluster that the document `owner` owns: `a` writable, `b` and `c` replicate from it.
pub(crate) fn view(owner: Option<Origin>) -> ClusterView {
    let id = ClusterId("cluster-1".to_owned());
    let executed = format!("{A}:1-100");
    let instances = [
        instance("a", facts(A, false, &executed)),
        replica("b", B, &executed),
        replica("c", "5e11fa47-71ca-11e1-9e33-c80aa9429562", &executed),
    ];
    let instances: BTreeMap<InstanceKey, Instance> = instances
        .into_iter()
        .map(|instance| (instance.key.clone(), instance))
        .collect();
    let cluster = Cluster {
        id: id.clone(),
        created_at: WallTime(NOW.0 - 500_000),
        name: "a:3306".to_owned(),
        alias: String::new(),
        epoch: 3,
        instances: instances.keys().cloned().collect(),
        primary: Some(RecordedPrimary {
            instance: key("a"),
            identity: Identity::ServerUuid(A.to_owned()),
            since: WallTime(NOW.0 - 400_000),
            epoch: 3,
            opened_by: None,
            process: None,
        }),
        document: owner,
        split_from: None,
    };
    let topology = Topology {
        cluster: id,
        cluster_name: "a:3306".to_owned(),
        cluster_alias: String::new(),
        recorded_primary: Some(key("a")),
        taken: NOW,
        instances,
        aliases: BTreeMap::from([(key("b.alias"), key("b"))]),
    };
    ClusterView {
        cluster,
        topology,
        policy: crate::domain::policy::Policy::default(),
        findings: Vec::new(),
        automated_recovery: false,
    }
}

/// The state that knows the cluster of [`view`].
pub(crate) fn state_with(view: &ClusterView) -> State {
    let mut state = state();
    state.clusters.insert(view.cluster.id.clone(), view.cluster.clone());
    state
}
