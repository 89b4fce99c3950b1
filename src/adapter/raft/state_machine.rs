//! The replicated state, in memory and in the backend.
//!
//! Entries that arrive together are applied in memory and written in one transaction with the log position. Only then are the callers
//! and the watchers of the state notified.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::log_store::LogStore;
use super::snapshot::{SnapshotDocument, newer_command_message};
use super::types::{AppliedPosition, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::app::ports::{AppliedMark, StateStore, StoreError};
use crate::domain::state::command::COMMAND_VERSION;
use crate::domain::state::{Applied, Change, MemberId, State, apply};

/// Maximum number of entries in one transaction. It bounds how long a member that catches up occupies the backend.
const MAX_BATCH: usize = 256;
/// After so long a write to the backend without an answer counts as failed.
const SLOW_WRITE: Duration = Duration::from_secs(1);
/// First pause before a failed write to the backend is retried; the pause doubles up to one second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The owner of the state in a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateOwner {
    /// Uuid of the group.
    pub cluster_uuid: String,
    /// History of the group.
    pub history: String,
    /// The member.
    pub member: MemberId,
}

/// Whether the backend fails. Clones share the value.
#[derive(Clone, Debug, Default)]
pub struct BackendWriteFailure(Arc<Mutex<Option<(Instant, String)>>>);

impl BackendWriteFailure {
    /// Since when it fails, and the error; `None` when it does not.
    pub fn since(&self) -> Option<(Instant, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, error: Option<&StoreError>) {
        let mut write_failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *write_failure = error.map(|error| {
            (
                write_failure.as_ref().map_or_else(Instant::now, |(since, _)| *since),
                error.to_string(),
            )
        });
    }
}

/// Why a member cannot use its backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// It belongs to another group.
    #[error(
        "the backend belongs to group {found}, this member to group {wanted}: give this member a backend of its own, or empty this one"
    )]
    OtherGroup {
        /// The backend's group.
        found: String,
        /// This member's group.
        wanted: String,
    },
    /// It cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The running consensus module.
pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The state machine of one member.
pub struct StateMachine {
    store: Arc<dyn StateStore>,
    log: LogStore,
    owner: StateOwner,
    state: Arc<State>,
    position: AppliedPosition,
    publish: watch::Sender<Arc<State>>,
    retry_limit: Duration,
    write_failure: BackendWriteFailure,
}

impl StateMachine {
    /// Reads the state from the backend. A state that another member id or another history wrote is dropped: it is filled again from the
    /// local snapshot and log, or from the snapshot of the leader. A failed write is retried for `retry_limit`.
    ///
    /// # Errors
    /// When the backend cannot be read, or belongs to another group.
    pub async fn open(
        store: Arc<dyn StateStore>,
        log: LogStore,
        owner: StateOwner,
        publish: watch::Sender<Arc<State>>,
        retry_limit: Duration,
        write_failure: BackendWriteFailure,
    ) -> Result<Self, BackendError> {
        let (state, mark) = store.load().await?;
        if !mark.group_uuid.is_empty() && mark.group_uuid != owner.cluster_uuid {
            return Err(BackendError::OtherGroup {
                found: mark.group_uuid,
                wanted: owner.cluster_uuid,
            });
        }
        let is_own =
            mark.group_uuid == owner.cluster_uuid && mark.history == owner.history && mark.member == owner.member;
        let position = if is_own {
            serde_json::from_str::<AppliedPosition>(&mark.position).ok()
        } else {
            None
        };
        let mut machine = Self {
            store,
            log,
            owner,
            state: Arc::new(State::default()),
            position: AppliedPosition::default(),
            publish,
            retry_limit,
            write_failure,
        };
        match position {
            Some(position) => {
                machine.state = Arc::new(state);
                machine.position = position;
            }
            None if mark.group_uuid.is_empty() && state == State::default() => {}
            None => {
                tracing::warn!(
                    "the backend was written by member {} with history {:?}: emptying it and filling it again from the log",
                    mark.member,
                    mark.history
                );
                machine.store.replace(&State::default(), &machine.mark()?).await?;
            }
        }
        machine.publish.send_replace(machine.state.clone());
        Ok(machine)
    }

    fn mark(&self) -> Result<AppliedMark, StoreError> {
        self.mark_at(&self.position)
    }

    fn mark_at(&self, position: &AppliedPosition) -> Result<AppliedMark, StoreError> {
        let position = serde_json::to_string(position).map_err(|error| StoreError {
            backend: String::new(),
            what: "encode the log position".to_owned(),
            why: error.to_string(),
        })?;
        Ok(AppliedMark {
            group_uuid: self.owner.cluster_uuid.clone(),
            history: self.owner.history.clone(),
            member: self.owner.member,
            position,
        })
    }

    /// Writes, and retries until `retry_limit`: a backend that restarts must not stop the member. Afterwards the member stops.
    async fn persist(
        &self,
        changes: Option<&BTreeSet<Change>>,
        state: &State,
        position: &AppliedPosition,
    ) -> io::Result<()> {
        let mark = self.mark_at(position).map_err(io::Error::other)?;
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let written = match changes {
                Some(changes) => self.report_slowness(self.store.write(state, changes, &mark)).await,
                None => self.report_slowness(self.store.replace(state, &mark)).await,
            };
            let Err(error) = written else {
                self.write_failure.set(None);
                return Ok(());
            };
            if self.write_failure.since().is_none() {
                tracing::error!("{error}; retrying for {}", limit_text(self.retry_limit));
            }
            self.write_failure.set(Some(&error));
            if began.elapsed().saturating_add(pause) > self.retry_limit {
                return Err(io::Error::other(format!(
                    "{error}; gave up after {} s",
                    began.elapsed().as_secs()
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Awaits a write. A backend that does not answer has failed from then on for the health of this member, although its error comes late.
    async fn report_slowness(&self, write: impl Future<Output = Result<(), StoreError>>) -> Result<(), StoreError> {
        let mut write = std::pin::pin!(write);
        if let Ok(written) = tokio::time::timeout(SLOW_WRITE, &mut write).await {
            return written;
        }
        let (what, why) = (
            "write the state".to_owned(),
            format!("no answer for {} s", SLOW_WRITE.as_secs()),
        );
        let backend = self.store.name();
        self.write_failure.set(Some(&StoreError { backend, what, why }));
        write.await
    }

    async fn commit(&mut self, batch: Batch) -> io::Result<()> {
        if batch.entries == 0 {
            return Ok(());
        }
        self.persist(Some(&batch.changes), &batch.state, &batch.position)
            .await?;
        self.state = Arc::new(batch.state);
        self.position = batch.position;
        self.publish.send_replace(self.state.clone());
        for (responder, applied) in batch.replies {
            responder.send(applied);
        }
        Ok(())
    }

    fn batch(&self) -> Batch {
        Batch {
            state: self.state.as_ref().clone(),
            position: self.position.clone(),
            changes: BTreeSet::new(),
            replies: Vec::new(),
            entries: 0,
        }
    }
}

fn limit_text(limit: Duration) -> String {
    if limit == Duration::MAX {
        "as long as it takes".to_owned()
    } else {
        format!("{} s", limit.as_secs())
    }
}

/// Entries that were applied in memory and are not written yet.
struct Batch {
    state: State,
    position: AppliedPosition,
    changes: BTreeSet<Change>,
    replies: Vec<(ApplyResponder<TypeConfig>, Applied)>,
    entries: usize,
}

impl Batch {
    fn add(&mut self, entry: Entry, responder: Option<ApplyResponder<TypeConfig>>) -> io::Result<()> {
        let id = entry.log_id();
        let applied = match entry.payload {
            EntryPayload::Blank => Applied::Done,
            EntryPayload::Membership(membership) => {
                self.position.membership = StoredMembership::new(Some(id), membership);
                Applied::Done
            }
            EntryPayload::Normal(proposal) => {
                if proposal.version > COMMAND_VERSION {
                    return Err(io::Error::other(format!(
                        "entry {}: {}",
                        id.index(),
                        newer_command_message(proposal.version)
                    )));
                }
                let (applied, changes) = apply(&mut self.state, &proposal);
                self.changes.extend(changes);
                applied
            }
        };
        self.position.last_applied = Some(id);
        self.entries += 1;
        self.replies.extend(responder.map(|responder| (responder, applied)));
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.position.last_applied, self.position.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = self.batch();
        while let Some((entry, responder)) = entries.try_next().await? {
            if let Err(not_understood) = batch.add(entry, responder) {
                self.commit(batch).await?;
                return Err(not_understood);
            }
            if batch.entries == MAX_BATCH {
                self.commit(batch).await?;
                batch = self.batch();
            }
        }
        self.commit(batch).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            log: self.log.clone(),
            state: self.state.clone(),
            position: self.position.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> io::Result<()> {
        let document = SnapshotDocument::decode(&snapshot)?;
        let position = AppliedPosition {
            last_applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        // The log store comes first: after a crash, the state can be restored from there.
        let text = String::from_utf8(snapshot)
            .map_err(|error| io::Error::other(format!("a snapshot is not UTF-8: {error}")))?;
        self.log.put_snapshot(&text).await?;
        self.persist(None, &document.state, &position).await?;
        self.state = Arc::new(document.state);
        self.position = position;
        self.publish.send_replace(self.state.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let Some(text) = self.log.snapshot().await? else {
            return Ok(None);
        };
        let document = SnapshotDocument::decode(text.as_bytes())?;
        Ok(Some(Snapshot {
            meta: document.meta,
            snapshot: text.into_bytes(),
        }))
    }
}

/// The state from which a snapshot is made.
pub struct SnapshotBuilder {
    log: LogStore,
    state: Arc<State>,
    position: AppliedPosition,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let document = SnapshotDocument::new(&self.position, self.state.as_ref().clone());
        let text = document.encode()?;
        self.log.put_snapshot(&text).await?;
        Ok(Snapshot {
            meta: document.meta,
            snapshot: text.into_bytes(),
        })
    }
}
