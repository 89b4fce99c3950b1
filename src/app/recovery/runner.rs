//! Drives one claimed recovery to its end: asks what comes next, has it done, looks again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{error, info, warn};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::hooks::{self, HookList};
use crate::domain::instance::{InstanceFacts, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::policy::{Policy, Unapplied};
use crate::domain::recovery::plan::{RecoveryKind, Step};
use crate::domain::recovery::progress::{self, Finish, Next, Outcome, StepResult, Undo};
use crate::domain::state::record::StepRecord;
use crate::domain::state::{Applied, ClaimToken, Command, Ending, Phase, Recovery};
use crate::domain::topology::Topology;

use crate::app::cluster::view::ClusterViews;
use crate::app::recovery::failpoint;
use crate::app::recovery::hooks::Answer;
use crate::app::recovery::steps::{Effect, Patience, RecoveryContext, StepExecutor};

mod delays;
mod durability;
mod rollback;
mod semi_sync;
mod takeover;

/// Before a step is tried again on a server on which it failed: a broken connection is there again at once, a restarting server is not.
const TRY_AGAIN_PAUSE: Duration = Duration::from_millis(500);

/// With `DelayMasterPromotionIfSQLThreadNotUpToDate`: as long as orchestrator waits.
const WAIT_AT_MOST: Duration = Duration::from_hours(24);

/// Why a drive stopped before the end: another actor goes on from what is committed.
enum Stopped {
    /// The right to act could not be proved.
    Unconfirmed(String),
    /// An entry could not be committed, or it is unknown whether it was.
    NotCommitted(String),
}

struct RecoveryRunner<'a> {
    context: &'a RecoveryContext,
    views: &'a ClusterViews,
    token: &'a ClaimToken,
    step_executor: StepExecutor,
    done: Vec<StepResult>,
    lines: Vec<StepRecord>,
    begun: bool,
    /// After how many results it was last waited.
    waited_after: usize,
    /// Another actor began this recovery.
    resumed: bool,
}

/// Runs a recovery until it is over, or until this member may no longer act. `resumed`: another actor began it.
pub(super) async fn drive(context: &RecoveryContext, views: &ClusterViews, token: &ClaimToken, resumed: bool) {
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
    let mut drive = RecoveryRunner {
        context,
        views,
        token,
        step_executor,
        done: Vec::new(),
        lines: Vec::new(),
        begun: false,
        waited_after: 0,
        resumed,
    };
    if let Err(stopped) = drive.run().await {
        let why = match stopped {
            Stopped::Unconfirmed(why) => format!("this member may not act any more: {why}"),
            Stopped::NotCommitted(why) => format!("an entry was not committed: {why}"),
        };
        warn!("recovery {} stops here: {why}", token.uid);
    }
    drive.step_executor.rest().await;
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

    fn say(&mut self, message: String) {
        info!(recovery = %self.token.uid, epoch = self.token.epoch, "{message}");
        self.lines.push(StepRecord {
            id: 0,
            at: self.context.clock.wall(),
            message,
        });
    }

    async fn run(&mut self) -> Result<(), Stopped> {
        // What is put back waits for nobody's command.
        let only_undoes = self.resumed
            && self
                .recovery()
                .is_some_and(|recovery| progress::on_resume(&recovery.plan, &recovery.phase).is_some());
        if !only_undoes && let Some(reason) = self.ask_hooks().await? {
            return self.abort(reason, Vec::new()).await;
        }
        loop {
            let Some(recovery) = self.recovery() else {
                return Err(Stopped::Unconfirmed(format!(
                    "epoch {} is not current",
                    self.token.epoch
                )));
            };
            let Some(view) = self.views.cluster(&self.token.cluster) else {
                return Err(Stopped::Unconfirmed(format!("cluster {} is gone", self.token.cluster)));
            };
            self.begin(&recovery);
            let fresh = self.step_executor.look(&view.topology).await;
            let policy = self.views.judge(&view.cluster, fresh.clone()).policy;
            let policy = recovery.plan.terms(policy);
            let on_resume = progress::on_resume(&recovery.plan, &recovery.phase).filter(|_| self.resumed);
            let next = on_resume.or_else(|| self.taken_back(&recovery)).unwrap_or_else(|| {
                progress::next(
                    &recovery.plan,
                    &recovery.phase,
                    &self.done,
                    &fresh,
                    &policy,
                    self.context.clock.wall(),
                )
            });
            match next {
                Next::Run(step) if self.is_again(&step) && self.waited_after < self.done.len() => {
                    self.waited_after = self.done.len();
                    tokio::time::sleep(TRY_AGAIN_PAUSE).await;
                }
                Next::Run(step) => self.step(&recovery, &fresh, step).await?,
                Next::CommitOpen {
                    plan,
                    successor,
                    position,
                    fencing_proof,
                } => {
                    self.say(format!("proof before the opening: {fencing_proof}"));
                    failpoint::reached("before-open-entry");
                    self.say(format!("{successor} opens with at least {position}"));
                    let opened = self.commit(Command::Open {
                        token: self.token.clone(),
                        successor,
                        position,
                        plan,
                        fencing_proof: Some(fencing_proof),
                    });
                    let opened = opened.await;
                    if opened.is_err() && self.taken_back(&recovery).is_some() {
                        continue;
                    }
                    opened?;
                    failpoint::reached("after-open-entry");
                }
                Next::Finish(finish) => return self.finish(&recovery, finish).await,
                Next::Abort { reason, undo } => return self.abort(reason, undo).await,
                Next::Over => return Ok(()),
            }
        }
    }

    fn begin(&mut self, recovery: &Recovery) {
        if !self.begun {
            self.begun = true;
            self.say(format!(
                "recovery of {} for {} by {}, epoch {}",
                recovery.plan.old_primary, recovery.plan.code, recovery.holder_name, recovery.epoch
            ));
        }
    }

    /// Asks the hooks that may veto, before anything is touched; the answer is why the recovery is to end here, if it is. Where none is
    /// due this waits for nothing.
    async fn ask_hooks(&mut self) -> Result<Option<String>, Stopped> {
        let Some(recovery) = self.recovery() else {
            return Ok(None);
        };
        if !matches!(recovery.phase, Phase::Claimed)
            || (recovery.hooks.due.is_empty() && recovery.hooks.veto().is_none())
        {
            return Ok(None);
        }
        self.begin(&recovery);
        let lines = std::mem::take(&mut self.lines);
        match self.context.hooks.ask(self.token, lines).await {
            Answer::NotAsked => Ok(None),
            Answer::Vetoed(why) => Ok(Some(why)),
            Answer::Stopped(why) => Err(Stopped::NotCommitted(why)),
            Answer::Allowed => Ok(self.is_over_by_now(&recovery)),
        }
    }

    /// Commands take their time: what was broken when they began may be well by now, and then nothing is to be touched.
    fn is_over_by_now(&self, recovery: &Recovery) -> Option<String> {
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

    /// Whether a step that only goes forward was tried before.
    fn is_again(&self, step: &Step) -> bool {
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

    async fn commit(&self, command: Command) -> Result<(), Stopped> {
        match self.context.consensus.propose(command).await {
            Ok(Applied::Refused { why }) => Err(Stopped::Unconfirmed(why.to_string())),
            Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => Ok(()),
            Err(error) => Err(Stopped::NotCommitted(error.to_string())),
        }
    }

    /// Writes the lines so far without waiting: the servers come first. Lines that are lost with this member stand in its log.
    fn record_behind(&mut self) {
        let command = Command::Record {
            token: self.token.clone(),
            lines: std::mem::take(&mut self.lines),
        };
        let consensus = std::sync::Arc::clone(&self.context.consensus);
        tokio::spawn(async move {
            if let Err(error) = consensus.propose(command).await {
                warn!("lines of a recovery's record were not written: {error}");
            }
        });
    }

    /// How long a server may take to apply what it received.
    fn catch_up(&self) -> Duration {
        let view = self.views.cluster(&self.token.cluster);
        Duration::from_millis(view.map_or(60_000, |view| view.policy.catch_up_millis))
    }

    async fn step(&mut self, recovery: &Recovery, fresh: &Topology, mut step: Step) -> Result<(), Stopped> {
        let patience = self
            .views
            .cluster(&self.token.cluster)
            .map_or(Patience::of(Duration::from_mins(1)), |view| patience(&view.policy));
        let effects = match &mut step {
            Step::ReconnectTest { old_primary, replicas } => or_all(
                self.step_executor
                    .test_reconnect(old_primary, replicas, recovery.plan.code == Code::StalledPrimary)
                    .await,
                replicas,
            ),
            Step::Fence { old_primary } => {
                BTreeMap::from([(old_primary.clone(), self.step_executor.fence(old_primary).await)])
            }
            Step::Demote { old_primary } => {
                BTreeMap::from([(old_primary.clone(), self.demote(recovery, old_primary).await)])
            }
            Step::StopReceivers { replicas } if recovery.plan.is_forced() => {
                self.stop_receivers_after_last_words(recovery, fresh, replicas).await
            }
            Step::StopReceivers { replicas } => or_all(self.step_executor.stop_receivers(replicas).await, replicas),
            Step::Drain { successor } if recovery.plan.kind == RecoveryKind::Takeover => {
                BTreeMap::from([(successor.clone(), self.let_catch_up(recovery, fresh, successor).await)])
            }
            Step::Drain { successor } => {
                let set = received(fresh, successor, recovery);
                let effect = self.step_executor.drain(successor, &set, patience).await;
                BTreeMap::from([(successor.clone(), effect)])
            }
            Step::CatchUp { successor, from } => {
                let set = received(fresh, from, recovery);
                let both = BTreeSet::from([successor.clone(), from.clone()]);
                self.step_executor
                    .catch_up_from(successor, from, &set, patience)
                    .await
                    .unwrap_or_else(|effect| to_all(&both, &effect))
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
            Step::InjectEmpty { primary, set } => {
                BTreeMap::from([(primary.clone(), self.step_executor.inject_empty(primary, set).await)])
            }
            Step::ResetGtids { instance, keep } => {
                BTreeMap::from([(instance.clone(), self.step_executor.reset_gtids(instance, keep).await)])
            }
            Step::GoOn { replicas } => or_all(self.step_executor.go_on(replicas).await, replicas),
            Step::Acknowledge { replicas, on } => or_all(self.step_executor.acknowledge(replicas, *on).await, replicas),
            Step::AcknowledgeReceived { replicas } => self.acknowledge_received(recovery, replicas).await,
            Step::SetSemiSyncSource { servers, terms } => {
                or_all(self.step_executor.set_semi_sync_source(servers, *terms).await, servers)
            }
            Step::MakeWritable { primary } => {
                BTreeMap::from([(primary.clone(), self.step_executor.make_writable(primary).await)])
            }
            Step::Repoint { successor, replicas } if recovery.plan.kind == RecoveryKind::Takeover => {
                self.repoint_all(recovery, fresh, successor, replicas).await
            }
            Step::PersistReadOnly { servers } => or_all(self.step_executor.persist_read_only(servers).await, servers),
            Step::CheckBoot { primary } => {
                BTreeMap::from([(primary.clone(), self.step_executor.check_boot(primary).await)])
            }
            Step::Repoint { successor, replicas } => {
                let durable = self.durable(recovery, fresh, successor);
                let acknowledging = durable.as_ref().map(|(_, acknowledging)| acknowledging);
                let mut effects = or_all(
                    self.step_executor.repoint_as(successor, replicas, acknowledging).await,
                    replicas,
                );
                self.delay_again(recovery, fresh, &mut effects).await;
                effects
            }
            // In a recovery by GTID it is what an actor before this one left half done; in the others it stands in the plan.
            Step::ApplyAll { replicas }
                if matches!(recovery.plan.kind, RecoveryKind::DeadPrimary | RecoveryKind::CoPrimary) =>
            {
                or_all(
                    self.step_executor.finish_applying(replicas, self.catch_up()).await,
                    replicas,
                )
            }
            Step::ApplyAll { replicas } => {
                or_all(self.step_executor.apply_all(replicas, self.catch_up()).await, replicas)
            }
            Step::Locate { successor, replicas } => {
                let deadline = self.catch_up();
                self.step_executor.locate(successor, replicas, deadline).await
            }
            Step::Match { successor, replicas } => {
                let deadline = self.catch_up();
                self.step_executor.match_logs(successor, replicas, deadline).await
            }
            Step::RepointAt { successor, replicas } => self
                .step_executor
                .repoint_at(successor, replicas)
                .await
                .unwrap_or_else(|effect| to_all(&replicas.keys().cloned().collect(), &effect)),
        };
        self.conclude(step, effects)
    }

    /// Takes down what became of a step. Nothing more may be done when the right to act could not be proved.
    fn conclude(&mut self, step: Step, effects: BTreeMap<InstanceKey, Effect>) -> Result<(), Stopped> {
        if let Some(why) = unconfirmed(&effects) {
            return Err(Stopped::Unconfirmed(why));
        }
        self.say(format!("{}: {}", step.describe(), tell(&effects)));
        if matches!(step, Step::ReconnectTest { .. }) {
            failpoint::reached("after-reconnect-test");
        }
        if matches!(step, Step::StopReceivers { .. }) {
            failpoint::reached("after-freeze");
        }
        if matches!(step, Step::Open { .. }) {
            self.record_behind();
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

    /// Done: it answered, and its facts are known. `NoAnswer`: not reached. Failed: it lives and could not be examined. One that is
    /// replaced because it is stalled may be stalled.
    async fn redial(&mut self, old_primary: &InstanceKey, may_stall: bool) -> Effect {
        match self.step_executor.redial(old_primary).await.outcome {
            Ok(_) => Effect::Done(format!("{old_primary} answers")),
            Err(failure @ ProbeFailure::Stalled) if may_stall => Effect::NoAnswer(failure.to_string()),
            Err(failure) if failure.proves_life() => Effect::Failed(failure.to_string()),
            Err(failure) => Effect::NoAnswer(failure.to_string()),
        }
    }

    /// What the user gave to fence servers is asked to make sure of one.
    async fn call_fencer(&mut self, old_primary: &InstanceKey) -> Effect {
        if let Err(effect) = self.step_executor.may_act().await {
            return effect;
        }
        self.record_behind();
        let (lines, failure) = self.context.hooks.fence(self.token).await;
        self.lines.extend(lines);
        match failure {
            None => Effect::Done(format!("{old_primary} is fenced from outside")),
            Some(why) => Effect::Failed(why),
        }
    }

    /// A server below the primary that was writable: back it would take writes that nobody gets.
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

    async fn finish(&mut self, recovery: &Recovery, mut finish: Finish) -> Result<(), Stopped> {
        let successor = finish
            .successor
            .as_ref()
            .map_or_else(|| String::from("none"), |(key, _)| key.to_string());
        if finish.successful {
            let role = if recovery.plan.kind.opens_a_server() {
                "primary"
            } else {
                "new source"
            };
            self.say(format!(
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
            if let Some(why) = unconfirmed(&effects) {
                return Err(Stopped::Unconfirmed(why));
            }
            self.say(tell(&effects));
        }
        let follows = progress::follows_on(&recovery.plan, finish.successful, |key| {
            finish.lost_replicas.iter().any(|refusal| refusal.instance == *key)
        });
        let kind = recovery.plan.kind;
        // A repair of a primary that answers leaves it what it is.
        let is_below = matches!(kind, RecoveryKind::IntermediatePrimary | RecoveryKind::GroupMember);
        let leaves_quarantine =
            !follows && (kind.replaces_primary() || (is_below && self.was_writable(&recovery.plan.old_primary)));
        let quarantine = match (&finish.successor, &recovery.plan.old_primary_identity) {
            (Some(_), Some(identity)) if leaves_quarantine => {
                Some((recovery.plan.old_primary.clone(), identity.clone()))
            }
            _ => None,
        };
        finish.errors.extend(self.pay(recovery).await?);
        let ending = Ending {
            successful: finish.successful,
            successor: finish.successor,
            quarantine,
            lost_replicas: finish.lost_replicas,
            lost: finish.lost,
            errors: finish.errors,
            lines: std::mem::take(&mut self.lines),
            hooks: self.hooks_after(finish.successful),
            owes_opening: false,
        };
        self.commit(Command::End {
            token: self.token.clone(),
            ending: Box::new(ending),
        })
        .await
    }

    async fn abort(&mut self, reason: String, undo: Vec<Undo>) -> Result<(), Stopped> {
        warn!(recovery = %self.token.uid, "recovery aborts: {reason}");
        let mut errors = vec![reason.clone()];
        self.say(format!("aborts: {reason}"));
        let (failed, owes_opening) = self.put_back(undo).await?;
        errors.extend(failed);
        if let Some(recovery) = self.recovery() {
            errors.extend(self.pay(&recovery).await?);
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
            owes_opening,
        };
        self.commit(Command::End {
            token: self.token.clone(),
            ending: Box::new(ending),
        })
        .await
    }
}

/// What a server has received by its last facts.
fn received(fresh: &Topology, key: &InstanceKey, recovery: &Recovery) -> GtidSet {
    let facts = fresh.get(key).and_then(|instance| instance.facts.as_ref());
    facts.map_or_else(|| recovery.plan.position.clone(), InstanceFacts::received)
}

/// How long a successor may take to apply what it received.
fn patience(policy: &Policy) -> Patience {
    match policy.unapplied {
        Unapplied::CatchUp | Unapplied::Refuse => Patience::of(Duration::from_millis(policy.catch_up_millis)),
        Unapplied::Wait => Patience {
            deadline: WAIT_AT_MOST,
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

/// Why nothing more may be done, if that is so.
fn unconfirmed(effects: &BTreeMap<InstanceKey, Effect>) -> Option<String> {
    effects.values().find_map(|effect| match effect {
        Effect::Unconfirmed(why) => Some(why.clone()),
        Effect::Done(_) | Effect::NoAnswer(_) | Effect::Failed(_) | Effect::Unknown(_) => None,
    })
}

fn to_all(keys: &BTreeSet<InstanceKey>, effect: &Effect) -> BTreeMap<InstanceKey, Effect> {
    keys.iter().map(|key| (key.clone(), effect.clone())).collect()
}

/// Where nothing could be begun at all, all of them tell why.
fn or_all(
    effects: Result<BTreeMap<InstanceKey, Effect>, Effect>,
    keys: &BTreeSet<InstanceKey>,
) -> BTreeMap<InstanceKey, Effect> {
    effects.unwrap_or_else(|effect| to_all(keys, &effect))
}

fn outcome(effect: Effect) -> Outcome {
    match effect {
        Effect::Done(_) => Outcome::Done,
        Effect::NoAnswer(why) => Outcome::NoAnswer(why),
        Effect::Failed(why) => Outcome::Failed(why),
        Effect::Unknown(why) | Effect::Unconfirmed(why) => Outcome::Unknown(why),
    }
}

fn tell(effects: &BTreeMap<InstanceKey, Effect>) -> String {
    effects
        .iter()
        .map(|(key, effect)| match effect {
            Effect::Done(remark) => remark.clone(),
            Effect::NoAnswer(why) => format!("{key} does not answer ({why})"),
            Effect::Failed(why) => format!("{key} failed: {why}"),
            Effect::Unknown(why) | Effect::Unconfirmed(why) => format!("{key}: {why}"),
        })
        .collect::<Vec<_>>()
        .join("; ")
}
