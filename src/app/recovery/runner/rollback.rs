//! What a drive does when nothing comes of a recovery: everything as it was.

use std::collections::BTreeMap;

use crate::app::recovery::steps::Effect;
use crate::domain::recovery::plan::RecoveryKind;
use crate::domain::recovery::progress::{self, Undo};
use crate::domain::state::Recovery;

use super::{RecoveryRunner, Stopped, TRY_AGAIN_PAUSE, or_all, tell, to_all, unconfirmed};

/// How often something is put back before it is given up and recorded as not undone.
const UNDO_TRIES: u32 = 3;

impl RecoveryRunner<'_> {
    /// Puts things back, each a few times. Returns what could not be, and whether the opening of the old primary is among it: that one
    /// is then made writable when it is back and nothing speaks against it.
    pub(super) async fn put_back(&mut self, undo: Vec<Undo>) -> Result<(Vec<String>, bool), Stopped> {
        let is_move = self
            .recovery()
            .is_some_and(|it| it.plan.kind == RecoveryKind::MatchBelow);
        let mut waiting = undo;
        let mut failed = Vec::new();
        for round in 1..=UNDO_TRIES {
            if round > 1 {
                tokio::time::sleep(TRY_AGAIN_PAUSE).await;
            }
            failed.clear();
            for item in std::mem::take(&mut waiting) {
                let effects = match &item {
                    Undo::Reopen { old_primary } => {
                        BTreeMap::from([(old_primary.clone(), self.step_executor.unfence(old_primary).await)])
                    }
                    Undo::StartReceiving { replicas } if is_move => self
                        .step_executor
                        .go_on(replicas)
                        .await
                        .unwrap_or_else(|effect| to_all(replicas, &effect)),
                    Undo::PointBack {
                        replica,
                        source,
                        starts,
                    } => BTreeMap::from([(
                        replica.clone(),
                        self.step_executor.point_back(replica, source, *starts).await,
                    )]),
                    Undo::Delay { replica, seconds } => {
                        let only = BTreeMap::from([(replica.clone(), *seconds)]);
                        let effects = self.step_executor.delay(&only).await;
                        effects.unwrap_or_else(|effect| BTreeMap::from([(replica.clone(), effect)]))
                    }
                    Undo::StartReceiving { replicas } => self
                        .step_executor
                        .thaw(replicas)
                        .await
                        .unwrap_or_else(|effect| to_all(replicas, &effect)),
                };
                if let Some(why) = unconfirmed(&effects) {
                    return Err(Stopped::Unconfirmed(why));
                }
                self.say(format!("{}: {}", item.describe(), tell(&effects)));
                let mut not_done = effects;
                not_done.retain(|_, effect| !matches!(effect, Effect::Done(_)));
                if not_done.is_empty() {
                    continue;
                }
                failed.push(format!("not undone: {}", tell(&not_done)));
                waiting.push(match item {
                    Undo::StartReceiving { .. } => Undo::StartReceiving {
                        replicas: not_done.into_keys().collect(),
                    },
                    whole @ (Undo::Reopen { .. } | Undo::PointBack { .. } | Undo::Delay { .. }) => whole,
                });
            }
            if waiting.is_empty() {
                break;
            }
        }
        let owes_opening = waiting.iter().any(|item| matches!(item, Undo::Reopen { .. }));
        Ok((failed, owes_opening))
    }

    /// Lets those go on that a recovery which gave way to this one left stopped; whoever follows the old primary or the successor is this
    /// one's own affair. Returns what was not done.
    pub(super) async fn pay(&mut self, recovery: &Recovery) -> Result<Vec<String>, Stopped> {
        let view = self.views.cluster(&self.token.cluster);
        let Some(view) = view.filter(|_| !recovery.owed.is_empty()) else {
            return Ok(Vec::new());
        };
        let fresh = self.step_executor.look(&view.topology).await;
        let due = progress::still_stopped(&recovery.plan, &recovery.owed, &fresh);
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let effects = or_all(self.step_executor.go_on(&due).await, &due);
        if let Some(why) = unconfirmed(&effects) {
            return Err(Stopped::Unconfirmed(why));
        }
        self.say(format!(
            "a repair that gave way to this recovery had stopped them: {}",
            tell(&effects)
        ));
        let not_done = effects.iter().filter(|(_, effect)| !matches!(effect, Effect::Done(_)));
        Ok(not_done
            .map(|(key, _)| format!("{key} was stopped by a repair that gave way, and does not go on"))
            .collect())
    }
}
