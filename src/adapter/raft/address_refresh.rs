//! Keeps the addresses of all members in the DNS cache.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::settings::MemberDependencies;

/// Interval between two lookups of all members.
const INTERVAL: Duration = Duration::from_secs(10);

/// Resolves all wanted members regularly. Followers connect to each other when the leader is lost, and DNS may be lost with it.
pub(super) async fn keep_addresses_cached(dependencies: &MemberDependencies) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = dependencies.wanted.borrow().clone();
        for wanted in wanted {
            let Some((host, _)) = wanted.raft_address.rsplit_once(':') else {
                continue;
            };
            // A failed lookup is reported by the next request to that member.
            drop(dependencies.resolver.resolve(host).await);
        }
    }
}
