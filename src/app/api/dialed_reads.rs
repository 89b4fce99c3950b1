//! Reads that connect to managed servers and that anybody may request: few at a time, so that they cannot hold back a probe or an opinion.
//!
//! A probe of a suspect opens a new connection, and only a few are opened to one server at a time. Reads that may be requested without a
//! token therefore use at most one of them.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::key::InstanceKey;

use super::ApiError;

/// How many such reads run at a time.
const MAX_READS: usize = 4;
/// How long one may take, with everything that it waits for.
const DEADLINE: Duration = Duration::from_secs(30);

/// The reads that run now. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DialedReads(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    reads: usize,
    servers: BTreeSet<InstanceKey>,
}

impl DialedReads {
    /// Begins a read of a server; it ends when the result is dropped.
    ///
    /// # Errors
    /// [`ApiError::Busy`] when another read of this server runs, or too many of others.
    pub fn begin(&self, server: &InstanceKey) -> Result<DialedRead, ApiError> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.reads >= MAX_READS {
            return Err(ApiError::Busy(format!(
                "{MAX_READS} requests that read from servers are running; repeat this one later"
            )));
        }
        if !running.servers.insert(server.clone()) {
            return Err(busy(server));
        }
        running.reads += 1;
        Ok(DialedRead {
            all: self.clone(),
            servers: vec![server.clone()],
        })
    }
}

fn busy(server: &InstanceKey) -> ApiError {
    ApiError::Busy(format!(
        "another request reads from {server}; repeat this one when it has ended"
    ))
}

/// A read that runs.
#[derive(Debug)]
pub struct DialedRead {
    all: DialedReads,
    servers: Vec<InstanceKey>,
}

impl DialedRead {
    /// Reads from another server, too.
    ///
    /// # Errors
    /// [`ApiError::Busy`] when another read of this server runs.
    pub fn also(&mut self, server: &InstanceKey) -> Result<(), ApiError> {
        if self.servers.contains(server) {
            return Ok(());
        }
        let mut running = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !running.servers.insert(server.clone()) {
            return Err(busy(server));
        }
        self.servers.push(server.clone());
        Ok(())
    }
}

impl Drop for DialedRead {
    fn drop(&mut self) {
        let mut running = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.reads = running.reads.saturating_sub(1);
        for server in &self.servers {
            running.servers.remove(server);
        }
    }
}

/// Ends a read after the deadline of 30 s.
///
/// # Errors
/// That of the read, or [`ApiError::Unavailable`] after the deadline.
pub async fn within_deadline<T>(
    server: &InstanceKey,
    read: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::time::timeout(DEADLINE, read).await.unwrap_or_else(|_| {
        Err(ApiError::Unavailable(format!(
            "{server} was not read within {} s",
            DEADLINE.as_secs()
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(n: u16) -> InstanceKey {
        InstanceKey::new("db", n)
    }

    #[test]
    fn reads_that_anybody_may_request_use_one_connection_to_a_server() {
        let reads = DialedReads::default();
        let mut first = reads.begin(&server(1)).unwrap();
        assert!(matches!(reads.begin(&server(1)), Err(ApiError::Busy(_))));
        // The primary, with which a replica is compared.
        first.also(&server(9)).unwrap();
        first.also(&server(1)).unwrap();
        let mut second = reads.begin(&server(2)).unwrap();
        assert!(matches!(second.also(&server(9)), Err(ApiError::Busy(_))));
        drop(first);
        second.also(&server(9)).unwrap();
        drop(second);
        assert!(reads.begin(&server(9)).is_ok());
    }

    #[test]
    fn reads_that_anybody_may_request_are_few_in_all() {
        let reads = DialedReads::default();
        let running: Vec<_> = (0..4).map(|n| reads.begin(&server(n)).unwrap()).collect();
        let error = reads.begin(&server(4)).unwrap_err();
        assert_eq!(
            error,
            ApiError::Busy("4 requests that read from servers are running; repeat this one later".to_owned())
        );
        drop(running);
        assert!(reads.begin(&server(4)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn read_of_a_server_that_never_answers_ends() {
        let never = std::future::pending::<Result<(), ApiError>>();
        let ended = within_deadline(&server(1), never).await;
        assert!(matches!(ended, Err(ApiError::Unavailable(_))), "{ended:?}");
    }
}
