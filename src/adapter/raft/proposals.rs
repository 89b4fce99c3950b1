//! Appends commands to the log, as far as all members understand them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};

use super::clock_comparison;
use super::context::{MemberContext, RaftIncarnation};
use super::liveness::Metrics;
use super::types::TypeConfig;
use crate::app::ports::{Clock as _, Peer, ProposeError};
use crate::domain::state::{Applied, Command, MemberId, Proposal};

/// Pause between two attempts while a new leader has no lease yet.
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// Appends a command and waits until this member has applied it.
///
/// # Errors
/// When this member does not lead or has stopped, when no quorum answers, or when a member does not understand the command.
pub(super) async fn propose(context: &MemberContext, command: Command) -> Result<Applied, ProposeError> {
    if let Some(why) = context.failure() {
        return Err(ProposeError::Stopped(why));
    }
    let Some(incarnation) = context.incarnation.load_full() else {
        return Err(ProposeError::NotLeader(None));
    };
    let metrics = incarnation.metrics();
    if metrics.state == ServerState::Leader
        && let Some(why) = version_refusal(context, &metrics, &command)
    {
        if let Some(times) = context.throttle.admit(&why) {
            tracing::warn!("command not proposed: {why}{times}");
        }
        return Err(ProposeError::NotUnderstood(why));
    }
    let what = command.name();
    let deadline = context.settings.timings.propose;
    let written = tokio::time::timeout(deadline, write(context, &incarnation, command)).await;
    written.unwrap_or_else(|_| {
        Err(ProposeError::OutcomeUnknown(format!(
            "{what} was not committed within {} ms",
            deadline.as_millis()
        )))
    })
}

async fn write(
    context: &MemberContext,
    incarnation: &RaftIncarnation,
    command: Command,
) -> Result<Applied, ProposeError> {
    clock_comparison::ensure(context, incarnation).await;
    let proposal = Proposal::new(context.dependencies.clock.wall(), command);
    // A leader has no lease right after its election. Openraft refuses before it appends anything, so a new attempt is safe.
    let give_up = Instant::now() + context.settings.timings.election_max;
    loop {
        let error = match incarnation.raft.client_write(proposal.clone()).await {
            Ok(response) => return Ok(response.data),
            Err(error) => error,
        };
        if is_lease_lost(&error) && Instant::now() < give_up {
            tokio::time::sleep(LEASE_PAUSE).await;
            continue;
        }
        return Err(refusal(context, incarnation, error));
    }
}

fn is_lease_lost(error: &RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> bool {
    matches!(error, RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) if forward.reason == ForwardReason::LeaseExpired)
}

fn refusal(
    context: &MemberContext,
    incarnation: &RaftIncarnation,
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
) -> ProposeError {
    match error {
        RaftError::Fatal(fatal) => ProposeError::Stopped(context.failure().unwrap_or_else(|| fatal.to_string())),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
            ForwardReason::LeaseExpired => {
                ProposeError::NoQuorum("no quorum has acknowledged this leader within its lease".to_owned())
            }
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                ProposeError::NotLeader(leader_of(context, incarnation, &forward))
            }
        },
        RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => {
            ProposeError::OutcomeUnknown(error.to_string())
        }
        RaftError::APIError(
            error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::NoQuorum(error.to_string()),
    }
}

/// The leader that openraft names in a refusal, unless it is this member.
pub(super) fn leader_of(
    context: &MemberContext,
    incarnation: &RaftIncarnation,
    forward: &ForwardToLeader<TypeConfig>,
) -> Option<Peer> {
    let leader = forward.leader_id.filter(|leader| *leader != incarnation.own.member)?;
    context.peer(&incarnation.metrics(), leader)
}

/// Why a command cannot be proposed: a member of the committed or of the pending membership does not understand it. A member without a
/// recorded command version prevents nothing. A new member is asked before it is admitted, and a founder within seconds, but a
/// founder that is down must not prevent repairs. At worst it exits with an explanatory error when it reads the entry.
pub(super) fn version_refusal(context: &MemberContext, metrics: &Metrics, command: &Command) -> Option<String> {
    let version = command.since();
    let state = context.state.borrow();
    let nodes = [&metrics.committed_membership_config, &metrics.membership_config];
    let members: BTreeSet<MemberId> = nodes
        .into_iter()
        .flat_map(|membership| membership.nodes().map(|(id, _)| *id))
        .collect();
    let behind: Vec<String> = members
        .iter()
        .filter_map(|id| state.members.get(id))
        .filter(|member| member.understands < version)
        .map(|member| format!("{} (up to {})", member.name, member.understands))
        .collect();
    (!behind.is_empty()).then(|| {
        format!(
            "{} needs command version {version}, which not all members understand; upgrade ham4db on {}",
            command.name(),
            behind.join(", ")
        )
    })
}
