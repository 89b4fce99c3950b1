//! MySQL and MariaDB servers as the private backends of members.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::members::Members;
use super::replication::Flavour;
use super::run::Run;
use super::server::{Server, ServerOptions, ensure_servers};

/// The account of every member on its backend, and its database.
const ACCOUNT: &str = "ham4db_backend";
/// The servers of the topology have smaller numbers.
const FIRST_NUMBER: u32 = 20;

/// One backend for each member.
pub(crate) struct Backends {
    pub(crate) servers: Vec<Server>,
}

impl Backends {
    /// Starts a server for each of the members, which are prepared and do not run yet, and configures them to use it.
    pub(crate) async fn start(run: &Arc<Run>, members: &mut Members, flavours: &[Flavour]) -> Result<Self> {
        let mut servers = Vec::new();
        for (number, flavour) in (FIRST_NUMBER..).zip(flavours) {
            let options = ServerOptions {
                flavour: *flavour,
                number,
                semi_sync: false,
                boots_read_only: false,
                performance_schema: false,
                host: None,
                reserved: false,
                // Not the default, so that the server is not one of the pool: it is killed and emptied.
                more: vec!["--max-connections=60".to_owned()],
            };
            let server = Server::start(Arc::clone(run), ensure_servers(*flavour)?, options).await?;
            let password = run.secret();
            server.run(&format!("CREATE DATABASE {ACCOUNT}")).await?;
            server
                .run(&format!("CREATE USER '{ACCOUNT}'@'%' IDENTIFIED BY '{password}'"))
                .await?;
            server
                .run(&format!("GRANT ALL PRIVILEGES ON {ACCOUNT}.* TO '{ACCOUNT}'@'%'"))
                .await?;
            let index = servers.len();
            let address = server.address().clone();
            members.member_mut(index)?.set_keys(&json!({
                "BackendDB": "mysql",
                "MySQLOrchestratorHost": address.host,
                "MySQLOrchestratorPort": address.port,
                "MySQLHam4dbDatabase": ACCOUNT,
                "MySQLHam4dbUser": ACCOUNT,
                "MySQLHam4dbPassword": password,
                "MySQLHam4dbReadTimeoutSeconds": 3,
                "BackendExitSeconds": 0,
            }))?;
            servers.push(server);
        }
        Ok(Self { servers })
    }

    /// The backend of a member.
    pub(crate) fn server(&self, index: usize) -> Result<&Server> {
        self.servers
            .get(index)
            .with_context(|| format!("there is no backend {index}"))
    }

    /// The same, to be started or killed.
    pub(crate) fn server_mut(&mut self, index: usize) -> Result<&mut Server> {
        self.servers
            .get_mut(index)
            .with_context(|| format!("there is no backend {index}"))
    }

    /// The log position in a backend, and a checksum of its records.
    pub(crate) async fn content(&self, index: usize) -> Result<(String, String)> {
        let server = self.server(index)?;
        let applied = format!("SELECT value FROM {ACCOUNT}.ham4db_meta WHERE name = 'applied'");
        let mark: serde_json::Value = serde_json::from_str(&server.value(&applied).await?)?;
        let position = mark.pointer("/position").map(ToString::to_string).unwrap_or_default();
        let records =
            format!("SELECT CONCAT(COUNT(*), ' ', SUM(CRC32(CONCAT(kind, id, body)))) FROM {ACCOUNT}.ham4db_object");
        Ok((position, server.value(&records).await?))
    }

    /// Removes everything from a backend, as if it were provisioned anew.
    pub(crate) async fn empty(&self, index: usize) -> Result<()> {
        let server = self.server(index)?;
        server.run(&format!("DROP DATABASE {ACCOUNT}")).await?;
        server.run(&format!("CREATE DATABASE {ACCOUNT}")).await
    }
}
