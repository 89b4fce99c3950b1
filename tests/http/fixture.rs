//! A fake application around one cluster: 21100 is the primary, 21101 and 21102 replicate from it, 21103 from 21102.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ham4db::app::api::{
    Api, ApiError, KeyValue, PrimaryChange, PrimaryChangeOutcome, RecoveryOutcome, RelocationOutcome,
};
use ham4db::app::observation::probe_sharing::ProbeShares;
use ham4db::app::observation::scheduling_delay::Lateness;
use ham4db::app::ports::AnalysisChange;
use ham4db::app::ports::Clock;
use ham4db::app::recovery::publication_gate::PublicationStatuses;
use ham4db::domain::case::Case;
use ham4db::domain::cluster_view::{ClusterView, JudgedFinding};
use ham4db::domain::errant::{DecodedTransactions, ErrantReport, ErrantTransaction, Remedy};
use ham4db::domain::finding::{Code, Evidence, Finding};
use ham4db::domain::gtid::GtidSet;
use ham4db::domain::instance::{
    BinlogCoordinates, Channel, Identity, Instance, InstanceFacts, Positioning, SemiSync, ThreadError, ThreadState,
};
use ham4db::domain::intent::{Intent, IntentDetails, IntentId, Origin};
use ham4db::domain::key::InstanceKey;
use ham4db::domain::policy::Policy;
use ham4db::domain::recovery::pseudo_gtid::Entry;
use ham4db::domain::state::record::{Acknowledgement, RecordedPrimary};
use ham4db::domain::state::{Cluster, State};
use ham4db::domain::time::{MonotonicTime, WallTime};
use ham4db::domain::topology::{ClusterId, Topology};
use ham4db::domain::version::{Flavour, ServerVersion};
use serde_json::Value;

/// 2026-11-21T08:20:24Z.
pub(crate) const NOW: WallTime = WallTime(1_795_249_224_000);
pub(crate) const ENTRY: &str = "drop view if exists `_pseudo_gtid_`.`_asc:5a5aa70e:00000011:c7b8154ff5c3c6d8`";
pub(crate) const VERSION: &str = "10.11.19-MariaDB-0+deb12u1-log";

pub(crate) fn key(port: u16) -> InstanceKey {
    InstanceKey::new("127.0.0.1", port)
}

pub(crate) fn gtid(text: &str) -> GtidSet {
    GtidSet::parse(Flavour::MariaDb, text).unwrap()
}

pub(crate) fn instance(port: u16, source: Option<u16>) -> Instance {
    let channel = source.map(|source| Channel {
        name: String::new(),
        source: key(source),
        source_uuid: None,
        source_server_id: u32::from(source),
        user: "repl".to_owned(),
        io: ThreadState::Running,
        sql: ThreadState::Running,
        io_error: ThreadError::default(),
        sql_error: ThreadError::default(),
        read: BinlogCoordinates {
            file: "bin.000001".to_owned(),
            position: 680,
        },
        exec: BinlogCoordinates {
            file: "bin.000001".to_owned(),
            position: 680,
        },
        relay: BinlogCoordinates {
            file: "relay.000002".to_owned(),
            position: 900,
        },
        retrieved: None,
        heartbeats: None,
        positioning: Positioning::SlavePos,
        lag_seconds: Some(0),
        delay_seconds: 0,
        filtered: false,
        tls: false,
        get_source_public_key: false,
    });
    let facts = InstanceFacts {
        identity: Identity::ServerId(u32::from(port)),
        hostname: "v1".to_owned(),
        reported: None,
        version: ServerVersion {
            flavour: Flavour::MariaDb,
            major: 10,
            minor: 11,
            patch: 19,
            text: VERSION.to_owned(),
        },
        version_comment: "Debian 12".to_owned(),
        server_id: u32::from(port),
        uptime_seconds: 65,
        started: None,
        read_only: source.is_some(),
        super_read_only: None,
        log_bin: true,
        log_replica_updates: true,
        binlog_format: "MIXED".to_owned(),
        binlog_row_image: String::new(),
        binlog: Some(BinlogCoordinates {
            file: "bin.000001".to_owned(),
            position: 680,
        }),
        gtid_mode: String::new(),
        executed: gtid("0-21100-7"),
        purged: gtid(""),
        channels: channel.into_iter().collect(),
        semi_sync: SemiSync {
            available: true,
            timeout_millis: 10_000,
            ..SemiSync::default()
        },
        replicas: Vec::new(),
        replication_credentials_available: false,
        uses_pseudo_gtid: false,
        data_center: String::new(),
        region: String::new(),
        environment: String::new(),
        data_directory: String::new(),
        settings: None,
        group_name: String::new(),
        group: None,
        peer: None,
        is_unverified: false,
        by_admin_endpoint: false,
        other_channels: Vec::new(),
        problems: Vec::new(),
    };
    Instance {
        key: key(port),
        facts: Some(facts),
        last_seen: Some(NOW.plus_millis(-1000)),
        last_checked: Some(NOW.plus_millis(-1000)),
        failure: None,
        partial: false,
        latency_micros: 23_540,
        binlog_unmoved_since: None,
        acks_awaited_since: None,
        reopened_by_start: false,
        another_controller: None,
        commit_stall: None,
        account: None,
        not_followed: Vec::new(),
        observed_by: None,
    }
}

pub(crate) fn view() -> ClusterView {
    let instances: BTreeMap<InstanceKey, Instance> = [
        instance(21100, None),
        instance(21101, Some(21100)),
        instance(21102, Some(21100)),
        instance(21103, Some(21102)),
    ]
    .into_iter()
    .map(|instance| (instance.key.clone(), instance))
    .collect();
    let id = ClusterId("c1".to_owned());
    let primary = RecordedPrimary {
        instance: key(21100),
        identity: Identity::ServerId(21100),
        since: NOW,
        epoch: 1,
        opened_by: None,
        process: None,
    };
    ClusterView {
        cluster: Cluster {
            id: id.clone(),
            created_at: NOW,
            name: "127.0.0.1:21100".to_owned(),
            alias: "shop".to_owned(),
            epoch: 1,
            instances: instances.keys().cloned().collect(),
            primary: Some(primary),
            document: None,
            split_from: None,
        },
        topology: Topology {
            cluster: id,
            cluster_name: "127.0.0.1:21100".to_owned(),
            cluster_alias: "shop".to_owned(),
            recorded_primary: Some(key(21100)),
            taken: NOW,
            instances,
            aliases: BTreeMap::from([(InstanceKey::new("db-main", 3306), key(21100))]),
        },
        findings: Vec::new(),
        policy: Policy {
            reasonable_lag_seconds: 10,
            block_millis: 3_600_000,
            ..Policy::default()
        },
        automated_recovery: true,
    }
}

/// The same with the primary gone.
pub(crate) fn view_with_dead_primary() -> ClusterView {
    let mut view = view();
    view.topology.instances.get_mut(&key(21100)).unwrap().failure =
        Some(ham4db::domain::instance::ProbeFailure::Refused);
    for port in [21101, 21102] {
        let channel = &mut view
            .topology
            .instances
            .get_mut(&key(port))
            .unwrap()
            .facts
            .as_mut()
            .unwrap()
            .channels[0];
        channel.io = ThreadState::Connecting;
    }
    view.findings = vec![JudgedFinding {
        finding: dead_primary(),
        held_back: None,
        opinions: Vec::new(),
    }];
    view
}

pub(crate) fn dead_primary() -> Finding {
    Finding {
        code: Code::DeadMaster,
        instance: key(21100),
        cluster: ClusterId("c1".to_owned()),
        description: "primary unreachable, no replica receives".to_owned(),
        evidence: Evidence {
            is_primary: true,
            replicas: vec![key(21101), key(21102)],
            valid_replicas: 2,
            replicas_failing_to_connect: 2,
            logging_replicas: 2,
            mixed_logging_replicas: 2,
            logging_versions: vec!["10.11".to_owned()],
            replica_gtid_modes: vec![String::new()],
            ..Evidence::default()
        },
        structure: Vec::new(),
        downtimed: false,
        replicas_downtimed: false,
    }
}

// === the application ===

pub(crate) struct FakeApi {
    pub(crate) views: Mutex<Vec<ClusterView>>,
    pub(crate) state: Mutex<State>,
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) recovery: Mutex<Result<RecoveryOutcome, ApiError>>,
    pub(crate) change: Mutex<Result<PrimaryChangeOutcome, ApiError>>,
    pub(crate) lateness: Mutex<Lateness>,
    pub(crate) probe_shares: Mutex<ProbeShares>,
    pub(crate) publications: Mutex<PublicationStatuses>,
    /// A refresh waits for one of its permits.
    pub(crate) refresh_gate: tokio::sync::Semaphore,
}

impl Default for FakeApi {
    fn default() -> Self {
        let view = view();
        let mut state = State::default();
        state.clusters.insert(view.cluster.id.clone(), view.cluster.clone());
        Self {
            views: Mutex::new(vec![view]),
            state: Mutex::new(state),
            calls: Mutex::default(),
            recovery: Mutex::new(Ok(RecoveryOutcome::NotAttempted {
                why: "no finding".to_owned(),
            })),
            change: Mutex::new(Ok(PrimaryChangeOutcome::Refused {
                why: "nothing suits".to_owned(),
            })),
            lateness: Mutex::default(),
            probe_shares: Mutex::default(),
            publications: Mutex::default(),
            refresh_gate: tokio::sync::Semaphore::new(1_000_000),
        }
    }
}

impl FakeApi {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn known(&self, key: &InstanceKey) -> Result<Instance, ApiError> {
        let views = self.views.lock().unwrap();
        views
            .iter()
            .find_map(|view| view.topology.get(key))
            .cloned()
            .ok_or_else(|| ApiError::NotFound(format!("Cannot read instance: {key}")))
    }
}

#[async_trait]
impl Api for FakeApi {
    fn clusters(&self) -> Vec<Arc<ClusterView>> {
        self.views.lock().unwrap().iter().cloned().map(Arc::new).collect()
    }

    fn lateness(&self) -> Lateness {
        *self.lateness.lock().unwrap()
    }

    fn probe_shares(&self) -> ProbeShares {
        self.probe_shares.lock().unwrap().clone()
    }

    fn analysis_changes(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        let change = |seconds: i64, code| AnalysisChange {
            at: NOW.plus_millis(1000 * seconds),
            code,
        };
        vec![(
            key(21100),
            vec![change(0, Code::NoProblem), change(7, Code::DeadMaster)],
        )]
    }

    fn state(&self) -> Arc<State> {
        Arc::new(self.state.lock().unwrap().clone())
    }

    fn publications(&self) -> PublicationStatuses {
        self.publications.lock().unwrap().clone()
    }

    async fn submit_primaries(&self, only: Option<&ClusterId>) -> Result<Vec<KeyValue>, ApiError> {
        self.note(format!("submit {}", only.map_or("all", |cluster| cluster.0.as_str())));
        let pair = |key: &str, value: &str| KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        Ok(vec![
            pair("mysql/master/shop", "127.0.0.1:21100"),
            pair("mysql/master/shop/port", "21100"),
        ])
    }

    async fn discover(&self, instance: &InstanceKey) -> Result<Instance, ApiError> {
        self.note(format!("discover {instance}"));
        if instance.port == 9 {
            return Err(ApiError::Unavailable(format!("{instance}: connection refused")));
        }
        Ok(self
            .known(instance)
            .unwrap_or_else(|_| self::instance(instance.port, None)))
    }

    async fn discover_later(&self, instance: &InstanceKey) -> Result<(), ApiError> {
        self.note(format!("discover later {instance}"));
        Ok(())
    }

    async fn refresh(&self, instance: &InstanceKey) -> Result<Instance, ApiError> {
        self.refresh_gate.acquire().await.unwrap().forget();
        self.known(instance)
    }

    async fn forget(&self, instance: &InstanceKey) -> Result<(), ApiError> {
        self.known(instance)?;
        self.note(format!("forget {instance}"));
        Ok(())
    }

    async fn split_cluster(&self, head: &InstanceKey) -> Result<ClusterId, ApiError> {
        self.note(format!("split {head}"));
        if head.port == 21100 {
            return Err(ApiError::Conflict(format!("{head} is the recorded primary")));
        }
        Ok(ClusterId("c2".to_owned()))
    }

    async fn merge_clusters(&self, one: &ClusterId, other: &ClusterId) -> Result<ClusterId, ApiError> {
        self.note(format!("merge {one} {other}"));
        if one == other {
            return Err(ApiError::Conflict(format!("{one} is one cluster")));
        }
        Ok(one.clone())
    }

    async fn release_quarantine(&self, instance: &InstanceKey) -> Result<(), ApiError> {
        self.known(instance)?;
        self.note(format!("release {instance}"));
        Ok(())
    }

    async fn errant(&self, instance: &InstanceKey) -> Result<ErrantReport, ApiError> {
        self.known(instance)?;
        Ok(ErrantReport {
            instance: instance.clone(),
            primary: key(21100),
            quarantined: true,
            set: "0-21101-8..9".to_owned(),
            transactions: 2,
            decoded: DecodedTransactions {
                shown: vec![ErrantTransaction {
                    gtid: "0-21101-8".to_owned(),
                    file: "bin.000007".to_owned(),
                    ..ErrantTransaction::default()
                }],
                found: 2,
                ..DecodedTransactions::default()
            },
            remedies: Vec::new(),
        })
    }

    async fn resolve_errant(&self, instance: &InstanceKey, remedy: Remedy) -> Result<String, ApiError> {
        self.known(instance)?;
        self.note(format!("resolve errant of {instance}: {remedy:?}"));
        Ok("uid-1".to_owned())
    }

    async fn forget_cluster(&self, cluster: &ClusterId) -> Result<(), ApiError> {
        self.note(format!("forget cluster {cluster}"));
        Ok(())
    }

    async fn set_intent(&self, intent: Intent) -> Result<(), ApiError> {
        self.state.lock().unwrap().intents.insert(intent.id(), intent);
        Ok(())
    }

    async fn end_intent(&self, id: IntentId) -> Result<(), ApiError> {
        let mut state = self.state.lock().unwrap();
        if state.intents.remove(&id).is_some() {
            return Ok(());
        }
        match state
            .intents
            .keys()
            .find(|other| other.kind == id.kind && other.instance == id.instance)
        {
            Some(other) => Err(ApiError::OwnedBy {
                instance: id.instance.clone(),
                what: "in downtime",
                owner: other.origin.clone(),
            }),
            None => Ok(()),
        }
    }

    async fn set_global_recoveries(&self, enabled: bool) -> Result<(), ApiError> {
        self.state.lock().unwrap().recoveries_disabled = !enabled;
        Ok(())
    }

    async fn acknowledge(&self, uids: Vec<String>, by: &str, comment: &str) -> Result<u64, ApiError> {
        let mut state = self.state.lock().unwrap();
        let mut count = 0;
        for uid in uids {
            let word = Acknowledgement {
                at: NOW,
                by: by.to_owned(),
                comment: comment.to_owned(),
            };
            count += u64::from(
                state
                    .recoveries
                    .get_mut(&uid)
                    .unwrap()
                    .acknowledged
                    .replace(word)
                    .is_none(),
            );
        }
        Ok(count)
    }

    async fn recover(
        &self,
        instance: &InstanceKey,
        candidate: Option<&InstanceKey>,
        skips_hooks: bool,
    ) -> Result<RecoveryOutcome, ApiError> {
        let lite = if skips_hooks { "-lite" } else { "" };
        self.note(format!("recover{lite} {instance} to {candidate:?}"));
        self.recovery.lock().unwrap().clone()
    }

    async fn change_primary(&self, request: PrimaryChange) -> Result<PrimaryChangeOutcome, ApiError> {
        let PrimaryChange { cluster, target, order } = request;
        let target = target.map_or_else(|| "any".to_owned(), |key| key.to_string());
        let words = [(order.forced, " forced"), (order.starts_old_primary, " starting")];
        let words: String = words
            .iter()
            .filter(|(is_so, _)| *is_so)
            .map(|(_, word)| *word)
            .collect();
        self.note(format!("{}{words} of {cluster} to {target}", order.command));
        self.change.lock().unwrap().clone()
    }

    fn save_case(&self, cluster: &ClusterId) -> Result<Case, ApiError> {
        let views = self.views.lock().unwrap();
        let view = views
            .iter()
            .find(|view| view.cluster.id == *cluster)
            .ok_or_else(|| ApiError::NotFound(cluster.to_string()))?;
        Ok(Case {
            about: String::new(),
            topology: view.topology.clone(),
            policy: view.policy.clone(),
            quarantines: Vec::new(),
            now: NOW,
            finding: None,
        })
    }

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
        self.note(format!("match {instance} below {target:?}"));
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
    ) -> Result<RelocationOutcome, ApiError> {
        let moved = if pattern.is_some() {
            Vec::new()
        } else {
            vec![key(21103)]
        };
        self.note(format!("match replicas of {source} below {target:?} {pattern:?}"));
        Ok(RelocationOutcome {
            target: Some(target.cloned().unwrap_or_else(|| key(21100))),
            moved,
            errors: vec!["127.0.0.1:21104: it does not answer".to_owned()],
        })
    }
}

// === the clock ===

pub(crate) struct StoppedClock;

impl Clock for StoppedClock {
    fn wall(&self) -> WallTime {
        NOW
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(0)
    }
}

/// A downtime that a document asked for.
pub(crate) fn document_downtime(port: u16) -> Intent {
    Intent {
        instance: key(port),
        origin: Origin::Document {
            namespace: "shop".to_owned(),
            name: "main".to_owned(),
        },
        details: IntentDetails::Downtime {
            owner: "ops".to_owned(),
            reason: "disk".to_owned(),
            since: NOW.plus_millis(-5000),
            until: None,
        },
    }
}

/// Hosts and ports of a list of keys or of what has keys.
pub(crate) fn ports(list: &Value) -> BTreeSet<u64> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item.get("Key").unwrap_or(item)["Port"].as_u64().unwrap())
        .collect()
}
