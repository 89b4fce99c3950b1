//! Opening connections, bounding what is asked on them, and sorting failures by what they prove.

use std::error::Error as StdError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::ExposeSecret as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::app::observation::dns_cache;
use crate::app::ports::{Credentials, CredentialsByOrigin, Target, TlsMode};
use crate::domain::instance::ProbeFailure;
use crate::domain::key::InstanceKey;

/// Part of a deadline after which a silent server gets a second, bare TCP connection, which tells a stopped process from dropped
/// packets. Late enough that a healthy server never sees one (each counts against `max_connect_errors`, and stays in the accept queue
/// of a stopped process), early enough to leave it most of the deadline.
const WITNESS_AFTER: u32 = 3;

/// How long that second connection may stay unanswered before the silence is taken for what it is, at least; longer deadlines leave it
/// a third of theirs. A host that is there answers it in one round trip, whatever its server does.
const WITNESS_PATIENCE: Duration = Duration::from_millis(200);

/// How long a farewell may take. A server that does not read it loses nothing: it sees the socket close.
const FAREWELL: Duration = Duration::from_millis(100);

/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

/// How something that was sent to a server failed.
#[derive(Debug)]
pub(super) enum SqlFailure {
    /// The server answered with an error; the statement had no effect and the connection can be used.
    Answered {
        /// Error number.
        number: u16,
        /// Its text.
        message: String,
    },
    /// No answer, or none that can be read: the connection must be dropped.
    Broken(ProbeFailure),
}

impl SqlFailure {
    /// What it is to a probe.
    pub(super) fn into_probe_failure(self) -> ProbeFailure {
        match self {
            Self::Answered { number, message } => answered(number, message),
            Self::Broken(failure) => failure,
        }
    }
}

impl From<sqlx::Error> for SqlFailure {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the driver's enum is open, and most of it concerns pools and binary rows"
    )]
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => match error.try_downcast::<MySqlDatabaseError>() {
                Ok(error) => {
                    let (number, message) = (error.number(), error.message().to_owned());
                    if ends_the_session(number) {
                        Self::Broken(ProbeFailure::Lost(format!("error {number}: {message}")))
                    } else {
                        Self::Answered { number, message }
                    }
                }
                Err(error) => Self::Broken(ProbeFailure::Unreadable(error.to_string())),
            },
            sqlx::Error::Io(error) => Self::Broken(from_io(&error)),
            sqlx::Error::Tls(error) => {
                let error: &(dyn StdError + 'static) = error.as_ref();
                Self::Broken(match error.downcast_ref::<io::Error>() {
                    Some(error) => from_io(error),
                    None => ProbeFailure::Unreadable(format!("TLS: {error}")),
                })
            }
            // The rest is what the driver could not make sense of.
            other => Self::Broken(ProbeFailure::Unreadable(other.to_string())),
        }
    }
}

/// Errors after which the server closes the connection: its shutdown (1053), a kill (1927 on MariaDB, 3169), an idle timeout (4031),
/// a shutdown of this connection by force (1080, 1152, 1184), and network errors as the server met them (1158 to 1161).
fn ends_the_session(number: u16) -> bool {
    matches!(number, 1053 | 1080 | 1152 | 1158..=1161 | 1184 | 1927 | 3169 | 4031)
}

/// Sorts a server's error by its number.
fn answered(number: u16, message: String) -> ProbeFailure {
    match number {
        // Too many connections; of this account (1203), or by its resource limits (1226).
        1040 | 1203 | 1226 => ProbeFailure::Saturated,
        // Account, password, database, privilege, host, expired password, authentication method, locked account (4151 on MariaDB).
        1044 | 1045 | 1129 | 1130 | 1142 | 1143 | 1227 | 1251 | 1698 | 1820 | 1862 | 3118 | 3159 | 4151 => {
            ProbeFailure::Denied(format!("error {number}: {message}"))
        }
        _ => ProbeFailure::Server { number, message },
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kinds that prove something are few; any other end of a connection is a loss"
)]
fn from_io(error: &io::Error) -> ProbeFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ProbeFailure::Refused,
        io::ErrorKind::TimedOut => ProbeFailure::NoAnswer,
        // PermissionDenied is a packet filter of this host, or one that answers "administratively prohibited".
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::PermissionDenied => ProbeFailure::Unreachable(error.to_string()),
        // What rustls says of a handshake it does not like.
        io::ErrorKind::InvalidData => ProbeFailure::Unreadable(error.to_string()),
        _ => ProbeFailure::Lost(error.to_string()),
    }
}

/// The account for a server, as it is known now.
pub(super) fn credentials_of(
    known: &watch::Receiver<CredentialsByOrigin>,
    target: &Target,
) -> Result<Credentials, ProbeFailure> {
    let missing = || ProbeFailure::NoCredentials(format!("none for the servers of {}", target.origin));
    known.borrow().get(&target.origin).cloned().ok_or_else(missing)
}

/// The addresses of an instance, at least one. Asked anew for each connection: behind a name may be another machine by now.
async fn resolve(instance: &InstanceKey) -> Result<Vec<SocketAddr>, ProbeFailure> {
    let addresses = dns_cache::addresses(&instance.hostname).await;
    let addresses = addresses.map_err(|error| ProbeFailure::Name(error.to_string()))?;
    let sockets = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, instance.port));
    Ok(sockets.take(MOST_ADDRESSES).collect())
}

/// A connection to an instance, on which nothing was sent yet, and the address that it went to, where that is known. Has no deadline of
/// its own: call it inside [`within`].
pub(super) async fn open(
    instance: &InstanceKey,
    credentials: &Credentials,
) -> Result<(MySqlConnection, Option<IpAddr>), ProbeFailure> {
    let addresses = resolve(instance).await?;
    let options = options(credentials);
    if credentials.tls == TlsMode::Verify {
        // The certificate is checked against the name, so the driver has to be given the name, and does not tell which address it took.
        let only = match addresses.as_slice() {
            [only] => Some(only.ip()),
            _ => None,
        };
        let connection = connect(&options.host(&instance.hostname).port(instance.port)).await?;
        return Ok((connection, only));
    }
    let mut outcome = Err(ProbeFailure::Name("it has no address".to_owned()));
    for address in addresses {
        let connected = connect(&options.clone().host(&address.ip().to_string()).port(address.port())).await;
        outcome = connected.map(|connection| (connection, Some(address.ip())));
        // A name may stand for an IPv6 and an IPv4 address of which the server listens on one.
        if !matches!(outcome, Err(ProbeFailure::Refused | ProbeFailure::Unreachable(_))) {
            break;
        }
    }
    outcome
}

async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, ProbeFailure> {
    options
        .connect()
        .await
        .map_err(|error| SqlFailure::from(error).into_probe_failure())
}

fn options(credentials: &Credentials) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .username(&credentials.topology.user)
        .ssl_mode(match credentials.tls {
            TlsMode::Off => MySqlSslMode::Disabled,
            TlsMode::Preferred => MySqlSslMode::Preferred,
            TlsMode::Required => MySqlSslMode::Required,
            TlsMode::Verify => MySqlSslMode::VerifyIdentity,
        })
        // By default sqlx sends a SET as soon as it is connected: a round trip, and a mode that is not ours.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false)
        // It would log CHANGE REPLICATION SOURCE with the password in it.
        .disable_statement_logging();
    let password = credentials.topology.password.expose_secret();
    if !password.is_empty() {
        options = options.password(password);
    }
    if let (TlsMode::Verify, Some(pem)) = (credentials.tls, &credentials.ca_pem) {
        options = options.ssl_ca_from_pem(pem.clone().into_bytes());
    }
    options
}

/// Runs `work` for at most `limit`. When it does not end, the silence is explained by a bare TCP connection made meanwhile: accepted
/// is [`ProbeFailure::Stalled`], unanswered is [`ProbeFailure::NoAnswer`], and a refusal or an unknown name is what it is. A host that
/// does not answer the second connection either is not waited for until the end.
///
/// Also for a connection that is open already: silence on it alone does not tell a stopped process from a dead host.
pub(super) async fn within<T>(
    instance: &InstanceKey,
    limit: Duration,
    work: impl Future<Output = Result<T, ProbeFailure>>,
) -> Result<T, ProbeFailure> {
    let begun = Instant::now();
    let is_resolved = AtomicBool::new(false);
    let witness = async {
        sleep_until(begun + limit / WITNESS_AFTER).await;
        let addresses = resolve(instance).await?;
        is_resolved.store(true, Ordering::Relaxed);
        TcpStream::connect(addresses.as_slice())
            .await
            .map(drop)
            .map_err(|error| from_io(&error))
    };
    tokio::pin!(work, witness);
    let witness_at = begun + limit / WITNESS_AFTER;
    let end = begun + limit;
    let given_up = end.min(witness_at + WITNESS_PATIENCE.max(limit / WITNESS_AFTER));
    let (mut seen, mut is_over) = (None, false);
    loop {
        tokio::select! {
            biased;
            outcome = &mut work => return outcome,
            outcome = &mut witness, if seen.is_none() => seen = Some(outcome),
            () = sleep_until(given_up), if seen.is_none() && !is_over => {
                // A resolver that is slow says nothing about the server.
                if is_resolved.load(Ordering::Relaxed) {
                    return Err(ProbeFailure::NoAnswer);
                }
                is_over = true;
            }
            () = sleep_until(end) => {
                return Err(match seen {
                    Some(Ok(())) => ProbeFailure::Stalled,
                    Some(Err(failure)) => failure,
                    None if is_resolved.load(Ordering::Relaxed) => ProbeFailure::NoAnswer,
                    None => ProbeFailure::Name("the resolver does not answer".to_owned()),
                });
            }
        }
    }
}

/// Says goodbye to a server that is in good health, so that it does not count an aborted client.
pub(super) async fn close(connection: MySqlConnection) {
    if let Ok(Err(error)) = timeout(FAREWELL, connection.close()).await {
        tracing::debug!(%error, "a connection did not close cleanly");
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use tokio::net::TcpListener;

    use super::*;
    use crate::app::ports::Account;

    fn credentials() -> Credentials {
        let topology = Account {
            user: "ham4db".to_owned(),
            password: SecretString::from("s3cret"),
        };
        Credentials {
            topology,
            replication: None,
            tls: TlsMode::Off,
            ca_pem: None,
        }
    }

    async fn failure_of(instance: &InstanceKey) -> ProbeFailure {
        let opened = within(instance, Duration::from_millis(300), open(instance, &credentials())).await;
        match opened {
            Ok(_) => panic!("nothing there speaks MySQL"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = InstanceKey::new("127.0.0.1", listener.local_addr().unwrap().port());
        drop(listener);
        assert_eq!(failure_of(&instance).await, ProbeFailure::Refused);
    }

    #[tokio::test]
    async fn a_listener_that_never_greets_is_stalled_and_one_that_hangs_up_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = InstanceKey::new("127.0.0.1", listener.local_addr().unwrap().port());
        assert_eq!(failure_of(&instance).await, ProbeFailure::Stalled);
        let hanging_up = tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        assert!(matches!(failure_of(&instance).await, ProbeFailure::Lost(_)));
        hanging_up.abort();
    }

    #[tokio::test]
    async fn a_name_without_address_is_our_own_trouble() {
        let failure = failure_of(&InstanceKey::new("no-such-host.invalid", 3306)).await;
        assert!(matches!(failure, ProbeFailure::Name(_)), "{failure:?}");
        assert!(!failure.is_about_the_server());
    }

    #[tokio::test]
    async fn silence_after_a_refusal_is_no_stall() {
        let instance = InstanceKey::new("127.0.0.1", 1);
        let outcome = within(
            &instance,
            Duration::from_millis(50),
            std::future::pending::<Result<(), ProbeFailure>>(),
        )
        .await;
        assert_eq!(outcome, Err(ProbeFailure::Refused));
    }

    #[test]
    fn errors_are_sorted_by_number() {
        let sorted = |number| answered(number, "text".to_owned());
        for number in [1040, 1203, 1226] {
            assert_eq!(sorted(number), ProbeFailure::Saturated);
        }
        for number in [1044, 1045, 1130, 1227, 1698, 4151] {
            assert!(matches!(sorted(number), ProbeFailure::Denied(_)), "{number}");
        }
        assert_eq!(
            sorted(1064),
            ProbeFailure::Server {
                number: 1064,
                message: "text".to_owned()
            }
        );
        assert!(ends_the_session(1053) && ends_the_session(1927) && !ends_the_session(1317));
    }

    #[test]
    fn what_the_kernel_says_is_sorted_by_what_it_proves() {
        let sorted = |kind| from_io(&io::Error::from(kind));
        assert_eq!(sorted(io::ErrorKind::ConnectionRefused), ProbeFailure::Refused);
        assert_eq!(sorted(io::ErrorKind::TimedOut), ProbeFailure::NoAnswer);
        assert!(matches!(
            sorted(io::ErrorKind::HostUnreachable),
            ProbeFailure::Unreachable(_)
        ));
        assert!(matches!(sorted(io::ErrorKind::ConnectionReset), ProbeFailure::Lost(_)));
        assert!(matches!(sorted(io::ErrorKind::UnexpectedEof), ProbeFailure::Lost(_)));
    }
}
