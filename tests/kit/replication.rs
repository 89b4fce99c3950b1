//! The SQL of the two flavours that the kit needs: accounts, attaching a replica, and what replication says of itself. Written
//! independently of the program under test, so that a mistake there is not repeated here.

use anyhow::{Context, Result};

use super::sql::{Address, Credentials, Row, Session};

/// Which kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    MySql,
    MariaDb,
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// The database that writers and sampler write to.
pub(crate) const DATABASE: &str = "ham4db_test";

/// What a replica says of its one channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReplicaStatus {
    /// `HOST:PORT` of its source.
    pub(crate) source: String,
    /// `Yes`, `No` or `Connecting`.
    pub(crate) io_thread: String,
    /// `Yes` or `No`.
    pub(crate) sql_thread: String,
    /// The last errors of both threads, empty when there are none.
    pub(crate) errors: String,
}

impl ReplicaStatus {
    /// Both threads run, and its source is the given one.
    pub(crate) fn follows(&self, source: &Address) -> bool {
        self.source == source.to_string() && self.io_thread == "Yes" && self.sql_thread == "Yes"
    }
}

impl Flavour {
    /// What the demo and the bench are asked for by the variable FLAVOUR.
    pub(crate) fn from_environment() -> Result<Self> {
        match std::env::var("FLAVOUR").unwrap_or_default().to_lowercase().as_str() {
            "" | "mysql" => Ok(Self::MySql),
            "mariadb" => Ok(Self::MariaDb),
            other => anyhow::bail!("FLAVOUR={other} is unknown: say mysql or mariadb"),
        }
    }

    /// Its name in the cache folder.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
        }
    }

    /// Its command line client.
    pub(crate) fn client(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::MariaDb => "mariadb",
        }
    }

    /// Creates an account without any privilege.
    fn create_user(account: &Credentials) -> String {
        format!(
            "CREATE USER '{}'@'%' IDENTIFIED BY '{}';",
            account.user, account.password
        )
    }

    /// Creates the account that members use. No ALL, no SUPER where the flavour can do without.
    pub(crate) fn create_topology_user(self, account: &Credentials) -> String {
        let privileges = match self {
            Self::MySql => {
                "RELOAD, PROCESS, REPLICATION SLAVE, REPLICATION CLIENT, SYSTEM_VARIABLES_ADMIN, REPLICATION_SLAVE_ADMIN, \
                 CONNECTION_ADMIN, SYSTEM_USER"
            }
            Self::MariaDb => {
                "RELOAD, PROCESS, SUPER, BINLOG MONITOR, REPLICATION SLAVE, REPLICATION SLAVE ADMIN, REPLICATION MASTER ADMIN, \
                 SLAVE MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN"
            }
        };
        format!(
            "{} GRANT {privileges} ON *.* TO '{}'@'%';",
            Self::create_user(account),
            account.user
        )
    }

    /// Creates the account that replicas use.
    pub(crate) fn create_replication_user(account: &Credentials) -> String {
        format!(
            "{} GRANT REPLICATION SLAVE ON *.* TO '{}'@'%';",
            Self::create_user(account),
            account.user
        )
    }

    /// Creates an account that may write rows and nothing else.
    pub(crate) fn create_writer(account: &Credentials) -> String {
        format!(
            "{} GRANT SELECT, INSERT ON {DATABASE}.* TO '{}'@'%';",
            Self::create_user(account),
            account.user
        )
    }

    /// Creates the tables of writers and sampler.
    pub(crate) fn create_tables() -> String {
        format!(
            "CREATE DATABASE {DATABASE}; \
             CREATE TABLE {DATABASE}.written (writer INT, number BIGINT, server VARCHAR(300), PRIMARY KEY (writer, number)); \
             CREATE TABLE {DATABASE}.sampled (server VARCHAR(300), number BIGINT, PRIMARY KEY (server, number));"
        )
    }

    /// Lets the server replicate from another.
    pub(crate) fn attach(self, source: &Address, account: &Credentials) -> String {
        let Credentials { user, password } = account;
        let Address { host, port } = source;
        match self {
            Self::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_USER='{user}', \
                 SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1; START REPLICA;"
            ),
            Self::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='{user}', \
                 MASTER_PASSWORD='{password}', MASTER_USE_GTID=slave_pos; START SLAVE;"
            ),
        }
    }

    /// Lets the server replicate from another, from this file and position, without GTIDs.
    pub(crate) fn attach_at(self, source: &Address, account: &Credentials, at: &(String, String)) -> String {
        let Credentials { user, password } = account;
        let Address { host, port } = source;
        let (file, position) = at;
        match self {
            Self::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_USER='{user}', \
                 SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=0, SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={position}, \
                 GET_SOURCE_PUBLIC_KEY=1; START REPLICA;"
            ),
            Self::MariaDb => format!(
                "CHANGE MASTER TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='{user}', \
                 MASTER_PASSWORD='{password}', MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}, MASTER_USE_GTID=no; \
                 START SLAVE;"
            ),
        }
    }

    /// Forgets the source.
    pub(crate) fn detach(self) -> &'static str {
        match self {
            Self::MySql => "STOP REPLICA; RESET REPLICA ALL;",
            Self::MariaDb => "STOP SLAVE; RESET SLAVE ALL;",
        }
    }

    /// The names of all channels.
    pub(super) async fn channels(self, session: &mut Session) -> Result<Vec<String>> {
        let (statement, name) = match self {
            Self::MySql => ("SHOW REPLICA STATUS", "Channel_Name"),
            Self::MariaDb => ("SHOW ALL SLAVES STATUS", "Connection_name"),
        };
        let rows = session.rows(statement).await?;
        let name = |row: &Row| row.get(name).cloned().flatten().unwrap_or_default();
        Ok(rows.iter().map(name).collect())
    }

    /// Gives a server the channel `stranger`, which names an address and is not started.
    pub(crate) fn stranger_channel(self, source: &Address) -> String {
        let Address { host, port } = source;
        match self {
            Self::MySql => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_USER='x' FOR CHANNEL 'stranger'"
            ),
            Self::MariaDb => {
                format!("CHANGE MASTER 'stranger' TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='x'")
            }
        }
    }

    /// Ends a channel and forgets it, with its relay logs.
    pub(crate) fn remove_channel(self, name: &str) -> String {
        match self {
            Self::MySql => format!("STOP REPLICA FOR CHANNEL '{name}'; RESET REPLICA ALL FOR CHANNEL '{name}'"),
            Self::MariaDb => format!("STOP SLAVE '{name}'; RESET SLAVE '{name}' ALL"),
        }
    }

    /// Forgets every transaction, and every variable that was to survive a restart.
    pub(super) fn forget_transactions(self) -> &'static str {
        match self {
            Self::MySql => "RESET BINARY LOGS AND GTIDS; RESET PERSIST",
            Self::MariaDb => "RESET MASTER; SET GLOBAL gtid_slave_pos = ''",
        }
    }

    /// Switches both sides of semi-sync on a server that is in no topology.
    pub(super) fn switch_semi_sync(self, on: bool) -> String {
        let (source, replica) = match self {
            Self::MySql => ("rpl_semi_sync_source_enabled", "rpl_semi_sync_replica_enabled"),
            Self::MariaDb => ("rpl_semi_sync_master_enabled", "rpl_semi_sync_slave_enabled"),
        };
        let on = on_off(on);
        format!("SET GLOBAL {source} = {on}; SET GLOBAL {replica} = {on}")
    }

    /// Stops or starts one of the threads, `IO_THREAD` or `SQL_THREAD`.
    pub(crate) fn thread(self, verb: &str, thread: &str) -> String {
        match self {
            Self::MySql => format!("{verb} REPLICA {thread}"),
            Self::MariaDb => format!("{verb} SLAVE {thread}"),
        }
    }

    /// Lets commits wait for an acknowledgement even when no replica is connected, or not, as long as the server runs.
    pub(crate) fn wait_without_replica(self, wait: bool) -> String {
        let variable = match self {
            Self::MySql => "rpl_semi_sync_source_wait_no_replica",
            Self::MariaDb => "rpl_semi_sync_master_wait_no_slave",
        };
        format!("SET GLOBAL {variable} = {}", on_off(wait))
    }

    /// How many semi-sync replicas are connected.
    pub(crate) async fn semi_sync_replicas(self, session: &mut Session) -> Result<u32> {
        let variable = match self {
            Self::MySql => "Rpl_semi_sync_source_clients",
            Self::MariaDb => "Rpl_semi_sync_master_clients",
        };
        let rows = session.rows(&format!("SHOW GLOBAL STATUS LIKE '{variable}'")).await?;
        let value = rows.first().and_then(|row| row.get("Value").cloned().flatten());
        value
            .with_context(|| format!("{variable} is not there"))?
            .parse()
            .context("count the semi-sync replicas")
    }

    /// Makes the server read-only as strictly as the flavour can, or writable.
    pub(crate) fn read_only(self, read_only: bool) -> &'static str {
        match (self, read_only) {
            (Self::MySql, true) => "SET GLOBAL super_read_only = ON",
            // This switches super_read_only off with it.
            (_, false) => "SET GLOBAL read_only = OFF",
            (Self::MariaDb, true) => "SET GLOBAL read_only = ON",
        }
    }

    /// What the server has executed, as the flavour writes it.
    pub(crate) async fn executed(self, session: &mut Session) -> Result<String> {
        let position = match self {
            Self::MySql => session.value("SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')").await,
            Self::MariaDb => session.value("SELECT @@GLOBAL.gtid_current_pos").await,
        };
        position.context("read what was executed")
    }

    /// Whether the server has executed all of `wanted`.
    pub(crate) async fn has_executed(self, session: &mut Session, wanted: &str) -> Result<bool> {
        match self {
            Self::MySql => Ok(session
                .value(&format!("SELECT GTID_SUBSET('{wanted}', @@GLOBAL.gtid_executed)"))
                .await?
                == "1"),
            Self::MariaDb => {
                let executed = self.executed(session).await?;
                let reached = |(domain, wanted)| {
                    mariadb_domains(&executed).any(|(known, number)| known == domain && number >= wanted)
                };
                Ok(mariadb_domains(wanted).all(reached))
            }
        }
    }

    /// What the server's channel says; `None` when it replicates from nobody.
    pub(crate) async fn replica_status(self, session: &mut Session) -> Result<Option<ReplicaStatus>> {
        let (statement, host, port, io_thread, sql_thread) = match self {
            Self::MySql => (
                "SHOW REPLICA STATUS",
                "Source_Host",
                "Source_Port",
                "Replica_IO_Running",
                "Replica_SQL_Running",
            ),
            Self::MariaDb => (
                "SHOW SLAVE STATUS",
                "Master_Host",
                "Master_Port",
                "Slave_IO_Running",
                "Slave_SQL_Running",
            ),
        };
        let rows = session.rows(statement).await?;
        let status = |row: &Row| {
            let text = |column: &str| row.get(column).cloned().flatten().unwrap_or_default();
            ReplicaStatus {
                source: format!("{}:{}", text(host), text(port)),
                io_thread: text(io_thread),
                sql_thread: text(sql_thread),
                errors: format!("{} {}", text("Last_IO_Error"), text("Last_SQL_Error"))
                    .trim()
                    .to_owned(),
            }
        };
        Ok(rows.first().map(status))
    }

    /// The options that make a server of this flavour a small member of a GTID topology.
    ///
    /// With semi-sync, both of its sides are on everywhere, so that a promoted server goes on with it. A replica that nobody replicates
    /// from must then not wait for an acknowledgement: its applier would hang, and with it every login. So servers start without
    /// waiting for a replica that is not there, and [`Flavour::wait_without_replica`] makes the primary strict once it has replicas.
    pub(crate) fn options(self, boots_read_only: bool, semi_sync: bool) -> Vec<String> {
        // An acknowledgement is waited for as good as for ever: after this many milliseconds the primary would go on alone.
        let patience = 3_600_000;
        let mut options: Vec<String> = match self {
            Self::MySql => vec![
                "--gtid-mode=ON".into(),
                "--enforce-gtid-consistency=ON".into(),
                "--log-replica-updates=ON".into(),
                "--mysqlx=OFF".into(),
                "--innodb-redo-log-capacity=16M".into(),
                "--plugin-load-add=semisync_source.so;semisync_replica.so".into(),
                format!("--super-read-only={}", on_off(boots_read_only)),
                format!("--loose-rpl-semi-sync-source-enabled={}", on_off(semi_sync)),
                format!("--loose-rpl-semi-sync-replica-enabled={}", on_off(semi_sync)),
                "--loose-rpl-semi-sync-source-wait-point=AFTER_SYNC".into(),
                "--loose-rpl-semi-sync-source-wait-for-replica-count=1".into(),
                "--loose-rpl-semi-sync-source-wait-no-replica=OFF".into(),
                format!("--loose-rpl-semi-sync-source-timeout={patience}"),
            ],
            Self::MariaDb => vec![
                "--log-slave-updates=ON".into(),
                "--binlog-format=ROW".into(),
                "--innodb-log-file-size=16M".into(),
                "--aria-pagecache-buffer-size=1M".into(),
                format!("--read-only={}", on_off(boots_read_only)),
                format!("--rpl-semi-sync-master-enabled={}", on_off(semi_sync)),
                format!("--rpl-semi-sync-slave-enabled={}", on_off(semi_sync)),
                "--rpl-semi-sync-master-wait-point=AFTER_SYNC".into(),
                "--rpl-semi-sync-master-wait-no-slave=OFF".into(),
                format!("--rpl-semi-sync-master-timeout={patience}"),
            ],
        };
        let common = [
            "--log-bin=binlog",
            "--relay-log=relay",
            "--skip-name-resolve",
            "--max-connections=200",
            "--sync-binlog=1",
            "--innodb-flush-log-at-trx-commit=1",
            "--innodb-buffer-pool-size=32M",
            "--table-open-cache=128",
        ];
        options.extend(common.map(str::to_owned));
        options
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "ON" } else { "OFF" }
}

/// The sequence number of each domain in a MariaDB position, which is a list of `DOMAIN-SERVER-NUMBER`.
fn mariadb_domains(position: &str) -> impl Iterator<Item = (&str, u64)> {
    position.split(',').filter_map(|gtid| {
        let (domain, rest) = gtid.trim().split_once('-')?;
        Some((domain, rest.rsplit_once('-')?.1.parse().ok()?))
    })
}
