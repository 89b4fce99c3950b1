//! Requests of documents: takeovers and forced promotions that are to be done once.
//!
//! A request is handled on a view from fresh probes, when every server of its cluster was looked at. The claim names it, so that
//! whoever leads and however often, one claim is granted; what speaks against it is its end. Only what has to be waited for leaves it
//! pending until its deadline: a cluster that nobody has seen yet, or no quorum.

use std::sync::Arc;

use tracing::{info, warn};

use crate::app::cluster::view::ClusterView;
use crate::domain::analysis::current_primary;
use crate::domain::declared::{drain, incident};
use crate::domain::instance::InstanceFacts;
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::plan::Order;
use crate::domain::state::{Applied, Command, Request, RequestKind, RequestOutcome, RequestStanding, State};
use crate::domain::time::WallTime;

use super::boot_read_only::is_seen_whole;
use super::{Busy, RecoveryCoordinator};

impl RecoveryCoordinator {
    /// Takes up the requests that are pending. Returns at once; the work goes on in tasks.
    pub fn tend_requests(self: &Arc<Self>, views: &[ClusterView]) {
        let state = self.views.state();
        // It may have been done by members that are lost: a person looks first.
        if state.quorum_forced.is_some() {
            return;
        }
        let now = self.context.clock.wall();
        let pending = |request: &&Request| request.standing == RequestStanding::Pending;
        for request in state.requests.values().filter(pending) {
            let view = views
                .iter()
                .find(|view| view.cluster.document.as_ref() == Some(&request.origin));
            if request.until() <= now {
                self.settle_later(request, RequestOutcome::Expired, why_late(view));
                continue;
            }
            let Some(view) = view.filter(|view| is_seen_whole(view)) else {
                continue;
            };
            if let Some(uid) = running(&state, view) {
                let why = HeldBack::RecoveryRuns { uid }.to_string();
                self.settle_later(request, RequestOutcome::Refused, why);
                continue;
            }
            if !self.in_flight().requests.insert(request.key()) {
                continue;
            }
            match self.occupy(&view.cluster.id, false) {
                Some(busy) => {
                    let (this, request) = (Arc::clone(self), request.clone());
                    self.tracker.spawn(async move { this.handle(busy, request).await });
                }
                None => {
                    self.in_flight().requests.remove(&request.key());
                }
            }
        }
    }

    /// Records the end of a request that is not begun.
    fn settle_later(self: &Arc<Self>, request: &Request, outcome: RequestOutcome, why: String) {
        let key = request.key();
        if self.in_flight().requests.insert(key.clone()) {
            let this = Arc::clone(self);
            self.tracker.spawn(async move {
                this.settle(&key, outcome, why).await;
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
            // One that was begun or taken back meanwhile has its own end.
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. } | Applied::Refused { .. }) => {}
            Err(error) => warn!("request {key}: its end was not written, it is looked at again: {error}"),
        }
    }

    async fn handle(self: Arc<Self>, busy: Busy, request: Request) {
        let key = request.key();
        if let Err(why) = self.fulfil(&busy, &request).await {
            // Nothing is said of a request that this member may not speak for.
            if self.context.consensus.barrier().await.is_ok() {
                self.settle(&key, RequestOutcome::Refused, why).await;
            }
        }
        self.in_flight().requests.remove(&key);
        drop(busy);
        self.context.instance_cache.touch();
    }

    /// Claims and drives. An error is why nothing was begun.
    async fn fulfil(self: &Arc<Self>, busy: &Busy, request: &Request) -> Result<(), String> {
        let told = |why: HeldBack| {
            if let HeldBack::Refused(why) = why {
                why
            } else {
                why.to_string()
            }
        };
        let view = self.look_closely(&busy.cluster).await.map_err(told)?;
        let state = self.views.state();
        let (target, order) = match &request.what {
            RequestKind::Takeover {
                target,
                catch_up_seconds,
                ..
            } => {
                check_takeover(&state, request)?;
                (target.as_ref(), handover(request, *catch_up_seconds))
            }
            RequestKind::Drain { .. } => {
                drain::check(&state, request, &view.topology, &view.policy)?;
                (None, handover(request, None))
            }
            RequestKind::Force { old_primary, incident } => {
                check_force(&state, &view, old_primary, incident, self.context.clock.wall())?;
                let order = Order {
                    command: String::from("force-master-failover"),
                    forced: true,
                    accepts_loss: true,
                    request: Some(request.key()),
                    ..Order::default()
                };
                (None, order)
            }
        };
        let (finding, plan, report) = self.plan_order(&view, target, order).map_err(told)?;
        if matches!(request.what, RequestKind::Drain { .. }) {
            drain::check_successor(&view.policy, &plan.old_primary, &plan.successor)?;
        }
        self.act(&view, finding, Vec::new(), plan, report)
            .await
            .map(drop)
            .map_err(told)
    }
}

fn handover(request: &Request, lag_seconds: Option<u64>) -> Order {
    Order {
        command: String::from("graceful-master-takeover-auto"),
        starts_old_primary: true,
        lag_seconds,
        request: Some(request.key()),
        ..Order::default()
    }
}

/// A recovery of the cluster that a takeover cannot end.
fn running(state: &State, view: &ClusterView) -> Option<String> {
    let recovery = state.recoveries.values().find(|recovery| {
        recovery.is_active() && recovery.plan.cluster == view.cluster.id && !recovery.plan.kind.gives_way()
    })?;
    Some(recovery.uid.clone())
}

fn why_late(view: Option<&ClusterView>) -> String {
    let why = match view {
        None => "no cluster of the document was seen",
        Some(view) if !is_seen_whole(view) => "not all servers of the cluster were looked at",
        Some(_) => "something else worked on the cluster",
    };
    format!("it was not begun before its deadline: {why}")
}

fn check_takeover(state: &State, request: &Request) -> Result<(), String> {
    match state.documents.get(&request.origin) {
        None => Err("the document is gone".to_owned()),
        Some(document) if document.paused => Err("spec.paused is true".to_owned()),
        Some(_) => Ok(()),
    }
}

/// A forced promotion is for the incident that it names, and for a primary that takes no writes.
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
        return Err(format!("{primary} answers and takes writes: ask for a takeover"));
    }
    let present = incident::of(state, &view.cluster.id, &primary, now);
    if present.iter().any(|id| id == named) {
        return Ok(());
    }
    Err(match present.first() {
        Some(id) => format!("{named} is not the present incident, which is {id}"),
        None => format!("{named} is not the present incident: there is none"),
    })
}
