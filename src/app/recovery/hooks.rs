//! Hooks: begins the lists that are due, writes down how they ended, and asks those that may veto before anything is touched.
//!
//! What is due stands in the replicated state. A list is begun with an entry and ended with one, so a new leader runs again what was
//! begun and not ended, under the next attempt number: each list runs at least once. Without a list in the configuration nothing is
//! ever due, and nothing here waits for anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::domain::finding::Finding;
use crate::domain::hooks::{
    self, AutoRecovery, HookLedger, HookList, HookRun, HookSubject, Occasion, Rendered, Subject, render,
};
use crate::domain::policy::Mode;
use crate::domain::recovery::plan::RecoveryKind;
use crate::domain::state::record::StepRecord;
use crate::domain::state::{Applied, ClaimToken, Command, Phase, State};
use crate::domain::topology::ClusterId;

use crate::app::filter::ClusterFilters;
use crate::app::observation::instance_cache::InstanceCache;
use crate::app::ports::{Clock, Consensus, HookCall, HookEnd, HookExit, Hooks};

/// How often the end of a list is proposed before it is left to be run again.
const WRITE_TRIES: u32 = 5;
/// Between these.
const WRITE_PAUSE: Duration = Duration::from_millis(500);
/// How much of a command's output stands in a record.
const SHOWN_OUTPUT: usize = 300;

/// The lists of the configuration.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// Commands by list; a list without commands is not in it.
    pub lists: BTreeMap<HookList, Vec<String>>,
    /// How long all commands of a list together may take; one that is not named has a minute.
    pub deadlines: BTreeMap<HookList, Duration>,
    /// How long a command may take that is begun and not waited for.
    pub detached_deadline: Duration,
    /// The same failure is told once in this time.
    pub detection_block: Duration,
    /// Clusters without a document whose primary is replaced: for what hooks are told.
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

/// What the hooks before a recovery answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There was nobody to ask.
    NotAsked,
    /// All agree.
    Allowed,
    /// One does not, for this reason.
    Vetoed(String),
    /// It could not be written down, or another actor holds the recovery: nothing more may be done here.
    Stopped(String),
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
    /// What a task of this process runs hooks for, after the fact.
    busy: Mutex<BTreeSet<Key>>,
    tracker: TaskTracker,
}

/// A subject without its epoch, which changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Recovery(String),
    Detection(u64),
}

/// A list as it went.
struct Went {
    attempt: u32,
    lines: Vec<StepRecord>,
    failure: Option<String>,
}

impl HookRunner {
    /// A runner of these lists.
    pub fn new(
        port: Arc<dyn Hooks>,
        settings: HookSettings,
        consensus: Arc<dyn Consensus>,
        instance_cache: Arc<InstanceCache>,
        clock: Arc<dyn Clock>,
    ) -> Self {
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

    /// Of these lists, those with commands.
    fn configured(&self, lists: &[HookList]) -> Vec<HookList> {
        lists
            .iter()
            .filter(|list| self.0.settings.lists.contains_key(list))
            .copied()
            .collect()
    }

    /// What is to be run for a finding that no recovery follows now.
    pub(super) fn at_detection(&self, state: &State, finding: &Finding) -> Vec<HookList> {
        let lists = self.configured(&[HookList::OnFailureDetection]);
        let block = u64::try_from(self.0.settings.detection_block.as_millis()).unwrap_or(u64::MAX);
        // The question is asked only where somebody wants to know.
        if lists.is_empty() || !hooks::is_news(state, finding, block, self.0.clock.wall()) {
            return Vec::new();
        }
        lists
    }

    /// What is to be run before a recovery touches anything.
    pub(super) fn before(&self, state: &State, finding: &Finding, kind: RecoveryKind) -> Vec<HookList> {
        let mut lists = self.at_detection(state, finding);
        lists.extend(self.configured(hooks::lists_of(kind).before));
        lists
    }

    /// What is to be run after a recovery.
    pub(super) fn after(&self, kind: RecoveryKind, ledger: &HookLedger, successful: bool) -> Vec<HookList> {
        self.configured(hooks::lists_after(kind, ledger, successful))
    }

    /// What is to be run when a replication group has chosen another primary.
    pub(in crate::app) fn after_group_choice(&self) -> Vec<HookList> {
        self.configured(hooks::AFTER_GROUP_CHOICE)
    }

    /// Asks the hooks before a recovery. `lines` are put before theirs in the record. Nothing was touched as long as one is due.
    pub(super) async fn ask(&self, token: &ClaimToken, lines: Vec<StepRecord>) -> Answer {
        let subject = HookSubject::Recovery {
            uid: token.uid.clone(),
            epoch: token.epoch,
        };
        let mut lines = lines;
        let mut answer = Answer::NotAsked;
        loop {
            let state = self.0.consensus.state().borrow().clone();
            let Some(recovery) = state.recoveries.get(&token.uid) else {
                return Answer::Stopped(String::from("the recovery is gone"));
            };
            if !matches!(recovery.phase, Phase::Claimed) {
                return answer;
            }
            // Also what an earlier actor was told, who did not get to the end of it.
            if let Some(why) = recovery.hooks.veto().and_then(|run| run.failure.clone()) {
                return Answer::Vetoed(why);
            }
            let Some(list) = recovery.hooks.next_due() else {
                return answer;
            };
            if let Err(why) = self.run(&subject, list, std::mem::take(&mut lines)).await {
                return Answer::Stopped(why);
            }
            answer = Answer::Allowed;
        }
    }

    /// Calls the user's fencer for the old primary of a recovery: what was said, and why it is not certain that the old primary takes no writes,
    /// if it is not. Nothing is written down before, so the next actor calls it again.
    pub(super) async fn fence(&self, token: &ClaimToken) -> (Vec<StepRecord>, Option<String>) {
        let subject = HookSubject::Recovery {
            uid: token.uid.clone(),
            epoch: token.epoch,
        };
        let mut went = Went {
            attempt: u32::try_from(token.epoch).unwrap_or(u32::MAX),
            lines: Vec::new(),
            failure: None,
        };
        if !self.0.settings.lists.contains_key(&HookList::Fencing) {
            let why = format!("{}: not configured on this member", HookList::Fencing);
            went.failure = Some(why);
        }
        self.carry_out(&subject, HookList::Fencing, &mut went).await;
        (went.lines, went.failure)
    }

    /// Takes up what is due for recoveries that are over and for detections. Returns at once; the work goes on in tasks.
    pub fn consider(&self, state: &State) {
        let recoveries = state
            .recoveries
            .values()
            .filter(|recovery| !recovery.is_active() && !recovery.hooks.due.is_empty())
            .map(|recovery| Key::Recovery(recovery.uid.clone()));
        let detections = state
            .detections
            .values()
            .filter(|detection| !detection.hooks.due.is_empty())
            .map(|detection| Key::Detection(detection.id));
        for key in recoveries.chain(detections) {
            if self.busy(|busy| busy.insert(key.clone())) {
                self.0.tracker.spawn(self.clone().run_due(key));
            }
        }
    }

    fn busy<T>(&self, change: impl FnOnce(&mut BTreeSet<Key>) -> T) -> T {
        change(&mut self.0.busy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn run_due(self, key: Key) {
        loop {
            let state = self.0.consensus.state().borrow().clone();
            let (subject, list) = match &key {
                Key::Recovery(uid) => {
                    let recovery = state.recoveries.get(uid);
                    let subject = recovery.map(|recovery| HookSubject::Recovery {
                        uid: uid.clone(),
                        epoch: recovery.epoch,
                    });
                    (subject, recovery.and_then(|recovery| recovery.hooks.next_due()))
                }
                Key::Detection(id) => {
                    let detection = state.detections.get(id);
                    let subject = detection.map(|_| HookSubject::Detection { id: *id });
                    (subject, detection.and_then(|detection| detection.hooks.next_due()))
                }
            };
            let (Some(subject), Some(list)) = (subject, list) else {
                break;
            };
            if let Err(why) = self.run(&subject, list, Vec::new()).await {
                warn!("{list} was not run to its end: {why}");
                break;
            }
        }
        self.busy(|busy| busy.remove(&key));
    }

    /// Begins one list, runs it, writes down how it ended.
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
        let mut went = Went {
            attempt,
            lines,
            failure: None,
        };
        self.carry_out(subject, list, &mut went).await;
        let ran = Command::HooksRan {
            subject: subject.clone(),
            run: HookRun {
                list,
                attempt,
                at: self.0.clock.wall(),
                failure: went.failure,
            },
            lines: went.lines,
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.0.consensus.propose(ran.clone()).await {
                Ok(Applied::Refused { why }) => return Err(why.to_string()),
                Ok(Applied::Done | Applied::Number { .. } | Applied::Claimed { .. }) => return Ok(()),
                Err(error) if tries >= WRITE_TRIES => return Err(error.to_string()),
                Err(error) => {
                    debug!("the end of {list} is not written yet: {error}");
                    tokio::time::sleep(WRITE_PAUSE).await;
                }
            }
        }
    }

    async fn carry_out(&self, subject: &HookSubject, list: HookList, went: &mut Went) {
        let Some(commands) = self.0.settings.lists.get(&list) else {
            self.say(went, format!("{list}: not configured on this member"));
            return;
        };
        let Some(told) = self.told(subject, list, went.attempt) else {
            went.failure = Some(format!("{list}: what it is about is gone"));
            return;
        };
        let allowed = self
            .0
            .settings
            .deadlines
            .get(&list)
            .copied()
            .unwrap_or(Duration::from_mins(1));
        let begun = self.0.clock.monotonic();
        for (number, command) in (1..).zip(commands) {
            let name = format!("{list} {number} of {}", commands.len());
            let Rendered { text, detached } = render(command, &told.environment);
            let spent = Duration::from_millis(self.0.clock.monotonic().millis_since(begun));
            let call = HookCall {
                text,
                deadline: if detached {
                    self.0.settings.detached_deadline
                } else {
                    allowed.saturating_sub(spent)
                },
                ..told.clone()
            };
            if detached {
                self.say(went, format!("{name}: begun, not waited for"));
                self.detach(name, call);
                continue;
            }
            if call.deadline.is_zero() {
                self.fail(went, format!("{name}: not begun, the time of the list was over"));
            } else {
                let allowed = allowed.as_secs();
                let end = self.0.port.run(call).await;
                match &end.exit {
                    HookExit::Code(0) => self.say(went, format!("{name}: done in {} ms{}", end.millis, shown(&end))),
                    HookExit::Code(code) => self.fail(went, format!("{name}: exited with {code}{}", shown(&end))),
                    HookExit::Signal(signal) => {
                        self.fail(went, format!("{name}: ended by signal {signal}{}", shown(&end)));
                    }
                    HookExit::TooSlow => {
                        self.fail(
                            went,
                            format!(
                                "{name}: ended, not done within the {allowed} s of the list{}",
                                shown(&end)
                            ),
                        );
                    }
                    HookExit::NotRun(why) => self.fail(went, format!("{name}: not run: {why}")),
                }
            }
            if went.failure.is_some() && list.may_veto() {
                return;
            }
        }
    }

    /// What the commands of a list are told: a call without its text and deadline.
    fn told(&self, subject: &HookSubject, list: HookList, attempt: u32) -> Option<HookCall> {
        let state = self.0.consensus.state().borrow().clone();
        let (subject, cluster) = match subject {
            HookSubject::Recovery { uid, .. } => {
                let recovery = state.recoveries.get(uid)?;
                (Subject::Recovery(recovery), &recovery.plan.cluster)
            }
            HookSubject::Detection { id } => {
                let detection = state.detections.get(id)?;
                (Subject::Detection(detection), &detection.finding.cluster)
            }
        };
        let successor = match subject {
            Subject::Recovery(recovery) => recovery.successor(),
            Subject::Detection(detection) => detection.successor.as_ref(),
        };
        let member = self.0.consensus.me().name;
        let occasion = Occasion {
            list,
            attempt,
            subject,
            member: &member,
            auto: self.auto(&state, cluster),
            origin: state
                .clusters
                .get(cluster)
                .and_then(|cluster| cluster.document.as_ref()),
            successor_coordinates: successor.and_then(|key| self.0.instance_cache.get(key)?.instance.facts?.binlog),
        };
        Some(HookCall {
            text: String::new(),
            environment: occasion.variables(),
            input: occasion.document().to_string(),
            deadline: Duration::ZERO,
        })
    }

    /// Whether a cluster is repaired by itself: its document says so, or without one the filters.
    fn auto(&self, state: &State, cluster: &ClusterId) -> AutoRecovery {
        let Some(cluster) = state.clusters.get(cluster) else {
            return AutoRecovery::default();
        };
        let document = cluster.document.as_ref().and_then(|origin| state.documents.get(origin));
        if let Some(document) = document {
            let is_auto = !document.paused && document.mode == Mode::Auto;
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

    /// Runs a command that nobody waits for.
    fn detach(&self, name: String, call: HookCall) {
        let port = Arc::clone(&self.0.port);
        self.0.tracker.spawn(async move {
            let end = port.run(call).await;
            match end.exit {
                HookExit::Code(0) => info!("{name}: done in {} ms{}", end.millis, shown(&end)),
                HookExit::Code(_) | HookExit::Signal(_) | HookExit::TooSlow | HookExit::NotRun(_) => {
                    warn!("{name}: {:?} after {} ms{}", end.exit, end.millis, shown(&end));
                }
            }
        });
    }

    fn say(&self, went: &mut Went, message: String) {
        info!("{message}");
        self.note(went, message);
    }

    fn fail(&self, went: &mut Went, message: String) {
        warn!("{message}");
        went.failure.get_or_insert_with(|| message.clone());
        self.note(went, message);
    }

    fn note(&self, went: &mut Went, message: String) {
        went.lines.push(StepRecord {
            id: 0,
            at: self.0.clock.wall(),
            message,
        });
    }
}

/// The end of the output on one line, for a record.
fn shown(end: &HookEnd) -> String {
    let flat = end.output.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.is_empty() {
        return flat;
    }
    let skipped = flat.chars().count().saturating_sub(SHOWN_OUTPUT);
    let tail: String = flat.chars().skip(skipped).collect();
    format!(": {}{tail}", if skipped > 0 { "..." } else { "" })
}
