//! Semi-synchronous replication: the names of its variables on a server.
//!
//! Since MySQL 8.0.26 the *installed plugin* decides, not the version: `semisync_source.so` and `semisync_replica.so`
//! use the new names, the old plugins the old names, and the two sides of one server may differ. The probe therefore
//! reads all `rpl_semi_sync_%` variables, and the functions here find the names that it read. MariaDB has semi-sync
//! built in, under the old names.

use super::Dialect;

/// The names on the source side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemiSyncSourceNames {
    /// Variable, boolean: commits wait for acknowledgements.
    pub enabled: &'static str,
    /// Variable, milliseconds until a commit stops waiting and semi-sync is switched off.
    pub timeout: &'static str,
    /// Variable: number of acknowledgements that a commit waits for. `None` on MariaDB, which waits for one.
    pub wait_for_replica_count: Option<&'static str>,
    /// Variable, boolean: commits keep waiting when too few replicas are connected.
    pub wait_no_replica: &'static str,
    /// Variable: `AFTER_SYNC` or `AFTER_COMMIT`.
    pub wait_point: &'static str,
    /// Status, ON or OFF: commits wait at present.
    pub status: &'static str,
    /// Status: number of connected semi-sync replicas.
    pub clients: &'static str,
    /// Status: number of commits that wait now.
    pub wait_sessions: &'static str,
}

/// The names on the replica side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemiSyncReplicaNames {
    /// Variable, boolean: the replica acknowledges from the next start of its IO thread.
    pub enabled: &'static str,
    /// Status, ON or OFF: the replica acknowledges at present.
    pub status: &'static str,
}

const CURRENT_SOURCE: SemiSyncSourceNames = SemiSyncSourceNames {
    enabled: "rpl_semi_sync_source_enabled",
    timeout: "rpl_semi_sync_source_timeout",
    wait_for_replica_count: Some("rpl_semi_sync_source_wait_for_replica_count"),
    wait_no_replica: "rpl_semi_sync_source_wait_no_replica",
    wait_point: "rpl_semi_sync_source_wait_point",
    status: "Rpl_semi_sync_source_status",
    clients: "Rpl_semi_sync_source_clients",
    wait_sessions: "Rpl_semi_sync_source_wait_sessions",
};

const OLD_SOURCE: SemiSyncSourceNames = SemiSyncSourceNames {
    enabled: "rpl_semi_sync_master_enabled",
    timeout: "rpl_semi_sync_master_timeout",
    wait_for_replica_count: Some("rpl_semi_sync_master_wait_for_slave_count"),
    wait_no_replica: "rpl_semi_sync_master_wait_no_slave",
    wait_point: "rpl_semi_sync_master_wait_point",
    status: "Rpl_semi_sync_master_status",
    clients: "Rpl_semi_sync_master_clients",
    wait_sessions: "Rpl_semi_sync_master_wait_sessions",
};

const MARIADB_SOURCE: SemiSyncSourceNames = SemiSyncSourceNames {
    wait_for_replica_count: None,
    ..OLD_SOURCE
};

const CURRENT_REPLICA: SemiSyncReplicaNames = SemiSyncReplicaNames {
    enabled: "rpl_semi_sync_replica_enabled",
    status: "Rpl_semi_sync_replica_status",
};

const OLD_REPLICA: SemiSyncReplicaNames = SemiSyncReplicaNames {
    enabled: "rpl_semi_sync_slave_enabled",
    status: "Rpl_semi_sync_slave_status",
};

impl Dialect {
    /// Shows all semi-sync variables: `Variable_name`, `Value`.
    pub fn show_semi_sync_variables(&self) -> &'static str {
        "SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync_%'"
    }

    /// Shows all semi-sync status variables: `Variable_name`, `Value`.
    pub fn show_semi_sync_status(&self) -> &'static str {
        "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_%'"
    }

    /// The names that the source side of a server of this version may have, newest first.
    pub fn semi_sync_source_candidates(&self) -> &'static [SemiSyncSourceNames] {
        if self.is_mariadb() {
            &[MARIADB_SOURCE]
        } else if self.version.has_semi_sync_source_plugin() {
            &[CURRENT_SOURCE, OLD_SOURCE]
        } else {
            &[OLD_SOURCE]
        }
    }

    /// The names that the replica side of a server of this version may have, newest first.
    pub fn semi_sync_replica_candidates(&self) -> &'static [SemiSyncReplicaNames] {
        if self.version.has_semi_sync_source_plugin() {
            &[CURRENT_REPLICA, OLD_REPLICA]
        } else {
            &[OLD_REPLICA]
        }
    }

    /// The names on the source side of a server, given a test whether a variable exists; `None` when the plugin is not
    /// installed.
    pub fn semi_sync_source(&self, mut has_variable: impl FnMut(&str) -> bool) -> Option<&'static SemiSyncSourceNames> {
        self.semi_sync_source_candidates()
            .iter()
            .find(|names| has_variable(names.enabled))
    }

    /// The names on the replica side of a server, given a test whether a variable exists; `None` when the plugin is not
    /// installed.
    pub fn semi_sync_replica(
        &self,
        mut has_variable: impl FnMut(&str) -> bool,
    ) -> Option<&'static SemiSyncReplicaNames> {
        self.semi_sync_replica_candidates()
            .iter()
            .find(|names| has_variable(names.enabled))
    }

    /// The statements that install the plugins of both sides, where plugins are needed; under the new names since MySQL
    /// 8.0.26.
    pub fn install_semi_sync(&self) -> &'static [&'static str] {
        if self.is_mariadb() {
            &[]
        } else if self.version.has_semi_sync_source_plugin() {
            &[
                "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'",
                "INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'",
            ]
        } else {
            &[
                "INSTALL PLUGIN rpl_semi_sync_master SONAME 'semisync_master.so'",
                "INSTALL PLUGIN rpl_semi_sync_slave SONAME 'semisync_slave.so'",
            ]
        }
    }

    /// Makes commits wait for `count` replicas, however many are connected and practically for ever (the longest
    /// timeout that all versions accept, 49 days), before the client gets its answer and other sessions see the data.
    /// The statements are sent in this order, the switch last.
    pub fn wait_for_acknowledgements(&self, names: &SemiSyncSourceNames, count: u16) -> Vec<String> {
        let mut statements = vec![
            format!("SET GLOBAL {} = 'AFTER_SYNC'", names.wait_point),
            self.set_semi_sync_timeout(names, u32::MAX),
            format!("SET GLOBAL {} = 1", names.wait_no_replica),
        ];
        statements.extend(self.set_semi_sync_wait_for_replica_count(names, count));
        statements.push(self.set_semi_sync_source(names, true));
        statements
    }

    /// Makes commits wait for acknowledgements, or not.
    pub fn set_semi_sync_source(&self, names: &SemiSyncSourceNames, enabled: bool) -> String {
        format!("SET GLOBAL {} = {}", names.enabled, u8::from(enabled))
    }

    /// Sets how long a commit waits before semi-sync is switched off, milliseconds.
    pub fn set_semi_sync_timeout(&self, names: &SemiSyncSourceNames, milliseconds: u32) -> String {
        format!("SET GLOBAL {} = {milliseconds}", names.timeout)
    }

    /// Sets the number of acknowledgements that a commit waits for; `None` where the server has no such setting.
    pub fn set_semi_sync_wait_for_replica_count(&self, names: &SemiSyncSourceNames, count: u16) -> Option<String> {
        names
            .wait_for_replica_count
            .map(|variable| format!("SET GLOBAL {variable} = {count}"))
    }

    /// Makes the replica acknowledge, or not, from the next start of its IO thread.
    pub fn set_semi_sync_replica(&self, names: &SemiSyncReplicaNames, enabled: bool) -> String {
        format!("SET GLOBAL {} = {}", names.enabled, u8::from(enabled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::ServerVersion;

    fn dialect(version: &str) -> Dialect {
        Dialect::new(&ServerVersion::parse(version, "").unwrap())
    }

    #[test]
    fn the_installed_plugin_decides_the_names_of_each_side() {
        let dialect = dialect("8.4.8");
        let seen = ["rpl_semi_sync_master_enabled", "rpl_semi_sync_replica_enabled"];
        let has = |name: &str| seen.contains(&name);
        assert_eq!(
            dialect.semi_sync_source(has).unwrap().status,
            "Rpl_semi_sync_master_status"
        );
        assert_eq!(
            dialect.semi_sync_replica(has).unwrap().status,
            "Rpl_semi_sync_replica_status"
        );
        assert_eq!(dialect.semi_sync_source(|_| false), None);
        assert_eq!(dialect.semi_sync_replica(|_| false), None);
    }

    #[test]
    fn servers_before_the_renaming_know_the_old_names_only() {
        for version in ["5.7.44", "8.0.25", "10.11.2-MariaDB", "11.8.2-MariaDB"] {
            let dialect = dialect(version);
            assert_eq!(
                dialect.semi_sync_source(|_| true).unwrap().enabled,
                "rpl_semi_sync_master_enabled",
                "{version}"
            );
            assert_eq!(
                dialect.semi_sync_replica(|_| true).unwrap().enabled,
                "rpl_semi_sync_slave_enabled",
                "{version}"
            );
        }
        assert_eq!(
            dialect("8.0.26").semi_sync_source(|_| true).unwrap().enabled,
            "rpl_semi_sync_source_enabled"
        );
    }

    #[test]
    fn mariadb_waits_for_one_replica_and_cannot_be_told_otherwise() {
        let dialect = dialect("10.11.2-MariaDB");
        let names = dialect.semi_sync_source(|_| true).unwrap();
        assert_eq!(dialect.set_semi_sync_wait_for_replica_count(names, 2), None);
    }
}
