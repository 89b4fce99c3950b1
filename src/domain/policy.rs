//! What may be done to a cluster: the sum of documents, intents, switches and configuration at one moment, as data.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::intent::PromotionRule;
use super::key::InstanceKey;
use super::recovery::plan::RecoveryKind;
use super::time::WallTime;

/// What ham4db does about a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Repairs it.
    #[default]
    Auto,
    /// Shows it.
    DetectOnly,
    /// Neither.
    Off,
}

/// What to do when transactions that a replica cannot have would be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LossPolicy {
    /// As the primary promised: refuse where its semi-sync says that nothing can be lost, allow otherwise.
    #[default]
    Auto,
    /// Do not promote.
    Refuse,
    /// Wait for the old primary, then promote.
    AllowAfterTimeout,
    /// Promote and report what was lost.
    Allow,
}

/// What to do with a successor that has received and not yet applied something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unapplied {
    /// It is given [`Policy::catch_up_millis`], then another one is chosen.
    #[default]
    CatchUp,
    /// It is no candidate until it has applied all (`FailMasterPromotionIfSQLThreadNotUpToDate`).
    Refuse,
    /// It is waited for as long as it makes progress, a day at most (`DelayMasterPromotionIfSQLThreadNotUpToDate`).
    Wait,
}

/// What to do with a failed primary that is back and holds nothing that the new one lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OldPrimary {
    /// Keep it read-only, wait for a person.
    #[default]
    Hold,
    /// Make it a replica of the new primary.
    Rejoin,
}

/// What to do about a primary that accepts connections and answers none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StalledPrimary {
    /// Show it.
    #[default]
    Observe,
    /// Replace it when it has been so for a while and no replica receives from it. It cannot be fenced: when it goes on, it is
    /// writable until that is seen.
    Failover,
}

/// What to do about servers that are writable as soon as they start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootReadOnly {
    /// Let the next start of every server be read-only, and open the primary again when it comes back so.
    Enforce,
    /// Say so.
    #[default]
    Advise,
    /// Nothing.
    Off,
}

/// What to do when the pod of the primary is about to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDrain {
    /// Show it. The default: a takeover ends every client's session, a cordon is not always followed by a drain, and where a preStop hook
    /// or another controller moves the primary, two would do it.
    #[default]
    Observe,
    /// Have another server take over first.
    TakeOver,
}

/// How soon a server goes. The greater, the worse a successor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Leaving {
    /// Its node is being emptied: its turn comes, or somebody thinks better of it.
    WithItsNode,
    /// Its pod is being ended.
    WithItsPod,
}

/// How many servers have to have a transaction before its client is told that it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DurabilityMode {
    /// Semi-sync is left as it is.
    #[default]
    None,
    /// The primary, and so many replicas that acknowledge.
    SemiSync,
    /// The primary, and so many replicas in other data centres.
    CrossDataCenter,
}

/// The durability policy of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durability {
    /// Who has to have a transaction.
    pub mode: DurabilityMode,
    /// How many replicas, at least 1. MariaDB waits for one and cannot be told otherwise.
    pub count: u32,
    /// Commits wait although fewer replicas can acknowledge; otherwise they wait for those that there are.
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
    /// Nothing was asked for.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    /// Whether semi-sync is kept as the policy says.
    pub fn is_kept(&self) -> bool {
        self.mode != DurabilityMode::None
    }
}

/// Why no recovery runs although a finding calls for one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeldBack {
    /// Recoveries are switched off for all clusters.
    GloballyDisabled,
    /// The document says `paused: true`.
    Paused,
    /// The document's mode is not Auto.
    Mode(Mode),
    /// No document, and no recovery filter matches the cluster.
    NoFilterMatches,
    /// The instance is in downtime.
    Downtimed {
        /// Who.
        owner: String,
        /// Why.
        reason: String,
        /// Until when; `None` is until it is ended.
        until: Option<WallTime>,
    },
    /// A recovery of the cluster ended a short while ago and is not acknowledged.
    RecentRecovery {
        /// Its id.
        uid: String,
        /// When the block ends.
        until: WallTime,
    },
    /// A hook stopped the last recovery of the cluster; it is asked again when this block ends.
    Vetoed {
        /// The recovery's id.
        uid: String,
        /// When the block ends.
        until: WallTime,
        /// What the hook said.
        why: String,
    },
    /// A recovery of the cluster runs.
    RecoveryRuns {
        /// Its id.
        uid: String,
    },
    /// The primary and its replicas have just started, and nobody has seen the primary yet.
    StartupGrace {
        /// Until when it may take.
        until: WallTime,
    },
    /// The finding has no recovery.
    NotActionable,
    /// It is waited for something, told in words.
    Waits(String),
    /// The repair is made only when a key of the configuration asks for it.
    NotAskedFor {
        /// Which key.
        key: String,
    },
    /// The members do not agree.
    NoAgreement(String),
    /// The planner refused.
    Refused(String),
    /// The plan failed its check.
    Unsound(String),
    /// Another group owns the cluster.
    OwnedByAnotherGroup(String),
}

impl std::fmt::Display for HeldBack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GloballyDisabled => f.write_str("recoveries are globally disabled (enable-global-recoveries)"),
            Self::Paused => f.write_str("the document says paused: true"),
            Self::Mode(mode) => write!(f, "the document's recovery mode is {mode:?}"),
            Self::NoFilterMatches => f.write_str("no RecoverMasterClusterFilters entry matches the cluster"),
            Self::Downtimed { owner, reason, .. } => write!(f, "in downtime by {owner}: {reason}"),
            Self::RecentRecovery { uid, .. } => {
                write!(f, "recovery {uid} of this cluster is recent and not acknowledged")
            }
            Self::Vetoed { uid, why, .. } => write!(f, "a hook stopped recovery {uid}: {why}"),
            Self::RecoveryRuns { uid } => write!(f, "recovery {uid} of this cluster runs"),
            Self::NotAskedFor { key } => write!(f, "not asked for ({key})"),
            Self::StartupGrace { .. } => {
                f.write_str("all replicas have just started, and the primary may still be starting (StartupGrace)")
            }
            Self::NotActionable => f.write_str("no recovery exists for this finding"),
            Self::Waits(what) => f.write_str(what),
            Self::NoAgreement(why) => write!(f, "members do not agree: {why}"),
            Self::Refused(why) => write!(f, "no plan: {why}"),
            Self::Unsound(why) => write!(f, "the plan failed its check: {why}"),
            Self::OwnedByAnotherGroup(who) => write!(f, "cluster is owned by another group: {who}"),
        }
    }
}

/// A repair, other than a replacement of the primary, that ended a short while ago and was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentRepair {
    /// What kind.
    pub kind: RecoveryKind,
    /// Of which instance.
    pub instance: InstanceKey,
    /// Its id.
    pub uid: String,
    /// Until when it holds the next one back.
    pub until: WallTime,
}

/// How a living primary hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TakeoverTerms {
    /// How far the one that takes over may be behind, and how long it may take to catch up while nobody can write, seconds
    /// (`ReasonableMaintenanceReplicationLagSeconds`).
    pub lag_seconds: u64,
    /// How long transactions that run when the takeover begins may take to end by themselves, milliseconds.
    pub transaction_wait_millis: u64,
    /// Those that run longer are ended; otherwise the takeover is.
    pub ends_transactions: bool,
}

impl Default for TakeoverTerms {
    fn default() -> Self {
        Self {
            lag_seconds: 20,
            transaction_wait_millis: 5000,
            ends_transactions: true,
        }
    }
}

/// How many must agree before a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryQuorum {
    /// The leader alone.
    Leader,
    /// A majority of the voters of the committed membership.
    #[default]
    Majority,
    /// Such a majority, out of more than half of the data centres that voters are in. A voter whose data centre is not known counts as
    /// one more that does not agree.
    MajorityOfDataCenters,
}

/// The policy of one cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "switches that people set one by one")]
pub struct Policy {
    /// Reason not to act on any finding of the cluster, if there is one (switch, pause, mode, filters, recent recovery).
    pub held_back: Option<HeldBack>,
    /// The same for failed intermediate primaries and group members, which have filters of their own. A recent recovery of the primary
    /// does not hold these back, nor these it.
    pub held_back_intermediates: Option<HeldBack>,
    /// The same for repairs of a primary that answers (semi-sync, read-only): a recent failover does not hold these back.
    pub held_back_living: Option<HeldBack>,
    /// A primary that waits for more semi-sync replicas than it has gets more.
    pub recover_locked_semi_sync: bool,
    /// A reconnect test that ended a short while ago without a failover: the next test waits. A primary that is seen dead does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recent_test: Option<HeldBack>,
    /// Repairs that ended a short while ago: the same kind of repair of the same instance waits.
    pub recent_repairs: Vec<RecentRepair>,
    /// Instances in downtime, with the one that lasts longest.
    pub downtimes: BTreeMap<InstanceKey, HeldBack>,
    /// Promotion rules that count, by instance.
    pub promotion_rules: BTreeMap<InstanceKey, PromotionRule>,
    /// Servers that are about to go: promoted only when nobody else can be.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leaving: BTreeMap<InstanceKey, Leaving>,
    /// Instances that may never be promoted, by hostname filter.
    pub promotion_ignored: Vec<InstanceKey>,
    /// What to do about loss.
    pub loss: LossPolicy,
    /// With [`LossPolicy::AllowAfterTimeout`]: how long to wait, milliseconds.
    pub loss_timeout_millis: u64,
    /// What to do with a returned primary.
    pub old_primary: OldPrimary,
    /// What to do about a stalled primary.
    pub stalled: StalledPrimary,
    /// With [`StalledPrimary::Failover`]: after how long without an answer, milliseconds.
    pub stalled_timeout_millis: u64,
    /// What to do about servers that are writable as soon as they start.
    pub boot_read_only: BootReadOnly,
    /// Which transactions survive the loss of the primary.
    #[serde(skip_serializing_if = "Durability::is_unset")]
    pub durability: Durability,
    /// Whether an account for new replication channels is configured; `None` is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_account: Option<bool>,
    /// How long an unacknowledged recovery blocks the next one, milliseconds from its end.
    pub block_millis: u64,
    /// Instances of the recoveries that run: what happens to them is part of these.
    pub in_recovery: BTreeSet<InstanceKey>,
    /// Servers of the cluster that are in quarantine: whatever they were, they take no writes as long as the leader can reach them.
    pub quarantined: BTreeSet<InstanceKey>,
    /// The recorded primary, when ham4db made it writable, and it started again since it was last seen to take writes, and takes none
    /// now: then nobody made it read-only, its configuration did. Or a recovery made it read-only and could not undo that.
    pub booted_read_only: Option<InstanceKey>,
    /// A read-only primary is a failure, whoever made it so.
    pub recover_non_writable_primary: bool,
    /// Of two co-primaries the other one is promoted, or nobody is.
    pub must_promote_other_co_primary: bool,
    /// More semi-sync replicas than the primary waits for are a failure.
    pub enforce_exact_semi_sync: bool,
    /// How long the binary log of a primary that waits for too many semi-sync replicas must stand still before it counts as locked,
    /// milliseconds.
    pub locked_semi_sync_millis: u64,
    /// Lag above which a replica counts as lagging, seconds.
    pub reasonable_lag_seconds: u64,
    /// How long a successor may take to apply what it received, milliseconds.
    pub catch_up_millis: u64,
    /// Lag from which on a replica is not promoted, seconds; 0: whatever its lag.
    pub max_promotion_lag_seconds: u64,
    /// What to do with a successor that has not applied all.
    pub unapplied: Unapplied,
    /// Never promote across data centres.
    pub prevent_cross_data_center: bool,
    /// Never promote across regions.
    pub prevent_cross_region: bool,
    /// How a living primary hands over.
    pub takeover: TakeoverTerms,
    /// Places that positions do not tell are looked for by Pseudo-GTID.
    pub pseudo_gtid: bool,
    /// There are commands that fence servers from outside.
    pub fences_outside: bool,
    /// When ham4db last changed what commits of this cluster wait for, or may have; what was seen by then tells nothing of it. Now
    /// while it is at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acks_changed_at: Option<WallTime>,
    /// The voters of the group by name, each with its data centre (empty: not known); nobody where a single member decides.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub voters: BTreeMap<String, String>,
}
