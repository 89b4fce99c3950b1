//! What is still to be run for a recovery or a detection, and what was: replicated, so that no hook is lost with a leader.

use serde::{Deserialize, Serialize};

use crate::domain::state::Epoch;
use crate::domain::time::WallTime;

use super::HookList;

/// What commands are run for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "of")]
pub enum HookSubject {
    /// A recovery.
    #[serde(rename_all = "camelCase")]
    Recovery {
        /// Which.
        uid: String,
        /// The claim's epoch. While the recovery is not over it must be the current one.
        epoch: Epoch,
    },
    /// A detection that no recovery followed at once.
    #[serde(rename_all = "camelCase")]
    Detection {
        /// Which.
        id: u64,
    },
}

/// A list that is still to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DueList {
    /// Which.
    pub list: HookList,
    /// How often it was begun. More than none, and not done: whoever began it did not get to its end.
    #[serde(default)]
    pub attempts: u32,
}

/// A list that was run to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookRun {
    /// Which.
    pub list: HookList,
    /// Which attempt it was, from 1.
    pub attempt: u32,
    /// When it ended.
    pub at: WallTime,
    /// Why it failed; `None` when all its commands succeeded.
    #[serde(default)]
    pub failure: Option<String>,
}

/// The lists of one recovery or detection: each is in it at most once, as due or as run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HookLedger {
    /// Still to be run, in this order.
    pub due: Vec<DueList>,
    /// Run, in the order of their ends.
    pub runs: Vec<HookRun>,
}

impl HookLedger {
    /// A ledger with these lists to be run.
    pub fn of(lists: &[HookList]) -> Self {
        let mut ledger = Self::default();
        ledger.add(lists);
        ledger
    }

    /// These are to be run as well, unless they are or were already.
    pub fn add(&mut self, lists: &[HookList]) {
        for list in lists {
            if !self.concerns(*list) {
                self.due.push(DueList {
                    list: *list,
                    attempts: 0,
                });
            }
        }
    }

    /// Nothing is left of the time before the end: only these are to be run from now on.
    pub fn close_with(&mut self, lists: &[HookList]) {
        self.due.clear();
        self.add(lists);
    }

    /// The list is due, or was run.
    pub fn concerns(&self, list: HookList) -> bool {
        self.due.iter().any(|due| due.list == list) || self.runs.iter().any(|run| run.list == list)
    }

    /// What is to be run next.
    pub fn next_due(&self) -> Option<HookList> {
        self.due.first().map(|due| due.list)
    }

    /// Notes that a list is begun; returns the number of the attempt, from 1, or `None` when it is not due.
    pub fn begin(&mut self, list: HookList) -> Option<u32> {
        let due = self.due.iter_mut().find(|due| due.list == list)?;
        due.attempts = due.attempts.saturating_add(1);
        Some(due.attempts)
    }

    /// Notes that a list was run to its end; whether it was due.
    pub fn finish(&mut self, run: HookRun) -> bool {
        let before = self.due.len();
        self.due.retain(|due| due.list != run.list);
        let was_due = self.due.len() != before;
        if was_due {
            self.runs.push(run);
        }
        was_due
    }

    /// The run that stopped the recovery, if one did.
    pub fn veto(&self) -> Option<&HookRun> {
        self.runs
            .iter()
            .find(|run| run.list.may_veto() && run.failure.is_some())
    }
}
