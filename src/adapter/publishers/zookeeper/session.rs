//! A session with one ZooKeeper server: requests one after the other on one connection.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::domain::declared::PublishError;

use super::codec::{MAX_FRAME, Reader, Writer, invalid};

/// The session timeout that is asked for.
const SESSION_MILLIS: i32 = 30_000;
/// How long a connection may take, TLS and session included: a Java program that has just started needs more than a second for its
/// first TLS.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long one answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

const AUTH: i32 = 100;
const AUTH_XID: i32 = -4;
const NOTIFICATION_XID: i32 = -1;
const PING_XID: i32 = -2;

/// Errors of the server, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerError {
    NoNode,
    NodeExists,
    BadVersion,
    NotEmpty,
    NoPermission,
    Other(i32),
}

impl ServerError {
    pub(super) fn of(code: i32) -> Self {
        match code {
            -101 => Self::NoNode,
            -102 | -115 => Self::NoPermission,
            -103 => Self::BadVersion,
            -110 => Self::NodeExists,
            -111 => Self::NotEmpty,
            other => Self::Other(other),
        }
    }

    /// The error for a request that cannot be repeated in another way.
    pub(super) fn publish_error(self, what: &str) -> PublishError {
        match self {
            Self::NoPermission => PublishError::Forbidden(format!(
                "no permission to {what}: check ZkDigest and the ACL of the node"
            )),
            // Connection loss, operation timeout, session expired or moved.
            Self::Other(code @ (-4 | -7 | -112 | -118)) => {
                PublishError::Unanswered(format!("failed to {what}: error {code}"))
            }
            Self::Other(code) => PublishError::Refused(format!("failed to {what}: error {code}")),
            Self::NoNode | Self::NodeExists | Self::BadVersion | Self::NotEmpty => {
                PublishError::Unanswered(format!("failed to {what}: the node was changed meanwhile"))
            }
        }
    }
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// An open session.
pub(super) struct Session {
    socket: Box<dyn Socket>,
    xid: i32,
}

fn broken(error: &std::io::Error) -> PublishError {
    PublishError::Unanswered(error.to_string())
}

impl Session {
    /// Connects to `address`, `host:port`.
    pub(super) async fn open(
        address: &str,
        tls: Option<Arc<ClientConfig>>,
        digest: Option<&str>,
    ) -> Result<Self, PublishError> {
        let connected = async {
            let tcp = TcpStream::connect(address).await.map_err(|error| broken(&error))?;
            tcp.set_nodelay(true).map_err(|error| broken(&error))?;
            let socket: Box<dyn Socket> = match tls {
                None => Box::new(tcp),
                Some(config) => {
                    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                    let name = ServerName::try_from(host).map_err(|error| {
                        PublishError::Refused(format!("{address} is no name for a certificate: {error}"))
                    })?;
                    let stream = TlsConnector::from(config).connect(name, tcp).await;
                    Box::new(stream.map_err(|error| broken(&error))?)
                }
            };
            let mut session = Self { socket, xid: 0 };
            session.greet(digest).await?;
            Ok(session)
        };
        let late = |_| Err(PublishError::Unanswered(format!("{address}: no session within 2 s")));
        timeout(CONNECT_DEADLINE, connected).await.unwrap_or_else(late)
    }

    async fn greet(&mut self, digest: Option<&str>) -> Result<(), PublishError> {
        let request = Writer::default()
            .int(0)
            .long(0)
            .int(SESSION_MILLIS)
            .long(0)
            .buffer(&[0; 16])
            .bool(false);
        self.send(request).await?;
        let answer = self.receive().await?;
        let mut answer = Reader::new(&answer);
        answer.int()?;
        if answer.int()? <= 0 {
            return Err(PublishError::Unanswered("the server refuses the session".to_owned()));
        }
        if let Some(digest) = digest {
            let request = Writer::default()
                .int(AUTH_XID)
                .int(AUTH)
                .int(0)
                .text("digest")
                .buffer(digest.as_bytes());
            self.send(request).await?;
            if let Err(code) = self.answer(AUTH_XID).await? {
                return Err(code.publish_error("authenticate"));
            }
        }
        Ok(())
    }

    /// Sends a request and waits for its answer, without the header.
    pub(super) async fn call(
        &mut self,
        operation: i32,
        request: Writer,
    ) -> Result<Result<Vec<u8>, ServerError>, PublishError> {
        self.xid = self.xid.checked_add(1).unwrap_or(1);
        let xid = self.xid;
        let called = async {
            self.send(Writer::default().int(xid).int(operation).append(request))
                .await?;
            self.answer(xid).await
        };
        let late = |_| Err(PublishError::Unanswered("no answer within 2 s".to_owned()));
        timeout(ANSWER_DEADLINE, called).await.unwrap_or_else(late)
    }

    async fn send(&mut self, request: Writer) -> Result<(), PublishError> {
        let sent = self.socket.write_all(&request.into_frame()).await;
        sent.map_err(|error| broken(&error))?;
        self.socket.flush().await.map_err(|error| broken(&error))
    }

    async fn receive(&mut self) -> Result<Vec<u8>, PublishError> {
        let length = self.socket.read_i32().await.map_err(|error| broken(&error))?;
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_FRAME);
        let mut frame = vec![0; length.ok_or_else(|| invalid("it has an impossible length"))?];
        self.socket
            .read_exact(&mut frame)
            .await
            .map_err(|error| broken(&error))?;
        Ok(frame)
    }

    async fn answer(&mut self, xid: i32) -> Result<Result<Vec<u8>, ServerError>, PublishError> {
        loop {
            let frame = self.receive().await?;
            let mut reader = Reader::new(&frame);
            let (got, _, code) = (reader.int()?, reader.long()?, reader.int()?);
            if got == NOTIFICATION_XID || got == PING_XID {
                continue;
            }
            if got != xid {
                return Err(invalid("it belongs to another request"));
            }
            let body = frame.get(16..).unwrap_or_default().to_vec();
            return Ok(if code == 0 {
                Ok(body)
            } else {
                Err(ServerError::of(code))
            });
        }
    }
}
