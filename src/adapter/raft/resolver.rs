//! Resolves the host names of peers.

use std::io;
use std::net::SocketAddr;

use crate::app::observation::dns_cache;
use async_trait::async_trait;

/// Resolves host names. It is called for every connection: an address that was right a minute ago may belong to another pod now.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of a host; their ports are ignored.
    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the machine, with a cache for the time when it does not answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> io::Result<Vec<SocketAddr>> {
        let found = dns_cache::addresses(host).await?;
        Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }
}
