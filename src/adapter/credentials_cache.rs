//! The last known accounts of documents, on disk: a member that restarts while the API server is unreachable can still log in to its
//! servers. [`keep_accounts`] combines them with the account of the configuration.
//!
//! The file is `credentials.json` in the member's data directory, readable by its owner only. Accounts are written neither to the log
//! nor to the backend.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::app::ports::{Account, Credentials, CredentialsByOrigin, TlsMode};
use crate::domain::intent::Origin;
use crate::domain::state::State;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "credentials.json";
/// Only the owner reads and writes.
const MODE: u32 = 0o600;

/// The file of the last known accounts.
#[derive(Clone, Debug)]
pub struct CredentialsCache {
    path: PathBuf,
}

/// An account as stored in the file. It has no `Debug`, because it holds passwords.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredAccount {
    user: String,
    password: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    topology: StoredAccount,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replication: Option<StoredAccount>,
    tls: StoredTls,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_pem: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum StoredTls {
    Off,
    Preferred,
    Required,
    Verify,
}

impl CredentialsCache {
    /// The file in a data directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join(FILE_NAME),
        }
    }

    /// The accounts in the file; none when the file does not exist. A file that cannot be read is logged and counts as missing.
    pub fn load(&self) -> CredentialsByOrigin {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return CredentialsByOrigin::default(),
            Err(why) => {
                warn!(
                    "failed to read the last known credentials in {}: {why}",
                    self.path.display()
                );
                return CredentialsByOrigin::default();
            }
        };
        match serde_json::from_str::<BTreeMap<Origin, Stored>>(&text) {
            Ok(stored) => Arc::new(
                stored
                    .into_iter()
                    .map(|(origin, stored)| (origin, stored.into()))
                    .collect(),
            ),
            Err(why) => {
                // Only the position: the text of the error may quote a password.
                warn!(
                    "failed to read the last known credentials in {}: syntax error at line {} column {}",
                    self.path.display(),
                    why.line(),
                    why.column()
                );
                CredentialsByOrigin::default()
            }
        }
    }

    /// Sends to `out` the accounts of `source`, and the last known account of each document that `source` has none for. Keeps the file up
    /// to date. Forgets the accounts of documents that are neither in `source` nor in the state. Runs until `stop`.
    pub async fn run(
        self,
        mut source: watch::Receiver<CredentialsByOrigin>,
        mut state: watch::Receiver<Arc<State>>,
        out: watch::Sender<CredentialsByOrigin>,
        stop: CancellationToken,
    ) {
        let mut known: BTreeMap<Origin, Credentials> = self.load().as_ref().clone();
        loop {
            let fresh = source.borrow_and_update().clone();
            let withdrawn = withdrawn(&known, &fresh, &state.borrow_and_update());
            if merge(&mut known, &fresh, &withdrawn) {
                let (file, stored) = (self.clone(), known.clone());
                let outcome = tokio::task::spawn_blocking(move || file.save(&stored)).await;
                if let Ok(Err(why)) = outcome {
                    warn!(
                        "failed to write the last known credentials to {}: {why}",
                        self.path.display()
                    );
                }
            }
            out.send_if_modified(|present| {
                let changed = !same(present, &known);
                if changed {
                    *present = Arc::new(known.clone());
                }
                changed
            });
            tokio::select! {
                () = stop.cancelled() => return,
                changed = source.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Replaces the file atomically: a crash leaves the old file or the new one.
    fn save(&self, known: &BTreeMap<Origin, Credentials>) -> std::io::Result<()> {
        let stored: BTreeMap<&Origin, Stored> = known
            .iter()
            .map(|(origin, credentials)| (origin, Stored::from(credentials)))
            .collect();
        let text = serde_json::to_vec_pretty(&stored)?;
        let draft = self.path.with_extension("json.new");
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(&draft)?;
        // A draft that an earlier crash left may have another mode.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.write_all(&text)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&draft, &self.path)
    }
}

/// Sends the accounts of the documents together with those of the configuration to `accounts`, until `stop`. Where both have an
/// account for an origin, that of the configuration is used. With a `cache`, documents that are unreachable keep their last known account.
pub async fn keep_accounts(
    configured: CredentialsByOrigin,
    documents: watch::Receiver<CredentialsByOrigin>,
    cache: Option<(CredentialsCache, watch::Receiver<Arc<State>>)>,
    accounts: watch::Sender<CredentialsByOrigin>,
    stop: CancellationToken,
) {
    match cache {
        Some((cache, state)) => {
            let (kept, cached) = watch::channel(CredentialsByOrigin::default());
            tokio::join!(
                cache.run(documents, state, kept, stop.clone()),
                combine(&configured, cached, &accounts, &stop)
            );
        }
        None => combine(&configured, documents, &accounts, &stop).await,
    }
}

async fn combine(
    configured: &CredentialsByOrigin,
    mut documents: watch::Receiver<CredentialsByOrigin>,
    accounts: &watch::Sender<CredentialsByOrigin>,
    stop: &CancellationToken,
) {
    loop {
        let mut all: BTreeMap<Origin, Credentials> = documents.borrow_and_update().as_ref().clone();
        all.extend(
            configured
                .iter()
                .map(|(origin, account)| (origin.clone(), account.clone())),
        );
        accounts.send_replace(Arc::new(all));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = documents.changed() => if changed.is_err() { return },
        }
    }
}

/// Updates `known`. Returns whether it changed.
fn merge(
    known: &mut BTreeMap<Origin, Credentials>,
    fresh: &BTreeMap<Origin, Credentials>,
    withdrawn: &[Origin],
) -> bool {
    let mut changed = false;
    for (origin, credentials) in fresh
        .iter()
        .filter(|(origin, _)| matches!(origin, Origin::Document { .. }))
    {
        if known.get(origin).is_none_or(|present| !present.is_same(credentials)) {
            known.insert(origin.clone(), credentials.clone());
            changed = true;
        }
    }
    for origin in withdrawn {
        changed |= known.remove(origin).is_some();
    }
    changed
}

/// The documents that neither the source nor the state has: they were withdrawn, possibly while this member was down. A state without
/// a group is not loaded yet; then no document counts as withdrawn.
fn withdrawn(
    known: &BTreeMap<Origin, Credentials>,
    fresh: &BTreeMap<Origin, Credentials>,
    state: &State,
) -> Vec<Origin> {
    if state.group.is_none() {
        return Vec::new();
    }
    known
        .keys()
        .filter(|origin| !fresh.contains_key(*origin) && !state.documents.contains_key(*origin))
        .cloned()
        .collect()
}

fn same(ours: &BTreeMap<Origin, Credentials>, theirs: &BTreeMap<Origin, Credentials>) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .all(|(origin, credentials)| theirs.get(origin).is_some_and(|other| other.is_same(credentials)))
}

impl From<&Account> for StoredAccount {
    fn from(account: &Account) -> Self {
        Self {
            user: account.user.clone(),
            password: account.password.expose_secret().to_owned(),
        }
    }
}

impl From<StoredAccount> for Account {
    fn from(stored: StoredAccount) -> Self {
        Self {
            user: stored.user,
            password: SecretString::from(stored.password),
        }
    }
}

impl From<&Credentials> for Stored {
    fn from(credentials: &Credentials) -> Self {
        Self {
            topology: (&credentials.topology).into(),
            replication: credentials.replication.as_ref().map(Into::into),
            tls: match credentials.tls {
                TlsMode::Off => StoredTls::Off,
                TlsMode::Preferred => StoredTls::Preferred,
                TlsMode::Required => StoredTls::Required,
                TlsMode::Verify => StoredTls::Verify,
            },
            ca_pem: credentials.ca_pem.clone(),
        }
    }
}

impl From<Stored> for Credentials {
    fn from(stored: Stored) -> Self {
        Self {
            topology: stored.topology.into(),
            replication: stored.replication.map(Into::into),
            tls: match stored.tls {
                StoredTls::Off => TlsMode::Off,
                StoredTls::Preferred => TlsMode::Preferred,
                StoredTls::Required => TlsMode::Required,
                StoredTls::Verify => TlsMode::Verify,
            },
            ca_pem: stored.ca_pem,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::declared::Tls;
    use crate::domain::state::Group;

    fn origin(name: &str) -> Origin {
        Origin::Document {
            namespace: "db".to_owned(),
            name: name.to_owned(),
        }
    }

    fn credentials(password: &str) -> Credentials {
        let data = [
            ("user", "u"),
            ("password", password),
            ("replicationUser", "r"),
            ("replicationPassword", "s"),
            ("ca.crt", "pem"),
        ];
        let data = data
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))
            .collect();
        Credentials::from_secret(&data, Tls::Verify).unwrap()
    }

    fn state(documents: &[&str]) -> Arc<State> {
        let record = |name: &&str| {
            let mut declared = crate::domain::declared::fixture::document("db", name);
            declared.document.origin = origin(name);
            (origin(name), declared.document)
        };
        let group = Group {
            uuid: "g".to_owned(),
            history: "h".to_owned(),
        };
        Arc::new(State {
            group: Some(group),
            documents: documents.iter().map(record).collect(),
            ..State::default()
        })
    }

    async fn wait_for(
        receiver: &mut watch::Receiver<CredentialsByOrigin>,
        what: impl FnMut(&CredentialsByOrigin) -> bool,
    ) {
        tokio::time::timeout(Duration::from_secs(10), receiver.wait_for(what))
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn the_last_good_account_outlives_its_source_and_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CredentialsCache::in_directory(directory.path());
        let (source, source_watch) = watch::channel(CredentialsByOrigin::default());
        let (_state, state_watch) = watch::channel(state(&["orders"]));
        let (out, mut merged) = watch::channel(CredentialsByOrigin::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(cache.clone().run(source_watch, state_watch, out, stop.clone()));
        source.send_replace(Arc::new(BTreeMap::from([(origin("orders"), credentials("one"))])));
        wait_for(&mut merged, |all| all.contains_key(&origin("orders"))).await;
        source.send_replace(CredentialsByOrigin::default());
        source.send_replace(Arc::new(BTreeMap::from([(origin("orders"), credentials("two"))])));
        wait_for(&mut merged, |all| {
            all.get(&origin("orders"))
                .is_some_and(|held| held.is_same(&credentials("two")))
        })
        .await;
        stop.cancel();
        running.await.unwrap();

        let loaded = cache.load();
        assert!(loaded.get(&origin("orders")).unwrap().is_same(&credentials("two")));
        let mode = fs::metadata(directory.path().join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn accounts_of_withdrawn_documents_are_forgotten_on_disk_too() {
        let directory = tempfile::tempdir().unwrap();
        let cache = CredentialsCache::in_directory(directory.path());
        cache
            .save(&BTreeMap::from([
                (origin("orders"), credentials("one")),
                (origin("gone"), credentials("one")),
            ]))
            .unwrap();
        let (_source, source_watch) = watch::channel(CredentialsByOrigin::default());
        let (_state, state_watch) = watch::channel(state(&["orders"]));
        let (out, mut merged) = watch::channel(CredentialsByOrigin::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(cache.clone().run(source_watch, state_watch, out, stop.clone()));
        wait_for(&mut merged, |all| all.len() == 1 && all.contains_key(&origin("orders"))).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(cache.load().keys().cloned().collect::<Vec<_>>(), vec![origin("orders")]);
    }

    #[tokio::test]
    async fn the_account_of_the_configuration_is_kept_beside_those_of_the_documents() {
        let configured = Arc::new(BTreeMap::from([(Origin::Api, credentials("configured"))]));
        let (source, source_watch) = watch::channel(CredentialsByOrigin::default());
        let (accounts, mut combined) = watch::channel(CredentialsByOrigin::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(keep_accounts(configured, source_watch, None, accounts, stop.clone()));
        wait_for(&mut combined, |all| all.contains_key(&Origin::Api)).await;
        source.send_replace(Arc::new(BTreeMap::from([
            (Origin::Api, credentials("other")),
            (origin("orders"), credentials("one")),
        ])));
        wait_for(&mut combined, |all| all.contains_key(&origin("orders"))).await;
        assert!(
            combined
                .borrow()
                .get(&Origin::Api)
                .unwrap()
                .is_same(&credentials("configured"))
        );
        source.send_replace(CredentialsByOrigin::default());
        wait_for(&mut combined, |all| all.len() == 1 && all.contains_key(&Origin::Api)).await;
        stop.cancel();
        running.await.unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_read_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "{\"cr:db/a\": 3}").unwrap();
        assert!(CredentialsCache::in_directory(directory.path()).load().is_empty());
    }
}
