//! Whether what would be lost may be lost.
//!
//! Unless the policy is set ([`LossPolicy::Auto`] otherwise), the promise of the primary decides. When its
//! semi-synchronous replication confirms no commit that only the primary has, a promotion that loses one means that
//! the replica that has it is away; the recovery waits for that replica. An asynchronous primary promises nothing,
//! and an outage is worse than a loss.

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, SemiSync};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{LossPolicy, Policy};
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// Whether a source promises that each transaction that it confirmed to a client is on another server too:
/// `AFTER_SYNC`, so that no client sees it before, it waits for acknowledgements however many replicas are connected,
/// and it has not stopped waiting.
///
/// MySQL manual, "Semisynchronous Replication": with `wait_no_replica` off, the source goes on alone at once when
/// fewer replicas than it waits for are connected.
pub fn promises_no_loss(semi_sync: &SemiSync) -> bool {
    semi_sync.source_enabled
        && semi_sync.source_active
        && semi_sync.after_sync
        && semi_sync.wait_no_replica
        && semi_sync.wait_for_count > 0
}

/// The policy about loss that counts for a primary: the given one, or what its last facts call for.
///
/// `MariaDB` counts as asynchronous here: its `gtid_binlog_state` names transactions before they are acknowledged, so
/// what is remembered of it is no proof that a commit was confirmed to a client.
pub fn effective(topology: &Topology, old_primary: &InstanceKey, policy: &Policy) -> LossPolicy {
    if policy.loss != LossPolicy::Auto {
        return policy.loss;
    }
    let facts = topology.get(old_primary).and_then(|instance| instance.facts.as_ref());
    match facts {
        Some(facts) if !facts.version.flavour.is_mariadb() && promises_no_loss(&facts.semi_sync) => LossPolicy::Refuse,
        Some(_) | None => LossPolicy::Allow,
    }
}

/// Whether `lost` may be lost; what is accepted is remarked upon in the report.
///
/// # Errors
/// Why not.
pub(super) fn accept(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    lost: &GtidSet,
    now: WallTime,
    report: &mut PlanReport,
) -> Result<(), String> {
    let text = excerpt(lost);
    match effective(topology, old_primary, policy) {
        LossPolicy::Refuse if policy.loss == LossPolicy::Auto => Err(format!(
            "transactions would be lost, and semi-sync of {old_primary} promised that none can be (lossPolicy is not set): {text}"
        )),
        LossPolicy::Refuse => Err(format!("transactions would be lost, and lossPolicy is Refuse: {text}")),
        LossPolicy::Allow | LossPolicy::Auto => {
            report.remarks.push(format!(
                "lossPolicy Allow: at least these transactions are lost: {text}"
            ));
            Ok(())
        }
        LossPolicy::AllowAfterTimeout => {
            // A primary that was never seen has been away for longer than this member lives.
            let away = topology
                .get(old_primary)
                .and_then(|instance: &Instance| instance.last_seen)
                .map(|seen| now.millis_since(seen));
            if away.is_some_and(|away| away < policy.loss_timeout_millis) {
                let seconds = policy.loss_timeout_millis / 1000;
                return Err(format!(
                    "transactions would be lost, and the old primary has {seconds} s to return (lossTimeout): {text}"
                ));
            }
            report.remarks.push(format!(
                "lossPolicy AllowAfterTimeout, and lossTimeout has passed: at least these transactions are lost: {text}"
            ));
            Ok(())
        }
    }
}
