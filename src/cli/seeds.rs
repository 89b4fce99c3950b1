//! The seeds of the configuration.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::app::ports::Consensus;
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::state::{Command, Seed};

/// Records the seeds of the configuration in the replicated state whenever this member becomes the leader, until `stop`.
pub(super) async fn record_seeds(seeds: Vec<InstanceKey>, consensus: Arc<dyn Consensus>, stop: CancellationToken) {
    let mut leadership = consensus.leadership();
    loop {
        let leads = leadership.borrow_and_update().is_leader;
        let mut all_recorded = leads;
        if leads {
            for instance in &seeds {
                let seed = Seed {
                    instance: instance.clone(),
                    origin: Origin::Api,
                };
                if consensus.state().borrow().seeds.contains(&seed) {
                    continue;
                }
                if let Err(error) = consensus.propose(Command::Discover { seed }).await {
                    warn!(%instance, "failed to record seed {instance}, will retry: {error}");
                    all_recorded = false;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if leads && !all_recorded => {}
        }
    }
}
