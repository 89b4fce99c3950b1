//! Pairs in etcd, by the JSON gateway of its API: one transaction for each read and each write.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::app::ports::publisher::{PrimaryPublication, PrimaryPublisher, PublicationChange};
use crate::domain::declared::PublishError;
use crate::domain::published_primary::PublishedPrimaries;

use super::PairOptions;
use super::fenced::{GuardedWrite, KvStore, Stored, WriteResult, remove_leftovers, write_pairs};
use super::http;
use super::tls::{TlsFiles, TlsFilesError};

/// etcd's code for a missing or an old token.
const UNAUTHENTICATED: u64 = 16;

/// How etcd is reached.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Its members, as `https://host:2379`. The first one that answers is used.
    pub endpoints: Vec<Url>,
    /// User and password; `None` where etcd has no users.
    pub account: Option<(String, SecretString)>,
    /// The files for `https`.
    pub tls: TlsFiles,
    /// What is written.
    pub pairs: PairOptions,
}

/// Publishes to etcd.
pub struct EtcdPublisher {
    options: EtcdOptions,
    http: reqwest::Client,
    token: Mutex<Option<String>>,
}

/// An answer of a member.
struct Answer {
    status: StatusCode,
    body: String,
}

impl EtcdPublisher {
    /// Prepares the publisher; nothing is connected.
    ///
    /// # Errors
    /// When a file for TLS cannot be used.
    pub fn new(options: EtcdOptions) -> Result<Self, TlsFilesError> {
        let http = http::client(&options.tls)?;
        Ok(Self {
            options,
            http,
            token: Mutex::default(),
        })
    }

    /// Sends a request to the first member that answers. A member without a leader answers with an error of the server, and the next
    /// one is asked; a transaction that was executed all the same fails its condition then.
    async fn send(&self, path: &str, body: &Value, token: Option<&str>) -> Result<Answer, PublishError> {
        let mut last = PublishError::Refused("no address is configured".to_owned());
        for endpoint in &self.options.endpoints {
            let mut url = endpoint.clone();
            url.set_path(path);
            let mut request = self.http.post(url).json(body);
            if let Some(token) = token {
                request = request.header("Authorization", token);
            }
            let answer = match request.send().await {
                Ok(response) => {
                    let status = response.status();
                    http::text(response).await.map(|body| Answer { status, body })
                }
                Err(error) => Err(http::unanswered(&error)),
            };
            match answer {
                Ok(answer) if answer.status.is_server_error() => {
                    last = http::refusal(answer.status, &message(&answer.body));
                }
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A new token, when there is an account.
    async fn authenticate(&self) -> Result<Option<String>, PublishError> {
        let Some((user, password)) = &self.options.account else {
            return Ok(None);
        };
        let body = json!({"name": user, "password": password.expose_secret()});
        let answer = self.send("/v3/auth/authenticate", &body, None).await?;
        if !answer.status.is_success() {
            let why = message(&answer.body);
            return Err(PublishError::Forbidden(format!("it refuses the user {user}: {why}")));
        }
        let token = http::parse(&answer.body)?;
        let token = token.get("token").and_then(Value::as_str);
        let token = token.ok_or_else(|| PublishError::Refused("its answer has no token".to_owned()))?;
        Ok(Some(token.to_owned()))
    }

    /// A request with a token, which is renewed once when it is refused.
    async fn call(&self, path: &str, body: &Value) -> Result<Value, PublishError> {
        let mut token = self.token.lock().await.clone();
        if token.is_none() {
            token = self.authenticate().await?;
            self.token.lock().await.clone_from(&token);
        }
        let mut answer = self.send(path, body, token.as_deref()).await?;
        if is_unauthenticated(&answer) && self.options.account.is_some() {
            let renewed = self.authenticate().await?;
            answer = self.send(path, body, renewed.as_deref()).await?;
            *self.token.lock().await = renewed;
        }
        if answer.status.is_success() {
            http::parse(&answer.body)
        } else if is_unauthenticated(&answer) {
            Err(PublishError::Forbidden(message(&answer.body)))
        } else {
            Err(http::refusal(answer.status, &message(&answer.body)))
        }
    }
}

fn is_unauthenticated(answer: &Answer) -> bool {
    let code = || serde_json::from_str::<Value>(&answer.body).ok()?.get("code")?.as_u64();
    answer.status == StatusCode::UNAUTHORIZED || (!answer.status.is_success() && code() == Some(UNAUTHENTICATED))
}

/// The message of an error in JSON, or the text itself.
fn message(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let message = parsed
        .as_ref()
        .and_then(|error| error.get("message").or_else(|| error.get("error")));
    http::shortened(message.and_then(Value::as_str).unwrap_or(body))
}

fn encoded(text: &str) -> String {
    STANDARD.encode(text)
}

/// One key with its value.
struct Entry {
    key: String,
    value: String,
    version: u64,
}

impl Entry {
    fn read(entry: &Value) -> Result<Self, PublishError> {
        let invalid = || PublishError::Refused("its answer has a key without name or revision".to_owned());
        let text = |field: &str| {
            // An empty value is left out.
            let text = entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let bytes = STANDARD.decode(text).map_err(|_| invalid())?;
            Ok::<_, PublishError>(String::from_utf8_lossy(&bytes).into_owned())
        };
        // Numbers of 64 bits are texts in this form of JSON.
        let version = entry.get("mod_revision").and_then(Value::as_str);
        Ok(Self {
            key: text("key")?,
            value: text("value")?,
            version: version.and_then(|text| text.parse().ok()).ok_or_else(invalid)?,
        })
    }
}

fn entries(range: &Value) -> Result<Vec<Entry>, PublishError> {
    let found = range.get("kvs").and_then(Value::as_array);
    found
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(Entry::read)
        .collect()
}

#[async_trait]
impl KvStore for EtcdPublisher {
    async fn read(&self, keys: &BTreeSet<String>, epoch_key: &str) -> Result<Stored, PublishError> {
        let of_key = |key: &str| json!({"request_range": {"key": encoded(key)}});
        let ranges: Vec<Value> = keys.iter().map(String::as_str).chain([epoch_key]).map(of_key).collect();
        let answer = self.call("/v3/kv/txn", &json!({"success": ranges})).await?;
        let responses = answer.get("responses").and_then(Value::as_array);
        let responses = responses.ok_or_else(|| PublishError::Refused("its answer has no responses".to_owned()))?;
        let mut stored = Stored::default();
        for range in responses.iter().filter_map(|response| response.get("response_range")) {
            for entry in entries(range)? {
                if entry.key == epoch_key {
                    stored.version = Some(entry.version);
                }
                stored.values.insert(entry.key, entry.value);
            }
        }
        Ok(stored)
    }

    async fn write(&self, write: &GuardedWrite) -> Result<WriteResult, PublishError> {
        // The revision 0 stands for a key that does not exist.
        let condition = json!({
            "key": encoded(&write.epoch_key), "target": "MOD", "result": "EQUAL",
            "mod_revision": write.version.unwrap_or_default().to_string(),
        });
        let put =
            |(key, value): (&String, &String)| json!({"request_put": {"key": encoded(key), "value": encoded(value)}});
        let delete = |key: &String| json!({"request_delete_range": {"key": encoded(key)}});
        let epoch = match &write.epoch_value {
            Some(value) => put((&write.epoch_key, value)),
            None => delete(&write.epoch_key),
        };
        let changes: Vec<Value> = write
            .set
            .iter()
            .map(put)
            .chain(write.remove.iter().map(delete))
            .chain([epoch])
            .collect();
        let answer = self
            .call("/v3/kv/txn", &json!({"compare": [condition], "success": changes}))
            .await?;
        let is_done = answer.get("succeeded").and_then(Value::as_bool).unwrap_or_default();
        Ok(if is_done {
            WriteResult::Done
        } else {
            WriteResult::Conflict
        })
    }

    async fn epochs(&self, prefix: &str) -> Result<BTreeMap<String, String>, PublishError> {
        // The first key that does not begin with the prefix, which ends in `/`: `0` follows it.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        let answer = self
            .call(
                "/v3/kv/range",
                &json!({"key": encoded(prefix), "range_end": encoded(&end)}),
            )
            .await?;
        let found = entries(&answer)?
            .into_iter()
            .filter(|entry| entry.key.ends_with("/epoch"));
        Ok(found.map(|entry| (entry.key, entry.value)).collect())
    }
}

#[async_trait]
impl PrimaryPublisher for EtcdPublisher {
    fn name(&self) -> String {
        let hosts = self
            .options
            .endpoints
            .iter()
            .map(|url| url.as_str().trim_end_matches('/'));
        format!("etcd {}", hosts.collect::<Vec<_>>().join(","))
    }

    fn withdraws(&self) -> bool {
        self.options.pairs.removes_before_failover
    }

    async fn publish(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        write_pairs(self, &self.options.pairs, publication, false).await
    }

    async fn withdraw(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        write_pairs(self, &self.options.pairs, publication, true).await
    }

    async fn remove_leftovers(&self, group: &str, all: &PublishedPrimaries) -> Result<Vec<String>, PublishError> {
        remove_leftovers(self, &self.options.pairs, group, all).await
    }
}
