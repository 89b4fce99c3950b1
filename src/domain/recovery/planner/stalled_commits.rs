//! A primary that answers and commits nothing: the plan of a dead primary, with a fence that must be proved.
//!
//! Its session list is read. Its probes may hang: what they ask for waits behind the commits on some versions. A replica can reach
//! such a server, so a reconnect test proves nothing about it.
//!
//! The server lives, so the members' agreement that it is dead cannot stand in for a fence. Its commits hang and may still succeed, and
//! the statement that makes it read-only may hang behind them. Only what proves that no commit can follow allows the opening: the server
//! confirmed that it is read-only after its client sessions had ended, its semi-sync replicas are stopped, or a command of
//! `FencingProcesses` succeeded.

use crate::domain::analysis::current_primary;
use crate::domain::commit_stall::Obstacle;
use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy};
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::by_position;
use crate::domain::recovery::planner::dead_primary::{PlanRequest, plan_dead_primary};
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// Whether a primary answers at least with its session list, and commits nothing, as far as this view shows it.
pub(super) fn applies(topology: &Topology, key: &InstanceKey) -> bool {
    topology.get(key).is_some_and(|instance| {
        let answers = instance.is_valid() || instance.failure == Some(ProbeFailure::Stalled);
        answers && instance.commit_stall.is_some()
    })
}

/// Why a primary that answers and commits nothing is not replaced, or not yet.
pub(super) fn not_yet(instance: &Instance, policy: &Policy) -> Option<HeldBack> {
    let stall = instance.commit_stall.as_ref()?;
    match stall.obstacle {
        Obstacle::GlobalLock => {
            return Some(HeldBack::Waits(
                "it commits again when the lock on all writes is released: no failover follows a lock".to_owned(),
            ));
        }
        Obstacle::DiskSpace | Obstacle::Commit | Obstacle::Canary => {}
    }
    let waited = stall.seconds.saturating_mul(1000);
    (waited < policy.stalled_timeout_millis).then(|| {
        HeldBack::Waits(format!(
            "it is replaced when it has committed nothing for {} s (StalledPrimarySeconds)",
            policy.stalled_timeout_millis / 1000
        ))
    })
}

/// The plan, if there is one, and what was considered.
pub(super) fn plan_stalled_commits(
    old_primary: &InstanceKey,
    topology: &Topology,
    policy: &Policy,
    remembered: Option<GtidSet>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    match current_primary(topology) {
        Some(primary) if primary == *old_primary => {}
        Some(primary) => {
            return PlanReport::without_plan(format!("{old_primary} is not the primary of the cluster, {primary} is"));
        }
        None => {
            return PlanReport::without_plan(format!(
                "the view does not show whether {old_primary} is the primary of the cluster"
            ));
        }
    }
    if by_position::applies(topology, old_primary) {
        return PlanReport::without_plan(format!(
            "the replicas of {old_primary} do not use GTIDs: without them no primary that answers is replaced; end the server"
        ));
    }
    let request = PlanRequest {
        remembered,
        ..PlanRequest::default()
    };
    let (plan, report) = plan_dead_primary(Code::StalledPrimary, old_primary, topology, policy, request, now);
    let plan = plan.map(|plan| Plan {
        commits_nothing: true,
        ..plan
    });
    (plan, report)
}
