//! The flavour and version of a server, and which statements and features it has.
//!
//! Parsed once from `@@version` and `@@version_comment`. Afterwards versions are numbers, and each question of the form
//! "does this server know ..." is a method here. Versions of different families do not compare: MariaDB 10 is neither
//! older nor newer than MySQL 9.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The family of server software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Flavour {
    /// MySQL Community or Enterprise, and servers that report MySQL without further detail.
    #[serde(rename = "MySQL")]
    MySql,
    /// Percona Server: MySQL's numbers, statements and GTIDs.
    Percona,
    /// MariaDB.
    #[serde(rename = "MariaDB")]
    MariaDb,
}

impl Flavour {
    /// Whether statements, variables and GTIDs are MariaDB's; otherwise they are MySQL's.
    pub fn is_mariadb(self) -> bool {
        self == Self::MariaDb
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::Percona => "Percona",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// A server's flavour and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerVersion {
    /// The family of server software.
    pub flavour: Flavour,
    /// 10 of 10.11.19.
    pub major: u16,
    /// 11 of 10.11.19.
    pub minor: u16,
    /// 19 of 10.11.19; 0 where the text names none.
    pub patch: u16,
    /// `@@version` as the server gave it.
    pub text: String,
}

/// `@@version` does not begin with `major.minor`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot read server version `{text}`: it does not begin with numbers like 8.4.8")]
pub struct VersionParseError {
    text: String,
}

impl ServerVersion {
    /// Parses `@@version` and `@@version_comment`.
    ///
    /// # Errors
    /// When `version` does not begin with `major.minor`.
    pub fn parse(version: &str, version_comment: &str) -> Result<Self, VersionParseError> {
        let mentions = |word: &str| {
            let word = word.to_ascii_lowercase();
            [version, version_comment]
                .iter()
                .any(|text| text.to_ascii_lowercase().contains(&word))
        };
        let flavour = if mentions("mariadb") {
            Flavour::MariaDb
        } else if mentions("percona") {
            Flavour::Percona
        } else {
            Flavour::MySql
        };
        // MariaDB 10 puts "5.5.5-" before its version in the handshake, because old replicas
        // took a first digit of 1 for MySQL 1.x; proxies and `version()` overrides copy it.
        let numbers = match version.strip_prefix("5.5.5-") {
            Some(real) if flavour.is_mariadb() => real,
            _ => version,
        };
        let refused = || VersionParseError {
            text: version.chars().take(80).collect(),
        };
        let mut parts = numbers.splitn(3, '.').map(leading_number);
        let major = parts.next().flatten().ok_or_else(refused)?;
        let minor = parts.next().flatten().ok_or_else(refused)?;
        let patch = parts.next().flatten().unwrap_or(0);
        Ok(Self {
            flavour,
            major,
            minor,
            patch,
            text: version.to_owned(),
        })
    }

    /// Whether the version is this one or a later one of the same family. The caller knows the family.
    pub fn at_least(&self, major: u16, minor: u16, patch: u16) -> bool {
        (self.major, self.minor, self.patch) >= (major, minor, patch)
    }

    /// Compares two versions of one family; `None` when one is MariaDB and the other is not.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        let numbers = |version: &Self| (version.major, version.minor, version.patch);
        (self.flavour.is_mariadb() == other.flavour.is_mariadb()).then(|| numbers(self).cmp(&numbers(other)))
    }

    /// The release series, `8.4` or `10.11`, which decides replication compatibility.
    pub fn major_version(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// `super_read_only`, which also stops accounts with SUPER: MySQL 5.7.8.
    pub fn has_super_read_only(&self) -> bool {
        self.mysql_since(5, 7, 8)
    }

    /// Named replication channels: `FOR CHANNEL` since MySQL 5.7.6, connection names in MariaDB.
    pub fn has_named_channels(&self) -> bool {
        self.flavour.is_mariadb() || self.mysql_since(5, 7, 6)
    }

    /// `SHOW REPLICA STATUS`, `START REPLICA`, `SHOW REPLICAS`, ... instead of SLAVE: MySQL
    /// 8.0.22. (MariaDB knows some of these words, but not for all statements: its old ones
    /// work in every supported version.)
    pub fn has_replica_statements(&self) -> bool {
        self.mysql_since(8, 0, 22)
    }

    /// `CHANGE REPLICATION SOURCE TO` instead of `CHANGE MASTER TO`: MySQL 8.0.23, one release
    /// after the other new words.
    pub fn has_change_replication_source(&self) -> bool {
        self.mysql_since(8, 0, 23)
    }

    /// `SHOW BINARY LOG STATUS` instead of `SHOW MASTER STATUS`: MySQL 8.2.
    pub fn has_binary_log_status(&self) -> bool {
        self.mysql_since(8, 2, 0)
    }

    /// GTIDs with tags, `uuid:tag:1`: MySQL 8.3.
    pub fn has_tagged_gtids(&self) -> bool {
        self.mysql_since(8, 3, 0)
    }

    /// `SET PERSIST_ONLY`: MySQL 8.0.
    pub fn has_persisted_variables(&self) -> bool {
        self.mysql_since(8, 0, 11)
    }

    /// A replica may fetch the source's public key for `caching_sha2_password` without TLS:
    /// MySQL 8.0, where that plugin became the default.
    pub fn has_source_public_key(&self) -> bool {
        self.mysql_since(8, 0, 11)
    }

    /// `performance_schema.processlist`, which is read without a global lock: MySQL 8.0.22.
    /// (5.7.39 has it too, empty unless it was asked for at startup.)
    pub fn has_performance_schema_processlist(&self) -> bool {
        self.mysql_since(8, 0, 22)
    }

    /// Semi-sync plugins named after source and replica may be installed: MySQL 8.0.26. The old
    /// ones may be installed all the same.
    pub fn has_semi_sync_source_plugin(&self) -> bool {
        self.mysql_since(8, 0, 26)
    }

    fn mysql_since(&self, major: u16, minor: u16, patch: u16) -> bool {
        !self.flavour.is_mariadb() && self.at_least(major, minor, patch)
    }
}

impl fmt::Display for ServerVersion {
    /// `MySQL 8.4.8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}.{}", self.flavour, self.major, self.minor, self.patch)
    }
}

/// The number at the beginning of `19-MariaDB-0+deb12u1-log`.
fn leading_number(text: &str) -> Option<u16> {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_real_servers_are_read() {
        let table = [
            (
                "10.11.19-MariaDB-0+deb12u1-log",
                "Debian 12",
                Flavour::MariaDb,
                (10, 11, 19),
                "10.11",
            ),
            ("5.5.5-10.6.1-MariaDB", "", Flavour::MariaDb, (10, 6, 1), "10.6"),
            ("11.8.2", "MariaDB Server", Flavour::MariaDb, (11, 8, 2), "11.8"),
            ("8.0.46-0ubuntu0.24.04.5", "(Ubuntu)", Flavour::MySql, (8, 0, 46), "8.0"),
            (
                "9.7.0",
                "MySQL Community Server - GPL",
                Flavour::MySql,
                (9, 7, 0),
                "9.7",
            ),
            (
                "8.0.36-28",
                "Percona Server (GPL), Release 28, Revision 47601f19",
                Flavour::Percona,
                (8, 0, 36),
                "8.0",
            ),
            (
                "5.7.44-48-log",
                "Percona Server (GPL)",
                Flavour::Percona,
                (5, 7, 44),
                "5.7",
            ),
            ("5.5.5", "MySQL Community Server", Flavour::MySql, (5, 5, 5), "5.5"),
            ("8.4", "", Flavour::MySql, (8, 4, 0), "8.4"),
            ("26.10.1", "", Flavour::MySql, (26, 10, 1), "26.10"),
        ];
        for (text, comment, flavour, numbers, series) in table {
            let version = ServerVersion::parse(text, comment).unwrap();
            assert_eq!(version.flavour, flavour, "{text}");
            assert_eq!((version.major, version.minor, version.patch), numbers, "{text}");
            assert_eq!(version.major_version(), series);
            assert_eq!(version.text, text);
        }
    }

    #[test]
    fn what_is_no_version_is_refused_by_name() {
        for text in ["", "MariaDB", "8", "8.x", "v8.0.1", "99999.1"] {
            let error = ServerVersion::parse(text, "").unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    fn version(text: &str) -> ServerVersion {
        ServerVersion::parse(text, "").unwrap()
    }

    #[test]
    fn capabilities_begin_with_their_release() {
        type Question = fn(&ServerVersion) -> bool;
        let table: [(&str, &str, Question); 9] = [
            ("5.7.7", "5.7.8", ServerVersion::has_super_read_only),
            ("5.7.5", "5.7.6", ServerVersion::has_named_channels),
            ("8.0.21", "8.0.22", ServerVersion::has_replica_statements),
            ("8.0.22", "8.0.23", ServerVersion::has_change_replication_source),
            ("8.1.0", "8.2.0", ServerVersion::has_binary_log_status),
            ("8.2.0", "8.3.0", ServerVersion::has_tagged_gtids),
            ("5.7.44", "8.0.11", ServerVersion::has_persisted_variables),
            ("8.0.21", "8.0.22", ServerVersion::has_performance_schema_processlist),
            ("8.0.25", "8.0.26", ServerVersion::has_semi_sync_source_plugin),
        ];
        for (before, since, question) in table {
            assert!(!question(&version(before)), "{before}");
            assert!(question(&version(since)), "{since}");
            assert!(question(&version("10.0.0")), "ten is above nine");
        }
        let mariadb = version("11.8.2-MariaDB");
        assert!(mariadb.has_named_channels());
        assert!(!mariadb.has_super_read_only() && !mariadb.has_replica_statements() && !mariadb.has_tagged_gtids());
    }

    #[test]
    fn versions_compare_within_a_family_only() {
        assert_eq!(version("8.0.9").compare(&version("8.0.10")), Some(Ordering::Less));
        assert_eq!(
            version("8.0.36").compare(&ServerVersion::parse("8.0.36-28", "Percona").unwrap()),
            Some(Ordering::Equal)
        );
        assert_eq!(version("9.7.0").compare(&version("10.11.2-MariaDB")), None);
    }

    #[test]
    fn json_is_a_plain_object() {
        let version = version("10.11.19-MariaDB-log");
        let json = serde_json::to_string(&version).unwrap();
        assert_eq!(
            json,
            r#"{"flavour":"MariaDB","major":10,"minor":11,"patch":19,"text":"10.11.19-MariaDB-log"}"#
        );
        assert_eq!(serde_json::from_str::<ServerVersion>(&json).unwrap(), version);
        assert_eq!(version.to_string(), "MariaDB 10.11.19");
    }
}
