//! The listener.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;

use crate::domain::time::Wall;

use super::context::AppContext;
use super::leader_proof::LeaderProof;
use super::metrics::Requests;
use super::router::build;
use super::{guard, proxy};

/// Largest body of a request, bytes: no route needs one.
const MAX_BODY: usize = 64 * 1024;

/// How long open requests may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// What all handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) app: AppContext,
    pub(super) started: Wall,
    pub(super) leader_proof: Arc<LeaderProof>,
    pub(super) forwarder: reqwest::Client,
    pub(super) turns: Arc<Semaphore>,
    pub(super) requests: Requests,
}

/// The API without a listener.
pub fn router(app: AppContext) -> Router {
    let shared = Shared {
        started: app.clock.wall(),
        app,
        leader_proof: Arc::default(),
        forwarder: proxy::client(),
        turns: Arc::new(Semaphore::new(guard::MAX_CONCURRENT)),
        requests: Requests::default(),
    };
    build(&shared).layer(RequestBodyLimitLayer::new(MAX_BODY))
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

/// Serves until `shutdown` is cancelled, then lets open requests end for a few seconds.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(listener: TcpListener, app: AppContext, shutdown: CancellationToken) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Answers are small and awaited: Nagle's algorithm would hold them back for the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, router(app)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
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
