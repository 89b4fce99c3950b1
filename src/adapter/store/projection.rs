//! Orchestrator's tables, as projections of the state. Changed rows are recomputed. Other programs read these tables; ham4db only
//! writes them.

use std::collections::BTreeSet;

use crate::domain::intent::{IntentDetails, IntentKind, Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::published_primary::KeyPrefix;
use crate::domain::state::record::{Cluster, Detection, Recovery};
use crate::domain::state::{Change, State};

use super::backend::Numbering;
use super::database::{DatabaseError, Transaction};
use super::kv;
use super::statement::statement;

/// The projected tables, with the column of the id where orchestrator's rows stay beside those of ham4db, which have larger ids.
pub(super) const TABLES: &[(&str, Option<&str>)] = &[
    ("database_instance_downtime", None),
    ("candidate_database_instance", None),
    ("cluster_alias", None),
    ("global_recovery_disable", None),
    ("blocked_topology_recovery", None),
    ("topology_failure_detection", Some("detection_id")),
    ("topology_recovery", Some("recovery_id")),
    ("topology_recovery_steps", Some("recovery_step_id")),
    ("audit", Some("audit_id")),
    ("kv_store", None),
];

/// Makes the ids of orchestrator's rows in SQLite negative.
pub(super) const NEGATE_ORCHESTRATOR_IDS: &[&str] = &[
    "UPDATE topology_failure_detection SET detection_id = -detection_id WHERE detection_id > 0",
    "UPDATE topology_recovery SET recovery_id = -recovery_id WHERE recovery_id > 0",
    "UPDATE topology_recovery_steps SET recovery_step_id = -recovery_step_id WHERE recovery_step_id > 0",
    "UPDATE audit SET audit_id = -audit_id WHERE audit_id > 0",
];

/// The largest ids of orchestrator's rows in MySQL.
pub(super) const LARGEST_IDS: &[&str] = &[
    "SELECT MAX(detection_id) FROM topology_failure_detection",
    "SELECT MAX(recovery_id) FROM topology_recovery",
    "SELECT MAX(recovery_step_id) FROM topology_recovery_steps",
    "SELECT MAX(audit_id) FROM audit",
];

/// The duration of a downtime without end in orchestrator's table: a hundred years.
const ENDLESS_MILLIS: i64 = 100 * 365 * 86_400_000;

/// Deletes all rows of ham4db.
pub(super) async fn delete_all(transaction: &mut Transaction, numbering: Numbering) -> Result<(), DatabaseError> {
    for (table, id) in TABLES {
        let deletion = match id {
            None => statement(format!("DELETE FROM {table}")),
            Some(id) => statement(format!("DELETE FROM {table} WHERE {id} > ?")).bind(numbering.above()),
        };
        transaction.execute(deletion).await?;
    }
    Ok(())
}

/// Writes the rows of everything that changed.
pub(super) async fn write(
    transaction: &mut Transaction,
    state: &State,
    changes: &BTreeSet<Change>,
    numbering: Numbering,
    key_prefix: &KeyPrefix,
) -> Result<(), DatabaseError> {
    for change in changes {
        match change {
            Change::Meta => {
                transaction
                    .execute(statement("DELETE FROM global_recovery_disable"))
                    .await?;
                if state.recoveries_disabled {
                    transaction
                        .execute(statement(
                            "REPLACE INTO global_recovery_disable (disable_recovery) VALUES (1)",
                        ))
                        .await?;
                }
            }
            Change::Intent(id) => match id.kind {
                IntentKind::Downtime => downtime(transaction, state, &id.instance).await?,
                IntentKind::Candidate => candidate(transaction, state, &id.instance).await?,
            },
            Change::Cluster(_) => {
                aliases(transaction, state).await?;
                kv::write(transaction, state, key_prefix).await?;
            }
            Change::Recovery(uid) => recovery(transaction, state, uid, numbering).await?,
            Change::Detection(id) => detection(transaction, *id, state.detections.get(id), numbering).await?,
            Change::Blocked(key) => blocked(transaction, state, key, numbering).await?,
            Change::Seeds
            | Change::Forgotten(_)
            | Change::Document(_)
            | Change::Request(_)
            | Change::Quarantine(_)
            | Change::Member(_)
            | Change::Audit(_) => {}
        }
    }
    Ok(())
}

/// The downtime of an instance: the active one that ends last.
async fn downtime(transaction: &mut Transaction, state: &State, key: &InstanceKey) -> Result<(), DatabaseError> {
    transaction
        .execute(
            statement("DELETE FROM database_instance_downtime WHERE hostname = ? AND port = ?")
                .bind(&key.hostname)
                .bind(key.port),
        )
        .await?;
    let active = state
        .intents
        .values()
        .filter(|intent| intent.instance == *key && intent.details.is_active(state.clock));
    let longest = active
        .filter_map(|intent| match &intent.details {
            IntentDetails::Downtime {
                owner,
                reason,
                since,
                until,
            } => Some((
                until.map_or(since.0.saturating_add(ENDLESS_MILLIS), |until| until.0),
                owner,
                reason,
                since,
            )),
            IntentDetails::Candidate { .. } => None,
        })
        .max_by_key(|(until, ..)| *until);
    if let Some((until, owner, reason, since)) = longest {
        transaction.execute(statement("REPLACE INTO database_instance_downtime (hostname, port, downtime_active, begin_timestamp, end_timestamp, owner, reason) VALUES (?, ?, 1, @STAMP, @STAMP, ?, ?)")
        .bind(&key.hostname)
        .bind(key.port)
        .bind(since.0)
        .bind(until)
        .bind(owner)
        .bind(reason))
        .await?;
    }
    Ok(())
}

/// The promotion rule of an instance: `must_not` takes precedence, then documents, then the API.
async fn candidate(transaction: &mut Transaction, state: &State, key: &InstanceKey) -> Result<(), DatabaseError> {
    transaction
        .execute(
            statement("DELETE FROM candidate_database_instance WHERE hostname = ? AND port = ?")
                .bind(&key.hostname)
                .bind(key.port),
        )
        .await?;
    let rule = state
        .intents
        .values()
        .filter(|intent| intent.instance == *key && intent.details.is_active(state.clock))
        .filter_map(|intent| match &intent.details {
            IntentDetails::Candidate { rule, .. } => Some((
                *rule != PromotionRule::MustNot,
                !matches!(intent.origin, Origin::Document { .. }),
                *rule,
            )),
            IntentDetails::Downtime { .. } => None,
        })
        .min();
    if let Some((_, _, rule)) = rule {
        transaction.execute(statement("REPLACE INTO candidate_database_instance (hostname, port, last_suggested, priority, promotion_rule) VALUES (?, ?, @STAMP, 1, ?)")
            .bind(&key.hostname)
            .bind(key.port)
            .bind(state.clock.0)
            .bind(rule.as_str()))
            .await?;
    }
    Ok(())
}

/// The aliases of the clusters. The column is unique: of two clusters with the same alias the older one keeps it.
async fn aliases(transaction: &mut Transaction, state: &State) -> Result<(), DatabaseError> {
    transaction.execute(statement("DELETE FROM cluster_alias")).await?;
    let mut clusters: Vec<&Cluster> = state
        .clusters
        .values()
        .filter(|cluster| !cluster.alias.is_empty())
        .collect();
    clusters.sort_by_key(|cluster| (cluster.created_at, &cluster.id));
    for cluster in clusters {
        transaction
            .execute(
                statement(
                    "@INSERT_IGNORE INTO cluster_alias (cluster_name, alias, last_registered) VALUES (?, ?, @STAMP)",
                )
                .bind(&cluster.name)
                .bind(&cluster.alias)
                .bind(state.clock.0),
            )
            .await?;
    }
    Ok(())
}

/// Comma-separated values.
fn comma_separated(keys: impl IntoIterator<Item = impl ToString>) -> String {
    keys.into_iter()
        .map(|key| key.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

/// The row of a recovery, with its steps.
async fn recovery(
    transaction: &mut Transaction,
    state: &State,
    uid: &str,
    numbering: Numbering,
) -> Result<(), DatabaseError> {
    let Some(recovery) = state.recoveries.get(uid) else {
        transaction
            .execute(statement("DELETE FROM topology_recovery WHERE uid = ?").bind(uid))
            .await?;
        transaction
            .execute(statement("DELETE FROM topology_recovery_steps WHERE recovery_uid = ?").bind(uid))
            .await?;
        return Ok(());
    };
    let active = recovery.is_active();
    let number = numbering.row(recovery.id);
    let successor = recovery.successor();
    let replicas = &recovery.finding.evidence.replicas;
    let detection = state
        .detections
        .values()
        .find(|detection| detection.recovery.as_deref() == Some(uid))
        .map_or(0, |detection| numbering.row(detection.id));
    transaction.execute(statement("REPLACE INTO topology_recovery (recovery_id, hostname, port, in_active_period, start_active_period, end_active_period_unixtime, end_recovery, \
         processing_node_hostname, processcing_node_token, successor_hostname, successor_port, analysis, cluster_name, cluster_alias, count_affected_slaves, \
         slave_hosts, is_successful, acknowledged, acknowledged_by, acknowledge_comment, participating_instances, lost_slaves, all_errors, acknowledged_at, \
         last_detection_id, uid) VALUES (?, ?, ?, ?, @STAMP, ?, @STAMP, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, @STAMP, ?, ?)")
    .bind(number)
    .bind(&recovery.plan.old_primary.hostname)
    .bind(i64::from(recovery.plan.old_primary.port))
    .bind(active)
    .bind(recovery.started.0)
    .bind(recovery.ended().map_or(0, |at| at.0 / 1000))
    .bind(recovery.ended().map(|at| at.0))
    .bind(&recovery.holder_name)
    .bind(format!("{}-{}", recovery.holder, recovery.epoch))
    .bind(successor.map(|key| key.hostname.clone()))
    .bind(successor.map(|key| i64::from(key.port)))
    .bind(recovery.finding.code.as_str())
    .bind(&recovery.cluster_name)
    .bind(&recovery.cluster_alias)
    .bind(i64::try_from(replicas.len()).unwrap_or(i64::MAX))
    .bind(comma_separated(replicas))
    .bind(recovery.is_successful())
    .bind(recovery.acknowledged.is_some())
    .bind(recovery.acknowledged.as_ref().map(|acknowledgement| acknowledgement.by.clone()).unwrap_or_default())
    .bind(recovery.acknowledged.as_ref().map(|acknowledgement| acknowledgement.comment.clone()).unwrap_or_default())
    .bind(comma_separated(&recovery.plan.instances))
    .bind(comma_separated(recovery.lost_replicas.iter().map(|refusal| &refusal.instance)))
    .bind(recovery.errors.join("\n"))
    .bind(recovery.acknowledged.as_ref().map(|acknowledgement| acknowledgement.at.0))
    .bind(detection)
    .bind(uid))
    .await?;
    steps(transaction, recovery, numbering).await
}

/// The rows of the steps of a recovery.
async fn steps(transaction: &mut Transaction, recovery: &Recovery, numbering: Numbering) -> Result<(), DatabaseError> {
    for step in &recovery.steps {
        transaction.execute(statement("@INSERT_IGNORE INTO topology_recovery_steps (recovery_step_id, recovery_uid, audit_at, message) VALUES (?, ?, @STAMP, ?)")
            .bind(numbering.row(step.id))
            .bind(&recovery.uid)
            .bind(step.at.0)
            .bind(&step.message))
            .await?;
    }
    Ok(())
}

/// The row of a detection.
async fn detection(
    transaction: &mut Transaction,
    id: u64,
    detection: Option<&Detection>,
    numbering: Numbering,
) -> Result<(), DatabaseError> {
    let number = numbering.row(id);
    let Some(detection) = detection else {
        return transaction
            .execute(statement("DELETE FROM topology_failure_detection WHERE detection_id = ?").bind(number))
            .await
            .map(drop);
    };
    let finding = &detection.finding;
    transaction.execute(statement("REPLACE INTO topology_failure_detection (detection_id, hostname, port, in_active_period, start_active_period, end_active_period_unixtime, \
         processing_node_hostname, processcing_node_token, analysis, cluster_name, cluster_alias, count_affected_slaves, slave_hosts, is_actionable) \
         VALUES (?, ?, ?, 0, @STAMP, ?, ?, '', ?, ?, ?, ?, ?, ?)")
    .bind(number)
    .bind(&finding.instance.hostname)
    .bind(i64::from(finding.instance.port))
    .bind(detection.at.0)
    .bind(number)
    .bind(&detection.member_name)
    .bind(finding.code.as_str())
    .bind(&detection.cluster_name)
    .bind(&detection.cluster_alias)
    .bind(i64::try_from(finding.evidence.replicas.len()).unwrap_or(i64::MAX))
    .bind(comma_separated(&finding.evidence.replicas))
    .bind(finding.code.is_actionable()))
    .await
    .map(drop)
}

/// The row of a blocked recovery.
async fn blocked(
    transaction: &mut Transaction,
    state: &State,
    key: &InstanceKey,
    numbering: Numbering,
) -> Result<(), DatabaseError> {
    transaction
        .execute(
            statement("DELETE FROM blocked_topology_recovery WHERE hostname = ? AND port = ?")
                .bind(&key.hostname)
                .bind(key.port),
        )
        .await?;
    if let Some(blocked) = state.blocked.get(key) {
        transaction.execute(statement("REPLACE INTO blocked_topology_recovery (hostname, port, cluster_name, analysis, last_blocked_timestamp, blocking_recovery_id) VALUES (?, ?, ?, ?, @STAMP, ?)")
        .bind(&key.hostname)
        .bind(key.port)
        .bind(&blocked.cluster_name)
        .bind(&blocked.analysis)
        .bind(blocked.at.0)
        .bind(match blocked.blocking_recovery {
            0 => 0,
            id => numbering.row(id),
        }))
        .await?;
    }
    Ok(())
}
