//! Packets on a socket. A packet has a header of four bytes: its length, and a sequence number that counts the packets of one
//! exchange.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::error::{ProtocolError, excerpt};
use super::limits;

/// The spare room for one read.
const READ_SIZE: usize = 8 * 1024;
/// An empty buffer that has grown larger is freed.
const KEPT_BUFFER: usize = 64 * 1024;

/// A TCP connection, a TLS session on one, or the end of a pipe in tests.
pub(in crate::adapter::mysql) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Reads and writes packets.
pub(super) struct PacketStream {
    socket: Box<dyn Socket>,
    /// What was received and is not yet read begins at `read`.
    received: Vec<u8>,
    read: usize,
    /// The sequence number of the next packet, in either direction.
    sequence: u8,
}

impl PacketStream {
    /// Begins an exchange in which the server sends first.
    pub(super) fn new(socket: Box<dyn Socket>) -> Self {
        Self {
            socket,
            received: Vec::new(),
            read: 0,
            sequence: 0,
        }
    }

    /// Begins an exchange in which the client sends first.
    pub(super) fn begin_exchange(&mut self) {
        self.sequence = 0;
    }

    fn unread(&self) -> &[u8] {
        self.received.get(self.read..).unwrap_or_default()
    }

    /// Reads the next packet and returns its payload, which is not empty.
    ///
    /// # Errors
    /// When the packet is longer than `limit`, is empty or out of sequence, and when the connection is closed.
    pub(super) async fn read(&mut self, limit: usize) -> Result<Vec<u8>, ProtocolError> {
        loop {
            if let Some((header, rest)) = self.unread().split_at_checked(4)
                && let [low, middle, high, sequence] = *header
            {
                let length = u32::from_le_bytes([low, middle, high, 0]);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if length > limit {
                    let what = format!("a packet of {length} bytes is announced (limit {limit})");
                    return Err(ProtocolError::unreadable(&what, self.unread()));
                }
                if let Some(payload) = rest.get(..length) {
                    let Some(first) = payload.first() else {
                        return Err(ProtocolError::unreadable("an empty packet", self.unread()));
                    };
                    // A server that ends a session sends its error at any time.
                    if sequence != self.sequence && *first != 0xFF {
                        let what = format!("packet {sequence} instead of packet {}", self.sequence);
                        return Err(ProtocolError::unreadable(&what, self.unread()));
                    }
                    let payload = payload.to_vec();
                    self.sequence = sequence.wrapping_add(1);
                    self.read += 4 + length;
                    self.free_read();
                    return Ok(payload);
                }
            }
            self.receive().await?;
        }
    }

    /// Frees what was read.
    fn free_read(&mut self) {
        if self.read == self.received.len() {
            self.received.clear();
            self.read = 0;
            self.received.shrink_to(KEPT_BUFFER);
        } else if self.read > KEPT_BUFFER {
            self.received.drain(..self.read);
            self.read = 0;
        }
    }

    /// Waits for more bytes. The buffer grows with what is received, and not with what is announced. A cancelled call loses nothing.
    ///
    /// # Errors
    /// When the connection is closed or fails.
    pub(super) async fn receive(&mut self) -> Result<(), ProtocolError> {
        self.received.reserve(READ_SIZE);
        if self.socket.read_buf(&mut self.received).await? > 0 {
            return Ok(());
        }
        match self.unread() {
            [] => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection").into()),
            part => Err(ProtocolError::Truncated(format!(
                "the server closed the connection within a packet, after {}",
                excerpt(part)
            ))),
        }
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// When `payload` does not fit into one packet, or the connection fails.
    pub(super) async fn write(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let length = u32::try_from(payload.len())
            .ok()
            .filter(|_| payload.len() <= limits::PACKET);
        let [low, middle, high, _] = length.unwrap_or(u32::MAX).to_le_bytes();
        if length.is_none() {
            return Err(ProtocolError::Server {
                number: PACKET_TOO_LARGE,
                message: format!(
                    "a packet of {} bytes is not sent (limit {})",
                    payload.len(),
                    limits::PACKET
                ),
            });
        }
        let mut packet = Vec::with_capacity(payload.len() + 4);
        packet.extend([low, middle, high, self.sequence]);
        packet.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.write_all(&packet).await?;
        self.socket.flush().await?;
        Ok(())
    }

    /// Gives up the socket, for TLS.
    ///
    /// # Errors
    /// When the server sent something that the socket would hide from TLS, and that nothing would protect.
    pub(super) fn into_socket(self) -> Result<Box<dyn Socket>, ProtocolError> {
        match self.unread() {
            [] => Ok(self.socket),
            unread => Err(ProtocolError::unreadable("an answer before TLS", unread)),
        }
    }

    /// Goes on with the packets on another socket.
    pub(super) fn on_socket(socket: Box<dyn Socket>, sequence: u8) -> Self {
        Self {
            sequence,
            ..Self::new(socket)
        }
    }

    /// The sequence number of the next packet.
    pub(super) fn sequence(&self) -> u8 {
        self.sequence
    }

    /// Closes the socket.
    pub(super) async fn shut_down(&mut self) -> Result<(), ProtocolError> {
        Ok(self.socket.shutdown().await?)
    }
}

/// `ER_NET_PACKET_TOO_LARGE`: the error of a server that is sent such a packet.
const PACKET_TOO_LARGE: u16 = 1153;
