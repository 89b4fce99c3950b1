//! Where peers are: their names, asked for at every dial.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::MissedTickBehavior;

use super::member::Shared;
use crate::app::observation::dns_cache;

/// Between two looks at the names of all members.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Names to addresses, asked at every dial: an address that was right a minute ago may be another pod's now.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// Addresses of a host; the ports are ignored.
    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The machine's resolver, and what it answered before while it does not answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        let found = dns_cache::addresses(host).await?;
        Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}

/// Keeps the addresses of all members known: followers dial each other when the leader is lost, which may be when DNS is lost too.
pub(super) async fn keep_known(shared: &Arc<Shared>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let wanted = shared.around.wanted.borrow().clone();
        for wanted in wanted {
            let Some((host, _)) = wanted.raft_address.rsplit_once(':') else {
                continue;
            };
            // Who cannot be found now is told when it is dialled.
            drop(shared.around.resolver.resolve(host).await);
        }
    }
}
