//! Reconciles the documents: on the leader, their content becomes commands, and the resulting state becomes their status.
//!
//! Runs on every member; a member that does not lead only waits. There are four loops, so that a slow API server never delays a command: one
//! reconciles and proposes, one writes statuses and Events, one publishes Services, one labels pods. None waits for a MySQL server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::cluster_view::ClusterView;
use crate::domain::declared::{self, ClusterEvent, Observer, Reconciliation, StatusModel};
use crate::domain::intent::Origin;
use crate::domain::state::{Applied, State};
use crate::domain::time::WallTime;

use crate::app::declarative::changed::changed_or_pending;
use crate::app::declarative::event_throttle::EventThrottle;
use crate::app::declarative::pod_labels::{self, PodLabeller};
use crate::app::declarative::service_publisher::{self, PublishOutcomes, ServicePublisher};
use crate::app::declarative::status_throttle::StatusThrottle;
use crate::app::ports::cluster_source::{ClusterSource, DocumentSet, StatusError};
use crate::app::ports::publisher::Publisher;
use crate::app::ports::{Clock, Consensus, ProposeError};
use crate::app::recovery::service_gate::ServiceGate;

/// How often a reconcile runs without any change: downtimes expire, other groups become silent, holds end.
const TICK: Duration = Duration::from_secs(1);
/// Changes within this time trigger one reconcile: while servers are probed, the view changes all the time.
const GATHER: Duration = Duration::from_millis(50);
/// The most statuses that are written concurrently.
const WRITERS: usize = 8;
/// The longest that one write may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// The most commands of one reconcile; the rest follow in the next one.
const MAX_COMMANDS: usize = 500;

/// The loops of the declarative part. They run once.
pub struct Reconciler {
    consensus: Arc<dyn Consensus>,
    source: Arc<dyn ClusterSource>,
    publisher: Arc<dyn Publisher>,
    clock: Arc<dyn Clock>,
    views: watch::Receiver<Arc<Vec<ClusterView>>>,
    service_gate: ServiceGate,
}

/// The statuses and Events to write, with the term of the leader that wants them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    term: u64,
    statuses: Arc<BTreeMap<Origin, StatusModel>>,
    events: Arc<BTreeMap<Origin, Vec<ClusterEvent>>>,
}

/// The channels from the reconcile loop to the other loops, and the results of the publications.
struct ReconcilerChannels {
    statuses: watch::Sender<Wanted>,
    publications: watch::Sender<service_publisher::Wanted>,
    labels: watch::Sender<pod_labels::Wanted>,
    outcomes: watch::Receiver<PublishOutcomes>,
}

/// What the reconcile loop keeps from one reconcile to the next while it leads.
#[derive(Default)]
struct ReconcilerState {
    term: u64,
    vanished: BTreeMap<Origin, WallTime>,
    warned: BTreeSet<String>,
}

impl Reconciler {
    /// The loops over one source of documents. They record in `service_gate` where its Services lead.
    pub fn new(
        consensus: Arc<dyn Consensus>,
        source: Arc<dyn ClusterSource>,
        publisher: Arc<dyn Publisher>,
        clock: Arc<dyn Clock>,
        views: watch::Receiver<Arc<Vec<ClusterView>>>,
        service_gate: ServiceGate,
    ) -> Self {
        Self {
            consensus,
            source,
            publisher,
            clock,
            views,
            service_gate,
        }
    }

    /// Runs until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (statuses, written) = watch::channel(Wanted::default());
        let (publications, published) = watch::channel(service_publisher::Wanted::default());
        let (labels, labelled) = watch::channel(pod_labels::Wanted::default());
        let outcomes = watch::Sender::new(PublishOutcomes::default());
        let labeller = PodLabeller {
            consensus: Arc::clone(&self.consensus),
            publisher: Arc::clone(&self.publisher),
        };
        let publisher = ServicePublisher {
            consensus: Arc::clone(&self.consensus),
            publisher: Arc::clone(&self.publisher),
            clock: Arc::clone(&self.clock),
        };
        let channels = ReconcilerChannels {
            statuses,
            publications,
            labels,
            outcomes: outcomes.subscribe(),
        };
        tokio::join!(
            self.reconcile(channels, &stop),
            self.write(written, &stop),
            publisher.run(published, &outcomes, &stop),
            labeller.run(labelled, &stop)
        );
    }

    async fn reconcile(&self, mut channels: ReconcilerChannels, stop: &CancellationToken) {
        let mut documents = self.source.documents();
        let mut views = self.views.clone();
        let mut state = self.consensus.state();
        let mut leadership = self.consensus.leadership();
        let mut progress = ReconcilerState::default();
        loop {
            let set = documents.borrow_and_update().clone();
            let current_views = views.borrow_and_update().clone();
            state.mark_unchanged();
            channels.outcomes.mark_unchanged();
            let (leads, term) = {
                let leadership = leadership.borrow_and_update();
                (leadership.is_leader, leadership.term)
            };
            if progress.term != term {
                progress = ReconcilerState {
                    term,
                    ..ReconcilerState::default()
                };
            }
            if leads {
                self.reconcile_once(&set, &current_views, &mut progress, &channels)
                    .await;
            } else {
                channels.statuses.send_replace(Wanted::default());
                channels.publications.send_replace(service_publisher::Wanted::default());
                self.service_gate.record_outcomes(&BTreeMap::new(), &BTreeMap::new());
                channels.labels.send_replace(pod_labels::Wanted::default());
            }
            let gathered = tokio::time::Instant::now() + GATHER;
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed_or_pending(documents.changed()) => {}
                () = changed_or_pending(views.changed()) => {}
                () = changed_or_pending(state.changed()) => {}
                () = changed_or_pending(leadership.changed()) => {}
                () = changed_or_pending(channels.outcomes.changed()) => {}
                () = tokio::time::sleep(TICK) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(gathered) => {}
            }
        }
    }

    /// Reconciles, proposes the missing commands, reconciles again, and passes the results to the other loops.
    async fn reconcile_once(
        &self,
        set: &DocumentSet,
        views: &[ClusterView],
        progress: &mut ReconcilerState,
        channels: &ReconcilerChannels,
    ) {
        let compute = |vanished: &BTreeMap<Origin, WallTime>| -> Reconciliation {
            let state: Arc<State> = self.consensus.state().borrow().clone();
            declared::reconcile(set, &state, views, vanished, self.clock.wall())
        };
        let mut answer = compute(&progress.vanished);
        if !answer.commands.is_empty() {
            // The state of a new leader may lag: a missing command may already be committed.
            if let Err(why) = self.consensus.barrier().await {
                debug!(%why, "documents wait: this member cannot prove that it leads: {why}");
                return;
            }
            answer = compute(&progress.vanished);
            self.propose(&answer).await;
            answer = compute(&answer.vanished);
        }
        for warning in &answer.warnings {
            if !progress.warned.contains(warning) {
                warn!("{warning}");
            }
        }
        progress.warned = answer.warnings.into_iter().collect();
        progress.vanished = answer.vanished;
        let publications = service_publisher::Wanted {
            term: progress.term,
            publications: Arc::new(answer.publications),
        };
        let labels = pod_labels::Wanted(Arc::new(answer.pod_labels));
        channels.labels.send_if_modified(|present| {
            let changed = *present != labels;
            if changed {
                *present = labels;
            }
            changed
        });
        let outcomes = channels.outcomes.borrow().clone();
        self.service_gate.record_outcomes(&publications.publications, &outcomes);
        for (origin, status) in &mut answer.statuses {
            if let (Some(publication), Some(outcome)) = (publications.publications.get(origin), outcomes.get(origin)) {
                publication.add_to_status(outcome, status);
                let event = publication.event(outcome, self.clock.wall());
                answer.events.entry(origin.clone()).or_default().extend(event);
            }
        }
        channels.publications.send_if_modified(|present| {
            let changed = *present != publications;
            if changed {
                *present = publications;
            }
            changed
        });
        channels.statuses.send_if_modified(|present| {
            let changed = present.term != progress.term
                || *present.statuses != answer.statuses
                || *present.events != answer.events;
            if changed {
                *present = Wanted {
                    term: progress.term,
                    statuses: Arc::new(answer.statuses),
                    events: Arc::new(answer.events),
                };
            }
            changed
        });
    }

    async fn propose(&self, answer: &Reconciliation) {
        for command in answer.commands.iter().take(MAX_COMMANDS) {
            match self.consensus.propose(command.clone()).await {
                Ok(Applied::Refused { why }) => {
                    warn!(command = command.name(), %why, "{} of a document was refused: {why}", command.name());
                }
                Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => {
                    info!(command = command.name(), document = %subject(command), "applied {} of {}", command.name(), subject(command));
                }
                Err(ProposeError::NotUnderstood(_)) => {}
                Err(why) => {
                    // The next reconcile proposes again what is still missing.
                    warn!(command = command.name(), %why, "failed to apply {} of a document, will retry: {why}", command.name());
                    return;
                }
            }
        }
    }

    async fn write(&self, mut statuses: watch::Receiver<Wanted>, stop: &CancellationToken) {
        let mut status_throttle = StatusThrottle::default();
        let mut event_throttle = EventThrottle::default();
        let mut term = 0;
        loop {
            let Wanted {
                term: present,
                statuses: wanted,
                events,
            } = statuses.borrow_and_update().clone();
            if term != present {
                // Statuses of an earlier leader, this member in another term included, carry another observer.
                status_throttle = StatusThrottle::default();
                event_throttle = EventThrottle::default();
                term = present;
            }
            status_throttle.keep_only(&wanted);
            let now = self.clock.monotonic();
            let due: Vec<(Origin, StatusModel)> = wanted
                .iter()
                .filter(|(origin, status)| status_throttle.is_due(origin, status, now))
                .map(|(origin, status)| (origin.clone(), status.clone()))
                .collect();
            if !due.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.write_statuses(due, &mut status_throttle) => {}
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.record_events(&events, &mut event_throttle) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed_or_pending(statuses.changed()) => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Records the Events that were not recorded yet. A status has the same facts, so nothing waits for this.
    async fn record_events(&self, events: &BTreeMap<Origin, Vec<ClusterEvent>>, throttle: &mut EventThrottle) {
        throttle.keep_only(events);
        let due = throttle.due(events, self.clock.monotonic());
        if due.is_empty() || self.consensus.barrier().await.is_err() {
            return;
        }
        let mut writes = futures::stream::iter(due.into_iter().map(|(origin, notice)| async move {
            let outcome = in_time(&origin, self.source.record_event(&origin, &notice)).await;
            (origin, notice, outcome)
        }))
        .buffer_unordered(WRITERS);
        while let Some((origin, notice, outcome)) = writes.next().await {
            match outcome {
                Ok(()) => throttle.succeeded(&origin, &notice),
                Err(why) => {
                    if throttle.failed(&origin, &notice, self.clock.monotonic()) {
                        warn!(%why, "failed to record Event {}, will retry: {why}", notice.reason.as_str());
                    }
                }
            }
        }
    }

    async fn write_statuses(&self, due: Vec<(Origin, StatusModel)>, throttle: &mut StatusThrottle) {
        if let Err(why) = self.consensus.barrier().await {
            debug!(%why, "statuses wait: this member cannot prove that it leads: {why}");
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
                Ok(()) => throttle.succeeded(&origin, status, now),
                Err(why) => {
                    if throttle.failed(&origin, status, now) {
                        warn!(%origin, %why, "failed to write a status, will retry: {why}");
                    }
                }
            }
        }
    }
}

/// Fails a write that exceeds the deadline.
async fn in_time(origin: &Origin, write: impl Future<Output = Result<(), StatusError>>) -> Result<(), StatusError> {
    let written = tokio::time::timeout(WRITE_DEADLINE, write).await;
    written.unwrap_or_else(|_| {
        Err(StatusError::Failed {
            origin: origin.clone(),
            why: format!("no answer within {} s", WRITE_DEADLINE.as_secs()),
        })
    })
}

/// The subject of a document's command, for the log.
fn subject(command: &crate::domain::state::Command) -> String {
    use crate::domain::state::Command;
    if let Command::PutDocument { document } = command {
        document.origin.to_string()
    } else if let Command::WithdrawDocument { origin } = command {
        origin.to_string()
    } else if let Command::SetIntent { intent } = command {
        format!(
            "{} {} {}",
            intent.origin,
            intent.details.kind().as_str(),
            intent.instance
        )
    } else if let Command::EndIntent { id } = command {
        format!("{} {} {}", id.origin, id.kind.as_str(), id.instance)
    } else if let Command::ForgetGone { instance, .. } = command {
        instance.to_string()
    } else if let Command::Request { request } = command {
        request.key()
    } else if let Command::CancelRequest { key, .. } = command {
        key.clone()
    } else {
        String::new()
    }
}
