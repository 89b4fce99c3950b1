//! Repairing on the leader: finding → agreement → plan → claim → hands, one recovery per cluster at a time.

mod boot_read_only;
mod durability;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::domain::analysis::{self, Agreement};
use crate::domain::finding::{Code, Finding, Opinion};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::plan::{Order, Plan, PlanReport, RecoveryKind};
use crate::domain::recovery::{lint, planner};
use crate::domain::state::record::Blocked;
use crate::domain::state::{Applied, Claim, ClaimToken, Command, Quarantine};
use crate::domain::topology::ClusterId;

use crate::app::cluster::view::{ClusterView, ClusterViews, JudgedFinding};
use crate::app::ports::OpinionSource;
use crate::app::recovery::admission::{self, RecoveryPriority, Waiting};
use crate::app::recovery::in_flight::{InFlightRecoveries, OccupyingTask, ReportedFinding};
use crate::app::recovery::refresh;
use crate::app::recovery::runner;
use crate::app::recovery::steps::RecoveryContext;

mod manual;
mod quorum;
mod request;
mod resume;

use quorum::{calls_for, has_recovery};

/// A refusal is written again, and logged again, after this; detections and blocks are for people.
const SAY_AGAIN_MILLIS: u64 = 60_000;
/// What nothing is done about is said when it has lasted so long.
const SETTLE_MILLIS: u64 = 1000;

/// Takes up findings and unfinished recoveries.
pub struct RecoveryCoordinator {
    context: RecoveryContext,
    views: ClusterViews,
    opinion_responder: Arc<dyn OpinionSource>,
    in_flight: Mutex<InFlightRecoveries>,
    tracker: TaskTracker,
}

impl RecoveryCoordinator {
    /// A coordinator that does nothing until told to consider.
    pub fn new(context: RecoveryContext, views: ClusterViews, opinion_responder: Arc<dyn OpinionSource>) -> Arc<Self> {
        Arc::new(Self {
            context,
            views,
            opinion_responder,
            in_flight: Mutex::default(),
            tracker: TaskTracker::new(),
        })
    }

    pub(super) fn context(&self) -> &RecoveryContext {
        &self.context
    }

    pub(super) fn views(&self) -> &ClusterViews {
        &self.views
    }

    /// Runs a piece of work that [`RecoveryCoordinator::idle`] waits for.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlightRecoveries> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps a finding from being acted on, beyond what its view says.
    pub fn held_back(&self, instance: &InstanceKey) -> Option<HeldBack> {
        self.in_flight().held_back.get(instance).cloned()
    }

    /// What the members said of an instance when they were asked last; empty when they were not.
    pub fn opinions(&self, instance: &InstanceKey) -> Vec<Opinion> {
        self.in_flight().opinions.get(instance).cloned().unwrap_or_default()
    }

    /// Waits until no task runs.
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }

    /// Takes up what the views call for. Returns at once; the work goes on in tasks.
    pub fn consider(self: &Arc<Self>, views: &[ClusterView]) {
        self.resume_unfinished();
        let mut waiting = Vec::new();
        for view in views {
            for judged in &view.findings {
                self.note(view, judged);
                if judged.held_back.is_none() && self.ready(view, &judged.finding) {
                    waiting.push(self.waiting(view, &judged.finding));
                }
            }
            let failing: BTreeSet<&InstanceKey> = view.findings.iter().map(|judged| &judged.finding.instance).collect();
            let mut in_flight = self.in_flight();
            in_flight
                .held_back
                .retain(|key, _| !view.topology.instances.contains_key(key) || failing.contains(key));
            in_flight
                .opinions
                .retain(|key, _| !view.topology.instances.contains_key(key) || failing.contains(key));
            in_flight
                .said
                .retain(|(key, _), _| !view.topology.instances.contains_key(key) || failing.contains(key));
        }
        self.begin(waiting);
    }

    /// Begins the most important of these, as far as there is room. Unfinished recoveries that were taken over take up room as well,
    /// and are never made to wait: their servers are locked already.
    fn begin(self: &Arc<Self>, waiting: Vec<Waiting>) {
        let busy = self
            .in_flight()
            .busy
            .iter()
            .map(|(cluster, present)| (cluster.clone(), present.gives_way))
            .collect();
        for one in admission::admit(waiting, &busy, self.context.settings.concurrency) {
            if let Some(busy) = self.occupy(&one.priority.cluster, one.priority.gives_way) {
                self.tracker.spawn(Arc::clone(self).take_up(busy, one.finding));
            }
        }
    }

    fn waiting(&self, view: &ClusterView, finding: &Finding) -> Waiting {
        let in_flight = self.in_flight();
        let cluster = &view.cluster.id;
        let was_given_up = in_flight.held_back.contains_key(&finding.instance);
        let primary = analysis::current_primary(&view.topology);
        let was_writable = primary
            .and_then(|key| view.topology.get(&key)?.facts.as_ref())
            .is_some_and(crate::domain::instance::InstanceFacts::is_writable);
        Waiting {
            priority: RecoveryPriority {
                given_up: in_flight.tried.get(cluster).copied().filter(|_| was_given_up),
                gives_way: gives_way(finding.code),
                was_not_writable: !was_writable,
                has_no_document: view.cluster.document.is_none(),
                servers: std::cmp::Reverse(view.topology.instances.len()),
                cluster: cluster.clone(),
            },
            finding: finding.clone(),
        }
    }

    /// Nobody works on the cluster, every instance was looked at since this process started, and the last try is a little while ago.
    fn ready(&self, view: &ClusterView, finding: &Finding) -> bool {
        let now = self.context.clock.monotonic();
        let in_flight = self.in_flight();
        in_flight.is_free(&view.cluster.id, gives_way(finding.code))
            && view
                .topology
                .instances
                .values()
                .all(|instance| instance.last_checked.is_some())
            && in_flight
                .tried
                .get(&view.cluster.id)
                .is_none_or(|tried| now.millis_since(*tried) >= quorum::try_again_millis(finding))
    }

    /// Says what is found, and writes a detection when nothing will be done about it (a claim is a detection itself). What may be over
    /// in a moment is said when it has lasted a second; while a recovery runs its own record tells the story.
    fn note(self: &Arc<Self>, view: &ClusterView, judged: &JudgedFinding) {
        let finding = &judged.finding;
        let running = matches!(view.policy.held_back, Some(HeldBack::RecoveryRuns { .. }))
            || self.in_flight().busy.contains_key(&view.cluster.id);
        if finding.code == Code::NoProblem || running {
            return;
        }
        if finding.code.is_advice() {
            if self.news_once(&finding.instance, finding.code.as_str(), &finding.description) {
                info!(instance = %finding.instance, code = %finding.code, "{}: {}", finding.code, finding.description);
            }
            return;
        }
        let held_back = judged.held_back.clone().or_else(|| self.held_back(&finding.instance));
        let Some(held_back) = held_back else {
            if self.news(&finding.instance, finding.code.as_str(), "", 0) {
                warn!(instance = %finding.instance, code = %finding.code, "{}: {}", finding.code, finding.description);
            }
            return;
        };
        let text = held_back.to_string();
        if !self.news(&finding.instance, finding.code.as_str(), &text, SETTLE_MILLIS) {
            return;
        }
        warn!(instance = %finding.instance, code = %finding.code, "{}: {}; no recovery: {text}", finding.code, finding.description);
        let state = self.views.state();
        let recent = if let HeldBack::RecentRecovery { uid, .. } | HeldBack::Vetoed { uid, .. } = &held_back {
            state.recoveries.get(uid)
        } else {
            None
        };
        let blocked = recent.map(|recovery| Blocked {
            instance: finding.instance.clone(),
            cluster_name: view.cluster.name.clone(),
            analysis: finding.code.to_string(),
            at: self.context.clock.wall(),
            blocking_recovery: recovery.id,
        });
        let detect = Command::Detect {
            finding: Box::new(finding.clone()),
            member_name: self.context.consensus.me().name,
            held_back: Some(held_back),
            hooks: self.context.hooks.at_detection(&state, finding),
        };
        let consensus = Arc::clone(&self.context.consensus);
        self.tracker.spawn(async move {
            let commands = std::iter::once(detect).chain(blocked.map(|blocked| Command::Block { blocked }));
            for command in commands {
                if let Err(error) = consensus.propose(command).await {
                    warn!("detection not written: {error}");
                    return;
                }
            }
        });
    }

    /// Whether a piece of advice is new, and has been given for a second. It is not said again.
    fn news_once(&self, instance: &InstanceKey, code: &'static str, text: &str) -> bool {
        let key = (instance.clone(), code);
        let is_said = |said: &ReportedFinding| said.text == text && said.at.is_some();
        let known = self.in_flight().said.get(&key).is_some_and(is_said);
        !known && self.news(instance, code, text, SETTLE_MILLIS)
    }

    /// Whether a text about a finding is new, and has been so for `settle_millis`. The same is said again after a minute.
    pub(super) fn news(&self, instance: &InstanceKey, code: &'static str, text: &str, settle_millis: u64) -> bool {
        let now = self.context.clock.monotonic();
        let mut in_flight = self.in_flight();
        let said = in_flight
            .said
            .entry((instance.clone(), code))
            .or_insert_with(|| ReportedFinding {
                text: text.to_owned(),
                since: now,
                at: None,
            });
        if said.text != text {
            *said = ReportedFinding {
                text: text.to_owned(),
                since: now,
                at: None,
            };
        }
        let due = match said.at {
            None => now.millis_since(said.since) >= settle_millis,
            Some(at) => !text.is_empty() && now.millis_since(at) > SAY_AGAIN_MILLIS,
        };
        if due {
            said.at = Some(now);
        }
        due
    }

    /// Notes that somebody works on a cluster until the answer is dropped; `None` when somebody does already.
    pub(super) fn occupy(self: &Arc<Self>, cluster: &ClusterId, gives_way: bool) -> Option<Busy> {
        let mut in_flight = self.in_flight();
        if !in_flight.is_free(cluster, gives_way) {
            return None;
        }
        in_flight.last_ticket += 1;
        let ticket = in_flight.last_ticket;
        in_flight
            .busy
            .insert(cluster.clone(), OccupyingTask { ticket, gives_way });
        Some(Busy {
            coordinator: Arc::clone(self),
            cluster: cluster.clone(),
            ticket,
        })
    }

    async fn take_up(self: Arc<Self>, busy: Busy, finding: Finding) {
        let outcome = self.repair(&busy.cluster, &finding).await;
        match outcome {
            Ok(()) => self.in_flight().held_back.remove(&finding.instance),
            Err(why) => self.in_flight().held_back.insert(finding.instance.clone(), why),
        };
        drop(busy);
        self.context.instance_cache.touch();
    }

    /// Opinions → a fresh view → plan → claim → hands.
    async fn repair(self: &Arc<Self>, cluster: &ClusterId, finding: &Finding) -> Result<(), HeldBack> {
        let (opinions, view, judged) = self.look_again(cluster, finding).await?;
        if let Some(held_back) = &judged.held_back {
            return Err(held_back.clone());
        }
        self.plan_and_act(&view, &judged, opinions, None, None).await.map(drop)
    }

    /// The members' opinions of a server that does not answer, and what a fresh view shows of the finding. A finding about a
    /// server that answers needs no agreement: nothing is decided about its life.
    async fn look_again(
        &self,
        cluster: &ClusterId,
        finding: &Finding,
    ) -> Result<(Vec<Opinion>, ClusterView, JudgedFinding), HeldBack> {
        let (opinions, consent) = if finding.evidence.last_check_valid {
            (Vec::new(), Agreement::Failover)
        } else {
            self.agree(finding).await?
        };
        if gives_way(finding.code)
            && let Some(view) = self.views.cluster(cluster)
        {
            for keys in refresh::neighbours(&view.topology, &finding.instance) {
                refresh::refresh(&self.context, &keys).await;
            }
        }
        let view = self
            .views
            .cluster(cluster)
            .ok_or_else(|| HeldBack::Refused(String::from("the cluster is gone")))?;
        let again = |judged: &&JudgedFinding| {
            let is_as_alive = judged.finding.evidence.last_check_valid == finding.evidence.last_check_valid;
            judged.finding.instance == finding.instance && calls_for(&judged.finding, consent) && is_as_alive
        };
        let judged = view.findings.iter().find(again).cloned();
        match judged {
            Some(judged) => Ok((opinions, view, judged)),
            None => Err(HeldBack::NoAgreement(String::from(
                "a fresh look no longer shows the failure",
            ))),
        }
    }

    async fn plan_and_act(
        self: &Arc<Self>,
        view: &ClusterView,
        judged: &JudgedFinding,
        opinions: Vec<Opinion>,
        designated: Option<&InstanceKey>,
        order: Option<Order>,
    ) -> Result<String, HeldBack> {
        let asked = planner::PlanRequest {
            designated,
            order,
            remembered: quorum::remembered(&opinions),
        };
        let (plan, report) = quorum::plan_of(&judged.finding, view, asked, self.context.clock.wall());
        match plan {
            None => Err(HeldBack::Refused(
                report.no_plan.unwrap_or_else(|| String::from("no reason given")),
            )),
            Some(plan) => self.act(view, judged.finding.clone(), opinions, plan, report).await,
        }
    }

    /// Lint, claim, drive. Returns the id of the recovery.
    pub(super) async fn act(
        self: &Arc<Self>,
        view: &ClusterView,
        finding: Finding,
        opinions: Vec<Opinion>,
        plan: Plan,
        report: PlanReport,
    ) -> Result<String, HeldBack> {
        let unsound = lint::lint(&plan, &view.topology);
        if !unsound.is_empty() {
            error!(
                "the plan for {} is unsound and was not claimed: {}",
                plan.old_primary,
                unsound.join("; ")
            );
            return Err(HeldBack::Unsound(unsound.join("; ")));
        }
        let me = self.context.consensus.me();
        let uid = format!("{}:{}", self.context.clock.wall().0, uuid::Uuid::new_v4());
        let hooks = if plan.skips_hooks() {
            Vec::new()
        } else {
            self.context.hooks.before(&self.views.state(), &finding, plan.kind)
        };
        let claim = Claim {
            uid: uid.clone(),
            holder: me.id,
            holder_name: me.name,
            finding,
            opinions,
            plan,
            report,
            above: 0,
            hooks,
        };
        self.in_flight().running.insert(uid.clone());
        let claimed = self
            .context
            .consensus
            .propose(Command::Claim { claim: Box::new(claim) })
            .await;
        let result = match claimed {
            Ok(Applied::Claimed { token }) => {
                crate::app::recovery::failpoint::reached("after-claim");
                self.drive(&token, false).await;
                Ok(uid.clone())
            }
            Ok(Applied::Refused { why }) => Err(HeldBack::Refused(why.to_string())),
            Ok(Applied::Done | Applied::Number { .. }) => Err(HeldBack::Refused(String::from(
                "the claim was not answered with a token",
            ))),
            // The claim may be committed after all: then it stands under our name, and is resumed as unfinished.
            Err(error) => Err(HeldBack::Refused(error.to_string())),
        };
        self.in_flight().running.remove(&uid);
        result
    }

    async fn drive(self: &Arc<Self>, token: &ClaimToken, resumed: bool) {
        runner::drive(&self.context, &self.views, token, resumed).await;
    }

    /// Makes a returned primary a replica of the present one.
    pub async fn rejoin(self: &Arc<Self>, key: &str, quarantine: &Quarantine, view: &ClusterView) {
        if self.rests(&quarantine.instance) {
            return;
        }
        if let Some(why) = planner::another_controller(&view.topology) {
            if self.news(&quarantine.instance, "rejoin", &why.to_string(), 0) {
                warn!(instance = %quarantine.instance, "{} does not rejoin: {why}", quarantine.instance);
            }
            return;
        }
        let (plan, report) = planner::plan_rejoin(quarantine, &view.topology, &view.policy);
        let Some(plan) = plan else {
            let why = report.no_plan.unwrap_or_else(|| String::from("no reason given"));
            if self.news(&quarantine.instance, "rejoin", &why, 0) {
                warn!(instance = %quarantine.instance, "{} does not rejoin: {why}", quarantine.instance);
            }
            return;
        };
        let Some(busy) = self.occupy(&view.cluster.id, true) else {
            return;
        };
        let finding = Finding {
            code: Code::QuarantinedPrimaryReturned,
            instance: quarantine.instance.clone(),
            cluster: quarantine.cluster.clone(),
            description: format!(
                "{} is back and holds nothing that the primary lacks",
                quarantine.instance
            ),
            evidence: crate::domain::finding::Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        info!(instance = %quarantine.instance, "{} rejoins as a replica ({key})", quarantine.instance);
        let (this, view, returned) = (Arc::clone(self), view.clone(), quarantine.instance.clone());
        // A task of its own: a recovery that is dropped half-way would keep its cluster for ever.
        let task = self.tracker.spawn(async move {
            if let Err(why) = this.act(&view, finding, Vec::new(), plan, report).await {
                warn!(instance = %returned, "{returned} does not rejoin: {why}");
            }
            drop(busy);
        });
        if task.await.is_err() {
            error!("the rejoin of {} ended badly", quarantine.instance);
        }
    }

    /// A recovery that a person asks for: no filters, no anti-flap, no switch; the failure itself must be there. With `designated` that
    /// server is promoted, or nobody is. Returns the id of the recovery.
    ///
    /// # Errors
    /// What keeps it from running.
    pub async fn recover_now(
        self: &Arc<Self>,
        view: &ClusterView,
        instance: &InstanceKey,
        designated: Option<&InstanceKey>,
        order: Order,
    ) -> Result<String, HeldBack> {
        let Some(judged) = view
            .findings
            .iter()
            .find(|judged| judged.finding.instance == *instance && has_recovery(&judged.finding))
        else {
            return Err(HeldBack::NotActionable);
        };
        let Some(busy) = self.occupy(&view.cluster.id, gives_way(judged.finding.code)) else {
            return Err(HeldBack::RecoveryRuns {
                uid: String::from("of this member"),
            });
        };
        let (this, cluster, finding) = (Arc::clone(self), view.cluster.id.clone(), judged.finding.clone());
        let designated = designated.cloned();
        let task = self.tracker.spawn(async move {
            let result = this.repair_now(&cluster, &finding, designated, order).await;
            drop(busy);
            result
        });
        task.await
            .unwrap_or_else(|error| Err(HeldBack::Refused(error.to_string())))
    }

    async fn repair_now(
        self: &Arc<Self>,
        cluster: &ClusterId,
        finding: &Finding,
        designated: Option<InstanceKey>,
        order: Order,
    ) -> Result<String, HeldBack> {
        let (opinions, view, judged) = self.look_again(cluster, finding).await?;
        let order = Order {
            designated: designated.is_some(),
            ..order
        };
        self.plan_and_act(&view, &judged, opinions, designated.as_ref(), Some(order))
            .await
    }
}

/// Whether the recovery that a finding calls for waits for others, and is ended by one that replaces the primary.
fn gives_way(code: Code) -> bool {
    RecoveryKind::for_code(code).is_some_and(RecoveryKind::gives_way)
}

/// Somebody works on a cluster. However that ends, the cluster is free afterwards.
pub(super) struct Busy {
    coordinator: Arc<RecoveryCoordinator>,
    cluster: ClusterId,
    ticket: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = self.coordinator.context.clock.monotonic();
        let mut in_flight = self.coordinator.in_flight();
        // Whoever it gave way to keeps the cluster.
        if in_flight
            .busy
            .get(&self.cluster)
            .is_some_and(|present| present.ticket != self.ticket)
        {
            return;
        }
        in_flight.busy.remove(&self.cluster);
        in_flight.tried.insert(self.cluster.clone(), now);
    }
}
