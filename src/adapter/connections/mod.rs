//! Serves HTTP on a listener with bounds: how many connections in total and from one address, how long a request's head may take, and
//! how long a client may refuse to read.
//!
//! When a bound is reached, a new connection takes the place of an idle one. Connections that only stay open, or send a head byte by
//! byte, therefore cannot keep clients out that send requests.

mod body;
mod limits;
mod registry;
mod stream;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use body::GuardedBody;
pub use limits::{ConnectionLimits, ListenerLimits, raise_open_files};
use registry::{Connection, Registry};
use stream::PatientStream;

/// Pause after a failed accept: usually there are no file descriptors, and an immediate retry would only use CPU.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two log lines about the same listener.
const LOG_INTERVAL: Duration = Duration::from_mins(1);
/// The largest head of a request, bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Serves `router` until `shutdown` is cancelled. Open requests then have `drain` to finish; afterwards their connections are closed.
/// `name` is that of the listener in log lines.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    name: &'static str,
    limits: ConnectionLimits,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let registry = Arc::new(Registry::new(limits.clone()));
    let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
    let mut log = AcceptLog::new(name);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if concerns_one_connection(&error) => continue,
            Err(error) => {
                log.failed(&error);
                registry.close_one();
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                }
            }
        };
        let (connection, replaced) = registry.admit(peer.ip());
        if replaced || connection.is_none() {
            log.full(peer, connection.is_none());
        }
        if let Some(connection) = connection {
            let serving = Serving {
                router: router.clone(),
                head_deadline: limits.head_deadline,
                shutdown: shutdown.clone(),
                closing: closing.clone(),
            };
            tasks.spawn(serving.run(stream, peer, Arc::new(connection)));
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        if !drain.is_zero() {
            tracing::warn!(
                "closing requests at the {name} that are still open {} s after the shutdown began",
                drain.as_secs()
            );
        }
        closing.cancel();
        tasks.wait().await;
    }
}

/// Whether only the connection that was about to be accepted failed.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// What a connection is served with.
struct Serving {
    router: Router,
    head_deadline: Duration,
    shutdown: CancellationToken,
    closing: CancellationToken,
}

impl Serving {
    async fn run(self, stream: TcpStream, peer: SocketAddr, connection: Arc<Connection>) {
        // Responses are small: Nagle's algorithm would delay them until the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("failed to set TCP_NODELAY on the connection from {peer}: {error}");
        }
        let handler = TowerToHyperService::new(self.router);
        let counted = Arc::clone(&connection);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let guard = counted.begin_request();
            let answer = handler.call(request);
            async move {
                let response: Response = answer.await?;
                if response.status().is_success() {
                    guard.prove();
                }
                Ok::<_, Infallible>(response.map(|body: Body| GuardedBody::new(body, guard)))
            }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_deadline)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(PatientStream::new(stream)), service);
        let mut serving = std::pin::pin!(serving);
        let mut is_draining = false;
        loop {
            tokio::select! {
                ended = serving.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("connection from {peer} ended: {error}");
                    }
                    return;
                }
                () = connection.closed() => return,
                () = self.closing.cancelled() => return,
                () = self.shutdown.cancelled(), if !is_draining => {
                    is_draining = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Logs the troubles of a listener at a limited rate.
struct AcceptLog {
    name: &'static str,
    failed: Option<Instant>,
    full: Option<Instant>,
}

impl AcceptLog {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            failed: None,
            full: None,
        }
    }

    fn is_due(last: &mut Option<Instant>) -> bool {
        let due = last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    fn failed(&mut self, error: &io::Error) {
        if Self::is_due(&mut self.failed) {
            tracing::error!(
                "failed to accept a connection at the {}, will retry: {error}",
                self.name
            );
        }
    }

    fn full(&mut self, peer: SocketAddr, refused: bool) {
        if Self::is_due(&mut self.full) {
            let done = if refused {
                "refused a new one"
            } else {
                "closed an idle one"
            };
            tracing::warn!(
                "too many connections at the {}: {done}; the latest is from {}",
                self.name,
                peer.ip()
            );
        }
    }
}

#[cfg(test)]
mod tests;
