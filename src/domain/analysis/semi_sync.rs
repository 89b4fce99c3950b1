//! Semi-sync codes of a primary: it waits for more acknowledgements than replicas are connected, or more replicas are
//! connected than configured.

use crate::domain::finding::Code;
use crate::domain::instance::Instance;
use crate::domain::policy::Policy;
use crate::domain::time::WallTime;

/// The semi-sync code of an answering primary.
///
/// Commits wait while semi-sync is active (not fallen back to asynchronous replication) and fewer replicas are
/// connected than acknowledgements are required. Whether that locks the primary is a hypothesis until its binary log
/// has not moved for a while, counted from when this member first saw the log at its present end.
///
/// The number of connected replicas is not sufficient evidence: a source notices a lost replica at its next write to
/// it, and a connected replica may not acknowledge. In these cases every probe sees waiting commits while the log does
/// not move.
pub(super) fn judge(primary: &Instance, policy: &Policy, now: WallTime) -> Option<(Code, String)> {
    let key = &primary.key;
    let semi_sync = &primary.valid_facts()?.semi_sync;
    let (clients, wanted) = (semi_sync.clients, semi_sync.wait_for_count);
    if !semi_sync.source_enabled || !semi_sync.source_active || wanted == 0 {
        return None;
    }
    if clients < wanted {
        let text = format!("commits on {key} wait for {wanted} semi-sync replicas, and {clients} are connected");
        let still = primary.binlog_unmoved_since.map(|since| now.millis_since(since));
        return Some(match still {
            Some(still) if still >= policy.locked_semi_sync_millis => (
                Code::LockedSemiSyncMaster,
                format!("{text}; its binary log has not moved for {} s", still / 1000),
            ),
            Some(_) | None => (Code::LockedSemiSyncMasterHypothesis, text),
        });
    }
    if let Some(since) = primary.acks_awaited_since {
        let awaited = now.millis_since(since);
        let text = format!(
            "{} commits on {key} wait for {wanted} semi-sync replicas; {clients} are connected, and nothing was acknowledged for {} s",
            semi_sync.wait_sessions,
            awaited / 1000
        );
        let code = if awaited >= policy.locked_semi_sync_millis {
            Code::LockedSemiSyncMaster
        } else {
            Code::LockedSemiSyncMasterHypothesis
        };
        return Some((code, text));
    }
    (policy.enforce_exact_semi_sync && clients > wanted).then(|| {
        (
            Code::MasterWithTooManySemiSyncReplicas,
            format!("{clients} semi-sync replicas are connected to {key}, and exactly {wanted} are configured"),
        )
    })
}
