//! The values that a command gets: placeholders and `ORC_` variables with orchestrator's names, `HAM4DB_` variables,
//! and a JSON document.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::domain::finding::Finding;
use crate::domain::instance::BinlogCoordinates;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::state::record::Detection;
use crate::domain::state::{Phase, Recovery};

use super::{HookList, lists_of};

/// Longest value of a variable, bytes. A value above 128 KiB prevents any program from starting, and a hook that cannot
/// start is a veto.
const MAX_VALUE_BYTES: usize = 32 * 1024;

/// The record of the subject that commands run for.
#[derive(Clone, Copy, Debug)]
pub enum SubjectRecord<'a> {
    /// A recovery.
    Recovery(&'a Recovery),
    /// A detection that was not followed by a recovery at once.
    Detection(&'a Detection),
}

/// Whether failures of a cluster are repaired automatically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AutoRecovery {
    /// Failures of its primary.
    pub primary: bool,
    /// Failures of its intermediate primaries.
    pub intermediate: bool,
}

/// One run of a list.
#[derive(Clone, Debug)]
pub struct HookInvocation<'a> {
    /// The list.
    pub list: HookList,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The record that the list runs for.
    pub subject: SubjectRecord<'a>,
    /// Name of the member that runs it.
    pub member: &'a str,
    /// Whether the cluster is repaired automatically.
    pub auto: AutoRecovery,
    /// The document that the cluster belongs to.
    pub origin: Option<&'a Origin>,
    /// Last known end of the successor's binary log.
    pub successor_coordinates: Option<BinlogCoordinates>,
}

/// Orchestrator's placeholders, and the variable that holds the same value.
pub const PLACEHOLDERS: [(&str, &str); 28] = [
    ("failureType", "ORC_FAILURE_TYPE"),
    ("instanceType", "ORC_INSTANCE_TYPE"),
    ("isMaster", "ORC_IS_MASTER"),
    ("isCoMaster", "ORC_IS_CO_MASTER"),
    ("failureDescription", "ORC_FAILURE_DESCRIPTION"),
    ("command", "ORC_COMMAND"),
    ("failedHost", "ORC_FAILED_HOST"),
    ("failedPort", "ORC_FAILED_PORT"),
    ("failureCluster", "ORC_FAILURE_CLUSTER"),
    ("failureClusterAlias", "ORC_FAILURE_CLUSTER_ALIAS"),
    ("failureClusterDomain", "ORC_FAILURE_CLUSTER_DOMAIN"),
    ("countSlaves", "ORC_COUNT_REPLICAS"),
    ("countReplicas", "ORC_COUNT_REPLICAS"),
    ("isDowntimed", "ORC_IS_DOWNTIMED"),
    ("autoMasterRecovery", "ORC_AUTO_MASTER_RECOVERY"),
    (
        "autoIntermediateMasterRecovery",
        "ORC_AUTO_INTERMEDIATE_MASTER_RECOVERY",
    ),
    ("orchestratorHost", "ORC_ORCHESTRATOR_HOST"),
    ("recoveryUID", "ORC_RECOVERY_UID"),
    ("isSuccessful", "ORC_IS_SUCCESSFUL"),
    ("lostSlaves", "ORC_LOST_REPLICAS"),
    ("lostReplicas", "ORC_LOST_REPLICAS"),
    ("countLostReplicas", "HAM4DB_COUNT_LOST_REPLICAS"),
    ("slaveHosts", "ORC_REPLICA_HOSTS"),
    ("replicaHosts", "ORC_REPLICA_HOSTS"),
    ("successorHost", "ORC_SUCCESSOR_HOST"),
    ("successorPort", "ORC_SUCCESSOR_PORT"),
    ("successorBinlogCoordinates", "ORC_SUCCESSOR_BINLOG_COORDINATES"),
    ("successorAlias", "ORC_SUCCESSOR_ALIAS"),
];

/// The name of the variable that holds a placeholder's value; `None` for what is none.
pub fn variable_of(placeholder: &str) -> Option<&'static str> {
    PLACEHOLDERS
        .iter()
        .find(|(name, _)| *name == placeholder)
        .map(|(_, variable)| *variable)
}

impl<'a> HookInvocation<'a> {
    fn recovery(&self) -> Option<&'a Recovery> {
        match self.subject {
            SubjectRecord::Recovery(recovery) => Some(recovery),
            SubjectRecord::Detection(_) => None,
        }
    }

    fn finding(&self) -> &'a Finding {
        match self.subject {
            SubjectRecord::Recovery(recovery) => &recovery.finding,
            SubjectRecord::Detection(detection) => &detection.finding,
        }
    }

    /// Name and alias of the cluster when it began.
    fn cluster(&self) -> (&'a str, &'a str) {
        match self.subject {
            SubjectRecord::Recovery(recovery) => (&recovery.cluster_name, &recovery.cluster_alias),
            SubjectRecord::Detection(detection) => (&detection.cluster_name, &detection.cluster_alias),
        }
    }

    /// The new primary. Before a takeover the successor is certain. Before a failover it is chosen again after the
    /// receivers are stopped, so none is named yet.
    fn successor(&self) -> Option<&'a InstanceKey> {
        let recovery = match self.subject {
            SubjectRecord::Recovery(recovery) => recovery,
            SubjectRecord::Detection(detection) => return detection.successor.as_ref(),
        };
        if self.list == HookList::PreGracefulTakeover {
            return Some(&recovery.plan.successor);
        }
        recovery.successor()
    }

    /// Phase of the recovery in one word.
    fn phase(&self) -> &'static str {
        match self.recovery().map(|recovery| &recovery.phase) {
            None => "Detected",
            Some(Phase::Claimed) => "Claimed",
            Some(Phase::Opened { .. }) => "Opened",
            Some(Phase::Ended { .. }) => "Ended",
        }
    }

    /// All variables that a command gets beside its own environment, none longer than 32 KiB and none with a NUL.
    pub fn variables(&self) -> BTreeMap<&'static str, String> {
        let mut variables = self.compatible();
        variables.extend(self.own());
        for value in variables.values_mut() {
            value.retain(|c| c != '\0');
            if value.len() > MAX_VALUE_BYTES {
                let end = (0..=MAX_VALUE_BYTES)
                    .rev()
                    .find(|at| value.is_char_boundary(*at))
                    .unwrap_or(0);
                value.truncate(end);
            }
        }
        variables
    }

    /// Orchestrator's variables.
    fn compatible(&self) -> BTreeMap<&'static str, String> {
        let finding = self.finding();
        let evidence = &finding.evidence;
        let (cluster, alias) = self.cluster();
        let instance_type = if evidence.is_co_primary {
            "co-master"
        } else if evidence.is_primary {
            "master"
        } else {
            "intermediate-master"
        };
        let successor = self.successor();
        let coordinates = self.successor_coordinates.as_ref().filter(|_| successor.is_some());
        // Members may be listed as host:port; orchestrator gives the host.
        let host = self.member.rsplit_once(':').map_or(self.member, |(host, _)| host);
        BTreeMap::from([
            ("ORC_FAILURE_TYPE", finding.code.as_str().to_owned()),
            ("ORC_INSTANCE_TYPE", instance_type.to_owned()),
            ("ORC_IS_MASTER", evidence.is_primary.to_string()),
            ("ORC_IS_CO_MASTER", evidence.is_co_primary.to_string()),
            ("ORC_FAILURE_DESCRIPTION", finding.description.clone()),
            (
                "ORC_COMMAND",
                self.recovery()
                    .map_or("", |recovery| lists_of(recovery.plan.kind).command)
                    .to_owned(),
            ),
            ("ORC_FAILED_HOST", finding.instance.hostname.clone()),
            ("ORC_FAILED_PORT", finding.instance.port.to_string()),
            ("ORC_FAILURE_CLUSTER", cluster.to_owned()),
            ("ORC_FAILURE_CLUSTER_ALIAS", alias.to_owned()),
            // Clusters have no domain in ham4db.
            ("ORC_FAILURE_CLUSTER_DOMAIN", String::new()),
            ("ORC_COUNT_REPLICAS", evidence.replicas.len().to_string()),
            ("ORC_IS_DOWNTIMED", finding.downtimed.to_string()),
            ("ORC_AUTO_MASTER_RECOVERY", self.auto.primary.to_string()),
            (
                "ORC_AUTO_INTERMEDIATE_MASTER_RECOVERY",
                self.auto.intermediate.to_string(),
            ),
            ("ORC_ORCHESTRATOR_HOST", host.to_owned()),
            (
                "ORC_RECOVERY_UID",
                self.recovery().map(|recovery| recovery.uid.clone()).unwrap_or_default(),
            ),
            (
                "ORC_IS_SUCCESSFUL",
                match self.subject {
                    SubjectRecord::Recovery(recovery) => recovery.is_successful(),
                    // The group chose its primary itself.
                    SubjectRecord::Detection(detection) => detection.successor.is_some(),
                }
                .to_string(),
            ),
            ("ORC_LOST_REPLICAS", listed(self.lost_replicas())),
            ("ORC_REPLICA_HOSTS", listed(evidence.replicas.iter())),
            (
                "ORC_SUCCESSOR_HOST",
                successor.map(|key| key.hostname.clone()).unwrap_or_default(),
            ),
            (
                "ORC_SUCCESSOR_PORT",
                successor.map(|key| key.port.to_string()).unwrap_or_default(),
            ),
            (
                "ORC_SUCCESSOR_BINLOG_COORDINATES",
                coordinates.map(ToString::to_string).unwrap_or_default(),
            ),
            // Instances have no alias in ham4db.
            ("ORC_SUCCESSOR_ALIAS", String::new()),
        ])
    }

    /// ham4db's own variables.
    fn own(&self) -> BTreeMap<&'static str, String> {
        let recovery = self.recovery();
        let of = |value: &dyn Fn(&Recovery) -> String| recovery.map(value).unwrap_or_default();
        BTreeMap::from([
            ("HAM4DB_HOOK", self.list.key().to_owned()),
            ("HAM4DB_ATTEMPT", self.attempt.to_string()),
            ("HAM4DB_MEMBER", self.member.to_owned()),
            ("HAM4DB_PHASE", self.phase().to_owned()),
            ("HAM4DB_CLUSTER_ID", self.finding().cluster.to_string()),
            ("HAM4DB_RESOURCE", self.resource().unwrap_or_default()),
            ("HAM4DB_FAILED", self.finding().instance.to_string()),
            ("HAM4DB_RECOVERY_UID", of(&|recovery| recovery.uid.clone())),
            ("HAM4DB_RECOVERY_ID", of(&|recovery| recovery.id.to_string())),
            ("HAM4DB_EPOCH", of(&|recovery| recovery.epoch.to_string())),
            (
                "HAM4DB_FENCING",
                of(&|recovery| {
                    recovery
                        .fencing_proof
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default()
                }),
            ),
            ("HAM4DB_KIND", of(&|recovery| format!("{:?}", recovery.plan.kind))),
            (
                "HAM4DB_SUCCESSOR",
                self.successor().map(ToString::to_string).unwrap_or_default(),
            ),
            (
                "HAM4DB_PLANNED_SUCCESSOR",
                of(&|recovery| recovery.plan.successor.to_string()),
            ),
            ("HAM4DB_COUNT_LOST_REPLICAS", self.lost_replicas().count().to_string()),
            (
                "HAM4DB_LOST_GTID_SET",
                of(&|recovery| recovery.lost.as_ref().map(ToString::to_string).unwrap_or_default()),
            ),
            ("HAM4DB_LOSS", of(&|recovery| recovery.loss().unwrap_or_default())),
            (
                "HAM4DB_DETECTION_ID",
                match self.subject {
                    SubjectRecord::Recovery(_) => String::new(),
                    SubjectRecord::Detection(detection) => detection.id.to_string(),
                },
            ),
        ])
    }

    /// The cluster's document as `namespace/name`.
    fn resource(&self) -> Option<String> {
        match self.origin? {
            Origin::Document { namespace, name } => Some(format!("{namespace}/{name}")),
            Origin::Api | Origin::Recovery => None,
        }
    }

    fn lost_replicas(&self) -> impl Iterator<Item = &'a InstanceKey> {
        self.recovery()
            .into_iter()
            .flat_map(|recovery| recovery.lost_replicas.iter().map(|lost| &lost.instance))
    }

    /// The JSON document that a command gets on its standard input. While `version` is 1, fields are added and never
    /// changed.
    pub fn document(&self) -> Value {
        let (name, alias) = self.cluster();
        let recovery = self.recovery();
        json!({
            "version": 1,
            "hook": self.list.key(),
            "attempt": self.attempt,
            "member": self.member,
            "phase": self.phase(),
            "cluster": { "id": self.finding().cluster, "name": name, "alias": alias, "resource": self.resource() },
            "finding": self.finding(),
            "recovery": recovery.map(|recovery| json!({
                "uid": recovery.uid,
                "id": recovery.id,
                "kind": recovery.plan.kind,
                "epoch": recovery.epoch,
                "holder": recovery.holder_name,
                "startedAt": recovery.started,
                "endedAt": recovery.ended(),
                "successful": recovery.ended().map(|_| recovery.is_successful()),
                "plan": recovery.plan,
                "lostReplicas": recovery.lost_replicas,
                "lostGtidSet": recovery.lost,
                "loss": recovery.loss(),
                "fencing": recovery.fencing_proof,
                "errors": recovery.errors,
            })),
            "successor": self.successor(),
            "detection": match self.subject {
                SubjectRecord::Recovery(_) => None,
                SubjectRecord::Detection(detection) => Some(json!({
                    "id": detection.id,
                    "at": detection.at,
                    "heldBack": detection.held_back.as_ref().map(ToString::to_string),
                })),
            },
        })
    }
}

fn listed<'a>(keys: impl Iterator<Item = &'a InstanceKey>) -> String {
    keys.map(ToString::to_string).collect::<Vec<_>>().join(",")
}
