//! The publication of a new primary, where the end of a recovery depends on it.

use std::time::Duration;

use tracing::error;

use crate::domain::recovery::next_action::Finish;
use crate::domain::state::Recovery;

use super::RecoveryRunner;

/// How long the end of a recovery waits for the publication of the new primary, with `FailRecoveryOnFailedPublication`.
const PUBLICATION_DEADLINE: Duration = Duration::from_secs(10);

impl RecoveryRunner<'_> {
    /// With `FailRecoveryOnFailedPublication`: whether every publisher leads to the new primary. Otherwise the errors are added,
    /// and the hooks after a failed recovery are to run. The record still says that a server was opened: what follows when that
    /// server fails depends on it.
    pub(super) async fn is_published(&self, recovery: &Recovery, finish: &mut Finish) -> bool {
        let (Some((primary, _)), true) = (&finish.successor, finish.successful) else {
            return true;
        };
        if !self.context.settings.fails_on_failed_publication || !recovery.plan.kind.replaces_primary() {
            return true;
        }
        let gate = &self.context.publication_gate;
        let missing = gate
            .wait_until_published(&self.token.cluster, primary, PUBLICATION_DEADLINE)
            .await;
        for why in &missing {
            let error = format!("{primary} is the primary and is not published: {why}");
            error!(recovery = %self.token.uid, "recovery of {} counts as failed: {error}", recovery.plan.old_primary);
            finish.errors.push(error);
        }
        missing.is_empty()
    }
}
