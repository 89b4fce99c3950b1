//! Settings, accounts and privileges of a server: the part of its facts that rarely changes and is read about once a
//! minute.
//!
//! Unknown is a value of its own: a table that the account of ham4db may not read proves nothing about its content.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::scheduled_events::EnabledEvents;

/// Number of account names that are kept of a list, enough for a start of an investigation.
pub const MAX_NAMES: usize = 5;

/// Accounts that the server creates for itself, locked or without a password.
const SYSTEM_USERS: [&str; 4] = ["mysql.session", "mysql.sys", "mysql.infoschema", "mariadb.sys"];
/// Users that administer the server on its own machine.
const LOCAL_ADMINISTRATORS: [&str; 2] = ["root", "mysql"];
/// Names of the local host in accounts.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Settings and privileges of one server. `None` is unknown: not read, or not present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerSettings {
    /// `sync_binlog`: number of commits after which the binary log is flushed to disk; 0 leaves that to the operating
    /// system.
    pub sync_binlog: Option<u64>,
    /// `innodb_flush_log_at_trx_commit`: 1 flushes the redo log at each commit.
    pub flush_log_at_commit: Option<u64>,
    /// `relay_log_recovery`: at a start the server drops relay log that was not applied and fetches it again.
    pub relay_log_recovery: Option<bool>,
    /// `replica_net_timeout`, seconds: how long a replica waits for data before it considers the connection lost.
    pub replica_net_timeout_seconds: Option<u64>,
    /// Heartbeat period of the managed channel, milliseconds; 0 is never, `None` without a channel.
    pub heartbeat_millis: Option<u64>,
    /// Whether the server is writable after its next start.
    pub boot: Boot,
    /// Whether the server is read-only since its last start by its configuration and not by a statement.
    pub read_only_since_boot: Option<bool>,
    /// The account that ham4db uses on the server, as `user@host` of the grant that matched.
    pub account: String,
    /// The privileges of that account.
    pub privileges: Option<Privileges>,
    /// Accounts that can write despite `read_only`, without the account of ham4db, the server's own accounts, and
    /// administrators on the server's machine.
    #[serde(rename = "unstopped")]
    pub past_read_only: Option<Accounts>,
    /// The enabled events. Unknown without the EVENT privilege on all schemas: the server then shows only some, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<EnabledEvents>,
    /// Whether a backup holds its lock on the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_lock: Option<bool>,
}

/// The state of a server after its next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Boot {
    /// Unknown, with the reason.
    Unknown(String),
    /// Writable: a failed primary takes writes from its start until ham4db notices it.
    Writable,
    /// Read-only.
    ReadOnly,
}

impl Default for Boot {
    fn default() -> Self {
        Self::Unknown(String::from("not read"))
    }
}

impl Boot {
    /// The value of `read_only` after the next start, as MySQL reports it. A persisted value wins. Otherwise it is the
    /// value of the last start, which is the present value unless a statement changed it since (`VARIABLE_SOURCE` is
    /// then `DYNAMIC`, and the old value is lost).
    ///
    /// The keys of each map are `read_only` and `super_read_only`; the values are the persisted value, the source, and
    /// the present value.
    pub fn of_mysql(
        persisted: &BTreeMap<String, String>,
        sources: &BTreeMap<String, String>,
        present: &BTreeMap<String, bool>,
    ) -> Self {
        let mut unknown = None;
        // super_read_only implies read_only.
        for name in ["super_read_only", "read_only"] {
            let at_start = match (persisted.get(name), sources.get(name)) {
                (Some(value), _) => Some(is_on(value)),
                (None, Some(source)) if source.eq_ignore_ascii_case("DYNAMIC") => None,
                (None, Some(_)) => present.get(name).copied(),
                (None, None) => None,
            };
            match at_start {
                Some(true) => return Self::ReadOnly,
                Some(false) => {}
                None if sources.contains_key(name) => {
                    unknown = Some(format!(
                        "{name} was changed since the start, and nothing is persisted for the next one"
                    ));
                }
                None => unknown = Some(format!("the source of {name} is not reported")),
            }
        }
        unknown.map_or(Self::Writable, Self::Unknown)
    }
}

fn is_on(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("ON")
}

/// The privileges of one account, from `SHOW GRANTS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Privileges {
    /// `ALL PRIVILEGES ON *.*`.
    pub all: bool,
    /// Global privileges, upper case.
    pub global: BTreeSet<String>,
}

impl Privileges {
    /// Parses the rows of `SHOW GRANTS`, which include active roles on both flavours. Privileges on single schemas or
    /// tables are left out, and so is the password hash that MariaDB prints in these rows.
    pub fn of_grants<'a>(rows: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for row in rows {
            let Some((names, _)) = row
                .strip_prefix("GRANT ")
                .and_then(|rest| rest.split_once(" ON *.* TO "))
            else {
                continue;
            };
            for name in names.split(',').map(|name| name.trim().to_ascii_uppercase()) {
                if name == "ALL PRIVILEGES" || name == "ALL" {
                    found.all = true;
                } else {
                    found.global.insert(name);
                }
            }
        }
        found
    }

    /// Whether the account has a privilege globally.
    pub fn has(&self, privilege: &str) -> bool {
        self.all || self.global.contains(privilege)
    }
}

/// A list of accounts: the number, and the first few names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Accounts {
    /// How many.
    pub count: usize,
    /// At most [`MAX_NAMES`] of them, as `user@host`.
    pub names: Vec<String>,
}

impl Accounts {
    /// Selects the accounts that count from the grantees (`'user'@'host'`): not `own` (`user@host`), not the server's
    /// own, not an administrator on the server's machine, which `hostname` also names.
    pub fn of_grantees<'a>(grantees: impl IntoIterator<Item = &'a str>, own: &str, hostname: &str) -> Self {
        let counts = |(user, host): &(String, String)| {
            let is_local = LOCAL_HOSTS.contains(&host.as_str()) || (!hostname.is_empty() && host == hostname);
            let is_administrator = is_local && LOCAL_ADMINISTRATORS.contains(&user.as_str());
            let is_of_the_server = SYSTEM_USERS.contains(&user.as_str());
            !is_administrator && !is_of_the_server && format!("{user}@{host}") != own
        };
        let accounts: BTreeSet<String> = grantees
            .into_iter()
            .filter_map(grantee)
            .filter(counts)
            .map(|(user, host)| format!("{user}@{host}"))
            .collect();
        Self {
            count: accounts.len(),
            names: accounts.into_iter().take(MAX_NAMES).collect(),
        }
    }
}

impl std::fmt::Display for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names.join(", "))?;
        match self.count.saturating_sub(self.names.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Splits `'user'@'host'` into user and host.
fn grantee(text: &str) -> Option<(String, String)> {
    let (user, host) = text.rsplit_once('@')?;
    let plain = |quoted: &str| {
        quoted
            .strip_prefix('\'')
            .and_then(|rest| rest.strip_suffix('\''))
            .unwrap_or(quoted)
            .replace("''", "'")
    };
    Some((plain(user), plain(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_a_start_brings_is_what_is_persisted_then_what_nobody_has_changed() {
        let compiled = map(&[("read_only", "COMPILED"), ("super_read_only", "COMPILED")]);
        let changed = map(&[("read_only", "DYNAMIC"), ("super_read_only", "COMPILED")]);
        let given = map(&[("read_only", "COMPILED"), ("super_read_only", "COMMAND_LINE")]);
        let persisted = map(&[("super_read_only", "ON")]);
        let nothing = map(&[]);
        let present = |read_only, super_read_only| {
            BTreeMap::from([
                ("read_only".to_owned(), read_only),
                ("super_read_only".to_owned(), super_read_only),
            ])
        };
        let told = Boot::of_mysql;
        assert_eq!(told(&nothing, &compiled, &present(false, false)), Boot::Writable);
        assert_eq!(told(&nothing, &given, &present(true, true)), Boot::ReadOnly);
        assert_eq!(told(&persisted, &changed, &present(false, false)), Boot::ReadOnly);
        assert!(matches!(
            told(&nothing, &changed, &present(true, false)),
            Boot::Unknown(_)
        ));
        assert!(matches!(
            told(&nothing, &nothing, &present(false, false)),
            Boot::Unknown(_)
        ));
        // OFF persisted for one says nothing about the other.
        let off = map(&[("super_read_only", "OFF")]);
        assert!(matches!(told(&off, &changed, &present(false, false)), Boot::Unknown(_)));
    }

    #[test]
    fn grants_are_read_without_the_password() {
        let privileges = Privileges::of_grants([
            "GRANT RELOAD, PROCESS, REPLICATION SLAVE ON *.* TO `x`@`%` IDENTIFIED BY PASSWORD '*B69027'",
            "GRANT CONNECTION_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `x`@`%`",
            "GRANT SELECT (a, b), INSERT ON `d`.`t` TO `x`@`%`",
            "GRANT `r1`@`%` TO `x`@`%`",
            "SET DEFAULT ROLE `r1` FOR `x`@`%`",
        ]);
        let names: Vec<&str> = privileges.global.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "CONNECTION_ADMIN",
                "PROCESS",
                "RELOAD",
                "REPLICATION SLAVE",
                "SYSTEM_VARIABLES_ADMIN"
            ]
        );
        assert!(privileges.has("PROCESS") && !privileges.has("SUPER") && !privileges.has("SELECT"));
        let everything = Privileges::of_grants(["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"]);
        assert!(everything.has("SUPER"));
    }

    #[test]
    fn accounts_that_count_are_named_up_to_five() {
        let grantees = [
            "'app'@'%'",
            "'o''neil'@'10.%'",
            "'root'@'localhost'",
            "'root'@'db1'",
            "'root'@'%'",
            "'mysql.session'@'localhost'",
            "'ham4db'@'%'",
        ];
        let accounts = Accounts::of_grantees(grantees, "ham4db@%", "db1");
        assert_eq!(accounts.names, ["app@%", "o'neil@10.%", "root@%"]);
        assert_eq!(accounts.to_string(), "app@%, o'neil@10.%, root@%");
        let many: Vec<String> = (0..9).map(|n| format!("'u{n}'@'%'")).collect();
        let accounts = Accounts::of_grantees(many.iter().map(String::as_str), "", "");
        assert_eq!((accounts.count, accounts.names.len()), (9, MAX_NAMES));
        assert!(accounts.to_string().ends_with("u4@% and 4 more"), "{accounts}");
    }
}
