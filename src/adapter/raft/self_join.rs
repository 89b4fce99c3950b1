//! The membership of this member: it requests admission until it is a voter, and detects that it was removed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use openraft::ServerState;

use super::context::{IncarnationEnd, MemberContext, RaftIncarnation};
use super::identity::{IdentityPhase, MemberIdentity};
use super::network::Recipient;
use super::peer_requests::{ASK_DEADLINE, greet_peers, send_join};
use super::settings::WantedMember;
use super::wire::{JoinAnswer, JoinRequest, MembershipAnswer};

/// Requests admission until this member is a voter, and ends the incarnation when it was removed.
pub(super) async fn join_until_removed(
    context: &Arc<MemberContext>,
    incarnation: &Arc<RaftIncarnation>,
) -> IncarnationEnd {
    loop {
        if let Some(end) = check_own_membership(context, incarnation).await {
            return end;
        }
        tokio::time::sleep(context.settings.timings.peer_check_interval).await;
    }
}

/// Interval at which a leaving member checks whether it was removed.
const LEAVE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the group has removed this member, if the list of wanted members lacks it. When two of three voters ended at the same
/// moment, the quorum would be lost, and with it the possibility to remove them.
///
/// Returns at once when the member is wanted or the list is unknown. `false`: it is still a voter after the deadline.
pub(super) async fn leave(context: &Arc<MemberContext>, deadline: Duration) -> bool {
    let is_unwanted = |wanted: &Vec<WantedMember>| {
        !wanted.is_empty() && wanted.iter().all(|wanted| wanted.name != context.settings.name)
    };
    let Some(incarnation) = context
        .incarnation
        .load_full()
        .filter(|_| is_unwanted(&context.dependencies.wanted.borrow()))
    else {
        return true;
    };
    let own = incarnation.own.member;
    let has_left = async {
        let mut ticks = tokio::time::interval(LEAVE_CHECK_INTERVAL);
        loop {
            ticks.tick().await;
            let metrics = incarnation.metrics();
            let is_over = context
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

async fn check_own_membership(
    context: &Arc<MemberContext>,
    incarnation: &Arc<RaftIncarnation>,
) -> Option<IncarnationEnd> {
    let identity = context.identity()?;
    let metrics = incarnation.metrics();
    if identity.phase == IdentityPhase::Joining {
        match is_voter_in_log(incarnation).await {
            Some(true) => {
                let _changing = context.identity_change.lock().await;
                if let Err(error) = context.put_identity(MemberIdentity {
                    phase: IdentityPhase::Member,
                    ..identity
                }) {
                    return Some(IncarnationEnd::Failed(error.to_string()));
                }
            }
            Some(false) => request_admission(context, incarnation).await,
            None => {}
        }
        return None;
    }
    let voter = metrics
        .committed_membership_config
        .voter_ids()
        .any(|voter| voter == incarnation.own.member);
    let silence = incarnation.liveness.silence(Instant::now());
    let heard = silence.is_some_and(|silence| silence < context.settings.timings.election_max * 3);
    if metrics.state == ServerState::Leader || (voter && heard) {
        return None;
    }
    let removed = is_removed(context, incarnation).await;
    removed.then_some(IncarnationEnd::Removed(identity))
}

/// Whether the last membership in the log of this member has it as a voter. The metrics cannot answer this: they are empty at first, and a
/// member that was removed while it was down would request admission again under its old id.
async fn is_voter_in_log(incarnation: &RaftIncarnation) -> Option<bool> {
    let own = incarnation.own.member;
    incarnation
        .raft
        .with_raft_state(move |state| state.membership_state.effective().voter_ids().any(|voter| voter == own))
        .await
        .ok()
}

async fn request_admission(context: &Arc<MemberContext>, incarnation: &RaftIncarnation) {
    let (peers, silent) = greet_peers(context).await;
    let Some(leader) = peers.iter().find_map(|peer| peer.leader.clone()) else {
        let silent: Vec<String> = silent.into_iter().map(|(_, why)| why).collect();
        let waits = if silent.is_empty() {
            String::new()
        } else {
            format!("; silent: {}", silent.join(", "))
        };
        context.set_status(&format!(
            "has id {} and waits for the group to have a leader{waits}",
            incarnation.own.member
        ));
        return;
    };
    let request = JoinRequest {
        node: context.node.clone(),
        understands: context.dependencies.understands,
        cluster_uuid: Some(incarnation.own.cluster_uuid.clone()),
        member: Some(incarnation.own.member),
    };
    match send_join(context, &leader, &request).await {
        Ok(JoinAnswer::Pending | JoinAnswer::Allocated { .. }) => {}
        Ok(JoinAnswer::NotLeader { .. }) => context.set_status("waits for the group to have a leader, to be admitted"),
        Ok(JoinAnswer::Refused { why }) | Err(why) => context.set_status(&format!("is not admitted: {why}")),
    }
}

/// Whether a leader of this group, confirmed by a quorum, answers that this id is not a member.
async fn is_removed(context: &Arc<MemberContext>, incarnation: &RaftIncarnation) -> bool {
    let peers = context.wanted_peers();
    let answers = join_all(peers.iter().map(|node| {
        let to = Recipient { node, member: None };
        context
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
