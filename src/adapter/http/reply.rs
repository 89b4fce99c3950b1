//! Responses: bare JSON, orchestrator's envelope, and errors with the status code that fits (`docs/decisions/0003-http-status-codes.md`).

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::app::api::ApiError;

/// Header that names the leader in a response that only the leader could have given.
pub(super) const LEADER_HEADER: HeaderName = HeaderName::from_static("x-ham4db-leader");

/// Its value when no leader is known. With 503, the header means that nothing was done for want of a leader.
pub(super) const UNKNOWN_LEADER: &str = "unknown";

/// Orchestrator's envelope.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope<T> {
    code: &'static str,
    message: String,
    details: T,
}

/// A response in the envelope, with code OK.
pub(super) fn success<T: Serialize>(message: impl Into<String>, details: T) -> Json<Envelope<T>> {
    Json(Envelope {
        code: "OK",
        message: message.into(),
        details,
    })
}

/// What a handler returns: bare JSON.
pub(super) type Reply<T> = Result<Json<T>, Failure>;

/// What a handler returns in the envelope.
pub(super) type Enveloped<T> = Reply<Envelope<T>>;

/// A response with code ERROR.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
    details: Value,
    retry_after_seconds: Option<u32>,
    leader: Option<String>,
}

impl Failure {
    /// A failure with this status and message.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            details: Value::Null,
            retry_after_seconds: None,
            leader: None,
        }
    }

    /// A failure with status 400.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Adds `Details`.
    pub(super) fn with_details(mut self, details: impl Serialize) -> Self {
        self.details = serde_json::to_value(details).unwrap_or(Value::Null);
        self
    }

    /// Adds `Retry-After`: the client may try again after one second.
    pub(super) fn retry_later(mut self) -> Self {
        self.retry_after_seconds = Some(1);
        self
    }

    /// Adds the name of the leader.
    pub(super) fn naming_leader(mut self, leader: &str) -> Self {
        self.leader = Some(leader.to_owned());
        self
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, message),
            ApiError::BadRequest(_) => Self::new(StatusCode::BAD_REQUEST, message),
            ApiError::Conflict(_) | ApiError::OwnedBy { .. } => Self::new(StatusCode::CONFLICT, message),
            ApiError::NotLeader(leader) => {
                let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_later();
                failure.naming_leader(leader.as_deref().unwrap_or(UNKNOWN_LEADER))
            }
            ApiError::Busy(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, message).retry_later(),
            ApiError::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_later(),
            // No Retry-After: the command may have been executed, and only the client can decide to repeat it.
            ApiError::OutcomeUnknown(_) => Self::new(StatusCode::GATEWAY_TIMEOUT, message),
            ApiError::Internal(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(Envelope {
            code: "ERROR",
            message: self.message,
            details: self.details,
        });
        let mut response = (self.status, body).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(leader) = self.leader.and_then(|name| HeaderValue::from_str(&name).ok()) {
            response.headers_mut().insert(LEADER_HEADER, leader);
        }
        response
    }
}

/// Runs work on all clusters on a thread of its own: with thousands of servers it takes many milliseconds, in which the threads of the
/// runtime serve probes and the group.
pub(super) async fn off_workers<S: Send + 'static, T: Send + 'static>(
    shared: S,
    work: impl FnOnce(S) -> T + Send + 'static,
) -> T {
    match tokio::task::spawn_blocking(move || work(shared)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this request with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_for_a_server_that_is_read_already_is_told_when_to_come_back() {
        let response = Failure::from(ApiError::Busy("db1:3306 is read".to_owned())).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers().get(header::RETRY_AFTER).unwrap(), "1");
    }
}
