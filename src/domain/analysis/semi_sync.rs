//! Semi-sync codes of a primary: waiting for more acknowledgements than there are replicas to give them, or more replicas than
//! it is to have.

use crate::domain::finding::Code;
use crate::domain::instance::Instance;
use crate::domain::policy::Policy;
use crate::domain::time::WallTime;

/// The semi-sync code of an answering primary.
///
/// Commits wait while semi-sync is active (not fallen back to asynchronous replication) and fewer replicas are connected than
/// acknowledgements are wanted. That this locks the primary is a hypothesis until its binary log stood still for a while; how long
/// is counted from when this member first saw the log where it is.
///
/// The number of connected replicas is not enough: a source notices that a replica is gone when it next writes to it, and one that is
/// connected may not answer. Then commits are seen to wait at every look while the log stands still.
pub(super) fn judge(primary: &Instance, policy: &Policy, now: WallTime) -> Option<(Code, String)> {
    let key = &primary.key;
    let semi_sync = &primary.valid_facts()?.semi_sync;
    let (clients, wanted) = (semi_sync.clients, semi_sync.wait_for_count);
    if !semi_sync.source_enabled || !semi_sync.source_active || wanted == 0 {
        return None;
    }
    if clients < wanted {
        let told = format!("commits on {key} wait for {wanted} semi-sync replicas, and {clients} are connected");
        let still = primary.binlog_unmoved_since.map(|since| now.millis_since(since));
        return Some(match still {
            Some(still) if still >= policy.locked_semi_sync_millis => (
                Code::LockedSemiSyncMaster,
                format!("{told}; its binary log has not moved for {} s", still / 1000),
            ),
            Some(_) | None => (Code::LockedSemiSyncMasterHypothesis, told),
        });
    }
    if let Some(since) = primary.acks_awaited_since {
        let awaited = now.millis_since(since);
        let told = format!(
            "{} commits on {key} wait for {wanted} semi-sync replicas; {clients} are connected, and nothing was acknowledged for {} s",
            semi_sync.wait_sessions,
            awaited / 1000
        );
        let code = if awaited >= policy.locked_semi_sync_millis {
            Code::LockedSemiSyncMaster
        } else {
            Code::LockedSemiSyncMasterHypothesis
        };
        return Some((code, told));
    }
    (policy.enforce_exact_semi_sync && clients > wanted).then(|| {
        (
            Code::MasterWithTooManySemiSyncReplicas,
            format!("{clients} semi-sync replicas are connected to {key}, and it is to have exactly {wanted}"),
        )
    })
}
