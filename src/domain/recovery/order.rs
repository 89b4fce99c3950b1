//! What a person, or a document, asked for: on whose word a plan was made, and on which terms it is carried out.

use serde::{Deserialize, Serialize};

use crate::domain::policy::{LossPolicy, Policy};

/// What a person asked for, where it is not a finding alone that called for a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a word of the command, independent of the others"
)]
pub struct Order {
    /// The command as clients write it, `graceful-master-takeover`: what hooks and records call it.
    pub command: String,
    /// The plan's successor was named: it is promoted, or nobody is.
    pub designated: bool,
    /// The primary counts as dead although it may answer. It is fenced first: read-only by its own word, or it does not answer.
    pub forced: bool,
    /// After a takeover the old primary replicates; otherwise it is pointed at the new one and left stopped, as orchestrator does
    /// unless it is asked for `-auto`.
    pub starts_old_primary: bool,
    /// No hooks are run.
    pub skips_hooks: bool,
    /// The request of a document that it is for, by its key in the state: the claim is granted once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// How far behind the one that takes over may be, and how long it may take to catch up, seconds; `None`: as the policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,
    /// Whatever would be lost may be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accepts_loss: bool,
}

impl Order {
    /// A policy on the terms of the order.
    #[must_use]
    pub fn terms(&self, mut policy: Policy) -> Policy {
        if let Some(seconds) = self.lag_seconds {
            policy.takeover.lag_seconds = seconds;
        }
        if self.accepts_loss {
            policy.loss = LossPolicy::Allow;
        }
        policy
    }
}
