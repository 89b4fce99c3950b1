//! The last good accounts of documents, on disk: a member that restarts while the API server is away can still ask its servers.
//!
//! `credentials.json` in the member's data directory, readable by its owner only. Never in the log, never in the backend.

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
/// Owner reads and writes, nobody else does anything.
const MODE: u32 = 0o600;

/// The file.
#[derive(Clone, Debug)]
pub struct CredentialsCache {
    path: PathBuf,
}

/// An account as it lies in the file. No `Debug`: it holds passwords.
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

    /// What lies in the file; nothing when there is none. One that cannot be read is logged and counts as none.
    pub fn load(&self) -> CredentialsByOrigin {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return CredentialsByOrigin::default(),
            Err(why) => {
                warn!("{}: last known credentials cannot be read: {why}", self.path.display());
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
                // The place only: the error's text may quote what stands there.
                warn!(
                    "{}: last known credentials cannot be read: line {} column {}",
                    self.path.display(),
                    why.line(),
                    why.column()
                );
                CredentialsByOrigin::default()
            }
        }
    }

    /// Passes on what `source` has, with the last known accounts for documents that it has none for, and keeps the file up to date,
    /// until `stop`. Accounts of documents that are in neither are forgotten.
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
                        "{}: last known credentials cannot be written: {why}",
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

    /// Replaces the file: a crash leaves the old one or the new one.
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

/// Brings `known` up to date; says whether it changed.
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

/// Documents that neither the source nor the state has: withdrawn, also while this member was down. A state without a group was not
/// filled yet and says nothing.
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

    #[test]
    fn a_file_that_cannot_be_read_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE_NAME), "{\"cr:db/a\": 3}").unwrap();
        assert!(CredentialsCache::in_directory(directory.path()).load().is_empty());
    }
}
