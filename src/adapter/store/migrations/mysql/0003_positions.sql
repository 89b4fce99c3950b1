-- What this member last saw of each primary's transactions, as JSON; no part of the replicated state. `at` in seconds since 1970.
CREATE TABLE IF NOT EXISTS ham4db_position (
  instance varchar(255) NOT NULL,
  body longtext NOT NULL,
  at bigint NOT NULL,
  PRIMARY KEY (instance)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
