-- Orchestrator's tables of its members and of the active one; which process uses which name; and the last claim of each cluster.
CREATE TABLE IF NOT EXISTS active_node (
  anchor tinyint NOT NULL, hostname varchar(128) NOT NULL, token varchar(128) NOT NULL, last_seen_active timestamp NOT NULL DEFAULT '',
  first_seen_active timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  PRIMARY KEY (anchor)
);
CREATE TABLE IF NOT EXISTS node_health (
  hostname varchar(128) NOT NULL, token varchar(128) NOT NULL, last_seen_active timestamp NOT NULL DEFAULT '',
  extra_info varchar(128) NOT NULL DEFAULT '', command varchar(128) NOT NULL DEFAULT '', app_version varchar(64) NOT NULL DEFAULT '',
  first_seen_active timestamp NOT NULL DEFAULT '1971-01-01 00:00:00', db_backend varchar(255) NOT NULL DEFAULT '',
  incrementing_indicator bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (hostname, token)
);
CREATE INDEX IF NOT EXISTS last_seen_active_idx_node_health ON node_health (last_seen_active);
CREATE TABLE IF NOT EXISTS ham4db_member (
  name varchar(255) NOT NULL, token varchar(64) NOT NULL, id bigint NOT NULL, http_uri text NOT NULL, seen_at bigint NOT NULL,
  PRIMARY KEY (name)
);
CREATE TABLE IF NOT EXISTS ham4db_claim (
  cluster varchar(512) NOT NULL, epoch bigint NOT NULL, proofs bigint NOT NULL,
  PRIMARY KEY (cluster)
);
