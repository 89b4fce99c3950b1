-- Orchestrator's pairs of key-value stores, with its names, columns and keys.
CREATE TABLE IF NOT EXISTS kv_store (
  store_key varchar(255) NOT NULL, store_value text NOT NULL, last_updated timestamp NOT NULL DEFAULT '1971-01-01 00:00:00',
  PRIMARY KEY (store_key)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin ROW_FORMAT=DYNAMIC;
