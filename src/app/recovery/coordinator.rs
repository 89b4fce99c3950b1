//! Decides on the leader which repairs run, and runs them: finding, agreement of the members, plan, claim, steps. A
//! cluster has one recovery at a time.

mod back_off;
mod boot_read_only;
mod durability;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::domain::analysis::{self, Agreement};
use crate::domain::cluster_view::{ClusterView, JudgedFinding};
use crate::domain::finding::{Code, Finding, Opinion};
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::HeldBack;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::manual_request::ManualRequest;
use crate::domain::recovery::plan::{Plan, PlanReport};
use crate::domain::recovery::{lint, planner};
use crate::domain::state::record::Blocked;
use crate::domain::state::{Applied, Claim, ClaimToken, Command, Quarantine};
use crate::domain::topology::{ClusterId, Topology};

use crate::app::cluster::view::ClusterViews;
use crate::app::ports::OpinionSource;
use crate::app::recovery::admission::{self, Candidate, Occupant, RecoveryPriority};
use crate::app::recovery::in_flight::{FindingReport, InFlightRecoveries};
use crate::app::recovery::refresh;
use crate::app::recovery::runner;
use crate::app::recovery::steps::RecoveryContext;
use crate::app::supervision;

mod manual;
mod opinions;
mod quorum;
mod request;
mod resume;

use quorum::{commits_nothing, has_recovery, matches_agreement};

/// A detection or a refusal that persists is recorded and logged again after this time.
const REPEAT_REPORT_MILLIS: u64 = 60_000;
/// The pause before a recovery is resumed after its task panicked.
const PAUSE_AFTER_PANIC: Duration = Duration::from_secs(1);
/// A finding that no recovery follows is reported when it has lasted this long.
const REPORT_AFTER_MILLIS: u64 = 1000;

/// Starts recoveries for findings, policies, requests and returned servers, and resumes unfinished ones.
pub struct RecoveryCoordinator {
    context: RecoveryContext,
    views: ClusterViews,
    opinion_responder: Arc<dyn OpinionSource>,
    in_flight: Mutex<InFlightRecoveries>,
    tracker: TaskTracker,
}

impl RecoveryCoordinator {
    /// A coordinator that starts nothing before [`RecoveryCoordinator::reconcile`] is called.
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

    /// Spawns a task that [`RecoveryCoordinator::idle`] waits for.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlightRecoveries> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last attempt to act on a finding was given up.
    pub fn held_back(&self, instance: &InstanceKey) -> Option<HeldBack> {
        self.in_flight().held_back.get(instance).cloned()
    }

    /// The view with what this member's last attempts add to it: for each finding the reason why the attempt was given up, unless the
    /// policy already holds the finding back, and the opinions of the members. Nothing is added on a member that does not lead.
    pub fn with_last_attempts(&self, mut view: ClusterView) -> ClusterView {
        view.findings = view
            .findings
            .into_iter()
            .map(|judged| self.with_last_attempt(judged))
            .collect();
        view
    }

    fn with_last_attempt(&self, judged: JudgedFinding) -> JudgedFinding {
        let instance = &judged.finding.instance;
        let held_back = judged.held_back.or_else(|| self.held_back(instance));
        let opinions = self.in_flight().opinions.get(instance).cloned().unwrap_or_default();
        JudgedFinding {
            held_back,
            opinions,
            finding: judged.finding,
        }
    }

    /// Waits until no task runs.
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }

    /// Starts each repair that the state and the views call for and that admission lets begin. Returns at once; tasks
    /// do the work. A repair that has to wait is found again at the next call.
    pub fn reconcile(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        self.resume_unfinished(views);
        self.start_recoveries(views);
        self.start_requests(views);
        self.reconcile_boot_read_only(views);
        self.reconcile_durability(views);
        self.reattach_lost_replicas(views);
        self.acknowledge_resolved_repairs(views);
        self.raise_state_version();
    }

    /// Starts the recoveries that the findings of these views call for. They need not be all clusters.
    pub fn start_recoveries(self: &Arc<Self>, views: &[Arc<ClusterView>]) {
        let mut candidates = Vec::new();
        for view in views {
            for judged in &view.findings {
                self.report_finding(view, judged);
                if judged.held_back.is_none() && self.is_ready(view, &judged.finding) {
                    candidates.push(self.candidate(view, &judged.finding));
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
                .reports
                .retain(|(key, _), _| !view.topology.instances.contains_key(key) || failing.contains(key));
        }
        for (reservation, finding) in self.admit(candidates) {
            self.tracker
                .spawn(Arc::clone(self).recover_and_release(reservation, finding));
        }
    }

    /// Reserves the clusters of the candidates that begin now. No repair gets its cluster in another way.
    pub(super) fn admit<W>(self: &Arc<Self>, candidates: Vec<Candidate<W>>) -> Vec<(ClusterReservation, W)> {
        let mut in_flight = self.in_flight();
        let admitted = admission::admit(
            candidates,
            &in_flight.occupied_clusters(),
            self.context.settings.concurrency,
        );
        let reserve = |candidate: Candidate<W>| {
            let ticket = in_flight.occupy(&candidate.priority.cluster, Occupant::from(&candidate.priority));
            let coordinator = Arc::clone(self);
            let reservation = ClusterReservation {
                coordinator,
                cluster: candidate.priority.cluster,
                ticket,
            };
            (reservation, candidate.work)
        };
        admitted.into_iter().map(reserve).collect()
    }

    /// [`RecoveryCoordinator::admit`] for one repair; `None` when it has to wait.
    pub(super) fn admit_one(self: &Arc<Self>, priority: RecoveryPriority) -> Option<ClusterReservation> {
        let only = vec![Candidate { priority, work: () }];
        self.admit(only).pop().map(|(reservation, ())| reservation)
    }

    fn candidate(&self, view: &ClusterView, finding: &Finding) -> Candidate<Finding> {
        let given_up = {
            let in_flight = self.in_flight();
            let was_given_up = in_flight.held_back.contains_key(&finding.instance);
            in_flight
                .last_ended(&view.cluster.id, gives_way(finding.code))
                .filter(|_| was_given_up)
        };
        Candidate {
            priority: RecoveryPriority {
                is_about_silence: analysis::is_mere_silence(finding),
                given_up,
                ..automatic_priority(view, gives_way(finding.code))
            },
            work: finding.clone(),
        }
    }

    /// Whether a recovery for this finding may begin: no other repair of the cluster is in the way, every instance
    /// was probed since this process started, and the last attempt is old enough.
    fn is_ready(&self, view: &ClusterView, finding: &Finding) -> bool {
        let now = self.context.clock.monotonic();
        let in_flight = self.in_flight();
        in_flight.is_free(&view.cluster.id, gives_way(finding.code))
            && view
                .topology
                .instances
                .values()
                .all(|instance| instance.last_checked.is_some())
            && in_flight
                .last_ended(&view.cluster.id, gives_way(finding.code))
                .is_none_or(|ended| now.millis_since(ended) >= quorum::retry_after_millis(finding))
    }

    /// Logs a finding, and records a detection when no recovery follows. A claim is a detection too. A finding that
    /// may disappear soon is reported after it has lasted for a second. While a recovery runs, its own record says
    /// what happens.
    fn report_finding(self: &Arc<Self>, view: &ClusterView, judged: &JudgedFinding) {
        let finding = &judged.finding;
        let running = matches!(view.policy.held_back, Some(HeldBack::RecoveryRuns { .. }))
            || self.in_flight().busy.contains_key(&view.cluster.id);
        if finding.code == Code::NoProblem || running {
            return;
        }
        if finding.code.is_advice() {
            if self.is_first_report_due(&finding.instance, finding.code.as_str(), &finding.description) {
                info!(instance = %finding.instance, code = %finding.code, "{}: {}", finding.code, finding.description);
            }
            return;
        }
        let Some(held_back) = self.with_last_attempt(judged.clone()).held_back else {
            if self.is_report_due(&finding.instance, finding.code.as_str(), "", 0) {
                warn!(instance = %finding.instance, code = %finding.code, "{}: {}", finding.code, finding.description);
            }
            return;
        };
        let text = held_back.to_string();
        if !self.is_report_due(&finding.instance, finding.code.as_str(), &text, REPORT_AFTER_MILLIS) {
            return;
        }
        warn!(instance = %finding.instance, code = %finding.code, "{}: {}; no recovery: {text}", finding.code, finding.description);
        let state = self.views.state();
        let blocking = if let HeldBack::RecentRecovery { uid, .. }
        | HeldBack::Vetoed { uid, .. }
        | HeldBack::RepairFailed { uid, .. } = &held_back
        {
            state.recoveries.get(uid).map(|recovery| recovery.id)
        } else {
            // No recovery blocks it: what may be done to the servers does, for example a loss that is not allowed.
            let replaces_primary = RecoveryKind::for_code(finding.code).is_some_and(RecoveryKind::replaces_primary);
            (replaces_primary && matches!(held_back, HeldBack::Refused(_))).then_some(0)
        };
        let blocked = blocking.map(|blocking_recovery| Blocked {
            instance: finding.instance.clone(),
            cluster_name: view.cluster.name.clone(),
            analysis: finding.code.to_string(),
            at: self.context.clock.wall(),
            blocking_recovery,
            reason: text.clone(),
        });
        let detect = Command::RecordDetection {
            finding: Box::new(finding.clone()),
            member_name: self.context.consensus.me().name,
            held_back: Some(held_back.as_recorded()),
            hooks: self.context.hooks.at_detection(&state, finding),
        };
        let consensus = Arc::clone(&self.context.consensus);
        self.tracker.spawn(async move {
            let commands = std::iter::once(detect).chain(blocked.map(|blocked| Command::Block { blocked }));
            for command in commands {
                if let Err(error) = consensus.propose(command).await {
                    warn!("failed to record a detection: {error}");
                    return;
                }
            }
        });
    }

    /// Whether a piece of advice is new and has lasted for a second. Advice is reported once.
    fn is_first_report_due(&self, instance: &InstanceKey, code: &'static str, text: &str) -> bool {
        let key = (instance.clone(), code);
        let is_reported = |report: &FindingReport| report.text == text && report.reported_at.is_some();
        let known = self.in_flight().reports.get(&key).is_some_and(is_reported);
        !known && self.is_report_due(instance, code, text, REPORT_AFTER_MILLIS)
    }

    /// Whether a text about a finding has to be reported now: it is new and has lasted for `min_age_millis`, or it
    /// was reported a minute ago.
    pub(super) fn is_report_due(
        &self,
        instance: &InstanceKey,
        code: &'static str,
        text: &str,
        min_age_millis: u64,
    ) -> bool {
        let now = self.context.clock.monotonic();
        let mut in_flight = self.in_flight();
        let report = in_flight
            .reports
            .entry((instance.clone(), code))
            .or_insert_with(|| FindingReport {
                text: text.to_owned(),
                since: now,
                reported_at: None,
            });
        if report.text != text {
            *report = FindingReport {
                text: text.to_owned(),
                since: now,
                reported_at: None,
            };
        }
        let due = match report.reported_at {
            None => now.millis_since(report.since) >= min_age_millis,
            Some(at) => !text.is_empty() && now.millis_since(at) > REPEAT_REPORT_MILLIS,
        };
        if due {
            report.reported_at = Some(now);
        }
        due
    }

    async fn recover_and_release(self: Arc<Self>, reservation: ClusterReservation, finding: Finding) {
        let outcome = self.recover(&reservation.cluster, &finding).await;
        match outcome {
            Ok(()) => self.in_flight().held_back.remove(&finding.instance),
            Err(why) => self.in_flight().held_back.insert(finding.instance.clone(), why),
        };
        drop(reservation);
        self.context.instance_cache.notify_changed();
    }

    /// Agreement, fresh view, plan, claim, steps.
    async fn recover(self: &Arc<Self>, cluster: &ClusterId, finding: &Finding) -> Result<(), HeldBack> {
        let (opinions, view, judged) = self.verify_finding(cluster, finding).await?;
        if let Some(held_back) = &judged.held_back {
            return Err(held_back.clone());
        }
        self.plan_and_run(&view, &judged, opinions, None, None).await.map(drop)
    }

    /// Asks the members about a server that does not answer, and looks for the finding in a fresh view. A finding
    /// about a server that answers needs no agreement.
    async fn verify_finding(
        &self,
        cluster: &ClusterId,
        finding: &Finding,
    ) -> Result<(Vec<Opinion>, ClusterView, JudgedFinding), HeldBack> {
        let (opinions, agreement) = if finding.evidence.last_check_valid || commits_nothing(finding) {
            (Vec::new(), Agreement::Failover)
        } else {
            self.ask_members(finding).await?
        };
        if gives_way(finding.code)
            && let Some(view) = self.views.cluster(cluster)
        {
            for keys in refresh::neighbours(&view.topology, &finding.instance) {
                refresh::refresh(&self.context, &keys).await;
            }
        }
        if let Some(view) = self.views.cluster(cluster) {
            refresh::refresh_shared(&self.context, &view.topology).await;
        }
        let view = self
            .views
            .cluster(cluster)
            .ok_or_else(|| HeldBack::Refused(String::from("the cluster is gone")))?;
        let again = |judged: &&JudgedFinding| {
            let is_as_alive = judged.finding.evidence.last_check_valid == finding.evidence.last_check_valid;
            let is_same = if commits_nothing(finding) {
                commits_nothing(&judged.finding)
            } else {
                matches_agreement(&judged.finding, agreement) && is_as_alive
            };
            judged.finding.instance == finding.instance && is_same
        };
        let judged = view.findings.iter().find(again).cloned();
        match judged {
            Some(judged) => Ok((opinions, view, judged)),
            None => Err(HeldBack::NoAgreement(String::from(
                "fresh probes no longer show the failure",
            ))),
        }
    }

    async fn plan_and_run(
        self: &Arc<Self>,
        view: &ClusterView,
        judged: &JudgedFinding,
        opinions: Vec<Opinion>,
        designated: Option<&InstanceKey>,
        order: Option<ManualRequest>,
    ) -> Result<String, HeldBack> {
        let asked = planner::PlanRequest {
            designated,
            manual_request: order,
            remembered: quorum::remembered(&opinions),
        };
        let (plan, report) = quorum::plan_for(&judged.finding, view, asked, self.context.clock.wall());
        match plan {
            None => Err(HeldBack::Refused(
                report.no_plan.unwrap_or_else(|| String::from("no reason given")),
            )),
            Some(plan) => {
                self.claim_and_run(view, judged.finding.clone(), opinions, plan, report)
                    .await
            }
        }
    }

    /// Checks the plan with the lint, claims the recovery and runs it. Returns the id of the recovery.
    ///
    /// # Errors
    /// Why the recovery was not claimed. Nothing was changed then.
    pub(super) async fn claim_and_run(
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
                "plan for {} violates the safety rules and was not claimed: {}",
                plan.old_primary,
                unsound.join("; ")
            );
            return Err(HeldBack::Unsound(unsound.join("; ")));
        }
        self.check_with_own_probes(view, &plan).await?;
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
                self.run_claimed(&token, false).await;
                Ok(uid.clone())
            }
            Ok(Applied::Refused { why }) => Err(HeldBack::Refused(why.to_string())),
            Ok(Applied::Done | Applied::Number { .. }) => Err(HeldBack::Refused(String::from(
                "the claim was committed without a token",
            ))),
            // The claim may be committed nevertheless. Then this member holds it, and resumes it as unfinished.
            Err(error) => Err(HeldBack::Refused(error.to_string())),
        };
        self.in_flight().running.remove(&uid);
        result
    }

    /// Probes the servers of a plan of which another member gave the latest state, and checks the plan again with what they show now.
    ///
    /// # Errors
    /// What is not as it was when the plan was made.
    async fn check_with_own_probes(&self, view: &ClusterView, plan: &Plan) -> Result<(), HeldBack> {
        let planned = plan.instances.iter().filter_map(|key| view.topology.get(key));
        let shared = refresh::observed_by_others(planned);
        if shared.is_empty() {
            return Ok(());
        }
        refresh::refresh(&self.context, &shared).await;
        let gone = || HeldBack::Refused(String::from("the cluster is gone"));
        let fresh = self.views.cluster(&plan.cluster).ok_or_else(gone)?;
        let answers = |topology: &Topology, key: &InstanceKey| topology.get(key).is_some_and(Instance::is_valid);
        let changed = shared
            .iter()
            .find(|key| answers(&view.topology, key) != answers(&fresh.topology, key));
        if let Some(key) = changed {
            return Err(HeldBack::Refused(format!(
                "{key} was probed by another member when the plan was made, and an own probe shows another state; retrying"
            )));
        }
        let unsound = lint::lint(plan, &fresh.topology);
        if unsound.is_empty() {
            return Ok(());
        }
        Err(HeldBack::Refused(format!(
            "servers were probed by another member when the plan was made, and own probes contradict it: {}; retrying",
            unsound.join("; ")
        )))
    }

    async fn run_claimed(self: &Arc<Self>, token: &ClaimToken, resumed: bool) {
        let ran = supervision::catch(Box::pin(runner::run(&self.context, &self.views, token, resumed))).await;
        if ran.is_none() {
            // It is resumed as unfinished. A fault that repeats must not do so at full speed.
            tokio::time::sleep(PAUSE_AFTER_PANIC).await;
        }
    }

    /// Starts a recovery that makes a returned primary a replica of the present primary, and waits for its end. Does
    /// nothing when it cannot begin now.
    pub async fn rejoin(self: &Arc<Self>, key: &str, quarantine: &Quarantine, view: &ClusterView) {
        if let Some(why) = planner::another_controller(&view.topology) {
            if self.is_report_due(&quarantine.instance, "rejoin", &why.to_string(), 0) {
                warn!(instance = %quarantine.instance, "{} cannot rejoin: {why}", quarantine.instance);
            }
            return;
        }
        let (plan, report) = planner::plan_rejoin(quarantine, &view.topology, &view.policy);
        let Some(plan) = plan else {
            let why = report.no_plan.unwrap_or_else(|| String::from("no reason given"));
            if self.is_report_due(&quarantine.instance, "rejoin", &why, 0) {
                warn!(instance = %quarantine.instance, "{} cannot rejoin: {why}", quarantine.instance);
            }
            return;
        };
        if self.waits_after_failures(&plan.cluster, plan.kind, &plan.old_primary) {
            return;
        }
        let Some(reservation) = self.admit_one(automatic_priority(view, plan.kind.gives_way())) else {
            return;
        };
        let finding = Finding {
            code: Code::QuarantinedPrimaryReturned,
            instance: quarantine.instance.clone(),
            cluster: quarantine.cluster.clone(),
            description: format!(
                "{} returned and holds no transaction that the primary lacks",
                quarantine.instance
            ),
            evidence: crate::domain::finding::Evidence::default(),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
        };
        info!(instance = %quarantine.instance, "{} rejoins as a replica (quarantine {key})", quarantine.instance);
        let (this, view, returned) = (Arc::clone(self), view.clone(), quarantine.instance.clone());
        // A separate task: a recovery whose future is dropped would keep its cluster reserved.
        let task = self.tracker.spawn(async move {
            if let Err(why) = this.claim_and_run(&view, finding, Vec::new(), plan, report).await {
                warn!(instance = %returned, "{returned} cannot rejoin: {why}");
            }
            drop(reservation);
        });
        if task.await.is_err() {
            error!(
                "rejoin of {} failed: its task panicked or was cancelled",
                quarantine.instance
            );
        }
    }

    /// Runs a recovery for a finding as an operator ordered it. Filters, blocks and the global switch do not apply;
    /// the finding must exist. With `designated`, that server is promoted or none. Returns the id of the recovery.
    ///
    /// # Errors
    /// Why the recovery did not run.
    pub async fn recover_now(
        self: &Arc<Self>,
        view: &ClusterView,
        instance: &InstanceKey,
        designated: Option<&InstanceKey>,
        order: ManualRequest,
    ) -> Result<String, HeldBack> {
        let Some(judged) = view
            .findings
            .iter()
            .find(|judged| judged.finding.instance == *instance && has_recovery(&judged.finding))
        else {
            return Err(HeldBack::NotActionable);
        };
        let priority = RecoveryPriority::unlimited(view.cluster.id.clone(), gives_way(judged.finding.code));
        let Some(reservation) = self.admit_one(priority) else {
            return Err(HeldBack::RecoveryRuns {
                uid: String::from("of this member"),
            });
        };
        let (this, cluster, finding) = (Arc::clone(self), view.cluster.id.clone(), judged.finding.clone());
        let designated = designated.cloned();
        let task = self.tracker.spawn(async move {
            let result = this.recover_as_ordered(&cluster, &finding, designated, order).await;
            drop(reservation);
            result
        });
        task.await
            .unwrap_or_else(|error| Err(HeldBack::Refused(error.to_string())))
    }

    async fn recover_as_ordered(
        self: &Arc<Self>,
        cluster: &ClusterId,
        finding: &Finding,
        designated: Option<InstanceKey>,
        order: ManualRequest,
    ) -> Result<String, HeldBack> {
        let (opinions, view, judged) = self.verify_finding(cluster, finding).await?;
        let order = ManualRequest {
            designated: designated.is_some(),
            ..order
        };
        self.plan_and_run(&view, &judged, opinions, designated.as_ref(), Some(order))
            .await
    }
}

/// The priority of an automatic repair that was not tried yet.
pub(super) fn automatic_priority(view: &ClusterView, gives_way: bool) -> RecoveryPriority {
    let primary = analysis::current_primary(&view.topology);
    let was_writable = primary
        .and_then(|key| view.topology.get(&key)?.facts.as_ref())
        .is_some_and(InstanceFacts::is_writable);
    RecoveryPriority {
        is_limited: true,
        is_about_silence: false,
        given_up: None,
        gives_way,
        was_not_writable: !was_writable,
        has_no_document: view.cluster.document.is_none(),
        servers: std::cmp::Reverse(view.topology.instances.len()),
        cluster: view.cluster.id.clone(),
    }
}

/// Whether the recovery that a finding calls for gives way to a replacement of the primary.
fn gives_way(code: Code) -> bool {
    RecoveryKind::for_code(code).is_some_and(RecoveryKind::gives_way)
}

/// The right of one task of this process to work on a cluster. The cluster is free again when it is dropped.
pub(super) struct ClusterReservation {
    coordinator: Arc<RecoveryCoordinator>,
    cluster: ClusterId,
    ticket: u64,
}

impl Drop for ClusterReservation {
    fn drop(&mut self) {
        let now = self.coordinator.context.clock.monotonic();
        let mut in_flight = self.coordinator.in_flight();
        in_flight.release(&self.cluster, self.ticket, now);
    }
}
