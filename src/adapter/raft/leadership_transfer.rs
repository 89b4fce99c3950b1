//! Hands leadership over to another voter.

use openraft::ServerState;

use super::context::{MemberContext, RaftIncarnation};
use super::liveness::Metrics;

/// Starts a transfer to the voter that has received most, preferably one that stays a member. Returns its id; `None` when this member
/// does not lead or there is no other voter.
pub(super) async fn start_transfer(
    context: &MemberContext,
    incarnation: &RaftIncarnation,
    metrics: &Metrics,
) -> Option<u64> {
    if metrics.state != ServerState::Leader {
        return None;
    }
    let replication = metrics.replication.as_ref()?;
    let others = metrics
        .membership_config
        .voter_ids()
        .filter(|voter| *voter != metrics.id);
    let wanted = context.wanted();
    let to = others.max_by_key(|voter| {
        let node = metrics.membership_config.get_node(voter);
        let stays = node.is_some_and(|node| wanted.iter().any(|wanted| wanted.name == node.name));
        let received = replication.get(voter).copied().flatten().map(|id| id.index());
        // Among equals the voter with the latest heartbeat: a dead voter may have received as much as a living one.
        let heard = metrics
            .heartbeat
            .as_ref()
            .and_then(|heartbeat| heartbeat.get(voter).copied().flatten());
        (stays, received, heard)
    })?;
    incarnation.raft.trigger().transfer_leader(to).await.ok()?;
    Some(to)
}
