//! Limits around handlers: how many run at a time, for how long, and whether changes are allowed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::reply::Failure;

/// Requests that are processed at a time. Health and leadership routes are not counted, so that a busy member does not appear to
/// have failed.
const MAX_CONCURRENT_REQUESTS: usize = 256;

/// Probes and scrapes at `HealthListenAddress` that are answered at a time; other requests do not count against them.
const MAX_CONCURRENT_PROBES: usize = 64;

/// How long a request waits for a permit.
const QUEUE_DEADLINE: Duration = Duration::from_secs(1);

/// Longest time to process a request: a manual recovery waits until relay log is applied.
const WORK_DEADLINE: Duration = Duration::from_mins(10);

/// How many requests are processed at a time. Clones share the limit.
#[derive(Clone)]
pub(super) struct ConcurrencyLimit {
    permits: Arc<Semaphore>,
    count: usize,
}

impl ConcurrencyLimit {
    /// The limit of the API.
    pub(super) fn of_requests() -> Self {
        Self::new(MAX_CONCURRENT_REQUESTS)
    }

    /// The limit of `HealthListenAddress`.
    pub(super) fn of_probes() -> Self {
        Self::new(MAX_CONCURRENT_PROBES)
    }

    fn new(count: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            count,
        }
    }
}

/// Processes a request within the limit and within [`WORK_DEADLINE`]. Answers 503 when no permit is free within [`QUEUE_DEADLINE`],
/// and 504 after the deadline.
pub(super) async fn limit(State(limit): State<ConcurrencyLimit>, request: Request, next: Next) -> Response {
    let permit = tokio::time::timeout(QUEUE_DEADLINE, limit.permits.acquire()).await;
    let Ok(Ok(_permit)) = permit else {
        let message = format!("busy: {} requests are being processed", limit.count);
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
            .retry_later()
            .into_response();
    };
    tokio::time::timeout(WORK_DEADLINE, next.run(request))
        .await
        .unwrap_or_else(|_| {
            Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                "the request took too long; it may still take effect",
            )
            .into_response()
        })
}

/// Runs a change to its end even when the client disconnects: a recovery that stops halfway is worse than an answer that is not read.
pub(super) async fn run_to_completion(request: Request, next: Next) -> Response {
    tokio::spawn(next.run(request)).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request handler panicked");
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal error: the handler panicked; see the log of this member",
        )
        .into_response()
    })
}

/// Refuses a change with 403 when `ReadOnly` is set.
pub(super) async fn refuse_if_read_only(State(read_only): State<bool>, request: Request, next: Next) -> Response {
    if read_only {
        return Failure::new(
            StatusCode::FORBIDDEN,
            "Unauthorized: this member is configured with ReadOnly",
        )
        .into_response();
    }
    next.run(request).await
}
