//! The port [`InstanceStore`]: orchestrator's table `database_instance`, and each instance whole in `ham4db_instance`.

use std::collections::BTreeSet;

use async_trait::async_trait;

use crate::app::ports::{InstanceStore, RecordedInstance, StoreError};
use crate::domain::group_replication::{GroupRole, GroupState};
use crate::domain::instance::{
    BinlogCoordinates, Channel, Identity, Instance, InstanceFacts, Positioning, ThreadState,
};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::BackendStore;
use super::database::DatabaseError;
use super::statement::{Dialect, Row, Value, statement};

/// The most instances of one statement. SQLite binds at most 32,766 values and MySQL 65,535; an instance has about 80.
const INSTANCES_PER_STATEMENT: usize = 50;
/// The width of the columns of host names, in characters.
const HOST_NAME: usize = 128;
/// The most bytes of a column of the type `text` (MySQL manual, "Data Type Storage Requirements").
const MAX_TEXT: usize = 65_535;
/// The largest number of a column of the type `int unsigned`.
const MAX_INT: u64 = 4_294_967_295;

/// A column with its value, which has the width of the column.
type Column = (&'static str, Bound);

/// A value of a column.
enum Bound {
    /// Any value.
    Plain(Value),
    /// Milliseconds since 1970.
    Time(WallTime),
}

#[async_trait]
impl InstanceStore for BackendStore {
    async fn load_instances(&self) -> Result<Vec<Instance>, StoreError> {
        let rows = self
            .database
            .rows(statement("SELECT body FROM ham4db_instance ORDER BY hostname, port"))
            .await
            .map_err(self.failed("read instances"))?;
        Ok(rows
            .iter()
            .filter_map(|row| serde_json::from_str(&row.text(0)).ok())
            .collect())
    }

    async fn save_instances(&self, instances: &[RecordedInstance], batch: usize) -> Result<(), StoreError> {
        let existing = self
            .instance_columns()
            .await
            .map_err(self.failed("read the columns of database_instance"))?;
        for batch in instances.chunks(batch.max(1)) {
            let bodies = batch
                .iter()
                .map(|recorded| serde_json::to_string(&recorded.instance))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| self.unreadable("an instance", &error))?;
            self.save_batch(batch, &bodies, &existing)
                .await
                .map_err(self.failed("write instances"))?;
        }
        Ok(())
    }

    async fn retain_instances(&self, known: &BTreeSet<InstanceKey>) -> Result<(), StoreError> {
        let failed = self.failed("delete instances");
        let mut transaction = self.database.begin().await.map_err(&failed)?;
        // Servers that only an orchestrator knows are in its table alone.
        let rows = transaction
            .rows(statement("SELECT hostname, port FROM ham4db_instance"))
            .await
            .map_err(&failed)?;
        for stored in rows.iter().filter_map(address).filter(|stored| !known.contains(stored)) {
            for table in ["database_instance", "ham4db_instance"] {
                let gone = statement(format!("DELETE FROM {table} WHERE hostname = ? AND port = ?"))
                    .bind(&stored.hostname)
                    .bind(stored.port);
                transaction.execute(gone).await.map_err(&failed)?;
            }
        }
        transaction.commit().await.map_err(&failed)
    }
}

impl BackendStore {
    /// The columns that the table has here: a database that was orchestrator's may lack some of a later version.
    async fn instance_columns(&self) -> Result<BTreeSet<String>, DatabaseError> {
        let query = match self.database.dialect() {
            Dialect::Sqlite => "SELECT name FROM pragma_table_info('database_instance')",
            Dialect::MySql => {
                "SELECT column_name FROM information_schema.columns \
                 WHERE table_schema = DATABASE() AND table_name = 'database_instance'"
            }
        };
        let rows = self.database.rows(statement(query)).await?;
        Ok(rows.iter().map(|row| row.text(0).to_ascii_lowercase()).collect())
    }

    async fn save_batch(
        &self,
        batch: &[RecordedInstance],
        bodies: &[String],
        existing: &BTreeSet<String>,
    ) -> Result<(), DatabaseError> {
        let mut transaction = self.database.begin().await?;
        // A longer name would be cut, and might then be that of another server.
        let fitting: Vec<&RecordedInstance> = batch
            .iter()
            .filter(|recorded| recorded.instance.key.hostname.chars().count() <= HOST_NAME)
            .collect();
        for instances in fitting.chunks(INSTANCES_PER_STATEMENT) {
            let (mut names, mut rows, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for recorded in instances {
                let mut columns = columns_of(recorded);
                columns.retain(|(name, _)| existing.contains(*name));
                names = columns.iter().map(|(name, _)| *name).collect();
                let marks: Vec<&str> = columns.iter().map(|(_, value)| value.mark()).collect();
                rows.push(format!("({})", marks.join(", ")));
                values.extend(columns.into_iter().map(|(_, value)| value.into_value()));
            }
            let sql = format!(
                "REPLACE INTO database_instance ({}) VALUES {}",
                names.join(", "),
                rows.join(", ")
            );
            transaction.execute(statement(sql).bind_all(values)).await?;
        }
        let bodies: Vec<(&RecordedInstance, &String)> = batch.iter().zip(bodies).collect();
        for instances in bodies.chunks(INSTANCES_PER_STATEMENT) {
            let rows = vec!["(?, ?, ?)"; instances.len()].join(", ");
            let mut written = statement(format!(
                "REPLACE INTO ham4db_instance (hostname, port, body) VALUES {rows}"
            ));
            for (recorded, body) in instances {
                let key = &recorded.instance.key;
                written = written.bind(&key.hostname).bind(key.port).bind(*body);
            }
            transaction.execute(written).await?;
        }
        transaction.commit().await
    }
}

fn address(row: &Row) -> Option<InstanceKey> {
    Some(InstanceKey::new(row.text(0), u16::try_from(row.integer(1)?).ok()?))
}

impl Bound {
    /// What stands for it in a statement.
    fn mark(&self) -> &'static str {
        match self {
            Self::Plain(_) => "?",
            Self::Time(_) => "@STAMP",
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Plain(value) => value,
            Self::Time(at) => at.0.into(),
        }
    }
}

fn plain(name: &'static str, value: impl Into<Value>) -> Column {
    (name, Bound::Plain(value.into()))
}

/// A text for a column of so many characters. What a server says of itself has any length.
fn text(name: &'static str, width: usize, value: &str) -> Column {
    plain(name, value.chars().take(width).collect::<String>())
}

/// A text for a column of the type `text`, which is limited in bytes.
fn long_text(name: &'static str, value: &str) -> Column {
    plain(
        name,
        value.get(..value.floor_char_boundary(MAX_TEXT)).unwrap_or_default(),
    )
}

fn int(name: &'static str, value: u64) -> Column {
    plain(name, value.min(MAX_INT))
}

fn position(file: &'static str, offset: &'static str, at: Option<&BinlogCoordinates>) -> [Column; 2] {
    let at = at.cloned().unwrap_or_default();
    [text(file, 128, &at.file), plain(offset, at.position)]
}

/// Every column with its value, in the same order for every instance. A time that is unknown is 1970, and NULL where the column has one.
fn columns_of(recorded: &RecordedInstance) -> Vec<Column> {
    let instance = &recorded.instance;
    let checked = instance.last_checked.unwrap_or_default();
    let source = recorded.source.clone().unwrap_or_else(|| InstanceKey::new("", 0));
    let mut columns = vec![
        text("hostname", HOST_NAME, &instance.key.hostname),
        plain("port", instance.key.port),
        ("last_checked", Bound::Time(checked)),
        ("last_attempted_check", Bound::Time(checked)),
        instance.last_seen.map_or_else(
            || plain("last_seen", Value::Null),
            |seen| ("last_seen", Bound::Time(seen)),
        ),
        text("master_host", HOST_NAME, &source.hostname),
        plain("master_port", source.port),
        text("cluster_name", 128, &recorded.cluster_name),
        text("suggested_cluster_alias", 128, &recorded.cluster_alias),
        plain("replication_depth", u64::from(recorded.depth.min(255))),
        plain("is_co_master", recorded.is_co_primary),
        long_text("ancestry_uuid", &recorded.ancestry),
        long_text("gtid_errant", &recorded.errant),
        plain("last_check_partial_success", instance.partial),
        // Nanoseconds, as Go's durations.
        plain("last_discovery_latency", instance.latency_micros.saturating_mul(1000)),
    ];
    let facts = instance.facts.as_ref();
    columns.extend(columns_of_server(facts));
    columns.extend(columns_of_channel(facts.and_then(InstanceFacts::managed_channel)));
    columns.extend(columns_of_group(facts));
    columns
}

fn columns_of_server(facts: Option<&InstanceFacts>) -> Vec<Column> {
    let of = |read: fn(&InstanceFacts) -> &str| facts.map(read).unwrap_or_default().to_owned();
    let is = |read: fn(&InstanceFacts) -> bool| facts.is_some_and(read);
    let number = |read: fn(&InstanceFacts) -> u64| facts.map(read).unwrap_or_default();
    let uuid = facts.and_then(|facts| match &facts.identity {
        Identity::ServerUuid(uuid) => Some(uuid.as_str()),
        Identity::ServerId(_) => None,
    });
    let replicas: Vec<String> = facts
        .map(|facts| {
            facts
                .replicas
                .iter()
                .map(|replica| json_address(&replica.key))
                .collect()
        })
        .unwrap_or_default();
    let mut columns = vec![
        int("server_id", number(|facts| u64::from(facts.server_id))),
        text("server_uuid", 64, uuid.unwrap_or_default()),
        text("version", 128, &of(|facts| &facts.version.text)),
        text(
            "major_version",
            16,
            &facts.map(|facts| facts.version.major_version()).unwrap_or_default(),
        ),
        text("version_comment", 128, &of(|facts| &facts.version_comment)),
        int("uptime", number(|facts| facts.uptime_seconds)),
        plain("read_only", is(|facts| facts.read_only)),
        text("binlog_format", 16, &of(|facts| &facts.binlog_format)),
        text("binlog_row_image", 16, &of(|facts| &facts.binlog_row_image)),
        plain("log_bin", is(|facts| facts.log_bin)),
        plain("log_slave_updates", is(|facts| facts.log_replica_updates)),
        text("gtid_mode", 32, &of(|facts| &facts.gtid_mode)),
        plain(
            "supports_oracle_gtid",
            is(|facts| facts.gtid_mode.eq_ignore_ascii_case("ON")),
        ),
        plain("pseudo_gtid", is(|facts| facts.uses_pseudo_gtid)),
        long_text(
            "executed_gtid_set",
            &facts.map(|facts| facts.executed.to_string()).unwrap_or_default(),
        ),
        long_text(
            "gtid_purged",
            &facts.map(|facts| facts.purged.to_string()).unwrap_or_default(),
        ),
        plain("num_slave_hosts", replicas.len() as u64),
        long_text("slave_hosts", &format!("[{}]", replicas.join(","))),
        text("data_center", 32, &of(|facts| &facts.data_center)),
        text("region", 32, &of(|facts| &facts.region)),
        text("physical_environment", 32, &of(|facts| &facts.environment)),
        plain(
            "replication_credentials_available",
            is(|facts| facts.replication_credentials_available),
        ),
        plain("semi_sync_available", is(|facts| facts.semi_sync.available)),
        plain("semi_sync_master_enabled", is(|facts| facts.semi_sync.source_enabled)),
        plain("semi_sync_replica_enabled", is(|facts| facts.semi_sync.replica_enabled)),
        int(
            "semi_sync_master_timeout",
            number(|facts| facts.semi_sync.timeout_millis),
        ),
        int(
            "semi_sync_master_wait_for_slave_count",
            number(|facts| u64::from(facts.semi_sync.wait_for_count)),
        ),
        plain("semi_sync_master_status", is(|facts| facts.semi_sync.source_active)),
        int(
            "semi_sync_master_clients",
            number(|facts| u64::from(facts.semi_sync.clients)),
        ),
        plain("semi_sync_replica_status", is(|facts| facts.semi_sync.replica_active)),
        plain(
            "semi_sync_enforced",
            is(|facts| facts.semi_sync.priority.is_some_and(|priority| priority > 0)),
        ),
    ];
    columns.extend(position(
        "binary_log_file",
        "binary_log_pos",
        facts.and_then(|facts| facts.binlog.as_ref()),
    ));
    columns
}

fn columns_of_channel(channel: Option<&Channel>) -> Vec<Column> {
    let is = |read: fn(&Channel) -> bool| channel.is_some_and(read);
    let of = |read: fn(&Channel) -> &str| channel.map(read).unwrap_or_default();
    let thread = |read: fn(&Channel) -> ThreadState| i64::from(channel.map_or(-1, |channel| read(channel).number()));
    let lag = channel.and_then(|channel| channel.lag_seconds);
    let mut columns = vec![
        plain("slave_sql_running", is(|channel| channel.sql == ThreadState::Running)),
        plain("slave_io_running", is(|channel| channel.io == ThreadState::Running)),
        plain("replication_sql_thread_state", thread(|channel| channel.sql)),
        plain("replication_io_thread_state", thread(|channel| channel.io)),
        plain("seconds_behind_master", lag),
        plain("slave_lag_seconds", lag),
        int(
            "sql_delay",
            channel.map(|channel| channel.delay_seconds).unwrap_or_default(),
        ),
        long_text("last_sql_error", of(|channel| &channel.sql_error.message)),
        long_text("last_io_error", of(|channel| &channel.io_error.message)),
        plain(
            "oracle_gtid",
            is(|channel| channel.positioning == Positioning::AutoPosition),
        ),
        plain(
            "mariadb_gtid",
            is(|channel| matches!(channel.positioning, Positioning::SlavePos | Positioning::CurrentPos)),
        ),
        plain("has_replication_filters", is(|channel| channel.filtered)),
        plain("has_replication_credentials", is(|channel| !channel.user.is_empty())),
        plain("allow_tls", is(|channel| channel.tls)),
        text(
            "master_uuid",
            64,
            of(|channel| channel.source_uuid.as_deref().unwrap_or_default()),
        ),
    ];
    for (file, offset, at) in [
        (
            "master_log_file",
            "read_master_log_pos",
            channel.map(|channel| &channel.read),
        ),
        (
            "relay_master_log_file",
            "exec_master_log_pos",
            channel.map(|channel| &channel.exec),
        ),
        ("relay_log_file", "relay_log_pos", channel.map(|channel| &channel.relay)),
    ] {
        columns.extend(position(file, offset, at));
    }
    columns
}

fn columns_of_group(facts: Option<&InstanceFacts>) -> Vec<Column> {
    let group = facts.and_then(|facts| facts.group.as_ref());
    let peers: Vec<_> = group
        .map(|group| {
            let taking_part = group.members.iter().filter(|peer| peer.state != GroupState::Offline);
            taking_part.collect()
        })
        .unwrap_or_default();
    let mut primaries = peers.iter().filter(|peer| peer.role == GroupRole::Primary);
    let primary = match (primaries.next(), primaries.next()) {
        (Some(only), None) => only.key.clone(),
        (_, _) => InstanceKey::new("", 0),
    };
    let members: Vec<String> = peers.iter().map(|peer| json_address(&peer.key)).collect();
    vec![
        text(
            "replication_group_name",
            64,
            facts.map(|facts| facts.group_name.as_str()).unwrap_or_default(),
        ),
        plain(
            "replication_group_is_single_primary_mode",
            group.is_none_or(|group| group.single_primary),
        ),
        text(
            "replication_group_member_state",
            16,
            group.map(|group| group.state.as_str()).unwrap_or_default(),
        ),
        text(
            "replication_group_member_role",
            16,
            group.map(|group| group.role.as_str()).unwrap_or_default(),
        ),
        long_text("replication_group_members", &format!("[{}]", members.join(","))),
        text("replication_group_primary_host", HOST_NAME, &primary.hostname),
        plain("replication_group_primary_port", primary.port),
    ]
}

/// An address as orchestrator writes it into lists: `{"Hostname":"db1","Port":3306}`.
fn json_address(key: &InstanceKey) -> String {
    serde_json::json!({"Hostname": key.hostname, "Port": key.port}).to_string()
}
