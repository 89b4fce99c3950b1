//! The tokens of which a caller has to send one before the API changes something.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// Most tokens that one file may hold: rotating needs two, one for each team a few more.
const MOST: usize = 64;

/// A set of tokens. Their SHA-256 digests are kept and not they themselves, so nothing that prints or dumps this can tell one, and how long
/// a comparison takes says nothing about their length.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteTokens {
    digests: Vec<[u8; 32]>,
}

impl WriteTokens {
    /// Reads tokens, one a line; blank lines and blanks around a token do not count.
    ///
    /// # Errors
    /// When there is none, there are more than 64, or one could not be sent in a header: a token is printable ASCII without blanks. The
    /// error names lines by their number and quotes nothing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut digests = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let token = line.trim();
            if token.is_empty() {
                continue;
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "line {number} is no token: one a line, of printable ASCII without blanks"
                ));
            }
            digests.push(Sha256::digest(token.as_bytes()).into());
        }
        match digests.len() {
            0 => Err("holds no token".to_owned()),
            count if count > MOST => Err(format!("holds {count} tokens, and {MOST} is the most")),
            _ => Ok(Self { digests }),
        }
    }

    /// Whether this is one of them. Takes as long for a wrong one as for a right one.
    pub fn admit(&self, offered: &[u8]) -> bool {
        let offered: [u8; 32] = Sha256::digest(offered).into();
        let found = self
            .digests
            .iter()
            .fold(Choice::from(0), |found, digest| found | digest.ct_eq(&offered));
        bool::from(found)
    }

    /// How many there are, at least one.
    pub fn count(&self) -> usize {
        self.digests.len()
    }
}

impl fmt::Debug for WriteTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteTokens({})", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_token() {
        let tokens = WriteTokens::parse("first-token\r\n\n  second#token \n").unwrap();
        assert_eq!(tokens.count(), 2);
        for (offered, good) in [
            ("first-token", true),
            ("second#token", true),
            ("", false),
            ("first-toke", false),
            ("first-token\n", false),
            ("first-token second#token", false),
        ] {
            assert_eq!(tokens.admit(offered.as_bytes()), good, "{offered:?}");
        }
        assert_eq!(format!("{tokens:?}"), "WriteTokens(2)");
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_quoted() {
        for (text, expected) in [
            ("", "holds no token"),
            (" \n\n", "holds no token"),
            ("good\nmy secret\n", "line 2 is no token"),
            ("pässword\n", "line 1 is no token"),
        ] {
            let why = WriteTokens::parse(text).unwrap_err();
            assert!(why.starts_with(expected), "{why}");
            assert!(!why.contains("secret") && !why.contains("ssword"), "{why}");
        }
        assert!(WriteTokens::parse(&"token\n".repeat(65)).unwrap_err().contains("65"));
    }
}
