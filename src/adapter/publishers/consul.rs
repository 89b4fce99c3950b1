//! Pairs in Consul, by its HTTP API: transactions that begin with a check of the epoch's index.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::app::ports::publisher::{PrimaryPublication, PrimaryPublisher, PublicationChange};
use crate::domain::declared::PublishError;
use crate::domain::published_primary::PublishedPrimaries;

use super::PairOptions;
use super::fenced::{GuardedWrite, KvStore, Stored, WriteResult, remove_leftovers, write_pairs};
use super::http;
use super::tls::{TlsFiles, TlsFilesError};

/// The most operations of one transaction that Consul accepts.
const MAX_OPERATIONS: usize = 64;
/// The most data centres that are written to.
const MAX_DATA_CENTERS: usize = 64;

/// How Consul is reached.
#[derive(Clone, Debug)]
pub struct ConsulOptions {
    /// The address of an agent, as `http://host:8500`.
    pub address: Url,
    /// The ACL token.
    pub token: Option<SecretString>,
    /// The pairs are written to all data centres that the agent knows.
    pub all_data_centers: bool,
    /// The most operations of one transaction, 5 to 64.
    pub operations: usize,
    /// The files for `https`.
    pub tls: TlsFiles,
    /// What is written.
    pub pairs: PairOptions,
}

/// Publishes to Consul.
pub struct ConsulPublisher {
    options: ConsulOptions,
    http: reqwest::Client,
}

impl ConsulPublisher {
    /// Prepares the publisher; nothing is connected.
    ///
    /// # Errors
    /// When a file for TLS cannot be used.
    pub fn new(mut options: ConsulOptions) -> Result<Self, TlsFilesError> {
        options.operations = options.operations.clamp(5, MAX_OPERATIONS);
        let http = http::client(&options.tls)?;
        Ok(Self { options, http })
    }

    fn store(&self, data_center: Option<String>) -> ConsulStore<'_> {
        ConsulStore {
            publisher: self,
            data_center,
        }
    }

    /// The data centres to write to.
    async fn stores(&self) -> Result<Vec<ConsulStore<'_>>, PublishError> {
        if !self.options.all_data_centers {
            return Ok(vec![self.store(None)]);
        }
        let local = self.store(None);
        let response = local
            .send(Method::GET, &["v1", "catalog", "datacenters"], &[], None)
            .await?;
        let names = expect_success(response).await?;
        let names: Vec<String> = serde_json::from_value(names)
            .map_err(|_| PublishError::Refused("its list of data centres is not one".to_owned()))?;
        if names.is_empty() || names.len() > MAX_DATA_CENTERS {
            let count = names.len();
            return Err(PublishError::Refused(format!(
                "it has {count} data centres, expected 1 to {MAX_DATA_CENTERS}"
            )));
        }
        Ok(names.into_iter().map(|name| self.store(Some(name))).collect())
    }

    async fn write(
        &self,
        publication: &PrimaryPublication,
        is_withdrawal: bool,
    ) -> Result<PublicationChange, PublishError> {
        let stores = self.stores().await?;
        let pairs = &self.options.pairs;
        let writes = stores.iter().map(|store| async move {
            let result = write_pairs(store, pairs, publication, is_withdrawal).await;
            result.map_err(|error| store.named(error))
        });
        let mut change = PublicationChange::None;
        for result in join_all(writes).await {
            if result? == PublicationChange::Written {
                change = PublicationChange::Written;
            }
        }
        Ok(change)
    }
}

#[async_trait]
impl PrimaryPublisher for ConsulPublisher {
    fn name(&self) -> String {
        format!("Consul {}", self.options.address.as_str().trim_end_matches('/'))
    }

    fn withdraws(&self) -> bool {
        self.options.pairs.removes_before_failover
    }

    async fn publish(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        self.write(publication, false).await
    }

    async fn withdraw(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        self.write(publication, true).await
    }

    async fn remove_leftovers(&self, group: &str, all: &PublishedPrimaries) -> Result<Vec<String>, PublishError> {
        let mut names = BTreeSet::new();
        for store in self.stores().await? {
            names.extend(remove_leftovers(&store, &self.options.pairs, group, all).await?);
        }
        Ok(names.into_iter().collect())
    }
}

/// The store of one data centre; `None`: that of the agent.
struct ConsulStore<'a> {
    publisher: &'a ConsulPublisher,
    data_center: Option<String>,
}

impl ConsulStore<'_> {
    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[&str],
        body: Option<&Value>,
    ) -> Result<reqwest::Response, PublishError> {
        let options = &self.publisher.options;
        let mut url = options.address.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        for name in query {
            url.query_pairs_mut().append_key_only(name);
        }
        if let Some(name) = &self.data_center {
            url.query_pairs_mut().append_pair("dc", name);
        }
        let mut request = self.publisher.http.request(method, url);
        if let Some(token) = &options.token {
            request = request.header("X-Consul-Token", token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(|error| http::unanswered(&error))
    }

    /// The entries of a key, or of all keys that begin with it.
    async fn entries(&self, key: &str, query: &[&str]) -> Result<Vec<Entry>, PublishError> {
        let path: Vec<&str> = ["v1", "kv"].into_iter().chain(stripped(key).split('/')).collect();
        let response = self.send(Method::GET, &path, query, None).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let found = expect_success(response).await?;
        let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
        found.iter().map(Entry::read).collect()
    }

    /// Runs one transaction. Returns the new index of its first key, and `None` when a condition failed.
    async fn run(&self, operations: &[Value]) -> Result<Option<u64>, PublishError> {
        let body = Value::Array(operations.to_vec());
        let response = self.send(Method::PUT, &["v1", "txn"], &[], Some(&body)).await?;
        if response.status() == StatusCode::CONFLICT {
            return Ok(None);
        }
        let answer = expect_success(response).await?;
        let index = answer.pointer("/Results/0/KV/ModifyIndex").and_then(Value::as_u64);
        Ok(Some(index.unwrap_or_default()))
    }

    fn named(&self, error: PublishError) -> PublishError {
        let Some(name) = &self.data_center else {
            return error;
        };
        let in_it = |why: String| format!("data centre {name}: {why}");
        match error {
            PublishError::Unsupported => PublishError::Unsupported,
            PublishError::NameTaken(why) => PublishError::NameTaken(in_it(why)),
            PublishError::Forbidden(why) => PublishError::Forbidden(in_it(why)),
            PublishError::Refused(why) => PublishError::Refused(in_it(why)),
            PublishError::Superseded(why) => PublishError::Superseded(in_it(why)),
            PublishError::Unanswered(why) => PublishError::Unanswered(in_it(why)),
        }
    }
}

/// Keys of Consul do not begin with a slash.
fn stripped(key: &str) -> &str {
    key.trim_start_matches('/')
}

async fn expect_success(response: reqwest::Response) -> Result<Value, PublishError> {
    let status = response.status();
    if status.is_success() {
        http::json(response).await
    } else {
        Err(http::refusal(status, &http::text(response).await.unwrap_or_default()))
    }
}

/// One entry of an answer.
struct Entry {
    key: String,
    value: String,
    index: u64,
}

impl Entry {
    fn read(entry: &Value) -> Result<Self, PublishError> {
        let invalid = || PublishError::Refused("its answer has an entry without key, value or index".to_owned());
        let key = entry.get("Key").and_then(Value::as_str).ok_or_else(invalid)?;
        let index = entry.get("ModifyIndex").and_then(Value::as_u64).ok_or_else(invalid)?;
        // An empty value is `null`.
        let value = entry.get("Value").and_then(Value::as_str).unwrap_or_default();
        let value = STANDARD.decode(value).map_err(|_| invalid())?;
        Ok(Self {
            key: key.to_owned(),
            value: String::from_utf8_lossy(&value).into_owned(),
            index,
        })
    }
}

fn operation(verb: &str, key: &str, value: Option<&str>, index: Option<u64>) -> Value {
    let mut operation = json!({"Verb": verb, "Key": stripped(key)});
    if let (Some(value), Some(fields)) = (value, operation.as_object_mut()) {
        fields.insert("Value".to_owned(), json!(STANDARD.encode(value)));
    }
    if let (Some(index), Some(fields)) = (index, operation.as_object_mut()) {
        fields.insert("Index".to_owned(), json!(index));
    }
    json!({"KV": operation})
}

#[async_trait]
impl KvStore for ConsulStore<'_> {
    async fn read(&self, keys: &BTreeSet<String>, epoch_key: &str) -> Result<Stored, PublishError> {
        let Some(top) = keys.first() else {
            return Ok(Stored::default());
        };
        // The epoch is below the address: it has to be read first.
        let mut entries = self.entries(&format!("{top}/"), &["recurse", "consistent"]).await?;
        entries.extend(self.entries(top, &["consistent"]).await?);
        let mut stored = Stored::default();
        for key in keys.iter().map(String::as_str).chain([epoch_key]) {
            if let Some(entry) = entries.iter().find(|entry| entry.key == stripped(key)) {
                stored.values.insert(key.to_owned(), entry.value.clone());
                if key == epoch_key {
                    stored.version = Some(entry.index);
                }
            }
        }
        Ok(stored)
    }

    async fn write(&self, write: &GuardedWrite) -> Result<WriteResult, PublishError> {
        let index = write.version.unwrap_or_default();
        let set = write
            .set
            .iter()
            .map(|(key, value)| operation("set", key, Some(value), None));
        let remove = write.remove.iter().map(|key| operation("delete", key, None, None));
        let changes: Vec<Value> = set.chain(remove).collect();
        let most = self.publisher.options.operations - 1;
        // The index 0 stands for a key that does not exist.
        let Some(value) = &write.epoch_value else {
            // The epoch goes last: it is the condition of all groups.
            for group in changes.chunks(most) {
                let mut operations = vec![operation("check-index", &write.epoch_key, None, Some(index))];
                operations.extend_from_slice(group);
                if self.run(&operations).await?.is_none() {
                    return Ok(WriteResult::Conflict);
                }
            }
            let last = operation("delete-cas", &write.epoch_key, None, Some(index));
            let is_done = self.run(&[last]).await?.is_some();
            return Ok(if is_done {
                WriteResult::Done
            } else {
                WriteResult::Conflict
            });
        };
        let mut condition = operation("cas", &write.epoch_key, Some(value), Some(index));
        let mut groups = changes.chunks(most);
        let mut next = Some(groups.next().unwrap_or_default());
        while let Some(group) = next {
            let mut operations = vec![condition];
            operations.extend_from_slice(group);
            let Some(index) = self.run(&operations).await? else {
                return Ok(WriteResult::Conflict);
            };
            condition = operation("check-index", &write.epoch_key, None, Some(index));
            next = groups.next();
        }
        Ok(WriteResult::Done)
    }

    async fn epochs(&self, prefix: &str) -> Result<BTreeMap<String, String>, PublishError> {
        let entries = self.entries(prefix, &["recurse", "consistent"]).await?;
        let lead = prefix.strip_suffix(stripped(prefix)).unwrap_or_default();
        let epochs = entries.into_iter().filter(|entry| entry.key.ends_with("/epoch"));
        Ok(epochs
            .map(|entry| (format!("{lead}{}", entry.key), entry.value))
            .collect())
    }
}
