//! An open connection.

use std::fmt;

use super::error::ProtocolError;
use super::handshake::{self, Established};
use super::limits;
use super::packet_stream::{PacketStream, Socket};
use super::result_set::{self, StatementResult};
use crate::app::ports::TlsMode;

/// Commands.
const QUIT: u8 = 1;
const QUERY: u8 = 3;
const PING: u8 = 14;

/// How a connection logs in.
#[derive(Clone, Copy)]
pub(in crate::adapter::mysql) struct Login<'a> {
    /// The name of the account.
    pub(in crate::adapter::mysql) user: &'a str,
    /// Its password.
    pub(in crate::adapter::mysql) password: &'a str,
    /// Whether TLS is used.
    pub(in crate::adapter::mysql) tls: TlsMode,
    /// The certificate authority, with [`TlsMode::Verify`].
    pub(in crate::adapter::mysql) ca_pem: Option<&'a str>,
    /// The name that the certificate must have, with [`TlsMode::Verify`].
    pub(in crate::adapter::mysql) server_name: &'a str,
}

/// What protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::adapter::mysql) enum Transport {
    /// Nothing.
    Plain,
    /// TLS with whichever server answered.
    Unverified,
    /// TLS with a certificate that was verified, and that has the name of the server.
    Verified,
}

/// An open connection. A call that fails or is cancelled leaves it unusable: all later calls fail.
pub(in crate::adapter::mysql) struct Connection {
    stream: PacketStream,
    transport: Transport,
    deprecates_eof: bool,
    /// No exchange is in progress. After a cancelled call it stays `false`: the next answer would be that of the cancelled call.
    is_at_rest: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("transport", &self.transport)
            .field("is_at_rest", &self.is_at_rest)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Runs the handshake on a new socket.
    ///
    /// # Errors
    /// When the server refuses the account, requests what it does not get, or sends something else than a handshake.
    pub(in crate::adapter::mysql) async fn log_in(
        socket: Box<dyn Socket>,
        login: &Login<'_>,
    ) -> Result<Self, ProtocolError> {
        let Established {
            stream,
            transport,
            deprecates_eof,
        } = handshake::run(socket, login).await?;
        Ok(Self {
            stream,
            transport,
            deprecates_eof,
            is_at_rest: true,
        })
    }

    /// What protects the connection.
    pub(in crate::adapter::mysql) fn transport(&self) -> Transport {
        self.transport
    }

    /// Sends a text of one or more statements and returns their results, up to and including the first error.
    ///
    /// # Errors
    /// When the connection fails, or a result is unreadable or beyond the limits.
    pub(in crate::adapter::mysql) async fn query(&mut self, text: &str) -> Result<Vec<StatementResult>, ProtocolError> {
        let mut packet = Vec::with_capacity(text.len() + 1);
        packet.push(QUERY);
        packet.extend_from_slice(text.as_bytes());
        self.begin()?;
        match self.stream.write(&packet).await {
            Ok(()) => {}
            // It was not sent.
            Err(ProtocolError::Server { number, message }) => {
                self.is_at_rest = true;
                return Ok(vec![Err((number, message))]);
            }
            Err(error) => return Err(error),
        }
        let results = result_set::read_all(self).await?;
        self.is_at_rest = true;
        Ok(results)
    }

    /// Sends a ping.
    ///
    /// # Errors
    /// When the connection fails, or the answer is not OK.
    pub(in crate::adapter::mysql) async fn ping(&mut self) -> Result<(), ProtocolError> {
        self.begin()?;
        self.stream.write(&[PING]).await?;
        let packet = self.stream.read(limits::HANDSHAKE_PACKET).await?;
        match packet.first() {
            Some(0x00) => {
                self.is_at_rest = true;
                Ok(())
            }
            Some(0xFF) => Err(ProtocolError::from_packet(&packet)),
            _ => Err(ProtocolError::unreadable("not the answer to a ping", &packet)),
        }
    }

    /// Waits until the other side closes the connection, or sends what is no answer, as a server does before it ends a session. The
    /// connection is unusable then. A cancelled call changes nothing.
    pub(in crate::adapter::mysql) async fn ended(&mut self) {
        if self.is_at_rest {
            drop(self.stream.receive().await);
            self.is_at_rest = false;
        }
    }

    /// Closes the connection cleanly.
    ///
    /// # Errors
    /// When the connection fails.
    pub(in crate::adapter::mysql) async fn close(mut self) -> Result<(), ProtocolError> {
        self.begin()?;
        self.stream.write(&[QUIT]).await?;
        self.stream.shut_down().await
    }

    /// Begins an exchange.
    fn begin(&mut self) -> Result<(), ProtocolError> {
        if !std::mem::replace(&mut self.is_at_rest, false) {
            let text = "an earlier call on this connection was interrupted";
            return Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, text).into());
        }
        self.stream.begin_exchange();
        Ok(())
    }

    /// Whether results end with an OK packet.
    pub(super) fn deprecates_eof(&self) -> bool {
        self.deprecates_eof
    }

    /// Reads a packet of a result.
    pub(super) async fn read(&mut self, limit: usize) -> Result<Vec<u8>, ProtocolError> {
        self.stream.read(limit).await
    }
}
