-- Orchestrator's tables that are projections of the state, with its names, columns and keys, so that what reads them goes on reading.
CREATE TABLE IF NOT EXISTS database_instance_downtime (
  hostname varchar(128) NOT NULL, port smallint NOT NULL, downtime_active tinyint(4) DEFAULT NULL,
  begin_timestamp timestamp DEFAULT '', end_timestamp timestamp NULL DEFAULT NULL, owner varchar(128) NOT NULL, reason TEXT NOT NULL,
  PRIMARY KEY (hostname, port)
);
CREATE INDEX IF NOT EXISTS end_timestamp_idx_database_instance_downtime ON database_instance_downtime (end_timestamp);
CREATE TABLE IF NOT EXISTS candidate_database_instance (
  hostname varchar(128) NOT NULL, port smallint NOT NULL, last_suggested timestamp NOT NULL DEFAULT '',
  priority TINYINT SIGNED NOT NULL DEFAULT 1, promotion_rule TEXT NOT NULL DEFAULT 'neutral',
  PRIMARY KEY (hostname, port)
);
CREATE INDEX IF NOT EXISTS last_suggested_idx_candidate_database_instance ON candidate_database_instance (last_suggested);
CREATE TABLE IF NOT EXISTS cluster_alias (
  cluster_name varchar(128) NOT NULL, alias varchar(128) NOT NULL, last_registered timestamp NOT NULL DEFAULT '',
  PRIMARY KEY (cluster_name)
);
CREATE UNIQUE INDEX IF NOT EXISTS alias_uidx_cluster_alias ON cluster_alias (alias);
CREATE TABLE IF NOT EXISTS global_recovery_disable (disable_recovery tinyint NOT NULL, PRIMARY KEY (disable_recovery));
CREATE TABLE IF NOT EXISTS blocked_topology_recovery (
  hostname varchar(128) NOT NULL, port smallint NOT NULL, cluster_name varchar(128) NOT NULL, analysis varchar(128) NOT NULL,
  last_blocked_timestamp timestamp NOT NULL DEFAULT '', blocking_recovery_id bigint,
  PRIMARY KEY (hostname, port)
);
CREATE TABLE IF NOT EXISTS topology_failure_detection (
  detection_id INTEGER PRIMARY KEY, hostname varchar(128) NOT NULL, port smallint NOT NULL, in_active_period tinyint NOT NULL DEFAULT '0',
  start_active_period timestamp NOT NULL DEFAULT '', end_active_period_unixtime INT NOT NULL, processing_node_hostname varchar(128) NOT NULL,
  processcing_node_token varchar(128) NOT NULL, analysis varchar(128) NOT NULL, cluster_name varchar(128) NOT NULL,
  cluster_alias varchar(128) NOT NULL, count_affected_slaves INT NOT NULL, slave_hosts TEXT NOT NULL, is_actionable tinyint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS topology_recovery (
  recovery_id INTEGER PRIMARY KEY, hostname varchar(128) NOT NULL, port smallint NOT NULL, in_active_period tinyint NOT NULL DEFAULT 0,
  start_active_period timestamp NOT NULL DEFAULT '', end_active_period_unixtime INT, end_recovery timestamp NULL DEFAULT NULL,
  processing_node_hostname varchar(128) NOT NULL, processcing_node_token varchar(128) NOT NULL,
  successor_hostname varchar(128) DEFAULT NULL, successor_port smallint DEFAULT NULL, analysis varchar(128) NOT NULL DEFAULT '',
  cluster_name varchar(128) NOT NULL DEFAULT '', cluster_alias varchar(128) NOT NULL DEFAULT '', count_affected_slaves INT NOT NULL DEFAULT 0,
  slave_hosts TEXT NOT NULL DEFAULT '', is_successful TINYint NOT NULL DEFAULT 0, acknowledged TINYint NOT NULL DEFAULT 0,
  acknowledged_by varchar(128) NOT NULL DEFAULT '', acknowledge_comment TEXT NOT NULL DEFAULT '', participating_instances TEXT NOT NULL DEFAULT '',
  lost_slaves TEXT NOT NULL DEFAULT '', all_errors TEXT NOT NULL DEFAULT '', acknowledged_at TIMESTAMP, last_detection_id bigint NOT NULL DEFAULT 0,
  successor_alias varchar(128) DEFAULT NULL, uid varchar(128) NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS uid_idx_topology_recovery ON topology_recovery (uid);
CREATE TABLE IF NOT EXISTS topology_recovery_steps (
  recovery_step_id INTEGER PRIMARY KEY, recovery_uid varchar(128) NOT NULL, audit_at timestamp NOT NULL DEFAULT '', message TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS recovery_uid_idx_topology_recovery_steps ON topology_recovery_steps (recovery_uid);
