//! Failures of a connection, and how received bytes are quoted in them.

use std::fmt::Write as _;
use std::io;

use super::cursor::Cursor;
use super::limits;

/// Limit for the bytes that an excerpt shows.
const EXCERPT_BYTES: usize = 48;

/// The failure of a connection. It must be dropped after any of them, except after a statement that was refused.
#[derive(Debug)]
pub(in crate::adapter::mysql) enum ProtocolError {
    /// The server answered with an error.
    Server {
        /// Error number.
        number: u16,
        /// Error text, bounded.
        message: String,
    },
    /// The operating system reported an error, or the connection was closed.
    Io(io::Error),
    /// The connection was closed within a packet. The text has an excerpt.
    Truncated(String),
    /// An answer that is not one of a MySQL server, or beyond the limits.
    Unreadable(String),
    /// A TLS session could not be established.
    Tls(String),
    /// The server requested something that ham4db does not do for it.
    Denied(String),
}

impl From<io::Error> for ProtocolError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ProtocolError {
    /// An answer that does not fit, with an excerpt.
    pub(super) fn unreadable(what: &str, received: &[u8]) -> Self {
        Self::Unreadable(format!("{what}: received {}", excerpt(received)))
    }

    /// Reads an error packet.
    pub(super) fn from_packet(packet: &[u8]) -> Self {
        let mut cursor = Cursor::new(packet);
        let Some(number) = cursor.u8().and_then(|_| cursor.u16()) else {
            return Self::unreadable("an error without a number", packet);
        };
        // Before the handshake, an error has no SQL state.
        let text = match cursor.rest() {
            [b'#', state_and_text @ ..] => state_and_text.get(5..).unwrap_or_default(),
            text => text,
        };
        Self::Server {
            number,
            message: printable_text(text),
        }
    }
}

/// The text of a server's error, bounded and without control characters.
fn printable_text(text: &[u8]) -> String {
    let text = text.get(..limits::ERROR_TEXT).unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The length and the first bytes of what was received. Bytes that are not printable ASCII are written as `\xNN`.
pub(super) fn excerpt(received: &[u8]) -> String {
    let mut text = match received.len() {
        1 => String::from("1 byte, `"),
        length => format!("{length} bytes, `"),
    };
    for byte in received.iter().take(EXCERPT_BYTES) {
        match byte {
            b'`' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "\\x{byte:02x}")),
        }
    }
    text.push_str(if received.len() > EXCERPT_BYTES { "`..." } else { "`" });
    text
}
