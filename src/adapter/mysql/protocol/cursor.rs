//! Reads the fields of a packet. Each read checks the bounds first and returns `None` when the packet ends too early.

/// The unread rest of a packet.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Begins at the first byte of `packet`.
    pub(super) fn new(packet: &'a [u8]) -> Self {
        Self { rest: packet }
    }

    /// Everything that was not read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (read, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(read)
    }

    /// A byte.
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    /// An integer of two bytes.
    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    /// An integer of four bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    /// An integer of `count` bytes, at most eight.
    fn integer(&mut self, count: usize) -> Option<u64> {
        let read = self.bytes(count)?;
        Some(read.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    /// A length-encoded integer.
    pub(super) fn lenenc_int(&mut self) -> Option<u64> {
        match self.u8()? {
            small @ 0..=0xFA => Some(u64::from(small)),
            0xFC => self.integer(2),
            0xFD => self.integer(3),
            0xFE => self.integer(8),
            // NULL, and the begin of an error.
            0xFB | 0xFF => None,
        }
    }

    /// Bytes with their length in front.
    pub(super) fn lenenc_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.lenenc_int()?;
        self.bytes(usize::try_from(length).ok()?)
    }

    /// A value of a text row: `Some(None)` is NULL.
    #[expect(
        clippy::option_option,
        reason = "NULL, a value, and a row that ends too early are three things"
    )]
    pub(super) fn text_value(&mut self) -> Option<Option<&'a [u8]>> {
        if self.rest.first() == Some(&0xFB) {
            self.u8()?;
            return Some(None);
        }
        self.lenenc_bytes().map(Some)
    }

    /// Bytes up to a zero byte, which is skipped.
    pub(super) fn nul_terminated(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == 0)?;
        let read = self.bytes(end)?;
        self.u8()?;
        Some(read)
    }

    /// Bytes up to a zero byte, which is skipped, or to the end.
    pub(super) fn nul_terminated_or_rest(&mut self) -> &'a [u8] {
        self.nul_terminated().unwrap_or_else(|| std::mem::take(&mut self.rest))
    }
}
