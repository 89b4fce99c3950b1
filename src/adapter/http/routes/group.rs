//! Health, leadership and the group: answered by every member itself.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::app::ports::{Health, Leadership};

use crate::adapter::http::context::Shared;
use crate::adapter::http::reply::{Enveloped, Failure, Reply, success};
use crate::adapter::http::shape::health::{HealthStatus, Process, RaftStatus};

/// The process serves requests. Reads nothing.
pub(crate) async fn ok() -> Json<&'static str> {
    Json("OK")
}

/// 200 on the leader, 404 elsewhere.
pub(crate) async fn leader_check(State(shared): State<Shared>) -> Response {
    answer_leader_check(&shared, StatusCode::NOT_FOUND).await
}

/// 200 on the leader, elsewhere the requested code, or 404 when it is not a valid code.
pub(crate) async fn leader_check_with(State(shared): State<Shared>, Path(code): Path<String>) -> Response {
    // Codes below 200 are interim responses: a client would wait for the final one.
    let status = code
        .parse::<u16>()
        .ok()
        .filter(|code| *code >= 200)
        .and_then(|code| StatusCode::from_u16(code).ok());
    answer_leader_check(&shared, status.unwrap_or(StatusCode::NOT_FOUND)).await
}

async fn answer_leader_check(shared: &Shared, otherwise: StatusCode) -> Response {
    if shared.leader_proof.leads(shared.app.consensus.as_ref()).await {
        Json("OK").into_response()
    } else {
        (otherwise, Json("Not leader")).into_response()
    }
}

/// The health of this member with what it knows of the group: 200 or 500.
pub(crate) async fn health(State(shared): State<Shared>) -> Response {
    let consensus = shared.app.consensus.as_ref();
    let health = consensus.health();
    let leadership = consensus.leadership().borrow().clone();
    let process = Process {
        started: shared.started,
        now: shared.app.clock.wall(),
        backend: &shared.app.options.backend,
        clocks: shared.app.clock.comparison(),
        lateness: shared.app.api.lateness(),
        probe_shares: shared.app.api.probe_shares(),
    };
    let status = HealthStatus::of(consensus, &leadership, &health, &process);
    match health {
        Health::Healthy => success("Application node is healthy", status).into_response(),
        Health::Unhealthy(why) => Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("Application node is unhealthy: {why}"),
        )
        .with_details(status)
        .into_response(),
    }
}

/// How long a handover may take.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(5);

/// The leader hands over to another member. Answers with its name, which may not be known yet. Recoveries in progress are continued there.
pub(crate) async fn reelect(State(shared): State<Shared>) -> Enveloped<String> {
    let consensus = shared.app.consensus.as_ref();
    consensus.hand_over(HAND_OVER_DEADLINE).await;
    let leadership = consensus.leadership().borrow().clone();
    if leadership.is_leader {
        return Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "reelect: no other member took over, and this one still leads",
        ));
    }
    let me = consensus.me().id;
    let next = leadership.leader.filter(|leader| leader.id != me);
    Ok(success(
        "Set re-elections",
        next.map(|leader| leader.name).unwrap_or_default(),
    ))
}

fn in_raft(shared: &Shared, route: &str) -> Result<Leadership, Failure> {
    if shared.app.consensus.is_raft() {
        Ok(shared.app.consensus.leadership().borrow().clone())
    } else {
        Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{route}: not running with raft setup"),
        ))
    }
}

fn state_name(leadership: &Leadership) -> &'static str {
    match (leadership.is_leader, &leadership.leader) {
        (true, _) => "Leader",
        (false, Some(_)) => "Follower",
        (false, None) => "Candidate",
    }
}

fn leader_address(leadership: &Leadership) -> String {
    leadership
        .leader
        .as_ref()
        .map(|leader| leader.raft_address.clone())
        .unwrap_or_default()
}

pub(crate) async fn raft_state(State(shared): State<Shared>) -> Reply<&'static str> {
    Ok(Json(state_name(&in_raft(&shared, "raft-state")?)))
}

pub(crate) async fn raft_leader(State(shared): State<Shared>) -> Reply<String> {
    Ok(Json(leader_address(&in_raft(&shared, "raft-leader")?)))
}

pub(crate) async fn raft_peers(State(shared): State<Shared>) -> Reply<Vec<String>> {
    in_raft(&shared, "raft-peers")?;
    Ok(Json(
        shared
            .app
            .consensus
            .peers()
            .into_iter()
            .map(|peer| peer.raft_address)
            .collect(),
    ))
}

pub(crate) async fn raft_status(State(shared): State<Shared>) -> Reply<RaftStatus> {
    let leadership = in_raft(&shared, "raft-status")?;
    let consensus = shared.app.consensus.as_ref();
    let healthy = consensus.health() == Health::Healthy;
    Ok(Json(RaftStatus {
        raft_bind: shared.app.options.raft_bind.clone(),
        raft_advertise: consensus.me().raft_address,
        state: state_name(&leadership),
        healthy,
        is_part_of_quorum: healthy && leadership.leader.is_some(),
        leader: leader_address(&leadership),
        leader_uri: leadership
            .leader
            .as_ref()
            .map(|leader| leader.http_uri.clone())
            .unwrap_or_default(),
        peers: consensus.peers().into_iter().map(|peer| peer.raft_address).collect(),
    }))
}

/// Whether this member may receive traffic: for readiness probes and load balancers.
pub(crate) async fn raft_health(State(shared): State<Shared>) -> Reply<&'static str> {
    in_raft(&shared, "raft-health")?;
    match shared.app.consensus.health() {
        Health::Healthy => Ok(Json("healthy")),
        Health::Unhealthy(why) => Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("unhealthy: {why}"),
        )),
    }
}
