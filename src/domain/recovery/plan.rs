//! A complete, immutable list of what to do, with a report of what was considered and refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::finding::Code;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{BinlogCoordinates, Identity, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::topology::ClusterId;

use super::candidate::excerpt;
use super::durability::SourceTerms;
pub use super::order::Order;

/// One item of a plan. Every step is idempotent and re-observed; the executor takes no decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum Step {
    /// Restarts the receiving threads of these replicas, in parallel, and watches for a moment whether any of them reaches the old
    /// primary again, while the old primary is dialled too. Done on a replica means that it could not.
    ReconnectTest {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
        /// All that say that they receive from it.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Asks the old primary, if it answers, to become read-only, and ends its client sessions. No answer is no failure.
    Fence {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Makes the present primary read-only at a person's word: running transactions get their time first, then client sessions end.
    /// Nothing else is touched, so semi-sync acknowledgements go on.
    Demote {
        /// The present primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Stops the receiving threads of these replicas, in parallel. After it the choice is made again on fresh facts.
    #[serde(rename = "freeze")]
    StopReceivers {
        /// All reachable descendants that take part.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Gives the successor what another replica received and it did not: points it at that one, waits until it has all, and stops it
    /// again. Undone by pointing it back.
    #[serde(rename = "feed")]
    CatchUp {
        /// The successor.
        successor: InstanceKey,
        /// Who has more.
        from: InstanceKey,
    },
    /// Waits until the successor has applied all that it received.
    Drain {
        /// The successor.
        successor: InstanceKey,
    },
    /// Asks the old primary once more, just before the opening: if it is back with everything, the recovery aborts.
    Redial {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Calls what the user gave to fence servers from outside (`FencingProcesses`), where nothing else proves that the old primary takes
    /// no writes. It may be called again.
    CallFencer {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Makes the successor a writable primary. The Open entry is committed before it; after it only forward.
    Open {
        /// The successor.
        successor: InstanceKey,
    },
    /// Commits empty transactions under these GTIDs on the primary, as far as it lacks them.
    InjectEmpty {
        /// The primary.
        primary: InstanceKey,
        /// These.
        set: GtidSet,
    },
    /// Lets a server forget its binary logs and GTIDs, and take this set for what it has executed.
    ResetGtids {
        /// The server, no primary.
        instance: InstanceKey,
        /// What it has executed without its errant transactions.
        keep: GtidSet,
    },
    /// Points these replicas at the successor, or at another source, in parallel.
    Repoint {
        /// Their source from now on.
        successor: InstanceKey,
        /// All that follow it.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Lets the next start of these servers be read-only, in parallel; the running ones stay as they are.
    PersistReadOnly {
        /// All that would start writable.
        servers: BTreeSet<InstanceKey>,
    },
    /// Looks whether a primary is read-only since its last start and by its own settings: a statement is a person's wish.
    CheckBoot {
        /// Which.
        primary: InstanceKey,
    },
    /// Waits until each of these has applied all that it received, told without GTIDs, side by side.
    ApplyAll {
        /// The successor and all that will follow it.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Finds out from the successor's logs where others, who are behind it, have to go on in its binary log. Read only.
    Locate {
        /// The successor.
        successor: InstanceKey,
        /// Those who are behind; the executor fills in what was found.
        replicas: BTreeMap<InstanceKey, Place>,
    },
    /// Finds out by Pseudo-GTID where those go on in the successor's binary log of whom positions do not tell it: their logs are
    /// compared with the successor's. Read only.
    Match {
        /// The successor.
        successor: InstanceKey,
        /// Those who are behind; the executor fills in what was found.
        replicas: BTreeMap<InstanceKey, Place>,
    },
    /// Points these replicas at places in the successor's binary log, side by side.
    RepointAt {
        /// The successor.
        successor: InstanceKey,
        /// Where each goes on; `None` is by GTID.
        replicas: BTreeMap<InstanceKey, Option<BinlogCoordinates>>,
    },
    /// Starts both threads of replicas that were stopped to be moved, and stay where they were.
    GoOn {
        /// Which.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Makes replicas acknowledge commits of their source (semi-sync), or not, in parallel.
    Acknowledge {
        /// All that are switched.
        replicas: BTreeSet<InstanceKey>,
        /// On or off.
        on: bool,
    },
    /// Makes commits of these servers wait for acknowledgements, of whomever and as good as for ever, or not at all.
    SetSemiSyncSource {
        /// Side by side.
        servers: BTreeSet<InstanceKey>,
        /// How they wait.
        terms: SourceTerms,
    },
    /// Lets replicas that acknowledge connect by position once, so that their source counts all that they have received before as
    /// acknowledged: a transaction that reached a replica before it acknowledged is never acknowledged by itself, and by GTID a
    /// source takes nothing for received when a replica connects.
    AcknowledgeReceived {
        /// All that may be asked for it, not all at once.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Makes a primary that is read-only writable. It stays the primary that it is: no Open entry, nobody in quarantine.
    MakeWritable {
        /// The primary.
        primary: InstanceKey,
    },
}

/// A place in the log of a dead source, and the same place in its successor's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// In the log of the dead source: up to here was applied.
    pub after: BinlogCoordinates,
    /// In the successor's log, once it was found.
    #[serde(default)]
    pub found: Option<BinlogCoordinates>,
}

impl Step {
    /// Who gets which source by this step; `None` for a step that points nobody anywhere.
    pub fn points(&self) -> Option<(&InstanceKey, BTreeSet<&InstanceKey>)> {
        if let Self::Repoint { successor, replicas } = self {
            Some((successor, replicas.iter().collect()))
        } else if let Self::RepointAt { successor, replicas } = self {
            Some((successor, replicas.keys().collect()))
        } else {
            None
        }
    }

    /// One line for the record of a recovery.
    pub fn describe(&self) -> String {
        let list = |keys: &BTreeSet<InstanceKey>| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::ReconnectTest { old_primary, replicas } => {
                format!("reconnect test: can {} reach {old_primary} again?", list(replicas))
            }
            Self::Fence { old_primary } => {
                format!("fence {old_primary}: read-only and end client sessions, if it answers")
            }
            Self::Demote { old_primary } => {
                format!("demote {old_primary}: running transactions end, read-only, client sessions end")
            }
            Self::StopReceivers { replicas } => format!("freeze: stop receiving on {}", list(replicas)),
            Self::CatchUp { successor, from } => format!("feed: {successor} gets from {from} what it lacks"),
            Self::Drain { successor } => format!("drain: {successor} applies all that it received"),
            Self::Redial { old_primary } => format!("redial {old_primary}: is it back?"),
            Self::CallFencer { old_primary } => {
                format!(
                    "fence {old_primary} from outside (FencingProcesses), unless it is proved that it takes no writes"
                )
            }
            Self::Open { successor } => format!("open: make {successor} the writable primary"),
            Self::InjectEmpty { primary, set } => {
                let count = set.transaction_count();
                format!("inject {count} empty transactions on {primary}: {}", excerpt(set))
            }
            Self::ResetGtids { instance, keep } => format!(
                "reset: {instance} forgets its binary logs and has executed {}",
                excerpt(keep)
            ),
            Self::PersistReadOnly { servers } => format!("boot read-only from the next start on: {}", list(servers)),
            Self::CheckBoot { primary } => format!("check that {primary} is read-only since its start"),
            Self::Repoint { successor, replicas } => format!("repoint {} to {successor}", list(replicas)),
            Self::ApplyAll { replicas } => format!("drain: {} apply all that they received", list(replicas)),
            Self::Locate { successor, replicas } => {
                format!(
                    "locate in the logs of {successor} where {} go on",
                    list(&replicas.keys().cloned().collect())
                )
            }
            Self::Match { successor, replicas } => {
                format!(
                    "match the logs of {} with those of {successor} by Pseudo-GTID",
                    list(&replicas.keys().cloned().collect())
                )
            }
            Self::RepointAt { successor, replicas } => {
                format!(
                    "repoint {} to {successor}, by position",
                    list(&replicas.keys().cloned().collect())
                )
            }
            Self::GoOn { replicas } => format!("go on where they were: {}", list(replicas)),
            Self::Acknowledge { replicas, on: true } => format!("semi-sync on: {}", list(replicas)),
            Self::Acknowledge { replicas, on: false } => format!("semi-sync off: {}", list(replicas)),
            Self::SetSemiSyncSource { servers, terms } => format!("{terms}: {}", list(servers)),
            Self::AcknowledgeReceived { replicas } => {
                format!("semi-sync: {} acknowledge what they received before", list(replicas))
            }
            Self::MakeWritable { primary } => format!("make {primary} writable"),
        }
    }
}

/// What kind of repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryKind {
    /// A dead primary is replaced, by GTID.
    DeadPrimary,
    /// A dead primary is replaced, by file and position.
    DeadPrimaryByPosition,
    /// A dead primary that replicated from another server, as that one did from it, is replaced, by GTID.
    CoPrimary,
    /// A returned primary becomes a replica.
    Rejoin,
    /// The replicas of a dead intermediate primary get another source.
    IntermediatePrimary,
    /// The replicas of a dead member of a replication group get another member as source.
    GroupMember,
    /// A person had errant transactions dealt with.
    ResolveErrant,
    /// A living primary hands over to a replica, and follows it.
    Takeover,
    /// A semi-sync primary gets as many acknowledging replicas as it waits for, and where asked for no more.
    SemiSync,
    /// A primary that is read-only is made writable.
    NonWritablePrimary,
    /// A person had a replica put below another server by Pseudo-GTID.
    MatchBelow,
    /// Servers that would start writable start read-only from now on.
    BootReadOnly,
    /// The primary has started read-only, and is opened again.
    ReopenPrimary,
    /// Primary and replicas are set as the durability policy wants them.
    Durability,
}

/// Which recovery each actionable finding calls for.
const CALLS_FOR: &[(Code, RecoveryKind)] = &[
    (Code::DeadMaster, RecoveryKind::DeadPrimary),
    (Code::DeadMasterAndSomeReplicas, RecoveryKind::DeadPrimary),
    (Code::SuccessorLost, RecoveryKind::DeadPrimary),
    (Code::DeadCoMaster, RecoveryKind::CoPrimary),
    (Code::DeadCoMasterAndSomeReplicas, RecoveryKind::CoPrimary),
    (Code::DeadIntermediateMaster, RecoveryKind::IntermediatePrimary),
    (
        Code::DeadIntermediateMasterAndSomeReplicas,
        RecoveryKind::IntermediatePrimary,
    ),
    (
        Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect,
        RecoveryKind::IntermediatePrimary,
    ),
    (
        Code::AllIntermediateMasterReplicasFailingToConnectOrDead,
        RecoveryKind::IntermediatePrimary,
    ),
    (Code::DeadReplicationGroupMemberWithReplicas, RecoveryKind::GroupMember),
    (Code::LockedSemiSyncMaster, RecoveryKind::SemiSync),
    (Code::MasterWithTooManySemiSyncReplicas, RecoveryKind::SemiSync),
    (
        Code::NoWriteableMasterStructureWarning,
        RecoveryKind::NonWritablePrimary,
    ),
];

impl RecoveryKind {
    /// The recovery that a finding calls for; `None` when there is none (§6.2 of the compatibility reference).
    pub fn for_code(code: Code) -> Option<Self> {
        CALLS_FOR
            .iter()
            .find(|(called, _)| *called == code)
            .map(|(_, kind)| *kind)
    }

    /// Whether it makes a server writable, and so commits an Open entry.
    pub fn opens_a_server(self) -> bool {
        self.replaces_primary() || self == Self::ReopenPrimary
    }

    /// Whether it ends with another server as the cluster's primary. Only such a recovery changes the recorded primary and leaves the
    /// old primary in quarantine.
    pub fn replaces_primary(self) -> bool {
        match self {
            Self::DeadPrimary | Self::DeadPrimaryByPosition | Self::CoPrimary | Self::Takeover => true,
            Self::Rejoin
            | Self::IntermediatePrimary
            | Self::GroupMember
            | Self::SemiSync
            | Self::NonWritablePrimary
            | Self::ResolveErrant
            | Self::MatchBelow
            | Self::BootReadOnly
            | Self::ReopenPrimary
            | Self::Durability => false,
        }
    }

    /// Whether one that succeeded keeps the same repair of the same instance from being made again for the whole block period: where
    /// a repetition would be a sign that something works against it.
    pub fn blocks_its_repetition(self) -> bool {
        match self {
            Self::DeadPrimary
            | Self::DeadPrimaryByPosition
            | Self::CoPrimary
            | Self::IntermediatePrimary
            | Self::GroupMember
            | Self::NonWritablePrimary => true,
            Self::Rejoin
            | Self::ResolveErrant
            | Self::Takeover
            | Self::SemiSync
            | Self::MatchBelow
            | Self::BootReadOnly
            | Self::ReopenPrimary
            | Self::Durability => false,
        }
    }

    /// Whether it gives way: a claim of a recovery that replaces the primary ends it, instead of waiting for it. What it did stays
    /// done, every one of its steps is complete in itself, and the other recovery looks at the servers afresh.
    pub fn gives_way(self) -> bool {
        !self.replaces_primary()
    }
}

/// What to do, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// What kind of repair.
    pub kind: RecoveryKind,
    /// The finding that called for it.
    pub code: Code,
    /// In which cluster.
    pub cluster: ClusterId,
    /// The failed instance.
    #[serde(rename = "victim")]
    pub old_primary: InstanceKey,
    /// Who that is.
    #[serde(rename = "victimIdentity")]
    pub old_primary_identity: Option<Identity>,
    /// Who is promoted; where nobody is, the source that most of the moved replicas get.
    pub successor: InstanceKey,
    /// Who that is.
    pub successor_identity: Identity,
    /// What the successor has received: it opens with at least this. Where nobody is promoted, what it holds.
    pub position: GtidSet,
    /// Every instance that the plan may touch.
    pub instances: BTreeSet<InstanceKey>,
    /// Replicas that will not follow the successor, with the reason.
    pub lost_replicas: Vec<Refusal>,
    /// What the old primary is known to have had and the successor lacks; a lower bound.
    pub lost: Option<GtidSet>,
    /// In order.
    pub steps: Vec<Step>,
    /// From whom each instance that a step may point elsewhere replicated when the plan was made: what an undo goes back to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<InstanceKey, InstanceKey>,
    /// Those of `sources` that did not simply replicate then, and how they did: an undo goes back to that as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[serde(rename = "manners")]
    pub prior_states: BTreeMap<InstanceKey, PriorReplicaState>,
    /// What the members remember of the old primary's transactions beyond the view ([`Opinion::remembered`](crate::domain::finding::Opinion)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remembered: Option<GtidSet>,
    /// What a person asked for, if somebody did.
    #[serde(default)]
    pub order: Option<Order>,
}

/// How a replica was set up when a plan was made, beyond its source. The default is a replica that receives, and applies at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PriorReplicaState {
    /// Somebody had stopped its receiving thread.
    pub stopped: bool,
    /// How long it waited on purpose before it applied, seconds.
    pub delay_seconds: u64,
}

impl Plan {
    /// Those of its servers that delayed on purpose when it was made, with the seconds by which they did.
    pub(super) fn delays(&self) -> impl Iterator<Item = (&InstanceKey, u64)> {
        self.prior_states
            .iter()
            .map(|(key, prior_state)| (key, prior_state.delay_seconds))
            .filter(|(_, seconds)| *seconds > 0)
    }

    /// A plan about one server that keeps its place: it is its own successor, alone in the claim, and there are no steps yet.
    pub(super) fn of_one(
        kind: RecoveryKind,
        code: Code,
        cluster: &ClusterId,
        key: &InstanceKey,
        facts: &InstanceFacts,
    ) -> Self {
        Self {
            kind,
            code,
            cluster: cluster.clone(),
            old_primary: key.clone(),
            old_primary_identity: Some(facts.identity.clone()),
            successor: key.clone(),
            successor_identity: facts.identity.clone(),
            position: facts.executed.clone(),
            instances: BTreeSet::from([key.clone()]),
            lost_replicas: Vec::new(),
            lost: None,
            remembered: None,
            order: None,
            sources: BTreeMap::new(),
            prior_states: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// The only one who may be promoted, if somebody was named.
    pub fn designated(&self) -> Option<&InstanceKey> {
        let is_named = self.order.as_ref().is_some_and(|order| order.designated);
        is_named.then_some(&self.successor)
    }

    /// Whether no hook is run for it.
    pub fn skips_hooks(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.skips_hooks)
    }

    /// The policy under which it is carried out: that of the cluster, on the terms of the order.
    pub fn terms(&self, policy: Policy) -> Policy {
        match &self.order {
            Some(order) => order.terms(policy),
            None => policy,
        }
    }

    /// Whether the old primary counts as dead although it may answer.
    pub fn is_forced(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.forced)
    }
}

/// Why an instance was not chosen, or was left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Which.
    pub instance: InstanceKey,
    /// Why, in words that API, command line and status share.
    pub reason: RefusalReason,
}

/// Reasons against an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalReason {
    /// Its last probe failed.
    Unreachable(String),
    /// Binary logging is off.
    NoBinlog,
    /// `log_replica_updates` is off.
    NoReplicaUpdates,
    /// It keeps its source's binary logs and executes nothing.
    BinlogServer,
    /// It filters what it replicates.
    Filtered,
    /// Its promotion rule is `must_not`.
    MustNot,
    /// A hostname filter excludes it.
    Ignored,
    /// It is in downtime.
    Downtimed,
    /// It has transactions that no one else has.
    Errant(String),
    /// Its applying thread stopped with an error.
    ApplierFailed(String),
    /// The channel does not use GTIDs.
    NoGtid,
    /// It delays on purpose, and another one has all that it has.
    Delayed(u64),
    /// It lags more than a promotion may (`FailMasterPromotionOnLagMinutes`).
    Lagging(String),
    /// It has not applied all that it received (`FailMasterPromotionIfSQLThreadNotUpToDate`).
    NotUpToDate(String),
    /// It lacks transactions that another one received.
    Behind(String),
    /// What it has and what another one has are incomparable.
    Incomparable(String),
    /// Another data centre or region, and that is forbidden.
    Geography(String),
    /// It has purged, or the successor has purged, what would be needed.
    Purged(String),
    /// Its version or format is ahead of the others'.
    Version(String),
    /// It is as good, and another one ranks better.
    RankedLower(String),
    /// It takes part in another recovery.
    Claimed(String),
    /// Part of its state is unknown.
    Unknown(String),
    /// It does not replicate in the way that a planned change of the primary needs.
    NotReplicating(String),
}

impl std::fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::NoBinlog => f.write_str("binary logging is off (log_bin)"),
            Self::NoReplicaUpdates => f.write_str("log_replica_updates is off"),
            Self::BinlogServer => f.write_str(
                "is a binlog server: it keeps one source's log and cannot go on with another one's; set it up anew below the new primary",
            ),
            Self::Filtered => f.write_str("has replication filters"),
            Self::MustNot => f.write_str("promotion rule must_not"),
            Self::Ignored => f.write_str("excluded by PromotionIgnoreHostnameFilters"),
            Self::Downtimed => f.write_str("in downtime"),
            Self::Errant(set) => write!(f, "errant transactions {set}"),
            Self::ApplierFailed(why) => write!(f, "applying thread stopped: {why}"),
            Self::NoGtid => f.write_str("does not replicate by GTID"),
            Self::Delayed(seconds) => write!(f, "delayed on purpose by {seconds} s"),
            Self::Lagging(why) => write!(f, "lag: {why}"),
            Self::NotUpToDate(set) => write!(f, "has received and not applied {set}"),
            Self::Behind(set) => write!(f, "lacks {set}"),
            Self::Incomparable(set) => write!(f, "neither ahead of nor behind the others: lacks {set}"),
            Self::Geography(why) => write!(f, "geography: {why}"),
            Self::Purged(set) => write!(f, "purged and needed: {set}"),
            Self::Version(why) => write!(f, "version: {why}"),
            Self::RankedLower(why) => write!(f, "as good, ranks lower: {why}"),
            Self::Claimed(uid) => write!(f, "takes part in recovery {uid}"),
            Self::Unknown(what) => write!(f, "unknown: {what}"),
            Self::NotReplicating(why) => write!(f, "does not replicate: {why}"),
        }
    }
}

/// What the planner considered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[must_use = "a report says why"]
pub struct PlanReport {
    /// Who would be promoted.
    pub successor: Option<InstanceKey>,
    /// Why each other one would not.
    pub refused: Vec<Refusal>,
    /// Why there is no plan, when there is none.
    pub no_plan: Option<String>,
    /// Remarks for the record (loss accepted by policy, ...).
    pub remarks: Vec<String>,
}
