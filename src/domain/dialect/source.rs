//! CHANGE REPLICATION SOURCE TO and its older form CHANGE MASTER TO.

use std::fmt;
use std::time::Duration;

use super::Dialect;
use crate::domain::quote::quote_literal;

/// Replaces a password in a printed statement.
const MASK: &str = "'***'";

/// A statement that may contain a password. `Display` and `Debug` mask it; [`expose`](Self::expose) returns the text
/// for the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement {
    text: String,
    masked: String,
}

impl Statement {
    /// The text with the password, for the connection only: never log it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.masked.push_str(text);
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Statement").field(&self.masked).finish()
    }
}

/// The position from which a replica continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePosition {
    /// By GTID: MySQL's auto-position; on MariaDB from `gtid_slave_pos`.
    Gtid,
    /// By GTID; on MariaDB from `gtid_current_pos`, which includes the transactions that the server wrote itself. An
    /// old primary can replicate with it at once, but every errant transaction then counts as received, and MariaDB
    /// deprecated it in 10.10: see [`Dialect::set_gtid_slave_position`].
    GtidCurrent,
    /// By binary log file and position on the source.
    File {
        /// Name of the source's binary log file.
        file: String,
        /// Position in that file, bytes.
        position: u64,
    },
    /// Unchanged. MySQL and MariaDB reset file and position when host or port change.
    Keep,
}

/// Whether the replica's connection to its source is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceTls {
    /// Unchanged. A new channel has none on MySQL. On MariaDB 11.4 and later a new channel requires TLS with a
    /// verifiable certificate.
    Keep,
    /// TLS; whether the certificate is verified is unchanged.
    On,
    /// No TLS.
    Off,
}

/// The new source of a replica. A `None` leaves the present value.
///
/// Borrowed and without `Debug`, because it contains a password.
#[derive(Clone)]
pub struct ChangeSource<'a> {
    /// The channel; empty for the default one.
    pub channel: &'a str,
    /// Name or address of the source.
    pub host: &'a str,
    /// Port of the source.
    pub port: u16,
    /// Replication account.
    pub user: Option<&'a str>,
    /// Its password.
    pub password: Option<&'a str>,
    /// Where to continue reading.
    pub position: SourcePosition,
    /// Encryption.
    pub tls: SourceTls,
    /// Seconds between attempts to connect; the server's default is 60, too long for a failover.
    pub connect_retry: Option<u32>,
    /// Attempts before the IO thread gives up; 0 is for ever. MySQL only: before version 12 MariaDB has it only as a
    /// start option, so it is left out there.
    pub retry_count: Option<u32>,
    /// Heartbeat period of an idle source, in milliseconds; 0 disables heartbeats, at most 4294967 s. It must be below
    /// `replica_net_timeout` to be useful.
    pub heartbeat_period: Option<Duration>,
}

impl Dialect {
    /// Points a channel at a source. Its IO thread must be stopped, and for file positions its applier too.
    ///
    /// Without TLS, or where that is unknown, MySQL 8 is told to request the source's public key. Otherwise a
    /// `caching_sha2_password` account fails with error 2061 on a source that has not seen the password since its
    /// start, which is the case for a new primary. A configured `SOURCE_PUBLIC_KEY_PATH` takes precedence, and over TLS
    /// the key is not used.
    pub fn change_source(&self, change: &ChangeSource<'_>) -> Statement {
        let (verb, side) = self.change_words();
        let mut statement = Statement {
            text: String::new(),
            masked: String::new(),
        };
        statement.push(&format!("{verb}{} TO ", self.connection_name(change.channel)));
        statement.push(&format!(
            "{side}_HOST = {}, {side}_PORT = {}",
            quote_literal(change.host),
            change.port
        ));
        if let Some(user) = change.user {
            statement.push(&format!(", {side}_USER = {}", quote_literal(user)));
        }
        if let Some(password) = change.password {
            statement.push(&format!(", {side}_PASSWORD = "));
            statement.text.push_str(&quote_literal(password));
            statement.masked.push_str(MASK);
        }
        if let Some(seconds) = change.connect_retry {
            statement.push(&format!(", {side}_CONNECT_RETRY = {seconds}"));
        }
        if let (Some(count), false) = (change.retry_count, self.is_mariadb()) {
            statement.push(&format!(", {side}_RETRY_COUNT = {count}"));
        }
        if let Some(period) = change.heartbeat_period {
            let milliseconds = period.as_millis().min(4_294_967_000);
            statement.push(&format!(
                ", {side}_HEARTBEAT_PERIOD = {}.{:03}",
                milliseconds / 1000,
                milliseconds % 1000
            ));
        }
        for option in self
            .tls_options(change.tls, side)
            .into_iter()
            .chain(self.position_options(&change.position, side))
        {
            statement.push(", ");
            statement.push(&option);
        }
        statement.push(&self.channel_clause(change.channel));
        statement
    }

    /// The first words of the statement, and the prefix of its options: `SOURCE_HOST` or `MASTER_HOST`.
    pub(super) fn change_words(&self) -> (&'static str, &'static str) {
        if self.version.has_change_replication_source() {
            ("CHANGE REPLICATION SOURCE", "SOURCE")
        } else {
            ("CHANGE MASTER", "MASTER")
        }
    }

    fn tls_options(&self, tls: SourceTls, side: &str) -> Vec<String> {
        let mut options = Vec::new();
        match tls {
            SourceTls::Keep => {}
            SourceTls::On => options.push(format!("{side}_SSL = 1")),
            SourceTls::Off => {
                options.push(format!("{side}_SSL = 0"));
                if self.is_mariadb() {
                    // Enabled by default since 11.4. While it is enabled, TLS is required whatever MASTER_SSL is.
                    options.push(format!("{side}_SSL_VERIFY_SERVER_CERT = 0"));
                }
            }
        }
        if tls != SourceTls::On && self.version.has_source_public_key() {
            options.push(format!("GET_{side}_PUBLIC_KEY = 1"));
        }
        options
    }

    fn position_options(&self, position: &SourcePosition, side: &str) -> Vec<String> {
        match (position, self.is_mariadb()) {
            (SourcePosition::Gtid, true) => vec!["MASTER_USE_GTID = slave_pos".to_owned()],
            (SourcePosition::GtidCurrent, true) => vec!["MASTER_USE_GTID = current_pos".to_owned()],
            (SourcePosition::Gtid | SourcePosition::GtidCurrent, false) => {
                vec![format!("{side}_AUTO_POSITION = 1")]
            }
            (SourcePosition::File { file, position }, is_mariadb) => vec![
                if is_mariadb {
                    "MASTER_USE_GTID = no".to_owned()
                } else {
                    format!("{side}_AUTO_POSITION = 0")
                },
                format!("{side}_LOG_FILE = {}", quote_literal(file)),
                format!("{side}_LOG_POS = {position}"),
            ],
            (SourcePosition::Keep, _) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::ServerVersion;

    fn change(password: &str) -> ChangeSource<'_> {
        ChangeSource {
            channel: "",
            host: "db1",
            port: 3306,
            user: Some("repl"),
            password: Some(password),
            position: SourcePosition::Gtid,
            tls: SourceTls::On,
            connect_retry: None,
            retry_count: None,
            heartbeat_period: None,
        }
    }

    fn dialect(version: &str) -> Dialect {
        Dialect::new(&ServerVersion::parse(version, "").unwrap())
    }

    #[test]
    fn a_password_is_sent_and_never_shown() {
        let statement = dialect("8.4.8").change_source(&change("s3cr'et\\"));
        assert!(
            statement.expose().contains("SOURCE_PASSWORD = 's3cr''et\\\\'"),
            "it is on the wire"
        );
        for shown in [
            statement.to_string(),
            format!("{statement:?}"),
            format!("{statement:#?}"),
        ] {
            assert!(!shown.contains("s3cr"), "{shown}");
            assert!(shown.contains("SOURCE_PASSWORD = '***'"), "{shown}");
        }
    }

    #[test]
    fn values_cannot_add_options() {
        let mut change = change("x");
        change.host = "db1', SOURCE_PORT = 1 -- ";
        let statement = dialect("9.7.4").change_source(&change);
        assert!(statement.expose().starts_with(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'db1'', SOURCE_PORT = 1 -- ', SOURCE_PORT = 3306"
        ));
    }

    #[test]
    fn the_public_key_is_fetched_unless_tls_is_certain() {
        let table = [
            ("8.0.36", SourceTls::On, false),
            ("8.0.36", SourceTls::Off, true),
            ("8.0.36", SourceTls::Keep, true),
            ("5.7.44", SourceTls::Off, false),
            ("11.8.2-MariaDB", SourceTls::Off, false),
        ];
        for (version, tls, wanted) in table {
            let statement = dialect(version).change_source(&ChangeSource { tls, ..change("x") });
            assert_eq!(statement.expose().contains("PUBLIC_KEY"), wanted, "{version} {tls:?}");
        }
    }

    #[test]
    fn a_heartbeat_is_written_in_seconds_with_milliseconds() {
        for (period, wanted) in [
            (Duration::from_millis(250), "0.250"),
            (Duration::from_micros(2_000_900), "2.000"),
            (Duration::ZERO, "0.000"),
            (Duration::MAX, "4294967.000"),
        ] {
            let statement = dialect("8.4.8").change_source(&ChangeSource {
                heartbeat_period: Some(period),
                ..change("x")
            });
            assert!(
                statement
                    .expose()
                    .contains(&format!("SOURCE_HEARTBEAT_PERIOD = {wanted},")),
                "{statement}"
            );
        }
    }
}
