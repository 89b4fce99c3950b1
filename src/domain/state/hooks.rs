//! Hooks in the replicated state: the start of a list is recorded before it runs, and its result afterwards.

use std::collections::BTreeSet;

use crate::domain::hooks::{HookList, HookProgress, HookRun, HookSubject};

use super::apply::Change;
use super::bounds::add_errors;
use super::claims::record;
use super::command::{Applied, RefusedCommand};
use super::record::{State, StepRecord};

/// The hook progress of a recovery or detection. A running recovery belongs to the holder of its latest epoch.
fn progress<'a>(state: &'a mut State, subject: &HookSubject) -> Result<(&'a mut HookProgress, Change), RefusedCommand> {
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
    let (progress, change) = progress(state, subject)?;
    let attempt = progress
        .begin(list)
        .ok_or_else(|| RefusedCommand::Unknown(format!("a pending run of {list}")))?;
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
    let (progress, change) = progress(state, subject)?;
    if !progress.finish(run.clone()) {
        return Ok(());
    }
    changes.insert(change);
    let HookSubject::Recovery { uid, .. } = subject else {
        return Ok(());
    };
    record(state, uid, lines, changes);
    // A failed list after the end does not undo a recovery, and the failure must be visible. A veto is among the errors
    // of the ending, and the list of a detection says nothing about the recovery.
    if let Some(why) = run.failure.as_ref().filter(|_| run.list.follows_recovery())
        && let Some(recovery) = state.recoveries.get_mut(uid)
    {
        add_errors(recovery, [why.clone()]);
    }
    Ok(())
}
