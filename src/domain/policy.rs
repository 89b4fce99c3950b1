//! What may be done to a cluster at one moment: documents, intents, switches and configuration together, as data.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::intent::PromotionRule;
use super::key::InstanceKey;
use super::time::WallTime;
use crate::domain::recovery::kind::RecoveryKind;

/// What ham4db does about a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryMode {
    /// Repairs it.
    #[default]
    Auto,
    /// Reports it.
    DetectOnly,
    /// Neither.
    Off,
}

/// What to do when a promotion would lose transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossPolicy {
    /// Follows the promise of the primary: refuses where its semi-sync settings guarantee that nothing is lost, allows
    /// otherwise.
    #[default]
    Auto,
    /// Does not promote.
    Refuse,
    /// Waits for the old primary, then promotes.
    AllowAfterTimeout,
    /// Promotes and reports what was lost.
    Allow,
}

/// What to do with a successor that has received transactions and not applied all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnappliedPolicy {
    /// Waits for [`Policy::catch_up_millis`], then chooses another successor.
    #[default]
    CatchUp,
    /// The replica is not eligible until it has applied everything (`FailMasterPromotionIfSQLThreadNotUpToDate`).
    Refuse,
    /// Waits as long as the replica makes progress, a day at most (`DelayMasterPromotionIfSQLThreadNotUpToDate`).
    Wait,
}

/// What to do with an old primary that answers again and holds no transaction that the new one lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OldPrimary {
    /// Keeps it read-only until an operator decides.
    #[default]
    Hold,
    /// Makes it a replica of the new primary.
    Rejoin,
}

/// What to do about a primary that accepts connections and does not answer, or answers and commits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StalledPrimary {
    /// Reports it.
    #[default]
    Observe,
    /// Replaces it after a while. One that does not answer: when no replica receives from it; it cannot be fenced, so when it
    /// resumes, it is writable until ham4db sees that. One that answers: with a proof that it takes no more writes.
    Failover,
}

/// What to do about servers that are writable right after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootReadOnly {
    /// Makes every server start read-only, and opens the primary again when it starts read-only.
    Enforce,
    /// Reports the finding `BootsWritable`.
    #[default]
    Advise,
    /// Nothing.
    Off,
}

/// What to do about the events of the event scheduler on a new primary, where they arrived disabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventsPolicy {
    /// Enables those that were enabled on the old primary.
    #[default]
    Enable,
    /// Nothing.
    Leave,
}

/// What to do when the pod of the primary is about to terminate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDrain {
    /// Reports it. This is the default because a takeover ends every client session, because a cordon is not always
    /// followed by a drain, and because a preStop hook or another controller may move the primary as well.
    #[default]
    Observe,
    /// Starts a takeover first.
    TakeOver,
}

/// How soon a server stops. A greater value makes it a worse successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TerminationStage {
    /// The node of its pod is being drained: the pod is evicted later, unless the node is uncordoned before.
    #[serde(rename = "WithItsNode")]
    NodeDraining,
    /// Its pod is being terminated.
    #[serde(rename = "WithItsPod")]
    PodTerminating,
}

/// How many servers must have a transaction before its commit is acknowledged to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DurabilityMode {
    /// Semi-sync settings are not changed.
    #[default]
    None,
    /// The primary and [`Durability::count`] replicas.
    SemiSync,
    /// The primary and [`Durability::count`] replicas in other data centers.
    CrossDataCenter,
}

/// The durability policy of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durability {
    /// Which servers must have a transaction.
    pub mode: DurabilityMode,
    /// Number of replicas, at least 1. MariaDB always waits for one.
    pub count: u32,
    /// Commits wait even when fewer replicas can acknowledge. Without it, commits wait for the replicas that can.
    pub strict: bool,
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            mode: DurabilityMode::None,
            count: 1,
            strict: false,
        }
    }
}

impl Durability {
    /// Whether no durability policy is set.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    /// Whether ham4db maintains the semi-sync settings by this policy.
    pub fn is_kept(&self) -> bool {
        self.mode != DurabilityMode::None
    }
}

/// The reason why no recovery runs although a finding calls for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeldBack {
    /// Recoveries are disabled for all clusters.
    GloballyDisabled,
    /// The document has `paused: true`.
    Paused,
    /// The mode of the document is not `Auto`.
    Mode(RecoveryMode),
    /// The cluster has no document, and no recovery filter matches it.
    NoFilterMatches,
    /// The instance is in downtime.
    Downtimed {
        /// Owner of the downtime.
        owner: String,
        /// Reason of the downtime.
        reason: String,
        /// End of the downtime; `None` when it lasts until it is ended.
        until: Option<WallTime>,
    },
    /// A recovery of the cluster ended recently and is not acknowledged.
    RecentRecovery {
        /// Id of that recovery.
        uid: String,
        /// When the block ends.
        until: WallTime,
    },
    /// A hook vetoed the last recovery of the cluster; the hook runs again when the block ends.
    Vetoed {
        /// Id of that recovery.
        uid: String,
        /// When the block ends.
        until: WallTime,
        /// The failure of the hook.
        why: String,
    },
    /// The last attempts of this repair failed; the next one follows after a wait that doubles with each failure.
    #[serde(rename_all = "camelCase")]
    RepairFailed {
        /// Id of the last attempt.
        uid: String,
        /// How many attempts failed in a row.
        failures: u32,
        /// When the next attempt is due.
        until: WallTime,
    },
    /// A recovery of the cluster is running.
    RecoveryRuns {
        /// Id of that recovery.
        uid: String,
    },
    /// The primary and its replicas have just started, and the primary has not been seen yet.
    StartupGrace {
        /// When the grace period ends.
        until: WallTime,
    },
    /// No recovery exists for the finding.
    NotActionable,
    /// ham4db waits for something; the text describes it.
    Waits(String),
    /// The repair runs only when a configuration key enables it.
    NotAskedFor {
        /// The configuration key.
        key: String,
    },
    /// The members do not agree that the primary failed.
    NoAgreement(String),
    /// The planner refused.
    Refused(String),
    /// The plan failed the lint.
    Unsound(String),
    /// Another group owns the cluster.
    OwnedByAnotherGroup(String),
}

impl HeldBack {
    /// As it is recorded in a detection: what members of earlier versions do not know is recorded as its text.
    #[must_use]
    pub fn as_recorded(self) -> Self {
        if matches!(self, Self::RepairFailed { .. }) {
            Self::Waits(self.to_string())
        } else {
            self
        }
    }
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GloballyDisabled => f.write_str("recoveries are globally disabled (enable-global-recoveries)"),
            Self::Paused => f.write_str("the document has paused: true"),
            Self::Mode(mode) => write!(f, "the document's recovery mode is {mode:?}"),
            Self::NoFilterMatches => f.write_str("no RecoverMasterClusterFilters entry matches the cluster"),
            Self::Downtimed { owner, reason, .. } => write!(f, "in downtime by {owner}: {reason}"),
            Self::RecentRecovery { uid, .. } => {
                write!(
                    f,
                    "recovery {uid} of this cluster ended recently and is not acknowledged"
                )
            }
            Self::Vetoed { uid, why, .. } => write!(f, "a hook vetoed recovery {uid}: {why}"),
            Self::RepairFailed { uid, failures, until } => {
                let times = if *failures == 1 {
                    "once".to_owned()
                } else {
                    format!("{failures} times")
                };
                write!(
                    f,
                    "the repair failed {times}, last as recovery {uid}; next attempt at {}",
                    until.time_of_day()
                )
            }
            Self::RecoveryRuns { uid } => write!(f, "recovery {uid} of this cluster is running"),
            Self::NotAskedFor { key } => write!(f, "not enabled ({key})"),
            Self::StartupGrace { .. } => {
                f.write_str("all replicas have just started, and the primary may still be starting (StartupGrace)")
            }
            Self::NotActionable => f.write_str("no recovery exists for this finding"),
            Self::Waits(what) => f.write_str(what),
            Self::NoAgreement(why) => write!(f, "members do not agree: {why}"),
            Self::Refused(why) => write!(f, "no plan: {why}"),
            Self::Unsound(why) => write!(f, "the plan failed the lint: {why}"),
            Self::OwnedByAnotherGroup(group) => write!(f, "cluster is owned by another group: {group}"),
        }
    }
}

/// A repair (a recovery that does not replace the primary) that ended recently and is not acknowledged. It blocks the
/// next repair of the same kind and instance. A failed one blocks for a time that grows with each failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairBlock {
    /// Kind of the repair.
    pub kind: RecoveryKind,
    /// The repaired instance.
    pub instance: InstanceKey,
    /// Id of the recovery.
    pub uid: String,
    /// When the block ends.
    pub until: WallTime,
    /// How many attempts failed in a row; 0 when the last one succeeded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl RepairBlock {
    /// What it holds back.
    pub fn held_back(&self) -> HeldBack {
        let (uid, until) = (self.uid.clone(), self.until);
        match self.failures {
            0 => HeldBack::RecentRecovery { uid, until },
            failures => HeldBack::RepairFailed { uid, failures, until },
        }
    }
}

/// The terms of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TakeoverTerms {
    /// Highest lag of the target, and the longest time for its catch-up while the cluster is not writable, seconds
    /// (`ReasonableMaintenanceReplicationLagSeconds`).
    pub lag_seconds: u64,
    /// How long transactions that are open when the takeover begins may take to end, milliseconds.
    pub transaction_wait_millis: u64,
    /// Whether transactions that take longer are killed; otherwise the takeover is aborted.
    pub ends_transactions: bool,
    /// How long the change to read-only may wait for locks on the old primary, seconds, at least 2.
    pub lock_wait_seconds: u64,
}

impl Default for TakeoverTerms {
    fn default() -> Self {
        Self {
            lag_seconds: 20,
            transaction_wait_millis: 5000,
            ends_transactions: true,
            lock_wait_seconds: 5,
        }
    }
}

/// How many members must agree before a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryQuorum {
    /// The leader alone.
    Leader,
    /// A majority of the voters of the committed membership.
    #[default]
    Majority,
    /// Such a majority, and it must come from more than half of the data centers that have voters. A voter with an
    /// unknown data center counts as one data center that does not agree.
    MajorityOfDataCenters,
}

/// The policy of one cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "switches that people set one by one")]
pub struct Policy {
    /// The reason that holds back every recovery of the cluster, if there is one (switch, pause, mode, filters, recent
    /// recovery).
    pub held_back: Option<HeldBack>,
    /// The same for failed intermediate primaries and group members, which have filters of their own. A recent recovery
    /// of the primary does not hold these back, and they do not hold back a recovery of the primary.
    pub held_back_intermediates: Option<HeldBack>,
    /// The same for repairs of a primary that answers (semi-sync, read-only). A recent failover does not hold these
    /// back.
    pub held_back_living: Option<HeldBack>,
    /// Whether a primary that waits for more semi-sync replicas than are connected is repaired.
    pub recover_locked_semi_sync: bool,
    /// A reconnect test that ended recently without a failover holds back the next test. It does not hold back the
    /// failover of a primary that is seen dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recent_test: Option<HeldBack>,
    /// Repairs that ended recently: the same kind of repair of the same instance is blocked.
    #[serde(rename = "recentRepairs")]
    pub repair_blocks: Vec<RepairBlock>,
    /// Instances in downtime, each with the downtime that lasts longest.
    pub downtimes: BTreeMap<InstanceKey, HeldBack>,
    /// The effective promotion rules by instance.
    pub promotion_rules: BTreeMap<InstanceKey, PromotionRule>,
    /// Servers that stop soon: they are promoted only when no other server is eligible.
    #[serde(rename = "leaving", skip_serializing_if = "BTreeMap::is_empty")]
    pub terminating: BTreeMap<InstanceKey, TerminationStage>,
    /// Instances that are never promoted because a hostname filter excludes them.
    pub promotion_ignored: Vec<InstanceKey>,
    /// What to do when a promotion loses transactions.
    pub loss: LossPolicy,
    /// A person declared the primary dead: an unknown loss is accepted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accepts_unknown_loss: bool,
    /// With [`LossPolicy::AllowAfterTimeout`]: how long to wait for the old primary, milliseconds.
    pub loss_timeout_millis: u64,
    /// What to do with an old primary that answers again.
    pub old_primary: OldPrimary,
    /// What to do about a stalled primary.
    pub stalled: StalledPrimary,
    /// With [`StalledPrimary::Failover`]: how long the primary must be stalled, milliseconds.
    pub stalled_timeout_millis: u64,
    /// What to do about servers that are writable right after a start.
    pub boot_read_only: BootReadOnly,
    /// The durability policy.
    #[serde(skip_serializing_if = "Durability::is_unset")]
    pub durability: Durability,
    /// Whether an account for new replication channels is configured; `None` is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_account: Option<bool>,
    /// How long an unacknowledged recovery blocks the next one after its end, milliseconds.
    pub block_millis: u64,
    /// Instances of running recoveries: changes of these instances are part of the recoveries.
    pub in_recovery: BTreeSet<InstanceKey>,
    /// Servers of the cluster that are in quarantine. They take no writes as long as the leader can reach them.
    pub quarantined: BTreeSet<InstanceKey>,
    /// The recorded primary, when its read-only state is not the work of an operator. Either ham4db made it writable,
    /// and it has since restarted with a configuration that makes it read-only. Or a recovery made it read-only and
    /// could not undo that.
    pub booted_read_only: Option<InstanceKey>,
    /// Whether a read-only primary is a failure, whatever made it read-only.
    pub recover_non_writable_primary: bool,
    /// Of two co-primaries only the other one may be promoted.
    pub must_promote_other_co_primary: bool,
    /// Whether more semi-sync replicas than the primary waits for are a failure.
    pub enforce_exact_semi_sync: bool,
    /// How long the binary log of a primary that waits for too many semi-sync replicas must not move before the primary
    /// counts as locked, milliseconds.
    pub locked_semi_sync_millis: u64,
    /// Lag above which a replica counts as lagging, seconds.
    pub reasonable_lag_seconds: u64,
    /// How long a successor may take to apply what it received, milliseconds.
    pub catch_up_millis: u64,
    /// Lag from which on a replica is not promoted, seconds; 0 is no limit.
    pub max_promotion_lag_seconds: u64,
    /// What to do with a successor that has not applied everything.
    pub unapplied: UnappliedPolicy,
    /// Whether a promotion into another data center is forbidden.
    pub prevent_cross_data_center: bool,
    /// Whether a promotion into another region is forbidden.
    pub prevent_cross_region: bool,
    /// The terms of a takeover.
    pub takeover: TakeoverTerms,
    /// Whether log positions are matched by Pseudo-GTID where there are no GTIDs.
    pub pseudo_gtid: bool,
    /// Whether hooks are configured that fence a server from outside.
    pub fences_outside: bool,
    /// What to do about events on a new primary.
    pub events: EventsPolicy,
    /// When ham4db last changed (or may have changed) which acknowledgements commits of this cluster wait for. Older
    /// observations prove nothing about semi-sync. While such a change is running this is the present moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acks_changed_at: Option<WallTime>,
    /// The voters of the group by name, each with its data center (empty when unknown); empty for a single member.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub voters: BTreeMap<String, String>,
    /// The voters that do not answer the leader, and those with wrong clocks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub voter_problems: BTreeMap<String, VoterProblem>,
}

/// What is wrong with a member that votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VoterProblem {
    /// It does not answer the leader.
    Silent,
    /// Its clock differs from the majority's by more than the limit.
    ClockSkew,
}
