//! Pairs in ZooKeeper. A pair is a node; the address of a cluster is the content of the node above its other pairs, so that it is
//! emptied where others delete a key. A write is one transaction on the condition of the version of the epoch's node.

mod codec;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::app::ports::publisher::{PrimaryPublication, PrimaryPublisher, PublicationChange};
use crate::domain::declared::PublishError;
use crate::domain::published_primary::PublishedPrimaries;

use super::PairOptions;
use super::fenced::{GuardedWrite, KvStore, Stored, WriteResult, remove_leftovers, write_pairs};
use super::tls::{TlsFiles, TlsFilesError};
use codec::{Reader, Writer, invalid};
use session::{ServerError, Session};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const CHECK: i32 = 13;
const MULTI: i32 = 14;

/// How long a session is used without having sent anything: it expires after 30 s.
const REUSE: Duration = Duration::from_secs(10);

/// How ZooKeeper is reached.
#[derive(Clone, Debug)]
pub struct ZooKeeperOptions {
    /// The servers, as `host:2181`. The first one that answers is used.
    pub servers: Vec<String>,
    /// The path below which all keys are; empty: the root.
    pub root: String,
    /// `user:password` for the scheme `digest`; nodes that are created may then be changed by this user only.
    pub digest: Option<SecretString>,
    /// The files for TLS; `None`: connections are not encrypted.
    pub tls: Option<TlsFiles>,
    /// What is written.
    pub pairs: PairOptions,
}

/// Publishes to ZooKeeper.
pub struct ZooKeeperPublisher {
    options: ZooKeeperOptions,
    tls: Option<Arc<ClientConfig>>,
    kept: Mutex<Option<(Session, Instant)>>,
}

impl ZooKeeperPublisher {
    /// Prepares the publisher; nothing is connected.
    ///
    /// # Errors
    /// When a file for TLS cannot be used.
    pub fn new(options: ZooKeeperOptions) -> Result<Self, TlsFilesError> {
        let tls = options
            .tls
            .as_ref()
            .map(TlsFiles::client_config)
            .transpose()?
            .map(Arc::new);
        Ok(Self {
            options,
            tls,
            kept: Mutex::default(),
        })
    }

    /// A session with the first server that answers.
    async fn open(&self) -> Result<Session, PublishError> {
        let digest = self.options.digest.as_ref().map(ExposeSecret::expose_secret);
        let mut last = PublishError::Refused("no server is configured".to_owned());
        for server in &self.options.servers {
            match Session::open(server, self.tls.clone(), digest).await {
                Ok(session) => return Ok(session),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The node of a key: below the root, with one slash between two parts.
    fn path(&self, key: &str) -> String {
        let parts = self
            .options
            .root
            .split('/')
            .chain(key.split('/'))
            .filter(|part| !part.is_empty());
        parts.fold(String::new(), |path, part| format!("{path}/{part}"))
    }

    /// The kept session, or a new one.
    async fn lease(&self) -> Result<Lease<'_>, PublishError> {
        let mut kept = self.kept.lock().await;
        let session = match kept.take() {
            Some((session, used)) if used.elapsed() < REUSE => session,
            Some(_) | None => self.open().await?,
        };
        Ok(Lease { kept, session })
    }

    /// The permissions of a new node: with an account only it may change the node, and everything may read it.
    fn acl(&self) -> Writer {
        match self.options.digest {
            Some(_) => Writer::default()
                .int(2)
                .int(31)
                .text("auth")
                .text("")
                .int(1)
                .text("world")
                .text("anyone"),
            None => Writer::default().int(1).int(31).text("world").text("anyone"),
        }
    }

    fn creation(&self, path: &str, value: &str) -> Writer {
        Writer::default()
            .text(path)
            .buffer(value.as_bytes())
            .append(self.acl())
            .int(0)
    }

    /// Creates the nodes above `path` that do not exist.
    async fn create_parents(&self, session: &mut Session, path: &str) -> Result<(), PublishError> {
        let ends = path.match_indices('/').skip(1).map(|(at, _)| at);
        for parent in ends.filter_map(|at| path.get(..at)) {
            match session.call(CREATE, self.creation(parent, "")).await? {
                Ok(_) | Err(ServerError::NodeExists) => {}
                Err(error) => return Err(error.publish_error(&format!("create {parent}"))),
            }
        }
        Ok(())
    }

    /// The nodes and requests of one transaction. A node that exists is changed, another one is created.
    async fn transaction(
        &self,
        session: &mut Session,
        write: &GuardedWrite,
    ) -> Result<Vec<(i32, Writer)>, PublishError> {
        let epoch = self.path(&write.epoch_key);
        let top = epoch.strip_suffix("/epoch").unwrap_or(&epoch).to_owned();
        let version = match write.version {
            Some(version) => i32::try_from(version).map_err(|_| invalid("a version is too large"))?,
            None => -1,
        };
        let changed = |path: &str, value: &str| Writer::default().text(path).buffer(value.as_bytes()).int(-1);
        let mut requests = Vec::new();
        if write.version.is_some() {
            requests.push((CHECK, Writer::default().text(&epoch).int(version)));
        }
        // The node above the others comes first: it sorts before them.
        let mut values: BTreeMap<String, &str> = write
            .set
            .iter()
            .map(|(key, value)| (self.path(key), value.as_str()))
            .collect();
        if write.version.is_none() {
            // The nodes below it cannot be created without it.
            values.entry(top.clone()).or_default();
        }
        for (path, value) in &values {
            let exists = exists(session, path).await?;
            match (exists, write.set.keys().any(|key| self.path(key) == *path)) {
                (true, true) => requests.push((SET_DATA, changed(path, value))),
                (true, false) => {}
                (false, _) => requests.push((CREATE, self.creation(path, value))),
            }
        }
        let mut deleted: BTreeSet<String> = write.remove.iter().map(|key| self.path(key)).collect();
        let is_top_emptied = deleted.remove(&top);
        for path in &deleted {
            requests.push((DELETE, Writer::default().text(path).int(-1)));
        }
        match &write.epoch_value {
            Some(value) if write.version.is_some() => requests.push((SET_DATA, changed(&epoch, value))),
            Some(value) => requests.push((CREATE, self.creation(&epoch, value))),
            None => requests.push((DELETE, Writer::default().text(&epoch).int(version))),
        }
        let is_ours = |name: &String| {
            let path = format!("{top}/{name}");
            path == epoch || deleted.contains(&path)
        };
        // Others may have nodes below it, which keep it.
        if write.epoch_value.is_none() && children(session, &top).await?.iter().all(is_ours) {
            requests.push((DELETE, Writer::default().text(&top).int(-1)));
        } else if is_top_emptied {
            requests.push((SET_DATA, changed(&top, "")));
        }
        Ok(requests)
    }
}

/// A session in use. It is closed unless it is put back: after an error its state is unknown.
struct Lease<'a> {
    kept: MutexGuard<'a, Option<(Session, Instant)>>,
    session: Session,
}

impl Lease<'_> {
    fn put_back(mut self) {
        *self.kept = Some((self.session, Instant::now()));
    }
}

async fn exists(session: &mut Session, path: &str) -> Result<bool, PublishError> {
    match session.call(EXISTS, Writer::default().text(path).bool(false)).await? {
        Ok(_) => Ok(true),
        Err(ServerError::NoNode) => Ok(false),
        Err(error) => Err(error.publish_error(&format!("look for {path}"))),
    }
}

/// The content of a node and its version; `None` when there is no such node.
async fn content(session: &mut Session, path: &str) -> Result<Option<(String, u64)>, PublishError> {
    match session.call(GET_DATA, Writer::default().text(path).bool(false)).await? {
        Ok(body) => {
            let mut reader = Reader::new(&body);
            let value = reader.text()?;
            let version = u64::try_from(reader.stat_version()?).map_err(|_| invalid("a version is negative"))?;
            Ok(Some((value, version)))
        }
        Err(ServerError::NoNode) => Ok(None),
        Err(error) => Err(error.publish_error(&format!("read {path}"))),
    }
}

/// The names of the nodes below a node; none when there is no such node.
async fn children(session: &mut Session, path: &str) -> Result<Vec<String>, PublishError> {
    match session
        .call(GET_CHILDREN, Writer::default().text(path).bool(false))
        .await?
    {
        Ok(body) => Reader::new(&body).texts(),
        Err(ServerError::NoNode) => Ok(Vec::new()),
        Err(error) => Err(error.publish_error(&format!("list {path}"))),
    }
}

/// Waits until the server has everything that was written before.
async fn sync(session: &mut Session, path: &str) -> Result<(), PublishError> {
    match session.call(SYNC, Writer::default().text(path)).await? {
        Ok(_) | Err(ServerError::NoNode) => Ok(()),
        Err(error) => Err(error.publish_error(&format!("read {path}"))),
    }
}

/// The first error of a transaction.
fn first_error(body: &[u8]) -> Result<Option<ServerError>, PublishError> {
    let mut reader = Reader::new(body);
    let (kind, _, code) = (reader.int()?, reader.bool()?, reader.int()?);
    if kind != -1 {
        return Ok(None);
    }
    // All operations are listed as errors; those that did not fail have the code 0 or -2.
    let mut codes = vec![code, reader.int()?];
    loop {
        let (kind, is_end, code) = (reader.int()?, reader.bool()?, reader.int()?);
        if is_end || kind != -1 {
            break;
        }
        codes.extend([code, reader.int()?]);
    }
    let failed = codes.into_iter().find(|code| *code != 0 && *code != -2);
    Ok(Some(ServerError::of(failed.unwrap_or(-2))))
}

#[async_trait]
impl KvStore for ZooKeeperPublisher {
    async fn read(&self, keys: &BTreeSet<String>, epoch_key: &str) -> Result<Stored, PublishError> {
        let mut stored = Stored::default();
        let mut lease = self.lease().await?;
        let session = &mut lease.session;
        sync(session, &self.path(epoch_key)).await?;
        // The epoch is read first: a write after that changes its version.
        if let Some((value, version)) = content(session, &self.path(epoch_key)).await? {
            stored.values.insert(epoch_key.to_owned(), value);
            stored.version = Some(version);
        }
        for key in keys {
            // The node of the address stays when its content is withdrawn.
            let is_top = epoch_key.strip_suffix("/epoch") == Some(key.as_str());
            if let Some((value, _)) = content(session, &self.path(key)).await?
                && !(is_top && value.is_empty())
            {
                stored.values.insert(key.clone(), value);
            }
        }
        lease.put_back();
        Ok(stored)
    }

    async fn write(&self, write: &GuardedWrite) -> Result<WriteResult, PublishError> {
        let mut lease = self.lease().await?;
        let session = &mut lease.session;
        if write.version.is_none() {
            let epoch = self.path(&write.epoch_key);
            self.create_parents(session, epoch.strip_suffix("/epoch").unwrap_or(&epoch))
                .await?;
        }
        let mut request = Writer::default();
        for (kind, operation) in self.transaction(session, write).await? {
            request = request.int(kind).bool(false).int(-1).append(operation);
        }
        let request = request.int(-1).bool(true).int(-1);
        let failed = match session.call(MULTI, request).await? {
            Ok(body) => first_error(&body)?,
            Err(error) => Some(error),
        };
        let result = match failed {
            None => WriteResult::Done,
            Some(ServerError::BadVersion | ServerError::NodeExists | ServerError::NoNode | ServerError::NotEmpty) => {
                WriteResult::Conflict
            }
            Some(error) => return Err(error.publish_error(&format!("write {}", write.epoch_key))),
        };
        lease.put_back();
        Ok(result)
    }

    async fn epochs(&self, prefix: &str) -> Result<BTreeMap<String, String>, PublishError> {
        let mut epochs = BTreeMap::new();
        let mut lease = self.lease().await?;
        let session = &mut lease.session;
        let path = Some(self.path(prefix)).filter(|path| !path.is_empty());
        let path = path.unwrap_or_else(|| "/".to_owned());
        sync(session, &path).await?;
        for name in children(session, &path).await? {
            let key = format!("{prefix}{name}/epoch");
            if let Some((value, _)) = content(session, &self.path(&key)).await? {
                epochs.insert(key, value);
            }
        }
        lease.put_back();
        Ok(epochs)
    }
}

#[async_trait]
impl PrimaryPublisher for ZooKeeperPublisher {
    fn name(&self) -> String {
        format!("ZooKeeper {}{}", self.options.servers.join(","), self.options.root)
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
