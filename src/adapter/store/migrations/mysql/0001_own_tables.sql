-- Everything that a decision needs, as JSON bodies under a kind and an id; and what was asked for, one row per kind, instance, origin.
CREATE TABLE IF NOT EXISTS ham4db_meta (
  name varchar(64) NOT NULL,
  value longtext NOT NULL,
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE IF NOT EXISTS ham4db_object (
  kind varchar(32) NOT NULL,
  id varchar(512) NOT NULL,
  body longtext NOT NULL,
  PRIMARY KEY (kind, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
CREATE TABLE IF NOT EXISTS ham4db_intent (
  kind varchar(32) NOT NULL,
  host varchar(255) NOT NULL,
  port int NOT NULL,
  origin varchar(384) NOT NULL,
  body longtext NOT NULL,
  PRIMARY KEY (kind, host, port, origin)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
