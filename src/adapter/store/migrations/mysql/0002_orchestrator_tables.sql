-- Orchestrator's tables that are projections of the state, with its names, columns and keys, so that what reads them goes on reading.
CREATE TABLE IF NOT EXISTS database_instance_downtime (
  hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, downtime_active tinyint(4) DEFAULT NULL,
  begin_timestamp timestamp NULL DEFAULT NULL, end_timestamp timestamp NULL DEFAULT NULL, owner varchar(128) NOT NULL, reason text NOT NULL,
  PRIMARY KEY (hostname, port), KEY end_timestamp_idx_database_instance_downtime (end_timestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS candidate_database_instance (
  hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, last_suggested timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  priority tinyint NOT NULL DEFAULT 1, promotion_rule enum('must','prefer','neutral','prefer_not','must_not') NOT NULL DEFAULT 'neutral',
  PRIMARY KEY (hostname, port), KEY last_suggested_idx_candidate_database_instance (last_suggested)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS cluster_alias (
  cluster_name varchar(128) NOT NULL, alias varchar(128) NOT NULL, last_registered timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  PRIMARY KEY (cluster_name), UNIQUE KEY alias_uidx_cluster_alias (alias)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS global_recovery_disable (
  disable_recovery tinyint unsigned NOT NULL, PRIMARY KEY (disable_recovery)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS blocked_topology_recovery (
  hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, cluster_name varchar(128) NOT NULL, analysis varchar(128) NOT NULL,
  last_blocked_timestamp timestamp NOT NULL DEFAULT '1971-01-01 00:00:00', blocking_recovery_id bigint DEFAULT NULL,
  PRIMARY KEY (hostname, port)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS topology_failure_detection (
  detection_id bigint NOT NULL, hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, in_active_period tinyint NOT NULL DEFAULT 0,
  start_active_period timestamp NOT NULL DEFAULT '1971-01-01 00:00:00', end_active_period_unixtime bigint NOT NULL,
  processing_node_hostname varchar(128) NOT NULL, processcing_node_token varchar(128) NOT NULL, analysis varchar(128) NOT NULL,
  cluster_name varchar(128) NOT NULL, cluster_alias varchar(128) NOT NULL, count_affected_slaves int NOT NULL, slave_hosts text NOT NULL,
  is_actionable tinyint NOT NULL DEFAULT 0,
  PRIMARY KEY (detection_id), KEY in_active_start_period_idx_topology_failure_detection (in_active_period, start_active_period)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS topology_recovery (
  recovery_id bigint NOT NULL, hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, in_active_period tinyint NOT NULL DEFAULT 0,
  start_active_period timestamp NOT NULL DEFAULT '1971-01-01 00:00:00', end_active_period_unixtime bigint DEFAULT NULL,
  end_recovery timestamp NULL DEFAULT NULL, processing_node_hostname varchar(128) NOT NULL, processcing_node_token varchar(128) NOT NULL,
  successor_hostname varchar(128) DEFAULT NULL, successor_port smallint unsigned DEFAULT NULL, analysis varchar(128) NOT NULL DEFAULT '',
  cluster_name varchar(128) NOT NULL DEFAULT '', cluster_alias varchar(128) NOT NULL DEFAULT '', count_affected_slaves int NOT NULL DEFAULT 0,
  slave_hosts text, is_successful tinyint NOT NULL DEFAULT 0, acknowledged tinyint NOT NULL DEFAULT 0,
  acknowledged_by varchar(128) NOT NULL DEFAULT '', acknowledge_comment text, participating_instances text, lost_slaves text, all_errors text,
  acknowledged_at timestamp NULL DEFAULT NULL, last_detection_id bigint NOT NULL DEFAULT 0, successor_alias varchar(128) DEFAULT NULL,
  uid varchar(128) NOT NULL DEFAULT '',
  PRIMARY KEY (recovery_id), KEY uid_idx_topology_recovery (uid), KEY start_active_period_idx_topology_recovery (start_active_period)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS topology_recovery_steps (
  recovery_step_id bigint NOT NULL, recovery_uid varchar(128) NOT NULL, audit_at timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  message text NOT NULL,
  PRIMARY KEY (recovery_step_id), KEY recovery_uid_idx_topology_recovery_steps (recovery_uid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
