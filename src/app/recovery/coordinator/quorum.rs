//! The question to the members about a suspect, and what their opinions allow.

use crate::domain::analysis::{self, Agreement};
use crate::domain::cluster_view::ClusterView;
use crate::domain::finding::{Code, Finding, Opinion};
use crate::domain::gtid::GtidSet;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::planner::{self, PlanRequest};
use crate::domain::time::WallTime;

/// The pause after a disagreement of the members or a refused plan.
const RETRY_MILLIS: u64 = 100;
/// The same for suspects with replicas that report that they receive. Usually that is true and persists, and each
/// question makes every member connect to the suspect.
const RETRY_SILENT_MILLIS: u64 = 500;

/// The pause before a finding is tried again that was given up, milliseconds.
pub(super) fn retry_after_millis(finding: &Finding) -> u64 {
    if needs_reconnect_test(finding) {
        RETRY_SILENT_MILLIS
    } else {
        RETRY_MILLIS
    }
}

/// Whether a finding may lead to a recovery when the members agree to it.
pub(super) fn has_recovery(finding: &Finding) -> bool {
    finding.code.is_actionable() || needs_reconnect_test(finding)
}

/// Whether a finding fits what the members agreed to.
pub(super) fn matches_agreement(finding: &Finding, agreement: Agreement) -> bool {
    match agreement {
        Agreement::Failover => finding.code.is_actionable(),
        Agreement::Test => needs_reconnect_test(finding),
    }
}

/// Whether a finding is about a primary of which the leader sees that it commits nothing. It is replaced with a proof that it takes no
/// writes, and without an agreement of the members.
pub(super) fn commits_nothing(finding: &Finding) -> bool {
    finding.code == Code::StalledPrimary && finding.evidence.commit_stall.is_some()
}

/// Whether a finding may only lead to a failover that begins with a reconnect test: no replica must be able to reach
/// the primary anew.
fn needs_reconnect_test(finding: &Finding) -> bool {
    finding.code == Code::StalledPrimary || analysis::may_be_partitioned(finding)
}

/// The plan for a finding on a view.
pub(super) fn plan_for(
    finding: &Finding,
    view: &ClusterView,
    asked: PlanRequest<'_>,
    now: WallTime,
) -> (Option<Plan>, PlanReport) {
    if needs_reconnect_test(finding) && asked.designated.is_none() {
        planner::plan_silent_primary(finding, &view.topology, &view.policy, asked.remembered, now)
    } else {
        planner::plan_as_requested(finding, &view.topology, &view.policy, asked, now)
    }
}

/// The union of the GTID sets that any member saw on the suspect.
pub(super) fn remembered(opinions: &[Opinion]) -> Option<GtidSet> {
    opinions
        .iter()
        .filter_map(|opinion| opinion.remembered.clone())
        .reduce(|all, more| all.union(&more))
}
