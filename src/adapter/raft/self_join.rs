//! A member's own place in the group: it asks to be let in until it is a voter, and notices when it was removed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::bootstrap::{ASK_DEADLINE, greet_peers, send_join};
use super::identity::{IdentityPhase, MemberIdentity};
use super::member::{IncarnationEnd, RaftIncarnation, Shared};
use super::network::Recipient;
use super::settings::Wanted;
use super::wire::{JoinAnswer, JoinRequest, MembershipAnswer};

/// Asks to be let in until this member is a voter; notices when it was removed.
pub(super) async fn keep_place(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) -> IncarnationEnd {
    loop {
        if let Some(end) = look_at_place(shared, incarnation).await {
            return end;
        }
        tokio::time::sleep(shared.settings.timings.look_around).await;
    }
}

/// How often a member that leaves looks whether it has left.
const LEAVING_EVERY: Duration = Duration::from_millis(50);

/// Waits until the group has let go of this member, when it is wanted no longer. Two voters of three that end in the same moment take the
/// quorum with them, and with it the way to remove them.
///
/// Returns at once when it is wanted, or nothing is known of who is; `false` when it is a voter still after the deadline.
pub(super) async fn leave(shared: &Arc<Shared>, deadline: Duration) -> bool {
    let is_unwanted =
        |wanted: &Vec<Wanted>| !wanted.is_empty() && wanted.iter().all(|wanted| wanted.name != shared.settings.name);
    let Some(incarnation) = shared
        .incarnation
        .load_full()
        .filter(|_| is_unwanted(&shared.around.wanted.borrow()))
    else {
        return true;
    };
    let own = incarnation.own.member;
    let has_left = async {
        let mut looks = tokio::time::interval(LEAVING_EVERY);
        loop {
            looks.tick().await;
            let metrics = incarnation.raft.metrics().borrow_watched().clone();
            let is_over = shared
                .incarnation
                .load_full()
                .is_none_or(|now| !Arc::ptr_eq(&now, &incarnation));
            if is_over
                || !metrics
                    .committed_membership_config
                    .voter_ids()
                    .any(|voter| voter == own)
            {
                return;
            }
        }
    };
    tokio::time::timeout(deadline, has_left).await.is_ok()
}

async fn look_at_place(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) -> Option<IncarnationEnd> {
    let identity = shared.identity()?;
    let metrics = incarnation.raft.metrics().borrow_watched().clone();
    if identity.phase == IdentityPhase::Joining {
        match is_voter_in_log(incarnation).await {
            Some(true) => {
                let _changing = shared.identity_change.lock().await;
                if let Err(error) = shared.put_identity(MemberIdentity {
                    phase: IdentityPhase::Member,
                    ..identity
                }) {
                    return Some(IncarnationEnd::Failed(error.to_string()));
                }
            }
            Some(false) => ask_for_admission(shared, incarnation).await,
            None => {}
        }
        return None;
    }
    let voter = metrics
        .committed_membership_config
        .voter_ids()
        .any(|voter| voter == incarnation.own.member);
    let silence = incarnation.liveness.silence(Instant::now());
    let heard = silence.is_some_and(|silence| silence < shared.settings.timings.election_max * 3);
    if metrics.state == ServerState::Leader || (voter && heard) {
        return None;
    }
    let removed = is_removed(shared, incarnation).await;
    removed.then_some(IncarnationEnd::Removed(identity))
}

/// Whether the last membership in this member's own log has it as a voter. Not from the metrics: they are empty at first, and a member that
/// was removed while it was down would ask to be let in again under its old id.
async fn is_voter_in_log(incarnation: &RaftIncarnation) -> Option<bool> {
    let own = incarnation.own.member;
    incarnation
        .raft
        .with_raft_state(move |state| state.membership_state.effective().voter_ids().any(|voter| voter == own))
        .await
        .ok()
}

async fn ask_for_admission(shared: &Arc<Shared>, incarnation: &RaftIncarnation) {
    let (peers, silent) = greet_peers(shared).await;
    let Some(leader) = peers.iter().find_map(|peer| peer.leader.clone()) else {
        let silent: Vec<String> = silent.into_iter().map(|(_, why)| why).collect();
        let waits = if silent.is_empty() {
            String::new()
        } else {
            format!("; silent: {}", silent.join(", "))
        };
        shared.set_situation(&format!(
            "has id {} and waits for the group to have a leader{waits}",
            incarnation.own.member
        ));
        return;
    };
    let request = JoinRequest {
        node: shared.node.clone(),
        understands: shared.around.understands,
        cluster_uuid: Some(incarnation.own.cluster_uuid.clone()),
        member: Some(incarnation.own.member),
    };
    match send_join(shared, &leader, &request).await {
        Ok(JoinAnswer::Pending | JoinAnswer::Allocated { .. }) => {}
        Ok(JoinAnswer::NotLeader { .. }) => shared.set_situation("waits for the group to have a leader, to be let in"),
        Ok(JoinAnswer::Refused { why }) | Err(why) => shared.set_situation(&format!("is not let in: {why}")),
    }
}

/// Whether a leader of this very group, proved by a quorum, says that this id is no member.
async fn is_removed(shared: &Arc<Shared>, incarnation: &RaftIncarnation) -> bool {
    let asked = shared.wanted_peers();
    let answers = join_all(asked.iter().map(|node| {
        let to = Recipient { node, member: None };
        shared
            .dialer
            .call::<_, MembershipAnswer>(to, "membership", &(), Some(&incarnation.own), ASK_DEADLINE)
    }));
    answers.await.into_iter().flatten().any(|answer| match answer {
        MembershipAnswer::Members { cluster_uuid, members } => {
            cluster_uuid == incarnation.own.cluster_uuid && !members.contains(&incarnation.own.member)
        }
        MembershipAnswer::NotLeader { .. } => false,
    })
}
