//! Reads `MySQLCluster` documents from a directory, for installations without Kubernetes.
//!
//! It reads the `*.yaml` and `*.yml` files of one folder, which contain any number of documents, with `v1/Secret` documents for
//! the accounts. The folder is polled twice a second (names, sizes and times; contents only when those changed). Polling works on
//! every file system and for symbolic links. The leader writes `status/NAMESPACE.NAME.yaml` below the folder.

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

use crate::app::ports::cluster_source::{ClusterSource, DocumentSet, StatusError};
use crate::app::ports::publisher::Publisher;
use crate::app::ports::{Credentials, CredentialsByOrigin};
use crate::domain::declared::{ClusterEvent, Completeness, Observer, SourceContents, StatusModel};
use crate::domain::intent::Origin;

use scan::{Contents, Stamps};

/// Interval between two scans: a change takes effect within two seconds, and a scan costs a few system calls per file.
const POLL: Duration = Duration::from_millis(500);

/// The port [`ClusterSource`] on a directory of documents.
pub struct ManifestDirectory {
    dir: PathBuf,
    documents: watch::Sender<DocumentSet>,
    credentials: watch::Sender<CredentialsByOrigin>,
    digest: watch::Sender<String>,
    last_scan: Mutex<LastScan>,
}

/// The result of the last scan.
#[derive(Default)]
struct LastScan {
    stamps: Option<Stamps>,
    digest: Option<String>,
    problems: BTreeSet<String>,
}

impl ManifestDirectory {
    /// Creates a source without contents. [`Self::run`] reads the directory.
    pub fn new(dir: impl Into<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.into(),
            documents: watch::Sender::default(),
            credentials: watch::Sender::default(),
            digest: watch::Sender::default(),
            last_scan: Mutex::default(),
        })
    }

    /// The SHA-256 of the names and contents that were read last, in hexadecimal; empty before the first scan. Members compare
    /// it.
    pub fn digest(&self) -> watch::Receiver<String> {
        self.digest.subscribe()
    }

    /// Scans the directory periodically until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            self.scan_once().await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Scans the directory once: reads what changed, and publishes it.
    pub async fn scan_once(&self) {
        let mut last_scan = self.last_scan.lock().await;
        let settled = self.documents.borrow().completeness == Completeness::Complete;
        let known = if settled { last_scan.stamps.clone() } else { None };
        let dir = self.dir.clone();
        let outcome = tokio::task::spawn_blocking(move || scan::scan(&dir, known.as_ref())).await;
        match outcome {
            Ok(Ok(None)) => {}
            Ok(Ok(Some((stamps, contents)))) => {
                // While a folder is being copied, some of its files are missing. So an absent document counts after two equal
                // scans.
                let twice = last_scan.digest.as_ref() == Some(&contents.digest);
                last_scan.digest = Some(contents.digest.clone());
                last_scan.stamps = Some(stamps);
                let orphans = self.publish(contents, twice, &mut last_scan.problems);
                for name in orphans {
                    // A file that cannot be removed is tried again after the next change. It only misleads readers of the folder.
                    drop(tokio::fs::remove_file(self.dir.join(status::STATUS_FOLDER).join(name)).await);
                }
            }
            Ok(Err(why)) => self.unreadable(&why, &mut last_scan),
            Err(why) => self.unreadable(&format!("failed to read {}: {why}", self.dir.display()), &mut last_scan),
        }
    }

    /// Reports that the directory cannot be read: the documents are stale.
    fn unreadable(&self, why: &str, last_scan: &mut LastScan) {
        last_scan.stamps = None;
        last_scan.digest = None;
        log_new_problems(&mut last_scan.problems, BTreeSet::from([why.to_owned()]));
        self.documents.send_if_modified(|present| {
            let changed = present.completeness != Completeness::Stale;
            if changed {
                let mut seen = present.as_ref().clone();
                seen.completeness = Completeness::Stale;
                *present = Arc::new(seen);
            }
            changed
        });
    }

    /// Publishes what was read. Returns the status files of documents that are gone.
    fn publish(&self, contents: Contents, twice: bool, problems: &mut BTreeSet<String>) -> Vec<String> {
        let parse::Parsed {
            mut seen,
            credentials,
            problems: found,
            all_named,
        } = parse::parse(contents.files, &contents.statuses);
        seen.completeness = if twice && all_named {
            Completeness::Complete
        } else {
            Completeness::Partial
        };
        log_new_problems(problems, found);
        let orphans = if seen.completeness == Completeness::Complete {
            orphans(&seen, &contents.statuses)
        } else {
            Vec::new()
        };
        if *self.digest.borrow() != contents.digest {
            info!(directory = %self.dir.display(), documents = seen.documents.len(), "read documents from the directory");
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

/// The status files of documents that do not exist any more.
fn orphans(seen: &SourceContents, statuses: &BTreeMap<String, String>) -> Vec<String> {
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

/// Logs the problems that are new, and remembers all of them.
fn log_new_problems(present: &mut BTreeSet<String>, found: BTreeSet<String>) {
    for problem in found.difference(present) {
        warn!("{problem}");
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

    async fn record_event(&self, origin: &Origin, event: &ClusterEvent) -> Result<(), StatusError> {
        // A folder has no Events, so they are logged.
        info!(%origin, "{}: {}", event.reason.as_str(), event.note);
        Ok(())
    }
}

/// Nothing is published: there are neither Services nor pods.
impl Publisher for ManifestDirectory {}
