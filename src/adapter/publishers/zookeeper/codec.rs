//! The frames of ZooKeeper's protocol, as far as pairs need them: big-endian numbers, and texts and lists with their length in
//! front.

use crate::domain::declared::PublishError;

/// The largest frame from a server; a node has 1 MiB at most.
pub(super) const MAX_FRAME: usize = 4 * 1024 * 1024;
/// The most entries of a list from a server.
const MAX_LIST: usize = 100_000;

/// A part of an answer is not as the protocol says.
pub(super) fn invalid(what: &str) -> PublishError {
    PublishError::Refused(format!("its answer is no ZooKeeper answer: {what}"))
}

/// Builds a request.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn int(mut self, number: i32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn long(mut self, number: i64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn bool(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    pub(super) fn buffer(self, bytes: &[u8]) -> Self {
        let mut with_length = self.int(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        with_length.0.extend_from_slice(bytes);
        with_length
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.buffer(text.as_bytes())
    }

    pub(super) fn append(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The bytes with their length in front.
    pub(super) fn into_frame(self) -> Vec<u8> {
        Self::default().buffer(&self.0).0
    }
}

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PublishError> {
        let (first, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or_else(|| invalid("it is too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn int(&mut self) -> Result<i32, PublishError> {
        self.take().map(i32::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<i64, PublishError> {
        self.take().map(i64::from_be_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, PublishError> {
        self.take().map(|[byte]| byte != 0)
    }

    /// Bytes; the length -1 stands for none.
    pub(super) fn buffer(&mut self) -> Result<&'a [u8], PublishError> {
        let length = self.int()?;
        if length == -1 {
            return Ok(&[]);
        }
        let length = usize::try_from(length).map_err(|_| invalid("a length is negative"))?;
        let (bytes, rest) = self
            .0
            .split_at_checked(length)
            .ok_or_else(|| invalid("it is too short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<String, PublishError> {
        Ok(String::from_utf8_lossy(self.buffer()?).into_owned())
    }

    pub(super) fn texts(&mut self) -> Result<Vec<String>, PublishError> {
        let count = self.int()?;
        if count == -1 {
            return Ok(Vec::new());
        }
        let count = usize::try_from(count).ok().filter(|count| *count <= MAX_LIST);
        let count = count.ok_or_else(|| invalid("a list has an impossible length"))?;
        (0..count).map(|_| self.text()).collect()
    }

    /// The version of the content of a node, from its properties.
    pub(super) fn stat_version(&mut self) -> Result<i32, PublishError> {
        for _ in 0..4 {
            self.long()?;
        }
        let version = self.int()?;
        self.int()?;
        self.int()?;
        self.long()?;
        self.int()?;
        self.int()?;
        self.long()?;
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let frame = Writer::default()
            .int(-7)
            .long(1 << 40)
            .bool(true)
            .text("a/b")
            .buffer(&[1, 2])
            .into_frame();
        let mut reader = Reader::new(&frame);
        assert_eq!(usize::try_from(reader.int().unwrap()).unwrap(), frame.len() - 4);
        assert_eq!(reader.int().unwrap(), -7);
        assert_eq!(reader.long().unwrap(), 1 << 40);
        assert!(reader.bool().unwrap());
        assert_eq!(reader.text().unwrap(), "a/b");
        assert_eq!(reader.buffer().unwrap(), [1, 2]);
        assert!(reader.int().is_err());
    }

    #[test]
    fn lengths_from_a_server_are_checked() {
        let negative = Writer::default().int(-2).into_frame();
        assert!(Reader::new(&negative[4..]).buffer().is_err());
        let long = Writer::default().int(1000).into_frame();
        assert!(Reader::new(&long[4..]).buffer().is_err());
        let many = Writer::default().int(i32::MAX).into_frame();
        assert!(Reader::new(&many[4..]).texts().is_err());
        let none = Writer::default().int(-1).int(-1).into_frame();
        let mut reader = Reader::new(&none[4..]);
        assert!(reader.buffer().unwrap().is_empty());
        assert!(reader.texts().unwrap().is_empty());
    }
}
