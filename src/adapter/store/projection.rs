//! Orchestrator's tables, as projections of the state. Changed rows are recomputed. Other programs read these tables; ham4db only
//! writes them.

use std::collections::BTreeSet;

use sqlx::SqliteConnection;

use crate::domain::intent::{IntentDetails, IntentKind, Origin, PromotionRule};
use crate::domain::key::InstanceKey;
use crate::domain::state::record::{Cluster, Detection, Recovery};
use crate::domain::state::{Change, State};

/// The projected tables, with the condition for ham4db's rows: the rows that orchestrator numbered have negative ids.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("database_instance_downtime", "1"),
    ("candidate_database_instance", "1"),
    ("cluster_alias", "1"),
    ("global_recovery_disable", "1"),
    ("blocked_topology_recovery", "1"),
    ("topology_failure_detection", "detection_id > 0"),
    ("topology_recovery", "recovery_id > 0"),
    ("topology_recovery_steps", "recovery_step_id > 0"),
    ("audit", "audit_id > 0"),
];

/// Makes the ids of orchestrator's rows negative when its database is opened for the first time. So its history stays, and
/// ham4db's ids start at 1.
pub(super) const NEGATE_ORCHESTRATOR_IDS: &str = "UPDATE topology_failure_detection SET detection_id = -detection_id WHERE detection_id > 0; \
     UPDATE topology_recovery SET recovery_id = -recovery_id WHERE recovery_id > 0; \
     UPDATE topology_recovery_steps SET recovery_step_id = -recovery_step_id WHERE recovery_step_id > 0; \
     UPDATE audit SET audit_id = -audit_id WHERE audit_id > 0";

/// The SQL for a time in orchestrator's format. The time is bound in milliseconds.
const STAMP: &str = "strftime('%Y-%m-%d %H:%M:%S', ? / 1000, 'unixepoch')";

/// The duration of a downtime without end in orchestrator's table: a hundred years.
const ENDLESS_MILLIS: i64 = 100 * 365 * 86_400_000;

/// Writes the rows of everything that changed.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    state: &State,
    changes: &BTreeSet<Change>,
) -> Result<(), sqlx::Error> {
    for change in changes {
        match change {
            Change::Meta => {
                sqlx::query("DELETE FROM global_recovery_disable")
                    .execute(&mut *connection)
                    .await?;
                if state.recoveries_disabled {
                    sqlx::query("INSERT INTO global_recovery_disable (disable_recovery) VALUES (1)")
                        .execute(&mut *connection)
                        .await?;
                }
            }
            Change::Intent(id) => match id.kind {
                IntentKind::Downtime => downtime(connection, state, &id.instance).await?,
                IntentKind::Candidate => candidate(connection, state, &id.instance).await?,
            },
            Change::Cluster(_) => aliases(connection, state).await?,
            Change::Recovery(uid) => recovery(connection, state, uid).await?,
            Change::Detection(id) => detection(connection, *id, state.detections.get(id)).await?,
            Change::Blocked(key) => blocked(connection, state, key).await?,
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

/// Replaces `@STAMP` by the SQL for a time. The statements contain no values, which are bound.
pub(super) fn with_stamps(sql: &str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(sql.replace("@STAMP", STAMP))
}

/// The downtime of an instance: the active one that ends last.
async fn downtime(connection: &mut SqliteConnection, state: &State, key: &InstanceKey) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM database_instance_downtime WHERE hostname = ? AND port = ?")
        .bind(&key.hostname)
        .bind(i64::from(key.port))
        .execute(&mut *connection)
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
        sqlx::query(with_stamps(
            "INSERT INTO database_instance_downtime (hostname, port, downtime_active, begin_timestamp, end_timestamp, owner, reason) VALUES (?, ?, 1, @STAMP, @STAMP, ?, ?)",
        ))
        .bind(&key.hostname)
        .bind(i64::from(key.port))
        .bind(since.0)
        .bind(until)
        .bind(owner)
        .bind(reason)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// The promotion rule of an instance: `must_not` takes precedence, then documents, then the API.
async fn candidate(connection: &mut SqliteConnection, state: &State, key: &InstanceKey) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM candidate_database_instance WHERE hostname = ? AND port = ?")
        .bind(&key.hostname)
        .bind(i64::from(key.port))
        .execute(&mut *connection)
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
        sqlx::query(with_stamps("INSERT INTO candidate_database_instance (hostname, port, last_suggested, priority, promotion_rule) VALUES (?, ?, @STAMP, 1, ?)"))
            .bind(&key.hostname)
            .bind(i64::from(key.port))
            .bind(state.clock.0)
            .bind(rule.as_str())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// The aliases of the clusters. The column is unique: of two clusters with the same alias the older one keeps it.
async fn aliases(connection: &mut SqliteConnection, state: &State) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM cluster_alias")
        .execute(&mut *connection)
        .await?;
    let mut clusters: Vec<&Cluster> = state
        .clusters
        .values()
        .filter(|cluster| !cluster.alias.is_empty())
        .collect();
    clusters.sort_by_key(|cluster| (cluster.created_at, &cluster.id));
    for cluster in clusters {
        sqlx::query(with_stamps(
            "INSERT OR IGNORE INTO cluster_alias (cluster_name, alias, last_registered) VALUES (?, ?, @STAMP)",
        ))
        .bind(&cluster.name)
        .bind(&cluster.alias)
        .bind(state.clock.0)
        .execute(&mut *connection)
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
async fn recovery(connection: &mut SqliteConnection, state: &State, uid: &str) -> Result<(), sqlx::Error> {
    let Some(recovery) = state.recoveries.get(uid) else {
        sqlx::query("DELETE FROM topology_recovery WHERE uid = ?")
            .bind(uid)
            .execute(&mut *connection)
            .await?;
        sqlx::query("DELETE FROM topology_recovery_steps WHERE recovery_uid = ?")
            .bind(uid)
            .execute(connection)
            .await?;
        return Ok(());
    };
    let active = recovery.is_active();
    let number = i64::try_from(recovery.id).unwrap_or(i64::MAX);
    let successor = recovery.successor();
    let replicas = &recovery.finding.evidence.replicas;
    let detection = state
        .detections
        .values()
        .find(|detection| detection.recovery.as_deref() == Some(uid))
        .map_or(0, |detection| detection.id);
    sqlx::query(with_stamps(
        "REPLACE INTO topology_recovery (recovery_id, hostname, port, in_active_period, start_active_period, end_active_period_unixtime, end_recovery, \
         processing_node_hostname, processcing_node_token, successor_hostname, successor_port, analysis, cluster_name, cluster_alias, count_affected_slaves, \
         slave_hosts, is_successful, acknowledged, acknowledged_by, acknowledge_comment, participating_instances, lost_slaves, all_errors, acknowledged_at, \
         last_detection_id, uid) VALUES (?, ?, ?, ?, @STAMP, ?, @STAMP, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, @STAMP, ?, ?)",
    ))
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
    .bind(i64::try_from(detection).unwrap_or(i64::MAX))
    .bind(uid)
    .execute(&mut *connection)
    .await?;
    steps(connection, recovery).await
}

/// The rows of the steps of a recovery.
async fn steps(connection: &mut SqliteConnection, recovery: &Recovery) -> Result<(), sqlx::Error> {
    for step in &recovery.steps {
        sqlx::query(with_stamps("INSERT OR IGNORE INTO topology_recovery_steps (recovery_step_id, recovery_uid, audit_at, message) VALUES (?, ?, @STAMP, ?)"))
            .bind(i64::try_from(step.id).unwrap_or(i64::MAX))
            .bind(&recovery.uid)
            .bind(step.at.0)
            .bind(&step.message)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The row of a detection.
async fn detection(
    connection: &mut SqliteConnection,
    id: u64,
    detection: Option<&Detection>,
) -> Result<(), sqlx::Error> {
    let number = i64::try_from(id).unwrap_or(i64::MAX);
    let Some(detection) = detection else {
        return sqlx::query("DELETE FROM topology_failure_detection WHERE detection_id = ?")
            .bind(number)
            .execute(connection)
            .await
            .map(drop);
    };
    let finding = &detection.finding;
    sqlx::query(with_stamps(
        "REPLACE INTO topology_failure_detection (detection_id, hostname, port, in_active_period, start_active_period, end_active_period_unixtime, \
         processing_node_hostname, processcing_node_token, analysis, cluster_name, cluster_alias, count_affected_slaves, slave_hosts, is_actionable) \
         VALUES (?, ?, ?, 0, @STAMP, ?, ?, '', ?, ?, ?, ?, ?, ?)",
    ))
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
    .bind(finding.code.is_actionable())
    .execute(connection)
    .await
    .map(drop)
}

/// The row of a blocked recovery.
async fn blocked(connection: &mut SqliteConnection, state: &State, key: &InstanceKey) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM blocked_topology_recovery WHERE hostname = ? AND port = ?")
        .bind(&key.hostname)
        .bind(i64::from(key.port))
        .execute(&mut *connection)
        .await?;
    if let Some(blocked) = state.blocked.get(key) {
        sqlx::query(with_stamps(
            "INSERT INTO blocked_topology_recovery (hostname, port, cluster_name, analysis, last_blocked_timestamp, blocking_recovery_id) VALUES (?, ?, ?, ?, @STAMP, ?)",
        ))
        .bind(&key.hostname)
        .bind(i64::from(key.port))
        .bind(&blocked.cluster_name)
        .bind(&blocked.analysis)
        .bind(blocked.at.0)
        .bind(i64::try_from(blocked.blocking_recovery).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    }
    Ok(())
}
