//! The adapter's two ports on the servers of a test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ham4db::adapter::mysql::{MySqlExecutor, MySqlProber, ProbeSettings};
use ham4db::app::ports::{
    Account, Clock, Credentials, CredentialsByOrigin, Executor as _, ProbeConnection, Prober as _, StepSession, Target,
    TlsMode,
};
use ham4db::domain::instance::{InstanceFacts, ProbeFailure};
use ham4db::domain::intent::Origin;
use ham4db::domain::time::{MonotonicTime, WallTime};
use secrecy::SecretString;
use tokio::sync::watch;

use crate::server::{ADMIN, PASSWORD, REPLICATION, Server};

/// Longer than anything takes here, on a busy machine too.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What a condition may take to come true.
const PATIENCE: Duration = Duration::from_mins(1);

struct SystemClock(Instant);

impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        WallTime(i64::try_from(since.as_millis()).unwrap())
    }

    fn monotonic(&self) -> MonotonicTime {
        MonotonicTime(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }
}

/// Prober and executor with the same account.
pub(crate) struct Poller {
    pub(crate) prober: MySqlProber,
    pub(crate) executor: MySqlExecutor,
    pub(crate) credentials: watch::Sender<CredentialsByOrigin>,
}

pub(crate) fn account(user: &str) -> Account {
    Account {
        user: user.to_owned(),
        password: SecretString::from(PASSWORD),
    }
}

/// Credentials of this user for all servers.
pub(crate) fn credentials(topology: Account) -> CredentialsByOrigin {
    let credentials = Credentials {
        topology,
        replication: Some(account(REPLICATION)),
        tls: TlsMode::Off,
        ca_pem: None,
    };
    Arc::new(BTreeMap::from([(Origin::Api, credentials)]))
}

pub(crate) fn target(server: &Server) -> Target {
    Target {
        instance: server.key.clone(),
        origin: Origin::Api,
    }
}

impl Poller {
    pub(crate) fn new() -> Self {
        Self::with(ProbeSettings::default())
    }

    pub(crate) fn with(settings: ProbeSettings) -> Self {
        let (sender, receiver) = watch::channel(credentials(account(ADMIN)));
        let clock = Arc::new(SystemClock(Instant::now()));
        Self {
            prober: MySqlProber::new(receiver.clone(), settings.clone(), clock),
            executor: MySqlExecutor::new(receiver, settings),
            credentials: sender,
        }
    }

    pub(crate) async fn try_facts(
        &self,
        server: &Server,
        approach: ProbeConnection,
        deadline: Duration,
    ) -> Result<Box<InstanceFacts>, ProbeFailure> {
        let observation = self.prober.probe(&target(server), approach, deadline).await;
        assert_eq!(observation.key, server.key);
        assert!(observation.ended >= observation.begun);
        observation.outcome
    }

    pub(crate) async fn facts(&self, server: &Server) -> InstanceFacts {
        let outcome = match self.try_facts(server, ProbeConnection::Kept, LONG).await {
            // The server was restarted since.
            Err(ProbeFailure::Lost(_)) => self.try_facts(server, ProbeConnection::Fresh, LONG).await,
            outcome => outcome,
        };
        *outcome.unwrap_or_else(|failure| panic!("{}: {failure}", server.key))
    }

    /// Facts once they meet a condition.
    pub(crate) async fn facts_when(
        &self,
        server: &Server,
        what: &str,
        is_met: impl Fn(&InstanceFacts) -> bool,
    ) -> InstanceFacts {
        let begun = Instant::now();
        loop {
            let facts = self.facts(server).await;
            if is_met(&facts) {
                return facts;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{}: {what}: not so after a minute: {facts:#?}",
                server.key
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn session(&self, server: &Server) -> Box<dyn StepSession> {
        self.executor
            .begin(&target(server), None, LONG)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }
}
