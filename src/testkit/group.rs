//! The port `Consensus` on one state that all members share, with members that can be isolated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::app::group_clock::GroupClock;
use crate::app::ports::{
    Clock, Consensus, Health, Leadership, ObservationRequest, ObservationSource, ObservationUpdate, OpinionSource,
    Peer, ProposeError, Question, Unconfirmed,
};
use crate::app::recovery::claim::check_claim;
use crate::domain::clock_skew::{ClockReading, DEFAULT_LIMIT_MILLIS};
use crate::domain::finding::{Opinion, OpinionVerdict};
use crate::domain::state::{Applied, ClaimToken, Command, Epoch, MemberId, Proposal, State, apply};
use crate::domain::time::WallTime;

use super::clock::PausedClock;

/// How long a commit takes.
const COMMIT: Duration = Duration::from_millis(1);

/// A fault that occurs once, when a command of this name is proposed.
pub(crate) struct CommitFault {
    /// [`Command::name`].
    pub(crate) command: &'static str,
    pub(crate) kind: CommitFaultKind,
}

/// The kind of a commit fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitFaultKind {
    /// The command is not committed; the member is isolated and another one leads.
    DeposedBefore,
    /// The command is committed; the member is isolated before it receives the answer, and another one leads.
    DeposedAfter,
    /// The command is not committed, and the outcome is unknown to the member, which still leads.
    LostSilently,
    /// The command is committed, and the outcome is unknown to the member, which still leads.
    DoneSilently,
}

impl CommitFault {
    pub(crate) fn new(command: &'static str, kind: CommitFaultKind) -> Self {
        Self { command, kind }
    }

    /// Every kind at each command of a recovery that replaces the primary.
    pub(crate) fn sweep() -> impl Iterator<Item = (CommitFaultKind, &'static str)> {
        let kinds = [
            CommitFaultKind::DeposedBefore,
            CommitFaultKind::DeposedAfter,
            CommitFaultKind::LostSilently,
            CommitFaultKind::DoneSilently,
        ];
        let at = |kind| ["claim", "open", "end"].map(|command| (kind, command));
        kinds.into_iter().flat_map(at)
    }
}

/// A change of the world.
type Change = Box<dyn FnOnce() + Send>;

/// The state of the group that its members share.
struct Shared {
    cut_off: BTreeSet<MemberId>,
    faults: Vec<CommitFault>,
    /// Changes of the world that occur when a command of this name is committed.
    afterwards: Vec<(&'static str, Change)>,
    /// The names of the committed commands, in order.
    committed: Vec<String>,
    /// The number of confirmations that succeed; later ones fail for all members.
    proofs_left: Option<u32>,
    opinion_responder: BTreeMap<MemberId, Arc<dyn OpinionSource>>,
    observations: BTreeMap<MemberId, Arc<dyn ObservationSource>>,
    /// Members that get no answer to requests for observations from another one.
    unheard: BTreeSet<(MemberId, MemberId)>,
    /// Bytes of all answers with observations.
    exchanged_bytes: u64,
    /// The fixed opinions of members.
    said: BTreeMap<MemberId, OpinionVerdict>,
    /// By how many milliseconds the clocks of members are ahead.
    wrong_clocks: BTreeMap<MemberId, i64>,
    /// The clocks that the running members use.
    clocks: BTreeMap<MemberId, Arc<GroupClock>>,
}

/// A group of members with the ids 1 to N. Member 1 leads at first.
#[derive(Clone)]
pub(crate) struct Group {
    size: u64,
    shared: Arc<Mutex<Shared>>,
    state: Arc<watch::Sender<Arc<State>>>,
    leader: Arc<watch::Sender<MemberId>>,
    clock: Arc<PausedClock>,
}

impl Group {
    pub(crate) fn new(size: u64, state: State) -> Self {
        let shared = Shared {
            cut_off: BTreeSet::new(),
            faults: Vec::new(),
            afterwards: Vec::new(),
            committed: Vec::new(),
            proofs_left: None,
            opinion_responder: BTreeMap::new(),
            observations: BTreeMap::new(),
            unheard: BTreeSet::new(),
            exchanged_bytes: 0,
            said: BTreeMap::new(),
            wrong_clocks: BTreeMap::new(),
            clocks: BTreeMap::new(),
        };
        Self {
            size,
            shared: Arc::new(Mutex::new(shared)),
            state: Arc::new(watch::Sender::new(Arc::new(state))),
            leader: Arc::new(watch::Sender::new(1)),
            clock: Arc::new(PausedClock::new()),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.state.borrow().clone()
    }

    pub(crate) fn committed(&self) -> Vec<String> {
        self.shared().committed.clone()
    }

    pub(crate) fn plan(&self, fault: CommitFault) {
        self.shared().faults.push(fault);
    }

    /// Makes a change, once, when a command of this name is committed.
    pub(crate) fn then(&self, command: &'static str, change: impl FnOnce() + Send + 'static) {
        self.shared().afterwards.push((command, Box::new(change)));
    }

    /// After this number of confirmations all later ones fail.
    pub(crate) fn fail_proofs_after(&self, proofs: u32) {
        self.shared().proofs_left = Some(proofs);
    }

    /// Fixes the opinion of a member on every suspect.
    pub(crate) fn says(&self, member: MemberId, verdict: OpinionVerdict) {
        self.shared().said.insert(member, verdict);
    }

    /// Removes the fixed opinion of a member.
    pub(crate) fn sees_again(&self, member: MemberId) {
        self.shared().said.remove(&member);
    }

    /// Isolates a member; the others elect another leader.
    pub(crate) fn depose(&self, member: MemberId) {
        self.shared().cut_off.insert(member);
        let next = (1..=self.size).find(|id| !self.shared().cut_off.contains(id));
        if *self.leader.borrow() == member {
            self.leader.send_replace(next.unwrap_or(0));
        }
    }

    /// Reconnects a member.
    pub(crate) fn heal(&self, member: MemberId) {
        self.shared().cut_off.remove(&member);
        if *self.leader.borrow() == 0 {
            self.leader.send_replace(member);
        }
    }

    /// Makes a connected member the leader.
    pub(crate) fn elect(&self, member: MemberId) {
        self.leader.send_replace(member);
    }

    /// Applies a command, as if a member had proposed it.
    pub(crate) fn commit(&self, command: Command) -> Applied {
        self.commit_at(self.clock.wall(), command)
    }

    /// Applies a command, as if a leader of an earlier version with a clock ahead had proposed it.
    pub(crate) fn commit_late(&self, millis: i64, command: Command) -> Applied {
        self.commit_at(self.clock.wall().plus_millis(millis), command)
    }

    /// Makes the clock of a member wrong.
    pub(crate) fn set_clock_ahead(&self, member: MemberId, millis: i64) {
        self.shared().wrong_clocks.insert(member, millis);
    }

    /// The clock for a member that starts now.
    pub(crate) fn clock_of(&self, member: MemberId) -> Arc<GroupClock> {
        let mut shared = self.shared();
        let own = self
            .clock
            .ahead(shared.wrong_clocks.get(&member).copied().unwrap_or_default());
        let clock = Arc::new(GroupClock::new(Arc::new(own), DEFAULT_LIMIT_MILLIS));
        shared.clocks.insert(member, Arc::clone(&clock));
        drop(shared);
        self.compare_clocks(&clock);
        clock
    }

    /// Compares the clocks of the members, as they do it among each other.
    fn compare_clocks(&self, of: &GroupClock) {
        let readings: Vec<ClockReading> = {
            let shared = self.shared();
            let ahead = |id| {
                self.clock
                    .ahead(shared.wrong_clocks.get(&id).copied().unwrap_or_default())
            };
            (1..=self.size)
                .map(|member| ClockReading {
                    member,
                    name: peer(member).name,
                    at: ahead(member).wall(),
                    uncertainty_millis: 1,
                })
                .collect()
        };
        of.compare(&readings, readings.len(), self.state().clock);
    }

    /// Compares the clock of a member again and again, until it is cancelled.
    pub(crate) async fn keep_comparing(self, clock: Arc<GroupClock>) {
        loop {
            sleep(Duration::from_secs(1)).await;
            self.compare_clocks(&clock);
        }
    }

    fn commit_at(&self, at: WallTime, command: Command) -> Applied {
        let afterwards = {
            let mut shared = self.shared();
            shared.committed.push(command.name().to_owned());
            let at = shared.afterwards.iter().position(|(name, _)| *name == command.name());
            at.map(|at| shared.afterwards.remove(at).1)
        };
        let mut state = self.state.borrow().as_ref().clone();
        let (applied, _) = apply(&mut state, &Proposal::new(at, command));
        self.state.send_replace(Arc::new(state));
        if let Some(change) = afterwards {
            change();
        }
        applied
    }

    /// The port of one member.
    pub(crate) fn member(&self, id: MemberId) -> Arc<SimConsensus> {
        let leadership = watch::Sender::new(self.leadership_of(id));
        Arc::new(SimConsensus {
            group: self.clone(),
            id,
            leadership,
        })
    }

    /// Sets the responder for requests of the opinion of this member.
    pub(crate) fn set_opinion_responder(&self, member: MemberId, opinion_responder: Arc<dyn OpinionSource>) {
        self.shared().opinion_responder.insert(member, opinion_responder);
    }

    /// Sets what answers the requests for observations of this member.
    pub(crate) fn set_observation_source(&self, member: MemberId, source: Arc<dyn ObservationSource>) {
        self.shared().observations.insert(member, source);
    }

    /// The requests of one member for the observations of another get no answer any more.
    pub(crate) fn mute(&self, by: MemberId, of: MemberId) {
        self.shared().unheard.insert((by, of));
    }

    /// The bytes of all answers with observations so far.
    pub(crate) fn exchanged_bytes(&self) -> u64 {
        self.shared().exchanged_bytes
    }

    fn leadership_of(&self, id: MemberId) -> Leadership {
        let leader = *self.leader.borrow();
        Leadership {
            term: 1,
            is_leader: leader == id,
            leader: (leader != 0).then(|| peer(leader)),
        }
    }

    fn quorum(&self, id: MemberId) -> Result<(), String> {
        let shared = self.shared();
        let connected = self.size - u64::try_from(shared.cut_off.len()).unwrap();
        if shared.cut_off.contains(&id) || connected <= self.size / 2 {
            return Err(format!("member{id} reaches no quorum"));
        }
        Ok(())
    }

    /// Publishes the leadership to the port of a member, until it is cancelled.
    pub(crate) async fn announce(self, to: Arc<SimConsensus>) {
        let mut leader = self.leader.subscribe();
        while leader.changed().await.is_ok() {
            let now = self.leadership_of(to.id);
            to.leadership.send_if_modified(|present| {
                let changed = *present != now;
                *present = now.clone();
                changed
            });
        }
    }
}

fn peer(id: MemberId) -> Peer {
    Peer {
        id,
        name: format!("member{id}"),
        raft_address: String::new(),
        http_uri: String::new(),
        voter: true,
    }
}

/// The port of one member.
pub(crate) struct SimConsensus {
    group: Group,
    id: MemberId,
    leadership: watch::Sender<Leadership>,
}

#[async_trait]
impl Consensus for SimConsensus {
    fn me(&self) -> Peer {
        peer(self.id)
    }

    fn is_raft(&self) -> bool {
        self.group.size > 1
    }

    async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        sleep(COMMIT).await;
        let fault = {
            let mut shared = self.group.shared();
            let at = shared.faults.iter().position(|fault| fault.command == command.name());
            at.map(|at| shared.faults.remove(at).kind)
        };
        match fault {
            Some(CommitFaultKind::DeposedBefore) => self.group.depose(self.id),
            Some(CommitFaultKind::LostSilently) => {
                return Err(ProposeError::OutcomeUnknown(String::from("no answer in time")));
            }
            Some(CommitFaultKind::DeposedAfter | CommitFaultKind::DoneSilently) | None => {}
        }
        self.group.quorum(self.id).map_err(ProposeError::OutcomeUnknown)?;
        let leader = *self.group.leader.borrow();
        if leader != self.id {
            return Err(ProposeError::NotLeader((leader != 0).then(|| peer(leader))));
        }
        let clock = self.group.shared().clocks.get(&self.id).cloned();
        let at = clock.map_or_else(|| self.group.clock.wall(), |clock| clock.wall());
        let applied = self.group.commit_at(at, command);
        match fault {
            Some(CommitFaultKind::DeposedAfter) => {
                self.group.depose(self.id);
                Err(ProposeError::OutcomeUnknown(String::from("no answer in time")))
            }
            Some(CommitFaultKind::DoneSilently) => Err(ProposeError::OutcomeUnknown(String::from("no answer in time"))),
            Some(CommitFaultKind::DeposedBefore | CommitFaultKind::LostSilently) | None => Ok(applied),
        }
    }

    async fn confirm(&self, token: &ClaimToken) -> Result<Epoch, Unconfirmed> {
        self.barrier().await?;
        check_claim(&self.group.state(), token)
    }

    async fn barrier(&self) -> Result<(), Unconfirmed> {
        sleep(COMMIT).await;
        {
            let mut shared = self.group.shared();
            match &mut shared.proofs_left {
                Some(0) => return Err(Unconfirmed::NoQuorum(String::from("nobody can prove anything"))),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        self.group.quorum(self.id).map_err(Unconfirmed::NoQuorum)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn state(&self) -> watch::Receiver<Arc<State>> {
        self.group.state.subscribe()
    }

    fn health(&self) -> Health {
        self.group
            .quorum(self.id)
            .map_or_else(Health::Unhealthy, |()| Health::Healthy)
    }

    fn peers(&self) -> Vec<Peer> {
        (1..=self.group.size).map(peer).collect()
    }

    async fn collect_opinions(&self, question: &Question, deadline: Duration) -> Vec<Opinion> {
        let others: Vec<(MemberId, Option<Arc<dyn OpinionSource>>, Option<OpinionVerdict>)> = {
            let shared = self.group.shared();
            let others = (1..=self.group.size).filter(|id| *id != self.id && !shared.cut_off.contains(id));
            others
                .map(|id| {
                    (
                        id,
                        shared.opinion_responder.get(&id).cloned(),
                        shared.said.get(&id).cloned(),
                    )
                })
                .collect()
        };
        let asked = others.into_iter().map(|(id, opinion_responder, said)| async move {
            let missing = || Opinion {
                member: id,
                name: peer(id).name,
                at: self.group.clock.wall(),
                millis: 0,
                data_center: String::new(),
                verdict: said
                    .clone()
                    .unwrap_or_else(|| OpinionVerdict::Missing(String::from("no answer in time"))),
                observations: Vec::new(),
                remembered: None,
            };
            match opinion_responder.filter(|_| said.is_none()) {
                Some(opinion_responder) => {
                    match tokio::time::timeout(deadline, opinion_responder.opinion(question.clone())).await {
                        Ok(opinion) => Opinion {
                            member: id,
                            name: peer(id).name,
                            ..opinion
                        },
                        Err(_) => missing(),
                    }
                }
                None => missing(),
            }
        });
        futures::future::join_all(asked).await
    }

    async fn fetch_observations(
        &self,
        of: &Peer,
        request: &ObservationRequest,
        deadline: Duration,
    ) -> Result<ObservationUpdate, String> {
        let is_cut = || {
            let shared = self.group.shared();
            shared.cut_off.contains(&of.id)
                || shared.cut_off.contains(&self.id)
                || shared.unheard.contains(&(self.id, of.id))
        };
        let source = self.group.shared().observations.get(&of.id).cloned();
        let source = source.ok_or_else(|| String::from("no such route"))?;
        if is_cut() {
            sleep(deadline).await;
            return Err(String::from("no answer in time"));
        }
        sleep(COMMIT).await;
        // Everything passes through JSON, as it does between processes.
        let request = serde_json::from_str(&serde_json::to_string(request).unwrap()).unwrap();
        let update = tokio::time::timeout(deadline, source.observations(request)).await;
        let update = update.map_err(|_| String::from("no answer in time"))?;
        sleep(COMMIT).await;
        if is_cut() {
            return Err(String::from("no answer in time"));
        }
        let text = serde_json::to_string(&update).unwrap();
        self.group.shared().exchanged_bytes += u64::try_from(text.len()).unwrap();
        Ok(serde_json::from_str(&text).unwrap())
    }

    async fn hand_over(&self, _deadline: Duration) {}
}
