//! Limits around handlers: how many run at a time, for how long, and whether changes are allowed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use crate::app::supervision;

use super::reply::Failure;

/// Requests that are processed at a time. Health and leadership routes are not counted, so that a busy member does not appear to
/// have failed.
const MAX_CONCURRENT_REQUESTS: usize = 256;

/// Probes and scrapes at `HealthListenAddress` that are answered at a time; other requests do not count against them.
const MAX_CONCURRENT_PROBES: usize = 64;

/// How long a request waits for a permit.
const QUEUE_DEADLINE: Duration = Duration::from_secs(1);

/// How long the body of a request may take.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Maximum size of a request body, bytes. No route needs a body.
pub(super) const MAX_BODY: usize = 64 * 1024;

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

/// Receives the body of a request before anything else is done for it: a client that sends it byte by byte must not hold a permit. Answers
/// 408 when it is not complete within [`BODY_DEADLINE`], and 413 when it is too large.
pub(super) async fn receive_body(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let refused = |status, message: String| Failure::new(status, message).into_response();
    match tokio::time::timeout(BODY_DEADLINE, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(error)) => refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body of the request was not received: {error}"),
        ),
        Err(_) => refused(
            StatusCode::REQUEST_TIMEOUT,
            format!(
                "the body of the request is not complete after {} s",
                BODY_DEADLINE.as_secs()
            ),
        ),
    }
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

/// Answers 500 when a handler panics. Without this, the panic would close the connection and its other requests.
pub(super) async fn catch_panics(request: Request, next: Next) -> Response {
    supervision::catch(next.run(request)).await.unwrap_or_else(|| {
        tracing::error!("a request handler panicked");
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

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_one_answer_with_status_500() {
        let handler = async || -> &'static str { panic!("a fault") };
        let router = Router::new().route("/", get(handler)).layer(from_fn(catch_panics));
        for _ in 0..2 {
            let request = Request::builder().uri("/").body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}
