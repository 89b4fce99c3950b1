//! Bounds around handlers: how many at a time, for how long, and who may change something.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::reply::Failure;
use super::server::Shared;

/// Requests that are worked on at a time; health and leadership routes are not counted, so that a busy member does not look dead.
pub(super) const MAX_CONCURRENT: usize = 256;

/// Probes and scrapes at `HealthListenAddress` that are answered at a time; nothing else takes their turns.
pub(super) const MAX_PROBES: usize = 64;

/// How long a request waits for its turn.
const QUEUE_DEADLINE: Duration = Duration::from_secs(1);

/// Longest work on a request: a manual recovery waits for relay log to be applied.
const WORK_DEADLINE: Duration = Duration::from_mins(10);

/// Waits for a turn, briefly, and ends what takes too long.
pub(super) async fn bounded(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    in_turn(&shared.turns, MAX_CONCURRENT, request, next).await
}

/// The same for `HealthListenAddress`.
pub(super) async fn bounded_probes(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    in_turn(&shared.probes, MAX_PROBES, request, next).await
}

async fn in_turn(turns: &Semaphore, count: usize, request: Request, next: Next) -> Response {
    let turn = tokio::time::timeout(QUEUE_DEADLINE, turns.acquire()).await;
    let Ok(Ok(_turn)) = turn else {
        let message = format!("busy: {count} requests are being worked on");
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .retry_later()
            .into_response();
    };
    tokio::time::timeout(WORK_DEADLINE, next.run(request))
        .await
        .unwrap_or_else(|_| {
            Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the request took too long; it may still have its effect",
            )
            .into_response()
        })
}

/// Lets what changes something run to its end even when the client hangs up: half a recovery is worse than an answer that nobody reads.
pub(super) async fn to_the_end(request: Request, next: Next) -> Response {
    tokio::spawn(next.run(request)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request handler panicked");
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault in the program; see its log").into_response()
    })
}

/// Refuses what changes something while `ReadOnly` is set.
pub(super) async fn writable(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if shared.app.options.read_only {
        return Failure::new(
            StatusCode::FORBIDDEN,
            "Unauthorized: this member is configured with ReadOnly",
        )
        .into_response();
    }
    next.run(request).await
}
