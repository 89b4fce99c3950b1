//! A member of several that share one backend: the port [`Consensus`] on a database, without a log.
//!
//! The leader is elected in the table `active_node`. It renews its row every half second, believes in its leadership for two seconds
//! after the beginning of the last renewal, and is replaced when the database has not seen a renewal for three: only then can another
//! member lead. Leadership authorises nothing. A change of the state is one transaction that succeeds only on the version of the state on
//! which it was decided, and each claim is proved before each effect by a row that a contradicting change would change too.

mod registration;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::app::ports::{
    Clock, Consensus, Health, Leadership, Peer, Proof, ProposeError, Question, Registration, RegistrationError,
    SharedStore, StoreError, Unconfirmed,
};
use crate::app::recovery::claim::check_claim;
use crate::domain::finding::Opinion;
use crate::domain::state::command::COMMAND_VERSION;
use crate::domain::state::record::MemberRecord;
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, Group, MemberId, State};

use state::SharedState;

/// The longest name: that of the column in orchestrator's tables.
const MAX_NAME: usize = 128;
/// The pause before a name that is in use is tried again.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Why a member of a shared backend does not start.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The backend cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state could not be changed.
    #[error("found the group in the backend: {0}")]
    Propose(#[from] ProposeError),
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
    /// The name does not fit into the tables.
    #[error("the name of this member has more than {MAX_NAME} characters: {0}")]
    LongName(String),
}

/// The member.
pub struct SharedMember {
    store: Arc<dyn SharedStore>,
    state: Arc<SharedState>,
    own: Mutex<Own>,
    /// Held while this member registers itself or gives up the leadership: a registration that is on its way would take it back.
    registering: tokio::sync::Mutex<()>,
    leadership: watch::Sender<Leadership>,
    given_up: watch::Sender<Option<String>>,
}

/// What this member knows of itself and of the others.
struct Own {
    registration: Registration,
    members: Vec<Registration>,
    /// When the last registration that succeeded began.
    registered: Option<Instant>,
    failure: Option<String>,
    /// Until then the leadership is left to another member.
    abstains_until: Option<Instant>,
}

impl std::fmt::Debug for SharedMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMember").finish_non_exhaustive()
    }
}

fn peer(of: &Registration) -> Peer {
    Peer {
        id: of.id,
        name: of.name.clone(),
        raft_address: String::new(),
        http_uri: of.http_uri.clone(),
        voter: true,
    }
}

impl SharedMember {
    /// Registers this process, reads the state, and founds the group in an empty backend. A name that another process uses, or used until
    /// a few seconds ago, is waited for. The member gives up when the backend takes no registration for `exit_after`.
    ///
    /// # Errors
    /// When the backend cannot be used, or belongs to a raft group.
    pub async fn start(
        name: &str,
        http_uri: &str,
        data_center: &str,
        store: Arc<dyn SharedStore>,
        clock: Arc<dyn Clock>,
        exit_after: Option<Duration>,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, SharedError> {
        if name.chars().count() > MAX_NAME {
            return Err(SharedError::LongName(name.to_owned()));
        }
        let registration = Registration {
            name: name.to_owned(),
            token: Uuid::new_v4().to_string(),
            http_uri: http_uri.to_owned(),
            id: 0,
        };
        wait_for_name(store.as_ref(), &registration).await?;
        let read = store.load_versioned().await?;
        let mut mark = read.mark;
        if !mark.position.is_empty() {
            return Err(SharedError::BelongsToGroup {
                group: mark.group_uuid,
                member: mark.member,
            });
        }
        if mark.group_uuid.is_empty() {
            mark.group_uuid = Uuid::new_v4().to_string();
            mark.history = Uuid::new_v4().to_string();
        }
        let group = Group {
            uuid: mark.group_uuid.clone(),
            history: mark.history.clone(),
        };
        let state = SharedState::new(Arc::clone(&store), clock, read.version, read.state, mark);
        let member = Arc::new(Self {
            store,
            state: Arc::new(state),
            own: Mutex::new(Own {
                registration,
                members: Vec::new(),
                registered: None,
                failure: None,
                abstains_until: None,
            }),
            registering: tokio::sync::Mutex::default(),
            leadership: watch::Sender::default(),
            given_up: watch::Sender::default(),
        });
        if member.state.now().group.is_none() {
            // Another member may found it at the same moment: that one's group is the group then.
            member.state.run(Command::FoundGroup { group }).await?;
        }
        let id = member.announce(data_center).await?;
        member.own().registration.id = id;
        let running = Arc::clone(&member);
        tokio::spawn(async move { registration::run(&running, exit_after, stop).await });
        Ok(member)
    }

    /// Records this member with its id: that of an earlier process of the same name, or a new one.
    async fn announce(&self, data_center: &str) -> Result<MemberId, ProposeError> {
        let name = self.own().registration.name.clone();
        let state = self.state.now();
        let known = state.members.values().find(|member| member.name == name);
        let id = match known {
            Some(known) => known.id,
            None => match self
                .state
                .run(Command::AllocateMember {
                    name: name.clone(),
                    above: 0,
                })
                .await?
            {
                Applied::Number { number } => number,
                other @ (Applied::Done | Applied::Claimed { .. } | Applied::Refused { .. }) => {
                    return Err(ProposeError::Stopped(format!("no id for this member: {other}")));
                }
            },
        };
        let record = MemberRecord {
            id,
            name,
            understands: COMMAND_VERSION,
            data_center: data_center.to_owned(),
        };
        if known != Some(&record) {
            self.state.run(Command::AnnounceMember { member: record }).await?;
        }
        Ok(id)
    }

    /// Waits until this member gives up, and says why.
    pub async fn given_up(&self) -> String {
        let mut given_up = self.given_up.subscribe();
        let why = given_up.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Proves something in the backend, and reads what other members have changed until then.
    async fn prove(&self, proof: Proof, refused: impl FnOnce() -> Unconfirmed) -> Result<(), Unconfirmed> {
        let me = self.own().registration.clone();
        let failed = |error: StoreError| Unconfirmed::NoQuorum(error.to_string());
        let Some(version) = self.store.prove(&me, &proof).await.map_err(failed)? else {
            return Err(refused());
        };
        self.state.catch_up(version).await.map_err(failed)
    }
}

/// Registers a process under its name, as soon as no other one uses it.
async fn wait_for_name(store: &dyn SharedStore, me: &Registration) -> Result<(), SharedError> {
    let mut is_told = false;
    loop {
        match store.register(me, false).await {
            Ok(_) => return Ok(()),
            Err(error @ RegistrationError::NameInUse(_)) => {
                if !std::mem::replace(&mut is_told, true) {
                    warn!("this member waits until its name is free: {error}");
                }
            }
            Err(RegistrationError::Store(error)) => return Err(error.into()),
        }
        tokio::time::sleep(START_PAUSE).await;
    }
}

#[async_trait]
impl Consensus for SharedMember {
    fn me(&self) -> Peer {
        peer(&self.own().registration)
    }

    fn is_raft(&self) -> bool {
        false
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.state.run(command).await
    }

    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        let claim = Proof::Claim {
            cluster: token.cluster.clone(),
            epoch: token.epoch,
        };
        let refused = || {
            Unconfirmed::Stale(format!(
                "recovery {}: the backend has another claim on the cluster",
                token.uid
            ))
        };
        self.prove(claim, refused).await?;
        check_claim(&self.state.now(), token)
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        let refused = || Unconfirmed::Stale("another member leads".to_owned());
        self.prove(Proof::Leadership, refused).await
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn health(&self) -> Health {
        let own = self.own();
        let is_fresh = own.registered.is_some_and(|at| at.elapsed() < registration::LEASE);
        match &own.failure {
            Some(why) if !is_fresh => Health::Unhealthy(why.clone()),
            None if !is_fresh => Health::Unhealthy("this member is not registered in the backend yet".to_owned()),
            Some(_) | None => Health::Healthy,
        }
    }

    fn peers(&self) -> Vec<Peer> {
        self.own().members.iter().map(peer).collect()
    }

    async fn collect_opinions(&self, _question: &Question, _deadline: Duration) -> Vec<Opinion> {
        Vec::new()
    }

    async fn hand_over(&self, deadline: Duration) {
        let me = {
            let mut own = self.own();
            own.abstains_until = Some(Instant::now() + registration::ABSTENTION);
            own.registration.clone()
        };
        self.step_down();
        let resigning = async {
            let _turn = self.registering.lock().await;
            // The registration before may have found that this member leads.
            self.step_down();
            self.store.resign(&me).await
        };
        match tokio::time::timeout(deadline, resigning).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("failed to give up the leadership, which ends in a few seconds by itself: {error}"),
            Err(_) => warn!("failed to give up the leadership within {} s", deadline.as_secs()),
        }
    }
}
