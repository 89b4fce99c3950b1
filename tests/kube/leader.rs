//! A member that leads a group of one, in memory: the domain's own state and commands behind the consensus port.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ham4db::app::declarative::reconciler::Reconciler;
use ham4db::app::ports::cluster_source::ClusterSource;
use ham4db::app::ports::publisher::Publisher;
use ham4db::app::ports::{Clock, Consensus, Health, Leadership, Peer, ProposeError, Question, Unconfirmed};
use ham4db::app::recovery::service_gate::ServiceGate;
use ham4db::domain::cluster_view::ClusterView;
use ham4db::domain::finding::Opinion;
use ham4db::domain::intent::Origin;
use ham4db::domain::state::{
    Applied, ClaimToken, Command, Epoch, Group, Proposal, State, apply, command::COMMAND_VERSION,
};
use ham4db::domain::time::{MonotonicTime, WallTime};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a test waits for anything; ten times what is promised.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The machine's clocks.
pub(crate) struct MachineClock {
    begun: Instant,
}

impl Clock for MachineClock {
    fn wall(&self) -> WallTime {
        WallTime(jiff::Timestamp::now().as_millisecond())
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(u64::try_from(self.begun.elapsed().as_micros()).unwrap())
    }
}

/// Consensus of one, with everything that was proposed.
pub(crate) struct Alone {
    state: watch::Sender<Arc<State>>,
    leadership: watch::Sender<Leadership>,
    proposed: Mutex<Vec<&'static str>>,
}

impl Alone {
    /// A leader of the group `uuid`.
    pub(crate) fn leading(uuid: &str) -> Arc<Self> {
        let group = Group {
            uuid: uuid.to_owned(),
            history: "h".to_owned(),
        };
        let state = State {
            group: Some(group),
            ..State::default()
        };
        Arc::new(Self {
            state: watch::Sender::new(Arc::new(state)),
            leadership: watch::Sender::new(Leadership {
                term: 1,
                is_leader: true,
                leader: None,
            }),
            proposed: Mutex::default(),
        })
    }

    pub(crate) fn lead(&self, is_leader: bool) {
        self.leadership.send_modify(|leadership| {
            leadership.is_leader = is_leader;
            leadership.term += 1;
        });
    }

    pub(crate) fn now(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    /// Changes the state past all commands.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(|state| change(Arc::make_mut(state)));
    }

    /// Names of all commands so far.
    pub(crate) fn proposed(&self) -> Vec<&'static str> {
        self.proposed.lock().unwrap().clone()
    }

    /// Waits until the state is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) -> Arc<State> {
        let mut state = self.state.subscribe();
        let reached = tokio::time::timeout(DEADLINE, state.wait_for(|state| wanted(state))).await;
        match reached {
            Ok(state) => state.unwrap().clone(),
            Err(late) => panic!("{late}: {what}; the state is {:#?}", self.now()),
        }
    }

    /// Starts the loops on a source; they end with the guard.
    pub(crate) fn declare(
        self: &Arc<Self>,
        source: Arc<impl ClusterSource + Publisher + 'static>,
        views: watch::Receiver<Arc<Vec<ClusterView>>>,
    ) -> DropGuard {
        let stop = CancellationToken::new();
        let clock = Arc::new(MachineClock { begun: Instant::now() });
        let publisher = source.clone();
        let reconciler = Reconciler::new(self.clone(), source, publisher, clock, views, ServiceGate::default());
        tokio::spawn(Arc::new(reconciler).run(stop.clone()));
        stop.drop_guard()
    }
}

/// No cluster is seen.
pub(crate) fn no_views() -> watch::Receiver<Arc<Vec<ClusterView>>> {
    let (sender, receiver) = watch::channel(Arc::default());
    // The loop goes on when its view ends.
    drop(sender);
    receiver
}

pub(crate) fn origin(namespace: &str, name: &str) -> Origin {
    Origin::Document {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

#[async_trait]
impl Consensus for Alone {
    fn me(&self) -> Peer {
        Peer {
            id: 1,
            name: "ham4db-0".to_owned(),
            raft_address: String::new(),
            http_uri: String::new(),
            voter: true,
        }
    }

    fn is_raft(&self) -> bool {
        false
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        if !self.leadership.borrow().is_leader {
            return Err(ProposeError::NotLeader(None));
        }
        self.proposed.lock().unwrap().push(command.name());
        let at = WallTime(jiff::Timestamp::now().as_millisecond());
        let mut state = self.now().as_ref().clone();
        let (applied, _) = apply(
            &mut state,
            &Proposal {
                version: COMMAND_VERSION,
                at,
                command,
            },
        );
        self.state.send_replace(Arc::new(state));
        Ok(applied)
    }

    async fn confirm(&self, _token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        Err(Unconfirmed::Stale("nothing is claimed here".to_owned()))
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        if self.leadership.borrow().is_leader {
            Ok(())
        } else {
            Err(Unconfirmed::NoQuorum("not the leader".to_owned()))
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    fn health(&self) -> Health {
        Health::Healthy
    }

    fn peers(&self) -> Vec<Peer> {
        vec![self.me()]
    }

    async fn collect_opinions(&self, _question: &Question, _deadline: Duration) -> Vec<Opinion> {
        Vec::new()
    }

    async fn hand_over(&self, _deadline: Duration) {}
}
