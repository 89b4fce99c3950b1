//! Repairs that failed. Which of them wait for their next attempt follows from the records
//! ([`crate::domain::state::failed_repairs`]). A repair that nothing calls for any more is acknowledged, so that the next failure of
//! that kind is repaired at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::finding::Code;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{BootReadOnly, HeldBack};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::planner;
use crate::domain::state::command::KEEP_RECENT_REPLACEMENTS;
use crate::domain::state::failed_repairs::{FailedRepair, backing_off, failed_repairs, with_failed_repairs};
use crate::domain::state::record::Acknowledgement;
use crate::domain::state::{self, Command, MAX_RECOVERIES};
use crate::domain::topology::ClusterId;

use super::RecoveryCoordinator;
use super::boot_read_only::is_fully_probed;

/// For how long nothing may call for a failed repair before it is acknowledged, milliseconds. A repair that fails half-way may hide its
/// own finding for a moment.
const RESOLVED_AFTER_MILLIS: u64 = 10_000;
/// The pause between two attempts to raise the version of the state, milliseconds.
const RAISE_VERSION_MILLIS: u64 = 60_000;

impl RecoveryCoordinator {
    /// Why a repair waits after failed attempts; `None` when it may begin.
    pub(in crate::app::recovery) fn backing_off(
        &self,
        cluster: &ClusterId,
        kind: RecoveryKind,
        instance: &InstanceKey,
    ) -> Option<HeldBack> {
        let now = self.context.clock.wall();
        let failed = backing_off(&self.views.state(), cluster, kind, instance, now)?;
        Some(HeldBack::RepairFailed {
            uid: failed.uid,
            failures: failed.failures,
            until: failed.until,
        })
    }

    /// [`RecoveryCoordinator::backing_off`] for a repair that no finding shows: the wait is logged.
    pub(in crate::app::recovery) fn waits_after_failures(
        &self,
        cluster: &ClusterId,
        kind: RecoveryKind,
        instance: &InstanceKey,
    ) -> bool {
        let Some(waits) = self.backing_off(cluster, kind, instance) else {
            return false;
        };
        let text = waits.to_string();
        if self.is_report_due(instance, "repair-failed", &text, 0) {
            warn!(instance = %instance, "{kind:?} of {instance} waits: {text}");
        }
        true
    }

    /// Acknowledges failed repairs that nothing has called for during the last seconds.
    pub(super) fn acknowledge_resolved_repairs(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        let now = self.context.clock.monotonic();
        let state = self.views.state();
        let clusters = with_failed_repairs(&state);
        let mut waiting = BTreeSet::new();
        let mut resolved = Vec::new();
        for view in views.iter().filter(|view| clusters.contains(&view.cluster.id)) {
            for failed in failed_repairs(&state, &view.cluster.id) {
                let is_over = !failed.is_continued_at(self.context.clock.wall());
                if is_over || !is_fully_probed(view) || self.is_called_for(view, &failed) {
                    continue;
                }
                let mut in_flight = self.in_flight();
                let since = *in_flight.unwanted_since.entry(failed.uid.clone()).or_insert(now);
                if now.millis_since(since) >= RESOLVED_AFTER_MILLIS {
                    resolved.push(failed);
                } else {
                    waiting.insert(failed.uid);
                }
            }
        }
        self.in_flight().unwanted_since.retain(|uid, _| waiting.contains(uid));
        for failed in resolved {
            info!(instance = %failed.instance, "nothing calls for {:?} of {} any more: its {} failed attempts no longer count", failed.kind, failed.instance, failed.failures);
            let acknowledgement = Acknowledgement {
                at: self.context.clock.wall(),
                by: String::from("ham4db"),
                comment: String::from("nothing calls for this repair any more"),
            };
            let uids = vec![failed.uid];
            self.propose_in_background(Command::Acknowledge { uids, acknowledgement });
        }
    }

    fn is_called_for(&self, view: &ClusterView, failed: &FailedRepair) -> bool {
        let (topology, policy) = (&view.topology, &view.policy);
        match failed.kind {
            RecoveryKind::IntermediatePrimary
            | RecoveryKind::GroupMember
            | RecoveryKind::SemiSync
            | RecoveryKind::NonWritablePrimary => {
                let instance = topology.resolve(&failed.instance);
                view.findings.iter().any(|judged| {
                    let code = judged.finding.code;
                    topology.resolve(&judged.finding.instance) == instance
                        && code != Code::NoProblem
                        && !code.is_advice()
                })
            }
            RecoveryKind::Rejoin => {
                let state = self.views.state();
                let mut quarantines = state.quarantines.values();
                quarantines.any(|held| held.cluster == view.cluster.id && held.instance == failed.instance)
                    || state::lost_replicas(&state).any(|(lost, _)| *lost == failed.instance)
            }
            RecoveryKind::Durability => {
                let plan = || planner::plan_durability(topology, policy, self.context.clock.wall());
                policy.durability.is_kept() && !matches!(plan(), Ok(None))
            }
            RecoveryKind::BootReadOnly => {
                policy.boot_read_only != BootReadOnly::Off
                    && (planner::plan_replica_read_only(topology, policy).is_some()
                        || planner::plan_boot_read_only(topology, policy).is_some())
            }
            RecoveryKind::ReopenPrimary => {
                policy.boot_read_only != BootReadOnly::Off
                    && !matches!(planner::plan_reopen_primary(topology, policy), Ok(None))
            }
            // An operator ordered them: nothing waits for their next attempt.
            RecoveryKind::ResolveErrant
            | RecoveryKind::MatchBelow
            | RecoveryKind::Takeover
            | RecoveryKind::DeadPrimary
            | RecoveryKind::DeadPrimaryByPosition
            | RecoveryKind::CoPrimary => true,
        }
    }

    /// Raises the version of the state before its list of recoveries is full, so that a full list keeps the replacements of primaries.
    /// That needs a command which every member understands; until then, every member drops the oldest record.
    pub(super) fn raise_state_version(self: &Arc<Self>) {
        let state = self.views.state();
        if state.version >= KEEP_RECENT_REPLACEMENTS || state.recoveries.len() < MAX_RECOVERIES / 2 {
            return;
        }
        let now = self.context.clock.monotonic();
        {
            let mut in_flight = self.in_flight();
            let is_soon = |at| now.millis_since(at) < RAISE_VERSION_MILLIS;
            if in_flight.version_raised_at.is_some_and(is_soon) {
                return;
            }
            in_flight.version_raised_at = Some(now);
        }
        // It records nothing.
        self.propose_in_background(Command::RecordUnseen {
            unseen: BTreeSet::new(),
            seen: BTreeSet::new(),
        });
    }

    fn propose_in_background(self: &Arc<Self>, command: Command) {
        let consensus = Arc::clone(&self.context.consensus);
        self.tracker.spawn(async move {
            let name = command.name();
            if let Err(error) = consensus.propose(command).await {
                debug!("{name} was not committed, will retry: {error}");
            }
        });
    }
}
