//! Hooks in the replicated state: who begins a list says so first, and says how it ended.

use std::collections::BTreeSet;

use crate::domain::hooks::{HookLedger, HookList, HookRun, HookSubject};

use super::apply::Change;
use super::bounds::add_errors;
use super::claims::record;
use super::command::{Applied, RefusedCommand};
use super::record::{State, StepRecord};

/// The ledger of what hooks are run for. A recovery that is not over belongs to the holder of its latest epoch.
fn ledger<'a>(state: &'a mut State, subject: &HookSubject) -> Result<(&'a mut HookLedger, Change), RefusedCommand> {
    match subject {
        HookSubject::Recovery { uid, epoch } => {
            let recovery = state
                .recoveries
                .get_mut(uid)
                .ok_or_else(|| RefusedCommand::Unknown(format!("recovery {uid}")))?;
            if recovery.is_active() && recovery.epoch != *epoch {
                return Err(RefusedCommand::StaleClaim(uid.clone()));
            }
            Ok((&mut recovery.hooks, Change::Recovery(uid.clone())))
        }
        HookSubject::Detection { id } => {
            let detection = state
                .detections
                .get_mut(id)
                .ok_or_else(|| RefusedCommand::Unknown(format!("detection {id}")))?;
            Ok((&mut detection.hooks, Change::Detection(*id)))
        }
    }
}

pub(super) fn begin(
    state: &mut State,
    subject: &HookSubject,
    list: HookList,
    changes: &mut BTreeSet<Change>,
) -> Result<Applied, RefusedCommand> {
    let (ledger, change) = ledger(state, subject)?;
    let attempt = ledger
        .begin(list)
        .ok_or_else(|| RefusedCommand::Unknown(format!("a run of {list} that is due")))?;
    changes.insert(change);
    Ok(Applied::Number {
        number: u64::from(attempt),
    })
}

pub(super) fn ran(
    state: &mut State,
    subject: &HookSubject,
    run: &HookRun,
    lines: &[StepRecord],
    changes: &mut BTreeSet<Change>,
) -> Result<(), RefusedCommand> {
    let (ledger, change) = ledger(state, subject)?;
    if !ledger.finish(run.clone()) {
        return Ok(());
    }
    changes.insert(change);
    let HookSubject::Recovery { uid, .. } = subject else {
        return Ok(());
    };
    record(state, uid, lines, changes);
    // What is told afterwards does not undo a recovery, and its failure must be seen. A veto stands among the errors of the ending.
    if let Some(why) = run.failure.as_ref().filter(|_| !run.list.may_veto())
        && let Some(recovery) = state.recoveries.get_mut(uid)
    {
        add_errors(recovery, [why.clone()]);
    }
    Ok(())
}
