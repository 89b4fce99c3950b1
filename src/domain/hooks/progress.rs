//! Pending and finished lists of hooks of a recovery or a detection. They are replicated, so that no hook is lost with
//! a leader.

use serde::{Deserialize, Serialize};

use crate::domain::state::Epoch;
use crate::domain::time::WallTime;

use super::HookList;

/// What commands run for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "of")]
pub enum HookSubject {
    /// A recovery.
    #[serde(rename_all = "camelCase")]
    Recovery {
        /// Id of the recovery.
        uid: String,
        /// Epoch of the claim. While the recovery is running it must be the current one.
        epoch: Epoch,
    },
    /// A detection that was not followed by a recovery at once.
    #[serde(rename_all = "camelCase")]
    Detection {
        /// Number of the detection.
        id: u64,
    },
}

/// A pending list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingHookList {
    /// The list.
    pub list: HookList,
    /// Number of started attempts. A pending list with attempts was interrupted.
    #[serde(default)]
    pub attempts: u32,
}

/// A list that ran to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookRun {
    /// The list.
    pub list: HookList,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: WallTime,
    /// Why it failed; `None` when all its commands succeeded.
    #[serde(default)]
    pub failure: Option<String>,
}

/// The lists of one recovery or detection. Each list is in it at most once, as pending or as finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HookProgress {
    /// Pending lists, in this order.
    pub due: Vec<PendingHookList>,
    /// Finished lists, in the order of their ends.
    pub runs: Vec<HookRun>,
}

impl HookProgress {
    /// Progress with these pending lists.
    pub fn of(lists: &[HookList]) -> Self {
        let mut progress = Self::default();
        progress.add(lists);
        progress
    }

    /// Adds pending lists, except those that are pending or finished already.
    pub fn add(&mut self, lists: &[HookList]) {
        for list in lists {
            if !self.contains(*list) {
                self.due.push(PendingHookList {
                    list: *list,
                    attempts: 0,
                });
            }
        }
    }

    /// Drops the pending lists of the time before the end of the recovery, and adds these.
    pub fn replace_pending(&mut self, lists: &[HookList]) {
        self.due.clear();
        self.add(lists);
    }

    /// Whether the list is pending or finished.
    pub fn contains(&self, list: HookList) -> bool {
        self.due.iter().any(|due| due.list == list) || self.runs.iter().any(|run| run.list == list)
    }

    /// The next pending list of those that run one after the other: all except the list of the detection, which runs beside them and
    /// which nothing waits for.
    pub fn next_in_order(&self) -> Option<HookList> {
        let mut lists = self.due.iter().map(|due| due.list);
        lists.find(|list| *list != HookList::OnFailureDetection)
    }

    /// Whether the list of the detection is pending.
    pub fn is_detection_due(&self) -> bool {
        self.due.iter().any(|due| due.list == HookList::OnFailureDetection)
    }

    /// Records the start of a list. Returns the number of the attempt, from 1, or `None` when the list is not pending.
    pub fn begin(&mut self, list: HookList) -> Option<u32> {
        let due = self.due.iter_mut().find(|due| due.list == list)?;
        due.attempts = due.attempts.saturating_add(1);
        Some(due.attempts)
    }

    /// Records the end of a list. Returns whether the list was pending.
    pub fn finish(&mut self, run: HookRun) -> bool {
        let before = self.due.len();
        self.due.retain(|due| due.list != run.list);
        let was_due = self.due.len() != before;
        if was_due {
            self.runs.push(run);
        }
        was_due
    }

    /// The run that vetoed the recovery, if one did.
    pub fn veto(&self) -> Option<&HookRun> {
        self.runs
            .iter()
            .find(|run| run.list.may_veto() && run.failure.is_some())
    }
}
