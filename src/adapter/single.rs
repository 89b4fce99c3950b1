//! A single member: the port [`Consensus`] on a backend, without a log and without peers.
//!
//! It always leads. A command is applied in memory and written in one transaction; only then is it acknowledged and
//! published. Commands that come during a write share the next one, so that a claim waits for two writes at most, however
//! many findings are recorded at that moment.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, oneshot, watch};
use uuid::Uuid;

use crate::app::ports::{
    AppliedMark, Clock, Consensus, Health, Leadership, Peer, ProposeError, Question, StateStore, StoreError,
    Unconfirmed,
};
use crate::app::recovery::claim::check_claim;
use crate::domain::finding::Opinion;
use crate::domain::state::command::COMMAND_VERSION;
use crate::domain::state::record::MemberRecord;
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, Group, MemberId, Proposal, State, apply};

/// The id of the only member.
const OWN_ID: MemberId = 1;

/// Why a single member does not start.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    /// The backend cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backend belongs to a member of a raft group; the other members would not learn of changes that are made here.
    #[error(
        "the backend belongs to member {member} of raft group {group}: start with RaftEnabled, or with another backend"
    )]
    BelongsToGroup {
        /// Uuid of the group.
        group: String,
        /// The member.
        member: MemberId,
    },
}

/// The member. It always leads.
pub struct SingleMember {
    me: Peer,
    leadership: watch::Sender<Leadership>,
    writer: Arc<Writer>,
}

/// A command, and where its outcome is awaited.
type WaitingCommand = (Command, oneshot::Sender<Result<Applied, StoreError>>);

/// Applies and writes commands.
struct Writer {
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<Arc<State>>,
    backend: Mutex<BackendState>,
    waiting: PlainMutex<Vec<WaitingCommand>>,
}

/// What this member knows of the content of the backend.
struct BackendState {
    mark: AppliedMark,
    /// The error of a failed write, which may have been committed nevertheless.
    uncertain_write: Option<StoreError>,
}

impl std::fmt::Debug for SingleMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleMember")
            .field("me", &self.me)
            .finish_non_exhaustive()
    }
}

impl SingleMember {
    /// Reads the backend, and gives it a group uuid when it has none.
    ///
    /// # Errors
    /// When the backend cannot be used, or belongs to a raft group.
    pub async fn start(
        name: &str,
        http_uri: &str,
        store: Arc<dyn StateStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, SingleError> {
        let (state, mut mark) = store.load().await?;
        if !mark.position.is_empty() {
            return Err(SingleError::BelongsToGroup {
                group: mark.group_uuid,
                member: mark.member,
            });
        }
        if mark.group_uuid.is_empty() {
            mark.group_uuid = Uuid::new_v4().to_string();
            mark.history = Uuid::new_v4().to_string();
        }
        mark.member = OWN_ID;
        let me = Peer {
            id: OWN_ID,
            name: name.to_owned(),
            raft_address: String::new(),
            http_uri: http_uri.to_owned(),
            voter: true,
        };
        let group = Group {
            uuid: mark.group_uuid.clone(),
            history: mark.history.clone(),
        };
        let leadership = Leadership {
            term: 1,
            is_leader: true,
            leader: Some(me.clone()),
        };
        let single = Arc::new(Self {
            me,
            leadership: watch::Sender::new(leadership),
            writer: Arc::new(Writer {
                store,
                clock,
                state: watch::Sender::new(Arc::new(state)),
                backend: Mutex::new(BackendState {
                    mark,
                    uncertain_write: None,
                }),
                waiting: PlainMutex::default(),
            }),
        });
        if single.writer.state.borrow().group.is_none() {
            single.run(Command::FoundGroup { group }).await?;
        }
        let record = MemberRecord {
            id: OWN_ID,
            name: name.to_owned(),
            understands: COMMAND_VERSION,
            data_center: String::new(),
        };
        if single.writer.state.borrow().members.get(&OWN_ID) != Some(&record) {
            single.run(Command::AnnounceMember { member: record }).await?;
        }
        Ok(single)
    }

    async fn run(&self, command: Command) -> Result<Applied, StoreError> {
        let (sender, outcome) = oneshot::channel();
        self.writer.waiting().push((command, sender));
        // In a task of its own: the write may also be that of others, and must not end with this caller.
        let writer = Arc::clone(&self.writer);
        tokio::spawn(async move { writer.write_waiting().await });
        outcome.await.unwrap_or_else(|_| Err(interrupted()))
    }
}

/// The error of a write that ended without an outcome, by a panic or because the process stops.
fn interrupted() -> StoreError {
    StoreError {
        backend: "the backend".to_owned(),
        what: "write".to_owned(),
        why: "it was interrupted".to_owned(),
    }
}

impl Writer {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<WaitingCommand>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies all waiting commands and writes them in one transaction.
    async fn write_waiting(&self) {
        let mut backend = self.backend.lock().await;
        let waiting = std::mem::take(&mut *self.waiting());
        if waiting.is_empty() {
            return;
        }
        let (commands, senders): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        match self.write(&mut backend, commands).await {
            Ok(all) => {
                for (sender, applied) in senders.into_iter().zip(all) {
                    // A caller that is gone needs no outcome.
                    drop(sender.send(Ok(applied)));
                }
            }
            Err(error) => {
                for sender in senders {
                    drop(sender.send(Err(error.clone())));
                }
            }
        }
    }

    async fn write(&self, backend: &mut BackendState, commands: Vec<Command>) -> Result<Vec<Applied>, StoreError> {
        if backend.uncertain_write.is_some() {
            let (state, _) = self.store.load().await?;
            self.state.send_replace(Arc::new(state));
            backend.uncertain_write = None;
        }
        let mut state = self.state.borrow().as_ref().clone();
        let (mut all, mut changes) = (Vec::with_capacity(commands.len()), BTreeSet::new());
        for command in commands {
            let (applied, changed) = apply(&mut state, &Proposal::new(self.clock.wall(), command));
            all.push(applied);
            changes.extend(changed);
        }
        backend.uncertain_write = Some(interrupted());
        let written = self.store.write(&state, &changes, &backend.mark).await;
        backend.uncertain_write = written.as_ref().err().cloned();
        written?;
        self.state.send_replace(Arc::new(state));
        Ok(all)
    }
}

#[async_trait]
impl Consensus for SingleMember {
    fn me(&self) -> Peer {
        self.me.clone()
    }

    fn is_raft(&self) -> bool {
        false
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.run(command)
            .await
            .map_err(|error| ProposeError::OutcomeUnknown(error.to_string()))
    }

    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        // The lock waits for a running proposal, which may be the one that ends the claim.
        let backend = self.writer.backend.lock().await;
        if let Some(error) = &backend.uncertain_write {
            return Err(Unconfirmed::NoQuorum(error.to_string()));
        }
        let state = self.writer.state.borrow().clone();
        check_claim(&state, token)
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        match &self.writer.backend.lock().await.uncertain_write {
            Some(error) => Err(Unconfirmed::NoQuorum(error.to_string())),
            None => Ok(()),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.writer.state.subscribe()
    }

    fn health(&self) -> Health {
        // A running write shows nothing yet; the result of the one before it counts.
        match self
            .writer
            .backend
            .try_lock()
            .ok()
            .and_then(|backend| backend.uncertain_write.clone())
        {
            Some(error) => Health::Unhealthy(format!("the backend takes no writes: {error}")),
            None => Health::Healthy,
        }
    }

    fn peers(&self) -> Vec<Peer> {
        vec![self.me.clone()]
    }

    async fn collect_opinions(&self, _question: &Question, _deadline: Duration) -> Vec<Opinion> {
        Vec::new()
    }

    async fn hand_over(&self, _deadline: Duration) {}
}
