//! What a person or a document requested: the command that a plan follows, and the terms on which it is carried out.

use serde::{Deserialize, Serialize};

use crate::domain::policy::{LossPolicy, Policy};

/// What a person or a document requested, where a plan does not follow a finding alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent option of the command"
)]
pub struct ManualRequest {
    /// The command as clients write it, for example `graceful-master-takeover`. Hooks and records use this name.
    pub command: String,
    /// The plan's successor was named: it is promoted, or no server is.
    pub designated: bool,
    /// The primary counts as dead although it may answer. It is fenced first: it confirms that it is read-only, or it
    /// does not answer. A loss that is not known is accepted, and a known one unless `lossPolicy` is set and forbids it.
    pub forced: bool,
    /// After a takeover the old primary replicates. Otherwise it is pointed at the new one and left stopped, as
    /// orchestrator does without `-auto`.
    pub starts_old_primary: bool,
    /// No hooks are run.
    pub skips_hooks: bool,
    /// The request of a document, by its key in the state: its claim is granted once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The largest lag of the successor, and how long it may take to catch up, seconds; `None` is the policy's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,
    /// Any loss is accepted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accepts_loss: bool,
}

impl ManualRequest {
    /// A policy on the terms of the request.
    #[must_use]
    pub fn terms(&self, mut policy: Policy) -> Policy {
        if let Some(seconds) = self.lag_seconds {
            policy.takeover.lag_seconds = seconds;
        }
        if self.accepts_loss || (self.forced && policy.loss == LossPolicy::Auto) {
            policy.loss = LossPolicy::Allow;
        }
        policy.accepts_unknown_loss |= self.accepts_loss || self.forced;
        policy
    }
}
