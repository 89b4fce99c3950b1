//! Answers: bare JSON, orchestrator's envelope, and errors with the status code that fits (`docs/decisions/0003-http-status-codes.md`).

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use crate::app::api::ApiError;

/// Names the leader in answers that could not be given here.
pub(super) const LEADER_HEADER: HeaderName = HeaderName::from_static("x-ham4db-leader");

/// Orchestrator's envelope.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Envelope<T> {
    code: &'static str,
    message: String,
    details: T,
}

/// An answer in the envelope, with code OK.
pub(super) fn done<T: Serialize>(message: impl Into<String>, details: T) -> Json<Envelope<T>> {
    Json(Envelope {
        code: "OK",
        message: message.into(),
        details,
    })
}

/// What a handler gives back.
pub(super) type Reply<T> = Result<Json<T>, Failure>;

/// What a handler gives back in the envelope.
pub(super) type Enveloped<T> = Reply<Envelope<T>>;

/// An answer with code ERROR.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
    details: Value,
    retry_after_seconds: Option<u32>,
    leader: Option<String>,
}

impl Failure {
    /// With this status and message.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            details: Value::Null,
            retry_after_seconds: None,
            leader: None,
        }
    }

    /// 400.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// With something in `Details`.
    pub(super) fn with_details(mut self, details: impl Serialize) -> Self {
        self.details = serde_json::to_value(details).unwrap_or(Value::Null);
        self
    }

    /// Worth another attempt, by the client and not by us.
    pub(super) fn retry_later(mut self) -> Self {
        self.retry_after_seconds = Some(1);
        self
    }

    /// Names the leader.
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
                match leader {
                    Some(name) => failure.naming_leader(&name),
                    None => failure,
                }
            }
            ApiError::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_later(),
            // No Retry-After: it may have been done, and doing it twice is the client's decision.
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
