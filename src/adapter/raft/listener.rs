//! A listener that closes all its connections when it stops.
//!
//! A connection that outlives its member would still answer heartbeats, or hold requests of a peer until they time out.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Accepts until `stop` is cancelled.
pub(super) struct StoppableListener {
    inner: TcpListener,
    stop: CancellationToken,
}

impl StoppableListener {
    pub(super) fn new(inner: TcpListener, stop: CancellationToken) -> Self {
        Self { inner, stop }
    }
}

impl Listener for StoppableListener {
    type Io = StoppableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (StoppableStream, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, address)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!("failed to set TCP_NODELAY on the connection from {address}: {error}");
                    }
                    let stopped = Box::pin(self.stop.clone().cancelled_owned());
                    return (StoppableStream { inner: stream, stopped }, address);
                }
                Err(error) => {
                    // Usually out of file descriptors: an immediate retry would only use CPU.
                    tracing::warn!("failed to accept a connection of a peer, will retry: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that breaks when its listener stops.
pub(super) struct StoppableStream {
    inner: TcpStream,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl StoppableStream {
    fn stop_error(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        let stopped = self.stopped.as_mut().poll(context).is_ready();
        stopped.then(|| io::Error::new(io::ErrorKind::ConnectionAborted, "the member is stopping"))
    }
}

impl AsyncRead for StoppableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.stop_error(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for StoppableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(error) = self.stop_error(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
