//! The steps of a plan.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::BinlogCoordinates;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::recovery::semi_sync::SourceTerms;
use crate::domain::scheduled_events::ScheduledEvent;

/// Number of events that a line of the record names.
const NAMED_EVENTS: usize = 5;

/// One item of a plan. Every step is idempotent and re-observed; the executor takes no decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "step")]
pub enum Step {
    /// Restarts the receiver threads of these replicas, in parallel, and watches for a moment whether any of them
    /// reaches the old primary again. The old primary is connected to at the same time. `Done` on a replica means
    /// that it did not reach it.
    ReconnectTest {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
        /// All replicas that report that they receive from it.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Makes the old primary read-only, if it answers, and ends its client sessions. No answer is no failure.
    Fence {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Makes the current primary read-only because of a manual request: running transactions get time to end, then
    /// client sessions are ended. Nothing else is changed, so semi-sync acknowledgements continue.
    Demote {
        /// The current primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Stops the receiver threads of these replicas, in parallel. After it the choice is made again on fresh facts.
    #[serde(rename = "freeze")]
    StopReceivers {
        /// All reachable descendants that take part.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Gives the successor what another replica received and it did not: points it at that replica, waits until it
    /// has everything, and stops it again. Undone by pointing it back.
    #[serde(rename = "feed")]
    CatchUp {
        /// The successor.
        successor: InstanceKey,
        /// The replica that received more.
        from: InstanceKey,
    },
    /// Waits until the successor has applied everything that it received.
    Drain {
        /// The successor.
        successor: InstanceKey,
    },
    /// Connects to the old primary once more, just before the opening: if it is back with everything, the recovery aborts.
    Redial {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Runs the commands that fence servers from outside (`FencingProcesses`), where nothing else proves that the old
    /// primary takes no writes. It may run more than once.
    CallFencer {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Makes the successor a writable primary. The Open entry is committed before it; after it the recovery only goes
    /// forward.
    Open {
        /// The successor.
        successor: InstanceKey,
    },
    /// Commits empty transactions under these GTIDs on the primary, as far as it lacks them.
    InjectEmpty {
        /// The primary.
        primary: InstanceKey,
        /// The GTIDs.
        set: GtidSet,
    },
    /// Removes the binary logs and GTIDs of a server, and sets what it has executed to this set.
    ResetGtids {
        /// The server, which is not a primary.
        instance: InstanceKey,
        /// What it has executed, without its errant transactions.
        keep: GtidSet,
    },
    /// Points these replicas at the successor, or at another source, in parallel.
    Repoint {
        /// Their source from now on.
        successor: InstanceKey,
        /// All replicas that follow it.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Makes the next start of these servers read-only, in parallel; the running servers stay as they are.
    PersistReadOnly {
        /// All servers that would start writable.
        servers: BTreeSet<InstanceKey>,
    },
    /// Checks that a primary is read-only since its last start and by its own settings. A statement that set it is a
    /// decision of an operator, and stays.
    CheckBoot {
        /// The primary.
        primary: InstanceKey,
    },
    /// Waits until each of these has applied everything that it received, judged without GTIDs, in parallel.
    ApplyAll {
        /// The successor and all replicas that will follow it.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Finds in the successor's logs where replicas that are behind it continue in its binary log. Read only.
    Locate {
        /// The successor.
        successor: InstanceKey,
        /// The replicas that are behind; the executor adds what it found.
        replicas: BTreeMap<InstanceKey, EquivalentPosition>,
    },
    /// Finds by Pseudo-GTID where replicas continue in the successor's binary log, if positions do not show it: their
    /// logs are compared with the successor's. Read only.
    Match {
        /// The successor.
        successor: InstanceKey,
        /// The replicas that are behind; the executor adds what it found.
        replicas: BTreeMap<InstanceKey, EquivalentPosition>,
    },
    /// Points these replicas at positions in the successor's binary log, in parallel.
    RepointAt {
        /// The successor.
        successor: InstanceKey,
        /// Where each replica continues; `None` is by GTID.
        replicas: BTreeMap<InstanceKey, Option<BinlogCoordinates>>,
    },
    /// Starts both threads of replicas that were stopped to be moved and keep their source.
    GoOn {
        /// The replicas.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Makes replicas acknowledge commits of their source (semi-sync), or not, in parallel.
    Acknowledge {
        /// All replicas that are switched.
        replicas: BTreeSet<InstanceKey>,
        /// On or off.
        on: bool,
    },
    /// Makes commits of these servers wait for acknowledgements of any replicas without a practical timeout, or not
    /// wait at all.
    SetSemiSyncSource {
        /// The servers, in parallel.
        servers: BTreeSet<InstanceKey>,
        /// How they wait.
        terms: SourceTerms,
    },
    /// Has replicas that acknowledge connect by position once, so that their source counts everything that they
    /// received before as acknowledged: a transaction that reached a replica before it acknowledged is never
    /// acknowledged by itself, and by GTID a source counts nothing as received when a replica connects.
    AcknowledgeReceived {
        /// All replicas that may do it, not all at once.
        replicas: BTreeSet<InstanceKey>,
    },
    /// Enables events that were enabled on the old primary and arrived disabled on the new one. Whatever becomes of it, the
    /// recovery goes on. Determined by what was done, and in no plan.
    EnableEvents {
        /// The new primary.
        successor: InstanceKey,
        /// The events.
        events: BTreeSet<ScheduledEvent>,
    },
    /// Makes a read-only primary writable. It stays the primary: no Open entry, and no server is quarantined.
    MakeWritable {
        /// The primary.
        primary: InstanceKey,
    },
}

/// A position in the log of a dead source, and the equivalent position in its successor's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EquivalentPosition {
    /// In the log of the dead source: everything up to here was applied.
    pub after: BinlogCoordinates,
    /// In the successor's log, once it was found.
    #[serde(default)]
    pub found: Option<BinlogCoordinates>,
}

impl Step {
    /// The source that this step sets, and the replicas that get it; `None` for a step that sets no source.
    pub fn new_source(&self) -> Option<(&InstanceKey, BTreeSet<&InstanceKey>)> {
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
        let keys = |replicas: &BTreeMap<InstanceKey, EquivalentPosition>| list(&replicas.keys().cloned().collect());
        match self {
            Self::ReconnectTest { old_primary, replicas } => {
                format!("test whether {} can reach {old_primary} again", list(replicas))
            }
            Self::Fence { old_primary } => {
                format!("fence {old_primary}: set super_read_only and end client sessions, if it answers")
            }
            Self::Demote { old_primary } => {
                format!("demote {old_primary}: wait for running transactions, set super_read_only, end client sessions")
            }
            Self::StopReceivers { replicas } => format!("stop receivers on {}", list(replicas)),
            Self::CatchUp { successor, from } => {
                format!("catch up: {successor} receives from {from} what it lacks")
            }
            Self::Drain { successor } => format!("drain: {successor} applies everything that it received"),
            Self::Redial { old_primary } => format!("reconnect to {old_primary}: check whether it is back"),
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
                "reset GTIDs of {instance}: remove its binary logs, set gtid_purged to {}",
                excerpt(keep)
            ),
            Self::PersistReadOnly { servers } => {
                format!("persist super_read_only for the next start of {}", list(servers))
            }
            Self::CheckBoot { primary } => format!("check that {primary} is read-only since its start"),
            Self::Repoint { successor, replicas } => format!("repoint {} to {successor}", list(replicas)),
            Self::ApplyAll { replicas } => format!("drain: {} apply everything that they received", list(replicas)),
            Self::Locate { successor, replicas } => {
                format!("find in the logs of {successor} where {} continue", keys(replicas))
            }
            Self::Match { successor, replicas } => {
                format!(
                    "match the logs of {} with those of {successor} by Pseudo-GTID",
                    keys(replicas)
                )
            }
            Self::RepointAt { successor, replicas } => {
                format!(
                    "repoint {} to {successor}, by position",
                    list(&replicas.keys().cloned().collect())
                )
            }
            Self::GoOn { replicas } => format!("start replication below the same source: {}", list(replicas)),
            Self::Acknowledge { replicas, on: true } => format!("semi-sync on: {}", list(replicas)),
            Self::Acknowledge { replicas, on: false } => format!("semi-sync off: {}", list(replicas)),
            Self::SetSemiSyncSource { servers, terms } => format!("{terms}: {}", list(servers)),
            Self::AcknowledgeReceived { replicas } => {
                format!("semi-sync: {} acknowledge what they received before", list(replicas))
            }
            Self::EnableEvents { successor, events } => {
                let named: Vec<String> = events.iter().take(NAMED_EVENTS).map(ToString::to_string).collect();
                let more = match events.len() - named.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("enable on {successor} the events {}{more}", named.join(", "))
            }
            Self::MakeWritable { primary } => format!("make {primary} writable"),
        }
    }
}
