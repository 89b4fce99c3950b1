//! One member alone: the port [`Consensus`] on a backend, without a log and without peers.
//!
//! It always leads. A command is applied in memory, written in one transaction, and only then heard of.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, watch};
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

/// The only member's id.
const OWN_ID: MemberId = 1;

/// Why a member does not start alone.
#[derive(Debug, thiserror::Error)]
pub enum SingleError {
    /// The backend cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backend belongs to a member of a raft group, whose other members would know nothing of what is done here.
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

/// The member.
pub struct Single {
    me: Peer,
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    state: watch::Sender<Arc<State>>,
    leadership: watch::Sender<Leadership>,
    written: Mutex<Written>,
}

/// What the backend is known to hold.
struct Written {
    mark: AppliedMark,
    /// A write failed: it may have been committed all the same.
    doubt: Option<StoreError>,
}

impl std::fmt::Debug for Single {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Single").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Single {
    /// Reads the backend, and names it when nobody has.
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
            store,
            clock,
            state: watch::Sender::new(Arc::new(state)),
            leadership: watch::Sender::new(leadership),
            written: Mutex::new(Written { mark, doubt: None }),
        });
        if single.state.borrow().group.is_none() {
            single.run(Command::Found { group }).await?;
        }
        let record = MemberRecord {
            id: OWN_ID,
            name: name.to_owned(),
            understands: COMMAND_VERSION,
            data_center: String::new(),
        };
        if single.state.borrow().members.get(&OWN_ID) != Some(&record) {
            single.run(Command::Hello { member: record }).await?;
        }
        Ok(single)
    }

    async fn run(&self, command: Command) -> Result<Applied, StoreError> {
        let mut written = self.written.lock().await;
        if written.doubt.is_some() {
            let (state, _) = self.store.load().await?;
            self.state.send_replace(Arc::new(state));
            written.doubt = None;
        }
        let mut state = self.state.borrow().as_ref().clone();
        let proposal = Proposal::new(self.clock.wall(), command);
        let (applied, changes) = apply(&mut state, &proposal);
        if let Err(error) = self.store.write(&state, &changes, &written.mark).await {
            written.doubt = Some(error.clone());
            return Err(error);
        }
        self.state.send_replace(Arc::new(state));
        Ok(applied)
    }
}

#[async_trait]
impl Consensus for Single {
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
        // A proposal under way may be the one that ends the claim.
        let written = self.written.lock().await;
        if let Some(error) = &written.doubt {
            return Err(Unconfirmed::NoQuorum(error.to_string()));
        }
        let state = self.state.borrow().clone();
        check_claim(&state, token)
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        match &self.written.lock().await.doubt {
            Some(error) => Err(Unconfirmed::NoQuorum(error.to_string())),
            None => Ok(()),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn health(&self) -> Health {
        // A write under way says nothing yet; the one before it does.
        match self.written.try_lock().ok().and_then(|written| written.doubt.clone()) {
            Some(error) => Health::Unhealthy(format!("the backend takes no writes: {error}")),
            None => Health::Healthy,
        }
    }

    fn peers(&self) -> Vec<Peer> {
        vec![self.me.clone()]
    }

    async fn ask_opinions(&self, _question: &Question, _deadline: Duration) -> Vec<Opinion> {
        Vec::new()
    }

    async fn hand_over(&self, _deadline: Duration) {}
}
