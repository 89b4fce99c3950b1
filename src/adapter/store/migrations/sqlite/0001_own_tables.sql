-- Everything that a decision needs, as JSON bodies under a kind and an id; and what was asked for, one row per kind, instance, origin.
CREATE TABLE IF NOT EXISTS ham4db_meta (
  name varchar(64) NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS ham4db_object (
  kind varchar(32) NOT NULL,
  id varchar(255) NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (kind, id)
);
CREATE TABLE IF NOT EXISTS ham4db_intent (
  kind varchar(32) NOT NULL,
  host varchar(255) NOT NULL,
  port INT NOT NULL,
  origin varchar(255) NOT NULL,
  body TEXT NOT NULL,
  PRIMARY KEY (kind, host, port, origin)
);
