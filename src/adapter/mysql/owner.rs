//! The port [`OwnerLocks`]: one connection_id to each primary, which holds the owner's lock or looks who does.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::app::ports::{CredentialsByOrigin, Owner, OwnerLocks, Target};
use crate::domain::key::InstanceKey;

use super::connection::SqlFailure;
use super::connection_cache::ConnectionCache;
use super::queries;
use super::server_connection::ServerConnection;
use super::text_row::TextRow;

/// `wait_timeout` of the session, seconds: a member that is cut off or stopped keeps the lock no longer. The session is used every
/// second, and this is less than the time for which a stranger has to be seen before anything is said.
const OWN_SESSION: &str = "SET SESSION wait_timeout = 4";

/// Holds and looks at owner's locks over sqlx.
pub struct MySqlOwnerLocks {
    connections: ConnectionCache,
}

impl MySqlOwnerLocks {
    /// Takes the accounts from `credentials` whenever a connection_id is opened.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>) -> Self {
        Self {
            connections: ConnectionCache::new(credentials, Some(OWN_SESSION)),
        }
    }
}

/// The connection_id ids of one look.
struct Look {
    owner: Option<u64>,
    ours: Option<u64>,
    me: u64,
}

async fn look(connection: &mut ServerConnection, group: &str) -> Result<Look, SqlFailure> {
    let statement = connection.dialect().look_at_owner(group);
    let rows = connection.rows(&statement).await?;
    let Some(row) = rows.first() else {
        return Ok(Look {
            owner: None,
            ours: None,
            me: 0,
        });
    };
    Ok(Look {
        owner: row.optional_number(&["owner"])?,
        ours: row.optional_number(&["ours"])?,
        me: row.number(&["me"])?,
    })
}

async fn find_out(connection: &mut ServerConnection, group: &str, take: bool) -> Result<(Owner, bool), SqlFailure> {
    let mut seen = look(connection, group).await?;
    if take && seen.owner.is_none() {
        let statement = connection.dialect().take_ownership(group);
        connection.rows(&statement).await?;
        seen = look(connection, group).await?;
    }
    let holds_any = [seen.owner, seen.ours].contains(&Some(seen.me));
    let owner = match seen.owner {
        None => Owner::Nobody,
        Some(owner) if seen.ours == Some(owner) => Owner::ThisGroup,
        Some(owner) => Owner::Another(describe(connection, owner).await?),
    };
    Ok((owner, holds_any))
}

/// Whose the holder's connection_id is, as far as we may see it.
async fn describe(connection: &mut ServerConnection, connection_id: u64) -> Result<String, SqlFailure> {
    let statement = connection.dialect().select_connection(connection_id);
    let statement = queries::processes(statement, connection.server_info().has_performance_schema());
    let row = match connection.rows(&statement).await {
        Ok(rows) => rows.into_iter().next(),
        Err(SqlFailure::Answered { .. }) => None,
        Err(broken @ SqlFailure::Broken(_)) => return Err(broken),
    };
    let whose = |row: &TextRow| {
        // The port of its end is news at each reconnect.
        let host = row.text_or_empty(&["HOST", "Host"]);
        let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned();
        format!("{}@{host}", row.text_or_empty(&["USER", "User"]))
    };
    Ok(row.as_ref().map_or_else(|| String::from("an unseen account"), whose))
}

#[async_trait]
impl OwnerLocks for MySqlOwnerLocks {
    async fn look(&self, target: &Target, group: &str, take: bool, deadline: Duration) -> Result<Owner, String> {
        let place = self.connections.place_of(&target.instance);
        let mut kept = place.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connections.open(target, deadline).await?,
        };
        let found = tokio::time::timeout(deadline, find_out(&mut connection, group, take)).await;
        match found {
            // What this member may not hold any more goes with the connection_id.
            Ok(Ok((owner, true))) if !take => {
                connection.close().await;
                Ok(owner)
            }
            Ok(Ok((owner, _))) => {
                *kept = Some(connection);
                Ok(owner)
            }
            Ok(Err(failure)) => Err(failure.into_probe_failure().to_string()),
            Err(_) => Err(format!("no answer within {} ms", deadline.as_millis())),
        }
    }

    async fn release(&self, instance: &InstanceKey) {
        self.connections.release(instance).await;
    }
}
