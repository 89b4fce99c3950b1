//! What passes between the executor and [`super::progress`]: what became of a step, and what comes next.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::Identity;
use crate::domain::key::InstanceKey;

use super::fencing_proof::FencingProof;
use super::plan::{Plan, Refusal, Step};

/// What became of a step on one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The server confirmed it.
    Done,
    /// The server was not reached: nothing was done.
    NoAnswer(String),
    /// The server answered, and refused or was too slow: it lives, and it was not done.
    Failed(String),
    /// The connection broke or the deadline passed in the middle: done or not.
    Unknown(String),
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepResult {
    /// Which, as [`Next::Run`] gave it.
    pub step: Step,
    /// By server; one for each that the step names.
    pub outcomes: BTreeMap<InstanceKey, Outcome>,
}

/// What puts a server back to where it was before the recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "undo")]
pub enum Undo {
    /// Makes the old primary writable again: it was fenced, and it stays primary.
    Reopen {
        /// The old primary.
        #[serde(rename = "victim")]
        old_primary: InstanceKey,
    },
    /// Points a replica that was fed back at its own source.
    PointBack {
        /// The replica.
        replica: InstanceKey,
        /// Its source before the recovery.
        source: InstanceKey,
        /// Whether it receives again; somebody may have stopped it before.
        starts: bool,
    },
    /// Lets a replica that had to apply at once wait on purpose again.
    Delay {
        /// The replica.
        replica: InstanceKey,
        /// As long as before the recovery, seconds.
        seconds: u64,
    },
    /// Starts the receiving threads of these replicas again, in parallel.
    StartReceiving {
        /// All that were, or may have been, frozen.
        replicas: BTreeSet<InstanceKey>,
    },
}

/// What the executor does now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a recovery that stops half-way leaves replicas stopped"]
pub enum Next {
    /// Runs this step, re-observes, and asks again.
    Run(Step),
    /// Commits the Open entry with this plan, successor and position, then asks again with [`Phase::Opened`](crate::domain::state::Phase::Opened).
    CommitOpen {
        /// As chosen again after the freeze.
        plan: Box<Plan>,
        /// Who.
        successor: InstanceKey,
        /// With at least this.
        position: GtidSet,
        /// Which proof allows it.
        fencing_proof: FencingProof,
    },
    /// Commits the End entry.
    Finish(Finish),
    /// Puts things back, each item confirmed like a step, and commits an unsuccessful End entry.
    Abort {
        /// Why, for the record.
        reason: String,
        /// In this order.
        undo: Vec<Undo>,
    },
    /// Nothing: the recovery has ended.
    Over,
}

/// How a recovery ends once it went all the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    /// It did what it was for.
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

// === impl Outcome ===

impl Outcome {
    /// Why it was not done; `done` when it was.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::NoAnswer(why) | Self::Failed(why) | Self::Unknown(why) => why.clone(),
        }
    }
}

// === impl Undo ===

impl Undo {
    /// One line for the record of a recovery.
    pub fn describe(&self) -> String {
        match self {
            Self::Reopen { old_primary } => format!("undo: make {old_primary} writable again"),
            Self::PointBack {
                replica,
                source,
                starts: true,
            } => format!("undo: point {replica} back at {source}"),
            Self::PointBack { replica, source, .. } => {
                format!("undo: point {replica} back at {source}, its receiving thread stopped as it was")
            }
            Self::Delay { replica, seconds } => format!("undo: {replica} delays by {seconds} s"),
            Self::StartReceiving { replicas } => {
                let list = replicas.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("undo: start receiving on {list}")
            }
        }
    }
}
