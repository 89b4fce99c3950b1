//! The tokens that authorise changes through the API.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// The most tokens in one file. A rotation needs two; one for each team needs a few more.
const MAX_TOKENS: usize = 64;

/// A set of tokens. Only their SHA-256 digests are kept, so no output of this value discloses a token, and the time of a comparison
/// does not depend on the length of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteTokens {
    digests: Vec<[u8; 32]>,
}

impl WriteTokens {
    /// Reads tokens, one on each line; blank lines and blanks around a token are ignored.
    ///
    /// # Errors
    /// When there is no token, there are more than 64, or a token is not printable ASCII without blanks, which a header requires. The
    /// error names lines by their number and quotes no text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut digests = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let token = line.trim();
            if token.is_empty() {
                continue;
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "line {number} is no token: each line holds one token of printable ASCII without blanks"
                ));
            }
            digests.push(Sha256::digest(token.as_bytes()).into());
        }
        match digests.len() {
            0 => Err("contains no token".to_owned()),
            count if count > MAX_TOKENS => Err(format!("contains {count} tokens; at most {MAX_TOKENS} are allowed")),
            _ => Ok(Self { digests }),
        }
    }

    /// Whether `offered` is one of the tokens. Takes equally long for a wrong and for a right token.
    pub fn admit(&self, offered: &[u8]) -> bool {
        let offered: [u8; 32] = Sha256::digest(offered).into();
        let found = self
            .digests
            .iter()
            .fold(Choice::from(0), |found, digest| found | digest.ct_eq(&offered));
        bool::from(found)
    }

    /// The number of tokens, at least 1.
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
            ("", "contains no token"),
            (" \n\n", "contains no token"),
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
