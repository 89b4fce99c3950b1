-- Orchestrator's tables of how the analysis of each instance changed: as this member saw it; no part of the replicated state.
CREATE TABLE IF NOT EXISTS database_instance_analysis_changelog (
  changelog_id INTEGER PRIMARY KEY, hostname varchar(128) NOT NULL, port smallint NOT NULL,
  analysis_timestamp timestamp NOT NULL DEFAULT '', analysis varchar(128) NOT NULL
);
CREATE INDEX IF NOT EXISTS instance_timestamp_idx_database_instance_analysis_changelog
  ON database_instance_analysis_changelog (hostname, port, analysis_timestamp);
CREATE INDEX IF NOT EXISTS analysis_timestamp_idx_database_instance_analysis_changelog
  ON database_instance_analysis_changelog (analysis_timestamp);
CREATE TABLE IF NOT EXISTS database_instance_last_analysis (
  hostname varchar(128) NOT NULL, port smallint NOT NULL, analysis_timestamp timestamp NOT NULL DEFAULT '', analysis varchar(128) NOT NULL,
  PRIMARY KEY (hostname, port)
);
CREATE INDEX IF NOT EXISTS analysis_timestamp_idx_database_instance_last_analysis ON database_instance_last_analysis (analysis_timestamp);
