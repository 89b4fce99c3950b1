//! Results of statements in the text protocol.

use std::sync::Arc;

use super::connection::Connection;
use super::cursor::Cursor;
use super::error::ProtocolError;
use super::limits;

/// The rows of one statement, or the number and text of the server's error.
pub(in crate::adapter::mysql) type StatementResult = Result<Vec<Row>, (u16, String)>;

/// The server sends another result after this one.
const MORE_RESULTS: u16 = 8;

/// One row. Its values are read when they are needed.
#[derive(Clone, Debug)]
pub(in crate::adapter::mysql) struct Row {
    columns: Arc<[Box<str>]>,
    /// The packet: one value for each column, which was checked.
    packet: Box<[u8]>,
}

impl Row {
    /// The value of a column; `None` when there is no such column, `Some(None)` when the value is NULL.
    #[expect(clippy::option_option, reason = "a missing column and NULL are two things")]
    pub(in crate::adapter::mysql) fn by_name(&self, name: &str) -> Option<Option<&[u8]>> {
        let index = self.columns.iter().position(|column| &**column == name)?;
        self.at(index)
    }

    /// The value of the column with this index, as [`by_name`](Self::by_name).
    #[expect(clippy::option_option, reason = "a missing column and NULL are two things")]
    pub(in crate::adapter::mysql) fn at(&self, index: usize) -> Option<Option<&[u8]>> {
        let mut cursor = Cursor::new(&self.packet);
        for _ in 0..index {
            cursor.text_value()?;
        }
        if cursor.is_empty() { None } else { cursor.text_value() }
    }

    /// Checks that the packet holds one value for each column, and nothing else.
    fn new(columns: &Arc<[Box<str>]>, packet: Vec<u8>) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(&packet);
        let complete = columns.iter().all(|_| cursor.text_value().is_some());
        if !complete || !cursor.is_empty() {
            let what = format!("not a row of {} columns", columns.len());
            return Err(ProtocolError::unreadable(&what, &packet));
        }
        Ok(Self {
            columns: Arc::clone(columns),
            packet: packet.into_boxed_slice(),
        })
    }
}

/// What the results of one exchange may still hold.
struct Budget(usize);

impl Budget {
    /// Counts a packet.
    fn spend(&mut self, bytes: usize) -> Result<(), ProtocolError> {
        let left = self.0.checked_sub(bytes.saturating_add(limits::OVERHEAD));
        self.0 = left.ok_or_else(|| {
            ProtocolError::Unreadable(format!("the results are larger than {} bytes", limits::RESULT_BYTES))
        })?;
        Ok(())
    }
}

/// Reads the results of a text of one or more statements, up to and including the first error.
pub(super) async fn read_all(connection: &mut Connection) -> Result<Vec<StatementResult>, ProtocolError> {
    let mut budget = Budget(limits::RESULT_BYTES);
    let mut results = Vec::new();
    loop {
        let more = match read_one(connection, &mut budget).await {
            Ok((rows, more)) => {
                results.push(Ok(rows));
                more
            }
            Err(ProtocolError::Server { number, message }) => {
                results.push(Err((number, message)));
                false
            }
            Err(error) => return Err(error),
        };
        if !more {
            return Ok(results);
        }
        if results.len() >= limits::RESULTS {
            return Err(ProtocolError::Unreadable(format!(
                "more than {} results",
                limits::RESULTS
            )));
        }
    }
}

/// Reads one result. Returns whether another one follows.
async fn read_one(connection: &mut Connection, budget: &mut Budget) -> Result<(Vec<Row>, bool), ProtocolError> {
    let packet = read_packet(connection, budget).await?;
    match packet.first() {
        Some(0x00) => return Ok((Vec::new(), has_more(&packet)?)),
        Some(0xFB) => {
            return Err(ProtocolError::unreadable(
                "the server requests a file of this machine",
                &packet,
            ));
        }
        _ => {}
    }
    let mut cursor = Cursor::new(&packet);
    let count = cursor
        .lenenc_int()
        .filter(|count| (1..=limits::COLUMNS).contains(count) && cursor.is_empty());
    let count = count.ok_or_else(|| {
        ProtocolError::unreadable(&format!("not a number of columns (limit {})", limits::COLUMNS), &packet)
    })?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let packet = read_packet(connection, budget).await?;
        let name = column_name(&packet).ok_or_else(|| ProtocolError::unreadable("not a column", &packet))?;
        columns.push(name);
    }
    if !connection.deprecates_eof() {
        let packet = read_packet(connection, budget).await?;
        if packet.first() != Some(&0xFE) || packet.len() > EOF_BYTES {
            return Err(ProtocolError::unreadable("not the end of the columns", &packet));
        }
    }
    let columns: Arc<[Box<str>]> = columns.into();
    let mut rows = Vec::new();
    loop {
        let packet = read_packet(connection, budget).await?;
        // A value that begins so is longer than a packet may be.
        if packet.first() == Some(&0xFE) {
            let more = if connection.deprecates_eof() {
                has_more(&packet)
            } else {
                eof_has_more(&packet)
            };
            return Ok((rows, more?));
        }
        if rows.len() >= limits::ROWS {
            return Err(ProtocolError::Unreadable(format!(
                "the result has more than {} rows",
                limits::ROWS
            )));
        }
        rows.push(Row::new(&columns, packet)?);
    }
}

/// Reads a packet that is no error.
async fn read_packet(connection: &mut Connection, budget: &mut Budget) -> Result<Vec<u8>, ProtocolError> {
    let packet = connection.read(limits::PACKET.min(budget.0)).await?;
    if packet.first() == Some(&0xFF) {
        return Err(ProtocolError::from_packet(&packet));
    }
    budget.spend(packet.len())?;
    Ok(packet)
}

/// The length of an EOF packet.
const EOF_BYTES: usize = 5;

/// Whether another result follows an OK packet.
fn has_more(packet: &[u8]) -> Result<bool, ProtocolError> {
    let mut cursor = Cursor::new(packet);
    let mut status = || {
        cursor.u8()?;
        cursor.lenenc_int()?;
        cursor.lenenc_int()?;
        cursor.u16()
    };
    let status = status().ok_or_else(|| ProtocolError::unreadable("not the end of a result", packet))?;
    Ok(status & MORE_RESULTS != 0)
}

/// Whether another result follows an EOF packet.
fn eof_has_more(packet: &[u8]) -> Result<bool, ProtocolError> {
    match packet {
        [_, _, _, low, high] => Ok(u16::from_le_bytes([*low, *high]) & MORE_RESULTS != 0),
        _ => Err(ProtocolError::unreadable("not the end of a result", packet)),
    }
}

/// The name of a column; its fields are catalog, schema, table and original table, then the name.
fn column_name(packet: &[u8]) -> Option<Box<str>> {
    let mut cursor = Cursor::new(packet);
    for _ in 0..4 {
        cursor.lenenc_bytes()?;
    }
    let name = cursor.lenenc_bytes()?;
    let _original_name = cursor.lenenc_bytes()?;
    Some(String::from_utf8_lossy(name).into())
}
