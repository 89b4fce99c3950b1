-- Orchestrator's table of the audit, a projection of the state.
CREATE TABLE IF NOT EXISTS audit (
  audit_id INTEGER PRIMARY KEY, audit_timestamp timestamp NOT NULL DEFAULT '', audit_type varchar(128) NOT NULL,
  hostname varchar(128) NOT NULL DEFAULT '', port smallint NOT NULL, message TEXT NOT NULL, cluster_name varchar(128) NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS host_port_idx_audit ON audit (hostname, port, audit_timestamp);
CREATE INDEX IF NOT EXISTS audit_timestamp_idx_audit ON audit (audit_timestamp);
