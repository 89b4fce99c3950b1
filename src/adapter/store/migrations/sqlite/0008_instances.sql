-- The servers as they were observed last: in orchestrator's table, for what reads that, and whole as JSON. Written behind; no part of the
-- replicated state.
CREATE TABLE IF NOT EXISTS database_instance (
  hostname varchar(128) NOT NULL, port smallint NOT NULL, last_checked timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  last_seen timestamp NULL DEFAULT NULL, server_id int NOT NULL, version varchar(128) NOT NULL, binlog_format varchar(16) NOT NULL,
  log_bin tinyint NOT NULL, log_slave_updates tinyint NOT NULL, binary_log_file varchar(128) NOT NULL,
  binary_log_pos bigint NOT NULL, master_host varchar(128) NOT NULL, master_port smallint NOT NULL,
  slave_sql_running tinyint NOT NULL, slave_io_running tinyint NOT NULL, master_log_file varchar(128) NOT NULL,
  read_master_log_pos bigint NOT NULL, relay_master_log_file varchar(128) NOT NULL, exec_master_log_pos bigint NOT NULL,
  seconds_behind_master bigint DEFAULT NULL, slave_lag_seconds bigint DEFAULT NULL, num_slave_hosts int NOT NULL,
  slave_hosts text NOT NULL, cluster_name varchar(128) NOT NULL, read_only tinyint NOT NULL DEFAULT 0, last_sql_error text NOT NULL DEFAULT '',
  last_io_error text NOT NULL DEFAULT '', oracle_gtid tinyint NOT NULL DEFAULT 0, mariadb_gtid tinyint NOT NULL DEFAULT 0,
  relay_log_file varchar(128) NOT NULL DEFAULT '', relay_log_pos bigint NOT NULL DEFAULT 0,
  pseudo_gtid tinyint NOT NULL DEFAULT 0, replication_depth tinyint NOT NULL DEFAULT 0,
  has_replication_filters tinyint NOT NULL DEFAULT 0, data_center varchar(32) NOT NULL DEFAULT '',
  physical_environment varchar(32) NOT NULL DEFAULT '', uptime int NOT NULL DEFAULT 0, is_co_master tinyint NOT NULL DEFAULT 0,
  sql_delay int NOT NULL DEFAULT 0, binlog_server tinyint NOT NULL DEFAULT 0,
  supports_oracle_gtid tinyint NOT NULL DEFAULT 0, executed_gtid_set text NOT NULL DEFAULT '', server_uuid varchar(64) NOT NULL DEFAULT '',
  suggested_cluster_alias varchar(128) NOT NULL DEFAULT '', last_attempted_check timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  gtid_purged text NOT NULL DEFAULT '', replication_credentials_available tinyint NOT NULL DEFAULT 0,
  has_replication_credentials tinyint NOT NULL DEFAULT 0, allow_tls tinyint NOT NULL DEFAULT 0,
  semi_sync_enforced tinyint NOT NULL DEFAULT 0, instance_alias varchar(128) NOT NULL DEFAULT '',
  version_comment varchar(128) NOT NULL DEFAULT '', major_version varchar(16) NOT NULL DEFAULT '', binlog_row_image varchar(16) NOT NULL DEFAULT '',
  last_discovery_latency bigint NOT NULL DEFAULT 0, semi_sync_master_enabled tinyint NOT NULL DEFAULT 0,
  semi_sync_replica_enabled tinyint NOT NULL DEFAULT 0, gtid_mode varchar(32) NOT NULL DEFAULT '',
  last_check_partial_success tinyint NOT NULL DEFAULT 0, master_uuid varchar(64) NOT NULL DEFAULT '', gtid_errant text NOT NULL DEFAULT '',
  ancestry_uuid text NOT NULL DEFAULT '', replication_sql_thread_state tinyint NOT NULL DEFAULT 0, replication_io_thread_state tinyint NOT NULL DEFAULT 0,
  region varchar(32) NOT NULL DEFAULT '', semi_sync_master_timeout int NOT NULL DEFAULT 0,
  semi_sync_master_wait_for_slave_count int NOT NULL DEFAULT 0, semi_sync_master_status tinyint NOT NULL DEFAULT 0,
  semi_sync_replica_status tinyint NOT NULL DEFAULT 0, semi_sync_master_clients int NOT NULL DEFAULT 0,
  semi_sync_available tinyint NOT NULL DEFAULT 0, replication_group_name varchar(64) NOT NULL DEFAULT '',
  replication_group_is_single_primary_mode tinyint NOT NULL DEFAULT 1,
  replication_group_member_state varchar(16) NOT NULL DEFAULT '', replication_group_member_role varchar(16) NOT NULL DEFAULT '',
  replication_group_members text NOT NULL DEFAULT '', replication_group_primary_host varchar(128) NOT NULL DEFAULT '',
  replication_group_primary_port smallint NOT NULL DEFAULT 0,
  PRIMARY KEY (hostname, port)
);
CREATE INDEX IF NOT EXISTS cluster_name_idx_database_instance ON database_instance (cluster_name);
CREATE INDEX IF NOT EXISTS last_checked_idx_database_instance ON database_instance (last_checked);
CREATE INDEX IF NOT EXISTS last_seen_idx_database_instance ON database_instance (last_seen);
CREATE INDEX IF NOT EXISTS master_host_port_idx_database_instance_database_instance ON database_instance (master_host, master_port);
CREATE INDEX IF NOT EXISTS suggested_cluster_alias_idx_database_instance ON database_instance (suggested_cluster_alias);
CREATE TABLE IF NOT EXISTS ham4db_instance (
  hostname varchar(255) NOT NULL, port smallint NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (hostname, port)
);
