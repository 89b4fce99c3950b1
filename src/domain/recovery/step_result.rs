//! What became of a step, as the executor reports it to [`super::progress`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::key::InstanceKey;
use crate::domain::recovery::step::Step;

/// The outcome of a step on one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The server confirmed it.
    Done,
    /// The server was not reached: nothing was done.
    NoAnswer(String),
    /// The server answered, and refused or was too slow: it is alive, and the step was not done.
    Failed(String),
    /// The connection broke or the deadline passed in the middle: done or not.
    Unknown(String),
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepResult {
    /// The step, as [`NextAction::Run`](super::next_action::NextAction::Run) gave it.
    pub step: Step,
    /// By server; one for each that the step names.
    pub outcomes: BTreeMap<InstanceKey, Outcome>,
}

impl Outcome {
    /// Why it was not done; `done` when it was.
    pub fn detail(&self) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::NoAnswer(why) | Self::Failed(why) | Self::Unknown(why) => why.clone(),
        }
    }
}
