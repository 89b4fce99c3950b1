//! The epoch of a cluster, as a row on its primary: what applications can fence by, without asking ham4db.

use serde::{Deserialize, Serialize};

use super::dialect::Dialect;
use super::key::InstanceKey;
use super::quote::{quote_identifier, quote_string};
use super::state::Epoch;

/// The table that the user made for it, on every server of every cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochTable {
    schema: String,
    table: String,
}

/// What stands in it, one row for each cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// Id of the cluster.
    pub cluster: String,
    /// The epoch under which the primary was opened.
    pub epoch: Epoch,
    /// The primary.
    pub primary: InstanceKey,
    /// The recovery that opened it.
    pub recovery: String,
}

// === impl EpochTable ===

impl EpochTable {
    /// Reads `schema.table`.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() && !table.contains('.') => Ok(Self {
                schema: schema.to_owned(),
                table: table.to_owned(),
            }),
            _ => Err(format!("`{text}` is no table: schema.table is")),
        }
    }

    /// Its name in a statement.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.table))
    }
}

impl std::fmt::Display for EpochTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl Dialect {
    /// Writes the row of a cluster, unless a later epoch stands there already.
    pub fn write_epoch(&self, table: &EpochTable, row: &EpochRow) -> String {
        let (epoch, cluster) = (row.epoch, quote_string(&row.cluster));
        let (primary, recovery) = (quote_string(&row.primary.to_string()), quote_string(&row.recovery));
        let name = table.quoted();
        // Assignments are made from left to right, so the epoch, which the others are judged by, comes last.
        format!(
            "INSERT INTO {name} (cluster, epoch, primary_address, recovery) VALUES ({cluster}, {epoch}, {primary}, {recovery}) \
             ON DUPLICATE KEY UPDATE primary_address = IF({epoch} > epoch, {primary}, primary_address), \
             recovery = IF({epoch} > epoch, {recovery}, recovery), epoch = GREATEST(epoch, {epoch})"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::ServerVersion;

    #[test]
    fn a_table_is_named_with_its_schema() {
        assert_eq!(EpochTable::parse("meta.epoch").unwrap().to_string(), "meta.epoch");
        for wrong in ["", "epoch", ".epoch", "meta.", "a.b.c"] {
            assert!(
                EpochTable::parse(wrong).unwrap_err().contains("schema.table"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_row_is_never_overwritten_by_an_earlier_epoch_and_no_name_is_read_as_sql() {
        let dialect = Dialect::new(&ServerVersion::parse("9.7.4", "").unwrap());
        let row = EpochRow {
            cluster: "it's".to_owned(),
            epoch: 7,
            primary: InstanceKey::new("db2", 3306),
            recovery: "u1".to_owned(),
        };
        let statement = dialect.write_epoch(&EpochTable::parse("me`ta.epoch").unwrap(), &row);
        assert!(statement.starts_with("INSERT INTO `me``ta`.`epoch` "), "{statement}");
        assert!(statement.ends_with("epoch = GREATEST(epoch, 7)"), "{statement}");
        assert!(!statement.contains("it's"), "{statement}");
    }
}
