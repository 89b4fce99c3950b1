//! The port [`ControllerLockClient`]: one connection to each primary, which holds the lock `ham4db.owner` or reads its holder.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::app::ports::{ControllerLockClient, CredentialsByOrigin, LockHolder, Target};
use crate::domain::key::InstanceKey;

use super::connection::SqlFailure;
use super::connection_cache::ConnectionCache;
use super::queries;
use super::server_connection::ServerConnection;
use super::text_row::TextRow;

/// `wait_timeout` in seconds: after this time a member that is cut off or stopped loses the lock. The session is used every
/// second. The value is less than the time for which an unknown holder must be seen before it is reported.
const SESSION_SETTINGS: &str = "SET SESSION wait_timeout = 4";

/// Holds the controller locks of primaries, or reads their holders.
pub struct MySqlControllerLockClient {
    connections: ConnectionCache,
}

impl MySqlControllerLockClient {
    /// Creates a client that takes the accounts from `credentials` whenever it opens a connection.
    pub fn new(credentials: watch::Receiver<CredentialsByOrigin>) -> Self {
        Self {
            connections: ConnectionCache::new(credentials, Some(SESSION_SETTINGS)),
        }
    }
}

/// The ids of the connections that hold the locks.
struct LockConnections {
    /// The holder of the lock that all groups use.
    owner: Option<u64>,
    /// The holder of the lock of this group.
    group_holder: Option<u64>,
    /// This connection.
    own: u64,
}

async fn read_lock_connections(connection: &mut ServerConnection, group: &str) -> Result<LockConnections, SqlFailure> {
    let statement = connection.dialect().select_owner(group);
    let rows = connection.rows(&statement).await?;
    let Some(row) = rows.first() else {
        return Ok(LockConnections {
            owner: None,
            group_holder: None,
            own: 0,
        });
    };
    Ok(LockConnections {
        owner: row.optional_number(&["owner"])?,
        group_holder: row.optional_number(&["ours"])?,
        own: row.number(&["me"])?,
    })
}

/// Reads the holder of the lock, and with `take` takes a free lock. Returns the holder, and whether this connection holds a lock.
async fn read_or_take_lock(
    connection: &mut ServerConnection,
    group: &str,
    take: bool,
) -> Result<(LockHolder, bool), SqlFailure> {
    let mut locks = read_lock_connections(connection, group).await?;
    if take && locks.owner.is_none() {
        let statement = connection.dialect().acquire_ownership(group);
        connection.rows(&statement).await?;
        locks = read_lock_connections(connection, group).await?;
    }
    let holds_any = [locks.owner, locks.group_holder].contains(&Some(locks.own));
    let owner = match locks.owner {
        None => LockHolder::None,
        Some(owner) if locks.group_holder == Some(owner) => LockHolder::ThisGroup,
        Some(owner) => LockHolder::Another(describe_holder(connection, owner).await?),
    };
    Ok((owner, holds_any))
}

/// The account and host of the holder's connection, where they are visible.
async fn describe_holder(connection: &mut ServerConnection, connection_id: u64) -> Result<String, SqlFailure> {
    let statement = connection.dialect().select_connection(connection_id);
    let statement = queries::processlist_statement(statement, connection.server_info().has_performance_schema());
    let row = match connection.rows(&statement).await {
        Ok(rows) => rows.into_iter().next(),
        Err(SqlFailure::ServerError { .. }) => None,
        Err(broken @ SqlFailure::Broken(_)) => return Err(broken),
    };
    let account_at_host = |row: &TextRow| {
        // The port changes with each connection, so it is left out.
        let host = row.text_or_empty(&["HOST", "Host"]);
        let host = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned();
        format!("{}@{host}", row.text_or_empty(&["USER", "User"]))
    };
    Ok(row
        .as_ref()
        .map_or_else(|| String::from("an unknown account"), account_at_host))
}

#[async_trait]
impl ControllerLockClient for MySqlControllerLockClient {
    async fn holder(&self, target: &Target, group: &str, take: bool, deadline: Duration) -> Result<LockHolder, String> {
        let slot = self.connections.slot_of(&target.instance);
        let mut kept = slot.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connections.open(target, deadline).await?,
        };
        let found = tokio::time::timeout(deadline, read_or_take_lock(&mut connection, group, take)).await;
        match found {
            // This member must not hold a lock any more. Closing the connection releases it.
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
