//! Statements for errant transactions. MySQL only: MariaDB's positions have no gaps that could be filled or left out.

use super::Dialect;
use crate::domain::quote::quote_string;

impl Dialect {
    /// Commits an empty transaction with a GTID. The server skips it when it has already executed that GTID. Needs
    /// `REPLICATION_APPLIER` or `SYSTEM_VARIABLES_ADMIN`, for a tagged GTID also `TRANSACTION_GTID_TAG`.
    pub fn empty_transaction(&self, gtid: &str) -> [String; 3] {
        [
            format!("SET SESSION gtid_next = {}", quote_string(gtid)),
            "BEGIN".to_owned(),
            "COMMIT".to_owned(),
        ]
    }

    /// Makes the server assign the GTIDs of the session's transactions again.
    pub fn automatic_gtids(&self) -> &'static str {
        "SET SESSION gtid_next = 'AUTOMATIC'"
    }

    /// Removes all binary logs and GTIDs, and sets the executed GTID set. Needs RELOAD and `SYSTEM_VARIABLES_ADMIN`.
    /// The statement got this name in 8.2; 8.4 has no other.
    pub fn forget_gtids(&self, keep: &str) -> [String; 2] {
        let reset = if self.version.has_binary_log_status() {
            "RESET BINARY LOGS AND GTIDS"
        } else {
            "RESET MASTER"
        };
        [
            reset.to_owned(),
            format!("SET GLOBAL gtid_purged = {}", quote_string(keep)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::ServerVersion;

    #[test]
    fn statements_about_errant_transactions() {
        let dialect = |version: &str| Dialect::new(&ServerVersion::parse(version, "MySQL").unwrap());
        assert_eq!(
            dialect("9.7.0").forget_gtids("u:1-3"),
            ["RESET BINARY LOGS AND GTIDS", "SET GLOBAL gtid_purged = 'u:1-3'"]
        );
        assert_eq!(dialect("8.0.36").forget_gtids("u:1-3")[0], "RESET MASTER");
        assert_eq!(
            dialect("9.7.0").empty_transaction("u:4"),
            ["SET SESSION gtid_next = 'u:4'", "BEGIN", "COMMIT"]
        );
    }
}
