//! What a recovery needs to be allowed to do, by flavour and version, and the statements that tell who is allowed to.

use super::Dialect;
use crate::domain::quote::quote_literal;

/// A privilege that a recovery needs on every server, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The narrowest one, as GRANT spells it.
    pub privilege: &'static str,
    /// Others that do as well.
    pub or: &'static [&'static str],
    /// The statements that fail without it.
    pub purpose: &'static str,
}

const fn need(privilege: &'static str, or: &'static [&'static str], purpose: &'static str) -> Need {
    Need { privilege, or, purpose }
}

const SUPER: &[&str] = &["SUPER"];

impl Dialect {
    /// The privileges without which some step of a recovery fails.
    ///
    /// MySQL 8.0 has parted SUPER into dynamic privileges and still takes it for each of them. `MariaDB` parted it in 10.5.2, ended
    /// that SUPER stands for `READ_ONLY ADMIN` in 10.11 (MDEV-29596) and that it stands for the others in 11.0 (MDEV-29668).
    pub fn needed_privileges(&self) -> Vec<Need> {
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
                need("RELOAD", &[], "RESET SLAVE ALL"),
                need("PROCESS", &[], "listing client sessions"),
                need("BINLOG MONITOR", &["REPLICATION CLIENT"], "SHOW MASTER STATUS"),
                need("SLAVE MONITOR", parted, "SHOW ALL SLAVES STATUS"),
                need("REPLICATION MASTER ADMIN", parted, "SHOW SLAVE HOSTS, semi-sync"),
                need(
                    "REPLICATION SLAVE ADMIN",
                    parted,
                    "STOP SLAVE, CHANGE MASTER, START SLAVE",
                ),
                need("READ_ONLY ADMIN", by_super((10, 11)), "SET GLOBAL read_only"),
                need("CONNECTION ADMIN", parted, "KILL of client sessions"),
            ];
        }
        let mut needs = vec![
            need("RELOAD", &[], "RESET REPLICA ALL"),
            need("PROCESS", &[], "listing client sessions"),
            need("REPLICATION SLAVE", &[], "SHOW REPLICAS"),
            need("REPLICATION CLIENT", SUPER, "SHOW REPLICA STATUS"),
        ];
        if self.version.has_persisted_variables() {
            needs.extend([
                need("SYSTEM_VARIABLES_ADMIN", SUPER, "SET GLOBAL super_read_only, semi-sync"),
                need(
                    "CONNECTION_ADMIN",
                    SUPER,
                    "SET GLOBAL super_read_only, KILL of client sessions",
                ),
                need(
                    "REPLICATION_SLAVE_ADMIN",
                    SUPER,
                    "STOP REPLICA, CHANGE REPLICATION SOURCE, START REPLICA",
                ),
            ]);
        } else {
            needs.push(need("SUPER", &[], "SET GLOBAL super_read_only, KILL, CHANGE MASTER"));
        }
        needs
    }

    /// What our own account may do: a row for each grant. On `MariaDB` the rows hold the password's hash.
    pub fn show_grants(&self) -> &'static str {
        "SHOW GRANTS"
    }

    /// The account that let this connection in, as `user@host`.
    pub fn select_own_account(&self) -> &'static str {
        "SELECT CURRENT_USER()"
    }

    /// The accounts that `read_only` alone does not stop, as `'user'@'host'`. The second condition lets the statement fail, instead of
    /// answering with our own rights only, where our account may not see those of the others.
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

    /// The values of `read_only` and `super_read_only` that are persisted for the next start; `None` where nothing can be.
    pub fn select_persisted_read_only(&self) -> Option<&'static str> {
        self.version.has_persisted_variables().then_some(
            "SELECT VARIABLE_NAME AS Variable_name, VARIABLE_VALUE AS Value FROM performance_schema.persisted_variables \
             WHERE VARIABLE_NAME IN ('read_only', 'super_read_only')",
        )
    }

    /// Where the present values of both come from; `None` where the server does not tell.
    pub fn select_read_only_sources(&self) -> Option<&'static str> {
        self.version.has_persisted_variables().then_some(
            "SELECT VARIABLE_NAME AS Variable_name, VARIABLE_SOURCE AS Value FROM performance_schema.variables_info \
             WHERE VARIABLE_NAME IN ('read_only', 'super_read_only')",
        )
    }

    /// How often the default channel's source says that it is there, in seconds with a fraction; on `MariaDB` as a status value.
    pub fn select_heartbeat_period(&self) -> &'static str {
        if self.is_mariadb() {
            "SHOW GLOBAL STATUS LIKE 'Slave_heartbeat_period'"
        } else {
            "SELECT 'heartbeat' AS Variable_name, HEARTBEAT_INTERVAL AS Value \
             FROM performance_schema.replication_connection_configuration WHERE CHANNEL_NAME = ''"
        }
    }

    /// The statement that hands out privileges, for a person to send. `account` is `user@host`.
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
