//! Requests of documents: takeovers, drains and forced failovers that run once.
//!
//! A request is handled on a view from fresh probes, after every server of its cluster was probed. The claim names
//! the request, so one claim is granted for it, whichever member leads and however often the leader changes. A
//! refusal is the end of a request. It stays pending until its deadline only while its cluster was not seen
//! completely, another recovery works on the cluster, or there is no quorum.

use std::sync::Arc;

use tracing::{info, warn};

use crate::domain::analysis::current_primary;
use crate::domain::cluster_view::ClusterView;
use crate::domain::declared::{drain, incident_id};
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::state::{Applied, Command, Request, RequestKind, RequestOutcome, RequestProgress, State};
use crate::domain::time::WallTime;
use crate::domain::topology::ClusterId;

use super::boot_read_only::is_fully_probed;
use super::{ClusterReservation, RecoveryCoordinator};
use crate::app::recovery::admission::RecoveryPriority;
use crate::app::supervision;

impl RecoveryCoordinator {
    /// Starts the pending requests. Returns at once; tasks do the work.
    pub(super) fn start_requests(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        let state = self.views.state();
        // Lost members may have completed it. An operator has to check that first.
        if state.quorum_forced.is_some() {
            return;
        }
        let now = self.context.clock.wall();
        let pending = |request: &&Request| request.progress == RequestProgress::Pending;
        for request in state.requests.values().filter(pending) {
            let view = views
                .iter()
                .find(|view| view.cluster.document.as_ref() == Some(&request.origin));
            if request.until() <= now {
                self.settle_in_background(request, RequestOutcome::Expired, why_expired(view.map(Arc::as_ref)));
                continue;
            }
            let Some(view) = view.filter(|view| is_fully_probed(view)) else {
                continue;
            };
            if let Some(uid) = running_replacement(&state, view) {
                let why = HeldBack::RecoveryRuns { uid }.to_string();
                self.settle_in_background(request, RequestOutcome::Refused, why);
                continue;
            }
            if !self.in_flight().requests.insert(request.key()) {
                continue;
            }
            match self.admit_one(RecoveryPriority::unlimited(view.cluster.id.clone(), false)) {
                Some(reservation) => {
                    let (this, request) = (Arc::clone(self), request.clone());
                    self.tracker.spawn(async move {
                        let key = request.key();
                        let ended =
                            supervision::catch(Box::pin(Arc::clone(&this).run_request(reservation, request))).await;
                        if ended.is_none() {
                            this.in_flight().requests.remove(&key);
                        }
                    });
                }
                None => {
                    self.in_flight().requests.remove(&request.key());
                }
            }
        }
    }

    /// Records the end of a request that does not begin.
    fn settle_in_background(self: &Arc<Self>, request: &Request, outcome: RequestOutcome, why: String) {
        let key = request.key();
        if self.in_flight().requests.insert(key.clone()) {
            let this = Arc::clone(self);
            self.tracker.spawn(async move {
                supervision::catch(this.settle(&key, outcome, why)).await;
                this.in_flight().requests.remove(&key);
            });
        }
    }

    async fn settle(&self, key: &str, outcome: RequestOutcome, why: String) {
        info!("request {key}: {outcome:?}: {why}");
        let command = Command::SettleRequest {
            key: key.to_owned(),
            outcome,
            why,
        };
        match self.context.consensus.propose(command).await {
            // A request that began or was withdrawn meanwhile has its own end.
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. } | Applied::Refused { .. }) => {}
            Err(error) => warn!("failed to record the end of request {key}, will retry: {error}"),
        }
    }

    async fn run_request(self: Arc<Self>, reservation: ClusterReservation, request: Request) {
        let key = request.key();
        if let Err(why) = self.check_and_run(&reservation.cluster, &request).await {
            // Only the leader may refuse a request.
            if self.context.consensus.barrier().await.is_ok() {
                self.settle(&key, RequestOutcome::Refused, why).await;
            }
        }
        self.in_flight().requests.remove(&key);
        drop(reservation);
        self.context.instance_cache.notify_changed();
    }

    /// Claims the recovery of a request and runs it.
    ///
    /// # Errors
    /// Why the recovery did not begin.
    async fn check_and_run(self: &Arc<Self>, cluster: &ClusterId, request: &Request) -> Result<(), String> {
        let reason = |why: HeldBack| {
            if let HeldBack::Refused(why) = why {
                why
            } else {
                why.to_string()
            }
        };
        let view = self.refreshed_view(cluster).await.map_err(reason)?;
        let state = self.views.state();
        let (target, order) = match &request.what {
            RequestKind::Takeover {
                target,
                catch_up_seconds,
                ..
            } => {
                check_takeover(&state, request)?;
                (target.as_ref(), takeover_order(request, *catch_up_seconds))
            }
            RequestKind::Drain { .. } => {
                drain::check(&state, request, &view.topology, &view.policy)?;
                (None, takeover_order(request, None))
            }
            RequestKind::Force { old_primary, incident } => {
                check_force(&state, &view, old_primary, incident, self.context.clock.wall())?;
                let order = ManualRequest {
                    command: String::from("force-master-failover"),
                    forced: true,
                    accepts_loss: true,
                    request: Some(request.key()),
                    ..ManualRequest::default()
                };
                (None, order)
            }
        };
        let (finding, plan, report) = self.plan_order(&view, target, order).map_err(reason)?;
        if matches!(request.what, RequestKind::Drain { .. }) {
            drain::check_successor(&view.policy, &plan.old_primary, &plan.successor)?;
        }
        self.claim_and_run(&view, finding, Vec::new(), plan, report)
            .await
            .map(drop)
            .map_err(reason)
    }
}

fn takeover_order(request: &Request, lag_seconds: Option<u64>) -> ManualRequest {
    ManualRequest {
        command: String::from("graceful-master-takeover-auto"),
        starts_old_primary: true,
        lag_seconds,
        request: Some(request.key()),
        ..ManualRequest::default()
    }
}

/// The recovery of the cluster that a takeover cannot end.
fn running_replacement(state: &State, view: &ClusterView) -> Option<String> {
    let recovery = state.recoveries.values().find(|recovery| {
        recovery.is_active() && recovery.plan.cluster == view.cluster.id && !recovery.plan.kind.gives_way()
    })?;
    Some(recovery.uid.clone())
}

fn why_expired(view: Option<&ClusterView>) -> String {
    let why = match view {
        None => "no cluster of the document was found",
        Some(view) if !is_fully_probed(view) => "not all servers of the cluster were probed",
        Some(_) => "another recovery ran on the cluster",
    };
    format!("it did not begin before its deadline: {why}")
}

fn check_takeover(state: &State, request: &Request) -> Result<(), String> {
    match state.documents.get(&request.origin) {
        None => Err("the document is gone".to_owned()),
        Some(document) if document.paused => Err("spec.paused is true".to_owned()),
        Some(_) => Ok(()),
    }
}

/// A forced failover is for the incident that the request names, and for a primary that takes no writes.
fn check_force(
    state: &State,
    view: &ClusterView,
    old_primary: &InstanceKey,
    named: &str,
    now: WallTime,
) -> Result<(), String> {
    let topology = &view.topology;
    let old_primary = topology.resolve(old_primary);
    let primary = current_primary(topology).ok_or_else(|| "the primary is not known".to_owned())?;
    if *old_primary != primary {
        return Err(format!("{old_primary} is not the primary, {primary} is"));
    }
    let takes_writes = topology
        .get(&primary)
        .and_then(|instance| instance.valid_facts())
        .is_some_and(InstanceFacts::is_writable);
    if takes_writes {
        return Err(format!("{primary} answers and takes writes: request a takeover"));
    }
    let present = incident_id::ids_of(state, &view.cluster.id, &primary, now);
    if present.iter().any(|id| id == named) {
        return Ok(());
    }
    Err(match present.first() {
        Some(id) => format!("{named} is not the current incident, which is {id}"),
        None => format!("{named} is not the current incident: there is none"),
    })
}
