//! The listener.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;

use crate::domain::time::WallTime;

use super::context::AppContext;
use super::leader_proof::LeaderProof;
use super::metrics::Requests;
use super::router::{build, build_health};
use super::write_access::Refusals;
use super::{limits, proxy};

/// Largest body of a request, bytes: no route needs one.
const MAX_BODY: usize = 64 * 1024;

/// How long open requests may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// What all handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) app: AppContext,
    pub(super) started: WallTime,
    pub(super) leader_proof: Arc<LeaderProof>,
    pub(super) forwarder: reqwest::Client,
    pub(super) turns: Arc<Semaphore>,
    pub(super) probes: Arc<Semaphore>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) requests: Requests,
}

impl Shared {
    fn new(app: AppContext) -> Self {
        Self {
            started: app.clock.wall(),
            app,
            leader_proof: Arc::default(),
            forwarder: proxy::client(),
            turns: Arc::new(Semaphore::new(limits::MAX_CONCURRENT)),
            probes: Arc::new(Semaphore::new(limits::MAX_PROBES)),
            refusals: Arc::default(),
            requests: Requests::default(),
        }
    }
}

/// The API without a listener.
pub fn router(app: AppContext) -> Router {
    build(&Shared::new(app))
}

/// Opens a listener at `host:port`; without a host at all interfaces, IPv6 too where the machine has it.
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

/// Serves the API, and health and metrics once more at a listener of their own where there is one, until `shutdown` is cancelled; then lets
/// open requests end for a few seconds.
///
/// # Errors
/// When a listener breaks.
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
        // Answers are small and awaited: Nagle's algorithm would hold them back for the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
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
            tracing::warn!(seconds = DRAIN.as_secs(), "requests still open at the end are cut off");
            Ok(())
        }
    }
}
