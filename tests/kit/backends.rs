//! MySQL and MariaDB servers as the backends of members: one for each, or one for all.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::http::text;
use super::members::Members;
use super::pages;
use super::replication::Flavour;
use super::run::{Run, hand_over};
use super::server::{Server, ServerOptions, ensure_servers};

/// The account of every member on its backend, and its database.
const ACCOUNT: &str = "ham4db_backend";
/// The servers of the topology have smaller numbers.
const FIRST_NUMBER: u32 = 20;

/// The backends.
pub(crate) struct Backends {
    pub(crate) servers: Vec<Server>,
}

/// Starts a server with a database for members. Returns it with the keys of these members.
async fn backend(run: &Arc<Run>, number: u32, flavour: Flavour) -> Result<(Server, Value)> {
    let options = ServerOptions {
        flavour,
        number,
        semi_sync: false,
        boots_read_only: false,
        performance_schema: false,
        host: None,
        reserved: false,
        // Not the default, so that the server is not one of the pool: it is killed and emptied.
        more: vec!["--max-connections=60".to_owned()],
    };
    let server = Server::start(Arc::clone(run), ensure_servers(flavour)?, options).await?;
    let password = run.secret();
    for statement in [
        format!("CREATE DATABASE {ACCOUNT}"),
        format!("CREATE USER '{ACCOUNT}'@'%' IDENTIFIED BY '{password}'"),
        format!("GRANT ALL PRIVILEGES ON {ACCOUNT}.* TO '{ACCOUNT}'@'%'"),
    ] {
        server.run(&statement).await?;
    }
    let address = server.address().clone();
    let keys = json!({
        "BackendDB": "mysql",
        "MySQLOrchestratorHost": address.host,
        "MySQLOrchestratorPort": address.port,
        "MySQLHam4dbDatabase": ACCOUNT,
        "MySQLHam4dbUser": ACCOUNT,
        "MySQLHam4dbPassword": password,
        "MySQLHam4dbReadTimeoutSeconds": 3,
        "BackendExitSeconds": 0,
    });
    Ok((server, keys))
}

impl Backends {
    /// Starts a server for each of the members, which are prepared and do not run yet, and configures them to use it.
    pub(crate) async fn start(run: &Arc<Run>, members: &mut Members, flavours: &[Flavour]) -> Result<Self> {
        let mut servers = Vec::new();
        for (number, flavour) in (FIRST_NUMBER..).zip(flavours) {
            let (server, keys) = backend(run, number, *flavour).await?;
            members.member_mut(servers.len())?.set_keys(&keys)?;
            servers.push(server);
        }
        Ok(Self { servers })
    }

    /// Starts one server that all members share, which are prepared and do not run yet, and configures them as
    /// docs/deployment-shared-backend.md says.
    pub(crate) async fn start_shared(run: &Arc<Run>, members: &mut Members, flavour: Flavour) -> Result<Self> {
        let (server, own) = backend(run, FIRST_NUMBER, flavour).await?;
        let mut page = pages::configuration("deployment-shared-backend.md")?;
        // Accounts, seeds and token of a test are in what it prepared.
        for key in [
            "APIWriteTokenFile",
            "MySQLTopologyCredentialsConfigFile",
            "DiscoverySeeds",
            "RecoverMasterClusterFilters",
        ] {
            page.remove(key)
                .with_context(|| format!("the page does not set {key}"))?;
        }
        let value = |key: &str| own.get(key).cloned().unwrap_or_default();
        let credentials = run.folder().join("backend.cnf");
        let password = text(&own, "/MySQLHam4dbPassword");
        std::fs::write(&credentials, format!("[client]\nuser={ACCOUNT}\npassword={password}\n"))?;
        hand_over(&credentials)?;
        pages::replace(&mut page, "MySQLHam4dbHost", value("MySQLOrchestratorHost"))?;
        pages::replace(&mut page, "MySQLHam4dbPort", value("MySQLOrchestratorPort"))?;
        pages::replace(&mut page, "MySQLHam4dbDatabase", Value::from(ACCOUNT))?;
        pages::replace(&mut page, "MySQLHam4dbCredentialsConfigFile", json!(credentials))?;
        for member in &mut members.list {
            let uri = format!("http://{}", member.address());
            pages::replace(&mut page, "HTTPAdvertise", Value::from(uri))?;
            member.set_keys(&Value::Object(page.clone()))?;
            member.set_keys(&json!({
                "RaftEnabled": false, "BackendExitSeconds": 0, "MySQLHam4dbReadTimeoutSeconds": 3,
            }))?;
        }
        members.without_raft();
        Ok(Self { servers: vec![server] })
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
