-- Orchestrator's pairs of key-value stores, with its names, columns and keys.
CREATE TABLE IF NOT EXISTS kv_store (
  store_key varchar(255) NOT NULL, store_value TEXT NOT NULL, last_updated timestamp NOT NULL DEFAULT '',
  PRIMARY KEY (store_key)
);
