//! Runs one claimed recovery to its end: determines the next action, runs it, and reads the servers again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::hooks::{self, HookList};
use crate::domain::instance::{InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{Policy, UnappliedPolicy};
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::{Finish, NextAction, Undo};
use crate::domain::recovery::progress::{self, Actor};
use crate::domain::recovery::step::Step;
use crate::domain::recovery::step_result::{Outcome, StepResult};
use crate::domain::state::record::StepRecord;
use crate::domain::state::{Applied, ClaimToken, Command, Ending, Phase, Recovery};
use crate::domain::topology::Topology;

use crate::app::cluster::view::ClusterViews;
use crate::app::recovery::failpoint;
use crate::app::recovery::hooks::HookVerdict;
use crate::app::recovery::steps::{RecoveryContext, StepEffect, StepExecutor, WaitLimit};

mod delays;
mod durability;
mod publication;
mod rollback;
mod semi_sync;
mod takeover;

/// The pause before a step is repeated that failed on a server. A broken connection is restored at once; a restart
/// takes time.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How often a successor that answers is tried to be opened at that pace, and the pause afterwards.
const FAST_OPENS: usize = 10;
const SLOW_RETRY_PAUSE: Duration = Duration::from_secs(3);
/// One warning for so many attempts to open a successor that answers.
const OPENS_PER_WARNING: usize = 10;

/// The limit with `DelayMasterPromotionIfSQLThreadNotUpToDate`, as in orchestrator.
const MAX_APPLY_WAIT: Duration = Duration::from_hours(24);

/// Why a run stopped before the end of the recovery. Another actor continues from what is committed.
enum Interrupted {
    /// The claim could not be confirmed.
    Unconfirmed(String),
    /// An entry was not committed, or it is unknown whether it was.
    NotCommitted(String),
}

struct RecoveryRunner<'a> {
    context: &'a RecoveryContext,
    views: &'a ClusterViews,
    token: &'a ClaimToken,
    step_executor: StepExecutor,
    done: Vec<StepResult>,
    lines: Vec<StepRecord>,
    is_start_logged: bool,
    /// The number of results at the last pause.
    paused_after: usize,
    /// Another actor began this recovery.
    resumed: bool,
}

/// Runs a recovery until it is over, or until this member may no longer act. `resumed`: another actor began it.
pub(super) async fn run(context: &RecoveryContext, views: &ClusterViews, token: &ClaimToken, resumed: bool) {
    let state = views.state();
    let Some(plan) = state.recoveries.get(&token.uid).map(|recovery| &recovery.plan) else {
        return;
    };
    let meant = plan
        .old_primary_identity
        .clone()
        .map(|identity| (plan.old_primary.clone(), identity));
    let identities = meant
        .into_iter()
        .chain([(plan.successor.clone(), plan.successor_identity.clone())])
        .collect();
    let step_executor = StepExecutor::new(context.clone(), token.clone(), identities);
    let mut runner = RecoveryRunner {
        context,
        views,
        token,
        step_executor,
        done: Vec::new(),
        lines: Vec::new(),
        is_start_logged: false,
        paused_after: 0,
        resumed,
    };
    if let Err(stopped) = runner.run().await {
        let why = match stopped {
            Interrupted::Unconfirmed(why) => format!("this member may no longer act: {why}"),
            Interrupted::NotCommitted(why) => format!("an entry was not committed: {why}"),
        };
        warn!("recovery {} continues on another actor: {why}", token.uid);
    }
    runner.step_executor.close_sessions().await;
}

impl RecoveryRunner<'_> {
    fn recovery(&self) -> Option<Recovery> {
        let state = self.views.state();
        state
            .recoveries
            .get(&self.token.uid)
            .filter(|recovery| recovery.epoch == self.token.epoch)
            .cloned()
    }

    fn log(&mut self, message: String) {
        info!(recovery = %self.token.uid, epoch = self.token.epoch, "{message}");
        self.lines.push(StepRecord {
            id: 0,
            at: self.context.clock.wall(),
            message,
        });
    }

    async fn run(&mut self) -> Result<(), Interrupted> {
        // An undo waits for no hook.
        let only_undoes = self.resumed
            && self
                .recovery()
                .is_some_and(|recovery| progress::on_resume(&recovery.plan, &recovery.phase).is_some());
        if !only_undoes && let Some(reason) = self.run_hooks_before().await? {
            let restarted = self.recovery().zip(self.views.cluster(&self.token.cluster));
            let undo = restarted.map(|(recovery, view)| progress::undo_of_restart(&recovery.plan, &view.topology));
            return self.abort(reason, undo.unwrap_or_default(), false).await;
        }
        loop {
            let Some(recovery) = self.recovery() else {
                return Err(Interrupted::Unconfirmed(format!(
                    "epoch {} is not current",
                    self.token.epoch
                )));
            };
            let Some(view) = self.views.cluster(&self.token.cluster) else {
                return Err(Interrupted::Unconfirmed(format!(
                    "cluster {} is gone",
                    self.token.cluster
                )));
            };
            self.log_start(&recovery);
            let fresh = self.step_executor.refresh(&view.topology).await;
            let policy = self.views.view_of(&view.cluster, fresh.clone()).policy;
            let policy = recovery.plan.terms(policy);
            let actor = if self.resumed { Actor::Later } else { Actor::First };
            let on_resume = progress::on_resume(&recovery.plan, &recovery.phase).filter(|_| self.resumed);
            let next = on_resume
                .or_else(|| self.next_if_cancelled(&recovery))
                .unwrap_or_else(|| {
                    progress::next_of(
                        actor,
                        &recovery.plan,
                        &recovery.phase,
                        &self.done,
                        &fresh,
                        &policy,
                        self.context.clock.wall(),
                    )
                });
            match next {
                NextAction::Run(step) if self.is_repeated(&step) && self.paused_after < self.done.len() => {
                    self.paused_after = self.done.len();
                    tokio::time::sleep(self.pause_before(&step)).await;
                }
                NextAction::Run(step) => self.step(&recovery, &fresh, step).await?,
                NextAction::CommitOpen {
                    plan,
                    successor,
                    position,
                    fencing_proof,
                } => {
                    self.log(format!("proof before the opening: {fencing_proof}"));
                    failpoint::reached("before-open-entry");
                    self.log(format!("{successor} opens with at least {position}"));
                    let opened = self.commit(Command::Open {
                        token: self.token.clone(),
                        successor,
                        position,
                        plan,
                        fencing_proof: Some(fencing_proof),
                    });
                    let opened = opened.await;
                    if opened.is_err() && self.next_if_cancelled(&recovery).is_some() {
                        continue;
                    }
                    opened?;
                    failpoint::reached("after-open-entry");
                }
                NextAction::Finish(finish) => return self.finish(&recovery, finish).await,
                NextAction::Abort { reason, undo } => {
                    let owes_opening = progress::owes_opening(actor, &recovery.plan, &fresh);
                    return self.abort(reason, undo, owes_opening).await;
                }
                NextAction::AlreadyEnded => return Ok(()),
            }
        }
    }

    fn log_start(&mut self, recovery: &Recovery) {
        if !self.is_start_logged {
            self.is_start_logged = true;
            self.log(format!(
                "recovery of {} for {} by {}, epoch {}",
                recovery.plan.old_primary, recovery.plan.code, recovery.holder_name, recovery.epoch
            ));
        }
    }

    /// Runs the hooks that may veto, before anything is changed. Returns the reason to abort, if there is one. When
    /// no hook is due this returns at once.
    async fn run_hooks_before(&mut self) -> Result<Option<String>, Interrupted> {
        let Some(recovery) = self.recovery() else {
            return Ok(None);
        };
        if !matches!(recovery.phase, Phase::Claimed)
            || (recovery.hooks.next_in_order().is_none() && recovery.hooks.veto().is_none())
        {
            return Ok(None);
        }
        self.log_start(&recovery);
        let lines = std::mem::take(&mut self.lines);
        match self.context.hooks.run_before(self.token, lines).await {
            HookVerdict::NoHooks => Ok(None),
            HookVerdict::Vetoed(why) => Ok(Some(why)),
            HookVerdict::Interrupted(why) => Err(Interrupted::NotCommitted(why)),
            HookVerdict::Allowed => Ok(self.resolved_meanwhile(&recovery)),
        }
    }

    /// Hooks take time: the failure may have disappeared meanwhile, and then nothing may be changed.
    fn resolved_meanwhile(&self, recovery: &Recovery) -> Option<String> {
        if !hooks::lists_of(recovery.plan.kind).repairs || recovery.plan.is_forced() {
            return None;
        }
        let view = self.views.cluster(&self.token.cluster)?;
        let is_found = view
            .findings
            .iter()
            .map(|judged| &judged.finding)
            .any(|finding| finding.instance == recovery.finding.instance && finding.code.is_actionable());
        (!is_found).then(|| {
            format!(
                "when the hooks had ended, {} of {} was not found any more",
                recovery.plan.code, recovery.finding.instance
            )
        })
    }

    /// The pause before a step is tried again. A successor that answers and cannot be opened is tried without an end, ever more
    /// rarely: the servers are as the Open entry says, and nothing else may be promoted.
    fn pause_before(&self, step: &Step) -> Duration {
        let Step::Open { successor } = step else {
            return RETRY_PAUSE;
        };
        let failed = |result: &&StepResult| matches!(result.step, Step::Open { .. });
        let tries = self.done.iter().filter(failed).count();
        if tries >= progress::OPEN_TRIES && (tries - progress::OPEN_TRIES).is_multiple_of(OPENS_PER_WARNING) {
            let last = self
                .done
                .iter()
                .rfind(failed)
                .and_then(|result| result.outcomes.get(successor));
            let why = last.map_or_else(String::new, Outcome::detail);
            warn!(recovery = %self.token.uid, instance = %successor, "{successor} was chosen as the primary, answers and cannot be opened, will retry: {why}");
        }
        if tries < FAST_OPENS {
            RETRY_PAUSE
        } else {
            SLOW_RETRY_PAUSE
        }
    }

    /// Whether a step that is never undone was tried before.
    fn is_repeated(&self, step: &Step) -> bool {
        self.done.iter().any(|result| match (&result.step, step) {
            (Step::Open { .. }, Step::Open { .. })
            | (Step::MakeWritable { .. }, Step::MakeWritable { .. })
            | (Step::RepointAt { .. }, Step::RepointAt { .. })
            | (Step::InjectEmpty { .. }, Step::InjectEmpty { .. })
            | (Step::SetSemiSyncSource { .. }, Step::SetSemiSyncSource { .. })
            | (Step::ResetGtids { .. }, Step::ResetGtids { .. }) => true,
            (Step::Repoint { replicas: before, .. }, Step::Repoint { replicas, .. })
            | (Step::Acknowledge { replicas: before, .. }, Step::Acknowledge { replicas, .. })
            | (Step::AcknowledgeReceived { replicas: before }, Step::AcknowledgeReceived { replicas }) => {
                !before.is_disjoint(replicas)
            }
            _ => false,
        })
    }

    async fn commit(&self, command: Command) -> Result<(), Interrupted> {
        match self.context.consensus.propose(command).await {
            Ok(Applied::Refused { why }) => Err(Interrupted::Unconfirmed(why.to_string())),
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => Ok(()),
            Err(error) => Err(Interrupted::NotCommitted(error.to_string())),
        }
    }

    /// Records the lines so far without waiting, because the servers come first. Lines that are lost with this member
    /// are in its log.
    fn record_in_background(&mut self) {
        let command = Command::Record {
            token: self.token.clone(),
            lines: std::mem::take(&mut self.lines),
        };
        let consensus = std::sync::Arc::clone(&self.context.consensus);
        tokio::spawn(async move {
            if let Err(error) = consensus.propose(command).await {
                warn!("failed to record lines of a recovery: {error}");
            }
        });
    }

    /// How long a server may take to apply what it received.
    fn apply_deadline(&self) -> Duration {
        let view = self.views.cluster(&self.token.cluster);
        Duration::from_millis(view.map_or(60_000, |view| view.policy.catch_up_millis))
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each step")]
    async fn step(&mut self, recovery: &Recovery, fresh: &Topology, mut step: Step) -> Result<(), Interrupted> {
        let wait_limit = self
            .views
            .cluster(&self.token.cluster)
            .map_or(WaitLimit::of(Duration::from_mins(1)), |view| wait_limit(&view.policy));
        let effects = match &mut step {
            Step::ReconnectTest { old_primary, replicas } => effects_or_same_for_each(
                self.step_executor
                    .test_reconnect(old_primary, replicas, recovery.plan.code == Code::StalledPrimary)
                    .await,
                replicas,
            ),
            Step::Fence { old_primary } if recovery.plan.commits_nothing => {
                BTreeMap::from([(old_primary.clone(), self.step_executor.fence_stalled(old_primary).await)])
            }
            Step::Fence { old_primary } => {
                BTreeMap::from([(old_primary.clone(), self.step_executor.fence(old_primary).await)])
            }
            Step::Demote { old_primary } => {
                BTreeMap::from([(old_primary.clone(), self.demote(recovery, old_primary).await)])
            }
            Step::StopReceivers { replicas } if recovery.plan.is_forced() => {
                self.stop_receivers_after_last_transactions(recovery, fresh, replicas)
                    .await
            }
            Step::StopReceivers { replicas } => {
                effects_or_same_for_each(self.step_executor.stop_receivers(replicas).await, replicas)
            }
            Step::Drain { successor } if recovery.plan.kind == RecoveryKind::Takeover => BTreeMap::from([(
                successor.clone(),
                self.wait_for_successor(recovery, fresh, successor).await,
            )]),
            Step::Drain { successor } => {
                let set = received(fresh, successor, recovery);
                let watch = self.step_executor.watch_for_return(&recovery.plan.old_primary);
                let interrupt = watch.interrupt();
                let drain = self.step_executor.drain(successor, &set, wait_limit, &interrupt);
                let effect = watch.during(drain, is_back(recovery, &self.done, fresh)).await;
                BTreeMap::from([(successor.clone(), effect)])
            }
            Step::CatchUp { successor, from } => {
                let set = received(fresh, from, recovery);
                let both = BTreeSet::from([successor.clone(), from.clone()]);
                let watch = self.step_executor.watch_for_return(&recovery.plan.old_primary);
                let interrupt = watch.interrupt();
                let catch_up = self
                    .step_executor
                    .catch_up_from(successor, from, &set, wait_limit, &interrupt);
                watch
                    .during(catch_up, is_back(recovery, &self.done, fresh))
                    .await
                    .unwrap_or_else(|effect| same_effect_for_each(&both, &effect))
            }
            Step::Redial { old_primary } => {
                let may_stall = recovery.plan.code == Code::StalledPrimary;
                BTreeMap::from([(old_primary.clone(), self.redial(old_primary, may_stall).await)])
            }
            Step::CallFencer { old_primary } => {
                BTreeMap::from([(old_primary.clone(), self.call_fencer(old_primary).await)])
            }
            Step::Open { successor } => {
                BTreeMap::from([(successor.clone(), self.open(recovery, fresh, successor).await)])
            }
            Step::EnableEvents { successor, events } => BTreeMap::from([(
                successor.clone(),
                self.step_executor.enable_events(successor, events).await,
            )]),
            Step::InjectEmpty { primary, set } => {
                BTreeMap::from([(primary.clone(), self.step_executor.inject_empty(primary, set).await)])
            }
            Step::ResetGtids { instance, keep } => {
                BTreeMap::from([(instance.clone(), self.step_executor.reset_gtids(instance, keep).await)])
            }
            Step::GoOn { replicas } => {
                effects_or_same_for_each(self.step_executor.start_replication(replicas).await, replicas)
            }
            Step::Acknowledge { replicas, on } => {
                effects_or_same_for_each(self.step_executor.acknowledge(replicas, *on).await, replicas)
            }
            Step::AcknowledgeReceived { replicas } => self.acknowledge_received(recovery, replicas).await,
            Step::SetSemiSyncSource { servers, terms } => {
                effects_or_same_for_each(self.step_executor.set_semi_sync_source(servers, *terms).await, servers)
            }
            Step::MakeWritable { primary } => {
                BTreeMap::from([(primary.clone(), self.step_executor.make_writable(primary).await)])
            }
            Step::Repoint { successor, replicas } if recovery.plan.kind == RecoveryKind::Takeover => {
                self.repoint_all(recovery, fresh, successor, replicas).await
            }
            Step::PersistReadOnly { servers } => {
                effects_or_same_for_each(self.step_executor.persist_read_only(servers).await, servers)
            }
            Step::CheckBoot { primary } => {
                BTreeMap::from([(primary.clone(), self.step_executor.check_boot(primary).await)])
            }
            Step::Repoint { successor, replicas } => {
                let durable = self.durability_terms(recovery, fresh, successor);
                let acknowledging = durable.as_ref().map(|(_, acknowledging)| acknowledging);
                if recovery.plan.code == Code::QuarantinedPrimaryReturned
                    && let Err(effect) = self.step_executor.stop_waiting_as_sources(replicas).await
                {
                    let effects = same_effect_for_each(replicas, &effect);
                    return self.record_result(step, effects);
                }
                let mut effects = effects_or_same_for_each(
                    self.step_executor.repoint_as(successor, replicas, acknowledging).await,
                    replicas,
                );
                self.restore_delays(recovery, fresh, &mut effects).await;
                effects
            }
            // In a recovery by GTID an earlier actor left this step half done; in the others the plan has it.
            Step::ApplyAll { replicas }
                if matches!(recovery.plan.kind, RecoveryKind::DeadPrimary | RecoveryKind::CoPrimary) =>
            {
                effects_or_same_for_each(
                    self.step_executor
                        .finish_applying(replicas, self.apply_deadline())
                        .await,
                    replicas,
                )
            }
            Step::ApplyAll { replicas } => {
                let deadline = self.apply_deadline();
                let watch = self.step_executor.watch_for_return(&recovery.plan.old_primary);
                let interrupt = watch.interrupt();
                let apply = self.step_executor.apply_all(replicas, deadline, &interrupt);
                let effects = watch.during(apply, is_back(recovery, &self.done, fresh)).await;
                effects_or_same_for_each(effects, replicas)
            }
            Step::Locate { successor, replicas } => {
                let deadline = self.apply_deadline();
                self.step_executor.locate(successor, replicas, deadline).await
            }
            Step::Match { successor, replicas } => {
                let deadline = self.apply_deadline();
                self.step_executor.match_logs(successor, replicas, deadline).await
            }
            Step::RepointAt { successor, replicas } => self
                .step_executor
                .repoint_at(successor, replicas)
                .await
                .unwrap_or_else(|effect| same_effect_for_each(&replicas.keys().cloned().collect(), &effect)),
        };
        self.record_result(step, effects)
    }

    /// Records the result of a step. The run stops when the claim could not be confirmed.
    fn record_result(&mut self, step: Step, effects: BTreeMap<InstanceKey, StepEffect>) -> Result<(), Interrupted> {
        if let Some(why) = unconfirmed_reason(&effects) {
            return Err(Interrupted::Unconfirmed(why));
        }
        self.log(format!("{}: {}", step.describe(), describe_effects(&effects)));
        if matches!(step, Step::ReconnectTest { .. }) {
            failpoint::reached("after-reconnect-test");
        }
        if matches!(step, Step::StopReceivers { .. }) {
            failpoint::reached("after-stop-receivers");
        }
        if matches!(step, Step::Open { .. }) {
            self.record_in_background();
        }
        self.done.push(StepResult {
            step,
            outcomes: effects
                .into_iter()
                .map(|(key, effect)| (key, outcome(effect)))
                .collect(),
        });
        Ok(())
    }

    /// `Done`: the server answered, and its facts are known. `NoAnswer`: it was not reached. `Failed`: it is alive
    /// and could not be read. With `may_stall`, a stalled server counts as not reached.
    async fn redial(&mut self, old_primary: &InstanceKey, may_stall: bool) -> StepEffect {
        match self.step_executor.redial(old_primary).await.outcome {
            Ok(_) => StepEffect::Done(format!("{old_primary} answers")),
            Err(failure @ ProbeFailure::Stalled) if may_stall => StepEffect::NoAnswer(failure.to_string()),
            Err(failure) if failure.proves_life() => StepEffect::Failed(failure.to_string()),
            Err(failure) => StepEffect::NoAnswer(failure.to_string()),
        }
    }

    /// Calls the configured fencer for the old primary.
    async fn call_fencer(&mut self, old_primary: &InstanceKey) -> StepEffect {
        if let Err(effect) = self.step_executor.confirm().await {
            return effect;
        }
        self.record_in_background();
        let (lines, failure) = self.context.hooks.fence(self.token).await;
        self.lines.extend(lines);
        match failure {
            None => StepEffect::Done(format!("the fencer confirmed that {old_primary} takes no writes")),
            Some(why) => StepEffect::Failed(why),
        }
    }

    /// Whether a server below the primary was writable: when it returns it would take writes that no other server
    /// gets.
    fn was_writable(&self, old_primary: &InstanceKey) -> bool {
        let view = self.views.cluster(&self.token.cluster);
        view.as_ref()
            .and_then(|view| view.topology.get(old_primary)?.facts.as_ref())
            .is_some_and(|facts| facts.is_writable() && facts.group_name.is_empty())
    }

    fn hooks_after(&self, successful: bool) -> Vec<HookList> {
        let wanted = self.recovery().filter(|recovery| !recovery.plan.skips_hooks());
        wanted.map_or_else(Vec::new, |recovery| {
            self.context
                .hooks
                .after(recovery.plan.kind, &recovery.hooks, successful)
        })
    }

    async fn finish(&mut self, recovery: &Recovery, mut finish: Finish) -> Result<(), Interrupted> {
        let successor = finish
            .successor
            .as_ref()
            .map_or_else(|| String::from("none"), |(key, _)| key.to_string());
        if finish.successful {
            self.log_unknown_events(recovery);
            let role = if recovery.plan.kind.opens_a_server() {
                "primary"
            } else {
                "new source"
            };
            self.log(format!(
                "recovery of {} is over; {role}: {successor}",
                recovery.plan.old_primary
            ));
        } else {
            error!(recovery = %self.token.uid, "recovery of {} failed: {}", recovery.plan.old_primary, finish.errors.join("; "));
        }
        if let (Some((primary, _)), Some(table)) = (&finish.successor, self.context.settings.epoch_table.clone())
            && finish.successful
            && recovery.plan.kind.replaces_primary()
        {
            let effects = BTreeMap::from([(primary.clone(), self.step_executor.write_epoch(primary, &table).await)]);
            if let Some(why) = unconfirmed_reason(&effects) {
                return Err(Interrupted::Unconfirmed(why));
            }
            self.log(describe_effects(&effects));
        }
        let is_published = self.is_published(recovery, &mut finish).await;
        let follows = progress::old_primary_follows(&recovery.plan, finish.successful, |key| {
            finish.lost_replicas.iter().any(|refusal| refusal.instance == *key)
        });
        let kind = recovery.plan.kind;
        // A repair of a primary that answers leaves its role unchanged.
        let is_below = matches!(kind, RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember);
        let leaves_quarantine =
            !follows && (kind.replaces_primary() || (is_below && self.was_writable(&recovery.plan.old_primary)));
        let quarantine = match (&finish.successor, &recovery.plan.old_primary_identity) {
            (Some(_), Some(identity)) if leaves_quarantine => {
                Some((recovery.plan.old_primary.clone(), identity.clone()))
            }
            _ => None,
        };
        finish.errors.extend(self.restart_stopped_replicas(recovery).await?);
        let ending = Ending {
            successful: finish.successful,
            successor: finish.successor,
            quarantine,
            lost_replicas: finish.lost_replicas,
            lost: finish.lost,
            errors: finish.errors,
            lines: std::mem::take(&mut self.lines),
            hooks: self.hooks_after(finish.successful && is_published),
            owes_opening: false,
        };
        self.commit(Command::End {
            token: self.token.clone(),
            ending: Box::new(ending),
        })
        .await
    }

    /// `owes_opening`: the old primary does not answer, and is opened when it comes back read-only.
    async fn abort(&mut self, reason: String, undo: Vec<Undo>, owes_opening: bool) -> Result<(), Interrupted> {
        warn!(recovery = %self.token.uid, "recovery aborts: {reason}");
        let mut errors = vec![reason.clone()];
        self.log(format!("aborts: {reason}"));
        let (failed, not_opened) = self.undo_all(undo).await?;
        errors.extend(failed);
        if let Some(recovery) = self.recovery() {
            errors.extend(self.restart_stopped_replicas(&recovery).await?);
        }
        let ending = Ending {
            successful: false,
            successor: None,
            quarantine: None,
            lost_replicas: Vec::new(),
            lost: None,
            errors,
            lines: std::mem::take(&mut self.lines),
            hooks: self.hooks_after(false),
            owes_opening: owes_opening || not_opened,
        };
        self.commit(Command::End {
            token: self.token.clone(),
            ending: Box::new(ending),
        })
        .await
    }
}

/// Whether the old primary is back when it answers with these facts, as the next action would judge it.
fn is_back<'a>(
    recovery: &'a Recovery,
    done: &'a [StepResult],
    fresh: &'a Topology,
) -> impl Fn(&InstanceFacts) -> bool + 'a {
    move |facts| {
        let mut seen = fresh.clone();
        if let Some(instance) = seen.instances.get_mut(&recovery.plan.old_primary) {
            instance.facts = Some(facts.clone());
            instance.failure = None;
            instance.last_seen = Some(fresh.taken);
            instance.last_checked = Some(fresh.taken);
        }
        progress::is_back(&recovery.plan, done, &seen)
    }
}

/// What a server has received by its last facts.
fn received(fresh: &Topology, key: &InstanceKey, recovery: &Recovery) -> GtidSet {
    let facts = fresh.get(key).and_then(|instance| instance.facts.as_ref());
    facts.map_or_else(|| recovery.plan.position.clone(), InstanceFacts::received)
}

/// How long a successor may take to apply what it received.
fn wait_limit(policy: &Policy) -> WaitLimit {
    match policy.unapplied {
        UnappliedPolicy::CatchUp | UnappliedPolicy::Refuse => {
            WaitLimit::of(Duration::from_millis(policy.catch_up_millis))
        }
        UnappliedPolicy::Wait => WaitLimit {
            deadline: MAX_APPLY_WAIT,
            without_progress: Some(Duration::from_secs(policy.reasonable_lag_seconds.max(1))),
        },
    }
}

fn is_semi_sync(fresh: &Topology, old_primary: &InstanceKey, successor: &InstanceKey) -> bool {
    [old_primary, successor]
        .into_iter()
        .filter_map(|key| fresh.get(key)?.facts.as_ref())
        .any(|facts| facts.semi_sync.source_enabled || facts.semi_sync.replica_enabled)
}

/// Why this actor must stop, if an effect says so.
fn unconfirmed_reason(effects: &BTreeMap<InstanceKey, StepEffect>) -> Option<String> {
    effects.values().find_map(|effect| match effect {
        StepEffect::Unconfirmed(why) => Some(why.clone()),
        StepEffect::Done(_) | StepEffect::NoAnswer(_) | StepEffect::Failed(_) | StepEffect::Unknown(_) => None,
    })
}

fn same_effect_for_each(keys: &BTreeSet<InstanceKey>, effect: &StepEffect) -> BTreeMap<InstanceKey, StepEffect> {
    keys.iter().map(|key| (key.clone(), effect.clone())).collect()
}

/// The effects on each server. When the step could not begin at all, each server gets the same effect.
fn effects_or_same_for_each(
    effects: Result<BTreeMap<InstanceKey, StepEffect>, StepEffect>,
    keys: &BTreeSet<InstanceKey>,
) -> BTreeMap<InstanceKey, StepEffect> {
    effects.unwrap_or_else(|effect| same_effect_for_each(keys, &effect))
}

fn outcome(effect: StepEffect) -> Outcome {
    match effect {
        StepEffect::Done(_) => Outcome::Done,
        StepEffect::NoAnswer(why) => Outcome::NoAnswer(why),
        StepEffect::Failed(why) => Outcome::Failed(why),
        StepEffect::Unknown(why) | StepEffect::Unconfirmed(why) => Outcome::Unknown(why),
    }
}

fn describe_effects(effects: &BTreeMap<InstanceKey, StepEffect>) -> String {
    effects
        .iter()
        .map(|(key, effect)| match effect {
            StepEffect::Done(remark) => remark.clone(),
            StepEffect::NoAnswer(why) => format!("{key} does not answer ({why})"),
            StepEffect::Failed(why) => format!("{key} failed: {why}"),
            StepEffect::Unknown(why) | StepEffect::Unconfirmed(why) => format!("{key}: {why}"),
        })
        .collect::<Vec<_>>()
        .join("; ")
}
