//! Restores the previous state when a recovery is aborted.

use std::collections::BTreeMap;

use crate::app::recovery::steps::StepEffect;
use crate::domain::recovery::kind::RecoveryKind;
use crate::domain::recovery::next_action::Undo;
use crate::domain::recovery::progress::{self};
use crate::domain::state::Recovery;

use super::{
    Interrupted, RETRY_PAUSE, RecoveryRunner, describe_effects, effects_or_same_for_each, same_effect_for_each,
    unconfirmed_reason,
};

/// How often an undo is tried before it is recorded as not done.
const UNDO_TRIES: u32 = 3;

impl RecoveryRunner<'_> {
    /// Undoes each item, with a few attempts. Returns what could not be undone, and whether the old primary is still
    /// closed. That server is made writable when it returns and no rule forbids it.
    pub(super) async fn undo_all(&mut self, undo: Vec<Undo>) -> Result<(Vec<String>, bool), Interrupted> {
        let is_move = self
            .recovery()
            .is_some_and(|it| it.plan.kind == RecoveryKind::MatchBelow);
        let mut waiting = undo;
        let mut failed = Vec::new();
        for round in 1..=UNDO_TRIES {
            if round > 1 {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            failed.clear();
            for item in std::mem::take(&mut waiting) {
                let effects = match &item {
                    Undo::Reopen { old_primary } => {
                        let events = self.recovery().and_then(|recovery| recovery.plan.events);
                        let events = events.map(|events| events.names).unwrap_or_default();
                        let effect = self.step_executor.make_writable_again(old_primary, &events).await;
                        BTreeMap::from([(old_primary.clone(), effect)])
                    }
                    Undo::StartReceivers { replicas } if is_move => self
                        .step_executor
                        .start_replication(replicas)
                        .await
                        .unwrap_or_else(|effect| same_effect_for_each(replicas, &effect)),
                    Undo::RepointBack {
                        replica,
                        source,
                        starts,
                    } => BTreeMap::from([(
                        replica.clone(),
                        self.step_executor.point_back(replica, source, *starts).await,
                    )]),
                    Undo::Delay { replica, seconds } => {
                        let only = BTreeMap::from([(replica.clone(), *seconds)]);
                        let effects = self.step_executor.set_delays(&only).await;
                        effects.unwrap_or_else(|effect| BTreeMap::from([(replica.clone(), effect)]))
                    }
                    Undo::StartReceivers { replicas } => self
                        .step_executor
                        .start_receivers(replicas)
                        .await
                        .unwrap_or_else(|effect| same_effect_for_each(replicas, &effect)),
                };
                if let Some(why) = unconfirmed_reason(&effects) {
                    return Err(Interrupted::Unconfirmed(why));
                }
                self.log(format!("{}: {}", item.describe(), describe_effects(&effects)));
                let mut not_done = effects;
                not_done.retain(|_, effect| !matches!(effect, StepEffect::Done(_)));
                if not_done.is_empty() {
                    continue;
                }
                failed.push(format!("not undone: {}", describe_effects(&not_done)));
                waiting.push(match item {
                    Undo::StartReceivers { .. } => Undo::StartReceivers {
                        replicas: not_done.into_keys().collect(),
                    },
                    whole @ (Undo::Reopen { .. } | Undo::RepointBack { .. } | Undo::Delay { .. }) => whole,
                });
            }
            if waiting.is_empty() {
                break;
            }
        }
        let owes_opening = waiting.iter().any(|item| matches!(item, Undo::Reopen { .. }));
        Ok((failed, owes_opening))
    }

    /// Starts replicas again that a repair had stopped which gave way to this recovery. Replicas of the old primary
    /// or of the successor are handled by the recovery itself. Returns what was not done.
    pub(super) async fn restart_stopped_replicas(&mut self, recovery: &Recovery) -> Result<Vec<String>, Interrupted> {
        let view = self.views.cluster(&self.token.cluster);
        let Some(view) = view.filter(|_| !recovery.owed.is_empty()) else {
            return Ok(Vec::new());
        };
        let fresh = self.step_executor.refresh(&view.topology).await;
        let due = progress::still_stopped(&recovery.plan, &recovery.owed, &fresh);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let effects = effects_or_same_for_each(self.step_executor.start_replication(&due).await, &due);
        if let Some(why) = unconfirmed_reason(&effects) {
            return Err(Interrupted::Unconfirmed(why));
        }
        self.log(format!(
            "restarting replicas that a repair had stopped before it gave way: {}",
            describe_effects(&effects)
        ));
        let not_done = effects
            .iter()
            .filter(|(_, effect)| !matches!(effect, StepEffect::Done(_)));
        Ok(not_done
            .map(|(key, _)| format!("{key} was stopped by a repair that gave way, and was not restarted"))
            .collect())
    }
}
