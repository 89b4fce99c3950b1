//! Who is a member. Driven by the leader, one change at a time: a learner first, then one joint change that adds the new id and drops the
//! old ids of the same name.
//!
//! A list says who is wanted; when it is empty nothing is known and nothing changes. A name that is new, or no longer wanted, needs a
//! majority of the voters with the same list, so that a configuration rolled out half-way changes nothing back and forth.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::{ChangeMembers, ReadPolicy, ServerState};

use super::bootstrap::ASK_DEADLINE;
use super::consensus;
use super::health::Metrics;
use super::member::{RaftIncarnation, Shared};
use super::network::Recipient;
use super::types::MemberNode;
use super::wire::{Hello, JoinAnswer, JoinRequest, MembershipAnswer};
use crate::app::ports::Peer;
use crate::domain::state::record::MemberRecord;
use crate::domain::state::{Applied, Command, Group, MemberId};

/// A learner this close to the leader's last entry is made a voter.
const CLOSE_ENOUGH: u64 = 16;
/// A leader asks all members what they understand, and where they are, once in so many rounds.
const ROUNDS_BETWEEN_GREETINGS: u32 = 10;
/// Members that may wait to be let in at once; more is a mistake or an attack.
const MAX_WAITING: usize = 32;

/// Where a member is now: the wanted list knows better than the entry that admitted it.
pub(super) fn current_address(shared: &Shared, node: &MemberNode) -> MemberNode {
    let wanted = shared.around.wanted.borrow();
    let listed = wanted.iter().find(|wanted| wanted.name == node.name);
    MemberNode {
        name: node.name.clone(),
        raft_address: listed.map_or_else(|| node.raft_address.clone(), |wanted| wanted.raft_address.clone()),
        http_uri: listed
            .filter(|wanted| !wanted.http_uri.is_empty())
            .map_or_else(|| node.http_uri.clone(), |wanted| wanted.http_uri.clone()),
    }
}

/// A member of the current membership.
pub(super) fn peer(shared: &Shared, metrics: &Metrics, id: MemberId) -> Option<Peer> {
    let membership = &metrics.membership_config;
    let node = membership.get_node(&id)?;
    let voter = membership.voter_ids().any(|voter| voter == id);
    Some(current_address(shared, node).to_peer(id, voter))
}

/// The leader as this member knows it.
pub(super) fn known_leader(shared: &Shared) -> Option<MemberNode> {
    let leader = shared.leadership.borrow().leader.clone()?;
    Some(MemberNode {
        name: leader.name,
        raft_address: leader.raft_address,
        http_uri: leader.http_uri,
    })
}

fn metrics_of(incarnation: &RaftIncarnation) -> Metrics {
    incarnation.raft.metrics().borrow_watched().clone()
}

/// The running log, if this member leads.
fn leading(shared: &Shared) -> Option<(Arc<RaftIncarnation>, Metrics)> {
    let incarnation = shared.incarnation.load_full()?;
    let metrics = metrics_of(&incarnation);
    (metrics.state == ServerState::Leader).then_some((incarnation, metrics))
}

// === answers of the leader ===

/// Answers a member that asks to be let in.
pub(super) async fn answer_join(shared: &Arc<Shared>, request: JoinRequest) -> JoinAnswer {
    let refused = |why: String| JoinAnswer::Refused { why };
    let Some((incarnation, metrics)) = leading(shared) else {
        return JoinAnswer::NotLeader {
            leader: known_leader(shared),
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
    if shared.state.borrow().group.is_none() {
        return refused("the group is being founded".to_owned());
    }
    let name = &request.node.name;
    let needed = shared.state.borrow().version;
    if request.understands < needed {
        return refused(format!(
            "{name} understands commands up to version {}, and the state needs {needed}: upgrade ham4db there",
            request.understands
        ));
    }
    if !shared.wanted().iter().any(|wanted| wanted.name == *name) {
        return refused(format!("{name} is not in the leader's list of members"));
    }
    if let Some(member) = request.member {
        let mut waiting = shared.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            return refused("too many members wait to be let in".to_owned());
        }
        waiting.insert(member, request.node);
        drop(waiting);
        shared.membership_wanted.notify_one();
        return JoinAnswer::Pending;
    }
    let known = metrics.membership_config.nodes().any(|(_, node)| node.name == *name);
    if !known && !majority_has_same_list(shared, &metrics).await {
        return refused(format!(
            "{name} is new, and not a majority of the voters has the leader's list of members yet"
        ));
    }
    let above = metrics
        .membership_config
        .nodes()
        .map(|(id, _)| *id)
        .max()
        .unwrap_or_default();
    match consensus::propose(
        shared,
        Command::AllocateMember {
            name: name.clone(),
            above,
        },
    )
    .await
    {
        Ok(Applied::Number { number }) => {
            let history = shared.identity().map(|identity| identity.history).unwrap_or_default();
            JoinAnswer::Allocated {
                cluster_uuid: incarnation.own.cluster_uuid.clone(),
                history,
                member: number,
            }
        }
        Ok(other) => refused(format!("no id could be allocated: {other}")),
        Err(error) => refused(format!("no id could be allocated: {error}")),
    }
}

/// Answers who is a member, as a leader that has just proved to be one.
pub(super) async fn answer_members(shared: &Arc<Shared>) -> MembershipAnswer {
    let not_leader = || MembershipAnswer::NotLeader {
        leader: known_leader(shared),
    };
    let Some((incarnation, _)) = leading(shared) else {
        return not_leader();
    };
    let proof = incarnation.raft.ensure_linearizable(ReadPolicy::ReadIndex);
    match tokio::time::timeout(shared.settings.timings.confirm, proof).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return not_leader(),
    }
    let metrics = metrics_of(&incarnation);
    MembershipAnswer::Members {
        cluster_uuid: incarnation.own.cluster_uuid.clone(),
        // Both: a change that is not committed yet may still bring the member in, or keep it.
        members: [&metrics.committed_membership_config, &metrics.membership_config]
            .into_iter()
            .flat_map(|membership| membership.nodes().map(|(id, _)| *id))
            .collect::<BTreeSet<MemberId>>()
            .into_iter()
            .collect(),
    }
}

// === the leader's work ===

/// Brings the membership to what is wanted, while this member leads.
pub(super) async fn lead(shared: &Arc<Shared>, incarnation: &Arc<RaftIncarnation>) {
    let mut introduced: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(shared.settings.timings.look_around) => {}
            () = shared.membership_wanted.notified() => {}
        }
        let metrics = metrics_of(incarnation);
        if metrics.state != ServerState::Leader {
            shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
            introduced = None;
            continue;
        }
        let pause = shared.settings.timings.look_around * ROUNDS_BETWEEN_GREETINGS;
        let is_due = introduced.is_none_or(|at| at.elapsed() >= pause);
        if is_due {
            introduced = Some(Instant::now());
        }
        if let Err(why) = one_round(shared, incarnation, &metrics, is_due).await
            && let Some(times) = shared.throttle.admit(&why)
        {
            tracing::warn!("membership of group {}: {why}{times}", incarnation.own.cluster_uuid);
        }
    }
}

/// At most one change of the membership. With `greets` members that are on record are asked again what they understand.
async fn one_round(
    shared: &Arc<Shared>,
    incarnation: &Arc<RaftIncarnation>,
    metrics: &Metrics,
    greets: bool,
) -> Result<(), String> {
    if metrics.membership_config.get_joint_config().len() > 1 {
        // A former leader died between the two halves of a change.
        return change(
            incarnation,
            ChangeMembers::AddVoterIds(BTreeSet::new()),
            "finish a change",
        )
        .await;
    }
    name_group(shared, incarnation, metrics).await?;
    introduce(shared, metrics, greets).await?;
    let next = shared
        .waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_first();
    if let Some((id, node)) = next {
        return admit(shared, incarnation, id, node).await;
    }
    remove_unwanted(shared, incarnation, metrics).await
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
    tracing::info!("membership of group {}: {what}: {text}", incarnation.own.cluster_uuid);
    Ok(())
}

/// Names the group in the state. Before that, the counter of ids is raised above the founders': a founder may be removed and forgotten, and
/// its id must not come up again. Nothing else is changed before both are done.
async fn name_group(shared: &Arc<Shared>, incarnation: &RaftIncarnation, metrics: &Metrics) -> Result<(), String> {
    if shared.state.borrow().group.is_some() {
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
    consensus::propose(shared, reserve)
        .await
        .map_err(|error| format!("cannot reserve the founders' ids: {error}"))?;
    let history = shared.identity().map(|identity| identity.history).unwrap_or_default();
    let group = Group {
        uuid: incarnation.own.cluster_uuid.clone(),
        history,
    };
    consensus::propose(shared, Command::Found { group })
        .await
        .map(drop)
        .map_err(|error| format!("cannot name the group: {error}"))
}

/// Records what each member understands and where it is. Members that are on record are asked again now and then: they may have been
/// restarted with another version, or elsewhere.
async fn introduce(shared: &Arc<Shared>, metrics: &Metrics, known_too: bool) -> Result<(), String> {
    let present = shared.state.borrow().clone();
    let asked = metrics
        .membership_config
        .nodes()
        .filter(|(id, _)| known_too || **id == metrics.id || !present.members.contains_key(id));
    let told = join_all(asked.map(|(id, node)| tell_of(shared, metrics.id, *id, node))).await;
    let told: Vec<MemberRecord> = told.into_iter().flatten().collect();
    // Twice: with the last of them on record it is known what may be said of the first.
    for member in told.iter().chain(&told) {
        record(shared, metrics, member.clone()).await?;
    }
    Ok(())
}

/// Writes what a member said, unless it stands there. As long as somebody does not understand where members are, or has not said what it
/// understands, that is left away.
async fn record(shared: &Shared, metrics: &Metrics, mut member: MemberRecord) -> Result<(), String> {
    let id = member.id;
    let has_told = |other: &MemberId| *other == id || shared.state.borrow().members.contains_key(other);
    let all_have_told = metrics.membership_config.nodes().all(|(other, _)| has_told(other));
    let hello = Command::Hello { member: member.clone() };
    if !all_have_told || not_understood(shared, metrics, &hello).is_some() {
        member.data_center.clear();
    }
    if shared.state.borrow().members.get(&id) == Some(&member) {
        return Ok(());
    }
    consensus::propose(shared, Command::Hello { member })
        .await
        .map(drop)
        .map_err(|error| format!("cannot introduce member {id}: {error}"))
}

/// Why a command cannot be proposed: it is newer than what members understand, of the membership that is committed or of the one that is
/// about to be. A member that has not said yet what it understands holds nothing back: it is asked before it is let in, and a founder
/// within moments, but one that is down must not keep the others from repairing. It would stop with a sentence, at the worst.
pub(super) fn not_understood(shared: &Shared, metrics: &Metrics, command: &Command) -> Option<String> {
    let version = command.since();
    let state = shared.state.borrow();
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

/// What a member says of itself; `None` when it does not answer, or another one does at its address.
async fn tell_of(shared: &Shared, own: MemberId, id: MemberId, node: &MemberNode) -> Option<MemberRecord> {
    let (understands, data_center) = if id == own {
        (shared.around.understands, shared.settings.data_center.clone())
    } else {
        let to = Recipient { node, member: None };
        let asked = shared.dialer.call::<_, Hello>(to, "hello", &(), None, ASK_DEADLINE);
        let hello = asked.await.ok().filter(|hello| hello.member == Some(id))?;
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
    shared: &Arc<Shared>,
    incarnation: &Arc<RaftIncarnation>,
    id: MemberId,
    node: MemberNode,
) -> Result<(), String> {
    let metrics = metrics_of(incarnation);
    if metrics.membership_config.voter_ids().any(|voter| voter == id) {
        return Ok(());
    }
    let name = node.name.clone();
    let failed = |why: String| format!("cannot let {name} in as member {id}: {why}");
    let told = tell_of(shared, metrics.id, id, &node).await;
    let told = told.ok_or_else(|| failed("it does not say what it understands".to_owned()))?;
    record(shared, &metrics, told).await?;
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
    let patience = shared.settings.timings.snapshot_transfer.saturating_mul(2);
    let metrics = incarnation
        .raft
        .wait(Some(patience))
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
        &format!("let {name} in as member {id}"),
    )
    .await
}

/// Removes one member whose name is no longer wanted, this one last.
async fn remove_unwanted(
    shared: &Arc<Shared>,
    incarnation: &Arc<RaftIncarnation>,
    metrics: &Metrics,
) -> Result<(), String> {
    let wanted: BTreeSet<String> = shared
        .around
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
            "{} is not wanted any more, and is the last voter: it stays",
            node.name
        ));
    }
    if !majority_has_same_list(shared, metrics).await {
        return Err(format!(
            "{} is not wanted any more, but not a majority of the voters has that list yet",
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
        &format!("remove {}, which is not wanted any more", node.name),
    )
    .await
}

/// Whether a majority of the voters, this one included, wants the same members as this one.
async fn majority_has_same_list(shared: &Arc<Shared>, metrics: &Metrics) -> bool {
    let mut own: Vec<String> = shared.wanted().into_iter().map(|wanted| wanted.name).collect();
    own.sort_unstable();
    let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
    let others: Vec<(MemberId, MemberNode)> = metrics
        .membership_config
        .nodes()
        .filter(|(id, _)| voters.contains(id) && **id != metrics.id)
        .map(|(id, node)| (*id, node.clone()))
        .collect();
    let asked = join_all(others.iter().map(|(_, node)| {
        shared
            .dialer
            .call::<_, Hello>(Recipient { node, member: None }, "hello", &(), None, ASK_DEADLINE)
    }));
    let answers = asked.await;
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
