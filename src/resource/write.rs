//! Converts a status of the domain into the status of the resource.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::domain::declared::{self, ConditionStatus, DowntimeEnd, DowntimeOrigin, Observer, StatusModel};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::status::{
    DowntimePhase, DowntimeSource, DowntimeState, ForceState, Instance, LastRecovery, MAX_ENTRIES, MAX_GTID, MAX_NAME,
    MAX_PROBLEMS, MAX_TEXT, MySQLClusterStatus, Primary, Promotable, RecoveryPhase, Role, RunningRecovery, Summary,
    TakeoverPhase, TakeoverState,
};

/// Length of the message of a condition, as the API server bounds it.
const MAX_MESSAGE: usize = 32_768;

/// The status to write. `previous` is the present status: a condition that did not change keeps the time of its last transition.
pub fn status(model: &StatusModel, observer: &Observer, previous: Option<&MySQLClusterStatus>) -> MySQLClusterStatus {
    MySQLClusterStatus {
        observed_generation: model.observed_generation,
        observer: Some(super::status::Observer {
            cluster_uuid: observer.cluster_uuid.clone(),
            member: cut(&observer.member, MAX_NAME),
            term: i64::try_from(observer.term).unwrap_or(i64::MAX),
            renewed_at: time(observer.renewed),
        }),
        summary: Some(summary(model)),
        primary: model.primary.as_ref().map(|primary| Primary {
            host: primary.instance.hostname.clone(),
            port: i32::from(primary.instance.port),
            epoch: i64::try_from(primary.epoch).unwrap_or(i64::MAX),
            since: time(primary.since),
        }),
        instances: model.instances.iter().take(MAX_ENTRIES).map(instance).collect(),
        downtime: model.downtime.iter().take(MAX_ENTRIES).map(downtime).collect(),
        recovery: model.recovery.as_ref().map(|recovery| RunningRecovery {
            id: recovery.uid.clone(),
            phase: match recovery.phase {
                declared::RecoveryPhase::WouldBlock => RecoveryPhase::WouldBlock,
                declared::RecoveryPhase::Blocked => RecoveryPhase::Blocked,
                declared::RecoveryPhase::Claimed => RecoveryPhase::Claimed,
                declared::RecoveryPhase::Opened => RecoveryPhase::Opened,
            },
            failure: recovery.failure.to_string(),
            old_primary: recovery.old_primary.to_string(),
            successor: recovery.successor.as_ref().map(InstanceKey::to_string),
            blocked_by: recovery
                .blocked_by
                .iter()
                .take(16)
                .map(|why| cut(why, MAX_TEXT))
                .collect(),
        }),
        last_recovery: model.last_recovery.as_ref().map(|recovery| LastRecovery {
            id: recovery.uid.clone(),
            failure: recovery.failure.to_string(),
            old_primary: recovery.old_primary.to_string(),
            successor: recovery.successor.as_ref().map(InstanceKey::to_string),
            started_at: time(recovery.started),
            ended_at: time(recovery.ended),
            successful: recovery.successful,
            lost_gtid_set: recovery.lost.as_ref().map(|set| cut(&set.to_string(), MAX_GTID)),
            loss: recovery.loss.as_ref().map(|told| cut(told, MAX_TEXT)),
            fencing: recovery.fencing.as_ref().map(|told| cut(told, MAX_TEXT)),
            accepted_via: recovery.accepted_via.clone(),
            acknowledged: recovery.acknowledged,
        }),
        takeover: model.takeover.as_ref().map(takeover),
        force: model.force.as_ref().map(|force| ForceState {
            value: cut(&force.value, MAX_TEXT),
            phase: format!("{:?}", force.phase),
            message: cut(&force.message, MAX_TEXT),
        }),
        conditions: conditions(model, observer.renewed, previous),
    }
}

fn takeover(takeover: &declared::TakeoverStatus) -> TakeoverState {
    TakeoverState {
        request_id: takeover.id.clone(),
        phase: match takeover.phase {
            declared::TakeoverPhase::Pending => TakeoverPhase::Pending,
            declared::TakeoverPhase::Refused => TakeoverPhase::Refused,
            declared::TakeoverPhase::Draining => TakeoverPhase::Draining,
            declared::TakeoverPhase::CatchingUp => TakeoverPhase::CatchingUp,
            declared::TakeoverPhase::Promoting => TakeoverPhase::Promoting,
            declared::TakeoverPhase::Succeeded => TakeoverPhase::Succeeded,
            declared::TakeoverPhase::Failed => TakeoverPhase::Failed,
            declared::TakeoverPhase::Expired => TakeoverPhase::Expired,
            declared::TakeoverPhase::Cancelled => TakeoverPhase::Cancelled,
        },
        message: cut(&takeover.message, MAX_TEXT),
        started_at: takeover.started.and_then(time),
        finished_at: takeover.finished.and_then(time),
    }
}

/// The other writer that keeps this status from being written: another group that renewed it recently, or a later leader of this group.
pub fn superseded_by(previous: Option<&MySQLClusterStatus>, observer: &Observer) -> Option<String> {
    let present = previous?
        .observer
        .as_ref()
        .filter(|present| !present.cluster_uuid.is_empty())?;
    if present.cluster_uuid == observer.cluster_uuid {
        return u64::try_from(present.term)
            .is_ok_and(|term| term > observer.term)
            .then(|| format!("member {} in the later term {}", present.member, present.term));
    }
    let renewed = WallTime(present.renewed_at.as_ref()?.0.as_millisecond());
    (observer.renewed.millis_since(renewed) < declared::FOREIGN_MILLIS)
        .then(|| format!("member {} of group {}", present.member, present.cluster_uuid))
}

fn summary(model: &StatusModel) -> Summary {
    let (answering, known) = model.answering();
    Summary {
        primary: model
            .primary
            .as_ref()
            .map(|primary| primary.instance.to_string())
            .unwrap_or_default(),
        instances: if known == 0 {
            String::new()
        } else {
            format!("{answering}/{known}")
        },
        lag: model
            .worst_lag()
            .map(|seconds| format!("{seconds}s"))
            .unwrap_or_default(),
        problem: cut(&model.problem, MAX_TEXT),
    }
}

fn instance(instance: &declared::InstanceStatus) -> Instance {
    Instance {
        host: instance.instance.hostname.clone(),
        port: i32::from(instance.instance.port),
        role: match instance.role {
            declared::Role::Primary => Role::Primary,
            declared::Role::Replica => Role::Replica,
            declared::Role::Quarantined => Role::Quarantined,
            declared::Role::Detached => Role::Detached,
            declared::Role::Unknown => Role::Unknown,
        },
        lag: instance
            .lag_seconds
            .map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX)),
        read_only: instance.read_only,
        gtid_errant: instance.errant.as_ref().map(|set| cut(&set.to_string(), MAX_GTID)),
        promotion_rule: format!("{:?}", instance.promotion_rule),
        promotable: instance.promotable.as_ref().map(|promotable| Promotable {
            ok: promotable.ok,
            why: Some(cut(&promotable.why, MAX_TEXT)).filter(|why| !why.is_empty()),
        }),
        downtime_until: instance.downtime.map(|end| match end {
            DowntimeEnd::At(until) => time(until).map_or_else(String::new, |until| until.0.to_string()),
            DowntimeEnd::Indefinite => "indefinite".to_owned(),
        }),
        problems: instance
            .problems
            .iter()
            .take(MAX_PROBLEMS)
            .map(|problem| cut(problem, MAX_TEXT))
            .collect(),
    }
}

fn downtime(downtime: &declared::DowntimeStatus) -> DowntimeState {
    DowntimeState {
        host: downtime.instance.hostname.clone(),
        port: i32::from(downtime.instance.port),
        state: match downtime.phase {
            declared::DowntimePhase::Active => DowntimePhase::Active,
            declared::DowntimePhase::Expired => DowntimePhase::Expired,
            declared::DowntimePhase::NotFound => DowntimePhase::NotFound,
            declared::DowntimePhase::Pending => DowntimePhase::Pending,
        },
        source: match downtime.origin {
            DowntimeOrigin::Document => DowntimeSource::Spec,
            DowntimeOrigin::Api => DowntimeSource::API,
            DowntimeOrigin::Recovery => DowntimeSource::Recovery,
        },
        owner: cut(&downtime.owner, MAX_NAME),
        until: downtime.until.and_then(time),
    }
}

fn conditions(model: &StatusModel, now: WallTime, previous: Option<&MySQLClusterStatus>) -> Vec<Condition> {
    model
        .conditions
        .iter()
        .map(|condition| {
            let kind = condition.kind.as_str();
            let status = match condition.status {
                ConditionStatus::True => "True",
                ConditionStatus::False => "False",
                ConditionStatus::Unknown => "Unknown",
            };
            let unchanged = previous
                .and_then(|previous| previous.conditions.iter().find(|present| present.type_ == kind))
                .filter(|present| present.status == status)
                .map(|present| present.last_transition_time.clone());
            Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: condition.reason.to_owned(),
                message: cut(&condition.message, MAX_MESSAGE),
                observed_generation: model.observed_generation,
                last_transition_time: unchanged.or_else(|| time(now)).unwrap_or(Time(Timestamp::UNIX_EPOCH)),
            }
        })
        .collect()
}

/// Whole seconds: that is what the API server keeps of a time.
fn time(wall: WallTime) -> Option<Time> {
    Timestamp::from_second(wall.0.div_euclid(1000)).ok().map(Time)
}

/// A text of at most `max` characters; the API server counts characters.
fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}
