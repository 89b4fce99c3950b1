//! Finds the leader among endpoints and sends requests to it.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode, Url};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::arguments::{Settings, WriteToken};

/// Deadline for `leader-check`: an endpoint that takes longer is skipped.
const CHECK_DEADLINE: Duration = Duration::from_secs(1);

/// Deadline for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Deadline for an answer: a recovery by hand may wait that long for relay log to be applied.
const ANSWER_DEADLINE: Duration = Duration::from_secs(620);

/// Pauses between attempts of a request that changes nothing, the same as in orchestrator-client; a leader election may be in progress.
const PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_millis(2500),
];

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Parts of the path below `/api`.
    pub path: Vec<String>,
    /// Parameters.
    pub query: Vec<(&'static str, String)>,
    /// Path and parameters as the user wrote them, already encoded; replaces the two above.
    pub written: Option<String>,
    /// It changes something: it is not repeated after it was sent.
    pub mutates: bool,
}

impl Request {
    fn url(&self, api: &Url) -> Url {
        if let Some(written) = &self.written {
            let (path, query) = written
                .split_once('?')
                .map_or((written.as_str(), None), |(path, query)| (path, Some(query)));
            let mut url = api.clone();
            url.set_path(&format!(
                "{}/{}",
                api.path().trim_end_matches('/'),
                path.trim_start_matches('/')
            ));
            url.set_query(query);
            return url;
        }
        let mut url = route_of(api, &self.path);
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }
}

fn route_of(api: &Url, path: &[String]) -> Url {
    let mut url = api.clone();
    // Only a URL without a host has no path, and endpoints have one.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// Why there is no answer to print.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No endpoint is the leader or knows it.
    #[error("Cannot determine leader from {0}")]
    NoLeader(String),
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
    },
    /// The answer is not one of the API.
    #[error("{endpoint} answered {status} without JSON: check that it is a ham4db API")]
    NotJson {
        /// Its URL.
        endpoint: String,
        /// HTTP status.
        status: StatusCode,
    },
}

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The body as received.
    pub text: String,
    /// The body as JSON.
    pub json: Value,
}

impl Answer {
    /// `Details` of the envelope, or the bare value.
    pub fn details(&self) -> &Value {
        self.json
            .get("Details")
            .filter(|_| self.json.get("Code").is_some())
            .unwrap_or(&self.json)
    }
}

/// The endpoints and the HTTP client.
pub struct Endpoints {
    client: Client,
    apis: Vec<Url>,
    basic: Option<(String, secrecy::SecretString)>,
    token: WriteToken,
    header: Option<(String, String)>,
}

impl Endpoints {
    /// A client for the endpoints of the settings.
    ///
    /// # Errors
    /// When an endpoint is not a URL, or a header is invalid.
    pub fn new(settings: &Settings) -> Result<Self, String> {
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
            basic: settings.basic.clone(),
            token: settings.token.clone(),
            header: settings.header.clone(),
        })
    }

    /// The endpoint for requests. A single one is used as it is: a load balancer, or a member that forwards requests.
    ///
    /// # Errors
    /// When there are several and none of them is the leader or knows it.
    pub async fn leader(&self) -> Result<Url, CallError> {
        if let [only] = self.apis.as_slice() {
            return Ok(only.clone());
        }
        for route in ["leader-check", "routed-leader-check"] {
            for api in &self.apis {
                let answer = self
                    .prepare(route_of(api, &[route.to_owned()]), false)
                    .timeout(CHECK_DEADLINE)
                    .send()
                    .await;
                match answer.map(|answer| answer.status()) {
                    Ok(StatusCode::OK) => return Ok(api.clone()),
                    Ok(StatusCode::UNAUTHORIZED) => return Err(self.unauthorized(api, false)),
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Err(CallError::NoLeader(
            self.apis.iter().map(shown).collect::<Vec<_>>().join(" "),
        ))
    }

    /// Sends a request. A read is retried while there is no answer, or the answer says to retry; a change is retried only while no
    /// connection could be established.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, api: &Url, request: &Request) -> Result<Answer, CallError> {
        let mut pauses = PAUSES.iter();
        loop {
            let outcome = self.attempt(api, request).await;
            let again = match &outcome {
                Ok((status, _)) => !request.mutates && *status == StatusCode::SERVICE_UNAVAILABLE,
                Err(CallError::Broken { sent, .. }) => !sent,
                Err(CallError::NotJson { .. }) => !request.mutates,
                Err(_) => false,
            };
            match pauses.next() {
                Some(pause) if again => tokio::time::sleep(*pause).await,
                _ => return outcome.and_then(|(status, answer)| judge(status, answer)),
            }
        }
    }

    async fn attempt(&self, api: &Url, request: &Request) -> Result<(StatusCode, Answer), CallError> {
        let broken = |error: &reqwest::Error| CallError::Broken {
            endpoint: shown(api),
            why: plainly(error),
            sent: request.mutates && !error.is_connect(),
        };
        let answer = self
            .prepare(request.url(api), request.mutates)
            .send()
            .await
            .map_err(|error| broken(&error))?;
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(self.unauthorized(api, request.mutates));
        }
        let text = answer.text().await.map_err(|error| broken(&error))?;
        let json = serde_json::from_str(&text).map_err(|_| CallError::NotJson {
            endpoint: shown(api),
            status,
        })?;
        Ok((status, Answer { text, json }))
    }

    /// The write token is sent with changes only: reads do not need it, and it should not be sent more often than necessary.
    fn prepare(&self, url: Url, mutates: bool) -> RequestBuilder {
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

impl Endpoints {
    fn unauthorized(&self, api: &Url, mutates: bool) -> CallError {
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

/// The URL of an API: `http://` and `/api` are added where they are missing.
fn api_url(text: &str) -> Result<Url, String> {
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let trimmed = with_scheme.trim_end_matches('/');
    let complete = if trimmed.ends_with("/api") {
        trimmed.to_owned()
    } else {
        format!("{trimmed}/api")
    };
    // The parser's error quotes nothing of the text, which may hold a password.
    let url = Url::parse(&complete).map_err(|error| format!("an endpoint is not a URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(format!("an endpoint must be http or https, not {}", url.scheme()))
    }
}

/// A URL without user and password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs without a host, which have no user either.
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    url.to_string()
}

/// The error without its URL, with its causes.
fn plainly(error: &reqwest::Error) -> String {
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
    fn an_endpoint_is_completed_and_shown_without_its_password() {
        for (text, url) in [
            ("http://h1:3000", "http://h1:3000/api"),
            ("h1:3000", "http://h1:3000/api"),
            ("https://h1/db/api/", "https://h1/db/api"),
        ] {
            assert_eq!(api_url(text).unwrap().as_str(), url, "{text}");
        }
        assert!(api_url("ftp://h1").is_err());
        let url = api_url("http://me:secret@h1:3000").unwrap();
        assert_eq!(shown(&url), "http://h1:3000/api");
    }
}
