//! `leader-check`: 200 only when a quorum confirmed after the request that this member leads.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::ports::Consensus;

/// How long a caller waits for the proof. Load balancers check every second or two and count a late answer as a failure.
const DEADLINE: Duration = Duration::from_millis(500);

/// Proofs of leadership, shared by callers that wait at the same time.
///
/// A proof counts only for callers that arrived before it began. So a former leader never answers 200 from an old proof, and many
/// callers together cost one round.
#[derive(Default)]
pub(super) struct LeaderProof {
    last: Mutex<Option<(Instant, bool)>>,
}

impl LeaderProof {
    /// Whether this member leads now.
    pub(super) async fn leads(&self, consensus: &dyn Consensus) -> bool {
        // The watch is reliable when it says that this member does not lead, but not the other way round.
        if !consensus.leadership().borrow().is_leader {
            return false;
        }
        tokio::time::timeout(DEADLINE, self.prove(consensus))
            .await
            .unwrap_or(false)
    }

    async fn prove(&self, consensus: &dyn Consensus) -> bool {
        let requested_at = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((begun, leads)) = *last
            && begun >= requested_at
        {
            return leads;
        }
        let begun = Instant::now();
        let leads = consensus.barrier().await.is_ok();
        *last = Some((begun, leads));
        leads
    }
}
