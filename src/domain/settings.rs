//! How a server is set, and who may do what on it: the part of its facts that rarely changes and is read about once a minute.
//!
//! Unknown is a value of its own throughout: a table that our account may not read says nothing about its content.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Names of accounts that are kept of a list, however long it is: enough to know where to look.
pub const MOST_NAMES: usize = 5;

/// Accounts that the server makes for itself, locked or without a password.
const SYSTEM_USERS: [&str; 4] = ["mysql.session", "mysql.sys", "mysql.infoschema", "mariadb.sys"];
/// Users with which a person administers the server on its own machine.
const LOCAL_ADMINISTRATORS: [&str; 2] = ["root", "mysql"];
/// The machine itself, as accounts name it.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Settings and rights of one server. `None` is unknown: not read, or not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerSettings {
    /// `sync_binlog`: commits after which the binary log is flushed to disk; 0 leaves it to the operating system.
    pub sync_binlog: Option<u64>,
    /// `innodb_flush_log_at_trx_commit`: 1 flushes the redo log at each commit.
    pub flush_log_at_commit: Option<u64>,
    /// `relay_log_recovery`: a start drops relay log that was not applied and fetches it anew.
    pub relay_log_recovery: Option<bool>,
    /// `replica_net_timeout`, seconds: how long a replica takes silence for a quiet source.
    pub replica_net_timeout_seconds: Option<u64>,
    /// How often a quiet source says to this replica that it is there, milliseconds; 0 is never, `None` without a channel.
    pub heartbeat_millis: Option<u64>,
    /// Whether the next start leaves it writable.
    pub boot: Boot,
    /// Whether it is read-only since its last start and by its own settings, not by a statement.
    pub read_only_since_boot: Option<bool>,
    /// The account that ham4db uses there, as `user@host` of the grant that let it in.
    pub account: String,
    /// What that account may do.
    pub privileges: Option<Privileges>,
    /// Accounts that `read_only` does not stop, other than ours, the server's own, and administrators on its own machine.
    pub unstopped: Option<Accounts>,
}

/// What a server is after its next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Boot {
    /// Cannot be told, with the reason.
    Unknown(String),
    /// Writable: a failed primary that is started again takes writes until somebody notices.
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
    /// What MySQL tells of a variable: what is persisted for the next start wins; else what it was started with, which is the
    /// present value unless a statement has changed it since (`VARIABLE_SOURCE` is then `DYNAMIC`, and the old value is gone).
    ///
    /// Each map is from `read_only` and `super_read_only` to what a table has: the persisted value, the source, the present value.
    pub fn told_by_mysql(
        persisted: &BTreeMap<String, String>,
        sources: &BTreeMap<String, String>,
        present: &BTreeMap<String, bool>,
    ) -> Self {
        let mut unknown = None;
        // super_read_only brings read_only with it.
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
                None => unknown = Some(format!("where {name} comes from is not told")),
            }
        }
        unknown.map_or(Self::Writable, Self::Unknown)
    }
}

fn is_on(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("ON")
}

/// The rights of one account, out of `SHOW GRANTS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Privileges {
    /// `ALL PRIVILEGES ON *.*`.
    pub all: bool,
    /// Names of those that hold everywhere, upper case.
    pub global: BTreeSet<String>,
}

impl Privileges {
    /// Reads the rows of `SHOW GRANTS`; active roles are part of them on both flavours. Rights on single schemas or tables are left
    /// out, and so is the password's hash, which stands in these rows on MariaDB.
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

    /// Whether it holds everywhere.
    pub fn has(&self, privilege: &str) -> bool {
        self.all || self.global.contains(privilege)
    }
}

/// A list of accounts: how many, and the first few by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Accounts {
    /// How many.
    pub count: usize,
    /// At most [`MOST_NAMES`] of them, as `user@host`.
    pub names: Vec<String>,
}

impl Accounts {
    /// Those of the grantees (`'user'@'host'`) who count: not `own` (`user@host`), not the server's own, not an administrator on the
    /// machine itself, which `hostname` names too.
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
            names: accounts.into_iter().take(MOST_NAMES).collect(),
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

/// `'user'@'host'` in two.
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
        let told = Boot::told_by_mysql;
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
        assert_eq!((accounts.count, accounts.names.len()), (9, MOST_NAMES));
        assert!(accounts.to_string().ends_with("u4@% and 4 more"), "{accounts}");
    }
}
