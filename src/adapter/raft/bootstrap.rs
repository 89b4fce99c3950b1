//! How a group comes to be, once, and how a member without an id finds its group.
//!
//! Only the first of the sorted names may found, and only when every other founder says that it is pristine. Each step is durable before
//! the next begins, and a member that restarts goes on where `identity.json` says it was. See the design's section on consensus.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::force;
use super::identity::{IdentityPhase, MemberIdentity};
use super::member::{IncarnationEnd, Shared};
use super::network::Recipient;
use super::server::Refusal;
use super::settings::BootstrapStep;
use super::types::MemberNode;
use super::wire::{Assignment, Hello, JoinAnswer, JoinRequest};
use crate::domain::state::MemberId;

/// Where a person finds what to do when a group was founded and none of its logs is left.
pub const LOST_GROUP_HELP: &str = "see `Everything lost` in docs/operations.md";

/// For one question to a peer.
pub(super) const ASK_DEADLINE: Duration = Duration::from_secs(1);
/// For a leader to allocate an id: it commits an entry first.
const JOIN_DEADLINE: Duration = Duration::from_secs(6);

/// The marker's content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    cluster_uuid: String,
    history: String,
    founders: BTreeMap<MemberId, MemberNode>,
}

/// Asks all other wanted members who they are. Who does not answer is in the second list, with a reason.
pub(super) async fn greet_peers(shared: &Shared) -> (Vec<Hello>, Vec<(String, String)>) {
    let peers = shared.wanted_peers();
    let asked = join_all(peers.iter().map(|node| {
        shared
            .dialer
            .call::<_, Hello>(Recipient { node, member: None }, "hello", &(), None, ASK_DEADLINE)
    }));
    let mut answered = Vec::new();
    let mut silent = Vec::new();
    for (peer, answer) in peers.iter().zip(asked.await) {
        match answer {
            Ok(hello) if hello.node.name == peer.name => answered.push(hello),
            Ok(hello) => silent.push((
                peer.name.clone(),
                format!("at the address of {} answers {}", peer.name, hello.node.name),
            )),
            Err(error) => silent.push((peer.name.clone(), error.to_string())),
        }
    }
    (answered, silent)
}

/// For a member without an id: founds a group, is assigned an id by its founder, or is given one by a leader.
pub(super) async fn find_group(shared: &Arc<Shared>) -> io::Result<IncarnationEnd> {
    loop {
        if let Some(identity) = shared.identity()
            && identity.member.is_some()
        {
            return Ok(IncarnationEnd::Again);
        }
        if let Some(end) = look_for_group(shared).await? {
            return Ok(end);
        }
        force::refuse_without_log(shared);
        tokio::select! {
            () = shared.stop.cancelled() => return Ok(IncarnationEnd::Stopped),
            () = shared.standing_changed.notified() => {}
            () = tokio::time::sleep(shared.settings.timings.look_around) => {}
        }
    }
}

async fn look_for_group(shared: &Arc<Shared>) -> io::Result<Option<IncarnationEnd>> {
    let (peers, silent) = greet_peers(shared).await;
    let lost = shared.identity();
    if let Some(with_log) = peers.iter().find(|peer| peer.last_log.is_some()) {
        return ask_to_join(shared, with_log, lost.map(|identity| identity.cluster_uuid))
            .await
            .map(|()| None);
    }
    if let Some(lost) = lost {
        shared.set_situation(&format!(
            "is a member of group {} without a log, and no other member shows one yet; if that stays so the group is lost: {LOST_GROUP_HELP}",
            lost.cluster_uuid
        ));
        return Ok(None);
    }
    let own_name = &shared.settings.name;
    let founders = &shared.settings.founders;
    let first = founders.iter().map(|founder| &founder.name).min();
    if first != Some(own_name) {
        shared.set_situation(&format!(
            "waits for {} to found the group, or for a leader to join",
            first.map_or("nobody", String::as_str)
        ));
        return Ok(None);
    }
    if let Some(uuid) = &shared.backend_group {
        shared.set_situation(&format!(
            "its backend belongs to group {uuid}, so it may join that group and found no other"
        ));
        return Ok(None);
    }
    let is_founder = |name: &String| founders.iter().any(|founder| founder.name == *name);
    let missing: Vec<&str> = silent
        .iter()
        .filter(|(name, _)| is_founder(name))
        .map(|(_, why)| why.as_str())
        .collect();
    if !missing.is_empty() {
        shared.set_situation(&format!(
            "founds a group when all founders answer; waits for {}",
            missing.join(", ")
        ));
        return Ok(None);
    }
    if let Some(peer) = peers.iter().find(|peer| !peer.pristine) {
        shared.set_situation(&format!(
            "{} belongs to group {} and has no log; a new group is not founded beside it: if the group is lost for good, {LOST_GROUP_HELP}",
            peer.node.name,
            peer.cluster_uuid.as_deref().or(peer.backend_group.as_deref()).unwrap_or("?")
        ));
        return Ok(None);
    }
    decide_founding(shared, &peers).await.map(Some)
}

/// Decides everybody's id, and writes it down before anybody hears of it.
async fn decide_founding(shared: &Arc<Shared>, peers: &[Hello]) -> io::Result<IncarnationEnd> {
    let mut names: Vec<&str> = shared
        .settings
        .founders
        .iter()
        .map(|founder| founder.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let mut founders = BTreeMap::new();
    let mut own = 0;
    for (name, id) in names.iter().zip(1..) {
        let node = if *name == shared.settings.name {
            own = id;
            Some(shared.node.clone())
        } else {
            peers
                .iter()
                .map(|peer| &peer.node)
                .find(|node| node.name == *name)
                .cloned()
        };
        let node =
            node.ok_or_else(|| io::Error::other(format!("founder {name} is not in the list of wanted members")))?;
        founders.insert(id, node);
    }
    let _changing = shared.identity_change.lock().await;
    if shared.identity().is_some() {
        return Ok(IncarnationEnd::Again);
    }
    let (uuid, history) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let identity = MemberIdentity {
        founders,
        ..MemberIdentity::new(&uuid, &history, IdentityPhase::Founding, own)
    };
    shared.put_identity(identity)?;
    tracing::info!("raft member {} founds group {uuid}", shared.settings.name);
    Ok(if shared.passed(&BootstrapStep::IdentityWritten) {
        IncarnationEnd::Again
    } else {
        IncarnationEnd::Stopped
    })
}

/// The founder's steps before its own log begins: the marker, then everybody's id. `None`: the log may begin.
pub(super) async fn prepare_founding(
    shared: &Arc<Shared>,
    identity: &MemberIdentity,
) -> io::Result<Option<IncarnationEnd>> {
    if identity.phase != IdentityPhase::Founding {
        return Ok(None);
    }
    if !own_marker(shared, identity).await? {
        return Ok(Some(IncarnationEnd::Again));
    }
    if !shared.passed(&BootstrapStep::MarkerWritten) {
        return Ok(Some(IncarnationEnd::Stopped));
    }
    for (member, node) in identity
        .founders
        .iter()
        .filter(|(member, _)| identity.member != Some(**member))
    {
        let assignment = Assignment {
            cluster_uuid: identity.cluster_uuid.clone(),
            history: identity.history.clone(),
            member: *member,
            founders: identity.founders.clone(),
        };
        loop {
            let to = Recipient { node, member: None };
            match shared
                .dialer
                .call::<_, ()>(to, "assign", &assignment, None, ASK_DEADLINE)
                .await
            {
                Ok(()) => break,
                Err(error) => shared.set_situation(&format!(
                    "founds group {}; waits for {}: {error}",
                    identity.cluster_uuid, node.name
                )),
            }
            tokio::select! {
                () = shared.stop.cancelled() => return Ok(Some(IncarnationEnd::Stopped)),
                () = tokio::time::sleep(shared.settings.timings.look_around) => {}
            }
        }
        if !shared.passed(&BootstrapStep::PeerAssigned(*member)) {
            return Ok(Some(IncarnationEnd::Stopped));
        }
    }
    Ok(None)
}

/// Whether the marker outside of the members is ours. When it is not, this member may only join the group that it names.
async fn own_marker(shared: &Arc<Shared>, identity: &MemberIdentity) -> io::Result<bool> {
    let Some(marker) = &shared.around.marker else {
        return Ok(true);
    };
    let content = Marker {
        cluster_uuid: identity.cluster_uuid.clone(),
        history: identity.history.clone(),
        founders: identity.founders.clone(),
    };
    let text = serde_json::to_string(&content).map_err(io::Error::other)?;
    let found = marker.create_or_read(&text).await?;
    let found: Marker = serde_json::from_str(&found)
        .map_err(|error| io::Error::other(format!("the bootstrap marker is not understood: {error}")))?;
    if found.cluster_uuid == identity.cluster_uuid {
        return Ok(true);
    }
    tracing::warn!(
        "group {} was founded before: this member joins it and founds none",
        found.cluster_uuid
    );
    let _changing = shared.identity_change.lock().await;
    let other = MemberIdentity {
        cluster_uuid: found.cluster_uuid,
        history: found.history,
        ..identity.wiped()
    };
    shared.put_identity(other)?;
    Ok(false)
}

/// A founder gives this member its id.
pub(super) async fn accept_assignment(shared: &Arc<Shared>, assignment: Assignment) -> Result<(), Refusal> {
    let conflict = |why: String| Err(Refusal::new(StatusCode::CONFLICT, why));
    let _changing = shared.identity_change.lock().await;
    if shared.stop.is_cancelled() {
        return conflict("stopping".to_owned());
    }
    match shared.identity() {
        Some(present)
            if present.cluster_uuid == assignment.cluster_uuid && present.member == Some(assignment.member) =>
        {
            return Ok(());
        }
        Some(present) => return conflict(format!("already belongs to group {}", present.cluster_uuid)),
        None => {}
    }
    if let Some(uuid) = &shared.backend_group {
        return conflict(format!("the backend belongs to group {uuid}"));
    }
    match assignment.founders.get(&assignment.member) {
        Some(node) if node.name == shared.settings.name => {}
        Some(node) => return conflict(format!("this is {}, the id is for {}", shared.settings.name, node.name)),
        None => return conflict("the id is not among the founders".to_owned()),
    }
    let identity = MemberIdentity {
        founders: assignment.founders,
        ..MemberIdentity::new(
            &assignment.cluster_uuid,
            &assignment.history,
            IdentityPhase::Assigned,
            assignment.member,
        )
    };
    shared
        .put_identity(identity)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if !shared.passed(&BootstrapStep::AssignmentStored) {
        shared.stop.cancel();
        return conflict("stopping".to_owned());
    }
    shared.standing_changed.notify_one();
    Ok(())
}

/// Asks the group that `hello` belongs to for an id, and stores it.
async fn ask_to_join(shared: &Arc<Shared>, hello: &Hello, known: Option<String>) -> io::Result<()> {
    if let (Some(known), Some(found)) = (&known, &hello.cluster_uuid)
        && known != found
    {
        shared.set_situation(&format!(
            "was a member of group {known}, but {} is of group {found}",
            hello.node.name
        ));
        return Ok(());
    }
    if let (Some(backend), Some(found)) = (&shared.backend_group, &hello.cluster_uuid)
        && backend != found
    {
        shared.set_situation(&format!(
            "its backend belongs to group {backend}, the peers to group {found}: empty it, or give it another"
        ));
        return Ok(());
    }
    let request = JoinRequest {
        node: shared.node.clone(),
        understands: shared.around.understands,
        cluster_uuid: known.or_else(|| hello.cluster_uuid.clone()),
        member: None,
    };
    match send_join(shared, hello.leader.as_ref().unwrap_or(&hello.node), &request).await {
        Ok(JoinAnswer::Allocated {
            cluster_uuid,
            history,
            member,
        }) => {
            let _changing = shared.identity_change.lock().await;
            if shared.identity().is_some_and(|identity| identity.member.is_some()) {
                return Ok(());
            }
            tracing::info!(
                "raft member {} joins group {cluster_uuid} as member {member}",
                shared.settings.name
            );
            shared.put_identity(MemberIdentity::new(
                &cluster_uuid,
                &history,
                IdentityPhase::Assigned,
                member,
            ))
        }
        Ok(JoinAnswer::Pending) => Ok(()),
        Ok(JoinAnswer::NotLeader { .. }) => {
            shared.set_situation("waits for the group to have a leader, to join it");
            Ok(())
        }
        Ok(JoinAnswer::Refused { why }) => {
            shared.set_situation(&format!("the group does not let it in: {why}"));
            Ok(())
        }
        Err(why) => {
            shared.set_situation(&format!("cannot ask to join: {why}"));
            Ok(())
        }
    }
}

/// Asks `to`, and the leader that it names.
pub(super) async fn send_join(shared: &Shared, to: &MemberNode, request: &JoinRequest) -> Result<JoinAnswer, String> {
    let mut to = to.clone();
    for _ in 0..2 {
        let recipient = Recipient {
            node: &to,
            member: None,
        };
        let answer: JoinAnswer = shared
            .dialer
            .call(recipient, "join", request, None, JOIN_DEADLINE)
            .await
            .map_err(|error| error.to_string())?;
        match answer {
            JoinAnswer::NotLeader { leader: Some(leader) } => to = leader,
            JoinAnswer::NotLeader { leader: None }
            | JoinAnswer::Allocated { .. }
            | JoinAnswer::Pending
            | JoinAnswer::Refused { .. } => {
                return Ok(answer);
            }
        }
    }
    Ok(JoinAnswer::NotLeader { leader: None })
}
