//! Steps of a recovery without GTIDs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::app::ports::{Account, StepError, StepSession};
use crate::domain::instance::BinlogCoordinates;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::step::EquivalentPosition;

use super::return_watch::Interrupt;
use super::semi_sync::FreedApplier;
use super::{StepEffect, StepExecutor};

/// How often the wait for everything received checks whether it is interrupted.
const WAIT_SLICE: Duration = Duration::from_millis(500);
/// How long the first such wait is: it shows whether the applier waits for acknowledgements.
const FIRST_SLICE: Duration = Duration::from_millis(100);

impl StepExecutor {
    /// Waits, side by side, until each server has applied all that it received. One entry per server.
    pub async fn apply_all(
        &mut self,
        replicas: &BTreeSet<InstanceKey>,
        deadline: Duration,
        interrupt: &Interrupt,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let step_deadline = self.context.settings.step_deadline;
        self.on_each(replicas, |session| {
            let interrupt = interrupt.clone();
            Box::pin(async move {
                wait_all_applied(session, deadline, step_deadline, &interrupt)
                    .await
                    .map(|()| format!("{} has applied all that it received", session.instance()))
            })
        })
        .await
    }

    /// Finds the positions of replicas in the log of the successor and fills them in. One entry per replica; a
    /// position that cannot be found is a failure of that replica only.
    pub async fn locate(
        &mut self,
        successor: &InstanceKey,
        replicas: &mut BTreeMap<InstanceKey, EquivalentPosition>,
        deadline: Duration,
    ) -> BTreeMap<InstanceKey, StepEffect> {
        let to_all = |effect: &StepEffect| replicas.keys().map(|key| (key.clone(), effect.clone())).collect();
        let session = match self.session_of(successor, deadline).await {
            Ok(session) => session,
            Err(effect) => return to_all(&effect),
        };
        let after: Vec<BinlogCoordinates> = replicas.values().map(|place| place.after.clone()).collect();
        let found = session.lock().await.locate(&after, deadline).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => return to_all(&self.effect_of(successor, &error)),
        };
        let mut effects = BTreeMap::new();
        for ((key, place), found) in replicas.iter_mut().zip(found) {
            let effect = match found {
                Ok(at) => {
                    let remark = format!("{key} goes on at {at}");
                    place.found = Some(at);
                    StepEffect::Done(remark)
                }
                Err(why) => StepEffect::Failed(format!("{key}: {why}")),
            };
            effects.insert(key.clone(), effect);
        }
        effects
    }

    /// Points replicas at positions in the log of a source, side by side. One entry per replica.
    pub async fn repoint_at(
        &mut self,
        successor: &InstanceKey,
        replicas: &BTreeMap<InstanceKey, Option<BinlogCoordinates>>,
    ) -> Result<BTreeMap<InstanceKey, StepEffect>, StepEffect> {
        let deadline = self.context.settings.step_deadline;
        let credentials = self.context.credentials.borrow().clone();
        let failed = self
            .open_sessions(&replicas.keys().cloned().collect(), deadline)
            .await?;
        let account_for =
            |key: &InstanceKey| -> Option<Account> { credentials.get(&self.target(key).origin)?.replication.clone() };
        let sessions = replicas.iter().filter_map(|(key, place)| {
            Some((
                key.clone(),
                place.clone(),
                Arc::clone(&self.session(key)?),
                account_for(key),
            ))
        });
        let results = join_all(sessions.map(|(key, place, session, account)| async move {
            let mut session = session.lock().await;
            let (followed, remark) = match &place {
                Some(at) => (
                    follow_from(&mut **session, successor, at, account.as_ref(), deadline).await,
                    format!("{key} follows {successor} from {at}"),
                ),
                None => (
                    session.follow(successor, account.as_ref(), deadline).await,
                    format!("{key} follows {successor} by GTID"),
                ),
            };
            (key, followed.map(|()| remark))
        }))
        .await;
        Ok(self.collect_effects(&failed, results))
    }
}

/// Waits until everything is applied, in slices between which the wait can be interrupted.
async fn wait_all_applied(
    session: &mut Box<dyn StepSession>,
    deadline: Duration,
    step_deadline: Duration,
    interrupt: &Interrupt,
) -> Result<(), StepError> {
    let mut freed = FreedApplier::default();
    let applied = wait_in_slices(session, deadline, step_deadline, interrupt, &mut freed).await;
    let restored = freed.restore(session, step_deadline).await;
    applied.and(restored)
}

async fn wait_in_slices(
    session: &mut Box<dyn StepSession>,
    deadline: Duration,
    step_deadline: Duration,
    interrupt: &Interrupt,
    freed: &mut FreedApplier,
) -> Result<(), StepError> {
    let begun = Instant::now();
    let mut slice = FIRST_SLICE;
    loop {
        let left = deadline.saturating_sub(begun.elapsed());
        match session.wait_all_applied(left.min(slice)).await {
            Err(StepError::TooSlow { instance, .. }) if interrupt.is_set() => return Err(Interrupt::error(&instance)),
            Err(StepError::TooSlow { .. }) if left > WAIT_SLICE => freed.free(session, step_deadline).await?,
            over => return over,
        }
        slice = WAIT_SLICE;
    }
}

/// Points a replica at a position, unless it replicates from this source already: an earlier actor, or an attempt
/// with unknown outcome, may have pointed it there, and it may have continued since. At the same position again it
/// would apply transactions twice.
async fn follow_from(
    session: &mut dyn StepSession,
    source: &InstanceKey,
    place: &BinlogCoordinates,
    account: Option<&Account>,
    deadline: Duration,
) -> Result<(), StepError> {
    let facts = session.facts(deadline).await?;
    let is_there = facts.managed_channel().is_some_and(|channel| channel.source == *source);
    if !is_there {
        return session.follow_at(source, place, account, deadline).await;
    }
    session.start_applier(deadline).await?;
    session.start_receiver(deadline).await
}
