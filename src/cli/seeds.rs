//! The seeds of the configuration.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::app::ports::Consensus;
use crate::config::Settings;
use crate::domain::intent::Origin;
use crate::domain::state::{Command, Seed};

/// The seeds of the configuration become seeds of the state, once there is a leader that can be this member.
pub(super) async fn plant_seeds(settings: Settings, consensus: Arc<dyn Consensus>, stop: CancellationToken) {
    let mut leadership = consensus.leadership();
    loop {
        let leads = leadership.borrow_and_update().is_leader;
        let mut planted = leads;
        if leads {
            for instance in &settings.discovery.seeds {
                let seed = Seed {
                    instance: instance.clone(),
                    origin: Origin::Api,
                };
                if consensus.state().borrow().seeds.contains(&seed) {
                    continue;
                }
                if let Err(error) = consensus.propose(Command::Discover { seed }).await {
                    warn!("seed {instance} is not planted yet: {error}");
                    planted = false;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(Duration::from_secs(1)), if leads && !planted => {}
        }
    }
}
