//! `MySQLCluster` documents from a directory: the way to use them without Kubernetes.
//!
//! `*.yaml` and `*.yml` files of one folder, several documents a file, `v1/Secret` documents beside them. The folder is looked at
//! twice a second (names, sizes, times; contents only when those changed), which works on every file system and for files that are
//! symbolic links. The leader writes `status/NAMESPACE.NAME.yaml` below it.

mod parse;
mod scan;
mod status;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::ports::cluster_source::{
    ClusterEvent, ClusterSource, DocumentSet, Observer, Reading, Seen, StatusError, StatusModel,
};
use crate::app::ports::{Credentials, CredentialsByOrigin};
use crate::domain::intent::Origin;

use scan::{Contents, Stamps};

/// How often the folder is looked at: a change is acted on within two seconds, and a look costs a few system calls per file.
const POLL: Duration = Duration::from_millis(500);

/// A directory of documents.
pub struct ManifestDirectory {
    dir: PathBuf,
    documents: watch::Sender<DocumentSet>,
    credentials: watch::Sender<CredentialsByOrigin>,
    digest: watch::Sender<String>,
    looked: Mutex<Looked>,
}

/// What the last look saw.
#[derive(Default)]
struct Looked {
    stamps: Option<Stamps>,
    digest: Option<String>,
    complaints: BTreeSet<String>,
}

impl ManifestDirectory {
    /// A directory that was not read yet. [`Self::run`] reads it.
    pub fn new(dir: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.into(),
            documents: watch::Sender::default(),
            credentials: watch::Sender::default(),
            digest: watch::Sender::default(),
            looked: Mutex::default(),
        })
    }

    /// SHA-256 of names and contents as last read, hexadecimal; empty before. Members compare it.
    pub fn digest(&self) -> watch::Receiver<String> {
        self.digest.subscribe()
    }

    /// Looks at the directory until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// One look: reads what changed and publishes it.
    pub async fn look(&self) {
        let mut looked = self.looked.lock().await;
        let settled = self.documents.borrow().reading == Reading::Complete;
        let known = if settled { looked.stamps.clone() } else { None };
        let dir = self.dir.clone();
        let outcome = tokio::task::spawn_blocking(move || scan::scan(&dir, known.as_ref())).await;
        match outcome {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((stamps, contents)))) => {
                // Half of a folder that is being copied looks like a folder with less in it: absence counts when it was seen twice.
                let twice = looked.digest.as_ref() == Some(&contents.digest);
                looked.digest = Some(contents.digest.clone());
                looked.stamps = Some(stamps);
                let orphans = self.publish(contents, twice, &mut looked.complaints);
                for name in orphans {
                    // One that cannot be removed is tried again with the next change; it misleads nobody but a reader of the folder.
                    drop(tokio::fs::remove_file(self.dir.join(status::STATUS_FOLDER).join(name)).await);
                }
            }
            Ok(Err(why)) => self.unreadable(&why, &mut looked),
            Err(why) => self.unreadable(
                &format!("reading {} ended badly: {why}", self.dir.display()),
                &mut looked,
            ),
        }
    }

    fn unreadable(&self, why: &str, looked: &mut Looked) {
        looked.stamps = None;
        looked.digest = None;
        complain(&mut looked.complaints, BTreeSet::from([why.to_owned()]));
        self.documents.send_if_modified(|present| {
            let changed = present.reading != Reading::Stale;
            if changed {
                let mut seen = present.as_ref().clone();
                seen.reading = Reading::Stale;
                *present = Arc::new(seen);
            }
            changed
        });
    }

    /// Tells what was read. Returns the files of statuses whose documents are gone.
    fn publish(&self, contents: Contents, twice: bool, complaints: &mut BTreeSet<String>) -> Vec<String> {
        let parse::Parsed {
            mut seen,
            credentials,
            complaints: found,
            all_known,
        } = parse::parse(contents.files, &contents.statuses);
        seen.reading = if twice && all_known {
            Reading::Complete
        } else {
            Reading::Partial
        };
        complain(complaints, found);
        let orphans = if seen.reading == Reading::Complete {
            orphans(&seen, &contents.statuses)
        } else {
            Vec::new()
        };
        if *self.digest.borrow() != contents.digest {
            info!(directory = %self.dir.display(), documents = seen.documents.len(), "documents read from the directory");
        }
        self.digest.send_if_modified(|present| {
            let changed = *present != contents.digest;
            *present = contents.digest;
            changed
        });
        self.credentials.send_if_modified(|present| {
            let changed = !same_credentials(present, &credentials);
            if changed {
                *present = Arc::new(credentials);
            }
            changed
        });
        self.documents.send_if_modified(|present| {
            let changed = **present != seen;
            if changed {
                *present = Arc::new(seen);
            }
            changed
        });
        orphans
    }
}

fn orphans(seen: &Seen, statuses: &BTreeMap<String, String>) -> Vec<String> {
    let present: BTreeSet<String> = seen
        .documents
        .iter()
        .map(|declared| &declared.document.origin)
        .chain(seen.unreadable.keys())
        .filter_map(|origin| match origin {
            Origin::Document { namespace, name } => Some(status::file_name(namespace, name)),
            Origin::Api | Origin::Recovery => None,
        })
        .collect();
    statuses
        .keys()
        .filter(|name| !present.contains(*name))
        .cloned()
        .collect()
}

/// Logs what is new among the complaints, and remembers all of them.
fn complain(present: &mut BTreeSet<String>, found: BTreeSet<String>) {
    for complaint in found.difference(present) {
        warn!("{complaint}");
    }
    *present = found;
}

fn same_credentials(ours: &BTreeMap<Origin, Credentials>, theirs: &BTreeMap<Origin, Credentials>) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .all(|(origin, credentials)| theirs.get(origin).is_some_and(|other| other.is_same(credentials)))
}

#[async_trait]
impl ClusterSource for ManifestDirectory {
    fn documents(&self) -> watch::Receiver<DocumentSet> {
        self.documents.subscribe()
    }

    fn credentials(&self) -> watch::Receiver<CredentialsByOrigin> {
        self.credentials.subscribe()
    }

    async fn write_status(
        &self,
        origin: &Origin,
        status: &StatusModel,
        observer: &Observer,
    ) -> Result<(), StatusError> {
        let (dir, about, status, observer) = (self.dir.clone(), origin.clone(), status.clone(), observer.clone());
        tokio::task::spawn_blocking(move || status::write(&dir, &about, &status, &observer))
            .await
            .map_err(|why| StatusError::Failed {
                origin: origin.clone(),
                why: why.to_string(),
            })?
    }

    async fn tell(&self, origin: &Origin, notice: &ClusterEvent) -> Result<(), StatusError> {
        // A folder has no events: the log is where they are looked for.
        info!(%origin, "{}: {}", notice.reason.as_str(), notice.note);
        Ok(())
    }
}
