//! Steps that remove the difference between the GTID sets of two MySQL servers. They do not change the data.

use tokio::time::Instant;

use crate::app::ports::StepError;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::ThreadState;
use crate::domain::recovery::planner::MAX_INJECTED;

use super::session::MySqlSession;

impl MySqlSession {
    /// Commits an empty transaction for each GTID of the set. The server skips those that it has executed.
    pub(super) async fn commit_empty_transactions(&mut self, set: &GtidSet, end: Instant) -> Result<(), StepError> {
        let GtidSet::MySql(set) = set else {
            return Err(self.refused("empty transactions", 0, "only MySQL supports this".to_owned()));
        };
        for gtid in set.each(MAX_INJECTED) {
            for statement in self.dialect().empty_transaction(&gtid) {
                self.send(&statement, end).await?;
            }
        }
        let statement = self.dialect().automatic_gtids();
        self.send(statement, end).await.map(drop)
    }

    /// Resets the executed set to `keep`. Between the two statements the executed set of the server is empty.
    pub(super) async fn reset_executed_gtids(&mut self, keep: &GtidSet, end: Instant) -> Result<(), StepError> {
        let GtidSet::MySql(keep) = keep else {
            return Err(self.refused("resetting GTIDs", 0, "only MySQL supports this".to_owned()));
        };
        let channel = self.managed_channel(end).await?;
        let was_running = channel
            .as_ref()
            .is_some_and(|channel| channel.io != ThreadState::Stopped || channel.sql != ThreadState::Stopped);
        if let Some(channel) = &channel {
            self.stop_channel(&channel.name, end).await?;
        }
        for statement in self.dialect().forget_gtids(&keep.to_string()) {
            self.send(&statement, end).await?;
        }
        if let Some(channel) = channel.filter(|_| was_running) {
            let statement = self.dialect().start_replica(&channel.name);
            self.send(&statement, end).await?;
        }
        Ok(())
    }
}
