//! A fake group of three members.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ham4db::app::ports::{Consensus, Health, Leadership, Peer, ProposeError, Question, Unconfirmed};
use ham4db::domain::finding::Opinion;
use ham4db::domain::state::{Applied, ClaimToken, Command, Epoch, State};
use tokio::sync::watch;

pub(crate) fn peer(id: u64) -> Peer {
    Peer {
        id,
        name: format!("member-{id}.example"),
        raft_address: format!("member-{id}.example:10008"),
        http_uri: format!("http://member-{id}.example:3000"),
        voter: true,
    }
}

pub(crate) struct FakeGroup {
    pub(crate) me: u64,
    pub(crate) raft: bool,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) health: Mutex<Health>,
    /// The result of a barrier, and how often it was called.
    pub(crate) quorum: Mutex<Result<(), Unconfirmed>>,
    pub(crate) barriers: AtomicU64,
    pub(crate) barrier_gate: tokio::sync::Semaphore,
}

impl FakeGroup {
    pub(crate) fn new(me: u64, raft: bool, leader: Option<Peer>) -> Self {
        let is_leader = leader.as_ref().is_some_and(|leader| leader.id == me);
        Self {
            me,
            raft,
            leadership: watch::Sender::new(Leadership {
                term: 1,
                is_leader,
                leader,
            }),
            health: Mutex::new(Health::Healthy),
            quorum: Mutex::new(Ok(())),
            barriers: AtomicU64::new(0),
            barrier_gate: tokio::sync::Semaphore::new(1_000_000),
        }
    }
}

#[async_trait]
impl Consensus for FakeGroup {
    fn me(&self) -> Peer {
        peer(self.me)
    }

    fn is_raft(&self) -> bool {
        self.raft
    }

    async fn propose(&self, _: Command) -> Result<Applied, ProposeError> {
        unreachable!("the API proposes through the application")
    }

    async fn confirm(&self, _: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        unreachable!("the API holds no claim")
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        self.barriers.fetch_add(1, Ordering::SeqCst);
        self.barrier_gate.acquire().await.unwrap().forget();
        self.quorum.lock().unwrap().clone()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        watch::channel(Arc::new(State::default())).1
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    fn peers(&self) -> Vec<Peer> {
        (1..=3).map(peer).collect()
    }

    async fn collect_opinions(&self, _: &Question, _: Duration) -> Vec<Opinion> {
        Vec::new()
    }

    /// The other members are two: the next one takes over.
    async fn hand_over(&self, _: Duration) {
        self.leadership.send_modify(|leadership| {
            leadership.is_leader = !self.raft;
            leadership.leader = Some(peer(if self.raft { self.me + 1 } else { self.me }));
        });
    }
}
