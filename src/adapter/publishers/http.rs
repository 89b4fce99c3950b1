//! The HTTP client for key-value stores, with bounds for what they answer.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::domain::declared::PublishError;

use super::tls::{TlsFiles, TlsFilesError};

/// How long a connection may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How long one request may take; a call of a publisher makes several.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);
/// The largest body: the pairs of some ten thousand clusters.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// How much of an error of the store is shown, characters.
const MAX_SHOWN: usize = 200;

/// Makes a client. Certificates are verified, and no proxy is used.
///
/// # Errors
/// When a file for TLS cannot be used.
pub(super) fn client(tls: &TlsFiles) -> Result<reqwest::Client, TlsFilesError> {
    let config = tls.client_config()?;
    Ok(reqwest::Client::builder()
        .no_proxy()
        .http1_only()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(REQUEST_DEADLINE)
        .redirect(reqwest::redirect::Policy::none())
        .tls_backend_preconfigured(config)
        .build()
        .expect("because the configuration of TLS is one of rustls"))
}

/// A request without an answer.
pub(super) fn unanswered(error: &reqwest::Error) -> PublishError {
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    PublishError::Unanswered(shortened(&why))
}

/// The body as text.
///
/// # Errors
/// When it is longer than the limit, breaks off, or is not UTF-8.
pub(super) async fn text(mut response: Response) -> Result<String, PublishError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unanswered(&error))? {
        if body.len().saturating_add(chunk.len()) > MAX_BODY {
            return Err(PublishError::Refused(format!(
                "its answer is longer than {MAX_BODY} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    String::from_utf8(body).map_err(|_| PublishError::Refused("its answer is not UTF-8".to_owned()))
}

/// The body as JSON.
///
/// # Errors
/// As [`text`], and when it is not JSON.
pub(super) async fn json(response: Response) -> Result<Value, PublishError> {
    parse(&text(response).await?)
}

/// A text as JSON.
///
/// # Errors
/// When it is not JSON.
pub(super) fn parse(text: &str) -> Result<Value, PublishError> {
    serde_json::from_str(text)
        .map_err(|_| PublishError::Refused(format!("its answer is not JSON: {}", shortened(text))))
}

/// An answer with a status that is no success.
pub(super) fn refusal(status: StatusCode, body: &str) -> PublishError {
    let why = format!("{status}: {}", shortened(body));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PublishError::Forbidden(why),
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => PublishError::Unanswered(why),
        _ => PublishError::Refused(why),
    }
}

/// The beginning of a text from outside, in one line.
pub(super) fn shortened(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_SHOWN)
        .collect()
}
