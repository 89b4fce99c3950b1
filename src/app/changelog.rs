//! How the analysis of each instance changed, as this member saw it: in memory, bounded, gone with the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::finding::{Code, Finding};
use crate::domain::key::InstanceKey;
use crate::domain::time::Wall;

/// Changes kept of one instance.
const MOST_CHANGES: usize = 100;
/// Instances that are kept; beyond, those are dropped whose last change is the oldest.
const MOST_INSTANCES: usize = 10_000;

/// An instance's code from some moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnalysisChange {
    /// Since when.
    pub at: Wall,
    /// The code.
    pub code: Code,
}

/// The changes of all instances.
#[derive(Debug, Default)]
pub struct AnalysisLog {
    changes: Mutex<BTreeMap<InstanceKey, VecDeque<AnalysisChange>>>,
}

impl AnalysisLog {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceKey, VecDeque<AnalysisChange>>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was found about these instances; of several findings of one the first counts, and none is [`Code::NoProblem`].
    pub fn note<'a>(&self, instances: impl IntoIterator<Item = &'a InstanceKey>, findings: &[Finding], at: Wall) {
        let mut codes: BTreeMap<&InstanceKey, Code> = instances
            .into_iter()
            .map(|instance| (instance, Code::NoProblem))
            .collect();
        let mut told = BTreeSet::new();
        for finding in findings {
            if told.insert(&finding.instance) {
                codes.insert(&finding.instance, finding.code);
            }
        }
        let mut changes = self.lock();
        for (instance, code) in codes {
            let present = changes.get(instance).and_then(|list| list.back()).map(|last| last.code);
            if present == Some(code) {
                continue;
            }
            let list = changes.entry(instance.clone()).or_default();
            list.push_back(AnalysisChange { at, code });
            if list.len() > MOST_CHANGES {
                list.pop_front();
            }
        }
        while changes.len() > MOST_INSTANCES {
            let oldest = changes
                .iter()
                .min_by_key(|(_, list)| list.back().map(|last| last.at))
                .map(|(instance, _)| instance.clone());
            let Some(oldest) = oldest else { break };
            changes.remove(&oldest);
        }
    }

    /// All changes, by instance, the oldest first.
    pub fn all(&self) -> Vec<(InstanceKey, Vec<AnalysisChange>)> {
        self.lock()
            .iter()
            .map(|(instance, list)| (instance.clone(), list.iter().copied().collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{NOW, key};
    use crate::domain::state::sample;

    fn found(code: Code) -> Vec<Finding> {
        vec![Finding {
            code,
            ..sample::finding(1, 1)
        }]
    }

    fn codes(log: &AnalysisLog, n: u32) -> Vec<Code> {
        let all = log.all();
        let list = all.iter().find(|(instance, _)| *instance == key(n));
        list.map(|(_, list)| list.iter().map(|change| change.code).collect())
            .unwrap_or_default()
    }

    #[test]
    fn only_what_differs_from_the_last_entry_is_written() {
        let log = AnalysisLog::default();
        let instances = [key(1), key(2)];
        log.note(&instances, &[], NOW);
        log.note(&instances, &found(Code::DeadMaster), NOW.plus_millis(1));
        log.note(&instances, &found(Code::DeadMaster), NOW.plus_millis(2));
        let both = [found(Code::UnreachableMaster), found(Code::UnsafeSettings)].concat();
        log.note(&instances, &both, NOW.plus_millis(3));
        log.note(&instances, &[], NOW.plus_millis(4));
        assert_eq!(
            codes(&log, 1),
            [
                Code::NoProblem,
                Code::DeadMaster,
                Code::UnreachableMaster,
                Code::NoProblem
            ]
        );
        assert_eq!(codes(&log, 2), [Code::NoProblem]);
        assert_eq!(log.all()[0].1[1].at, NOW.plus_millis(1));
    }

    #[test]
    fn the_oldest_changes_of_an_instance_make_room() {
        let log = AnalysisLog::default();
        for turn in 0..i64::try_from(MOST_CHANGES).unwrap() {
            log.note(&[key(1)], &found(Code::DeadMaster), NOW.plus_millis(2 * turn));
            log.note(&[key(1)], &[], NOW.plus_millis(2 * turn + 1));
        }
        let all = log.all();
        assert_eq!(all[0].1.len(), MOST_CHANGES);
        assert_eq!(all[0].1[0].at, NOW.plus_millis(i64::try_from(MOST_CHANGES).unwrap()));
    }
}
