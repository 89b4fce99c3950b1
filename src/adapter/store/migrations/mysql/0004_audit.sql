-- Orchestrator's table of the audit, a projection of the state.
CREATE TABLE IF NOT EXISTS audit (
  audit_id bigint NOT NULL, audit_timestamp timestamp NOT NULL DEFAULT '1971-01-01 00:00:00', audit_type varchar(128) NOT NULL,
  hostname varchar(128) NOT NULL DEFAULT '', port smallint unsigned NOT NULL, message text NOT NULL, cluster_name varchar(128) NOT NULL DEFAULT '',
  PRIMARY KEY (audit_id), KEY audit_timestamp_idx_audit (audit_timestamp), KEY host_port_idx_audit (hostname, port, audit_timestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
