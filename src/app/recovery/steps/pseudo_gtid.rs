//! Finding places by Pseudo-GTID.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::app::recovery::log_search::{Search, logs_of};
use crate::domain::instance::BinlogCoordinates;
use crate::domain::key::InstanceKey;
use crate::domain::recovery::plan::Place;
use crate::domain::recovery::pseudo_gtid::Marks;

use super::{Effect, StepExecutor};

impl StepExecutor {
    /// Finds places in the successor's binary log by Pseudo-GTID and fills them in. One entry per server that was to be placed; a place
    /// that cannot be told is a failure of that server alone.
    pub async fn match_logs(
        &mut self,
        successor: &InstanceKey,
        replicas: &mut BTreeMap<InstanceKey, Place>,
        deadline: Duration,
    ) -> BTreeMap<InstanceKey, Effect> {
        let end = Instant::now() + deadline;
        let mut effects = BTreeMap::new();
        let Some(marks) = self.context.settings.pseudo_gtid.clone() else {
            let none = Effect::Failed("Pseudo-GTID is not configured".to_owned());
            return replicas.keys().map(|key| (key.clone(), none.clone())).collect();
        };
        for (key, place) in replicas.iter_mut() {
            let effect = match self.match_one(successor, key, &marks, end).await {
                Ok((found, told)) => {
                    place.found = Some(found);
                    Effect::Done(told)
                }
                Err(effect) => effect,
            };
            effects.insert(key.clone(), effect);
        }
        effects
    }

    /// Starts both threads of these again: what a replica that was to be pointed elsewhere goes back to.
    pub async fn go_on(&mut self, replicas: &BTreeSet<InstanceKey>) -> Result<BTreeMap<InstanceKey, Effect>, Effect> {
        let deadline = self.context.settings.step_deadline;
        self.each(replicas, |session| {
            Box::pin(async move {
                session.start_applying(deadline).await?;
                session.start_receiving(deadline).await?;
                Ok(format!("{} replicates again", session.instance()))
            })
        })
        .await
    }

    /// The place of one replica, told by the first of its logs that tells it.
    async fn match_one(
        &mut self,
        successor: &InstanceKey,
        key: &InstanceKey,
        marks: &Marks,
        end: Instant,
    ) -> Result<(BinlogCoordinates, String), Effect> {
        let deadline = self.context.settings.step_deadline;
        let search = Search { marks, end };
        let target = self.session_of(successor, deadline).await?;
        let replica = self.session_of(key, deadline).await?;
        let facts = replica.lock().await.facts(deadline).await;
        let facts = facts.map_err(|error| self.effect_of(key, &error))?;
        let mut why_not = Vec::new();
        for (log, until) in logs_of(&facts) {
            let tail = search.tail(&mut **replica.lock().await, log, until.as_ref()).await;
            let tail = match tail.map_err(|error| self.effect_of(key, &error))? {
                Ok(tail) => tail,
                Err(why) => {
                    why_not.push(why.to_string());
                    continue;
                }
            };
            let place = search.place(&mut **target.lock().await, &tail).await;
            match place.map_err(|error| self.effect_of(successor, &error))? {
                Ok(place) => {
                    let told = format!(
                        "{key} goes on at {place}: {} transactions of {log} match after {}",
                        tail.transactions.len(),
                        tail.entry.text
                    );
                    return Ok((place, told));
                }
                Err(why) => why_not.push(format!("by {log}: {why}")),
            }
        }
        Err(Effect::Failed(format!("{key}: {}", why_not.join("; "))))
    }
}
