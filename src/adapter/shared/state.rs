//! The state as this member knows it, and changes of it in the shared backend.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex as PlainMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, oneshot, watch};

use crate::app::ports::{AppliedMark, Clock, ProposeError, SharedStore, SharedWrite, StoreError};
use crate::domain::state::{Applied, Command, Proposal, State, apply};

/// How often a change is applied to a newer state and written again when another member was faster.
const TRIES: u32 = 20;
/// The longest pause between two of them. It grows with the tries, and differs between members.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A command, and where its outcome is awaited.
type WaitingCommand = (Command, oneshot::Sender<Result<Applied, ProposeError>>);

/// The state in the backend.
pub(super) struct SharedState {
    store: Arc<dyn SharedStore>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<Arc<State>>,
    known: Mutex<Known>,
    waiting: PlainMutex<Vec<WaitingCommand>>,
}

/// What was read last.
struct Known {
    /// `None`: a write had no answer, so that the next one begins with a read.
    version: Option<u64>,
    mark: AppliedMark,
}

impl SharedState {
    pub(super) fn new(
        store: Arc<dyn SharedStore>,
        clock: Arc<dyn Clock>,
        version: u64,
        state: State,
        mark: AppliedMark,
    ) -> Self {
        Self {
            store,
            clock,
            state: watch::Sender::new(Arc::new(state)),
            known: Mutex::new(Known {
                version: Some(version),
                mark,
            }),
            waiting: PlainMutex::default(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    pub(super) fn now(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Changes the state. Commands that come while another one is written share the next write.
    pub(super) async fn run(self: &Arc<Self>, command: Command) -> Result<Applied, ProposeError> {
        let (sender, outcome) = oneshot::channel();
        self.waiting().push((command, sender));
        // In a task of its own: the write may also be that of others, and must not end with this caller.
        let this = Arc::clone(self);
        tokio::spawn(async move { this.write_waiting().await });
        let interrupted = || Err(ProposeError::OutcomeUnknown("the write was interrupted".to_owned()));
        outcome.await.unwrap_or_else(|_| interrupted())
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<WaitingCommand>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_waiting(&self) {
        let mut known = self.known.lock().await;
        let waiting = std::mem::take(&mut *self.waiting());
        if waiting.is_empty() {
            return;
        }
        let (commands, senders): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        match self.write(&mut known, &commands).await {
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

    /// Applies commands to the newest state, again when another member has changed it meanwhile.
    async fn write(&self, known: &mut Known, commands: &[Command]) -> Result<Vec<Applied>, ProposeError> {
        for tried in 1..=TRIES {
            let version = match known.version {
                Some(version) => version,
                // Nothing was sent to the backend yet.
                None => self
                    .read(known)
                    .await
                    .map_err(|error| ProposeError::NoQuorum(error.to_string()))?,
            };
            let mut state = self.now().as_ref().clone();
            let (mut all, mut changes) = (Vec::with_capacity(commands.len()), BTreeSet::new());
            for command in commands {
                let (applied, changed) = apply(&mut state, &Proposal::new(self.clock.wall(), command.clone()));
                all.push(applied);
                changes.extend(changed);
            }
            // Until there is an answer it is unknown what the backend has.
            known.version = None;
            match self.store.write_at(version, &state, &changes, &known.mark).await {
                Ok(SharedWrite::Written) => {
                    known.version = Some(version.saturating_add(1));
                    self.state.send_replace(Arc::new(state));
                    return Ok(all);
                }
                Ok(SharedWrite::Outdated) => tokio::time::sleep(pause(tried)).await,
                Err(error) => return Err(ProposeError::OutcomeUnknown(error.to_string())),
            }
        }
        Err(ProposeError::NoQuorum(format!(
            "other members changed the state of the backend {TRIES} times meanwhile: nothing was changed, try again"
        )))
    }

    async fn read(&self, known: &mut Known) -> Result<u64, StoreError> {
        let read = self.store.load_versioned().await?;
        known.version = Some(read.version);
        // Of two members that begin on an empty backend, one founded the group.
        if !read.mark.group_uuid.is_empty() {
            known.mark = read.mark;
        }
        if *self.now() != read.state {
            self.state.send_replace(Arc::new(read.state));
        }
        Ok(read.version)
    }

    /// Reads the state unless this version of it, or a later one, is known.
    ///
    /// # Errors
    /// When the backend cannot be read.
    pub(super) async fn catch_up(&self, version: u64) -> Result<(), StoreError> {
        let mut known = self.known.lock().await;
        if known.version.is_none_or(|known| known < version) {
            self.read(&mut known).await?;
        }
        Ok(())
    }
}

/// Grows with the tries up to [`LONGEST_PAUSE`]; two members that met once do not meet again at the same moment.
fn pause(tried: u32) -> Duration {
    let share = uuid::Uuid::new_v4().as_u128() % 1000;
    let share = u32::try_from(share).unwrap_or(500);
    LONGEST_PAUSE.min(Duration::from_millis(5) * tried) * share / 1000
}
