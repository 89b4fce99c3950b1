//! Peer RPC, incoming.
//!
//! The group key is checked before a request's body is read; then the group's uuid and the id that is meant. An address that belongs to
//! another pod or another group by now must not take part in this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::member::{RaftIncarnation, Shared};
use super::snapshot::{SnapshotDocument, too_new};
use super::types::{Snapshot, TypeConfig};
use super::wire::{GROUP_HEADER, Hello, KEY_HEADER, SENDER_NAME_HEADER, SnapshotTransfer, TARGET_HEADER};
use super::{bootstrap, membership};
use crate::app::ports::Question;

/// The largest request: a snapshot with every bounded list full, several times over.
const MAX_BODY: usize = 256 * 1024 * 1024;

type Reply = Result<Response, Refusal>;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    why: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.why).into_response();
        // Whoever reached the wrong member has to resolve the name again, which it does on a new connection.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/raft/append", post(append))
        .route("/raft/vote", post(vote))
        .route("/raft/prevote", post(pre_vote))
        .route("/raft/transfer", post(transfer))
        .route("/raft/snapshot", post(snapshot))
        .route("/raft/opinion", post(opinion))
        .route("/raft/hello", post(hello))
        .route("/raft/assign", post(assign))
        .route("/raft/join", post(join))
        .route("/raft/membership", post(members))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets in who has the key.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match check_key(&shared, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A header's value, short enough for a log line whoever sent it.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.get(..128).unwrap_or(value)
}

fn check_key(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    let sender = text(headers, SENDER_NAME_HEADER);
    if let Some(key) = &shared.settings.group_key {
        let given = headers.get(KEY_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        if !bool::from(key.expose_secret().as_bytes().ct_eq(given)) {
            return Err(refuse(
                shared,
                sender,
                StatusCode::UNAUTHORIZED,
                "the group key is missing or wrong",
            ));
        }
    }
    Ok(())
}

/// Checks group and member; returns the life that the request is for.
fn check(shared: &Shared, headers: &HeaderMap) -> Result<Arc<RaftIncarnation>, Refusal> {
    let sender = text(headers, SENDER_NAME_HEADER);
    let Some(incarnation) = shared.incarnation.load_full() else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, shared.situation()));
    };
    let group = text(headers, GROUP_HEADER);
    if group != incarnation.own.cluster_uuid {
        let why = format!(
            "this is a member of group {}, the request is for group {group:?}",
            incarnation.own.cluster_uuid
        );
        return Err(refuse(shared, sender, StatusCode::CONFLICT, &why));
    }
    let target = text(headers, TARGET_HEADER);
    if target != incarnation.own.member.to_string() {
        let why = format!(
            "this is member {}, the request is for member {target:?}",
            incarnation.own.member
        );
        return Err(refuse(shared, sender, StatusCode::MISDIRECTED_REQUEST, &why));
    }
    Ok(incarnation)
}

fn refuse(shared: &Shared, sender: &str, status: StatusCode, why: &str) -> Refusal {
    if let Some(times) = shared.throttle.admit(&format!("refused {sender}: {why}")) {
        tracing::warn!(
            "raft member {} refuses a request of {sender:?}: {why}{times}",
            shared.settings.name
        );
    }
    Refusal::new(status, why)
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the request is not understood: {error}"),
        )
    })
}

fn json<T: Serialize>(value: &T) -> Response {
    axum::Json(value).into_response()
}

fn broken(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("consensus does not work here: {error}"),
    )
}

/// No vote for one election timeout after the start: a leader from before it may still count on this member's former promise.
fn check_not_quiet(incarnation: &RaftIncarnation) -> Result<(), Refusal> {
    if Instant::now() < incarnation.quiet_until {
        return Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "restarted less than one election timeout ago: no votes yet",
        ));
    }
    Ok(())
}

async fn append(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check(&shared, &headers)?;
    let request: AppendEntriesRequest<TypeConfig> = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            let newer = std::str::from_utf8(&body).ok().and_then(too_new);
            let Some(sentence) = newer else {
                return Err(Refusal::new(
                    StatusCode::BAD_REQUEST,
                    format!("the request is not understood: {error}"),
                ));
            };
            // Going on would mean a state that differs from everybody else's.
            shared.fail(&sentence);
            stop_log(&incarnation);
            return Err(broken(sentence));
        }
    };
    let leader = request.vote.leader_id.voted_for;
    let leader_commit = request.leader_commit;
    let received = Instant::now();
    let response = incarnation.raft.append_entries(request).await.map_err(broken)?;
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
                "the raft log of member {} does not stop: {error}",
                incarnation.own.member
            );
        }
    });
}

async fn vote(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check(&shared, &headers)?;
    check_not_quiet(&incarnation)?;
    let request: VoteRequest<TypeConfig> = parse(&body)?;
    Ok(json(&incarnation.raft.vote(request).await.map_err(broken)?))
}

async fn pre_vote(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check(&shared, &headers)?;
    check_not_quiet(&incarnation)?;
    let request: VoteRequest<TypeConfig> = parse(&body)?;
    Ok(json(&incarnation.raft.pre_vote(request).await.map_err(broken)?))
}

async fn transfer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check(&shared, &headers)?;
    check_not_quiet(&incarnation)?;
    let request: TransferLeaderRequest<TypeConfig> = parse(&body)?;
    Ok(json(
        &incarnation.raft.handle_transfer_leader(request).await.map_err(broken)?,
    ))
}

async fn snapshot(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    let incarnation = check(&shared, &headers)?;
    let transfer: SnapshotTransfer = parse(&body)?;
    let document = match SnapshotDocument::decode(transfer.document.as_bytes()) {
        Ok(document) => document,
        Err(error) => {
            shared.fail(&error.to_string());
            stop_log(&incarnation);
            return Err(broken(error));
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
            .map_err(broken)?,
    ))
}

async fn opinion(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Reply {
    check(&shared, &headers)?;
    let question: Question = parse(&body)?;
    let deadline = Duration::from_millis(question.millis);
    match tokio::time::timeout(deadline, shared.around.opinions.opinion(question)).await {
        Ok(opinion) => Ok(json(&opinion)),
        Err(_) => Err(Refusal::new(
            StatusCode::GATEWAY_TIMEOUT,
            "no opinion within the question's time",
        )),
    }
}

async fn hello(State(shared): State<Arc<Shared>>) -> Reply {
    let identity = shared.identity();
    let last_log = match shared.incarnation.load_full() {
        Some(incarnation) => incarnation.log.last_log_id().await.map_err(broken)?,
        None => None,
    };
    let mut wanted: Vec<String> = shared.wanted().into_iter().map(|wanted| wanted.name).collect();
    wanted.sort_unstable();
    Ok(json(&Hello {
        node: shared.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        understands: shared.around.understands,
        data_center: shared.settings.data_center.clone(),
        pristine: identity.is_none() && shared.backend_group.is_none(),
        cluster_uuid: identity.as_ref().map(|identity| identity.cluster_uuid.clone()),
        member: identity.and_then(|identity| identity.member),
        last_log,
        backend_group: shared.backend_group.clone(),
        leader: membership::known_leader(&shared),
        wanted,
    }))
}

async fn assign(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    bootstrap::accept_assignment(&shared, parse(&body)?).await?;
    Ok(json(&()))
}

async fn join(State(shared): State<Arc<Shared>>, body: Bytes) -> Reply {
    Ok(json(&membership::answer_join(&shared, parse(&body)?).await))
}

async fn members(State(shared): State<Arc<Shared>>) -> Reply {
    Ok(json(&membership::answer_members(&shared).await))
}
