//! The address of a server: host and port.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Port of an address that names none.
pub const DEFAULT_PORT: u16 = 3306;

/// The address of a MySQL or MariaDB server.
///
/// An address is an attribute of an instance, not its identity (see [`crate::domain::instance::Identity`]): one server
/// may have several. Serialised as `host:port`; an IPv6 host is written in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct InstanceKey {
    /// Host name or IP address, never empty, never with brackets.
    pub hostname: String,
    /// TCP port, 1 to 65535.
    pub port: u16,
}

/// An address that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyParseError {
    /// The host is missing.
    #[error("`{0}` has no host; write host:port")]
    NoHost(String),
    /// The part after the last colon is not a port.
    #[error("Invalid port: {0}")]
    BadPort(String),
}

impl InstanceKey {
    /// Makes an address from its parts.
    pub fn new(hostname: impl Into<String>, port: u16) -> Self {
        Self {
            hostname: hostname.into(),
            port,
        }
    }

    /// Parses `host`, `host:port` or `[v6]:port`; `default_port` is used when the port is missing.
    ///
    /// # Errors
    /// When the host is empty or the port is not a number from 1 to 65535.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, KeyParseError> {
        let text = text.trim();
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| KeyParseError::NoHost(text.to_owned()))?;
            (host, after.strip_prefix(':'))
        } else if text.matches(':').count() > 1 {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(KeyParseError::NoHost(text.to_owned()));
        }
        let port = match port {
            None | Some("") => default_port,
            Some(port) => port
                .parse()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(|| KeyParseError::BadPort(port.to_owned()))?,
        };
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hostname.contains(':') {
            write!(f, "[{}]:{}", self.hostname, self.port)
        } else {
            write!(f, "{}:{}", self.hostname, self.port)
        }
    }
}

impl FromStr for InstanceKey {
    type Err = KeyParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, DEFAULT_PORT)
    }
}

impl From<InstanceKey> for String {
    fn from(key: InstanceKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for InstanceKey {
    type Error = KeyParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_port() {
        for (text, host, port) in [
            ("db1", "db1", 3306),
            ("db1:3307", "db1", 3307),
            (" db1:3307 ", "db1", 3307),
            ("[::1]:3310", "::1", 3310),
            ("fe80::1", "fe80::1", 3306),
        ] {
            assert_eq!(
                InstanceKey::parse(text, 3306).unwrap(),
                InstanceKey::new(host, port),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_address_says_what_is_wrong() {
        assert_eq!(
            InstanceKey::parse("db1:abc", 3306).unwrap_err().to_string(),
            "Invalid port: abc"
        );
        assert_eq!(
            InstanceKey::parse("db1:0", 3306).unwrap_err().to_string(),
            "Invalid port: 0"
        );
        assert!(
            InstanceKey::parse(":3306", 3306)
                .unwrap_err()
                .to_string()
                .contains("has no host")
        );
    }

    #[test]
    fn an_ipv6_address_is_printed_so_that_it_reads_back() {
        let key = InstanceKey::new("::1", 3306);
        assert_eq!(key.to_string().parse::<InstanceKey>().unwrap(), key);
    }
}
