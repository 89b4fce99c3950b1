//! The port [`Prober`]: probes and pulses over connections that stay open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};

use crate::app::ports::{Clock, Credentials, CredentialsByOrigin, ProbeConnection, Prober, Pulse, Target};
use crate::domain::instance::{InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::connection::{self, SqlFailure, credentials_of, with_deadline};
use super::protocol::Connection;
use super::server_connection::{ProbeSettings, ServerConnection};

/// Limit for concurrent attempts to open a new connection to one server: that of the poller, and one for each of a few members
/// that request an opinion. They do not wait for each other, because each must begin after its request and end within its own
/// deadline.
const MAX_NEW_CONNECTIONS_PER_SERVER: usize = 4;

/// Probes MySQL and MariaDB servers.
///
/// Each server has two open connections, one for probes and one for pulses. A slow server does not delay the probes of another
/// one, unless [`ProbeSettings::max_attempts`] connection attempts are in progress. A deadline counts from the begin of the
/// attempt, which is also the `begun` of the observation: the wait for a permit does not count against the server.
pub struct MySqlProber {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
    clock: Arc<dyn Clock>,
    attempts: Semaphore,
    servers: PlainMutex<BTreeMap<InstanceKey, Arc<Server>>>,
}

/// The connections of one server.
struct Server {
    probe: Mutex<Option<KeptConnection<ServerConnection>>>,
    pulse: Mutex<Option<KeptConnection<Connection>>>,
    /// Whether a pulse without a connection may open one: a probe has succeeded since the last pulse failed. Ten connection
    /// attempts a second would fill the accept queue of a stopped process, which would then look dead instead of stopped.
    pulse_may_connect: AtomicBool,
    new_connections: Semaphore,
}

/// A connection and the account that opened it.
struct KeptConnection<T> {
    open: T,
    credentials: Credentials,
}

impl Server {
    fn new() -> Self {
        Self {
            probe: Mutex::new(None),
            pulse: Mutex::new(None),
            pulse_may_connect: AtomicBool::new(true),
            new_connections: Semaphore::new(MAX_NEW_CONNECTIONS_PER_SERVER),
        }
    }
}

impl MySqlProber {
    /// Creates a prober that takes the accounts from `credentials` at each attempt, and drops open connections when the accounts
    /// change.
    pub fn new(
        credentials: watch::Receiver<CredentialsByOrigin>,
        settings: ProbeSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            credentials,
            attempts: Semaphore::new(settings.max_attempts),
            settings: Arc::new(settings),
            clock,
            servers: PlainMutex::new(BTreeMap::new()),
        }
    }

    fn server(&self, instance: &InstanceKey) -> Arc<Server> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            servers
                .entry(instance.clone())
                .or_insert_with(|| Arc::new(Server::new())),
        )
    }

    async fn attempt_permit(&self) -> SemaphorePermit<'_> {
        self.attempts
            .acquire()
            .await
            .expect("because the semaphore is never closed")
    }

    /// Probes on the open connection, or on a new one when there is none.
    async fn probe_kept(&self, target: &Target, server: &Server, deadline: Duration) -> Observation {
        let mut kept = server.probe.lock().await;
        let credentials = credentials_of(&self.credentials, target);
        let reusable = kept
            .take()
            .filter(|kept| credentials.as_ref().is_ok_and(|now| is_same(now, &kept.credentials)));
        if let Some(KeptConnection {
            open: mut connection,
            credentials,
        }) = reusable
        {
            let begun = self.begin();
            let outcome = with_deadline(&target.instance, deadline, facts(&mut connection)).await;
            if outcome.is_ok() {
                *kept = Some(KeptConnection {
                    open: connection,
                    credentials,
                });
            }
            return begun.end(target, outcome);
        }
        let (observation, connection) = self.open_and_probe(target, credentials, deadline).await;
        *kept = connection;
        observation
    }

    /// Probes on a new connection, which then replaces the open one. After a failure the open one stays: at "too many
    /// connections" it is the only way to observe the server.
    async fn probe_fresh(&self, target: &Target, server: &Server, deadline: Duration) -> Observation {
        let _permit = server
            .new_connections
            .acquire()
            .await
            .expect("because the semaphore is never closed");
        let credentials = credentials_of(&self.credentials, target);
        let (observation, connection) = self.open_and_probe(target, credentials, deadline).await;
        let Some(connection) = connection else {
            return observation;
        };
        // While a probe runs on the open connection, the outcome of that probe decides whether it stays open.
        let surplus = match server.probe.try_lock() {
            Ok(mut kept) => kept.replace(connection),
            Err(_) => Some(connection),
        };
        if let Some(surplus) = surplus {
            surplus.open.close().await;
        }
        observation
    }

    /// Probes on a new connection. Returns the connection too, when it may stay open.
    async fn open_and_probe(
        &self,
        target: &Target,
        credentials: Result<Credentials, ProbeFailure>,
        deadline: Duration,
    ) -> (Observation, Option<KeptConnection<ServerConnection>>) {
        let _permit = self.attempt_permit().await;
        let begun = self.begin();
        let credentials = match credentials {
            Ok(credentials) => credentials,
            Err(failure) => return (begun.end(target, Err(failure)), None),
        };
        let opened = with_deadline(&target.instance, deadline, async {
            let mut connection =
                ServerConnection::open_or_use_admin_endpoint(&target.instance, &credentials, &self.settings).await?;
            let facts = facts(&mut connection).await?;
            Ok((connection, facts))
        });
        let (open, facts) = match opened.await {
            Ok(opened) => opened,
            Err(failure) => return (begun.end(target, Err(failure)), None),
        };
        let observation = begun.end(target, Ok(facts));
        if open.is_on_admin_endpoint() {
            // Administrators need the admin endpoint too, and the normal port may accept connections the next time.
            open.close().await;
            return (observation, None);
        }
        (observation, Some(KeptConnection { open, credentials }))
    }

    fn begin(&self) -> ProbeAttempt {
        ProbeAttempt {
            wall: self.clock.wall(),
            begun: Instant::now(),
            clock: Arc::clone(&self.clock),
        }
    }

    /// Pings on the pulse connection. Returns the round-trip time in microseconds.
    async fn ping(&self, target: &Target, server: &Server) -> Result<u64, String> {
        let mut kept = server.pulse.lock().await;
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let begun = Instant::now();
        let reusable = kept.take().filter(|kept| is_same(&credentials, &kept.credentials));
        let mut open = match reusable {
            Some(kept) => kept.open,
            None if server.pulse_may_connect.load(Ordering::Acquire) => {
                let _permit = self.attempt_permit().await;
                connection::open(&target.instance, &credentials)
                    .await
                    .map_err(|failure| failure.to_string())?
                    .0
            }
            None => return Err("no open connection".to_owned()),
        };
        open.ping()
            .await
            .map_err(|error| SqlFailure::from(error).into_probe_failure().to_string())?;
        *kept = Some(KeptConnection { open, credentials });
        Ok(micros_since(begun))
    }
}

/// A probe in progress.
struct ProbeAttempt {
    wall: WallTime,
    begun: Instant,
    clock: Arc<dyn Clock>,
}

impl ProbeAttempt {
    fn end(self, target: &Target, outcome: Result<Box<InstanceFacts>, ProbeFailure>) -> Observation {
        Observation {
            key: target.instance.clone(),
            begun: self.wall,
            ended: self.clock.wall(),
            micros: micros_since(self.begun),
            outcome,
        }
    }
}

fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Reads the facts on an open connection.
async fn facts(connection: &mut ServerConnection) -> Result<Box<InstanceFacts>, ProbeFailure> {
    connection
        .facts()
        .await
        .map(Box::new)
        .map_err(SqlFailure::into_probe_failure)
}

fn is_same(one: &Credentials, other: &Credentials) -> bool {
    one.topology.user == other.topology.user
        && one.topology.password.expose_secret() == other.topology.password.expose_secret()
        && one.tls == other.tls
        && one.ca_pem == other.ca_pem
}

#[async_trait]
impl Prober for MySqlProber {
    async fn probe(&self, target: &Target, connection: ProbeConnection, deadline: Duration) -> Observation {
        let server = self.server(&target.instance);
        let observation = match connection {
            ProbeConnection::Kept => self.probe_kept(target, &server, deadline).await,
            ProbeConnection::Fresh => self.probe_fresh(target, &server, deadline).await,
        };
        if observation.outcome.as_ref().is_ok_and(|facts| !facts.by_admin_endpoint) {
            server.pulse_may_connect.store(true, Ordering::Release);
        }
        observation
    }

    async fn pulse(&self, target: &Target, deadline: Duration) -> Pulse {
        let server = self.server(&target.instance);
        let doubt = match timeout(deadline, self.ping(target, &server)).await {
            Ok(Ok(micros)) => return Pulse::Alive(micros),
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {} ms", deadline.as_millis()),
        };
        server.pulse_may_connect.store(false, Ordering::Release);
        Pulse::Doubt(doubt)
    }

    async fn disconnected(&self, instance: &InstanceKey) {
        let server = self.server(instance);
        let mut kept = server.pulse.lock().await;
        match kept.as_mut() {
            Some(connection) => connection.open.ended().await,
            None => std::future::pending().await,
        }
        *kept = None;
        // A probe has to say first what became of the server.
        server.pulse_may_connect.store(false, Ordering::Release);
    }

    async fn release(&self, instance: &InstanceKey) {
        self.settings.admin_endpoints.forget(instance);
        let released = self
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(instance);
        let Some(server) = released else { return };
        // The task that uses a connection drops it together with its reference to the server.
        let connection = server.probe.try_lock().ok().and_then(|mut kept| kept.take());
        let pulse = server.pulse.try_lock().ok().and_then(|mut kept| kept.take());
        if let Some(kept) = connection {
            kept.open.close().await;
        }
        if let Some(kept) = pulse {
            connection::close(kept.open).await;
        }
    }
}
