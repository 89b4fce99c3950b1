//! The epoch of a cluster as a row on its primary. Applications can fence with it without a request to ham4db.

use serde::{Deserialize, Serialize};

use super::dialect::Dialect;
use super::key::InstanceKey;
use super::quote::{quote_identifier, quote_string};
use super::state::Epoch;

/// The table for epoch rows, which the operator creates on every server of every cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochTable {
    schema: String,
    table: String,
}

/// The content of the table, one row for each cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// Id of the cluster.
    pub cluster: String,
    /// The epoch under which the primary was opened.
    pub epoch: Epoch,
    /// Address of the primary.
    pub primary: InstanceKey,
    /// Id of the recovery that opened it.
    pub recovery: String,
}

// === impl EpochTable ===

impl EpochTable {
    /// Parses `schema.table`.
    ///
    /// # Errors
    /// When the text has any other form.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() && !table.contains('.') => Ok(Self {
                schema: schema.to_owned(),
                table: table.to_owned(),
            }),
            _ => Err(format!("`{text}` is not a table name; write schema.table")),
        }
    }

    /// The quoted name for a statement.
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
    /// The statement that writes the row of a cluster unless the table already has a later epoch.
    pub fn write_epoch(&self, table: &EpochTable, row: &EpochRow) -> String {
        let (epoch, cluster) = (row.epoch, quote_string(&row.cluster));
        let (primary, recovery) = (quote_string(&row.primary.to_string()), quote_string(&row.recovery));
        let name = table.quoted();
        // MySQL assigns from left to right. The epoch comes last because the other assignments compare with it.
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
