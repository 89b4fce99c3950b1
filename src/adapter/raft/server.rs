//! Peer RPC, incoming.
//!
//! The group key is checked before the body of a request is read, then the uuid of the group and the member id of the recipient. An
//! address that now belongs to another pod or another group must not take part in this group.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::bootstrap;
use super::context::{MemberContext, RaftIncarnation};
use super::membership;
use super::refusal::Refusal;
use super::snapshot::{SnapshotDocument, newer_command_in};
use super::types::{Snapshot, TypeConfig};
use super::wire::{ClockAnswer, GROUP_HEADER, Hello, KEY_HEADER, SENDER_NAME_HEADER, SnapshotTransfer, TARGET_HEADER};
use crate::app::ports::{ObservationRequest, Question};
use crate::app::supervision;

/// Maximum size of a request with entries or a snapshot: several times the size of a snapshot with all bounded lists full. The others have
/// the default of the framework, 2 MB.
const MAX_BODY: usize = 256 * 1024 * 1024;
/// Longest time for a request; peers wait less long.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);
/// Longest time until observations are sent. They are held back for less.
const OBSERVATIONS_DEADLINE: Duration = Duration::from_secs(2);

type Reply = Result<Response, Refusal>;

pub(super) fn router(context: Arc<MemberContext>) -> Router {
    Router::new()
        .route("/raft/append", post(append))
        .route("/raft/snapshot", post(snapshot))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route("/raft/vote", post(vote))
        .route("/raft/prevote", post(pre_vote))
        .route("/raft/transfer", post(transfer))
        .route("/raft/opinion", post(opinion))
        .route("/raft/observations", post(observations))
        .route("/raft/clock", post(clock))
        .route("/raft/hello", post(hello))
        .route("/raft/assign", post(assign))
        .route("/raft/join", post(join))
        .route("/raft/membership", post(members))
        .layer(middleware::from_fn(bound_duration))
        .layer(middleware::from_fn(catch_panics))
        .layer(middleware::from_fn_with_state(context.clone(), require_group_key))
        .with_state(context)
}

/// Ends a request that takes longer than [`REQUEST_DEADLINE`], also when its body arrives byte by byte.
async fn bound_duration(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_DEADLINE, next.run(request))
        .await
        .unwrap_or_else(|_| Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the request took too long").into_response())
}

/// Answers 500 when a handler panics. Without this, the panic would close the connection, and the peer would learn nothing.
async fn catch_panics(request: Request, next: Next) -> Response {
    let answer = supervision::catch(next.run(request)).await;
    answer.unwrap_or_else(|| internal_error("a request handler panicked").into_response())
}

/// Refuses requests without the group key, when one is configured.
async fn require_group_key(State(context): State<Arc<MemberContext>>, request: Request, next: Next) -> Response {
    match check_key(&context, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The value of a header, cut to a length that is safe to log.
fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.get(..128).unwrap_or(value)
}

fn check_key(context: &MemberContext, headers: &HeaderMap) -> Result<(), Refusal> {
    let sender = header_text(headers, SENDER_NAME_HEADER);
    if let Some(key) = &context.settings.group_key {
        let given = headers.get(KEY_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        if !bool::from(key.expose_secret().as_bytes().ct_eq(given)) {
            return Err(refuse(
                context,
                sender,
                StatusCode::UNAUTHORIZED,
                "the group key is missing or wrong",
            ));
        }
    }
    Ok(())
}

/// Checks the group and the recipient of a request; returns the running incarnation.
fn check_recipient(context: &MemberContext, headers: &HeaderMap) -> Result<Arc<RaftIncarnation>, Refusal> {
    let sender = header_text(headers, SENDER_NAME_HEADER);
    let Some(incarnation) = context.incarnation.load_full() else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, context.status()));
    };
    let group = header_text(headers, GROUP_HEADER);
    if group != incarnation.own.cluster_uuid {
        let why = format!(
            "this is a member of group {}, the request is for group {group:?}",
            incarnation.own.cluster_uuid
        );
        return Err(refuse(context, sender, StatusCode::CONFLICT, &why));
    }
    let target = header_text(headers, TARGET_HEADER);
    if target != incarnation.own.member.to_string() {
        let why = format!(
            "this is member {}, the request is for member {target:?}",
            incarnation.own.member
        );
        return Err(refuse(context, sender, StatusCode::MISDIRECTED_REQUEST, &why));
    }
    Ok(incarnation)
}

fn refuse(context: &MemberContext, sender: &str, status: StatusCode, why: &str) -> Refusal {
    if let Some(times) = context.throttle.admit(&format!("refused {sender}: {why}")) {
        tracing::warn!(
            "raft member {} refused a request of {sender:?}: {why}{times}",
            context.settings.name
        );
    }
    Refusal::new(status, why)
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("cannot parse the request: {error}")))
}

fn json<T: Serialize>(value: &T) -> Response {
    axum::Json(value).into_response()
}

fn internal_error(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("consensus failed on this member: {error}"),
    )
}

/// Refuses votes for one election timeout after the start: a leader from before the start may still rely on a former vote of this member.
fn check_may_vote(incarnation: &RaftIncarnation) -> Result<(), Refusal> {
    if Instant::now() < incarnation.no_votes_until {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "restarted less than one election timeout ago: no votes yet",
        ));
    }
    Ok(())
}

async fn append(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check_recipient(&context, &headers)?;
    let request: AppendEntriesRequest<TypeConfig> = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let newer = std::str::from_utf8(&body).ok().and_then(newer_command_in);
            let Some(why) = newer else {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!("cannot parse the request: {error}"),
                ));
            };
            // Continuing would make the state differ from that of the other members.
            context.fail(&why);
            stop_log(&incarnation);
            return Err(internal_error(why));
        }
    };
    let leader = request.vote.leader_id.voted_for;
    let leader_commit = request.leader_commit;
    let received = Instant::now();
    let response = incarnation.raft.append_entries(request).await.map_err(internal_error)?;
    if response.is_success() || response.is_conflict() {
        incarnation.liveness.heard(received, leader, leader_commit);
    }
    Ok(json(&response))
}

fn stop_log(incarnation: &Arc<RaftIncarnation>) {
    let incarnation = incarnation.clone();
    tokio::spawn(async move {
        if let Err(error) = incarnation.raft.shutdown().await {
            tracing::error!(
                "failed to stop the raft log of member {}: {error}",
                incarnation.own.member
            );
        }
    });
}

async fn vote(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check_recipient(&context, &headers)?;
    check_may_vote(&incarnation)?;
    let request: VoteRequest<TypeConfig> = parse(&body)?;
    Ok(json(&incarnation.raft.vote(request).await.map_err(internal_error)?))
}

async fn pre_vote(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check_recipient(&context, &headers)?;
    check_may_vote(&incarnation)?;
    let request: VoteRequest<TypeConfig> = parse(&body)?;
    Ok(json(&incarnation.raft.pre_vote(request).await.map_err(internal_error)?))
}

async fn transfer(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check_recipient(&context, &headers)?;
    check_may_vote(&incarnation)?;
    let request: TransferLeaderRequest<TypeConfig> = parse(&body)?;
    Ok(json(
        &incarnation
            .raft
            .handle_transfer_leader(request)
            .await
            .map_err(internal_error)?,
    ))
}

async fn snapshot(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check_recipient(&context, &headers)?;
    let transfer: SnapshotTransfer = parse(&body)?;
    let document = match SnapshotDocument::decode(transfer.document.as_bytes()) {
        Ok(document) => document,
        Err(error) => {
            context.fail(&error.to_string());
            stop_log(&incarnation);
            return Err(internal_error(error));
        }
    };
    let snapshot = Snapshot {
        meta: document.meta,
        snapshot: transfer.document.into_bytes(),
    };
    Ok(json(
        &incarnation
            .raft
            .install_full_snapshot(transfer.vote, snapshot)
            .await
            .map_err(internal_error)?,
    ))
}

async fn opinion(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    check_recipient(&context, &headers)?;
    let question: Question = parse(&body)?;
    let deadline = Duration::from_millis(question.millis);
    match tokio::time::timeout(deadline, context.dependencies.opinions.opinion(question)).await {
        Ok(opinion) => Ok(json(&opinion)),
        Err(_) => Err(Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "no opinion within the deadline of the question",
        )),
    }
}

async fn observations(State(context): State<Arc<MemberContext>>, headers: HeaderMap, body: Bytes) -> Reply {
    check_recipient(&context, &headers)?;
    let request: ObservationRequest = parse(&body)?;
    let Some(source) = &context.dependencies.observations else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "this member does not share its probes: ProbeSharing is off",
        ));
    };
    match tokio::time::timeout(OBSERVATIONS_DEADLINE, source.observations(request)).await {
        Ok(update) => Ok(json(&update)),
        Err(_) => Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "no observations in time")),
    }
}

async fn clock(State(context): State<Arc<MemberContext>>, headers: HeaderMap) -> Reply {
    check_recipient(&context, &headers)?;
    Ok(json(&ClockAnswer {
        at: context.dependencies.clock.own().wall(),
    }))
}

async fn hello(State(context): State<Arc<MemberContext>>) -> Reply {
    let identity = context.identity();
    let last_log = match context.incarnation.load_full() {
        Some(incarnation) => incarnation.log.last_log_id().await.map_err(internal_error)?,
        None => None,
    };
    let mut wanted: Vec<String> = context.wanted().into_iter().map(|wanted| wanted.name).collect();
    wanted.sort_unstable();
    Ok(json(&Hello {
        node: context.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        understands: context.dependencies.understands,
        data_center: context.settings.data_center.clone(),
        pristine: identity.is_none() && context.backend_group.is_none(),
        cluster_uuid: identity.as_ref().map(|identity| identity.cluster_uuid.clone()),
        member: identity.and_then(|identity| identity.member),
        last_log,
        backend_group: context.backend_group.clone(),
        leader: context.known_leader(),
        wanted,
    }))
}

async fn assign(State(context): State<Arc<MemberContext>>, body: Bytes) -> Reply {
    bootstrap::accept_assignment(&context, parse(&body)?).await?;
    Ok(json(&()))
}

async fn join(State(context): State<Arc<MemberContext>>, body: Bytes) -> Reply {
    Ok(json(&membership::answer_join(&context, parse(&body)?).await))
}

async fn members(State(context): State<Arc<MemberContext>>) -> Reply {
    Ok(json(&membership::answer_members(&context).await))
}
