//! The listeners of the API.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;

use super::context::{AppContext, Shared};
use super::router::{build, build_health};

/// Maximum size of a request body, bytes. No route needs a body.
const MAX_BODY: usize = 64 * 1024;

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
/// are served there too.
///
/// # Errors
/// When a listener fails.
pub async fn serve(
    api: TcpListener,
    health: Option<TcpListener>,
    app: AppContext,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let shared = Shared::new(app);
    let probes = async {
        match health {
            Some(listener) => serve_at(listener, build_health(&shared), shutdown.clone()).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(serve_at(api, build(&shared), shutdown.clone()), probes)?;
    Ok(())
}

async fn serve_at(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Responses are small: Nagle's algorithm would delay them until the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
    });
    let service = router
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    ended_within(server.into_future(), shutdown).await
}

async fn ended_within(server: impl Future<Output = io::Result<()>>, shutdown: CancellationToken) -> io::Result<()> {
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => ended,
        () = overdue => {
            tracing::warn!(seconds = DRAIN.as_secs(), "closing requests that are still open after the shutdown deadline");
            Ok(())
        }
    }
}
