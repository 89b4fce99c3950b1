//! `leader-check`: 200 only with a quorum's word that this member leads, given after the question was asked.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::app::ports::Consensus;

/// Longest a caller waits for the proof: load balancers ask every second or two and count a late answer as a failure.
const DEADLINE: Duration = Duration::from_millis(500);

/// Proofs, shared among callers that ask at the same time.
///
/// A proof serves only those who asked before it was begun. So a former leader never answers 200 from an old proof, and a thousand
/// callers still cost one round after the other.
#[derive(Default)]
pub(super) struct LeaderProof {
    last: Mutex<Option<(Instant, bool)>>,
}

impl LeaderProof {
    /// Whether this member leads now.
    pub(super) async fn leads(&self, consensus: &dyn Consensus) -> bool {
        // Who knows that it does not lead need not ask; the watch is not believed the other way round.
        if !consensus.leadership().borrow().is_leader {
            return false;
        }
        tokio::time::timeout(DEADLINE, self.proved(consensus))
            .await
            .unwrap_or(false)
    }

    async fn proved(&self, consensus: &dyn Consensus) -> bool {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((begun, leads)) = *last
            && begun >= asked
        {
            return leads;
        }
        let begun = Instant::now();
        let leads = consensus.barrier().await.is_ok();
        *last = Some((begun, leads));
        leads
    }
}
