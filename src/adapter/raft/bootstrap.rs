//! Founds a group once, and finds the group of a member without an id.
//!
//! Only the first of the sorted founders may found a group, and only when every other founder reports that it is pristine. Each step is
//! durable before the next one begins. A member that restarts continues at the step in `identity.json`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::context::{IncarnationEnd, MemberContext};
use super::force;
use super::identity::{IdentityPhase, MemberIdentity};
use super::network::Recipient;
use super::peer_requests::{ASK_DEADLINE, greet_peers, send_join};
use super::refusal::Refusal;
use super::settings::BootstrapStep;
use super::types::MemberNode;
use super::wire::{Assignment, Hello, JoinAnswer, JoinRequest};
use crate::domain::state::MemberId;

/// Points to the instructions for a group of which no log is left.
pub const LOST_GROUP_HELP: &str = "see `Everything lost` in docs/operations.md";

/// The content of the marker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    cluster_uuid: String,
    history: String,
    founders: BTreeMap<MemberId, MemberNode>,
}

/// For a member without an id: founds a group, or waits for an id from the founder or from a leader.
pub(super) async fn find_group(context: &Arc<MemberContext>) -> io::Result<IncarnationEnd> {
    loop {
        if let Some(identity) = context.identity()
            && identity.member.is_some()
        {
            return Ok(IncarnationEnd::Restart);
        }
        if let Some(end) = try_find_group(context).await? {
            return Ok(end);
        }
        force::refuse_without_log(context);
        tokio::select! {
            () = context.stop.cancelled() => return Ok(IncarnationEnd::Stopped),
            () = context.identity_changed.notified() => {}
            () = tokio::time::sleep(context.settings.timings.peer_check_interval) => {}
        }
    }
}

async fn try_find_group(context: &Arc<MemberContext>) -> io::Result<Option<IncarnationEnd>> {
    let (peers, silent) = greet_peers(context).await;
    let former = context.identity();
    if let Some(with_log) = peers.iter().find(|peer| peer.last_log.is_some()) {
        return request_join(context, with_log, former.map(|identity| identity.cluster_uuid))
            .await
            .map(|()| None);
    }
    if let Some(former) = former {
        context.set_status(&format!(
            "is a member of group {} without a log, and no other member has shown one yet; if this persists, the group is lost: {LOST_GROUP_HELP}",
            former.cluster_uuid
        ));
        return Ok(None);
    }
    let own_name = &context.settings.name;
    let founders = &context.settings.founders;
    let first = founders.iter().map(|founder| &founder.name).min();
    if first != Some(own_name) {
        context.set_status(&format!(
            "waits for {} to found the group, or for a leader to join",
            first.map_or("the first founder", String::as_str)
        ));
        return Ok(None);
    }
    if let Some(uuid) = &context.backend_group {
        context.set_status(&format!(
            "its backend belongs to group {uuid}: it can join that group, but cannot found another"
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
        context.set_status(&format!(
            "will found the group when all founders answer; waits for {}",
            missing.join(", ")
        ));
        return Ok(None);
    }
    if let Some(peer) = peers.iter().find(|peer| !peer.pristine) {
        context.set_status(&format!(
            "{} belongs to group {} and has no log; a new group is not founded beside it: if the group is lost for good, {LOST_GROUP_HELP}",
            peer.node.name,
            peer.cluster_uuid.as_deref().or(peer.backend_group.as_deref()).unwrap_or("?")
        ));
        return Ok(None);
    }
    decide_founding(context, &peers).await.map(Some)
}

/// Assigns an id to each founder, and writes the ids to disk before they are sent.
async fn decide_founding(context: &Arc<MemberContext>, peers: &[Hello]) -> io::Result<IncarnationEnd> {
    let mut names: Vec<&str> = context
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
        let node = if *name == context.settings.name {
            own = id;
            Some(context.node.clone())
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
    let _changing = context.identity_change.lock().await;
    if context.identity().is_some() {
        return Ok(IncarnationEnd::Restart);
    }
    let (uuid, history) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let identity = MemberIdentity {
        founders,
        ..MemberIdentity::new(&uuid, &history, IdentityPhase::Founding, own)
    };
    context.put_identity(identity)?;
    tracing::info!("raft member {} founds group {uuid}", context.settings.name);
    Ok(if context.passed(&BootstrapStep::IdentityWritten) {
        IncarnationEnd::Restart
    } else {
        IncarnationEnd::Stopped
    })
}

/// The founder's steps before its own log begins: the marker, then the ids of the other founders. `None`: the log may begin.
pub(super) async fn prepare_founding(
    context: &Arc<MemberContext>,
    identity: &MemberIdentity,
) -> io::Result<Option<IncarnationEnd>> {
    if identity.phase != IdentityPhase::Founding {
        return Ok(None);
    }
    if !claim_marker(context, identity).await? {
        return Ok(Some(IncarnationEnd::Restart));
    }
    if !context.passed(&BootstrapStep::MarkerWritten) {
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
            match context
                .dialer
                .call::<_, ()>(to, "assign", &assignment, None, ASK_DEADLINE)
                .await
            {
                Ok(()) => break,
                Err(error) => context.set_status(&format!(
                    "founds group {}; waits for {}: {error}",
                    identity.cluster_uuid, node.name
                )),
            }
            tokio::select! {
                () = context.stop.cancelled() => return Ok(Some(IncarnationEnd::Stopped)),
                () = tokio::time::sleep(context.settings.timings.peer_check_interval) => {}
            }
        }
        if !context.passed(&BootstrapStep::PeerAssigned(*member)) {
            return Ok(Some(IncarnationEnd::Stopped));
        }
    }
    Ok(None)
}

/// Creates the marker outside of the members, or reads it. `false`: it names another group, and this member may only join that group.
async fn claim_marker(context: &Arc<MemberContext>, identity: &MemberIdentity) -> io::Result<bool> {
    let Some(marker) = &context.dependencies.marker else {
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
        .map_err(|error| io::Error::other(format!("cannot parse the bootstrap marker: {error}")))?;
    if found.cluster_uuid == identity.cluster_uuid {
        return Ok(true);
    }
    tracing::warn!(
        "group {} already exists: this member joins it and founds no other group",
        found.cluster_uuid
    );
    let _changing = context.identity_change.lock().await;
    let other = MemberIdentity {
        cluster_uuid: found.cluster_uuid,
        history: found.history,
        ..identity.wiped()
    };
    context.put_identity(other)?;
    Ok(false)
}

/// Stores the id that a founder assigned to this member.
pub(super) async fn accept_assignment(context: &Arc<MemberContext>, assignment: Assignment) -> Result<(), Refusal> {
    let conflict = |why: String| Err(Refusal::new(StatusCode::CONFLICT, why));
    let _changing = context.identity_change.lock().await;
    if context.stop.is_cancelled() {
        return conflict("stopping".to_owned());
    }
    match context.identity() {
        Some(present)
            if present.cluster_uuid == assignment.cluster_uuid && present.member == Some(assignment.member) =>
        {
            return Ok(());
        }
        Some(present) => return conflict(format!("already belongs to group {}", present.cluster_uuid)),
        None => {}
    }
    if let Some(uuid) = &context.backend_group {
        return conflict(format!("the backend belongs to group {uuid}"));
    }
    match assignment.founders.get(&assignment.member) {
        Some(node) if node.name == context.settings.name => {}
        Some(node) => {
            return conflict(format!(
                "this is {}, the id is for {}",
                context.settings.name, node.name
            ));
        }
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
    context
        .put_identity(identity)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    if !context.passed(&BootstrapStep::AssignmentStored) {
        context.stop.cancel();
        return conflict("stopping".to_owned());
    }
    context.identity_changed.notify_one();
    Ok(())
}

/// Requests an id from the group of `hello`, and stores it.
async fn request_join(context: &Arc<MemberContext>, hello: &Hello, known: Option<String>) -> io::Result<()> {
    if let (Some(known), Some(found)) = (&known, &hello.cluster_uuid)
        && known != found
    {
        context.set_status(&format!(
            "was a member of group {known}, but {} is of group {found}",
            hello.node.name
        ));
        return Ok(());
    }
    if let (Some(backend), Some(found)) = (&context.backend_group, &hello.cluster_uuid)
        && backend != found
    {
        context.set_status(&format!(
            "its backend belongs to group {backend}, the peers to group {found}: empty the backend, or configure another"
        ));
        return Ok(());
    }
    let request = JoinRequest {
        node: context.node.clone(),
        understands: context.dependencies.understands,
        cluster_uuid: known.or_else(|| hello.cluster_uuid.clone()),
        member: None,
    };
    match send_join(context, hello.leader.as_ref().unwrap_or(&hello.node), &request).await {
        Ok(JoinAnswer::Allocated {
            cluster_uuid,
            history,
            member,
        }) => {
            let _changing = context.identity_change.lock().await;
            if context.identity().is_some_and(|identity| identity.member.is_some()) {
                return Ok(());
            }
            tracing::info!(
                "raft member {} joins group {cluster_uuid} as member {member}",
                context.settings.name
            );
            context.put_identity(MemberIdentity::new(
                &cluster_uuid,
                &history,
                IdentityPhase::Assigned,
                member,
            ))
        }
        Ok(JoinAnswer::Pending) => Ok(()),
        Ok(JoinAnswer::NotLeader { .. }) => {
            context.set_status("waits for the group to have a leader, to join it");
            Ok(())
        }
        Ok(JoinAnswer::Refused { why }) => {
            context.set_status(&format!("the group refuses to admit it: {why}"));
            Ok(())
        }
        Err(why) => {
            context.set_status(&format!("failed to request admission: {why}"));
            Ok(())
        }
    }
}
