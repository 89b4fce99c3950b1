//! The use case of documents: on the leader, what they ask for becomes commands, and what became of it is written into their status.
//!
//! Runs on every member; a member that does not lead only waits. Four loops, so that a slow API server never delays a command: one
//! reconciles and proposes, one writes statuses at their pace, one makes Services, one labels pods. None waits for a server of MySQL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::declared::{self, Observer, Reconciliation, StatusModel};
use crate::domain::intent::Origin;
use crate::domain::state::{Applied, State};
use crate::domain::time::WallTime;

use crate::app::declarative::event_throttle::EventThrottle;
use crate::app::declarative::pod_labels::{self, PodLabeller};
use crate::app::declarative::service_publisher::{self, Outcomes, ServicePublisher};
use crate::app::declarative::status_throttle::StatusThrottle;
use crate::app::ports::cluster_source::{ClusterEvent, ClusterSource, ClusterViews, DocumentSet, StatusError};
use crate::app::ports::{Clock, Consensus, ProposeError};
use crate::app::recovery::service_gate::ServiceGate;

/// Without any change the documents are looked at this often: downtimes expire, other groups fall silent, holds end.
const TICK: Duration = Duration::from_secs(1);
/// Changes within this time are one change: while servers are probed the view changes all the time.
const GATHER: Duration = Duration::from_millis(50);
/// Statuses written side by side.
const WRITERS: usize = 8;
/// The longest that one write may take, whatever the source does.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// Commands of one round; the rest follows in the next one.
const MAX_COMMANDS: usize = 500;

/// The loops. Built by `main`, run once.
pub struct Reconciler {
    consensus: Arc<dyn Consensus>,
    source: Arc<dyn ClusterSource>,
    clock: Arc<dyn Clock>,
    views: watch::Receiver<ClusterViews>,
    service_gate: ServiceGate,
}

/// What is to be written, by the leader of which term.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    term: u64,
    statuses: Arc<BTreeMap<Origin, StatusModel>>,
    notices: Arc<BTreeMap<Origin, Vec<ClusterEvent>>>,
}

/// What the reconcile loop hands on, and what it hears back.
struct ReconcilerChannels {
    statuses: watch::Sender<Wanted>,
    publications: watch::Sender<service_publisher::Wanted>,
    labels: watch::Sender<pod_labels::Wanted>,
    outcomes: watch::Receiver<Outcomes>,
}

/// What the reconcile loop remembers from round to round, while it leads.
#[derive(Default)]
struct ReconcilerState {
    term: u64,
    vanished: BTreeMap<Origin, WallTime>,
    warned: BTreeSet<String>,
}

impl Reconciler {
    /// The loops over one source of documents. They tell in `service_gate` where its Services lead.
    pub fn new(
        consensus: Arc<dyn Consensus>,
        source: Arc<dyn ClusterSource>,
        clock: Arc<dyn Clock>,
        views: watch::Receiver<ClusterViews>,
        service_gate: ServiceGate,
    ) -> Self {
        Self {
            consensus,
            source,
            clock,
            views,
            service_gate,
        }
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (statuses, written) = watch::channel(Wanted::default());
        let (publications, published) = watch::channel(service_publisher::Wanted::default());
        let (labels, labelled) = watch::channel(pod_labels::Wanted::default());
        let outcomes = watch::Sender::new(Outcomes::default());
        let labeller = PodLabeller {
            consensus: Arc::clone(&self.consensus),
            source: Arc::clone(&self.source),
        };
        let publisher = ServicePublisher {
            consensus: Arc::clone(&self.consensus),
            source: Arc::clone(&self.source),
            clock: Arc::clone(&self.clock),
        };
        let sides = ReconcilerChannels {
            statuses,
            publications,
            labels,
            outcomes: outcomes.subscribe(),
        };
        tokio::join!(
            self.reconcile(sides, &stop),
            self.write(written, &stop),
            publisher.run(published, &outcomes, &stop),
            labeller.run(labelled, &stop)
        );
    }

    async fn reconcile(&self, mut sides: ReconcilerChannels, stop: &CancellationToken) {
        let mut documents = self.source.documents();
        let mut views = self.views.clone();
        let mut state = self.consensus.state();
        let mut leadership = self.consensus.leadership();
        let mut memory = ReconcilerState::default();
        loop {
            let set = documents.borrow_and_update().clone();
            let seen = views.borrow_and_update().clone();
            state.mark_unchanged();
            sides.outcomes.mark_unchanged();
            let (leads, term) = {
                let leadership = leadership.borrow_and_update();
                (leadership.is_leader, leadership.term)
            };
            if memory.term != term {
                memory = ReconcilerState {
                    term,
                    ..ReconcilerState::default()
                };
            }
            if leads {
                self.round(&set, &seen, &mut memory, &sides).await;
            } else {
                sides.statuses.send_replace(Wanted::default());
                sides.publications.send_replace(service_publisher::Wanted::default());
                self.service_gate.note(&BTreeMap::new(), &BTreeMap::new());
                sides.labels.send_replace(pod_labels::Wanted::default());
            }
            let gathered = tokio::time::Instant::now() + GATHER;
            tokio::select! {
                () = stop.cancelled() => return,
                () = or_forever(documents.changed()) => {}
                () = or_forever(views.changed()) => {}
                () = or_forever(state.changed()) => {}
                () = or_forever(leadership.changed()) => {}
                () = or_forever(sides.outcomes.changed()) => {}
                () = tokio::time::sleep(TICK) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(gathered) => {}
            }
        }
    }

    /// Reconcile, propose what is missing, reconcile again, hand the statuses on.
    async fn round(
        &self,
        set: &DocumentSet,
        views: &ClusterViews,
        memory: &mut ReconcilerState,
        sides: &ReconcilerChannels,
    ) {
        let compute = |vanished: &BTreeMap<Origin, WallTime>| -> Reconciliation {
            let state: Arc<State> = self.consensus.state().borrow().clone();
            declared::reconcile(set, &state, views, vanished, self.clock.wall())
        };
        let mut answer = compute(&memory.vanished);
        if !answer.commands.is_empty() {
            // What is missing in this member's state may be there already: a leader that just took over has not applied everything.
            if let Err(why) = self.consensus.barrier().await {
                debug!(%why, "documents wait: this member cannot prove that it leads");
                return;
            }
            answer = compute(&memory.vanished);
            self.propose(&answer).await;
            answer = compute(&answer.vanished);
        }
        for warning in &answer.warnings {
            if !memory.warned.contains(warning) {
                warn!("{warning}");
            }
        }
        memory.warned = answer.warnings.into_iter().collect();
        memory.vanished = answer.vanished;
        let publications = service_publisher::Wanted {
            term: memory.term,
            publications: Arc::new(answer.publications),
        };
        let labels = pod_labels::Wanted(Arc::new(answer.pod_labels));
        sides.labels.send_if_modified(|present| {
            let changed = *present != labels;
            if changed {
                *present = labels;
            }
            changed
        });
        let outcomes = sides.outcomes.borrow().clone();
        self.service_gate.note(&publications.publications, &outcomes);
        for (origin, status) in &mut answer.statuses {
            if let (Some(publication), Some(outcome)) = (publications.publications.get(origin), outcomes.get(origin)) {
                publication.tell(outcome, status);
                let told = publication.notice(outcome, self.clock.wall());
                answer.notices.entry(origin.clone()).or_default().extend(told);
            }
        }
        sides.publications.send_if_modified(|present| {
            let changed = *present != publications;
            if changed {
                *present = publications;
            }
            changed
        });
        sides.statuses.send_if_modified(|present| {
            let changed = present.term != memory.term
                || *present.statuses != answer.statuses
                || *present.notices != answer.notices;
            if changed {
                *present = Wanted {
                    term: memory.term,
                    statuses: Arc::new(answer.statuses),
                    notices: Arc::new(answer.notices),
                };
            }
            changed
        });
    }

    async fn propose(&self, answer: &Reconciliation) {
        for command in answer.commands.iter().take(MAX_COMMANDS) {
            match self.consensus.propose(command.clone()).await {
                Ok(Applied::Refused { why }) => {
                    warn!(command = command.name(), %why, "a document's command was refused");
                }
                Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => {
                    info!(command = command.name(), document = %subject(command), "from documents: applied");
                }
                Err(ProposeError::NotUnderstood(_)) => {}
                Err(why) => {
                    // The next round holds the documents against the state again: what is still missing is proposed again.
                    warn!(command = command.name(), %why, "a document's command was not applied; trying again");
                    return;
                }
            }
        }
    }

    async fn write(&self, mut statuses: watch::Receiver<Wanted>, stop: &CancellationToken) {
        let mut pace = StatusThrottle::default();
        let mut told = EventThrottle::default();
        let mut term = 0;
        loop {
            let Wanted {
                term: present,
                statuses: wanted,
                notices,
            } = statuses.borrow_and_update().clone();
            if term != present {
                // What an earlier leader wrote, this member in another term included, carries another observer.
                pace = StatusThrottle::default();
                told = EventThrottle::default();
                term = present;
            }
            pace.keep_only(&wanted);
            let now = self.clock.monotonic();
            let due: Vec<(Origin, StatusModel)> = wanted
                .iter()
                .filter(|(origin, status)| pace.is_due(origin, status, now))
                .map(|(origin, status)| (origin.clone(), status.clone()))
                .collect();
            if !due.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.write_all(due, &mut pace) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.tell_all(&notices, &mut told) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = or_forever(statuses.changed()) => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Tells what was not told yet. A status says more, so nothing waits for this.
    async fn tell_all(&self, notices: &BTreeMap<Origin, Vec<ClusterEvent>>, told: &mut EventThrottle) {
        told.keep_only(notices);
        let due = told.due(notices, self.clock.monotonic());
        if due.is_empty() || self.consensus.barrier().await.is_err() {
            return;
        }
        let mut writes = futures::stream::iter(due.into_iter().map(|(origin, notice)| async move {
            let outcome = in_time(&origin, self.source.tell(&origin, &notice)).await;
            (origin, notice, outcome)
        }))
        .buffer_unordered(WRITERS);
        while let Some((origin, notice, outcome)) = writes.next().await {
            match outcome {
                Ok(()) => told.succeeded(&origin, &notice),
                Err(why) => {
                    if told.failed(&origin, &notice, self.clock.monotonic()) {
                        warn!(%why, "{} was not told; trying again", notice.reason.as_str());
                    }
                }
            }
        }
    }

    async fn write_all(&self, due: Vec<(Origin, StatusModel)>, pace: &mut StatusThrottle) {
        if let Err(why) = self.consensus.barrier().await {
            debug!(%why, "statuses wait: this member cannot prove that it leads");
            return;
        }
        let uuid = self
            .consensus
            .state()
            .borrow()
            .group
            .as_ref()
            .map(|group| group.uuid.clone());
        let Some(cluster_uuid) = uuid else { return };
        let observer = Observer {
            cluster_uuid,
            member: self.consensus.me().name,
            term: self.consensus.leadership().borrow().term,
            renewed: self.clock.wall(),
        };
        let observer = &observer;
        let mut writes = futures::stream::iter(due.into_iter().map(|(origin, status)| async move {
            let outcome = in_time(&origin, self.source.write_status(&origin, &status, observer)).await;
            (origin, status, outcome)
        }))
        .buffer_unordered(WRITERS);
        while let Some((origin, status, outcome)) = writes.next().await {
            let now = self.clock.monotonic();
            match outcome {
                Ok(()) => pace.succeeded(&origin, status, now),
                Err(why) => {
                    if pace.failed(&origin, status, now) {
                        warn!(%why, "a status was not written; trying again");
                    }
                }
            }
        }
    }
}

/// A write that takes longer has failed.
async fn in_time(origin: &Origin, write: impl Future<Output = Result<(), StatusError>>) -> Result<(), StatusError> {
    let written = tokio::time::timeout(WRITE_DEADLINE, write).await;
    written.unwrap_or_else(|_| {
        Err(StatusError::Failed {
            origin: origin.clone(),
            why: format!("not within {} s", WRITE_DEADLINE.as_secs()),
        })
    })
}

/// The change of a watch; never, when its sender is gone: the other branches go on.
pub(super) async fn or_forever(changed: impl Future<Output = Result<(), watch::error::RecvError>>) {
    if changed.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What a command of a document is about, for the log.
fn subject(command: &crate::domain::state::Command) -> String {
    use crate::domain::state::Command;
    if let Command::PutDocument { document } = command {
        document.origin.to_string()
    } else if let Command::WithdrawDocument { origin } = command {
        origin.to_string()
    } else if let Command::SetIntent { intent } = command {
        format!("{} {} {}", intent.origin, intent.wish.kind().as_str(), intent.instance)
    } else if let Command::EndIntent { id } = command {
        format!("{} {} {}", id.origin, id.kind.as_str(), id.instance)
    } else if let Command::Request { request } = command {
        request.key()
    } else if let Command::CancelRequest { key, .. } = command {
        key.clone()
    } else {
        String::new()
    }
}
