//! The port [`Prober`]: full probes and pulses over connections that are kept open.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use sqlx::Connection as _;
use sqlx::mysql::MySqlConnection;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};

use crate::app::ports::{Approach, Clock, Credentials, CredentialsByOrigin, Prober, Pulse, Target};
use crate::domain::instance::{InstanceFacts, Observation, ProbeFailure};
use crate::domain::key::InstanceKey;
use crate::domain::time::WallTime;

use super::connection::{self, SqlFailure, credentials_of, within};
use super::server_connection::{ProbeSettings, ServerConnection};

/// Fresh connections to one server that are tried at one moment: the watcher's own, and one for each of a few members that ask for an
/// opinion. They do not wait for each other, since each has to begin after it was asked for and end within its own deadline.
const MOST_FRESH_PER_SERVER: usize = 4;

/// Asks managed servers over sqlx.
///
/// Each server has two kept connections, one for probes and one for pulses; nothing that happens to one server makes another one
/// wait, unless more connection attempts are under way than [`ProbeSettings::most_attempts`]. A deadline counts from the moment the
/// attempt begins, which is also the `begun` of its observation: waiting for one's turn is not held against the server.
pub struct MySqlProber {
    credentials: watch::Receiver<CredentialsByOrigin>,
    settings: Arc<ProbeSettings>,
    clock: Arc<dyn Clock>,
    attempts: Semaphore,
    servers: PlainMutex<BTreeMap<InstanceKey, Arc<Server>>>,
}

/// What is kept of one server.
struct Server {
    probe: Mutex<Option<KeptConnection<ServerConnection>>>,
    pulse: Mutex<Option<KeptConnection<MySqlConnection>>>,
    /// A pulse without a connection may open one: a probe has succeeded since the last pulse failed. Pulses that dial a stopped
    /// process ten times a second would fill its accept queue, and then it would look dead instead of stopped.
    pulse_may_connect: AtomicBool,
    fresh: Semaphore,
}

/// A connection and whose account opened it.
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
            fresh: Semaphore::new(MOST_FRESH_PER_SERVER),
        }
    }
}

impl MySqlProber {
    /// A prober that takes the accounts from `credentials` at each attempt, and drops kept connections when they change.
    pub fn new(
        credentials: watch::Receiver<CredentialsByOrigin>,
        settings: ProbeSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            credentials,
            attempts: Semaphore::new(settings.most_attempts),
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

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.attempts
            .acquire()
            .await
            .expect("because the semaphore is never closed")
    }

    /// A full probe on the kept connection; with none, on one made for it.
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
            let outcome = within(&target.instance, deadline, facts(&mut connection)).await;
            if outcome.is_ok() {
                *kept = Some(KeptConnection {
                    open: connection,
                    credentials,
                });
            }
            return begun.end(target, outcome);
        }
        let (observation, connection) = self.open_and_ask(target, credentials, deadline).await;
        *kept = connection;
        observation
    }

    /// A full probe on a new connection, which replaces the kept one. A failure leaves the kept one alone: at "too many connections"
    /// it is the only way to see the server.
    async fn probe_fresh(&self, target: &Target, server: &Server, deadline: Duration) -> Observation {
        let _turn = server
            .fresh
            .acquire()
            .await
            .expect("because the semaphore is never closed");
        let credentials = credentials_of(&self.credentials, target);
        let (observation, connection) = self.open_and_ask(target, credentials, deadline).await;
        let Some(connection) = connection else {
            return observation;
        };
        // While a probe runs on the kept connection, that one is to be kept or dropped by its own outcome.
        let surplus = match server.probe.try_lock() {
            Ok(mut kept) => kept.replace(connection),
            Err(_) => Some(connection),
        };
        if let Some(surplus) = surplus {
            surplus.open.close().await;
        }
        observation
    }

    /// A full probe on a new connection, and that connection where it may be kept.
    async fn open_and_ask(
        &self,
        target: &Target,
        credentials: Result<Credentials, ProbeFailure>,
        deadline: Duration,
    ) -> (Observation, Option<KeptConnection<ServerConnection>>) {
        let _turn = self.turn().await;
        let begun = self.begin();
        let credentials = match credentials {
            Ok(credentials) => credentials,
            Err(failure) => return (begun.end(target, Err(failure)), None),
        };
        let opened = within(&target.instance, deadline, async {
            let mut connection =
                ServerConnection::open_by_any_admin_endpoint(&target.instance, &credentials, &self.settings).await?;
            let facts = facts(&mut connection).await?;
            Ok((connection, facts))
        });
        let (open, facts) = match opened.await {
            Ok(opened) => opened,
            Err(failure) => return (begun.end(target, Err(failure)), None),
        };
        let observation = begun.end(target, Ok(facts));
        if open.is_reserved() {
            // Administrators want it too, and the usual way may be free the next time.
            open.close().await;
            return (observation, None);
        }
        (observation, Some(KeptConnection { open, credentials }))
    }

    fn begin(&self) -> Begun {
        Begun {
            wall: self.clock.wall(),
            at: Instant::now(),
            clock: Arc::clone(&self.clock),
        }
    }

    async fn ping(&self, target: &Target, server: &Server) -> Result<u64, String> {
        let mut kept = server.pulse.lock().await;
        let credentials = credentials_of(&self.credentials, target).map_err(|failure| failure.to_string())?;
        let begun = Instant::now();
        let reusable = kept.take().filter(|kept| is_same(&credentials, &kept.credentials));
        let mut open = match reusable {
            Some(kept) => kept.open,
            None if server.pulse_may_connect.load(Ordering::Acquire) => {
                let _turn = self.turn().await;
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

/// An attempt under way.
struct Begun {
    wall: WallTime,
    at: Instant,
    clock: Arc<dyn Clock>,
}

impl Begun {
    fn end(self, target: &Target, outcome: Result<Box<InstanceFacts>, ProbeFailure>) -> Observation {
        Observation {
            key: target.instance.clone(),
            begun: self.wall,
            ended: self.clock.wall(),
            micros: micros_since(self.at),
            outcome,
        }
    }
}

fn micros_since(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)
}

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
    async fn probe(&self, target: &Target, approach: Approach, deadline: Duration) -> Observation {
        let server = self.server(&target.instance);
        let observation = match approach {
            Approach::Kept => self.probe_kept(target, &server, deadline).await,
            Approach::Fresh => self.probe_fresh(target, &server, deadline).await,
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

    async fn release(&self, instance: &InstanceKey) {
        self.settings.admin_endpoints.forget(instance);
        let released = self
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(instance);
        let Some(server) = released else { return };
        // One that is in use is closed by whoever uses it, when it lets go of the server.
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
