//! Hooks: runs the lists of commands that are due, records how they ended, and lets those that may veto decide before
//! anything is changed.
//!
//! The replicated state says which lists are due. One log entry starts a list and one ends it. A new leader therefore
//! runs a list again that was started and not ended, with the next attempt number: each list runs at least once.
//! Without lists in the configuration nothing is ever due, and nothing waits here.
//!
//! The list of a detection runs in a task of its own: neither the recovery nor another list waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::domain::finding::Finding;
use crate::domain::hooks::{
    self, AutoRecovery, HookInvocation, HookList, HookProgress, HookRun, HookSubject, Rendered, SubjectRecord, render,
};
use crate::domain::policy::RecoveryMode;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::state::record::StepRecord;
use crate::domain::state::{Applied, ClaimToken, Command, Phase, State};
use crate::domain::topology::ClusterId;

use crate::app::filter::ClusterFilters;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, HookCall, HookExit, HookResult, Hooks};
use crate::app::supervision;

/// How often the end of a list is proposed before the list is left to run again.
const COMMIT_ATTEMPTS: u32 = 5;
/// The pause between two proposals.
const COMMIT_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How much of the output of a command a record shows, characters.
const MAX_OUTPUT_CHARS: usize = 300;

/// The lists of the configuration.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// Commands by list; a list without commands is not in it.
    pub lists: BTreeMap<HookList, Vec<String>>,
    /// How long all commands of a list together may take; a list that is not named has a minute.
    pub deadlines: BTreeMap<HookList, Duration>,
    /// How long a detached command may take.
    pub detached_deadline: Duration,
    /// The same failure is reported to hooks once in this time.
    pub detection_block: Duration,
    /// Clusters without a document in which a primary is replaced: a value that hooks receive.
    pub primaries: ClusterFilters,
    /// The same for intermediate sources.
    pub intermediates: ClusterFilters,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self {
            lists: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            detached_deadline: Duration::from_hours(1),
            detection_block: Duration::from_hours(1),
            primaries: ClusterFilters::default(),
            intermediates: ClusterFilters::default(),
        }
    }
}

impl HookSettings {
    /// How long all commands of a list together may take.
    fn deadline(&self, list: HookList) -> Duration {
        self.deadlines.get(&list).copied().unwrap_or(Duration::from_mins(1))
    }
}

/// The result of the hooks before a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HookVerdict {
    /// No list was due.
    NoHooks,
    /// All lists succeeded.
    Allowed,
    /// A list vetoed the recovery, for this reason.
    Vetoed(String),
    /// An entry could not be committed, or another actor holds the recovery: this actor must stop.
    Interrupted(String),
}

/// Runs hooks. Cheap to clone.
#[derive(Clone)]
pub struct HookRunner(Arc<Inner>);

struct Inner {
    port: Arc<dyn Hooks>,
    settings: HookSettings,
    consensus: Arc<dyn Consensus>,
    instance_cache: Arc<InstanceCache>,
    clock: Arc<dyn Clock>,
    /// The recoveries and detections for which a task of this process runs hooks.
    busy: Mutex<BTreeSet<DueSubject>>,
    tracker: TaskTracker,
}

/// What one task runs: lists of a subject without its epoch, which changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DueSubject {
    /// The lists after a recovery, one after the other.
    Recovery(String),
    /// The list of the detection that a claim is.
    DetectionOf(String),
    /// The list of a detection without a recovery.
    Detection(u64),
}

/// The result of a list so far.
struct HookListRun {
    attempt: u32,
    lines: Vec<StepRecord>,
    failure: Option<String>,
}

impl HookRunner {
    /// A runner of these lists. Logs each list that has commands with its deadline.
    pub fn new(
        port: Arc<dyn Hooks>,
        settings: HookSettings,
        consensus: Arc<dyn Consensus>,
        instance_cache: Arc<InstanceCache>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        for (list, commands) in &settings.lists {
            let allowed = settings.deadline(*list).as_secs();
            let veto = if list.may_veto() {
                "; a failure or a timeout stops the recovery"
            } else {
                ""
            };
            info!(
                "{list}: commands: {}, deadline for all of them: {allowed} s{veto}",
                commands.len()
            );
        }
        Self(Arc::new(Inner {
            port,
            settings,
            consensus,
            instance_cache,
            clock,
            busy: Mutex::default(),
            tracker: TaskTracker::new(),
        }))
    }

    /// Those of the lists that have commands.
    fn configured(&self, lists: &[HookList]) -> Vec<HookList> {
        lists
            .iter()
            .filter(|list| self.0.settings.lists.contains_key(list))
            .copied()
            .collect()
    }

    /// The lists to run for a finding that no recovery follows now.
    pub(super) fn at_detection(&self, state: &State, finding: &Finding) -> Vec<HookList> {
        let lists = self.configured(&[HookList::OnFailureDetection]);
        let block = u64::try_from(self.0.settings.detection_block.as_millis()).unwrap_or(u64::MAX);
        // Whether the failure is new is checked only when a list needs it.
        if lists.is_empty() || !hooks::is_detection_hook_due(state, finding, block, self.0.clock.wall()) {
            return Vec::new();
        }
        lists
    }

    /// The lists to run before a recovery changes anything.
    pub(super) fn before(&self, state: &State, finding: &Finding, kind: RecoveryKind) -> Vec<HookList> {
        let mut lists = self.at_detection(state, finding);
        lists.extend(self.configured(hooks::lists_of(kind).before));
        lists
    }

    /// The lists to run after a recovery. The list of its detection stays pending until it has ended.
    pub(super) fn after(&self, kind: RecoveryKind, progress: &HookProgress, successful: bool) -> Vec<HookList> {
        let pending = progress.is_detection_due().then_some(HookList::OnFailureDetection);
        let after = self.configured(hooks::lists_after(kind, progress, successful));
        pending.into_iter().chain(after).collect()
    }

    /// The lists to run when a replication group has chosen another primary.
    pub(in crate::app) fn after_group_choice(&self) -> Vec<HookList> {
        self.configured(hooks::AFTER_GROUP_CHOICE)
    }

    /// Runs the lists before a recovery. `lines` precede their lines in the record. Nothing was changed while a list
    /// is due.
    pub(super) async fn run_before(&self, token: &ClaimToken, lines: Vec<StepRecord>) -> HookVerdict {
        let subject = HookSubject::Recovery {
            uid: token.uid.clone(),
            epoch: token.epoch,
        };
        let mut lines = lines;
        let mut answer = HookVerdict::NoHooks;
        loop {
            let state = self.0.consensus.state().borrow().clone();
            let Some(recovery) = state.recoveries.get(&token.uid) else {
                return HookVerdict::Interrupted(String::from("the recovery is gone"));
            };
            if !matches!(recovery.phase, Phase::Claimed) {
                return answer;
            }
            // A veto of an earlier run counts, too: its actor did not end the recovery.
            if let Some(why) = recovery.hooks.veto().and_then(|run| run.failure.clone()) {
                return HookVerdict::Vetoed(why);
            }
            let Some(list) = recovery.hooks.next_in_order() else {
                return answer;
            };
            if let Err(why) = self.run(&subject, list, std::mem::take(&mut lines)).await {
                return HookVerdict::Interrupted(why);
            }
            answer = HookVerdict::Allowed;
        }
    }

    /// Calls the configured fencer for the old primary of a recovery. Returns the lines for the record, and why it is
    /// not certain that the old primary takes no writes. Nothing is committed before, so the next actor calls the
    /// fencer again.
    pub(super) async fn fence(&self, token: &ClaimToken) -> (Vec<StepRecord>, Option<String>) {
        let subject = HookSubject::Recovery {
            uid: token.uid.clone(),
            epoch: token.epoch,
        };
        let mut run = HookListRun {
            attempt: u32::try_from(token.epoch).unwrap_or(u32::MAX),
            lines: Vec::new(),
            failure: None,
        };
        if !self.0.settings.lists.contains_key(&HookList::Fencing) {
            let why = format!("{}: not configured on this member", HookList::Fencing);
            run.failure = Some(why);
        }
        self.run_commands(&subject, HookList::Fencing, &mut run).await;
        (run.lines, run.failure)
    }

    /// Runs the lists that are due for ended recoveries and for detections, those of running recoveries among them. Returns at once;
    /// tasks do the work.
    pub fn start_due(&self, state: &State) {
        let recoveries = state
            .recoveries
            .values()
            .filter(|recovery| !recovery.is_active() && recovery.hooks.next_in_order().is_some())
            .map(|recovery| DueSubject::Recovery(recovery.uid.clone()));
        let of_claims = state
            .recoveries
            .values()
            .filter(|recovery| recovery.hooks.is_detection_due())
            .map(|recovery| DueSubject::DetectionOf(recovery.uid.clone()));
        let detections = state
            .detections
            .values()
            .filter(|detection| !detection.hooks.due.is_empty())
            .map(|detection| DueSubject::Detection(detection.id));
        for key in of_claims.chain(recoveries).chain(detections) {
            if self.busy(|busy| busy.insert(key.clone())) {
                let this = self.clone();
                self.0.tracker.spawn(async move {
                    let ended = supervision::catch(this.clone().run_due(key.clone())).await;
                    if ended.is_none() {
                        this.busy(|busy| busy.remove(&key));
                    }
                });
            }
        }
    }

    fn busy<T>(&self, change: impl FnOnce(&mut BTreeSet<DueSubject>) -> T) -> T {
        change(&mut self.0.busy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn run_due(self, key: DueSubject) {
        loop {
            let state = self.0.consensus.state().borrow().clone();
            let (subject, list) = match &key {
                DueSubject::Recovery(uid) | DueSubject::DetectionOf(uid) => {
                    let recovery = state.recoveries.get(uid);
                    let subject = recovery.map(|recovery| HookSubject::Recovery {
                        uid: uid.clone(),
                        epoch: recovery.epoch,
                    });
                    let list = recovery.and_then(|recovery| match key {
                        DueSubject::DetectionOf(_) => due_at_detection(&recovery.hooks),
                        DueSubject::Recovery(_) | DueSubject::Detection(_) => recovery.hooks.next_in_order(),
                    });
                    (subject, list)
                }
                DueSubject::Detection(id) => {
                    let detection = state.detections.get(id);
                    let subject = detection.map(|_| HookSubject::Detection { id: *id });
                    let list = detection.and_then(|detection| {
                        due_at_detection(&detection.hooks).or_else(|| detection.hooks.next_in_order())
                    });
                    (subject, list)
                }
            };
            let (Some(subject), Some(list)) = (subject, list) else {
                break;
            };
            if let Err(why) = self.run(&subject, list, Vec::new()).await {
                warn!("hooks {list} stopped before the end, will run again: {why}");
                break;
            }
        }
        self.busy(|busy| busy.remove(&key));
    }

    /// Commits the start of a list, runs it, and commits its end.
    async fn run(&self, subject: &HookSubject, list: HookList, lines: Vec<StepRecord>) -> Result<(), String> {
        let begin = Command::HooksBegin {
            subject: subject.clone(),
            list,
        };
        let attempt = match self.0.consensus.propose(begin).await {
            Ok(Applied::Number { number }) => u32::try_from(number).unwrap_or(u32::MAX),
            Ok(other) => return Err(other.to_string()),
            Err(error) => return Err(error.to_string()),
        };
        crate::app::recovery::failpoint::reached("after-hooks-begin");
        let mut run = HookListRun {
            attempt,
            lines,
            failure: None,
        };
        self.run_commands(subject, list, &mut run).await;
        let ran = Command::HooksRan {
            subject: subject.clone(),
            run: HookRun {
                list,
                attempt,
                at: self.0.clock.wall(),
                failure: run.failure,
            },
            lines: run.lines,
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.0.consensus.propose(ran.clone()).await {
                Ok(Applied::Refused { why }) => return Err(why.to_string()),
                Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => return Ok(()),
                Err(error) if tries >= COMMIT_ATTEMPTS => return Err(error.to_string()),
                Err(error) => {
                    debug!("the end of {list} is not recorded yet: {error}");
                    tokio::time::sleep(COMMIT_RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn run_commands(&self, subject: &HookSubject, list: HookList, run: &mut HookListRun) {
        let Some(commands) = self.0.settings.lists.get(&list) else {
            self.log_success(run, format!("{list}: not configured on this member"));
            return;
        };
        let Some(template) = self.call_template(subject, list, run.attempt) else {
            run.failure = Some(format!("{list}: its recovery or detection is gone"));
            return;
        };
        let allowed = self.0.settings.deadline(list);
        let begun = self.0.clock.monotonic();
        for (number, command) in (1..).zip(commands) {
            let name = format!("{list} {number} of {}", commands.len());
            let Rendered { text, detached } = render(command, &template.environment);
            let spent = Duration::from_millis(self.0.clock.monotonic().millis_since(begun));
            let call = HookCall {
                text,
                deadline: if detached {
                    self.0.settings.detached_deadline
                } else {
                    allowed.saturating_sub(spent)
                },
                ..template.clone()
            };
            if detached {
                self.log_success(run, format!("{name}: started, runs detached"));
                self.start_detached(name, call);
                continue;
            }
            if call.deadline.is_zero() {
                self.log_failure(run, format!("{name}: not begun, the time of the list was over"));
            } else {
                let allowed = allowed.as_secs();
                let end = self.0.port.run(call).await;
                match &end.exit {
                    HookExit::Code(0) => self.log_success(
                        run,
                        format!("{name}: done in {} ms{}", end.millis, output_excerpt(&end)),
                    ),
                    HookExit::Code(code) => {
                        self.log_failure(run, format!("{name}: exited with {code}{}", output_excerpt(&end)));
                    }
                    HookExit::Signal(signal) => {
                        self.log_failure(run, format!("{name}: ended by signal {signal}{}", output_excerpt(&end)));
                    }
                    HookExit::TooSlow => {
                        self.log_failure(
                            run,
                            format!(
                                "{name}: ended, not done within the {allowed} s of the list{}",
                                output_excerpt(&end)
                            ),
                        );
                    }
                    HookExit::NotRun(why) => self.log_failure(run, format!("{name}: not run: {why}")),
                }
            }
            if run.failure.is_some() && list.may_veto() {
                return;
            }
        }
    }

    /// The call that all commands of a list share, without text and deadline.
    fn call_template(&self, subject: &HookSubject, list: HookList, attempt: u32) -> Option<HookCall> {
        let state = self.0.consensus.state().borrow().clone();
        let (subject, cluster) = match subject {
            HookSubject::Recovery { uid, .. } => {
                let recovery = state.recoveries.get(uid)?;
                (SubjectRecord::Recovery(recovery), &recovery.plan.cluster)
            }
            HookSubject::Detection { id } => {
                let detection = state.detections.get(id)?;
                (SubjectRecord::Detection(detection), &detection.finding.cluster)
            }
        };
        let successor = match subject {
            SubjectRecord::Recovery(recovery) => recovery.successor(),
            SubjectRecord::Detection(detection) => detection.successor.as_ref(),
        };
        let member = self.0.consensus.me().name;
        let invocation = HookInvocation {
            list,
            attempt,
            subject,
            member: &member,
            auto: self.automatic_recovery(&state, cluster),
            origin: state
                .clusters
                .get(cluster)
                .and_then(|cluster| cluster.document.as_ref()),
            successor_coordinates: successor.and_then(|key| self.0.instance_cache.get(key)?.instance.facts?.binlog),
        };
        Some(HookCall {
            text: String::new(),
            environment: invocation.variables(),
            input: invocation.document().to_string(),
            deadline: Duration::ZERO,
        })
    }

    /// Whether a cluster is repaired automatically: by its document, or without a document by the filters.
    fn automatic_recovery(&self, state: &State, cluster: &ClusterId) -> AutoRecovery {
        let Some(cluster) = state.clusters.get(cluster) else {
            return AutoRecovery::default();
        };
        let document = cluster.document.as_ref().and_then(|origin| state.documents.get(origin));
        if let Some(document) = document {
            let is_auto = !document.paused && document.mode == RecoveryMode::Auto;
            return AutoRecovery {
                primary: is_auto,
                intermediate: is_auto,
            };
        }
        let matches = |filters: &ClusterFilters| filters.matches(&cluster.name, &cluster.alias);
        AutoRecovery {
            primary: matches(&self.0.settings.primaries),
            intermediate: matches(&self.0.settings.intermediates),
        }
    }

    /// Starts a command and does not wait for it.
    fn start_detached(&self, name: String, call: HookCall) {
        let port = Arc::clone(&self.0.port);
        self.0.tracker.spawn(async move {
            let end = port.run(call).await;
            match end.exit {
                HookExit::Code(0) => info!("{name}: done in {} ms{}", end.millis, output_excerpt(&end)),
                HookExit::Code(_) | HookExit::Signal(_) | HookExit::TooSlow | HookExit::NotRun(_) => {
                    warn!("{name}: {:?} after {} ms{}", end.exit, end.millis, output_excerpt(&end));
                }
            }
        });
    }

    fn log_success(&self, run: &mut HookListRun, message: String) {
        info!("{message}");
        self.add_line(run, message);
    }

    fn log_failure(&self, run: &mut HookListRun, message: String) {
        warn!("{message}");
        run.failure.get_or_insert_with(|| message.clone());
        self.add_line(run, message);
    }

    fn add_line(&self, run: &mut HookListRun, message: String) {
        run.lines.push(StepRecord {
            id: 0,
            at: self.0.clock.wall(),
            message,
        });
    }
}

fn due_at_detection(progress: &HookProgress) -> Option<HookList> {
    progress.is_detection_due().then_some(HookList::OnFailureDetection)
}

/// The end of the output on one line, for a record.
fn output_excerpt(end: &HookResult) -> String {
    let flat = end.output.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.is_empty() {
        return flat;
    }
    let skipped = flat.chars().count().saturating_sub(MAX_OUTPUT_CHARS);
    let tail: String = flat.chars().skip(skipped).collect();
    format!(": {}{tail}", if skipped > 0 { "..." } else { "" })
}
