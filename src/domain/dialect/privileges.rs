//! The privileges that a recovery needs, by flavour and version, and the statements that read privileges.

use super::Dialect;
use crate::domain::quote::quote_literal;

/// A privilege that a recovery needs on every server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivilegeRequirement {
    /// The narrowest sufficient privilege, as GRANT spells it.
    pub privilege: &'static str,
    /// Other sufficient privileges.
    pub or: &'static [&'static str],
    /// The statements that fail without it.
    pub purpose: &'static str,
}

const fn requirement(
    privilege: &'static str,
    or: &'static [&'static str],
    purpose: &'static str,
) -> PrivilegeRequirement {
    PrivilegeRequirement { privilege, or, purpose }
}

const SUPER: &[&str] = &["SUPER"];

impl Dialect {
    /// The privileges without which a step of a recovery fails.
    ///
    /// MySQL 8.0 split SUPER into dynamic privileges and still accepts SUPER for each of them. `MariaDB` split it in
    /// 10.5.2. There SUPER no longer includes `READ_ONLY ADMIN` since 10.11 (MDEV-29596), and no longer the others
    /// since 11.0 (MDEV-29668).
    pub fn required_privileges(&self) -> Vec<PrivilegeRequirement> {
        if self.is_mariadb() {
            let by_super = |until: (u16, u16)| {
                if self.version.at_least(until.0, until.1, 0) {
                    &[][..]
                } else {
                    SUPER
                }
            };
            let parted = by_super((11, 0));
            return vec![
                requirement("RELOAD", &[], "RESET SLAVE ALL"),
                requirement("PROCESS", &[], "listing client sessions"),
                requirement("BINLOG MONITOR", &["REPLICATION CLIENT"], "SHOW MASTER STATUS"),
                requirement("SLAVE MONITOR", parted, "SHOW ALL SLAVES STATUS"),
                requirement("REPLICATION MASTER ADMIN", parted, "SHOW SLAVE HOSTS, semi-sync"),
                requirement(
                    "REPLICATION SLAVE ADMIN",
                    parted,
                    "STOP SLAVE, CHANGE MASTER, START SLAVE",
                ),
                requirement("READ_ONLY ADMIN", by_super((10, 11)), "SET GLOBAL read_only"),
                requirement("CONNECTION ADMIN", parted, "KILL of client sessions"),
            ];
        }
        let mut needs = vec![
            requirement("RELOAD", &[], "RESET REPLICA ALL"),
            requirement("PROCESS", &[], "listing client sessions"),
            requirement("REPLICATION SLAVE", &[], "SHOW REPLICAS"),
            requirement("REPLICATION CLIENT", SUPER, "SHOW REPLICA STATUS"),
        ];
        if self.version.has_persisted_variables() {
            needs.extend([
                requirement("SYSTEM_VARIABLES_ADMIN", SUPER, "SET GLOBAL super_read_only, semi-sync"),
                requirement(
                    "CONNECTION_ADMIN",
                    SUPER,
                    "SET GLOBAL super_read_only, KILL of client sessions",
                ),
                requirement(
                    "REPLICATION_SLAVE_ADMIN",
                    SUPER,
                    "STOP REPLICA, CHANGE REPLICATION SOURCE, START REPLICA",
                ),
            ]);
        } else {
            needs.push(requirement(
                "SUPER",
                &[],
                "SET GLOBAL super_read_only, KILL, CHANGE MASTER",
            ));
        }
        needs
    }

    /// Shows the privileges of the own account, one row for each grant. On `MariaDB` the rows contain the password
    /// hash.
    pub fn show_grants(&self) -> &'static str {
        "SHOW GRANTS"
    }

    /// Selects the account that matched this connection, as `user@host`.
    pub fn select_own_account(&self) -> &'static str {
        "SELECT CURRENT_USER()"
    }

    /// Selects the accounts that can write despite `read_only`, as `'user'@'host'`. The second condition makes the
    /// statement fail, instead of returning only the own privileges, when the own account may not see those of others.
    pub fn select_accounts_past_read_only(&self) -> String {
        let (privileges, accounts) = match (self.is_mariadb(), self.version.at_least(10, 11, 0)) {
            (true, true) => ("'READ_ONLY ADMIN'", "mysql.global_priv"),
            (true, false) => ("'READ_ONLY ADMIN', 'SUPER'", "mysql.global_priv"),
            (false, _) => ("'CONNECTION_ADMIN', 'SUPER'", "mysql.user"),
        };
        format!(
            "SELECT GRANTEE FROM information_schema.user_privileges WHERE PRIVILEGE_TYPE IN ({privileges}) \
             AND EXISTS (SELECT 1 FROM {accounts}) GROUP BY GRANTEE ORDER BY GRANTEE LIMIT 100"
        )
    }

    /// Selects the persisted values of `read_only` and `super_read_only`; `None` where variables cannot be persisted.
    pub fn select_persisted_read_only(&self) -> Option<&'static str> {
        self.version.has_persisted_variables().then_some(
            "SELECT VARIABLE_NAME AS Variable_name, VARIABLE_VALUE AS Value FROM performance_schema.persisted_variables \
             WHERE VARIABLE_NAME IN ('read_only', 'super_read_only')",
        )
    }

    /// Selects the sources of the present values of both; `None` where the server does not report them.
    pub fn select_read_only_sources(&self) -> Option<&'static str> {
        self.version.has_persisted_variables().then_some(
            "SELECT VARIABLE_NAME AS Variable_name, VARIABLE_SOURCE AS Value FROM performance_schema.variables_info \
             WHERE VARIABLE_NAME IN ('read_only', 'super_read_only')",
        )
    }

    /// Selects the heartbeat period of the default channel, in seconds with a fraction; on `MariaDB` from a status
    /// variable.
    pub fn select_heartbeat_period(&self) -> &'static str {
        if self.is_mariadb() {
            "SHOW GLOBAL STATUS LIKE 'Slave_heartbeat_period'"
        } else {
            "SELECT 'heartbeat' AS Variable_name, HEARTBEAT_INTERVAL AS Value \
             FROM performance_schema.replication_connection_configuration WHERE CHANNEL_NAME = ''"
        }
    }

    /// The statement that grants privileges, for an operator. `account` is `user@host`.
    pub fn grant(&self, privileges: &[&str], account: &str) -> String {
        let (user, host) = account.rsplit_once('@').unwrap_or((account, "%"));
        format!(
            "GRANT {} ON *.* TO {}@{}",
            privileges.join(", "),
            quote_literal(user),
            quote_literal(host)
        )
    }
}
