//! Which rule of the policy keeps a recovery from following a finding.

use crate::domain::analysis::startup_grace::startup_grace;
use crate::domain::analysis::{current_primary, may_be_partitioned};
use crate::domain::finding::{Code, Finding};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{HeldBack, Policy, RepairBlock};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::planner::silent_primary;
use crate::domain::topology::Topology;

/// Why nothing may be done about a finding, whichever server could be promoted; `None` when the policy allows a recovery.
///
/// First the finding itself, then in this order: global switch, document, filters, running and recent recoveries; last
/// the downtime of the instance, or of all its replicas where the finding is about these.
pub fn held_back(finding: &Finding, topology: &Topology, policy: &Policy) -> Option<HeldBack> {
    let key = topology.resolve(&finding.instance);
    if finding.code == Code::StalledPrimary {
        if let Some(why) = silent_primary::not_yet(key, topology, policy) {
            return Some(why);
        }
    } else if !finding.code.is_actionable() && !may_be_partitioned(finding) {
        return Some(failed_policy_repair(finding.code, key, topology, policy).unwrap_or(HeldBack::NotActionable));
    }
    let downtime = policy
        .downtimes
        .iter()
        .find(|(downtimed, _)| topology.resolve(downtimed) == key)
        .map(|(_, downtime)| downtime);
    let of_replicas = || {
        let first = finding
            .evidence
            .replicas
            .first()
            .filter(|_| finding.replicas_downtimed)?;
        policy.downtimes.get(topology.resolve(first))
    };
    // A primary that is silent or stalled is replaced like a dead one, once it is proved that it is no better.
    let is_by_silence = finding.code == Code::StalledPrimary || may_be_partitioned(finding);
    let kind = if is_by_silence {
        Some(RecoveryKind::DeadPrimary)
    } else {
        RecoveryKind::for_code(finding.code)
    };
    let general = match kind {
        Some(RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember) => &policy.held_back_intermediates,
        Some(RecoveryKind::SemiSync | RecoveryKind::NonWritablePrimary) => &policy.held_back_living,
        Some(
            RecoveryKind::DeadPrimary
            | RecoveryKind::DeadPrimaryByPosition
            | RecoveryKind::CoPrimary
            | RecoveryKind::Rejoin
            | RecoveryKind::ResolveErrant
            | RecoveryKind::Takeover
            | RecoveryKind::MatchBelow
            | RecoveryKind::BootReadOnly
            | RecoveryKind::ReopenPrimary
            | RecoveryKind::Durability,
        )
        | None => &policy.held_back,
    };
    let recent = policy
        .repair_blocks
        .iter()
        .find(|recent| Some(recent.kind) == kind && topology.resolve(&recent.instance) == key)
        .map(RepairBlock::held_back);
    let grace = || startup_grace(topology, key).map(|until| HeldBack::StartupGrace { until });
    let controlled = || another_controller(topology);
    // A reconnect test proves nothing about a primary that commits nothing.
    let is_tested = is_by_silence && finding.evidence.commit_stall.is_none();
    let tested = policy.recent_test.clone().filter(|_| is_tested);
    let held = general
        .clone()
        .or_else(|| not_asked_for(finding.code, key, policy))
        .or(tested)
        .or(recent)
        .or_else(|| downtime.or_else(of_replicas).cloned());
    held.or_else(controlled).or_else(grace)
}

/// The failed repair behind a finding that calls for none itself: what a policy or a returned server calls for.
fn failed_policy_repair(code: Code, key: &InstanceKey, topology: &Topology, policy: &Policy) -> Option<HeldBack> {
    let kind = RecoveryKind::of_policy(code)?;
    let is_it =
        |block: &&RepairBlock| block.failures > 0 && block.kind == kind && topology.resolve(&block.instance) == key;
    policy.repair_blocks.iter().find(is_it).map(RepairBlock::held_back)
}

/// Another controller owns the primary, or did until that failed: its cluster is not ours to repair.
pub fn another_controller(topology: &Topology) -> Option<HeldBack> {
    let primary = current_primary(topology)?;
    let holder = topology.get(&primary)?.another_controller.clone()?;
    Some(HeldBack::OwnedByAnotherGroup(format!(
        "{holder} holds the lock on {primary}"
    )))
}

/// The key that would have to be set, where a repair is made only when configured.
fn not_asked_for(code: Code, key: &InstanceKey, policy: &Policy) -> Option<HeldBack> {
    let (is_asked_for, key) = if code == Code::LockedSemiSyncMaster {
        let is_asked_for =
            policy.recover_locked_semi_sync || policy.enforce_exact_semi_sync || policy.durability.is_kept();
        (is_asked_for, "RecoverLockedSemiSyncMaster")
    } else if code == Code::MasterWithTooManySemiSyncReplicas {
        (policy.enforce_exact_semi_sync, "EnforceExactSemiSyncReplicas")
    } else if code == Code::NoWriteableMasterStructureWarning {
        let is_asked_for = policy.recover_non_writable_primary || policy.booted_read_only.as_ref() == Some(key);
        (is_asked_for, "RecoverNonWriteableMaster")
    } else {
        return None;
    };
    (!is_asked_for).then(|| HeldBack::NotAskedFor { key: key.to_owned() })
}
