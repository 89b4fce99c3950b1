//! What [`super::progress`] has the executor do next.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::fencing_proof::FencingProof;
use crate::domain::recovery::plan::Plan;
use crate::domain::recovery::refusal::Refusal;
use crate::domain::recovery::step::Step;

/// What the executor does now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a recovery that stops half-way leaves replicas stopped"]
pub enum NextAction {
    /// Runs this step, reads the servers again, and calls [`super::progress::next`] again.
    Run(Step),
    /// Commits the Open entry with this plan, successor and position, then calls [`super::progress::next`] again with
    /// [`Phase::Opened`](crate::domain::state::Phase::Opened).
    CommitOpen {
        /// As chosen again after the receivers were stopped.
        plan: Box<Plan>,
        /// The successor.
        successor: InstanceKey,
        /// It holds at least this.
        position: GtidSet,
        /// Which proof allows it.
        fencing_proof: FencingProof,
    },
    /// Commits the End entry.
    Finish(Finish),
    /// Undoes what was done, each item confirmed like a step, and commits an unsuccessful End entry.
    Abort {
        /// Why, for the record.
        reason: String,
        /// In this order.
        undo: Vec<Undo>,
    },
    /// Nothing: the recovery has ended.
    AlreadyEnded,
}

/// The end of a recovery that did not abort.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// It reached its goal.
    pub successful: bool,
    /// The new primary, if one was opened.
    pub successor: Option<(InstanceKey, Identity)>,
    /// Replicas left behind.
    pub lost_replicas: Vec<Refusal>,
    /// What is known to be lost.
    pub lost: Option<GtidSet>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// What restores the state that a server had before the recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "undo")]
pub enum Undo {
    /// Makes the old primary writable again: it was fenced, and it stays primary.
    Reopen {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Points a replica that caught up from another one back at its own source.
    #[serde(rename = "pointBack")]
    RepointBack {
        /// The replica.
        replica: InstanceKey,
        /// Its source before the recovery.
        source: InstanceKey,
        /// Whether its receiver is started; it may have been stopped before the recovery.
        starts: bool,
    },
    /// Sets the delay of a replica again that had to apply at once.
    Delay {
        /// The replica.
        replica: InstanceKey,
        /// As long as before the recovery, seconds.
        seconds: u64,
    },
    /// Starts the receiver threads of these replicas again, in parallel.
    #[serde(rename = "startReceiving")]
    StartReceivers {
        /// All replicas that stopped, or may have stopped, their receivers.
        replicas: BTreeSet<InstanceKey>,
    },
}

impl Undo {
    /// One line for the record of a recovery.
    pub fn describe(&self) -> String {
        match self {
            Self::Reopen { old_primary } => format!("undo: make {old_primary} writable again"),
            Self::RepointBack {
                replica,
                source,
                starts: true,
            } => format!("undo: point {replica} back at {source}"),
            Self::RepointBack { replica, source, .. } => {
                format!("undo: point {replica} back at {source}, with its receiver stopped as before")
            }
            Self::Delay { replica, seconds } => format!("undo: set the delay of {replica} to {seconds} s"),
            Self::StartReceivers { replicas } => {
                let list = replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("undo: start receivers on {list}")
            }
        }
    }
}
