//! The listeners of the API.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;

use crate::adapter::connections::{self, ConnectionLimits, ListenerLimits};

use super::context::{AppContext, Shared};
use super::limits::MAX_BODY;
use super::router::{build, build_health};

/// How long open requests may continue after shutdown was requested.
const DRAIN: Duration = Duration::from_secs(5);

/// The API without a listener.
pub fn router(app: AppContext) -> Router {
    build(&Shared::new(app))
}

/// Opens a listener at `host:port`. Without a host it listens on all interfaces, also on IPv6 where the machine supports it.
///
/// # Errors
/// When the address cannot be resolved or bound; the error names it.
pub async fn bind(listen: &str) -> io::Result<TcpListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen at {listen}: {error}"));
    let Some(port) = listen.strip_prefix(':') else {
        return TcpListener::bind(listen).await.map_err(named);
    };
    let port: u16 = port
        .parse()
        .map_err(|_| named(io::Error::new(io::ErrorKind::InvalidInput, "the port is no number")))?;
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(named(error)),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(named),
    }
}

/// Serves the API until `shutdown` is cancelled, then waits a few seconds for open requests. With a listener `health`, health and metrics
/// are served there too, on connections of their own.
pub async fn serve(
    api: TcpListener,
    health: Option<TcpListener>,
    app: AppContext,
    limits: ListenerLimits,
    shutdown: CancellationToken,
) {
    let shared = Shared::new(app);
    let probes = async {
        if let Some(listener) = health {
            let router = build_health(&shared);
            serve_at(listener, router, "health listener", limits.health, shutdown.clone()).await;
        }
    };
    tokio::join!(
        serve_at(api, build(&shared), "API listener", limits.api, shutdown.clone()),
        probes
    );
}

async fn serve_at(
    listener: TcpListener,
    router: Router,
    name: &'static str,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
) {
    let router = router.layer(RequestBodyLimitLayer::new(MAX_BODY));
    connections::serve(listener, router, name, limits, shutdown, DRAIN).await;
}
