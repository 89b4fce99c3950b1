//! The server's side of the MySQL protocol: as much of it as a client of text statements needs.

use std::borrow::Cow;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// `CLIENT_LONG_PASSWORD | FOUND_ROWS | LONG_FLAG | CONNECT_WITH_DB | PROTOCOL_41 | TRANSACTIONS | SECURE_CONNECTION |
/// MULTI_STATEMENTS | MULTI_RESULTS | PS_MULTI_RESULTS | PLUGIN_AUTH | DEPRECATE_EOF`: no TLS, no compression.
const CAPABILITIES: u32 = 0x0000_0001
    | 0x0000_0002
    | 0x0000_0004
    | 0x0000_0008
    | 0x0000_0200
    | 0x0000_2000
    | 0x0000_8000
    | 0x0001_0000
    | 0x0002_0000
    | 0x0004_0000
    | 0x0008_0000
    | DEPRECATE_EOF;
/// The client expects an OK packet after the rows and nothing after the columns.
const DEPRECATE_EOF: u32 = 0x0100_0000;
/// `utf8mb4_general_ci`.
const COLLATION: u8 = 45;
/// `SERVER_STATUS_AUTOCOMMIT`, and `SERVER_MORE_RESULTS_EXISTS`.
const AUTOCOMMIT: u16 = 0x0002;
const MORE_RESULTS: u16 = 0x0008;
/// The longest packet that is read. The statements of a client are far shorter.
const MAX_PACKET: usize = 1 << 20;

/// A value of a row; `None` is NULL.
pub(crate) type Value = Option<Cow<'static, str>>;

/// The answer to one statement.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It was carried out and has no rows.
    Done,
    /// Rows with the names of their columns.
    Rows(Vec<Cow<'static, str>>, Vec<Vec<Value>>),
    /// An error with its number.
    Error(u16, String),
}

impl Answer {
    /// One row of one value.
    pub(crate) fn value(name: &'static str, value: Value) -> Self {
        Self::Rows(vec![name.into()], vec![vec![value]])
    }

    /// No rows of one column.
    pub(crate) fn nothing(name: &'static str) -> Self {
        Self::Rows(vec![name.into()], Vec::new())
    }
}

/// Reads a packet. Returns its sequence number and content.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let header = from.read_u32_le().await?;
    let [.., sequence] = header.to_le_bytes();
    let length = usize::try_from(header & 0x00ff_ffff).map_err(io::Error::other)?;
    if length > MAX_PACKET {
        return Err(io::Error::other("the packet is too long"));
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content).await?;
    Ok((sequence, content))
}

/// Whether a client, by its answer to the greeting, expects no EOF packets.
pub(crate) fn expects_no_eof(login: &[u8]) -> bool {
    let flags = login.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    flags.is_some_and(|flags| flags & DEPRECATE_EOF != 0)
}

/// Packets that are sent together.
#[derive(Debug)]
pub(crate) struct Packets {
    bytes: Vec<u8>,
    sequence: u8,
    no_eof: bool,
}

impl Packets {
    /// Packets that begin with this sequence number.
    pub(crate) fn new(sequence: u8, no_eof: bool) -> Self {
        Self {
            bytes: Vec::with_capacity(4096),
            sequence,
            no_eof,
        }
    }

    /// What is sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn packet(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        self.bytes.extend([0, 0, 0, self.sequence]);
        write(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - begin - 4).expect("because a packet here is short");
        if let Some(header) = self.bytes.get_mut(begin..begin + 3) {
            header.copy_from_slice(length.to_le_bytes().get(..3).unwrap_or_default());
        }
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// The greeting. Any password is right, so the challenge is always the same.
    pub(crate) fn greeting(&mut self, version: &str, connection: u64) {
        let connection = u32::try_from(connection).unwrap_or(u32::MAX);
        let [low, high, upper, top] = CAPABILITIES.to_le_bytes();
        self.packet(|to| {
            to.push(10);
            to.extend(version.as_bytes());
            to.push(0);
            to.extend(connection.to_le_bytes());
            to.extend(b"12345678\0");
            to.extend([low, high, COLLATION]);
            to.extend(AUTOCOMMIT.to_le_bytes());
            to.extend([upper, top, 21]);
            to.extend([0; 10]);
            to.extend(b"123456789012\0mysql_native_password\0");
        });
    }

    fn status(more: bool) -> [u8; 2] {
        let status = if more { AUTOCOMMIT | MORE_RESULTS } else { AUTOCOMMIT };
        status.to_le_bytes()
    }

    /// One answer; `more`: others follow.
    pub(crate) fn answer(&mut self, answer: &Answer, more: bool) {
        match answer {
            Answer::Done => self.packet(|to| {
                to.extend([0, 0, 0]);
                to.extend(Self::status(more));
                to.extend([0, 0]);
            }),
            Answer::Error(number, message) => self.packet(|to| {
                to.push(0xff);
                to.extend(number.to_le_bytes());
                to.extend(b"#HY000");
                to.extend(message.as_bytes());
            }),
            Answer::Rows(columns, rows) => {
                self.packet(|to| length(to, columns.len()));
                for name in columns {
                    self.packet(|to| column(to, name));
                }
                if !self.no_eof {
                    self.eof(more);
                }
                for row in rows {
                    self.packet(|to| {
                        for value in row {
                            match value {
                                Some(value) => text(to, value.as_bytes()),
                                None => to.push(0xfb),
                            }
                        }
                    });
                }
                if self.no_eof {
                    self.packet(|to| {
                        to.extend([0xfe, 0, 0]);
                        to.extend(Self::status(more));
                        to.extend([0, 0]);
                    });
                } else {
                    self.eof(more);
                }
            }
        }
    }

    fn eof(&mut self, more: bool) {
        self.packet(|to| {
            to.extend([0xfe, 0, 0]);
            to.extend(Self::status(more));
        });
    }
}

fn length(to: &mut Vec<u8>, length: usize) {
    let length = u32::try_from(length).expect("because an answer here is short");
    let [low, high, upper, _] = length.to_le_bytes();
    match length {
        0..=250 => to.push(low),
        251..=0xffff => to.extend([0xfc, low, high]),
        _ => to.extend([0xfd, low, high, upper]),
    }
}

fn text(to: &mut Vec<u8>, bytes: &[u8]) {
    length(to, bytes.len());
    to.extend(bytes);
}

/// A column of type `VAR_STRING`.
fn column(to: &mut Vec<u8>, name: &str) {
    text(to, b"def");
    for empty_or_name in ["", "", "", name, name] {
        text(to, empty_or_name.as_bytes());
    }
    to.extend([12, COLLATION, 0]);
    to.extend(1024_u32.to_le_bytes());
    to.extend([253, 0, 0, 0, 0, 0]);
}

/// The statements of a text, without the semicolons between them.
pub(crate) fn statements(text: &str) -> Vec<&str> {
    let (mut found, mut begin, mut quote) = (Vec::new(), 0, None);
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'\'' | b'`' | b'"') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            (None, b';') => {
                found.extend(text.get(begin..at));
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.extend(text.get(begin..));
    found.into_iter().map(str::trim).filter(|one| !one.is_empty()).collect()
}
