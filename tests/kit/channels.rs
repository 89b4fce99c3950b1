//! A second replication channel: data that flow in from another cluster.

use anyhow::{Context as _, Result, ensure};

use super::replication::Flavour;
use super::server::Server;
use super::sql::{Address, Credentials};

/// Lets a server also replicate from another one, through the channel `other`.
pub(crate) async fn also_replicate(
    flavour: Flavour,
    server: &Server,
    from: &Server,
    account: &Credentials,
) -> Result<()> {
    let Credentials { user, password } = account;
    let Address { host, port } = from.address();
    match flavour {
        Flavour::MySql => {
            server
                .run(&format!(
                    "CHANGE REPLICATION SOURCE TO SOURCE_HOST='{host}', SOURCE_PORT={port}, SOURCE_USER='{user}', \
                     SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1 FOR CHANNEL 'other'; \
                     START REPLICA FOR CHANNEL 'other'"
                ))
                .await
        }
        Flavour::MariaDb => {
            // A domain of its own, as the manual asks for several sources.
            from.run("SET GLOBAL gtid_domain_id = 5").await?;
            let mut session = from.session().await?;
            let rows = session.rows("SHOW MASTER STATUS").await?;
            session.close().await;
            let row = rows.first().context("no binary log")?;
            let cell = |name: &str| row.get(name).cloned().flatten().context("no such column");
            let (file, position) = (cell("File")?, cell("Position")?);
            server
                .run(&format!(
                    "CHANGE MASTER 'other' TO MASTER_HOST='{host}', MASTER_PORT={port}, MASTER_USER='{user}', \
                     MASTER_PASSWORD='{password}', MASTER_LOG_FILE='{file}', MASTER_LOG_POS={position}; \
                     START SLAVE 'other'"
                ))
                .await
        }
    }
}

/// Whether both threads of the channel `other` run, from this source.
pub(crate) async fn still_replicates(flavour: Flavour, server: &Server, from: &Address) -> Result<()> {
    let statement = match flavour {
        Flavour::MySql => "SHOW REPLICA STATUS FOR CHANNEL 'other'",
        Flavour::MariaDb => "SHOW SLAVE 'other' STATUS",
    };
    let mut session = server.session().await?;
    let rows = session.rows(statement).await?;
    session.close().await;
    let row = rows.first().context("the other channel is gone")?;
    let cell = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| row.get(*name).cloned().flatten())
            .unwrap_or_default()
    };
    let source = cell(["Source_Port", "Master_Port"]);
    let threads = [
        cell(["Replica_IO_Running", "Slave_IO_Running"]),
        cell(["Replica_SQL_Running", "Slave_SQL_Running"]),
    ];
    ensure!(source == from.port.to_string() && threads == ["Yes", "Yes"], "{row:?}");
    Ok(())
}

/// Ends the channel `other`.
pub(crate) async fn no_longer_replicate(flavour: Flavour, server: &Server) -> Result<()> {
    server.run(&flavour.remove_channel("other")).await
}
