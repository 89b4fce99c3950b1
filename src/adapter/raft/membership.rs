//! Changes of the membership. The leader makes one change at a time: it adds a learner first, then one joint change adds the new id and
//! removes the old ids of the same name.
//!
//! A list names the wanted members. While it is empty, nothing is known and nothing changes. To add a new name or to remove a name, a
//! majority of the voters must have the same list, so that a configuration that is half rolled out causes no changes back and forth.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures::future::join_all;
use openraft::{ChangeMembers, ReadPolicy, ServerState};

use super::context::{MemberContext, RaftIncarnation};
use super::liveness::Metrics;
use super::network::Recipient;
use super::peer_requests::ASK_DEADLINE;
use super::proposals;
use super::types::MemberNode;
use super::wire::{Hello, JoinAnswer, JoinRequest, MembershipAnswer};
use crate::domain::state::record::MemberRecord;
use crate::domain::state::{Applied, Command, Group, MemberId};

/// A learner becomes a voter when it lacks at most this many entries.
const CLOSE_ENOUGH: u64 = 16;
/// Rounds between two requests of the leader to all members for their command version and data center.
const ROUNDS_BETWEEN_GREETINGS: u32 = 10;
/// Maximum number of members that wait for admission; more is a mistake or an attack.
const MAX_WAITING: usize = 32;

/// The running log, if this member leads.
fn leading(context: &MemberContext) -> Option<(Arc<RaftIncarnation>, Metrics)> {
    let incarnation = context.incarnation.load_full()?;
    let metrics = incarnation.metrics();
    (metrics.state == ServerState::Leader).then_some((incarnation, metrics))
}

// === answers of the leader ===

/// Answers the join request of a member.
pub(super) async fn answer_join(context: &Arc<MemberContext>, request: JoinRequest) -> JoinAnswer {
    let refused = |why: String| JoinAnswer::Refused { why };
    let Some((incarnation, metrics)) = leading(context) else {
        return JoinAnswer::NotLeader {
            leader: context.known_leader(),
        };
    };
    if let Some(uuid) = &request.cluster_uuid
        && *uuid != incarnation.own.cluster_uuid
    {
        return refused(format!(
            "{} was a member of group {uuid}, this is group {}",
            request.node.name, incarnation.own.cluster_uuid
        ));
    }
    if context.state.borrow().group.is_none() {
        return refused("the group is being founded".to_owned());
    }
    let name = &request.node.name;
    let needed = context.state.borrow().version;
    if request.understands < needed {
        return refused(format!(
            "{name} understands commands up to version {}, and the state needs {needed}: upgrade ham4db there",
            request.understands
        ));
    }
    if !context.wanted().iter().any(|wanted| wanted.name == *name) {
        return refused(format!("{name} is not in the leader's list of members"));
    }
    if let Some(member) = request.member {
        let mut waiting = context.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return refused(format!("too many members wait for admission (limit {MAX_WAITING})"));
        }
        waiting.insert(member, request.node);
        drop(waiting);
        context.membership_wanted.notify_one();
        return JoinAnswer::Pending;
    }
    let known = metrics.membership_config.nodes().any(|(_, node)| node.name == *name);
    if !known && !majority_has_same_list(context, &metrics).await {
        return refused(format!(
            "{name} is new, and a majority of the voters does not have the leader's list of members yet"
        ));
    }
    let above = metrics
        .membership_config
        .nodes()
        .map(|(id, _)| *id)
        .max()
        .unwrap_or_default();
    match proposals::propose(
        context,
        Command::AllocateMember {
            name: name.clone(),
            above,
        },
    )
    .await
    {
        Ok(Applied::Number { number }) => {
            let history = context.identity().map(|identity| identity.history).unwrap_or_default();
            JoinAnswer::Allocated {
                cluster_uuid: incarnation.own.cluster_uuid.clone(),
                history,
                member: number,
            }
        }
        Ok(other) => refused(format!("cannot allocate an id: {other}")),
        Err(error) => refused(format!("cannot allocate an id: {error}")),
    }
}

/// Answers with the members of the group, after a quorum confirmed that this member leads.
pub(super) async fn answer_members(context: &Arc<MemberContext>) -> MembershipAnswer {
    let not_leader = || MembershipAnswer::NotLeader {
        leader: context.known_leader(),
    };
    let Some((incarnation, _)) = leading(context) else {
        return not_leader();
    };
    let proof = incarnation.raft.ensure_linearizable(ReadPolicy::ReadIndex);
    match tokio::time::timeout(context.settings.timings.confirm, proof).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return not_leader(),
    }
    let metrics = incarnation.metrics();
    MembershipAnswer::Members {
        cluster_uuid: incarnation.own.cluster_uuid.clone(),
        // Both memberships: a change that is not committed yet may still add the member, or keep it.
        members: [&metrics.committed_membership_config, &metrics.membership_config]
            .into_iter()
            .flat_map(|membership| membership.nodes().map(|(id, _)| *id))
            .collect::<BTreeSet<MemberId>>()
            .into_iter()
            .collect(),
    }
}

// === the task of the leader ===

/// Changes the membership towards the list of wanted members while this member leads.
pub(super) async fn run_leader_rounds(context: &Arc<MemberContext>, incarnation: &Arc<RaftIncarnation>) {
    let mut greeted_at: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(context.settings.timings.peer_check_interval) => {}
            () = context.membership_wanted.notified() => {}
        }
        let metrics = incarnation.metrics();
        if metrics.state != ServerState::Leader {
            context.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            greeted_at = None;
            continue;
        }
        let pause = context.settings.timings.peer_check_interval * ROUNDS_BETWEEN_GREETINGS;
        let is_due = greeted_at.is_none_or(|at| at.elapsed() >= pause);
        if is_due {
            greeted_at = Some(Instant::now());
        }
        if let Err(why) = run_round(context, incarnation, &metrics, is_due).await
            && let Some(times) = context.throttle.admit(&why)
        {
            tracing::warn!(
                "failed to change the membership of group {}, will retry: {why}{times}",
                incarnation.own.cluster_uuid
            );
        }
    }
}

/// Makes at most one change of the membership. With `greets`, recorded members are asked again for their command version.
async fn run_round(
    context: &Arc<MemberContext>,
    incarnation: &Arc<RaftIncarnation>,
    metrics: &Metrics,
    greets: bool,
) -> Result<(), String> {
    if metrics.membership_config.get_joint_config().len() > 1 {
        // A former leader stopped between the two halves of a joint change.
        return change(
            incarnation,
            ChangeMembers::AddVoterIds(BTreeSet::new()),
            "finish a change",
        )
        .await;
    }
    record_group(context, incarnation, metrics).await?;
    record_members(context, metrics, greets).await?;
    let next = context
        .waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_first();
    if let Some((id, node)) = next {
        return admit(context, incarnation, id, node).await;
    }
    remove_unwanted(context, incarnation, metrics).await
}

async fn change(
    incarnation: &RaftIncarnation,
    change: ChangeMembers<MemberId, MemberNode>,
    what: &str,
) -> Result<(), String> {
    let text = change.to_string();
    incarnation
        .raft
        .change_membership(change, false)
        .await
        .map_err(|error| format!("cannot {what}: {error}"))?;
    tracing::info!(
        "membership of group {} changed: {what}: {text}",
        incarnation.own.cluster_uuid
    );
    Ok(())
}

/// Records the group in the state. Before that, the counter of ids is raised above the ids of the founders: a founder may be removed and
/// forgotten, and its id must not be reused. No other change is made before both are committed.
async fn record_group(
    context: &Arc<MemberContext>,
    incarnation: &RaftIncarnation,
    metrics: &Metrics,
) -> Result<(), String> {
    if context.state.borrow().group.is_some() {
        return Ok(());
    }
    let above = metrics
        .membership_config
        .nodes()
        .map(|(id, _)| *id)
        .max()
        .unwrap_or_default();
    let reserve = Command::AllocateMember {
        name: String::new(),
        above,
    };
    proposals::propose(context, reserve)
        .await
        .map_err(|error| format!("cannot reserve the founders' ids: {error}"))?;
    let history = context.identity().map(|identity| identity.history).unwrap_or_default();
    let group = Group {
        uuid: incarnation.own.cluster_uuid.clone(),
        history,
    };
    proposals::propose(context, Command::FoundGroup { group })
        .await
        .map(drop)
        .map_err(|error| format!("cannot record the group: {error}"))
}

/// Records the command version and the data center of each member. With `known_too`, recorded members are asked again: they may have been
/// restarted with another version, or in another place.
async fn record_members(context: &Arc<MemberContext>, metrics: &Metrics, known_too: bool) -> Result<(), String> {
    let present = context.state.borrow().clone();
    let requests = metrics
        .membership_config
        .nodes()
        .filter(|(id, _)| known_too || **id == metrics.id || !present.members.contains_key(id));
    let records = join_all(requests.map(|(id, node)| member_record(context, metrics.id, *id, node))).await;
    let records: Vec<MemberRecord> = records.into_iter().flatten().collect();
    // Twice: the data center of the first may be recorded only after the command versions of all are.
    for member in records.iter().chain(&records) {
        record(context, metrics, member.clone()).await?;
    }
    Ok(())
}

/// Writes the record of a member, unless it is unchanged. The data center is left out until all members are recorded and understand it.
async fn record(context: &MemberContext, metrics: &Metrics, mut member: MemberRecord) -> Result<(), String> {
    let id = member.id;
    let is_recorded = |other: &MemberId| *other == id || context.state.borrow().members.contains_key(other);
    let all_are_recorded = metrics.membership_config.nodes().all(|(other, _)| is_recorded(other));
    let hello = Command::AnnounceMember { member: member.clone() };
    if !all_are_recorded || proposals::version_refusal(context, metrics, &hello).is_some() {
        member.data_center.clear();
    }
    if context.state.borrow().members.get(&id) == Some(&member) {
        return Ok(());
    }
    proposals::propose(context, Command::AnnounceMember { member })
        .await
        .map(drop)
        .map_err(|error| format!("cannot record member {id}: {error}"))
}

/// The record that a member reports of itself; `None` when it does not answer, or when another member answers at its address.
async fn member_record(
    context: &MemberContext,
    own: MemberId,
    id: MemberId,
    node: &MemberNode,
) -> Option<MemberRecord> {
    let (understands, data_center) = if id == own {
        (context.dependencies.understands, context.settings.data_center.clone())
    } else {
        let to = Recipient { node, member: None };
        let request = context.dialer.call::<_, Hello>(to, "hello", &(), None, ASK_DEADLINE);
        let hello = request.await.ok().filter(|hello| hello.member == Some(id))?;
        (hello.understands, hello.data_center)
    };
    Some(MemberRecord {
        id,
        name: node.name.clone(),
        understands,
        data_center,
    })
}

async fn admit(
    context: &Arc<MemberContext>,
    incarnation: &Arc<RaftIncarnation>,
    id: MemberId,
    node: MemberNode,
) -> Result<(), String> {
    let metrics = incarnation.metrics();
    if metrics.membership_config.voter_ids().any(|voter| voter == id) {
        return Ok(());
    }
    let name = node.name.clone();
    let failed = |why: String| format!("cannot admit {name} as member {id}: {why}");
    let reported = member_record(context, metrics.id, id, &node).await;
    let reported =
        reported.ok_or_else(|| failed("it does not report the command version that it understands".to_owned()))?;
    record(context, &metrics, reported).await?;
    incarnation
        .raft
        .add_learner(id, node, false)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let close = |metrics: &Metrics| {
        let sent = metrics
            .replication
            .as_ref()
            .and_then(|replication| replication.get(&id))
            .copied()
            .flatten();
        let last = metrics.last_log_index.unwrap_or_default();
        metrics.state != ServerState::Leader
            || sent.is_some_and(|sent| sent.index().saturating_add(CLOSE_ENOUGH) >= last)
    };
    let catch_up_deadline = context.settings.timings.snapshot_transfer.saturating_mul(2);
    let metrics = incarnation
        .raft
        .wait(Some(catch_up_deadline))
        .metrics(close, "a learner catches up")
        .await
        .map_err(|error| failed(error.to_string()))?;
    let membership = &metrics.membership_config;
    let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
    let former: BTreeSet<MemberId> = membership
        .nodes()
        .filter(|(other, node)| **other != id && node.name == name)
        .map(|(other, _)| *other)
        .collect();
    let (old_voters, old_learners): (BTreeSet<MemberId>, BTreeSet<MemberId>) =
        former.into_iter().partition(|id| voters.contains(id));
    let mut changes = vec![ChangeMembers::AddVoterIds(BTreeSet::from([id]))];
    if !old_voters.is_empty() {
        changes.push(ChangeMembers::RemoveVoters(old_voters));
    }
    if !old_learners.is_empty() {
        changes.push(ChangeMembers::RemoveNodes(old_learners));
    }
    change(
        incarnation,
        ChangeMembers::Batch(changes),
        &format!("admit {name} as member {id}"),
    )
    .await
}

/// Removes one member with a name that is not in the list of wanted members, this one last.
async fn remove_unwanted(
    context: &Arc<MemberContext>,
    incarnation: &Arc<RaftIncarnation>,
    metrics: &Metrics,
) -> Result<(), String> {
    let wanted: BTreeSet<String> = context
        .dependencies
        .wanted
        .borrow()
        .iter()
        .map(|wanted| wanted.name.clone())
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let membership = &metrics.membership_config;
    let unwanted = membership.nodes().filter(|(_, node)| !wanted.contains(&node.name));
    let Some((id, node)) = unwanted.max_by_key(|(id, _)| (**id != incarnation.own.member, **id)) else {
        return Ok(());
    };
    let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
    if voters.len() == 1 && voters.contains(id) {
        return Err(format!(
            "{} is not in the list of members, but it is the last voter: it stays",
            node.name
        ));
    }
    if !majority_has_same_list(context, metrics).await {
        return Err(format!(
            "{} is not in the list of members, but a majority of the voters does not have that list yet",
            node.name
        ));
    }
    let ids = BTreeSet::from([*id]);
    let removal = if voters.contains(id) {
        ChangeMembers::RemoveVoters(ids)
    } else {
        ChangeMembers::RemoveNodes(ids)
    };
    change(
        incarnation,
        removal,
        &format!("remove {}, which is not in the list of members", node.name),
    )
    .await
}

/// Whether a majority of the voters, this one included, has the same list of wanted members as this one.
async fn majority_has_same_list(context: &Arc<MemberContext>, metrics: &Metrics) -> bool {
    let mut own: Vec<String> = context.wanted().into_iter().map(|wanted| wanted.name).collect();
    own.sort_unstable();
    let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
    let others: Vec<(MemberId, MemberNode)> = metrics
        .membership_config
        .nodes()
        .filter(|(id, _)| voters.contains(id) && **id != metrics.id)
        .map(|(id, node)| (*id, node.clone()))
        .collect();
    let requests = join_all(others.iter().map(|(_, node)| {
        context
            .dialer
            .call::<_, Hello>(Recipient { node, member: None }, "hello", &(), None, ASK_DEADLINE)
    }));
    let answers = requests.await;
    let same = others
        .iter()
        .zip(answers)
        .filter(|((id, _), answer)| {
            answer
                .as_ref()
                .is_ok_and(|hello| hello.member == Some(*id) && hello.wanted == own)
        })
        .count();
    (same + 1) * 2 > voters.len()
}
