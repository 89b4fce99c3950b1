//! Sends requests to the leader, and repeats those that may be repeated.

use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::arguments::{Settings, WriteToken};
use super::debug::DebugLog;
use super::request::{Answer, Request, api_url, shown};

/// Deadline for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Deadline for an answer: a recovery by hand may wait that long for relay log to be applied.
const ANSWER_DEADLINE: Duration = Duration::from_secs(620);

/// The largest answer that is read, bytes. That of 100,000 instances is smaller.
const MAX_ANSWER: usize = 1 << 28;

/// No attempt begins later than this after the first one.
const REPEAT_DEADLINE: Duration = Duration::from_secs(10);

/// The header by which a member names itself in its answers.
const MEMBER_HEADER: &str = "x-ham4db-member";

/// The header that answers have which only a leader could have given. With 503, nothing was done.
const LEADER_HEADER: &str = "x-ham4db-leader";

/// Pauses between attempts, the same as in orchestrator-client; a leader election may be in progress.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_millis(2500),
];

/// Why there is no answer to print.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No endpoint is the leader or knows it.
    #[error("Cannot determine leader from {endpoints} ({reasons})")]
    NoLeader {
        /// The URLs of all endpoints.
        endpoints: String,
        /// Each with the reason.
        reasons: String,
    },
    /// The endpoint refused the credentials.
    #[error("Unauthorized at {endpoint}: {advice}")]
    Unauthorized {
        /// Its URL.
        endpoint: String,
        /// What to set, or what was refused.
        advice: String,
    },
    /// The request was refused.
    #[error("{message}")]
    Refused {
        /// Message of the envelope.
        message: String,
        /// Its details, if any.
        details: Option<Value>,
    },
    /// No connection, or it broke.
    #[error("cannot access {endpoint}: {why}{}", if *.sent { "; the request may have had its effect" } else { "" })]
    Broken {
        /// Its URL.
        endpoint: String,
        /// The cause.
        why: String,
        /// Whether a change may have happened.
        sent: bool,
        /// Whether it is safe to try again.
        repeatable: bool,
    },
    /// The answer is not one of the API.
    #[error("{endpoint} answered {status} without JSON: check that it is a ham4db API")]
    NotJson {
        /// Its URL.
        endpoint: String,
        /// HTTP status.
        status: StatusCode,
        /// Whether it is safe to try again.
        repeatable: bool,
    },
    /// The last of several attempts failed in another way than those before.
    #[error("{last}; before that: {before}")]
    Repeated {
        /// Why the last one failed.
        last: Box<CallError>,
        /// Why the others failed.
        before: String,
    },
}

impl CallError {
    /// Whether another attempt is safe and may succeed.
    fn may_pass(&self) -> bool {
        match self {
            Self::NoLeader { .. } => true,
            Self::Broken { repeatable, .. } | Self::NotJson { repeatable, .. } => *repeatable,
            Self::Unauthorized { .. } | Self::Refused { .. } | Self::Repeated { .. } => false,
        }
    }

    /// The error with those of earlier attempts, each once.
    fn after(self, mut before: Vec<String>) -> Self {
        let last = self.to_string();
        before.retain(|text| *text != last);
        if before.is_empty() {
            return self;
        }
        Self::Repeated {
            last: Box::new(self),
            before: before.join("; "),
        }
    }
}

/// The endpoints and the HTTP client.
pub struct Endpoints<'a, 'w> {
    client: Client,
    pub(super) apis: Vec<Url>,
    pub(super) debug: &'a DebugLog<'w>,
    basic: Option<(String, secrecy::SecretString)>,
    token: WriteToken,
    header: Option<(String, String)>,
}

impl<'a, 'w> Endpoints<'a, 'w> {
    /// A client for the endpoints of the settings.
    ///
    /// # Errors
    /// When an endpoint is not a URL, or a header is invalid.
    pub fn new(settings: &Settings, debug: &'a DebugLog<'w>) -> Result<Self, String> {
        // A second installation is refused and means that there is one already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(ANSWER_DEADLINE)
            .retry(reqwest::retry::never())
            .tcp_nodelay(true)
            .build()
            .map_err(|error| format!("cannot prepare HTTP: {error}"))?;
        if let Some((name, value)) = &settings.header {
            let good = reqwest::header::HeaderName::try_from(name.as_str()).is_ok()
                && reqwest::header::HeaderValue::try_from(value.as_str()).is_ok();
            if !good {
                return Err(format!("`{name}: …` is not a valid header"));
            }
        }
        let apis = settings
            .endpoints
            .iter()
            .map(|text| api_url(text))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            client,
            apis,
            debug,
            basic: settings.basic.clone(),
            token: settings.token.clone(),
            header: settings.header.clone(),
        })
    }

    /// The endpoint for requests, as [`Endpoints::leader`] finds it, repeated while there is none.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn find(&self) -> Result<Url, CallError> {
        self.repeated(async || self.leader().await, |_| false).await
    }

    /// Sends a request to the leader. It is repeated while no connection could be established, or there is no leader: then nothing was
    /// done. A read is also repeated while there is no answer, or the answer says so. The leader is looked for again each time.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, request: &Request) -> Result<Answer, CallError> {
        let (status, answer) = self
            .repeated(
                async || self.attempt(&self.leader().await?, request).await,
                |(status, answer)| match *status {
                    StatusCode::SERVICE_UNAVAILABLE => !request.mutates || answer.lacked_leader,
                    StatusCode::BAD_GATEWAY => !request.mutates,
                    _ => false,
                },
            )
            .await?;
        judge(status, answer)
    }

    async fn repeated<T>(
        &self,
        attempt: impl AsyncFn() -> Result<T, CallError>,
        is_to_be_repeated: impl Fn(&T) -> bool,
    ) -> Result<T, CallError> {
        let (begun, mut pauses, mut before) = (Instant::now(), PAUSES.iter(), Vec::new());
        loop {
            let outcome = attempt().await;
            let again = match &outcome {
                Ok(answer) => is_to_be_repeated(answer),
                Err(error) => error.may_pass(),
            };
            let pause = pauses
                .next()
                .filter(|pause| again && begun.elapsed() + **pause < REPEAT_DEADLINE);
            let Some(pause) = pause else {
                return outcome.map_err(|error| error.after(before));
            };
            if let Err(error) = &outcome {
                let text = error.to_string();
                self.debug.line(|| text.clone());
                if !before.contains(&text) {
                    before.push(text);
                }
            }
            self.debug.line(|| format!("next attempt in {} ms", pause.as_millis()));
            tokio::time::sleep(*pause).await;
        }
    }

    async fn attempt(&self, api: &Url, request: &Request) -> Result<(StatusCode, Answer), CallError> {
        let broken = |why: String, sent: bool| CallError::Broken {
            endpoint: shown(api),
            why,
            sent: request.mutates && sent,
            repeatable: !request.mutates || !sent,
        };
        let begun = Instant::now();
        let answer = self
            .prepare(request.url(api), request.mutates)
            .send()
            .await
            .map_err(|error| broken(causes(&error), !error.is_connect()))?;
        let status = answer.status();
        self.debug.line(|| {
            let (endpoint, millis) = (shown(api), begun.elapsed().as_millis());
            format!(
                "{endpoint} answered {} after {millis} ms{}",
                status.as_u16(),
                member_of(&answer)
            )
        });
        if status == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized(api, request.mutates));
        }
        let lacked_leader = answer.headers().contains_key(LEADER_HEADER);
        let text = text_of(answer, MAX_ANSWER).await.map_err(|why| broken(why, true))?;
        let json = serde_json::from_str(&text).map_err(|_| CallError::NotJson {
            endpoint: shown(api),
            status,
            repeatable: !request.mutates,
        })?;
        Ok((
            status,
            Answer {
                text,
                json,
                lacked_leader,
            },
        ))
    }

    /// The write token is sent with changes only: reads do not need it, and it should not be sent more often than necessary.
    pub(super) fn prepare(&self, url: Url, mutates: bool) -> RequestBuilder {
        // A user in the URL is sent already, and there is but one Authorization.
        let token = match &self.token {
            WriteToken::Known(token, _) if mutates && url.username().is_empty() => Some(token),
            WriteToken::Known(..) | WriteToken::Unset | WriteToken::Unreadable(_) => None,
        };
        let mut builder = self.client.get(url);
        if let Some(token) = token {
            builder = builder.bearer_auth(token.expose_secret());
        } else if let Some((user, password)) = &self.basic {
            builder = builder.basic_auth(user, Some(password.expose_secret()));
        }
        if let Some((name, value)) = &self.header {
            builder = builder.header(name, value);
        }
        builder
    }
}

impl Endpoints<'_, '_> {
    pub(super) fn unauthorized(&self, api: &Url, mutates: bool) -> CallError {
        let advice = match (&self.token, &self.basic) {
            (WriteToken::Known(_, variable), _) if mutates => format!("the API refused the token of {variable}"),
            (WriteToken::Unreadable(why), _) if mutates => format!("HAM4DB_API_TOKEN_FILE: {why}"),
            (WriteToken::Unset, None) if mutates => {
                "this needs a write token: set HAM4DB_API_TOKEN or HAM4DB_API_TOKEN_FILE".to_owned()
            }
            _ => "check HAM4DB_AUTH_USER and HAM4DB_AUTH_PASSWORD (a write token is a good password)".to_owned(),
        };
        CallError::Unauthorized {
            endpoint: shown(api),
            advice,
        }
    }
}

fn judge(status: StatusCode, answer: Answer) -> Result<Answer, CallError> {
    let code = answer.json.get("Code").and_then(Value::as_str);
    if code == Some("ERROR") || (code.is_none() && !status.is_success()) {
        let message = answer
            .json
            .get("Message")
            .and_then(Value::as_str)
            .map_or_else(|| answer.text.clone(), str::to_owned);
        let details = answer.json.get("Details").filter(|details| !details.is_null()).cloned();
        return Err(CallError::Refused { message, details });
    }
    Ok(answer)
}

/// The member that gave an answer, as the end of a sentence; empty when a proxy gave it.
pub(super) fn member_of(answer: &Response) -> String {
    let name = answer.headers().get(MEMBER_HEADER).and_then(|name| name.to_str().ok());
    name.map(|name| format!(", by member {name}")).unwrap_or_default()
}

/// The body of an answer, or why it was not received.
pub(super) async fn text_of(mut answer: Response, max: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| causes(&error))? {
        if bytes.len() + piece.len() > max {
            return Err(format!("its answer is larger than {max} bytes"));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The innermost cause of an error, without the URL.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut cause = std::error::Error::source(error);
    let mut text = if cause.is_none() {
        error.to_string()
    } else {
        String::new()
    };
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_earlier_attempts_are_named_once() {
        let broken = |endpoint: &str| CallError::Broken {
            endpoint: endpoint.to_owned(),
            why: "Connection refused".to_owned(),
            sent: false,
            repeatable: true,
        };
        let before = |endpoints: &[&str]| endpoints.iter().map(|it| broken(it).to_string()).collect();
        assert_eq!(
            broken("h1").after(before(&["h1"])).to_string(),
            "cannot access h1: Connection refused"
        );
        assert_eq!(
            broken("h3").after(before(&["h1", "h2", "h3"])).to_string(),
            "cannot access h3: Connection refused; before that: cannot access h1: Connection refused; \
             cannot access h2: Connection refused"
        );
    }
}
