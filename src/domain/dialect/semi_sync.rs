//! Semi-synchronous replication: which names its variables have on a server.
//!
//! Since MySQL 8.0.26 the *installed plugin* decides, not the version: `semisync_source.so` and
//! `semisync_replica.so` bring the new names, the old pair the old ones, and the two sides of one
//! server may differ. So the probe reads all `rpl_semi_sync_%` variables and
//! the functions here say which set it met. MariaDB has it built in, under the old names.

use super::Dialect;

/// The names of the source's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemiSyncSourceNames {
    /// Variable, boolean: commits wait for acknowledgements.
    pub enabled: &'static str,
    /// Variable, milliseconds until a commit stops waiting and semi-sync switches itself off.
    pub timeout: &'static str,
    /// Variable: acknowledgements a commit waits for. `None` on MariaDB, which waits for one.
    pub wait_for_replica_count: Option<&'static str>,
    /// Variable, boolean: go on waiting when too few replicas are connected.
    pub wait_no_replica: &'static str,
    /// Variable: `AFTER_SYNC` or `AFTER_COMMIT`.
    pub wait_point: &'static str,
    /// Status, ON or OFF: commits do wait at present.
    pub status: &'static str,
    /// Status: connected semi-sync replicas.
    pub clients: &'static str,
    /// Status: commits that wait now.
    pub wait_sessions: &'static str,
}

/// The names of the replica's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemiSyncReplicaNames {
    /// Variable, boolean: the replica acknowledges, from the next start of its IO thread on.
    pub enabled: &'static str,
    /// Status, ON or OFF: it does so at present.
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
    /// Reads every semi-sync variable there is: `Variable_name`, `Value`.
    pub fn show_semi_sync_variables(&self) -> &'static str {
        "SHOW GLOBAL VARIABLES LIKE 'rpl_semi_sync_%'"
    }

    /// Reads every semi-sync status value there is: `Variable_name`, `Value`.
    pub fn show_semi_sync_status(&self) -> &'static str {
        "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_%'"
    }

    /// The sets of source names a server of this version may have, the newest first.
    pub fn semi_sync_source_candidates(&self) -> &'static [SemiSyncSourceNames] {
        if self.is_mariadb() {
            &[MARIADB_SOURCE]
        } else if self.version.has_semi_sync_source_plugin() {
            &[CURRENT_SOURCE, OLD_SOURCE]
        } else {
            &[OLD_SOURCE]
        }
    }

    /// The sets of replica names a server of this version may have, the newest first.
    pub fn semi_sync_replica_candidates(&self) -> &'static [SemiSyncReplicaNames] {
        if self.version.has_semi_sync_source_plugin() {
            &[CURRENT_REPLICA, OLD_REPLICA]
        } else {
            &[OLD_REPLICA]
        }
    }

    /// The source names a server has, given a test whether a variable was seen; `None` when the
    /// plugin is not installed.
    pub fn semi_sync_source(&self, mut has_variable: impl FnMut(&str) -> bool) -> Option<&'static SemiSyncSourceNames> {
        self.semi_sync_source_candidates()
            .iter()
            .find(|names| has_variable(names.enabled))
    }

    /// The replica names a server has, given a test whether a variable was seen; `None` when the
    /// plugin is not installed.
    pub fn semi_sync_replica(
        &self,
        mut has_variable: impl FnMut(&str) -> bool,
    ) -> Option<&'static SemiSyncReplicaNames> {
        self.semi_sync_replica_candidates()
            .iter()
            .find(|names| has_variable(names.enabled))
    }

    /// What installs the plugins of both sides, where they have to be installed: under the new names from MySQL 8.0.26 on.
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

    /// Makes commits wait for so many replicas, whoever is connected and as good as for ever (the longest time that all versions
    /// take, 49 days), before the client is told and others see them; in the order to be sent, with the switch last.
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

    /// How long a commit waits before semi-sync switches itself off, in milliseconds.
    pub fn set_semi_sync_timeout(&self, names: &SemiSyncSourceNames, milliseconds: u32) -> String {
        format!("SET GLOBAL {} = {milliseconds}", names.timeout)
    }

    /// How many acknowledgements a commit waits for; `None` where the server has no such choice.
    pub fn set_semi_sync_wait_for_replica_count(&self, names: &SemiSyncSourceNames, count: u16) -> Option<String> {
        names
            .wait_for_replica_count
            .map(|variable| format!("SET GLOBAL {variable} = {count}"))
    }

    /// Makes the replica acknowledge, or not, from the next start of its IO thread on.
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
