-- Orchestrator's tables of how the analysis of each instance changed: as this member saw it; no part of the replicated state.
CREATE TABLE IF NOT EXISTS database_instance_analysis_changelog (
  changelog_id bigint NOT NULL, hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL,
  analysis_timestamp timestamp NOT NULL DEFAULT '1971-01-01 00:00:00', analysis varchar(128) NOT NULL,
  PRIMARY KEY (changelog_id), KEY analysis_timestamp_idx_database_instance_analysis_changelog (analysis_timestamp),
  KEY instance_timestamp_idx_database_instance_analysis_changelog (hostname, port, analysis_timestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS database_instance_last_analysis (
  hostname varchar(128) NOT NULL, port smallint unsigned NOT NULL, analysis_timestamp timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  analysis varchar(128) NOT NULL,
  PRIMARY KEY (hostname, port), KEY analysis_timestamp_idx_database_instance_last_analysis (analysis_timestamp)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
