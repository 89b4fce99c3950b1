-- What this member last saw of each primary's transactions, as JSON; no part of the replicated state. `at` in seconds since 1970.
CREATE TABLE IF NOT EXISTS ham4db_position (
  instance varchar(255) NOT NULL PRIMARY KEY,
  body TEXT NOT NULL,
  at INT NOT NULL
);
