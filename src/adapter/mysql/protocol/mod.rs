//! The client side of the MySQL protocol, as much of it as ham4db uses: the handshake with its authentication, TLS, statements in
//! the text protocol, ping and quit.
//!
//! Whatever answers on a socket is hostile until proven otherwise. Bounds are checked before reads ([`Cursor`](cursor::Cursor)).
//! A packet, a result and a handshake have limits ([`limits`]), and memory grows with what was received, never with a number that
//! the server announced. An answer that does not fit is [`ProtocolError::Unreadable`], with an excerpt of what was received.
//!
//! Not supported, because nothing here uses it: compression, prepared statements, `LOAD DATA LOCAL INFILE` (a server that requests
//! a file gets none), session tracking.

mod auth;
mod connection;
mod cursor;
mod error;
mod handshake;
mod packet_stream;
mod result_set;
mod tls;

#[cfg(test)]
mod tests;

pub(super) use self::connection::{Connection, Login, Transport};
pub(super) use self::error::ProtocolError;
#[cfg(test)]
pub(super) use self::packet_stream::Socket;
pub(super) use self::result_set::{Row, StatementResult};

/// What one connection may make ham4db hold.
pub(super) mod limits {
    /// Limit for a packet of the handshake. Real ones have less than 1 KiB.
    pub(in crate::adapter::mysql) const HANDSHAKE_PACKET: usize = 16 * 1024;
    /// Limit for the packets of a handshake, after the greeting.
    pub(in crate::adapter::mysql) const HANDSHAKE_PACKETS: usize = 16;
    /// Limit for a packet of a result: the largest that is not continued in another packet.
    pub(in crate::adapter::mysql) const PACKET: usize = 0xFF_FF_FE;
    /// Limit for the columns of a result. `SHOW REPLICA STATUS` has about 60.
    pub(in crate::adapter::mysql) const COLUMNS: u64 = 512;
    /// Limit for the rows of one result. A process list is the longest that is read.
    pub(in crate::adapter::mysql) const ROWS: usize = 100_000;
    /// Limit for the results of the statements that are sent together.
    pub(in crate::adapter::mysql) const RESULTS: usize = 1_000;
    /// Limit for the bytes of the results of the statements that are sent together.
    pub(in crate::adapter::mysql) const RESULT_BYTES: usize = 64 * 1024 * 1024;
    /// What a row, a column or a result counts against [`RESULT_BYTES`] beside its own bytes.
    pub(in crate::adapter::mysql) const OVERHEAD: usize = 64;
    /// Limit for the text of a server's error, in bytes. MySQL's own is 512.
    pub(in crate::adapter::mysql) const ERROR_TEXT: usize = 1024;
}
