//! The writer hostgroup of a cluster in ProxySQL, by its admin interface. It speaks MySQL's text protocol and no prepared
//! statements.
//!
//! ProxySQL has no condition for a write. The leader proves by a quorum that it leads before each attempt, and an attempt has a
//! deadline. What ProxySQL has is compared with the wanted every minute.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::time::timeout;

use crate::app::ports::publisher::{PrimaryPublication, PrimaryPublisher, PublicationChange};
use crate::domain::declared::PublishError;
use crate::domain::key::InstanceKey;

use super::proxysql_servers::{
    ServerRow, drain_statement, foreign_writers, leads_to, read_statement, switch_statements,
};

/// How long a connection to the admin interface may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// The most servers of two hostgroups.
const MAX_ROWS: usize = 1000;

/// The state of an error for a wrong user or password.
const ACCESS_DENIED: &str = "28000";

/// The hostgroups of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hostgroups {
    /// The hostgroup of the primary.
    pub writer: u32,
    /// The hostgroup of the replicas, where there is one.
    pub reader: Option<u32>,
}

/// What happens to a primary in ProxySQL when its replacement begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PreFailoverAction {
    /// It gets no new connections, and the present ones end with their transactions.
    #[default]
    OfflineSoft,
    /// It gets no new connections.
    WeightZero,
    /// Nothing.
    None,
}

/// One ProxySQL.
#[derive(Clone, Debug)]
pub struct ProxySqlOptions {
    /// The address of its admin interface.
    pub admin: InstanceKey,
    /// The admin user.
    pub user: String,
    /// The password of the admin user.
    pub password: SecretString,
    /// `None`: no TLS. Otherwise the certificate is verified, against this file or the authorities of the machine.
    pub tls: Option<Option<PathBuf>>,
    /// The hostgroups of clusters, by the name under which a cluster is published.
    pub clusters: BTreeMap<String, Hostgroups>,
    /// The hostgroups of all other clusters; `None`: they are not published here.
    pub others: Option<Hostgroups>,
    /// What is done first.
    pub action: PreFailoverAction,
}

/// Publishes to one ProxySQL.
pub struct ProxySqlPublisher {
    options: ProxySqlOptions,
    connect: MySqlConnectOptions,
}

impl ProxySqlPublisher {
    /// Prepares the publisher; nothing is connected.
    pub fn new(options: ProxySqlOptions) -> Self {
        let mut connect = MySqlConnectOptions::new()
            .host(&options.admin.hostname)
            .port(options.admin.port)
            .username(&options.user)
            .password(options.password.expose_secret())
            // Every statement that a driver would send by itself is one that the admin interface does not know.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .set_names(false)
            .disable_statement_logging();
        connect = match &options.tls {
            None => connect.ssl_mode(MySqlSslMode::Disabled),
            Some(ca) => {
                let verified = connect.ssl_mode(MySqlSslMode::VerifyIdentity);
                match ca {
                    Some(file) => verified.ssl_ca(file),
                    None => verified,
                }
            }
        };
        Self { options, connect }
    }

    fn hostgroups(&self, name: &str) -> Option<Hostgroups> {
        self.options.clusters.get(name).copied().or(self.options.others)
    }

    async fn open(&self) -> Result<Admin, PublishError> {
        let connecting = MySqlConnection::connect_with(&self.connect);
        let late = |_| Err(PublishError::Unanswered("no connection within 1 s".to_owned()));
        let connected = timeout(CONNECT_DEADLINE, connecting);
        let connected = connected
            .await
            .map(|result| result.map_err(|error| publish_error(&error)));
        Ok(Admin(connected.unwrap_or_else(late)?))
    }
}

fn publish_error(error: &sqlx::Error) -> PublishError {
    if let sqlx::Error::Tls(error) = error {
        return PublishError::Refused(format!("TLS: {error}"));
    }
    match error.as_database_error() {
        Some(refusal) if refusal.code().as_deref() == Some(ACCESS_DENIED) => {
            PublishError::Forbidden(refusal.message().to_owned())
        }
        Some(refusal) => PublishError::Refused(refusal.message().to_owned()),
        None => PublishError::Unanswered(error.to_string()),
    }
}

/// A connection to the admin interface.
struct Admin(MySqlConnection);

impl Admin {
    async fn rows(&mut self, statement: String) -> Result<Vec<MySqlRow>, PublishError> {
        let rows = sqlx::raw_sql(AssertSqlSafe(statement)).fetch_all(&mut self.0).await;
        rows.map_err(|error| publish_error(&error))
    }

    async fn run(&mut self, statement: impl Into<String>) -> Result<(), PublishError> {
        self.rows(statement.into()).await.map(drop)
    }

    /// The servers of the hostgroups in one of the tables.
    async fn servers(&mut self, table: &str, hostgroups: Hostgroups) -> Result<Vec<ServerRow>, PublishError> {
        let rows = self.rows(read_statement(table, hostgroups)).await?;
        if rows.len() > MAX_ROWS {
            return Err(PublishError::Refused(format!(
                "its hostgroups have {} servers, expected {MAX_ROWS} at most",
                rows.len()
            )));
        }
        rows.iter().map(server_row).collect()
    }

    /// Whether ProxySQL itself moves servers between these hostgroups, by the `read_only` that it sees.
    async fn moves_servers(&mut self, hostgroups: Hostgroups) -> Result<bool, PublishError> {
        let statement = format!(
            "SELECT writer_hostgroup FROM mysql_replication_hostgroups WHERE writer_hostgroup={}",
            hostgroups.writer
        );
        Ok(!self.rows(statement).await?.is_empty())
    }

    /// The table to change. Where ProxySQL moves servers itself, it does so at run time only: without a copy of that, loading the
    /// table would undo its moves.
    async fn servers_to_change(&mut self, hostgroups: Hostgroups) -> Result<Vec<ServerRow>, PublishError> {
        if self.moves_servers(hostgroups).await? {
            self.run("SAVE MYSQL SERVERS FROM RUNTIME").await?;
        }
        self.servers("mysql_servers", hostgroups).await
    }

    async fn apply(&mut self, statements: Vec<String>) -> Result<(), PublishError> {
        for statement in statements {
            self.run(statement).await?;
        }
        self.run("LOAD MYSQL SERVERS TO RUNTIME").await?;
        self.run("SAVE MYSQL SERVERS TO DISK").await
    }
}

fn server_row(row: &MySqlRow) -> Result<ServerRow, PublishError> {
    let text = |index: usize| {
        let text: Result<String, _> = row.try_get_unchecked(index);
        text.map_err(|_| PublishError::Refused("its answer has a column without a text".to_owned()))
    };
    let number = |index: usize| -> Result<i64, PublishError> {
        let text = text(index)?;
        let not_one = || {
            PublishError::Refused(format!(
                "its answer has `{}` where a number is expected",
                super::http::shortened(&text)
            ))
        };
        text.parse().map_err(|_| not_one())
    };
    let invalid = |_| PublishError::Refused("its answer has an impossible number".to_owned());
    Ok(ServerRow {
        hostgroup: u32::try_from(number(0)?).map_err(invalid)?,
        server: InstanceKey::new(text(1)?, u16::try_from(number(2)?).map_err(invalid)?),
        status: text(3)?,
        weight: number(4)?,
    })
}

#[async_trait]
impl PrimaryPublisher for ProxySqlPublisher {
    fn name(&self) -> String {
        format!("ProxySQL {}", self.options.admin)
    }

    fn withdraws(&self) -> bool {
        self.options.action != PreFailoverAction::None
    }

    async fn publish(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        let Some(hostgroups) = self.hostgroups(&publication.name) else {
            return Ok(PublicationChange::None);
        };
        let (primary, instances) = (&publication.primary, &publication.instances);
        let mut admin = self.open().await?;
        let mut running = admin.servers("runtime_mysql_servers", hostgroups).await?;
        let mut change = PublicationChange::None;
        if !leads_to(&running, hostgroups, primary, instances) {
            let rows = admin.servers_to_change(hostgroups).await?;
            admin
                .apply(switch_statements(&rows, hostgroups, primary, instances)?)
                .await?;
            change = PublicationChange::Written;
            running = admin.servers("runtime_mysql_servers", hostgroups).await?;
            if !leads_to(&running, hostgroups, primary, instances) {
                return Err(PublishError::Unanswered(format!(
                    "hostgroup {} does not lead to {primary} after the change: ProxySQL may not have seen it writable yet",
                    hostgroups.writer
                )));
            }
        }
        let foreign = foreign_writers(&running, hostgroups, instances);
        if let Some(server) = foreign.first() {
            return Err(PublishError::Refused(format!(
                "hostgroup {} also leads to {server}, which is no instance of the cluster: remove it, or give each cluster its own \
                 hostgroups (ProxySQLClusterHostgroups)",
                hostgroups.writer
            )));
        }
        drop(admin.0.close().await);
        Ok(change)
    }

    async fn withdraw(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError> {
        let Some(hostgroups) = self.hostgroups(&publication.name) else {
            return Ok(PublicationChange::None);
        };
        let mut admin = self.open().await?;
        let running = admin.servers("runtime_mysql_servers", hostgroups).await?;
        let (primary, action) = (&publication.primary, self.options.action);
        let mut change = PublicationChange::None;
        if drain_statement(&running, hostgroups, primary, action)?.is_some() {
            let rows = admin.servers_to_change(hostgroups).await?;
            let statement = drain_statement(&rows, hostgroups, primary, action)?;
            admin.apply(statement.into_iter().collect()).await?;
            change = PublicationChange::Written;
        }
        drop(admin.0.close().await);
        Ok(change)
    }
}
